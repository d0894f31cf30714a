"""The Vision Transformer of SAM: attention by its formula, windows and padding, what reaches what."""

import math

import pytest
import torch
from torch import nn

from seglib.layers import linear, vit
from seglib.layers.linear import Linear
from seglib.layers.vit import ImageEncoderViT, RelativeAttention, ViTBlock, relative_attention


def small(**arguments):
    """Maps of 4 × 4 tokens, in windows of 3 × 3, and over the whole map in the second of three blocks."""
    arguments = {"image_size": 16, "patch": 4, "width": 8, "depth": 3, "heads": 2, "global_blocks": (1,), "window": 3,
                 "channels": 6} | arguments  # fmt: skip
    torch.manual_seed(0)
    model = ImageEncoderViT(**arguments)
    for block in model.blocks:  # relative positions start at 0, where they say nothing
        nn.init.normal_(block.attention.rows)
        nn.init.normal_(block.attention.columns)
    return model


def inputs(batch, heads, side, channels, **options):
    """Queries, keys and values of a map, and the two tables."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, heads, side**2, channels)] * 3 + [(2 * side - 1, channels)] * 2
    return [torch.randn(shape, generator=generator, dtype=torch.float64, **options) for shape in shapes]


# Attention with relative positions


def test_the_logits_are_those_of_the_formula():
    q, k, v, rows, columns = inputs(1, 1, 2, 3)
    want = torch.zeros(4, 3, dtype=torch.float64)
    for i in range(4):
        (y, x), query = divmod(i, 2), q[0, 0, i]
        logits = []
        for j in range(4):
            y2, x2 = divmod(j, 2)
            # an offset of −1, 0 or 1 is row 0, 1 or 2 of a table
            position = query @ rows[y - y2 + 1] + query @ columns[x - x2 + 1]
            logits.append(query @ k[0, 0, j] / math.sqrt(3) + position)
        want[i] = torch.stack(logits).softmax(0) @ v[0, 0]
    torch.testing.assert_close(relative_attention(q, k, v, rows, columns, impl="reference")[0, 0], want)
    torch.testing.assert_close(relative_attention(q, k, v, rows, columns)[0, 0], want)


@pytest.mark.parametrize("most", [1, 300, 1000, 10**6], ids=["a row", "two rows", "a head", "everything at once"])
def test_parts_make_the_same_whole_and_the_same_gradients(most, monkeypatch):
    monkeypatch.setitem(vit.MOST_BIAS, "cpu", most)
    leaves = inputs(2, 3, 5, 4, requires_grad=True)
    fast, reference = (relative_attention(*leaves, impl=impl) for impl in ("fast", "reference"))
    torch.testing.assert_close(fast, reference)
    weights = torch.randn_like(reference)
    gradients = zip(*(torch.autograd.grad((out * weights).sum(), leaves) for out in (fast, reference)), strict=True)
    for mine, other in gradients:
        torch.testing.assert_close(mine, other)


def test_the_fast_path_never_holds_the_bias_of_all_pairs(monkeypatch):
    monkeypatch.setitem(vit.MOST_BIAS, "cpu", 4 * 8**3)  # four rows of queries of one head of one image
    held, attention = [], vit.attention
    monkeypatch.setattr(vit, "attention", lambda *a, **o: held.append(o["mask"].numel()) or attention(*a, **o))
    relative_attention(*inputs(2, 3, 8, 4))
    assert set(held) == {4 * 8**3} and sum(held) == 2 * 3 * 8**4


def test_maps_that_the_tables_do_not_fit_are_refused():
    q, k, v, rows, columns = inputs(1, 1, 3, 4)
    for message, bad in (
        ("with 8 queries", (q[:, :, :8], k, v, rows, columns)),
        (r"got \(4, 4\)", (q, k, v, rows[:4], columns[:4])),
        (r"and \(3, 4\)", (q, k, v, rows, columns[:3])),
    ):
        with pytest.raises(ValueError, match=message):
            relative_attention(*bad)
    with pytest.raises(ValueError, match="'slow'"):
        relative_attention(q, k, v, rows, columns, impl="slow")


# Windows


@pytest.mark.parametrize(("height", "width", "window"), [(4, 6, 2), (5, 7, 3), (2, 3, 4)])
def test_a_token_attends_to_its_window_padding_included(height, width, window):
    layer = RelativeAttention(1, 1, window).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.qkv.weight[2] = layer.out.weight[0] = 1  # every query fits every key alike: the mean of the values
        tokens = height * width
        weights = layer(torch.eye(tokens).double().view(tokens, height, width, 1)).view(tokens, height, width)
    y, x = (torch.arange(tokens) // width) // window, (torch.arange(tokens) % width) // window
    same = ((y[:, None] == y) & (x[:, None] == x)).view(tokens, height, width)
    # also at the border, where padding fills the window and adds zeros to the mean
    torch.testing.assert_close(weights, same.double() / window**2)


def test_padding_has_the_biases_of_key_and_value():
    """It is zeros behind the norm, before the projections."""
    layer = RelativeAttention(1, 1, 2).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.qkv.weight[2], layer.qkv.bias[2], layer.out.weight[0] = 1, 10, 1
        out = layer(torch.tensor([[[[2.0]]]], dtype=torch.float64))  # one token and three of padding
    assert out.item() == (12 + 3 * 10) / 4


# The whole encoder


def touched(model, index):
    """The tokens that change behind a block when the patch in the upper left corner does, bool ``(4, 4)``."""
    images = torch.randn(1, 3, 16, 16)
    other = images.clone()
    other[..., :4, :4] += 1
    with torch.no_grad():
        maps = [model.blocks[:index](model.embed(x).permute(0, 2, 3, 1) + model.position) for x in (images, other)]
    return (maps[0] != maps[1]).any(-1)[0]


def test_windows_keep_to_themselves_and_a_global_block_reaches_everything():
    model = small()
    window = torch.zeros(4, 4, dtype=torch.bool)
    window[:3, :3] = True
    assert torch.equal(touched(model, 1), window)
    assert touched(model, 2).all()


def test_attention_and_mlp_are_added_to_what_came_in():
    torch.manual_seed(0)
    block, x = ViTBlock(8, 2, 4, window=3), torch.randn(2, 4, 4, 8)
    y = x + block.attention(nn.functional.layer_norm(x, (8,), eps=1e-6))
    want = y + block.mlp(nn.functional.layer_norm(y, (8,), eps=1e-6))
    torch.testing.assert_close(block(x), want)


def test_an_image_becomes_an_embedding_of_its_patches_and_gradients_reach_everything():
    model = small()
    out = model(torch.randn(2, 3, 16, 16))
    assert out.shape == (2, 6, 4, 4)
    (out * torch.randn_like(out)).sum().backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in model.parameters())


def test_images_of_a_batch_are_apart():
    model, images = small(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        together, apart = model(images), torch.cat([model(x[None]) for x in images])
    torch.testing.assert_close(together, apart)


def test_no_images_have_no_embeddings():
    assert small()(torch.randn(0, 3, 16, 16)).shape == (0, 6, 4, 4)


def test_grey_images_and_other_sizes():
    model = small(in_channels=1, image_size=24)
    assert model(torch.randn(1, 1, 24, 24)).shape == (1, 6, 6, 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 18}, "multiple of the patch of 4 pixels, got 18"),
        ({"image_size": 0}, "got 0"),
        ({"heads": 3}, "8 channels can't be split over 3 heads"),
        ({"window": 0}, "at least 1 token, got 0"),
        ({"global_blocks": (1, 3)}, r"lie in 0\.\.2, got \[3\]"),
        ({"in_channels": 0}, "in_channels must be at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="images of 16 x 16 pixels, got 16 x 12"):
        small()(torch.randn(1, 3, 16, 12))


# The linear layer


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 30, 30, 3), (1, 257, 3), (0, 7, 3)])
def test_a_linear_layer_is_torchs_for_any_number_of_tokens(shape):
    torch.manual_seed(0)
    layer, x = Linear(3, 4).double(), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    found, want = layer(x), nn.functional.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(found, want)
    leaves, weights = [x, layer.weight, layer.bias], torch.randn_like(want)
    for mine, other in zip(*(torch.autograd.grad((y * weights).sum(), leaves) for y in (found, want)), strict=True):
        torch.testing.assert_close(mine, other)


def test_many_tokens_are_rows_of_a_convolution(monkeypatch):
    seen, conv2d = [], linear.F.conv2d
    monkeypatch.setattr(linear.F, "conv2d", lambda x, *rest: seen.append(tuple(x.shape)) or conv2d(x, *rest))
    layer = Linear(3, 4)
    for tokens in (255, 256, 4900, 4099):
        layer(torch.zeros(1, tokens, 3))
    assert seen == [(64, 3, 1, 4), (50, 3, 1, 98), (1, 3, 1, 4099)]  # a prime number of them is a row
