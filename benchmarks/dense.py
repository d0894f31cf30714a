"""How fast the dense models are, forward and in a training step, beside torchvision's and smp's, in one run.

    python benchmarks/dense.py [--rounds 7] [--size 256] [--device cuda]

Both sides have the same weights (through seglib's converters), see the same images, warm up, and take turns. The ratio
is seglib's time over the library's, per round; printed are its median and its quartiles, below 1 where seglib is
faster. The logits must agree. A training step is forward, cross-entropy, backward and an SGD step; seglib's models also
normalise the images and check the labels, which the libraries leave to the caller. "Compiled" is seglib's forward with
frozen weights, as ``--compile`` has it, beside the library's as it is.

What bounds each, on a CPU: a forward is convolutions (80 %) and batch norms (10 %), the same kernels on both sides. In
prediction U-Net goes channels last, which is faster; the ResNets with dilated stages don't: their convolutions of
2,048 channels would copy their weights at each call, or be slower where they are depthwise. Compiled, batch norms are
parts of the convolutions, whose weights lie in the order of the kernels beforehand (that is the memory); depthwise
convolutions gain least. A training step is the backward pass of the convolutions.

Memory is how much one call raises the largest resident size of a fresh process that holds the model already; on a GPU
what torch allocates there during one call. The logits are compared on the CPU: a GPU's convolutions may round to TF32.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial

import segmentation_models_pytorch as smp
import torch
import torchvision
from _side_by_side import compare, cuda_peak, peak, print_peak
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import segmentation

from seglib.book.results import hardware
from seglib.models.zoo import build
from seglib.ops.inference import compile_frozen
from seglib.types import Targets
from seglib.weights import convert

CLASSES = 21
BATCH = 2
NO_WEIGHTS = {"weights": None, "weights_backbone": None, "aux_loss": True}

LIBRARIES: dict[str, Callable[[], nn.Module]] = {
    "torchvision:fcn_resnet50": lambda: segmentation.fcn_resnet50(**NO_WEIGHTS),
    "torchvision:deeplabv3_resnet50": lambda: segmentation.deeplabv3_resnet50(**NO_WEIGHTS),
    "smp:unet_resnet34": lambda: smp.Unet("resnet34", encoder_weights=None, classes=CLASSES),
    "smp:deeplabv3plus_resnet50": lambda: smp.DeepLabV3Plus("resnet50", encoder_weights=None, classes=CLASSES),
}


def models(origin: str) -> tuple[nn.Module, nn.Module]:
    """Both models with the same random weights."""
    torch.manual_seed(0)
    reference = LIBRARIES[origin]()
    name, state, metadata = convert(origin, reference.state_dict())
    ours = build(name, **metadata["arguments"])
    ours.load_state_dict(state)
    return ours, reference


def inputs(size: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(BATCH, 3, size, size, generator=g), torch.randint(CLASSES, (BATCH, size, size), generator=g)


Step = Callable[[Tensor, Tensor], object]


def forward(model: nn.Module) -> Step:
    def call(images: Tensor, labels: Tensor) -> object:
        with torch.no_grad():  # the compiler freezes weights under this alone
            return model.eval()(images)

    return call


def train_step(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def call(images: Tensor, labels: Tensor) -> None:
        model.train()
        loss(images, labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return call


def pairs(origin: str, device: str = "cpu") -> dict[str, tuple[Step, Step]]:
    """What is measured: each call in seglib and the same in the library."""
    ours, reference = (model.to(device) for model in models(origin))

    def our_loss(images: Tensor, labels: Tensor) -> Tensor:
        return torch.stack(list(ours.loss(ours(images), Targets(semantic=labels)).values())).sum()

    def reference_loss(images: Tensor, labels: Tensor) -> Tensor:
        out = reference(images)
        if not isinstance(out, dict):
            return F.cross_entropy(out, labels, ignore_index=255)
        main, aux = (F.cross_entropy(out[k], labels, ignore_index=255) for k in ("out", "aux"))
        return main + 0.5 * aux

    frozen = copy.deepcopy(ours)
    compile_frozen(frozen)
    return {
        "forward": (forward(ours), forward(reference)),
        "compiled": (forward(frozen), forward(reference)),
        "train step": (train_step(ours, our_loss), train_step(reference, reference_loss)),
    }


def agree(origin: str, size: int) -> None:
    ours, reference = models(origin)
    images, _ = inputs(size)
    mean, std = (v.view(3, 1, 1) for v in (ours.normalize.mean, ours.normalize.std))
    with torch.inference_mode():
        a, b = ours.eval()(images).logits, reference.eval()((images - mean) / std)
    b = b["out"] if isinstance(b, dict) else b
    if origin.startswith("torchvision"):
        b = torch.cat([b[:, 1:], b[:, :1]], 1)  # background comes last
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * float(b.abs().max()), msg=f"{origin}: the logits differ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns that each side takes")
    parser.add_argument("--size", type=int, default=256, help="height and width of the images")
    parser.add_argument("--only", help="one origin")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where both sides run")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        origin, name, side = options.peak
        step = pairs(origin)[name][int(side)]
        return print_peak(partial(step, *inputs(64)), partial(step, *inputs(options.size)))

    print(f"{hardware()}; torch {torch.__version__}, torchvision {torchvision.__version__}, smp {smp.__version__}")
    print(f"{BATCH} x 3 x {options.size} x {options.size}, {options.device}, ", end="")
    print(f"median of {options.rounds} rounds (quartiles)")
    print(f"  {'':44} {'seglib':>9} {'library':>11}   ratio {'':14}   {'seglib':>9} {'library':>9}")
    for origin in [options.only] if options.only else LIBRARIES:
        agree(origin, 96)
        data = [t.to(options.device) for t in inputs(options.size)]
        for name, sides in pairs(origin, options.device).items():
            calls = [partial(side, *data) for side in sides]
            found = compare(*calls, rounds=options.rounds, device=options.device)
            if options.device == "cuda":
                memory = [cuda_peak(call) for call in calls]
            else:
                size = ["--size", str(options.size)]
                memory = [peak(__file__, origin, name, side, *size) for side in ("0", "1")]
            print(f"  {f'{origin}, {name}':44} {found}   {memory[0]:6.0f} MB {memory[1]:6.0f} MB", flush=True)


if __name__ == "__main__":
    main()
