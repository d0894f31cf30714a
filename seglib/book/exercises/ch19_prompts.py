"""Chapter 19, "SAM": the pieces and the exercise on prompts: positions, tokens, and the frame that the model sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from operator import truediv
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise
from seglib.book.exercises.verify import trains_all
from seglib.ops.geometry import Geometry
from seglib.postprocess.prompt import restore_logits

# Piece 1: positions --------------------------------------------------------------------------------------------------


def positions(coords: Tensor, matrix: Tensor) -> Tensor:
    """Coordinates ``(…, 2)`` in [0, 1] and a matrix ``(2, C/2)`` → sines, then cosines, ``(…, C)``."""
    return _positions(coords, matrix)


def _positions(
    coords: Tensor,
    matrix: Tensor,
    *,
    centre: Callable[[Tensor], Tensor] = lambda c: 2 * c - 1,
    project: Callable[[Tensor, Tensor], Tensor] = lambda c, matrix: c @ matrix,
    turn: float = 2 * math.pi,
    join: Callable[[Tensor], Tensor] = lambda angle: torch.cat([angle.sin(), angle.cos()], -1),
) -> Tensor:
    """``positions`` with some steps exchanged."""
    return join(turn * project(centre(coords), matrix))


def _codes(**changes: Any) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda coords, matrix: _positions(coords, matrix, **changes)


def _axes_apart(coords: Tensor, matrix: Tensor) -> Tensor:
    """The waves of x and those of y, added up afterwards."""
    angle = 2 * math.pi * (2 * coords - 1)[..., None] * matrix  # (…, 2, C/2)
    return torch.cat([angle.sin(), angle.cos()], -1).sum(-2)


def _three_axes(coords: Tensor, matrix: Tensor) -> Tensor:
    n, p, _ = coords.shape
    return positions(coords, matrix).view(n, p, -1)


def _positions_numpy(coords: Tensor, matrix: Tensor) -> np.ndarray:
    angle = 2 * np.pi * np.einsum("...i,ij->...j", coords.numpy() * 2 - 1, matrix.numpy())
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)


def _positions_in_loops(coords: Tensor, matrix: Tensor) -> Any:
    if coords.ndim > 1:
        rows = [_positions_in_loops(c, matrix) for c in coords]
        return torch.stack(rows) if rows else torch.zeros(*coords.shape[:-1], 2 * matrix.shape[1])
    x, y = coords.tolist()
    angles = [2 * math.pi * ((2 * x - 1) * a + (2 * y - 1) * b) for a, b in matrix.T.tolist()]
    return torch.tensor([*map(math.sin, angles), *map(math.cos, angles)])


def _positions_in_place(coords: Tensor, matrix: Tensor) -> Tensor:
    """A cosine is a sine a quarter of a turn ahead."""
    coords -= 0.5
    matrix *= 4 * math.pi
    angle = coords @ matrix
    return torch.sin(torch.cat([angle, angle + math.pi / 2], -1))


def _positions_complex(coords: Tensor, matrix: Tensor) -> Tensor:
    wave = torch.exp(2j * math.pi * ((2 * coords - 1) @ matrix))
    return torch.cat([wave.imag, wave.real], dim=coords.ndim - 1)


def _coordinates() -> Mapping[str, tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(19)

    def drawn(*shape: int, channels: int) -> tuple[Tensor, Tensor]:
        return torch.rand(*shape, 2, generator=draw), torch.randn(2, channels // 2, generator=draw)

    return {
        "three prompts of two points": drawn(3, 2, channels=8),
        "four channels": drawn(5, channels=4),
        "a map of cells": drawn(2, 3, 4, channels=6),
        "a single point": drawn(channels=10),
        "the corners of the image": (torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]), drawn(channels=6)[1]),
        "no point": drawn(2, 0, channels=6),
    }


POSITIONS = Exercise(
    solution=positions,
    wrong={
        "not_centred": (
            _codes(centre=lambda c: c),
            "You use coordinates from 0 to 1. First bring them to −1 … 1: 2c − 1.",
        ),
        "doubled": (
            _codes(centre=lambda c: 2 * c),
            "Your coordinates reach from 0 to 2 before the matrix: the − 1 is missing, or half a unit was added. They "
            "are shares already: 2c − 1.",
        ),
        "half_as_far": (
            _codes(centre=lambda c: c - 0.5),
            "Your angles are half as large: coordinates reach from −1 to 1, 2c − 1, and the factor is 2π.",
        ),
        "reversed": (_codes(centre=lambda c: 1 - 2 * c), "Your axes run backwards: 2c − 1, not 1 − 2c."),
        "y_first": (
            _codes(centre=lambda c: 2 * c.flip(-1) - 1),
            "You read a point as (y, x). It is (x, y), and the first row of the matrix belongs to x.",
        ),
        "no_turn": (_codes(turn=1.0), "The factor 2π is missing."),
        "degrees": (_codes(turn=360.0), "You multiply by 360 degrees. Sine and cosine take radians: 2π."),
        "transposed": (
            _codes(project=lambda c, matrix: c @ matrix.T),
            "You transpose the matrix. It is (2, C/2) already: coords @ matrix.",
        ),
        "axes_apart": (
            _axes_apart,
            "You take the waves of x and of y, and add them up. The angles are added first: that is what @ does.",
        ),
        "cosines_first": (
            _codes(join=lambda a: torch.cat([a.cos(), a.sin()], -1)),
            "Your cosines come first. The sines do.",
        ),
        "taken_in_turns": (
            _codes(join=lambda a: torch.stack([a.sin(), a.cos()], -1).flatten(-2)),
            "You take sine and cosine in turns. First come all sines, then all cosines.",
        ),
        "stacked": (
            _codes(join=lambda a: torch.stack([a.sin(), a.cos()], -2)),
            "You stack sines and cosines on a new axis. They stand side by side on the last: `torch.cat(…, -1)`.",
        ),
        "on_the_first_axis": (
            _codes(join=lambda a: torch.cat([a.sin(), a.cos()], 0)),
            "You join sines and cosines on the first axis. The channels are the last: −1.",
        ),
        "on_the_second_axis": (
            _codes(join=lambda a: torch.cat([a.sin(), a.cos()], 1)),
            "You join sines and cosines on axis 1. Any number of axes may stand before the channels: −1.",
        ),
        "on_the_third_axis": (
            _codes(join=lambda a: torch.cat([a.sin(), a.cos()], 2)),
            "You join sines and cosines on axis 2. Any number of axes may stand before the channels: −1.",
        ),
        "three_axes": (_three_axes, "`coords` may have any number of axes in front: (…, 2)."),
        "added": (
            _codes(join=lambda a: a.sin() + a.cos()),
            "You add sines and cosines. Both are kept, side by side.",
        ),
        "sines_alone": (_codes(join=torch.sin), "The cosines are missing."),
        "cosines_alone": (_codes(join=torch.cos), "The sines are missing."),
        "sines_twice": (
            _codes(join=lambda a: torch.cat([a.sin(), a.sin()], -1)),
            "Your second half is sines again. It is cosines.",
        ),
        "no_waves": (
            _codes(join=lambda a: torch.cat([a, a], -1)),
            "Those are angles. Take their sines and cosines.",
        ),
        "waves_first": (
            lambda coords, matrix: torch.cat(
                [(2 * math.pi * (2 * coords - 1)).sin() @ matrix, (2 * math.pi * (2 * coords - 1)).cos() @ matrix], -1
            ),
            "You take sine and cosine of the coordinates, then multiply by the matrix. The matrix comes first.",
        ),
    },
    right={
        "NumPy": _positions_numpy,
        "loops": _positions_in_loops,
        "in place": _positions_in_place,
        "complex numbers": _positions_complex,
    },
    probes=_coordinates,
    tolerance=1e-4,  # float32 angles of several turns, added up in another order
    hint="2c − 1, times the matrix, times 2π; then all sines and all cosines side by side on the last axis.",
    sketch="""
        angle = 2 * torch.pi * ((2 * coords - ...) @ ...)    # (…, C/2)
        return torch.cat([...], ...)                         # (…, C)
    """,
)


# Piece 2: tokens -----------------------------------------------------------------------------------------------------


def tokens(codes: Tensor, labels: Tensor, corners: Tensor | None, meanings: Tensor) -> Tensor:
    """Codes ``(N, P, C)`` of points, labels in {−1, 0, 1}, codes ``(N, 2, C)`` of corners → ``(N, P + 1 or 2, C)``."""
    return _tokens(codes, labels, corners, meanings)


def _clicked(codes: Tensor, labels: Tensor, meanings: Tensor) -> Tensor:
    return torch.where((labels < 0)[..., None], meanings[4], codes + meanings[labels.clamp(min=0)])


def _padding(codes: Tensor, meanings: Tensor) -> Tensor:
    return meanings[4].expand(len(codes), 1, -1)


def _tokens(
    codes: Tensor,
    labels: Tensor,
    corners: Tensor | None,
    meanings: Tensor,
    *,
    points: Callable[[Tensor, Tensor, Tensor], Tensor] = _clicked,
    box: Callable[[Tensor, Tensor], Tensor] = lambda corners, meanings: corners + meanings[2:4],
    nothing: Callable[[Tensor, Tensor], Tensor] = _padding,
    always: bool = False,
    order: int = 1,
) -> Tensor:
    """``tokens`` with some steps exchanged."""
    parts = [points(codes, labels, meanings)]
    if corners is not None:
        parts.append(box(corners, meanings))
    if corners is None or always:
        parts.append(nothing(codes, meanings))
    return torch.cat(parts[::order], 1)


def _makes(**changes: Any) -> Callable[[Tensor, Tensor, Tensor | None, Tensor], Tensor]:
    return lambda codes, labels, corners, meanings: _tokens(codes, labels, corners, meanings, **changes)


def _padded_columns(codes: Tensor, labels: Tensor, meanings: Tensor) -> Tensor:
    """A point that one prompt lacks is padding in all of them."""
    return _clicked(codes, torch.where((labels < 0).any(0), -1, labels), meanings)


def _nothing_of_nothing(codes: Tensor, meanings: Tensor) -> Tensor:
    return _padding(codes, meanings)[:, : codes.shape[1]]


def _tokens_numpy(codes: Tensor, labels: Tensor, corners: Tensor | None, meanings: Tensor) -> np.ndarray:
    c, m = codes.numpy(), meanings.numpy()
    onehot = labels.numpy()[..., None] == np.arange(2)  # (N, P, 2)
    on = onehot.any(-1, keepdims=True)
    out = on * c + onehot @ m[:2] + ~on * m[4]
    last = np.tile(m[4], (len(c), 1, 1)) if corners is None else corners.numpy() + m[[2, 3]]
    return np.concatenate([out, last], axis=1)


def _tokens_in_loops(codes: Tensor, labels: Tensor, corners: Tensor | None, meanings: Tensor) -> Tensor:
    out = codes.new_zeros(len(codes), codes.shape[1] + (1 if corners is None else 2), codes.shape[2])
    for i, row in enumerate(labels.tolist()):
        for j, label in enumerate(row):
            out[i, j] = meanings[4] if label == -1 else codes[i, j] + meanings[label]
        if corners is None:
            out[i, -1] = meanings[-1]
        else:
            out[i, -2] = corners[i, 0] + meanings[2]
            out[i, -1] = corners[i, 1] + meanings[3]
    return out


def _tokens_in_place(codes: Tensor, labels: Tensor, corners: Tensor | None, meanings: Tensor) -> Tensor:
    """The padding is a point with the label −1, the corners are points with the labels 2 and 3."""
    if corners is None:
        codes, labels = F.pad(codes, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)
    else:
        codes = torch.cat([codes, corners], 1)
        labels = torch.cat([labels, torch.tensor([[2, 3]]).expand(len(labels), 2)], 1)
    codes[labels == -1] = 0
    codes += meanings[labels]
    return codes


_NO_MEANING = (
    "No gradient reaches `meanings`, or only a part of it, and they are learned. Use them as they are: no `detach`, no "
    "`data`."
)

_Prompt = tuple[Tensor, Tensor, Tensor | None, Tensor]


def _clicks() -> Mapping[str, _Prompt]:
    draw = torch.Generator().manual_seed(20)

    def case(labels: list[list[int]], box: bool, channels: int = 6) -> _Prompt:
        n, p = torch.tensor(labels).view(len(labels), -1).shape
        codes, corners, meanings = (torch.randn(*s, channels, generator=draw) for s in ((n, p), (n, 2), (5,)))
        return codes, torch.tensor(labels, dtype=torch.int64).view(n, p), corners if box else None, meanings

    return {
        "three prompts, some points missing, and a box": case([[1, 0], [0, -1], [1, 1]], box=True),
        "three prompts, some points missing, no box": case([[0, 1], [1, -1], [-1, -1]], box=False),
        "one click": case([[1]], box=False),
        "one click on the background, and a box": case([[0]], box=True, channels=4),
        "a box alone": case([[], []], box=True),
        "no point and no box": case([[], []], box=False),
    }


def _meanings_trained(attempt: Callable[..., Any]) -> None:
    """``trains_all`` for the last argument, the only one that is learned."""

    def meanings_first(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda meanings, *rest: function(*rest, meanings)

    def probes() -> Mapping[str, tuple[Any, ...]]:
        return {case: (prompt[3], *prompt[:3]) for case, prompt in _clicks().items()}

    trains_all(meanings_first(tokens), probes, [_NO_MEANING])(meanings_first(attempt))


TOKENS = Exercise(
    solution=tokens,
    wrong={
        "padding_added": (
            _makes(points=lambda c, labels, m: c + m[labels]),
            "A point with the label −1 keeps its code in your tokens. It has none: row 4 of `meanings` replaces it.",
        ),
        "padding_zero": (
            _makes(points=lambda c, labels, m: (c + m[labels]) * (labels >= 0)[..., None]),
            "A point with the label −1 is 0 in your tokens. It is row 4 of `meanings`.",
        ),
        "padding_code_alone": (
            _makes(points=lambda c, labels, m: torch.where((labels < 0)[..., None], c, c + m[labels])),
            "A point with the label −1 is its code alone. It is row 4 of `meanings`, without the code.",
        ),
        "padding_is_background": (
            _makes(points=lambda c, labels, m: c + m[labels.clamp(min=0)]),
            "A point with the label −1 is a click on the background in your tokens. It says nothing: row 4.",
        ),
        "padding_is_object": (
            _makes(points=lambda c, labels, m: c + m[(labels != 0).long()]),
            "A point with the label −1 is a click on the object in your tokens. It says nothing: row 4.",
        ),
        "padding_in_all": (
            _makes(points=_padded_columns),
            "A point that one prompt lacks is padding in all prompts. Each prompt has labels of its own.",
        ),
        "labels_swapped": (
            _makes(points=lambda c, labels, m: torch.where((labels < 0)[..., None], m[4], c + m[1 - labels.clamp(0)])),
            "You swapped the labels: row 0 is background, row 1 the object.",
        ),
        "one_meaning": (
            _makes(points=lambda c, labels, m: torch.where((labels < 0)[..., None], m[4], c + m[1])),
            "All your points are clicks on the object. The label says which row of `meanings` is added.",
        ),
        "no_meaning": (
            _makes(points=lambda c, labels, m: torch.where((labels < 0)[..., None], m[4], c)),
            "Your points are positions alone. Add the row of `meanings` that the label names.",
        ),
        "no_code": (
            _makes(points=lambda c, labels, m: m[labels]),
            "Your points have no position. A token is code + meaning.",
        ),
        "times": (
            _makes(points=lambda c, labels, m: torch.where((labels < 0)[..., None], m[4], c * m[labels])),
            "You multiply code and meaning. Add them.",
        ),
        "corners_swapped": (
            _makes(box=lambda corners, m: corners + m[[3, 2]]),
            "You swapped the meanings of the corners: row 2 is the upper left one, row 3 the lower right one.",
        ),
        "one_corner": (
            _makes(box=lambda corners, m: corners + m[2]),
            "Both your corners have one meaning. The upper left one has row 2, the lower right one row 3.",
        ),
        "corners_are_clicks": (
            _makes(box=lambda corners, m: corners + m[1]),
            "Your corners are clicks on the object. They have rows of their own: 2 and 3.",
        ),
        "corners_off_by_two": (
            _makes(box=lambda corners, m: corners + m[:2]),
            "Your corners have rows 0 and 1, which belong to clicks. Theirs are 2 and 3.",
        ),
        "corners_off_by_one": (
            _makes(box=lambda corners, m: corners + m[3:5]),
            "Your corners have rows 3 and 4. Counted from 0 theirs are 2 and 3.",
        ),
        "corners_alone": (
            _makes(box=lambda corners, m: corners),
            "Your corners are positions alone. Add rows 2 and 3.",
        ),
        "no_corner_codes": (
            _makes(box=lambda corners, m: m[2:4].expand_as(corners)),
            "Your corners have no position. A token is code + meaning.",
        ),
        "one_token_for_a_box": (
            _makes(box=lambda corners, m: (corners + m[2:4]).mean(1, keepdim=True)),
            "Your box is one token. It is two: its corners.",
        ),
        "corners_first": (
            lambda codes, labels, corners, m: _tokens(codes, labels, corners, m, order=1 if corners is None else -1),
            "Your corners come before the points. They come after them.",
        ),
        "padding_first": (
            lambda codes, labels, corners, m: _tokens(codes, labels, corners, m, order=-1 if corners is None else 1),
            'The "no point" token stands before the points. It comes last.',
        ),
        "both_first": (_makes(order=-1), 'The points come first; then the corners, or the "no point" token.'),
        "no_padding": (
            _makes(nothing=lambda codes, m: _padding(codes, m)[:, :0]),
            'Without a box one more token is wanted: "no point", row 4 of `meanings`.',
        ),
        "padding_beside_a_box": (
            _makes(always=True),
            'With a box there is no "no point" token. It stands where the corners would.',
        ),
        "two_paddings": (
            _makes(nothing=lambda codes, m: _padding(codes, m).expand(-1, 2, -1)),
            'Without a box there is one "no point" token, not two.',
        ),
        "zero_for_no_box": (
            _makes(nothing=lambda codes, m: 0 * _padding(codes, m)),
            "Without a box your last token is 0. It is row 4 of `meanings`.",
        ),
        "background_for_no_box": (
            _makes(nothing=lambda codes, m: m[0].expand(len(codes), 1, -1)),
            'Without a box your last token is "background". It is "no point", row 4.',
        ),
        "nothing_of_nothing": (
            _makes(nothing=_nothing_of_nothing),
            "Without points and without a box your prompt has no token. There is still the one for no point.",
        ),
        "no_points_refused": (
            lambda codes, labels, corners, m: tokens(codes, labels, corners, m) if codes.shape[1] else codes,
            "A prompt without points may have a box: its corners are the tokens. Without one there is still row 4.",
        ),
        "meanings_cut": (
            lambda codes, labels, corners, m: tokens(codes.clone().requires_grad_(), labels, corners, m.detach()),
            _NO_MEANING,
        ),
    },
    right={"NumPy": _tokens_numpy, "loops": _tokens_in_loops, "in place": _tokens_in_place},
    probes=_clicks,
    verify=_meanings_trained,
    hint="Points: code + row of the label, or row 4 alone for −1. Then corners with rows 2 and 3, or one row 4.",
    sketch="""
        points = codes + meanings[...]                       # (N, P, C)
        points = torch.where((labels == ...)[..., None], meanings[4], points)
        if corners is None:
            last = meanings[4].expand(len(codes), ..., -1)   # (N, 1, C)
        else:
            last = corners + ...                             # (N, 2, C)
        return torch.cat([points, last], ...)
    """,
)


# There and back ------------------------------------------------------------------------------------------------------


def frame(points: Tensor, logits: Tensor, size: tuple[int, int], side: int) -> tuple[Tensor, Tensor]:
    """Points ``(P, 2)`` in pixels of an image in the model's frame, and low logits ``(h, w)`` as the image's mask."""
    height, width = Geometry("letterbox", side).model_size(size)
    mask = restore_logits(logits[None, None], (height, width), size, side)[0, 0] > 0
    return points * torch.tensor([width / size[1], height / size[0]]), mask


def _resized(size: Sequence[int], side: int, whole: Callable[[float], int] = lambda x: int(x + 0.5)) -> list[int]:
    return [whole(n * side / max(size)) for n in size]


def _bilinear(x: Tensor, size: Sequence[int], **options: Any) -> Tensor:
    return F.interpolate(x[None, None], tuple(size), **{"mode": "bilinear", **options})[0, 0]


def _frame(
    points: Tensor,
    logits: Tensor,
    size: Sequence[int],
    side: int,
    *,
    whole: Callable[[float], int] = lambda x: int(x + 0.5),
    scale: Callable[[Sequence[int], Sequence[int], int], list[float]] = lambda size, new, side: list(
        map(truediv, new, size)
    ),
    moved: Callable[[Tensor, Tensor], Tensor] = lambda points, scale: points * scale,
    before: Callable[[Tensor], Tensor] = lambda z: z,
    between: Callable[[Tensor], Tensor] = lambda z: z,
    after: Callable[[Tensor], Tensor] = lambda z: z > 0,
    crop: Callable[[Tensor, Sequence[int]], Tensor] = lambda z, new: z[: new[0], : new[1]],
    resize: Callable[[Tensor, Sequence[int]], Tensor] = _bilinear,
) -> tuple[Tensor, Tensor]:
    """``frame`` with some steps exchanged."""
    new = _resized(size, side, whole)
    points = moved(points, torch.tensor(scale(size, new, side)).flip(0))
    return points, after(resize(crop(between(resize(before(logits), (side, side))), new), size))


def _frames(**changes: Any) -> Callable[..., tuple[Tensor, Tensor]]:
    return lambda points, logits, size, side: _frame(points, logits, size, side, **changes)


_ONE_SCALE: dict[str, Any] = {"scale": lambda size, new, side: [side / max(size)] * 2}
_ALIGNED: dict[str, Any] = {"resize": lambda z, size: _bilinear(z, size, align_corners=True)}
_UNCROPPED: dict[str, Any] = {"crop": lambda z, new: z}
_EARLY: dict[str, Any] = {"before": lambda z: (z > 0).float()}


def _by_ones(points: Tensor, logits: Tensor, size: tuple[int, int], side: int) -> tuple[Tensor, Tensor]:
    """Resized from the crop of the low logits, without going through the frame."""
    h, w = (-(-n * m // side) for n, m in zip(_resized(size, side), logits.shape, strict=True))
    return frame(points, logits, size, side)[0], _bilinear(logits[:h, :w], size) > 0


def _padded_all_round(points: Tensor, logits: Tensor, size: tuple[int, int], side: int) -> tuple[Tensor, Tensor]:
    new = _resized(size, side)
    top, left = ((side - n) // 2 for n in new)
    cropped = _bilinear(logits, (side, side))[top : top + new[0], left : left + new[1]]
    return frame(points, logits, size, side)[0] + torch.tensor([left, top]), _bilinear(cropped, size) > 0


def _frame_numpy(points: Tensor, logits: Tensor, size: tuple[int, int], side: int) -> tuple[np.ndarray, np.ndarray]:
    def resize(z: np.ndarray, size: Sequence[int]) -> np.ndarray:
        for axis, m in enumerate(size):
            n = z.shape[axis]
            at = ((np.arange(m) + 0.5) * n / m - 0.5).clip(0, n - 1)
            low = at.astype(int)
            part = np.expand_dims(at - low, 1 - axis)
            z = z.take(low, axis) * (1 - part) + z.take((low + 1).clip(max=n - 1), axis) * part
        return z

    new = np.floor(np.array(size) * side / np.max(size) + 0.5).astype(int)
    z = resize(logits.numpy().astype(float), (side, side))[: new[0], : new[1]]
    return points.numpy() * (new / size)[::-1], resize(z, size) > 0


def _frame_in_place(points: Tensor, logits: Tensor, size: Sequence[int], side: int) -> list[Any]:
    height, width = size
    h, w = (round(n * side / max(size) + 1e-9) for n in size)
    points[:, 0] *= w / width
    points[:, 1] *= h / height
    z = F.interpolate(logits[None, None], size=(side, side), mode="bilinear", align_corners=False)
    z = F.interpolate(z[:, :, :h, :w], size=(height, width), mode="bilinear", align_corners=False)
    return [points, z[0, 0].sign().clamp(min=0).bool()]


def _frame_by_points(points: Tensor, logits: Tensor, size: tuple[int, int], side: int) -> tuple[Tensor, Tensor]:
    longest = max(size)
    new = [(2 * n * side + longest) // (2 * longest) for n in size]
    moved = torch.tensor([[x * new[1] / size[1], y * new[0] / size[0]] for x, y in points.tolist()]).view(-1, 2)
    z = F.interpolate(logits[None, None], scale_factor=side / logits.shape[0], mode="bilinear").narrow(2, 0, new[0])
    return moved, F.interpolate(z.narrow(3, 0, new[1]), tuple(size), mode="bilinear").squeeze() > 0


def _with_type(attempt: Callable[..., Any], *arguments: Any) -> Any:
    """The answer, and whether its mask is bool."""
    answer = attempt(*arguments)
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        return answer
    points, mask = answer
    return points, mask, np.asarray(mask).dtype.kind == "b"


def _photos() -> Mapping[str, tuple[Tensor, Tensor, tuple[int, int], int]]:
    draw = torch.Generator().manual_seed(21)

    def case(size: tuple[int, int], side: int, low: int, n: int = 3) -> tuple[Tensor, Tensor, tuple[int, int], int]:
        points = torch.rand(n, 2, generator=draw) * torch.tensor([size[1] - 1, size[0] - 1])
        points[2:] = torch.tensor([size[1] - 1.0, size[0] - 1])  # the last pixel
        return points, torch.randn(low, low, generator=draw), size, side

    zero = torch.zeros(2, 2), torch.zeros(4, 4)
    return {
        "a wide image": case((7, 10), 16, 4),
        "a high image": case((11, 6), 16, 4),
        "a large image": case((30, 41), 16, 4),
        "a side that ends in a half": case((5, 16), 8, 4),  # 2.5 → 3
        "another side that ends in a half": case((16, 7), 8, 4),  # 3.5 → 4
        "a square image": case((9, 9), 12, 6),
        "an image of the frame's size": case((12, 12), 12, 3),
        "no point": case((9, 13), 12, 3, n=0),
        "logits of 0": (*zero, (6, 8), 8),
    }


FRAME = Exercise(
    solution=frame,
    wrong={
        "as_written": (
            _frames(
                whole=int,
                **_ONE_SCALE,
                moved=lambda p, s: (p + 0.5) * s,
                **_EARLY,
                **_ALIGNED,
                **_UNCROPPED,
            ),
            "That is the code as it was given.",
        ),
        "truncated": (
            _frames(whole=int),
            "Your new size is cut off. Round it, half up: int(x + 0.5).",
        ),
        "half_to_even": (
            _frames(whole=round),
            "Python's `round` brings 2.5 to 2. Here a half goes up: int(x + 0.5).",
        ),
        "rounded_up": (_frames(whole=math.ceil), "You round the new size up. Round to the nearest, half up."),
        "one_scale": (
            _frames(**_ONE_SCALE),
            "You scale both axes by side / longest. The resized image has whole pixels, so each axis has its own "
            "factor: new size / old size.",
        ),
        "padded_scale": (
            _frames(scale=lambda size, new, side: [side / n for n in size]),
            "You scale by the padded square. The image fills a part of it: new size / old size.",
        ),
        "not_scaled": (
            _frames(scale=lambda size, new, side: [1.0, 1.0]),
            "Your points are still in pixels of the original. Scale them.",
        ),
        "inverted": (
            _frames(scale=lambda size, new, side: list(map(truediv, size, new))),
            "Your factor is upside down: new size / old size.",
        ),
        "axes_swapped": (
            _frames(moved=lambda p, s: p * s.flip(0)),
            "You scale x by the heights. A size is (H, W), a point (x, y).",
        ),
        "points_flipped": (
            _frames(moved=lambda p, s: (p * s).flip(1)),
            "You return (y, x). Points stay (x, y).",
        ),
        "half_a_pixel": (
            _frames(moved=lambda p, s: (p + 0.5) * s),
            "You add ½ before scaling. The prompt encoder adds it, in pixels of the frame: not here.",
        ),
        "half_after": (
            _frames(moved=lambda p, s: p * s + 0.5),
            "You add ½ to the points. The prompt encoder does so, once: not here.",
        ),
        "centres": (
            _frames(moved=lambda p, s: (p + 0.5) * s - 0.5),
            "You keep centres of pixels on centres. SAM doesn't: x · new / old, nothing else.",
        ),
        "rounded_points": (
            _frames(moved=lambda p, s: (p * s).round()),
            "You round the points. A point may lie between pixels.",
        ),
        "clamped": (
            lambda points, logits, size, side: (
                frame(points, logits, size, side)[0].clamp(max=side - 1),
                frame(points, logits, size, side)[1],
            ),
            "You clamp the points. The last pixel of a large image lies beyond side − 1 in the frame, and stays there.",
        ),
        "points_as_shares": (
            lambda points, logits, size, side: (
                frame(points, logits, size, side)[0] / side,
                frame(points, logits, size, side)[1],
            ),
            "Your points are shares of the frame. Pixels are wanted.",
        ),
        "threshold_first": (
            _frames(**_EARLY),
            "You threshold the low logits. Resize logits, and compare with 0 at the very end.",
        ),
        "threshold_between": (
            _frames(between=lambda z: (z > 0).float()),
            "You threshold in the frame, and resize a mask. Compare with 0 at the very end.",
        ),
        "sigmoid_first": (
            _frames(before=torch.sigmoid, after=lambda p: p > 0.5),
            "You resize probabilities. Resize logits: their mean is another one.",
        ),
        "threshold_of_a_half": (
            _frames(after=lambda z: z > 0.5),
            "You compare logits with ½. A probability of ½ is the logit 0.",
        ),
        "at_zero": (_frames(after=lambda z: z >= 0), "A logit of exactly 0 is outside: >, not ≥."),
        "no_threshold": (
            _frames(after=lambda z: z),
            "You return logits. The mask is where they are above 0.",
        ),
        "numbers": (
            _frames(after=lambda z: (z > 0).float()),
            "Your mask has the right pixels, as numbers. Return a mask of type bool.",
        ),
        "no_crop": (
            _frames(**_UNCROPPED),
            "You stretch the padded square over the image. First cut away the padding: keep the upper left part.",
        ),
        "crop_swapped": (
            _frames(crop=lambda z, new: z[: new[1], : new[0]]),
            "You crop height and width the wrong way round.",
        ),
        "crop_to_the_image": (
            lambda points, logits, size, side: (
                frame(points, logits, size, side)[0],
                _bilinear(_bilinear(logits, (side, side))[: size[0], : size[1]], size) > 0,
            ),
            "You crop to the size of the original. In the frame the image has its new size.",
        ),
        "crop_at_the_end": (
            _frames(crop=lambda z, new: z[-new[0] :, -new[1] :]),
            "You keep the lower right part. The padding is right and below: keep the upper left part.",
        ),
        "padded_all_round": (
            _padded_all_round,
            "You pad on all sides. SAM pads right and below alone, so nothing is shifted.",
        ),
        "crop_of_low_logits": (
            _by_ones,
            "You crop the low logits, before the frame. Their cells don't end where the image ends: resize first.",
        ),
        "align_corners": (
            _frames(**_ALIGNED),
            "With `align_corners=True` the maps no longer cover the same space. Leave it off.",
        ),
        "nearest": (
            _frames(resize=lambda z, size: _bilinear(z, size, mode="nearest-exact")),
            "You take the nearest cell. Resize bilinearly.",
        ),
        "mask_first": (
            lambda points, logits, size, side: frame(points, logits, size, side)[::-1],
            "The points come first, then the mask.",
        ),
    },
    right={
        "NumPy": _frame_numpy,
        "in place, a list": _frame_in_place,
        "whole numbers, point by point": _frame_by_points,
    },
    probes=_photos,
    run=_with_type,
    tolerance=1e-4,
    hint="New size: round half up. Points: × new / old for each axis. Logits: to the square, crop, to the image, > 0.",
    sketch="""
        h, w = (int(n * side / max(size) + ...) for n in size)
        points = points * torch.tensor([w / ..., h / ...])
        z = F.interpolate(logits[None, None], (side, side), mode="bilinear")
        z = F.interpolate(z[..., ...], size, mode="bilinear")
        return points, z[0, 0] ...
    """,
)
