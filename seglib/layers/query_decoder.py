"""The decoder of Mask2Former: queries that look at the image through their own masks.

Source: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR 2022, sections 3.2.1
and 3.2.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglib.layers.attention import MultiHeadAttention, SinePosition
from seglib.ops.attention import open_empty_rows


class QueryDecoderLayer(nn.Module):
    """Queries look at a map, then at each other, then think: each result is added and normalised.

    Cross-attention comes first: before the first layer the queries are the same for every image, and a query that has
    seen nothing has nothing to tell the others.

    Args:
        channels: channels C of queries and map.
        heads: number of heads.
        hidden: channels between the two linear layers.
    """

    def __init__(self, channels: int, *, heads: int, hidden: int) -> None:
        super().__init__()
        self.cross_attention = MultiHeadAttention(channels, heads)
        self.cross_norm = nn.LayerNorm(channels)
        self.self_attention = MultiHeadAttention(channels, heads)
        self.self_norm = nn.LayerNorm(channels)
        self.linear1, self.linear2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.norm = nn.LayerNorm(channels)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, queries: Tensor, positions: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """One layer.

        Args:
            queries: what the queries know so far, ``(B, Q, C)``.
            positions: learned positions of the queries, ``(Q, C)``.
            key: cells of the map with their positions, ``(B, M, C)``.
            value: cells of the map, ``(B, M, C)``.
            mask: bool ``(B, Q, M)``, true where a query may look; ``None`` where it may look everywhere.

        Returns:
            ``(B, Q, C)``.
        """
        x = self.cross_norm(queries + self.cross_attention(queries + positions, key, value, mask))
        places = x + positions
        x = self.self_norm(x + self.self_attention(places, places, x))
        return self.norm(x + self.linear2(F.relu(self.linear1(x))))


class QueryDecoder(nn.Module):
    """Q learned queries become Q pairs of class and mask, layer by layer.

    ::

        learned queries (Q, C) ── layer 1 ── layer 2 ── layer 3 ── layer 4 ── …
                                   ▲          ▲          ▲          ▲
                                  1/32       1/16       1/8        1/32   …      the scales, round-robin
        after each: norm ─┬─ Linear ── classes (Q, K + 1)
                          └─ MLP ── embeddings (Q, C_m) · mask features ── masks (Q, H/4, W/4) ── what may be attended

    A prediction stands before the first layer and after each, L + 1 in all. Masks of the next layer's scale are made
    from features resized to it: resizing is linear, so that they are the masks resized to it.

    Args:
        num_classes: number of classes K; index K means "no object".
        channels: channels C of queries and scales.
        queries: number of queries Q.
        layers: number of layers L.
        heads: number of heads.
        hidden: channels between the two linear layers of a layer.
        mask_channels: channels C_m of the mask features.
        scales: number of maps that the layers take in turn.

    Attributes:
        masked_attention: whether a query looks only where its last mask is at least ½. A query whose mask is empty
            looks everywhere.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 256,
        *,
        queries: int = 100,
        layers: int = 9,
        heads: int = 8,
        hidden: int = 2048,
        mask_channels: int = 256,
        scales: int = 3,
        masked_attention: bool = True,
    ) -> None:
        super().__init__()
        if queries < 1 or layers < 1:
            raise ValueError(f"a decoder needs at least one query and one layer, got {queries} and {layers}")
        self.masked_attention = masked_attention
        self.query_features = nn.Parameter(torch.randn(queries, channels))
        self.query_positions = nn.Parameter(torch.randn(queries, channels))
        self.level_embedding = nn.Parameter(torch.randn(scales, channels))
        self.position = SinePosition(channels)
        self.layers = nn.ModuleList(QueryDecoderLayer(channels, heads=heads, hidden=hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self.class_head = nn.Linear(channels, num_classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, mask_channels),
        )

    def forward(self, scales: Sequence[Tensor], mask_features: Tensor) -> tuple[Tensor, Tensor]:
        """Classes and mask embeddings of all queries, before the first layer and after each.

        Args:
            scales: maps ``(B, C, h, w)``, coarsest first.
            mask_features: features that masks are made of, ``(B, C_m, H/4, W/4)``.

        Returns:
            Class logits ``(L + 1, B, Q, K + 1)`` and mask embeddings ``(L + 1, B, Q, C_m)``.
        """
        keys, values = self.tokens(scales)
        resized = resize_features(mask_features, scales)
        x = self.query_features.expand(len(mask_features), -1, -1)  # (B, Q, C)
        classes, embeddings = self.predict(x)
        predictions = [(classes, embeddings)]
        for i, layer in enumerate(self.layers):
            s = i % len(scales)
            mask = attention_mask(embeddings, resized[s]) if self.masked_attention else None  # (B, Q, h·w)
            x = layer(x, self.query_positions, keys[s], values[s], mask)
            classes, embeddings = self.predict(x)
            predictions.append((classes, embeddings))
        of_classes, of_embeddings = zip(*predictions, strict=True)
        return torch.stack(of_classes), torch.stack(of_embeddings)

    def tokens(self, scales: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of each scale, ``(B, h·w, C)``: cells with an embedding of the scale; keys have positions."""
        values = [x.flatten(2).mT + e for x, e in zip(scales, self.level_embedding, strict=True)]
        keys = [(v + self.position(x).flatten(1).mT).to(v.dtype) for v, x in zip(values, scales, strict=True)]
        return keys, values

    def predict(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Queries ``(B, Q, C)`` → class logits ``(B, Q, K + 1)`` and mask embeddings ``(B, Q, C_m)``."""
        x = self.norm(queries)
        return self.class_head(x), self.mask_head(x)


@torch.no_grad()
def resize_features(mask_features: Tensor, scales: Sequence[Tensor]) -> list[Tensor]:
    """The mask features at the size of each scale, ``(B, C_m, h, w)``, bilinear; for attention masks, no gradient."""
    return [F.interpolate(mask_features, size=x.shape[2:], mode="bilinear") for x in scales]


@torch.no_grad()
def attention_mask(embeddings: Tensor, features: Tensor) -> Tensor:
    """Where each query may look: where its mask is at least ½, everywhere if it is so nowhere.

    Args:
        embeddings: mask embeddings ``(B, Q, C_m)``.
        features: mask features at the scale that is attended to, ``(B, C_m, h, w)``.

    Returns:
        Bool ``(B, Q, h·w)``. No gradient passes.
    """
    logits = embeddings @ features.flatten(2)  # (B, Q, h·w)
    return open_empty_rows(logits >= 0)  # sigmoid(0) = ½
