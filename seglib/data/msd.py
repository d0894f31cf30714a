"""The layout of the Medical Segmentation Decathlon: ten tasks of CT and MRI volumes, one folder each.

::

    Task04_Hippocampus/
      dataset.json
      imagesTr/  hippocampus_001.nii.gz …   three axes, or four where there are several modalities
      labelsTr/  hippocampus_001.nii.gz …
      imagesTs/                             not read: its labels are not public

``dataset.json`` names the modalities, the classes and the cases::

    {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
     "training": [{"image": "./imagesTr/hippocampus_001.nii.gz", "label": "./labelsTr/hippocampus_001.nii.gz"}, …]}

Source: Antonelli et al., "The Medical Segmentation Decathlon", Nature Communications 2022; http://medicaldecathlon.com.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from seglib.data.nifti import write_label_volume, write_volume
from seglib.data.volume_files import (
    Case,
    VolumeFiles,
    channel_names,
    exported,
    find_dataset_json,
    nifti_files,
    read_dataset_json,
    some,
    without_ending,
    write_json,
)
from seglib.types import Category, Sample


class MSD(VolumeFiles):
    """One split of a task of the Medical Segmentation Decathlon.

    Args:
        root: the folder of the task, or the one that contains it.
        split: "train" or "val": all but one of five folds, or that fold.
        fold: the fold that is "val", 0 to 4.
        transform: applied to the sample last.

    Attributes:
        categories: the class table of ``dataset.json``; ids are contiguous also where those of the files have gaps.
        cases: the cases of the split, by name.
        modalities: the name of each channel: "CT", "T2", …
        size: ``None``; every case has its own.
        file_ids: category id → id in the label files.
        void_id: ``None``; nothing is void.

    Raises:
        FileNotFoundError: when ``dataset.json`` or a file that it lists is missing.
        ValueError: when ``dataset.json`` isn't as above, lists a case twice, or leaves out a file of ``imagesTr`` or
            ``labelsTr``; further as :class:`~seglib.data.volume_files.VolumeFiles`.
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
        required = {"modality": dict, "labels": dict, "training": list}
        content = read_dataset_json(path, required, "the Medical Segmentation Decathlon")
        if not all(key.isdecimal() for key in content["labels"]):
            raise ValueError(
                f'{path}: its labels are {content["labels"]!r:.120}; expected {{"0": "background", "1": …}}, or read'
                " nnU-Net's layout with NNUNetRaw"
            )
        cases = [_case(path, entry) for entry in content["training"]]
        for folder, listed in (("imagesTr", {c.images[0] for c in cases}), ("labelsTr", {c.labels for c in cases})):
            if alone := [p.name for p in nifti_files(path.parent / folder).values() if p not in listed]:
                raise ValueError(
                    f'{path}: its "training" leaves out {len(alone)} files of {folder} ({some(alone)}); list them with'
                    " their labels, or move them away"
                )
        super().__init__(
            path,
            cases,
            {int(key): name for key, name in content["labels"].items()},
            void=None,
            modalities=channel_names(path, content["modality"]),
            split=split,
            fold=fold,
            transform=transform,
        )
        if content.get("numTraining", len(cases)) != len(cases):
            raise ValueError(
                f'{path}: "numTraining" is {content["numTraining"]}, and "training" lists {len(cases)} cases; copy the '
                "files that are missing, or correct the number"
            )


def write_msd(
    samples: Iterable[Sample],
    root: str | os.PathLike[str],
    categories: Sequence[Category],
    *,
    modalities: Sequence[str],
    name: str,
) -> None:
    """Write labelled volumes as a task of the Medical Segmentation Decathlon, which :class:`MSD` reads.

    ``dataset.json`` is written last, so an export that was interrupted can't be mistaken for a whole one.

    Args:
        samples: volumes with labels and a spacing; their ids become file names.
        root: the folder to write, such as ``Task01_Organs``.
        categories: the class table; its ids are those of the files.
        modalities: the name of each channel.
        name: the name of the task.

    Raises:
        ValueError: when the folder holds a data set, or a sample can't be written: no labels, no spacing, another
            number of channels, a label outside the class table (this layout has no void), an id that stands twice.
    """
    folder = Path(root)
    training = []
    for sample, labels, frame in exported(samples, folder, categories, modalities, void=False):
        file = f"{sample.id}.nii.gz"
        write_volume(folder / "imagesTr" / file, sample.image, frame)
        write_label_volume(folder / "labelsTr" / file, labels, frame)
        training.append({"image": f"./imagesTr/{file}", "label": f"./labelsTr/{file}"})
    content = {
        "name": name,
        "tensorImageSize": "3D" if len(modalities) == 1 else "4D",
        "modality": {str(i): modality for i, modality in enumerate(modalities)},
        "labels": {str(c.id): c.name for c in categories},
        "numTraining": len(training),
        "numTest": 0,
        "training": training,
        "test": [],
    }
    write_json(folder / "dataset.json", content)


def _case(path: Path, entry: object) -> Case:
    match entry:
        case {"image": str(image), "label": str(label)}:
            return Case(without_ending(Path(image)), (path.parent / image,), path.parent / label)
    raise ValueError(
        f'{path}: "training" holds {entry!r:.120}; expected {{"image": "./imagesTr/x.nii.gz", "label":'
        ' "./labelsTr/x.nii.gz"}'
    )
