"""How fast volumes are measured, beside MONAI, in one run.

    python benchmarks/volumes.py [hd95 step windows memory waiting] [--rounds 15]

Both sides see the same volumes, warm up, and take turns, so that whatever else the machine does hits both. The ratio
is seglib's time over MONAI's, per round; printed are its median and its quartiles, below 1 where seglib is faster.
Every part first checks that both sides give the same numbers.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import monai
import numpy as np
import torch
from _side_by_side import compare
from monai.inferers import sliding_window_inference
from monai.metrics import compute_hausdorff_distance
from monai.networks.nets import DynUNet
from torch import Tensor, nn
from torch.utils.data import DataLoader

from seglib.book.results import hardware
from seglib.data.cases import StoredCases
from seglib.data.checks import count_labels
from seglib.data.collate import collate
from seglib.data.patches import Patches
from seglib.data.volume_transforms import volume_transform
from seglib.data.volumes import Volumes
from seglib.layers.normalize import Normalize
from seglib.losses.pixel import cross_entropy
from seglib.metrics import hausdorff
from seglib.models.semantic import SemanticModel
from seglib.models.unet3d import unet3d_tiny
from seglib.models.zoo import build
from seglib.ops.intensity import Intensity
from seglib.ops.resize import resize_labels
from seglib.postprocess.volume import label_volume, sliding_window
from seglib.train.sampling import SeededDataset, StreamBatches
from seglib.types import DenseOutput
from seglib.weights import convert

SPACING = (2.5, 1.0, 1.0)
"""Millimetres, thick slices as in abdominal CT."""
WINDOW = (96, 96, 96)


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


def windows(rounds: int) -> None:
    """Windows of 96³ voxels that overlap by half, with a layer that costs next to nothing and with a small U-Net."""
    print(
        f"sliding window of 96 x 96 x 96 voxels, overlap 0.5, Gaussian, median of at most {rounds} rounds (quartiles)"
    )
    print(f"  {'':42} {'seglib':>11} {'monai':>11}   ratio")
    torch.manual_seed(0)
    net = unet3d_tiny(3).eval()
    predictors: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
        "1x1x1 convolution, 256 x 256 x 256": (256, nn.Conv3d(1, 3, 1)),
        "unet3d_tiny, 144 x 144 x 144": (144, lambda x: net(x).logits),  # 256 takes minutes a round
    }
    for name, (size, predictor) in predictors.items():
        image = torch.randn(1, size, size, size)
        ours = partial(sliding_window, predictor, image, WINDOW)
        reference = partial(sliding_window_inference, image[None], WINDOW, 1, predictor, 0.5, "gaussian")
        with torch.no_grad():
            found, expected = ours(), reference()[0]
            torch.testing.assert_close(found, expected, rtol=0, atol=3e-6 * float(expected.abs().max()))  # float32 sums
            del found, expected
            turns = rounds if size == 256 else min(rounds, 3)
            print(f"  {name:42} {compare(ours, reference, rounds=turns, warmup=0)}", flush=True)


def memory(rounds: int) -> None:
    """The memory that labels of 512×512×400 voxels take when image and labels are memory-mapped."""
    size = (400, 512, 512)
    with tempfile.TemporaryDirectory() as folder:
        image = np.memmap(Path(folder, "image"), np.int16, "w+", shape=(1, *size))
        for i in range(size[0]):
            image[:, i] = i
        out = np.memmap(Path(folder, "labels"), np.uint8, "w+", shape=size)
        call = partial(label_volume, OneLayer(), torch.from_numpy(image), WINDOW, out=torch.from_numpy(out))
        used = own_memory(call)
    net, window = unet3d_tiny(3).eval(), torch.zeros(1, 1, *WINDOW)
    with torch.no_grad():
        network = own_memory(partial(net, window))
    sums, whole = (3 * 4 * n * 512 * 512 / 2**20 for n in (WINDOW[0], size[0]))
    print(f"labels of 400 x 512 x 512 voxels, 3 classes, windows of 96 x 96 x 96: {used:.0f} MB besides the network")
    print(f"  of them {sums:.0f} MB are sums of logits; the logits of the whole case take {whole:.0f} MB")
    print(f"  unet3d_tiny takes {network:.0f} MB more for a window")


class OneLayer(SemanticModel):
    """A model that takes next to no time and memory."""

    def __init__(self) -> None:
        super().__init__(3)
        self.normalize = Normalize([0.0], [1.0], dims=3, value_range=None)
        self.score = nn.Conv3d(1, 3, 1)

    def forward(self, images: Tensor, targets: object = None, sizes: object = None) -> DenseOutput:
        """Class scores of every voxel from its own value."""
        return DenseOutput(self.score(self.normalize(images)))


def own_memory(call: Callable[[], object]) -> float:
    """Megabytes by which this process's memory rises during a call, without the pages of mapped files. Linux only.

    Those pages are a copy of the file, which the system drops when it needs the memory.
    """

    def now() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

    def watch() -> None:
        while not done.wait(0.005):
            seen.append(now())

    seen, done = [now()], threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    call()
    done.set()
    watcher.join()
    return max(seen) - seen[0]


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


PARTS: dict[str, Callable[[int], None]] = {
    "step": step,
    "windows": windows,
    "memory": memory,
    "hd95": hd95,
    "waiting": waiting,
}

if __name__ == "__main__":
    main()
