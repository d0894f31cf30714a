"""What the experiments' training loops have in common, and what they tell of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seglib.train.loop import OnStep
from seglib.train.optim import build_optimizer, lr_factor


def draw_batches(count: int, *, steps: int, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Which of ``count`` images every step takes, and which of these it flips. Both depend on ``seed`` alone.

    Returns:
        Indices ``(steps, batch_size)`` int64 and flips ``(steps, batch_size)`` bool.

    Raises:
        ValueError: when ``steps`` is not positive.
    """
    if steps < 1:
        raise ValueError(f"steps must be positive, got {steps}")
    draw = torch.Generator().manual_seed(seed)
    picked = torch.randint(count, (steps, batch_size), generator=draw)
    return picked, torch.rand(steps, batch_size, generator=draw) < 0.5


def minimise(
    model: nn.Module,
    loss_of: Callable[[int], Tensor],
    *,
    steps: int,
    lr: float,
    weight_decay: float = 1e-3,
    warmup: int = 20,
    on_step: OnStep | None = None,
) -> list[float]:
    """Train ``model`` in place with AdamW, the poly schedule and gradients of a norm of 5 at most.

    Args:
        model: the network.
        loss_of: number of a step, from 0 on → its loss, a scalar.
        steps: optimiser steps.
        lr: highest learning rate.
        weight_decay: weight decay of AdamW.
        warmup: steps in which the learning rate rises, a fifth of all at most.
        on_step: called after every step as in ``seglib.train.fit``.

    Returns:
        The loss of every step.
    """
    optimizer = build_optimizer(model, lr=lr, weight_decay=weight_decay)
    losses = torch.zeros(steps, device=next(model.parameters()).device)  # read at the end: reading waits for the GPU
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * lr_factor(step, steps, warmup=min(warmup, steps // 5))
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        losses[step] = loss.detach()
        if on_step is not None:
            on_step(step + 1, steps, loss.item(), 0.0, 0.0)
    model.eval()
    return losses.tolist()


def last_tenth(losses: Sequence[float]) -> float:
    """The mean loss of the last tenth of the steps."""
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def timed(train: Callable[[], list[float]]) -> dict[str, float]:
    """Train, and tell of it: ``first_loss``, ``loss`` (mean of the last tenth of the steps), ``seconds`` (CPU time).

    Args:
        train: trains; returns the loss of every step.
    """
    started = time.process_time()
    losses = train()
    seconds = round(time.process_time() - started, 1)
    return {"first_loss": round(losses[0], 5), "loss": round(last_tenth(losses), 5), "seconds": seconds}


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """The numbers with five decimals, inside nested dicts too."""
    found = {k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()}
    return {k: rounded(v) if isinstance(v, dict) else v for k, v in found.items()}
