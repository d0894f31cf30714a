"""The plan of a landscape: its light, horizon, mountains, roads and water.

A plan holds fractions of the image, (u, v) with v downwards, so one composition serves every size. On the ground,
the depth t goes from 0 at the horizon to 1 at the bottom edge; perspective makes a length proportional to t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from seglib.data._colors import ASPHALT, FLOWERS, GRASS, LIGHTS, ROCK, Color, Light, choose, mix, scaled, times
from seglib.data._noise import Draws, Floats

Coordinate = TypeVar("Coordinate", float, Floats)


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
class Peak:
    """A mountain: its summit's column, its height over the horizon (shorter side = 1), slope and a snow number."""

    u: float
    rise: float
    slope: float
    snow: float


@dataclass(frozen=True)
class Land:
    """Everything about a scene that is not a thing.

    Attributes:
        light: the time of day.
        sun: from -1 (light from the left) to 1 (from the right).
        horizon: its row, as a fraction of the height.
        camera: height of the viewer in metres; the higher, the smaller the things.
        haze: share of the haze's colour at the horizon.
        clouds: from -0.35 (clear) to 0.45 (cloudy).
        grass: the colour of the grass.
        road_color: the colour of the roads.
        rock: the colour of the mountains.
        peaks: far to near.
        flowers: the colour of the flowers on the meadow, if it has some.
        hill: how far the hills behind the grass rise over the horizon, as a fraction of the height.
        roads: none, one or two.
        water: a lake, pond or river, or none.
    """

    light: Light
    sun: float
    horizon: float
    camera: float
    haze: float
    clouds: float
    grass: Color
    road_color: Color
    rock: Color
    peaks: tuple[Peak, ...]
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
    rock = choose(ROCK, draws())
    has_peaks = draws() < 0.75 * share["mountain"]
    peaks = [
        Peak(draws(-0.05, 1.05), draws(0.09, 0.30) * (0.6 + horizon), draws(0.8, 1.7), draws())
        for _ in range(draws.whole(2, 5))
    ]
    roads = _plan_roads(draws, horizon, share["road"])
    # A road to the horizon would run into a lake there; such a scene gets one of the other waters.
    to_horizon = any(isinstance(road, Receding) for road in roads)
    water = _plan_water(draws, horizon, share["water"], lake=not to_horizon)
    grass = choose(GRASS, draws())
    road_color = choose(ASPHALT, draws())
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
        peaks=tuple(sorted(peaks, key=lambda peak: -peak.rise)) if has_peaks else (),
        flowers=choose(FLOWERS, draws()) if draws() < 0.4 else None,
        hill=draws(0.01, 0.06) if draws() < 0.6 else 0.0,
        roads=roads,
        water=water,
    )


def _plan_roads(draws: Draws, horizon: float, share: float) -> tuple[Band, ...]:
    away = Receding(horizon, draws(0.25, 0.75), draws(0.1, 0.9), draws(-0.9, 0.9), draws(0.14, 0.30))
    below = draws(0.22, 0.56) * (1 - horizon)
    across = Crossing(horizon + below, draws(-0.12, 0.12), draws(-0.25, 0.25), below * draws(0.14, 0.24))
    layout, present = draws(), draws() < 0.88 * share
    if not present:
        return ()
    return (away,) if layout < 0.5 else (across,) if layout < 0.85 else (away, across)


def _plan_water(draws: Draws, horizon: float, share: float, lake: bool) -> Band | None:
    ground = 1 - horizon
    shape, present = draws(), draws() < 0.6 * share
    shape = shape if lake else 0.3 + 0.7 * shape
    a, b, c, d = draws.many(4)
    if not present:
        return None
    if shape < 0.3:  # a lake, from the horizon to a shore
        half = ground * (0.06 + 0.12 * a)
        return Crossing(horizon + half - 0.01, 0.10 * (b - 0.5), 0.3 * (c - 0.5), half)
    if shape < 0.55:
        return Pond(0.1 + 0.8 * a, horizon + ground * (0.3 + 0.4 * b), 0.16 + 0.2 * c, ground * (0.09 + 0.09 * d))
    if shape < 0.8:  # a winding river
        return Receding(horizon, 0.15 + 0.7 * a, -0.2 + 1.4 * b, 2.4 * (c - 0.5), 0.16 + 0.16 * d)
    return Crossing(horizon + ground * (0.35 + 0.4 * a), 0.3 * (b - 0.5), 0.4 * (c - 0.5), ground * (0.06 + 0.06 * d))
