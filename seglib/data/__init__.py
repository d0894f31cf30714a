"""Datasets, file reading, augmentation and batching. Every dataset yields :class:`seglib.types.Sample`.

The classes and functions most used are available here; they load their module on first use. ``collate`` is in
``seglib.data.collate``, and every dataset's class table is the ``CATEGORIES`` of its module.
"""

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "AnnotatedSlices": "annotated_slices",
    "CamVid": "camvid",
    "Cityscapes": "cityscapes",
    "CocoInstances": "coco",
    "CocoPanoptic": "coco_panoptic",
    "CopyPaste": "copy_paste",
    "DSB2018": "dsb",
    "DSB2018Kaggle": "dsb",
    "ISBI2012": "isbi",
    "MSD": "msd",
    "NNUNetRaw": "nnunet_raw",
    "OxfordPets": "pets",
    "Patches": "patches",
    "Scenes": "scenes",
    "SegmentationFiles": "folders",
    "SegmentationFolder": "folders",
    "SegmentationStack": "stacks",
    "StoredCases": "cases",
    "VOC2012": "voc",
    "Volumes": "volumes",
    "VoxelFrame": "nifti",
    "check_labels_of_split": "checks",
    "coco_panoptic_annotation": "coco_panoptic",
    "coco_results": "coco",
    "count_labels": "checks",
    "elastic_transform": "microscopy",
    "eval_transform": "transforms",
    "labels_to_files": "class_tables",
    "make_scene": "scenes",
    "make_volume": "volumes",
    "match_categories": "class_tables",
    "read_channels": "nifti",
    "read_frame": "nifti",
    "read_image": "images",
    "read_image_ids": "coco",
    "read_label_volume": "nifti",
    "read_labels": "images",
    "read_volume": "nifti",
    "train_transform": "transforms",
    "volume_transform": "volume_transforms",
    "write_coco_panoptic": "coco_panoptic",
    "write_coco_predictions": "coco_predictions",
    "write_coco_results": "coco",
    "write_label_volume": "nifti",
    "write_msd": "msd",
    "write_nnunet_raw": "nnunet_raw",
    "write_png": "images",
    "write_volume": "nifti",
}

if TYPE_CHECKING:
    from seglib.data.annotated_slices import AnnotatedSlices as AnnotatedSlices
    from seglib.data.camvid import CamVid as CamVid
    from seglib.data.cases import StoredCases as StoredCases
    from seglib.data.checks import check_labels_of_split as check_labels_of_split
    from seglib.data.checks import count_labels as count_labels
    from seglib.data.cityscapes import Cityscapes as Cityscapes
    from seglib.data.class_tables import labels_to_files as labels_to_files
    from seglib.data.class_tables import match_categories as match_categories
    from seglib.data.coco import CocoInstances as CocoInstances
    from seglib.data.coco import coco_results as coco_results
    from seglib.data.coco import read_image_ids as read_image_ids
    from seglib.data.coco import write_coco_results as write_coco_results
    from seglib.data.coco_panoptic import CocoPanoptic as CocoPanoptic
    from seglib.data.coco_panoptic import coco_panoptic_annotation as coco_panoptic_annotation
    from seglib.data.coco_panoptic import write_coco_panoptic as write_coco_panoptic
    from seglib.data.coco_predictions import write_coco_predictions as write_coco_predictions
    from seglib.data.copy_paste import CopyPaste as CopyPaste
    from seglib.data.dsb import DSB2018 as DSB2018
    from seglib.data.dsb import DSB2018Kaggle as DSB2018Kaggle
    from seglib.data.folders import SegmentationFiles as SegmentationFiles
    from seglib.data.folders import SegmentationFolder as SegmentationFolder
    from seglib.data.images import read_image as read_image
    from seglib.data.images import read_labels as read_labels
    from seglib.data.images import write_png as write_png
    from seglib.data.isbi import ISBI2012 as ISBI2012
    from seglib.data.microscopy import elastic_transform as elastic_transform
    from seglib.data.msd import MSD as MSD
    from seglib.data.msd import write_msd as write_msd
    from seglib.data.nifti import VoxelFrame as VoxelFrame
    from seglib.data.nifti import read_channels as read_channels
    from seglib.data.nifti import read_frame as read_frame
    from seglib.data.nifti import read_label_volume as read_label_volume
    from seglib.data.nifti import read_volume as read_volume
    from seglib.data.nifti import write_label_volume as write_label_volume
    from seglib.data.nifti import write_volume as write_volume
    from seglib.data.nnunet_raw import NNUNetRaw as NNUNetRaw
    from seglib.data.nnunet_raw import write_nnunet_raw as write_nnunet_raw
    from seglib.data.patches import Patches as Patches
    from seglib.data.pets import OxfordPets as OxfordPets
    from seglib.data.scenes import Scenes as Scenes
    from seglib.data.scenes import make_scene as make_scene
    from seglib.data.stacks import SegmentationStack as SegmentationStack
    from seglib.data.transforms import eval_transform as eval_transform
    from seglib.data.transforms import train_transform as train_transform
    from seglib.data.voc import VOC2012 as VOC2012
    from seglib.data.volume_transforms import volume_transform as volume_transform
    from seglib.data.volumes import Volumes as Volumes
    from seglib.data.volumes import make_volume as make_volume


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_HOME)
