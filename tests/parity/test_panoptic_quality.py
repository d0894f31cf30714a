"""Panoptic quality equals panopticapi's, agrees with DeepLab2's, and differs from torchmetrics' where the rules do."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.detection import PanopticQuality as TorchmetricsPQ

from seglib.metrics import PanopticQuality, evaluate_coco_panoptic
from seglib.ops.panoptic import ids_to_rgb
from seglib.types import Category, Panoptic, Segment

DATA = Path(__file__).parents[3] / "shared" / "data"
MINI = DATA / "coco-panoptic-mini"
DEEPLAB2 = DATA / "fixtures-eval" / "deeplab2_pq_testdata"
needs_mini = pytest.mark.skipif(not MINI.is_dir(), reason=f"the small COCO set is not at {MINI}")
needs_deeplab2 = pytest.mark.skipif(not DEEPLAB2.is_dir(), reason=f"DeepLab2's test images are not at {DEEPLAB2}")

# sums of the same float64 ratios in another order
EXACT = {"rtol": 0, "atol": 1e-12}


def assert_has(scores, official):
    """The scores are those of ``{"All": {"pq", "sq", "rq", "n"}, "Things": …, "Stuff": …}``."""
    for means, name in ((scores, "All"), (scores.things, "Things"), (scores.stuff, "Stuff")):
        found = [means.pq, means.sq, means.rq, means.classes]
        np.testing.assert_allclose(found, [official[name][key] for key in ("pq", "sq", "rq", "n")], **EXACT)


# COCO


@needs_mini
def test_predictions_for_coco_score_what_panopticapi_says():
    truth, results = MINI / "coco" / "annotations", MINI / "degraded_predictions_val"
    scores = evaluate_coco_panoptic(
        truth / "panoptic_val2017.json",
        truth / "panoptic_val2017",
        results / "panoptic_pred.json",
        results / "panoptic_pred",
    )
    official = json.loads((results / "expected.json").read_text())
    assert_has(scores, official["panopticapi"])
    categories = json.loads((truth / "panoptic_val2017.json").read_text())["categories"]
    places = sorted(categories, key=lambda c: (not c["isthing"], c["id"]))
    per_class = official["panopticapi_per_class"]
    assert len(per_class) >= scores.classes
    for k, category in enumerate(places):
        found = [float(v[k]) for v in (scores.class_pq, scores.class_sq, scores.class_rq)]
        entry = per_class.get(str(category["id"]), dict.fromkeys(("pq", "sq", "rq"), 0))
        wanted = [entry[key] for key in ("pq", "sq", "rq")]
        np.testing.assert_allclose(np.nan_to_num(found), wanted, **EXACT, err_msg=category["name"])  # absent is 0 there


@needs_mini
def test_the_ground_truth_scores_1_against_itself():
    files = MINI / "coco" / "annotations" / "panoptic_val2017.json", MINI / "coco" / "annotations" / "panoptic_val2017"
    scores = evaluate_coco_panoptic(*files, *files)
    assert (scores.pq, scores.sq, scores.rq) == (1, 1, 1)
    assert scores.fp.sum() == scores.fn.sum() == 0


# panopticapi itself

CLASSES = [("person", 1, 1), ("car", 3, 1), ("sky", 187, 0), ("grass", 193, 0)]
CATEGORIES = [Category(k, name, bool(isthing), (0, 0, k)) for k, (name, _, isthing) in enumerate(CLASSES)]


def described(ids, rng, crowd_share=0.0):
    """``segments_info`` of all ids in a map, in a random order and of random classes."""
    entries = []
    for i in rng.permutation(np.unique(ids[ids > 0])).tolist():
        _, category_id, isthing = CLASSES[rng.integers(len(CLASSES))]
        crowd = int(bool(isthing) and rng.random() < crowd_share)
        entries.append({"id": i, "category_id": category_id, "iscrowd": crowd, "area": int((ids == i).sum())})
    return entries


def made_files(folder, seed, images=12):
    """Ground truth and results: much void, crowds (often several of a class), halves, single pixels, empty images."""
    rng = np.random.default_rng(seed)
    sides = {"truth": [], "results": []}
    for image_id in range(1, images + 1):
        step = int(rng.choice([1, 257, 65793]))  # ids of one, two and three bytes
        block = int(rng.integers(1, 5))
        coarse = rng.integers(0, rng.integers(1, 10) + 1, rng.integers(1, 9, 2))
        ids = coarse.repeat(block, 0).repeat(2 * block, 1)
        true = np.where(rng.random(ids.shape) < rng.choice([0, 0.1, 0.6, 1], p=[0.3, 0.3, 0.3, 0.1]), 0, ids) * step
        found = np.roll(ids, int(rng.integers(3)), axis=1)
        if rng.random() < 0.5:
            found[:, ::2] = np.where(found[:, ::2] > 0, found[:, ::2] + 20, 0)
        found = found * step * int(rng.random() < 0.95)
        true_segments = described(true, rng, crowd_share=rng.choice([0, 0.3, 1]))
        found_segments = described(found, rng)
        known = {s["id"]: s["category_id"] for s in true_segments}
        for s in found_segments:
            if rng.random() < 0.7:
                s["category_id"] = known.get(s["id"] % (20 * step), s["category_id"])
            del s["area"], s["iscrowd"]
        for side, pixels, segments in (("truth", true, true_segments), ("results", found, found_segments)):
            (folder / side).mkdir(exist_ok=True)
            Image.fromarray(ids_to_rgb(torch.from_numpy(pixels)).numpy()).save(folder / side / f"{image_id}.png")
            entry = {"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments}
            sides[side].append(entry)
    table = [{"id": i, "name": name, "isthing": isthing} for name, i, isthing in CLASSES]
    for side, annotations in sides.items():
        shapes = [{"id": a["image_id"], "file_name": a["file_name"]} for a in annotations]
        content = {"images": shapes, "annotations": annotations, "categories": table}
        (folder / f"{side}.json").write_text(json.dumps(content))
    return folder / "truth.json", folder / "truth", folder / "results.json", folder / "results"


@pytest.mark.parametrize("seed", range(4))
def test_random_files_score_as_in_panopticapi(seed, tmp_path, capsys):
    evaluation = pytest.importorskip("panopticapi.evaluation", reason="panopticapi isn't installed (not on PyPI)")
    truth, truth_folder, results, results_folder = made_files(tmp_path, seed)
    official = evaluation.pq_compute(str(truth), str(results), str(truth_folder), str(results_folder))
    scores = evaluate_coco_panoptic(truth, truth_folder, results, results_folder)
    assert_has(scores, official)
    for k, (_, category_id, _) in enumerate(CLASSES):
        found = [float(v[k]) for v in (scores.class_pq, scores.class_sq, scores.class_rq)]
        wanted = [official["per_class"][category_id][key] for key in ("pq", "sq", "rq")]
        np.testing.assert_allclose(np.nan_to_num(found), wanted, **EXACT)  # a class without segments is 0 there
    capsys.readouterr()  # it prints a table


# DeepLab2

GREY_TO_CLASS = {
    "bird": {92: 5, 176: 3, 255: 4},
    "cat": {0: 0, 255: 6},
    "team": {0: 0, 47: 1, 97: 1, 133: 1, 150: 1, 174: 1, 198: 2, 215: 1, 244: 1, 255: 1},
}
COLOR_TO_CLASS = {
    (0, 0, 0): 0,
    (0, 0, 255): 1,
    (255, 0, 0): 2,
    (0, 255, 0): 3,
    (255, 0, 255): 4,
    (0, 255, 255): 5,
    (255, 255, 0): 6,
}


def deeplab2_panoptic(classes, instances):
    """Segments are the pairs of class and instance; class 0 is void, class k + 1 our class k."""
    ids = np.where(classes > 0, classes * 256 + instances, 0).astype(np.int32)
    numbers, areas = np.unique(ids[ids > 0], return_counts=True)
    segments = [Segment(i, i // 256 - 1, True, n) for i, n in zip(numbers.tolist(), areas.tolist(), strict=True)]
    return Panoptic(torch.from_numpy(ids), segments)


def deeplab2_scores(names, num_classes):
    metric = PanopticQuality([Category(k, str(k + 1), True, (0, 0, k)) for k in range(num_classes)])
    for name in names:
        gt_file = "team_gt_instance.png" if name == "team" else f"{name}_gt.png"
        grey = np.array(Image.open(DEEPLAB2 / gt_file).convert("RGB"))[..., 0].astype(np.int64)
        true = np.vectorize(GREY_TO_CLASS[name].get)(grey)
        colors = np.array(Image.open(DEEPLAB2 / f"{name}_pred_class.png").convert("RGB"))
        found = sum(k * (colors == color).all(-1) for color, k in COLOR_TO_CLASS.items())
        number = np.array(Image.open(DEEPLAB2 / f"{name}_pred_instance.png").convert("RGB"))[..., 0]
        metric.update(deeplab2_panoptic(found, number), deeplab2_panoptic(true, grey))
    return metric.compute()


@needs_deeplab2
@pytest.mark.parametrize(
    ("names", "num_classes", "quality", "counts"),
    [
        (["team"], 2, (0.62156284, 0.64664984, 0.9666667), (4, 0, 1 / 2)),
        (["bird", "cat", "team"], 6, (0.76855499, 0.7769174, 0.98888892), (2, 0, 1 / 6)),
    ],
)
def test_deeplab2s_images_score_what_its_unit_test_expects(names, num_classes, quality, counts):
    scores = deeplab2_scores(names, num_classes)
    # its numbers are float32, of which one step near 1 is 6e-8; the segments' counts are means over classes
    np.testing.assert_allclose([scores.pq, scores.sq, scores.rq], quality, rtol=0, atol=1.2e-7)
    np.testing.assert_allclose([n.double().mean() for n in (scores.tp, scores.fp, scores.fn)], counts, rtol=1e-15)


# torchmetrics


def theirs(prediction, target):
    """PQ of torchmetrics, for maps whose pixels it takes as (class, instance); void is a class that it doesn't know."""
    metric = TorchmetricsPQ(things={0, 1}, stuffs={2, 3}, allow_unknown_preds_category=True)
    sides = []
    for side in (prediction, target):
        classes = {s.id: s.category_id for s in side.segments} | {0: 99}
        sides.append([[[classes[i], i] for i in row] for row in side.map.tolist()])
    return float(metric(*(torch.tensor(side)[None] for side in sides)))


def ours(prediction, target):
    metric = PanopticQuality(CATEGORIES)
    metric.update(prediction, target)
    return metric.compute().pq


def panoptic(row, classes, *, crowds=()):
    segments = [Segment(i, k, k < 2, row.count(i), iscrowd=i in crowds) for i, k in classes.items()]
    return Panoptic(torch.tensor([row], dtype=torch.int32), segments)


def random_panoptic(rng, classes):
    """A map without void; torchmetrics joins the stuff of a class, so every stuff class is one segment."""
    ids = rng.integers(1, 7, (6, 16)).repeat(4, 1)
    return Panoptic(
        torch.from_numpy(ids).int(),
        [Segment(int(i), classes[i], classes[i] < 2, int((ids == i).sum())) for i in np.unique(ids)],
    )


def test_without_void_and_crowd_torchmetrics_agrees():
    rng = np.random.default_rng(0)
    classes = {1: 0, 2: 0, 3: 1, 4: 1, 5: 2, 6: 3}
    scores = []
    for _ in range(20):
        target = random_panoptic(rng, classes)
        ids = torch.where(torch.from_numpy(rng.random(target.map.shape)) < 0.25, target.map.roll(4, 1), target.map)
        areas = ids.unique(return_counts=True)
        found = zip(*(part.tolist() for part in areas), strict=True)
        prediction = Panoptic(ids, [Segment(i, classes[i], classes[i] < 2, n) for i, n in found])
        scores.append(ours(prediction, target))
        assert scores[-1] == pytest.approx(theirs(prediction, target), abs=6e-8)  # its IoUs are float32
    assert 0.1 < min(scores) < max(scores) < 0.9


def test_with_void_in_the_target_torchmetrics_agrees():
    target = panoptic([1, 1, 1, 1, 0, 0, 0, 3, 3, 3], {1: 0, 3: 2})
    prediction = panoptic([1, 1, 1, 1, 1, 5, 5, 5, 3, 3], {1: 0, 5: 1, 3: 2})
    assert ours(prediction, target) == pytest.approx(5 / 6)  # 4/4 and 2/3; the dog lies mostly in void
    assert theirs(prediction, target) == pytest.approx(5 / 6)


def test_torchmetrics_drops_a_miss_that_is_predicted_as_void():
    target = panoptic([1, 1, 2, 2], {1: 0, 2: 0})
    prediction = panoptic([1, 1, 0, 0], {1: 0})
    assert ours(prediction, target) == pytest.approx(1 / 1.5)  # one match and one miss
    assert theirs(prediction, target) == 1  # the miss lies in predicted void, and is forgotten


def test_torchmetrics_takes_predicted_void_out_of_the_union():
    target = panoptic([1, 1, 1, 1], {1: 0})
    prediction = panoptic([1, 1, 1, 0], {1: 0})
    assert ours(prediction, target) == 3 / 4
    assert theirs(prediction, target) == 1


def test_torchmetrics_knows_no_crowd():
    target = panoptic([1, 1, 2, 2, 2, 2], {1: 0, 2: 0}, crowds=[2])
    prediction = panoptic([1, 1, 3, 3, 4, 4], {1: 0, 3: 0, 4: 0})
    assert ours(prediction, target) == 1  # the crowd is not missed, and who is found in it is ignored
    assert theirs(prediction, target) == pytest.approx(1 / (1 + 2 / 2 + 1 / 2))  # two false positives, one miss
