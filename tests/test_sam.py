"""SAM: an image is encoded once, every prompt is decoded, and training asks until the mask is right."""

from dataclasses import replace

import pytest
import torch
from slim import SLIM

from seglib.models.sam import Sam, SamTraining
from seglib.models.zoo import build
from seglib.ops.masks import masks_to_boxes
from seglib.types import Instances, PromptOutput, Prompts, Targets


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SLIM["sam"][1](5).eval()


def two_objects(height=64, width=80):
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, 8:24, 8:40] = True
    masks[1, 32:56, 48:64] = True
    return Instances(masks, torch.tensor([3, 1]), masks_to_boxes(masks))


def one_click(*points):
    return Prompts(torch.tensor(points)[:, None], torch.ones(len(points), 1, dtype=torch.int64))


# Encode and decode


def test_an_image_is_padded_with_the_mean_colour_right_and_below(model):
    image = torch.rand(1, 3, 40, 56)
    square = model.normalize.mean.view(1, 3, 1, 1).expand(1, 3, 96, 96).clone()
    square[:, :, :40, :56] = image
    torch.testing.assert_close(model.encode(image), model.encode(square))
    filled = torch.rand(1, 3, 96, 96)
    filled[:, :, :40, :56] = image
    torch.testing.assert_close(model.encode(filled, [(40, 56)]), model.encode(image))


def test_an_image_larger_than_the_model_is_refused(model):
    with pytest.raises(ValueError, match=r"at most 96 x 96 pixels go in, got 40 x 128; resize them with"):
        model.encode(torch.rand(1, 3, 40, 128))


def test_one_embedding_serves_all_prompts_of_its_image(model):
    embedding = model.encode(torch.rand(2, 3, 96, 96))
    prompts = one_click((10.0, 20.0), (50.0, 60.0))
    together = model.decode(embedding[:1], prompts)
    assert together.logits.shape == (2, 4, model.mask_size, model.mask_size) and together.iou.shape == (2, 4)
    each = model.decode(embedding, prompts)  # the second prompt is about the second image
    torch.testing.assert_close(each.logits[0], together.logits[0])
    assert not torch.allclose(each.logits[1], together.logits[1])
    with pytest.raises(ValueError, match="2 prompts need 1 embedding or 2, got 3"):
        model.decode(embedding[[0, 1, 1]], prompts)


def test_a_prompt_answers_alike_alone_and_among_others(model):
    embedding = model.encode(torch.rand(1, 3, 96, 96))
    prompts = one_click((10.0, 20.0), (50.0, 60.0), (3.0, 90.0))
    together = model.decode(embedding, prompts)
    alone = model.decode(embedding, prompts[1:2])
    torch.testing.assert_close(together.logits[1:2], alone.logits, rtol=1e-4, atol=1e-5)  # other matrix kernels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 100}, "multiple of the stride.*got 100 and 16"),
        ({"image_size": 96, "stride": 6}, "the stride of 4, got 96 and 6"),
        ({"image_size": 8}, "got 8 and 16"),
    ],
)
def test_an_image_size_that_the_embedding_does_not_divide_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sam(torch.nn.Identity(), 16, **arguments)


@pytest.mark.parametrize("change", [{"objects": 0}, {"clicks": -1}, {"repeats": -1}, {"boxes": 1.5}, {"finer": 0}])
def test_training_settings_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match="at least 1 object"):
        SamTraining(**change)


def test_the_tiny_network_takes_small_images_with_the_same_weights():
    small, large = build("sam_tiny", image_size=128), build("sam_tiny")
    large.load_state_dict(small.state_dict())
    assert (small.mask_size, large.mask_size) == (64, 128)


# The conversation of training


class Recorded(Sam):
    """Keeps the prompts that the decoder was asked."""

    def decode(self, embedding, prompts, corner=(0, 0)):
        self.__dict__.setdefault("asked", []).append(prompts)
        return super().decode(embedding, prompts, corner)


def recorded(model, **settings):
    model.__class__ = Recorded
    model.training_settings = replace(model.training_settings, **settings)
    return model


def test_each_click_lies_where_the_last_mask_was_wrong_and_that_mask_is_a_prompt(model):
    model = recorded(model, clicks=2, repeats=1, boxes=0.0)
    out = model(torch.rand(1, 3, 64, 80), Targets(instances=[two_objects()]))
    rounds = model.asked[:4]  # those about boxes, of no object, come after
    assert [len(p.points[0]) for p in rounds] == [1, 2, 3, 3]  # the last round has no new click
    assert rounds[0].masks is None and not any(p.boxes is not None for p in rounds)
    masks = two_objects().masks[out.instance]
    answered = [out.first.best.logits[:, 0], *out.later.logits.unbind(1)]
    for previous, prompts in zip(answered[:3], rounds[1:], strict=True):
        assert torch.equal(prompts.masks, previous)
    for previous, prompts in zip(answered[:2], rounds[1:3], strict=True):
        wrong = (model._at_image_size(previous, (64, 80)) > 0) ^ masks  # (2, H, W)
        x, y = prompts.points[:, -1].long().unbind(1)
        assert wrong[[0, 1], y, x].all() and torch.equal(prompts.labels[:, -1], masks[[0, 1], y, x].long())


def test_a_first_prompt_is_a_click_on_the_object_or_a_box_around_it(model):
    model = recorded(model, clicks=0, repeats=0, objects=2)
    torch.manual_seed(1)
    objects = two_objects()
    seen = {"points": 0, "boxes": 0}
    for _ in range(10):
        model.asked = []
        out = model(torch.rand(1, 3, 64, 80), Targets(instances=[objects]))
        clicks, boxes = model.asked
        assert clicks.boxes is None and boxes.points is None
        for (x, y), instance in zip(clicks.points[:, 0].long(), out.instance, strict=False):
            assert objects.masks[instance, y, x]
        true = objects.boxes[out.instance[len(clicks) :]]
        assert ((boxes.boxes - true).abs() <= 20).all()  # the noise of the paper
        seen["points"] += len(clicks)
        seen["boxes"] += len(boxes)
    assert min(seen.values()) >= 4  # of 20 coins


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return build("sam_tiny", image_size=96, channels=16).eval()


def test_a_window_lies_anywhere_in_the_square_and_only_its_cells_are_computed(tiny):
    image, found = torch.rand(2, 3, 32, 64), two_objects(32, 64)[[0]]
    targets = Targets(instances=[found, found])
    tiny.training_settings = replace(tiny.training_settings, windows=True, finer=1)
    corners, decode = [], tiny.decode

    def noted(embedding, prompts, corner=(0, 0)):
        corners.append(corner)
        assert embedding.shape[-2:] == (4, 8)  # a stride of 8
        return decode(embedding, prompts, corner)

    tiny.decode = noted
    for _ in range(80):
        out = tiny(image, targets)
    assert out.first.logits.shape[-2:] == (16, 32)
    rows, columns = ({c[i] for c in corners} for i in range(2))
    assert rows == set(range(9)) and columns == set(range(5))  # the square has 12 x 12 cells
    assert all(torch.isfinite(v) for v in tiny.loss(out, targets).values())
    wanted = tiny._wanted(out, targets)
    assert wanted.shape == (2, 16, 32) and torch.equal(wanted[0], found.masks[0, ::2, ::2])


@pytest.mark.parametrize(
    ("prompts", "moved"),
    [
        (one_click((10.0, 20.0)), one_click((26.0, 28.0))),
        (Prompts(boxes=torch.tensor([[1.0, 2.0, 9.0, 12.0]])), Prompts(boxes=torch.tensor([[17.0, 10.0, 25.0, 20.0]]))),
    ],
)
def test_a_window_is_answered_as_at_its_place_in_the_square(tiny, prompts, moved):
    embedding = torch.randn(1, 16, 4, 8)
    tokens, dense = tiny.prompt_encoder(moved)
    positions = tiny.prompt_encoder.positions()[:, 1:5, 2:10]
    expected = tiny.mask_decoder(embedding, positions, tokens, dense[..., :4, :8])
    found = tiny.decode(embedding, prompts, corner=(1, 2))
    torch.testing.assert_close((found.logits, found.iou), expected)


def test_a_window_of_parts_of_cells_of_the_coarsest_map_is_refused(tiny):
    tiny.training_settings = replace(tiny.training_settings, windows=True)
    with pytest.raises(ValueError, match="must be multiples of 32, got 32 x 40; crop images to another size"):
        tiny(torch.rand(1, 3, 32, 40), Targets(instances=[two_objects(32, 40)[[0]]]))


def test_masks_of_another_size_are_refused(model):
    embedding = model.encode(torch.rand(1, 3, 96, 96))
    prompts = Prompts(masks=torch.zeros(1, 96, 96))
    with pytest.raises(
        ValueError, match=r"go on from are logits \(24, 24\), got \(96, 96\); pass those that the model"
    ):
        model.decode(embedding, prompts)


def test_objects_that_cannot_be_clicked_and_crowds_are_not_asked_for(model):
    objects = two_objects()
    masks = torch.cat([objects.masks, torch.zeros(1, 64, 80, dtype=torch.bool), objects.masks[:1]])
    boxes = torch.cat([objects.boxes, torch.tensor([[1.0, 1, 5, 5]]), objects.boxes[:1]])
    crowd = torch.tensor([False, False, False, True])
    targets = Targets(instances=[Instances(masks, torch.zeros(4).long(), boxes, iscrowd=crowd), two_objects()[:0]])
    out = model(torch.rand(2, 3, 64, 80), targets)
    assert sorted(out.instance.tolist()) == [0, 1] and out.image.tolist() == [0, 0]


def test_no_more_objects_are_asked_for_than_the_settings_say(model):
    model = recorded(model, objects=1)
    out = model(torch.rand(2, 3, 64, 80), Targets(instances=[two_objects()] * 2))
    assert out.image.sort().values.tolist() == [0, 1]


# The loss


def answers(logits, iou):
    return PromptOutput(torch.tensor(logits)[:, :, None, None].expand(-1, -1, 24, 24), torch.tensor(iou))


def test_only_the_best_of_three_masks_is_trained_and_the_iou_of_all(model):
    whole = Instances(
        torch.ones(1, 96, 96, dtype=torch.bool), torch.zeros(1).long(), torch.tensor([[0.0, 0.0, 96.0, 96.0]])
    )
    logits = torch.tensor([[-2.0, 3.0, 0.5]], requires_grad=True)
    iou = torch.tensor([[0.5, 0.5, 0.5]], requires_grad=True)
    first = PromptOutput(logits[:, :, None, None].expand(-1, -1, 24, 24), iou)
    later = PromptOutput(first.logits[:, :0], iou[:, :0])
    out = replace(
        model(torch.rand(1, 3, 96, 96), Targets(instances=[whole])),
        **{"first": first, "later": later, "image": torch.zeros(1).long(), "instance": torch.zeros(1).long()},
    )
    losses = model.loss(out, Targets(instances=[whole]))
    p = torch.tensor(3.0).sigmoid()
    torch.testing.assert_close(losses["focal"], -20 * 0.25 * (1 - p) ** 2 * p.log())
    pixels = 24 * 24
    torch.testing.assert_close(losses["dice"], 1 - (2 * p * pixels + 1) / (p * pixels + pixels + 1))
    torch.testing.assert_close(losses["iou"], torch.tensor(0.25))  # (½ − 0)² or (½ − 1)²
    torch.stack(list(losses.values())).sum().backward()
    assert logits.grad[0, 0] == logits.grad[0, 2] == 0 != logits.grad[0, 1]
    assert iou.grad.sign().tolist() == [[1, -1, -1]]


def test_every_round_counts_alike(model):
    whole = Instances(
        torch.ones(1, 96, 96, dtype=torch.bool), torch.zeros(1).long(), torch.tensor([[0.0, 0.0, 96.0, 96.0]])
    )
    targets = Targets(instances=[whole])
    zero = torch.zeros(1).long()
    out = replace(model(torch.rand(1, 3, 96, 96), targets), image=zero, instance=zero)
    sure, unsure = answers([[5.0, 5.0, 5.0]], [[1.0, 1.0, 1.0]]), answers([[0.5, 5.0]], [[0.0, 1.0]])
    mixed = model.loss(replace(out, first=sure, later=unsure), targets)
    alone = model.loss(replace(out, first=sure, later=answers([[5.0, 5.0]], [[1.0, 1.0]])), targets)
    wrong = {"first": answers([[0.5] * 3], [[0.0] * 3]), "later": answers([[0.5] * 2], [[0.0] * 2])}
    worst = model.loss(replace(out, **wrong), targets)
    for name in mixed:
        torch.testing.assert_close(mixed[name], (2 * alone[name] + worst[name]) / 3)


def test_a_finer_grid_sees_an_object_smaller_than_a_cell(model):
    masks = torch.zeros(1, 96, 96, dtype=torch.bool)
    masks[0, 40, 40] = True
    targets = Targets(instances=[Instances(masks, torch.zeros(1).long(), masks_to_boxes(masks))])
    out = model(torch.rand(1, 3, 96, 96), targets)
    assert model._wanted(out, targets).shape == (1, 24, 24) and not model._wanted(out, targets).any()
    model.training_settings = replace(model.training_settings, finer=4)
    assert torch.equal(model._wanted(out, targets), masks)


def test_the_answers_to_a_grid_cannot_be_trained(model):
    out = model(torch.rand(1, 3, 64, 80))
    with pytest.raises(ValueError, match="ask for no object; pass targets"):
        model.loss(out, Targets(instances=[two_objects()]))
    with pytest.raises(ValueError, match="no `instances`"):
        model(torch.rand(1, 3, 64, 80), Targets())


def test_without_prompts_the_clicks_are_the_centres_of_a_grid(model):
    out = model(torch.rand(2, 3, 96, 96), None, [(96, 96), (48, 60)])
    assert out.first.logits.shape[:2] == (18, 3) and out.image.tolist() == [0] * 9 + [1] * 9
    assert out.points[:4].tolist() == [[16, 16], [48, 16], [80, 16], [16, 48]]
    assert out.points[9:12].tolist() == [[10, 8], [30, 8], [50, 8]]
