"""Images and maps as text that travels in a page."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from torch import Tensor

from seglib.viz.colors import to_array, to_rgb8


def png(image: Tensor) -> str:
    """The image ``(3, H, W)`` in [0, 1] as the address of a small PNG that is written out in full."""
    from PIL import Image

    file = io.BytesIO()
    # 128 colours look the same at this size and halve the page.
    Image.fromarray(to_rgb8(image)).quantize(128, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def pack_maps(maps: Tensor, levels: int = 256) -> tuple[str, list[list[float]]]:
    """Maps ``(N, h, w)`` in 256 levels each, or fewer, from its lowest number to its highest.

    Returns:
        The address of a grey PNG, written out in full, with the maps below each other; and [lowest number, step] of
        each map.
    """
    from PIL import Image

    flat = maps.detach().cpu().double().flatten(1)  # (N, h·w)
    # as written to the page, so that rounding there and here is the same
    low, step = (
        torch.tensor([float(f"{v:.6g}") for v in values.tolist()]).double()
        for values in (flat.amin(1), (flat.amax(1) - flat.amin(1)) / (levels - 1))
    )
    steps = ((flat - low[:, None]) / step.where(step > 0, 1)[:, None]).round().clamp(0, levels - 1).to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(to_array(steps).reshape(-1, maps.shape[2])).save(file, "PNG", optimize=True)
    scales = [[a, b] for a, b in zip(low.tolist(), step.tolist(), strict=True)]
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", scales


def unpack_maps(address: str, scales: list[list[float]]) -> Tensor:
    """What a page makes of :func:`pack_maps`: ``(N, h, w)`` float64."""
    from PIL import Image

    data = np.array(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))
    low, step = torch.tensor(scales, dtype=torch.float64).reshape(-1, 2, 1, 1).unbind(1)
    return low + step * torch.from_numpy(data.astype(np.float64)).view(len(scales), -1, data.shape[1])


def pack_masks(masks: Tensor) -> str:
    """A table of masks ``(R, C, h, w)`` bool as the address of a PNG of one bit a pixel, written out in full."""
    from PIL import Image

    sheet = masks.cpu().permute(0, 2, 1, 3).flatten(2).flatten(0, 1)  # (R·h, C·w)
    file = io.BytesIO()
    Image.fromarray(to_array(sheet)).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def unpack_masks(address: str, size: tuple[int, int]) -> Tensor:
    """What a page makes of :func:`pack_masks`: ``(R, C, h, w)`` bool of masks of ``size`` (h, w)."""
    from PIL import Image

    sheet = torch.from_numpy(np.array(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))))
    return sheet.unflatten(0, (-1, size[0])).unflatten(2, (-1, size[1])).transpose(1, 2).contiguous()


def pack_ids(maps: Tensor) -> str:
    """Maps of whole numbers from 0 to 255, ``(N, h, w)`` uint8, below each other as the address of a grey PNG.

    Raises:
        ValueError: when the maps have another type or shape.
    """
    from PIL import Image

    if maps.dtype != torch.uint8 or maps.ndim != 3:
        raise ValueError(f"maps must be uint8 (N, h, w), got {maps.dtype} {tuple(maps.shape)}")
    file = io.BytesIO()
    Image.fromarray(to_array(maps).reshape(-1, maps.shape[2])).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def unpack_ids(address: str, count: int) -> Tensor:
    """What a page makes of :func:`pack_ids`: ``(N, h, w)`` uint8 for N = ``count`` maps."""
    from PIL import Image

    sheet = np.array(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))
    return torch.from_numpy(sheet).unflatten(0, (count, -1))
