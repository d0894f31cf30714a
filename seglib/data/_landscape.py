"""The stuff of a scene: the light, the sky, mountains, grass, water and roads, as plans and as drawings.

A plan holds fractions of the picture, (u, v) with v downwards, so one composition serves every size. On the ground,
``depth`` t goes from 0 at the horizon to 1 at the bottom edge; perspective makes a length at t that many times as large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from seglib.data._canvas import Canvas, Color, mix, planes, rgb, scaled, times
from seglib.data._noise import Draws, Floats, smooth_noise

Coordinate = TypeVar("Coordinate", float, Floats)


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


NOON = Light(rgb(62, 132, 208), rgb(188, 221, 242), (1.0, 1.0, 0.97), (0.60, 0.64, 0.78), rgb(196, 217, 234), rgb(255, 250, 214), 0.18)
MORNING = Light(rgb(112, 170, 218), rgb(253, 226, 186), (1.05, 0.98, 0.86), (0.62, 0.63, 0.78), rgb(240, 222, 202), rgb(255, 240, 190), 0.55)
GOLDEN = Light(rgb(104, 138, 186), rgb(255, 200, 128), (1.10, 0.92, 0.70), (0.56, 0.56, 0.74), rgb(248, 206, 158), rgb(255, 226, 150), 0.72)
DUSK = Light(rgb(72, 72, 134), rgb(252, 158, 134), (0.92, 0.74, 0.76), (0.58, 0.55, 0.72), rgb(214, 152, 154), rgb(255, 186, 130), 0.85, True)
OVERCAST = Light(rgb(158, 172, 186), rgb(216, 221, 224), (0.88, 0.92, 0.95), (0.80, 0.82, 0.86), rgb(204, 211, 216), rgb(240, 240, 236), 0.3)
NIGHTFALL = Light(rgb(28, 38, 84), rgb(124, 118, 164), (0.50, 0.54, 0.74), (0.74, 0.74, 0.82), rgb(96, 98, 144), rgb(236, 236, 224), 0.3, True)
LIGHTS = ((NOON, 0.32), (MORNING, 0.18), (GOLDEN, 0.16), (DUSK, 0.12), (OVERCAST, 0.13), (NIGHTFALL, 0.09))

GRASS = (rgb(118, 168, 70), rgb(142, 178, 82), rgb(104, 150, 84), rgb(172, 170, 88), rgb(134, 160, 62), rgb(96, 142, 62))
FLOWERS = (rgb(246, 214, 72), rgb(240, 240, 236), rgb(222, 96, 84), rgb(170, 120, 196))
ASPHALT = (rgb(112, 112, 116), rgb(140, 136, 132), rgb(96, 100, 108), rgb(176, 152, 118), rgb(190, 174, 148))
ROCK = (rgb(112, 116, 130), rgb(126, 112, 104), rgb(98, 120, 110), rgb(120, 104, 122), rgb(104, 122, 84))


@dataclass(frozen=True)
class Receding:
    """A band that runs from the horizon towards the viewer and widens: a road or a river. u = centre(t) ± half · t."""

    horizon: float
    far: float
    near: float
    bend: float
    half: float

    def centre(self, t: Coordinate) -> Coordinate:
        """The band's middle u at a depth."""
        return self.far + t * (self.near - self.far) + t * (1 - t) * self.bend

    def distance(self, u: Coordinate, v: Coordinate, width: float, height: float) -> Coordinate:
        """Signed distance to its edge, about in the units of ``width`` and ``height``; negative inside."""
        t = (v - self.horizon) * (1 / (1 - self.horizon))
        return (abs(u - self.centre(t)) - (t * self.half + 0.003)) * width


@dataclass(frozen=True)
class Crossing:
    """A band from the left to the right edge: v = middle(u) ± half."""

    mid: float
    tilt: float
    bow: float
    half: float

    def middle(self, u: Coordinate) -> Coordinate:
        """The band's middle v at a column."""
        return self.mid + (u - 0.5) * self.tilt + (u - 0.5) * (u - 0.5) * self.bow

    def distance(self, u: Coordinate, v: Coordinate, width: float, height: float) -> Coordinate:
        """Signed distance to its edge; negative inside."""
        return (abs(v - self.middle(u)) - self.half) * height


@dataclass(frozen=True)
class Pond:
    """An ellipse lying on the ground."""

    u: float
    v: float
    ru: float
    rv: float

    def distance(self, u: Coordinate, v: Coordinate, width: float, height: float) -> Coordinate:
        """Signed distance to its edge; negative inside."""
        p, q = (u - self.u) * (1 / self.ru), (v - self.v) * (1 / self.rv)
        return (p * p + (q * q - 1)) * (0.5 * min(self.ru * width, self.rv * height))


Band = Receding | Crossing | Pond


@dataclass(frozen=True)
class Land:
    """Everything about a scene that is not a thing."""

    light: Light
    sun: float
    horizon: float
    camera: float
    haze: float
    clouds: float
    grass: Color
    road_color: Color
    rock: Color
    peaks: tuple[tuple[float, ...], ...]
    flowers: Color | None
    hill: float
    roads: tuple[Band, ...]
    water: Band | None

    def lit(self, color: Color, t: float = 1.0, factor: float = 1.0) -> Color:
        """A colour under this light, at a depth: the far is hazy."""
        far = (1 - t) * (1 - t) * self.haze
        return mix(scaled(times(color, self.light.tint), factor), self.light.haze, far)

    def on_road(self, u: float, v: float, margin: float = 0.0) -> bool:
        """Whether a point of the ground is road."""
        return any(road.distance(u, v, 1.0, 1.0) < margin for road in self.roads)

    def on_water(self, u: float, v: float, margin: float = 0.0) -> bool:
        """Whether a point of the ground is water (bridges count as road)."""
        return self.water is not None and self.water.distance(u, v, 1.0, 1.0) < margin


def plan_land(draws: Draws, difficulty: float, share: dict[str, float]) -> Land:
    """Draw the composition of a scene. ``share`` multiplies the chance of road, water and mountain."""
    pick = draws()
    light = LIGHTS[-1][0]
    for option, weight in LIGHTS:
        if pick < weight:
            light = option
            break
        pick -= weight
    horizon = draws(0.30, 0.52)
    rock = ROCK[draws.whole(0, len(ROCK) - 1)]
    peaks = []
    count = draws.whole(2, 5)
    has_peaks = draws() < 0.75 * share["mountain"]
    for _ in range(count):
        peaks.append((draws(-0.05, 1.05), draws(0.07, 0.26) * (0.6 + horizon), draws(0.8, 1.7), draws(), draws(0, 40)))
    roads = _plan_roads(draws, horizon, share["road"])
    # A road to the horizon would run into a lake there, or along a river: those get a pond or a river across.
    blocked = any(isinstance(road, Receding) for road in roads)
    water = _plan_water(draws, horizon, share["water"], blocked)
    grass = GRASS[draws.whole(0, len(GRASS) - 1)]
    road_color = ASPHALT[draws.whole(0, len(ASPHALT) - 1)]
    return Land(
        light=light,
        sun=draws(0.5, 1.0) if draws() < 0.5 else draws(-1.0, -0.5),
        horizon=horizon,
        camera=draws(3.8, 6.2),
        haze=draws(0.15, 0.45) + 0.3 * difficulty * draws(),
        clouds=draws(-0.35, 0.45),
        grass=grass,
        road_color=mix(road_color, grass, 0.25 * difficulty * draws()),
        rock=mix(rock, grass, 0.5 * difficulty * draws()),
        peaks=tuple(sorted(peaks, key=lambda peak: -peak[1])) if has_peaks else (),
        flowers=FLOWERS[draws.whole(0, len(FLOWERS) - 1)] if draws() < 0.4 else None,
        hill=draws(0.01, 0.06) if draws() < 0.6 else 0.0,
        roads=roads,
        water=water,
    )


def _plan_roads(draws: Draws, horizon: float, share: float) -> tuple[Band, ...]:
    ground = 1 - horizon
    away = Receding(horizon, draws(0.25, 0.75), draws(0.1, 0.9), draws(-0.9, 0.9), draws(0.14, 0.30))
    across = Crossing(horizon + draws(0.22, 0.56) * ground, draws(-0.12, 0.12), draws(-0.25, 0.25), 0.0)
    across = Crossing(across.mid, across.tilt, across.bow, (across.mid - horizon) * draws(0.14, 0.24))
    kind, present = draws(), draws() < 0.88 * share
    if not present:
        return ()
    return (away,) if kind < 0.5 else (across,) if kind < 0.85 else (away, across)


def _plan_water(draws: Draws, horizon: float, share: float, blocked: bool) -> Band | None:
    ground = 1 - horizon
    kind, present = draws(), draws() < 0.6 * share
    kind = 0.3 + 0.7 * kind if blocked else kind
    a, b, c, d = draws.many(4)
    if not present:
        return None
    if kind < 0.3:  # a lake or the sea, from the horizon to a shore
        half = ground * (0.06 + 0.12 * a)
        return Crossing(horizon + half - 0.01, 0.10 * (b - 0.5), 0.3 * (c - 0.5), half)
    if kind < 0.55:
        return Pond(0.1 + 0.8 * a, horizon + ground * (0.3 + 0.4 * b), 0.16 + 0.2 * c, ground * (0.09 + 0.09 * d))
    if kind < 0.8:  # a winding river
        return Receding(horizon, 0.15 + 0.7 * a, -0.2 + 1.4 * b, 2.4 * (c - 0.5), 0.16 + 0.16 * d)
    return Crossing(horizon + ground * (0.35 + 0.4 * a), 0.3 * (b - 0.5), 0.4 * (c - 0.5), ground * (0.06 + 0.06 * d))


def draw_sky(canvas: Canvas, land: Land, key: int, tag: int) -> None:
    """The gradient, stars at nightfall, the sun or moon with its glow, and clouds, down to just below the horizon."""
    light, short = land.light, canvas.short
    bottom = min(int(land.horizon * canvas.height) + 2, canvas.height)
    window = slice(0, bottom), slice(0, canvas.width)
    sky, y = canvas.image[:, :bottom], canvas.y[:bottom]  # (3, h, W), (h, 1)
    t = y * (1 / bottom)
    sky[:] = planes(light.top) + (planes(light.low) - planes(light.top)) * (t * t * (1.5 - 0.5 * t))
    if light is NIGHTFALL:
        sky += canvas.cover(window, 7 - canvas.grain[:bottom] * 9) * (0.6 - 0.5 * t)
    disc = mix((1.0, 1.0, 0.92), light.low, 0.3)
    x, top = (0.5 + 0.42 * land.sun) * canvas.width, land.horizon * canvas.height * light.height
    if light is not OVERCAST:
        u, v = (canvas.x - x) * (1 / short), (y - top) * (1 / short)
        canvas.paint(window, 0.008 / (u * u + (v * v + 0.014)), disc)  # the glow: 0.57 at its centre
        canvas.ellipse(x, top, 0.028 * short, 0.028 * short, light.disc)
    rows, columns = y[:, 0] * (11 / short), canvas.x[0] * (4.5 / short)
    cloud = smooth_noise(key, 11, rows, columns)  # (h, W)
    cloud += 0.5 * smooth_noise(key, 12, rows * 2.3, columns * 2.3)
    cloud = canvas.cover(window, 0.85 - (cloud + land.clouds) * 1.4)
    white = scaled(times(mix((1.0, 1.0, 1.0), light.low, 0.35), light.tint), 0.98)
    canvas.paint(window, cloud * (0.93 - 0.5 * t), white)
    canvas.owner[:bottom] = tag


def draw_peaks(canvas: Canvas, land: Land, key: int, tag: int) -> None:
    """Mountains, far to near: concave flanks, one lit and one shaded, gullies, snow on the high ones, mist at the foot."""
    bottom, short = land.horizon * canvas.height + 1, canvas.short
    for n, (u, rise, slope, snow, phase) in enumerate(land.peaks):
        x, tall = u * canvas.width, rise * short
        run = 1.25 * tall / slope + 2
        window = canvas.window(x - run, bottom - tall - 2, x + run, bottom)
        if window is None:
            continue
        down = canvas.y[window[0]] - (bottom - tall)  # (h, 1), pixels below the summit
        part = np.minimum(np.maximum(down * (1 / tall), 0), 1)
        across = canvas.x[:, window[1]] - x  # (1, w)
        crest = smooth_noise(key, 20 + n, down[:, 0] * (14 / short) + (phase + 1), np.zeros(1, np.float32))  # (h, 1)
        notch = smooth_noise(key, 26 + n, np.zeros(1, np.float32), across[0] * (13 / short) + (run * 13 / short + 1))
        side = across - crest * (part * (0.05 * short))  # (h, w), from the crest line
        bumpy = down + notch * (0.045 * tall) * np.minimum(abs(across) * (8 / short), 1)
        distance = abs(across) * slope - bumpy * (0.62 + 0.5 * part)
        facing = 1.0 if land.sun > 0 else -1.0
        lit = np.minimum(np.maximum(side * facing + canvas.grain[window] * (0.014 * short) + 0.5, 0), 1)
        lit *= 0.84 + 0.16 * notch
        color = land.lit(land.rock, 0.05 + 0.5 * n / len(land.peaks))
        shade = planes(scaled(times(color, land.light.shadow), 1.1))
        paint = shade + (planes(color) - shade) * lit  # (3, h, w)
        if snow < 0.6 and rise > 0.15:
            white = planes(land.lit((0.96, 0.97, 1.0), 0.5)) * (0.78 + 0.22 * lit)
            snowy = ((0.05 + 0.06 * snow) * short - down) + (canvas.grain[window] + notch) * (0.025 * short)
            paint += (white - paint) * np.minimum(np.maximum(snowy, 0), 1)
        paint += (planes(land.light.haze) - paint) * (part * part * (0.25 + 0.4 * land.haze))
        canvas.paint(window, canvas.cover(window, distance * 0.6, 0.8), paint, tag)


def draw_grass(canvas: Canvas, land: Land, key: int, tag: int) -> None:
    """The ground from the horizon to the bottom, with soft hills behind it, patches and blades that grow with depth."""
    height, short = canvas.height, min(canvas.height, canvas.width)
    first = max(int((land.horizon - land.hill) * height) - 1, 0)
    y = canvas.y[first:]  # (h, 1)
    t = np.minimum(np.maximum((y * (1 / height) - land.horizon) * (1 / (1 - land.horizon)), 0), 1)  # (h, 1)
    ground = planes(land.lit(land.grass)) * (0.94 + 0.06 * t)
    ground = ground + (planes(land.light.haze) - ground) * ((1 - t) * (1 - t) * land.haze)  # (3, h, 1)
    # Rows of the patches crowd together towards the horizon, as perspective does.
    rows = (3.2 / (t[:, 0] + 0.14)).astype(np.float32)
    patches = smooth_noise(key, 30, rows, canvas.x[0] * (5 / short))  # (h, W)
    where = patches.copy()
    patches *= 0.10
    patches += canvas.grain[first:] * (0.03 + 0.10 * t)
    patches += 1
    ground = ground * patches
    if land.flowers:
        meadow = (canvas.grain[first:] - 0.52) * 9 * np.minimum(np.maximum(where * 12, 0), 1)
        meadow = np.minimum(np.maximum(meadow, 0), 1) * np.minimum(np.maximum(t * 3 - 0.5, 0), 0.8)
        ground += (planes(land.lit(land.flowers)) - ground) * meadow
    ridge = smooth_noise(key, 31, np.zeros(1, np.float32), canvas.x[0] * (2.3 / short))  # (1, W)
    skyline = land.horizon * height - (0.5 + 0.5 * ridge) * (land.hill * height)
    window = slice(first, height), slice(0, canvas.width)
    canvas.paint(window, canvas.cover(window, skyline - y), ground, tag)


def draw_water(canvas: Canvas, land: Land, key: int, tag: int) -> None:
    """Water mirrors the picture above the horizon, broken by ripples, with a darker bank."""
    if land.water is None:
        return
    height, short = canvas.height, min(canvas.height, canvas.width)
    first = min(max(int(land.horizon * height), 0), height - 1)
    window = slice(first, height), slice(0, canvas.width)
    y = canvas.y[first:]
    distance = land.water.distance(canvas.x * (1 / canvas.width), y * (1 / height), canvas.width, height)
    distance = distance + canvas.grain[window] * (0.006 * short)
    t = (y * (1 / height) - land.horizon) * (1 / (1 - land.horizon))
    mirrored = np.maximum(first - 1 - np.arange(height - first) * first // (height - first), 0)
    ripple = smooth_noise(key, 40, (9 / (t[:, 0] + 0.2)).astype(np.float32), canvas.x[0] * (9 / short))
    paint = canvas.image[:, mirrored]  # (3, h, W)
    paint *= 0.80 + ripple * 0.10
    tint = planes(land.lit(rgb(58, 112, 140)))
    paint += (tint - paint) * (0.25 + 0.25 * t)
    bank = planes(land.lit(mix(land.grass, rgb(150, 130, 92), 0.6), 1.0, 0.75))
    canvas.paint(window, canvas.cover(window, distance - 0.012 * short * (0.3 + t)), bank + np.zeros_like(paint))
    canvas.paint(window, canvas.cover(window, distance), paint, tag)


def draw_roads(canvas: Canvas, land: Land, tag: int) -> None:
    """Roads with a pale verge, a grainy surface and a dashed middle line."""
    height, width, short = canvas.height, canvas.width, min(canvas.height, canvas.width)
    first = min(max(int(land.horizon * height), 0), height - 1)
    u, v = canvas.x * (1 / width), canvas.y[first:] * (1 / height)
    t = (v - land.horizon) * (1 / (1 - land.horizon))  # (h, 1)
    for road in land.roads:
        window = slice(first, height), slice(0, width)
        distance = road.distance(u, v, width, height)
        surface = planes(land.lit(land.road_color))
        surface = surface + (planes(land.light.haze) - surface) * ((1 - t) * (1 - t) * land.haze)
        paint = surface * (1 + canvas.grain[window] * 0.07)
        pale = planes(land.lit(mix(land.road_color, (0.96, 0.94, 0.88), 0.45)))
        edge = np.minimum(np.maximum(distance * (1 / short) * 60 / (t + 0.1) + 2.0, 0), 1) * 0.7
        paint += (pale - paint) * edge
        paint += (pale - paint) * _dashes(road, u, v, t, width, height)
        canvas.paint(window, canvas.cover(window, distance), paint, tag)


def _dashes(road: Band, u: Floats, v: Floats, t: Floats, width: int, height: int) -> Floats:
    """Coverage of the dashed line along the middle of a road."""
    if isinstance(road, Receding):
        along = 2.2 / (t + 0.12)  # (h, 1)
        off = abs(u - road.centre(t)) * width - t * (road.half * 0.05 * width)
    else:
        assert isinstance(road, Crossing)
        along = u * 9
        off = abs(v - road.middle(u)) * height - road.half * 0.06 * height
    on = np.minimum(np.maximum((abs(along - np.floor(along) - 0.5) - 0.22) * 12, 0), 1)
    return np.minimum(np.maximum(0.5 - off, 0), 1) * on
