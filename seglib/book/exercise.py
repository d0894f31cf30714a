"""What an exercise is, and how an attempt at it is judged.

An exercise holds the right answer, the inputs that tell right from wrong, and the mistakes that readers make: each a
wrong answer with the hint that it deserves. An attempt that behaves like a known mistake on every input gets that hint;
any other wrong attempt learns for which input it differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor


class Hint(Exception):
    """Raised by ``expect`` and ``compare``: the attempt is wrong, and the message says how."""


def expect(condition: bool | Tensor, hint: str) -> None:
    """Rejects the attempt with ``hint`` unless the condition holds."""
    if not condition:
        raise Hint(hint)


def compare(got: Any, want: Any, hint: str, *, tolerance: float = 1e-5) -> None:
    """Rejects the attempt with ``hint`` unless ``got`` equals ``want`` (see ``difference``)."""
    expect(difference(got, want, tolerance=tolerance) is None, hint)


@dataclass(frozen=True)
class Exercise:
    """One exercise: its right answer, its inputs and its known mistakes.

    Attributes:
        solution: a right answer, best a function of seglib itself; a plain value for an exercise that asks for a
            prediction.
        wrong: known mistakes: name → (a wrong answer that makes the mistake, its hint).
        probes: function without arguments that returns the inputs: name of the case → arguments. It is called afresh
            for every run, so an attempt may change its inputs. ``None``: the attempt is compared as a value.
        run: function that puts an attempt to work, ``run(attempt, *arguments)``; by default the attempt is called.
        verify: further demands on the attempt, made with ``expect`` and ``compare`` before its answers are compared.
        hint: hint given when no known mistake fits.
        tolerance: largest absolute and relative error of a number.
        compared: whether the answers are compared at all; ``False`` leaves everything to ``verify``, for exercises
            with many right answers.
    """

    solution: Any
    wrong: Mapping[str, tuple[Any, str]]
    probes: Callable[[], Mapping[str, tuple[Any, ...]]] | None = None
    run: Callable[..., Any] = field(default=lambda attempt, *arguments: attempt(*arguments))
    verify: Callable[[Any], None] | None = None
    hint: str = ""
    tolerance: float = 1e-5
    compared: bool = True

    def answers(self, attempt: Any) -> dict[str, Any]:
        """What an attempt answers to every probe (a value answers to itself)."""
        if self.probes is None:
            return {"": attempt}
        return {case: self.run(attempt, *arguments) for case, arguments in self.probes().items()}

    def same(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Whether two sets of answers agree on every probe."""
        return all(difference(one[case], other[case], tolerance=self.tolerance) is None for case in one)

    def judge(self, attempt: Any) -> None:
        """Returns when the attempt is right.

        Raises:
            Hint: when it is wrong.
            NotImplementedError: when it is still the stub.
            Exception: whatever the attempt raises.
        """
        parts = attempt if isinstance(attempt, tuple | list) else (attempt,)
        if attempt is None or any(part is ... for part in parts):
            raise NotImplementedError
        if self.probes is not None and not callable(attempt):
            raise Hint(f"A function or class is wanted here, not {describe(attempt)}.")
        if self.probes is None and callable(attempt) and not callable(self.solution):
            raise Hint("A value is wanted here, not a function: call it and pass the result.")
        got = self.answers(attempt) if self.compared else {}
        if self.verify is not None:
            self.verify(attempt)
        want = self.answers(self.solution) if self.compared else {}
        if self.same(got, want):
            return
        for mistaken, hint in self.wrong.values():
            if self.same(got, self.answers(mistaken)):
                raise Hint(hint)
        # A prediction's answer stays secret; a function may see the first case that it gets wrong.
        secret = self.probes is None
        for case in got:
            if found := difference(got[case], want[case], tolerance=self.tolerance, reveal=not secret):
                said = f"{found[0].upper()}{found[1:]}."
                raise Hint(self.hint or said if secret else f"For {case}, {found}. {self.hint}".strip())


def describe(value: Any) -> str:
    """A few words on a value: the value itself if it is short, else its type or shape."""
    if isinstance(value, Tensor | np.ndarray):
        if math.prod(value.shape) == 1:
            return describe(value.item())
        return f"{'a tensor' if isinstance(value, Tensor) else 'an array'} of shape {tuple(value.shape)}"
    if isinstance(value, float):
        return f"{value:.5g}"
    text = repr(value)
    return text if len(text) <= 40 and "\n" not in text else f"a {type(value).__name__}"


def _array(value: Any) -> np.ndarray | None:
    """Numbers as an array; ``None`` for what is not numbers."""
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except ValueError:  # ragged nested lists
        return None
    return array if array.dtype.kind in "biuf" else None


def difference(got: Any, want: Any, *, tolerance: float = 1e-5, reveal: bool = True) -> str | None:
    """How ``got`` differs from ``want``, as the middle of a sentence, or ``None`` when they are equal.

    Numbers are compared within ``tolerance``, absolute and relative, whatever type carries them (NaN equals NaN);
    text without regard to case; lists, tuples and dicts item by item.

    Args:
        got: the attempt's answer.
        want: the right answer.
        tolerance: largest absolute and relative error.
        reveal: whether to name the right value of the first wrong number.
    """
    if isinstance(want, str):
        same = isinstance(got, str) and got.strip().casefold() == want.strip().casefold()
        return None if same else f"your answer is {describe(got)}" + (f" where {want!r} is right" if reveal else "")
    if isinstance(want, Mapping):
        if not isinstance(got, Mapping):
            return f"your answer is {describe(got)} where a dict is wanted"
        if set(got) != set(want):
            return f"your dict has the keys {sorted(map(str, got))}" + (
                f" where {sorted(map(str, want))} are right" if reveal else ""
            )
        return next((d for k in want if (d := difference(got[k], want[k], tolerance=tolerance, reveal=reveal))), None)
    target = _array(want)
    if target is None or isinstance(want, tuple | list):
        if isinstance(want, tuple | list) and not isinstance(got, Tensor | np.ndarray):
            if not isinstance(got, tuple | list):
                return f"your answer is {describe(got)} where {len(want)} items are wanted"
            if len(got) != len(want):
                return f"your answer has {len(got)} items where {len(want)} are wanted"
            pairs = zip(got, want, strict=True)
            return next((d for g, w in pairs if (d := difference(g, w, tolerance=tolerance, reveal=reveal))), None)
        if target is None:
            return None if got == want else f"your answer is {describe(got)}"
    array = _array(got) if not isinstance(got, str) else None
    if array is None:
        return f"your answer is {describe(got)} where {'a number' if target.ndim == 0 else 'a tensor'} is wanted"
    if target.ndim == 0 and array.size == 1:
        array = array.reshape(())
    if array.shape != target.shape:
        wanted = "a single number" if target.ndim == 0 else f"shape {target.shape}"
        return f"your answer has shape {array.shape} where {wanted} is wanted"
    a, b = array.astype(np.float64), target.astype(np.float64)
    wrong = ~np.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
    if not wrong.any():
        return None
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    place = f"your answer at {list(at)}" if at else "your answer"
    right = f" where {describe(target[at].item())} is right" if reveal else ""
    return f"{place} is {describe(array[at].item())}{right}"
