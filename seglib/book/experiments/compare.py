"""What the experiments on scenes do alike: train every variant once for every seed, and score it on held-out scenes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seglib.book.experiments.semantic import SceneTensors, load_scenes, train_and_score
from seglib.models.base import Model


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
    builders: Mapping[Any, Callable[[], Model]],
    run: Callable[[Callable[[], Model], int], dict[str, Any]],
    *,
    key: str,
    seeds: Sequence[int],
    shown: Sequence[str],
    report: Callable[[str], None] | None,
) -> list[dict[str, Any]]:
    """One row of results for every seed and variant.

    Args:
        builders: value of ``key`` → makes that variant's model.
        run: trains and scores one variant with one seed.
        key: name of the entry in every row that says which variant it is.
        seeds: the seeds.
        shown: names of the scores that are reported.
        report: function that is called with a line of text after every run.
    """
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        for value, build in builders.items():
            found = run(build, seed)
            rows.append({key: value} | found)
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
