"""The drawings of YOLACT, CondInst and SOLOv2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.book.figures.architecture import paint, painters
from seglib.book.figures.architecture.detection import TOP_DOWN
from seglib.book.figures.architecture.drawing import draw, side_of
from seglib.book.figures.architecture.parts import Block, Call, Cut, Edge, Group, Scene, Swap, Switch, argument, entry
from seglib.book.figures.architecture.semantic import IMAGE_SAYS, encoder_blocks, stages
from seglib.book.figures.element import Figure
from seglib.models.base import Model
from seglib.models.condinst import CondInst
from seglib.models.solov2 import SOLOv2, point_nms
from seglib.models.solov2 import draw as draw_masks
from seglib.models.yolact import YOLACT, suppress
from seglib.ops.dynamic_conv import filter_count
from seglib.ops.dynamic_masks import DynamicMasks
from seglib.ops.masks import mask_iou
from seglib.ops.nms import matrix_nms
from seglib.types import Category, Instances

FIRST, SECOND, THIRD, FOURTH, FIFTH = 50.0, 140.0, 234.0, 322.0, 412.0
"""The middles of the five rows, in units."""
BETWEEN = (THIRD + FOURTH) / 2
SIZE = (396.0, FIFTH + 48)
BUS, INNER = 10.0, 22.0
"""Where lines run down at the left: those to the masks' branch, and those to the head where it begins elsewhere."""
LEAST = 0.5
"""The score from which detections are drawn."""
FEW = f"The first {painters.COLUMNS * painters.ROWS}, from 0 to 1"


def yolact(
    model: Model,
    image: Tensor,
    categories: Sequence[Category],
    *,
    target: Instances | None = None,
    here: str | None = None,
    compact: bool = False,
    name: str = "YOLACT",
) -> Figure:
    """YOLACT: one branch draws prototypes, another one detects objects and says how to mix them.

    Args:
        model: a :class:`~seglib.models.yolact.YOLACT` on any encoder.
        image: image of the forward pass, ``(3, H, W)`` in [0, 1].
        categories: the class table of things; stuff may follow.
        target: true objects; with them answers are scored.
        here: block or group that is marked: ``"backbone"``, ``"fpn"``, ``"protonet"``, ``"head"``, ``"nms"``,
            ``"assembly"``, ….
        compact: whether to draw the strip.
        name: name of the network, for the heading.

    Raises:
        ValueError: for another model, or an unknown ``here``.
    """
    if not isinstance(model, YOLACT):
        raise ValueError(f"yolact draws seglib.models.yolact.YOLACT, got {type(model).__name__}")
    blocks, edges, places, found, pyramid = _trunk(model, model.levels)
    finest, seen, k = pyramid[0], pyramid[model.fine_levels], model.protonet.predict.out_channels
    columns = list(places.values())
    before = columns[found.index(model.levels[0])]  # one column to the left of the pyramid
    head, per_cell = model.head, model.head.per_cell
    blocks += [
        Block("semantic", "semantic", (before, SECOND), "semantic", "semantic=at_least_float32(self.semantic(",
              "Classes of every cell, in training only: a further loss that teaches the encoder.", shows="classes",
              brief=True, size=36),
        Block("head", "head", (66, THIRD), "head.convs", "x = self.convs(level)",
              "Convolutions over every level, the same weights on all; here those of the finest.", home=head,
              brief=True, size=44),
        Block("classes", "class, box", (160, THIRD), "head", "logits.append(self._rows(self.logits(x)))",
              f"For each of the {per_cell} anchors of a cell its class, or background, and how its box must move.",
              _best_anchor, home=head, weights=("head.logits", "head.deltas"), shows=painters.best_level,
              what="Best class of any anchor and level, from 0 to 1", brief=True, size=44),
        Block("detections", "detections", (290, THIRD), "", "keep = fast_nms(boxes[index], top, s.nms)",
              "Boxes without near-duplicates of the same class, by Fast NMS.", _yolact_boxes(model), home=suppress,
              weights=(), shows=painters.boxes, what=f"Score of at least {LEAST}", side="above", parts=True, size=54,
              brief=True),
        Block("coefficients", "coefficients", (110, FOURTH), "head.coefficients",
              "coefficients.append(self._rows(self.coefficients(x)))",
              f"For each anchor {k} numbers, by tanh from −1 to 1; here those of the finest level.", home=head,
              brief=True, size=40),
        Block("kept", "C", (216, FOURTH), "", "out.coefficients[i, anchor",
              "The coefficients of the detections.", _kept(lambda masks: masks.parameters, model), weights=(),
              shows=painters.matrix, what="Rows are detections, columns prototypes", parts=True, brief=True, size=36),
        Block("protonet", "protonet", (46, FIFTH), "protonet.refine", "return F.relu(self.predict(self.refine(x)))",
              f"Convolutions of {finest} and one upsampling; it knows nothing of objects.", home=model.protonet,
              weights=("protonet.convs", "protonet.refine"), brief=True, size=50),
        Block("prototypes", "prototypes", (132, FIFTH), "protonet", "return F.relu(self.predict(self.refine(x)))",
              f"{k} maps of the whole image, which all objects share.", home=model.protonet,
              weights=("protonet.predict",), shows=painters.channels,
              what="The first sixteen, each on a scale of its own" if k > 16 else "Each on a scale of its own",
              brief=True, size=50),
        Block("sum", "σ(P Cᵀ)", (216, FIFTH), "", "probs = maps[:, 0].sigmoid()",
              "Each mask is the sum of the prototypes with its coefficients: one product of matrices for all.",
              _kept(lambda masks: replace(masks, boxes=None).probs(), model), home=DynamicMasks, weights=(),
              shows=painters.probabilities, what=FEW, parts=True, brief=True, size=32),
        Block("crop", "crop", (290, FIFTH), "", "return probs if self.boxes is None else crop_masks(probs",
              "Each mask is cut by its box, with one cell around it.", _kept(lambda masks: masks.probs(), model),
              home=DynamicMasks, weights=(), shows=painters.probabilities, what=FEW, parts=True, brief=True, size=32),
        Block("instances", "instances", (358, FIFTH), "", "part._draw() > self.threshold",
              "Resized to the image, then cut at ½.", lambda call: None, home=DynamicMasks,
              weights=(), shows="prediction", size=48),
    ]  # fmt: skip
    edges += [
        Edge(finest, "semantic", leaves="left", enters="right"),
        _down(seen, "head", places, THIRD, INNER if model.fine_levels else BUS),
        _down(finest, "protonet", places, FIFTH, BUS),
        Edge("head", "classes"),
        Edge("head", "coefficients", via=((66, FOURTH),), leaves="bottom", enters="left"),
        Edge("classes", "detections", "Fast NMS"),
        Edge("coefficients", "kept", switch="negative"),
        Edge("detections", "kept", "keep", via=((290, FOURTH),), leaves="bottom", enters="right", piece=1, place=0.5),
        Edge("detections", "crop", "boxes", leaves="bottom", enters="top", place=0.7, switch="crop"),
        Edge("protonet", "prototypes"),
        Edge("prototypes", "sum", switch="half"),
        Edge("kept", "sum"),
        Edge("sum", "crop"),
        Edge("crop", "instances"),
    ]
    switches = [
        Switch("crop", "crop by the box", (_changed(lambda masks: replace(masks, boxes=None)),)),
        Switch("half", "half of the prototypes", (Cut("protonet", channels=slice(k // 2, None)),)),
        Switch("negative", "negative coefficients", (Cut("head", change=_without_negative),)),
        TOP_DOWN,
    ]
    groups = [
        *_first_groups(found, pyramid),
        Group("protonet", "protonet", ("protonet", "prototypes"), "Maps of the whole image that all objects share."),
        Group("head", "head", ("head", "coefficients", "classes"), "Class, box and coefficients of every anchor."),
        Group("nms", "Fast NMS", ("kept", "detections"), "The best boxes, without near-duplicates."),
        Group("assembly", "assembly", ("sum", "crop"), "Each mask is a sum of prototypes, cut by its box."),
        Group("instances", "instances", ("instances",), "Masks at the size of the image."),
    ]
    return draw(
        model, image, blocks, edges, switches, categories, here=here, compact=compact, name=name, groups=groups,
        size=SIZE, target=target, start=None if here else "instances",
    )  # fmt: skip


def condinst(
    model: Model,
    image: Tensor,
    categories: Sequence[Category],
    *,
    target: Instances | None = None,
    here: str | None = None,
    compact: bool = False,
    name: str = "CondInst",
) -> Figure:
    """CondInst: every location brings the filters of a small network that draws its object's mask.

    Args:
        model: a :class:`~seglib.models.condinst.CondInst` on any encoder.
        image: image of the forward pass, ``(3, H, W)`` in [0, 1].
        categories: the class table of things; stuff may follow.
        target: true objects; with them answers are scored.
        here: block or group that is marked: ``"backbone"``, ``"fpn"``, ``"head"``, ``"nms"``, ``"mask_branch"``,
            ``"filters"``, ….
        compact: whether to draw the strip.
        name: name of the network, for the heading.

    Raises:
        ValueError: for another model, or an unknown ``here``.
    """
    if not isinstance(model, CondInst):
        raise ValueError(f"condinst draws seglib.models.condinst.CondInst, got {type(model).__name__}")
    blocks, edges, places, found, pyramid = _trunk(model, model.encoder_levels)
    finest, seen = pyramid[0], pyramid[model.fine_levels]
    head, relative = model.head, model.relative_coordinates
    last: Any = model.mask_branch.tower[-1]
    count, features = filter_count(model.channels), last.out_channels
    blocks += [
        Block("class_tower", "class tower", (58, THIRD), "head.class_tower",
              "x, y = self.class_tower(level), self.box_tower(level)",
              "Convolutions over every level, the same weights on all; here those of the finest.", home=head,
              brief=True, size=44),
        Block("scores", "score", (172, THIRD), "", "scores = out.class_logits[image].sigmoid() * out.centerness",
              "Class probability times centerness: locations at the rim of their object score lower.",
              _condinst_scores(model), weights=("head.class_logits", "head.centerness"), shows=painters.best_level,
              what="Best class of any level, from 0 to 1", side="above", brief=True, size=44),
        Block("detections", "detections", (288, THIRD), "", "kept = batched_nms(boxes, score, labels, s.nms)",
              "Boxes from four distances, without near-duplicates of the same class.", _condinst_boxes(model),
              weights=("head.distances", "head.scales"), shows=painters.boxes, what=f"Score of at least {LEAST}",
              side="above", parts=True, size=54, brief=True),
        Block("box_tower", "box tower", (58, FOURTH), "head.box_tower",
              "x, y = self.class_tower(level), self.box_tower(level)",
              "A second tower: for distances, centerness and filters.", home=head, brief=True, size=44),
        Block("controller", "controller", (146, FOURTH), "head.controller", "self.controller(y)",
              f"For each location {count} numbers: the filters of a network of its own.", home=head, brief=True,
              size=44),
        Block("filters", "filters", (224, FOURTH), "", "_bounded(out.parameters[i, index])",
              "The filters of the detections.", _kept(lambda masks: masks.parameters, model), weights=(),
              shows=painters.matrix, what="Rows are detections, columns the first 48 parameters", parts=True,
              brief=True, size=30),
        Block("mask_branch", "mask branch", (50, FIFTH), "mask_branch.tower.0",
              "x = x + aligned_bilinear(refine(level)", "The finest levels, added up, and convolutions.",
              home=model.mask_branch, weights=("mask_branch.refine", *_all_but_last(model.mask_branch.tower)),
              brief=True, size=50),
        Block("features", "features", (144, FIFTH), "mask_branch", "return self.tower(x)",
              f"{features} maps of the whole image, which all objects share.", home=model.mask_branch,
              weights=(f"mask_branch.tower.{len(model.mask_branch.tower) - 1}",), shows=painters.channels,
              what="Each on a scale of its own", brief=True, size=40),
        Block("masks", "dynamic convs", (244, FIFTH), "", "_bounded(out.mask_features[i]), _bounded(",
              f"Each object's own {len(model.channels) - 1} convolutions (1×1), over the features and its coordinates.",
              _kept(lambda masks: masks.probs(), model), weights=(), shows=painters.probabilities, what=FEW,
              parts=True, brief=True, size=40),
        Block("instances", "instances", (350, FIFTH), "", "part._draw() > self.threshold",
              "Upsampled to the image, then cut at ½. No box cuts them.", lambda call: None, home=DynamicMasks,
              weights=(), shows="prediction", size=54),
    ]  # fmt: skip
    line = INNER if model.fine_levels else BUS
    edges += [
        _down(seen, "class_tower", places, THIRD, line),
        _down(seen, "box_tower", places, FOURTH, line),
        _down(finest, "mask_branch", places, FIFTH, BUS),
        Edge("class_tower", "scores"),
        Edge("box_tower", "scores", "centerness", via=((58, BETWEEN + 10), (172, BETWEEN + 10)), leaves="top",
             enters="bottom", piece=1, switch="centerness"),
        Edge("scores", "detections", "NMS"),
        Edge("box_tower", "controller"),
        Edge("controller", "filters"),
        Edge("filters", "masks", leaves="bottom", enters="top", switch="own"),
        Edge("mask_branch", "features"),
        Edge("features", "masks", switch="half"),
        Edge("masks", "instances", f"×{model.mask_stride}"),
    ]  # fmt: skip
    switches = [
        Switch("own", "own filters", (_changed(_filters_of_the_best),)),
        Switch("half", "half of the features", (Cut("mask_branch", channels=slice(features // 2, None)),)),
        Switch("centerness", "centerness", (Cut("head.centerness", change=_certain),)),
    ]
    drawers: tuple[str, ...] = ("filters", "masks")
    if relative:
        blocks.append(
            Block("coordinates", "x, y", (300, FOURTH), "", "x, y = self.coordinates(out, index)",
                  "Where every cell lies, as seen from the detection's location, in units of its level.",
                  _kept(_coordinates, model), weights=(), shows=_place, parts=True, size=36, brief=True, side="right",
                  what=f"The first {painters.COLUMNS * painters.ROWS}: red grows with x, green with y")
        )  # fmt: skip
        edges += [
            Edge("detections", "coordinates", leaves="bottom", enters="top"),
            Edge("coordinates", "masks", via=((300, FIFTH - 34), (260, FIFTH - 34)), leaves="bottom", enters="top",
                 switch="relative"),
        ]  # fmt: skip
        switches.insert(0, Switch("relative", "relative coordinates", (Swap("coordinates", _zeros),)))
        drawers = ("filters", "coordinates", "masks")
    groups = [
        *_first_groups(found, pyramid),
        Group("head", "FCOS head", ("class_tower", "box_tower", "scores", "controller"),
              "Class, box, centerness and filters of every location."),
        Group("nms", "NMS", ("detections",), "The best boxes, without near-duplicates."),
        Group("mask_branch", "mask branch", ("mask_branch", "features"), "A few features that all objects share."),
        Group("filters", "dynamic convs", drawers, "Each object's own filters draw its mask."),
        Group("instances", "instances", ("instances",), "Masks at the size of the image."),
    ]  # fmt: skip
    return draw(
        model, image, blocks, edges, switches, categories, here=here, compact=compact, name=name, groups=groups,
        size=SIZE, target=target, start=None if here else "instances",
    )  # fmt: skip


def solov2(
    model: Model,
    image: Tensor,
    categories: Sequence[Category],
    *,
    target: Instances | None = None,
    here: str | None = None,
    compact: bool = False,
    name: str = "SOLOv2",
) -> Figure:
    """SOLOv2: cells of grids say a class and make a kernel; with shared features a kernel draws a mask. No boxes.

    Args:
        model: a :class:`~seglib.models.solov2.SOLOv2` on any encoder.
        image: image of the forward pass, ``(3, H, W)`` in [0, 1].
        categories: the class table of things; stuff may follow.
        target: true objects; with them answers are scored.
        here: block or group that is marked: ``"backbone"``, ``"fpn"``, ``"category"``, ``"kernel"``,
            ``"mask_features"``, ``"nms"``, ….
        compact: whether to draw the strip.
        name: name of the network, for the heading.

    Raises:
        ValueError: for another model, or an unknown ``here``.
    """
    if not isinstance(model, SOLOv2):
        raise ValueError(f"solov2 draws seglib.models.solov2.SOLOv2, got {type(model).__name__}")
    blocks, edges, places, found, pyramid = _trunk(model, model.levels)
    finest, head, mask = pyramid[0], model.head, model.mask_features
    size, e = head.grids[0], head.kernel.out_channels
    last = len(mask.branches) - 1
    coarse = pyramid[last]
    blocks += [
        Block("category_tower", "class tower", (58, THIRD), "head.category_tower",
              "logits.append(self.category(self.category_tower(",
              f"Every level, resized to a grid; here the finest one, {size}×{size}. The same weights on all levels.",
              home=head, brief=True, size=44),
        Block("category", "class", (164, THIRD), "", "category_logits=at_least_float32(",
              "For each class, whether an object of it has its centre in this cell.", _cell_classes(model),
              weights=("head.category",), shows=painters.best_level, what="Best class of any level, from 0 to 1",
              brief=True, size=44),
        Block("cells", "cells", (262, THIRD), "", "cells, labels = (scores > s.threshold).nonzero()",
              "Peaks of the class scores: cells that draw a mask.", _cells(model), weights=(),
              shows=painters.best_level, what="Peaks above the threshold, of any level", parts=True, brief=True,
              size=44),
        Block("kernel_tower", "kernel tower", (58, FOURTH), "head.kernel_tower",
              "kernels.append(self.kernel(self.kernel_tower(x)))",
              "A second tower over the same grids. It also sees where each cell lies." if head.coordinates else
              "A second tower over the same grids.", home=head, brief=True, size=44),
        Block("kernel", "kernels", (146, FOURTH), "head.kernel", "kernels.append(self.kernel(self.kernel_tower(x)))",
              f"For each cell {e} numbers: a filter without bias.", home=head, brief=True, size=44),
        Block("kept", "kept", (224, FOURTH), "", "drawn, own = cells.unique(", "The kernels of those cells.",
              _candidates(model, 2), weights=(), shows=painters.matrix, what="Rows are cells, columns channels",
              parts=True, brief=True, size=30),
        Block("mask_features", "mask branch", (48, FIFTH), "mask_features.output", "return self.output(",
              f"The levels {finest} to {coarse}, added up at the finest resolution.", argument(), home=mask,
              weights=("mask_features.branches",), brief=True, size=50),
        Block("features", "features", (142, FIFTH), "mask_features", "return self.output(",
              f"{e} maps of the whole image, which all objects share.", home=mask, weights=("mask_features.output",),
              shows=painters.channels, what="The first sixteen, each on a scale of its own", brief=True, size=44),
        Block("masks", "masks", (214, FIFTH), "", "masks = self._masks(features, kernels[cells])",
              "One product of matrices: each kernel draws a mask.", _candidates(model, 3), weights=(),
              shows=painters.probabilities, what=FEW, parts=True, brief=True, size=32),
        Block("nms", "Matrix NMS", (288, FIFTH), "", "score, order = matrix_nms(iou, labels, score",
              "All at once: a score falls where a better mask of the class overlaps.", _lowered(model), weights=(),
              shows=_before_after, what="The best 16, before (above) and after", parts=True, brief=True, size=22,
              side="above"),
        Block("instances", "instances", (358, FIFTH), "", "part._draw() > self.threshold",
              "Resized to the image, then cut at ½. Boxes are those around the masks.", lambda call: None,
              home=DynamicMasks, weights=(), shows="prediction", size=48),
    ]  # fmt: skip
    edges += [
        _down(finest, "category_tower", places, THIRD, BUS),
        _down(finest, "kernel_tower", places, FOURTH, BUS, "kernel"),
        _down(finest, "mask_features", places, FIFTH, BUS, "feature"),
        Edge("category_tower", "category"),
        Edge("category", "cells", "peaks"),
        Edge("kernel_tower", "kernel"),
        Edge("kernel", "kept"),
        Edge("cells", "kept", via=((262, BETWEEN + 12), (224, BETWEEN + 12)), leaves="bottom", enters="top"),
        Edge("mask_features", "features"),
        Edge("features", "masks", switch="half"),
        Edge("kept", "masks"),
        Edge("masks", "nms"),
        Edge("nms", "instances", switch="nms"),
    ]  # fmt: skip
    switches = [
        Switch("half", "half of the features", (Cut("mask_features", channels=slice(e // 2, None)),)),
        Switch("nms", "Matrix NMS", (Swap("detections", _without_nms),)),
    ]
    if mask.coordinates:
        cut = Cut(f"mask_features.branches.{last}.0", argument=0, channels=slice(-2, None))
        switches.insert(0, Switch("feature", "coordinates of the mask branch", (cut,)))
    if head.coordinates:
        cut = Cut("head.kernel_tower", argument=0, channels=slice(-2, None))
        switches.insert(0, Switch("kernel", "coordinates of the kernels", (cut,)))
    groups = [
        *_first_groups(found, pyramid),
        Group("category", "class branch", ("category_tower", "cells", "category"), "The class of every cell."),
        Group("kernel", "kernel branch", ("kernel_tower", "kept", "kernel"), "A kernel of every cell."),
        Group("mask_features", "mask branch", ("mask_features", "features"), "Features that all objects share."),
        Group("masks", "masks", ("masks",), "Each kernel draws a mask."),
        Group("nms", "Matrix NMS", ("nms",), "Scores fall where better masks overlap, all at once."),
        Group("instances", "instances", ("instances",), "Masks at the size of the image."),
    ]
    known = {s.name for s in switches}
    edges = [replace(edge, switch=edge.switch if edge.switch in known else "") for edge in edges]
    return draw(
        model, image, blocks, edges, switches, categories, here=here, compact=compact, name=name, groups=groups,
        size=SIZE, target=target, start=None if here else "instances",
    )  # fmt: skip


# What all three begin with


def _trunk(net: Any, levels: Sequence[str]) -> tuple[list[Block], list[Edge], dict[str, float], list[str], list[str]]:
    """Encoder and pyramid: blocks, edges, the column of each map of the encoder, their names, and those of levels."""
    found = list(stages(net.encoder))
    strides = {level: float(net.encoder.grids[level].stride) for level in found}
    places, x = {"image": 46.0}, 46.0 + side_of(1) / 2
    for level in found:
        side = side_of(strides[level])
        places[level] = x + 25 + side / 2
        x = places[level] + side / 2
    blocks = encoder_blocks(net, {n: (v, FIRST) for n, v in places.items()}, side="above")
    edges = [Edge(a, b) for a, b in zip(["image", *found], found, strict=False)]
    pyramid: list[str] = []
    for i, level in enumerate(levels):
        p, last = f"p{level[1:]}", i == len(levels) - 1
        line = "pyramid = [self.output[-1](top)]" if last else "pyramid.insert(0, self.output[i](top))"
        says = f"{level} by a 1×1 convolution, plus the level above, upsampled; then a 3×3 convolution."
        own: tuple[str, ...] = (f"fpn.lateral.{i}", f"fpn.output.{i}")
        if last:
            says = f"{level} by a 1×1 and a 3×3 convolution: the top of the path."
            if net.fpn.top_block is not None:
                own, says = (*own, "fpn.top_block"), f"{says} Coarser levels for large objects follow."
        blocks.append(Block(p, p, (places[level], SECOND), "fpn", line, says, entry(i), home=net.fpn, weights=own,
                            stride=strides[level], brief=True))  # fmt: skip
        edges.append(Edge(level, p))
        if i:
            edges.append(Edge(p, pyramid[-1], switch="topdown" if isinstance(net, YOLACT) else ""))
        pyramid.append(p)
    return blocks, edges, places, found, pyramid


def _down(level: str, end: str, places: dict[str, float], y: float, line: float, switch: str = "") -> Edge:
    """An arrow from a level's lower left corner to the left margin, down there, and into a block."""
    x, row = places[f"c{level[1:]}"] - 14, SECOND + (48 if line == BUS else 42)
    return Edge(level, end, via=((x, row), (line, row), (line, y)), leaves="bottom", enters="left", switch=switch)


def _first_groups(found: Sequence[str], pyramid: Sequence[str]) -> list[Group]:
    return [
        Group("image", "image", ("image",), IMAGE_SAYS),
        Group("backbone", "backbone", tuple(found), "The encoder: maps of falling resolution."),
        Group("fpn", "FPN", tuple(pyramid), "A feature pyramid: all levels know what, each at its scale."),
    ]


def _size(call: Call) -> tuple[int, int]:
    height, width = call.output.sizes[0].tolist()
    return height, width


def _kept(part: Callable[[DynamicMasks], Any], model: Model) -> Callable[[Call], Any]:
    """What takes a part of the detections' packed masks from the model's call."""
    return lambda call: part(model.postprocess(call.output, [_size(call)])[0].packed)


def _changed(change: Callable[[DynamicMasks], DynamicMasks]) -> Swap:
    """A model whose predictions have other packed masks."""

    def make(model: Model) -> Callable[..., list[Instances]]:
        usual = model.postprocess

        def postprocess(*args: Any, **keywords: Any) -> list[Instances]:
            found = usual(*args, **keywords)
            return [f.replace(masks=change(f.packed)) for f in found]

        return postprocess

    return Swap("postprocess", make)


def _all_but_last(layers: Any) -> tuple[str, ...]:
    return tuple(f"mask_branch.tower.{i}" for i in range(len(layers) - 1))


# YOLACT


def _best_anchor(call: Call) -> tuple[Tensor, Tensor]:
    """All class logits, and the probability of the best class of any anchor and level at every cell of the finest."""
    logits, maps, begin = call.output[0], [], 0
    probs = logits[0].softmax(-1)[:, :-1].amax(-1)  # (A,)
    shapes = [level.shape[-2:] for level in call.arguments[0]]
    per_cell = len(probs) // sum(h * w for h, w in shapes)
    for h, w in shapes:
        count = h * w * per_cell
        maps.append(probs[begin : begin + count].view(h, w, per_cell).amax(-1))
        begin += count
    return logits, painters.best_of(maps)


def _yolact_boxes(net: YOLACT) -> Callable[[Call], tuple[Tensor, ...]]:
    def take(call: Call) -> tuple[Tensor, ...]:
        found = net.postprocess(call.output, [_size(call)])[0]
        return _drawn(found)

    return take


def _drawn(found: Instances) -> tuple[Tensor, ...]:
    """All boxes, and boxes and labels of those that are drawn."""
    if found.scores is None:
        raise ValueError("the predicted instances have no scores")
    kept = found.scores >= LEAST
    return found.boxes, found.boxes[kept], found.labels[kept]


def _without_negative(head: Any, arguments: tuple[Any, ...], output: Any) -> tuple[Tensor, ...]:
    logits, deltas, coefficients = output
    return logits, deltas, coefficients.clamp(min=0)


# CondInst


def _condinst_scores(net: CondInst) -> Callable[[Call], tuple[Tensor, Tensor]]:
    def take(call: Call) -> tuple[Tensor, Tensor]:
        out = call.output
        best = out.class_logits[0].sigmoid().amax(1) * out.centerness[0].sigmoid()  # (L,)
        maps, height = [], out.canvas.tolist()[0]
        for i, stride in enumerate(net.levels.strides):
            own = best[out.level == i]
            h = -(-height // stride)
            maps.append(own.view(h, len(own) // h))
        return out.class_logits, painters.best_of(maps)

    return take


def _condinst_boxes(net: CondInst) -> Callable[[Call], tuple[Tensor, ...]]:
    return lambda call: _drawn(net.postprocess(call.output, [_size(call)])[0])


def _filters_of_the_best(masks: DynamicMasks) -> DynamicMasks:
    return replace(masks, parameters=masks.parameters[:1].expand_as(masks.parameters))


def _certain(module: Any, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
    """Centerness logits of 1 everywhere."""
    return torch.full_like(output, 20.0)


def _zeros(net: CondInst) -> Callable[..., tuple[Tensor, Tensor]]:
    """Relative coordinates that are 0 everywhere."""
    usual = net.coordinates

    def coordinates(*args: Any) -> tuple[Tensor, Tensor]:
        x, y = usual(*args)
        assert x is not None and y is not None  # there is no such switch without them
        return torch.zeros_like(x), torch.zeros_like(y)

    return coordinates


def _coordinates(masks: DynamicMasks) -> Tensor:
    """Relative coordinates of the detections, ``(D, 2, h, w)``."""
    height, width = masks.features.shape[1:]
    x, y = masks.x, masks.y
    assert x is not None and y is not None  # the block is drawn only where there are some
    return torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], 1)


def _place(value: Tensor, scene: Scene) -> np.ndarray:
    """The first coordinates ``(D, 2, h, w)``: red grows with x, green with y, both from −1 to 1."""
    height, width = (n + 1 for n in value.shape[-2:])
    sheet = torch.full((painters.ROWS * height - 1, painters.COLUMNS * width - 1, 3), 0.5)
    for i, (x, y) in enumerate(value[: painters.COLUMNS * painters.ROWS]):
        top, left = i // painters.COLUMNS * height, i % painters.COLUMNS * width
        where = sheet[top : top + height - 1, left : left + width - 1]
        where[..., 0], where[..., 1] = (0.5 + 0.5 * c / (1 + c.abs()) for c in (x, y))
    return (paint.shrink(sheet.permute(2, 0, 1), paint.IMAGE).permute(1, 2, 0).numpy().round(4) * 255).astype(np.uint8)


# SOLOv2


def _grids(net: SOLOv2, call: Call) -> list[Tensor]:
    """Class scores of the cells after point NMS, ``(K, G, G)`` of each level."""
    parts = call.output.category_logits[0].sigmoid().split([g * g for g in net.head.grids])
    return [point_nms(p.T.unflatten(1, (g, g))) for p, g in zip(parts, net.head.grids, strict=True)]


def _cell_classes(net: SOLOv2) -> Callable[[Call], tuple[Tensor, Tensor]]:
    def take(call: Call) -> tuple[Tensor, Tensor]:
        logits = call.output.category_logits
        parts = logits[0].sigmoid().amax(1).split([g * g for g in net.head.grids])
        return logits, painters.best_of([p.view(g, g) for p, g in zip(parts, net.head.grids, strict=True)])

    return take


def _cells(net: SOLOv2) -> Callable[[Call], tuple[Tensor, Tensor]]:
    def take(call: Call) -> tuple[Tensor, Tensor]:
        least = net.detections.threshold
        maps = [s.amax(0).where(s.amax(0) > least, 0) for s in _grids(net, call)]
        cells = torch.cat([m.flatten() for m in maps]).nonzero()[:, 0]
        return cells, painters.best_of(maps)

    return take


def _before_nms(net: SOLOv2, call: Call) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Classes and scores before Matrix NMS, by falling score; their kernels and the masks' probabilities."""
    out, usual = call.output, net.detections
    net.detections = replace(_without_nms(net), min_score=0.0, max_detections=usual.pre_nms_top_k)
    try:
        cells, labels, scores = net.detect(out.category_logits[0], out.kernels[0], out.mask_features[0])
    finally:
        net.detections = usual
    kernels = out.kernels[0, cells]
    return labels, scores, kernels, draw_masks(out.mask_features[0], kernels, net.mask_factor).sigmoid()


def _candidates(net: SOLOv2, part: int) -> Callable[[Call], Tensor]:
    return lambda call: _before_nms(net, call)[part]


def _lowered(net: SOLOv2) -> Callable[[Call], Tensor]:
    """Scores before and after Matrix NMS, ``(2, N)``."""

    def take(call: Call) -> Tensor:
        labels, scores, _, probs = _before_nms(net, call)
        masks, s = probs > net.detections.mask_threshold, net.detections
        return torch.stack([scores, matrix_nms(mask_iou(masks, masks), labels, scores, kernel=s.kernel, sigma=s.sigma)])

    return take


def _before_after(value: Tensor, scene: Scene) -> np.ndarray:
    """Two rows of scores ``(2, N)``, the first 16, large enough to see."""
    scores = value[:, :16] if value.shape[1] else value.new_zeros(2, 1)
    return painters.on_scale(scores.repeat_interleave(10, 0).repeat_interleave(2, 1))


def _without_nms(net: SOLOv2) -> Any:
    """Settings with a σ that lowers nothing."""
    return replace(net.detections, nms="matrix", kernel="gaussian", sigma=1e-9)
