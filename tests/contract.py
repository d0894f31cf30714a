"""What every model must do, whatever it predicts. Each check takes a model and its task's inputs.

A new task adds one `Inputs` to `INPUTS`; a new architecture adds nothing but its slim build in `slim.py`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seglib.data.collate import collate
from seglib.ops.masks import masks_to_boxes
from seglib.types import (
    VOID,
    Batch,
    Instances,
    Panoptic,
    Regions,
    Sample,
    Segment,
    SegmentationModel,
    Semantic,
    Size,
    Targets,
)
from seglib.weights import load_weights, save_weights

CLASSES = 5
SIZES = [(33, 47), (7, 5), (64, 96)]  # odd, smaller than any stride, multiples of the stride and not square
MIXED = [(40, 56), (33, 64), (23, 17)]  # of one batch, which is then 40 × 64: none fills it
WANTED = [(40, 56), (66, 50), (11, 30)]  # output sizes of these: the same, larger and narrower, smaller and wider


@dataclass(frozen=True)
class Inputs:
    """Makes what the models of one task take, for `CLASSES` classes.

    images: (batch, size) → images.  targets: the same → targets in which every class occurs.
    empty: the same → targets without anything in them.  check: (prediction, size) → asserts its types and shapes,
    and that it lies within the image.  numbers: prediction → what another order of float sums may change by rounding.
    full: the size that these make of (H, W): with a third axis for volumes.
    """

    images: Callable[[int, tuple[int, int]], Tensor]
    targets: Callable[[int, tuple[int, int]], Targets]
    empty: Callable[[int, tuple[int, int]], Targets]
    check: Callable[[Any, tuple[int, int]], None]
    numbers: Callable[[Any], list[Tensor]]
    full: Callable[[Size], Size] = lambda size: size


def _images(batch: int, size: tuple[int, int]) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def _labels(batch: int, size: tuple[int, int]) -> Targets:
    labels = torch.randint(CLASSES, (batch, *size), generator=torch.Generator().manual_seed(1))
    labels[:, 0, 0] = VOID
    return Targets(semantic=labels)


def _void(batch: int, size: tuple[int, int]) -> Targets:
    return Targets(semantic=torch.full((batch, *size), VOID))


def _check_semantic(prediction: Semantic, size: tuple[int, int]) -> None:
    assert prediction.labels.dtype == torch.int64 and prediction.labels.shape == size
    assert prediction.probs.dtype == torch.float32 and prediction.probs.shape == (CLASSES, *size)
    torch.testing.assert_close(prediction.probs.sum(0), torch.ones(size))
    assert torch.equal(prediction.probs.argmax(0), prediction.labels)


def _regions(batch: int, size: tuple[int, int]) -> Targets:
    regions = torch.randint(2, (batch, CLASSES, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    regions[:, :, 0, 0] = VOID
    return Targets(regions=regions)


def _void_regions(batch: int, size: tuple[int, int]) -> Targets:
    return Targets(regions=torch.full((batch, CLASSES, *size), VOID, dtype=torch.uint8))


def _check_regions(prediction: Regions, size: tuple[int, int]) -> None:
    assert prediction.masks.dtype == torch.bool and prediction.masks.shape == (CLASSES, *size)
    assert prediction.probs.dtype == torch.float32 and prediction.probs.shape == (CLASSES, *size)
    assert torch.equal(prediction.probs > 0.5, prediction.masks)


def _objects(batch: int, size: tuple[int, int]) -> Targets:
    """One box of each class in every image, at different places."""
    height, width = size
    g = torch.Generator().manual_seed(1)
    found = []
    for _ in range(batch):
        corner = torch.rand(CLASSES, 2, generator=g) * 0.5
        side = 0.2 + 0.3 * torch.rand(CLASSES, 2, generator=g)
        x1, y1 = (corner * torch.tensor([width, height])).T.floor()
        x2, y2 = ((corner + side) * torch.tensor([width, height])).T.ceil()
        x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
        parts = [(x > a) & (x < c) & (y > b) & (y < d) for a, b, c, d in zip(x1, y1, x2, y2, strict=True)]
        found.append(Instances(torch.stack(parts), torch.arange(CLASSES), torch.stack([x1, y1, x2, y2], 1)))
    return Targets(instances=found)


def _nothing(batch: int, size: tuple[int, int]) -> Targets:
    none = Instances(torch.zeros(0, *size, dtype=torch.bool), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    return Targets(instances=[none] * batch)


def _check_instances(prediction: Instances, size: tuple[int, int]) -> None:
    n = len(prediction)
    assert prediction.masks.dtype == torch.bool and prediction.masks.shape == (n, *size)
    assert prediction.labels.dtype == torch.int64 and prediction.boxes.shape == (n, 4)
    assert ((prediction.labels >= 0) & (prediction.labels < CLASSES)).all()
    assert ((prediction.scores > 0) & (prediction.scores <= 1)).all() and (prediction.scores.diff() <= 0).all()
    x1, y1, x2, y2 = prediction.boxes.unbind(1)
    assert ((x1 >= 0) & (y1 >= 0) & (x1 < x2) & (y1 < y2) & (x2 <= size[1]) & (y2 <= size[0])).all()


def _check_anything(prediction: Instances, size: tuple[int, int]) -> None:
    """Objects without a class, whose scores are what the model expects of them."""
    n = len(prediction)
    assert prediction.masks.dtype == torch.bool and prediction.masks.shape == (n, *size)
    assert prediction.labels.dtype == torch.int64 and not prediction.labels.any() and prediction.boxes.shape == (n, 4)
    assert prediction.scores is not None and (prediction.scores.diff() <= 0).all()
    assert torch.equal(prediction.boxes, masks_to_boxes(prediction.masks))


def _everything(batch: int, size: tuple[int, int]) -> Targets:
    """Boxes of the things and labels of all classes; of `CLASSES` the last two are stuff.

    The panoptic map holds these boxes, one before the other, on the left and the right half of the image as stuff.
    """
    things = CLASSES - 2
    found = [o[o.labels < things] for o in _objects(batch, size).instances or []]
    panoptic = []
    for objects in found:
        ids = torch.full(size, CLASSES, dtype=torch.int32)
        ids[:, : size[1] // 2] -= 1
        for i, mask in enumerate(objects.masks, 1):
            ids[mask] = i
        ids[0, 0] = 0
        areas = [(i, int((ids == i).sum())) for i in range(1, CLASSES + 1)]
        panoptic.append(Panoptic(ids, [Segment(i, i - 1, i <= things, area) for i, area in areas if area]))
    return replace(_labels(batch, size), instances=found, panoptic=panoptic)


def _void_and_nothing(batch: int, size: tuple[int, int]) -> Targets:
    void = [Panoptic(torch.zeros(size, dtype=torch.int32))] * batch
    return replace(_void(batch, size), instances=_nothing(batch, size).instances, panoptic=void)


def _check_panoptic(prediction: Panoptic, size: tuple[int, int]) -> None:
    ids, segments = prediction.map, prediction.segments
    assert ids.dtype == torch.int32 and ids.shape == size
    assert [s.id for s in segments] == list(range(1, len(segments) + 1)) and set(ids.unique().tolist()) <= {
        0,
        *(s.id for s in segments),
    }
    assert [s.area for s in segments] == [int((ids == s.id).sum()) for s in segments] and all(s.area for s in segments)
    assert [s.isthing for s in segments] == [s.category_id < CLASSES - 2 for s in segments]
    assert all(0 <= s.category_id < CLASSES and s.isthing == (s.score is not None) for s in segments)


def deep(size: Size) -> Size:
    """The size of a volume for the size of an image: some slices of half the height and width."""
    return (size[0] // 8 + 1, *((n + 1) // 2 for n in size))


INPUTS: dict[str, Inputs] = {
    # labels and masks follow from the probabilities, as `check` holds, and may change where two classes tie
    "semantic": Inputs(_images, _labels, _void, _check_semantic, lambda p: [p.probs]),
    "regions": Inputs(_images, _regions, _void_regions, _check_regions, lambda p: [p.probs]),
    "instance": Inputs(_images, _objects, _nothing, _check_instances, lambda p: list(tensors(p))),
    "panoptic": Inputs(_images, _everything, _void_and_nothing, _check_panoptic, lambda p: list(tensors(p))),
    "prompt": Inputs(_images, _objects, _nothing, _check_anything, lambda p: list(tensors(p))),
    "volume": Inputs(
        lambda batch, size: _images(batch, deep(size)),
        lambda batch, size: _labels(batch, deep(size)),
        lambda batch, size: _void(batch, deep(size)),
        lambda prediction, size: _check_semantic(prediction, deep(size)),
        lambda p: [p.probs],
        full=deep,
    ),
}


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in dataclasses, instances, lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Instances):
        yield from tensors([value.masks, value.labels, value.boxes, value.scores])
    elif isinstance(value, Panoptic):
        yield value.map
        yield torch.tensor([[s.category_id, s.area, s.score or 0.0] for s in value.segments])
    elif is_dataclass(value):
        for f in fields(value):
            yield from tensors(getattr(value, f.name))
    elif isinstance(value, list | tuple | dict):
        for v in value.values() if isinstance(value, dict) else value:
            yield from tensors(v)


def assert_same(a: Any, b: Any, *, rtol: float = 0.0, atol: float = 0.0, of_largest: float = 0.0) -> None:
    """The same tensors on both sides, and not merely zeros; ``of_largest`` is a tolerance in shares of the largest."""
    pairs = list(zip(tensors(a), tensors(b), strict=True))
    assert any(vary(x) for x, _ in pairs), "the outputs do not vary, comparing them would prove nothing"
    for x, y in pairs:
        if not x.is_floating_point():
            assert torch.equal(x, y)
            continue
        largest = float(torch.where(y.isfinite(), y.abs(), 0).max()) if of_largest and y.numel() else 0.0
        torch.testing.assert_close(x, y, rtol=rtol, atol=atol + of_largest * largest)


def hold_something(predictions: list[Any]) -> bool:
    if any(isinstance(p, Panoptic) for p in predictions):
        return any(len(p.segments) > 1 for p in predictions)
    return any(t.numel() for t in tensors(predictions))  # no object, no number


def vary(x: Tensor) -> bool:
    return x.is_floating_point() and x.numel() > 1 and float(x[x.isfinite()].std()) > 1e-3


def mixed_batch(inputs: Inputs, output_sizes: list[Size] | None = None) -> Batch:
    """Images of the sizes `MIXED` in one batch, annotated unless results are wanted at other sizes."""
    samples = []
    for i, size in enumerate(MIXED):
        sample = Sample(inputs.images(1, size)[0], str(i), output_size=output_sizes and inputs.full(output_sizes[i]))
        if output_sizes is None:
            targets = inputs.targets(1, size)
            found = {f.name: getattr(targets, f.name) for f in fields(targets)}
            sample = replace(sample, **{name: v[0] for name, v in found.items() if v is not None})
        samples.append(sample)
    return collate(samples)


def stir(model: nn.Module) -> nn.Module:
    """Move every weight and statistic off its start, so that layers which start at zero take part."""
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.02 * torch.randn(p.shape, generator=g)
        for m in model.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm):
                m.running_mean += 0.1 * torch.randn(m.running_mean.shape, generator=g)
                m.running_var *= 0.5 + torch.rand(m.running_var.shape, generator=g)
    return model


def without_dropout(model: nn.Module) -> nn.Module:
    for m in model.modules():
        if isinstance(m, nn.modules.dropout._DropoutNd):
            m.p = 0.0
    return model


def total(losses: dict[str, Tensor]) -> Tensor:
    for name, value in losses.items():
        assert value.shape == (), f"loss {name!r} is not a scalar"
    return torch.stack(list(losses.values())).sum()


def follows_the_protocol(model: nn.Module, inputs: Inputs) -> None:
    assert isinstance(model, SegmentationModel)
    for name in ("__call__", "loss", "postprocess", "predict"):
        own = inspect.signature(getattr(model, "forward" if name == "__call__" else name)).parameters
        assert list(own) == list(inspect.signature(getattr(SegmentationModel, name)).parameters)[1:], name


def any_input_size(model: nn.Module, inputs: Inputs) -> None:
    seen = []
    for size in SIZES:
        predictions = model.predict(inputs.images(2, size))
        assert len(predictions) == 2
        for prediction in predictions:
            inputs.check(prediction, size)
        seen += predictions
    assert hold_something(seen), "nothing was predicted, so nothing was checked"


def no_images(model: nn.Module, inputs: Inputs) -> None:
    assert model.predict(inputs.images(2, (32, 32))[:0]) == []


def empty_targets(model: nn.Module, inputs: Inputs) -> None:
    model.train()
    images, targets = inputs.images(2, (64, 64)), inputs.empty(2, (64, 64))
    losses = model.loss(model(images, targets), targets)
    total(losses).backward()
    for name, value in losses.items():
        assert torch.isfinite(value), f"loss {name!r} is {value} without targets"
    for name, p in model.named_parameters():
        assert p.grad is None or torch.isfinite(p.grad).all(), f"the gradient of {name} is not finite without targets"
    if all(value == 0 for value in losses.values()):
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def backward_reaches_every_parameter(model: nn.Module, inputs: Inputs) -> None:
    model.train()
    images, targets = inputs.images(2, (64, 64)), inputs.targets(2, (64, 64))
    unreached = ["everything"]
    for _ in range(20):  # a detector's losses look at a sample, and one draw may miss the few anchors of a coarse level
        total(model.loss(model(images, targets), targets)).backward()
        unreached = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
        if not unreached:
            break
    assert not unreached, f"no gradient reaches {unreached}"


def loss_uses_no_parameters(model: nn.Module, inputs: Inputs) -> None:
    model.train()
    images, targets = inputs.images(2, (64, 64)), inputs.targets(2, (64, 64))
    with torch.no_grad():
        out = model(images, targets)
    assert not total(model.loss(out, targets)).requires_grad, "the loss touches parameters; forward must compute that"


def predict_leaves_no_trace(model: nn.Module, inputs: Inputs) -> None:
    model.train()
    next(m for m in model.modules() if not list(m.children())).eval()  # one frozen layer
    modes = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    model.predict(inputs.images(2, (64, 64)))
    assert [m.training for m in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"predict changed {name}"
    assert torch.is_grad_enabled()


def same_output_in_train_and_eval(model: nn.Module, inputs: Inputs) -> None:
    images, targets = inputs.images(2, (64, 64)), inputs.targets(2, (64, 64))
    trained, evaluated, alone = model.train()(images, targets), model.eval()(images, targets), model(images)
    assert type(trained) is type(evaluated) is type(alone)
    # targets may steer how many regions a model looks at, its mode may not
    assert [t.shape for t in tensors(trained)] == [t.shape for t in tensors(evaluated)]
    assert [(t.ndim, t.dtype) for t in tensors(trained)] == [(t.ndim, t.dtype) for t in tensors(alone)]


def round_trip(model: nn.Module, other: nn.Module, inputs: Inputs, folder: Path) -> None:
    save_weights(model, folder / "weights.safetensors", {"model": "any"})
    assert load_weights(other, folder / "weights.safetensors") == {"model": "any"}
    images = inputs.images(2, (33, 47))
    with torch.no_grad():
        assert_same(model.eval()(images), other.eval()(images))


def compiles(model: nn.Module, inputs: Inputs, backend: str) -> None:
    images = inputs.images(2, (64, 96))
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model.eval(), backend=backend, fullgraph=True)
        # a compiler may fuse and reorder float32 sums
        assert_same(compiled(images), model(images), rtol=1e-4, atol=1e-4)


def exports(model: nn.Module, inputs: Inputs) -> None:
    images = inputs.images(2, (64, 96))
    with torch.no_grad():  # as it is run: without gradients images go channels last
        program = torch.export.export(model.eval(), (images,))
        # a two-stage model pools all slots here and the filled ones outside, so float32 sums come in another order;
        # measured: 3e-6 of a tensor's largest number with random weights
        assert_same(program.module()(images), model(images), rtol=1e-5, atol=1e-5, of_largest=1e-5)


def bf16_is_finite(model: nn.Module, inputs: Inputs) -> None:
    model.train()
    images, targets = inputs.images(2, (64, 64)), inputs.targets(2, (64, 64))
    with torch.autocast("cpu", torch.bfloat16):
        loss = total(model.loss(model(images, targets), targets))
    loss.backward()
    assert torch.isfinite(loss)
    for name, p in model.named_parameters():
        assert not p.requires_grad or torch.isfinite(p.grad).all(), f"the gradient of {name} is not finite"


def predicts_in_bf16(model: nn.Module, inputs: Inputs) -> None:
    if any(isinstance(m, nn.AvgPool3d) for m in model.modules()):
        pytest.skip("torch has no 3D average pooling in bf16 on a CPU")
    predictions = model.to(torch.bfloat16).predict(inputs.images(1, (64, 64)))
    assert len(predictions) == 1
    for t in tensors(predictions):
        assert torch.isfinite(t).all() and t.dtype not in (torch.bfloat16, torch.float16)


def batch_equals_one_by_one(model: nn.Module, inputs: Inputs) -> None:
    """In float64, so that rounding can't swap two detections or decide a pixel: other kernels for other batch sizes."""
    model.double()
    images = inputs.images(3, (40, 56)).double()
    predictions = model.predict(images)
    assert all(hold_something([p]) for p in predictions), "nothing was predicted, so nothing was compared"
    together = [inputs.numbers(p) for p in predictions]
    alone = [inputs.numbers(model.predict(image[None])[0]) for image in images]
    assert_same(together, alone, rtol=1e-6, atol=1e-6)  # results are float32


def mixed_sizes_equal_one_by_one(model: nn.Module, inputs: Inputs) -> None:
    batch = mixed_batch(inputs, WANTED)
    assert batch.images.shape[2:] == inputs.full((40, 64))
    assert batch.sizes == [inputs.full(s) for s in MIXED] and batch.output_sizes == [inputs.full(s) for s in WANTED]
    predictions = model.predict(batch.images, batch.sizes, batch.output_sizes)
    assert all(hold_something([p]) for p in predictions), "nothing was predicted, so nothing was compared"
    for i, (prediction, size) in enumerate(zip(predictions, WANTED, strict=True)):
        inputs.check(prediction, size)
        alone = model.predict(inputs.images(1, MIXED[i]), None, [inputs.full(size)])
        assert_same(prediction, alone[0])


def padding_changes_nothing(model: nn.Module, inputs: Inputs) -> None:
    """Whatever is written beyond the true sizes, ``forward`` sees what it fills in after normalisation."""
    batch = mixed_batch(inputs)
    padding = torch.ones_like(batch.images, dtype=torch.bool)
    for i, size in enumerate(batch.sizes):
        padding[(i, slice(None), *(slice(n) for n in size))] = False
    noise = torch.rand(batch.images.shape, generator=torch.Generator().manual_seed(3))
    filled = [torch.where(padding, fill, batch.images) for fill in (torch.tensor(0.0), torch.tensor(1.0), noise)]
    model.eval()
    with torch.no_grad():
        for targets in (None, batch.targets):
            outputs = []
            for images in filled:
                torch.manual_seed(0)  # of samplers
                outputs.append(model(images, targets, batch.sizes))
            assert_same(outputs[0], outputs[1])
            assert_same(outputs[0], outputs[2])
        seen = list(zip(tensors(model(filled[1])), tensors(model(filled[2])), strict=True))
        assert not all(torch.equal(a, b) for a, b in seen), "what is no padding should be seen"
        predictions = model.postprocess(model(noise, None, batch.sizes), batch.sizes)
        assert hold_something(predictions), "nothing was predicted, so nothing was checked"
        for prediction, size in zip(predictions, MIXED, strict=True):
            inputs.check(prediction, size)


def postprocess_is_pure(model: nn.Module, inputs: Inputs) -> None:
    """It uses no parameter, changes nothing, and gives results of the sizes that it is asked for."""
    batch = mixed_batch(inputs)
    with torch.no_grad():
        out = model.eval()(batch.images, None, batch.sizes)
    before = copy.deepcopy(out)
    model.to("meta")  # parameters and buffers without values: whoever uses one fails
    predictions = model.postprocess(out, batch.sizes, [inputs.full(size) for size in WANTED])
    assert hold_something(predictions), "nothing was predicted, so nothing was checked"
    for prediction, size in zip(predictions, WANTED, strict=True):
        inputs.check(prediction, size)
    assert_same(model.postprocess(out, batch.sizes), model.postprocess(out, batch.sizes, batch.sizes))
    assert_same(out, before)


def refuses_bad_images(model: nn.Module, inputs: Inputs) -> None:
    images = inputs.images(2, (32, 32))
    any_range = model.normalize.value_range is None
    with pytest.raises(ValueError, match=r"\.float\(\)" if any_range else "divide 8-bit images by 255"):
        model.predict((images * 255).to(torch.uint8))
    if not any_range:
        with pytest.raises(ValueError, match=r"span 0\.\d+ to 25\d; divide"):
            model.predict(images * 255)
        with pytest.raises(ValueError, match="the model normalises"):
            model.predict((images - 0.5) / 0.25)
    with pytest.raises(ValueError, match="nan"):
        model.predict(images * float("nan"))
    axes = "D, H, W" if images.ndim == 5 else "H, W"
    shape = ", ".join(str(n) for n in images.shape[2:])
    with pytest.raises(ValueError, match=rf"expected images \(B, 3, {axes}\), got shape \(2, 1, {shape}\)"):
        model.predict(images[:, :1])
    with pytest.raises(ValueError, match=rf"got shape \(3, {shape}\)"):
        model.predict(images[0])
