"""`book.live`: controls for those with a kernel, an image for those without."""

from __future__ import annotations

import base64
import io
from typing import Any

import IPython.display
import ipywidgets
import matplotlib
import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure
from PIL import Image

from seglib import book
from seglib.book.live import WIDGET_MIME


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The bundles that cells display; what a control draws into its own output is left out."""
    matplotlib.use("agg")
    bundles: list[dict[str, Any]] = []
    monkeypatch.setattr(IPython.display, "display", lambda item, raw=False: bundles.append(item) if raw else None)
    return bundles


def bar(height: float, color: str = "red") -> Figure:
    figure, axes = plt.subplots()
    axes.bar([0], [height], color=color)
    return figure


def test_one_bundle_holds_the_controls_and_an_image(shown: list[dict[str, Any]]) -> None:
    book.live(bar, height=(0.0, 2.0, 0.5), color=["red", "blue"])
    (bundle,) = shown
    assert set(bundle) == {WIDGET_MIME, "image/png", "text/plain"}
    assert bundle["text/plain"] == "Controls: height = 1.0, color = red"
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).format == "PNG"


def test_the_image_is_of_the_starting_values_and_the_same_each_time(shown: list[dict[str, Any]]) -> None:
    for value in (0.5, 0.5, 1.5):
        book.live(bar, height=ipywidgets.FloatSlider(value=value, min=0, max=2), color=ipywidgets.fixed("red"))
    images = [bundle["image/png"] for bundle in shown]
    assert images[0] == images[1] != images[2]


def test_moving_a_control_draws_again(shown: list[dict[str, Any]]) -> None:
    heights = []

    def draw(height: float) -> Figure:
        heights.append(height)
        return bar(height)

    slider = ipywidgets.FloatSlider(value=0.5, min=0, max=2)
    book.live(draw, height=slider)
    slider.value = 1.5
    assert heights[0] == 0.5 and heights[-1] == 1.5


def test_no_figure_stays_open(shown: list[dict[str, Any]]) -> None:
    before = plt.get_fignums()
    book.live(bar, height=(0.0, 1.0))
    assert plt.get_fignums() == before


def test_wrong_use_is_explained(shown: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="live\\(\\) needs at least one control"):
        book.live(bar)
    with pytest.raises(ValueError, match="draw must return a matplotlib figure, got NoneType"):
        book.live(lambda height: None, height=(0.0, 1.0))  # type: ignore[arg-type,return-value]
