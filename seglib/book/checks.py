"""``check``: the instant answer to an exercise."""

from __future__ import annotations

import difflib
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.book.exercise import Exercise, Hint, cloned, is_stub, tensors_in
from seglib.book.exercises import CHECKS

_wrong_tries: Counter[str] = Counter()  # name of the exercise → wrong tries since the last right one


@dataclass(frozen=True)
class Outcome:
    """The result of one check: whether it passed, the line that is printed, and whether anything was attempted."""

    passed: bool
    message: str
    attempted: bool = True


def examine(name: str, attempt: Any, exercises: Mapping[str, Exercise] = CHECKS) -> Outcome:
    """Judges an attempt without printing.

    Args:
        name: name of the exercise, such as ``"ch02.dice"``.
        attempt: the reader's function, class or value.
        exercises: table of exercises by name.

    Raises:
        ValueError: when there is no such exercise.
    """
    if name not in exercises:
        close = difflib.get_close_matches(name, exercises, n=3, cutoff=0.5) or sorted(exercises)
        raise ValueError(f"there is no exercise {name!r}; did you mean {' or '.join(map(repr, close))}?")
    try:
        exercises[name].judge(attempt)
    except Hint as hint:
        return Outcome(False, f"{name}: not right yet. {hint}")
    except Exception as error:  # the reader's code may raise anything
        if is_stub(error):
            return Outcome(False, f"{name}: not attempted yet.", attempted=False)
        reason = " ".join(str(error).split()) or "no message"
        return Outcome(False, f"{name}: your code raised {type(error).__name__}: {reason}")
    return Outcome(True, f"{name}: correct.")


def check(name: str, attempt: Any, required: bool = False) -> None:
    """Checks an exercise and prints one line: correct, not attempted yet, or what is wrong.

    From the second wrong try on, the shape of the code follows: a first hint asks for a thought, a second helps.

    Args:
        name: name of the exercise, such as ``"ch02.dice"``.
        attempt: the reader's function, class or value.
        required: whether to raise when the attempt fails; the folded solutions use it, so that running a notebook
            proves them.

    Raises:
        ValueError: when there is no such exercise.
        AssertionError: when ``required`` and the attempt is not right.
    """
    outcome = examine(name, attempt)
    if required and not outcome.passed:
        raise AssertionError(outcome.message)
    print(outcome.message)
    if outcome.passed:
        _wrong_tries.pop(name, None)
    elif outcome.attempted:
        _wrong_tries[name] += 1
        if _wrong_tries[name] > 1 and (sketch := CHECKS[name].sketch):
            print("The shape of it:\n" + textwrap.indent(textwrap.dedent(sketch).strip("\n"), "    "))


def yours(name: str, attempt: Callable[..., Any], solution: Callable[..., Any]) -> Callable[..., Any]:
    """The reader's function where it passes its check, and the solution where it doesn't: what later cells call.

    A right answer may change its arguments, return a list or an array for a tensor, or detach its result from the
    graph. So it gets copies; its result takes the form of the solution's; and where an argument needs a gradient, the
    solution answers if the reader's result carries none or has another form.

    Args:
        name: name of the exercise, such as ``"ch11.crop"``.
        attempt: the reader's function of tensors, numbers, and lists of them.
        solution: the folded one.

    Returns:
        A function of the same arguments.

    Raises:
        ValueError: when there is no such exercise.
    """
    if not examine(name, attempt).passed:
        return solution
    alike: list[bool] = []  # whether both give the same type, found out once: loops that train call this often

    def call(*given: Any) -> Any:
        own = [cloned(v) for v in given]
        if not any(v.requires_grad for v in tensors_in(given)):
            return _in_form(attempt(*own), solution(*given))
        try:
            value = attempt(*own)
        except Exception:  # it passed its check, so it is the gradient that it cannot take: NumPy can't
            return solution(*given)
        if not alike:
            alike.append(type(value) is type(solution(*given)))
        return value if alike[0] and any(v.requires_grad for v in tensors_in(value)) else solution(*given)

    return call


def _in_form(value: Any, form: Any) -> Any:
    """A value as the tensors, of the same types, and the lists that another one consists of."""
    if isinstance(form, list | tuple):
        return type(form)(_in_form(v, f) for v, f in zip(value, form, strict=True))
    if isinstance(form, Tensor):
        if not isinstance(value, Tensor):
            value = torch.as_tensor(np.asarray(value))
        return value.detach().to(form.dtype)
    return type(form)(value)
