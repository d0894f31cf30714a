"""What does each part of ASPP bring? DeepLab v3 trained with all its branches, and with some of them taken out.

The network is ``deeplab_tiny`` without the decoder at output stride 16, the setting of the paper's ablation. On scenes
of 128 pixels its map has 8 × 8 cells; rates of 1, 2 and 4 are to it about what the paper's 6, 12 and 18 are to a map of
33 × 33. With one seed what is left of a network starts from the same weights as in the full one.

A branch can also be silenced *after* training, by multiplying what it says by zero. That shows what a trained network
relies on, not what it would learn without. So the full networks are also scored with branches silenced.

Claim of Chen et al. (DeepLab v3, 2017, table 5): on PASCAL VOC 2012's validation set ResNet-101 at output stride 16 has
a mean IoU of 75.36 with the 1×1 and the three dilated branches; with multi-grid (1, 2, 4) 76.58, and 77.21 when image
pooling is added. It reports no network without the dilated branches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from seglib.book.experiments.compare import compare, only
from seglib.book.experiments.semantic import SceneTensors, predict_scenes
from seglib.data.scenes import CATEGORIES
from seglib.layers.aspp import ASPP
from seglib.metrics.confusion import ConfusionMatrix
from seglib.models.base import Model
from seglib.models.deeplab import DeepLabV3, deeplab_tiny

BRANCHES = ("1×1", "rate 1", "rate 2", "rate 4", "image pooling")
"""ASPP's branches, in its order."""

VARIANTS: dict[str, tuple[str, ...]] = {
    "all five": BRANCHES,
    "no image pooling": BRANCHES[:-1],
    "no dilated branch": ("1×1", "image pooling"),
    "1×1 alone": ("1×1",),
}
"""Name → the branches that the network has."""

SILENCED: dict[str, tuple[str, ...]] = {name: (name,) for name in BRANCHES} | {
    "the dilated branches": BRANCHES[1:-1],
    "all but 1×1": BRANCHES[1:],
}
"""Name → the branches of a full network that are multiplied by zero."""

PAPER = {"without image pooling": 0.7658, "with image pooling": 0.7721}
"""Mean IoU on PASCAL VOC 2012 as the paper reports it (table 5, multi-grid 1, 2, 4)."""


class Part(nn.Module):
    """ASPP with some of its branches, which share their weights with it: the others are gone, not silent.

    Args:
        aspp: ASPP with all its branches.
        kept: names in `BRANCHES`, at least one.
    """

    def __init__(self, aspp: ASPP, kept: Sequence[str]) -> None:
        super().__init__()
        places = [i for i, name in enumerate(BRANCHES) if name in kept]
        project: nn.Conv2d = aspp.project[0]  # type: ignore[assignment]  # torch types it as Tensor or Module
        parts = project.weight.chunk(len(aspp.convs), 1)  # (D, D, 1, 1) each
        mix = nn.Conv2d(len(places) * project.out_channels, project.out_channels, 1, bias=False)
        mix.weight = nn.Parameter(torch.cat([parts[i] for i in places], 1).detach().clone())
        self.convs = nn.ModuleList(aspp.convs[i] for i in places)
        self.project = nn.Sequential(mix, *aspp.project[1:])

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` → ``(B, D, h, w)``."""
        answers = [conv(x).expand(-1, -1, *x.shape[-2:]) for conv in self.convs]  # (B, D, h, w) each
        return self.project(torch.cat(answers, 1))


def build(kept: Sequence[str]) -> DeepLabV3:
    """DeepLab v3 at output stride 16 whose ASPP has the branches ``kept``."""
    model = deeplab_tiny(len(CATEGORIES), output_stride=16, decoder=False)
    assert isinstance(model, DeepLabV3)
    model.head[0] = Part(model.head[0], kept)  # type: ignore[arg-type]
    return model


@contextmanager
def silenced(model: DeepLabV3, names: Sequence[str]) -> Iterator[None]:
    """Multiplies what these branches of a full network say by zero."""
    convs: nn.ModuleList = model.head[0].convs  # type: ignore[assignment]
    hooks = [
        conv.register_forward_hook(lambda module, inputs, output: 0 * output)
        for name, conv in zip(BRANCHES, convs, strict=True)
        if name in names
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def run(
    *, seeds: Sequence[int], steps: int, variants: Sequence[str] = tuple(VARIANTS), **settings: Any
) -> dict[str, Any]:
    """Train every variant once for every seed and score it; the full network also with branches silenced.

    Args:
        seeds: one run per seed; a seed sets the model's initialisation and the order of the scenes.
        steps: optimiser steps of each run.
        variants: names in `VARIANTS`.
        **settings: further arguments of :func:`~seglib.book.experiments.compare.compare`.

    Returns:
        What ``compare`` returns, with ``variant`` in each run, and ``silenced`` (mIoU by name in `SILENCED`) in those
        of the full network.

    Raises:
        ValueError: without steps or scenes, or for an unknown variant.
    """
    chosen = only(variants, VARIANTS)

    def measure(model: Model, val: SceneTensors) -> dict[str, Any]:
        assert isinstance(model, DeepLabV3)
        if len(model.head[0].convs) < len(BRANCHES):  # type: ignore[arg-type]
            return {}
        found = {}
        for name, branches in SILENCED.items():
            with silenced(model, branches):
                matrix = ConfusionMatrix(CATEGORIES)
                matrix.update(predict_scenes(model, val), val.labels)
            found[name] = matrix.compute().miou
        return {"silenced": found}

    builders = {name: partial(build, kept) for name, kept in chosen.items()}
    found = compare(builders, key="variant", seeds=seeds, steps=steps, measure=measure, **settings)
    return {"model": "deeplab_tiny, output stride 16, without decoder", "paper_miou": PAPER, **found}
