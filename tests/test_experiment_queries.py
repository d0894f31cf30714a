"""The experiments on queries: what they train and score, and what they tell."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from seglib.book.experiments import experiment, mask_classification, masked_attention, query_tasks
from seglib.book.experiments.queries import NUM_THINGS, batches, differences, score_panoptic, train_queries
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.losses.queries import MaskTargets, SetLossSettings
from seglib.metrics import ConfusionMatrix
from seglib.metrics.pq import PanopticQuality
from seglib.models.mask2former import mask2former_tiny
from seglib.models.zoo import build

pytestmark = pytest.mark.slow
SMALL = {"seeds": [0, 1], "steps": 2, "data": (Scenes(4, size=64), Scenes(3, split="val", size=64)), "batch_size": 2}


def small():
    return mask2former_tiny(len(CATEGORIES), num_things=NUM_THINGS, channels=16, queries=12, layers=2)


def test_with_one_seed_both_networks_start_alike_and_see_the_same_scenes():
    found = experiment("masked_attention")(**SMALL)
    assert [(r["variant"], r["seed"]) for r in found["runs"]] == [
        ("masked", 0),
        ("open", 0),
        ("masked", 1),
        ("open", 1),
    ]
    masked, opened, other, _ = found["runs"]
    # the raw queries' answers are the same, those of the layers are not
    assert masked["first_loss"] == pytest.approx(opened["first_loss"], rel=0.1)
    assert masked["first_loss"] != opened["first_loss"] and masked["first_loss"] != other["first_loss"]
    assert set(found["differences"]) == set(masked_attention.SCORES)
    for score, (mean, low, high) in found["differences"].items():
        gains = [a[score] - b[score] for a, b in zip(found["runs"][::2], found["runs"][1::2], strict=True)]
        assert mean == pytest.approx(sum(gains) / 2, abs=1e-5) and low <= mean <= high


def test_the_same_seed_gives_the_same_network():
    run = partial(train_queries, small, Scenes(4, size=64), steps=2, batch_size=2)
    (_, first), (_, again), (_, other) = run(seed=0), run(seed=0), run(seed=1)
    assert first["curve"] == again["curve"] and len(first["curve"]) == 2
    assert first["curve"] != other["curve"]


def test_scores_of_three_tasks_come_from_one_forward_pass():
    torch.manual_seed(0)
    model, data = small().eval(), Scenes(3, split="val", size=64)
    with torch.no_grad():
        model.decoder.class_head.bias[-1] = -5  # an untrained network that sees something
    model.thresholds = replace(model.thresholds, object_threshold=0.0, overlap_threshold=0.0)
    found = score_panoptic(model, data, batch_size=2)
    quality, labels = PanopticQuality(CATEGORIES), ConfusionMatrix(CATEGORIES)
    for i in range(3):
        sample = data[i]
        model.task = "panoptic"
        quality.update(model.predict(sample.image[None])[0], sample.panoptic)
        model.task = "semantic"
        labels.update(model.predict(sample.image[None])[0].labels, sample.semantic)
    assert found["miou"] == pytest.approx(labels.compute().miou, abs=1e-4) and found["miou"] > 0
    assert found["pq_stuff"] == pytest.approx(quality.compute().stuff.pq, abs=1e-4)


def test_the_three_ways_of_training_are_told_apart():
    found = experiment("mask_classification")(**SMALL)
    assert [r["variant"] for r in found["runs"][:3]] == ["per-pixel", "fixed", "matched"]
    pixel, fixed, matched = (r["first_loss"] for r in found["runs"][:3])
    assert pixel < fixed and fixed > matched  # the matching is the cheapest assignment, class by class is another one
    pairs = [(d["a"], d["b"]) for d in found["differences"]]
    assert pairs == [("matched", "per-pixel"), ("fixed", "per-pixel"), ("matched", "fixed")]
    gains = [r["miou"] for r in found["runs"]]
    assert found["differences"][1]["miou"][0] == pytest.approx(
        (gains[1] - gains[0] + gains[4] - gains[3]) / 2, abs=1e-5
    )


def test_per_pixel_training_is_a_cross_entropy_over_all_layers():
    torch.manual_seed(0)
    model = mask2former_tiny(3, task="semantic", queries=3, channels=16, layers=1, masked_attention=False).eval()
    (batch,) = batches(Scenes(2, size=64), 2)
    labels = batch.targets.semantic % 3
    batch = replace(batch, targets=replace(batch.targets, semantic=labels))
    found = mask_classification.pixel_losses(model, batch)
    out = model(batch.images)
    expected = 0
    for layer in range(2):
        logits = torch.nn.functional.interpolate(out.mask_logits(layer), size=(64, 64), mode="bilinear")
        expected = expected + torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(found["pixels"], expected)
    assert torch.equal(torch.stack(mask_classification.most_likely_class(model, out, batch)), logits.argmax(1))


def test_the_fixed_matching_gives_class_k_query_k():
    target = MaskTargets(
        torch.tensor([2, 0]), torch.ones(2, 4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    )
    parts = torch.zeros(3, 5, 4), torch.zeros(3, 5, 8), torch.zeros(8, 1, 1)
    found = mask_classification.match_by_class(*parts, target, torch.rand(3, 7, 2), SetLossSettings(num_points=7))
    assert found.tolist() == [[2, 0]] * 3


def test_differences_are_paired_by_seed():
    runs = [{"variant": v, "pq": pq} for v, pq in (("a", 0.5), ("b", 0.4), ("a", 0.9), ("b", 0.6))]
    mean, low, high = differences(runs, ("a", "b"), ("pq",))["pq"]
    assert mean == pytest.approx(0.2) and low < 0.1 and high > 0.3


def test_all_systems_are_scored_beside_the_one_network():
    torch.manual_seed(0)
    semantic = {n: build(n, num_classes=12) for n in query_tasks.SPECIALISTS["semantic"]}
    objects = {n: build(n, num_classes=7) for n in query_tasks.SPECIALISTS["instance"]}
    models = {**semantic, **objects, "panoptic_fpn_tiny": build("panoptic_fpn_tiny", num_things=7, num_stuff=5)}
    models["mask2former_tiny"] = small()
    found = experiment("query_tasks")(seeds=[0], steps=5, models=models, data=Scenes(2, split="test", size=64))
    assert found["images"] == 2 and set(found["tasks"]) == {"semantic", "instance", "panoptic"}
    for task, told in found["tasks"].items():
        first, *others = told["systems"]
        assert first["system"] == "mask2former_tiny" and "points" not in first
        assert tuple(row["system"] for row in others) == query_tasks.SPECIALISTS[task]
        for row in others:
            gain, low, high = row["points"]
            assert gain == pytest.approx(100 * (first["value"] - row["value"]), abs=2e-3) and low <= high


@pytest.mark.parametrize("name", ["masked_attention", "mask_classification"])
def test_no_steps_are_refused(name):
    with pytest.raises(ValueError, match="steps and scenes must be positive, got 0"):
        experiment(name)(seeds=[0], steps=0)


def test_no_resamples_are_refused():
    with pytest.raises(ValueError, match="steps and scenes must be positive, got 0"):
        experiment("query_tasks")(seeds=[0], steps=0)
