"""What does a dense map buy, and what does it cost? DeepLab at output stride 32, 16 and 8, without and with a decoder.

All variants start from the same weights in the encoder and see as far: from stride 32 to 16 to 8 the strides become
dilations and ASPP's rates double. So every cell of the coarse network, up to the 3×3 branches of ASPP, is also one of
the dense network. (The mean over the map and the 3×3 convolutions behind ASPP are not twins.) After training, each is
also scored at the other two strides with its weights unchanged.

Claims of Chen et al. (DeepLab v3, 2017, table 1): on PASCAL VOC 2012's validation set ResNet-50 with cascaded blocks
has a mean IoU of 70.06, 73.88 and 75.18 at stride 32, 16 and 8. Chen et al. (v3+, ECCV 2018, table 3): ResNet-101 with
ASPP has 75.43 at stride 32 and 77.21 at stride 16 without the decoder, 77.37 and 78.85 with it; trained at 16 and
evaluated at 8 it has 78.51 without and 79.35 with the decoder. Section 4.4: in the narrowest band along the boundaries
the decoder adds 4.8 points.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from seglib.book.experiments.compare import compare, only
from seglib.book.experiments.semantic import SceneTensors, predict_scenes
from seglib.data.scenes import CATEGORIES
from seglib.layers.normalize import Normalize
from seglib.layers.tiny import TINY_MEAN, TINY_STD, TinyEncoder
from seglib.metrics.confusion import ConfusionMatrix
from seglib.models.base import Model
from seglib.models.deeplab import DeepLabV3, DeepLabV3Plus
from seglib.types import Targets

STRIDES = (32, 16, 8)
RATES = {32: (1, 2, 3), 16: (2, 4, 6), 8: (4, 8, 12)}
"""ASPP's rates by output stride: always 32, 64 and 96 pixels."""

PAPER = {
    "v3, cascade": {"32": 0.7006, "16": 0.7388, "8": 0.7518},
    "without decoder": {"32": 0.7543, "16": 0.7721},
    "with decoder": {"32": 0.7737, "16": 0.7885},
    "without decoder, 16 to 8": 0.7851,
    "with decoder, 16 to 8": 0.7935,
}
"""Mean IoU on PASCAL VOC 2012 as the papers report it: v3, table 1; v3+, table 3."""

DeepLab = DeepLabV3 | DeepLabV3Plus


def twin(stride: int, decoder: bool) -> DeepLab:
    """DeepLab v3 (or with its decoder, v3+) on the tiny encoder; weights fit those of every other stride."""
    encoder = TinyEncoder(output_stride=stride)
    form = partial(DeepLabV3Plus, low_width=24) if decoder else DeepLabV3
    normalize = Normalize(TINY_MEAN, TINY_STD)
    return form(encoder, len(CATEGORIES), rates=RATES[stride], width=64, dropout=0.1, normalize=normalize)


VARIANTS = {
    f"{'v3+' if decoder else 'v3'} at {stride}": (stride, decoder) for decoder in (False, True) for stride in STRIDES
}
"""Name → output stride, decoder."""


def kept_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass: the memory of training beside weights and optimiser.

    Tensors that share storage count once; parameters do not count.
    """
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(images)  # keeps every storage alive until here, so no address is used twice
    del out
    return sum(kept.values())


def step_seconds(model: DeepLab, images: Tensor, labels: Tensor, *, repeats: int = 5) -> float:
    """Median seconds of a training step without the optimiser: of the processor on a CPU, of the clock on a GPU."""
    gpu = images.device.type == "cuda"
    clock = time.perf_counter if gpu else time.process_time
    times = []
    for _ in range(repeats + 1):  # the first warms up
        started = clock()
        torch.stack(list(model.loss(model(images), Targets(semantic=labels)).values())).sum().backward()
        if gpu:
            torch.cuda.synchronize()
        times.append(clock() - started)
    model.zero_grad()
    return sorted(times[1:])[repeats // 2]


def at_strides(model: DeepLab, decoder: bool, val: SceneTensors) -> dict[str, float]:
    """The mIoU of the same weights at every output stride."""
    found = {}
    for stride in STRIDES:
        other = twin(stride, decoder).to(val.images.device).eval()
        other.load_state_dict(model.state_dict())
        matrix = ConfusionMatrix(CATEGORIES)
        matrix.update(predict_scenes(other, val), val.labels)
        found[str(stride)] = matrix.compute().miou
    return found


def run(
    *, seeds: Sequence[int], steps: int, variants: Sequence[str] = tuple(VARIANTS), **settings: Any
) -> dict[str, Any]:
    """Train every variant once for every seed, score it, and score its weights at the other strides.

    Args:
        seeds: one run per seed; a seed sets the model's initialisation and the order of the scenes.
        steps: optimiser steps of each run.
        variants: names in `VARIANTS`.
        **settings: further arguments of :func:`~seglib.book.experiments.compare.compare`.

    Returns:
        What ``compare`` returns, with in each run ``variant``, ``at`` (mIoU by the stride at which it is evaluated),
        ``step_seconds`` and ``kept_bytes``, both for 8 scenes.

    Raises:
        ValueError: without steps or scenes, or for an unknown variant.
    """
    chosen = only(variants, VARIANTS)

    def measure(model: Model, val: SceneTensors) -> dict[str, Any]:
        assert isinstance(model, DeepLabV3 | DeepLabV3Plus)
        found: dict[str, Any] = {"at": at_strides(model, isinstance(model, DeepLabV3Plus), val)}
        model.train()
        images, labels = val.batch(torch.arange(8, device=val.images.device) % len(val))
        return found | {"step_seconds": step_seconds(model, images, labels), "kept_bytes": kept_bytes(model, images)}

    builders = {name: partial(twin, *shape) for name, shape in chosen.items()}
    found = compare(builders, key="variant", seeds=seeds, steps=steps, measure=measure, **settings)
    return {"model": "deeplab_tiny with rates of 32, 64 and 96 pixels", "paper_miou": PAPER, **found}
