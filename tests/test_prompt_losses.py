"""The losses of the answers to a prompt."""

import pytest
import torch
from torch.nn import functional as F

from seglib.losses.overlapping import sigmoid_focal_loss
from seglib.losses.points import point_mask_loss
from seglib.losses.prompts import best_of, iou_targets, mask_losses


def answers(seed=0, dtype=torch.float32):
    """Three answers to each of two prompts, 4 x 5 pixels, and the wanted masks."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 3, 4, 5, generator=generator, dtype=dtype)
    return logits, torch.rand(2, 4, 5, generator=generator) > 0.6


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.9, 1.5)])
def test_the_losses_are_the_focal_loss_of_pixels_and_the_dice_loss_of_points(alpha, gamma):
    logits, wanted = answers()
    focal, dice = mask_losses(logits, wanted, alpha=alpha, gamma=gamma)
    target = wanted[:, None].expand_as(logits)
    each = sigmoid_focal_loss(logits, target, alpha=alpha, gamma=gamma)
    torch.testing.assert_close(focal, each.mean((2, 3)), rtol=1e-5, atol=1e-6)  # −log p_t is a difference here
    points = (part.flatten(2)[:, :, None] for part in (logits, target))  # one mask of 20 points each
    torch.testing.assert_close(dice, point_mask_loss(*points, None, 1)[1])


def test_a_right_answer_costs_nothing_and_a_wrong_one_both_losses():
    wanted = torch.tensor([[[True, True, False, False]]])
    right = torch.where(wanted, 30.0, -30.0)
    focal, dice = mask_losses(torch.stack([right, -right], 1), wanted)
    assert focal[0].tolist() == pytest.approx([0, 30 * (0.25 + 0.75) / 2], abs=1e-6)
    assert dice[0].tolist() == pytest.approx([0, 1 - 1 / 5], abs=1e-6)


def test_the_gradients_are_those_of_the_formulas():
    logits, wanted = answers(dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: mask_losses(x, wanted), logits.requires_grad_())
    assert torch.autograd.gradcheck(lambda x: mask_losses(x, wanted, gamma=0.0), logits)


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_certain_answers_have_finite_losses_and_gradients(size):
    logits, wanted = answers()
    logits = (size * logits.sign()).requires_grad_()
    focal, dice = mask_losses(logits, wanted)
    (focal / size + dice).sum().backward()
    assert focal.isfinite().all() and dice.isfinite().all() and logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_counted_in_float32(dtype):
    logits, wanted = answers()
    logits = logits.to(dtype)
    for half, full in zip(mask_losses(logits, wanted), mask_losses(logits.float(), wanted), strict=True):
        assert half.dtype == torch.float32 and torch.equal(half, full)


def test_no_prompts_and_empty_masks_are_normal():
    logits, wanted = answers()
    for part in (*mask_losses(logits[:0], wanted[:0]), iou_targets(logits[:0], wanted[:0])):
        assert part.shape == (0, 3)
    focal, dice = mask_losses(torch.full((1, 1, 2, 2), -40.0), torch.zeros(1, 2, 2))
    assert max(focal.item(), dice.item()) < 1e-16  # σ(−40) is 4e-18
    assert iou_targets(torch.full((1, 1, 2, 2), -40.0), torch.zeros(1, 2, 2)).item() == 0


def test_the_iou_is_that_of_the_masks_at_a_threshold_of_0():
    logits = torch.tensor([[[[2.0, 0.1], [-0.1, 0.0]], [[-1.0, -1.0], [-1.0, 5.0]]]], requires_grad=True)
    found = iou_targets(logits, torch.tensor([[[True, False], [True, False]]]))
    assert found.tolist() == [[pytest.approx(1 / 3), 0]]
    assert not found.requires_grad


def test_a_pixel_that_is_more_than_half_covered_is_inside():
    logits, _ = answers()
    share = torch.tensor([0.0, 0.5, 0.51, 1.0, 0.2]).expand(2, 4, 5)
    inside = torch.tensor([False, False, True, True, False]).expand(2, 4, 5)
    for of_share, of_mask in zip(mask_losses(logits, share), mask_losses(logits, inside), strict=True):
        assert torch.equal(of_share, of_mask)
    assert torch.equal(iou_targets(logits, share), iou_targets(logits, inside))


def test_only_the_best_answer_counts_and_only_it_is_trained():
    cost = torch.tensor([[3.0, 1.0, 2.0], [0.5, 0.5, 4.0]])
    focal = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], requires_grad=True)
    best_focal, best_cost = best_of(cost, focal, cost)
    assert best_focal.tolist() == [2, 4] and best_cost.tolist() == [1, 0.5]  # of equal ones the first
    best_focal.sum().backward()
    assert focal.grad.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_training_on_the_best_answer_lets_answers_differ_where_their_mean_makes_them_alike():
    both = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])  # one prompt that sometimes means the left, sometimes the right

    def trained(choose):
        logits = torch.tensor([[0.1, -0.1], [-0.1, 0.1]], requires_grad=True)  # two answers of 1 x 2 pixels
        for _ in range(200):
            focal, dice = mask_losses(logits[None, :, None].expand(2, 2, 1, 2), both)
            (gradient,) = torch.autograd.grad(choose(20 * focal + dice).sum(), logits)
            logits = (logits - 0.2 * gradient).detach().requires_grad_()
        return logits

    apart, alike = trained(lambda cost: best_of(cost, cost)[0]), trained(lambda cost: cost.mean(1))
    assert (apart > 0).tolist() == [[True, False], [False, True]] and apart.abs().min() > 1
    assert F.cosine_similarity(alike[0], alike[1], dim=0) > 0.99


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, w: mask_losses(x, w[:, 1:]), r"\(2, 3, 4, 5\) and \(2, 3, 5\); bring the masks"),
        (lambda x, w: mask_losses(x[0], w), r"got \(3, 4, 5\) and \(2, 4, 5\)"),
        (lambda x, w: mask_losses(x, w, alpha=1.5), "got 1.5 and 2.0"),
        (lambda x, w: mask_losses(x, w, gamma=-1.0), "got 0.25 and -1.0"),
        (lambda x, w: iou_targets(x, w[:, 1:]), r"bool \(2, 3, 4, 5\)"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(*answers())
