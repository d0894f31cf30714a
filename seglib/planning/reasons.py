"""Why a plan has the numbers that it has: the rule, the facts of the data set that it was applied to, and what if.

What would change a number is computed by planning again: with twice and half the memory, with twice the cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from seglib.planning.fingerprint import Fingerprint
from seglib.planning.memory import (
    FOREGROUND,
    MAX_WIDTH,
    MIN_BATCH,
    REFERENCE_BATCH,
    batch_of_data,
    batch_of_memory,
    foreground_patches,
    widths,
)
from seglib.planning.normalization import MASK_BELOW, masked, normalization
from seglib.planning.patch import Draft, draft
from seglib.planning.spacing import ANISOTROPY, COARSE_PERCENTILE, STEP, coarse_axis
from seglib.planning.topology import LONE_EDGE, MIN_EDGE, SIMILAR, Topology, topology
from seglib.planning.trace import LOWRES_BELOW, LOWRES_FACTOR, Trace


@dataclass(frozen=True)
class Reason:
    """The reason for one number of a plan.

    Attributes:
        configuration: the configuration that has the number; empty for all.
        number: its name, that of a field of the plan or of the configuration.
        value: the number as text.
        rule: how it is decided.
        because: the facts of this data set from which it follows.
        change: what would change it, and into what.
    """

    configuration: str
    number: str
    value: str
    rule: str
    because: str
    change: str


def reasons(trace: Trace, fingerprint: Fingerprint) -> tuple[Reason, ...]:
    """The reason for every number of a plan.

    Args:
        trace: the steps that lead to the plan.
        fingerprint: the facts of the data set that the trace is of.
    """
    found = [*_of_all(trace, fingerprint)]
    for name, planned in trace.drafts.items():
        about = _About(name, planned, trace, fingerprint)
        found += [
            _spacing(about) if name != "3d_lowres" else _lowres_spacing(about),
            _median_size(about),
            _patch(about),
            _strides(about),
            _kernels(about),
            *_layers(about),
            _batch_size(about),
            _foreground(about),
            _batch_dice(about),
        ]
    if "3d_lowres" in trace.drafts:
        found.append(
            Reason(
                "3d_cascade_fullres",
                "previous",
                "3d_lowres",
                "the classes that 3d_lowres predicts are further input channels; all else is as in 3d_fullres",
                "there is a 3d_lowres",
                "without 3d_lowres there would be no cascade",
            )
        )
    return tuple(found)


@dataclass(frozen=True)
class _About:
    """A configuration, and what its numbers follow from."""

    name: str
    draft: Draft
    trace: Trace
    fingerprint: Fingerprint

    @property
    def dims(self) -> int:
        return len(self.draft.size)

    @property
    def topology(self) -> Topology:
        return self.draft.topology

    def reason(self, number: str, value: str, rule: str, because: str, change: str) -> Reason:
        return Reason(self.name, number, value, rule, because, change)

    def again(self, *, memory: float = 1, cases: int = 1) -> Draft | None:
        """The draft with so many times the memory and the cases; ``None`` where no patch fits."""
        steps, old = self.trace, self.draft
        try:
            return draft(
                old.spacing,
                old.size,
                old.voxels,
                old.cases * cases,
                len(self.fingerprint.classes),
                planner=steps.planner,
                memory=steps.memory * memory,
                width=steps.width,
            )
        except ValueError:
            return None


def _of_all(trace: Trace, fingerprint: Fingerprint) -> list[Reason]:
    """The reasons for the numbers that no single configuration has."""
    cases = len(fingerprint.sizes)
    order = list(trace.transpose)
    first, second, *_ = sorted(trace.spacing, reverse=True)
    sizes = np.array(fingerprint.sizes)[:, order]
    spacings = np.array(fingerprint.spacings)[:, order]
    family = trace.planner
    modes = [normalization(name) for name in fingerprint.modalities]
    values = [(s.percentile_00_5, s.percentile_99_5, s.mean, s.std) for s in fingerprint.intensities]
    windows = ["clip to [{:.4g}, {:.4g}], subtract {:.4g}, divide by {:.4g}".format(*v) for v in values]
    named = list(zip(fingerprint.modalities, windows, modes, strict=True))
    others = [(name, window) for name, window, mode in named if mode != "ct"]
    return [
        Reason(
            "",
            "memory",
            f"{trace.memory:g} GB",
            f"the memory to plan for; the planner's own is {family.memory:g} GB",
            "as asked" if trace.memory != family.memory else "the planner's own",
            f"twice as much lets feature maps have twice as many numbers: {_millions(2 * _fitting(trace, 3))} in 3D",
        ),
        Reason(
            "",
            "configurations",
            ", ".join([*trace.drafts, *(["3d_cascade_fullres"] if "3d_lowres" in trace.drafts else [])]),
            "2d always; 3d_fullres unless the first axis has one voxel; 3d_lowres and the cascade when the patch of "
            f"3d_fullres covers less than {LOWRES_BELOW:.0%} of the median case and 3d_lowres has at least "
            f"{LOWRES_FACTOR} times fewer voxels; none whose axes can't be halved",
            _existing(trace),
            "larger cases or smaller spacing lower the share that a patch covers, more memory raises it",
        ),
        Reason(
            "",
            "transpose",
            f"{trace.transpose}",
            "the axis with the largest spacing comes first, so that 2D slices lie in the fine plane",
            f"cases are resampled to {_mm(trace.spacing)}",
            f"another axis with more than {first:.4g} mm would come first"
            if first > second
            else "of axes with the same spacing the first counts; any axis with more would come first",
        ),
        Reason(
            "",
            "median_spacing",
            _mm(np.median(spacings, axis=0)),
            "median of the cases, axis by axis, after transposition",
            f"{cases} cases from {_mm(spacings.min(0))} to {_mm(spacings.max(0))}",
            "cases of other spacing; the spacing that is resampled to stands with each configuration",
        ),
        Reason(
            "",
            "median_size",
            _voxels(np.median(sizes, axis=0).round()),
            "median of the cases, axis by axis, after transposition and cropping to the box that is not 0",
            f"{cases} cases from {_voxels(sizes.min(0))} to {_voxels(sizes.max(0))}",
            "cases of other size; the size after resampling stands with each configuration",
        ),
        Reason(
            "",
            "normalization",
            ", ".join(f"{name}: {mode}" for name, _, mode in named),
            "by the name of the channel: CT with the numbers of the data set, noNorm not at all, rescale_to_0_1 and "
            "rgb_to_0_1 as they say, any other to mean 0 and standard deviation 1 of the case",
            f"the channels are called {', '.join(fingerprint.modalities)}",
            f"called CT, {others[0][0]} would be normalised alike in all cases: {others[0][1]}"
            if others
            else "called otherwise, such as PET, a channel would have the mean and standard deviation of each case",
        ),
        Reason(
            "",
            "intensities",
            "; ".join(f"{name}: {window}" for name, window, mode in named if mode == "ct") or "not used",
            "CT is clipped to the percentiles 0.5 and 99.5 of the foreground voxels of all cases, and has their mean "
            "and standard deviation",
            "; ".join(
                f"{name}: foreground from {s.minimum:.4g} to {s.maximum:.4g}, median {s.median:.4g}"
                for name, s in zip(fingerprint.modalities, fingerprint.intensities, strict=True)
            ),
            "other foreground: the background has no part in them",
        ),
        Reason(
            "",
            "masked",
            ", ".join(
                f"{name}: {'yes' if inside else 'no'}"
                for name, inside in zip(fingerprint.modalities, masked(fingerprint), strict=True)
            ),
            f"where cropping to the box that is not 0 leaves less than {MASK_BELOW:.0%} of the voxels, a z-score is "
            "that of the non-zero region alone",
            f"cropping leaves {fingerprint.kept:.1%} of the median case",
            f"from {MASK_BELOW:.0%} on it would be no"
            if fingerprint.kept < MASK_BELOW
            else f"below {MASK_BELOW:.0%} it would be yes with zscore",
        ),
        Reason(
            "",
            "residual",
            "yes" if family.residual else "no",
            "the ResEnc planners have residual blocks on the way down, the plain one has convolutions",
            f"the planner is nnU-Net's {family.reference}",
            f"the {'plain planner' if family.residual else 'ResEnc planners'}",
        ),
    ]


def _spacing(about: _About) -> Reason:
    spacings, sizes = about.fingerprint.spacings, about.fingerprint.sizes
    median, size = np.median(spacings, axis=0).tolist(), np.median(sizes, axis=0).tolist()
    worst = max(range(3), key=lambda axis: (median[axis], -axis))
    others = [axis for axis in range(3) if axis != worst]
    apart = median[worst] / max(median[axis] for axis in others)
    fewer = min(size[axis] for axis in others) / size[worst]
    fine = np.percentile([spacing[worst] for spacing in spacings], COARSE_PERCENTILE)
    facts = (
        f"axis {worst} has {apart:.3g} times the spacing of the next one, and the others {fewer:.3g} times its voxels"
    )
    coarse = coarse_axis(median, size) is not None
    return about.reason(
        "spacing",
        _mm(about.draft.spacing),
        f"median of the cases; an axis with more than {ANISOTROPY} times the spacing of the others, which have more "
        f"than {ANISOTROPY} times its voxels, gets its {COARSE_PERCENTILE}th percentile, but more than the others",
        f"the median is {_mm(median)}; {facts}",
        f"with both at most {ANISOTROPY} it would have its median, {median[worst]:.4g} mm"
        if coarse
        else f"with both more than {ANISOTROPY} it would have its {COARSE_PERCENTILE}th percentile, {fine:.4g} mm, if "
        "that is more than the others",
    )


def _lowres_spacing(about: _About) -> Reason:
    steps, full = about.trace.lowres, about.trace.fullres
    assert full is not None
    return about.reason(
        "spacing",
        _mm(about.draft.spacing),
        f"that of 3d_fullres, {STEP - 1:.0%} larger step by step until a patch covers {LOWRES_BELOW:.0%} of the median "
        "case; axes finer than half of the coarsest grow first",
        f"the patch of 3d_fullres covers {full.covered:.1%} of its median case; after {len(steps)} steps, with "
        f"{full.voxels / about.draft.voxels:.3g} times fewer voxels, a patch covers {about.draft.covered:.1%}",
        f"after {len(steps) - 1} steps it would cover {(steps[-2] if len(steps) > 1 else full).covered:.1%}",
    )


def _median_size(about: _About) -> Reason:
    return about.reason(
        "median_size",
        _voxels(about.draft.size),
        "median of the cases, cropped and resampled",
        f"{about.draft.cases} cases at {_mm(about.draft.spacing)}",
        "larger cases, or a smaller spacing",
    )


def _patch(about: _About) -> Reason:
    steps, fitting = about.draft.steps, about.draft.steps[-1]
    start = (
        "2048 x 2048 voxels shaped like a square" if about.dims == 2 else "256 x 256 x 256 voxels shaped like a cube"
    )
    least = about.trace.planner.fitting_2d if about.dims == 2 else MIN_BATCH
    room = _fitting(about.trace, about.dims) * REFERENCE_BATCH[about.dims] / least
    first = f"the median case has {_voxels(about.draft.size)} voxels at {_mm(about.draft.spacing)}, so it starts from "
    first += f"{_voxels(steps[0].topology.patch)}"
    shrunk = f", and {len(steps) - 1} steps lead to {_millions(fitting.features)}" if len(steps) > 1 else ""
    return about.reason(
        "patch",
        _voxels(about.topology.patch),
        f"{start} in mm, at most the median case, padded to a multiple of the strides; then "
        f"the axis that covers most of the median case shrinks until {least} patches fit into memory",
        f"{first}, with {_millions(steps[0].features)} numbers in its feature maps; {_millions(room)} fit{shrunk}",
        _what_if(about, lambda other: _voxels(other.topology.patch)),
    )


def _strides(about: _About) -> Reason:
    shape = about.topology
    total = [s * m for s, m in zip(about.draft.spacing, shape.multiple, strict=True)]
    return about.reason(
        "strides",
        _levels(shape.strides),
        f"axes with at least {2 * MIN_EDGE} voxels are halved when their spacing is less than {SIMILAR} times that of "
        f"the finest of them; one alone needs {LONE_EDGE}",
        f"the lowest level has {_voxels(shape.sizes[-1])} voxels of {_mm(total)}",
        _deeper(about),
    )


def _kernels(about: _About) -> Reason:
    spacing, kernels = about.draft.spacing, about.topology.kernels
    thin, limit = [axis for axis, k in enumerate(kernels[0]) if k == 1], SIMILAR * min(spacing)
    return about.reason(
        "kernels",
        _levels(kernels),
        f"3 along axes whose spacing is less than {SIMILAR} times the finest, from that level on; else 1; 3 along all "
        "axes on the lowest level",
        f"the spacing is {_mm(spacing)}, and doubles where an axis is halved",
        f"below {limit:.4g} mm along axis {thin[0]} its kernels would be 3 from the first level on"
        if thin
        else f"an axis with {limit:.4g} mm or more would begin with kernels of 1",
    )


def _layers(about: _About) -> list[Reason]:
    family, levels = about.trace.planner, len(about.topology.kernels)
    more = widths(levels + 1, about.dims, about.trace.width)
    blocks = "residual blocks" if family.residual else "convolutions"
    return [
        about.reason(
            "widths",
            _list(more[:-1]),
            f"{about.trace.width} channels on the first level, twice as many on each further one, at most "
            f"{MAX_WIDTH[about.dims]} in {about.dims}D",
            f"the strides make {levels} levels",
            f"a further level would have {more[-1]} channels",
        ),
        about.reason(
            "blocks",
            _list(family.blocks_of(levels)),
            f"{_list(family.blocks)} {blocks} a level; the last number goes on",
            f"the planner is nnU-Net's {family.reference}, and there are {levels} levels",
            "another planner: plain has 2 convolutions a level, the ResEnc planners 1, 3, 4, 6, 6 … residual blocks",
        ),
        about.reason(
            "decoder_blocks",
            _list([family.decoder_blocks] * (levels - 1)),
            f"{family.decoder_blocks} on each level of the way up",
            f"the planner is nnU-Net's {family.reference}, and there are {levels} levels",
            "another planner: plain has 2 convolutions, the ResEnc planners 1",
        ),
    ]


def _batch_size(about: _About) -> Reason:
    steps, found = about.trace, about.draft
    features, patch = found.steps[-1].features, about.topology.patch
    by_memory = batch_of_memory(features, about.dims, planner=steps.planner, memory=steps.memory)
    by_data = batch_of_data(patch, found.voxels * found.cases, steps.planner)
    return about.reason(
        "batch_size",
        str(found.batch_size),
        f"as many patches as fit into memory, at most {steps.planner.coverage:.0%} of the voxels of the data set, and "
        f"at least {MIN_BATCH}",
        f"{by_memory} patches fit into {steps.memory:g} GB; {steps.planner.coverage:.0%} of the voxels of "
        f"{found.cases} median cases are {by_data} patches",
        _what_if(about, _batch_of, cases=True),
    )


def _batch_of(other: Draft) -> str:
    return f"{other.batch_size} of {_voxels(other.topology.patch)}"


def _foreground(about: _About) -> Reason:
    batch = about.draft.batch_size
    return about.reason(
        "foreground",
        f"{foreground_patches(batch)} of {batch}",
        f"a share of {FOREGROUND} of the patches of a batch is centred on foreground, rounded to whole patches",
        f"the batch has {batch} patches",
        f"of {batch + 1} it would be {foreground_patches(batch + 1)}",
    )


def _batch_dice(about: _About) -> Reason:
    lowres = "3d_lowres" in about.trace.drafts
    covered = f"the patch covers {about.draft.covered:.1%} of the median case"
    return about.reason(
        "batch_dice",
        "yes" if about.trace.batch_dice(about.name) else "no",
        "the Dice loss is that of the whole batch in 2d, and in 3d_fullres where there is a 3d_lowres; else of each "
        "patch, since only where patches are small do many of them lack a class",
        "slices often lack a class" if about.dims == 2 else covered,
        f"{'no' if lowres else 'yes'}, if there were {'no' if lowres else 'a'} 3d_lowres"
        if about.name == "3d_fullres"
        else "nothing: it is the same for every data set",
    )


def _existing(trace: Trace) -> str:
    """Why there are the configurations that there are."""
    said = []
    if trace.fullres is None:
        said.append(f"the median case has {_voxels(trace.size)} voxels")
    else:
        said.append(f"the patch of 3d_fullres covers {trace.fullres.covered:.1%} of the median case")
        if trace.lowres:
            said.append(f"3d_lowres would have {trace.fullres.voxels / trace.lowres[-1].voxels:.3g} times fewer voxels")
    candidates = {"2d": trace.planar, "3d_fullres": trace.fullres}
    for name, planned in candidates.items():
        if planned is not None and name not in trace.drafts:
            said.append(f"no axis of the patch {_voxels(planned.topology.patch)} of {name} can be halved")
    return "; ".join(said)


def _what_if(about: _About, value: Callable[[Draft], str], *, cases: bool = False) -> str:
    """What a number is with twice and with half the memory, and with twice the cases."""
    memory = about.trace.memory
    others = {
        f"with {2 * memory:g} GB": about.again(memory=2),
        f"with {memory / 2:g} GB": about.again(memory=0.5),
        **({f"with {2 * about.draft.cases} cases": about.again(cases=2)} if cases else {}),
    }
    own = value(about.draft)
    said = {name: "nothing would fit" if other is None else value(other) for name, other in others.items()}
    return ", ".join(f"{name} {'the same' if text == own else text}" for name, text in said.items())


def _deeper(about: _About) -> str:
    """The edges of patches that would be halved once more."""
    spacing, patch, multiple = about.draft.spacing, about.topology.patch, about.topology.multiple
    said = []
    for axis, n in enumerate(patch):
        for longer in range(n + multiple[axis], 4 * n, multiple[axis]):
            other = topology(spacing, [*patch[:axis], longer, *patch[axis + 1 :]])
            if other.multiple[axis] > multiple[axis]:
                said.append(f"{other.patch[axis]} along axis {axis}")
                break
    return f"an edge of {' or of '.join(said)} alone would be halved once more" if said else "other spacing"


def _fitting(trace: Trace, dims: int) -> float:
    """The numbers that feature maps of a patch may have."""
    return trace.planner.features(dims, trace.memory)


def _millions(count: float) -> str:
    return f"{count / 1e6:,.{0 if count >= 1e8 else 1}f} million"


def _mm(values: Iterable[float]) -> str:
    return " x ".join(f"{v:.4g}" for v in values) + " mm"


def _voxels(values: Iterable[float]) -> str:
    return " x ".join(f"{v:g}" for v in values)


def _levels(rows: Iterable[Sequence[int]]) -> str:
    return ", ".join("x".join(map(str, row)) for row in rows)


def _list(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))
