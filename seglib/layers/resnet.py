"""torchvision's ResNets as encoders: the same layers, giving every stage's feature map, strided or dilated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision import models as tv
from torchvision.models.resnet import Bottleneck, ResNet

from seglib.layers.frozen import freeze_norms
from seglib.layers.grid import Grid
from seglib.layers.pretrained import check_in_channels, load_pretrained, repeat_input_channels

RESNETS = {
    "resnet18": (tv.resnet18, tv.ResNet18_Weights.IMAGENET1K_V1),
    "resnet34": (tv.resnet34, tv.ResNet34_Weights.IMAGENET1K_V1),
    "resnet50": (tv.resnet50, tv.ResNet50_Weights.IMAGENET1K_V1),
    "resnet101": (tv.resnet101, tv.ResNet101_Weights.IMAGENET1K_V1),
}
"""The depths in use and the published weights that each starts from."""

LEVELS = ("c1", "c2", "c3", "c4", "c5")
"""The maps of a ResNet, finest first."""


def resnet_encoder(
    name: str,
    *,
    in_channels: int = 3,
    output_stride: int = 32,
    multi_grid: Sequence[int] | None = None,
    first_keeps: bool = True,
    stride_in_1x1: bool = False,
    frozen_norm: bool = False,
    levels: Sequence[str] = LEVELS,
    pretrained: bool = False,
) -> ResNetEncoder:
    """A ResNet encoder by name.

    Args:
        name: name of the ResNet, a key of :data:`RESNETS`.
        in_channels: channels of the images.
        output_stride: stride of c5: 32, or 16 or 8 with the last stages dilated by :func:`dilate`.
        multi_grid: factors on the dilation of the blocks of the last stage, such as (1, 2, 4); ``None`` is 1 for all.
        first_keeps: whether a convolution that lost its stride keeps the dilation of the stage before it.
        stride_in_1x1: whether bottlenecks stride in their first convolution, of 1×1, as in the paper (He et al. 2016)
            and in the weights of its authors, which Detectron2 starts from; torchvision strides in the 3×3 one.
        frozen_norm: whether batch norms keep their statistics and weights (:func:`~seglib.layers.frozen.freeze_norms`).
        levels: names of the maps that are wanted. The others are let go as soon as the next is computed.
        pretrained: whether to start from torchvision's ImageNet weights. For other images than RGB the first kernel's
            mean over the three colours is repeated and rescaled, so that the response to grey stays
            (:func:`~seglib.layers.pretrained.repeat_input_channels`).

    Raises:
        ValueError: for an unknown name or output stride, without channels, or for factors that don't fit it.
    """
    check_in_channels(in_channels)
    if name not in RESNETS:
        raise ValueError(f"no ResNet is called {name!r}; choose one of {', '.join(RESNETS)}")
    build, weights = RESNETS[name]
    resnet = build()
    if in_channels != 3:
        resnet.conv1 = nn.Conv2d(in_channels, resnet.conv1.out_channels, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(resnet.conv1.weight, mode="fan_out", nonlinearity="relu")
    if pretrained:
        state = load_pretrained(weights)
        state["conv1.weight"] = repeat_input_channels(state["conv1.weight"], in_channels)
        resnet.load_state_dict(state)
    dilate(resnet, output_stride, multi_grid=multi_grid, first_keeps=first_keeps)
    if stride_in_1x1:
        for block in (m for m in resnet.modules() if isinstance(m, Bottleneck)):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    if frozen_norm:
        freeze_norms(resnet)
    return ResNetEncoder(resnet, levels)


def dilate(
    resnet: ResNet, output_stride: int, *, multi_grid: Sequence[int] | None = None, first_keeps: bool = True
) -> None:
    """Take the strides out of the last stages, in place; what follows a stride is dilated by as much instead.

    Every weight then meets the same pixels as before, but the map is dense: its every s-th cell is the strided map's
    (the atrous algorithm; Chen et al., "Rethinking Atrous Convolution", 2017, section 3.1).

    Args:
        resnet: a network of any depth, with basic blocks or bottlenecks.
        output_stride: stride of the last map: 32 (nothing changes), 16 or 8.
        multi_grid: factors on the dilation of the blocks of the last stage, such as (1, 2, 4) (section 3.2.2), used
            again from the start where the stage has more blocks; ``None`` is 1 for all.
        first_keeps: whether the convolution that strode keeps the dilation of the stage before it, as the algorithm
            says and torchvision does. With ``False`` it is dilated like the rest of its stage, as in
            segmentation_models.pytorch.

    Raises:
        ValueError: for another output stride, or for a multi-grid without a dilated stage or with factors below 1.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}")
    if multi_grid is not None and (output_stride == 32 or not multi_grid or min(multi_grid) < 1):
        raise ValueError(
            f"multi_grid needs factors of at least 1 and output_stride 16 or 8, got {multi_grid} and {output_stride}"
        )
    stages = {16: [resnet.layer4], 8: [resnet.layer3, resnet.layer4]}.get(output_stride, [])
    before = 1
    for stage in stages:
        dilation = 2 * before
        grid = (multi_grid or [1]) if stage is resnet.layer4 else [1]
        for i, block in enumerate(stage):
            for conv in (m for m in block.modules() if isinstance(m, nn.Conv2d)):
                rate = (before if conv.stride != (1, 1) and first_keeps else dilation) * grid[i % len(grid)]
                conv.stride = (1, 1)
                if conv.kernel_size == (3, 3):
                    conv.dilation = conv.padding = (rate, rate)
                elif not first_keeps:  # changes no number, but on one thread PyTorch has a faster kernel for it
                    conv.dilation = (rate, rate)
        before = dilation


class ResNetEncoder(nn.Module):
    """The convolutional part of a torchvision ResNet; its feature maps c1 to c5 are kept, its classifier is not.

    ::

        image ── conv1 7×7/2, bn, relu ─ c1 ── maxpool/2, layer1 ─ c2 ── layer2/2 ─ c3 ── layer3/2 ─ c4 ── layer4/2 ─ c5

    Submodules keep torchvision's names (``conv1``, ``bn1``, ``layer1`` … ``layer4``), so weights move by prefix.

    Args:
        resnet: a network of torchvision's, of any depth, with or without dilated stages.
        levels: names of the maps that are wanted.

    Raises:
        ValueError: for a level that there isn't.

    Attributes:
        channels: channels of each map, by its name.
        grids: where the cells of each map lie in the image, by its name; their ``stride`` is 2, 4, 8, 16, 32 without
            dilation.
        size_divisibility: number that height and width of the images must be multiples of; 1, any will do.
    """

    size_divisibility = 1

    def __init__(self, resnet: ResNet, levels: Sequence[str] = LEVELS) -> None:
        super().__init__()
        if unknown := [level for level in levels if level not in LEVELS]:
            raise ValueError(f"a ResNet has no map {unknown[0]!r}; choose some of {', '.join(LEVELS)}")
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4

        channels = {"c1": self.conv1.out_channels}
        grids = {"c1": Grid().through([self.conv1])}
        grid = grids["c1"].through([self.maxpool])
        for level, stage in self._stages().items():
            block = stage[0]  # the one that strides; its 1×1 shortcut, where there is one, says by how much
            grid = grid.through(block.downsample or [])
            grids[level] = grid
            channels[level] = [m for m in block.modules() if isinstance(m, nn.Conv2d)][-1].out_channels
        self.channels: dict[str, int] = {level: channels[level] for level in LEVELS if level in levels}
        self.grids: dict[str, Grid] = {level: grids[level] for level in self.channels}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``(B, C, H, W)`` normalised images → the wanted maps, ``(B, C, ⌈H / stride⌉, ⌈W / stride⌉)``."""
        x = self.relu(self.bn1(self.conv1(images)))  # (B, 64, H/2, W/2)
        maps = {"c1": x} if "c1" in self.channels else {}
        x = self.maxpool(x)
        for level, stage in self._stages().items():
            x = stage(x)
            if level in self.channels:
                maps[level] = x
        return maps

    def _stages(self) -> dict[str, Any]:
        """The stage that gives each map after the first."""
        return {"c2": self.layer1, "c3": self.layer2, "c4": self.layer3, "c5": self.layer4}
