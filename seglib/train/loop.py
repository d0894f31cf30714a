"""Train any model of the zoo: ``fit`` is the loop, ``evaluate`` the scoring. Read it from top to bottom.

Accelerate places the model and the data, casts to bf16 and adds gradients over processes; the loop itself says what a
training step is. A run is a folder:

    config.json           what was asked for
    log.csv, tensorboard  loss, learning rate and scores over the steps
    state.safetensors     all that is needed to go on exactly where the run stopped
    weights.safetensors   the weights with the best score so far, with their metadata

Before the first step one batch is scored, so that what scoring needs is known to be there. At an evaluation the state
is saved first, then scored.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset

from seglib.data.checks import check_dataset
from seglib.data.class_tables import match_categories
from seglib.data.collate import collate
from seglib.files import atomic_path
from seglib.ops.geometry import NATIVE, Geometry
from seglib.ops.processes import share_buffers
from seglib.train.checkpoint import (
    check_same_run,
    check_state,
    load_state,
    read_progress,
    save_state,
    settings_of,
)
from seglib.train.locking import only_run_in
from seglib.train.log import RunLog
from seglib.train.optim import OPTIMIZERS, SCHEDULES, build_optimizer, lr_factor
from seglib.train.sampling import ResizedFor, Samples, SeededDataset, StreamBatches
from seglib.train.stopping import Interrupted, all_told, leave_signals_to_the_trainer, told_to_stop
from seglib.train.tasks import Task
from seglib.types import Batch, SegmentationModel
from seglib.weights import save_weights

OnStep = Callable[[int, int, float, float, float], None]
"""Called after every step as ``on_step(step, steps, loss, samples_per_second, seconds_left)``."""

OnScores = Callable[[int, dict[str, Any], bool], None]
"""Called after every evaluation as ``on_scores(step, scores, kept)``: were these weights kept, as the best so far?"""

OnPredictions = Callable[[list[Any], Batch], None]
"""Called for every batch that is scored as ``on_predictions(predictions, batch)``."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        steps: optimiser steps.
        batch_size: images per step and process (before accumulation).
        lr: base learning rate.
        optimizer: "adamw" or "sgd".
        momentum: share of the last velocity that "sgd" keeps, in [0, 1), with Nesterov's rule.
        weight_decay: on kernels and matrices; biases and norm scales have none.
        decay_all: whether biases and norm scales decay, too.
        lr_multipliers: the share of the base learning rate for the parameters under a name, {"encoder": 0.1} for
            example; all others have 1.
        schedule: "poly", "cosine", "multistep" or "constant".
        milestones: shares of the run at which the rate of "multistep" falls.
        gamma: factor by which the rate of "multistep" falls at each milestone.
        warmup: steps of linear warm-up.
        accumulate: batches whose gradients are averaged into one step; each batch counts alike, whatever it holds.
        clip: the largest norm of the gradient; 0 switches clipping off.
        precision: "no", "bf16", "fp16", or "auto": bf16 where the GPU computes in it (Ampere and later), else "no". It
            is of training; scores are those that the stored weights have in float32.
        ema: decay of a moving average of the weights, e.g. 0.999; 0 switches it off. The average is what is scored and
            kept in the run's folder; the model in memory holds the raw weights.
        compile: whether to run the model through ``torch.compile``.
        workers: processes that load data; 0 loads in the training process.
        eval_every: steps between evaluations; 0 evaluates at the end only.
        save_every: steps between saved states.
        seed: random seed of the order of the samples, their augmentation and dropout.
    """

    steps: int = 1000
    batch_size: int = 16
    lr: float = 1e-3
    optimizer: str = "adamw"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_all: bool = False
    lr_multipliers: dict[str, float] = field(default_factory=dict)
    schedule: str = "poly"
    milestones: tuple[float, ...] = (2 / 3, 8 / 9)
    gamma: float = 0.1
    warmup: int = 0
    accumulate: int = 1
    clip: float = 5.0
    precision: str = "auto"
    ema: float = 0.0
    compile: bool = False
    workers: int = 0
    eval_every: int = 0
    save_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("steps", 1), ("batch_size", 1), ("accumulate", 1), ("save_every", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        for name in ("weight_decay", "warmup", "clip", "workers", "eval_every", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be positive and finite, got {self.lr}")
        if list(self.milestones) != sorted(set(self.milestones)) or not all(0 < m < 1 for m in self.milestones):
            raise ValueError(f"milestones are rising shares of the run in (0, 1), got {tuple(self.milestones)}")
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma is a factor in (0, 1], got {self.gamma}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is a share in [0, 1), got {self.momentum}; 0.9 is usual, nnU-Net takes 0.99")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is a decay in [0, 1), got {self.ema}; 0.999 is usual, 0 switches it off")
        choices = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": ("auto", "no", "bf16", "fp16")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown; choose one of {', '.join(allowed)}")


@dataclass
class History:
    """What a run gave.

    Attributes:
        losses: the total loss of every step since the run began, by step (1-based).
        scores: the evaluations, by step.
        best: the best value of the task's score, ``None`` without evaluation.
        kept: the step of the weights that were kept, those with the best score; without evaluation the last.
        seconds: wall-clock time of the run. A resumed run adds to what had passed when its state was saved.
    """

    losses: dict[int, float] = field(default_factory=dict)
    scores: dict[int, dict[str, Any]] = field(default_factory=dict)
    best: float | None = None
    kept: int | None = None
    seconds: float = 0.0


def fit(
    model: SegmentationModel,
    train: Samples,
    val: Samples | None = None,
    *,
    task: Task,
    config: TrainConfig,
    out: Path | str | None = None,
    resume: bool = False,
    metadata: dict[str, Any] | None = None,
    asked: dict[str, Any] | None = None,
    on_step: OnStep | None = None,
    on_scores: OnScores | None = None,
) -> History:
    """Train ``model`` in place. Afterwards it is in evaluation mode, on the device on which it was trained.

    Args:
        model: a :class:`~seglib.types.SegmentationModel`.
        train: samples to learn from; their augmentation belongs into the dataset's transform. That there is something
            to learn, ``seglib.data.checks`` tells; the command line asks it.
        val: samples to score on, never those of ``train``. Their images are resized as ``model.geometry`` says.
            A dataset with another class table than the task's is mapped to it by name, as is that of ``train``.
        task: computes losses and predictions, and scores these.
        config: how to train.
        out: the run's folder; ``None`` writes nothing.
        resume: go on from the state in ``out`` if there is one. The run ends with the losses that it would have had
            without the interruption (bit for bit on the CPU). With another number of ``steps`` it goes on to that one:
            the learning rate then follows the schedule of the new number from here on.
        metadata: facts to store with the weights (the model's name and arguments, say).
        asked: further facts for the run's ``config.json`` alone, such as the options of a command line.
        on_step: called after every step, for a progress bar.
        on_scores: called after every evaluation.

    Returns:
        The losses and scores of the whole run.

    Raises:
        ValueError: for a bad configuration, a state of another run (model, settings or number of samples), an empty
            dataset, a folder in which another process trains, or images so few and small that batch norm has one value.
        FloatingPointError: when a loss is not finite; the message names the step and the images.
        Interrupted: when told to stop; the step in hand ends and the state is saved before. A second Ctrl-C stops at
            once.
    """
    assert isinstance(model, nn.Module)
    started = time.perf_counter()
    check_dataset(train, "train")
    if val is not None:
        check_dataset(val, "val")
    folder = Path(out) if out is not None else None
    AcceleratorState._reset_state()  # else the first run of a process (a notebook, say) decides the precision of all
    accelerator = Accelerator(
        mixed_precision=_precision(config.precision),
        gradient_accumulation_steps=config.accumulate,
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=False)],
    )
    _check_distribution(accelerator)
    torch.manual_seed(config.seed + accelerator.process_index)  # dropout differs from process to process
    eval_batch = task.eval_batch or config.batch_size

    # What is there already, checked before anything changes
    history, start, earlier = History(), 0, 0.0
    counts = {"samples": len(train), "val_samples": 0 if val is None else len(val)}
    settings = settings_of(asdict(config), metadata, **counts, processes=accelerator.num_processes)
    state = folder / "state.safetensors" if folder else None
    progress = read_progress(state) if resume and state is not None and state.exists() else None
    if progress is not None and state is not None:
        check_same_run(progress["config"], settings, state)
        if config.steps < progress["step"]:
            raise ValueError(
                f"{state} is of step {progress['step']} already, and steps is {config.steps}; pass more, or another out"
            )
        check_state(state, model)

    train, val = _matched(train, task), None if val is None else _matched(val, task)
    if val is not None and progress is None:  # is all there that scoring needs? Nothing is written yet
        few: Any = Subset(val, range(min(eval_batch, len(val))))
        with torch.random.fork_rng(devices=[]):  # the run draws the numbers that it would draw without
            evaluate(model.to(accelerator.device), few, task, batch_size=eval_batch)

    # The parts: model, optimiser, moving average, and the stream of batches from the step where the run stands
    if accelerator.device.type == "cuda" and all(p.ndim < 5 for p in model.parameters()):
        model = model.to(memory_format=torch.channels_last)  # what cuDNN's tensor-core kernels want of images
    optimizer = build_optimizer(
        model,
        config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        decay_all=config.decay_all,
        lr_multipliers=config.lr_multipliers,
    )
    forward_before = model.__dict__.get("forward")
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    trained: Any = _Forward(model, torch.compile(wrapped) if config.compile else wrapped)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True) if config.ema else None

    if progress is not None and state is not None:
        load_state(state, wrapped, optimizer.optimizer, ema=ema)
        start, earlier = progress["step"], progress.get("seconds", 0.0)
        history.losses = {int(k): v for k, v in progress["losses"].items()}
        history.scores = {int(k): v for k, v in progress["scores"].items()}
        history.best, history.kept = progress["best"], progress.get("kept")
        if accelerator.scaler is not None and progress["scaler"]:
            accelerator.scaler.load_state_dict(progress["scaler"])
    loader = accelerator.prepare(_loader(train, config, accelerator.num_processes, start, accelerator.device))
    locks = ExitStack()
    if folder and accelerator.is_main_process:
        locks.enter_context(only_run_in(folder))
        _write_json(folder / "config.json", asdict(config) | {"metadata": metadata or {}, "asked": asked or {}})
    log = RunLog(folder if accelerator.is_main_process else None, start)

    def save(step: int) -> None:
        if state is not None:
            scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
            facts = {"step": step, "config": settings, "best": history.best, "kept": history.kept, "scaler": scaler}
            facts |= {"seconds": earlier + time.perf_counter() - started}
            facts |= {"losses": history.losses, "scores": history.scores}
            save_state(state, wrapped, optimizer.optimizer, facts, ema=ema, main=accelerator.is_main_process)
            accelerator.wait_for_everyone()  # whoever goes on may read it

    def score(step: int, held_out: Samples) -> None:
        save(step)  # first: a scoring that fails must not cost the run
        scored: Any = ema.module if ema is not None else model
        share_buffers(scored)  # all processes score what is kept, which is the first one's
        with _without_autocast(scored):  # as its file will be evaluated
            scores = evaluate(
                scored, held_out, task, batch_size=eval_batch, workers=config.workers, accelerator=accelerator
            )
        history.scores[step] = scores
        log.scores(step, scores)
        # a NaN (no labelled pixel) is kept only for want of a score
        better = history.best is None or math.isnan(history.best) or scores[task.score] > history.best
        if better:
            history.best = scores[task.score]
            keep(step, scores)
        save(step)
        if on_scores is not None and accelerator.is_main_process:
            on_scores(step, scores, better)

    def scores_at(step: int) -> bool:
        return step == config.steps or bool(config.eval_every and step % config.eval_every == 0)

    def keep(step: int, scores: dict[str, Any]) -> None:
        history.kept = step
        if folder and accelerator.is_main_process:
            facts = {**(metadata or {}), "task": task.name, "step": step, "seed": config.seed, "scores": scores}
            facts |= {"task_arguments": task.arguments(), "categories": [asdict(c) for c in task.categories]}
            facts |= {"geometry": _geometry(model).to_json()}
            for name in ("intensity", "preparation"):
                if (scaled := getattr(model, name, None)) is not None:  # models of other people need not have them
                    facts[name] = scaled.to_json()
            save_weights(ema.module if ema is not None else model, folder / "weights.safetensors", facts)

    # closing the stream ends the loading processes, also when an error leaves the loop
    with (
        locks,
        told_to_stop() as stop,
        _own_forward(model, forward_before),
        log,
        closing(iter(loader)) as batches,
        _named_single_values(config.batch_size),
    ):
        if val is not None and start > 0 and scores_at(start) and start not in history.scores:
            score(start, val)  # the run ended between saving and scoring
        wrapped.train()
        pending: list[tuple[int, float, list[str], Tensor]] = []  # losses not read yet: reading waits for the GPU
        log_interval = 20 if accelerator.device.type == "cuda" else 1
        rate, clock = 0.0, time.perf_counter()
        for step in range(start + 1, config.steps + 1):
            factor = lr_factor(
                step - 1,
                config.steps,
                warmup=config.warmup,
                schedule=config.schedule,
                milestones=config.milestones,
                gamma=config.gamma,
            )
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

            total, ids = torch.zeros((), device=accelerator.device), []
            for _ in range(config.accumulate):
                batch: Batch = next(batches).to(accelerator.device, non_blocking=True)
                with accelerator.accumulate(wrapped):
                    with accelerator.autocast():
                        loss = torch.stack(list(task.losses(trained, batch).values())).sum()
                    accelerator.backward(loss)  # divides by `accumulate`
                    if accelerator.sync_gradients and config.clip:
                        accelerator.clip_grad_norm_(wrapped.parameters(), config.clip)
                    optimizer.step()
                    optimizer.zero_grad()
                total += loss.detach() / config.accumulate
                ids += batch.ids
            if ema is not None:
                ema.update_parameters(model)

            pending.append((step, config.lr * factor, ids, total))
            told = all_told(stop, accelerator)
            saves = step % config.save_every == 0 or step == config.steps or told
            if len(pending) >= log_interval or saves or scores_at(step):
                seen = len(pending) * config.batch_size * config.accumulate * accelerator.num_processes
                means = accelerator.reduce(torch.stack([p[-1] for p in pending]), "mean").tolist()
                for (past, lr, names, _), value in zip(pending, means, strict=True):
                    history.losses[past] = _finite(value, past, names)
                    log.step(past, value, lr)
                pending.clear()
                now = time.perf_counter()
                rate, clock = _smooth(rate, seen / (now - clock)), now
            if on_step is not None and accelerator.is_main_process and history.losses:
                per_step = config.batch_size * config.accumulate * accelerator.num_processes
                left = (config.steps - step) * per_step / rate if rate else 0.0
                on_step(step, config.steps, next(reversed(history.losses.values())), rate, left)
            if scores_at(step) and val is not None:
                score(step, val)
                wrapped.train()
                clock = time.perf_counter()
            elif saves:
                save(step)
            if told and step < config.steps:
                raise Interrupted(
                    f"stopped after step {step}; the state is in {state}" if state else f"stopped after {step}"
                )
        if val is None:
            keep(config.steps, {})
    model.eval()
    history.seconds = earlier + time.perf_counter() - started
    return history


@torch.inference_mode()
def evaluate(
    model: SegmentationModel,
    dataset: Samples,
    task: Task,
    *,
    batch_size: int = 16,
    workers: int = 0,
    accelerator: Accelerator | None = None,
    on_predictions: OnPredictions | None = None,
) -> dict[str, Any]:
    """The task's scores of ``model`` on ``dataset``; with several processes each scores its share, and all get the sum.

    Args:
        model: a :class:`~seglib.types.SegmentationModel`. It is evaluated on the device where it is, and its mode is
            restored afterwards. It sees images as ``model.geometry`` says; results are scored at the size of the
            annotations.
        dataset: samples with the annotations that the task needs.
        task: makes predictions and scores them. A dataset with another class table is mapped to the task's by name.
        batch_size: images at once.
        workers: processes that load data.
        accelerator: the Accelerate object of a run that calls this, which deals images over processes.
        on_predictions: called with the predictions of every batch after they were scored, to write or show them.

    Raises:
        ValueError: when the dataset is empty, or has a class that the task lacks.
    """
    if len(dataset) == 0:
        raise ValueError("the dataset to evaluate on is empty; check its folder, split or length")
    dataset = _matched(dataset, task)
    if accelerator is not None and accelerator.num_processes > 1:
        share = range(accelerator.process_index, len(dataset), accelerator.num_processes)
        dataset = Subset(dataset, share)  # type: ignore[arg-type]  # map-style
    assert isinstance(model, nn.Module)
    device = next(model.parameters()).device
    evaluator = task.evaluator()
    loader: DataLoader = DataLoader(
        ResizedFor(dataset, _geometry(model)),
        batch_size,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=leave_signals_to_the_trainer,
    )
    for batch in loader:
        batch = batch.to(device)
        predictions = task.predict(model, batch)
        evaluator.update(predictions, batch)
        if on_predictions is not None:
            on_predictions(predictions, batch)
    evaluator.synchronize()
    return evaluator.compute()


class _Forward:
    """The model with a ``forward`` that goes through the wrappers (DDP, the compiler); all else is its own."""

    def __init__(self, model: SegmentationModel, forward: Any) -> None:
        self.model, self.forward = model, forward

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self.forward(*arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


def _matched(dataset: Any, task: Task) -> Any:
    """The dataset seen through the task's class table; one without a table is taken as it is."""
    if not hasattr(dataset, "categories"):
        return dataset
    return match_categories(dataset, task.categories, task.needs)


def _geometry(model: Any) -> Geometry:
    """The size at which a model wants to see images; models of other people need not say."""
    return getattr(model, "geometry", NATIVE)


def _precision(name: str) -> str:
    if name != "auto":
        return name
    # GPUs before Ampere emulate bf16, which is slower than float32
    own = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if own else "no"


def _check_distribution(accelerator: Accelerator) -> None:
    """Refuse launchers that split a model over processes: its state and weights would be written in pieces."""
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ValueError(
            f"the launcher asks for {accelerator.distributed_type.value}, which splits a model over processes; seglib "
            "copies it to each (DDP): run `accelerate launch --multi_gpu`, or choose it in `accelerate config`"
        )


def _loader(train: Samples, config: TrainConfig, processes: int, start: int, device: torch.device) -> DataLoader:
    per_step = config.accumulate * processes  # Accelerate deals every process its share of the batches
    order = StreamBatches(
        len(train),
        config.batch_size,
        (config.steps - start) * per_step,
        start=start * per_step,
        seed=config.seed,
    )
    return DataLoader(
        SeededDataset(train, config.seed),
        batch_sampler=order,
        num_workers=config.workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        worker_init_fn=leave_signals_to_the_trainer,
        generator=torch.Generator().manual_seed(config.seed),  # else it draws from the state that dropout uses
    )


def _finite(loss: float, step: int, ids: list[str]) -> float:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss of step {step} is {loss}; its images were {', '.join(ids)}. Look at them, lower the learning "
            "rate, or clip the gradient; the last saved state is from before this step"
        )
    return loss


def _smooth(old: float, new: float) -> float:
    return new if old == 0 else 0.9 * old + 0.1 * new


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as beside:
        beside.write_text(json.dumps(content, indent=1) + "\n")


@contextmanager
def _own_forward(model: nn.Module, before: Any) -> Iterator[None]:
    """Gives the model its ``forward`` back: Accelerate replaces it by one that casts, also in later calls and runs."""
    try:
        yield
    finally:
        for name in ("forward", "_original_forward"):
            model.__dict__.pop(name, None)
        if before is not None:
            model.__dict__["forward"] = before


@contextmanager
def _without_autocast(model: nn.Module) -> Iterator[None]:
    """Runs the model's own ``forward`` inside the block, in the precision of its weights, not Accelerate's."""
    own, cast = model.__dict__.get("_original_forward"), model.__dict__.get("forward")
    if own is not None:
        model.__dict__["forward"] = own
    try:
        yield
    finally:
        if own is not None:
            model.__dict__["forward"] = cast


@contextmanager
def _named_single_values(batch_size: int) -> Iterator[None]:
    """Turns torch's message about a norm with one value per channel into what to do about it."""
    try:
        yield
    except ValueError as error:
        seen = re.search(r"more than 1 (?:value per channel|spatial element).*\[([0-9, ]+)\]", str(error))
        if seen is None:
            raise
        raise ValueError(
            f"a batch of {batch_size} gives a norm a map of size ({seen[1]}): one value per channel has no variance; "
            "train with a larger batch size (--batch-size) or larger images (--size)"
        ) from error
