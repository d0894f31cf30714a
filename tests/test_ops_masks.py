"""Boxes around bool masks."""

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from seglib.ops.masks import masks_to_boxes


def test_a_box_covers_whole_pixels():
    masks = torch.zeros(3, 4, 5, dtype=torch.bool)
    masks[0, 1, 2] = True  # one pixel
    masks[1, 0, 4] = masks[1, 3, 1] = True  # two far corners
    masks[2] = True
    assert masks_to_boxes(masks).tolist() == [[2, 1, 3, 2], [1, 0, 5, 4], [0, 0, 5, 4]]


def test_an_empty_mask_has_a_box_of_zeros():
    assert masks_to_boxes(torch.zeros(1, 4, 5, dtype=torch.bool)).tolist() == [[0, 0, 0, 0]]


def test_no_masks_have_no_boxes():
    assert masks_to_boxes(torch.zeros(0, 4, 5, dtype=torch.bool)).shape == (0, 4)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 4), height=st.integers(1, 9), width=st.integers(1, 9))
def test_boxes_are_those_of_torchvision_with_the_last_pixel_included(seed, n, height, width):
    masks = torch.rand(n, height, width, generator=torch.Generator().manual_seed(seed)) < 0.2
    masks = masks[masks.flatten(1).any(1)]
    expected = torchvision.ops.masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
    assert torch.equal(masks_to_boxes(masks), expected)


def test_masks_in_any_memory_order_will_do():
    masks = torch.rand(2, 6, 7, generator=torch.Generator().manual_seed(0)) < 0.1
    assert torch.equal(masks_to_boxes(masks.mT.contiguous().mT), masks_to_boxes(masks))


@pytest.mark.parametrize("masks", [torch.zeros(4, 5, dtype=torch.bool), torch.zeros(1, 4, 5)])
def test_other_shapes_and_types_are_refused(masks):
    with pytest.raises(ValueError, match=r"bool \(N, H, W\)"):
        masks_to_boxes(masks)
