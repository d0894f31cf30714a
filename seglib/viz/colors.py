"""From numbers to colours: class colours, colours that tell instances apart, and the hatch that stands for void."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from seglib.types import VOID, Category

# Okabe and Ito without black and without grey, which are needed for outlines and void.
_DISTINCT = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


def to_array(x: Tensor | np.ndarray) -> np.ndarray:
    """A tensor or an array as an array on the CPU."""
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)


def to_rgb8(image: Tensor | np.ndarray) -> np.ndarray:
    """An image as ``(H, W, 3)`` uint8.

    Args:
        image: image to convert: float ``(3, H, W)`` or ``(1, H, W)`` in [0, 1] (values outside are clipped), float or
            bool ``(H, W)``, or uint8 ``(H, W, 3)``, which is returned as it is.

    Raises:
        ValueError: for any other shape or type.
    """
    a = to_array(image)
    if a.dtype == np.uint8 and a.ndim == 3 and a.shape[2] == 3:
        return a
    if a.ndim == 2:
        a = a[None]
    if a.ndim != 3 or a.shape[0] not in (1, 3) or not (a.dtype.kind == "f" or a.dtype == bool):
        raise ValueError(
            f"an image is float (3, H, W) in [0, 1] or uint8 (H, W, 3), got {a.dtype} {a.shape}; "
            "divide 8-bit values by 255 and move the channels first"
        )
    rgb = np.broadcast_to(a, (3, *a.shape[1:])).transpose(1, 2, 0)  # (H, W, 3)
    out = np.empty(rgb.shape, dtype=np.uint8)
    for top in range(0, len(rgb), _ROWS):  # in floats a large photo would take 300 MB for each step
        rows = slice(top, top + _ROWS)
        out[rows] = np.nan_to_num(rgb[rows].astype(np.float32)).clip(0, 1) * 255 + 0.5
    return out


_ROWS = 256


def hatch(height: int, width: int) -> np.ndarray:
    """Diagonal stripes, ``(H, W)`` bool, wide enough to be seen at the size of a thumbnail."""
    step = max(2, min(height, width) // 40)
    rows, columns = np.indices((height, width))
    return (rows + columns) // step % 2 == 0


def colorize(labels: Tensor | np.ndarray, categories: Sequence[Category]) -> np.ndarray:
    """A label map painted in its class colours; void becomes grey stripes.

    Args:
        labels: label map ``(H, W)`` of category ids, 255 is void.
        categories: the class table.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: when a label is neither in the table nor 255.
    """
    a = to_array(labels)
    if a.ndim != 2 or a.dtype.kind not in "iu":
        raise ValueError(f"labels must be an integer (H, W) map, got {a.dtype} {a.shape}; take argmax over the classes")
    k = len(categories)
    bad = ((a < 0) | (a >= k)) & (a != VOID)
    if bad.any():
        row, column = (int(v) for v in np.argwhere(bad)[0])
        raise ValueError(
            f"label {int(a[row, column])} at (row {row}, column {column}) is not in 0..{k - 1} or {VOID}; "
            "remap it or pass the class table that it belongs to"
        )
    void = a == VOID
    table = np.array([c.color for c in categories] + [(0, 0, 0)], dtype=np.uint8)  # (K + 1, 3)
    rgb = table[np.where(void, k, a)]  # (H, W, 3)
    stripes = np.where(hatch(*a.shape), np.uint8(205), np.uint8(150))  # (H, W)
    rgb[void] = stripes[void][:, None]
    return rgb


def _relight(color: tuple[int, int, int], lightness: float) -> tuple[int, int, int]:
    """The same hue with another lightness in [0, 1]."""
    hue, _, saturation = colorsys.rgb_to_hls(*(v / 255 for v in color))
    r, g, b = colorsys.hls_to_rgb(hue, lightness, saturation)
    return round(r * 255), round(g * 255), round(b * 255)


def instance_colors(n: int) -> np.ndarray:
    """``(n, 3)`` uint8 colours for n instances: seven safe hues, then lighter and darker ones."""
    out = []
    for i in range(n):
        color = _DISTINCT[i % len(_DISTINCT)]
        if turn := (i // len(_DISTINCT)) % 3:
            color = _relight(color, 0.75 if turn == 1 else 0.28)
        out.append(color)
    return np.array(out, dtype=np.uint8).reshape(n, 3)


def number_palette() -> dict[int, tuple[int, int, int]]:
    """The colours of a label map of numbered objects: object n has that of its overlay, 0 (none) is black."""
    return {0: (0, 0, 0)} | {n: (int(r), int(g), int(b)) for n, (r, g, b) in enumerate(instance_colors(255), start=1)}


def shades(color: tuple[int, int, int], n: int) -> np.ndarray:
    """``(n, 3)`` uint8 shades of one class colour, dark to light, neighbours in the list far apart.

    A single shade is the colour itself.
    """
    if n == 1:
        return np.array([color], dtype=np.uint8)
    # Steps of the golden ratio spread any number of shades evenly and never put like beside like.
    lights = [0.3 + 0.5 * ((0.5 + i * 0.618034) % 1) for i in range(n)]
    return np.array([_relight(color, light) for light in lights], dtype=np.uint8).reshape(n, 3)
