"""Chapter 19, "SAM": the pieces of training: the loss of the best mask, and the next click."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from seglib.book.exercise import Exercise, cloned, difference, expect
from seglib.book.exercises.verify import trains_all
from seglib.ops.clicks import error_clicks

# Piece 5: the best of several masks ----------------------------------------------------------------------------------


def best_loss(focal: Tensor, dice: Tensor) -> Tensor:
    """Losses ``(N, M)`` of M masks for each of N prompts → the mean over prompts of the best mask's 20 focal + dice."""
    return _best_loss(focal, dice)


def _best_loss(
    focal: Tensor,
    dice: Tensor,
    *,
    weights: tuple[float, float] = (20.0, 1.0),
    best: Callable[[Tensor], Tensor] = lambda each: each.amin(1),
    mean: Callable[[Tensor], Tensor] = lambda each: each.sum() / max(len(each), 1),
) -> Tensor:
    """``best_loss`` with some steps exchanged."""
    return mean(best(weights[0] * focal + weights[1] * dice))


def _losses(**changes: Any) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda focal, dice: _best_loss(focal, dice, **changes)


def _chosen_by(weights: tuple[float, float]) -> Callable[[Tensor, Tensor], Tensor]:
    """The full loss of the mask that is best by another sum."""

    def loss(focal: Tensor, dice: Tensor) -> Tensor:
        chosen = (weights[0] * focal + weights[1] * dice).argmin(1, keepdim=True)
        each = (20 * focal + dice).gather(1, chosen)[:, 0]
        return each.sum() / max(len(each), 1)

    return loss


def _apart(focal: Tensor, dice: Tensor) -> Tensor:
    return _best_loss(focal, dice, weights=(20, 0)) + _best_loss(focal, dice, weights=(0, 1))


def _one_mask_for_all(focal: Tensor, dice: Tensor) -> Tensor:
    """The mask that is best in the mean over prompts."""
    each = 20 * focal + dice
    return each.mean(0).amin() if len(each) else each.sum()


def _of_all_prompts(focal: Tensor, dice: Tensor) -> Tensor:
    each = 20 * focal + dice
    return each.amin() if len(each) else each.sum()


def _of_columns(focal: Tensor, dice: Tensor) -> Tensor:
    each = 20 * focal + dice
    return each.amin(0).mean() if len(each) else each.sum()


def _value_of_best_gradient_of_all(focal: Tensor, dice: Tensor) -> Tensor:
    each = 20 * focal + dice
    return best_loss(focal, dice).detach() + (each.mean() - each.mean().detach() if len(each) else each.sum())


def _best_by_loop(focal: Tensor, dice: Tensor) -> Tensor:
    total = 0 * (focal.sum() + dice.sum())
    for f, d in zip(focal, dice, strict=True):
        sums = [20 * a + b for a, b in zip(f, d, strict=True)]
        total = total + min(sums) / len(focal)
    return total


def _best_numpy(focal: Tensor, dice: Tensor) -> float:
    each = np.min(20 * focal.numpy() + dice.numpy(), axis=1)
    return float(each.mean()) if each.size else 0.0


def _best_in_place(focal: Tensor, dice: Tensor) -> Tensor:
    focal *= 20
    focal += dice
    if not len(focal):
        return focal.sum()
    chosen = focal.detach().argmin(1)
    return focal[torch.arange(len(focal)), chosen].mean()


def _best_by_sorting(focal: Tensor, dice: Tensor) -> Tensor:
    each = focal.mul(20).add(dice).sort(dim=1).values[:, :1]
    return each.sum() / len(each) if each.numel() else each.sum()


_CUT = [
    f"No gradient reaches `{name}`, or not the right one. Return the loss of the best mask as it is: no `detach`, no "
    "`item`."
    for name in ("focal", "dice")
]
_OF_ALL = "Your gradient reaches masks that are not the best. Only the best one of each prompt learns."
_LOOSE = (
    "Without a prompt your 0 is a new tensor, and `backward` raises an error. Keep it connected: the sum of an empty "
    "tensor is 0, too."
)


@functools.cache
def _of_three_masks() -> Mapping[str, tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(24)

    def case(n: int, m: int) -> tuple[Tensor, Tensor]:
        return torch.rand(n, m, generator=draw) * 0.08, torch.rand(n, m, generator=draw)

    return {
        "four prompts of three masks": case(4, 3),
        "as many prompts as masks": case(3, 3),
        "two masks that are nearly as good": (torch.tensor([[0.05, 0.04]]), torch.tensor([[0.25, 0.4503]])),
        "one mask": case(5, 1),
        "one prompt": case(1, 3),
        "no prompt": case(0, 3),
    }


def _connected(attempt: Callable[[Tensor, Tensor], Any]) -> None:
    """The gradients, and that the 0 of no prompt has one, if the other answers have."""
    leaves = [torch.tensor([[0.03, 0.01, 0.02], [0.01, 0.02, 0.04]], requires_grad=True) for _ in range(2)]
    try:
        trained = attempt(*map(cloned, leaves))
    except Exception:  # it has no gradient to give: NumPy raises here
        return
    if not isinstance(trained, Tensor) or not trained.requires_grad or trained.ndim:
        return
    nothing = attempt(*(x[:0].clone() for x in leaves))
    if difference([trained, nothing], [best_loss(*leaves), 0.0]) is None:
        reached = torch.autograd.grad(trained, leaves, allow_unused=True)
        expect(all(g is None or g.count_nonzero() <= 2 for g in reached), _OF_ALL)
        expect(isinstance(nothing, Tensor) and nothing.requires_grad, _LOOSE)
    trains_all(best_loss, _of_three_masks, _CUT)(attempt)


BEST = Exercise(
    solution=best_loss,
    wrong={
        "mean": (
            _losses(best=lambda each: each.mean(1)),
            "You average over the masks, so that all of them learn the same blur. Take the least loss of each prompt.",
        ),
        "worst": (_losses(best=lambda each: each.amax(1)), "You take the worst mask. Take the best: the least loss."),
        "sum": (_losses(best=lambda each: each.sum(1)), "You add up the losses of all masks. Take the least."),
        "first": (_losses(best=lambda each: each[:, 0]), "You take mask 0 always. Take the mask with the least loss."),
        "apart": (
            _apart,
            "You take the least focal loss and the least Dice loss, perhaps of two masks. Add them first.",
        ),
        "apart_and_no_prompt": (
            lambda focal, dice: (20 * focal.amin(1) + dice.amin(1)).mean(),
            "Add 20 · focal and Dice before you take the least: it must be the loss of one mask. And without a prompt "
            "the loss is 0, not NaN.",
        ),
        "by_focal": (
            _chosen_by((1, 0)),
            "You choose the mask by its focal loss alone. The sum of both decides.",
        ),
        "by_dice": (_chosen_by((0, 1)), "You choose the mask by its Dice loss alone. The sum of both decides."),
        "by_plain_sum": (
            _chosen_by((1, 1)),
            "You choose by focal + dice. The sum that decides has the weight, too: 20 · focal + dice.",
        ),
        "no_weight": (_losses(weights=(1, 1)), "The weight of the focal loss is missing: 20."),
        "weight_of_dice": (_losses(weights=(1, 20)), "The 20 belongs to the focal loss."),
        "both_weighted": (_losses(weights=(20, 20)), "The Dice loss has the weight 1."),
        "no_dice": (_losses(weights=(20, 0)), "The Dice loss is missing."),
        "no_focal": (_losses(weights=(0, 1)), "The focal loss is missing."),
        "divided": (
            lambda focal, dice: best_loss(focal, dice) / 21,
            "You divide by the sum of the weights. It is a sum, not a mean.",
        ),
        "summed": (_losses(mean=torch.sum), "You add up the prompts. Take their mean."),
        "each": (_losses(mean=lambda each: each), "You return a number for each prompt. Take their mean."),
        "divided_by_masks": (
            lambda focal, dice: best_loss(focal, dice) / focal.shape[1],
            "You divide by the number of masks as well. It is a mean over prompts.",
        ),
        "one_mask_for_all": (
            _one_mask_for_all,
            "You choose one mask for the whole batch. Each prompt chooses its own best: first the minimum, then the "
            "mean.",
        ),
        "of_all_prompts": (
            _of_all_prompts,
            "You take the one least loss of the batch. Each prompt has its own: the minimum over axis 1.",
        ),
        "of_columns": (
            _of_columns,
            "You take the minimum over the prompts. Take it over the masks, axis 1.",
        ),
        "no_prompt": (
            _losses(mean=torch.mean),
            "The mean of no prompts is NaN. Without a prompt the loss is 0.",
        ),
        "gradient_of_all": (_value_of_best_gradient_of_all, _OF_ALL),
        "focal_cut": (
            lambda focal, dice: best_loss(focal.detach(), dice),
            _CUT[0],
        ),
        "dice_cut": (lambda focal, dice: best_loss(focal, dice.detach()), _CUT[1]),
        "loose": (
            lambda focal, dice: best_loss(focal, dice) if len(focal) else torch.tensor(0.0),
            _LOOSE,
        ),
    },
    right={
        "a loop": _best_by_loop,
        "NumPy": _best_numpy,
        "in place, by index": _best_in_place,
        "by sorting": _best_by_sorting,
    },
    probes=_of_three_masks,
    verify=_connected,
    hint="20 · focal + dice of each mask; the least for each prompt; the mean over the prompts, 0 without any.",
    sketch="""
        each = 20 * focal + dice                             # (N, M)
        best = each.amin(...)                                # (N,)
        return best.sum() / max(len(best), ...)              # the sum of nothing is 0
    """,
)


# Piece 6: the next click ---------------------------------------------------------------------------------------------

Click = tuple[tuple[int, int], int]


def next_click(predicted: Tensor, wanted: Tensor) -> Click:
    """Masks ``(H, W)`` bool → the centre (x, y) of the largest error, and its label 1, 0 or −1."""
    points, labels = error_clicks(predicted[None], wanted[None], where="centre")
    x, y = points[0].tolist()
    return (int(x), int(y)), int(labels[0])


_EIGHT = np.ones((3, 3), int)
_EDGE = ndimage.distance_transform_edt


def _deepest(mask: np.ndarray, distance: Callable[[np.ndarray], np.ndarray] = _EDGE) -> tuple[int, int]:
    """The pixel that is furthest from the border, the first in reading order."""
    y, x = divmod(int(distance(np.pad(mask, 1)).argmax()), mask.shape[1] + 2)
    return x - 1, y - 1


def _first_largest(parts: list[np.ndarray]) -> np.ndarray:
    return max(parts, key=np.count_nonzero)  # `max` keeps the first of equals


def _components(mask: np.ndarray, neighbours: Any = _EIGHT) -> list[np.ndarray]:
    ids, n = ndimage.label(mask, neighbours)
    return [ids == i for i in range(1, n + 1)]


def _by_type(predicted: np.ndarray, wanted: np.ndarray) -> list[np.ndarray]:
    return [wanted & ~predicted, predicted & ~wanted]


def _next_click(
    predicted: Tensor,
    wanted: Tensor,
    *,
    regions: Callable[[np.ndarray, np.ndarray], list[np.ndarray]] = _by_type,
    without_error: Callable[[np.ndarray], list[np.ndarray]] = lambda w: [w],
    components: Callable[[np.ndarray], list[np.ndarray]] = _components,
    choose: Callable[[list[np.ndarray]], np.ndarray] = _first_largest,
    centre: Callable[[np.ndarray], tuple[Any, Any]] = _deepest,
    label: Callable[[bool], int] = int,
    right: int | None = None,
    nothing: Any = ((0, 0), -1),
    out: Callable[[Any, Any, tuple[int, ...]], Any] = lambda x, y, size: (x, y),
) -> Any:
    """``next_click`` with some steps exchanged."""
    p, w = predicted.numpy(), wanted.numpy()
    correct = not (p ^ w).any()
    parts = [c for r in (without_error(w) if correct else regions(p, w)) for c in components(r)]
    if not parts:
        return nothing
    chosen = choose(parts)
    x, y = centre(chosen)
    said = label(bool(w[chosen][0]))
    return out(x, y, w.shape), (right if correct and right is not None else said)


def _nexts(**changes: Any) -> Callable[[Tensor, Tensor], Any]:
    return lambda predicted, wanted: _next_click(predicted, wanted, **changes)


def _mean_of(mask: np.ndarray) -> tuple[int, int]:
    y, x = np.argwhere(mask).mean(0)
    return round(float(x)), round(float(y))


def _middle_of_box(mask: np.ndarray) -> tuple[int, int]:
    at = np.argwhere(mask)
    y, x = (at.min(0) + at.max(0)) // 2
    return int(x), int(y)


def _first_of(mask: np.ndarray) -> tuple[int, int]:
    y, x = np.argwhere(mask)[0]
    return int(x), int(y)


def _middle_in_order(mask: np.ndarray) -> tuple[int, int]:
    at = np.argwhere(mask)
    y, x = at[len(at) // 2]
    return int(x), int(y)


def _last_deepest(mask: np.ndarray) -> tuple[int, int]:
    x, y = _deepest(mask[::-1, ::-1])
    return mask.shape[1] - 1 - x, mask.shape[0] - 1 - y


def _first_column_deepest(mask: np.ndarray) -> tuple[int, int]:
    y, x = _deepest(mask.T)
    return x, y


def _open_border(mask: np.ndarray) -> tuple[int, int]:
    """The border of the image is none of the region."""
    y, x = divmod(int(_EDGE(mask).argmax()), mask.shape[1])
    return x, y


def _chessboard(mask: np.ndarray) -> np.ndarray:
    return ndimage.distance_transform_cdt(mask, "chessboard")


def _steps(mask: np.ndarray) -> np.ndarray:
    return ndimage.distance_transform_cdt(mask, "taxicab")


def _depth(mask: np.ndarray) -> float:
    return float(_EDGE(np.pad(mask, 1)).max())


def _joint_border(predicted: Tensor, wanted: Tensor) -> Click:
    """Depth is measured in the whole error, whose two sorts may touch."""
    p, w = predicted.numpy(), wanted.numpy()
    wrong = p ^ w
    if not wrong.any():
        return next_click(predicted, wanted)
    chosen = _first_largest([c for r in _by_type(p, w) for c in _components(r)])
    depth = _EDGE(np.pad(wrong, 1))[1:-1, 1:-1] * chosen
    y, x = divmod(int(depth.argmax()), w.shape[1])
    return (x, y), int(w[y, x])


def _inside_the_object(predicted: Tensor, wanted: Tensor) -> Click:
    """Depth is measured in the whole wanted or predicted mask."""
    p, w = predicted.numpy(), wanted.numpy()
    if not (p ^ w).any():
        return next_click(predicted, wanted)
    chosen = _first_largest([c for r in _by_type(p, w) for c in _components(r)])
    missed = bool(w[chosen][0])
    y, x = divmod(int((_EDGE(np.pad(w if missed else p, 1))[1:-1, 1:-1] * chosen).argmax()), w.shape[1])
    return (x, y), int(missed)


def _last_largest(parts: list[np.ndarray]) -> np.ndarray:
    return max(parts[::-1], key=np.count_nonzero)


def _in_reading_order(parts: list[np.ndarray]) -> np.ndarray:
    """Of equals the first in reading order, missed or not."""
    return max(sorted(parts, key=lambda c: int(c.argmax())), key=np.count_nonzero)


def _missed_if_any(p: np.ndarray, w: np.ndarray) -> list[np.ndarray]:
    return [w & ~p] if (w & ~p).any() else [p & ~w]


def _false_if_any(p: np.ndarray, w: np.ndarray) -> list[np.ndarray]:
    return [p & ~w] if (p & ~w).any() else [w & ~p]


def _larger_sort(p: np.ndarray, w: np.ndarray) -> list[np.ndarray]:
    return [_first_largest(_by_type(p, w))]


def _click_by_flooding(predicted: Tensor, wanted: Tensor) -> tuple[list[int], int]:
    """Components by flooding, distances to every pixel outside."""
    p, w = predicted.tolist(), wanted.tolist()
    height, width = len(w), len(w[0])
    sorts: list[tuple[Callable[[int, int], bool], int]] = [
        (lambda y, x: w[y][x] and not p[y][x], 1),
        (lambda y, x: p[y][x] and not w[y][x], 0),
    ]
    if p == w:
        sorts = [(lambda y, x: w[y][x], 1)]
    best: set[tuple[int, int]] = set()
    said = -1
    for inside, label in sorts:
        seen: set[tuple[int, int]] = set()
        for start in ((y, x) for y in range(height) for x in range(width) if inside(y, x)):
            if start in seen:
                continue
            part, queue = {start}, deque([start])
            while queue:
                y, x = queue.popleft()
                for near in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                    there = 0 <= near[0] < height and 0 <= near[1] < width
                    if there and near not in part and inside(*near):
                        part.add(near)
                        queue.append(near)
            seen |= part
            if len(part) > len(best):
                best, said = part, label
    if not best:
        return [0, 0], -1
    outside = [(y, x) for y in range(-1, height + 1) for x in range(-1, width + 1) if (y, x) not in best]
    y, x = min(best, key=lambda at: (-min((at[0] - b) ** 2 + (at[1] - a) ** 2 for b, a in outside), at))
    return [x, y], said


def _click_in_torch(predicted: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Components by spreading the largest number of a pixel's neighbourhood."""
    wrong = predicted ^ wanted
    if not wrong.any():
        wrong = wanted
    if not wrong.any():
        return torch.zeros(2), torch.tensor(-1)
    height, width = wanted.shape
    n = height * width
    # the first pixel of a component in reading order has the largest number; missed pixels come before extra ones
    numbers = torch.arange(2 * n, 0, -1.0).view(2, 1, height, width)
    inside = torch.stack([wrong & wanted, wrong & ~wanted])[:, None]  # (2, 1, H, W)
    ids = numbers * inside
    while not torch.equal(ids, spread := torch.nn.functional.max_pool2d(ids, 3, 1, 1) * inside):
        ids = spread
    values, counts = ids[inside].unique(return_counts=True)  # ascending, so the last of the largest counts wins
    chosen = (ids == values[counts == counts.max()].max())[:, 0]  # (2, H, W)
    part = torch.nn.functional.pad(chosen.any(0), (1, 1, 1, 1))
    inner, outer = part.nonzero().float(), (~part).nonzero().float()
    square = (inner[:, None] - outer).square().sum(2).amin(1)
    y, x = inner[int(square.argmax())] - 1
    return torch.stack([x, y]), chosen[0].any().long()


def _click_in_place(predicted: Tensor, wanted: Tensor) -> Any:
    missed = wanted & ~predicted
    predicted &= ~wanted
    parts = []
    for mask, label in ((missed, 1), (predicted, 0)):
        ids, n = ndimage.label(mask, structure=[[1, 1, 1]] * 3)
        parts += [((ids == i).sum(), ids == i, label) for i in range(1, n + 1)]
    if not parts:
        ids, n = ndimage.label(wanted, structure=[[1, 1, 1]] * 3)
        parts = [((ids == i).sum(), ids == i, 1) for i in range(1, n + 1)]
    if not parts:
        return np.array([0, 0]), -1
    area = max(p[0] for p in parts)
    _, mask, label = next(p for p in parts if p[0] == area)
    depth = _EDGE(np.pad(mask, 1))
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return np.array([x - 1, y - 1]), label


def _flat(attempt: Callable[..., Any], *masks: Tensor) -> Any:
    """The answer as one list of three, if it is a point and a label."""
    answer = attempt(*masks)
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        return answer
    point, label = answer
    point = point.tolist() if isinstance(point, Tensor | np.ndarray) else point
    return [*point, label] if isinstance(point, tuple | list) and len(point) == 2 else answer


def _mask(drawing: str) -> tuple[Tensor, Tensor]:
    """Predicted and wanted mask: ``#`` in both, ``o`` missed, ``x`` too much."""
    rows = [line.strip() for line in drawing.strip().splitlines()]
    grid = np.array([list(row) for row in rows])
    return torch.from_numpy(np.isin(grid, ["#", "x"])), torch.from_numpy(np.isin(grid, ["#", "o"]))


@functools.cache
def _errors() -> Mapping[str, tuple[Tensor, Tensor]]:
    return {
        name: _mask(drawing)
        for name, drawing in {
            "a first click": """
                ............
                ..ooooooo...
                ..ooooooo...
                ..ooooooo...
                ......oooo..
                ............
            """,
            "a region at the image's border": """
                oooooo...
                oooooo...
                oooooo...
                oooo.....
                ........x
            """,
            "missed and extra pixels that touch": """
                ............
                ..oooxxxx...
                ..oooxxxx...
                ..oooxxxx...
                ..oooxxxx...
                ..oooxxxx...
                ............
            """,
            "many small misses, one large extra region": """
                oo.oo.oo.oo
                oo.oo.oo.oo
                .........oo
                .xxxxx.....
                .xxxxx.....
                ...........
            """,
            "corners that touch": """
                oo..........
                oo..........
                ..oo...xxxxx
                ..oo........
            """,
            "a long thin region and a thick one": """
                xxxxxxxxxxxx
                ............
                ...ooo......
                ...ooo......
                ...ooo......
                ............
            """,
            "regions of one size": """
                xx...oo.....
                xx...oo.....
                ............
                ..oo....xx..
                ..oo....xx..
            """,
            "a missed and a extra region of one size": """
                .oo...xx.
                .oo...xx.
                .........
            """,
            "a ring": """
                ..........
                .ooooooo..
                .ooooooo..
                .oo...oo..
                .oo...oo..
                .ooooooo..
                .ooooooo..
                ..........
            """,
            "a diamond": """
                .........
                ....o....
                ...ooo...
                ..ooooo..
                ..ooooo..
                .ooooooo.
                ..ooooo..
                ...ooo...
                .........
            """,
            "two bulges": """
                ..........
                ......ooo.
                ......ooo.
                ..ooooooo.
                ..ooo.....
                ..ooo.....
            """,
            "a missed part beside one that is right, many small extra ones": """
                xx.xx.xx.xx
                xx.xx.xx.xx
                ...........
                .####ooo...
                .####ooo...
                .####ooo...
            """,
            "one wrong pixel": """
                ........
                .####...
                .####.x.
                .####...
            """,
            "no error, two parts of one size": """
                .##...##.
                ...#..#..
                .........
            """,
            "no error, a thin part": """
                ############
                ............
                .###........
                .###........
                .###........
            """,
            "an object that was never there": """
                ......
                ..xxx.
                ..xxx.
                ..xxx.
            """,
            "nothing at all": """
                .....
                .....
            """,
        }.items()
    }


CLICK = Exercise(
    solution=next_click,
    wrong={
        "y_first": (
            lambda predicted, wanted: (next_click(predicted, wanted)[0][::-1], next_click(predicted, wanted)[1]),
            "You return (y, x). A point is (x, y): the column comes first.",
        ),
        "label_first": (
            lambda predicted, wanted: next_click(predicted, wanted)[::-1],
            "The point comes first, then the label.",
        ),
        "point_alone": (lambda predicted, wanted: next_click(predicted, wanted)[0], "The label is missing."),
        "labels_swapped": (
            _nexts(label=lambda missed: int(not missed), right=1),
            "Your labels are swapped: 1 where the mask misses a part of the object, 0 where it covers too much.",
        ),
        "always_foreground": (
            _nexts(label=lambda missed: 1),
            "Your label is always 1. A click on pixels that are too much has the label 0.",
        ),
        "minus_one": (
            _nexts(label=lambda missed: 1 if missed else -1),
            "A click on the background has the label 0. −1 is padding.",
        ),
        "four_neighbours": (
            _nexts(components=lambda r: _components(r, None)),
            "Your components have four neighbours, SciPy's default. Corners touch, too: eight, `np.ones((3, 3))`.",
        ),
        "one_error": (
            _nexts(regions=lambda p, w: [p ^ w]),
            "You join missed and extra pixels to one component. Each sort has components of its own.",
        ),
        "no_components": (
            _nexts(
                regions=lambda p, w: [p ^ w],
                components=lambda r: [r] if r.any() else [],
            ),
            "You take all wrong pixels as one region. Take the largest connected component.",
        ),
        "whole_sort": (
            _nexts(regions=_larger_sort, components=lambda r: [r] if r.any() else []),
            "You take all missed pixels, or all extra ones, as one region. Take the largest connected component.",
        ),
        "components_of_the_larger_sort": (
            _nexts(regions=_larger_sort),
            "You first choose the sort with more pixels. The largest component of both sorts wins.",
        ),
        "missed_first": (
            _nexts(regions=_missed_if_any),
            "You look at extra pixels only when none is missed. The largest component of both sorts wins.",
        ),
        "false_first": (
            _nexts(regions=_false_if_any),
            "You look at missed pixels only when none is extra. The largest component of both sorts wins.",
        ),
        "missed_alone": (
            _nexts(regions=lambda p, w: [w & ~p]),
            "You never click on extra pixels. They are errors, too, with the label 0.",
        ),
        "false_alone": (
            _nexts(regions=lambda p, w: [p & ~w]),
            "You never click on missed pixels. They are errors, too, with the label 1.",
        ),
        "least_component": (
            _nexts(choose=lambda parts: min(parts, key=np.count_nonzero)),
            "You take the component with the fewest pixels. Take the largest.",
        ),
        "deepest_component": (
            _nexts(choose=lambda parts: max(parts, key=_depth)),
            "You take the pixel that is deepest in any component. First choose the component with most pixels.",
        ),
        "first_component": (_nexts(choose=lambda parts: parts[0]), "You take the first component. Take the largest."),
        "last_of_equals": (
            _nexts(choose=_last_largest),
            "Of components of one size you take the last. Take a missed one, and of these the first.",
        ),
        "reading_order": (
            _nexts(choose=_in_reading_order),
            "Of components of one size you take the first in reading order. Missed ones come before extra ones.",
        ),
        "false_of_equals": (
            _nexts(regions=lambda p, w: [p & ~w, w & ~p]),
            "Of components of one size you take an extra one. Missed ones come first.",
        ),
        "centre_of_mass": (
            _nexts(centre=_mean_of),
            "You take the centre of mass. In a ring it lies outside: take the pixel that is furthest from the border.",
        ),
        "middle_of_box": (
            _nexts(centre=_middle_of_box),
            "You take the middle of the box around the component. Take the pixel that is furthest from the border.",
        ),
        "first_pixel": (
            _nexts(centre=_first_of),
            "You click on the first pixel of the component. Take the one that is furthest from its border.",
        ),
        "middle_in_order": (
            _nexts(centre=_middle_in_order),
            "You take the middle pixel of the component in reading order. Take the one furthest from the border.",
        ),
        "chessboard": (
            _nexts(centre=lambda m: _deepest(m, _chessboard)),
            "You measure in steps to eight neighbours. The distance is Euclidean: `distance_transform_edt`.",
        ),
        "city_block": (
            _nexts(centre=lambda m: _deepest(m, _steps)),
            "You measure in steps to four neighbours. The distance is Euclidean: `distance_transform_edt`.",
        ),
        "open_border": (
            _nexts(centre=_open_border),
            "For you a region goes on beyond the image. The image's border counts: pad the region by one pixel first.",
        ),
        "padded_and_not_cut": (
            _nexts(out=lambda x, y, size: (x + 1, y + 1)),
            "You are one pixel off in x and y: after padding by one, subtract it again.",
        ),
        "joint_border": (
            _joint_border,
            "You measure the distance inside all wrong pixels. Where missed and extra pixels touch, there is a border.",
        ),
        "inside_the_object": (
            _inside_the_object,
            "You measure to the border of the whole mask. Measure inside the component: where it meets pixels that are "
            "right, there is a border.",
        ),
        "last_deepest": (
            _nexts(centre=_last_deepest),
            "Of pixels that are equally far from the border you take the last. Take the first in reading order.",
        ),
        "first_column": (
            _nexts(centre=_first_column_deepest),
            "Of pixels that are equally far from the border you take the leftmost. Reading order: the uppermost first.",
        ),
        "half": (
            _nexts(out=lambda x, y, size: (x + 0.5, y + 0.5), nothing=((0, 0), -1)),
            "You add ½. Here a point is a pixel's column and row; the encoder adds ½ itself.",
        ),
        "shares": (
            _nexts(out=lambda x, y, size: (x / size[1], y / size[0])),
            "Your point is a share of the image. Pixels are wanted.",
        ),
        "flat_index": (
            _nexts(out=lambda x, y, size: y * size[1] + x),
            "Your point is one number, a place in the flat image. Return (x, y).",
        ),
        "done": (
            _nexts(without_error=lambda w: []),
            "Without an error you answer as if nothing were wanted. Click on the centre of the wanted mask, label 1.",
        ),
        "none_when_done": (
            lambda predicted, wanted: next_click(predicted, wanted) if (predicted ^ wanted).any() else None,
            "Without an error you return None. Click on the centre of the wanted mask, label 1; (0, 0) and −1 if it is "
            "empty.",
        ),
        "background_when_done": (
            _nexts(right=0),
            "Without an error your label is 0. The click falls on the object: label 1.",
        ),
        "padding_when_done": (
            _nexts(right=-1),
            "Without an error your label is −1. The click falls on the object: label 1.",
        ),
        "all_parts_when_done": (
            lambda predicted, wanted: (
                (_deepest(wanted.numpy()), 1)
                if torch.equal(predicted, wanted) and wanted.any()
                else next_click(predicted, wanted)
            ),
            "Without an error you search the whole wanted mask. Take its largest component, as with errors.",
        ),
        "empty_is_object": (_nexts(nothing=((0, 0), 1)), "Where nothing is wanted or wrong the label is −1, not 1."),
        "empty_is_background": (
            _nexts(nothing=((0, 0), 0)),
            "Where nothing is wanted or wrong the label is −1, not 0.",
        ),
        "empty_is_none": (
            _nexts(nothing=None),
            "Where nothing is wanted or wrong you return None. Return (0, 0) and the label −1.",
        ),
        "empty_is_outside": (
            _nexts(nothing=((-1, -1), -1)),
            "Where nothing is wanted or wrong the point is (0, 0).",
        ),
        "empty_raises": (
            lambda predicted, wanted: _next_click(predicted, wanted, nothing=None) or 1 / 0,
            "Nothing may be wanted and nothing wrong. Then there is no component: return (0, 0) and the label −1.",
        ),
    },
    right={
        "by flooding": _click_by_flooding,
        "PyTorch": _click_in_torch,
        "in place, with SciPy": _click_in_place,
    },
    probes=_errors,
    run=_flat,
    hint="Components of missed and of extra pixels apart, the largest one; in it the pixel furthest from the border.",
    sketch="""
        best, label = None, -1
        for region, its_label in [(wanted & ~predicted, ...), (predicted & ~wanted, ...)]:
            ids, n = ndimage.label(region, np.ones((3, 3)))
            ...                                              # keep the largest so far
        if best is None: ...                                 # no error: the same with `wanted`
        depth = ndimage.distance_transform_edt(np.pad(best, ...))
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        return (x - 1, ...), label
    """,
)
