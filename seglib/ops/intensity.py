"""In what units a model wants to see the voxels of a volume: stored with the weights, like its geometry."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

MODES = ("native", "zscore", "ct", "unit", "rgb", "percentile")

_VOXELS = 2**22  # read at once: 32 MB in float64


@dataclass(frozen=True)
class Scaling:
    """Maps the voxels of one case to what a model sees: ``(clip(x, low, high) − mean) · factor``, per channel.

    :meth:`Intensity.of` makes it from the whole case; afterwards patches of the case can be scaled one at a time.

    Attributes:
        mean: per-channel mean that is subtracted, C numbers, or one for all channels; empty leaves voxels as they are.
        factor: per-channel 1 / std, or 0 for a channel without contrast, which becomes zeros.
        clip: lowest and highest value before that, or ``None``.
    """

    mean: tuple[float, ...] = ()
    factor: tuple[float, ...] = ()
    clip: tuple[float, float] | None = None

    def __call__(self, patch: Tensor) -> Tensor:
        """A patch ``(C, …)`` of the case, any dtype → float32 of the same shape."""
        if not self.mean:
            return patch.float()
        if len(self.mean) not in (1, len(patch)):
            raise ValueError(f"statistics of {len(self.mean)} channels cannot scale a patch of {len(patch)} channels")
        x = patch.float() if self.clip is None else patch.float().clamp(*self.clip)
        column = (-1, *(1,) * (x.ndim - 1))
        return (x - x.new_tensor(self.mean).view(column)).mul_(x.new_tensor(self.factor).view(column))


@dataclass(frozen=True)
class Intensity:
    """How the voxels of a case are scaled before a model sees them.

    ==============  ================================================================================================
    ``native``      as they are
    ``zscore``      (x − mean) / std with mean and std of that channel of that case: MRI, whose units are arbitrary
    ``ct``          clipped to [low, high], then (x − mean) / std with numbers of the training set: CT, where a value
                    means the same in every case. All channels are scaled alike.
    ``unit``        (x − lowest) / (highest − lowest) of that channel of that case, in [0, 1]
    ``rgb``         x / 255: colours of 8 bits
    ``percentile``  (x − p) / (q − p), clipped to [0, 1], with the percentiles p = 0.5 and q = 99.5 of all channels of
                    that case: microscopes that store 12 bits in 16
    ==============  ================================================================================================

    All but ``percentile`` are nnU-Net's rule (Isensee et al. 2021, Methods, "Intensity normalization"). Padding
    is added afterwards.

    Attributes:
        mode: one of the above.
        low: for ``ct``, the value that lower ones become.
        high: for ``ct``, the value that higher ones become.
        mean: for ``ct``, the mean over foreground voxels of the training set.
        std: for ``ct``, their standard deviation, positive.

    Raises:
        ValueError: for an unknown mode, or numbers that are missing, out of place, not finite or out of order.
    """

    mode: str = "native"
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    std: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"intensity mode {self.mode!r} is unknown; choose one of {', '.join(MODES)}")
        numbers = {name: getattr(self, name) for name in ("low", "high", "mean", "std")}
        given = [v for v in numbers.values() if v is not None]
        if len(given) != (4 if self.mode == "ct" else 0):
            raise ValueError(
                f"intensity {self.mode!r} got {numbers}; ct takes all four (fit_ct finds them), the others take none"
            )
        if given and not (all(map(math.isfinite, given)) and given[0] < given[1] and given[3] > 0):
            raise ValueError(f"intensity ct needs finite numbers with low < high and std > 0, got {numbers}")

    def of(self, image: Tensor) -> Scaling:
        """The scaling of one case, with which its patches can be scaled one at a time.

        All but ``native`` and ``ct`` read the whole case, so keep the result when many patches follow. Mean and
        standard deviation (of all n voxels, divided by n) are taken in float64, some slices at a time, so that a
        memory-mapped case is never in memory as a whole.

        Args:
            image: the case ``(C, D, H, W)``, any dtype.

        Raises:
            ValueError: when the image has fewer than three axes or an empty one; where the case is read, when a voxel
                is NaN or infinite; with ``rgb``, when one is outside [0, 255].
        """
        if image.ndim < 3 or image.numel() == 0:
            raise ValueError(f"expected one case (C, D, H, W) with voxels, got shape {tuple(image.shape)}")
        if self.mode == "native":
            return Scaling()
        if self.mode == "ct":
            assert self.low is not None and self.high is not None and self.mean is not None and self.std is not None
            return Scaling((self.mean,), (1 / self.std,), (self.low, self.high))
        if self.mode == "percentile":
            dark, bright = percentile_range(image)
            return Scaling((dark,), (1 / (bright - dark) if bright > dark else 0.0,), (dark, bright))
        if self.mode != "zscore":
            low, high = (v.double() for v in image.flatten(1).aminmax(dim=1))  # (C,)
            _require_finite(image, high - low)
            if self.mode == "unit":
                return Scaling(tuple(low.tolist()), tuple(torch.where(high > low, 1 / (high - low), 0).tolist()))
            if low.min() < 0 or high.max() > 255:
                raise ValueError(
                    f"colours lie in [0, 255], but the voxels in [{low.min():g}, {high.max():g}]; take zscore, or unit"
                )
            return Scaling((0.0,), (1 / 255,))
        count = image[0].numel()
        mean = torch.stack([part.sum(1) for part in _slabs(image)]).sum(0) / count  # (C,)
        _require_finite(image, mean)
        squares = [(part - mean[:, None]).square().sum(1) for part in _slabs(image)]
        std = (torch.stack(squares).sum(0) / count).sqrt()  # (C,)
        # where all voxels are one float64, rounding of the mean leaves a std of about 1e-16 of it
        factor = torch.where(std > 1e-12 * mean.abs(), 1 / std, 0)
        return Scaling(tuple(mean.tolist()), tuple(factor.tolist()))

    def __call__(self, image: Tensor) -> Tensor:
        """The whole case ``(C, D, H, W)`` as a model sees it, float32."""
        return self.of(image)(image)

    def to_json(self) -> dict[str, Any]:
        """The fields as plain numbers and text; ``Intensity(**…)`` reads them."""
        return asdict(self)


AS_IS = Intensity()
"""Voxels as they are."""


def fit_ct(values: ArrayLike) -> Intensity:
    """The ``ct`` scaling of a data set: percentiles 0.5 and 99.5, mean and standard deviation of foreground voxels.

    Foreground voxels are those of any class but the background, of all training cases or a random share of them: air
    and table would decide these numbers otherwise. Mean and standard deviation are those before clipping (nnU-Net).

    Args:
        values: the foreground voxels in Hounsfield units, a tensor or array of any shape.

    Raises:
        ValueError: when there are no values, when one is NaN or infinite, or when all are equal.
    """
    voxels = np.asarray(values, dtype=np.float64)
    if voxels.size == 0 or not np.isfinite(voxels).all():
        bad = int((~np.isfinite(voxels)).sum())
        raise ValueError(f"fit_ct needs finite foreground voxels, got {voxels.size} with {bad} nan or infinite")
    low, high = np.percentile(voxels, (0.5, 99.5))
    if low == high:
        raise ValueError(f"nearly all foreground voxels are {low:g}; is the image a label map?")
    return Intensity("ct", float(low), float(high), float(voxels.mean()), float(voxels.std()))


def percentile_range(image: Tensor, low: float = 0.5, high: float = 99.5) -> tuple[float, float]:
    """Two percentiles of all values of an image; the least and the largest value where both are one value.

    Args:
        image: values of any shape.
        low: the lower percentile, in [0, 100].
        high: the upper percentile, in [0, 100].

    Raises:
        ValueError: when a value is NaN or infinite.
    """
    values = image.flatten().sort().values  # torch.quantile takes at most 2^24 values
    if not values[-1].isfinite():  # nan is sorted to the end
        _require_finite(image, values[-1])
    last = len(values) - 1
    dark, bright = (float(values[round(percentile / 100 * last)]) for percentile in (low, high))
    return (dark, bright) if bright > dark else (float(values[0]), float(values[-1]))


def _slabs(image: Tensor) -> Iterator[Tensor]:
    """The voxels of a case ``(C, D, …)`` in float64, some slices at a time, ``(C, n)``."""
    for part in image.split(max(1, _VOXELS // image[:, :1].numel()), dim=1):
        yield part.double().flatten(1)


def _require_finite(image: Tensor, numbers: Tensor) -> None:
    """Raise when numbers that were made from all voxels show that some are not finite."""
    if not numbers.isfinite().all():
        bad = sum(int((~part.isfinite()).sum()) for part in _slabs(image))
        raise ValueError(f"{bad} voxels of the case are nan or infinite; repair them, e.g. with torch.nan_to_num")
