"""The drawing of Mask2Former."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.book.figures.architecture import paint, painters
from seglib.book.figures.architecture.drawing import draw
from seglib.book.figures.architecture.parts import Block, Call, Cut, Edge, Group, Note, Scene, Swap, Switch, argument
from seglib.book.figures.architecture.trunk import IMAGE_SAYS, encoder_row
from seglib.book.figures.element import Figure
from seglib.models.mask2former import Mask2Former, Mask2FormerOutput
from seglib.ops.inference import evaluating
from seglib.types import Category, Instances, Panoptic
from seglib.viz.colors import colorize

ENCODER, MIXING, SCALES, LAYERS, HEADS, ANSWER = 50.0, 116.0, 178.0, 310.0, 422.0, 524.0
"""The middles of the rows, in units."""
BUSES = (228.0, 244.0, 260.0)
"""Where the lines from the scales to the layers run, coarsest scale first."""
FIRST, LAST, TILE = 88.0, 354.0, 40.0
"""The middles of the first and the last layer, and the largest side of a layer's map."""
MASK_BUS, LEFT, RIGHT = 371.0, 4.0, 386.0
"""Where lines run: to the layers' masks, down to the masks at the left, and to the heads at the right."""
STRIDES = (32, 16, 8)
FEW = painters.COLUMNS * painters.ROWS


def mask2former(
    model: Mask2Former,
    image: Tensor,
    categories: Sequence[Category],
    *,
    target: Panoptic | Instances | Tensor | None = None,
    here: str | None = None,
    compact: bool = False,
    name: str = "Mask2Former",
) -> Figure:
    """Mask2Former: queries look at the image through their own masks, layer by layer, and become masks with classes.

    Args:
        model: a :class:`~seglib.models.mask2former.Mask2Former` on any encoder.
        image: image of the forward pass, ``(3, H, W)`` in [0, 1].
        categories: the class table.
        target: true annotation of the model's task; with it answers are scored.
        here: block or group that is marked: ``"backbone"``, ``"pixel_decoder"``, ``"deformable"``, ``"decoder"``,
            ``"attention_mask"``, ``"heads"``, ``"prediction"``, ….
        compact: whether to draw the strip.
        name: name of the network, for the heading.

    Raises:
        ValueError: for another model, or an unknown ``here``.
    """
    if not isinstance(model, Mask2Former):
        raise ValueError(f"mask2former draws seglib.models.mask2former.Mask2Former, got {type(model).__name__}")
    decoder, mixer, view = model.decoder, model.pixel_decoder, _view(model, image)
    count, masked = len(decoder.layers), decoder.masked_attention
    scales = [f"p{stride}" for stride in STRIDES]
    blocks, edges, places = encoder_row(model, ENCODER)
    columns = {scale: places[level] for scale, level in zip(scales, ("c5", "c4", "c3"), strict=True)}
    middle, fine = places["c4"] - 2, places["c2"]
    mixing = (
        f"{len(mixer.layers)} layers of deformable attention: every cell of c3, c4 and c5 looks at a few points of all"
        " three maps. The points of one cell (white), those that count most brightest."
    )
    blocks += [
        Block("deformable", "deformable", (middle, MIXING), f"pixel_decoder.layers.{len(mixer.layers) - 1}.attention",
              "tokens = layer(tokens, positions, reference, shapes)", mixing, _points(mixer.layers[-1].attention),
              home=mixer, weights=("pixel_decoder.input_proj", "pixel_decoder.layers", "pixel_decoder.level_embedding"),
              shows=view.points, what="Points of one cell", sign=f"deformable ×{len(mixer.layers)}"),
        *(
            Block(scale, f"1/{stride}", (columns[scale], SCALES), "pixel_decoder", "scales = [x.mT.unflatten(2, shape)",
                  f"A map for the queries to attend to, with one cell for every {stride} pixels.", _scale(i),
                  home=mixer, weights=(), stride=float(stride), side="")
            for i, (scale, stride) in enumerate(zip(scales, STRIDES, strict=True))
        ),
        Block("plus", "sum", (fine, SCALES), "pixel_decoder.output",
              "return scales, self.mask_features(self.output(self.lateral(finest) + upsampled))",
              "c2 by a 1×1 convolution, plus the finest scale, upsampled: one level of a feature pyramid.", argument(),
              home=mixer, weights=("pixel_decoder.lateral",), stride=4.0, sign="+"),
        Block("features", "mask features", (fine - 81, SCALES), "pixel_decoder.mask_features",
              "return scales, self.mask_features(self.output(self.lateral(finest) + upsampled))",
              "Fine features that all masks are made of.", home=mixer,
              weights=("pixel_decoder.output", "pixel_decoder.mask_features"), stride=4.0, brief=True),
        Block("queries", "queries", (33, LAYERS), "decoder.layers.0",
              "x = self.query_features.expand(len(mask_features), -1, -1)",
              f"{len(decoder.query_features)} learned vectors, the same for every image; their positions, and an"
              " embedding for each scale, are learned too.", argument(), home=decoder,
              weights=("decoder.query_features", "decoder.query_positions", "decoder.level_embedding"),
              shows=_rows, what="Rows are queries, columns channels", brief=True, size=20),
    ]  # fmt: skip
    edges += [Edge(level, "deformable", leaves="bottom", enters="top") for level in ("c3", "c4", "c5")]
    edges += [Edge("deformable", scale, leaves="bottom", enters="top", switch="deformable") for scale in scales]
    edges += [
        Edge("c2", "plus"),
        Edge(scales[-1], "plus", "×2"),
        Edge("plus", "features"),
        Edge("features", "masks", via=((LEFT, SCALES), (LEFT, HEADS + 42), (162, HEADS + 42)), leaves="left",
             enters="bottom"),
    ]  # fmt: skip
    gap = (LAST - FIRST) / max(1, count - 1)
    side, layers = min(TILE, gap - 12), [f"layer{i}" for i in range(1, count + 1)]
    for i, layer in enumerate(layers):
        x, scale = FIRST + i * gap, scales[i % len(scales)]
        bus = BUSES[i % len(scales)]
        says = (
            f"Cross-attention to the map 1/{STRIDES[i % 3]}, self-attention among the queries, and two linear layers."
        )
        blocks.append(
            Block(layer, f"layer {i + 1}", (x, LAYERS), f"decoder.layers.{i}", "x = layer(x, self.query_positions,",
                  says, home=decoder, shows=view.answer, what="Class of every pixel, if the decoder ended here",
                  side="", size=side)
        )  # fmt: skip
        edges.append(Edge(layers[i - 1] if i else "queries", layer, switch="round" if i > 2 else ""))
        edges.append(Edge(scale, layer, f"1/{STRIDES[i % 3]}" if i < 3 else "", via=((columns[scale], bus), (x, bus)),
                          leaves="bottom", enters="top", piece=1, place=0.45))  # fmt: skip
        loop = tuple((x + part * side, LAYERS - side / 2 - 12) for part in (0.2, 0.42))
        edges.append(Edge(layer, layer, via=loop, leaves="top", enters="top", switch="self"))
        if masked:
            below = () if i == 0 else ((FIRST, MASK_BUS), (x, MASK_BUS))
            edges.append(Edge("attention_mask", layer, "may attend to" if i == 2 else "", via=below, leaves="top",
                              enters="bottom", switch="masked", piece=1 if i else None))  # fmt: skip
    if masked:
        blocks.append(
            Block("attention_mask", "attention mask", (FIRST, HEADS), f"decoder.layers.{count - 1}.cross_attention",
                  "mask = attention_mask(embeddings, resized[s])",
                  "Where each query may attend in the next layer: the cells whose mask is at least ½; all if none is.",
                  argument(3), home=decoder, weights=(), shows=view.allowed,
                  what=f"The last layer's, of the {FEW} most certain queries", brief=True, size=28)
        )  # fmt: skip
        edges.append(Edge("masks", "attention_mask"))
    answers = {"semantic": "semantic_from_queries(", "instance": "instances_from_queries("}
    blocks += [
        Block("masks", "masks", (186, HEADS), "", 'torch.einsum("bqc,bchw->bqhw", self.mask_embeddings[layer]',
              "Each embedding times the features of every cell: one mask for each query.",
              lambda call: call.output.mask_logits()[0].sigmoid(), home=Mask2FormerOutput, weights=(),
              shows=view.masks, what=f"The {FEW} most certain queries, from 0 to 1", parts=True, brief=True, size=42),
        Block("embeddings", "embeddings", (266, HEADS), "decoder.mask_head", "return self.class_head(x),",
              "Three linear layers make an embedding of each query.", home=decoder, shows=_rows,
              what="Rows are queries, columns channels", brief=True, call=count, size=24),
        Block("classes", "classes", (344, HEADS), "decoder.class_head", "return self.class_head(x),",
              "One linear layer: for each query its class, or “no object”, the last column.",
              home=decoder, weights=("decoder.norm", "decoder.class_head"), shows=view.classes,
              what="Rows are queries, the most certain first", brief=True, call=count, size=42),
        Block("prediction", model.task, (262, ANSWER), "", answers.get(model.task, "panoptic_from_queries("),
              "Each query's class and mask: no boxes, no anchors, no NMS.", lambda call: None, weights=(),
              shows="prediction", size=62),
    ]  # fmt: skip
    edges += [
        Edge(layers[-1], "classes", via=((RIGHT, LAYERS), (RIGHT, HEADS)), leaves="right", enters="right"),
        Edge(layers[-1], "embeddings", via=((RIGHT, LAYERS), (RIGHT, HEADS - 36), (266, HEADS - 36)), leaves="right",
             enters="top"),
        Edge("embeddings", "masks"),
        Edge("masks", "prediction", via=((208, ANSWER),), leaves="bottom", enters="left"),
        Edge("classes", "prediction", via=((344, ANSWER),), leaves="bottom", enters="right"),
    ]  # fmt: skip
    switches = [
        Switch("deformable", "deformable attention", tuple(
            Cut(f"pixel_decoder.layers.{i}.attention") for i in range(len(mixer.layers)))),
        Switch("self", "self-attention", tuple(Cut(f"decoder.layers.{i}.self_attention") for i in range(count))),
    ]  # fmt: skip
    if masked:
        switches.insert(0, Switch("masked", "attention masks", (Swap("masked_attention", lambda _: False, "decoder"),)))
    if count > 3:
        cuts = tuple(Cut(f"decoder.layers.{i}", change=_unchanged) for i in range(3, count))
        switches.append(Switch("round", f"layers 4 to {count}" if count > 4 else "layer 4", cuts))
    groups = [
        Group("image", "image", ("image",), IMAGE_SAYS),
        Group("backbone", "backbone", tuple(list(places)[1:]), "The encoder: maps of falling resolution."),
        Group("pixel_decoder", "pixel decoder", ("deformable", *scales, "plus", "features"),
              "Three maps to attend to, and fine features for masks."),
        *([Group("attention_mask", "attention mask", ("attention_mask",), "Where a query may attend.")] * masked),
        Group("decoder", "decoder", ("queries", *layers), "Queries attend to one map after another."),
        Group("heads", "heads", ("classes", "embeddings", "masks"), "A class and a mask for each query."),
        Group("prediction", model.task, ("prediction",), "The answer, without NMS."),
    ]  # fmt: skip
    notes = [Note(str(i + 1), (FIRST + i * gap + 11, LAYERS + side / 2 + 12)) for i in range(count)]
    return draw(
        model, image, blocks, edges, switches, categories, here=here, compact=compact, name=name, groups=groups,
        notes=notes, size=(396, ANSWER + 60), target=target, start=None if here else "prediction",
    )  # fmt: skip


@dataclass(frozen=True)
class _View:
    """How the values of blocks are painted, with the output of the whole network at hand."""

    model: Mask2Former
    out: Mask2FormerOutput

    @property
    def order(self) -> Tensor:
        """The queries, those most certain of a class first, ``(Q,)``."""
        return self.out.class_logits[-1, 0].softmax(-1)[:, :-1].amax(1).argsort(descending=True, stable=True).cpu()

    def answer(self, queries: Tensor, scene: Scene) -> np.ndarray:
        """Queries ``(1, Q, C)`` → the class of every cell of the mask features."""
        features = self.out.mask_features
        with torch.no_grad():
            logits, embeddings = self.model.decoder.predict(queries.to(features.device))
            masks = torch.einsum("qc,chw->qhw", embeddings[0], features[0]).sigmoid()
            scores = torch.einsum("qk,qhw->khw", logits[0].softmax(-1)[:, :-1], masks)
        height, width = (-(-n // 4) for n in scene.image.shape[1:])
        return colorize(scores.argmax(0)[:height, :width].cpu(), scene.categories)

    def allowed(self, mask: Tensor, scene: Scene) -> np.ndarray:
        """The attention mask of the last layer, bool ``(1, Q, h·w)``."""
        stride = STRIDES[(len(self.model.decoder.layers) - 1) % len(STRIDES)]
        height, width = (n // stride for n in self.out.canvas)
        return painters.probabilities(mask[0, self.order[:FEW]].view(-1, height, width).float(), scene)

    def masks(self, probs: Tensor, scene: Scene) -> np.ndarray:
        """Masks ``(Q, h, w)`` in [0, 1]."""
        return painters.probabilities(probs[self.order[:FEW]], scene)

    def classes(self, logits: Tensor, scene: Scene) -> np.ndarray:
        """Class logits ``(1, Q, K + 1)``, as probabilities."""
        return painters.on_scale(logits[0].softmax(-1)[self.order])

    def points(self, value: tuple[Tensor, ...], scene: Scene) -> np.ndarray:
        """The points that a cell looks at, over the image."""
        _, home, locations, weights = value
        pixels = painters.dim(scene)
        size = torch.tensor(self.out.canvas[::-1]) * (pixels.shape[0] / scene.image.shape[1])  # of the canvas, x and y
        shares = weights / weights.max()
        for place, share in sorted(zip(locations.tolist(), shares.tolist(), strict=True), key=lambda pair: pair[1]):
            color = paint.VIRIDIS[min(15, int(round(share, 4) * 16))]
            painters.dot(pixels, (torch.tensor(place) * size).tolist(), color)
        for side, color in ((7, (0, 0, 0)), (5, (255, 255, 255))):
            painters.dot(pixels, (home * size).tolist(), color, side)
        return pixels


def _view(model: Mask2Former, image: Tensor) -> _View:
    with evaluating(model):
        return _View(model, model(image[None].to(next(model.parameters()).device)))


def _scale(index: int) -> Any:
    """What takes a scale from a call of the pixel decoder."""
    return lambda call: call.output[0][index]


def _points(attention: Any) -> Any:
    """What takes the tokens, and of the middle cell of the finest map its place, and its points with their weights."""

    def take(call: Call) -> tuple[Tensor, ...]:
        query, reference, _, shapes = call.arguments
        locations, weights = attention.sampling_points(query, reference, shapes)
        height, width = shapes[-1]
        cell = len(reference) - height * width + height // 2 * width + width // 2
        return query, reference[cell], locations[0, cell].flatten(0, 2), weights[0, cell].flatten()

    return take


def _rows(value: Tensor, scene: Scene) -> np.ndarray:
    return painters.matrix(value[0], scene)


def _unchanged(module: Any, arguments: tuple[Any, ...], output: Any) -> Any:
    """A layer that leaves the queries as they are."""
    return arguments[0]
