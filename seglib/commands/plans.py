"""Plans on the command line: made from a data set, read from a file, shown with their reasons."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from seglib.commands.console import console, counted, first_process, note, shown

if TYPE_CHECKING:
    from seglib.planning.plan import Configuration, Plan
    from seglib.types import Category, Sample

PLAN = "plan.json"
"""The copy of its plan in a run's folder."""

WIDTH = 100
"""Columns of a plan that goes into a file or another program."""


class AllCases:
    """The cases of all folds, or of the training split of a data set without folds: what a plan is made from.

    Attributes:
        name: what the data set is called in its ``dataset.json``, else its folder's name.
        names: that, and the name of its folder: a plan may have either.
        categories: the class table.
        modalities: the name of each channel.
    """

    def __init__(self, data: str, root: Path | None) -> None:
        from seglib.data.catalog import build_dataset
        from seglib.data.volume_files import find_dataset_json
        from seglib.files import read_json

        self._parts: list[Any] = [build_dataset(data, root, "train")]
        self._bar: Iterator[int] = iter(())
        self.names: tuple[str, ...] = (data,)
        if root is not None:
            path = find_dataset_json(root)
            stored = read_json(path).get("name")
            folder = path.absolute().parent.name
            self.names = (stored, folder) if isinstance(stored, str) and stored else (folder,)
            self._parts.append(build_dataset(data, root, "val"))
        self.name = self.names[0]
        self.categories: tuple[Category, ...] = self._parts[0].categories
        self.modalities: tuple[str, ...] = self._parts[0].modalities

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __getitem__(self, index: int) -> Sample:
        next(self._bar, None)
        for part in self._parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(f"there is no such case among {len(self)}")

    def plan(self, **arguments: Any) -> Plan:
        """Plan this data set; the arguments are those of :func:`seglib.planning.plan.plan`."""
        from seglib.planning.fingerprint import fingerprint
        from seglib.planning.plan import plan

        for part in self._parts:
            if hasattr(part, "check_headers"):  # of files: what headers tell, before a voxel is read
                part.check_headers()
        with closing(shown(range(len(self)), "read cases", quiet=not first_process())) as self._bar:
            found = fingerprint(self, self.name)
            next(self._bar, None)  # the last case is read
        return plan(found, **arguments)

    def check(self, plan: Plan, path: Path) -> None:
        """Check that a plan is of this data set.

        Raises:
            ValueError: when its name, its channels or its classes are others.
        """
        from seglib.planning.plan import check_plan_fits

        try:
            check_plan_fits(plan, self)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if plan.dataset not in self.names:
            raise ValueError(
                f"{path} is the plan of {plan.dataset!r}, and the data set is {self.name!r}; plan it with `seglib "
                f"plan`, or, to use that plan all the same, write {self.name!r} as its dataset_name"
            )


def digest(plan: Plan) -> str:
    """A short text that differs when a number of a plan does; its reasons and its name don't count."""
    content = json.dumps(asdict(replace(plan, reasons=(), dataset="")), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def facts_of_plan(plan: Plan, configuration: Configuration) -> dict[str, str | None]:
    """What weights keep of the plan behind them."""
    return {
        "dataset": plan.dataset,
        "planner": plan.planner,
        "configuration": configuration.name,
        "previous": configuration.previous,
        "digest": digest(plan),
    }


def plan_of_run(path: Path | None, out: Path, name: str | None, cases: AllCases) -> tuple[Plan, Configuration]:
    """The plan of a run and one of its configurations.

    Args:
        path: the file of the plan; ``None`` takes the one that stands in the run's folder, else makes one.
        out: the run's folder.
        name: the configuration; ``None`` is the 3D one in full resolution, or the 2D one of a plan without it.
        cases: the data set.

    Raises:
        ValueError: when it is a plan of another data set or has no such configuration.
    """
    from seglib.planning.plans_json import read_plans

    if path is None and (out / PLAN).exists():
        path = out / PLAN
    if path is not None:
        found = read_plans(path)
        cases.check(found, path)
    else:
        found = cases.plan()
        if first_process():
            note(f"no --plan: {counted(len(cases), 'case')} of {cases.name} are planned; the plan is in {out / PLAN}")
    name = name or ("3d_fullres" if "3d_fullres" in found.configurations else "2d")
    if name not in found.configurations:
        raise ValueError(f"the plan has no configuration {name!r}; choose one of {', '.join(found.configurations)}")
    return found, found.configurations[name]


def check_overwritten(path: Path | None, cases: AllCases) -> None:
    """Refuse to write a plan over one of another data set, or over anything else.

    Raises:
        ValueError: naming the file and what it is.
    """
    from seglib.planning.plans_json import read_plans

    if path is None or not path.exists():
        return
    try:
        cases.check(read_plans(path), path)
    except ValueError as error:
        raise ValueError(f"{path} is there and would be overwritten, but {error}; choose another --out") from error


def show_plan(plan: Plan) -> None:
    """Print a plan: a table of reasons for each configuration, before them one for what all have in common."""
    wide = console if console.is_terminal else Console(width=WIDTH)
    memory = "" if plan.memory is None else f", {plan.memory:g} GB"
    wide.print(
        f"[bold]{escape(plan.dataset)}[/]: planner {plan.planner}{memory}; "
        f"{counted(len(plan.modalities), 'channel')} ({', '.join(plan.modalities)}), "
        f"{len(plan.classes)} classes ({', '.join(plan.classes)})",
        highlight=False,
    )
    groups: dict[str, list[Any]] = {}
    for reason in plan.reasons:
        groups.setdefault(reason.configuration, []).append(reason)
    for name, reasons in groups.items():
        table = Table(title=name or "all configurations", title_justify="left", title_style="bold", show_lines=True)
        table.add_column("number", no_wrap=True)
        table.add_column("value", max_width=26)
        table.add_column("why", ratio=1)
        for reason in reasons:
            why = {"rule": reason.rule, "here": reason.because, "what if": reason.change}
            lines = "\n".join(f"[dim]{name}:[/] {escape(text)}" for name, text in why.items())
            table.add_row(reason.number, escape(reason.value), lines)
        wide.print(table)


def plan_as_json(plan: Plan) -> str:
    """A plan with its reasons as JSON."""
    return json.dumps({**asdict(plan), "digest": digest(plan)}, indent=1)
