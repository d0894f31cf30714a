"""Volumes on the command line: what training takes from a data set, and cases in files that are predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seglib.commands import options
from seglib.commands.console import counted, first_process, note, one_line, say_what_was_done, shown, warn
from seglib.commands.stored import load_volumes

if TYPE_CHECKING:
    from seglib.commands.cascade import OutOfFold
    from seglib.data.volume_transforms import VolumeTransform
    from seglib.ops.intensity import Intensity
    from seglib.ops.preparation import Preparation
    from seglib.planning.plan import Configuration, Plan


@dataclass(frozen=True)
class VolumeData:
    """What a model of volumes is trained on.

    Attributes:
        train: patches of the training cases.
        val: the cases to validate on, whole and as they are in their files.
        patch: the size of a patch, and of the sliding window.
        intensity: how the voxels of cases are scaled, of a model without preparation.
        preparation: how cases are prepared, of a model with a plan.
        arguments: keywords of the model's builder that the data decide.
        kept: what the weights keep of all this.
    """

    train: Any
    val: Any
    patch: tuple[int, ...]
    intensity: Intensity
    preparation: Preparation | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)


def data_on_its_own_grid(sets: Mapping[str, Any], folder: Path | None, patch: Any, intensity: Intensity) -> VolumeData:
    """The data of a model that sees cases on their own grid.

    Args:
        sets: the datasets "train" and "val".
        folder: where cases are unpacked to; ``None`` keeps them in memory.
        patch: the size of a patch, or ``None``.
        intensity: the scaling of the weights to start from; a native one is none.
    """
    from seglib.data.case_facts import case_facts, default_patch
    from seglib.data.patches import Patches
    from seglib.data.volume_transforms import volume_transform
    from seglib.ops.intensity import AS_IS

    cases = _stored(sets, folder)
    facts = case_facts(cases["train"], sets["train"].modalities)
    if intensity == AS_IS:
        intensity = facts.intensity
    patch = patch or default_patch(facts.size)
    if first_process():
        for stored in cases.values():
            warn_of_spacing({s.id: s.spacing for s in (stored[i] for i in range(len(stored)))}, facts.spacing)
    train = Patches(cases["train"], patch, intensity=intensity, transform=volume_transform())
    kept = {"patch": list(patch), "spacing": list(facts.spacing)}
    return VolumeData(train, cases["val"], patch, intensity, kept=kept)


def data_by_plan(
    sets: Mapping[str, Any],
    folder: Path | None,
    patch: Any,
    plan: Plan,
    configuration: Configuration,
    previous: OutOfFold | None,
) -> VolumeData:
    """The data of a model with a plan: training cases are cropped, normalised and resampled once, and stored.

    Args:
        sets: the datasets "train" and "val".
        folder: where cases are stored; ``None`` keeps them in memory.
        patch: the size of a patch; ``None`` is that of the plan.
        plan: the plan of the data set.
        configuration: one of its configurations.
        previous: the first stage, of a cascade.
    """
    from seglib.data.cascade import CascadeTransform
    from seglib.data.cases import StoredCases
    from seglib.data.nnunet_transforms import nnunet_transform
    from seglib.data.patches import Patches
    from seglib.data.prepared import PreparedCases
    from seglib.ops.intensity import AS_IS

    preparation = plan.preparation(configuration.name)
    cases = _stored(sets, folder)
    prepared = StoredCases(PreparedCases(sets["train"], preparation, previous), folder)
    for i in shown(range(len(prepared)), "prepare cases", quiet=not first_process()):
        prepared.case(i)
    patch = patch or (1,) * (3 - configuration.dims) + tuple(configuration.patch)
    transform: VolumeTransform = nnunet_transform(patch, masked=preparation.masked)
    arguments = configuration.model_arguments()
    if preparation.previous:
        transform = CascadeTransform(transform, preparation.previous)
        arguments["in_channels"] = len(preparation.intensities) + preparation.previous
    train = Patches(prepared, patch, foreground=configuration.foreground, transform=transform)
    return VolumeData(train, cases["val"], patch, AS_IS, preparation, arguments, {"patch": list(patch)})


def _stored(sets: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """The datasets as cases that are read once, after checking what headers of files tell."""
    from seglib.data.cases import StoredCases

    for dataset in sets.values():
        if hasattr(dataset, "check_headers"):
            dataset.check_headers()
    if folder is not None and first_process():
        note(f"the cases are unpacked in {folder}")
    return {split: StoredCases(dataset, folder) for split, dataset in sets.items()}


def check_channels(weights: Path | None, metadata: Mapping[str, Any], modalities: Sequence[str]) -> None:
    """Check that weights are for as many channels as a dataset of volumes has."""
    trained = metadata.get("modalities")
    if trained is not None and len(trained) != len(modalities):
        raise ValueError(
            f"{weights} are for volumes of {', '.join(trained)}, the dataset has {', '.join(modalities)}; choose "
            "weights for as many channels"
        )


def warn_of_spacing(spacings: Mapping[str, Any], usual: Any) -> None:
    """Warn of cases whose voxels have another spacing than those that a model was trained on."""
    from seglib.data.case_facts import sampled_unlike

    odd = [name for name, spacing in spacings.items() if usual and spacing and sampled_unlike(spacing, usual)]
    if odd:
        seen, wanted = (" x ".join(f"{mm:.3g}" for mm in spacing) for spacing in (spacings[odd[0]], usual))
        has, them = ("has", "it") if len(odd) == 1 else ("have", "them")
        warn(
            f"{len(odd)} of {counted(len(spacings), 'case')} {has} another spacing than training had: {odd[0]} has "
            f"{seen} mm, and {wanted} mm is usual; resample {them}"
        )


def all_flips(net: Any) -> tuple[int, ...]:
    """The axes of a volume over which nnU-Net flips: all that a model sees at once."""
    dims = [getattr(member, "dims", 3) for member in getattr(net, "members", [net])]
    return (0, 1, 2) if max(dims) == 3 else (1, 2)


def set_up(
    weights: Sequence[Path],
    device: str,
    task: str | None,
    *,
    flip_all: bool = False,
    flip: bool = False,
    window: str | None = None,
    overlap: float | None = None,
    previous: Sequence[Path] | None = None,
) -> tuple[Any, Any, list[dict[str, Any]]]:
    """The model or ensemble of some weights, its task with the way in which cases are predicted, and their metadata."""
    sides = options.window(window, "--window")
    options.check_overlap(overlap)
    net, the_task, metadata = load_volumes(weights, device, task, previous or ())
    settings = the_task.arguments()
    if sides is not None:
        settings["window"] = sides
        if hasattr(net, "windows"):
            net.windows = (sides,) * len(net.windows)
    if overlap is not None:
        settings["overlap"] = overlap
    flips = all_flips(net) if flip_all else (2,) if flip else ()  # W runs from right to left
    return net, type(the_task)(the_task.categories, **settings, flips=flips, previous=the_task.previous), metadata


def predict_volumes(
    path: Path, weights: Sequence[Path], task: str | None, out: Path | None, device: str, as_json: bool, **how: Any
) -> None:
    """``seglib predict`` for the weights of models of volumes; ``how`` is what :func:`set_up` takes."""
    from seglib.case_files import cases_at, facts_of, label_targets, predict_case
    from seglib.data.class_tables import labels_to_files
    from seglib.data.nifti import write_label_volume
    from seglib.postprocess.whole_cases import channels_of

    if out is None and not as_json:
        raise ValueError("say what you want: --out labels.nii.gz, or --json")
    options.check_writable(out)
    net, the_task, metadata = set_up(weights, device, task, **how)
    cases = cases_at(path, channels_of(net))
    targets = label_targets(out, cases, path)
    file_ids = metadata[0].get("file_ids", [c.id for c in the_task.categories])
    entries, failed, spacings = [], [], {}
    for i, case in enumerate(shown(cases, "predict", quiet=as_json)):
        try:
            labels, frame = predict_case(net, the_task, case)  # (D, H, W)
        except (ValueError, OSError) as error:
            failed.append(one_line(error))
            continue
        if targets:
            write_label_volume(targets[i], labels_to_files(labels, file_ids, metadata[0].get("void_id")), frame)
        entries.append(facts_of(case, labels, frame, the_task.categories))
        spacings[case.id] = frame.spacing
    warn_of_spacing(spacings, metadata[0].get("spacing"))
    say_what_was_done("case", len(cases), failed, entries if as_json else None, (out,))
