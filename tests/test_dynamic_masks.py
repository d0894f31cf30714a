"""Masks that stay filters: the steps to the output's size, packing, bounded work."""

import pickle

import pytest
import torch
from torch.nn import functional as F

from seglib.ops import dynamic_masks
from seglib.ops.dynamic_masks import DynamicMasks
from seglib.ops.resize import aligned_bilinear
from seglib.types import Instances


def smooth(*shape):
    """Maps without a pixel near the threshold by chance alone: a coarse random field, made fine."""
    coarse = torch.randn(*shape[:-2], 3, 3, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse[None], shape[-2:], mode="bicubic", align_corners=False)[0]


def prototypes(n=4, **keywords):
    g = torch.Generator().manual_seed(1)
    defaults = dict(channels=(6, 1), canvas=(32, 40), image_size=(32, 40), size=(32, 40))
    return DynamicMasks(smooth(6, 8, 10), torch.randn(n, 6, generator=g), **(defaults | keywords))


def test_a_map_that_covers_the_image_is_resized_in_one_step():
    masks = prototypes(size=(50, 31))
    probs = torch.einsum("nk,khw->nhw", masks.parameters, masks.features).sigmoid()
    torch.testing.assert_close(masks.probs(), probs)
    want = F.interpolate(probs[None], (50, 31), mode="bilinear", align_corners=False)[0] > 0.5
    assert torch.equal(masks.dense(), want) and 0 < want.float().mean() < 1


def test_maps_may_pass_the_canvas_on_their_way():
    masks = prototypes(size=(50, 31), upsample="canvas")
    pixels = F.interpolate(masks.probs()[None], (32, 40), mode="bilinear", align_corners=False)
    want = F.interpolate(pixels, (50, 31), mode="bilinear", align_corners=False)[0] > 0.5
    assert torch.equal(masks.dense(), want)
    assert not torch.equal(masks.dense(), prototypes(size=(50, 31)).dense())


def test_padding_is_cut_off_before_the_last_resize():
    masks = prototypes(image_size=(27, 33), size=(54, 99))
    full = F.interpolate(masks.probs()[None], (32, 40), mode="bilinear", align_corners=False)
    want = F.interpolate(full[..., :27, :33], (54, 99), mode="bilinear", align_corners=False)[0] > 0.5
    assert torch.equal(masks.dense(), want)
    stretched = F.interpolate(masks.probs()[None], (54, 99), mode="bilinear", align_corners=False)[0] > 0.5
    assert not torch.equal(stretched, want)  # as if the padding were image


def test_aligned_masks_go_up_with_their_cells_in_place():
    masks = prototypes(logit_factor=2, upsample="aligned", image_size=(30, 40), size=(30, 40))
    logits = torch.einsum("nk,khw->nhw", masks.parameters, masks.features)[None]
    probs = aligned_bilinear(logits, 2).sigmoid()  # (1, N, 16, 20)
    torch.testing.assert_close(masks.probs(), probs[0])
    assert torch.equal(masks.dense(), aligned_bilinear(probs, 2)[0, :, :30] > 0.5)


def test_boxes_cut_the_map_before_it_grows():
    box = torch.tensor([[2.0, 1.5, 6.0, 4.5]]).expand(4, 4)
    masks = prototypes(boxes=box, padding=1.0, threshold=0.0)
    rows, columns = masks.probs()[0].nonzero().unbind(1)
    assert (rows.min(), rows.max()) == (1, 5)  # 0.5 ≤ i < 5.5
    assert (columns.min(), columns.max()) == (1, 6)  # 1 ≤ j < 7


def test_coordinates_of_each_object_move_its_mask():
    # one filter that looks for |x| < 2, as 2 − relu(x) − relu(−x): the same parameters at two places
    parameters = torch.tensor([[1.0, 0, 0, -1, 0, 0, -1, -1, 0, 0, 2]]).expand(2, -1)
    column = torch.arange(10.0)
    x = torch.stack([3.0 - column, 7.0 - column])
    masks = DynamicMasks(
        torch.zeros(1, 8, 10), parameters, (3, 2, 1), (8, 10), (8, 10), (8, 10), bias=True, x=x, y=torch.zeros(2, 8)
    )
    seen = [m.any(0).nonzero()[:, 0].tolist() for m in masks.dense()]
    assert seen == [[2, 3, 4], [6, 7, 8]]
    assert torch.equal(masks[1:].dense(), masks.dense()[1:])


def test_picking_and_moving_leave_masks_packed():
    masks = prototypes(boxes=torch.tensor([[0.0, 0, 9, 9]]).expand(4, 4))
    found = Instances(masks, torch.arange(4), torch.zeros(4, 4), torch.ones(4))
    some = found[torch.tensor([True, False, True, False])].to("cpu")
    assert isinstance(some.packed, DynamicMasks) and len(some.packed) == 2 and some.size == (32, 40)
    assert torch.equal(some.masks, found.masks[[0, 2]])
    assert some.packed is None  # the first look has unpacked them
    again = pickle.loads(pickle.dumps(found))
    assert torch.equal(again.masks, found.masks)
    meta = masks._map(lambda tensor: tensor.to("meta"))
    assert meta.features.is_meta and meta.parameters.is_meta and meta.boxes.is_meta


def test_no_masks():
    assert prototypes(0).dense().shape == (0, 32, 40)


def test_masks_are_drawn_a_few_at_a_time(monkeypatch):
    drawn = []
    draw = DynamicMasks._draw
    monkeypatch.setattr(DynamicMasks, "_draw", lambda masks: drawn.append(len(masks)) or draw(masks))
    masks = prototypes(5, size=(64, 80))
    want = masks.dense()
    assert drawn == [5]
    monkeypatch.setattr(dynamic_masks, "CHUNK", 2 * 64 * 80)
    assert torch.equal(masks.dense(), want) and drawn == [5, 2, 2, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(threshold=1.0), r"probability in \[0, 1\), got 1.0"),
        (dict(upsample="nearest"), "choose one of direct, canvas, aligned"),
        (dict(channels=(6, 2)), "filters that end in 1 channel"),
        (dict(channels=(7, 1)), r"need parameters \(N, 7\)"),
        (dict(boxes=torch.zeros(3, 4)), r"4 masks need as many boxes \(N, 4\), got \(3, 4\)"),
        (dict(upsample="aligned", canvas=(33, 40)), r"whole cells, got \(33, 40\)"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        prototypes(**change)
