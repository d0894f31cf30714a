"""Bilinear upsampling as a transposed convolution, and where the cells of a map lie."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from seglib.layers.grid import Grid
from seglib.layers.upsample import BilinearUpsample, bilinear_kernel


def test_the_kernel_of_factor_2_is_the_outer_product_of_a_tent():
    tent = torch.tensor([0.25, 0.75, 0.75, 0.25])
    assert torch.equal(bilinear_kernel(1, 1, 4)[0, 0], torch.outer(tent, tent))


def test_an_odd_kernel_has_its_top_on_a_cell():
    tent = torch.tensor([0.5, 1.0, 0.5])
    assert torch.equal(bilinear_kernel(1, 1, 3)[0, 0], torch.outer(tent, tent))


def test_channel_i_goes_to_channel_i_only():
    kernel = bilinear_kernel(2, 3, 4)
    assert kernel.shape == (2, 3, 4, 4)
    for i in range(2):
        for k in range(3):
            assert kernel[i, k].any() == (i == k)


@given(factor=st.integers(1, 9), odd=st.booleans())
def test_the_copies_of_the_kernel_add_up_to_one_everywhere(factor, odd):
    # a constant map stays constant: the tents of neighbouring cells, a factor apart, overlap to 1
    kernel = bilinear_kernel(1, 1, 2 * factor - odd)
    ones = F.conv_transpose2d(torch.ones(1, 1, 5, 5), kernel, stride=factor)
    inner = ones[..., 2 * factor : -2 * factor, 2 * factor : -2 * factor]
    torch.testing.assert_close(inner, torch.ones_like(inner), rtol=0, atol=1e-6)  # float32 sums of four weights


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 8, 16, 32])
def test_it_starts_as_interpolate_except_on_the_outermost_half_factor(factor):
    x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    up = BilinearUpsample(3, factor)(x)
    reference = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    assert up.shape == reference.shape
    b = factor // 2
    h, w = up.shape[-2:]
    inner = (..., slice(b, h - b), slice(b, w - b))
    torch.testing.assert_close(up[inner], reference[inner], rtol=0, atol=1e-6)  # float32 sums of four products
    if b:
        assert (up[..., b - 1, b : w - b] < reference[..., b - 1, b : w - b]).all(), "the border does differ"


def test_on_the_border_it_is_interpolate_times_the_weight_of_the_cells_that_exist():
    up = BilinearUpsample(1, 2)(torch.ones(1, 1, 2, 2))[0, 0]
    edge = torch.tensor([0.75, 1.0, 1.0, 0.75])  # (f + 1) / 2f = 3/4 on the outermost row
    assert torch.equal(up, torch.outer(edge, edge))


def test_it_learns():
    layer = BilinearUpsample(2, 2)
    layer(torch.rand(1, 2, 3, 3)).square().sum().backward()
    assert layer.weight.grad[0, 1].any(), "channels may mix while it learns"


def test_a_transposed_convolution_stamps_its_kernel_for_every_input():
    # two cells, 1 and 10, stride 2, kernel 1 2 3: the stamps overlap in the middle
    x, kernel = torch.tensor([[[1.0, 10.0]]]), torch.tensor([[[1.0, 2.0, 3.0]]])
    assert F.conv_transpose1d(x, kernel, stride=2).tolist() == [[[1.0, 2.0, 3.0 + 10.0, 20.0, 30.0]]]


def test_a_transposed_convolution_is_the_transposed_matrix_of_the_convolution():
    # the convolution of 5 numbers with a kernel of 3 at stride 2 takes windows 0..2 and 2..4
    kernel = torch.tensor([[[1.0, 2.0, 3.0]]])
    matrix = torch.tensor([[1.0, 2.0, 3.0, 0.0, 0.0], [0.0, 0.0, 1.0, 2.0, 3.0]])  # (2 outputs, 5 inputs)
    x, y = torch.tensor([1.0, -1.0, 4.0, 0.0, 2.0]), torch.tensor([1.0, 10.0])
    assert torch.equal(F.conv1d(x[None, None], kernel, stride=2)[0, 0], matrix @ x)
    assert torch.equal(F.conv_transpose1d(y[None, None], kernel, stride=2)[0, 0], matrix.T @ y)


@given(
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    padding=st.integers(0, 2),
    size=st.integers(5, 9),
    seed=st.integers(0, 99),
)
def test_the_transpose_holds_in_two_dimensions_for_any_geometry(kernel, stride, padding, size, seed):
    padding = min(padding, (kernel - 1) // 2)
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 2, kernel, kernel, generator=g, dtype=torch.float64)
    x = torch.randn(1, 2, size, size, generator=g, dtype=torch.float64)
    down = F.conv2d(x, weight, stride=stride, padding=padding)
    y = torch.randn(down.shape, generator=g, dtype=torch.float64)
    rest = size - ((down.shape[-1] - 1) * stride + kernel - 2 * padding)  # rows that no window reaches
    up = F.conv_transpose2d(y, weight, stride=stride, padding=padding, output_padding=rest)
    # <A x, y> = <x, Aᵀ y>; float64 leaves rounding only
    torch.testing.assert_close((down * y).sum(), (x * up).sum(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 1, "factor": 0}, "factor must be positive, got 0"),
        ({"channels": 1, "factor": 2, "kernel_size": 5}, "factor 2 needs a kernel of 3 or 4, got 5"),
        ({"channels": 0, "factor": 2}, "must be positive, got 0"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BilinearUpsample(**arguments)


def test_a_kernel_needs_a_positive_size():
    with pytest.raises(ValueError, match="must be positive, got 1, 1 and 0"):
        bilinear_kernel(1, 1, 0)


def test_grids_by_hand():
    assert Grid().conv(3, padding=1) == Grid(1, 0), "a padded 3×3 leaves every cell where it is"
    assert Grid().conv(2, stride=2) == Grid(2, 0.5), "a 2×2 pooling puts its first cell between pixels 0 and 1"
    assert Grid().conv(3, stride=2, padding=1) == Grid(2, 0)
    assert Grid().conv(3, dilation=2) == Grid(1, 2)
    assert Grid(2, 0.5).transposed(4, stride=2, padding=1) == Grid(1, 0), "upsampling undoes pooling"
    assert Grid(2, 0).cells_to(Grid(2, 6)) == 3
    assert Grid(2, 6).cells_to(Grid(2, 0)) == -3


@given(
    layers=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 1)), min_size=1, max_size=3),
    pick=st.integers(0, 99),
)
def test_a_grid_tells_the_middle_of_what_a_cell_sees(layers, pick):
    chain = [nn.Conv2d(1, 1, k, s, min(p, k // 2), bias=False) for k, s, p in layers]
    for layer in chain:
        nn.init.ones_(layer.weight)
    image = torch.ones(1, 1, 160, 160, requires_grad=True)
    out = nn.Sequential(*chain)(image)
    cell = out.shape[-1] // 2 - pick % 2  # far from the borders, where padding would hide part of what it sees
    out[0, 0, cell, cell].backward()
    seen = image.grad[0, 0].any(0).nonzero().flatten()
    grid = Grid().through(chain)
    assert (seen.min() + seen.max()).item() / 2 == grid.stride * cell + grid.offset
