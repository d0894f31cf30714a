"""Upsampling that keeps cells where they are."""

import pytest
import torch
from golden import Golden
from torch.nn import functional as F

from seglib.ops.resize import aligned_bilinear


def test_a_row_by_hand():
    row = torch.tensor([[[[0.0, 1.0]]]])
    assert aligned_bilinear(row, 2)[0, 0].tolist() == [[0, 0, 0.5, 1]] * 2
    half_pixels = F.interpolate(row, (2, 4), mode="bilinear", align_corners=False)
    assert half_pixels[0, 0, 0].tolist() == [0, 0.25, 0.75, 1]  # every cell half a fine cell further left
    assert aligned_bilinear(row, 4)[0, 0, 0].tolist() == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
def test_every_cell_stays_at_its_place(factor):
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    fine = aligned_bilinear(x, factor)
    assert fine.shape == (2, 3, 4 * factor, 5 * factor)
    at = slice(factor // 2, None, factor)
    torch.testing.assert_close(fine[..., at, at], x)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_it_equals_the_published_one(factor):
    golden = Golden("condinst_r50")
    golden.check(f"aligned_bilinear/by{factor}", aligned_bilinear(golden["aligned_bilinear/x"], factor), 1e-6)


def test_gradients():
    x = torch.randn(1, 1, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda maps: aligned_bilinear(maps, 3), x)


def test_no_map_and_a_bad_factor():
    assert aligned_bilinear(torch.zeros(0, 2, 3, 4), 2).shape == (0, 2, 6, 8)
    with pytest.raises(ValueError, match="factor must be at least 1, got 0"):
        aligned_bilinear(torch.zeros(1, 1, 2, 2), 0)
