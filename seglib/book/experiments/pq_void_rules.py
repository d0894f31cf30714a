"""What does a wrong rule about void or crowds do to PQ? The same predictions, by panopticapi's rules and by others.

The predictions are those of two networks that chapters 3 to 10 build: the detections of the stored ``mask_rcnn_tiny``
and the stuff of the stored ``deeplab_tiny``, merged. Synthetic scenes have little void (smudges on the lens) and no
crowds, so `mark_void_and_crowds` changes the truth: about as many pixels become void as in COCO, where 8 to 10% are.
Differences in PQ come with a bootstrap over the images.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional as F

from seglib.book.experiments.panoptic import Statistic, compare_pq, mean_of_images, pq_of_sums
from seglib.book.pretrained import stored_model
from seglib.data.coco_panoptic import CocoPanoptic
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.ops.panoptic import panoptic_to_instances, segment_areas, segment_index
from seglib.postprocess.panoptic import MergeSettings, merge_panoptic
from seglib.types import VOID, Category, Instances, Panoptic, Segment

NUM_THINGS = sum(c.isthing for c in CATEGORIES)

MODELS = ("mask_rcnn_tiny", "deeplab_tiny")
"""Whose things and whose stuff are merged."""

MERGE = MergeSettings(stuff_area_limit=64)
"""Thresholds of the merge: the paper's, with the share of 128×128 pixels that 4096 have of 1024×1024."""

GROUP, NEAR, UNLABELLED = 5, 2, 0.125
"""A crowd is a group of at least five things of a class, each at most two pixels from the next; one thing in eight of
the others is left unlabelled."""


def segment_counts(
    prediction: Panoptic,
    target: Panoptic,
    num_classes: int,
    *,
    void_in_union: bool = False,
    void_excuses: bool = True,
    both_voids: bool = False,
) -> Tensor:
    """Counts of one image ``(4, K)``: the sum of matched IoUs, TP, FP and FN of every class; the rules as switches.

    Args:
        prediction: predicted segments.
        target: true segments; 0 is void, crowds are marked.
        num_classes: number of classes K.
        void_in_union: whether the prediction's pixels that are void in the truth stay in the union.
        void_excuses: whether a prediction without a match is ignored when more than half of it is void in the truth.
        both_voids: whether void in the prediction is treated as void in the truth: it leaves the union, and a true
            segment without a match is ignored when more than half of it is void in the prediction. TorchMetrics counts
            like this.
    """
    found, true = (torch.tensor([s.category_id for s in side.segments]).long() for side in (prediction, target))
    crowd = torch.tensor([s.iscrowd for s in target.segments], dtype=torch.bool)  # (T,)
    place = segment_index(target) * (len(found) + 1) + segment_index(prediction)  # (H, W)
    pixels = torch.bincount(place.flatten(), minlength=(len(true) + 1) * (len(found) + 1))
    pixels = pixels.view(len(true) + 1, len(found) + 1).double()  # (T + 1, P + 1), void first
    true_void, found_void, shared = pixels[0, 1:], pixels[1:, 0], pixels[1:, 1:]  # (P,), (T,), (T, P)
    true_area, found_area = pixels[1:].sum(1), pixels[:, 1:].sum(0)  # (T,), (P,)
    same = true[:, None] == found  # (T, P)
    union = (
        true_area[:, None] + found_area - shared - (not void_in_union) * true_void - both_voids * found_void[:, None]
    )
    matched = same & ~crowd[:, None] & (2 * shared > union)
    excused = void_excuses * true_void + (shared * (same & crowd[:, None])).sum(0)  # (P,)
    fp = ~matched.any(0) & (2 * excused <= found_area)
    fn = ~matched.any(1) & ~crowd & ~(both_voids & (2 * found_void > true_area))
    iou = torch.where(matched, shared / union, 0).sum(0)  # (P,)
    rows = [torch.bincount(found, iou, num_classes)]
    rows += [torch.bincount(c, minlength=num_classes) for c in (found[matched.any(0)], found[fp], true[fn])]
    return torch.stack([row.double() for row in rows])


def without_crowds(panoptic: Panoptic) -> Panoptic:
    """Crowds as ordinary objects."""
    return replace(panoptic, segments=[replace(s, iscrowd=False) for s in panoptic.segments])


def void_as_class(panoptic: Panoptic, category_id: int) -> Panoptic:
    """Void as one more segment, of a class of stuff with this id."""
    void = panoptic.map == 0
    if not bool(void.any()):
        return panoptic
    new = Segment(1 + max((s.id for s in panoptic.segments), default=0), category_id, False, int(void.sum()))
    return Panoptic(panoptic.map.masked_fill(void, new.id), [*panoptic.segments, new])


Rule = Callable[[Panoptic, Panoptic, int], Tensor]

RULES: dict[str, tuple[Rule, Statistic]] = {
    "panopticapi's rules": (segment_counts, pq_of_sums),
    "void stays in the union": (lambda p, t, k: segment_counts(p, t, k, void_in_union=True), pq_of_sums),
    "void excuses no prediction": (lambda p, t, k: segment_counts(p, t, k, void_excuses=False), pq_of_sums),
    "void is not ignored at all": (
        lambda p, t, k: segment_counts(p, t, k, void_in_union=True, void_excuses=False),
        pq_of_sums,
    ),
    "void is a class": (
        lambda p, t, k: segment_counts(void_as_class(p, k), void_as_class(t, k), k + 1),
        pq_of_sums,
    ),
    "predicted void is ignored too": (lambda p, t, k: segment_counts(p, t, k, both_voids=True), pq_of_sums),
    "crowds are ordinary objects": (lambda p, t, k: segment_counts(p, without_crowds(t), k), pq_of_sums),
    "mean over images": (segment_counts, mean_of_images),
    "prediction and truth swapped": (lambda p, t, k: segment_counts(t, p, k), pq_of_sums),
}
"""Name → the counts of one image (prediction, truth, number of classes), and how they become PQ."""


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 200,
    root: Path | None = None,
    data: Scenes | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Count the same predictions by every rule.

    Args:
        seeds: the first one is that of what becomes void and of the bootstrap.
        steps: number of resamples of the bootstrap.
        scenes: number of test scenes, when neither ``root`` nor ``data`` is given.
        root: a folder with COCO's files, to score those instead of scenes (`coco_pairs`).
        data: scenes with panoptic annotations.
        report: function that is called with a line of text for every rule.

    Returns:
        The settings; ``truth``: the number of things and of crowds, and the share of the pixels that are void in the
        truth and in the predictions; ``rules``: for each of `RULES` the row of `panoptic.compare_pq`.

    Raises:
        ValueError: without scenes or resamples, or when no weights are stored.
        FileNotFoundError: when ``root`` lacks a file.
    """
    if steps < 1 or scenes < 1:
        raise ValueError(f"steps and scenes must be positive, got {steps} and {scenes}")
    categories: Sequence[Category] = CATEGORIES
    if root is not None:
        source, (pairs, categories) = "coco-panoptic-mini", coco_pairs(root)
    else:
        source, pairs = "scenes", list(scene_pairs(data or Scenes(scenes, split="test"), seeds[0]))
    k = len(categories)
    counts = {name: torch.stack([rule(p, t, k) for p, t in pairs]) for name, (rule, _) in RULES.items()}
    rows = compare_pq(
        {name: (counts[name], statistic) for name, (_, statistic) in RULES.items()},
        num_things=sum(c.isthing for c in categories), resamples=steps, seed=seeds[0], report=report,
    )  # fmt: skip
    return {
        "data": source,
        "models": [] if root else list(MODELS),
        "images": len(pairs),
        "resamples": steps,
        "truth": {
            "things": sum(s.isthing and not s.iscrowd for _, t in pairs for s in t.segments),
            "crowds": sum(s.iscrowd for _, t in pairs for s in t.segments),
            "void": _void_share([t for _, t in pairs]),
            "predicted_void": _void_share([p for p, _ in pairs]),
        },
        "rules": rows,
    }


def _void_share(maps: Sequence[Panoptic]) -> float:
    pixels = sum(p.map.numel() for p in maps)
    return round(sum(int((p.map == 0).sum()) for p in maps) / pixels, 5)


@torch.inference_mode()
def scene_pairs(data: Scenes, seed: int) -> Iterator[tuple[Panoptic, Panoptic]]:
    """The prediction and the truth, with void and crowds, of every scene."""
    detector, semantic = (stored_model(name) for name in MODELS)
    draw = torch.Generator().manual_seed(seed)
    for i in range(len(data)):
        sample = data[i]
        assert sample.panoptic is not None  # scenes annotate all
        (things,), (labels,) = detector.predict(sample.image[None]), semantic.predict(sample.image[None])
        stuff = torch.where(labels.labels < NUM_THINGS, VOID, labels.labels)  # (H, W)
        found = merge_panoptic(things, stuff, MERGE, num_things=NUM_THINGS)
        yield found, mark_void_and_crowds(sample.panoptic, draw)


def mark_void_and_crowds(panoptic: Panoptic, draw: torch.Generator) -> Panoptic:
    """The truth as hurried annotators might leave it.

    - Things in groups of `GROUP` neighbours or more become one crowd for each class.
    - Of the other things a random share of `UNLABELLED` becomes void.
    - So does the strip of stuff, one pixel wide, around every thing.

    Args:
        panoptic: the truth of a scene.
        draw: generator that decides which things become void.
    """
    index = segment_index(panoptic)  # (H, W)
    places = torch.tensor([i for i, s in enumerate(panoptic.segments, start=1) if s.isthing]).long()  # (N,)
    things = panoptic_to_instances(panoptic)
    joined = group_sizes(things) >= GROUP  # (N,)
    dropped = ~joined & (torch.rand(len(things), generator=draw) < UNLABELLED)
    owner = torch.arange(len(panoptic.segments) + 1)
    owner[places[dropped]] = 0
    crowds = set()
    for label in things.labels[joined].unique():
        members = places[joined & (things.labels == label)]
        owner[members] = members[0]
        crowds.add(int(members[0]))
    thing = things.masks.any(0)  # (H, W)
    strip = ~thing & (F.max_pool2d(thing[None].float(), 3, 1, 1)[0] > 0)
    index = owner[index].masked_fill(strip, 0)
    ids = torch.tensor([0, *(s.id for s in panoptic.segments)], dtype=torch.int32)
    changed = replace(panoptic, map=ids[index])
    areas = segment_areas(changed).tolist()
    segments = [
        replace(s, area=area, iscrowd=i in crowds)
        for i, (s, area) in enumerate(zip(panoptic.segments, areas, strict=True), start=1)
        if area
    ]
    return replace(changed, segments=segments)


def group_sizes(things: Instances) -> Tensor:
    """Of how many neighbours of its class, itself included, each thing's group is made: ``(N,)`` int64.

    Two things are neighbours when their masks are at most `NEAR` pixels apart along both axes.
    """
    if not len(things):
        return torch.zeros(0, dtype=torch.int64)
    masks = things.masks.float()  # (N, H, W)
    around = F.max_pool2d(masks, 2 * NEAR + 1, 1, NEAR)
    near = torch.einsum("nhw,mhw->nm", around, masks) > 0
    near &= things.labels[:, None] == things.labels
    group = torch.from_numpy(connected_components(near.numpy(), directed=False)[1]).long()  # (N,)
    return group.bincount()[group]


def coco_pairs(root: Path) -> tuple[list[tuple[Panoptic, Panoptic]], tuple[Category, ...]]:
    """Predictions and truths from COCO's panoptic files, and the class table.

    Args:
        root: a folder that holds, at any depth, ``panoptic_val2017.json``, the predictions ``panoptic_pred.json``, for
            each a folder of PNGs of the same name beside it, and the images in ``val2017``.

    Raises:
        FileNotFoundError: when one of them is missing.
    """
    paths = {}
    for name in ("panoptic_val2017.json", "panoptic_pred.json", "val2017"):
        if (path := next(root.rglob(name), None)) is None:
            raise FileNotFoundError(f"{root} holds no {name}; pass a folder with COCO's panoptic files and predictions")
        paths[name] = path
    truth, found, images = paths.values()
    content = json.loads(truth.read_text()) | {"annotations": json.loads(found.read_text())["annotations"]}
    with TemporaryDirectory() as folder:
        completed = Path(folder) / "predictions.json"  # a results file lists annotations alone
        completed.write_text(json.dumps(content))
        predictions = CocoPanoptic(completed, found.with_suffix(""), images)
    targets = CocoPanoptic(truth, truth.with_suffix(""), images)
    pairs = [(predictions[i].panoptic, targets[i].panoptic) for i in range(len(targets))]
    return [(p, t) for p, t in pairs if p is not None and t is not None], targets.categories
