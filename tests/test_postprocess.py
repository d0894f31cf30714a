"""From raw outputs to predictions at the photo's own size."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seglib.models.zoo import build
from seglib.ops.geometry import NATIVE, Geometry
from seglib.postprocess.semantic import predict_semantic, regions_from_logits, semantic_from_logits
from seglib.types import Semantic


class Bright:
    """Class 1 where the red channel is above 0.5; keeps the images it saw."""

    def __init__(self):
        self.seen = []

    def predict(self, images):
        self.seen.append(images)
        red = images[:, 0]  # (B, H, W)
        return semantic_from_logits(20 * torch.stack([0.5 - red, red - 0.5], 1))


def photo(height=12, width=20):
    """Black, its right half white."""
    image = torch.zeros(3, height, width)
    image[..., width // 2 :] = 1
    return image


def test_the_most_probable_class_and_the_softmax_by_hand():
    logits = torch.tensor([[0.0, 3.0], [0.0, 1.0]]).log1p()[None, ..., None]  # odds 1 : 1 and 4 : 2
    (semantic,) = semantic_from_logits(logits)
    assert semantic.labels.tolist() == [[0], [0]]
    torch.testing.assert_close(semantic.probs[:, :, 0], torch.tensor([[1 / 2, 2 / 3], [1 / 2, 1 / 3]]))


def test_padding_is_cut_off_before_probabilities_are_resized():
    logits = torch.zeros(2, 2, 4, 4)
    logits[:, 0], logits[:, 1] = 50, torch.arange(4.0) * 50 - 25  # class 0 in columns 0 and 1, class 1 in 2 and 3
    left, whole = semantic_from_logits(logits, [(3, 2), (4, 4)])
    assert left.labels.tolist() == [[0, 0]] * 3 and whole.labels.tolist() == [[0, 0, 1, 1]] * 4
    assert left.probs.shape == (2, 3, 2)
    left, whole = semantic_from_logits(logits, [(4, 2), (4, 4)], [(2, 8), (2, 8)])
    assert left.labels.tolist() == [[0] * 8] * 2 and whole.labels.tolist() == [[0] * 4 + [1] * 4] * 2
    (regions, _) = regions_from_logits(logits, [(4, 2), (4, 4)], [(2, 8), (2, 8)])
    assert regions.masks.shape == (2, 2, 8) and regions.masks[0].all()


def test_labels_without_probabilities_are_the_same_labels():
    logits = torch.randn(2, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    for sizes, wanted in ((None, None), ([(6, 7), (4, 5)], None), ([(6, 7), (4, 5)], [(9, 9), (3, 3)])):
        whole = semantic_from_logits(logits, sizes, wanted)
        found = semantic_from_logits(logits, sizes, wanted, keep_probs=False)
        assert [f.probs for f in found] == [None, None]
        assert all(torch.equal(f.labels, w.labels) for f, w in zip(found, whole, strict=True))


def test_a_model_keeps_no_probabilities_when_told_and_views_ask_for_them():
    net = build("fcn_tiny", num_classes=3).eval()
    labels = net.predict(photo()[None])[0].labels
    net.keep_probs = False
    found = net.predict(photo()[None])[0]
    assert found.probs is None and torch.equal(found.labels, labels)
    with pytest.raises(ValueError, match="set keep_probs=True"):
        predict_semantic(net, photo(), flip=True)


def test_half_precision_logits_give_float32_probabilities():
    (semantic,) = semantic_from_logits(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16))
    assert semantic.probs.dtype == torch.float32


def test_a_photo_at_its_own_size_goes_to_the_model_unchanged():
    for geometry in (NATIVE, Geometry("shorter", 12)):
        model = Bright()
        result = predict_semantic(model, photo(), geometry=geometry)
        assert torch.equal(model.seen[0][0], photo())
        assert torch.equal(result.labels, (photo()[0] > 0.5).long())


def test_a_resized_photo_is_answered_at_its_own_size():
    model = Bright()
    result = predict_semantic(model, photo(), geometry=Geometry("shorter", 6))
    assert model.seen[0].shape == (1, 3, 6, 10)
    assert result.labels.shape == (12, 20)
    assert result.probs.shape == (2, 12, 20)
    assert torch.equal(result.labels, (photo()[0] > 0.5).long())
    torch.testing.assert_close(result.probs.sum(0), torch.ones(12, 20))
    assert torch.equal(result.labels, result.probs.argmax(0))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300))
def test_the_shorter_side_gets_the_length_asked_for_and_the_other_keeps_the_ratio(height, width, short):
    new = Geometry("shorter", short).model_size((height, width))
    assert min(new) == short
    assert max(new) == pytest.approx(short * max(height, width) / min(height, width), abs=0.5)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (8, 8), (3, 0, 8)])
def test_an_image_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="expected one image"):
        predict_semantic(Bright(), torch.zeros(shape))


@pytest.mark.parametrize("geometry", [NATIVE, Geometry("shorter", 6)], ids=["native", "shorter"])
def test_values_of_0_to_255_are_refused_at_any_size(geometry):
    with pytest.raises(ValueError, match="255"):
        predict_semantic(build("fcn_tiny", num_classes=2), 255 * photo(), geometry=geometry)


class Halves:
    """Two classes whose probability of the first is 1 in the picture's left half and 0 in its right half."""

    def predict(self, images):
        first = torch.zeros(images.shape[0], *images.shape[2:])
        first[..., : images.shape[3] // 2] = 1
        return [Semantic(p.argmax(0), p) for p in torch.stack([first, 1 - first], 1)]


class Sized:
    """Probability 1 of the class that the width of what it sees stands for."""

    def __init__(self, *widths):
        self.widths = widths

    def predict(self, images):
        probs = torch.zeros(1, len(self.widths), *images.shape[2:])
        probs[:, self.widths.index(images.shape[3])] = 1
        return [Semantic(probs[0].argmax(0), probs[0])]


def test_one_scale_and_no_mirror_is_the_models_own_answer():
    model = build("fcn_tiny", num_classes=3)
    image = torch.rand(3, 40, 56)
    plain = model.predict(image[None])[0]
    result = predict_semantic(model, image, scales=(1,), flip=False)
    assert torch.equal(result.probs, plain.probs)
    assert torch.equal(result.labels, plain.labels)


def test_the_mean_of_three_scales_by_hand():
    result = predict_semantic(Sized(10, 20, 30), photo(12, 20), scales=(0.5, 1, 1.5))
    assert result.probs.shape == (3, 12, 20)
    torch.testing.assert_close(result.probs, torch.full((3, 12, 20), 1 / 3))


def test_a_scale_given_twice_counts_twice():
    result = predict_semantic(Sized(10, 20), photo(12, 20), scales=(0.5, 1, 1))
    torch.testing.assert_close(result.probs[:, 0, 0], torch.tensor([1 / 3, 2 / 3]))
    assert bool((result.labels == 1).all())


def test_the_mirror_image_is_mirrored_back_before_the_mean():
    assert predict_semantic(Halves(), photo()).probs[0, 0].tolist() == [1] * 10 + [0] * 10
    # seen the other way round, the half that is left has probability 1 of the first class too
    assert predict_semantic(Halves(), photo(), flip=True).probs.unique().tolist() == [0.5]


@pytest.mark.parametrize("width", [20, 21])
def test_a_model_that_does_not_care_for_left_and_right_answers_as_without_the_mirror(width):
    image = torch.rand(3, 12, width)
    plain, both = predict_semantic(Bright(), image), predict_semantic(Bright(), image, flip=True)
    torch.testing.assert_close(both.probs, plain.probs, rtol=0, atol=1e-6)  # a sum of two and a division by two
    assert torch.equal(both.labels, both.probs.argmax(0))


def test_every_view_is_resized_from_the_photo_with_centres_at_half_pixels():
    model = Bright()
    ramp = ((torch.arange(16) + 0.5) / 16).expand(3, 8, 16)  # linear in x, so every good resizing is the same ramp
    predict_semantic(model, ramp, geometry=Geometry("shorter", 4), scales=(0.5, 1, 2), flip=True)
    assert [tuple(seen.shape[-2:]) for seen in model.seen] == [(2, 4)] * 2 + [(4, 8)] * 2 + [(8, 16)] * 2
    assert torch.equal(model.seen[4][0], ramp)  # at its own size, not by way of a smaller one
    for straight, mirrored in zip(model.seen[::2], model.seen[1::2], strict=True):
        assert torch.equal(straight.flip(-1), mirrored)
        n = straight.shape[-1]
        inner = straight[0, :, :, 1:-1]  # at the ends the filter has one side only
        torch.testing.assert_close(inner, ((torch.arange(n) + 0.5) / n)[1:-1].expand_as(inner))


@pytest.mark.parametrize("scales", [(), (0,), (1, -0.5), (float("nan"),), (float("inf"),)])
def test_scales_that_are_no_positive_numbers_are_refused(scales):
    with pytest.raises(ValueError, match="scales must be one or more positive numbers"):
        predict_semantic(Bright(), photo(), scales=scales)


def test_a_scale_that_leaves_less_than_a_pixel_keeps_one():
    model = Bright()
    assert predict_semantic(model, photo(), scales=(0.001,)).labels.shape == (12, 20)
    assert model.seen[0].shape == (1, 3, 1, 1)


def detections(boxes, image_size):
    """An output of a Mask R-CNN whose detections are these boxes, one an image, each filled by its object."""
    model = build("mask_rcnn_tiny", num_classes=1)
    with torch.no_grad():
        out = model.eval()(torch.rand(len(boxes), 3, *image_size))
    boxes, ones = torch.tensor(boxes)[:, None], torch.ones(len(boxes), 1)
    grids = torch.full((len(boxes), 1, 28, 28), 9.0)
    return model, replace(out, boxes=boxes, labels=ones.long() - 1, scores=ones, mask_logits=grids)


def test_no_detection_reaches_into_the_padding_of_its_image():
    # the second image is 8 pixels wide and 16 high in a batch of 16 x 16; the third's box lies in its padding alone
    model, out = detections([[2.0, 1, 14, 12], [2.0, 1, 14, 12], [9.0, 1, 14, 12]], (16, 16))
    found = model.postprocess(out, [(16, 16), (16, 8), (16, 8)])
    assert [f.boxes.tolist() for f in found] == [[[2, 1, 14, 12]], [[2, 1, 8, 12]], []]
    assert [tuple(f.masks.shape) for f in found] == [(1, 16, 16), (1, 16, 8), (0, 16, 8)]
    assert [int(f.masks.sum()) for f in found] == [12 * 11, 6 * 11, 0]
