"""Chapter 16, "Mask2Former": the pieces and exercises on masked attention and on the decoder's layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglib.book.exercise import Exercise
from seglib.book.exercises.verify import trains_all

Map = list[list[float]]

# Piece 1: where each query may attend --------------------------------------------------------------------------------


def attention_mask(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask logits ``(B, Q, H, W)`` → bool ``(B, Q, h·w)``, true where a query may attend; an empty row is all true."""
    return _attention_mask(mask_logits, size)


def _bilinear(z: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(z, size, mode="bilinear")


def _opened(allowed: Tensor) -> Tensor:
    return allowed | ~allowed.any(-1, keepdim=True)


def _attention_mask(
    mask_logits: Tensor,
    size: tuple[int, int],
    *,
    resize: Callable[[Tensor, tuple[int, int]], Tensor] = _bilinear,
    before: Callable[[Tensor], Tensor] = lambda z: z,
    allow: Callable[[Tensor], Tensor] = lambda z: z >= 0,
    flatten: Callable[[Tensor], Tensor] = lambda maps: maps.flatten(2),
    opened: Callable[[Tensor], Tensor] = _opened,
) -> Tensor:
    """``attention_mask`` with one step exchanged."""
    return opened(flatten(allow(resize(before(mask_logits), size))))


def _masks(**changes: Any) -> Callable[[Tensor, tuple[int, int]], Tensor]:
    return lambda mask_logits, size: _attention_mask(mask_logits, size, **changes)


def _opened_by_fine_map(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Asks the map of full size whether a row is empty."""
    allowed = _attention_mask(mask_logits, size, opened=lambda rows: rows)
    return allowed | ~(mask_logits >= 0).flatten(2).any(-1, keepdim=True)


def _first_cell(rows: Tensor) -> Tensor:
    rows = rows.clone()
    rows[..., 0] |= ~rows.any(-1)
    return rows


def _taps(n: int, m: int) -> np.ndarray:
    """How much each of n cells weighs in each of m, ``(m, n)``: bilinear, centres at half integers."""
    at = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, None)  # (m,)
    low = np.minimum(at.astype(int), n - 1)
    high = np.minimum(low + 1, n - 1)
    out = np.zeros((m, n))
    np.add.at(out, (np.arange(m), low), 1 - (at - low))
    np.add.at(out, (np.arange(m), high), at - low)
    return out


def _mask_numpy(mask_logits: Tensor, size: tuple[int, int]) -> np.ndarray:
    z = mask_logits.numpy().astype(float)
    small = np.einsum("iy,bqyx,jx->bqij", _taps(z.shape[2], size[0]), z, _taps(z.shape[3], size[1]))
    allowed = (small >= 0).reshape(*z.shape[:2], -1)
    allowed[~allowed.any(-1)] = True
    return allowed


def _mask_in_place(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    allowed = _bilinear(mask_logits, size).sigmoid().flatten(2) >= 0.5
    for rows in allowed:
        for row in rows:
            if not row.any():
                row.fill_(True)
    return allowed


def _mask_of_samples(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    h, w = size
    y, x = ((torch.arange(n) + 0.5) * 2 / n - 1 for n in (h, w))
    grid = torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1)  # (h, w, 2)
    z = F.grid_sample(
        mask_logits, grid.expand(len(mask_logits), -1, -1, -1), padding_mode="border", align_corners=False
    )
    return _opened(~(z.flatten(2) < 0))


def _blocks(*rows: Map) -> Tensor:
    """Maps of one image, ``(1, Q, H, W)``."""
    return torch.tensor([list(rows)])


def _mask_maps() -> Mapping[str, tuple[Tensor, tuple[int, int]]]:
    draw = torch.Generator().manual_seed(1)
    half: Map = [[1.0, 1, -2, -2], [1, -9, -2, -2], [-1, -1, 3, 3], [-1, 9, 3, 3]]
    edge: Map = [[0.0, 0, 1, -1], [0, 0, -1, 1], [-1, -1, 0, 0], [-1, -1, 0, -4]]
    speck: Map = [[-1.0] * 4, [-1, -1, 2, -1], [-1] * 4, [-1] * 4]
    never: Map = [[-1.0] * 4] * 4
    return {
        "a 4 × 4 map": (_blocks(half), (2, 2)),
        "logits of exactly 0": (_blocks(edge, half), (2, 2)),
        "logits of 0 beside positive ones": (_blocks([[0.0, 0, 2, 2]] * 2 + [[-1.0] * 4] * 2), (2, 2)),
        "a mask that becomes empty when it is resized": (_blocks(speck, half), (2, 2)),
        "a mask that is empty": (_blocks(never, half), (2, 2)),
        "small positive logits": (_blocks([[0.25, 0.25], [-1, 0.25]]), (2, 2)),
        "every fourth cell": (3 * torch.randn(2, 3, 8, 12, generator=draw) - 0.5, (2, 3)),
        "sizes that do not fit": (3 * torch.randn(2, 4, 7, 5, generator=draw), (3, 4)),
        "as many cells as before": (torch.randn(1, 2, 3, 5, generator=draw), (3, 5)),
        "more cells than before": (3 * torch.randn(1, 2, 2, 3, generator=draw), (5, 4)),
        "a single cell": (torch.randn(2, 3, 4, 6, generator=draw), (1, 1)),
    }


MASK = Exercise(
    solution=attention_mask,
    wrong={
        "hidden": (
            _masks(allow=lambda z: z < 0, opened=lambda rows: rows & ~rows.all(-1, keepdim=True)),
            "You mark what is hidden. True means: the query may attend to this cell.",
        ),
        "hidden_never_opened": (
            _masks(allow=lambda z: z < 0, opened=lambda rows: rows),
            "You mark what is hidden, and open no row. True means: the query may attend to this cell.",
        ),
        "zero_hidden": (
            _masks(allow=lambda z: z > 0),
            "A logit of 0 has a sigmoid of exactly ½, and only cells *below* ½ are hidden.",
        ),
        "logit_of_half": (
            _masks(allow=lambda z: z >= 0.5),
            "You compare the logits with ½. Compare their sigmoid, or the logits with 0.",
        ),
        "probabilities_resized": (
            _masks(before=torch.sigmoid, allow=lambda p: p >= 0.5),
            "You resize probabilities. Resize the logits, then take the sigmoid.",
        ),
        "masks_resized": (
            _masks(before=lambda z: (z >= 0).float(), allow=lambda p: p >= 0.5),
            "You resize the finished mask. Resize the logits, then compare with the threshold.",
        ),
        "masks_resized_above_half": (
            _masks(before=lambda z: (z >= 0).float(), allow=lambda p: p > 0.5),
            "You resize a finished mask of 0 and 1. Resize the logits, then compare with the threshold.",
        ),
        "nearest": (
            _masks(resize=lambda z, size: F.interpolate(z, size)),
            "You take one cell of the map for each (nearest). Resize bilinearly.",
        ),
        "antialias": (
            _masks(resize=lambda z, size: F.interpolate(z, size, mode="bilinear", antialias=True)),
            "You smooth the map before it is resized (antialias). Leave that out.",
        ),
        "corners_on_corners": (
            _masks(resize=lambda z, size: F.interpolate(z, size, mode="bilinear", align_corners=True)),
            "You put corner cells on corner cells (align_corners=True). Cells fill the image: leave it out.",
        ),
        "mean_of_block": (
            _masks(resize=lambda z, size: F.adaptive_avg_pool2d(z, size)),
            "You average all cells that lie in a coarse cell. Bilinear resizing reads the four nearest to its centre.",
        ),
        "largest_of_block": (
            _masks(resize=lambda z, size: F.adaptive_max_pool2d(z, size)),
            "You take the largest logit of a coarse cell. Resize bilinearly.",
        ),
        "never_opened": (
            _masks(opened=lambda rows: rows),
            "A row without any True stays empty in your mask, and its softmax would divide 0 by 0. Make it all true.",
        ),
        "opened_by_the_fine_map": (
            _opened_by_fine_map,
            "A small mask can become empty when it is resized. Test the rows after resizing.",
        ),
        "all_opened": (
            _masks(opened=lambda rows: rows | ~rows.any(-1, keepdim=True).all(1, keepdim=True)),
            "One empty row opens all rows of its image in your answer. Open that row alone.",
        ),
        "opened_when_all_are_empty": (
            _masks(opened=lambda rows: rows | ~rows.any(-1, keepdim=True).any(1, keepdim=True)),
            "You open rows only where all rows of an image are empty. Open every row that is empty.",
        ),
        "one_cell_opened": (
            _masks(opened=_first_cell),
            "You open one cell of an empty row. All of them are opened.",
        ),
        "full_rows_closed": (
            _masks(opened=lambda rows: rows ^ ~rows.any(-1, keepdim=True) ^ rows.all(-1, keepdim=True)),
            "You close rows that allow everything. Open the empty ones and leave the others.",
        ),
        "columns_first": (
            _masks(flatten=lambda maps: maps.mT.flatten(2)),
            "You put the cells in the order of columns. They come row by row: `flatten(2)`.",
        ),
        "size_swapped": (
            lambda mask_logits, size: attention_mask(mask_logits, (size[1], size[0])),
            "Your size is swapped: it comes as (height, width).",
        ),
        "not_flattened": (
            lambda mask_logits, size: attention_mask(mask_logits, size).unflatten(-1, size),
            "The cells of a query stand in one row: (B, Q, h·w).",
        ),
        "to_be_added": (
            lambda mask_logits, size: torch.where(attention_mask(mask_logits, size), 0.0, -torch.inf),
            "That is a mask to be added to scores, 0 and −∞. True and False are wanted.",
        ),
    },
    right={"NumPy": _mask_numpy, "loops over rows": _mask_in_place, "samples": _mask_of_samples},
    probes=_mask_maps,
    hint="Bilinear resizing of the logits, `>= 0`, the cells in one row, and a row without any True becomes all true.",
    sketch="""
        z = F.interpolate(mask_logits, size, mode=...)       # (B, Q, h, w)
        allowed = z.flatten(2) ... 0                         # (B, Q, h·w)
        empty = ~allowed.any(-1, keepdim=True)
        return allowed | ...
    """,
)


# Piece 2: masked attention -------------------------------------------------------------------------------------------

Attend = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Attention of ``heads`` heads, each on C / heads channels, to the keys that ``mask (B, N, M)`` allows."""
    return _masked_attention(q, k, v, mask, heads)


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, heads, N, d)


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _softmax(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1)


def _masked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    heads: int,
    *,
    split: Callable[[Tensor, int], Tensor] = _split,
    scale: Callable[[int, int], float] = lambda d, channels: d**0.5,
    weigh: Callable[[Tensor, Tensor], Tensor] = _softmax,
    join: Callable[[Tensor], Tensor] = _joined,
) -> Tensor:
    """``masked_attention`` with one step exchanged."""
    a, b, c = (split(x, heads) for x in (q, k, v))  # (B, heads, N or M, d)
    weights = weigh(a @ b.mT / scale(a.shape[-1], q.shape[-1]), mask)  # (B, heads, N, M)
    return join(weights @ c)


def _attends(**changes: Any) -> Attend:
    return lambda q, k, v, mask, heads: _masked_attention(q, k, v, mask, heads, **changes)


def _interleaved(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (-1, heads)).permute(0, 3, 1, 2)


def _by_head(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, heads: int) -> Tensor:
    """One head after the other."""
    d = q.shape[-1] // heads
    parts = []
    for i in range(heads):
        own = slice(i * d, (i + 1) * d)
        scores = torch.einsum("bnd,bmd->bnm", q[..., own], k[..., own]) / d**0.5
        weights = (scores - scores.amax(-1, keepdim=True)).exp() * mask
        parts.append(weights / weights.sum(-1, keepdim=True) @ v[..., own])
    return torch.cat(parts, -1)


def _by_sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, heads: int) -> Tensor:
    a, b, c = (_split(x, heads) for x in (q, k, v))
    return _joined(F.scaled_dot_product_attention(a, b, c, attn_mask=mask[:, None]))


def _attend_numpy(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, heads: int) -> np.ndarray:
    a, b, c = (x.numpy().reshape(*x.shape[:2], heads, -1) for x in (q, k, v))
    scores = np.einsum("bnhd,bmhd->bhnm", a, b) / np.sqrt(a.shape[-1])
    scores = np.where(mask.numpy()[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhnm,bmhd->bnhd", weights, c).reshape(q.shape)


def _attend_in_place(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, heads: int) -> Tensor:
    """A number that is added to the scores in place."""
    a, b, c = (_split(x, heads) for x in (q, k, v))
    scores = a @ b.mT
    scores /= a.shape[-1] ** 0.5
    scores += torch.where(mask, 0.0, -1e9)[:, None]
    return _joined(scores.softmax(-1) @ c)


def _tokens() -> Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor, int]]:
    draw = torch.Generator().manual_seed(4)

    def case(batch: int, n: int, m: int, channels: int, heads: int, *, share: float = 0.5) -> Any:
        q, k, v = (2 * torch.randn(batch, count, channels, generator=draw) for count in (n, m, m))
        mask = torch.rand(batch, n, m, generator=draw) < share
        mask[..., -1] |= ~mask.any(-1)
        return q, k, v, mask, heads

    return {
        "two heads": case(2, 3, 5, 8, 2),
        "one head": case(1, 2, 4, 3, 1),
        "four heads of one channel": case(2, 4, 6, 4, 4),
        "one key for each query": case(1, 5, 7, 6, 3, share=0.0),
        "everything allowed": case(2, 3, 4, 8, 2, share=2.0),
        "as many keys as queries": case(1, 4, 4, 8, 4),
        "a single key": case(1, 3, 1, 4, 2),
    }


_CUT = {
    "queries": "No gradient reaches the queries. Use `q` as it is: no `detach`, no `data`.",
    "keys": "No gradient reaches the keys. Use `k` as it is: no `detach`, no `data`.",
    "values": "No gradient reaches the values. Use `v` as it is: no `detach`, no `data`.",
}

ATTEND = Exercise(
    solution=masked_attention,
    wrong={
        "mask_ignored": (
            _attends(weigh=lambda scores, mask: scores.softmax(-1)),
            "You do not use the mask: a query takes nothing from a key that it may not attend to.",
        ),
        "mask_inverted": (
            lambda q, k, v, mask, heads: masked_attention(q, k, v, ~mask | mask.all(-1, keepdim=True), heads),
            "Your mask is the wrong way round: True means that a query may attend to a key.",
        ),
        "inverted_by_a_number": (
            _attends(weigh=lambda scores, mask: scores.masked_fill(mask[:, None], -1e9).softmax(-1)),
            "You hide the keys that are allowed. Set the scores to −∞ where the mask is *False*.",
        ),
        "mask_of_another_image": (
            _attends(
                weigh=lambda scores, mask: _softmax(
                    scores.flatten(0, 1)[:, None], mask.repeat(scores.shape[1], 1, 1)
                ).view_as(scores)
            ),
            "Some heads get the mask of another image: `repeat` lays the images side by side. Use `mask[:, None]`.",
        ),
        "hidden_as_nan": (
            lambda q, k, v, mask, heads: masked_attention(q, k, v, ~mask, heads),
            "Your mask is inverted, and rows that allow everything end as 0 / 0. True means: may attend.",
        ),
        "masked_behind": (
            _attends(weigh=lambda scores, mask: scores.softmax(-1) * mask[:, None]),
            "You set weights to 0 behind the softmax, and the rest adds up to less than 1. Set the scores to −∞.",
        ),
        "score_zero": (
            _attends(weigh=lambda scores, mask: (scores * mask[:, None]).softmax(-1)),
            "A hidden key has the score 0 in your answer, and e⁰ = 1 counts. Its score is −∞.",
        ),
        "softmax_over_queries": (
            _attends(weigh=lambda scores, mask: _softmax(scores.mT, mask.mT).mT),
            "You take the softmax over the queries. The weights of one query over its keys add up to 1.",
        ),
        "softmax_over_heads": (
            _attends(weigh=lambda scores, mask: scores.masked_fill(~mask[:, None], -torch.inf).softmax(1)),
            "You take the softmax over the heads. The weights of one query over its keys add up to 1.",
        ),
        "no_softmax": (
            _attends(weigh=lambda scores, mask: scores * mask[:, None]),
            "The softmax is missing.",
        ),
        "no_scale": (
            _attends(scale=lambda d, channels: 1.0),
            "You do not divide the scores by √d.",
        ),
        "scale_of_all_channels": (
            _attends(scale=lambda d, channels: channels**0.5),
            "You divide by √C. A head has d = C / heads channels: divide by √d.",
        ),
        "scale_without_root": (
            _attends(scale=lambda d, channels: float(d)),
            "You divide by d. The scores are divided by its square root.",
        ),
        "one_head": (
            lambda q, k, v, mask, heads: masked_attention(q, k, v, mask, 1),
            "You use one head of all channels. Split the channels into `heads` heads.",
        ),
        "d_and_heads_swapped": (
            lambda q, k, v, mask, heads: masked_attention(q, k, v, mask, q.shape[-1] // heads),
            "You made heads of `heads` channels. `heads` is how many heads there are.",
        ),
        "interleaved": (
            _attends(split=_interleaved, join=lambda x: x.permute(0, 2, 3, 1).flatten(2)),
            "Head i takes every `heads`-th channel in your answer. It takes d channels in a row.",
        ),
        "not_transposed": (
            _attends(
                split=lambda x, heads: x.reshape(len(x), heads, -1, x.shape[-1] // heads),
                join=lambda x: x.reshape(len(x), x.shape[2], -1),
            ),
            "You reshape to (B, heads, N, d) at once, which mixes tokens. Split the last axis, then transpose.",
        ),
        "not_joined": (
            _attends(join=lambda x: x.reshape(len(x), x.shape[2], -1)),
            "You reshape without moving the heads back first: transpose to (B, N, heads, d), then flatten.",
        ),
        "heads_summed": (
            _attends(join=lambda x: x.sum(1)),
            "You add the heads up. They stand side by side again: C channels.",
        ),
        "keys_as_values": (
            lambda q, k, v, mask, heads: masked_attention(q, k, k, mask, heads),
            "You take a mean of the keys. It is a mean of the values.",
        ),
        "values_as_keys": (
            lambda q, k, v, mask, heads: masked_attention(q, v, v, mask, heads),
            "You compare the queries with the values. Compare them with the keys.",
        ),
        "added_to_queries": (
            lambda q, k, v, mask, heads: q + masked_attention(q, k, v, mask, heads),
            "You add the queries. The sum and the norm belong to the layer.",
        ),
        "queries_cut": (
            lambda q, k, v, mask, heads: masked_attention(q.detach(), k, v, mask, heads),
            _CUT["queries"],
        ),
        "keys_cut": (lambda q, k, v, mask, heads: masked_attention(q, k.detach(), v, mask, heads), _CUT["keys"]),
        "values_cut": (lambda q, k, v, mask, heads: masked_attention(q, k, v.detach(), mask, heads), _CUT["values"]),
    },
    right={
        "a loop over heads": _by_head,
        "PyTorch's own": _by_sdpa,
        "in place": _attend_in_place,
        "NumPy": _attend_numpy,
    },
    probes=_tokens,
    verify=trains_all(masked_attention, _tokens, list(_CUT.values())),
    hint="For each head: q kᵀ / √d, −∞ where the mask is False, softmax over the keys, times v.",
    sketch="""
        q, k, v = (x.unflatten(-1, (heads, ...)).transpose(1, 2) for x in (q, k, v))
        scores = q @ k.mT / ...                              # (B, heads, N, M)
        scores = scores.masked_fill(~mask[:, None], ...)
        out = scores.softmax(...) @ v                        # (B, heads, N, d)
        return out.transpose(1, 2).flatten(2)
    """,
)


# Piece 3: a decoder layer --------------------------------------------------------------------------------------------


class Parts(nn.Module):
    """What a decoder layer has weights for: two attentions, a feed-forward network, three norms."""

    def __init__(self, channels: int, heads: int, draw: torch.Generator) -> None:
        super().__init__()
        self.cross, self.own = (_Attention(channels, heads, draw) for _ in range(2))
        self.inner, self.outer = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)
        self.norms = nn.ModuleList([nn.LayerNorm(channels) for _ in range(3)])
        for parameter in self.parameters():  # norms as well: each differs from the others
            nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.5, generator=draw)

    def feed(self, x: Tensor) -> Tensor:
        """The feed-forward network, token by token."""
        return self.outer(self.inner(x).relu())


class _Attention(nn.Module):
    def __init__(self, channels: int, heads: int, draw: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            mask = torch.ones(*query.shape[:2], key.shape[1], dtype=torch.bool)
        return masked_attention(self.query(query), self.key(key), self.value(value), mask, self.heads)


Layer = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Parts], Tensor]


def layer(x: Tensor, positions: Tensor, memory: Tensor, places: Tensor, mask: Tensor, parts: Parts) -> Tensor:
    """Queries ``(B, Q, C)`` → ``(B, Q, C)``: cross-attention, self-attention, feed-forward, each with its norm."""
    return _layer(x, positions, memory, places, mask, parts)


def _cross(x: Tensor, positions: Tensor, memory: Tensor, places: Tensor, mask: Tensor, parts: Parts) -> Tensor:
    return parts.cross(x + positions, memory + places, memory, mask)


def _own(x: Tensor, positions: Tensor, parts: Parts) -> Tensor:
    return parts.own(x + positions, x + positions, x)


def _feed(x: Tensor, positions: Tensor, parts: Parts) -> Tensor:
    return parts.feed(x)


def _post_norm(x: Tensor, step: Callable[[Tensor], Tensor], norm: Callable[[Tensor], Tensor]) -> Tensor:
    return norm(x + step(x))


def _layer(
    x: Tensor,
    positions: Tensor,
    memory: Tensor,
    places: Tensor,
    mask: Tensor,
    parts: Parts,
    *,
    cross: Callable[..., Tensor] = _cross,
    own: Callable[..., Tensor] = _own,
    feed: Callable[..., Tensor] = _feed,
    join: Callable[[Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]], Tensor] = _post_norm,
    order: tuple[int, ...] = (0, 1, 2),
    norms: tuple[int, int, int] = (0, 1, 2),
) -> Tensor:
    """``layer`` with a step, the order or the norms exchanged."""
    steps = (
        lambda x: cross(x, positions, memory, places, mask, parts),
        lambda x: own(x, positions, parts),
        lambda x: feed(x, positions, parts),
    )
    for i in order:
        x = join(x, steps[i], parts.norms[norms[i]])
    return x


def _layers(**changes: Any) -> Layer:
    return lambda x, positions, memory, places, mask, parts: _layer(
        x, positions, memory, places, mask, parts, **changes
    )


def _kept_positions(x: Tensor, positions: Tensor, memory: Tensor, places: Tensor, mask: Tensor, parts: Parts) -> Tensor:
    """The positions are added once and stay in the sum."""
    return _layer(
        x + positions,
        positions,
        memory,
        places,
        mask,
        parts,
        cross=lambda x, positions, memory, places, mask, parts: parts.cross(x, memory + places, memory, mask),
        own=lambda x, positions, parts: parts.own(x, x, x),
    )


def _side_by_side(x: Tensor, positions: Tensor, memory: Tensor, places: Tensor, mask: Tensor, parts: Parts) -> Tensor:
    """All three steps see the queries as they came."""
    steps = _cross(x, positions, memory, places, mask, parts), _own(x, positions, parts), parts.feed(x)
    for step, norm in zip(steps, parts.norms, strict=True):
        x = norm(x + step)
    return x


def _by_image(x: Tensor, positions: Tensor, memory: Tensor, places: Tensor, mask: Tensor, parts: Parts) -> list[Tensor]:
    """One image after the other, as a list."""
    return [layer(x[i : i + 1], positions, memory[i : i + 1], places, mask[i : i + 1], parts)[0] for i in range(len(x))]


def _norm_by_hand(x: Tensor, step: Callable[[Tensor], Tensor], norm: Any) -> Tensor:
    total = x + step(x)
    total -= total.mean(-1, keepdim=True)  # in place
    spread = (total.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    return total / spread * norm.weight + norm.bias


def _layer_numpy(
    x: Tensor, positions: Tensor, memory: Tensor, places: Tensor, mask: Tensor, parts: Parts
) -> np.ndarray:
    def linear(x: np.ndarray, by: nn.Linear) -> np.ndarray:
        return x @ by.weight.detach().numpy().T + by.bias.detach().numpy()

    def attend(of: Any, query: np.ndarray, key: np.ndarray, value: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        q, k, v = (linear(t, by) for t, by in ((query, of.query), (key, of.key), (value, of.value)))
        tokens = [torch.from_numpy(t) for t in (q, k, v, allowed)]
        return _attend_numpy(tokens[0], tokens[1], tokens[2], tokens[3], of.heads)

    def normal(x: np.ndarray, by: Any) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + by.eps)
        return x * by.weight.detach().numpy() + by.bias.detach().numpy()

    t, at, cells, there = (v.detach().numpy() for v in (x, positions, memory, places))
    t = normal(t + attend(parts.cross, t + at, cells + there, cells, mask.numpy()), parts.norms[0])
    everywhere = np.ones((*t.shape[:2], t.shape[1]), dtype=bool)
    t = normal(t + attend(parts.own, t + at, t + at, t, everywhere), parts.norms[1])
    return normal(t + linear(np.maximum(linear(t, parts.inner), 0), parts.outer), parts.norms[2])


def _decoders() -> Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Parts]]:
    draw = torch.Generator().manual_seed(6)

    def case(batch: int, queries: int, cells: int, channels: int, heads: int) -> Any:
        x, positions, memory, places = (
            torch.randn(*shape, channels, generator=draw)
            for shape in ((batch, queries), (queries,), (batch, cells), (cells,))
        )
        mask = torch.rand(batch, queries, cells, generator=draw) < 0.5
        return x, positions, memory, places, _opened(mask), Parts(channels, heads, draw)

    return {
        "three queries and six cells": case(2, 3, 6, 4, 2),
        "as many queries as cells": case(1, 4, 4, 6, 3),
        "one query": case(2, 1, 5, 4, 1),
    }


_LAYER_CUT = {
    "queries": "No gradient reaches the queries, and the layers before this one would not learn. Use `x` as it is: no "
    "`detach`, no `data`.",
    "positions": "No gradient reaches the queries' positions. Use `positions` as they are: no `detach`, no `data`.",
    "memory": "No gradient reaches the memory, and the backbone would not learn. Use `memory` as it is: no `detach`, "
    "no `data`.",
}

LAYER = Exercise(
    solution=layer,
    wrong={
        "own_first": (
            _layers(order=(1, 0, 2)),
            "Your self-attention comes first, as in DETR. Here cross-attention comes first.",
        ),
        "own_first_with_its_norm": (
            _layers(order=(1, 0, 2), norms=(1, 0, 2)),
            "Your self-attention comes first and takes norms[0]. Here cross-attention comes first.",
        ),
        "feed_first": (_layers(order=(2, 0, 1)), "The feed-forward network comes last."),
        "feed_between": (_layers(order=(0, 2, 1)), "The feed-forward network comes behind the self-attention."),
        "no_own": (_layers(order=(0, 2)), "The self-attention is missing."),
        "no_feed": (_layers(order=(0, 1)), "The feed-forward network is missing."),
        "no_cross": (_layers(order=(1, 2)), "The cross-attention is missing."),
        "side_by_side": (
            _side_by_side,
            "All your steps read the same queries. Each reads what the step before it made.",
        ),
        "pre_norm": (
            _layers(join=lambda x, step, norm: x + step(norm(x))),
            "Your norms stand before the steps (pre-norm). Each stands behind its sum.",
        ),
        "norm_of_the_step": (
            _layers(join=lambda x, step, norm: x + norm(step(x))),
            "You normalise what is added. The norm is that of the sum.",
        ),
        "no_sum": (
            _layers(join=lambda x, step, norm: norm(step(x))),
            "The step replaces the queries in your answer. It is added to them.",
        ),
        "no_norm": (_layers(join=lambda x, step, norm: x + step(x)), "The norms are missing."),
        "norms_reversed": (_layers(norms=(2, 1, 0)), "norms[0] belongs to the first step, norms[2] to the last."),
        "first_norm_for_all": (_layers(norms=(0, 0, 0)), "You use norms[0] three times. Each step has its own."),
        "cross_query_without_position": (
            _layers(
                cross=lambda x, positions, memory, places, mask, parts: parts.cross(x, memory + places, memory, mask)
            ),
            "In the cross-attention the queries lack their positions.",
        ),
        "cross_key_without_place": (
            _layers(
                cross=lambda x, positions, memory, places, mask, parts: parts.cross(x + positions, memory, memory, mask)
            ),
            "In the cross-attention the keys lack their places, so no query can ask *where*.",
        ),
        "place_in_values": (
            _layers(
                cross=lambda x, positions, memory, places, mask, parts: parts.cross(
                    x + positions, memory + places, memory + places, mask
                )
            ),
            "You add places to the values of the cross-attention. Only its queries and keys have positions.",
        ),
        "mask_ignored": (
            _layers(
                cross=lambda x, positions, memory, places, mask, parts: parts.cross(
                    x + positions, memory + places, memory
                )
            ),
            "You do not pass the mask to the cross-attention.",
        ),
        "mask_for_both": (
            lambda x, positions, memory, places, mask, parts: _layer(
                x,
                positions,
                memory,
                places,
                mask,
                parts,
                own=lambda x, positions, parts: parts.own(x + positions, x + positions, x, mask),
            ),
            "Your self-attention gets the mask, which speaks of cells. It takes none.",
        ),
        "no_positions": (
            _layers(
                cross=lambda x, positions, memory, places, mask, parts: parts.cross(x, memory, memory, mask),
                own=lambda x, positions, parts: parts.own(x, x, x),
            ),
            "You do not use the positions. They are added to queries and keys of both attentions.",
        ),
        "own_without_positions": (
            _layers(own=lambda x, positions, parts: parts.own(x, x, x)),
            "In the self-attention queries and keys lack their positions.",
        ),
        "own_query_alone": (
            _layers(own=lambda x, positions, parts: parts.own(x + positions, x, x)),
            "In the self-attention the keys have positions as well, for they are queries, too.",
        ),
        "own_positions_in_values": (
            _layers(own=lambda x, positions, parts: parts.own(x + positions, x + positions, x + positions)),
            "You add positions to the values of the self-attention. Only its queries and keys have them.",
        ),
        "feed_with_positions": (
            _layers(feed=lambda x, positions, parts: parts.feed(x + positions)),
            "The feed-forward network gets the queries without positions.",
        ),
        "positions_kept": (
            _kept_positions,
            "You add the positions once, and they stay in the sum. They are added anew for each attention.",
        ),
        "positions_in_the_sum": (
            lambda x, positions, memory, places, mask, parts: _layer(
                x,
                positions,
                memory,
                places,
                mask,
                parts,
                cross=lambda x, *rest: positions + _cross(x, *rest),
                own=lambda x, *rest: positions + _own(x, *rest),
            ),
            "Your sums hold the positions, too: x + positions + step. A step is added to `x`.",
        ),
        "attentions_swapped": (
            _layers(
                cross=lambda x, positions, memory, places, mask, parts: parts.own(
                    x + positions, memory + places, memory, mask
                ),
                own=lambda x, positions, parts: parts.cross(x + positions, x + positions, x),
            ),
            "You swapped `parts.cross` and `parts.own`: `cross` reads the memory.",
        ),
        "queries_cut": (
            lambda x, positions, memory, places, mask, parts: layer(x.detach(), positions, memory, places, mask, parts),
            _LAYER_CUT["queries"],
        ),
        "positions_cut": (
            lambda x, positions, memory, places, mask, parts: layer(x, positions.detach(), memory, places, mask, parts),
            _LAYER_CUT["positions"],
        ),
        "memory_cut": (
            lambda x, positions, memory, places, mask, parts: layer(x, positions, memory.detach(), places, mask, parts),
            _LAYER_CUT["memory"],
        ),
    },
    right={"image by image": _by_image, "a norm by hand, in place": _layers(join=_norm_by_hand), "NumPy": _layer_numpy},
    probes=_decoders,
    verify=trains_all(layer, _decoders, list(_LAYER_CUT.values())),
    hint="Three times: x = norm(x + step(x)); positions are added to queries and keys of both attentions, never to "
    "values.",
    sketch="""
        step = parts.cross(x + positions, ..., memory, mask)
        x = parts.norms[0](x + step)
        step = parts.own(..., ..., x)
        x = parts.norms[1](x + step)
        return ...
    """,
    tolerance=2e-5,
)


# How many layers -----------------------------------------------------------------------------------------------------

DEPTH = Exercise(
    solution=(5, 6, 18, 16),
    wrong={
        "as_the_setting_says": (
            (6, 7, 21, 8),
            "The setting counts the predictions. The first one is made before any layer.",
        ),
        "no_raw_prediction": (
            (5, 5, 15, 16),
            "The raw queries are judged as well, before the first layer: that is one prediction more.",
        ),
        "two_losses": ((5, 6, 12, 16), "A prediction has three losses: class, mask and Dice."),
        "one_loss": ((5, 6, 6, 16), "Each prediction has several losses: class, mask and Dice."),
        "coarsest": ((5, 6, 18, 32), "Layers 0, 1, 2 read the strides 32, 16, 8, then it starts again at 32."),
        "finest": ((5, 6, 18, 8), "The order starts again after three layers: which one of the second round is last?"),
    },
    right={"a list": [5, 6, 18, 16], "a tensor": torch.tensor([5, 6, 18, 16])},
    hint="The setting counts predictions: one of the raw queries, and one behind each layer.",
    sketch="""
        6 predictions: one before the first layer, one behind each of ... layers
        ... losses each
        layers read the strides 32, 16, 8, 32, ...
    """,
)


# When is a mask settled? ---------------------------------------------------------------------------------------------


def agreement(mask_logits: Tensor) -> Tensor:
    """Mask logits ``(L + 1, Q, H, W)`` of all predictions → IoU with the last one's masks, ``(L + 1, Q)``."""
    return _agreement(mask_logits)


def _agreement(
    mask_logits: Tensor,
    *,
    binary: Callable[[Tensor], Tensor] = lambda z: z > 0,
    other: Callable[[Tensor], Tensor] = lambda masks: masks[-1:].expand_as(masks),
    over: Callable[[Tensor, Tensor], Tensor] = lambda a, b: (a | b).sum((2, 3)),
    empty: float = 1.0,
    factor: float = 1.0,
) -> Tensor:
    """``agreement`` with another mask, another partner, another denominator or another value for two empty masks."""
    a = binary(mask_logits)
    b = other(a)
    inter, union = (a & b).sum((2, 3)), over(a, b)
    return torch.where(union > 0, factor * inter / union.clamp(min=1), empty)


def _agreements(**changes: Any) -> Callable[[Tensor], Tensor]:
    return lambda mask_logits: _agreement(mask_logits, **changes)


def _agreement_numpy(mask_logits: Tensor) -> np.ndarray:
    masks = mask_logits.numpy() > 0
    out = np.ones(masks.shape[:2])
    for layer_, each in enumerate(masks):
        for query, mask in enumerate(each):
            union = np.logical_or(mask, masks[-1, query]).sum()
            if union:
                out[layer_, query] = np.logical_and(mask, masks[-1, query]).sum() / union
    return out


def _agreement_in_place(mask_logits: Tensor) -> list[list[float]]:
    mask_logits.gt_(0)  # 0 and 1
    a = mask_logits.flatten(2)
    inter = (a * a[-1]).sum(-1)
    union = a.sum(-1) + a[-1].sum(-1) - inter
    return torch.nan_to_num(inter / union, nan=1.0).tolist()


def _all_queries_together(mask_logits: Tensor) -> Tensor:
    a = mask_logits > 0
    inter, union = (a & a[-1]).sum((1, 2, 3)), (a | a[-1]).sum((1, 2, 3))
    return (inter / union.clamp(min=1))[:, None].expand(a.shape[:2])


def _before(masks: Tensor) -> Tensor:
    return torch.cat([masks[:1], masks[:-1]])


def _predictions() -> Mapping[str, tuple[Tensor]]:
    draw = torch.Generator().manual_seed(12)
    two = torch.randn(3, 2, 3, 4, generator=draw)
    zero = two.clone().round()
    empty = two.clone()
    empty[-1, 0] = -1.0
    empty[0, 0] = -2.0
    return {
        "two queries and three predictions": (two,),
        "logits of exactly 0": (zero,),
        "a mask that is empty at the end": (empty,),
        "a single prediction": (torch.randn(1, 4, 2, 2, generator=draw),),
        "five predictions": (torch.randn(5, 3, 4, 4, generator=draw) - 0.5,),
    }


AGREEMENT = Exercise(
    solution=agreement,
    wrong={
        "dice": (
            _agreements(over=lambda a, b: a.sum((2, 3)) + b.sum((2, 3)), factor=2.0),
            "That is Dice. IoU is the intersection over the union.",
        ),
        "over_the_last": (
            _agreements(over=lambda a, b: b.sum((2, 3))),
            "You divide by the last mask alone. The union holds both.",
        ),
        "over_the_first": (
            _agreements(over=lambda a, b: a.sum((2, 3))),
            "You divide by the earlier mask alone. The union holds both.",
        ),
        "over_all_cells": (
            _agreements(over=lambda a, b: torch.full(a.shape[:2], float(a[0, 0].numel()))),
            "You divide by all cells. Divide by those of the union.",
        ),
        "zero_inside": (
            _agreements(binary=lambda z: z >= 0),
            "A logit of exactly 0 is outside: a mask is where the logit is above 0.",
        ),
        "logit_of_half": (
            _agreements(binary=lambda z: z > 0.5),
            "You compare the logits with ½. A mask is where the logit is above 0.",
        ),
        "with_the_first": (
            _agreements(other=lambda masks: masks[:1].expand_as(masks)),
            "You compare with the first prediction. Compare with the last one.",
        ),
        "with_the_one_before": (
            _agreements(other=_before),
            "You compare each prediction with the one before it. Compare with the last one.",
        ),
        "empty_as_zero": (
            _agreements(empty=0.0),
            "Two empty masks agree: their IoU is 1 here.",
        ),
        "empty_as_nan": (
            _agreements(empty=torch.nan),
            "Two empty masks give 0 / 0 in your answer. They agree: 1.",
        ),
        "empty_as_one_at_once": (
            lambda mask_logits: torch.where((mask_logits[-1] > 0).flatten(1).any(1), agreement(mask_logits), 1.0),
            "You give 1 wherever the last mask is empty. Both must be empty: else nothing agrees, and the IoU is 0.",
        ),
        "all_queries_together": (
            _all_queries_together,
            "You count the cells of all queries together. Each query has an IoU of its own.",
        ),
        "mean_of_queries": (
            lambda mask_logits: agreement(mask_logits).mean(1),
            "You take the mean over the queries. One number for each prediction and query is wanted: (L + 1, Q).",
        ),
        "without_the_last": (
            lambda mask_logits: agreement(mask_logits)[:-1],
            "The last prediction is missing. It agrees with itself: 1.",
        ),
    },
    right={"NumPy, loops": _agreement_numpy, "in place, as lists": _agreement_in_place},
    probes=_predictions,
    hint="Masks are where logits are above 0; IoU of each with the last prediction's mask of the same query.",
    sketch="""
        masks = mask_logits ... 0                            # (L + 1, Q, H, W)
        inter = (masks & masks[-1]).sum((2, 3))              # (L + 1, Q)
        union = ...
        return torch.where(union > 0, ..., 1.0)
    """,
)
