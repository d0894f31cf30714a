"""SAM's prompt encoder and mask decoder: what a click, a box and a mask become, and how they meet the image."""

import math

import pytest
import torch
from torch.nn import functional as F

from seglib.layers.attention import MultiHeadAttention
from seglib.layers.mask_decoder import MaskDecoder, TwoWayBlock
from seglib.layers.prompt_encoder import BACKGROUND, BOTTOM_RIGHT, OBJECT, TOP_LEFT, FourierPosition, PromptEncoder
from seglib.layers.tiny import TinyEncoder, TinyNeck
from seglib.types import PromptOutput, Prompts


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return PromptEncoder(8, image_size=32, grid_size=4, mask_channels=4)


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return MaskDecoder(16, depth=2, heads=2, hidden=8)


def test_a_position_is_the_sines_then_the_cosines_of_its_angles():
    position = FourierPosition(4)
    position.frequencies.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.25]]))
    code = position(torch.tensor([0.625, 1.0]))  # (x, y) → 2p − 1 = (0.25, 1)
    x, y = 2 * math.pi * 0.25, 2 * math.pi * 0.25
    torch.testing.assert_close(code, torch.tensor([math.sin(x), math.sin(y), math.cos(x), math.cos(y)]))


def test_the_grid_has_the_codes_of_the_centres_of_its_cells():
    position = FourierPosition(6)
    grid = position.grid(2, 4)
    assert grid.shape == (6, 2, 4)
    torch.testing.assert_close(grid[:, 1, 2], position(torch.tensor([2.5 / 4, 1.5 / 2])))


def test_positions_need_as_many_sines_as_cosines():
    with pytest.raises(ValueError, match="even .*got 5"):
        FourierPosition(5)


def test_a_click_is_its_position_and_what_it_lies_on(encoder):
    points = torch.tensor([[[3.0, 7.0], [3.0, 7.0]]])
    tokens, _ = encoder(Prompts(points, torch.tensor([[1, 0]])))
    code = encoder.position(torch.tensor([3.5 / 32, 7.5 / 32]))  # the centre of the pixel
    assert tokens.shape == (1, 3, 8)
    torch.testing.assert_close(tokens[0, 0], code + encoder.meaning[OBJECT])
    torch.testing.assert_close(tokens[0, 1], code + encoder.meaning[BACKGROUND])


def test_a_prompt_without_a_box_ends_with_padding_which_has_no_position(encoder):
    points = torch.tensor([[[3.0, 7.0], [9.0, 9.0]]])
    tokens, _ = encoder(Prompts(points, torch.tensor([[1, -1]])))
    torch.testing.assert_close(tokens[0, 1], encoder.padding)
    torch.testing.assert_close(tokens[0, 2], encoder.padding)


def test_a_box_is_two_corners_and_stands_after_the_clicks(encoder):
    box = torch.tensor([[1.0, 2.0, 10.0, 20.0]])
    tokens, _ = encoder(Prompts(torch.tensor([[[3.0, 7.0]]]), torch.tensor([[1]]), box))
    first = encoder.position(torch.tensor([1.5 / 32, 2.5 / 32])) + encoder.meaning[TOP_LEFT]
    last = encoder.position(torch.tensor([10.5 / 32, 20.5 / 32])) + encoder.meaning[BOTTOM_RIGHT]
    assert tokens.shape == (1, 3, 8)  # and no padding
    torch.testing.assert_close(tokens[0, 1:], torch.stack([first, last]))
    torch.testing.assert_close(encoder(Prompts(boxes=box))[0], tokens[:, 1:])


def test_a_mask_becomes_a_map_and_without_one_every_cell_is_alike(encoder):
    masks = torch.randn(3, 16, 16)
    tokens, dense = encoder(Prompts(masks=masks))
    assert tokens.shape == (3, 0, 8) and dense.shape == (3, 8, 4, 4)
    torch.testing.assert_close(encoder(Prompts(masks=masks[1:2]))[1], dense[1:2])
    tokens, dense = encoder(Prompts())
    assert tokens.shape == (1, 0, 8)
    torch.testing.assert_close(dense, encoder.no_mask[None, :, None, None].expand(1, 8, 4, 4))


def test_attention_projects_what_all_prompts_share_once():
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 2)
    many, one = torch.randn(3, 5, 8), torch.randn(1, 7, 8)
    torch.testing.assert_close(attention(many, one, one), attention(many, one.expand(3, -1, -1), one.expand(3, -1, -1)))
    torch.testing.assert_close(attention(one, many, many), attention(one.expand(3, -1, -1), many, many))


def two_way_by_hand(block, tokens, places, image, cells):
    """The block of one prompt, token by token."""
    if block.first:
        tokens = block.self_norm(block.self_attention(tokens, tokens, tokens))
    else:
        x = tokens + places
        tokens = block.self_norm(tokens + block.self_attention(x, x, tokens))
    tokens = block.token_norm(tokens + block.token_attention(tokens + places, image + cells, image))
    tokens = block.mlp_norm(tokens + block.linear2(block.linear1(tokens).relu()))
    return tokens, block.image_norm(image + block.image_attention(image + cells, tokens + places, tokens))


@pytest.mark.parametrize("first", [True, False])
def test_prompts_do_not_see_each_other(first):
    torch.manual_seed(0)
    block = TwoWayBlock(8, heads=2, hidden=16, first=first)
    tokens, places, image, cells = torch.randn(3, 5, 8), torch.randn(3, 5, 8), torch.randn(1, 9, 8), torch.randn(9, 8)
    found, seen = block(tokens, places, image, cells)
    assert found.shape == (3, 5, 8) and seen.shape == (3, 9, 8)
    for i in range(3):
        alone, image_alone = two_way_by_hand(block, tokens[i : i + 1], places[i : i + 1], image, cells)
        torch.testing.assert_close(found[i : i + 1], alone)
        torch.testing.assert_close(seen[i : i + 1], image_alone)


def test_one_embedding_for_all_prompts_is_the_same_as_one_for_each(decoder):
    embedding, positions = torch.randn(1, 16, 3, 3), torch.randn(16, 3, 3)
    tokens, dense = torch.randn(4, 2, 16), torch.randn(1, 16, 3, 3)
    shared = decoder(embedding, positions, tokens, dense)
    each = decoder(embedding.expand(4, -1, -1, -1), positions, tokens, dense)
    with_maps = decoder(embedding, positions, tokens, dense.expand(4, -1, -1, -1))
    assert shared[0].shape == (4, 4, 12, 12) and shared[1].shape == (4, 4)
    for other in (each, with_maps):
        torch.testing.assert_close(other, shared)


def test_a_mask_is_the_product_of_its_token_and_the_image(decoder):
    with torch.no_grad():
        decoder.mask_mlps[2][-1].weight.zero_()
        decoder.mask_mlps[2][-1].bias.copy_(torch.tensor([1.0, 0.0]))  # C / 8 = 2 features: the first one alone
    features = []
    decoder.upsample.register_forward_hook(lambda module, args, out: features.append(out))
    masks, _ = decoder(torch.randn(1, 16, 3, 3), torch.randn(16, 3, 3), torch.randn(2, 2, 16), torch.zeros(1, 16, 3, 3))
    torch.testing.assert_close(masks[:, 2], features[0][:, 0])


def test_each_mask_is_read_from_a_token_of_its_own():
    torch.manual_seed(0)
    decoder, features = MaskDecoder(16, depth=0, heads=2), []  # without blocks no token hears of another
    torch.nn.init.zeros_(decoder.last_attention.out.weight)
    torch.nn.init.zeros_(decoder.last_attention.out.bias)
    decoder.upsample.register_forward_hook(lambda module, args, out: features.append(out))
    masks, iou = decoder(
        torch.randn(1, 16, 3, 3), torch.randn(16, 3, 3), torch.randn(1, 2, 16), torch.zeros(1, 16, 3, 3)
    )
    for i, (token, mlp) in enumerate(zip(decoder.mask_tokens, decoder.mask_mlps, strict=True)):
        vector = mlp(decoder.last_norm(token))  # (2,)
        torch.testing.assert_close(masks[0, i], torch.einsum("f,fhw->hw", vector, features[0][0]))
    torch.testing.assert_close(iou[0], decoder.iou_mlp(decoder.last_norm(decoder.iou_token[0])))


def test_finer_maps_are_added_where_their_cells_lie(decoder):
    embedding, positions, tokens = torch.randn(1, 16, 3, 3), torch.randn(16, 3, 3), torch.randn(2, 2, 16)
    twice, fourfold = torch.randn(1, 4, 6, 6), torch.randn(1, 2, 12, 12)
    folded = torch.cat([embedding, F.pixel_unshuffle(twice, 2), F.pixel_unshuffle(fourfold, 4)], 1)
    assert folded.shape[1] == 4 * 16
    inputs = []
    decoder.upsample[2].register_forward_hook(lambda module, args, out: inputs.append(args[0]))  # after the norm
    decoder.upsample[0].register_forward_hook(lambda module, args, out: inputs.append(out))
    decoder.upsample[3].register_forward_hook(lambda module, args, out: inputs.append(out))
    decoder.upsample[4].register_forward_hook(lambda module, args, out: inputs.append(args[0]))
    decoder(folded, positions, tokens, torch.zeros(1, 16, 1, 1))
    doubled, normed, again, last = inputs
    torch.testing.assert_close(normed, decoder.upsample[1](doubled + twice))
    torch.testing.assert_close(last, again + fourfold)


def test_an_embedding_of_another_model_is_refused(decoder):
    with pytest.raises(ValueError, match="16 channels, or 64 with finer maps, got 32; pass what `encode`"):
        decoder(torch.zeros(1, 32, 3, 3), torch.zeros(16, 3, 3), torch.zeros(1, 2, 16), torch.zeros(1, 16, 1, 1))


def test_without_finer_maps_the_tiny_neck_gives_what_it_starts_with(decoder):
    torch.manual_seed(0)
    encoder = TinyEncoder()
    embedding = TinyNeck(encoder, 16, 4).eval()(encoder.eval()(torch.rand(1, 3, 64, 96)))
    assert embedding.shape == (1, 2 * 16 + 16 * 4, 8, 12)
    assert not embedding[:, 16:].any()  # finer maps are learned from nothing


def test_no_prompts_get_no_masks(decoder):
    masks, iou = decoder(
        torch.randn(1, 16, 3, 3), torch.randn(16, 3, 3), torch.zeros(0, 2, 16), torch.zeros(1, 16, 3, 3)
    )
    assert masks.shape == (0, 4, 12, 12) and iou.shape == (0, 4)


def test_channels_that_do_not_divide_into_features_are_refused():
    with pytest.raises(ValueError, match="multiple of 8.*got 12"):
        MaskDecoder(12, heads=2)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"points": torch.zeros(1, 1, 2)}, "points and labels come together"),
        ({"labels": torch.zeros(1, 1, dtype=torch.int64)}, "points and labels come together"),
        ({"points": torch.zeros(1, 2), "labels": torch.zeros(1, 1).long()}, r"\(N, P, 2\), got \(1, 2\)"),
        (
            {"points": torch.zeros(1, 1, 2), "labels": torch.zeros(1, 1)},
            "labels of prompts are int64, got torch.float32",
        ),
        ({"points": torch.zeros(1, 2, 2), "labels": torch.zeros(1, 1).long()}, r"need labels \(1, 2\), got \(1, 1\)"),
        ({"boxes": torch.zeros(1, 3)}, r"boxes of prompts have the shape \(N, 4\), got \(1, 3\)"),
        ({"boxes": torch.zeros(1, 4).long()}, "boxes of prompts are floats, got torch.int64"),
        ({"boxes": torch.zeros(2, 4), "masks": torch.zeros(3, 8, 8)}, "got 2 of boxes, 3 of masks"),
    ],
)
def test_prompts_whose_parts_do_not_fit_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        Prompts(**parts)


def test_prompts_are_picked_with_all_their_parts():
    prompts = Prompts(torch.rand(3, 2, 2), torch.ones(3, 2).long(), torch.rand(3, 4), torch.rand(3, 8, 8))
    picked = prompts[torch.tensor([2, 0])]
    assert len(prompts) == 3 and len(picked) == 2 and len(Prompts()) == 1
    for name in ("points", "labels", "boxes", "masks"):
        assert torch.equal(getattr(picked, name), getattr(prompts, name)[[2, 0]])


def test_the_best_answer_is_the_one_that_the_model_expects_most_of():
    out = PromptOutput(torch.arange(2 * 4 * 1 * 1.0).view(2, 4, 1, 1), torch.tensor([[9, 1, 3, 2], [0, 1, 2, 3.0]]))
    assert out.single.logits.flatten().tolist() == [0, 4]
    assert out.several.iou.tolist() == [[1, 3, 2], [1, 2, 3]]
    assert out.several.best.logits.flatten().tolist() == [2, 7]
    assert out.best.iou.tolist() == [[9], [3]]
