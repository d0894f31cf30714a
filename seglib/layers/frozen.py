"""Batch norms that don't learn, folded into the convolutions before them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class FrozenNorm(nn.Module):
    """The affine map that a batch norm with fixed statistics is. Its four vectors are buffers: nothing learns.

    Detectors train with one or two images per GPU, too few for statistics of their own, so they keep ImageNet's.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name).detach().clone())  # (C,)
        self.eps = norm.eps

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift of each channel, ``(C,)``."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


class FoldedConv2d(nn.Conv2d):
    """A convolution and the frozen norm behind it as one convolution: norm(conv(x)) = conv(x, scale · kernel) + shift.

    Equal up to rounding, and the map is neither written twice nor kept twice for the backward pass. The kernel that
    learns is the plain one.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__(conv.in_channels, conv.out_channels, 1, bias=False)
        self.stride, self.padding, self.dilation, self.groups = conv.stride, conv.padding, conv.dilation, conv.groups
        self.kernel_size, self.weight = conv.kernel_size, conv.weight
        self.norm = FrozenNorm(norm)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` → the convolved and normalised map."""
        scale, shift = self.norm.affine()
        weight = self.weight * scale[:, None, None, None]
        return F.conv2d(x, weight, shift, self.stride, self.padding, self.dilation, self.groups)


def freeze_norms(module: nn.Module) -> None:
    """Freeze every batch norm of a torchvision ResNet (or a part of one), in place; see :class:`FoldedConv2d`.

    ``bn2.weight`` is then called ``conv2.norm.weight``, and ``downsample.1.weight`` ``downsample.0.norm.weight``.
    """
    for part in list(module.modules()):
        children = dict(part.named_children())
        for name, norm in children.items():
            if isinstance(norm, nn.BatchNorm2d):
                before = name.replace("bn", "conv") if name.startswith("bn") else str(int(name) - 1)
                conv = children[before]
                assert isinstance(conv, nn.Conv2d)
                setattr(part, before, FoldedConv2d(conv, norm))
                setattr(part, name, nn.Identity())


def freeze(module: nn.Module) -> None:
    """Let no parameter of ``module`` learn."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
