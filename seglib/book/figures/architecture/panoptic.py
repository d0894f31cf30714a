"""The drawing of Panoptic FPN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.book.figures.architecture import paint, painters
from seglib.book.figures.architecture.detection import FIRST, STAGES, pyramid_rows, stage_rows
from seglib.book.figures.architecture.drawing import draw
from seglib.book.figures.architecture.parts import Block, Call, Cut, Edge, Group, Scene, Swap, Switch, argument
from seglib.book.figures.architecture.trunk import first_groups
from seglib.book.figures.element import Figure
from seglib.models.base import Model
from seglib.models.panoptic_fpn import PanopticFPN
from seglib.ops.resize import resize_labels
from seglib.types import Category, Instances, Panoptic
from seglib.viz.colors import colorize, to_rgb8
from seglib.viz.overlay import overlay_instances

SEMANTIC = FIRST + 176
"""The middle of the semantic head's row, in units."""
THINGS = SEMANTIC + 268
MERGE = THINGS + 90
BUS, OUTER = 16.0, 5.0
"""Where lines run down at the left: the pyramid's, and that of the semantic head's answer."""


def panoptic_fpn(
    model: Model,
    image: Tensor,
    categories: Sequence[Category],
    *,
    target: Panoptic | None = None,
    here: str | None = None,
    compact: bool = False,
    name: str = "Panoptic FPN",
) -> Figure:
    """Panoptic FPN: Mask R-CNN and a semantic head on one pyramid, and the merge of their answers.

    Args:
        model: a :class:`~seglib.models.panoptic_fpn.PanopticFPN` on any encoder.
        image: image of the forward pass, ``(3, H, W)`` in [0, 1].
        categories: the class table, things first.
        target: true segments; with them answers are scored.
        here: block or group that is marked: ``"backbone"``, ``"fpn"``, ``"semantic_head"``, ``"rpn"``, ``"box_head"``,
            ``"mask_head"``, ``"merge"``, ….
        compact: whether to draw the strip.
        name: name of the network, for the heading.

    Raises:
        ValueError: for another model, or an unknown ``here``.
    """
    if not isinstance(model, PanopticFPN):
        raise ValueError(f"panoptic_fpn draws seglib.models.panoptic_fpn.PanopticFPN, got {type(model).__name__}")
    net, head = model, model.semantic_head
    blocks, edges, places, pyramid = pyramid_rows(net)
    scales = [f"s{p[1:]}" for p, _ in zip(pyramid, head.scales, strict=False)]
    for i, (p, s) in enumerate(zip(pyramid, scales, strict=False)):
        x = places[f"c{p[1:]}"] - 12  # the arrow passes beside the level's name
        ups = f"Level {p}: {i} times a 3×3 convolution and ×2." if i else f"Level {p}: one 3×3 convolution."
        blocks.append(
            Block(s, f"{p}, at {pyramid[0]}'s size", (x, SEMANTIC), f"semantic_head.scales.{i}",
                  "x = x + scale(level)" if i else "x = self.scales[0](pyramid[0])", ups, home=head, side="", size=26)
        )  # fmt: skip
        edges.append(Edge(p, s, f"×{2**i}" if i else "", leaves="bottom", enters="top", place=0.7,
                          switch="coarse" if i else ""))  # fmt: skip
        below = ((x, SEMANTIC + 25), (80, SEMANTIC + 25)) if i else ()
        edges.append(Edge(s, "sum", via=below, leaves="bottom" if i else "", enters="bottom" if i else ""))
    more, lines = stage_rows(net, pyramid, third=THINGS - 180, bus=BUS, output=lambda call: call.output.detector)
    blocks += [
        Block("sum", "sum", (80, SEMANTIC), "semantic_head.predict", "x = x + scale(level)",
              "All levels, at the finest one's size, added up.", argument(), home=head, weights=(), sign="+"),
        Block("logits", "logits", (42, SEMANTIC), "semantic_head", "return self.predict(x)",
              f"A 1×1 convolution scores every cell: class 0 is any thing, the other {net.num_stuff} are stuff.",
              home=head, weights=("semantic_head.predict",), shows=_thing, what="Probability of class 0, any thing",
              brief=True, size=36),
        *more,
        Block("things", "things", (346, THINGS), "", "return super().postprocess(out.detector, sizes, output_sizes)",
              "Mask R-CNN's detections, whose masks may overlap.", _things(net), weights=(), shows=_paint_things,
              what="Score of at least 0.5", side="above", parts=True, brief=True, size=38),
        Block("stuff", "stuff", (110, MERGE), "", "maps.append(torch.where(classes == 0, VOID",
              "The best class of every pixel of the image; stripes where that is any thing.", _stuff(net), weights=(),
              shows=_paint_stuff, what="Stripes: a thing", brief=True, size=44),
        Block("panoptic", "panoptic", (346, MERGE), "", "return [merge_panoptic(things, stuff, self.merge",
              "Things by falling score, each where it is free; then the stuff that is left, if it is large enough.",
              lambda call: None, weights=(), shows="prediction", size=58),
    ]  # fmt: skip
    edges += [
        Edge("sum", "logits"),
        Edge("logits", "stuff", f"×{int(net.anchors.strides[0])}", via=((OUTER, SEMANTIC), (OUTER, MERGE)),
             leaves="left", enters="left", piece=2, switch="semantic"),
        *lines,
        Edge("masks", "things", switch="masks"),
        Edge("things", "panoptic", "first", leaves="bottom", enters="top", switch="things"),
        Edge("stuff", "panoptic", "then, where it is free"),
    ]  # fmt: skip
    edges = [e if e.switch in ("", "semantic", "coarse", "masks", "things") else replace(e, switch="") for e in edges]
    switches = [
        Switch("semantic", "semantic head", (Cut("semantic_head"),)),
        Switch("coarse", "its coarser levels", tuple(Cut(f"semantic_head.scales.{i}") for i in range(1, len(scales)))),
        Switch("masks", "mask head", (Cut("mask_head", change=_whole_boxes),)),
        Switch("things", "things", (Swap("merge", lambda m: replace(m.merge, score_threshold=1.0)),)),
    ]
    groups = [
        *first_groups(list(places)[1:], pyramid),
        Group("semantic_head", "semantic head", (*scales, "sum", "logits"), "All levels, summed at the finest's size."),
        *STAGES,
        Group("merge", "merge", ("things", "stuff", "panoptic"), "One segment for each pixel: things first."),
    ]
    return draw(
        net, image, blocks, edges, switches, categories, here=here, compact=compact, name=name, groups=groups,
        size=(396, MERGE + 54), target=target, start=None if here else "panoptic",
    )  # fmt: skip


def _whole_boxes(head: Any, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
    """Masks that fill their boxes."""
    return torch.full_like(output, 20.0)


def _size(call: Call) -> tuple[int, int]:
    height, width = call.output.detector.sizes[0].tolist()
    return height, width


def _things(net: PanopticFPN) -> Any:
    """What takes masks and labels of the things that the merge asks, from the model's call."""

    def take(call: Call) -> tuple[Tensor, Tensor]:
        found = net.things(call.output, [_size(call)])[0]
        assert found.scores is not None  # those of predictions
        found = found[found.scores >= net.merge.score_threshold]
        return found.masks, found.labels

    return take


def _stuff(net: PanopticFPN) -> Any:
    """What takes the stuff of every pixel, ``(H, W)``, from the model's call."""
    return lambda call: net.stuff(call.output, [_size(call)])[0]


def _thing(value: Tensor, scene: Scene) -> np.ndarray:
    return painters.on_scale(value[0].softmax(0)[0])


def _paint_things(value: tuple[Tensor, Tensor], scene: Scene) -> np.ndarray:
    masks, labels = value
    small = paint.shrink(scene.image, paint.IMAGE)
    shown = Instances(resize_labels(masks, small.shape[1:]), labels, torch.zeros(len(labels), 4))
    colors = np.array([scene.categories[k].color for k in labels.tolist()], dtype=np.uint8).reshape(-1, 3)
    return overlay_instances(to_rgb8(small), shown, colors=colors)


def _paint_stuff(value: Tensor, scene: Scene) -> np.ndarray:
    small = paint.shrink(scene.image, paint.IMAGE)
    return colorize(resize_labels(value, small.shape[1:]), scene.categories)
