"""The command line: ``seglib plan | train | eval | predict | masks | select | convert | export | coco``, a module each.

Only Typer and Rich are imported at the top: torch is loaded when a command runs, so ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from seglib.cli import coco, convert, evaluate, export, masks, plan, predict, select, train
from seglib.commands.console import fail, note


def _print_version(wanted: bool) -> None:
    if wanted:
        import seglib

        print(f"seglib {seglib.__version__}")
        raise typer.Exit


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Image segmentation from scratch: train, evaluate, predict and convert."""


# in the order of the help
app.command("plan")(plan.plan)
app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("masks")(masks.masks)
app.command("select")(select.select)
app.command("convert")(convert.convert)
app.command("export")(export.export)
app.command("coco")(coco.coco)


def main() -> None:
    """Run the command line; expected errors become one line and an exit code of 2."""
    try:
        app()
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        fail(error)
        sys.exit(2)
    except KeyboardInterrupt as stopped:
        note(str(stopped) or "stopped")
        sys.exit(130)
