"""The experiment about RoIAlign: what it pools, what it scores, and a run at a small budget."""

import pytest
import torch

from seglib.book.experiments import roi_pooling, roi_position
from seglib.book.experiments.roi_pooling import (
    MIN_SIZE,
    PATCH,
    SHIFTS,
    VARIANTS,
    Objects,
    load_objects,
    mask_ious,
    paste_all,
    rounded_bilinear,
    run,
)
from seglib.book.experiments.roi_position import REACH, shifted_ious
from seglib.book.results import write_results
from seglib.data.scenes import Scenes
from seglib.layers.roi_heads import MaskHead
from seglib.ops.roi import roi_align


@pytest.fixture(scope="module")
def data():
    return load_objects(4, "train", size=96), load_objects(3, "val", size=96)


def test_objects_are_those_of_the_scenes_but_for_small_ones(data):
    things, at = data[1], 0
    for i in range(3):
        truth = Scenes(3, split="val", size=96)[i].instances
        kept = (truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(1).sqrt() >= MIN_SIZE
        count = int(kept.sum())
        picked = torch.arange(at, at + count)
        assert torch.equal(things.boxes[picked], truth.boxes[kept])
        assert torch.equal(things.labels[picked], truth.labels[kept])
        assert torch.equal(things.masks(picked), truth.masks[kept])
        at += count
    assert at == len(things) > 0
    assert {s: tuple(m.shape[-2:]) for s, m in things.maps.items()} == {4: (24, 24), 8: (12, 12), 16: (6, 6)}


def test_rounded_bilinear_sees_whole_cells():
    features = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    first = torch.tensor([0])
    # 10 / 8 and 30 / 8 round to the cells 1 and 4, of which the last counts as a whole: pixels 8 to 40
    found = rounded_bilinear(features, torch.tensor([[10.0, 10, 30, 30]]), first, 8)
    whole = roi_align(features, torch.tensor([[8.0, 8, 40, 40]]), first, PATCH, strides=8)
    assert torch.equal(found, whole)
    nearby = rounded_bilinear(features, torch.tensor([[11.5, 9.0, 31, 29]]), first, 8)
    assert torch.equal(found, nearby)


def test_a_patch_comes_from_the_things_own_scene(data):
    things = data[0]
    marked = {8: torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 12, 12)}  # every cell tells its scene
    marked = Objects(marked, things.owners, things.scenes, things.numbers, things.boxes, things.labels)
    picked = torch.tensor([len(things) - 1, 0, len(things) // 2])
    for name, pool in VARIANTS.items():
        patches = marked.pooled(pool, 8, picked, things.boxes[picked])
        assert torch.equal(patches[:, 0, 4, 4].round().long(), things.scenes[picked]), name


def test_true_masks_have_iou_one_and_shifted_boxes_less(data):
    things = data[1]

    class Oracle(MaskHead):
        """Says "inside" everywhere: its pasted mask is the box."""

        def forward(self, regions, labels=None):
            return torch.full((len(regions), 2 * PATCH, 2 * PATCH), 20.0)

    picked = torch.arange(len(things))
    area = (things.boxes[:, 2:] - things.boxes[:, :2]).prod(1)
    expected = things.masks(picked).flatten(1).sum(1) / area
    found = mask_ious(Oracle(1, 1), VARIANTS["RoIAlign"], 8, things)
    torch.testing.assert_close(found, expected)
    shifted = mask_ious(Oracle(1, 1), VARIANTS["RoIAlign"], 8, things, shift=1.0, count=5)
    assert len(shifted) == 5 and (shifted < expected[:5]).all()


@pytest.mark.slow
def test_the_experiment_gives_one_run_per_seed_stride_and_variant_and_repeats_itself(data, tmp_path):
    lines = []
    small = {"seeds": [0, 1], "steps": 3, "batch_size": 4, "strides": (8, 16), "data": data}
    found = run(**small, report=lines.append)
    expected = [(seed, stride, name) for seed in (0, 1) for stride in (8, 16) for name in VARIANTS]
    assert [(r["seed"], r["stride"], r["variant"]) for r in found["runs"]] == expected
    assert len(lines) == len(expected) and lines[0].startswith("seed 0, stride 8, RoI Pooling: iou 0.")
    again = run(**small)["runs"]
    for r in [*found["runs"], *again]:
        assert len(r["shift_iou"]) == len(SHIFTS) and 0 <= r["at75"] <= r["at50"] <= 1 and r["wobble"] >= 0
        del r["cpu_seconds"]
    assert again == found["runs"]
    assert {r["loss"] for r in found["runs"][:4]} != {found["runs"][0]["loss"]}  # the pooling makes a difference
    write_results(tmp_path / "a.json", found, command="test", seed=[0, 1])


def test_training_lowers_the_loss(data):
    torch.manual_seed(0)
    head = MaskHead(data[0].maps[4].shape[1], roi_pooling.NUM_CLASSES, hidden=32, depth=2, norm=True)
    losses = roi_pooling.train_head(head, VARIANTS["RoIAlign"], 4, data[0], steps=25, seed=0, batch_size=16)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5]) and not head.training


def test_empty_budgets_and_unknown_names_are_refused(data):
    with pytest.raises(ValueError, match="length must be positive, got 0"):
        load_objects(0, "train")
    with pytest.raises(ValueError, match="steps must be positive, got 0"):
        run(seeds=[0], steps=0, data=data)
    with pytest.raises(ValueError, match=r"variants \['crop'\] are unknown; choose among RoI Pooling"):
        run(seeds=[0], steps=1, variants=["crop"], data=data)
    with pytest.raises(ValueError, match=r"strides \[5\] are unknown; choose among 4, 8, 16"):
        run(seeds=[0], steps=1, strides=[5], data=data)


def test_a_moved_mask_fits_best_where_it_was_moved_back():
    g = torch.Generator().manual_seed(5)
    truth = torch.rand(6, 14, 17, generator=g) > 0.7
    moved = torch.zeros_like(truth)
    moved[:, 2:, :-1] = truth[:, :-2, 1:]  # two pixels down, one to the left
    found = shifted_ious(moved, truth)
    assert found.shape == (6, 7, 7)
    cut = truth.clone()
    cut[:, -2:], cut[:, :, 0] = False, False  # what left the image is lost
    expected = cut.flatten(1).sum(1) / truth.flatten(1).sum(1)
    torch.testing.assert_close(found[:, REACH - 2, REACH + 1], expected)
    assert torch.equal(found.flatten(1).argmax(1), torch.full((6,), (REACH - 2) * 7 + REACH + 1))


def test_shifts_are_those_of_a_rolled_image_with_an_empty_frame():
    g = torch.Generator().manual_seed(6)
    masks, truth = torch.rand(2, 5, 12, 10, generator=g) > 0.5
    frame = torch.zeros(12, 10, dtype=torch.bool)
    frame[2:-2, 2:-2] = True  # nothing leaves within two pixels
    masks = masks & frame
    found = shifted_ious(masks, truth, reach=2)
    for i, down in enumerate(range(-2, 3)):
        for j, right in enumerate(range(-2, 3)):
            rolled = masks.roll((down, right), (1, 2))
            expected = (rolled & truth).flatten(1).sum(1) / (rolled | truth).flatten(1).sum(1)
            torch.testing.assert_close(found[:, i, j], expected)


def test_no_shift_is_the_iou_and_two_empty_masks_agree():
    empty = torch.zeros(1, 6, 6, dtype=torch.bool)
    assert shifted_ious(empty, empty).eq(1).all()
    assert shifted_ious(empty, ~empty, reach=0).tolist() == [[[0.0]]]
    with pytest.raises(ValueError, match=r"reach must lie in 0\.\.5 for masks of 6 × 6, got 6"):
        shifted_ious(empty, empty, reach=6)
    with pytest.raises(ValueError, match="alike"):
        shifted_ious(empty, empty[0])


def test_position_is_scored_on_the_same_masks_and_best_never_falls_below(data):
    lines = []
    small = {"seeds": [0], "steps": 2, "batch_size": 4, "strides": (8,), "data": data}
    found = roi_position.run(**small, report=lines.append)
    assert [r["variant"] for r in found["runs"]] == list(roi_position.POOLINGS) and len(lines) == 2
    for r in found["runs"]:
        assert r["best_iou"] >= r["iou"]
        parts = r["cells"].values()
        assert sum(p["objects"] for p in parts) == found["val_objects"] == len(data[1])
        mean = sum(p["objects"] * p["iou"] for p in parts) / len(data[1])
        assert mean == pytest.approx(r["iou"], abs=2e-5)  # five decimals are stored
    torch.manual_seed(0)
    head = MaskHead(data[0].maps[8].shape[1], roi_pooling.NUM_CLASSES, hidden=32, depth=2, norm=True)
    roi_pooling.train_head(head, VARIANTS["RoIAlign"], 8, data[0], steps=2, seed=0, batch_size=4)
    ious = mask_ious(head, VARIANTS["RoIAlign"], 8, data[1])
    assert found["runs"][1]["iou"] == pytest.approx(ious.mean().item(), abs=1e-5)
    drawn, truth = paste_all(head, VARIANTS["RoIAlign"], 8, data[1]), data[1].masks(torch.arange(len(data[1])))
    torch.testing.assert_close(shifted_ious(drawn, truth)[:, REACH, REACH], ious)
    with pytest.raises(ValueError, match=r"strides \[5\] are unknown; choose among 4, 8, 16"):
        roi_position.run(seeds=[0], steps=1, strides=[5], data=data)
