"""The moving figure about the conventions of a mean score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seglib.book.figures.element import Figure
from seglib.metrics.confusion import SemanticScores, confusion
from seglib.types import VOID

CONVENTIONS: dict[str, tuple[str, ...]] = {
    "score": ("iou", "dice"),
    "void": ("ignored", "error"),
    "mean": ("dataset", "images", "classes"),
    "absent": ("skip", "zero", "one"),
    "predicted": ("zero", "skip"),
}
"""The questions that a mean score leaves open, and their answers; the first answer is seglib's."""

CONVENTION_NAMES = ("sky", "road", "person", "bird")
"""The classes of :data:`CONVENTION_MAPS`."""

_COLORS = ("#8ecbf2", "#c3c8cd", "#ecb3d3", "#f4ca6b")

_TRUTHS = (("ssss", "spss", "rprr", "rrr."), ("ssss", "ssss", "rrrr", "rrrr"), ("sspp", "sspp", "rrpp", "rr.."))
_PREDICTIONS = (("ssss", "ssss", "rprr", "rrrs"), ("ssss", "sssr", "rrrr", "rrrr"), ("sspp", "bspp", "rrpp", "rrpr"))


def _read(maps: Sequence[Sequence[str]]) -> Tensor:
    """Maps as texts → ``(S, H, W)`` int64; a dot is void."""
    letters = {name[0]: k for k, name in enumerate(CONVENTION_NAMES)} | {".": VOID}
    return torch.tensor([[[letters[letter] for letter in row] for row in rows] for rows in maps])


CONVENTION_MAPS = _read(_PREDICTIONS), _read(_TRUTHS)
"""Predictions and truths of three images, ``(S, H, W)`` each; no person in the second, a bird only predicted."""


def convention_score(
    pred: Tensor,
    target: Tensor,
    num_classes: int,
    *,
    score: str = "iou",
    void: str = "ignored",
    mean: str = "dataset",
    absent: str = "skip",
    predicted: str = "zero",
) -> float:
    """Mean IoU or Dice of label maps under one convention; NaN where nothing is left to average.

    The defaults are the ``miou`` of :class:`~seglib.metrics.confusion.SemanticScores`.

    Args:
        pred: predicted class ids, (S, H, W).
        target: true class ids, (S, H, W), 255 is void.
        num_classes: number of classes K.
        score: ``"iou"`` or ``"dice"``.
        void: what is predicted where the target is void is ``"ignored"`` or an ``"error"``, a false positive.
        mean: ``"dataset"`` adds up all images, then averages classes; ``"images"`` averages the classes of every image,
            then images; ``"classes"`` averages the images of every class, then classes.
        absent: a class in neither map is left out (``"skip"``) or counts 0 (``"zero"``) or 1 (``"one"``).
        predicted: a class that the target lacks counts 0 (``"zero"``) or is left out (``"skip"``).

    Raises:
        ValueError: when a choice is not one of :data:`CONVENTIONS`.
    """
    chosen = {"score": score, "void": void, "mean": mean, "absent": absent, "predicted": predicted}
    for name, choice in chosen.items():
        if choice not in CONVENTIONS[name]:
            raise ValueError(f"{name} must be one of {', '.join(CONVENTIONS[name])}, got {choice!r}")
    if void == "error":  # void becomes a class of its own, which is never predicted and stays out of the mean
        target = target.masked_fill(target == VOID, num_classes)
    counts = torch.stack([confusion(p, t, num_classes + 1) for p, t in zip(pred, target, strict=True)])
    if mean == "dataset":
        counts = counts.sum(0, keepdim=True)  # (1, K + 1, K + 1)
    each = [SemanticScores.from_counts(n) for n in counts]
    values = torch.stack([s.iou if score == "iou" else s.dice for s in each])[:, :num_classes]
    in_truth = (counts.sum(2) > 0)[:, :num_classes]  # (S, K)
    gone = values.isnan()
    if predicted == "skip":
        values = values.where(in_truth, torch.nan)
    if absent != "skip":
        values = values.masked_fill(gone, float(absent == "one"))
    return float(values.nanmean(0 if mean == "classes" else 1).nanmean())


def conventions(**rules: Any) -> Figure:
    """Three small predictions and every convention of their mean score: toggles, and the sum that leads to it.

    Args:
        **rules: the choices at the start, as :func:`convention_score` takes them.

    Raises:
        ValueError: when a choice is not one of :data:`CONVENTIONS`.
    """
    pred, target = CONVENTION_MAPS
    start = {name: choices[0] for name, choices in CONVENTIONS.items()} | rules
    K = len(CONVENTION_NAMES)
    score = convention_score(pred, target, K, **start)
    shown = {
        "one matrix for the data set": {},
        "the mean of three images": {"mean": "images"},
        "the mean of three images, an absent class counts 0": {"mean": "images", "absent": "zero"},
        "the mean of three images, an absent class counts 1": {"mean": "images", "absent": "one"},
        "one matrix, a class only predicted left out": {"predicted": "skip"},
        "one matrix, void judged as errors": {"void": "error"},
    }
    rows = "".join(
        f"<tr><td>{name}</td><td>{convention_score(pred, target, K, **choice):.3f}</td></tr>"
        for name, choice in shown.items()
    )
    return Figure(
        "conventions",
        {
            "images": [
                {"truth": t.flatten().tolist(), "pred": p.flatten().tolist()} for p, t in zip(pred, target, strict=True)
            ],
            "names": list(CONVENTION_NAMES),
            "colors": list(_COLORS),
            "width": pred.shape[2],
            "void": VOID,
            "rules": start,
        },
        text=f"one prediction, many conventions; the chosen one gives {score:.3f}",
        fallback=(
            f"<table><tr><th>mIoU of the same three predictions</th><th></th></tr>{rows}</table><p>Conventions to "
            "choose, and a prediction to change (needs JavaScript): void, absent classes, classes that are only "
            "predicted, and what is averaged first.</p>"
        ),
    )
