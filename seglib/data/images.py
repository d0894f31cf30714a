"""Image files in and out: images as float RGB, label maps as class ids, and writes that are whole or not at all.

Pillow decodes. This module states what happens with every kind of file that people have on disk, because the defaults
hurt in silence: a 16-bit scan read as 8 bits turns white, a phone photo lies on its side next to an upright label map,
and a palette PNG converted to RGB turns class ids into colours.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, features
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from seglib.files import atomic_path

T = TypeVar("T")

_WHITE = 255.0
_MARK = ("Software", "seglib")
_ORIENTATION = ExifTags.Base.Orientation
_SUBFILE, _REDUCED = 254, 1  # the tag NewSubfileType of TIFF and its bit for an image of reduced resolution
_LOSSY = {"JPEG", "MPO", "JPEG2000"}
# Pillow widens grey PNGs of 2 and 4 bits to the full range 0..255. A class id must come back as it was stored.
_WIDENED_BY = {"L;2": 85, "L;4": 17}


IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".avif", ".heic", ".heif"),
    ".npy",
)
"""Endings of the files that are taken for images; :func:`check_readable` names those that need another package."""


def check_readable(path: str | os.PathLike[str]) -> None:
    """Raise for a photo format that this installation has no decoder for, by its ending.

    Raises:
        ValueError: for HEIC without pillow-heif, and AVIF where Pillow was built without it; the message names the
            package.
    """
    ending = Path(path).suffix.lower()
    if ending in (".heic", ".heif") and not _reads_heif():
        raise ValueError(f"{path} is a HEIC photo; run pip install pillow-heif, or save it as JPEG or PNG")
    if ending == ".avif" and not features.check("avif"):
        raise ValueError(f"{path} is an AVIF photo; run pip install 'pillow>=11.3', or save it as JPEG or PNG")


@cache
def _reads_heif() -> bool:
    """Whether HEIC can be read: pillow-heif adds it to Pillow."""
    try:
        import pillow_heif  # type: ignore[import-not-found,unused-ignore]  # optional
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def read_image(path: str | os.PathLike[str], *, page: int | None = None, upright: bool = True) -> Tensor:
    """The image in ``path`` as float32 RGB ``(3, H, W)`` in [0, 1], upright as a viewer shows it.

    - 8-bit RGB, grey, palette and CMYK become RGB; a colour profile in the file is not applied.
    - 16-bit grey is divided by 65535, the range of its type. Microscopes often store 12 bits in it, which then fill
      only the lowest sixteenth of [0, 1]: add :class:`seglib.data.microscopy.PercentileRescale`. Of 16-bit RGB,
      Pillow keeps the upper 8 bits.
    - Transparent pixels (RGBA, LA, palette or colour-key transparency) are laid over white, as a page shows them. Not
      so in TIFF files, where what is marked as transparency is infrared as often as not: they are refused unless all
      of it is opaque. :func:`seglib.data.bands.read_bands` reads four channels.
    - The EXIF orientation is applied.

    Args:
        path: any format that Pillow reads.
        page: the number of the image in a file with several (TIFF stack, animation), from 0; ``None`` refuses such a
            file. Smaller copies of the image within a TIFF file don't count.
        upright: ``False`` leaves the pixels as they are stored, without the EXIF orientation: for data sets whose
            labels were drawn that way. (Pillow turns TIFF files in any case.)

    Returns:
        ``(3, H, W)`` float32 in [0, 1].

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is no image, is cut off or damaged, is too large to be decoded safely, has several
            images or no such page, is a TIFF file with a fourth band that isn't opaque, or stores 32-bit numbers, whose
            range is not known.
    """

    def decode(opened: Image.Image) -> np.ndarray:
        turn_to(page, opened)
        format_ = opened.format
        deep = is_16_bit(opened)
        if upright:
            opened = ImageOps.exif_transpose(opened)
        if deep:
            gray = np.array(opened).astype(np.float32) / 65535  # (H, W)
            return np.stack([gray] * 3)  # (3, H, W)
        if opened.mode in ("I", "F"):
            raise Refused(f"its 32-bit pixels (mode {opened.mode}) have no known range; save it with 8 or 16 bits")
        if opened.has_transparency_data:
            rgba = np.array(opened.convert("RGBA")).astype(np.float32).transpose(2, 0, 1)  # (4, H, W)
            alpha = rgba[3] / 255  # (H, W)
            if format_ == "TIFF" and alpha.min() < 1:
                raise Refused(
                    "it has a fourth band that isn't opaque, infrared perhaps; save it as RGB, or train on four bands"
                    ' with "channels": 4 in categories.json'
                )
            return np.minimum((rgba[:3] * alpha + _WHITE * (1 - alpha)) / 255, 1)  # rounding may exceed white
        return np.array(opened.convert("RGB")).transpose(2, 0, 1)  # (3, H, W) uint8

    check_readable(path)
    pixels = decode_file(path, decode, content="images")
    image = torch.from_numpy(np.ascontiguousarray(pixels))
    return image.float().div_(255) if image.dtype == torch.uint8 else image


def read_labels(path: str | os.PathLike[str], *, page: int | None = None, equal_channels: bool = False) -> Tensor:
    """The label map in ``path``: one integer per pixel, int64 ``(H, W)``, exactly as stored.

    An index map is a grey file (1, 2, 4, 8 or 16 bits) or a palette file. Of a palette file the indices are the labels;
    the colours are only there to look at.

    Args:
        path: an index map in a lossless format, usually PNG.
        page: the number of the map in a file with several (a TIFF stack), from 0; ``None`` refuses such a file.
        equal_channels: whether to take an RGB file whose three channels are equal everywhere for the grey file that it
            was made from; its transparency must be opaque.

    Returns:
        ``(H, W)`` int64, values of the file (no void or class table is applied here).

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is no image, is cut off or damaged, holds colours instead of ids, was compressed
            with loss (which invents ids along every edge), has no such page, or asks to be rotated when shown.
    """

    def decode(opened: Image.Image) -> np.ndarray:
        turn_to(page, opened)
        if opened.format in _LOSSY:
            raise Refused(
                f"{opened.format} compression changes values, and labels are ids; export the labels again as index PNG"
            )
        if equal_channels and opened.mode in ("RGB", "RGBA", "LA"):
            return _equal_channels(opened)
        if opened.mode not in ("1", "L", "P", "I") and not is_16_bit(opened):
            raise Refused(
                f"it stores colours (mode {opened.mode}), and labels must be an index map with one class id per pixel;"
                " convert each colour to its id with the class table of the data set and save a grey or palette PNG"
            )
        tiles = getattr(opened, "tile", [])  # how the file stores its pixels; emptied by loading
        step = _WIDENED_BY.get(str(tiles[0][3]), 1) if tiles else 1
        refuse_rotation(opened)
        return np.array(opened).astype(np.int64) // step  # (H, W)

    return torch.from_numpy(decode_file(path, decode, content="labels"))


def read_label_colors(path: str | os.PathLike[str], *, page: int | None = None) -> Tensor:
    """The colours of a label file in which each class has a colour, as a viewer shows them.

    Args:
        path: an RGB, palette or grey file in a lossless format; transparency must be opaque.
        page: the number of the map in a file with several, from 0; ``None`` refuses such a file.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is no image, is damaged, was compressed with loss, has 16 bits, several images or
            transparent pixels, or asks to be rotated when shown.
    """

    def decode(opened: Image.Image) -> np.ndarray:
        turn_to(page, opened)
        if opened.format in _LOSSY:
            raise Refused(f"{opened.format} compression changes colours, and they are labels; export them again as PNG")
        if opened.mode not in ("1", "L", "P", "RGB", "RGBA", "LA", "PA"):
            raise Refused(f"its pixels (mode {opened.mode}) are no colours of 8 bits; export an RGB PNG")
        refuse_rotation(opened)
        return _opaque(opened)

    return torch.from_numpy(decode_file(path, decode, content="labels"))


def _opaque(opened: Image.Image) -> np.ndarray:
    """The colours ``(H, W, 3)`` of a file without a transparent pixel."""
    if not opened.has_transparency_data:
        return np.array(opened.convert("RGB"))
    rgba = np.array(opened.convert("RGBA"))  # (H, W, 4)
    if (clear := rgba[..., 3] < 255).any():
        row, column = np.argwhere(clear)[0].tolist()
        raise Refused(f"its pixel at (row {row}, column {column}) is transparent, which is no class; export it opaque")
    return np.ascontiguousarray(rgba[..., :3])


def _equal_channels(opened: Image.Image) -> np.ndarray:
    """The grey values ``(H, W)`` of a file whose channels are equal."""
    refuse_rotation(opened)
    rgb = _opaque(opened)
    if (differ := (rgb != rgb[..., :1]).any(-1)).any():
        row, column = np.argwhere(differ)[0].tolist()
        raise Refused(
            f"it stores colours (mode {opened.mode}), {rgb[row, column].tolist()} at (row {row}, column {column}), and"
            ' not ids; where colours stand for classes, write "labels": "color" beside the "categories" of'
            " categories.json, which then hold each class's color"
        )
    return rgb[..., 0].astype(np.int64)


def read_id_colors(path: str | os.PathLike[str]) -> Tensor:
    """The colours in ``path``, exactly as stored: of a map whose colours stand for ids, as COCO's panoptic PNGs.

    Args:
        path: an RGB image of 8 bits in a lossless format, usually PNG.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is no image, is cut off or damaged, was compressed with loss, is grey, has a palette,
            transparency or 16 bits, or asks to be rotated when shown.
    """

    def decode(opened: Image.Image) -> np.ndarray:
        tiles = getattr(opened, "tile", [])  # how the file stores its pixels; Pillow gives 16 bits as their upper 8
        deep = bool(tiles) and ";16" in str(tiles[0][3])
        if opened.format in _LOSSY or opened.mode != "RGB" or opened.has_transparency_data or deep:
            stored = f"{opened.format}, mode {opened.mode}, {'16' if deep else '8'} bits"
            transparent = ", with transparency" if opened.has_transparency_data else ""
            raise Refused(
                f"its colours stand for ids and must be RGB of 8 bits, without palette, transparency or lossy"
                f" compression; it is {stored}{transparent}: export it again as an RGB PNG"
            )
        refuse_rotation(opened)
        return np.array(opened)  # (H, W, 3)

    return torch.from_numpy(decode_file(path, decode, content="map"))


def count_pages(path: str | os.PathLike[str]) -> int:
    """How many images the file holds: the slices of a TIFF stack, 1 for most files.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is no image or is damaged.
    """
    return decode_file(path, lambda opened: getattr(opened, "n_frames", 1), content="images")


def write_png(
    path: str | os.PathLike[str], array: np.ndarray | Tensor, palette: Mapping[int, Sequence[int]] | None = None
) -> None:
    """Write 8-bit pixels, or a label map of 16 bits, as a PNG file.

    The file appears whole or not at all (see :func:`~seglib.files.atomic_path`).

    Args:
        path: where to; the name ends in ``.png``. An existing file is replaced.
        array: uint8, ``(H, W)`` for grey or a label map, ``(H, W, 3)`` for RGB; uint16 ``(H, W)`` for a label map with
            ids above 255. A CPU tensor will do.
        palette: 8-bit RGB colours in which a viewer shows the values of a uint8 label map, which stay what they are.
            Values without a colour are grey. Of other pixels it is ignored.

    Raises:
        ValueError: for another dtype, shape or ending.
    """
    pixels = np.ascontiguousarray(array)
    if pixels.dtype != np.uint8 and not (pixels.dtype == np.uint16 and pixels.ndim == 2):
        raise ValueError(
            f"{path}: a PNG is written from uint8, or a label map from uint16, got {pixels.dtype} of shape"
            f" {pixels.shape}; scale an image to 0..255 and round first"
        )
    if pixels.size == 0 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ValueError(f"{path}: expected pixels of shape (H, W) or (H, W, 3), got {pixels.shape}")
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"{path}: the name of a PNG file ends in .png")
    image = Image.fromarray(pixels)
    if palette is not None and image.mode == "L":
        image.putpalette([part for value in range(256) for part in palette.get(value, (value, value, value))])
    mark = PngInfo()
    mark.add_text(*_MARK)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=mark)


def may_replace(path: str | os.PathLike[str]) -> bool:
    """Whether a file is missing, or a PNG that :func:`write_png` wrote: it leaves its name in what it writes."""
    if not Path(path).exists():
        return True
    try:
        with Image.open(path) as opened:
            return opened.info.get(_MARK[0]) == _MARK[1]
    except (OSError, ValueError, SyntaxError):
        return False


def turn_to(page: int | None, opened: Image.Image) -> None:
    """Go to a page of the open file, counted from 0; without one, check that the file has one image."""
    if page is None:
        return _refuse_several(opened)
    if page == 0:
        return  # open there already; asking for the number of pages would read through the whole file
    pages = getattr(opened, "n_frames", 1)
    if not 0 <= page < pages:
        raise Refused(f"it has no page {page}; its pages are 0..{pages - 1}")
    opened.seek(page)


def _refuse_several(opened: Image.Image) -> None:
    """Raise for a stack or an animation where one image is wanted."""
    if opened.format not in ("TIFF", "GIF", "WEBP") or not getattr(opened, "is_animated", False):
        return
    pages = getattr(opened, "n_frames", 1)
    if opened.format == "TIFF":
        tags: Any = opened
        is_image = []
        for page in range(pages):
            tags.seek(page)
            is_image.append(not tags.tag_v2.get(_SUBFILE, 0) & _REDUCED)  # a smaller copy, for previews
        tags.seek(0)
        pages = sum(is_image)
    if pages > 1 and opened.format != "TIFF":
        raise Refused(f"it is an animation of {pages} frames; save the one that you mean as a file of its own")
    if pages > 1:
        raise Refused(
            f"it holds {pages} images, and one is wanted; save the one that you mean as a file of its own, or where"
            f' they are the channels of one image, train with "channels": {pages} in categories.json'
        )


def refuse_rotation(opened: Image.Image) -> None:
    """Raise for a map with an EXIF orientation. TIFF files are turned while they load: call this before."""
    orientation = opened.getexif().get(_ORIENTATION, 1)
    if orientation != 1:
        raise Refused(
            f"its EXIF orientation is {orientation}, so it is unclear which side is up; rotate the pixels of the"
            " labels to stand like the photo and save them without EXIF data"
        )


def is_16_bit(opened: Image.Image) -> bool:
    """True for 16-bit grey. Pillow calls it I;16, I;16B, … or, in a PNG (older versions) or PGM file, I."""
    return opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format in ("PNG", "PPM"))


class Refused(Exception):
    """The file decodes, but its pixels are not what was asked for. The message says why and what to do."""


def decode_file(path: str | os.PathLike[str], decode: Callable[[Image.Image], T], content: str) -> T:
    """``decode`` applied to the opened file, with every failure turned into one error that names the file."""
    try:
        with open(path, "rb") as file, Image.open(file) as opened:
            return decode(opened)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; check the path to the {content}") from None
    except Refused as refusal:
        raise ValueError(f"{path} cannot be used: {refusal}") from None
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path} claims more pixels than are safe to decode ({error}); if you trust the file, cut it into tiles or"
            " scale it down first"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(
            f"{path} is not an image that Pillow can read; check that it is complete and holds what its ending says,"
            " or convert it to PNG"
        ) from error
    # Pillow's decoders raise whatever their parser stumbles over: OSError, SyntaxError, ValueError, struct.error, …
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read ({error}); if it is damaged or cut off, copy or export it again"
        ) from error
