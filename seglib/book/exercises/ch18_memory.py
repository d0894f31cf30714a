"""Chapter 18, "nnU-Net": the pieces and exercises on memory: a smaller patch, the batch size, a plan of your own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.book.exercise import Exercise, expect
from seglib.book.exercises.ch18_network import topology
from seglib.planning.fingerprint import Fingerprint, ForegroundStatistics
from seglib.planning.plan import Plan, plan

# Piece 5: a smaller patch --------------------------------------------------------------------------------------------


def multiples(spacing: Sequence[float], patch: Sequence[int]) -> list[int]:
    """What each side of a patch is a multiple of: the product of its strides."""
    strides = topology(spacing, patch)[0]
    return [math.prod(s[axis] for s in strides) for axis in range(3)]


def shrink(spacing: Sequence[float], patch: Sequence[int], size: Sequence[int]) -> list[int]:
    """The next smaller patch: shorter along the axis where it covers most of the image."""
    return _shrink(spacing, patch, size)


def _shrink(
    spacing: Sequence[float],
    patch: Sequence[int],
    size: Sequence[int],
    *,
    share: Callable[[int, int, float], float] = lambda p, n, s: p / n,
    pick: Callable[[list[float]], int] = lambda shares: max(range(3), key=lambda a: (shares[a], a)),
    multiple: Callable[[list[int], int], int] = lambda m, axis: m[axis],
    less: Callable[[int, int, int], int] = lambda side, m, later: side - later,
) -> list[int]:
    """``shrink`` with some steps exchanged."""
    axis = pick([share(p, n, s) for p, n, s in zip(patch, size, spacing, strict=True)])
    smaller = list(patch)
    m = multiple(multiples(spacing, patch), axis)
    smaller[axis] -= m
    later = multiple(multiples(spacing, smaller), axis)
    return [less(p, m, later) if a == axis else p for a, p in enumerate(patch)]


def _shrinks(**changes: Any) -> Callable[[Sequence[float], Sequence[int], Sequence[int]], list[int]]:
    return lambda spacing, patch, size: _shrink(spacing, patch, size, **changes)


def _first_of_largest(shares: list[float]) -> int:
    return shares.index(max(shares))


def _every_axis(spacing: Sequence[float], patch: Sequence[int], size: Sequence[int]) -> list[int]:
    return [p - m for p, m in zip(patch, multiples(spacing, patch), strict=True)]


def _shrink_numpy(spacing: Any, patch: Any, size: Any) -> np.ndarray:
    now = np.array(patch)
    axis = np.flatnonzero(now / size == (now / size).max())[-1]
    less = now.copy()
    less[axis] -= np.prod([s[axis] for s in topology(spacing, patch)[0]])
    now[axis] -= np.prod([s[axis] for s in topology(spacing, less.tolist())[0]])
    return now


def _shrink_in_place(spacing: Any, patch: list[int], size: Any) -> list[int]:
    best, axis = Fraction(0), 0
    for a in range(3):
        if Fraction(patch[a], size[a]) >= best:
            best, axis = Fraction(patch[a], size[a]), a
    side = patch[axis]
    for _ in range(2):
        strides = topology(spacing, patch)[0]
        patch[axis] = side - 2 ** sum(stride[axis] == 2 for stride in strides)
    return patch


def _shrink_in_torch(spacing: Any, patch: Any, size: Any) -> Tensor:
    now = torch.tensor(patch)
    shares = (now / torch.tensor(size)).flip(0)
    axis = 2 - int(shares.argmax())

    def step(of: Tensor) -> Tensor:
        return torch.tensor([[1, 1, 1], *topology(spacing, of.tolist())[0]]).prod(0) * (torch.arange(3) == axis)

    return now - step(now - step(now))


def _patches_to_shrink() -> Mapping[str, tuple[list[float], list[int], list[int]]]:
    return {
        "a cube in a long image": ([1.0, 1.0, 1.0], [160, 160, 160], [400, 300, 250]),
        "a cube in a cube": ([1.0, 1.0, 1.0], [128, 128, 128], [300, 300, 300]),
        "128 voxels along the middle axis": ([1.0, 1.0, 1.2], [96, 128, 96], [300, 200, 260]),
        "thick slices": ([4.0, 0.8, 0.8], [40, 320, 256], [44, 600, 500]),
        "thick slices, a short image": ([3.0, 1.0, 1.0], [20, 224, 192], [60, 230, 260]),
        "a short first axis of few voxels": ([1.0, 1.0, 1.0], [32, 256, 192], [34, 400, 350]),
        "two axes that cover as much": ([1.0, 1.0, 1.0], [112, 112, 80], [140, 140, 160]),
        "64 voxels along the last axis": ([1.0, 1.0, 1.0], [96, 80, 64], [400, 300, 70]),
        "a coarse axis that covers least": ([3.0, 1.0, 1.0], [24, 96, 192], [90, 220, 400]),
        "thick slices that reach far": ([5.0, 0.8, 0.8], [48, 160, 128], [300, 400, 200]),
        "256 voxels along the first axis": ([0.9, 1.0, 1.0], [256, 160, 160], [300, 400, 380]),
    }


SHRINK = Exercise(
    solution=shrink,
    wrong={
        "longest": (
            _shrinks(share=lambda p, n, s: p, pick=_first_of_largest),
            "You shorten the longest side. Shorten the one that covers most of its axis: patch / size.",
        ),
        "longest_in_mm": (
            _shrinks(share=lambda p, n, s: p * s, pick=_first_of_largest),
            "You shorten the side that is longest in mm. Shorten the one that covers most of its axis: patch / size.",
        ),
        "most_in_mm": (
            _shrinks(share=lambda p, n, s: p / n * s, pick=_first_of_largest),
            "You weigh the share with the spacing. It is patch / size, in voxels.",
        ),
        "covers_least": (
            _shrinks(share=lambda p, n, s: n / p, pick=_first_of_largest),
            "You shorten the axis that the patch covers least. Take the largest patch / size.",
        ),
        "most_left": (
            _shrinks(share=lambda p, n, s: p - n, pick=_first_of_largest),
            "You compare differences. Compare shares: patch / size.",
        ),
        "first_of_equals": (
            _shrinks(pick=_first_of_largest),
            "Of axes that are covered alike take the last.",
        ),
        "every_axis": (_every_axis, "You shorten every axis. One axis is shortened in a step."),
        "first_axis": (_shrinks(pick=lambda shares: 0), "You shorten the first axis always."),
        "last_axis": (_shrinks(pick=lambda shares: 2), "You shorten the last axis always."),
        "old_multiple": (
            _shrinks(less=lambda side, m, later: side - m),
            "You take away what the old side is a multiple of, and skip a size between. Ask `topology` for the "
            "shorter patch, and take away its multiple.",
        ),
        "both_multiples": (
            _shrinks(less=lambda side, m, later: side - m - later),
            "You take away both multiples. Start from the old side, and take away that of the shorter patch alone.",
        ),
        "one_voxel": (
            _shrinks(less=lambda side, m, later: side - 1),
            "You take away one voxel, and padding brings it back. Take away the multiple.",
        ),
        "two_voxels": (
            _shrinks(less=lambda side, m, later: side - 2),
            "You take away two voxels. Take away what the side must be a multiple of: 2 to the power of its poolings.",
        ),
        "half": (
            _shrinks(less=lambda side, m, later: side // 2),
            "You halve the side. Take away what the side of the shorter patch is a multiple of.",
        ),
        "poolings": (
            _shrinks(less=lambda side, m, later: side - later.bit_length() + 1),
            "You take away the number of poolings. Take away 2 to the power of it.",
        ),
        "twice_poolings": (
            _shrinks(less=lambda side, m, later: side - 2 * (later.bit_length() - 1)),
            "You take away 2 · poolings. Take away 2 to the power of the poolings.",
        ),
        "deepest_multiple": (
            _shrinks(multiple=lambda m, axis: max(m)),
            "You take away the multiple of the deepest axis. Each axis has its own.",
        ),
        "multiple_of_first": (
            _shrinks(multiple=lambda m, axis: m[0]),
            "You take away the multiple of the first axis. Each axis has its own.",
        ),
        "next_multiple": (
            _shrinks(less=lambda side, m, later: later),
            "You return the multiple. Take it away from the side.",
        ),
        "the_axis": (
            lambda spacing, patch, size: max(range(3), key=lambda a: (patch[a] / size[a], a)),
            "You return the axis. Return the patch.",
        ),
    },
    right={"NumPy": _shrink_numpy, "fractions, in place": _shrink_in_place, "PyTorch": _shrink_in_torch},
    probes=_patches_to_shrink,
    hint="One axis: that of the largest patch / size. From its old side take the multiple that the shorter patch has.",
    sketch="""
        axis = max(range(3), key=lambda a: (patch[a] / ..., a))  # the last of equals
        shorter = list(patch)
        shorter[axis] -= math.prod(s[axis] for s in topology(spacing, patch)[0])
        later = math.prod(s[axis] for s in ...)
        return [p - ... if a == axis else p for a, p in enumerate(patch)]
    """,
)


# Piece 6: the batch size ---------------------------------------------------------------------------------------------


def batch_size(features: int, patch: Sequence[int], size: Sequence[int], cases: int, memory: float) -> int:
    """How many patches a batch has: what memory holds, at most 5 % of the data set's voxels, at least 2."""
    return _batch_size(features, patch, size, cases, memory)


def _batch_size(
    features: int,
    patch: Sequence[int],
    size: Sequence[int],
    cases: int,
    memory: float,
    *,
    budget: Callable[[float], float] = lambda memory: 560e6 * memory / 8,
    times: float = 2,
    whole: Callable[[float], float] = round,
    part: float = 0.05,
    whole_part: Callable[[float], float] = round,
    voxels: Callable[[int, int, int], float] = lambda image, cases, patch: image * cases / patch,
    join: Callable[[float, float], float] = lambda fits, most: max(min(fits, most), 2),
) -> Any:
    """``batch_size`` with some steps exchanged."""
    fits = whole(times * budget(memory) / features)
    return join(fits, whole_part(part * voxels(math.prod(size), cases, math.prod(patch))))


def _batches(**changes: Any) -> Callable[..., Any]:
    return lambda features, patch, size, cases, memory: _batch_size(features, patch, size, cases, memory, **changes)


def _batch_numpy(features: int, patch: Any, size: Any, cases: int, memory: float) -> np.ndarray:
    limits = [140e6 * memory / features, cases * np.prod(np.divide(size, patch)) / 20]
    return np.rint(min(limits)).clip(2)


def _batch_by_ifs(features: int, patch: Any, size: Any, cases: int, memory: float) -> int:
    batch = int(2 * 560e6 * memory / 8 / features + 0.5)
    covered = 20 * batch * math.prod(patch)
    if covered > cases * math.prod(size):
        batch = int(cases * math.prod(size) / math.prod(patch) / 20 + 0.5)
    return 2 if batch < 2 else batch


def _batch_in_torch(features: int, patch: Any, size: Any, cases: int, memory: float) -> Tensor:
    of_memory = torch.tensor(2 * 70e6 * memory / features, dtype=torch.float64).round()
    of_data = 0.05 * cases * torch.tensor(size).prod().double() / torch.tensor(patch).prod()
    return torch.minimum(of_memory, of_data.round()).clamp(min=2).int()


BATCH_SIZE = Exercise(
    solution=batch_size,
    wrong={
        "rounded_down": (_batches(whole=math.floor), "You round what memory holds down. Round to the nearest number."),
        "rounded_up": (_batches(whole=math.ceil), "You round what memory holds up. Round to the nearest number."),
        "data_rounded_down": (
            _batches(whole_part=math.floor),
            "You round the 5% down. Round to the nearest whole number of patches.",
        ),
        "data_rounded_up": (
            _batches(whole_part=math.ceil),
            "You round the 5% up. Round to the nearest whole number of patches.",
        ),
        "all_rounded_down": (
            _batches(whole=math.floor, whole_part=math.floor),
            "You round both limits down. Round both to the nearest whole number.",
        ),
        "not_rounded": (
            _batches(whole=lambda v: v, whole_part=lambda v: v),
            "A batch has whole patches: round both limits.",
        ),
        "one_patch": (
            _batches(times=1),
            "The budget is that of two patches, so it holds 2 · budget / features.",
        ),
        "one_budget": (
            _batches(budget=lambda memory: 560e6),
            "The memory changes nothing in your batch. The budget of 560 million is that of 8 GB.",
        ),
        "per_gigabyte": (
            _batches(budget=lambda memory: 560e6 * memory),
            "560 million is the budget of 8 GB, not of one: times memory / 8.",
        ),
        "inverted": (
            _batches(budget=lambda memory: 560e6 * 8 / memory),
            "More memory gives you a smaller batch: times memory / 8.",
        ),
        "no_data_limit": (
            _batches(join=lambda fits, most: max(fits, 2)),
            "A batch has at most 5% of the voxels of the data set.",
        ),
        "no_minimum": (
            _batches(join=min),
            "A batch has at least 2 patches, even where 5% of the data set is less: that comes last.",
        ),
        "at_least_1": (
            _batches(join=lambda fits, most: max(min(fits, most), 1)),
            "The least batch is 2, not 1.",
        ),
        "larger_limit": (
            _batches(join=lambda fits, most: max(fits, most, 2)),
            "You take the larger of the two limits. Both must hold.",
        ),
        "data_alone": (
            _batches(join=lambda fits, most: max(most, 2)),
            "Your batch is 5% of the data set, whatever the memory. Both limits must hold.",
        ),
        "upper_cap": (
            _batches(join=lambda fits, most: max(min(fits, most, 64), 2)),
            "There is no other upper limit: a tiny patch may give thousands.",
        ),
        "half_of_the_data": (_batches(part=0.5), "Your limit is 50% of the voxels. It is 5%."),
        "all_data": (_batches(part=1.0), "Your limit is all voxels of the data set. It is 5%."),
        "five_cases": (
            _batches(voxels=lambda image, cases, patch: cases),
            "You take 5% of the cases. A patch is not a case: compare voxels.",
        ),
        "one_case": (
            _batches(voxels=lambda image, cases, patch: image / patch),
            "You take 5% of one image. The data set has `cases` of them.",
        ),
    },
    right={"NumPy": _batch_numpy, "conditions": _batch_by_ifs, "PyTorch": _batch_in_torch},
    probes=lambda: {
        "the reference": (560_000_000, [128, 128, 128], [300, 300, 300], 200, 8),
        "a patch that takes less": (198_000_000, [96, 96, 96], [250, 240, 260], 200, 8),
        "a patch that takes a little less": (425_000_000, [112, 128, 112], [250, 240, 260], 200, 8),
        "24 GB": (530_000_000, [128, 128, 128], [300, 300, 300], 200, 24),
        "4 GB": (110_000_000, [64, 96, 96], [300, 300, 300], 200, 4),
        "few cases": (56_000_000, [64, 64, 64], [70, 65, 66], 100, 8),
        "few cases, and a little more": (56_000_000, [64, 64, 64], [70, 65, 66], 131, 8),
        "very few cases": (56_000_000, [64, 64, 64], [64, 64, 64], 10, 8),
        "15 cases": (56_000_000, [64, 64, 64], [70, 65, 66], 17, 8),
        "a tiny patch": (1_070_000, [8, 16, 16], [40, 50, 60], 800, 8),
        "a tiny patch of few cases": (1_070_000, [8, 16, 16], [12, 16, 18], 60, 8),
        "a patch of more than 5%": (400_000_000, [96, 128, 128], [100, 130, 128], 15, 40),
    },
    hint="Two limits, each rounded: 2 · budget / features, and 5% of all voxels / those of a patch; then at least 2.",
    sketch="""
        of_memory = round(2 * 560e6 * ... / features)
        of_data = round(... * cases * math.prod(...) / math.prod(...))
        return max(min(...), ...)
    """,
)


# A data set for a plan -----------------------------------------------------------------------------------------------

_TRIPLE = "Give three things: the spacing (z, y, x) in mm, the size in voxels, and the number of cases."
_AXES = "Spacing and size have three numbers each."
_SPACING = "A spacing lies between 0.1 and 10 mm."
_SIZE = "A size is a whole number from 8 to 1024 along each axis."
_CASES = "The number of cases is a whole number from 10 to 1000."
_FIRST_KERNEL = (
    "The kernel of the first level is 3 × 3 × 3. It is 1 along an axis of at least 2 times the finest spacing."
)
_SECOND_KERNEL = (
    "The kernel of the second level is 3 along all axes. After one pooling the coarse axis must still be at least 2 "
    "times as coarse as the finest."
)
_LOWRES = (
    "With 8 GB there is no low-resolution configuration. It comes where the patch covers less than a quarter of the "
    "image: take a larger one."
)
_NO_LOWRES = (
    "With 24 GB there is a low-resolution configuration, too. Its larger patch must cover a quarter of the image: take "
    "a smaller one."
)


def planned(spacing: Sequence[float], size: Sequence[int], cases: int, memory: float) -> Plan:
    """The plan of a CT data set of equal cases, two classes besides the background."""
    statistics = ForegroundStatistics(100.0, 100.0, 50.0, -100.0, 300.0, 0.0, 200.0)
    facts = Fingerprint(
        name="mine",
        modalities=("CT",),
        classes=("background", "organ", "lesion"),
        spacings=(tuple(map(float, spacing)),) * cases,
        sizes=(tuple(map(int, size)),) * cases,
        kept=1.0,
        intensities=(statistics,),
    )
    return plan(facts, memory=memory)


def _plan(attempt: Any) -> None:
    """Demands a data set whose plan has flat kernels twice, and lowres with 8 GB but not with 24."""
    expect(isinstance(attempt, tuple | list) and len(attempt) == 3, _TRIPLE)
    spacing, size = (np.asarray(part, dtype=float) for part in attempt[:2])
    cases = np.asarray(attempt[2], dtype=float)
    expect(spacing.ndim == size.ndim == 1 and cases.ndim == 0, _TRIPLE)
    expect(spacing.shape == (3,) and size.shape == (3,), _AXES)
    expect(bool(((spacing >= 0.1) & (spacing <= 10)).all()), _SPACING)
    expect(bool(((size >= 8) & (size <= 1024) & (size % 1 == 0)).all()), _SIZE)
    expect(bool(10 <= cases <= 1000 and cases % 1 == 0), _CASES)
    small, large = (planned(spacing.tolist(), size.tolist(), int(cases), memory).configurations for memory in (8, 24))
    kernels = small["3d_fullres"].kernels
    expect(1 in kernels[0], _FIRST_KERNEL)
    expect(1 in kernels[1], _SECOND_KERNEL)
    expect("3d_lowres" in small, _LOWRES)
    expect("3d_lowres" not in large, _NO_LOWRES)


PLAN = Exercise(
    solution=([4.0, 0.8, 0.8], [60, 600, 600], 100),
    wrong={
        "spacing_alone": ([4.0, 0.8, 0.8], _TRIPLE),
        "two_axes": (([0.8, 0.8], [512, 512], 100), _AXES),
        "too_coarse": (([20.0, 0.8, 0.8], [40, 512, 512], 100), _SPACING),
        "too_large": (([4.0, 0.8, 0.8], [40, 2048, 2048], 100), _SIZE),
        "one_case": (([4.0, 0.8, 0.8], [40, 512, 512], 1), _CASES),
        "isotropic": (([1.0, 1.0, 1.0], [200, 256, 256], 100), _FIRST_KERNEL),
        "not_coarse_enough": (([2.5, 1.0, 1.0], [100, 400, 400], 100), _SECOND_KERNEL),
        "small_image": (([4.0, 0.8, 0.8], [40, 512, 512], 100), _LOWRES),
        "large_image": (([4.0, 0.8, 0.8], [100, 900, 900], 100), _NO_LOWRES),
    },
    right={
        "other numbers": ([5.0, 0.9, 1.0], [50, 620, 600], 30),
        "arrays": (np.array([6.0, 1.0, 1.0]), np.array([44, 650, 650]), np.int64(200)),
        "a coarse last axis, tensors": [torch.tensor([0.8, 0.8, 4.0]), torch.tensor([512, 512, 80]), torch.tensor(60)],
    },
    verify=_plan,
    compared=False,
    sketch="""
        spacing = [..., 0.8, 0.8]                            # at least 2 · 2 times as coarse
        size = [..., ..., ...]                               # more than 4 patches with 8 GB
        my_set = spacing, size, 100
    """,
)
