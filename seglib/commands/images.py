"""What `seglib train` and `seglib eval` do for data sets of images: own files, their channels, what is kept of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from seglib.data.catalog import TAKES_OWN, OwnFiles, has_val
from seglib.models.zoo import find
from seglib.ops.intensity import AS_IS, Intensity

RESCALE = ("percentile",)
"""The values of --rescale."""


def own_files(rescale: str | None, **options: Any) -> OwnFiles:
    """What the options of training say about own files.

    Args:
        rescale: the option; ``None`` leaves values as they are.
        options: the further attributes of :class:`seglib.data.catalog.OwnFiles`.

    Raises:
        ValueError: for an unknown value of --rescale.
    """
    if rescale is not None and rescale not in RESCALE:
        raise ValueError(f"--rescale {rescale!r} is unknown; choose one of {', '.join(RESCALE)}")
    return OwnFiles(intensity=AS_IS if rescale is None else Intensity(rescale), **options)


def own_files_again(metadata: Mapping[str, Any], data: str, root: Path | None, **options: Any) -> OwnFiles:
    """What is known about own files when stored weights are scored: what options leave open is as in training.

    Args:
        metadata: the weights' metadata.
        data: the dataset that is scored on.
        root: its folder; where it has no split of its own, ``val_share`` is that of training unless it is given.
        options: attributes of :class:`seglib.data.catalog.OwnFiles`.
    """
    own = OwnFiles(intensity=Intensity(**metadata.get("intensity", {})), **options)
    before = metadata.get("own_files", {}) if data == metadata.get("data") else {}
    if own.upright is None:
        own = replace(own, upright=before.get("upright"))
    if own.val_share is None and root is not None and not has_val(root, data):
        own = replace(own, val_share=before.get("val_share"))
    return own


def kept(own: OwnFiles) -> dict[str, Any]:
    """What of own files is kept with weights, and compared when a run goes on."""
    return {
        "own_files": {
            "val_share": own.val_share,
            "upright": own.upright,
            "rescale": own.intensity.mode,
            "skip_bad": own.skip_bad,
        }
    }


def limit_detections(net: Any, count: int) -> None:
    """Let an instance model find so many objects in an image; its first stage proposes at least twice as many."""
    if hasattr(net, "max_detections"):
        net.max_detections = count
    else:
        net.detections = replace(net.detections, max_detections=count)
    if hasattr(net, "rpn") and hasattr(net.rpn, "post_nms_top_k_test"):
        tops = ("pre_nms_top_k_test", "post_nms_top_k_test")
        net.rpn = replace(net.rpn, **{name: max(getattr(net.rpn, name), 2 * count) for name in tops})


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


def file_warnings(dataset: Any, split: str, data: str) -> list[str]:
    """What the files of a split show before training, where they are one's own."""
    source = getattr(dataset, "dataset", dataset)
    if data not in TAKES_OWN or not hasattr(source, "file_warnings"):
        return []
    return [f"{split}: {warning}" for warning in source.file_warnings()]
