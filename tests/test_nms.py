"""Non-maximum suppression: greedy, within groups, soft."""

import math

import pytest
import torch
from golden import Golden
from torchvision import ops as tv

from seglib.ops.boxes import box_iou
from seglib.ops.masks import mask_iou
from seglib.ops.nms import batched_nms, fast_nms, mask_nms, matrix_nms, nms, soft_nms

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


# A overlaps B and B overlaps C, but A does not overlap C: IoU 1/3, 1/3 and 0.
CHAIN = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10]])
CHAIN_SCORES = torch.tensor([0.9, 0.8, 0.7])
CLASS = torch.zeros(3, dtype=torch.int64)


def test_of_a_chain_nms_keeps_both_ends_and_fast_nms_the_first():
    assert nms(CHAIN, CHAIN_SCORES, 0.3).tolist() == [0, 2]
    assert mask_nms(box_iou(CHAIN, CHAIN), CLASS, CHAIN_SCORES, 0.3).tolist() == [0, 2]
    assert fast_nms(CHAIN, CHAIN_SCORES, 0.3).tolist() == [True, False, False]  # B is dropped and still drops C


def test_fast_nms_keeps_a_box_at_the_threshold_and_the_first_of_equal_scores():
    boxes = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1], [0, 0, 1, 1]])  # IoU of the first with the others: ½
    assert fast_nms(boxes, torch.tensor([0.9, 0.8, 0.8]), 0.5).tolist() == [True, True, False]


def test_rows_of_fast_nms_are_apart():
    boxes, scores = torch.stack([CHAIN, CHAIN.flip(0)]), torch.stack([CHAIN_SCORES, CHAIN_SCORES.flip(0)])
    assert fast_nms(boxes, scores, 0.3).tolist() == [[True, False, False], [False, False, True]]
    assert fast_nms(CHAIN[:0], CHAIN_SCORES[:0], 0.3).shape == (0,)
    assert fast_nms(boxes[:, :0], scores[:, :0], 0.3).shape == (2, 0)


def test_fast_nms_never_keeps_what_nms_drops():
    for boxes, scores, threshold, _ in cases(100):
        kept = set(fast_nms(boxes, scores, threshold).nonzero()[:, 0].tolist())
        assert kept <= set(nms(boxes, scores, threshold).tolist())


def test_fast_nms_equals_the_published_one():
    golden = Golden("yolact_resnet50")
    boxes, scores = golden["fast_nms/boxes"], golden["fast_nms/scores"]  # (40, 4), (5, 40)
    top, index = scores.topk(20, dim=1)  # the published one looks at the 20 best of a class
    kept = fast_nms(boxes[index], top, 0.5)  # (5, 20)
    found = top[kept].sort(descending=True, stable=True)
    golden.check("fast_nms/fast.scores", found.values)
    golden.check("fast_nms/fast.classes", kept.nonzero()[:, 0][found.indices].int())
    golden.check("fast_nms/fast.boxes", boxes[index][kept][found.indices])


def test_mask_nms_is_nms_of_each_class():
    for boxes, scores, threshold, groups in cases(100):
        want = batched_nms(boxes, scores, groups, threshold).tolist()
        assert mask_nms(box_iou(boxes, boxes), groups, scores, threshold).tolist() == want


def test_matrix_nms_of_a_chain_by_hand():
    iou = box_iou(CHAIN, CHAIN)
    linear = matrix_nms(iou, CLASS, CHAIN_SCORES, kernel="linear")
    # B is lowered by A: 1 − 1/3. C is lowered by B, as far as B was not lowered itself: (1 − 1/3) / (1 − 1/3) = 1
    torch.testing.assert_close(linear, torch.tensor([0.9, 0.8 * 2 / 3, 0.7]))
    gaussian = matrix_nms(iou, CLASS, CHAIN_SCORES)
    torch.testing.assert_close(gaussian, torch.tensor([0.9, 0.8 * math.exp(-2 / 9), 0.7]))
    assert matrix_nms(iou, torch.arange(3), CHAIN_SCORES).tolist() == CHAIN_SCORES.tolist()  # three classes
    order = torch.tensor([1, 2, 0])
    torch.testing.assert_close(matrix_nms(iou[order][:, order], CLASS, CHAIN_SCORES[order]), gaussian[order])


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_matrix_nms_is_finite_on_identical_and_on_empty_masks(kernel):
    masks = torch.zeros(5, 4, 4, dtype=torch.bool)
    masks[:3, 1:3] = True  # three are identical, two are empty
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    out = matrix_nms(mask_iou(masks, masks), torch.zeros(5, dtype=torch.int64), scores, kernel=kernel)
    lowered = math.exp(-2) if kernel == "gaussian" else 0.0
    torch.testing.assert_close(out, scores * torch.tensor([1, lowered, lowered, 1, 1]))
    none = matrix_nms(torch.zeros(0, 0), CLASS[:0], scores[:0], kernel=kernel)
    assert none.shape == (0,)


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_matrix_nms_equals_the_published_one_in_any_order(kernel):
    golden = Golden("solov2_r50")
    masks, labels, scores = (golden[f"matrix_nms/{k}"] for k in ("masks", "labels", "scores"))
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(0))
    for index in (torch.arange(len(scores)), order):
        iou = mask_iou(masks[index], masks[index])
        out = matrix_nms(iou, labels[index].long(), scores[index], kernel=kernel)
        golden.check(f"matrix_nms/{kernel}", torch.empty_like(out).scatter(0, index, out))


def test_mask_nms_equals_the_published_one():
    golden = Golden("solov2_r50")
    masks, labels, scores = (golden[f"matrix_nms/{k}"] for k in ("masks", "labels", "scores"))
    kept = mask_nms(mask_iou(masks, masks), labels.long(), scores, 0.5)
    assert torch.equal(kept.sort().values, golden["matrix_nms/mask_nms_keep"].nonzero()[:, 0])


def test_matrix_nms_lowers_as_soft_nms_where_nothing_is_lowered_twice():
    # two objects: what stands above the second was not lowered itself. Soft-NMS divides by σ
    boxes, scores = CHAIN[:2], CHAIN_SCORES[:2]
    soft = soft_nms(boxes, scores, sigma=0.5)[1]
    torch.testing.assert_close(matrix_nms(box_iou(boxes, boxes), CLASS[:2], scores, sigma=2.0), soft)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fast_nms(CHAIN, CHAIN_SCORES[:2], 0.5), r"one score each \(…, N\), got \(3, 4\) and \(2,\)"),
        (lambda: fast_nms(CHAIN, CHAIN_SCORES, 1.5), r"an IoU in \[0, 1\], got 1.5"),
        (lambda: mask_nms(torch.eye(3), CLASS, CHAIN_SCORES, -0.1), "got -0.1"),
        (lambda: mask_nms(torch.eye(2), CLASS, CHAIN_SCORES, 0.5), r"matrix \(N, N\) and N labels and scores"),
        (lambda: matrix_nms(torch.eye(2), CLASS, CHAIN_SCORES), r"matrix \(N, N\) and N labels and scores"),
        (lambda: matrix_nms(torch.eye(3), CLASS, CHAIN_SCORES, kernel="box"), "choose one of gaussian, linear"),
        (lambda: matrix_nms(torch.eye(3), CLASS, CHAIN_SCORES, sigma=0.0), "above 0, got 0.0"),
    ],
)
def test_what_does_not_fit_these_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
