"""How fast the losses are, forward and backward, beside the libraries that have them, in one run.

    python benchmarks/losses.py [--rounds 15] [--device cuda]

Both sides see the same logits and labels, warm up, and take turns, so that whatever else the machine does hits both.
The ratio is seglib's time over the library's, per round; printed are its median and its quartiles, below 1 where
seglib is faster. The values must agree.

Memory is how much one call, forward and backward, raises the resident size of a fresh process that holds the inputs;
on a GPU what torch allocates there during one call.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache, partial

import monai
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from _side_by_side import compare, cuda_peak, peak, print_peak
from monai.losses import DiceLoss, FocalLoss, TverskyLoss
from torch import Tensor

from seglib.book.results import hardware
from seglib.losses import cross_entropy, dice_loss, focal_loss, lovasz_softmax, tversky_loss

CLASSES = 21
VOID = 255
Loss = Callable[[Tensor, Tensor], Tensor]


def maps(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (2, 21, 512, 512) and labels (2, 512, 512) of 16-pixel blocks with all classes, 5% void."""
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(CLASSES, (2, 32, 32), generator=g)
    target = target.repeat_interleave(16, 1).repeat_interleave(16, 2)
    logits = torch.randn(2, CLASSES, 512, 512, generator=g)
    logits.scatter_add_(1, target[:, None], torch.full((2, 1, 512, 512), 2.0))  # half learned
    return logits, target.masked_fill(torch.rand(target.shape, generator=g) < 0.05, VOID)


def of_monai(loss: torch.nn.Module) -> Loss:
    return lambda logits, target: loss(logits, target[:, None])  # its labels have a channel


def without_void(loss: Loss) -> Loss:
    return lambda logits, target: loss(logits, target.masked_fill(target == VOID, 0))


def pairs() -> dict[str, tuple[Loss, Loss]]:
    """What is measured: seglib's loss and the same of a library. All classes are present, so conventions agree."""
    m = {"to_onehot_y": True, "softmax": True, "batch": True}
    tversky = {"alpha": 0.3, "beta": 0.7}
    return {
        "cross-entropy | torch": (cross_entropy, partial(F.cross_entropy, ignore_index=VOID)),
        "focal | monai": (focal_loss, of_monai(FocalLoss(to_onehot_y=True, use_softmax=True, ignore_index=VOID))),
        "Dice | monai": (dice_loss, of_monai(DiceLoss(**m, ignore_index=VOID))),
        "Dice, no void | monai": (without_void(dice_loss), without_void(of_monai(DiceLoss(**m)))),
        "Dice | smp": (dice_loss, smp.losses.DiceLoss("multiclass", ignore_index=VOID)),
        "Tversky | monai": (tversky_loss, of_monai(TverskyLoss(**m, **tversky, ignore_index=VOID))),
        "Tversky | smp": (tversky_loss, smp.losses.TverskyLoss("multiclass", ignore_index=VOID, **tversky)),
        "Lovász | smp": (lovasz_softmax, smp.losses.LovaszLoss("multiclass", ignore_index=VOID)),
    }


def step(loss: Loss, logits: Tensor, target: Tensor) -> Tensor:
    z = logits.detach().requires_grad_()
    value = loss(z, target)
    value.backward()
    return value.detach()


def measure(name: str, logits: Tensor, target: Tensor, rounds: int) -> str:
    ours, reference = pairs()[name]
    a, b = step(ours, logits, target), step(reference, logits, target)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=0, msg=f"{name}: the two differ, {a} and {b}")
    device, calls = logits.device.type, [partial(step, loss, logits, target) for loss in (ours, reference)]
    found = compare(*calls, rounds=rounds, device=device)
    memory = [cuda_peak(calls[side]) if device == "cuda" else memory_of(name, str(side)) for side in (0, 1)]
    return f"  {name:24} {found}   {memory[0]:6.0f} MB {memory[1]:6.0f} MB"


@cache
def memory_of(name: str, side: str) -> float:
    return peak(__file__, name, side)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="turns that each side takes")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where both sides run")
    parser.add_argument("--peak", nargs=2, metavar=("NAME", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        name, side = options.peak
        (logits, target), loss = maps(), pairs()[name][int(side)]
        small = partial(step, loss, logits[:, :, :8, :8], target[:, :8, :8])
        return print_peak(small, partial(step, loss, logits, target))

    cores = torch.get_num_threads()
    versions = f"torch {torch.__version__}, monai {monai.__version__}, smp {smp.__version__}"
    print(f"{hardware()}; {versions}")
    print(f"2 x {CLASSES} x 512 x 512, 5% void, {options.device}, forward and backward, ", end="")
    print(f"median of {options.rounds} rounds (quartiles)")
    print(f"  {'':24} {'seglib':>11} {'library':>11}   ratio {'':14}   {'seglib':>9} {'library':>9}")
    logits, target = (t.to(options.device) for t in maps())
    for threads in sorted({cores, 1}, reverse=True) if options.device == "cpu" else [cores]:
        torch.set_num_threads(threads)
        print(f" {threads} thread{'s' * (threads > 1)}")
        for name in pairs():
            print(measure(name, logits, target, options.rounds), flush=True)


if __name__ == "__main__":
    main()
