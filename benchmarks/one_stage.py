"""How fast YOLACT, CondInst and SOLOv2 are, and what they are made of: generated filters, NMS, masks. In one run.

    python benchmarks/one_stage.py [--rounds 5] [--size 550] [--only filters nms models memory] [--device cuda]

filters   100 objects' filters over one map of features: all at once (``impl="grouped"``), and object by object, as a
          loop over F.conv2d does it. The ratio is below 1 where all at once is faster. CondInst's filters are three
          layers of 1×1 convolutions; SOLOv2's and YOLACT's are one, a product of matrices. Where maps are large the
          arithmetic of three layers alone takes most of the time, which no order of the loops can save on a CPU.
nms       1,000 boxes in clusters, or their masks: ways of suppression beside torchvision's greedy kernel, or beside
          greedy NMS from the same matrix of IoUs. Ratios are below 1 where the way on the left is faster.
models    a whole system on ResNet-50, from an image to unpacked masks: images per second, and milliseconds of each
          stage. The stages are measured in rounds of their own, in which each waits for the one before.
memory    by how much post-processing and asking for 100 masks of 12 megapixels, one at a time, raise the memory.

Weights are random, but answer strongly enough that there are a hundred detections.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torchvision
from _side_by_side import compare, cuda_peak, peak, print_peak, seconds
from torch import Tensor, nn

from seglib.book.results import hardware
from seglib.models.base import Model
from seglib.models.condinst import CondInst
from seglib.models.solov2 import SOLOv2
from seglib.models.yolact import YOLACT
from seglib.models.zoo import build
from seglib.ops.boxes import box_iou
from seglib.ops.dynamic_conv import dynamic_conv, filter_count
from seglib.ops.masks import mask_iou
from seglib.ops.nms import fast_nms, mask_nms, matrix_nms
from seglib.types import Instances

PARTS = ("filters", "nms", "models", "memory")
SYSTEMS = ("yolact", "condinst", "solov2")
CLASSES, DETECTIONS = 80, 100
OUTPUT = (3000, 4000)
"""Height and width of the masks of ``memory``: 12 megapixels."""


# Filters -------------------------------------------------------------------------------------------------------------

FILTERS: dict[str, tuple[tuple[int, ...], bool, tuple[int, int]]] = {
    "CondInst, 25 × 40": ((10, 8, 8, 1), True, (25, 40)),
    "CondInst, 64 × 64": ((10, 8, 8, 1), True, (64, 64)),
    "CondInst, 100 × 168": ((10, 8, 8, 1), True, (100, 168)),
    "SOLOv2, 200 × 336": ((256, 1), False, (200, 336)),
    "YOLACT, 138 × 138": ((32, 1), False, (138, 138)),
}
"""Name → channels, whether there are biases and relative coordinates, and the size of the map. 100 × 168 cells are an
image of 800 × 1344 pixels at CondInst's stride 8, 200 × 336 the same at SOLOv2's stride 4."""


def warm_heap() -> None:
    """Let the C library keep what is freed, as it does once a network has run: else every call asks the system anew."""
    torch.ones(7 * 2**20)  # 28 MB; up to 32 MB what is freed once raises the size that is kept


def filters(channels: Sequence[int], full: bool, size: tuple[int, int], device: str) -> tuple[Callable, Callable]:
    """The masks of 100 objects, all at once and one by one, after a check that they are equal."""
    g = torch.Generator().manual_seed(0)
    features = torch.randn(1, channels[0] - 2 * full, *size, generator=g).to(device)
    count = filter_count(channels, bias=full)
    parameters = torch.randn(DETECTIONS, count, generator=g).to(device) / channels[0] ** 0.5
    x, y = (torch.randn(DETECTIONS, side, generator=g).to(device) if full else None for side in reversed(size))

    @torch.inference_mode()
    def call(impl: str) -> Tensor:
        return dynamic_conv(features, parameters, channels, bias=full, x=x, y=y, impl=impl)

    # sums of up to 256 products in another order, on a GPU perhaps of TF32
    torch.testing.assert_close(call("grouped"), call("reference"), rtol=0, atol=1e-4 if device == "cpu" else 0.05)
    return partial(call, "grouped"), partial(call, "reference")


# NMS -----------------------------------------------------------------------------------------------------------------


def clusters(count: int, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes in clusters of about ten, scores, labels, and masks of the boxes at a quarter of the resolution."""
    g = torch.Generator().manual_seed(0)
    centre = (550 * torch.rand(count // 10, 2, generator=g)).repeat(10, 1)
    centre = centre + 8 * torch.randn(count, 2, generator=g)
    half = 20 + 40 * torch.rand(count // 10, 2, generator=g).repeat(10, 1) * (
        0.8 + 0.4 * torch.rand(count, 2, generator=g)
    )
    boxes = torch.cat([centre - half, centre + half], 1).clamp(0, 550)
    pixel = torch.arange(138) * 4 + 2
    inside = [(pixel > boxes[:, i, None]) & (pixel < boxes[:, i + 2, None]) for i in range(2)]  # (N, 138)
    masks = inside[1][:, :, None] & inside[0][:, None]  # (N, 138, 138)
    scores, labels = torch.rand(count, generator=g), torch.randint(CLASSES, (count // 10,), generator=g).repeat(10)
    return boxes.to(device), scores.to(device), labels.to(device), masks.to(device)


def suppressions(device: str) -> dict[str, tuple[Callable, Callable]]:
    """Name → the way that is measured, and greedy NMS of the same objects."""
    boxes, scores, labels, masks = clusters(1000, device)
    one = torch.zeros_like(labels)
    iou = mask_iou(masks, masks)
    every = torch.rand(CLASSES, 200, generator=torch.Generator().manual_seed(1)).to(device)  # YOLACT's 200 best of each
    class_boxes = boxes[torch.randint(1000, (CLASSES, 200), generator=torch.Generator().manual_seed(2)).to(device)]
    groups = torch.arange(CLASSES, device=device)[:, None].expand(CLASSES, 200)
    kernel = partial(torchvision.ops.nms, boxes, scores, 0.5)
    return {
        "Fast NMS, 1,000 boxes | torchvision": (partial(fast_nms, boxes, scores, 0.5), kernel),
        "Matrix NMS, 1,000 boxes | torchvision": (lambda: matrix_nms(box_iou(boxes, boxes), one, scores), kernel),
        "Fast NMS, 80 classes × 200 | torchvision": (
            partial(fast_nms, class_boxes, every, 0.5),
            partial(
                torchvision.ops.batched_nms, class_boxes.flatten(0, 1), every.flatten(), groups.flatten(), 0.5
            ),
        ),
        "Matrix NMS, 1,000 masks, IoU given | greedy": (
            partial(matrix_nms, iou, labels, scores),
            partial(mask_nms, iou, labels, scores, 0.5),
        ),
        "Matrix NMS, 1,000 masks, with IoU | greedy": (
            lambda: matrix_nms(mask_iou(masks, masks), labels, scores),
            lambda: mask_nms(mask_iou(masks, masks), labels, scores, 0.5),
        ),
    }  # fmt: skip


# Models --------------------------------------------------------------------------------------------------------------


def image(side: int) -> Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def lively(name: str, x: Tensor) -> Model:
    """A system with random weights, calibrated so that a few hundred anchors, locations or cells of ``x`` are sure."""
    torch.manual_seed(0)
    model = build(name, num_classes=CLASSES).eval()
    for parameter, p in model.named_parameters():
        if parameter.endswith("bn3.weight"):
            nn.init.constant_(p, 0.2)  # else every block would double the variance
    out = model(x)
    if isinstance(model, YOLACT):
        layer, logits = model.head.logits, out.class_logits[..., :-1]
    elif isinstance(model, CondInst):
        layer, logits = model.head.class_logits, out.class_logits
        nn.init.constant_(model.head.distances.bias, 1.5)  # boxes of three cells a side
    else:
        assert isinstance(model, SOLOv2)
        layer, logits = model.head.category, out.category_logits
        model.head.kernel.weight *= 100  # masks that are sure of their pixels
    assert layer.bias is not None
    scale = 2 / logits.std()
    layer.weight *= scale
    layer.bias.sub_(logits.mean()).mul_(scale)
    surest = ((logits - logits.mean()) * scale).flatten().topk(500).values[-1]
    if isinstance(model, YOLACT):  # in 500 cases a class is 1/20 as likely as the background
        layer.bias.view(-1, CLASSES + 1)[:, -1] = surest + 3
    else:
        layer.bias -= surest + 1
    return model


def full(model: Model, x: Tensor) -> Instances:
    """The detections of an image, their masks unpacked."""
    (found,) = model.predict(x)
    assert found.masks is not None  # asking for masks unpacks them
    return found


@contextmanager
def clocks(model: Model, device: str) -> Iterator[dict[str, float]]:
    """Milliseconds of each part of the model, while it runs forward once."""
    found: dict[str, float] = {}
    running: dict[str, float] = {}
    handles = []

    def start(name: str) -> None:
        running[name] = now(device)

    def stop(name: str) -> None:
        found[name] = found.get(name, 0.0) + 1e3 * (now(device) - running.pop(name))

    for name, part in model.named_children():
        handles.append(part.register_forward_pre_hook(lambda *_, name=name: start(name)))
        handles.append(part.register_forward_hook(lambda *_, name=name: stop(name)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def now(device: str) -> float:
    """Seconds on a clock, when the GPU has done what it was asked for."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@torch.inference_mode()
def stages(model: Model, x: Tensor, device: str) -> dict[str, float]:
    """Milliseconds of every stage of one prediction."""
    with clocks(model, device) as found:
        out = model(x)
    begin = now(device)
    (instances,) = model.postprocess(out, [tuple(x.shape[2:])])
    found["postprocess"] = 1e3 * (now(device) - begin)
    begin = now(device)
    assert instances.masks is not None  # asking for masks unpacks them
    found["masks"] = 1e3 * (now(device) - begin)
    return found


def measure_models(names: Sequence[str], side: int, rounds: int, device: str) -> None:
    """Print images per second and the stages of every model."""
    x = image(side)
    for name in names:
        model, on_device = lively(name, x).to(device), x.to(device)
        check(name, len(full(model, on_device)))
        whole = statistics.median(seconds(partial(full, model, on_device), device) for _ in range(rounds))
        parts = [stages(model, on_device, device) for _ in range(rounds)]
        told = ", ".join(f"{k} {statistics.median(p[k] for p in parts):.1f}" for k in parts[0])
        print(f"  {name:18} {1 / whole:6.2f} images/s  {1e3 * whole:7.1f} ms:  {told}", flush=True)


def check(name: str, count: int) -> None:
    """Stop when there aren't a hundred detections."""
    if count != DETECTIONS:
        raise SystemExit(f"{name} has {count} detections and not {DETECTIONS}; calibrate its weights anew")


# Memory --------------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def unpack_one_by_one(model: Model, out: object, side: int, output: tuple[int, int]) -> int:
    """Post-processing of one image, then every mask at the output's size; the number of detections."""
    (found,) = model.postprocess(out, [(side, side)], [output])
    for i in range(len(found)):
        assert found[i].masks.shape[1:] == output
    return len(found)


def memory_calls(name: str, device: str, side: int = 128) -> tuple[Callable[[], int], Callable[[], int]]:
    """A small call, and the call that is measured, of a tiny system with a hundred detections."""
    x = image(side)
    model = lively(name, x).to(device)
    with torch.inference_mode():
        out = model(x.to(device))
    small = partial(unpack_one_by_one, model, out, side, (side, side))
    check(name, small())
    return small, partial(unpack_one_by_one, model, out, side, OUTPUT)


# The script ----------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns that each side takes")
    parser.add_argument("--size", type=int, default=550, help="height and width of the image for the models")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="some of the parts")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="some of the systems")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where all runs")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        return print_peak(*memory_calls(options.peak, "cpu"))

    device, rounds = options.device, options.rounds
    warm_heap()
    print(f"{hardware()}; torch {torch.__version__}, torchvision {torchvision.__version__}")
    print(f"{device}, median of {rounds} rounds (quartiles)")
    if "filters" in options.only:
        print(f"\n  {f'filters of {DETECTIONS} objects':44} {'at once':>9} {'one by one':>11}   ratio")
        for name, (channels, coordinates, size) in FILTERS.items():
            sides = filters(channels, coordinates, size, device)
            print(f"  {name:44} {compare(*sides, rounds=rounds, device=device)}", flush=True)
    if "nms" in options.only:
        print(f"\n  {'NMS':44} {'left':>9} {'right':>11}   ratio")
        for name, sides in suppressions(device).items():
            print(f"  {name:44} {compare(*sides, rounds=rounds, device=device)}", flush=True)
    if "models" in options.only:
        print(f"\n  {options.size} x {options.size}, with {DETECTIONS} masks; milliseconds of the stages")
        measure_models([f"{name}_resnet50" for name in options.systems], options.size, rounds, device)
    if "memory" in options.only:
        print(f"\n  {DETECTIONS} masks of {OUTPUT[0]} x {OUTPUT[1]}, one at a time")
        for name in options.systems:
            tiny = f"{name}_tiny"
            used = cuda_peak(memory_calls(tiny, device)[1]) if device == "cuda" else peak(__file__, tiny)
            print(f"  {tiny:18} {used:6.0f} MB", flush=True)


if __name__ == "__main__":
    main()
