"""How fast nnU-Net's network and preparation are here, beside nnU-Net's own, and how fast a plan is made.

    python benchmarks/nnunet.py [network preprocess plan] [--rounds 9] [--device cuda]

Both sides see the same inputs, warm up, and take turns, so that whatever else the machine does hits both. The ratio is
seglib's time over the reference's, per round; printed are its median and its quartiles, below 1 where seglib is faster.
Every part first checks that both sides give the same numbers.

Memory is how much one call raises the resident size of a fresh process that holds the case.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np
import torch
from _side_by_side import compare, peak, print_peak, seconds
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import Tensor, nn
from torch.nn import functional as F

from seglib.book.results import hardware
from seglib.models.zoo import build
from seglib.ops.intensity import Intensity
from seglib.ops.preparation import Preparation
from seglib.planning.fingerprint import Fingerprint, ForegroundStatistics
from seglib.planning.memory import PLANNERS
from seglib.planning.plan import Configuration, plan
from seglib.weights import convert

CT = ForegroundStatistics(99.0, 101.0, 40.0, -900.0, 1300.0, -18.0, 199.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; all without any")
    parser.add_argument("--rounds", type=int, default=9, help="turns that each side takes")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where the networks run")
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    torch.set_num_threads(1)
    if options.peak:
        name, side = options.peak
        small, whole = (preparations(*CASES[name], size=size)[int(side)] for size in ((8, 16, 16), CASES[name][0]))
        return print_peak(small, whole)
    print(f"{hardware()}; torch {torch.__version__}, nnunetv2 {version('nnunetv2')}; one thread")
    for part in options.parts or PARTS:
        PARTS[part](options.rounds, *[options.device] * (part == "network"))


# Network -------------------------------------------------------------------------------------------------------------


MEMORY = {"cpu": 0.15, "cuda": 8}
"""GB that the networks are planned for."""
TOLERANCE = {"cpu": 1e-4, "cuda": 1e-2}
"""Of scores up to about 10; convolutions on a GPU multiply in TF32, with 11 bits."""


def network(rounds: int, device: str = "cpu") -> None:
    """Forward pass and training step of planned networks, beside those of dynamic-network-architectures."""
    print(f"networks of plans for {MEMORY[device]} GB, {device}, median of {rounds} rounds (quartiles of the ratio)")
    print(f"  {'':46} {'seglib':>11} {'reference':>11}   ratio")
    facts = fingerprint_of([(2.5, 0.8, 0.8)], [(96, 320, 320)])
    for planner, name in (("plain", "3d_fullres"), ("resenc_m", "3d_fullres"), ("plain", "2d")):
        configuration = plan(facts, planner=planner, memory=MEMORY[device]).configurations[name]
        reference = reference_network(configuration).train()
        builder, state, metadata = convert("nnunetv2:benchmark", reference.state_dict())
        ours = build(builder, **metadata["arguments"]).train()
        ours.load_state_dict(state)
        ours, reference = ours.to(device), reference.to(device)
        for batch in (2, 1):
            x = torch.randn(batch, 1, *configuration.patch, generator=torch.Generator().manual_seed(0)).to(device)
            sides = [partial(our_scores, ours, x), partial(reference, x)]
            with torch.no_grad():
                for a, b in zip(*(side() for side in sides), strict=True):
                    torch.testing.assert_close(a, b, rtol=TOLERANCE[device], atol=TOLERANCE[device])
            forward = [partial(without_gradient, side) for side in sides]
            found = compare(*forward, rounds=rounds, warmup=1, device=device)
            shape = "x".join(map(str, (batch, *configuration.patch)))
            print(f"  {f'{planner} {name}, {shape}, forward':46} {found}", flush=True)
            steps = [partial(step, side, net) for side, net in zip(sides, (ours, reference), strict=True)]
            found = compare(*steps, rounds=rounds, warmup=1, device=device)
            print(f"  {f'{planner} {name}, {shape}, step':46} {found}", flush=True)


def reference_network(configuration: Configuration) -> nn.Module:
    """The network of a configuration as nnU-Net builds it, with weights that no norm leaves the identity."""
    c, dims = configuration, len(configuration.patch)
    blocks: dict[str, Any] = {"n_conv_per_stage": c.blocks}
    if c.residual:
        blocks = {"n_blocks_per_stage": c.blocks}
    torch.manual_seed(0)
    net = (ResidualEncoderUNet if c.residual else PlainConvUNet)(
        input_channels=1,
        n_stages=len(c.widths),
        features_per_stage=c.widths,
        conv_op={2: nn.Conv2d, 3: nn.Conv3d}[dims],
        kernel_sizes=c.kernels,
        strides=[(1,) * dims, *c.strides],
        num_classes=3,
        n_conv_per_stage_decoder=c.decoder_blocks[::-1],
        conv_bias=True,
        norm_op={2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims],
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
        **blocks,
    )
    with torch.no_grad():
        for p in net.parameters():
            p += 0.02 * torch.randn_like(p)
    return net


def our_scores(net: nn.Module, x: Tensor) -> list[Tensor]:
    """The scores of all levels, for slices without the axis of one slice that ours have."""
    flat = x.ndim == 4
    out = net(x[:, :, None] if flat else x)
    return [scores[:, :, 0] if flat else scores for scores in (out.logits, *out.aux)]


def without_gradient(scores: Callable[[], object]) -> None:
    with torch.no_grad():
        scores()


def step(scores: Callable[[], list[Tensor]], net: nn.Module) -> None:
    """A training step with a loss that costs nothing."""
    net.zero_grad()
    torch.stack([s.mean() for s in scores()]).sum().backward()


# Preparation ---------------------------------------------------------------------------------------------------------

CASES = {  # voxels, mm, mm to resample to, normalisation
    "CT 64x192x192, all axes cubic": ((64, 192, 192), (2.0, 1.0, 1.0), (1.5, 0.8, 0.8), "ct"),
    "CT 40x256x256, thick slices": ((40, 256, 256), (5.0, 0.9, 0.9), (4.0, 0.8, 0.8), "ct"),
    "MR 64x192x192, all axes cubic": ((64, 192, 192), (2.0, 1.0, 1.0), (1.5, 0.8, 0.8), "zscore"),
}


def preprocess(rounds: int) -> None:
    """A labelled case as the network sees it, beside nnU-Net's DefaultPreprocessor."""
    print(f"preparation of a case with labels, median of {rounds} rounds (quartiles of the ratio); memory")
    print(f"  {'':46} {'seglib':>11} {'nnU-Net':>11}   ratio {'':14}   {'seglib':>9} {'nnU-Net':>9}")
    for name, case in CASES.items():
        ours, reference = preparations(*case)
        image, labels = ours()
        expected, expected_labels = reference()
        np.testing.assert_allclose(image, expected, rtol=1e-4, atol=1e-4)
        if (different := float((labels != expected_labels).mean())) > 1e-3:  # equal shares of two classes
            raise SystemExit(f"{name}: {100 * different:.2f} % of the labels differ")
        found = compare(ours, reference, rounds=rounds, warmup=1)
        memory = [peak(__file__, name, str(side)) for side in (0, 1)]
        print(f"  {name:46} {found}   {memory[0]:6.0f} MB {memory[1]:6.0f} MB", flush=True)


def preparations(
    voxels: tuple[int, int, int],
    mm: tuple[float, float, float],
    target: tuple[float, float, float],
    mode: str,
    *,
    size: tuple[int, int, int] | None = None,
) -> list[Callable[[], tuple[np.ndarray, np.ndarray]]]:
    """Ours and nnU-Net's preparation of one case: functions that return image and labels."""
    # smooth noise: a synthetic volume takes memory that would be used again, and so not be seen
    coarse = torch.randn(1, 1, 8, 12, 12, generator=torch.Generator().manual_seed(0))
    image = 60 * F.interpolate(coarse, size or voxels, mode="trilinear")[0] + 90  # (1, D, H, W)
    labels = (image[0] > 110).to(torch.uint8) + (image[0] > 150)
    ct = Intensity("ct", low=CT.percentile_00_5, high=CT.percentile_99_5, mean=CT.mean, std=CT.std)
    preparation = Preparation(spacing=target, intensities=(ct if mode == "ct" else Intensity("zscore"),))
    preprocessor = nnunet("preprocessing.preprocessors.default_preprocessor").DefaultPreprocessor(verbose=False)
    plans_manager = nnunet("utilities.plans_handling.plans_handler").PlansManager
    manager = plans_manager(plans_of(target, "CTNormalization" if mode == "ct" else "ZScoreNormalization"))
    ids = {"background": 0, "organ": 1, "lesion": 2}
    dataset = {"channel_names": {"0": "any"}, "labels": ids, "file_ending": ".nii.gz"}

    def ours() -> tuple[np.ndarray, np.ndarray]:
        prepared = preparation(image, mm, labels)
        assert prepared.labels is not None
        return prepared.image.numpy(), prepared.labels.numpy()

    def reference() -> tuple[np.ndarray, np.ndarray]:
        found, seg, _ = preprocessor.run_case_npy(
            image.numpy().copy(),
            labels.numpy()[None].astype(np.int16),
            {"spacing": list(mm)},
            manager,
            manager.get_configuration("benchmark"),
            dataset,
        )
        return found, seg[0].clip(0)  # it marks what lies outside of the non-zero region −1

    return [ours, reference]


def nnunet(name: str) -> ModuleType:
    """``nnunetv2.NAME``, which wants three folders and prints when it is imported."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(variable, tempfile.gettempdir())
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return importlib.import_module(f"nnunetv2.{name}")


def plans_of(target: tuple[float, float, float], scheme: str) -> dict[str, Any]:
    """As much of nnUNetPlans.json as preprocessing reads."""
    resampling = {"order_z": 0, "force_separate_z": None}
    names = {"data": (False, 3), "seg": (True, 1), "probabilities": (False, 1)}
    return {
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {
                "percentile_00_5": CT.percentile_00_5,
                "percentile_99_5": CT.percentile_99_5,
                "mean": CT.mean,
                "std": CT.std,
            }
        },
        "configurations": {
            "benchmark": {
                "architecture": {"arch_kwargs": {}, "_kw_requires_import": []},  # without which it warns
                "spacing": list(target),
                "normalization_schemes": [scheme],
                "use_mask_for_norm": [False],
                **{f"resampling_fn_{name}": "resample_data_or_seg_to_shape" for name in names},
                **{
                    f"resampling_fn_{name}_kwargs": {"is_seg": is_seg, "order": order} | resampling
                    for name, (is_seg, order) in names.items()
                },
            }
        },
    }


# Plan ----------------------------------------------------------------------------------------------------------------


def planning(rounds: int) -> None:
    """Seconds from the fingerprint of 1,000 cases to the plan, with all its reasons."""
    generator = np.random.default_rng(0)
    spacings = [(float(z), float(p), float(p)) for z, p in generator.uniform((1, 0.6), (6, 1), (1000, 2))]
    sizes = [(int(z), int(p), int(p)) for z, p in generator.integers((60, 400), (300, 513), (1000, 2))]
    facts = fingerprint_of(spacings, sizes)
    print(f"plan of a fingerprint of 1,000 cases, median of {rounds} rounds")
    for planner in PLANNERS:
        times = [seconds(partial(plan, facts, planner=planner)) for _ in range(rounds)]
        print(f"  {planner:46} {1e3 * float(np.median(times)):8.1f} ms", flush=True)


def fingerprint_of(spacings: list[tuple[float, float, float]], sizes: list[tuple[int, int, int]]) -> Fingerprint:
    """The fingerprint of CT cases of two organs."""
    classes = ("background", "organ", "lesion")
    return Fingerprint("benchmark", ("CT",), classes, tuple(spacings), tuple(sizes), 1.0, (CT,))


PARTS: dict[str, Callable[..., None]] = {"network": network, "preprocess": preprocess, "plan": planning}

if __name__ == "__main__":
    main()
