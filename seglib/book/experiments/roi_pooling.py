"""What does rounding cost a mask? One mask head behind RoI Pooling and behind RoIAlign, on maps of several strides.

Everything but the pooling is the same in all runs: the encoder's maps, which are computed once and stay as they are,
the boxes, the head, its initialisation, the order of the objects and the number of steps. Boxes are the true ones, so
no detector can hide or add an error; in training their sides are moved at random by up to a tenth, as proposals would
be.

Between RoI Pooling and RoIAlign two things change, the rounding and the maximum. "rounded, bilinear" keeps the first
and drops the second: it rounds the box to the cells that RoI Pooling reads and samples these with RoIAlign, in the
manner of the RoIWarp that the paper compares with (Dai, He, Sun, CVPR 2016).

Claims of He et al. (Mask R-CNN, ICCV 2017): with ResNet-50-C4, stride 16, RoIAlign lifts the mask AP on COCO from 26.9
to 30.3, AP50 from 48.8 to 51.2 and AP75 from 26.4 to 31.5 (table 2c); with ResNet-50-C5, stride 32, AP from 23.6 to
30.9, AP50 from 46.5 to 51.8 and AP75 from 21.6 to 32.1 (table 2d). RoIWarp is no better than RoI Pooling.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seglib.book.experiments.compare import only
from seglib.book.experiments.training import last_tenth, minimise
from seglib.book.pretrained import stored_model
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.layers.roi_heads import MaskHead
from seglib.losses.two_stage import mask_loss, mask_targets
from seglib.models.fcn import FCN
from seglib.ops.paste import paste_masks
from seglib.ops.roi import roi_align, roi_pool

LEVELS = {4: "c2", 8: "c3", 16: "c4"}
"""Stride → the encoder's map."""

SIZE = 192
"""Height and width of the scenes."""

MIN_SIZE = 12.0
"""Objects whose box has a smaller side, √(wh), are left out: at stride 16 they are less than a cell."""

PATCH = 14
"""P: the head makes masks of twice as many cells a side."""

NUM_CLASSES = sum(category.isthing for category in CATEGORIES)

SHIFTS = tuple(round(0.1 * i, 1) for i in range(11))
"""Pixels by which boxes are shifted, right and down, for the scores ``shift_iou`` and ``wobble``."""

PAPER = {
    "16": {"RoI Pooling": [0.269, 0.488, 0.264], "RoIAlign": [0.303, 0.512, 0.315]},
    "32": {"RoI Pooling": [0.236, 0.465, 0.216], "RoIAlign": [0.309, 0.518, 0.321]},
}
"""Mask AP, AP50 and AP75 on COCO by stride, as He et al. report them in tables 2c and 2d."""

Pool = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def rounded_bilinear(features: Tensor, boxes: Tensor, images: Tensor, stride: int) -> Tensor:
    """RoIAlign of the cells that RoI Pooling reads: ``(R, C, P, P)``."""
    cells = torch.floor(boxes / stride + 0.5)  # (R, 4)
    whole = torch.cat([cells[:, :2], cells[:, 2:] + 1], 1) * stride  # the last cell counts as a whole
    return roi_align(features, whole, images, PATCH, strides=stride)


VARIANTS: dict[str, Pool] = {
    "RoI Pooling": lambda features, boxes, images, stride: roi_pool(features, boxes, images, PATCH, strides=stride),
    "rounded, bilinear": rounded_bilinear,
    "RoIAlign, not aligned": lambda features, boxes, images, stride: roi_align(
        features, boxes, images, PATCH, strides=stride, aligned=False
    ),
    "RoIAlign": lambda features, boxes, images, stride: roi_align(features, boxes, images, PATCH, strides=stride),
}
"""Name → what gives the patches."""


@dataclass(frozen=True)
class Objects:
    """The objects of many scenes, and the maps of these scenes.

    Attributes:
        maps: feature maps of the scenes: stride → ``(S, C, H/s, W/s)``.
        owners: ``(S, H, W)`` uint8, the number in its scene of the object that a pixel belongs to; 255 for none.
        scenes: index of each object's scene, ``(R,)`` int64.
        numbers: number of each object in its scene, ``(R,)`` uint8.
        boxes: boxes of the objects, ``(R, 4)`` xyxy.
        labels: classes of the objects, ``(R,)`` int64.
    """

    maps: Mapping[int, Tensor]
    owners: Tensor
    scenes: Tensor
    numbers: Tensor
    boxes: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def sides(self) -> Tensor:
        """Sizes of the objects, the root of their box's area in pixels, ``(R,)``."""
        return (self.boxes[:, 2:] - self.boxes[:, :2]).prod(1).sqrt()

    def masks(self, picked: Tensor) -> Tensor:
        """The masks of the objects ``picked`` (n,): ``(n, H, W)`` bool."""
        return self.owners[self.scenes[picked]] == self.numbers[picked, None, None]

    def pooled(self, pool: Pool, stride: int, picked: Tensor, boxes: Tensor) -> Tensor:
        """Patches ``(n, C, P, P)`` of the boxes ``(n, 4)``, from the maps of the scenes of the objects ``picked``."""
        used, images = self.scenes[picked].unique(return_inverse=True)
        return pool(self.maps[stride][used], boxes, images, stride)


@torch.no_grad()
def load_objects(
    length: int, split: str, *, strides: Sequence[int] = tuple(LEVELS), size: int = SIZE, device: str | None = None
) -> Objects:
    """The objects of the first ``length`` scenes of a split, with maps of the encoder of ``fcn_tiny``.

    Args:
        length: number of scenes.
        split: the split: "train", "val" or "test".
        strides: strides of the maps that are pooled from, in `LEVELS`.
        size: height and width of the scenes.
        device: device of all tensors; ``None`` is a GPU where there is one.

    Raises:
        ValueError: when ``length`` is not positive.
    """
    if length < 1:
        raise ValueError(f"length must be positive, got {length}; pass the number of scenes")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = stored_model("fcn_tiny").to(device)
    assert isinstance(model, FCN)
    maps: dict[int, list[Tensor]] = {stride: [] for stride in strides}
    owners, scenes, numbers, boxes, labels = [], [], [], [], []
    for i, sample in enumerate(Scenes(length, split=split, size=size, cache=False)[n] for n in range(length)):
        found = model.encoder(model.normalize(sample.image[None].to(device)))
        for stride in strides:
            maps[stride].append(found[LEVELS[stride]])
        objects = sample.instances
        assert objects is not None
        # no two objects share a pixel, so one map holds all masks
        number = torch.arange(len(objects), dtype=torch.uint8)
        owner = torch.full((size, size), 255, dtype=torch.uint8)
        for n, mask in zip(number, objects.masks, strict=True):
            owner[mask] = n
        side = objects.boxes[:, 2:] - objects.boxes[:, :2]  # (N, 2)
        kept = side.prod(1).sqrt() >= MIN_SIZE
        owners.append(owner)
        scenes.append(torch.full_like(objects.labels, i)[kept])
        numbers.append(number[kept])
        boxes.append(objects.boxes[kept])
        labels.append(objects.labels[kept])
    columns = (torch.cat(column).to(device) for column in (scenes, numbers, boxes, labels))
    return Objects({s: torch.cat(m) for s, m in maps.items()}, torch.stack(owners).to(device), *columns)


def train_head(
    head: MaskHead, pool: Pool, stride: int, data: Objects, *, steps: int, seed: int, batch_size: int, lr: float = 4e-3
) -> list[float]:
    """Train ``head`` in place on patches of moved boxes; the loss of every step.

    Which objects a step sees, and how their boxes are moved, depends on ``seed`` alone.

    Raises:
        ValueError: when ``steps`` is not positive.
    """
    if steps < 1:
        raise ValueError(f"steps must be positive, got {steps}")
    draw = torch.Generator().manual_seed(seed)
    order = torch.randint(len(data), (steps, batch_size), generator=draw).to(data.boxes.device)
    moves = (0.2 * torch.rand(steps, batch_size, 4, generator=draw) - 0.1).to(data.boxes.device)

    def loss_of(step: int) -> Tensor:
        picked = order[step]
        boxes = data.boxes[picked]  # (n, 4)
        boxes = boxes + moves[step] * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        logits = head(data.pooled(pool, stride, picked, boxes), data.labels[picked])  # (n, 2P, 2P)
        matches = torch.arange(len(picked), device=boxes.device)
        target = mask_targets(data.masks(picked), matches, boxes, logits.shape[-1], aligned=True, binary=True)
        return mask_loss(logits, target)

    return minimise(head, loss_of, steps=steps, lr=lr)


@torch.no_grad()
def mask_ious(head: MaskHead, pool: Pool, stride: int, data: Objects, *, shift: float = 0.0, count: int = 0) -> Tensor:
    """The IoU of each object's pasted mask with the true one, ``(R,)``.

    Args:
        head: mask head that was trained for ``pool`` and ``stride``.
        pool: function that gives the patches.
        stride: stride of the maps that are pooled from.
        data: the objects to score.
        shift: pixels by which every box is shifted right and down, where it is pooled and where it is pasted.
        count: number of objects to score, the first ones; 0 for all.
    """
    picked = torch.arange(count or len(data), device=data.boxes.device)
    drawn, truth = paste_all(head, pool, stride, data, shift=shift, count=count), data.masks(picked)
    return (drawn & truth).flatten(1).sum(1) / (drawn | truth).flatten(1).sum(1)


@torch.no_grad()
def paste_all(head: MaskHead, pool: Pool, stride: int, data: Objects, *, shift: float = 0.0, count: int = 0) -> Tensor:
    """The head's mask of each object in the image, ``(R, H, W)`` bool.

    Args:
        head: mask head that was trained for ``pool`` and ``stride``.
        pool: function that gives the patches.
        stride: stride of the maps that are pooled from.
        data: the objects.
        shift: pixels by which every box is shifted right and down, where it is pooled and where it is pasted.
        count: number of objects, the first ones; 0 for all.
    """
    found = []
    for picked in torch.arange(count or len(data), device=data.boxes.device).split(128):
        boxes = data.boxes[picked] + shift
        logits = head(data.pooled(pool, stride, picked, boxes), data.labels[picked])
        found.append(paste_masks(logits.sigmoid(), boxes, data.owners.shape[1:]))
    return torch.cat(found)


def score(head: MaskHead, pool: Pool, stride: int, data: Objects) -> dict[str, Any]:
    """How good masks are, and how they take shifts of their boxes by less than a pixel.

    Returns:
        ``iou``, the mean; ``at50`` and ``at75``, the share of masks with at least that IoU; ``shift_iou``, the mean IoU
        at each of `SHIFTS`; ``wobble``, by how much the IoU of one object differs over these shifts, largest minus
        smallest, on average. The last two are of the first 200 objects.
    """
    ious = mask_ious(head, pool, stride, data)
    count = min(200, len(data))
    shifted = torch.stack([mask_ious(head, pool, stride, data, shift=s, count=count) for s in SHIFTS])  # (11, n)
    return {
        "iou": round(ious.mean().item(), 5),
        "at50": round((ious >= 0.5).float().mean().item(), 5),
        "at75": round((ious >= 0.75).float().mean().item(), 5),
        "shift_iou": [round(v, 5) for v in shifted.mean(1).tolist()],
        "wobble": round((shifted.amax(0) - shifted.amin(0)).mean().item(), 5),
    }


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    strides: Sequence[int] = tuple(LEVELS),
    variants: Sequence[str] = tuple(VARIANTS),
    scenes: int = 300,
    val_scenes: int = 60,
    batch_size: int = 48,
    data: tuple[Objects, Objects] | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train a mask head once for every seed, stride and variant, and score its masks.

    Args:
        seeds: one run per seed; a seed sets the initialisation, the order of the objects and the moves of their boxes.
        steps: optimiser steps of each run.
        strides: strides of the maps that are pooled from, in `LEVELS`.
        variants: names of the variants to train, out of `VARIANTS`.
        scenes: number of scenes to train on, when ``data`` is not given.
        val_scenes: number of scenes to score on, when ``data`` is not given.
        batch_size: objects per step.
        data: training and held-out objects that are in memory already.
        report: function that is called with a line of text after every run.

    Returns:
        The settings, the paper's numbers, and ``runs``: one dict per run with ``variant``, ``stride``, ``seed``,
        ``loss`` (mean of the last tenth), ``cpu_seconds`` and the scores of `score`.

    Raises:
        ValueError: without steps or scenes, or for an unknown variant or stride.
    """
    chosen = only(variants, VARIANTS)
    if unknown := sorted(set(strides) - set(LEVELS)):
        raise ValueError(f"strides {unknown} are unknown; choose among {', '.join(map(str, LEVELS))}")
    train, val = data or (load_objects(scenes, "train"), load_objects(val_scenes, "val"))
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        for stride in strides:
            for name, pool in chosen.items():
                torch.manual_seed(seed)
                head = MaskHead(train.maps[stride].shape[1], NUM_CLASSES, hidden=32, depth=2, norm=True).to(
                    train.boxes.device
                )
                started = time.process_time()
                losses = train_head(head, pool, stride, train, steps=steps, seed=seed, batch_size=batch_size)
                seconds = round(time.process_time() - started, 1)
                found = score(head, pool, stride, val)
                facts = {"variant": name, "stride": stride, "seed": seed}
                runs.append(facts | {"loss": round(last_tenth(losses), 5), "cpu_seconds": seconds, **found})
                if report is not None:
                    scores = ", ".join(f"{key} {found[key]:.3f}" for key in ("iou", "at50", "at75", "wobble"))
                    report(f"seed {seed}, stride {stride}, {name}: {scores}")
    return {
        "model": "a mask head on frozen maps of fcn_tiny's encoder, true boxes",
        "data": f"scenes of {SIZE} pixels, things of {MIN_SIZE:.0f} pixels and more",
        "scenes": len(train.owners),
        "things": len(train),
        "val_scenes": len(val.owners),
        "val_things": len(val),
        "steps": steps,
        "batch_size": batch_size,
        "strides": list(strides),
        "variants": list(chosen),
        "shifts": list(SHIFTS),
        "paper": PAPER,
        "runs": runs,
    }
