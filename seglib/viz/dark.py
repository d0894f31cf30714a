"""The book's colours on dark pages: the same hues on a dark ground, never harder to read than on the light one."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from seglib.viz.style import CARD, INK

GROUND = "#14181E"
"""The ground of figures on dark pages; that of the pages themselves."""

DARK_INK = "#E4E8EC"
"""What `INK` becomes there."""

READABLE, VISIBLE = 4.5, 3.0
"""Contrast with the ground that WCAG 2.2 asks of text, and of lines and areas (level AA)."""

RGB = tuple[float, float, float]

_TO_LMS = np.array([[0.4122214708, 0.5363325363, 0.0514459929],
                    [0.2119034982, 0.6806995451, 0.1073969566],
                    [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
_TO_LAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468],
                    [1.9779984951, -2.4285922050, 0.4505937099],
                    [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip
_FROM_LMS, _FROM_LAB = np.linalg.inv(_TO_LMS), np.linalg.inv(_TO_LAB)
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
_GREY, _HUED = 0.05, 0.11  # chroma: at most so much counts as grey, at least so much as a hue

_LIFT, _LIGHT = 0.25, 0.85  # hues come a quarter of the way to this lightness, which keeps them apart


def rgb(color: str) -> RGB:
    """``"#RRGGBB"`` as three numbers in [0, 1]."""
    return tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))  # type: ignore[return-value]


def _linear(color: RGB) -> np.ndarray:
    c = np.asarray(color[:3], dtype=np.float64)
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def _encoded(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.abs(linear) ** (1 / 2.4) - 0.055)


def contrast(a: RGB, b: RGB) -> float:
    """The contrast of two colours after WCAG 2.2, 1 (equal) to 21 (black and white): (Y₁ + 0.05) / (Y₂ + 0.05)."""
    low, high = sorted(float(_LUMINANCE @ _linear(c)) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


def oklab(color: RGB) -> np.ndarray:
    """Lightness L in [0, 1] and the axes a (green to red) and b (blue to yellow), after Ottosson's OKLab, 2020."""
    return _TO_LAB @ np.cbrt(_TO_LMS @ _linear(color))


def _from_oklab(lab: np.ndarray) -> RGB:
    """The sRGB colour, with as much less chroma as it takes to exist."""
    grey = np.array([lab[0], 0, 0])
    low, high, share = 0.0, 1.0, 1.0
    for _ in range(12):
        linear = _FROM_LMS @ (_FROM_LAB @ (grey + share * (lab - grey))) ** 3
        if (linear > -1e-4).all() and (linear < 1 + 1e-4).all():
            if share == 1:
                break
            low = share
        else:
            high = share
        share = (low + high) / 2
    return tuple(_encoded(linear.clip(0, 1)).tolist())


_PAPER, _INK, _GROUND, _DARK_INK = (oklab(rgb(c)) for c in (CARD, INK, GROUND, DARK_INK))


@lru_cache(maxsize=4096)
def dark_color(color: RGB, *, ramp: bool = False, text: bool = False) -> RGB:
    """What ``color`` becomes on a dark page.

    Greys turn over: paper becomes the ground, ink becomes light. A hue keeps its name: it becomes a little lighter,
    and more so where that is needed to stand out from the ground as well as from the paper, or well enough
    (`VISIBLE`, `READABLE`). Pale tints, which are nearly paper, turn over too.

    Args:
        color: red, green and blue in [0, 1].
        ramp: whether the colour belongs to a scale from pale to deep, which turns over as a whole.
        text: whether letters have the colour.

    Returns:
        Three numbers in [0, 1].
    """
    lab = oklab(color)
    place = min(max((_PAPER[0] - lab[0]) / (_PAPER[0] - _INK[0]), 0.0), 1.0)  # 0 paper, 1 ink
    turned = _GROUND + place * (_DARK_INK - _GROUND)
    hued = 0.0 if ramp else min(max((float(np.hypot(*lab[1:])) - _GREY) / (_HUED - _GREY), 0.0), 1.0)
    hued = hued * hued * (3 - 2 * hued)
    lifted = lab[0] + _LIFT * max(_LIGHT - lab[0], 0)
    lab[0] = turned[0] + hued * (lifted - turned[0])
    lab[1:] += (1 - hued) * (1 - place) * (_GROUND - _PAPER)[1:]  # greys near the ground share its tint
    ground = rgb(GROUND)
    wanted = min(READABLE if text else VISIBLE, contrast(color, rgb(CARD)))
    result = _from_oklab(lab)
    while not ramp and wanted > 1.1 and contrast(result, ground) < wanted and lab[0] < 1:
        lab[0] += 0.005
        result = _from_oklab(lab)
    return result
