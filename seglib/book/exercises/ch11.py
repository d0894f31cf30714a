"""The pieces and exercises of chapter 11, "YOLACT".

The first five are the pieces that the reader writes in "From scratch"; the others stand in "Exercises".
"""

from seglib.book.exercise import Exercise
from seglib.book.exercises import ch11_detections as detections
from seglib.book.exercises import ch11_masks as masks

EXERCISES: dict[str, Exercise] = {
    "ch11.assemble": masks.ASSEMBLE,
    "ch11.crop": masks.CROP,
    "ch11.mask_loss": masks.MASK_LOSS,
    "ch11.negatives": detections.NEGATIVES,
    "ch11.fast_nms": detections.FAST_NMS,
    "ch11.survivors": detections.SURVIVORS,
    "ch11.finish": masks.FINISH,
    "ch11.forced": detections.FORCED,
    "ch11.bug": detections.BUG,
    "ch11.coefficients": masks.COEFFICIENTS,
}
