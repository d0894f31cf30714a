"""Synthetic landscapes with every annotation: the 2D dataset on which the systems of the book are trained and compared.

Each scene is a pure function of ``(seed, index)``: a plan in fractions of the image (light, horizon, roads, water,
where every thing stands), then its drawing, back to front, then what a camera does to it (blur, noise, a smudge on the
lens). Every pixel has one owner, so the semantic, instance and panoptic annotations agree by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from seglib.data._canvas import Canvas
from seglib.data._colors import planes
from seglib.data._landscape import Land, plan_land
from seglib.data._noise import Draws, Floats, hashed, scene_key, smooth_noise
from seglib.data._plan import BALLOON, BIRD, Thing, plan_things
from seglib.data._scenery import draw_grass, draw_peaks, draw_roads, draw_sky, draw_water
from seglib.data._things import DRAW, Spot, draw_shadow
from seglib.data.checks import LabelCounts, count_samples
from seglib.types import VOID, Category, Instances, Panoptic, Sample, Segment, check_categories

# The colours keep apart, in normal vision and in the three common colour deficiencies, by at least 25 units of CIELAB.
CATEGORIES: tuple[Category, ...] = check_categories(
    [
        Category(0, "house", True, (212, 69, 3)),
        Category(1, "tree", True, (0, 60, 20)),
        Category(2, "car", True, (255, 191, 5)),
        Category(3, "person", True, (240, 90, 185)),
        Category(4, "lamp", True, (233, 235, 135)),
        Category(5, "balloon", True, (86, 0, 100)),
        Category(6, "bird", True, (35, 20, 40)),
        Category(7, "sky", False, (185, 238, 230)),
        Category(8, "mountain", False, (182, 110, 240)),
        Category(9, "grass", False, (95, 170, 111)),
        Category(10, "water", False, (0, 65, 225)),
        Category(11, "road", False, (101, 101, 101)),
    ]
)

_STUFF = 7  # the first stuff category; owner 1 + n is stuff category 7 + n, things have the owners from 6 on
_FIRST_THING = len(CATEGORIES) - _STUFF + 1
_SMALLEST = 4  # a thing with fewer visible pixels is not annotated: its pixels become void
_SPLITS = ("train", "val", "test")

Packed = tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[int, ...]]


def make_scene(
    seed: int,
    index: int,
    *,
    size: int | tuple[int, int] = 128,
    difficulty: float = 0.5,
    balance: Mapping[str, float] | None = None,
) -> Sample:
    """Scene ``index`` of the series ``seed``, with semantic, instance and panoptic annotations.

    Args:
        seed: which series of scenes, at least 0.
        index: which scene of the series, at least 0.
        size: height and width in pixels, at least 32; one number for a square. The composition scales with it.
        difficulty: from 0 (clear, colourful) to 1 (noise, haze, crowds, things in the colours of what is behind them).
        balance: class name → how many times as often it occurs, up to 10 (0 removes it). For road, water and mountain
            it multiplies the chance to be in a scene, at most to 1. Sky and grass are in every scene.

    Returns:
        A sample whose image holds exact multiples of 1/255. Void pixels (255, segment 0) are smudges on the lens, in
        about one scene in seven, and things of which fewer than 4 pixels can be seen.

    Raises:
        ValueError: on a value out of its range or an unknown class name.
    """
    height, width, share = _check(seed, index, size, difficulty, balance)
    return _annotate(_draw(scene_key(seed, index), height, width, difficulty, share), f"scene-{seed}-{index}")


class Scenes(Dataset[Sample]):
    """A map-style dataset of synthetic scenes.

    Item i is ``make_scene(3 * seed + split, i)``, so splits never share a scene.

    With ``cache`` every scene is kept after its first use, packed to 4 bytes a pixel (64 KiB at 128 × 128, so 1000
    scenes take 64 MiB). A copy sent to another process starts empty; workers of a ``DataLoader`` keep their own cache
    between epochs with ``persistent_workers=True``.

    Args:
        length: number of scenes.
        split: ``"train"``, ``"val"`` or ``"test"``.
        seed: another seed gives other scenes in every split.
        size: height and width in pixels, or one number for a square.
        difficulty: from 0 (clear, colourful) to 1 (noise, haze, crowds, camouflage).
        balance: class name → how many times as often it occurs, up to 10 (0 removes it).
        transform: applied to every sample, each time it is read.
        cache: keep drawn scenes in memory.

    Attributes:
        categories: the class table, :data:`CATEGORIES`.
        file_ids: category id → id in files; there are none, so the ids stay as they are.
        void_id: 255.
        size: the ``(H, W)`` of all scenes.

    Raises:
        ValueError: on a value out of its range, an unknown split or an unknown class name.
    """

    categories = CATEGORIES
    file_ids: tuple[int | None, ...] = tuple(c.id for c in CATEGORIES)
    void_id: int | None = VOID

    def __init__(
        self,
        length: int,
        *,
        split: str = "train",
        seed: int = 0,
        size: int | tuple[int, int] = 128,
        difficulty: float = 0.5,
        balance: Mapping[str, float] | None = None,
        transform: Callable[[Sample], Sample] | None = None,
        cache: bool = True,
    ) -> None:
        if length < 0:
            raise ValueError(f"length must be at least 0, got {length}; pass the number of scenes")
        if split not in _SPLITS:
            raise ValueError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
        self._height, self._width, self._share = _check(seed, 0, size, difficulty, balance)
        self.size = (self._height, self._width)
        self._length, self._split, self._difficulty = length, split, difficulty
        self._seed = len(_SPLITS) * seed + _SPLITS.index(split)
        self._transform = transform
        self._cache: dict[int, Packed] | None = {} if cache else None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        if not -self._length <= index < self._length:
            raise IndexError(f"scene {index} is out of range: this split has {self._length}")
        index = int(index) % self._length
        sample = _annotate(self._packed(index), f"{self._split}-{self._seed}-{index}")
        return self._transform(sample) if self._transform else sample

    def count_labels(self, needs: str, indices: Sequence[int]) -> LabelCounts:
        """What :func:`seglib.data.checks.count_labels` asks for, in 32 scenes at most, before their transform.

        Even balloons, the rarest class, are in four scenes of ten; that 32 have none is one chance in ten million.
        """
        drawn = (_annotate(self._packed(i), str(i)) for i in indices[:32])
        return count_samples(drawn, needs, len(CATEGORIES), len(self))

    def _packed(self, index: int) -> Packed:
        packed = self._cache.get(index) if self._cache is not None else None
        if packed is None:
            key = scene_key(self._seed, index)
            packed = _draw(key, self._height, self._width, self._difficulty, self._share)
            if self._cache is not None:
                self._cache[index] = packed
        return packed

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None if self._cache is None else {}}


def _check(
    seed: int, index: int, size: int | tuple[int, int], difficulty: float, balance: Mapping[str, float] | None
) -> tuple[int, int, dict[str, float]]:
    """Height, width and the multiplier of every class, after checking what the user passed."""
    if not (0 <= seed < 1 << 60 and 0 <= index < 1 << 60):
        raise ValueError(f"seed and index must be at least 0 and below 2^60, got seed {seed} and index {index}")
    height, width = (int(n) for n in (size if isinstance(size, tuple | list) else (size, size)))
    if min(height, width) < 32:
        raise ValueError(f"size {height} × {width} is too small to draw; pass at least 32 × 32 and resize")
    if not 0 <= difficulty <= 1:
        raise ValueError(f"difficulty must be between 0 and 1, got {difficulty}")
    share = {category.name: 1.0 for category in CATEGORIES}
    for name, factor in (balance or {}).items():
        if name not in share:
            raise ValueError(f"balance names the class {name!r}; the classes are {', '.join(share)}")
        if name in ("sky", "grass"):
            raise ValueError(f"balance names {name!r}, which every scene needs; change the other classes instead")
        if not 0 <= factor <= 10:
            raise ValueError(f"balance[{name!r}] must be between 0 and 10, got {factor}")
        share[name] = float(factor)
    return height, width, share


def _draw(key: int, height: int, width: int, difficulty: float, share: dict[str, float]) -> Packed:
    """Image (3, H, W) uint8, owners (H, W) uint8 and the category of each owner (index 0 is void)."""
    land = plan_land(Draws(key, 0), difficulty, share)
    things = plan_things(key, land, difficulty, share, width / min(height, width))
    canvas = Canvas(height, width, _grain(key, height, width), land.sun)
    sky, mountain, grass, water, road = range(1, _FIRST_THING)
    draw_sky(canvas, land, key, sky)
    draw_peaks(canvas, land, key, mountain)
    draw_grass(canvas, land, key, grass)
    draw_water(canvas, land, key, water)
    draw_roads(canvas, land, road)
    spots = [_spot(thing, land, height, width, _FIRST_THING + n) for n, thing in enumerate(things)]
    for thing, spot in zip(things, spots, strict=True):
        if thing.category not in (BALLOON, BIRD):
            draw_shadow(canvas, land, thing, spot)
    for thing, spot in zip(things, spots, strict=True):
        DRAW[thing.category](canvas, land, thing, spot)
    image = _expose(canvas, land, key, difficulty)
    categories = (VOID, *range(_STUFF, len(CATEGORIES)), *(thing.category for thing in things))
    area = np.bincount(canvas.owner.ravel(), minlength=len(categories))
    area[_FIRST_THING:][area[_FIRST_THING:] < _SMALLEST] = 0
    kept = np.where(area > 0, np.arange(len(categories)), 0).astype(np.uint8)
    return image, kept[canvas.owner], categories


def _spot(thing: Thing, land: Land, height: int, width: int, tag: int) -> Spot:
    """Pixels per metre follow from perspective; things in the sky carry their own size."""
    short = min(height, width)
    if thing.category in (BALLOON, BIRD):
        k = thing.depth * short
    else:
        k = short * (thing.v - land.horizon) / land.camera
    return Spot(thing.u * width, thing.v * height, k, tag)


def _grain(key: int, height: int, width: int) -> Floats:
    """The texture that everything shares: two octaves of smooth noise (H, W) in [-1, 1]."""
    short = min(height, width)
    rows = np.arange(height, dtype=np.float32) * np.float32(1 / short)
    columns = np.arange(width, dtype=np.float32) * np.float32(1 / short)
    grain = smooth_noise(key, 1, rows * 52, columns * 52)
    grain *= 0.65
    grain += smooth_noise(key, 2, rows * 20, columns * 20) * 0.35
    return grain


def _expose(canvas: Canvas, land: Land, key: int, difficulty: float) -> NDArray[np.uint8]:
    """What the camera does: a smudge on the lens, slight blur, lost contrast, noise; then 8 bits (3, H, W)."""
    draws = Draws(key, 4)
    image = canvas.image
    if draws() < 0.15:
        _smudge(canvas, land, draws)
    soft = draws(0.0, 0.10) + 0.08 * difficulty
    for before, middle, after in (
        (image[:, :, :-2], image[:, :, 1:-1], image[:, :, 2:]),
        (image[:, :-2], image[:, 1:-1], image[:, 2:]),
    ):
        middle += ((before + after) - 2 * middle) * soft
    lost = 0.22 * difficulty * draws()
    bits = hashed(key, 5, image.size).reshape(image.shape)
    noise = (bits & np.uint32(0xFFFF)).astype(np.float32)
    noise += (bits >> np.uint32(16)).astype(np.float32)
    noise -= 65535  # triangular, with standard deviation 65536 / sqrt(6)
    noise *= (1.0 + (3.0 + 14.0 * draws()) * difficulty) * (2.449 / 65536)
    image = image * (255 * (1 - lost))
    image += planes(land.light.haze) * (255 * lost) + 0.5
    image += noise
    return np.minimum(np.maximum(image, 0), 255).astype(np.uint8)


def _smudge(canvas: Canvas, land: Land, draws: Draws) -> None:
    """A greasy spot on the lens: milky, without edges, and nobody's: void."""
    short = canvas.short
    x, y = draws(0, canvas.width), draws(0, canvas.height)
    rx, ry = draws(0.10, 0.22) * short, draws(0.07, 0.15) * short
    window = canvas.window(x - 1.5 * rx, y - 1.5 * ry, x + 1.5 * rx, y + 1.5 * ry)
    if window is None:
        return
    u, v = (canvas.x[:, window[1]] - x) * (1 / rx), (canvas.y[window[0]] - y) * (1 / ry)
    q = u * u + v * v
    canvas.paint(window, np.minimum(np.maximum(1.5 - q, 0), 0.72), land.light.haze)
    np.copyto(canvas.owner[window], np.uint8(0), where=q < 1)


def _annotate(packed: Packed, name: str) -> Sample:
    """Tensors of every annotation from the packed scene."""
    pixels, owner, categories = packed
    area = np.bincount(owner.ravel(), minlength=len(categories)).tolist()
    table = np.array(categories, np.int64)
    present = [n for n in range(1, len(categories)) if area[n]]
    things = [n for n in present if n >= _FIRST_THING]
    masks = owner == np.array(things, np.uint8)[:, None, None]  # (N, H, W)
    segments = [Segment(n, categories[n], n >= _FIRST_THING, area[n]) for n in present]
    return Sample(
        image=torch.from_numpy(pixels).to(torch.float32) / 255,
        id=name,
        semantic=torch.from_numpy(np.take(table, owner)),
        instances=Instances(torch.from_numpy(masks), torch.from_numpy(table[things]), _boxes(owner, things)),
        panoptic=Panoptic(torch.from_numpy(owner.astype(np.int32)), segments),
    )


def _boxes(owner: NDArray[np.uint8], things: list[int]) -> Tensor:
    """The tight boxes (N, 4) of the owners that are listed; each has a pixel."""
    rows, columns = np.nonzero(owner >= _FIRST_THING)
    who = owner[rows, columns]
    boxes = np.zeros((4, 256), np.int64)
    boxes[:2] = max(owner.shape)
    np.minimum.at(boxes[0], who, columns)
    np.minimum.at(boxes[1], who, rows)
    np.maximum.at(boxes[2], who, columns + 1)
    np.maximum.at(boxes[3], who, rows + 1)
    return torch.from_numpy(boxes[:, things].T.astype(np.float32))
