"""Boxes around bool masks."""

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from seglib.ops import masks as module
from seglib.ops.masks import crop_masks, mask_iou, masks_to_boxes, resize_masks


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


def test_overlap_of_masks_by_hand():
    masks = torch.zeros(4, 4, 6, dtype=torch.bool)
    masks[0, :, :4], masks[1, :, 2:], masks[2, 0, 0] = True, True, True
    iou = mask_iou(masks[:3], masks)
    assert iou[0].tolist() == [1, pytest.approx(8 / 24), 1 / 16, 0]
    assert iou[2].tolist() == [1 / 16, 0, 1, 0]
    assert mask_iou(masks[3:], masks[3:]).item() == 0  # two empty masks
    crowd = torch.tensor([False, True, False, False])
    assert mask_iou(masks[:1], masks, crowd)[0].tolist() == [1, 0.5, 1 / 16, 0]
    assert mask_iou(masks[:0], masks).shape == (0, 4)


def test_overlap_of_masks_equals_pixel_counting():
    masks = torch.rand(6, 9, 11, generator=torch.Generator().manual_seed(0)) > 0.5
    want = [[((a & b).sum() / (a | b).sum()).item() for b in masks] for a in masks]
    torch.testing.assert_close(mask_iou(masks, masks), torch.tensor(want))


@pytest.mark.parametrize("other", [torch.zeros(1, 4, 5, dtype=torch.bool), torch.zeros(1, 4, 6)])
def test_overlap_of_other_sizes_or_types_is_refused(other):
    with pytest.raises(ValueError, match="bring both to one size"):
        mask_iou(torch.zeros(1, 4, 6, dtype=torch.bool), other)


def test_cropping_keeps_pixels_whose_centre_is_inside():
    ones = torch.ones(2, 4, 5, requires_grad=True)
    boxes = torch.tensor([[1.4, 0.0, 3.6, 2.0], [-3.0, -3, 9, 9]])
    cut = crop_masks(ones, boxes)
    assert cut[0].tolist() == [[0, 1, 1, 1, 0]] * 2 + [[0] * 5] * 2
    assert cut[1].all()
    cut.sum().backward()
    assert torch.equal(ones.grad, cut)
    assert crop_masks(ones > 0, boxes).dtype == torch.bool
    assert torch.equal(crop_masks(ones > 0, boxes), cut > 0)
    assert crop_masks(ones[:0], boxes[:0]).shape == (0, 4, 5)


def test_cropping_by_index_looks_at_the_numbers_of_rows_and_columns():
    box = torch.tensor([[1.0, 1.5, 3.0, 3.2]])
    inside = crop_masks(torch.ones(1, 6, 6), box, by_index=True)[0]
    assert inside.any(0).nonzero()[:, 0].tolist() == [1, 2]  # 1 ≤ j < 3
    assert inside.any(1).nonzero()[:, 0].tolist() == [2, 3]  # 1.5 ≤ i < 3.2
    wider = crop_masks(torch.ones(1, 6, 6), box, padding=1.0, by_index=True)[0]
    assert wider.any(0).nonzero()[:, 0].tolist() == [0, 1, 2, 3]
    assert wider.any(1).nonzero()[:, 0].tolist() == [1, 2, 3, 4]
    centres = crop_masks(torch.ones(1, 6, 6), box, padding=1.0)[0]
    assert centres.any(1).nonzero()[:, 0].tolist() == [1, 2, 3]  # 0.5 < i + ½ < 4.2, and 0.5 is not inside


def test_overlap_of_large_masks_is_counted_in_parts(monkeypatch):
    g = torch.Generator().manual_seed(0)
    a, b = torch.rand(3, 13, 17, generator=g) < 0.4, torch.rand(2, 13, 17, generator=g) < 0.6
    whole = mask_iou(a, b)
    monkeypatch.setattr(module, "CHUNK", 5 * 50)
    assert torch.equal(mask_iou(a, b), whole)


def test_overlap_of_masks_with_themselves_is_that_with_a_copy():
    masks = torch.rand(5, 9, 11, generator=torch.Generator().manual_seed(0)) < 0.3
    masks[2] = False
    assert torch.equal(mask_iou(masks, masks), mask_iou(masks, masks.clone()))
    crowd = torch.tensor([True, False, True, False, False])
    assert torch.equal(mask_iou(masks, masks, crowd), mask_iou(masks, masks.clone(), crowd))


def test_resizing_reads_the_middle_of_each_cell():
    masks = torch.zeros(6, 4, 8, dtype=torch.bool)
    masks[0, 1, 1] = masks[0, 1, 2] = True  # two of the four pixels in the middle of the left cell: exactly ½
    masks[1, 1, 5] = True  # one in the middle of the right one
    masks[2, 0, :] = masks[2, 3, :] = True  # none in any middle
    masks[3, :, 2:6] = True  # the halves of both middles
    masks[4, :, 1:4] = True  # the whole of the left middle
    masks[5, :, 0] = True  # beside it
    more = [[0, 0], [0, 0], [0, 0], [0, 0], [1, 0], [0, 0]]
    assert resize_masks(masks, (1, 2))[:, 0].int().tolist() == more
    at_least = [[1, 0], [0, 0], [0, 0], [1, 1], [1, 0], [0, 0]]
    assert resize_masks(masks, (1, 2), half_inside=True)[:, 0].int().tolist() == at_least
    assert resize_masks(masks[:0], (1, 2)).shape == (0, 1, 2)
    assert torch.equal(resize_masks(masks, (4, 8)), masks)


@pytest.mark.parametrize("half_inside", [False, True])
def test_masks_are_resized_at_the_top_left_of_their_canvas(half_inside):
    found = resize_masks(torch.ones(1, 5, 9, dtype=torch.bool), (4, 8), canvas=(8, 16), half_inside=half_inside)
    edge = half_inside  # the last row and column fill half a cell, and a quarter of the cell in which they meet
    rows = [[True] * 4 + [edge] + [False] * 3] * 2 + [[edge] * 4 + [False] * 4, [False] * 8]
    assert found[0].tolist() == rows
    same_size = resize_masks(torch.ones(1, 4, 8, dtype=torch.bool), (4, 8), canvas=(8, 16))
    assert same_size[0, :2, :4].all() and same_size.sum() == 8  # a canvas twice as large: it is resized


def test_many_masks_are_resized_in_parts(monkeypatch):
    masks = torch.rand(7, 12, 16, generator=torch.Generator().manual_seed(0)) > 0.5
    whole = resize_masks(masks, (6, 8))
    monkeypatch.setattr(module, "CHUNK", 2 * 12 * 16)
    assert torch.equal(resize_masks(masks, (6, 8)), whole) and whole.any()


def test_masks_that_need_other_boxes_are_refused_and_boxes_are_not_repeated():
    for boxes in (torch.zeros(1, 4), torch.zeros(4), torch.zeros(3, 2)):
        with pytest.raises(ValueError, match=r"masks \(N, H, W\) need boxes \(N, 4\), got \(3, 4, 5\)"):
            crop_masks(torch.ones(3, 4, 5), boxes)
    masks = torch.ones(3, 4, 5, dtype=torch.bool)
    for crowd in (torch.zeros(1, dtype=torch.bool), torch.zeros(3)):
        with pytest.raises(ValueError, match="3 masks need iscrowd bool"):
            mask_iou(masks, masks, crowd)
