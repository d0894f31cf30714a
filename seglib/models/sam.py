"""SAM, the Segment Anything Model (Kirillov et al., "Segment Anything", ICCV 2023).

A prompt asks for one mask: by clicks, by a box, by a mask to go on from. A large encoder looks at the image once,
without knowing the prompt; a small decoder answers each prompt from what the encoder saw. A click can mean several
things, so the decoder gives three masks and says which it believes in. There are no classes.

::

    image (B, 3, H, W) ── normalise, pad ── encoder ─► embedding (B, C, h, w) ─────────────┐     once an image
                                                                                            ▼
    prompts (N, …) ── prompt encoder ─┬─ tokens (N, T, C) ──────────────────────► mask decoder   as often as asked
                                      └─ map (N, C, h, w) ──────────────────────►      │
                                                                     masks (N, 4, 4h, 4w), predicted IoU (N, 4)

The paper's training is a conversation (section 3 and appendix A): the first prompt is a click or a box, each later one
a click where the last mask was wrong, with that mask as a prompt beside it. Of the three masks for an ambiguous prompt
only the best one is trained, so that they may differ; the IoU head learns from all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglib.layers.mask_decoder import MaskDecoder
from seglib.layers.normalize import Normalize
from seglib.layers.prompt_encoder import PromptEncoder
from seglib.layers.tiny import TINY_MEAN, TINY_STD, TinyEncoder, TinyNeck
from seglib.layers.vit import ImageEncoderViT
from seglib.losses.prompts import best_of, iou_targets, mask_losses
from seglib.models.base import Model
from seglib.ops.boxes import check_boxes
from seglib.ops.clicks import error_clicks, noisy_boxes, random_points
from seglib.ops.geometry import Geometry
from seglib.ops.precision import at_least_float32
from seglib.postprocess.everything import EverythingSettings, point_grid, select_masks
from seglib.types import Instances, PromptOutput, Prompts, Size, Targets


@dataclass(frozen=True)
class SamTraining:
    """How the conversation of training goes, and how much each loss counts.

    Attributes:
        objects: largest number of objects of an image that are asked for, drawn at random where there are more.
        clicks: number of clicks after the first prompt, each where the last mask was wrong.
        repeats: number of rounds without a new click, in which the model improves its own mask: the last one, and
            others at random places among the clicks.
        boxes: share of the objects whose first prompt is a box.
        windows: whether images that are smaller than the model's are parts of one that fills it. Each batch lies
            somewhere in the square then, and only its own cells are computed. The sides must be multiples of the
            stride, and of what the encoder needs. Else images lie in the upper left corner, and the rest is padding.
        finer: how many times finer than the model's masks the grid is on which the losses compare them with the
            objects; their logits are resized to it. An object of a few pixels would be lost on a coarse grid.
        alpha: weight of an object's pixels in the focal loss, in [0, 1]; 1 − alpha is that of all others.
        focal_weight: factor on the focal loss.
        dice_weight: factor on the Dice loss.
        iou_weight: factor on the squared error of the predicted IoU.

    Raises:
        ValueError: when a number is negative, there are no objects, or the share lies outside [0, 1].
    """

    objects: int = 64
    clicks: int = 8
    repeats: int = 2
    boxes: float = 0.5
    windows: bool = False
    finer: int = 1
    alpha: float = 0.25
    focal_weight: float = 20.0
    dice_weight: float = 1.0
    iou_weight: float = 1.0

    def __post_init__(self) -> None:
        if min(self.objects, self.finer) < 1 or min(self.clicks, self.repeats) < 0 or not 0 <= self.boxes <= 1:
            raise ValueError(
                "training takes at least 1 object and a grid at least as fine as the masks, no negative number of "
                f"clicks or repeats, and a share of boxes in [0, 1]; got {self}"
            )


@dataclass(frozen=True)
class SamOutput:
    """What SAM answers to the prompts of a batch.

    Attributes:
        first: the answers to the first prompt about each of N objects, ``(N, 3, …)``; ``(N, 1, …)`` of a model that
            takes no prompt for ambiguous.
        later: the one answer of each of R later rounds, ``(N, R, …)``; R = 0 without targets.
        image: index of each prompt's image in the batch, ``(N,)`` int64.
        instance: index of the object that each prompt asks for within its image, ``(N,)`` int64; −1 for none.
        points: first click of each prompt as (x, y), ``(N, 2)``; of a box its middle.
    """

    first: PromptOutput
    later: PromptOutput
    image: Tensor
    instance: Tensor
    points: Tensor


torch.export.register_dataclass(SamOutput, serialized_type_name="seglib.SamOutput")


class Sam(Model):
    """A mask for every prompt, of anything.

    Args:
        encoder: module that sees normalised square images ``(B, 3, S, S)``.
        channels: channels C of the embedding.
        image_size: side S of the square image in pixels: images are letterboxed to it.
        stride: pixels of a cell of the embedding, S / h.
        neck: module that makes embeddings ``(B, C, h, w)`` of what the encoder gives; when not given the encoder itself
            gives them.
        decoder: module that answers prompts; the paper's when not given.
        ambiguous: whether a first prompt in training is taken for ambiguous and answered with three masks; else the
            single mask answers every prompt.
        training_settings: settings of the conversation of training and the losses.
        everything: settings of the grid of clicks when no prompt is given, and of the choice among their masks.
        normalize: what is done to images first; ImageNet's mean and standard deviation when not given.

    Raises:
        ValueError: when ``image_size`` isn't a multiple of ``stride``, or ``stride`` not of 4.

    Attributes:
        mask_size: side of the masks that the decoder gives, 4 S / stride.
    """

    def __init__(
        self,
        encoder: nn.Module,
        channels: int,
        *,
        image_size: int,
        stride: int = 16,
        neck: nn.Module | None = None,
        decoder: MaskDecoder | None = None,
        ambiguous: bool = True,
        training_settings: SamTraining | None = None,
        everything: EverythingSettings | None = None,
        normalize: Normalize | None = None,
    ) -> None:
        super().__init__()
        if image_size < stride or image_size % stride or stride % 4:
            raise ValueError(
                f"image_size must be a multiple of the stride, and the stride of 4, got {image_size} and {stride}"
            )
        cells = image_size // stride
        self.image_size, self.stride, self.mask_size, self.ambiguous = image_size, stride, 4 * cells, ambiguous
        self.geometry = Geometry("letterbox", image_size)
        self.normalize = normalize or Normalize()
        self.encoder = encoder
        self.neck = neck or nn.Identity()
        self.prompt_encoder = PromptEncoder(channels, image_size=image_size, grid_size=cells)
        self.mask_decoder = decoder or MaskDecoder(channels)
        self.training_settings = training_settings or SamTraining()
        self.everything = everything or EverythingSettings()

    def encode(self, images: Tensor, sizes: Sequence[Size] | None = None) -> Tensor:
        """What the encoder sees in images: all that a prompt will be answered from.

        Args:
            images: batch ``(B, 3, H, W)`` float in [0, 1], of at most the model's image size.
            sizes: true size ``(H, W)`` of each image; ``None`` when every image fills the batch.

        Returns:
            Embeddings ``(B, C, h, w)``; with finer maps more channels, see
            :class:`~seglib.layers.mask_decoder.MaskDecoder`.

        Raises:
            ValueError: when the images are malformed or too large.
        """
        x = self._normalized(images, sizes)
        height, width = x.shape[-2:]
        square = F.pad(x, (0, self.image_size - width, 0, self.image_size - height))  # (B, 3, S, S)
        return self.neck(self.encoder(square))

    def decode(self, embedding: Tensor, prompts: Prompts, corner: tuple[int, int] = (0, 0)) -> PromptOutput:
        """Answer prompts.

        Args:
            embedding: embedding ``(1, C, h, w)`` of the image that all prompts are about, or ``(N, C, h, w)``, one for
                each prompt.
            prompts: N prompts in pixels of the image as the model sees it.
            corner: row and column of the embedding's first cell in the model's square, of an embedding of a part.

        Returns:
            Four masks for each prompt. Its ``single`` is the answer to a prompt that leaves no doubt, its ``several``
            are the three to an ambiguous one, such as a single click.

        Raises:
            ValueError: when there is another number of embeddings, or masks have another size than the model's own.
        """
        if len(embedding) not in (1, len(prompts)):
            raise ValueError(
                f"{len(prompts)} prompts need 1 embedding or {len(prompts)}, got {len(embedding)}; pick those of their "
                "images"
            )
        (row, column), (height, width) = corner, embedding.shape[-2:]
        if prompts.masks is not None and prompts.masks.shape[1:] != (4 * height, 4 * width):
            raise ValueError(
                f"masks to go on from are logits ({4 * height}, {4 * width}), got {tuple(prompts.masks.shape[1:])}; "
                "pass those that the model gave"
            )
        prompts = _moved(prompts, self.stride * column, self.stride * row)
        tokens, dense = self.prompt_encoder(prompts)
        positions = self.prompt_encoder.positions()[:, row : row + height, column : column + width]
        logits, iou = self.mask_decoder(embedding, positions, tokens, dense[..., :height, :width])
        return PromptOutput(at_least_float32(logits), at_least_float32(iou))

    def forward(self, images: Tensor, targets: Targets | None = None, sizes: Sequence[Size] | None = None) -> SamOutput:
        """A conversation about the objects of the targets; without targets, the answers to a grid of clicks.

        Args:
            images: batch ``(B, 3, H, W)`` float in [0, 1], of at most the model's image size.
            targets: annotations with ``instances``, which are asked for, whatever their classes; crowds are not.
            sizes: true size ``(H, W)`` of each image; ``None`` when every image fills the batch.

        Raises:
            ValueError: when images or targets are malformed.
        """
        if targets is not None and self.training_settings.windows:
            return self._converse(*self._encode_window(images, sizes), *self._objects(targets), sizes=images.shape[-2:])
        embedding = self.encode(images, sizes)
        if targets is None:
            full = (images.shape[-2], images.shape[-1])
            return self._ask_everywhere(embedding, [full] * len(images) if sizes is None else list(sizes))
        return self._converse(embedding, (0, 0), *self._objects(targets), sizes=images.shape[-2:])

    def loss(self, out: SamOutput, targets: Targets) -> dict[str, Tensor]:
        """Three losses, weighted: focal and Dice of the masks, and the squared error of the predicted IoU.

        Each is a mean over the prompts and over the rounds. In the first round only the mask with the least loss is
        trained. They are 0 without objects.

        Args:
            out: an output of the same images and targets.
            targets: annotations with ``instances``.

        Raises:
            ValueError: without instances, or when the output was made without targets.
        """
        if bool((out.instance < 0).any()):
            raise ValueError("these masks answer a grid of clicks and ask for no object; pass targets to the model")
        s = self.training_settings
        wanted = self._wanted(out, targets)  # (N, h, w)
        first, later = (PromptOutput(_resized(a.logits, wanted.shape[1:]), a.iou) for a in (out.first, out.later))
        focal, dice = mask_losses(first.logits, wanted, alpha=s.alpha)  # (N, 3) each
        best = best_of(s.focal_weight * focal + s.dice_weight * dice, focal, dice)  # (N,) each
        error = (first.iou - iou_targets(first.logits, wanted)) ** 2  # (N, 3)
        then = (
            *mask_losses(later.logits, wanted, alpha=s.alpha),
            (later.iou - iou_targets(later.logits, wanted)) ** 2,
        )  # (N, R) each
        names, weights = ("focal", "dice", "iou"), (s.focal_weight, s.dice_weight, s.iou_weight)
        losses = {}
        for name, weight, at_first, afterwards in zip(names, weights, (*best, error.mean(1)), then, strict=True):
            each = torch.cat([at_first[:, None], afterwards], 1)  # (N, 1 + R)
            losses[name] = weight * each.sum() / max(each.numel(), 1)
        return losses

    def postprocess(
        self, out: SamOutput, sizes: Sequence[Size], output_sizes: Sequence[Size] | None = None
    ) -> list[Instances]:
        """What the clicks of a grid found in each image, without duplicates: class 0, by falling predicted IoU.

        Args:
            out: an output made without targets.
            sizes: true size ``(H, W)`` of each image.
            output_sizes: size ``(H, W)`` in which boxes and masks are wanted; ``None`` for ``sizes``.
        """
        wanted = sizes if output_sizes is None else output_sizes
        found = []
        for i, (size, output_size) in enumerate(zip(sizes, wanted, strict=True)):
            own = out.image == i
            part = PromptOutput(out.first.logits[own], out.first.iou[own])
            found.append(select_masks(part, out.points[own], size, output_size, self.image_size, self.everything))
        return found

    def _normalized(self, images: Tensor, sizes: Sequence[Size] | None) -> Tensor:
        x = self.normalize(images, sizes)
        height, width = x.shape[-2:]
        if max(height, width) > self.image_size:
            raise ValueError(
                f"images of at most {self.image_size} x {self.image_size} pixels go in, got {height} x {width}; resize "
                "them with `model.geometry`"
            )
        return x

    def _encode_window(self, images: Tensor, sizes: Sequence[Size] | None) -> tuple[Tensor, tuple[int, int]]:
        """Embeddings of the images alone, and the row and column of a place of theirs in the model's square."""
        x = self._normalized(images, sizes)
        height, width = x.shape[-2:]
        unit = math.lcm(self.stride, getattr(self.encoder, "size_divisibility", 1))  # else coarse maps lie aside
        if height % unit or width % unit:
            raise ValueError(
                f"sides of windows must be multiples of {unit}, got {height} x {width}; crop images to another size"
            )
        row, column = (int(torch.randint((self.image_size - n) // self.stride + 1, ())) for n in (height, width))
        return self.neck(self.encoder(x)), (row, column)

    def _ask_everywhere(self, embedding: Tensor, sizes: Sequence[Size]) -> SamOutput:
        grid = point_grid(self.everything.points_per_side).to(embedding)  # (G², 2) in shares of the image
        points = [grid * grid.new_tensor([width, height]) for height, width in sizes]
        labels = torch.ones(len(grid), 1, dtype=torch.int64, device=grid.device)
        first = _cat(
            [self.decode(e[None], Prompts(p[:, None], labels)).several for e, p in zip(embedding, points, strict=True)]
            or [self.decode(embedding, Prompts(grid[:0, None], labels[:0])).several]  # no images
        )
        image = torch.arange(len(sizes), device=grid.device).repeat_interleave(len(grid))
        later = PromptOutput(first.logits[:, :0], first.iou[:, :0])
        return SamOutput(first, later, image, torch.full_like(image, -1), torch.cat([grid[:0], *points]))

    def _objects(self, targets: Targets) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The objects to ask for: their image and place in it, ``(N,)`` each, masks ``(N, H, W)`` and boxes."""
        image, instance, masks, boxes = [], [], [], []
        for i, found in enumerate(_annotated(targets)):
            check_boxes(found.boxes, f"boxes of image {i}")
            can_be_asked = found.masks.flatten(1).any(1)  # (n,): no click lies on an empty mask
            if found.iscrowd is not None:
                can_be_asked &= ~found.iscrowd
            index = can_be_asked.nonzero()[:, 0]
            index = index[torch.randperm(len(index), device=index.device)[: self.training_settings.objects]]
            image.append(torch.full_like(index, i))
            instance.append(index)
            masks.append(found.masks[index])
            boxes.append(found.boxes[index])
        return torch.cat(image), torch.cat(instance), torch.cat(masks), torch.cat(boxes)

    def _converse(
        self,
        embedding: Tensor,
        corner: tuple[int, int],
        image: Tensor,
        instance: Tensor,
        masks: Tensor,
        boxes: Tensor,
        *,
        sizes: Size,
    ) -> SamOutput:
        """Ask for each object by a click or a box, then click where the answers are wrong."""
        by_box = torch.rand(len(image), device=image.device) < self.training_settings.boxes  # (N,)
        points = random_points(masks)  # (N, 2)
        boxes = noisy_boxes(boxes, sizes)
        labels = torch.ones(len(image), 1, dtype=torch.int64, device=image.device)
        order, parts = [], []
        for chosen, prompts in (
            (~by_box, Prompts(points=points[:, None], labels=labels)),
            (by_box, Prompts(boxes=boxes)),
        ):  # apart, because prompts with and without a box have other tokens
            rows = chosen.nonzero()[:, 0]
            order.append(rows)
            parts.append(self._ask_again(embedding[image[rows]], corner, prompts[rows], masks[rows]))
        first, later = (_cat(answers) for answers in zip(*parts, strict=True))
        rows = torch.cat(order)
        points = torch.where(by_box[:, None], (boxes[:, :2] + boxes[:, 2:]) / 2, points)
        return SamOutput(first, later, image[rows], instance[rows], points[rows])

    def _ask_again(
        self, embedding: Tensor, corner: tuple[int, int], prompts: Prompts, masks: Tensor
    ) -> tuple[PromptOutput, PromptOutput]:
        """The answers to the first prompts, ``(N, 3, …)``, and those of all later rounds, ``(N, R, …)``."""
        out = self.decode(embedding, prompts, corner)
        first = out.several if self.ambiguous else out.single
        answers = [PromptOutput(first.logits[:, :0], first.iou[:, :0])]
        last = first.best.logits[:, 0].detach()  # (N, h, w)
        for has_click in self._rounds():
            if has_click:
                points, labels = error_clicks(self._at_image_size(last, masks.shape[-2:]) > 0, masks)
                prompts = _with_click(prompts, points, labels)
            answers.append(self.decode(embedding, replace(prompts, masks=last), corner).single)
            last = answers[-1].logits[:, 0].detach()
        return first, PromptOutput(torch.cat([a.logits for a in answers], 1), torch.cat([a.iou for a in answers], 1))

    def _rounds(self) -> list[bool]:
        """Whether each round after the first has a new click."""
        s = self.training_settings
        rounds = [True] * s.clicks
        for _ in range(s.repeats - 1):
            rounds.insert(int(torch.randint(len(rounds) + 1, ())), False)
        return rounds + [False] * min(s.repeats, 1)

    def _at_image_size(self, logits: Tensor, size: Size) -> Tensor:
        """Logits ``(N, h, w)`` at the resolution of the batch, ``(N, H, W)``."""
        full = self._pixels(logits)
        return _resized(logits[:, None], full)[:, 0, : size[0], : size[1]]

    def _pixels(self, logits: Tensor) -> Size:
        """Height and width of what masks ``(…, h, w)`` cover, in pixels as the model sees them."""
        return logits.shape[-2] * self.stride // 4, logits.shape[-1] * self.stride // 4

    def _wanted(self, out: SamOutput, targets: Targets) -> Tensor:
        """Whether its object covers more than half of each cell of the losses' grid, ``(N, h, w)`` bool."""
        cell = max(1, self.stride // (4 * self.training_settings.finer))
        full = self._pixels(out.first.logits)
        parts = []
        for i, found in enumerate(_annotated(targets)):
            masks = found.masks[out.instance[out.image == i]]
            height, width = masks.shape[-2:]
            square = F.pad(masks, (0, full[1] - width, 0, full[0] - height))
            parts.append(F.avg_pool2d(square.float()[:, None], cell)[:, 0] > 0.5)
        order = torch.cat([(out.image == i).nonzero()[:, 0] for i in range(len(parts))])
        return torch.cat(parts)[order.argsort()]


def _annotated(targets: Targets) -> list[Instances]:
    """The objects of each image."""
    if targets.instances is None:
        raise ValueError("the targets have no `instances`; train on a dataset whose samples carry them")
    return targets.instances


def _with_click(prompts: Prompts, points: Tensor, labels: Tensor) -> Prompts:
    """The prompts with one click more, points ``(N, 2)`` and labels ``(N,)``."""
    points, labels = points[:, None], labels[:, None]
    if prompts.points is not None and prompts.labels is not None:
        points, labels = torch.cat([prompts.points, points], 1), torch.cat([prompts.labels, labels], 1)
    return replace(prompts, points=points, labels=labels)


def _moved(prompts: Prompts, right: int, down: int) -> Prompts:
    """The prompts, so many pixels further right and down."""
    if right == 0 and down == 0:
        return prompts
    points, boxes = prompts.points, prompts.boxes
    if points is not None:
        points = points + points.new_tensor([right, down])
    if boxes is not None:
        boxes = boxes + boxes.new_tensor([right, down, right, down])
    return replace(prompts, points=points, boxes=boxes)


def _resized(logits: Tensor, size: Size) -> Tensor:
    """Logits ``(N, M, h, w)`` at another size, N or M may be 0."""
    each = F.interpolate(logits.flatten(0, 1)[:, None], size, mode="bilinear")  # (N·M, 1, h', w')
    return each.view(*logits.shape[:2], *size)


def _cat(answers: Sequence[PromptOutput]) -> PromptOutput:
    return PromptOutput(torch.cat([a.logits for a in answers]), torch.cat([a.iou for a in answers]))


def sam_vit_b(*, image_size: int = 1024) -> Sam:
    """SAM on ViT-B, 94 million weights; ``seglib convert sam:vit_b`` turns the published ones into its own.

    Args:
        image_size: side of the square image in pixels; the published weights are for 1024.
    """
    return _on_vit(image_size, width=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11))


sam = sam_vit_b
"""The SAM to start with."""


def sam_vit_l(*, image_size: int = 1024) -> Sam:
    """SAM on ViT-L, 312 million weights. Arguments as in :func:`sam_vit_b`."""
    return _on_vit(image_size, width=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23))


def sam_vit_h(*, image_size: int = 1024) -> Sam:
    """SAM on ViT-H, 641 million weights, the paper's. Arguments as in :func:`sam_vit_b`."""
    return _on_vit(image_size, width=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31))


def _on_vit(image_size: int, **arguments: Any) -> Sam:
    return Sam(ImageEncoderViT(image_size, **arguments), 256, image_size=image_size)


def sam_tiny(*, image_size: int = 256, channels: int = 64, clicks: int = 2, ambiguous: bool = True) -> Sam:
    """SAM on the tiny encoder, for two CPU cores: 256 × 256 pixels, 1.0 million weights.

    The scenes' things are small. Therefore its embedding has a stride of 8 and its masks one of 2, finer maps go to the
    decoder, too (:class:`~seglib.layers.tiny.TinyNeck`), and a mask is made of twice as many features for its channels.
    Its losses compare masks at the resolution of the image, and the focal loss gives an object's pixels the same weight
    as the others, not a third of it. The conversations of training are shorter than the paper's. It believes less in
    its masks than SAM, so everything mode keeps those with a predicted IoU above 0.5 and a stability of at least 0.8.

    Args:
        image_size: side of the square image in pixels.
        channels: channels of the image embedding.
        clicks: number of clicks after the first prompt in training.
        ambiguous: whether a first prompt in training is answered with three masks.
    """
    encoder, features = TinyEncoder(), channels // 4
    return Sam(
        encoder,
        channels,
        image_size=image_size,
        stride=8,
        neck=TinyNeck(encoder, channels, features),
        decoder=MaskDecoder(channels, heads=4, hidden=4 * channels, features=features),
        ambiguous=ambiguous,
        training_settings=SamTraining(objects=4, clicks=clicks, repeats=0, finer=2, alpha=0.5),
        everything=EverythingSettings(points_per_side=16, iou_threshold=0.5, stability_threshold=0.8),
        normalize=Normalize(TINY_MEAN, TINY_STD),
    )
