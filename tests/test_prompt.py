"""Prompts in pixels of an image, and answers at its size."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from colour_model import SIDE, ColourModel, patches
from PIL import Image
from torch.nn import functional as F

from seglib.postprocess import prompt
from seglib.postprocess.prompt import Predictor, check_prompts, restore_logits

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "sam_vit_b.json"
SIZE = (96, 150)  # the model sees 82 x 128


@pytest.fixture
def predictor():
    found = Predictor(ColourModel())
    found.set_image(patches(*SIZE))
    return found


# Back to the image's size.


@pytest.mark.parametrize(
    ("size", "output_size", "side"),
    [
        ((82, 128), (96, 150), 128),  # 82 is no multiple of 4
        ((96, 128), (60, 80), 128),  # 96 is: its last pixel reads a cell that holds padding alone
        ((128, 128), (128, 128), 128),
        ((1, 128), (3, 400), 128),
        ((128, 5), (2000, 78), 128),
        ((70, 100), (70, 100), 100),  # masks of 32 cells don't divide 100 pixels
    ],
)
def test_logits_go_to_the_frame_without_padding_then_to_the_image(size, output_size, side):
    logits = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    frame = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
    wanted = F.interpolate(frame[..., : size[0], : size[1]], output_size, mode="bilinear", align_corners=False)
    assert torch.equal(restore_logits(logits, size, output_size, side), wanted)


def test_no_masks_are_restored_to_no_masks():
    assert restore_logits(torch.zeros(0, 3, 32, 32), (82, 128), (96, 150), 128).shape == (0, 3, 96, 150)


def test_half_precision_is_restored_in_float32():
    logits = torch.tensor([[[[-1.0, 1.0], [-1.0, 1.0]]]], dtype=torch.bfloat16)
    assert restore_logits(logits, (4, 4), (4, 4), 4)[0, 0, 0].tolist() == [-1, -0.5, 0.5, 1]


# What the model is asked.


@pytest.mark.skipif(not GOLDEN.exists(), reason="the golden fixtures (../shared/golden) are not here")
def test_points_and_boxes_go_to_the_models_frame_as_in_the_published_code():
    cases = json.loads(GOLDEN.read_text())["table"]["transforms"]
    model = ColourModel()
    model.geometry = type(model.geometry)("letterbox", 1024)
    model.encode = lambda images: torch.zeros(1, 3, 32, 32)
    predictor = Predictor(model)
    for case in cases:
        predictor.set_image(torch.zeros(3, *case["original"]))
        assert predictor.model_size == tuple(case["resized"])
        # the published code takes points outside, too: one case has such a point
        inside = [i for i, (x, y) in enumerate(case["coords"]) if x < case["original"][1] and y < case["original"][0]]
        predictor.decode(points=[case["coords"][i] for i in inside])
        predictor.decode(boxes=case["boxes"])
        clicks, boxes = model.prompts[-2:]
        torch.testing.assert_close(clicks.points[0], torch.tensor([case["coords_out"][i] for i in inside]))
        torch.testing.assert_close(boxes.boxes, torch.tensor(case["boxes_out"]))


def test_an_8_bit_image_is_resized_by_pillow(predictor):
    seen = predictor.model.images[0][0]  # (3, 82, 128)
    pixels = patches(*SIZE).permute(1, 2, 0).numpy()
    wanted = np.asarray(Image.fromarray(pixels).resize((128, 82), Image.Resampling.BILINEAR))
    assert torch.equal(seen, torch.from_numpy(wanted.copy()).permute(2, 0, 1).float() / 255)


def test_a_float_image_is_resized_by_the_geometry(predictor):
    image = patches(*SIZE).float() / 255
    predictor.set_image(image)
    by_pillow, seen = predictor.model.images
    assert torch.equal(seen[0], predictor.model.geometry(image))
    # Pillow rounds to whole grey values after the columns and after the rows
    assert 0 < (seen - by_pillow).abs().max() <= 1.01 / 255


def test_a_grey_image_is_one_of_three_equal_channels(predictor):
    grey = patches(*SIZE)[:1]
    predictor.set_image(grey)
    predictor.set_image(grey.expand(3, -1, -1))
    assert torch.equal(*predictor.model.images[1:])


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (40, 2000), (128, 128)])
def test_images_of_any_size_are_answered_at_their_size(size):
    predictor = Predictor(ColourModel())
    predictor.set_image(torch.full((3, *size), 0.5))
    assert predictor.predict(points=[[size[1] - 1, size[0] - 1]]).masks.shape == (1, 3, *size)


def test_labels_are_1_unless_they_are_given(predictor):
    points = torch.tensor([[[3.0, 4.0], [5.0, 6.0]]])
    predictor.predict(points=points)
    predictor.predict(points=points, labels=[[1, 0]])
    without, given = predictor.model.prompts
    assert without.labels.tolist() == [[1, 1]] and given.labels.tolist() == [[1, 0]]


def test_one_prompt_needs_no_axis_of_prompts(predictor):
    mask = torch.randn(32, 32)
    predictor.predict(points=[[3, 4], [5, 6]], labels=[1, 0], boxes=np.array([1, 2, 30, 40]), masks=mask)
    (asked,) = predictor.model.prompts
    assert asked.points.shape == (1, 2, 2) and asked.labels.tolist() == [[1, 0]]
    assert asked.boxes.shape == (1, 4) and torch.equal(asked.masks, mask[None])


# What it answers.


def test_the_image_is_embedded_once_and_a_new_one_replaces_it(predictor):
    first = predictor.embedding
    for x in range(3):
        predictor.predict(points=[[x, 0]])
    assert len(predictor.model.images) == 1 and predictor.embedding is first
    predictor.set_image(patches(64, 64, seed=1))
    assert predictor.predict(points=[[0, 0]]).masks.shape == (1, 3, 64, 64)
    with pytest.raises(ValueError, match="outside the image of 64 x 64"):
        predictor.predict(points=[[70, 0]])


def test_prompts_are_answered_together_as_one_by_one(predictor):
    points = torch.tensor([[[20.0, 30.0]], [[70.0, 5.0]], [[140.0, 90.0]]])
    together = predictor.predict(points=points)
    for i, point in enumerate(points):
        alone = predictor.predict(points=point)
        assert torch.equal(together.masks[i], alone.masks[0]) and torch.equal(together.iou[i], alone.iou[0])


def test_a_mask_is_where_its_logits_at_the_images_size_are_above_0(predictor):
    found = predictor.predict(points=[[20, 30]])
    assert found.masks.dtype == torch.bool and 0 < found.masks.sum() < found.masks.numel()
    assert torch.equal(found.masks, restore_logits(found.logits, (82, 128), SIZE, SIDE) > 0)


def test_three_masks_for_an_ambiguous_prompt_or_the_single_one(predictor):
    all_four = predictor.decode(points=[[20, 30]])
    three, one = (predictor.predict(points=[[20, 30]], several=several) for several in (True, False))
    assert torch.equal(three.logits, all_four.logits[:, 1:]) and torch.equal(three.iou, all_four.iou[:, 1:])
    assert torch.equal(one.logits, all_four.logits[:, :1]) and one.masks.shape == (1, 1, *SIZE)


def test_few_masks_are_resized_at_a_time(predictor, monkeypatch):
    points = torch.rand(7, 1, 2, generator=torch.Generator().manual_seed(0)) * 90
    wanted = predictor.predict(points=points).masks
    counts = []

    def counting(logits, *sizes):
        counts.append(len(logits))
        return restore_logits(logits, *sizes)

    monkeypatch.setattr(prompt, "restore_logits", counting)
    monkeypatch.setattr(prompt, "CHUNK", 2 * 3 * SIDE**2)  # the frame is larger than the image
    assert torch.equal(predictor.predict(points=points).masks, wanted)
    assert counts == [2, 2, 2, 1]


def test_the_model_answers_in_evaluation_mode_without_gradients_and_keeps_its_own_mode(predictor):
    assert predictor.model.training
    found = predictor.predict(points=[[1, 1]])
    assert predictor.model.training and predictor.model.modes == [False, False]
    assert not predictor.embedding.requires_grad and not found.logits.requires_grad


# What is refused.


def test_nothing_is_answered_before_an_image_is_set_or_after_a_reset(predictor):
    for empty in (Predictor(ColourModel()), predictor):
        empty.reset()
        with pytest.raises(ValueError, match=r"no image yet; call set_image"):
            empty.predict(points=[[1, 1]])
        with pytest.raises(ValueError, match="no image yet"):
            empty.embedding  # noqa: B018 (the access is the test)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, "got no prompt; pass points, boxes or masks"),
        ({"points": []}, "an empty list of points"),
        ({"points": torch.zeros(0, 1, 2)}, "an empty list of points"),
        ({"points": torch.zeros(2, 0, 2)}, "an empty list of points"),
        ({"boxes": torch.zeros(0, 4)}, "an empty list of boxes"),
        ({"masks": torch.zeros(0, 32, 32)}, "an empty list of masks"),
        ({"points": [[150.0, 3.0]]}, r"a point lies outside the image of 150 x 96 pixels .*: \[150.0, 3.0\]"),
        ({"points": [[3.0, 96.0]]}, r"\[3.0, 96.0\]"),
        ({"points": [[5.0, 5.0], [-1.0, 3.0]]}, r"\[-1.0, 3.0\]"),
        ({"points": [[5.0, float("nan")]]}, "a point lies outside"),
        ({"points": [3.0, 4.0]}, r"points are \(N, P, 2\) or \(P, 2\), got shape \(2,\)"),
        ({"points": [[3.0, 4.0, 1.0]]}, r"the last axis has 2 numbers; got shape \(1, 1, 3\)"),
        ({"points": [[3.0, 4.0]], "labels": [2]}, r"labels are 1 .* or 0 .*, got \[2.0\]"),
        ({"points": [[3.0, 4.0]], "labels": [-1]}, "labels are 1"),
        ({"points": [[3.0, 4.0]], "labels": [0.5]}, "labels are 1"),
        ({"points": [[3.0, 4.0]], "labels": [1, 0]}, r"points \(1, 1, 2\) need labels \(1, 1\), got \(1, 2\)"),
        ({"points": [[3.0, 4.0]], "labels": []}, "an empty list of labels"),
        ({"labels": [1], "boxes": [1, 2, 3, 4]}, "labels tell what points lie on; pass points"),
        ({"boxes": [30.0, 2.0, 10.0, 40.0]}, r"got \[30.0, 2.0, 10.0, 40.0\]; swap its corners"),
        ({"boxes": [[1, 2, 3, 4], [10.0, 40.0, 30.0, 2.0]]}, r"got \[10.0, 40.0, 30.0, 2.0\]"),
        ({"boxes": [10.0, 2.0, 151.0, 40.0]}, r"a corner of a box lies outside .*: \[151.0, 40.0\]"),
        ({"boxes": [[1.0, 2.0, 3.0]]}, r"boxes are \(N, 4\) or \(4,\), got shape \(1, 3\)"),
        ({"boxes": torch.zeros(1, 2, 4)}, r"boxes are .*, got shape \(1, 2, 4\)"),
        ({"masks": torch.zeros(1, *SIZE)}, r"mask prompts of this model are \(N, 32, 32\), got \(1, 96, 150\)"),
        ({"masks": torch.zeros(32, 32, dtype=torch.bool)}, "masks of prompts are floats, got torch.bool"),
        ({"points": torch.zeros(2, 1, 2), "boxes": [0, 0, 5, 5]}, "2 of points, 2 of labels, 1 of boxes"),
    ],
    ids=lambda value: ", ".join(value) or "nothing" if isinstance(value, dict) else "",
)
def test_a_prompt_that_makes_no_sense_is_refused(predictor, prompts, message):
    with pytest.raises(ValueError, match=message):
        predictor.predict(**prompts)


def test_prompts_are_checked_without_a_model():
    found = check_prompts(SIZE, points=[[149.5, 95]], boxes=[0, 0, 150, 96])
    assert found.points.tolist() == [[[149.5, 95]]] and found.labels.tolist() == [[1]] and len(found) == 1
    with pytest.raises(ValueError, match="a point lies outside the image of 96 x 150"):
        check_prompts((150, 96), points=[[149.5, 95]])


def test_a_box_may_end_where_the_image_ends(predictor):
    predictor.predict(boxes=[0, 0, 150, 96])
    assert predictor.model.prompts[0].boxes.tolist() == [[0, 0, 128, 82]]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 3, 8, 8), r"an image is \(3, H, W\), or grey \(1, H, W\), got shape \(1, 3, 8, 8\)"),
        (torch.zeros(8, 8, 3), r"got shape \(8, 8, 3\)"),
        (torch.zeros(3, 0, 8), r"got shape \(3, 0, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "got torch.int64; convert it"),
        (255 * torch.ones(3, 8, 8), "divide 8-bit images by 255"),
        (torch.full((3, 8, 8), float("nan")), "nan"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        Predictor(ColourModel()).set_image(image)
