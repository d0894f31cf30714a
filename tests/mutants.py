"""Do the tests bite? Faults that someone could make, one line each, and the test file that must notice.

``make mutants`` copies the package and the tests into temporary folders, makes one change at a time there, and runs the
named tests. A fault that they let pass is a missing test. ``python tests/mutants.py WORD…`` runs those whose file or
description holds one of the words.

Most of a short test run is the import of torch, so this process imports it once and every run is a fork of it. It must
not import seglib itself: each fork imports it from its own copy.
"""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 2
TIMEOUT = 180
"""Seconds for one run of a test file. A change that hangs its tests shows nothing about them."""
SHARED = ("torch", "torchvision", "scipy.ndimage", "pytest", "hypothesis", "_hypothesis_pytestplugin", "accelerate", "torchmetrics")
"""What the tests import and no mutant changes."""


@dataclass(frozen=True)
class Mutant:
    """One change: ``old``, which occurs once in ``file``, becomes ``new``; ``tests`` (arguments of pytest) must fail."""

    fault: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _of(file: str, tests: str, *changes: tuple[str, str, str]) -> list[Mutant]:
    """The mutants of one file; ``tests`` is the name of a test file, and perhaps more arguments of pytest."""
    name, *more = tests.split(" ", 2)
    return [Mutant(fault, f"seglib/{file}", old, new, (f"tests/{name}", *more)) for fault, old, new in changes]


MUTANTS: list[Mutant] = [
    *_of(
        "ops/boxes.py",
        "test_boxes.py",
        ("a box without width is let in", "boxes[:, 2:] > boxes[:, :2]", "boxes[:, 2:] >= boxes[:, :2]"),
        ("negative sides make an area", "(boxes[..., 2:] - boxes[..., :2]).clamp(min=0)", "boxes[..., 2:] - boxes[..., :2]"),
        ("boxes apart have an intersection", "(high - low).clamp(min=0)", "(high - low)"),
        ("GIoU counts the union's rest twice", "_ratio(hull - union, hull)", "_ratio(hull - inter, hull)"),
        ("no IoU makes the gradient NaN", "part / torch.where(empty, 1, whole)", "part / whole"),
        ("deltas are not weighted", "return deltas * deltas.new_tensor(weights)", "return deltas"),
        ("exp is not bounded", ".clamp(max=LARGEST_LOG_RATIO)", ""),
        ("height and width are swapped in clipping", "limit = of_each.flip(-1)", "limit = of_each"),
        ("boxes are not clipped at 0", ".clamp(min=0), limit[", ", limit["),
    ),
    *_of(
        "ops/masks.py",
        "test_ops_masks.py",
        ("the last pixel is left out of the box", "[x1, y1, x2, y2], 1)", "[x1, y1, x2 - 1, y2 - 1], 1)"),
        ("an empty mask has a box", "return boxes * columns.amax(1, keepdim=True)", "return boxes"),
        ("a crowd counts like an object", "torch.where(iscrowd, areas, union)", "union"),
        ("cropping looks at pixels' corners", "torch.arange(width, device=masks.device) + 0.5", "torch.arange(width, device=masks.device)"),
    ),
    *_of(
        "ops/nms.py",
        "test_nms.py",
        ("a box at the threshold is dropped", "rest[overlap <= threshold]", "rest[overlap < threshold]"),
        ("groups suppress each other", "wide + (groups * (high - low + 1))[:, None]", "wide"),
        ("moved boxes are rounded to float32", "wide = boxes.double()", "wide = boxes"),
        ("kept boxes stay in their own order", "return found[scores[found].argsort(descending=True, stable=True)]", "return found"),
        ("soft-NMS falls with the IoU, not its square", "-(overlap**2) / sigma", "-overlap / sigma"),
        ("soft-NMS takes a box twice", "left[best] = -1.0", "left[best] = 0.0"),
    ),
    *_of(
        "ops/rle.py",
        "test_rle.py",
        ("runs that don't fill the image pass", "wrong = zeros + ones != height * width", "wrong = zeros + ones > height * width"),
        ("negative runs pass", "if wrong.any() or pairs.min() < 0:", "if wrong.any():"),
        ("a polygon of two points is drawn", "len(polygon) >= 6", "len(polygon) >= 4"),
        ("packed numbers have no sign", "((bits[stops] ^ 16) - 16)", "bits[stops]"),
    ),
    *_of(
        "ops/borders.py",
        "test_borders.py",
        ("objects have border weights", " * (nearest[0] > 0)", ""),
        ("the bell is half as wide", "(2 * sigma**2)", "(sigma**2)"),
        ("far objects don't meet", "math.ceil(15 * sigma)", "math.ceil(3 * sigma)"),
        ("the second distance forgets the first", "torch.minimum(second, torch.maximum(first, distance))", "torch.minimum(second, distance)"),
    ),
    *_of(
        "ops/labels.py",
        "test_confusion.py",
        ("the label K passes", "low >= 0 and high < num_classes", "low >= 0 and high <= num_classes"),
    ),
    *_of(
        "losses/_inputs.py",
        "test_pixel_losses.py",
        ("an infinite weight passes", "if not (low >= 0 and high < math.inf):", "if not low >= 0:"),
    ),
    *_of(
        "losses/_inputs.py",
        "test_losses.py",
        ("bf16 logits stay bf16", "in (torch.float16, torch.bfloat16)", "in (torch.float16,)"),
    ),
    *_of(
        "losses/pixel.py",
        "test_pixel_losses.py",
        ("the mean forgets the weights", "/ torch.where(total > 0, total, 1)", "/ valid.sum().clamp_min(1)"),
        ("pixel weights replace class weights", "w = w * pixel_weight.to(logits)", "w = valid * pixel_weight.to(logits)"),
        ("focal loss has no focus", "loss = miss**gamma * ce", "loss = miss * ce"),
        ("focal loss is a mean over void too", "loss.sum() / valid.sum().clamp_min(1)", "loss.sum() / max(1, valid.numel())"),
        ("focal alpha is left out", "loss = alpha.to(logits)[known] * loss", "pass"),
        ("an easy pixel at the threshold is kept", "(-hardness).exp() >= threshold", "(-hardness).exp() > threshold"),
        ("twice as many pixels are kept", "labelled // 16", "labelled // 8"),
        ("one pixel too few is kept", "kthvalue(labelled - least + 1)", "kthvalue(min(labelled, labelled - least + 2))"),
        ("pixels that tie with the last are dropped", "kept = valid & ~(hardness < last)", "kept = valid & ~(hardness <= last)"),
    ),
    *_of(
        "losses/region.py",
        "test_region_losses.py",
        ("alpha and beta are swapped", "wrong = alpha * fp + beta * fn", "wrong = beta * fp + alpha * fn"),
        ("Dice smooths twice as much", "smooth=smooth / 2", "smooth=smooth"),
        ("a class is absent by its prediction", "tp + fn > 0 if", "tp + fp > 0 if"),
        ("the batch is counted image by image", "if not per_sample:", "if per_sample:"),
        ("rounding makes a count negative", "(total - tp).clamp_min(0)", "total - tp"),
        ("the gradient forgets false positives", "(d_tp - d_fn - d_fp)", "(d_tp - d_fn)"),
        ("void predicts something", "logits.softmax(1).mul_(valid[:, None])", "logits.softmax(1)"),
    ),
    *_of(
        "losses/lovasz.py",
        "test_lovasz.py",
        ("an absent class costs nothing", "g[:1] = 1  #", "pass  #"),
        ("absent classes count as present", 'if size or classes == "all"', 'if size or classes != ""'),
        ("slopes are of the wrong union", "(union - 1).clamp_min(1)", "union.clamp_min(1)"),
        ("void pixels are sorted first", "masked_fill_(~valid, one + 1)", "masked_fill_(~valid, 0)"),
    ),
    *_of(
        "losses/combined.py",
        "test_losses.py",
        ("another void is forgotten in a sum", "ce + lovasz_softmax(logits, target, ignore_index=ignore_index)", "ce + lovasz_softmax(logits, target)"),
    ),
    *_of(
        "metrics/confusion.py",
        "test_confusion.py",
        ("rows and columns are swapped", "torch.add(p.int(), t.int(), alpha=num_classes)", "torch.add(t.int(), p.int(), alpha=num_classes)"),
        ("only the last block counts", "table += torch.bincount(", "table = torch.bincount("),
        ("a prediction on void is checked", "pred = pred.long().masked_fill(target.long() == ignore_index, 0)", "pass"),
        ("a bad target label passes", "if rows > num_classes and table[num_classes:].any():", "if False:"),
        ("a class that was only predicted is absent", "present = scored & (row + column > 0)", "present = scored & (row > 0)"),
        ("the ignored class is scored", "n = n * scored[:, None]", "n = n * 1"),
        ("classes without a pixel spoil fwIoU", "seen = row > 0", "seen = row >= 0"),
    ),
    *_of(
        "metrics/streaming.py",
        "test_confusion.py",
        ("a batch replaces what was counted", "self.counts += counts.cpu()", "self.counts = counts.cpu()"),
        ("different metrics merge", "if other.settings != self.settings:", "if False:"),
        ("a sum is added to once more", "self._summed = True", "self._summed = False"),
        ("reset leaves the metric closed", "torch.zeros_like(self.counts)\n        self._summed = False", "torch.zeros_like(self.counts)"),
    ),
    *_of(
        "metrics/ap.py",
        "test_ap.py",
        ("crowds are objects to find", "ignored = outside(target.areas) | target.iscrowd[:, None]", "ignored = outside(target.areas)"),
        ("detections of another size are wrong", "miss = ~(matched | outside(prediction.areas[order])[..., None])", "miss = ~matched"),
        ("ties follow the order of arrival", "if self._ids and self._ids[0] is not None:", "if False:"),
        ("merged images share numbers", 'moved["image"] += len(self._ids)', "pass"),
    ),
    *_of(
        "metrics/ap_scores.py",
        "test_ap.py",
        ("precision is not read from there on", "np.maximum.accumulate(precision[n - 1 :: -1] if n else precision[:0])[::-1]", "precision[:n]"),
        ("a recall that is just reached is not", "np.searchsorted(np.arange(g + 1) / g, RECALLS)", 'np.searchsorted(np.arange(g + 1) / g, RECALLS, side="right").clip(max=g)'),
        ("an eleventh detection is one of ten", "kept = ranks[mine] < limit", "kept = ranks[mine] <= limit"),
        ("small and medium are swapped", "ap_small=float(_mean(ap[..., 1]))", "ap_small=float(_mean(ap[..., 2]))"),
        ("ten detections are a hundred", "ar10=float(_mean(recall[..., 0, 1]))", "ar10=float(_mean(recall[..., 0, 2]))"),
        ("recall is of all sizes", "final / objects[:, None]", "final / objects[0]"),
        ("a class without objects scores 0", "part[..., counts == 0, :] = np.nan", "pass"),
    ),
    *_of(
        "metrics/boundary.py",
        "test_boundary.py",
        ("the width is rounded down", "round(dilation_ratio * math.hypot(height, width))", "int(dilation_ratio * math.hypot(height, width))"),
        ("the image's border is no contour of a mask", "[width] * 4, value=1)", "[width] * 4, value=0)"),
        ("the image's border is no contour of a class", "_near_another(m, width, border=True)", "_near_another(m, width, border=False)"),
        ("void gives its neighbours a contour", "torch.where(labels == _NONE, -top, -labels)", "-labels"),
        ("the tolerance itself is too far", "dy * dy + dx * dx <= distance * distance", "dy * dy + dx * dx < distance * distance"),
        ("target and prediction are counted the other way", "n.diag(), n.sum(1), n.sum(0)", "n.diag(), n.sum(0), n.sum(1)"),
        ("a contour on one side only is absent", "present = sizes[0] + sizes[2] > 0", "present = sizes[0] * sizes[2] > 0"),
    ),
    *_of(
        "metrics/rand.py",
        "test_rand.py",
        ("split and merge are swapped", "together / of_truth, together / of_predicted", "together / of_predicted, together / of_truth"),
        ("predicted membrane does not count", "inside = truth != 0", "inside = (truth != 0) & (predicted != 0)"),
    ),
    *_of(
        "metrics/detection_errors.py",
        "test_detection_errors.py",
        ("a found object is found again", "of_class & ~taken, threshold", "of_class, threshold"),
        ("crowds are missed", "return DetectionErrors(kinds, objects, single & ~taken)", "return DetectionErrors(kinds, objects, ~taken)"),
        ("an IoU at the threshold is too small", "scores.max() >= least", "scores.max() > least"),
        ("detections choose in their own order", "prediction.scores.cpu().argsort(descending=True, stable=True).tolist()", "range(len(prediction))"),
    ),
    *_of(
        "layers/upsample.py",
        "test_upsample.py",
        ("an odd kernel is taken for an even factor", "2 * factor - factor % 2", "2 * factor - 1"),
        ("the tent is too narrow", "factor = (size + 1) // 2", "factor = size // 2"),
        ("channels mix", "kernel[same, same] =", "kernel[:, :] ="),
    ),
    *_of(
        "layers/grid.py",
        "test_upsample.py",
        ("padding moves the grid the wrong way", "dilation * (kernel - 1) / 2 - padding", "dilation * (kernel - 1) / 2 + padding"),
        ("dilation is left out", "dilation * (kernel - 1) / 2", "(kernel - 1) / 2"),
    ),
    *_of(
        "losses/overlapping.py",
        "test_overlapping.py",
        ("the mean runs over void", "known.sum().clamp(min=1)", "known.numel()"),
        ("void is predicted", "probs = logits.sigmoid() * known", "probs = logits.sigmoid()"),
        ("images are counted apart", "axes = [0, *range(2, logits.ndim)]", "axes = [*range(2, logits.ndim)]"),
    ),
    *_of(
        "metrics/overlap.py",
        "test_overlapping.py",
        ("predictions on void count", "prediction.flatten(1) & known", "prediction.flatten(1)"),
        ("IoU is Dice", "both / (predicted + true - both)", "both / (predicted + true)"),
    ),
    *_of(
        "ops/resize.py",
        "test_transforms.py -k pixel_centres or averaged or stays_in_range or dropped or void or reflects or same_geometry",
        ("labels are looked up at corners", "(2 * torch.arange(after, device=labels.device) + 1)", "(2 * torch.arange(after, device=labels.device))"),
        ("an image overshoots its range", "return out.clamp_(low, high)", "return out"),
        ("images are not filtered", "antialias=antialias)[0]", "antialias=False)[0]"),
    ),
    *_of(
        "ops/geometry.py",
        "test_geometry.py",
        ("the longer side has no limit", "scale = min(scale, self.longest / max(size))", "pass"),
        ("letterbox looks at the shorter side", "scale = self.size / max(size)", "scale = self.size / min(size)"),
        ("sides are always rounded down", 'half = 0.5 if self.rounding == "round" else 0.0', "half = 0.0"),
        ("a thin image has no pixel", "max(1, math.floor(side * scale + half))", "math.floor(side * scale + half)"),
    ),
    *_of(
        "ops/paste.py",
        "test_paste.py",
        ("pixels are looked up at their corners", "(pixel + 0.5 - low) / extent", "(pixel - low) / extent"),
        ("a pixel at the threshold is outside", "torch.ge(paste_probs(", "torch.gt(paste_probs("),
        ("only the first chunk is pasted", "range(0, len(probs), step)", "range(0, min(step, len(probs)), step)"),
        ("picked grids keep all boxes", "boxes=change(self.boxes))", "boxes=self.boxes[: len(change(self.probs))])"),
    ),
    *_of(
        "ops/roi.py",
        "test_roi.py -k hand or levels or level or random_boxes",
        ("levels begin at P2 whatever is lowest", " - lowest\n", " - 2\n"),
        ("boxes are half a cell off", "scaled = boxes * scale[:, None] - (0.5 if aligned else 0.0)", "scaled = boxes * scale[:, None]"),
        ("small boxes are not widened", "    if not aligned:\n        side = side.clamp(min=1)\n    x_cells", "    x_cells"),
        ("images share a table", "begin = first[level] + images * cells[level]", "begin = first[level]"),
        ("samples beyond the border count", "counts = (position >= -1) & (position <= length) &", "counts = (position >= -9) & (position <= length + 9) &"),
    ),
    *_of(
        "layers/normalize.py",
        "test_normalize.py",
        ("std multiplies", "/ self.std.view(column)", "* self.std.view(column)"),
        ("padding is normalised black", "return x if sizes is None else fill_padding(x, sizes, padding)", "return x"),
        ("the first padded row stays", "(index >= end)", "(index > end)"),
        ("padding repeats the row before the last", "torch.minimum(index, end - 1)", "torch.minimum(index, end - 2)"),
        ("8-bit images pass", "room = 0.5 * (most - least)", "room = 500 * (most - least)"),
    ),
    *_of(
        "layers/anchors.py",
        "test_detection_layers.py",
        ("ratios are width over height", "(side / root).flatten(), (side * root).flatten()", "(side * root).flatten(), (side / root).flatten()"),
        ("anchors are at corners of cells", "(torch.arange(width, device=device) + self.offset)", "torch.arange(width, device=device)"),
    ),
    *_of(
        "layers/rpn.py",
        "test_detection_layers.py",
        ("levels suppress each other", "(image * len(logits) + i)", "(image * len(logits))"),
        ("images suppress each other", "(image * len(logits) + i)", "(0 * image + i)"),
        ("boxes without area are proposed", "scores = torch.where(solid, scores, -torch.inf)", "pass"),
        ("suppressed boxes come back", "scores = torch.where(survives.view_as(scores), scores, -torch.inf)", "pass"),
    ),
    *_of(
        "layers/fpn.py",
        "test_fpn.py",
        ("maps from above are left out", "top = lateral + F.interpolate(", "top = lateral + 0 * F.interpolate("),
        ("an average is a sum", "top = top / 2", "pass"),
    ),
    *_of(
        "losses/assign.py",
        "test_detection_losses.py",
        ("a box at the foreground threshold is ignored", "best >= foreground_iou", "best > foreground_iou"),
        ("a box at the background threshold is background", "best < background_iou", "best <= background_iou"),
        ("an object that touches nothing makes all match", "(iou == highest) & (highest > 0)", "(iou == highest)"),
        ("background is not topped up", "[: batch_size - take]", "[: batch_size - int(batch_size * positive_fraction)]"),
    ),
    *_of(
        "losses/box.py",
        "test_detection_losses.py",
        ("the sum is a mean", 'reduction="sum", beta=beta', 'reduction="mean", beta=beta'),
    ),
    *_of(
        "losses/two_stage.py",
        "test_detection_losses.py",
        ("anchors are divided by the foreground", "smooth_l1(deltas[foreground], target, beta) / count", "smooth_l1(deltas[foreground], target, beta) / foreground.sum()"),
        ("the deltas of class 0 are trained", "own = labels[chosen] if deltas.shape[1] > 1 else torch.zeros_like(chosen)", "own = torch.zeros_like(chosen)"),
        ("deltas of the second stage are not weighted", "encode_boxes(boxes[chosen], rois[chosen], BOX_WEIGHTS)", "encode_boxes(boxes[chosen], rois[chosen])"),
        ("mask targets stay shares", "(cut >= 0.5).to(cut.dtype) if binary else cut", "cut"),
    ),
    *_of(
        "postprocess/instance.py",
        "test_mask_rcnn.py -k by_hand",
        ("classes suppress each other", "batched_nms(box, score, image * classes + label, nms)", "batched_nms(box, score, image * classes, nms)"),
        ("images suppress each other", "batched_nms(box, score, image * classes + label, nms)", "batched_nms(box, score, label, nms)"),
        ("a score at the threshold is a detection", "(scores > threshold) & solid", "(scores >= threshold) & solid"),
        ("detections reach over the border", "boxes = clip_boxes(boxes, size).expand", "boxes = boxes.expand"),
    ),
    *_of(
        "postprocess/semantic.py",
        "test_postprocess.py",
        ("flipped answers are not flipped back", "result.probs.flip(-1) if flipped else result.probs", "result.probs"),
        ("views are added, not averaged", "total / (len(views) * (1 + flip))", "total"),
        ("padding is part of the answer", "resize_image(crop_to(p, size), wanted, antialias=False)", "resize_image(p, wanted, antialias=False)"),
    ),
    *_of(
        "postprocess/tiles.py",
        "test_tiles.py",
        ("tiles have no context", "self.margin = 3 * overlap // 8", "self.margin = 0"),
        ("tiles fade the wrong way", "weights[stop - start - self.ramp :] = rise.flip(0)", "weights[stop - start - self.ramp :] = rise"),
        ("tiles begin off the model's grid", "math.floor(start / self.stride) * self.stride", "math.floor(start)"),
        ("the next band begins with the old one", "band[:, begun:] = 0", "pass"),
        ("a resized tile lacks a pixel to interpolate", "reach = self.margin + (view != self.size)", "reach = self.margin"),
    ),
    *_of(
        "models/base.py",
        "test_tasks.py",
        ("a model sees the padding of a batch", "out = self(crop_to(part, size))", "out = self(part)"),
        ("results of a mixed batch change places", "[wanted[i] for i in members]", "wanted[: len(members)]"),
    ),
    *_of(
        "models/semantic.py",
        "test_deeplab.py",
        ("the auxiliary loss counts in full", "sum(share * self._compare(aux,", "sum(self._compare(aux,"),
    ),
    *_of(
        "models/mask_rcnn.py",
        "test_postprocess.py",
        ("x is scaled as the height", "[new_width / width, new_height / height]", "[new_height / height, new_width / width]"),
        ("detections lie in the padding", "boxes = clip_boxes(out.boxes[i] * scale, size)", "boxes = out.boxes[i] * scale"),
    ),
    *_of(
        "models/mask_rcnn.py",
        "test_mask_rcnn.py",
        ("objects that no anchor reaches are lost", "allow_low_quality_matches=True", "allow_low_quality_matches=False"),
    ),
    *_of(
        "types.py",
        "test_types.py",
        ("the last object can't be picked by -1", "            index %= len(self)\n", ""),
        ("crowds are forgotten when put together", "torch.cat(crowds) if any(p.iscrowd is not None for p in parts) else None", "None"),
        ("a padded batch passes for a full one", "return self.sizes if any(tuple(size) != full for size in self.sizes) else None", "return None"),
    ),
    *_of(
        "data/collate.py",
        "test_collate.py",
        ("padding is class 0", 'stacked("semantic", VOID)', 'stacked("semantic", 0)'),
        ("padding is outside of every region", 'stacked("regions", VOID)', 'stacked("regions", 0)'),
        ("padding weighs something", 'stacked("pixel_weight", 0)', 'stacked("pixel_weight", 1)'),
        ("sizes are the batch's", "sizes: list[Size] = [tuple(s.image.shape[1:]) for s in samples]", "sizes: list[Size] = [_largest([tuple(s.image.shape[1:]) for s in samples], 1)] * len(samples)"),
        ("annotations of another size are cut to the image's", "size = tuple(sample.output_size or sample.image.shape[1:])", "size = tuple(sample.image.shape[1:])"),
        ("sides are rounded down to a multiple", "-(-max(side) // multiple) * multiple", "max(side) // multiple * multiple"),
    ),
    *_of(
        "data/transforms.py",
        "test_transforms.py -k pixel_centres or averaged or stays_in_range or dropped or void or reflects or same_geometry",
        ("what comes from outside is class 0", 'tv_tensors.Mask(VOID - sample.semantic)', "tv_tensors.Mask(sample.semantic)"),
        ("objects without a pixel stay", "moved if bool(visible.all()) else moved[visible]", "moved"),
        ("boxes stay where they were", "instances.replace(masks=masks, boxes=masks_to_boxes(masks))", "instances.replace(masks=masks)"),
        ("areas stay as they were", "replace(s, area=areas[s.id])", "s"),
    ),
    *_of(
        "train/loop.py",
        "test_train_arithmetic.py",
        ("the learning rate is never scheduled", 'group["lr"] = group["initial_lr"] * factor', 'group["lr"] = group["initial_lr"]'),
        ("the schedule is a step early", "                step - 1,\n", "                step,\n"),
        ("the EMA is never updated", "ema.update_parameters(model)", "pass"),
        ("the raw weights are scored, not the EMA", "scored: Any = ema.module if ema is not None else model", "scored: Any = model"),
        ("the raw weights are kept, not the EMA", "save_weights(ema.module if ema is not None else model,", "save_weights(model,"),
        ("the gradient is never clipped", "accelerator.clip_grad_norm_(wrapped.parameters(), config.clip)", "pass"),
        ("each of accumulated gradients is clipped", "if accelerator.sync_gradients and config.clip:", "if config.clip:"),
        ("the loss of accumulated batches is not divided", "total += loss.detach() / config.accumulate", "total += loss.detach()"),
        ("gradients are not accumulated", "gradient_accumulation_steps=config.accumulate", "gradient_accumulation_steps=1"),
        ("the last weights are kept, not the best", "scores[task.score] > history.best:", "True:"),
    ),
    *_of(
        "train/optim.py",
        "test_train_arithmetic.py",
        ("momentum is not Nesterov's", "nesterov=momentum > 0", "nesterov=False"),
        ("warm-up begins at 0", "return (step + 1) / (warmup + 1)", "return step / (warmup + 1)"),
        ("all parts learn alike", '"initial_lr": lr * factor', '"initial_lr": lr'),
    ),
    *_of(
        "train/optim.py",
        "test_optim.py",
        ("biases decay", ' and "bias" not in own_name', ""),
        ("the rate falls a step late", "step >= round(share * steps)", "step > round(share * steps)"),
        ("the shortest name decides", "max(starts, key=len)", "min(starts, key=len)"),
    ),
    *_of(
        "train/tasks.py",
        "test_train_arithmetic.py",
        ("padding is scored", "wanted.replace(masks=crop_to(wanted.masks, size))", "wanted"),
        ("a loss does not hear of padding", "batch.targets, batch.padded_sizes), batch.targets)", "batch.targets), batch.targets)"),
    ),
    *_of(
        "train/tasks.py",
        "test_tasks.py",
        ("results are not brought to the size of the labels", "model.predict(batch.images, batch.sizes, batch.output_sizes)", "model.predict(batch.images, batch.sizes)"),
        ("void is outside of regions", "inside.to(torch.uint8).masked_fill(labels[:, None] == VOID, VOID)", "inside.to(torch.uint8)"),
    ),
    *_of(
        "train/sampling.py",
        "test_train.py -k stream or epoch or augmentation",
        ("each epoch has the same order", "manual_seed(mix_seed(self.seed, epoch))", "manual_seed(mix_seed(self.seed))"),
        ("each epoch has the same augmentation", "mix_seed(self.seed, epoch, index)", "mix_seed(self.seed, index)"),
    ),
    *_of(
        "train/checkpoint.py",
        "test_train.py -k resumed_run",
        ("a resumed run begins with other random numbers", 'torch.set_rng_state(tensors["rng.cpu"])', "pass"),
        ("a resumed run begins its average anew", 'ema.load_state_dict(part["ema."])', "pass"),
    ),
]  # fmt: skip


def occurrences(mutant: Mutant, root: Path = ROOT) -> int:
    """How often the text to change occurs in its file; it must be once."""
    path = root / mutant.file
    return path.read_text().count(mutant.old) if path.exists() else 0


def copy_tree(copy: Path) -> Path:
    """A private copy of the package and its tests."""
    for name in ("seglib", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def start(copy: Path, tests: tuple[str, ...]) -> int:
    """Fork a process that runs the tests in ``copy`` and writes to ``output.txt`` there. Returns its number."""
    if pid := os.fork():
        return pid
    code = 3
    try:
        signal.alarm(TIMEOUT)  # nothing catches it: the process ends
        with open(copy / "output.txt", "w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        os.chdir(copy)
        sys.path[0] = str(copy)
        import pytest

        quiet = ["-x", "-q", "--tb=short", "--no-header", "-p", "no:cacheprovider"]
        plugins = ["-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin", "--hypothesis-seed=0"]
        imported = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # plugins are here before pytest looks for them
        code = pytest.main([*quiet, *plugins, *imported, "-m", "not slow", *tests])
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # whatever happened, a fork must not go on as if it were the whole


def run_all(runs: Iterable[tuple[tuple[str, ...], Mutant | None]], copies: list[Path], told: Callable[..., None]) -> None:
    """Make each change and run its tests, in as many processes as there are copies of the tree.

    Args:
        runs: arguments of pytest, and the change to make before, if any.
        copies: the trees.
        told: ``told(tests, mutant, verdict, output)`` hears of each run as it ends. The verdict is "passed", "failed",
            or "broken" when no test ran to its end: an error of import, or a hang.
    """
    free = list(copies)
    busy: dict[int, tuple[Path, tuple[str, ...], Mutant | None, str]] = {}

    def wait() -> None:
        pid, status = os.wait()
        copy, tests, mutant, whole = busy.pop(pid)
        if mutant:
            (copy / mutant.file).write_text(whole)
        verdict = {0: "passed", 1: "failed"}.get(os.waitstatus_to_exitcode(status), "broken")
        told(tests, mutant, verdict, (copy / "output.txt").read_text())
        free.append(copy)

    for tests, mutant in runs:
        if not free:
            wait()
        copy, whole = free.pop(), ""
        if mutant:
            whole = (copy / mutant.file).read_text()
            (copy / mutant.file).write_text(whole.replace(mutant.old, mutant.new))
        busy[start(copy, tests)] = copy, tests, mutant, whole
    while busy:
        wait()


def main(words: list[str]) -> int:
    """Run the mutants that hold one of the words, all without one. Returns 1 when one is not killed."""
    started = time.perf_counter()
    chosen = [m for m in MUTANTS if not words or any(w in f"{m.file} {m.fault}" for w in words)]
    # plugins that no test of these needs take longer to import than the tests
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    sys.dont_write_bytecode = True  # a change within the second of the last one would run the old bytecode
    for name in SHARED:
        importlib.import_module(name)
    gc.freeze()  # forks need not look through what they share
    bad = 0

    def told(tests: tuple[str, ...], mutant: Mutant | None, verdict: str, output: str) -> None:
        nonlocal bad
        if mutant is None:
            if verdict != "passed":
                bad += 1
                print(f"{' '.join(tests)}: {verdict} without any change\n{output[-2000:]}", flush=True)
            return
        word = {"passed": "SURVIVED", "failed": "killed", "broken": "BROKEN"}[verdict]
        print(f"{word:8}  {mutant.file}: {mutant.fault}", flush=True)
        if verdict != "failed":
            bad += 1
            print(output[-2000:] if verdict == "broken" else f"          add a test to {tests[0]}", flush=True)

    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = [copy_tree(Path(folder) / str(i)) for i in range(WORKERS)]
        for m in chosen:
            if occurrences(m, copies[0]) != 1:
                bad += 1
                print(f"{m.file}: {m.fault}: {m.old!r} occurs {occurrences(m, copies[0])} times, it must be once")
        if not bad:
            run_all([(tests, None) for tests in sorted({m.tests for m in chosen})], copies, told)
        if bad:
            return 1  # killed or survived would mean nothing
        run_all([(m.tests, m) for m in chosen], copies, told)
    print(f"{len(chosen) - bad} of {len(chosen)} killed in {time.perf_counter() - started:.0f} s")
    return int(bad > 0 or not chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
