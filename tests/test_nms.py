"""Non-maximum suppression: greedy, within groups, soft."""

import pytest
import torch
from torchvision import ops as tv

from seglib.ops.nms import batched_nms, nms, soft_nms

CROWD = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [0, 0, 10, 10], [2, 0, 12, 10]])
SCORES = torch.tensor([0.8, 0.9, 0.3, 0.7, 0.6])


def cases(count, most=60):
    g = torch.Generator().manual_seed(0)
    for _ in range(count):
        n = int(torch.randint(most, (), generator=g))
        corner = 50 * torch.rand(n, 2, generator=g)
        boxes = torch.cat([corner, corner + 30 * torch.rand(n, 2, generator=g)], 1)
        scores = torch.rand(n, generator=g)
        if n % 3 == 0:
            scores = (scores * 5).round() / 5  # many ties
        yield boxes, scores, 0.05 + 0.9 * torch.rand((), generator=g).item(), torch.randint(4, (n,), generator=g)


@pytest.mark.parametrize("impl", ["torchvision", "reference"])
def test_by_hand(impl):
    # IoU with the best, box 1: box 0 and 4 0.82, box 3 0.82, box 2 none
    assert nms(CROWD, SCORES, 0.5, impl=impl).tolist() == [1, 2]
    assert nms(CROWD, SCORES, 0.9, impl=impl).tolist() == [1, 0, 4, 2]  # box 3 repeats box 0
    assert nms(CROWD, SCORES, 1.0, impl=impl).tolist() == [1, 0, 3, 4, 2]
    groups = torch.tensor([0, 1, 0, 0, 0])
    assert batched_nms(CROWD, SCORES, groups, 0.5, impl=impl).tolist() == [1, 0, 2]


@pytest.mark.slow
def test_the_loop_equals_torchvision_on_random_cases():
    for boxes, scores, threshold, _ in cases(1000):
        assert nms(boxes, scores, threshold, impl="reference").tolist() == tv.nms(boxes, scores, threshold).tolist()


def test_groups_equal_torchvision_and_the_loop():
    for boxes, scores, threshold, groups in cases(500):
        ours = batched_nms(boxes, scores, groups, threshold)
        assert ours.tolist() == batched_nms(boxes, scores, groups, threshold, impl="reference").tolist()
        # torchvision leaves the order of equal scores open between groups
        assert sorted(ours.tolist()) == sorted(tv.batched_nms(boxes, scores, groups, threshold).tolist())
        assert (scores[ours].diff() <= 0).all()


def test_many_boxes_go_group_by_group_with_the_same_result():
    (boxes, scores, _, groups) = next(c for c in cases(100, 4000) if len(c[0]) > 1500)
    ours = batched_nms(boxes, scores, groups, 0.5)
    wide = boxes.double() + 1000 * groups[:, None]
    assert torch.equal(scores[ours], scores[tv.nms(wide, scores.double(), 0.5)])


def test_groups_far_apart_stay_exact():
    # in float32 a box moved by 10⁷ pixels would be rounded to whole pixels
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9.99]])
    groups = torch.tensor([99_999, 99_999])
    assert len(batched_nms(boxes * 100, torch.tensor([0.9, 0.8]), groups, 0.9985)) == 1
    assert len(batched_nms(boxes * 100, torch.tensor([0.9, 0.8]), groups, 0.9995)) == 2


def test_soft_nms_by_hand():
    kept, scores = soft_nms(CROWD[:3], torch.tensor([0.8, 0.9, 0.3]), sigma=0.5)
    assert kept.tolist() == [1, 2, 0]  # box 0 overlaps box 1 by 9/11 and falls behind box 2
    lowered = 0.8 * torch.exp(torch.tensor(-((9 / 11) ** 2) / 0.5))
    torch.testing.assert_close(scores, torch.stack([torch.tensor(0.9), torch.tensor(0.3), lowered]))
    kept, _ = soft_nms(CROWD[:3], torch.tensor([0.8, 0.9, 0.3]), sigma=0.5, threshold=0.25)
    assert kept.tolist() == [1, 2]


def test_soft_nms_takes_every_box_once_even_those_without_a_score():
    kept, scores = soft_nms(CROWD[:3], torch.tensor([0.0, 0.5, 0.0]), threshold=0.0)
    assert sorted(kept.tolist()) == [0, 1, 2] and kept[0] == 1
    assert scores.tolist() == [0.5, 0, 0]


def test_soft_nms_tends_to_greedy_nms():
    for boxes, scores, _, _ in cases(50):
        hard = nms(boxes, scores, 0.0)
        soft, _ = soft_nms(boxes, scores, sigma=1e-9, threshold=1e-6)
        strong = scores[hard] >= 1e-6
        assert set(hard[strong].tolist()) <= set(soft.tolist())
        _, lowered = soft_nms(boxes, scores)
        assert (lowered.diff() <= 1e-6).all()


def test_no_boxes():
    none, scores, groups = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    for impl in ("torchvision", "reference"):
        assert nms(none, scores, 0.5, impl=impl).shape == (0,)
        assert batched_nms(none, scores, groups, 0.5, impl=impl).shape == (0,)
    assert [t.shape for t in soft_nms(none, scores)] == [(0,), (0,)]


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"got \(5, 4\) and \(3,\)"):
        nms(CROWD, SCORES[:3], 0.5)
    with pytest.raises(ValueError, match=r"IoU in \[0, 1\], got 1.5"):
        nms(CROWD, SCORES, 1.5)
    with pytest.raises(ValueError, match="choose one of torchvision, reference"):
        nms(CROWD, SCORES, 0.5, impl="fast")
    with pytest.raises(ValueError, match="as many groups"):
        batched_nms(CROWD, SCORES, torch.zeros(2, dtype=torch.int64), 0.5)
    with pytest.raises(ValueError, match="sigma > 0"):
        soft_nms(CROWD, SCORES, sigma=0.0)
