"""Weights of Transformers' Mask2Former: which of its names is which of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seglib.weights.mask2former import split_projections, with_metadata
from seglib.weights.renaming import Rule, rename

_ENCODER = r"model\.pixel_level_module\.encoder\."

RESNET: list[Rule] = [
    (rf"{_ENCODER}embedder\.embedder\.convolution\.", r"encoder.conv1."),
    (rf"{_ENCODER}embedder\.embedder\.normalization\.", r"encoder.bn1."),
    (rf"{_ENCODER}encoder\.stages\.(\d)\.layers\.", lambda m: f"encoder.layer{int(m[1]) + 1}."),
    (r"(encoder\.layer\d\.\d+)\.layer\.(\d)\.convolution\.", lambda m: f"{m[1]}.conv{int(m[2]) + 1}."),
    (r"(encoder\.layer\d\.\d+)\.layer\.(\d)\.normalization\.", lambda m: f"{m[1]}.bn{int(m[2]) + 1}."),
    (r"(encoder\.layer\d\.\d+)\.shortcut\.convolution\.", r"\1.downsample.0."),
    (r"(encoder\.layer\d\.\d+)\.shortcut\.normalization\.", r"\1.downsample.1."),
]
"""A ResNet, whose batch norms learn."""

SWIN: list[Rule] = [
    (rf"{_ENCODER}(swin\.)?embeddings\.patch_embeddings\.projection\.", r"encoder.embed."),
    (rf"{_ENCODER}(swin\.)?embeddings\.norm\.", r"encoder.embed_norm."),
    (rf"{_ENCODER}hidden_states_norms\.stage(\d)\.", lambda m: f"encoder.norms.{int(m[1]) - 1}."),
    (rf"{_ENCODER}(swin\.)?encoder\.layers\.(\d)\.downsample\.", r"encoder.merges.\2."),
    (rf"{_ENCODER}(swin\.)?encoder\.layers\.(\d)\.blocks\.", r"encoder.stages.\2."),
    (r"(encoder\.stages\.\d\.\d+)\.layernorm_before\.", r"\1.norm1."),
    (r"(encoder\.stages\.\d\.\d+)\.layernorm_after\.", r"\1.norm2."),
    (r"(encoder\.stages\.\d\.\d+)\.attention\.(\w+\.)?relative_position_bias_table", r"\1.attention.bias_table"),
    (r"(encoder\.stages\.\d\.\d+)\.attention\.self\.", r"\1.attention."),
    (r"(encoder\.stages\.\d\.\d+)\.attention\.(output\.dense|o_proj)\.", r"\1.attention.out."),
    (r"(encoder\.stages\.\d\.\d+\.attention\.[qkv])_proj\.", r"\1."),
    (r"(encoder\.stages\.\d\.\d+\.attention\.[qkv])(uery|ey|alue)\.", r"\1."),
    (r"(encoder\.stages\.\d\.\d+)\.(intermediate\.dense|mlp\.fc1)\.", r"\1.mlp.0."),
    (r"(encoder\.stages\.\d\.\d+)\.(output\.dense|mlp\.fc2)\.", r"\1.mlp.2."),
]
"""A Swin, under the names of the published files, which older versions wrote, and under those of version 5."""

HEAD: list[Rule] = [
    (r"model\.pixel_level_module\.decoder\.", r"pixel_decoder."),
    (r"pixel_decoder\.level_embed$", r"pixel_decoder.level_embedding"),
    (r"pixel_decoder\.input_projections\.", r"pixel_decoder.input_proj."),
    (r"pixel_decoder\.adapter_1\.", r"pixel_decoder.lateral."),
    (r"pixel_decoder\.layer_1\.", r"pixel_decoder.output."),
    (r"pixel_decoder\.mask_projection\.", r"pixel_decoder.mask_features."),
    (r"pixel_decoder\.encoder\.layers\.", r"pixel_decoder.layers."),
    (r"(pixel_decoder\.layers\.\d+)\.self_attn\.", r"\1.attention."),
    (r"(pixel_decoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.norm1."),
    (r"(pixel_decoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm2."),
    (r"model\.transformer_module\.queries_features\.weight", r"decoder.query_features"),
    (r"model\.transformer_module\.queries_embedder\.weight", r"decoder.query_positions"),
    (r"model\.transformer_module\.level_embed\.weight", r"decoder.level_embedding"),
    (r"model\.transformer_module\.decoder\.layers\.", r"decoder.layers."),
    (r"(decoder\.layers\.\d+\.(self|cross))_attn_layer_norm\.", r"\1_norm."),
    (r"(decoder\.layers\.\d+\.(self|cross))_attn\.", r"\1_attention."),
    (r"(decoder\.layers\.\d+\.\w+_attention\.)q_proj\.", r"\1query."),
    (r"(decoder\.layers\.\d+\.\w+_attention\.)k_proj\.", r"\1key."),
    (r"(decoder\.layers\.\d+\.\w+_attention\.)v_proj\.", r"\1value."),
    (r"(decoder\.layers\.\d+\.\w+_attention\.)out_proj\.", r"\1out."),
    (r"(decoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm."),
    (r"((?:pixel_)?decoder\.layers\.\d+)\.fc([12])\.", r"\1.linear\2."),
    (r"model\.transformer_module\.decoder\.layernorm\.", r"decoder.norm."),
    (
        r"model\.transformer_module\.decoder\.mask_predictor\.mask_embedder\.(\d)\.0\.",
        lambda m: f"decoder.mask_head.{2 * int(m[1])}.",
    ),
    (r"class_predictor\.", r"decoder.class_head."),
]

COMPUTED = re.compile(rf"criterion\.empty_weight|.*\.relative_position_index|{_ENCODER}(swin\.)?layernorm\..*")
"""What holds no weights, or weights that nothing reads: the norm after Swin's last stage."""


def convert_mask2former(state: Mapping[str, Tensor], task: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A state dict of ``Mask2FormerForUniversalSegmentation``, or a file of one → state dict and metadata of seglib.

    Args:
        state: the state dict, of a model with a ResNet or a Swin and any number of queries.
        task: what the model was trained for, which its weights don't tell: "semantic", "instance" or "panoptic".

    Raises:
        ValueError: when a key is unknown, or it is a panoptic model of other classes than those of COCO or Cityscapes.
    """
    weights = {k: v for k, v in state.items() if not COMPUTED.fullmatch(k)}
    renamed = rename(split_projections(weights), [*RESNET, *SWIN, *HEAD], "Transformers' Mask2Former")
    return with_metadata(_joined(renamed), task)


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with one ``qkv`` ``(3C, C)`` for each ``q``, ``k`` and ``v`` of a Swin."""
    joined = {}
    for key, value in state.items():
        module, one, part = key.rpartition(".q.")
        if one:
            joined[f"{module}.qkv.{part}"] = torch.cat([state[f"{module}.{x}.{part}"] for x in "qkv"])
        elif ".k." not in key and ".v." not in key:
            joined[key] = value
    return joined
