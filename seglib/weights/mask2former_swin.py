"""Names of a Swin Transformer in Mask2Former's checkpoints: which of them is which of ours."""

from __future__ import annotations

from seglib.weights.renaming import Rule

SWIN_RULES: list[Rule] = [
    (r"backbone\.patch_embed\.proj\.", r"encoder.embed."),
    (r"backbone\.patch_embed\.norm\.", r"encoder.embed_norm."),
    (r"backbone\.layers\.(\d)\.blocks\.(\d+)\.", r"encoder.stages.\1.\2."),
    (r"backbone\.layers\.(\d)\.downsample\.", r"encoder.merges.\1."),
    (r"backbone\.norm(\d)\.", r"encoder.norms.\1."),
    (r"(encoder\.stages\.\d\.\d+)\.attn\.relative_position_bias_table", r"\1.attention.bias_table"),
    (r"(encoder\.stages\.\d\.\d+)\.attn\.qkv\.", r"\1.attention.qkv."),
    (r"(encoder\.stages\.\d\.\d+)\.attn\.proj\.", r"\1.attention.out."),
    (r"(encoder\.stages\.\d\.\d+)\.mlp\.fc1\.", r"\1.mlp.0."),
    (r"(encoder\.stages\.\d\.\d+)\.mlp\.fc2\.", r"\1.mlp.2."),
]
"""The encoder with its norms on the maps. ``relative_position_index`` follows from the window: drop it before."""
