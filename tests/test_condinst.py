"""CondInst: what its filters draw, what its losses look at, what it refuses, and that it learns."""

from dataclasses import replace

import pytest
import torch

from seglib.data.collate import collate
from seglib.data.scenes import Scenes
from seglib.layers.fcos import FCOSHead
from seglib.layers.fpn import FPN, TopConvs
from seglib.layers.mask_branch import MaskBranch
from seglib.layers.tiny import TinyEncoder
from seglib.losses.region import mask_dice_loss
from seglib.models.condinst import (
    CondInst,
    CondInstLevels,
    CondInstOutput,
    CondInstTraining,
    condinst_fpn,
    condinst_tiny,
    filter_channels,
)
from seglib.ops.dynamic_conv import filter_count
from seglib.ops.dynamic_masks import DynamicMasks
from seglib.ops.masks import masks_to_boxes
from seglib.ops.resize import aligned_bilinear
from seglib.types import Instances, Targets
from seglib.weights import convert
from seglib.weights.adelaidet import convert_condinst


def some_images(n=2, size=64):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def objects(boxes, labels=None, size=64, **more):
    """Rectangles as instances."""
    masks = torch.zeros(len(boxes), size, size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    labels = torch.zeros(len(boxes), dtype=torch.int64) if labels is None else torch.tensor(labels)
    return Instances(masks, labels, masks_to_boxes(masks), **more)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return condinst_tiny(3).eval()


@pytest.fixture(scope="module")
def out(model):
    with torch.no_grad():
        return model(some_images())


def with_objects(model, out, found):
    """The output of a perfect model: where an object is, its class, its box, and centerness are sure."""
    matches = model.assign(out, found)
    logits, centerness = torch.full_like(out.class_logits, -20), torch.full_like(out.centerness, -20)
    distances = out.distances.clone()
    for i, (match, truth) in enumerate(zip(matches, found, strict=True)):
        at = (match >= 0).nonzero()[:, 0]
        boxes = truth.boxes[match[at]]
        logits[i, at, truth.labels[match[at]]] = 20
        centerness[i, at] = 20
        distances[i, at] = torch.cat([out.locations[at] - boxes[:, :2], boxes[:, 2:] - out.locations[at]], 1)
    return replace(out, class_logits=logits, centerness=centerness, distances=distances)


TRUTH = [objects([(4, 4, 20, 30), (40, 10, 60, 50)], [2, 0]), objects([(8, 8, 24, 20)], [1])]


def test_locations_run_over_levels_rows_and_columns(model, out):
    cells = [16 * 16, 8 * 8, 4 * 4, 2 * 2]
    assert out.level.tolist() == [i for i, n in enumerate(cells) for _ in range(n)]
    assert out.locations[:2].tolist() == [[2, 2], [6, 2]] and out.locations[16].tolist() == [2, 6]
    assert out.locations[-4:].tolist() == [[16, 16], [48, 16], [16, 48], [48, 48]]
    # masks are read from a level finer than any that the head sees
    assert out.mask_features.shape == (2, 8, 32, 32) and out.canvas.tolist() == [64, 64]
    assert out.parameters.shape == (2, sum(cells), 169)


def test_images_are_padded_to_whole_cells_of_the_coarsest_map_and_masks_cropped_back(model):
    with torch.no_grad():
        out = model(some_images(1, 96)[..., :50, :70])
    assert out.canvas.tolist() == [64, 96] and out.sizes.tolist() == [[50, 70]]
    sure = replace(out, class_logits=out.class_logits + 20, centerness=out.centerness + 20)
    found = model.postprocess(sure, [(50, 70)])[0]
    assert len(found) > 10 and found.masks.shape == (len(found), 50, 70)
    assert (found.boxes[:, 2] <= 70).all() and (found.boxes[:, 3] <= 50).all()


def test_the_objects_of_a_perfect_output_are_found_with_their_boxes_and_classes(model, out):
    perfect = with_objects(model, out, TRUTH)
    found = model.postprocess(perfect, [(64, 64)] * 2)
    for got, want in zip(found, TRUTH, strict=True):
        order = got.boxes[:, 0].argsort()
        torch.testing.assert_close(got.boxes[order], want.boxes)
        assert torch.equal(got.labels[order], want.labels)
        assert isinstance(got.packed, DynamicMasks)
    half = model.postprocess(perfect, [(64, 64)] * 2, [(32, 128)] * 2)[1]
    assert half.boxes.tolist() == [[16, 4, 48, 10]] and half.masks.shape == (1, 32, 128)
    losses = model.loss(perfect, Targets(instances=TRUTH))
    assert losses["class"] < 1e-6 and abs(losses["box"]) < 1e-5  # centerness has targets below 1


def test_scores_are_roots_of_class_probability_times_centerness(model, out):
    sure = with_objects(model, out, TRUTH)
    one = sure.class_logits[1].argmax() // 3
    logits, centerness = torch.full_like(out.class_logits, -20), torch.full_like(out.centerness, -20)
    logits[1, one], centerness[1, one] = torch.tensor([0.2, 1.0, -20.0]), 0.5
    found = model.postprocess(replace(sure, class_logits=logits, centerness=centerness), [(64, 64)] * 2)
    want = (torch.tensor([1.0, 0.2]).sigmoid() * torch.tensor(0.5).sigmoid()).sqrt()
    assert len(found[0]) == 0 and found[1].labels.tolist() == [1, 0]  # a location can show two classes
    torch.testing.assert_close(found[1].scores, want)


def test_the_threshold_is_for_the_product_and_the_best_of_each_level_go_into_nms(model, out):
    logits = torch.full_like(out.class_logits, -20)
    logits[..., 0] = 0.0
    centerness = torch.linspace(-1, 1, out.centerness.shape[1]).expand_as(out.centerness)
    flat = replace(out, class_logits=logits, centerness=centerness, distances=torch.full_like(out.distances, 0.5))
    settings = replace(model.detections, threshold=0.25, max_detections=1000)
    try:
        model.detections = settings
        index, *_ = model.detect(flat, 0)
        assert sorted(index.tolist()) == (centerness[0] > 0).nonzero()[:, 0].tolist()  # ½ · σ(c) > ¼
        model.detections = replace(settings, threshold=0.0, pre_nms_top_k=3)
        index, *_ = model.detect(flat, 0)
        level_ends = [256, 320, 336, 340]
        assert sorted(index.tolist()) == [e - k for e in level_ends for k in (3, 2, 1)]
        model.detections = replace(settings, max_detections=5)
        assert model.detect(flat, 0)[0].tolist() == [339, 338, 337, 336, 335]
    finally:
        model.detections = replace(settings, threshold=0.05, max_detections=100)


def test_a_box_that_lies_in_the_padding_is_no_detection(model, out):
    perfect = with_objects(model, out, [objects([(4, 4, 20, 30), (40, 40, 60, 60)]), TRUTH[1]])
    found = model.postprocess(perfect, [(64, 64), (64, 64)])[0]
    assert len(found) == 2
    found = model.postprocess(perfect, [(64, 36), (64, 64)])[0]
    assert found.boxes.tolist() == [[4, 4, 20, 30]]


def test_relative_coordinates_grow_towards_the_left_and_are_in_sizes_of_interest(model, out):
    at = torch.tensor([0, 17, 256])  # (2, 2) and (6, 6) at stride 4, (4, 4) at stride 8
    x, y = model.coordinates(out, at)
    assert x.shape == y.shape == (3, 32)  # columns at 1, 3, 5, …
    assert x[0, :3].tolist() == [1 / 16, -1 / 16, -3 / 16] and x[1, :3].tolist() == [5 / 16, 3 / 16, 1 / 16]
    assert y[2, :3].tolist() == [3 / 32, 1 / 32, -1 / 32]


def edge_filters():
    """Filters that are on within 8 pixels to the left of their location: relu(x) − relu(10·(x − ½)) at size 16."""
    weights = [torch.zeros(8, 10), torch.zeros(8, 8), torch.zeros(1, 8)]
    biases = [torch.zeros(8), torch.zeros(8), torch.zeros(1)]
    weights[0][0, 0], weights[0][1, 0], biases[0][1] = 1, 10, -5
    weights[1][0, 0] = weights[1][1, 1] = 1
    weights[2][0, 0], weights[2][0, 1], biases[2][0] = 1, -1, -0.01
    return torch.cat([p.flatten() for p in (*weights, *biases)])


def test_the_same_filters_at_another_location_draw_the_same_mask_there(model, out):
    filters = edge_filters()
    same = replace(out, parameters=filters.expand_as(out.parameters))
    at = torch.tensor([16 * 8 + 5, 16 * 8 + 9])  # both of level 0, four cells or 16 pixels aside
    masks = model.mask_logits(same, torch.zeros(2, dtype=torch.int64), at) > 0
    assert masks[0].any() and not masks[0].all()
    assert torch.equal(masks[0][:, :48], masks[1][:, 16:]) and not torch.equal(masks[0], masks[1])


def test_without_relative_coordinates_the_same_filters_draw_the_same_mask_everywhere():
    torch.manual_seed(0)
    blind = condinst_tiny(3, relative_coordinates=False).eval()
    assert blind.channels == (8, 8, 8, 1) and blind.head.controller.out_channels == 153
    with torch.no_grad():
        out = blind(some_images(1))
    assert blind.coordinates(out, torch.tensor([3])) == (None, None)
    same = replace(out, parameters=torch.randn(153).expand_as(out.parameters))
    masks = blind.mask_logits(same, torch.zeros(2, dtype=torch.int64), torch.tensor([20, 200]))
    assert masks.std() > 0 and torch.equal(masks[0], masks[1])
    sure = replace(out, class_logits=out.class_logits + 10)
    assert blind.postprocess(sure, [(64, 64)])[0].masks.any()
    assert blind.loss(out, Targets(instances=TRUTH[:1]))["mask"] > 0


def test_filters_have_169_parameters_and_153_without_coordinates():
    assert filter_count(filter_channels()) == 169 == 10 * 8 + 8 * 8 + 8 + 8 + 8 + 1
    assert filter_count(filter_channels(relative_coordinates=False)) == 153
    assert filter_channels(4, (6,)) == (6, 6, 1)


def test_mask_targets_are_the_masks_at_the_resolution_of_the_logits_and_padded(model):
    assert (model.mask_stride, model.mask_factor) == (2, 2)  # logits have the image's resolution
    mask = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0)) > 0.5
    target = model.mask_target(mask, (16, 16))
    assert target.shape == (2, 16, 16) and torch.equal(target[:, :5, :7], mask) and target.sum() == mask.sum()


def test_published_models_read_masks_at_every_fourth_pixel_from_2_on():
    with torch.device("meta"):
        model = condinst_fpn("resnet18", 3)
    mask = torch.rand(1, 32, 32) > 0.5
    assert torch.equal(model.mask_target(mask, (8, 8)), mask[:, 2::4, 2::4])


def test_only_positive_locations_learn_masks_boxes_and_centerness(model, out):
    names = ("class_logits", "distances", "centerness", "parameters")
    leaves = {name: getattr(out, name).clone().requires_grad_() for name in names}
    losses = model.loss(replace(out, **leaves), Targets(instances=TRUTH))
    sum(losses.values()).backward()
    positive = model.assign(out, TRUTH) >= 0
    assert positive.any() and not positive.all()
    for name in ("distances", "centerness", "parameters"):
        grad = leaves[name].grad
        assert grad[positive].any() and not grad[~positive].any(), name
    assert leaves["class_logits"].grad.flatten(0, 1).any(1).all()


def test_the_mask_loss_is_the_mean_dice_over_positive_locations(model, out):
    matches = model.assign(out, TRUTH)
    each = []
    for image, index in (matches >= 0).nonzero().tolist():
        logits = model.mask_logits(out, torch.tensor([image]), torch.tensor([index]))
        truth = TRUTH[image].masks[matches[image, index]]
        each.append(mask_dice_loss(logits, truth[None].float()))
    losses = model.loss(out, Targets(instances=TRUTH))
    torch.testing.assert_close(losses["mask"], torch.cat(each).mean())


def test_the_dice_loss_of_an_empty_mask_against_an_empty_target_is_1(model, out):
    hidden = objects([(4, 9, 20, 22)])
    hidden.masks[:] = False  # a box whose pixels are lost, as a crop can leave it
    truth = [hidden, objects([])]
    assert (model.assign(out, truth) >= 0).any()  # around the centre of the box
    filters = torch.zeros_like(out.parameters)
    filters[..., -1] = -50  # the last bias: nothing anywhere
    assert model.loss(replace(out, parameters=filters), Targets(instances=truth))["mask"] == 1


def test_with_more_positive_locations_than_max_masks_some_are_drawn_evenly_spaced(model, out, monkeypatch):
    count = int((model.assign(out, TRUTH) >= 0).sum())
    assert count > 6
    drawn = []
    inner = CondInst.mask_logits

    def spy(self, out, image, index):
        drawn.append(torch.stack([image, index], 1))
        return inner(self, out, image, index)

    monkeypatch.setattr(CondInst, "mask_logits", spy)
    targets = Targets(instances=TRUTH)
    before = model.training_settings
    everything = model.loss(out, targets)
    try:
        model.training_settings = replace(before, max_masks=6)
        limited = model.loss(out, targets)
    finally:
        model.training_settings = before
    every, some = drawn
    assert len(every) == count and torch.equal(some, every[[i * count // 6 for i in range(6)]])
    assert {i for i, _ in some.tolist()} == {0, 1}  # of both images
    for name in ("class", "box", "centerness"):
        assert torch.equal(limited[name], everything[name])
    assert limited["mask"] != everything["mask"] and 0 < limited["mask"] < 1


def test_crowds_are_left_out_of_training(model, out):
    boxes = [(4, 4, 20, 30), (0, 0, 60, 60)]
    crowd = objects(boxes, [2, 1], iscrowd=torch.tensor([False, True]))
    with_crowd = model.loss(out, Targets(instances=[crowd, TRUTH[1]]))
    without = model.loss(out, Targets(instances=[objects(boxes[:1], [2]), TRUTH[1]]))
    assert with_crowd == without


NOTHING = {
    "no object": objects([]),
    "crowds alone": objects([(4, 4, 20, 30)], iscrowd=torch.tensor([True])),
    "an object between the locations, which lie at 2, 6, …": objects([(3, 3, 5, 5)]),
}


@pytest.mark.parametrize("nothing", NOTHING.values(), ids=NOTHING)
def test_with_nothing_to_find_only_the_class_loss_is_above_0(model, nothing):
    model.train()
    try:
        out = model(some_images())
        losses = model.loss(out, Targets(instances=[nothing, nothing]))
        assert losses["box"] == losses["centerness"] == losses["mask"] == 0 < losses["class"]
        sum(losses.values()).backward()
    finally:
        model.eval()
    for name, p in model.named_parameters():
        assert p.grad is None or torch.isfinite(p.grad).all(), name
    model.zero_grad()


def test_objects_below_the_smallest_and_above_the_largest_range_train_nothing(model, out):
    levels = model.levels
    small, large = objects([(9, 9, 12, 12)]), objects([(0, 0, 64, 64)])
    try:
        model.levels = replace(levels, ranges=((8, 12), (12, 16), (16, 24), (24, 30)))
        assert (model.assign(out, [small, large]) == -1).all()
    finally:
        model.levels = levels
    assert (model.assign(out, [objects([(8, 8, 13, 13)]), large]) >= 0).any(1).all()


def test_of_two_objects_at_one_place_the_smaller_has_its_locations(model, out):
    both = objects([(4, 4, 28, 28), (8, 8, 24, 24)])
    matches = model.assign(out, [both, TRUTH[1]])[0]
    alone = model.assign(out, [both[1], TRUTH[1]])[0] >= 0
    assert (matches[alone] == 1).all() and alone.any()
    twins = objects([(8, 8, 24, 24), (8, 8, 24, 24)])
    assert set(model.assign(out, [twins, TRUTH[1]])[0].tolist()) == {-1, 0}
    assert all(torch.isfinite(v) for v in model.loss(out, Targets(instances=[twins, TRUTH[1]])).values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", ["largest", "infinite"])
def test_filters_that_overflow_in_half_precision_give_finite_losses_and_masks(model, out, dtype, value):
    size = torch.finfo(dtype).max if value == "largest" else float("inf")
    sign = torch.where(torch.rand(out.parameters.shape, generator=torch.Generator().manual_seed(0)) < 0.5, -1.0, 1.0)
    parameters = (sign * size).to(dtype).float().requires_grad_()  # the output of half-precision convolutions is cast
    features = (out.mask_features * 1e4).to(dtype).float().requires_grad_()
    huge = replace(with_objects(model, out, TRUTH), parameters=parameters, mask_features=features)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.loss(huge, Targets(instances=TRUTH))
        sum(losses.values()).backward()
        found = model.postprocess(huge, [(64, 64)] * 2)
        probs = found[0].packed.probs()
    assert all(torch.isfinite(v) for v in losses.values())
    assert torch.isfinite(parameters.grad).all() and torch.isfinite(features.grad).all()
    assert probs.dtype == torch.float32 and torch.isfinite(probs).all()


def test_masks_are_not_cut_by_boxes_and_go_through_the_canvas(model, out):
    filters = torch.zeros_like(out.parameters)
    filters[..., -1] = 50  # everything everywhere
    perfect = replace(with_objects(model, out, TRUTH), parameters=filters)
    assert model.postprocess(perfect, [(64, 64)] * 2)[1].masks.all()
    perfect = with_objects(model, out, TRUTH)
    one = model.postprocess(perfect, [(50, 44)] * 2, [(75, 100)] * 2)[1]
    index = model.detect(perfect, 1)[0]
    logits = model.mask_logits(perfect, torch.ones_like(index), index)[:, None]
    whole = aligned_bilinear(logits.sigmoid(), 2)[..., :50, :44]
    wide = torch.nn.functional.interpolate(whole, (75, 100), mode="bilinear")[:, 0]
    assert torch.equal(one.masks, wide > 0.5)


def test_labels_and_boxes_that_do_not_fit_are_refused(model, out):
    with pytest.raises(ValueError, match="image 1 has the labels .*; build it with the dataset's number of things"):
        model.loss(out, Targets(instances=[TRUTH[0], objects([(8, 8, 24, 20)], [3])]))
    with pytest.raises(ValueError, match="the targets have no `instances`"):
        model.loss(out, Targets())
    flat = TRUTH[1].replace(boxes=torch.tensor([[8.0, 8, 8, 20]]))
    with pytest.raises(ValueError, match=r"boxes of image 1\[0\] .* without width or height"):
        model.loss(out, Targets(instances=[TRUTH[0], flat]))


def test_parts_that_do_not_fit_each_other_are_refused():
    encoder = TinyEncoder()
    levels = ("c3", "c4", "c5")

    def build(parameters=169, classes=3, head_levels=5, top=True, **more):
        fpn = FPN([encoder.channels[c] for c in levels], 16, top_block=TopConvs(16, 16) if top else None)
        return CondInst(
            encoder, 3, fpn=fpn, mask_branch=MaskBranch(16),
            head=FCOSHead(16, classes, levels=head_levels, groups=4, parameters=parameters), **more,
        )  # fmt: skip

    assert build().mask_stride == 8

    with pytest.raises(ValueError, match=r"\(10, 8, 8, 1\) have 169 parameters, the head makes 153; pass"):
        build(153)
    with pytest.raises(ValueError, match="the head makes 0"):
        build(0)
    with pytest.raises(ValueError, match='padding is "constant" or "replicate", got \'reflect\''):
        build(padding="reflect")
    for fine_levels in (-1, 3):
        with pytest.raises(ValueError, match=f"fine_levels must be 0 to 2, .* got {fine_levels}"):
            build(fine_levels=fine_levels)
    for mask_factor in (0, 3, 16):
        with pytest.raises(ValueError, match=f"must divide the mask features' stride 8, got {mask_factor}"):
            build(mask_factor=mask_factor)
    with pytest.raises(ValueError, match=r"are \(3, 5\), the head was built for \(4, 5\); build it with"):
        build(classes=4)
    with pytest.raises(ValueError, match=r"are \(3, 5\), the head was built for \(3, 4\); build it with"):
        build(head_levels=4)
    with pytest.raises(ValueError, match="levels are of 5 levels, the FPN has 3; add or remove its top block"):
        build(top=False)
    with pytest.raises(ValueError, match=r"levels have strides \(8, 16, 32, 64, 128\), .*maps c4, c5 have \(16, 32\)"):
        build(fine_levels=1)
    with pytest.raises(ValueError, match="max_masks must be at least 1, got 0"):
        CondInstTraining(max_masks=0)
    with pytest.raises(ValueError, match="a stride, a range and a size of interest, got 2, 5 and 5"):
        CondInstLevels(strides=(8, 16))
    with pytest.raises(ValueError, match="at least one level, got 0"):
        MaskBranch(16, levels=0)


def test_the_mask_branch_keeps_every_cell_at_its_location():
    """A cell of p5 stays over cell 4 i + 2 of the finest level, where its location lies."""
    torch.manual_seed(0)
    branch = MaskBranch(4, channels=6, depth=1, features=8).eval()
    pyramid = [torch.randn(1, 4, 16, 16), torch.randn(1, 4, 8, 8), torch.randn(1, 4, 4, 4)]
    seen = []
    branch.tower[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        assert branch(pyramid).shape == (1, 8, 16, 16)
        fine, middle, coarse = (r(p) for r, p in zip(branch.refine, pyramid, strict=True))
    at = seen[0][0, :, 2::4, 2::4]  # middle cells 1, 3, … lie there, too
    torch.testing.assert_close(at, fine[0, :, 2::4, 2::4] + aligned_bilinear(middle, 2)[0, :, 2::4, 2::4] + coarse[0])


def test_a_frozen_encoder_keeps_its_norms_and_first_stage():
    frozen, free = condinst_fpn("resnet18", 3, frozen=True), condinst_fpn("resnet18", 3)
    assert not any(p.requires_grad for p in [*frozen.encoder.conv1.parameters(), *frozen.encoder.layer1.parameters()])
    assert all(p.requires_grad for p in free.parameters())
    assert "encoder.conv1.norm.weight" in frozen.state_dict()


def test_a_checkpoint_of_other_classes_has_them_by_number_and_unknown_keys_are_refused():
    state = {k: v for k, v in condinst_state().items()}
    _, facts = convert_condinst(state | {f"{FCOS}.cls_logits.bias": torch.zeros(7)})
    assert facts["arguments"]["num_classes"] == 7 and facts["categories"][6]["name"] == "class 6"
    with pytest.raises(ValueError, match="the key 'roi_heads.x' is unknown: .* a CondInst of AdelaiDet"):
        convert("adelaidet:condinst_R_50", state | {"roi_heads.x": torch.zeros(1)})
    with pytest.raises(ValueError, match="these are not the weights of adelaidet:condinst_R_50"):
        convert("adelaidet:condinst_R_50", state)


def test_counters_and_the_semantic_branch_of_a_checkpoint_are_left_out():
    extra = {
        "pixel_mean": torch.zeros(3, 1, 1), "mask_head._iter": torch.zeros(1),
        "mask_head.sizes_of_interest": torch.zeros(5), "mask_branch.seg_head.0.weight": torch.zeros(1),
        "mask_branch.logits.weight": torch.zeros(1),
    }  # fmt: skip
    with pytest.raises(ValueError) as without:
        convert("adelaidet:condinst_R_50", condinst_state())
    with pytest.raises(ValueError) as extended:
        convert("adelaidet:condinst_R_50", condinst_state() | extra)
    assert str(without.value) == str(extended.value)  # what is missing in this tiny state, and nothing else


FCOS = "proposal_generator.fcos_head"


def condinst_state():
    """The few keys that the converter looks at."""
    return {
        "backbone.bottom_up.stem.conv1.weight": torch.zeros(64, 3, 7, 7),
        f"{FCOS}.cls_logits.bias": torch.zeros(80),
        **{f"{FCOS}.scales.{i}.scale": torch.ones(1) for i in range(5)},
    }


def test_the_output_can_be_moved_and_replaced(out):
    assert isinstance(replace(out, level=out.level + 1), CondInstOutput)


@pytest.mark.slow
def test_it_learns_the_scenes_it_sees():
    torch.manual_seed(0)
    scenes = Scenes(4, size=64)
    batch = collate([scenes[i] for i in range(4)])
    model = condinst_tiny(len([c for c in scenes.categories if c.isthing])).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    first = last = None
    for _ in range(60):
        losses = model.loss(model(batch.images), batch.targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        last = {k: float(v.detach()) for k, v in losses.items()}
        first = first or last
    assert last["class"] < 0.5 * first["class"] and last["mask"] < 0.6 * first["mask"]
    assert last["box"] < 0.8 * first["box"]
    assert any(len(p) for p in model.predict(batch.images))
