r"""The confusion matrix of two label maps, and the scores of semantic segmentation that follow from it.

N[i, j] counts the pixels of class i (the truth) that were predicted as class j. With the sums of row c (the truth),
of column c (the prediction) and the diagonal entry TP = N[c, c],

.. math::

    \begin{aligned}
    \text{pixel accuracy} &= \textstyle\sum_c \text{TP}_c \,/ \sum N \\
    \text{accuracy of } c &= \text{TP} / \text{row} \quad \text{(recall)} \\
    \text{IoU of } c &= \text{TP} / (\text{row} + \text{column} - \text{TP}) \quad \text{(Jaccard)} \\
    \text{Dice of } c &= 2\, \text{TP} / (\text{row} + \text{column}) = 2\, \text{IoU} / (1 + \text{IoU}) \\
    \text{mean IoU} &= \text{mean of IoU}_c \text{ over the classes present} \\
    \text{fw IoU} &= \textstyle\sum_c \text{row}_c \, \text{IoU}_c \,/ \sum N
    \end{aligned}

"Present" are classes in the truth or the prediction. fw IoU weighs each class by its frequency in the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seglib.metrics.streaming import StreamingCounts
from seglib.ops.labels import check_labels, require_integers
from seglib.types import VOID, Category

BLOCK = 1 << 15
"""Pixels per step on a CPU. A block's temporary index stays in the cache, which that of a whole batch would not; and
torch runs ops of this size in the calling thread. Counting is so cheap that waking other threads does not pay, and
waiting for them costs many times the work when the cores are busy, as they are beside the workers of a data loader."""

STORAGE_ONLY = (torch.uint16, torch.uint32, torch.uint64)
"""Types that torch can hold but hardly compute with."""


def confusion(pred: Tensor, target: Tensor, num_classes: int, ignore_index: int | None = VOID) -> Tensor:
    """How many pixels of every class were predicted as every class.

    ``N[i, j] = |{x : target(x) = i, pred(x) = j}|``. Pixels whose target is ``ignore_index`` are left out, whatever was
    predicted there.

    Args:
        pred: predicted class ids, integers of any type and shape.
        target: true class ids, the same shape; the types may differ.
        num_classes: number of classes K; the class ids are 0..K−1.
        ignore_index: the id of void in ``target``; ``None`` when there is none. It may be one of 0..K−1: the row of
            that class is then zero.

    Returns:
        ``(K, K)`` int64 on the device of the maps, rows are the truth and columns the prediction. Zero for empty maps.

    Raises:
        ValueError: when shapes differ, labels aren't integers, or a label is neither a class nor void.
    """
    if pred.shape != target.shape:
        raise ValueError(
            f"the prediction has shape {tuple(pred.shape)} and the target {tuple(target.shape)}; "
            "resize the logits to the target's size before the argmax"
        )
    require_integers(pred, "predicted label")
    require_integers(target, "target label")
    if pred.numel() == 0:
        return torch.zeros(num_classes, num_classes, dtype=torch.int64, device=target.device)

    pred, target = (m.long() if m.dtype in STORAGE_ONLY else m for m in (pred, target))
    limits = torch.cat([_limits(pred), _limits(target)])  # (4,)
    p_low, p_high, t_low, t_high = limits.tolist()  # the one wait for a GPU before counting
    if p_low < 0 or p_high >= num_classes:  # fine where the target is void, an error elsewhere
        if ignore_index is not None:
            pred = pred.long().masked_fill(target.long() == ignore_index, 0)
        check_labels(pred, num_classes, name="predicted label")
    void_row = ignore_index
    if t_low < 0 or t_high > max(num_classes, 255):  # a void far from the classes would need a huge table
        check_labels(target, num_classes, ignore_index, name="target label")
        target = target.long()
        target = target.masked_fill((target < 0) | (target >= num_classes), num_classes)  # the check let only void pass
        void_row = t_high = num_classes

    # One number per pixel, row · K + column, and one count of how often each occurs. The table has a row for every
    # label up to the largest one in the target, so that a bad label shows as a count in a row that is no class.
    rows = max(num_classes, t_high + 1)  # R
    table = torch.zeros(rows * num_classes, dtype=torch.int64, device=target.device)  # (R·K,)
    for p, t in zip(_blocks(pred), _blocks(target), strict=True):  # (n,)
        index = torch.add(p.int(), t.int(), alpha=num_classes)  # (n,) int32: half the bytes of int64 to read again
        table += torch.bincount(index, minlength=rows * num_classes)
    table = table.view(rows, num_classes)
    if void_row is not None and 0 <= void_row < rows:
        table[void_row] = 0
    if rows > num_classes and table[num_classes:].any():
        check_labels(target, num_classes, ignore_index, name="target label")
    return table[:num_classes].clone()  # (K, K)


def _blocks(labels: Tensor) -> tuple[Tensor, ...]:
    """The labels in pieces ``(n,)`` that suit the device; a GPU takes them all at once."""
    return labels.flatten().split(BLOCK if labels.device.type == "cpu" else labels.numel())


def _limits(labels: Tensor) -> Tensor:
    """The smallest and the largest label: ``(2,)`` int64."""
    lows, highs = zip(*(torch.aminmax(block) for block in _blocks(labels)), strict=True)
    return torch.stack([torch.stack(lows).amin(), torch.stack(highs).amax()]).long()


@dataclass(frozen=True)
class SemanticScores:
    """The scores of a confusion matrix, all in [0, 1], computed in float64.

    A class is *present* when it occurs in the target or in the prediction (its union isn't empty). The means of IoU
    and Dice run over present classes: a class that neither map has says nothing and is NaN; a class that was
    predicted but never occurs has IoU 0 and counts. The mean accuracy runs over the classes of the target, for
    recall needs a true pixel. A class whose id is the ignored one isn't scored, and is never present. With no pixel
    at all every score is NaN.

    This is the convention of torchmetrics' ``JaccardIndex`` with ``average="macro"``. Averaging over all K classes
    with 0 or 1 for absent ones gives other numbers.

    Attributes:
        pixel_accuracy: the share of pixels with the right class.
        mean_accuracy: the mean of ``accuracy`` over the classes of the target.
        accuracy: ``(K,)`` recall per class, NaN where the target lacks it.
        iou: ``(K,)`` intersection over union, NaN where absent.
        miou: the mean of ``iou`` over present classes.
        fwiou: ``iou`` weighted by the frequency of the classes in the target.
        dice: ``(K,)`` 2·TP / (row + column), NaN where absent.
        mean_dice: the mean of ``dice`` over present classes.
        present: ``(K,)`` bool, whether a class is in the target or the prediction.
    """

    pixel_accuracy: float
    mean_accuracy: float
    accuracy: Tensor
    iou: Tensor
    miou: float
    fwiou: float
    dice: Tensor
    mean_dice: float
    present: Tensor

    @classmethod
    def from_counts(cls, counts: Tensor, ignore_index: int | None = VOID) -> SemanticScores:
        """The scores of a confusion matrix ``(K, K)``, rows the truth and columns the prediction.

        Raises:
            ValueError: when the matrix isn't square.
        """
        if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
            raise ValueError(f"a confusion matrix is (K, K), got {tuple(counts.shape)}; count one with confusion()")
        n = counts.cpu().double()  # (K, K)
        scored = torch.arange(len(n)) != (-1 if ignore_index is None else ignore_index)  # (K,)
        n = n * scored[:, None]  # the row of an ignored class holds void pixels
        row, column, hit = n.sum(1), n.sum(0), n.diag()  # (K,) each
        present = scored & (row + column > 0)
        iou = torch.where(present, hit / (row + column - hit), torch.nan)  # (K,)
        dice = torch.where(present, 2 * hit / (row + column), torch.nan)
        accuracy = hit / row  # 0 / 0 is NaN
        seen = row > 0  # classes without a true pixel have weight 0 in fwIoU, NaN or not
        return cls(
            pixel_accuracy=float(hit.sum() / n.sum()),
            mean_accuracy=float(accuracy.nanmean()),
            accuracy=accuracy,
            iou=iou,
            miou=float(iou.nanmean()),
            fwiou=float((row[seen] * iou[seen]).sum() / n.sum()),
            dice=dice,
            mean_dice=float(dice.nanmean()),
            present=present,
        )

    def table(self, categories: Sequence[Category] | Sequence[str]) -> str:
        """The scores as text: a line per class with IoU, Dice and accuracy in percent, and the means.

        Raises:
            ValueError: when there isn't one name per class.
        """
        names = [c.name if isinstance(c, Category) else c for c in categories]
        if len(names) != len(self.iou):
            raise ValueError(f"{len(self.iou)} classes need as many names, got {len(names)}; pass the class table")
        wide = max(map(len, [*names, "mean"]))
        lines = [f"{'class':{wide}}     IoU    Dice  accuracy"]
        for name, present, *values in zip(
            [*names, "mean"],
            [*self.present.tolist(), True],
            [*self.iou.tolist(), self.miou],
            [*self.dice.tolist(), self.mean_dice],
            [*self.accuracy.tolist(), self.mean_accuracy],
            strict=True,
        ):
            iou, dice, accuracy = ("–" if v != v else f"{100 * v:.1f}" for v in values)
            lines.append(f"{name:{wide}}  {iou:>6}  {dice:>6}  {accuracy:>8}" if present else f"{name:{wide}}  absent")
        lines.append(f"pixel accuracy {100 * self.pixel_accuracy:.1f}, frequency-weighted IoU {100 * self.fwiou:.1f}")
        return "\n".join(lines)


class ConfusionMatrix(StreamingCounts):
    """The confusion matrix of a dataset, added up batch by batch.

    Args:
        classes: the number of classes K, or the class table.
        ignore_index: the id of void in targets; ``None`` when every pixel counts.

    Attributes:
        counts: ``(K, K)`` int64 on the CPU, rows are the truth and columns the prediction.

    Example:
        >>> matrix = ConfusionMatrix(2)
        >>> matrix.update(torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 0], [1, 255]]))
        >>> matrix.compute().miou
        0.5
    """

    def __init__(self, classes: int | Sequence[Category], ignore_index: int | None = VOID) -> None:
        super().__init__(classes, ignore_index, rows=classes if isinstance(classes, int) else len(classes))

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Count the pixels of one image or batch.

        Args:
            pred: ``(H, W)`` or ``(B, H, W)`` predicted class ids, integers of any type.
            target: true class ids, the same shape.

        Raises:
            ValueError: as :func:`confusion`.
        """
        self._add(confusion(pred, target, self.num_classes, self.ignore_index))

    def compute(self) -> SemanticScores:
        """The scores of everything counted so far."""
        return SemanticScores.from_counts(self.counts, self.ignore_index)
