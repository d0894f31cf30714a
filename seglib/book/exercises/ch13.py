"""The pieces and exercises of chapter 13, "Panoptic quality".

The first six are the pieces that the reader writes in "From scratch"; the others stand in "Exercises".
"""

from seglib.book.exercise import Exercise
from seglib.book.exercises import ch13_format, ch13_matching, ch13_scores
from seglib.book.exercises.ch13_scores import RIVER as RIVER  # the page shows it

EXERCISES: dict[str, Exercise] = {
    "ch13.index": ch13_format.INDEX,
    "ch13.table": ch13_matching.TABLE,
    "ch13.iou": ch13_matching.IOU,
    "ch13.match": ch13_matching.MATCH,
    "ch13.ignored": ch13_matching.IGNORED,
    "ch13.pq": ch13_scores.PQ,
    "ch13.ledger": ch13_scores.LEDGER,
    "ch13.cityscapes": ch13_format.CITYSCAPES,
    "ch13.agnostic": ch13_scores.AGNOSTIC,
    "ch13.break": ch13_scores.BREAK,
}
