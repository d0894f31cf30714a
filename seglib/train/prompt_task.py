"""Promptable segmentation: objects of known masks are asked for with simulated clicks, and the answers are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from seglib.metrics.clicks import THRESHOLDS, ClickCurve
from seglib.ops.clicks import answer_iou, error_clicks
from seglib.ops.inference import evaluating
from seglib.ops.resize import crop_to
from seglib.postprocess.prompt import chunk_length, restore_logits
from seglib.train.tasks import Evaluator, Task
from seglib.types import Batch, Category, Prompts, SegmentationModel, Size


@dataclass(frozen=True, eq=False)
class Clicked:
    """How well the answers for the N objects of one image fit, on the CPU.

    Attributes:
        ious: IoU after each of K prompts, ``(N, K)``.
        oracle: IoU of the best of the answers to the first prompt, ``(N,)``; ``ious`` has the one of the highest
            predicted IoU.
        index: place of each object among the instances of the image, ``(N,)`` int64.
        labels: class of each object, ``(N,)`` int64.
    """

    ious: Tensor
    oracle: Tensor
    index: Tensor
    labels: Tensor


class PromptTask(Task):
    """Promptable segmentation: the mean IoU after the last of several clicks decides.

    Each object is asked for as the paper evaluates: a click in its middle, then clicks in the middle of the largest
    error, with the last mask as a prompt beside them. Beside the mean IoU after every click, and by class, stand NoC,
    and the IoU of the best of the three answers to the first click, the oracle. Crowds are not asked for.

    Args:
        categories: the class table of the dataset, of whose things masks are asked for. The model doesn't see classes.
        clicks: number of prompts K for each object, at least 1.
        first: first prompt: "point" for a click, "box" for the object's box, which stays when clicks follow.

    Raises:
        ValueError: when the class table is invalid or has no things, there is no click, or ``first`` is unknown.
    """

    name = "prompt"
    needs = "instances"
    score = "miou_at_5"

    def __init__(
        self, categories: Sequence[Category], clicks: int = 5, first: Literal["point", "box"] = "point"
    ) -> None:
        super().__init__(categories)
        self.categories = tuple(c for c in self.categories if c.isthing)
        if not self.categories:
            raise ValueError("prompts ask for things, and the class table has none; train a semantic model")
        if clicks < 1:
            raise ValueError(f"objects are asked for with at least 1 click, got {clicks}")
        if first not in ("point", "box"):
            raise ValueError(f"the first prompt is 'point' or 'box', got {first!r}")
        self.clicks, self.first = clicks, first
        self.score = f"miou_at_{clicks}"

    def arguments(self) -> dict[str, Any]:
        """The number of prompts, and the first of them."""
        return {"clicks": self.clicks, "first": self.first}

    def model_arguments(self) -> dict[str, Any]:
        """None: the model doesn't see classes."""
        return {}

    def predict(self, model: SegmentationModel, batch: Batch) -> list[Clicked]:
        """How well a promptable model answers for the objects of each image; the image is encoded once."""
        if batch.targets.instances is None:
            raise ValueError("the dataset has no instances; evaluate on one whose samples carry `instances`")
        net: Any = model
        found = []
        with evaluating(net):
            embeddings = net.encode(batch.images, batch.padded_sizes)  # (B, C, h, w)
            images = zip(embeddings[:, None], batch.targets.instances, batch.sizes, batch.output_sizes, strict=True)
            for embedding, instances, size, output_size in images:
                masks = crop_to(instances.masks, output_size)
                asked = masks.flatten(1).any(1)
                if instances.iscrowd is not None:
                    asked &= ~instances.iscrowd
                index = asked.nonzero()[:, 0]  # (N,)
                boxes = instances.boxes[index] if self.first == "box" else None
                ious, oracle = click_through(net, embedding, masks[index], size, clicks=self.clicks, boxes=boxes)
                found.append(Clicked(ious.cpu(), oracle.cpu(), index.cpu(), instances.labels[index].cpu()))
        return found

    def evaluator(self) -> Evaluator:
        """A fresh evaluator over the task's things."""
        return _PromptEvaluator(self.categories, self.clicks)


@torch.no_grad()
def click_through(
    model: Any,
    embedding: Tensor,
    wanted: Tensor,
    size: Size,
    *,
    clicks: int,
    boxes: Tensor | None = None,
    where: Literal["centre", "random"] = "centre",
    pass_mask: bool = True,
) -> tuple[Tensor, Tensor]:
    """Ask a promptable model for the objects of one image, and correct its answers click by click.

    Args:
        model: a :class:`~seglib.models.sam.Sam`.
        embedding: what ``model.encode`` gave for the image, ``(1, C, h, w)``.
        wanted: true masks of N objects, ``(N, H, W)`` bool, in whose size answers are compared; N may be 0.
        size: size of the image as the model sees it.
        clicks: number of prompts K.
        boxes: boxes of the objects, ``(N, 4)`` xyxy in pixels of the masks, as first prompts; the clicks begin after
            them. ``None`` begins with a click.
        where: what pixel of the errors is clicked, see :func:`~seglib.ops.clicks.error_clicks`.
        pass_mask: whether the last mask is a prompt beside the clicks.

    Returns:
        IoU after each prompt, ``(N, K)``; and IoU of the best of the answers to the first prompt, ``(N,)``.
    """
    scale = wanted.new_tensor([size[1] / wanted.shape[2], size[0] / wanted.shape[1]], dtype=torch.float32)  # (2,)
    ious, oracle = scale.new_empty(len(wanted), clicks), scale.new_empty(len(wanted))
    # all objects of an image together, but of a large image only as many as fit into bounded memory
    step = chunk_length(3, tuple(wanted.shape[1:]), model.image_size)
    for begin in range(0, len(wanted), step):
        rows = slice(begin, begin + step)
        masks, points, labels = wanted[rows], [], []
        predicted = torch.zeros_like(masks)  # (n, H, W)
        prompts = Prompts(boxes=None if boxes is None else boxes[rows] * scale.repeat(2))
        for k in range(clicks):
            if boxes is None or k > 0:
                point, label = error_clicks(predicted, masks, where=where)
                points.append(point * scale)
                labels.append(label)
                prompts = replace(prompts, points=torch.stack(points, 1), labels=torch.stack(labels, 1))
            out = model.decode(embedding, prompts)
            out = out.several if model.ambiguous and k == 0 else out.single  # (n, M, …)
            answers = restore_logits(out.logits, size, masks.shape[1:], model.image_size) > 0  # (n, M, H, W)
            fits = answer_iou(answers, masks)  # (n, M)
            best = out.iou.argmax(1, keepdim=True)  # (n, 1)
            ious[rows, k] = fits.gather(1, best)[:, 0]
            if k == 0:
                oracle[rows] = fits.amax(1)
            predicted = answers.take_along_dim(best[..., None, None], 1)[:, 0]
            if pass_mask:
                prompts = replace(prompts, masks=out.best.logits[:, 0])
    return ious, oracle


class _PromptEvaluator:
    def __init__(self, categories: tuple[Category, ...], clicks: int) -> None:
        self.names = [c.name for c in categories]
        self.curve = ClickCurve(len(categories), clicks)

    def update(self, predictions: list[Clicked], batch: Batch) -> None:
        for found in predictions:
            self.curve.update(found.ious, found.labels, found.oracle)

    def synchronize(self) -> None:
        self.curve.synchronize()

    def compute(self) -> dict[str, Any]:
        s = self.curve.compute()
        seen = s.class_objects > 0
        last = self.curve.clicks
        curve = {f"miou_at_{k}": v for k, v in enumerate(s.miou.tolist(), start=1)}
        noc = {f"noc{round(100 * t)}": v for t, v in zip(THRESHOLDS, s.noc.tolist(), strict=True)}
        reached = {f"reached{round(100 * t)}": v for t, v in zip(THRESHOLDS, s.reached.tolist(), strict=True)}
        per_class = {
            f"class_miou_at_{k}": {
                n: v for n, v, there in zip(self.names, s.class_miou[:, k - 1].tolist(), seen, strict=True) if there
            }
            for k in sorted({1, last})
        }
        objects = {n: v for n, v in zip(self.names, s.class_objects.tolist(), strict=True) if v}
        return {**curve, "oracle_at_1": s.oracle, **noc, **reached, **per_class, "objects": objects}
