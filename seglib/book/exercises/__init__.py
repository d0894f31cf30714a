"""The exercises of every chapter. A chapter adds its module ``chNN`` with a dict ``EXERCISES`` and its line here."""

from seglib.book.exercise import Exercise

CHECKS: dict[str, Exercise] = {}
"""Name of an exercise, such as ``"ch02.dice"``, → the exercise."""
