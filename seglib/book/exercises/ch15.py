"""The pieces and exercises of chapter 15, "Queries".

The first six are the pieces that the reader writes in "From scratch"; the others stand in "Exercises".
"""

from seglib.book.exercise import Exercise
from seglib.book.exercises import ch15_attention as attention
from seglib.book.exercises import ch15_masks as masks
from seglib.book.exercises import ch15_matching as matching

EXERCISES: dict[str, Exercise] = {
    "ch15.attend": attention.ATTEND,
    "ch15.heads": attention.HEADS,
    "ch15.masks": masks.MASKS,
    "ch15.cost": matching.COST,
    "ch15.match": matching.MATCH,
    "ch15.loss": matching.LOSS,
    "ch15.assign": matching.ASSIGN,
    "ch15.semantic": masks.SEMANTIC,
    "ch15.void": masks.VOID_LOSSES,
    "ch15.bug": attention.BUG,
    "ch15.greedy": matching.GREEDY,
    "ch15.answers": masks.ANSWERS,
}
