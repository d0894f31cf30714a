"""Train the stored ``sam_tiny`` in two stages: ``… sam_weights --steps 7000 900 --out RUN``.

The scenes' things are small, and a mask of the whole scene is mostly nothing. Therefore the network sees windows of the
scenes first, each somewhere in its square; the same number of things costs about a fourth. Whole scenes follow,
asked about as often as the scores do. A run that was stopped goes on with the same command. ``ACCELERATE_USE_CPU=true
torchrun --nproc_per_node 2 -m …`` shares each step between two CPU cores.

The run is a folder as ``seglib train`` writes it, for ``python -m seglib.book.experiments.from_run``. Whatever clicks
mean in training, it is scored on objects alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from seglib.book.experiments.prompts import SIZE, WINDOW, scenes_to_prompt
from seglib.data.catalog import SCENES_LENGTH
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
        window: side of the part of a scene that is seen, in pixels.
        batch: windows of a step, over all processes.
        lr: learning rate as a share of the recipe's.
        clicks: number of clicks after the first prompt.
    """

    window: int
    batch: int
    lr: float
    clicks: int


STAGES = (Stage(WINDOW, 16, 1.0, 2), Stage(SIZE, 8, 0.25, 4))


def train_weights(
    out: Path,
    *,
    steps: Sequence[int],
    encoder: Path | None,
    weights: Path | None,
    levels: Sequence[str],
    seed: int,
    command: str,
) -> None:
    """Train on windows of scenes, then on whole ones, and score on those.

    Args:
        out: the run's folder.
        steps: optimiser steps of each of the :data:`STAGES`; a stage may have none, but for the last one.
        encoder: weights whose encoder the network starts from.
        weights: weights of ``sam_tiny`` that it starts from.
        levels: what clicks mean in training, see :class:`~seglib.data.prompts.OnlyObjects`.
        seed: random seed.
        command: the command line, which the run's folder keeps.

    Raises:
        FileNotFoundError: when there are no such weights.
        ValueError: for weights of another model, or a number out of its range.
    """
    if len(steps) != len(STAGES) or steps[-1] < 1:
        raise ValueError(f"training has {len(STAGES)} stages, of which the last is needed, got the steps {list(steps)}")
    torch.manual_seed(seed)
    state = None
    config, seconds = replace(recipe("sam_tiny"), seed=seed), 0.0
    told: dict[str, Any] = {"command": command}
    for number, (stage, its_steps) in enumerate(zip(STAGES, steps, strict=True), start=1):
        if not its_steps:
            continue
        model = sam_tiny()
        windows = stage.window < SIZE
        model.training_settings = replace(model.training_settings, clicks=stage.clicks, windows=windows)
        if state is not None:
            model.load_state_dict(state)
        elif weights is not None:
            load_weights(model, weights)
        elif encoder is not None:
            load_encoder(model, encoder)
        train = scenes_to_prompt(SCENES_LENGTH["train"], "train", window=stage.window)
        val = scenes_to_prompt(SCENES_LENGTH["val"], "val")
        last = stage is STAGES[-1]
        metadata: dict[str, Any] = {"model": "sam_tiny", "data": "scenes", "data_size": [SIZE, SIZE], "arguments": {}}
        metadata |= {"file_ids": list(train.file_ids), "void_id": train.void_id, "levels": list(levels)}
        history = fit(
            model,
            OnlyObjects(train, levels=levels),
            val if last else None,
            task=PromptTask(train.categories),
            config=replace(
                config,
                steps=its_steps,
                lr=stage.lr * config.lr,
                batch_size=stage.batch // int(os.environ.get("WORLD_SIZE", "1")),
            ),
            out=out if last else out / f"stage{number}",
            resume=True,
            metadata=metadata if last else None,
        )
        state, seconds = model.state_dict(), seconds + history.seconds
        told[f"loss_of_stage{number}"] = history.losses[its_steps]
    told |= {**history.scores[steps[-1]], "final_loss": history.losses[steps[-1]]}
    told |= {"seconds": round(seconds, 1), "cpu_seconds": round(time.process_time(), 1)}
    if os.environ.get("RANK", "0") == "0":  # of several processes one writes
        with atomic_path(out / "result.json") as beside:
            beside.write_text(json.dumps(told, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m seglib.book.experiments.sam_weights", description=__doc__)
    parser.add_argument("--encoder", type=Path, help="weights whose encoder the network starts from")
    parser.add_argument("--weights", type=Path, help="weights of sam_tiny that it starts from")
    parser.add_argument("--steps", type=int, nargs=2, required=True, help="optimiser steps of the two stages")
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
