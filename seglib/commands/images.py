"""What `seglib train` and `seglib eval` do for data sets of images: own files, their channels, what is kept of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seglib.data.catalog import OwnFiles
from seglib.data.pairing import split_folder
from seglib.models.zoo import find
from seglib.ops.intensity import AS_IS, Intensity

RESCALE = ("percentile",)
"""The values of --rescale."""


def own_files(
    *,
    val_share: float | None = None,
    upright: bool | None = None,
    rescale: str | None = None,
) -> OwnFiles:
    """What the options of training say about own files.

    Raises:
        ValueError: for an unknown value of --rescale.
    """
    if rescale is not None and rescale not in RESCALE:
        raise ValueError(f"--rescale {rescale!r} is unknown; choose one of {', '.join(RESCALE)}")
    return OwnFiles(val_share, upright, AS_IS if rescale is None else Intensity(rescale))


def own_files_again(
    metadata: Mapping[str, Any], data: str, root: Path | None, *, val_share: float | None, upright: bool | None
) -> OwnFiles:
    """What is known about own files when stored weights are scored: what options leave open is as in training.

    Args:
        metadata: the weights' metadata.
        data: the dataset that is scored on.
        root: its folder.
        val_share: the option; that of training when not given, where ``root`` has no split of its own.
        upright: the option; as in training when not given.
    """
    before = metadata.get("own_files", {}) if data == metadata.get("data") else {}
    if val_share is None and root is not None and split_folder(root, "val") is None:
        val_share = before.get("val_share")
    upright = before.get("upright") if upright is None else upright
    return OwnFiles(val_share, upright, Intensity(**metadata.get("intensity", {})))


def kept(own: OwnFiles) -> dict[str, Any]:
    """What of own files is kept with weights, and compared when a run goes on."""
    return {"own_files": {"val_share": own.val_share, "upright": own.upright, "rescale": own.intensity.mode}}


def channels_of(dataset: Any) -> int:
    """The number of channels of a data set's images."""
    return getattr(getattr(dataset, "dataset", dataset), "channels", 3)


def check_channels_of(dataset: Any, weights: Path, metadata: Mapping[str, Any]) -> None:
    """Raise where images have another number of channels than those that a model was trained on."""
    wanted, given = metadata.get("arguments", {}).get("in_channels", 3), channels_of(dataset)
    if wanted != given:
        raise ValueError(f"{weights} is for images of {wanted} channels, and these have {given}; pass other data")


def channel_arguments(model: str, dataset: Any) -> dict[str, int]:
    """The argument ``in_channels`` of a model's builder for images that aren't RGB.

    Raises:
        ValueError: when the model takes RGB alone.
    """
    if (channels := channels_of(dataset)) == 3:
        return {}
    if "in_channels" not in inspect.signature(find(model).builder()).parameters:
        raise ValueError(f"{model} is for RGB images, and these have {channels} channels; train a semantic model")
    return {"in_channels": channels}


def file_warnings(dataset: Any) -> list[str]:
    """What the files of a data set show before training."""
    source = getattr(dataset, "dataset", dataset)
    return source.file_warnings() if hasattr(source, "file_warnings") else []
