"""Label files as people have them: grey stored as RGB, colours, soft edges; and images of any number of channels."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seglib.data.bands import read_bands
from seglib.data.catalog import OwnFiles, build_dataset
from seglib.data.categories_json import read_class_table
from seglib.data.checks import count_labels
from seglib.data.folders import SegmentationFiles
from seglib.data.images import read_image, read_label_colors, read_labels
from seglib.ops.intensity import Intensity
from seglib.types import Category

TABLE = (Category(0, "rest", False, (0, 0, 0)), Category(1, "cell", True, (200, 10, 30)))
RED, BLACK, BLUE = (200, 10, 30), (0, 0, 0), (1, 2, 250)


@pytest.fixture
def files(tmp_path):
    """Makes a data set of one image and one label file, given as an array."""

    def make(labels, image=None, ending=".png", exif=None, **how):
        labels = np.asarray(labels, np.uint8)
        image = np.zeros((*labels.shape[:2], 3), np.uint8) if image is None else image
        extra = {} if exif is None else {"exif": exif}
        Image.fromarray(image).save(tmp_path / ("x.tif" if exif is None else "x.jpg"), **extra)
        Image.fromarray(labels).save(tmp_path / f"y{ending}")
        pair = (tmp_path / ("x.tif" if exif is None else "x.jpg"), tmp_path / f"y{ending}")
        return SegmentationFiles([pair], TABLE, **how)

    return make


@pytest.mark.parametrize("channels", [3, 4])
def test_a_mask_stored_as_rgb_with_equal_channels_is_its_grey_values(files, channels):
    gray = np.array([[0, 1], [1, 255]], np.uint8)
    rgb = np.stack([gray] * 3 + [np.full_like(gray, 255)] * (channels - 3), -1)
    assert files(rgb)[0].semantic.tolist() == gray.tolist()


def test_colours_where_ids_are_expected_are_named_with_the_remedy(files):
    data = files([[BLACK, RED]])
    with pytest.raises(ValueError, match=r'\[200, 10, 30\] at \(row 0, column 1\).*write "labels": "color"'):
        count_labels(data, "semantic")


def test_transparent_labels_are_refused(files, tmp_path):
    with pytest.raises(ValueError, match=r"pixel at \(row 0, column 1\) is transparent"):
        files([[(0, 0, 0, 255), (0, 0, 0, 0)]])[0]
    with pytest.raises(ValueError, match=r"pixel at \(row 0, column 1\) is transparent"):
        read_label_colors(tmp_path / "y.png")


COLORS = {BLACK: 0, RED: 1, (9, 9, 9): 255}


@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp", ".gif"])
def test_colour_coded_labels_are_read_through_the_table(files, ending):
    data = files([[RED, BLACK, (9, 9, 9)]], ending=ending, colors=COLORS)
    assert data[0].semantic.tolist() == [[1, 0, 255]]
    counts = count_labels(data, "semantic")
    assert counts.classes == (1, 1) and counts.void == 1 and counts.pixels == 3


def test_an_unknown_colour_is_named_with_its_pixel_and_file(files):
    with pytest.raises(
        ValueError, match=r"y\.png: the colour \[1, 2, 250\] at \(row 1, column 0\) is that of no class"
    ):
        files([[RED], [BLUE]], colors=COLORS)[0]


def test_colours_lost_to_jpeg_are_refused(tmp_path):
    Image.new("RGB", (4, 4), RED).save(tmp_path / "y.jpg")
    with pytest.raises(ValueError, match="JPEG compression changes colours"):
        read_label_colors(tmp_path / "y.jpg")


def test_colors_and_ids_exclude_each_other_and_are_checked(files):
    with pytest.raises(ValueError, match="leave out void, remap and threshold"):
        files([[BLACK]], colors=COLORS, remap={0: 0})
    with pytest.raises(ValueError, match=r"colors has \(0, 0, 300\)"):
        files([[BLACK]], colors={(0, 0, 300): 0})
    with pytest.raises(ValueError, match=r"colors sends one to 2, which is not in 0\.\.1 or 255"):
        files([[BLACK]], colors={BLACK: 2})


def test_soft_edges_are_cut_at_a_threshold_and_the_key_is_named_without_one(files):
    soft = [[0, 127, 128, 255]]
    with pytest.raises(ValueError, match=r'label 127 .*of an antialiased mask .* write "threshold": 128'):
        files(soft, remap={0: 0, 255: 1})[0]
    assert files(soft, remap={0: 0, 255: 1}, threshold=128)[0].semantic.tolist() == [[0, 0, 1, 1]]


def test_categories_json_asks_for_colours_thresholds_and_channels(tmp_path):
    for part, array in (("images", np.zeros((2, 3, 4), np.uint8)), ("labels", np.array([[RED] * 3, [BLACK] * 3]))):
        (tmp_path / "train" / part).mkdir(parents=True)
        Image.fromarray(array.astype(np.uint8)).save(tmp_path / "train" / part / "a.png")
    rows = [{"name": c.name, "color": list(c.color)} for c in TABLE]
    (tmp_path / "categories.json").write_text(json.dumps({"categories": rows, "labels": "color", "channels": 4}))
    data = build_dataset("folder", tmp_path, "train", size=(2, 3), augment=True)
    assert data[0].image.shape == (4, 2, 3)  # and colours aren't jittered
    assert data.channels == 4 and set(data[0].semantic.flatten().tolist()) <= {0, 1, 255}


def test_the_class_tables_in_the_readme_are_read(tmp_path):
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```json\n(.*?)```", readme, re.DOTALL)
    tables = []
    for block in blocks:
        (tmp_path / "categories.json").write_text(block)
        tables.append(read_class_table(tmp_path / "categories.json"))
    assert [[c.name for c in table.categories] for table in tables] == [["background", "crack"]] * 2
    assert tables[0].remap is None and tables[1].remap == {0: 0, 255: 1}
    (tmp_path / "categories.json").write_text(json.dumps(json.loads(blocks[1]) | {"threshold": 128}))
    assert read_class_table(tmp_path / "categories.json").threshold == 128  # "with the ids above"


# Images of any number of channels.


def test_bands_of_a_png_and_a_tiff_are_channels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 4), np.uint8)
    for ending in (".png", ".tif"):
        Image.fromarray(pixels).save(tmp_path / f"a{ending}")
        image = read_bands(tmp_path / f"a{ending}", 4)
        assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
    with pytest.raises(ValueError, match="a.png has 4 channels, and images of 5 channels are wanted"):
        read_bands(tmp_path / "a.png", 5)


def test_pages_of_a_tiff_are_channels_and_keep_16_bits(tmp_path):
    pages = [Image.fromarray(np.full((3, 5), n, np.uint16)) for n in (0, 100, 65535, 7, 8)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert read_bands(tmp_path / "a.tif", 5)[:, 0, 0].tolist() == pytest.approx(
        [0, 100 / 65535, 1, 7 / 65535, 8 / 65535]
    )


def test_an_array_file_is_read_in_either_order_of_axes(tmp_path):
    array = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    np.save(tmp_path / "b.npy", array.transpose(1, 2, 0))
    assert torch.equal(read_bands(tmp_path / "a.npy", 5), read_bands(tmp_path / "b.npy", 5))
    np.save(tmp_path / "c.npy", array * 300)
    with pytest.raises(ValueError, match=r"c\.npy holds float32 from .*; save uint8 or uint16, or floats scaled"):
        read_bands(tmp_path / "c.npy", 5)
    np.save(tmp_path / "d.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"d\.npy cannot be read"):
        read_bands(tmp_path / "d.npy", 1)


def test_grey_images_stay_one_channel_also_when_saved_as_rgb(tmp_path):
    gray = np.arange(6, dtype=np.uint8).reshape(2, 3)
    Image.fromarray(gray).save(tmp_path / "a.png")
    Image.fromarray(gray).convert("RGB").save(tmp_path / "b.png")
    assert torch.equal(read_bands(tmp_path / "a.png", 1), read_bands(tmp_path / "b.png", 1))


def test_a_fourth_band_of_a_tiff_is_not_composed_over_white(tmp_path):
    pixels = np.full((2, 3, 4), 60, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r'fourth band that isn\'t opaque.*"channels": 4'):
        read_image(tmp_path / "a.tif")
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif").unique().tolist() == pytest.approx([60 / 255])


def test_a_smaller_copy_in_a_tiff_is_no_second_image(tmp_path):
    large, small = (Image.new("L", (n, n), 9) for n in (8, 2))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    large.save(tmp_path / "a.tif", save_all=True, append_images=[small])
    assert read_labels(tmp_path / "a.tif").shape == (8, 8)


# What files show before training.


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize(("shape", "value", "doubtful"), [((4, 4), 6, True), ((4, 6), 3, True), ((4, 6), 6, False)])
def test_an_orientation_that_sizes_cannot_confirm_is_warned_of(files, shape, value, doubtful):
    upright = shape[::-1] if value == 6 else shape
    stored = np.zeros((*shape, 3), np.uint8)
    warnings = files(np.zeros(upright), image=stored, exif=orientation(value)).file_warnings()
    assert bool(warnings) == doubtful and all("pass --stored-orientation" in w for w in warnings)
    assert not files(np.zeros(shape), exif=orientation(value), upright=False).file_warnings()


def test_labels_of_another_size_are_refused_before_training(files):
    with pytest.raises(ValueError, match=r"is 5 x 4 .* are 4 x 4; export the labels at the size"):
        files(np.zeros((4, 4)), image=np.zeros((5, 4, 3), np.uint8)).file_warnings()


def test_the_remedy_for_turned_labels_is_an_option_of_the_command_line(files):
    with pytest.raises(ValueError, match="pass --stored-orientation"):
        files(np.zeros((4, 6)), exif=orientation(6))[0]
    assert files(np.zeros((4, 6)), exif=orientation(6), upright=False)[0].image.shape == (3, 4, 6)


def test_12_bits_in_16_are_warned_of_and_rescaled_by_percentiles(files):
    ramp = np.linspace(0, 4095, 64 * 64).astype(np.uint16).reshape(64, 64)
    data = files(np.zeros((64, 64)), image=ramp)
    (warning,) = data.file_warnings()
    assert "no value above 4095 of 65535" in warning and "--rescale percentile" in warning
    rescaled = files(np.zeros((64, 64)), image=ramp, intensity=Intensity("percentile"))
    assert not rescaled.file_warnings()
    image = rescaled[0].image
    assert [float(v) for v in image.aminmax()] == pytest.approx([0, 1]) and image.mean() == pytest.approx(0.5, abs=0.01)
    assert not files(np.zeros((64, 64)), image=ramp * 10).file_warnings()


def test_an_image_of_one_value_or_with_a_few_spots_is_rescaled_too():
    rescale = Intensity("percentile")
    assert rescale(torch.full((1, 4, 4), 0.3)).unique().tolist() == [0]
    spots = torch.zeros(1, 100, 100)
    spots[0, 3, 3] = 0.2
    assert rescale(spots).aminmax() == (0, 1)
    with pytest.raises(ValueError, match="nan or infinite"):
        rescale(torch.tensor([[[0.0, float("nan")]]]))


def test_rescaling_is_an_option_of_folders(tmp_path):
    for part, array in (("images", np.full((4, 4), 9, np.uint16)), ("labels", np.zeros((4, 4), np.uint8))):
        (tmp_path / "train" / part).mkdir(parents=True)
        Image.fromarray(array).save(tmp_path / "train" / part / "a.png")
    (tmp_path / "categories.json").write_text('["rest"]')
    own = OwnFiles(intensity=Intensity("percentile"))
    assert build_dataset("folder", tmp_path, "train", own=own)[0].image.unique().tolist() == [0]
