"""The figure of the playground: the reader's own image through a network that runs in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seglib.book.figures import architecture
from seglib.book.figures.element import Figure
from seglib.book.figures.images import png
from seglib.book.pretrained import stored_model
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.models.base import Model
from seglib.types import Sample
from seglib.viz.colors import to_rgb8

SEEDS = (1, 3, 8, 10, 11, 13)
"""Scenes of the test split that the page offers."""

SIDE = 128
"""Pixels along a side of the image."""

STAMPS = ("house", "tree", "car", "person", "balloon")
"""Things that the reader can set down, cut out of scenes."""

GROUNDS = ("sky", "mountain", "grass", "water", "road")
"""What the reader can paint, each in a colour of the scenes."""

DRAWINGS: dict[str, tuple[str, Callable[..., Figure]]] = {
    "unet_tiny": ("U-Net", architecture.unet),
    "fcn_tiny": ("FCN", architecture.fcn),
}
"""Name of a network → its heading, and what draws it."""


class _Live(Figure):
    """A figure whose network runs in the page."""

    shared = ("maps", "live")


def playground() -> Figure:
    """Draw an image, take a scene or open a photo, and see every stage of U-Net or FCN answer as you go.

    The networks are those with stored weights; they come from ``_static/networks`` of the built book
    (:mod:`seglib.book.networks`), so outside of its pages there is a sentence in the figure's place. Nothing leaves the
    page.
    """
    scenes = Scenes(max(SEEDS) + 1, split="test", size=SIDE)
    samples = [scenes[seed] for seed in SEEDS]
    names = [c.name for c in CATEGORIES]
    params = {
        "side": SIDE,
        "scenes": [{"seed": seed, "image": png(s.image)} for seed, s in zip(SEEDS, samples, strict=True)],
        "brushes": [[name, _colour(samples[0], names.index(name), samples)] for name in GROUNDS],
        "stamps": [[name, _stamp(scenes, names.index(name))] for name in STAMPS],
        "categories": [[c.name, list(c.color)] for c in CATEGORIES],
        "networks": [_drawing(name, samples[0]) for name in DRAWINGS],
    }
    return _Live(
        "playground",
        params,
        text="draw an image and see every stage of a network answer",
        fallback="<p>Here a U-Net and an FCN run in the page, on an image that you draw (needs JavaScript).</p>",
    )


def _drawing(name: str, sample: Sample) -> dict[str, Any]:
    """The blocks, arrows and switches of a network's drawing, without the maps, which come from the page itself."""
    title, draw = DRAWINGS[name]
    model: Model = stored_model(name)
    drawn = draw(model, sample.image, CATEGORIES).params
    blocks = [
        {key: b[key] for key in ("l", "side", "shape", "x", "y", "w", "h", "k", "path", "of", "t")} | {"kind": _kind(b)}
        for b in drawn["blocks"]
    ]
    switches = [{"l": label, **_cut(name, label)} for label in drawn["switches"]]
    kept = {key: drawn[key] for key in ("size", "edges", "notes")}
    return {"name": name, "title": title, "blocks": blocks, "switches": switches, **kept}


def _kind(block: dict[str, Any]) -> str:
    if block["m"] in ("image", "prediction"):
        return str(block["m"])
    return "classes" if block["what"] == "Class of the highest score" else "strength"


def _cut(name: str, label: str) -> dict[str, Any]:
    """The layer that a switch turns off: its output, or the second map that its first step joins."""
    level = label.split()[-1]
    if name == "fcn_tiny":
        return {"layer": f"score.{level}"}
    return {"layer": f"decoder.{4 - int(level[1:])}", "joins": 1}


def _colour(first: Sample, label: int, samples: list[Sample]) -> list[int]:
    """The mean colour of a class by day: of the scenes, the one where it is brightest."""
    means = []
    for s in samples:
        assert s.semantic is not None  # scenes have labels
        inside = s.semantic == label
        if inside.sum() > 60:
            means.append(s.image[:, inside].mean(1))
    return (max(means, key=lambda m: float(m.sum())) * 255).round().int().tolist()


def _stamp(scenes: Scenes, label: int) -> str:
    """The largest visible part of a thing of a class that lies wholly inside its scene, as the address of a PNG."""
    best: tuple[int, Tensor] | None = None
    for sample in (scenes[i] for i in range(len(scenes))):
        objects = sample.instances
        assert objects is not None  # scenes have objects
        for mask, box, found in zip(objects.masks, objects.boxes.round().int().tolist(), objects.labels, strict=True):
            x0, y0, x1, y1 = box
            inside = x0 > 0 and y0 > 0 and x1 < SIDE and y1 < SIDE and max(x1 - x0, y1 - y0) <= SIDE // 2
            area = int(mask.sum())
            if int(found) == label and inside and (best is None or area > best[0]):
                cut = torch.cat([sample.image, mask[None].float()])[:, y0:y1, x0:x1]
                best = (area, cut)
    if best is None:
        raise ValueError(f"no {CATEGORIES[label].name} lies wholly inside one of the {len(scenes)} scenes; add scenes")
    return _rgba(best[1])


def _rgba(image: Tensor) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(to_rgb8(image[:3]), "RGB").save(file, "PNG")  # checks the range
    alpha = Image.fromarray((image[3] * 255).byte().numpy(), "L")
    whole = Image.merge("RGBA", (*Image.open(file).split(), alpha))
    file = io.BytesIO()
    whole.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
