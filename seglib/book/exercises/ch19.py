"""The pieces and exercises of chapter 19, "SAM".

The first six are the pieces that the reader writes in "From scratch"; the others stand in "Exercises".
"""

from seglib.book.exercise import Exercise
from seglib.book.exercises import ch19_decoder as decoder
from seglib.book.exercises import ch19_everything as everything
from seglib.book.exercises import ch19_prompts as prompts
from seglib.book.exercises import ch19_scores as scores
from seglib.book.exercises import ch19_training as training

EXERCISES: dict[str, Exercise] = {
    "ch19.positions": prompts.POSITIONS,
    "ch19.tokens": prompts.TOKENS,
    "ch19.two_way": decoder.TWO_WAY,
    "ch19.masks": decoder.MASKS,
    "ch19.best": training.BEST,
    "ch19.click": training.CLICK,
    "ch19.predict": scores.PREDICT,
    "ch19.stability": everything.STABILITY,
    "ch19.noc": scores.SCORES,
    "ch19.frame": prompts.FRAME,
    "ch19.three": scores.THREE,
    "ch19.paint": everything.PAINT,
}
