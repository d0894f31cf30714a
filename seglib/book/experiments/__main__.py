"""Run an experiment of the book and store its results: ``python -m seglib.book.experiments --help``.

The long ones keep each finished run in ``FILE.partial``; the same command goes on from there after a stop.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from seglib.book.experiments import EXPERIMENTS, experiment
from seglib.book.results import made_here, write_results


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="python -m seglib.book.experiments",
        description="Run an experiment of the book and store its results as JSON.",
        epilog="\n".join(f"{name}: {question}" for name, question in EXPERIMENTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=sorted(EXPERIMENTS))
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0 on (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=800, help="optimiser steps of each run (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=2000, help="scenes to train on (default: %(default)s)")
    parser.add_argument("--root", type=Path, help="a folder of real images, for the experiments that take one")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument(
        "--go-on", action="store_true", help="do nothing when FILE is from this command and this commit already"
    )
    options = parser.parse_args(given)
    command = " ".join([parser.prog, *(word for word in given if word != "--go-on")])
    if options.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {options.seeds}")
    seeds = list(range(options.seeds))
    run, more = experiment(options.name), {} if options.root is None else {"root": options.root}
    takes = inspect.signature(run).parameters
    if more and "root" not in takes:
        parser.error(f"{options.name} takes no --root")
    keep = options.out.with_name(options.out.name + ".partial")
    if "keep" in takes:
        more["keep"] = keep
    if options.go_on and made_here(options.out, command):
        print(f"{options.out} is of this commit")
        return 0
    started = time.perf_counter()
    try:
        data = run(seeds=seeds, steps=options.steps, scenes=options.scenes, report=_report, **more)
        data["seconds"] = round(time.perf_counter() - started, 1)
        write_results(options.out, data, command=command, seed=seeds)
        keep.unlink(missing_ok=True)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.out} after {data['seconds']:.0f} s")
    return 0


def _report(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
