"""``seglib coco``: annotations of other tools in COCO's format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seglib.commands import options
from seglib.commands.console import say, warn


def coco(
    source: Annotated[Path, typer.Argument(help="A folder of LabelMe's JSON files, or VIA's JSON file.")],
    out: Annotated[Path, typer.Argument(help="The COCO file to write, for `seglib train --annotations`.")],
    images: Annotated[
        Path | None, typer.Option(help="The folder of the images; that of the JSON files when not given.")
    ] = None,
    attribute: Annotated[
        str | None,
        typer.Option(help="Of VIA: the attribute of regions that is the class; the only one if not given."),
    ] = None,
) -> None:
    """Turn annotations of LabelMe or VIA into a COCO file."""
    from seglib.data.polygon_tools import write_polygons_as_coco

    options.check_writable(out)
    done, warnings = write_polygons_as_coco(source, out, images, attribute)
    for warning in warnings:
        warn(warning)
    words = {"images": ("image", "images"), "annotations": ("object", "objects"), "categories": ("class", "classes")}
    counted = ", ".join(f"{n} {words[part][n != 1]}" for part, n in done.items())
    say(f"{out}: {counted}")
