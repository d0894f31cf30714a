"""Parameter groups, optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

SCHEDULES = ("poly", "cosine", "constant")
OPTIMIZERS = ("adamw", "sgd")


def lr_factor(step: int, steps: int, *, warmup: int = 0, schedule: str = "poly", power: float = 0.9) -> float:
    """The factor on the base learning rate at ``step`` (0-based) of ``steps``.

    It rises linearly from ``1 / (warmup + 1)`` during ``warmup`` steps. After that, with t in [0, 1) the share of the
    remaining steps that is over, it is ``(1 - t) ** power`` ("poly", Chen et al. 2018, DeepLab v2, section 4.1),
    ``(1 + cos(pi t)) / 2`` ("cosine", Loshchilov and Hutter 2017) or 1 ("constant").

    Raises:
        ValueError: for an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule {schedule!r} is unknown; choose one of {', '.join(SCHEDULES)}")
    if step < warmup:
        return (step + 1) / (warmup + 1)
    t = (step - warmup) / max(1, steps - warmup)
    if schedule == "poly":
        return max(0.0, 1 - t) ** power
    if schedule == "cosine":
        return (1 + math.cos(math.pi * min(t, 1.0))) / 2
    return 1.0


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups of the trainable parameters: matrices and kernels with decay; biases and norm scales without it."""
    params = [p for p in model.parameters() if p.requires_grad]
    if not params:
        raise ValueError("the model has no trainable parameter; unfreeze at least one (requires_grad_(True))")
    groups = [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [g for g in groups if g["params"]]


def build_optimizer(
    model: nn.Module, name: str = "adamw", *, lr: float, weight_decay: float, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """AdamW or SGD with Nesterov momentum over :func:`parameter_groups`.

    Raises:
        ValueError: for an unknown name.
    """
    groups = parameter_groups(model, weight_decay)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)
    raise ValueError(f"optimizer {name!r} is unknown; choose one of {', '.join(OPTIMIZERS)}")
