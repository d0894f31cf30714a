"""Results that cost more than a chapter's budget: JSON files that say how, where, when and from what they came."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from seglib.files import atomic_path

PROVENANCE = ("command", "seed", "hardware", "commit", "date")
"""The keys that every stored result carries beside its numbers."""

_PACKAGE = Path(__file__).resolve().parents[1]


def write_results(path: Path | str, data: Mapping[str, Any], *, command: str, seed: int | Sequence[int]) -> None:
    """Store ``data`` with the facts that make it repeatable. The file appears whole or not at all.

    Args:
        path: the JSON file; its folder is made when missing.
        data: the results: numbers, strings, lists and dicts. Its keys must not be those of `PROVENANCE`.
        command: command line that a reader types to get the same file.
        seed: the random seed, or all seeds of a repeated run.

    Raises:
        ValueError: when ``data`` uses a provenance key or holds a value that JSON cannot store (NaN among them).
    """
    taken = sorted(set(data) & set(PROVENANCE))
    if taken:
        raise ValueError(f"the keys {taken} are filled in by write_results; rename them in the data")
    seeds = seed if isinstance(seed, int) else list(seed)
    facts = {"command": command, "seed": seeds, "hardware": hardware(), "commit": commit(), "date": today()}
    try:
        text = json.dumps({**facts, **data}, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the results for {path} cannot be stored as JSON: {error}; use plain finite numbers"
        ) from error
    with atomic_path(Path(path)) as beside:
        beside.write_text(text + "\n", encoding="utf-8")


def read_results(path: Path | str) -> dict[str, Any]:
    """The stored results, after checking that the file says where they come from.

    Args:
        path: a JSON file of `write_results`. A relative path is looked up from the working folder, then among the
            book's own chapters, so that a chapter finds its results wherever the notebook was started.

    Raises:
        ValueError: when the file is missing, is no JSON object, or lacks a provenance key.
    """
    found = stored_file(path)
    try:
        data = json.loads(found.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); run the command that made it again") from error
    missing = [k for k in PROVENANCE if not isinstance(data, dict) or k not in data]
    if missing:
        raise ValueError(f"{path} does not say its {', '.join(missing)}; write results with write_results")
    return data


def made_here(path: Path, command: str | None = None) -> bool:
    """Whether a file is from the code of now, at a commit without changes, and from ``command`` when one is given."""
    if not path.is_file():
        return False
    found, code = read_results(path), commit()
    clean = code != "unknown" and not code.endswith("+changes")
    return clean and found["commit"] == code and command in (None, found["command"])


def stored_file(path: Path | str) -> Path:
    """Where a file that belongs to a chapter lies, such as ``results/fcn_strides.json``.

    Looked up from the working folder (a notebook's own folder), then in the checkout's ``chapters``, then in what the
    package ``seglib-book`` installs.

    Raises:
        ValueError: when it is in none of them.
    """
    places = (Path(), _PACKAGE.parent / "chapters", _PACKAGE / "book" / "stored")
    for place in places:
        if (place / path).is_file():
            return place / path
    raise ValueError(
        f"{path} is in none of {', '.join(map(str, places))}; run the chapter's command that makes it, or install the "
        "book's stored files with `pip install ./chapters` in a checkout"
    )


def hardware() -> str:
    """One line on the machine: its GPU when torch sees one, else its processor and the number of threads torch uses."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{_processor()}, {torch.get_num_threads()} thread(s)"


def _processor() -> str:
    listing = Path("/proc/cpuinfo")  # Linux alone has it; platform.processor() is empty there
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """The git commit of the code, with ``+changes`` when files of the package differ; "unknown" outside a checkout.

    Files beside the package do not count: ``make results`` writes one results file after the other in the checkout.

    The environment variable ``SEGLIB_COMMIT`` overrules it, for machines that get a copy without the history.
    """
    if given := os.environ.get("SEGLIB_COMMIT"):
        return given
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+changes" if _git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_PACKAGE), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def today() -> str:
    """The date in UTC, as 2026-01-31."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%d")


if __name__ == "__main__":  # status 0 when all files are from the code of now
    sys.exit(not all(made_here(Path(name)) for name in sys.argv[1:]))
