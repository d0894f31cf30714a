"""The assignment of objects to queries: by hand, against all permutations, broken costs; and what a pair costs."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from seglib.losses.hungarian import hungarian, matching_cost

NAN, INF = math.nan, math.inf
LOG3 = math.log(3)  # the logit of ¾


def pairs(cost):
    queries, objects = hungarian(cost if isinstance(cost, torch.Tensor) else torch.tensor(cost))
    return list(zip(queries.tolist(), objects.tolist(), strict=True))


def test_what_greedy_loses_by_hand():
    cost = torch.tensor([[1.0, 2.0, 6.0, 9.0], [2.0, 9.0, 7.0, 9.0], [8.0, 8.0, 3.0, 9.0]])
    # greedy takes 1, then 3, and is left with the 9 of query 1: 13. Giving up the 1 saves 6
    assert pairs(cost) == [(0, 1), (1, 0), (2, 2)]
    assert float(cost[hungarian(cost)].sum()) == 2 + 2 + 3
    assert pairs(cost.T) == [(0, 1), (1, 0), (2, 2)]  # four queries, three objects; query 3 stays without one


@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (4, 4), (5, 1), (1, 5), (1, 1)])
def test_no_permutation_is_cheaper(shape):
    rng = np.random.default_rng(0)
    for _ in range(10):
        cost = torch.from_numpy(rng.normal(size=shape))
        queries, objects = hungarian(cost)
        assert queries.dtype == objects.dtype == torch.int64
        assert len(queries) == min(shape) == len(set(objects.tolist()))
        assert queries.tolist() == sorted(set(queries.tolist()))
        wide = cost if shape[0] <= shape[1] else cost.T
        rows = range(len(wide))
        best = min(
            sum(float(wide[i, j]) for i, j in zip(rows, columns, strict=True))
            for columns in itertools.permutations(range(wide.shape[1]), len(wide))
        )
        assert float(cost[queries, objects].sum()) == pytest.approx(best)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_without_queries_or_objects_there_is_no_pair(shape):
    queries, objects = hungarian(torch.zeros(shape))
    assert queries.shape == objects.shape == (0,)
    assert queries.dtype == objects.dtype == torch.int64


@pytest.mark.parametrize("broken", [NAN, INF, -INF, 1e200])
def test_a_broken_cost_is_taken_only_where_no_other_is_left(broken):
    assert pairs([[broken, 1.0], [2.0, broken]]) == [(0, 1), (1, 0)]
    # 0 + broken looks cheap beside 100 + 100, and −100 + broken beside 0 + 0
    assert pairs(torch.tensor([[0.0, 100.0], [100.0, broken]], dtype=torch.float64)) == [(0, 1), (1, 0)]
    assert pairs(torch.tensor([[-100.0, 0.0], [0.0, broken]], dtype=torch.float64)) == [(0, 1), (1, 0)]
    # the third query has nothing else; the other two still get their best
    assert pairs([[1.0, 2.0, 6.0], [2.0, 9.0, 7.0], [broken, broken, broken]]) == [(0, 1), (1, 0), (2, 2)]
    assert len(pairs(torch.full((3, 2), broken, dtype=torch.float64))) == 2


def test_small_differences_count_beside_broken_costs():
    # were NaN 1e30, float64 would not see the difference of 1e-6
    assert pairs([[0.0, NAN, NAN], [NAN, 1e-6, 0.0], [NAN, 0.0, 1e-6]]) == [(0, 0), (1, 2), (2, 1)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_costs_of_any_type_and_with_a_gradient_are_matched(dtype):
    cost = torch.tensor([[1.0, 2.0], [2.0, 9.0]], dtype=dtype, requires_grad=True)
    assert pairs(cost) == [(0, 1), (1, 0)]


def test_the_largest_float32_costs_are_matched():
    assert pairs([[3e38, 1e38], [1e38, 3e38]]) == [(0, 1), (1, 0)]


def test_a_cost_that_is_no_matrix_is_refused():
    with pytest.raises(ValueError, match=r"cost is a matrix \(queries, objects\), got shape \(1, 2, 2\)"):
        hungarian(torch.zeros(1, 2, 2))


# One class. p(class) is ¾ for query 0, ½ for query 1; the masks of query 0 are ¾, ¼, those of query 1 ½, ½.
CLASSES = torch.tensor([[LOG3, 0.0], [0.0, 0.0]])
MASKS = torch.tensor([[LOG3, -LOG3], [0.0, 0.0]])
LABELS = torch.tensor([0, 0])
TARGETS = torch.tensor([[1.0, 0.0], [0.5, 0.0]])  # an edge of the second object runs through point 0


@pytest.mark.parametrize("impl", ["fast", "reference"])
def test_the_terms_of_a_pair_by_hand(impl):
    def cost(*weights):
        names = ("class_weight", "mask_weight", "dice_weight")
        return matching_cost(
            CLASSES, MASKS, LABELS, TARGETS, **dict(zip(names, weights, strict=True)), impl=impl
        ).tolist()

    assert cost(1, 0, 0) == [pytest.approx([-0.75, -0.75]), pytest.approx([-0.5, -0.5])]
    low, high = -math.log(0.75), -math.log(0.25)  # the cost of a point where the mask says ¾ and is right, and wrong
    fractional = (low + high) / 2
    assert cost(0, 1, 0) == [pytest.approx([low, (fractional + low) / 2]), pytest.approx([math.log(2)] * 2)]
    # 1 − (2·¾ + 1) / (1 + 1 + 1), 1 − (2·⅜ + 1) / (1 + ½ + 1); 1 − (2·½ + 1) / 3, 1 − (2·¼ + 1) / 2.5
    assert cost(0, 0, 1) == [pytest.approx([1 / 6, 0.3]), pytest.approx([1 / 3, 0.4])]
    every = matching_cost(CLASSES, MASKS, LABELS, TARGETS, impl=impl)
    assert float(every[0, 0]) == pytest.approx(-2 * 0.75 + 5 * low + 5 / 6)


def example(dtype=torch.float64):
    """7 queries, 5 classes, 4 objects, 30 points of which some are void and some half void."""
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(7, 6, generator=g, dtype=dtype),
        3 * torch.randn(7, 30, generator=g, dtype=dtype),
        torch.tensor([4, 0, 2, 2]),
        torch.rand(4, 30, generator=g, dtype=dtype),
        torch.randint(0, 3, (30,), generator=g).to(dtype) / 2,
    )


def test_the_matrix_products_equal_the_loop_over_pairs():
    arguments = example()
    for used in (arguments, arguments[:4], (*arguments[:4], torch.zeros(30))):
        torch.testing.assert_close(matching_cost(*used), matching_cost(*used, impl="reference"), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("impl", ["fast", "reference"])
@pytest.mark.parametrize("with_void", [True, False])
def test_the_costs_of_two_layers_are_those_of_each(impl, with_void):
    classes, masks, labels, targets, known = example()
    layers = [(classes, masks, labels, targets, known), (-classes, masks.flip(1), labels, 1 - targets, known.flip(0))]
    both = [torch.stack(parts) for parts in zip(*layers, strict=True)]
    both[2] = labels  # the objects are the same
    if not with_void:
        both, layers = both[:4], [layer[:4] for layer in layers]
    each = torch.stack([matching_cost(*layer) for layer in layers])
    torch.testing.assert_close(matching_cost(*both, impl=impl), each)


@pytest.mark.parametrize("impl", ["fast", "reference"])
def test_void_points_cost_what_they_would_if_they_were_not_there(impl):
    classes, masks, labels, targets, known = example()
    known = known > 0
    cost = matching_cost(classes, masks, labels, targets, known, impl=impl)
    left = matching_cost(classes, masks[:, known], labels, targets[:, known], impl=impl)
    torch.testing.assert_close(cost, left)
    none = matching_cost(classes, masks, labels, targets, torch.zeros(30), impl=impl)
    torch.testing.assert_close(none, -2 * classes.softmax(1)[:, labels])


@pytest.mark.parametrize("impl", ["fast", "reference"])
def test_without_objects_or_points_the_cost_has_its_shape(impl):
    classes, masks, labels, targets, _ = example()
    assert matching_cost(classes, masks, labels[:0], targets[:0], impl=impl).shape == (7, 0)
    assert matching_cost(classes[:0], masks[:0], labels, targets, impl=impl).shape == (0, 4)
    no_points = matching_cost(classes, masks[:, :0], labels, targets[:, :0], impl=impl)
    torch.testing.assert_close(no_points, -2 * classes.softmax(1)[:, labels])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    classes = torch.tensor([[60000.0, -60000.0], [0.0, 0.0]], dtype=dtype)
    masks = torch.tensor([[60000.0, -60000.0], [-60000.0, 60000.0]], dtype=dtype).repeat(1, 1000)
    targets = torch.tensor([[1.0, 0.0]]).repeat(1, 1000)
    cost = matching_cost(classes, masks, torch.tensor([0]), targets)
    assert cost.dtype == torch.float32
    large = float(torch.tensor(60000.0).to(dtype))
    assert cost[:, 0].tolist() == pytest.approx([-2.0, -1 + 5 * large + 5 * 2000 / 2001])


def test_autocast_does_not_round_the_cost():
    arguments = example(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cost = matching_cost(*arguments)
    torch.testing.assert_close(cost, matching_cost(*arguments), rtol=0, atol=0)


def test_the_cost_holds_no_number_per_query_object_and_point():
    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            out = function(*arguments, **(keywords or {}))
            sizes.extend(t.numel() for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    with Watch():
        matching_cost(*example())
    assert max(sizes) == 7 * 30  # queries × points


def test_the_cost_has_no_gradient():
    classes, masks, *others = example()
    assert not matching_cost(classes.requires_grad_(), masks.requires_grad_(), *others).requires_grad


def test_costs_of_other_shapes_and_unknown_implementations_are_refused():
    classes, masks, labels, targets, known = example()
    for wrong in ((classes[:3], masks, labels, targets), (classes, masks, labels[:2], targets)):
        with pytest.raises(ValueError, match=r"expected class logits \(…, Q, K \+ 1\), .*, got \(\d, 6\), \(7, 30\)"):
            matching_cost(*wrong)
    with pytest.raises(ValueError, match=r"30 points need known of shape \(30,\), got \(4, 30\)"):
        matching_cost(classes, masks, labels, targets, known.expand(4, 30))
    with pytest.raises(ValueError, match="impl is 'fast' or 'reference', got 'slow'"):
        matching_cost(classes, masks, labels, targets, impl="slow")
