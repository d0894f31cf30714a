"""Do the tests bite? Faults that someone could make, in mutants.txt, and the test file that must notice each.

``make mutants`` copies the package and the tests into temporary folders, makes one change at a time there, and runs the
named tests. A fault that they let pass is a missing test. ``python tests/mutants.py WORD…`` runs those whose file or
description holds one of the words.

Most of a short test run is the import of torch, so this process imports it once and every run is a fork of it. It must
not import seglib itself: each fork imports it from its own copy.
"""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 2
TIMEOUT = 120
"""Seconds of processor time for one run of a test file. A change that hangs its tests shows nothing about them."""
SHARED = ("torch", "torchvision", "scipy.ndimage", "pytest", "hypothesis", "_hypothesis_pytestplugin", "accelerate")
"""What the tests import and no mutant changes."""


@dataclass(frozen=True)
class Mutant:
    """One change: ``old``, which occurs once in ``file``, becomes ``new``; then ``tests`` must fail.

    Attributes:
        fault: what is wrong then, in words.
        file: relative to the root of the repository.
        old: the text to change.
        new: what it becomes.
        tests: arguments of pytest: a test file, and perhaps ``-k`` and an expression.
    """

    fault: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def read_table(text: str) -> list[Mutant]:
    """The mutants of a table: paragraphs, of which a heading says what the next ones are about.

    ::

        == ops/boxes.py: test_boxes.py -k clipping

        boxes are not clipped
        - the old text
        + the new text, or no such line

    Raises:
        ValueError: for a paragraph of another form.
    """
    found: list[Mutant] = []
    file, tests = "", ()
    for paragraph in text.strip("\n").split("\n\n"):
        first, *lines = paragraph.split("\n")
        if first.startswith("== "):
            name, arguments = first[3:].split(": ", 1)
            test, *more = arguments.split(" ", 2)
            file, tests = f"seglib/{name}", (f"tests/{test}", *more)
            continue
        old, new = ("\n".join(line[2:] for line in lines if line.startswith(mark)) for mark in ("- ", "+ "))
        if not file or not old or old == new or any(line[:2] not in ("- ", "+ ") for line in lines):
            raise ValueError(f"expected a description, lines of '- old' and lines of '+ new', got {paragraph!r}")
        found.append(Mutant(first, file, old, new, tests))
    return found


MUTANTS = read_table((ROOT / "tests" / "mutants.txt").read_text())


def occurrences(mutant: Mutant, root: Path = ROOT) -> int:
    """How often the text to change occurs in its file; it must be once."""
    path = root / mutant.file
    return path.read_text().count(mutant.old) if path.exists() else 0


def copy_tree(copy: Path) -> Path:
    """A private copy of the package and its tests."""
    for name in ("seglib", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    (copy / "chapters").mkdir()
    (copy / "chapters" / "weights").symlink_to(ROOT / "chapters" / "weights")  # tests read stored weights
    return copy


def share_imports() -> None:
    """Import what all runs need, once."""
    # plugins that no test of these needs take longer to import than the tests
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    sys.dont_write_bytecode = True  # a change within the second of the last one would run the old bytecode
    for name in SHARED:
        importlib.import_module(name)
    gc.freeze()  # forks need not look through what they share


def start(copy: Path, tests: tuple[str, ...]) -> int:
    """Fork a process that runs the tests in ``copy`` and writes to ``output.txt`` there. Returns its number."""
    if pid := os.fork():
        return pid
    code = 3
    try:
        signal.setitimer(signal.ITIMER_PROF, TIMEOUT)  # nothing catches its signal: the process ends
        with open(copy / "output.txt", "w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        os.chdir(copy)
        sys.path[0] = str(copy)
        import pytest

        quiet = ["-x", "-q", "--tb=short", "--no-header", "-p", "no:cacheprovider"]
        plugins = ["-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin", "--hypothesis-seed=0"]
        imported = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # plugins are here before pytest looks for them
        code = pytest.main([*quiet, *plugins, *imported, "-m", "not slow", *tests])
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # whatever happened, a fork must not go on as if it were the whole


def run_all(
    runs: Iterable[tuple[tuple[str, ...], Mutant | None]], copies: list[Path], told: Callable[..., None]
) -> None:
    """Make each change and run its tests, in as many processes as there are copies of the tree.

    Args:
        runs: arguments of pytest, and the change to make before, if any.
        copies: the trees.
        told: ``told(tests, mutant, verdict, output)`` hears of each run as it ends. The verdict is "passed", "failed",
            or "broken" when no test ran to its end: an error of import, or a hang.
    """
    free = list(copies)
    busy: dict[int, tuple[Path, tuple[str, ...], Mutant | None, str]] = {}

    def wait() -> None:
        pid, status = os.wait()
        copy, tests, mutant, whole = busy.pop(pid)
        if mutant:
            (copy / mutant.file).write_text(whole)
        verdict = {0: "passed", 1: "failed"}.get(os.waitstatus_to_exitcode(status), "broken")
        told(tests, mutant, verdict, (copy / "output.txt").read_text())
        free.append(copy)

    for tests, mutant in runs:
        if not free:
            wait()
        copy, whole = free.pop(), ""
        if mutant:
            whole = (copy / mutant.file).read_text()
            (copy / mutant.file).write_text(whole.replace(mutant.old, mutant.new))
        busy[start(copy, tests)] = copy, tests, mutant, whole
    while busy:
        wait()


def main(words: list[str]) -> int:
    """Run the mutants that hold one of the words, all without one. Returns 1 when one is not killed."""
    started = time.perf_counter()
    chosen = [m for m in MUTANTS if not words or any(w in f"{m.file} {m.fault}" for w in words)]
    bad = 0

    def told(tests: tuple[str, ...], mutant: Mutant | None, verdict: str, output: str) -> None:
        nonlocal bad
        if mutant is None:
            if verdict != "passed":
                bad += 1
                print(f"{' '.join(tests)}: {verdict} without any change\n{output[-2000:]}", flush=True)
            return
        word = {"passed": "SURVIVED", "failed": "killed", "broken": "BROKEN"}[verdict]
        print(f"{word:8}  {mutant.file}: {mutant.fault}", flush=True)
        if verdict != "failed":
            bad += 1
            print(output[-2000:] if verdict == "broken" else f"          add a test to {tests[0]}", flush=True)

    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = [copy_tree(Path(folder) / str(i)) for i in range(WORKERS)]
        for m in chosen:
            if occurrences(m, copies[0]) != 1:
                bad += 1
                print(f"{m.file}: {m.fault}: {m.old!r} occurs {occurrences(m, copies[0])} times, it must be once")
        if bad:
            return 1
        share_imports()
        run_all([(tests, None) for tests in sorted({m.tests for m in chosen})], copies, told)
        if bad:
            return 1  # killed or survived would mean nothing
        run_all([(m.tests, m) for m in chosen], copies, told)
    print(f"{len(chosen) - bad} of {len(chosen)} killed in {time.perf_counter() - started:.0f} s")
    return int(bad > 0 or not chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
