"""nnU-Net's raw layout (version 2): one file for each channel of a case.

::

    Dataset004_Hippocampus/
      dataset.json
      imagesTr/  hippocampus_001_0000.nii.gz, hippocampus_001_0001.nii.gz …   case, number of the channel
      labelsTr/  hippocampus_001.nii.gz …
      imagesTs/                                                               not read: it has no labels

``dataset.json`` names the channels and the classes::

    {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "lesion": 1, "ignore": 2},
     "numTraining": 260, "file_ending": ".nii.gz"}

Voxels of the label "ignore" are void: 255 here.

A label with several ids is a region: a set of voxels that may overlap with others. Regions are all labels then, and
``regions_class_order`` says which id a prediction writes for each, later ones over earlier ones::

    {"labels": {"background": 0, "whole tumour": [1, 2, 3], "tumour core": [2, 3], "enhancing tumour": 3},
     "regions_class_order": [1, 2, 3], …}

The class of an id is named after the region that writes it: voxels of id 1 are "whole tumour", and of nothing more.

Source: Isensee et al., "nnU-Net", Nature Methods 2021, and "dataset_format.md" in the documentation of its version 2.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seglib.data.nifti import ENDINGS, write_label_volume, write_volume
from seglib.data.volume_files import (
    Case,
    VolumeFiles,
    channel_names,
    exported,
    find_dataset_json,
    nifti_files,
    read_dataset_json,
    some,
    write_json,
)
from seglib.types import VOID, Category, Sample


class NNUNetRaw(VolumeFiles):
    """One split of a data set in nnU-Net's raw layout.

    Args:
        root: the folder of the data set, or the one that contains it.
        split: "train" or "val": all but one of five folds, or that fold.
        fold: the fold that is "val", 0 to 4.
        transform: applied to the sample last.

    Attributes:
        categories: the class table of ``dataset.json`` without "ignore"; ids are contiguous also where those of the
            files have gaps.
        cases: the cases of the split, by name.
        modalities: the name of each channel: "CT", "T2", …
        regions: name of each region → the names of its classes, among them its own, which a prediction writes; in the
            order of ``dataset.json``. ``None`` where classes exclude each other.
            :class:`~seglib.train.volume_task.VolumeTask` takes them.
        size: ``None``; every case has its own.
        file_ids: category id → id in the label files.
        void_id: the file id of "ignore", or ``None``.

    Raises:
        FileNotFoundError: when ``dataset.json``, ``imagesTr`` or ``labelsTr`` is missing.
        ValueError: when ``dataset.json`` isn't as above, has regions without an order that fits them, or a number of
            cases that differs from the files; for a channel too few or too many, and for images without labels or the
            reverse; further as :class:`~seglib.data.volume_files.VolumeFiles`.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        fold: int = 0,
        transform: Callable[[Sample], Sample] | None = None,
    ) -> None:
        path = find_dataset_json(root)
        required = {"channel_names": dict, "labels": dict, "numTraining": int, "file_ending": str}
        content = read_dataset_json(path, required, "nnU-Net's layout, version 2")
        if content["file_ending"] not in ENDINGS:
            raise ValueError(f"{path}: its files end in {content['file_ending']!r}; convert them to .nii.gz")
        labels, self.regions, void = label_table(path, content)
        modalities = channel_names(path, content["channel_names"])
        cases = _find_cases(path, modalities)
        if len(cases) != content["numTraining"]:
            raise ValueError(
                f'{path}: "numTraining" is {content["numTraining"]}, and {path.parent} has {len(cases)} labelled cases;'
                " copy the files that are missing, or correct the number"
            )
        super().__init__(
            path, cases, labels, void=void, modalities=modalities, split=split, fold=fold, transform=transform
        )


def write_nnunet_raw(
    samples: Iterable[Sample],
    root: str | os.PathLike[str],
    categories: Sequence[Category],
    *,
    modalities: Sequence[str],
    name: str,
) -> None:
    """Write labelled volumes in nnU-Net's raw layout, which :class:`NNUNetRaw` reads.

    Void voxels get the label "ignore", whose id follows those of the classes. ``dataset.json`` is written last, so an
    export that was interrupted can't be mistaken for a whole one.

    Args:
        samples: volumes with labels and a spacing; their ids become file names.
        root: the folder to write, such as ``Dataset001_Organs``.
        categories: the class table, whose first class nnU-Net wants to be "background"; its ids are those of the files.
        modalities: the name of each channel. nnU-Net normalises a channel "CT" as CT, any other case by case.
        name: the name of the data set.

    Raises:
        ValueError: when the first class isn't "background" or one is "ignore", when the folder holds a data set, or a
            sample can't be written: no labels, no spacing, another number of channels, a label outside the class table,
            an id that stands twice.
    """
    folder, ignore = Path(root), len(categories)
    names = [c.name for c in categories]
    if names[:1] != ["background"] or "ignore" in names:
        raise ValueError(f'nnU-Net wants "background" as class 0 and no class "ignore", got {some(names)}; rename them')
    count, any_void = 0, False
    for sample, labels, frame in exported(samples, folder, categories, modalities, void=True):
        for channel, image in enumerate(sample.image.split(1)):  # (1, D, H, W)
            write_volume(folder / "imagesTr" / f"{sample.id}_{channel:04d}.nii.gz", image, frame)
        void = labels == VOID
        write_label_volume(folder / "labelsTr" / f"{sample.id}.nii.gz", labels.masked_fill(void, ignore), frame)
        count, any_void = count + 1, any_void or bool(void.any())
    content = {
        "name": name,
        "channel_names": {str(i): modality for i, modality in enumerate(modalities)},
        "labels": {c.name: c.id for c in categories} | ({"ignore": ignore} if any_void else {}),
        "numTraining": count,
        "file_ending": ".nii.gz",
    }
    write_json(folder / "dataset.json", content)


def label_table(
    path: str | Path, content: Mapping[str, Any]
) -> tuple[dict[int, str], dict[str, tuple[str, ...]] | None, int | None]:
    """The classes and regions of the content of a ``dataset.json``.

    Args:
        path: the name of the file, for messages.
        content: ``labels`` and, with regions, ``regions_class_order``.

    Returns:
        File id → name of each class; name → classes of each region, or ``None`` when no label has several ids; and the
        file id of void, or ``None``.

    Raises:
        ValueError: when an id isn't a whole number or stands twice, or the order doesn't fit the regions.
    """
    ids, void = _ids(path, content["labels"])
    return *_classes(path, ids, content.get("regions_class_order")), void


def _ids(path: str | Path, labels: Mapping[str, object]) -> tuple[dict[str, tuple[int, ...]], int | None]:
    """Name → file ids of each label, several of a region, and the file id of void."""
    ids: dict[str, tuple[int, ...]] = {}
    for name, stored in labels.items():
        several = tuple(stored) if isinstance(stored, list) else (stored,)
        if not several or not all(type(i) is int and i >= 0 for i in several) or several in ids.values():
            raise ValueError(
                f"{path}: the label {name!r} has the id {stored!r}; give each a whole number of its own, or a region a"
                " list of them"
            )
        ids[name] = several
    void = ids.pop("ignore", None)
    if void is not None and (len(void) > 1 or any(void[0] in of_label for of_label in ids.values())):
        raise ValueError(f'{path}: "ignore" has the ids {list(void)}; give it one that no other label has')
    return ids, None if void is None else void[0]


def _classes(
    path: str | Path, ids: Mapping[str, tuple[int, ...]], order: object
) -> tuple[dict[int, str], dict[str, tuple[str, ...]] | None]:
    """File id → name of each class, and the classes of each region, or ``None`` when no label has several ids."""
    if all(len(of_label) == 1 for of_label in ids.values()):
        return {stored: name for name, (stored,) in ids.items()}, None
    regions = {name: of_label for name, of_label in ids.items() if of_label != (0,)}
    if not isinstance(order, list) or len(order) != len(regions):
        raise ValueError(
            f'{path}: it has {len(regions)} regions, and "regions_class_order" is {order!r}; list for each region the'
            " id that a prediction writes"
        )
    classes = {of_label[0]: name for name, of_label in ids.items() if name not in regions}
    for (name, of_label), written in zip(regions.items(), order, strict=True):
        if written not in of_label or written in classes:
            raise ValueError(
                f'{path}: "regions_class_order" writes {written!r} for the region {name!r} of the ids {list(of_label)};'
                " write one of them, and another one for each region"
            )
        classes[written] = name
    for stored in sorted({i for of_label in regions.values() for i in of_label} - classes.keys()):
        classes[stored] = f"label {stored}"
    return classes, {name: tuple(classes[i] for i in of_label) for name, of_label in regions.items()}


def _find_cases(path: Path, modalities: Sequence[str]) -> list[Case]:
    labels = nifti_files(path.parent / "labelsTr")
    channels: dict[str, dict[int, Path]] = {}
    for name, file in nifti_files(path.parent / "imagesTr").items():
        parts = re.fullmatch(r"(.+)_(\d{4})", name)
        if parts is None:
            raise ValueError(f"{file} has no number of its channel; name it like CASE_0000.nii.gz")
        channels.setdefault(parts[1], {})[int(parts[2])] = file
    for case, files in channels.items():
        for channel, modality in enumerate(modalities):
            if channel not in files:
                raise ValueError(
                    f"{next(iter(files.values())).parent} lacks {case}_{channel:04d}, the channel {modality!r} of the"
                    f" case {case!r}; add the file, or correct the channel_names of {path}"
                )
        if len(files) > len(modalities):
            raise ValueError(
                f"{files[max(files)]} is channel {max(files)}, and {path} names {len(modalities)}"
                f" ({some(modalities)}); correct its channel_names, or move the file away"
            )
    if alone := sorted(channels.keys() ^ labels.keys()):
        problem = "an image without labels" if alone[0] in channels else "labels without an image"
        raise ValueError(
            f"{path.parent}: {alone[0]!r} is {problem} ({len(alone)} such cases); imagesTr/CASE_0000.nii.gz and"
            " labelsTr/CASE.nii.gz are one case"
        )
    return [
        Case(case, tuple(file for _, file in sorted(files.items())), labels[case]) for case, files in channels.items()
    ]
