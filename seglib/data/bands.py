"""Images with any number of channels: grey, four bands of a satellite, five stains of a microscope."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from seglib.data.images import Refused, decode_file, is_16_bit, read_image

_GRAY = ("1", "L", "I;16")


def read_bands(path: str | os.PathLike[str], channels: int = 3, *, upright: bool = True) -> Tensor:
    """An image of a given number of channels as float32 ``(C, H, W)`` in [0, 1].

    Three channels are RGB, as :func:`seglib.data.images.read_image` reads it. Any other number is taken as stored,
    without transparency: the bands of a TIFF or PNG file, the pages of a TIFF file of grey pages, or the array of a
    ``.npy`` file, ``(H, W)``, ``(C, H, W)`` or else ``(H, W, C)``. 8 and 16 bits are divided by 255 and 65535; floats
    must lie in [0, 1]. What Pillow can't decode, as TIFF files of five bands, needs the package tifffile.

    Args:
        path: the file.
        channels: the number of channels C of the image.
        upright: ``False`` leaves out the EXIF orientation.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file can't be read, has another number of channels, or other numbers.
    """
    if Path(path).suffix.lower() == ".npy":
        return _scaled(path, _as_channels(path, _channels_first(_read_npy(path), channels), channels))
    if channels == 3:
        return read_image(path, upright=upright)
    try:
        array = decode_file(path, lambda opened: _stored(opened, upright), content="images")
    except ValueError:
        if Path(path).suffix.lower() not in (".tif", ".tiff"):
            raise
        array = _channels_first(_read_tifffile(path), channels)
    return _scaled(path, _as_channels(path, array, channels))


def _stored(opened: Image.Image, upright: bool) -> np.ndarray:
    """The stored bands or pages ``(C, H, W)``, without a meaning of colour or transparency."""
    if opened.mode.startswith("I") and not is_16_bit(opened) or opened.mode == "F":
        raise Refused(f"its 32-bit pixels (mode {opened.mode}) have no known range; save it with 8 or 16 bits")
    pages = getattr(opened, "n_frames", 1) if opened.format == "TIFF" else 1
    if pages == 1:
        shown = ImageOps.exif_transpose(opened) if upright else opened
        pixels = np.atleast_3d(np.array(shown.convert("RGB") if shown.mode == "P" else shown))
        return pixels.transpose(2, 0, 1)
    bands: list[Any] = []
    for page in range(pages):
        opened.seek(page)
        if not opened.mode.startswith(_GRAY):
            raise Refused(f"it holds {pages} images of mode {opened.mode}; pages that are channels must be grey")
        bands.append(np.array(opened))
    if len({band.shape for band in bands}) > 1:
        raise Refused(f"its {pages} images have different sizes; pages that are channels must have one")
    return np.stack(bands)


def _read_npy(path: str | os.PathLike[str]) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; check the path to the images") from None
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}); write an array of numbers with numpy.save") from error


def _read_tifffile(path: str | os.PathLike[str]) -> np.ndarray:
    try:
        import tifffile  # type: ignore[import-untyped,unused-ignore]  # optional
    except ImportError:
        raise ValueError(f"{path} is a TIFF file beyond Pillow; run pip install tifffile, or save it as .npy") from None
    try:
        return tifffile.imread(path)
    except Exception as error:  # its parser raises whatever it stumbles over
        raise ValueError(f"{path} cannot be read ({error}); export it again, or save it as .npy") from error


def _channels_first(array: np.ndarray, channels: int) -> np.ndarray:
    """``(C, H, W)`` of an array that doesn't say in which order its axes are."""
    if array.ndim == 3 and array.shape[0] != channels and array.shape[-1] == channels:
        return array.transpose(2, 0, 1)
    return array


def _as_channels(path: str | os.PathLike[str], array: np.ndarray, channels: int) -> np.ndarray:
    """The array as ``(C, H, W)``."""
    if array.ndim == 2:
        array = array[None]
    if array.ndim == 3 and channels == 1 and array.shape[0] == 3 and bool((array == array[:1]).all()):
        array = array[:1]  # grey that was saved as RGB
    if array.ndim != 3 or array.shape[0] != channels:
        seen = f"{array.shape[0]} channels" if array.ndim == 3 else f"the shape {array.shape}"
        raise ValueError(f"{path} has {seen}, and images of {channels} channels are wanted here")
    return array


def _scaled(path: str | os.PathLike[str], array: np.ndarray) -> Tensor:
    """The numbers of 8 or 16 bits in [0, 1]; floats as they are."""
    if array.dtype == np.bool_:
        return torch.from_numpy(np.ascontiguousarray(array)).float()
    if array.dtype in (np.uint8, np.uint16):
        return torch.from_numpy(array.astype(np.float32) / np.iinfo(array.dtype).max)
    if array.dtype.kind == "f" and array.size and array.min() >= 0 and array.max() <= 1:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))
    span = f"{array.min():g} to {array.max():g}" if array.size else "nothing"
    raise ValueError(
        f"{path} holds {array.dtype} from {span}; save uint8 or uint16, or floats scaled to [0, 1] by one rule for all"
    )
