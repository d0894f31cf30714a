"""Train the stored ``sam_tiny`` in three stages: ``… sam_weights --steps 2500 3500 2500 --out RUN``.

Nothing in the network has the size of the image, so what it learned from scenes of 128 × 128 pixels, a fourth of the
cost, is where it starts on scenes of 256 × 256. In the first stage the focal loss counts an object's pixels nine times
as much as the others, since otherwise all masks stay empty for long; after that it counts all alike, since otherwise
masks stay too large. Only the last stage asks as often as the scores do. A run that was stopped goes on with the same
command. ``accelerate launch --cpu --num_processes 2 -m …`` shares a step between two CPU cores.

The run is a folder as ``seglib train`` writes it, for ``python -m seglib.book.experiments.from_run``. Whatever clicks
mean in training, it is scored on objects alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from seglib.book.experiments.prompts import SIZE, TRAINED
from seglib.data.catalog import build_dataset
from seglib.data.prompts import LEVELS, OnlyObjects
from seglib.files import atomic_path
from seglib.models.sam import sam_tiny
from seglib.train import PromptTask, fit
from seglib.train.recipes import recipe
from seglib.weights import load_encoder, load_weights


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes:
        size: side of the scenes in pixels.
        alpha: weight of an object's pixels in the focal loss.
        lr: learning rate as a share of the recipe's.
        clicks: number of clicks after the first prompt.
    """

    size: int
    alpha: float
    lr: float
    clicks: int


STAGES = (Stage(TRAINED, 0.9, 1.0, 2), Stage(SIZE, 0.5, 1.0, 2), Stage(SIZE, 0.5, 0.25, 4))


def train_weights(
    out: Path,
    *,
    steps: Sequence[int],
    encoder: Path | None,
    weights: Path | None,
    levels: Sequence[str],
    seed: int,
    batch: int,
    command: str,
) -> None:
    """Train on small scenes, then on large ones, and score on large ones.

    Args:
        out: the run's folder.
        steps: optimiser steps of each of the :data:`STAGES`; a stage may have none, but for the last one.
        encoder: weights whose encoder the network starts from.
        weights: weights of ``sam_tiny`` that it starts from.
        levels: what clicks mean in training, see :class:`~seglib.data.prompts.OnlyObjects`.
        seed: random seed.
        batch: scenes of a step, in each process.
        command: the command line, which the run's folder keeps.

    Raises:
        FileNotFoundError: when there are no such weights.
        ValueError: for weights of another model, or a number out of its range.
    """
    if len(steps) != len(STAGES) or steps[-1] < 1:
        raise ValueError(f"training has {len(STAGES)} stages, of which the last is needed, got the steps {list(steps)}")
    torch.manual_seed(seed)
    state = None
    config, seconds = replace(recipe("sam_tiny"), seed=seed, batch_size=batch), 0.0
    told: dict[str, Any] = {"command": command}
    for number, (stage, its_steps) in enumerate(zip(STAGES, steps, strict=True), start=1):
        if not its_steps:
            continue
        model = sam_tiny(image_size=stage.size)
        model.training_settings = replace(model.training_settings, alpha=stage.alpha, clicks=stage.clicks)
        if state is not None:
            model.load_state_dict(state)
        elif weights is not None:
            load_weights(model, weights)
        elif encoder is not None:
            load_encoder(model, encoder)
        train, val = _scenes(stage.size)
        last = stage is STAGES[-1]
        metadata: dict[str, Any] = {"model": "sam_tiny", "data": "scenes", "data_size": [SIZE, SIZE], "arguments": {}}
        metadata |= {"file_ids": list(train.file_ids), "void_id": train.void_id, "levels": list(levels)}
        history = fit(
            model,
            OnlyObjects(train, levels=levels),
            val if last else None,
            task=PromptTask(train.categories),
            config=replace(config, steps=its_steps, lr=stage.lr * config.lr),
            out=out if last else out / f"stage{number}",
            resume=True,
            metadata=metadata if last else None,
        )
        state, seconds = model.state_dict(), seconds + history.seconds
        told[f"loss_of_stage{number}"] = history.losses[its_steps]
    told |= {**history.scores[steps[-1]], "final_loss": history.losses[steps[-1]]}
    told |= {"seconds": round(seconds, 1), "cpu_seconds": round(time.process_time(), 1)}
    if PartialState().is_main_process:
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
    parser.add_argument("--steps", type=int, nargs=3, required=True, help="optimiser steps of the three stages")
    parser.add_argument(
        "--levels", nargs="+", default=["object"], help=f"what clicks mean: some of {', '.join(LEVELS)}"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    parser.add_argument(
        "--batch", type=int, default=recipe("sam_tiny").batch_size, help="scenes of a step, in each process"
    )
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
