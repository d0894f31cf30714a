"""The types that flow between the parts of seglib. Every convention of the package is stated here, once.

Images      float32 RGB in [0, 1], ``(3, H, W)``; batches ``(B, 3, H, W)``. Any H and W.
Labels      int64 category ids, ``(H, W)``. Ids are contiguous from 0, things first, then stuff; 255 is void.
Boxes       ``xyxy`` in continuous pixel coordinates: the pixel in column x covers [x, x + 1], its centre is x + 0.5.
Points      ``(x, y)`` in the same coordinates.
Masks       bool ``(N, H, W)``.
Weights     of pixels in a loss: float32 ``(H, W)``, at least 0; batches ``(B, H, W)``.
Panoptic    an int32 map of segment ids (0 = void) and the list of its segments.
Volumes     ``(C, D, H, W)`` with spacing in millimetres as ``(z, y, x)``.

Empty is normal: zero instances and an all-void map are valid everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

VOID = 255
"""The id of void (ignored, unlabelled) pixels in semantic maps."""


@dataclass(frozen=True, slots=True)
class Category:
    """One row of a dataset's class table. ``color`` is 8-bit RGB; ``isthing`` tells countable things from stuff."""

    id: int
    name: str
    isthing: bool
    color: tuple[int, int, int]


def check_categories(categories: Sequence[Category]) -> tuple[Category, ...]:
    """The categories as a tuple, after checking that they form a valid class table.

    Raises:
        ValueError: when ids are not 0, 1, 2, …, when a name is repeated or when a stuff class precedes a thing class.
    """
    table = tuple(categories)
    ids = [c.id for c in table]
    if ids != list(range(len(table))):
        raise ValueError(f"category ids must be 0..{len(table) - 1} in order, got {ids}; remap them to be contiguous")
    names = [c.name for c in table]
    if len(set(names)) != len(names):
        raise ValueError(f"category names must be unique, {sorted({n for n in names if names.count(n) > 1})} repeat")
    if sorted((c.isthing for c in table), reverse=True) != [c.isthing for c in table]:
        first = next(c.name for c, d in zip(table, table[1:], strict=False) if d.isthing and not c.isthing)
        raise ValueError(f"things come first, then stuff; the stuff class {first!r} stands before a thing class")
    return table


class _Moves:
    """``to`` and ``pin_memory`` for dataclasses that hold tensors, lists of tensors or further such dataclasses."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """A copy with every tensor on ``device``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """A copy with every tensor in page-locked memory, from which a GPU copies while the program goes on."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        def walk(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(value)
            if isinstance(value, _Moves):
                return value._map(change)
            if isinstance(value, list | tuple) and value and isinstance(value[0], Tensor | _Moves):
                return [walk(v) for v in value]
            return value

        parts = fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
        return replace(self, **{f.name: walk(getattr(self, f.name)) for f in parts})  # type: ignore[type-var]


@dataclass(frozen=True)
class Instances(_Moves):
    """N objects of one image.

    Attributes:
        masks: ``(N, H, W)`` bool.
        labels: ``(N,)`` int64 category ids.
        boxes: ``(N, 4)`` float32 ``xyxy``.
        scores: ``(N,)`` float32 in [0, 1] for predictions, ``None`` for ground truth.
        iscrowd: ``(N,)`` bool, true where one mask covers many objects; ``None`` means that none does.
    """

    masks: Tensor
    labels: Tensor
    boxes: Tensor
    scores: Tensor | None = None
    iscrowd: Tensor | None = None

    def __post_init__(self) -> None:
        n = self.masks.shape[0]
        shapes = {"labels": (n,), "boxes": (n, 4), "scores": (n,), "iscrowd": (n,)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"{n} masks need {name} of shape {shape}, got {tuple(value.shape)}")

    def __len__(self) -> int:
        return self.masks.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Self:
        """The objects picked by a slice, a bool mask ``(N,)`` or int indices."""
        return replace(self, **{f.name: v[index] for f in fields(self) if (v := getattr(self, f.name)) is not None})


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a panoptic map: its id in the map, its class, and its area in pixels."""

    id: int
    category_id: int
    isthing: bool
    area: int
    score: float | None = None


@dataclass(frozen=True)
class Panoptic(_Moves):
    """A panoptic segmentation: ``map`` int32 ``(H, W)`` of segment ids (0 = void), ``segments`` describes each id."""

    map: Tensor
    segments: list[Segment] = field(default_factory=list)


@dataclass(frozen=True)
class Semantic(_Moves):
    """A semantic prediction: ``labels`` int64 ``(H, W)`` and class probabilities ``probs`` float32 ``(K, H, W)``."""

    labels: Tensor
    probs: Tensor


@dataclass(frozen=True)
class Sample(_Moves):
    """One image with whatever annotations its dataset has.

    Attributes:
        image: ``(3, H, W)`` float32 in [0, 1].
        id: a name that finds this sample again (a file stem, a scene index).
        semantic: ``(H, W)`` int64 or ``None``.
        instances: the countable objects, or ``None``.
        panoptic: the panoptic map, or ``None``.
        pixel_weight: ``(H, W)`` float32, at least 0: how much each pixel counts in a loss; ``None`` means all alike.
    """

    image: Tensor
    id: str
    semantic: Tensor | None = None
    instances: Instances | None = None
    panoptic: Panoptic | None = None
    pixel_weight: Tensor | None = None


@dataclass(frozen=True)
class Targets(_Moves):
    """The annotations of a batch.

    Attributes:
        semantic: ``(B, H, W)`` int64 or ``None``.
        instances: the objects of each image, or ``None``.
        panoptic: the panoptic map of each image, or ``None``.
        pixel_weight: ``(B, H, W)`` float32, at least 0: how much each pixel counts in a loss; ``None`` means all alike.
    """

    semantic: Tensor | None = None
    instances: list[Instances] | None = None
    panoptic: list[Panoptic] | None = None
    pixel_weight: Tensor | None = None


@dataclass(frozen=True)
class Batch(_Moves):
    """What a model trains on: ``images`` ``(B, 3, H, W)``, its targets, and for every image its id and true (H, W)."""

    images: Tensor
    targets: Targets
    ids: list[str]
    sizes: list[tuple[int, int]]


@dataclass(frozen=True)
class DenseOutput:
    """What a semantic model returns: ``logits`` ``(B, K, H, W)`` at input size, and an auxiliary head's or ``None``."""

    logits: Tensor
    aux: Tensor | None = None


torch.export.register_dataclass(DenseOutput, serialized_type_name="seglib.DenseOutput")
