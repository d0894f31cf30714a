"""The U-Net paper's border weights: worked by hand, against all distances, empty and single objects."""

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seglib.losses import cross_entropy
from seglib.ops.borders import border_weights


def brute(masks, w0, sigma):
    """The formula from the distances of all pairs of pixels."""
    n, h, w = masks.shape
    places = torch.cartesian_prod(torch.arange(h), torch.arange(w)).double()  # (HW, 2)
    objects = [mask.nonzero().double() for mask in masks if mask.any()]
    if len(objects) < 2:
        return torch.zeros(h, w, dtype=torch.float64)
    distances = torch.stack([torch.cdist(places, o).amin(1) for o in objects]).sort(0).values  # (N, HW)
    weights = w0 * torch.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma**2))
    return (weights * ~masks.any(0).flatten()).view(h, w)


def test_a_row_of_two_objects_worked_by_hand():
    masks = torch.zeros(2, 1, 7, dtype=torch.bool)
    masks[0, 0, 0] = masks[1, 0, 4] = True
    # pixels 1 to 3 lie between (d1 + d2 = 4), pixel 5 is 1 and 5 away, pixel 6 is 2 and 6 away
    weights = border_weights(masks, w0=10.0, sigma=5.0)
    e4, e6, e8 = (10 * math.exp(-(d**2) / 50) for d in (4, 6, 8))
    assert weights.dtype == torch.float32 and weights.shape == (1, 7)
    assert weights[0].tolist() == pytest.approx([0, e4, e4, e4, 0, e6, e8])


@settings(max_examples=60)
@given(
    st.integers(0, 4),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([0.3, 1.0, 5.0]),
    st.floats(0.02, 0.6),
    st.integers(0, 2**31),
)
def test_equals_the_distances_of_all_pairs(n, h, w, sigma, share, seed):
    masks = torch.rand(n, h, w, generator=torch.Generator().manual_seed(seed)) < share  # some overlap, some are empty
    found = border_weights(masks, w0=7.0, sigma=sigma)
    # float32 result
    torch.testing.assert_close(found.double(), brute(masks, 7.0, sigma), rtol=1e-6, atol=1e-12)
    assert (found >= 0).all() and (found <= 7).all()


def test_far_apart_objects_are_the_formula_too():
    masks = torch.zeros(3, 40, 90, dtype=torch.bool)  # σ = 2 looks 30 pixels far
    masks[0, 5:8, 3:9] = masks[1, 30:38, 10:15] = masks[2, 20:24, 80:88] = True
    torch.testing.assert_close(
        border_weights(masks, sigma=2.0).double(), brute(masks, 10.0, 2.0), rtol=1e-6, atol=1e-30
    )


@pytest.mark.parametrize("shape", [(0, 4, 5), (3, 0, 5), (3, 4, 0), (1, 4, 5)])
def test_fewer_than_two_objects_separate_nothing(shape):
    weights = border_weights(torch.ones(shape, dtype=torch.bool))
    assert weights.shape == shape[1:] and (weights == 0).all()
    one = torch.zeros(2, 4, 5, dtype=torch.bool)
    one[0, 1, 1] = True  # the second is empty
    assert (border_weights(one) == 0).all()


def test_touching_objects_without_a_gap_have_no_background_between_them():
    ids = torch.tensor([[1, 1, 2, 2, 0]])
    assert border_weights(ids)[0, :4].tolist() == [0, 0, 0, 0]
    assert border_weights(ids)[0, 4] == pytest.approx(10 * math.exp(-(4**2) / 50))  # 1 and 3 away


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.int64])
def test_instance_ids_are_the_same_objects(kind):
    ids = torch.tensor([[0, 7, 7, 0, 0, 200], [0, 0, 7, 0, 3, 0], [9, 0, 0, 0, 3, 3]])
    masks = torch.stack([ids == i for i in (3, 7, 9, 200)])
    assert (border_weights(ids.to(kind)) == border_weights(masks)).all()
    assert (border_weights(torch.zeros(3, 4, dtype=kind)) == 0).all()


def test_it_serves_as_pixel_weight_of_cross_entropy():
    ids = torch.tensor([[1, 0, 2, 0, 0, 0]])
    logits = torch.zeros(1, 2, 1, 6)
    logits[0, 1, 0, 1] = 3.0  # wrong on the gap
    target = (ids > 0).long()[None]
    weighted = cross_entropy(logits, target, pixel_weight=1 + border_weights(ids)[None])
    assert weighted > cross_entropy(logits, target)


def test_bad_input_is_refused():
    for bad in (torch.ones(4, 5, dtype=torch.bool), torch.ones(2, 4, 5), torch.ones(4, 5), torch.ones(5).bool()):
        with pytest.raises(ValueError, match=r"bool masks \(N, H, W\) or integer ids \(H, W\), got"):
            border_weights(bad)
    masks = torch.ones(1, 2, 2, dtype=torch.bool)
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="w0 is a finite weight, at least 0, got"):
            border_weights(masks, w0=bad)
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="sigma is a distance in pixels above 0, got"):
            border_weights(masks, sigma=bad)


def test_without_scipy_the_error_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    with pytest.raises(ImportError, match="border_weights needs scipy; run pip install scipy"):
        border_weights(torch.ones(2, 2, 2, dtype=torch.bool))
