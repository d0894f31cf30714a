"""A promptable model whose answers are simple sums, and images on which it finds a lot."""

import torch
from torch import nn
from torch.nn import functional as F

from seglib.layers.normalize import Normalize
from seglib.ops.geometry import Geometry
from seglib.types import PromptOutput

SIDE = 128


class ColourModel(nn.Module):
    """A promptable model without weights worth the name: a mask is what has the colour under the click, nearby.

    Its three answers differ in how far they reach; the predicted IoU changes from click to click. Of a box it takes the
    middle. It keeps what it was asked.
    """

    image_size, mask_size, geometry = SIDE, SIDE // 4, Geometry("letterbox", SIDE)

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.normalize = Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self.images, self.prompts, self.modes = [], [], []

    def encode(self, images, sizes=None):
        self.images.append(images)
        self.modes.append(self.training)
        height, width = images.shape[-2:]
        return F.avg_pool2d(F.pad(images, (0, SIDE - width, 0, SIDE - height)), 4)  # (1, 3, 32, 32)

    def decode(self, embedding, prompts):
        self.prompts.append(prompts)
        self.modes.append(self.training)
        points = torch.full((len(prompts), 2), SIDE / 2)  # (N, 2)
        if prompts.points is not None:
            points = prompts.points[:, 0]
        elif prompts.boxes is not None:
            points = (prompts.boxes[:, :2] + prompts.boxes[:, 2:]) / 2
        cells = (points / 4).long().clamp(max=SIDE // 4 - 1)
        colour = embedding[0, :, cells[:, 1], cells[:, 0]].T[:, :, None, None]  # (N, 3, 1, 1)
        axis = torch.arange(SIDE // 4) * 4 + 1.5
        away = (axis - points[:, :1]).abs()[:, None] + (axis - points[:, 1:]).abs()[:, :, None]  # (N, 32, 32)
        unlike = 30 * (embedding - colour).abs().sum(1) + away / 16  # (N, 32, 32)
        logits = 6 * (torch.tensor([6.0, 3.0, 6.0, 9.0])[:, None, None] - unlike[:, None])  # (N, 4, 32, 32)
        iou = 0.85 + 0.15 * torch.sin(points.sum(1, keepdim=True) * torch.tensor([1.0, 2.0, 3.0, 4.0]))  # (N, 4)
        return PromptOutput(logits + self.unused, iou)


def patches(height, width, seed=0):
    """Coloured patches with noise, uint8 ``(3, H, W)``: many masks of all sizes."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 6, generator=generator)
    image = F.interpolate(coarse, (height, width), mode="nearest")[0]
    image = image + 0.03 * torch.randn(image.shape, generator=generator)
    return (255 * image.clamp(0, 1)).to(torch.uint8)
