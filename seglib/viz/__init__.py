"""Images, annotations and results, drawn in one style.

``colorize`` and the ``overlay`` functions need numpy alone and return uint8 arrays, ready for a PNG.
Everything that draws on axes imports matplotlib when it is called (``pip install seglib[book]``).
"""

from seglib.viz.charts import forest, interval95, show_confusion, show_features, show_interval
from seglib.viz.colors import colorize, instance_colors, number_palette, shades
from seglib.viz.figures import grid, legend, show_errors, show_image, show_instances, show_panoptic, show_semantic
from seglib.viz.overlay import overlay, overlay_instances, overlay_panoptic
from seglib.viz.style import CYCLE, style
from seglib.viz.volumes import show_planes

__all__ = [
    "CYCLE",
    "colorize",
    "forest",
    "grid",
    "instance_colors",
    "number_palette",
    "interval95",
    "legend",
    "overlay",
    "overlay_instances",
    "overlay_panoptic",
    "shades",
    "show_confusion",
    "show_errors",
    "show_features",
    "show_image",
    "show_instances",
    "show_interval",
    "show_panoptic",
    "show_planes",
    "show_semantic",
    "style",
]
