"""How each model is trained when nothing else is asked for."""

from __future__ import annotations

from dataclasses import replace

from seglib.train.loop import TrainConfig

TINY = TrainConfig(steps=500, batch_size=16, lr=4e-3, weight_decay=1e-3, warmup=20)

TINY_OBJECTS = TrainConfig(steps=500, batch_size=8, lr=2e-3, weight_decay=1e-3, warmup=20)

TINY_QUERIES = TrainConfig(steps=500, batch_size=8, lr=2e-3, weight_decay=1e-2, warmup=20)

TINY_VOLUMES = TrainConfig(steps=500, batch_size=2, lr=3e-3, weight_decay=1e-3, warmup=20)

VOLUMES = TrainConfig(steps=5000, batch_size=2, lr=1e-3, weight_decay=1e-3, warmup=50, save_every=200)

NNUNET = TrainConfig(
    steps=250_000, batch_size=2, lr=0.01, optimizer="sgd", momentum=0.99, weight_decay=3e-5, decay_all=True, clip=12.0,
    eval_every=12_500, save_every=250,
)  # fmt: skip
"""nnU-Net's: 1,000 epochs of 250 steps, and no warm-up. The plan of a data set says the batch size.

Its learning rate falls once an epoch, here every step; it draws the cases of each batch with replacement, here every
case comes as often as the others. Source: Isensee et al., "nnU-Net", Nature Methods 2021, supplementary note 4, and its
version 2.
"""

TINY_NNUNET = replace(NNUNET, steps=1500, lr=0.1, momentum=0.9, eval_every=0, save_every=100)
"""The same for a short run: a momentum of 0.99 gathers speed over 100 steps, one of 0.9 over 10.

In the long run a step is ``lr / (1 - momentum)`` times the gradient, 1 with both.
"""

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
    "sam_tiny": TINY_QUERIES,
    "unet3d_tiny": TINY_VOLUMES,
    "unet3d": VOLUMES,
    "unet3d_paper": VOLUMES,
    "nnunet_tiny": TINY_NNUNET,
    "nnunet": NNUNET,
}

DEFAULT = TrainConfig(steps=2000, batch_size=8, lr=1e-3, weight_decay=1e-3, warmup=50, save_every=200)


def recipe(model: str) -> TrainConfig:
    """The training configuration that suits a model of the zoo."""
    return RECIPES.get(model, DEFAULT)
