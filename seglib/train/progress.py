"""How far a training run is, in a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressBar:
    """A progress bar: ``with ProgressBar(quiet=False) as on_step: fit(…, on_step=on_step)``."""

    def __init__(self, *, quiet: bool) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:.1f} images/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=quiet,
        )

    def __enter__(self) -> Any:
        self.progress.start()
        self.task: Any = None

        def on_step(step: int, steps: int, loss: float, rate: float, eta: float) -> None:
            if self.task is None:
                self.task = self.progress.add_task("train", total=steps, loss=loss, rate=rate)
            self.progress.update(self.task, completed=step, loss=loss, rate=rate)

        return on_step

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
