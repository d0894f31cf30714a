"""Chapter 15's experiment on sets: marbles that touch, a loss with and without matching, scores that see copies."""

import pytest
import torch
from torch.nn import functional as F

from seglib.book.experiments import set_prediction
from seglib.book.experiments.set_marbles import (
    CLASSES,
    MOST,
    QUERIES,
    SIDE,
    MarbleNet,
    Marbles,
    best_object,
    marble_loss,
    marbles,
    set_scores,
)
from seglib.losses.hungarian import hungarian


@pytest.fixture(scope="module")
def data():
    return marbles(40, 0)


def two_marbles():
    """One image with an orange marble at the left and a blue one at the right; void is the orange one's upper half."""
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    masks[0, 4:8, 1:5], masks[1, 4:8, 9:13] = True, True
    void = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    void[0, 4:6, 1:5] = True
    return Marbles(torch.zeros(1, 3, SIDE, SIDE), [torch.tensor([0, 1])], [masks], void)


def answers(*pairs, data):
    """Logits of sure queries: a class (2 for "no object") and a marble's mask for each."""
    classes = 20 * F.one_hot(torch.tensor([k for k, _ in pairs]), 3).float()
    masks = torch.stack([torch.where(data.masks[0][g], 20.0, -20.0) for _, g in pairs])
    return classes[None], masks[None]


def test_marbles_repeat_and_seeds_differ(data):
    same, other = marbles(40, 0), marbles(40, 1)
    assert torch.equal(data.images, same.images) and not torch.equal(data.images, other.images)
    with pytest.raises(ValueError, match="count must be positive, got 0"):
        marbles(0, 0)


def test_marbles_do_not_overlap_and_half_of_each_is_void(data):
    for labels, masks, void in zip(data.labels, data.masks, data.void, strict=True):
        assert 1 <= len(labels) == len(masks) <= MOST
        assert (masks.sum(0) <= 1).all() and masks.any(2).any(1).all()
        half = (masks & void).sum((1, 2)) / masks.sum((1, 2))
        assert ((half > 0.25) & (half < 0.75)).all()
        assert not (void & ~masks.any(0)).any()


def test_many_marbles_touch_their_like(data):
    touching = 0
    for labels, masks in zip(data.labels, data.masks, strict=True):
        near = F.max_pool2d(masks[:, None].float(), 3, 1, 1)[:, 0] > 0
        pairs = (near.flatten(1).float() @ masks.flatten(1).float().T > 0) & (labels[:, None] == labels)
        touching += int((pairs.sum(1) > 1).sum())
    assert 0.4 < touching / sum(map(len, data.labels)) < 0.9  # a set is needed for about half of them


def test_a_color_is_its_class(data):
    for image, labels, masks in zip(data.images, data.labels, data.masks, strict=True):
        for label, mask in zip(labels.tolist(), masks, strict=True):
            red, _, blue = image[:, mask].mean(1)
            assert (red > blue) == (CLASSES[label] == "orange")


def test_perfect_answers_make_exact_sets():
    data = two_marbles()
    found = set_scores(*answers((0, 0), (1, 1), (2, 0), data=data), data)
    assert found == {"found": 1.0, "claims": 1.0, "answers": 1.0, "exact": 1.0}


def test_an_answer_too_many_spoils_an_exact_set():
    data = two_marbles()
    found = set_scores(*answers((0, 0), (1, 1), (0, 1), data=data), data)
    assert found == {"found": 1.0, "claims": 1.0, "answers": 1.5, "exact": 0.0}


def test_a_copy_is_no_exact_set_and_a_wrong_class_finds_nothing():
    data = two_marbles()
    assert set_scores(*answers((0, 0), (0, 0), (0, 0), data=data), data) == {
        "found": 0.5,
        "claims": 3.0,
        "answers": 1.5,
        "exact": 0.0,
    }
    assert set_scores(*answers((1, 0), (0, 1), data=data), data)["found"] == 0
    assert set_scores(*answers((2, 0), (2, 1), data=data), data)["answers"] == 0


def test_an_answer_needs_an_iou_above_one_half():
    data = two_marbles()
    classes, masks = answers((0, 0), (1, 1), data=data)
    masks[0, 0, 4:6] = -20  # half of the orange marble is left: an IoU of exactly ½
    assert set_scores(classes, masks, data)["found"] == 0.5


def test_perfect_answers_cost_nothing_in_any_order():
    data, picked = two_marbles(), torch.tensor([0])
    for pairs in (((0, 0), (1, 1), (2, 0)), ((2, 1), (1, 1), (0, 0))):
        assert float(marble_loss(*answers(*pairs, data=data), data, picked)) < 1e-3
    assert float(marble_loss(*answers((0, 0), (0, 0), (2, 1), data=data), data, picked)) > 5


def test_without_matching_copies_cost_nothing():
    data, picked = two_marbles(), torch.tensor([0])
    copies = answers((0, 0), (0, 0), (0, 0), data=data)
    assert float(marble_loss(*copies, data, picked, matcher=best_object)) < 1e-3
    assert float(marble_loss(*copies, data, picked, matcher=hungarian)) > 5


def test_the_weight_of_no_object_and_its_division():
    data, picked = two_marbles(), torch.tensor([0])
    classes, masks = answers((0, 0), (1, 1), (2, 0), (2, 0), data=data)
    classes = torch.zeros_like(classes)  # every class has a cross-entropy of log 3

    def of(**changes):
        return float(marble_loss(classes, masks, data, picked, **changes)) / torch.tensor(3.0).log().item()

    assert of() == pytest.approx(2, rel=1e-4)  # a weighted mean of equal terms, times 2
    assert of(by_weights=False) == pytest.approx(2 * (2 + 2 * 0.1) / 4, rel=1e-4)
    assert of(by_weights=False, no_object_weight=1.0) == pytest.approx(2, rel=1e-4)


def test_void_counts_nowhere_or_as_background():
    data, picked = two_marbles(), torch.tensor([0])
    whole = answers((0, 0), (1, 1), data=data)
    assert float(marble_loss(*whole, data, picked, void="ignored")) < 1e-3
    assert float(marble_loss(*whole, data, picked, void="background")) > 1
    with pytest.raises(ValueError, match="void is .*, got 'left'"):
        marble_loss(*whole, data, picked, void="left")


def test_every_weight_of_the_net_is_trained(data):
    torch.manual_seed(0)
    net = MarbleNet()
    classes, masks = net(data.images[:2])
    assert classes.shape == (2, QUERIES, 3) and masks.shape == (2, QUERIES, SIDE, SIDE)
    marble_loss(classes, masks, data, torch.tensor([0, 1])).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters() if p.numel() > 32)


def test_without_positions_a_shifted_image_gives_shifted_masks():
    torch.manual_seed(0)
    nets = {on: MarbleNet(positions=on) for on in (True, False)}
    image = torch.zeros(2, 3, SIDE, SIDE)
    image[0, :, 6:8, 5:7] = image[1, :, 8:10, 7:9] = 1.0  # far enough from the border for three convolutions
    for on, net in nets.items():
        classes, masks = net(image)
        same = torch.allclose(classes[0], classes[1], atol=1e-5)
        inner, moved = masks[0, :, 3:-5, 3:-5], masks[1, :, 5:-3, 5:-3]  # zeros beyond the border do not move
        same = same and torch.allclose(inner, moved, atol=1e-4)
        assert same == (not on)


def test_the_experiment_gives_one_run_for_each_seed_and_variant():
    lines = []
    found = set_prediction.run(seeds=[0, 1], steps=2, scenes=6, val_scenes=4, batch_size=2, report=lines.append)
    assert [(r["seed"], r["variant"]) for r in found["runs"]] == [
        (s, v) for s in (0, 1) for v in set_prediction.VARIANTS
    ]
    assert len({r["first_loss"] for r in found["runs"] if r["seed"] == 0}) == len(set_prediction.VARIANTS)
    assert lines[0].startswith("seed 0, variant one to one: found 0.")
    again = set_prediction.run(seeds=[1], steps=2, scenes=6, val_scenes=4, batch_size=2, variants=["one to one"])
    assert again["runs"][0] | {"seconds": 0} == found["runs"][7] | {"seconds": 0}
    with pytest.raises(ValueError, match=r"variants \['none'\] are unknown"):
        set_prediction.run(seeds=[0], steps=2, variants=["none"])
