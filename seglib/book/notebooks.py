"""Execute, normalise and check the chapters: ``python -m seglib.book.notebooks run|normalise|check [NOTEBOOK …]``.

``run`` executes each notebook in place as a reader with a CPU would (one thread, the fast budget) and normalises it, so
the stored outputs do not depend on the machine's cores or GPU. ``check`` changes nothing; it exits with 1 when a
notebook is not in normal form or breaks a rule of `seglib.book.lint`. Without file names: every chapter of the book.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from seglib.book.lint import lint
from seglib.book.normalise import normalise
from seglib.book.setup import PAGES

KERNEL_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "CUDA_VISIBLE_DEVICES": "",
    "SEGLIB_BUDGET": "fast",
    PAGES: "1",
}
"""What ``run`` adds to the kernel's environment, so that a second run gives the same bytes."""

CELL_SECONDS = 300


def find_book(start: Path | None = None) -> Path:
    """The folder with the book's ``_config.yml``: ``start`` (default: the current folder) or the nearest above it.

    Raises:
        ValueError: when there is none.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "_config.yml").is_file():
            return folder
    raise ValueError(f"no _config.yml in {start} or above it; run this in the book's folder")


def repository_url(book: Path) -> str:
    """``repository.url`` of the book's ``_config.yml``; empty when the book has no public home."""
    import yaml

    config = yaml.safe_load((book / "_config.yml").read_text(encoding="utf-8"))
    return str((config.get("repository") or {}).get("url") or "")


def read(path: Path) -> NotebookNode:
    """The notebook at ``path``.

    Raises:
        ValueError: when the file is not a notebook.
    """
    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise ValueError(f"{path} is not a valid notebook: {error}") from error


def execute(notebook: NotebookNode, folder: Path, environment: dict[str, str] | None = None) -> NotebookNode:
    """Run every cell of ``notebook`` in a fresh kernel that starts in ``folder``. Changes and returns the notebook.

    Args:
        notebook: the notebook to run; its old outputs are dropped.
        folder: the kernel's working folder.
        environment: environment variables set beside those of this process; default `KERNEL_ENVIRONMENT`.

    Raises:
        nbclient.exceptions.CellExecutionError: when a cell raises.
    """
    from nbclient import NotebookClient

    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3", resources=resources)
    client.execute(env={**os.environ, **(KERNEL_ENVIRONMENT if environment is None else environment)})
    return notebook


def run(path: Path, repository: str) -> None:
    """Execute the notebook at ``path``, normalise it and write it back."""
    notebook = nbformat.reads(normalise(read(path), repository), as_version=4)  # stamp the setup cell first
    write(path, normalise(execute(notebook, path.parent), repository))


def check(path: Path, repository: str) -> list[str]:
    """What is wrong with the stored notebook at ``path``, one sentence each. Chapters are those with a number."""
    stored = path.read_text(encoding="utf-8")
    problems = lint(read(path), chapter=path.name[:2].isdecimal())
    if normalise(read(path), repository) != stored:
        problems.append("not in normal form; run `python -m seglib.book.notebooks normalise`")
    return problems


def write(path: Path, text: str) -> None:
    """Replace the file at ``path`` in one step, so that an interruption leaves the old one."""
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m seglib.book.notebooks", description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("run", "normalise", "check"))
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: chapters/*.ipynb")
    parser.add_argument("--repository", help="URL for the setup cell; default: repository.url of _config.yml")
    options = parser.parse_args(arguments)
    try:
        book = find_book()
        repository = repository_url(book) if options.repository is None else options.repository
        paths = [path.resolve() for path in options.notebooks] or sorted((book / "chapters").glob("*.ipynb"))
        failed = [path for path in paths if not _apply(options.command, path, repository)]
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if failed else 0


def _apply(command: str, path: Path, repository: str) -> bool:
    if command == "check":
        problems = check(path, repository)
        for problem in problems:
            print(f"{path.name}: {problem}")
        return not problems
    before = path.read_bytes()
    started = time.monotonic()
    if command == "run":
        from nbclient.exceptions import CellExecutionError

        try:
            run(path, repository)
        except CellExecutionError as error:
            print(f"{path.name}: stopped, the file is unchanged\n{error}", file=sys.stderr)
            return False
    else:
        write(path, normalise(read(path), repository))
    after = path.read_bytes()
    change = "unchanged" if after == before else "changed"
    print(f"{path.name}: {change}, {len(after) // 1024} KB, {time.monotonic() - started:.0f} s")
    return True


if __name__ == "__main__":
    sys.exit(main())
