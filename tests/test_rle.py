"""COCO's run-length codes: both ways, from polygons, and no code that isn't one goes through."""

import json
import re
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from seglib.ops.rle import check_rles, compress_rles, decode_rle, encode_rle, polygons_to_rle, rle_areas

MASK = torch.tensor([[[0, 1, 1], [0, 1, 0]]], dtype=torch.bool)
# By columns 0 0 | 1 1 | 1 0: runs 2 3 1, all below 16, so one character each: chr(48 + run).
CODE = {"size": [2, 3], "counts": "231"}


@st.composite
def masks(draw):
    """``(N, H, W)`` bool of any density; N, H and W may be 0."""
    shape = draw(st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 70)))
    density = draw(st.sampled_from([0, 0.02, 0.3, 0.9, 1]))
    return torch.rand(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 2**31)))) < density


def test_a_mask_is_coded_by_columns_as_counted_by_hand():
    assert encode_rle(MASK) == [CODE]
    assert torch.equal(decode_rle([CODE]), MASK)
    assert rle_areas([CODE]).tolist() == [3]


@given(masks())
def test_decoding_gives_the_encoded_masks_and_areas_count_them(m):
    codes = json.loads(json.dumps(encode_rle(m)))
    back = decode_rle(codes, (m.shape[1], m.shape[2]))
    assert torch.equal(back, m) and back.is_contiguous()
    assert torch.equal(rle_areas(codes), m.flatten(1).sum(1))


@given(masks())
def test_codes_and_areas_are_pycocotools_own(m):
    codes = encode_rle(m)
    for code, mask in zip(codes, m, strict=True):
        theirs = coco.encode(mask.numpy().astype("uint8", order="F"))
        assert code == {"size": list(theirs["size"]), "counts": theirs["counts"].decode()}
    assert rle_areas(codes).tolist() == [int(a) for a in coco.area(codes)]


def test_runs_longer_than_five_bits_and_shrinking_runs_are_read():
    m = torch.zeros(1, 700, 900, dtype=torch.bool)
    m[0, :, 400:403], m[0, 5, 500:] = True, True  # one run of 2,100, then 400 of 1
    assert rle_areas(encode_rle(m)).tolist() == [2500]


def test_text_bytes_and_lists_of_runs_are_the_same_code():
    forms = [CODE, {"size": (2, 3), "counts": b"231"}, {"size": [2, 3], "counts": [2, 3, 1]}]
    assert compress_rles(forms) == [CODE] * 3
    assert torch.equal(decode_rle(forms), MASK.expand(3, 2, 3))


def test_the_check_returns_what_it_checked():
    codes, areas = check_rles([{"size": [2, 3], "counts": [2, 3, 1]}])
    assert codes == [CODE] and areas.tolist() == [3]


def test_no_code_is_no_mask():
    assert encode_rle(torch.zeros(0, 4, 5, dtype=torch.bool)) == []
    assert decode_rle([], (4, 5)).shape == (0, 4, 5)
    assert decode_rle([]).shape == (0, 0, 0)
    assert rle_areas([]).tolist() == []


def test_masks_that_are_not_contiguous_are_coded_the_same():
    m = torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    assert encode_rle(m.transpose(1, 2)) == encode_rle(m.transpose(1, 2).contiguous())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_masks_on_a_gpu_are_coded_the_same():
    assert encode_rle(MASK.cuda()) == [CODE]


# Polygons ------------------------------------------------------------------------------------------------------------


def test_a_rectangle_covers_its_pixels():
    rle = polygons_to_rle([[1, 0, 4, 0, 4, 2, 1, 2]], 3, 6)
    expected = torch.zeros(1, 3, 6, dtype=torch.bool)
    expected[0, :2, 1:4] = True
    assert torch.equal(decode_rle([rle]), expected)


def test_the_parts_of_an_object_are_one_mask_and_overlaps_count_once():
    left, middle = [0, 0, 3, 0, 3, 2, 0, 2], [2, 0, 5, 0, 5, 2, 2, 2]
    rle = polygons_to_rle([left, middle], 2, 6)
    assert rle_areas([rle]).tolist() == [10]
    assert isinstance(rle["counts"], str)


def test_what_lies_outside_the_image_is_cut_off():
    assert rle_areas([polygons_to_rle([[-5, -5, 20, -5, 20, 20, -5, 20]], 4, 7)]).tolist() == [28]


def test_no_polygon_is_an_empty_mask():
    assert polygons_to_rle([], 2, 3) == encode_rle(torch.zeros(1, 2, 3, dtype=torch.bool))[0]


@pytest.mark.parametrize(
    "polygon", [[0, 0, 1, 1], [0, 0, 1, 1, 2, 2, 3], [0, 0, 1, 1, 2, float("nan")], [0, 0, 1, 1, 2, "3"], 7, []]
)
def test_what_is_no_polygon_is_named(polygon):
    with pytest.raises(ValueError, match=r"polygons\[1\] is .*at least three points"):
        polygons_to_rle([[0, 0, 1, 0, 1, 1], polygon], 3, 3)


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [torch.zeros(1, 2, 3), torch.zeros(2, 3, dtype=torch.bool)])
def test_masks_that_are_not_bool_or_not_three_dimensional_are_refused(bad):
    with pytest.raises(ValueError, match="masks must be bool"):
        encode_rle(bad)


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ("23", "add up to 5"),  # too short: pycocotools.mask.iou would never return
        ("235", "add up to 10"),  # too long
        ("", "aren't packed runs"),
        ("23Q", "aren't packed runs"),  # 81 − 48 has bit 5 set: the number goes on, the text doesn't
        ("23 1", "aren't packed runs"),  # a blank is below 48
        ("2~1", "aren't packed runs"),  # and ~ above 111
        ("23é", "aren't packed runs"),
        ("23\u20ac", "aren't packed runs"),
        ("PPPPPPPPPP0", "aren't packed runs"),  # one number of 11 characters
        ("2L8", "none may be negative"),  # 76 − 48 = 28 is −4 in 5 bits: 2 − 4 + 8 = 6
        ([2, 3], "must be whole numbers"),
        ([2, -3, 7], "must be whole numbers"),
        ([2.0, 3, 1], "must be whole numbers"),
        (None, "counts None; counts are text"),
    ],
)
def test_a_malformed_code_is_named(counts, says):
    bad = {"size": [2, 3], "counts": counts}
    for function in (decode_rle, rle_areas):
        with pytest.raises(ValueError, match=rf"rles\[1\] .*{says}"):
            function([CODE, bad])


@pytest.mark.parametrize("bad", [None, "231", [1, 2], {"counts": "231"}, {"size": [2, 3]}])
def test_what_is_no_code_is_named(bad):
    with pytest.raises(ValueError, match=re.escape("rles[1] is ")):
        decode_rle([CODE, bad])


@pytest.mark.parametrize("size", [[2], [2, "x"], [2, 3.5], None, [-2, 3], 6])
def test_what_is_no_size_is_named(size):
    with pytest.raises(ValueError, match=r"rles\[0\] has size"):
        decode_rle([{"size": size, "counts": "231"}])


def test_codes_of_different_sizes_are_refused():
    other = {"size": [3, 2], "counts": "231"}
    with pytest.raises(ValueError, match=re.escape("rles[1] has size [3, 2], expected [2, 3]")):
        decode_rle([CODE, other])
    with pytest.raises(ValueError, match=re.escape("rles[0] has size [2, 3], expected [3, 2]")):
        rle_areas([CODE], size=(3, 2))


def test_without_pycocotools_the_error_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ImportError, match="run-length codes need pycocotools; run pip install pycocotools"):
        encode_rle(MASK)
