"""How often do two objects want the same cell? SOLO's grids from 4 × 4 to 64 × 64 cells, on scenes and on nuclei.

Nothing is trained. A cell of a grid stands for one object: where two centres lie in it, one object is lost. SOLO gives
an object the cells around its centre too, so it is lost only when others take all of them; and levels with grids of
their own keep objects of different sizes apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.book.experiments.instances import NUM_CLASSES
from seglib.data.dsb import DSB2018
from seglib.data.scenes import Scenes
from seglib.data.transforms import Keep
from seglib.losses.assign_grid import assign_grid
from seglib.models.solov2 import solov2_tiny
from seglib.ops.masks import centres_of_mass
from seglib.types import Instances, Sample

GRIDS = (4, 6, 8, 12, 16, 24, 32, 40, 64)
"""Cells along a side."""

COLUMNS = ("objects", "shared", "lost", "lost_region")


def cells_of_centres(objects: Instances, grid: int) -> Tensor:
    """The cell in which each object's centre of mass lies, row by row: ``(N,)`` int64."""
    height, width = objects.size
    centre, _ = centres_of_mass(objects.masks)  # (N, 2) column, row
    column, row = (centre * grid / centre.new_tensor([width, height])).long().unbind(1)
    return row * grid + column


def collisions(objects: Instances, grids: Sequence[int] = GRIDS) -> np.ndarray:
    """Counts of `COLUMNS` of one image on each grid, ``(grids, 4)``.

    ``shared`` are objects whose centre lies in a cell with another's, ``lost`` those for which no cell is left when a
    cell holds one of them, ``lost_region`` those that have no cell left by SOLO's assignment, centre region and all.
    """
    rows = []
    everything = [(0.0, float("inf"))] * len(grids)
    matches = assign_grid(objects.masks, objects.boxes, canvas=objects.size, grids=grids, ranges=everything).matches
    for grid, match in zip(grids, matches.split([g * g for g in grids]), strict=True):
        _, where, count = cells_of_centres(objects, grid).unique(return_inverse=True, return_counts=True)
        rows.append((len(objects), int((count[where] > 1).sum()), len(objects) - len(count), _lost(objects, match)))
    return np.array(rows)


def lost_on_levels(objects: Instances, grids: Sequence[int], ranges: Sequence[tuple[float, float]]) -> np.ndarray:
    """Number of objects of one image, and of those without a cell on any level: ``(2,)``."""
    found = assign_grid(objects.masks, objects.boxes, canvas=objects.size, grids=grids, ranges=ranges)
    return np.array([len(objects), _lost(objects, found.matches)])


def _lost(objects: Instances, matches: Tensor) -> int:
    return len(objects) - len(matches[matches >= 0].unique())


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 1000,
    root: Path | None = None,
    data: dict[str, Iterable[Sample]] | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Count the collisions on every grid.

    Args:
        seeds: the first one is that of the scenes and of the bootstrap.
        steps: number of resamples of the bootstrap over images.
        scenes: number of scenes.
        root: the folder of the nuclei of the Data Science Bowl 2018; ``None`` leaves them out.
        data: name → samples with objects, instead of scenes and nuclei.
        report: function that is called with a line of text for every row.

    Returns:
        ``grids``: one row for each set and grid with the number of ``objects`` and the shares ``shared``, ``lost`` and
        ``lost_region`` as :func:`collisions` counts them, each [share, lower end, upper end] of the middle 95% of the
        bootstrap; ``levels``: the share of objects of each set without a cell on the grids and scales of `solov2_tiny`;
        and ``sizes``: quartiles of the objects' √(wh) in shares of the image's √(WH).

    Raises:
        ValueError: without scenes or resamples.
        FileNotFoundError: when there are no nuclei in ``root``.
    """
    if steps < 1 or scenes < 1:
        raise ValueError(f"steps (resamples) and scenes must be positive, got {steps} and {scenes}")
    if data is None:
        data = {"scenes": _read(Scenes(scenes, split="train", seed=seeds[0], transform=Keep("instances"), cache=False))}
        if root is not None:
            data["nuclei"] = _read(DSB2018(root, "trainval"))
    tiny = solov2_tiny(NUM_CLASSES)
    grids, ranges = tiny.head.grids, tiny.training_settings.ranges
    found: dict[str, Any] = {"resamples": steps, "images": {}, "sizes": {}, "grids": [], "levels": []}
    for name, samples in data.items():
        counts, levels, sizes = [], [], []
        for sample in samples:
            objects = sample.instances
            assert objects is not None  # both sets annotate their objects
            counts.append(collisions(objects))
            levels.append(lost_on_levels(objects, grids, ranges))
            height, width = objects.size
            sizes.append(((objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(1) / (height * width)).sqrt())
        draws = np.random.default_rng(seeds[0]).integers(len(counts), size=(steps, len(counts)))
        found["images"][name] = len(counts)
        found["sizes"][name] = [round(float(q), 5) for q in torch.cat(sizes).quantile(torch.tensor([0.25, 0.5, 0.75]))]
        for grid, of_images in zip(GRIDS, np.stack(counts, 1), strict=True):  # (images, 4)
            shares = {c: _share(of_images[:, i], of_images[:, 0], draws) for i, c in enumerate(COLUMNS) if i}
            found["grids"].append({"data": name, "grid": grid, "objects": int(of_images[:, 0].sum()), **shares})
            if report is not None:
                report(f"{name}, {grid} × {grid}: " + ", ".join(f"{c} {v[0]:.4f}" for c, v in shares.items()))
        total, lost = np.stack(levels, 1)
        found["levels"].append({"data": name, "model": "solov2_tiny", "lost_region": _share(lost, total, draws)})
        if report is not None:
            report(f"{name}, levels of solov2_tiny: lost {found['levels'][-1]['lost_region'][0]:.4f}")
    finite = [[low, None if high == float("inf") else high] for low, high in ranges]
    return {**found, "level_grids": list(grids), "level_ranges": finite}


def _read(data: Scenes | DSB2018) -> Iterable[Sample]:
    return (data[i] for i in range(len(data)))


def _share(part: np.ndarray, whole: np.ndarray, draws: np.ndarray) -> list[float]:
    """Sum over sum of all images, and the middle 95% over draws of images."""
    drawn = part[draws].sum(1) / whole[draws].sum(1).clip(min=1)  # (resamples,)
    values = (part.sum() / max(1, whole.sum()), *np.quantile(drawn, [0.025, 0.975]))
    return [round(float(v), 5) for v in values]
