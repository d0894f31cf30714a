"""Which cells of which grids answer for which object: SOLO's assignment by place and scale.

Source: Wang et al., "SOLO: Segmenting Objects by Locations", ECCV 2020, sections 3.3.1 and 4; "SOLOv2", NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seglib.losses.assign import BACKGROUND
from seglib.ops.masks import centres_of_mass
from seglib.ops.precision import at_least_float32


@dataclass(frozen=True)
class GridTargets:
    """What the cells of one image are trained on; S = Σ G² cells of all levels, level by level, row by row.

    Attributes:
        matches: ``(S,)`` int64, index of the object whose class a cell has, −1 for none. Of several objects that claim
            a cell it is the last one.
        cells: ``(P,)`` int64, index of each cell whose mask is trained, level by level and object by object. A cell
            stands here once for every object that claims it.
        objects: ``(P,)`` int64, index of the object that each of these cells should draw.
    """

    matches: Tensor
    cells: Tensor
    objects: Tensor


@torch.no_grad()
def assign_grid(
    masks: Tensor,
    boxes: Tensor,
    *,
    canvas: Sequence[int],
    grids: Sequence[int],
    ranges: Sequence[tuple[float, float]],
    sigma: float = 0.2,
) -> GridTargets:
    r"""The cells of each object of one image: those around its centre of mass, on the levels of its scale.

    An object belongs to every level whose range holds :math:`\sqrt{w h}`, both ends included. Ranges that overlap give
    it to two levels; one outside all ranges is trained on no level. There it takes the cells that the centre region

    .. math:: |x - c_x| \le \sigma\, w / 2, \qquad |y - c_y| \le \sigma\, h / 2

    reaches into, at most one beyond the cell of the centre of mass c on each side, so 3×3. An object without a pixel
    has no centre and takes none.

    The centre of mass is the mean of the pixels' column and row numbers, as in the reference: half a pixel above and to
    the left of what this package's coordinates would give.

    Args:
        masks: masks of N objects, ``(N, H, W)`` bool. N may be 0.
        boxes: their boxes, ``(N, 4)`` xyxy in pixels.
        canvas: size ``(H, W)`` in pixels that every grid covers, at least that of the masks.
        grids: cells G along a side of the grid of each level.
        ranges: smallest and largest scale of each level, in pixels.
        sigma: σ, the centre region's share of the box.

    Raises:
        ValueError: when there are not as many ranges as grids.
    """
    if len(grids) != len(ranges):
        raise ValueError(f"each grid needs a range of scales, got {len(grids)} grids and {len(ranges)} ranges")
    device = masks.device
    centre, area = centres_of_mass(masks)  # (N, 2), (N,)
    centre = centre.float()
    boxes = at_least_float32(boxes)
    sides = boxes[:, 2:] - boxes[:, :2]  # (N, 2) width, height
    scale = sides.prod(1).sqrt()  # (N,)
    low, high = torch.tensor(ranges, device=device, dtype=scale.dtype).unbind(1)  # (L,)
    chosen = (scale >= low[:, None]) & (scale <= high[:, None]) & (area > 0)  # (L, N)

    grid = torch.tensor(grids, device=device)  # (L,)
    cell = torch.tensor([canvas[1], canvas[0]], device=device) / grid[:, None, None]  # (L, 1, 2) width, height
    half = 0.5 * sigma * sides  # (N, 2)
    last = grid[:, None, None] - 1
    middle = (centre / cell).floor().long()  # (L, N, 2) column, row
    first = ((centre - half) / cell).floor().long().clamp(min=0)
    end = torch.minimum(((centre + half) / cell).floor().long(), last)
    near = middle[:, :, None] + torch.arange(-1, 2, device=device)[:, None]  # (L, N, 3, 2) at most one cell beside
    inside = (near >= first[:, :, None]) & (near <= end[:, :, None])  # (L, N, 3, 2)
    taken = chosen[:, :, None, None] & inside[:, :, :, None, 1] & inside[:, :, None, :, 0]  # (L, N, 3, 3)

    start = (grid**2).cumsum(0) - grid**2  # (L,)
    index = start[:, None, None, None] + near[:, :, :, None, 1] * grid[:, None, None, None] + near[:, :, None, :, 0]
    level, objects, row, column = taken.nonzero().unbind(1)  # (P,) in the order level, object, row, column
    cells = index[level, objects, row, column]
    matches = torch.full((sum(g * g for g in grids),), BACKGROUND, device=device)
    return GridTargets(matches.scatter_reduce(0, cells, objects, "amax"), cells, objects)
