"""Train the stored ``sam_tiny`` in two stages, small scenes first: ``… sam_weights --out RUN``.

Nothing in the network has the size of the image, so what it learned from scenes of 128 × 128 pixels, a fourth of the
cost, is where it starts on scenes of 256 × 256. In the first stage the focal loss counts an object's pixels nine times as
much as the others, since otherwise all masks stay empty for long; in the second it counts all alike, since otherwise
masks stay too large. A run that was stopped goes on with the same command. The run is a folder as ``seglib train`` writes it, for
``python -m seglib.book.experiments.from_run``. Whatever clicks mean in training, it is scored on objects alone.
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

import torch

from seglib.book.experiments.prompts import SIZE, TRAINED
from seglib.data.catalog import build_dataset
from seglib.data.prompts import LEVELS, OnlyObjects
from seglib.files import atomic_path
from seglib.models.sam import Sam, sam_tiny
from seglib.train import PromptTask, fit
from seglib.train.recipes import recipe
from seglib.weights import load_encoder, load_weights


def train_weights(
    out: Path,
    *,
    small_steps: int,
    steps: int,
    encoder: Path | None,
    weights: Path | None,
    levels: Sequence[str],
    seed: int,
    command: str,
) -> None:
    """Train on small scenes, then on large ones, and score on large ones.

    Args:
        out: the run's folder.
        small_steps: optimiser steps on scenes of 128 × 128 pixels, which may be none.
        steps: optimiser steps on scenes of 256 × 256 pixels, with half the learning rate.
        encoder: weights whose encoder the network starts from.
        weights: weights of ``sam_tiny`` that it starts from.
        levels: what clicks mean in training, see :class:`~seglib.data.prompts.OnlyObjects`.
        seed: random seed.
        command: the command line, which the run's folder keeps.

    Raises:
        FileNotFoundError: when there are no such weights.
        ValueError: for weights of another model, or a number out of its range.
    """
    torch.manual_seed(seed)
    started, losses = time.perf_counter(), {}
    small = sam_tiny(image_size=TRAINED)
    small.training_settings = replace(small.training_settings, alpha=0.9)
    if encoder is not None:
        load_encoder(small, encoder)
    if weights is not None:
        load_weights(small, weights)
    config = replace(recipe("sam_tiny"), seed=seed)
    if small_steps:
        train, _ = _scenes(TRAINED)
        first = fit(
            small,
            OnlyObjects(train, levels=levels),
            task=PromptTask(train.categories),
            config=replace(config, steps=small_steps),
            out=out / "small",
            resume=True,
        )
        losses = first.losses
    model: Sam = sam_tiny()
    model.load_state_dict(small.state_dict())
    train, val = _scenes(SIZE)
    metadata: dict[str, Any] = {"model": "sam_tiny", "data": "scenes", "data_size": [SIZE, SIZE], "arguments": {}}
    metadata |= {"file_ids": list(train.file_ids), "void_id": train.void_id, "levels": list(levels)}
    history = fit(
        model,
        OnlyObjects(train, levels=levels),
        val,
        task=PromptTask(train.categories),
        config=replace(config, steps=steps, lr=config.lr / 2),
        out=out,
        resume=True,
        metadata=metadata,
    )
    told = {"command": command, **history.scores[steps], "final_loss": history.losses[steps]}
    told |= {"small_steps": small_steps, "small_final_loss": losses.get(small_steps)}
    told |= {"seconds": round(time.perf_counter() - started, 1), "cpu_seconds": round(time.process_time(), 1)}
    with atomic_path(out / "result.json") as beside:
        beside.write_text(json.dumps(told, indent=1) + "\n")


def _scenes(size: int) -> list[Any]:
    """Augmented scenes to train on, and held-out ones."""
    return [
        build_dataset("scenes", None, split, size=(size, size), augment=split == "train", keep=("instances",))
        for split in ("train", "val")
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m seglib.book.experiments.sam_weights", description=__doc__)
    parser.add_argument("--encoder", type=Path, help="weights whose encoder the network starts from")
    parser.add_argument("--weights", type=Path, help="weights of sam_tiny that it starts from")
    parser.add_argument("--small-steps", type=int, default=0, help="steps on scenes of 128 pixels (default: none)")
    parser.add_argument("--steps", type=int, required=True, help="steps on scenes of 256 pixels")
    parser.add_argument(
        "--levels", nargs="+", default=["object"], help=f"what clicks mean: some of {', '.join(LEVELS)}"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the run")
    options = parser.parse_args(given)
    try:
        train_weights(**vars(options), command=" ".join([parser.prog, *given]))
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
