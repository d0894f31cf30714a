"""What an exercise is, and how an attempt at it is judged.

An exercise holds the right answer, the inputs that tell right from wrong, and the mistakes that readers make: each a
wrong answer with the hint that it deserves. An attempt that behaves like a known mistake on every input gets that hint;
any other wrong attempt learns for which input it differs. It also lists right answers of other forms (in place, with
NumPy, as a list, with loops), which must pass.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


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
class Crash:
    """What stands in for an answer when the code raised: two are equal when their exceptions have one type."""

    error: Exception = field(compare=False)
    name: str

    def __str__(self) -> str:
        return f"your code raised {self.name}: {' '.join(str(self.error).split()) or 'no message'}"


@dataclass(frozen=True)
class Exercise:
    """One exercise: its right answer, its inputs and its known mistakes.

    Attributes:
        solution: a right answer, best a function of seglib itself; a plain value for an exercise that asks for a
            prediction.
        wrong: known mistakes, at least one for each clause of the exercise's text: name → (a wrong answer that makes
            the mistake, its hint). A wrong answer may raise.
        right: right answers of other forms, at least two: name → answer. The tests hold that they pass.
        probes: function without arguments that returns the inputs: name of the case → arguments. Every run gets copies
            of its own, so an attempt may change its inputs. ``None``: the attempt is compared as a value.
        run: function that puts an attempt to work, ``run(attempt, *arguments)``; by default the attempt is called.
        verify: further demands on the attempt, made with ``expect`` and ``compare`` before its answers are compared.
        hint: hint given when no known mistake fits.
        sketch: the shape of the code, or the way to the number, shown from the second wrong try on.
        tolerance: largest absolute and relative error of a number.
        compared: whether the answers are compared at all; ``False`` leaves everything to ``verify``, for exercises
            with many right answers.
    """

    solution: Any
    wrong: Mapping[str, tuple[Any, str]]
    right: Mapping[str, Any] = field(default_factory=dict)
    probes: Callable[[], Mapping[str, tuple[Any, ...]]] | None = None
    run: Callable[..., Any] = field(default=lambda attempt, *arguments: attempt(*arguments))
    verify: Callable[[Any], None] | None = None
    hint: str = ""
    sketch: str = ""
    tolerance: float = 1e-5
    compared: bool = True

    def answers(self, attempt: Any) -> dict[str, Any]:
        """What an attempt answers to every probe, a :class:`Crash` where it raised (a value answers to itself)."""
        if self.probes is None:
            return {"": attempt}
        return {case: self._answer(attempt, arguments) for case, arguments in self.probes().items()}

    def _answer(self, attempt: Any, arguments: Sequence[Any]) -> Any:
        try:
            return own(self.run(attempt, *map(own, arguments)))  # copied: a later run may change what it returned
        except Hint:
            raise
        except Exception as error:  # the reader's code may raise anything
            if is_stub(error):
                raise
            return Crash(error, type(error).__name__)

    def same(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Whether two sets of answers agree on every probe."""
        return all(difference(one[case], other[case], tolerance=self.tolerance) is None for case in one)

    def judge(self, attempt: Any) -> None:
        """Returns when the attempt is right.

        Raises:
            Hint: when it is wrong.
            NotImplementedError: when it is still the stub.
            Exception: whatever the attempt raises in ``verify``.
        """
        parts = attempt if isinstance(attempt, tuple | list) else (attempt,)
        if attempt is None or any(part is ... for part in parts):
            raise NotImplementedError
        if self.probes is not None and not callable(attempt):
            raise Hint(f"A function or class is wanted here, not {describe(attempt)}.")
        if self.probes is None and callable(attempt) and not callable(self.solution):
            raise Hint("A value is wanted here, not a function: call it and pass the result.")
        got = self.answers(attempt) if self.compared else {}
        crashed = next(((case, answer) for case, answer in got.items() if isinstance(answer, Crash)), None)
        if self.verify is not None and crashed is None:
            self.verify(attempt)
        want = self.answers(self.solution) if self.compared else {}
        if self.same(got, want):
            return
        told = f"For {crashed[0]}, {crashed[1]}. " if crashed else ""
        for mistaken, hint in self.wrong.values():
            if self.same(got, self.answers(mistaken)):
                raise Hint(told + hint)
        if crashed:
            raise Hint(told.strip())
        if self.probes is None:
            raise Hint(self._about_value(attempt))
        for case in got:
            if found := difference(got[case], want[case], tolerance=self.tolerance):
                raise Hint(f"For {case}, {found}. {self.hint}".strip())

    def _about_value(self, attempt: Any) -> str:
        """What to say about a wrong prediction: never the right value, but which of several parts are right."""
        want, hint = self.solution, self.hint
        if not isinstance(want, tuple | list) or not _sized(attempt) or len(attempt) != len(want):
            return hint or f"{_capital(difference(attempt, want, tolerance=self.tolerance, reveal=False) or '')}."
        right = [difference(a, b, tolerance=self.tolerance) is None for a, b in zip(attempt, want, strict=True)]
        said = [f"Right: {_places(right)}. " if any(right) else "", f"Wrong: {_places([not r for r in right])}."]
        for mistaken, its_hint in self.wrong.values():
            if not _sized(mistaken) or len(mistaken) != len(want):
                continue
            # a mistake that spoils parts which are right here speaks of something else
            spoilt = [
                difference(m, w, tolerance=self.tolerance) is not None for m, w in zip(mistaken, want, strict=True)
            ]
            alike = [difference(a, m, tolerance=self.tolerance) is None for a, m in zip(attempt, mistaken, strict=True)]
            if any(spoilt) and all(a and not r for s, a, r in zip(spoilt, alike, right, strict=True) if s):
                return "".join([*said, f" {its_hint}"])
        return "".join([*said, f" {hint}" if hint else ""])


def is_stub(error: BaseException) -> bool:
    """Whether an exception is that of an unwritten stub; torch raises the same type, with a message."""
    return isinstance(error, NotImplementedError) and not error.args


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in a value, or in lists and tuples of values."""
    if isinstance(value, list | tuple):
        return [t for v in value for t in tensors_in(v)]
    return [value] if isinstance(value, Tensor) else []


def cloned(value: Any) -> Any:
    """A copy of a tensor, or of those in lists and tuples, through which gradients flow back."""
    if isinstance(value, list | tuple):
        return type(value)(cloned(v) for v in value)
    return value.clone() if isinstance(value, Tensor) else value


def own(value: Any) -> Any:
    """A copy that shares nothing with ``value``: tensors, arrays, modules, and what holds them."""
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if type(value) in (tuple, list):
        return type(value)(map(own, value))
    if type(value) is dict:
        return {key: own(item) for key, item in value.items()}
    return copy.deepcopy(value)


def _sized(value: Any) -> bool:
    return isinstance(value, tuple | list | np.ndarray) or (isinstance(value, Tensor) and value.ndim > 0)


def _places(marked: Sequence[bool]) -> str:
    """The positions that are marked, counted from 1, as words: "answer 2", "answers 1 and 3"."""
    found = [str(i) for i, m in enumerate(marked, 1) if m]
    return f"answer{'s' if len(found) > 1 else ''} " + " and ".join(filter(None, [", ".join(found[:-1]), found[-1]]))


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


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


def _letters(value: Any) -> str | None:
    """Text without case, spaces and commas; also from a list, tuple or set of pieces. ``None`` for what is no text."""
    if isinstance(value, set | frozenset):
        value = sorted(map(str, value), key=str.casefold)
    if isinstance(value, tuple | list) and all(isinstance(part, str) for part in value):
        value = "".join(value)
    return re.sub(r"[\s,]+", "", value).casefold() if isinstance(value, str) else None


def _array(value: Any) -> np.ndarray | None:
    """Numbers as an array; ``None`` for what is not numbers."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).resolve_conj().numpy()
    try:
        array = np.asarray(_plain(value))
    except ValueError:  # ragged nested lists
        return None
    return array if array.dtype.kind in "biuf" else None


def _plain(value: Any) -> Any:
    """Lists of lists of tensors as lists of numbers."""
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return value.tolist() if isinstance(value, Tensor) else value


def difference(got: Any, want: Any, *, tolerance: float = 1e-5, reveal: bool = True) -> str | None:
    """How ``got`` differs from ``want``, as the middle of a sentence, or ``None`` when they are equal.

    Numbers are compared within ``tolerance``, absolute and relative, whatever type carries them (NaN equals NaN);
    text without regard to case, spaces and commas, also as a list of letters; lists, tuples and dicts item by item.

    Args:
        got: the attempt's answer.
        want: the right answer.
        tolerance: largest absolute and relative error.
        reveal: whether to name the right value of the first wrong number.
    """
    if isinstance(got, Crash) or isinstance(want, Crash):
        return None if got == want else str(got) if isinstance(got, Crash) else f"your answer is {describe(got)}"
    if isinstance(want, str):
        same = _letters(got) == _letters(want)
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
