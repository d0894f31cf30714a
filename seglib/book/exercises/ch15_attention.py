"""Chapter 15, "Queries": the pieces and the exercise on attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise
from seglib.book.exercises.verify import trains_all
from seglib.ops.attention import attention, attention_weights

_CUT = (
    "No gradient reaches the {}, and what makes them would never learn. Use them as they are: no `detach`, no `data`."
)
_NO_GRADIENT = [_CUT.format(name) for name in ("queries", "keys", "values")]

# Piece 1: attention --------------------------------------------------------------------------------------------------


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries ``(…, Q, d)``, keys ``(…, N, d)``, values ``(…, N, e)`` → softmax(q kᵀ / √d) v, ``(…, Q, e)``."""
    return attention(q, k, v, impl="reference")


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scores: Callable[[Tensor, Tensor], Tensor] = lambda q, k: q @ k.mT,
    scale: Callable[[Tensor, Tensor, Tensor], float] = lambda q, k, v: q.shape[-1] ** 0.5,
    weights: Callable[[Tensor], Tensor] = lambda s: s.softmax(-1),
) -> Tensor:
    """``attend`` with other scores, another scale or other weights."""
    return weights(scores(q, k) / scale(q, k, v)) @ v


def _attends(**changes: Any) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda q, k, v: _attend(q, k, v, **changes)


def _shares_by_exp(s: Tensor) -> Tensor:
    return s.exp() / s.exp().sum(-1, keepdim=True)  # overflows


def _over_all(s: Tensor) -> Tensor:
    return s.flatten(-2).softmax(-1).view_as(s)


def _less_the_largest_of_all(s: Tensor) -> Tensor:
    return _shares_by_exp(s - s.max())  # 0 / 0 for a query whose own scores are far smaller


def _one_hot(s: Tensor) -> Tensor:
    return F.one_hot(s.argmax(-1), s.shape[-1]).to(s.dtype)


def _over_the_batch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every query attends to the keys of all images."""
    if q.ndim == 2:
        return attend(q, k, v)
    return attend(q.flatten(0, -2), k.flatten(0, -2), v.flatten(0, -2)).view(*q.shape[:-1], v.shape[-1])


def _attend_in_loops(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if q.ndim > 2:
        return torch.stack([_attend_in_loops(*one) for one in zip(q, k, v, strict=True)])
    rows = []
    for query in q:
        shares = torch.stack([(query * key).sum() for key in k]).div(q.shape[1] ** 0.5).softmax(0)
        rows.append(sum((share * value for share, value in zip(shares, v, strict=True)), torch.zeros_like(v[0])))
    return torch.stack(rows)


def _attend_numpy(q: Tensor, k: Tensor, v: Tensor) -> np.ndarray:
    scores = q.numpy() @ np.swapaxes(k.numpy(), -1, -2) / np.sqrt(q.shape[-1])
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True) @ v.numpy()


def _attend_in_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q /= q.shape[-1] ** 0.5
    return torch.einsum("...qn,...ne->...qe", torch.einsum("...qd,...nd->...qn", q, k).softmax(-1), v)


def _tokens() -> Mapping[str, tuple[Tensor, Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)

    def of(*shape: int, times: float = 1.0) -> Tensor:
        return times * torch.randn(*shape, generator=draw)

    return {
        "three queries and six pixels": (of(3, 4), of(6, 4), of(6, 5)),
        "keys, values and queries of one shape": (of(5, 3), of(5, 3), of(5, 3)),
        "a batch of two": (of(2, 3, 4), of(2, 5, 4), of(2, 5, 4)),
        "a batch of two with three heads": (of(2, 3, 2, 4), of(2, 3, 5, 4), of(2, 3, 5, 6)),
        "one query and one pixel": (of(1, 2), of(1, 2), of(1, 3)),
        "scores in the thousands": (of(2, 4, times=100), of(5, 4, times=100), of(5, 2)),
    }


ATTEND = Exercise(
    solution=attend,
    wrong={
        "no_scale": (_attends(scale=lambda q, k, v: 1.0), "Your scores are not divided by √d."),
        "by_d": (
            _attends(scale=lambda q, k, v: q.shape[-1]),
            "You divide by d. It is the square root of d.",
        ),
        "times_root": (
            _attends(scale=lambda q, k, v: q.shape[-1] ** -0.5),
            "You multiply by √d. Divide by it.",
        ),
        "root_of_e": (
            _attends(scale=lambda q, k, v: v.shape[-1] ** 0.5),
            "d is the number of channels of queries and keys, and the values may have another one.",
        ),
        "root_of_n": (
            _attends(scale=lambda q, k, v: k.shape[-2] ** 0.5),
            "You divide by the square root of the number of pixels. d is the number of channels of a query.",
        ),
        "root_of_q": (
            _attends(scale=lambda q, k, v: q.shape[-2] ** 0.5),
            "You divide by the square root of the number of queries. d is the number of channels of a query.",
        ),
        "over_queries": (
            _attends(weights=lambda s: s.softmax(-2)),
            "Your softmax runs over the queries. Each *query* shares its weight out over the pixels: the last axis.",
        ),
        "over_the_second_axis": (
            _attends(weights=lambda s: s.softmax(1)),
            "Your softmax runs over axis 1, which holds the pixels only if no axes stand in front. Take the last: −1.",
        ),
        "over_the_first_axis": (
            _attends(weights=lambda s: s.softmax(0)),
            "Your softmax runs over the first axis: queries, or images, compete. Each query shares its weight out over "
            "the pixels, the last axis.",
        ),
        "d_of_the_second_axis": (
            _attends(scale=lambda q, k, v: q.shape[1] ** 0.5),
            "You take d from axis 1. With axes in front (a batch, heads) the channels are still the last: "
            "`q.shape[-1]`.",
        ),
        "scaled_after": (
            lambda q, k, v: (q @ k.mT).softmax(-1) / q.shape[-1] ** 0.5 @ v,
            "You divide after the softmax, so the weights do not sum to 1. Divide the scores.",
        ),
        "over_all": (
            _attends(weights=_over_all),
            "Your softmax runs over queries and pixels together. Each query has weights that sum to 1.",
        ),
        "no_softmax": (_attends(weights=lambda s: s), "The softmax is missing: weights are positive and sum to 1."),
        "sigmoid": (
            _attends(weights=torch.sigmoid),
            "Your weights come from a sigmoid, so they do not sum to 1. Use a softmax over the pixels.",
        ),
        "exp_overflows": (
            _attends(weights=_shares_by_exp),
            "exp of a large score overflows, and inf / inf is NaN. torch's softmax subtracts the largest score first.",
        ),
        "largest_of_all": (
            _attends(weights=_less_the_largest_of_all),
            "You subtract the largest score of all queries. For a query whose own are far smaller every exp is 0, and "
            "0 / 0 is NaN. Subtract each row's own largest score.",
        ),
        "uniform": (
            lambda q, k, v: v.mean(-2, keepdim=True).expand(*q.shape[:-1], v.shape[-1]),
            "All pixels have the same weight in your mean. The scores must decide.",
        ),
        "hardest": (
            _attends(weights=_one_hot),
            "You take the value of the best pixel alone. It is a mean of all, with the softmax as weights.",
        ),
        "weights_alone": (
            lambda q, k, v: attention_weights(q, k),
            "Those are the weights. Multiply them with the values.",
        ),
        "weights_twice": (
            lambda q, k, v: _attend(q, k, v, weights=lambda s: s.softmax(-1).softmax(-1)),
            "Your softmax runs twice.",
        ),
        "keys_for_values": (
            lambda q, k, v: attend(q, k, k),
            "You take the mean of the keys. The weights come from the keys, what is taken are the values.",
        ),
        "values_for_keys": (
            lambda q, k, v: attend(q, v, v),
            "You compare the queries with the values. Compare them with the keys.",
        ),
        "queries_and_keys_swapped": (
            lambda q, k, v: attend(k, q, v),
            "You swapped queries and keys: there is one result for each *query*.",
        ),
        "cosine": (
            _attends(scores=lambda q, k: F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT),
            "You compare directions alone. The score is the dot product of the vectors as they are.",
        ),
        "two_axes": (
            lambda q, k, v: attend(q, k, v) if q.ndim == 2 else q @ k.transpose(0, 1) @ v,
            "There may be more axes in front (a batch, heads). Swap the last two axes of the keys: `k.mT`.",
        ),
        "over_the_batch": (
            _over_the_batch,
            "Your queries attend to the pixels of all images. Keep the axes in front apart.",
        ),
        "queries_cut": (lambda q, k, v: attend(q.detach(), k, v), _NO_GRADIENT[0]),
        "keys_cut": (lambda q, k, v: attend(q, k.detach(), v), _NO_GRADIENT[1]),
        "values_cut": (lambda q, k, v: attend(q, k, v.detach()), _NO_GRADIENT[2]),
    },
    right={
        "PyTorch's": F.scaled_dot_product_attention,
        "loops": _attend_in_loops,
        "NumPy": _attend_numpy,
        "in place, with einsum": _attend_in_place,
    },
    probes=_tokens,
    verify=trains_all(attend, _tokens, _NO_GRADIENT),
    hint="Scores are q kᵀ / √d; a softmax over the pixels makes weights of them; the result is weights times values.",
    sketch="""
        scores = q @ k.mT / ...                   # (…, Q, N)
        weights = scores.softmax(...)             # each row sums to 1
        return weights @ ...
    """,
)


# Piece 2: several heads ----------------------------------------------------------------------------------------------


def multi_head(q: Tensor, k: Tensor, v: Tensor, h: int) -> Tensor:
    """Queries ``(B, Q, C)``, keys and values ``(B, N, C)`` → h heads of C / h channels each, side by side."""
    q, k, v = (x.unflatten(-1, (h, -1)).transpose(1, 2) for x in (q, k, v))  # (B, h, Q or N, d)
    return attend(q, k, v).transpose(1, 2).flatten(2)  # (B, Q, C)


def _interleaved(q: Tensor, k: Tensor, v: Tensor, h: int) -> Tensor:
    """Head i takes every h-th channel."""
    q, k, v = (x.unflatten(-1, (-1, h)).movedim(-1, 1) for x in (q, k, v))  # (B, h, Q or N, d)
    return attend(q, k, v).movedim(1, -1).flatten(2)


def _joined_without_transposing(q: Tensor, k: Tensor, v: Tensor, h: int) -> Tensor:
    size = q.shape
    q, k, v = (x.unflatten(-1, (h, -1)).transpose(1, 2) for x in (q, k, v))
    return attend(q, k, v).reshape(size)


def _split_without_transposing(q: Tensor, k: Tensor, v: Tensor, h: int) -> Tensor:
    """The channels of several pixels end up in one head."""
    size = q.shape
    q, k, v = (x.reshape(len(x), h, x.shape[1], -1) for x in (q, k, v))
    return attend(q, k, v).reshape(size)


def _heads_apart(q: Tensor, k: Tensor, v: Tensor, h: int) -> list[Tensor]:
    """What each head gives, ``(B, Q, d)`` each."""
    return [attend(*parts) for parts in zip(*(x.chunk(h, -1) for x in (q, k, v)), strict=True)]


def _heads_one_by_one(q: Tensor, k: Tensor, v: Tensor, h: int) -> Tensor:
    return torch.cat(_heads_apart(q, k, v, h), -1)


def _heads_scaled_by_all(q: Tensor, k: Tensor, v: Tensor, h: int) -> Tensor:
    return multi_head(q / h**0.5, k, v, h)


def _weights_of_all_heads(q: Tensor, k: Tensor, v: Tensor, h: int) -> Tensor:
    """One set of weights, the mean of the heads', for all values."""
    heads = [attention_weights(a, b) for a, b in zip(q.chunk(h, -1), k.chunk(h, -1), strict=True)]
    return torch.stack(heads).mean(0) @ v


def _heads_over_heads(q: Tensor, k: Tensor, v: Tensor, h: int) -> Tensor:
    """The heads of one token attend to each other."""
    q, k, v = (x.unflatten(-1, (h, -1)) for x in (q, k, v))  # (B, Q or N, h, d)
    return attend(q, k, v).flatten(2)


def _heads_numpy(q: Tensor, k: Tensor, v: Tensor, h: int) -> np.ndarray:
    d = q.shape[-1] // h
    out = np.zeros(tuple(q.shape), dtype=np.float32)
    for b in range(len(q)):
        for i in range(h):
            part = slice(i * d, (i + 1) * d)
            out[b, :, part] = _attend_numpy(q[b, :, part], k[b, :, part], v[b, :, part])
    return out


def _heads_in_place(q: Tensor, k: Tensor, v: Tensor, h: int) -> Tensor:
    out = torch.empty_like(q)
    for part, answer in zip(out.chunk(h, -1), _heads_apart(q, k, v, h), strict=True):
        part.copy_(answer)
    return out


def _split_tokens() -> Mapping[str, tuple[Tensor, Tensor, Tensor, int]]:
    draw = torch.Generator().manual_seed(1)

    def case(batch: int, queries: int, pixels: int, channels: int, heads: int) -> tuple[Tensor, Tensor, Tensor, int]:
        sizes = ((batch, queries, channels), (batch, pixels, channels), (batch, pixels, channels))
        q, k, v = (2 * torch.randn(*size, generator=draw) for size in sizes)
        return q, k, v, heads

    return {
        "two heads of three channels": case(2, 4, 5, 6, 2),
        "three heads of two channels": case(1, 3, 4, 6, 3),
        "as many heads as channels": case(2, 3, 5, 4, 4),
        "one head": case(2, 3, 5, 4, 1),
        "as many queries as pixels": case(2, 4, 4, 8, 4),
    }


HEADS = Exercise(
    solution=multi_head,
    wrong={
        "one_head": (
            lambda q, k, v, h: attend(q, k, v),
            "You attend with all channels at once. Split them into h parts first.",
        ),
        "interleaved": (
            _interleaved,
            "Your head i takes every h-th channel. It takes d neighbouring ones: the first head the first d.",
        ),
        "joined_interleaved": (
            lambda q, k, v, h: torch.stack(_heads_apart(q, k, v, h), -1).flatten(2),
            "Your result takes a channel of each head in turn. The d channels of the first head come first.",
        ),
        "pixels_split": (
            lambda q, k, v, h: torch.cat(
                [attend(*parts) for parts in zip(*(x.chunk(h, 1) for x in (q, k, v)), strict=True)], 1
            ),
            "You split queries and pixels. Split the channels: the last axis.",
        ),
        "no_scale": (
            lambda q, k, v, h: multi_head(q * (q.shape[-1] / h) ** 0.5, k, v, h),
            "The scores of your heads are not divided by √d.",
        ),
        "scaled_by_all": (
            _heads_scaled_by_all,
            "You divide by √C. Each head has d = C / h channels of its own.",
        ),
        "joined_without_transposing": (
            _joined_without_transposing,
            "You put the heads together without moving the axis of the heads behind that of the queries.",
        ),
        "split_without_transposing": (
            _split_without_transposing,
            "You split with a reshape that mixes the channels of several pixels. Split the last axis, then move the "
            "axis of the heads.",
        ),
        "over_heads": (
            _heads_over_heads,
            "The heads of one token attend to each other. Within a head the queries attend to the pixels.",
        ),
        "mean_of_heads": (
            lambda q, k, v, h: torch.stack(_heads_apart(q, k, v, h)).mean(0),
            "You take the mean of the heads. Put them side by side: C channels come out.",
        ),
        "sum_of_heads": (
            lambda q, k, v, h: torch.stack(_heads_apart(q, k, v, h)).sum(0),
            "You add the heads up. Put them side by side: C channels come out.",
        ),
        "stacked": (
            lambda q, k, v, h: torch.stack(_heads_apart(q, k, v, h), 1),
            "Your heads have an axis of their own. Put them side by side: (B, Q, C).",
        ),
        "not_flattened": (
            lambda q, k, v, h: torch.stack(_heads_apart(q, k, v, h), 2),
            "The last step is missing: heads and their channels become one axis again, (B, Q, C).",
        ),
        "in_reverse": (
            lambda q, k, v, h: torch.cat(_heads_apart(q, k, v, h)[::-1], -1),
            "Your heads come out in reverse. The first head gives the first d channels.",
        ),
        "weights_shared": (
            _weights_of_all_heads,
            "Your heads share one set of weights, so they are one head. Each has weights of its own.",
        ),
        "first_head_for_all": (
            lambda q, k, v, h: attention_weights(q.chunk(h, -1)[0], k.chunk(h, -1)[0]) @ v,
            "The first head's weights serve all channels. Each head has weights of its own.",
        ),
        "h_channels_each": (
            lambda q, k, v, h: multi_head(q, k, v, q.shape[-1] // h),
            "You make heads of h channels each. h is the number of heads.",
        ),
        "values_whole": (
            lambda q, k, v, h: torch.cat(
                [attention_weights(a, b) @ v for a, b in zip(q.chunk(h, -1), k.chunk(h, -1), strict=True)], -1
            ),
            "Each of your heads takes all channels of the values. Split the values, too.",
        ),
        "queries_cut": (lambda q, k, v, h: multi_head(q.detach(), k, v, h), _NO_GRADIENT[0]),
        "keys_cut": (lambda q, k, v, h: multi_head(q, k.detach(), v, h), _NO_GRADIENT[1]),
        "values_cut": (lambda q, k, v, h: multi_head(q, k, v.detach(), h), _NO_GRADIENT[2]),
    },
    right={"one by one": _heads_one_by_one, "NumPy": _heads_numpy, "in place": _heads_in_place},
    probes=_split_tokens,
    verify=trains_all(multi_head, _split_tokens, _NO_GRADIENT),
    hint="Split C into h neighbouring parts, attend in each part alone, and put the results side by side.",
    sketch="""
        q, k, v = (x.unflatten(-1, (h, -1)).transpose(...) for x in (q, k, v))
        mixed = attend(q, k, v)                   # (B, h, Q, d)
        return mixed.transpose(...).flatten(...)
    """,
)


# The bugs ------------------------------------------------------------------------------------------------------------

Weights = Sequence[Tensor]  # of query, key, value and output, (C, C) each, as nn.Linear has them


def layer(q: Tensor, p: Tensor, x: Tensor, s: Tensor, W: Weights) -> Tensor:  # noqa: N803 - the letters of the chapter
    """Queries q with positions p, pixels x with positions s → norm(q + attention), ``(Q, C)``."""
    return _layer(q, p, x, s, W)


def _layer(
    q: Tensor,
    p: Tensor,
    x: Tensor,
    s: Tensor,
    W: Weights,  # noqa: N803
    *,
    softmax_axis: int = 1,
    root: Callable[[Tensor, Tensor], int] = lambda q, x: q.shape[1],
    query_position: bool = True,
    key_position: bool = True,
    value_position: bool = False,
    residual: Callable[[Tensor, Tensor], Tensor] | None = lambda q, p: q,
    project: Callable[[Tensor, Tensor], Tensor] = lambda x, w: x @ w.T,
    output: bool = True,
    norm_last: bool = True,
    norm: Callable[[Tensor], Tensor] = lambda x: F.layer_norm(x, x.shape[1:]),
) -> Tensor:
    """``layer`` with one of the bugs."""
    queries = project(q + p if query_position else q, W[0])
    keys = project(x + s if key_position else x, W[1])
    values = project(x + s if value_position else x, W[2])
    mixed = (queries @ keys.T / root(q, x) ** 0.5).softmax(softmax_axis) @ values
    mixed = project(mixed, W[3]) if output else mixed
    kept = residual(q, p) if residual else torch.zeros_like(q)
    return norm(kept + mixed) if norm_last else kept + norm(mixed)


def _bug(**bug: Any) -> Callable[..., Tensor]:
    return lambda *arguments: _layer(*arguments, **bug)


def _given(q: Tensor, p: Tensor, x: Tensor, s: Tensor, W: Weights) -> Tensor:  # noqa: N803
    """The code of the exercise, as it is given."""
    queries, keys, values = (q + p) @ W[0].T, (x + s) @ W[1].T, (x + s) @ W[2].T
    scores = queries @ keys.T / len(x) ** 0.5
    mixed = scores.softmax(0) @ values
    return F.layer_norm(mixed @ W[3].T, q.shape)


def _layer_of_modules(q: Tensor, p: Tensor, x: Tensor, s: Tensor, W: Weights) -> Tensor:  # noqa: N803
    mixed, _ = F.multi_head_attention_forward(
        (q + p)[:, None], (x + s)[:, None], x[:, None], q.shape[1], 1, None, None, None, None, False, 0.0, W[3],
        torch.zeros(len(W[3])), use_separate_proj_weight=True, q_proj_weight=W[0], k_proj_weight=W[1],
        v_proj_weight=W[2], training=False,
    )  # fmt: skip
    return torch.nn.LayerNorm(q.shape[1], elementwise_affine=False)(q + mixed[:, 0])


def _layer_numpy(q: Tensor, p: Tensor, x: Tensor, s: Tensor, W: Weights) -> np.ndarray:  # noqa: N803
    a, b, c, d = (w.numpy().T for w in W)
    scores = (q + p).numpy() @ a @ ((x + s).numpy() @ b).T / np.sqrt(q.shape[1])
    shares = np.exp(scores - scores.max(1, keepdims=True))
    out = q.numpy() + shares / shares.sum(1, keepdims=True) @ x.numpy() @ c @ d
    return (out - out.mean(1, keepdims=True)) / np.sqrt(out.var(1, keepdims=True) + 1e-5)


def _layer_in_place(q: Tensor, p: Tensor, x: Tensor, s: Tensor, W: Weights) -> Tensor:  # noqa: N803
    values = F.linear(x, W[2])
    s += x
    p += q
    q += F.linear(attend(F.linear(p, W[0]), F.linear(s, W[1]), values), W[3])
    return F.layer_norm(q, (q.shape[1],))


def _layers() -> Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]]:
    draw = torch.Generator().manual_seed(2)

    def case(queries: int, pixels: int, channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
        q, p = torch.randn(2, queries, channels, generator=draw)
        x, s = torch.randn(2, pixels, channels, generator=draw)
        return q, p, x, s, list(torch.randn(4, channels, channels, generator=draw))

    return {
        "three queries and five pixels": case(3, 5, 4),
        "one query": case(1, 6, 4),
        "as many queries as pixels": case(4, 4, 6),  # not of 2 channels, where the norm's ε shows
        "one pixel": case(3, 1, 4),
    }


BUG = Exercise(
    solution=layer,
    wrong={
        "as_given": (_given, "That is the code as it was given."),
        "over_queries": (
            _bug(softmax_axis=0),
            "The queries still compete for each pixel: over which axis does the softmax run?",
        ),
        "root_of_pixels": (
            _bug(root=lambda q, x: len(x)),
            "The scale is still wrong: d is the number of channels.",
        ),
        "value_position": (
            _bug(value_position=True),
            "The values still carry positions. What a query takes from a pixel is its content.",
        ),
        "no_residual": (
            _bug(residual=None),
            "A query still forgets what it was. What is missing before the norm?",
        ),
        "norm_over_queries": (
            _bug(norm=lambda x: F.layer_norm(x, x.shape)),
            "The norm still takes one mean over all queries. Each query has its own.",
        ),
        "no_query_position": (
            _bug(query_position=False),
            "You took the positions of the queries away. Only the values have none.",
        ),
        "no_key_position": (
            _bug(key_position=False),
            "You took the positions of the keys away. Only the values have none.",
        ),
        "position_kept": (
            _bug(residual=lambda q, p: q + p),
            "You add the positions of the queries to the result. The residual is q alone.",
        ),
        "norm_first": (
            _bug(norm_last=False),
            "The norm comes after the sum: norm(q + attention).",
        ),
        "residual_before_output": (
            lambda q, p, x, s, W: _layer(q, p, x, s, W, residual=lambda q, p: q @ W[3].T),
            "Your q goes through W[3], too. Multiply the attention alone, then add q.",
        ),
        "by_channels": (
            _bug(root=lambda q, x: q.shape[1] ** 2),
            "You divide by the number of channels. Divide by its root.",
        ),
        "root_of_queries": (
            _bug(root=lambda q, x: len(q)),
            "You divide by the root of the number of queries. d is the number of channels.",
        ),
        "no_output": (_bug(output=False), "The output's weight, W[3], is missing."),
        "no_norm": (_bug(norm=lambda x: x), "The norm is missing."),
        "not_transposed": (
            _bug(project=lambda x, w: x @ w),
            "The weights are those of nn.Linear, (outputs, inputs): multiply with `W[i].T`, as the given code does.",
        ),
        "no_scale": (
            _bug(root=lambda q, x: 1),
            "The scores are not scaled at all: divide by the root of the channels.",
        ),
    },
    right={"PyTorch's layers": _layer_of_modules, "NumPy": _layer_numpy, "in place": _layer_in_place},
    probes=_layers,
    hint="Compare line by line with the formula: positions, scale, softmax, residual, norm.",
    sketch="""
        queries, keys, values = (q + p) @ W[0].T, (x + s) @ W[1].T, ...
        scores = queries @ keys.T / ...
        mixed = scores.softmax(...) @ values
        return F.layer_norm(... + mixed @ W[3].T, ...)
    """,
)
