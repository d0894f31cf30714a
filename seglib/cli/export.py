"""``seglib export``: a model as a file that needs no seglib."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seglib.commands import options
from seglib.commands.console import note, say


def export(
    weights: Annotated[Path, typer.Argument(help="A .safetensors file of a semantic model, or the folder of a run.")],
    out: Annotated[Path, typer.Argument(help="The file to write: .pt2 (torch.export), .onnx or .json (plain steps).")],
) -> None:
    """Write a semantic model as a file that runs without seglib, for images of any number and size.

    The normalisation is part of it: images are float32 in [0, 1], logits come back at their size. The file is compared
    with the model on batches of several sizes.
    """
    from seglib.weights import load_model, read_metadata
    from seglib.weights.export import CHECKED, export_model

    options.check_writable(out)
    net, metadata = load_model(weights), read_metadata(weights)
    difference = export_model(net, out, metadata)
    sizes = ", ".join(f"{b}×{h}×{w}" for b, h, w in CHECKED)
    say(f"{weights} → {out}; largest difference of its logits from the model's: {difference:.1e} (batches {sizes})")
    channels = len(net.normalize.mean)
    note(f"images go in as float32 (B, {channels}, H, W) in [0, 1]{'; grey ones three times' if channels == 3 else ''}")
    if net.intensity.mode == "percentile":
        note(
            "it rescales nothing: the model wants the 0.5th percentile of each image at 0 and the 99.5th at 1, clipped "
            "to [0, 1] (--rescale percentile)"
        )
    if net.geometry.mode != "native":
        shape = net.geometry.model_size((480, 640))
        note(
            f"it resizes nothing: the model wants images at {net.geometry.mode} {net.geometry.size}, e.g. 480x640 at "
            f"{shape[0]}x{shape[1]}"
        )
