"""Numbers that half precision would spoil."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32 if it is in half precision, else as it is: bf16 rounds a corner at 500 to 500 or 504."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def widest_float(device: torch.device) -> torch.dtype:
    """The float type in which a device counts most exactly: float64, or float32 on Apple's GPUs."""
    return torch.float32 if device.type == "mps" else torch.float64
