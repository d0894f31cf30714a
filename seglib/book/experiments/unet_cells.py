"""What the experiments on touching cells share: drawn cells, training with a weight for every pixel, and their scores.

The images stand for the cell cultures of the U-Net paper: grey, noisy, crowded. Cells that touch are one pixel of
background apart in the labels, as the paper's ground truth has it, and that pixel is nearly as bright as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.models.base import Model
from seglib.ops.borders import border_weights
from seglib.train.loop import OnStep
from seglib.types import Category, Targets

CELL_CATEGORIES = (Category(0, "cell", True, (230, 159, 0)), Category(1, "background", False, (40, 44, 52)))
"""Two classes; things come first, so the background is class 1."""

CELL, BACKGROUND = 0, 1
_REACH = 2  # pixels: cells whose masks come that close to each other touch

Weighing = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Cells:
    """Drawn images of cells, on the device that trains.

    Attributes:
        images: drawn images, ``(N, 3, H, W)`` float32 in [0, 1], three equal channels.
        ids: cell of each pixel, ``(N, H, W)`` int64; 0 is background and 1, 2, … are the cells of each image.
    """

    images: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> Tensor:
        """Class ids ``(N, H, W)`` int64: 0 is a cell, 1 is background."""
        return torch.where(self.ids > 0, CELL, BACKGROUND)

    def to(self, device: torch.device | str) -> Cells:
        """A copy on ``device``."""
        return Cells(self.images.to(device), self.ids.to(device))


def draw_cells(length: int, *, size: int = 96, seed: int = 0, crowd: int = 16) -> Cells:
    """Images of crowded cells; the same seed gives the same images on every machine.

    Args:
        length: number of images.
        size: height and width in pixels.
        seed: sets what is drawn; images of different seeds have nothing in common.
        crowd: cells per 96 × 96 pixels; above 20 nearly all of them touch.

    Raises:
        ValueError: when ``length``, ``size`` or ``crowd`` is not positive.
    """
    if min(length, size, crowd) < 1:
        raise ValueError(f"length, size and crowd must be positive, got {length}, {size} and {crowd}")
    drawn = [_draw(np.random.default_rng((seed, n)), size, crowd) for n in range(length)]
    images = torch.from_numpy(np.stack([image for image, _ in drawn]))  # (N, H, W)
    return Cells(images[:, None].expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(np.stack([i for _, i in drawn])))


def _draw(draw: np.random.Generator, size: int, crowd: int) -> tuple[np.ndarray, np.ndarray]:
    """One image (H, W) float32 and its ids (H, W) int64."""
    count = max(1, round(crowd * (size / 96) ** 2))
    spots = draw.uniform(0, size, (count, 2))  # rows and columns
    for _ in range(12):  # cells that lie on each other push each other away
        apart = spots[:, None] - spots[None]  # (N, N, 2)
        gap = np.hypot(*apart.transpose(2, 0, 1)) + 1e-9  # (N, N)
        push = np.where(gap < 21, 0.25 * (21 - gap) / gap, 0.0)
        spots = np.clip(spots + (push[..., None] * apart).sum(1), 0, size)
    row, column = np.mgrid[:size, :size] + 0.5  # pixel centres
    dy, dx = row - spots[:, 0, None, None], column - spots[:, 1, None, None]  # (N, H, W)
    turn = draw.uniform(0, np.pi, (count, 1, 1))
    long, short = draw.uniform(10, 14, (count, 1, 1)), draw.uniform(8, 11, (count, 1, 1))
    u, v = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    angle = np.arctan2(v / short, u / long)
    phase, bump = draw.uniform(0, 2 * np.pi, (count, 1, 1)), draw.uniform(0, 0.12, (count, 1, 1))
    depth = np.hypot(u / long, v / short) / (1 + bump * np.sin(3 * angle + phase))  # 1 on the outline
    nearest = depth.argmin(0)  # (H, W)
    ids = np.where(depth.min(0) < 1, nearest + 1, 0)  # (H, W)
    wide = np.pad(ids, 1)
    for shift in ((2, 1), (1, 2)):  # where a cell's lower or right neighbour pixel is another cell, background shows
        other = wide[shift[0] : shift[0] + size, shift[1] : shift[1] + size]
        ids[(ids > 0) & (other > 0) & (other != ids)] = 0
    ids = _without_crumbs(ids)

    bright = draw.uniform(0.45, 0.75, count + 1)
    bright[0] = 0.28
    image = bright[np.where(depth.min(0) < 1, nearest + 1, 0)]  # the gap between touching cells keeps their brightness
    image = image - 0.16 * ((ids == 0) & (depth.min(0) < 1))  # … and is a shade darker
    image = image + 0.08 * _smooth(draw.standard_normal((size, size)), 3)  # texture
    image = _smooth(image, 0.7) + draw.normal(0, 0.05, (size, size))  # the microscope and its camera
    return image.clip(0, 1).astype(np.float32), ids.astype(np.int64)


def _without_crumbs(ids: np.ndarray, least: int = 30) -> np.ndarray:
    """The ids 1, 2, … of connected cells of at least that many pixels; the rest becomes background."""
    from scipy import ndimage

    parts, _ = ndimage.label(ids > 0)  # the gaps separate different cells; one id can fall apart into several
    sizes = np.bincount(parts.ravel())
    keep = np.flatnonzero(sizes >= least)
    keep = keep[keep > 0]
    table = np.zeros(len(sizes), np.int64)
    table[keep] = np.arange(1, len(keep) + 1)
    return table[parts]


def _smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur whose result has the standard deviation of the input where that is noise."""
    from scipy import ndimage

    blurred = ndimage.gaussian_filter(image, sigma, mode="reflect")
    return blurred / blurred.std() if sigma > 2 else blurred


def touching_pairs(ids: Tensor) -> list[tuple[int, int]]:
    """Pairs of ids, the smaller first, of cells that come within two pixels of each other.

    Args:
        ids: cell of each pixel, ``(H, W)``; 0 is background.
    """
    pairs: set[tuple[int, int]] = set()
    height, width = ids.shape
    for dy in range(_REACH + 1):
        for dx in range(-_REACH, _REACH + 1):
            left = ids[: height - dy, max(0, -dx) : width - max(0, dx)]
            right = ids[dy:, max(0, dx) : width - max(0, -dx)]
            met = (left > 0) & (right > 0) & (left != right)
            found = torch.stack([left[met], right[met]]).sort(0).values.T.unique(dim=0)  # (P, 2)
            pairs.update((int(a), int(b)) for a, b in found)
    return sorted(pairs)


def components(cells: Tensor) -> Tensor:
    """Connected components (over edges, not corners) of a mask: bool ``(H, W)`` → ids ``(H, W)`` int64, 0 outside."""
    from scipy import ndimage

    return torch.from_numpy(ndimage.label(cells.cpu().numpy())[0].astype(np.int64))


def score_cells(labels: Tensor, ids: Tensor) -> dict[str, Any]:
    """How well a prediction finds cells and keeps those apart that touch.

    Args:
        labels: predicted class ids, ``(N, H, W)``.
        ids: true cell of each pixel, ``(N, H, W)``; 0 is background.

    Returns:
        ``iou`` of the class cell; ``split``, the share of touching pairs whose two cells are both found and lie in two
        different components; ``merged``, the share of pairs that lie in one component; ``f1`` of objects, where a
        component and a cell match if their IoU is above 1/2; and ``pairs``, how many touch.
    """
    split = merged = pairs = matched = found = true = 0
    hit, union = 0, 0
    for predicted, truth in zip((labels == CELL).cpu(), ids.cpu(), strict=True):
        parts = components(predicted)  # (H, W)
        count, cells = int(parts.max()) + 1, int(truth.max()) + 1
        table = torch.bincount(truth.flatten() * count + parts.flatten(), minlength=cells * count).view(cells, count)
        hit += int(table[1:, 1:].sum())
        union += int(table.sum() - table[0, 0])
        own = table[:, 1:]  # (cells, components)
        largest, component = own.max(1) if count > 1 else (torch.zeros(cells), torch.zeros(cells))
        seen = 2 * largest > table.sum(1)  # (cells,): most of the cell lies in one component
        for a, b in touching_pairs(truth):
            pairs += 1
            both = bool(seen[a] & seen[b])
            split += both and bool(component[a] != component[b])
            merged += both and bool(component[a] == component[b])
        joint = table.sum(1, keepdim=True) + table.sum(0, keepdim=True) - table  # (cells, components)
        matched += int((2 * table[1:, 1:] > joint[1:, 1:]).sum())
        found, true = found + count - 1, true + cells - 1
    shares = {
        "iou": hit / union if union else 1.0,
        "split": split / pairs if pairs else 1.0,
        "merged": merged / pairs if pairs else 0.0,
        "f1": 2 * matched / (found + true) if found + true else 1.0,
    }
    return {name: round(share, 5) for name, share in shares.items()} | {"pairs": pairs}


def border_map(ids: Tensor, *, w0: float = 10.0, sigma: float = 5.0) -> Tensor:
    """The weights of the paper for one image, 1 + w₀ exp(−(d₁ + d₂)² / 2σ²): ids ``(H, W)`` → float32 ``(H, W)``."""
    return 1 + border_weights(ids, w0=w0, sigma=sigma)


def train_on_cells(
    model: Model,
    data: Cells,
    *,
    steps: int,
    seed: int,
    batch_size: int = 8,
    weighing: Weighing | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    lr: float = 2e-3,
    on_step: OnStep | None = None,
) -> list[float]:
    """Train ``model`` in place; flips and quarter turns are the only augmentation.

    The order of the images depends on ``seed`` alone, so models and weights that differ see the same batches.

    Args:
        model: any semantic model with two classes.
        data: images to train on.
        steps: optimiser steps.
        seed: sets the order of the images, the flips and the quarter turns.
        batch_size: images per step.
        weighing: gives the weight of every pixel from the ids ``(H, W)`` of an image; ``None``: equal weights.
        optimizer: optimiser of the model's weights; by default AdamW, whose learning rate falls to 0 along a cosine.
        lr: learning rate of the default optimiser.
        on_step: called after every step as in ``seglib.train.fit``.

    Returns:
        The loss of every step.

    Raises:
        ValueError: when ``steps`` is not positive.
    """
    if steps < 1:
        raise ValueError(f"steps must be positive, got {steps}")
    device = data.images.device
    draw = torch.Generator().manual_seed(seed)
    order = torch.randint(len(data), (steps, batch_size), generator=draw).to(device)
    turns = torch.randint(4, (steps,), generator=draw).tolist()
    flips = torch.randint(2, (steps,), generator=draw).tolist()
    weights = None if weighing is None else torch.stack([weighing(i) for i in data.ids])  # (N, H, W)
    schedule = None
    if optimizer is None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    labels, losses = data.labels, []
    model.train()
    for step in range(steps):

        def augmented(x: Tensor, step: int = step) -> Tensor:
            turned = torch.rot90(x[order[step]], turns[step], (-2, -1))
            return turned.flip(-1) if flips[step] else turned

        targets = Targets(semantic=augmented(labels), pixel_weight=None if weights is None else augmented(weights))
        loss = torch.stack(list(model.loss(model(augmented(data.images)), targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        losses.append(loss.item())
        if on_step is not None:
            on_step(step + 1, steps, losses[-1], 0.0, 0.0)
    model.eval()
    return losses


@torch.inference_mode()
def predict_cells(model: Model, data: Cells, *, batch_size: int = 25) -> Tensor:
    """The class ids that ``model`` predicts, ``(N, H, W)`` int64, on the data's device."""
    return torch.cat([torch.stack([p.labels for p in model.predict(i)]) for i in data.images.split(batch_size)])
