"""Counts that add up: over batches, over parts of a dataset, over processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from seglib.types import VOID, Category, check_categories

if TYPE_CHECKING:
    from typing_extensions import Self


class StreamingCounts:
    """A table of counts whose sum over disjoint parts is the table of the whole.

    Scores over a dataset are ratios of such sums. A mean of per-batch scores is a different number, which depends on
    how the images were batched.

    Args:
        classes: the number of classes K, or the class table.
        ignore_index: the id of void in targets; ``None`` when every pixel counts.
        rows: number of rows of the table of counts.
        columns: number of its columns; ``None`` means one per class.
        dtype: int64, or float64 where sums of ratios are kept as well.

    Attributes:
        counts: the table, ``(rows, columns)`` on the CPU.
        num_classes: number of classes K.
        ignore_index: the id of void in targets.

    Raises:
        ValueError: when there is no class, or the class table is invalid.
    """

    def __init__(
        self,
        classes: int | Sequence[Category],
        ignore_index: int | None = VOID,
        *,
        rows: int,
        columns: int | None = None,
        dtype: torch.dtype = torch.int64,
    ) -> None:
        self.num_classes = classes if isinstance(classes, int) else len(check_categories(classes))
        if self.num_classes < 1:
            raise ValueError(f"a metric needs at least one class, got {self.num_classes}; pass num_classes >= 1")
        self.ignore_index = ignore_index
        self.counts = torch.zeros(rows, columns or self.num_classes, dtype=dtype)
        self._summed = False

    def merge(self, other: Self) -> Self:
        """Add the counts of ``other``, which stays as it is. Returns ``self``.

        Raises:
            ValueError: when the two count different things.
        """
        if other.settings != self.settings:
            raise ValueError(f"cannot merge {other.settings} into {self.settings}; build both with the same arguments")
        self._add(other.counts)
        return self

    def synchronize(self) -> Self:
        """Replace the counts by their sum over all processes of ``torch.distributed``. Returns ``self``.

        Call it once, on every process, when all have seen their share. In a single process the counts stay as they
        are. Afterwards every process holds the total, so adding more would count it once per process: ``update``,
        ``merge`` and a second ``synchronize`` raise until ``reset``.

        Raises:
            ValueError: when the counts already are the sum.
        """
        self._check_open()
        self._summed = True
        if dist.is_available() and dist.is_initialized():
            device = "cuda" if dist.get_backend() == "nccl" else "cpu"  # NCCL sums on GPUs only
            total = self.counts.to(device)
            dist.all_reduce(total)
            self.counts = total.cpu()
        return self

    def reset(self) -> None:
        """Forget everything seen."""
        self.counts = torch.zeros_like(self.counts)
        self._summed = False

    @property
    def settings(self) -> dict[str, object]:
        """What must agree for two tables to count the same thing."""
        return {"metric": type(self).__name__, "num_classes": self.num_classes, "ignore_index": self.ignore_index}

    def _add(self, counts: Tensor) -> None:
        self._check_open()
        self.counts += counts.cpu()

    def _check_open(self) -> None:
        if self._summed:
            raise ValueError("these counts already are the sum over all processes; call reset() before adding more")
