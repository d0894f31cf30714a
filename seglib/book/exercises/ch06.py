"""The exercises of chapter 6, "Losses"."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from seglib.book.exercise import Exercise

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
    },
    hint="For each loss write it as a function of the one number p and look for its minimum.",
    tolerance=2e-3,
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


def _six_pixels() -> Mapping[str, tuple[Tensor, Tensor, float, float]]:
    y = torch.tensor([1.0, 1, 0, 0, 0, 0])
    p = torch.tensor([0.75, 0.25, 0.5, 0.2, 0.1, 0.2])
    return {
        "the six pixels with α = 0.3, β = 0.7": (p, y, 0.3, 0.7),
        "the six pixels with α = β = 0.5": (p, y, 0.5, 0.5),
        "the six pixels with α = β = 1": (p, y, 1.0, 1.0),
        "other labels with α = 0.8, β = 0.1": (p, torch.tensor([0.0, 1, 1, 0, 1, 0]), 0.8, 0.1),
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
    },
    hint="TP = Σ p·y, FP = Σ p·(1 − y), FN = Σ (1 − p)·y; the loss is 1 − TP / (TP + α·FP + β·FN).",
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


def _margins() -> Mapping[str, tuple[Tensor, Tensor]]:
    y = torch.tensor([1.0, 1, 0, 0, 0, 0])
    draw = torch.Generator().manual_seed(0)
    return {
        "six pixels": (torch.tensor([1.5, -0.5, 0.25, -0.75, -2.0, -1.25]), y),
        "six pixels, all right by a margin": (torch.tensor([3.0, 2.0, -2.0, -3.0, -4.0, -1.5]), y),
        "twenty random pixels": (torch.randn(20, generator=draw), (torch.rand(20, generator=draw) < 0.4).float()),
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
    },
    hint="The errors are max(0, 1 − z·(2y − 1)); sort them, sort y along, and sum error × step of 1 − IoU.",
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


def _populations() -> Mapping[str, tuple[Tensor]]:
    return {
        "the five pixels 0.9, 0.6, 0.35, 0.2, 0.05": (torch.tensor([0.35, 0.9, 0.05, 0.6, 0.2]),),
        "the four pixels 0.3, 0.2, 0.1, 0.02": (torch.tensor([0.1, 0.3, 0.02, 0.2]),),
        "hundred pixels": (torch.linspace(0.01, 0.99, 100).square(),),
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
            "That is half of the best Dice, the bar that the called pixels are above. Return the smallest q among "
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
    },
    hint="Rank the pixels; for the first k of them the expected Dice is 2·Σ_called q / (k + Σ q).",
)


# How soft is an answer? -----------------------------------------------------------------------------------------------


def softness(probs: Tensor, sure: float) -> Tensor:
    """Share of the pixels of ``(K, H, W)`` probabilities whose likeliest class has less than ``sure``."""
    return (probs.amax(0) < sure).double().mean()


def _maps() -> Mapping[str, tuple[Tensor, float]]:
    draw = torch.Generator().manual_seed(0)
    probs = (4 * torch.randn(5, 7, 9, generator=draw)).softmax(0)
    return {"five classes, sure from 0.9": (probs, 0.9), "five classes, sure from 0.6": (probs, 0.6)}


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
    },
    hint="Take the largest probability of each pixel, over the classes, and count where it is below `sure`.",
)


EXERCISES = {
    "ch06.constant": CONSTANT,
    "ch06.tversky": TVERSKY,
    "ch06.lovasz_hinge": LOVASZ_HINGE,
    "ch06.threshold": THRESHOLD,
    "ch06.softness": SOFTNESS,
}
