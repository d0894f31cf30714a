"""Parameter groups, optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

SCHEDULES = ("poly", "cosine", "multistep", "constant")
OPTIMIZERS = ("adamw", "sgd")

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
DECAYED = (*_CONVS, nn.Linear, nn.Bilinear, nn.MultiheadAttention)
"""The modules whose weights decay; their biases don't."""


def lr_factor(
    step: int,
    steps: int,
    *,
    warmup: int = 0,
    schedule: str = "poly",
    power: float = 0.9,
    milestones: Sequence[float] = (2 / 3, 8 / 9),
    gamma: float = 0.1,
) -> float:
    """The factor on the base learning rate at ``step`` (0-based) of ``steps``.

    It rises linearly from ``1 / (warmup + 1)`` during ``warmup`` steps. After that, with t in [0, 1) the share of the
    remaining steps that is over, it is

    - ``"poly"``: ``(1 - t) ** power`` (Chen et al. 2018, DeepLab v2, section 4.1);
    - ``"cosine"``: ``(1 + cos(pi t)) / 2`` (Loshchilov and Hutter 2017);
    - ``"multistep"``: ``gamma`` to the power of the number of milestones that are past. Milestones are shares of all
      ``steps``, warm-up included, and rounded to whole steps: 60,000 and 80,000 of 90,000 by default, as Detectron2
      trains for 12 epochs of COCO;
    - ``"constant"``: 1.

    Args:
        step: number of the step, from 0.
        steps: length of the run.
        warmup: number of steps of the linear rise.
        schedule: one of :data:`SCHEDULES`.
        power: exponent of "poly".
        milestones: rising shares of the run in (0, 1), for "multistep".
        gamma: factor at every milestone, in (0, 1].

    Raises:
        ValueError: for an unknown schedule, milestones that don't rise within (0, 1) or a gamma out of range.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule {schedule!r} is unknown; choose one of {', '.join(SCHEDULES)}")
    if not all(a < b for a, b in zip((0.0, *milestones), (*milestones, 1.0), strict=True)):
        raise ValueError(f"milestones are rising shares of the run between 0 and 1, got {tuple(milestones)}")
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must lie in (0, 1], got {gamma}")
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    if schedule == "multistep":
        return gamma ** sum(step >= round(share * steps) for share in milestones)
    t = min((step - warmup) / max(1, steps - warmup), 1.0)
    if schedule == "poly":
        return (1 - t) ** power
    return (1 + math.cos(math.pi * t)) / 2


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    decay_all: bool = False,
    lr_multipliers: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """The trainable parameters by learning rate and weight decay.

    The type of a module decides about weight decay: the weights of convolutions, linear layers and attention
    (:data:`DECAYED`) decay. Biases, norms, embeddings and parameters that a module of another type holds itself, such
    as position embeddings, class tokens, tables of relative positions and scales, don't.

    Args:
        model: the model; parameters that don't require gradients are left out.
        lr: base learning rate.
        weight_decay: the optimiser's factor for the weights that decay.
        decay_all: whether all parameters decay, biases and norms too, as ``torch.optim.SGD(model.parameters())`` has it
            and nnU-Net trains.
        lr_multipliers: factors on ``lr`` by the start of a parameter's name, up to a dot: ``{"encoder": 0.1}``. The
            longest start counts: ``{"encoder": 0.1, "encoder.layer4": 0.5}``.

    Returns:
        Groups for an optimizer, with ``params``, ``lr``, ``initial_lr`` (the same, for schedules) and
        ``weight_decay``. Those of the base learning rate come first, and of each rate the one that decays.

    Raises:
        ValueError: when nothing is trainable, a multiplier is not positive and finite, or its name is that of no
            trainable parameter.
    """
    lr_multipliers = lr_multipliers or {}
    for start, factor in lr_multipliers.items():
        if not (factor > 0 and math.isfinite(factor)):
            raise ValueError(
                f"the learning-rate multiplier of {start!r} must be positive and finite, got {factor}; "
                "to keep parameters as they are, freeze them (requires_grad_(False))"
            )
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    used = set()
    for name, parameter, decays in _trainable(model):
        starts = [start for start in lr_multipliers if f"{name}.".startswith(f"{start}.")]
        used.update(starts)
        factor = lr_multipliers[max(starts, key=len)] if starts else 1.0
        groups.setdefault((factor, decays or decay_all), []).append(parameter)
    if not groups:
        raise ValueError("the model has no trainable parameter; unfreeze at least one (requires_grad_(True))")
    if unused := [start for start in lr_multipliers if start not in used]:
        parts = ", ".join(dict.fromkeys(name.split(".")[0] for name, _, _ in _trainable(model)))
        raise ValueError(f"no trainable parameter's name starts with {unused[0]!r}; the model's parts are {parts}")
    return [
        {
            "params": parameters,
            "lr": lr * factor,
            "initial_lr": lr * factor,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (factor, decays), parameters in sorted(
            groups.items(), key=lambda group: (group[0][0] != 1, not group[0][1])
        )
    ]


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Name, parameter and whether it decays, in the order of ``model.parameters()``, each once."""
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        owner, _, own_name = name.rpartition(".")
        if parameter.requires_grad:
            yield name, parameter, isinstance(modules[owner], DECAYED) and "bias" not in own_name


def build_optimizer(
    model: nn.Module,
    name: str = "adamw",
    *,
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    decay_all: bool = False,
    lr_multipliers: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """AdamW or SGD with Nesterov momentum over :func:`parameter_groups`.

    A schedule sets the learning rate of each group to ``group["initial_lr"] * lr_factor(...)``.

    Args:
        model: the model to train.
        name: one of :data:`OPTIMIZERS`.
        lr: base learning rate.
        weight_decay: the optimiser's factor for the weights that decay, see :func:`parameter_groups`.
        momentum: share of the last velocity that SGD keeps; AdamW has its own.
        decay_all: whether all parameters decay, as in :func:`parameter_groups`.
        lr_multipliers: factors on ``lr`` by the start of a parameter's name, as in :func:`parameter_groups`.

    Raises:
        ValueError: for an unknown name or as :func:`parameter_groups`.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer {name!r} is unknown; choose one of {', '.join(OPTIMIZERS)}")
    groups = parameter_groups(
        model, lr=lr, weight_decay=weight_decay, decay_all=decay_all, lr_multipliers=lr_multipliers
    )
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)
