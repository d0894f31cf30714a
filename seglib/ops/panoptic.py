"""A panoptic segmentation in other forms, and back: a semantic map with objects, colours of a PNG, Cityscapes' ids.

Nothing is lost on the way: each form holds what the others hold, up to the numbers that the segments have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from seglib.ops.labels import check_labels, require_integers
from seglib.ops.masks import masks_to_boxes
from seglib.types import VOID, Category, Instances, Panoptic, Segment

MAX_ID = 2**24 - 1
"""The largest id of a segment: three bytes, as many as a pixel of an RGB image has."""

_PER_CLASS = 1000  # Cityscapes: ids from labelId * 1000 on are objects of the class


def panoptic_to_semantic(panoptic: Panoptic) -> Tensor:
    """The class of every pixel, ``(H, W)`` int64; 255 where the map is void.

    Args:
        panoptic: a map ``(H, W)`` and its segments.

    Raises:
        ValueError: for an id in the map that no segment has.
    """
    index = segment_index(panoptic)  # (H, W), 0 = void
    classes = torch.tensor([VOID, *(s.category_id for s in panoptic.segments)], device=index.device)
    return classes[index]


def panoptic_to_instances(panoptic: Panoptic) -> Instances:
    """The things of a panoptic segmentation, in the order of its segments; crowds keep their mark.

    Boxes are measured on the masks. Scores are kept when every thing has one.

    Args:
        panoptic: a map ``(H, W)`` and its segments.
    """
    things = [s for s in panoptic.segments if s.isthing]
    where = panoptic.map.device
    ids = torch.tensor([s.id for s in things], dtype=panoptic.map.dtype, device=where)  # (N,)
    masks = panoptic.map == ids[:, None, None]  # (N, H, W)
    scores = [s.score for s in things if s.score is not None]
    return Instances(
        masks,
        torch.tensor([s.category_id for s in things], dtype=torch.int64, device=where),
        masks_to_boxes(masks),
        torch.tensor(scores, device=where) if things and len(scores) == len(things) else None,
        torch.tensor([s.iscrowd for s in things], dtype=torch.bool, device=where),
    )


def segment_index(panoptic: Panoptic) -> Tensor:
    """The place of every pixel's segment in the list, ``(H, W)`` int64: 0 for void, i + 1 for ``segments[i]``.

    Raises:
        ValueError: for an id in the map that no segment has.
    """
    ids = torch.tensor([0, *(s.id for s in panoptic.segments)], dtype=panoptic.map.dtype, device=panoptic.map.device)
    ordered, order = ids.sort()
    # Ids are looked up once a run of equal pixels, and there are some hundred times fewer runs than pixels.
    runs, lengths = torch.unique_consecutive(panoptic.map.flatten(), return_counts=True)  # (R,) each
    place = torch.searchsorted(ordered, runs).clamp(max=len(ids) - 1)
    unknown = ordered[place] != runs
    if bool(unknown.any()):
        raise ValueError(
            f"the map has the id {int(runs[unknown][0])}, which no segment has; add the segment or set its pixels to 0"
            " (void)"
        )
    return order[place].repeat_interleave(lengths).view(panoptic.map.shape)


def ids_to_rgb(ids: Tensor) -> Tensor:
    """The colours that COCO's panoptic PNGs have for segment ids: ``id = R + 256 G + 256² B``.

    Args:
        ids: segment ids in 0..2²⁴ − 1, integers ``(H, W)`` or any other shape; 0 is void.

    Returns:
        uint8 ``(H, W, 3)``, which :func:`seglib.data.images.write_png` takes.

    Raises:
        ValueError: for floating-point numbers and for an id outside the range.

    Source: Kirillov et al., "Panoptic Segmentation", CVPR 2019; https://cocodataset.org/#format-data.
    """
    require_integers(ids, "segment id")
    if ids.numel():
        low, high = (int(v) for v in torch.aminmax(ids))
        if low < 0 or high > MAX_ID:
            raise ValueError(
                f"segment id {low if low < 0 else high} is not in 0..{MAX_ID}, which is what a colour of three bytes"
                " can hold; number the segments from 1"
            )
    return torch.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).to(torch.uint8)  # (H, W, 3)


def rgb_to_ids(rgb: Tensor) -> Tensor:
    """The segment ids of the colours in a panoptic PNG, the inverse of :func:`ids_to_rgb`.

    Args:
        rgb: uint8 ``(H, W, 3)``, exactly as stored.

    Returns:
        int32 ``(H, W)``, in 0..2²⁴ − 1.

    Raises:
        ValueError: for another type or shape.
    """
    if rgb.dtype != torch.uint8 or rgb.ndim < 1 or rgb.shape[-1] != 3:
        raise ValueError(f"colours must be uint8 (H, W, 3), got {rgb.dtype} {tuple(rgb.shape)}")
    red, green, blue = rgb.int().unbind(-1)  # (H, W) each
    return red + 256 * green + 256**2 * blue


def check_panoptic(
    panoptic: Panoptic, num_classes: int, name: str = "the panoptic map", *, num_things: int | None = None
) -> None:
    """Raise when the map and the list of segments contradict each other or the class table.

    Args:
        panoptic: a map ``(H, W)`` and its segments.
        num_classes: number of classes K of the table; category ids are 0..K − 1.
        name: the start of the message, for example ``"image 139"``.
        num_things: number of things, the first classes of the table; ``None`` checks ``isthing`` of no segment.

    Raises:
        ValueError: when the map isn't int32 ``(H, W)``; for an id that isn't in 1..2²⁴ − 1 or that two segments have;
            for a segment whose class isn't in the table, or is a thing in one and stuff in the other; for an id of the
            map without a segment, a segment without a pixel, and an area that isn't the number of pixels.
    """
    segments = panoptic.segments
    if panoptic.map.dtype != torch.int32 or panoptic.map.ndim != 2:
        raise ValueError(
            f"{name}: the map must be int32 (H, W), got {panoptic.map.dtype} {tuple(panoptic.map.shape)}; convert it"
        )
    for s in segments:
        if not 1 <= s.id <= MAX_ID:
            raise ValueError(f"{name}: segment id {s.id} is not in 1..{MAX_ID} (0 is void); number the segments from 1")
        if not 0 <= s.category_id < num_classes:
            raise ValueError(
                f"{name}: segment {s.id} has category_id {s.category_id}, which is not in 0..{num_classes - 1}; use the"
                " class table that the segments were made for"
            )
        if num_things is not None and s.isthing != (s.category_id < num_things):
            raise ValueError(
                f"{name}: segment {s.id} of category {s.category_id} has isthing={s.isthing}, but the first"
                f" {num_things} classes are the things; take isthing from the class table"
            )
    if repeated := [i for i, count in Counter(s.id for s in segments).items() if count > 1]:
        raise ValueError(f"{name}: segment id {repeated[0]} stands twice; give every segment an id of its own")
    try:
        areas = segment_areas(panoptic).tolist()
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    for s, area in zip(segments, areas, strict=True):
        if area == 0:
            raise ValueError(f"{name}: segment {s.id} has no pixel in the map; leave the segment out")
        if s.area != area:
            raise ValueError(f"{name}: segment {s.id} has area {s.area} and {area} pixels in the map; count them anew")


def segment_areas(panoptic: Panoptic) -> Tensor:
    """The number of pixels of every segment, counted on the map: ``(S,)`` int64 in the order of the segments.

    Raises:
        ValueError: for an id in the map that no segment has.
    """
    return torch.bincount(segment_index(panoptic).flatten(), minlength=len(panoptic.segments) + 1)[1:]


def drop_segments(panoptic: Panoptic, ids: Collection[int]) -> Panoptic:
    """The panoptic segmentation without the segments that have these ids: their pixels become void."""
    if not ids:
        return panoptic
    dropped = torch.isin(panoptic.map, torch.tensor(list(ids), dtype=torch.int32, device=panoptic.map.device))
    return Panoptic(panoptic.map.masked_fill(dropped, 0), [s for s in panoptic.segments if s.id not in ids])


def segment_boxes(panoptic: Panoptic) -> Tensor:
    """The tightest box around every segment, in one pass over the map.

    Returns:
        ``(S, 4)`` float32 ``xyxy`` in pixels, in the order of the segments; zeros for a segment without a pixel.
    """
    index = segment_index(panoptic)  # (H, W), 0 = void
    height, width = index.shape
    y, x = (torch.arange(n, device=index.device) for n in (height, width))
    corners = torch.stack([x.expand(height, width), y[:, None].expand(height, width)]).flatten(1)  # (2, H·W)
    where = index.flatten().expand(2, -1)
    empty = torch.zeros(2, len(panoptic.segments) + 1, dtype=torch.int64, device=index.device)
    first = empty.scatter_reduce(1, where, corners, "amin", include_self=False)  # (2, S + 1)
    end = empty.scatter_reduce(1, where, corners + 1, "amax", include_self=False)
    return torch.cat([first, end])[:, 1:].T.float()


def panoptic_from_parts(semantic: Tensor, instances: Instances, categories: Sequence[Category]) -> Panoptic:
    """A panoptic segmentation from a semantic map and objects: things from the masks, stuff from the map.

    A pixel in a mask belongs to that object, whatever the semantic map says there. Other pixels that the map gives to a
    class of things become void: nothing says which object they are of. Masks without a pixel make no segment.

    Args:
        semantic: category ids ``(H, W)``, 255 = void.
        instances: objects with masks ``(N, H, W)`` that don't overlap; scores and crowds are kept.
        categories: the class table, things first.

    Returns:
        The segmentation. Its segments are numbered from 1, first the objects in their order, then the stuff by its ids.

    Raises:
        ValueError: for masks of another size than the map, for two masks that overlap, for a label outside the table
            and for an object of a stuff class.
    """
    check_labels(semantic, len(categories), VOID, name="semantic label")
    things = sum(c.isthing for c in categories)
    check_labels(instances.labels, things, name="label of an object")
    if tuple(semantic.shape) != instances.size:
        raise ValueError(
            f"the semantic map is {tuple(semantic.shape)} and the masks are {instances.size} (H, W); bring both to one"
            " size"
        )
    areas = instances.masks.sum((1, 2))  # (N,)
    instances, areas = instances[areas > 0], areas[areas > 0]
    _check_apart(instances.masks)
    nothing = torch.zeros_like(instances.masks[:1]) if len(instances) else semantic.new_zeros(1, *semantic.shape).bool()
    owner = torch.cat([nothing, instances.masks]).view(torch.uint8).argmax(0)  # (H, W): 0, or i + 1 in mask i
    stuff = torch.where((owner > 0) | (semantic < things), VOID, semantic)  # (H, W)
    pixels = torch.bincount(stuff.flatten(), minlength=VOID + 1)[:VOID]
    classes = pixels.nonzero().flatten()  # (S,) the stuff that is there
    first = len(instances) + 1
    number = torch.zeros(VOID + 1, dtype=torch.int64, device=semantic.device)
    number[classes] = torch.arange(first, first + len(classes), device=semantic.device)
    scores = [None] * len(instances) if instances.scores is None else instances.scores.tolist()
    crowds = [False] * len(instances) if instances.iscrowd is None else instances.iscrowd.tolist()
    objects = zip(instances.labels.tolist(), areas.tolist(), scores, crowds, strict=True)
    segments = [Segment(i, k, True, area, score, crowd) for i, (k, area, score, crowd) in enumerate(objects, 1)]
    regions = zip(classes.tolist(), pixels[classes].tolist(), strict=True)
    segments += [Segment(i, k, False, area) for i, (k, area) in enumerate(regions, first)]
    return Panoptic((owner + number[stuff]).int(), segments)


def _check_apart(masks: Tensor) -> None:
    """Raise for the first pixel that two of the masks (N, H, W) have."""
    shared = (masks.sum(0) > 1).nonzero()  # (pixels, 2)
    if len(shared):
        row, column = shared[0].tolist()
        one, other = masks[:, row, column].nonzero().flatten()[:2].tolist()
        raise ValueError(
            f"masks {one} and {other} overlap, first at (row {row}, column {column}); a pixel of a panoptic map belongs"
            " to one segment: give it to the object in front"
        )


def panoptic_to_label_ids(panoptic: Panoptic, file_ids: Sequence[int | None], void_id: int = 0) -> Tensor:
    """A panoptic segmentation in Cityscapes' ids, those of its ``*_instanceIds.png``.

    A thing has the id ``labelId * 1000 + n``, with n = 0, 1, … among the things of its class in the order of the
    segments. Stuff and crowds have the labelId alone: all crowds of one class become one region.

    Args:
        panoptic: a map ``(H, W)`` and its segments.
        file_ids: category id → labelId, the ``file_ids`` of :class:`seglib.data.cityscapes.Cityscapes`.
        void_id: the labelId of void; Cityscapes has 0, "unlabeled".

    Returns:
        int32 ``(H, W)``.

    Raises:
        ValueError: for a class whose labelId isn't in 1..999 and for more than 1000 things of one class.

    Source: cityscapesScripts, "instanceIds" (Cordts et al., "The Cityscapes Dataset", CVPR 2016).
    """
    count: Counter[int] = Counter()
    ids = [void_id]
    for s in panoptic.segments:
        label = file_ids[s.category_id] if 0 <= s.category_id < len(file_ids) else None
        if label is None or not 0 < label < _PER_CLASS:
            raise ValueError(
                f"segment {s.id} has category_id {s.category_id}, whose labelId is {label}; pass a labelId in"
                f" 1..{_PER_CLASS - 1} for each class"
            )
        if s.isthing and not s.iscrowd:
            if count[label] == _PER_CLASS:
                raise ValueError(
                    f"labelId {label} has more than {_PER_CLASS} things, and their ids would run into the next class;"
                    " leave the smallest out"
                )
            ids.append(label * _PER_CLASS + count[label])
            count[label] += 1
        else:
            ids.append(label)
    return torch.tensor(ids, dtype=torch.int32, device=panoptic.map.device)[segment_index(panoptic)]


def panoptic_from_label_ids(ids: Tensor, remap: Mapping[int, int], categories: Sequence[Category]) -> Panoptic:
    """The panoptic segmentation of Cityscapes' ids, the inverse of :func:`panoptic_to_label_ids`.

    Args:
        ids: integers ``(H, W)``: ``labelId * 1000 + n`` for a thing, the labelId for stuff; the labelId of a class of
            things is a crowd of them.
        remap: labelId → category id, 255 for void: :data:`seglib.data.cityscapes.LABEL_IDS`.
        categories: the class table.

    Returns:
        The segmentation. Its segments are numbered from 1 in the order of the ids. Labels that ``remap`` sends to one
        class of stuff are one segment.

    Raises:
        ValueError: for floating-point ids, a labelId that isn't in ``remap``, and a number n for a class of stuff.
    """
    require_integers(ids, "Cityscapes id")
    values, place = torch.unique(ids, return_inverse=True)  # (V,), (H, W)
    segment_ids: dict[tuple[int, int], int] = {}  # (category id, id of a thing or 0) → segment id
    number = []  # for each of the V values the id of its segment
    for value in values.tolist():
        label = value // _PER_CLASS if value >= _PER_CLASS else value
        if label not in remap:
            raise ValueError(f"id {value} has the labelId {label}, which is not in remap; add it there (255 = void)")
        category = remap[label]
        if category == VOID:
            number.append(0)
            continue
        if value >= _PER_CLASS and not categories[category].isthing:
            raise ValueError(
                f"id {value} numbers an object of {categories[category].name!r}, which is stuff; write the labelId"
                f" {label} alone"
            )
        key = (category, value if value >= _PER_CLASS else 0)
        number.append(segment_ids.setdefault(key, len(segment_ids) + 1))
    segment_map = torch.tensor(number, dtype=torch.int32, device=ids.device)[place]  # (H, W)
    areas = torch.bincount(segment_map.flatten(), minlength=len(segment_ids) + 1).tolist()
    segments = [
        Segment(i, k, categories[k].isthing, areas[i], iscrowd=categories[k].isthing and not thing)
        for (k, thing), i in segment_ids.items()
    ]
    return Panoptic(segment_map, segments)
