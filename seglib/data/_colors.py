"""Colours, the light of six times of day, and the palettes of everything in a scene.

Some palettes share colours on purpose: walls with roads, cars with the sky and the road, coats with grass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seglib.data._noise import Floats

Color = tuple[float, float, float]


def rgb(red: int, green: int, blue: int) -> Color:
    """8-bit values as floats in [0, 1]."""
    return red / 255, green / 255, blue / 255


def mix(a: Color, b: Color, share: float) -> Color:
    """``a`` with ``share`` of it replaced by ``b``."""
    keep = 1 - share
    return a[0] * keep + b[0] * share, a[1] * keep + b[1] * share, a[2] * keep + b[2] * share


def times(a: Color, b: Color) -> Color:
    """The product per channel."""
    return a[0] * b[0], a[1] * b[1], a[2] * b[2]


def scaled(a: Color, factor: float) -> Color:
    """``a`` made brighter or darker."""
    return a[0] * factor, a[1] * factor, a[2] * factor


def planes(color: Color) -> Floats:
    """A colour as ``(3, 1, 1)``, ready to broadcast over an image."""
    return np.array(color, np.float32).reshape(3, 1, 1)


def choose(colors: tuple[Color, ...], r: float) -> Color:
    """The colour at position r in [0, 1) of the table."""
    return colors[int(r * len(colors))]


@dataclass(frozen=True)
class Light:
    """A time of day: the two ends of the sky, the tint of sunlight, what a shadow leaves of it, the colour of haze."""

    top: Color
    low: Color
    tint: Color
    shadow: Color
    haze: Color
    disc: Color  # the sun or moon
    height: float  # of the sun or moon: its row, as a share of the horizon's
    lamps: bool = False  # street lamps and windows are lit


NOON = Light(
    rgb(62, 132, 208),
    rgb(188, 221, 242),
    (1.0, 1.0, 0.97),
    (0.60, 0.64, 0.78),
    rgb(196, 217, 234),
    rgb(255, 250, 214),
    0.18,
)
MORNING = Light(
    rgb(112, 170, 218),
    rgb(253, 226, 186),
    (1.05, 0.98, 0.86),
    (0.62, 0.63, 0.78),
    rgb(240, 222, 202),
    rgb(255, 240, 190),
    0.55,
)
GOLDEN = Light(
    rgb(104, 138, 186),
    rgb(255, 200, 128),
    (1.10, 0.92, 0.70),
    (0.56, 0.56, 0.74),
    rgb(248, 206, 158),
    rgb(255, 226, 150),
    0.72,
)
DUSK = Light(
    rgb(72, 72, 134),
    rgb(252, 158, 134),
    (0.92, 0.74, 0.76),
    (0.58, 0.55, 0.72),
    rgb(214, 152, 154),
    rgb(255, 186, 130),
    0.85,
    True,
)
OVERCAST = Light(
    rgb(158, 172, 186),
    rgb(216, 221, 224),
    (0.88, 0.92, 0.95),
    (0.80, 0.82, 0.86),
    rgb(204, 211, 216),
    rgb(240, 240, 236),
    0.3,
)
NIGHTFALL = Light(
    rgb(28, 38, 84),
    rgb(124, 118, 164),
    (0.50, 0.54, 0.74),
    (0.74, 0.74, 0.82),
    rgb(96, 98, 144),
    rgb(236, 236, 224),
    0.3,
    True,
)
LIGHTS = ((NOON, 0.32), (MORNING, 0.18), (GOLDEN, 0.16), (DUSK, 0.12), (OVERCAST, 0.13), (NIGHTFALL, 0.09))

GRASS = (
    rgb(118, 168, 70),
    rgb(142, 178, 82),
    rgb(104, 150, 84),
    rgb(172, 170, 88),
    rgb(134, 160, 62),
    rgb(96, 142, 62),
)
FLOWERS = (rgb(246, 214, 72), rgb(240, 240, 236), rgb(222, 96, 84), rgb(170, 120, 196))
ASPHALT = (rgb(112, 112, 116), rgb(140, 136, 132), rgb(96, 100, 108), rgb(176, 152, 118), rgb(190, 174, 148))
ROCK = (rgb(112, 116, 130), rgb(126, 112, 104), rgb(98, 120, 110), rgb(120, 104, 122), rgb(104, 122, 84))


WALLS = (
    rgb(238, 226, 200),
    rgb(222, 180, 140),
    rgb(196, 110, 86),
    rgb(206, 212, 214),
    rgb(150, 170, 186),
    rgb(228, 200, 120),
    rgb(140, 134, 128),
    rgb(176, 190, 150),
)
ROOFS = (rgb(168, 72, 52), rgb(120, 62, 54), rgb(92, 96, 108), rgb(140, 100, 70), rgb(70, 84, 104), rgb(110, 116, 92))
DOORS = (rgb(168, 44, 44), rgb(44, 84, 140), rgb(70, 110, 84), rgb(120, 82, 54))
LEAVES = (rgb(64, 118, 52), rgb(88, 138, 58), rgb(48, 96, 62), rgb(112, 146, 62), rgb(76, 124, 84))
AUTUMN = (rgb(206, 128, 48), rgb(184, 84, 44), rgb(214, 172, 64), rgb(230, 170, 186))
PAINTS = (
    rgb(200, 48, 44),
    rgb(44, 96, 176),
    rgb(236, 236, 232),
    rgb(60, 64, 70),
    rgb(232, 184, 60),
    rgb(120, 168, 206),
    rgb(150, 152, 154),
    rgb(70, 128, 92),
)
COATS = (
    rgb(196, 52, 60),
    rgb(52, 92, 164),
    rgb(236, 196, 72),
    rgb(240, 238, 230),
    rgb(56, 58, 70),
    rgb(108, 150, 84),
    rgb(226, 130, 60),
    rgb(146, 88, 150),
    rgb(128, 128, 130),
)
TROUSERS = (rgb(56, 58, 70), rgb(44, 72, 130), rgb(104, 84, 66), rgb(92, 96, 108))
SKINS = (rgb(244, 208, 176), rgb(224, 172, 128), rgb(176, 120, 82), rgb(116, 76, 52))
HAIRS = (rgb(52, 38, 30), rgb(120, 84, 48), rgb(30, 28, 28), rgb(200, 160, 90))
SILKS = (
    rgb(214, 60, 56),
    rgb(246, 190, 64),
    rgb(60, 124, 190),
    rgb(244, 240, 228),
    rgb(92, 160, 110),
    rgb(150, 84, 150),
)
GLASS = rgb(70, 92, 112)
GLOW = rgb(255, 214, 120)
