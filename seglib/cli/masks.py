"""``seglib masks``: everything in a photo, without prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seglib.cli.shared import Device
from seglib.commands import options
from seglib.commands.stored import served_task


def masks(
    photo: Annotated[Path, typer.Argument(metavar="PATH", help="A photo or a folder of photos.")],
    weights: Annotated[Path, typer.Option(help="A .safetensors file of a promptable model (SAM).")],
    points_per_side: Annotated[
        int | None, typer.Option(help="Clicks along each side of the photo, on a regular grid; 32 of SAM.")
    ] = None,
    iou: Annotated[float | None, typer.Option(help="Lowest predicted IoU of a mask that is kept; 0.88 of SAM.")] = None,
    stability: Annotated[
        float | None,
        typer.Option(
            help="Lowest stability of a mask that is kept: the IoU of the masks at thresholds of -1 and 1; 0.95 of SAM."
        ),
    ] = None,
    crops: Annotated[
        int | None,
        typer.Option(help="Layers of crops, which find small objects: 1 adds 4 crops, 2 another 16; 0 when not given."),
    ] = None,
    min_area: Annotated[
        int | None, typer.Option(help="Pixels: smaller holes are filled and smaller islands removed; 0 keeps them.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Overlay PNG; for a folder, a folder.")] = None,
    device: Device = "auto",
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print the masks as JSON: COCO's run-length code, area, box, predicted IoU, stability, the click and "
            "the crop.",
        ),
    ] = False,
) -> None:
    """Segment everything in a photo or a folder of photos: clicks on a grid, of whose masks the good ones are kept.

    Masks have no classes, and one may lie within another. Of a folder, what cannot be read is left out and named.
    """
    from seglib.commands.prompts import segment_photos
    from seglib.photos import photos_at, png_targets

    photos = photos_at([photo])
    if out is None and not as_json:
        raise ValueError("say what you want: --out overlay.png, or --json")
    options.check_writable(out)
    overlays = png_targets(out, photos, [photo])
    if (task := served_task(weights)) != "prompt":
        raise ValueError(f"{weights} is for the task {task}; `seglib masks` needs a promptable model (SAM)")
    segment_photos(
        photos,
        overlays,
        weights,
        device,
        out=out,
        as_json=as_json,
        points_per_side=points_per_side,
        iou_threshold=iou,
        stability_threshold=stability,
        crop_layers=crops,
        min_area=min_area,
    )
