"""What the drawings of several models begin with: the encoder, and the feature pyramid on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from seglib.book.figures.architecture.drawing import side_of
from seglib.book.figures.architecture.parts import Block, Cut, Edge, Group, Switch, argument, entry
from seglib.layers.resnet import ResNetEncoder
from seglib.layers.tiny import TinyEncoder
from seglib.layers.vgg import VGG16Encoder

IMAGE_SAYS = "The input: red, green and blue of every pixel."


@dataclass(frozen=True)
class Stage:
    """How one map of an encoder is taken: module, line of code, and the modules whose weights make it."""

    module: str
    code: str
    weights: tuple[str, ...] | None
    key: str = ""


def stages(encoder: Any) -> dict[str, Stage]:
    """The maps of an encoder by name, finest first; of an unknown one all are taken from its output."""
    if isinstance(encoder, TinyEncoder):
        found = {"c1": Stage("encoder.stem", "x = self.stem(images)", ("encoder.stem",))}
        for i in range(len(encoder.blocks)):
            weights = (f"encoder.down.{i}", f"encoder.blocks.{i}")
            found[f"c{i + 2}"] = Stage(f"encoder.blocks.{i}", "x = blocks(down(x))", weights)
        return found
    if isinstance(encoder, ResNetEncoder):
        made: tuple[str, ...] = ("encoder.conv1", "encoder.bn1")
        found = {"c1": Stage("encoder.relu", "x = self.relu(self.bn1(self.conv1(images)))", made)}
        found = {level: stage for level, stage in found.items() if level in encoder.channels}
        made = () if found else made
        for i in range(1, 5):
            made += (f"encoder.layer{i}",)
            if f"c{i + 1}" in encoder.channels:  # it stands for what was made on the way to it, too
                found[f"c{i + 1}"] = Stage(f"encoder.layer{i}", "x = stage(x)", made)
                made = ()
        return found
    if isinstance(encoder, VGG16Encoder):
        last = ("encoder.to_pool5", "encoder.fc6", "encoder.fc7")
        return {
            "c3": Stage("encoder.to_pool3", "pool3 = self.to_pool3(images)", None),
            "c4": Stage("encoder.to_pool4", "pool4 = self.to_pool4(pool3)", None),
            "c5": Stage("encoder", "fc7 = self.dropout(F.relu(self.fc7(fc6)))", last, "c5"),
        }
    return {level: Stage("encoder", "", (), level) for level in encoder.channels}


def encoder_blocks(model: Any, at: dict[str, tuple[float, float]], **keywords: Any) -> list[Block]:
    """The image and the maps of the model's encoder."""
    blocks = [
        Block("image", "image", at["image"], "", "self.normalize(images, sizes", IMAGE_SAYS, argument(), weights=(),
              shows="image", **keywords)
    ]  # fmt: skip
    for level, stage in stages(model.encoder).items():
        stride = float(model.encoder.grids[level].stride)
        blocks.append(
            Block(level, level, at[level], stage.module, stage.code or "self.encoder(",
                  f"The encoder's map with one cell for every {stride:g} pixels.",
                  entry(stage.key) if stage.key else None, home=model.encoder if stage.code else model,
                  weights=stage.weights, stride=stride, **keywords)
        )  # fmt: skip
    return blocks


def rows(strides: Sequence[float], top: float, gap: float) -> list[float]:
    """The middles of maps of these strides, one below the other."""
    found, y = [], top
    for i, stride in enumerate(strides):
        side = side_of(stride)
        y += side / 2 + (gap if i else 0)
        found.append(y)
        y += side / 2
    return found


def chain(names: Sequence[str]) -> list[Edge]:
    """An arrow from each block to the next."""
    return [Edge(a, b) for a, b in pairwise(names)]


def encoder_row(model: Any, y: float) -> tuple[list[Block], list[Edge], dict[str, float]]:
    """The image and the maps of the encoder side by side: blocks, edges, and the middle of each, by name."""
    places, x = {"image": 46.0}, 46.0 + side_of(1) / 2
    for level in stages(model.encoder):
        side = side_of(float(model.encoder.grids[level].stride))
        places[level] = x + 25 + side / 2
        x = places[level] + side / 2
    blocks = encoder_blocks(model, {n: (v, y) for n, v in places.items()}, side="above")
    return blocks, chain(list(places)), places


def output_line(last: bool) -> str:
    """The line of the pyramid network that computes a level: the last, coarsest one of its maps, or another."""
    return "pyramid = [self.output[-1](top)]" if last else "pyramid.insert(0, self.output[i](top))"


def first_groups(found: Sequence[str], pyramid: Sequence[str]) -> list[Group]:
    """Image, encoder and pyramid."""
    return [
        Group("image", "image", ("image",), IMAGE_SAYS),
        Group("backbone", "backbone", tuple(found), "The encoder: maps of falling resolution."),
        Group("fpn", "FPN", tuple(pyramid), "A feature pyramid: all levels know what, each at its scale."),
    ]


def without_top_down(fpn: Any, arguments: tuple[Any, ...], output: Any) -> list[Tensor]:
    """The pyramid of lateral connections alone."""
    maps = arguments[0]
    levels = zip(fpn.lateral, fpn.output, maps, strict=True)
    pyramid = [output(lateral(m)) for lateral, output, m in levels]
    if fpn.relu:
        pyramid = [level.relu() for level in pyramid]
    if fpn.top_block is not None:
        pyramid.extend(fpn.top_block(maps, pyramid))
    return pyramid


TOP_DOWN = Switch("topdown", "top-down path", (Cut("fpn", change=without_top_down),))
