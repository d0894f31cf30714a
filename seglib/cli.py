"""The command line: ``seglib train | eval | predict | convert``.

Only Typer and Rich are imported at the top: torch is loaded when a command runs, so ``--help`` answers at once.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from seglib.models.zoo import MODELS, build, check_task, find

if TYPE_CHECKING:
    import torch

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Image segmentation from scratch: train, evaluate, predict and convert.",
)
console = Console()

MOST_OVERLAP = 0.9
"""Of sliding windows on the command line: then 1,000 windows lie where one would."""

LOSS_NAMES = ("ce", "focal", "ohem", "dice", "tversky", "lovasz", "ce+dice", "ce+lovasz")
"""The keys of ``seglib.losses.LOSSES``, which would load torch."""

Data = Annotated[
    str | None,
    typer.Option(
        help="Images: scenes (synthetic, the default), camvid, pets, voc, cityscapes, isbi, coco, dsb2018, or folder "
        "(your own). Volumes: volumes (synthetic, the default), or msd and nnunet (your own in these layouts)."
    ),
]
Root = Annotated[Path | None, typer.Option(help="Folder of the dataset; the synthetic ones need none.")]
SizeText = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="HxW",
        help="Images and labels of scenes, camvid, pets and folder are read at this size, e.g. 180x240; the others "
        "keep theirs, and it is the crop of training.",
    ),
]
SizeOfEval = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="HxW",
        help="Score at this size what is read at one size (scenes, camvid, pets, folder); of the others the model sees "
        "images with this shorter side, and results count at the image's own size. Without it: as in training.",
    ),
]
Weights = Annotated[Path, typer.Option(help="A .safetensors file that seglib wrote.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps, or auto.")]
ServedTask = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="Of weights for several tasks: semantic, instance or panoptic; by default the one they were trained for.",
    ),
]


@app.command()
def train(
    model: Annotated[str, typer.Argument(help=f"One of {', '.join(MODELS)}.")],
    data: Data = None,
    task: Annotated[
        str | None, typer.Option(help="Of a model that serves several; its usual one when not given.")
    ] = None,
    root: Root = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/MODEL-DATA when not given.")] = None,
    size: SizeText = None,
    patch: Annotated[
        str | None,
        typer.Option(
            metavar="DxHxW",
            help="Voxels of a volume that are trained on at once, e.g. 32x64x64; the median case when not given, or a "
            "part of it where cases are large. Whole cases are scored through a sliding window of this size.",
        ),
    ] = None,
    fold: Annotated[
        int | None,
        typer.Option(help="Of msd and nnunet: the fold, from 0 to 4, that is validated on; 0 when not given."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for unpacked volumes, which runs may share; of msd and nnunet in --out otherwise."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images or patches per step and process.")] = None,
    lr: Annotated[float | None, typer.Option(help="Base learning rate.")] = None,
    loss: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(LOSS_NAMES)}. When not given: ce of images, of volumes the model's own."),
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw or sgd.")] = None,
    schedule: Annotated[str | None, typer.Option(help="poly, cosine, multistep or constant.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps of linear warm-up.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="On kernels and matrices.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches averaged into one step; each counts alike.")] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient; 0 is off.")] = None,
    precision: Annotated[str | None, typer.Option(help="no, bf16, fp16 or auto.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of a moving average of the weights, e.g. 0.999.")] = None,
    compile: Annotated[bool | None, typer.Option(help="Run the model through torch.compile.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that load data.")] = None,
    eval_every: Annotated[int | None, typer.Option(help="Steps between evaluations; 0 is at the end only.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between saved states.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, sample order and augmentation.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Start from these weights of the same model.")] = None,
    encoder: Annotated[
        Path | None, typer.Option(help="Start the encoder from these weights of any model with the same encoder.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in --out stopped.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a model; the run's folder gets its weights, its state and its curves.

    Settings that are not given come from the model's recipe (seglib/train/recipes.py); config.json shows them all.
    """
    given = {k: v for k, v in locals().items() if v is not None}  # first, before other names come up
    from dataclasses import fields, replace

    import torch

    from seglib.data.catalog import RESIZES, build_dataset
    from seglib.data.class_tables import match_categories
    from seglib.files import atomic_path
    from seglib.losses import LOSSES
    from seglib.ops.geometry import Geometry
    from seglib.ops.intensity import Intensity
    from seglib.train import TASKS, Interrupted, TrainConfig, fit
    from seglib.train.checkpoint import check_same_run, read_progress
    from seglib.train.recipes import recipe
    from seglib.types import LabelVolume
    from seglib.weights import load_encoder, load_weights, read_metadata

    if loss not in (None, *LOSSES):
        raise ValueError(f"loss {loss!r} is unknown; choose one of {', '.join(LOSSES)}")
    names = {f.name for f in fields(TrainConfig)}
    config = replace(recipe(model), **{k: v for k, v in given.items() if k in names})
    task_type = TASKS[check_task(model, task)]
    volumes = task_type.predicts is LabelVolume
    data = _dataset_name(data, model, volumes)
    out = out or Path("runs") / f"{model}-{data}"
    if not resume and (out / "state.safetensors").exists():
        raise ValueError(f"{out} holds a run already; pass --resume to go on with it, or another --out")
    universal = find(model).universal
    if loss is not None and (universal or task_type.name not in ("semantic", "volume")):
        raise ValueError(f"--loss {loss} is for semantic models; {model} has losses of its own")
    stored = {} if weights is None else read_metadata(weights)
    geometry = Geometry(**stored.get("geometry", {}))  # what was trained at some size goes on at that size
    intensity = Intensity(**stored.get("intensity", {}))  # and in the units in which it was trained
    metadata: dict[str, Any] = {"model": model, "data": data}
    train_set: Any
    val_set: Any
    if volumes:
        _refuse(f"{model} is for volumes, which keep their size; --patch says what to train on", size=size)
        folder = cache or (None if data == "volumes" else out / "cases")  # synthetic cases stay in memory
        sets = {split: build_dataset(data, root, split, fold=fold) for split in ("train", "val")}
        modalities = list(getattr(sets["train"], "modalities"))  # noqa: B009 (datasets of images have none)
        metadata |= {"modalities": modalities, "fold": None if data == "volumes" else fold or 0}
        if resume and (out / "state.safetensors").exists():  # before cases are read, which takes long
            known = {"model", "data", "modalities", "fold"}
            old = {k: v for k, v in read_progress(out / "state.safetensors")["config"].items() if k in known}
            check_same_run(old, metadata, out / "state.safetensors")
        _check_channels(weights, stored, modalities)
        sides = _window(patch, "--patch")
        train_set, val_set, intensity, found = _patches(sets, folder, sides, intensity)
        the_task = task_type(train_set.categories, found["patch"])  # type: ignore[call-arg]  # that of volumes
        metadata |= found
    else:
        _refuse(f"{model} is for images; --size says what to train on", patch=patch, cache=cache)
        shape = _sides(size, "--size", 2)
        keep = (task_type.needs,)
        train_set = build_dataset(
            data, root, "train", size=shape, augment=True, keep=keep, geometry=geometry, fold=fold
        )
        val_set = build_dataset(data, root, "val", size=shape, keep=keep)
        the_task = task_type(train_set.categories)
    val_set = match_categories(val_set, train_set.categories, task_type.needs)
    if _first_process():
        for split, dataset in (("train", train_set), ("val", val_set)):
            _count_labels(dataset, the_task, split)
    if val_set.size is not None:
        geometry = Geometry("shorter", min(val_set.size))
    torch.manual_seed(config.seed)
    arguments = the_task.universal_arguments() if universal else the_task.model_arguments()
    if stored.get("model") == model and "arguments" in stored:  # its own, but for the classes of this data set
        if stored.get("task", task_type.name) != task_type.name:
            raise ValueError(f"{weights} are for {stored['task']}; pass --task {stored['task']}, or other weights")
        arguments = stored["arguments"] | arguments
    if volumes:
        arguments["in_channels"] = len(modalities)
    net = build(model, **arguments)
    net.geometry, net.intensity = geometry, intensity
    if weights is not None:
        load_weights(net, weights)
    if encoder is not None:
        load_encoder(net, encoder)
    metadata["arguments"] = arguments
    metadata["file_ids"] = list(train_set.file_ids[: len(the_task.categories)])
    metadata["void_id"] = train_set.void_id
    if task_type.name == "semantic" and not universal:
        loss = loss or "ce"
    if loss is not None:
        net.criterion = LOSSES[loss]  # type: ignore[assignment]  # nn.Module types its attributes as tensors and modules
    if volumes or loss is not None:
        metadata["loss"] = loss
    if data in RESIZES and val_set.size is not None:
        metadata["data_size"] = list(val_set.size)
    try:
        with _progress_bar(quiet=as_json or not _first_process()) as on_step:
            history = fit(
                net,
                train_set,
                val_set,
                task=the_task,
                config=config,
                out=out,
                resume=resume,
                metadata=metadata,
                on_step=on_step,
            )
    except Interrupted as stopped:  # Typer would swallow the message
        Console(stderr=True).print(f"{stopped}; go on with --resume", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(130) from stopped
    if not _first_process():
        return
    scores = history.scores[config.steps]
    facts: dict[str, Any] = {"final_loss": history.losses[config.steps], "seconds": round(history.seconds, 1)}
    facts |= {"cpu_seconds": round(time.process_time(), 1), "out": str(out)}  # of this process, all its threads
    with atomic_path(out / "result.json") as beside:
        beside.write_text(_json({"command": shlex.join(["seglib", *sys.argv[1:]]), **scores, **facts}) + "\n")
    _report(scores, as_json, facts)


@app.command("eval")
def evaluate_command(
    weights: Weights,
    data: Data = None,
    task: ServedTask = None,
    root: Root = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="train, val or test (voc, cityscapes, coco: val); test when not given, of msd and nnunet val."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the predictions that were scored, of an instance or panoptic model. They are in COCO's "
            "formats, with the dataset's own ids: instances.json, or panoptic.json and PNG files in panoptic."
        ),
    ] = None,
    size: SizeOfEval = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images at once; 8 when not given, and one volume.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load data.")] = 0,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score stored weights on a split of a dataset."""
    from seglib.data.catalog import RESIZES, build_dataset
    from seglib.data.class_tables import match_categories
    from seglib.data.coco_predictions import write_coco_predictions
    from seglib.train import evaluate
    from seglib.types import LabelVolume

    net, the_task, metadata = _load(weights, device, task)
    volumes = the_task.predicts is LabelVolume
    data = _dataset_name(data, metadata["model"], volumes)
    shape = _sides(size, "--size", 2)
    fold = None
    if volumes:
        _refuse(f"{metadata['model']} is for volumes, which keep their size", size=size)
        _refuse("`seglib predict CASE --out` writes the label maps of volumes", out=out)
        if data == metadata.get("data"):  # the cases that training held out
            fold = metadata.get("fold")
    elif shape is None and data == metadata.get("data") and "data_size" in metadata:
        shape = tuple(metadata["data_size"])
    elif shape is not None:
        net.geometry = _shorter(net.geometry, 0 if data in RESIZES else min(shape))
    split = split or ("val" if data in ("msd", "nnunet") else "test")
    dataset = build_dataset(data, root, split, size=shape, keep=(the_task.needs,), fold=fold)
    if volumes:
        _check_channels(weights, metadata, getattr(dataset, "modalities"))  # noqa: B009 (as above)
    dataset = match_categories(dataset, the_task.categories, the_task.needs)
    facts: dict[str, Any] = {"volumes" if volumes else "images": len(dataset), "split": split}
    written = nullcontext() if out is None else write_coco_predictions(out, the_task.predicts, dataset.file_ids)
    spacings: dict[str, Any] = {}
    with written as write:

        def on_predictions(predictions: list[Any], batch: Any) -> None:
            spacings.update(zip(batch.ids, batch.spacing or (), strict=False))
            if write is not None:
                write(predictions, batch)

        scores = evaluate(
            net,
            dataset,
            the_task,
            batch_size=batch_size or (1 if volumes else 8),
            workers=workers,
            on_predictions=on_predictions,
        )
    _warn_of_spacing(spacings, metadata.get("spacing"))
    _report(scores, as_json, facts if out is None else facts | {"out": str(out)})


@app.command()
def predict(
    photo: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A photo or a folder of photos; for a model of volumes a NIfTI file or a folder of them. Channels "
            "lie in one file or in CASE_0000.nii.gz, CASE_0001.nii.gz, …",
        ),
    ],
    weights: Weights,
    task: ServedTask = None,
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
            help="PNG of the class ids that the dataset's own label files have, of objects numbered by score, or of "
            "segments as COCO stores them (id = R + 256 G + 65536 B); for a folder, a folder."
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
    device: Device = "auto",
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON: shares of classes, COCO results, or COCO's panoptic format; millilitres of a volume's "
            "classes.",
        ),
    ] = False,
) -> None:
    """Segment photos or NIfTI volumes, one or a folder of them: an overlay to see, a label map to work with, or JSON.

    A model of volumes segments a case or a folder of cases: NIfTI in, NIfTI out.

    Photos and volumes of any size go through in bounded memory. Of a folder, what cannot be read is left out and named.
    """
    if _serves_volumes(weights):
        _refuse(
            f"{weights} are for volumes; --out is the place for labels, and --window, --overlap and --flip say how",
            labels=labels,
            ids=ids,
            score=score,
            short_side=short_side,
            scales=scales,
            tile=tile,
        )
        return _predict_volumes(photo, weights, task, out, flip, window, overlap, device, as_json)
    _refuse("--window and --overlap are for volumes; large photos have --tile", window=window, overlap=overlap)
    from dataclasses import replace

    from seglib.data.coco import read_image_ids
    from seglib.data.images import read_image, write_png
    from seglib.photos import Options, check_options, photos_at, png_targets, predict_photo
    from seglib.types import Panoptic

    views = _scales(scales or "1")
    photos = photos_at(photo)
    if out is None and labels is None and not as_json:
        raise ValueError("say what you want: --out overlay.png, --labels classes.png, or --json")
    overlays, maps = png_targets(out, photos, photo), png_targets(labels, photos, photo)
    if clash := set(overlays) & set(maps):
        raise ValueError(f"--out and --labels would both write {min(clash)}; name two different places")
    net, the_task, metadata = _load(weights, device, task)
    if short_side is not None:
        net.geometry = _shorter(net.geometry, short_side)
    image_ids = None if ids is None else read_image_ids(ids)
    file_ids = metadata.get("file_ids", [c.id for c in the_task.categories])
    options = Options(file_ids, metadata.get("void_id"), score, image_ids, tile, views, flip)
    check_options(the_task, options)
    if the_task.predicts is Panoptic and score is not None:  # the model itself decides what a segment is
        if find(metadata["model"]).universal:
            net.thresholds = replace(net.thresholds, object_threshold=score)
        else:
            net.merge = replace(net.merge, score_threshold=score)
    where = next(net.parameters()).device
    entries: list[dict[str, Any]] = []
    failed = []
    for i, path in enumerate(photos):
        try:
            image = read_image(path)  # (3, H, W)
            found = predict_photo(net, the_task, image.to(where), path, options, maps[i].name if maps else None)
        except (ValueError, OSError) as error:
            failed.append(_one_line(error))
            continue
        if overlays:
            write_png(overlays[i], found.overlay())
        if maps:
            write_png(maps[i], found.labels)
        entries += found.entries
    content = {"annotations": entries} if the_task.predicts is Panoptic else entries
    _say_what_was_done("photo", len(photos), failed, content if as_json else None, (out, labels))


def _predict_volumes(
    path: Path,
    weights: Path,
    task: str | None,
    out: Path | None,
    flip: bool,
    window: str | None,
    overlap: float | None,
    device: str,
    as_json: bool,
) -> None:
    """``predict`` for the weights of a model of volumes."""
    from seglib.case_files import cases_at, facts_of, label_targets, predict_case
    from seglib.data.class_tables import labels_to_files
    from seglib.data.nifti import write_label_volume

    if out is None and not as_json:
        raise ValueError("say what you want: --out labels.nii.gz, or --json")
    net, the_task, metadata = _load(weights, device, task)
    settings = the_task.arguments()
    if window is not None:
        settings["window"] = _window(window, "--window")
    if overlap is not None:
        if not 0 <= overlap <= MOST_OVERLAP:
            raise ValueError(f"--overlap {overlap:g} is not in 0..{MOST_OVERLAP}; above it windows become countless")
        settings["overlap"] = overlap
    the_task = type(the_task)(the_task.categories, **settings)
    channels = len(net.normalize.mean)
    cases = cases_at(path, channels)
    targets = label_targets(out, cases, path)
    file_ids = metadata.get("file_ids", [c.id for c in the_task.categories])
    entries, failed, spacings = [], [], {}
    for i, case in enumerate(cases):
        try:
            labels, frame = predict_case(net, the_task, case, flip=flip)  # (D, H, W)
        except (ValueError, OSError) as error:
            failed.append(_one_line(error))
            continue
        if targets:
            write_label_volume(targets[i], labels_to_files(labels, file_ids, metadata.get("void_id")), frame)
        entries.append(facts_of(case, labels, frame, the_task.categories))
        spacings[case.id] = frame.spacing
    _warn_of_spacing(spacings, metadata.get("spacing"))
    _say_what_was_done("case", len(cases), failed, entries if as_json else None, (out,))


@app.command()
def convert(
    origin: Annotated[str, typer.Argument(help="Where the weights come from, e.g. torchvision:fcn_resnet50.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    file: Annotated[Path | None, typer.Option(help="The published checkpoint, if it is on disk already.")] = None,
) -> None:
    """Turn published weights of another codebase into seglib's."""
    from seglib.weights import convert as rename
    from seglib.weights import read_origin, save_weights

    name, state, metadata = rename(origin, read_origin(origin, file))
    net = build(name, **metadata["arguments"])
    net.load_state_dict(state)
    save_weights(net, out, metadata)
    _say(f"{origin} → {out} ({sum(v.numel() for v in state.values()):,} numbers)")


def main() -> None:
    """Run the command line; expected errors become one line and an exit code of 2."""
    try:
        app()
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(_one_line(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt as stopped:
        Console(stderr=True).print(str(stopped) or "stopped", highlight=False, soft_wrap=True)
        sys.exit(130)


@contextmanager
def _progress_bar(*, quiet: bool) -> Iterator[Any]:
    """A callback for ``fit(…, on_step=…)`` that shows a bar on standard error while the block runs."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:.1f} images/s"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True), disable=quiet)
    bar: Any = None

    def on_step(step: int, steps: int, loss: float, rate: float, eta: float) -> None:
        nonlocal bar
        if bar is None:  # not before the first step: an error before it stands alone
            progress.start()
            bar = progress.add_task("train", total=steps, loss=loss, rate=rate)
        progress.update(bar, completed=step, loss=loss, rate=rate)

    try:
        yield on_step
    finally:
        if bar is not None:
            progress.stop()


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:  # of the system, not one of seglib's own
        return f"{error.filename}: {error.strerror}; check the path, and whether you may read or write there"
    # a process that loads data hands its error on with its traceback as text; the last line is the error itself
    return str(error).strip().rsplit(f"\n{type(error).__name__}: ", 1)[-1]


def _say_what_was_done(name: str, total: int, failed: list[str], content: Any, places: tuple[Path | None, ...]) -> None:
    """Report a prediction of photos or cases: as JSON where there is content; at last raise for those that failed."""
    done = total - len(failed)
    if done and content is not None:
        print(json.dumps(content, indent=1))
    elif done:
        _say(f"{done} {name}{'s' * (done > 1)} → {' and '.join(str(p) for p in places if p)}")
    if failed:
        rest = f"{len(failed)} of {total} {name}s left out:\n" if total > 1 else ""
        raise ValueError(rest + "\n".join(failed))


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _first_process() -> bool:
    """Whether this is the process that reports, when ``accelerate launch`` started several."""
    return os.environ.get("RANK", "0") == "0"


def _sides(text: str | None, option: str, axes: int) -> Any:
    """The whole numbers of an option such as 180x240; one number stands for all axes."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) == 1:
        parts *= axes
    if len(parts) != axes or not all(p.isdecimal() and int(p) > 0 for p in parts):
        form = {2: "HEIGHTxWIDTH, e.g. 180x240", 3: "DEPTHxHEIGHTxWIDTH, e.g. 32x64x64"}[axes]
        raise ValueError(f"{option} {text!r} is no {form}")
    return tuple(int(p) for p in parts)


def _window(text: str | None, option: str) -> Any:
    """The sides of a patch or a window: of few slices perhaps, but a network of stride 8 must see something in them."""
    sides = _sides(text, option, 3)
    if sides is not None and sorted(sides)[1] < 8:
        raise ValueError(
            f"{option} {text!r} is too small: at least two sides need 8 voxels, the stride of most networks"
        )
    return sides


def _check_channels(weights: Path | None, metadata: dict[str, Any], modalities: Any) -> None:
    """Check that weights are for as many channels as a dataset of volumes has."""
    trained = metadata.get("modalities")
    if trained is not None and len(trained) != len(modalities):
        raise ValueError(
            f"{weights} are for volumes of {', '.join(trained)}, the dataset has {', '.join(modalities)}; choose "
            "weights for as many channels"
        )


def _refuse(reason: str, **options: Any) -> None:
    """Raise for the first option that was given although it has no use here."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"--{name.replace('_', '-')} has no use: {reason}")


def _dataset_name(data: str | None, model: str, volumes: bool) -> str:
    """The dataset that was asked for, or the synthetic one, after checking that it suits a model."""
    from seglib.data.catalog import VOLUMES

    data = data or ("volumes" if volumes else "scenes")
    if volumes and data not in VOLUMES:
        raise ValueError(f"{model} is for volumes, and {data!r} has none; choose one of {', '.join(VOLUMES)}")
    if not volumes and data in VOLUMES:
        raise ValueError(f"{model} is for images, and {data!r} has volumes; train unet3d_tiny, or choose other data")
    return data


def _patches(
    sets: dict[str, Any], folder: Path | None, patch: Any, intensity: Any
) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Patches of the training cases, the cases to validate on, the scaling of both, and what the weights keep of it.

    Args:
        sets: the datasets "train" and "val".
        folder: where cases are unpacked to; ``None`` keeps them in memory.
        patch: the size of a patch, or ``None``.
        intensity: the scaling of the weights to start from; a native one is none.
    """
    from seglib.data.case_facts import case_facts, default_patch
    from seglib.data.cases import StoredCases
    from seglib.data.patches import Patches
    from seglib.data.volume_transforms import volume_transform
    from seglib.ops.intensity import AS_IS

    for dataset in sets.values():
        if hasattr(dataset, "check_headers"):  # of files: what headers tell, before a voxel is read
            dataset.check_headers()
    cases = {split: StoredCases(dataset, folder) for split, dataset in sets.items()}
    facts = case_facts(cases["train"], sets["train"].modalities)
    if intensity == AS_IS:
        intensity = facts.intensity
    patch = patch or default_patch(facts.size)
    if _first_process():
        if folder is not None:
            line = f"the cases are unpacked in {folder}"
            Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
        for stored in cases.values():
            _warn_of_spacing({s.id: s.spacing for s in (stored[i] for i in range(len(stored)))}, facts.spacing)
    train_set = Patches(cases["train"], patch, intensity=intensity, transform=volume_transform())
    kept = {"patch": list(patch), "spacing": list(facts.spacing)}
    return train_set, cases["val"], intensity, kept


def _warn_of_spacing(spacings: dict[str, Any], usual: Any) -> None:
    """Warn of cases whose voxels have another spacing than those that a model was trained on."""
    from seglib.data.case_facts import sampled_unlike

    odd = [name for name, spacing in spacings.items() if usual and spacing and sampled_unlike(spacing, usual)]
    if odd:
        seen, wanted = (" x ".join(f"{mm:.3g}" for mm in spacing) for spacing in (spacings[odd[0]], usual))
        _warn(
            f"{len(odd)} of {len(spacings)} cases have another spacing than training had: {odd[0]} has {seen} mm, and "
            f"{wanted} mm is usual; resample them"
        )


def _warn(text: str) -> None:
    Console(stderr=True).print(f"[yellow]warning:[/] {escape(text)}", highlight=False, soft_wrap=True)


def _scales(text: str) -> tuple[float, ...]:
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0 < scale < float("inf") for scale in scales):
        raise ValueError(f"--scales {text!r} is no list of positive numbers, e.g. 0.5,1,1.5")
    return scales


def _load(weights: Path, device: str, task: str | None) -> tuple[Any, Any, dict[str, Any]]:
    """The model of a weights file, the task that it is used for, with its classes, and the file's metadata."""
    from seglib.train import TASKS
    from seglib.types import Category
    from seglib.weights import load_model, read_metadata

    net: Any = load_model(weights, _device(device))
    metadata = read_metadata(weights)
    universal = find(metadata["model"]).universal
    trained = net.task if universal else _trained_for(metadata)
    if task not in (None, trained):
        if not universal:
            raise ValueError(f"{weights} serves {trained}, not {task!r}; leave out --task, or pass other weights")
        net.task = task
    if "categories" not in metadata:
        raise ValueError(f"{weights} has no class table; write it with `seglib train` or `seglib convert`")
    categories = [Category(**{**c, "color": tuple(c["color"])}) for c in metadata["categories"]]
    return net, TASKS[task or trained](categories, **metadata.get("task_arguments", {})), metadata


def _trained_for(metadata: dict[str, Any]) -> str:
    """The task of a weights file, by its metadata: that of its training, or the model's usual one."""
    return metadata.get("task") or check_task(metadata["model"])


def _serves_volumes(weights: Path) -> bool:
    """Whether a weights file is of a model of volumes."""
    from seglib.weights import read_metadata

    metadata = read_metadata(weights)
    if "model" not in metadata:
        raise ValueError(f"{weights} doesn't say which model it is for; pass the weights.safetensors of a run")
    return _trained_for(metadata) == "volume"


def _shorter(geometry: Any, size: int) -> Any:
    """The geometry with another shorter side and no limit on the longer one; with 0 images keep their own size."""
    from dataclasses import replace

    if size == 0:
        return replace(geometry, mode="native", size=None, longest=None)
    return replace(geometry, mode="shorter", size=size, longest=None)


def _count_labels(dataset: Any, task: Any, split: str) -> None:
    """Refuse a split without labels before the first step, and warn of classes that it lacks."""
    from seglib.data.checks import check_labels_of_split, count_labels

    for warning in check_labels_of_split(count_labels(dataset, task.needs), task.categories, split):
        _warn(warning)


def _device(name: str) -> torch.device:
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [device_type for device_type, is_there in there.items() if is_there]
    if name == "auto":
        return torch.device(usable[0])
    device_type, _, number = name.partition(":")
    exists = not number or (number.isdecimal() and int(number) < max(1, torch.cuda.device_count()))
    if device_type not in usable or not exists:
        raise ValueError(f"device {name!r} is not on this machine; choose one of auto, {', '.join(usable)}")
    return torch.device(name)


def _json(content: dict[str, Any]) -> str:
    """JSON, which has no NaN: a score without a value is null."""
    return json.dumps({name: None if value != value else value for name, value in content.items()}, indent=1)


def _report(scores: dict[str, Any], as_json: bool, facts: dict[str, Any]) -> None:
    if as_json:
        print(_json(scores | facts))
        return
    table = Table("score", "value", box=None)
    for name, value in scores.items():
        if not isinstance(value, dict):
            table.add_row(name, f"{value:.4f}")
    words = {"iou": "IoU", "dice": "Dice", "class_ap": "AP", "class_pq": "PQ", "hd95": "HD95 (mm)", "nsd": "NSD"}
    for group, of_class in scores.items():
        for name, value in of_class.items() if isinstance(of_class, dict) else ():
            table.add_row(f"  {words.get(group, group)} {name}", f"{value:.4f}", style="dim")
    for name, value in facts.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
    console.print(table)
