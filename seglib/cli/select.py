"""``seglib select``: the best of trained configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seglib.cli.shared import Data, Device, FlipAll, Root


def select(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of the runs of all folds, of one or several configurations.")
    ],
    data: Data = None,
    root: Root = None,
    folds: Annotated[
        str | None, typer.Option(help="Folds to choose on, e.g. 0,1,2; all five when not given. More is better.")
    ] = None,
    flip_all: FlipAll = False,
    out: Annotated[Path, typer.Option(help="The choice as a JSON file, for `seglib predict --weights`.")] = Path(
        "choice.json"
    ),
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the choice as JSON.")] = False,
) -> None:
    """Choose the best of trained configurations, or a pair of them, by cross-validation.

    Each run predicts the cases of its own fold, which it was not trained on. On the same predictions it is decided of
    what only the largest connected component is kept.
    """
    from seglib.commands.select import select_runs

    select_runs(runs, data, root, folds, flip_all, out, device, as_json)
