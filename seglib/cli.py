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

LOSS_NAMES = ("ce", "focal", "ohem", "dice", "tversky", "lovasz", "ce+dice", "ce+lovasz")
"""The keys of ``seglib.losses.LOSSES``, which would load torch."""

Data = Annotated[
    str,
    typer.Option(help="scenes (made), camvid, pets, voc, cityscapes, isbi, coco, dsb2018, or folder (your own)."),
]
Root = Annotated[Path | None, typer.Option(help="Folder of the dataset; scenes needs none.")]
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
    data: Data = "scenes",
    task: Annotated[
        str | None, typer.Option(help="Of a model that serves several; its usual one when not given.")
    ] = None,
    root: Root = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/MODEL-DATA when not given.")] = None,
    size: SizeText = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step and process.")] = None,
    lr: Annotated[float | None, typer.Option(help="Base learning rate.")] = None,
    loss: Annotated[str, typer.Option(help=f"One of {', '.join(LOSS_NAMES)}.")] = "ce",
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
    from seglib.train import TASKS, Interrupted, TrainConfig, fit
    from seglib.train.recipes import recipe
    from seglib.weights import load_encoder, load_weights, read_metadata

    if loss not in LOSSES:
        raise ValueError(f"loss {loss!r} is unknown; choose one of {', '.join(LOSSES)}")
    names = {f.name for f in fields(TrainConfig)}
    config = replace(recipe(model), **{k: v for k, v in given.items() if k in names})
    out = out or Path("runs") / f"{model}-{data}"
    if not resume and (out / "state.safetensors").exists():
        raise ValueError(f"{out} holds a run already; pass --resume to go on with it, or another --out")
    shape, task_type = _size(size), TASKS[check_task(model, task)]
    universal = find(model).universal
    if loss != "ce" and (universal or task_type.name != "semantic"):
        raise ValueError(f"--loss {loss} is for semantic models; {model} has losses of its own")
    stored = {} if weights is None else read_metadata(weights)
    geometry = Geometry(**stored.get("geometry", {}))  # what was trained at some size goes on at that size
    train_set = build_dataset(data, root, "train", size=shape, augment=True, keep=(task_type.needs,), geometry=geometry)
    val_set = build_dataset(data, root, "val", size=shape, keep=(task_type.needs,))
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
    net = build(model, **arguments)
    net.geometry = geometry
    if weights is not None:
        load_weights(net, weights)
    if encoder is not None:
        load_encoder(net, encoder)
    metadata: dict[str, Any] = {"model": model, "arguments": arguments, "data": data}
    metadata["file_ids"] = list(train_set.file_ids[: len(the_task.categories)])
    metadata["void_id"] = train_set.void_id
    if task_type.name == "semantic" and not universal:
        net.criterion = LOSSES[loss]  # type: ignore[assignment]  # nn.Module types its attributes as tensors and modules
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
    data: Data = "scenes",
    task: ServedTask = None,
    root: Root = None,
    split: Annotated[str, typer.Option(help="train, val or test (voc, cityscapes and coco: val).")] = "test",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the predictions that were scored, of an instance or panoptic model. They are in COCO's "
            "formats, with the dataset's own ids: instances.json, or panoptic.json and PNG files in panoptic."
        ),
    ] = None,
    size: SizeOfEval = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 8,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load data.")] = 0,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score stored weights on a split of a dataset."""
    from seglib.data.catalog import RESIZES, build_dataset
    from seglib.data.class_tables import match_categories
    from seglib.data.coco_predictions import write_coco_predictions
    from seglib.train import evaluate

    net, the_task, metadata = _load(weights, device, task)
    shape = _size(size)
    if shape is None and data == metadata.get("data") and "data_size" in metadata:
        shape = tuple(metadata["data_size"])
    elif shape is not None:
        net.geometry = _shorter(net.geometry, 0 if data in RESIZES else min(shape))
    dataset = build_dataset(data, root, split, size=shape, keep=(the_task.needs,))
    dataset = match_categories(dataset, the_task.categories, the_task.needs)
    facts: dict[str, Any] = {"images": len(dataset), "split": split}
    written = nullcontext() if out is None else write_coco_predictions(out, the_task.predicts, dataset.file_ids)
    with written as write:
        scores = evaluate(net, dataset, the_task, batch_size=batch_size, workers=workers, on_predictions=write)
    _report(scores, as_json, facts if out is None else facts | {"out": str(out)})


@app.command()
def predict(
    photo: Annotated[Path, typer.Argument(help="A photo, or a folder of photos.")],
    weights: Weights,
    task: ServedTask = None,
    out: Annotated[Path | None, typer.Option(help="Overlay PNG; for a folder of photos, a folder.")] = None,
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
    scales: Annotated[str, typer.Option(help="Average over views of the photo at these scales, e.g. 0.5,1,1.5.")] = "1",
    flip: Annotated[bool, typer.Option("--flip", help="Average over views flipped left to right, too.")] = False,
    tile: Annotated[
        int | None,
        typer.Option(
            min=64, help="Side of overlapping tiles; when not given, 1024 for large photos, and none for others."
        ),
    ] = None,
    device: Device = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: shares of classes, COCO results, or COCO's panoptic format.")
    ] = False,
) -> None:
    """Segment a photo or a folder of photos: an overlay to look at, a label map to work with, or JSON.

    Photos of any size go through in bounded memory. Of a folder, a photo that cannot be read is left out and named.
    """
    from dataclasses import replace

    from seglib.data.coco import read_image_ids
    from seglib.data.images import read_image, write_png
    from seglib.photos import Options, check_options, photos_at, png_targets, predict_photo
    from seglib.types import Panoptic

    views = _scales(scales)
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
    done = len(photos) - len(failed)
    if done and as_json:
        print(json.dumps({"annotations": entries} if the_task.predicts is Panoptic else entries, indent=1))
    elif done:
        _say(f"{done} photo{'s' * (done > 1)} → {' and '.join(str(p) for p in (out, labels) if p)}")
    if failed:
        rest = f"{len(failed)} of {len(photos)} photos left out:\n" if len(photos) > 1 else ""
        raise ValueError(rest + "\n".join(failed))


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


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _first_process() -> bool:
    """Whether this is the process that reports, when ``accelerate launch`` started several."""
    return os.environ.get("RANK", "0") == "0"


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) == 1:
        parts *= 2
    if len(parts) != 2 or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise ValueError(f"--size {text!r} is no HEIGHTxWIDTH, e.g. 180x240")
    return int(parts[0]), int(parts[1])


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
    trained = net.task if universal else metadata.get("task", check_task(metadata["model"]))
    if task not in (None, trained):
        if not universal:
            raise ValueError(f"{weights} serves {trained}, not {task!r}; leave out --task, or pass other weights")
        net.task = task
    if "categories" not in metadata:
        raise ValueError(f"{weights} has no class table; write it with `seglib train` or `seglib convert`")
    categories = [Category(**{**c, "color": tuple(c["color"])}) for c in metadata["categories"]]
    return net, TASKS[task or trained](categories, **metadata.get("task_arguments", {})), metadata


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
        Console(stderr=True).print(f"[yellow]warning:[/] {escape(warning)}", highlight=False, soft_wrap=True)


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
    words = {"iou": "IoU", "dice": "Dice", "class_ap": "AP", "class_pq": "PQ"}
    for group, of_class in scores.items():
        for name, value in of_class.items() if isinstance(of_class, dict) else ():
            table.add_row(f"  {words.get(group, group)} {name}", f"{value:.4f}", style="dim")
    for name, value in facts.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
    console.print(table)
