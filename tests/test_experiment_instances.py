"""The experiments about one-stage systems: what they share, what they count, and runs at a small budget."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from seglib.book.experiments import dynamic_coordinates, grid_collisions, instance_systems, yolact_prototypes
from seglib.book.experiments.__main__ import main
from seglib.book.experiments.grid_collisions import cells_of_centres, collisions, lost_on_levels
from seglib.book.experiments.instances import (
    NUM_CLASSES,
    bootstrap,
    detect_objects,
    differences,
    image_metrics,
    object_scenes,
    on_trained_encoder,
    scene_batch,
    score_objects,
    train_on_objects,
)
from seglib.book.experiments.nms_variants import (
    BOX_VARIANTS,
    MASK_VARIANTS,
    replaced,
    soft_mask_nms,
    solov2_variants,
    yolact_variants,
)
from seglib.book.pretrained import stored_model
from seglib.models.condinst import condinst_tiny
from seglib.models.mask_rcnn import mask_rcnn_tiny
from seglib.models.solov2 import solov2_tiny
from seglib.models.yolact import yolact_tiny
from seglib.ops.masks import masks_to_boxes
from seglib.ops.nms import matrix_nms
from seglib.types import Instances, Sample


@pytest.fixture(scope="module")
def data():
    return object_scenes(4, "train", size=64), object_scenes(3, "val", size=64)


@pytest.fixture(scope="module")
def yolact():
    torch.manual_seed(0)
    return yolact_tiny(NUM_CLASSES).eval()


@pytest.fixture(scope="module")
def solov2():
    """Untrained, but as sure of classes and of pixels as it must be to find something."""
    torch.manual_seed(0)
    model = solov2_tiny(NUM_CLASSES).eval()
    with torch.no_grad():
        model.head.category.bias.fill_(-1)
        model.head.category.weight *= 20
        model.head.kernel.weight *= 30
    return model


def truth_of(scenes):
    return [scenes[i].instances for i in range(len(scenes))]


def as_found(objects, score=0.9):
    return objects.replace(scores=torch.full((len(objects),), score))


# What they share


def test_a_flip_mirrors_image_and_objects_of_the_picked_scenes_alone(data):
    batch = scene_batch(data[0], torch.tensor([2, 0]), torch.tensor([True, False]))
    for i, (scene, flipped) in enumerate(((2, True), (0, False))):
        image, objects, found = data[0][scene].image, data[0][scene].instances, batch.targets.instances[i]
        assert torch.equal(batch.images[i], image.flip(-1) if flipped else image)
        assert torch.equal(found.masks, objects.masks.flip(-1) if flipped else objects.masks)
        assert torch.equal(found.boxes, masks_to_boxes(found.masks)) and torch.equal(found.labels, objects.labels)


def test_training_lowers_the_loss_and_repeats_exactly(data):
    def losses():
        torch.manual_seed(0)
        return train_on_objects(condinst_tiny(NUM_CLASSES), data[0], steps=12, seed=0, batch_size=2)

    first = losses()
    assert sum(first[-3:]) < 0.9 * sum(first[:3])
    assert losses() == first


def test_variants_start_from_the_stored_encoder():
    model, stored = on_trained_encoder(lambda: yolact_tiny(NUM_CLASSES))(), stored_model("fcn_tiny")
    pairs = zip(model.encoder.state_dict().values(), stored.encoder.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_truth_scores_one_and_a_missed_size_is_left_out(data):
    truth = truth_of(data[1])
    scores = score_objects(image_metrics(map(as_found, truth), truth))
    assert scores["ap"] == scores["ap_small"] == scores["ar100"] == 1.0
    small = [o[o.masks.sum((1, 2)) < 32**2] for o in truth]
    assert "ap_medium" not in score_objects(image_metrics(map(as_found, small), small))


def test_differences_are_of_the_same_images():
    masks = torch.zeros(4, 1, 20, 20, dtype=torch.bool)
    for i, mask in enumerate(masks):
        mask[0, 2 : 8 + i, 2:12] = True
    truth = [Instances(m, torch.tensor([0]), masks_to_boxes(m)) for m in masks]
    right = image_metrics(map(as_found, truth), truth)
    # the second model misses the object of the last two images
    some = image_metrics([as_found(o) if i < 2 else as_found(o)[:0] for i, o in enumerate(truth)], truth)
    metrics = {"right": right, "some": some}
    same, better = differences(metrics, [("right", "right"), ("right", "some")], resamples=50, seed=0)
    assert same["ap"] == [0.0, 0.0, 0.0]
    gain, low, high = better["ap50"]
    assert gain == pytest.approx(1 - 51 / 101, abs=1e-4)  # recall ½ is reached at 51 of 101 points
    assert 0 <= low < gain < high <= 1
    drawn = bootstrap(metrics, 50, 0)
    assert (drawn["right"] == pytest.approx(1)) and len(set(drawn["some"][:, 0].round(6))) > 2
    assert differences(metrics, [("right", "some")], resamples=50, seed=0)[0] == better
    assert differences(metrics, [("right", "some")], resamples=50, seed=1)[0] != better


# NMS


def test_soft_nms_of_masks_by_hand():
    labels, scores = torch.zeros(3, dtype=torch.int64), torch.tensor([0.9, 0.8, 0.7])
    iou = torch.tensor([[1.0, 0.6, 0.0], [0.6, 1.0, 0.5], [0.0, 0.5, 1.0]])  # the chain A–B–C
    b = 0.8 * math.exp(-2 * 0.36)  # 0.389, so C with 0.7 comes before it and lowers it too
    b *= math.exp(-2 * 0.25)
    assert soft_mask_nms(iou, labels, scores).tolist() == pytest.approx([0.9, b, 0.7])
    other = torch.tensor([0, 1, 0])
    assert soft_mask_nms(iou, other, scores).tolist() == pytest.approx(scores.tolist())
    assert len(soft_mask_nms(iou[:0, :0], labels[:0], scores[:0])) == 0


def test_of_two_masks_soft_and_matrix_nms_agree():
    iou, labels, scores = torch.tensor([[1.0, 0.7], [0.7, 1.0]]), torch.tensor([3, 3]), torch.tensor([0.4, 0.6])
    torch.testing.assert_close(soft_mask_nms(iou, labels, scores), matrix_nms(iou, labels, scores))


def test_masks_are_suppressed_as_the_variant_says():
    iou = torch.tensor([[1.0, 0.6, 0.0], [0.6, 1.0, 0.6], [0.0, 0.6, 1.0]])
    labels, scores = torch.zeros(3, dtype=torch.int64), torch.tensor([0.9, 0.8, 0.7])
    kept = {name: (suppress(iou, labels, scores) > 0).tolist() for name, suppress in MASK_VARIANTS.items()}
    assert kept["greedy"] == [True, False, True] and kept["fast"] == [True, False, False]
    assert all(kept[name] == [True] * 3 for name in ("none", "soft", "matrix", "matrix, linear"))
    assert (MASK_VARIANTS["none"](iou, labels, scores)).equal(scores)


def test_fast_nms_keeps_no_box_that_standard_nms_drops(yolact, data):
    before = yolact.detections
    found = yolact_variants(yolact, data[1])
    rows = {name: row for name, (row, _) in found.items()}
    assert list(rows) == list(BOX_VARIANTS) and yolact.detections is before
    assert rows["standard"]["lost"] == 0 < rows["fast"]["lost"]
    assert rows["standard"]["boxes"] - rows["fast"]["boxes"] == pytest.approx(rows["fast"]["lost"], abs=2e-3)
    own = score_objects(detect_objects(yolact, data[1]))  # its own setting is fast
    assert {name: rows["fast"][name] for name in own} == own


@pytest.mark.slow
def test_the_variants_of_solov2_are_its_own_where_it_has_them(solov2, data):
    found = solov2_variants(solov2, data[1])
    assert "detect" not in vars(solov2)  # its method is back
    rows = {name: row for name, (row, _) in found.items()}
    assert rows["none"]["masks"] > 10 and rows["greedy"]["detections"] < rows["none"]["detections"]
    for name, change in (("matrix", {}), ("matrix, linear", {"kernel": "linear"}), ("greedy", {"nms": "mask"})):
        with replaced(solov2, "detections", replace(solov2.detections, **change)):
            wanted = [len(solov2.predict(data[1][i].image[None])[0]) for i in range(3)]
            own = score_objects(detect_objects(solov2, data[1]))
        assert rows[name]["detections"] == pytest.approx(sum(wanted) / 3, abs=1e-3) and wanted != [0] * 3
        assert {score: rows[name][score] for score in own} == own


# Experiments


def test_masks_are_scored_in_their_true_boxes_whatever_is_detected(yolact, data):
    model = copy.deepcopy(yolact)
    with torch.no_grad():
        for layer in (model.protonet.predict, model.head.coefficients):
            layer.weight.zero_()
            layer.bias.fill_(3)  # prototypes of 3 everywhere, coefficients of almost 1: every mask is its box
        model.head.logits.bias.fill_(-100)
    wanted = []
    for objects in truth_of(data[1]):
        cell = 64 / model(torch.zeros(1, 3, 64, 64)).prototypes.shape[-1]
        sides = (objects.boxes[:, 2:] + cell).clamp(max=64) - (objects.boxes[:, :2] - cell).clamp(min=0)
        wanted.append(objects.masks.sum((1, 2)) / sides.prod(1))
    torch.testing.assert_close(yolact_prototypes.mask_ious(model, data[1]), torch.cat(wanted))


@pytest.mark.slow
def test_prototypes_are_compared_on_the_same_batches_and_repeat(data):
    lines = []
    small = {"seeds": [0, 1], "steps": 2, "batch_size": 2, "prototypes": (4, 8), "data": data}
    found = yolact_prototypes.run(**small, report=lines.append)
    assert [(r["seed"], r["prototypes"]) for r in found["runs"]] == [(0, 4), (0, 8), (1, 4), (1, 8)]
    assert found["variants"] == [4, 8] and lines[0].startswith("seed 0, prototypes 4: ap 0.")
    few, more = found["runs"][:2]
    assert more["parameters"] > few["parameters"]
    assert [row["nms"] for row in few["nms"]] == list(BOX_VARIANTS)
    json.dumps(found, allow_nan=False)
    again = yolact_prototypes.run(**small)["runs"]
    for r in [*found["runs"], *again]:
        del r["seconds"]
        for row in r["nms"]:
            del row["ms"]
    assert again == found["runs"]


def test_coordinates_are_where_the_variant_says():
    models = {name: build() for name, build in dynamic_coordinates.VARIANTS.items()}
    filters = {name: models[name].channels for name in ("CondInst, relative", "CondInst, none")}
    assert filters["CondInst, relative"][0] == filters["CondInst, none"][0] + 2
    places = {
        name.removeprefix("SOLOv2, "): (m.head.coordinates, m.mask_features.coordinates)
        for name, m in models.items()
        if name.startswith("SOLOv2")
    }
    assert places == {"both": (True, True), "kernel": (True, False), "feature": (False, True), "none": (False, False)}
    assert set(dynamic_coordinates.PAPER) < set(models)


@pytest.mark.slow
def test_the_experiment_on_coordinates_gives_one_run_per_seed_and_variant(data):
    names = ("CondInst, none", "SOLOv2, feature")
    small = {"steps": 1, "batch_size": 2, "variants": names, "data": data}
    found = dynamic_coordinates.run(seeds=[0, 1], **small)
    assert [(r["seed"], r["variant"]) for r in found["runs"]] == [(s, n) for s in (0, 1) for n in names]
    assert {"ap", "ap50", "ap75", "parameters", "loss", "seconds"} <= set(found["runs"][0])
    json.dumps(found, allow_nan=False)


@pytest.mark.slow
def test_the_systems_are_scored_on_the_same_images_in_turns(data, yolact, solov2):
    torch.manual_seed(0)
    models = {"mask_rcnn_tiny": mask_rcnn_tiny(NUM_CLASSES).eval(), "yolact_tiny": yolact, "solov2_tiny": solov2}
    lines = []
    small = {"seeds": [0], "steps": 3, "systems": tuple(models), "models": models, "data": data[1]}
    found = instance_systems.run(**small, report=lines.append)
    rows = {row["system"]: row for row in found["systems"]}
    assert list(rows) == list(models) and len(lines) == 3 and found["images"] == 3
    for row in rows.values():
        middle, low, high = row["ms"]
        assert 0 < low <= middle <= high and row["parameters"] > 5e5
    assert [(d["a"], d["b"]) for d in found["differences"]] == [
        ("yolact_tiny", "mask_rcnn_tiny"), ("solov2_tiny", "mask_rcnn_tiny"), ("solov2_tiny", "yolact_tiny")
    ]  # fmt: skip
    for d in found["differences"]:
        assert d["ap50"][0] == pytest.approx(rows[d["a"]]["ap50"] - rows[d["b"]]["ap50"], abs=2e-5)
    assert list(found["nms"]) == ["yolact_tiny", "solov2_tiny"]
    assert [row["nms"] for row in found["nms"]["solov2_tiny"]["variants"]] == list(MASK_VARIANTS)
    json.dumps(found, allow_nan=False)


@pytest.mark.slow
def test_the_systems_are_scored_on_nuclei(tmp_path, monkeypatch):
    spots = np.zeros((64, 64), np.uint16)
    spots[8:24, 8:24], spots[32:56, 30:60] = 1, 2
    for name in ("a", "b"):
        for folder, array in {"images": (spots > 0).astype(np.uint8) * 200, "masks": spots}.items():
            path = tmp_path / "test" / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    torch.manual_seed(0)
    asked = []

    def stored(name):
        asked.append(name)
        return yolact_tiny(1) if "yolact" in name else mask_rcnn_tiny(1)

    monkeypatch.setattr(instance_systems, "stored_model", stored)
    monkeypatch.setattr(instance_systems, "_training", lambda name: {"of": name})
    found = instance_systems.run(seeds=[0], steps=2, systems=("mask_rcnn_tiny", "yolact_tiny"), root=tmp_path)
    assert asked == ["mask_rcnn_tiny_dsb2018", "yolact_tiny_dsb2018"] == [s["training"]["of"] for s in found["systems"]]
    assert (found["data"], found["images"]) == ("dsb2018", 2)
    assert [list(s["class_ap"]) for s in found["systems"]] == [["nucleus"]] * 2
    with pytest.raises(FileNotFoundError):
        instance_systems.run(seeds=[0], steps=2, root=tmp_path / "absent")


# Collisions


def squares(*corners, side=2, size=12):
    """Squares with these upper left corners (x, y)."""
    masks = torch.zeros(len(corners), size, size, dtype=torch.bool)
    for mask, (x, y) in zip(masks, corners, strict=True):
        mask[y : y + side, x : x + side] = True
    return Instances(masks, torch.zeros(len(corners), dtype=torch.int64), masks_to_boxes(masks))


def test_collisions_by_hand():
    # on 3 × 3 cells of 4 pixels the first two share the upper left cell; on 6 × 6 none do
    objects = squares((0, 0), (2, 2), (8, 8))
    assert cells_of_centres(objects, 3).tolist() == [0, 0, 8]
    assert cells_of_centres(objects, 6).tolist() == [0, 7, 28]
    assert collisions(objects, (3, 6)).tolist() == [[3, 2, 1, 1], [3, 0, 0, 0]]


def test_an_object_whose_centre_cell_is_taken_may_keep_a_neighbour():
    # the wide one reaches into the cells beside its centre's, where the small one behind it in the list sits
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0, 8:12] = True
    masks[1, 8:12, 8:12] = True
    masks[0, 8:12, 8:12] = False
    objects = Instances(masks, torch.zeros(2, dtype=torch.int64), masks_to_boxes(masks))
    (count,) = collisions(objects, (10,)).tolist()
    assert count == [2, 2, 1, 0]


def test_levels_keep_objects_of_different_sizes_apart():
    masks = torch.zeros(2, 12, 12, dtype=torch.bool)
    masks[0] = True
    masks[1, 5:7, 5:7] = True
    masks[0, 5:7, 5:7] = False
    objects = Instances(masks, torch.zeros(2, dtype=torch.int64), masks_to_boxes(masks))
    assert lost_on_levels(objects, (3,), [(0, 100)]).tolist() == [2, 1]
    assert lost_on_levels(objects, (3, 3), [(0, 6), (6, 100)]).tolist() == [2, 0]


def test_the_counts_of_all_images_and_their_intervals():
    objects = [squares((0, 0), (2, 0), size=64), squares((0, 0), (40, 40), size=64), squares(size=64)]
    samples = [Sample(torch.zeros(3, 64, 64), str(i), instances=o) for i, o in enumerate(objects)]
    lines = []
    found = grid_collisions.run(seeds=[0], steps=20, data={"drawn": samples}, report=lines.append)
    assert [row["grid"] for row in found["grids"]] == list(grid_collisions.GRIDS) and len(lines) == 10
    coarse, fine = found["grids"][0], found["grids"][-1]
    assert coarse["objects"] == 4 and coarse["shared"][0] == 0.5 and coarse["lost"][0] == 0.25
    assert coarse["lost"][1] <= 0.25 <= coarse["lost"][2] and fine["lost"] == [0.0, 0.0, 0.0]
    assert found["images"] == {"drawn": 3}
    json.dumps(found, allow_nan=False)
    assert grid_collisions.run(seeds=[0], steps=20, data={"drawn": samples}) == found


# Budgets and the command


@pytest.mark.parametrize("module", [yolact_prototypes, dynamic_coordinates, instance_systems, grid_collisions])
def test_empty_budgets_are_refused(module, data):
    more = {"data": data} if module in (yolact_prototypes, dynamic_coordinates) else {}
    with pytest.raises(ValueError, match="must be positive"):
        module.run(seeds=[0], steps=0, **more)


def test_no_scenes_and_unknown_variants_are_refused(data):
    with pytest.raises(ValueError, match="length must be positive, got 0"):
        object_scenes(0, "train")
    with pytest.raises(ValueError, match=r"variants \['absolute'\] are unknown; choose among CondInst, relative"):
        dynamic_coordinates.run(seeds=[0], steps=1, variants=["absolute"], data=data)


def test_a_root_is_passed_to_the_experiments_that_take_one(tmp_path, monkeypatch, capsys):
    def run(*, seeds, steps, scenes, report, root=None):
        return {"root": str(root)}

    monkeypatch.setattr(grid_collisions, "run", run)
    out = tmp_path / "a.json"
    assert main(["grid_collisions", "--root", "nuclei", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["root"] == "nuclei"
    with pytest.raises(SystemExit):
        main(["fcn_strides", "--root", "nuclei", "--out", str(tmp_path / "b.json")])
    assert "fcn_strides takes no --root" in capsys.readouterr().err


def test_a_folder_without_nuclei_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="found neither"):
        grid_collisions.run(seeds=[0], steps=1, scenes=1, root=tmp_path)
