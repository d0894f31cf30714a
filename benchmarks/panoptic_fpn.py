"""How fast Panoptic FPN is: its merge, a training step and a prediction, each beside something known, in one run.

    python benchmarks/panoptic_fpn.py [--rounds 5] [--size 512] [--merge-size 1024] [--only "merge"] [--device cuda]

- merge: 100 overlapping masks and a stuff map become one panoptic map. The other side follows the rule as it is told:
  it compares whole masks, one after the other (``impl="reference"``). Both maps must be equal.
- train step, prediction: ResNet-50 with random weights on two images with eight objects each. No package that pip
  installs has Panoptic FPN; the other side is torchvision's Mask R-CNN, which Panoptic FPN extends by a semantic branch
  and the merge. So a ratio of 1 would mean that these cost nothing. The rows "without branch" compare seglib's own
  Mask R-CNN in the same way: what lies between both rows is the price of the branch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import mask_rcnn
import torch
import torchvision
from _side_by_side import compare
from torch import Tensor

from seglib.book.results import hardware
from seglib.models.base import Model
from seglib.models.zoo import build
from seglib.ops.masks import masks_to_boxes
from seglib.postprocess.panoptic import MergeSettings, merge_panoptic
from seglib.types import Instances, Targets

STUFF, MASKS = 53, 100


def overlapping(size: int, device: str) -> tuple[Instances, Tensor]:
    """100 discs with scores, a fifth of them below the threshold, and a map of 53 stuff classes in squares."""
    g = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre = size * torch.rand(MASKS, 2, 1, 1, generator=g)
    radius = size * (0.02 + 0.15 * torch.rand(MASKS, 1, 1, generator=g))
    masks = torch.stack([(x - cx) ** 2 + (y - cy) ** 2 < r**2 for (cx, cy), r in zip(centre, radius, strict=True)])
    scores = 0.375 + 0.625 * torch.rand(MASKS, generator=g)
    labels = torch.randint(mask_rcnn.CLASSES, (MASKS,), generator=g)
    stuff = mask_rcnn.CLASSES + (x * 8 // size + y * 8 // size * 8) % STUFF
    return Instances(masks, labels, masks_to_boxes(masks), scores).to(device), stuff.to(device)


def merges(size: int, device: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """The merge of seglib, and the rule as it is told."""
    instances, stuff = overlapping(size, device)
    calls = [
        partial(merge_panoptic, instances, stuff, MergeSettings(), num_things=mask_rcnn.CLASSES, impl=impl)
        for impl in ("fast", "reference")
    ]
    found, wanted = (call() for call in calls)
    if not torch.equal(found.map, wanted.map) or found.segments != wanted.segments or len(found.segments) < 50:
        raise SystemExit("the merged maps differ, or hold too few segments to measure anything")
    return calls[0], calls[1]


def step_of(model: Model) -> mask_rcnn.Step:
    """One step of SGD."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4, momentum=0.9)

    def step(images: Tensor, targets: Targets) -> None:
        model.train()
        torch.stack(list(model.loss(model(images, targets), targets).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def predict_of(model: Model) -> mask_rcnn.Step:
    """A prediction down to masks."""

    def predict(images: Tensor, targets: Targets) -> object:
        return [found.masks if isinstance(found, Instances) else found for found in model.predict(images)]

    return predict


def networks(device: str) -> dict[str, tuple[mask_rcnn.Step, mask_rcnn.Step]]:
    """What is measured: each call in seglib and one of torchvision's Mask R-CNN."""
    pairs = mask_rcnn.pairs(device)
    plain, _ = mask_rcnn.models()
    whole = build(
        "panoptic_fpn_resnet50", num_things=mask_rcnn.CLASSES, num_stuff=STUFF, frozen=True, conventions="torchvision"
    )
    whole.load_state_dict(plain.state_dict(), strict=False)  # the same Mask R-CNN; the branch is random
    whole.to(device)
    found = {}
    for name, make in (("prediction", predict_of), ("train step", step_of)):
        ours, reference = pairs[name]
        found[name] = (make(whole), reference)
        found[f"{name}, without branch"] = (ours, reference)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns that each side takes")
    parser.add_argument("--size", type=int, default=512, help="height and width of the images")
    parser.add_argument("--merge-size", type=int, default=1024, help="height and width of the masks to merge")
    parser.add_argument("--only", choices=["merge", "network"], help="one of the parts")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where both sides run")
    options = parser.parse_args()
    print(f"{hardware()}; torch {torch.__version__}, torchvision {torchvision.__version__}, {options.device}")
    print(f"median of {options.rounds} rounds (quartiles)")
    if options.only != "network":
        print(f"{MASKS} masks of {options.merge_size} x {options.merge_size}")
        sides = merges(options.merge_size, options.device)
        print(f"  {'':26} {'seglib':>9} {'naive':>11}   ratio")
        print(f"  {'merge':26} {compare(*sides, rounds=options.rounds, device=options.device)}", flush=True)
    if options.only != "merge":
        print(f"{mask_rcnn.BATCH} x 3 x {options.size} x {options.size}")
        images, targets = mask_rcnn.inputs(options.size)
        labels = torch.randint(mask_rcnn.CLASSES + STUFF, images[:, 0].shape)
        images, targets = images.to(options.device), Targets(labels, targets.instances).to(options.device)
        print(f"  {'':26} {'seglib':>9} {'torchvision':>11}   ratio")
        for name, pair in networks(options.device).items():
            calls = [partial(side, images, targets) for side in pair]
            print(f"  {name:26} {compare(*calls, rounds=options.rounds, device=options.device)}", flush=True)


if __name__ == "__main__":
    main()
