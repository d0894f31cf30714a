"""Chapter 18, "nnU-Net": the pieces and exercises on spacing: the target, the coarser one of lowres, resampling."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise

Rows = Sequence[Sequence[float]]

# Piece 1: the target spacing -----------------------------------------------------------------------------------------


def target_spacing(spacings: Rows, sizes: Rows) -> list[float]:
    """The spacing in mm that all cases are resampled to, from ``(N, 3)`` spacings in mm and ``(N, 3)`` voxels."""
    return _target_spacing(spacings, sizes)


def _at_least(fine: float, others: np.ndarray) -> float:
    return fine if fine >= others.max() else others.max() + 1e-5


def _target_spacing(
    spacings: Rows,
    sizes: Rows,
    *,
    middle: Callable[[Rows], np.ndarray] = lambda rows: np.median(rows, 0),
    middle_size: Callable[[Rows], np.ndarray] = lambda rows: np.median(rows, 0),
    coarse: Callable[[np.ndarray, np.ndarray], int] = lambda target, size: int(target.argmax()),
    thick: Callable[[float, np.ndarray], bool] = lambda spacing, others: spacing > 3 * others.max(),
    few: Callable[[float, np.ndarray], bool] = lambda voxels, others: 3 * voxels < others.min(),
    both: Callable[[bool, bool], bool] = lambda thick, few: thick and few,
    fine: Callable[[np.ndarray, int], float] = lambda spacings, axis: float(np.percentile(spacings[:, axis], 10)),
    limit: Callable[[float, np.ndarray], float] = _at_least,
) -> list[float]:
    """``target_spacing`` with some steps exchanged."""
    target, size = np.array(middle(spacings)), middle_size(sizes)
    axis = coarse(target, size)
    others = [a for a in range(3) if a != axis]
    if both(thick(target[axis], target[others]), few(size[axis], size[others])):
        target[axis] = limit(fine(np.array(spacings), axis), target[others])
    return target.tolist()


def _targets(**changes: Any) -> Callable[[Rows, Rows], list[float]]:
    return lambda spacings, sizes: _target_spacing(spacings, sizes, **changes)


def _without_limit(spacings: Rows, sizes: Rows) -> list[float]:
    return _target_spacing(spacings, sizes, limit=lambda fine, others: fine)


def _lower_median(rows: Rows) -> np.ndarray:
    return np.percentile(rows, 50, axis=0, method="lower")


def _upper_median(rows: Rows) -> np.ndarray:
    return np.percentile(rows, 50, axis=0, method="higher")


def _coarse_axis_first(spacings: Rows, sizes: Rows) -> list[float]:
    target = target_spacing(spacings, sizes)
    axis = int(np.median(spacings, 0).argmax())
    return [target[axis], *(t for a, t in enumerate(target) if a != axis)]


def _target_by_sorting(spacings: Rows, sizes: Rows) -> tuple[float, ...]:
    target = [statistics.median(column) for column in zip(*spacings, strict=True)]
    size = [statistics.median(column) for column in zip(*sizes, strict=True)]
    z, y, x = sorted(range(3), key=lambda a: -target[a])
    if target[z] / target[y] > 3 and size[z] < min(size[y], size[x]) / 3:
        column = sorted(row[z] for row in spacings)
        at = 0.1 * (len(column) - 1)
        low = int(at)
        high = min(low + 1, len(column) - 1)
        target[z] = column[low] + (at - low) * (column[high] - column[low])
        if target[z] < target[y]:
            target[z] = target[y] + 1e-5
    return tuple(target)


def _target_in_torch(spacings: Rows, sizes: Rows) -> Tensor:
    mm, voxels = (torch.tensor(rows, dtype=torch.float64) for rows in (spacings, sizes))
    target, size = mm.quantile(0.5, dim=0), voxels.quantile(0.5, dim=0)
    axis = target.argmax()
    rest = torch.arange(3) != axis
    limit = target[rest].max()
    if (target[axis] > 3 * limit) & (3 * size[axis] < size[rest]).all():
        target[axis] = mm[:, axis].quantile(0.1).clamp(min=limit + 1e-5)
    return target


def _spread(spacing: Sequence[float], size: Sequence[float], cases: int, seed: int) -> tuple[Rows, Rows]:
    """Spacings and sizes of cases around a median, some far above it."""
    rng = np.random.default_rng(seed)
    factors = rng.uniform(0.8, 1.2, (cases, 3)) * np.where(rng.random((cases, 3)) < 0.25, 2.5, 1)
    voxels = rng.uniform(0.8, 1.2, (cases, 3)) * np.where(rng.random((cases, 3)) < 0.25, 2.5, 1)
    return (factors * spacing).round(3).tolist(), (voxels * size).round().astype(int).tolist()


def _sets() -> Mapping[str, tuple[Rows, Rows]]:
    mixed = [[5.0, 0.9, 0.7]] * 4 + [[2.0, 0.7, 0.7], [1.25, 0.8, 0.7], [6.0, 0.8, 0.7]]  # slices 5 mm, and thinner
    even = [[4.0, 0.6, 0.7], [5.0, 0.9, 1.0], [7.0, 0.7, 0.8], [6.0, 0.8, 0.9]]
    thin = [[4.5, 1.2, 0.5]] * 5 + [[0.8, 1.2, 0.5]] * 2
    few = [[30, 400, 420]] * 5 + [[600, 380, 400]] * 2
    turned = [[r[2], r[1], r[0]] for r in mixed], [[r[2], r[1], r[0]] for r in few]
    return {
        "thick slices": (mixed, few),
        "thick slices, an even number of cases": (
            even,
            [[20, 300, 250], [30, 400, 350], [26, 320, 300], [24, 380, 310]],
        ),
        "a third of the scans with slices of 0.8 mm": (thin, few),
        "a third of the scans with slices of 0.4 mm": ([[4.5, 1.2, 0.5]] * 5 + [[0.4, 1.2, 0.5]] * 2, few),
        "20 scans with thick slices": _spread((5.0, 0.9, 0.7), (30, 300, 320), 20, 0),
        "an image whose coarse axis is the last one": turned,
        "an image whose coarse axis is the middle one": (
            [[r[1], r[0], r[2]] for r in mixed],
            [[r[1], r[0], r[2]] for r in few],
        ),
        "nearly isotropic scans": _spread((1.2, 1.0, 0.9), (150, 180, 170), 9, 1),
        "more thick slices than rows": (mixed, [[450, 400, 420]] * 5 + [[20, 380, 400]] * 2),
        "few slices, but not thick ones": ([[1.8, 1.0, 0.9]] * 3 + [[1.0, 1.0, 0.9]] * 2, [[20, 400, 420]] * 5),
        "few slices of the rows' spacing": ([[1.0, 1.0, 1.0]] * 4 + [[0.5, 1.0, 1.0]], [[20, 300, 300]] * 5),
        "slices of exactly three times the rows' spacing": (
            [[3.0, 1.0, 1.0]] * 4 + [[1.5, 1.0, 1.0]],
            [[30, 400, 400]] * 5,
        ),
        "exactly a third as many slices as rows": (
            [[5.0, 1.0, 1.0]] * 4 + [[1.5, 1.0, 1.0]],
            [[100, 300, 400]] * 5,
        ),
        "slices over three times the columns' spacing, not the rows'": (
            [[3.0, 1.2, 0.5]] * 4 + [[1.5, 1.2, 0.5]],
            [[30, 400, 400]] * 5,
        ),
        "slices over three times the columns' spacing, not the mean": (
            [[2.4, 1.2, 0.5]] * 4 + [[1.5, 1.2, 0.5]],
            [[30, 400, 400]] * 5,
        ),
        "slices over three times the mean of the others": (
            [[3.3, 1.2, 0.8]] * 4 + [[1.5, 1.2, 0.8]],
            [[30, 400, 400]] * 5,
        ),
        "less than a third as many slices as columns, but not as rows": (
            [[5.0, 1.0, 0.8]] * 4 + [[1.5, 1.0, 0.8]],
            [[60, 150, 400]] * 5,
        ),
        "less than a third as many slices as columns, but not as their mean": (
            [[5.0, 1.0, 0.8]] * 4 + [[1.5, 1.0, 0.8]],
            [[70, 100, 300]] * 5,
        ),
        "slices over twice the rows' spacing": ([[2.6, 1.0, 1.0]] * 4 + [[1.5, 1.0, 1.0]], [[30, 400, 400]] * 5),
        "half as many slices as rows": ([[5.0, 1.0, 1.0]] * 4 + [[1.5, 1.0, 1.0]], [[150, 310, 320]] * 5),
        "small animals": ([[2.5, 0.5, 0.5]] * 4 + [[1.6, 0.5, 0.5]], [[30, 200, 250]] * 5),
        "slices 3.5 times as far apart as columns, 30% as many": (
            [[3.5, 0.8, 1.0]] * 4 + [[1.5, 0.8, 0.9]],
            [[90, 350, 300]] * 5,
        ),
        "slices thrice as far apart as rows, not as columns": (
            [[3.0, 0.8, 1.2]] * 4 + [[1.5, 0.8, 1.2]],
            [[30, 400, 300]] * 5,
        ),
        "a third as many slices as rows, not as columns": (
            [[5.0, 0.8, 1.0]] * 4 + [[1.5, 0.8, 1.0]],
            [[60, 400, 150]] * 5,
        ),
        "one case": ([[5.0, 0.8, 0.7]], [[30, 300, 300]]),
    }


TARGET_SPACING = Exercise(
    solution=target_spacing,
    wrong={
        "mean": (_targets(middle=lambda rows: np.mean(rows, 0)), "You take the mean spacing. Take the median."),
        "mean_size": (
            _targets(middle_size=lambda rows: np.mean(rows, 0)),
            "You compare mean sizes. Compare the median numbers of voxels.",
        ),
        "means": (
            _targets(middle=lambda rows: np.mean(rows, 0), middle_size=lambda rows: np.mean(rows, 0)),
            "You take means of spacings and sizes. Take medians.",
        ),
        "finest": (
            _targets(middle=lambda rows: np.min(rows, 0)),
            "You take the finest spacing of each axis. Take the median.",
        ),
        "lower_median": (
            _targets(middle=_lower_median, middle_size=_lower_median),
            "Of an even number of cases the median is the mean of the two in the middle. torch.median takes the lower "
            "one.",
        ),
        "upper_median": (
            _targets(middle=_upper_median, middle_size=_upper_median),
            "Of an even number of cases the median is the mean of the two in the middle; you take the upper one.",
        ),
        "one_for_each_case": (
            lambda spacings, sizes: np.median(spacings, 1).tolist(),
            "You take the median over the axes of each case. Take it over the cases, for each axis.",
        ),
        "plain_median": (
            _targets(both=lambda thick, few: False),
            "That is the median for all axes. A coarse axis with few voxels gets its 10th percentile.",
        ),
        "always": (
            _targets(both=lambda thick, few: True),
            "You use the 10th percentile always. Both conditions must hold, else the median stays.",
        ),
        "either": (
            _targets(both=lambda thick, few: thick or few),
            "One condition is enough in your code. Both must hold: coarse spacing and few voxels.",
        ),
        "thick_alone": (
            _targets(both=lambda thick, few: thick),
            "You forgot the voxels: the axis must have less than a third of the others' voxels, too.",
        ),
        "few_alone": (
            _targets(both=lambda thick, few: few),
            "You forgot the spacing: it must be more than 3 times that of the others, too.",
        ),
        "at_three": (
            _targets(thick=lambda s, others: s >= 3 * others.max()),
            "Exactly 3 times the spacing of the others is not more than 3 times: >, not ≥.",
        ),
        "at_a_third": (
            _targets(few=lambda n, others: 3 * n <= others.min()),
            "Exactly a third of the voxels is not less than a third: <, not ≤.",
        ),
        "finest_other": (
            _targets(thick=lambda s, others: s > 3 * others.min()),
            "You compare with the finer of the other two spacings. Compare with the coarser one.",
        ),
        "mean_other": (
            _targets(thick=lambda s, others: s > 3 * others.mean()),
            "You compare with the mean of the other two spacings. Compare with the coarser one.",
        ),
        "most_voxels": (
            _targets(few=lambda n, others: 3 * n < others.max()),
            "You compare with the longer of the other two axes. Compare with the one of fewer voxels.",
        ),
        "mean_voxels": (
            _targets(few=lambda n, others: 3 * n < others.mean()),
            "You compare with the mean voxels of the other two axes. Compare with the one of fewer voxels.",
        ),
        "twice": (
            _targets(thick=lambda s, others: s > 2 * others.max()),
            "Your spacing needs to be 2 times that of the others. It is 3 times.",
        ),
        "four_times": (
            _targets(thick=lambda s, others: s > 4 * others.max()),
            "Your spacing needs to be 4 times that of the others. It is 3 times.",
        ),
        "quarter": (
            _targets(few=lambda n, others: 4 * n < others.min()),
            "A quarter of the others' voxels is few in your code. It is a third.",
        ),
        "half": (
            _targets(few=lambda n, others: 2 * n < others.min()),
            "Half of the others' voxels is few in your code. It is a third.",
        ),
        "fewer": (
            _targets(few=lambda n, others: n < others.min()),
            "Fewer voxels than the others is few in your code. It is less than a third.",
        ),
        "coarser": (
            _targets(thick=lambda s, others: s > others.max()),
            "Any coarser axis is coarse in your code. It needs more than 3 times the spacing of the others.",
        ),
        "first_axis": (
            _targets(coarse=lambda target, size: 0),
            "You take axis 0 to be the coarse one. It is the axis of the largest median spacing.",
        ),
        "last_axis": (
            _targets(coarse=lambda target, size: 2),
            "You take axis 2 to be the coarse one. It is the axis of the largest median spacing.",
        ),
        "percentile_90": (
            _targets(fine=lambda spacings, axis: float(np.percentile(spacings[:, axis], 90))),
            "You take the 90th percentile. The 10th is wanted: a fine spacing.",
        ),
        "quantile_of_10": (
            _targets(fine=lambda spacings, axis: float(np.percentile(spacings[:, axis], 0.1))),
            "np.percentile counts to 100: you take the 0.1th percentile.",
        ),
        "minimum": (
            _targets(fine=lambda spacings, axis: float(spacings[:, axis].min())),
            "You take the finest spacing of the coarse axis. Take its 10th percentile.",
        ),
        "of_all_axes": (
            _targets(fine=lambda spacings, axis: float(np.percentile(spacings, 10))),
            "Your percentile is of all axes together. Take that of the coarse axis alone.",
        ),
        "nearest": (
            _targets(fine=lambda spacings, axis: float(np.percentile(spacings[:, axis], 10, method="nearest"))),
            "You take the nearest of the sorted spacings. Between two of them interpolate linearly.",
        ),
        "lower": (
            _targets(fine=lambda spacings, axis: float(np.percentile(spacings[:, axis], 10, method="lower"))),
            "You take the next lower of the sorted spacings. Between two of them interpolate linearly.",
        ),
        "higher": (
            _targets(fine=lambda spacings, axis: float(np.percentile(spacings[:, axis], 10, method="higher"))),
            "You take the next higher of the sorted spacings. Between two of them interpolate linearly.",
        ),
        "by_index": (
            _targets(fine=lambda spacings, axis: float(np.sort(spacings[:, axis])[len(spacings) // 10])),
            "You pick one of the sorted spacings. The percentile lies at 0.1 · (N − 1), between two of them.",
        ),
        "no_limit": (
            _without_limit,
            "The 10th percentile may be finer than the other axes. The target is never below the coarser of them.",
        ),
        "limit_of_finest": (
            _targets(limit=lambda fine, others: max(fine, others.min() + 1e-5)),
            "Your limit is the finer of the other two spacings. It is the coarser one.",
        ),
        "limit_of_mean": (
            _targets(limit=lambda fine, others: max(fine, others.mean() + 1e-5)),
            "Your limit is the mean of the other two spacings. It is the coarser one.",
        ),
        "nothing_added": (
            _targets(limit=lambda fine, others: max(fine, others.max())),
            "At the limit the target is the coarser other spacing plus 1e-5: it stays the largest of the three.",
        ),
        "limit_of_finest_alone": (
            _targets(limit=lambda fine, others: max(fine, others.min())),
            "Your limit is the finer of the other two spacings, and lacks the 1e-5. It is the coarser one + 1e-5.",
        ),
        "finest_other_always": (
            _targets(
                thick=lambda s, others: s > 3 * others.min(), limit=lambda fine, others: max(fine, others.min() + 1e-5)
            ),
            "Condition and limit take the finer of the other two spacings. Both take the coarser one.",
        ),
        "always_added": (
            _targets(limit=lambda fine, others: max(fine, others.max()) + 1e-5),
            "You add 1e-5 always. It is added only where the percentile lies below the other spacings.",
        ),
        "median_at_limit": (
            lambda spacings, sizes: (
                found
                if (found := target_spacing(spacings, sizes)) == _without_limit(spacings, sizes)
                else np.median(spacings, 0).tolist()
            ),
            "Where the percentile lies below the others you keep the median. Take the coarser of the others + 1e-5.",
        ),
        "all_axes": (
            lambda spacings, sizes: (
                np.percentile(spacings, 10, axis=0).tolist()
                if target_spacing(spacings, sizes) != np.median(spacings, 0).tolist()
                else np.median(spacings, 0).tolist()
            ),
            "You change all three axes. Only the coarse one gets its percentile; the others keep the median.",
        ),
        "coarse_first": (_coarse_axis_first, "You moved the coarse axis to the front. Keep the order of the axes."),
        "reversed": (
            lambda spacings, sizes: target_spacing(spacings, sizes)[::-1],
            "Your axes are reversed. Keep their order.",
        ),
        "one_number": (
            lambda spacings, sizes: max(target_spacing(spacings, sizes)),
            "You return one number. Return a spacing for each of the three axes.",
        ),
    },
    right={"sorting, a tuple": _target_by_sorting, "PyTorch, in place": _target_in_torch},
    probes=_sets,
    hint="Medians first. Then, for the axis of the largest spacing: both conditions, its 10th percentile, the limit.",
    sketch="""
        target, size = np.median(spacings, 0), np.median(...)
        axis = target.argmax()
        others = [a for a in range(3) if a != axis]
        coarser = target[others].max()
        if target[axis] > 3 * ... and 3 * size[axis] < ...:
            fine = np.percentile([row[axis] for row in spacings], ...)
            target[axis] = fine if ... else ... + 1e-5
        return target.tolist()
    """,
    tolerance=1e-6,  # finer than the 1e-5 that the rule adds
)


# A coarser spacing for lowres ----------------------------------------------------------------------------------------

PatchFor = Callable[[list[float], list[int]], list[int]]


def lowres(spacing: Sequence[float], size: Sequence[int], patch_for: PatchFor) -> list[float] | None:
    """The spacing in mm of the low-resolution configuration, ``None`` where there is none."""
    return _lowres(spacing, size, patch_for)


def _finer_ones(spacing: list[float]) -> list[int]:
    return [a for a in range(3) if max(spacing) / spacing[a] > 2] or [0, 1, 2]


def _lowres(
    spacing: Sequence[float],
    size: Sequence[int],
    patch_for: PatchFor,
    *,
    covered: Callable[[float], bool] = lambda share: share >= 0.25,
    finer: Callable[[list[float]], list[int]] = _finer_ones,
    step: Callable[[float], float] = lambda s: s * 1.03,
    whole: Callable[[float], Any] = round,
    count: Callable[[float], float] = lambda n: n,
    keep: Callable[[float], bool] = lambda times: times >= 2,
    again: bool = True,
) -> list[float] | None:
    """``lowres`` with some steps exchanged."""
    now, new = list(spacing), [float(n) for n in size]
    patch = math.prod(patch_for(list(now), list(size)))
    while not covered(patch / math.prod(map(count, new))):
        axes = finer(now)
        now = [step(s) if a in axes else s for a, s in enumerate(now)]
        new = [n * s / t for n, s, t in zip(size, spacing, now, strict=True)]
        if again:
            patch = math.prod(patch_for(list(now), [whole(n) for n in new]))
    return now if keep(math.prod(size) / math.prod(map(count, new))) else None


def _lower(**changes: Any) -> Callable[[Sequence[float], Sequence[int], PatchFor], Any]:
    return lambda spacing, size, patch_for: _lowres(spacing, size, patch_for, **changes)


def _one_step(less: bool) -> Callable[[Sequence[float], Sequence[int], PatchFor], Any]:
    def attempt(spacing: Sequence[float], size: Sequence[int], patch_for: PatchFor) -> list[float] | None:
        found = lowres(spacing, size, patch_for)
        if found is None:
            return None
        before = now = list(spacing)
        while now != found:
            before, now = now, _one_step_further(now)
        return before if less else _one_step_further(now)

    return attempt


def _one_step_further(spacing: list[float]) -> list[float]:
    return [s * 1.03 if a in _finer_ones(spacing) else s for a, s in enumerate(spacing)]


def _lowres_by_loop(spacing: Sequence[float], size: Sequence[int], patch_for: PatchFor) -> tuple[float, ...] | None:
    factors = [1.0, 1.0, 1.0]
    while True:
        now = [s * f for s, f in zip(spacing, factors, strict=True)]
        new = [n / f for n, f in zip(size, factors, strict=True)]
        d, h, w = patch_for(now, [round(n) for n in new])
        if 4 * d * h * w >= math.prod(new):
            return tuple(now) if math.prod(factors) >= 2 else None
        fine = [a for a in range(3) if max(now) > 2 * now[a]] or range(3)
        for a in fine:
            factors[a] *= 1.03


def _lowres_in_torch(spacing: Any, size: Sequence[int], patch_for: PatchFor) -> Tensor | None:
    start = torch.tensor(spacing, dtype=torch.float64)
    now, voxels = start.clone(), torch.tensor(size, dtype=torch.float64)
    while math.prod(patch_for(now.tolist(), voxels.round().int().tolist())) < voxels.prod() / 4:
        fine = now < now.max() / 2
        now[fine | ~fine.any()] *= 1.03
        voxels = start / now * torch.tensor(size)
    return None if math.prod(size) < 2 * voxels.prod() else now


def _lowres_cases() -> Mapping[str, tuple[list[float], list[int], PatchFor]]:
    def always(*patch: int) -> PatchFor:
        return lambda spacing, size: list(patch)

    def clipped(*patch: int) -> PatchFor:
        return lambda spacing, size: [min(p, n) for p, n in zip(patch, size, strict=True)]

    def whole(spacing: list[float], size: list[int]) -> list[int]:
        """A patch that every voxel of the size changes."""
        return [96, 96, 96] if sum(size) % 5 < 1 else [8, 8, 8]

    def grows(spacing: list[float], size: list[int]) -> list[int]:
        return [round(40 * s) for s in spacing]

    return {
        "a large CT with thick slices": ([5.0, 0.8, 0.8], [100, 512, 512], clipped(48, 192, 192)),
        "a patch that follows the size": ([1.5, 1.0, 1.0], [220, 300, 333], whole),
        "a patch that grows with the spacing": ([1.5, 1.0, 0.6], [100, 150, 160], grows),
        "very thick slices": ([8.0, 0.8, 0.8], [60, 400, 400], clipped(32, 96, 96)),
        "a small image": ([2.0, 1.0, 1.0], [9, 13, 11], always(4, 5, 5)),
        "a patch of a fifth of the image": ([1.0, 1.0, 1.0], [160, 160, 160], always(96, 96, 88)),
        "a patch of a third": ([2.0, 1.0, 1.0], [100, 200, 200], always(96, 128, 112)),
        "the whole image": ([3.0, 1.0, 1.0], [30, 100, 100], clipped(64, 192, 192)),
        "slices of exactly twice the spacing": ([2.0, 1.0, 1.0], [200, 300, 300], clipped(96, 96, 96)),
        "two axes finer than half of the coarsest": ([4.0, 1.9, 0.9], [120, 300, 500], clipped(64, 96, 128)),
        "an eighth of the image": ([1.0, 1.0, 1.2], [192, 192, 192], always(96, 96, 96)),
    }


LOWRES = Exercise(
    solution=lowres,
    wrong={
        "half": (
            _lower(covered=lambda share: share >= 0.5),
            "You go on until the patch covers half of the image. A quarter is enough.",
        ),
        "eighth": (
            _lower(covered=lambda share: share >= 0.125),
            "You stop at an eighth of the image. The patch must cover a quarter.",
        ),
        "whole_image": (
            _lower(covered=lambda share: share >= 0.9),
            "You go on until the patch covers nearly the whole image. A quarter is enough.",
        ),
        "all_axes": (
            _lower(finer=lambda s: [0, 1, 2]),
            "All axes become coarser in your code. First those alone that are more than twice as fine as the coarsest.",
        ),
        "finest_alone": (
            _lower(finer=lambda s: [s.index(min(s))]),
            "You change the finest axis alone. All axes more than twice as fine as the coarsest change; if there is "
            "none, all three.",
        ),
        "finer_than_coarsest": (
            _lower(finer=lambda s: [a for a in range(3) if s[a] < max(s)] or [0, 1, 2]),
            "You first change every axis that is finer than the coarsest. It must be more than twice as fine.",
        ),
        "three_times": (
            _lower(finer=lambda s: [a for a in range(3) if max(s) > 3 * s[a]] or [0, 1, 2]),
            "An axis must be more than twice as fine as the coarsest, not three times.",
        ),
        "at_twice": (
            _lower(finer=lambda s: [a for a in range(3) if max(s) >= 2 * s[a]] or [0, 1, 2]),
            "An axis that is exactly twice as fine is not more than twice as fine: >, not ≥.",
        ),
        "thirty_per_cent": (_lower(step=lambda s: s * 1.3), "You multiply by 1.3. A step is 3%: 1.03."),
        "one_per_cent": (_lower(step=lambda s: s * 1.01), "You multiply by 1.01. A step is 3%: 1.03."),
        "doubled": (_lower(step=lambda s: s * 2), "You double the spacing. A step is 3%: times 1.03."),
        "added": (_lower(step=lambda s: s + 0.03), "You add 0.03 mm. A step multiplies by 1.03."),
        "rounded_voxels": (
            _lower(count=round),
            "You count voxels of the rounded size. Only what `patch_for` gets is rounded.",
        ),
        "cut_off": (
            _lower(whole=math.floor),
            "You round the size down for `patch_for`. Round it to the nearest whole number.",
        ),
        "rounded_up": (
            _lower(whole=math.ceil),
            "You round the size up for `patch_for`. Round it to the nearest whole number.",
        ),
        "not_rounded": (_lower(whole=lambda n: n), "`patch_for` gets whole voxels: round the size."),
        "old_patch": (
            _lower(again=False),
            "You keep the first patch. A coarser spacing has a patch of its own: ask `patch_for` in every step.",
        ),
        "old_size": (
            lambda spacing, size, patch_for: lowres(spacing, size, lambda s, n: patch_for(s, list(size))),
            "You hand the old size to `patch_for`. At a coarser spacing the image has fewer voxels.",
        ),
        "old_spacing": (
            lambda spacing, size, patch_for: lowres(spacing, size, lambda s, n: patch_for(list(spacing), n)),
            "You hand the old spacing to `patch_for`. It needs the one of this step.",
        ),
        "never_dropped": (
            _lower(keep=lambda times: times > 1),
            "Where the image has more than half of its voxels left, lowres is dropped: None.",
        ),
        "always_a_spacing": (
            _lower(keep=lambda times: True),
            "Where the patch covers a quarter at once, or half of the voxels are left, there is no lowres: None.",
        ),
        "dropped_at_four": (
            _lower(keep=lambda times: times >= 4),
            "You drop lowres unless the voxels are a quarter. Half of them is the limit.",
        ),
        "dropped_at_eight": (
            _lower(keep=lambda times: times >= 8),
            "You drop lowres unless every axis is halved. Half of the voxels is the limit.",
        ),
        "by_spacing": (
            lambda spacing, size, patch_for: (
                found
                if (found := _lowres(spacing, size, patch_for, keep=lambda times: True))
                and max(found) >= 2 * max(spacing)
                else None
            ),
            "You ask whether the spacing has doubled. The number of voxels counts: half of them, or fewer.",
        ),
        "dropped_inverted": (
            _lower(keep=lambda times: times < 2),
            "You drop the useful ones: None is for fewer than 2 times fewer voxels.",
        ),
        "one_step_less": (
            _one_step(less=True),
            "You return the spacing before the last step. Return the first that fits.",
        ),
        "one_step_more": (
            _one_step(less=False),
            "You go one step too far. Stop as soon as the patch covers a quarter.",
        ),
        "a_size": (
            lambda spacing, size, patch_for: (
                None
                if (found := lowres(spacing, size, patch_for)) is None
                else [n * a / b for n, a, b in zip(size, spacing, found, strict=True)]
            ),
            "You return the size in voxels. Return the spacing.",
        ),
        "factors": (
            lambda spacing, size, patch_for: (
                None
                if (found := lowres(spacing, size, patch_for)) is None
                else [b / a for a, b in zip(spacing, found, strict=True)]
            ),
            "You return how much coarser each axis is. Return the spacing in mm.",
        ),
        "coarsest_alone": (  # the last one, as it takes long
            _lower(finer=lambda s: [s.index(max(s))]),
            "You make the coarsest axis coarser. The finer ones come first.",
        ),
    },
    right={"loops, a tuple": _lowres_by_loop, "PyTorch, in place": _lowres_in_torch},
    probes=_lowres_cases,
    hint="While the patch covers less than a quarter: finer axes × 1.03, a new size, a new patch. Then the last test.",
    sketch="""
        now = np.array(spacing)
        voxels = np.array(size, float)                       # not rounded
        while np.prod(patch_for(now.tolist(), ...)) < ... * voxels.prod():
            fine = now.max() / now ...
            now[fine if fine.any() else slice(None)] *= ...
            voxels = np.array(spacing) / now * ...
        return now.tolist() if ... else None
    """,
)


# Resampling thick slices ---------------------------------------------------------------------------------------------


def resample(image: Tensor, size: Sequence[int], spacing: Sequence[float]) -> Tensor:
    """An image ``(D, H, W)`` of a spacing in mm at another size; a coarse axis takes the nearest slice."""
    return _resample(image, size, spacing)


def _nearest(n: int, m: int) -> Tensor:
    """For each of ``m`` voxels the one of ``n`` whose centre is nearest."""
    return ((torch.arange(m) + 0.5) * n / m).long()


def _resample(
    image: Tensor,
    size: Sequence[int],
    spacing: Sequence[float],
    *,
    separate: Callable[[Sequence[float]], bool] = lambda s: max(s) / min(s) > 3,
    coarse: Callable[[Sequence[float]], int] = lambda s: s.index(max(s)),
    nearest: Callable[[int, int], Tensor] = _nearest,
    smooth: Callable[[Tensor, Sequence[int]], Tensor] = lambda x, size: F.interpolate(
        x[None, None], tuple(size), mode="trilinear"
    )[0, 0],
    in_plane: Callable[[Tensor, Sequence[int]], Tensor] | None = None,
) -> Tensor:
    """``resample`` with some steps exchanged."""
    if not separate(spacing):
        return smooth(image, size)
    axis = coarse(list(spacing))
    return (in_plane or smooth)(image.index_select(axis, nearest(image.shape[axis], size[axis])), size)


def _resamples(**changes: Any) -> Callable[[Tensor, Sequence[int], Sequence[float]], Tensor]:
    return lambda image, size, spacing: _resample(image, size, spacing, **changes)


def _interpolated(mode: str, **options: Any) -> Callable[[Tensor, Sequence[int]], Tensor]:
    return lambda x, size: F.interpolate(x[None, None], tuple(size), mode=mode, **options)[0, 0]


def _linear_along_nearest_in_plane(image: Tensor, size: Sequence[int], spacing: Sequence[float]) -> Tensor:
    axis = list(spacing).index(max(spacing))
    if max(spacing) / min(spacing) <= 3:
        return resample(image, size, spacing)
    for a in {0, 1, 2} - {axis}:
        image = image.index_select(a, _nearest(image.shape[a], size[a]))
    return _interpolated("trilinear")(image, size)


def _resample_numpy(image: Tensor, size: Sequence[int], spacing: Sequence[float]) -> np.ndarray:
    """Along one axis after the other."""
    values, coarse = image.numpy().astype(float), int(np.argmax(spacing))
    for axis, m in enumerate(size):
        n = values.shape[axis]
        at = (np.arange(m) + 0.5) * n / m - 0.5  # in voxels of the image
        if axis == coarse and max(spacing) > 3 * min(spacing):
            values = np.take(values, np.rint(at).astype(int).clip(0, n - 1), axis)
            continue
        at = at.clip(0, n - 1)
        low = at.astype(int)
        high = (low + 1).clip(max=n - 1)
        part = np.expand_dims(at - low, [a for a in range(3) if a != axis])
        values = np.take(values, low, axis) * (1 - part) + np.take(values, high, axis) * part
    return values


def _resample_slice_by_slice(image: Tensor, size: Sequence[int], spacing: Sequence[float]) -> Tensor:
    if max(spacing) <= 3 * min(spacing):
        return F.interpolate(image[None, None], tuple(size), mode="trilinear", align_corners=False)[0, 0]
    axis = max(range(3), key=lambda a: spacing[a])
    moved, plane = image.movedim(axis, 0), [n for a, n in enumerate(size) if a != axis]
    slices = F.interpolate(moved[:, None], plane, mode="bilinear")[:, 0]
    centres = torch.arange(len(moved)) + 0.5
    wanted = (torch.arange(size[axis]) + 0.5) * len(moved) / size[axis]
    return slices[(wanted[:, None] - centres).abs().argmin(1)].movedim(0, axis)


def _resample_scipy(image: Tensor, size: Sequence[int], spacing: Sequence[float]) -> np.ndarray:
    places = [(np.arange(m) + 0.5) * n / m - 0.5 for n, m in zip(image.shape, size, strict=True)]
    if max(spacing) / min(spacing) > 3:
        axis = int(np.argmax(spacing))
        places[axis] = np.round(places[axis])
    return ndimage.map_coordinates(image.numpy(), np.meshgrid(*places, indexing="ij"), order=1, mode="nearest")


def _images() -> Mapping[str, tuple[Tensor, list[int], list[float]]]:
    draw = torch.Generator().manual_seed(18)

    def image(*size: int) -> Tensor:
        return torch.randn(size, generator=draw)

    return {  # along a coarse axis the number of voxels is odd: no slice lies in the middle of two
        "thick slices, more of them": (image(5, 6, 7), [8, 9, 5], [5.0, 1.0, 1.0]),
        "thick slices, fewer of them": (image(7, 5, 6), [3, 7, 8], [6.0, 1.5, 1.2]),
        "thick slices, five times as many": (image(3, 4, 4), [15, 4, 4], [10.0, 2.0, 2.0]),
        "a coarse last axis": (image(6, 4, 5), [4, 7, 9], [0.8, 0.8, 4.0]),
        "a coarse middle axis": (image(6, 5, 4), [4, 12, 7], [1.0, 5.0, 1.3]),
        "nearly isotropic": (image(5, 6, 7), [8, 9, 5], [1.2, 1.0, 1.0]),
        "spacing exactly 3 to 1": (image(5, 6, 7), [7, 5, 9], [3.0, 1.0, 1.0]),
        "spacing 2.5 to 1": (image(5, 6, 7), [9, 7, 5], [2.5, 1.0, 1.0]),
        "spacing 3.5 to 1": (image(5, 6, 7), [8, 5, 9], [3.5, 1.1, 1.0]),
        "over three times the finest alone": (image(5, 4, 6), [9, 7, 5], [5.0, 2.0, 1.0]),
        "microscopy": (image(5, 6, 4), [7, 9, 6], [0.4, 0.1, 0.1]),
        "4 mm along every axis": (image(5, 6, 4), [7, 9, 6], [4.0, 4.0, 4.0]),
        "the same size": (image(5, 4, 3), [5, 4, 3], [5.0, 1.0, 1.0]),
    }


RESAMPLE = Exercise(
    solution=resample,
    wrong={
        "always_linear": (
            _resamples(separate=lambda s: False),
            "You interpolate along all axes always. Where spacings differ by more than 3 times, the coarse axis takes "
            "the nearest slice.",
        ),
        "always_separate": (
            _resamples(separate=lambda s: True),
            "You take the nearest slice always. Only if spacings differ by more than 3 times.",
        ),
        "at_three": (
            _resamples(separate=lambda s: max(s) / min(s) >= 3),
            "Exactly 3 times is not more than 3 times: >, not ≥.",
        ),
        "in_mm": (
            _resamples(separate=lambda s: max(s) > 3),
            "You ask whether a spacing is more than 3 mm. Compare the largest with the least: their ratio.",
        ),
        "twice": (_resamples(separate=lambda s: max(s) / min(s) > 2), "The limit is 3 times, not 2."),
        "four_times": (_resamples(separate=lambda s: max(s) / min(s) > 4), "The limit is 3 times, not 4."),
        "than_middle": (
            _resamples(separate=lambda s: sorted(s)[2] / sorted(s)[1] > 3),
            "You compare the coarsest spacing with the middle one. Compare with the finest.",
        ),
        "first_axis": (
            _resamples(coarse=lambda s: 0),
            "Your coarse axis is always the first. It is the one of the largest spacing.",
        ),
        "last_axis": (
            _resamples(coarse=lambda s: 2),
            "Your coarse axis is always the last. It is the one of the largest spacing.",
        ),
        "finest_axis": (
            _resamples(coarse=lambda s: s.index(min(s))),
            "You take the nearest voxel along the finest axis. Take it along the coarse one.",
        ),
        "no_half_voxel": (
            _resamples(nearest=lambda n, m: (torch.arange(m) * n / m).long()),
            'Your slices start at corners (`mode="nearest"` does). Centres count: voxel i lies at i + ½.',
        ),
        "corners": (
            _resamples(nearest=lambda n, m: (torch.arange(m) * (n - 1) / max(m - 1, 1)).round().long()),
            "You join the first centres and the last ones. Both images cover the same space: voxel i lies at i + ½.",
        ),
        "next_slice": (
            _resamples(nearest=lambda n, m: ((torch.arange(m) + 0.5) * n / m).round().long().clamp(max=n - 1)),
            "You round (i + ½) · n / m to the nearest. The slice that holds this place is its whole part.",
        ),
        "rounded_corner": (
            _resamples(nearest=lambda n, m: (torch.arange(m) * n / m).round().long().clamp(max=n - 1)),
            "You round i · n / m. Centres count: voxel i lies at i + ½.",
        ),
        "align_corners": (
            _resamples(smooth=_interpolated("trilinear", align_corners=True)),
            "With `align_corners=True` the images no longer cover the same space. Leave it off.",
        ),
        "nearest_everywhere": (
            _resamples(smooth=_interpolated("nearest-exact")),
            "You take nearest voxels on all axes. In the plane interpolate linearly.",
        ),
        "nearest_in_plane": (
            _resamples(in_plane=_interpolated("nearest-exact")),
            "With thick slices you take nearest voxels in the plane, too. There interpolate linearly.",
        ),
        "exchanged": (
            _linear_along_nearest_in_plane,
            "You exchanged the two: linear in the plane, nearest along the coarse axis.",
        ),
        "averaged": (
            _resamples(smooth=_interpolated("area")),
            "You average areas. Interpolate linearly between centres.",
        ),
        "cut": (
            _resamples(in_plane=lambda x, size: x),
            "With thick slices your plane keeps its old size. Interpolate in the plane, too.",
        ),
        "coarse_axis_kept": (
            lambda image, size, spacing: _resample(
                image,
                [
                    image.shape[a] if max(spacing) / min(spacing) > 3 and a == spacing.index(max(spacing)) else n
                    for a, n in enumerate(size)
                ],
                spacing,
            ),
            "Your coarse axis keeps its number of slices. Take the nearest slice for each of the wanted ones.",
        ),
        "batch": (
            lambda image, size, spacing: resample(image, size, spacing)[None, None],
            "You return a batch of one image with one channel. Return (D, H, W).",
        ),
        "reversed": (
            lambda image, size, spacing: resample(image, size, spacing[::-1]),
            "You read the spacing as (x, y, z). It is (z, y, x), in the order of the axes.",
        ),
    },
    right={
        "NumPy, axis by axis": _resample_numpy,
        "slice by slice": _resample_slice_by_slice,
        "SciPy": _resample_scipy,
    },
    probes=_images,
    hint="Coarse: whole part of (i + ½) · n / m along that axis. All other axes: linear, `align_corners=False`.",
    sketch="""
        if max(spacing) / min(spacing) ...:
            axis = spacing.index(...)
            i = torch.arange(size[axis])
            image = image.index_select(axis, ((i + ...) * ... / ...).long())
        return F.interpolate(image[None, None], size, mode=...)[0, 0]
    """,
)
