"""The pieces and exercises of chapter 17, "Volumes".

The first six are the pieces that the reader writes in "From scratch"; the others stand in "Exercises".
"""

from seglib.book.exercise import Exercise
from seglib.book.exercises import ch17_patches as patches
from seglib.book.exercises import ch17_scores as scores
from seglib.book.exercises import ch17_space as space

EXERCISES: dict[str, Exercise] = {
    "ch17.affine": space.AFFINE,
    "ch17.distances": space.DISTANCES,
    "ch17.scores": space.SCORES,
    "ch17.patch": patches.PATCH,
    "ch17.loss": patches.LOSS,
    "ch17.slide": patches.SLIDE,
    "ch17.costs": patches.COSTS,
    "ch17.empty": scores.EMPTY,
    "ch17.lesions": scores.LESIONS,
    "ch17.flips": patches.FLIPS,
    "ch17.disagree": scores.DISAGREE,
    "ch17.window": scores.WINDOW,
}
