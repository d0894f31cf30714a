"""One style for every figure, in colours that all can tell apart; `seglib.viz.dark` turns it over for dark pages."""

from __future__ import annotations

CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, ordered so that the first lines of a plot differ most in lightness and hue.

Source: Okabe and Ito, "Color Universal Design", 2008. Its yellow is left out: it vanishes on a light background.
"""

CARD = "#FCFCFA"
INK = "#22262B"
FAINT = "#D8DADD"


def style(dpi: int = 80) -> None:
    """Sets matplotlib's defaults for the whole session: font, colours, background, resolution.

    Args:
        dpi: pixels per inch of stored figures; 72 to 100 keeps notebooks small.
    """
    import matplotlib
    from cycler import cycler

    matplotlib.rcParams.update(
        {
            "figure.dpi": dpi,
            "savefig.dpi": dpi,
            "figure.facecolor": CARD,
            "savefig.facecolor": CARD,
            "savefig.bbox": "tight",
            "savefig.pad_inches": 0.1,
            "figure.constrained_layout.use": True,
            "font.family": "DejaVu Sans",
            "font.size": 10,
            "axes.titlesize": 10.5,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.facecolor": CARD,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "axes.titlecolor": INK,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": FAINT,
            "grid.linewidth": 0.7,
            "axes.prop_cycle": cycler(color=CYCLE),
            "lines.linewidth": 1.8,
            "lines.markersize": 5,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "image.interpolation": "nearest",
            "image.cmap": "viridis",
        }
    )
