"""``seglib predict``: from photos or volumes to labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from seglib.cli.shared import Compile, Device, FlipAll, Previous, ServedTask, Weights
from seglib.commands import options
from seglib.commands.console import note, one_line, say_what_was_done, shown
from seglib.commands.stored import compile_semantic, load, served_task, serves_volumes
from seglib.models.zoo import find


def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Photos or folders of photos; for a model of volumes one NIfTI file or folder of them. Channels lie "
            "in one file or in CASE_0000.nii.gz, CASE_0001.nii.gz, …",
        ),
    ],
    weights: Weights,
    task: ServedTask = None,
    point: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y",
            help="Of a promptable model (SAM): a click on the object, in pixels from the upper left corner; the option "
            "again for each click on the same object.",
        ),
    ] = None,
    background: Annotated[
        list[str] | None, typer.Option(metavar="X,Y", help="Of the same: a click on what is not the object.")
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X0,Y0,X1,Y1",
            help="Of the same: a box around the object; the option again for each further object.",
        ),
    ] = None,
    several: Annotated[
        bool,
        typer.Option("--several", help="Of the same: the three answers to an ambiguous click, not the best alone."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Overlay PNG; of a volume the NIfTI file of its labels, on the grid of the image and with the "
            "dataset's own ids. For a folder, a folder."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="PNG of the class ids that the dataset's own label files have, of objects numbered by score (of a "
            "promptable model in the order of --box), or of segments as COCO stores them (id = R + 256 G + 65536 B). "
            "Classes have their colours as a palette: Pillow reads the ids, OpenCV the colours. For a folder, a folder."
        ),
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(help="A COCO file whose image ids go into --json; without it results have the photos' names."),
    ] = None,
    score: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Lowest score of an object, of an instance or panoptic model (0.5 when not given). In a panoptic map "
            "from queries all segments must exceed it (0.8).",
        ),
    ] = None,
    short_side: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Shorter side that the model sees; as the weights say when not given, 0 for the photo's own.",
        ),
    ] = None,
    scales: Annotated[
        str | None, typer.Option(help="Average over views of the photo at these scales, e.g. 0.5,1,1.5.")
    ] = None,
    flip: Annotated[
        bool, typer.Option("--flip", help="Average over views flipped left to right, too (the axis W of a volume).")
    ] = False,
    flip_all: FlipAll = False,
    previous: Previous = None,
    tile: Annotated[
        int | None,
        typer.Option(
            min=64, help="Side of overlapping tiles; when not given, 1024 for large photos, and none for others."
        ),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            metavar="DxHxW",
            help="Voxels of a volume that the model sees at once; the patch of training when not given.",
        ),
    ] = None,
    overlap: Annotated[
        float | None, typer.Option(help="Share of the window that neighbours have in common; 0.5 when not given.")
    ] = None,
    compile: Compile = False,
    device: Device = "auto",
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON: shares of classes, COCO results, or COCO's panoptic format; millilitres of a volume's "
            "classes; of a promptable model its masks as COCO's run-length codes, with their predicted IoU.",
        ),
    ] = False,
) -> None:
    """Segment photos or NIfTI volumes, one, several or a folder: an overlay to see, a label map to work with, or JSON.

    A model of volumes segments a case or a folder of cases: NIfTI in, NIfTI out. A promptable model (SAM) segments in
    one photo what --point and --box ask for; `seglib masks` asks it for everything.

    Volumes of any size go through in bounded memory, and so do photos: in tiles of a semantic model, of others at the
    size that the weights name (--short-side). Of a folder, what cannot be read is left out and named.
    """
    for path in weights:
        options.check_there(weights=path)  # before torch is loaded
    from dataclasses import replace

    from seglib.commands.volumes import predict_volumes

    volumes = serves_volumes(weights)
    prompted = not volumes and served_task(weights[0]) == "prompt"
    if not prompted:
        options.refuse(
            f"{weights[0]} takes no prompts; pass weights of a SAM",
            point=point,
            background=background,
            box=box,
            several=several or None,
        )
    if volumes:
        options.refuse(
            f"{weights[0]} is for volumes; --out is the place for labels, and --window, --overlap and --flip say how",
            labels=labels,
            ids=ids,
            score=score,
            short_side=short_side,
            scales=scales,
            tile=tile,
            compile=compile or None,
        )
        how = {"flip_all": flip_all, "flip": flip, "window": window, "overlap": overlap, "previous": previous}
        return predict_volumes(
            options.alone(paths, "a case, or a folder of cases"), weights, task, out, device, as_json, **how
        )
    options.refuse(
        "--window, --overlap, --flip-all and --previous are for volumes; large photos have --tile",
        window=window,
        overlap=overlap,
        flip_all=flip_all or None,
        previous=previous,
    )
    from seglib.data.coco import read_image_ids
    from seglib.data.images import write_png
    from seglib.photos import Options, check_options, photos_at, png_targets, predict_photo, read_photo, size_note
    from seglib.types import Panoptic, Semantic

    views = options.scales(scales or "1")
    photos = photos_at(paths)
    if out is None and labels is None and not as_json:
        raise ValueError("say what you want: --out overlay.png, --labels classes.png, or --json")
    for place in (out, labels):
        options.check_writable(place)
    overlays, maps = png_targets(out, photos, paths), png_targets(labels, photos, paths)
    if clash := set(overlays) & set(maps):
        raise ValueError(f"--out and --labels would both write {min(clash)}; name two different places")
    if prompted:
        from seglib.commands.prompts import answer, read_question

        options.refuse(
            f"{weights[0]} answers prompts; --point, --background, --box and --several say what is asked",
            ids=ids,
            score=score,
            short_side=short_side,
            scales=scales,
            flip=flip or None,
            tile=tile,
            compile=compile or None,
        )
        if several:
            options.refuse("the answers of --several overlap, and --json holds them all", labels=labels)
        question = read_question(point, background, box, several)
        photo = options.alone(paths, "one photo")
        if photo.is_dir():
            raise ValueError(
                f"prompts ask about one photo, and {photo} is a folder; pass a photo, or use `seglib masks`"
            )
        return answer(photo, question, weights[0], device, task, out=out, labels=labels, as_json=as_json)
    net, the_task, metadata = load(weights[0], device, task)
    if compile:
        compile_semantic(net, the_task)
    if short_side is not None:
        net.geometry = options.shorter(net.geometry, short_side)
    image_ids = None if ids is None else read_image_ids(ids)
    file_ids = metadata.get("file_ids", [c.id for c in the_task.categories])
    wanted = Options(file_ids, metadata.get("void_id"), score, image_ids, tile, views, flip)
    check_options(the_task, wanted)
    if the_task.predicts is Panoptic and score is not None:  # the model itself decides what a segment is
        if find(metadata["model"]).universal:
            net.thresholds = replace(net.thresholds, object_threshold=score)
        else:
            net.merge = replace(net.merge, score_threshold=score)
    where = next(net.parameters()).device
    entries: list[dict[str, Any]] = []
    failed, sizes = [], []
    for i, path in enumerate(shown(photos, "predict", quiet=as_json)):
        try:
            image = read_photo(path, net, metadata)  # (C, H, W)
            found = predict_photo(net, the_task, image.to(where), path, wanted, maps[i].name if maps else None)
        except (ValueError, OSError) as error:
            failed.append(one_line(error))
            continue
        sizes.append(tuple(image.shape[1:]))
        del image  # of a large photo 300 MB
        if overlays:
            write_png(overlays[i], found.overlay())
        if maps:
            write_png(maps[i], found.labels, found.palette)
        entries += found.entries
    if short_side is None and (said := size_note(net.geometry, sizes, tiled=the_task.predicts is Semantic)):
        note(said)
    content = {"annotations": entries} if the_task.predicts is Panoptic else entries
    say_what_was_done("photo", len(photos), failed, content if as_json else None, (out, labels))
