"""Where the things of a scene stand: villages, groves, groups of people, cars on roads, flocks and balloons."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from seglib.data._landscape import Band, Crossing, Land, Receding
from seglib.data._noise import Draws

HOUSE, TREE, CAR, PERSON, LAMP, BALLOON, BIRD = range(7)

_MOST = 200  # owners of a pixel are 8-bit numbers


@dataclass(frozen=True)
class Thing:
    """One object of the plan: its class, its foot (or, in the sky, its centre) as fractions, its own numbers.

    Attributes:
        category: the category id.
        u: the column, as a fraction of the width.
        v: the row, as a fraction of the height.
        depth: 0 at the horizon, 1 at the bottom of the image. In the sky: half the thing's width, as a fraction of
            the image's shorter side.
        r: eight numbers in [0, 1).
        blend: share of the land's own colours mixed into the thing's, which makes it harder to tell apart.
        along: for cars, whether the road leads away from the viewer (they show their front or back).
    """

    category: int
    u: float
    v: float
    depth: float
    r: tuple[float, ...]
    blend: float = 0.0
    along: bool = False


def plan_things(key: int, land: Land, difficulty: float, share: dict[str, float], wide: float) -> list[Thing]:
    """The things of a scene, far to near: balloons, everything that stands on the ground, birds.

    Args:
        key: the key of the scene.
        land: what they stand on.
        difficulty: in [0, 1]: more of them, in colours nearer to those of the land.
        share: class name → multiplier of how many there are.
        wide: width over the shorter side; wide images hold more.

    Returns:
        At most 200 things.
    """
    crowd = (0.75 + 0.5 * difficulty) * (0.6 + 0.4 * wide)
    planners: tuple[tuple[str, Callable[[Draws, Land, float, float], list[Thing]]], ...] = (
        ("balloon", _balloons),
        ("house", _houses),
        ("tree", _trees),
        ("car", _cars),
        ("lamp", _lamps),
        ("person", _people),
        ("bird", _birds),
    )
    things: list[Thing] = []
    for stream, (name, planner) in enumerate(planners):
        things += planner(Draws(key, 100 + stream), land, crowd * share[name], 0.75 * difficulty)
    order = {BALLOON: 0, BIRD: 2}
    return sorted(things[:_MOST], key=lambda thing: (order.get(thing.category, 1), thing.v))


def _count(draws: Draws, expected: float) -> int:
    """A whole number whose mean is ``expected``."""
    return math.floor(expected + draws())


def _ground(
    draws: Draws, land: Land, low: float, high: float, margin: float, *, road: bool = False
) -> tuple[float, float] | None:
    """A dry point (u, depth) off the road, or anywhere dry with ``road``; ``None`` when eight tries found none."""
    for _ in range(8):
        u, t = draws(-0.02, 1.02), draws(low, high)
        v = land.horizon + t * (1 - land.horizon)
        if not land.on_water(u, v, margin * 0.4) and (road or not land.on_road(u, v, margin)):
            return u, t
    return None


def _thing(draws: Draws, land: Land, category: int, u: float, t: float, blend: float, along: bool = False) -> Thing:
    v = land.horizon + t * (1 - land.horizon)
    return Thing(category, u, v, t, draws.many(8), blend * draws() * draws(), along)


def _houses(draws: Draws, land: Land, crowd: float, blend: float) -> list[Thing]:
    things: list[Thing] = []
    for _ in range(_count(draws, draws(0.3, 4.2) * crowd)):
        spot = _ground(draws, land, 0.10, 0.45, 0.07)
        if spot and all(abs(spot[0] - other.u) > 0.5 * (spot[1] + other.depth) * 0.5 for other in things):
            things.append(_thing(draws, land, HOUSE, *spot, blend))
    return things


def _trees(draws: Draws, land: Land, crowd: float, blend: float) -> list[Thing]:
    things: list[Thing] = []
    for _ in range(_count(draws, draws(1, 6) * crowd)):
        far = draws()
        spot = _ground(draws, land, 0.06, 0.30 + 0.55 * far * far, 0.02)
        if spot:
            things.append(_thing(draws, land, TREE, *spot, blend))
    for _ in range(_count(draws, draws(0.0, 1.4) * crowd)):  # groves
        spot = _ground(draws, land, 0.06, 0.35, 0.04)
        if not spot:
            continue
        first = _thing(draws, land, TREE, *spot, blend)
        for _ in range(draws.whole(3, 6)):
            u, t = spot[0] + draws(-0.5, 0.5) * (0.15 + 0.5 * spot[1]), spot[1] + draws(-0.03, 0.03)
            t = max(t, 0.05)
            v = land.horizon + t * (1 - land.horizon)
            if land.on_water(u, v) or land.on_road(u, v, 0.01):
                continue
            own = draws.many(8)
            alike = (*own[:2], first.r[2], first.r[3], first.r[4], *own[5:])  # a grove is of one species
            things.append(Thing(TREE, u, v, t, alike, blend * draws() * draws()))
    return things


def _cars(draws: Draws, land: Land, crowd: float, blend: float) -> list[Thing]:
    things: list[Thing] = []
    for road in land.roads:
        for _ in range(_count(draws, draws(0, 2.6) * crowd)):
            things.append(_on_road(draws, land, road, draws(), blend))
        for _ in range(_count(draws, 0.35 * crowd)):  # a queue, bumper to bumper
            start = draws(0.05, 0.7)
            for n in range(draws.whole(2, 4)):
                things.append(_on_road(draws, land, road, start, blend, behind=n))
    if not land.roads:  # parked on the grass
        for _ in range(_count(draws, draws(0, 1.6) * crowd)):
            spot = _ground(draws, land, 0.12, 0.5, 0.02)
            if spot:
                things.append(_thing(draws, land, CAR, *spot, blend))
    return things


def _on_road(draws: Draws, land: Land, road: Band, place: float, blend: float, behind: int = 0) -> Thing:
    """A car in the right-hand lane of a road: ``place`` in [0, 1) along it, ``behind`` cars from there."""
    if isinstance(road, Receding):
        side = 1.0 if draws() < 0.6 else -1.0
        t = min((0.14 + 0.55 * place * place) * (1 + 0.26 * behind), 1.0)
        return _thing(draws, land, CAR, road.centre(t) + side * 0.5 * road.half * t, t, blend, True)
    assert isinstance(road, Crossing)
    lane = -0.35 if draws() < 0.5 and not behind else 0.55
    v = road.mid + lane * road.half
    length = 4.8 * (v - land.horizon) / land.camera
    u = place + behind * length
    v = road.middle(u) + lane * road.half
    return _thing(draws, land, CAR, u, (v - land.horizon) / (1 - land.horizon), blend)


def _lamps(draws: Draws, land: Land, crowd: float, blend: float) -> list[Thing]:
    things: list[Thing] = []
    for road in land.roads:
        side = 1.0 if draws() < 0.5 else -1.0
        count, phase = _count(draws, draws(1.0, 4.0) * crowd), draws()
        for n in range(count):
            if isinstance(road, Receding):  # evenly along the road: nearer ones are further apart in the image
                t = 0.95 / (1.0 + (n + phase) * 0.75)
                u = road.centre(t) + side * (road.half * t * 1.15 + 0.01)
            else:
                assert isinstance(road, Crossing)
                u = (n + phase) / max(count, 1)
                t = (road.middle(u) - 1.15 * road.half - land.horizon) / (1 - land.horizon)
            if t > 0.05 and not land.on_water(u, land.horizon + t * (1 - land.horizon)):
                things.append(_thing(draws, land, LAMP, u, t, blend))
    if not land.roads:
        for _ in range(_count(draws, draws(0, 1.5) * crowd)):
            spot = _ground(draws, land, 0.15, 0.5, 0.0)
            if spot:
                things.append(_thing(draws, land, LAMP, *spot, blend))
    return things


def _people(draws: Draws, land: Land, crowd: float, blend: float) -> list[Thing]:
    things: list[Thing] = []
    for _ in range(_count(draws, draws(0.5, 4.0) * crowd)):
        spot = _ground(draws, land, 0.22, 0.95, 0.0, road=draws() < 0.3)
        if spot:
            things.append(_thing(draws, land, PERSON, *spot, blend))
    for _ in range(_count(draws, draws(0, 1.3) * crowd)):  # groups that stand together
        spot = _ground(draws, land, 0.25, 0.85, 0.0)
        if not spot:
            continue
        for n in range(draws.whole(2, 5)):
            apart = 0.85 * spot[1] * (1 - land.horizon) / land.camera
            u, t = spot[0] + (n + draws(-0.25, 0.25)) * apart, spot[1] + draws(-0.02, 0.02)
            person = _thing(draws, land, PERSON, u, t, blend)
            if not land.on_water(person.u, person.v):
                things.append(person)
    return things


def _balloons(draws: Draws, land: Land, crowd: float, blend: float) -> list[Thing]:
    things: list[Thing] = []
    present = draws() < 0.45
    for _ in range(_count(draws, draws(1.0, 2.6) * crowd if present else 0.0)):
        near = draws()
        size = 0.035 + 0.075 * near * near
        v = draws(0.08, max(land.horizon - 0.12, 0.1))
        things.append(Thing(BALLOON, draws(0.04, 0.96), v, size, draws.many(8), blend * draws() * draws()))
    return things


def _birds(draws: Draws, land: Land, crowd: float, blend: float) -> list[Thing]:
    things: list[Thing] = []
    present = draws() < 0.6
    u, v, size = draws(0.1, 0.9), draws(0.06, land.horizon * 0.8), draws(0.018, 0.036)
    for _ in range(_count(draws, draws(2.0, 6.0) * crowd if present else 0.0)):
        place = u + draws(-0.2, 0.2), v + draws(-0.08, 0.08)
        things.append(Thing(BIRD, *place, size * draws(0.8, 1.25), draws.many(8), blend * draws() * draws()))
    return things
