"""The confusion matrix, its scores, its conventions about void and absent classes, and its sum over processes."""

import doctest
import math
import re
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from seglib.metrics import ConfusionMatrix, SemanticScores, confusion
from seglib.types import Category

INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16]


def loop(pred, target, num_classes, ignore_index):
    """The definition, pixel by pixel."""
    n = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for p, t in zip(pred.flatten().tolist(), target.flatten().tolist(), strict=True):
        if t != ignore_index:
            n[t, p] += 1
    return n


@st.composite
def label_maps(draw, max_classes=5):
    """K, then a prediction and a target (B, H, W) with about a fifth of the target void; classes may be absent."""
    k = draw(st.integers(1, max_classes))
    shape = draw(st.tuples(st.integers(1, 3), st.integers(0, 6), st.integers(1, 6)))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    used = draw(st.integers(1, k))
    pred = torch.randint(used, shape, generator=g)
    target = torch.randint(draw(st.integers(1, k)), shape, generator=g)
    target[torch.rand(shape, generator=g) < 0.2] = 255
    return k, pred, target


# By hand -------------------------------------------------------------------------------------------------------------

PRED = torch.tensor([[0, 0, 1], [1, 1, 2]])
TARGET = torch.tensor([[0, 1, 1], [1, 0, 255]])
# Left to right, top to bottom, (target, prediction): (0,0) (1,0) (1,1) / (1,1) (0,1) void.


def test_the_counts_of_a_2x3_map_are_those_counted_by_hand():
    assert confusion(PRED, TARGET, 3).tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]


def test_the_scores_of_a_2x3_map_are_those_worked_by_hand():
    m = ConfusionMatrix(3)
    m.update(PRED, TARGET)
    s = m.compute()
    assert s.pixel_accuracy == pytest.approx(3 / 5)  # 1 + 2 right of 5 labelled
    assert s.accuracy[:2].tolist() == pytest.approx([1 / 2, 2 / 3])
    assert s.mean_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert s.iou[:2].tolist() == pytest.approx([1 / 3, 2 / 4])  # 1 of 2 + 2 − 1, 2 of 3 + 3 − 2
    assert s.miou == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert s.fwiou == pytest.approx(2 / 5 * 1 / 3 + 3 / 5 * 1 / 2)
    assert s.dice[:2].tolist() == pytest.approx([2 / 4, 4 / 6])
    assert s.mean_dice == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert s.present.tolist() == [True, True, False]


def test_an_absent_class_is_nan_and_left_out_of_every_mean():
    s = SemanticScores.from_counts(torch.tensor([[3, 0, 0], [1, 2, 0], [0, 0, 0]]))
    assert s.iou.isnan().tolist() == s.dice.isnan().tolist() == s.accuracy.isnan().tolist() == [False, False, True]
    assert s.present.tolist() == [True, True, False]
    assert s.miou == pytest.approx((3 / 4 + 2 / 3) / 2)


def test_a_class_predicted_but_never_true_has_iou_0_and_counts():
    s = SemanticScores.from_counts(torch.tensor([[3, 1], [0, 0]]))
    assert s.iou.tolist() == [0.75, 0.0]
    assert s.present.tolist() == [True, True]
    assert s.miou == 0.375
    assert s.mean_accuracy == 0.75  # recall of class 1 has no true pixel to recall
    assert s.fwiou == 0.75  # and weight 0


def test_without_a_pixel_every_score_is_nan_and_no_class_present():
    s = ConfusionMatrix(3).compute()
    scalars = [s.pixel_accuracy, s.mean_accuracy, s.miou, s.fwiou, s.mean_dice]
    assert all(math.isnan(v) for v in scalars)
    assert s.iou.isnan().all() and not s.present.any()


def test_an_all_void_target_counts_nothing():
    void = torch.full((2, 3), 255)
    assert confusion(PRED, void, 3).sum() == 0


@pytest.mark.parametrize("shape", [(0,), (0, 4), (2, 0, 4)])
def test_empty_maps_count_nothing(shape):
    n = confusion(torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long), 4)
    assert n.tolist() == torch.zeros(4, 4, dtype=torch.long).tolist() and n.dtype == torch.int64


def test_the_table_names_every_class_and_says_which_are_absent():
    text = SemanticScores.from_counts(torch.tensor([[3, 0, 0], [1, 2, 0], [0, 0, 0]])).table(["cat", "road", "sky"])
    lines = text.splitlines()
    assert lines[1].split() == ["cat", "75.0", "85.7", "100.0"]
    assert lines[2].split() == ["road", "66.7", "80.0", "66.7"]
    assert lines[3].split() == ["sky", "absent"]
    assert lines[4].split() == ["mean", "70.8", "82.9", "83.3"]
    assert "pixel accuracy 83.3" in lines[5]
    with pytest.raises(ValueError, match="3 classes need as many names, got 2"):
        SemanticScores.from_counts(torch.eye(3)).table(["cat", "road"])


def test_the_example_in_the_docstring_runs():
    module = sys.modules[ConfusionMatrix.__module__]  # seglib.metrics.confusion is the function
    found = doctest.testmod(module, extraglobs={"torch": torch})
    assert found.attempted == 3 and found.failed == 0


# Types, shapes, void -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pred_type", INTEGERS)
@pytest.mark.parametrize("target_type", INTEGERS)
def test_any_two_integer_types_count_the_same(pred_type, target_type):
    target = TARGET.where(TARGET != 255, 100)  # int8 holds no 255
    n = confusion(PRED.to(pred_type), target.to(target_type), 3, ignore_index=100)
    assert n.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]


def test_255_classes_of_bytes_and_void_do_not_overflow():
    target = torch.arange(256, dtype=torch.uint8)
    pred = target.clamp(max=254)
    n = confusion(pred, target, 255)
    assert torch.equal(n, torch.eye(255, dtype=torch.int64))


@pytest.mark.parametrize("ignore_index", [-1, -100, 3, 255, 256, 65535, 2**40])
def test_void_may_be_any_number(ignore_index):
    target = TARGET.where(TARGET != 255, ignore_index)
    assert confusion(PRED, target, 3, ignore_index).tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]


def test_more_classes_than_the_type_of_the_target_holds_are_fine():
    target = torch.tensor([0, 2, -1], dtype=torch.int8)
    n = confusion(torch.tensor([0, 299, 5]), target, 300, ignore_index=-1)
    assert n.nonzero().tolist() == [[0, 0], [2, 299]]


@pytest.mark.parametrize("ignore_index", [-1, -100, 3, 255, 256, 65535])
def test_void_that_does_not_occur_changes_nothing(ignore_index):
    pred, target = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 2, 1])
    assert confusion(pred, target, 3, ignore_index).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 1]]


def test_void_may_be_a_class_whose_row_is_then_empty_and_which_is_not_scored():
    pred, target = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 2])
    m = ConfusionMatrix(3, ignore_index=0)
    m.update(pred, target)
    assert m.counts.tolist() == [[0, 0, 0], [1, 1, 0], [0, 0, 1]]
    s = m.compute()
    assert s.present.tolist() == [False, True, True]
    assert s.miou == pytest.approx((1 / 2 + 1) / 2)
    everything = SemanticScores.from_counts(confusion(pred, target, 3, None), ignore_index=0)
    assert everything.miou == s.miou and everything.fwiou == s.fwiou and everything.accuracy[0].isnan()


def test_what_is_predicted_under_void_does_not_matter():
    target = torch.tensor([0, 1, 255])
    for under in (0, 255, -7, 10**12):
        assert confusion(torch.tensor([0, 1, under]), target, 2).tolist() == [[1, 0], [0, 1]]


def test_maps_that_are_not_contiguous_count_the_same():
    pred, target = torch.randint(3, (5, 7)), torch.randint(3, (7, 5))
    assert torch.equal(confusion(pred.T, target, 3), confusion(pred.T.contiguous(), target, 3))
    assert torch.equal(confusion(pred.T, target, 3), loop(pred.T, target, 3, 255))


def test_maps_of_many_blocks_are_counted_in_full():
    g = torch.Generator().manual_seed(0)
    pred = torch.randint(4, (3, 331, 317), generator=g)  # 314,781 pixels: two blocks and a part of a third
    target = torch.randint(4, pred.shape, generator=g)
    flat = torch.bincount((target * 4 + pred).flatten(), minlength=16).view(4, 4)
    assert torch.equal(confusion(pred, target, 4), flat)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_counts_the_same():
    g = torch.Generator().manual_seed(0)
    pred, target = torch.randint(9, (2, 2, 200, 300), generator=g)
    target[:, :40] = 255
    on_gpu = confusion(pred.cuda(), target.cuda(), 9)
    assert on_gpu.is_cuda and torch.equal(on_gpu.cpu(), confusion(pred, target, 9))


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [5, 7, 254, 256, -1, 2**33, 2**32 + 3])
def test_a_bad_target_label_is_named_with_its_place_and_the_remedy(bad):
    target = torch.zeros(4, 6, dtype=torch.long)
    target[3, 5] = bad
    message = f"target label {bad} at (row 3, column 5) is not in 0..4 or 255; remap it"
    with pytest.raises(ValueError, match=re.escape(message)):
        confusion(torch.zeros_like(target), target, 5)


@pytest.mark.parametrize("bad", [5, 7, 255, -1, 2**33])
def test_a_bad_predicted_label_is_named_with_its_place(bad):
    pred = torch.zeros(2, 4, 6, dtype=torch.long)
    pred[1, 2, 3] = bad
    message = f"predicted label {bad} at (image 1, row 2, column 3) is not in 0..4; "
    with pytest.raises(ValueError, match=re.escape(message)):
        confusion(pred, torch.zeros_like(pred), 5)


def test_two_bad_labels_that_would_cancel_in_a_fused_index_are_found():
    # target 1 · 3 + prediction −3 = 0 · 3 + 0, and 0 · 3 + 3 = 1 · 3 + 0
    with pytest.raises(ValueError, match="predicted label -3"):
        confusion(torch.tensor([-3]), torch.tensor([1]), 3)
    with pytest.raises(ValueError, match="predicted label 3"):
        confusion(torch.tensor([3]), torch.tensor([0]), 3)


def test_without_void_255_is_a_bad_label():
    with pytest.raises(ValueError, match=re.escape("target label 255 at (row 1, column 2) is not in 0..2; ")):
        confusion(PRED, TARGET, 3, ignore_index=None)


def test_a_byte_that_would_wrap_into_a_negative_void_is_a_bad_label():
    with pytest.raises(ValueError, match="target label 156"):  # 156 and −100 are the same byte
        confusion(torch.tensor([0]), torch.tensor([156], dtype=torch.uint8), 3, ignore_index=-100)


def test_maps_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=re.escape("(2, 3) and the target (3, 2); resize the logits")):
        confusion(PRED, TARGET.T, 3)


def test_logits_in_place_of_labels_are_refused():
    with pytest.raises(ValueError, match="predicted label is an integer class id, got torch.float32; take the argmax"):
        confusion(PRED.float(), TARGET, 3)
    with pytest.raises(ValueError, match="target label is an integer class id, got torch.float64"):
        confusion(PRED, TARGET.double(), 3)


def test_a_metric_without_classes_is_refused():
    with pytest.raises(ValueError, match="at least one class, got 0"):
        ConfusionMatrix(0)


def test_scores_of_something_that_is_not_square_are_refused():
    with pytest.raises(ValueError, match=re.escape("(K, K), got (2, 3)")):
        SemanticScores.from_counts(torch.zeros(2, 3))


def test_a_failed_update_leaves_the_counts_as_they_were():
    m = ConfusionMatrix(3)
    m.update(PRED, TARGET)
    before = m.counts.clone()
    with pytest.raises(ValueError):
        m.update(PRED, TARGET + 3)
    assert torch.equal(m.counts, before)


# Properties ----------------------------------------------------------------------------------------------------------


@given(label_maps())
def test_equals_the_loop_over_pixels(maps):
    k, pred, target = maps
    assert torch.equal(confusion(pred, target, k), loop(pred, target, k, 255))


@given(label_maps())
def test_parts_merged_are_the_whole(maps):
    k, pred, target = maps
    whole, one, rest = (ConfusionMatrix(k) for _ in range(3))
    whole.update(pred, target)
    one.update(pred[0], target[0])  # (H, W)
    for p, t in zip(pred[1:], target[1:], strict=True):
        rest.update(p, t)
    assert torch.equal(one.merge(rest).counts, whole.counts)


@given(label_maps(), st.randoms(use_true_random=False))
def test_renaming_the_classes_reorders_the_scores(maps, random):
    k, pred, target = maps
    names = list(range(k))
    random.shuffle(names)
    new = torch.tensor(names)  # class c becomes new[c]
    renamed = torch.where(target == 255, 255, new[target.clamp(max=k - 1)])
    before = SemanticScores.from_counts(confusion(pred, target, k))
    after = SemanticScores.from_counts(confusion(new[pred], renamed, k))
    assert torch.equal(after.iou[new].nan_to_num(-1), before.iou.nan_to_num(-1))
    assert torch.equal(after.present[new], before.present)
    # the same numbers, added in another order: rounding of float64
    assert after.miou == pytest.approx(before.miou, abs=1e-12, nan_ok=True)
    assert after.fwiou == pytest.approx(before.fwiou, abs=1e-12, nan_ok=True)


@given(label_maps())
def test_the_scores_obey_their_bounds_and_relations(maps):
    k, pred, target = maps
    n = confusion(pred, target, k)
    s = SemanticScores.from_counts(n)
    labelled = target != 255
    assert n.sum() == labelled.sum()
    if not labelled.any():
        return
    iou, dice = s.iou[s.present], s.dice[s.present]
    assert ((iou >= 0) & (iou <= dice) & (dice <= 1)).all()
    torch.testing.assert_close(dice, 2 * iou / (1 + iou), rtol=1e-12, atol=0)  # float64 rounding
    assert s.pixel_accuracy == pytest.approx(float((pred == target)[labelled].double().mean()), abs=1e-12)
    assert s.fwiou <= s.pixel_accuracy + 1e-12  # IoU of a class is at most its recall
    assert float(iou.min()) - 1e-12 <= s.miou <= float(iou.max()) + 1e-12


@given(label_maps())
def test_a_perfect_prediction_scores_1_everywhere(maps):
    k, pred, _ = maps
    s = SemanticScores.from_counts(confusion(pred, pred, k))
    if pred.numel():
        assert s.pixel_accuracy == s.mean_accuracy == s.miou == s.fwiou == s.mean_dice == 1


# Side by side with torchmetrics --------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(label_maps())
def test_counts_and_mean_iou_equal_torchmetrics(maps):
    k, pred, target = maps
    k = max(k, 2)  # torchmetrics wants two classes
    if not (target != 255).any():
        return  # torchmetrics says 0 where there is nothing to score; NaN here
    counts = MulticlassConfusionMatrix(k, ignore_index=255)(pred, target)
    assert torch.equal(confusion(pred, target, k), counts)
    s = SemanticScores.from_counts(counts)
    theirs = MulticlassJaccardIndex(k, ignore_index=255)(pred, target)
    per_class = MulticlassJaccardIndex(k, ignore_index=255, average="none")(pred, target)
    assert s.miou == pytest.approx(float(theirs), abs=1e-6)  # theirs is float32
    torch.testing.assert_close(s.iou.nan_to_num(0).float(), per_class.nan_to_num(0), rtol=0, atol=1e-6)


def test_void_that_is_a_class_is_scored_as_by_torchmetrics():
    g = torch.Generator().manual_seed(0)
    pred, target = torch.randint(4, (2, 3, 8, 8), generator=g)
    m = ConfusionMatrix(4, ignore_index=2)
    m.update(pred, target)
    theirs = MulticlassJaccardIndex(4, ignore_index=2)(pred, target)
    assert m.compute().miou == pytest.approx(float(theirs), abs=1e-6)  # theirs is float32


# Streaming -----------------------------------------------------------------------------------------------------------


def test_reset_forgets():
    m = ConfusionMatrix(3)
    m.update(PRED, TARGET)
    m.reset()
    assert m.counts.sum() == 0


def test_a_class_table_says_how_many_classes_there_are():
    table = [Category(0, "car", True, (1, 2, 3)), Category(1, "sky", False, (3, 2, 1))]
    assert ConfusionMatrix(table).counts.shape == (2, 2)


def test_matrices_of_different_settings_do_not_merge():
    with pytest.raises(ValueError, match="'num_classes': 4.*'num_classes': 3.*same arguments"):
        ConfusionMatrix(3).merge(ConfusionMatrix(4))
    with pytest.raises(ValueError, match="'ignore_index': 0.*'ignore_index': 255"):
        ConfusionMatrix(3).merge(ConfusionMatrix(3, ignore_index=0))


def test_in_one_process_synchronize_changes_no_count():
    m = ConfusionMatrix(3)
    m.update(PRED, TARGET)
    before = m.counts.clone()
    assert torch.equal(m.synchronize().counts, before)


def test_after_synchronize_only_reset_opens_the_counts_again():
    m = ConfusionMatrix(3).synchronize()
    for again in (lambda: m.update(PRED, TARGET), lambda: m.merge(ConfusionMatrix(3)), m.synchronize):
        with pytest.raises(ValueError, match=re.escape("call reset()")):
            again()
    m.reset()
    m.update(PRED, TARGET)
    assert m.counts.sum() == 5


@pytest.mark.slow
def test_two_processes_add_up_to_the_whole(tmp_path):
    code = """
        import sys
        import torch
        import torch.distributed as dist
        from seglib.metrics import BoundaryIoU, ConfusionMatrix

        rank, folder = int(sys.argv[1]), sys.argv[2]
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
        pred, target = torch.randint(4, (2, 5, 9, 9), generator=torch.Generator().manual_seed(3))
        for metric in (ConfusionMatrix(4), BoundaryIoU(4)):
            whole = type(metric)(4)
            whole.update(pred, target)
            mine = slice(0, 2) if rank == 0 else slice(2, 5)  # shares of different size
            metric.update(pred[mine], target[mine])
            assert not torch.equal(metric.counts, whole.counts)
            assert torch.equal(metric.synchronize().counts, whole.counts)
        dist.destroy_process_group()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    ranks = [subprocess.Popen([*command, str(r), str(tmp_path)], stderr=subprocess.PIPE, text=True) for r in range(2)]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
