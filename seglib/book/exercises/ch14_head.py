"""Chapter 14, "Panoptic FPN": the pieces and exercises on the semantic head, its labels and its loss."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise
from seglib.book.exercises.verify import trains_all
from seglib.types import VOID

Layer = tuple[Tensor, Tensor, Tensor]  # the kernels (D, C, 3, 3) of a convolution, γ and β (D,) of its group norm

# Piece 1: labels for the head ----------------------------------------------------------------------------------------


def head_labels(labels: Tensor, T: int) -> Tensor:  # noqa: N803 - the letters of the chapter
    """Category ids, of which the first T are things → the head's classes: 0 for any thing, 1 + s for stuff class s."""
    return torch.where(labels == VOID, VOID, (labels - T + 1).clamp(min=0))


def _labels_by_lookup(labels: Tensor, T: int) -> Tensor:  # noqa: N803
    table = torch.cat([torch.zeros(T, dtype=torch.int64), torch.arange(1, VOID + 2 - T)])  # (256,)
    table[VOID] = VOID
    return table[labels]


def _labels_in_place(labels: Tensor, T: int) -> Tensor:  # noqa: N803
    thing, stuff = labels < T, (labels >= T) & (labels != VOID)
    labels[thing] = 0
    labels[stuff] -= T - 1
    return labels


def _labels_changed_twice(labels: Tensor, T: int) -> Tensor:  # noqa: N803
    stuff = torch.where((labels >= T) & (labels != VOID), labels - T + 1, labels)
    return torch.where(stuff < T, 0, stuff)


def _labels_one_by_one(labels: Tensor, T: int) -> list[Any]:  # noqa: N803
    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(v) for v in value]
        return value if value == VOID else max(0, value - T + 1)

    return walk(labels.tolist())


def _label_maps() -> Mapping[str, tuple[Tensor, int]]:
    return {
        "two things and three kinds of stuff": (torch.tensor([[0, 1, 2], [3, 4, VOID]]), 2),
        "a batch of two maps": (torch.tensor([[[5, 0, 7], [8, VOID, 6]], [[6, 6, 1], [7, 9, 2]]]), 6),
        "one thing class": (torch.tensor([[0, 1, 2, 3]]), 1),
        "no thing class": (torch.tensor([[0, 1], [2, VOID]]), 0),
        "a map of things and void": (torch.tensor([[0, 1, VOID], [2, 0, 1]]), 3),
    }


LABELS = Exercise(
    solution=head_labels,
    wrong={
        "void_as_a_class": (
            lambda labels, T: (labels - T + 1).clamp(min=0),
            "Void became a class: 255 stays 255, so that the loss can leave it out.",
        ),
        "void_as_things": (
            lambda labels, T: head_labels(labels, T) * (labels != VOID),
            "You made things of void: 255 stays 255.",
        ),
        "stuff_from_zero": (
            lambda labels, T: torch.where(labels == VOID, VOID, (labels - T).clamp(min=0)),
            "Your first stuff class shares 0 with the things. It gets 1.",
        ),
        "things_ignored": (
            lambda labels, T: torch.where(labels < T, VOID, head_labels(labels, T)),
            "You made things void. They are class 0: the head must learn where *not* to see stuff.",
        ),
        "things_last": (
            lambda labels, T: torch.where(
                labels == VOID,
                VOID,
                torch.where(labels < T, labels[labels != VOID].max().clamp(min=T - 1) - T + 1, labels - T),
            ),
            "You put the things behind the stuff. They are class 0, before it.",
        ),
        "things_apart": (
            lambda labels, T: labels,
            "Nothing changed: the head has one class for all things together.",
        ),
        "first_thing_only": (
            lambda labels, T: torch.where(
                (labels == VOID) | (labels == 0) | (labels >= T), head_labels(labels, T), labels
            ),
            "Only the first thing class became 0. All things do.",
        ),
        "stuff_keeps_ids": (
            lambda labels, T: torch.where(labels < T, 0, labels),
            "Stuff keeps its category ids in your answer. It is counted from 1: category T becomes 1.",
        ),
        "negative": (
            lambda labels, T: torch.where(labels == VOID, VOID, labels - T + 1),
            "All things become 0 alike: of some you make negative numbers.",
        ),
        "stuff_alone": (
            lambda labels, T: torch.where((labels == VOID) | (labels < T), VOID, labels - T),
            "You made things void and count stuff from 0. Things are class 0, the first stuff class is 1.",
        ),
        "first_stuff_as_thing": (
            lambda labels, T: torch.where(labels == T, 0, head_labels(labels, T)),
            "Category T became 0. It is the first stuff class, 1: things are the ids below T.",
        ),
        "one_stuff_class": (
            lambda labels, T: torch.where(labels == VOID, VOID, (labels >= T).long()),
            "All your stuff is class 1. Each category of stuff has a class of its own: 1, 2, …",
        ),
        "changed_twice": (
            _labels_changed_twice,
            "You number stuff first. Some new numbers are below T, and become 0 with the things: set the things first.",
        ),
        "last_thing_as_stuff": (
            lambda labels, T: torch.where(labels == VOID, VOID, (labels - T + 2).clamp(min=0)),
            "Your stuff begins one too high: category T becomes 1.",
        ),
    },
    right={"a table": _labels_by_lookup, "in place": _labels_in_place, "lists": _labels_one_by_one},
    probes=_label_maps,
    hint="Ids below T become 0, the others lose T − 1, and 255 stays.",
    sketch="""
        stuff = labels - ...                      # category T becomes 1
        return torch.where(labels == 255, ..., stuff.clamp(min=...))
    """,
)


# Piece 2: one level's branch -----------------------------------------------------------------------------------------


def branch(x: Tensor, layers: Sequence[Layer], doublings: int, groups: int) -> Tensor:
    """A level ``(B, C, h, w)`` → ``(B, D, 2ᵈ h, 2ᵈ w)``: d layers, each upsampled behind it; one layer for d = 0."""
    return _branch(x, layers, doublings, groups)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear")


def _branch(
    x: Tensor,
    layers: Sequence[Layer],
    doublings: int,
    groups: int,
    *,
    conv: Callable[[Tensor, Tensor], Tensor] = lambda x, w: F.conv2d(x, w, padding=1),
    norm: Callable[[Tensor, int, Tensor, Tensor], Tensor] = F.group_norm,
    relu: Callable[[Tensor], Tensor] = torch.relu,
    double: Callable[[Tensor], Tensor] = _doubled,
) -> Tensor:
    """``branch`` with one step exchanged."""
    for weight, gamma, beta in layers:
        x = relu(norm(conv(x, weight), groups, gamma, beta))
        x = double(x) if doublings else x
    return x


def _branches(**changes: Any) -> Callable[[Tensor, Sequence[Layer], int, int], Tensor]:
    return lambda x, layers, doublings, groups: _branch(x, layers, doublings, groups, **changes)


def _upsampled_first(x: Tensor, layers: Sequence[Layer], doublings: int, groups: int) -> Tensor:
    for layer in layers:
        x = _branch(_doubled(x) if doublings else x, [layer], 0, groups)
    return x


def _upsampled_last(x: Tensor, layers: Sequence[Layer], doublings: int, groups: int) -> Tensor:
    for layer in layers:
        x = _branch(x, [layer], 0, groups)
    return F.interpolate(x, scale_factor=2**doublings, mode="bilinear")


def _upsampled_between(x: Tensor, layers: Sequence[Layer], doublings: int, groups: int) -> Tensor:
    """Without the upsampling behind the last layer."""
    for i, layer in enumerate(layers):
        x = _branch(_doubled(x) if i else x, [layer], 0, groups)
    return x


def _relu_before_norm(x: Tensor, layers: Sequence[Layer], doublings: int, groups: int) -> Tensor:
    return _branch(
        x,
        layers,
        doublings,
        groups,
        conv=lambda x, w: F.conv2d(x, w, padding=1).relu(),
        relu=lambda x: x,
    )


def _upsampled_before_relu(x: Tensor, layers: Sequence[Layer], doublings: int, groups: int) -> Tensor:
    for layer in layers:
        x = _branch(x, [layer], doublings, groups, relu=lambda x: x).relu()
    return x


def _upsampled_before_norm(x: Tensor, layers: Sequence[Layer], doublings: int, groups: int) -> Tensor:
    def convolved(x: Tensor, weight: Tensor) -> Tensor:
        x = F.conv2d(x, weight, padding=1)
        return _doubled(x) if doublings else x

    return _branch(x, layers, 0, groups, conv=convolved)


def _norm_by_hand(x: Tensor, groups: int, gamma: Tensor, beta: Tensor, *, unbiased: bool = False) -> Tensor:
    parts = x.unflatten(1, (groups, -1)).flatten(2)  # (B, G, D / G · h · w)
    spread = (parts.var(2, unbiased=unbiased, keepdim=True) + 1e-5).sqrt()
    normal = ((parts - parts.mean(2, keepdim=True)) / spread).view_as(x)
    return normal * gamma[:, None, None] + beta[:, None, None]


def _branch_recursively(x: Tensor, layers: Sequence[Layer], doublings: int, groups: int) -> Tensor:
    if not layers:
        return x
    return _branch_recursively(_branch(x, layers[:1], doublings, groups), layers[1:], doublings, groups)


def _double_numpy(x: np.ndarray, axis: int) -> np.ndarray:
    """A map upsampled along one axis: cells weigh ¾ and ¼, the border is repeated."""
    n = x.shape[axis]
    before = np.take(x, np.clip(np.arange(n) - 1, 0, None), axis)
    behind = np.take(x, np.clip(np.arange(n) + 1, None, n - 1), axis)
    pairs = np.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * behind], axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])


def _branch_numpy(x: Tensor, layers: Sequence[Layer], doublings: int, groups: int) -> np.ndarray:
    values = x.numpy()
    for weight, gamma, beta in layers:
        h, w = values.shape[2:]
        padded = np.pad(values, ((0, 0), (0, 0), (1, 1), (1, 1)))
        shifts = np.stack([padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)], 2)
        values = np.einsum("bckhw,dck->bdhw", shifts, weight.flatten(2).numpy())
        parts = values.reshape(len(values), groups, -1)
        spread = np.sqrt(parts.var(2, keepdims=True) + 1e-5)
        normal = ((parts - parts.mean(2, keepdims=True)) / spread).reshape(values.shape)
        values = np.maximum(normal * gamma.numpy()[:, None, None] + beta.numpy()[:, None, None], 0)
        if doublings:
            values = _double_numpy(_double_numpy(values, 2), 3)
    return values


def _layers(draw: torch.Generator, channels: int, depth: int, count: int) -> list[Layer]:
    """``count`` layers with ``depth`` channels each behind a map with ``channels``."""
    widths = [channels, *[depth] * (count - 1)]
    return [
        (
            torch.randn(depth, c, 3, 3, generator=draw) / 3,
            1 + torch.rand(depth, generator=draw),
            torch.randn(depth, generator=draw) / 2,
        )
        for c in widths
    ]


def _levels() -> Mapping[str, tuple[Tensor, list[Layer], int, int]]:
    draw = torch.Generator().manual_seed(3)

    def case(
        batch: int, size: tuple[int, int], doublings: int, groups: int = 2
    ) -> tuple[Tensor, list[Layer], int, int]:
        x = torch.randn(batch, 3, *size, generator=draw)
        return x, _layers(draw, 3, 4, max(1, doublings)), doublings, groups

    return {
        "a level that is doubled twice": case(2, (3, 4), 2),
        "a level that is doubled once": case(1, (4, 3), 1),
        "a level that is doubled three times": case(1, (2, 2), 3, groups=4),
        "the finest level": case(2, (5, 4), 0),
        "one group": case(2, (3, 3), 1, groups=1),
        "a level of a single cell": case(1, (1, 1), 2),
    }


_NO_GRADIENT = {
    "level": "No gradient reaches the level of the pyramid, and the backbone would learn nothing from this head. Use "
    "it as it is: no `detach`, no `data`.",
    "layers": "No gradient reaches the layers' weights, and they would never learn. Use them as they are: no `detach`, "
    "no `data`.",
}

BRANCH = Exercise(
    solution=branch,
    wrong={
        "finest_doubled": (
            lambda x, layers, doublings, groups: _branch(x, layers, 1, groups),
            "You upsample the finest level as well. For doublings = 0 the size stays.",
        ),
        "finest_as_it_is": (
            lambda x, layers, doublings, groups: _branch(x, layers, doublings, groups) if doublings else x,
            "The finest level goes through a layer as well: for doublings = 0 there is one, without upsampling.",
        ),
        "too_often": (
            lambda x, layers, doublings, groups: _branch(
                x,
                layers,
                doublings,
                groups,
                double=lambda x: F.interpolate(x, scale_factor=2**doublings, mode="bilinear"),
            ),
            "You upsample by 2ᵈ behind each of the d layers. Each is followed by a factor of 2.",
        ),
        "once": (
            _upsampled_last,
            "You upsample once, at the end. Each layer is followed by a factor of 2.",
        ),
        "not_behind_the_last": (
            _upsampled_between,
            "No upsampling follows your last layer. Every layer is followed by one.",
        ),
        "upsampled_first": (
            _upsampled_first,
            "You upsample before each layer. The order is convolution, group norm, ReLU, then upsampling.",
        ),
        "upsampled_before_relu": (
            _upsampled_before_relu,
            "You upsample between the group norm and the ReLU. Upsampling comes last.",
        ),
        "upsampled_before_norm": (
            _upsampled_before_norm,
            "You upsample between the convolution and the group norm. Upsampling comes last.",
        ),
        "nearest": (
            _branches(double=lambda x: F.interpolate(x, scale_factor=2)),
            "You repeat each cell (nearest). Upsample bilinearly.",
        ),
        "corners_on_corners": (
            _branches(double=lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)),
            "You put corner cells on corner cells (align_corners=True). Cells fill the image: leave it out.",
        ),
        "relu_before_norm": (
            _relu_before_norm,
            "Your ReLU stands before the group norm. It comes behind it.",
        ),
        "no_norm": (
            _branches(norm=lambda x, groups, gamma, beta: x),
            "The group norm is missing.",
        ),
        "norm_without_scale": (
            _branches(norm=lambda x, groups, gamma, beta: F.group_norm(x, groups)),
            "The group norm has a scale γ and a shift β for each channel: pass them on.",
        ),
        "scale_and_shift_swapped": (
            _branches(norm=lambda x, groups, gamma, beta: F.group_norm(x, groups, beta, gamma)),
            "You swapped the group norm's scale and shift: a layer holds the kernels, the scale, the shift.",
        ),
        "channels_in_a_group": (
            _branches(norm=lambda x, groups, gamma, beta: F.group_norm(x, x.shape[1] // groups, gamma, beta)),
            "You put `groups` channels into each group. `groups` is the number of groups.",
        ),
        "unbiased": (
            _branches(norm=functools.partial(_norm_by_hand, unbiased=True)),
            "You divide by n − 1 in the variance. A norm divides by n: unbiased=False.",
        ),
        "batch_norm": (
            _branches(norm=lambda x, groups, gamma, beta: F.batch_norm(x, None, None, gamma, beta, training=True)),
            "You normalise over the batch. Group norm takes the mean within each image and each group of channels.",
        ),
        "instance_norm": (
            _branches(norm=lambda x, groups, gamma, beta: F.group_norm(x, x.shape[1], gamma, beta)),
            "You normalise each channel alone. `groups` says how many groups share a mean.",
        ),
        "layer_norm": (
            _branches(norm=lambda x, groups, gamma, beta: F.group_norm(x, 1, gamma, beta)),
            "You normalise all channels together. `groups` says how many groups there are.",
        ),
        "no_relu": (_branches(relu=lambda x: x), "The ReLU is missing."),
        "flipped": (
            _branches(conv=lambda x, w: F.conv2d(x, w.flip(2, 3), padding=1)),
            "Your kernels are mirrored. A network's convolution takes them as they are: it is a correlation.",
        ),
        "no_padding": (
            _branches(conv=lambda x, w: F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), w)),
            "At the border your convolution sees copies of the last cells. It is padded with zeros: padding=1.",
        ),
        "shrinking": (
            _branches(conv=lambda x, w: F.conv2d(x, w)),
            "Without padding a 3 × 3 convolution takes one cell from every side. Use padding=1.",
        ),
        "first_layer_only": (
            lambda x, layers, doublings, groups: F.interpolate(
                _branch(x, layers[:1], 0, groups), scale_factor=2**doublings, mode="bilinear"
            ),
            "You use the first layer alone. There is one for each doubling.",
        ),
        "level_cut": (
            lambda x, layers, doublings, groups: _branch(x.detach(), layers, doublings, groups),
            _NO_GRADIENT["level"],
        ),
        "layers_cut": (
            lambda x, layers, doublings, groups: _branch(
                x, [tuple(v.detach() for v in layer) for layer in layers], doublings, groups
            ),
            _NO_GRADIENT["layers"],
        ),
    },
    right={
        "recursion": _branch_recursively,
        "group norm by hand": _branches(norm=_norm_by_hand),
        "in place": _branches(relu=torch.relu_),
        "NumPy": _branch_numpy,
    },
    probes=_levels,
    verify=trains_all(branch, _levels, list(_NO_GRADIENT.values())),
    hint="For each layer: convolution with padding 1, group norm with γ, β and ε = 10⁻⁵, ReLU, and ×2 unless doublings "
    "is 0.",
    sketch="""
        for weight, gamma, beta in layers:
            x = F.conv2d(x, weight, padding=...)
            x = F.group_norm(x, groups, ..., ...).relu()
            if ...:
                x = F.interpolate(x, scale_factor=2, mode=...)
        return x
    """,
)


# Piece 3: the head ---------------------------------------------------------------------------------------------------

Head = Callable[[Sequence[Tensor], Sequence[Sequence[Layer]], Tensor, Tensor, int], Tensor]


def head(
    pyramid: Sequence[Tensor], layers: Sequence[Sequence[Layer]], weight: Tensor, bias: Tensor, groups: int
) -> Tensor:
    """A pyramid, finest level first → logits ``(B, 1 + S, h, w)`` at the size of its finest level."""
    return F.conv2d(sum(_fine(pyramid, layers, groups)), weight, bias)  # type: ignore[arg-type]


def _fine(pyramid: Sequence[Tensor], layers: Sequence[Sequence[Layer]], groups: int) -> list[Tensor]:
    """Every level through its branch."""
    return [branch(x, own, i, groups) for i, (x, own) in enumerate(zip(pyramid, layers, strict=True))]


def _head(
    *,
    join: Callable[[list[Tensor]], Tensor] = lambda maps: torch.stack(maps).sum(0),
    last: Callable[[Tensor, Tensor, Tensor], Tensor] = F.conv2d,
) -> Head:
    """``head`` with another sum or another last layer."""
    return lambda pyramid, layers, weight, bias, groups: last(join(_fine(pyramid, layers, groups)), weight, bias)


def _doubled_once_too_often(
    pyramid: Sequence[Tensor], layers: Sequence[Sequence[Layer]], weight: Tensor, bias: Tensor, groups: int
) -> Tensor:
    maps = [branch(x, own, i + 1, groups) for i, (x, own) in enumerate(zip(pyramid, layers, strict=True))]
    return F.conv2d(sum(maps), weight, bias)  # type: ignore[arg-type]


def _coarsest_first(
    pyramid: Sequence[Tensor], layers: Sequence[Sequence[Layer]], weight: Tensor, bias: Tensor, groups: int
) -> Tensor:
    count = len(pyramid)
    maps = [branch(x, own, count - 1 - i, groups) for i, (x, own) in enumerate(zip(pyramid, layers, strict=True))]
    return F.conv2d(sum(maps), weight, bias)  # type: ignore[arg-type]


def _head_numpy(
    pyramid: Sequence[Tensor], layers: Sequence[Sequence[Layer]], weight: Tensor, bias: Tensor, groups: int
) -> np.ndarray:
    total = np.sum(
        [_branch_numpy(x, own, i, groups) for i, (x, own) in enumerate(zip(pyramid, layers, strict=True))], 0
    )
    return np.einsum("kd,bdhw->bkhw", weight[:, :, 0, 0].numpy(), total) + bias.numpy()[:, None, None]


def _head_in_place(
    pyramid: Sequence[Tensor], layers: Sequence[Sequence[Layer]], weight: Tensor, bias: Tensor, groups: int
) -> Tensor:
    """The 1×1 convolution first, which may as well come before a sum."""
    logits = torch.zeros(1, dtype=bias.dtype) + bias[:, None, None]
    for x in _fine(pyramid, layers, groups):
        logits = logits + F.conv2d(x, weight)
    return logits


def _pyramids() -> Mapping[str, tuple[list[Tensor], list[list[Layer]], Tensor, Tensor, int]]:
    draw = torch.Generator().manual_seed(8)

    def case(levels: int, batch: int, classes: int, size: tuple[int, int]) -> Any:
        shapes = [(size[0] << (levels - 1 - i), size[1] << (levels - 1 - i)) for i in range(levels)]
        pyramid = [torch.randn(batch, 3, *shape, generator=draw) for shape in shapes]
        layers = [_layers(draw, 3, 4, max(1, i)) for i in range(levels)]
        weight = torch.randn(classes, 4, 1, 1, generator=draw)
        return pyramid, layers, weight, torch.randn(classes, generator=draw), 2

    return {
        "three levels": case(3, 2, 4, (2, 3)),
        "two levels": case(2, 1, 3, (3, 2)),
        "four levels": case(4, 1, 6, (1, 1)),
        "one level": case(1, 2, 3, (4, 5)),
    }


_NO_HEAD_GRADIENT = {
    "pyramid": "No gradient reaches every level of the pyramid, and the backbone would learn nothing from it. Use the "
    "levels as they are: no `detach`, no `data`.",
    "layers": "No gradient reaches the layers of every branch. Use them as they are: no `detach`, no `data`.",
    "weight": "No gradient reaches the weight of the last convolution. Use it as it is: no `detach`, no `data`.",
    "bias": "No gradient reaches the bias of the last convolution. Use it as it is: no `detach`, no `data`.",
}

HEAD = Exercise(
    solution=head,
    wrong={
        "mean": (
            _head(join=lambda maps: torch.stack(maps).mean(0)),
            "You take the mean of the levels. They are added up.",
        ),
        "maximum": (
            _head(join=lambda maps: torch.stack(maps).amax(0)),
            "You take the largest value of the levels. They are added up.",
        ),
        "finest_only": (
            _head(join=lambda maps: maps[0]),
            "Only the finest level counts in your answer. All levels are added up.",
        ),
        "coarsest_only": (
            _head(join=lambda maps: maps[-1]),
            "Only the last level counts in your answer. All levels are added up.",
        ),
        "coarsest_first": (
            _coarsest_first,
            "Level i, counted from the finest, is doubled i times. Then all maps have one size and are added up.",
        ),
        "doubled_too_often": (
            _doubled_once_too_often,
            "The finest level, level 0, keeps its size: level i is doubled i times.",
        ),
        "first_layers": (
            lambda pyramid, layers, weight, bias, groups: head(
                pyramid, [layers[0]] * len(pyramid), weight, bias, groups
            ),
            "All levels go through layers[0]. Level i has layers of its own, layers[i].",
        ),
        "no_bias": (
            _head(last=lambda x, weight, bias: F.conv2d(x, weight)),
            "The bias of the last convolution is missing.",
        ),
        "bias_of_each_level": (
            lambda pyramid, layers, weight, bias, groups: torch.stack(
                [F.conv2d(x, weight, bias) for x in _fine(pyramid, layers, groups)]
            ).sum(0),
            "You add the bias once for each level. Add the levels first: one convolution, one bias.",
        ),
        "relu_behind": (
            _head(last=lambda x, weight, bias: F.conv2d(x, weight, bias).relu()),
            "No ReLU follows the last convolution: logits may be negative.",
        ),
        "softmax": (
            _head(last=lambda x, weight, bias: F.conv2d(x, weight, bias).softmax(1)),
            "Return the logits. The softmax is a part of the loss.",
        ),
        "upsampled": (
            _head(last=lambda x, weight, bias: _doubled(F.conv2d(x, weight, bias))),
            "The logits stay at the size of the finest level. Upsampling them to the image comes later.",
        ),
        "pyramid_cut": (
            lambda pyramid, layers, weight, bias, groups: head(
                [x.detach() for x in pyramid], layers, weight, bias, groups
            ),
            _NO_HEAD_GRADIENT["pyramid"],
        ),
        "layers_cut": (
            lambda pyramid, layers, weight, bias, groups: head(
                pyramid, [[tuple(v.detach() for v in one) for one in own] for own in layers], weight, bias, groups
            ),
            _NO_HEAD_GRADIENT["layers"],
        ),
        "weight_cut": (
            lambda pyramid, layers, weight, bias, groups: head(pyramid, layers, weight.detach(), bias, groups),
            _NO_HEAD_GRADIENT["weight"],
        ),
        "bias_cut": (
            lambda pyramid, layers, weight, bias, groups: head(pyramid, layers, weight, bias.detach(), groups),
            _NO_HEAD_GRADIENT["bias"],
        ),
    },
    right={
        "a stack": _head(),
        "the last convolution before the sum": _head_in_place,
        "einsum": _head(
            last=lambda x, weight, bias: torch.einsum("kd,bdhw->bkhw", weight[:, :, 0, 0], x) + bias[:, None, None]
        ),
        "NumPy": _head_numpy,
    },
    probes=_pyramids,
    verify=trains_all(head, _pyramids, list(_NO_HEAD_GRADIENT.values())),
    hint="Level i through its branch with i doublings, all added up, then `F.conv2d` with the weight and the bias.",
    sketch="""
        total = 0
        for i, (level, own) in enumerate(zip(pyramid, layers)):
            total = total + branch(level, own, ..., groups)
        return F.conv2d(total, ..., ...)
    """,
)


# Piece 4: the loss ---------------------------------------------------------------------------------------------------


def semantic_loss(logits: Tensor, labels: Tensor, factor: float) -> Tensor:
    """Cross-entropy of logits ``(B, 1 + S, h, w)`` at the size of labels ``(B, H, W)``, times ``factor``."""
    return _loss(logits, labels, factor)


def _upsampled(logits: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(logits.float(), size, mode="bilinear")


def _entropy(fine: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(fine, labels, ignore_index=VOID, reduction="none")  # (B, H, W), void: 0


def _mean(each: Tensor, known: Tensor) -> Tensor:
    return each.sum() / known.sum().clamp(min=1)


def _loss(
    logits: Tensor,
    labels: Tensor,
    factor: float,
    *,
    upsample: Callable[[Tensor, Sequence[int]], Tensor] = _upsampled,
    entropy: Callable[[Tensor, Tensor], Tensor] = _entropy,
    reduce: Callable[[Tensor, Tensor], Tensor] = _mean,
) -> Tensor:
    """``semantic_loss`` with one step exchanged."""
    each = entropy(upsample(logits, labels.shape[1:]), labels)
    return factor * reduce(each, labels != VOID)


def _losses(**changes: Any) -> Callable[[Tensor, Tensor, float], Tensor]:
    return lambda logits, labels, factor: _loss(logits, labels, factor, **changes)


def _log_entropy(probabilities: Tensor, labels: Tensor) -> Tensor:
    return F.nll_loss(probabilities.log(), labels, ignore_index=VOID, reduction="none")


def _coarse_loss(logits: Tensor, labels: Tensor, factor: float) -> Tensor:
    """At the size of the logits, with labels that were subsampled."""
    coarse = F.interpolate(labels[:, None].float(), logits.shape[2:])[:, 0].long()
    return _loss(logits, coarse, factor)


def _plain_loss(logits: Tensor, labels: Tensor, factor: float) -> Tensor:
    return factor * F.cross_entropy(_upsampled(logits, labels.shape[1:]), labels, ignore_index=VOID)


def _loss_with_void(logits: Tensor, labels: Tensor, factor: float) -> Tensor:
    return factor * F.cross_entropy(_upsampled(logits, labels.shape[1:]), labels * (labels != VOID))


def _loss_without_things(logits: Tensor, labels: Tensor, factor: float) -> Tensor:
    return _loss(logits, torch.where(labels == 0, VOID, labels), factor)


def _loss_written_out(logits: Tensor, labels: Tensor, factor: float) -> Tensor:
    fine = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear").movedim(1, -1)  # (B, H, W, 1 + S)
    fine, y = fine[labels != VOID], labels[labels != VOID]
    each = fine.logsumexp(1) - fine[torch.arange(len(y)), y]
    return factor * each.sum() / max(1, len(y))


def _loss_numpy(logits: Tensor, labels: Tensor, factor: float) -> float:
    fine = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear").numpy().astype(np.float64)
    known = labels.numpy() != VOID
    chosen = np.take_along_axis(fine, np.where(known, labels.numpy(), 0)[:, None], 1)[:, 0]
    each = np.logaddexp.reduce(fine, axis=1) - chosen
    return factor * float(each[known].sum()) / max(1, int(known.sum()))


def _logits_and_labels() -> Mapping[str, tuple[Tensor, Tensor, float]]:
    draw = torch.Generator().manual_seed(12)

    def case(
        batch: int, cells: tuple[int, int], size: tuple[int, int], void: float, factor: float = 0.5
    ) -> tuple[Tensor, Tensor, float]:
        logits = 2 * torch.randn(batch, 4, *cells, generator=draw)
        labels = torch.randint(4, (batch, *size), generator=draw)
        hidden = torch.rand(batch, *size, generator=draw) < void
        return logits, labels.masked_fill(hidden, VOID), factor

    uneven = case(2, (3, 3), (12, 12), 0.0)
    uneven[1][0, 2:] = VOID
    half = case(1, (3, 4), (6, 8), 0.9)  # few pixels, whose rounding does not cancel
    large = case(1, (3, 3), (6, 6), 0.2)
    return {
        "two images": case(2, (4, 5), (8, 10), 0.2),
        "another factor": case(1, (4, 4), (16, 16), 0.2, factor=0.75),
        "a size that is no multiple": case(1, (4, 4), (14, 15), 0.2),
        "images with different numbers of void pixels": uneven,
        "logits in bfloat16": (8 * half[0].bfloat16(), *half[1:]),
        "an image of void": case(1, (3, 3), (6, 6), 1.1),
        "logits of some hundreds": (200 * large[0], *large[1:]),
    }


LOSS = Exercise(
    solution=semantic_loss,
    wrong={
        "labels_subsampled": (
            _coarse_loss,
            "You bring the labels to the size of the logits, which loses what is thin. Upsample the logits.",
        ),
        "nearest": (
            _losses(upsample=lambda z, size: F.interpolate(z.float(), size)),
            "You repeat the nearest cell. Upsample the logits bilinearly.",
        ),
        "corners_on_corners": (
            _losses(
                upsample=lambda z, size: F.interpolate(z.float(), size, mode="bilinear", align_corners=True),
            ),
            "You put the corner cells' centres on the corner pixels' (align_corners=True). Cells fill the image.",
        ),
        "nan": (
            _plain_loss,
            "Without a labelled pixel your loss is 0 / 0, and one step later all weights are NaN. It must be 0.",
        ),
        "void_counts": (_loss_with_void, "Void pixels count in your loss. They have no label: leave them out."),
        "divided_by_all": (
            _losses(reduce=lambda each, known: each.mean()),
            "You divide by all pixels. Divide by those that have a label.",
        ),
        "sum": (
            _losses(reduce=lambda each, known: each.sum()),
            "You add the pixels up. It is a mean over those that have a label.",
        ),
        "mean_of_means": (
            _losses(reduce=lambda each, known: (each.sum((1, 2)) / known.sum((1, 2)).clamp(min=1)).mean()),
            "You take a mean for each image, then their mean. It is one mean over all labelled pixels of the batch.",
        ),
        "no_factor": (
            lambda logits, labels, factor: _loss(logits, labels, 1.0),
            "The factor is missing.",
        ),
        "always_half": (
            lambda logits, labels, factor: _loss(logits, labels, 0.5),
            "You always weigh it by ½. Use `factor`.",
        ),
        "in_half_precision": (
            _losses(upsample=lambda z, size: F.interpolate(z, size, mode="bilinear")),
            "You upsample and sum in the type of the logits. In bfloat16 that leaves two digits: use float32.",
        ),
        "float_too_late": (
            _losses(upsample=lambda z, size: F.interpolate(z, size, mode="bilinear").float()),
            "You upsample in the type of the logits, and convert to float32 then. Convert first.",
        ),
        "a_whole_factor": (
            _losses(
                upsample=lambda z, size: F.interpolate(z.float(), scale_factor=size[0] // z.shape[2], mode="bilinear")
            ),
            "Pass the labels' size and no factor: it need not be a multiple of the logits' size.",
        ),
        "of_probabilities": (
            _losses(
                upsample=lambda z, size: F.interpolate(z.float().softmax(1), size, mode="bilinear"),
                entropy=_log_entropy,
            ),
            "You upsample probabilities and take their logarithm, which is minus infinity for 0. Upsample logits.",
        ),
        "log_of_softmax": (
            _losses(entropy=lambda fine, labels: _log_entropy(fine.softmax(1), labels)),
            "You take the logarithm of a softmax, which is minus infinity where it rounds to 0. Take `log_softmax`, or "
            "`cross_entropy` of the logits.",
        ),
        "softmax_twice": (
            _losses(entropy=lambda fine, labels: _entropy(fine.softmax(1), labels)),
            "`cross_entropy` contains the softmax: give it logits, not probabilities.",
        ),
        "void_unknown": (
            lambda logits, labels, factor: factor * F.cross_entropy(_upsampled(logits, labels.shape[1:]), labels),
            "255 is void and no class: leave these pixels out, such as with ignore_index=255.",
        ),
        "things_left_out": (
            _loss_without_things,
            "You leave the things out. Class 0 is a class: the head must learn where no stuff is.",
        ),
    },
    right={
        "written out": _loss_written_out,
        "NumPy": _loss_numpy,
        "a sum, divided": lambda logits, labels, factor: (
            factor
            * F.cross_entropy(
                F.interpolate(logits.float(), labels.shape[1:], mode="bilinear"),
                labels,
                ignore_index=VOID,
                reduction="sum",
            )
            / (labels != VOID).sum().clamp(min=1)
        ),
    },
    probes=_logits_and_labels,
    hint="Logits in float32, upsampled to the labels' size; their cross-entropy, without void; the mean over the "
    "labelled pixels; times the factor.",
    sketch="""
        z = F.interpolate(logits.float(), ..., mode=...)
        total = F.cross_entropy(z, labels, ignore_index=..., reduction="sum")
        return factor * total / (labels != 255).sum().clamp(min=...)
    """,
)


# The best stuff class ------------------------------------------------------------------------------------------------


def best_stuff(logits: Tensor, T: int) -> Tensor:  # noqa: N803
    """Logits ``(1 + S, H, W)`` → the category id of the most probable stuff class of every pixel, ``(H, W)``."""
    return T + logits[1:].argmax(0)


def _best_stuff_one_by_one(logits: Tensor, T: int) -> list[list[int]]:  # noqa: N803
    _, height, width = logits.shape
    return [[T + int(logits[1:, i, j].argmax()) for j in range(width)] for i in range(height)]


def _best_stuff_in_place(logits: Tensor, T: int) -> Tensor:  # noqa: N803
    logits[0] = -torch.inf
    return logits.argmax(0) + T - 1


def _scores_of_classes() -> Mapping[str, tuple[Tensor, int]]:
    draw = torch.Generator().manual_seed(4)

    def case(stuff: int, size: tuple[int, int], T: int, things: float = 0.0) -> tuple[Tensor, int]:  # noqa: N803
        logits = 2 * torch.randn(1 + stuff, *size, generator=draw)
        logits[0] += things
        return logits, T

    return {
        "five stuff classes behind seven things": case(5, (4, 6), 7),
        "pixels that are all things": case(3, (3, 5), 4, things=20.0),
        "pixels without things": case(3, (3, 5), 4, things=-20.0),
        "one stuff class": case(1, (2, 3), 2),
        "no thing class": case(4, (3, 3), 0),
    }


SECOND = Exercise(
    solution=best_stuff,
    wrong={
        "things_may_win": (
            lambda logits, T: torch.where(logits.argmax(0) == 0, VOID, T - 1 + logits.argmax(0)),
            "Where class 0 wins you answer void. Here the best *stuff* class is wanted, whatever class 0 says.",
        ),
        "class_0_as_category": (
            lambda logits, T: T - 1 + logits.argmax(0),
            "Where class 0 wins you answer the last thing class. Leave class 0 out before you take the argmax.",
        ),
        "head_classes": (
            lambda logits, T: 1 + logits[1:].argmax(0),
            "Those are the head's classes. Category ids are wanted: class 1 is category T.",
        ),
        "from_zero": (
            lambda logits, T: logits[1:].argmax(0),
            "You count stuff from 0. Category ids are wanted: the first stuff class is category T.",
        ),
        "one_too_high": (
            lambda logits, T: T + 1 + logits[1:].argmax(0),
            "Your ids are one too high: without class 0 the argmax counts from 0 already.",
        ),
        "last_left_out": (
            lambda logits, T: T + logits[:-1].argmax(0),
            "You left the last class out. The things are the first one, class 0.",
        ),
        "things_at_zero": (
            lambda logits, T: torch.cat([0 * logits[:1], logits[1:]]).argmax(0) + T - 1,
            "A logit of 0 for class 0 still wins where all others are negative. Leave the class out.",
        ),
        "T_classes_left_out": (
            lambda logits, T: T + logits[T:].argmax(0),
            "The head has one class for all things, class 0. Leave out that one alone.",
        ),
        "second_best": (
            lambda logits, T: T - 1 + logits.topk(2, 0).indices[1],
            "You take the second best class everywhere. It is the best one where class 0 is not the best.",
        ),
        "worst": (lambda logits, T: T + logits[1:].argmin(0), "You take the least probable class."),
    },
    right={
        "in place": _best_stuff_in_place,
        "pixel by pixel": _best_stuff_one_by_one,
        "NumPy": lambda logits, T: np.argmax(logits.numpy()[1:], 0) + T,
        "probabilities": lambda logits, T: logits.softmax(0)[1:].max(0).indices + T,
    },
    probes=_scores_of_classes,
    hint="The argmax of the logits without class 0; its first class is category T.",
    sketch="""
        stuff = logits[...]                       # without class 0
        return ... + stuff.argmax(0)
    """,
)
