"""The moving figures about queries: the matching of queries and objects, and what masked attention lets a query see."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seglib.book.figures.element import Figure
from seglib.book.figures.images import pack_maps, png
from seglib.layers.attention import MultiHeadAttention
from seglib.layers.query_decoder import resize_features
from seglib.losses.hungarian import hungarian as assign
from seglib.models.mask2former import Mask2Former
from seglib.ops.attention import attention_weights
from seglib.ops.inference import evaluating
from seglib.types import Category

Costs = Sequence[Sequence[float]]
"""Costs of all pairs, a row for each query, a column for each object."""

MATCHINGS: Mapping[str, Costs] = {
    "Greedy loses": ((0.2, 0.3, 1.1), (0.3, 1.6, 0.9), (1.2, 0.8, 0.7), (1.4, 1.0, 1.3)),
    "Greedy is optimal": ((0.2, 1.2, 1.5), (1.3, 0.3, 1.1), (1.4, 1.0, 0.4), (1.1, 0.9, 1.2)),
    "A tie": ((0.4, 0.4, 1.2), (0.4, 0.4, 1.3), (1.1, 1.5, 0.3), (1.2, 1.4, 1.0)),
    "More objects than queries": ((0.2, 0.3, 1.2, 0.9), (0.8, 0.4, 1.1, 0.5), (1.0, 1.3, 0.6, 0.7)),
}
"""Costs to load, by name."""
SIDE, MOST = 5, 99
"""Most rows and columns of a matrix of costs, and the largest absolute number in it."""
PIXELS, QUERIES = 160, 12
"""Most pixels of an image along a side, and most queries to choose from."""


class _Maps(Figure):
    """A figure that paints small maps."""

    shared = ("maps",)


def hungarian(
    costs: Costs | None = None,
    *,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    presets: Mapping[str, Costs] = MATCHINGS,
) -> Figure:
    """A matrix of costs to edit, its optimal one-to-one matching, and what the greedy matching loses against it.

    Args:
        costs: matrix at the start, a row for each query and a column for each object, 1 to 5 of each; the first preset
            without one.
        rows: names of the rows of ``costs``; "query 1", "query 2", … by default, and for presets of another size.
        columns: names of the columns; "object A", "object B", … by default.
        presets: matrices to load, by name.

    Raises:
        ValueError: when a matrix is not rectangular, too large or not finite, or names don't fit it.
    """
    chosen = {**({} if costs is None else {"Start": costs}), **presets}
    if not chosen:
        raise ValueError("there is no matrix to show; pass costs or presets")
    tables = [(name, _table(name, values)) for name, values in chosen.items()]
    size = (len(tables[0][1]), len(tables[0][1][0]))
    for given, count, what in ((rows, size[0], "rows"), (columns, size[1], "columns")):
        if given is not None and len(given) != count:
            raise ValueError(f"costs have {count} {what} and there are {len(given)} names for them: {list(given)}")
    lines = "".join(_line(name, values) for name, values in tables)
    return Figure(
        "hungarian",
        {
            "presets": tables,
            "rows": None if rows is None else list(rows),
            "columns": None if columns is None else list(columns),
        },
        text="costs of queries and objects to edit, their optimal matching, and what the greedy one loses",
        fallback=(
            "<p>Costs of queries (rows) and objects (columns) to edit, with the optimal one-to-one matching and the "
            "greedy one, which takes the cheapest free pair first (needs JavaScript):</p><table><tr><th></th><th>costs"
            f"</th><th>greedy total</th><th>optimal total</th></tr>{lines}</table>"
        ),
    )


def _table(name: str, costs: Costs) -> list[list[float]]:
    """The matrix with numbers rounded to hundredths, as the figure's fields have them."""
    lengths = {len(row) for row in costs}
    if not 1 <= len(costs) <= SIDE or len(lengths) != 1 or not 1 <= min(lengths) <= SIDE:
        raise ValueError(
            f"costs {name!r} must be 1 to {SIDE} rows of 1 to {SIDE} numbers, got rows of {[len(r) for r in costs]}"
        )
    if not all(abs(v) <= MOST for row in costs for v in row):
        raise ValueError(f"costs {name!r} must be numbers from -{MOST} to {MOST}, got {[list(row) for row in costs]}")
    return [[round(float(v), 2) for v in row] for row in costs]


def _line(name: str, costs: list[list[float]]) -> str:
    """A row of the fallback's table: the costs, and both totals."""
    pairs = sorted((v, r, c) for r, row in enumerate(costs) for c, v in enumerate(row))
    taken: list[tuple[float, int, int]] = []
    for v, r, c in pairs:
        if all(r != i and c != j for _, i, j in taken):
            taken.append((v, r, c))
    queries, objects = assign(torch.tensor(costs))
    best = sum(costs[q][g] for q, g in zip(queries.tolist(), objects.tolist(), strict=True))
    shown = "<br>".join(" ".join(f"{v:g}" for v in row) for row in costs)
    totals = "".join(f"<td>{v:g}</td>" for v in (round(sum(v for v, _, _ in taken), 2), round(best, 2)))
    return f"<tr><td>{html.escape(name)}</td><td>{shown}</td>{totals}</tr>"


def masked_attention(
    model: Mask2Former,
    image: Tensor,
    categories: Sequence[Category],
    *,
    most: int = 8,
    start: int | None = None,
) -> Figure:
    """A query's way through the decoder: its mask, the cells that it may attend to, and its attention, layer by layer.

    The numbers come from two real forward passes with the same weights: with masked and with open attention. The figure
    begins with the model's own setting; a switch shows the other one. Attention weights are means over the heads. The
    page holds mask logits from -5 to 5 in 64 steps, and attention weights in 64 steps up to the largest one of a query
    and layer.

    Args:
        model: a Mask2Former. It comes back in the mode that it had.
        image: image of the forward passes, ``(3, H, W)`` in [0, 1]; H and W are multiples of the model's stride, at
            most 160.
        categories: the class table.
        most: how many queries can be chosen, those with the highest class probability, 1 to 12; one more is the query
            that is most certain of "no object".
        start: number of the query that is shown first, which is added to the choice; by default the thing with
            the largest mask.

    Raises:
        ValueError: for another model, an image of another size, or an unknown query.
    """
    if not isinstance(model, Mask2Former):
        raise ValueError(f"masked_attention shows seglib.models.mask2former.Mask2Former, got {type(model).__name__}")
    stride = model.encoder.size_divisibility
    if image.ndim != 3 or len(image) != 3 or max(image.shape[1:]) > PIXELS or any(n % stride for n in image.shape[1:]):
        raise ValueError(
            f"image must be (3, H, W) with H and W multiples of {stride}, at most {PIXELS}, got {tuple(image.shape)}"
        )
    if not 1 <= most <= QUERIES:
        raise ValueError(f"most must be 1 to {QUERIES}, got {most}")
    passes = [_trace(model, image, masked) for masked in (True, False)]
    own = passes[not model.decoder.masked_attention]
    count, final = own.probs.shape[1], own.probs[-1]  # (Q, K + 1)
    if start is not None and not 0 <= start < count:
        raise ValueError(f"start must be a query from 0 to {count - 1}, got {start}")
    best = final[:, :-1].amax(1)
    chosen = best.argsort(descending=True, stable=True)[:most].tolist()
    if start is None:
        area = (own.logits[-1] >= 0).flatten(1).sum(1)  # (Q,)
        things = [q for q in chosen if categories[int(final[q, :-1].argmax())].isthing]
        start = max(things, key=lambda q: int(area[q]), default=chosen[0])
    none = int(final[:, -1].argmax())
    chosen += [q for q in dict.fromkeys((start, none)) if q not in chosen]
    names = [*(c.name for c in categories), "no object"]
    height, width = image.shape[1:]
    return _Maps(
        "masked_attention",
        {
            "image": png(image),
            "size": (height, width),
            "cells": own.cells,
            "mask": tuple(own.logits.shape[2:]),
            "names": names,
            "queries": chosen,
            "start": chosen.index(start),
            "open": int(not model.decoder.masked_attention),
            "passes": [found.packed(chosen) for found in passes],
        },
        text=f"what a query may attend to, layer by layer, in {len(own.cells)} layers",
        fallback=(
            f'<p><img src="{html.escape(png(image))}" width="240" alt="The image"><br>The mask of a query, the cells '
            "that it may attend to and its attention, layer by layer (needs JavaScript). Queries to choose: "
            f"{html.escape(', '.join(f'{names[int(final[q].argmax())]} ({q})' for q in chosen))}.</p>"
        ),
    )


@dataclass(frozen=True)
class _Pass:
    """What a forward pass of one image did: class probabilities, mask logits, and the attention of every layer.

    Attributes:
        probs: class probabilities before the first layer and after each, ``(L + 1, Q, K + 1)``.
        logits: mask logits, ``(L + 1, Q, h, w)``.
        cells: rows and columns of the map that each layer attends to.
        inside: where the mask that enters a layer is at least ½, ``(Q, h·w)`` for each layer.
        weights: attention weights of each layer, means over the heads, ``(Q, h·w)``.
    """

    probs: Tensor
    logits: Tensor
    cells: list[tuple[int, int]]
    inside: list[Tensor]
    weights: list[Tensor]

    def packed(self, queries: Sequence[int]) -> dict[str, Any]:
        """The numbers of some queries, as text."""
        best, label = self.probs[:, queries].max(-1)  # (L + 1, N)
        maps, scales = pack_maps(self.logits[:, queries].flatten(0, 1).clamp(-5, 5), 64)
        return {
            "classes": label.tolist(),
            "probs": [[round(v, 3) for v in row] for row in best.tolist()],
            "maps": maps,
            "scales": scales,
            "inside": [["".join(map(str, row.int().tolist())) for row in layer[queries]] for layer in self.inside],
            "weights": [[_letters(row) for row in layer[queries]] for layer in self.weights],
            "peaks": [[float(f"{v:.4g}") for v in layer[queries].amax(1).tolist()] for layer in self.weights],
        }


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
"""Steps of an attention weight in the page, from 0 to the largest weight."""


def _letters(weights: Tensor) -> str:
    steps = (weights / weights.max() * (len(LETTERS) - 1)).round().int()
    return "".join(LETTERS[v] for v in steps.tolist())


def _trace(model: Mask2Former, image: Tensor, masked: bool) -> _Pass:
    decoder, scales, weights = model.decoder, [], []

    def enter(_: Any, arguments: tuple[Any, ...]) -> None:
        scales.extend(arguments[0])

    def attend(layer: MultiHeadAttention, arguments: tuple[Any, ...]) -> None:
        query, key, _, mask = arguments
        q, k = (x.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for x in (layer.query(query), layer.key(key)))
        found = attention_weights(q, k, mask=None if mask is None else mask[:, None])  # (1, heads, Q, h·w)
        weights.append(found[0].mean(0).cpu())

    device = next(model.parameters()).device
    with ExitStack() as stack, evaluating(model):
        stack.callback(setattr, decoder, "masked_attention", decoder.masked_attention)
        decoder.masked_attention = masked
        stack.callback(decoder.register_forward_pre_hook(enter).remove)
        for layer in decoder.layers:
            stack.callback(layer.get_submodule("cross_attention").register_forward_pre_hook(attend).remove)
        out = model(image[None].to(device))
    resized = [x[0].flatten(1) for x in resize_features(out.mask_features, scales)]  # (C, h·w)
    turns = [i % len(scales) for i in range(len(weights))]
    logits = torch.stack([out.mask_logits(i)[0] for i in range(len(weights) + 1)])  # (L + 1, Q, h, w)
    return _Pass(
        out.class_logits[:, 0].softmax(-1).cpu(),
        logits.cpu(),
        [(scales[s].shape[2], scales[s].shape[3]) for s in turns],
        [(out.mask_embeddings[i, 0] @ resized[s] >= 0).cpu() for i, s in enumerate(turns)],
        weights,
    )
