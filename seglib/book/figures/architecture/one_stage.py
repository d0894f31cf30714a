"""The drawings of YOLACT, CondInst and SOLOv2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from seglib.book.figures.architecture import painters, takes
from seglib.book.figures.architecture.drawing import draw
from seglib.book.figures.architecture.parts import Block, Cut, Edge, Group, Swap, Switch, argument, entry
from seglib.book.figures.architecture.trunk import TOP_DOWN, encoder_row, first_groups, output_line
from seglib.book.figures.element import Figure
from seglib.models.base import Model
from seglib.models.condinst import CondInst
from seglib.models.solov2 import SOLOv2
from seglib.models.yolact import YOLACT, suppress
from seglib.ops.dynamic_conv import filter_count
from seglib.ops.dynamic_masks import DynamicMasks
from seglib.types import Category, Instances

FIRST, SECOND, THIRD, FOURTH, FIFTH = 50.0, 140.0, 234.0, 322.0, 412.0
"""The middles of the five rows, in units."""
BETWEEN = (THIRD + FOURTH) / 2
SIZE = (396.0, FIFTH + 48)
BUS, INNER = 10.0, 22.0
"""Where lines run down at the left: those to the masks' branch, and those to the head where it begins elsewhere."""
# the lines that bring masks to the size of the image
RESIZED = 'maps = F.interpolate(maps, self.size, mode="bilinear", align_corners=False)'
ALIGNED = "maps = crop_to(aligned_bilinear(maps, self.canvas[0] // maps.shape[2]), self.image_size)"
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
    blocks, edges, places, pyramid = _trunk(model, model.levels)
    finest, seen, k = pyramid[0], pyramid[model.fine_levels], model.protonet.predict.out_channels
    columns = list(places)
    before = places[columns[columns.index(model.levels[0]) - 1]]  # one column to the left of the pyramid
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
              takes.best_anchor, home=head, weights=("head.logits", "head.deltas"), shows=painters.best_level,
              what="Best class of any anchor and level, from 0 to 1", brief=True, size=44),
        Block("detections", "detections", (290, THIRD), "", "keep = fast_nms(boxes[index], top, s.nms)",
              "Boxes without near-duplicates of the same class, by Fast NMS.", takes.boxes(model), home=suppress,
              weights=(), shows=painters.boxes, what=f"Score of at least {takes.LEAST}", side="above", parts=True,
              size=54, brief=True),
        Block("coefficients", "coefficients", (110, FOURTH), "head.coefficients",
              "coefficients.append(self._rows(self.coefficients(x)))",
              f"For each anchor {k} numbers, by tanh from −1 to 1; here those of the finest level.", home=head,
              brief=True, size=40),
        Block("kept", "C", (216, FOURTH), "", "out.coefficients[i, anchor",
              "The coefficients of the detections.", takes.kept(lambda masks: masks.parameters, model), weights=(),
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
              "Each mask is a linear combination of the prototypes: one product of matrices for all.",
              takes.kept(lambda masks: replace(masks, boxes=None).probs(), model), home=DynamicMasks, weights=(),
              shows=painters.probabilities, what=FEW, parts=True, brief=True, size=32),
        Block("crop", "crop", (290, FIFTH), "", "return probs if self.boxes is None else crop_masks(probs",
              "A mask is cropped by its box, with one cell around it.", takes.kept(lambda masks: masks.probs(), model),
              home=DynamicMasks, weights=(), shows=painters.probabilities, what=FEW, parts=True, brief=True, size=32),
        _instances(358, RESIZED, "Resized to the image, then thresholded at ½.", 48),
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
        Switch("crop", "crop by the box", (takes.with_masks(lambda masks: replace(masks, boxes=None)),)),
        Switch("half", "half of the prototypes", (Cut("protonet", channels=slice(k // 2, None)),)),
        Switch("negative", "negative coefficients", (Cut("head", change=takes.without_negative),)),
        TOP_DOWN,
    ]
    groups = [
        *first_groups(list(places)[1:], pyramid),
        Group("protonet", "protonet", ("protonet", "prototypes"), "Maps of the whole image that all objects share."),
        Group("head", "head", ("head", "coefficients", "classes"), "Class, box and coefficients of every anchor."),
        Group("nms", "Fast NMS", ("kept", "detections"), "The best boxes, without near-duplicates."),
        Group("assembly", "assembly", ("sum", "crop"), "A mask is a linear combination of prototypes, cropped."),
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
    blocks, edges, places, pyramid = _trunk(model, model.encoder_levels)
    finest, seen = pyramid[0], pyramid[model.fine_levels]
    head, relative = model.head, model.relative_coordinates
    end = len(model.mask_branch.tower) - 1
    last: Any = model.mask_branch.tower[end]
    count, features = filter_count(model.channels), last.out_channels
    blocks += [
        Block("class_tower", "class tower", (58, THIRD), "head.class_tower",
              "x, y = self.class_tower(level), self.box_tower(level)",
              "Convolutions over every level, the same weights on all; here those of the finest.", home=head,
              brief=True, size=44),
        Block("scores", "score", (172, THIRD), "", "scores = out.class_logits[image].sigmoid() * out.centerness",
              "Class probability times centerness: locations at the rim of their object score lower.",
              takes.scores_of_locations(model), weights=("head.class_logits", "head.centerness"),
              shows=painters.best_level, what="Best class of any level, from 0 to 1", side="above", brief=True,
              size=44),
        Block("detections", "detections", (288, THIRD), "", "kept = batched_nms(boxes, score, labels, s.nms)",
              "Boxes from four distances, without near-duplicates of the same class.", takes.boxes(model),
              weights=("head.distances", "head.scales"), shows=painters.boxes, what=f"Score of at least {takes.LEAST}",
              side="above", parts=True, size=54, brief=True),
        Block("box_tower", "box tower", (58, FOURTH), "head.box_tower",
              "x, y = self.class_tower(level), self.box_tower(level)",
              "A second tower: for distances, centerness and filters.", home=head, brief=True, size=44),
        Block("controller", "controller", (146, FOURTH), "head.controller", "self.controller(y)",
              f"For each location {count} numbers: the filters of a network of its own.", home=head, brief=True,
              size=44),
        Block("filters", "filters", (224, FOURTH), "", "_bounded(out.parameters[i, index])",
              "The filters of the detections.", takes.kept(lambda masks: masks.parameters, model), weights=(),
              shows=painters.matrix, what="Rows are detections, columns the first 48 parameters", parts=True,
              brief=True, size=30),
        Block("mask_branch", "mask branch", (50, FIFTH), "mask_branch.tower.0",
              "x = x + aligned_bilinear(refine(level)", "The finest levels, added up, and convolutions.",
              home=model.mask_branch,
              weights=("mask_branch.refine", *(f"mask_branch.tower.{i}" for i in range(end))),
              brief=True, size=50),
        Block("features", "features", (144, FIFTH), "mask_branch", "return self.tower(x)",
              f"{features} maps of the whole image, which all objects share.", home=model.mask_branch,
              weights=(f"mask_branch.tower.{end}",), shows=painters.channels,
              what="Each on a scale of its own", brief=True, size=40),
        Block("masks", "dynamic convs", (244, FIFTH), "", "_bounded(out.mask_features[i]), _bounded(",
              f"Each object's own {len(model.channels) - 1} convolutions (1×1), over the features and its coordinates.",
              takes.kept(lambda masks: masks.probs(), model), weights=(), shows=painters.probabilities, what=FEW,
              parts=True, brief=True, size=40),
        _instances(350, ALIGNED, "Upsampled to the image, then thresholded at ½. No box crops them.", 54),
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
        Switch("own", "own filters", (takes.with_masks(takes.filters_of_the_best),)),
        Switch("half", "half of the features", (Cut("mask_branch", channels=slice(features // 2, None)),)),
        Switch("centerness", "centerness", (Cut("head.centerness", change=takes.certain),)),
    ]
    drawers: tuple[str, ...] = ("filters", "masks")
    if relative:
        blocks.append(
            Block("coordinates", "x, y", (300, FOURTH), "", "x, y = self.coordinates(out, index)",
                  "Where every cell lies, as seen from the detection's location, in units of its level.",
                  takes.kept(takes.coordinates, model), weights=(), shows=takes.paint_coordinates, parts=True, size=36,
                  brief=True, side="right",
                  what=f"The first {painters.COLUMNS * painters.ROWS}: red grows with x, green with y")
        )  # fmt: skip
        edges += [
            Edge("detections", "coordinates", leaves="bottom", enters="top"),
            Edge("coordinates", "masks", via=((300, FIFTH - 34), (260, FIFTH - 34)), leaves="bottom", enters="top",
                 switch="relative"),
        ]  # fmt: skip
        switches.insert(0, Switch("relative", "relative coordinates", (Swap("coordinates", takes.zeros),)))
        drawers = ("filters", "coordinates", "masks")
    groups = [
        *first_groups(list(places)[1:], pyramid),
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
    blocks, edges, places, pyramid = _trunk(model, model.levels)
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
              "For each class, whether an object of it has its centre in this cell.", takes.cell_classes(model),
              weights=("head.category",), shows=painters.best_level, what="Best class of any level, from 0 to 1",
              brief=True, size=44),
        Block("cells", "cells", (262, THIRD), "", "cells, labels = (scores > s.threshold).nonzero()",
              "Peaks of the class scores: cells that draw a mask.", takes.cells(model), weights=(),
              shows=painters.best_level, what="Peaks above the threshold, of any level", parts=True, brief=True,
              size=44),
        Block("kernel_tower", "kernel tower", (58, FOURTH), "head.kernel_tower",
              "kernels.append(self.kernel(self.kernel_tower(x)))",
              "A second tower over the same grids. It also sees where each cell lies." if head.coordinates else
              "A second tower over the same grids.", home=head, brief=True, size=44),
        Block("kernel", "kernels", (146, FOURTH), "head.kernel", "kernels.append(self.kernel(self.kernel_tower(x)))",
              f"For each cell {e} numbers: a filter without bias.", home=head, brief=True, size=44),
        Block("kept", "kept", (224, FOURTH), "", "drawn, own = cells.unique(", "The kernels of those cells.",
              takes.candidates(model, 2), weights=(), shows=painters.matrix, what="Rows are cells, columns channels",
              parts=True, brief=True, size=30),
        Block("mask_features", "mask branch", (48, FIFTH), "mask_features.output", "return self.output(",
              f"The levels {finest} to {coarse}, added up at the finest resolution.", argument(), home=mask,
              weights=("mask_features.branches",), brief=True, size=50),
        Block("features", "features", (142, FIFTH), "mask_features", "return self.output(",
              f"{e} maps of the whole image, which all objects share.", home=mask, weights=("mask_features.output",),
              shows=painters.channels, what="The first sixteen, each on a scale of its own", brief=True, size=44),
        Block("masks", "masks", (214, FIFTH), "", "masks = self._masks(features, kernels[cells])",
              "One product of matrices: each kernel draws a mask.", takes.candidates(model, 3), weights=(),
              shows=painters.probabilities, what=FEW, parts=True, brief=True, size=32),
        Block("nms", "Matrix NMS", (288, FIFTH), "", "score, order = matrix_nms(iou, labels, score",
              "All at once: a score falls where a better mask of the class overlaps.", takes.lowered(model), weights=(),
              shows=takes.paint_before_after, what="The best 16, before (above) and after", parts=True, brief=True,
              size=22, side="above"),
        _instances(358, RESIZED, "Resized to the image, thresholded at ½. Boxes are those around the masks.", 48),
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
        Switch("nms", "Matrix NMS", (Swap("detections", takes.without_nms),)),
    ]
    if mask.coordinates:
        cut = Cut(f"mask_features.branches.{last}.0", argument=0, channels=slice(-2, None))
        switches.insert(0, Switch("feature", "coordinates of the mask branch", (cut,)))
    if head.coordinates:
        cut = Cut("head.kernel_tower", argument=0, channels=slice(-2, None))
        switches.insert(0, Switch("kernel", "coordinates of the kernels", (cut,)))
    groups = [
        *first_groups(list(places)[1:], pyramid),
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


def _trunk(net: Any, levels: Sequence[str]) -> tuple[list[Block], list[Edge], dict[str, float], list[str]]:
    """Encoder and pyramid: blocks, edges, the column of the image and of each map of the encoder, and the levels."""
    blocks, edges, places = encoder_row(net, FIRST)
    pyramid: list[str] = []
    for i, level in enumerate(levels):
        p, last = f"p{level[1:]}", i == len(levels) - 1
        says = f"{level} by a 1×1 convolution, plus the level above, upsampled; then a 3×3 convolution."
        own: tuple[str, ...] = (f"fpn.lateral.{i}", f"fpn.output.{i}")
        if last:
            says = f"{level} by a 1×1 and a 3×3 convolution: the top of the path."
            if net.fpn.top_block is not None:
                own, says = (*own, "fpn.top_block"), f"{says} Coarser levels for large objects follow."
        blocks.append(Block(p, p, (places[level], SECOND), "fpn", output_line(last), says, entry(i), home=net.fpn,
                            weights=own, stride=float(net.encoder.grids[level].stride), brief=True))  # fmt: skip
        edges.append(Edge(level, p))
        if i:
            edges.append(Edge(p, pyramid[-1], switch="topdown" if isinstance(net, YOLACT) else ""))
        pyramid.append(p)
    return blocks, edges, places, pyramid


def _instances(x: float, line: str, says: str, size: float) -> Block:
    """The answer, at the end of the last row."""
    return Block("instances", "instances", (x, FIFTH), "", line, says, lambda call: None,
                 home=DynamicMasks, weights=(), shows="prediction", size=size)  # fmt: skip


def _down(level: str, end: str, places: dict[str, float], y: float, line: float, switch: str = "") -> Edge:
    """An arrow from a level's lower left corner to the left margin, down there, and into a block."""
    x, row = places[f"c{level[1:]}"] - 14, SECOND + (48 if line == BUS else 42)
    return Edge(level, end, via=((x, row), (line, row), (line, y)), leaves="bottom", enters="left", switch=switch)
