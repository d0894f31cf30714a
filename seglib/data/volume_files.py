"""Labelled volumes in NIfTI files: what the layouts of the Medical Segmentation Decathlon and of nnU-Net share.

Both are a folder with ``dataset.json``, ``imagesTr`` and ``labelsTr``. Labels of the test images are not public, so the
training cases are split into five folds for cross-validation: one is "val", the others are "train". The folds are those
of nnU-Net (cases sorted by name, shuffled with the seed 12345), so that scores can be compared with its own.

Which cases show one person is not in the files. Where one person has several, scores on "val" are somewhat optimistic.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from seglib.data.checks import LabelCounts, count_samples
from seglib.data.nifti import ENDINGS, VoxelFrame, check_grid, read_channels, read_frame, read_label_volume
from seglib.files import atomic_path, read_json
from seglib.ops.labels import check_labels
from seglib.types import VOID, Category, Sample, check_categories

FOLDS = 5
SPLITS = ("train", "val")

_COLORS = ((0, 114, 178), (213, 94, 0), (240, 228, 66), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0))
"""Okabe and Ito's colours, which the colour-blind can tell apart; further classes get darker ones."""


@dataclass(frozen=True)
class Case:
    """One labelled volume on disk.

    Attributes:
        id: the name of the case.
        images: one file with all channels, or one file for each channel.
        labels: the file of its labels.
    """

    id: str
    images: tuple[Path, ...]
    labels: Path


class VolumeFiles(Dataset[Sample]):
    """Volumes and their labels, read when asked for. A subclass says what lies where.

    Ids of the label files may have gaps; category ids are contiguous, in the order of the file ids.

    Args:
        path: ``dataset.json``, for messages.
        cases: all labelled cases.
        labels: file id → name of each class; 0 is background.
        void: the file id of voxels that don't count, if there is one.
        modalities: the name of each channel.
        split: "train" or "val".
        fold: the fold that is "val", 0 to 4.
        transform: applied to the sample last.

    Attributes:
        categories: the class table; no class is a thing.
        cases: the cases of the split, by name.
        modalities: the name of each channel.
        size: ``None``; every case has its own.
        file_ids: category id → id in the label files.
        void_id: the file id of void, or ``None``.

    Raises:
        FileNotFoundError: at once, when a file is missing.
        ValueError: at once, for an unknown split or fold, a split without a case, a case that stands twice, and classes
            without background or with two of one name. When a sample is read: for another number of channels,
            labels on another grid than their image and ids that ``labels`` doesn't name; further as
            :func:`~seglib.data.nifti.read_volume` and :func:`~seglib.data.nifti.read_label_volume`. All name the file.
    """

    size: None = None

    def __init__(
        self,
        path: Path,
        cases: Iterable[Case],
        labels: Mapping[int, str],
        *,
        void: int | None,
        modalities: Sequence[str],
        split: str,
        fold: int,
        transform: Callable[[Sample], Sample] | None,
    ) -> None:
        self._path, self._transform = path, transform
        self.categories = _class_table(path, labels)
        self.file_ids: tuple[int | None, ...] = tuple(sorted(labels))
        self.void_id = void
        self.modalities = tuple(modalities)
        known = sorted(
            [(stored, i) for i, stored in enumerate(sorted(labels))] + ([] if void is None else [(void, VOID)])
        )
        self._stored = torch.tensor([stored for stored, _ in known])  # ascending
        self._categories = torch.tensor([i for _, i in known])
        ordered = sorted(cases, key=lambda case: case.id)
        if twice := [a.id for a, b in zip(ordered, ordered[1:], strict=False) if a.id == b.id]:
            raise ValueError(f"{path}: the case {twice[0]!r} stands twice; list every case once")
        if missing := [str(p) for case in ordered for p in (*case.images, case.labels) if not p.is_file()]:
            raise FileNotFoundError(
                f"{path}: {len(missing)} files of its cases do not exist ({some(missing)}); copy the data set again"
            )
        self.cases = _cases_of(path, ordered, split, fold)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Sample:
        case = self.cases[index]
        image, frame = read_channels(case.images, len(self.modalities))  # (C, D, H, W)
        labels, frame_of_labels = self._labels(index)  # (D, H, W)
        check_grid(case.labels, frame_of_labels, case.images[0], frame)
        sample = Sample(image, case.id, semantic=labels, spacing=frame.spacing)
        return sample if self._transform is None else self._transform(sample)

    def check_headers(self) -> None:
        """Check what the headers of all files tell, without reading a voxel.

        Raises:
            ValueError: when labels or a channel lie on another grid than their image, or a header is bad; the message
                names the files of the first fault and counts the other cases.
        """
        faults = []
        for case in self.cases:
            try:
                first, *others = case.images
                frame = read_frame(first)
                for path in (*others, case.labels):
                    check_grid(path, read_frame(path), first, frame)
            except ValueError as error:
                faults.append(str(error))
        if faults:
            more = f" (and {len(faults) - 1} more of {len(self)} cases)" if len(faults) > 1 else ""
            raise ValueError(faults[0] + more)

    def frame(self, index: int) -> VoxelFrame:
        """Where the voxels of a case lie in its (first) image file: what its prediction is written with."""
        return read_frame(self.cases[index].images[0])

    def source(self, index: int) -> str:
        """What a case is made from, as a text that changes when its files or the class table do."""
        case = self.cases[index]
        files = [f"{p} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in (*case.images, case.labels)]
        return "; ".join([*files, f"{self.file_ids} {self.void_id} {self.modalities}"])

    def count_labels(self, needs: str, indices: Sequence[int]) -> LabelCounts:
        """What :func:`seglib.data.checks.count_labels` asks for, without reading images."""
        labels = (Sample(torch.empty(0), self.cases[i].id, semantic=self._labels(i)[0]) for i in indices)
        return count_samples(labels, needs, len(self.categories), len(self))

    def _labels(self, index: int) -> tuple[Tensor, VoxelFrame]:
        """The labels of a case in category ids ``(D, H, W)``, and where they lie."""
        labels, frame = read_label_volume(self.cases[index].labels)
        for plane in labels:  # (H, W), changed in place: labels of a whole body fill gigabytes
            place = torch.searchsorted(self._stored, plane).clamp_(max=len(self._stored) - 1)
            if len(unknown := plane[self._stored[place] != plane].unique()):
                raise ValueError(
                    f"{self.cases[index].labels} has the label ids {some(unknown.tolist())}, which {self._path} does"
                    f" not name (it names {some(self._stored.tolist(), 20)}); add them there, or correct the file"
                )
            plane.copy_(self._categories[place])
        return labels, frame


def find_dataset_json(root: str | os.PathLike[str]) -> Path:
    """The ``dataset.json`` of a folder, or of the only folder in it that has one.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when several folders have one.
    """
    here = Path(root) / "dataset.json"
    found = [here] if here.is_file() else sorted(Path(root).glob("*/dataset.json"))
    if not found:
        raise FileNotFoundError(
            f"found no dataset.json in {root} or in a folder of it; pass the folder of the data set"
        )
    if len(found) > 1:
        raise ValueError(
            f"{root} holds several data sets ({some(p.parent.name for p in found)}); pass the folder of one"
        )
    return found[0]


def read_dataset_json(path: Path, required: Mapping[str, type], layout: str) -> dict[str, Any]:
    """The content of ``dataset.json``, after checking that it has its keys. A byte order mark is skipped.

    Raises:
        ValueError: when the file is no JSON object, or a key is missing or of another type.
    """
    content = read_json(path)
    for key, wanted in required.items():
        if not isinstance(content, dict) or type(content.get(key)) is not wanted:
            value = content.get(key) if isinstance(content, dict) else content
            raise ValueError(f"{path}: {key!r} is {value!r:.80}, not a {wanted.__name__}; it is no file of {layout}")
    return content


def channel_names(path: Path, names: Mapping[str, Any]) -> tuple[str, ...]:
    """The channels of ``{"0": "CT", "1": "PET"}`` in order.

    Raises:
        ValueError: unless the keys are "0", "1", "2", … and the names are texts.
    """
    if (
        not names
        or set(names) != {str(i) for i in range(len(names))}
        or not all(type(n) is str for n in names.values())
    ):
        raise ValueError(f'{path}: its channels are {dict(names)!r:.120}; name them like {{"0": "CT", "1": "PET"}}')
    return tuple(names[str(i)] for i in range(len(names)))


def nifti_files(folder: Path) -> dict[str, Path]:
    """The NIfTI files of a folder by their names without the ending. Hidden files are ignored.

    Raises:
        FileNotFoundError: when the folder doesn't exist.
        ValueError: when a.nii and a.nii.gz are both there.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist; copy the data set again")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.name.endswith(ENDINGS):
            continue
        if (name := without_ending(path)) in found:
            raise ValueError(f"{found[name]} and {path.name} are one case in two files; keep one of them")
        found[name] = path
    return found


def without_ending(path: Path) -> str:
    """The name of a NIfTI file without its ending; it may have dots itself."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def exported(
    samples: Iterable[Sample], root: Path, categories: Sequence[Category], modalities: Sequence[str], *, void: bool
) -> Iterator[tuple[Sample, Tensor, VoxelFrame]]:
    """Samples that can be written to a folder, each with its labels ``(D, H, W)`` and its frame.

    Args:
        samples: labelled volumes with a spacing; each is let go before the next is read.
        root: the folder to write to.
        categories: the class table.
        modalities: the name of each channel.
        void: whether the layout has an id for void.

    Raises:
        ValueError: when the folder holds a data set; for a sample that isn't a volume with these channels, has no
            labels, no spacing, a label outside the class table or an id that is no file name or stands twice.
    """
    check_categories(categories)
    if any((root / part).exists() for part in ("dataset.json", "imagesTr", "labelsTr")):
        raise ValueError(f"{root} holds a data set; remove it or choose another folder")
    seen: set[str] = set()
    for sample in samples:
        name = sample.id
        if name in seen or not name or name.startswith(".") or Path(name).name != name:
            raise ValueError(
                f"the sample id {name!r} {'stands twice' if name in seen else 'is no file name'}; rename it"
            )
        seen.add(name)
        if sample.image.ndim != 4 or len(sample.image) != len(modalities):
            raise ValueError(
                f"sample {name!r} has an image {tuple(sample.image.shape)}; with the modalities {some(modalities)} it"
                f" is ({len(modalities)}, D, H, W)"
            )
        if sample.semantic is None or sample.spacing is None:
            raise ValueError(
                f"sample {name!r} needs labels and a spacing, got none; use a data set of labelled volumes"
            )
        try:
            check_labels(sample.semantic, len(categories), VOID if void else None)
        except ValueError as error:
            raise ValueError(f"sample {name!r}: {error}") from error
        yield sample, sample.semantic, VoxelFrame.of_spacing(sample.image.shape[1:], sample.spacing)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def some(things: Iterable[object], most: int = 5) -> str:
    """The first few of many, for a message."""
    names = [str(t) for t in things]
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _class_table(path: Path, labels: Mapping[int, str]) -> tuple[Category, ...]:
    if 0 not in labels or not all(type(name) is str for name in labels.values()):
        raise ValueError(f"{path}: its labels are {dict(labels)!r:.120}; every id needs a name, and 0 is background")
    if len(labels) > VOID:
        raise ValueError(f"{path}: it has {len(labels)} classes, and at most {VOID} fit; merge some")
    table = []
    for i, stored in enumerate(sorted(labels)):
        turn, place = divmod(max(i - 1, 0), len(_COLORS))
        r, g, b = (v * 3 // (3 + turn) for v in _COLORS[place])
        table.append(Category(i, labels[stored], False, (r, g, b) if i else (0, 0, 0)))
    try:
        return check_categories(table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _cases_of(path: Path, ordered: list[Case], split: str, fold: int) -> tuple[Case, ...]:
    """The cases of one split, of all cases by name."""
    if split == "test":
        raise ValueError("the labels of the test images are not public; choose the split train or val")
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}")
    if fold not in range(FOLDS):
        raise ValueError(f"fold is {fold}; choose one of 0..{FOLDS - 1}")
    order = np.random.RandomState(12345).permutation(len(ordered))  # noqa: NPY002  # what nnU-Net's folds come from
    val = set(np.array_split(order, FOLDS)[fold].tolist())
    chosen = tuple(case for i, case in enumerate(ordered) if (i in val) == (split == "val"))
    if not chosen:
        raise ValueError(f"{path}: it has {len(ordered)} cases, none in the split {split!r} of fold {fold}; add cases")
    return chosen
