"""A figure with live controls that Python answers, and an image of it for readers without a kernel."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from seglib.book.setup import PAGES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDGET_MIME = "application/vnd.jupyter.widget-view+json"


def live(draw: Callable[..., Figure], /, **controls: Any) -> None:
    """Show ``draw(**values)`` with one control per keyword, as ``ipywidgets.interactive`` makes them.

    Where a kernel runs the reader moves the controls and Python draws again. The stored output also holds a PNG of the
    figure at the starting values: it is what the pages of the book show.

    Args:
        draw: function that returns a new figure for the values of the controls.
        **controls: one ipywidgets control per keyword of ``draw``, or an abbreviation such as ``(0.0, 1.0, 0.05)``.

    Raises:
        ValueError: without a control, or when ``draw`` does not return a matplotlib figure.

    Example:
        ``book.live(show_at, threshold=widgets.FloatSlider(value=0.5, min=0, max=1, step=0.05))``
    """
    if not controls:
        raise ValueError("live() needs at least one control; to show a figure without controls, draw it in the cell")
    import ipywidgets
    import matplotlib.pyplot as plt
    from IPython.display import display
    from matplotlib.figure import Figure

    def draw_closed(**values: Any) -> Figure:
        figure = draw(**values)
        if not isinstance(figure, Figure):
            raise ValueError(
                f"draw must return a matplotlib figure, got {type(figure).__name__}; end it with `return fig`"
            )
        plt.close(figure)  # otherwise the inline backend shows it a second time
        return figure

    def show(**values: Any) -> None:
        display(draw_closed(**values))

    panel = ipywidgets.interactive(show, **controls)
    buffer = io.BytesIO()
    figure = draw_closed(**panel.kwargs)  # the starting values
    if os.environ.get(PAGES) == "1":
        from seglib.book.page_figures import two_palettes

        buffer.write(two_palettes(figure))
    else:
        figure.savefig(buffer, format="png", bbox_inches="tight", dpi=figure.dpi)
    text = "Controls: " + ", ".join(f"{name} = {value}" for name, value in panel.kwargs.items())
    view = {"version_major": 2, "version_minor": 0, "model_id": panel.model_id}
    png = base64.b64encode(buffer.getvalue()).decode()
    display({WIDGET_MIME: view, "image/png": png, "text/plain": text}, raw=True)
