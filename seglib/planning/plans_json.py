"""nnU-Net's own files, version 2: ``nnUNetPlans.json`` written and read, ``dataset_fingerprint.json`` read.

A plan in nnU-Net's file has what nnU-Net needs. What it has no place for, such as the reasons, stands under the further
key "seglib", which nnU-Net ignores.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from seglib.files import atomic_path, read_json
from seglib.planning.fingerprint import Fingerprint, ForegroundStatistics
from seglib.planning.memory import PLANNERS
from seglib.planning.plan import Configuration, Plan
from seglib.planning.reasons import Reason

T = TypeVar("T")

_SCHEMES = {
    "ct": "CTNormalization",
    "zscore": "ZScoreNormalization",
    "native": "NoNormalization",
    "unit": "RescaleTo01Normalization",
    "rgb": "RGBTo01Normalization",
}
_STATISTICS = {"minimum": "min", "maximum": "max"}  # all others have one name

_RESAMPLING = {
    f"resampling_fn_{part}{end}": value
    for part, order in (("data", 3), ("seg", 1), ("probabilities", 1))
    for end, value in (
        ("", "resample_data_or_seg_to_shape"),
        ("_kwargs", {"is_seg": part == "seg", "order": order, "order_z": 0, "force_separate_z": None}),
    )
}
"""How nnU-Net resamples, and :class:`~seglib.ops.preparation.Preparation` too."""

_NETWORKS = {False: "PlainConvUNet", True: "ResidualEncoderUNet"}


def _layers(dims: int) -> dict[str, Any]:
    """The layers of nnU-Net's networks, and of :class:`~seglib.models.nnunet.NNUNet`."""
    return {
        "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def write_plans(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write a plan as nnU-Net's ``nnUNetPlans.json``, with which nnU-Net trains, too."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(plan_to_json(plan), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_plans(path: str | os.PathLike[str], dataset_json: str | os.PathLike[str] | None = None) -> Plan:
    """The plan that :func:`write_plans` or nnU-Net wrote.

    Args:
        path: ``nnUNetPlans.json``, in its form of today or that of nnU-Net 2.0.
        dataset_json: the ``dataset.json`` of the data set, which names channels and classes. Not needed for a file of
            :func:`write_plans`, nor where it lies beside the plan.

    Raises:
        FileNotFoundError: when a file does not exist.
        ValueError: when a file is no JSON, a key is missing or has a value out of range, or the plan asks for layers or
            resampling that seglib doesn't have; the message names the file and the key.
    """
    content = _read_object(Path(path))
    beside = Path(path).with_name("dataset.json")
    if dataset_json is None and "seglib" not in content and beside.is_file():
        dataset_json = beside
    described = None if dataset_json is None else _read_object(Path(dataset_json))
    return plan_from_json(content, described, source=str(path))


def read_fingerprint(path: str | os.PathLike[str], dataset_json: str | os.PathLike[str]) -> Fingerprint:
    """The fingerprint that nnU-Net wrote.

    Args:
        path: ``dataset_fingerprint.json`` in the folder of the preprocessed data set, whose name the fingerprint gets.
        dataset_json: the ``dataset.json`` of the data set, which names channels and classes.

    Raises:
        FileNotFoundError: when a file does not exist.
        ValueError: when a file is no JSON, or a key is missing or has a value out of range; the message names the file.
    """
    content, where = _read_object(Path(path)), str(path)
    modalities, classes = _channels_and_classes(_read_object(Path(dataset_json)), str(dataset_json))
    spacings = _get(content, "spacings", _row(_row(_positive)), where)
    sizes = _get(content, "shapes_after_crop", _row(_row(_whole)), where)
    kept = _get(content, "median_relative_size_after_cropping", _number, where)
    intensities = _intensities(content, len(modalities), where)
    with _naming(f"{where}: "):
        return Fingerprint(Path(path).resolve().parent.name, modalities, classes, spacings, sizes, kept, intensities)


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """A plan as the content of nnU-Net's ``nnUNetPlans.json``, and under "seglib" what that has no key for."""
    planner = PLANNERS.get(plan.planner)
    return {
        "dataset_name": plan.dataset,
        "plans_name": planner.plans_name if planner else "nnUNetPlans",
        "original_median_spacing_after_transp": list(plan.median_spacing),
        "original_median_shape_after_transp": list(plan.median_size),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(plan.transpose),
        "transpose_backward": [plan.transpose.index(axis) for axis in range(3)],
        "configurations": {name: _configuration_to_json(plan, name) for name in plan.configurations},
        "experiment_planner_used": planner.reference if planner else plan.planner,
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(channel): {_STATISTICS.get(name, name): value for name, value in asdict(statistics).items()}
            for channel, statistics in enumerate(plan.intensities)
        },
        "seglib": {
            "memory": plan.memory,
            "modalities": list(plan.modalities),
            "classes": list(plan.classes),
            "reasons": [asdict(reason) for reason in plan.reasons],
        },
    }


def plan_from_json(
    content: Mapping[str, Any], dataset_json: Mapping[str, Any] | None = None, *, source: str = "the plan"
) -> Plan:
    """The plan in the content of a ``nnUNetPlans.json``.

    Args:
        content: what :func:`plan_to_json` or nnU-Net made.
        dataset_json: the content of ``dataset.json``; not needed for what :func:`plan_to_json` made.
        source: the name of the file, for messages.

    Raises:
        ValueError: as :func:`read_plans`.
    """
    own = _get(content, "seglib", _object, source) if "seglib" in content else {}
    if dataset_json is not None:
        modalities, classes = _channels_and_classes(dataset_json, "dataset.json")
    elif own:
        modalities = _get(own, "modalities", _row(_text), f"{source}, seglib")
        classes = _get(own, "classes", _row(_text), f"{source}, seglib")
    else:
        raise ValueError(f"{source} does not name channels and classes; pass the dataset.json of its data set, too")
    entries = _get(content, "configurations", _object, source)
    if not entries:
        raise ValueError(f"{source} has no configurations; plan the data set again")
    planner = _get(content, "experiment_planner_used", _text, source)
    memory = own.get("memory")
    parts = (
        _get(content, "dataset_name", _text, source),
        next((name for name, known in PLANNERS.items() if known.reference == planner), planner),
        None if memory is None else _get(own, "memory", _number, f"{source}, seglib"),
        modalities,
        classes,
        _get(content, "transpose_forward", _permutation, source),
        _get(content, "original_median_spacing_after_transp", _row(_positive), source),
        _get(content, "original_median_shape_after_transp", _row(_whole), source),
        _intensities(content, len(modalities), source),
        {name: _configuration(name, entries, source) for name in entries},
        _get(own, "reasons", _row(_reason), f"{source}, seglib") if own else (),
    )
    with _naming(f"{source}: "):
        return Plan(*parts)


def _configuration_to_json(plan: Plan, name: str) -> dict[str, Any]:
    made = plan.configurations[name]
    previous = {} if made.previous is None else {"previous_stage": made.previous}
    full = plan.configurations.get("3d_fullres")
    if previous and full and made == replace(full, name=name, previous=made.previous):
        return {"inherits_from": "3d_fullres"} | previous
    later = [other.name for other in plan.configurations.values() if other.previous == name]
    levels = len(made.widths)
    network = {
        "n_stages": levels,
        "features_per_stage": list(made.widths),
        "kernel_sizes": [list(kernel) for kernel in made.kernels],
        "strides": [[1] * made.dims, *(list(stride) for stride in made.strides)],
        "n_blocks_per_stage" if made.residual else "n_conv_per_stage": list(made.blocks),
        "n_conv_per_stage_decoder": list(made.decoder_blocks),
    }
    planner = PLANNERS.get(plan.planner, PLANNERS["plain"])
    return {
        # the data of 2d and 3d_fullres are prepared alike by all planners, and nnU-Net prepares them once
        "data_identifier": f"{'nnUNetPlans' if name in ('2d', '3d_fullres') else planner.plans_name}_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": made.batch_size,
        "patch_size": list(made.patch),
        "median_image_size_in_voxels": list(made.median_size),
        "spacing": list(made.spacing),
        "normalization_schemes": [_SCHEMES[mode] for mode in made.normalization],
        "use_mask_for_norm": list(made.masked),
        **_RESAMPLING,
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{_NETWORKS[made.residual]}",
            "arch_kwargs": network | _layers(made.dims),
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": made.batch_dice,
        **({"next_stage": later[0]} if later else {}),
        **previous,
    }


def _configuration(name: str, entries: Mapping[str, Any], source: str) -> Configuration:
    where = f"{source}, configuration {name!r}"
    entry = _inherited(name, entries, source)
    patch = _get(entry, "patch_size", _row(_whole), where)
    _check_fixed(entry, _RESAMPLING, where)
    if "UNet_class_name" not in entry:
        network = _get(entry, "architecture", _object, where)
        residual = _get(network, "network_class_name", _residual, f"{where}, architecture")
        layers, where_layers = _get(network, "arch_kwargs", _object, f"{where}, architecture"), f"{where}, arch_kwargs"
        _check_fixed(layers, _layers(len(patch)), where_layers)
        keys = ["kernel_sizes", "strides", "n_blocks_per_stage" if residual else "n_conv_per_stage"]
        channels = _get(layers, "features_per_stage", _row(_whole), where_layers)
    else:  # as nnU-Net 2.0 wrote it
        residual = _get(entry, "UNet_class_name", _residual, where)
        layers, where_layers = entry, where
        keys = ["conv_kernel_sizes", "pool_op_kernel_sizes", "n_conv_per_stage_encoder"]
        width, most = (_get(entry, k, _whole, where) for k in ("UNet_base_num_features", "unet_max_num_features"))
        levels = len(_get(entry, keys[0], _row(_row(_whole)), where))
        channels = tuple(min(width * 2**level, most) for level in range(levels))
    kernels, strides = (_get(layers, key, _row(_row(_whole)), where_layers) for key in keys[:2])
    if not strides or set(strides[0]) != {1}:
        raise ValueError(f"{where_layers}: {keys[1]!r} is {strides}; the stride of the first level is 1 along all axes")
    parts = (
        name,
        _get(entry, "spacing", _row(_positive), where),
        _get(entry, "median_image_size_in_voxels", _row(_positive), where),
        patch,
        _get(entry, "batch_size", _whole, where),
        channels,
        kernels,
        strides[1:],
        _get(layers, keys[2], _row(_whole), where_layers),
        _get(layers, "n_conv_per_stage_decoder", _row(_whole), where_layers),
        residual,
        _get(entry, "batch_dice", _flag, where),
        _get(entry, "normalization_schemes", _row(_mode), where),
        _get(entry, "use_mask_for_norm", _row(_flag), where),
        _get(entry, "previous_stage", _text, where) if entry.get("previous_stage") else None,
    )
    with _naming(f"{where}: "):
        return Configuration(*parts)


def _inherited(name: str, entries: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """A configuration with what it inherits from others."""
    found: dict[str, Any] = {}
    seen: list[str] = []
    while name not in seen:
        seen.append(name)
        entry = _get(entries, name, _object, f"{source}, configurations")
        found = {**entry, **found}
        if "inherits_from" not in entry:
            return found
        name = _get(entry, "inherits_from", _text, f"{source}, configuration {name!r}")
    raise ValueError(
        f"{source}: the configurations {seen} inherit from each other in a circle; correct 'inherits_from'"
    )


def _check_fixed(content: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    for key, value in wanted.items():
        if key in content and content[key] != value:
            raise ValueError(
                f"{where}: {key!r} is {content[key]!r:.120}, and seglib has {value!r} alone; train it with nnU-Net"
            )


def _intensities(content: Mapping[str, Any], channels: int, source: str) -> tuple[ForegroundStatistics, ...]:
    key = "foreground_intensity_properties_per_channel"
    entries = _get(content, key, _object, source)
    names = {name: _STATISTICS.get(name, name) for name in ForegroundStatistics.__dataclass_fields__}
    found = []
    for channel in range(channels):
        entry = _get(entries, str(channel), _object, f"{source}, {key}")
        where = f"{source}, {key}, channel {channel}"
        found.append(ForegroundStatistics(**{name: _get(entry, k, _number, where) for name, k in names.items()}))
    return tuple(found)


def _channels_and_classes(content: Mapping[str, Any], source: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the channels and of the classes, without "ignore", in ``dataset.json``.

    Where labels are regions of several ids, a class is called as the region that writes its id.
    """
    channels = _get(content, "channel_names" if "channel_names" in content else "modality", _object, source)
    labels = dict(_get(content, "labels", _object, source))
    labels.pop("ignore", None)
    if any(isinstance(i, list) for i in labels.values()):
        written = _get(content, "regions_class_order", _row(_whole), source)
        regions = [name for name, i in labels.items() if i not in (0, [0])]
        if len(written) != len(regions):
            raise ValueError(f"{source}: 'regions_class_order' is {list(written)}; it has an id for each of {regions}")
        labels = {name: 0 for name in labels if name not in regions} | dict(zip(regions, written, strict=True))
    if not all(type(i) is int for i in labels.values()):
        raise ValueError(f"{source}: 'labels' is {labels}; each class has a number, or a region a list of them")
    if not channels or sorted(channels) != sorted(str(i) for i in range(len(channels))):
        raise ValueError(f'{source}: its channels are {dict(channels)}; name them like {{"0": "CT", "1": "PET"}}')
    return tuple(str(channels[str(i)]) for i in range(len(channels))), tuple(sorted(labels, key=labels.__getitem__))


def _read_object(path: Path) -> Mapping[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} has a {type(content).__name__} where an object is expected; pass nnU-Net's file")
    return content


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Put the place in front of what is wrong with it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}{error}") from error


def _get(content: Mapping[str, Any], key: str, convert: Callable[[Any], T], where: str) -> T:
    """A checked entry."""
    if key not in content:
        raise ValueError(f"{where} lacks the key {key!r}; it is no whole file of nnU-Net, so copy or plan it again")
    with _naming(f"{where}: {key!r} is {content[key]!r:.80}; "):
        return convert(content[key])


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("it is a finite number")
    return value


def _positive(value: Any) -> float:
    if _number(value) <= 0:
        raise ValueError("it is a positive number")
    return float(value)


def _whole(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError("it is a whole number of at least 1")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("it is true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("it is a text")
    return value


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("it is an object")
    return value


def _row(convert: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
    def converted(value: Any) -> tuple[T, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError("it is a list")
        return tuple(convert(v) for v in value)

    return converted


def _permutation(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or sorted(value) != [0, 1, 2]:
        raise ValueError("it has each of the axes 0, 1 and 2 once")
    return tuple(value)


def _mode(value: Any) -> str:
    modes = {scheme: mode for mode, scheme in _SCHEMES.items()}
    if value not in modes:
        raise ValueError(f"normalisations are {', '.join(modes)}")
    return modes[value]


def _residual(value: Any) -> bool:
    """Whether a network, named with or without its module, is made of residual blocks."""
    name = _text(value).rpartition(".")[2]
    if name not in _NETWORKS.values():
        raise ValueError(f"networks are {' and '.join(_NETWORKS.values())}")
    return name == _NETWORKS[True]


def _reason(value: Any) -> Reason:
    names = Reason.__dataclass_fields__
    if not isinstance(value, Mapping) or set(value) != set(names) or not all(type(v) is str for v in value.values()):
        raise ValueError(f"a reason has the texts {', '.join(names)}")
    return Reason(**value)
