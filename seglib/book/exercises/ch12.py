"""The exercises of chapter 12, "Dynamic kernels: CondInst and SOLOv2"."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from seglib.book.exercise import Exercise, difference, expect, own
from seglib.book.exercises.verify import trains_all
from seglib.ops.nms import matrix_nms

Filters = tuple[list[Tensor], list[Tensor]]

# From numbers to layers ----------------------------------------------------------------------------------------------


def split_filters(parameters: Tensor, channels: Sequence[int]) -> Filters:
    """Parameters ``(N, P)`` as the weights ``(N, out, in)`` and the biases ``(N, out)`` of every layer."""
    shapes = [(b, a) for a, b in pairwise(channels)]
    sizes = [b * a for b, a in shapes] + [b for b, _ in shapes]
    parts = parameters.split(sizes, 1)
    weights = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=False)]
    return weights, list(parts[len(shapes) :])


def _taken_in_turn(parameters: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Consecutive pieces of these shapes."""
    found, begin = [], 0
    for shape in shapes:
        end = begin + math.prod(shape)
        found.append(parameters[:, begin:end].unflatten(1, shape))
        begin = end
    return found


def _interleaved(parameters: Tensor, channels: Sequence[int]) -> Filters:
    """Each layer's weights, then its biases, as a module stores them."""
    parts = _taken_in_turn(parameters, [shape for a, b in pairwise(channels) for shape in ((b, a), (b,))])
    return parts[0::2], parts[1::2]


def _biases_first(parameters: Tensor, channels: Sequence[int]) -> Filters:
    pairs = list(pairwise(channels))
    parts = _taken_in_turn(parameters, [(b,) for _, b in pairs] + [(b, a) for a, b in pairs])
    return parts[len(pairs) :], parts[: len(pairs)]


def _inputs_first(parameters: Tensor, channels: Sequence[int]) -> Filters:
    """Numbers that lie (in, out), turned to the shape (out, in)."""
    weights, biases = split_filters(parameters, channels)
    return [w.flatten(1).unflatten(1, (w.shape[2], w.shape[1])).mT for w in weights], biases


def _last_layer_first(parameters: Tensor, channels: Sequence[int]) -> Filters:
    pairs = list(pairwise(channels))[::-1]
    parts = _taken_in_turn(parameters, [(b, a) for a, b in pairs] + [(b,) for _, b in pairs])
    return parts[: len(pairs)][::-1], parts[len(pairs) :][::-1]


def _stacked(parameters: Tensor, channels: Sequence[int]) -> Filters:
    """Object by object, then stacked, which needs at least one."""
    each = [split_filters(row[None], channels) for row in parameters]
    layers = range(len(channels) - 1)
    return tuple([torch.stack([e[part][i][0] for e in each]) for i in layers] for part in (0, 1))  # type: ignore[return-value]


def _same_layers(parameters: Tensor, channels: Sequence[int]) -> Filters:
    """Written for the three layers of CondInst alone."""
    c, h, _, one = channels
    weights, biases = split_filters(parameters, (c, h, h, one))
    return weights, biases


def _split_numpy(parameters: Tensor, channels: Sequence[int]) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    values = parameters.numpy()
    outs, ins = np.array(channels[1:]), np.array(channels[:-1])
    ends = np.cumsum(np.concatenate([outs * ins, outs]))
    parts = np.split(values, ends[:-1], axis=1)
    weights = tuple(p.reshape(len(values), o, i) for p, o, i in zip(parts, outs, ins, strict=False))
    return weights, tuple(parts[len(outs) :])


def _split_number_by_number(parameters: Tensor, channels: Sequence[int]) -> Filters:
    """Fills the weights one by one."""
    count, place = len(parameters), 0
    weights = [parameters.new_zeros(count, b, a) for a, b in pairwise(channels)]
    biases = [parameters.new_zeros(count, b) for b in channels[1:]]
    for w in weights:
        for o in range(w.shape[1]):
            for i in range(w.shape[2]):
                w[:, o, i] = parameters[:, place]
                place += 1
    for b in biases:
        for o in range(b.shape[1]):
            b[:, o] = parameters[:, place]
            place += 1
    return weights, biases


def _filters() -> Mapping[str, tuple[Tensor, tuple[int, ...]]]:
    g = torch.Generator().manual_seed(0)

    def numbers(count: int, channels: tuple[int, ...]) -> Tensor:
        return torch.randn(count, sum(a * b + b for a, b in pairwise(channels)), generator=g).round(decimals=2)

    return {
        f"{count} object{'s' * (count != 1)} with channels {channels}": (numbers(count, channels), channels)
        for count, channels in [
            (2, (10, 8, 8, 1)),
            (1, (3, 2, 1)),
            (4, (5, 3, 2, 1)),
            (3, (4, 1)),
            (2, (3, 3, 3, 3, 2)),
            (0, (10, 8, 8, 1)),
        ]
    }


_NO_GRADIENT_TO_ROWS = (
    "The numbers are right, but no gradient reaches `parameters` from all pieces, and what generates them would never "
    "learn. Cut `parameters` itself: no `nn.Parameter`, no `detach`, no `requires_grad_`."
)

SPLIT = Exercise(
    solution=split_filters,
    wrong={
        "interleaved": (
            _interleaved,
            "You read each layer's biases right behind its weights, as a PyTorch module lists them. Here come the "
            "weights of *all* layers, then the biases of all.",
        ),
        "biases_first": (_biases_first, "You read the biases first. They stand at the end."),
        "inputs_outputs": (
            lambda p, channels: (
                [w.flatten(1).unflatten(1, (w.shape[2], w.shape[1])) for w in split_filters(p, channels)[0]],
                split_filters(p, channels)[1],
            ),
            "Your weights have the shape (N, in, out). Wanted is (N, out, in).",
        ),
        "turned": (
            lambda p, channels: ([w.mT for w in split_filters(p, channels)[0]], split_filters(p, channels)[1]),
            "You turned the weights to (N, in, out). They lie as they are wanted, (N, out, in): no transposing.",
        ),
        "inputs_first": (
            _inputs_first,
            "The shape is right, the numbers are not: you read a column where a row is. The numbers that make one "
            "output stand together.",
        ),
        "last_layer_first": (_last_layer_first, "You begin with the last layer. The first one comes first."),
        "flat": (
            lambda p, channels: ([w.flatten(1) for w in split_filters(p, channels)[0]], split_filters(p, channels)[1]),
            "The pieces are right. Weights must get the shape (N, out, in).",
        ),
        "first_object": (
            lambda p, channels: tuple([v[:1] for v in part] for part in split_filters(p, channels)),
            "You return the layers of the first object alone. All N come back.",
        ),
        "without_objects": (
            lambda p, channels: tuple([v[0] for v in part] for part in split_filters(p, channels)),
            "The dimension of the objects is gone: weights are (N, out, in), biases (N, out), and N may be 0.",
        ),
        "stacked": (
            _stacked,
            "There may be no object, and a stack of nothing is not defined. Cut the columns of all objects at once.",
        ),
        "bias_columns": (
            lambda p, channels: (
                split_filters(p, channels)[0],
                [b[..., None] for b in split_filters(p, channels)[1]],
            ),
            "Biases have the shape (N, out), without a dimension behind it.",
        ),
        "kernels": (
            lambda p, channels: (
                [w[..., None, None] for w in split_filters(p, channels)[0]],
                split_filters(p, channels)[1],
            ),
            "Your weights have a 1 × 1 behind them, as `conv2d` wants. Return (N, out, in).",
        ),
        "one_list": (
            lambda p, channels: [v for part in split_filters(p, channels) for v in part],
            "All pieces are in one list. Return two: the weights, and the biases.",
        ),
        "grouped_kernels": (
            lambda p, channels: (
                [w.flatten(0, 1)[..., None, None] for w in split_filters(p, channels)[0]],
                [b.flatten() for b in split_filters(p, channels)[1]],
            ),
            "Your pieces are those of a convolution in N groups. Return (N, out, in) and (N, out).",
        ),
        "detached": (
            lambda p, channels: ([w.detach() for w in split_filters(p, channels)[0]], split_filters(p, channels)[1]),
            _NO_GRADIENT_TO_ROWS,
        ),
        "no_biases": (
            lambda p, channels: (split_filters(p, channels)[0], []),
            "The biases are missing: one number for each output of each layer, behind all weights.",
        ),
        "pairs": (
            lambda p, channels: list(zip(*split_filters(p, channels), strict=True)),
            "You return a pair for each layer. Return two lists: all weights, and all biases.",
        ),
        "swapped": (
            lambda p, channels: split_filters(p, channels)[::-1],
            "You return the biases first. Weights first, then biases.",
        ),
        "three_layers": (
            _same_layers,
            "You count on three layers. The length of `channels` says how many there are.",
        ),
    },
    right={
        "NumPy, as tuples": _split_numpy,
        "number by number": _split_number_by_number,
        "slices": lambda p, channels: (
            _taken_in_turn(p, [(b, a) for a, b in pairwise(channels)]),
            _taken_in_turn(p[:, -sum(channels[1:]) :], [(b,) for b in channels[1:]]),
        ),
    },
    probes=_filters,
    verify=trains_all(split_filters, _filters, [_NO_GRADIENT_TO_ROWS]),
    hint="How many numbers has each piece? Take them off the front in turn: all weights, then all biases.",
    sketch="""
        layers = list(pairwise(channels))         # (in, out) of each layer
        sizes = [... for a, b in layers] + [... for a, b in layers]
        parts = parameters.split(sizes, 1)        # weights, then biases
        weights = [part.reshape(len(parameters), ..., ...) for ...]
        return weights, list(parts[len(layers):])
    """,
)


# All objects at once -------------------------------------------------------------------------------------------------


def run_filters(inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """What the 1×1 layers of each object make of its own input ``(N, C, H, W)``: logits ``(N, H, W)``."""
    h = inputs.flatten(2)  # (N, C, H·W)
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        h = weight @ (h.relu() if i else h) + bias[..., None]
    return h[:, 0].unflatten(1, inputs.shape[2:])


def _layers(
    inputs: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    before: Callable[[Tensor, int], Tensor] = lambda h, i: h.relu() if i else h,
    after: Callable[[Tensor], Tensor] = lambda h: h,
    bias: float = 1.0,
) -> Tensor:
    """``run_filters`` with another function before each layer, after the last, or without biases."""
    h = inputs.flatten(2)
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        h = w @ before(h, i) + bias * b[..., None]
    return after(h[:, 0]).unflatten(1, inputs.shape[2:])


def _biases_behind_relu(inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    h = inputs.flatten(2)
    for i, (w, b) in enumerate(zip(weights, biases, strict=True), 1):
        h = w @ h
        h = (h.relu() if i < len(weights) else h) + b[..., None]
    return h[:, 0].unflatten(1, inputs.shape[2:])


def _one_after_the_other(inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    found = [run_filters(inputs[n, None], [w[n, None] for w in weights], [b[n, None] for b in biases])[0]
             for n in range(len(inputs))]  # fmt: skip
    return torch.stack(found) if found else inputs.new_zeros(0, *inputs.shape[2:])


def _grouped(inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """One convolution in N groups for each layer."""
    n, _, height, width = inputs.shape
    if n == 0:
        return inputs.new_zeros(0, height, width)
    h = inputs.reshape(1, -1, height, width)
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        h = F.conv2d(h.relu() if i else h, w.flatten(0, 1)[..., None, None], b.flatten(), groups=n)
    return h[0]


def _grouped_carelessly(inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Groups, which there are none of without objects."""
    h = inputs.reshape(1, -1, *inputs.shape[2:])
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        h = F.conv2d(h.relu() if i else h, w.flatten(0, 1)[..., None, None], b.flatten(), groups=len(inputs))
    return h[0]


def _mixed_groups(inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Channels of all objects listed channel by channel, so that groups hold channels of several objects."""
    n, channels = inputs.shape[:2]
    return _grouped(inputs.transpose(0, 1).reshape(n, channels, *inputs.shape[2:]), weights, biases)


def _of_first_object(inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    return run_filters(inputs, [w[:1] for w in weights], [b[:1] for b in biases])


def _biases_of_first_object(inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    return run_filters(inputs, weights, [b[:1] for b in biases])


def _dynamic_numpy(inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> np.ndarray:
    h = inputs.numpy()
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        h = np.einsum("noc,nchw->nohw", w.numpy(), np.maximum(h, 0) if i else h) + b.numpy()[:, :, None, None]
    return h[:, 0]


def _dynamic_in_place(inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Channels last, changed in place."""
    h = inputs.permute(0, 2, 3, 1)  # (N, H, W, C)
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        if i:
            h.clamp_(min=0)
        h = torch.einsum("nhwc,noc->nhwo", h, w)
        h += b[:, None, None]
    return h.squeeze(-1)


class _Counter(TorchFunctionMode):
    """How many functions and methods of torch are called."""

    calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def _inputs(
    count: int, channels: tuple[int, ...], size: tuple[int, int] = (4, 5)
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    g = torch.Generator().manual_seed(count)
    weights = [torch.randn(count, b, a, generator=g) for a, b in pairwise(channels)]
    biases = [torch.randn(count, b, generator=g) for b in channels[1:]]
    return torch.randn(count, channels[0], *size, generator=g), weights, biases


def _dynamic_cases() -> Mapping[str, tuple[Tensor, list[Tensor], list[Tensor]]]:
    return {
        "3 objects with channels (10, 8, 8, 1)": _inputs(3, (10, 8, 8, 1)),
        "2 objects with one layer": _inputs(2, (4, 1)),
        "1 object with two layers": _inputs(1, (5, 3, 1)),
        "4 objects with four layers, on a single cell": _inputs(4, (3, 3, 3, 3, 1), (1, 1)),
        "no object": _inputs(0, (10, 8, 8, 1)),
    }


LOOPS = (
    "The numbers are right, but for more objects your code makes more calls: it goes through them one by one. Let one "
)
LOOPS += "product or convolution do all objects of a layer."


def _all_at_once(attempt: Any) -> None:
    """Rejects a right answer that calls torch more often for more objects."""
    calls = []
    for count in (4, 12):
        case = _inputs(count, (10, 8, 8, 1))
        with _Counter() as counter:
            got = attempt(*map(own, case))
        if difference(own(got) if isinstance(got, Tensor) else got, run_filters(*case)) is not None:
            return  # it's wrong, which is said first
        calls.append(counter.calls)
    expect(calls[0] == calls[1], LOOPS)


_NO_GRADIENT = {
    name: f"No gradient reaches the {name}, and what makes them would never learn. Use them as they are: no `detach`, "
    "`data` or `item`."
    for name in ("inputs", "weights", "biases")
}


def _at_once_and_trained(attempt: Any) -> None:
    _all_at_once(attempt)
    trains_all(run_filters, _dynamic_cases, list(_NO_GRADIENT.values()))(attempt)


def _three_layers(inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    w1, w2, w3 = weights
    b1, b2, b3 = biases
    return run_filters(inputs, [w1, w2, w3], [b1, b2, b3])


DYNAMIC = Exercise(
    solution=run_filters,
    wrong={
        "loop": (_one_after_the_other, LOOPS),
        "no_relu": (
            lambda x, w, b: _layers(x, w, b, before=lambda h, i: h),
            "Without a ReLU in between, three layers are no more than one.",
        ),
        "relu_last": (
            lambda x, w, b: _layers(x, w, b, after=torch.relu),
            "No ReLU behind the last layer: its logits are negative outside the mask.",
        ),
        "relu_first": (
            lambda x, w, b: _layers(x, w, b, before=lambda h, i: h.relu()),
            "Your ReLU also cuts the input: coordinates and features below 0 would be lost. It stands between layers.",
        ),
        "relu_everywhere": (
            lambda x, w, b: _layers(x, w, b, before=lambda h, i: h.relu(), after=torch.relu),
            "The ReLU stands between two layers alone: neither before the first nor behind the last.",
        ),
        "sigmoid": (
            lambda x, w, b: _layers(x, w, b, after=torch.sigmoid),
            "Return logits: the sigmoid comes later.",
        ),
        "bias_last": (
            _biases_behind_relu,
            "You add the biases behind the ReLU. They belong to the layer, so before it.",
        ),
        "no_bias": (lambda x, w, b: _layers(x, w, b, bias=0.0), "The biases are missing."),
        "first_object": (
            _of_first_object,
            "You run the first object's filters over all inputs. Each object has its own.",
        ),
        "first_biases": (
            _biases_of_first_object,
            "The weights are each object's own, but the biases are those of the first.",
        ),
        "mixed_groups": (
            _mixed_groups,
            "Channels of different objects end in one group. Object by object: (N, C, H, W) is reshaped as it lies.",
        ),
        "columns_as_rows": (
            lambda x, w, b: run_filters(x, [v.mT for v in w], b),
            "Weights are (N, out, in): a row for each output. No transposing is needed.",
        ),
        "keeps_the_channel": (
            lambda x, w, b: run_filters(x, w, b)[:, None],
            "The last layer has one output; return (N, H, W) without that dimension.",
        ),
        "squeezed": (
            lambda x, w, b: run_filters(x, w, b).squeeze(),
            "`squeeze()` drops every dimension of length 1, also that of a single object or cell. Drop dimension 1 "
            "alone.",
        ),
        "all_in_one": (
            lambda x, w, b: run_filters(x, w, b).sum(0),
            "You add up the masks of all objects. Each keeps its own.",
        ),
        "groups_of_none": (
            _grouped_carelessly,
            "Without objects there is no group: for N = 0 return zeros of shape (0, H, W), or multiply matrices.",
        ),
        "three_layers": (_three_layers, "You count on three layers. The length of `weights` says how many there are."),
        "without_inputs": (lambda x, w, b: run_filters(x.detach(), w, b), _NO_GRADIENT["inputs"]),
        "without_weights": (lambda x, w, b: run_filters(x, [v.detach() for v in w], b), _NO_GRADIENT["weights"]),
        "without_biases": (lambda x, w, b: run_filters(x, w, [v.detach() for v in b]), _NO_GRADIENT["biases"]),
    },
    right={
        "one convolution in N groups": _grouped,
        "einsum in NumPy": _dynamic_numpy,
        "channels last, in place": _dynamic_in_place,
    },
    probes=_dynamic_cases,
    verify=_at_once_and_trained,
    hint="For each layer: weights (N, out, in) @ values (N, in, H·W), plus biases; ReLU before all but the first.",
    sketch="""
        h = inputs.flatten(2)                     # (N, C, H·W)
        for i, (weight, bias) in enumerate(zip(weights, biases)):
            if ...:
                h = h.relu()
            h = ... @ h + bias[..., None]         # (N, out, H·W)
        return h[:, 0].unflatten(1, ...)
    """,
)


# Matrix NMS ----------------------------------------------------------------------------------------------------------


def lowered_scores(iou: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
    """Matrix NMS with the gaussian kernel and σ = 2; scores fall."""
    return matrix_nms(iou, labels, scores, kernel="gaussian", sigma=2.0)


def _gaussian(u: Tensor) -> Tensor:
    return torch.exp(-2 * u**2)


def _lowered(
    iou: Tensor,
    labels: Tensor,
    scores: Tensor,
    *,
    kernel: Callable[[Tensor], Tensor] = _gaussian,
    classes: bool = True,
    classes_of_cover: bool = True,
    classes_of_pairs: bool = True,
    cover: str = "above",
    share: str = "own",
    reduce: str = "min",
) -> Tensor:
    """``lowered_scores`` with one of its parts exchanged."""
    n = len(scores)
    if n == 0:
        return scores
    same = labels[:, None] == labels
    above = torch.where(same | (not (classes and classes_of_pairs)), iou, 0).triu(1)  # (N, N): j's IoU with those above
    covers = {
        "above": torch.where(same | (not (classes and classes_of_cover)), iou, 0).triu(1).amax(0),
        "all": torch.where(same & ~torch.eye(n, dtype=torch.bool), iou, 0).amax(0),
        "itself": torch.where(same, iou, 0).triu(0).amax(0),
        "none": iou.new_zeros(n),
    }[cover]
    if share == "times":
        return scores * (kernel(above) * kernel(covers[:, None])).amin(0)
    ratio = kernel(above) / kernel(covers[:, None] if share == "own" else covers)  # 1 or more where i isn't above j
    if reduce == "min":
        return scores * ratio.amin(0)
    if reduce == "min of rows":
        return scores * ratio.amin(1).clamp(max=1)
    if reduce == "product of factors":
        return scores * ratio.clamp(max=1).prod(0)
    pairs = same.triu(1)  # (N, N): i is above j
    ratio = torch.where(pairs, ratio, 1 if reduce == "product" else 0)
    return scores * (ratio.prod(0) if reduce == "product" else ratio.amax(0).masked_fill(~pairs.any(0), 1))


def _lowered_carelessly(iou: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
    """Takes an extreme of no values."""
    above = torch.where(labels[:, None] == labels, iou, 0).triu(1)
    c = above.amax(0)
    return scores * (_gaussian(above) / _gaussian(c)[:, None]).amin(0).clamp(max=1)


def _soft(iou: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
    """Soft-NMS, one after the other, with the same function."""
    left, taken = scores.clone(), torch.zeros(len(scores), dtype=torch.bool)
    for _ in range(len(scores)):
        best = int(left.masked_fill(taken, -1).argmax())
        taken[best] = True
        hit = ~taken & (labels == labels[best])
        left = torch.where(hit, left * _gaussian(iou[best]), left)
    return left


def _fast(iou: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
    if len(scores) == 0:
        return scores
    above = torch.where(labels[:, None] == labels, iou, 0).triu(1)
    return scores * (above.amax(0) <= 0.5)


def _matrix_loop(iou: Tensor, labels: Tensor, scores: Tensor) -> list[float]:
    overlap, k, s = iou.tolist(), labels.tolist(), scores.tolist()
    covers = [max([0.0, *(overlap[i][j] for i in range(j) if k[i] == k[j])]) for j in range(len(s))]
    found = []
    for j in range(len(s)):
        ratios = [math.exp(2 * (covers[i] ** 2 - overlap[i][j] ** 2)) for i in range(j) if k[i] == k[j]]
        found.append(s[j] * min([1.0, *ratios]))
    return found


def _matrix_numpy(iou: Tensor, labels: Tensor, scores: Tensor) -> np.ndarray:
    """The smallest ratio is e to the smallest exponent."""
    k, s = labels.numpy(), scores.numpy()
    above = np.triu(np.where(k[:, None] == k, iou.numpy(), 0), 1)
    covers = above.max(0, initial=0)
    return s * np.exp(2 * (covers[:, None] ** 2 - above**2).min(0, initial=0))


def _matrix_in_place(iou: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
    """Object by object, changing the scores."""
    iou *= labels[:, None] == labels
    covers = torch.zeros(len(scores))
    for j in range(1, len(scores)):
        covers[j] = iou[:j, j].max()
        scores[j] *= (_gaussian(iou[:j, j]) / _gaussian(covers[:j])).min().clamp(max=1)
    return scores


def _matrices() -> Mapping[str, tuple[Tensor, Tensor, Tensor]]:
    def case(
        pairs: dict[tuple[int, int], float], scores: list[float], labels: list[int] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        iou = torch.eye(len(scores))
        for (i, j), value in pairs.items():
            iou[i, j] = iou[j, i] = value
        return iou, torch.tensor(labels or [0] * len(scores), dtype=torch.int64), torch.tensor(scores)

    return {
        "two objects with an IoU of 0.6": case({(0, 1): 0.6}, [0.9, 0.8]),
        "a chain": case({(0, 1): 0.6, (1, 2): 0.5, (0, 2): 0.1}, [0.9, 0.8, 0.7]),
        "an object that two others overlap, which are apart": case({(0, 2): 0.5, (1, 2): 0.5}, [0.9, 0.8, 0.7]),
        "a chain whose ends don't touch": case({(0, 1): 0.6, (1, 2): 0.7}, [0.9, 0.8, 0.7]),
        "a copy of a low score": case({(0, 1): 0.95}, [0.9, 0.1]),
        "three near copies": case({(0, 1): 0.9, (1, 2): 0.85, (0, 2): 0.8}, [0.9, 0.6, 0.5]),
        "two classes": case(
            {(0, 1): 0.8, (1, 2): 0.5, (0, 2): 0.4, (2, 3): 0.7, (1, 3): 0.6}, [0.9, 0.8, 0.7, 0.6], [0, 1, 0, 1]
        ),
        "another class on top of a pair": case({(0, 1): 0.9, (0, 2): 0.3, (1, 2): 0.6}, [0.9, 0.8, 0.7], [1, 0, 0]),
        "three identical masks": case({(0, 1): 1.0, (1, 2): 1.0, (0, 2): 1.0}, [0.9, 0.8, 0.7]),
        "objects that are apart": case({}, [0.9, 0.8, 0.7]),
        "one object": case({}, [0.4]),
        "no object": (torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64), torch.zeros(0)),
    }


MATRIX = Exercise(
    solution=lowered_scores,
    wrong={
        "divided": (
            lambda u, k, s: _lowered(u, k, s, kernel=lambda v: torch.exp(-(v**2) / 2)),
            "You divide by σ, as Soft-NMS does. Here f(u) = exp(−σ u²) multiplies by it.",
        ),
        "not_squared": (
            lambda u, k, s: _lowered(u, k, s, kernel=lambda v: torch.exp(-2 * v)),
            "The IoU is squared in f(u) = exp(−σ u²).",
        ),
        "without_sigma": (
            lambda u, k, s: _lowered(u, k, s, kernel=lambda v: torch.exp(-(v**2))),
            "σ is 2: your f has lost it.",
        ),
        "linear": (
            lambda u, k, s: _lowered(u, k, s, kernel=lambda v: (1 - v).clamp(min=1e-6)),
            "That is the linear kernel, 1 − u. Asked for is the gaussian one.",
        ),
        "no_cover": (
            lambda u, k, s: _lowered(u, k, s, cover="none"),
            "You leave out the division: an object that was lowered itself should lower others less.",
        ),
        "cover_of_j": (
            lambda u, k, s: _lowered(u, k, s, share="other"),
            "The scores come back as they were: everything cancels. c belongs to the one that lowers, i, and looks at "
            "what is better than i: the maximum of i's *column* above the diagonal. Mind which axis it then stands on.",
        ),
        "cover_by_all": (
            lambda u, k, s: _lowered(u, k, s, cover="all"),
            "c of an object looks at better ones alone. Yours also looks at worse ones.",
        ),
        "cover_by_itself": (
            lambda u, k, s: _lowered(u, k, s, cover="itself"),
            "The diagonal says that each mask overlaps itself by 1. It doesn't count.",
        ),
        "product": (
            lambda u, k, s: _lowered(u, k, s, reduce="product"),
            "You multiply over all better objects. The one that costs most decides: the smallest ratio.",
        ),
        "product_of_factors": (
            lambda u, k, s: _lowered(u, k, s, reduce="product of factors"),
            "Where several better objects overlap one, you multiply their factors. Only the smallest factor counts.",
        ),
        "multiplied": (
            lambda u, k, s: _lowered(u, k, s, share="times"),
            "You multiply by f(c). Divide by it: an object that was lowered itself lowers others less.",
        ),
        "other_axis": (
            lambda u, k, s: _lowered(u, k, s, reduce="min of rows"),
            "Your minimum is over the wrong axis, over what an object lowers. Take it over what lowers the object.",
        ),
        "maximum": (
            lambda u, k, s: _lowered(u, k, s, reduce="max"),
            "You take the largest ratio, the mildest. The smallest one decides.",
        ),
        "soft": (
            _soft,
            "That is Soft-NMS, object by object. Matrix NMS looks once at the matrix and takes the smallest ratio.",
        ),
        "fast": (_fast, "You drop objects at an IoU. Matrix NMS drops none, it lowers scores."),
        "no_classes": (
            lambda u, k, s: _lowered(u, k, s, classes=False),
            "An object of another class lowers nothing: look at the labels.",
        ),
        "cover_by_classes": (
            lambda u, k, s: _lowered(u, k, s, classes_of_cover=False),
            "In c, too, only objects of the same class count.",
        ),
        "pairs_by_classes": (
            lambda u, k, s: _lowered(u, k, s, classes_of_pairs=False),
            "Your c looks at the labels, but an object of another class still lowers: f(IoU) counts within a class "
            "alone.",
        ),
        "by_worse": (
            lambda u, k, s: lowered_scores(u.flip(0, 1), k.flip(0), s).div(s).flip(0).mul(s),
            "You lower better objects by worse ones. Row i, column j counts where i < j: `triu(1)`.",
        ),
        "low_ones_dropped": (
            lambda u, k, s: torch.where(lowered_scores(u, k, s) < 0.05, 0, lowered_scores(u, k, s)),
            "You set low scores to 0. Every object keeps its lowered score; what is too low is dropped later.",
        ),
        "sorted": (
            lambda u, k, s: lowered_scores(u, k, s).sort(descending=True).values,
            "You sort the lowered scores. They come back in the order in which the masks came.",
        ),
        "factor": (
            lambda u, k, s: lowered_scores(u, k, torch.ones_like(s)) if len(s) else s,
            "You return the factors. Multiply the scores by them.",
        ),
        "nothing": (
            _lowered_carelessly,
            "There may be no object: a maximum over nothing is not defined. Return the empty scores.",
        ),
    },
    right={
        "a loop": _matrix_loop,
        "NumPy, in exponents": _matrix_numpy,
        "in place": _matrix_in_place,
    },
    probes=_matrices,
    hint="Keep only IoUs with better objects of the same class; c is their largest; then the smallest f(IoU) / f(c).",
    sketch="""
        if len(scores) == 0:
            return scores
        same = labels[:, None] == labels          # (N, N)
        above = torch.where(same, iou, 0).triu(1) # (N, N): row i above column j
        c = above....                             # (N,) of each object
        ratio = torch.exp(-2 * above**2) / torch.exp(...)[:, None]
        return scores * ratio.amin(...).clamp(max=1)
    """,
)


# A chain -------------------------------------------------------------------------------------------------------------

_C = 0.7 * 2 / 3
"""The score of C: f(1/3) = 2/3, from A, is less than f(0.6) / f(0.6) = 1, from B."""

CHAIN = Exercise(
    solution=(2, 1, 0.32, _C),
    wrong={
        "swapped": (
            (1, 2, 0.32, _C),
            "You have the first two the wrong way round: greedy NMS spares what only a dropped mask overlaps.",
        ),
        "fast_as_greedy": (
            (2, 2, 0.32, _C),
            "In Fast NMS B drops C although A drops B: nobody asks whether B is left.",
        ),
        "greedy_as_fast": (
            (1, 1, 0.32, _C),
            "In greedy NMS A drops B, and a dropped mask drops nobody. A and C overlap by less than 0.5.",
        ),
        "all_of_them": ((3, 1, 0.32, _C), "B overlaps A by 0.6, which is over the threshold of 0.5."),
        "no_compensation": (
            (2, 1, 0.32, 0.28),
            "B was lowered itself, so it lowers C less: divide f(0.6) by f of B's own largest overlap.",
        ),
        "both": (
            (2, 1, 0.32, _C * 0.4),
            "You lower C by A *and* by B. Of the two only the smaller ratio counts, and that of B is divided by f(c).",
        ),
        "c_untouched": (
            (2, 1, 0.32, 0.7),
            "B has no effect on C, but A has one: they overlap by 1/3, and nothing lies above A.",
        ),
        "another_c": (
            (2, 1, 0.32, 0.42),
            "You divide B's f(0.6) by f(1/3), from A and C. c belongs to the one that lowers: B overlaps A by 0.6.",
        ),
        "soft": (
            (2, 1, 0.128, _C),
            "That is Soft-NMS, in which C, better than B by now, lowers B again. In Matrix NMS the scores at the start "
            "say which is better.",
        ),
        "gaussian": (
            (2, 1, 0.8 * math.exp(-0.72), 0.7 * math.exp(-2 / 9)),
            "That is the gaussian f with σ = 2. Here f(u) = 1 − u.",
        ),
        "overlap_kept": (
            (2, 1, 0.48, _C),
            "You multiply by the IoU. The factor is f(u) = 1 − u: what overlaps more loses more.",
        ),
        "c_overlap_kept": (
            (2, 1, 0.32, 0.7 / 3),
            "You multiply C's score by its IoU with A. The factor is f(1/3) = 1 − 1/3.",
        ),
        "factors": ((2, 1, 0.4, 2 / 3), "Those are the factors. Multiply the scores, 0.8 and 0.7, by them."),
        "dropped": ((2, 1, 0.0, _C), "Matrix NMS drops nobody: B keeps a part of its score."),
        "c_dropped": ((2, 1, 0.32, 0.0), "Matrix NMS drops nobody: C loses as much as its factor says."),
        "untouched": ((2, 1, 0.8, _C), "A overlaps B by 0.6, so B keeps f(0.6) = 0.4 of its score."),
        "letters": (("A, C", "A", 0.32, _C), "You name the masks. Count them."),
    },
    right={
        "a list, to two digits": [2, 1, 0.32, 0.47],
        "a tensor, to three digits": torch.tensor([2, 1, 0.32, 0.467]),
        "as computed": (2.0, 1.0, 0.8 * (1 - 0.6), 0.7 * min(1 - 1 / 3, (1 - 0.6) / (1 - 0.6))),
    },
    hint="A lowers B. For C take the smaller of f(1/3) / f(0), from A, and f(0.6) / f(c), from B.",
    sketch="""
        greedy: A stays, B overlaps it, C overlaps ...
        fast:   every mask that overlaps any better one by more than 0.5 goes
        B:      0.8 · f(0.6) / f(...)             # nothing lies above A
        C:      0.7 · min(f(1/3) / f(0), f(0.6) / f(...))
    """,
    tolerance=4e-3,  # two digits are enough: 0.47 is 0.0033 off C's score, 0.46 is 0.0067, and 0.004 · 1.467 may be
)
"""Equal boxes, each a quarter of its width further: IoU 0.6 of neighbours, 1/3 of the ends. Scores 0.9, 0.8 and 0.7."""


# Filters by hand -----------------------------------------------------------------------------------------------------

ROW = (2, 6, 10)
"""Columns of the middles of three objects of 3 × 3 cells, in a map of 5 rows and 13 columns; the middle row is 2."""


def three_alike() -> tuple[Tensor, list[Tensor]]:
    """A feature ``(5, 13)`` that is 1 on three objects, and the mask of each, bool ``(5, 13)``."""
    masks = []
    for middle in ROW:
        mask = torch.zeros(5, 13, dtype=torch.bool)
        mask[1:4, middle - 1 : middle + 2] = True
        masks.append(mask)
    return torch.stack(masks).any(0).double(), masks


def drawn_from(numbers: Sequence[float], column: int) -> Tensor:
    """Logits ``(5, 13)`` of filters of channels (3, 2, 1) on x, y and the feature, seen from (column, row 2)."""
    feature, _ = three_alike()
    x = (column - torch.arange(13.0, dtype=torch.float64)) / 4
    y = (2 - torch.arange(5.0, dtype=torch.float64)) / 4
    maps = torch.stack([x.expand(5, 13), y[:, None].expand(5, 13), feature])  # (3, 5, 13)
    weights, biases = split_filters(torch.tensor([list(numbers)], dtype=torch.float64), (3, 2, 1))
    return run_filters(maps[None], weights, biases)[0]


def _numbers(attempt: Any) -> list[float]:
    """The attempt as 11 finite numbers."""
    try:
        found = np.asarray(attempt.detach() if isinstance(attempt, Tensor) else attempt, dtype=float).ravel().tolist()
    except (TypeError, ValueError):
        found = []
    expect(
        len(found) == 11,
        "Eleven numbers are wanted: 2 · 3 weights, 1 · 2 weights, then 2 biases and 1 bias.",
    )
    expect(all(map(math.isfinite, found)), "Infinity is no filter: large numbers are enough.")
    return found


def _right(numbers: Sequence[float]) -> bool:
    """Whether the filters draw exactly each object from its own middle."""
    _, masks = three_alike()
    return all(torch.equal(drawn_from(numbers, column) > 0, m) for column, m in zip(ROW, masks, strict=True))


REREAD: dict[str, tuple[Callable[[list[float]], list[float]], str]] = {
    "interleaved": (
        lambda v: v[:6] + v[8:10] + v[6:8] + v[10:],
        "You wrote the first layer's biases right behind its weights. First all weights, then all biases.",
    ),
    "biases_first": (
        lambda v: v[3:] + v[:3],
        "You wrote the biases first. They stand at the end: first all weights, then all biases.",
    ),
    "biases_before_each_layer": (
        lambda v: v[2:8] + v[9:] + v[:2] + v[8:9],
        "You wrote each layer's biases right before its weights. They stand at the end, behind all weights.",
    ),
    "biases_of_channels": (
        lambda v: v[:3] + v[4:7] + v[8:10] + v[3:4] + v[7:8] + v[10:],
        "You wrote each channel's bias right behind its weights. All three biases stand at the end.",
    ),
    "last_layer_first": (
        lambda v: v[2:8] + v[:2] + v[9:] + v[8:9],
        "You began with the output's layer. The hidden layer comes first, in the weights as in the biases.",
    ),
    "feature_first": (
        lambda v: [v[1], v[2], v[0], v[4], v[5], v[3], *v[6:]],
        "You wrote the feature's weight first. The inputs are x, y, then the feature.",
    ),
    "columns": (
        lambda v: [v[0], v[2], v[4], v[1], v[3], v[5], *v[6:]],
        "You wrote the first layer's weights column by column. The three weights of one hidden channel stand together.",
    ),
    "rows_and_columns": (
        lambda v: [v[1], v[0], v[2], v[4], v[3], v[5], *v[6:]],
        "The objects stand side by side: it is x that tells them apart, and it comes before y.",
    ),
    "cells": (
        lambda v: [4 * v[0], 4 * v[1], v[2], 4 * v[3], 4 * v[4], *v[5:]],
        "You count x in cells. It is divided by 4: one cell aside is 0.25.",
    ),
    "outside": (
        lambda v: v[:6] + [-w for w in v[6:8]] + v[8:10] + [-v[10]],
        "Your filters draw everything but the object: in the mask are logits *above* 0.",
    ),
}
"""Orders and units in which the numbers of an attempt would be right, and what to say then."""


def draws_each_alone(attempt: Any) -> None:
    """Rejects filters that don't draw exactly the object from whose middle they are seen."""
    numbers = _numbers(attempt)
    if _right(numbers):
        return
    for reread, hint in REREAD.values():
        expect(not _right(reread(numbers)), hint)
    _, masks = three_alike()
    drawn = [drawn_from(numbers, column) > 0 for column in ROW]
    pairs = list(zip(drawn, masks, strict=True))
    thing = torch.stack(masks).any(0)
    expect(any(bool(d.any()) for d in drawn), "From all three places the mask is empty: no logit is above 0.")
    expect(
        not all(torch.equal(d, drawn[0]) for d in drawn),
        "Your filters draw the same from wherever you look: they don't use x.",
    )
    exact = [torch.equal(d, m) for d, m in pairs]
    name = ("left", "middle", "right")[exact.index(True)] if any(exact) else ""
    expect(
        not any(exact),
        f"The {name} object is drawn exactly, but not every other one. A single half-plane isn't enough: keep out what "
        "lies to the left *and* what lies to the right.",
    )
    expect(
        not all(torch.equal(d & thing, m) for d, m in pairs),
        "Each object is drawn and its neighbours are kept out, but cells without the feature are in the mask: use f.",
    )
    extra = sum(int((d & ~m).sum()) for d, m in pairs)
    missing = sum(int((m & ~d).sum()) for d, m in pairs)
    expect(False, f"From the three places together, {extra} cells are too many and {missing} are missing.")


_GOOD = [4.0, 0.0, -4.0, -4.0, 0.0, -4.0, -1.0, -1.0, 2.5, 2.5, 0.5]

WINDOW = Exercise(
    solution=_GOOD,
    wrong={
        "too_few": (
            [4, 0, -4, -4, 0, -4, -1, -1, 2.5, 2.5],
            "Eleven numbers are wanted: 2 · 3 weights, 1 · 2 weights, then 2 biases and 1 bias.",
        ),
        "infinite": ([math.inf] * 11, "Infinity is no filter: large numbers are enough."),
        **{
            mistake: ([*_undone], REREAD[mistake][1])
            for mistake, _undone in {
                "interleaved": [4, 0, -4, -4, 0, -4, 2.5, 2.5, -1, -1, 0.5],
                "biases_first": [2.5, 2.5, 0.5, 4, 0, -4, -4, 0, -4, -1, -1],
                "biases_before_each_layer": [2.5, 2.5, 4, 0, -4, -4, 0, -4, 0.5, -1, -1],
                "biases_of_channels": [4, 0, -4, 2.5, -4, 0, -4, 2.5, -1, -1, 0.5],
                "last_layer_first": [-1, -1, 4, 0, -4, -4, 0, -4, 0.5, 2.5, 2.5],
                "feature_first": [-4, 4, 0, -4, -4, 0, -1, -1, 2.5, 2.5, 0.5],
                "columns": [4, -4, 0, 0, -4, -4, -1, -1, 2.5, 2.5, 0.5],
                "rows_and_columns": [0, 4, -4, 0, -4, -4, -1, -1, 2.5, 2.5, 0.5],
                "cells": [1, 0, -4, -1, 0, -4, -1, -1, 2.5, 2.5, 0.5],
                "outside": [4, 0, -4, -4, 0, -4, 1, 1, 2.5, 2.5, -0.5],
            }.items()
        },
        "empty": ([0] * 11, "From all three places the mask is empty: no logit is above 0."),
        "no_place": (
            [0, 0, 1, 0, 0, 0, 1, 0, 0, 0, -0.5],
            "Your filters draw the same from wherever you look: they don't use x.",
        ),
        "half_plane": (
            [0, 0, 0, -4, 0, -4, 0, -1, 0, 2.5, 0.5],
            "The left object is drawn exactly, but not every other one. A single half-plane isn't enough: keep out "
            "what lies to the left *and* what lies to the right.",
        ),
        "no_feature": (
            [4, 0, 0, -4, 0, 0, -1, -1, -1.5, -1.5, 0.5],
            "Each object is drawn and its neighbours are kept out, but cells without the feature are in the mask: "
            "use f.",
        ),
        "too_narrow": (
            [4, 0, -4, -4, 0, -4, -1, -1, 3.5, 3.5, 0.25],
            "From the three places together, 0 cells are too many and 18 are missing.",
        ),
    },
    right={
        "a tensor": torch.tensor([8.0, 0, -8, -8, 0, -8, -1, -1, 5, 5, 0.1]),
        "NumPy, the other side first": np.array([-4.0, 0, -4, 4, 0, -4, -3, -3, 2.4, 2.4, 1]),
        "a tuple, with another slope for each side": (40, 0, -70, -12, 0, -40, -1, -2, 55, 37, 1),
    },
    verify=draws_each_alone,
    compared=False,
    hint="Let one hidden channel grow to the left of the object and one to the right, and both where the feature is 0.",
    sketch="""
        [ 4, 0, ...,                              # hidden 1: positive where x is large (left), or f = 0
         -4, 0, ...,                              # hidden 2: positive where x is small (right), or f = 0
         ..., ...,                                # the output: what either says lowers the logit
         ..., ...,                                # biases of the hidden channels
         0.5]                                     # inside, both hidden channels are 0: the logit is this
    """,
)


# Objects that lose their cell ----------------------------------------------------------------------------------------


def lost_objects(centres: Tensor, size: tuple[int, int], grid: int) -> int:
    """How many objects find the cell of their centre taken, when a cell keeps one."""
    height, width = size
    cell = (centres * grid / centres.new_tensor([width, height])).long().clamp(max=grid - 1)  # (N, 2)
    return len(centres) - len((cell[:, 1] * grid + cell[:, 0]).unique())


def _cells(
    centres: Tensor,
    size: tuple[int, int],
    grid: int,
    *,
    whole: Callable[[Tensor], Tensor] = torch.floor,
    border: bool = True,
) -> Tensor:
    """Column and row of each object's cell ``(N, 2)``."""
    height, width = size
    cell = whole(centres * grid / centres.new_tensor([width, height])).long()
    return cell.clamp(max=grid - 1) if border else cell


def _lower_cell(v: Tensor) -> Tensor:
    """The left or upper cell for what lies on an edge."""
    return (v.ceil() - 1).clamp(min=0)


def _lost_by_whole_cells(centres: Tensor, size: tuple[int, int], grid: int) -> int:
    """Cells of a whole number of pixels."""
    cell = (centres // centres.new_tensor([size[1] // grid, size[0] // grid])).clamp(max=grid - 1)
    return _lost_of(cell)


def _lost_by_text(centres: Tensor, size: tuple[int, int], grid: int) -> int:
    """Names the cells by the digits of row and column, one behind the other."""
    return len(centres) - len({f"{row}{column}" for column, row in _cells(centres, size, grid).tolist()})


def _lost_by_number(of_row: Callable[[int], int]) -> Callable[[Tensor, tuple[int, int], int], int]:
    """Numbers the cells as ``of_row(grid)`` · row + column."""

    def answer(centres: Tensor, size: tuple[int, int], grid: int) -> int:
        column, row = _cells(centres, size, grid).T
        return len(centres) - len((row * of_row(grid) + column).unique())

    return answer


def _lost_of(cells: Tensor) -> int:
    return len(cells) - len({tuple(c) for c in cells.tolist()})


def _counts(centres: Tensor, size: tuple[int, int], grid: int) -> list[int]:
    cells = [tuple(c) for c in _cells(centres, size, grid).tolist()]
    return [cells.count(c) for c in set(cells)]


def _lost_numpy(centres: Tensor, size: tuple[int, int], grid: int) -> np.integer:
    x = np.minimum(centres[:, 0].numpy() // (size[1] / grid), grid - 1)
    y = np.minimum(centres[:, 1].numpy() // (size[0] / grid), grid - 1)
    taken = np.zeros((grid, grid), dtype=int)
    np.add.at(taken, (y.astype(int), x.astype(int)), 1)
    return np.maximum(taken - 1, 0).sum()


def _lost_one_by_one(centres: Tensor, size: tuple[int, int], grid: int) -> int:
    taken: set[tuple[int, int]] = set()
    lost = 0
    for x, y in centres.tolist():
        cell = (min(int(x * grid / size[1]), grid - 1), min(int(y * grid / size[0]), grid - 1))
        lost += cell in taken
        taken.add(cell)
    return lost


def _lost_in_place(centres: Tensor, size: tuple[int, int], grid: int) -> Tensor:
    """Turns its argument into cells, then counts cells in a table."""
    centres[:, 0] *= grid / size[1]
    centres[:, 1] *= grid / size[0]
    centres.floor_().clamp_(max=grid - 1)
    table = torch.zeros(grid, grid, dtype=torch.bool)
    table[centres[:, 1].long(), centres[:, 0].long()] = True
    return len(centres) - table.sum()


def _centres() -> Mapping[str, tuple[Tensor, tuple[int, int], int]]:
    def case(points: list[list[float]], size: tuple[int, int], grid: int) -> tuple[Tensor, tuple[int, int], int]:
        return torch.tensor(points, dtype=torch.float64).view(-1, 2), size, grid

    return {
        "two of three objects in one cell": case([[1, 1], [3, 2], [9, 9]], (12, 12), 3),
        "three objects in one cell": case([[1, 1], [3, 2], [2, 3], [9, 1]], (12, 12), 3),
        "two cells with two objects each": case([[1, 1], [2, 2], [9, 9], [10, 10]], (12, 12), 3),
        "a wide image": case([[5, 3], [11, 3], [15, 3], [3, 7]], (8, 16), 4),
        "a wide image, one above the other": case([[1, 1], [1, 3], [9, 5]], (8, 16), 4),
        "a high image": case([[1, 1], [1, 5], [3, 9], [5, 15]], (16, 8), 4),
        "centres on both sides of a cell's middle": case([[0.5, 1], [3.5, 1], [4.5, 1]], (12, 12), 3),
        "a centre on a cell's edge": case([[4, 1], [3, 1]], (12, 12), 3),
        "a centre less than half a pixel before an edge": case([[3.6, 1], [1, 1]], (12, 12), 3),
        "a centre right before an edge": case([[3.9, 1], [1, 1]], (12, 12), 3),
        "a centre on the edge of two rows": case([[1, 4], [1, 3]], (12, 12), 3),
        "a width that the grid doesn't divide": case([[2, 1], [3, 1]], (10, 15), 4),
        "a height that the grid doesn't divide": case([[9, 4], [9, 3]], (10, 15), 4),
        "a centre between two pixels": case([[3.8, 1], [3.2, 1], [8, 2.6], [8, 2.2]], (10, 15), 4),
        "the end of a row and the start of the next": case([[14, 1], [1, 3]], (10, 15), 4),
        "a centre on the right border": case([[12, 6], [11, 6]], (12, 12), 3),
        "a centre in the lower right corner": case([[12, 12], [11, 11]], (12, 12), 3),
        "columns and rows that a sum would mix up": case([[1, 5], [5, 1]], (12, 12), 3),
        "a fine grid": case([[1, 1], [3, 2], [9, 9]], (12, 12), 12),
        "a fine grid, and centres by half a pixel from an edge": case([[1.4, 1], [0.6, 1]], (12, 12), 12),
        "columns of two digits": case([[10.5, 0.5], [0.5, 1.5]], (12, 12), 12),
        "rows and columns of two digits": case([[11.5, 1.5], [1.5, 11.5]], (12, 12), 12),
        "one cell": case([[1, 1], [3, 2], [9, 9]], (12, 12), 1),
        "no object": case([], (12, 12), 3),
    }


LOST = Exercise(
    solution=lost_objects,
    wrong={
        "sharing": (
            lambda c, s, g: sum(n for n in _counts(c, s, g) if n > 1),
            "You count all objects that share a cell. One of them keeps it: count the others.",
        ),
        "cells": (
            lambda c, s, g: sum(n > 1 for n in _counts(c, s, g)),
            "You count cells that several objects want. Of three objects in one cell two are lost.",
        ),
        "pairs": (
            lambda c, s, g: sum(n * (n - 1) // 2 for n in _counts(c, s, g)),
            "You count pairs. Of three objects in one cell two are lost, not three.",
        ),
        "kept": (lambda c, s, g: len(_counts(c, s, g)), "You count the objects that keep a cell. How many lose it?"),
        "rounded": (
            lambda c, s, g: _lost_of(_cells(c, s, g, whole=torch.round)),
            "You round to the nearest whole number. Cell 0 reaches from 0 to 1, so round down.",
        ),
        "left_of_the_edge": (
            lambda c, s, g: _lost_of(_cells(c, s, g, whole=_lower_cell)),
            "On the edge of two cells you choose the left or upper one. The centre belongs to the right or lower one.",
        ),
        "half_a_pixel": (
            lambda c, s, g: _lost_of(_cells((c - 0.5).clamp(min=0), s, g)),
            "You take half a pixel off. The image reaches from 0 to W, and centres count from 0: no shift is needed.",
        ),
        "whole_pixels": (
            lambda c, s, g: lost_objects(c.floor(), s, g),
            "You cut the centres to whole pixels first. An edge of two cells may lie within a pixel.",
        ),
        "nearest_pixels": (
            lambda c, s, g: lost_objects(c.round(), s, g),
            "You round the centres to the nearest pixels first, over the edge of a cell. Take them as they are.",
        ),
        "last_index": (
            lambda c, s, g: lost_objects(c, (s[0] - 1, s[1] - 1), g),
            "You divide by W − 1 and H − 1, the indices of the last pixels. The image is W wide and H high.",
        ),
        "whole_cells": (
            _lost_by_whole_cells,
            "Your cells have sides of whole pixels (`//`). Where the grid doesn't divide W, W / G is no whole number.",
        ),
        "border": (
            lambda c, s, g: _lost_of(_cells(c, s, g, border=False)),
            "A centre on the right or lower border falls into a cell beyond the last. It belongs to the last.",
        ),
        "height_for_width": (
            lambda c, s, g: _lost_of(_cells(c, s[::-1], g)),
            "You divide x by the height and y by the width. `size` is (H, W), a centre is (x, y).",
        ),
        "square": (
            lambda c, s, g: _lost_of(_cells(c, (max(s), max(s)), g)),
            "Your cells are squares. The grid has as many rows as columns, so in a wide image cells are wide.",
        ),
        "columns": (
            lambda c, s, g: len(c) - len(_cells(c, s, g)[:, 0].unique()),
            "You look at columns alone. Objects in one column but in different rows don't collide.",
        ),
        "sum": (
            lambda c, s, g: len(c) - len(_cells(c, s, g).sum(1).unique()),
            "Column + row is no number of a cell: (0, 1) and (1, 0) get the same one. Take row · G + column.",
        ),
        "one_too_few": (
            _lost_by_number(lambda grid: grid - 1),
            "With row · (G − 1) + column the last cell of a row gets the number of the next row's first. A row has G "
            "cells.",
        ),
        "decimal": (
            _lost_by_number(lambda grid: 10),
            "10 · row + column mixes cells up once a row has more than ten. A row has G cells.",
        ),
        "text": (
            _lost_by_text,
            "Row and column as text, one behind the other, name two cells alike: 1 and 11, or 11 and 1. Use a pair.",
        ),
        "pixels": (
            lambda c, s, g: _lost_of(_cells(c, (g * g, g * g), g)),
            "You divide by the number of cells. A cell is W / G pixels wide and H / G high.",
        ),
        "one_at_least": (
            lambda c, s, g: max(1, len(c) - len(_counts(c, s, g))),
            "Where all objects have a cell of their own, 0 are lost.",
        ),
        "nothing": (
            lambda c, s, g: len(c) - max(int(_cells(c, s, g).amax()) * 0 + len(_counts(c, s, g)), 0),
            "There may be no object: a maximum over nothing is not defined, and 0 are lost.",
        ),
        "share": (
            lambda c, s, g: lost_objects(c, s, g) / max(1, len(c)),
            "You return a share. Return a number of objects.",
        ),
    },
    right={
        "NumPy, a table of counts": _lost_numpy,
        "one by one": _lost_one_by_one,
        "in place": _lost_in_place,
    },
    probes=_centres,
    hint="Find each centre's column and row in the grid, then count the different cells.",
    sketch="""
        height, width = size
        column = (centres[:, 0] * grid / ...).long().clamp(max=...)
        row = ...
        return len(centres) - len((row * grid + column)....)
    """,
)


EXERCISES: dict[str, Exercise] = {
    "ch12.split": SPLIT,
    "ch12.dynamic": DYNAMIC,
    "ch12.matrix": MATRIX,
    "ch12.chain": CHAIN,
    "ch12.window": WINDOW,
    "ch12.lost": LOST,
}
