"""What ``seglib predict`` takes for photos of growing size: peak memory of the whole command, and time.

    python benchmarks/predict.py [--weights chapters/weights/fcn_tiny.safetensors] [--tile 512]

Each line is one process that reads a JPEG, predicts it at its own size, and writes the overlay and the label map. The
first line predicts 64 × 48 pixels: what Python, torch and the weights take. Beside each stands what the probabilities
of the whole photo alone would take, K·H·W floats, of which an untiled prediction holds several copies.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from seglib.book.results import hardware
from seglib.data.scenes import make_scene
from seglib.weights import read_metadata

SIZES = ((64, 48), (1000, 750), (2000, 1500), (4000, 3000), (8000, 6000))


def photo(path: Path, size: tuple[int, int]) -> None:
    """A synthetic scene, resized to ``size`` (width, height)."""
    scene = make_scene(0, 0, size=(384, 512)).image  # (3, 384, 512)
    pixels = (scene * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)


def measure(command: list[str]) -> tuple[float, float]:
    """Peak memory in MB and seconds of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return usage.ru_maxrss * unit / 1e6, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="chapters/weights/fcn_tiny.safetensors")
    parser.add_argument("--tile", help="side of the tiles, when not the default")
    parser.add_argument("--largest", type=int, default=4000, help="width of the largest photo, up to 8000")
    arguments = parser.parse_args()

    metadata = read_metadata(arguments.weights)
    classes = metadata["arguments"]["num_classes"]
    print(f"{hardware()}; torch {torch.__version__}; {metadata['model']}, {classes} classes, on the CPU")
    print(f"  {'photo':>11} {'peak memory':>12} {'K·H·W floats':>13} {'time':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for size in (s for s in SIZES if s[0] <= arguments.largest):
            path = Path(folder) / "photo.jpg"
            photo(path, size)
            command = [sys.executable, "-m", "seglib", "predict", str(path), "--weights", arguments.weights]
            command += [
                "--short-side",
                "0",
                "--device",
                "cpu",
                "--out",
                f"{folder}/o.png",
                "--labels",
                f"{folder}/l.png",
            ]
            command += ["--tile", arguments.tile] if arguments.tile else []
            peak, seconds = measure(command)
            whole = classes * size[0] * size[1] * 4 / 1e6
            print(f"  {size[0]:>5}×{size[1]:<5} {peak:9.0f} MB {whole:10.0f} MB {seconds:6.1f} s", flush=True)


if __name__ == "__main__":
    main()
