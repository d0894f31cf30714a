"""Figures for the pages: one PNG that holds the pixels of a matplotlib figure once and their colours twice.

A page is light or dark, and a figure is to look at home on both. `two_palettes` draws a figure a second time with every
colour replaced by `seglib.viz.dark.dark_color`, except inside images, and stores both as *one* PNG of at most 256
colours: its own palette is the light one, a text chunk holds the dark one. Notebooks show the light figure as any other
PNG; the book's Sphinx extension makes the dark one from it. A second chunk says how to stack the panels on a phone
(`seglib.book.panels`).
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg

from seglib.book.palettes import quantize, write_png
from seglib.book.panels import Box, measure, narrow_layout
from seglib.viz.dark import DARK_INK, GROUND, READABLE, RGB, contrast, dark_color, oklab, rgb
from seglib.viz.style import CARD, INK

if TYPE_CHECKING:
    from matplotlib.backend_bases import GraphicsContextBase
    from matplotlib.figure import Figure


def two_palettes(figure: Figure) -> bytes:
    """``figure`` as a PNG with a light and a dark palette, and its narrow layout where it has panels to stack.

    The pixels are those that ``figure.savefig(bbox_inches="tight")`` gives at the figure's resolution, apart from the
    rounding to 256 colours. Nothing of the figure is changed.

    `seglib.book.setup` makes this the form of figures where `seglib.book.notebooks` runs a chapter for the pages. In
    Jupyter, in Colab and in tests they stay as matplotlib draws them.
    """
    drawn = draw_twice(figure)
    indices, light, dark = quantize(drawn.light, drawn.dark, drawn.images)
    layout = narrow_layout(drawn.boxes, drawn.light)
    return write_png(indices, light, dark, None if layout is None else layout.as_json())


# Drawing


@dataclass(frozen=True)
class Drawn:
    """A figure, drawn light and dark.

    Attributes:
        light: ``(H, W, 3)`` uint8.
        dark: ``(H, W, 3)`` uint8, equal to ``light`` inside images.
        images: ``(H, W)`` bool, the pixels of images.
        boxes: what stands where, for `seglib.book.panels.narrow_layout`.
    """

    light: np.ndarray
    dark: np.ndarray
    images: np.ndarray
    boxes: list[Box]


@dataclass
class _Seen:
    """What the first drawing notes for the second."""

    shown: np.ndarray  # (H, W) bool: pixels of images
    keys: set[RGB] = field(default_factory=set)  # colours of areas in legends
    areas: set[RGB] = field(default_factory=set)  # colours of areas elsewhere
    lines: set[RGB] = field(default_factory=set)


def draw_twice(figure: Figure) -> Drawn:
    """Draw ``figure`` in its own colours and in those of dark pages."""
    before = figure.canvas
    canvas = _Canvas(figure)
    try:
        canvas.print_figure(
            io.BytesIO(),
            format="png",
            dpi=figure.dpi,
            facecolor=figure.get_facecolor(),
            edgecolor=figure.get_edgecolor(),
            bbox_inches="tight",
        )
    finally:
        figure.set_canvas(before)
    assert canvas.drawn is not None
    return canvas.drawn


class _Canvas(FigureCanvasAgg):
    """Keeps what it would print. It draws the second time where matplotlib has cut the figure to its contents."""

    drawn: Drawn | None = None

    def print_png(self, filename_or_obj: Any, **ignored: Any) -> None:
        """Called twice: the first time matplotlib interrupts ``figure.draw`` to measure, the second time it draws."""
        width, height = (int(side) for side in self.figure.bbox.size)
        seen = _Seen(np.zeros((height, width), dtype=bool))
        self.renderer = renderer = _Watcher(width, height, self.figure.dpi, seen)
        self.figure.draw(renderer)
        light = _pixels(renderer, rgb(CARD))
        boxes = measure(self.figure, renderer, height)
        second = _Darkener(width, height, self.figure.dpi, seen)
        self.figure.draw(second)
        dark = _pixels(second, rgb(GROUND))
        dark[seen.shown] = light[seen.shown]
        self.drawn = Drawn(light, dark, seen.shown, boxes)

    def get_renderer(self) -> Any:
        """The renderer of the last drawing: matplotlib asks for it when it measures text."""
        return self.renderer if hasattr(self, "renderer") else super().get_renderer()


def _pixels(renderer: RendererAgg, ground: RGB) -> np.ndarray:
    """``(H, W, 3)`` uint8; where the figure is transparent, on ``ground``."""
    rgba = np.asarray(renderer.buffer_rgba())
    alpha = rgba[..., 3:] / 255  # Agg's colours are not premultiplied
    if (alpha == 1).all():
        return rgba[..., :3].copy()
    return (rgba[..., :3] * alpha + np.array(ground) * 255 * (1 - alpha) + 0.5).astype(np.uint8)


class _Watcher(RendererAgg):
    """Draws as usual and notes where images lie and which colours stand where."""

    def __init__(self, width: int, height: int, dpi: float, seen: _Seen) -> None:
        self.seen = seen
        self.in_legend = 0
        super().__init__(width, height, dpi)

    def open_group(self, s: str, gid: str | None = None) -> None:
        """Matplotlib names here what it is about to draw."""
        self.in_legend += s == "legend"

    def close_group(self, s: str) -> None:
        """The end of what `open_group` named."""
        self.in_legend -= s == "legend"

    def _update_methods(self) -> None:
        """Matplotlib stores the compiled methods on the object; put ours around them."""
        super()._update_methods()
        self.agg_image, self.agg_mesh = self.draw_image, self.draw_quad_mesh
        self.agg_markers, self.agg_collection = self.draw_markers, self.draw_path_collection
        ours = {
            "image": self._image,
            "quad_mesh": self._mesh,
            "markers": self._markers,
            "path_collection": self._collection,
        }
        for name, method in ours.items():
            setattr(self, f"draw_{name}", method)

    def _image(self, gc: GraphicsContextBase, x: float, y: float, im: np.ndarray, *rest: Any) -> None:
        """Notes the pixels of an image ``(H, W, 4)``, but not of one that is nothing but paper."""
        colors = im[::4, ::4, :3].reshape(-1, 3)
        if (colors < 240).any() or len(np.unique(colors, axis=0)) > 8:
            self._note(gc, round(x), round(y), im[::-1, :, 3] > 0)  # its rows run upwards
        self.agg_image(gc, x, y, im, *rest)

    def _mesh(self, gc: GraphicsContextBase, master: Any, columns: int, rows: int, corners: Any, *rest: Any) -> None:
        """A mesh (``pcolormesh``, the gradient of a colour bar) is an image too."""
        points = master.transform(np.asarray(corners, dtype=float).reshape(-1, 2))
        (x0, y0), (x1, y1) = np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int)
        self._note(gc, x0, y0, np.ones((y1 - y0, x1 - x0), dtype=bool))
        self.agg_mesh(gc, master, columns, rows, corners, *rest)

    def _note(self, gc: GraphicsContextBase, x: int, y: int, opaque: np.ndarray) -> None:
        """Add ``opaque``, whose lower left corner is (x, y), where the clip rectangle lets it be seen."""
        height, width = self.seen.shown.shape
        left, bottom, right, top = x, y, x + opaque.shape[1], y + opaque.shape[0]
        clip = gc.get_clip_rectangle()
        limits = (0, 0, width, height) if clip is None else [round(v) for v in (clip.x0, clip.y0, clip.x1, clip.y1)]
        x0, y0 = max(left, limits[0], 0), max(bottom, limits[1], 0)
        x1, y1 = min(right, limits[2], width), min(top, limits[3], height)
        if x1 > x0 and y1 > y0:
            part = opaque[top - y1 : top - y0, x0 - left : x1 - left]  # rows run downwards
            self.seen.shown[height - y1 : height - y0, x0:x1] |= part

    def _see(self, face: Any) -> None:
        if face is not None:
            (self.seen.keys if self.in_legend else self.seen.areas).add(_key(face))

    def draw_path(self, gc: GraphicsContextBase, path: Any, transform: Any, rgbFace: Any = None) -> None:
        """Lines and areas."""
        self._see(rgbFace)
        if not self.in_legend:
            self.seen.lines.add(_key(gc.get_rgb()))
        super().draw_path(gc, path, transform, rgbFace)

    def _markers(
        self, gc: GraphicsContextBase, marker: Any, where: Any, path: Any, transform: Any, face: Any = None
    ) -> None:
        """The points of a line."""
        self._see(face)
        self.agg_markers(gc, marker, where, path, transform, face)

    def _collection(self, *rest: Any, **more: Any) -> None:
        """Scattered points, filled areas: their colours are the seventh argument, ``(N, 4)``."""
        for face in np.unique(np.asarray(rest[_FACES]).reshape(-1, 4), axis=0):
            self._see(face)
        self.agg_collection(*rest, **more)


_FACES, _EDGES = 6, 7  # places of the colours among the arguments of draw_path_collection


def _key(color: Any) -> RGB:
    return tuple(round(float(c), 4) for c in color[:3])  # type: ignore[return-value]


class _Darkener(_Watcher):
    """Draws everything but images in the colours of a dark page."""

    def _image(self, *rest: Any) -> None:
        self.agg_image(*rest)

    def _mesh(self, *rest: Any) -> None:
        self.agg_mesh(*rest)

    def __init__(self, width: int, height: int, dpi: float, seen: _Seen) -> None:
        self.in_ramp = _ramps(seen.areas | seen.keys)
        # Swatches that no area or line has: they stand for colours inside images, and keep them.
        self.kept = seen.keys - seen.areas - seen.lines - _NEUTRAL if seen.shown.any() else set()
        super().__init__(width, height, dpi, seen)

    def _turned(self, color: Any) -> Any:
        key = _key(color)
        return (*dark_color(key, ramp=key in self.in_ramp), *color[3:])

    def _face(self, face: Any) -> Any:
        if face is None or (self.in_legend and _key(face) in self.kept):
            return face
        return self._turned(face)

    def _context(self, gc: GraphicsContextBase, color: Any = None) -> Any:
        other: Any = self.new_gc()
        other.copy_properties(gc)
        other._rgb = self._turned(gc.get_rgb()) if color is None else color
        if gc.get_hatch_color() is not None:
            other._hatch_color = self._turned(gc.get_hatch_color())
        return other

    def draw_path(self, gc: GraphicsContextBase, path: Any, transform: Any, rgbFace: Any = None) -> None:
        """Lines and areas."""
        RendererAgg.draw_path(self, self._context(gc), path, transform, self._face(rgbFace))

    def _markers(
        self, gc: GraphicsContextBase, marker: Any, where: Any, path: Any, transform: Any, face: Any = None
    ) -> None:
        self.agg_markers(self._context(gc), marker, where, path, transform, self._face(face))

    def _collection(self, gc: GraphicsContextBase, *rest: Any, **more: Any) -> None:
        parts = list(rest)
        for place in (_FACES - 1, _EDGES - 1):
            parts[place] = self._all_turned(parts[place])
        if "hatchcolors" in more:
            more["hatchcolors"] = self._all_turned(more["hatchcolors"])
        self.agg_collection(self._context(gc), *parts, **more)

    def _all_turned(self, colors: Any) -> np.ndarray:
        return np.array([self._turned(color) for color in np.asarray(colors)]).reshape(-1, 4)

    def draw_text(
        self,
        gc: GraphicsContextBase,
        x: float,
        y: float,
        s: str,
        prop: Any,
        angle: float,
        ismath: Any = False,
        mtext: Any = None,
    ) -> None:
        """Text, in a colour that can be read on what it stands on."""
        own = _key(gc.get_rgb())
        behind = self._behind(x, y, s, prop, angle, ismath)
        choices = [dark_color(own, text=True), own, rgb(DARK_INK), rgb(INK)]
        on_ground = contrast(behind, rgb(GROUND)) < 1.2
        wanted = min(READABLE, contrast(own, rgb(CARD))) if on_ground else READABLE
        best = next((c for c in choices if contrast(c, behind) >= wanted), None)
        best = best or max(choices, key=lambda c: contrast(c, behind))
        other = self._context(gc, (*best, *gc.get_rgb()[3:]))
        super().draw_text(other, x, y, s, prop, angle, ismath, mtext)

    def _behind(self, x: float, y: float, s: str, prop: Any, angle: float, ismath: Any) -> RGB:
        """The median colour under a piece of text that starts at (x, y), in pixels from the upper left."""
        width, height, descent = self.get_text_width_height_descent(s, prop, ismath)
        turn = np.deg2rad(angle)
        along, up = np.array([np.cos(turn), -np.sin(turn)]), np.array([-np.sin(turn), -np.cos(turn)])
        corners = [np.array([x, y]) + a * along + b * up for a in (0, width) for b in (-descent, height - descent)]
        (x0, y0), (x1, y1) = np.min(corners, axis=0), np.max(corners, axis=0)
        pixels = np.asarray(self.buffer_rgba())
        part = pixels[max(int(y0), 0) : max(int(y1) + 1, 0), max(int(x0), 0) : max(int(x1) + 1, 0)].reshape(-1, 4)
        part = part[part[:, 3] > 0]
        if len(part) == 0:
            return rgb(GROUND)
        return tuple((np.median(part[:, :3], axis=0) / 255).tolist())


def _ramps(colors: set[RGB]) -> set[RGB]:
    """The colours of scales that run from pale to deep in one hue: their order must survive."""
    found: set[RGB] = set()
    labs = {color: oklab(color) for color in sorted(colors)}
    hued = {c: lab for c, lab in labs.items() if np.hypot(*lab[1:]) > 0.02}
    for one in hued.values():
        near = [
            c for c, lab in hued.items() if one[1:] @ lab[1:] > np.cos(0.4) * np.hypot(*one[1:]) * np.hypot(*lab[1:])
        ]
        lightness = [labs[c][0] for c in near]
        if len(near) >= 4 and max(lightness) - min(lightness) > 0.35:
            found.update(near)
    return found


_NEUTRAL = {_key(rgb(color)) for color in (CARD, INK, "#FFFFFF", "#000000")}
