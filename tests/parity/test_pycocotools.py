"""Average precision equals pycocotools': the twelve numbers, and every entry of every curve."""

import contextlib
import copy
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import coco as coco_api
from pycocotools import cocoeval as coco_eval
from pycocotools import mask as coco_mask

from seglib.metrics import evaluate_coco

DATA = Path(__file__).parents[3] / "shared" / "data"
OFFICIAL = DATA / "fixtures-eval" / "cocoapi"
MINI = DATA / "coco-panoptic-mini"
needs_official = pytest.mark.skipif(not OFFICIAL.is_dir(), reason=f"COCO's example results are not at {OFFICIAL}")
needs_mini = pytest.mark.skipif(not MINI.is_dir(), reason=f"the small COCO set is not at {MINI}")

SIDE = 128  # of the synthetic images: room for an object of 96 x 96
GRID = 8  # outlines of synthetic masks lie on this grid, so that IoUs are simple fractions such as 1/2, 3/5, 3/4
CASES = 100
CATEGORIES = [1, 3, 4, 90]  # with gaps


def reference(truth, results, iou_type):
    """What pycocotools says, which changes its input: give it a copy."""
    truth, results = copy.deepcopy((truth, results))
    with contextlib.redirect_stdout(io.StringIO()):
        gt = coco_api.COCO()
        gt.dataset = truth
        gt.createIndex()
        if results:
            dt = gt.loadRes(results)
        else:  # loadRes looks at the first entry
            dt = coco_api.COCO()
            dt.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": []}
            dt.createIndex()
        run = coco_eval.COCOeval(gt, dt, {"masks": "segm", "boxes": "bbox"}[iou_type])
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def assert_equal(truth, results, iou_type):
    ours, run = evaluate_coco(truth, results, iou_type), reference(truth, results, iou_type)
    for name in ("precision", "recall", "scores"):
        mine = getattr(ours, name).nan_to_num(-1).numpy()  # NaN is COCO's −1
        # the same float64 operations on the same integers, except for one sum: 1e-12 is generous
        np.testing.assert_allclose(mine, run.eval[name], rtol=0, atol=1e-12, err_msg=name)
    numbers = np.nan_to_num(list(ours.numbers.values()), nan=-1)
    np.testing.assert_allclose(numbers, run.stats, rtol=0, atol=1e-12)
    return ours


def rectangle(rng, iou_type):
    """``[x, y, w, h]`` on a grid, or anywhere; sometimes of exactly 32² or 96² pixels, sometimes without area."""
    grid = GRID if iou_type == "masks" or rng.random() < 0.6 else 0
    special = rng.random()
    if special < 0.25:
        w = h = 32 if special < 0.15 else 96
    else:
        w, h = rng.integers(1, SIDE // GRID, 2) * GRID if grid else rng.uniform(0, SIDE / 2, 2)
    if iou_type == "boxes" and rng.random() < 0.05:
        w = 0
    x, y = (rng.integers(0, (SIDE - s) // GRID + 1) * GRID if grid else rng.uniform(0, SIDE - s) for s in (w, h))
    return [x.item() if hasattr(x, "item") else x for x in (x, y, w, h)]


def nudged(rng, box):
    """A box of the same size a step away, or the same box."""
    x, y, w, h = box
    step = rng.choice([0, 0, GRID, -GRID])
    return [float(min(max(x + step, 0), SIDE - w)), y, w, h]


def drawn(boxes):
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    for x, y, w, h in boxes:
        mask[int(y) : int(y + h), int(x) : int(x + w)] = 1
    return mask


def packed(mask):
    rle = coco_mask.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def unpacked(mask):
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def polygons(boxes):
    return [[x, y, x + w, y, x + w, y + h, x, y + h] for x, y, w, h in boxes]


def synthetic_case(seed, iou_type):
    """A ground truth and results with all that is awkward: crowds, ties, duplicates, empty images, absent classes."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(50)[: rng.integers(1, 6)].tolist()  # the file's order isn't that of the ids
    truth = {
        "images": [{"id": i, "height": SIDE, "width": SIDE} for i in ids],
        "categories": [{"id": c, "name": str(c)} for c in rng.permutation(CATEGORIES).tolist()],
        "annotations": [],
    }
    used = rng.permutation(CATEGORIES)[: rng.integers(1, 5)].tolist()
    results = []
    many = rng.random() < 0.1  # beyond a hundred detections in one image and class
    ties = rng.random() < 0.7
    without = rng.choice(["", "objects", "detections"], p=[0.9, 0.04, 0.06])
    for image_id in ids:
        boxes = [rectangle(rng, iou_type) for _ in range(rng.integers(0, 7))]  # often none
        boxes += boxes[: rng.integers(0, 2)]  # the same object twice
        for box in boxes:
            parts = [box] if rng.random() < 0.7 else [box, rectangle(rng, iou_type)]
            crowd = int(rng.random() < 0.25)
            shapes = [packed(drawn(parts)), unpacked(drawn(parts))] + ([] if crowd else [polygons(parts)])
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice(used)),
                    "iscrowd": crowd,
                    "bbox": box,
                    "area": float(rng.choice([32**2, 96**2, 32**2 - 0.5, 96**2 + 0.5, rng.uniform(0, 2e4)])),
                    **({"segmentation": shapes[rng.integers(len(shapes))]} if iou_type == "masks" else {}),
                }
            )
        for _ in range(rng.integers(0, 12) if not many else rng.integers(90, 130)):
            box = (
                nudged(rng, boxes[rng.integers(len(boxes))])
                if boxes and rng.random() < 0.8
                else rectangle(rng, iou_type)
            )
            known = [a["category_id"] for a in truth["annotations"] if a["bbox"] == box]
            category = known[0] if known and rng.random() < 0.8 else rng.choice(CATEGORIES[:1] if many else CATEGORIES)
            entry = {
                "image_id": image_id,
                "category_id": int(category),
                "score": float(rng.integers(0, 4) / 4 if ties else rng.random()),
            }
            entry |= {"segmentation": packed(drawn([box]))} if iou_type == "masks" else {"bbox": box}
            results += [entry] * (1 + (rng.random() < 0.1))  # the same detection twice
    if without == "objects":
        truth["annotations"] = []
    return truth, [] if without == "detections" else [results[i] for i in rng.permutation(len(results))]


@pytest.mark.parametrize("iou_type", ["masks", "boxes"])
def test_synthetic_cases_are_scored_the_same(iou_type):
    for seed in range(CASES):
        assert_equal(*synthetic_case(seed, iou_type), iou_type)


@pytest.mark.slow
@pytest.mark.parametrize("iou_type", ["masks", "boxes"])
def test_hundreds_more_synthetic_cases_are_scored_the_same(iou_type):
    for seed in range(1000, 1400):
        assert_equal(*synthetic_case(seed, iou_type), iou_type)


def test_the_synthetic_cases_have_what_they_promise():
    seen = {"crowd": 0, "no object": 0, "absent class": 0, "no detection": 0, "more than 100": 0, "exact": 0, "tie": 0}
    for seed in range(CASES):
        truth, results = synthetic_case(seed, "boxes")
        groups = [(r["image_id"], r["category_id"]) for r in results]
        seen["crowd"] += any(a["iscrowd"] for a in truth["annotations"])
        seen["no object"] += not truth["annotations"]
        seen["absent class"] += len({a["category_id"] for a in truth["annotations"]}) < len(CATEGORIES)
        seen["no detection"] += not results
        seen["more than 100"] += max(map(groups.count, set(groups)), default=0) > 100
        seen["tie"] += len({r["score"] for r in results}) < len(results)
        ious = [
            coco_mask.iou([r["bbox"]], [a["bbox"]], [a["iscrowd"]]).item()
            for r in results[:20]
            for a in truth["annotations"]
            if (a["image_id"], a["category_id"]) == (r["image_id"], r["category_id"])
        ]
        seen["exact"] += 0.5 in ious or 0.75 in ious
    assert all(count >= 3 for count in seen.values()), seen


@needs_official
@pytest.mark.parametrize(
    ("iou_type", "file", "expected"),
    [
        (
            "masks",
            "instances_val2014_fakesegm100_results.json",
            ".319545 .562288 .298927 .387374 .310183 .326934 .26823 .415449 .416839 .46945 .376759 .381472",
        ),
        (
            "boxes",
            "instances_val2014_fakebbox100_results.json",
            ".504581 .696973 .572982 .585626 .5194 .501398 .386813 .59368 .595353 .639811 .566421 .564291",
        ),
    ],
)
def test_cocos_own_example_results_get_the_published_numbers(iou_type, file, expected):
    truth = json.loads((OFFICIAL / "instances_val2014_100.json").read_text())
    results = json.loads((OFFICIAL / file).read_text())
    ours = assert_equal(truth, results, iou_type)
    # published with six digits
    np.testing.assert_allclose(list(ours.numbers.values()), [float(x) for x in expected.split()], rtol=0, atol=5e-7)


@needs_mini
def test_results_in_files_get_the_numbers_stored_with_them():
    truth = MINI / "coco" / "annotations" / "instances_val2017.json"
    results = MINI / "degraded_predictions_val" / "instances_pred.json"
    expected = json.loads(results.with_name("expected.json").read_text())["pycocotools_segm"]
    ours = evaluate_coco(truth, str(results))
    np.testing.assert_allclose(list(ours.numbers.values()), expected, rtol=0, atol=1e-12)
    assert_equal(json.loads(truth.read_text()), json.loads(results.read_text()), "masks")


# What differs on purpose ---------------------------------------------------------------------------------------------


def one_object(annotation_id):
    truth = {
        "images": [{"id": 1, "height": 40, "width": 40}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {
                "id": annotation_id,
                "image_id": 1,
                "category_id": 1,
                "iscrowd": 0,
                "area": 100,
                "bbox": [0, 0, 10, 10],
                "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]],
            }
        ],
    }
    mask = coco_mask.frPyObjects([[0, 0, 10, 0, 10, 10, 0, 10]], 40, 40)[0]
    found = {"size": mask["size"], "counts": mask["counts"].decode()}
    return truth, [{"image_id": 1, "category_id": 1, "score": 1.0, "segmentation": found}]


def test_an_object_with_annotation_id_0_can_be_found():
    assert reference(*one_object(0), "masks").stats[0] == 0  # the id of the match is 0, which reads as "no match"
    assert evaluate_coco(*one_object(0)).ap == evaluate_coco(*one_object(1)).ap == pytest.approx(1)


def test_the_area_of_a_detected_mask_is_that_of_the_mask_though_there_is_a_box():
    truth, results = one_object(1)
    wrong = copy.deepcopy(results[0]) | {"score": 0.5}
    wrong["segmentation"] = packed(np.pad(np.ones((2, 2), np.uint8), (0, 38)).copy(order="F"))
    wrong["bbox"] = [0, 0, 40, 40]
    results[0]["bbox"] = [0, 0, 10, 10]
    ours = evaluate_coco(truth, [wrong, results[0] | {"score": 0.1}])
    assert ours.ap_small == pytest.approx(0.5)  # the wrong mask of 4 pixels is small, and comes first
    assert reference(truth, [wrong, results[0] | {"score": 0.1}], "masks").stats[3] == pytest.approx(
        1
    )  # its box is not
