"""The scoreboard: every system with stored weights is on it, and its numbers are those of the metrics."""

import json
from pathlib import Path

import pytest
import torch

from seglib.book.experiments import experiment, scoreboard
from seglib.book.pretrained import stored_model, stored_weights
from seglib.book.results import read_results
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.data.volumes import CATEGORIES as ORGANS
from seglib.data.volumes import Volumes
from seglib.metrics import AveragePrecision, ConfusionMatrix
from seglib.metrics.pq import PanopticQuality
from seglib.metrics.volumes import dice
from seglib.models.zoo import MODELS

WEIGHTS = Path(__file__).resolve().parents[1] / "chapters" / "weights"
ON_BOARD = {name for board in scoreboard.BOARDS.values() for name in board.systems}


@pytest.fixture(scope="module")
def found():
    return experiment("scoreboard")(seeds=[0], steps=200, scenes=2, memory=False)


def of(found, task, name):
    return next(row for row in found["tasks"][task]["systems"] if row["system"] == name)


def test_every_tiny_system_with_stored_weights_is_on_the_board():
    assert {name for name in MODELS if (WEIGHTS / f"{name}.safetensors").exists()} == ON_BOARD
    assert {name for name in MODELS if name.endswith("_tiny")} == ON_BOARD


@pytest.mark.slow
def test_semantic_systems_have_the_miou_of_the_confusion_matrix(found):
    model, matrix = stored_model("unet_tiny"), ConfusionMatrix(CATEGORIES)
    for sample in Scenes(2, split="test"):
        matrix.update(model.predict(sample.image[None])[0].labels, sample.semantic)
    assert of(found, "semantic", "unet_tiny")["scores"]["miou"][0] == pytest.approx(matrix.compute().miou, abs=1e-5)


@pytest.mark.slow
def test_instance_systems_have_the_ap_of_their_masks(found):
    model, metric = stored_model("condinst_tiny"), AveragePrecision(sum(c.isthing for c in CATEGORIES))
    for sample in Scenes(2, split="test"):
        metric.update(model.predict(sample.image[None])[0], sample.instances)
    assert of(found, "instance", "condinst_tiny")["scores"]["ap"][0] == pytest.approx(metric.compute().ap, abs=1e-5)


@pytest.mark.slow
def test_panoptic_systems_have_the_pq_of_their_segments(found):
    model, metric = stored_model("mask2former_tiny"), PanopticQuality(CATEGORIES)
    model.task = "panoptic"
    for sample in Scenes(2, split="test"):
        metric.update(model.predict(sample.image[None])[0], sample.panoptic)
    expected = metric.compute().pq
    assert of(found, "panoptic", "mask2former_tiny")["scores"]["pq"][0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_systems_for_volumes_have_the_mean_of_cases_and_then_of_classes(found):
    # one window covers a case, so the sliding window is the whole case in one piece
    model, rows = stored_model("unet3d_tiny"), []
    window = stored_weights("unet3d_tiny")[1]["task_arguments"]["window"]
    for sample in Volumes(2, split="test"):
        assert list(sample.image.shape[1:]) == window
        with torch.no_grad():
            labels = model(model.intensity(sample.image)[None]).logits[0].argmax(0)
        rows.append([dice(labels == c, sample.semantic == c) for c in range(1, len(ORGANS))])
    expected = float(torch.tensor(rows).nanmean(0).nanmean())
    assert of(found, "volume", "unet3d_tiny")["scores"]["mean_dice"][0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_a_row_tells_what_its_system_costs(found):
    for task in found["tasks"].values():
        assert task["images"] == 2 and task["split"] == "test"
        for row in task["systems"]:
            middle, low, high = row["ms"]
            assert 0 < low <= middle <= high
            assert row["parameters"] == sum(p.numel() for p in stored_model(row["system"]).parameters())
            assert row["budget"]["steps"] > 0 and row["budget"]["cpu_minutes"] > 0
    assert of(found, "semantic", "fcn_tiny")["relative"] == [1, 1, 1]


@pytest.mark.slow
def test_with_two_images_an_interval_ends_at_the_scores_of_one_of_them_or_both(found):
    """200 draws of two images are either image twice, or both; the mean of all objects lies between."""
    for score, (value, low, high) in of(found, "prompt", "sam_tiny")["scores"].items():
        assert score.startswith("miou_at_") and low < value < high


@pytest.mark.slow
def test_a_difference_is_that_of_neighbours(found):
    for task in found["tasks"].values():
        rows = task["systems"]
        assert [(d["a"], d["b"]) for d in task["differences"]] == [
            (a["system"], b["system"]) for a, b in zip(rows, rows[1:], strict=False)
        ]
        for d, a, b in zip(task["differences"], rows, rows[1:], strict=False):
            for score in task["scores"]:
                expected = b["scores"][score][0] - a["scores"][score][0]
                assert d[score][0] == pytest.approx(expected, abs=2e-5)


def test_the_bootstrap_draws_the_same_images_for_both_sides():
    """Two systems that differ by the same in each image have a difference without an interval."""
    board = scoreboard.BOARDS["prompt"]
    sums = [torch.tensor([0.2 * n, 0.3 * n, n], dtype=torch.float64) for n in (1.0, 3.0, 7.0, 2.0)]
    better = [s + torch.tensor([0.1, 0.1, 0.0]) * s[2] for s in sums]
    pair = scoreboard.Board(("a", "b"), board.scores, 4, board.predict, board.adds, board.totals)
    rows, (difference,) = scoreboard._scored({"a": sums, "b": better}, pair, resamples=50, seed=0)
    assert rows[0]["scores"]["miou_at_1"] == pytest.approx([0.2, 0.2, 0.2])
    assert difference["miou_at_5"] == pytest.approx([0.1, 0.1, 0.1], abs=1e-5)


def test_images_count_as_often_as_they_are_drawn():
    adds = [torch.tensor([1.0, float("nan")]), torch.tensor([0.5, 0.2])]
    found = scoreboard.BOARDS["volume"].totals(adds, torch.tensor([[1.0, 1.0], [2.0, 0.0], [1.0, 3.0]]).double())
    # the class that the first case lacks is the second's alone, and without that case it has no score
    assert found[:, 0].tolist() == pytest.approx([(0.75 + 0.2) / 2, 1.0, (2.5 / 4 + 0.2) / 2])


def test_the_budget_of_sam_counts_both_stages_and_both_processes():
    told = scoreboard.budget("sam_tiny")
    stored = json.loads((WEIGHTS / "sam_tiny.json").read_text())
    assert told["steps"] == 7900 and told["images"] == 7000 * 16 + 900 * 8 and told["start"] == "condinst_tiny"
    assert told["cpu_minutes"] == pytest.approx(2 * stored["cpu_seconds"] / 60, abs=0.1)


def test_a_budget_is_that_of_the_file_beside_the_weights():
    told, stored = scoreboard.budget("fcn_tiny"), json.loads((WEIGHTS / "fcn_tiny.json").read_text())
    assert told == {
        "steps": 3000,
        "images": 48000,
        "cpu_minutes": pytest.approx(stored["cpu_seconds"] / 60, abs=0.1),
        "start": None,
    }
    assert scoreboard.budget("solov2_tiny")["start"] == "fcn_tiny"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the largest resident size")
def test_memory_is_that_of_one_prediction():
    # 12 channels of logits at 128 × 128 take 0.8 MB, and no part of FCN needs more than a few times that
    assert 0.5 < scoreboard.peak("fcn_tiny", "semantic") < 30


@pytest.mark.parametrize(("steps", "scenes"), [(0, 2), (2, 0)])
def test_without_scenes_or_resamples_there_is_no_score(steps, scenes):
    with pytest.raises(ValueError, match=r"scenes must be positive, got \d and \d"):
        experiment("scoreboard")(seeds=[0], steps=steps, scenes=scenes)


def test_the_stored_scoreboard_has_every_system_and_every_column():
    stored = read_results("results/scoreboard.json")
    assert {row["system"] for task in stored["tasks"].values() for row in task["systems"]} == ON_BOARD
    for task in stored["tasks"].values():
        for row in task["systems"]:
            assert row["megabytes"] > 0 and all(low <= value <= high for value, low, high in row["scores"].values())


def test_the_stored_scores_are_those_beside_the_weights():
    stored = read_results("results/scoreboard.json")
    for name, task in stored["tasks"].items():
        for row in task["systems"]:
            beside = json.loads((WEIGHTS / f"{row['system']}.json").read_text())["scores"]
            for score in task["scores"]:
                if score in beside:  # of Mask2Former those of the panoptic task
                    assert row["scores"][score][0] == pytest.approx(beside[score], abs=0.002), (name, row["system"])
