"""How fast mask AP is computed from COCO's files, beside pycocotools and faster-coco-eval, in one run.

    python benchmarks/ap.py [--images 500] [--rounds 5]

Timed is the way from two files on disk to the twelve numbers: reading the JSON (the same for all, and printed apart),
drawing the polygons of the ground truth, IoUs, matching, curves. What bounds it are pycocotools' own intersections of
run-length codes, its drawing of polygons, and reading the JSON. Both sides take turns, so that whatever else the
machine does hits both. The ratio is seglib's time over the other's, per round; printed are its median and its
quartiles, below 1 where seglib is faster. The numbers of all must agree. faster-coco-eval is left out where it isn't
installed (pip install faster-coco-eval).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _side_by_side import compare
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from seglib.book.results import hardware
from seglib.metrics import evaluate_coco
from seglib.ops.rle import polygons_to_rle

HEIGHT, WIDTH, CLASSES, OBJECTS, DETECTIONS = 480, 640, 80, 10, 50


def blob(rng: np.random.Generator) -> np.ndarray:
    """A ragged outline ``(24, 2)`` somewhere in the image, 16 to 240 pixels across."""
    radius = math.exp(rng.uniform(math.log(8), math.log(120)))
    angle = np.linspace(0, 2 * math.pi, 24, endpoint=False)
    reach = radius * (1 + 0.25 * rng.standard_normal(24).clip(-2, 2))
    centre = rng.uniform(0, [WIDTH, HEIGHT])
    return centre + reach[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)


def files(images: int, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A ground truth of polygons, and results of run-length codes: its objects shifted, a third of another class."""
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(1, images + 1)],
        "categories": [{"id": c, "name": f"class {c}"} for c in range(1, CLASSES + 1)],
        "annotations": [],
    }
    results = []
    for image_id in range(1, images + 1):
        outlines = [blob(rng).clip(0, [WIDTH, HEIGHT]).round(2) for _ in range(OBJECTS)]
        classes = rng.integers(1, CLASSES + 1, OBJECTS).tolist()
        for outline, c in zip(outlines, classes, strict=True):
            (x, y), (x2, y2) = outline.min(0).tolist(), outline.max(0).tolist()
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": c,
                    "iscrowd": 0,
                    "area": 0.6 * (x2 - x) * (y2 - y),
                    "bbox": [x, y, x2 - x, y2 - y],
                    "segmentation": [outline.flatten().tolist()],
                }
            )
        for _ in range(DETECTIONS):
            k = rng.integers(OBJECTS)
            shift = rng.normal(0, rng.uniform(0, 0.3), 2) * np.ptp(outlines[k], 0)
            results.append(
                {
                    "image_id": image_id,
                    "category_id": classes[k] if rng.random() < 0.7 else int(rng.integers(1, CLASSES + 1)),
                    "score": round(rng.random(), 3),
                    "segmentation": polygons_to_rle([(outlines[k] + shift).flatten().tolist()], HEIGHT, WIDTH),
                }
            )
    return truth, results


def seglib(truth: Path, results: Path) -> list[float]:
    return list(evaluate_coco(truth, results).numbers.values())


def evaluated(api: Callable[..., Any], evaluator: Callable[..., Any], truth: Path, results: Path) -> list[float]:
    """The twelve numbers of pycocotools, or of a package with the same calls, which print as they go."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = api(str(truth))
        run = evaluator(ground_truth, ground_truth.loadRes(str(results)), "segm")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return list(run.stats[:12])


def peers() -> dict[str, Callable[[Path, Path], list[float]]]:
    found: dict[str, Callable[[Path, Path], list[float]]] = {}
    found[f"pycocotools {version('pycocotools')}"] = partial(evaluated, COCO, COCOeval)
    try:
        import faster_coco_eval as faster
    except ImportError:
        print("faster-coco-eval isn't installed and left out; pip install faster-coco-eval")
    else:
        evaluator = partial(faster.COCOeval_faster, print_function=lambda *_: None)
        found[f"faster-coco-eval {faster.__version__}"] = partial(evaluated, faster.COCO, evaluator)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5, help="turns that each side takes")
    arguments = parser.parse_args()

    print(f"{hardware()}; torch {torch.__version__}, numpy {np.__version__}")
    print(
        f"{arguments.images} images of {HEIGHT} x {WIDTH}, {OBJECTS} objects and {DETECTIONS} detections in each, "
        f"{CLASSES} classes; from files to numbers, median of {arguments.rounds} rounds (quartiles of the ratio)"
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "ground_truth.json"), Path(folder, "results.json")
        for path, content in zip(paths, files(arguments.images), strict=True):
            path.write_text(json.dumps(content))
        start = time.perf_counter()
        for path in paths:
            json.loads(path.read_text())
        print(f"reading the JSON alone takes {1e3 * (time.perf_counter() - start):.0f} ms, in every time below")
        numbers = seglib(*paths)
        print(f"AP {numbers[0]:.6f}, AP50 {numbers[1]:.6f}")
        print(f"  {'':26} {'seglib':>11} {'peer':>11}   ratio")
        for name, peer in peers().items():
            # the same float64 operations, but for the order in which the means are summed
            if not np.allclose(numbers, peer(*paths), rtol=0, atol=1e-12):
                raise SystemExit(f"{name} has other numbers: {peer(*paths)}, seglib {numbers}")
            found = compare(partial(seglib, *paths), partial(peer, *paths), rounds=arguments.rounds, warmup=1)
            print(f"  {name:26} {found}")


if __name__ == "__main__":
    main()
