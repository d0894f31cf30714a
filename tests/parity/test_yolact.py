"""seglib's YOLACT equals its authors': weights under the official checkpoint's keys, through the converter."""

import functools
import sys
import zlib

import numpy as np
import pytest
import torch
from golden import FOLDER, converted

from seglib.losses.assign import BACKGROUND
from seglib.losses.two_stage import BOX_WEIGHTS
from seglib.models.instance import crowds_of, objects_of
from seglib.models.yolact import YOLACTDetections, select, suppress
from seglib.models.zoo import build
from seglib.ops.boxes import decode_boxes, encode_boxes
from seglib.ops.dynamic_masks import DynamicMasks
from seglib.ops.geometry import Geometry
from seglib.types import Instances, Targets
from seglib.weights import convert
from seglib.weights.renaming import rename
from seglib.weights.yolact import YOLACT

pytestmark = pytest.mark.slow

SIZE = (128, 160)


@functools.cache
def setup():
    return converted("yolact_resnet50", "yolact:yolact_resnet50")


def batch(golden):
    """The stored images, red first, as seglib takes them."""
    return golden["small/image"].float() / 255


@functools.cache
def output():
    golden, model = setup()
    with torch.no_grad():
        return model(batch(golden))


def relative(boxes, size):
    """Boxes in pixels → in shares of the image."""
    height, width = size
    return boxes / torch.tensor([width, height, width, height])


def centred(boxes):
    """xyxy → centre and size."""
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)


def background_first(logits):
    return logits.roll(1, -1)


def test_stages():
    golden, model = setup()
    with torch.no_grad():
        maps = model.encoder(model.normalize(batch(golden)))
        pyramid = model.pyramid(model.normalize(batch(golden)))
    for level in ("c2", "c3", "c4", "c5"):
        golden.check(f"small/backbone.{level}", maps[level])
    for i, level in enumerate(("p3", "p4", "p5", "p6", "p7")):
        golden.check(f"small/fpn.{level}", pyramid[i])
    out = output()
    golden.check("small/proto", out.prototypes.permute(0, 2, 3, 1))
    golden.check("small/loc", out.deltas)
    golden.check("small/conf_logits", background_first(out.class_logits))
    golden.check("small/mask_coeff", out.coefficients)
    golden.check("small/priors", centred(relative(out.anchors, SIZE)))
    golden.check("small/segm_logits", out.semantic)


def targets(golden, crowd):
    found = []
    for i in (0, 1):
        known = golden[f"loss/target{i}.boxes_labels"]
        boxes = known[:, :4] * torch.tensor([160.0, 128, 160, 128])
        masks = golden[f"loss/target{i}.masks"]
        iscrowd = torch.zeros(len(known), dtype=torch.bool)
        iscrowd[-1] = crowd and i == 1
        found.append(Instances(masks, known[:, 4].long(), boxes, iscrowd=iscrowd))
    return Targets(instances=found)


@pytest.mark.parametrize("case", ["loss", "loss_crowd"])
def test_matching(case):
    golden, model = setup()
    truth, out = targets(golden, case == "loss_crowd"), output()
    objects = objects_of(truth, 80)
    matches = model.match(out, objects, crowds_of(truth))
    labels, index, deltas = [], [], []
    for match, own in zip(matches, objects, strict=True):
        # the reference: 0 background, −1 ignored, else the label + 1
        label = torch.where(match >= 0, own.labels[match.clamp(min=0)] + 1, torch.where(match == BACKGROUND, 0, -1))
        labels.append(label)
        index.append(match)
        positive = match >= 0
        deltas.append(encode_boxes(own.boxes[match[positive]], out.anchors[positive], BOX_WEIGHTS))
    assert torch.equal(torch.stack(labels).to(torch.int16), golden[f"{case}/match.conf_t"])
    positive = matches >= 0
    assert torch.equal(matches[positive].to(torch.int16), golden[f"{case}/match.idx_t"][positive])
    assert positive.sum(1).tolist() == golden.meta["positives_per_image"][case]
    golden.check(f"{case}/match.loc_t_at_positives", torch.cat(deltas))


@pytest.mark.parametrize("case", ["loss", "loss_crowd"])
def test_losses(case):
    golden, model = setup()
    check_losses(golden, case, model.loss(output(), targets(golden, case == "loss_crowd")))


def check_losses(golden, case, losses):
    for mine, other in {"box": "B", "mask": "M", "class": "C", "semantic": "S"}.items():
        want, got = golden.meta["losses"][case][other], losses[mine].item()
        assert abs(got - want) <= 1e-4 * want, (mine, got, want)


def test_gradients():
    golden, _ = setup()
    model = build("yolact_resnet50", num_classes=80)
    model.load_state_dict(setup()[1].state_dict())
    model.eval()
    losses = model.loss(model(batch(golden)), targets(golden, False))
    check_losses(golden, "loss", losses)
    sum(losses.values()).backward()
    # a number under each of their names tells what it becomes here
    order = list(golden.state)
    renamed = rename({k: torch.tensor(i) for i, k in enumerate(order)}, YOLACT, "it")
    norms = golden.meta["grad_norms"]["loss"]
    own = {name: p.grad for name, p in model.named_parameters()}
    assert len(own) == len(norms)
    for name, gradient in own.items():
        want, got = norms[order[int(renamed[name])]], float(gradient.double().norm())
        # two runs of the reference differ by 5.6e-5
        assert abs(got - want) <= 2e-4 * want, (name, got, want)


def check_detections(golden, case, out, size, wanted):
    model = setup()[1]
    enough = golden.meta["postprocess"][case]["score_threshold"]
    anchor, labels, scores = select(out.class_logits[0], out.deltas[0], out.anchors, YOLACTDetections())
    kept = scores > enough
    assert int(kept.sum()) == golden.meta["postprocess"][case]["detections"]
    anchor = anchor[kept]
    boxes = decode_boxes(out.deltas[0, anchor], out.anchors[anchor], BOX_WEIGHTS)
    golden.check(f"{case}/nms.class", labels[kept].int())
    golden.check(f"{case}/nms.score", scores[kept], 1e-3)
    golden.check(f"{case}/nms.box_relative", relative(boxes, size))
    golden.check(f"{case}/nms.coeff", out.coefficients[0, anchor])

    found = model.postprocess(out, [size], [wanted])[0]
    found = found[found.scores > enough]
    golden.check(f"{case}/final.class", found.labels.int())
    golden.check(f"{case}/final.score", found.scores, 1e-3)
    assert torch.equal(found.boxes.int(), golden[f"{case}/final.box_pixels"])  # there, pixels are cut to integers
    golden.check(f"{case}/final.mask", found.masks)


def test_detections_of_a_small_image():
    golden, model = setup()
    with torch.no_grad():
        out = model(batch(golden)[:1])
    check_detections(golden, "detect_small", out, SIZE, SIZE)


def test_detections_at_the_published_size():
    golden, model = setup()
    sys.path.insert(0, str(FOLDER))
    try:
        from weights import make_image
    finally:
        sys.path.remove(str(FOLDER))
    image = make_image(*golden.meta["image"]["detect_550"]["make_image"])
    assert zlib.crc32(np.ascontiguousarray(image).tobytes()) == golden.meta["image"]["detect_550"]["crc32"]
    with torch.no_grad():
        out = model(torch.from_numpy(image)[None].float() / 255)
    golden.check("detect_550/proto", out.prototypes.permute(0, 2, 3, 1))
    golden.check("detect_550/loc", out.deltas)
    golden.check("detect_550/conf_logits", background_first(out.class_logits))
    golden.check("detect_550/mask_coeff", out.coefficients)
    golden.check("detect_550/priors", centred(relative(out.anchors, (550, 550))))
    settings = golden.meta["postprocess"]["detect_550"]
    check_detections(golden, "detect_550", out, (550, 550), (settings["height"], settings["width"]))


@pytest.mark.parametrize("case", ["fast", "cross_class"])
def test_fast_nms(case):
    golden, _ = setup()
    boxes, scores = golden["fast_nms/boxes"], golden["fast_nms/scores"].T  # (40, 4), (40, 5)
    settings = YOLACTDetections(pre_nms_top_k=20, cross_class=case == "cross_class")
    index, labels, kept = suppress(boxes, scores, settings)
    golden.check(f"fast_nms/{case}.classes", labels.int())
    golden.check(f"fast_nms/{case}.scores", kept)
    golden.check(f"fast_nms/{case}.boxes", boxes[index])
    golden.check(f"fast_nms/{case}.coeff", golden["fast_nms/coeff"][index])


def test_masks():
    golden, _ = setup()
    size = (131, 173)
    prototypes = golden["masks/proto"].permute(2, 0, 1)  # (32, 35, 44)
    # one of the boxes has its corners exchanged; decoded boxes never have
    boxes = golden["masks/boxes"].unflatten(1, (2, 2)).sort(1).values.flatten(1)
    masks = DynamicMasks(
        prototypes, golden["masks/coeff"], (32, 1), canvas=size, image_size=size, size=size,
        boxes=boxes * torch.tensor([44, 35, 44, 35]), padding=1,
    )  # fmt: skip
    golden.check("masks/assembled", masks.logits().sigmoid().permute(1, 2, 0))
    golden.check("masks/cropped", masks.probs().permute(1, 2, 0))
    golden.check("masks/mask", masks.dense())


def test_the_weights_carry_the_size_at_which_the_published_model_sees_images():
    golden, _ = setup()
    metadata = convert("yolact:yolact_resnet50", golden.state)[2]
    assert Geometry(**metadata["geometry"]) == Geometry("square", 550, antialias=False)


def test_what_old_checkpoints_hold_in_addition_is_left_out():
    golden, _ = setup()
    old = {
        "backbone.layer1.0.conv1.weight": torch.zeros(1),
        "fpn.downsample_layers.2.weight": torch.zeros(1),
        "fpn.downsample_layers.10.bias": torch.zeros(1),
    }
    assert convert("yolact:yolact_resnet50", golden.state | old)[1].keys() == setup()[1].state_dict().keys()


def test_weights_of_other_classes_are_called_by_number():
    golden, _ = setup()
    few = {k: v[: 3 * 21] if "conf_layer" in k else v for k, v in golden.state.items()}
    few = {k: v[:20] if "semantic_seg_conv" in k else v for k, v in few.items()}
    _, _, facts = convert("yolact:yolact_resnet50", few)
    assert facts["arguments"]["num_classes"] == 20 and facts["categories"][19]["name"] == "class 19"


def test_weights_of_another_network_are_refused():
    golden, _ = setup()
    with pytest.raises(ValueError, match="the key 'backbone.stages.0.weight' is unknown"):
        convert("yolact:yolact_resnet50", golden.state | {"backbone.stages.0.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="these are not the weights of yolact:yolact_base"):
        convert("yolact:yolact_base", golden.state)
