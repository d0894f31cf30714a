"""What can be seen in image files before training: an orientation that labels may not share, 12 bits in 16."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image

from seglib.data.images import check_readable, decode_file, is_16_bit

T = TypeVar("T")

_MOST = 200  # headers that are opened
_MOST_DECODED = 8  # images whose values are read
_DARK = 65535 / 8


def evenly(things: Sequence[T], most: int) -> list[T]:
    """At most so many of the things, evenly spaced."""
    seen = min(most, len(things))
    return [things[i * len(things) // seen] for i in range(seen)]


def read_orientation(path: Path) -> tuple[int, tuple[int, int]]:
    """The EXIF orientation of an image (1 when it has none) and its stored ``(H, W)``, from its header.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no image.
    """

    def header(opened: Image.Image) -> tuple[int, tuple[int, int]]:
        return int(opened.getexif().get(ExifTags.Base.Orientation, 1)), (opened.height, opened.width)

    check_readable(path)
    return decode_file(path, header, content="images")


def image_size(path: Path, upright: bool) -> tuple[int, int]:
    """The ``(H, W)`` of an image as it is read.

    Raises:
        ValueError: when it is no image.
    """
    orientation, (height, width) = read_orientation(path)
    return (width, height) if upright and orientation > 4 else (height, width)


def orientation_warnings(paths: Sequence[Path], read_as: str, other_option: str) -> list[str]:
    """A warning where photos have an EXIF orientation that the size of their labels can't confirm.

    A quarter turn shows in the size, but not of a square photo; half a turn and mirroring never show.

    Args:
        paths: the images.
        read_as: how they are read, for the message.
        other_option: the option that reads them the other way.
    """
    doubtful = []
    for path in evenly([p for p in paths if p.suffix.lower() != ".npy"], _MOST):
        try:
            orientation, (height, width) = read_orientation(path)
        except (ValueError, OSError):
            continue  # named when it is read
        if orientation in (2, 3, 4) or (orientation != 1 and height == width):
            doubtful.append(path)
    if not doubtful:
        return []
    return [
        f"{len(doubtful)} photos ({doubtful[0].name}, …) have an EXIF orientation, and the size of their labels can't"
        f" tell how these were drawn; they are read {read_as}. Where that is wrong pass {other_option}"
    ]


def depth_warnings(paths: Sequence[Path]) -> list[str]:
    """A warning where 16-bit images use less than an eighth of their range, as those of 12-bit cameras do."""
    brightest = []
    for path in evenly([p for p in paths if p.suffix.lower() in (".tif", ".tiff", ".png")], _MOST_DECODED):
        try:
            highest = decode_file(path, _highest_of_16_bits, content="images")
        except (ValueError, OSError):
            continue
        if highest is not None:
            brightest.append(highest)
    if not brightest or max(brightest) >= _DARK:
        return []
    return [
        f"the 16-bit images are dark: no value above {max(brightest)} of 65535 in {len(brightest)} of them, as 12-bit"
        " cameras write; --rescale percentile spreads the values of each image over the range"
    ]


def _highest_of_16_bits(opened: Image.Image) -> int | None:
    return int(np.array(opened).max()) if is_16_bit(opened) else None
