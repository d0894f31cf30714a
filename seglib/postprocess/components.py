"""Keeping the largest connected component: what lies apart from the organ is removed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


def keep_largest(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """Remove all components but the largest of the voxels of some classes taken together.

    Voxels belong to one component when they share a face, an edge or a corner: 26 neighbours in a volume. What is
    removed becomes background. Of several components of the largest size the first stays, in the order of the voxels.

    nnU-Net does the same, but keeps all components of the largest size.

    Args:
        labels: class ids ``(D, H, W)`` or ``(H, W)``, integers.
        classes: the classes that count as one region, without the background (0).

    Returns:
        The labels, of the same shape and type, on the same device; ``labels`` itself when nothing is removed.

    Raises:
        ValueError: when there is no class, the background is among them, or labels are no integers.

    Source: Isensee et al., "nnU-Net", Nature Methods 2021, Methods, "Postprocessing".
    """
    if not classes or min(classes) < 1:
        raise ValueError(f"classes are some of the foreground classes 1, 2, …; got {list(classes)}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels are whole numbers, one class a voxel; got {labels.dtype}")
    region = torch.isin(labels, labels.new_tensor(classes)).cpu().numpy()
    components, count = ndimage.label(region, np.ones((3,) * region.ndim))
    if count < 2:
        return labels
    sizes = np.bincount(components.ravel())
    largest = 1 + int(sizes[1:].argmax())  # the first of equal ones
    return labels.masked_fill(torch.from_numpy(region & (components != largest)).to(labels.device), 0)
