"""The experiments behind the book's claims: ``python -m seglib.book.experiments NAME --out FILE``.

An experiment is a module with ``run(*, seeds, steps, ...)``, which returns what is stored. The chapter that makes the
claim runs the same function at a small budget and plots the stored result of the full one.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

EXPERIMENTS: dict[str, str] = {
    "measuring": "Which mistakes does each score notice? Every class in turn is taken out of a model's answers.",
    "fcn_strides": "How much do skips sharpen? fcn_tiny with strides 32, 16, 8 and 4.",
    "fcn_details": "What do the paper's details do? Upsampling learned, fixed or random; scores that start random.",
    "fcn_upsampling": "Is learned upsampling worth it? Fixed, half learned, all learned, from random weights.",
    "unet_skips": "What do U-Net's skips bring? unet_tiny with and without them, and fcn_tiny, which adds scores.",
    "unet_borders": "Does the weight map separate touching cells? unet_tiny on drawn cells, with and without it.",
    "unet_details": "What do the U-Net paper's details do? Norm, initialisation, up-convolutions, a batch of one.",
    "deeplab_strides": "What does a dense map buy? DeepLab at output stride 32, 16 and 8, without and with a decoder.",
    "deeplab_branches": "What does each part of ASPP bring? DeepLab v3 trained without some of its branches.",
    "losses_imbalance": "What does rarity do to a loss? Specks of 10%, 1% and 0.1% of the pixels, several losses.",
    "ap_errors": "What does each type of error cost in AP? And how many images does a difference need?",
    "boxes_pyramid": "What does a pyramid bring? Recall of region proposals from a pyramid and from single maps.",
    "roi_pooling": "What does rounding cost a mask? A mask head behind RoI Pooling and behind RoIAlign, three strides.",
    "roi_position": "How much of RoIAlign's gain is position? Each mask moved to where it fits best.",
    "mask_classes": "Should classes compete for a pixel? A mask head with sigmoids, a softmax, one mask for all.",
    "mask_hole": "What is a hole in a mask? A softmax over classes gives pixels of an object to another class.",
    "broken_stages": "What is each stage of Mask R-CNN worth? The stored detector with one stage broken at a time.",
    "yolact_prototypes": "How many prototypes does a mask need? YOLACT with 4 to 64, behind Fast and standard NMS.",
    "dynamic_coordinates": "What do coordinates bring? CondInst and SOLOv2 with and without them.",
    "grid_collisions": "How often do two objects want one cell of SOLO's grid? Grids of 4 to 64 cells a side.",
    "instance_systems": "Mask R-CNN, YOLACT, CondInst and SOLOv2 on the same scenes: AP, time, ways of NMS.",
    "pq_void_rules": "What does a wrong rule about void or crowds do to PQ? One set of predictions, counted nine ways.",
    "panoptic_interference": "Do things and stuff on one pyramid hinder each other? One network against two.",
    "panoptic_merge_rules": "What does each rule of the merge bring? Panoptic FPN with its rules switched off in turn.",
    "masked_attention": "What does masked attention bring? mask2former_tiny with and without it, three tasks.",
    "query_tasks": "One network for three tasks beside a network for each: mIoU, AP and PQ on the same scenes.",
    "mask_classification": "A class for every pixel, or masks with classes? One network, trained both ways.",
    "set_prediction": "What does each part of set prediction bring? Queries that find marbles, one change at a time.",
    "volume_dims": "What does the third axis bring? Slices, slices with neighbours and volumes at one budget.",
    "volume_sampling": "How should patches be chosen when lesions are small? Shares of foreground patches.",
    "nnunet_ingredients": "What is each ingredient of nnU-Net worth? The whole recipe, and without each in turn.",
    "nnunet_folds": "What do five folds bring? Networks of five folds alone and together.",
    "sam_clicks": "How good is a mask after one prompt, and after more? Points, boxes and masks as prompts.",
    "sam_ambiguity": "One answer to a click, or three? Clicks that mean an object, its group or its class.",
    "sam_unseen": "Does a click find what training never asked for? With and without two classes of things.",
    "sam_limits": "What does a promptable model do badly? Thin things of scenes, slices of CTs.",
    "sam_decoder": "Is it enough to fine-tune the decoder? From scenes to slices of CTs.",
    "sam_photo": "What does a model of synthetic scenes make of real photos? Clicks, boxes, everything mode.",
    "scoreboard": "What does every system of the book score, and what does it cost? All tiny systems side by side.",
    "explorer": "What does every system answer to the same twenty scenes, and where do they disagree?",
    "volume_sparse": "How many slices must an expert annotate? 1, 2, 4 and all 32 of each volume.",
}
"""Name of an experiment, which is a module of this package, → its question."""


def experiment(name: str) -> Callable[..., dict[str, Any]]:
    """The ``run`` function of an experiment.

    Raises:
        ValueError: when there is no such experiment.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"experiment {name!r} is unknown; choose one of {', '.join(EXPERIMENTS)}")
    return import_module(f"{__name__}.{name}").run
