"""Weights of SAM: which name of the official checkpoints, and of Transformers' SamModel, is which of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seglib.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from seglib.ops.geometry import Geometry
from seglib.weights.renaming import Rule, rename

_BLOCK = r"(encoder\.blocks\.\d+)"
_LAYER = r"(mask_decoder\.blocks\.\d+)"
_ATTENTION = r"(mask_decoder\..*_attention)"
_MLP = r"(mask_decoder\.(?:mask_mlps\.\d+|iou_mlp))"
_NORMS = {"1": "self_norm", "2": "token_norm", "3": "mlp_norm", "4": "image_norm"}

BOTH: list[Rule] = [
    (r"(image|vision)_encoder\.", r"encoder."),
    (r"encoder\.pos_embed$", r"encoder.position"),
    (r"encoder\.patch_embed\.proj(ection)?\.", r"encoder.embed."),
    (r"encoder\.layers\.", r"encoder.blocks."),
    (rf"{_BLOCK}\.layer_norm", r"\1.norm"),
    (rf"{_BLOCK}\.attn\.", r"\1.attention."),
    (rf"{_BLOCK}\.attention\.rel_pos_h$", r"\1.attention.rows"),
    (rf"{_BLOCK}\.attention\.rel_pos_w$", r"\1.attention.columns"),
    (rf"{_BLOCK}\.attention\.proj\.", r"\1.attention.out."),
    (rf"{_BLOCK}\.mlp\.lin([12])\.", lambda m: f"{m[1]}.mlp.{2 * int(m[2]) - 2}."),
    (r"prompt_encoder\.point_embed(dings)?\.(\d)\.weight$", r"prompt_encoder.meaning.\2"),
    (r"prompt_encoder\.not_a_point_embed\.weight$", r"prompt_encoder.padding"),
    (r"prompt_encoder\.no_mask_embed\.weight$", r"prompt_encoder.no_mask"),
    (r"mask_decoder\.(iou_token|mask_tokens)\.weight$", r"mask_decoder.\1"),
    (r"mask_decoder\.transformer\.layers\.", r"mask_decoder.blocks."),
    (rf"{_LAYER}\.self_attn\.", r"\1.self_attention."),
    (rf"{_LAYER}\.cross_attn_token_to_image\.", r"\1.token_attention."),
    (rf"{_LAYER}\.cross_attn_image_to_token\.", r"\1.image_attention."),
    (rf"{_LAYER}\.(layer_)?norm([1-4])\.", lambda m: f"{m[1]}.{_NORMS[m[3]]}."),
    (rf"{_LAYER}\.mlp\.lin", r"\1.linear"),
    (r"mask_decoder\.transformer\.final_attn_token_to_image\.", r"mask_decoder.last_attention."),
    (r"mask_decoder\.transformer\.(layer_)?norm_final_attn\.", r"mask_decoder.last_norm."),
    (rf"{_ATTENTION}\.q_proj\.", r"\1.query."),
    (rf"{_ATTENTION}\.k_proj\.", r"\1.key."),
    (rf"{_ATTENTION}\.v_proj\.", r"\1.value."),
    (rf"{_ATTENTION}\.out_proj\.", r"\1.out."),
    (r"mask_decoder\.output_hypernetworks_mlps\.", r"mask_decoder.mask_mlps."),
    (r"mask_decoder\.iou_prediction_head\.", r"mask_decoder.iou_mlp."),
]
"""Where the names are the same in both, or nearly so."""

OFFICIAL: list[Rule] = [
    (r"prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", r"prompt_encoder.position.frequencies"),
    (r"prompt_encoder\.mask_downscaling\.", r"prompt_encoder.mask_layers."),
    (r"mask_decoder\.output_upscaling\.", r"mask_decoder.upsample."),
    (rf"{_MLP}\.layers\.(\d)\.", lambda m: f"{m[1]}.{2 * int(m[2])}."),
]

TRANSFORMERS: list[Rule] = [
    (r"encoder\.neck\.conv([12])\.", lambda m: f"encoder.neck.{2 * int(m[1]) - 2}."),
    (r"encoder\.neck\.layer_norm([12])\.", lambda m: f"encoder.neck.{2 * int(m[1]) - 1}."),
    (r"(prompt_encoder\.shared|shared_image)_embedding\.positional_embedding$", r"prompt_encoder.position.frequencies"),
    (r"prompt_encoder\.mask_embed\.conv([123])\.", lambda m: f"prompt_encoder.mask_layers.{3 * int(m[1]) - 3}."),
    (r"prompt_encoder\.mask_embed\.layer_norm([12])\.", lambda m: f"prompt_encoder.mask_layers.{3 * int(m[1]) - 2}."),
    (r"mask_decoder\.upscale_conv([12])\.", lambda m: f"mask_decoder.upsample.{3 * int(m[1]) - 3}."),
    (r"mask_decoder\.upscale_layer_norm\.", r"mask_decoder.upsample.1."),
    (rf"{_MLP}\.proj_in\.", r"\1.0."),
    (rf"{_MLP}\.layers\.0\.", r"\1.2."),
    (rf"{_MLP}\.proj_out\.", r"\1.4."),
]

POSITIONS = "shared_image_embedding.positional_embedding"
POSITIONS_AGAIN = "prompt_encoder.shared_embedding.positional_embedding"
"""One tensor that Transformers' model has under two names; a file may have one of them or both."""


def convert_sam(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict of an official checkpoint, ``sam_vit_b_01ec64.pth`` for one → state dict and metadata of seglib.

    Raises:
        ValueError: when a key is unknown, or one that tells the image size or a prompt's meaning is missing.
    """
    return _joined(state, [*BOTH, *OFFICIAL])


def convert_transformers(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict of Transformers' ``SamModel``, or a file of one → state dict and metadata of seglib.

    Raises:
        ValueError: as :func:`convert_sam` does.
    """
    if POSITIONS in state:
        state = {k: v for k, v in state.items() if k != POSITIONS_AGAIN}
    return _joined(state, [*BOTH, *TRANSFORMERS])


def _joined(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict under our names, with the vectors of what a prompt means as one table, and its metadata."""
    renamed = rename(state, rules, "SAM")
    meanings = [f"prompt_encoder.meaning.{i}" for i in range(4)]
    needed = ["encoder.position", "encoder.embed.weight", *meanings]
    if missing := [key for key in needed if key not in renamed]:
        raise ValueError(f"the weights lack {', '.join(missing)}; convert a whole checkpoint of SAM")
    renamed["prompt_encoder.meaning"] = torch.cat([renamed.pop(key) for key in meanings])  # (4, C)
    for key in ("encoder.position", "prompt_encoder.padding", "prompt_encoder.no_mask"):
        if key in renamed:
            renamed[key] = renamed[key][0]  # without the axis of the batch
    size = len(renamed["encoder.position"]) * renamed["encoder.embed.weight"].shape[-1]  # patches times their side
    facts = {"arguments": {"image_size": size}, "task": "prompt", "geometry": Geometry("letterbox", size).to_json()}
    renamed["normalize.mean"] = torch.tensor(IMAGENET_MEAN)
    renamed["normalize.std"] = torch.tensor(IMAGENET_STD)
    return renamed, facts
