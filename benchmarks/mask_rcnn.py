"""How fast Mask R-CNN is, in a training step and in prediction, beside torchvision's, in one run.

    python benchmarks/mask_rcnn.py [--rounds 5] [--size 512] [--device cuda]

Both models are ResNet-50-FPN with the same random weights (through seglib's converter), frozen norms, and a stem and
first stage that don't learn: what torchvision's published weights are trained further with. They see the same images
and objects, warm up, and take turns. The ratio is seglib's time over torchvision's, per round; printed are its median
and its quartiles, below 1 where seglib is faster. The detections must agree. A training step is forward, losses,
backward and an SGD step on two images with eight objects each; prediction ends with a hundred pasted masks per image.
torchvision's resizing of the images is switched off.

What bounds each, on a CPU: the training step is the backward pass of convolutions (a third of that of the pyramid's and
the RPN's on the finest level), the same kernels on both sides; seglib's RoIAlign and mask head save the rest.
Prediction is the forward pass, which goes channels last, and the pasting of masks.

Memory is how much one call raises the largest resident size of a fresh process that holds the model already; on a GPU
what torch allocates there during one call. The detections are compared on the CPU: a GPU's convolutions may round to
TF32, which sorts scores otherwise.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torchvision
from _side_by_side import compare, cuda_peak, peak, print_peak
from torch import Tensor
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from seglib.book.results import hardware
from seglib.models.mask_rcnn import MaskRCNN
from seglib.models.zoo import build
from seglib.ops.masks import masks_to_boxes
from seglib.types import Instances, Targets
from seglib.weights import convert

BATCH, CLASSES, OBJECTS = 2, 90, 8
LIVELY = {"cls_logits": 0.3, "bbox_pred": 0.1, "cls_score": 20.0, "mask_fcn_logits": 0.3}
"""How strongly the last layers answer, so that there are scores to sort and a hundred detections to draw."""


def models() -> tuple[MaskRCNN, TorchvisionMaskRCNN]:
    """Both models with the same random weights."""
    torch.manual_seed(0)
    norm = partial(FrozenBatchNorm2d, eps=0.0)
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=norm, trainable_layers=3)
    reference = TorchvisionMaskRCNN(backbone, CLASSES + 1)
    reference.transform.resize = lambda image, target: (image, target)
    with torch.no_grad():
        for name, buffer in reference.named_buffers():
            if name.endswith("bn3.weight"):
                buffer.fill_(0.2)  # else every block would double the variance, and rounding would decide the order
        for name, p in reference.named_parameters():
            layer = next((k for k in LIVELY if k in name), None)
            if layer and name.endswith("weight"):
                p.normal_(0, LIVELY[layer] / p[0].numel() ** 0.5)
    name, state, metadata = convert("torchvision:mask_rcnn_resnet50_fpn", reference.state_dict())
    ours = build(name, **metadata["arguments"])
    ours.load_state_dict(state)
    return ours, reference


def inputs(size: int) -> tuple[Tensor, Targets]:
    g = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    instances = []
    for _ in range(BATCH):
        centre = size * torch.rand(OBJECTS, 2, 1, 1, generator=g)
        radius = size * (0.05 + 0.15 * torch.rand(OBJECTS, 1, 1, generator=g))
        masks = (x - centre[:, 0]) ** 2 + (y - centre[:, 1]) ** 2 < radius**2  # (N, H, W)
        labels = torch.randint(CLASSES, (OBJECTS,), generator=g)
        instances.append(Instances(masks, labels, masks_to_boxes(masks)))
    return torch.rand(BATCH, 3, size, size, generator=g), Targets(instances=instances)


Step = Callable[[Tensor, Targets], object]


def pairs(device: str = "cpu") -> dict[str, tuple[Step, Step]]:
    """What is measured: each call in seglib and the same in torchvision."""
    ours, reference = (model.to(device) for model in models())
    optimizers = [
        torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=1e-4, momentum=0.9)
        for m in (ours, reference)
    ]

    def update(losses: dict[str, Tensor], side: int) -> None:
        torch.stack(list(losses.values())).sum().backward()
        optimizers[side].step()
        optimizers[side].zero_grad()

    def our_step(images: Tensor, targets: Targets) -> None:
        ours.train()
        update(ours.loss(ours(images, targets), targets), 0)

    def reference_step(images: Tensor, targets: Targets) -> None:
        reference.train()
        wanted = [{"boxes": i.boxes, "labels": i.labels + 1, "masks": i.masks.byte()} for i in targets.instances or []]
        update(reference(list(images), wanted), 1)

    def our_prediction(images: Tensor, targets: Targets) -> object:
        return [found.masks for found in ours.predict(images)]  # asking for masks pastes them

    def reference_prediction(images: Tensor, targets: Targets) -> object:
        with torch.inference_mode():
            return reference.eval()(list(images))

    return {"prediction": (our_prediction, reference_prediction), "train step": (our_step, reference_step)}


def agree(size: int) -> None:
    """Stop when the detections differ, but for those whose scores are so close that rounding sorts them otherwise."""
    ours, reference = models()
    images, _ = inputs(size)
    with torch.inference_mode():
        expected = reference.eval()(list(images))
    for found, want in zip(ours.predict(images), expected, strict=True):
        same = (found.boxes - want["boxes"]).abs().amax(1) < 0.01
        if len(found) < 50 or same.float().mean() < 0.9:
            raise SystemExit(f"the detections differ: {len(found)} found, {int(same.sum())} of them as in torchvision")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns that each side takes")
    parser.add_argument("--size", type=int, default=512, help="height and width of the images")
    parser.add_argument("--only", choices=["prediction", "train step"], help="one of the calls")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where both sides run")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        name, side = options.peak
        step = pairs()[name][int(side)]
        return print_peak(partial(step, *inputs(64)), partial(step, *inputs(options.size)))

    print(f"{hardware()}; torch {torch.__version__}, torchvision {torchvision.__version__}")
    print(f"{BATCH} x 3 x {options.size} x {options.size}, {options.device}, ", end="")
    print(f"median of {options.rounds} rounds (quartiles)")
    print(f"  {'':12} {'seglib':>9} {'torchvision':>11}   ratio {'':14}   {'seglib':>9} {'torchvision':>11}")
    agree(256)
    data = [part.to(options.device) for part in inputs(options.size)]
    for name, sides in pairs(options.device).items():
        if options.only in (None, name):
            calls = [partial(side, *data) for side in sides]
            found = compare(*calls, rounds=options.rounds, device=options.device)
            if options.device == "cuda":
                memory = [cuda_peak(call) for call in calls]
            else:
                size = ["--size", str(options.size)]
                memory = [peak(__file__, name, side, *size) for side in ("0", "1")]
            print(f"  {name:12} {found}   {memory[0]:6.0f} MB {memory[1]:8.0f} MB", flush=True)


if __name__ == "__main__":
    main()
