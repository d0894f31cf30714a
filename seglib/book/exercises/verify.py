"""What several exercises demand of an attempt besides its values (see ``Exercise.verify``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from seglib.book.exercise import cloned, difference, expect, own, tensors_in


def trains_all(
    solution: Callable[..., Any], probes: Callable[[], Mapping[str, tuple[Any, ...]]], hints: Sequence[str]
) -> Callable[[Callable[..., Any]], None]:
    """A ``verify`` for functions that are trained through: rejects right values whose gradient misses an argument.

    An answer without any gradient passes, such as one in NumPy: later cells replace it where a gradient is needed.

    Args:
        solution: the exercise's solution.
        probes: the exercise's probes, of which the first is used.
        hints: what to say when no gradient reaches the first argument, the second, and so on. These arguments are
            tensors of floats or lists of them.
    """

    def verify(attempt: Callable[..., Any]) -> None:
        arguments = own(next(iter(probes().values())))
        if difference(attempt(*map(own, arguments)), solution(*map(own, arguments))) is not None:
            return  # it's wrong, which is said first
        leaves = [[t.requires_grad_() for t in tensors_in(a)] for a in arguments[: len(hints)]]
        try:
            answer = attempt(*map(cloned, arguments))  # clones, which may be changed in place
        except Exception:  # it has no gradient to give: NumPy raises here
            return
        parts = tensors_in(answer)
        if not any(part.requires_grad for part in parts):
            return
        for inputs, hint in zip(leaves, hints, strict=True):
            for part in parts:
                expect(part.requires_grad, hint)
                gradients = torch.autograd.grad(part.sum(), inputs, retain_graph=True, allow_unused=True)
                expect(all(g is not None for g in gradients), hint)

    return verify
