"""The exercises of chapter 6, "Losses"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.book.exercise import Exercise
from seglib.book.exercises import ch06_losses

# What a constant says -------------------------------------------------------------------------------------------------

CONSTANT = Exercise(
    solution=(0.01, 0.5, 1.0),
    wrong={
        "always_the_share": (
            (0.01, 0.01, 0.01),
            "Right for plain cross-entropy, which wants the true share. But weights change the share that it sees, "
            "and Dice does not ask for a share at all.",
        ),
        "always_half": (
            (0.5, 0.5, 0.5),
            "That is where the network starts. Plain cross-entropy wants the probability that fits the labels.",
        ),
        "dice_like_weights": (
            (0.01, 0.5, 0.5),
            "The first two are right. For the third write D(p) = 2·p·m / (p·n + m) with m of n pixels speck: does it "
            "have a maximum inside?",
        ),
        "dice_like_plain": (
            (0.01, 0.5, 0.01),
            "The first two are right. Dice does not want the share: D(p) = 2·p·m / (p·n + m) grows with p.",
        ),
        "dice_gives_up": (
            (0.01, 0.5, 0.0),
            "The first two are right. With p = 0 the overlap is 0 and so is Dice: the worst that it can be.",
        ),
        "weights_turned_round": (
            (0.01, 0.99, 1.0),
            "The weights make up for the rarity; they do not turn it round. Count 1 speck of weight 100 against 99 "
            "ground pixels of weight 100/99.",
        ),
        "says_ground": (
            (0.0, 0.5, 1.0),
            "Plain cross-entropy cannot afford p = 0: every speck would cost −log 0. It wants the true share.",
        ),
        "in_percent": ((1, 50, 100), "Those are percentages; probabilities are wanted."),
        "odds": (
            (1 / 99, 0.5, 1.0),
            "1/99 is the odds, speck pixels over ground pixels. A probability is speck pixels over all pixels.",
        ),
        "weight_of_ground": (
            (0.99, 0.5, 1.0),
            "Plain cross-entropy wants the share of specks, since p is the probability of speck.",
        ),
    },
    right={
        "a list": [0.01, 0.5, 1],
        "a tensor": torch.tensor([0.01, 0.5, 1.0]),
        "an array": np.array([0.01, 0.5, 1.0]),
        "by sums": (1 / 100, 100 / (100 + 99 * (1 / 0.99)), 1),
    },
    hint="For each loss write it as a function of the one number p and look for its minimum.",
    sketch="−m·a·log p − (n − m)·b·log(1 − p) is least at p = m·a / (m·a + (n − m)·b), with m of n pixels speck and "
    "weights a and b; for Dice look at the sign of the slope of 2·p·m / (p·n + m).",
    tolerance=2e-5,
)


# Tversky --------------------------------------------------------------------------------------------------------------


def tversky(p: Tensor, y: Tensor, alpha: float, beta: float) -> Tensor:
    """1 − TP / (TP + α·FP + β·FN) of probabilities ``(n,)`` and labels ``(n,)`` of 0 and 1."""
    return 1 - _index(p, y, alpha, beta)


def _index(p: Tensor, y: Tensor, alpha: float, beta: float) -> Tensor:
    tp, fp, fn = (p * y).sum(), (p * (1 - y)).sum(), ((1 - p) * y).sum()
    return tp / (tp + alpha * fp + beta * fn)


def _fn_forgets_y(p: Tensor, y: Tensor, alpha: float, beta: float) -> Tensor:
    tp, fp, fn = (p * y).sum(), (p * (1 - y)).sum(), (1 - p).sum()
    return 1 - tp / (tp + alpha * fp + beta * fn)


def _fp_forgets_y(p: Tensor, y: Tensor, alpha: float, beta: float) -> Tensor:
    tp, fp, fn = (p * y).sum(), p.sum(), ((1 - p) * y).sum()
    return 1 - tp / (tp + alpha * fp + beta * fn)


def _doubled(p: Tensor, y: Tensor, alpha: float, beta: float) -> Tensor:
    tp, fp, fn = (p * y).sum(), (p * (1 - y)).sum(), ((1 - p) * y).sum()
    return 1 - 2 * tp / (2 * tp + alpha * fp + beta * fn)


def _loop(p: Tensor, y: Tensor, alpha: float, beta: float) -> float:
    tp = fp = fn = 0.0
    for said, true in zip(p.tolist(), y.tolist(), strict=True):
        if true == 1:
            tp, fn = tp + said, fn + 1 - said
        else:
            fp += said
    return 1 - tp / (tp + alpha * fp + beta * fn)


def _in_place(p: Tensor, y: Tensor, alpha: float, beta: float) -> Tensor:
    found, objects = p.sum(), y.sum()
    p *= y
    tp = p.sum()
    return 1 - tp / (tp + alpha * (found - tp) + beta * (objects - tp))


def _with_numpy(p: Tensor, y: Tensor, alpha: float, beta: float) -> Any:
    said, true = p.numpy().astype(np.float64), y.numpy() > 0.5
    misses, alarms = beta * (1 - said[true]).sum(), alpha * said[~true].sum()
    return (misses + alarms) / (said[true].sum() + misses + alarms)


def _smoothed(p: Tensor, y: Tensor, alpha: float, beta: float) -> Tensor:
    tp, fp, fn = (p * y).sum(), (p * (1 - y)).sum(), ((1 - p) * y).sum()
    return 1 - (tp + 1) / (tp + alpha * fp + beta * fn + 1)


def _six_pixels() -> Mapping[str, tuple[Tensor, Tensor, float, float]]:
    y = torch.tensor([1.0, 1, 0, 0, 0, 0])
    p = torch.tensor([0.75, 0.25, 0.5, 0.2, 0.1, 0.2])
    return {
        "the six pixels with α = 0.3, β = 0.7": (p, y, 0.3, 0.7),
        "the six pixels with α = β = 0.5": (p, y, 0.5, 0.5),
        "the six pixels with α = β = 1": (p, y, 1.0, 1.0),
        "other labels with α = 0.8, β = 0.1": (p, torch.tensor([0.0, 1, 1, 0, 1, 0]), 0.8, 0.1),
        "a perfect answer": (y.clone(), y, 0.3, 0.7),
        "an object everywhere": (p, torch.ones(6), 0.3, 0.7),
        "misses that cost nothing": (p, y, 0.5, 0.0),
        "false alarms that cost nothing": (p, y, 0.0, 2.0),
        "no object": (p, torch.zeros(6), 0.5, 0.5),
        "a single pixel": (p[:1], y[:1], 0.3, 0.7),
    }


TVERSKY = Exercise(
    solution=tversky,
    probes=_six_pixels,
    wrong={
        "swapped": (
            lambda p, y, alpha, beta: tversky(p, y, beta, alpha),
            "α and β have changed places: α is the price of a false positive, β of a false negative.",
        ),
        "index": (_index, "That is the index, which is 1 for a perfect answer. The loss is 1 minus it."),
        "dice": (
            lambda p, y, alpha, beta: tversky(p, y, 0.5, 0.5),
            "That is Dice, whatever α and β are. Multiply FP by α and FN by β.",
        ),
        "thresholded": (
            lambda p, y, alpha, beta: tversky((p > 0.5).float(), y, alpha, beta),
            "You count yes and no. Rounded probabilities have no gradient: sum them as they are.",
        ),
        "fn_forgets_y": (
            _fn_forgets_y,
            "Your false negatives count every pixel's 1 − p. Only pixels of the object can be missed: multiply by y.",
        ),
        "fp_forgets_y": (
            _fp_forgets_y,
            "Your false positives count every pixel's p. Only pixels off the object are false alarms: "
            "multiply by 1 − y.",
        ),
        "doubled": (
            _doubled,
            "TP stands there twice, as in Dice's formula. In Tversky's TP has no factor; with α = β = ½ it is Dice.",
        ),
        "rounded_up": (
            lambda p, y, alpha, beta: tversky((p >= 0.5).float(), y, alpha, beta),
            "You count yes and no, with yes from one half on. Sum the probabilities as they are.",
        ),
        "beta_is_the_rest": (
            lambda p, y, alpha, beta: tversky(p, y, alpha, 1 - alpha),
            "You take 1 − α for β. The two are arguments of their own; they need not add up to 1.",
        ),
        "alpha_twice": (
            lambda p, y, alpha, beta: tversky(p, y, alpha, alpha),
            "You multiply both errors by α. The misses cost β.",
        ),
        "smoothed": (
            _smoothed,
            "You add 1 above and below the line. The formula has no such term, and it moves every value.",
        ),
        "negative": (
            lambda p, y, alpha, beta: -_index(p, y, alpha, beta),
            "That is minus the index. A loss of 0 is wanted for a perfect answer: 1 − index.",
        ),
        "prices_of_the_whole": (
            lambda p, y, alpha, beta: 1 - (p * y).sum() / ((p * y).sum() + alpha * p.sum() + beta * y.sum()),
            "α multiplies the false positives, not all that is called, and β the misses, not the whole object.",
        ),
    },
    right={
        "a loop": _loop,
        "in place": _in_place,
        "NumPy": _with_numpy,
        "float64": lambda p, y, alpha, beta: tversky(p.double(), y.double(), alpha, beta),
        "by areas": lambda p, y, alpha, beta: (
            1 - (p @ y) / ((1 - alpha - beta) * (p @ y) + alpha * p.sum() + beta * y.sum())
        ),
    },
    hint="TP = Σ p·y, FP = Σ p·(1 − y), FN = Σ (1 − p)·y; the loss is 1 − TP / (TP + α·FP + β·FN).",
    sketch="tp, fp, fn = (... * ...).sum() each, with p or 1 − p and y or 1 − y; return 1 - tp / (...)",
)


# The Lovász hinge -----------------------------------------------------------------------------------------------------


def lovasz_hinge(z: Tensor, y: Tensor) -> Tensor:
    """The Lovász extension of 1 − IoU at the hinge errors max(0, 1 − z·(2y − 1)); ``z`` and ``y`` are ``(n,)``."""
    return _extension((1 - z * (2 * y - 1)).relu(), y)


def _extension(errors: Tensor, y: Tensor, *, descending: bool = True, permute: bool = True) -> Tensor:
    m, order = errors.sort(descending=descending)
    y = (y[order] if permute else y).to(errors.dtype)
    jaccard = 1 - (y.sum() - y.cumsum(0)) / (y.sum() + (1 - y).cumsum(0))
    return (m * jaccard.diff(prepend=jaccard.new_zeros(1))).sum()


def _accumulated(z: Tensor, y: Tensor) -> Tensor:
    m, order = (1 - z * (2 * y - 1)).relu().sort(descending=True)
    y = y[order]
    return (m * (1 - (y.sum() - y.cumsum(0)) / (y.sum() + (1 - y).cumsum(0)))).sum()


def _hinge_loop(z: Tensor, y: Tensor) -> float:
    errors = [max(0.0, 1 - s * (1 if true else -1)) for s, true in zip(z.tolist(), y.tolist(), strict=True)]
    objects, missed, alarms, before, loss = y.sum().item(), 0, 0, 0.0, 0.0
    for i in sorted(range(len(errors)), key=lambda i: -errors[i]):
        if y[i]:
            missed += 1
        else:
            alarms += 1
        after = 1 - (objects - missed) / (objects + alarms)
        loss, before = loss + errors[i] * (after - before), after
    return loss


def _hinge_numpy(z: Tensor, y: Tensor) -> Any:
    sign = 2 * y.numpy().astype(np.float64) - 1
    errors = np.maximum(0, 1 - z.numpy() * sign)
    order = np.argsort(-errors)
    true = sign[order] > 0
    delta = 1 - (true.sum() - true.cumsum()) / (true.sum() + (~true).cumsum())
    return np.sum(errors[order] * np.diff(delta, prepend=0))


def _hinge_in_place(z: Tensor, y: Tensor) -> Tensor:
    z *= -2 * y + 1
    z += 1
    z[z < 0] = 0
    order = z.argsort(descending=True)
    y[:] = y[order]
    kept, grown = y.flip(0).cumsum(0).flip(0) - y, y.sum() + (1 - y).cumsum(0)
    delta = 1 - kept / grown
    delta[1:] -= delta[:-1].clone()
    return z[order] @ delta


def _other_steps(jaccard: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The hinge with other values of the loss after 1, 2, … mistakes, from the sorted labels."""

    def hinge(z: Tensor, y: Tensor) -> Tensor:
        m, order = (1 - z * (2 * y - 1)).relu().sort(descending=True)
        delta = jaccard(y[order])
        return (m * delta.diff(prepend=delta.new_zeros(1))).sum()

    return hinge


def _without_first(z: Tensor, y: Tensor) -> Tensor:
    m, order = (1 - z * (2 * y - 1)).relu().sort(descending=True)
    y = y[order]
    return (m[1:] * (1 - (y.sum() - y.cumsum(0)) / (y.sum() + (1 - y).cumsum(0))).diff()).sum()


def _margins() -> Mapping[str, tuple[Tensor, Tensor]]:
    y = torch.tensor([1.0, 1, 0, 0, 0, 0])
    draw = torch.Generator().manual_seed(0)
    return {
        "six pixels": (torch.tensor([1.5, -0.5, 0.25, -0.75, -2.0, -1.25]), y),
        "six pixels, all right by a margin": (torch.tensor([3.0, 2.0, -2.0, -3.0, -4.0, -1.5]), y),
        "twenty random pixels": (torch.randn(20, generator=draw), (torch.rand(20, generator=draw) < 0.4).float()),
        "an object everywhere": (torch.tensor([0.5, -1.5, 3.0]), torch.ones(3)),
        "equal errors": (torch.tensor([0.5, -0.5, 0.5, -0.5, -0.5]), torch.tensor([1.0, 0, 1, 0, 1])),
        "one pixel, wrong": (torch.tensor([-2.0]), torch.ones(1)),
    }


LOVASZ_HINGE = Exercise(
    solution=lovasz_hinge,
    probes=_margins,
    wrong={
        "no_relu": (
            lambda z, y: _extension(1 - z * (2 * y - 1), y),
            "Pixels beyond the margin have a negative error in yours, and pay the others' debts. Errors end at 0: "
            "max(0, …).",
        ),
        "no_sign": (
            lambda z, y: _extension((1 - z).relu(), y),
            "Your error is 1 − z for every pixel. Off the object a large z is wrong: use the sign 2y − 1.",
        ),
        "label_for_sign": (
            lambda z, y: _extension((1 - z * y).relu(), y),
            "Your sign is y, which is 0 off the object: those pixels then all have the error 1. The sign is 2y − 1.",
        ),
        "probabilities": (
            lambda z, y: _extension((y - z.sigmoid()).abs(), y),
            "Those are the errors of Lovász-softmax, from probabilities. The hinge works on the logits themselves.",
        ),
        "ascending": (
            lambda z, y: _extension((1 - z * (2 * y - 1)).relu(), y, descending=False),
            "You let the smallest errors turn wrong first. Sort from large to small.",
        ),
        "labels_not_sorted": (
            lambda z, y: _extension((1 - z * (2 * y - 1)).relu(), y, permute=False),
            "You sorted the errors and left the labels behind: sort returns the order; index y with it.",
        ),
        "no_difference": (
            _accumulated,
            "You multiply by Δ itself. The weight of a pixel is what it *adds* to Δ: take differences.",
        ),
        "mean_of_hinges": (
            lambda z, y: (1 - z * (2 * y - 1)).relu().mean(),
            "That is the mean hinge loss, in which all pixels weigh alike. Weigh them by their steps in 1 − IoU.",
        ),
        "without_the_first": (
            _without_first,
            "The first step is missing: the first mistake takes 1 − IoU from 0 to its first value.",
        ),
        "dice_steps": (
            _other_steps(lambda y: 1 - 2 * (y.sum() - y.cumsum(0)) / (2 * y.sum() - y.cumsum(0) + (1 - y).cumsum(0))),
            "Your steps are those of 1 − Dice. The exercise asks for 1 − IoU: intersection over union.",
        ),
        "union_stays": (
            _other_steps(lambda y: 1 - (y.sum() - y.cumsum(0)) / y.sum()),
            "Your union stays the object's size. A mistake outside the object joins it.",
        ),
        "union_of_all": (
            _other_steps(lambda y: 1 - (y.sum() - y.cumsum(0)) / (y.sum() + torch.ones_like(y).cumsum(0))),
            "Your union grows with every mistake. A mistake on the object is in the union already.",
        ),
        "margin_0": (
            lambda z, y: _extension((-z * (2 * y - 1)).relu(), y),
            "Your error is 0 as soon as a pixel is right. It is to be right by a margin: max(0, 1 − …).",
        ),
        "cut_at_1": (
            lambda z, y: _extension((1 - z * (2 * y - 1)).clamp(0, 1), y),
            "You cut the errors at 1. A hinge grows on: the extension takes any errors from 0 up.",
        ),
        "squared": (
            lambda z, y: _extension((1 - z * (2 * y - 1)).relu() ** 2, y),
            "You square the errors. The hinge is max(0, 1 − z·(2y − 1)) itself.",
        ),
        "both_classes": (
            lambda z, y: (lovasz_hinge(z, y) + _extension((1 - z * (2 * y - 1)).relu(), 1 - y).nan_to_num()) / 2,
            "You take the mean over object and background. Only the object's 1 − IoU is wanted.",
        ),
        "divided": (
            lambda z, y: lovasz_hinge(z, y) / len(y),
            "You divide by the number of pixels. The steps add up to 1 already.",
        ),
    },
    right={
        "a loop": _hinge_loop,
        "NumPy": _hinge_numpy,
        "in place": _hinge_in_place,
        "float64": lambda z, y: lovasz_hinge(z.double(), y.double()),
    },
    hint="The errors are max(0, 1 − z·(2y − 1)); sort them, sort y along, and sum error × step of 1 − IoU.",
    sketch="m, order = (the errors).sort(descending=True); y = y[order]; intersection = y.sum() - ...; "
    "union = y.sum() + ...; delta = 1 - intersection / union; return (m * (differences of delta, from 0 on)).sum()",
)


# The best threshold ---------------------------------------------------------------------------------------------------


def first_called(q: Tensor) -> Tensor:
    """The smallest of the probabilities ``q (n,)`` that is called when 2·Σ_called q / (n_called + Σ q) is largest."""
    ranked = q.sort(descending=True).values
    return ranked[_dice_of_the_first(ranked).argmax()]


def _dice_of_the_first(ranked: Tensor) -> Tensor:
    return 2 * ranked.cumsum(0) / (torch.arange(1, len(ranked) + 1) + ranked.sum())


def _half_the_dice(q: Tensor) -> Tensor:
    return _dice_of_the_first(q.sort(descending=True).values).max() / 2


def _best_dice(q: Tensor) -> Tensor:
    return _dice_of_the_first(q.sort(descending=True).values).max()


def _how_many(q: Tensor) -> Tensor:
    return _dice_of_the_first(q.sort(descending=True).values).argmax() + 1


def _without_total(q: Tensor) -> Tensor:
    ranked = q.sort(descending=True).values
    return ranked[(ranked.cumsum(0) / torch.arange(1, len(q) + 1)).argmax()]


def _one_more(q: Tensor) -> Tensor:
    ranked = q.sort(descending=True).values
    return ranked[min(int(_dice_of_the_first(ranked).argmax()) + 1, len(q) - 1)]


def _last_of_equals(q: Tensor) -> Tensor:
    ranked = q.sort(descending=True).values
    dice = _dice_of_the_first(ranked)
    return ranked[(dice >= dice.max()).nonzero().max()]


def _one_less(q: Tensor) -> Tensor:
    ranked = q.sort(descending=True).values
    return ranked[max(int(_dice_of_the_first(ranked).argmax()) - 1, 0)]


def _ranked_by(dice: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The cut for another score of the first k = 1, 2, … of the ranked pixels."""

    def cut(q: Tensor) -> Tensor:
        ranked = q.sort(descending=True).values
        return ranked[dice(ranked, torch.arange(1, len(q) + 1)).argmax()]

    return cut


def _cut_loop(q: Tensor) -> float:
    values, best, answer = sorted(q.tolist(), reverse=True), -1.0, 0.0
    for k in range(1, len(values) + 1):
        dice = 2 * sum(values[:k]) / (k + sum(values))
        if dice > best + 1e-9:
            best, answer = dice, values[k - 1]
    return answer


def _cut_in_place(q: Tensor) -> Tensor:
    q[:] = q.sort(descending=True).values
    return q[(2 * q.cumsum(0) / (q.sum() + torch.arange(len(q)) + 1)).argmax()]


def _cut_numpy(q: Tensor) -> Any:
    ranked = np.sort(q.numpy())[::-1]
    dice = 2 * np.cumsum(ranked) / (np.arange(1, len(ranked) + 1) + ranked.sum())
    return ranked[np.argmax(dice)]


def _midpoint(q: Tensor) -> Tensor:
    ranked = q.sort(descending=True).values
    last = int(_dice_of_the_first(ranked).argmax())
    return (ranked[last] + ranked[min(last + 1, len(q) - 1)]) / 2


def _populations() -> Mapping[str, tuple[Tensor]]:
    return {
        "the five pixels 0.9, 0.6, 0.35, 0.2, 0.05": (torch.tensor([0.35, 0.9, 0.05, 0.6, 0.2]),),
        "the four pixels 0.3, 0.2, 0.1, 0.02": (torch.tensor([0.1, 0.3, 0.02, 0.2]),),
        "hundred pixels": (torch.linspace(0.01, 0.99, 100).square(),),
        "the pixels 0.5, 0.25, 0.25, for which 1, 2 and 3 called pixels have the same Dice": (
            torch.tensor([0.25, 0.5, 0.25]),
        ),
        "one pixel of 0.3": (torch.tensor([0.3]),),
        "three pixels of 0.9 and one of 0.8": (torch.tensor([0.9, 0.8, 0.9, 0.9]),),
        "three certain pixels and one that cannot be": (torch.tensor([1.0, 0.0, 1.0, 1.0]),),
    }


THRESHOLD = Exercise(
    solution=first_called,
    probes=_populations,
    wrong={
        "half": (
            lambda q: q[q > 0.5].min() if (q > 0.5).any() else torch.tensor(0.5),
            "You cut at 0.5, which is best for accuracy. For Dice the cut depends on all the other pixels.",
        ),
        "half_the_dice": (
            _half_the_dice,
            "That is half of the best Dice, the threshold that the called pixels reach. Return the smallest q among "
            "them.",
        ),
        "best_dice": (_best_dice, "That is the best Dice itself. Return the smallest probability that is called."),
        "how_many": (_how_many, "That is how many pixels are called. Return the probability of the last of them."),
        "precision": (
            _without_total,
            "You call the likeliest pixel alone. Either you sorted from small to large, or you divide by the called "
            "pixels only, which is precision: the object's expected size, Σ q, belongs in the denominator.",
        ),
        "all": (lambda q: q.min(), "You call every pixel: recall 1, and many false alarms that Dice does not forgive."),
        "one_more": (_one_more, "One pixel too many: argmax counts from 0, so entry i is the pixel to stop at."),
        "one_less": (_one_less, "One pixel too few: the pixel at argmax is called too."),
        "last_of_equals": (
            _last_of_equals,
            "Where several k have the same Dice you take the largest k. The text asks for the smallest.",
        ),
        "unsorted": (
            lambda q: q[_dice_of_the_first(q).argmax()],
            "You take the pixels in the order in which they come. Sort them first, the likeliest ahead.",
        ),
        "first_k_from_0": (
            _ranked_by(lambda q, k: 2 * q.cumsum(0) / (k - 1 + q.sum())),
            "Your k counts from 0: with the first pixel called one pixel is called.",
        ),
        "no_count": (
            _ranked_by(lambda q, k: 2 * q.cumsum(0) / (len(q) + q.sum())),
            "Your denominator holds all pixels whatever k is, so more is always better. The area of the answer is k.",
        ),
        "midpoint": (
            _midpoint,
            "That lies between the last pixel that is called and the first that is not. Return the former's q.",
        ),
    },
    right={
        "a loop": _cut_loop,
        "in place": _cut_in_place,
        "NumPy": _cut_numpy,
        "by IoU": _ranked_by(lambda q, k: q.double().cumsum(0) / (k + q.double().sum() - q.double().cumsum(0))),
        "float64": lambda q: first_called(q.double()),
    },
    hint="Rank the pixels; for the first k of them the expected Dice is 2·Σ_called q / (k + Σ q).",
    sketch="ranked = q sorted from large to small; expected = 2 * (cumulative sums) / (k + ...) for k = 1, 2, …; "
    "return ranked[...]",
)


# How soft is an answer? -----------------------------------------------------------------------------------------------


def softness(probs: Tensor, sure: float) -> Tensor:
    """Share of the pixels of ``(K, H, W)`` probabilities whose likeliest class has less than ``sure``."""
    return (probs.amax(0) < sure).double().mean()


def _maps() -> Mapping[str, tuple[Tensor, float]]:
    draw = torch.Generator().manual_seed(0)
    probs = (4 * torch.randn(5, 7, 9, generator=draw)).softmax(0)
    halves = torch.tensor([[[0.5, 0.75, 0.25]], [[0.5, 0.25, 0.75]]])  # (2, 1, 3), exact in float32
    return {
        "five classes, sure from 0.9": (probs, 0.9),
        "five classes, sure from 0.6": (probs, 0.6),
        "two classes with 0.5, 0.75 and 0.75, sure from 0.75": (halves, 0.75),
        "two classes with 0.5, 0.75 and 0.75, sure from 0.5": (halves, 0.5),
        "nobody is sure": (probs, 1.5),
        "all are sure": (probs, 0.0),
        "one pixel": (probs[:, :1, :1], 0.9),
        "as many classes as rows and columns": (probs[:, :5, :5], 0.9),
    }


def _softness_in_place(probs: Tensor, sure: float) -> float:
    probs -= sure
    largest = probs.flatten(1).max(0).values
    return len(largest[largest < 0]) / len(largest)


def _softness_loop(probs: Tensor, sure: float) -> float:
    _, height, width = probs.shape
    doubtful = [max(probs[:, i, j].tolist()) < sure for i in range(height) for j in range(width)]
    return sum(doubtful) / len(doubtful)


SOFTNESS = Exercise(
    solution=softness,
    probes=_maps,
    wrong={
        "sure_share": (
            lambda probs, sure: (probs.amax(0) >= sure).double().mean(),
            "That is the share of pixels that are sure. Return the others.",
        ),
        "all_entries": (
            lambda probs, sure: (probs < sure).double().mean(),
            "You count every probability of every class. Take the likeliest class of each pixel first.",
        ),
        "first_class": (
            lambda probs, sure: (probs[0] < sure).double().mean(),
            "You look at class 0 alone. A pixel is sure when *any* class has the probability: take the largest.",
        ),
        "least_likely": (
            lambda probs, sure: (probs.amin(0) < sure).double().mean(),
            "You take the least likely class of each pixel; that one is nearly always small. Take the largest.",
        ),
        "count": (
            lambda probs, sure: (probs.amax(0) < sure).double().sum(),
            "That is a number of pixels. Divide by all of them.",
        ),
        "wrong_axis": (
            lambda probs, sure: (probs.amax(-1) < sure).double().mean(),
            "You take the maximum over the columns. The classes lie along the first axis.",
        ),
        "mean_doubt": (
            lambda probs, sure: (1 - probs.amax(0)).double().mean(),
            "That is the mean doubt, which does not use `sure`. Count the pixels below it.",
        ),
        "not_above": (
            lambda probs, sure: (probs.amax(0) <= sure).double().mean(),
            "You count pixels whose probability equals `sure` as well. Only those *below* it are in doubt.",
        ),
        "percent": (
            lambda probs, sure: 100 * (probs.amax(0) < sure).double().mean(),
            "That is a percentage. A share lies between 0 and 1.",
        ),
        "wrong_row": (
            lambda probs, sure: (probs.amax(1) < sure).double().mean(),
            "You take the maximum over the rows. The classes lie along the first axis.",
        ),
        "class_number": (
            lambda probs, sure: (probs.argmax(0) < sure).double().mean(),
            "You compare the number of the likeliest class. Take its probability: amax, not argmax.",
        ),
        "rounded": (
            lambda probs, sure: (probs.amax(0) < sure).double().mean().round(decimals=1),
            "You round the share. Return it as it is.",
        ),
    },
    right={
        "in place": _softness_in_place,
        "a loop": _softness_loop,
        "NumPy": lambda probs, sure: np.mean(probs.numpy().max(axis=0) < sure),
        "all classes below": lambda probs, sure: (probs < sure).all(0).float().mean(),
        "one minus": lambda probs, sure: 1 - (probs.max(0).values >= sure).sum().item() / probs[0].numel(),
    },
    hint="Take the largest probability of each pixel, over the classes, and count where it is below `sure`.",
    sketch="likeliest = probs.amax(...)  # (H, W); return (likeliest ... sure), as a mean over the pixels",
)


EXERCISES = {
    **ch06_losses.EXERCISES,
    "ch06.constant": CONSTANT,
    "ch06.tversky": TVERSKY,
    "ch06.lovasz_hinge": LOVASZ_HINGE,
    "ch06.threshold": THRESHOLD,
    "ch06.softness": SOFTNESS,
}
