"""The drawings of the things: each is a short composition of shapes on a canvas.

Every function takes the canvas, the land (for its light), the thing and a ``Spot``: where its foot stands in pixels and
how many pixels a metre is there. ``thing.r`` holds its own random numbers; details too small to see are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from seglib.data._canvas import Canvas
from seglib.data._colors import (
    AUTUMN,
    COATS,
    DOORS,
    GLASS,
    GLOW,
    HAIRS,
    LEAVES,
    PAINTS,
    ROOFS,
    SILKS,
    SKINS,
    TROUSERS,
    WALLS,
    Color,
    choose,
    mix,
    planes,
    rgb,
    scaled,
    times,
)
from seglib.data._landscape import Land
from seglib.data._plan import BALLOON, BIRD, CAR, HOUSE, LAMP, PERSON, TREE, Thing

# Half the width of a thing and how far its shadow reaches, in metres.
_SHADOWS = {HOUSE: (3.6, 4.6), TREE: (1.5, 3.4), CAR: (1.2, 1.0), PERSON: (0.35, 1.7), LAMP: (0.2, 4.4)}


@dataclass(frozen=True)
class Spot:
    """Where a thing stands: x, y in pixels, k pixels per metre, and the owner's tag."""

    x: float
    y: float
    k: float
    tag: int


def draw_shadow(canvas: Canvas, land: Land, thing: Thing, s: Spot) -> None:
    """A soft ellipse on the ground, away from the sun. Shadows are drawn before all things and own no pixel."""
    foot, reach = _SHADOWS[thing.category]
    if thing.category == CAR and not thing.along:
        foot = 2.5
    if thing.category == TREE:
        foot, reach = foot * (0.6 + 0.6 * thing.r[1]), reach * (0.6 + 0.6 * thing.r[0])
    length = abs(land.sun) * reach * s.k * 0.5
    x = s.x - length if land.sun > 0 else s.x + length
    rx, ry = foot * s.k + length, max(0.34 * foot, 0.2) * s.k
    window = canvas.window(x - rx, s.y - ry, x + rx, s.y + ry)
    if window is None or rx < 1.5:
        return
    u, v = (canvas.x[:, window[1]] - x) * (1 / rx), (canvas.y[window[0]] - s.y) * (1 / ry)
    dark = canvas.cover(window, (u * u + (v * v - 1)) * 2.2 + 0.5)  # (h, w), soft towards the rim
    lost = planes(mix((1.0, 1.0, 1.0), land.light.shadow, 0.85)) - 1
    canvas.image[:, window[0], window[1]] *= 1 + lost * dark


def draw_house(canvas: Canvas, land: Land, thing: Thing, s: Spot) -> None:
    """A gabled front, a side wall with its roof towards or away from the light, windows, door, chimney."""
    r, k, t = thing.r, s.k, thing.depth
    half, wall, gable = k * (1.9 + 1.2 * r[0]), k * (2.5 + 1.6 * r[1]), k * (1.6 + 1.3 * r[2])
    turn = 1.0 if r[3] < 0.5 else -1.0  # the side wall is to the right or to the left of the front
    side = turn * k * (1.2 + 5.0 * r[4])
    x, y, tag = s.x - side * 0.4, s.y, s.tag
    eave, corner = y - wall, x + turn * half
    apex, low, out = eave - gable, eave + 0.15 * k, turn * 0.3 * k  # the roof's top, bottom and overhang
    walls = mix(choose(WALLS, r[5]), land.road_color, thing.blend)
    roofs = mix(choose(ROOFS, r[6]), land.rock, thing.blend * 0.6)
    sunny = 1.0 if turn * land.sun < 0 else 0.80  # is the front the sunny one of the two walls?
    front, flank = land.lit(walls, t, sunny), land.lit(walls, t, 1.72 - sunny)
    roof, dark = land.lit(roofs, t, 1.8 - sunny), land.lit(roofs, t, 0.62)
    if r[7] < 0.7:
        chimney = x + side * (0.35 + 0.4 * r[0])
        canvas.box(chimney - 0.3 * k, apex - 0.8 * k, chimney + 0.3 * k, apex + 0.4 * k, dark, tag)
    canvas.box(min(corner, corner + side), eave, max(corner, corner + side), y, flank, tag, grain=0.06)
    canvas.box(x - half, eave, x + half, y, front, tag, grain=0.06)
    canvas.polygon([(x - half, eave + 1), (x + half, eave + 1), (x, apex)], front, tag)
    canvas.polygon(
        [(x, apex), (x + side + out, apex), (corner + side + out, low), (corner, low)], roof, tag, grain=0.12
    )
    canvas.line(x, apex, x + half + 0.2 * k, low, 0.32 * k, dark, tag, twin=x)
    if k < 1.6:
        return
    canvas.box(min(x - half, x + turn * half + side), y - 0.22 * k, max(x + half, corner + side), y, scaled(flank, 0.7))
    glass = GLOW if land.light.lamps else land.lit(mix(GLASS, land.light.top, 0.35), t)
    frame = land.lit((0.95, 0.93, 0.88), t, 0.95)
    canvas.box(x - 0.48 * k, y - 1.75 * k, x + 0.48 * k, y, scaled(front, 0.75))
    canvas.box(x - 0.38 * k, y - 1.65 * k, x + 0.38 * k, y, land.lit(choose(DOORS, r[2]), t, 0.85))
    _window(canvas, x + 0.62 * half, eave + 0.95 * k, k, frame, glass, twin=x)
    if gable > 2 * k:
        _window(canvas, x, eave - 0.25 * k, 0.8 * k, frame, scaled(glass, 0.85))
    count = int(abs(side) / (1.7 * k))
    for i in range(count):
        _window(canvas, corner + side * (i + 0.5) / count, eave + 1.1 * k, k, frame, glass)


def _window(
    canvas: Canvas, x: float, y: float, k: float, frame: Color, glass: Color, twin: float | None = None
) -> None:
    if k > 3:
        canvas.box(x - 0.45 * k, y - 0.5 * k, x + 0.45 * k, y + 0.55 * k, frame, twin=twin)
    canvas.box(x - 0.32 * k, y - 0.38 * k, x + 0.32 * k, y + 0.40 * k, glass, twin=twin)
    if k > 6:
        canvas.box(x - 0.05 * k, y - 0.38 * k, x + 0.05 * k, y + 0.40 * k, frame, twin=twin)


def draw_tree(canvas: Canvas, land: Land, thing: Thing, s: Spot) -> None:
    """A trunk and a crown: a conifer's tiers, a poplar's flame, or round and lit from the sun's side."""
    r, x, y, t, tag = thing.r, s.x, s.y, thing.depth, s.tag
    tall = s.k * (3.6 + 3.6 * r[0])
    leaves = choose(AUTUMN, r[2]) if r[3] < 0.18 and r[4] > 0.27 else choose(LEAVES, r[2])
    leaves = mix(leaves, land.grass, thing.blend)
    bright, mid = land.lit(leaves, t, 1.16), land.lit(leaves, t, 0.92)
    dark = times(land.lit(leaves, t), mix((1.0, 1.0, 1.0), land.light.shadow, 0.85))
    rough, half = min(0.06 * tall, 0.02 * canvas.short), max(tall * (0.04 + 0.015 * r[5]), 0.5)
    canvas.box(x - half, y - tall * 0.45, x + half, y, land.lit(rgb(104, 76, 54), t, 0.9), tag)
    if r[4] < 0.27:
        _conifer(canvas, x, y, tall * 1.15, 0.20 + 0.08 * r[1], (dark, mid, bright), rough * 0.7, tag)
    elif r[4] < 0.40:
        rx, ry = tall * 0.17, tall * 0.46
        canvas.ellipse(x, y - tall * 0.60, rx, ry, mid, tag, relief=0.32, rough=rough, grain=0.22)
    else:
        rx, ry, cy = tall * (0.26 + 0.14 * r[1]), tall * (0.28 + 0.06 * r[5]), y - tall * 0.66
        small = tall < 12
        relief = 0.3 if small else 0.12
        canvas.ellipse(x, cy, rx, ry, mid if small else dark, tag, relief=relief, rough=rough, grain=0.22)
        if small:
            return
        for across, up, size, tone in ((-0.42, -0.30, 0.64, mid), (0.45, -0.20, 0.60, mid), (0.0, 0.32, 0.64, bright)):
            px, py = x + (across + 0.22 * land.sun * up + 0.15 * (r[6] - 0.5)) * rx, cy - up * ry
            canvas.ellipse(px, py, rx * size, ry * size, tone, tag, relief=0.22, rough=rough, grain=0.25)


def _conifer(
    canvas: Canvas, x: float, y: float, tall: float, slim: float, tones: tuple[Color, ...], rough: float, tag: int
) -> None:
    dark, mid, bright = tones
    away = -1.0 if canvas.sun > 0 else 1.0
    for low, high, part, tone in ((0.14, 0.58, 1.0, mid), (0.36, 0.80, 0.78, mid), (0.58, 1.0, 0.52, bright)):
        w, y0, y1 = tall * slim * part, y - tall * low, y - tall * high
        canvas.polygon([(x - w, y0), (x + w, y0), (x, y1)], mix(tone, mid, 0.5), tag, rough=rough, grain=0.22)
        if tall > 16:
            shaded = [(x + away * w, y0), (x + away * 0.1 * w, y0), (x, y1)]
            canvas.polygon(shaded, mix(dark, mid, 0.25), rough=rough, grain=0.2)


def draw_car(canvas: Canvas, land: Land, thing: Thing, s: Spot) -> None:
    """A car from the side, or from the front or back where the road leads away."""
    color = mix(choose(PAINTS, thing.r[0]), mix(land.light.top, land.road_color, thing.r[4]), thing.blend)
    (_car_end if thing.along else _car_side)(canvas, land, thing, s, color)


def _car_side(canvas: Canvas, land: Land, thing: Thing, s: Spot, color: Color) -> None:
    r, k, x, y, t, tag = thing.r, s.k * 1.1, s.x, s.y, thing.depth, s.tag
    way = k if r[1] < 0.5 else -k  # one metre towards the front of the car

    def corners(*points: tuple[float, float]) -> list[tuple[float, float]]:
        """Points (metres to the front, metres above the road) in pixels."""
        return [(x + way * ahead, y - k * up) for ahead, up in points]

    tail = -1.75 if r[2] < 0.5 else -1.95  # saloon or estate
    body, tyre = land.lit(color, t), land.lit(rgb(34, 34, 38), t)
    cabin = corners((tail, 0.9), (tail + 0.45, 1.62), (0.45, 1.62), (1.2, 0.9))
    canvas.polygon(cabin, land.lit(color, t, 1.06), tag)
    canvas.polygon(corners((-2.05, 1.02), (1.1, 1.02), (2.05, 0.8), (2.05, 0.28), (-2.05, 0.28)), body, tag)
    canvas.box(x - 2.05 * k, y - 0.52 * k, x + 2.05 * k, y - 0.28 * k, land.lit(color, t, 0.72), tag)
    canvas.ellipse(x + 1.2 * k, y - 0.38 * k, 0.42 * k, 0.42 * k, tyre, tag, twin=x)
    if k < 2:
        return
    if k > 4:
        canvas.ellipse(x + 1.2 * k, y - 0.38 * k, 0.19 * k, 0.19 * k, land.lit(rgb(190, 190, 194), t), twin=x)
    glass = land.lit(mix(GLASS, land.light.low, 0.25), t, 0.9)
    canvas.polygon(corners((tail + 0.3, 1.02), (tail + 0.55, 1.49), (-0.45, 1.49), (-0.45, 1.02)), glass)
    canvas.polygon(corners((-0.30, 1.02), (-0.30, 1.49), (0.38, 1.49), (0.92, 1.02)), glass)
    light = GLOW if land.light.lamps else land.lit(rgb(250, 240, 200), t)
    nose = x + way * 1.92
    canvas.box(nose - 0.13 * k, y - 0.78 * k, nose + 0.13 * k, y - 0.56 * k, light)


def _car_end(canvas: Canvas, land: Land, thing: Thing, s: Spot, color: Color) -> None:
    r, k, x, y, t, tag = thing.r, s.k * 1.1, s.x, s.y, thing.depth, s.tag
    half, belt, roof = 0.98 * k, y - 0.95 * k, y - 1.62 * k
    canvas.box(x + 0.5 * k, y - 0.5 * k, x + 0.92 * k, y, land.lit(rgb(34, 34, 38), t), tag, twin=x)
    cabin = [(x - half, belt + 1), (x - 0.66 * k, roof), (x + 0.66 * k, roof), (x + half, belt + 1)]
    canvas.polygon(cabin, land.lit(color, t, 1.06), tag)
    canvas.box(x - half, belt, x + half, y - 0.24 * k, land.lit(color, t), tag)
    canvas.box(x - half, y - 0.44 * k, x + half, y - 0.24 * k, land.lit(color, t, 0.7), tag)
    if k < 2:
        return
    low, high, top = 0.76 * k, 0.56 * k, roof + 0.12 * k
    glass = land.lit(mix(GLASS, land.light.low, 0.3), t, 0.9)
    canvas.polygon([(x - low, belt), (x - high, top), (x + high, top), (x + low, belt)], glass)
    head = GLOW if land.light.lamps else land.lit(rgb(252, 244, 214), t)
    lamp = head if r[1] < 0.5 else rgb(206, 40, 36)
    canvas.box(x + 0.55 * k, y - 0.8 * k, x + 0.88 * k, y - 0.6 * k, lamp, twin=x)


def draw_person(canvas: Canvas, land: Land, thing: Thing, s: Spot) -> None:
    """Legs, a coat or a dress, arms, a head with hair."""
    r, x, y, t, tag = thing.r, s.x, s.y, thing.depth, s.tag
    tall = s.k * (1.85 + 0.5 * r[0]) * (0.68 if r[7] < 0.18 else 1.0)  # some are children
    coat = land.lit(mix(choose(COATS, r[1]), land.grass, thing.blend), t)
    trousers, skin = land.lit(choose(TROUSERS, r[2]), t, 0.85), land.lit(choose(SKINS, r[3]), t)
    hip, neck, wide, head = y - 0.46 * tall, y - 0.80 * tall, tall * (0.115 + 0.03 * r[6]), 0.095 * tall
    step, thick = (0.04 + 0.09 * r[5]) * tall, 0.105 * tall
    if tall < 9:  # legs one pixel apart are one shape
        canvas.box(x - wide * 0.7, hip, x + wide * 0.7, y, trousers, tag)
    else:
        canvas.line(x + step * 0.3, hip, x + step, y - thick * 0.5, thick, trousers, tag, twin=x)
    if r[6] < 0.3:
        hem = hip + 0.12 * tall
        dress = [(x - wide * 1.5, hem), (x + wide * 1.5, hem), (x + wide * 0.7, neck), (x - wide * 0.7, neck)]
        canvas.polygon(dress, coat, tag)
    else:
        canvas.box(x - wide, neck, x + wide, hip + 0.03 * tall, coat, tag)
    if tall < 11:
        canvas.ellipse(x, neck - head, head * 1.1, head * 1.1, skin, tag)
        return
    hand = x + wide + (0.05 + 0.10 * r[5]) * tall
    canvas.line(x + wide, neck + 0.04 * tall, hand, hip, 0.07 * tall, scaled(coat, 0.88), tag, twin=x)
    canvas.ellipse(x, neck - head * 1.15, head * 1.08, head * 1.12, land.lit(choose(HAIRS, r[4]), t), tag)
    canvas.ellipse(x, neck - head * 0.85, head * 0.9, head * 0.95, skin, tag)


def draw_lamp(canvas: Canvas, land: Land, thing: Thing, s: Spot) -> None:
    """A street lamp: a thin pole, an arm and a lantern, with a glow after sunset."""
    r, k, x, y, t, tag = thing.r, s.k, s.x, s.y, thing.depth, s.tag
    top, arm = y - k * (4.6 + 1.2 * r[0]), k if r[1] < 0.5 else -k
    iron = land.lit(mix(rgb(58, 64, 70), land.road_color, 0.3 * r[2] + thing.blend * 0.7), t)
    half = max(0.11 * k, 0.5)
    canvas.box(x - half, top, x + half, y, iron, tag)
    canvas.line(x, top, x + arm, top - 0.15 * k, 0.2 * k, iron, tag)
    canvas.box(x - 0.26 * k, y - 0.5 * k, x + 0.26 * k, y, iron, tag)
    lantern = land.lit(rgb(222, 220, 206), t)
    if land.light.lamps:
        lantern = GLOW
        _glow(canvas, x + arm, top + 0.1 * k, 2.2 * k)
    canvas.ellipse(x + arm, top + 0.02 * k, max(0.34 * k, 0.9), max(0.2 * k, 0.8), lantern, tag)


def _glow(canvas: Canvas, x: float, y: float, radius: float) -> None:
    window = canvas.window(x - radius, y - radius, x + radius, y + radius)
    if window is not None:
        u, v = (canvas.x[:, window[1]] - x) * (1 / radius), (canvas.y[window[0]] - y) * (1 / radius)
        light = canvas.cover(window, u * u + (v * v - 0.5))
        canvas.paint(window, light * light * 0.55, GLOW)


def draw_balloon(canvas: Canvas, land: Land, thing: Thing, s: Spot) -> None:
    """A hot-air balloon: nested gores of two silks, ropes and a basket. Its spot is the centre of the envelope."""
    r, k, x, y, tag = thing.r, s.k, s.x, s.y, s.tag
    other = r[1] + 0.17 + 0.5 * r[2]
    one = mix(choose(SILKS, r[1]), land.light.top, thing.blend)
    two = mix(choose(SILKS, other if other < 1 else other - 1), land.light.low, thing.blend)
    first, second, foot = land.lit(one, 0.7), land.lit(two, 0.7), y + 1.75 * k
    canvas.line(x + 0.5 * k, y + 0.8 * k, x + 0.17 * k, foot, 0.05 * k, land.lit(rgb(90, 70, 54), 0.7), twin=x)
    canvas.box(x - 0.22 * k, foot - 0.1 * k, x + 0.22 * k, foot + 0.28 * k, land.lit(rgb(150, 106, 66), 0.7), tag)
    low, mouth = y + 0.5 * k, y + 1.4 * k
    for part, neck, color in ((0.86, 0.28, scaled(first, 0.8)), (0.36, 0.2, scaled(second, 0.78))):
        skirt = [(x - part * k, low), (x + part * k, low), (x + neck * k, mouth), (x - neck * k, mouth)]
        canvas.polygon(skirt, color, tag)
    for part, color in ((1.0, first), (0.72, second), (0.40, first), (0.13, second)):
        canvas.ellipse(x, y, k * part, 1.08 * k, color, tag, relief=0.2)


def draw_bird(canvas: Canvas, land: Land, thing: Thing, s: Spot) -> None:
    """Two bent wings in one stroke, a few pixels across."""
    r, k, x, y = thing.r, s.k, s.x, s.y
    plumage = rgb(44, 46, 56) if r[0] < 0.7 else rgb(240, 240, 240)
    color = land.lit(mix(plumage, land.light.low, thing.blend), 0.8)
    lift, half = k * (0.3 + 0.5 * r[1]), max(0.13 * k, 0.55)
    window = canvas.window(x - k, y - lift - half, x + k, y + half)
    if window is None:
        return
    span = abs(canvas.x[:, window[1]] - x) * (1 / k)  # (1, w), 0 at the body, 1 at the tips
    wing = span * (2 - span * 1.3) * lift  # rises, then bends down a little
    distance = abs(canvas.y[window[0]] - y + wing) - half * (1.25 - 0.5 * span)
    canvas.paint(window, canvas.cover(window, np.maximum(distance, (span - 1) * k)), color, s.tag)


DRAW: dict[int, Callable[[Canvas, Land, Thing, Spot], None]] = {
    HOUSE: draw_house,
    TREE: draw_tree,
    CAR: draw_car,
    PERSON: draw_person,
    LAMP: draw_lamp,
    BALLOON: draw_balloon,
    BIRD: draw_bird,
}
