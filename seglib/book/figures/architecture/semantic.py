"""The drawings of FCN, U-Net and DeepLab."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from seglib.book.figures.architecture.drawing import draw, side_of
from seglib.book.figures.architecture.parts import Block, Call, Cut, Edge, Group, Note, Switch, argument
from seglib.book.figures.architecture.trunk import IMAGE_SAYS, chain, encoder_blocks, rows, stages
from seglib.book.figures.element import Figure
from seglib.models.base import Model
from seglib.models.deeplab import DeepLabV3Plus
from seglib.models.fcn import FCN
from seglib.models.unet import UNet
from seglib.types import Category


def logits(call: Call) -> Tensor:
    """The logits of a semantic model."""
    return call.output.logits


def fcn(
    model: Model,
    image: Tensor,
    categories: Sequence[Category],
    *,
    target: Tensor | None = None,
    here: str | None = None,
    compact: bool = False,
    name: str = "FCN",
) -> Figure:
    """The FCN as a ladder: scores of several maps, added on the way up.

    Args:
        model: an :class:`~seglib.models.fcn.FCN` on any encoder.
        image: image of the forward pass, ``(3, H, W)`` in [0, 1].
        categories: the class table.
        target: true labels, ``(H, W)``; with them answers are scored.
        here: block or group that is marked: ``"encoder"``, ``"scores"``, ``"sums"``, ``"c3"``, ``"score_c3"``, ….
        compact: whether to draw the strip.
        name: name of the network, for the heading.

    Raises:
        ValueError: for another model, or an unknown ``here``.
    """
    if not isinstance(model, FCN):
        raise ValueError(f"fcn draws the skip form, seglib.models.fcn.FCN, got {type(model).__name__}")
    levels = list(stages(model.encoder))
    strides = [float(model.encoder.grids[level].stride) for level in levels]
    y = dict(zip(["image", *levels], rows([1, *strides], 32, 26), strict=True))
    blocks = encoder_blocks(model, {n: (114, v) for n, v in y.items()}, side="left")
    deepest, *finer = model.levels
    for level in model.levels:
        code = "score = self.score[deepest](maps[deepest])" if level == deepest else "self.score[level](maps[level])"
        blocks.append(
            Block(f"score_{level}", f"score {level}", (224, y[level]), f"score.{level}", code,
                  f"A 1×1 convolution scores every cell of {level} for every class.", shows="classes", side="",
                  stride=model.encoder.grids[level].stride)
        )  # fmt: skip
    following = [*finer, "image"]
    for i, level in enumerate(finer):
        blocks.append(
            Block(f"sum_{level}", f"sum at {level}", (316, y[level]), f"upsample.{following[i + 1]}",
                  "score = _add_aligned(", f"The scores from below, upsampled, plus the scores of {level}.",
                  argument(), weights=(f"upsample.{level}",), shows="classes", side="",
                  stride=model.encoder.grids[level].stride)
        )  # fmt: skip
    last = f"sum_{finer[-1]}" if finer else f"score_{deepest}"
    x = 316 if finer else 224
    factor = _factor(model.upsample["image"])
    blocks.append(
        Block("prediction", "prediction", (x, y["image"]), "", "return DenseOutput(score[",
              f"The last scores, upsampled {factor} times and cut to the image; each pixel takes its best class.",
              logits, weights=("upsample.image",), shows="prediction", side="above")
    )  # fmt: skip
    edges = chain(["image", *levels])
    edges += [Edge(level, f"score_{level}", "1×1", switch=f"score_{level}") for level in model.levels]
    edges += [Edge(f"score_{level}", f"sum_{level}", "+", switch=f"score_{level}") for level in finer]
    below = f"score_{deepest}"
    for level in finer:
        up = _factor(model.upsample[level])
        via = ((316.0, y[deepest]),) if below == f"score_{deepest}" else ()
        edges.append(Edge(below, f"sum_{level}", f"×{up}", via, switch=f"score_{deepest}" if via else ""))
        below = f"sum_{level}"
    edges.append(Edge(last, "prediction", f"×{factor}", switch="" if finer else f"score_{deepest}"))
    switches = [
        Switch(f"score_{level}", f"scores of {level}", (Cut(f"score.{level}"),)) for level in reversed(model.levels)
    ]
    groups = [
        Group("image", "image", ("image",), IMAGE_SAYS),
        Group("encoder", "encoder", tuple(levels), "Convolutions and strides: maps of falling resolution."),
        Group("scores", "1×1 scores", tuple(f"score_{level}" for level in model.levels), "Class scores of each map."),
    ]
    if finer:
        groups.append(
            Group(
                "sums", "sums", tuple(f"sum_{level}" for level in finer), "Coarse scores, upsampled, plus finer ones."
            )
        )
    groups.append(Group("prediction", "prediction", ("prediction",), "Upsampled to the image; the best class."))
    top = min(y[level] for level in model.levels) - side_of(float(model.encoder.grids[model.levels[-1]].stride)) / 2
    notes = [Note("scores", (224, top - 14))] + ([Note("sum", (360, y[finer[-1]] + 4))] if finer else [])
    height = max(y.values()) + 22
    return draw(
        model, image, blocks, edges, switches, categories, here=here, compact=compact, name=name, groups=groups,
        notes=notes, size=(376, height), target=target,
    )  # fmt: skip


def _factor(upsample: Any) -> int:
    return int(upsample.stride[0])


def unet(
    model: Model,
    image: Tensor,
    categories: Sequence[Category],
    *,
    target: Tensor | None = None,
    here: str | None = None,
    compact: bool = False,
    name: str = "U-Net",
) -> Figure:
    """The U-Net as a U: the encoder on the way down, the decoder on the way up, skips between them.

    Args:
        model: a :class:`~seglib.models.unet.UNet` on any encoder.
        image: image of the forward pass, ``(3, H, W)`` in [0, 1].
        categories: the class table.
        target: true labels, ``(H, W)``; with them answers are scored.
        here: block or group that is marked: ``"encoder"``, ``"bottleneck"``, ``"decoder"``, ``"c2"``, ``"d2"``, ….
        compact: whether to draw the strip.
        name: name of the network, for the heading.

    Raises:
        ValueError: for another model, or an unknown ``here``.
    """
    if not isinstance(model, UNet):
        raise ValueError(f"unet draws the form in use, seglib.models.unet.UNet, got {type(model).__name__}")
    levels = list(stages(model.encoder))  # c1 … c5
    depth = len(model.decoder)
    y = rows([1, 2, 4, 8, 16, 32], 32 if depth == 4 else 112, 26)  # a fifth step takes the row of the scores
    left, right = [114.0 + 7 * i for i in range(5)], [294.0 - 7 * i for i in range(5)]
    at: dict[str, tuple[float, float]] = {"image": (left[0], y[0])} | {
        levels[i]: (left[i + 1], y[i + 1]) for i in range(4)
    }
    at[levels[-1]] = ((left[4] + right[4]) / 2, y[5])
    blocks = encoder_blocks(model, at, side="left")
    blocks = [*blocks[:-1], _bottleneck(blocks[-1])]
    edges = chain(["image", *levels[:4]])
    edges.append(Edge("c4", "c5", via=((left[4], y[5]),)))
    below, switches = "c5", []
    for i, level in enumerate(model.levels):
        row = 4 - i
        d, stride = f"d{row}", 2**row
        what = f"d{row + 1}" if i else "c5"
        says = f"{what}, doubled, " + (f"beside {level}; two 3×3 convolutions make one map of both." if level else
                                       "then two 3×3 convolutions; no map of the encoder is as large.")  # fmt: skip
        blocks.append(Block(d, d, (right[row], y[row]), f"decoder.{i}", "return self.conv2(self.conv1(x))", says,
                            home=model.decoder[i], side="right", stride=stride))  # fmt: skip
        edges.append(Edge(below, d, "×2", via=((right[4], y[5]),) if i == 0 else ()))
        if level:
            edges.append(Edge(level, d, "concat", switch=level))
            switches.append(Switch(level, f"skip from {level}", (Cut(f"decoder.{i}", argument=1),)))
        below = d
    top = y[0] if depth == 4 else y[0] - 80
    finest = 2 ** (5 - depth)
    blocks += [
        Block("scores", "scores", (right[0], top), "score", "logits = self.score(x)",
              "A convolution scores every cell for every class.", shows="classes", side="right", stride=finest),
        Block("prediction", "prediction", ((left[0] + right[0]) / 2, top), "", "return DenseOutput(",
              ("The scores, upsampled by two; each" if depth == 4 else "Each") + " pixel takes its best class.", logits,
              weights=(), shows="prediction", side="above"),
    ]  # fmt: skip
    edges += [Edge(below, "scores"), Edge("scores", "prediction", "×2" if depth == 4 else "")]
    skips = [level for level in levels[:4]]
    groups = [
        Group("image", "image", ("image",), IMAGE_SAYS),
        Group("encoder", "encoder", tuple(skips), "The way down: what is there, at falling resolution."),
        Group("bottleneck", "bottleneck", ("c5",), "The deepest map: widest receptive field, lowest resolution."),
        Group("decoder", "decoder", tuple(f"d{4 - i}" for i in range(depth)),
              "The way up: doubled maps beside the encoder's."),
        Group("scores", "scores", ("scores",), "Class scores of every cell."),
        Group("prediction", "prediction", ("prediction",), "Each pixel's best class."),
    ]  # fmt: skip
    return draw(
        model, image, blocks, edges, switches, categories, here=here, compact=compact, name=name, groups=groups,
        size=(408, y[5] + 34), target=target,
    )  # fmt: skip


def _bottleneck(block: Block) -> Block:
    says = "The deepest map: each cell sees most of the image and stands for 32 × 32 pixels."
    return replace(block, side="below", says=says)


def deeplab(
    model: Model,
    image: Tensor,
    categories: Sequence[Category],
    *,
    target: Tensor | None = None,
    here: str | None = None,
    compact: bool = False,
    name: str = "DeepLab v3+",
) -> Figure:
    """DeepLab v3+: a dilated encoder, the parallel branches of ASPP, and a decoder that joins a shallow map.

    Args:
        model: a :class:`~seglib.models.deeplab.DeepLabV3Plus` on any encoder.
        image: image of the forward pass, ``(3, H, W)`` in [0, 1].
        categories: the class table.
        target: true labels, ``(H, W)``; with them answers are scored.
        here: block or group that is marked: ``"encoder"``, ``"aspp"``, ``"decoder"``, ``"pooling"``, ``"low"``, ….
        compact: whether to draw the strip.
        name: name of the network, for the heading.

    Raises:
        ValueError: for another model, or an unknown ``here``.
    """
    if not isinstance(model, DeepLabV3Plus):
        raise ValueError(f"deeplab draws seglib.models.deeplab.DeepLabV3Plus, got {type(model).__name__}")
    grids, low = model.encoder.grids, model.low_level
    levels = list(stages(model.encoder))
    strides = {level: float(grids[level].stride) for level in levels}
    y = dict(zip(["image", *levels], rows([1, *strides.values()], 32, 24), strict=True))
    blocks = encoder_blocks(model, {n: (114, v) for n, v in y.items()}, side="left")
    edges = chain(["image", *levels])

    layer: Any = model.aspp[0]
    deep, fine = strides["c5"], strides[low]
    first = y[low] + side_of(fine) / 2 + 42
    pitch = side_of(deep) + 13
    middle = first + pitch * (len(layer.convs) - 1) / 2
    column, bus, right = 214.0, 294.0, 336.0
    switches, branches = [], []
    for i, conv in enumerate(layer.convs):
        rate, path = _rate(conv), f"aspp.0.convs.{i}"
        key, label, says = {
            0: ("aspp_1x1", "1×1", "A 1×1 convolution: each cell for itself."),
            len(layer.convs) - 1: ("pooling", "image pooling", "The mean of each channel over the whole map, and a 1×1 "
                                   "convolution: one value for all cells."),
        }.get(i, (f"aspp_r{rate}", f"3×3, rate {rate}", f"A 3×3 convolution whose taps lie {rate} "
                  f"cell{'s' if rate > 1 else ''} apart, {rate * deep:g} pixels."))  # fmt: skip
        place = (column, first + pitch * i)
        line = "pooled = pooling(x)" if key == "pooling" else "local = torch.cat([conv(x) for conv in convs], 1)"
        blocks.append(Block(key, label, place, path, line, says, home=layer, side="", stride=deep))
        edges.append(Edge("c5", key, curved=True, leaves="right", enters="left", switch=key))
        straight = abs(place[1] - middle) < 1
        via = () if straight else ((bus, place[1]), (bus, middle))
        edges.append(Edge(key, "project", label.removeprefix("3×3, ").removeprefix("image "), via, switch=key, piece=0,
                          place=0.42 if straight else 0.5, leaves="right", enters="left"))  # fmt: skip
        switches.append(Switch(key, label, (Cut(path),)))
        branches.append(key)
    switches.append(Switch("low", f"low-level skip from {low}", (Cut("low"),)))
    between = ("aspp.0.project", *(f"aspp.{i}" for i in range(1, len(model.aspp))))
    top = y["image"]
    blocks += [
        Block("project", "project", (right, middle), "aspp", "return self.project[1:](",
              "All branches side by side, mixed by a 1×1 convolution.", home=layer, weights=between, stride=deep),
        Block("low", "low", (column, y[low]), "low", "low = self.low(maps[self.low_level])",
              f"A 1×1 convolution leaves few channels of {low}, lest they outweigh those of ASPP.", side="above",
              stride=fine),
        Block("concat", "concat", (right, y[low]), "decoder", "x = self.decoder(torch.cat([x, low], 1))",
              f"ASPP's map, upsampled {deep / fine:g} times, beside the shallow one.", argument(), weights=(),
              side="", sign="concat", stride=fine),
        Block("decoder", "decoder", (right, (top + y[low]) / 2 + 2), "decoder",
              "x = self.decoder(torch.cat([x, low], 1))", "3×3 convolutions make one map of both.", side="left",
              stride=fine),
        Block("scores", "scores", (right, top), "score", "self.score(x), grids[self.low_level]",
              "A 1×1 convolution scores every cell for every class.", shows="classes", side="above", stride=fine),
        Block("prediction", "prediction", (column + 14, top), "", "return DenseOutput(crop_to(logits",
              f"The scores, upsampled {fine:g} times; each pixel takes its best class.", logits, weights=(),
              shows="prediction", side="above"),
    ]  # fmt: skip
    edges += [
        Edge(low, "low", "1×1", switch="low"),
        Edge("low", "concat", switch="low"),
        Edge("project", "concat", f"×{deep / fine:g}"),
        Edge("concat", "decoder"),
        Edge("decoder", "scores", "1×1"),
        Edge("scores", "prediction", f"×{fine:g}"),
    ]
    groups = [
        Group("image", "image", ("image",), IMAGE_SAYS),
        Group("encoder", "dilated encoder", tuple(levels), f"Strides up to {deep:g}, then dilation."),
        Group("aspp", "ASPP", (*branches, "project"), "Several dilations and the mean of the map, side by side.",
              frame=True),
        Group("skip", "low-level skip", ("concat", "low"), f"Few channels of {low} join: they know where edges are."),
        Group("decoder", "decoder", ("decoder",), "3×3 convolutions make one map of both."),
        Group("prediction", "prediction", ("scores", "prediction"), "Scores, upsampled; each pixel's best class."),
    ]  # fmt: skip
    bottom = max(first + pitch * (len(layer.convs) - 1), max(y.values())) + side_of(deep) / 2
    return draw(
        model, image, blocks, edges, switches, categories, here=here, compact=compact, name=name, groups=groups,
        notes=[Note("concat", (bus + 24, first + pitch * (len(layer.convs) - 1) + 4))], size=(388, bottom + 24),
        target=target,
    )  # fmt: skip


def _rate(conv: Any) -> int:
    """The dilation of a branch: that of its 3×3 convolution, 1 where there is none."""
    return max((m.dilation[0] for m in conv.modules() if isinstance(m, nn.Conv2d)), default=1)
