"""Samples at points, where the points lie, and the loss of masks there."""

import math

import pytest
import torch
from golden import Golden

from seglib.losses.hungarian import matching_cost
from seglib.losses.points import point_mask_loss
from seglib.ops.points import features_at_points, sample_at_points, uncertain_points

LOG3 = math.log(3)  # the logit of ¾


def sampled(values, *points):
    return sample_at_points(torch.tensor(values)[None, None], torch.tensor([points]))[0, 0].tolist()


def test_a_sample_at_a_cells_centre_is_its_value():
    centres = [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)]
    assert sampled([[1.0, 2.0], [3.0, 4.0]], *centres) == [1, 2, 3, 4]


def test_between_cells_a_sample_is_their_mean_and_beyond_the_border_is_0():
    # the middle, the middle of the left border, the corner, half a cell outside, far outside
    points = [(0.5, 0.5), (0.0, 0.5), (0.0, 0.0), (-0.25, 0.25), (2.0, 2.0)]
    assert sampled([[1.0, 2.0], [3.0, 4.0]], *points) == [2.5, (1 + 3) / 4, 1 / 4, 0, 0]


def test_x_counts_columns_and_y_rows_of_a_map_that_is_not_square():
    assert sampled([[0.0, 1.0, 2.0, 3.0]], (0.5, 0.5), (0.875, 0.5)) == [1.5, 3.0]
    assert sampled([[0.0], [1.0], [2.0], [3.0]], (0.5, 0.5), (0.5, 0.875)) == [1.5, 3.0]


def test_every_map_has_points_of_its_own_that_all_channels_share():
    maps = torch.arange(8.0).view(2, 2, 1, 2)  # two maps of two channels
    points = torch.tensor([[[0.25, 0.5]], [[0.75, 0.5]]])
    assert sample_at_points(maps, points).tolist() == [[[0], [2]], [[5], [7]]]


def test_samples_of_masks_are_fractional_at_an_edge():
    assert sampled([[True, False]], (0.25, 0.5), (0.5, 0.5), (0.75, 0.5)) == [1, 0.5, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_sampled_in_float32(dtype):
    maps, points = torch.tensor([[[[256.0, 258.0]]]], dtype=dtype), torch.tensor([[[0.5, 0.5]]])
    found = sample_at_points(maps, points)
    assert found.dtype == torch.float32 and found.item() == 257  # which bfloat16 can't hold
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert sample_at_points(maps, points).item() == 257
    assert sample_at_points(maps.double(), points).dtype == torch.float64


@pytest.mark.parametrize(("n", "channels", "count"), [(0, 1, 4), (2, 0, 4), (2, 1, 0)])
def test_no_map_no_channel_and_no_point_are_sampled(n, channels, count):
    maps = torch.zeros(n, channels, 3, 3, requires_grad=True)
    found = sample_at_points(maps, torch.rand(n, count, 2))
    assert found.shape == (n, channels, count)
    found.sum().backward()
    assert not maps.grad.any()


def test_gradients_of_samples_reach_maps_and_points():
    g = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 4, 5, generator=g, dtype=torch.float64, requires_grad=True)
    points = torch.rand(2, 6, 2, generator=g, dtype=torch.float64, requires_grad=True)  # none within 1e-6 of a kink
    assert torch.autograd.gradcheck(sample_at_points, (maps, points))


def test_samples_of_shapes_that_do_not_fit_are_refused():
    maps, points = torch.zeros(2, 1, 3, 3), torch.zeros(2, 4, 2)
    for wrong in ((maps[0], points), (maps, points[:1]), (maps, points[0]), (maps, torch.zeros(2, 4, 3))):
        with pytest.raises(ValueError, match=r"need points \(N, P, 2\) of the same N"):
            sample_at_points(*wrong)


def stored(*points):
    """A source that gives these points, call after call."""
    left = iter(points)

    def uniform(n, count, device):
        found = next(left)
        assert found.shape == (n, count, 2)
        return found

    return uniform


CANDIDATES = torch.tensor([[[0.1, 0.5], [0.2, 0.5], [0.3, 0.5], [0.6, 0.5], [0.8, 0.5], [0.9, 0.5]]])
EXTRA = torch.tensor([[[0.25, 0.125]]])


def edge_at_a_half(points):
    return points[..., 0] - 0.5  # logits of a mask whose edge is at x = 0.5


def chosen_x(**settings):
    points = uncertain_points(edge_at_a_half, 1, 3, oversample=2, share=0.7, **settings)
    return [round(x, 3) for x in points[0, :, 0].tolist()]


def test_the_candidates_nearest_to_the_edge_are_kept_and_the_rest_is_uniform():
    # |logits| 0.4, 0.3, 0.2, 0.1, 0.3, 0.4; of three points ⌊0.7 · 3⌋ = 2 by uncertainty
    assert chosen_x(uniform=stored(CANDIDATES, EXTRA)) == [0.6, 0.3, 0.25]


def test_candidates_that_touch_void_come_last():
    def known_at(points):
        return torch.where(points[..., 0] > 0.55, 0.9, 1.0)  # the void begins to count at 0.55

    assert chosen_x(uniform=stored(CANDIDATES, EXTRA), known_at=known_at) == [0.3, 0.2, 0.25]
    nothing = chosen_x(uniform=stored(CANDIDATES, EXTRA), known_at=lambda points: torch.zeros(points.shape[:2]))
    assert len(nothing) == 3  # there are always P


def test_the_original_draws_and_orders_points_in_the_same_way():
    golden = Golden("mask2former_r50_coco_panoptic")
    candidates, extra = golden["loss/layer9.candidates"], golden["loss/layer9.extra"]  # (5, 288, 2), (5, 24, 2)
    points = golden["loss/loss_points"][9]  # (5, 96, 2)
    same = (candidates[:, :, None] == points[:, None]).all(-1)  # (5, 288, 96)
    # a logit for each candidate that agrees with the stored choice: its place there, with changing sign
    place = torch.where(same.any(2), same.float().argmax(2) + 1, 1000)
    logits = place * (-1) ** place
    found = uncertain_points(lambda points: logits, 5, 96, uniform=stored(candidates, extra))
    torch.testing.assert_close(found, points, rtol=0, atol=0)


def test_points_are_drawn_in_the_unit_square_for_every_mask():
    torch.manual_seed(0)
    points = uncertain_points(lambda points: points[..., 1] - 0.5, 2, 1000)
    assert points.shape == (2, 1000, 2) and points.dtype == torch.float32
    assert 0 <= float(points.min()) < 0.01 and 0.99 < float(points.max()) < 1
    assert not torch.equal(points[0], points[1])
    # a quarter of the 3,000 candidates lies within an eighth of the edge at y = ½; five standard errors are 0.02
    near = (points[:, :750, 1] - 0.5).abs().amax(1)
    assert near.tolist() == pytest.approx([1 / 8] * 2, abs=0.02)
    spread = (points[:, 750:, 1] - 0.5).abs().mean(1)
    assert spread.tolist() == pytest.approx([1 / 4] * 2, abs=0.05)  # five standard errors of a uniform distance


def test_no_mask_and_no_point_are_drawn_and_no_gradient_flows():
    assert uncertain_points(edge_at_a_half, 0, 12).shape == (0, 12, 2)
    assert uncertain_points(edge_at_a_half, 2, 0).shape == (2, 0, 2)
    scale = torch.ones((), requires_grad=True)
    assert not uncertain_points(lambda points: scale * edge_at_a_half(points), 1, 4).requires_grad


@pytest.mark.parametrize(
    "settings", [{"count": -1}, {"oversample": 0.5}, {"oversample": math.inf}, {"share": 1.5}, {"share": math.nan}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=r"oversample of at least 1 and share in \[0, 1\]"):
        uncertain_points(edge_at_a_half, 1, **{"count": 4, **settings})


# Two objects with the masks ¾, ¼ and ½, ½; an edge of the second runs through point 0.
LOGITS = torch.tensor([[LOG3, -LOG3], [0.0, 0.0]])
TARGETS = torch.tensor([[1.0, 0.0], [0.5, 0.0]])


def test_the_losses_by_hand():
    cross_entropy, dice = point_mask_loss(LOGITS, TARGETS, None, 2)
    assert cross_entropy.item() == pytest.approx((-math.log(0.75) + math.log(2)) / 2)
    # 1 − (2·¾ + 1) / (1 + 1 + 1) and 1 − (2·¼ + 1) / (1 + ½ + 1)
    assert dice.item() == pytest.approx((1 / 6 + 0.4) / 2)


def test_the_losses_divide_by_the_count_that_is_given():
    whole = torch.stack(point_mask_loss(LOGITS, TARGETS, None, 1))
    for count in (2.5, torch.tensor(2.5)):
        torch.testing.assert_close(torch.stack(point_mask_loss(LOGITS, TARGETS, None, count)), whole / 2.5)


def test_the_losses_of_two_layers_are_those_of_each():
    both = point_mask_loss(torch.stack([LOGITS, -LOGITS]), TARGETS.expand(2, 2, 2), None, 2)
    each = [point_mask_loss(logits, TARGETS, None, 2) for logits in (LOGITS, -LOGITS)]
    for together, alone in zip(both, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(together, torch.stack(alone))


def example():
    """Logits and targets of 3 objects at 12 points, some of them void and some half void; the third all void."""
    g = torch.Generator().manual_seed(0)
    known = torch.randint(0, 3, (3, 12), generator=g).double() / 2
    known[2] = 0
    return torch.randn(3, 12, generator=g, dtype=torch.float64), torch.rand(3, 12, generator=g).double(), known


def test_a_mask_costs_what_its_known_points_cost():
    logits, targets, known = example()
    known = (known > 0).double()
    kept = [
        point_mask_loss(x[None, k], t[None, k], None, 1) for x, t, k in zip(logits, targets, known > 0, strict=True)
    ]
    cross_entropy, dice = point_mask_loss(logits, targets, known, 1)
    torch.testing.assert_close(cross_entropy, sum(c for c, _ in kept))
    torch.testing.assert_close(dice, sum(d for _, d in kept))


def test_the_loss_of_a_pair_is_what_the_matcher_counts():
    logits, targets, known = example()
    classes, labels = torch.zeros(3, 2, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    for term in (0, 1):
        cost = matching_cost(
            classes, logits, labels, targets, known[0], class_weight=0, mask_weight=1 - term, dice_weight=term
        )
        for i in range(3):
            loss = point_mask_loss(logits[i : i + 1], targets[i : i + 1], known[:1], 1)[term]
            torch.testing.assert_close(loss, cost[i, i])


def test_all_void_costs_nothing_and_moves_nothing():
    logits = torch.tensor([[60000.0, -3.0]], requires_grad=True)
    losses = point_mask_loss(logits, torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2), 1)
    assert [loss.item() for loss in losses] == [0, 0]
    sum(losses).backward()
    assert not logits.grad.any()


def test_gradients_of_the_losses():
    logits, targets, known = example()
    logits.requires_grad_()
    for weights in (None, known):
        assert torch.autograd.gradcheck(lambda x, w=weights: point_mask_loss(x, targets, w, 2.5), (logits,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    logits = torch.tensor([[60000.0, -60000.0]], dtype=dtype).repeat(1, 1000).requires_grad_()
    targets = torch.tensor([[0.0, 1.0]]).repeat(1, 1000)
    cross_entropy, dice = point_mask_loss(logits, targets, None, 1)
    assert cross_entropy.dtype == dice.dtype == torch.float32
    assert cross_entropy.item() == float(torch.tensor(60000.0).to(dtype))
    assert dice.item() == pytest.approx(2000 / 2001)
    (cross_entropy + dice).backward()
    torch.testing.assert_close(logits.grad[0, :2].float(), torch.tensor([1 / 2000, -1 / 2000]), rtol=0.01, atol=0)


def test_without_objects_the_losses_are_0_with_a_gradient():
    logits = torch.zeros(0, 12, requires_grad=True)
    losses = point_mask_loss(logits, torch.zeros(0, 12), None, 1.0)
    assert [loss.item() for loss in losses] == [0, 0]
    sum(losses).backward()
    assert logits.grad.shape == (0, 12)


def test_losses_of_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"logits \(2, 2\) need targets of the same shape, got \(1, 2\)"):
        point_mask_loss(LOGITS, TARGETS[:1], None, 1)
    with pytest.raises(ValueError, match=r"logits \(2, 2\) need known of the same shape, got \(2,\)"):
        point_mask_loss(LOGITS, TARGETS, torch.ones(2), 1)


def test_features_are_samples_with_their_channels_last():
    torch.manual_seed(0)
    features, points = torch.randn(5, 4, 7), torch.rand(30, 2) * 1.2 - 0.1  # some outside
    expected = sample_at_points(features[None], points[None])[0].T
    torch.testing.assert_close(features_at_points(features, points), expected)
    assert features_at_points(features, points[:0]).shape == (0, 5)
