"""Panoptic FPN: its semantic branch, its losses, its task."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from seglib.data.collate import collate
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.layers.semantic_fpn import SemanticFPNHead
from seglib.models.panoptic_fpn import panoptic_fpn_tiny, semantic_to_stuff
from seglib.train.tasks import PanopticTask
from seglib.types import VOID, Batch, Category, Panoptic, Segment, Targets

NUM_THINGS = sum(c.isthing for c in CATEGORIES)


def pyramid(levels=4, channels=6, side=16):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(1, channels, side // 2**i, side // 2**i, generator=g) for i in range(levels)]


def test_the_branch_has_one_convolution_for_each_doubling_and_one_without():
    head = SemanticFPNHead(6, 5, channels=8, groups=4)
    convs = [[m for m in scale if isinstance(m, torch.nn.Conv2d)] for scale in head.scales]
    ups = [[m for m in scale if isinstance(m, torch.nn.Upsample)] for scale in head.scales]
    assert [len(c) for c in convs] == [1, 1, 2, 3] and [len(u) for u in ups] == [0, 1, 2, 3]
    assert head(pyramid()).shape == (1, 5, 16, 16)


def test_the_branch_is_the_sum_of_its_scales():
    """Written out with functions, scale by scale."""
    head = SemanticFPNHead(6, 5, channels=8, groups=4)
    total = torch.zeros(1, 8, 16, 16)
    for doublings, (level, scale) in enumerate(zip(pyramid(), head.scales, strict=True)):
        x = level
        norms = [m for m in scale if isinstance(m, torch.nn.GroupNorm)]
        convs = [m for m in scale if isinstance(m, torch.nn.Conv2d)]
        for conv, norm in zip(convs, norms, strict=True):
            x = F.conv2d(x, conv.weight, padding=1)
            x = F.relu(F.group_norm(x, 4, norm.weight, norm.bias))
            if doublings:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        total = total + x
    torch.testing.assert_close(head(pyramid()), F.conv2d(total, head.predict.weight, head.predict.bias))


def test_coarser_levels_than_it_has_are_not_read():
    head = SemanticFPNHead(6, 5, channels=8, groups=4)
    more = [*pyramid(), torch.full((1, 6, 1, 1), torch.nan)]
    assert torch.equal(head(more), head(pyramid()))


def test_bad_branches_are_named():
    with pytest.raises(ValueError, match="at least one level, got 0"):
        SemanticFPNHead(6, 5, levels=0)
    with pytest.raises(ValueError, match="8 channels don't divide into 3 groups"):
        SemanticFPNHead(6, 5, channels=8, groups=3)


def test_things_are_one_class_of_the_branch_and_void_stays_void():
    labels = torch.tensor([[0, 1, 2, 3, 4, VOID]])  # 0 and 1 are things
    assert semantic_to_stuff(labels, 2).tolist() == [[0, 0, 1, 2, 3, VOID]]


def scene_batch(indices=(0, 1)):
    scenes = Scenes(8, split="train", size=(64, 64))
    return collate([scenes[i] for i in indices])


def test_both_weights_scale_their_losses():
    torch.manual_seed(0)
    model, task = panoptic_fpn_tiny(NUM_THINGS, len(CATEGORIES) - NUM_THINGS).eval(), PanopticTask(CATEGORIES)
    batch = scene_batch()
    targets = replace(batch.targets, panoptic=None)
    with torch.no_grad():
        out = model(batch.images, targets)
        plain = model.loss(out, targets)
        model.instance_weight, model.semantic_weight = 0.25, 2.0
        scaled = model.loss(out, targets)
    for name, value in plain.items():
        torch.testing.assert_close(scaled[name], value * (4 if name == "semantic" else 0.25))
    assert set(plain) == {"objectness", "anchor", "class", "box", "mask", "semantic"}
    assert task.needs == "panoptic"


def test_the_semantic_loss_is_half_the_mean_cross_entropy_at_full_size():
    torch.manual_seed(0)
    model = panoptic_fpn_tiny(NUM_THINGS, len(CATEGORIES) - NUM_THINGS).eval()
    batch = scene_batch()
    with torch.no_grad():
        out = model(batch.images, batch.targets)
        logits = F.interpolate(out.semantic_logits, (64, 64), mode="bilinear")
        labels = batch.targets.semantic
        of_head = torch.where(labels < NUM_THINGS, 0, labels - NUM_THINGS + 1).masked_fill(labels == VOID, VOID)
        wanted = 0.5 * F.cross_entropy(logits, of_head, ignore_index=VOID)
        torch.testing.assert_close(model.loss(out, batch.targets)["semantic"], wanted)


def test_the_task_derives_labels_and_objects_from_the_panoptic_map():
    """The losses from the map alone are those from the scene's own annotations."""
    torch.manual_seed(0)
    model, task = panoptic_fpn_tiny(NUM_THINGS, len(CATEGORIES) - NUM_THINGS).eval(), PanopticTask(CATEGORIES)
    batch = scene_batch()
    torch.manual_seed(1)
    derived = task.losses(model, replace(batch, targets=Targets(panoptic=batch.targets.panoptic)))
    torch.manual_seed(1)
    own = model.loss(model(batch.images, batch.targets), batch.targets)
    assert set(derived) == set(own)
    for name in own:
        torch.testing.assert_close(derived[name], own[name])


def test_stuff_is_the_same_when_classes_come_one_after_the_other(monkeypatch):
    torch.manual_seed(0)
    model = panoptic_fpn_tiny(NUM_THINGS, len(CATEGORIES) - NUM_THINGS).eval()
    sizes, wanted = [(64, 64), (50, 40)], [(30, 90), (64, 64)]
    with torch.no_grad():
        out = model(scene_batch().images, None, sizes)
    at_once = model.stuff(out, sizes, wanted)
    monkeypatch.setattr("seglib.models.panoptic_fpn.CHUNK", 1)
    assert all(torch.equal(a, b) for a, b in zip(model.stuff(out, sizes, wanted), at_once, strict=True))
    assert len(at_once[0].unique()) > 2


def test_an_image_without_things_and_one_without_stuff_train():
    task = PanopticTask(CATEGORIES)
    model = panoptic_fpn_tiny(**task.model_arguments())
    whole = torch.ones(64, 64, dtype=torch.int32)
    only_stuff = Panoptic(whole, [Segment(1, NUM_THINGS, False, 4096)])
    only_thing = Panoptic(whole, [Segment(1, 0, True, 4096)])
    nothing = Panoptic(torch.zeros_like(whole), [])
    sizes = [(64, 64)] * 3
    batch = Batch(
        torch.rand(3, 3, 64, 64), Targets(panoptic=[only_stuff, only_thing, nothing]), ["a", "b", "c"], sizes, sizes
    )
    losses = task.losses(model, batch)
    assert all(torch.isfinite(v) for v in losses.values()) and losses["semantic"] > 0
    sum(losses.values()).backward()


def test_the_task_scores_the_truth_as_perfect_and_names_its_numbers():
    task, batch = PanopticTask(CATEGORIES), scene_batch()
    evaluator = task.evaluator()
    evaluator.update(batch.targets.panoptic, batch)
    evaluator.synchronize()
    scores = evaluator.compute()
    assert [scores[k] for k in ("pq", "sq", "rq", "pq_things", "pq_stuff")] == [1.0] * 5
    present = {CATEGORIES[s.category_id].name for p in batch.targets.panoptic for s in p.segments}
    assert set(scores["class_pq"]) == present


def test_a_table_without_things_or_without_stuff_is_refused():
    for things in (True, False):
        table = [Category(i, n, things, (0, 0, 0)) for i, n in enumerate("ab")]
        with pytest.raises(
            ValueError, match=f"needs things and stuff, the class table has {2 * things} things among 2"
        ):
            PanopticTask(table)
    with pytest.raises(ValueError, match="num_stuff must be at least 1, got 0; without stuff train an instance model"):
        panoptic_fpn_tiny(2, 0)


def test_samples_without_panoptic_maps_are_named():
    task, batch = PanopticTask(CATEGORIES), scene_batch()
    without = replace(batch, targets=replace(batch.targets, panoptic=None))
    with pytest.raises(ValueError, match="no panoptic maps; train on one"):
        task.losses(panoptic_fpn_tiny(**task.model_arguments()), without)
    with pytest.raises(ValueError, match="no panoptic maps; evaluate on one"):
        task.evaluator().update(batch.targets.panoptic, without)


@pytest.mark.slow
def test_it_learns_scenes():
    torch.manual_seed(0)
    task, batch = PanopticTask(CATEGORIES), scene_batch()
    model = panoptic_fpn_tiny(**task.model_arguments()).train()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    for _ in range(60):
        optimizer.zero_grad()
        sum(task.losses(model, batch).values()).backward()
        optimizer.step()
    evaluator = task.evaluator()
    evaluator.update(task.predict(model, batch), batch)
    scores = evaluator.compute()
    assert scores["pq_things"] > 0.4 and scores["pq_stuff"] > 0.4, scores
