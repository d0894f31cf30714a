"""The drawn cells, their scores, and the experiments on U-Net that stand on them."""

import math

import pytest
import torch

from seglib.book.experiments import unet_borders, unet_details, unet_skips
from seglib.book.experiments.semantic import scene_tensors
from seglib.book.experiments.unet_cells import (
    BACKGROUND,
    CELL,
    border_map,
    components,
    draw_cells,
    predict_cells,
    score_cells,
    touching_pairs,
    train_on_cells,
)
from seglib.models.unet import PaperUNet, unet_tiny

SCORES = {"iou", "split", "merged", "f1", "pairs"}


@pytest.fixture(scope="module")
def cells():
    return draw_cells(4, size=64, seed=0), draw_cells(2, size=64, seed=1)


def three_cells():
    """Two cells with a wall of one pixel between them, and one further off."""
    ids = torch.zeros(1, 10, 16, dtype=torch.int64)
    ids[0, 1:7, 1:6], ids[0, 1:7, 7:12], ids[0, 8:10, 14:] = 1, 2, 3
    return ids


# The drawn cells


def test_the_same_seed_draws_the_same_cells_and_another_seed_others(cells):
    again, other = draw_cells(4, size=64, seed=0), draw_cells(4, size=64, seed=2)
    assert torch.equal(again.images, cells[0].images) and torch.equal(again.ids, cells[0].ids)
    assert not torch.equal(other.ids, cells[0].ids)


def test_pictures_are_grey_in_range_and_the_first_ones_do_not_depend_on_how_many_are_drawn(cells):
    images = cells[0].images
    assert images.shape == (4, 3, 64, 64) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1
    assert torch.equal(images[:, 0], images[:, 2])
    assert torch.equal(draw_cells(1, size=64, seed=0).images[0], images[0])


def test_every_cell_is_one_piece_with_background_all_around():
    for ids in draw_cells(10, seed=3).ids:
        assert ids.unique().tolist() == list(range(int(ids.max()) + 1))
        assert int(components(ids > 0).max()) == int(ids.max())  # no two cells share an edge
        for cell in range(1, int(ids.max()) + 1):
            assert int(components(ids == cell).max()) == 1


def test_most_cells_touch_and_about_half_of_the_pixels_are_cells():
    data = draw_cells(20, seed=0)
    assert sum(len(touching_pairs(ids)) for ids in data.ids) > 10 * len(data)
    assert 0.4 < (data.labels == CELL).float().mean() < 0.6


@pytest.mark.parametrize("wrong", [{"length": 0}, {"length": 1, "size": 0}, {"length": 1, "crowd": -1}])
def test_nothing_to_draw_is_refused(wrong):
    with pytest.raises(ValueError, match="length, size and crowd must be positive, got"):
        draw_cells(**wrong)


def test_pairs_touch_up_to_two_pixels_apart_diagonally_too():
    ids = three_cells()[0]
    assert touching_pairs(ids) == [(1, 2)]
    ids[7, 12] = 4  # a corner away from 2, and two pixels from 3 in both directions
    assert touching_pairs(ids) == [(1, 2), (2, 4), (3, 4)]
    assert touching_pairs(torch.zeros(5, 5, dtype=torch.int64)) == []


# The scores


def test_the_truth_scores_one():
    ids = three_cells()
    assert score_cells(torch.where(ids > 0, CELL, BACKGROUND), ids) == {
        "iou": 1.0, "split": 1.0, "merged": 0.0, "f1": 1.0, "pairs": 1,
    }  # fmt: skip


def test_a_bridge_of_one_pixel_merges_two_cells():
    ids = three_cells()
    labels = torch.where(ids > 0, CELL, BACKGROUND)
    labels[0, 4, 6] = CELL
    found = score_cells(labels, ids)
    assert found["split"] == 0 and found["merged"] == 1
    assert found["iou"] == pytest.approx(64 / 65, abs=1e-5)
    # two components, three cells; of the merged one neither half is more than half: only cell 3 matches
    assert found["f1"] == pytest.approx(2 * 1 / (2 + 3), abs=1e-5)


def test_a_missed_cell_is_neither_split_nor_merged():
    ids = three_cells()
    labels = torch.where(ids == 1, CELL, BACKGROUND)
    found = score_cells(labels, ids)
    assert found["split"] == found["merged"] == 0 and found["f1"] == pytest.approx(2 * 1 / (1 + 3), abs=1e-5)


def test_empty_pictures_and_empty_answers_are_scored():
    nothing, ids = torch.full((1, 10, 16), BACKGROUND), three_cells()
    assert score_cells(nothing, torch.zeros_like(ids)) == {
        "iou": 1.0,
        "split": 1.0,
        "merged": 0.0,
        "f1": 1.0,
        "pairs": 0,
    }
    assert score_cells(nothing, ids) == {"iou": 0.0, "split": 0.0, "merged": 0.0, "f1": 0.0, "pairs": 1}


def test_the_border_map_is_one_inside_and_far_away_and_high_on_the_wall():
    weights = border_map(three_cells()[0])
    assert (weights[three_cells()[0] > 0] == 1).all()
    assert weights[4, 6].item() == pytest.approx(1 + 10 * math.exp(-(2**2) / 50), rel=1e-6)  # float32
    assert (border_map(torch.zeros(6, 6, dtype=torch.int64)) == 1).all()


# Training and the experiments


def test_training_on_cells_lowers_the_loss_and_repeats_exactly(cells):
    def losses():
        torch.manual_seed(0)
        return train_on_cells(unet_tiny(2), cells[0], steps=8, seed=0, batch_size=2, weighing=border_map)

    first = losses()
    assert min(first[-2:]) < 0.9 * first[0]
    assert losses() == first
    with pytest.raises(ValueError, match="steps must be positive, got 0"):
        train_on_cells(unet_tiny(2), cells[0], steps=0, seed=0)


def test_images_labels_and_weights_are_turned_alike(cells):
    """A model that answers with the picture itself: its loss is the same however the batch is turned."""
    seen = []

    class Echo(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, images):
            return images[:, 0] * self.scale

        def loss(self, out, targets):
            seen.append((out.detach(), targets))
            return {"a": (out * targets.pixel_weight * (targets.semantic == CELL)).sum()}

    data = cells[0]
    train_on_cells(Echo(), data, steps=6, seed=1, batch_size=1, weighing=border_map, lr=0.0)
    whole = [(d * border_map(i) * (i > 0)).sum() for d, i in zip(data.images[:, 0], data.ids, strict=True)]
    for out, targets in seen:
        value = (out * targets.pixel_weight * (targets.semantic == CELL)).sum()
        assert min(abs(value - w) for w in whole) < 1e-2  # float32 sums of thousands, in another order
    assert len({tuple(out.flatten()[:4].tolist()) for out, _ in seen}) > 3  # they are turned


def test_predictions_are_class_ids_of_every_picture(cells):
    labels = predict_cells(unet_tiny(2), cells[1], batch_size=1)
    assert labels.shape == (2, 64, 64) and set(labels.unique().tolist()) <= {CELL, BACKGROUND}


def test_the_borders_experiment_gives_one_run_per_seed_and_strength(cells):
    lines = []
    found = unet_borders.run(seeds=[0, 1], steps=2, strengths=(0, 10), batch_size=2, data=cells, report=lines.append)
    assert [(r["seed"], r["w0"]) for r in found["runs"]] == [(0, 0), (0, 10), (1, 0), (1, 10)]
    assert all(set(r) == SCORES | {"seed", "w0", "loss"} for r in found["runs"])
    assert found["scenes"] == 4 and found["val_scenes"] == 2
    assert lines[1].startswith("seed 0, w0 10: split 0.")


def test_the_skips_experiment_counts_the_weights_of_its_variants():
    data = scene_tensors(3, "train", size=64), scene_tensors(2, "val", size=64)
    found = unet_skips.run(seeds=[0], steps=1, batch_size=2, data=data)
    assert [r["variant"] for r in found["runs"]] == ["skips", "no skips", "added scores"] == found["variants"]
    assert found["parameters"]["skips"] > found["parameters"]["no skips"]
    with pytest.raises(ValueError, match=r"variants \['none'\] are unknown; choose among skips, no skips"):
        unet_skips.run(seeds=[0], steps=1, variants=["none"], data=data)


def test_the_details_experiment_runs_each_variant_and_gives_one_picture_as_many_steps(cells):
    found = unet_details.run(seeds=[0], steps=1, batch_size=2, data=cells)
    assert [r["variant"] for r in found["runs"]] == list(unet_details.VARIANTS)
    first = {r["variant"]: r["first_loss"] for r in found["runs"]}
    assert first["default weights"] == pytest.approx(0.69, abs=0.1)  # hardly any signal reaches the scores
    with pytest.raises(ValueError, match="are unknown"):
        unet_details.run(seeds=[0], steps=1, variants=["none"], data=cells)


@pytest.mark.parametrize("name", unet_details.VARIANTS)
def test_a_variant_differs_in_what_its_name_says_and_keeps_the_size_of_the_answer(name):
    def build():
        torch.manual_seed(0)
        return PaperUNet(2, width=4, depth=2)

    plain, changed = build(), build()
    unet_details.VARIANTS[name](changed)
    assert changed(torch.rand(2, 3, 20, 28)).logits.shape == (2, 2, 20, 28)
    kinds = [{type(m).__name__ for m in net.modules()} for net in (plain, changed)]
    added = {"batch norm": {"BatchNorm2d"}, "bilinear up": {"Upsample"}}
    assert kinds[1] - kinds[0] == added.get(name, set())
    assert ("ConvTranspose2d" in kinds[1]) == (name != "bilinear up")
    spread = [next(net.down[1].parameters()).std().item() for net in (plain, changed)]
    # √(2/N) against √(1/3N)
    assert spread[0] / spread[1] == pytest.approx(6**0.5 if name == "default weights" else 1, rel=0.15)
