"""Predictions that the reader makes on the page, before the output is shown.

A guess asks a question and takes the reader's answer in the page, without a kernel. Then it shows what they said beside
what is right, and the outputs that wait for it unfold. Each ``guess.…`` call is the last line of a cell of its own,
tagged ``guess``; the cells whose outputs wait, up to the next guess or level-2 heading, are tagged ``after-guess``.
Outputs of ``proof`` cells there wait too, so that a settled guess does not tell its answer::

    guess.number("ch04.width", "An input of 572 pixels comes out how wide?", answer=388, unit="pixels", low=0, high=600)

The answer is written out, so a folded cell further down proves it from what the chapter computed::

    guess.settle("ch04.width", widths[-1])      # prints "ch04.width: 388, as computed."

A name is ``chNN.`` and a word, unique in the book, because guesses are kept under it in the browser. Questions, options
and remarks are plain text; ``backquotes`` make code, and there are no formulas. Without JavaScript the question stands
above a folded answer, and nothing waits.
"""

from __future__ import annotations

import html
import math
import numbers
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seglib.book.figures.element import Figure

__all__ = ["MAX_CELLS", "Guess", "choice", "drawing", "number", "settle"]

MAX_CELLS = 12
"""Largest number of rows and of columns of a drawing."""


class Guess(Figure):
    """A question with its answer, as `number`, `choice` and `drawing` make it; shown as the last line of a cell."""

    shared = ("guess",)

    def __repr__(self) -> str:
        return f"<guess {self.params['name']}: {self.text}>"


_asked: dict[str, Guess] = {}


def number(
    name: str,
    question: str,
    *,
    answer: float,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    tolerance: float = 0,
) -> Guess:
    """A guess that is one number. With ``low`` and ``high`` there is a slider beside the field.

    Args:
        name: name of the guess, ``chNN.word``.
        question: question in one or two sentences.
        answer: right number, written out with the digits that the reader should see.
        unit: unit after the number, such as ``"pixels"`` or ``"%"``.
        low: left end of the slider; a guess below it is not taken.
        high: right end of the slider; a guess above it is not taken.
        tolerance: largest distance from ``answer`` that counts as right.

    Raises:
        ValueError: when an argument is out of its range, or another guess has the name.
    """
    _check_texts(name, question=question, unit=unit)
    given = {"answer": answer, "low": low, "high": high, "tolerance": tolerance}
    for key, value in given.items():
        optional = key in ("low", "high") and value is None
        if not optional and not _is_number(value):
            raise ValueError(f"{key} of {name!r} must be a finite number, got {value!r}; write it out")
    if tolerance < 0:
        raise ValueError(f"tolerance of {name!r} must be 0 or more, got {tolerance}")
    if (low is None) != (high is None):
        raise ValueError(f"{name!r} has low={low} and high={high}: give both for a slider, or neither")
    if low is not None and high is not None and not (low < high and low <= answer <= high):
        raise ValueError(f"{name!r} needs low ≤ answer ≤ high and low < high, got {low}, {answer} and {high}")
    numbers_ = {key: value.item() if isinstance(value, np.generic) else value for key, value in given.items()}
    digits = max(_decimals(v) for v in (answer, low, high) if v is not None)
    params = {"question": question, "unit": unit, "step": 10.0**-digits if digits else 1, **numbers_}
    return _ask(name, "number", params, html.escape(_with_unit(answer, unit)))


def choice(
    name: str, question: str, options: Sequence[str], *, answer: int, says: Mapping[int, str] | None = None
) -> Guess:
    """A guess that is one of several options.

    Args:
        name: name of the guess, ``chNN.word``.
        question: question in one or two sentences.
        options: texts of the options, 2 to 8, all different.
        answer: index of the right option.
        says: index of an option → a sentence for readers who chose it; that of the right option is also shown to those
            who ask for the answer without a guess.

    Raises:
        ValueError: when an argument is out of its range, or another guess has the name.
    """
    if isinstance(options, str) or not 2 <= len(options) <= 8:
        raise ValueError(f"{name!r} needs a list of 2 to 8 options, got {options!r}")
    says = dict(says or {})
    for index, option in enumerate(options):
        _check_texts(name, **{f"option {index}": option})
    _check_texts(name, question=question, **{f"says[{index!r}]": text for index, text in says.items()})
    if len(set(options)) < len(options):
        raise ValueError(f"{name!r} has an option twice: {list(options)}")
    for key, index in (("answer", answer), *(("a key of says", index) for index in says)):
        if not _is_index(index, len(options)):
            raise ValueError(f"{key} of {name!r} must be an option's index, 0 to {len(options) - 1}, got {index!r}")
    params = {"question": question, "options": list(options), "answer": int(answer), "says": says}
    items = "".join(f"<li>{_markup(option)}</li>" for option in options)
    shown = f"{_markup(options[answer])}. {_markup(says.get(answer, ''))}".rstrip()
    return _ask(name, "choice", params, shown, f"<ol>{items}</ol>")


def drawing(name: str, question: str, *, answer: Any, given: Any = None) -> Guess:
    """A guess that is a set of cells of a grid, clicked or painted.

    Args:
        name: name of the guess, ``chNN.word``.
        question: question in one or two sentences.
        answer: right cells, (H, W) of bool or of 0 and 1, 1 to `MAX_CELLS` a side, at least one cell true.
        given: what is drawn in the cells, (H, W) grey or (H, W, 3) RGB in [0, 1]; ``None`` for empty cells.

    Raises:
        ValueError: when an argument is out of its range, or another guess has the name.
    """
    _check_texts(name, question=question)
    mask = _mask(name, answer)
    height, width = mask.shape
    if not (1 <= height <= MAX_CELLS and 1 <= width <= MAX_CELLS):
        raise ValueError(f"answer of {name!r} must be 1 to {MAX_CELLS} cells a side, got {height} × {width}")
    if not mask.any():
        raise ValueError(f"answer of {name!r} marks no cell; ask about a case that has one, or use guess.choice")
    params: dict[str, Any] = {"question": question, "answer": ["".join("01"[v] for v in row) for row in mask.tolist()]}
    if given is not None:
        values = np.asarray(given)
        if values.shape not in (mask.shape, (*mask.shape, 3)):
            raise ValueError(f"given of {name!r} must be {mask.shape} or {(*mask.shape, 3)}, got {values.shape}")
        if values.dtype.kind not in "biuf" or not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"given of {name!r} must be numbers in [0, 1]; divide 8-bit values by 255")
        rgb = np.rint(255 * values.astype(float).reshape(height, width, -1)).astype(np.uint8)
        rgb = np.broadcast_to(rgb, (height, width, 3))
        params["given"] = ["".join(bytes(cell).hex() for cell in row) for row in rgb]
    rows = "<br>".join(row.replace("1", "■").replace("0", "□") for row in params["answer"])
    return _ask(name, "drawing", params, rows)


def settle(name: str, value: Any) -> None:
    """Proves a guess's answer from a computed value, and prints one line.

    Args:
        name: name of a guess that this kernel has shown.
        value: computed answer: a number, an option's index or text, or the cells (H, W). A number may differ from
            the written answer by the guess's tolerance; the line then says so.

    Raises:
        AssertionError: when the value is not the written answer.
        ValueError: when no guess has the name, or the value has the wrong form.
    """
    if name not in _asked:
        known = ", ".join(sorted(_asked)) or "none"
        raise ValueError(f"no guess is named {name!r} here; run its cell first (guesses so far: {known})")
    guess = _asked[name].params
    if _asked[name].name == "guess_number":
        said = _settled_number(name, guess, value)
    elif _asked[name].name == "guess_choice":
        said = _settled_choice(name, guess, value)
    else:
        mask, answer = _mask(name, value, "value"), _mask(name, [[int(v) for v in row] for row in guess["answer"]])
        if mask.shape != answer.shape:
            raise ValueError(f"{name!r} is about {answer.shape} cells, got a value of shape {mask.shape}")
        wrong = np.argwhere(mask != answer).tolist()
        if wrong:
            raise AssertionError(f"{name}: {len(wrong)} cells differ from the answer, first (row, column) {wrong[0]}")
        said = f"{answer.sum()} of {answer.size} cells, as computed."
    print(f"{name}: {said}")


def _settled_number(name: str, guess: Mapping[str, Any], value: Any) -> str:
    if hasattr(value, "item") and math.prod(getattr(value, "shape", ())) == 1:
        value = value.item()
    if not _is_number(value):
        raise ValueError(f"{name!r} is settled by one finite number, got {value!r}")
    answer, tolerance = guess["answer"], guess["tolerance"]
    whole = float(value).is_integer() and float(answer).is_integer()
    rounding = 0 if whole else 1e-6 * max(1.0, abs(answer))  # float32 computes 0.1 + 0.2 so
    if abs(value - answer) <= rounding:
        return f"{_plain(answer)}, as computed."
    if abs(value - answer) <= tolerance + rounding:
        return f"{_plain(answer)}, computed {value:.4g}, within {_plain(tolerance)}."
    raise AssertionError(f"{name}: the answer says {_plain(answer)}, but {value!r} was computed")


def _settled_choice(name: str, guess: Mapping[str, Any], value: Any) -> str:
    options: list[str] = guess["options"]
    if hasattr(value, "item") and not isinstance(value, str) and math.prod(getattr(value, "shape", ())) == 1:
        value = value.item()
    if not (_is_index(value, len(options)) or (isinstance(value, str) and value in options)):
        raise ValueError(f"{name!r} is settled by an option's index or text ({options}), got {value!r}")
    index = options.index(value) if isinstance(value, str) else int(value)
    if index != guess["answer"]:
        raise AssertionError(f"{name}: the answer says {options[guess['answer']]!r}, computed was {options[index]!r}")
    return f"{options[index]!r}, as computed."


def _ask(name: str, input_: str, params: dict[str, Any], answer: str, more: str = "") -> Guess:
    """Keeps the guess under its name; the same call again is fine, another one under the name is not."""
    question = params["question"]
    fallback = (
        f"<p><strong>Your guess:</strong> {_markup(question)}</p>{more}"
        f"<details><summary>Show the answer</summary><p>{answer}</p></details>"
    )
    guess = Guess(f"guess_{input_}", {"name": name, **params}, fallback=fallback, text=question)
    if name in _asked and (_asked[name].name, _asked[name].params) != (guess.name, guess.params):
        raise ValueError(
            f"{name!r} is already another guess ({_asked[name].text!r}); take a new name, or restart the kernel if you "
            "have just changed this one"
        )
    _asked[name] = guess
    return guess


def _check_texts(name: str, **texts: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"ch\d\d\.[a-z0-9_]+", name):
        raise ValueError(f"the name must be chNN. and a word of a–z, 0–9 and _, such as 'ch04.width', got {name!r}")
    for key, text in texts.items():
        if not isinstance(text, str) or (key != "unit" and not text.strip()):
            raise ValueError(f"{key} of {name!r} must be a text that is not empty, got {text!r}")
        if "$" in text:
            raise ValueError(f"{key} of {name!r} holds a formula ({text!r}); write it in words or in `backquotes`")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_) and math.isfinite(value)


def _is_index(value: Any, count: int) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_) and 0 <= int(value) < count


def _decimals(value: float) -> int:
    """Number of digits after the point, as Python writes the number; 0 for whole numbers."""
    if float(value).is_integer():
        return 0
    digits, _, exponent = repr(float(value)).partition("e")
    return max(0, len(digits.partition(".")[2]) - int(exponent or 0))


def _plain(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _with_unit(value: float, unit: str) -> str:
    return _plain(value) + ("" if not unit or unit[0] in "%°×" else " ") + unit


def _mask(name: str, cells: Any, what: str = "answer") -> np.ndarray:
    array = np.asarray(cells)
    if array.ndim != 2 or array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise ValueError(f"{what} of {name!r} must be (H, W) of bool or 0 and 1, got {array.dtype} {array.shape}")
    return array.astype(bool)


def _markup(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
