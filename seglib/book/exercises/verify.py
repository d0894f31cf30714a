"""What several exercises demand of an attempt besides its values (see ``Exercise.verify``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from seglib.book.exercise import cloned, difference, expect, own, tensors_in


def all_of(*demands: Callable[[Any], None]) -> Callable[[Any], None]:
    """One ``verify`` of several, in turn."""

    def verify(attempt: Any) -> None:
        for demand in demands:
            demand(attempt)

    return verify


def trains_all(
    solution: Callable[..., Any], probes: Callable[[], Mapping[str, tuple[Any, ...]]], hints: Sequence[str]
) -> Callable[[Callable[..., Any]], None]:
    """A ``verify`` for functions that are trained through: rejects right values whose gradients aren't the solution's.

    A gradient that misses an argument trains nothing; one that reaches it on some ways alone trains something else.

    An answer without any gradient passes, such as one in NumPy: later cells replace it where a gradient is needed.

    Args:
        solution: the exercise's solution.
        probes: the exercise's probes, of which the first is used.
        hints: what to say when the gradient of the first argument is missing or incomplete, that of the second, and so
            on. These arguments are tensors of floats or lists of them.
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
        expect(all(part.requires_grad for part in parts), hints[0])
        wanted = tensors_in(solution(*map(cloned, arguments)))
        totals = [torch.stack([out.square().sum() for out in outs]).sum() for outs in (parts, wanted)]
        for inputs, hint in zip(leaves, hints, strict=True):
            found, right = (
                torch.autograd.grad(total, inputs, retain_graph=True, allow_unused=True) for total in totals
            )
            expect(all(_alike(g, r) for g, r in zip(found, right, strict=True)), hint)

    return verify


def keeps_float64(
    solution: Callable[..., Any],
    probes: Callable[[], Mapping[str, tuple[Any, ...]]],
    hint: str,
    doubled: Callable[[], tuple[Any, ...]] | None = None,
) -> Callable[[Callable[..., Any]], None]:
    """A ``verify`` for functions that a later cell compares in float64: rejects right values that lose digits there.

    Args:
        solution: the exercise's solution.
        probes: the exercise's probes, of which the first is used.
        hint: what to say when the answer in float64 is that of float32, or when the code raises there.
        doubled: the first probe's arguments in float64; by default its tensors of floats are converted.
    """

    def verify(attempt: Callable[..., Any]) -> None:
        cases = list(probes().values())
        for arguments in cases:
            if difference(attempt(*map(own, arguments)), solution(*map(own, arguments)), tolerance=1e-4) is not None:
                return  # it's wrong, which is said first
        exact = doubled() if doubled else tuple(map(_in_float64, cases[0]))
        try:
            answer = attempt(*map(own, exact))
        except Exception:
            expect(False, hint)
        expect(difference(answer, solution(*map(own, exact)), tolerance=1e-9) is None, hint)

    return verify


def _in_float64(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _alike(gradient: torch.Tensor | None, right: torch.Tensor | None) -> bool:
    """Whether a gradient is there and is the right one, up to what another order of float32 sums may change."""
    if gradient is None or right is None:
        return gradient is right
    return bool((gradient - right).abs().max() <= 1e-3 * right.abs().max() + 1e-6)
