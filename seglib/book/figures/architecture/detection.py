"""The drawings of the feature pyramid network, the region proposal network and Mask R-CNN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.book.figures.architecture import paint, painters
from seglib.book.figures.architecture.drawing import draw, side_of
from seglib.book.figures.architecture.outcome import Proposals
from seglib.book.figures.architecture.parts import Block, Call, Cut, Edge, Group, Note, Scene, Switch, argument, entry
from seglib.book.figures.architecture.trunk import (
    IMAGE_SAYS,
    TOP_DOWN,
    chain,
    encoder_blocks,
    encoder_row,
    first_groups,
    output_line,
    rows,
    stages,
)
from seglib.book.figures.element import Figure
from seglib.layers.rpn import propose
from seglib.models.base import Model
from seglib.models.mask_rcnn import MaskRCNN
from seglib.models.panoptic_fpn import PanopticFPN
from seglib.models.two_stage import MaskRCNNOutput
from seglib.types import Category, Instances

LEVEL_COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0))
"""A colour for the anchors of each level."""


def _check(model: Model, drawing: str) -> MaskRCNN:
    if not isinstance(model, MaskRCNN) or isinstance(model, PanopticFPN):
        raise ValueError(f"{drawing} draws parts of seglib.models.mask_rcnn.MaskRCNN, got {type(model).__name__}")
    return model


def fpn(
    model: Model,
    image: Tensor,
    categories: Sequence[Category],
    *,
    target: Instances | None = None,
    here: str | None = None,
    compact: bool = False,
    name: str = "Feature pyramid network",
) -> Figure:
    """The feature pyramid network of a Mask R-CNN: bottom-up maps, lateral connections, the top-down path.

    Args:
        model: a :class:`~seglib.models.mask_rcnn.MaskRCNN` on any encoder. Its proposals are the answer.
        image: image of the forward pass, ``(3, H, W)`` in [0, 1].
        categories: the class table.
        target: true objects; with them proposals are scored.
        here: block or group that is marked: ``"bottom_up"``, ``"top_down"``, ``"pyramid"``, ``"c3"``, ``"p3"``, ….
        compact: whether to draw the strip.
        name: name of the network, for the heading.

    Raises:
        ValueError: for another model, or an unknown ``here``.
    """
    net = _check(model, "fpn")
    found, levels = stages(net.encoder), list(net.levels)
    strides = {level: float(net.encoder.grids[level].stride) for level in found}
    extra = len(net.anchors.strides) - len(levels)
    above = [float(s) for s in net.anchors.strides[len(levels) :]][::-1]  # coarsest first
    order = list(found)[::-1]
    y_all = rows([*above, *(strides[level] for level in order), 1], 32, 24)
    y = dict(zip(order, y_all[extra:], strict=False))
    bottom = y_all[-1]
    blocks = encoder_blocks(
        net, {level: (116.0, y[level]) for level in order} | {"image": (116.0, bottom)}, side="left"
    )
    edges = chain(["image", *found])
    switches = [TOP_DOWN]
    merged, pyramid = [], []
    for i, level in enumerate(levels):
        digit, last = level[1:], i == len(levels) - 1
        m, p = f"m{digit}", f"p{digit}"
        sum_line = "top = self.lateral[-1](maps[-1])" if last else "top = lateral + F.interpolate(top"
        says = (f"A 1×1 convolution of {level}: the top of the path." if last else
                f"{level} through a 1×1 convolution, plus the level above, upsampled by repeating cells.")  # fmt: skip
        blocks.append(Block(m, m, (222, y[level]), f"fpn.output.{i}", sum_line, says, argument(), home=net.fpn, side="",
                            weights=(f"fpn.lateral.{i}",), stride=strides[level]))  # fmt: skip
        blocks.append(Block(p, p, (306, y[level]), f"fpn.output.{i}", output_line(last),
                            f"A 3×3 convolution smooths {m}.", home=net.fpn, side="right",
                            stride=strides[level]))  # fmt: skip
        cut = "" if last or i > 2 else f"lateral_{level}"
        edges += [Edge(level, m, "1×1", switch=cut), Edge(m, p, "3×3" if strides[level] >= 8 else "")]
        if cut:
            switches.append(Switch(cut, f"lateral {level}", (Cut(f"fpn.lateral.{i}"),)))
        if not last:
            edges.append(Edge(f"m{levels[i + 1][1:]}", m, "×2, +", switch="topdown"))
        merged.append(m)
        pyramid.append(p)
    for j in range(extra):
        p = f"p{int(levels[-1][1:]) + 1 + j}"
        blocks.append(Block(p, p, (306, y_all[extra - 1 - j]), "fpn.top_block", "pyramid.extend(self.top_block(", 
                            "A further, coarser level for large objects.", entry(j), home=net.fpn, side="right",
                            stride=net.anchors.strides[len(levels) + j]))  # fmt: skip
        edges.append(Edge(pyramid[-1], p))
        pyramid.append(p)
    blocks.append(Block("proposals", "proposals", (306, bottom), "", "proposals, proposal_scores = propose(",
                        "The boxes that a region proposal network finds on these levels.",
                        lambda call: call.output.proposals, weights=(), shows="prediction", side="below"))  # fmt: skip
    edges.append(Edge(f"p{levels[0][1:]}", "proposals", "RPN"))
    groups = [
        Group("image", "image", ("image",), IMAGE_SAYS),
        Group("bottom_up", "bottom-up: encoder", tuple(found), "Maps of falling resolution; only deep ones know what."),
        Group(
            "top_down", "lateral + top-down", tuple(merged[::-1]), "Deep maps are upsampled and added to finer ones."
        ),
        Group("pyramid", "pyramid", tuple(pyramid[::-1]), "Levels of equal depth: all know what, each at its scale."),
        Group("proposals", "proposals", ("proposals",), "What a region proposal network finds on the levels."),
    ]
    return draw(
        net, image, blocks, edges, switches, categories, here=here, compact=compact, name=name, groups=groups,
        notes=[Note("bottom-up", (116, 10)), Note("top-down", (222, 10)), Note("pyramid", (310, 10))],
        size=(420, bottom + side_of(1) / 2 + 30), target=target, outcome=Proposals(),
        start=None if here else f"m{levels[1][1:]}",
    )  # fmt: skip


def _objectness(value: Tensor, scene: Scene) -> np.ndarray:
    """Probabilities of the best anchor of each cell, on a fixed scale from 0 to 1: ``(1, A, H, W)`` logits."""
    return painters.on_scale(value[0].amax(0).sigmoid())


def _anchors(value: tuple[Tensor, ...], scene: Scene) -> np.ndarray:
    """The anchors of each level's most object-like cell, a colour for each level."""
    _, *levels = value
    pixels = painters.dim(scene)
    scale = pixels.shape[0] / scene.image.shape[1]
    for i, boxes in reversed(list(enumerate(levels))):
        for box in boxes.tolist():
            painters.frame(pixels, box, LEVEL_COLORS[i % len(LEVEL_COLORS)], scale)
    return pixels


def _best_anchors(net: MaskRCNN) -> Any:
    """What takes all anchors, and those of the best cell of each level, from the model's call."""

    def take(call: Call) -> tuple[Tensor, ...]:
        out, per_cell = call.output, net.anchors.per_cell
        height, width = out.sizes[0].tolist()
        n = net.size_divisibility
        padded = (-(-height // n) * n, -(-width // n) * n)
        counts = [-(-padded[0] // s) * -(-padded[1] // s) * per_cell for s in net.anchors.strides]
        chosen = []
        for logits, anchors in zip(out.objectness[0].split(counts), out.anchors.split(counts), strict=True):
            cell = int(logits.view(-1, per_cell).amax(1).argmax())
            chosen.append(anchors[cell * per_cell : (cell + 1) * per_cell])
        return (out.anchors, *chosen)

    return take


def rpn(
    model: Model,
    image: Tensor,
    categories: Sequence[Category],
    *,
    target: Instances | None = None,
    here: str | None = None,
    compact: bool = False,
    name: str = "Region proposal network",
) -> Figure:
    """The region proposal network of a Mask R-CNN: one head over all levels, anchors, and the proposals.

    Args:
        model: a :class:`~seglib.models.mask_rcnn.MaskRCNN` on any encoder.
        image: image of the forward pass, ``(3, H, W)`` in [0, 1].
        categories: the class table.
        target: true objects; with them proposals are scored.
        here: block or group that is marked: ``"pyramid"``, ``"head"``, ``"objectness"``, ``"anchors"``, ….
        compact: whether to draw the strip.
        name: name of the network, for the heading.

    Raises:
        ValueError: for another model, or an unknown ``here``.
    """
    net = _check(model, "rpn")
    strides = [float(s) for s in net.anchors.strides]
    first = int(net.levels[0][1:])
    digits = [first + i for i in range(len(strides))]
    y = dict(zip(digits[::-1], rows(strides[::-1], 34, 27), strict=True))
    home, per_cell = net.rpn_head, net.anchors.per_cell
    blocks, edges, switches = [], [], [Switch("deltas", "box deltas", (Cut("rpn_head.deltas"),))]
    head = []
    for i, (digit, stride) in enumerate(zip(digits, strides, strict=True)):
        p, conv, score, delta = f"p{digit}", f"conv_{digit}", f"objectness_{digit}", f"deltas_{digit}"
        inside = i < len(net.levels)
        at, shared = y[digit], "the same weights on every level"
        blocks += [
            Block(p, p, (110, at), f"fpn.output.{i}" if inside else "fpn.top_block",
                  "pyramid.insert(0, self.output[i](top))" if inside else "pyramid.extend(self.top_block(",
                  "A level of the feature pyramid.", None if inside else entry(i - len(net.levels)), home=net.fpn,
                  side="left", stride=stride),
            Block(conv, f"3×3 on {p}", (196, at), "rpn_head.conv", "x = self.conv(level)",
                  f"A 3×3 convolution over the level: {shared}.", call=i, home=home, side="", stride=stride),
            Block(score, f"objectness on {p}", (270, at), "rpn_head.objectness", "logits.append(self.objectness(x)",
                  f"For each of the {per_cell} anchors of a cell: is there an object? {shared.capitalize()}.", call=i,
                  home=home, shows=_objectness, what="Best anchor, from 0 to 1", side="", stride=stride),
            Block(delta, f"deltas on {p}", (344, at), "rpn_head.deltas", "deltas.append(self.deltas(x)",
                  f"Four numbers for each of the {per_cell} anchors: how its box must move to fit. "
                  f"{shared.capitalize()}.", call=i, home=home, side="", stride=stride),
        ]  # fmt: skip
        above = at - side_of(stride) / 2 - 14
        cut = f"level_{digit}" if i < 3 else ""
        edges += [
            Edge(p, conv, switch=cut),
            Edge(conv, score, "1×1" if side_of(stride) < 34 else ""),
            Edge(conv, delta, via=((196, above), (344, above)), switch="deltas"),
        ]
        if cut:
            switches.append(Switch(cut, f"level {p}", (Cut(f"fpn.output.{i}"),)))
        head += [conv, score, delta]
    bottom = y[first] + side_of(strides[0]) / 2 + 36 + 29
    blocks += [
        Block("anchors", "anchors", (110, bottom), "", "anchors = self.anchors(",
              f"{per_cell} boxes at every cell of every level; drawn for each level's most object-like cell.",
              _best_anchors(net), weights=(), shows=_anchors, what="A colour for each level", side="left", size=58),
        Block("proposals", "proposals", (307, bottom), "", "kept = batched_nms(",
              "The best anchors of each level, moved by their deltas, without near-duplicates (NMS).",
              lambda call: call.output.proposals, home=propose, weights=(), shows="prediction", side="below"),
    ]  # fmt: skip
    edges += [
        Edge("anchors", "proposals", "move, cut, NMS", place=0.45),
        Edge(f"objectness_{first}", "proposals", leaves="bottom", enters="top"),
        Edge(f"deltas_{first}", "proposals", leaves="bottom", enters="top", switch="deltas"),
    ]
    names = [f"p{d}" for d in digits]
    groups = [
        Group("pyramid", "pyramid", tuple(names[::-1]), "The levels of the feature pyramid."),
        Group("conv", "3×3 convolution", tuple(f"conv_{d}" for d in digits[::-1]), "One head for all levels."),
        Group("objectness", "objectness", tuple(f"objectness_{d}" for d in digits[::-1]), "An object, or not?"),
        Group("deltas", "box deltas", tuple(f"deltas_{d}" for d in digits[::-1]), "How each anchor must move."),
        Group("head", "shared head", tuple(head), "One head for all levels.", frame=True, step=False),
        Group("anchors", "anchors", ("anchors",), "Boxes of fixed sizes and shapes at every cell."),
        Group("proposals", "proposals", ("proposals",), "The best boxes, moved, without near-duplicates."),
    ]
    notes = [Note("3×3", (196, 10)), Note("objectness", (270, 10)), Note("deltas", (344, 10))]
    return draw(
        net, image, blocks, edges, switches, categories, here=here, compact=compact, name=name, groups=groups,
        notes=notes, size=(392, bottom + side_of(1) / 2 + 30), target=target, outcome=Proposals(),
    )  # fmt: skip


def _probabilities(value: Tensor, scene: Scene) -> np.ndarray:
    """A matrix: the first RoIs are rows, classes columns, background last."""
    return painters.on_scale(value[:12].softmax(1) if value.numel() else value.new_zeros(1, 1))


def _confident(out: MaskRCNNOutput) -> tuple[Tensor, ...]:
    kept = out.scores[0] >= 0.5
    return out.boxes[0][out.scores[0] > 0], out.boxes[0][kept], out.labels[0][kept]


def _best_level(call: Call) -> tuple[Tensor, Tensor]:
    """All objectness logits, and the probability of the best anchor of any level at every cell of the finest."""
    maps = []
    for level, score in zip(call.arguments[0], call.output[0], strict=True):
        maps.append(score[0].view(*level.shape[-2:], -1).amax(-1).sigmoid())  # (h, w)
    return torch.cat(list(call.output[0]), 1), painters.best_of(maps)


def mask_rcnn(
    model: Model,
    image: Tensor,
    categories: Sequence[Category],
    *,
    target: Instances | None = None,
    here: str | None = None,
    compact: bool = False,
    name: str = "Mask R-CNN",
) -> Figure:
    """Mask R-CNN, stage by stage: backbone, pyramid, proposals, RoIAlign, box head, mask head.

    Args:
        model: a :class:`~seglib.models.mask_rcnn.MaskRCNN` on any encoder.
        image: image of the forward pass, ``(3, H, W)`` in [0, 1].
        categories: the class table of things; stuff may follow.
        target: true objects; with them answers are scored.
        here: block or group that is marked: ``"backbone"``, ``"fpn"``, ``"rpn"``, ``"roialign"``, ``"box_head"``,
            ``"mask_head"``, ….
        compact: whether to draw the strip.
        name: name of the network, for the heading.

    Raises:
        ValueError: for another model, or an unknown ``here``.
    """
    net = _check(model, "mask_rcnn")
    fifth = FIRST + 364
    blocks, edges, places, pyramid = pyramid_rows(net)
    more, lines = stage_rows(net, pyramid, third=FIRST + 184, bus=10, output=lambda call: call.output)
    blocks += more
    blocks.append(
        Block("instances", "instances", (346, fifth), "", "grids = MaskGrids(probs, boxes[kept]",
              "Each mask stretched over its box and cut at ½.", lambda call: None, weights=(), shows="prediction",
              size=54)
    )  # fmt: skip
    edges += [*lines, Edge("masks", "instances")]
    switches = [
        TOP_DOWN,
        Switch("level", f"level {pyramid[0]}", (Cut("fpn.output.0"),)),
        Switch("rpn_deltas", "RPN's deltas", (Cut("rpn_head.deltas"),)),
        Switch("box_deltas", "box head's deltas", (Cut("box_head.deltas"),)),
    ]
    groups = [
        *first_groups(list(places)[1:], pyramid),
        *STAGES,
        Group("instances", "instances", ("instances",), "Masks pasted into the image."),
    ]
    return draw(
        net, image, blocks, edges, switches, categories, here=here, compact=compact, name=name, groups=groups,
        size=(396, fifth + 50), target=target,
    )  # fmt: skip


FIRST = 50.0
"""The middle of the first row, in units."""
STAGES = (
    Group("rpn", "RPN", ("objectness", "proposals"), "Boxes that may hold an object of any class."),
    Group("roialign", "RoIAlign", ("roi_box", "roi_mask"), "A patch of fixed size for each box."),
    Group("box_head", "box head", ("box_head", "classes", "detections"), "Class and better box of each proposal."),
    Group("mask_head", "mask head", ("mask_head", "masks"), "A small mask in each detected box."),
)
"""The steps of Mask R-CNN behind its pyramid."""


def pyramid_rows(net: MaskRCNN) -> tuple[list[Block], list[Edge], dict[str, float], list[str]]:
    """Encoder and pyramid: blocks, edges, the column of the image and of each map of the encoder, and the levels."""
    blocks, edges, places = encoder_row(net, FIRST)
    levels = list(net.levels)
    pyramid: list[str] = []
    for i, level in enumerate(levels):
        p = f"p{level[1:]}"
        blocks.append(
            Block(p, p, (places[level], FIRST + 90), f"fpn.output.{i}", output_line(i == len(levels) - 1),
                  f"{level} by a 1×1 convolution, plus the level above, upsampled; then a 3×3 convolution.",
                  home=net.fpn, weights=(f"fpn.lateral.{i}", f"fpn.output.{i}"),
                  stride=float(net.encoder.grids[level].stride), brief=True)
        )  # fmt: skip
        edges.append(Edge(level, p, switch="level" if i == 0 else ""))
        if i:
            edges.append(Edge(p, pyramid[-1], switch="topdown"))
        pyramid.append(p)
    return blocks, edges, places, pyramid


def stage_rows(
    net: MaskRCNN, pyramid: Sequence[str], *, third: float, bus: float, output: Callable[[Call], MaskRCNNOutput]
) -> tuple[list[Block], list[Edge]]:
    """RPN, box head and mask head, a row each: blocks and edges, up to the masks.

    Args:
        net: the model.
        pyramid: names of the pyramid's blocks.
        third: middle of the first of the three rows.
        bus: where the pyramid's line runs down.
        output: what takes Mask R-CNN's output from a call of the model.
    """
    second, fourth, fifth = FIRST + 90, third + 90, third + 180
    count = painters.COLUMNS * painters.ROWS
    first_few: dict[str, Any] = {"what": f"The first {count}", "parts": True, "brief": True, "size": 36}
    blocks = [
        Block("objectness", "RPN", (118, third), "rpn_head", "logits.append(self.objectness(x)",
              "The region proposal network scores every anchor of every level, and moves it.", _best_level,
              home=net.rpn_head, shows=painters.best_level, what="Best anchor of any level, from 0 to 1", side="above",
              brief=True, size=50),
        Block("proposals", "proposals", (262, third), "", "proposals, proposal_scores = propose(",
              "The best anchors, moved, without near-duplicates: boxes that may hold an object.",
              lambda call: _best_proposals(output(call)), weights=(), shows=_proposal_boxes,
              what="The best 30", side="right", size=54),
        Block("roi_box", "RoIAlign", (66, fourth), "box_head", "patches = self.pool(pyramid, rois[image, slot]",
              "For each proposal a patch of fixed size, from the level that suits the proposal's size.", argument(),
              weights=(), shows=painters.patches, **first_few),
        Block("box_head", "box head", (156, fourth), "box_head.fc", "x = self.fc(self.convs(patches).flatten(1))",
              "Fully connected layers over each patch.", home=net.box_head,
              weights=("box_head.convs", "box_head.fc"), shows=painters.matrix, what="Rows are RoIs, columns features",
              parts=True, brief=True, size=28),
        Block("classes", "class, box", (250, fourth), "box_head.logits", "return self.logits(x), self.deltas(x)",
              "For each RoI its class, or background, and for each class how the box must move.", home=net.box_head,
              weights=("box_head.logits", "box_head.deltas"), shows=_probabilities,
              what="Rows are RoIs, columns classes; background last", parts=True, brief=True, size=32),
        Block("detections", "detections", (346, fourth), "", "boxes, labels, scores = self._detect(",
              "Moved boxes with their classes, without near-duplicates within a class.",
              lambda call: _confident(output(call)), weights=(), shows=painters.boxes,
              what="Score of at least 0.5", side="above", parts=True, brief=True, size=54),
        Block("roi_mask", "RoIAlign", (66, fifth), "mask_head", "patches = self.pool(pyramid, boxes[image, slot]",
              "A second, finer patch: that of the detected box.", argument(), weights=(),
              shows=painters.patches, **first_few),
        Block("mask_head", "mask head", (160, fifth), "mask_head.convs", "x = self.convs(patches)",
              "3×3 convolutions over each patch.", home=net.mask_head, shows=painters.patches, **first_few),
        Block("masks", "masks", (250, fifth), "mask_head", "return masks.reshape(-1, 2 * size, 2 * size)",
              "Twice as fine: one mask for the class of the box.", home=net.mask_head,
              weights=("mask_head.upsample", "mask_head.predict"), shows=painters.masks, **first_few),
    ]  # fmt: skip
    finest = pyramid[0]
    edges = [
        Edge(finest, "objectness", via=((bus, second), (bus, third)), leaves="left", enters="left", switch="level"),
        Edge("objectness", "proposals", "NMS", switch="rpn_deltas"),
        Edge(finest, "roi_box", via=((bus, second), (bus, fourth)), leaves="left", enters="left"),
        Edge(finest, "roi_mask", via=((bus, second), (bus, fifth)), leaves="left", enters="left"),
        Edge("proposals", "roi_box", "boxes", via=((262, fourth - 40), (66, fourth - 40)), enters="top", piece=1),
        Edge("roi_box", "box_head"),
        Edge("box_head", "classes"),
        Edge("classes", "detections", switch="box_deltas"),
        Edge("detections", "roi_mask", "boxes", via=((346, fifth - 38), (66, fifth - 38)), enters="top", piece=1),
        Edge("roi_mask", "mask_head"),
        Edge("mask_head", "masks", "×2"),
    ]
    return blocks, edges


def _best_proposals(out: MaskRCNNOutput) -> tuple[Tensor, Tensor]:
    """All proposals, and the thirty best."""
    return out.proposals, out.proposals[0][out.proposal_scores[0] > -torch.inf][:30]


def _proposal_boxes(value: tuple[Tensor, ...], scene: Scene) -> np.ndarray:
    pixels = painters.dim(scene)
    for box in value[1].flip(0).tolist():
        painters.frame(pixels, box, paint.ORANGE, pixels.shape[0] / scene.image.shape[1])
    return pixels
