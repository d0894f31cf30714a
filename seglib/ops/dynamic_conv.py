"""Convolutions whose filters are data: every object brings 1×1 filters of its own, and all run in one call.

A network's usual filters are learned once. Here another branch of the network generates them, one set for each object
(CondInst, SOLOv2); YOLACT's mask coefficients are the smallest case, one filter without bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.ops.precision import at_least_float32

IMPLEMENTATIONS = ("grouped", "reference")
CACHED = 2**19
"""Numbers of one layer's output that are computed at once on a CPU: 2 MB of float32, which stay in its caches."""


def filter_count(channels: Sequence[int], *, bias: bool = True) -> int:
    """Number of parameters P of a chain of 1×1 convolutions with these channels: 169 for (10, 8, 8, 1).

    Raises:
        ValueError: for fewer than two entries, or one below 1.
    """
    if len(channels) < 2 or min(channels) < 1:
        raise ValueError(
            f"channels are those of the input, then of every layer, each at least 1; got {tuple(channels)}"
        )
    return sum(a * b + b * bias for a, b in pairwise(channels))


def dynamic_conv(
    features: Tensor,
    parameters: Tensor,
    channels: Sequence[int],
    *,
    image: Tensor | None = None,
    bias: bool = True,
    x: Tensor | None = None,
    y: Tensor | None = None,
    impl: str = "grouped",
) -> Tensor:
    """What each object's chain of 1×1 convolutions makes of the features, with ReLU between the layers.

    Coordinates that differ from object to object, such as those relative to its centre, are given as one row ``x`` and
    one column ``y`` and never spread into maps: what the first layer makes of them is a row plus a column. Runs in
    float32 at least, under autocast too.

    Source: Tian et al., "Conditional Convolutions for Instance Segmentation", ECCV 2020, section 3.2.

    Args:
        features: features that all objects of an image share, ``(B, C, H, W)``.
        parameters: parameters of each object, ``(N, P)``: the weights of all layers, each ``(out, in)``, then the
            biases of all layers.
        channels: channels of the input, then of every layer's output: (10, 8, 8, 1) in CondInst. The input's are C, or
            C + 2 with coordinates.
        image: image of each object, ``(N,)`` int64; may be left out for a single image.
        bias: whether the layers have biases.
        x: coordinate of every column for each object, ``(N, W)``; with ``y``, the input is x, y, then the features.
        y: coordinate of every row for each object, ``(N, H)``.
        impl: ``"grouped"`` runs all objects at once, ``"reference"`` one after the other. Equal to rounding.

    Returns:
        ``(N, channels[-1], H, W)``. Gradients pass to features, parameters and coordinates.

    Raises:
        ValueError: when the shapes don't fit each other, or for an unknown ``impl``.
    """
    _check(features, parameters, channels, image, bias, x, y, impl)
    features, parameters = at_least_float32(features), at_least_float32(parameters)
    with torch.autocast(features.device.type, enabled=False):
        weights, biases = _split(parameters, channels, bias)
        run = _one_by_one if impl == "reference" else _grouped
        return run(features, weights, biases, image, x, y)


def _grouped(
    features: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    image: Tensor | None,
    x: Tensor | None,
    y: Tensor | None,
) -> Tensor:
    """All objects at once; on a CPU a few rows after the other, which is up to ten times as fast on large maps."""
    height, width = features.shape[2:]
    of_row = len(weights[0]) * max(w.shape[1] for w in weights) * width
    if features.is_cuda or torch.compiler.is_compiling() or of_row * height <= CACHED:
        return _rows(features, weights, biases, image, x, y)
    step = max(1, CACHED // max(1, of_row))
    parts = [slice(begin, begin + step) for begin in range(0, height, step)]
    done = [_rows(features[:, :, p], weights, biases, image, x, None if y is None else y[:, p]) for p in parts]
    return torch.cat(done, 2)


def _rows(
    features: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    image: Tensor | None,
    x: Tensor | None,
    y: Tensor | None,
) -> Tensor:
    """What the filters make of some rows of the features, ``(N, channels[-1], rows, W)``."""
    height, width = features.shape[2:]
    first, flat = weights[0], features.flatten(2)  # (N, out, in), (B, C, H·W)
    # the product with the features is added to what coordinates and bias give, which saves a pass over memory
    h = biases[0][..., None] if biases else first.new_zeros(1, 1, 1)  # (N, out, 1)
    if x is not None and y is not None:
        column = h + first[:, :, 1, None] * y.to(h.dtype)[:, None]  # (N, out, H)
        row = first[:, :, 0, None] * x.to(h.dtype)[:, None]  # (N, out, W)
        h, first = (column[..., None] + row[:, :, None]).flatten(2), first[:, :, 2:]  # (N, out, H·W), (N, out, C)
    else:
        h = h.expand(*first.shape[:2], flat.shape[2]).clone()
    if image is None:
        h = h.flatten(0, 1).addmm_(first.flatten(0, 1), flat[0]).unflatten(0, first.shape[:2])
    else:
        h = h.baddbmm_(first, flat[image])
    for i, weight in enumerate(weights[1:], 1):
        h = h.relu_()
        h = torch.baddbmm(biases[i][..., None], weight, h) if biases else weight @ h  # (N, out, H·W)
    return h.unflatten(2, (height, width))


def _one_by_one(
    features: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    image: Tensor | None,
    x: Tensor | None,
    y: Tensor | None,
) -> Tensor:
    out = []
    for n in range(len(weights[0])):
        h = features[0 if image is None else image[n]]  # (C, H, W)
        if x is not None and y is not None:
            rows = x[n].to(h.dtype).expand(h.shape[1:])  # (H, W)
            columns = y[n].to(h.dtype)[:, None].expand(h.shape[1:])  # (H, W)
            h = torch.cat([torch.stack([rows, columns]), h])  # (C + 2, H, W)
        for i, weight in enumerate(weights):
            h = F.conv2d(F.relu(h) if i else h, weight[n, :, :, None, None], biases[i][n] if biases else None)
        out.append(h)
    return torch.stack(out) if out else features.new_zeros(0, weights[-1].shape[1], *features.shape[2:])


def _split(parameters: Tensor, channels: Sequence[int], bias: bool) -> tuple[list[Tensor], list[Tensor]]:
    """The weights ``(N, out, in)`` and biases ``(N, out)`` of every layer."""
    shapes = [(b, a) for a, b in pairwise(channels)]
    sizes = [a * b for a, b in shapes] + [b for b, _ in shapes] * bias
    parts = parameters.split(sizes, 1)
    weights = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=False)]
    return weights, list(parts[len(shapes) :])


def _check(
    features: Tensor,
    parameters: Tensor,
    channels: Sequence[int],
    image: Tensor | None,
    bias: bool,
    x: Tensor | None,
    y: Tensor | None,
    impl: str,
) -> None:
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl {impl!r} is unknown; choose one of {', '.join(IMPLEMENTATIONS)}")
    count = filter_count(channels, bias=bias)
    if features.ndim != 4 or parameters.ndim != 2 or parameters.shape[1] != count:
        raise ValueError(
            f"channels {tuple(channels)} need features (B, C, H, W) and parameters (N, {count}), got "
            f"{tuple(features.shape)} and {tuple(parameters.shape)}"
        )
    if (x is None) != (y is None):
        raise ValueError("coordinates need both x (N, W) and y (N, H); pass both or neither")
    n, (height, width) = len(parameters), features.shape[2:]
    if x is not None and y is not None and (x.shape != (n, width) or y.shape != (n, height)):
        raise ValueError(
            f"{n} objects on features of {height} x {width} need x {(n, width)} and y {(n, height)}, got "
            f"{tuple(x.shape)} and {tuple(y.shape)}"
        )
    own = features.shape[1] + (0 if x is None else 2)
    if own != channels[0]:
        raise ValueError(
            f"the first layer takes {channels[0]} channels, the input has {own}: {features.shape[1]} features"
            + ("" if x is None else " and 2 coordinates")
        )
    if image is None and len(features) != 1:
        raise ValueError(f"{len(features)} images need `image`, the index of each object's image")
    if image is not None and image.shape != (n,):
        raise ValueError(f"{n} objects need `image` of shape {(n,)}, got {tuple(image.shape)}")
