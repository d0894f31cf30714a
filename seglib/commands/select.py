"""``seglib select``: each run predicts the cases of its fold, and the best configuration or pair of them is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from seglib.commands.console import console, counted, note, say, shown, to_json
from seglib.commands.options import check_writable, dataset_name
from seglib.commands.stored import check_alike, weights_of
from seglib.commands.volumes import check_channels, set_up

FOLDS = 5


def select_runs(
    runs: Sequence[Path],
    data: str | None,
    root: Path | None,
    folds: str | None,
    flip_all: bool,
    out: Path,
    device: str,
    as_json: bool,
) -> None:
    """Cross-validate runs, print what each configuration is worth, and write the choice to ``out``."""
    import torch

    from seglib.data.catalog import build_dataset
    from seglib.data.class_tables import match_categories
    from seglib.train.folds import (
        Choice,
        FoldRun,
        by_configuration,
        candidates,
        choose_components,
        component_dice,
        mean_over_cases,
        write_choice,
    )
    from seglib.weights import read_metadata

    check_writable(out)
    weights = weights_of(runs)
    facts = {path: read_metadata(path) for path in weights}
    for path, metadata in facts.items():
        check_alike(weights[0], facts[weights[0]], path, metadata)
    wanted = _folds(folds)
    by_fold = by_configuration([FoldRun.of(path, facts[path]) for path in weights], wanted)
    first = facts[weights[0]]
    data = dataset_name(data or first["data"], first["model"], True)
    if others := {path: m["data"] for path, m in facts.items() if m["data"] != data}:
        path = next(iter(others))
        raise ValueError(f"{path} is of data set {others[path]!r}, not {data!r}; pass the data that it was trained on")
    sets: dict[int, Any] = {fold: build_dataset(data, root, "val", fold=fold) for fold in wanted}
    check_channels(weights[0], first, sets[wanted[0]].modalities)

    found: dict[tuple[str, ...], list[Any]] = {names: [] for names in candidates(list(by_fold))}
    before = {names: _stages_before(names, by_fold) for names in found}
    classes: tuple[Any, ...] = ()
    for fold, of_fold in sets.items():
        answering = {
            names: set_up(
                [by_fold[name][fold].weights for name in names],
                device,
                None,
                flip_all=flip_all,
                previous=[by_fold[name][fold].weights for name in before[names]],
            )
            for names in found
        }
        classes = answering[next(iter(found))][1].categories
        if any(task.regions for _, task, _ in answering.values()):
            raise ValueError(
                "the models predict regions, and a choice is made of models of classes; score them by eval"
            )
        cases = match_categories(of_fold, classes)
        for i in shown(range(len(cases)), f"fold {fold}", quiet=as_json):
            sample = cases[i]
            assert sample.semantic is not None
            for names, (net, task, _) in answering.items():
                labels = task.label(net, sample.image, sample.spacing)
                found[names].append(component_dice(labels, sample.semantic, len(classes)))
    dice = {names: mean_over_cases(torch.stack(rows)) for names, rows in found.items()}  # (2, 2, K − 1) each
    plain = {names: values[0, 0] for names, values in dice.items()}
    best = max(plain, key=lambda names: float(plain[names].nanmean()))  # the first of equal ones: the simpler one
    largest, final = choose_components(torch.stack(found[best]))
    members, earlier = (
        tuple(run.weights for name in names for run in by_fold[name].values()) for names in (best, before[best])
    )
    scores = {" + ".join(names): float(values.nanmean()) for names, values in plain.items()}
    rows = {" + ".join(names): values for names, values in plain.items()}
    if largest:
        rows[f"{' + '.join(best)}, largest component"] = final
        scores[f"{' + '.join(best)}, largest component"] = float(final.nanmean())
    names_of_classes = tuple(c.name for c in classes)
    write_choice(Choice(best, members, earlier, largest, names_of_classes, scores), out)
    if as_json:
        groups = [[names_of_classes[c] for c in group] for group in largest]
        print(to_json({"best": list(best), "largest_component": groups, "mean_dice": scores, "out": str(out)}))
        return
    table = Table(f"Dice of {counted(len(found[best]), 'case')}", "mean", *names_of_classes[1:], box=None)
    for name, values in rows.items():
        table.add_row(name, *(f"{v:.4f}" for v in (float(values.nanmean()), *values.tolist())))
    console.print(table)
    say(f"best: {' + '.join(best)} → {out}; use it with `seglib predict PATH --weights {out}`")
    if list(wanted) != list(range(FOLDS)):
        note(f"chosen on {len(wanted)} of {FOLDS} folds")


def _stages_before(names: tuple[str, ...], by_fold: dict[str, dict[int, Any]]) -> list[str]:
    """The configurations from which some go on, in a cascade."""
    before = {run.previous for name in names for run in by_fold[name].values()} - {None}
    if lacking := before - set(by_fold):
        raise ValueError(f"{' and '.join(names)} goes on from {min(lacking)}; pass the runs of that, too")
    return sorted(before)


def _folds(text: str | None) -> list[int]:
    if text is None:
        return list(range(FOLDS))
    parts = text.split(",")
    if not all(p.strip().isdecimal() and int(p) < FOLDS for p in parts) or len({int(p) for p in parts}) < len(parts):
        raise ValueError(f"--folds {text!r} is no list of folds, each once, e.g. 0,1,2,3,4")
    return sorted(int(p) for p in parts)
