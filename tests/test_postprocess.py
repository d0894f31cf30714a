"""From raw outputs to predictions at the photo's own size."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seglib.models.zoo import build
from seglib.postprocess.semantic import fit_short_side, predict_semantic, semantic_from_logits


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


def test_half_precision_logits_give_float32_probabilities():
    (semantic,) = semantic_from_logits(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16))
    assert semantic.probs.dtype == torch.float32


def test_a_photo_at_its_own_size_goes_to_the_model_unchanged():
    for short_side in (None, 12):
        model = Bright()
        result = predict_semantic(model, photo(), short_side=short_side)
        assert torch.equal(model.seen[0][0], photo())
        assert torch.equal(result.labels, (photo()[0] > 0.5).long())


def test_a_resized_photo_is_answered_at_its_own_size():
    model = Bright()
    result = predict_semantic(model, photo(), short_side=6)
    assert model.seen[0].shape == (1, 3, 6, 10)
    assert result.labels.shape == (12, 20)
    assert result.probs.shape == (2, 12, 20)
    assert torch.equal(result.labels, (photo()[0] > 0.5).long())
    torch.testing.assert_close(result.probs.sum(0), torch.ones(12, 20))
    assert torch.equal(result.labels, result.probs.argmax(0))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300))
def test_the_shorter_side_gets_the_length_asked_for_and_the_other_keeps_the_ratio(height, width, short):
    new = fit_short_side(height, width, short)
    assert min(new) == short
    assert max(new) == pytest.approx(short * max(height, width) / min(height, width), abs=0.5)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (8, 8), (1, 8, 8), (8, 8, 3)])
def test_an_image_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="expected one image"):
        predict_semantic(Bright(), torch.zeros(shape))


@pytest.mark.parametrize("short_side", [0, -3])
def test_a_short_side_that_is_not_positive_is_refused(short_side):
    with pytest.raises(ValueError, match=f"short_side must be a positive number of pixels, got {short_side}"):
        predict_semantic(Bright(), photo(), short_side=short_side)


@pytest.mark.parametrize("short_side", [None, 6])
def test_values_of_0_to_255_are_refused_at_any_size(short_side):
    with pytest.raises(ValueError, match="255"):
        predict_semantic(build("fcn_tiny", 2), 255 * photo(), short_side=short_side)
