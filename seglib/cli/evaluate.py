"""``seglib eval``: the scores of weights on a data set."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from seglib.cli.shared import (
    Annotations,
    Compile,
    Data,
    Device,
    FlipAll,
    Images,
    Previous,
    Root,
    ServedTask,
    SkipBad,
    Upright,
    ValShare,
    Weights,
)
from seglib.commands import options
from seglib.commands.console import report, warn
from seglib.commands.stored import compile_semantic, load, serves_volumes


def evaluate(
    weights: Weights,
    data: Data = None,
    task: ServedTask = None,
    root: Root = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="train, val or test (voc, cityscapes, coco: val); test when not given, val of msd and nnunet, and "
            "with --annotations."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the predictions that were scored, of an instance or panoptic model. They are in COCO's "
            "formats, with the dataset's own ids: instances.json, or panoptic.json and PNG files in panoptic."
        ),
    ] = None,
    annotations: Annotations = None,
    images: Images = None,
    skip_bad: SkipBad = False,
    val_share: ValShare = None,
    upright: Upright = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="HxW",
            help="Score at this size what is read at one size (scenes, camvid, pets, folder); of the others the model "
            "sees images with this shorter side, and results count at the image's own size. Without it: as in "
            "training.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images at once; 8 when not given, and one volume.")
    ] = None,
    flip_all: FlipAll = False,
    previous: Previous = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load data.")] = 0,
    compile: Compile = False,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score stored weights on a split of a dataset."""
    for path in weights:
        options.check_there(weights=path, root=root)  # before torch is loaded
    from seglib.commands.images import check_channels_of, match_or_say_why, own_files_again, scoring_warnings
    from seglib.commands.volumes import check_channels, set_up, warn_of_spacing
    from seglib.data.catalog import RESIZES, build_dataset
    from seglib.data.coco_predictions import write_coco_predictions
    from seglib.train import loop

    volumes = serves_volumes(weights)
    if volumes:
        net, the_task, members = set_up(weights, device, task, flip_all=flip_all, previous=previous)
        metadata = members[0]
    else:
        options.refuse("it is for volumes", flip_all=flip_all or None, previous=previous)
        net, the_task, metadata = load(weights[0], device, task)
        if compile:
            compile_semantic(net, the_task)
    named = data is not None or annotations is not None
    data = options.dataset_name(data or (None if annotations is None else "coco"), metadata["model"], volumes)
    prompted = the_task.name == "prompt"
    shape = options.sides(size, "--size", 2)
    fold = None
    if volumes:
        options.refuse(f"{metadata['model']} is for volumes, which keep their size", size=size)
        options.refuse("it is for semantic models", compile=compile or None)
        options.refuse("it is for images", val_share=val_share, upright=upright)
        options.refuse("it is for images", annotations=annotations, images=images, skip_bad=skip_bad or None)
        options.refuse("`seglib predict CASE --out` writes the label maps of volumes", out=out)
        if data == metadata.get("data"):  # the cases that training held out
            fold = metadata.get("fold")
        if len({its.get("fold") for its in members}) > 1:
            warn(
                "the models are of several folds: cases of the data set that they were trained on have been seen by "
                "most of them; `seglib select` scores each model on its own fold"
            )
    elif prompted and data not in RESIZES:
        options.refuse(f"{metadata['model']} sees every image at its own size", size=size)
    elif shape is None and data == metadata.get("data") and "data_size" in metadata:
        shape = tuple(metadata["data_size"])
    elif shape is not None and not prompted:
        net.geometry = options.shorter(net.geometry, 0 if data in RESIZES else min(shape))
    if annotations is not None and val_share is None:
        options.refuse("all of --annotations is scored; --val-share 0.2 scores only what it holds out", split=split)
        split = "train"
    split = split or ("val" if data in ("msd", "nnunet") or annotations is not None else "test")
    own = None
    if not volumes:
        where = {"annotations": annotations, "images": images, "skip_bad": skip_bad}
        own = own_files_again(metadata, data, root, **where, val_share=val_share, upright=upright)
    dataset = build_dataset(data, root, split, size=shape, keep=(the_task.needs,), fold=fold, own=own)
    if volumes:
        check_channels(weights[0], metadata, getattr(dataset, "modalities"))  # noqa: B009 (as above)
    else:
        check_channels_of(dataset, weights[0], metadata)
    if prompted:  # any class may be asked for, and scores are by those of this dataset
        the_task = type(the_task)(dataset.categories, **the_task.arguments())
    dataset = match_or_say_why(dataset, the_task, None if named else data, metadata)
    if own is not None:
        for warning in scoring_warnings(dataset, metadata, data, own):
            warn(warning)
    facts: dict[str, Any] = {"volumes" if volumes else "images": len(dataset)}
    facts |= {"split": split} if annotations is None else {"annotations": str(annotations)}
    written = nullcontext() if out is None else write_coco_predictions(out, the_task.predicts, dataset.file_ids)
    spacings: dict[str, Any] = {}
    with written as write:

        def on_predictions(predictions: list[Any], batch: Any) -> None:
            spacings.update(zip(batch.ids, batch.spacing or (), strict=False))
            if write is not None:
                write(predictions, batch)

        scores = loop.evaluate(
            net,
            dataset,
            the_task,
            batch_size=batch_size or (1 if volumes else 8),
            workers=workers,
            on_predictions=on_predictions,
        )
    warn_of_spacing(spacings, metadata.get("spacing"))
    report(scores, as_json, facts if out is None else facts | {"out": str(out)})
