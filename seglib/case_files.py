"""What ``seglib predict`` reads and writes of volumes: cases on disk, and for each a label file and facts as JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.data.nifti import ENDINGS, VoxelFrame, read_channels
from seglib.data.volume_files import nifti_files, without_ending
from seglib.postprocess.whole_cases import channels_of
from seglib.train.volume_task import VolumeTask
from seglib.types import Category


@dataclass(frozen=True)
class CaseFiles:
    """A case on disk.

    Attributes:
        id: the case's name, without the ending and without the number of a channel.
        files: one file with all channels, or one file for each channel.
        numbered: whether the files have the number of their channel in their names.
    """

    id: str
    files: tuple[Path, ...]
    numbered: bool = False

    def read(self, channels: int) -> tuple[Tensor, VoxelFrame]:
        """The case ``(C, D, H, W)`` float32 in the units of its files, and where its voxels lie.

        Args:
            channels: the number of channels that the model takes.

        Raises:
            ValueError: when a channel is missing or left over; further as :func:`~seglib.data.nifti.read_channels`.
        """
        names = [f"{self.id}_{i:04d}" for i in range(channels)]
        if self.numbered and [without_ending(p) for p in self.files] != names:
            raise ValueError(
                f"{', '.join(map(str, self.files))}: the model takes {channels} channels, the files "
                f"{', '.join(names)}; add the missing ones"
            )
        return read_channels(self.files, channels)


def cases_at(path: Path, channels: int) -> list[CaseFiles]:
    """The case at ``path``, or all cases of a folder by name, without those in folders below and hidden files.

    A case is one file, with four axes where it has several channels (the layout of the Decathlon), or one file for each
    channel, ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``, … (the layout of nnU-Net), of which any may be named. The files
    are in the latter when a name ends in ``_0000``; with one channel when all do, since ids may end in numbers too.

    Args:
        path: a NIfTI file or a folder.
        channels: the number of channels that the model takes.

    Raises:
        FileNotFoundError: when there is nothing at ``path``.
        ValueError: when a folder holds no NIfTI file, or the same case in two files, or a file has another ending.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not path.is_dir() and not path.name.endswith(ENDINGS):
        raise ValueError(f"{path} is no volume; these weights are for NIfTI files, which end in {' or '.join(ENDINGS)}")
    files = nifti_files(path if path.is_dir() else path.parent)
    if not files:
        raise ValueError(f"{path} holds no case; expected files ending in {' or '.join(ENDINGS)}")
    if not path.is_dir():  # it and the other channels of its case
        files = {name: p for name, p in files.items() if _case_id(name) == _case_id(without_ending(path))}
    first = sum(name.endswith("_0000") for name in files)
    numbered = first > 0 and (channels > 1 or first == len(files))
    cases: dict[str, dict[str, Path]] = {}
    for name, p in files.items():
        cases.setdefault(_case_id(name) if numbered else name, {})[name] = p
    found = [CaseFiles(case, tuple(its.values()), list(its) != [case]) for case, its in cases.items()]
    return found if path.is_dir() else [case for case in found if path in case.files]


def label_targets(out: Path | None, cases: Sequence[CaseFiles], asked: Path) -> list[Path]:
    """Where the label file of each case goes; refuses beforehand what would only fail, or overwrite, half-way.

    Args:
        out: what the user named: a NIfTI file for a case, a folder for a folder. ``None`` gives an empty list.
        cases: the cases, as :func:`cases_at` found them.
        asked: the path that they were found at.

    Raises:
        ValueError: when ``out`` is a file for a folder or no NIfTI file for a case, or a result would replace an image.
    """
    if out is None:
        return []
    if not asked.is_dir():
        if not out.name.endswith(ENDINGS):
            raise ValueError(f"{out} is no name of a NIfTI file; for one case name a file that ends in .nii.gz")
        targets = [out]
    else:
        if out.name.endswith(ENDINGS) or out.is_file():
            raise ValueError(f"{asked} is a folder of cases, {out} a file; name a folder for the results")
        targets = [out / f"{case.id}.nii.gz" for case in cases]
    images = {p.resolve() for case in cases for p in case.files}
    for target in targets:
        if target.resolve() in images:
            raise ValueError(f"{target} is one of the images and would be overwritten; choose another place")
    return targets


def predict_case(model: Any, task: VolumeTask, case: CaseFiles) -> tuple[Tensor, VoxelFrame]:
    """Predict one case through a sliding window, as the model wants to see it and on its own grid.

    Args:
        model: a model of volumes, or an :class:`~seglib.postprocess.whole_cases.Ensemble`.
        task: says how: the window, its overlap, the flips, and the first stage of a cascade.
        case: the files of the case.

    Returns:
        Labels ``(D, H, W)`` uint8, category ids, and where the voxels of the case lie.

    Raises:
        ValueError: naming the file, when it cannot be read or predicted.
    """
    image, frame = case.read(channels_of(model))
    try:
        labels = task.label(model, image, frame.spacing)
    except ValueError as error:
        raise ValueError(f"{case.files[0]}: {error}") from error
    return labels, frame


def facts_of(case: CaseFiles, labels: Tensor, frame: VoxelFrame, categories: Sequence[Category]) -> dict[str, Any]:
    """A case's part of the JSON output: its size, spacing, and the volume of each class but the background.

    Args:
        case: the files of the case.
        labels: category ids ``(D, H, W)``.
        frame: where its voxels lie.
        categories: the class table.
    """
    counts = torch.bincount(labels.flatten(), minlength=len(categories)).tolist()
    voxel = float(np.prod(frame.spacing)) / 1000  # in millilitres
    return {
        "case": case.id,
        "files": [str(p) for p in case.files],
        "size": list(labels.shape),
        "spacing": list(frame.spacing),
        "millilitres": {c.name: round(counts[c.id] * voxel, 3) for c in categories[1:]},
    }


def _case_id(name: str) -> str:
    """The name of a file without the number of a channel."""
    return re.sub(r"_\d{4}$", "", name)
