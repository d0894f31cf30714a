"""The types that flow between the parts of seglib. Every convention of the package is stated here, once.

- **Images**: float32 RGB in [0, 1], ``(3, H, W)``; batches ``(B, 3, H, W)``. Any H and W. Images with other channels or
  in other units (Hounsfield units, z-scores) are declared by the model's normalisation.
- **Volumes**: ``(C, D, H, W)``; batches ``(B, C, D, H, W)``; spacing of the voxels in millimetres, ``(z, y, x)``.
  Those read from files lie as a radiologist looks at them: D runs to the head, H to the back, W to the patient's left.
- **Sizes**: ``(H, W)`` of an image, ``(D, H, W)`` of a volume; a true size is without the padding of a batch.
- **Labels**: int64 category ids, ``(H, W)`` or ``(D, H, W)``. Ids are contiguous from 0; 255 is void. Instance and
  panoptic models need a table with the things first, then stuff; a semantic table may have any order.
- **Regions**: classes that may overlap, uint8 ``(K, H, W)``: 1 inside, 0 outside, 255 void.
- **Boxes**: ``xyxy`` in continuous pixel coordinates: the pixel in column x covers [x, x + 1], its centre is x + 0.5.
- **Points**: ``(x, y)`` in the same coordinates.
- **Masks**: bool ``(N, H, W)``.
- **Weights** of pixels in a loss: float32 ``(H, W)``, at least 0; batches ``(B, H, W)``.
- **Panoptic**: an int32 map of segment ids (0 = void) and the list of its segments.

Empty is normal: zero instances and an all-void map are valid everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

VOID = 255
"""The id of void (ignored, unlabelled) pixels in semantic maps."""

ANNOTATIONS = ("semantic", "instances", "panoptic", "regions")
"""The annotations of a sample that are made of classes."""

Size = tuple[int, ...]
"""``(H, W)`` of an image, ``(D, H, W)`` of a volume, in pixels."""


@dataclass(frozen=True, slots=True)
class Category:
    """One row of a dataset's class table. ``color`` is 8-bit RGB; ``isthing`` tells countable things from stuff."""

    id: int
    name: str
    isthing: bool
    color: tuple[int, int, int]


def check_categories(categories: Sequence[Category], *, things_first: bool = False) -> tuple[Category, ...]:
    """The categories as a tuple, after checking that they form a valid class table.

    Args:
        categories: the rows; the place of a row is its id.
        things_first: whether things must stand before stuff, as instance and panoptic models need them: their ids of
            things are 0 to T - 1. A semantic table may have any order, such as background first.

    Raises:
        ValueError: when a row is no :class:`Category`, when ids are not 0, 1, 2, …, when a name is repeated, or when a
            stuff class precedes a thing class where things come first.
    """
    table = tuple(categories)
    if wrong := next((c for c in table if not isinstance(c, Category)), None):
        raise ValueError(
            f"a class table has rows Category(id, name, isthing, color), got {wrong!r:.60}; "
            f"write Category(0, {wrong if isinstance(wrong, str) else 'cell'!r}, True, (230, 159, 0))"
        )
    ids = [c.id for c in table]
    if ids != list(range(len(table))):
        raise ValueError(f"category ids must be 0..{len(table) - 1} in order, got {ids}; remap them to be contiguous")
    names = [c.name for c in table]
    if len(set(names)) != len(names):
        raise ValueError(f"category names must be unique, {sorted({n for n in names if names.count(n) > 1})} repeat")
    if things_first and sorted((c.isthing for c in table), reverse=True) != [c.isthing for c in table]:
        first = next(c.name for c, d in zip(table, table[1:], strict=False) if d.isthing and not c.isthing)
        raise ValueError(
            f"the stuff class {first!r} stands before a thing class, and instance and panoptic models need things"
            " first; ids are places in the table, so where you reorder it, remap the ids of the annotations too"
        )
    return table


class _Moves:
    """What dataclasses can that hold tensors, lists of tensors or further such dataclasses: ``to``, ``pin_memory``, ==.

    Two are equal when all their parts are; tensors are when their types and all their numbers are. They are no keys of
    a dict.
    """

    __hash__ = None  # type: ignore[assignment]  # what is compared by its tensors isn't hashed by its identity

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and _alike(self._compared(), other._compared())

    def _compared(self) -> list[Any]:
        return [getattr(self, f.name) for f in fields(self)]  # type: ignore[arg-type]  # a dataclass, as below

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

        parts = fields(self)  # type: ignore[arg-type]  # every subclass but Instances is a dataclass
        return replace(self, **{f.name: walk(getattr(self, f.name)) for f in parts})  # type: ignore[type-var]  # a dataclass, as above


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_alike, a, b))
    return type(a) is type(b) and bool(a == b)


class PackedMasks(Protocol):
    """N masks in a form that costs little until they are asked for; ``seglib.ops.paste.MaskGrids`` is one."""

    @property
    def size(self) -> tuple[int, int]:
        """The height and width of every mask."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, index: Tensor | slice) -> Self:
        """The masks picked by a slice, a bool mask ``(N,)`` or int indices."""

    def dense(self) -> Tensor:
        """The masks, bool ``(N, H, W)``."""

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self: ...


class Instances(_Moves):
    """N objects of one image. Immutable; ``replace`` gives a changed copy.

    Predictions keep their masks packed: a hundred detections in an image of 12 megapixels take 0.3 MB as grids and
    1.2 GB as masks. Indexing and moving leave them packed; ``masks`` unpacks them, once, and keeps the result. To go
    through many large masks in bounded memory, pick one object at a time: ``instances[i].masks``.

    Args:
        masks: bool ``(N, H, W)``, or the same masks packed.
        labels: ``(N,)`` int64 category ids.
        boxes: ``(N, 4)`` float ``xyxy`` in pixels.
        scores: ``(N,)`` float in [0, 1] for predictions, ``None`` for ground truth.
        iscrowd: ``(N,)`` bool, true where one mask covers many objects; ``None`` means that none does.

    Raises:
        ValueError: when a tensor has another shape or type.
    """

    _masks: Tensor | PackedMasks
    labels: Tensor
    boxes: Tensor
    scores: Tensor | None
    iscrowd: Tensor | None

    def __init__(
        self,
        masks: Tensor | PackedMasks,
        labels: Tensor,
        boxes: Tensor,
        scores: Tensor | None = None,
        iscrowd: Tensor | None = None,
    ) -> None:
        if isinstance(masks, Tensor) and (masks.ndim != 3 or masks.dtype != torch.bool):
            raise ValueError(f"masks must be bool (N, H, W), got {masks.dtype} {tuple(masks.shape)}")
        n = len(masks)
        wanted = {"labels": (n,), "boxes": (n, 4), "scores": (n,), "iscrowd": (n,)}
        values: dict[str, Any] = {"labels": labels, "boxes": boxes, "scores": scores, "iscrowd": iscrowd}
        for name, shape in wanted.items():
            value = values[name]
            if value is None and name in ("scores", "iscrowd"):
                continue
            if not isinstance(value, Tensor):
                raise ValueError(f"{name} must be a tensor, got {type(value).__name__}; pass torch.as_tensor({name})")
            if tuple(value.shape) != shape:
                raise ValueError(f"{n} masks need {name} of shape {shape}, got {tuple(value.shape)}")
            if not _TYPES[name](value):
                raise ValueError(f"{name} must be {_TYPE_NAMES[name]}, got {value.dtype}; convert them")
        for name, value in {"_masks": masks, **values}.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Instances don't change; use instances.replace({name}=…), which gives a changed copy")

    @property
    def masks(self) -> Tensor:
        """Bool ``(N, H, W)``. Packed masks are unpacked at the first access."""
        masks = self._masks if isinstance(self._masks, Tensor) else self._masks.dense()
        object.__setattr__(self, "_masks", masks)
        return masks

    @property
    def packed(self) -> PackedMasks | None:
        """The masks as a model packed them; ``None`` when they are unpacked, as after the first look at ``masks``."""
        return None if isinstance(self._masks, Tensor) else self._masks

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the masks; asking for it unpacks nothing."""
        if isinstance(self._masks, Tensor):
            return self._masks.shape[1], self._masks.shape[2]
        return self._masks.size

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice | int) -> Instances:
        """The objects picked by a slice, a bool mask ``(N,)``, int indices, or one by its place (still N = 1).

        Raises:
            IndexError: when there is no object at that place.
        """
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"there is no object {index} among {len(self)}")
            index %= len(self)
            index = slice(index, index + 1)
        parts: Any = (None if v is None else v[index] for v in self._parts())
        return Instances(*parts)

    def __iter__(self) -> Iterator[Instances]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        height, width = self.size
        more = "".join(f", with {name}" for name in ("scores", "iscrowd") if getattr(self, name) is not None)
        return f"Instances({len(self)} of {height} x {width}{more})"

    def replace(self, **changes: Any) -> Instances:
        """A copy with some parts exchanged: ``masks``, ``labels``, ``boxes``, ``scores`` or ``iscrowd``."""
        names = ("masks", "labels", "boxes", "scores", "iscrowd")
        if unknown := set(changes) - set(names):
            raise ValueError(f"Instances have no {sorted(unknown)[0]}; replace some of {', '.join(names)}")
        return Instances(**(dict(zip(names, self._parts(), strict=True)) | changes))

    @staticmethod
    def cat(parts: Sequence[Instances]) -> Instances:
        """The objects of several ``Instances`` of one image size, in order. Packed masks are unpacked.

        Raises:
            ValueError: without any part, for masks of different sizes, or when only some parts have scores.
        """
        if not parts:
            raise ValueError("got no Instances to put together; pass at least one, which may be empty")
        if len({p.size for p in parts}) > 1:
            raise ValueError(f"masks of one image have one size, got {sorted({p.size for p in parts})}")
        scored = [p.scores is not None for p in parts]
        if any(scored) != all(scored):
            raise ValueError(f"{sum(scored)} of {len(parts)} parts have scores; give scores to all or to none")
        crowds = [p.iscrowd if p.iscrowd is not None else torch.zeros_like(p.labels, dtype=torch.bool) for p in parts]
        return Instances(
            torch.cat([p.masks for p in parts]),
            torch.cat([p.labels for p in parts]),
            torch.cat([p.boxes for p in parts]),
            torch.cat([p.scores for p in parts if p.scores is not None]) if all(scored) else None,
            torch.cat(crowds) if any(p.iscrowd is not None for p in parts) else None,
        )

    def _parts(self) -> tuple[Tensor | PackedMasks | None, ...]:
        return self._masks, self.labels, self.boxes, self.scores, self.iscrowd

    def _compared(self) -> list[Any]:
        return [self.masks, *self._parts()[1:]]

    def _map(self, change: Callable[[Tensor], Tensor]) -> Instances:
        parts: Any = (v if v is None or isinstance(v, Tensor) else v._map(change) for v in self._parts())
        return Instances(*(change(v) if isinstance(v, Tensor) else v for v in parts))

    def __reduce__(self) -> tuple[Any, ...]:
        return Instances, self._parts()


_TYPES: dict[str, Callable[[Tensor], bool]] = {
    "labels": lambda v: v.dtype == torch.int64,
    "boxes": Tensor.is_floating_point,
    "scores": Tensor.is_floating_point,
    "iscrowd": lambda v: v.dtype == torch.bool,
}
_TYPE_NAMES = {"labels": "int64", "boxes": "floats", "scores": "floats", "iscrowd": "bool"}


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a panoptic map.

    Attributes:
        id: the segment's id in the map, at least 1.
        category_id: category id of the segment.
        isthing: whether the category is a thing.
        area: number of pixels of the segment.
        score: the score in [0, 1] of a predicted thing; ``None`` for stuff and ground truth.
        iscrowd: whether the segment covers many objects of its class (ground truth alone).
    """

    id: int
    category_id: int
    isthing: bool
    area: int
    score: float | None = None
    iscrowd: bool = False


@dataclass(frozen=True, eq=False)
class Panoptic(_Moves):
    """A panoptic segmentation: ``map`` int32 ``(H, W)`` of segment ids (0 = void), ``segments`` describes each id."""

    map: Tensor
    segments: list[Segment] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Semantic(_Moves):
    """A semantic prediction: ``labels`` int64 ``(H, W)`` and class probabilities ``probs`` float32 ``(K, H, W)``.

    Of a volume ``(D, H, W)`` and ``(K, D, H, W)``. Without probabilities, which take K / 2 times the memory of the
    labels, ``probs`` is ``None``.
    """

    labels: Tensor
    probs: Tensor | None = None


@dataclass(frozen=True, eq=False)
class LabelVolume(_Moves):
    """A predicted label map of a volume, int64 or uint8 ``(D, H, W)``.

    Without probabilities: of a CT of 512×512×800 voxels and 20 classes they would take 17 GB.
    """

    labels: Tensor


@dataclass(frozen=True, eq=False)
class Regions(_Moves):
    """A prediction of regions that may overlap: ``masks`` bool ``(K, H, W)``, ``probs`` float32 of the same shape."""

    masks: Tensor
    probs: Tensor


@dataclass(frozen=True, eq=False)
class Prompts(_Moves):
    """N prompts about one image, each of which asks for one mask.

    Coordinates are those of SAM: pixels of the image as the model sees it, where the centre of the first pixel is
    (0, 0). Everything ``None`` is one prompt that says nothing.

    Attributes:
        points: clicks ``(N, P, 2)`` float, as (x, y), or ``None``.
        labels: what the clicks lie on, ``(N, P)`` int64: 1 the object, 0 the background, −1 no click (padding).
        boxes: a box around each object, ``(N, 4)`` float xyxy, or ``None``.
        masks: a mask to go on from, ``(N, h, w)`` float logits of the size of the model's own, or ``None``.

    Raises:
        ValueError: when a tensor has another shape or type, or points and labels don't come together.
    """

    points: Tensor | None = None
    labels: Tensor | None = None
    boxes: Tensor | None = None
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.points is None) != (self.labels is None):
            raise ValueError("points and labels come together; pass both, or neither")
        shapes = {"points": "(N, P, 2)", "labels": "(N, P)", "boxes": "(N, 4)", "masks": "(N, h, w)"}
        axes = {"points": 3, "labels": 2, "boxes": 2, "masks": 3}
        given = {name: getattr(self, name) for name in shapes if getattr(self, name) is not None}
        for name, value in given.items():
            last = {"points": 2, "boxes": 4}.get(name)
            if value.ndim != axes[name] or (last is not None and value.shape[-1] != last):
                raise ValueError(f"{name} of prompts have the shape {shapes[name]}, got {tuple(value.shape)}")
            if value.is_floating_point() == (name == "labels"):
                raise ValueError(
                    f"{name} of prompts are {'int64' if name == 'labels' else 'floats'}, got {value.dtype}"
                )
        if self.points is not None and self.labels is not None and self.points.shape[:2] != self.labels.shape:
            raise ValueError(
                f"points {tuple(self.points.shape)} need labels {tuple(self.points.shape[:2])}, got "
                f"{tuple(self.labels.shape)}"
            )
        if len({len(value) for value in given.values()}) > 1:
            counts = ", ".join(f"{len(value)} of {name}" for name, value in given.items())
            raise ValueError(f"all parts of prompts are of the same N prompts, got {counts}")

    def __len__(self) -> int:
        """N."""
        return next((len(v) for v in (self.points, self.boxes, self.masks) if v is not None), 1)

    def __getitem__(self, index: Tensor | slice) -> Prompts:
        """The prompts picked by a slice, a bool mask ``(N,)`` or int indices."""
        return Prompts(*(None if v is None else v[index] for v in (self.points, self.labels, self.boxes, self.masks)))


@dataclass(frozen=True, eq=False)
class PromptOutput:
    """What a promptable model answers to N prompts.

    Attributes:
        logits: M masks for each prompt, ``(N, M, h, w)`` float logits; they cover the model's square image.
        iou: the IoU that the model predicts for each mask, ``(N, M)`` float; nothing keeps it within [0, 1].
    """

    logits: Tensor
    iou: Tensor

    @property
    def single(self) -> PromptOutput:
        """The one answer to an unambiguous prompt, ``(N, 1, …)``."""
        return PromptOutput(self.logits[:, :1], self.iou[:, :1])

    @property
    def several(self) -> PromptOutput:
        """The three answers to an ambiguous prompt, ``(N, 3, …)``."""
        return PromptOutput(self.logits[:, 1:], self.iou[:, 1:])

    @property
    def best(self) -> PromptOutput:
        """Of each prompt the answer whose predicted IoU is largest, ``(N, 1, …)``."""
        best = self.iou.argmax(1, keepdim=True)  # (N, 1)
        return PromptOutput(self.logits.take_along_dim(best[..., None, None], 1), self.iou.take_along_dim(best, 1))


torch.export.register_dataclass(PromptOutput, serialized_type_name="seglib.PromptOutput")


@dataclass(frozen=True, eq=False)
class Sample(_Moves):
    """One image, or volume, with whatever annotations its dataset has.

    Attributes:
        image: ``(3, H, W)`` float32 in [0, 1]; or ``(C, H, W)``, ``(C, D, H, W)`` in the units of its dataset.
        id: a name that finds this sample again (a file stem, a scene index).
        semantic: ``(H, W)`` int64 or ``None``.
        instances: the countable objects, or ``None``.
        panoptic: the panoptic map, or ``None``.
        regions: ``(K, H, W)`` uint8 or ``None``.
        pixel_weight: ``(H, W)`` float32, at least 0: how much each pixel counts in a loss; ``None`` means all alike.
        spacing: millimetres from voxel to voxel ``(z, y, x)``, or ``None`` where it means nothing.
        output_size: the size of the annotations, in which results are wanted, when the image was resized for a model
            and they were not; ``None`` where both have one size.
    """

    image: Tensor
    id: str
    semantic: Tensor | None = None
    instances: Instances | None = None
    panoptic: Panoptic | None = None
    regions: Tensor | None = None
    pixel_weight: Tensor | None = None
    spacing: tuple[float, ...] | None = None
    output_size: Size | None = None


@dataclass(frozen=True, eq=False)
class Targets(_Moves):
    """The annotations of a batch.

    Attributes:
        semantic: ``(B, H, W)`` int64 or ``None``.
        instances: the objects of each image, or ``None``.
        panoptic: the panoptic map of each image, or ``None``.
        regions: ``(B, K, H, W)`` uint8 or ``None``.
        pixel_weight: ``(B, H, W)`` float32, at least 0: how much each pixel counts in a loss; ``None`` means all alike.
    """

    semantic: Tensor | None = None
    instances: list[Instances] | None = None
    panoptic: list[Panoptic] | None = None
    regions: Tensor | None = None
    pixel_weight: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Batch(_Moves):
    """What a model trains on or is scored on.

    Attributes:
        images: ``(B, C, H, W)``, or ``(B, C, D, H, W)`` of volumes. Smaller images are padded at the end of each axis.
        targets: the annotations, padded alike.
        ids: a name of each image.
        sizes: the true size of each image, without padding.
        output_sizes: the size of each image's annotations, in which its results are wanted.
        spacing: millimetres between the voxels of each image; ``None`` where no sample has one.
    """

    images: Tensor
    targets: Targets
    ids: list[str]
    sizes: list[Size]
    output_sizes: list[Size]
    spacing: list[tuple[float, ...]] | None = None

    @property
    def padded_sizes(self) -> list[Size] | None:
        """The true sizes when any image is padded; ``None`` when all fill the batch, so that a model need not look."""
        full = tuple(self.images.shape[2:])
        return self.sizes if any(tuple(size) != full for size in self.sizes) else None


@dataclass(frozen=True, eq=False)
class DenseOutput:
    """What a semantic model returns.

    Attributes:
        logits: ``(B, K, H, W)`` at the size of the images; of volumes ``(B, K, D, H, W)``.
        aux: the logits of auxiliary heads, each at a scale of its own (deep supervision); they count in the loss alone.
    """

    logits: Tensor
    aux: tuple[Tensor, ...] = ()


torch.export.register_dataclass(DenseOutput, serialized_type_name="seglib.DenseOutput")


@runtime_checkable
class SegmentationModel(Protocol):
    """What the training loop, the tasks and the command line ask of a model. Every model of the zoo is one.

    ::

        out    = model(images, targets, sizes)                # raw heads, one frozen dataclass per model
        losses = model.loss(out, targets)                     # dict of scalars, already weighted: sum them
        preds  = model.postprocess(out, sizes, output_sizes)  # typed predictions, one per image
        preds  = model.predict(images, sizes, output_sizes)   # evaluation mode, forward and postprocess

    ``sizes`` are the true sizes of images inside a padded batch; without them every image fills it. ``forward`` and
    ``loss`` return the same types in training and in evaluation mode, and ``loss`` uses no parameter of the model, so
    that DDP can wrap ``forward``. ``targets`` may steer which proposals a detector samples, nothing else.
    """

    def __call__(self, images: Tensor, targets: Targets | None = None, sizes: Sequence[Size] | None = None) -> Any:
        """What the heads say about images ``(B, C, H, W)``."""

    def loss(self, out: Any, targets: Targets) -> dict[str, Tensor]:
        """The losses of an output that was made with these targets."""

    def postprocess(self, out: Any, sizes: Sequence[Size], output_sizes: Sequence[Size] | None = None) -> list[Any]:
        """Predictions of images of the true ``sizes``, at ``output_sizes``. Uses no parameters."""

    def predict(
        self, images: Tensor, sizes: Sequence[Size] | None = None, output_sizes: Sequence[Size] | None = None
    ) -> list[Any]:
        """Predictions of a batch: those that its images give one by one."""
