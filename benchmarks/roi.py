"""How fast RoIAlign is, forward and with its backward pass ("step"), beside torchvision's kernel, in one run.

    python benchmarks/roi.py [--rounds 7] [--size 512] [--device cuda]

1,024 boxes on four levels of a pyramid of 256 channels, two images, patches of 7 × 7 and 14 × 14, two samples along a
bin: what a training step of Mask R-CNN asks for. Both see the same boxes and must give the same patches.

The ratio is seglib's time (``impl="torch"``, the default on a CPU) over torchvision's (the default on a GPU), below 1
where seglib is faster.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
import torchvision
from _side_by_side import compare
from torch import Tensor

from seglib.book.results import hardware
from seglib.ops.roi import roi_align, roi_levels

BOXES, CHANNELS, STRIDES = 1024, 256, (4, 8, 16, 32)


def inputs(size: int, device: str) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """The levels, the boxes, the image of each and its level."""
    g = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, CHANNELS, size // s, size // s, generator=g).to(device).requires_grad_() for s in STRIDES]
    side = size * torch.rand(BOXES, 2, generator=g) ** 3 * 0.8 + 4
    corner = (size - side) * torch.rand(BOXES, 2, generator=g)
    boxes = torch.cat([corner, corner + side], 1).to(device)
    return maps, boxes, torch.randint(2, (BOXES,), generator=g).to(device), roi_levels(boxes, len(STRIDES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns that each side takes")
    parser.add_argument("--size", type=int, default=512, help="height and width of the images")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where both sides run")
    options = parser.parse_args()
    maps, boxes, images, levels = inputs(options.size, options.device)

    def forward(impl: str, cells: int) -> Tensor:
        with torch.no_grad():
            return roi_align(maps, boxes, images, cells, strides=STRIDES, levels=levels, impl=impl)

    def both(impl: str, cells: int) -> None:
        roi_align(maps, boxes, images, cells, strides=STRIDES, levels=levels, impl=impl).sum().backward()

    print(f"{hardware()}; torch {torch.__version__}, torchvision {torchvision.__version__}")
    print(f"{BOXES} boxes, {options.device}, median of {options.rounds} rounds (quartiles)")
    print(f"  {'':24} {'seglib':>9} {'torchvision':>11}   ratio")
    for cells in (7, 14):
        # positions of samples are rounded in another order, and neighbouring cells differ by about 1
        torch.testing.assert_close(forward("torch", cells), forward("torchvision", cells), rtol=0, atol=1e-3)
        for name, call in (("forward", forward), ("step", both)):
            sides = [partial(call, impl, cells) for impl in ("torch", "torchvision")]
            found = compare(*sides, rounds=options.rounds, device=options.device)
            print(f"  {f'{cells} × {cells}, {name}':24} {found}", flush=True)


if __name__ == "__main__":
    main()
