"""The second stage of Mask R-CNN: what is in an RoI, where exactly is its box, and which of its pixels belong to it.

Source: He et al., "Mask R-CNN", ICCV 2017, figure 4 right; box head: Lin et al., "Feature Pyramid Networks", CVPR 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

IMPLEMENTATIONS = ("fast", "reference")


class BoxHead(nn.Module):
    """Optional 3×3 convolutions, fully connected layers, and from them class scores and box deltas.

    ::

        patch (R, C, P, P) ── [3×3]* ── flatten ── fc, relu ── [fc, relu] ──┬── K + 1 logits, background last
                                                                           └── 4 deltas for each class

    Args:
        channels: channels of the pyramid's levels.
        num_classes: number of classes K, without background.
        size: number of cells P along a side of a pooled patch.
        hidden: width of the fully connected layers.
        depth: number of fully connected layers.
        convs: number of 3×3 convolutions before the fully connected layers, with batch norm: 0 in the paper, 4 in
            torchvision's second version.
        class_agnostic: whether one box is predicted for all classes instead of one for each.

    Raises:
        ValueError: when ``num_classes`` is out of range.
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
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}; background isn't counted")
        self.convs = nn.Sequential(*(Conv2dNormActivation(channels, channels, 3) for _ in range(convs)))
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [nn.Linear(channels * size * size if i == 0 else hidden, hidden), nn.ReLU(inplace=True)]
        self.fc = nn.Sequential(*layers)
        self.logits = nn.Linear(hidden, num_classes + 1)
        self.deltas = nn.Linear(hidden, 4 * (1 if class_agnostic else num_classes))
        for layer, std in ((self.logits, 0.01), (self.deltas, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Patches ``(R, C, P, P)`` → logits ``(R, K + 1)``, deltas ``(R, K, 4)`` or, class-agnostic, ``(R, 1, 4)``."""
        x = self.fc(self.convs(patches).flatten(1))  # (R, hidden)
        return self.logits(x), self.deltas(x).unflatten(1, (-1, 4))


class MaskHead(nn.Module):
    """3×3 convolutions, a transposed convolution that doubles the grid, and one mask for each class.

    The class is decided by the box head, so classes don't compete for a pixel: each mask has a sigmoid of its own.

    Args:
        channels: channels of the pyramid's levels.
        num_classes: number of classes K, without background.
        hidden: channels of the head.
        depth: number of 3×3 convolutions.
        norm: whether a batch norm stands behind each 3×3 convolution, as in torchvision's second version.
    """

    def __init__(
        self, channels: int, num_classes: int, *, hidden: int = 256, depth: int = 4, norm: bool = False
    ) -> None:
        super().__init__()
        convs: list[nn.Module] = []
        for i in range(depth):
            before = channels if i == 0 else hidden
            if norm:
                convs.append(Conv2dNormActivation(before, hidden, 3))
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

    def forward(self, patches: Tensor, labels: Tensor | None = None, *, impl: str = "fast") -> Tensor:
        """The masks of RoIs as logits.

        Args:
            patches: pooled patches of the RoIs, ``(R, C, P, P)``.
            labels: class of which each RoI's mask is wanted, ``(R,)`` int64; ``None`` gives the masks of all classes.
            impl: with labels, "reference" computes all classes and picks one; "fast", the default, computes that one
                in a quarter of the memory.

        Returns:
            ``(R, 2P, 2P)``, or without labels ``(R, K, 2P, 2P)``.

        Raises:
            ValueError: for an unknown ``impl``.
        """
        if impl not in IMPLEMENTATIONS:
            raise ValueError(f"impl {impl!r} is unknown; choose one of {', '.join(IMPLEMENTATIONS)}")
        x = self.convs(patches)  # (R, hidden, P, P)
        if labels is not None and impl == "fast":
            return self._of_class(x, labels)
        masks = self.predict(F.relu(self.upsample(x), inplace=True))  # (R, K, 2P, 2P)
        return masks if labels is None else masks[torch.arange(len(labels), device=labels.device), labels]

    def _of_class(self, x: Tensor, labels: Tensor) -> Tensor:
        """Transposed and 1×1 convolution of ``(R, hidden, P, P)``, for one class of each RoI alone.

        Each of the four pixels that the transposed convolution makes of a cell is a linear map of that cell. One after
        the other, they take a quarter of the memory, and what they are multiplied with is one class's weights.
        """
        size = x.shape[-1]
        cells = x.permute(0, 2, 3, 1).flatten(1, 2)  # (R, P·P, hidden)
        kernel = self.predict.weight[labels, :, 0]  # (R, hidden, 1)
        pixels = [
            F.relu(F.linear(cells, self.upsample.weight[:, :, i, j].T, self.upsample.bias), inplace=True) @ kernel
            for i in (0, 1)
            for j in (0, 1)
        ]  # four of (R, P·P, 1)
        masks = torch.cat(pixels, 2).view(-1, size, size, 2, 2).transpose(2, 3)  # (R, P, 2, P, 2)
        return masks.reshape(-1, 2 * size, 2 * size) + self.predict.bias[labels, None, None]  # type: ignore[index]  # it has one
