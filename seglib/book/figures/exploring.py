"""The moving figure that shows the stored answers of every system of the book to the same scenes."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seglib.book.figures.element import Figure
from seglib.book.figures.images import pack_ids, png, unpack_ids
from seglib.ops.clicks import centre_points
from seglib.train.sampling import Samples
from seglib.types import Category, Sample

NAMES = {
    "fcn_tiny": "FCN",
    "unet_tiny": "U-Net",
    "deeplab_tiny": "DeepLab",
    "mask2former_tiny": "Mask2Former",
    "mask_rcnn_tiny": "Mask R-CNN",
    "yolact_tiny": "YOLACT",
    "condinst_tiny": "CondInst",
    "solov2_tiny": "SOLOv2",
    "panoptic_fpn_tiny": "Panoptic FPN",
    "sam_tiny": "SAM",
}
"""Names of the systems on the page; others keep their own."""

COLUMNS = 5
"""Maps beside each other in the still."""


class _Maps(Figure):
    """A figure that reads small maps."""

    shared = ("maps",)


def explorer(
    results: Mapping[str, Any],
    samples: Samples,
    categories: Sequence[Category],
    *,
    start: tuple[int, int] | None = None,
) -> Figure:
    """One scene at a time through every system: their answers side by side, with one cursor over all of them.

    Each panel says what its system answers at the cursor, whether that is right, the score of the scene and the time
    of the answer. Panels can be restricted to a task; a switch dims the pixels on which a task's systems agree.

    Args:
        results: what the experiment ``explorer`` stores.
        samples: the scenes, at their ``index`` in the results, with panoptic annotations.
        categories: the class table.
        start: pixel ``(x, y)`` of the cursor at first; by default the middle of the largest object of the first scene.

    Raises:
        ValueError: when there are no scenes, a scene has no panoptic annotation or another size than the maps, or
            ``start`` lies outside.
    """
    scenes, (height, width) = results["scenes"], results["size"]
    if not scenes:
        raise ValueError("the results hold no scenes; run the experiment with --scenes 20")
    truths = []
    for s in scenes:
        sample = samples[s["index"]]
        if sample.panoptic is None or tuple(sample.image.shape[1:]) != (height, width):
            raise ValueError(
                f"scene {s['index']} needs a panoptic annotation and {height} × {width} pixels as the stored maps, "
                f"got an image {tuple(sample.image.shape)}; pass the scenes that the results are of"
            )
        truths.append(_truth(sample))
    if start is None:
        start = _middle(*truths[0])
    if not (0 <= start[0] < width and 0 <= start[1] < height):
        raise ValueError(f"start {start} lies outside the {width} × {height} image; it is (x, y)")
    places = [(task, name) for task, told in results["tasks"].items() for name in told["systems"]]
    first = samples[scenes[0]["index"]].image
    maps = unpack_ids(scenes[0]["maps"], len(places))  # (systems, H, W)
    still = _still(first, truths[0], maps, [_segments(scenes[0], *p, categories) for p in places], categories)
    rows = "".join(
        f"<tr><td>{html.escape(_name(name))}</td><td>{task}</td><td>{_shown(scenes[0]['answers'][task][name]['score'])}</td></tr>"
        for task, name in places
    )
    return _Maps(
        "explorer",
        {
            "size": [height, width],
            "start": start,
            "categories": [{"name": c.name, "color": c.color} for c in categories],
            "tasks": [
                {
                    "id": task,
                    "name": task.capitalize(),
                    "score": told["score"],
                    "systems": [_name(name) for name in told["systems"]],
                }
                for task, told in results["tasks"].items()
            ],
            "scenes": [_scene(s, samples[s["index"]], truth, places) for s, truth in zip(scenes, truths, strict=True)],
        },
        text=f"{len(scenes)} scenes through {len(places)} systems, one cursor",
        fallback=(
            f'<p><img src="{html.escape(png(still))}" width="{COLUMNS * width}" alt="The first scene, its true segments'
            f' and the maps of {len(places)} systems"><br>The first of {len(scenes)} scenes: the image, the truth, and '
            "the answers in the order of the table (the cursor and the other scenes need JavaScript).</p>"
            f"<table><tr><th>system</th><th>task</th><th>score of the scene</th></tr>{rows}</table>"
        ),
    )


def _name(system: str) -> str:
    return NAMES.get(system, system)


def _shown(score: float | None) -> str:
    return "–" if score is None else f"{score:.2f}"


def _truth(sample: Sample) -> tuple[Tensor, list[list[Any]]]:
    """The true segments in the form of a stored answer; things are numbered as the scene's instances are."""
    assert sample.panoptic is not None  # the caller has checked it
    numbers = torch.zeros(sample.panoptic.map.shape, dtype=torch.uint8)  # (H, W)
    segments: list[list[Any]] = []
    things = 0
    for n, s in enumerate(sample.panoptic.segments, 1):
        numbers[sample.panoptic.map == s.id] = n
        things += s.isthing
        segments.append([s.category_id, None, things if s.isthing else 0])
    return numbers, segments


def _middle(numbers: Tensor, segments: Sequence[Sequence[Any]]) -> tuple[int, int]:
    """The middle of the largest thing, or of the image when there is none."""
    areas = [int((numbers == n).sum()) if s[2] else 0 for n, s in enumerate(segments, 1)]
    if not any(areas):
        return numbers.shape[1] // 2, numbers.shape[0] // 2
    x, y = centre_points((numbers == 1 + areas.index(max(areas)))[None])[0].tolist()
    return int(x), int(y)


def _segments(
    scene: Mapping[str, Any], task: str, name: str, categories: Sequence[Category]
) -> Sequence[Sequence[Any]]:
    """The segments of a stored answer; those of a semantic map are the classes."""
    return scene["answers"][task][name].get("segments", [[c.id, None, 0] for c in categories])


def _scene(
    scene: Mapping[str, Any],
    sample: Sample,
    truth: tuple[Tensor, list[list[Any]]],
    places: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """What the page holds of a scene."""
    numbers, segments = truth
    answers = [scene["answers"][task][name] for task, name in places]
    maps = unpack_ids(scene["maps"], len(places))  # (systems, H, W)
    return {
        "name": f"Scene {scene['index'] + 1}",
        "image": png(sample.image),
        "maps": pack_ids(torch.cat([numbers[None], maps])),
        "truth": segments,
        "answers": [{k: a[k] for k in ("score", "relative", "segments", "clicks") if k in a} for a in answers],
    }


def _still(
    image: Tensor,
    truth: tuple[Tensor, list[list[Any]]],
    maps: Tensor,
    segments: Sequence[Sequence[Sequence[Any]]],
    categories: Sequence[Category],
) -> Tensor:
    """Image, truth and all maps in class colours, row by row: ``(3, R·H, COLUMNS·W)``."""
    tiles = [image]
    for numbers, own in [truth, *zip(maps, segments, strict=True)]:
        colors = torch.tensor([(0, 0, 0), *(categories[s[0]].color for s in own)]) / 255  # (S + 1, 3)
        painted = colors[numbers.long()].permute(2, 0, 1)  # (3, H, W)
        tiles.append(torch.where(numbers > 0, painted, 0.6 + 0.4 * image))
    tiles += [torch.ones_like(image)] * (-len(tiles) % COLUMNS)
    sheet = torch.stack(tiles).unflatten(0, (-1, COLUMNS))  # (R, COLUMNS, 3, H, W)
    return sheet.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
