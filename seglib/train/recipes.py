"""How each model is trained when nothing else is asked for."""

from __future__ import annotations

from seglib.train.loop import TrainConfig

TINY = TrainConfig(steps=500, batch_size=16, lr=4e-3, weight_decay=1e-3, warmup=20)

TINY_OBJECTS = TrainConfig(steps=500, batch_size=8, lr=2e-3, weight_decay=1e-3, warmup=20)

TINY_QUERIES = TrainConfig(steps=500, batch_size=8, lr=2e-3, weight_decay=1e-2, warmup=20)

TINY_VOLUMES = TrainConfig(steps=500, batch_size=2, lr=3e-3, weight_decay=1e-3, warmup=20)

VOLUMES = TrainConfig(steps=5000, batch_size=2, lr=1e-3, weight_decay=1e-3, warmup=50, save_every=200)

RECIPES: dict[str, TrainConfig] = {
    "fcn_tiny": TINY,
    "unet_tiny": TINY,
    "deeplab_tiny": TINY,
    "mask_rcnn_tiny": TINY_OBJECTS,
    "condinst_tiny": TINY_OBJECTS,
    "yolact_tiny": TINY_OBJECTS,
    "solov2_tiny": TINY_OBJECTS,
    "panoptic_fpn_tiny": TINY_OBJECTS,
    "mask2former_tiny": TINY_QUERIES,
    "unet3d_tiny": TINY_VOLUMES,
    "unet3d": VOLUMES,
    "unet3d_paper": VOLUMES,
}

DEFAULT = TrainConfig(steps=2000, batch_size=8, lr=1e-3, weight_decay=1e-3, warmup=50, save_every=200)


def recipe(model: str) -> TrainConfig:
    """The training configuration that suits a model of the zoo."""
    return RECIPES.get(model, DEFAULT)
