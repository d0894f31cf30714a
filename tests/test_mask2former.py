"""Mask2Former: what its queries should find, its losses, one network for three tasks, and bad input."""

from dataclasses import replace

import pytest
import torch
from slim import draws_something

from seglib.losses.queries import MaskTargets, RandomPoints, SetLossSettings, match_queries, set_losses
from seglib.models.mask2former import Mask2FormerOutput, mask2former_tiny
from seglib.types import VOID, Instances, Panoptic, Segment, Semantic, Targets

SETTINGS = SetLossSettings(num_points=64)


def instances(masks, labels, iscrowd=None):
    masks = torch.as_tensor(masks)
    crowd = None if iscrowd is None else torch.tensor(iscrowd)
    return Instances(masks, torch.tensor(labels), torch.zeros(len(masks), 4), iscrowd=crowd)


def rectangle(size, top, left, bottom, right):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def tiny(task="panoptic", classes=4, **arguments):
    torch.manual_seed(0)
    things = {"num_things": arguments.pop("num_things", 2)} if task == "panoptic" else {}
    model = mask2former_tiny(classes, task=task, channels=16, queries=6, layers=2, **things, **arguments)
    model.settings = replace(model.settings, num_points=64)
    return model.eval()  # batch norm needs more than one cell


def output(batch, height, width, sizes=None):
    sizes = torch.tensor(sizes or [(height, width)] * batch)
    return Mask2FormerOutput(
        torch.zeros(3, batch, 6, 5),
        torch.zeros(3, batch, 6, 16),
        torch.zeros(batch, 16, height // 4, width // 4),
        sizes,
    )


def test_a_panoptic_map_gives_a_mask_for_each_segment_and_void_is_left_out():
    ids = torch.tensor([[1, 1, 0, 7], [9, 9, 9, 7]], dtype=torch.int32).repeat_interleave(4, 0).repeat_interleave(8, 1)
    segments = [Segment(7, 0, True, 64), Segment(1, 3, False, 64), Segment(9, 1, True, 96, iscrowd=True)]
    model = tiny()
    (found,) = model.objects(output(1, 32, 32, [(8, 32)]), Targets(panoptic=[Panoptic(ids, segments)]))
    assert found.labels.tolist() == [0, 3]
    assert torch.equal(found.masks[:, :8], torch.stack([ids == 7, ids == 1]))
    # the crowd, what is unlabelled and the padding count nowhere
    assert torch.equal(found.void[:8], (ids == 0) | (ids == 9)) and found.void[8:].all()


def test_a_label_map_gives_a_mask_for_each_class_that_it_has():
    labels = torch.full((1, 32, 32), 2)
    labels[:, :, 20:] = 0
    labels[:, 30:] = VOID
    (found,) = tiny("semantic").objects(output(1, 32, 32), Targets(semantic=labels))
    assert found.labels.tolist() == [0, 2]
    assert torch.equal(found.masks, torch.stack([labels[0] == 0, labels[0] == 2]))
    assert torch.equal(found.void, labels[0] == VOID)


def test_objects_emptied_by_a_crop_are_none_and_a_crowd_is_void_where_no_object_is():
    size = (32, 32)
    masks = torch.stack([rectangle(size, 0, 0, 8, 8), rectangle(size, 0, 0, 0, 0), rectangle(size, 4, 4, 20, 20)])
    targets = Targets(instances=[instances(masks, [1, 2, 3], [False, False, True])])
    (found,) = tiny("instance").objects(output(1, 32, 32), targets)
    assert found.labels.tolist() == [1] and torch.equal(found.masks, masks[:1])
    assert torch.equal(found.void, masks[2] & ~masks[0])


def perfect(masks, *, scale=20.0):
    """Features and embeddings whose products are ±scale on masks ``(G, H, W)``, at full resolution."""
    features = torch.where(masks, scale, -scale)[None]  # (1, G, H, W)
    return features, torch.eye(len(masks))


def test_the_right_answer_costs_nothing_and_every_object_has_its_query():
    size = (16, 16)
    masks = torch.stack([rectangle(size, 0, 0, 16, 5), rectangle(size, 0, 5, 16, 16)])
    features, embeddings = perfect(masks)
    embeddings = torch.cat([torch.zeros(1, 2), embeddings.flip(0)])[None, None]  # (1, 1, 3, 2): query 2 has object 0
    logits = torch.full((1, 1, 3, 4), -20.0)
    for query, label in enumerate((3, 1, 0)):  # the first says "no object"
        logits[0, 0, query, label] = 20
    target = MaskTargets(torch.tensor([0, 1]), masks, torch.zeros(size, dtype=torch.bool))
    points = torch.rand(1, 200, 2)
    query = match_queries(logits[:, 0], embeddings[:, 0], features[0], target, points, SETTINGS)
    assert query.tolist() == [[2, 1]]
    torch.manual_seed(0)
    classes, mask, dice = set_losses(logits, embeddings, features, [target], settings=SETTINGS, sampler=RandomPoints())
    # the points crowd where the mask is unsure: along its edge, where targets are fractions, so small, not 0
    assert classes.item() < 1e-6 and mask.item() < 2 and dice.item() < 0.2
    wrong = set_losses(logits, embeddings, features.flip(-1), [target], settings=SETTINGS, sampler=RandomPoints())
    assert wrong[1] > 2 * mask and wrong[2] > 2 * dice


def test_the_class_loss_is_a_weighted_mean_over_all_queries():
    logits = torch.randn(2, 2, 3, 5, generator=torch.Generator().manual_seed(0))
    masks = rectangle((8, 8), 0, 0, 4, 8)[None]
    void = torch.zeros(8, 8, dtype=torch.bool)
    targets = [
        MaskTargets(torch.tensor([2]), masks, void),
        MaskTargets(torch.zeros(0, dtype=torch.int64), masks[:0], void),
    ]
    chosen = torch.tensor([[1], [0]])  # query 1 in the first layer, 0 in the second
    classes, _, _ = set_losses(
        logits, torch.zeros(2, 2, 3, 4), torch.zeros(2, 4, 2, 2), targets, settings=SETTINGS, sampler=RandomPoints(),
        matcher=lambda *parts: chosen if len(parts[3].labels) else chosen[:, :0],
    )  # fmt: skip
    for layer in range(2):
        each = -logits[layer].log_softmax(-1)  # (B, Q, K + 1)
        labels = torch.full((2, 3), 4)
        labels[0, chosen[layer, 0]] = 2
        weight = torch.where(labels == 4, 0.1, 1.0)
        expected = (weight * each.gather(2, labels[..., None])[..., 0]).sum() / weight.sum()
        torch.testing.assert_close(classes[layer], expected)


def test_void_trains_no_mask():
    """Whatever a mask does on void pixels, its losses stay the same; the original would count them as background."""
    size = (16, 16)
    masks = rectangle(size, 0, 0, 16, 8)[None]
    void = rectangle(size, 0, 8, 16, 16)
    features = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(1)).requires_grad_()
    for hidden in (void, torch.zeros_like(void)):
        target = MaskTargets(torch.tensor([0]), masks, hidden)
        torch.manual_seed(0)
        _, mask, dice = set_losses(
            torch.zeros(1, 1, 1, 2),
            torch.ones(1, 1, 1, 1),
            features,
            [target],
            settings=SETTINGS,
            sampler=RandomPoints(),
        )
        (gradient,) = torch.autograd.grad(mask.sum() + dice.sum(), features)
        assert bool(gradient[0, 0, :, 9:].any()) is not hidden.any().item()
        assert gradient[0, 0, :, :7].any()


@pytest.mark.parametrize("task", ["semantic", "instance", "panoptic"])
def test_all_void_or_no_object_trains_no_mask_and_gives_no_nan(task):
    model = tiny(task)
    nothing = Instances(torch.zeros(0, 32, 32, dtype=torch.bool), torch.zeros(0).long(), torch.zeros(0, 4))
    void = {
        "semantic": Targets(semantic=torch.full((2, 32, 32), VOID)),
        "instance": Targets(instances=[nothing] * 2),
        "panoptic": Targets(panoptic=[Panoptic(torch.zeros(32, 32, dtype=torch.int32))] * 2),
    }
    losses = model.loss(model(torch.rand(2, 3, 32, 32)), void[task])
    assert all(losses[name] == 0 for name in ("mask", "mask_aux", "dice", "dice_aux")) and losses["class"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_more_objects_than_queries_leave_some_without_one():
    model = tiny("instance")
    labels = torch.arange(9) % 4
    masks = torch.stack([rectangle((32, 32), 3 * i, 0, 3 * i + 3, 32) for i in range(9)])
    targets = Targets(instances=[Instances(masks, labels, torch.zeros(9, 4))])
    out = model(torch.rand(1, 3, 32, 32))
    (target,) = model.objects(out, targets)
    query = match_queries(
        out.class_logits[:, 0], out.mask_embeddings[:, 0], out.mask_features[0], target, torch.rand(3, 64, 2), SETTINGS
    )
    for row in query:
        assert sorted(row.tolist()) == [-1, -1, -1, *range(6)]
    losses = model.loss(out, targets)
    assert all(v.isfinite() for v in losses.values())
    sum(losses.values()).backward()


def test_an_object_without_a_query_trains_no_mask():
    masks = torch.stack([rectangle((16, 16), 0, 0, 16, 8), rectangle((16, 16), 0, 8, 16, 16)])
    target = MaskTargets(torch.tensor([0, 1]), masks, torch.zeros(16, 16, dtype=torch.bool))
    features, embeddings = torch.randn(1, 3, 16, 16), torch.randn(1, 1, 1, 3)
    found = []
    for query in ([[0, -1]], [[-1, -1]]):
        parts = torch.zeros(1, 1, 1, 3), embeddings, features, [target]
        matcher = torch.tensor(query)
        found.append(set_losses(*parts, settings=SETTINGS, sampler=RandomPoints(), matcher=lambda *_, m=matcher: m))
    assert all(found[0][i] > 0 and found[1][i] == 0 for i in (1, 2))


def test_labels_that_the_model_does_not_know_are_refused():
    images = torch.rand(1, 3, 32, 32)
    with pytest.raises(ValueError, match="label 4"):
        tiny("semantic").loss(tiny("semantic")(images), Targets(semantic=torch.full((1, 32, 32), 4)))
    mask = rectangle((32, 32), 0, 0, 4, 4)[None]
    with pytest.raises(ValueError, match=r"image 0 has the labels \[4\], the model knows 0\.\.3"):
        model = tiny("instance")
        model.loss(model(images), Targets(instances=[Instances(mask, torch.tensor([4]), torch.zeros(1, 4))]))
    panoptic = Panoptic(mask[0].int(), [Segment(1, 4, False, 16)])
    with pytest.raises(ValueError, match=r"image 0 have the categories \[4\], the model knows 0\.\.3"):
        tiny().loss(tiny()(images), Targets(panoptic=[panoptic]))


@pytest.mark.parametrize(
    ("task", "missing"), [("semantic", "semantic"), ("instance", "instances"), ("panoptic", "panoptic")]
)
def test_targets_of_another_task_are_refused(task, missing):
    model = tiny(task)
    with pytest.raises(ValueError, match=f"have no `{missing}`"):
        model.loss(model(torch.rand(1, 3, 32, 32)), Targets())


def test_one_network_gives_three_answers():
    model = draws_something(tiny())
    images = torch.rand(2, 3, 40, 50)
    kinds = {}
    for task in ("panoptic", "instance", "semantic"):
        model.task = task
        kinds[task] = model.predict(images, output_sizes=[(40, 50), (20, 30)])
    assert [type(kinds[t][1]) for t in kinds] == [Panoptic, Instances, Semantic]
    assert kinds["panoptic"][1].map.shape == kinds["semantic"][1].labels.shape == kinds["instance"][1].size == (20, 30)
    assert (kinds["instance"][0].labels < 2).all()  # things


@pytest.mark.parametrize("task", ["semantic", "instance"])
def test_a_model_of_one_task_serves_no_other(task):
    model = tiny(task)
    with pytest.raises(ValueError, match=f"trained for {task} and serves {task}, not panoptic"):
        model.task = "panoptic"
    with pytest.raises(ValueError, match="doesn't tell things from stuff"):
        model.panoptic(model(torch.rand(1, 3, 32, 32)), [(32, 32)])


def test_tasks_and_classes_are_checked():
    with pytest.raises(ValueError, match="task 'depth' is unknown"):
        mask2former_tiny(3, task="depth")
    with pytest.raises(ValueError, match=r"needs num_things in 0\.\.3, got None"):
        mask2former_tiny(3)
    with pytest.raises(ValueError, match=r"needs num_things in 0\.\.3, got 4"):
        mask2former_tiny(3, num_things=4)
    with pytest.raises(ValueError, match="num_things is for panoptic models, got 2 with the task semantic"):
        mask2former_tiny(3, num_things=2, task="semantic")
    with pytest.raises(ValueError, match="num_points must be at least 1, got 0"):
        SetLossSettings(num_points=0)


@pytest.mark.parametrize("task", ["semantic", "instance", "panoptic"])
def test_one_class_and_an_image_below_the_coarsest_stride(task):
    model = tiny(task, 1, **({"num_things": 1} if task == "panoptic" else {}))
    images = torch.rand(2, 3, 5, 9)
    masks = rectangle((5, 9), 1, 1, 4, 6)
    labels = torch.where(masks, 0, VOID)
    targets = Targets(
        semantic=labels.expand(2, -1, -1),
        instances=[Instances(masks[None], torch.tensor([0]), torch.zeros(1, 4))] * 2,
        panoptic=[Panoptic(masks.int(), [Segment(1, 0, True, 15)])] * 2,
    )
    losses = model.loss(model(images), targets)
    sum(losses.values()).backward()
    assert all(v.isfinite() for v in losses.values()) and len(model.predict(images)) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_that_half_precision_can_hardly_hold_are_matched_and_compared(dtype):
    size = (16, 16)
    target = MaskTargets(torch.tensor([0]), rectangle(size, 0, 0, 8, 16)[None], torch.zeros(size, dtype=torch.bool))
    features = torch.full((1, 1, *size), 300.0, dtype=dtype).requires_grad_()
    embeddings = torch.tensor([200.0, -200.0], dtype=dtype)[None, None, :, None]
    losses = set_losses(
        torch.full((1, 1, 2, 2), 6e4, dtype=dtype),
        embeddings,
        features,
        [target],
        settings=SETTINGS,
        sampler=RandomPoints(),
    )
    assert all(loss.dtype == torch.float32 and loss.isfinite().all() for loss in losses)
    (gradient,) = torch.autograd.grad(sum(loss.sum() for loss in losses), features)
    assert gradient.isfinite().all()


def test_layers_have_matchings_of_their_own_and_the_losses_add_up():
    model = tiny()
    ids = torch.ones(1, 32, 32, dtype=torch.int32)
    targets = Targets(panoptic=[Panoptic(ids[0], [Segment(1, 3, False, 1024)])])
    out = model(torch.rand(1, 3, 32, 32))
    torch.manual_seed(0)
    parts = model.layer_losses(out, targets)
    torch.manual_seed(0)
    losses = model.loss(out, targets)
    assert all(v.shape == (3,) for v in parts.values())
    torch.testing.assert_close(losses["class"], 2 * parts["class"][-1])
    torch.testing.assert_close(losses["mask_aux"], 5 * parts["mask"][:2].sum())
    torch.testing.assert_close(losses["dice"], 5 * parts["dice"][2])


def test_padding_trains_nothing():
    """A small image in a large batch has the losses that it has with padding of other content."""
    model = tiny("instance")
    mask = torch.nn.functional.pad(rectangle((20, 24), 3, 3, 15, 20), (0, 40, 0, 44))[None]
    out = model(torch.rand(1, 3, 64, 64), None, [(20, 24)])
    (target,) = model.objects(out, Targets(instances=[Instances(mask, torch.tensor([1]), torch.zeros(1, 4))]))
    assert target.void[20:].all() and target.void[:, 24:].all() and not target.void[:20, :24].any()


def test_semantic_predictions_need_no_probabilities():
    model = tiny("semantic")
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    whole = model.predict(images)[0]
    model.keep_probs = False
    found = model.predict(images)[0]
    assert found.probs is None and whole.probs.shape == (4, 64, 64)
    assert torch.equal(found.labels, whole.labels)
