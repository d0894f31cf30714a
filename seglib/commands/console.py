"""What a command says: results on standard output, progress and warnings on standard error."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table

T = TypeVar("T")

console = Console()


def say(text: str) -> None:
    """A line on standard output."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """A line on standard error: what a person should know and a program need not read."""
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """A warning on standard error."""
    Console(stderr=True).print(f"[yellow]warning:[/] {escape(text)}", highlight=False, soft_wrap=True)


def fail(error: Exception) -> None:
    """An error on standard error, as one line."""
    Console(stderr=True).print(f"[bold red]error:[/] {escape(one_line(error))}", highlight=False, soft_wrap=True)


def one_line(error: Exception) -> str:
    """What an error says, without a traceback."""
    if isinstance(error, OSError) and error.filename is not None:  # of the system, not one of seglib's own
        remedy = "check the path, and whether you may read or write there"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space, or choose another place"
        return f"{error.filename}: {error.strerror}; {remedy}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.strerror}; free some space, or choose another place"
    # a process that loads data hands its error on with its traceback as text; the last line is the error itself
    return str(error).strip().rsplit(f"\n{type(error).__name__}: ", 1)[-1]


def counted(number: int, name: str) -> str:
    """A number of things: "1 case", "3 cases"."""
    return f"{number} {name}{'' if number == 1 else 's'}"


def first_process() -> bool:
    """Whether this is the process that reports, when ``accelerate launch`` started several."""
    return os.environ.get("RANK", "0") == "0"


EVERY = 30.0
"""Seconds between the lines that tell how training goes where there is no terminal for a bar."""


@contextmanager
def training_progress(unit: str, score: str, start: str, *, quiet: bool) -> Iterator[tuple[Any, Any]]:
    """Callbacks for ``fit(…, on_step=…, on_scores=…)`` that tell on standard error how training goes.

    On a terminal a bar, elsewhere (a log file, a batch system) a line for the first and the last step and every half
    minute between. Scores before the last step are a line.

    Args:
        unit: what a batch consists of, "images" for example.
        score: the score that decides.
        start: what is said at the first step, not before: an error before it stands alone.
        quiet: show nothing.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"loss {{task.fields[loss]:.4f}}  {{task.fields[rate]:.1f}} {unit}/s"),
        TimeRemainingColumn(),
    )
    error = Console(stderr=True)
    progress = Progress(*columns, console=error, disable=quiet)
    bar: Any = None
    told = 0.0
    last = 0

    def on_step(step: int, steps: int, loss: float, rate: float, left: float) -> None:
        nonlocal bar, told, last
        first, last = not last, steps
        if quiet:
            return
        if first:
            note(start)
        if not error.is_terminal:
            if first or step == steps or time.monotonic() > told + EVERY:
                told = time.monotonic()
                minutes, seconds = divmod(round(left), 60)
                note(f"step {step} of {steps}, loss {loss:.4f}, {rate:.1f} {unit}/s, {minutes}:{seconds:02d} left")
            return
        if bar is None:
            progress.start()
            bar = progress.add_task("train", total=steps, loss=loss, rate=rate)
        progress.update(bar, completed=step, loss=loss, rate=rate)

    def on_scores(step: int, scores: dict[str, Any], kept: bool) -> None:
        if quiet or step == last:  # the last ones are the command's result
            return
        line = f"step {step}: {score} {scores[score]:.4f}{', the best so far' if kept else ''}"
        progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    try:
        yield on_step, on_scores
    finally:
        if bar is not None:
            progress.stop()


def shown(things: Sequence[T], doing: str, *, quiet: bool = False) -> Generator[T, None, None]:
    """The things one by one, with a bar on standard error that says how far the loop over them is.

    A single thing has no bar, and none is begun before the first is done: an error before it stands alone.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), disable=quiet or len(things) < 2)
    bar: Any = None
    try:
        for i, thing in enumerate(things, 1):
            yield thing
            if bar is None:
                progress.start()
                bar = progress.add_task(doing, total=len(things))
            progress.update(bar, completed=i)
    finally:
        if bar is not None:
            progress.stop()


def say_what_was_done(name: str, total: int, failed: list[str], content: Any, places: tuple[Path | None, ...]) -> None:
    """Report a prediction of photos or cases: as JSON where there is content; at last raise for those that failed.

    Args:
        name: what was predicted, "photo" or "case".
        total: how many there were.
        failed: a message for each that could not be read or predicted.
        content: what is printed as JSON; ``None`` prints a line instead.
        places: where results were written.

    Raises:
        ValueError: when one failed.
    """
    done = total - len(failed)
    if done and content is not None:
        print(json.dumps(content, indent=1))
    elif done:
        say(f"{counted(done, name)} → {' and '.join(str(p) for p in places if p)}")
    if failed:
        rest = f"{len(failed)} of {counted(total, name)} left out:\n" if total > 1 else ""
        raise ValueError(rest + "\n".join(failed))


def to_json(content: dict[str, Any]) -> str:
    """JSON, which has no NaN: a score without a value is null."""
    return json.dumps({name: None if value != value else value for name, value in content.items()}, indent=1)


def report(scores: dict[str, Any], as_json: bool, facts: dict[str, Any]) -> None:
    """Print scores and what stands beside them, as a table or as JSON."""
    if as_json:
        print(to_json(scores | facts))
        return

    def number(value: Any) -> str:
        if isinstance(value, float):
            return "–" if value != value else f"{value:.4f}"  # NaN: there is nothing to score
        return str(value)

    table = Table("score", "value", box=None)
    for name, value in scores.items():
        if not isinstance(value, dict):
            table.add_row(name, number(value))
    words = {"iou": "IoU", "dice": "Dice", "class_ap": "AP", "class_pq": "PQ", "hd95": "HD95 (mm)", "nsd": "NSD"}
    for group, of_class in scores.items():
        for name, value in of_class.items() if isinstance(of_class, dict) else ():
            short = words.get(group, group.replace("class_miou_at_", "mIoU@"))
            table.add_row(f"  {short} {name}", number(value), style="dim")
    for name, value in facts.items():
        table.add_row(name, number(value))
    console.print(table)
