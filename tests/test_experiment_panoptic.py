"""The experiments about panoptic segmentation: what they count, and runs at a small budget."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from seglib.book.experiments import panoptic_interference, panoptic_merge_rules, pq_void_rules
from seglib.book.experiments.compare import every_run
from seglib.book.experiments.instances import scene_batch
from seglib.book.experiments.panoptic import compare_pq, group_pq, image_counts, mean_of_images, pq_of_sums
from seglib.book.experiments.panoptic_interference import (
    NUM_STUFF,
    NUM_THINGS,
    SCORES,
    both_losses,
    differences,
    score,
    stuff_losses,
    thing_losses,
)
from seglib.book.experiments.panoptic_merge_rules import RULES, merge_all, random_order, stuff_first
from seglib.book.experiments.pq_void_rules import group_sizes, mark_void_and_crowds, segment_counts
from seglib.data.coco_panoptic import write_coco_panoptic
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.metrics.pq import PanopticQuality
from seglib.models.panoptic_fpn import panoptic_fpn_tiny
from seglib.ops.masks import masks_to_boxes
from seglib.ops.panoptic import check_panoptic, panoptic_to_semantic
from seglib.postprocess.panoptic import MergeSettings, merge_panoptic
from seglib.types import VOID, Instances, Panoptic, Segment


@pytest.fixture(scope="module")
def data():
    return Scenes(4, split="train", size=64), Scenes(3, split="val", size=64)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return panoptic_fpn_tiny(NUM_THINGS, NUM_STUFF).eval()


# Interference


def test_the_separate_losses_are_the_two_halves_of_the_joint_ones(data, model):
    batch = scene_batch(data[0], torch.tensor([0, 1]), torch.tensor([False, True]))
    found = []
    for losses in (both_losses, thing_losses, stuff_losses):
        torch.manual_seed(0)
        found.append(losses(model, batch))
    both, things, stuff = found
    assert both == things | stuff and set(stuff) == {"semantic"} and len(things) == 5


def test_no_gradient_crosses_from_one_separate_network_to_the_other_branch(data, model):
    batch = scene_batch(data[0], torch.tensor([0]), torch.tensor([False]))
    trained = {}
    for name, losses in {"both": both_losses, "things": thing_losses, "stuff": stuff_losses}.items():
        model.zero_grad()
        torch.stack(list(losses(model, batch).values())).sum().backward()
        trained[name] = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    shared, things = {"encoder", "fpn"}, {"rpn_head", "box_head", "mask_head"}
    assert trained == {
        "both": shared | things | {"semantic_head"}, "things": shared | things, "stuff": shared | {"semantic_head"}
    }  # fmt: skip


def test_things_and_stuff_are_taken_from_their_networks(data, model):
    torch.manual_seed(1)
    other = panoptic_fpn_tiny(NUM_THINGS, NUM_STUFF).eval()
    both, mixed = score(model, model, data[1]), score(model, other, data[1])
    assert both["ap"] == mixed["ap"] and both["miou"] != mixed["miou"] == score(other, other, data[1])["miou"]


def test_the_differences_are_paired_over_the_seeds():
    def row(system, seed, value):
        return {"system": system, "seed": seed, **dict.fromkeys(SCORES, value)}

    runs = [row("joint", 0, 0.5), row("separate", 0, 0.4), row("joint", 1, 0.7), row("separate", 1, 0.4)]
    mean, low, high = differences(runs)["pq"]
    # differences 0.1 and 0.3: standard deviation √0.02, over √2 it is 0.1; t has the quantile 12.706 with one degree
    assert (mean, low, high) == pytest.approx((0.2, 0.2 - 1.2706, 0.2 + 1.2706), abs=1e-4)
    assert differences(runs[:2])["pq"] == [0.1]


@pytest.mark.slow
def test_interference_gives_one_run_per_seed_and_system_and_goes_on_after_a_stop(data, tmp_path):
    small, lines, keep = {"steps": 1, "batch_size": 2, "data": data}, [], tmp_path / "runs.partial"
    first = panoptic_interference.run(seeds=[0], keep=keep, **small)
    found = panoptic_interference.run(seeds=[0, 1], keep=keep, report=lines.append, **small)
    assert found["runs"][:2] == first["runs"]  # CPU seconds too: they were not made again
    assert [(r["seed"], r["system"]) for r in found["runs"]] == [
        (0, "joint"), (0, "separate"), (1, "joint"), (1, "separate")
    ]  # fmt: skip
    joint, separate = found["runs"][:2]
    assert set(joint["networks"]) == {"both"} and set(separate["networks"]) == {"things", "stuff"}
    heads = sum(p.numel() for n, p in panoptic_fpn_tiny(7, 5).named_parameters() if "_head" in n)
    assert separate["parameters"] == 2 * joint["parameters"] - heads  # encoder and pyramid twice, each head once
    assert lines[0].startswith("seed 0, system joint: ap 0.") and set(found["differences"]) == set(SCORES)
    json.dumps(found, allow_nan=False)


def test_kept_rows_are_those_of_the_same_settings(tmp_path):
    made = []

    def run(value, seed):
        made.append((value, seed))
        return {"seed": seed, "score": float(value + seed)}

    common = {"key": "width", "shown": ("score",), "report": None, "keep": tmp_path / "kept.json"}
    rows = every_run({"thin": 1, "wide": 2}, run, seeds=[0], settings={"steps": 5}, **common)
    assert rows == [{"width": "thin", "seed": 0, "score": 1.0}, {"width": "wide", "seed": 0, "score": 2.0}]
    assert every_run({"thin": 1}, run, seeds=[0, 1], settings={"steps": 5}, **common)[0] == rows[0]
    every_run({"thin": 1}, run, seeds=[0], settings={"steps": 6}, **common)
    assert made == [(1, 0), (2, 0), (1, 1), (1, 0)]


# Counts of every image, and their bootstrap


def row(text, *segments):
    """A map of one row from its digits, and segments given as (id, category) or (id, category, iscrowd)."""
    ids = torch.tensor([[int(c) for c in text]], dtype=torch.int32)
    listed = [Segment(i, k, k < NUM_THINGS, text.count(str(i)), iscrowd=bool(crowd)) for i, k, *crowd in segments]
    return Panoptic(ids, listed)


def test_pq_of_sums_is_not_the_mean_of_the_images():
    # one class: 0.8 of a match alone; then a match of 0.6 with one miss and one false positive
    counts = torch.tensor([[[0.8], [1], [0], [0]], [[0.6], [1], [1], [1]]], dtype=torch.float64)  # (2, 4, 1)
    once = torch.ones(1, 2, dtype=torch.float64)
    assert pq_of_sums(counts, once, 1)[0, :2].tolist() == pytest.approx([1.4 / 3] * 2)
    assert mean_of_images(counts, once, 1)[0, :2].tolist() == pytest.approx([(0.8 + 0.3) / 2] * 2)
    assert pq_of_sums(counts, once, 1)[0, 2].isnan()  # there is no stuff
    twice = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert pq_of_sums(counts, twice, 1)[:, 0].tolist() == pytest.approx([0.8, 0.3])


def test_a_class_without_segments_leaves_the_means():
    counts = torch.zeros(4, 3, dtype=torch.float64)
    counts[:2, 0], counts[:, 2] = torch.tensor([0.9, 1.0]), torch.tensor([0.6, 1.0, 1.0, 1.0])
    assert group_pq(counts, 2).tolist() == pytest.approx([(0.9 + 0.3) / 2, 0.9, 0.3])


def test_differences_are_those_of_the_same_draws():
    of_images = torch.zeros(6, 4, 2, dtype=torch.float64)
    of_images[:, 0], of_images[:, 1] = torch.linspace(0.6, 0.9, 6, dtype=torch.float64)[:, None], 1
    worse = of_images.clone()
    worse[:, 0, 0] -= 0.05  # every image loses five points of the thing
    lines = []
    found = compare_pq(
        {"as it is": (of_images, pq_of_sums), "worse": (worse, pq_of_sums)},
        num_things=1, resamples=40, seed=0, report=lines.append,
    )  # fmt: skip
    assert [r["name"] for r in found] == ["as it is", "worse"]
    assert found[0]["pq"] == {"all": 0.75, "things": 0.75, "stuff": 0.75}
    assert found[1]["points"] == {"all": [-2.5] * 3, "things": [-5.0] * 3, "stuff": [0.0] * 3}  # whatever is drawn
    assert lines[1] == "worse: PQ 0.725, -2.50 points (-2.50 to -2.50)"


def test_the_bootstrap_draws_images_with_replacement():
    counts = torch.ones(2, 4, 1, dtype=torch.float64)
    counts[:, 2:], counts[0, 0] = 0, 0.6  # PQ of the images: 0.6 and 1
    same = {"once": (torch.ones_like(counts) * counts[1], pq_of_sums), "both": (counts, pq_of_sums)}
    (_, both) = compare_pq(same, num_things=1, resamples=200, seed=0)
    assert both["points"]["things"] == [-20.0, -40.0, 0.0]  # both images once; the worse one twice; never


# Void and crowds


def random_pair(draw):
    """A prediction and a truth of up to five segments, of the classes 6 (a thing), 7 and 8, and void."""
    sides = []
    for _ in range(2):
        ids = draw.integers(0, 6, (4, 5))
        listed = [(i, int(draw.integers(6, 9))) for i in range(1, 6) if (ids == i).any()]
        segments = [Segment(i, k, k < NUM_THINGS, int((ids == i).sum())) for i, k in listed]
        sides.append(Panoptic(torch.from_numpy(ids).int(), segments))
    return sides


def test_the_rules_with_all_switches_as_they_are_give_pq():
    draw = np.random.default_rng(0)
    for _ in range(30):
        prediction, target = random_pair(draw)
        first = target.segments[0]
        crowd = replace(target, segments=[replace(first, iscrowd=first.isthing), *target.segments[1:]])
        found = segment_counts(prediction, crowd, len(CATEGORIES))
        torch.testing.assert_close(found, image_counts(prediction, crowd, CATEGORIES))


@pytest.mark.slow
def test_both_voids_is_the_rule_of_torchmetrics():
    from torchmetrics.detection import PanopticQuality as TorchmetricsPQ  # it takes seconds to import

    def pixels(panoptic):  # (1, H, W, 2): class and instance
        return torch.stack([panoptic_to_semantic(panoptic), panoptic.map.long()], -1)[None]

    draw = np.random.default_rng(0)
    for _ in range(30):
        prediction, target = random_pair(draw)
        # it would put the stuff of a class together, so all are things to it
        reference = TorchmetricsPQ({6, 7, 8}, set(), allow_unknown_preds_category=True, return_per_class=True)
        reference.update(pixels(prediction), pixels(target))
        iou, tp, fp, fn = segment_counts(prediction, target, 9, both_voids=True)[:, 6:]
        found = (iou / (tp + (fp + fn) / 2)).nan_to_num(0)
        torch.testing.assert_close(found, reference.compute().flatten())


def test_each_switch_by_hand():
    # the truth has one thing of four pixels, then two of void; the prediction covers all six and adds one in void
    target, found = row("1111000", (1, 0)), row("1111112", (1, 0), (2, 0))
    count = {
        name: segment_counts(found, target, 1, **switches)[:, 0].tolist()
        for name, switches in {
            "as panopticapi": {},
            "in union": {"void_in_union": True},
            "no excuse": {"void_excuses": False},
        }.items()
    }
    assert count["as panopticapi"] == [1.0, 1, 0, 0]
    assert count["in union"] == [pytest.approx(4 / 6), 1, 0, 0]
    assert count["no excuse"] == [1.0, 1, 1, 0]
    # predicted void: five of eight true pixels are not predicted, which is a miss or nothing
    target, found = row("11111111", (1, 0)), row("00000111", (1, 0))
    assert segment_counts(found, target, 1)[:, 0].tolist() == [0, 0, 1, 1]
    assert segment_counts(found, target, 1, both_voids=True)[:, 0].tolist() == [1.0, 1, 0, 0]
    target, found = row("11111111", (1, 0)), row("00000222", (2, 1))
    assert segment_counts(found, target, 2, both_voids=True).tolist() == [[0, 0], [0, 0], [0, 1], [0, 0]]


def counted(name, found, target):
    return pq_void_rules.RULES[name][0](found, target, 2).tolist()


def test_a_crowd_that_counts_as_an_object_is_missed():
    target, found = row("1111", (1, 0, True)), row("1223", (1, 0), (2, 0), (3, 0))
    assert counted("panopticapi's rules", found, target) == [[0, 0]] * 4
    assert counted("crowds are ordinary objects", found, target) == [[0, 0], [0, 0], [3, 0], [1, 0]]


def test_void_as_a_class_must_be_matched():
    target, found = row("1100", (1, 0)), row("1110", (1, 0))
    # the thing's IoU is 2/3 and void's is 1/2, which is no match
    assert counted("void is a class", found, target) == [[pytest.approx(2 / 3), 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1]]


def test_swapped_the_predicted_void_excuses():
    target, found = row("1122", (1, 0), (2, 1)), row("1100", (1, 0))
    assert counted("panopticapi's rules", found, target)[3] == [0, 1]
    assert counted("prediction and truth swapped", found, target) == [[1, 0], [1, 0], [0, 0], [0, 0]]


def things_at(*places, label=0, size=12):
    """Things of one pixel in the top row."""
    masks = torch.zeros(len(places), size, size, dtype=torch.bool)
    for mask, x in zip(masks, places, strict=True):
        mask[0, x] = True
    return Instances(masks, torch.full((len(places),), label), masks_to_boxes(masks))


def test_neighbours_are_at_most_two_pixels_apart():
    assert group_sizes(things_at(0, 2, 4, 7, 9)).tolist() == [3, 3, 3, 2, 2]
    others = Instances.cat([things_at(0, 4), things_at(2, label=1)])
    assert group_sizes(others).tolist() == [1, 1, 1]
    assert len(group_sizes(things_at())) == 0


def test_the_marked_truth_is_a_valid_one(monkeypatch):
    ids = torch.full((3, 12), 9, dtype=torch.int32)
    ids[0, :9:2] = torch.arange(1, 6).int()  # five neighbours of class 1, one pixel each
    ids[0, 11] = 6  # and one alone, of class 0
    segments = [Segment(i, 1, True, 1) for i in range(1, 6)] + [Segment(6, 0, True, 1), Segment(9, 8, False, 30)]
    monkeypatch.setattr(pq_void_rules, "UNLABELLED", 1.0)
    marked = mark_void_and_crowds(Panoptic(ids, segments), torch.Generator())
    assert marked.map.tolist() == [[1, 0] * 4 + [1, 0, 0, 0], [0] * 12, [9] * 12]
    assert marked.segments == [Segment(1, 1, True, 5, iscrowd=True), Segment(9, 8, False, 12)]
    check_panoptic(marked, len(CATEGORIES), num_things=NUM_THINGS)


@pytest.mark.slow
def test_every_rule_counts_the_same_predictions(data):
    found = pq_void_rules.run(seeds=[0], steps=5, data=data[1])
    assert [r["name"] for r in found["rules"]] == list(pq_void_rules.RULES)
    assert found["data"] == "scenes" and found["images"] == 3 and found["truth"]["void"] > 0.01
    assert found["rules"][0]["points"] == {"all": [0, 0, 0], "things": [0, 0, 0], "stuff": [0, 0, 0]}
    json.dumps(found, allow_nan=False)
    assert pq_void_rules.run(seeds=[0], steps=5, data=data[1]) == found


def test_predictions_in_coco_files_are_scored(tmp_path):
    target = row("11223", (1, 0), (2, 0), (3, 8))
    (tmp_path / "val2017").mkdir()
    Image.fromarray(np.zeros((1, 5, 3), np.uint8)).save(tmp_path / "val2017" / "000000000007.jpg")
    for name, panoptic in {"panoptic_val2017": target, "panoptic_pred": row("11333", (1, 0), (3, 8))}.items():
        file = tmp_path / f"{name}.json"
        write_coco_panoptic(file, tmp_path / name, [panoptic], [7], range(len(CATEGORIES)), categories=CATEGORIES)
    bare = json.loads((tmp_path / "panoptic_pred.json").read_text())["annotations"]
    (tmp_path / "panoptic_pred.json").write_text(json.dumps({"annotations": bare}))
    ((found, true),), categories = pq_void_rules.coco_pairs(tmp_path)
    assert found.map.tolist() == [[1, 1, 3, 3, 3]] and true.map.tolist() == [[1, 1, 2, 2, 3]]
    assert [c.name for c in categories] == [c.name for c in CATEGORIES]
    result = pq_void_rules.run(seeds=[0], steps=3, root=tmp_path)
    assert result["images"] == 1 and result["rules"][0]["pq"] == {"all": round(1 / 3, 5), "things": 0.66667, "stuff": 0}
    with pytest.raises(FileNotFoundError, match=r"holds no panoptic_val2017\.json"):
        pq_void_rules.coco_pairs(tmp_path / "panoptic_pred")


# The merge


def squares(scores):
    """Overlapping things of class 0: columns 0–3, 2–5 and 4–7 of a map of 4×8."""
    masks = torch.zeros(3, 4, 8, dtype=torch.bool)
    for i, mask in enumerate(masks):
        mask[:, 2 * i : 2 * i + 4] = True
    return Instances(masks, torch.zeros(3, dtype=torch.int64), masks_to_boxes(masks), torch.tensor(scores))


def test_a_random_order_keeps_the_objects_that_reach_the_threshold():
    things, settings = squares([0.9, 0.3, 0.6]), MergeSettings(score_threshold=0.5)
    torch.manual_seed(0)
    orders = set()
    for _ in range(20):
        shuffled = random_order(things, torch.empty(0), settings)
        assert torch.equal(shuffled.masks, things.masks[[0, 2]]) and (shuffled.scores >= 0.5).all()
        orders.add(tuple(shuffled.scores.argsort().tolist()))
    assert orders == {(0, 1), (1, 0)}


def test_stuff_first_leaves_things_what_is_called_a_thing():
    stuff = torch.full((4, 8), VOID)
    stuff[:, :3] = NUM_THINGS
    left = stuff_first(squares([0.9, 0.8, 0.7]), stuff, MergeSettings())
    assert left.masks.sum((1, 2)).tolist() == [4, 12, 16] and not left.masks[:, stuff == NUM_THINGS].any()
    merged = merge_panoptic(left, stuff, MergeSettings(stuff_area_limit=0), num_things=NUM_THINGS)
    assert merged.map[0].tolist() == [4, 4, 4, 1, 2, 2, 3, 3]


def test_the_first_rule_is_the_model_s_own_prediction(data, model):
    counts, void = merge_all(model, data[1], RULES)
    metric, shares = PanopticQuality(CATEGORIES), []
    for i in range(len(data[1])):
        (found,) = model.predict(data[1][i].image[None])
        metric.update(found, data[1][i].panoptic)
        shares.append((found.map == 0).double().mean())
    assert torch.equal(counts["paper's rules"].sum(0), metric.counts)
    assert void["paper's rules"] == pytest.approx(float(torch.stack(shares).mean()))
    assert void["no stuff limit"] <= void["paper's rules"] < void["stuff limit 4096"] == 1  # 64 × 64 pixels at most


@pytest.mark.slow
def test_every_variant_of_the_merge_has_a_row(data, model):
    small = {"seeds": [0], "steps": 5, "model": model, "data": data[1], "sweeps": {"overlap_threshold": (0.5, 1.0)}}
    found = panoptic_merge_rules.run(**small)
    rules = {r["name"]: r for r in found["rules"]}
    assert list(rules) == list(RULES) and found["merge"] == vars(model.merge) and found["resamples"] == 5
    own, none = found["sweeps"]["overlap_threshold"]
    assert own["value"] == 0.5 and own["pq"] == rules["paper's rules"]["pq"]
    assert {"points", "void", "pq"} < set(none) and none["points"] == rules["no overlap rule"]["points"]
    json.dumps(found, allow_nan=False)
    assert panoptic_merge_rules.run(**small) == found


# Budgets


@pytest.mark.parametrize("module", [panoptic_interference, panoptic_merge_rules, pq_void_rules])
def test_empty_budgets_are_refused(module):
    for budget in ({"steps": 0, "scenes": 1}, {"steps": 1, "scenes": 0}):
        with pytest.raises(ValueError, match="must be positive"):
            module.run(seeds=[0], **budget)
