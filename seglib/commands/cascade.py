"""The cascade on the command line: what its first stage says of cases that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seglib.commands.stored import FirstStage, first_stage, weights_of

if TYPE_CHECKING:
    from torch import Tensor

    from seglib.planning.plan import Configuration
    from seglib.train.folds import FoldRun
    from seglib.types import Sample


class OutOfFold:
    """The labels of the first stage for any case of a data set, by the model of its fold, which has not seen it.

    Attributes:
        source: a text that changes when a weights file does.
    """

    def __init__(self, runs: Mapping[int, FoldRun], data: str, root: Path | None, device: str) -> None:
        from seglib.data.catalog import build_dataset

        self._runs, self._device = runs, device
        sets: dict[int, Any] = {fold: build_dataset(data, root, "val", fold=fold) for fold in runs}
        self._folds = {case.id: fold for fold, dataset in sets.items() for case in dataset.cases}
        self._stages: dict[int, FirstStage] = {}
        files = [run.weights for run in runs.values()]
        self.source = str([(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files])

    def __call__(self, sample: Sample) -> Tensor:
        """The labels ``(D, H, W)`` of a case."""
        return self.of_fold(self._folds[sample.id])(sample.image, sample.spacing)

    def of_fold(self, fold: int) -> FirstStage:
        """The model of a fold."""
        if fold not in self._stages:
            self._stages[fold] = first_stage([self._runs[fold].weights], self._device)
        return self._stages[fold]


def out_of_fold(
    runs: Sequence[Path] | None, configuration: Configuration, digest: str, data: str, root: Path | None
) -> OutOfFold | None:
    """The first stage of a configuration, or ``None`` of one without.

    Args:
        runs: the runs of all folds of the first stage.
        configuration: the second stage.
        digest: the digest of the plan of the second stage.
        data: the name of the data set.
        root: the folder of the data set, or ``None``.

    Raises:
        ValueError: when runs are missing, of another configuration or plan, or have no use.
    """
    from seglib.data.volume_files import FOLDS
    from seglib.train.folds import FoldRun, by_configuration
    from seglib.weights import read_metadata

    wanted = configuration.previous
    if wanted is None:
        if runs:
            raise ValueError(f"--previous has no use: {configuration.name} goes on from no other configuration")
        return None
    if not runs:
        raise ValueError(
            f"{configuration.name} goes on from predictions of {wanted}; train all folds of that first, and pass their "
            "runs with --previous"
        )
    found = [FoldRun.of(path, read_metadata(path)) for path in weights_of(runs)]
    for run in found:
        if run.configuration != wanted or run.plan != digest:
            raise ValueError(
                f"{run.weights} is of {run.configuration}{' of another plan' * (run.configuration == wanted)}; "
                f"{configuration.name} goes on from {wanted} of its own plan"
            )
    return OutOfFold(by_configuration(found, range(FOLDS))[wanted], data, root, "auto")
