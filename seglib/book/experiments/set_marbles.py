"""Synthetic images of one to four marbles in two colours, many of which touch, and a small network that finds them.

Marbles of one colour that touch are one region of a class map, so that a class for every pixel cannot count them. The
network answers with a set: a few queries, each with a class and a mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglib.layers.attention import SinePosition
from seglib.layers.query_decoder import QueryDecoderLayer
from seglib.losses.hungarian import hungarian, matching_cost
from seglib.losses.points import point_mask_loss

SIDE = 16
"""Height and width of an image in pixels."""
MOST = 4
"""Most marbles of an image."""
COLORS = ((0.84, 0.37, 0.0), (0.0, 0.45, 0.70))
"""Colour of each class."""
CLASSES = ("orange", "blue")
QUERIES = 6

_RADII = (2.0, 3.4)
_TOUCH = 0.6  # how often a marble touches the one before it, in its colour
_NOISE = 0.08
_TRIES = 20


@dataclass(frozen=True, eq=False)
class Marbles:
    """N images with the marbles in them.

    Attributes:
        images: ``(N, 3, H, W)`` float, near [0, 1].
        labels: class of each marble of an image, ``(G,)`` int64.
        masks: mask of each marble of an image, ``(G, H, W)`` bool. Masks don't overlap.
        void: pixels that an annotator leaves out, ``(N, H, W)`` bool: one half of each marble, in a random direction.
    """

    images: Tensor
    labels: list[Tensor]
    masks: list[Tensor]
    void: Tensor

    def __len__(self) -> int:
        return len(self.images)


def marbles(count: int, seed: int) -> Marbles:
    """Images with one to four marbles.

    Args:
        count: number of images.
        seed: sets what is drawn; another seed gives other images.

    Raises:
        ValueError: when ``count`` is not positive.
    """
    if count < 1:
        raise ValueError(f"count must be positive, got {count}; pass the number of images")
    draw = torch.Generator().manual_seed(seed)
    drawn = [_image(draw) for _ in range(count)]
    images, labels, masks, void = zip(*drawn, strict=True)
    return Marbles(torch.stack(images), list(labels), list(masks), torch.stack(void))


def _image(draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def number(low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(torch.rand((), generator=draw))

    y, x = torch.meshgrid(*[torch.arange(SIDE) + 0.5] * 2, indexing="ij")
    wanted, labels, masks = int(torch.randint(1, MOST + 1, (), generator=draw)), list[int](), list[Tensor]()
    void, free = torch.zeros(SIDE, SIDE, dtype=torch.bool), torch.ones(SIDE, SIDE, dtype=torch.bool)
    circles: list[tuple[float, float, float]] = []
    for _ in range(_TRIES * wanted):
        if len(masks) == wanted:
            break
        radius, label = number(*_RADII), int(torch.randint(2, (), generator=draw))
        angle, half = number(high=2 * math.pi), number(high=2 * math.pi)
        cx, cy = number(radius, SIDE - radius), number(radius, SIDE - radius)
        if circles and number() < _TOUCH:
            u, v, other = circles[-1]
            cx, cy, label = u + (other + radius) * math.cos(angle), v + (other + radius) * math.sin(angle), labels[-1]
        inside = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
        apart = all(math.hypot(cx - u, cy - v) > other + radius - 1e-6 for u, v, other in circles)
        if apart and min(cx, cy) >= radius and max(cx, cy) <= SIDE - radius:
            circles.append((cx, cy, radius))
            labels.append(label)
            masks.append(inside & free)
            free &= ~inside
            void |= masks[-1] & ((x - cx) * math.cos(half) + (y - cy) * math.sin(half) > 0)
    image = torch.full((3, SIDE, SIDE), 0.5)
    for label, mask in zip(labels, masks, strict=True):
        image[:, mask] = torch.tensor(COLORS[label])[:, None]
    image += _NOISE * torch.randn(image.shape, generator=draw)
    return image, torch.tensor(labels), torch.stack(masks), void


class MarbleNet(nn.Module):
    """Three convolutions, one decoder layer, and for each query a class and a mask.

    Args:
        channels: channels C of pixels and queries, a multiple of 4.
        positions: whether pixels know where they lie.
    """

    def __init__(self, channels: int = 32, *, positions: bool = True) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )  # fmt: skip
        self.position, self.positions = SinePosition(channels), positions
        self.query_features = nn.Parameter(torch.randn(QUERIES, channels))
        self.query_positions = nn.Parameter(torch.randn(QUERIES, channels))
        self.layer = QueryDecoderLayer(channels, heads=4, hidden=2 * channels)
        self.class_head = nn.Linear(channels, len(CLASSES) + 1)
        self.mask_head = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Of images ``(B, 3, H, W)`` class logits ``(B, Q, 3)``, the last "no object", and masks ``(B, Q, H, W)``."""
        x = self.stem(images)  # (B, C, H, W)
        placed = x + self.position(x) if self.positions else x
        queries = self.query_features.expand(len(x), -1, -1)  # (B, Q, C)
        pixels = (placed.flatten(2).mT, x.flatten(2).mT)  # keys and values (B, H·W, C)
        queries = self.layer(queries, self.query_positions, *pixels, None)
        return self.class_head(queries), torch.einsum("bqc,bchw->bqhw", self.mask_head(queries), placed)


Matcher = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Costs ``(Q, G)`` → queries and the object of each, ``(n,)`` each."""


def marble_loss(
    class_logits: Tensor,
    mask_logits: Tensor,
    data: Marbles,
    picked: Tensor,
    *,
    matcher: Matcher = hungarian,
    no_object_weight: float = 0.1,
    by_weights: bool = True,
    void: str = "",
) -> Tensor:
    """The loss of a set, 2 class + 5 BCE + 5 Dice, over all pixels of a mask.

    Args:
        class_logits: class logits of the queries, ``(B, Q, 3)``.
        mask_logits: mask logits of the queries, ``(B, Q, H, W)``.
        data: the images' marbles.
        picked: indices of the batch's images, ``(B,)``.
        matcher: gives queries their objects.
        no_object_weight: weight of "no object" in the class loss.
        by_weights: whether the class loss is divided by the sum of the weights, and not by the number of queries.
        void: "" where annotators mark everything; where they leave ``data.void`` out, what void does: "ignored" counts
            nowhere, "background" trains as background.

    Raises:
        ValueError: for another word in ``void``.
    """
    if void not in ("", "ignored", "background"):
        raise ValueError(f'void is "", "ignored" or "background", got {void!r}')
    classes = torch.full(class_logits.shape[:2], len(CLASSES))  # (B, Q)
    logits, targets, weights = [], [], []
    for i, image in enumerate(picked.tolist()):
        labels, masks = data.labels[image], data.masks[image]
        if void:
            masks = masks & ~data.void[image]
        known = ~data.void[image] if void == "ignored" else torch.ones_like(data.void[image])
        flat, seen = masks.flatten(1).float(), known.flatten().float()  # (G, P), (P,)
        costs = matching_cost(class_logits[i].detach(), mask_logits[i].detach().flatten(1), labels, flat, seen)
        queries, objects = matcher(costs)
        classes[i, queries] = labels[objects]
        logits.append(mask_logits[i, queries].flatten(1))
        targets.append(flat[objects])
        weights.append(seen.expand_as(targets[-1]))
    found = torch.cat(logits)  # (N, P)
    bce, dice = point_mask_loss(found, torch.cat(targets), torch.cat(weights), max(1, len(found)))
    weight = torch.where(classes == len(CLASSES), no_object_weight, 1.0)  # (B, Q)
    each = F.cross_entropy(class_logits.mT, classes, reduction="none") * weight
    return 2 * each.sum() / (weight.sum() if by_weights else weight.numel()) + 5 * bce + 5 * dice


def best_object(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Every query takes the object that costs it least, whoever else takes it: no one-to-one matching."""
    return torch.arange(len(cost)), cost.argmin(1)


@torch.inference_mode()
def set_scores(class_logits: Tensor, mask_logits: Tensor, data: Marbles) -> dict[str, float]:
    """How good the sets are. A query answers when its best class has a probability above ½, "no object" included.

    An answer is right for a marble of its class when their IoU is above ½.

    Returns:
        ``found``: share of the marbles with a right answer. ``claims``: right answers a found marble, 1 without
        duplicates. ``answers``: answers a marble. ``exact``: share of the images in which every marble has exactly one
        right answer and no other answer is given.
    """
    found = claims = given = exact = total = 0
    for classes, masks, labels, truth in zip(class_logits, mask_logits, data.labels, data.masks, strict=True):
        best, label = classes.softmax(1).max(1)  # (Q,)
        says = (label < len(CLASSES)) & (best > 0.5)
        a, t = (masks[says] > 0).flatten(1).double(), truth.flatten(1).double()  # (n, P), (G, P)
        shared = a @ t.T
        union = a.sum(1, keepdim=True) + t.sum(1) - shared
        right = (2 * shared > union) & (label[says][:, None] == labels)  # (n, G)
        found += int(right.any(0).sum())
        claims += int(right.sum())
        given += int(says.sum())
        total += len(labels)
        exact += int(says.sum() == len(labels) and bool(right.any(0).all()))
    return {
        "found": found / total,
        "claims": claims / max(1, found),
        "answers": given / total,
        "exact": exact / len(data),
    }
