"""RoI Pooling and RoIAlign: three paths, one result, and torchvision's."""

import pytest
import torch
from torch.autograd import gradcheck
from torchvision.ops import MultiScaleRoIAlign

from seglib.ops.roi import bilinear_sample, roi_align, roi_levels, roi_pool


def case(seed, rois=6, channels=2):
    """Maps and boxes, some of which reach beyond the image or are smaller than a cell."""
    g = torch.Generator().manual_seed(seed)
    height, width = (int(torch.randint(3, 14, (), generator=g)) for _ in range(2))
    features = torch.randn(2, channels, height, width, generator=g, dtype=torch.float64)
    corner = torch.rand(rois, 2, generator=g, dtype=torch.float64) * 70 - 12
    side = (
        torch.rand(rois, 2, generator=g, dtype=torch.float64)
        * torch.tensor([2.0, 60.0])[torch.randint(2, (rois, 1), generator=g)]
    )
    return features.requires_grad_(), torch.cat([corner, corner + side], 1), torch.randint(2, (rois,), generator=g)


def gradient(out, features):
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return torch.autograd.grad((out * weights).sum() + 0 * features.sum(), features)[0]


def assert_paths_agree(op, impls, features, boxes, images, **settings):
    want = op(features, boxes, images, 3, strides=4.0, impl="torchvision", **settings)
    for impl in impls:
        out = op(features, boxes, images, 3, strides=4.0, impl=impl, **settings)
        # float64: what is left is the order of the sums
        torch.testing.assert_close(out, want, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(gradient(out, features), gradient(want, features), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
def test_align_equals_torchvision_on_random_boxes(aligned, ratio):
    for seed in range(50):  # 300 boxes for each of the 8 settings
        assert_paths_agree(roi_align, ["torch"], *case(seed), sampling_ratio=ratio, aligned=aligned)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_the_loops_of_align_equal_torchvision(aligned, ratio):
    for seed in range(5):
        assert_paths_agree(roi_align, ["reference"], *case(seed), sampling_ratio=ratio, aligned=aligned)


def test_pool_equals_torchvision_on_random_boxes():
    for seed in range(150):  # 900 boxes
        assert_paths_agree(roi_pool, ["torch"], *case(seed))
    for seed in range(15):
        assert_paths_agree(roi_pool, ["reference"], *case(seed))


def test_a_bilinear_sample_by_hand():
    values = torch.tensor([[[0.0, 10.0], [20.0, 30.0]]])
    at = lambda y, x: bilinear_sample(values, torch.tensor(y), torch.tensor(x)).item()  # noqa: E731
    assert at(0.0, 0.0) == 0 and at(1.0, 1.0) == 30
    assert at(0.25, 0.5) == 10  # 0.75 · 5 + 0.25 · 25
    assert at(-0.9, 0.0) == 0 and at(1.9, 1.0) == 30  # the border's value, up to one cell outside
    assert at(-1.1, 0.0) == at(0.0, 2.1) == 0


def test_align_moves_smoothly_where_pool_jumps():
    ramp = torch.arange(16.0).expand(1, 1, 16, 16).contiguous()  # the value is the column
    for shift in (0.0, 0.3, 0.6, 0.9):
        box = torch.tensor([[16.0 + shift, 16, 48 + shift, 48]])
        aligned = roi_align(ramp, box, torch.tensor([0]), 2, strides=4.0)
        assert aligned[0, 0, 0, 0].item() == pytest.approx(5.5 + shift / 4)  # bin centre 6 cells, minus the half
    pooled = [
        roi_pool(ramp, torch.tensor([[16.0 + s, 16, 48 + s, 48]]), torch.tensor([0]), 2, strides=4.0)[0, 0, 0, 0].item()
        for s in (0.0, 1.0, 1.9, 2.1)
    ]
    assert pooled[0] == pooled[1] == pooled[2] == pooled[3] - 1


@pytest.mark.parametrize("impl", ["torch", "reference"])
def test_gradients_also_reach_the_boxes(impl):
    features, boxes, images = case(3, rois=2, channels=1)
    boxes = torch.tensor([[5.3, 3.1, 20.7, 18.2], [1.2, 6.6, 9.1, 30.3]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda f, b: roi_align(f, b, images, 2, strides=4.0, impl=impl), (features, boxes))


@pytest.mark.parametrize("impl", ["torch", "torchvision", "auto"])
def test_several_levels_equal_torchvision(impl):
    g = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 3, 64 // 2**i, 96 // 2**i, generator=g) for i in range(4)]
    corner = torch.rand(40, 2, generator=g) * torch.tensor([250.0, 150])
    sides = torch.tensor([30.0, 150, 300, 500]).repeat(10)[:, None] * (0.8 + 0.4 * torch.rand(40, 2, generator=g))
    boxes = torch.cat([corner, corner + sides], 1)
    images = torch.arange(40) // 20
    levels = roi_levels(boxes, 4)
    assert levels.unique().tolist() == [0, 1, 2, 3]
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    sizes = [(256, 384)] * 2
    want = theirs({str(i): m for i, m in enumerate(maps)}, [boxes[:20], boxes[20:]], sizes)
    out = roi_align(maps, boxes, images, 7, strides=(4, 8, 16, 32), levels=levels, aligned=False, impl=impl)
    torch.testing.assert_close(out, want, rtol=1e-4, atol=1e-4)  # float32: positions are rounded differently


@pytest.mark.parametrize(
    ("op", "impl"), [(roi_align, "torch"), (roi_align, "torchvision"), (roi_pool, "torch"), (roi_pool, "torchvision")]
)
def test_half_precision_features_keep_boxes_exact(op, impl):
    ramp = torch.arange(128.0).expand(1, 1, 128, 128).contiguous()  # exact in bf16 too
    box, image = torch.tensor([[401.0, 401, 409, 409]]), torch.tensor([0])  # bf16 would round 401 to 400
    want = op(ramp, box, image, 1, strides=4.0, impl=impl)
    out = op(ramp.bfloat16(), box, image, 1, strides=4.0, impl=impl)
    assert out.dtype == torch.bfloat16 and torch.equal(out, want.bfloat16())


def test_levels_by_hand():
    sides = torch.tensor([10.0, 111, 112, 223, 224, 447, 448, 5000, 0])
    boxes = torch.stack([0 * sides, 0 * sides, sides, sides], 1)
    assert roi_levels(boxes, 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0]
    assert roi_levels(boxes, 4, canonical_size=112).tolist() == [0, 1, 2, 2, 3, 3, 3, 3, 0]


def test_a_pyramid_may_begin_at_another_level():
    sides = torch.tensor([100.0, 223, 224, 448, 5000])  # at P2, P3, P4, P5 and P8 by the formula
    boxes = torch.stack([0 * sides, 0 * sides, sides, sides], 1)
    assert roi_levels(boxes, 3, lowest=3).tolist() == [0, 0, 1, 2, 2]  # P3, P4 and P5


@pytest.mark.parametrize("impl", ["auto", "torch", "torchvision", "reference"])
def test_no_boxes(impl):
    features = torch.randn(2, 5, 8, 8, requires_grad=True)
    none, images = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    for ratio in (0, 2):
        out = roi_align(features, none, images, 7, strides=4.0, sampling_ratio=ratio, impl=impl)
        assert out.shape == (0, 5, 7, 7)
    assert roi_pool(features, none, images, 7, strides=4.0, impl=impl).shape == (0, 5, 7, 7)
    maps = [features, features[..., ::2, ::2]]
    assert roi_align(maps, none, images, 7, strides=(4, 8), levels=images, impl=impl).shape == (0, 5, 7, 7)


def test_bad_arguments():
    features, boxes, images = torch.zeros(1, 2, 8, 8), torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"got \(3, 4\) and \(2,\)"):
        roi_align(features, boxes, images[:2], 7, strides=4.0)
    with pytest.raises(ValueError, match="as many strides above 0"):
        roi_align(features, boxes, images, 7, strides=(4, 8))
    with pytest.raises(ValueError, match="see roi_levels"):
        roi_align([features, features], boxes, images, 7, strides=(4, 8))
    with pytest.raises(ValueError, match="one B and C"):
        roi_align([features, features[:, :1]], boxes, images, 7, strides=(4, 8), levels=images)
    with pytest.raises(ValueError, match="sampling_ratio is at least 0"):
        roi_align(features, boxes, images, 7, strides=4.0, sampling_ratio=-1)
    with pytest.raises(ValueError, match="output_size is at least 1"):
        roi_pool(features, boxes, images, 0, strides=4.0)
    with pytest.raises(ValueError, match="impl 'cuda' is unknown"):
        roi_pool(features, boxes, images, 7, strides=4.0, impl="cuda")
