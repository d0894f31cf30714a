"""From a case as it lies on disk to its labels: one model or an ensemble, each with the preparation that it trained on.

::

    case ─┬─ preparation A ─► sliding window ─► mean logits of the models ─► back on the grid of the case ─┬─► labels
          └─ preparation B ─► sliding window ─► mean logits of the models ─► back on the grid of the case ─┘

Models that see a case alike are averaged window by window, as logits. Models that see it in different ways, a 2D and a
3D configuration perhaps, are averaged as probabilities on the grid of the case, which is the one grid that they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seglib.ops.inference import evaluating
from seglib.ops.intensity import AS_IS
from seglib.ops.labels import labels_of
from seglib.postprocess.components import keep_largest
from seglib.postprocess.volume import label_volume, over_flips, sliding_window
from seglib.types import DenseOutput

Window = Sequence[int] | None


class Ensemble(nn.Module):
    """Several models of volumes that answer together.

    Args:
        models: models with the same classes and channels; each has its own ``preparation`` and ``intensity``.
        windows: the sliding window of each, ``(d, h, w)`` voxels of what the model sees, or ``None`` for whole cases.
        largest: groups of classes of whose voxels only the largest component is kept, in this order, see
            :func:`~seglib.postprocess.components.keep_largest`.

    Raises:
        ValueError: when there is no model, the windows are not as many, or classes or channels differ.

    Source: Isensee et al., "nnU-Net", Nature Methods 2021, which averages the models of five folds, and at most two
    configurations.
    """

    def __init__(self, models: Sequence[Any], windows: Sequence[Window], largest: Sequence[Sequence[int]] = ()) -> None:
        super().__init__()
        if not models or len(windows) != len(models):
            raise ValueError(f"an ensemble has models and a window for each, got {len(models)} and {len(windows)}")
        self.members = nn.ModuleList(models)
        self.windows = tuple(None if w is None else tuple(int(n) for n in w) for w in windows)
        facts = {(m.num_classes, channels_of(m), m.overlapping) for m in models}
        if len(facts) > 1:
            seen = "; ".join(f"{k} classes of {c} channels{' that overlap' * o}" for k, c, o in sorted(facts))
            raise ValueError(f"the models of an ensemble have the same classes and channels, got {seen}")
        self.normalize, self.largest = models[0].normalize, tuple(tuple(group) for group in largest)


def channels_of(model: Any) -> int:
    """The channels of the cases that a model or an ensemble takes, without those of an earlier stage's labels."""
    first: Any = model.members[0] if isinstance(model, Ensemble) else model
    preparation = getattr(first, "preparation", None)
    return len(first.normalize.mean) if preparation is None else len(preparation.intensities)


class _Mean(nn.Module):
    """The mean logits of models that see the same windows."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(models)
        self.normalize, self.overlapping = models[0].normalize, models[0].overlapping

    def forward(self, windows: Tensor) -> DenseOutput:
        outputs = [model(windows).logits for model in self.members]
        return DenseOutput(outputs[0] if len(outputs) == 1 else torch.stack(outputs).mean(0))


def label_case(
    model: nn.Module,
    image: Tensor,
    spacing: Sequence[float] | None,
    window: Window,
    *,
    overlap: float = 0.5,
    flips: Sequence[int] = (),
    batch_size: int = 1,
    accumulate_on: torch.device | str | None = None,
    regions: Sequence[int] | None = None,
    previous: Tensor | None = None,
) -> Tensor:
    """The label of every voxel of a case, on the case's own grid.

    A model without preparation sees the case as it is, and memory is that of
    :func:`~seglib.postprocess.volume.label_volume`. Otherwise the logits exist on the prepared grid, ``K·d·h·w``
    floats, and in an ensemble of several preparations as many again for the grid of the case.

    Args:
        model: a model of volumes, or an :class:`Ensemble`.
        image: the case ``(C, D, H, W)`` in the units and on the grid of its file; it may be memory-mapped.
        spacing: its millimetres ``(z, y, x)``; a preparation that resamples needs them.
        window: what the model sees at once; an ensemble has windows of its own.
        overlap: share of a window's side that neighbours have in common, in [0, 1).
        flips: test-time flips, some of the axes 0, 1 and 2 of ``(D, H, W)`` as the model sees them.
        batch_size: windows that a model sees at once.
        accumulate_on: where logits are added up; ``None`` is where the model runs.
        regions: the label that each region of a model of regions writes, see
            :func:`~seglib.postprocess.volume.label_volume`.
        previous: labels ``(D, H, W)`` of an earlier stage on the case's own grid, for models whose preparation takes
            them.

    Returns:
        Labels ``(D, H, W)`` uint8 on the CPU.

    Raises:
        ValueError: as :func:`~seglib.postprocess.volume.label_volume`, and as the preparation raises it.
    """
    members: list[tuple[nn.Module, Window]] = [(model, window)]
    largest: Sequence[Sequence[int]] = ()
    if isinstance(model, Ensemble):
        members, largest = list(zip(model.members, model.windows, strict=True)), model.largest
    seen_alike: dict[tuple[Any, ...], list[nn.Module]] = {}
    for member, its_window in members:
        way = (getattr(member, "preparation", None), getattr(member, "intensity", AS_IS), its_window)
        seen_alike.setdefault(way, []).append(member)
    how: dict[str, Any] = {"overlap": overlap, "flips": flips, "batch_size": batch_size, "accumulate_on": accumulate_on}
    how |= {"regions": regions, "previous": previous}
    labels = _labels([(way, _Mean(models)) for way, models in seen_alike.items()], image, spacing, **how)
    for classes in largest:
        labels = keep_largest(labels, classes)
    return labels


def _labels(
    groups: Sequence[tuple[tuple[Any, ...], _Mean]],
    image: Tensor,
    spacing: Sequence[float] | None,
    *,
    flips: Sequence[int],
    regions: Sequence[int] | None,
    previous: Tensor | None,
    **how: Any,
) -> Tensor:
    """The labels ``(D, H, W)`` of models that see the case in one way or several: preparation, intensity, window."""
    total = torch.zeros(())
    for (preparation, intensity, window), mean in groups:
        if preparation is None and len(groups) == 1:
            scaling = intensity.of(image)
            return label_volume(mean, image, window, flips=flips, scaling=scaling, regions=regions, **how)
        prepared = None
        if preparation is not None:
            prepared = preparation(image, spacing, previous=previous if preparation.previous else None)
        seen, scaling = (image, intensity.of(image)) if prepared is None else (prepared.image, None)
        device = next(mean.parameters()).device
        with evaluating(mean):
            predictor = over_flips(lambda windows, mean=mean: mean(windows).logits, flips)  # type: ignore[misc]
            logits = sliding_window(predictor, seen, window or seen.shape[1:], scaling=scaling, device=device, **how)
        if prepared is not None and len(groups) == 1 and regions is None:
            return preparation.restore_argmax(logits, prepared)
        if prepared is not None:
            logits = preparation.restore(logits, prepared, background=regions is None)
        total = total + (logits.softmax(0) if regions is None else logits.sigmoid()).cpu()  # (K, D, H, W)
    if total.isnan().any():
        raise ValueError("a model of the ensemble returns nan; search for very large voxels, or predict in float32")
    if regions is not None:
        return labels_of(total > len(groups) / 2, regions)
    return total.argmax(0).to(torch.uint8)
