"""How fast volumes are measured, beside MONAI, in one run.

    python benchmarks/volumes.py [hd95 waiting] [--rounds 15]

Both sides see the same volumes, warm up, and take turns, so that whatever else the machine does hits both. The ratio
is seglib's time over MONAI's, per round; printed are its median and its quartiles, below 1 where seglib is faster.
Every part first checks that both sides give the same numbers.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial

import monai
import torch
from _side_by_side import compare
from monai.metrics import compute_hausdorff_distance
from monai.networks.nets import DynUNet
from torch import Tensor
from torch.utils.data import DataLoader

from seglib.book.results import hardware
from seglib.data.cases import StoredCases
from seglib.data.checks import count_labels
from seglib.data.collate import collate
from seglib.data.patches import Patches
from seglib.data.volume_transforms import volume_transform
from seglib.data.volumes import Volumes
from seglib.losses.pixel import cross_entropy
from seglib.metrics import hausdorff
from seglib.models.unet3d import unet3d_tiny
from seglib.models.zoo import build
from seglib.ops.intensity import Intensity
from seglib.ops.resize import resize_labels
from seglib.train.sampling import SeededDataset, StreamBatches
from seglib.weights import convert

SPACING = (2.5, 1.0, 1.0)
"""Millimetres, thick slices as in abdominal CT."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; all without any")
    parser.add_argument("--rounds", type=int, default=15, help="turns that each side takes")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    torch.set_num_threads(1)
    print(f"{hardware()}; torch {torch.__version__}, monai {monai.__version__}; one thread")
    for name in arguments.parts or PARTS:
        PARTS[name](arguments.rounds)


def hd95(rounds: int) -> None:
    """HD95 of one class in 128³ voxels: an organ, a thin tree, a lesion, and an organ with a far speck."""
    print(f"HD95, masks of 128 x 128 x 128 voxels, median of {rounds} rounds (quartiles of the ratio)")
    print(f"  {'':42} {'seglib':>11} {'monai':>11}   ratio")
    for name, pair in masks(128).items():
        batches = [mask[None, None] for mask in pair]  # (1, 1, D, H, W)
        keywords = {"include_background": True, "percentile": 95, "spacing": SPACING}
        reference = partial(compute_hausdorff_distance, *batches, **keywords)
        ours = partial(hausdorff, *pair, SPACING)
        if abs(ours() - float(reference())) > 1e-4:  # MONAI's distances are float32
            raise SystemExit(f"{name}: seglib says {ours()} mm, MONAI {float(reference())} mm")
        print(f"  {name:42} {compare(ours, reference, rounds=rounds)}")


def waiting(rounds: int, device: str = "cpu") -> None:
    """The share of a training step that waits for data: augmented patches of stored cases, without and with workers."""
    print(f"unet3d_tiny on {device}, batches of 2 patches of 64 x 64 x 64 voxels, augmented, {rounds} steps")
    with tempfile.TemporaryDirectory() as folder:
        cases = StoredCases(Volumes(4, size=(80, 160, 160)), folder)
        patches = Patches(cases, (64, 64, 64), intensity=Intensity("zscore"), transform=volume_transform(flips=(0, 1)))
        count_labels(patches, "semantic")  # stores every case before the clock runs
        model = unet3d_tiny(len(cases.categories)).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for workers in (0, 1, 2):
            order = StreamBatches(len(patches), 2, rounds + 4)
            loader = DataLoader(SeededDataset(patches, 0), batch_sampler=order, num_workers=workers, collate_fn=collate)
            times = []
            batches = iter(loader)
            for _ in range(rounds + 4):
                start = time.perf_counter()
                batch = next(batches)
                got = time.perf_counter()
                batch = batch.to(device)
                loss = sum(model.loss(model(batch.images), batch.targets).values())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                loss.item()  # on a GPU the step ends here
                times.append((got - start, time.perf_counter() - got))
            wait, step = torch.tensor(times[4:]).sum(0).tolist()  # the first steps start the workers
            share, total = f"{100 * wait / (wait + step):5.1f} %", 1e3 * (wait + step) / rounds
            print(f"  {workers} workers: {share} of the time waits for data ({total:.0f} ms a step)")


def step(rounds: int) -> None:
    """A training step of the 3D U-Net on one patch of 96³ voxels, and of MONAI's DynUNet with the same weights."""
    rounds = min(rounds, 5)  # a step takes seconds
    print(f"training step of unet3d, 1 x 1 x 96 x 96 x 96 voxels, median of {rounds} rounds (quartiles of the ratio)")
    print(f"  {'':42} {'seglib':>11} {'monai':>11}   ratio")
    widths, strides = (32, 64, 128, 256, 320), [(2, 2, 2)] * 4
    reference = DynUNet(
        3, 1, 3, [(3, 3, 3)] * 5, [(1, 1, 1), *strides], strides, widths, deep_supervision=True, deep_supr_num=2
    ).train()
    name, state, metadata = convert("monai:dynunet", reference.state_dict())
    ours = build(name, **metadata["arguments"]).train()
    ours.load_state_dict(state)
    x = torch.randn(1, 1, 96, 96, 96)
    labels = torch.randint(3, x.shape[2:])[None]  # (1, D, H, W)

    def our_scores() -> list[Tensor]:
        out = ours(x)
        return [out.logits, *out.aux]

    def reference_scores() -> list[Tensor]:
        return list(reference(x).unbind(1))  # the coarse ones repeated to full size

    with torch.no_grad():
        if not torch.allclose(our_scores()[0], reference_scores()[0], rtol=1e-4, atol=1e-4):
            raise SystemExit("the two networks do not give the same scores")
    sides = [(our_scores, ours), (reference_scores, reference)]
    for what, compared in {"network alone": mean_of, "with cross-entropy at every scale": all_scales}.items():
        calls = [partial(train_once, scores, net, partial(compared, labels=labels)) for scores, net in sides]
        print(f"  {what:42} {compare(*calls, rounds=rounds, warmup=1)}")


def train_once(
    scores: Callable[[], list[Tensor]], net: torch.nn.Module, loss: Callable[[list[Tensor]], Tensor]
) -> None:
    net.zero_grad()
    loss(scores()).backward()


def mean_of(scores: list[Tensor], labels: Tensor) -> Tensor:
    """A loss that costs nothing, of the finest scores."""
    return scores[0].mean()


def all_scales(scores: list[Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy of all scores, each at its own size."""
    losses = [cross_entropy(s, resize_labels(labels, s.shape[2:])) for s in scores]
    return torch.stack(losses).sum()


def masks(size: int) -> dict[str, tuple[Tensor, Tensor]]:
    """By name: a predicted and a true mask, ``(D, H, W)`` bool each, that differ by a few voxels."""
    organ = ellipsoid(size, (0.47, 0.5, 0.5), (0.31, 0.35, 0.39))
    speck = ellipsoid(size, (0.94, 0.94, 0.94), (0.02, 0.02, 0.02))
    moved = ellipsoid(size, (0.48, 0.52, 0.48), (0.3, 0.37, 0.39))
    vessels = tree(size)
    lesion = ellipsoid(size, (0.15, 0.15, 0.15), (0.03, 0.03, 0.03))
    return {
        "organ": (moved, organ),
        "thin tree": (vessels.roll((1, 0, 1), (0, 1, 2)), vessels),
        "tiny lesion": (ellipsoid(size, (0.16, 0.15, 0.17), (0.03, 0.03, 0.04)), lesion),
        "organ and a far speck": (moved | speck, organ),
        "lesion found at the wrong end": (speck, lesion),
        "a small sphere in a large one": (
            ellipsoid(size, (0.5,) * 3, (0.15,) * 3),
            ellipsoid(size, (0.5,) * 3, (0.4,) * 3),
        ),
    }


def ellipsoid(size: int, centre: tuple[float, ...], radii: tuple[float, ...]) -> Tensor:
    """A mask ``(S, S, S)``; centre and radii are shares of the side."""
    axes = [((torch.arange(size) + 0.5) / size - c).div(r).square() for c, r in zip(centre, radii, strict=True)]
    return axes[0][:, None, None] + axes[1][:, None] + axes[2] < 1


def tree(size: int, branches: int = 12) -> Tensor:
    """Branches two voxels wide that wander from the centre outwards, ``(S, S, S)`` bool."""
    g = torch.Generator().manual_seed(0)
    steps = torch.randn(1, branches, 3, generator=g) + 0.3 * torch.randn(
        size * 2 // 3, branches, 3, generator=g
    ).cumsum(0)
    path = (size / 2 + (steps / steps.norm(dim=2, keepdim=True)).cumsum(0)).long().clamp(2, size - 3)  # (L, B, 3)
    mask = torch.zeros(size, size, size, dtype=torch.bool)
    for offset in torch.cartesian_prod(*[torch.arange(2)] * 3):
        mask[tuple((path + offset).flatten(0, 1).T)] = True
    return mask


PARTS: dict[str, Callable[[int], None]] = {"step": step, "hd95": hd95, "waiting": waiting}

if __name__ == "__main__":
    main()
