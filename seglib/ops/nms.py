"""Non-maximum suppression: of boxes that overlap much, keep the one with the highest score."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms as torchvision_nms

from seglib.ops.boxes import box_iou
from seglib.ops.precision import widest_float

IMPLEMENTATIONS = ("torchvision", "reference")


def nms(boxes: Tensor, scores: Tensor, threshold: float, *, impl: str = "torchvision") -> Tensor:
    """Greedy NMS: take boxes by falling score, drop every later one whose IoU with a taken box exceeds ``threshold``.

    Args:
        boxes: boxes to choose from, ``(N, 4)`` xyxy.
        scores: score of each box, ``(N,)``. Of equal scores the earlier box comes first.
        threshold: IoU above which a box is dropped, in [0, 1]; at exactly this IoU it is kept.
        impl: ``"torchvision"`` runs its kernel, ``"reference"`` the loop that the book derives.

    Returns:
        ``(M,)`` int64 indices of the boxes that are kept, by falling score.

    Raises:
        ValueError: for shapes that don't match, a threshold out of range or an unknown ``impl``.
    """
    _check(boxes, scores, threshold, impl)
    if impl == "torchvision":
        return _traced_nms(boxes, scores, threshold)
    order = scores.argsort(descending=True, stable=True)  # (N,)
    kept = []
    while len(order) > 0:
        best, rest = order[0], order[1:]
        kept.append(best)
        overlap = box_iou(boxes[best, None], boxes[rest])[0]  # (rest,)
        order = rest[overlap <= threshold]
    return torch.stack(kept) if kept else order


def batched_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, *, impl: str = "torchvision"
) -> Tensor:
    """NMS within each group; boxes of different groups (classes, levels, images) don't suppress each other.

    On a GPU one pass serves all groups: each is moved to a place of its own, so that no box meets one of another group.
    The moved coordinates are float64, where adding 10⁶ pixels leaves them exact to 10⁻¹⁰; in float32 they would be
    rounded to a sixteenth of a pixel and boxes at the threshold would change sides. The CPU's kernel compares all boxes
    with all, so there many boxes go group by group; so do all on a device without float64.

    Args:
        boxes: boxes to choose from, ``(N, 4)`` xyxy.
        scores: score of each box, ``(N,)``.
        groups: group of each box, ``(N,)`` int64, any ids.
        threshold: IoU above which a box of the same group is dropped, in [0, 1].
        impl: ``"torchvision"`` runs its kernel, ``"reference"`` the book's loop group by group.

    Returns:
        ``(M,)`` int64 indices of the boxes that are kept, by falling score.

    Raises:
        ValueError: for shapes that don't match, a threshold out of range or an unknown ``impl``.
    """
    _check(boxes, scores, threshold, impl)
    if groups.shape != scores.shape:
        raise ValueError(f"{len(scores)} scores need as many groups, got {tuple(groups.shape)}")
    exact = widest_float(boxes.device) == torch.float64
    if impl == "torchvision" and exact and (boxes.is_cuda or torch.compiler.is_compiling() or len(boxes) < 500):
        wide = boxes.double()
        # an extra number keeps the extremes defined when there is no box
        low, high = torch.cat([wide.flatten(), wide.new_zeros(1)]).aminmax()
        return _traced_nms(wide + (groups * (high - low + 1))[:, None], scores.double(), threshold)
    parts = [(groups == g).nonzero()[:, 0] for g in groups.unique()]
    kept = [part[nms(boxes[part], scores[part], threshold, impl=impl)] for part in parts]
    found = torch.cat([groups.new_zeros(0), *kept]).sort().values
    return found[scores[found].argsort(descending=True, stable=True)]


def soft_nms(boxes: Tensor, scores: Tensor, *, sigma: float = 0.5, threshold: float = 0.001) -> tuple[Tensor, Tensor]:
    """Gaussian soft-NMS: a box isn't dropped but loses score the more it overlaps the taken ones.

    After each taken box every remaining score is multiplied by exp(−IoU² / σ). Objects that overlap keep a chance.
    Source: Bodla et al., "Soft-NMS — Improving Object Detection With One Line of Code", ICCV 2017, eq. 3.

    Args:
        boxes: boxes to choose from, ``(N, 4)`` xyxy.
        scores: score of each box, ``(N,)``.
        sigma: σ, above 0; the larger, the less overlaps cost.
        threshold: score below which a box is dropped, in [0, 1).

    Returns:
        ``(M,)`` int64 indices in the order in which they were taken, and their lowered scores ``(M,)``, which fall.

    Raises:
        ValueError: for shapes that don't match or arguments out of range.
    """
    _check(boxes, scores, 0.5, "reference")
    if not sigma > 0 or not 0 <= threshold < 1:
        raise ValueError(f"soft-NMS needs sigma > 0 and threshold in [0, 1), got {sigma} and {threshold}")
    left = scores.clone()
    taken, lowered = [], []
    # every box taken changes the scores of all that remain, so the loop over boxes is the algorithm itself
    for _ in range(len(scores)):
        best = left.argmax()
        if left[best] < threshold:
            break
        taken.append(best)
        lowered.append(left[best])
        overlap = box_iou(boxes[best, None], boxes)[0]  # (N,)
        left = left * torch.exp(-(overlap**2) / sigma)
        left[best] = -1.0
    if not taken:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device), scores.new_zeros(0)
    return torch.stack(taken), torch.stack(lowered)


def fast_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    r"""Fast NMS: drop a box whose IoU with *any* box of a higher score exceeds ``threshold``, all at once.

    NMS asks whether a higher box that was itself kept overlaps. Here a box that is dropped still drops others: of a
    chain A, B, C in which A overlaps B and B overlaps C, NMS keeps A and C, this keeps A alone. In exchange there is no
    order to follow, only a matrix: :math:`\max_{i < j} \text{IoU}_{ij} \le t` with boxes by falling score.

    Source: Bolya et al., "YOLACT", ICCV 2019, section 5.

    Args:
        boxes: boxes to choose from, ``(…, N, 4)`` xyxy: one row for each class or image, which don't affect each other.
        scores: score of each box, ``(…, N)``. Of equal scores the earlier box comes first.
        threshold: IoU above which a box is dropped, in [0, 1]; at exactly this IoU it is kept.

    Returns:
        Whether each box is kept, ``(…, N)`` bool.

    Raises:
        ValueError: for shapes that don't match or a threshold out of range.
    """
    if boxes.ndim < 2 or boxes.shape[-1] != 4 or scores.shape != boxes.shape[:-1]:
        raise ValueError(
            f"fast NMS takes boxes (…, N, 4) and one score each (…, N), got {tuple(boxes.shape)} and "
            f"{tuple(scores.shape)}"
        )
    _check_threshold(threshold)
    if scores.shape[-1] == 0:
        return scores > 0
    order = scores.argsort(dim=-1, descending=True, stable=True)  # (…, N)
    ranked = boxes.take_along_dim(order[..., None], -2)  # (…, N, 4)
    higher = box_iou(ranked, ranked).triu(1)  # (…, N, N): IoU of box j with every box i above it
    kept = higher.amax(-2) <= threshold  # (…, N) by falling score
    return kept.scatter(-1, order, kept)


def mask_nms(iou: Tensor, labels: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy NMS of each class from a matrix of IoUs, of masks or of boxes.

    Args:
        iou: IoU of every object with every other, ``(N, N)`` as of :func:`~seglib.ops.masks.mask_iou`.
        labels: class of each object, ``(N,)`` int64; classes don't suppress each other.
        scores: score of each object, ``(N,)``. Of equal scores the earlier one comes first.
        threshold: IoU above which an object is dropped, in [0, 1].

    Returns:
        ``(M,)`` int64 indices of the objects that are kept, by falling score.

    Raises:
        ValueError: for shapes that don't match or a threshold out of range.
    """
    _check_matrix(iou, labels, scores)
    _check_threshold(threshold)
    order = scores.argsort(descending=True, stable=True)  # (N,)
    over = ((iou > threshold) & (labels[:, None] == labels))[order][:, order]  # (N, N) by falling score
    kept = torch.ones_like(order, dtype=torch.bool)
    # whether an object suppresses depends on whether it was suppressed, so the loop is the algorithm itself
    for i in range(len(order)):
        if kept[i]:
            kept[i + 1 :] &= ~over[i, i + 1 :]
    return order[kept]


MATRIX_KERNELS = ("gaussian", "linear")


def matrix_nms(iou: Tensor, labels: Tensor, scores: Tensor, *, kernel: str = "gaussian", sigma: float = 2.0) -> Tensor:
    r"""Matrix NMS: scores lowered by how much better objects of the class overlap, all at once.

    Soft-NMS takes one object after the other, because which one is next depends on the scores that were lowered before.
    Here the order is that of the scores given. In greedy NMS an object i that a better one overlaps would be gone and
    lower nobody. Here its largest overlap with an object above it, :math:`c_i = \max_{k < i} \text{IoU}_{ki}`, lessens
    what it does to others; and of all factors the smallest counts, where Soft-NMS multiplies them:

    .. math:: s_j \leftarrow s_j \min_{i < j} \frac{f(\text{IoU}_{ij})}{f(c_i)}
        \qquad f(u) = e^{-\sigma u^2} \text{ or } 1 - u

    with objects by falling score. The published form is 0 / 0 for three identical masks with the linear kernel, and
    for two empty masks. Here an object that repeats a better one exactly (:math:`f(c_i) = 0`) lowers nothing: the
    better one does that already. Empty masks have an IoU of 0.

    Source: Wang et al., "SOLOv2: Dynamic and Fast Instance Segmentation", NeurIPS 2020, section 3.3. The gaussian
    multiplies by σ, as the published code does; Soft-NMS divides by it.

    Args:
        iou: IoU of every object with every other, ``(N, N)`` as of :func:`~seglib.ops.masks.mask_iou`.
        labels: class of each object, ``(N,)`` int64; classes don't lower each other.
        scores: score of each object, ``(N,)``, in any order. Of equal scores the earlier one comes first.
        kernel: the function f, ``"gaussian"`` or ``"linear"``.
        sigma: σ of the gaussian, above 0; the larger, the more overlaps cost.

    Returns:
        The lowered scores ``(N,)``, in the order of ``scores``.

    Raises:
        ValueError: for shapes that don't match, an unknown kernel or a sigma that isn't positive.
    """
    _check_matrix(iou, labels, scores)
    if kernel not in MATRIX_KERNELS:
        raise ValueError(f"kernel {kernel!r} is unknown; choose one of {', '.join(MATRIX_KERNELS)}")
    if not sigma > 0:
        raise ValueError(f"sigma must be above 0, got {sigma}")
    if len(scores) == 0:
        return scores
    order = scores.argsort(descending=True, stable=True)  # (N,)
    same = labels[:, None] == labels  # (N, N)
    above = torch.where(same, iou, 0)[order][:, order].triu(1)  # (N, N): IoU of j with every i of its class above it
    covered = above.amax(0)[:, None]  # (N, 1) c_i
    if kernel == "gaussian":
        ratio = torch.exp(sigma * (covered**2 - above**2))  # (N, N)
    else:
        ratio = torch.where(covered < 1, (1 - above) / (1 - covered).clamp(min=torch.finfo(iou.dtype).tiny), 1)
    # where i isn't above j the ratio is at least 1, which is what the first row gives at most
    decay = ratio.amin(0).clamp(max=1)  # (N,)
    return scores * torch.empty_like(decay).scatter(0, order, decay).to(scores.dtype)


@torch.library.custom_op("seglib::nms", mutates_args=())
def _nms_op(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The kernel of torchvision as an operator whose result has a fixed size: −1 fills up ``(N,)``."""
    kept = torchvision_nms(boxes, scores, threshold)
    return torch.cat([kept, kept.new_full((len(boxes) - len(kept),), -1)])


@_nms_op.register_fake
def _(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    return scores.new_empty(scores.shape, dtype=torch.int64)


def _traced_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The kernel of torchvision, in a form that ``torch.compile`` and ``torch.export`` can follow."""
    if not torch.compiler.is_compiling():
        return torchvision_nms(boxes, scores, threshold)
    kept = _nms_op(boxes, scores, threshold)
    return kept[kept >= 0]


def _check(boxes: Tensor, scores: Tensor, threshold: float, impl: str) -> None:
    if boxes.ndim != 2 or boxes.shape[-1] != 4 or scores.shape != boxes.shape[:1]:
        raise ValueError(
            f"NMS takes boxes (N, 4) and one score each (N,), got {tuple(boxes.shape)} and {tuple(scores.shape)}"
        )
    _check_threshold(threshold)
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl {impl!r} is unknown; choose one of {', '.join(IMPLEMENTATIONS)}")


def _check_threshold(threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is an IoU in [0, 1], got {threshold}")


def _check_matrix(iou: Tensor, labels: Tensor, scores: Tensor) -> None:
    n = len(scores)
    if iou.shape != (n, n) or labels.shape != (n,) or scores.ndim != 1:
        raise ValueError(
            f"expected an IoU matrix (N, N) and N labels and scores, got {tuple(iou.shape)}, {tuple(labels.shape)} "
            f"and {tuple(scores.shape)}"
        )
