"""Models as files that run without seglib, for images of any size: ``torch.export``'s ``.pt2``, ONNX, plain steps."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from seglib.files import atomic_path
from seglib.models.base import Model
from seglib.models.semantic import SemanticModel
from seglib.ops.inference import evaluating
from seglib.weights.steps import steps_of

CHECKED = ((1, 96, 200), (2, 64, 64), (1, 33, 47), (3, 130, 90))
"""Batches on which a file is compared with the model, (B, H, W): multiples of a stride or not, wide, high and small."""

TOLERANCE = 1e-3
"""Of the largest logit: the largest difference from the model at which a file is kept."""

_ANY_SIZE = {"images": (0, 2, 3)}
_EXAMPLE = (2, 90, 150)  # neither side a multiple of a stride, nor alike: what is equal by chance would stay equal


class Logits(nn.Module):
    """A semantic model that returns the tensor alone."""

    def __init__(self, model: SemanticModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` → logits ``(B, K, H, W)``."""
        return self.model(images).logits


def export_model(model: Model, path: str | Path, metadata: Mapping[str, Any] | None = None) -> float:
    """Write a semantic model as a file for images of any number and size, and compare the file with the model.

    The file takes images ``(B, C, H, W)``, float32 in the range of the model's normalisation, which is part of it
    ([0, 1] for most), and gives logits ``(B, K, H, W)``: their softmax is the probability of each class, of regions
    that overlap the sigmoid. It resizes nothing: at what size the model wants to see images stands in its ``geometry``.

    Args:
        model: a semantic model.
        path: a file that ends in ``.pt2`` (``torch.export.load``), ``.onnx``, or ``.json``: a manifest of steps
            (:class:`~seglib.weights.steps.Steps`) with its weights beside it in a ``.bin`` file.
        metadata: JSON-able facts to keep in the file under the name "seglib".

    Returns:
        The largest difference between the file's logits and the model's over the batches of :data:`CHECKED`.

    Raises:
        ImportError: when a package for ONNX is missing.
        ValueError: for another kind of model or file, or when the file's logits differ from the model's. Nothing is
            written then.
    """
    path = Path(path)
    if path.suffix not in (".pt2", ".onnx", ".json"):
        raise ValueError(f"{path} ends in none of .pt2 (torch.export), .onnx and .json (steps); name one of them")
    if not isinstance(model, SemanticModel) or model.normalize.dims != 2:
        raise ValueError(
            f"a {type(model).__name__} is no semantic model of images, and only these are exported for any size; "
            "in Python torch.export.export(model.eval(), (images,)) exports others for the size of the images"
        )
    device, (count, height, width) = next(model.parameters()).device, _EXAMPLE
    channels = len(model.normalize.mean)
    example = torch.rand(count, channels, height, width)
    model = model.cpu()
    facts = {"seglib": json.dumps(dict(metadata or {}))}
    write = _write_pt2 if path.suffix == ".pt2" else _write_onnx
    try:
        with evaluating(model):
            if path.suffix == ".json":
                steps = steps_of(Logits(model), {"images": example}, ("logits",), dynamic=_ANY_SIZE, prefix="model.")
                worst = _compare(model, lambda images: steps.outputs(images=images)["logits"], channels)
                steps.write(path, dict(metadata or {}))
                return worst
            with atomic_path(path) as beside:
                run = write(Logits(model), example, beside, facts)
                worst = _compare(model, run, channels)
    finally:
        model.to(device)
    return worst


def _compare(model: SemanticModel, run: Callable[[Tensor], Tensor], channels: int) -> float:
    """The largest difference over :data:`CHECKED`."""
    worst = 0.0
    for count, height, width in CHECKED:
        images = torch.rand(count, channels, height, width)
        found, want = run(images), model(images).logits
        if found.shape != want.shape:
            raise ValueError(
                f"the file gives {tuple(found.shape)} where the model gives {tuple(want.shape)}; report it"
            )
        difference = float((found - want).abs().max())
        if not difference <= TOLERANCE * max(float(want.abs().max()), 1.0):
            raise ValueError(f"the file's logits differ from the model's by {difference:.2g}; it was not kept")
        worst = max(worst, difference)
    return worst


def _dynamic() -> dict[str, dict[int, Any]]:
    return {name: {axis: Dim.DYNAMIC for axis in axes} for name, axes in _ANY_SIZE.items()}


def _write_pt2(module: nn.Module, example: Tensor, path: Path, facts: dict[str, str]) -> Callable[[Tensor], Tensor]:
    program = torch.export.export(module, (example,), dynamic_shapes=_dynamic(), strict=False)
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files=facts)
    with path.open("rb") as file:
        return torch.export.load(file).module()


def _write_onnx(module: nn.Module, example: Tensor, path: Path, facts: dict[str, str]) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch.onnx.export needs it)
    except ImportError as error:
        raise ImportError(
            f'.onnx needs {error.name}, which is not installed: pip install "seglib[export]", or write .pt2'
        ) from error
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own, about parts of itself
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                dynamic_shapes=_dynamic(),
                input_names=["images"],
                output_names=["logits"],
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None  # of an export without a file
    program.model.metadata_props.update(facts)
    program.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
