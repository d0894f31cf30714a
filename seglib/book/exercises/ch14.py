"""The pieces and exercises of chapter 14, "Panoptic FPN".

The first six are the pieces that the reader writes in "From scratch"; the others stand in "Exercises".
"""

from seglib.book.exercise import Exercise
from seglib.book.exercises import ch14_head as head
from seglib.book.exercises import ch14_merge as merge

EXERCISES: dict[str, Exercise] = {
    "ch14.labels": head.LABELS,
    "ch14.branch": head.BRANCH,
    "ch14.head": head.HEAD,
    "ch14.loss": head.LOSS,
    "ch14.paste": merge.PASTE,
    "ch14.fill": merge.FILL,
    "ch14.survivors": merge.SURVIVORS,
    "ch14.second": head.SECOND,
    "ch14.bug": merge.BUG,
    "ch14.thresholds": merge.THRESHOLDS,
    "ch14.inventory": merge.INVENTORY,
}
