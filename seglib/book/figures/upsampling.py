"""The moving figure of chapter 3 on upsampling along one axis."""

from __future__ import annotations

from collections.abc import Sequence

from seglib.book.figures.element import Figure


def bilinear_stamps(values: Sequence[float] = (1, 3, 2, 0, 2.5), *, factor: int = 4, kernel: str = "tent") -> Figure:
    """Stamps that add up to an interpolation, cell by cell, along one axis.

    The reader changes the values, the factor and the kernel, and sees what is summed in a pixel.

    Args:
        values: values of 2 to 6 cells, 0 to 4.
        factor: upsampling factor at the start, 2, 4, 6 or 8.
        kernel: ``"tent"`` (2f weights, bilinear) or ``"box"`` (f weights, nearest neighbour) at the start.

    Raises:
        ValueError: when a value is out of range.
    """
    if not 2 <= len(values) <= 6 or any(not 0 <= v <= 4 for v in values):
        raise ValueError(f"values must be 2 to 6 numbers from 0 to 4, got {tuple(values)}")
    if factor not in (2, 4, 6, 8):
        raise ValueError(f"factor must be 2, 4, 6 or 8, got {factor}")
    if kernel not in ("tent", "box"):
        raise ValueError(f"kernel must be 'tent' or 'box', got {kernel!r}")
    return Figure(
        "bilinear_stamps",
        {"values": list(values), "factor": factor, "kernel": kernel},
        text="stamps that add up to an interpolation",
        fallback=(
            "<p>Stamps that add up to an interpolation (needs JavaScript). Every cell multiplies a tent of 2f weights "
            f"by its value and stamps it f pixels further; here f = {factor}. In each pixel two stamps meet whose "
            "weights sum to 1, so the sum runs straight from one cell's centre to the next. Within f / 2 pixels of the "
            "border the weights sum to less.</p>"
        ),
    )
