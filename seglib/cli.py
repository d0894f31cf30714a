"""The command line: ``seglib plan | train | eval | predict | masks | select | coco | convert | export``.

Only Typer and Rich are imported at the top: torch is loaded when a command runs, so ``--help`` answers at once.
"""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from seglib.commands import options
from seglib.commands.console import (
    fail,
    first_process,
    note,
    one_line,
    report,
    say,
    say_what_was_done,
    shown,
    to_json,
    training_progress,
    warn,
)
from seglib.commands.stored import compile_semantic, load, served_task, serves_volumes
from seglib.models.zoo import MODELS, build, check_task, find


def _print_version(wanted: bool) -> None:
    if wanted:
        import seglib

        print(f"seglib {seglib.__version__}")
        raise typer.Exit


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Image segmentation from scratch: train, evaluate, predict and convert."""


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
        "keep theirs, and it is the crop of training: 512x512 of voc and coco when not given, to which smaller images "
        "are padded.",
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
Rescale = Annotated[
    str | None,
    typer.Option(
        help="percentile: spread the values of each image over the range, for 12 bits in 16-bit files. Of folder, "
        "coco and dsb2018. It is stored with the weights, and eval and predict do the same."
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


@app.command("plan")
def plan_command(
    data: Data = None,
    root: Root = None,
    planner: Annotated[
        str, typer.Option(help="plain, or resenc_m, resenc_l, resenc_xl for residual encoders of growing memory.")
    ] = "plain",
    memory: Annotated[
        float | None,
        typer.Option(help="GB of GPU memory that a batch may fill; the planner's own if not given."),
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Channels of the finest level.")] = 32,
    out: Annotated[
        Path | None,
        typer.Option(help="The plan as JSON, in nnU-Net's format, for `seglib train nnunet --plan`."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan and its reasons as JSON.")] = False,
) -> None:
    """Plan nnU-Net for a data set of volumes, and give the reason for every number.

    All cases are read, those of every fold: spacings, sizes, and the intensities of labelled voxels decide.
    """
    from seglib.commands.plans import AllCases, check_overwritten, plan_as_json, show_plan
    from seglib.planning.plans_json import write_plans
    from seglib.planning.trace import check_arguments

    check_arguments(planner, memory, width)
    options.check_writable(out)
    cases = AllCases(options.dataset_name(data, "nnunet", True), root)
    check_overwritten(out, cases)
    plan = cases.plan(planner=planner, memory=memory, width=width)
    if out is not None:
        write_plans(plan, out)
    if as_json:
        print(plan_as_json(plan))
        return
    show_plan(plan)
    if out is not None:
        say(f"the plan is in {out}; train with `seglib train nnunet --plan {out}`")


@app.command()
def train(
    model: Annotated[str, typer.Argument(help=f"One of {', '.join(MODELS)}.")],
    data: Data = None,
    task: Annotated[
        str | None, typer.Option(help="Of a model that serves several; its usual one when not given.")
    ] = None,
    root: Root = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; runs/MODEL-DATA when not given, with configuration and fold if given."),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="Of nnunet: the plan that `seglib plan` wrote, or nnU-Net's nnUNetPlans.json; when not given, the "
            "data set is planned first."
        ),
    ] = None,
    configuration: Annotated[
        str | None,
        typer.Option(help="Of nnunet: 2d, 3d_lowres or 3d_fullres; when not given 3d_fullres if the plan has it."),
    ] = None,
    previous: Previous = None,
    annotations: Annotations = None,
    images: Images = None,
    val_annotations: Annotated[Path | None, typer.Option(help="The COCO file of val, beside --annotations.")] = None,
    skip_bad: SkipBad = False,
    max_detections: Annotated[
        int | None,
        typer.Option(
            min=11,
            help="Of instance models: so many objects are found and scored in an image; COCO's 100 when not given. It "
            "is stored with the weights.",
        ),
    ] = None,
    val_share: ValShare = None,
    upright: Upright = None,
    rescale: Rescale = None,
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
    momentum: Annotated[float | None, typer.Option(help="Of sgd, with Nesterov's step.")] = None,
    schedule: Annotated[str | None, typer.Option(help="poly, cosine, multistep or constant.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps of linear warm-up.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="On kernels and matrices.")] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(help="Batches averaged into one step; each counts alike, also one that is mostly void."),
    ] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient; 0 is off.")] = None,
    precision: Annotated[str | None, typer.Option(help="no, bf16, fp16 or auto.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of a moving average of the weights, e.g. 0.999.")] = None,
    compile: Annotated[bool | None, typer.Option(help="Run the model through torch.compile.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that load data.")] = None,
    eval_every: Annotated[int | None, typer.Option(help="Steps between evaluations; 0 is at the end only.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between saved states.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, sample order and augmentation.")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Start from these weights: a file that seglib wrote, or the folder of a run. What fits is loaded, and "
            "what does not, such as a head for other classes, is named and starts anew."
        ),
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(
            help="Start the encoder alone from this file: of seglib, of any model with the same encoder, or a ResNet, "
            "VGG-16 or Swin of torchvision or timm, .safetensors or .pth."
        ),
    ] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Start the encoder from published ImageNet weights, downloaded once.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A keyword of the model's builder, e.g. encoder=timm:convnext_tiny, in_channels=4 or "
            "output_stride=16; the option again for each. A wrong key names them all.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on where the run in --out stopped, with the options that it was started with; only --steps, "
            "--workers and --save-every may differ.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a model; the run's folder gets its weights, its state and its curves.

    Settings that are not given come from the model's recipe (seglib/train/recipes.py); config.json shows them all.
    """
    given = {k: v for k, v in locals().items() if v is not None}  # first, before other names come up
    options.check_there(root=root, weights=weights, encoder=encoder, plan=plan)  # before torch is loaded
    from dataclasses import fields, replace

    import torch

    from seglib.commands.cascade import out_of_fold
    from seglib.commands.images import (
        channel_arguments,
        check_channels_of,
        file_warnings,
        kept,
        known_image_warnings,
        limit_detections,
        own_files,
    )
    from seglib.commands.plans import PLAN, AllCases, facts_of_plan, plan_of_run
    from seglib.commands.resume import as_stored, with_those_of_the_start
    from seglib.commands.settings import inherited, read_settings
    from seglib.commands.volumes import check_channels, data_by_plan, data_on_its_own_grid
    from seglib.data.catalog import RESIZES, TAKES_OWN, build_dataset
    from seglib.data.checks import check_labels_of_split, count_labels
    from seglib.data.class_tables import match_categories
    from seglib.files import atomic_path
    from seglib.losses import LOSSES
    from seglib.ops.geometry import Geometry
    from seglib.ops.intensity import Intensity
    from seglib.planning.plans_json import write_plans
    from seglib.train import TASKS, Interrupted, TrainConfig, fit
    from seglib.train.checkpoint import check_same_run, read_progress
    from seglib.train.recipes import recipe
    from seglib.types import LabelVolume
    from seglib.weights import load_encoder, load_fitting, read_metadata
    from seglib.weights.load import without_download
    from seglib.weights.start import in_few_words

    if loss not in (None, *LOSSES):
        raise ValueError(f"loss {loss!r} is unknown; choose one of {', '.join(LOSSES)}")
    names = {f.name for f in fields(TrainConfig)}
    config = replace(recipe(model), **{k: v for k, v in given.items() if k in names})
    task_type = TASKS[check_task(model, task)]
    volumes, prompted = task_type.predicts is LabelVolume, task_type.name == "prompt"
    own_settings = read_settings(model, settings, pretrained=pretrained)
    if own_settings.get("pretrained"):
        options.refuse("--pretrained starts the encoder from other weights", weights=weights, encoder=encoder)
    asked_data = data or (None if annotations is None else "coco")
    data = options.dataset_name(asked_data, model, volumes)
    parts = [model, data, configuration, None if fold is None else f"fold{fold}"]
    out = out or Path("runs") / "-".join(part for part in parts if part)
    options.check_writable(out)
    goes_on = resume and (out / "state.safetensors").exists()
    if not resume and (out / "state.safetensors").exists():
        raise ValueError(f"{out} holds a run already; pass --resume to go on with it, or another --out")
    if resume and not goes_on:
        if asked_data is None and root is None:
            raise ValueError(f"{out} holds no run to go on with; name its folder, or pass --data to start a new one")
        if first_process():
            note(f"{out} holds no run to go on with; a new one starts")
    if goes_on and (whole := with_those_of_the_start(given, out)) != given:
        return train(**whole)
    options.check_effect(config, momentum=momentum, warmup=warmup, eval_every=eval_every)
    universal = find(model).universal
    if loss is not None and (universal or task_type.name not in ("semantic", "volume")):
        raise ValueError(f"--loss {loss} is for semantic models; {model} has losses of its own")
    stored = {} if weights is None else read_metadata(weights)
    geometry = Geometry(**stored.get("geometry", {}))  # what was trained at some size goes on at that size
    if prompted and "geometry" not in stored:
        with torch.device("meta"):  # without memory
            geometry = build(model, **own_settings).geometry
    intensity = Intensity(**stored.get("intensity", {}))  # and in the units in which it was trained
    metadata: dict[str, Any] = {"model": model, "data": data}
    train_set: Any
    val_set: Any
    if volumes:
        options.refuse(f"{model} is for volumes, which keep their size; --patch says what to train on", size=size)
        options.refuse("it is for images", val_share=val_share, upright=upright, rescale=rescale)
        options.refuse("it is for images", annotations=annotations, images=images, skip_bad=skip_bad or None)
        options.refuse("it is for images", max_detections=max_detections)
        planned = model == "nnunet"
        if not planned:
            options.refuse(
                f"plans are for nnunet, and {model} is as it is",
                plan=plan,
                configuration=configuration,
                previous=previous,
            )
        sides = options.window(patch, "--patch")
        folder = cache or (None if data == "volumes" else out / "cases")  # synthetic cases stay in memory
        sets = {split: build_dataset(data, root, split, fold=fold) for split in ("train", "val")}
        modalities = list(getattr(sets["train"], "modalities"))  # noqa: B009 (datasets of images have none)
        check_channels(weights, stored, modalities)
        metadata |= {"modalities": modalities, "fold": None if data == "volumes" else fold or 0}
        if planned:
            the_plan, chosen = plan_of_run(plan, out, configuration, AllCases(data, root))
            config = replace(config, batch_size=batch_size or chosen.batch_size)
            chosen = replace(chosen, batch_size=config.batch_size)  # the share of foreground follows from it
            metadata["plan"] = facts_of_plan(the_plan, chosen)
            before = out_of_fold(previous, chosen, metadata["plan"]["digest"], data, root)
        if goes_on:  # before cases are read, which takes long
            known = {"model", "data", "modalities", "fold", "plan"}
            old = {k: v for k, v in read_progress(out / "state.safetensors")["config"].items() if k in known}
            check_same_run(old, metadata, out / "state.safetensors")
        if planned:
            if first_process():
                write_plans(the_plan, out / PLAN)
            read = data_by_plan(sets, folder, sides, the_plan, chosen, before)
        else:
            read = data_on_its_own_grid(sets, folder, sides, intensity)
        train_set, val_set, intensity = read.train, read.val, read.intensity
        regions = getattr(sets["train"], "regions", None)  # only dataset.json of nnU-Net tells of some
        the_task = task_type(train_set.categories, read.patch, regions=regions)  # type: ignore[call-arg]  # of volumes
        if planned and before is not None:
            the_task.previous = before.of_fold(fold or 0)  # type: ignore[attr-defined]  # of volumes
        metadata |= read.kept
    else:
        options.refuse(
            f"{model} is for images; --size says what to train on",
            patch=patch,
            cache=cache,
            plan=plan,
            configuration=configuration,
            previous=previous,
        )
        shape = options.sides(size, "--size", 2)
        if prompted and data in RESIZES:
            shape = options.letterboxed(shape, geometry, model)
        keep = (task_type.needs,)
        own = own_files(
            rescale,
            annotations=annotations,
            images=images,
            val_annotations=val_annotations,
            skip_bad=skip_bad,
            val_share=val_share,
            upright=upright,
        )
        train_set = build_dataset(
            data, root, "train", size=shape, augment=True, keep=keep, geometry=geometry, fold=fold, own=own
        )
        val_set = build_dataset(data, root, "val", size=shape, keep=keep, own=own)
        intensity = own.intensity
        metadata |= kept(own, train_set) if data in TAKES_OWN else {}
        metadata["crop"] = None if shape is None or data in RESIZES else list(shape)
        limit = {} if max_detections is None else {"max_detections": max_detections}
        if limit and task_type.name != "instance":
            options.refuse("it is for instance models", **limit)
        the_task = task_type(train_set.categories, **limit)
    val_set = match_categories(val_set, train_set.categories, task_type.needs)
    if first_process():
        for split, dataset in (("train", train_set), ("val", val_set)):
            counts = count_labels(dataset, the_task.needs)
            found = check_labels_of_split(counts, the_task.categories, split, max_detections or 100)
            for warning in (*file_warnings(dataset, split, data), *found):
                warn(warning)
        for warning in known_image_warnings(val_set, metadata, val_share):
            warn(warning)
    if val_set.size is not None and not prompted:
        geometry = Geometry("shorter", min(val_set.size))
    torch.manual_seed(config.seed)
    arguments = the_task.universal_arguments() if universal else the_task.model_arguments()
    if stored.get("model") == model and stored.get("task", task_type.name) != task_type.name:
        raise ValueError(f"{weights} are for {stored['task']}; pass --task {stored['task']}, or other weights")
    if volumes:
        arguments |= {"in_channels": len(modalities)} | read.arguments
    else:
        arguments |= channel_arguments(model, train_set)
        if stored.get("model") == model and weights is not None:
            check_channels_of(train_set, weights, stored)
    if taken := sorted(own_settings.keys() & arguments.keys()):
        raise ValueError(f"--set {taken[0]} has no use: the data set and its plan say it")
    arguments = inherited(model, stored) | arguments | own_settings
    net = build(model, **(without_download(model, arguments) if goes_on else arguments))
    net.geometry, net.intensity = geometry, intensity
    if max_detections is not None:
        limit_detections(net, max_detections)
        metadata["max_detections"] = max_detections
    if volumes:
        net.preparation = read.preparation
    if weights is not None and not goes_on:
        left = load_fitting(net, weights)
        if left and first_process():
            note(f"{weights} was loaded but for what does not fit, which starts anew: {in_few_words(left)}")
    if encoder is not None and not goes_on:
        load_encoder(net, encoder)
    metadata["arguments"] = arguments
    if started_from := {k: p.name for k, p in (("weights", weights), ("encoder", encoder)) if p is not None}:
        metadata["started_from"] = started_from
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
    unit, quiet = "volumes" if volumes else "images", as_json or not first_process()
    start = f"{len(train_set)} {unit} to train on and {len(val_set)} to score on, {len(the_task.categories)} classes, "
    start += f"{config.steps} steps on {options.device('auto').type}"
    if goes_on and first_process():
        before_now = read_progress(out / "state.safetensors")["config"]["steps"]
        if before_now != config.steps:
            note(
                f"the run goes on to {config.steps} steps, not {before_now}: the learning rate follows the schedule of "
                f"{config.steps} from here on, so the numbers are not those of one run of {config.steps}"
            )
    try:
        unit = "patches" if volumes else "images"
        with training_progress(unit, the_task.score, start, quiet=quiet) as (on_step, on_scores):
            history = fit(
                net,
                train_set,
                val_set,
                task=the_task,
                config=config,
                out=out,
                resume=resume,
                metadata=metadata,
                asked=as_stored(given),
                on_step=on_step,
                on_scores=on_scores,
            )
    except Interrupted as stopped:  # Typer would swallow the message
        note(f"{stopped}; go on with --resume")
        raise typer.Exit(130) from stopped
    if not first_process():
        return
    scores = history.scores[config.steps]
    facts: dict[str, Any] = {"final_loss": history.losses[config.steps], "seconds": round(history.seconds, 1)}
    facts |= {"kept_step": history.kept, f"kept_{the_task.score}": history.best}  # of weights.safetensors
    facts |= {"cpu_seconds": round(time.process_time(), 1), "out": str(out)}  # of this process, all its threads
    with atomic_path(out / "result.json") as beside:
        beside.write_text(to_json({"command": shlex.join(["seglib", *sys.argv[1:]]), **scores, **facts}) + "\n")
    report(scores, as_json, facts)


@app.command("eval")
def evaluate_command(
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
    size: SizeOfEval = None,
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
    from seglib.train import evaluate

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

        scores = evaluate(
            net,
            dataset,
            the_task,
            batch_size=batch_size or (1 if volumes else 8),
            workers=workers,
            on_predictions=on_predictions,
        )
    warn_of_spacing(spacings, metadata.get("spacing"))
    report(scores, as_json, facts if out is None else facts | {"out": str(out)})


@app.command()
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


@app.command("masks")
def masks_command(
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


@app.command()
def select(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of the runs of all folds, of one or several configurations.")
    ],
    data: Data = None,
    root: Root = None,
    folds: Annotated[
        str | None, typer.Option(help="Folds to choose on, e.g. 0,1,2; all five when not given. More is better.")
    ] = None,
    flip_all: FlipAll = False,
    out: Annotated[Path, typer.Option(help="The choice as a JSON file, for `seglib predict --weights`.")] = Path(
        "choice.json"
    ),
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the choice as JSON.")] = False,
) -> None:
    """Choose the best of trained configurations, or a pair of them, by cross-validation.

    Each run predicts the cases of its own fold, which it was not trained on. On the same predictions it is decided of
    what only the largest connected component is kept.
    """
    from seglib.commands.select import select_runs

    select_runs(runs, data, root, folds, flip_all, out, device, as_json)


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
    say(f"{origin} → {out} ({sum(v.numel() for v in state.values()):,} numbers)")


@app.command("export")
def export_command(
    weights: Annotated[Path, typer.Argument(help="A .safetensors file of a semantic model, or the folder of a run.")],
    out: Annotated[Path, typer.Argument(help="The file to write: .pt2 (torch.export) or .onnx.")],
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


@app.command("coco")
def coco_command(
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


def main() -> None:
    """Run the command line; expected errors become one line and an exit code of 2."""
    try:
        app()
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        fail(error)
        sys.exit(2)
    except KeyboardInterrupt as stopped:
        note(str(stopped) or "stopped")
        sys.exit(130)
