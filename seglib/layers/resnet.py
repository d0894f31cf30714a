"""torchvision's ResNets as encoders: the same layers, giving every stage's feature map."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from seglib.layers.grid import Grid


class ResNetEncoder(nn.Module):
    """The convolutional part of a torchvision ResNet; its feature maps c1 to c5 are kept, its classifier is not.

    ::

        image ── conv1 7×7/2, bn, relu ─ c1 ── maxpool/2, layer1 ─ c2 ── layer2/2 ─ c3 ── layer3/2 ─ c4 ── layer4/2 ─ c5

    Submodules keep torchvision's names (``conv1``, ``bn1``, ``layer1`` … ``layer4``), so weights move by prefix.

    Args:
        resnet: from torchvision, with any depth, and dilated stages if wanted.

    Attributes:
        channels: channels of each map, by its name.
        grids: where each map's cells lie in the image; their ``stride`` is 2, 4, 8, 16, 32 without dilation.
        divisor: height and width of the images must be multiples of this; any will do.
    """

    divisor = 1

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4

        self.channels: dict[str, int] = {"c1": self.conv1.out_channels}
        self.grids: dict[str, Grid] = {"c1": Grid().through([self.conv1])}
        grid = self.grids["c1"].through([self.maxpool])
        for level, stage in {"c2": self.layer1, "c3": self.layer2, "c4": self.layer3, "c5": self.layer4}.items():
            block = stage[0]  # the one that strides; its 1×1 shortcut, where there is one, says by how much
            grid = grid.through(block.downsample or [])
            self.grids[level] = grid
            self.channels[level] = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)][-1].num_features

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``(B, 3, H, W)`` normalised images → the maps ``c1`` … ``c5``, ``(B, C, ⌈H / stride⌉, ⌈W / stride⌉)``."""
        c1 = self.relu(self.bn1(self.conv1(images)))
        c2 = self.layer1(self.maxpool(c1))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        c5 = self.layer4(c4)
        return {"c1": c1, "c2": c2, "c3": c3, "c4": c4, "c5": c5}
