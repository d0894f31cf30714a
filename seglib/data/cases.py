"""Volumes on disk behind memory maps: each case is read and checked once, then a patch costs its own voxels alone.

A gzipped NIfTI file has to be unpacked whole, seconds for a CT, before one voxel of it is known. :class:`StoredCases`
does that once for each case and writes, into one folder::

    NAME.image.npy         (C, D, H, W) uint8 or int16 where that loses nothing (CT in whole HU), else float32
    NAME.labels.npy        (D, H, W) uint8, 255 void
    NAME.foreground.npy    (N,) int64, where some voxels of each class lie
    NAME.json              id, spacing, voxels of each class, source; written last: the case is complete

``NAME`` is a hash of what the case was made from, so a changed file is another case, and splits and folds share theirs.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from seglib.data.checks import LabelCounts
from seglib.files import atomic_path
from seglib.ops.labels import check_labels
from seglib.types import VOID, Sample

if TYPE_CHECKING:
    from seglib.data.catalog import SegmentationDataset

SAMPLED_VOXELS = 10_000
"""The voxels of a class that a case remembers at most, evenly spaced among all of them."""

_FORMAT = 1  # part of the name: a new one makes files of an old one invisible
_HOUR = 3600.0


@dataclass(frozen=True)
class Case:
    """A volume with what is needed to find its foreground.

    Attributes:
        sample: image ``(C, D, H, W)`` uint8, int16 or float32 in the dataset's units, semantic ``(D, H, W)`` uint8.
        voxels: label → number of voxels with it, of the labels that occur, void among them.
        places: ``(N,)`` int64 indices into the flattened volume, up to :data:`SAMPLED_VOXELS` of each foreground
            class, class after class.
    """

    sample: Sample
    voxels: dict[int, int]
    places: Tensor

    @property
    def foreground(self) -> dict[int, Tensor]:
        """Class → ``(n,)`` indices of voxels of it, for each class but background (0) and void that occurs."""
        counts = {label: min(n, SAMPLED_VOXELS) for label, n in self.voxels.items() if label not in (0, VOID)}
        return dict(zip(counts, self.places.split(list(counts.values())), strict=True))


class StoredCases(Dataset[Sample]):
    """A dataset of volumes, of which each case is read and checked once.

    Samples come with the image in its stored type and with uint8 labels; with a folder both are memory-mapped, so that
    only what is touched is read. Several processes may use one folder at once, for reading and storing. A case is
    stored when it is first asked for; killed meanwhile, it is stored anew the next time.

    Args:
        dataset: samples of volumes ``(C, D, H, W)`` with a semantic map, without augmentation. For a folder it has a
            method ``source(index) -> str`` that says what a case is made from, cheaply (paths, sizes and times of
            change of its files): another text is another case.
        folder: where the cases are stored; it is made if it is missing. ``None`` keeps them in memory.

    Attributes:
        categories: the class table of ``dataset``; ``file_ids`` and ``void_id`` are those of ``dataset``, too.
        size: ``None``: each case has its own size.

    Raises:
        ValueError: at once, for an empty dataset or one without ``source`` where a folder is given. When a case is
            read: for a sample that is no volume, without a semantic map or with one of another shape, with NaN or
            infinity, with a label outside the class table, or with a spacing that isn't three positive numbers; for a
            stored file that is damaged.
    """

    size = None

    def __init__(self, dataset: SegmentationDataset, folder: str | os.PathLike[str] | None = None) -> None:
        if len(dataset) == 0:
            raise ValueError("there are no cases to store, the dataset is empty; check its folder or its split")
        if folder is not None and not hasattr(dataset, "source"):
            raise ValueError(
                f"{type(dataset).__name__} does not say what its cases are made from, so a change of them would not be"
                " noticed; give it a method source(index) -> str, or keep the cases in memory with folder=None"
            )
        self.categories, self.file_ids, self.void_id = dataset.categories, dataset.file_ids, dataset.void_id
        self._dataset = dataset
        self._folder = None if folder is None else Path(folder)
        self._kept: dict[int, Case] = {}

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        return self.case(index).sample

    def case(self, index: int) -> Case:
        """The case at ``index``, stored on the way if it wasn't.

        Raises:
            IndexError: when there is no such case.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"there is no case {index} among {len(self)}")
        if self._folder is None:
            if index not in self._kept:
                self._kept[index] = _examine(self._dataset[index], len(self.categories))
            return self._kept[index]
        source = self._dataset.source(index)  # type: ignore[attr-defined]  # checked in the constructor
        content = repr((_FORMAT, [c.name for c in self.categories], self.file_ids, source))
        stem = self._folder / hashlib.sha256(content.encode()).hexdigest()[:20]
        if not _part(stem, "json").exists():
            _write(_examine(self._dataset[index], len(self.categories)), stem, source)
        return _read(stem)

    def foreground_values(self, index: int) -> Tensor:
        """Intensities ``(C, N)`` of foreground voxels of a case, each class in proportion to its size.

        They are in the dataset's units; N is at most :data:`SAMPLED_VOXELS` times the number of classes. With them
        :func:`seglib.ops.intensity.fit_ct` finds the window of a data set.
        """
        case = self.case(index)
        counts = [case.voxels[label] for label in case.foreground]
        share = min(1.0, SAMPLED_VOXELS / max(counts, default=1))
        parts = [_spread(at, math.ceil(share * n)) for at, n in zip(case.foreground.values(), counts, strict=True)]
        return case.sample.image.flatten(1)[:, torch.cat([case.places[:0], *parts])]

    def count_labels(self, needs: str, indices: Sequence[int]) -> LabelCounts:
        """What :func:`seglib.data.checks.count_labels` asks for, from the counts that are stored with each case."""
        if needs != "semantic":
            raise ValueError(f"stored cases have a semantic map alone, not {needs!r}; use the dataset itself")
        counts = torch.zeros(VOID + 1, dtype=torch.int64)
        for index in indices:
            for label, n in self.case(index).voxels.items():
                counts[label] += n
        classes = tuple(counts[: len(self.categories)].tolist())
        return LabelCounts(needs, classes, len(indices), len(self), int(counts.sum()), int(counts[VOID]))


def _examine(sample: Sample, num_classes: int) -> Case:
    """The case of a sample, after checking it."""
    labels, image = sample.semantic, sample.image
    if image.ndim != 4:
        raise ValueError(
            f"sample {sample.id!r} is no volume (C, D, H, W): its image is {tuple(image.shape)}; a 2D image is a volume"
            " of one slice, image[:, None]"
        )
    if labels is None:
        raise ValueError(f"sample {sample.id!r} has no semantic map; use a dataset whose samples have one")
    if labels.shape != image.shape[1:]:
        raise ValueError(
            f"sample {sample.id!r}: the semantic map is {tuple(labels.shape)} and the image {tuple(image.shape[1:])}"
            " (D, H, W); resample one to the grid of the other"
        )
    if labels.numel() == 0:
        raise ValueError(f"sample {sample.id!r} has no voxels: it is {tuple(labels.shape)} (D, H, W); leave it out")
    spacing = sample.spacing
    if spacing is not None and not (len(spacing) == 3 and all(math.isfinite(s) and s > 0 for s in spacing)):
        raise ValueError(
            f"sample {sample.id!r}: spacing is three positive numbers of millimetres (z, y, x), got {spacing};"
            " correct the header of its file"
        )
    low, high = (v.item() for v in image.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(
            f"sample {sample.id!r} has NaN or infinite voxels; replace them, e.g. by the value of air, or leave it out"
        )
    for z, part in enumerate(labels):  # the check needs several times the memory of what it gets
        try:
            check_labels(part, num_classes, VOID)
        except ValueError as error:
            raise ValueError(f"sample {sample.id!r}, slice {z}: {error}") from error
    labels = labels.to(torch.uint8)
    voxels = {label: n for label, n in enumerate(torch.bincount(labels.flatten()).tolist()) if n}
    places = [
        _spread((labels.flatten() == label).nonzero()[:, 0], SAMPLED_VOXELS)
        for label in voxels
        if label not in (0, VOID)
    ]
    stored = Sample(_compact(image, low, high), sample.id, semantic=labels, spacing=spacing)
    return Case(stored, voxels, torch.cat([torch.empty(0, dtype=torch.int64), *places]))


def _spread(values: Tensor, most: int) -> Tensor:
    """Evenly spaced ones of ``values`` ``(N,)`` where there are more than ``most``."""
    n = min(len(values), most)
    return values[torch.arange(n) * len(values) // max(n, 1)]


def _compact(image: Tensor, low: float, high: float) -> Tensor:
    """The image in the first of uint8, int16 and float32 that holds its values."""
    for dtype in (torch.uint8, torch.int16):
        limits = torch.iinfo(dtype)
        if limits.min <= low and high <= limits.max:
            whole = image.to(dtype)
            if bool((whole == image).all()):
                return whole
    return image.float()


def _part(stem: Path, name: str) -> Path:
    return stem.with_name(f"{stem.name}.{name}")


def _write(case: Case, stem: Path, source: str) -> None:
    """Write a case; its JSON file comes last and says that the others are whole."""
    for half in stem.parent.glob(f".{stem.name}.*"):  # of a process that was killed; a living one writes on
        with suppress(FileNotFoundError):  # another worker has just finished it
            if time.time() - half.stat().st_mtime > _HOUR:
                half.unlink()
    sample = case.sample
    assert sample.semantic is not None
    for name, values in (("image", sample.image), ("labels", sample.semantic), ("foreground", case.places)):
        with atomic_path(_part(stem, f"{name}.npy")) as path:
            np.save(path, values.numpy())
    record = {"id": sample.id, "spacing": sample.spacing, "voxels": case.voxels, "source": source}
    with atomic_path(_part(stem, "json")) as path:
        path.write_text(json.dumps(record, indent=1))


def _read(stem: Path) -> Case:
    """A case whose tensors are memory maps."""
    path = _part(stem, "json")
    try:
        record = json.loads(path.read_text())
        tensors = []
        for path in (_part(stem, f"{name}.npy") for name in ("image", "labels", "foreground")):
            # "c": what is written to the tensor stays in memory. A read-only array makes torch warn.
            tensors.append(torch.from_numpy(np.load(path, mmap_mode="c")))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and {_part(stem, 'json')}, then run again") from error
    image, labels, places = tensors
    spacing = None if record["spacing"] is None else tuple(record["spacing"])
    sample = Sample(image, record["id"], semantic=labels, spacing=spacing)
    return Case(sample, {int(label): n for label, n in record["voxels"].items()}, places)
