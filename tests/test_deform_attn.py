"""Deformable attention: by hand, loops against rows in values and gradients, the original, precision, bad input."""

import math

import pytest
import torch
from golden import Golden
from torch.autograd import gradcheck

from seglib.ops.deform_attn import IMPLEMENTATIONS, deformable_attention

every_impl = pytest.mark.parametrize("impl", IMPLEMENTATIONS)


def case(shapes, batch=2, queries=5, heads=3, channels=2, points=4, dtype=torch.float64):
    """Random values and points, about a third of them outside."""
    g = torch.Generator().manual_seed(0)
    cells, each = sum(h * w for h, w in shapes), (batch, queries, heads, len(shapes), points)
    value = torch.randn(batch, cells, heads, channels, generator=g, dtype=dtype)
    locations = torch.rand(*each, 2, generator=g, dtype=dtype) * 1.4 - 0.2
    weights = torch.randn(each, generator=g, dtype=dtype)
    return value.requires_grad_(), locations.requires_grad_(), weights.requires_grad_()


def at(value, *points, weights=None, impl="fast"):
    """One head on one level, with a value for each cell: what one query gets from these points."""
    value = torch.as_tensor(value)
    weights = torch.ones(len(points)) if weights is None else torch.tensor(weights)
    locations = torch.tensor(points).view(1, 1, 1, 1, -1, 2)
    cells = value.reshape(1, -1, 1, 1)
    return deformable_attention(cells, [value.shape], locations, weights.view(1, 1, 1, 1, -1), impl=impl).item()


@every_impl
def test_one_point_by_hand(impl):
    value = [[0.0, 10.0, 20.0], [40.0, 50.0, 60.0]]
    assert at(value, (1 / 6, 0.25), impl=impl) == pytest.approx(0.0, abs=1e-5)  # the centre of the first cell
    assert at(value, (5 / 6, 0.75), impl=impl) == pytest.approx(60.0)  # and of the last
    assert at(value, (0.5, 0.5), impl=impl) == pytest.approx(30.0)  # between 10 and 50
    assert at(value, (1 / 3, 0.25), impl=impl) == pytest.approx(5.0)  # between 0 and 10
    assert at(value, (1.0, 0.75), impl=impl) == pytest.approx(30.0)  # half of 60: beyond the border lies 0
    assert at(value, (1.0, 1.0), impl=impl) == pytest.approx(15.0)  # a quarter of 60
    assert at(value, (0.5, 1.2), impl=impl) == pytest.approx(5.0)  # 1.9 cells down: a tenth of 50 is left
    assert at(value, (0.5, 1.3), (-0.2, 0.5), impl=impl) == 0


@every_impl
def test_a_query_gets_the_weighted_sum_of_its_points(impl):
    value = [[1.0, 10.0, 100.0]]
    points = [(1 / 6, 0.5), (0.5, 0.5), (5 / 6, 0.5)]
    assert at(value, *points, weights=[3.0, 0.5, -1.0], impl=impl) == pytest.approx(3 + 5 - 100, abs=1e-4)


@every_impl
def test_every_head_has_values_points_and_weights_of_its_own(impl):
    value = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[10.0, 20.0], [30.0, 40.0]]]])  # 2 cells, 2 heads of 2 channels
    locations = torch.tensor([[0.25, 0.5], [0.75, 0.5]]).view(1, 1, 2, 1, 1, 2)
    weights = torch.tensor([1.0, 2.0]).view(1, 1, 2, 1, 1)
    out = deformable_attention(value, [(1, 2)], locations, weights, impl=impl)
    assert out.tolist() == [[[1.0, 2.0, 60.0, 80.0]]]  # head 0 reads the left cell, head 1 twice the right one


@every_impl
def test_it_is_what_the_original_computes(impl):
    golden = Golden("mask2former_r50_coco_panoptic")
    value, locations, weights = (golden[f"deform_attention/{key}"] for key in ("value", "locations", "weights"))
    out = deformable_attention(value, [(2, 3), (3, 5), (6, 7)], locations, weights, impl=impl)
    golden.check("deform_attention/out", out, 1e-6)  # float32: the order of the sums


SHAPES = {
    "one cell": [(1, 1)],
    "coarse to fine": [(2, 3), (3, 5), (6, 7)],
    "wide and tall": [(1, 7), (5, 1), (1, 1)],
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])  # PyTorch has other kernels for each
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_both_paths_agree_in_values_and_gradients(shapes, dtype):
    parts = case(shapes, dtype=dtype)
    found = []
    for impl in IMPLEMENTATIONS:
        value, locations, weights = parts
        out = deformable_attention(value, shapes, locations, weights, impl=impl)
        found.append([out, *torch.autograd.grad((out**2).sum(), parts)])
    for fast, reference in zip(*found, strict=True):
        rounding = 1e3 * torch.finfo(dtype).eps  # sums in another order, of gradients up to 100
        torch.testing.assert_close(fast, reference, rtol=rounding, atol=rounding)


@every_impl
def test_gradients_are_those_of_finite_differences(impl):
    shapes = [(2, 3), (1, 2)]
    parts = case(shapes, batch=1, queries=2, heads=2, points=2)
    assert gradcheck(lambda v, x, a: deformable_attention(v, shapes, x, a, impl=impl), parts)


def test_points_far_outside_give_nothing_and_have_no_gradient():
    value, locations, weights = case([(3, 4)], dtype=torch.float32)
    far = torch.tensor([-math.inf, -1e30, 1e30, math.inf])  # (P,)
    locations = torch.stack([far, torch.full((4,), 0.5)], -1).expand_as(locations).requires_grad_()
    out = deformable_attention(value, [(3, 4)], locations, weights)
    assert torch.equal(out, torch.zeros_like(out))
    for part in torch.autograd.grad(out.sum(), (value, locations, weights)):
        assert torch.equal(part, torch.zeros_like(part))


def test_a_location_that_is_not_a_number_spoils_its_own_query_only():
    value, locations, weights = case([(3, 3)], heads=1)  # an odd number of rows a line, so that no overflow helps
    want = deformable_attention(value, [(3, 3)], locations, weights)
    broken = locations.detach().clone()
    broken[1, 2, 0, 0, 3, 1] = math.nan
    out = deformable_attention(value, [(3, 3)], broken, weights)
    assert out[1, 2].isnan().all()
    out[1, 2] = want[1, 2]
    torch.testing.assert_close(out, want)


@every_impl
def test_no_query(impl):
    value, locations, weights = case([(2, 3), (1, 1)], queries=0)
    out = deformable_attention(value, [(2, 3), (1, 1)], locations, weights, impl=impl)
    assert out.shape == (2, 0, 6)
    assert torch.equal(torch.autograd.grad(out.sum(), value)[0], torch.zeros_like(value))


@every_impl
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(impl, dtype):
    shapes = [(3, 5), (6, 7)]
    value, locations, weights = (part.to(dtype) for part in case(shapes, dtype=torch.float32))
    want = deformable_attention(value.float(), shapes, locations.float(), weights.float(), impl=impl)
    with torch.autocast("cpu", dtype=dtype):
        out = deformable_attention(value, shapes, locations, weights, impl=impl)
    assert out.dtype == dtype and torch.equal(out, want.to(dtype))


@pytest.mark.slow
def test_a_compiled_step_has_the_values_and_gradients_of_the_plain_one():
    shapes = [(2, 3), (3, 5)]
    parts = case(shapes)
    found = []
    for call in (deformable_attention, torch.compile(deformable_attention, backend="aot_eager", fullgraph=True)):
        value, locations, weights = parts
        out = call(value, shapes, locations, weights)
        found.append([out, *torch.autograd.grad((out**2).sum(), parts)])
    for compiled, plain in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain)


def test_bad_arguments():
    shapes = [(2, 3), (1, 2)]
    value, locations, weights = case(shapes)
    with pytest.raises(ValueError, match=r"got \(2, 8, 6\) and \(2, 5, 3, 2, 4, 2\)"):
        deformable_attention(value.flatten(2), shapes, locations, weights)
    with pytest.raises(ValueError, match=r"value has 8 cells, the levels \[\(2, 3\), \(2, 2\)\] have 10"):
        deformable_attention(value, [(2, 3), (2, 2)], locations, weights)
    with pytest.raises(ValueError, match=r"locations are \(2, N, 3, 2, P, 2\) .* got \(2, 5, 2, 2, 4, 2\)"):
        deformable_attention(value, shapes, locations[:, :, :2], weights[:, :, :2])
    with pytest.raises(ValueError, match=r"got \(2, 5, 3, 2, 4, 2\) and \(2, 5, 3, 2, 3\)"):
        deformable_attention(value, shapes, locations, weights[..., :3])
    with pytest.raises(ValueError, match=r"1 levels, locations are \(2, N, 3, 1, P, 2\)"):
        deformable_attention(value, [(2, 4)], locations, weights)
    with pytest.raises(ValueError, match="impl 'cuda' is unknown; choose from fast, reference"):
        deformable_attention(value, shapes, locations, weights, impl="cuda")
