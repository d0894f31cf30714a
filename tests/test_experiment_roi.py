"""The experiment about RoIAlign: what it pools, what it scores, and a run at a small budget."""

import pytest
import torch

from seglib.book.experiments import roi_pooling
from seglib.book.experiments.roi_pooling import (
    MIN_SIZE,
    PATCH,
    SHIFTS,
    VARIANTS,
    Things,
    load_things,
    mask_ious,
    rounded_bilinear,
    run,
)
from seglib.book.results import write_results
from seglib.data.scenes import Scenes
from seglib.layers.roi_heads import MaskHead
from seglib.ops.roi import roi_align


@pytest.fixture(scope="module")
def data():
    return load_things(4, "train", size=96), load_things(3, "val", size=96)


def test_things_are_those_of_the_scenes_but_for_small_ones(data):
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
    marked = Things(marked, things.owners, things.scenes, things.numbers, things.boxes, things.labels)
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
        load_things(0, "train")
    with pytest.raises(ValueError, match="steps must be positive, got 0"):
        run(seeds=[0], steps=0, data=data)
    with pytest.raises(ValueError, match=r"variants \['crop'\] are unknown; choose among RoI Pooling"):
        run(seeds=[0], steps=1, variants=["crop"], data=data)
    with pytest.raises(ValueError, match=r"strides \[5\] are unknown; choose among 4, 8, 16"):
        run(seeds=[0], steps=1, strides=[5], data=data)
