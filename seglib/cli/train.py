"""``seglib train``: from a data set and a model's name to weights."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from seglib.cli.shared import Annotations, Data, Images, Previous, Root, SkipBad, Upright, ValShare
from seglib.commands import options
from seglib.commands.console import first_process, note, report, to_json, training_progress, warn
from seglib.models.zoo import MODELS, build, check_task, find

LOSS_NAMES = ("ce", "focal", "ohem", "dice", "tversky", "lovasz", "ce+dice", "ce+lovasz")
"""The keys of ``seglib.losses.LOSSES``, which would load torch."""


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
    rescale: Annotated[
        str | None,
        typer.Option(
            help="percentile: spread the values of each image over the range, for 12 bits in 16-bit files. Of folder, "
            "coco and dsb2018. It is stored with the weights, and eval and predict do the same."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="HxW",
            help="Images and labels of scenes, camvid, pets and folder are read at this size, e.g. 180x240; the others "
            "keep theirs, and it is the crop of training: 512x512 of voc and coco when not given, to which smaller "
            "images are padded.",
        ),
    ] = None,
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
