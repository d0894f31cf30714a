"""A dataset of volumes as a preparation makes them: cropped, normalised, resampled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor
from torch.utils.data import Dataset

from seglib.ops.preparation import Preparation
from seglib.types import Sample

if TYPE_CHECKING:
    from seglib.data.catalog import SegmentationDataset


class Previous(Protocol):
    """Where the second stage of a cascade gets the labels of the first; ``source`` says what they are made from."""

    source: str

    def __call__(self, sample: Sample) -> Tensor:
        """The labels ``(D, H, W)`` of a case on its own grid, in category ids."""


class PreparedCases(Dataset[Sample]):
    """The cases of a dataset, each prepared when it is asked for.

    ``StoredCases(PreparedCases(dataset, preparation), folder)`` prepares each of them once, and keeps images float32
    and labels uint8 behind memory maps. Training then takes patches with ``AS_IS`` intensities. Scores are those of the
    dataset itself, on the grid of its files.

    Args:
        dataset: samples of volumes ``(C, D, H, W)`` with a semantic map and a spacing, without augmentation.
        preparation: what is done to each.
        previous: the labels of the first stage of a cascade, :class:`~seglib.data.cascade.PreviousLabels` perhaps;
            needed where the preparation has ``previous`` classes.

    Attributes:
        categories: the class table of ``dataset``; ``file_ids``, ``void_id`` and ``modalities`` are those of
            ``dataset``, too.
        size: ``None``: each case has its own size.

    Raises:
        ValueError: at once, when the dataset has another number of channels than the preparation. When a sample is
            read: as the preparation raises it, with the name of the case.
    """

    size = None

    def __init__(
        self, dataset: SegmentationDataset, preparation: Preparation, previous: Previous | None = None
    ) -> None:
        self.modalities: tuple[str, ...] = tuple(dataset.modalities)  # type: ignore[attr-defined]  # datasets of volumes
        if len(self.modalities) != len(preparation.intensities):
            raise ValueError(
                f"the preparation is for {len(preparation.intensities)} channels, the dataset has"
                f" {', '.join(self.modalities)}; take the plan of this dataset"
            )
        self.categories, self.file_ids, self.void_id = dataset.categories, dataset.file_ids, dataset.void_id
        self._dataset, self._preparation, self._previous = dataset, preparation, previous

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self._dataset[index]
        earlier = None if self._previous is None else self._previous(sample)
        try:
            prepared = self._preparation(sample.image, sample.spacing, sample.semantic, earlier)
        except ValueError as error:
            raise ValueError(f"sample {sample.id!r}: {error}") from error
        return Sample(prepared.image, sample.id, semantic=prepared.labels, spacing=prepared.spacing)

    def source(self, index: int) -> str:
        """What a prepared case is made from: what the dataset says of it, the preparation, and the first stage."""
        files = self._dataset.source(index)  # type: ignore[attr-defined]  # datasets of volumes
        return "; ".join([files, str(self._preparation), *([self._previous.source] if self._previous else [])])
