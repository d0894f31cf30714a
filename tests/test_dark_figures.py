"""Figures on dark pages and on phones: colours, the PNG with two palettes, stacked panels, the pages' markup."""

from __future__ import annotations

import base64
import io
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from browser import ROOT, Visit
from matplotlib.figure import Figure
from PIL import Image

from seglib import viz
from seglib.book.normalise import normalise
from seglib.book.page_figures import draw_twice, two_palettes
from seglib.book.palettes import DARK_CHUNK, PageFigure, quantize, read_png, write_png
from seglib.book.panels import WIDTH, Box, narrow_layout, stack
from seglib.viz.dark import GROUND, contrast, dark_color, oklab, rgb
from seglib.viz.style import CARD, CYCLE, FAINT, INK

RED = np.array([255, 0, 0], dtype=np.uint8)


@pytest.fixture(autouse=True)
def own_figures() -> Iterator[None]:
    matplotlib.use("agg")
    with matplotlib.rc_context():
        viz.style()
        yield
    plt.close("all")


def hue(color: tuple[float, float, float]) -> float:
    return float(np.degrees(np.arctan2(*oklab(color)[:0:-1])))


def near(pixels: np.ndarray, color: str | np.ndarray, by: int = 6) -> np.ndarray:
    """Which pixels ``(H, W, 3)`` have that colour."""
    wanted = np.array(rgb(color)) * 255 if isinstance(color, str) else color
    return np.asarray(np.abs(pixels.astype(float) - wanted).max(-1) <= by)


def page_figure(figure: Figure) -> PageFigure:
    read = read_png(two_palettes(figure))
    assert read is not None
    return read


# Colours


@pytest.mark.parametrize("color", [*CYCLE, INK, "#6B7280"])
def test_what_stands_out_on_paper_stands_out_on_a_dark_page(color: str) -> None:
    light, line = contrast(rgb(color), rgb(CARD)), contrast(dark_color(rgb(color)), rgb(GROUND))
    assert line >= 3
    assert contrast(dark_color(rgb(color), text=True), rgb(GROUND)) >= max(line, min(light, 4.5) - 0.05)


def test_paper_becomes_the_ground_and_ink_is_easy_to_read() -> None:
    assert np.allclose(dark_color(rgb(CARD)), rgb(GROUND), atol=1 / 255)
    assert contrast(dark_color(rgb(INK)), rgb(GROUND)) > 10
    assert 1.2 < contrast(dark_color(rgb(FAINT)), rgb(GROUND)) < 2  # the grid stays faint


@pytest.mark.parametrize("color", CYCLE[:-1])
def test_colours_keep_their_names(color: str) -> None:
    turned = dark_color(rgb(color))
    assert abs((hue(turned) - hue(rgb(color)) + 180) % 360 - 180) < 6
    assert abs(oklab(turned)[0] - oklab(rgb(color))[0]) < 0.1


# What people with each dichromacy see: Machado, Oliveira and Fernandes, IEEE TVCG 2009, severity 1, in linear RGB.
DICHROMACIES = {
    "none": [1, 0, 0, 0, 1, 0, 0, 0, 1],
    "protan": [0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998],
    "deutan": [0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.01182, 0.04294, 0.968881],
    "tritan": [1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.3039],
}


@pytest.mark.parametrize("sight", DICHROMACIES)
def test_lines_can_be_told_apart_about_as_well_as_on_paper(sight: str) -> None:
    def seen(color: tuple[float, float, float]) -> np.ndarray:
        c = np.array(color)
        linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        linear = (np.reshape(DICHROMACIES[sight], (3, 3)) @ linear).clip(0, 1)
        return oklab(tuple(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)))

    def closest(colors: list[tuple[float, float, float]]) -> float:
        return min(float(np.linalg.norm(seen(a) - seen(b))) for a, b in itertools.combinations(colors, 2))

    light = [rgb(c) for c in CYCLE]
    assert closest([dark_color(c) for c in light]) > 0.7 * closest(light)


def test_a_scale_from_pale_to_deep_keeps_its_order() -> None:
    blues = [rgb(c) for c in ("#084594", "#2171B5", "#6BAED6", "#BDD7E7", "#EFF3FF")]
    lightness = [oklab(dark_color(c, ramp=True))[0] for c in blues]
    assert lightness == sorted(lightness, reverse=True)


def test_the_ground_is_that_of_the_pages() -> None:
    css = (ROOT / "chapters" / "_static" / "book.css").read_text()
    assert f"--pst-color-background: {GROUND.lower()};" in css


# Drawing


def test_the_light_figure_is_matplotlibs_own() -> None:
    figure, ax = plt.subplots(figsize=(4, 2.5))
    ax.plot([0, 1], [1, 0])
    ax.set(title="a", xlabel="x")
    drawn, buffer = draw_twice(figure), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi, bbox_inches="tight")
    assert np.array_equal(drawn.light, np.array(Image.open(buffer).convert("RGB")))


def test_drawing_changes_nothing_of_the_figure() -> None:
    figure, ax = plt.subplots()
    (line,) = ax.plot([0, 1])
    canvas, colors = figure.canvas, (line.get_color(), ax.get_facecolor(), figure.get_facecolor())
    first = two_palettes(figure)
    assert figure.canvas is canvas
    assert (line.get_color(), ax.get_facecolor(), figure.get_facecolor()) == colors
    assert two_palettes(figure) == first


def test_paper_and_ink_turn_over_and_lines_keep_their_hue() -> None:
    figure, ax = plt.subplots(figsize=(4, 2.5))
    ax.plot([0, 1], [1, 0], linewidth=6)
    drawn = draw_twice(figure)
    line = near(drawn.light, CYCLE[0])
    assert near(drawn.dark, GROUND).mean() > 0.5 and not near(drawn.dark, CARD).any()
    assert near(drawn.dark[line], np.array(dark_color(rgb(CYCLE[0]))) * 255).all()


def test_smooth_edges_stay_smooth() -> None:
    figure, ax = plt.subplots(figsize=(3, 3))
    ax.axis("off")
    ax.plot([0, 1], [0, 0.3], linewidth=8, color="black")
    figure_ = page_figure(figure)
    dark = figure_.dark[figure_.indices].astype(int).mean(2)
    light = figure_.light[figure_.indices].astype(int).mean(2)
    order = np.argsort(light.ravel())
    assert (np.diff(dark.ravel()[order]) <= 12).all()  # the darker on paper, the lighter at night, in small steps
    assert len(np.unique(dark)) >= 0.8 * len(np.unique(light)) > 4


@pytest.mark.parametrize("origin", ["upper", "lower"])
def test_images_stay_as_they_are(origin: Any) -> None:
    pixels = np.random.default_rng(0).random((6, 6, 3))
    pixels[0] = [1, 0, 0]
    figure, (ax, chart) = plt.subplots(1, 2, figsize=(6, 3))
    ax.imshow(pixels, origin=origin)
    ax.grid(False)
    ax.text(2, 2, "ink", color=INK)
    chart.plot([0, 1])
    drawn = draw_twice(figure)
    red = near(drawn.light, RED, 0)
    assert red.sum() > 500
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    height = int(len(columns))  # the image is square
    top = rows[0] if origin == "upper" else rows[-1] - height + 1
    inside = np.s_[top + 2 : top + height - 2, columns[0] + 2 : columns[-1] - 2]
    assert np.array_equal(drawn.light[inside], drawn.dark[inside])
    assert near(drawn.dark[:, columns[-1] + 12 :], GROUND).mean() > 0.5


def test_where_an_image_is_transparent_the_page_shows() -> None:
    values = np.full((4, 4), np.nan)
    values[0] = 1
    figure, ax = plt.subplots(figsize=(3, 3))
    ax.imshow(values)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    drawn = draw_twice(figure)
    height, width = drawn.dark.shape[:2]
    assert np.array_equal(drawn.dark[height // 6, width // 2], drawn.light[height // 6, width // 2])
    assert near(drawn.dark[int(0.7 * height) :, width // 2], GROUND).mean() > 0.8


def test_the_gradient_of_a_colour_bar_stays() -> None:
    figure, ax = plt.subplots(figsize=(4, 3))
    shown = ax.imshow(np.arange(16.0).reshape(4, 4), cmap="Greys")
    figure.colorbar(shown, ax=ax)
    drawn = draw_twice(figure)
    column = drawn.light.shape[1] - 45  # through the bar
    middle = drawn.light.shape[0] // 2
    columns = [
        c
        for c in range(column - 30, column + 30)
        if len(np.unique(drawn.light[middle - 60 : middle + 60, c], axis=0)) > 60
    ]
    assert columns
    for c in columns:
        part = np.s_[middle - 60 : middle + 60, c]
        assert (drawn.light[part] == drawn.dark[part]).all(1).mean() > 0.95


def test_text_on_a_filled_area_can_be_read() -> None:
    figure, ax = plt.subplots(figsize=(4, 3))
    ax.barh([0, 1, 2], [1, 1, 1], color=[CYCLE[5], "#D6E9F5", CYCLE[0]])
    for y, color in enumerate((INK, INK, "white")):
        ax.text(0.5, y, "MMMM", color=color, va="center", ha="center", fontsize=14, fontweight="bold")
    drawn = draw_twice(figure)
    for name, pixels in (("light", drawn.light), ("dark", drawn.dark)):
        for y in range(3):
            row = int((0.735 - 0.279 * y) * pixels.shape[0])
            part = pixels[row - 12 : row + 12, pixels.shape[1] // 2 - 30 : pixels.shape[1] // 2 + 40].reshape(-1, 3)
            colors, counts = np.unique(part, axis=0, return_counts=True)
            ground = tuple(colors[counts.argmax()] / 255)
            assert max(contrast(tuple(c / 255), ground) for c in colors) >= 4.5, (name, y)


def test_the_key_of_an_images_classes_keeps_their_colours() -> None:
    figure, ax = plt.subplots(figsize=(3, 3))
    ax.imshow(np.random.default_rng(0).random((4, 4, 3)))
    figure.legend(handles=[matplotlib.patches.Patch(facecolor="#804020", label="a")], loc="outside lower center")
    assert near(draw_twice(figure).dark, "#804020").sum() > 50


# Colours in the file


def test_a_line_keeps_its_colour_beside_a_photograph() -> None:
    figure, (ax, chart) = plt.subplots(1, 2, figsize=(8, 4))
    ax.imshow(np.random.default_rng(0).random((300, 300, 3)))
    for i in range(7):
        chart.plot([0, 1], [i, i], linewidth=3)
    read = page_figure(figure)
    for color in CYCLE:
        assert near(read.light[read.indices], color, 8).sum() > 200, color
        assert near(read.dark[read.indices], np.array(dark_color(rgb(color))) * 255, 8).sum() > 200, color


def test_few_colours_are_kept_exactly() -> None:
    light = np.random.default_rng(0).integers(0, 4, (20, 20, 3), dtype=np.uint8) * 80
    dark = 255 - light
    indices, first, second = quantize(light, dark, np.zeros((20, 20), dtype=bool))
    assert np.array_equal(first[indices], light) and np.array_equal(second[indices], dark)


def test_many_colours_are_kept_closely_and_in_256() -> None:
    ramp = np.linspace(0, 255, 256).astype(np.uint8)
    light = np.stack([*np.meshgrid(ramp, ramp), np.full((256, 256), 90)], 2).astype(np.uint8)
    indices, first, second = quantize(light, light, np.ones((256, 256), dtype=bool))
    assert len(first) <= 256 and np.array_equal(first, second)
    assert np.abs(first[indices].astype(int) - light).mean() < 8


def test_a_file_holds_all_that_was_written() -> None:
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4) % 5
    light, dark = (np.random.default_rng(i).integers(0, 256, (5, 3), dtype=np.uint8) for i in range(2))
    read = read_png(write_png(indices, light, dark, '{"size":[2,1],"copies":[]}'))
    assert read is not None and read.narrow == {"size": [2, 1], "copies": []}
    assert np.array_equal(read.indices, indices)
    assert np.array_equal(read.light, light) and np.array_equal(read.dark, dark)


def test_any_other_png_is_none_of_ours() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "png")
    assert read_png(buffer.getvalue()) is None
    assert read_png(write_png(np.zeros((2, 2), np.uint8), np.zeros((1, 3), np.uint8))) is None


def test_a_notebook_stores_the_file_as_it_is() -> None:
    figure, ax = plt.subplots()
    ax.plot([0, 1])
    png = base64.b64encode(two_palettes(figure)).decode()
    cell = nbformat.v4.new_code_cell("plot()", outputs=[nbformat.v4.new_output("display_data", {"image/png": png})])
    stored = nbformat.reads(normalise(nbformat.v4.new_notebook(cells=[cell])), 4).cells[-1]
    assert stored.outputs[0].data["image/png"] == png


# Panels


def narrow(figure: Figure) -> tuple[np.ndarray, dict[str, Any], PageFigure]:
    read = page_figure(figure)
    assert read.narrow is not None
    return stack(read.indices, read.narrow, int(read.indices[0, 0])), read.narrow, read


def test_panels_side_by_side_stack() -> None:
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.8))
    for i, ax in enumerate(axes):
        ax.plot([0, 1], color=CYCLE[i], linewidth=4)
    pixels, layout, read = narrow(figure)
    assert layout["size"][0] <= WIDTH < read.indices.shape[1]
    rows = [np.flatnonzero(near(read.light[pixels], color).any(1)).mean() for color in CYCLE[:3]]
    assert rows == sorted(rows) and rows[1] - rows[0] > 150


def test_small_panels_stand_two_in_a_line() -> None:
    figure, axes = plt.subplots(1, 4, figsize=(10, 2.6))
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    _, layout, read = narrow(figure)
    assert len(layout["copies"]) == 4
    assert len({y for *_, y in layout["copies"]}) == 2
    assert layout["size"][0] < 0.7 * read.indices.shape[1]


def test_nothing_but_paper_is_lost_and_nothing_is_cut() -> None:
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.8))
    for ax in axes:
        ax.plot([0, 1])
        ax.set(title="A title", xlabel="steps", ylabel="loss")
    pixels, _, read = narrow(figure)
    paper = read.indices[0, 0]
    assert (pixels != paper).sum() == (read.indices != paper).sum()


def test_shared_labels_are_repeated() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
    axes[0].barh(["first", "second"], [1, 2])
    axes[1].barh(["first", "second"], [2, 1])
    pixels, layout, read = narrow(figure)
    assert len(layout["copies"]) == 3  # both panels, and the labels again
    (x, _, w, h, *_), _, labels = layout["copies"]
    assert labels[0] == x and labels[2] < w and labels[3] < h  # without those of the other axis
    paper = read.indices[0, 0]
    half = pixels.shape[0] // 2
    left = pixels[:, : labels[2]] != paper
    assert left[:half].sum() == pytest.approx(left[half:].sum(), rel=0.15)


def test_labels_that_are_a_panels_own_are_not_repeated() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3))
    axes[0].plot([0, 1])
    axes[1].plot([0, 100])
    assert len(narrow(figure)[1]["copies"]) == 2


def test_the_titles_of_columns_stay_above_them() -> None:
    figure, axes = plt.subplots(2, 3, figsize=(7.5, 5.3))
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    for ax in axes[0]:
        ax.set_title("a column")
    _, layout, read = narrow(figure)
    assert {copy[3] for copy in layout["copies"]} == {layout["copies"][0][3]}
    assert layout["copies"][0][3] > 0.9 * read.indices.shape[0]


def test_a_colour_bar_stays_with_its_panel() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3))
    figure.colorbar(axes[0].imshow(np.eye(4)), ax=axes[0])
    axes[1].plot([0, 1])
    assert len(narrow(figure)[1]["copies"]) == 2


def test_a_long_title_and_a_wide_key_break_into_lines() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3))
    for ax in axes:
        ax.plot([0, 1])
    figure.suptitle("A title of so many words that a phone must show it in more than one line, whatever it says")
    handles = [matplotlib.patches.Patch(facecolor=c, label=f"class {c}") for c in CYCLE]
    figure.legend(handles=handles, ncols=7, loc="outside lower center")
    pixels, layout, read = narrow(figure)
    assert layout["size"][0] < 1.1 * WIDTH
    paper = read.indices[0, 0]
    assert (pixels != paper).sum() == (read.indices != paper).sum()


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plt.subplots(figsize=(9, 3))[0],
        lambda: plt.subplots(1, 2, figsize=(4.5, 2))[0],
        lambda: plt.subplots(3, 1, figsize=(9, 6))[0],
    ],
    ids=["one panel", "narrow already", "one column"],
)
def test_what_needs_no_stacking_gets_none(draw: Callable[[], Figure]) -> None:
    assert page_figure(draw()).narrow is None


def test_panels_joined_by_a_line_stay_together() -> None:
    figure, (a, b) = plt.subplots(1, 2, figsize=(9, 3))
    figure.add_artist(
        matplotlib.patches.ConnectionPatch((0.5, 0.5), (0.5, 0.5), "data", "data", axesA=a, axesB=b, color="red")
    )
    assert page_figure(figure).narrow is None


def test_a_line_that_crosses_the_cut_forbids_it() -> None:
    light = np.full((100, 900, 3), 250, dtype=np.uint8)
    boxes = [Box((10, 10, 440, 90), inner=(10, 10, 440, 90)), Box((460, 10, 890, 90), inner=(460, 10, 890, 90))]
    assert narrow_layout(boxes, light) is not None
    light[50, 100:800] = 0
    assert narrow_layout(boxes, light) is None


# In the kernel and on the pages


def test_figures_change_their_form_only_where_chapters_run_for_the_pages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    from seglib import book
    from seglib.book.setup import PAGES

    shell = InteractiveShell()
    monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: shell)
    formatter = shell.display_formatter.formatters["image/png"]
    monkeypatch.delenv(PAGES, raising=False)
    book.setup()
    assert Figure not in formatter.type_printers
    monkeypatch.setenv(PAGES, "1")
    book.setup()
    figure, ax = plt.subplots()
    ax.plot([0, 1])
    shown = formatter(figure)
    assert read_png(base64.b64decode(shown)) is not None


def small_page(folder: Path, figure: bytes) -> Path:
    """A page with one figure as Sphinx writes it, made ready by the extension; the folder."""
    sys.path.insert(0, str(ROOT / "chapters" / "_ext"))
    try:
        from bookfigures import show_both_modes
    finally:
        sys.path.pop(0)
    (folder / "_images").mkdir()
    (folder / "_images" / "0123.png").write_bytes(figure)
    (folder / "a.html").write_text(
        '<figure><img alt="Two lines." src="_images/0123.png" /><figcaption>x</figcaption></figure>'
    )
    assert show_both_modes(folder) == 1
    return folder


def test_a_page_gets_a_picture_for_each_mode_and_for_phones(tmp_path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3))
    for ax in axes:
        ax.plot([0, 1])
    text = (small_page(tmp_path, two_palettes(figure)) / "a.html").read_text()
    assert text.count("<picture") == 2 and text.count('alt="Two lines."') == 2 and text.count('loading="lazy"') == 2
    names = set(re.findall(r'(?:src|srcset)="([^"]+)"', text))
    assert names == {f"_images/0123{e}.png" for e in ("", "-dark", "-narrow", "-narrow-dark")}
    for name in names:
        with Image.open(tmp_path / name) as image:
            assert f'{name}" width="{image.width}" height="{image.height}"' in text
            assert image.mode == "P"
    light, dark = (np.array(Image.open(tmp_path / f"_images/0123{e}.png").convert("RGB")) for e in ("", "-dark"))
    assert near(light, CARD).mean() > 0.5 and near(dark, GROUND).mean() > 0.5
    assert DARK_CHUNK not in (tmp_path / "_images" / "0123-dark.png").read_bytes().decode("latin-1")


def test_making_a_page_ready_twice_changes_nothing(tmp_path: Path) -> None:
    figure, ax = plt.subplots()
    ax.plot([0, 1])
    folder = small_page(tmp_path, two_palettes(figure))
    before = (folder / "a.html").read_text()
    from bookfigures import show_both_modes

    show_both_modes(folder)
    assert (folder / "a.html").read_text() == before


def test_a_figure_without_a_dark_palette_stays_as_it_is(tmp_path: Path) -> None:
    from bookfigures import show_both_modes

    (tmp_path / "_images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "_images" / "0123.png")
    (tmp_path / "a.html").write_text('<img alt="A dot." src="_images/0123.png" />')
    assert show_both_modes(tmp_path) == 0
    assert (tmp_path / "a.html").read_text() == '<img alt="A dot." src="_images/0123.png" />'


@pytest.mark.parametrize("path", sorted((ROOT / "chapters").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_stored_figure_of_a_chapter_has_both_palettes(path: Path) -> None:
    cells = nbformat.read(path, 4).cells
    pngs = [o.data["image/png"] for c in cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    missing = [i for i, png in enumerate(pngs, 1) if read_png(base64.b64decode(png)) is None]
    assert missing == [], "run `python -m seglib.book.notebooks run` on it"


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_and_loads_one_of_the_copies(
    dark: bool, width: int, book_url: str, open_page: Callable[..., Visit]
) -> None:
    visit = open_page("about:blank", dark=dark, width=width)
    loaded: list[str] = []
    visit.page.on("request", lambda request: loaded.append(request.url))
    visit.page.goto(f"{book_url}/chapters/05_atrous.html", wait_until="load")
    visit.page.evaluate(
        "for (const e of document.querySelectorAll('[data-params]')) e.dispatchEvent(new CustomEvent('seg-guess-show'))"
    )  # a figure behind an open guess waits
    images = visit.page.locator(".two-modes img:visible")
    assert images.count() == visit.page.locator(".two-modes").count() > 5
    for i in range(images.count()):
        images.nth(i).scroll_into_view_if_needed()
    visit.page.wait_for_function(
        "[...document.querySelectorAll('.two-modes img')].every(i => !i.checkVisibility() || i.complete)"
    )
    names = [url.rsplit("/", 1)[1] for url in loaded if "/_images/" in url]
    # Chromium may ask for a figure near the top of the page before it knows the mode.
    assert len(names) > 5 and sum(("-dark" in name) != dark for name in names) <= 2
    assert any("-narrow" in name for name in names) == (width == 390)
    assert visit.problems() == []
