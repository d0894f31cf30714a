"""Weights of MONAI's ``DynUNet``: its names and ours. Kernels and strides follow from the shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seglib.data.voc import voc_color
from seglib.weights.renaming import Rule, rename

_CONVS = {"conv1.conv": "0", "norm1": "1", "conv2.conv": "3", "norm2": "4"}  # in a block of two convolutions


def convert_dynunet(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict of ``monai.networks.nets.DynUNet`` → state dict and metadata of seglib.

    They are for :class:`~seglib.models.unet3d.UNet3D`. The DynUNet has three dimensions, instance norm and plain
    blocks, which are its defaults. The stride of a level is the kernel of the transposed convolution that undoes it, as
    in nnU-Net's plans.

    Raises:
        ValueError: when a key is unknown (residual blocks have some), when the network isn't three-dimensional, or when
            there are no scores.
    """
    own = {key: value for key, value in state.items() if not key.startswith("skip_layers.")}  # the same tensors again
    levels = 2 + sum(key.startswith("downsamples.") and key.endswith(".conv1.conv.weight") for key in own)
    rules: list[Rule] = [
        ("input_block", "encoder.0"),
        (r"downsamples\.(\d+)", lambda m: f"encoder.{int(m[1]) + 1}"),
        ("bottleneck", f"encoder.{levels - 1}"),
        (r"upsamples\.(\d+)\.transp_conv\.conv", r"up.\1"),
        (r"upsamples\.(\d+)\.conv_block", r"decoder.\1"),
        (r"(encoder|decoder)\.(\d+)\.(conv[12]\.conv|norm[12])(?=\.)", lambda m: f"{m[1]}.{m[2]}.{_CONVS[m[3]]}"),
        (r"output_block\.conv\.conv", "score"),
        (r"deep_supervision_heads\.(\d+)\.conv\.conv", r"aux_scores.\1"),
    ]
    renamed = rename(own, rules, "MONAI's DynUNet")
    wanted = ["score.weight", *(f"encoder.{i}.0.weight" for i in range(levels))]
    wanted += [
        f"{part}.{i}{end}" for i in range(levels - 1) for part, end in (("up", ".weight"), ("decoder", ".0.weight"))
    ]
    if absent := [key for key in wanted if key not in renamed]:
        raise ValueError(f"the state dict has nothing for {absent[0]}; save the whole DynUNet's")
    if renamed["score.weight"].ndim != 5:
        raise ValueError(f"the scores are {tuple(renamed['score.weight'].shape)}: this DynUNet isn't three-dimensional")
    convs = [renamed[f"encoder.{i}.0.weight"] for i in range(levels)]  # (C_out, C_in, z, y, x) each
    ways_up = list(range(levels - 2, -1, -1))  # the finest level is the last
    channels, num_classes = convs[0].shape[1], len(renamed["score.weight"])
    arguments = {
        "num_classes": num_classes,
        "in_channels": channels,
        "widths": tuple(len(conv) for conv in convs),
        "kernels": tuple(tuple(conv.shape[2:]) for conv in convs),
        "strides": tuple(tuple(renamed[f"up.{i}.weight"].shape[2:]) for i in ways_up),
        "decoder_kernels": tuple(tuple(renamed[f"decoder.{i}.0.weight"].shape[2:]) for i in ways_up),
        "aux_outputs": sum(key.startswith("aux_scores.") and key.endswith(".weight") for key in renamed),
    }
    renamed["normalize.mean"], renamed["normalize.std"] = torch.zeros(channels), torch.ones(channels)
    names = ["background", *(f"class {i}" for i in range(1, num_classes))]
    categories = [{"id": i, "name": n, "isthing": False, "color": list(voc_color(i))} for i, n in enumerate(names)]
    return renamed, {"arguments": arguments, "task": "volume", "categories": categories}
