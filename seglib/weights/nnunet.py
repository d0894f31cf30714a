"""Checkpoints of nnU-Net v2: its names and ours, and what it knows of classes, patch and preparation.

::

    Dataset004_Hippocampus/nnUNetTrainer__nnUNetPlans__3d_fullres/
      plans.json  dataset.json             the plan, and the data set's own facts
      fold_0/checkpoint_final.pth          the weights, with the same plan and facts
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seglib.data.nnunet_raw import label_table
from seglib.data.voc import voc_color
from seglib.files import read_json
from seglib.planning.plans_json import plan_from_json
from seglib.weights.pickles import read_torch
from seglib.weights.renaming import Rule, rename

_REPEATED: list[Rule] = [  # the same tensors under other names
    (r"decoder\.encoder\.", "encoder."),
    (r"(.*)\.all_modules\.0\.", r"\1.conv."),
    (r"(.*)\.all_modules\.1\.", r"\1.norm."),
]
_LAYER = {"conv": 0, "norm": 1}

_TRAINED = ("plans", "dataset_json", "configuration")
"""What a training is told, under the names in a checkpoint's ``init_args``."""


def read_nnunet(path: str | Path) -> dict[str, Any]:
    """A checkpoint of nnU-Net v2, read without running it.

    Args:
        path: ``fold_0/checkpoint_final.pth`` in nnU-Net's folder of results, or such a file alone.

    Returns:
        The state dict as ``network_weights``, and as ``init_args`` what is known of its training: ``plans``,
        ``dataset_json`` and ``configuration``, of the file itself or else of the folder.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when a file is damaged, or holds more than tensors, numbers, text and plain containers.
    """
    content = read_torch(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds no checkpoint but a {type(content).__name__}; pass nnU-Net's .pth file")
    folder = Path(path).resolve().parent.parent
    found: dict[str, Any] = {}
    for name, file in {"plans": folder / "plans.json", "dataset_json": folder / "dataset.json"}.items():
        if file.is_file():
            found[name] = read_json(file)
    if len(parts := folder.name.split("__")) == 3:  # trainer, plans, configuration
        found["configuration"] = parts[2]
    return {"network_weights": content.get("network_weights", content), "init_args": found | _trained(content)}


def convert_nnunet(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint of nnU-Net v2, or the state dict of its network alone → state dict and metadata of seglib.

    They are for :class:`~seglib.models.nnunet.NNUNet`. The numbers of the network follow from the shapes: the stride of
    a level is the kernel of the transposed convolution that undoes it. A checkpoint also says what the classes are
    called, how large a patch is and how cases are prepared.

    Args:
        state: what :func:`read_nnunet` returns, or a state dict.

    Raises:
        ValueError: when a key is unknown or missing, or the plan is damaged or of another network.
    """
    converted, arguments = _network(state.get("network_weights", state))
    names = ["background", *(f"class {i}" for i in range(1, arguments["num_classes"]))]
    facts: dict[str, Any] = {}
    if set(trained := _trained(state)) == set(_TRAINED):
        names, facts = _facts(arguments, **trained)
    categories = [{"id": i, "name": n, "isthing": False, "color": list(voc_color(i))} for i, n in enumerate(names)]
    return converted, {"arguments": arguments, "task": "volume", "categories": categories, **facts}


def _trained(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    known = checkpoint.get("init_args", {})
    return {name: known[name] for name in _TRAINED if name in known}


def _network(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict under our names, and the arguments of its network."""
    own: dict[str, Tensor] = {}
    for key, value in state.items():
        for pattern, first_name in _REPEATED:
            key = re.sub(f"^{pattern}", first_name, key)
        own[key] = value
    levels = 1 + _count(own, r"decoder\.transpconvs\.\d+\.weight")
    layer = r"(conv|norm)(?=\.)"
    rules: list[Rule] = [
        (rf"encoder\.stem\.convs\.0\.{layer}", lambda m: f"stem.{_LAYER[m[1]]}"),
        (
            rf"encoder\.stages\.(\d+)\.blocks\.(\d+)\.conv([12])\.{layer}",
            lambda m: f"encoder.{m[1]}.{m[2]}.convs.{3 * int(m[3]) - 3 + _LAYER[m[4]]}",
        ),
        (
            rf"encoder\.stages\.(\d+)\.blocks\.(\d+)\.skip\.(\d)\.{layer}",  # behind a pooling, where the block strides
            lambda m: f"encoder.{m[1]}.{m[2]}.skip.{int(m[3]) + _LAYER[m[4]]}",
        ),
        (
            rf"(encoder\.stages\.\d+\.0|decoder\.stages\.\d+)\.convs\.(\d+)\.{layer}",
            lambda m: f"{'.'.join(m[1].split('.')[:3:2])}.{3 * int(m[2]) + _LAYER[m[3]]}",
        ),
        (r"decoder\.transpconvs\.", "up."),
        (rf"decoder\.seg_layers\.{levels - 2}\.", "score."),
        (r"decoder\.seg_layers\.(\d+)\.", lambda m: f"aux_scores.{levels - 3 - int(m[1])}."),
    ]
    renamed = rename(own, rules, "nnU-Net's PlainConvUNet or ResidualEncoderUNet")
    residual = "stem.0.weight" in renamed
    conv = ".convs.0.weight" if residual else ".weight"  # of a block
    ways_up = list(range(levels - 2, -1, -1))  # the finest level is the last
    wanted = ["score.weight", *(f"encoder.{i}.0{conv}" for i in range(levels))]
    wanted += [f"{part}.{i}{end}" for i in ways_up for part, end in (("up", ".weight"), ("decoder", ".0.weight"))]
    if absent := [key for key in wanted if key not in renamed]:
        raise ValueError(f"the state dict has nothing for {absent[0]}; save that of the whole network")
    convs = [renamed[f"encoder.{i}.0{conv}"] for i in range(levels)]  # (C_out, C_in, z, y, x) each
    in_channels = (renamed["stem.0.weight"] if residual else convs[0]).shape[1]
    # of convolutions every third layer is one, and norms have no kernel
    arguments = {
        "num_classes": len(renamed["score.weight"]),
        "in_channels": in_channels,
        "dims": renamed["score.weight"].ndim - 2,
        "widths": tuple(len(weight) for weight in convs),
        "kernels": tuple(tuple(weight.shape[2:]) for weight in convs),
        "strides": tuple(tuple(renamed[f"up.{i}.weight"].shape[2:]) for i in ways_up),
        "blocks": tuple(_count(renamed, rf"encoder\.{i}\.\d+{conv}", convs[0].ndim) for i in range(levels)),
        "decoder_blocks": tuple(_count(renamed, rf"decoder\.{i}\.\d+\.weight", convs[0].ndim) for i in ways_up),
        "residual": residual,
        "aux_outputs": _count(renamed, r"aux_scores\.\d+\.weight"),
    }
    renamed["normalize.mean"], renamed["normalize.std"] = torch.zeros(in_channels), torch.ones(in_channels)
    return renamed, arguments


def _count(state: Mapping[str, Tensor], pattern: str, axes: int | None = None) -> int:
    """The tensors whose names fit, of so many axes."""
    return sum(re.fullmatch(pattern, key) is not None and axes in (None, value.ndim) for key, value in state.items())


def _facts(
    arguments: dict[str, Any], plans: Mapping[str, Any], dataset_json: Mapping[str, Any], configuration: str
) -> tuple[list[str], dict[str, Any]]:
    """The names of the classes, and the metadata that ``seglib predict`` follows; adds to ``arguments``."""
    plan = plan_from_json(plans, dataset_json)
    preparation = plan.preparation(configuration)
    planned = plan.configurations[configuration]
    classes, regions, void = label_table("dataset.json", dataset_json)  # of the ids in files
    window = [*(1,) * (3 - planned.dims), *planned.patch]
    task_arguments: dict[str, Any] = {"window": window}
    if regions is not None:
        arguments["overlapping"], task_arguments["regions"] = True, regions
    expected = planned.model_arguments() | {
        "num_classes": len(classes if regions is None else regions),
        "in_channels": len(plan.modalities) + preparation.previous,
    }
    for name, value in expected.items():
        if arguments.setdefault(name, value) != value:
            raise ValueError(
                f"the plan is of another network: its {name} are {value}, those of the weights {arguments[name]}; take "
                "plans.json, dataset.json and the checkpoint from one folder"
            )
    file_ids = sorted(classes)
    return [classes[i] for i in file_ids], {
        "file_ids": file_ids,
        "void_id": void,
        "modalities": list(plan.modalities),
        "patch": window,
        "task_arguments": task_arguments,
        "preparation": preparation.to_json(),
    }
