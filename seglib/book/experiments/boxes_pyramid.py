"""What does a pyramid bring? Region proposals from a feature pyramid, from parts of it, and from single maps.

==================  =================================================================================================
pyramid             FPN on the maps of stride 2 to 32, anchors of one size on each
no top-down         the same five maps and anchors, but each map for itself
stride 8            the encoder's map of stride 8 alone, anchors of all five sizes in every cell
stride 16           that of stride 16
foreground 0.7      the pyramid, trained with the paper's foreground IoU threshold of 0.7, not 0.5
==================  =================================================================================================

Lin et al. (CVPR 2017, table 1) compare pyramid, pyramid without the top-down pathway and single maps so on COCO, with
ResNet-50. Every network starts from the encoder of ``fcn_tiny``, as theirs start from ImageNet's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from seglib.book.experiments.compare import only
from seglib.book.experiments.training import draw_batches, last_tenth, minimise
from seglib.book.pretrained import stored_model
from seglib.data.scenes import Scenes
from seglib.layers.anchors import Anchors
from seglib.layers.fpn import FPN
from seglib.layers.rpn import RPNHead, propose
from seglib.losses.assign import match_boxes, sample_balanced
from seglib.losses.two_stage import rpn_loss
from seglib.ops.boxes import box_iou

LEVELS = ("c1", "c2", "c3", "c4", "c5")
STRIDES = (2, 4, 8, 16, 32)
SIZES = (6.0, 12.0, 24.0, 48.0, 96.0)
BINS: dict[str, tuple[float, float]] = {"small": (0, 8), "medium": (8, 24), "large": (24, float("inf"))}
"""Sizes of objects: the root of their box's area in pixels."""
IOUS = tuple(i / 100 for i in range(50, 100, 5))
COUNTS = (10, 20, 50, 100, 200)


@dataclass(frozen=True)
class BoxScenes:
    """Scenes in memory.

    Attributes:
        images: the scenes, ``(N, 3, H, W)`` uint8.
        boxes: the objects' boxes of each scene, ``(M, 4)``.
    """

    images: Tensor
    boxes: list[Tensor]

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> BoxScenes:
        """The same scenes on another device."""
        return BoxScenes(self.images.to(device), [b.to(device) for b in self.boxes])


def box_scenes(length: int, split: str, *, size: int = 128) -> BoxScenes:
    """The first ``length`` scenes of a split and the boxes of their objects.

    Raises:
        ValueError: when ``length`` is not positive.
    """
    if length < 1:
        raise ValueError(f"length must be positive, got {length}; pass the number of scenes")
    scenes = [Scenes(length, split=split, size=size, cache=False)[i] for i in range(length)]
    images = torch.stack([(s.image * 255).round().to(torch.uint8) for s in scenes])
    return BoxScenes(images, [s.instances.boxes for s in scenes if s.instances is not None])


class _SideBySide(nn.Module):
    """FPN's convolutions without its top-down pathway: every map for itself."""

    def __init__(self, channels_in: Sequence[int], channels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(FPN([c], channels, norm=True) for c in channels_in)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [level([m])[0] for level, m in zip(self.levels, maps, strict=True)]


class Proposer(nn.Module):
    """Tiny encoder, pyramid and RPN head: the first stage of a detector.

    Args:
        levels: indices into `LEVELS` of the encoder's maps that the pyramid is built on, finest first: all of them,
            with anchors of one of `SIZES` on each, or a single one, with anchors of all.
        top_down: whether deep maps are added to shallow ones.
        channels: channels of the pyramid's levels.
        foreground_iou: IoU threshold from which an anchor is foreground in training.
    """

    def __init__(
        self,
        levels: Sequence[int] = (0, 1, 2, 3, 4),
        *,
        top_down: bool = True,
        channels: int = 32,
        foreground_iou: float = 0.5,
    ) -> None:
        super().__init__()
        start = stored_model("fcn_tiny")
        self.normalize: Any = start.normalize
        self.encoder: Any = start.encoder
        self.levels, self.foreground_iou = [LEVELS[i] for i in levels], foreground_iou
        channels_in: Any = [self.encoder.channels[level] for level in self.levels]  # type: ignore[index, union-attr]
        pyramid: Any = partial(FPN, norm=True) if top_down else _SideBySide
        self.fpn = pyramid(channels_in, channels)
        sizes = (SIZES,) if len(levels) == 1 else tuple((SIZES[i],) for i in levels)
        self.anchors = Anchors(sizes=sizes, strides=tuple(STRIDES[i] for i in levels), offset=0.5)
        self.head = RPNHead(channels, self.anchors.per_cell)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Images ``(B, 3, H, W)`` in [0, 1] → logits, deltas and anchors of each level, as ``RPNHead`` gives them."""
        maps = self.encoder(self.normalize(images))
        pyramid = self.fpn([maps[level] for level in self.levels])
        return *self.head(pyramid), self.anchors([p.shape[-2:] for p in pyramid], images.device)

    def loss(self, images: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """Objectness and anchor loss of a batch whose objects have these boxes, ``(M, 4)`` of each image."""
        logits, deltas, levels = self(images)
        logit, delta, anchors = torch.cat(logits, 1), torch.cat(deltas, 1), torch.cat(levels)
        rows = []
        for i, truth in enumerate(boxes):
            matches = match_boxes(
                box_iou(truth, anchors),
                foreground_iou=self.foreground_iou,
                background_iou=0.3,
                allow_low_quality_matches=True,
            )  # (A,)
            picked = sample_balanced(matches, 128, 0.5)  # (S,)
            match = matches[picked]
            target = truth[match.clamp(min=0)] if len(truth) else anchors[picked]
            rows.append((logit[i, picked], delta[i, picked], anchors[picked], target, match >= 0))
        return torch.stack(rpn_loss(*(torch.cat(column) for column in zip(*rows, strict=True)))).sum()

    def propose(self, images: Tensor, count: int) -> Tensor:
        """The ``count`` best boxes of each image, ``(B, count, 4)``, zeros where there are fewer."""
        logits, deltas, anchors = self(images)
        size = images.shape[-2:]
        return propose(logits, deltas, anchors, size, pre_nms_top_k=1000 // len(anchors), post_nms_top_k=count)[0]


VARIANTS: dict[str, Callable[[], Proposer]] = {
    "pyramid": Proposer,
    "no top-down": partial(Proposer, top_down=False),
    "stride 8": partial(Proposer, (2,)),
    "stride 16": partial(Proposer, (3,)),
    "foreground 0.7": partial(Proposer, foreground_iou=0.7),
}


def train_proposer(net: Proposer, data: BoxScenes, *, steps: int, seed: int, batch_size: int, lr: float) -> list[float]:
    """Train in place with AdamW and the poly schedule, with horizontal flips; returns the loss of every step.

    Raises:
        ValueError: when ``steps`` is not positive.
    """
    picked, flips = draw_batches(len(data), steps=steps, batch_size=batch_size, seed=seed)
    width = data.images.shape[-1]

    def loss_of(step: int) -> Tensor:
        images, boxes = data.images[picked[step]].float() / 255, [data.boxes[i] for i in picked[step].tolist()]
        flip = flips[step].to(images.device)
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        boxes = [_flip(b, width) if f else b for b, f in zip(boxes, flips[step].tolist(), strict=True)]
        return net.loss(images, boxes)

    return minimise(net, loss_of, steps=steps, lr=lr)


def _flip(boxes: Tensor, width: int) -> Tensor:
    """Boxes ``(M, 4)`` in the flipped image: left and right change places."""
    x0, y0, x1, y1 = boxes.unbind(1)
    return torch.stack([width - x1, y0, width - x0, y1], 1)


def recalls(proposals: Sequence[Tensor], boxes: Sequence[Tensor], counts: Sequence[int]) -> dict[str, Any]:
    """How many objects the first proposals reach.

    An object is reached at an IoU when any of the first n proposals overlaps it that much; one proposal may reach
    several.

    Args:
        proposals: the proposals of each image, ``(P, 4)`` by falling score.
        boxes: the objects' boxes of each image, ``(M, 4)``.
        counts: numbers n of proposals to score.

    Returns:
        ``recall``: bin of `BINS` or ``"all"`` → the share of objects reached at IoU 0.5, for each n; and ``ar``: the
        mean of the shares over `IOUS`. NaN without objects.
    """
    sides = torch.cat([b[:, 2:] - b[:, :2] for b in boxes])  # (M, 2) of all images
    size = sides.prod(1).sqrt()  # (M,)
    groups = {"all": torch.ones_like(size, dtype=torch.bool)}
    groups |= {name: (size >= low) & (size < high) for name, (low, high) in BINS.items()}
    overlaps = [box_iou(b, p) for b, p in zip(boxes, proposals, strict=True)]
    best = torch.stack([torch.cat([o[:, :n].amax(1) for o in overlaps]) for n in counts])  # (counts, M)
    reached = torch.stack([best >= iou for iou in IOUS]).float()  # (IoUs, counts, M)
    return {
        "recall": {name: reached[0][:, inside].mean(1).tolist() for name, inside in groups.items()},
        "ar": {name: reached[:, :, inside].mean((0, 2)).tolist() for name, inside in groups.items()},
    }


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    variants: Sequence[str] = tuple(VARIANTS),
    scenes: int = 500,
    val_scenes: int = 100,
    batch_size: int = 4,
    lr: float = 4e-3,
    data: tuple[BoxScenes, BoxScenes] | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train every variant once for every seed, and measure the recall of its proposals on held-out scenes.

    With one seed all variants see the same batches.

    Args:
        seeds: one run per seed; a seed sets the initialisation and the order of the scenes.
        steps: optimiser steps of each run.
        variants: names of the variants to train, out of `VARIANTS`.
        scenes: number of scenes to train on, when ``data`` is not given.
        val_scenes: number of scenes to score on, when ``data`` is not given.
        batch_size: scenes per step.
        lr: highest learning rate.
        data: training and held-out scenes that are in memory already.
        report: function that is called with a line of text after every run.

    Returns:
        The settings, the number of held-out ``objects`` in each bin, and ``runs``: one dict per run with ``variant``,
        ``seed``, ``anchors`` (their number), ``loss`` (mean of the last tenth), ``seconds`` (of training, CPU time of
        this process) and what `recalls` gives for ``counts``.

    Raises:
        ValueError: without steps or scenes, or for an unknown variant.
    """
    builders: Mapping[str, Callable[[], Proposer]] = only(variants, VARIANTS)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, val = data or (box_scenes(scenes, "train").to(device), box_scenes(val_scenes, "val").to(device))
    sizes = torch.cat([(b[:, 2:] - b[:, :2]).prod(1).sqrt() for b in val.boxes])
    objects = {name: int(((sizes >= low) & (sizes < high)).sum()) for name, (low, high) in BINS.items()}
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        for name, build in builders.items():
            torch.manual_seed(seed)
            net = build().to(train.images.device)
            torch.manual_seed(seed)  # the sampling of anchors too
            started = time.process_time()
            losses = train_proposer(net, train, steps=steps, seed=seed, batch_size=batch_size, lr=lr)
            seconds = round(time.process_time() - started, 1)
            with torch.no_grad():
                parts = [net.propose(part.float() / 255, max(COUNTS)) for part in val.images.split(25)]
                shapes = [[val.images.shape[-2] // s, val.images.shape[-1] // s] for s in net.anchors.strides]
            found = recalls(list(torch.cat(parts)), val.boxes, COUNTS)
            facts = {"variant": name, "seed": seed, "anchors": sum(len(a) for a in net.anchors(shapes))}
            facts |= {"loss": last_tenth(losses), "seconds": seconds}
            runs.append(_rounded(facts | found))
            if report is not None:
                ar = ", ".join(f"{size} {values[COUNTS.index(100)]:.3f}" for size, values in found["ar"].items())
                report(f"seed {seed}, {name}: AR at 100: {ar}; {seconds} s")
    settings = {"data": "scenes", "scenes": len(train), "val_scenes": len(val), "objects": objects, "steps": steps}
    return {**settings, "batch_size": batch_size, "counts": list(COUNTS), "variants": list(builders), "runs": runs}


def _rounded(value: Any) -> Any:
    """Numbers with five decimals, inside dicts and lists too; NaN, which JSON has not, becomes ``None``."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    if isinstance(value, float):
        return None if value != value else round(value, 5)
    return value
