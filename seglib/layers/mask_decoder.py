"""The mask decoder of SAM: tokens and image look at each other, then each mask token becomes a mask.

Source: Kirillov et al., "Segment Anything", ICCV 2023, section 3 and appendix A, figure 14.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import LayerNorm2d

from seglib.layers.attention import MultiHeadAttention

MASKS = 4
"""Mask tokens: the first answers prompts that leave no doubt, the other three an ambiguous one."""


class TwoWayBlock(nn.Module):
    """Tokens attend to each other, tokens to the image, and the image to the tokens.

    ::

        tokens ── self-attention ── + norm ── attend to image ── + norm ── MLP ── + norm ─┬──────────────────► tokens
        image ──────────────────────────▲─────────────────────────────────────────────────▼ attend to tokens ► image

    Positions are added to queries and keys each time, never to values: of the tokens those that they had as prompts, of
    the image those of its cells.

    Args:
        channels: channels C of tokens and image.
        heads: number of heads.
        hidden: channels between the two linear layers of the MLP.
        first: whether the tokens are still the prompts themselves. Then self-attention adds no positions, which would
            double them, and replaces the tokens.
    """

    def __init__(self, channels: int, *, heads: int, hidden: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attention = MultiHeadAttention(channels, heads)
        self.self_norm = nn.LayerNorm(channels)
        self.token_attention = MultiHeadAttention(channels, heads, hidden=channels // 2)
        self.token_norm = nn.LayerNorm(channels)
        self.linear1, self.linear2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.mlp_norm = nn.LayerNorm(channels)
        self.image_attention = MultiHeadAttention(channels, heads, hidden=channels // 2)
        self.image_norm = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor, places: Tensor, image: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """One block.

        Args:
            tokens: what the tokens know so far, ``(N, T, C)``.
            places: positions of the tokens, ``(N, T, C)``.
            image: cells of the image, ``(N, M, C)``; or ``(1, M, C)`` as long as they are the same for all prompts.
            cells: positions of the cells, ``(M, C)``.

        Returns:
            The tokens ``(N, T, C)`` and the image ``(N, M, C)``.
        """
        if self.first:
            tokens = self.self_norm(self.self_attention(tokens, tokens, tokens))
        else:
            x = tokens + places
            tokens = self.self_norm(tokens + self.self_attention(x, x, tokens))
        tokens = self.token_norm(tokens + self.token_attention(tokens + places, image + cells, image))
        tokens = self.mlp_norm(tokens + self.linear2(F.relu(self.linear1(tokens))))
        image = self.image_norm(image + self.image_attention(image + cells, tokens + places, tokens))
        return tokens, image


class MLP(nn.Sequential):
    """Three linear layers with ReLU between them.

    Shape: ``(…, channels)`` → ``(…, out)``.
    """

    def __init__(self, channels: int, out: int) -> None:
        layers: list[nn.Module] = []
        for a, b in pairwise((channels, channels, channels, out)):
            layers += [nn.Linear(a, b), nn.ReLU()]
        super().__init__(*layers[:-1])


class Upsampling(nn.Sequential):
    """Two transposed convolutions: C channels become F, and each cell 4 × 4 cells.

    Args:
        channels: channels C of the map.
        features: channels F of the result.
    """

    def __init__(self, channels: int, features: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(channels, channels // 4, 2, stride=2),
            LayerNorm2d(channels // 4, eps=1e-6),
            nn.GELU(),
            nn.ConvTranspose2d(channels // 4, features, 2, stride=2),
            nn.GELU(),
        )

    def forward(self, input: Tensor, finer: Tensor | None = None) -> Tensor:
        """Upsample a map.

        Args:
            input: map ``(N, C, h, w)``.
            finer: folded maps ``(1 or N, C + 16 F, h, w)`` that are added on the way, see :class:`MaskDecoder`; none
                when ``None`` or without channels.

        Returns:
            ``(N, F, 4h, 4w)``.
        """
        if finer is None or finer.numel() == 0:  # also of no prompts, where PyTorch can't go back through pixel_shuffle
            return super().forward(input)
        double, norm, activation, again, last = self
        twice, fourfold = finer.tensor_split([input.shape[1]], 1)
        x = activation(norm(double(input) + F.pixel_shuffle(twice, 2)))  # (N, C/4, 2h, 2w)
        return last(again(x) + F.pixel_shuffle(fourfold, 4))  # (N, F, 4h, 4w)


class MaskDecoder(nn.Module):
    """Prompts and an image embedding become four masks each, and the IoU that each is predicted to have.

    ::

        IoU token, 4 mask tokens, prompts (N, 5 + T, C) ─► two-way block ─► … ─► tokens ─ attend to image ─┬─ MLP ─► IoU
        image embedding + map (N, C, h, w) ──────────────► two-way block ─► … ─► image ────────▲           │
                                                                                   └─ ×2 ── ×2 ─► (N, F, 4h, 4w)
                                                               mask = ⟨MLP of its token, image⟩, at every pixel ◄──┘

    Nothing that costs much depends on the prompt but these few layers, and they are small.

    An embedding may have 2C + 16F channels. Then those after the first C are finer maps, which are added on the way up,
    as in SAM 2 (Ravi et al., "SAM 2: Segment Anything in Images and Videos", 2024, section 4). They are folded as
    ``pixel_unshuffle`` does: of each cell first the 2 × 2 cells of a map of C/4 channels, then the 4 × 4 cells of a map
    of F.

    Args:
        channels: channels C of image embedding and tokens.
        depth: number of two-way blocks.
        heads: number of heads.
        hidden: channels between the two linear layers of a block's MLP.
        features: channels F of the map whose dot products with a token's vector are its mask; C/8 when not given.

    Raises:
        ValueError: when C isn't a multiple of 8.
    """

    def __init__(
        self, channels: int, *, depth: int = 2, heads: int = 8, hidden: int = 2048, features: int | None = None
    ) -> None:
        super().__init__()
        if channels % 8:
            raise ValueError(
                f"channels must be a multiple of 8, which the masks' features have of them, got {channels}"
            )
        features = features or channels // 8
        self.embedding_channels = (channels, 2 * channels + 16 * features)
        self.iou_token = nn.Parameter(torch.randn(1, channels))
        self.mask_tokens = nn.Parameter(torch.randn(MASKS, channels))
        self.blocks = nn.ModuleList(
            TwoWayBlock(channels, heads=heads, hidden=hidden, first=i == 0) for i in range(depth)
        )
        self.last_attention = MultiHeadAttention(channels, heads, hidden=channels // 2)
        self.last_norm = nn.LayerNorm(channels)
        self.upsample = Upsampling(channels, features)
        self.mask_mlps = nn.ModuleList(MLP(channels, features) for _ in range(MASKS))
        self.iou_mlp = MLP(channels, MASKS)

    def forward(self, embedding: Tensor, positions: Tensor, prompts: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            embedding: image embedding ``(1, C, h, w)`` of all prompts, or one for each ``(N, C, h, w)``; of
                2C + 16F channels with finer maps.
            positions: positions of the cells, ``(C, h, w)``.
            prompts: tokens of the prompts, ``(N, T, C)``.
            dense: map of the prompts, ``(1, C, h, w)`` or ``(N, C, h, w)``.

        Returns:
            Mask logits ``(N, 4, 4h, 4w)``, and the predicted IoU of each, ``(N, 4)``.

        Raises:
            ValueError: for an embedding of another number of channels.
        """
        n, (height, width) = len(prompts), embedding.shape[-2:]
        channels = len(positions)
        if embedding.shape[1] not in self.embedding_channels:
            raise ValueError(
                f"an embedding has {channels} channels, or {self.embedding_channels[1]} with finer maps, got "
                f"{embedding.shape[1]}; pass what `encode` of the same model gave"
            )
        embedding, finer = embedding.split([channels, embedding.shape[1] - channels], 1)
        own = torch.cat([self.iou_token, self.mask_tokens])  # (5, C)
        places = torch.cat([own.expand(n, -1, -1), prompts], 1)  # (N, 5 + T, C)
        image = (embedding + dense).flatten(2).mT  # (1 or N, M, C)
        cells = positions.flatten(1).T  # (M, C)
        tokens = places
        for block in self.blocks:
            tokens, image = block(tokens, places, image, cells)
        x = tokens + self.last_attention(tokens + places, image + cells, image)
        tokens = self.last_norm(x)  # (N, 5 + T, C)
        features = self.upsample(image.mT.unflatten(2, (height, width)), finer)  # (N, F, 4h, 4w)
        weights = torch.stack([mlp(tokens[:, 1 + i]) for i, mlp in enumerate(self.mask_mlps)], 1)  # (N, 4, F)
        masks = (weights @ features.flatten(2)).unflatten(2, features.shape[2:])  # (N, 4, 4h, 4w)
        return masks, self.iou_mlp(tokens[:, 0])
