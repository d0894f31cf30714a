"""The experiment on region proposals: its measure by hand, its variants, and a run at a small budget."""

import math

import pytest
import torch

from seglib.book.experiments import boxes_pyramid
from seglib.book.experiments.boxes_pyramid import (
    IOUS,
    VARIANTS,
    BoxScenes,
    Proposer,
    box_scenes,
    recalls,
    run,
    train_proposer,
)
from seglib.book.results import write_results
from seglib.data.scenes import Scenes


@pytest.fixture(scope="module")
def data():
    return box_scenes(4, "train", size=64), box_scenes(3, "val", size=64)


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).view(-1, 4)


def test_box_scenes_hold_the_scenes_without_loss():
    data, scene = box_scenes(2, "val", size=64), Scenes(2, split="val", size=64)[1]
    assert len(data) == 2
    assert torch.equal(data.images[1].float() / 255, scene.image)
    assert torch.equal(data.boxes[1], scene.instances.boxes)


def test_recall_counts_the_things_that_the_first_proposals_reach():
    small, large = (0, 0, 4, 4), (10, 10, 50, 50)
    first = boxes((0, 0, 4, 2), large)  # half of the small thing: IoU 0.5; and the large one
    found = recalls([first], [boxes(small, large)], counts=[1, 2])
    assert found["recall"]["all"] == [0.5, 1.0]
    assert found["recall"]["small"] == [1.0, 1.0] and found["recall"]["large"] == [0.0, 1.0]
    assert found["ar"]["small"] == pytest.approx([0.1, 0.1])  # at 0.5, of ten IoUs
    assert found["ar"]["all"] == pytest.approx([0.05, 0.55])
    assert all(math.isnan(v) for v in found["recall"]["medium"])  # there is none
    assert IOUS[0] == 0.5 and IOUS[-1] == 0.95 and len(IOUS) == 10


def test_one_proposal_may_reach_several_things_and_an_image_may_have_none():
    pair = boxes((0, 0, 10, 10), (0, 0, 10, 9))
    found = recalls([boxes((0, 0, 10, 10)), boxes((0, 0, 5, 5))], [pair, boxes()], counts=[1])
    assert found["recall"]["all"] == [1.0]


def test_the_bins_are_by_the_root_of_the_area():
    things = boxes((0, 0, 4, 15.9), (50, 0, 54, 16), (60, 0, 84, 24))  # 7.97, 8 and 24 pixels
    found = recalls([things], [things], counts=[3])["recall"]
    assert found["small"] == found["medium"] == found["large"] == [1.0]
    only_small = recalls([things[:1]], [things], counts=[3])["recall"]
    assert (only_small["small"], only_small["medium"], only_small["large"]) == ([1.0], [0.0], [0.0])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_has_its_levels_and_as_many_logits_as_anchors(name):
    net = VARIANTS[name]().eval()
    with torch.no_grad():
        logits, deltas, anchors = net(torch.rand(1, 3, 64, 64))
    strides = {"stride 8": (8,), "stride 16": (16,)}.get(name, (2, 4, 8, 16, 32))
    assert net.anchors.strides == strides
    assert [x.shape[1] for x in logits] == [x.shape[1] for x in deltas] == [len(x) for x in anchors]
    assert net.anchors.per_cell == (15 if len(strides) == 1 else 3)
    assert net.foreground_iou == (0.7 if name == "foreground 0.7" else 0.5)


def test_deep_maps_reach_the_finest_level_only_with_the_top_down_pathway():
    for name, reaches in (("pyramid", True), ("no top-down", False)):
        net = VARIANTS[name]()
        logits, _, _ = net(torch.rand(2, 3, 64, 64))
        logits[0].sum().backward()
        gradient = net.encoder.blocks[-1][0].conv1[0].weight.grad
        assert (gradient is not None and bool(gradient.abs().sum() > 0)) == reaches


def test_all_variants_start_from_one_encoder():
    first, other = Proposer(), VARIANTS["stride 8"]()
    pairs = zip(first.encoder.parameters(), other.encoder.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_training_lowers_the_loss_and_repeats_exactly(data):
    def losses():
        torch.manual_seed(0)
        return train_proposer(VARIANTS["stride 8"](), data[0], steps=12, seed=0, batch_size=2, lr=4e-3)

    first = losses()
    assert sum(first[-3:]) < 0.9 * sum(first[:3])
    assert losses() == first


def test_a_scene_without_things_teaches_background():
    empty = BoxScenes(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), [torch.zeros(0, 4)] * 2)
    losses = train_proposer(VARIANTS["stride 16"](), empty, steps=2, seed=0, batch_size=2, lr=1e-3)
    assert losses[0] == pytest.approx(math.log(2), rel=1e-2)  # logits start near 0, and no box to move


def test_flipped_boxes_lie_on_the_flipped_things():
    scene = Scenes(1, size=64)[0]
    image, found = scene.image, boxes_pyramid._flip(scene.instances.boxes, 64)
    for box, mirrored in zip(scene.instances.boxes.int().tolist(), found.int().tolist(), strict=True):
        patch = image[:, box[1] : box[3], box[0] : box[2]]
        assert torch.equal(image.flip(-1)[:, mirrored[1] : mirrored[3], mirrored[0] : mirrored[2]], patch.flip(-1))


def test_the_experiment_gives_one_run_per_seed_and_variant_that_can_be_stored(data, tmp_path):
    lines = []
    small = {"steps": 2, "batch_size": 2, "variants": ("pyramid", "stride 16"), "data": data}
    found = run(seeds=[0, 1], report=lines.append, **small)
    assert [(r["seed"], r["variant"]) for r in found["runs"]] == [
        (s, v) for s in (0, 1) for v in ("pyramid", "stride 16")
    ]
    assert [r["anchors"] for r in found["runs"][:2]] == [4092, 240]
    assert all(len(r["ar"]["all"]) == len(found["counts"]) for r in found["runs"])
    assert sum(found["objects"].values()) == sum(map(len, data[1].boxes))
    assert lines[0].startswith("seed 0, pyramid: AR at 100: all 0.")
    write_results(tmp_path / "a.json", found, command="test", seed=[0, 1])  # NaN could not be written


def test_empty_budgets_and_unknown_variants_are_refused(data):
    with pytest.raises(ValueError, match="length must be positive, got 0"):
        box_scenes(0, "train")
    with pytest.raises(ValueError, match="steps must be positive, got 0"):
        run(seeds=[0], steps=0, data=data)
    with pytest.raises(ValueError, match=r"variants \['none'\] are unknown; choose among pyramid"):
        run(seeds=[0], steps=1, variants=["none"], data=data)
