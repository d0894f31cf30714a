"""The experiment about mask heads, at a budget that shows it runs and means what it says."""

import pytest
import torch

from seglib.book.experiments import mask_classes
from seglib.book.experiments.mask_classes import VARIANTS
from seglib.models.mask_rcnn import mask_rcnn_tiny


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return mask_rcnn_tiny(mask_classes.K)


@pytest.mark.slow
def test_it_runs_and_repeats_itself(detector):
    lines = []
    budget = {"seeds": [0, 1], "steps": 2, "scenes": 4, "val_scenes": 2, "batch_size": 2, "detector": detector}
    found = mask_classes.run(**budget, report=lines.append)
    assert [(r["variant"], r["seed"]) for r in found["runs"]] == [(v, s) for s in (0, 1) for v in VARIANTS]
    assert len(lines) == 6 and {"ap", "ap50", "ap75", "loss"} <= set(found["runs"][0])
    assert mask_classes.run(**budget)["runs"] == found["runs"]


def test_the_losses_train_what_they_say():
    g = torch.Generator().manual_seed(0)
    labels, target = torch.tensor([2, 0]), (torch.rand(2, 4, 4, generator=g) > 0.5).float()
    for name, trained in (
        ("sigmoid per class", {0, 2}),
        ("softmax", set(range(mask_classes.K + 1))),
        ("one for all", {0}),
    ):
        channels, loss, answer = VARIANTS[name]
        logits = torch.randn(2, channels, 4, 4, generator=g, requires_grad=True)
        loss(logits, labels, target).backward()
        assert {c for c in range(channels) if logits.grad[:, c].any()} == trained, name
        probs = answer(logits, labels)
        assert probs.shape == (2, 4, 4) and (probs > 0).all() and (probs < 1).all()


def test_right_logits_cost_nothing():
    labels, target = torch.tensor([1]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    for name, (channels, loss, answer) in VARIANTS.items():
        logits = torch.full((1, channels, 2, 2), -30.0)
        inside = 0 if channels == 1 else 1
        logits[0, inside] = torch.where(target[0] > 0, 30.0, -30.0)
        if name == "softmax":
            logits[0, -1] = -logits[0, 1]  # background
        assert loss(logits, labels, target).item() == pytest.approx(0, abs=1e-6)
        assert torch.equal(answer(logits, labels) > 0.5, target > 0.5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"steps": 0}, "must be positive"), ({"scenes": 0}, "must be positive"), ({"variants": ["tanh"]}, "unknown")],
)
def test_bad_budgets_are_refused(detector, wrong, message):
    with pytest.raises(ValueError, match=message):
        mask_classes.run(**({"seeds": [0], "steps": 1, "detector": detector} | wrong))
