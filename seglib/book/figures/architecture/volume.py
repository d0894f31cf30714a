"""The drawings of the 3D U-Net and of nnU-Net: of every map the middle slice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from seglib.book.figures.architecture import paint
from seglib.book.figures.architecture.drawing import draw
from seglib.book.figures.architecture.parts import Block, Cut, Edge, Group, Switch, argument
from seglib.book.figures.architecture.semantic import logits
from seglib.book.figures.architecture.trunk import chain, rows
from seglib.book.figures.element import Figure
from seglib.metrics.volumes import dice
from seglib.models.nnunet import NNUNet, ResidualBlock
from seglib.models.unet3d import UNet3D
from seglib.types import VOID, Category, Regions, Semantic


class VolumeLabels:
    """A label volume, painted as its middle slice and scored as a whole; the target is the true one, ``(D, H, W)``."""

    base = False

    def value(self, out: object, prediction: Semantic | Regions) -> Tensor:
        """``(D, H, W)`` labels."""
        return paint.class_map(prediction)

    def layer(self, value: Tensor, categories: Sequence[Category]) -> str:
        """The middle slice in class colours."""
        return paint.classes(paint.middle_slice(value), categories)

    def whole(self, value: Tensor, target: Tensor | None, categories: Sequence[Category]) -> str:
        """The Dice of each class but the background, where there is a target."""
        if target is None:
            return ""
        said = [f"{categories[k].name} {score:.2f}" for k, score in self._dice(value, target).items()]
        return f"Dice on this volume: {', '.join(said)}."

    def change(self, value: Tensor, whole: Tensor, target: Tensor | None, categories: Sequence[Category]) -> str:
        """The share of voxels that change, and where there is a target the Dice before and after."""
        said = f"{100 * float((value != whole).double().mean()):.1f}% of the voxels change their class."
        if target is None:
            return said
        before, after = self._dice(whole, target), self._dice(value, target)
        scores = [f"{categories[k].name} {before[k]:.2f} → {after[k]:.2f}" for k in before]
        return f"{said} Dice on this volume: {', '.join(scores)}."

    @staticmethod
    def _dice(value: Tensor, target: Tensor) -> dict[int, float]:
        """The Dice of each class that the target holds, without the background."""
        void = target == VOID
        present = [k for k in target[~void].unique().tolist() if k > 0]
        return {k: dice(value == k, target == k, void=void) for k in present}


def unet3d(
    model: UNet3D,
    volume: Tensor,
    categories: Sequence[Category],
    *,
    target: Tensor | None = None,
    here: str | None = None,
    compact: bool = False,
    name: str = "3D U-Net",
) -> Figure:
    """The 3D U-Net as a U: of every map the middle slice, and its whole shape beside it.

    Args:
        model: a :class:`~seglib.models.unet3d.UNet3D` of any number of levels.
        volume: volume of the forward pass, ``(C, D, H, W)`` in its dataset's units; ``model.intensity`` scales it.
        categories: the class table; class 0 is the background and is not scored.
        target: true labels, ``(D, H, W)``; with them answers are scored.
        here: block or group that is marked: ``"encoder"``, ``"bottleneck"``, ``"decoder"``, ``"aux"``, ``"e2"``,
            ``"d2"``, ….
        compact: whether to draw the strip.
        name: name of the network, for the heading.

    Raises:
        ValueError: for another model, an image in place of a volume, or an unknown ``here``.
    """
    if not isinstance(model, UNet3D):
        raise ValueError(f"unet3d draws the form in use, seglib.models.unet3d.UNet3D, got {type(model).__name__}")
    aux, scores = "aux = tuple(score(x) for score, x in zip(self.aux_scores", "crop_to(self.score(outputs[-1])"
    return _draw(
        model, model.intensity(volume), categories, target, name=name, here=here, compact=compact,
        lines=_Lines(aux, scores, scores),
    )  # fmt: skip


def nnunet(
    model: NNUNet,
    volume: Tensor,
    categories: Sequence[Category],
    *,
    spacing: Sequence[float] | None = None,
    target: Tensor | None = None,
    here: str | None = None,
    compact: bool = False,
    name: str = "nnU-Net",
) -> Figure:
    """The network of a plan as a U: of every map the middle slice, and its whole shape beside it.

    Where the model has a preparation, what is drawn lies on its grid, and so do the labels that answers are scored by.

    Args:
        model: a :class:`~seglib.models.nnunet.NNUNet` of volumes, plain or with a residual encoder.
        volume: volume of the forward pass, ``(C, D, H, W)`` in its dataset's units; ``model.preparation`` prepares it,
            or ``model.intensity`` scales it where there is none.
        categories: the class table; class 0 is the background and is not scored.
        spacing: millimetres from voxel to voxel ``(z, y, x)``; needed where the model has a preparation.
        target: true labels, ``(D, H, W)``; with them answers are scored.
        here: block or group that is marked: ``"encoder"``, ``"bottleneck"``, ``"decoder"``, ``"aux"``, ``"e2"``,
            ``"d2"``, ….
        compact: whether to draw the strip.
        name: name of the network, for the heading.

    Raises:
        ValueError: for another model or one of slices, an image in place of a volume, a missing spacing, or an unknown
            ``here``.
    """
    if not isinstance(model, NNUNet) or model.dims != 3:
        got = f"one with dims={model.dims}" if isinstance(model, NNUNet) else type(model).__name__
        raise ValueError(f"nnunet draws a seglib.models.nnunet.NNUNet with dims=3, got {got}")
    if model.preparation is None:
        values = model.intensity(volume)
    else:
        prepared = model.preparation(volume, spacing, target)
        values, target = prepared.image, prepared.labels
    scores = "scores = [score(x) for score, x in zip([self.score, *self.aux_scores]"
    return _draw(
        model, values, categories, target, name=name, here=here, compact=compact,
        lines=_Lines(scores, scores, "crop_to(scores[0], images.shape[2:])"),
    )  # fmt: skip


class _Lines(NamedTuple):
    """Pieces of the lines of code in which two networks of the same form differ."""

    aux: str
    score: str
    prediction: str


def _draw(
    model: UNet3D | NNUNet,
    values: Tensor,
    categories: Sequence[Category],
    target: Tensor | None,
    *,
    lines: _Lines,
    here: str | None,
    compact: bool,
    name: str,
) -> Figure:
    """The U of a network whose parts are named encoder, up and decoder; values are ``(C, D, H, W)`` on its grid."""
    levels = len(model.encoder)
    ups = [m for m in model.up if isinstance(m, nn.ConvTranspose3d)]  # from the deepest level to the finest
    steps = [(1, 1, 1), *(up.stride for up in ups[::-1])]
    strides = [tuple(map(math.prod, zip(*steps[: i + 1], strict=True))) for i in range(levels)]  # voxels a cell
    y = rows([1, *(s[-1] for s in strides)], 38, 27)
    left, right = ([x + way * 7 * i for i in range(levels)] for x, way in ((164.0, 1), (314.0, -1)))
    middle = (left[0] + right[0]) / 2
    blocks = [
        Block("image", "volume", (left[0], y[0]), "", "x = self.normalize(images, sizes)",
              "The input: one channel for each modality.", argument(), weights=(), shows="image", side="left"),
    ]  # fmt: skip
    for i in range(levels):
        last = i == levels - 1
        number, says = _stack(model.encoder[i])
        if i:
            first = "the first of which" if number > 1 else "which"
            says += f", {first} strides: a cell for every {_times(strides[i])} voxels."
        else:
            says += " at the resolution of the volume."
        at = (middle if last else left[i], y[i + 1])
        weights = ("stem", "encoder.0") if i == 0 and isinstance(model, NNUNet) else None
        blocks.append(Block(f"e{i + 1}", f"e{i + 1}", at, f"encoder.{i}", "x = level(x)", says, weights=weights,
                            side="below" if last else "left"))  # fmt: skip
    bottom = f"e{levels}"
    edges = chain(["image", *(f"e{i + 1}" for i in range(levels - 1))])
    edges.append(Edge(f"e{levels - 1}", bottom, via=((left[-1], y[-1]),), switch="deep"))
    switches, below = [], bottom
    aux: list[Block] = []
    for i in range(levels - 1):
        level = levels - 1 - i  # counted from 1
        d, skip = f"d{level}", f"e{level}"
        number, convs = _stack(model.decoder[i])
        blocks.append(Block(d, d, (right[level - 1], y[level]), f"decoder.{i}",
                            "x = merge(torch.cat([up(x), skip], 1))",
                            f"{below}, upsampled {_times(steps[level])} by a transposed convolution, beside {skip}; "
                            f"{convs.lower()} make{'s' * (number == 1)} one map of both.",
                            weights=(f"up.{i}", f"decoder.{i}"), side="right"))  # fmt: skip
        edges.append(Edge(below, d) if i else Edge(below, d, via=((right[-1], y[-1]),), switch="deep"))
        edges.append(Edge(skip, d, "concat", switch=skip))
        skipped = Cut(f"decoder.{i}", 0, slice(ups[i].out_channels, None))  # behind the channels from below
        switches.append(Switch(skip, f"skip of level {level}", (skipped,)))
        if 2 <= level <= len(model.aux_scores) + 1:
            corner = (right[level - 1] + 14, y[level] + 43)
            counts = "they count in the loss alone (deep supervision)"
            if model.aux_weights[level - 2] == 0:
                counts = "the lowest, which have weight 0 in the loss"
            aux.append(Block(f"aux{level}", "aux scores", (corner[0] + 32, corner[1]), f"aux_scores.{level - 2}",
                             lines.aux, f"Class scores of {d}: {counts}.", shows="classes",
                             side="right", brief=True, size=24))  # fmt: skip
            edges.append(Edge(d, f"aux{level}", via=(corner,), leaves="bottom"))
        below = d
    blocks += [
        *aux,
        Block("scores", "scores", (right[0], y[0]), "score", lines.score,
              "A 1×1×1 convolution scores every voxel for every class.", shows="classes", side="right"),
        Block("prediction", "prediction", (middle, y[0]), "", lines.prediction,
              "Each voxel takes its best class.", logits, weights=(), shows="prediction", side="above"),
    ]  # fmt: skip
    edges += [Edge("d1", "scores", "1×1×1"), Edge("scores", "prediction")]
    switches.append(Switch("deep", f"everything below level {levels - 1}", (Cut("up.0"),)))
    groups = [
        Group("image", "volume", ("image",), "Values of every voxel, scaled as the model wants them."),
        Group("encoder", "encoder", tuple(f"e{i + 1}" for i in range(levels - 1)),
              "The way down, at falling resolution."),
        Group("bottleneck", "bottleneck", (bottom,), "The deepest map: widest receptive field, lowest resolution."),
        Group("decoder", "decoder", tuple(f"d{i}" for i in range(levels - 1, 0, -1)),
              "The way up: upsampled maps beside the encoder's."),
    ]  # fmt: skip
    if aux:
        what = "Scores of coarser maps, for the loss alone."
        groups.append(Group("aux", "aux scores", tuple(b.name for b in aux), what))
    groups += [
        Group("scores", "scores", ("scores",), "Class scores of every voxel."),
        Group("prediction", "prediction", ("prediction",), "Each voxel's best class."),
    ]  # fmt: skip
    return draw(
        model, values, blocks, edges, switches, categories, here=here, compact=compact, name=name,
        groups=groups, size=(478, y[-1] + 42), target=target, outcome=VolumeLabels(), dims=3,
        lead="Of every map the middle slice. Choose a block: point at it, tap it, or use the arrow keys.",
    )  # fmt: skip


def _stack(level: nn.Module) -> tuple[int, str]:
    """The number of residual blocks of a level, or of convolutions if it has none, and both in words."""
    blocks = sum(isinstance(m, ResidualBlock) for m in level.modules())
    number = blocks or sum(isinstance(m, nn.Conv3d) for m in level.modules())
    words = {1: "One", 2: "Two", 3: "Three", 4: "Four", 5: "Five", 6: "Six"}
    return number, f"{words.get(number, number)} {'residual block' if blocks else 'convolution'}{'s' * (number > 1)}"


def _times(values: Sequence[int]) -> str:
    return "×".join(map(str, values))
