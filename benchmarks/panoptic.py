"""How fast panoptic quality is computed, beside panopticapi and others, in one run.

    python benchmarks/panoptic.py [--images 100] [--rounds 5]

All sides see the same synthetic pairs of 512 x 512, from PNG and JSON files or from maps in memory. Both sides warm up
and take turns, so that whatever else the machine does hits both. The ratio is seglib's time over the other's, per
round; printed are its median and its quartiles, below 1 where seglib is faster. The numbers of all must agree, except
for torchmetrics, whose rules differ.

panopticapi isn't on PyPI: put a copy of github.com/cocodataset/panopticapi on PYTHONPATH, or it is left out. In memory
it starts from decoded colours, which it turns into ids, and seglib from ids. From files it runs in one process on one
core, or in one process per core; seglib runs in one process with a thread per core. Most of those times is the decoding
of PNG files, which is the same Pillow on both sides.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchmetrics
from _side_by_side import compare, seconds
from PIL import Image
from torchmetrics.detection import PanopticQuality as TorchmetricsPQ

from seglib.book.results import hardware
from seglib.metrics import PanopticQuality, PQScores, evaluate_coco_panoptic
from seglib.ops.panoptic import ids_to_rgb
from seglib.types import Category, Panoptic, Segment

SIZE, THINGS, STUFF = 512, 80, 53
CATEGORIES = [Category(k, f"class {k}", k < THINGS, (0, 0, 0)) for k in range(THINGS + STUFF)]

Pair = tuple[Panoptic, Panoptic]


# Panoptic quality


def drawn(rng: np.random.Generator, shapes: np.ndarray, classes: np.ndarray, crowds: np.ndarray) -> Panoptic:
    """Four regions of stuff, a strip of void and ten ellipses ``(10, 4)`` (centre and half axes in pixels)."""
    y, x = np.mgrid[:SIZE, :SIZE]
    place = 1 + (x + 40 * np.sin(y / 50) > SIZE / 2) + 2 * (y + 30 * np.sin(x / 40) > SIZE / 2)
    place[:, :30] = 0
    for i, (cx, cy, rx, ry) in enumerate(shapes):
        place[((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1] = 5 + i
    ids = np.append(0, rng.choice(2**24 - 1, len(classes), replace=False) + 1)  # any colour
    areas = np.bincount(place.ravel(), minlength=len(ids))
    segments = [
        Segment(int(ids[i + 1]), int(k), bool(k < THINGS), int(areas[i + 1]), iscrowd=bool(crowds[i]))
        for i, k in enumerate(classes)
        if areas[i + 1]
    ]
    return Panoptic(torch.from_numpy(ids[place].astype(np.int32)), segments)


def made_pairs(images: int, seed: int = 0) -> list[Pair]:
    """Predictions and targets of about 14 segments, as in COCO: objects shifted, some of another class, some crowds."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(images):
        shapes = np.concatenate([rng.uniform(0, SIZE, (10, 2)), rng.uniform(8, 120, (10, 2))], 1)
        classes = np.append(THINGS + rng.choice(STUFF, 4, replace=False), rng.integers(0, THINGS, 10))
        crowds = np.append([False] * 4, rng.random(10) < 0.05)
        target = drawn(rng, shapes, classes, crowds)
        found = classes.copy()
        wrong = np.append([False] * 4, rng.random(10) < 0.2)
        found[wrong] = rng.integers(0, THINGS, wrong.sum())
        pairs.append((drawn(rng, shapes + rng.normal(0, 6, shapes.shape), found, np.zeros(14, bool)), target))
    return pairs


def write_files(folder: Path, pairs: list[Pair]) -> tuple[Path, Path, Path, Path]:
    """The JSON file and PNG folder of the truth, and those of the results."""
    table = [{"id": c.id, "name": c.name, "isthing": int(c.isthing)} for c in CATEGORIES]
    paths = []
    for name, sides in (("truth", [t for _, t in pairs]), ("results", [p for p, _ in pairs])):
        (folder / name).mkdir()
        annotations = []
        for i, side in enumerate(sides):
            Image.fromarray(ids_to_rgb(side.map).numpy()).save(folder / name / f"{i}.png")
            info = [
                {"id": s.id, "category_id": s.category_id, "area": s.area, "iscrowd": int(s.iscrowd)}
                for s in side.segments
            ]
            annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": info})
        content = {"images": [{"id": i} for i in range(len(sides))], "annotations": annotations, "categories": table}
        path = folder / f"{name}.json"
        path.write_text(json.dumps(content))
        paths += [path, folder / name]
    return paths[0], paths[1], paths[2], paths[3]


def numbers(scores: PQScores) -> list[float]:
    return [scores.pq, scores.sq, scores.rq, scores.things.pq, scores.stuff.pq]


def from_memory(pairs: list[Pair]) -> list[float]:
    metric = PanopticQuality(CATEGORIES)
    for prediction, target in pairs:
        metric.update(prediction, target)
    return numbers(metric.compute())


def from_files(*paths: Path) -> list[float]:
    return numbers(evaluate_coco_panoptic(*paths))


def looped(pairs: list[Pair]) -> list[float]:
    """A loop over segments, each with its mask and the segments beneath it: the rules as one would first write them."""
    iou, tp, fp, fn = counts = np.zeros((4, len(CATEGORIES)))
    for prediction, target in pairs:
        found, true = prediction.map.numpy(), target.map.numpy()
        known = {s.id: s for s in target.segments}
        crowd_of = {s.category_id: s.id for s in target.segments if s.iscrowd}
        matched = set()
        for p in prediction.segments:
            ids, shares = np.unique(true[found == p.id], return_counts=True)
            under = dict(zip(ids.tolist(), shares.tolist(), strict=True))
            for i, share in under.items():
                if i and known[i].category_id == p.category_id and not known[i].iscrowd:
                    quality = share / (p.area + int((true == i).sum()) - share - under.get(0, 0))
                    if quality > 0.5:
                        matched.add(i)
                        tp[p.category_id] += 1
                        iou[p.category_id] += quality
                        break
            else:
                excused = under.get(0, 0) + under.get(crowd_of.get(p.category_id, -1), 0)
                fp[p.category_id] += excused / p.area <= 0.5
        for s in target.segments:
            fn[s.category_id] += not s.iscrowd and s.id not in matched
    size = tp + fp / 2 + fn / 2
    seen = counts[1:].sum(0) > 0
    quality = np.stack([iou, iou / np.maximum(tp, 1) * size, tp])[:, seen] / size[seen]  # (3, classes)
    things = np.arange(len(CATEGORIES))[seen] < THINGS
    return [*quality.mean(1).tolist(), quality[0, things].mean(), quality[0, ~things].mean()]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Panopticapi:
    """The original, from files or from arrays in memory."""

    def __init__(self, truth: Path, truth_folder: Path, results: Path, results_folder: Path) -> None:
        from panopticapi import evaluation

        self.module: Any = evaluation
        self.paths = str(truth), str(results), str(truth_folder), str(results_folder)
        content, found = json.loads(truth.read_text()), json.loads(results.read_text())
        self.annotations = list(zip(content["annotations"], found["annotations"], strict=True))
        self.categories = {c["id"]: c for c in content["categories"]}

    def all_processes(self) -> list[float]:
        """From files, in one process per core."""
        with quiet():
            found = self.module.pq_compute(*self.paths)
        return [found["All"]["pq"], found["All"]["sq"], found["All"]["rq"], found["Things"]["pq"], found["Stuff"]["pq"]]

    def one_process(self) -> list[float]:
        """From files."""
        content, found = (json.loads(Path(p).read_text()) for p in self.paths[:2])
        return self._single(list(zip(content["annotations"], found["annotations"], strict=True)))

    def in_memory(self, images: dict[str, np.ndarray]) -> list[float]:
        """As :meth:`one_process`, but decoded images ``(H, W, 3)`` by path take the place of files."""
        original = self.module.Image

        class Opened:
            open = staticmethod(images.__getitem__)

        self.module.Image = Opened
        try:
            return self._single(self.annotations)
        finally:
            self.module.Image = original

    def _single(self, annotations: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[float]:
        with quiet():
            stat = self.module.pq_compute_single_core(0, annotations, *self.paths[2:], self.categories)
            every, things, stuff = (stat.pq_average(self.categories, isthing=g)[0] for g in (None, True, False))
        return [every["pq"], every["sq"], every["rq"], things["pq"], stuff["pq"]]


def torchmetrics_pq(inputs: list[tuple[torch.Tensor, torch.Tensor]]) -> list[float]:
    classes = {"things": set(range(THINGS)), "stuffs": set(range(THINGS, THINGS + STUFF))}
    metric = TorchmetricsPQ(**classes, allow_unknown_preds_category=True)
    for prediction, target in inputs:
        metric.update(prediction, target)
    return [float(metric.compute())]


def pixel_pairs(side: Panoptic) -> torch.Tensor:
    """What torchmetrics takes: class and instance of every pixel, ``(1, H, W, 2)``."""
    ids = torch.tensor([0, *(s.id for s in side.segments)])
    classes = torch.tensor([999, *(s.category_id for s in side.segments)])
    ordered, order = ids.sort()
    place = order[torch.searchsorted(ordered, side.map.long())]
    return torch.stack([classes[place], side.map.long()], -1)[None]


def quality(images: int, rounds: int) -> None:
    pairs = made_pairs(images)
    print(f"PQ of {images} pairs of {SIZE} x {SIZE}, {len(CATEGORIES)} classes, about 14 segments in each")
    print(f"  {'':54} {'seglib':>11} {'other':>11}   ratio")

    def line(
        name: str,
        ours: Callable[[], list[float]],
        other: Callable[[], list[float]],
        same: bool = True,
        turns: int = rounds,
    ) -> None:
        # the same ratios, summed in another order
        if same and not np.allclose(ours(), other(), rtol=0, atol=1e-12):
            raise SystemExit(f"{name}: other numbers: {other()}, seglib {ours()}")
        print(f"  {name:54} {compare(ours, other, rounds=turns, warmup=1)}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(Path(folder), pairs)
        memory, files = partial(from_memory, pairs), partial(from_files, *paths)
        print(f"  PQ {memory()[0]:.6f}")
        line("from memory: a loop over segments", memory, partial(looped, pairs))
        few = pairs[:1]  # it takes seconds for each
        inputs = [(pixel_pairs(p), pixel_pairs(t)) for p, t in few]
        name = f"from memory, one pair: torchmetrics {torchmetrics.__version__}"
        line(name, partial(from_memory, few), partial(torchmetrics_pq, inputs), same=False, turns=1)
        try:
            reference = Panopticapi(*paths)
        except ImportError:
            print("  panopticapi isn't installed and left out: put a copy of it on PYTHONPATH")
            return
        decoded = {
            os.path.join(folder, name, f"{i}.png"): ids_to_rgb(side.map).numpy()
            for name, place in (("results", 0), ("truth", 1))
            for i, side in enumerate(pair[place] for pair in pairs)
        }
        line("from memory: panopticapi, one process", memory, partial(reference.in_memory, decoded))
        decoding = seconds(lambda: [Image.open(path).load() for path in decoded])
        print(f"  decoding the PNG files alone takes {1e3 * decoding:.0f} ms on one core")
        line("from files: panopticapi, one process", files, reference.one_process)
        line("from files: panopticapi, one process per core", files, reference.all_processes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100, help="pairs of maps to score")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each side takes")
    arguments = parser.parse_args()

    print(f"{hardware()}; torch {torch.__version__}, numpy {np.__version__}")
    quality(arguments.images, arguments.rounds)


if __name__ == "__main__":
    main()
