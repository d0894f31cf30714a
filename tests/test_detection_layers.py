"""The parts of a two-stage detector, each alone: frozen norms, pyramid, anchors, RPN, heads."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from seglib.layers.anchors import Anchors, cell_anchors
from seglib.layers.frozen import FoldedConv2d, FrozenNorm
from seglib.layers.resnet import resnet_encoder
from seglib.layers.roi_heads import BoxHead, MaskHead
from seglib.layers.rpn import RPNHead, propose


def stirred(module):
    g = torch.Generator().manual_seed(0)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.weight.data.uniform_(0.5, 1.5, generator=g)
            m.bias.data.normal_(generator=g)
            m.running_mean.normal_(generator=g)
            m.running_var.uniform_(0.5, 2.0, generator=g)
    return module.eval()


def test_a_folded_convolution_equals_convolution_and_norm_with_gradients():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False).double()
    norm = stirred(nn.BatchNorm2d(6).double())
    folded = FoldedConv2d(copy.deepcopy(conv), norm)
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64, requires_grad=True)
    want, out = norm(conv(x)), folded(x)
    torch.testing.assert_close(out, want, rtol=1e-12, atol=1e-12)
    g = torch.randn_like(want)
    inputs, kernels = zip(
        *(torch.autograd.grad(y, (x, w), g) for y, w in ((want, conv.weight), (out, folded.weight))), strict=True
    )
    torch.testing.assert_close(*inputs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*kernels, rtol=1e-10, atol=1e-10)
    assert [n for n, p in folded.named_parameters()] == ["weight"]  # the norm learns nothing


def test_a_frozen_resnet_equals_its_norms_in_evaluation_and_stays_so_in_training():
    torch.manual_seed(0)
    plain = stirred(resnet_encoder("resnet50"))
    frozen = resnet_encoder("resnet50", frozen_norm=True)
    state = {k: v for k, v in plain.state_dict().items() if "num_batches" not in k}
    frozen.load_state_dict({renamed(k): v for k, v in state.items()})
    x = torch.randn(1, 3, 65, 70)
    with torch.no_grad():
        for level, want in plain(x).items():
            scale = want.abs().max()
            torch.testing.assert_close(frozen.eval()(x)[level] / scale, want / scale, rtol=0, atol=1e-5)
        assert torch.equal(frozen.train()(x)["c5"], frozen.eval()(x)["c5"])
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen.modules())
    assert sum(isinstance(m, FrozenNorm) for m in frozen.modules()) == 53


def renamed(key):
    for i in "123":
        key = key.replace(f"bn{i}.", f"conv{i}.norm.")
    return key.replace("downsample.1.", "downsample.0.norm.")


def test_strides_in_the_first_convolution_keep_the_grid():
    a, b = resnet_encoder("resnet50"), resnet_encoder("resnet50", stride_in_1x1=True)
    assert b.layer2[0].conv1.stride == (2, 2) and b.layer2[0].conv2.stride == (1, 1)
    assert a.grids == b.grids and a.channels == b.channels
    x = torch.randn(1, 3, 64, 64)
    assert [v.shape for v in a.eval()(x).values()] == [v.shape for v in b.eval()(x).values()]


def test_the_anchors_of_a_cell_by_hand():
    want = [[-8, -4, 8, 4], [-16, -8, 16, 8], [-4, -8, 4, 8], [-8, -16, 8, 16]]
    side = 128**0.5  # area 128 = 16 · 8
    torch.testing.assert_close(cell_anchors((side, 2 * side), (0.5, 2.0)), torch.tensor(want, dtype=torch.float32))
    assert (
        cell_anchors((10,), (0.5,)).tolist() != cell_anchors((10,), (0.5,), rounded=True).tolist() == [[-7, -4, 7, 4]]
    )


@pytest.mark.parametrize("size", [(128, 192), (96, 160)])  # the second makes torchvision's coarsest stride uneven
def test_rounded_anchors_equal_torchvision(size):
    shapes = [(-(-size[0] // s), -(-size[1] // s)) for s in (4, 8, 16, 32, 64)]
    maps = [torch.zeros(1, 1, *s) for s in shapes]
    theirs = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    want = theirs(ImageList(torch.zeros(1, 3, *size), [size]), maps)[0]
    assert torch.equal(torch.cat(Anchors(rounded=True)(shapes)), want)


def test_an_offset_of_half_a_cell_centres_anchors_on_their_cells():
    anchors = Anchors(sizes=((8,),), ratios=(1.0,), strides=(4,), offset=0.5)([(2, 3)])[0]
    assert ((anchors[:, :2] + anchors[:, 2:]) / 2).tolist() == [[2, 2], [6, 2], [10, 2], [2, 6], [6, 6], [10, 6]]


@pytest.mark.parametrize(
    "wrong",
    [{"sizes": ((8,), (16,))}, {"ratios": ()}, {"ratios": (0.0,)}, {"sizes": ((8,), (16, 32)), "strides": (4, 8)}],
)
def test_bad_anchors_are_refused(wrong):
    with pytest.raises(ValueError, match="anchors need"):
        Anchors(**wrong)


def test_rpn_outputs_lie_in_the_order_of_the_anchors():
    head = RPNHead(5, 3)
    pyramid = [torch.randn(2, 5, 4, 6), torch.randn(2, 5, 2, 3)]
    logits, deltas = head(pyramid)
    assert [x.shape for x in logits] == [(2, 72), (2, 18)] and [x.shape for x in deltas] == [(2, 72, 4), (2, 18, 4)]
    x = head.conv(pyramid[0])
    for anchor, row, column in ((0, 0, 0), (2, 1, 3), (1, 3, 5)):
        i = (row * 6 + column) * 3 + anchor
        torch.testing.assert_close(logits[0][:, i], head.objectness(x)[:, anchor, row, column])
        torch.testing.assert_close(deltas[0][:, i], head.deltas(x)[:, 4 * anchor : 4 * anchor + 4, row, column])


def test_proposals_by_hand():
    anchors = [torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 60, 60], [-20, -20, -5, -5]])]
    logits = [torch.tensor([[1.0, 2.0, 0.5, 9.0]])]
    boxes, scores = propose(logits, [torch.zeros(1, 4, 4)], anchors, (40, 50), post_nms_top_k=3)
    # box 0 is suppressed by box 1, the last lies outside the image, box 2 is cut at its border
    assert boxes[0].tolist() == [[1, 0, 11, 10], [30, 30, 50, 40], [0, 0, 0, 0]]
    assert scores[0].tolist() == [2.0, 0.5, -float("inf")]
    boxes, scores = propose(logits, [torch.zeros(1, 4, 4)], anchors, (40, 50), pre_nms_top_k=2, post_nms_top_k=3)
    assert boxes[0, 0].tolist() == [1, 0, 11, 10] and scores[0, 1] == -float("inf")


def test_each_image_of_a_batch_has_its_own_borders():
    anchors = [torch.tensor([[0.0, 0, 10, 10], [30, 30, 60, 60]])]
    logits, deltas = [torch.tensor([[2.0, 1.0]] * 2)], [torch.zeros(2, 2, 4)]
    boxes, scores = propose(logits, deltas, anchors, torch.tensor([[40, 50], [8, 20]]))
    assert boxes.tolist() == [[[0, 0, 10, 10], [30, 30, 50, 40]], [[0, 0, 10, 8], [0, 0, 0, 0]]]
    assert scores.tolist() == [[2, 1], [2, -float("inf")]]


def test_levels_and_images_do_not_suppress_each_other_and_bad_deltas_are_dropped():
    anchors = [torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 0, 10, 10]])]
    logits = [torch.tensor([[1.0], [1.0]]), torch.tensor([[2.0], [2.0]])]
    deltas = [torch.zeros(2, 1, 4), torch.zeros(2, 1, 4)]
    _, scores = propose(logits, deltas, anchors, (40, 50))
    assert scores.tolist() == [[2, 1], [2, 1]]
    deltas[1][1] = float("nan")
    boxes, scores = propose(logits, deltas, anchors, (40, 50))
    assert scores.tolist() == [[2, 1], [1, -float("inf")]] and torch.isfinite(boxes).all()


def test_the_box_head_flattens_patches_channel_by_channel_as_published_weights_do():
    torch.manual_seed(0)
    head = BoxHead(3, 5, size=2, hidden=8, depth=1)
    patches = torch.randn(4, 3, 2, 2)
    x = torch.stack([torch.cat([cells.flatten() for cells in patch]) for patch in patches])  # (4, 12)
    x = torch.relu(x @ head.fc[0].weight.T + head.fc[0].bias)
    logits, deltas = head(patches.contiguous(memory_format=torch.channels_last))  # as RoIAlign leaves them in memory
    torch.testing.assert_close(logits, head.logits(x))
    torch.testing.assert_close(deltas.flatten(1), head.deltas(x))
    assert logits.shape == (4, 6) and deltas.shape == (4, 5, 4)
    assert BoxHead(3, 5, size=2, class_agnostic=True)(patches)[1].shape == (4, 1, 4)
    assert [x.shape for x in head(patches[:0])] == [(0, 6), (0, 5, 4)]


def test_the_fast_path_of_the_mask_head_equals_the_plain_one_with_gradients():
    torch.manual_seed(0)
    head = MaskHead(3, 5, hidden=8, depth=2).double()
    patches = torch.randn(4, 3, 7, 7, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 4, 2, 2])
    every, plain, fast = head(patches), head(patches, labels, impl="reference"), head(patches, labels)
    assert every.shape == (4, 5, 14, 14)
    assert torch.equal(plain, every[torch.arange(4), labels])
    torch.testing.assert_close(fast, plain)
    parameters = [patches, *head.parameters()]
    g = torch.randn_like(fast)
    want = torch.autograd.grad((plain * g).sum(), parameters)
    for a, b in zip(torch.autograd.grad((fast * g).sum(), parameters), want, strict=True):
        torch.testing.assert_close(a, b)
    assert not want[-1][[1, 3]].any()  # the classes that nobody is learn nothing
    assert head(patches[:0], labels[:0]).shape == head(patches[:0], labels[:0], impl="reference").shape == (0, 14, 14)
    with pytest.raises(ValueError, match="impl 'sliced' is unknown; choose one of fast, reference"):
        head(patches, labels, impl="sliced")
