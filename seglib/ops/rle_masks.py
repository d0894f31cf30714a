"""Masks that stay run-length codes until they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from seglib.ops.rle import RLE, decode_rle


@dataclass(frozen=True, eq=False)
class RLEMasks:
    """Masks of N objects as run-length codes: :class:`~seglib.types.PackedMasks`.

    A thousand masks of a photo of 12 megapixels take about 10 MB, where the masks themselves would take 12 GB.

    Attributes:
        rles: N run-length codes of one size with text counts, as :func:`~seglib.ops.rle.encode_rle` gives them.
        size: size ``(H, W)`` of the masks.
        device: device on which :meth:`dense` puts the masks.
    """

    rles: tuple[RLE, ...]
    size: tuple[int, int]
    device: torch.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.rles)

    def __getitem__(self, index: Tensor | slice) -> RLEMasks:
        """The masks picked by a slice, a bool mask ``(N,)`` or int indices, still as codes."""
        picked = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index]
        return RLEMasks(tuple(self.rles[i] for i in picked.tolist()), self.size, self.device)

    def dense(self) -> Tensor:
        """The masks, bool ``(N, H, W)``."""
        return decode_rle(self.rles, self.size).to(self.device)

    def _map(self, change: Callable[[Tensor], Tensor]) -> RLEMasks:
        """The same codes; the masks will lie where ``change`` takes a tensor."""
        return RLEMasks(self.rles, self.size, change(torch.empty(0, device=self.device)).device)
