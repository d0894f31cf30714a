"""Chapter 17, "Volumes": the pieces on space: an affine, distances of boundaries in millimetres, HD95 and NSD."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from seglib.book.exercise import Exercise

# Piece 1: what an affine says ----------------------------------------------------------------------------------------


def read_affine(affine: Tensor) -> tuple[Tensor, str]:
    """An affine ``(4, 4)`` → spacing in mm ``(3,)`` and the letters of the file's axes, such as "LPS"."""
    return _read_affine(affine)


def _column_lengths(steps: Tensor) -> Tensor:
    return steps.square().sum(0).sqrt()


def _read_affine(
    affine: Tensor,
    *,
    spacing: Callable[[Tensor], Tensor] = _column_lengths,
    size: Callable[[Tensor], Tensor] = torch.abs,
    sign: Callable[[Tensor], Tensor] = lambda step: step[step.abs().argmax()],
    letters: Sequence[str] = ("RL", "AP", "SI"),
    transposed: bool = False,
) -> tuple[Tensor, str]:
    """``read_affine`` with some steps exchanged."""
    steps = affine[:3, :3]  # one column for each axis of the file
    code = ""
    for step in steps if transposed else steps.T:
        along = int(size(step).argmax())
        code += letters[along][int(sign(step) < 0)]
    return spacing(steps), code


def _affines(**changes: Any) -> Callable[[Tensor], tuple[Tensor, str]]:
    return lambda affine: _read_affine(affine, **changes)


def _affine_numpy(affine: Tensor) -> tuple[np.ndarray, list[str]]:
    steps = affine.numpy()[:3, :3]
    along = np.abs(steps).argmax(0)
    signs = steps[along, np.arange(3)] > 0
    return np.linalg.norm(steps, axis=0), ["LPI"[a] if not s else "RAS"[a] for a, s in zip(along, signs, strict=True)]


def _affine_by_points(affine: Tensor) -> list[Any]:
    """From the world positions of four voxels."""
    origin, spacing, code = affine @ torch.tensor([0.0, 0, 0, 1]), [], ""
    for axis in range(3):
        voxel = torch.tensor([0.0, 0, 0, 1])
        voxel[axis] = 1
        step = (affine @ voxel - origin).tolist()[:3]
        spacing.append(math.sqrt(sum(v * v for v in step)))
        best = max(range(3), key=lambda i: abs(step[i]))
        code += ("RAS" if step[best] > 0 else "LPI")[best]
    return [spacing, code]


def _matrices() -> Mapping[str, tuple[Tensor]]:
    def affine(*rows: Sequence[float]) -> tuple[Tensor]:
        return (torch.tensor([*rows, [0, 0, 0, 1]], dtype=torch.float32),)

    turn = math.radians(25)
    c, s = math.cos(turn), math.sin(turn)
    return {
        "a scanner's file with thick slices": affine([-1, 0, 0, 90], [0, -1, 0, 126], [0, 0, 5, -72]),
        "axes in the order z, y, x": affine([0, 0, 2, 0], [0, -3, 0, 10], [4, 0, 0, 0]),
        "slices from ear to ear": affine([0, 0, -1.5, 80], [0.75, 0, 0, -90], [0, -0.5, 0, 60]),
        "a tilted scan": affine([0.8, 0, 0, -10], [0, -0.9 * c, -3 * s, 40], [0, -0.9 * s, 3 * c, -20]),
        "a scan that is turned in all planes": affine([0.5, 0.8, 0.3, 0], [-0.75, 0.6, 0.2, 0], [0.45, -0.1, -2, 0]),
        "a scan that is turned in the plane": affine([c, -2 * s, 0, 5], [-s, -2 * c, 0, 5], [0, 0, -7, 500]),
    }


AFFINE = Exercise(
    solution=read_affine,
    wrong={
        "rows": (
            _affines(spacing=lambda m: m.square().sum(1).sqrt(), transposed=True),
            "You read the rows. Column j is the step of axis j of the file.",
        ),
        "rows_for_spacing": (
            _affines(spacing=lambda m: m.square().sum(1).sqrt()),
            "Your spacing is the length of the rows. The step of one axis of the file is a column.",
        ),
        "rows_for_letters": (
            _affines(transposed=True),
            "Your letters come from the rows. There is one letter for each axis of the file: a column.",
        ),
        "diagonal": (
            _affines(spacing=lambda m: m.diag().abs()),
            "Your spacing is the diagonal. The axes may stand in another order, or be turned: take a column's length.",
        ),
        "signed_diagonal": (
            _affines(spacing=lambda m: m.diag()),
            "Your spacing is the diagonal with its sign. A spacing is a length: take that of the column.",
        ),
        "largest": (
            _affines(spacing=lambda m: m.abs().amax(0)),
            "Your spacing is the largest component of a step. A tilted step is longer than that: √(x² + y² + z²).",
        ),
        "sum": (
            _affines(spacing=lambda m: m.abs().sum(0)),
            "You add the components of a step. Its length is √(x² + y² + z²).",
        ),
        "squared": (_affines(spacing=lambda m: m.square().sum(0)), "You left out the square root."),
        "signed": (_affines(spacing=lambda m: m.sum(0)), "A spacing is a length: positive, √(x² + y² + z²)."),
        "with_offset": (
            lambda affine: (affine[:3].square().sum(1).sqrt(), read_affine(affine)[1]),
            "The last column is no step: it says where voxel (0, 0, 0) lies.",
        ),
        "largest_signed": (
            _affines(size=lambda step: step),
            "You take the largest component with its sign. Take the one with the largest size, |x|.",
        ),
        "sign_of_sum": (
            _affines(sign=lambda step: step.sum()),
            "You take the sign of the sum. The sign of the largest component decides between the two letters.",
        ),
        "no_sign": (
            lambda affine: (read_affine(affine)[0], read_affine(affine)[1].translate(str.maketrans("LPI", "RAS"))),
            "All your axes grow to R, A and S. A negative component means L, P or I.",
        ),
        "where_from": (
            lambda affine: (
                read_affine(affine)[0],
                read_affine(affine)[1].translate(str.maketrans("LPIRAS", "RASLPI")),
            ),
            "Your letters say where an axis comes from. They say where it goes to, as its index grows.",
        ),
        "dicom": (
            _affines(letters=("LR", "PA", "SI")),
            "You read x to the left and y to the back, as DICOM does. NIfTI's x goes to the right, y to the front.",
        ),
        "world_order": (
            lambda affine: (
                read_affine(affine)[0],
                "".join(sorted(read_affine(affine)[1], key=lambda c: "RLAPSI".index(c) // 2)),
            ),
            "Your letters stand in the order of the world: x, y, z. They stand in the order of the file's axes.",
        ),
        "code_first": (
            lambda affine: read_affine(affine)[::-1],
            "The spacing comes first, then the letters.",
        ),
        "reversed": (
            lambda affine: (read_affine(affine)[0].flip(0), read_affine(affine)[1][::-1]),
            "You reversed the axes. Keep the order of the file's axes.",
        ),
        "spacing_reversed": (
            lambda affine: (read_affine(affine)[0].flip(0), read_affine(affine)[1]),
            "Your spacing stands in the reverse order. Keep the order of the file's axes.",
        ),
        "letters_reversed": (
            lambda affine: (read_affine(affine)[0], read_affine(affine)[1][::-1]),
            "Your letters stand in the reverse order. Keep the order of the file's axes.",
        ),
    },
    right={"NumPy, a list of letters": _affine_numpy, "four voxels": _affine_by_points},
    probes=_matrices,
    hint="Column j is the step of axis j: its length is the spacing, its largest component gives the letter.",
    sketch="""
        steps = affine[:3, :3]                               # one column for each axis
        spacing = (... ** 2).sum(...).sqrt()
        for step in steps.T:
            along = step.abs().argmax()                      # 0, 1 or 2: x, y or z
            code += ["RL", "AP", ...][along][...]            # by the sign of step[along]
    """,
)


# Piece 2: distances of boundaries ------------------------------------------------------------------------------------

Spacing = tuple[float, float, float]


def boundary(mask: Tensor) -> Tensor:
    """The voxels of a mask ``(D, H, W)`` bool with a face neighbour outside of it; beyond the volume all is outside."""
    padded = torch.nn.functional.pad(mask, (1,) * 6)
    inner = mask.clone()
    for axis in range(3):
        for shift in (0, 2):
            inner &= padded[
                tuple(slice(shift, shift + n) if a == axis else slice(1, -1) for a, n in enumerate(mask.shape))
            ]
    return mask & ~inner


def distances(pred: Tensor, target: Tensor, spacing: Spacing) -> tuple[Tensor, Tensor]:
    """Distances in mm of each boundary voxel of one mask to the other mask's nearest one, from pred and from target."""
    return _distances(pred, target, spacing)


def _distances(
    pred: Tensor,
    target: Tensor,
    spacing: Spacing,
    *,
    of: Callable[[Tensor], Tensor] = boundary,
    to: Callable[[Tensor], Tensor] | None = None,
    scale: Callable[[Spacing], Sequence[float]] = lambda s: s,
    p: float = 2.0,
) -> tuple[Tensor, Tensor]:
    """``distances`` with some steps exchanged."""
    mm = torch.tensor(scale(spacing))
    a, b = (of(m).nonzero() * mm for m in (pred, target))
    a_to, b_to = (a, b) if to is None else (to(m).nonzero() * mm for m in (pred, target))
    exact = "donot_use_mm_for_euclid_dist"  # products of matrices would round a distance of 0 to 0.002
    return tuple(torch.cdist(x, y, p=p, compute_mode=exact).amin(1) for x, y in ((a, b_to), (b, a_to)))  # type: ignore[return-value]


def _distance(**changes: Any) -> Callable[[Tensor, Tensor, Spacing], tuple[Tensor, Tensor]]:
    return lambda pred, target, spacing: _distances(pred, target, spacing, **changes)


def _eroded(mask: Tensor, structure: np.ndarray, border: int = 0) -> Tensor:
    inner = ndimage.binary_erosion(mask.numpy(), structure, border_value=border)
    return mask & ~torch.from_numpy(inner)


_FACES = ndimage.generate_binary_structure(3, 1)
_IN_PLANE = _FACES & np.array([0, 1, 0], bool)[:, None, None]


def _outer(mask: Tensor) -> Tensor:
    return torch.from_numpy(ndimage.binary_dilation(mask.numpy(), _FACES)) & ~mask


def _rolled(mask: Tensor) -> Tensor:
    inner = mask.clone()
    for axis in range(3):
        inner &= mask.roll(1, axis) & mask.roll(-1, axis)
    return mask & ~inner


def _one_side(mask: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(mask, (1, 0) * 3)
    return mask & ~(padded[:-1, 1:, 1:] & padded[1:, :-1, 1:] & padded[1:, 1:, :-1])


def _by_transform(pred: Tensor, target: Tensor, spacing: Spacing) -> list[np.ndarray]:
    edges = [(m.numpy() & ~ndimage.binary_erosion(m.numpy())) for m in (pred, target)]
    maps = [ndimage.distance_transform_edt(~e, sampling=spacing) for e in edges]
    return [maps[1][edges[0]], maps[0][edges[1]]]


def _voxel_by_voxel(pred: Tensor, target: Tensor, spacing: Spacing) -> list[list[float]]:
    edges: list[list[tuple[int, ...]]] = []
    for mask in (pred, target):
        inside = {tuple(v) for v in mask.nonzero().tolist()}
        steps = [s for s in itertools.product((-1, 0, 1), repeat=3) if sum(map(abs, s)) == 1]
        edges.append(
            [
                v
                for v in sorted(inside)
                if any(tuple(a + b for a, b in zip(v, s, strict=True)) not in inside for s in steps)
            ]
        )

    def nearest(v: tuple[int, ...], others: list[tuple[int, ...]]) -> float:
        return min(math.hypot(*(s * (a - b) for s, a, b in zip(spacing, v, w, strict=True))) for w in others)

    return [[nearest(v, edges[1]) for v in edges[0]], [nearest(v, edges[0]) for v in edges[1]]]


def _mask_pairs() -> Mapping[str, tuple[Tensor, Tensor, Spacing]]:
    def box(size: tuple[int, ...], *spans: tuple[int, int]) -> Tensor:
        mask = torch.zeros(size, dtype=torch.bool)
        mask[tuple(slice(*s) for s in spans)] = True
        return mask

    corner = box((4, 5, 6), (0, 3), (0, 4), (0, 4)), box((4, 5, 6), (1, 4), (1, 5), (2, 6))
    big = box((6, 8, 9), (1, 5), (1, 7), (1, 8))
    notched = big & ~box((6, 8, 9), (4, 5), (6, 7), (7, 8))
    hollow = big & ~box((6, 8, 9), (3, 4), (3, 5), (3, 5))
    draw = torch.Generator().manual_seed(4)
    noise = [torch.rand(5, 6, 7, generator=draw) < 0.4 for _ in range(2)]
    whole = torch.ones(3, 4, 5, dtype=torch.bool)
    return {
        "two boxes that touch the border": (*corner, (5.0, 1.0, 0.5)),
        "a single voxel and a box": (box((6, 8, 9), (0, 1), (0, 1), (0, 1)), big, (2.5, 1.0, 1.0)),
        "a box with a notch and one with a hole": (notched, hollow, (3.0, 0.7, 0.8)),
        "two masks of noise": (noise[0], noise[1], (2.0, 1.0, 1.5)),
        "the whole volume and a box in it": (whole, box((3, 4, 5), (0, 2), (1, 3), (2, 4)), (1.0, 1.0, 3.0)),
        "a mask and itself": (big, big, (5.0, 1.0, 1.0)),
    }


DISTANCES = Exercise(
    solution=distances,
    wrong={
        "in_voxels": (
            _distance(scale=lambda s: (1.0, 1.0, 1.0)),
            "Those are voxels. Multiply the positions by the spacing before you measure, along each axis its own.",
        ),
        "reversed_spacing": (
            _distance(scale=lambda s: s[::-1]),
            "You multiply z by the spacing of x. The spacing is (z, y, x), in the order of the axes.",
        ),
        "mean_spacing": (
            _distance(scale=lambda s: (sum(s) / 3,) * 3),
            "You use the mean spacing for all axes. Each axis has its own.",
        ),
        "spacing_squared": (
            _distance(scale=lambda s: [v * v for v in s]),
            "You multiply the positions by the spacing twice.",
        ),
        "spacing_rooted": (
            _distance(scale=lambda s: [v**0.5 for v in s]),
            "You multiply the squares by the spacing. Multiply the positions, before you square.",
        ),
        "divided": (
            _distance(scale=lambda s: [1 / v for v in s]),
            "You divide by the spacing. A step of one voxel is `spacing` mm: multiply.",
        ),
        "scaled_after": (
            lambda pred, target, spacing: tuple(d * spacing[0] for d in distances(pred, target, (1.0, 1.0, 1.0))),
            "One spacing scales all your axes. Each axis has its own: multiply the positions before you measure.",
        ),
        "to_mask": (
            _distance(to=lambda m: m),
            "You measure to the nearest voxel of the other mask, so inside it all distances are 0. Measure to its "
            "boundary.",
        ),
        "all_voxels": (_distance(of=lambda m: m), "You use all voxels of the masks. Only boundary voxels count."),
        "26_neighbours": (
            _distance(of=lambda m: _eroded(m, np.ones((3, 3, 3), bool))),
            "You count neighbours at edges and corners, too. A boundary voxel has one of the six face neighbours "
            "outside.",
        ),
        "18_neighbours": (
            _distance(of=lambda m: _eroded(m, ndimage.generate_binary_structure(3, 2))),
            "You count neighbours at edges, too. A boundary voxel has one of the six face neighbours outside.",
        ),
        "in_plane": (
            _distance(of=lambda m: _eroded(m, _IN_PLANE)),
            "You look for the boundary slice by slice. The voxels above and below are neighbours, too.",
        ),
        "border_inside": (
            _distance(of=lambda m: _eroded(m, _FACES, border=1)),
            "A mask that touches the border of the volume ends there: what lies outside is not in the mask.",
        ),
        "around_the_border": (
            _distance(of=_rolled),
            "Your neighbours go around the border: `roll` brings the last slice beside the first. Pad instead.",
        ),
        "one_side": (
            _distance(of=_one_side),
            "You compare with one neighbour on each axis. There are two: six in all.",
        ),
        "other_side": (
            _distance(of=lambda m: _one_side(m.flip((0, 1, 2))).flip((0, 1, 2))),
            "You compare with the next voxel on each axis alone. The one before is a neighbour, too.",
        ),
        "outer": (
            _distance(of=_outer),
            "You take the voxels just outside of a mask. The boundary belongs to the mask.",
        ),
        "squared": (
            lambda pred, target, spacing: tuple(d.square() for d in distances(pred, target, spacing)),
            "You left out the square root.",
        ),
        "city_block": (_distance(p=1.0), "You add up the steps along the axes. The distance is √(z² + y² + x²)."),
        "largest_step": (
            _distance(p=math.inf),
            "You take the largest step along an axis. The distance is √(z² + y² + x²).",
        ),
        "one_direction": (
            lambda pred, target, spacing: (distances(pred, target, spacing)[0],) * 2,
            "Both your answers start from the prediction. The second one starts from the true boundary.",
        ),
        "other_direction": (
            lambda pred, target, spacing: (distances(pred, target, spacing)[1],) * 2,
            "Both your answers start from the true boundary. The first one starts from the prediction's.",
        ),
        "swapped": (
            lambda pred, target, spacing: distances(pred, target, spacing)[::-1],
            "The distances of the prediction's boundary come first.",
        ),
        "sorted": (
            lambda pred, target, spacing: tuple(d.sort().values for d in distances(pred, target, spacing)),
            "You sorted the distances. Keep the order of `nonzero()`.",
        ),
        "maps": (
            lambda pred, target, spacing: tuple(d.max() for d in distances(pred, target, spacing)),
            "You return one number for a mask. Return a distance for each boundary voxel.",
        ),
        "farthest": (
            lambda pred, target, spacing: tuple(
                torch.cdist(a, b).amax(1)
                for m in [[boundary(x).nonzero() * torch.tensor(spacing) for x in (pred, target)]]
                for a, b in (m, m[::-1])
            ),
            "You take the farthest voxel of the other boundary. Take the nearest one.",
        ),
    },
    right={"a distance transform": _by_transform, "loops": _voxel_by_voxel},
    probes=_mask_pairs,
    hint="Boundary voxels of both masks, positions times spacing, and for each the nearest one of the other mask.",
    sketch="""
        def boundary(mask):
            padded = F.pad(mask, (1,) * 6)                   # outside is False
            inner = padded[2:, 1:-1, 1:-1] & padded[:-2, ...] & ...  # six neighbours
            return mask & ~inner
        a, b = (boundary(m).nonzero() * torch.tensor(...) for m in (pred, target))
        d = torch.cdist(a, b, ...)                           # (P, T)
        return d.amin(...), d.amin(...)
    """,
    tolerance=5e-3,  # plain cdist multiplies matrices of float32, which rounds 0 to 0.002
)


# Piece 3: HD95 and NSD -----------------------------------------------------------------------------------------------


def scores(a: Tensor, b: Tensor, tolerance: float, pooled: bool) -> tuple[Tensor, Tensor]:
    """HD95 in mm and the normalised surface Dice of directed distances ``(P,)`` and ``(T,)``."""
    return _scores(a, b, tolerance, pooled)


def _scores(
    a: Tensor,
    b: Tensor,
    tolerance: float,
    pooled: bool,
    *,
    q: float = 0.95,
    interpolation: str = "linear",
    join: Callable[[Tensor, Tensor], Tensor] = torch.maximum,
    share: Callable[[Tensor, Tensor, float], Tensor] = lambda a, b, t: (torch.cat([a, b]) <= t).float().mean(),
) -> tuple[Tensor, Tensor]:
    """``scores`` with some steps exchanged."""

    def percentile(d: Tensor) -> Tensor:
        return torch.quantile(d, q, interpolation=interpolation)

    return percentile(torch.cat([a, b])) if pooled else join(percentile(a), percentile(b)), share(a, b, tolerance)


def _at_95(d: Tensor) -> Tensor:
    return d[min(int(0.95 * len(d)), len(d) - 1)]


def _score(**changes: Any) -> Callable[[Tensor, Tensor, float, bool], tuple[Tensor, Tensor]]:
    return lambda a, b, tolerance, pooled: _scores(a, b, tolerance, pooled, **changes)


def _scores_numpy(a: Tensor, b: Tensor, tolerance: float, pooled: bool) -> list[float]:
    both = np.concatenate([a.numpy(), b.numpy()])
    hd = np.percentile(both, 95) if pooled else max(np.percentile(d.numpy(), 95) for d in (a, b))
    return [float(hd), float(np.mean(both <= tolerance))]


def _scores_by_sorting(a: Tensor, b: Tensor, tolerance: float, pooled: bool) -> tuple[float, float]:
    def percentile(values: list[float]) -> float:
        values.sort()
        at = 0.95 * (len(values) - 1)
        low = int(at)
        high = min(low + 1, len(values) - 1)
        return values[low] + (at - low) * (values[high] - values[low])

    one, other = a.tolist(), b.tolist()
    near = sum(d <= tolerance for d in one + other) / (len(one) + len(other))
    return percentile(one + other) if pooled else max(percentile(one), percentile(other)), near


def _distance_lists() -> Mapping[str, tuple[Tensor, Tensor, float, bool]]:
    draw = torch.Generator().manual_seed(8)
    speck = torch.tensor([0.0] * 18 + [7.0] * 2), torch.zeros(40)
    noise = 9 * torch.rand(37, generator=draw), 4 * torch.rand(11, generator=draw)
    steps = torch.tensor([1.0, 0.0, 2.0, 1.0, 3.0]), torch.tensor([2.0, 2.0, 1.0, 5.0, 0.0, 0.0, 1.0])
    return {
        "a speck": (*speck, 1.0, False),
        "a speck, pooled": (*speck, 1.0, True),
        "noise": (*noise, 2.5, False),
        "noise, pooled": (*noise, 2.5, True),
        "distances at the tolerance": (*steps, 1.0, False),
        "distances at the tolerance, pooled": (*steps, 2.0, True),
        "one far voxel against many near ones": (torch.tensor([0.0] * 39 + [9.0]), torch.full((10,), 3.0), 3.0, False),
        "many near ones against one far voxel": (torch.full((10,), 3.0), torch.tensor([9.0] + [0.0] * 39), 1.0, False),
        "one boundary voxel each": (torch.tensor([3.0]), torch.tensor([2.0]), 2.0, False),
        "tolerance 0": (*steps, 0.0, True),
    }


SCORES = Exercise(
    solution=scores,
    wrong={
        "largest": (_score(q=1.0), "You take the largest distance. HD95 is the 95th percentile."),
        "fifth": (_score(q=0.05), "You take the 5th percentile: nearly all distances are larger than it."),
        "ninety": (_score(q=0.9), "You take the 90th percentile. HD95 is the 95th."),
        "mean": (
            lambda a, b, tolerance, pooled: (
                torch.cat([a, b]).mean() if pooled else torch.maximum(a.mean(), b.mean()),
                scores(a, b, tolerance, pooled)[1],
            ),
            "You take a mean distance. HD95 is a percentile.",
        ),
        "by_largest": (
            lambda a, b, tolerance, pooled: (
                scores(a, b, tolerance, True)[0] if pooled else (a if a.max() > b.max() else b).quantile(0.95),
                scores(a, b, tolerance, pooled)[1],
            ),
            "You take the percentile of the list that holds the largest distance. Take the larger of the percentiles.",
        ),
        "unsorted": (
            lambda a, b, tolerance, pooled: (
                _at_95(torch.cat([a, b])) if pooled else torch.maximum(_at_95(a), _at_95(b)),
                scores(a, b, tolerance, pooled)[1],
            ),
            "You pick from the list as it is. A percentile is picked from the sorted list.",
        ),
        "smaller": (_score(join=torch.minimum), "You take the smaller of the two percentiles. Take the larger one."),
        "mean_of_two": (
            _score(join=lambda x, y: (x + y) / 2),
            "You take the mean of the two percentiles. Take the larger one.",
        ),
        "from_prediction": (
            _score(join=lambda x, y: x),
            "You use the distances of the prediction alone. Take the larger percentile of the two lists.",
        ),
        "from_target": (
            _score(join=lambda x, y: y),
            "You use the distances of the true boundary alone. Take the larger percentile of the two lists.",
        ),
        "always_pooled": (
            lambda a, b, tolerance, pooled: scores(a, b, tolerance, True),
            "You pool the lists always. Without `pooled` each list has a percentile of its own.",
        ),
        "never_pooled": (
            lambda a, b, tolerance, pooled: scores(a, b, tolerance, False),
            "You never pool the lists. With `pooled` there is one percentile, of all distances together.",
        ),
        "pooled_inverted": (
            lambda a, b, tolerance, pooled: scores(a, b, tolerance, not pooled),
            "You pool when `pooled` is False, and don't when it is True.",
        ),
        "nearest": (
            _score(interpolation="nearest"),
            "You take the nearest of the sorted distances. Between two of them interpolate linearly.",
        ),
        "lower": (
            _score(interpolation="lower"),
            "You take the next lower of the sorted distances. Between two of them interpolate linearly.",
        ),
        "higher": (
            _score(interpolation="higher"),
            "You take the next higher of the sorted distances. Between two of them interpolate linearly.",
        ),
        "midpoint": (
            _score(interpolation="midpoint"),
            "You take the middle of two sorted distances. Interpolate linearly between them.",
        ),
        "strictly": (
            _score(share=lambda a, b, t: (torch.cat([a, b]) < t).float().mean()),
            "A distance of exactly the tolerance is within it: ≤, not <.",
        ),
        "outside": (
            _score(share=lambda a, b, t: (torch.cat([a, b]) > t).float().mean()),
            "Your share counts the voxels that lie too far. NSD counts those within the tolerance.",
        ),
        "outside_or_equal": (
            _score(share=lambda a, b, t: (torch.cat([a, b]) >= t).float().mean()),
            "Your share counts what lies at the tolerance or beyond. NSD counts what lies within: ≤.",
        ),
        "smaller_share": (
            _score(share=lambda a, b, t: torch.minimum((a <= t).float().mean(), (b <= t).float().mean())),
            "You take the smaller of two shares. NSD counts all boundary voxels of both masks together.",
        ),
        "sum_of_shares": (
            _score(share=lambda a, b, t: (a <= t).float().mean() + (b <= t).float().mean()),
            "You add two shares up. NSD is one share, of all boundary voxels of both masks.",
        ),
        "one_of_both": (
            _score(share=lambda a, b, t: (a <= t).sum() / (len(a) + len(b))),
            "You count the prediction's voxels alone above the line, and those of both masks below.",
        ),
        "mean_of_shares": (
            _score(share=lambda a, b, t: ((a <= t).float().mean() + (b <= t).float().mean()) / 2),
            "You take the mean of two shares. NSD counts all boundary voxels of both masks together.",
        ),
        "one_share": (
            _score(share=lambda a, b, t: (a <= t).float().mean()),
            "Your share is that of the prediction's boundary. NSD counts both boundaries.",
        ),
        "other_share": (
            _score(share=lambda a, b, t: (b <= t).float().mean()),
            "Your share is that of the true boundary. NSD counts both boundaries.",
        ),
        "percent": (
            _score(share=lambda a, b, t: 100 * (torch.cat([a, b]) <= t).float().mean()),
            "NSD is a share from 0 to 1, not a percentage.",
        ),
        "count": (
            _score(share=lambda a, b, t: (torch.cat([a, b]) <= t).float().sum()),
            "You count the voxels within the tolerance. Divide by the number of all.",
        ),
        "nsd_first": (
            lambda a, b, tolerance, pooled: scores(a, b, tolerance, pooled)[::-1],
            "HD95 comes first, then NSD.",
        ),
    },
    right={"NumPy": _scores_numpy, "by sorting": _scores_by_sorting},
    probes=_distance_lists,
    hint="HD95: the larger of two 95th percentiles, or one of all. NSD: the share of distances within the tolerance.",
    sketch="""
        both = torch.cat([a, b])
        if pooled:
            hd95 = both.quantile(...)
        else:
            hd95 = max(a.quantile(...), ...)
        return hd95, (both ... tolerance).float().mean()
    """,
)
