"""Is it enough to fine-tune the decoder? ``sam_tiny`` brought from scenes to slices of CTs.

The encoder, which takes nearly all the time at full size, sees each image once if it stays as it is. A few volumes are
there to train on, as in medicine. Two networks go on from the stored weights, on the same slices for the same steps:

- decoder alone: the image encoder stays as it is;
- all weights.

What is forgotten of scenes is measured, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seglib.book.experiments.compare import every_run
from seglib.book.experiments.prompts import (
    SCORES,
    few_prompts,
    mean_scores,
    objects_of,
    scenes_to_prompt,
    starting_from,
    train_prompts,
)
from seglib.book.experiments.queries import differences
from seglib.book.experiments.slices import STRUCTURES, Slices
from seglib.book.pretrained import stored_model
from seglib.layers.frozen import freeze
from seglib.models.sam import Sam
from seglib.train.sampling import Samples

LR = 5e-4
"""A fourth of the learning rate of the recipe."""

BEFORE, DECODER, WHOLE = "as it is", "decoder alone", "all weights"
VARIANTS = {DECODER: True, WHOLE: False}
"""Name of a variant → whether its encoder stays as it is."""
PAIRS = ((DECODER, BEFORE), (WHOLE, BEFORE), (DECODER, WHOLE))


class Fixed(nn.Module):
    """A network that is not trained: it has no gradients, and its batch norms keep their statistics.

    Args:
        network: the network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        freeze(network)

    def train(self, mode: bool = True) -> Fixed:
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Any) -> Any:
        """What the network makes of x."""
        return self.network(x)


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 8,
    val_volumes: int = 8,
    val_scenes: int = 15,
    batch_size: int = 8,
    model: Sam | None = None,
    data: tuple[Samples, Samples, Samples] | None = None,
    keep: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Fine-tune both networks once for every seed, and score them on held-out slices and scenes.

    Args:
        seeds: one run per seed; a seed sets the order of the slices and the prompts of training.
        steps: optimiser steps of each network that is trained.
        scenes: number of volumes to train on, when ``data`` is not given.
        val_volumes: number of held-out volumes to score on, when ``data`` is not given.
        val_scenes: number of held-out scenes to score on, when ``data`` is not given.
        batch_size: slices per step.
        model: where both start; the stored weights of ``sam_tiny`` when not given.
        data: slices to train on at the size that the model sees, held-out slices, and held-out scenes.
        keep: a file of finished runs; those that are in it are not made again.
        report: function that is called with a line of text after every run.

    Returns:
        The settings; ``runs``: one dict per seed and ``variant`` with ``trained`` (number of weights that are trained),
        what training tells, the mean IoU after one and five clicks and with a box on slices (``at_1``, ``at_5``,
        ``box``) and on scenes (``scenes_at_1``, …), and of each structure in ``structures``; ``before``: the same
        without training; and ``differences``: a list of ``a``, ``b`` and for each score the mean over the seeds of a
        minus b with the ends of its 95% t-interval (left out for a single seed).

    Raises:
        ValueError: without steps, scenes or volumes, or when no weights are stored.
    """
    if steps < 1:
        raise ValueError(f"steps must be positive, got {steps}")
    start = model or stored_model("sam_tiny")
    assert isinstance(start, Sam)
    start.eval()
    train, val, other = data or (
        Slices(scenes, "train", geometry=start.geometry),
        Slices(val_volumes, "val"),
        scenes_to_prompt(val_scenes, "val"),
    )
    settings = {
        "slices": len(train), "val_slices": len(val), "val_scenes": len(other), "steps": steps,
        "batch_size": batch_size,
    }  # fmt: skip
    labels = torch.cat([objects_of(val[i]).labels for i in range(len(val))])

    def scored(net: Sam) -> dict[str, Any]:
        ious = torch.cat(few_prompts(net, val))
        found = mean_scores(ious) | mean_scores(torch.cat(few_prompts(net, other)), "scenes_")
        return found | {"structures": {c.name: mean_scores(ious[labels == c.id]) for c in STRUCTURES}}

    def train_and_score(fixed: bool, seed: int) -> dict[str, Any]:
        build = starting_from(start)
        net, facts = train_prompts(
            (lambda: with_fixed_encoder(build())) if fixed else build, train, steps=steps, seed=seed,
            batch_size=batch_size, lr=LR,
        )  # fmt: skip
        trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
        return {"seed": seed, "trained": trained, **facts, **scored(net)}

    scores = [*SCORES, *(f"scenes_{s}" for s in SCORES)]
    runs = every_run(
        VARIANTS, train_and_score, key="variant", seeds=seeds, shown=scores, report=report, keep=keep, settings=settings
    )
    before = {"variant": BEFORE, "trained": 0, **scored(start)}
    both = [*({**before, "seed": seed} for seed in seeds), *runs]
    return {
        "model": "sam_tiny", "data": "volumes", **settings, "lr": LR,
        "objects": {c.name: int((labels == c.id).sum()) for c in STRUCTURES},
        "before": before, "runs": runs,
        "differences": [{"a": a, "b": b, **differences(both, (a, b), scores)} for a, b in PAIRS],
    }  # fmt: skip


def with_fixed_encoder(model: Sam) -> Sam:
    """The model, of whose image encoder nothing is trained."""
    model.encoder, model.neck = Fixed(model.encoder), Fixed(model.neck)
    return model
