"""``seglib plan``: nnU-Net's numbers for a data set, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seglib.cli.shared import Data, Root
from seglib.commands import options
from seglib.commands.console import say


def plan(
    data: Data = None,
    root: Root = None,
    planner: Annotated[
        str, typer.Option(help="plain, or resenc_m, resenc_l, resenc_xl for residual encoders of growing memory.")
    ] = "plain",
    memory: Annotated[
        float | None,
        typer.Option(help="GB of GPU memory that a batch may fill; the planner's own if not given."),
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Channels of the finest level.")] = 32,
    out: Annotated[
        Path | None,
        typer.Option(help="The plan as JSON, in nnU-Net's format, for `seglib train nnunet --plan`."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan and its reasons as JSON.")] = False,
) -> None:
    """Plan nnU-Net for a data set of volumes, and give the reason for every number.

    All cases are read, those of every fold: spacings, sizes, and the intensities of labelled voxels decide.
    """
    from seglib.commands.plans import AllCases, check_overwritten, plan_as_json, show_plan
    from seglib.planning.plans_json import write_plans
    from seglib.planning.trace import check_arguments

    check_arguments(planner, memory, width)
    options.check_writable(out)
    cases = AllCases(options.dataset_name(data, "nnunet", True), root)
    check_overwritten(out, cases)
    found = cases.plan(planner=planner, memory=memory, width=width)
    if out is not None:
        write_plans(found, out)
    if as_json:
        print(plan_as_json(found))
        return
    show_plan(found)
    if out is not None:
        say(f"the plan is in {out}; train with `seglib train nnunet --plan {out}`")
