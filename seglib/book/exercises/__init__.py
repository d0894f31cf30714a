"""The exercises of every chapter. A chapter adds its module ``chNN`` with a dict ``EXERCISES`` and its line here."""

from seglib.book.exercise import Exercise
from seglib.book.exercises import (
    ch01,
    ch02,
    ch03,
    ch04,
    ch05,
    ch06,
    ch07,
    ch08,
    ch09,
    ch10,
    ch11,
    ch12,
    ch13,
    ch14,
    ch15,
    ch16,
    ch17,
    ch18,
    ch19,
)

CHECKS: dict[str, Exercise] = {
    **ch01.EXERCISES,
    **ch02.EXERCISES,
    **ch03.EXERCISES,
    **ch04.EXERCISES,
    **ch05.EXERCISES,
    **ch06.EXERCISES,
    **ch07.EXERCISES,
    **ch08.EXERCISES,
    **ch09.EXERCISES,
    **ch10.EXERCISES,
    **ch11.EXERCISES,
    **ch12.EXERCISES,
    **ch13.EXERCISES,
    **ch14.EXERCISES,
    **ch15.EXERCISES,
    **ch16.EXERCISES,
    **ch17.EXERCISES,
    **ch18.EXERCISES,
    **ch19.EXERCISES,
}
"""Name of an exercise, such as ``"ch02.dice"``, → the exercise."""
