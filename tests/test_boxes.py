"""Boxes: overlaps, deltas, clipping; against torchvision and by hand."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torchvision import ops as tv

from seglib.ops.boxes import (
    LARGEST_LOG_RATIO,
    box_area,
    box_iou,
    check_boxes,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    generalized_box_iou,
)


def some_boxes(n, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    corner = 100 * torch.rand(n, 2, generator=g, dtype=dtype)
    return torch.cat([corner, corner + 1 + 60 * torch.rand(n, 2, generator=g, dtype=dtype)], 1)


def test_iou_by_hand():
    a = torch.tensor([[0.0, 0, 4, 4]])
    b = torch.tensor([[0.0, 0, 4, 4], [2, 2, 6, 6], [4, 0, 8, 4], [1, 1, 2, 2], [3, 3, 3, 3]])
    assert box_iou(a, b).tolist() == [[1.0, pytest.approx(4 / 28), 0.0, 1 / 16, 0.0]]
    assert generalized_box_iou(a, b[1:3]).tolist() == [pytest.approx(4 / 28 - 8 / 36), 0.0]


@pytest.mark.parametrize("seed", range(20))
def test_overlaps_equal_torchvision(seed):
    a, b = some_boxes(60, seed), some_boxes(50, seed + 100)  # 60,000 pairs in all
    torch.testing.assert_close(box_iou(a, b), tv.box_iou(a, b), rtol=1e-12, atol=1e-12)
    giou = generalized_box_iou(a[:, None], b[None])
    torch.testing.assert_close(giou, tv.generalized_box_iou(a, b), rtol=1e-12, atol=1e-12)
    assert giou.min() < -0.5 and (giou >= -1).all() and (giou <= 1).all()
    torch.testing.assert_close(box_iou(torch.stack([a, a]), torch.stack([b, b]))[1], box_iou(a, b))


def test_boxes_without_area_overlap_nothing_and_have_no_nan_in_the_gradient():
    a = torch.tensor([[1.0, 1, 1, 1], [3, 3, 2, 2]], requires_grad=True)
    assert box_area(a).tolist() == [0, 0]
    iou = box_iou(a, a)
    assert not iou.any()
    (iou.sum() + generalized_box_iou(a, a).sum()).backward()
    assert torch.isfinite(a.grad).all()


def test_gradients():
    a, b = some_boxes(5, 1).requires_grad_(), some_boxes(5, 2).requires_grad_()
    assert gradcheck(box_iou, (a, b))
    assert gradcheck(generalized_box_iou, (a, b))
    assert gradcheck(lambda x, y: decode_boxes(encode_boxes(x, y), y * 1.1), (a, b))


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (10, 10, 5, 5)])
def test_decoding_undoes_encoding_and_equals_torchvision(weights):
    boxes, anchors = some_boxes(2000, 3), some_boxes(2000, 4)
    coder = tv_coder(weights)
    deltas = encode_boxes(boxes, anchors, weights)
    torch.testing.assert_close(deltas, coder.encode_single(boxes, anchors), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(decode_boxes(deltas, anchors, weights), boxes, rtol=1e-10, atol=1e-10)
    wild = 3 * torch.randn(2000, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * max(weights)
    want = coder.decode_single(wild, anchors)
    torch.testing.assert_close(decode_boxes(wild, anchors, weights), want, rtol=1e-10, atol=1e-8)


def tv_coder(weights):
    from torchvision.models.detection._utils import BoxCoder

    return BoxCoder(tuple(float(w) for w in weights))


def test_deltas_by_hand():
    anchor = torch.tensor([[0.0, 0, 10, 20]])
    box = torch.tensor([[5.0, 0, 15, 40]])  # half a width to the right, half a height down, twice as high
    assert encode_boxes(box, anchor).tolist() == [[0.5, 0.5, 0.0, pytest.approx(math.log(2))]]
    assert encode_boxes(box, anchor, (10, 10, 5, 5)).tolist() == [[5, 5, 0, pytest.approx(5 * math.log(2))]]


def test_growth_is_clamped():
    box = decode_boxes(torch.tensor([[0.0, 0, 100, 1]]), torch.tensor([[0.0, 0, 16, 16]]))
    assert (box[0, 2] - box[0, 0]).item() == pytest.approx(1000)
    assert (box[0, 3] - box[0, 1]).item() == pytest.approx(16 * math.e)
    assert pytest.approx(math.log(62.5)) == LARGEST_LOG_RATIO


def test_half_precision_is_decoded_in_float32():
    anchor = torch.tensor([[500.0, 500, 533, 533]])
    out = decode_boxes(torch.zeros(1, 4, dtype=torch.bfloat16), anchor)
    assert out.dtype == torch.float32
    assert torch.equal(out, anchor)


def test_clipping():
    boxes = torch.tensor([[-5.0, -5, 5, 5], [90, 40, 130, 70], [120, 60, 140, 80]])
    assert clip_boxes(boxes, (50, 100)).tolist() == [[0, 0, 5, 5], [90, 40, 100, 50], [100, 50, 100, 50]]
    a = some_boxes(500, 6)
    assert torch.equal(clip_boxes(a, (70, 90)), tv.clip_boxes_to_image(a, (70, 90)))


def test_boxes_without_area_have_no_overlap_and_no_gradient():
    line = torch.tensor([[3.0, 3, 8, 3]], requires_grad=True)  # five pixels wide and none high
    iou, giou = box_iou(line, line), generalized_box_iou(line, line)
    assert (iou.item(), giou.item()) == (0, 0)  # 0 / 0 in both
    (gradient,) = torch.autograd.grad(iou.sum() + giou.sum(), line)
    assert gradient.tolist() == [[0, 0, 0, 0]]


def test_boxes_of_a_batch_are_clipped_at_the_size_of_their_own_image():
    boxes = torch.tensor([-5.0, -5, 200, 200]).expand(2, 3, 4)
    sizes = torch.tensor([[50, 100], [70, 30]])  # height, width
    clipped = clip_boxes(boxes, sizes)
    assert clipped.tolist() == [[[0, 0, 100, 50]] * 3, [[0, 0, 30, 70]] * 3]


def test_no_boxes():
    none = torch.zeros(0, 4)
    assert box_iou(none, some_boxes(3, dtype=torch.float32)).shape == (0, 3)
    assert box_iou(some_boxes(3, dtype=torch.float32), none).shape == (3, 0)
    assert generalized_box_iou(none, none).shape == (0,)
    assert encode_boxes(none, none).shape == decode_boxes(none, none).shape == clip_boxes(none, (5, 5)).shape == (0, 4)
    check_boxes(none)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[0, 0, 1, 1], [1, 2, float("nan"), 4]], r"truth\[1\] is \[1.0, 2.0, nan, 4.0\], which isn't finite"),
        ([[0, 0, 1, 1], [5, 5, 5, 9]], r"truth\[1\] is \[5.0, 5.0, 5.0, 9.0\], without width or height"),
        ([[0, 4, 3, 2]], "without width or height.*convert boxes that are x, y, width, height"),
        ([[0, 0, float("inf"), 1]], "isn't finite"),
    ],
)
def test_bad_boxes_are_named(boxes, message):
    with pytest.raises(ValueError, match=message):
        check_boxes(torch.tensor(boxes, dtype=torch.float32), "truth")


def test_boxes_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"must be floats \(N, 4\) xyxy, got torch.float32 \(3, 5\)"):
        check_boxes(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="torch.int64"):
        check_boxes(torch.zeros(3, 4, dtype=torch.int64))
