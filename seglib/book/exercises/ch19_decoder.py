"""Chapter 19, "SAM": the pieces of the mask decoder: a two-way block, and how masks are read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise
from seglib.book.exercises.verify import trains_all

_CUT = (
    "No gradient reaches the {}, or only a part of it, so what makes them would never learn the right thing. Use them "
    "as they are: no `detach`, no `data`."
)

# Piece 3: a two-way block --------------------------------------------------------------------------------------------

Both = tuple[Tensor, Tensor]


def _linear(draw: torch.Generator, *size: int) -> Callable[[Tensor], Tensor]:
    weight = torch.randn(*size, generator=draw)
    return lambda x: x @ weight


def _attention(draw: torch.Generator, channels: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    of_q, of_k, of_v = (_linear(draw, channels, channels) for _ in range(3))
    return lambda q, k, v: (of_q(q) @ of_k(k).mT / channels).softmax(-1) @ of_v(v)


def _norm(draw: torch.Generator, channels: int) -> Callable[[Tensor], Tensor]:
    weight, bias = torch.randn(2, channels, generator=draw)
    return lambda x: F.layer_norm(x, (channels,), weight, bias)


@functools.cache
def _layer(channels: int, seed: int) -> SimpleNamespace:
    """The layers that a two-way block has, as functions with random weights: they take no time to copy."""
    draw = torch.Generator().manual_seed(seed)
    hidden, out = _linear(draw, channels, 6), _linear(draw, 6, channels)
    return SimpleNamespace(
        self_attention=_attention(draw, channels),
        to_image=_attention(draw, channels),
        to_tokens=_attention(draw, channels),
        mlp=lambda x: out(hidden(x).relu()),
        norms=[_norm(draw, channels) for _ in range(4)],
    )


def two_way(layer: Any, tokens: Tensor, image: Tensor, token_codes: Tensor, image_codes: Tensor, first: bool) -> Both:
    """Tokens ``(N, T, C)`` and cells ``(N, M, C)`` attend to each other, with their position codes."""
    return _two_way(layer, tokens, image, token_codes, image_codes, first)


_Join = Callable[[Any, int, Tensor, Tensor], Tensor]


def _added(layer: Any, i: int, x: Tensor, more: Tensor) -> Tensor:
    return layer.norms[i](x + more)


def _without_norm(*skipped: int) -> _Join:
    return lambda layer, i, x, more: x + more if i in skipped else layer.norms[i](x + more)


def _not_added(*places: int) -> _Join:
    return lambda layer, i, x, more: layer.norms[i](more if i in places else x + more)


def _two_way(
    layer: Any,
    tokens: Tensor,
    image: Tensor,
    token_codes: Tensor,
    image_codes: Tensor,
    first: bool,
    *,
    again: Callable[[bool], bool] = lambda first: first,
    join: _Join = _added,
    codes: tuple[int, int, int, int] = (1, 1, 1, 1),  # in step 2 to tokens and cells, in step 4 to cells and tokens
    of_self: tuple[int, int, int] = (1, 1, 0),  # codes in queries, keys and values of step 1
    of_first: tuple[int, int, int] = (0, 0, 0),
    values: tuple[int, int] = (0, 0),  # codes in the values of steps 2 and 4
    kept_first: bool = False,
    replaced_later: bool = False,
    stay: bool = False,
    steps: Sequence[int] = (1, 2, 3, 4),
) -> Both:
    """``two_way`` with some steps exchanged."""
    if stay:
        tokens, image = tokens + token_codes, image + image_codes
    for step in steps:
        if step == 1:
            given = of_first if again(first) else of_self
            found = layer.self_attention(*(tokens + c * token_codes for c in given))
            replaced = not kept_first if again(first) else replaced_later
            tokens = layer.norms[0](found) if replaced else join(layer, 0, tokens, found)
        elif step == 2:
            q, k = tokens + codes[0] * token_codes, image + codes[1] * image_codes
            tokens = join(layer, 1, tokens, layer.to_image(q, k, image + values[0] * image_codes))
        elif step == 3:
            tokens = join(layer, 2, tokens, layer.mlp(tokens))
        else:
            q, k = image + codes[2] * image_codes, tokens + codes[3] * token_codes
            image = join(layer, 3, image, layer.to_tokens(q, k, tokens + values[1] * token_codes))
    return tokens, image


def _blocks(**changes: Any) -> Callable[..., Both]:
    return lambda *arguments: _two_way(*arguments, **changes)


def _normalised_first(
    layer: Any, tokens: Tensor, image: Tensor, token_codes: Tensor, image_codes: Tensor, first: bool
) -> Both:
    """Each norm before its layer."""
    n, x = layer.norms, layer.norms[0](tokens)
    if first:
        tokens = layer.self_attention(x, x, x)
    else:
        tokens = tokens + layer.self_attention(x + token_codes, x + token_codes, x)
    tokens = tokens + layer.to_image(n[1](tokens) + token_codes, image + image_codes, image)
    tokens = tokens + layer.mlp(n[2](tokens))
    y = n[3](image)
    return tokens, image + layer.to_tokens(y + image_codes, tokens + token_codes, tokens)


def _one_by_one(
    layer: Any, tokens: Tensor, image: Tensor, token_codes: Tensor, image_codes: Tensor, first: bool
) -> Both:
    """A prompt at a time."""
    out = []
    for n in range(len(tokens)):
        t, x, at = tokens[n : n + 1], image[n : n + 1], token_codes[n : n + 1]
        cells = image_codes[n if len(image_codes) > 1 else 0][None]
        if first:
            t = layer.norms[0](layer.self_attention(t, t, t))
        else:
            q = t + at
            t = layer.norms[0](t + layer.self_attention(q, q, t))
        t = layer.norms[1](layer.to_image(t + at, x + cells, x) + t)
        t = layer.norms[2](layer.mlp(t) + t)
        out.append((t, layer.norms[3](layer.to_tokens(x + cells, t + at, t) + x)))
    return torch.cat([t for t, _ in out]), torch.cat([x for _, x in out])


def _block_in_place(
    layer: Any, tokens: Tensor, image: Tensor, token_codes: Tensor, image_codes: Tensor, first: bool
) -> list[Tensor]:
    attend, to_image, to_tokens, (a, b, c, d) = layer.self_attention, layer.to_image, layer.to_tokens, layer.norms
    q = tokens if first else tokens + token_codes
    found = attend(q, q, tokens)
    if first:
        tokens.zero_()
    tokens += found
    tokens = a(tokens)
    tokens = tokens + to_image(tokens + token_codes, image + image_codes, image)
    tokens = b(tokens)
    tokens = tokens + layer.mlp(tokens)
    tokens = c(tokens)
    image += to_tokens(image + image_codes, tokens + token_codes, tokens)
    return [tokens, d(image)]


def _block_of_arrays(
    layer: Any, tokens: Tensor, image: Tensor, token_codes: Tensor, image_codes: Tensor, first: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Sums in NumPy."""

    def call(part: Callable[..., Tensor], *arrays: np.ndarray) -> np.ndarray:
        return np.asarray(part(*map(torch.from_numpy, arrays)))

    t, x, at, cells = (v.numpy() for v in (tokens, image, token_codes, image_codes))
    own = t + at * (not first)
    t = call(layer.norms[0], t * (not first) + call(layer.self_attention, own, own, t))
    t = call(layer.norms[1], t + call(layer.to_image, t + at, x + cells, x))
    t = call(layer.norms[2], t + call(layer.mlp, t))
    return t, call(layer.norms[3], x + call(layer.to_tokens, x + cells, t + at, t))


@functools.cache
def _blocks_to_run() -> Mapping[str, tuple[Any, Tensor, Tensor, Tensor, Tensor, bool]]:
    draw = torch.Generator().manual_seed(22)

    def case(n: int, t: int, m: int, first: bool, codes: int = 1) -> tuple[Any, Tensor, Tensor, Tensor, Tensor, bool]:
        shapes = (n, t), (n, m), (n, t), (codes, m)
        return _layer(4, n), *(torch.randn(*s, 4, generator=draw) for s in shapes), first  # type: ignore[return-value]

    return {
        "the first block": case(2, 3, 5, first=True),
        "a later block, codes of cells for each prompt": case(3, 2, 4, first=False, codes=3),
        "one prompt, as many tokens as cells": case(1, 4, 4, first=True),
    }


_PARTS = ("tokens", "cells of the image", "codes of the tokens")


def _trained_through(attempt: Callable[..., Any]) -> None:
    """``trains_all`` for the tensors, which follow the layer."""
    for first in (True, False):

        def tensors_first(function: Callable[..., Any], first: bool = first) -> Callable[..., Any]:
            return lambda tokens, image, token_codes, image_codes, layer: function(
                layer, tokens, image, token_codes, image_codes, first
            )

        def probes(first: bool = first) -> Mapping[str, tuple[Any, ...]]:
            layer, *tensors, _ = _blocks_to_run()[
                "the first block" if first else "a later block, codes of cells for each prompt"
            ]
            return {"": (*tensors, layer)}

        trains_all(tensors_first(two_way), probes, [_CUT.format(p) for p in _PARTS])(tensors_first(attempt))


TWO_WAY = Exercise(
    solution=two_way,
    wrong={
        "first_as_later": (
            _blocks(again=lambda first: False),
            "Your first block is one like the others. There the tokens attend to each other without codes, and what "
            "they find replaces them.",
        ),
        "later_as_first": (
            _blocks(again=lambda first: True),
            "All your blocks are first ones. In a later one queries and keys have codes, and what is found is added.",
        ),
        "first_reversed": (
            _blocks(again=lambda first: not first),
            "You swapped the first block and the later ones.",
        ),
        "first_added": (
            _blocks(kept_first=True),
            "In the first block you add what self-attention finds. There it replaces the tokens.",
        ),
        "first_with_codes": (
            _blocks(of_first=(1, 1, 0)),
            "In the first block your self-attention adds codes. There the tokens are used as they are.",
        ),
        "later_replaced": (
            _blocks(replaced_later=True),
            "In a later block what self-attention finds replaces your tokens. There it is added.",
        ),
        "later_without_codes": (
            _blocks(of_self=(0, 0, 0)),
            "In a later block your self-attention lacks the codes of the tokens, in queries and keys.",
        ),
        "codes_in_queries": (
            _blocks(of_self=(1, 0, 0)),
            "In your self-attention the keys lack the codes. Queries and keys have them.",
        ),
        "codes_in_keys": (
            _blocks(of_self=(0, 1, 0)),
            "In your self-attention the queries lack the codes. Queries and keys have them.",
        ),
        "codes_in_own_values": (
            _blocks(of_self=(1, 1, 1)),
            "In your self-attention the values have codes. Queries and keys alone have them.",
        ),
        "codes_in_cells_values": (
            _blocks(values=(1, 0)),
            "In step 2 your values have codes. The values are the cells as they are.",
        ),
        "codes_in_tokens_values": (
            _blocks(values=(0, 1)),
            "In step 4 your values have codes. The values are the tokens as they are.",
        ),
        "codes_in_all_values": (
            _blocks(values=(1, 1)),
            "In steps 2 and 4 your values have codes. Codes belong to queries and keys.",
        ),
        "codes_everywhere": (
            _blocks(of_self=(1, 1, 1), values=(1, 1)),
            "Your values have codes in all attentions. Codes belong to queries and keys.",
        ),
        "no_token_codes_2": (
            _blocks(codes=(0, 1, 1, 1)),
            "In step 2 the codes of the tokens are missing: they belong to the queries.",
        ),
        "no_image_codes_2": (
            _blocks(codes=(1, 0, 1, 1)),
            "In step 2 the codes of the cells are missing: they belong to the keys.",
        ),
        "no_image_codes_4": (
            _blocks(codes=(1, 1, 0, 1)),
            "In step 4 the codes of the cells are missing: they belong to the queries.",
        ),
        "no_token_codes_4": (
            _blocks(codes=(1, 1, 1, 0)),
            "In step 4 the codes of the tokens are missing: they belong to the keys.",
        ),
        "no_codes_2": (_blocks(codes=(0, 0, 1, 1)), "In step 2 you use no codes. Queries and keys have their own."),
        "no_codes_4": (_blocks(codes=(1, 1, 0, 0)), "In step 4 you use no codes. Queries and keys have their own."),
        "no_token_codes": (
            _blocks(codes=(0, 1, 1, 0)),
            "Between tokens and cells you leave out the codes of the tokens.",
        ),
        "no_image_codes": (
            _blocks(codes=(1, 0, 0, 1)),
            "You leave out the codes of the cells. They are part of the keys of step 2 and the queries of step 4.",
        ),
        "no_codes": (
            _blocks(codes=(0, 0, 0, 0), of_self=(0, 0, 0)),
            "You use no codes at all. Add them to all queries and keys, but for the self-attention of the first block.",
        ),
        "codes_stay": (
            _blocks(stay=True, codes=(0, 0, 0, 0), of_self=(0, 0, 0)),
            "You add the codes once, at the start, and they stay in tokens and cells. Add them to queries and keys "
            "each time.",
        ),
        "not_added_2": (_blocks(join=_not_added(1)), "In step 2 what is found replaces your tokens. Add it."),
        "not_added_3": (_blocks(join=_not_added(2)), "The MLP replaces your tokens. Add what it gives."),
        "not_added_4": (_blocks(join=_not_added(3)), "In step 4 what is found replaces your cells. Add it."),
        "never_added": (
            _blocks(join=_not_added(0, 1, 2, 3)),
            "Nothing is added in your block. Only the first self-attention replaces the tokens.",
        ),
        "no_norm_1": (_blocks(join=_without_norm(0)), "In a later block norms[0] is missing after the sum of step 1."),
        "no_norm_2": (_blocks(join=_without_norm(1)), "norms[1] is missing after step 2."),
        "no_norm_3": (_blocks(join=_without_norm(2)), "norms[2] is missing after the MLP."),
        "no_norm_4": (_blocks(join=_without_norm(3)), "norms[3] is missing after step 4."),
        "norm_inside": (
            _blocks(join=lambda layer, i, x, more: x + layer.norms[i](more)),
            "You normalise what is found, then add it. Add first, then normalise the sum.",
        ),
        "norm_of_old": (
            _blocks(join=lambda layer, i, x, more: layer.norms[i](x) + more),
            "You normalise the tokens and add what is found. Add first, then normalise the sum.",
        ),
        "norm_before": (
            _normalised_first,
            "You normalise before each layer. Here the norm comes after the sum.",
        ),
        "one_norm": (
            _blocks(join=lambda layer, i, x, more: layer.norms[0](x + more)),
            "You use norms[0] everywhere. Each step has its own norm.",
        ),
        "norms_reversed": (
            _blocks(join=lambda layer, i, x, more: layer.norms[(0, 2, 1, 3)[i]](x + more)),
            "You swapped norms[1] and norms[2]: the MLP has norms[2].",
        ),
        "image_first": (
            _blocks(steps=(1, 4, 2, 3)),
            "Your cells ask before the tokens do. Step 4 comes last: they ask tokens that know the image.",
        ),
        "mlp_last": (
            _blocks(steps=(1, 2, 4, 3)),
            "In step 4 your cells ask the tokens from before the MLP. They ask the newest ones, after it.",
        ),
        "mlp_first": (_blocks(steps=(1, 3, 2, 4)), "Your MLP comes before the tokens ask the image. It comes after."),
        "image_before_self": (
            _blocks(steps=(2, 1, 3, 4)),
            "Your tokens ask the image first. They ask each other first.",
        ),
        "no_self_attention": (_blocks(steps=(2, 3, 4)), "Step 1 is missing: the tokens attend to each other."),
        "no_step_2": (_blocks(steps=(1, 3, 4)), "Step 2 is missing: the tokens ask the image."),
        "no_mlp": (_blocks(steps=(1, 2, 4)), "Step 3, the MLP, is missing."),
        "image_unchanged": (
            _blocks(steps=(1, 2, 3)),
            "You return the image as it came. Step 4 is missing: the cells ask the tokens. That makes it two-way.",
        ),
        "image_first_out": (
            lambda *arguments: two_way(*arguments)[::-1],
            "The tokens come first, then the image.",
        ),
        "tokens_alone": (lambda *arguments: two_way(*arguments)[0], "Return two things: tokens and image."),
        "tokens_cut": (
            lambda layer, tokens, *rest: two_way(layer, tokens.detach(), *rest),
            _CUT.format(_PARTS[0]),
        ),
        "image_cut": (
            lambda layer, tokens, image, *rest: two_way(layer, tokens, image.detach(), *rest),
            _CUT.format(_PARTS[1]),
        ),
        "codes_cut": (
            lambda layer, tokens, image, codes, *rest: two_way(layer, tokens, image, codes.detach(), *rest),
            _CUT.format(_PARTS[2]),
        ),
    },
    right={
        "a prompt at a time": _one_by_one,
        "in place": _block_in_place,
        "sums in NumPy": _block_of_arrays,
    },
    probes=_blocks_to_run,
    verify=_trained_through,
    tolerance=1e-4,  # float32, through four norms
    hint="Queries and keys have codes, values never; each result is added and normalised, but for the first step 1.",
    sketch="""
        if first:
            tokens = norms[0](layer.self_attention(tokens, tokens, tokens))
        else:
            q = ...
            tokens = norms[0](tokens + layer.self_attention(q, q, ...))
        found = layer.to_image(tokens + token_codes, ..., image)
        tokens = norms[1](tokens + found)
        tokens = norms[2](...)
        found = layer.to_tokens(image + image_codes, ..., ...)
        return tokens, norms[3](...)
    """,
)


# Piece 4: masks from tokens ------------------------------------------------------------------------------------------

Mlps = Sequence[Callable[[Tensor], Tensor]]


def masks(tokens: Tensor, features: Tensor, mlps: Mlps, iou_mlp: Callable[[Tensor], Tensor]) -> Both:
    """Tokens ``(N, 5 + P, C)`` and features ``(N, c, h, w)`` → logits ``(N, 4, h, w)`` and IoUs ``(N, 4)``."""
    return _masks(tokens, features, mlps, iou_mlp)


def _dot(vectors: Tensor, features: Tensor) -> Tensor:
    return torch.einsum("nmc,nchw->nmhw", vectors, features)


def _masks(
    tokens: Tensor,
    features: Tensor,
    mlps: Mlps,
    iou_mlp: Callable[[Tensor], Tensor],
    *,
    read: Callable[[Tensor], Tensor] = lambda tokens: tokens[:, :5],
    mlp: Callable[[int], int] = lambda m: m,
    product: Callable[[Tensor, Tensor], Tensor] = _dot,
    finish: Callable[[Tensor], Tensor] = lambda z: z,
    rate: Callable[[Tensor], Tensor] = lambda iou: iou,
    of_iou: Callable[[Tensor], Tensor] = lambda own: own[:, 0],
    of_mask: Callable[[Tensor, int], Tensor] = lambda own, m: own[:, 1 + m],
) -> Both:
    """``masks`` with some steps exchanged."""
    own = read(tokens)
    vectors = torch.stack([mlps[mlp(m)](of_mask(own, m)) for m in range(4)], 1)  # (N, 4, c)
    return finish(product(vectors, features)), rate(iou_mlp(of_iou(own)))


def _reads(**changes: Any) -> Callable[..., Both]:
    return lambda *arguments: _masks(*arguments, **changes)


def _every_token(tokens: Tensor, features: Tensor, mlps: Mlps, iou_mlp: Callable[[Tensor], Tensor]) -> Both:
    vectors = torch.stack([mlps[max(m - 1, 0)](tokens[:, m]) for m in range(5)], 1)
    return _dot(vectors, features), iou_mlp(tokens[:, 0])


def _three_masks(tokens: Tensor, features: Tensor, mlps: Mlps, iou_mlp: Callable[[Tensor], Tensor]) -> Both:
    logits, iou = masks(tokens, features, mlps, iou_mlp)
    return logits[:, 1:], iou[:, 1:]


def _sorted_masks(tokens: Tensor, features: Tensor, mlps: Mlps, iou_mlp: Callable[[Tensor], Tensor]) -> Both:
    logits, iou = masks(tokens, features, mlps, iou_mlp)
    order = iou.argsort(1, descending=True)
    return logits.take_along_dim(order[:, :, None, None], 1), iou.take_along_dim(order, 1)


def _masks_by_loops(tokens: Tensor, features: Tensor, mlps: Mlps, iou_mlp: Any) -> tuple[list[Any], list[Any]]:
    all_logits, all_ious = [], []
    for own, cells in zip(tokens, features, strict=True):
        logits = []
        for token, mlp in zip(own[1:], mlps, strict=False):
            weights = mlp(token)
            logits.append(sum((w * plane for w, plane in zip(weights, cells, strict=True)), 0 * cells[0]))
        all_logits.append(torch.stack(logits))
        all_ious.append(iou_mlp(own[0]))
    return all_logits, all_ious


def _masks_numpy(tokens: Tensor, features: Tensor, mlps: Mlps, iou_mlp: Any) -> tuple[np.ndarray, np.ndarray]:
    vectors = np.stack([mlp(t).numpy() for mlp, t in zip(mlps, tokens[:, 1:5].unbind(1), strict=True)], axis=1)
    flat = features.numpy().reshape(*features.shape[:2], -1)  # (N, c, hw)
    return (vectors @ flat).reshape(len(flat), 4, *features.shape[2:]), iou_mlp(tokens[:, 0]).numpy()


def _masks_by_convolution(tokens: Tensor, features: Tensor, mlps: Mlps, iou_mlp: Any) -> Any:
    """Each vector is the filter of a 1 × 1 convolution, written into one buffer."""
    iou, logits = iou_mlp(tokens[:, :1])[:, 0], features.new_empty(len(tokens), 4, *features.shape[2:])
    for m, mlp in enumerate(mlps):
        filters = mlp(tokens[:, m + 1])[..., None, None]  # (N, c, 1, 1)
        logits[:, m] = F.conv2d(features.flatten(0, 1)[None], filters, groups=len(tokens))[0]
    return logits, iou


@functools.cache
def _decoded() -> Mapping[str, tuple[Tensor, Tensor, list[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]]:
    draw = torch.Generator().manual_seed(23)

    def mlp(channels: int, out: int) -> Callable[[Tensor], Tensor]:
        first, second = _linear(draw, channels, 5), _linear(draw, 5, out)
        return lambda x: second(first(x).tanh())

    def case(n: int, t: int, channels: int, c: int, size: tuple[int, int]) -> Any:
        tokens, features = (torch.randn(*s, generator=draw) for s in ((n, 5 + t, channels), (n, c, *size)))
        return tokens, features, [mlp(channels, c) for _ in range(4)], mlp(channels, 4)

    return {
        "two prompts of two tokens": case(2, 2, 8, 3, (4, 6)),
        "one prompt of five tokens": case(1, 5, 6, 2, (5, 3)),
        "three prompts without a token": case(3, 0, 4, 4, (2, 2)),
        "as many features as channels": case(2, 1, 4, 4, (3, 3)),
    }


_MASKS_CUT = [_CUT.format(name) for name in ("tokens", "features")]

MASKS = Exercise(
    solution=masks,
    wrong={
        "iou_last": (
            _reads(of_iou=lambda own: own[:, 4], of_mask=lambda own, m: own[:, m]),
            "You read the IoU from token 4. Token 0 is the IoU's, tokens 1 to 4 are the masks'.",
        ),
        "off_by_one": (
            _reads(of_mask=lambda own, m: own[:, m]),
            "Mask m comes from token 1 + m: token 0 belongs to the IoU.",
        ),
        "last_tokens": (
            _reads(read=lambda tokens: tokens[:, -5:]),
            "You read the last five tokens. Those of the prompt come last: read the first five.",
        ),
        "iou_from_mask": (
            _reads(of_iou=lambda own: own[:, 1]),
            "You read the IoU from token 1. It has a token of its own: token 0.",
        ),
        "iou_from_mean": (
            _reads(of_iou=lambda own: own[:, 1:].mean(1)),
            "You read the IoU from the mean of the mask tokens. It has a token of its own: token 0.",
        ),
        "one_mlp": (
            _reads(mlp=lambda m: 0),
            "You use the first MLP for all masks. Each mask has its own.",
        ),
        "mlps_reversed": (
            _reads(mlp=lambda m: 3 - m),
            "Your MLPs are in the reverse order: token 1 + m goes through mlps[m].",
        ),
        "mlps_off_by_one": (
            _reads(mlp=lambda m: (m + 1) % 4),
            "Token 1 + m goes through mlps[m], not through the next one.",
        ),
        "one_token": (
            _reads(of_mask=lambda own, m: own[:, 1]),
            "All your masks come from token 1. Mask m has token 1 + m.",
        ),
        "no_sharing": (
            _reads(product=lambda v, f: _dot(v, f[:1].expand_as(f))),
            "You use the features of the first prompt for all. Each prompt has its own.",
        ),
        "sigmoid": (_reads(finish=torch.sigmoid), "Those are probabilities. Return logits: no sigmoid."),
        "threshold": (_reads(finish=lambda z: (z > 0).float()), "Those are masks. Return logits."),
        "softmax": (
            _reads(finish=lambda z: z.softmax(1)),
            "Your four masks compete by a softmax. Each answers for itself: return logits.",
        ),
        "positive": (_reads(finish=torch.relu), "Your logits have no negative values. No ReLU on them."),
        "scaled": (
            _reads(product=lambda v, f: _dot(v, f) / f.shape[1] ** 0.5),
            "You divide by √c. A logit is the plain dot product.",
        ),
        "mean": (
            _reads(product=lambda v, f: _dot(v, f) / f.shape[1]),
            "You take the mean over the features. A logit is their sum, a dot product.",
        ),
        "cosine": (
            _reads(product=lambda v, f: _dot(F.normalize(v, dim=2), F.normalize(f, dim=1))),
            "You compare directions alone. A logit is the dot product of the vectors as they are.",
        ),
        "sigmoid_of_iou": (_reads(rate=torch.sigmoid), "Your IoUs have a sigmoid. SAM's have none."),
        "clamped_iou": (
            _reads(rate=lambda iou: iou.clamp(0, 1)),
            "You clamp the IoUs to [0, 1]. They are what the MLP says.",
        ),
        "softmax_of_iou": (
            _reads(rate=lambda iou: iou.softmax(1)),
            "Your IoUs compete by a softmax. Each mask has its own.",
        ),
        "best_iou": (
            _reads(rate=lambda iou: iou.amax(1)),
            "You return the best IoU alone. Return that of every mask, (N, 4).",
        ),
        "transposed": (
            _reads(finish=lambda z: z.transpose(0, 1)),
            "Your masks come first, then the prompts. Return (N, 4, h, w).",
        ),
        "w_before_h": (_reads(finish=lambda z: z.mT), "You swapped height and width. Return (N, 4, h, w)."),
        "flat": (_reads(finish=lambda z: z.flatten(2)), "Your logits are flat. Return (N, 4, h, w)."),
        "five_masks": (_every_token, "You make five masks. Token 0 belongs to the IoU."),
        "three_masks": (_three_masks, "You leave out mask 0. Return all four: who calls chooses."),
        "sorted": (_sorted_masks, "You sort masks by IoU. Keep their order."),
        "iou_first": (lambda *arguments: masks(*arguments)[::-1], "The logits come first, then the IoUs."),
        "logits_alone": (lambda *arguments: masks(*arguments)[0], "Return two things: logits and IoUs."),
        "vectors": (
            lambda tokens, features, mlps, iou_mlp: (
                torch.stack([mlp(tokens[:, 1 + m]) for m, mlp in enumerate(mlps)], 1),
                iou_mlp(tokens[:, 0]),
            ),
            "You return the vectors that the MLPs make. Multiply them with the features of every cell.",
        ),
        "tokens_cut": (lambda tokens, *rest: masks(tokens.detach(), *rest), _MASKS_CUT[0]),
        "features_cut": (lambda tokens, f, *rest: masks(tokens, f.detach(), *rest), _MASKS_CUT[1]),
    },
    right={"loops": _masks_by_loops, "NumPy": _masks_numpy, "convolutions, a buffer": _masks_by_convolution},
    probes=_decoded,
    verify=trains_all(masks, _decoded, _MASKS_CUT),
    tolerance=1e-4,  # float32 sums in another order
    hint="Token 0 → the IoUs. Tokens 1 to 4, each through its own MLP → vectors; their dot products with all cells.",
    sketch="""
        vectors = torch.stack([mlp(tokens[:, ...]) for m, mlp in enumerate(mlps)], 1)  # (N, 4, c)
        logits = torch.einsum("nmc,nchw->...", vectors, features)
        return logits, iou_mlp(...)
    """,
)
