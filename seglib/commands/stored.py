"""From weights on disk to a model and the task that it serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seglib.commands.options import device as device_called
from seglib.models.zoo import check_task, find

if TYPE_CHECKING:
    from torch import Tensor

FirstStage = Callable[["Tensor", "Sequence[float] | None"], "Tensor"]
"""What a cascade goes on from: a case ``(C, D, H, W)`` and its spacing → labels ``(D, H, W)``."""


def weights_of(runs: Sequence[Path]) -> list[Path]:
    """The weights file of each run; a file stands for itself."""
    from seglib.weights.load import weights_file

    return [weights_file(run) for run in runs]


def load(weights: Path, device: str, task: str | None) -> tuple[Any, Any, dict[str, Any]]:
    """The model of a weights file, the task that it is used for, with its classes, and the file's metadata."""
    from seglib.commands.images import limit_detections
    from seglib.train import TASKS
    from seglib.types import Category
    from seglib.weights import load_model, read_metadata

    net: Any = load_model(weights, device_called(device))
    metadata = read_metadata(weights)
    universal = find(metadata["model"]).universal
    trained = net.task if universal else _trained_for(metadata)
    if task not in (None, trained):
        if not universal:
            raise ValueError(f"{weights} serves {trained}, not {task!r}; leave out --task, or pass other weights")
        net.task = task
    if "categories" in metadata:
        categories = [Category(**{**c, "color": tuple(c["color"])}) for c in metadata["categories"]]
    elif trained == "prompt":
        categories = [Category(0, "object", True, (0, 114, 178))]  # prompts ask for things of any class
    else:
        raise ValueError(f"{weights} has no class table; write it with `seglib train` or `seglib convert`")
    the_task = TASKS[task or trained](categories, **metadata.get("task_arguments", {}))
    if "max_detections" in the_task.arguments():
        limit_detections(net, the_task.arguments()["max_detections"])
    return net, the_task, metadata


def compile_semantic(net: Any, task: Any) -> None:
    """Compile a semantic model for prediction.

    Raises:
        ValueError: for the model of another task, or without a compiler.
    """
    from seglib.ops.inference import compile_frozen
    from seglib.types import Regions, Semantic

    if task.predicts not in (Semantic, Regions):
        raise ValueError(f"--compile is for semantic models, and this one is of the task {task.name!r}; leave it out")
    compile_frozen(net)


def load_volumes(
    weights: Sequence[Path], device: str, task: str | None, previous: Sequence[Path] = ()
) -> tuple[Any, Any, list[dict[str, Any]]]:
    """The model or the ensemble of models of volumes that answers, its task, and the metadata of each weights file.

    Args:
        weights: weights files, or the ``choice.json`` of ``seglib select``.
        device: where the models run.
        task: the task that is asked for, or ``None``.
        previous: runs or weights files of the stage before, of a cascade.

    Raises:
        ValueError: when the files differ in their classes, the ids of these, or their channels; when a cascade lacks
            the stage before, or other models get one.
    """
    from seglib.postprocess.whole_cases import Ensemble
    from seglib.train.folds import read_choice

    largest: Sequence[Sequence[int]] = ()
    if chosen := [path for path in weights if path.suffix == ".json"]:
        if len(weights) > 1:
            raise ValueError(f"{chosen[0]} names all weights of an ensemble; pass it alone")
        choice = read_choice(chosen[0])
        weights, previous, largest = choice.weights, choice.previous, choice.largest
    members = [load(path, device, task) for path in weights]
    (first, the_task, metadata), *others = members
    for path, (_, _, its) in zip(weights[1:], members[1:], strict=True):
        check_alike(weights[0], metadata, path, its)
    goes_on_from = {its.get("plan", {}).get("previous") for _, _, its in members} - {None}
    goes_on = [net for net, _, _ in members if net.preparation is not None and net.preparation.previous]
    if goes_on and not previous:
        raise ValueError(
            f"{weights[0]} goes on from predictions of {' '.join(goes_on_from) or 'a first stage'}; pass the runs or "
            "weights of that with --previous"
        )
    if previous and not goes_on:
        raise ValueError(f"--previous has no use: {weights[0]} goes on from no other configuration")
    if previous:
        the_task.previous = first_stage(weights_of(previous), device)
    if others or largest:
        windows = [its_task.window for _, its_task, _ in members]
        first = Ensemble([net for net, _, _ in members], windows, largest)
    return first, the_task, [its for _, _, its in members]


def first_stage(weights: Sequence[Path], device: str) -> FirstStage:
    """What models of the first stage of a cascade say together."""
    from seglib.postprocess.whole_cases import label_case

    net, task, _ = load_volumes(weights, device, None)
    return lambda image, spacing: label_case(net, image, spacing, task.window, overlap=task.overlap)


def check_alike(first: Path, facts: dict[str, Any], other: Path, its: dict[str, Any]) -> None:
    """Check that two weights files are of one data set: they have the same classes, with the same ids, and channels.

    Raises:
        ValueError: naming the two and what differs.
    """

    def of(metadata: dict[str, Any]) -> dict[str, Any]:
        table = metadata.get("categories", [])
        return {
            "classes": [c["name"] for c in table],
            "file ids": metadata.get("file_ids", [c["id"] for c in table]),
            "channels": metadata.get("modalities"),
        }

    for what, seen in of(facts).items():
        if seen != (found := of(its)[what]):
            raise ValueError(
                f"{first} and {other} differ in their {what}, {seen} and {found}; pass models of one data set"
            )


def serves_volumes(weights: Sequence[Path]) -> bool:
    """Whether weights are of models of volumes; several must be."""
    volumes = [path.suffix == ".json" or served_task(path) == "volume" for path in weights]
    if not all(volumes) and len(volumes) > 1:
        raise ValueError(
            f"{weights[volumes.index(False)]} is for images, and ensembles are of models of volumes; pass it alone"
        )
    return all(volumes)


def served_task(weights: Path) -> str:
    """The task of a weights file, by its header.

    Raises:
        ValueError: when it doesn't name its model.
    """
    from seglib.weights import read_metadata

    metadata = read_metadata(weights)
    if "model" not in metadata:
        raise ValueError(f"{weights} doesn't say which model it is for; pass the weights.safetensors of a run")
    return _trained_for(metadata)


def _trained_for(metadata: dict[str, Any]) -> str:
    """The task of a weights file, by its metadata: that of its training, or the model's usual one."""
    return metadata.get("task") or check_task(metadata["model"])
