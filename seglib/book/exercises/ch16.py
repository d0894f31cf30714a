"""The pieces and exercises of chapter 16, "Mask2Former".

The first six are the pieces that the reader writes in "From scratch"; the others stand in "Exercises".
"""

from seglib.book.exercise import Exercise
from seglib.book.exercises import ch16_answers as answers
from seglib.book.exercises import ch16_attention as attention
from seglib.book.exercises import ch16_points as points

EXERCISES: dict[str, Exercise] = {
    "ch16.mask": attention.MASK,
    "ch16.attend": attention.ATTEND,
    "ch16.layer": attention.LAYER,
    "ch16.sample": points.SAMPLE,
    "ch16.choose": points.CHOOSE,
    "ch16.panoptic": answers.PANOPTIC,
    "ch16.depth": attention.DEPTH,
    "ch16.semantic": answers.SEMANTIC,
    "ch16.instances": answers.INSTANCES,
    "ch16.bug": points.LOSS,
    "ch16.agreement": attention.AGREEMENT,
    "ch16.hide": answers.HIDE,
}
