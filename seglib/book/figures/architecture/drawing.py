"""Draws a network from one real forward pass, and answers again with every branch that a switch turns off."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from seglib.book.figures.architecture import paint
from seglib.book.figures.architecture.outcome import Detections, Labels, Outcome, Proposals, Segments
from seglib.book.figures.architecture.parts import (
    Block,
    Call,
    Edge,
    Group,
    Note,
    Scene,
    Switch,
    count_at,
    line_of,
    module_at,
)
from seglib.book.figures.element import Figure
from seglib.models.base import Model
from seglib.ops.inference import evaluating
from seglib.types import Category, Instances, Panoptic

MANY = 4
"""Up to so many switches every combination is stored; of more, every pair."""


def draw(
    model: Model,
    image: Tensor,
    blocks: Sequence[Block],
    edges: Sequence[Edge],
    switches: Sequence[Switch],
    categories: Sequence[Category],
    *,
    here: str | None = None,
    compact: bool = False,
    name: str = "the network",
    lead: str = "",
    groups: Sequence[Group] = (),
    notes: Sequence[Note] = (),
    size: tuple[float, float] = (360, 400),
    target: Any = None,
    outcome: Outcome | None = None,
    start: str | None = None,
    dims: int = 2,
) -> Figure:
    """A network, block by block, with the maps of a real forward pass, and switches that turn branches off.

    Hooks take every block's map from one forward pass in evaluation mode. For every combination of switches (of more
    than four switches: every pair) the model answers once more, with the branches' outputs replaced by zeros. Of a
    volume and of its maps the middle slice is drawn.

    Args:
        model: the network. It comes back in the mode that it had.
        image: image ``(C, H, W)`` of the forward pass, or volume ``(C, D, H, W)``, in the range that the model wants.
        blocks: blocks of the drawing.
        edges: arrows between them.
        switches: branches that can be turned off.
        categories: the class table.
        here: name of a block or group that is marked "you are here".
        compact: whether to draw a strip of one row, a step for each group, without maps and switches.
        name: name of the network, for the heading.
        lead: sentence under the heading; ``""`` takes the usual one.
        groups: blocks that belong together; without any, the strip has a step for each block.
        notes: texts of the drawing.
        size: width and height of the drawing, in units.
        target: true labels of the image's size, :class:`~seglib.types.Instances` or :class:`~seglib.types.Panoptic`, to
            score answers by; ``None`` counts the pixels that change.
        outcome: how answers are painted and compared; ``None`` chooses by the prediction's type.
        start: name of the block that is shown first; by default ``here`` or the last one.
        dims: axes of space: 2, or 3 for a network of volumes.

    Raises:
        ValueError: for an unknown block, group or switch, a module that the model lacks, a line of code that its source
            lacks, or an image of another shape.
    """
    if image.ndim != dims + 1:
        wanted = "(C, H, W)" if dims == 2 else "(C, D, H, W)"
        raise ValueError(f"image must be {wanted}, got {tuple(image.shape)}; pass one image without a batch axis")
    places = {b.name: i for i, b in enumerate(blocks)}
    _check_names(blocks, edges, switches, groups, here, start)
    with evaluating(model):
        values, calls = _trace(model, image, blocks)
        scene = Scene(paint.middle_image(image), categories, model, volume=dims == 3)
        lines = [line_of(b.code, b.home if b.home is not None else model) for b in blocks]
        shown = [_describe(b, v, line, scene, not compact) for b, v, line in zip(blocks, values, lines, strict=True)]
        steps = [g for g in groups if g.step] or [Group(b.name, b.label, (b.name,), b.says) for b in blocks]
        marked = {here} | {g.name for g in groups if here in g.blocks} if compact else {here}
        params: dict[str, Any] = {"name": name, "compact": compact}
        if compact:
            params["steps"] = [_step(g, shown, places, g.name in marked) for g in steps]
        else:
            single = {g.blocks[0] for g in groups if g.name == here and len(g.blocks) == 1} | {here}
            for b, s in zip(blocks, shown, strict=True):
                s["here"] = b.name in single
            boxes = {b.name: s for b, s in zip(blocks, shown, strict=True)}
            order = {s.name: i for i, s in enumerate(switches)}
            params |= {
                "lead": lead or "Choose a block: point at it, tap it, or use the arrow keys.",
                "here": _label(here, groups, blocks),
                "legend": [] if isinstance(outcome, Proposals) else _legend(calls[1], target, categories),
                "size": size,
                "blocks": shown,
                "edges": [_route(e, boxes, order) for e in edges],
                "frames": [_frame(g, boxes, here) for g in groups if g.frame or (g.name == here and len(g.blocks) > 1)],
                "notes": [[n.text, *n.at] for n in notes],
                "switches": [s.label for s in switches],
                "image": paint.thumbnail(scene.image),
                "start": places[start] if start else _first(places, groups, here, len(blocks)),
            }
            params |= _answers(model, image, calls, switches, categories, target, outcome)
    return Figure(
        "architecture",
        params,
        text=f"{name}, block by block, from a real forward pass" + (", as a strip" if compact else ""),
        fallback=_fallback(name, blocks, shown),
    )


# The forward pass


def _trace(model: Model, image: Tensor, blocks: Sequence[Block]) -> tuple[list[Any], tuple[Any, Any]]:
    """The value of every block, and the model's output and prediction."""
    values: dict[str, Any] = {}
    with ExitStack() as stack:
        for path in dict.fromkeys(b.module for b in blocks):
            taken = [b for b in blocks if b.module == path]
            module = module_at(model, path, f"block {taken[0].name!r}")
            count = itertools.count()

            def record(_: Any, arguments: tuple[Any, ...], output: Any, taken: Any = taken, count: Any = count) -> None:
                turn = next(count)
                for b in taken:
                    if b.call == turn:
                        value = b.take(Call(arguments, output)) if b.take else output
                        # a copy, because layers behind it may write into it
                        values[b.name] = _copy(value)

            stack.callback(module.register_forward_hook(record).remove)
        answer = _answer(model, image)
    for b in blocks:
        if b.name not in values:
            raise ValueError(
                f"the forward pass did not call {b.module!r} {b.call + 1} times, as block {b.name!r} wants"
            )
    return [values[b.name] for b in blocks], answer


def _copy(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_copy(v) for v in value)
    return value.detach().clone().cpu() if isinstance(value, Tensor) else value


def _answer(model: Model, image: Tensor) -> tuple[Any, Any]:
    device = next((p.device for p in model.parameters()), image.device)
    out = model(image[None].to(device))
    return out, model.postprocess(out, [tuple(image.shape[1:])])[0].to("cpu")


def _answers(
    model: Model,
    image: Tensor,
    whole: tuple[Any, Any],
    switches: Sequence[Switch],
    categories: Sequence[Category],
    target: Any,
    outcome: Outcome | None,
) -> dict[str, Any]:
    """The painted answer of the whole network and of every combination of switches."""
    outcome = _outcome(outcome, whole[1])
    before = outcome.value(*whole)
    states = {"": [outcome.layer(before, categories), outcome.whole(before, target, categories)]}
    most = len(switches) if len(switches) <= MANY else 2
    for count in range(1, most + 1):
        for chosen in itertools.combinations(range(len(switches)), count):
            with _without(model, [switches[i] for i in chosen]):
                after = outcome.value(*_answer(model, image))
            key = ",".join(map(str, chosen))
            states[key] = [outcome.layer(after, categories), outcome.change(after, before, target, categories)]
    result: dict[str, Any] = {"states": states, "most": most, "base": outcome.base}
    if target is not None:
        hidden = isinstance(outcome, Proposals)  # a target of boxes in a colour of its own
        size = (image.shape[-2], image.shape[-1])
        result["truth"] = (
            paint.frames([(target.boxes, paint.BLUE)], size) if hidden else outcome.layer(target, categories)
        )
    return result


def _outcome(outcome: Outcome | None, prediction: Any) -> Outcome:
    if outcome is not None:
        return outcome
    if isinstance(prediction, Panoptic):
        return Segments()
    return Detections() if isinstance(prediction, Instances) else Labels()


@contextmanager
def _without(model: Model, switches: Sequence[Switch]) -> Iterator[None]:
    with ExitStack() as stack:
        for cut in (c for s in switches for c in s.cuts):
            stack.callback(cut.install(model).remove)
        yield


# The blocks


def side_of(stride: float) -> float:
    """The side of a map in the drawing, in units: it shrinks by a step each time the stride doubles."""
    return max(20.0, 58 - 6.5 * math.log2(max(1.0, stride)))


def _describe(b: Block, value: Any, line: tuple[str, str], scene: Scene, painted: bool) -> dict[str, Any]:
    """What the page knows of a block."""
    found: dict[str, Any] = {"n": b.name, "l": b.label, "side": b.side, "t": b.says, "code": line[0], "file": line[1]}
    x, y = b.at
    height, width = scene.image.shape[1:]
    facts, channels = [], 0
    tensor = value[0] if isinstance(value, tuple) else value
    if isinstance(tensor, Tensor):
        shape = list(tensor.shape)
        if not b.parts and len(shape) > 1 and shape[0] == 1:
            shape = shape[1:]
        found["shape"] = "×".join(map(str, shape))
        if scene.volume:
            del shape[-3]  # one slice is drawn
        channels = shape[0] if len(shape) == 3 else shape[1] if len(shape) == 4 else 0
        if len(shape) == 3:
            stride = None if scene.volume else b.stride or _stride(shape[1:], (height, width))  # axes may differ
            if stride and stride != 1 and shape[1] * shape[2] > 1:
                facts.append(f"stride {stride:g}")
            height, width = shape[1:]
    else:
        found["shape"] = ""
    paths = (b.module,) if b.weights is None and b.module else b.weights or ()
    count = sum(count_at(scene.model, path, f"block {b.name!r}") for path in paths)
    if count:
        facts.append(f"{count:,} weights")
    found["facts"] = ", ".join(facts)
    found["path"], found["of"] = b.module or "the model", getattr(b.take, "source", "output of")
    if painted:
        found |= _paint(b, value, scene)
        height, width = found.pop("pixels", (height, width))
    tall = b.size or side_of(max(scene.image.shape[1:]) / max(height, width))
    scale = tall / (height if b.size else max(height, width))
    w, h = (18.0 if len(b.sign) == 1 else 9.0 * len(b.sign), 18.0) if b.sign else (width * scale, height * scale)
    found |= {"x": x, "y": y, "w": round(w, 1), "h": round(h, 1)}
    found["k"] = 0 if b.sign or b.shows in ("image", "prediction") else _thickness(channels)
    if b.sign:
        found["sign"] = b.sign
    if b.brief:
        found["brief"] = 1
    return found


def _thickness(channels: int) -> int:
    """How many sheets stand for so many channels: one for a few, seven for a thousand."""
    return 0 if channels < 4 else max(1, min(7, round(math.log2(channels) - 2.5)))


def _stride(cells: Sequence[int], image: Sequence[int]) -> float | None:
    """The stride, where it is one power of two along both axes; an image may have been padded."""
    found = {2 ** round(math.log2(n / c)) for n, c in zip(image, cells, strict=True)}
    stride = found.pop()
    fits = all(c == math.ceil(n / stride) or c * stride % 32 == 0 for n, c in zip(image, cells, strict=True))
    return stride if not found and fits else None


def _paint(b: Block, value: Any, scene: Scene) -> dict[str, Any]:
    """The map of a block, and of its channels the three that vary most."""
    if b.shows == "prediction":
        return {"m": "prediction"}
    if b.shows == "image":
        return {"m": "image"}
    if callable(b.shows):
        pixels = b.shows(value, scene)
        return {"m": paint.rgb(pixels, 48), "pixels": pixels.shape[:2], "what": b.what}
    value = paint.middle_slice(value) if scene.volume else value
    x = value[0] if value.ndim == 4 else value
    if b.shows == "classes":
        return {"m": paint.classes(x.argmax(0), scene.categories, paint.MAP), "what": "Class of the highest score"}
    if b.shows != "strength":
        raise ValueError(
            f"block {b.name!r} shows {b.shows!r}; it is strength, classes, image, prediction or a function"
        )
    if x.shape[-1] * x.shape[-2] == 1:
        return {"m": paint.heat(paint.grid(x.flatten())), "what": "One cell: its channels, row by row"}
    picked = paint.channels_of(x)
    return {
        "m": paint.heat(paint.strength(x)),
        "what": "Mean of |x| over channels",
        "c": [[i, paint.heat(x[i], 32)] for i in picked],
    }


def _step(g: Group, shown: Sequence[dict[str, Any]], places: dict[str, int], marked: bool) -> dict[str, Any]:
    last = shown[places[g.blocks[-1]]]
    return {
        "l": g.label, "t": g.says, "shape": last["shape"], "w": last["w"], "h": last["h"], "k": last["k"],
        "here": marked,
    }  # fmt: skip


def _label(here: str | None, groups: Sequence[Group], blocks: Sequence[Block]) -> str:
    names = {b.name: b.label for b in blocks} | {g.name: g.label for g in groups}
    return names[here] if here else ""


def _first(places: dict[str, int], groups: Sequence[Group], here: str | None, count: int) -> int:
    for g in groups:
        if g.name == here:
            return places[g.blocks[0]]
    return places[here] if here else count - 1


# The lines


def _route(e: Edge, boxes: dict[str, dict[str, Any]], order: dict[str, int]) -> dict[str, Any]:
    """An edge as a path with a tip, and the place of its label."""
    a, b = boxes[e.source], boxes[e.target]
    towards, from_ = (e.via[0], e.via[-1]) if e.via else ((b["x"], b["y"]), (a["x"], a["y"]))
    start = _port(a, towards, e.leaves)
    end = _port(b, from_ if e.via else start, e.enters, 2.0)
    points = [start, *e.via, end]
    if e.curved:
        middle = (start[0] + end[0]) / 2
        path = f"M{_at(start)}C{_n(middle)} {_n(start[1])} {_n(middle)} {_n(end[1])} {_at(end)}"
        direction = (end[0] - start[0], 0.0)
    else:
        path = "M" + "L".join(map(_at, points))
        direction = (points[-1][0] - points[-2][0], points[-1][1] - points[-2][1])
    length = math.hypot(*direction) or 1.0
    ux, uy = direction[0] / length, direction[1] / length
    back = (end[0] - 5.5 * ux, end[1] - 5.5 * uy)
    wings = [(back[0] - 2.8 * uy * s, back[1] + 2.8 * ux * s) for s in (1, -1)]
    found: dict[str, Any] = {"d": path, "tip": "M" + "L".join(map(_at, [end, *wings])) + "Z"}
    if e.label:
        pieces = list(zip(points[:-1], points[1:], strict=True))
        p, q = max(pieces, key=lambda piece: round(math.dist(*piece), 3)) if e.piece is None else pieces[e.piece]
        x, y = (u + (v - u) * e.place for u, v in zip(p, q, strict=True))
        way = "over" if e.curved else "up" if abs(q[0] - p[0]) > abs(q[1] - p[1]) else "beside"
        found |= {"l": e.label, "x": round(x, 1), "y": round(y, 1), "w": way}
    if e.switch:
        found["s"] = order[e.switch]
    return found


def _port(box: dict[str, Any], towards: tuple[float, float], side: str, gap: float = 1.0) -> tuple[float, float]:
    """Where a line to a point leaves a block."""
    x, y, w, h, k = (box[key] for key in "xywhk")
    dx, dy = towards[0] - x, towards[1] - y
    if not side:
        wide = abs(dx) / w >= abs(dy) / h
        side = ("right" if dx > 0 else "left") if wide else ("bottom" if dy > 0 else "top")
    sheets = 2.0 * k
    along_y = towards[1] if abs(dy) < h / 2 else y
    along_x = towards[0] if abs(dx) < w / 2 else x
    return {
        "right": (x + w / 2 + sheets + gap, along_y),
        "left": (x - w / 2 - gap, along_y),
        "top": (along_x, y - h / 2 - sheets - gap),
        "bottom": (along_x, y + h / 2 + gap),
    }[side]


WIDE = 80
"""Room for a label beside a map, in units."""


def _frame(g: Group, boxes: dict[str, dict[str, Any]], here: str | None) -> dict[str, Any]:
    inside = [boxes[n] for n in g.blocks]
    left = min(b["x"] - b["w"] / 2 - WIDE * (b["side"] == "left") for b in inside) - 7
    right = max(b["x"] + b["w"] / 2 + 2 * b["k"] + WIDE * (b["side"] == "right") for b in inside) + 7
    top = min(b["y"] - b["h"] / 2 - 2 * b["k"] for b in inside) - 7
    bottom = max(b["y"] + b["h"] / 2 + 26 * (b["side"] == "below") for b in inside) + 7
    values = {"x": left, "y": top, "w": right - left, "h": bottom - top}
    return {"l": g.label, "here": g.name == here} | {key: round(v, 1) for key, v in values.items()}


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _at(point: tuple[float, float]) -> str:
    return f"{_n(point[0])} {_n(point[1])}"


# Checks and words


def _check_names(
    blocks: Sequence[Block],
    edges: Sequence[Edge],
    switches: Sequence[Switch],
    groups: Sequence[Group],
    here: str | None,
    start: str | None,
) -> None:
    names = [b.name for b in blocks]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"a drawing needs blocks with names that differ, got {names}")
    known, places = set(names), [g.name for g in groups]
    asked = [(n, f"the edge {e.source!r} → {e.target!r}") for e in edges for n in (e.source, e.target)]
    asked += [(n, f"the group {g.name!r}") for g in groups for n in g.blocks] + ([(start, "start")] if start else [])
    for n, where in asked:
        if n not in known:
            raise ValueError(f"{where} names the block {n!r}, which is unknown; choose one of {', '.join(names)}")
    branches = [s.name for s in switches]
    for e in edges:
        if e.switch and e.switch not in branches:
            raise ValueError(
                f"the edge {e.source!r} → {e.target!r} names the switch {e.switch!r}, which is unknown; choose one of "
                f"{', '.join(branches) or 'none'}"
            )
    if here is not None and here not in {*names, *places}:
        raise ValueError(f"here={here!r} is no block and no group; choose one of {', '.join([*places, *names])}")


def _legend(prediction: Any, target: Any, categories: Sequence[Category]) -> list[list[str]]:
    """Name and colour of the classes that the answer or the truth holds."""
    found: set[int] = set()
    for labels in (_labels(prediction), _labels(target)):
        found |= set() if labels is None else set(labels.unique().tolist())
    return [[c.name, "#" + bytes(c.color).hex()] for c in categories if c.id in found]


def _labels(answer: Any) -> Tensor | None:
    if isinstance(answer, Instances):
        return answer.labels if answer.scores is None else answer.labels[answer.scores >= 0.5]
    if isinstance(answer, Panoptic):
        return torch.tensor([s.category_id for s in answer.segments])
    if isinstance(answer, Tensor) or answer is None:
        return answer
    return paint.class_map(answer)


def _fallback(name: str, blocks: Sequence[Block], shown: Sequence[dict[str, Any]]) -> str:
    rows = "".join(
        f"<li>{html.escape(b.label or b.name)}{': ' if s['shape'] else ''}{s['shape']}. {html.escape(b.says)} "
        f"<code>{html.escape(s['code'])}</code></li>"
        for b, s in zip(blocks, shown, strict=True)
    )
    return f"<p>{html.escape(name)}, block by block (the drawing needs JavaScript):</p><ol>{rows}</ol>"
