"""Train ``sam_tiny`` on clicks that mean an object, its group or its class: ``… sam_levels --steps N --out RUN``.

It starts from weights that know objects alone. The run is a folder as ``seglib train`` writes it, for
``python -m seglib.book.experiments.from_run``; it is scored on objects alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seglib.data.catalog import build_dataset
from seglib.data.prompts import LEVELS, OnlyObjects
from seglib.files import atomic_path
from seglib.train import PromptTask, fit
from seglib.train.recipes import recipe
from seglib.weights import load_model, read_metadata


def train_levels(weights: Path, out: Path, *, steps: int, lr: float, command: str) -> None:
    """Go on from stored weights with clicks of three meanings.

    Args:
        weights: weights of ``sam_tiny`` to start from.
        out: the run's folder.
        steps: optimiser steps.
        lr: learning rate.
        command: the command line, which the run's folder keeps.

    Raises:
        FileNotFoundError: when there are no such weights.
        ValueError: when they are of another task, or for a number out of its range.
    """
    facts = read_metadata(weights)
    if facts["task"] != PromptTask.name:
        raise ValueError(f"{weights} are for {facts['task']}; pass those of sam_tiny")
    size, config = tuple(facts["data_size"]), replace(recipe(facts["model"]), steps=steps, lr=lr)
    train, val = (
        build_dataset("scenes", None, split, size=size, augment=split == "train", keep=("instances",))
        for split in ("train", "val")
    )
    task = PromptTask(train.categories)
    names = ("model", "data", "data_size", "arguments", "file_ids", "void_id")
    metadata: dict[str, Any] = {name: facts[name] for name in names} | {"levels": list(LEVELS)}
    history = fit(
        load_model(weights), OnlyObjects(train, levels=LEVELS), val, task=task, config=config, out=out,
        metadata=metadata,
    )  # fmt: skip
    told = {"command": command, **history.scores[steps], "final_loss": history.losses[steps]}
    told |= {"seconds": round(history.seconds, 1), "cpu_seconds": round(time.process_time(), 1)}
    with atomic_path(out / "result.json") as beside:
        beside.write_text(json.dumps(told, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m seglib.book.experiments.sam_levels", description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="weights of sam_tiny to start from")
    parser.add_argument("--steps", type=int, required=True, help="optimiser steps")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the run")
    options = parser.parse_args(given)
    try:
        command = " ".join([parser.prog, *given])
        train_levels(options.weights, options.out, steps=options.steps, lr=options.lr, command=command)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
