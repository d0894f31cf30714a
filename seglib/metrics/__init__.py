"""Metrics: functions on label maps, and accumulators over datasets."""

from seglib.metrics.ap import AveragePrecision
from seglib.metrics.ap_scores import APScores
from seglib.metrics.boundary import (
    BoundaryF1,
    BoundaryIoU,
    BoundaryScores,
    boundary_f1,
    boundary_iou,
    boundary_region,
    boundary_width,
)
from seglib.metrics.coco_json import evaluate_coco
from seglib.metrics.coco_objects import CocoObjects
from seglib.metrics.coco_panoptic import evaluate_coco_panoptic
from seglib.metrics.confusion import ConfusionMatrix, SemanticScores, confusion
from seglib.metrics.detection_errors import DetectionErrors, detection_errors
from seglib.metrics.lesions import LesionScores, lesion_scores
from seglib.metrics.pq import Matches, PanopticQuality, PQMeans, PQScores, match_segments
from seglib.metrics.rand import RandScores, cells, foreground_rand
from seglib.metrics.surface import SurfaceDistances, assd, hausdorff, surface_dice, surface_distances
from seglib.metrics.volumes import VolumeMetrics, VolumeScores, dice, volume_scores

__all__ = [
    "APScores",
    "AveragePrecision",
    "DetectionErrors",
    "detection_errors",
    "BoundaryF1",
    "BoundaryIoU",
    "BoundaryScores",
    "CocoObjects",
    "ConfusionMatrix",
    "LesionScores",
    "Matches",
    "PQMeans",
    "PQScores",
    "PanopticQuality",
    "RandScores",
    "SemanticScores",
    "SurfaceDistances",
    "VolumeMetrics",
    "VolumeScores",
    "assd",
    "boundary_f1",
    "boundary_iou",
    "boundary_region",
    "boundary_width",
    "cells",
    "confusion",
    "dice",
    "evaluate_coco",
    "evaluate_coco_panoptic",
    "foreground_rand",
    "hausdorff",
    "lesion_scores",
    "match_segments",
    "surface_dice",
    "surface_distances",
    "volume_scores",
]
