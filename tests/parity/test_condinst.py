"""seglib's CondInst equals AdelaiDet's: weights under the official checkpoint's keys, through the converter."""

import functools

import pytest
import torch
from golden import SIZES, batch, converted, targets

from seglib.layers.fcos import locations
from seglib.losses.assign_fcos import box_distances
from seglib.models.zoo import build
from seglib.ops.dynamic_conv import dynamic_conv
from seglib.ops.geometry import Geometry
from seglib.ops.resize import aligned_bilinear
from seglib.weights import convert
from seglib.weights.adelaidet import CONDINST
from seglib.weights.renaming import rename

pytestmark = pytest.mark.slow

STRIDES = (8, 16, 32, 64, 128)
CELLS = [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)]


@functools.cache
def setup():
    return converted("condinst_r50", "adelaidet:condinst_R_50")


@functools.cache
def output():
    golden, model = setup()
    with torch.no_grad():
        return model(batch(golden), sizes=SIZES)


@functools.cache
def alone(i):
    """The output of one image without the other's padding, as the reference infers."""
    golden, model = setup()
    height, width = SIZES[i]
    with torch.no_grad():
        return model(batch(golden)[i : i + 1, :, :height, :width])


def test_stages():
    golden, model = setup()
    with torch.no_grad():
        maps = model.encoder(model.normalize(batch(golden), SIZES))
        pyramid = model.fpn([maps[level] for level in model.encoder_levels])
        found = model.head(pyramid)
    for stage, level in zip(("res3", "res4", "res5"), ("c3", "c4", "c5"), strict=True):
        golden.check(f"small/backbone.{stage}", maps[level])
    for level, p, f in zip(("p3", "p4", "p5", "p6", "p7"), pyramid, found, strict=True):
        golden.check(f"small/fpn.{level}", p)
        golden.check(f"small/{level}.cls_logits", f.class_logits)
        golden.check(f"small/{level}.reg", f.distances)
        golden.check(f"small/{level}.ctrness", f.centerness)
        golden.check(f"small/{level}.controller", f.parameters)
    golden.check("small/mask_feats", output().mask_features)


def test_the_output_holds_the_stages_location_by_location():
    golden, _ = setup()
    out, begin = output(), 0
    for i, (level, stride, cells) in enumerate(zip(("p3", "p4", "p5", "p6", "p7"), STRIDES, CELLS, strict=True)):
        rows = slice(begin, begin + cells[0] * cells[1])
        begin = rows.stop
        assert (out.level[rows] == i).all() and torch.equal(out.locations[rows], locations(cells, stride))
        golden.check(f"small/{level}.reg", out.distances[:, rows].mT.unflatten(2, cells) / stride)
        golden.check(f"small/{level}.ctrness", out.centerness[:, None, rows].unflatten(2, cells))
        golden.check(f"small/{level}.controller", out.parameters[:, rows].mT.unflatten(2, cells))
        golden.check(f"small/{level}.cls_logits", out.class_logits[:, rows].mT.unflatten(2, cells))
    assert begin == len(out.locations) and out.canvas.tolist() == [128, 160]


def test_the_dynamic_head_alone():
    golden, model = setup()
    size = torch.tensor(model.levels.sizes_of_interest)[golden["dynamic_head/levels"].long(), None]
    points = golden["dynamic_head/locations"]
    x, y = ((points[:, i : i + 1] - (torch.arange(n) * 8 + 4)) / size for i, n in enumerate((11, 9)))
    for impl in ("grouped", "reference"):
        logits = dynamic_conv(
            golden["dynamic_head/mask_feats"], golden["dynamic_head/params"], model.channels,
            image=golden["dynamic_head/image_index"].long(), x=x, y=y, impl=impl,
        )  # fmt: skip
        golden.check("dynamic_head/logits", aligned_bilinear(logits, 2))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_aligned_bilinear(factor):
    golden, _ = setup()
    golden.check(f"aligned_bilinear/by{factor}", aligned_bilinear(golden["aligned_bilinear/x"], factor))


def test_sizes_of_interest():
    golden, model = setup()
    assert list(model.levels.sizes_of_interest) == golden["derived/mask_head.sizes_of_interest"].tolist()


@pytest.mark.parametrize("i", [0, 1])
def test_detections_before_masks(i):
    golden, model = setup()
    out, key = alone(i), f"detect/image{i}.pre"
    index, labels, scores, boxes = detect(golden, i)
    assert len(index) == len(golden[f"{key}.classes"])
    golden.check(f"{key}.classes", labels.int())
    golden.check(f"{key}.levels", out.level[index].int())
    golden.check(f"{key}.locations", out.locations[index])
    golden.check(f"{key}.scores", scores)
    golden.check(f"{key}.boxes", boxes)
    golden.check(f"{key}.params", out.parameters[0, index])
    logits = model.mask_logits(out, torch.zeros_like(index), index)
    golden.check(f"detect/image{i}.mask_probs", logits[:, None].sigmoid())


def threshold(golden, i):
    """A detection's score is the root of what the reference's threshold is about."""
    return golden.meta["class_times_centerness_threshold"]["detect"][f"image{i}"] ** 0.5


def detect(golden, i):
    """The detections that the fixture has: it was made with a higher threshold, which NMS doesn't notice."""
    found = setup()[1].detect(alone(i), 0)
    kept = found[2] > threshold(golden, i)
    return [part[kept] for part in found]


@pytest.mark.parametrize("i", [0, 1])
def test_final_detections(i):
    golden, model = setup()
    found = model.postprocess(alone(i), [SIZES[i]])[0]
    found = found[found.scores > threshold(golden, i)]
    check_detections(golden, f"detect/image{i}", found)


def test_detections_at_another_size():
    golden, model = setup()
    resized = tuple(golden.meta["resized_output"]["detect"])
    found = model.postprocess(alone(0), SIZES[:1], [resized])[0]
    found = found[found.scores > threshold(golden, 0)]
    check_detections(golden, "detect/image0_resized", found)


def check_detections(golden, key, found):
    assert len(found) == len(golden[f"{key}.classes"])
    golden.check(f"{key}.classes", found.labels.int())
    golden.check(f"{key}.scores", found.scores, 1e-3)
    golden.check(f"{key}.boxes", found.boxes, 1e-3)
    golden.check(f"{key}.masks", found.masks)


def level_first(rows):
    """``(2, L, …)`` in the fixture's order: level, then image, then row and column."""
    parts = rows.split([h * w for h, w in CELLS], 1)
    return torch.cat([p.flatten(0, 1) for p in parts])


def test_assignment():
    golden, model = setup()
    out, objects = output(), targets(golden).instances
    matches = model.assign(out, objects)  # (2, L)
    labels = torch.stack([torch.where(m >= 0, o.labels[m], 80) for m, o in zip(matches, objects, strict=True)])
    assert torch.equal(level_first(labels), golden["loss/labels"].long())
    strides = torch.tensor(STRIDES)[out.level, None]
    away = torch.stack(
        [box_distances(out.locations, o.boxes[m]) / strides for m, o in zip(matches, objects, strict=True)]
    )
    positive = level_first(matches) >= 0
    assert int(positive.sum()) == golden.meta["positives"]["loss"]
    golden.check("loss/positive_reg_targets", level_first(away)[positive])
    # the fixture counts the objects of the whole batch
    row = torch.stack([matches[0], torch.where(matches[1] >= 0, matches[1] + len(objects[0]), -1)])
    assert torch.equal(level_first(row)[positive], golden["loss/positive_object"].long())


def positives(golden):
    """Image and index of the positive locations, in the fixture's order."""
    matches = setup()[1].assign(output(), targets(golden).instances)
    image, index = (
        level_first(t.expand(2, -1))
        for t in (torch.arange(2)[:, None].expand_as(matches), torch.arange(matches.shape[1])[None])
    )
    kept = level_first(matches) >= 0
    return image[kept], index[kept]


def test_mask_logits_of_the_positive_locations():
    golden, model = setup()
    with torch.no_grad():
        logits = model.mask_logits(output(), *positives(golden))
    golden.check("loss/positive_mask_logits", logits[:, None])


def test_losses_and_gradients():
    golden, _ = setup()
    model = build("condinst_resnet50", num_classes=80, frozen=True, stride_in_1x1=True)
    model.load_state_dict(setup()[1].state_dict())
    model.eval()  # the reference's batch norms were, too
    losses = model.loss(model(batch(golden), sizes=SIZES), targets(golden))
    names = {
        "class": "loss_fcos_cls", "box": "loss_fcos_loc", "centerness": "loss_fcos_ctr", "mask": "loss_mask",
    }  # fmt: skip
    assert losses.keys() == names.keys()
    for mine, other in names.items():
        want, got = golden.meta["losses"]["loss"][other], losses[mine].item()
        assert abs(got - want) <= 1e-4 * want, (mine, got, want)
    sum(losses.values()).backward()
    # a number under each of AdelaiDet's names tells what it becomes here
    order = [k for k in golden.state if not k.startswith("mask_branch.")]
    renamed = rename({k: torch.tensor(i) for i, k in enumerate(order)}, CONDINST, "it")
    norms, checked = golden.meta["grad_norms"]["loss"], 0
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        if name == "head.scales":  # one number for each level, a tensor of its own in the reference
            pairs = [(f"proposal_generator.fcos_head.scales.{i}.scale", g) for i, g in enumerate(parameter.grad)]
        else:
            pairs = [(name if name.startswith("mask_branch.") else order[int(renamed[name])], parameter.grad)]
        for key, grad in pairs:
            got = float(grad.double().norm())  # float32 loses a thousandth over many squares
            # two runs of the reference, with other kernels, differ by 1.9e-4
            assert abs(got - norms[key]) <= 5e-4 * norms[key], (key, got, norms[key])
            checked += 1
    assert checked == len(norms)


def test_the_weights_carry_the_size_at_which_the_published_models_see_images():
    golden, _ = setup()
    metadata = convert("adelaidet:condinst_R_50", golden.state)[2]
    assert Geometry(**metadata["geometry"]) == Geometry("shorter", 800, 1333)
