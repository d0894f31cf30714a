"""How fast the confusion matrix is counted, beside torchmetrics, in one run.

    python benchmarks/metrics.py [--rounds 15]

Both see the same maps, warm up, and take turns, so that whatever else the machine does hits both. The ratio is
seglib's time over torchmetrics', per round; printed are its median and its quartiles, below 1 where seglib is faster.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
import torchmetrics
from _side_by_side import compare
from torch import Tensor
from torchmetrics import JaccardIndex

from seglib.book.results import hardware
from seglib.metrics import ConfusionMatrix

CLASSES = 21
VOID = 255


def maps(seed: int = 0) -> tuple[Tensor, Tensor]:
    """A prediction and a target, (16, 512, 512) int64 of 16-pixel blocks: 80% agree, 5% of the target is void."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randint(CLASSES, (16, 32, 32), generator=g)
    target = coarse.repeat_interleave(16, 1).repeat_interleave(16, 2)  # (16, 512, 512)
    noise = torch.randint(CLASSES, target.shape, generator=g)
    pred = torch.where(torch.rand(target.shape, generator=g) < 0.8, target, noise)
    return pred, target.masked_fill(torch.rand(target.shape, generator=g) < 0.05, VOID)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="turns that each side takes")
    rounds = parser.parse_args().rounds

    cores = torch.get_num_threads()
    print(f"{hardware()}; torch {torch.__version__}, torchmetrics {torchmetrics.__version__}")
    print(f"16 x 512 x 512, {CLASSES} classes, 5% void, median of {rounds} rounds (quartiles of the ratio)")
    print(f"  {'':42} {'seglib':>11} {'torchmetrics':>11}   ratio")
    pred, target = maps()
    for threads in sorted({cores, 1}, reverse=True):
        torch.set_num_threads(threads)
        for dtype in (torch.int64, torch.uint8):
            p, t = pred.to(dtype), target.to(dtype)
            for checked in (True, False):
                ours = ConfusionMatrix(CLASSES, VOID)
                reference = JaccardIndex("multiclass", num_classes=CLASSES, ignore_index=VOID, validate_args=checked)
                name = f"{threads} thread{'s' * (threads > 1)}, {str(dtype).removeprefix('torch.')}"
                name += ", as built" if checked else ", validate_args=False"
                found = compare(partial(ours.update, p, t), partial(reference.update, p, t), rounds=rounds)
                print(f"  {name:42} {found}")
                if ours.counts.tolist() != reference.confmat.tolist():  # type: ignore[operator]
                    raise SystemExit(f"{name}: the two count differently")


if __name__ == "__main__":
    main()
