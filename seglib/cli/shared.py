"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    str | None,
    typer.Option(
        help="Images: scenes (synthetic, the default), camvid, pets, voc, cityscapes, isbi, coco, dsb2018, or folder "
        "(your own). Volumes: volumes (synthetic, the default), or msd and nnunet (your own in these layouts)."
    ),
]
Root = Annotated[Path | None, typer.Option(help="Folder of the dataset; the synthetic ones need none.")]
Weights = Annotated[
    list[Path],
    typer.Option(
        help="A .safetensors file that seglib wrote. Of volumes several: the option again for each model of an "
        "ensemble, or the choice.json of `seglib select`."
    ),
]
Previous = Annotated[
    list[Path] | None,
    typer.Option(
        help="Of 3d_cascade_fullres: the runs of 3d_lowres from whose predictions it goes on, the option again for "
        "each."
    ),
]
FlipAll = Annotated[
    bool,
    typer.Option(
        "--flip-all",
        help="Of volumes: average over views flipped over all axes, as nnU-Net does; it takes 8 times as long.",
    ),
]
Annotations = Annotated[
    Path | None,
    typer.Option(
        help="A COCO file of your own, of any name; --data coco when not given. In training it is that of train."
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        help="The folder that the file_name of --annotations start from; those around the file when not given."
    ),
]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad",
        help="Of coco: leave out images and annotations that are wrong, and name and count them, instead of refusing "
        "the file.",
    ),
]
ValShare = Annotated[
    float | None,
    typer.Option(
        help="Of folder and coco: this share of the training images is held out as val, e.g. 0.2, where there is none. "
        "Their names decide which, so it is always the same ones."
    ),
]
Upright = Annotated[
    bool | None,
    typer.Option(
        "--upright/--stored-orientation",
        help="Of folder and coco: turn photos as their EXIF orientation says, or leave them as they are stored, where "
        "labels were drawn that way. When not given: upright of folder; of coco as the sizes in the file say.",
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps, or auto.")]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Of semantic models: compile the network first. It takes up to a minute for each size of images and pays "
        "for many of one size.",
    ),
]
ServedTask = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="Of weights for several tasks: semantic, instance or panoptic; by default the one they were trained for.",
    ),
]
