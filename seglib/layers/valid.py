"""What U-Nets of valid convolutions need: how much an answer shrinks, the reflection that makes up for it, the crop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def valid_sizes(depth: int) -> tuple[int, int]:
    """How the sizes of answer and input belong together in a U-Net of valid convolutions.

    Every level has two convolutions of three pixels on each path: they cost 4 pixels, and below a pooling twice that.

    Args:
        depth: number of poolings.

    Returns:
        How many pixels an answer is smaller than its input on each side, and the rest that its size leaves when it is
        divided by 2^depth.
    """
    lost, rest = 4, 0  # at the bottom: of an input of any size
    for _ in range(depth):
        lost, rest = 4 + 2 * lost + 4, 4 + 2 * rest
    return lost // 2, (rest - lost) % 2**depth


def reflect_pad(x: Tensor, rim: Sequence[int]) -> Tensor:
    """Append the reflection on each side, as often as needed; the outermost pixel is not repeated.

    ``torch.nn.functional.pad`` in its mode "reflect", but for rims of any width.

    Args:
        x: maps ``(B, C, H, W)`` or ``(B, C, D, H, W)`` of at least one pixel.
        rim: pixels at the left, right, top and bottom, of volumes also before and behind, in the order of torch's pad.
    """
    for i in range(len(rim) // 2):
        axis, (before, behind) = x.ndim - 1 - i, rim[2 * i : 2 * i + 2]
        size = x.shape[axis]
        period = max(1, 2 * size - 2)
        place = torch.arange(-before, size + behind, device=x.device) % period  # there and back
        x = x.index_select(axis, torch.minimum(place, period - place) if size > 1 else place)
    return x


def crop_middle(x: Tensor, size: Sequence[int]) -> Tensor:
    """The middle of maps ``(B, C, …)`` with the given ``(H, W)`` or ``(D, H, W)``."""
    for axis, new in enumerate(size, start=2):
        x = x.narrow(axis, (x.shape[axis] - new) // 2, new)
    return x
