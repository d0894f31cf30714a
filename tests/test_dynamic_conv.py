"""Convolutions whose filters are data: by hand, one by one against all at once, gradients, precision, errors."""

import pytest
import torch
from golden import Golden
from torch.nn import functional as F

from seglib.ops import dynamic_conv as module
from seglib.ops.dynamic_conv import dynamic_conv, filter_count
from seglib.ops.resize import aligned_bilinear

IMPLS = ["grouped", "reference"]
every_impl = pytest.mark.parametrize("impl", IMPLS)
CONDINST = (10, 8, 8, 1)


def case(n=7, batch=2, size=(5, 6), channels=CONDINST, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    features = torch.randn(batch, channels[0] - 2, *size, generator=g, dtype=dtype)
    parameters = torch.randn(n, filter_count(channels), generator=g, dtype=dtype)
    x, y = (torch.randn(n, side, generator=g, dtype=dtype) for side in reversed(size))
    return features, parameters, torch.arange(n) % batch, x, y


def test_the_number_of_parameters():
    assert filter_count(CONDINST) == 169  # 88 + 72 + 9
    assert filter_count((8, 8, 8, 1)) == 153
    assert filter_count((32, 1), bias=False) == 32


@every_impl
def test_two_layers_by_hand(impl):
    # one object on one feature map of 1 × 2 with coordinates: hidden = relu(x − y + 2 f + 1), out = −3 hidden + ½
    features = torch.tensor([[[[1.0, -4.0]]]])
    parameters = torch.tensor([[1.0, -1.0, 2.0, -3.0, 1.0, 0.5]])
    x, y = torch.tensor([[0.5, 2.0]]), torch.tensor([[-1.0]])
    out = dynamic_conv(features, parameters, (3, 1, 1), x=x, y=y, impl=impl)
    # 0.5 + 1 + 2 + 1 = 4.5 and 2 + 1 − 8 + 1 = −4, which ReLU stops
    assert out.tolist() == [[[[-13.0, 0.5]]]]


@every_impl
def test_weights_come_before_biases_and_are_out_by_in(impl):
    parameters = torch.tensor([[1.0, 2, 3, 4, 5, 6, 7, 8, 9]])  # (2, 2) and (1, 2) weights, then 2 and 1 biases
    features = torch.tensor([1.0, 10.0]).view(1, 2, 1, 1)
    out = dynamic_conv(features, parameters, (2, 2, 1), impl=impl)
    hidden = torch.tensor([1 * 1 + 2 * 10 + 7.0, 3 * 1 + 4 * 10 + 8.0])
    assert out.item() == 5 * hidden[0] + 6 * hidden[1] + 9


def test_all_at_once_equals_one_by_one_in_values_and_gradients():
    parts = [p.requires_grad_() if p.is_floating_point() else p for p in case(dtype=torch.float64)]
    found = []
    for impl in IMPLS:
        features, parameters, image, x, y = parts
        out = dynamic_conv(features, parameters, CONDINST, image=image, x=x, y=y, impl=impl)
        found.append([out, *torch.autograd.grad((out**2).sum(), (features, parameters, x, y))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_large_maps_are_computed_a_few_rows_at_a_time(monkeypatch):
    features, parameters, image, x, y = case(size=(9, 6))
    whole = dynamic_conv(features, parameters, CONDINST, image=image, x=x, y=y)
    monkeypatch.setattr(module, "CACHED", 2 * 7 * 8 * 6)  # two rows, of nine
    heights = []
    rows = module._rows
    monkeypatch.setattr(module, "_rows", lambda f, *rest: heights.append(f.shape[2]) or rows(f, *rest))
    parts = dynamic_conv(features, parameters, CONDINST, image=image, x=x, y=y)
    assert heights == [2, 2, 2, 2, 1]
    torch.testing.assert_close(parts, whole)  # a matrix product of another size may sum in another order


@every_impl
def test_a_coefficient_for_each_prototype_is_a_matrix_product(impl):
    prototypes, coefficients = torch.randn(1, 32, 4, 3), torch.randn(5, 32)
    out = dynamic_conv(prototypes, coefficients, (32, 1), bias=False, impl=impl)
    torch.testing.assert_close(out[:, 0], torch.einsum("nk,khw->nhw", coefficients, prototypes[0]))


@every_impl
def test_no_object_gives_no_map(impl):
    features, parameters, image, x, y = case()
    out = dynamic_conv(features, parameters[:0], CONDINST, image=image[:0], x=x[:0], y=y[:0], impl=impl)
    assert out.shape == (0, 1, 5, 6)
    out = dynamic_conv(features[:1], parameters[:0, :32], (8, 4), bias=False, impl=impl)
    assert out.shape == (0, 4, 5, 6)


@every_impl
def test_half_precision_is_computed_in_float32_under_autocast_too(impl):
    features, parameters, image, x, y = case()
    want = dynamic_conv(features.bfloat16().float(), parameters, CONDINST, image=image, x=x, y=y, impl=impl)
    with torch.autocast("cpu", torch.bfloat16):
        out = dynamic_conv(features.bfloat16(), parameters, CONDINST, image=image, x=x, y=y, impl=impl)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, want)


@every_impl
def test_it_equals_the_published_dynamic_head(impl):
    golden = Golden("condinst_r50")
    level = golden["dynamic_head/levels"].long()
    extent = torch.tensor([64.0, 128, 256, 512, 1024])[level][:, None]  # sizes of interest
    location = golden["dynamic_head/locations"]
    x = (location[:, :1] - (torch.arange(11) * 8 + 4)) / extent
    y = (location[:, 1:] - (torch.arange(9) * 8 + 4)) / extent
    logits = dynamic_conv(
        golden["dynamic_head/mask_feats"], golden["dynamic_head/params"], CONDINST,
        image=golden["dynamic_head/image_index"].long(), x=x, y=y, impl=impl,
    )  # fmt: skip
    golden.check("dynamic_head/logits", aligned_bilinear(logits, 2), 1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(channels=(10, 8, 8)), r"need features \(B, C, H, W\) and parameters \(N, 160\), got .*\(7, 169\)"),
        (dict(channels=(10,)), r"each at least 1; got \(10,\)"),
        (dict(y=None), "both x .* and y"),
        (dict(x=torch.zeros(7, 5)), r"features of 5 x 6 need x \(7, 6\) and y \(7, 5\), got \(7, 5\)"),
        (dict(x=None, y=None), "the first layer takes 10 channels, the input has 8: 8 features"),
        (dict(image=None), "2 images need `image`"),
        (dict(image=torch.zeros(3, dtype=torch.int64)), r"7 objects need `image` of shape \(7,\), got \(3,\)"),
        (dict(impl="loop"), "choose one of grouped, reference"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    features, parameters, image, x, y = case()
    keywords = {"channels": CONDINST, "image": image, "x": x, "y": y} | change
    with pytest.raises(ValueError, match=message):
        dynamic_conv(features, parameters, **keywords)


def test_it_is_a_grouped_convolution():
    features, parameters, _, _, _ = case(n=3, batch=1)
    weight, bias = parameters[:, :64], parameters[:, 64:72]
    out = dynamic_conv(features, torch.cat([weight, bias], 1), (8, 8))
    want = F.conv2d(features.repeat(1, 3, 1, 1), weight.reshape(24, 8, 1, 1), bias.flatten(), groups=3)
    torch.testing.assert_close(out.flatten(0, 1), want[0])
