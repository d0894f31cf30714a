"""Regions that may overlap: the losses by hand and beside torch, and the pooled scores."""

import math

import pytest
import torch
from torch.nn import functional as F
from torchvision import ops as tv

from seglib.losses import sigmoid_cross_entropy, sigmoid_cross_entropy_dice, sigmoid_dice, sigmoid_focal_loss
from seglib.metrics.overlap import RegionOverlap
from seglib.types import VOID


def logits_of(probs):
    return torch.tensor(probs).logit()


def test_cross_entropy_by_hand():
    logits = logits_of([[[0.8, 0.4, 0.9]]])  # (1, 1, 3)
    target = torch.tensor([[[1, 0, VOID]]])
    assert sigmoid_cross_entropy(logits, target).item() == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)


def test_cross_entropy_is_torchs_where_nothing_is_void():
    logits, target = torch.randn(2, 3, 5, 4, dtype=torch.float64), torch.randint(2, (2, 3, 5, 4))
    want = F.binary_cross_entropy_with_logits(logits, target.double())
    torch.testing.assert_close(sigmoid_cross_entropy(logits, target), want)


def test_dice_by_hand():
    logits = logits_of([[[0.5, 0.5, 0.9]], [[0.25, 0.75, 0.1]]])  # (2, 1, 3): pooled over the batch
    target = torch.tensor([[[1, 0, VOID]], [[0, 1, 0]]])
    both, predicted, true = 0.5 + 0.75, 0.5 + 0.5 + 0.25 + 0.75 + 0.1, 2
    want = 1 - (2 * both + 1) / (predicted + true + 1)
    assert sigmoid_dice(logits, target).item() == pytest.approx(want, abs=1e-6)


def test_an_absent_region_has_a_loss_and_a_gradient_and_void_has_neither():
    logits = torch.zeros(1, 2, 4, requires_grad=True)
    target = torch.tensor([[[0, 0, 0, 0], [VOID] * 4]])
    sigmoid_cross_entropy_dice(logits, target).backward()
    assert (logits.grad[0, 0] > 0).all() and not logits.grad[0, 1].any()
    assert sigmoid_cross_entropy(torch.zeros(1, 1, 2), torch.full((1, 1, 2), VOID)) == 0


@pytest.mark.parametrize("loss", [sigmoid_cross_entropy, sigmoid_dice])
def test_gradients(loss):
    logits = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[[1, 0, VOID], [0, 0, 1]], [[1, 1, 0], [VOID, 0, 0]]])
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits)


def test_bad_targets_are_named():
    with pytest.raises(ValueError, match=r"need regions of the same shape, got \(1, 3\)"):
        sigmoid_dice(torch.zeros(1, 2, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="regions are 0, 1 or 255"):
        sigmoid_cross_entropy(torch.zeros(1, 1, 2), torch.tensor([[[0, 2]]]))
    with pytest.raises(ValueError, match="smooth must be positive"):
        sigmoid_dice(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2, dtype=torch.int64), smooth=0)


def test_overlap_is_pooled_over_images_by_hand():
    metric = RegionOverlap(2)
    target = torch.tensor([[1, 1, 0, VOID], [0, 0, 0, 0]])
    metric.update(torch.tensor([[True, False, True, True], [False] * 4]), target)
    metric.update(torch.tensor([[True, False, False, False], [False] * 4]), torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]]))
    scores = metric.compute()
    # region 0: both 1 + 1, predicted 2 + 1, true 2 + 1; the void pixel counts nowhere
    assert scores.dice[0] == pytest.approx(4 / 6) and scores.iou[0] == pytest.approx(2 / 4)
    assert math.isnan(scores.dice[1]) and scores.mean_dice == pytest.approx(4 / 6)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_overlap_refuses_a_value_that_is_neither_inside_nor_outside_nor_void(dtype):
    metric = RegionOverlap(1)
    with pytest.raises(ValueError, match=r"regions are 0, 1 or 255 \(void\), got 7; make masks"):
        metric.update(torch.zeros(1, 4, dtype=torch.bool), torch.tensor([[0, 255, 7, 1]], dtype=dtype))
    with pytest.raises(ValueError, match="got -1"):
        metric.update(torch.zeros(1, 2, dtype=torch.bool), torch.tensor([[0, -1]]))
    assert not metric.counts.any()  # nothing was counted


def test_overlap_refuses_other_shapes_and_types():
    metric = RegionOverlap(2)
    with pytest.raises(ValueError, match=r"expected bool regions \(2, …\)"):
        metric.update(torch.zeros(2, 4), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="target of that shape"):
        metric.update(torch.zeros(1, 4, dtype=torch.bool), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="integers, got torch.float32; convert them"):
        metric.update(torch.zeros(2, 4, dtype=torch.bool), torch.zeros(2, 4))


def test_focal_loss_by_hand():
    logits = logits_of([[0.9, 0.2]])
    loss = sigmoid_focal_loss(logits, torch.tensor([[1, 0]]))
    want = [0.25 * 0.1**2 * -math.log(0.9), 0.75 * 0.2**2 * -math.log(0.8)]
    assert loss[0].tolist() == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 0.5), (0.5, 0.0)])
def test_focal_loss_and_its_gradient_are_torchvisions(alpha, gamma):
    logits = (4 * torch.randn(5, 3, dtype=torch.float64)).requires_grad_()
    target = torch.randint(2, (5, 3)).double()
    sides = [f(logits, target, alpha=alpha, gamma=gamma) for f in (sigmoid_focal_loss, tv.sigmoid_focal_loss)]
    torch.testing.assert_close(*sides)
    torch.testing.assert_close(*(torch.autograd.grad(side.sum(), logits)[0] for side in sides))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_of_extreme_logits_is_finite(gamma):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([[1, 0], [1, 0]]), gamma=gamma)
    loss.sum().backward()
    assert loss[1].tolist() == pytest.approx([50, 150]) and loss[0].tolist() == [0, 0]
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [({"alpha": 1.5}, "got 1.5 and 2.0"), ({"gamma": -1.0}, "got 0.25 and -1.0")],
)
def test_focal_loss_refuses_bad_settings(keywords, message):
    with pytest.raises(ValueError, match=message):
        sigmoid_focal_loss(torch.zeros(2, 3), torch.zeros(2, 3), **keywords)
    with pytest.raises(ValueError, match=r"\(2, 3\) need a target of the same shape, got \(2, 2\)"):
        sigmoid_focal_loss(torch.zeros(2, 3), torch.zeros(2, 2))
