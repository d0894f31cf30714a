"""How the intensities of each channel are normalised: its name decides."""

from __future__ import annotations

from seglib.ops.intensity import Intensity
from seglib.planning.fingerprint import Fingerprint, ForegroundStatistics

NORMALIZATIONS = {"ct": "ct", "nonorm": "native", "rescale_to_0_1": "unit", "rgb_to_0_1": "rgb"}
"""Channel name in lower case → mode of :class:`~seglib.ops.intensity.Intensity`; every other name gets "zscore"."""

MASK_BELOW = 3 / 4
"""Where cropping to the non-zero box leaves less than this share of the voxels, borders are not part of the image."""


def normalization(modality: str) -> str:
    """The mode of :class:`~seglib.ops.intensity.Intensity` for a channel of that name, in any case of letters."""
    return NORMALIZATIONS.get(modality.casefold(), "zscore")


def masked(fingerprint: Fingerprint) -> tuple[bool, ...]:
    """For each channel, whether its z-score is that of the non-zero region alone: when cropping removed a quarter."""
    cropped = fingerprint.kept < MASK_BELOW
    return tuple(cropped and normalization(modality) == "zscore" for modality in fingerprint.modalities)


def intensity(mode: str, statistics: ForegroundStatistics) -> Intensity:
    """The normalisation of a channel.

    Args:
        mode: what :func:`normalization` says.
        statistics: what "ct" takes its numbers from, the foreground voxels of that channel.

    Raises:
        ValueError: for "ct" when nearly all foreground voxels have one value.
    """
    if mode != "ct":
        return Intensity(mode)
    low, high = statistics.percentile_00_5, statistics.percentile_99_5
    if not (low < high and statistics.std > 0):
        raise ValueError(
            f"nearly all foreground voxels of a CT channel are {low:g}; is the image a label map? A channel that is no "
            'CT needs another name, such as "MRI"'
        )
    return Intensity("ct", low, high, statistics.mean, statistics.std)
