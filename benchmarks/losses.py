"""How fast the losses are, forward and backward, beside the libraries that have them, in one run.

    python benchmarks/losses.py [--rounds 15]

Both sides see the same logits and labels, warm up, and take turns, so that whatever else the machine does hits both.
The ratio is seglib's time over the library's, per round; printed are its median and its quartiles, below 1 where
seglib is faster. The values must agree.

Memory is how much one call, forward and backward, raises the largest resident size of a fresh process that holds the
inputs already: what the operating system saw, whoever allocated it. Linux only (it reads ``/proc``), NaN elsewhere.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import monai
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
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


def seconds(loss: Loss, logits: Tensor, target: Tensor) -> float:
    start = time.perf_counter()
    step(loss, logits, target)
    return time.perf_counter() - start


def compare(name: str, logits: Tensor, target: Tensor, rounds: int) -> None:
    ours, theirs = pairs()[name]
    for _ in range(2):
        a, b = step(ours, logits, target), step(theirs, logits, target)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=0, msg=f"{name}: the two differ, {a} and {b}")
    times = torch.tensor(
        [[seconds(loss, logits, target) for loss in (ours, theirs)] for _ in range(rounds)], dtype=torch.float64
    )  # (R, 2)
    a, b = (1e3 * times).median(0).values.tolist()
    low, ratio, high = (
        (times[:, 0] / times[:, 1]).quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    )
    memory = [peak(name, side) for side in (0, 1)]
    print(
        f"  {name:24} {a:8.0f} ms {b:8.0f} ms   {ratio:5.2f} ({low:.2f} to {high:.2f})"
        f"   {memory[0]:6.0f} MB {memory[1]:6.0f} MB"
    )


@cache
def peak(name: str, side: int) -> float:
    """Megabytes that one call adds, measured in a process of its own, with one thread."""
    command = [sys.executable, "-W", "ignore", __file__, "--peak", name, str(side)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_peak(name: str, side: str) -> None:
    torch.set_num_threads(1)
    logits, target = maps()
    loss = pairs()[name][int(side)]
    step(loss, logits[:, :, :8, :8], target[:, :8, :8])  # loads kernels
    before = high_water()
    step(loss, logits, target)
    print(high_water() - before)


def high_water() -> float:
    """The largest resident size of this process so far, in MB (``ru_maxrss`` would start at the parent's)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return math.nan
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="turns that each side takes")
    parser.add_argument("--peak", nargs=2, metavar=("NAME", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        return print_peak(*options.peak)

    cores = torch.get_num_threads()
    versions = f"torch {torch.__version__}, monai {monai.__version__}, smp {smp.__version__}"
    print(f"{hardware()}; {versions}")
    print(f"2 x {CLASSES} x 512 x 512, 5% void, forward and backward, median of {options.rounds} rounds (quartiles)")
    print(f"  {'':24} {'seglib':>11} {'library':>11}   ratio {'':14}   {'seglib':>9} {'library':>9}")
    logits, target = maps()
    for threads in sorted({cores, 1}, reverse=True):
        torch.set_num_threads(threads)
        print(f" {threads} thread{'s' * (threads > 1)}")
        for name in pairs():
            compare(name, logits, target, options.rounds)


if __name__ == "__main__":
    main()
