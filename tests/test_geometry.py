"""At what size a model sees an image: rules worked out by hand, and torchvision's own transform."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from seglib.ops.geometry import NATIVE, Geometry


@pytest.mark.parametrize(
    ("geometry", "size", "seen"),
    [
        (NATIVE, (480, 641), (480, 641)),
        (Geometry("shorter", 240), (480, 640), (240, 320)),
        (Geometry("shorter", 240), (480, 641), (240, 321)),  # 320.5 is rounded up
        (Geometry("shorter", 240, rounding="floor"), (480, 641), (240, 320)),
        (Geometry("shorter", 800, 1333), (480, 640), (800, 1067)),  # 1066.7
        (Geometry("shorter", 800, 1333), (300, 900), (444, 1333)),  # the longer side is the limit: 444.3
        (Geometry("square", 550), (480, 640), (550, 550)),
        (Geometry("letterbox", 1024), (480, 640), (768, 1024)),
        (Geometry("letterbox", 1024), (3000, 2000), (1024, 683)),
        (Geometry("shorter", 1), (1000, 1), (1000, 1)),
        (Geometry("letterbox", 8), (1000, 1), (8, 1)),  # never less than a pixel
    ],
)
def test_sizes_by_hand(geometry, size, seen):
    assert geometry.model_size(size) == seen
    assert tuple(geometry(torch.rand(3, *size)).shape[1:]) == seen


@given(st.integers(60, 900), st.integers(60, 900))
def test_sizes_are_those_of_torchvisions_detectors(height, width):
    transform = GeneralizedRCNNTransform(80, 133, [0.0] * 3, [1.0] * 3).eval()
    with torch.device("meta"):
        want, _ = transform.resize(torch.empty(3, height, width), None)
    geometry = Geometry("shorter", 80, 133, antialias=False, rounding="floor")
    assert geometry.model_size((height, width)) == tuple(want.shape[1:])


def test_pixels_are_those_of_torchvisions_detectors():
    image = torch.rand(3, 100, 151)
    want, _ = GeneralizedRCNNTransform(80, 133, [0.0] * 3, [1.0] * 3).eval().resize(image, None)
    found = Geometry("shorter", 80, 133, antialias=False, rounding="floor")(image)
    assert torch.equal(found, want)


def test_it_goes_through_json():
    geometry = Geometry("shorter", 800, 1333, antialias=False, rounding="floor")
    assert Geometry(**geometry.to_json()) == geometry


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("wide",), "geometry mode 'wide' is unknown; choose one of native, shorter"),
        (("shorter",), "got size None"),
        (("native", 3), "native takes none"),
        (("square", 5, 6), "longest belongs to shorter"),
        (("shorter", 0), "size must be a positive whole number of pixels, got 0"),
        (("shorter", 8, -1), "longest must be a positive"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Geometry(*arguments)
    with pytest.raises(ValueError, match='"round" or "floor"'):
        Geometry(rounding="up")
