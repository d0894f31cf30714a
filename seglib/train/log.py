"""The curves of a run: ``log.csv`` for people and scripts, TensorBoard for looking."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from seglib.files import atomic_path

if TYPE_CHECKING:
    from typing_extensions import Self

_COLUMNS = ("step", "name", "value")


class RunLog:
    """Writes (step, name, value) rows. A resumed run first drops what lies after the step that it goes on from.

    Args:
        folder: the folder of the run; ``None`` logs nothing.
        start: the step from which the run goes on; 0 begins anew.
    """

    def __init__(self, folder: Path | None, start: int) -> None:
        self._file = None
        if folder is None:
            return
        # imported here because it takes a second, and only runs that write a folder need it
        from torch.utils.tensorboard import SummaryWriter

        path = folder / "log.csv"
        kept = [row for row in read_log(path) if row[0] <= start] if start and path.exists() else []
        with atomic_path(path) as beside, open(beside, "w", newline="") as file:
            csv.writer(file).writerows([_COLUMNS, *kept])
        self._file = open(path, "a", newline="")  # noqa: SIM115 (closed in __exit__)
        self._csv = csv.writer(self._file)
        self._board = SummaryWriter(os.fspath(folder / "tensorboard"), purge_step=start + 1)

    def step(self, step: int, loss: float, lr: float) -> None:
        """Log the loss and the learning rate of one step."""
        self._write(step, {"loss": loss, "lr": lr})

    def scores(self, step: int, scores: dict[str, Any]) -> None:
        """Log the scores of an evaluation; a dict of scores becomes ``name/key`` rows."""
        flat: dict[str, float] = {}
        for name, value in scores.items():
            flat |= {f"{name}/{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
        self._write(step, {f"val/{k}": v for k, v in flat.items()})

    def _write(self, step: int, values: dict[str, float]) -> None:
        if self._file is None:
            return
        for name, value in values.items():
            self._csv.writerow((step, name, f"{value:.8g}"))
            self._board.add_scalar(name, value, step)
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._board.close()


def read_log(path: Path) -> list[tuple[int, str, float]]:
    """The rows of a ``log.csv`` as (step, name, value); a last line that a crash cut off is left out."""
    with open(path, newline="") as file:
        whole = [line for line in file if line.endswith("\n")]
    return [(int(step), name, float(value)) for step, name, value in list(csv.reader(whole))[1:]]
