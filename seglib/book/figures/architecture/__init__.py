"""Architecture drawings: a network as the field draws it, with the maps of a real forward pass in its blocks.

``draw`` is the general form; ``fcn``, ``unet``, ``deeplab``, ``fpn``, ``rpn``, ``mask_rcnn``, ``yolact``, ``condinst``,
``solov2``, ``panoptic_fpn``, ``mask2former``, ``unet3d``, ``nnunet`` and ``sam`` know our models.
"""

from seglib.book.figures.architecture.detection import fpn, mask_rcnn, rpn
from seglib.book.figures.architecture.drawing import draw
from seglib.book.figures.architecture.mask2former import mask2former
from seglib.book.figures.architecture.one_stage import condinst, solov2, yolact
from seglib.book.figures.architecture.outcome import Outcome
from seglib.book.figures.architecture.panoptic import panoptic_fpn
from seglib.book.figures.architecture.parts import (
    Block,
    Call,
    Cut,
    Edge,
    Group,
    Note,
    Scene,
    Swap,
    Switch,
    argument,
    entry,
)
from seglib.book.figures.architecture.sam import sam
from seglib.book.figures.architecture.semantic import deeplab, fcn, unet
from seglib.book.figures.architecture.volume import nnunet, unet3d

__all__ = [
    "Block", "Call", "Cut", "Edge", "Group", "Note", "Outcome", "Scene", "Swap", "Switch", "argument", "condinst",
    "deeplab", "draw", "entry", "fcn", "fpn", "mask2former", "mask_rcnn", "nnunet", "panoptic_fpn", "rpn", "sam",
    "solov2", "unet", "unet3d", "yolact",
]  # fmt: skip
