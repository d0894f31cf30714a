"""The second stage of Mask R-CNN: what is in a region, where exactly is its box, and which of its pixels belong to it.

Source: He et al., "Mask R-CNN", ICCV 2017, figure 4 right; box head: Lin et al., "Feature Pyramid Networks", CVPR 2017.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from seglib.layers.conv import conv_norm_relu


class BoxHead(nn.Module):
    """Optional 3×3 convolutions, fully connected layers, and from them class scores and box deltas.

    ::

        region (R, C, P, P) ── [3×3]* ── flatten ── fc, relu ── [fc, relu] ──┬── K + 1 logits, background last
                                                                            └── 4 deltas for each class

    Args:
        channels: of the pyramid.
        num_classes: K, without background.
        size: P of the pooled regions.
        hidden: width of the fully connected layers.
        depth: how many there are.
        convs: 3×3 convolutions before them, with batch norm: 0 in the paper, 4 in torchvision's second version.
        class_agnostic: one box for all classes instead of one for each.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        size: int = 7,
        hidden: int = 1024,
        depth: int = 2,
        convs: int = 0,
        class_agnostic: bool = False,
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(conv_norm_relu(channels, channels, 3) for _ in range(convs)))
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [nn.Linear(channels * size * size if i == 0 else hidden, hidden), nn.ReLU(inplace=True)]
        self.fc = nn.Sequential(*layers)
        self.logits = nn.Linear(hidden, num_classes + 1)
        self.deltas = nn.Linear(hidden, 4 * (1 if class_agnostic else num_classes))
        for layer, std in ((self.logits, 0.01), (self.deltas, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Regions ``(R, C, P, P)`` → logits ``(R, K + 1)``, deltas ``(R, K, 4)`` or, class-agnostic, ``(R, 1, 4)``."""
        x = self.fc(self.convs(regions).flatten(1))  # (R, hidden)
        return self.logits(x), self.deltas(x).unflatten(1, (-1, 4))


class MaskHead(nn.Module):
    """3×3 convolutions, a transposed convolution that doubles the grid, and one mask for each class.

    The class is decided by the box head, so classes don't compete for a pixel: each mask has a sigmoid of its own.

    Args:
        channels: of the pyramid.
        num_classes: K.
        hidden: channels of the head.
        depth: how many 3×3 convolutions.
        norm: batch norm behind each, as in torchvision's second version.
    """

    def __init__(
        self, channels: int, num_classes: int, *, hidden: int = 256, depth: int = 4, norm: bool = False
    ) -> None:
        super().__init__()
        convs: list[nn.Module] = []
        for i in range(depth):
            before = channels if i == 0 else hidden
            if norm:
                convs.append(conv_norm_relu(before, hidden, 3))
            else:
                convs += [nn.Conv2d(before, hidden, 3, padding=1), nn.ReLU(inplace=True)]
        self.convs = nn.Sequential(*convs)
        self.upsample = nn.ConvTranspose2d(hidden, hidden, 2, stride=2)
        self.predict = nn.Conv2d(hidden, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, regions: Tensor, labels: Tensor | None = None) -> Tensor:
        """The masks of regions as logits.

        Args:
            regions: ``(R, C, P, P)``.
            labels: ``(R,)`` int64, the class of which each region's mask is wanted. Only these are computed.

        Returns:
            ``(R, 2P, 2P)``, or without labels those of all classes, ``(R, K, 2P, 2P)``.
        """
        x = F.relu(self.upsample(self.convs(regions)), inplace=True)  # (R, hidden, 2P, 2P)
        if labels is None:
            return self.predict(x)
        kernel = self.predict.weight[labels, :, 0, 0]  # (R, hidden)
        bias = self.predict.bias[labels]  # type: ignore[index]  # (R,)
        masks = (kernel[:, None] @ x.flatten(2)).view(-1, *x.shape[2:])  # (R, 2P, 2P)
        return masks + bias[:, None, None]
