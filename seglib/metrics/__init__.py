"""Metrics: functions on label maps, and accumulators over datasets."""

from seglib.metrics.boundary import (
    BoundaryF1,
    BoundaryIoU,
    BoundaryScores,
    boundary_f1,
    boundary_iou,
    boundary_region,
    boundary_width,
)
from seglib.metrics.confusion import ConfusionMatrix, SemanticScores, confusion
from seglib.metrics.rand import RandScores, cells, foreground_rand

__all__ = [
    "BoundaryF1",
    "BoundaryIoU",
    "BoundaryScores",
    "ConfusionMatrix",
    "RandScores",
    "SemanticScores",
    "boundary_f1",
    "boundary_iou",
    "boundary_region",
    "boundary_width",
    "cells",
    "confusion",
    "foreground_rand",
]
