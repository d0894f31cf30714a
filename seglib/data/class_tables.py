"""Class tables that differ: a dataset seen through another table, and label maps in the ids of a dataset's files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from seglib.data.checks import LabelCounts, count_images, count_samples
from seglib.ops.panoptic import drop_segments
from seglib.types import VOID, Category, Panoptic, Sample, Size, check_categories

if TYPE_CHECKING:
    from seglib.data.catalog import SegmentationDataset


def match_categories(
    dataset: SegmentationDataset, categories: Sequence[Category], needs: str = "semantic"
) -> SegmentationDataset:
    """The dataset seen through another class table, whose classes are found by name.

    It is how a validation split is scored whose table lists the classes of training in another order, or fewer of them.

    Args:
        dataset: samples with a class table of their own.
        categories: the table to map to: that of the training split, or of stored weights.
        needs: the annotation that is used; for "instances" only the things have to be in both tables.

    Returns:
        The dataset itself where both tables agree, otherwise a :class:`MatchedDataset`.

    Raises:
        ValueError: naming the first class of the dataset that ``categories`` lacks, or that is a thing in one table and
            stuff in the other.
    """
    table = check_categories(categories)
    ids = {c.name: c.id for c in table}
    for c in dataset.categories:
        if needs == "instances" and not c.isthing:
            continue
        if c.name not in ids:
            names = ", ".join(repr(name) for name in list(ids)[:8]) + (", …" if len(ids) > 8 else "")
            raise ValueError(
                f"class {c.name!r} of this data is not among those to predict ({names}); rename it, take it out of the"
                " annotations, or train on data that has it"
            )
        if table[ids[c.name]].isthing != c.isthing:
            words = {True: "a thing", False: "stuff"}
            raise ValueError(
                f"class {c.name!r} is {words[c.isthing]} in this data and {words[not c.isthing]} where it is to be"
                " predicted; give isthing one value in both class tables"
            )
    used = [c for c in dataset.categories if c.name in ids]
    if [(c.id, c.name) for c in used] == [(c.id, c.name) for c in table]:
        return dataset
    return MatchedDataset(dataset, table)


class MatchedDataset(Dataset[Sample]):
    """A dataset whose classes have the ids of another table; :func:`match_categories` makes it.

    Labels of the semantic map, of instances, of panoptic segments and the order of regions change; classes of the
    dataset that the table lacks become void, and regions that the dataset lacks are void.

    Args:
        dataset: the dataset to read from.
        categories: the other table.

    Attributes:
        dataset: the dataset read from.
        categories: the other table.
    """

    def __init__(self, dataset: SegmentationDataset, categories: Sequence[Category]) -> None:
        self.dataset = dataset
        self.categories = check_categories(categories)
        ids = {c.name: c.id for c in self.categories}
        self._new = [ids.get(c.name, VOID) for c in dataset.categories]  # category id there → here
        self._table = torch.full((VOID + 1,), VOID)  # (256,)
        self._table[: len(self._new)] = torch.tensor(self._new)

    @property
    def size(self) -> Size | None:
        """That of the dataset."""
        return self.dataset.size

    @property
    def file_ids(self) -> tuple[int | None, ...]:
        """The dataset's file ids in the order of the other table; ``None`` for the classes that the dataset lacks."""
        return tuple(self._here(self.dataset.file_ids, None))

    @property
    def void_id(self) -> int | None:
        """That of the dataset."""
        return self.dataset.void_id

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        changed: dict[str, object] = {}
        if sample.semantic is not None:
            changed["semantic"] = self._table[sample.semantic.long()]  # bytes would index as a mask
        if sample.instances is not None:
            labels = self._table[sample.instances.labels]  # (N,)
            changed["instances"] = sample.instances.replace(labels=labels)[labels != VOID]
        if sample.panoptic is not None:
            changed["panoptic"] = self._panoptic(sample.panoptic)
        if sample.regions is not None:
            void = torch.full_like(sample.regions[0], VOID)
            changed["regions"] = torch.stack(self._here(list(sample.regions), void))  # (K, H, W)
        return replace(sample, **changed)  # type: ignore[arg-type]  # fields by name

    def count_labels(self, needs: str, indices: Sequence[int]) -> LabelCounts:
        """What :func:`seglib.data.checks.count_labels` asks for."""
        if needs == "regions":  # those that the dataset lacks are void: the samples as they are here say how much
            return count_samples((self[i] for i in indices), needs, len(self.categories), len(self))
        counts = count_images(self.dataset, needs, indices)
        lost = sum(n for n, new in zip(counts.classes, self._new, strict=True) if new == VOID and needs != "instances")
        return replace(counts, classes=tuple(self._here(counts.classes, 0)), void=counts.void + lost)

    def _here(self, values: Sequence, missing: object) -> list:
        """One value per class of the dataset as one per class of the other table."""
        out = [missing] * len(self.categories)
        for value, new in zip(values, self._new, strict=True):
            if new != VOID:
                out[new] = value
        return out

    def _panoptic(self, panoptic: Panoptic) -> Panoptic:
        segments = [replace(s, category_id=self._new[s.category_id]) for s in panoptic.segments]
        return drop_segments(Panoptic(panoptic.map, segments), [s.id for s in segments if s.category_id == VOID])


def labels_to_files(labels: Tensor | np.ndarray, file_ids: Sequence[int | None], void_id: int | None) -> np.ndarray:
    """A label map in the ids of the files that a dataset was read from, so that what comes in comes out the same.

    Where several file ids were read as one class, the first stands for it.

    Args:
        labels: category ids and 255 for void, ``(H, W)`` or any other shape.
        file_ids: category id → file id: the ``file_ids`` of a dataset.
        void_id: the file id of void: the ``void_id`` of a dataset.

    Returns:
        The ids as uint8; as uint16 where the table has an id above 255. :func:`~seglib.data.images.write_png` takes
        both.

    Raises:
        ValueError: for a label outside the table, and for void or a class that the files have no id for.
    """
    ids = np.asarray(labels)
    if ids.dtype.kind not in "iu":
        raise ValueError(f"labels are integer class ids, got {ids.dtype}; take the argmax of logits over classes")
    known = {k: file_id for k, file_id in enumerate(file_ids) if file_id is not None}
    if void_id is not None:
        known[VOID] = void_id
    present = np.unique(ids).tolist()
    if unknown := [k for k in present if k not in known]:
        name = "void (255)" if unknown[0] == VOID else f"label {unknown[0]}"
        raise ValueError(
            f"{name} has no id in the files, whose classes have {[*file_ids]} and void {void_id}; pass the file_ids and"
            " the void_id of the dataset that the model was trained on"
        )
    dtype = np.uint8 if max(known.values(), default=0) < 256 else np.uint16
    table = np.zeros(max(known, default=0) + 1, dtype)
    table[list(known)] = list(known.values())
    return table[ids]
