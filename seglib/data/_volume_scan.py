"""What a scanner makes of the tissues' shares: brightness, which differs from case to case, bias field and noise."""

from __future__ import annotations

import numpy as np

from seglib.data._noise import Draws, Floats, hashed
from seglib.data._volume_shapes import smooth_field

Range = tuple[float, float]

MODALITIES = ("ct", "mr", "mr2")
"""The modalities that can be drawn: CT in Hounsfield units, T1- and T2-weighted MR in arbitrary units."""

_TISSUES: dict[str, tuple[Range, Range, Range]] = {  # brightness in ct, mr and mr2
    "air": ((-1000, -1000), (0, 0), (0, 0)),
    "fat": ((-115, -90), (0.9, 1.1), (0.7, 0.85)),
    "muscle": ((48, 62), (0.4, 0.5), (0.2, 0.3)),
    "viscera": ((30, 60), (0.4, 0.6), (0.35, 0.6)),
    "bone": ((250, 450), (0.15, 0.3), (0.1, 0.25)),
    "marrow": ((150, 220), (0.5, 0.65), (0.3, 0.45)),
    "bowel": ((110, 240), (0.3, 0.9), (0.6, 1.0)),
    "cyst": ((0, 20), (0.2, 0.3), (0.9, 1.1)),
    "organ": ((90, 120), (0.55, 0.65), (0.4, 0.5)),
}
_AGAINST_ORGAN: dict[str, tuple[Range, Range, Range]] = {  # added to the organ's brightness
    "neighbour": ((-20, 30), (-0.1, 0.1), (-0.1, 0.15)),
    "vessel": ((50, 80), (0.18, 0.28), (-0.24, -0.16)),
    "lesion": ((-42, -24), (-0.18, -0.1), (0.1, 0.18)),
}
_LIKE = {"speck": "vessel", "patch": "lesion", "inner fat": "fat", "gas": "air", "canal": "cyst"}
_NOISE: tuple[Range, Range, Range] = ((12, 20), (0.06, 0.1), (0.06, 0.1))  # standard deviation
_TEXTURE = (6.0, 0.03, 0.03)  # how far tissue departs from its brightness, at most
_BIAS = 0.35  # MR's gain departs from 1 by this much at most


def scan(key: int, channel: int, modality: str, shares: dict[str, Floats]) -> Floats:
    """The image ``(D, H, W)`` of one modality, in whole numbers.

    Args:
        key: the volume's key.
        channel: number of the channel; each has noise of its own.
        modality: one of :data:`MODALITIES`.
        shares: tissue → its share in every voxel, ``(D, H, W)``.
    """
    number = MODALITIES.index(modality)
    draws, first = Draws(key, 20 + 10 * channel), 21 + 10 * channel
    values = {tissue: draws(*ranges[number]) for tissue, ranges in _TISSUES.items()}
    values |= {tissue: values["organ"] + draws(*ranges[number]) for tissue, ranges in _AGAINST_ORGAN.items()}
    values |= {tissue: values[like] for tissue, like in _LIKE.items()}
    noise = draws(*_NOISE[number])

    image = np.zeros_like(shares["air"])
    for tissue, share in shares.items():
        image += share * values[tissue]
    image += smooth_field(key, first, image.shape, (6.3, 6.3, 6.3)) * (1 - shares["air"]) * _TEXTURE[number]
    if modality == "ct":
        image += _grain(key, first + 1, image.shape) * noise
        return np.maximum(np.floor(image + 0.5), -1024)  # the least value of a scanner
    image *= 1 + smooth_field(key, first + 1, image.shape, (1.4, 1.4, 1.4)) * _BIAS
    real = image + _white(key, first + 2, image.shape) * noise
    imaginary = _white(key, first + 3, image.shape) * noise
    return np.floor(np.sqrt(real * real + imaginary * imaginary) * draws(200, 2000) + 0.5)  # Rician noise


def _white(key: int, stream: int, shape: tuple[int, ...]) -> Floats:
    """Noise of mean 0 and standard deviation 1: the sum of four random bytes is nearly normal."""
    bits = hashed(key, stream, shape[0] * shape[1] * shape[2])
    total = (bits & np.uint32(255)) + (bits >> np.uint32(8) & np.uint32(255))
    total += (bits >> np.uint32(16) & np.uint32(255)) + (bits >> np.uint32(24))
    return ((total.astype(np.float32) - 510) * (1 / 147.8)).reshape(shape)  # 4 (256² - 1) / 12 = 147.8²


def _grain(key: int, stream: int, shape: tuple[int, ...]) -> Floats:
    """The same with CT's grain: neighbours in a slice depart alike, slices independently."""
    white = _white(key, stream, (shape[0], shape[1] + 2, shape[2] + 2))
    rows = white[:, :-2] + white[:, 1:-1] * 1.5 + white[:, 2:]
    grain = rows[:, :, :-2] + rows[:, :, 1:-1] * 1.5 + rows[:, :, 2:]
    return grain * (1 / 4.25)  # 1 + 1.5² + 1 = 4.25, once for each direction
