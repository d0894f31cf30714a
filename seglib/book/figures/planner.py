"""The moving figure about nnU-Net's planner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seglib.book.figures.element import Figure
from seglib.planning.fingerprint import Fingerprint, ForegroundStatistics
from seglib.planning.plan import Plan, plan

PLAN_PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "Hippocampus MR": (
        {"spacing": (1.0, 1.0, 1.0), "size": (36, 50, 35), "cases": 260, "classes": 3},
        "A patch holds the whole case: there is nothing to shrink, and the batch grows to 5 % of the data set.",
    ),
    "Abdominal CT, thick slices": (
        {"spacing": (5.0, 0.78, 0.78), "size": (55, 512, 512), "cases": 61, "classes": 14, "spread": 0.6},
        "Slices lie far apart and differ from case to case: the target spacing along z is not the median, and the "
        "first stage works in the plane alone.",
    ),
    "Whole-body CT": (
        {"spacing": (1.5, 0.98, 0.98), "size": (580, 512, 512), "cases": 101, "classes": 25},
        "A patch holds a few percent of the case: a network at low resolution and a cascade are added.",
    ),
    "Cardiac cine MR": (
        {"spacing": (10.0, 1.56, 1.56), "size": (9, 256, 216), "cases": 201, "classes": 4, "spread": 0.6},
        "Few thick slices: a patch holds the whole case, and z is halved late and seldom.",
    ),
    "2D microscopy": (
        {"spacing": (999.0, 1.0, 1.0), "size": (1, 1024, 1024), "cases": 101, "classes": 2, "channels": 3},
        "One slice, whose spacing nnU-Net writes as 999: there is a 2D network and nothing else.",
    ),
}
"""What :func:`plan_explorer` can start from: the settings of a data set, and what to see.

``spacing`` in mm and ``size`` in voxels are the medians ``(z, y, x)``. ``spread`` is how far the spacing of the
coarsest axis runs to both sides of its median, as a share of it.
"""

_SETTINGS: dict[str, Any] = {"channels": 1, "spread": 0.0, "planner": "plain", "memory": 8}
"""What a preset leaves out."""


def plan_explorer(*, preset: str = "Abdominal CT, thick slices") -> Figure:
    """The facts of a data set to change, and nnU-Net's plan for it, rule by rule with the reason for every number.

    The reader sets spacing, size, number of cases, classes, channels, memory and the planner. The figure draws the
    network of each configuration as a U, shows how much of a case a patch holds, and marks what the last change did and
    by which rule. Its numbers are those of :func:`seglib.planning.plan.plan`.

    Args:
        preset: the data set at the start, one of :data:`PLAN_PRESETS`.

    Raises:
        ValueError: when the preset is unknown.
    """
    if preset not in PLAN_PRESETS:
        raise ValueError(f"preset must be one of {list(PLAN_PRESETS)}, got {preset!r}")
    return _Explorer(
        "plan_explorer",
        {
            "presets": [[name, _SETTINGS | settings, note] for name, (settings, note) in PLAN_PRESETS.items()],
            "preset": list(PLAN_PRESETS).index(preset),
        },
        text="nnU-Net's plan for a data set to change",
        fallback=_fallback(preset),
    )


class _Explorer(Figure):
    """The page, and before it the arithmetic of the plan and the reasons in words."""

    shared = ("planner", "plan_reasons")


def plan_of(settings: Mapping[str, Any]) -> Plan:
    """The plan of settings as the page has them, for a data set that they stand for.

    Along the coarsest axis the spacing of the cases runs evenly from (1 − spread) to (1 + spread) times the median,
    and their size the other way, so that all cases cover the same millimetres.
    """
    chosen = _SETTINGS | dict(settings)
    cases, spacing, size = chosen["cases"], chosen["spacing"], chosen["size"]
    coarse = spacing.index(max(spacing))
    factors = [1 + chosen["spread"] * (2 * i / (cases - 1) - 1) if cases > 1 else 1.0 for i in range(cases)]
    data = Fingerprint(
        "",
        ("MR",) * chosen["channels"],
        tuple(map(str, range(chosen["classes"]))),
        tuple(tuple(s * f if axis == coarse else s for axis, s in enumerate(spacing)) for f in factors),
        tuple(tuple(max(1, round(n / f)) if axis == coarse else n for axis, n in enumerate(size)) for f in factors),
        1.0,
        (ForegroundStatistics(0, 0, 1, 0, 0, 0, 0),) * chosen["channels"],
    )
    return plan(data, planner=chosen["planner"], memory=chosen["memory"])


def _fallback(preset: str) -> str:
    """The plan of a preset as a table, for places without JavaScript."""
    settings, note = PLAN_PRESETS[preset]
    heads = "".join(f"<th>{head}</th>" for head in ("", "spacing in mm", "patch", "batch size", "channels per stage"))
    rows = ""
    for name, c in plan_of(settings).configurations.items():
        spacing, patch = " × ".join(f"{s:.3g}" for s in c.spacing), " × ".join(map(str, c.patch))
        widths = ", ".join(map(str, c.widths))
        rows += f"<tr><th>{name}</th><td>{spacing}</td><td>{patch}</td><td>{c.batch_size}</td><td>{widths}</td></tr>"
    return (
        "<p>The facts of a data set to change, and nnU-Net's plan for it, rule by rule with the reason for every "
        f"number (needs JavaScript). {preset}: {note}</p><table><tr>{heads}</tr>{rows}</table>"
    )
