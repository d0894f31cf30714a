"""Reading images and labels, writing PNG files."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from seglib.data import images
from seglib.data.images import read_image, read_labels, write_png
from seglib.files import atomic_path

RGB = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [51, 102, 153], [255, 255, 255]]], np.uint8)  # 2x3
GRAY = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)


def as_tensor(rgb: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rgb.copy()).permute(2, 0, 1) / 255


def png_by_hand(path: Path, rows: list[bytes], width: int, bits: int, color: int) -> Path:
    """A PNG put together byte by byte, for the types that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, color, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return path


# --- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
def test_an_rgb_file_is_read_as_it_is(tmp_path, ending):
    Image.fromarray(RGB).save(tmp_path / f"a.{ending}")
    image = read_image(tmp_path / f"a.{ending}")
    assert image.dtype == torch.float32 and image.is_contiguous()
    assert torch.equal(image, as_tensor(RGB))


def test_a_path_may_be_a_string(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert torch.equal(read_image(str(tmp_path / "a.png")), as_tensor(RGB))


def test_a_gray_file_has_three_equal_channels(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png"), as_tensor(np.stack([GRAY] * 3, -1)))


def test_a_one_bit_file_is_black_and_white(tmp_path):
    Image.fromarray(GRAY > 120).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0].tolist() == [[0, 0, 0], [1, 1, 1]]


def test_a_palette_file_has_its_colours(tmp_path):
    opened = Image.fromarray(RGB).quantize(8)
    assert opened.mode == "P"
    opened.save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png"), as_tensor(RGB))


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bit_gray_is_scaled_by_65535(tmp_path, ending):
    values = np.array([[0, 1, 255], [256, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{ending}")
    expected = torch.from_numpy(values.astype(np.float32) / 65535).expand(3, 2, 3)
    assert torch.equal(read_image(tmp_path / f"a.{ending}"), expected)


def test_big_endian_16_bit_gray_is_the_same_image(tmp_path):
    # Baseline TIFF, "MM" = big-endian: one strip of 1x2 16-bit pixels at byte 8, then the directory.
    tags = [(256, 3, 2), (257, 3, 1), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 3, 1), (279, 4, 4)]
    directory = struct.pack(">H", len(tags))
    for tag, field_type, value in tags:
        directory += struct.pack(">HHI", tag, field_type, 1) + (
            struct.pack(">HH", value, 0) if field_type == 3 else struct.pack(">I", value)
        )
    pixels = struct.pack(">HH", 1, 65535)
    (tmp_path / "a.tif").write_bytes(b"MM\0*" + struct.pack(">I", 12) + pixels + directory + b"\0" * 4)
    assert read_image(tmp_path / "a.tif")[0].tolist() == [[pytest.approx(1 / 65535), 1.0]]
    assert read_labels(tmp_path / "a.tif").tolist() == [[1, 65535]]


def test_16_bit_rgb_keeps_its_upper_8_bits(tmp_path):
    path = png_by_hand(tmp_path / "a.png", [struct.pack(">6H", 0xFFFF, 0x8000, 0, 0x33FF, 0x6600, 0x9900)], 2, 16, 2)
    assert torch.equal(read_image(path), as_tensor(np.array([[[255, 128, 0], [0x33, 0x66, 0x99]]], np.uint8)))


def test_transparent_pixels_lie_over_white(tmp_path):
    alpha = np.array([[255, 0, 51], [255, 255, 255]], np.uint8)
    Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / "rgba.png")
    image = read_image(tmp_path / "rgba.png")
    assert image[:, 0, 0].tolist() == [1, 0, 0]  # opaque red
    assert image[:, 0, 1].tolist() == [1, 1, 1]  # green, wholly transparent
    assert image[:, 0, 2].tolist() == pytest.approx([0.8, 0.8, 1])  # blue at 20 %
    gray = Image.merge("LA", [Image.fromarray(GRAY), Image.fromarray(alpha)])
    gray.save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png")[0, 0].tolist() == pytest.approx([0, 1, 0.2 * 0.4 + 0.8])


def test_a_colour_key_and_a_transparent_palette_entry_lie_over_white(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "key.png", transparency=(0, 255, 0))
    assert read_image(tmp_path / "key.png")[:, 0].T.tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 1]]
    opened = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    opened.putpalette([255, 0, 0, 0, 255, 0])
    opened.save(tmp_path / "palette.png", transparency=1)
    assert read_image(tmp_path / "palette.png")[:, 0].T.tolist() == [[1, 0, 0], [1, 1, 1]]


def test_a_cmyk_file_is_converted_to_rgb(tmp_path):
    cmyk = np.zeros((16, 16, 4), np.uint8)
    cmyk[..., 1:3] = 255  # magenta and yellow make red
    for name, tolerance in {"a.tif": 0.0, "a.jpg": 0.02}.items():  # JPEG rounds a flat colour by a few of 255
        Image.fromarray(cmyk, "CMYK").save(tmp_path / name)
        expected = torch.tensor([1.0, 0, 0]).view(3, 1, 1).expand(3, 16, 16)
        torch.testing.assert_close(read_image(tmp_path / name), expected, atol=tolerance, rtol=0)


def test_any_page_of_a_stack_can_be_read(tmp_path):
    pages = [np.full((2, 3), n, np.uint8) for n in (10, 20, 30)]
    first, *others = (Image.fromarray(p) for p in pages)
    first.save(tmp_path / "stack.tif", save_all=True, append_images=others)
    assert images.count_pages(tmp_path / "stack.tif") == 3
    for read in (read_image, read_labels):
        with pytest.raises(ValueError, match=r'it holds 3 images, and one is wanted; save .*"channels": 3'):
            read(tmp_path / "stack.tif")
    for page, expected in enumerate(pages):
        assert read_labels(tmp_path / "stack.tif", page=page).tolist() == expected.tolist()
        assert torch.equal(read_image(tmp_path / "stack.tif", page=page)[0], torch.from_numpy(expected) / 255)
    for read in (read_image, read_labels):
        for page in (3, -1):
            with pytest.raises(ValueError, match=rf"stack\.tif cannot be used: it has no page {page}; .* 0\.\.2"):
                read(tmp_path / "stack.tif", page=page)


def test_a_file_of_one_image_has_one_page(tmp_path):
    write_png(tmp_path / "a.png", GRAY)
    assert images.count_pages(tmp_path / "a.png") == 1
    with pytest.raises(ValueError, match=r"no page 1; its pages are 0\.\.0"):
        read_labels(tmp_path / "a.png", page=1)


def test_a_16_bit_stack_keeps_its_bits_on_every_page(tmp_path):
    first, second = (Image.fromarray(np.full((2, 3), n, np.uint16)) for n in (256, 65535))
    first.save(tmp_path / "stack.tif", save_all=True, append_images=[second])
    assert read_image(tmp_path / "stack.tif", page=1).unique().tolist() == [1.0]
    assert read_image(tmp_path / "stack.tif", page=0).unique().tolist() == pytest.approx([256 / 65535])


# Where row 0 and column 0 of the stored pixels belong in the upright image, from the EXIF standard, as arrays.
STORED = {
    1: lambda upright: upright,  # top, left
    2: lambda upright: upright[:, ::-1],  # top, right
    3: lambda upright: upright[::-1, ::-1],  # bottom, right
    4: lambda upright: upright[::-1],  # bottom, left
    5: lambda upright: upright.swapaxes(0, 1),  # left, top
    6: lambda upright: upright.swapaxes(0, 1)[::-1],  # right, top
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],  # left, bottom
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_a_photo_with_any_exif_orientation_stands_upright(tmp_path, orientation, ending):
    rng = np.random.default_rng(0)
    upright = np.kron(rng.integers(0, 256, (2, 3, 3), np.uint8), np.ones((8, 8, 1), np.uint8))  # 16x24 in blocks
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    extra = {"quality": 100, "subsampling": 0} if ending == "jpg" else {}
    Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))).save(path, exif=exif, **extra)
    tolerance = 4 / 255 if ending == "jpg" else 0  # JPEG at quality 100 rounds
    torch.testing.assert_close(read_image(path), as_tensor(upright), atol=tolerance, rtol=0)


def test_a_rotated_16_bit_photo_keeps_its_range(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png")[0].tolist() == [[0], [1]]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bit_pixels_are_refused(tmp_path, dtype):
    Image.fromarray(np.ones((2, 2), dtype)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif.*32-bit.*8 or 16 bits"):
        read_image(tmp_path / "a.tif")


# --- label maps -----------------------------------------------------------------------------------------------------


def test_labels_are_the_stored_ids(tmp_path):
    ids = np.array([[0, 1, 2], [7, 254, 255]], np.uint8)
    Image.fromarray(ids).save(tmp_path / "a.png")
    labels = read_labels(tmp_path / "a.png")
    assert labels.dtype == torch.int64
    assert labels.tolist() == ids.tolist()


def test_labels_of_a_palette_file_are_indices_and_not_colours(tmp_path):
    ids = np.array([[0, 1], [2, 1]], np.uint8)
    opened = Image.fromarray(ids).convert("P")
    opened.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    opened.save(tmp_path / "a.png")
    assert read_labels(tmp_path / "a.png").tolist() == ids.tolist()


def test_16_bit_labels_are_kept_whole(tmp_path):
    Image.fromarray(np.array([[0, 256], [1000, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert read_labels(tmp_path / "a.png").tolist() == [[0, 256], [1000, 65535]]


@pytest.mark.parametrize("bits, row", [(1, 0b01100000), (2, 0b00011011), (4, 0)])
def test_labels_of_few_bits_are_not_stretched_to_255(tmp_path, bits, row):
    rows = {1: [bytes([row])], 2: [bytes([row])], 4: [bytes([0x07, 0xF1])]}[bits]
    expected = {1: [0, 1, 1, 0], 2: [0, 1, 2, 3], 4: [0, 7, 15, 1]}[bits]
    assert read_labels(png_by_hand(tmp_path / "a.png", rows, 4, bits, 0)).tolist() == [expected]


def test_labels_stored_as_colours_are_refused_with_the_remedy(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png.*mode RGB.*index map.*class table"):
        read_labels(tmp_path / "a.png")


def test_labels_compressed_with_loss_are_refused(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg.*JPEG compression.*index PNG"):
        read_labels(tmp_path / "a.jpg")


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_labels_that_ask_to_be_rotated_are_refused(tmp_path, ending):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(GRAY).save(tmp_path / f"a.{ending}", exif=exif)
    with pytest.raises(ValueError, match=r"EXIF orientation is 6.*rotate"):
        read_labels(tmp_path / f"a.{ending}")


# --- broken files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_image, read_labels])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png does not exist; check the path"):
        read(tmp_path / "nowhere.png")


@pytest.mark.parametrize("read", [read_image, read_labels])
@pytest.mark.parametrize("content", [b"", b"hello, this is text"])
def test_a_file_that_is_no_image_is_named(tmp_path, read, content):
    (tmp_path / "notes.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"notes\.png is not an image.*convert"):
        read(tmp_path / "notes.png")


@pytest.mark.parametrize("read", [read_image, read_labels])
def test_a_truncated_png_is_named(tmp_path, read):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"half\.png cannot be read.*copy or export it again"):
        read(tmp_path / "half.png")


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        read_image(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(data=st.data(), ending=st.sampled_from(["png", "jpg", "tif", "bmp"]))
def test_a_damaged_file_gives_pixels_or_an_error_with_its_name(tmp_path, monkeypatch, data, ending):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # a damaged size must not cost gigabytes
    path = tmp_path / f"a.{ending}"
    Image.fromarray(np.kron(RGB, np.ones((4, 4, 1), np.uint8))).save(path)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        image = read_image(path)
    except ValueError as error:
        assert f"a.{ending}" in str(error)
    else:
        assert image.shape[0] == 3 and image.min() >= 0 and image.max() <= 1


def test_an_image_too_large_to_decode_safely_is_named(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(ValueError, match=r"huge\.png claims more pixels than are safe"):
        read_image(tmp_path / "huge.png")


# --- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("array", [GRAY, RGB, RGB[:, ::-1]])
def test_what_is_written_is_read_again(tmp_path, array):
    write_png(tmp_path / "new" / "a.png", array)
    assert np.array_equal(np.array(Image.open(tmp_path / "new" / "a.png")), array)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]


def test_a_label_map_survives_a_round_trip_as_a_tensor(tmp_path):
    labels = torch.tensor([[0, 3], [255, 1]])
    write_png(tmp_path / "a.png", labels.to(torch.uint8))
    assert torch.equal(read_labels(tmp_path / "a.png"), labels)


def test_a_palette_colours_a_label_map_whose_values_stay(tmp_path):
    labels = np.array([[0, 1], [255, 7]], np.uint8)
    write_png(tmp_path / "l.png", labels, {0: (0, 0, 0), 1: (230, 159, 0), 255: (224, 224, 192)})
    assert read_labels(tmp_path / "l.png").tolist() == labels.tolist()
    with Image.open(tmp_path / "l.png") as stored:
        shown = np.asarray(stored.convert("RGB"))
    assert shown[0, 1].tolist() == [230, 159, 0] and shown[1].tolist() == [[224, 224, 192], [7, 7, 7]]
    write_png(tmp_path / "deep.png", labels.astype(np.uint16), {1: (230, 159, 0)})  # 16 bits have no palette
    assert read_labels(tmp_path / "deep.png").tolist() == labels.tolist()


@pytest.mark.parametrize(
    "array, name, message",
    [
        (GRAY.astype(np.float32), "a.png", "uint8, or a label map from uint16, got float32"),
        (np.zeros((2, 2, 4), np.uint8), "a.png", r"\(H, W, 3\), got \(2, 2, 4\)"),
        (np.zeros((0, 4), np.uint8), "a.png", r"got \(0, 4\)"),
        (GRAY, "a.jpg", r"ends in \.png"),
    ],
)
def test_pixels_that_are_no_png_are_refused_before_anything_is_written(tmp_path, array, name, message):
    with pytest.raises(ValueError, match=message):
        write_png(tmp_path / name, array)
    assert list(tmp_path.iterdir()) == []


def test_nothing_half_written_stays_when_saving_fails(tmp_path, monkeypatch):
    write_png(tmp_path / "a.png", GRAY)

    def fail_halfway(self, path, format, pnginfo):
        Path(path).write_bytes(b"\x89PNG half")
        raise OSError("disk full")

    monkeypatch.setattr(images.Image.Image, "save", fail_halfway)
    with pytest.raises(OSError, match="disk full"):
        write_png(tmp_path / "a.png", 255 - GRAY)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert read_labels(tmp_path / "a.png").tolist() == GRAY.tolist()  # the old file is untouched


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_atomic_path_leaves_nothing_behind_on_failure(tmp_path, error):
    with pytest.raises(error), atomic_path(tmp_path / "out.json") as temporary:
        temporary.write_text("{ half")
        assert temporary.parent == tmp_path and temporary.suffix == ".json"
        raise error
    assert list(tmp_path.iterdir()) == []


def test_atomic_path_shows_the_file_only_when_it_is_whole(tmp_path):
    final = tmp_path / "deep" / "er" / "out.txt"
    with atomic_path(final) as temporary:
        temporary.write_text("done")
        assert not final.exists()
    assert final.read_text() == "done"
    assert list(final.parent.iterdir()) == [final]


def test_a_finished_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_text("")
    with atomic_path(tmp_path / "private") as beside:
        beside.touch(mode=0o600)
    assert (tmp_path / "private").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_label_map_of_16_bits_comes_back_as_it_was_written(tmp_path):
    ids = np.array([[0, 255, 256], [65535, 1, 300]], np.uint16)
    write_png(tmp_path / "ids.png", ids)
    assert read_labels(tmp_path / "ids.png").tolist() == ids.tolist()
    with pytest.raises(ValueError, match=r"label map from uint16, got uint16 of shape \(2, 3, 3\)"):
        write_png(tmp_path / "rgb.png", np.stack([ids] * 3, 2))


def test_no_transparent_pixel_is_brighter_than_white(tmp_path):
    levels = np.arange(256, dtype=np.uint8)
    rgba = np.stack([np.broadcast_to(levels[:, None], (256, 256))] * 3 + [np.broadcast_to(levels, (256, 256))], 2)
    Image.fromarray(np.ascontiguousarray(rgba)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").max() == 1


def test_an_animation_is_refused_as_such(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "green", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="it is an animation of 3 frames; save the one that you mean"):
        read_image(tmp_path / "a.gif")
