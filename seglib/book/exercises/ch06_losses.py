"""Chapter 6, "Losses": the pieces of section 3, which become the reader's own losses, and the bugs of section 8."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from seglib.book.exercise import Exercise, difference, expect, own
from seglib.book.exercises.verify import keeps_float64, trains_all
from seglib.types import VOID

Loss = Callable[..., Any]

NO_GRADIENT = "The numbers are right, but the gradient is not: some part of your code is cut off from `z` (detached?)."


DIGITS = (
    "In float32 it is right, but with `z` in float64 your code raises or loses digits: somewhere a tensor is float32 "
    "whatever `z` is. Take the type of `z`; section 4 compares in float64."
)


def _both_of(*demands: Callable[[Any], None]) -> Callable[[Any], None]:
    """One ``verify`` of several, in turn."""

    def verify(attempt: Any) -> None:
        for demand in demands:
            demand(attempt)

    return verify


def _in_float32(loss: Loss) -> Loss:
    """A loss that computes in float32, whatever the logits are."""
    return lambda z, *rest: loss(z.float(), *rest).to(z.dtype)


def _labelled(y: Tensor) -> tuple[Tensor, Tensor]:
    """Where a label is, and the labels with class 0 in void."""
    valid = y != VOID
    return valid, y.where(valid, 0)


def _batch(
    b: int, k: int, size: tuple[int, int], seed: int, *, void: float = 0.2, scale: float = 2.0, among: int | None = None
) -> tuple[Tensor, Tensor]:
    """Logits ``(B, K, H, W)`` and labels ``(B, H, W)``, a share of them void; only classes below ``among`` occur."""
    g = torch.Generator().manual_seed(seed)
    z = scale * torch.randn(b, k, *size, generator=g)
    y = torch.randint(among or k, (b, *size), generator=g)
    return z.round(decimals=2), y.masked_fill(torch.rand(b, *size, generator=g) < void, VOID)


# What a pixel costs --------------------------------------------------------------------------------------------------


def pixel_costs(z: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of every pixel, 0 at void, ``(B, H, W)``."""
    valid, known = _labelled(y)
    return (z.logsumexp(1) - z.gather(1, known[:, None])[:, 0]) * valid


def _with_log(log: Callable[[Tensor], Tensor]) -> Loss:
    """``pixel_costs`` from other logarithms of the probabilities ``(B, K, H, W)``."""

    def costs(z: Tensor, y: Tensor) -> Tensor:
        valid, known = _labelled(y)
        return torch.where(valid, -log(z).gather(1, known[:, None])[:, 0], 0.0)

    return costs


def _ready_made_costs(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y, reduction="none", ignore_index=VOID)


def _void_is_0(z: Tensor, y: Tensor) -> Tensor:
    return pixel_costs(z, y.where(y != VOID, 0))


def _void_as_index(z: Tensor, y: Tensor) -> Tensor:
    return z.logsumexp(1) - z.gather(1, y[:, None])[:, 0]


def _costs_numpy(z: Tensor, y: Tensor) -> np.ndarray:
    scores, labels = z.numpy().astype(np.float64), y.numpy()
    top = scores.max(1, keepdims=True)
    log_sum = np.log(np.exp(scores - top).sum(1)) + top[:, 0]
    picked = np.take_along_axis(scores, np.where(labels == VOID, 0, labels)[:, None], 1)[:, 0]
    return np.where(labels == VOID, 0, log_sum - picked)


def _costs_one_hot(z: Tensor, y: Tensor) -> Tensor:
    one_hot = torch.stack([y == k for k in range(z.shape[1])], 1)  # void is in none
    return -(z.log_softmax(1) * one_hot).sum(1)


def _costs_in_place(z: Tensor, y: Tensor) -> Tensor:
    """Only the labelled pixels, written into zeros."""
    valid = y != VOID
    found = z.new_zeros(y.shape)
    scores = z.movedim(1, -1)[valid]  # (n, K)
    found[valid] = scores.logsumexp(1) - scores[torch.arange(len(scores)), y[valid]]
    return found


def _pixels() -> Mapping[str, tuple[Tensor, Tensor]]:
    large = _batch(1, 3, (4, 5), 2)
    large[0][0, :, 0, 0] = torch.tensor([1000.0, 0.0, -1000.0])
    large[0][0, :, 0, 1] = torch.tensor([-1000.0, -1000.0, -1000.0])
    large[1][0, 0, :2] = torch.tensor([1, 2])
    return {
        "five classes and void": _batch(2, 5, (4, 6), 0),
        "logits of ±1000": large,
        "no void": _batch(3, 2, (3, 3), 3, void=0),
        "an image of void alone": (torch.ones(1, 4, 2, 3), torch.full((1, 2, 3), VOID)),
        "one class": (torch.randn(1, 1, 2, 2, generator=torch.Generator().manual_seed(1)), torch.zeros(1, 2, 2).long()),
    }


class _Names(TorchFunctionMode):
    """What is called, and how many numbers the largest answer has."""

    calls = 0
    most = 0

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        self.names.add(getattr(func, "__name__", ""))
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor):
            self.most = max(self.most, found.numel())
        return found


READY_MADE = "The numbers are right, but torch's own loss made them. Write it yourself: section 4 compares the two."
_costs_train = trains_all(pixel_costs, _pixels, [NO_GRADIENT])
_costs_digits = keeps_float64(pixel_costs, _pixels, DIGITS)


def _own_costs(attempt: Loss) -> None:
    case = next(iter(_pixels().values()))
    with _Names() as called:
        answer = attempt(*map(own, case))
    if difference(answer, pixel_costs(*case), tolerance=1e-4) is None:
        expect(not called.names & {"cross_entropy", "cross_entropy_loss", "nll_loss", "nll_loss2d"}, READY_MADE)
    _costs_train(attempt)
    _costs_digits(attempt)


COSTS = Exercise(
    solution=pixel_costs,
    wrong={
        "float32": (_in_float32(pixel_costs), DIGITS),
        "ready_made": (_ready_made_costs, READY_MADE),
        "detached": (
            lambda z, y: (z.logsumexp(1).detach() - z.gather(1, _labelled(y)[1][:, None])[:, 0]) * (y != VOID),
            NO_GRADIENT,
        ),
        "void_is_0": (
            _void_is_0,
            "Void is trained as class 0 in your code. A void pixel costs 0, whatever its logits are.",
        ),
        "void_as_index": (
            _void_as_index,
            "Void, 255, is no class that logits could be taken of. Let it borrow a class, and set its cost to 0.",
        ),
        "exp": (
            _with_log(lambda z: z - z.exp().sum(1, keepdim=True).log()),
            "e^1000 is no float any more. `logsumexp` takes the largest logit off first.",
        ),
        "log_of_softmax": (
            _with_log(lambda z: z.softmax(1).log()),
            "A probability of e^−1000 is 0 as a float, and its logarithm −∞. Don't go through probabilities.",
        ),
        "eps": (
            _with_log(lambda z: (z.softmax(1) + 1e-6).log()),
            "A small number inside the logarithm caps the cost: a pixel with logits of ±1000 costs 1000 and more.",
        ),
        "sign": (
            _with_log(lambda z: -z.log_softmax(1)),
            "That is the log-likelihood, which is at most 0. A cost is minus it.",
        ),
        "base_2": (
            _with_log(lambda z: z.log_softmax(1) / math.log(2)),
            "Those are bits. The logarithm is the natural one.",
        ),
        "other_axis": (
            _with_log(lambda z: z.log_softmax(3)),
            "Your softmax runs along the width. The classes are dimension 1.",
        ),
        "sigmoid": (
            _with_log(lambda z: F.logsigmoid(z)),
            "You take a sigmoid of the true class alone. The softmax weighs it against all classes.",
        ),
        "own_logit": (
            _with_log(lambda z: z),
            "That is minus the true class's logit. The logarithm of the sum over all classes is missing.",
        ),
        "mean": (lambda z, y: pixel_costs(z, y).mean(), "That is a mean. Return the cost of every pixel, (B, H, W)."),
        "list": (
            lambda z, y: pixel_costs(z, y)[y != VOID],
            "You return the labelled pixels in a row. Keep (B, H, W), with 0 at void.",
        ),
        "nan": (
            lambda z, y: pixel_costs(z, y).masked_fill(y == VOID, math.nan),
            "Void costs 0, not NaN.",
        ),
    },
    right={"NumPy": _costs_numpy, "one-hot": _costs_one_hot, "in place": _costs_in_place},
    probes=_pixels,
    verify=_own_costs,
    tolerance=1e-4,
    hint="log Σ e^z over the classes, less the logit of the true class; and 0 at void.",
    sketch="""
        valid = y != 255                          # (B, H, W)
        known = y.where(valid, ...)               # void borrows a class
        own = z.gather(1, known[:, None])[:, 0]   # (B, H, W), z_y
        return (z.logsumexp(...) - own) * ...
    """,
)


# Focal ---------------------------------------------------------------------------------------------------------------


def focal(z: Tensor, y: Tensor, gamma: float) -> Tensor:
    """The mean of (1 − p_y)^γ · cost over the labelled pixels."""
    return _focal(z, y, gamma)


def _focal(
    z: Tensor,
    y: Tensor,
    gamma: float,
    *,
    factor: Callable[[Tensor, float], Tensor] = lambda p, gamma: (1 - p) ** gamma,
    mean: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda cost, weight, valid: (weight * cost).sum() / valid.sum(),
) -> Tensor:
    cost = pixel_costs(z, y)
    return mean(cost, factor((-cost).exp(), gamma), y != VOID)


def _changed_focal(**changes: Any) -> Loss:
    return lambda z, y, gamma: _focal(z, y, gamma, **changes)


def _focal_numpy(z: Tensor, y: Tensor, gamma: float) -> float:
    cost, valid = _costs_numpy(z, y), y.numpy() != VOID
    return float(((1 - np.exp(-cost[valid])) ** gamma * cost[valid]).mean())


def _focal_by_softmax(z: Tensor, y: Tensor, gamma: float) -> Tensor:
    valid = y != VOID
    log_p = z.log_softmax(1).movedim(1, -1)[valid]  # (n, K)
    log_p = log_p.gather(1, y[valid][:, None])[:, 0]
    return ((1 - log_p.exp()).pow(gamma) * -log_p).mean()


def _focal_of_top(z: Tensor, y: Tensor, gamma: float) -> Tensor:
    return ((1 - z.softmax(1).amax(1)) ** gamma * pixel_costs(z, y)).sum() / (y != VOID).sum()


def _focal_of_images(z: Tensor, y: Tensor, gamma: float) -> Tensor:
    return torch.stack([focal(a[None], b[None], gamma) for a, b in zip(z, y, strict=True)]).mean()


def _focal_cases() -> Mapping[str, tuple[Tensor, Tensor, float]]:
    uneven = _batch(2, 3, (4, 5), 5, void=0)
    uneven[1][0, :3] = VOID
    return {
        "γ = 2": (*_batch(2, 5, (4, 6), 0), 2.0),
        "γ = 0, which is cross-entropy": (*_batch(1, 3, (5, 5), 1), 0.0),
        "γ = 1, and one image mostly void": (*uneven, 1.0),
        "γ = 0.5": (*_batch(2, 2, (3, 4), 6), 0.5),
        "γ = 5, confident logits": (*_batch(1, 4, (4, 4), 7, scale=5), 5.0),
    }


FOCAL = Exercise(
    solution=focal,
    wrong={
        "float32": (_in_float32(focal), DIGITS),
        "detached": (
            _changed_focal(factor=lambda p, gamma: (1 - p.detach()) ** gamma),
            NO_GRADIENT,
        ),
        "p": (
            _changed_focal(factor=lambda p, gamma: p**gamma),
            "You weigh with p_y: easy pixels count most. The factor is (1 − p_y)^γ.",
        ),
        "times": (
            _changed_focal(factor=lambda p, gamma: gamma * (1 - p)),
            "γ is an exponent, and no factor.",
        ),
        "two": (_changed_focal(factor=lambda p, gamma: (1 - p) ** 2), "Your exponent is always 2. It is γ."),
        "cost_too": (
            lambda z, y, gamma: _focal(
                z,
                y,
                gamma,
                mean=lambda cost, weight, valid: ((weight ** (1 / max(gamma, 1e-9))) * cost).sum() / valid.sum(),
            ),
            "The factor has no exponent in your code: (1 − p_y)^γ.",
        ),
        "all_pixels": (
            _changed_focal(mean=lambda cost, weight, valid: (weight * cost).mean()),
            "You divide by all pixels. Void pixels don't count: divide by the labelled ones.",
        ),
        "weighted_mean": (
            _changed_focal(mean=lambda cost, weight, valid: (weight * cost).sum() / (weight * valid).sum()),
            "You divide by the sum of the factors. That takes back what they do: divide by the labelled pixels.",
        ),
        "sum": (
            _changed_focal(mean=lambda cost, weight, valid: (weight * cost).sum()),
            "That is a sum. Take the mean over the labelled pixels.",
        ),
        "no_cost": (
            _changed_focal(mean=lambda cost, weight, valid: (weight * valid).sum() / valid.sum()),
            "That is the mean factor. It multiplies the pixel's cost.",
        ),
        "top": (
            _focal_of_top,
            "You take the probability of the likeliest class. p_y is that of the true class.",
        ),
        "images": (
            _focal_of_images,
            "You take a mean of the images' means. All labelled pixels of the batch count alike.",
        ),
        "alpha": (
            lambda z, y, gamma: 0.25 * focal(z, y, gamma),
            "A factor α = 0.25 is not asked for.",
        ),
        "void": (
            lambda z, y, gamma: focal(z, y.where(y != VOID, 0), gamma),
            "Void is trained as class 0. It counts neither above nor below the line.",
        ),
    },
    right={"NumPy": _focal_numpy, "labelled pixels alone": _focal_by_softmax},
    probes=_focal_cases,
    verify=_both_of(trains_all(focal, _focal_cases, [NO_GRADIENT]), keeps_float64(focal, _focal_cases, DIGITS)),
    tolerance=1e-4,
    hint="From the cost of a pixel you get p_y back: it is e to the minus cost.",
    sketch="""
        cost = pixel_costs(z, y)                  # (B, H, W), 0 at void
        p_y = ...                                 # from the cost
        return (... * cost).sum() / ...           # the labelled pixels
    """,
)


# OHEM ----------------------------------------------------------------------------------------------------------------


def ohem(z: Tensor, y: Tensor, threshold: float, min_kept: int) -> Tensor:
    """The mean cost of the pixels with p_y below ``threshold``, or of the ``min_kept`` hardest if those are more."""
    return _ohem(z, y, threshold, min_kept)


def _ohem(
    z: Tensor,
    y: Tensor,
    threshold: float,
    min_kept: int,
    *,
    limit: Callable[[float], float] = lambda threshold: -math.log(threshold),
    count: Callable[[int, int, int], int] = lambda hard, least, n: min(max(hard, least), n),
    pixels: Callable[[Tensor, Tensor], Tensor] = lambda cost, y: cost[y != VOID],
    descending: bool = True,
    mean: Callable[[Tensor, int], Tensor] = lambda kept, n: kept.mean(),
) -> Tensor:
    cost = pixels(pixel_costs(z, y), y).flatten()
    cost = cost.sort(descending=descending).values
    hard = int((cost > limit(threshold)).sum())
    return mean(cost[: count(hard, min_kept, len(cost))], len(cost))


def _changed_ohem(**changes: Any) -> Loss:
    return lambda z, y, threshold, min_kept: _ohem(z, y, threshold, min_kept, **changes)


def _ohem_top_k(z: Tensor, y: Tensor, threshold: float, min_kept: int) -> Tensor:
    """Beyond what is there, ``topk`` raises."""
    cost = pixel_costs(z, y)[y != VOID]
    hard = int((cost > -math.log(threshold)).sum())
    return cost.topk(max(hard, min_kept)).values.mean()


def _ohem_masked(z: Tensor, y: Tensor, threshold: float, min_kept: int) -> Tensor:
    """A mask of probabilities; where it keeps too few, the hardest instead."""
    cost = pixel_costs(z, y)
    valid = y != VOID
    keep = valid & ((-cost).exp() < threshold)
    if keep.sum() < min_kept:
        flat = cost.masked_fill(~valid, -1).flatten()
        return flat.topk(min(min_kept, int(valid.sum()))).values.mean()
    return cost[keep].mean()


def _ohem_numpy(z: Tensor, y: Tensor, threshold: float, min_kept: int) -> float:
    cost = np.sort(_costs_numpy(z, y)[y.numpy() != VOID])[::-1]
    return float(cost[: max(np.count_nonzero(np.exp(-cost) < threshold), min_kept)].mean())


def _ohem_of_images(z: Tensor, y: Tensor, threshold: float, min_kept: int) -> Tensor:
    return torch.stack([ohem(a[None], b[None], threshold, min_kept) for a, b in zip(z, y, strict=True)]).mean()


def _ohem_cases() -> Mapping[str, tuple[Tensor, Tensor, float, int]]:
    uneven = _batch(2, 3, (4, 5), 15, void=0)
    uneven[1][0, :3] = VOID
    return {
        "some hard pixels": (*_batch(2, 5, (4, 6), 10, scale=4), 0.7, 1),
        "fewer hard ones than must be kept": (*_batch(2, 3, (4, 6), 11, scale=3), 0.05, 17),
        "more to be kept than are labelled": (*_batch(1, 4, (3, 4), 12, void=0.5), 0.3, 100),
        "a threshold of 0.3": (*_batch(1, 4, (6, 6), 13, scale=3), 0.3, 3),
        "one image mostly void": (*uneven, 0.4, 2),
        "every pixel hard": (torch.zeros(1, 3, 2, 2), torch.tensor([[[0, 1], [2, VOID]]]), 0.7, 1),
    }


OHEM = Exercise(
    solution=ohem,
    wrong={
        "float32": (_in_float32(ohem), DIGITS),
        "detached": (
            lambda z, y, threshold, min_kept: ohem(z, y, threshold, min_kept).detach() + 0 * z.sum(),
            NO_GRADIENT,
        ),
        "cost_below": (
            _changed_ohem(limit=lambda threshold: threshold),
            "You compare the cost with the threshold. That is a probability: p_y < threshold, so cost > −ln threshold.",
        ),
        "easy": (
            lambda z, y, threshold, min_kept: (c := pixel_costs(z, y)[y != VOID])[(-c).exp() > threshold].mean(),
            "You keep the easy pixels. Those with p_y *below* the threshold are hard.",
        ),
        "no_least": (
            _changed_ohem(count=lambda hard, least, n: hard),
            "You forget `min_kept`: if fewer pixels are hard, the hardest `min_kept` are kept.",
        ),
        "least_alone": (
            _changed_ohem(count=lambda hard, least, n: min(least, n)),
            "You keep `min_kept` pixels, and the threshold does nothing. All pixels below it are kept as well.",
        ),
        "at_most": (
            _changed_ohem(count=lambda hard, least, n: min(hard, least)),
            "You keep at most `min_kept`. It is at least.",
        ),
        "too_many": (
            _ohem_top_k,
            "Fewer pixels may be labelled than `min_kept`. Then all of the labelled ones are kept.",
        ),
        "void": (
            _changed_ohem(pixels=lambda cost, y: cost),
            "Void pixels are kept in your code when there are few others. They cost 0 and lower the mean.",
        ),
        "over_all": (
            _changed_ohem(mean=lambda kept, n: kept.sum() / n),
            "You divide by all labelled pixels. The mean runs over the kept ones.",
        ),
        "ascending": (
            _changed_ohem(descending=False),
            "You sort the easy pixels to the front. The hardest come first.",
        ),
        "sum": (_changed_ohem(mean=lambda kept, n: kept.sum()), "That is the sum over the kept pixels. Take the mean."),
        "images": (
            _ohem_of_images,
            "You choose in every image by itself. All labelled pixels of the batch stand in one list.",
        ),
        "void_is_0": (
            lambda z, y, threshold, min_kept: ohem(z, y.where(y != VOID, 0), threshold, min_kept),
            "Void is trained as class 0. It is never kept.",
        ),
    },
    right={"NumPy": _ohem_numpy, "a mask": _ohem_masked},
    probes=_ohem_cases,
    verify=_both_of(trains_all(ohem, _ohem_cases, [NO_GRADIENT]), keeps_float64(ohem, _ohem_cases, DIGITS)),
    tolerance=1e-4,
    hint="Sort the costs of the labelled pixels, the hardest first. How many from the front are kept?",
    sketch="""
        cost = pixel_costs(z, y)[...]             # (n,) the labelled pixels
        cost = cost.sort(...).values              # the hardest first
        hard = (p_y below the threshold, as a count)
        return cost[: max(..., ...)].mean()
    """,
)


# Dice ----------------------------------------------------------------------------------------------------------------


def dice(z: Tensor, y: Tensor, eps: float) -> Tensor:
    """The mean over the classes that occur of 1 − (2 Σ p y + ε) / (Σ p + Σ y + ε), over the batch as one image."""
    return _dice(z, y, eps)


def _dice(
    z: Tensor,
    y: Tensor,
    eps: float,
    *,
    probability: Callable[[Tensor], Tensor] = lambda z: z.softmax(1),
    mask_p: bool = True,
    mask_y: bool = True,
    over: tuple[int, ...] = (0, 2, 3),
    ratio: Callable[[Tensor, Tensor, Tensor, float], Tensor] = lambda i, a, b, eps: (2 * i + eps) / (a + b + eps),
    mean: Callable[[Tensor, Tensor], Tensor] = lambda losses, pixels: losses[pixels > 0].mean(),
    square: bool = False,
) -> Tensor:
    valid, known = _labelled(y)
    p = probability(z) * (valid[:, None] if mask_p else 1)
    one_hot = F.one_hot(known, z.shape[1]).movedim(-1, 1).to(z.dtype) * (valid[:, None] if mask_y else 1)
    pixels, areas = one_hot.sum(over), (p**2 if square else p).sum(over)
    return mean(1 - ratio((p * one_hot).sum(over), areas, pixels, eps), pixels)


def _changed_dice(**changes: Any) -> Loss:
    return lambda z, y, eps: _dice(z, y, eps, **changes)


def _dice_loop(z: Tensor, y: Tensor, eps: float) -> Tensor:
    losses = []
    p = z.softmax(1)
    for k in range(z.shape[1]):
        p_k, y_k = p[:, k][y != VOID], (y[y != VOID] == k).to(p.dtype)
        if y_k.any():
            losses.append(1 - (2 * (p_k @ y_k) + eps) / (p_k.sum() + y_k.sum() + eps))
    return torch.stack(losses).mean()


def _dice_numpy(z: Tensor, y: Tensor, eps: float) -> float:
    labels = y.numpy().ravel()
    scores = np.moveaxis(z.numpy().astype(np.float64), 1, -1).reshape(len(labels), -1)[labels != VOID]
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    one_hot = np.eye(p.shape[1])[labels[labels != VOID]]
    losses = 1 - (2 * (p * one_hot).sum(0) + eps) / (p.sum(0) + one_hot.sum(0) + eps)
    return float(losses[one_hot.any(0)].mean())


def _dice_in_place(z: Tensor, y: Tensor, eps: float) -> Tensor:
    """By ``index_add_``: each pixel's own probability is added to the overlap of its class."""
    valid = y != VOID
    p, t = z.softmax(1).movedim(1, -1)[valid], y[valid]  # (n, K), (n,)
    overlap, pixels = p.new_zeros(p.shape[1]), p.new_zeros(p.shape[1])
    overlap.index_add_(0, t, p[torch.arange(len(t)), t])
    pixels.index_add_(0, t, torch.ones_like(p[:, 0]))
    losses = 1 - (2 * overlap + eps) / (p.sum(0) + pixels + eps)
    return losses[pixels > 0].mean()


def _dice_cases() -> Mapping[str, tuple[Tensor, Tensor, float]]:
    uneven = _batch(2, 3, (4, 5), 25, void=0.1)
    uneven[1][0][uneven[1][0] == 2] = 0
    return {
        "five classes and void": (*_batch(2, 5, (4, 6), 20), 1e-5),
        "classes that don't occur": (*_batch(2, 6, (4, 5), 21, among=3), 1e-5),
        "ε = 1": (*_batch(1, 3, (4, 4), 22), 1.0),
        "a class in one image alone": (*uneven, 1e-5),
        "no void": (*_batch(3, 2, (3, 4), 23, void=0), 0.5),
        "ε = 0, class 0 absent": (
            torch.tensor([[[[2.0, -1.0]], [[1.0, 0.5]], [[0.0, 0.0]]]]), torch.tensor([[[1, 2]]]), 0.0,
        ),
    }  # fmt: skip


DICE = Exercise(
    solution=dice,
    wrong={
        "float32": (_in_float32(dice), DIGITS),
        "detached": (_changed_dice(probability=lambda z: z.softmax(1).detach() + 0 * z), NO_GRADIENT),
        "void_in_p": (
            _changed_dice(mask_p=False),
            "The probabilities at void pixels count in Σ p. Leave these pixels out of both sums.",
        ),
        "void_in_y": (
            _changed_dice(mask_y=False),
            "Void pixels count as class 0 in Σ y. Leave them out.",
        ),
        "void_in_both": (
            _changed_dice(mask_p=False, mask_y=False),
            "Void pixels are trained as class 0. They count nowhere.",
        ),
        "absent_too": (
            _changed_dice(mean=lambda losses, pixels: losses.mean()),
            "Classes that don't occur in the labels are in your mean. Leave them out.",
        ),
        "without_0": (
            _changed_dice(mean=lambda losses, pixels: losses[1:][pixels[1:] > 0].mean()),
            "Class 0 is missing from your mean. Here it is a class like the others.",
        ),
        "images": (
            _changed_dice(over=(2, 3)),
            "You take one Dice for each image. The sums run over the whole batch.",
        ),
        "pooled": (
            lambda z, y, eps: (
                1
                - (
                    2
                    * (z.softmax(1) * F.one_hot(_labelled(y)[1], z.shape[1]).movedim(-1, 1))[
                        (y != VOID)[:, None].expand_as(z)
                    ].sum()
                    + eps
                )
                / (2 * (y != VOID).sum() + eps)
            ),
            "You take one ratio of all classes together. Take one for each class, then the mean.",
        ),
        "iou": (
            _changed_dice(ratio=lambda i, a, b, eps: (i + eps) / (a + b - i + eps)),
            "That is the soft IoU. Dice counts the overlap twice, above and below the line.",
        ),
        "half": (
            _changed_dice(ratio=lambda i, a, b, eps: (i + eps) / (a + b + eps)),
            "The factor 2 at the overlap is missing.",
        ),
        "eps_below": (
            _changed_dice(ratio=lambda i, a, b, eps: 2 * i / (a + b + eps)),
            "ε stands above the line too.",
        ),
        "no_eps": (_changed_dice(ratio=lambda i, a, b, eps: 2 * i / (a + b)), "You leave out ε."),
        "two_eps": (
            _changed_dice(ratio=lambda i, a, b, eps: 2 * (i + eps) / (a + b + eps)),
            "You double ε too. It is added once, behind 2 Σ p y.",
        ),
        "squared": (
            _changed_dice(square=True),
            "You square the probabilities below the line, as V-Net does. Here they stand as they are.",
        ),
        "index": (
            lambda z, y, eps: 1 - dice(z, y, eps),
            "That is the mean Dice, which is 1 for a perfect answer. The loss is 1 − Dice.",
        ),
        "sigmoid": (
            _changed_dice(probability=torch.sigmoid),
            "You take a sigmoid of each logit. The probabilities are a softmax over the classes.",
        ),
        "hard": (
            _changed_dice(probability=lambda z: F.one_hot(z.argmax(1), z.shape[1]).movedim(-1, 1).to(z.dtype) + 0 * z),
            "You count the likeliest class alone, which has no gradient. Sum the probabilities as they are.",
        ),
    },
    right={"a loop": _dice_loop, "NumPy": _dice_numpy, "in place": _dice_in_place},
    probes=_dice_cases,
    verify=_both_of(trains_all(dice, _dice_cases, [NO_GRADIENT]), keeps_float64(dice, _dice_cases, DIGITS)),
    tolerance=1e-4,
    hint="For each class: an overlap, an area of the answer, an area of the truth; void pixels in none of them.",
    sketch="""
        valid = (y != 255)[:, None]               # (B, 1, H, W)
        p = z.softmax(1) * ...                    # (B, K, H, W)
        one_hot = F.one_hot(..., z.shape[1]).movedim(-1, 1) * ...
        overlap = (...).sum((0, 2, 3))            # (K,), and the two areas
        return (the losses of the classes that occur).mean()
    """,
)


# Steps of 1 − IoU ----------------------------------------------------------------------------------------------------


def steps(y: Tensor) -> Tensor:
    """What each mistake adds to 1 − IoU, ``(n,)``, for labels ``(n,)`` of 1.0 and 0.0 in the order of the mistakes."""
    return _jaccard(y).diff(prepend=y.new_zeros(1))


def _jaccard(y: Tensor) -> Tensor:
    """1 − IoU after each mistake, ``(n,)``."""
    return 1 - (y.sum() - y.cumsum(0)) / (y.sum() + (1 - y).cumsum(0))


def _steps_square(y: Tensor) -> Tensor:
    """All sets of mistakes as rows of a square."""
    wrong = torch.tril(torch.ones(len(y), len(y), dtype=y.dtype))
    kept, union = ((1 - wrong) * y).sum(1), torch.maximum(wrong, y.expand(len(y), -1)).sum(1)
    return (1 - kept / union).diff(prepend=y.new_zeros(1))


def _steps_one_by_one(y: Tensor) -> Tensor:
    kept, union, before, found = y.sum(), y.sum(), y.new_zeros(()), []
    for label in y:
        kept, union = kept - label, union + 1 - label
        found.append(1 - kept / union - before)
        before = 1 - kept / union
    return torch.stack(found)


def _steps_numpy(y: Tensor) -> np.ndarray:
    labels = y.numpy().astype(np.float64)
    iou = (labels.sum() - labels.cumsum()) / (labels.sum() + (1 - labels).cumsum())
    return -np.diff(iou, prepend=1.0)


def _steps_in_lists(y: Tensor) -> list[float]:
    kept, union, found = sum(y.tolist()), sum(y.tolist()), []
    before = 0.0
    for label in y.tolist():
        kept, union = kept - label, union + 1 - label
        found.append(1 - kept / union - before)
        before += found[-1]
    return found


def _steps_in_place(y: Tensor) -> Tensor:
    found = _jaccard(y)
    found[1:] -= found[:-1].clone()
    y.zero_()
    return found


SQUARE = (
    "The numbers are right, but your code makes n × n of them, or goes through the mistakes one by one in torch. An "
    "image has 100,000 pixels and more: cumulative sums give all steps at once."
)


STEP_DIGITS = (
    "In float32 it is right, but with labels in float64 your code raises or loses digits. Take the type of `y`; "
    "section 4 compares in float64."
)


def _without_square(attempt: Loss) -> None:
    """Rejects right answers that need n × n numbers, or calls for each mistake."""
    called = []
    for n in (60, 90):
        y = (torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.4).double()
        with _Names() as names:
            answer = attempt(own(y))
        if difference(answer, steps(y), tolerance=1e-4) is not None:
            return
        expect(names.most <= 8 * n, SQUARE)
        called.append(names.calls)
    expect(called[0] == called[1], SQUARE)
    _step_digits(attempt)


def _labels_in_order() -> Mapping[str, tuple[Tensor]]:
    g = torch.Generator().manual_seed(30)
    return {
        "the six pixels of station 2": (torch.tensor([1.0, 0, 1, 0, 0, 0]),),
        "twelve pixels": (torch.tensor([0.0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0]),),
        "the object first": (torch.tensor([1.0, 1, 1, 0, 0]),),
        "the object last": (torch.tensor([0.0, 0, 0, 1, 1]),),
        "object pixels alone": (torch.ones(4),),
        "one pixel": (torch.ones(1),),
        "forty pixels, in float64": ((torch.rand(40, generator=g) < 0.3).double(),),
    }


_step_digits = keeps_float64(steps, _labels_in_order, STEP_DIGITS)

STEPS = Exercise(
    solution=steps,
    wrong={
        "float32": (lambda y: steps(y.float()), STEP_DIGITS),
        "square": (_steps_square, SQUARE),
        "totals": (
            _jaccard,
            "That is 1 − IoU after each mistake. Return what each one adds.",
        ),
        "without_first": (
            lambda y: _jaccard(y).diff(),
            "The first step is missing: it starts from 1 − IoU = 0, with no mistake at all.",
        ),
        "iou": (
            lambda y: (1 - _jaccard(y)).diff(prepend=y.new_ones(1)),
            "Those are steps of the IoU, which falls. Return the steps of 1 − IoU.",
        ),
        "from_one": (
            lambda y: (1 - _jaccard(y)).diff(prepend=y.new_zeros(1)),
            "Without a mistake the IoU is 1, not 0. And the steps of 1 − IoU are wanted.",
        ),
        "union_stays": (
            lambda y: (1 - (y.sum() - y.cumsum(0)) / y.sum()).diff(prepend=y.new_zeros(1)),
            "A mistake outside the object joins the union.",
        ),
        "union_of_all": (
            lambda y: (1 - (y.sum() - y.cumsum(0)) / (y.sum() + torch.arange(1, len(y) + 1))).diff(
                prepend=y.new_zeros(1)
            ),
            "A mistake on the object is in the union already. Only those outside join it.",
        ),
        "numerator_stays": (
            lambda y: (1 - y.sum() / (y.sum() + (1 - y).cumsum(0))).diff(prepend=y.new_zeros(1)),
            "A mistake on the object leaves the intersection.",
        ),
        "hits": (
            lambda y: (1 - y.cumsum(0) / (y.sum() + (1 - y).cumsum(0))).diff(prepend=y.new_zeros(1)),
            "You let the intersection grow. With every mistake on the object it loses a pixel.",
        ),
        "dice": (
            lambda y: (
                1 - 2 * (y.sum() - y.cumsum(0)) / (2 * (y.sum() - y.cumsum(0)) + y.cumsum(0) + (1 - y).cumsum(0))
            ).diff(prepend=y.new_zeros(1)),
            "Those are the steps of 1 − Dice. Take those of 1 − IoU.",
        ),
        "sorted": (
            lambda y: steps(y.sort(descending=True).values),
            "You sort the labels. They stand in the order of the mistakes already.",
        ),
        "backwards": (
            lambda y: steps(y.flip(0)).flip(0),
            "You begin with the last label. The first one is the first mistake.",
        ),
        "before": (
            lambda y: torch.cat([y.new_zeros(1), steps(y)[:-1]]),
            "Your steps stand a place too late: the first mistake has a step of its own.",
        ),
        "exchanged": (
            lambda y: steps(1 - y) if 0 < y.sum() < len(y) else steps(y) * 2,
            "You have exchanged object and background: 1 is the object.",
        ),
    },
    right={"NumPy": _steps_numpy, "a list": _steps_in_lists, "in place": _steps_in_place},
    probes=_labels_in_order,
    verify=_without_square,
    hint="How many object pixels are among the first i mistakes, and how many others? `cumsum` says it for every i.",
    sketch="""
        intersection = y.sum() - ...              # (n,) what is left of the object
        union = y.sum() + ...                     # (n,) and what has joined it
        loss = 1 - intersection / union
        return loss.diff(prepend=...)             # what each mistake adds
    """,
)


# The sum of two losses: find the bugs --------------------------------------------------------------------------------


def both(z: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy plus Dice of the foreground classes, absent ones too, over the batch, smoothed by 1."""
    return _both(z, y)


def _both(z: Tensor, y: Tensor, *bugs: str) -> Tensor:
    """``both`` with some of the bugs."""
    valid, known = _labelled(y)
    p = z.exp() / z.exp().sum(1, keepdim=True) if "overflow" in bugs else z.softmax(1)
    one_hot = F.one_hot(known, z.shape[1]).movedim(-1, 1) * valid[:, None]
    p = p if "void_area" in bugs else p * valid[:, None]
    ce = F.cross_entropy(z, known) if "void_cost" in bugs else pixel_costs(z, y).sum() / valid.sum()
    over = (2, 3) if "images" in bugs else (0, 2, 3)
    ratio = (2 * (p * one_hot).sum(over) + 1) / ((p + one_hot).sum(over) + 1)
    ratio = ratio if "background" in bugs else ratio[..., 1:]
    return ce + (ratio.mean() if "sign" in bugs else 1 - ratio.mean())


_BUGS = ("overflow", "void_area", "void_cost", "images", "background", "sign")
_WORDS = {
    "overflow": "e to a large logit overflows, and ∞ / ∞ is NaN. `softmax` takes the largest logit off first.",
    "void_area": "The probabilities at void pixels still count in the areas.",
    "void_cost": "Void pixels still have a cross-entropy, as if their class were 0.",
    "images": "Dice is still that of each image. The sums run over the whole batch.",
    "background": "The background's Dice is still in the mean.",
    "sign": "A better Dice still raises the loss.",
}


def _both_but(*bugs: str) -> Loss:
    return lambda z, y: _both(z, y, *bugs)


def _as_written(z: Tensor, y: Tensor) -> Tensor:
    """The code of the exercise."""
    valid = y != VOID
    known = y.where(valid, 0)
    p = z.exp() / z.exp().sum(1, keepdim=True)
    one_hot = F.one_hot(known, z.shape[1]).movedim(-1, 1) * valid[:, None]
    overlap = (p * one_hot).sum((2, 3))
    areas = (p + one_hot).sum((2, 3))
    ratio = (2 * overlap + 1) / (areas + 1)
    return F.cross_entropy(z, known) + ratio.mean()


def _both_loop(z: Tensor, y: Tensor) -> Tensor:
    valid, p, total = y != VOID, z.softmax(1), torch.zeros(())
    for k in range(1, z.shape[1]):
        p_k, y_k = p[:, k][valid], (y[valid] == k).float()
        total = total + 1 - (2 * (p_k * y_k).sum() + 1) / (p_k.sum() + y_k.sum() + 1)
    return F.cross_entropy(z, y, ignore_index=VOID) + total / (z.shape[1] - 1)


def _both_numpy(z: Tensor, y: Tensor) -> float:
    cost, valid = _costs_numpy(z, y), y.numpy() != VOID
    p = z.double().softmax(1).numpy()
    ratios = []
    for k in range(1, p.shape[1]):
        said, true = p[:, k][valid], y.numpy()[valid] == k
        ratios.append((2 * said[true].sum() + 1) / (said.sum() + true.sum() + 1))
    return float(cost[valid].mean() + 1 - np.mean(ratios))


def _both_cases() -> Mapping[str, tuple[Tensor, Tensor]]:
    large = _batch(1, 3, (4, 5), 42)
    large[0][0, :, 0, 0] = torch.tensor([200.0, 100.0, -200.0])
    large[1][0, 0, 0] = 0
    return {
        "three classes and void": _batch(2, 3, (4, 6), 40),
        "no void": _batch(2, 4, (3, 5), 41, void=0),
        "one image, no void": _batch(1, 3, (4, 4), 43, void=0),
        "a logit of 200": large,
        "a class that is absent": _batch(2, 4, (3, 4), 44, among=3),
        "much void": _batch(3, 2, (4, 5), 45, void=0.6),
    }


BOTH = Exercise(
    solution=both,
    wrong={
        "as_written": (_as_written, "That is the code as it was given."),
        **{bug: (_both_but(bug), f"One bug is left. {_WORDS[bug]}") for bug in _BUGS},
        "without_overflow": (
            _both_but(*_BUGS[1:]),
            "The overflow is repaired. Five bugs are left; compare the six sums with the rules, one by one.",
        ),
        "without_sign": (
            _both_but(*_BUGS[:-1]),
            "The loss now falls with a better Dice. Five bugs are left; try a batch with void next.",
        ),
        "without_void": (
            _both_but("overflow", "images", "background", "sign"),
            "Void counts nowhere now. Four bugs are left; try logits of 200 next.",
        ),
        "void": (
            _both_but("void_area", "void_cost"),
            "Two bugs are left, both about void: one in the areas, one in the cross-entropy.",
        ),
        "dice_side": (
            _both_but("images", "background"),
            "Two bugs are left, both in what the Dice is taken of: over which images, over which classes?",
        ),
        "present": (
            lambda z, y: (
                pixel_costs(z, y).sum() / (y != VOID).sum()
                + torch.stack(
                    [1 - _ratio_of(z, y, k) for k in range(1, z.shape[1]) if (y == k).any()] or [torch.zeros(())]
                ).mean()
            ),
            "You leave out classes that don't occur. With this smoothing they count too.",
        ),
        "unsmoothed": (
            lambda z, y: (
                pixel_costs(z, y).sum() / (y != VOID).sum()
                + 1
                - torch.stack([_ratio_of(z, y, k, 1e-5) for k in range(1, z.shape[1])]).mean()
            ),
            "The 1 above and below the line belongs to the rules; it was no bug.",
        ),
        "half": (
            lambda z, y: both(z, y) / 2,
            "You return the mean of the two. Their sum is wanted.",
        ),
    },
    right={"a loop": _both_loop, "NumPy": _both_numpy},
    probes=_both_cases,
    verify=trains_all(both, _both_cases, [NO_GRADIENT]),
    tolerance=1e-4,
    hint="Try it on one image without void first, then with void, then on two images, then with a logit of 200.",
    sketch="""
        p = z.softmax(1) * ...                    # void counts nowhere
        one_hot = ...
        overlap, areas = sums over ...            # the batch as one image
        ratio = (2 * overlap + 1) / (areas + 1)   # (K,)
        return (cross-entropy over ...) + 1 - ratio[...].mean()
    """,
)


def _ratio_of(z: Tensor, y: Tensor, k: int, smooth: float = 1.0) -> Tensor:
    p, true = z.softmax(1)[:, k][y != VOID], (y[y != VOID] == k).float()
    return (2 * (p * true).sum() + smooth) / (p.sum() + true.sum() + smooth)


EXERCISES = {
    "ch06.costs": COSTS,
    "ch06.focal": FOCAL,
    "ch06.ohem": OHEM,
    "ch06.dice": DICE,
    "ch06.steps": STEPS,
    "ch06.both": BOTH,
}
