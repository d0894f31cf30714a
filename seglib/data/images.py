"""Image files in and out: images as float RGB, label maps as class ids, and writes that are whole or not at all.

Pillow decodes. This module states what happens with every kind of file that people have on disk, because the defaults
hurt in silence: a 16-bit scan read as 8 bits turns white, a phone photo lies on its side next to an upright label map,
and a palette PNG converted to RGB turns class ids into colours.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from seglib.files import atomic_path

Result = TypeVar("Result")

_WHITE = 255.0
_ORIENTATION = ExifTags.Base.Orientation
_LOSSY = {"JPEG", "MPO", "JPEG2000"}
# Pillow widens grey PNGs of 2 and 4 bits to the full range 0..255. A class id must come back as it was stored.
_WIDENED_BY = {"L;2": 85, "L;4": 17}


def read_image(path: str | os.PathLike[str], *, page: int = 0, upright: bool = True) -> Tensor:
    """The image in ``path`` as float32 RGB ``(3, H, W)`` in [0, 1], upright as a viewer shows it.

    - 8-bit RGB, grey, palette and CMYK become RGB; a colour profile in the file is not applied.
    - 16-bit grey is divided by 65535, the range of its type. Microscopes often store 12 bits in it, which then fill
      only the lowest sixteenth of [0, 1]: add :class:`seglib.data.microscopy.PercentileRescale`. Of 16-bit RGB,
      Pillow keeps the upper 8 bits.
    - Transparent pixels (RGBA, LA, palette or colour-key transparency) are laid over white, as a page shows them.
    - The EXIF orientation is applied.
    - Of a file with several images (TIFF stack, GIF) one is read.

    Args:
        path: any format that Pillow reads.
        page: the number of the image in a file with several, from 0.
        upright: ``False`` leaves the pixels as they are stored, without the EXIF orientation: for data sets whose
            labels were drawn that way. (Pillow turns TIFF files in any case.)

    Returns:
        ``(3, H, W)`` float32 in [0, 1].

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is no image, is cut off or damaged, is too large to be decoded safely, has no such
            page, or stores 32-bit numbers, whose range is not known.
    """

    def decode(opened: Image.Image) -> np.ndarray:
        _turn_to(page, opened)
        is_16_bit = _is_16_bit(opened)
        if upright:
            opened = ImageOps.exif_transpose(opened)
        if is_16_bit:
            gray = np.array(opened).astype(np.float32) / 65535  # (H, W)
            return np.stack([gray] * 3)  # (3, H, W)
        if opened.mode in ("I", "F"):
            raise _Refused(f"its 32-bit pixels (mode {opened.mode}) have no known range; save it with 8 or 16 bits")
        if opened.has_transparency_data:
            rgba = np.array(opened.convert("RGBA")).astype(np.float32).transpose(2, 0, 1)  # (4, H, W)
            alpha = rgba[3] / 255  # (H, W)
            return np.minimum((rgba[:3] * alpha + _WHITE * (1 - alpha)) / 255, 1)  # rounding may exceed white
        return np.array(opened.convert("RGB")).transpose(2, 0, 1)  # (3, H, W) uint8

    pixels = _decode(path, decode, content="images")
    image = torch.from_numpy(np.ascontiguousarray(pixels))
    return image.float().div_(255) if image.dtype == torch.uint8 else image


def read_labels(path: str | os.PathLike[str], *, page: int = 0) -> Tensor:
    """The label map in ``path``: one integer per pixel, int64 ``(H, W)``, exactly as stored.

    An index map is a grey file (1, 2, 4, 8 or 16 bits) or a palette file. Of a palette file the indices are the labels;
    the colours are only there to look at.

    Args:
        path: an index map in a lossless format, usually PNG.
        page: the number of the map in a file with several (a TIFF stack), from 0.

    Returns:
        ``(H, W)`` int64, values of the file (no void or class table is applied here).

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is no image, is cut off or damaged, holds colours instead of ids, was compressed
            with loss (which invents ids along every edge), has no such page, or asks to be rotated when shown.
    """

    def decode(opened: Image.Image) -> np.ndarray:
        _turn_to(page, opened)
        if opened.format in _LOSSY:
            raise _Refused(
                f"{opened.format} compression changes values, and labels are ids; export the labels again as index PNG"
            )
        if opened.mode not in ("1", "L", "P", "I") and not _is_16_bit(opened):
            raise _Refused(
                f"it stores colours (mode {opened.mode}), and labels must be an index map with one class id per pixel;"
                " convert each colour to its id with the class table of the data set and save a grey or palette PNG"
            )
        tiles = getattr(opened, "tile", [])  # how the file stores its pixels; emptied by loading
        step = _WIDENED_BY.get(str(tiles[0][3]), 1) if tiles else 1
        _refuse_rotation(opened)
        return np.array(opened).astype(np.int64) // step  # (H, W)

    return torch.from_numpy(_decode(path, decode, content="labels"))


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
            raise _Refused(
                f"its colours stand for ids and must be RGB of 8 bits, without palette, transparency or lossy"
                f" compression; it is {stored}{transparent}: export it again as an RGB PNG"
            )
        _refuse_rotation(opened)
        return np.array(opened)  # (H, W, 3)

    return torch.from_numpy(_decode(path, decode, content="map"))


def count_pages(path: str | os.PathLike[str]) -> int:
    """How many images the file holds: the slices of a TIFF stack, 1 for most files.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is no image or is damaged.
    """
    return _decode(path, lambda opened: getattr(opened, "n_frames", 1), content="images")


def write_png(path: str | os.PathLike[str], array: np.ndarray | Tensor) -> None:
    """Write 8-bit pixels, or a label map of 16 bits, as a PNG file.

    The file appears whole or not at all (see :func:`~seglib.files.atomic_path`).

    Args:
        path: where to; the name ends in ``.png``. An existing file is replaced.
        array: uint8, ``(H, W)`` for grey or a label map, ``(H, W, 3)`` for RGB; uint16 ``(H, W)`` for a label map with
            ids above 255. A CPU tensor will do.

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
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def _turn_to(page: int, opened: Image.Image) -> None:
    """Go to a page of the open file, counted from 0."""
    if page == 0:
        return  # open there already; asking for the number of pages would read through the whole file
    pages = getattr(opened, "n_frames", 1)
    if not 0 <= page < pages:
        raise _Refused(f"it has no page {page}; its pages are 0..{pages - 1}")
    opened.seek(page)


def _refuse_rotation(opened: Image.Image) -> None:
    """Raise for a map with an EXIF orientation. TIFF files are turned while they load: call this before."""
    orientation = opened.getexif().get(_ORIENTATION, 1)
    if orientation != 1:
        raise _Refused(
            f"its EXIF orientation is {orientation}, so it is unclear which side is up; rotate the pixels of the"
            " labels to stand like the photo and save them without EXIF data"
        )


def _is_16_bit(opened: Image.Image) -> bool:
    """True for 16-bit grey. Pillow calls it I;16, I;16B, … or, in a PNG (older versions) or PGM file, I."""
    return opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format in ("PNG", "PPM"))


class _Refused(Exception):
    """The file decodes, but its pixels are not what was asked for. The message says why and what to do."""


def _decode(path: str | os.PathLike[str], decode: Callable[[Image.Image], Result], content: str) -> Result:
    """``decode`` applied to the opened file, with every failure turned into one error that names the file."""
    try:
        with open(path, "rb") as file, Image.open(file) as opened:
            return decode(opened)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; check the path to the {content}") from None
    except _Refused as refusal:
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
