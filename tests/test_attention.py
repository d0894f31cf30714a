"""Attention by its formula, in several heads, with masks and positions; and the layers that Mask2Former makes of it."""

import math

import pytest
import torch
from torch import nn

from seglib.layers.attention import MultiHeadAttention, SinePosition
from seglib.layers.pixel_decoder import DeformableAttention, PixelDecoder, cell_centres
from seglib.layers.query_decoder import QueryDecoder, attention_mask, resize_features
from seglib.ops.attention import attention, attention_weights, open_empty_rows


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_a_query_takes_the_values_of_two_keys_by_their_fit():
    q, k = torch.tensor([[2.0, 0, 0, 0]]), torch.tensor([[math.log(3), 0, 0, 0], [0.0, 1, 0, 0]])
    v = torch.tensor([[4.0], [8.0]])
    # scores log 3 · 2 / √4 and 0, so weights 3/4 and 1/4
    torch.testing.assert_close(attention_weights(q, k), torch.tensor([[0.75, 0.25]]))
    for impl in ("reference", "fast"):
        torch.testing.assert_close(attention(q, k, v, impl=impl), torch.tensor([[5.0]]))


@pytest.mark.parametrize("masked", ["no", "bool", "float"])
def test_both_paths_are_equal_values_and_gradients(masked):
    q, k, v = random(2, 3, 5, 4), random(2, 3, 7, 4, seed=1), random(2, 3, 7, 6, seed=2)
    mask = {"no": None, "bool": open_empty_rows(random(2, 1, 5, 7, seed=3) > 0), "float": random(3, 5, 7, seed=4)}[
        masked
    ]
    found = {}
    for impl in ("reference", "fast"):
        parts = [x.clone().requires_grad_() for x in (q, k, v)]
        out = attention(*parts, mask=mask, impl=impl)
        assert out.shape == (2, 3, 5, 6)
        found[impl] = [out, *torch.autograd.grad((out * random(2, 3, 5, 6, seed=5)).sum(), parts)]
    for a, b in zip(found["reference"], found["fast"], strict=True):
        torch.testing.assert_close(a, b)


def test_a_key_that_is_hidden_changes_nothing():
    q, k, v = random(2, 4), random(3, 4, seed=1), random(3, 4, seed=2)
    mask = torch.tensor([[True, False, True], [True, True, False]])
    one = attention(q, k, v, mask=mask)
    k[1], v[1] = 7, 7
    torch.testing.assert_close(attention(q, k, v, mask=mask)[0], one[0])
    assert not torch.allclose(attention(q, k, v, mask=mask)[1], one[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_empty_row_is_opened_and_gives_no_nan(dtype):
    mask = torch.tensor([[True, False], [False, False]])
    assert open_empty_rows(mask).tolist() == [[True, False], [True, True]]
    q, k, v = (random(2, 4, seed=i).to(dtype) for i in range(3))
    for impl in ("reference", "fast"):
        out = attention(q, k, v, mask=open_empty_rows(mask), impl=impl)
        assert out.dtype == dtype and out.isfinite().all()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"got \(2, 4\), \(3, 5\) and \(3, 4\)"):
        attention(torch.zeros(2, 4), torch.zeros(3, 5), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(2, 4\)"):
        attention(torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="got 'quick'"):
        attention(torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(3, 4), impl="quick")


def test_multi_head_attention_equals_torchs_with_a_mask():
    ours, theirs = MultiHeadAttention(12, 3).double(), nn.MultiheadAttention(12, 3, batch_first=True).double()
    with torch.no_grad():
        for i, part in enumerate((ours.query, ours.key, ours.value)):
            part.bias += random(12, seed=i)
            theirs.in_proj_weight[12 * i : 12 * i + 12] = part.weight
            theirs.in_proj_bias[12 * i : 12 * i + 12] = part.bias
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    query, key, value = random(2, 4, 12), random(2, 6, 12, seed=1), random(2, 6, 12, seed=2)
    mask = open_empty_rows(random(2, 4, 6, seed=3) > 0)
    # torch's mask says where not to attend, once for every head
    expected, _ = theirs(query, key, value, attn_mask=~mask.repeat_interleave(3, 0), need_weights=False)
    torch.testing.assert_close(ours(query, key, value, mask), expected)


def test_heads_may_have_fewer_channels_together_and_must_divide_them():
    assert MultiHeadAttention(16, 2, hidden=8)(*[random(1, 3, 16, dtype=torch.float32)] * 3).shape == (1, 3, 16)
    with pytest.raises(ValueError, match="10 channels can't be split over 4 heads"):
        MultiHeadAttention(10, 4)


def test_sine_positions_of_a_map_by_hand():
    position = SinePosition(8)(torch.zeros(1, 3, 2, 4))
    assert position.shape == (8, 2, 4)
    # the last row and column are a full turn: sin 2π = 0, cos 2π = 1; the second wave is 100 times as long
    turn, slow = 2 * math.pi, 2 * math.pi / 100
    expected = [math.sin(turn / 2), math.cos(turn / 2), math.sin(slow / 2), math.cos(slow / 2)]  # y of row 0 of 2
    expected += [math.sin(turn), math.cos(turn), math.sin(slow), math.cos(slow)]  # x of column 3 of 4
    torch.testing.assert_close(position[:, 0, 3], torch.tensor(expected), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="multiple of 4"):
        SinePosition(6)


def test_without_positions_attention_does_not_know_the_order_of_pixels():
    torch.manual_seed(0)
    layer, tokens, query = MultiHeadAttention(8, 2), random(1, 6, 8, dtype=torch.float32), torch.randn(1, 2, 8)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(layer(query, tokens, tokens), layer(query, tokens[:, order], tokens[:, order]))
    places = SinePosition(8)(torch.zeros(1, 1, 2, 3)).flatten(1).mT
    placed, moved = tokens + places, tokens[:, order] + places
    assert not torch.allclose(layer(query, placed, tokens), layer(query, moved, tokens[:, order]), atol=1e-3)


def test_cell_centres_are_x_first_and_row_by_row():
    assert cell_centres((2, 4), torch.device("cpu"))[[0, 1, 4]].tolist() == [
        [0.125, 0.25],
        [0.375, 0.25],
        [0.125, 0.75],
    ]


def test_each_head_starts_along_its_own_direction_and_step_by_step():
    layer = DeformableAttention(8, heads=4, levels=2, points=3)
    locations, weights = layer.sampling_points(torch.zeros(1, 1, 8), torch.tensor([[0.5, 0.5]]), [(10, 20), (5, 10)])
    assert locations.shape == (1, 1, 4, 2, 3, 2) and weights.shape == (1, 1, 4, 2, 3)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 6))
    cells = (locations[0, 0] - 0.5) * torch.tensor([[20.0, 10], [10, 5]])[:, None]  # in cells of each map
    right, down, left, up = cells[:, 0]
    steps, none = [1.0, 2, 3], [0.0, 0, 0]
    for found, (x, y) in zip((right, down, left, up), ((1, 0), (0, 1), (-1, 0), (0, -1)), strict=True):
        expected = torch.tensor([steps if x else none, steps if y else none]).T * torch.tensor(
            [abs(x) * x + (x == 0), y + (y == 0)]
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_pixel_decoder_keeps_the_sizes_of_the_maps_coarsest_first():
    decoder = PixelDecoder((4, 8, 8, 16), 8, layers=1, heads=2, points=2, hidden=16, mask_channels=12, groups=2)
    maps = [torch.randn(2, c, h, w) for c, h, w in ((4, 9, 13), (8, 5, 7), (8, 3, 4), (16, 2, 2))]
    scales, features = decoder(maps)
    assert [tuple(s.shape) for s in scales] == [(2, 8, 2, 2), (2, 8, 3, 4), (2, 8, 5, 7)]
    assert features.shape == (2, 12, 9, 13)
    with pytest.raises(ValueError, match="channels of 3 maps"):
        PixelDecoder((4, 8, 8), 8)


def test_a_query_looks_where_its_mask_is_at_least_half_and_everywhere_if_nowhere():
    features = torch.tensor([[[[1.0, -1.0], [0.0, -2.0]]]])  # (1, 1, 2, 2)
    embeddings = torch.tensor([[[2.0], [-1.0], [0.0]]])
    assert attention_mask(embeddings, features).tolist() == [
        [[True, False, True, False], [False, True, True, True], [True] * 4]
    ]
    assert attention_mask(torch.tensor([[[1.0]]]), -features.abs() - 1).tolist() == [[[True] * 4]]


def test_masks_of_resized_features_are_resized_masks():
    features, embeddings = random(1, 6, 8, 12), random(1, 5, 6, seed=1)
    masks = torch.einsum("bqc,bchw->bqhw", embeddings, features)
    for size in ((4, 6), (2, 3), (3, 5)):
        (resized,) = resize_features(features, [torch.zeros(1, 1, *size)])
        expected = nn.functional.interpolate(masks, size=size, mode="bilinear")
        torch.testing.assert_close(torch.einsum("bqc,bchw->bqhw", embeddings, resized), expected)


def test_the_decoder_takes_the_scales_in_turn_and_predicts_before_and_after_each_layer():
    torch.manual_seed(0)
    decoder = QueryDecoder(3, 8, queries=5, layers=4, heads=2, hidden=16, mask_channels=6)
    scales = [torch.randn(2, 8, n, n) for n in (1, 2, 4)]
    seen = []
    for layer in decoder.layers:
        layer.register_forward_hook(lambda module, inputs, out: seen.append(inputs[2].shape[1]))
    classes, embeddings = decoder(scales, torch.randn(2, 6, 8, 8))
    assert classes.shape == (5, 2, 5, 4) and embeddings.shape == (5, 2, 5, 6)
    assert seen == [1, 4, 16, 1]
    # the first answer is the same for every image
    assert torch.equal(classes[0, 0], classes[0, 1]) and not torch.equal(classes[1, 0], classes[1, 1])


def test_masked_attention_is_a_switch():
    torch.manual_seed(0)
    decoder = QueryDecoder(3, 8, queries=5, layers=3, heads=2, hidden=16, mask_channels=6)
    inputs = [torch.randn(1, 8, n, n) for n in (2, 4, 8)], torch.randn(1, 6, 16, 16)
    masked = decoder(*inputs)[0]
    decoder.masked_attention = False
    opened = decoder(*inputs)[0]
    assert torch.equal(masked[0], opened[0]) and not torch.allclose(masked[1], opened[1])


def test_a_decoder_needs_a_query_and_a_layer():
    with pytest.raises(ValueError, match="got 0 and 9"):
        QueryDecoder(3, queries=0)
