"""Draws the book's own images: ``python -m seglib.book.artwork FOLDER`` writes logo, favicon and one scene."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from seglib.data.scenes import CATEGORIES, make_scene
from seglib.types import Sample
from seglib.viz.colors import to_rgb8
from seglib.viz.overlay import overlay, overlay_instances, overlay_panoptic

BLUE, ORANGE, GREEN, PINK = "#0072b2", "#e69f00", "#009e73", "#cc79a7"
LETTERS = {"b": BLUE, "o": ORANGE, "g": GREEN, "p": PINK}

MARK = ("bbbbb", "bboob", "boooo", "gooog", "ggppg")
"""The logo: a label map of 5 × 5 pixels, each letter a class."""


def logo_svg(cell: int = 20, gap: int = 2) -> str:
    """The logo as SVG text: one rounded square for each pixel of `MARK`."""
    size = cell * len(MARK)
    squares = "".join(
        f'<rect x="{x * cell + gap / 2:g}" y="{y * cell + gap / 2:g}" width="{cell - gap}" height="{cell - gap}" '
        f'rx="3" fill="{LETTERS[letter]}"/>'
        for y, row in enumerate(MARK)
        for x, letter in enumerate(row)
    )
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}">{squares}</svg>\n'


def favicon(size: int = 64) -> Image.Image:
    """The logo as a small image of ``size`` × ``size`` pixels without gaps."""
    image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    edges = [round(i * size / len(MARK)) for i in range(len(MARK) + 1)]
    for y, row in enumerate(MARK):
        for x, letter in enumerate(row):
            draw.rectangle((edges[x], edges[y], edges[x + 1] - 1, edges[y + 1] - 1), fill=LETTERS[letter])
    return image


def one_scene(size: int = 256) -> dict[str, Image.Image]:
    """One scene as each type of system answers it: name of the answer → image of ``size`` × ``size`` pixels."""
    scene = make_scene(0, 30, size=size, difficulty=0.3)
    if scene.semantic is None or scene.instances is None or scene.panoptic is None:
        raise ValueError("the landing page needs a scene with all annotations")
    answers = {
        "image": to_rgb8(scene.image),
        "semantic": overlay(scene.image, scene.semantic, CATEGORIES, alpha=0.75),
        "instance": overlay_instances(scene.image, scene.instances, alpha=0.75),
        "panoptic": overlay_panoptic(scene.image, scene.panoptic, CATEGORIES, alpha=0.8),
        "prompt": _prompt(scene, "car"),
    }
    return {name: Image.fromarray(pixels) for name, pixels in answers.items()}


def side_by_side(images: list[Image.Image], gap: int = 12) -> Image.Image:
    """Images of one size in a row on a transparent ground."""
    width, height = images[0].size
    row = Image.new("RGBA", (len(images) * (width + gap) - gap, height), (0, 0, 0, 0))
    for i, image in enumerate(images):
        row.paste(image, (i * (width + gap), 0))
    return row


def _prompt(scene: Sample, name: str) -> np.ndarray:
    """The largest object of a class, lit up in a grey image, with a cross where a person clicked on it."""
    assert scene.instances is not None
    wanted = next(category.id for category in CATEGORIES if category.name == name)
    candidates = scene.instances[scene.instances.labels == wanted]
    index = int(candidates.masks.sum(dim=(1, 2)).argmax())
    chosen = candidates[index : index + 1]
    rows, columns = torch.nonzero(chosen.masks[0], as_tuple=True)  # (n,), (n,)
    nearest = ((rows - rows.float().mean()) ** 2 + (columns - columns.float().mean()) ** 2).argmin()
    y, x = int(rows[nearest]), int(columns[nearest])
    grey = 0.35 + 0.5 * scene.image.mean(dim=0, keepdim=True).expand(3, -1, -1)  # (3, H, W)
    image = Image.fromarray(overlay_instances(grey, chosen, alpha=0.75))
    draw = ImageDraw.Draw(image)
    for color, width in (("white", 7), ("black", 3)):
        draw.line((x - 9, y, x + 9, y), fill=color, width=width)
        draw.line((x, y - 9, x, y + 9), fill=color, width=width)
    return np.asarray(image)


def main(folder: Path) -> None:
    """Write the images into ``folder``."""
    (folder / "logo.svg").write_text(logo_svg(), encoding="utf-8")
    favicon().save(folder / "favicon.png", optimize=True)
    answers = one_scene()
    for name, image in answers.items():
        _save(image, folder / f"one_scene_{name}.png")
    _save(side_by_side(list(answers.values())), folder / "one_scene.png")


def _save(image: Image.Image, path: Path) -> None:
    image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
