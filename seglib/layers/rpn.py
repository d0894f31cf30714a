"""Region proposal network: for every anchor, is there an object, and how must the box move to fit it.

Source: Ren et al., "Faster R-CNN", NeurIPS 2015; per level of a pyramid: Lin et al., CVPR 2017, section 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seglib.ops.boxes import clip_boxes, decode_boxes
from seglib.ops.nms import batched_nms
from seglib.ops.precision import at_least_float32


class RPNHead(nn.Module):
    """3×3 convolutions and two 1×1 ones, the same for every level.

    Args:
        channels: channels of the pyramid's levels.
        anchors: number of anchors A per cell.
        depth: number of 3×3 convolutions: 1 in the paper, 2 in torchvision's second version.
    """

    def __init__(self, channels: int, anchors: int = 3, *, depth: int = 1) -> None:
        super().__init__()
        convs: list[nn.Module] = []
        for _ in range(depth):
            convs += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)]
        self.conv = nn.Sequential(*convs)
        self.objectness = nn.Conv2d(channels, anchors, 1)
        self.deltas = nn.Conv2d(channels, 4 * anchors, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # these convolutions have a bias

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Pyramid ``(B, C, H_i, W_i)`` → of each level logits ``(B, H·W·A)`` and deltas ``(B, H·W·A, 4)``.

        The order is that of :class:`~seglib.layers.anchors.Anchors`: row, column, anchor.
        """
        logits, deltas = [], []
        for level in pyramid:
            x = self.conv(level)  # (B, C, H, W)
            logits.append(self.objectness(x).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.deltas(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4))
        return logits, deltas


@torch.no_grad()
def propose(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    size: Sequence[int] | Tensor,
    *,
    pre_nms_top_k: int = 1000,
    post_nms_top_k: int = 1000,
    threshold: float = 0.7,
    min_size: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The boxes that are most likely objects: the best of each level, moved by their deltas, without near-duplicates.

    No gradient passes: the second stage takes the proposals as given.

    Args:
        logits: the objectness of each level's anchors, ``(B, N_i)``.
        deltas: the box deltas of each level's anchors, ``(B, N_i, 4)``.
        anchors: the anchors of each level, ``(N_i, 4)``.
        size: size ``(H, W)`` of all images, or a tensor ``(B, 2)`` with one for each; boxes are cut at its borders.
        pre_nms_top_k: number of best boxes of each level that go into NMS.
        post_nms_top_k: largest number P of proposals of an image, of all levels together.
        threshold: IoU above which NMS, within a level, drops a box.
        min_size: side length in pixels up to which a box is dropped.

    Returns:
        ``(B, P, 4)`` boxes by falling score and their logits ``(B, P)``. Where there are fewer than P, padding of zeros
        with the logit −inf follows. P is smaller than ``post_nms_top_k`` only when there are fewer candidates.
    """
    best, boxes, groups = [], [], []
    batch = logits[0].shape[0]
    image = torch.arange(batch, device=logits[0].device)[:, None]  # (B, 1)
    for i, (score, delta, anchor) in enumerate(zip(logits, deltas, anchors, strict=True)):
        top, index = at_least_float32(score).topk(min(pre_nms_top_k, score.shape[1]))  # (B, k)
        moved = decode_boxes(delta.gather(1, index[..., None].expand(-1, -1, 4)), anchor[index])  # (B, k, 4)
        best.append(top)
        boxes.append(moved)
        groups.append((image * len(logits) + i).expand_as(top))
    scores, box, group = torch.cat(best, 1), clip_boxes(torch.cat(boxes, 1), size), torch.cat(groups, 1)  # (B, T, …)
    solid = (box[..., 2:] - box[..., :2] > min_size).all(-1)  # (B, T), false for NaN
    scores = torch.where(solid, scores, -torch.inf)
    kept = batched_nms(box.flatten(0, 1), scores.flatten(), group.flatten(), threshold)  # (M,)
    survives = torch.zeros_like(scores, dtype=torch.bool).flatten()
    survives[kept] = True
    scores = torch.where(survives.view_as(scores), scores, -torch.inf)
    scores, index = scores.topk(min(post_nms_top_k, scores.shape[1]))  # (B, P)
    box = box.gather(1, index[..., None].expand(-1, -1, 4))
    return torch.where(scores[..., None] > -torch.inf, box, 0), scores
