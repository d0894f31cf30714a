"""The drawing of SAM: an image that is embedded once, a click, and the masks that answer it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seglib.book.figures.architecture import paint, painters
from seglib.book.figures.architecture.drawing import draw
from seglib.book.figures.architecture.parts import (
    Block,
    Call,
    Cut,
    Edge,
    Group,
    Scene,
    Swap,
    Switch,
    argument,
    entry,
)
from seglib.book.figures.architecture.trunk import IMAGE_SAYS, chain, encoder_row
from seglib.book.figures.element import Figure
from seglib.layers.mask_decoder import MASKS
from seglib.layers.tiny import TinyEncoder
from seglib.layers.vit import ImageEncoderViT
from seglib.models.sam import Sam
from seglib.ops.attention import attention_weights
from seglib.ops.masks import mask_iou, masks_to_boxes
from seglib.postprocess.prompt import restore_logits
from seglib.types import Category, Instances, PromptOutput, Prompts, Size, Targets

ENCODER, START, PLUS, FIRST, GAP = 50.0, 140.0, 190.0, 244.0, 78.0
"""The middles of the upper rows, and from each row of the decoder to the next, in units."""
CLICK, TOKENS, CELLS = 46.0, 148.0, 282.0
"""The middles of the columns."""
MASK = (Category(0, "mask", True, paint.ORANGE),)


def sam(
    model: Sam,
    image: Tensor,
    *,
    point: tuple[float, float],
    target: Tensor | None = None,
    here: str | None = None,
    compact: bool = False,
    name: str = "SAM",
) -> Figure:
    """SAM: an encoder that sees the image once, and a decoder that answers a click with three masks.

    Args:
        model: a :class:`~seglib.models.sam.Sam` on any encoder.
        image: image of the forward pass, ``(3, H, W)`` in [0, 1], as the model sees it: ``model.geometry(image)``.
        point: click ``(x, y)`` in pixels of that image, where the centre of the first pixel is (0, 0).
        target: true mask of the object under the click, ``(H, W)`` bool; with it answers are scored.
        here: block or group that is marked: ``"encoder"``, ``"embedding"``, ``"prompts"``, ``"decoder"``, ``"heads"``,
            ``"prediction"``, ….
        compact: whether to draw the strip.
        name: name of the network, for the heading.

    Raises:
        ValueError: for another model, a click outside the image, a target of another size, or an unknown ``here``.
    """
    if not isinstance(model, Sam):
        raise ValueError(f"sam draws seglib.models.sam.Sam, got {type(model).__name__}")
    height, width = image.shape[-2:]
    if not (0 <= point[0] < width and 0 <= point[1] < height):
        raise ValueError(f"point {point} lies outside the {width} × {height} image; it is (x, y)")
    if target is not None and (target.shape != (height, width) or target.dtype != torch.bool):
        raise ValueError(f"target must be ({height}, {width}) bool, got {tuple(target.shape)} {target.dtype}")
    device = next(model.parameters()).device
    prompts = Prompts(
        points=torch.tensor([[point]], dtype=torch.float32, device=device),
        labels=torch.ones(1, 1, dtype=torch.int64, device=device),
    )
    asked, decoder = _Asked(model, prompts), model.mask_decoder
    blocks, edges, sources = _encoder(model)
    encoder = tuple(b.name for b in blocks[1:-1])
    count = len(decoder.blocks)
    tokens, cells = ([f"{what}{i + 1}" for i in range(count)] for what in ("tokens", "cells"))
    rows = [FIRST + i * GAP for i in range(count)]
    last, heads, answer = (rows[-1] + n * GAP + 4 * n * n for n in (1, 2, 3))
    blocks += [
        Block("plus", "mask prompt", (CELLS, PLUS), "prompt_encoder", "return self.mask_layers(masks[:, None]",
              "A mask to go on from becomes a map that is added to the embedding; without one, as here, the same"
              " learned vector is added to every cell.", entry(1), home=model.prompt_encoder,
              weights=("prompt_encoder.mask_layers", "prompt_encoder.no_mask"), sign="+"),
        Block("click", "click", (CLICK, START), "prompt_encoder", "tokens, dense = self.prompt_encoder(prompts)",
              "The prompt: one point, and the label “on the object”.", lambda call: call.arguments[0].points[0],
              weights=(), shows=_click, what="The point in the image", brief=True, size=44),
        Block("tokens", "tokens", (TOKENS, START), "mask_decoder.blocks.0", "places = torch.cat([own.expand(",
              f"One token for the IoU, {MASKS} for the masks, and those of the prompt: the click's position plus a"
              " learned “object”, and a padding token in the place of a box.", argument(1), home=decoder,
              weights=("mask_decoder.iou_token", "mask_decoder.mask_tokens", "prompt_encoder.meaning",
                       "prompt_encoder.padding"),
              shows=_rows, what="Rows are tokens, columns channels", side="above", size=22),
    ]  # fmt: skip
    for i, y in enumerate(rows):
        block = f"mask_decoder.blocks.{i}"
        own = ("self_attention", "self_norm", "token_attention", "token_norm", "linear1", "linear2", "mlp_norm")
        blocks += [
            Block(f"tokens{i + 1}", f"tokens {i + 1}", (TOKENS, y), block, "tokens = self.mlp_norm(tokens + ",
                  "Each token attends to the other tokens, then to the cells of the image; then an MLP.", entry(0),
                  home=decoder.blocks[i], weights=tuple(f"{block}.{part}" for part in own), shows=_rows,
                  what="Rows are tokens, columns channels", side="left", size=22),
            Block(f"cells{i + 1}", f"cells {i + 1}", (CELLS, y), block, "image = self.image_norm(image + ",
                  "Each cell of the image attends to the tokens: from here on the map knows the prompt.",
                  _cells(model.prompt_encoder.grid_size), home=decoder.blocks[i],
                  weights=(f"{block}.image_attention", f"{block}.image_norm"), side="right"),
        ]  # fmt: skip
    blocks += [
        Block("attention", "attention", (TOKENS, last), "mask_decoder.last_attention",
              "x = tokens + self.last_attention(tokens + places, image + cells, image)",
              "The tokens attend to the cells once more.", _attention(model), home=decoder,
              weights=("mask_decoder.last_attention", "mask_decoder.last_norm"), shows=_sheet,
              what="Of masks 0, 1 (above), 2 and 3, √ of the weights", parts=True, size=44, side="left"),
        Block("features", "features", (CELLS, last), "mask_decoder.upsample",
              "features = self.upsample(image.mT.unflatten(", "Two transposed convolutions: four times as many cells a"
              " side.", home=decoder, stride=model.image_size / model.mask_size, side="right"),
        Block("iou", "IoU", (CLICK, heads), "mask_decoder.iou_mlp", "return masks, self.iou_mlp(tokens[:, 0])",
              "An MLP on the first token: the predicted IoU of each mask.", home=decoder, shows=_ious,
              what="Of masks 0, 1 (above), 2 and 3, from 0 to 1", side="left", brief=True, size=26),
        Block("vectors", "vectors", (TOKENS, heads), "mask_decoder.last_norm",
              "weights = torch.stack([mlp(tokens[:, 1 + i])", "For each mask an MLP turns its token into a vector.",
              lambda call: torch.stack([mlp(call.output[0, 1 + i]) for i, mlp in enumerate(decoder.mask_mlps)]),
              home=decoder, weights=("mask_decoder.mask_mlps",), shows=painters.matrix, what="A row for each mask",
              brief=True, size=26),
        Block("masks", "masks", (CELLS, heads), "", "masks = (weights @ features.flatten(2))",
              "Each vector times the features of every cell. Mask 0 answers a prompt that leaves no doubt, masks 1 to 3"
              " one that may mean several things, such as a click.", lambda call: call.output.logits[0].sigmoid(),
              home=decoder, weights=(), shows=_sheet, what="Masks 0, 1 (above), 2 and 3, from 0 to 1", parts=True,
              size=60, side="right"),
        Block("prediction", "answer", (CELLS, answer), "", "best = self.iou.argmax(1, keepdim=True)",
              "Of masks 1 to 3 the one whose predicted IoU is highest.", lambda call: None, home=PromptOutput,
              weights=(), shows="prediction", size=62, side="right"),
    ]  # fmt: skip
    edges += [
        *(Edge(source, "embedding", leaves="bottom", enters="top") for source in sources),
        Edge("embedding", "plus"),
        Edge("click", "tokens", switch="click"),
        *chain(["tokens", *tokens, "attention", "vectors"]),
        *chain(["plus", *cells, "features", "masks"]),
        *(Edge(a, b, leaves="left", enters="right", switch="tokens")
          for a, b in zip(["plus", *cells], [*tokens, "attention"], strict=True)),
        *(Edge(a, b, switch="cells") for a, b in zip(tokens, cells, strict=True)),
        Edge("attention", "iou", via=((TOKENS, heads - 34), (CLICK, heads - 34)), leaves="bottom", enters="top"),
        Edge("vectors", "masks", "product"),
        Edge("masks", "prediction"),
        Edge("iou", "prediction", "the best of masks 1 to 3", via=((CLICK, answer),), leaves="bottom", enters="left",
             switch="three"),
    ]  # fmt: skip
    ask, answer_back = (
        tuple(Cut(f"mask_decoder.blocks.{i}.{attention}") for i in range(count))
        for attention in ("token_attention", "image_attention")
    )
    switches = [
        Switch("click", "the click", (Swap("prompts", lambda m: replace(m.prompts, labels=-m.prompts.labels)),)),
        Switch("tokens", "tokens attend to cells", (*ask, Cut("mask_decoder.last_attention"))),
        Switch("cells", "cells attend to tokens", answer_back),
        Switch("three", "three masks", (Swap("three", lambda _: False),)),
        Switch("half", "+ ½ of the click", (
            Swap("prompts", lambda m: replace(m.prompts, points=m.prompts.points - 0.5)),)),
    ]  # fmt: skip
    groups = [
        Group("image", "image", ("image",), IMAGE_SAYS),
        Group("encoder", "encoder", encoder, "The encoder sees the image once, without knowing the prompt."),
        Group("embedding", "embedding", ("embedding",), "What all prompts are answered from."),
        Group("prompts", "prompt encoder", ("click", "plus", "tokens"),
              "Points and boxes become tokens, a mask becomes a map."),
        Group("decoder", "mask decoder", (*tokens, *cells), "Tokens and cells attend to each other."),
        Group("heads", "masks and IoU", ("attention", "features", "iou", "vectors", "masks"),
              "Masks, and the predicted IoU of each."),
        Group("prediction", "answer", ("prediction",), "The mask that the model believes in most."),
    ]  # fmt: skip
    return draw(
        asked, image, blocks, edges, switches, MASK, here=here, compact=compact, name=name, groups=groups,
        size=(400, answer + 60), target=target, outcome=_Answer(), start=None if here else "prediction",
    )  # fmt: skip


class _Asked(Sam):
    """A Sam that is asked one prompt about its image; it shares everything with the model."""

    prompts: Prompts
    three: bool
    embedding: Tensor | None

    def __init__(self, model: Sam, prompts: Prompts) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(model.__dict__, prompts=prompts, three=True, embedding=None)

    def forward(self, images: Tensor, targets: Targets | None = None, sizes: Sequence[Size] | None = None) -> Any:
        """The four masks of the prompt. Branches that are turned off lie behind the embedding, so it is made once."""
        if self.embedding is None:
            self.embedding = self.encode(images)
        return self.decode(self.embedding, self.prompts)

    def postprocess(
        self, out: Any, sizes: Sequence[Size], output_sizes: Sequence[Size] | None = None
    ) -> list[Instances]:
        """The mask that answers."""
        best = (out.several if self.three else out.single).best
        [size] = sizes
        masks = restore_logits(best.logits, size, size, self.image_size)[:, 0] > 0
        return [Instances(masks, torch.zeros(1, dtype=torch.int64), masks_to_boxes(masks), best.iou[:, 0])]


def _encoder(model: Sam) -> tuple[list[Block], list[Edge], list[str]]:
    """The blocks from the image to the embedding, the arrows between them, and what the embedding is made of."""
    stride = model.image_size / model.prompt_encoder.grid_size
    says = f"All that prompts are answered from, with one cell for every {stride:g} pixels."
    if isinstance(model.encoder, TinyEncoder):
        blocks, edges, _ = encoder_row(model, ENCODER)
        channels = model.mask_decoder.iou_token.shape[1]
        says += f" The cells get its first {channels} channels; the others are finer maps, folded, for the features."
        sources, module, code = ["c1", "c2", "c3", "c4", "c5"], "neck", "image = self.last_norm(self.conv("
    elif isinstance(model.encoder, ImageEncoderViT):
        blocks = _vit_row(model.encoder, stride)
        edges = chain([b.name for b in blocks])
        sources, module, code = [blocks[-1].name], "encoder.neck", "return self.neck(self.blocks(x)"
    else:
        raise ValueError(
            f"sam draws a Sam on TinyEncoder or ImageEncoderViT, got one on {type(model.encoder).__name__}"
        )
    blocks.append(
        Block("embedding", "embedding", (CELLS, START), module, code,
              says, home=model.get_submodule(module.removesuffix(".neck")), stride=stride, side="right")
    )  # fmt: skip
    return blocks, edges, sources


def _vit_row(encoder: ImageEncoderViT, stride: float) -> list[Block]:
    """The image, its patches, and the map after each block that attends over all of it."""
    blocks = [
        Block("image", "image", (46, ENCODER), "", "x = self.normalize(images, sizes)", IMAGE_SAYS, argument(),
              weights=(), shows="image", side="above"),
        Block("patches", "patches", (118, ENCODER), "encoder.embed", "x = self.embed(images)",
              f"Each patch of {stride:g} × {stride:g} pixels becomes a token; a learned position is added.",
              home=encoder, weights=("encoder.embed", "encoder.position"), stride=stride, side="above"),
    ]  # fmt: skip
    layers: Any = encoder.blocks
    done, ends = 0, [i for i, layer in enumerate(layers) if layer.attention.window == len(encoder.position)]
    for place, end in enumerate(ends):
        blocks.append(
            Block(f"blocks{end + 1}", f"{done + 1}–{end + 1}", (176 + 52 * place, ENCODER), f"encoder.blocks.{end}",
                  "x = x + self.attention(self.norm1(x))",
                  f"Blocks {done + 1} to {end + 1}: attention within windows, in the last of them over the whole map.",
                  lambda call: call.output.permute(0, 3, 1, 2), home=encoder.blocks[end], stride=stride, side="above",
                  weights=tuple(f"encoder.blocks.{i}" for i in range(done, end + 1)), brief=True)
        )  # fmt: skip
        done = end + 1
    return blocks


def _cells(side: int) -> Any:
    """What takes the cells of the image from a two-way block, as a map."""
    return lambda call: call.output[1].mT.unflatten(2, (side, side))


def _attention(model: Sam) -> Any:
    """What takes the attention of the mask tokens, means over the heads: ``(4, h, w)`` up to 1, as square roots."""
    layer, side = model.mask_decoder.last_attention, model.prompt_encoder.grid_size

    def take(call: Call) -> Tensor:
        query, key, _ = call.arguments
        q, k = (x.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for x in (layer.query(query), layer.key(key)))
        weights = attention_weights(q, k)[0, :, 1 : 1 + MASKS].mean(0)  # (4, h·w)
        return (weights / weights.amax(1, keepdim=True)).sqrt().unflatten(1, (side, side))

    return take


# Painters


def _click(point: Tensor, scene: Scene) -> np.ndarray:
    """The click ``(1, 2)`` on the image."""
    pixels = painters.dim(scene)
    at = ((point[0] + 0.5) * (pixels.shape[0] / scene.image.shape[1])).tolist()
    for side, color in ((13, (255, 255, 255)), (9, (11, 122, 62))):
        painters.dot(pixels, at, color, side)
    return pixels


def _rows(tokens: Tensor, scene: Scene) -> np.ndarray:
    """Tokens ``(1, T, C)``, two rows of pixels each."""
    return painters.matrix(tokens[0], scene).repeat(2, 0)


def _ious(values: Tensor, scene: Scene) -> np.ndarray:
    """The four numbers ``(1, 4)`` in the order of :func:`_sheet`."""
    return painters.on_scale(values.view(2, -1)).repeat(8, 0).repeat(8, 1)


def _sheet(maps: Tensor, scene: Scene) -> np.ndarray:
    """Four maps ``(4, h, w)`` in [0, 1] in two rows."""
    return painters.on_scale(paint.sheet(maps, 2, 2), paint.IMAGE)


class _Answer:
    """The mask that answers; the target is the true one, ``(H, W)`` bool."""

    base = True

    def value(self, out: PromptOutput, prediction: Instances) -> tuple[Tensor, float]:
        """The mask ``(H, W)`` bool, and its predicted IoU."""
        assert prediction.scores is not None  # those of predictions
        return prediction.masks[0].cpu(), float(prediction.scores[0])

    def layer(self, value: tuple[Tensor, float] | Tensor, categories: Sequence[Category]) -> str:
        """The mask, transparent elsewhere; of a target the mask itself is given."""
        mask = value if isinstance(value, Tensor) else value[0]
        found = Instances(mask[None], torch.zeros(1, dtype=torch.int64), masks_to_boxes(mask[None]))
        return paint.instances(found, categories)

    def whole(self, value: tuple[Tensor, float], target: Tensor | None, categories: Sequence[Category]) -> str:
        """The predicted IoU, and where there is a target the true one."""
        said = f"Predicted IoU of the mask: {value[1]:.2f}."
        return said if target is None else f"{said} True IoU: {self._iou(value, target):.2f}."

    def change(
        self, value: tuple[Tensor, float], whole: tuple[Tensor, float], target: Tensor | None,
        categories: Sequence[Category],
    ) -> str:  # fmt: skip
        """The pixels that change, and both IoUs before and after."""
        share = 100 * float((value[0] != whole[0]).double().mean())
        said = f"{share:.1f}% of the pixels change. Predicted IoU: {whole[1]:.2f} → {value[1]:.2f}."
        if target is None:
            return said
        return f"{said} True IoU: {self._iou(whole, target):.2f} → {self._iou(value, target):.2f}."

    @staticmethod
    def _iou(value: tuple[Tensor, float], target: Tensor) -> float:
        return float(mask_iou(value[0][None], target[None]))
