"""What the experiments on scenes do alike: train every variant once for every seed, and score it on held-out scenes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from seglib.book.experiments.semantic import SceneTensors, load_scenes, train_and_score
from seglib.book.results import commit
from seglib.files import atomic_path
from seglib.models.base import Model

T = TypeVar("T")


def compare(
    builders: Mapping[Any, Callable[[], Model]],
    *,
    key: str,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 2000,
    val_scenes: int = 200,
    batch_size: int = 16,
    data: tuple[SceneTensors, SceneTensors] | None = None,
    measure: Callable[[Model, SceneTensors], dict[str, Any]] | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train every variant once for every seed. With one seed all variants see the same batches.

    Args:
        builders: value of ``key`` → makes that variant's model; its initialisation depends on the seed alone.
        key: what the variants differ in: the name of the entry in every run, and in the settings with an "s".
        seeds: one run per seed; a seed sets the model's initialisation and the order of the scenes.
        steps: optimiser steps of each run.
        scenes: number of scenes to train on, when ``data`` is not given.
        val_scenes: number of scenes to score on, when ``data`` is not given.
        batch_size: scenes per step.
        data: training and held-out scenes that are in memory already.
        measure: called with a trained model and the held-out scenes; returns further scores, added to its run.
        report: called with a line of text after every run.

    Returns:
        The settings, and ``runs``: one dict per run with ``key``, ``seed``, ``first_loss``, ``loss``, ``seconds`` (of
        training, CPU time of this process) and the scores.

    Raises:
        ValueError: without steps or scenes.
    """
    train, val = data or load_scenes(scenes, val_scenes)

    def run(build: Callable[[], Model], seed: int) -> dict[str, Any]:
        return train_and_score(build, train, val, seed=seed, steps=steps, batch_size=batch_size, measure=measure)

    runs = every_run(builders, run, key=key, seeds=seeds, shown=("miou", "boundary_iou", "thin_iou"), report=report)
    settings = {"data": "scenes", "scenes": len(train), "val_scenes": len(val), "steps": steps}
    return {**settings, "batch_size": batch_size, f"{key}s": list(builders), "runs": runs}


def every_run(
    variants: Mapping[Any, T],
    run: Callable[[T, int], dict[str, Any]],
    *,
    key: str,
    seeds: Sequence[int],
    shown: Sequence[str],
    report: Callable[[str], None] | None,
    keep: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """One row of results for every seed and variant.

    Args:
        variants: value of ``key`` → what ``run`` needs of that variant, such as the function that builds its model.
        run: trains and scores one variant with one seed.
        key: name of the entry in every row that says which variant it is.
        seeds: the seeds.
        shown: names of the scores that are reported.
        report: function that is called with a line of text after every run.
        keep: file of finished rows, for runs that go on after a stop: a row of the same commit and settings that is in
            it is not made again. ``None`` keeps nothing.
        settings: what the rows depend on besides seed and variant.
    """
    rows: list[dict[str, Any]] = []
    kept: dict[str, dict[str, Any]] = json.loads(keep.read_text()) if keep is not None and keep.exists() else {}
    for seed in seeds:
        for value, variant in variants.items():
            row = json.dumps({"commit": commit(), **(settings or {}), "seed": seed, key: value}) if keep else ""
            found = kept.get(row) or run(variant, seed)
            rows.append({key: value} | found)
            if keep is not None:
                kept[row] = found
                with atomic_path(keep) as beside:
                    beside.write_text(json.dumps(kept, indent=1), encoding="utf-8")
            if report is not None:
                report(f"seed {seed}, {key} {value}: " + ", ".join(f"{name} {found[name]:.3f}" for name in shown))
    return rows


def only(variants: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """The named entries of ``known``, in the given order.

    Raises:
        ValueError: for a name that is not known.
    """
    if unknown := sorted(set(variants) - set(known)):
        raise ValueError(f"variants {unknown} are unknown; choose among {', '.join(known)}")
    return {name: known[name] for name in variants}
