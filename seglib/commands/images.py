"""What `seglib train` and `seglib eval` do for data sets of images: own files, their channels, what is kept of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from seglib.data.catalog import TAKES_OWN, OwnFiles, has_val
from seglib.data.class_tables import match_categories
from seglib.data.fingerprints import MOST, count_known, fingerprints
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


def kept(own: OwnFiles, dataset: Any) -> dict[str, Any]:
    """What of own files is kept with weights, and compared when a run goes on; ``dataset`` is that of training."""
    return {
        "trained_on": fingerprints(_image_files(dataset)),
        "own_files": {
            "val_share": own.val_share,
            "upright": own.upright,
            "rescale": own.intensity.mode,
            "skip_bad": own.skip_bad,
        },
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


def _image_files(dataset: Any) -> list[Path]:
    """The image files of a data set of own files; of others, and of more images than are told apart, none."""
    source = getattr(dataset, "dataset", dataset)
    return getattr(source, "image_files", []) if len(source) <= MOST else []


def match_or_say_why(dataset: Any, task: Any, default: str | None, metadata: Mapping[str, Any]) -> Any:
    """The dataset seen through the class table of stored weights.

    Args:
        dataset: what is scored.
        task: what is scored for.
        default: the name of the dataset where none was asked for; ``None`` where one was.
        metadata: the weights' metadata.

    Raises:
        ValueError: for classes that don't fit; it says that --data was not given, if so.
    """
    try:
        return match_categories(dataset, task.categories, task.needs)
    except ValueError as error:
        trained = metadata.get("data")
        if default is None or trained in (None, default):
            raise
        raise ValueError(
            f"--data was not given, so {default} was read, and the weights were trained on {trained}: {error}; pass"
            f" --data {trained}"
        ) from error


def known_image_warnings(dataset: Any, metadata: Mapping[str, Any], val_share: float | None) -> list[str]:
    """A warning where images to score are among those that the weights were trained on.

    Args:
        dataset: what is scored.
        metadata: the weights' metadata.
        val_share: the share by which the dataset was divided.
    """
    files = _image_files(dataset) if metadata.get("trained_on") else []
    if not (known := count_known(files, metadata.get("trained_on", ""))):
        return []
    share = metadata["own_files"]["val_share"]
    remedy = f"; --val-share {share:g} scores what training held out" if share not in (None, val_share) else ""
    return [
        f"{known} of {len(files)} images that are scored are among those trained on, so the scores say little about"
        f" new images{remedy}"
    ]


def scoring_warnings(dataset: Any, metadata: Mapping[str, Any], data: str, own: OwnFiles) -> list[str]:
    """What should be known about own files when stored weights are scored on them.

    It is what --skip-bad left out, images that were trained on, and classes whose ids in the label files are not those
    of training.
    """
    source = getattr(dataset, "dataset", dataset)
    warnings = source.left_out_warnings() if hasattr(source, "left_out_warnings") else []
    warnings += known_image_warnings(dataset, metadata, own.val_share)
    if data == metadata.get("data") == "folder":
        then = metadata.get("file_ids", dataset.file_ids)
        ids = zip(dataset.categories, dataset.file_ids, then, strict=True)
        differ = [(c.name, now, before) for c, now, before in ids if now != before and now is not None]
        if differ:
            said = ", ".join(f"{name!r} is {now} and was {before}" for name, now, before in differ[:5])
            warnings.append(
                f"classes have other ids in these label files than in those of training: {said}; where that is wrong,"
                " mend categories.json"
            )
    return warnings


def file_warnings(dataset: Any, split: str, data: str) -> list[str]:
    """What the files of a split show before training, where they are one's own."""
    source = getattr(dataset, "dataset", dataset)
    if data not in TAKES_OWN or not hasattr(source, "file_warnings"):
        return []
    return [f"{split}: {warning}" for warning in source.file_warnings()]
