"""Architecture drawings: a network as the field draws it, with the maps of a real forward pass in its blocks.

``draw`` is the general form; ``fcn``, ``unet``, ``deeplab``, ``fpn``, ``rpn`` and ``mask_rcnn`` know our models.
"""

from seglib.book.figures.architecture.detection import fpn, mask_rcnn, rpn
from seglib.book.figures.architecture.drawing import draw
from seglib.book.figures.architecture.outcome import Outcome
from seglib.book.figures.architecture.parts import Block, Call, Cut, Edge, Group, Note, Scene, Switch, argument, entry
from seglib.book.figures.architecture.semantic import deeplab, fcn, unet

__all__ = [
    "Block", "Call", "Cut", "Edge", "Group", "Note", "Outcome", "Scene", "Switch", "argument", "deeplab", "draw",
    "entry", "fcn", "fpn", "mask_rcnn", "rpn", "unet",
]  # fmt: skip
