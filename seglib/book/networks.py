"""The networks that run in the book's pages: scripts of numbers, written when the book is built.

A page loads ``_static/networks/NAME.js`` when its figure needs it, and the runtime ``figures/network.js`` as a worker:
as scripts, because these also load where the pages are files and no server is there. Nothing is asked of another host.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from seglib.book.figures.element import source
from seglib.book.pretrained import stored_model
from seglib.models.sam import Sam
from seglib.models.semantic import SemanticModel
from seglib.types import Prompts
from seglib.weights.export import Logits
from seglib.weights.steps import Steps, steps_of


class _Encoder(nn.Module):
    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.encode(image)


class _Decoder(nn.Module):
    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.model = model

    def forward(self, embedding: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        answer = self.model.decode(embedding, Prompts(points=points, labels=labels))
        return answer.logits, answer.iou


def semantic_network(name: str) -> Steps:
    """A semantic system with its stored weights in 16 bits: ``image`` ``(1, 3, H, W)`` in [0, 1] → ``logits``."""
    model = stored_model(name)
    assert isinstance(model, SemanticModel)
    return steps_of(
        Logits(model),
        {"image": torch.rand(1, 3, 90, 150)},
        ("logits",),
        dynamic={"image": (2, 3)},
        half=True,
        prefix="model.",
    )


def sam_encoder() -> Steps:
    """The image encoder of ``sam_tiny``: ``image`` ``(1, 3, H, W)`` of at most 256 pixels a side → ``embedding``."""
    return steps_of(
        _Encoder(_sam()),
        {"image": torch.rand(1, 3, 90, 150)},
        ("embedding",),
        dynamic={"image": (2, 3)},
        half=True,
        prefix="model.",
    )


def sam_decoder() -> Steps:
    """The prompt encoder and mask decoder of ``sam_tiny`` for clicks.

    ``embedding``, ``points`` ``(1, P, 2)`` as x, y in pixels and ``labels`` ``(1, P)`` → ``logits`` ``(1, 4, h, w)``
    and ``iou`` ``(1, 4)``.
    """
    sam = _sam()
    side = sam.image_size
    with torch.no_grad():
        embedding = sam.encode(torch.rand(1, 3, side, side))
    example = {"embedding": embedding, "points": torch.rand(1, 3, 2) * side, "labels": torch.tensor([[1, 0, 1]])}
    return steps_of(
        _Decoder(sam), example, ("logits", "iou"), dynamic={"points": (1,), "labels": (1,)}, half=True, prefix="model."
    )


def _sam() -> Sam:
    model = stored_model("sam_tiny")
    assert isinstance(model, Sam)
    return model


NETWORKS: dict[str, Callable[[], Steps]] = {
    "fcn_tiny": lambda: semantic_network("fcn_tiny"),
    "unet_tiny": lambda: semantic_network("unet_tiny"),
    "sam_encoder": sam_encoder,
    "sam_decoder": sam_decoder,
}
"""Name of a page's network → how it is made."""


FIGURES = {"seg-playground-": ("fcn_tiny", "unet_tiny")}
"""Beginning of a figure's element → the networks that it runs."""


def write_networks(folder: Path, names: Sequence[str] = tuple(NETWORKS)) -> list[Path]:
    """Write networks and their runtime as scripts; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, object] = {"runtime": source("network", shared=()) + "\nserve(self);"}
    for name in names:
        steps = NETWORKS[name]()
        values[name] = {"manifest": steps.manifest, "numbers": base64.b64encode(steps.numbers).decode()}
    files = []
    for name, value in values.items():
        path = folder / f"{name}.js"
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        path.write_text(f"segNetworks.{name} = {text};\n", encoding="utf-8")
        files.append(path)
    return files


def add_networks(book: Path) -> list[Path]:
    """Write the networks that the built pages in a folder run into its ``_static/networks``; returns the files."""
    text = "".join(page.read_text(encoding="utf-8") for page in sorted(book.glob("**/*.html")))
    names = {name for figure, used in FIGURES.items() if f"<{figure}" in text for name in used}
    return write_networks(book / "_static" / "networks", sorted(names)) if names else []
