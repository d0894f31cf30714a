"""Losses."""

from seglib.losses.pixel import cross_entropy

__all__ = ["cross_entropy"]
