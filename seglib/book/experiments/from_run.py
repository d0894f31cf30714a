"""Make a results file of a run of the command line: ``python -m seglib.book.experiments.from_run RUN --out FILE``.

The run was trained with ``seglib train``; here its kept weights are scored on the test split, which training never saw.
Of ``msd`` and ``nnunet``, whose test labels are not public, they are scored on the fold that was left out; train those
without ``--eval-every``, so that it has chosen nothing.
The commit and the date in the file are those of the scoring; the command and the times are those of the training.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Subset

from seglib.book.results import write_results
from seglib.data.catalog import SegmentationDataset, build_dataset
from seglib.metrics.confusion import ConfusionMatrix
from seglib.metrics.rand import cells, foreground_rand
from seglib.train import TASKS, evaluate
from seglib.train.log import read_log
from seglib.weights import load_model, load_weights, read_metadata, save_weights

FOLDS = ("msd", "nnunet")
"""The datasets that are split into folds and have no public test labels."""


def collect(
    run: Path,
    root: Path | None,
    *,
    store: Path | None = None,
    points: int = 200,
    device: str = "cpu",
    images: int | None = None,
) -> tuple[dict[str, Any], int]:
    """The test scores, the loss curve and the settings of a finished run, and its seed.

    Args:
        run: the folder that ``seglib train`` wrote.
        root: the dataset's folder.
        store: a file for the weights in half precision, half as large; the scores are those of this file.
        points: largest number of points of the loss curve; more steps than that are averaged.
        device: device to evaluate on, such as ``"cuda"``.
        images: how many of the test images are scored, from the first on; all when ``None``.

    Raises:
        ValueError: when the run isn't finished, or its dataset isn't there.
    """
    result, weights = run / "result.json", run / "weights.safetensors"
    if not result.exists() or not weights.exists():
        raise ValueError(f"{run} holds no finished run (result.json and weights.safetensors); train it first")
    facts, metadata = json.loads(result.read_text()), read_metadata(weights)
    config = json.loads((run / "config.json").read_text())
    losses = [(step, value) for step, name, value in read_log(run / "log.csv") if name == "loss"]
    width = -(-len(losses) // points)
    groups = [losses[i : i + width] for i in range(0, len(losses), width)]
    curve = [[g[-1][0], round(sum(v for _, v in g) / len(g), 4)] for g in groups]

    model = load_model(weights)
    if store is not None:
        save_weights(model.half(), store, metadata)
        load_weights(model.float(), store)
    task = TASKS[metadata["task"]]
    size = metadata.get("data_size")
    split = "val" if metadata["data"] in FOLDS else "test"
    if split == "val" and config["eval_every"]:
        raise ValueError(f"{run} picked its weights on the fold that would be scored; train without --eval-every")
    test: Any = build_dataset(
        metadata["data"], root, split, size=tuple(size) if size else None, keep=(task.needs,), fold=metadata.get("fold")
    )
    the_task = task(test.categories, **metadata.get("task_arguments", {}))
    if images is not None:
        test = Subset(test, range(min(images, len(test))))
    scores = evaluate(model.to(device), test, the_task, batch_size=4)
    if metadata["data"] == "isbi":
        scores["rand"] = rand_of_cells(model, test)
    if metadata["data"] == "camvid":
        scores["confusion"] = shares_of_classes(model, test)
    data = {
        "model": metadata["model"],
        "data": metadata["data"],
        "size": size,
        "steps": config["steps"],
        "batch_size": config["batch_size"],
        "seconds": facts["seconds"],
        "cpu_seconds": facts["cpu_seconds"],
        f"{split}_images": len(test),
        "scores": _rounded(scores),
        f"val_{task.score}": round(metadata["scores"][task.score], 4),
        "losses": curve,
    }
    if metadata.get("plan") is not None:  # what the plan decided
        data["plan"] = metadata["plan"] | {name: metadata[name] for name in ("patch", "arguments", "preparation")}
    return data | {"train_command": facts["command"]}, config["seed"]


def rand_of_cells(model: Any, test: SegmentationDataset, cell: int = 0) -> dict[str, float]:
    """The foreground-restricted Rand scores of the cells that the predicted membranes separate, a mean over slices.

    Args:
        model: semantic model that predicts class ``cell`` inside cells.
        test: slices with semantic labels.
        cell: the class inside cells.
    """
    device = next(model.parameters()).device
    found = []
    for i in range(len(test)):
        sample = test[i]
        predicted = model.predict(sample.image[None].to(device))[0].labels.cpu()  # (H, W)
        assert sample.semantic is not None  # the dataset's promise
        found.append(
            foreground_rand(cells((predicted == cell).numpy(), fill=True), cells((sample.semantic == cell).numpy()))
        )
    return {name: sum(getattr(f, name) for f in found) / len(found) for name in ("score", "split", "merge")}


def shares_of_classes(model: Any, test: SegmentationDataset) -> dict[str, dict[str, float]]:
    """What the pixels of every class are taken for: true class → predicted class → share, each row sums to 1.

    A class without pixels has no row.

    Args:
        model: semantic model.
        test: images with semantic labels.
    """
    device, matrix = next(model.parameters()).device, ConfusionMatrix(test.categories)
    for i in range(len(test)):
        sample = test[i]
        assert sample.semantic is not None  # the dataset's promise
        matrix.update(model.predict(sample.image[None].to(device))[0].labels.cpu()[None], sample.semantic[None])
    names = [c.name for c in test.categories]
    rows = zip(names, matrix.counts.tolist(), strict=True)
    return {name: {n: v / sum(row) for n, v in zip(names, row, strict=True)} for name, row in rows if sum(row)}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m seglib.book.experiments.from_run", description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of the run")
    parser.add_argument("--root", type=Path, help="the dataset's folder")
    parser.add_argument("--store", type=Path, help="also write the weights there, in half precision")
    parser.add_argument("--images", type=int, help="how many test images are scored; all when not given")
    parser.add_argument("--device", default="cpu", help="where to evaluate (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    options = parser.parse_args(given)
    try:
        data, seed = collect(
            options.run, options.root, store=options.store, device=options.device, images=options.images
        )
        write_results(options.out, data, command=data.pop("train_command"), seed=seed)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    scores = ", ".join(f"{name} {value:.4f}" for name, value in data["scores"].items() if isinstance(value, float))
    images = data.get("test_images", data.get("val_images"))
    print(f"wrote {options.out}: {scores} on {images} held-out images")
    return 0


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    """The numbers with four decimals; a score that doesn't exist (NaN: no object of that size) is left out."""
    there = {k: v for k, v in values.items() if isinstance(v, dict) or v == v}
    return {k: _rounded(v) if isinstance(v, dict) else round(v, 4) for k, v in there.items()}


if __name__ == "__main__":
    sys.exit(main())
