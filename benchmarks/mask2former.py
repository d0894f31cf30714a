"""How fast Mask2Former is, beside Transformers' with the same weights, in one run.

    python benchmarks/mask2former.py [--rounds 5] [--size 512] [--post-size 1024] [--only network] [--device cuda]

- deformable attention: every cell of the three scales of two images asks for its points. seglib sums rows of one table
  (``impl="fast"``), Transformers samples map after map; "step" is with the backward pass. And on an image of 64 × 64,
  beside the loops of ``impl="reference"``.
- network: ResNet-50, 133 classes, 100 queries, random weights that go through seglib's converter; the masks must agree.
  A forward pass of one image, and a training step (forward, the losses of all ten predictions, backward, SGD) of two
  images with eight objects each.
- post-processing: 100 queries, 60 of them sure, become each of the three results. It isn't the same work: Transformers
  resizes all masks to 384 × 384 first, whatever the size of the image, and gives no probabilities.

Ratios are below 1 where seglib is faster. Memory is how much one call raises the largest resident size of a fresh
process that holds the model already; on a GPU what torch allocates during one call.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import transformers
from _side_by_side import compare, cuda_peak, peak, print_peak
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

from seglib.book.results import hardware
from seglib.models.mask2former import Mask2Former
from seglib.models.zoo import build
from seglib.ops.deform_attn import deformable_attention
from seglib.ops.masks import masks_to_boxes
from seglib.postprocess.queries import instances_from_queries, panoptic_from_queries, semantic_from_queries
from seglib.types import Instances, Targets
from seglib.weights import convert

CLASSES, THINGS, QUERIES, OBJECTS = 133, 80, 100, 8
Pair = tuple[Callable[[], Any], Callable[[], Any]]
"""A call of seglib, and the same of the other side."""


# Deformable attention -------------------------------------------------------------------------------------------------


def attention_inputs(shapes: Sequence[tuple[int, int]], batch: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Value, locations and weights of 8 heads of 32 channels: every cell asks for 4 points a scale, a few cells off."""
    g = torch.Generator().manual_seed(0)
    centres = [torch.cartesian_prod(*((torch.arange(n) + 0.5) / n for n in shape)).flip(1) for shape in shapes]
    centre = torch.cat(centres)[:, None, None, None]  # (N, 1, 1, 1, 2) xy
    cells = torch.tensor([(w, h) for h, w in shapes])[:, None]  # (L, 1, 2)
    each = (batch, len(centre), 8, len(shapes), 4)
    locations = centre + 2 * torch.randn(*each, 2, generator=g) / cells
    weights = torch.randn(each, generator=g).flatten(3).softmax(-1).view(each)
    value = torch.randn(batch, len(centre), 8, 32, generator=g)
    return value.to(device), locations.to(device), weights.to(device)


def attentions(size: int, batch: int, device: str, other: Callable[..., Tensor]) -> dict[str, Pair]:
    """The fast path, and another way to the same numbers."""
    shapes = [(size // s, size // s) for s in (32, 16, 8)]
    parts = [p.requires_grad_() for p in attention_inputs(shapes, batch, device)]

    def call(run: Callable[..., Tensor]) -> Tensor:
        with torch.no_grad():
            return run(parts[0], shapes, *parts[1:])

    def step(run: Callable[..., Tensor]) -> object:
        return torch.autograd.grad(run(parts[0], shapes, *parts[1:]).square().sum(), parts)

    torch.testing.assert_close(call(deformable_attention), call(other), rtol=1e-4, atol=1e-4)
    return {
        name: (partial(way, deformable_attention), partial(way, other))
        for name, way in (("forward", call), ("step", step))
    }


# The network ----------------------------------------------------------------------------------------------------------


def models() -> tuple[Mask2Former, Any]:
    """Both models with the same random weights."""
    torch.manual_seed(0)
    backbone: dict[str, Any] = {"out_features": [f"stage{i}" for i in (1, 2, 3, 4)]}
    settings: dict[str, Any] = {"num_labels": CLASSES, "num_queries": QUERIES}
    config = transformers.Mask2FormerConfig(backbone_config=transformers.ResNetConfig(**backbone), **settings)
    reference = transformers.Mask2FormerForUniversalSegmentation(config)
    name, state, metadata = convert("transformers:mask2former_resnet50_instance", reference.state_dict())
    ours = build(name, **metadata["arguments"])
    assert isinstance(ours, Mask2Former)
    ours.load_state_dict(state)
    return ours, reference


def inputs(size: int, batch: int, device: str) -> tuple[Tensor, Targets]:
    """Images with a disc for each object."""
    g = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    instances = []
    for _ in range(batch):
        centre = size * torch.rand(OBJECTS, 2, 1, 1, generator=g)
        radius = size * (0.05 + 0.15 * torch.rand(OBJECTS, 1, 1, generator=g))
        masks = (x - centre[:, 0]) ** 2 + (y - centre[:, 1]) ** 2 < radius**2  # (N, H, W)
        instances.append(Instances(masks, torch.randint(THINGS, (OBJECTS,), generator=g), masks_to_boxes(masks)))
    return torch.rand(batch, 3, size, size, generator=g).to(device), Targets(instances=instances).to(device)


def networks(size: int, device: str) -> dict[str, Pair]:
    """What is measured: each call in seglib and the same in Transformers."""
    ours, reference = (model.to(device) for model in models())
    optimizers = [torch.optim.SGD(m.parameters(), lr=1e-6) for m in (ours, reference)]
    one, (images, targets) = inputs(size, 1, device)[0], inputs(size, 2, device)
    masks, labels = zip(*((i.masks.float(), i.labels) for i in targets.instances or []), strict=True)

    def update(loss: Tensor, side: int) -> None:
        loss.backward()
        optimizers[side].step()
        optimizers[side].zero_grad()

    def our_forward() -> object:
        with torch.inference_mode():
            return ours.eval()(one).mask_logits()

    def reference_forward() -> object:
        with torch.inference_mode():
            return reference.eval()(ours.normalize(one)).masks_queries_logits

    def our_step() -> None:
        ours.train()
        update(torch.stack(list(ours.loss(ours(images), targets).values())).sum(), 0)

    def reference_step() -> None:
        reference.train()
        pixels = ours.normalize(images)
        update(reference(pixels, mask_labels=list(masks), class_labels=list(labels)).loss, 1)

    return {"forward": (our_forward, reference_forward), "train step": (our_step, reference_step)}


def agree(size: int) -> None:
    """Stop when the masks of the last layer differ by more than rounding."""
    found, want = (call() for call in networks(size, "cpu")["forward"])
    if not torch.allclose(found, want, rtol=0, atol=1e-4 * float(want.abs().max())):
        raise SystemExit(f"the logits differ by {float((found - want).abs().max()):.1e}")


# Post-processing ------------------------------------------------------------------------------------------------------


def answers(size: int, device: str) -> tuple[Tensor, Tensor]:
    """Class logits ``(Q, K + 1)`` and mask logits ``(Q, size / 4, size / 4)`` of one image: discs, 60 of them sure."""
    g = torch.Generator().manual_seed(0)
    cells = torch.arange(size // 4) / (size // 4)
    centre, radius = torch.rand(QUERIES, 2, 1, 1, generator=g), 0.05 + 0.2 * torch.rand(QUERIES, 1, 1, generator=g)
    distance = ((cells - centre[:, 0]) ** 2 + (cells[:, None] - centre[:, 1]) ** 2).sqrt()  # (Q, h, w)
    classes = torch.randn(QUERIES, CLASSES + 1, generator=g)
    label = torch.randint(CLASSES, (QUERIES,), generator=g)
    label[60:] = CLASSES  # no object
    classes[torch.arange(QUERIES), label] += 12
    return classes.to(device), (50 * (radius - distance)).to(device)


def postprocessing(size: int, device: str) -> dict[str, Pair]:
    """The three results of one image, in seglib and by Transformers' functions."""
    classes, masks = answers(size, device)
    image = (classes, masks, (size, size), (size, size), (size, size))
    processor = transformers.Mask2FormerImageProcessor()
    out = transformers.models.mask2former.modeling_mask2former.Mask2FormerForUniversalSegmentationOutput(
        class_queries_logits=classes[None], masks_queries_logits=masks[None]
    )
    stuff = set(range(THINGS, CLASSES))

    def other(name: str, **settings: object) -> object:
        return getattr(processor, f"post_process_{name}_segmentation")(out, target_sizes=[(size, size)], **settings)

    return {
        "semantic": (partial(semantic_from_queries, *image), partial(other, "semantic")),
        "instance": (
            lambda: instances_from_queries(*image, num_things=THINGS).masks,
            partial(other, "instance", return_binary_maps=True),
        ),
        "panoptic": (
            partial(panoptic_from_queries, *image, num_things=THINGS),
            partial(other, "panoptic", threshold=0.8, label_ids_to_fuse=stuff),
        ),
    }


# ----------------------------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[int, str], dict[str, Pair]]] = {"network": networks, "post-processing": postprocessing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns that each side takes")
    parser.add_argument("--size", type=int, default=512, help="height and width of the images")
    parser.add_argument("--post-size", type=int, default=1024, help="height and width of the results")
    parser.add_argument("--only", choices=["attention", *PARTS], help="one of the parts")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where both sides run")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = {"network": options.size, "post-processing": options.post_size}
    if options.peak:
        part, name, side = options.peak
        small, call = (PARTS[part](n, "cpu")[name][int(side)] for n in (128, sizes[part]))
        return print_peak(small, call)

    print(f"{hardware()}; torch {torch.__version__}, transformers {transformers.__version__}, {options.device}")
    print(f"median of {options.rounds} rounds (quartiles)")
    if options.only in (None, "attention"):
        print(f"  {'deformable attention':26} {'seglib':>9} {'Transformers':>11}   ratio")
        sides = attentions(options.size, 2, options.device, multi_scale_deformable_attention)
        loops = attentions(64, 1, options.device, partial(deformable_attention, impl="reference"))
        for name, pair in {**sides, "forward, beside loops": loops["forward"]}.items():
            found = compare(*pair, rounds=options.rounds, warmup=1, device=options.device)
            print(f"  {name:26} {found}", flush=True)
    for part, make in PARTS.items():
        if options.only not in (None, part):
            continue
        if part == "network":
            agree(128)
        print(f"  {f'{part}, {sizes[part]} × {sizes[part]}':26} {'seglib':>9} {'Transformers':>11}   ratio")
        for name, pair in make(sizes[part], options.device).items():
            found = compare(*pair, rounds=options.rounds, device=options.device)
            if options.device == "cuda":
                memory = [cuda_peak(side) for side in pair]
            else:
                size = ["--size", str(options.size), "--post-size", str(options.post_size)]
                memory = [peak(__file__, part, name, side, *size) for side in ("0", "1")]
            print(f"  {name:26} {found}   {memory[0]:6.0f} MB {memory[1]:8.0f} MB", flush=True)


if __name__ == "__main__":
    main()
