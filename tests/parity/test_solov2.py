"""seglib's SOLOv2 equals AdelaiDet's: weights under the official checkpoint's keys, through the converter."""

import copy
import functools
from dataclasses import replace

import pytest
import torch
from golden import SIZES, batch, converted, image, targets

from seglib.models.solov2 import point_nms, resized_levels
from seglib.models.zoo import build
from seglib.ops.geometry import Geometry
from seglib.ops.masks import mask_iou, resize_masks
from seglib.ops.nms import mask_nms, matrix_nms
from seglib.weights import convert
from seglib.weights.adelaidet_solo import SOLOV2
from seglib.weights.detectron2 import RESNET_FPN
from seglib.weights.renaming import rename

pytestmark = pytest.mark.slow

GRIDS = (40, 36, 24, 16, 12)


@functools.cache
def setup():
    return converted("solov2_r50", "adelaidet:solov2_R_50")


@functools.cache
def output():
    golden, model = setup()
    with torch.no_grad():
        return model(batch(golden), sizes=SIZES)


def per_level(cells):
    """``(B, S, C)`` → of each level ``(B, C, G, G)``."""
    parts = cells.split([g * g for g in GRIDS], 1)
    return [p.mT.unflatten(2, (g, g)) for p, g in zip(parts, GRIDS, strict=True)]


def test_backbone_and_pyramid():
    golden, model = setup()
    with torch.no_grad():
        maps = model.encoder(model.normalize(batch(golden), SIZES))
        pyramid = model.pyramid(batch(golden), SIZES)
        resized = resized_levels(pyramid)
    for stage, level in zip(("res2", "res3", "res4", "res5"), ("c2", "c3", "c4", "c5"), strict=True):
        golden.check(f"small/backbone.{stage}", maps[level])
    for i, level in enumerate(("p2", "p3", "p4", "p5", "p6")):
        golden.check(f"small/fpn.{level}", pyramid[i])
    golden.check("small/resized_level0", resized[0])
    golden.check("small/resized_level4", resized[4])
    assert all(torch.equal(resized[i], pyramid[i]) for i in (1, 2, 3))


def test_heads():
    golden, out = setup()[0], output()
    logits, kernels = per_level(out.category_logits), per_level(out.kernels)
    for i in range(5):
        golden.check(f"small/level{i}.category_logits", logits[i])
        golden.check(f"small/level{i}.kernels", kernels[i])
    golden.check("small/mask_features", out.mask_features)
    assert out.canvas.tolist() == [128, 160]


def test_point_nms():
    golden, _ = setup()
    assert torch.equal(point_nms(golden["point_nms/x"][0]), golden["point_nms/y"][0])


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_matrix_nms(kernel):
    golden, _ = setup()
    masks, labels, scores = (golden[f"matrix_nms/{part}"] for part in ("masks", "labels", "scores"))
    lowered = matrix_nms(mask_iou(masks, masks), labels.long(), scores, kernel=kernel, sigma=2.0)
    golden.check(f"matrix_nms/{kernel}", lowered, 1e-6)


def test_mask_nms():
    golden, _ = setup()
    masks, labels, scores = (golden[f"matrix_nms/{part}"] for part in ("masks", "labels", "scores"))
    kept = torch.zeros(14, dtype=torch.bool)
    kept[mask_nms(mask_iou(masks, masks), labels.long(), scores, 0.5)] = True
    assert torch.equal(kept, golden["matrix_nms/mask_nms_keep"])


@functools.cache
def detector(i):
    golden, model = setup()
    model = copy.copy(model)
    limits = golden.meta["thresholds"]["detect"][f"image{i}"]
    model.detections = replace(
        model.detections, threshold=limits["score_threshold"], mask_threshold=limits["mask_threshold"],
        min_score=limits["update_threshold"],
    )  # fmt: skip
    return golden, model


def check_detections(golden, key, found):
    golden.check(f"{key}.classes", found.labels.int())
    golden.check(f"{key}.scores", found.scores, 1e-3)
    golden.check(f"{key}.masks", found.masks)


@pytest.mark.parametrize("i", [0, 1])
def test_final_detections(i):
    golden, model = detector(i)
    check_detections(golden, f"detect/image{i}", model.predict(image(golden, i)[None])[0])


def test_detections_at_another_size():
    golden, model = detector(0)
    resized = tuple(golden.meta["resized_output"]["detect"])
    found = model.predict(image(golden, 0)[None], output_sizes=[resized])[0]
    check_detections(golden, "detect/image0_resized", found)


@pytest.mark.parametrize("i", [0, 1])
def test_targets(i):
    golden, model = setup()
    objects = targets(golden).instances[i]
    found = model.assign(output(), objects)
    labels = torch.where(found.matches >= 0, objects.labels[found.matches], 80)
    small = resize_masks(objects.masks, (32, 40), canvas=(128, 160), half_inside=True)[found.objects]
    begin = 0
    for level, grid in enumerate(GRIDS):
        part = slice(begin, begin + grid * grid)
        golden.check(f"loss/target{i}.level{level}.category", labels[part].view(grid, grid).to(torch.uint8), 0)
        here = (found.cells >= part.start) & (found.cells < part.stop)
        want = golden.meta["positive_cells"]["loss"][f"image{i}"][level]
        assert (found.cells[here] - begin).tolist() == want
        assert torch.equal(small[here], golden[f"loss/target{i}.level{level}.masks"])
        begin = part.stop


def test_losses_and_gradients():
    golden, reference = setup()
    model = build("solov2_resnet50", num_classes=80, frozen=True, stride_in_1x1=True)
    model.load_state_dict(reference.state_dict())
    model.eval()
    losses = model.loss(model(batch(golden), sizes=SIZES), targets(golden))
    for mine, other in {"mask": "loss_ins", "category": "loss_cate"}.items():
        want, got = golden.meta["losses"]["loss"][other], losses[mine].item()
        assert abs(got - want) <= 1e-4 * want, (mine, got, want)
    sum(losses.values()).backward()
    # a number under each of AdelaiDet's names tells what it becomes here
    order = list(golden.state)
    renamed = rename({k: torch.tensor(i) for i, k in enumerate(order)}, [*RESNET_FPN, *SOLOV2], "it")
    norms, checked = golden.meta["grad_norms"]["loss"], 0
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        want = norms[order[int(renamed[name])]]
        got = float(parameter.grad.double().norm())  # float32 loses a thousandth over 13 million squares
        # two runs of the reference differ by 2.3e-4
        assert abs(got - want) <= 5e-4 * want, (name, got, want)
        checked += 1
    assert checked == len(norms)


def test_the_weights_carry_the_size_at_which_adelaidets_models_see_images():
    metadata = convert("adelaidet:solov2_R_50", setup()[0].state)[2]
    assert Geometry(**metadata["geometry"]) == Geometry("shorter", 800, 1333)
