"""Masks pasted into images: by grid_sample, by torchvision's loop, by hand, in bounded memory."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from seglib.ops import paste
from seglib.ops.paste import MaskGrids, paste_masks, paste_probs

SIZE = (40, 56)


def case(seed, n=5, side=28):
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=g) * 60 - 10
    boxes = torch.cat([corner, corner + 0.05 + 40 * torch.rand(n, 2, generator=g)], 1)
    return torch.rand(n, side, side, generator=g), boxes


def by_grid_sample(probs, boxes):
    y, x = torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5
    x = (x - boxes[:, :1]) / (boxes[:, 2:3] - boxes[:, :1]) * 2 - 1  # (N, W)
    y = (y - boxes[:, 1:2]) / (boxes[:, 3:4] - boxes[:, 1:2]) * 2 - 1  # (N, H)
    grid = torch.stack([x[:, None].expand(-1, SIZE[0], -1), y[..., None].expand(-1, -1, SIZE[1])], -1)
    return F.grid_sample(probs[:, None], grid, align_corners=False)[:, 0]


def test_equals_grid_sample():
    for seed in range(200):
        probs, boxes = case(seed)
        # float32: a box of a twentieth of a pixel stretches rounding of 1e-6 by 28 · 20
        torch.testing.assert_close(paste_probs(probs, boxes, SIZE), by_grid_sample(probs, boxes), rtol=0, atol=2e-3)


def test_the_rounded_way_equals_torchvision():
    for seed in range(200):
        probs, boxes = case(seed)
        boxes[:, 0::2].clamp_(0, SIZE[1]), boxes[:, 1::2].clamp_(0, SIZE[0])  # theirs fails on boxes outside
        want = paste_masks_in_image(probs[:, None], boxes, SIZE)[:, 0]
        torch.testing.assert_close(paste_probs(probs, boxes, SIZE, rounded=True), want, rtol=0, atol=1e-5)


def test_a_full_mask_fills_its_box():
    boxes = torch.tensor([[10.0, 5, 30, 25], [-8, -8, 8, 8], [50, 30, 70, 60]])
    masks = paste_masks(torch.ones(3, 28, 28), boxes, SIZE)
    want = torch.zeros(3, *SIZE, dtype=torch.bool)
    want[0, 5:25, 10:30] = want[1, :8, :8] = want[2, 30:, 50:] = True
    assert torch.equal(masks, want)


def test_thousands_of_masks_are_pasted_in_chunks(monkeypatch):
    sizes = []
    whole = paste.paste_probs
    monkeypatch.setattr(paste, "paste_probs", lambda p, *a, **k: sizes.append(len(p)) or whole(p, *a, **k))
    monkeypatch.setattr(paste, "CHUNK", 100 * SIZE[0] * SIZE[1])
    probs, boxes = case(0, n=1050, side=14)
    masks = paste_masks(probs, boxes, SIZE)
    assert sizes == [100] * 10 + [50]
    monkeypatch.setattr(paste, "CHUNK", 2**26)
    assert torch.equal(masks, paste_masks(probs, boxes, SIZE))


def test_a_pixel_whose_probability_is_the_threshold_belongs_to_the_object():
    box = torch.tensor([[2.0, 1, 6, 5]])
    assert paste_masks(torch.full((1, 4, 4), 0.5), box, (8, 8)).sum() == 16
    assert paste_masks(torch.full((1, 4, 4), 0.25), box, (8, 8), threshold=0.25).sum() == 16
    assert paste_masks(torch.full((1, 4, 4), 0.5), box, (8, 8), threshold=0.5001).sum() == 0


def test_gradients_reach_masks_and_boxes():
    probs, boxes = case(1, n=2, side=4)
    inputs = (probs.double().requires_grad_(), boxes.double().requires_grad_())
    assert gradcheck(lambda p, b: paste_probs(p, b, (12, 14)), inputs)


def test_nothing_and_boxes_without_area():
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), SIZE).shape == (0, *SIZE)
    flat = torch.tensor([[5.0, 5, 5, 20], [9, 9, 4, 4]])
    assert not paste_masks(torch.ones(2, 28, 28), flat, SIZE).any()


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"probability in \(0, 1\], got 0"):
        paste_masks(torch.ones(1, 28, 28), torch.zeros(1, 4), SIZE, threshold=0)
    with pytest.raises(ValueError, match=r"got \(2, 28, 28\) and \(1, 4\)"):
        paste_masks(torch.ones(2, 28, 28), torch.zeros(1, 4), SIZE)
    with pytest.raises(ValueError, match=r"got \(2, 28, 28\) and \(1, 4\)"):
        MaskGrids(torch.ones(2, 28, 28), torch.zeros(1, 4), SIZE)


@pytest.mark.parametrize("rounded", [True, False])
def test_grids_are_pasted_when_asked_for(rounded):
    probs, boxes = case(3)
    grids = MaskGrids(probs, boxes, SIZE, rounded=rounded, threshold=0.4)
    want = paste_masks(probs, boxes, SIZE, threshold=0.4, rounded=rounded)
    assert want.any() and torch.equal(grids.dense(), want)
    picked = grids[torch.tensor([3, 0])]
    assert len(picked) == 2 and picked.probs.shape == (2, 28, 28) and torch.equal(picked.dense(), want[[3, 0]])
    assert torch.equal(grids[1:3].dense(), want[1:3])
    assert grids._map(lambda t: t.to("meta")).dense().shape == (5, *SIZE)
