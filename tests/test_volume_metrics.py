"""Dice, and the accumulator of Dice, HD95 and surface Dice over cases, classes and processes."""

import math
import re
import subprocess
import sys
import textwrap

import pytest
import torch

from seglib.metrics import VolumeMetrics, dice, hausdorff, surface_dice, volume_scores
from seglib.types import VOID, Category

NAN = pytest.approx(math.nan, nan_ok=True)
SPACING = (2.0, 1.0, 1.0)


def digits(*rows):
    """A label map of one slice from rows of text: a digit is a class, . is void."""
    return torch.tensor([[[VOID if c == "." else int(c) for c in row] for row in rows]])


def volume(seed, k=4):
    """A prediction and a target of blocks, ``(4, 6, 6)``, that agree in most voxels."""
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(k, (2, 3, 3), generator=g)
    for axis in range(3):
        target = target.repeat_interleave(2, axis)
    noise = torch.randint(k, target.shape, generator=g)
    return torch.where(torch.rand(target.shape, generator=g) < 0.9, target, noise), target


def filled(seeds, **keywords):
    metric = VolumeMetrics(4, **keywords)
    for seed in seeds:
        metric.update(*volume(seed), SPACING)
    return metric


def assert_same(a, b):
    for name in ("dice", "hd95", "nsd"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-12, atol=0, equal_nan=True)
        assert getattr(a, f"mean_{name}") == pytest.approx(getattr(b, f"mean_{name}"), rel=1e-12, nan_ok=True)
    assert torch.equal(a.cases, b.cases)


def test_dice_is_twice_the_overlap_over_both_sizes():
    pred, target = torch.tensor([[1, 1, 1, 0, 0]]).bool(), torch.tensor([[0, 0, 1, 1, 0]]).bool()
    assert dice(pred, target) == 2 / 5
    assert dice(pred, target, void=torch.tensor([[1, 1, 0, 0, 0]]).bool()) == pytest.approx(2 / 3)


def test_a_case_has_scores_per_class_without_the_background():
    pred, target = volume(0)
    scores = volume_scores(pred, target, 4, SPACING, tolerance=1.5)
    assert scores.shape == (3, 3)
    for c in (1, 2, 3):
        masks = pred == c, target == c
        expected = [dice(*masks), hausdorff(*masks, SPACING), surface_dice(*masks, 1.5, SPACING)]
        assert scores[:, c - 1].tolist() == expected


def test_the_mean_runs_over_cases_then_over_classes():
    metric = VolumeMetrics(3, tolerance=0.0)
    metric.update(digits("0110", "0000"), digits("0100", "0000"), 1.0)  # class 1: Dice 2/3, HD95 0.95, 2 of 3 agree
    metric.update(digits("0110", "0000"), digits("0110", "0000"), 1.0)  # class 1 alone again, all right
    metric.update(digits("0000", "2200"), digits("0000", "2222"), 1.0)  # class 2 alone: Dice 2/3, 0..2 apart
    scores = metric.compute()
    assert scores.dice.tolist() == pytest.approx([5 / 6, 2 / 3])
    assert scores.hd95.tolist() == pytest.approx([0.95 / 2, 1.85])
    assert scores.nsd.tolist() == pytest.approx([5 / 6, 4 / 6])
    assert scores.cases.tolist() == [2, 1]
    assert scores.mean_dice == pytest.approx((5 / 6 + 2 / 3) / 2)  # class 1 does not count twice
    assert scores.mean_hd95 == pytest.approx((0.95 / 2 + 1.85) / 2)
    assert scores.mean_nsd == pytest.approx((5 / 6 + 4 / 6) / 2)


def test_a_missed_or_an_invented_object_never_improves_a_mean():
    there, nothing = digits("0110", "0000"), digits("0000", "0000")
    poor = digits("1000", "0001")  # Dice 0, half of it within a millimetre
    for pair in ((nothing, there), (there, nothing)):
        metric = VolumeMetrics(2)
        metric.update(poor, there, SPACING)
        before = metric.compute()
        metric.update(*pair, SPACING)
        after = metric.compute()
        assert before.mean_dice == after.mean_dice == 0
        assert 0.5 == before.mean_nsd > after.mean_nsd == 0.25
        assert after.mean_hd95 > before.mean_hd95
        assert after.hd95.tolist() == [pytest.approx((before.mean_hd95 + math.hypot(2, 2, 4)) / 2)]


def test_a_case_without_the_object_changes_nothing_when_nothing_is_predicted():
    metric = filled([0, 1])
    before = metric.compute()
    metric.update(torch.zeros(4, 6, 6).long(), torch.zeros(4, 6, 6).long(), SPACING)
    assert_same(before, metric.compute())


def test_a_class_in_no_case_is_left_out_of_the_means():
    metric = VolumeMetrics(3)
    metric.update(digits("0110"), digits("0110"), 1.0)
    scores = metric.compute()
    assert scores.dice.tolist() == [1, NAN]
    assert (scores.mean_dice, scores.mean_hd95, scores.mean_nsd) == (1, 0, 1)


def test_without_a_case_every_score_is_nan():
    scores = VolumeMetrics(2).compute()
    assert [scores.mean_dice, scores.mean_hd95, scores.mean_nsd, *scores.dice.tolist()] == [NAN] * 4


def test_void_voxels_count_for_nothing():
    target = digits("0110..", "0110..", "0000..")
    right, wrong = digits("011011", "011011", "000011"), digits("011000", "011000", "000000")
    for pred in (right, wrong):
        metric = VolumeMetrics(2)
        metric.update(pred, target, 1.0)
        scores = metric.compute()
        assert (scores.mean_dice, scores.mean_hd95, scores.mean_nsd) == (1, 0, 1)
    metric = VolumeMetrics(2)
    metric.update(right, digits("......", "......", "......"), 1.0)
    assert metric.compute().dice.tolist() == [NAN]
    metric.update(torch.full((1, 1, 2), VOID), torch.full((1, 1, 2), VOID), 1.0)  # void is predicted in void


def test_label_maps_may_be_uint8_and_two_dimensional():
    (pred, target), metric = volume(3), VolumeMetrics(4)
    metric.update(pred.byte(), target, SPACING)
    assert_same(metric.compute(), filled([3]).compute())
    flat = VolumeMetrics(4)
    flat.update(pred[0], target[0], SPACING[1:])
    slab = VolumeMetrics(4)
    slab.update(pred[:1], target[:1], SPACING)
    assert flat.compute().dice.tolist() == pytest.approx(slab.compute().dice.tolist(), nan_ok=True)


def test_the_tolerance_is_the_accumulators():
    assert filled([0], tolerance=0.0).compute().mean_nsd < filled([0], tolerance=3.0).compute().mean_nsd


def test_parts_add_up_to_the_whole():
    assert_same(filled([0, 1]).merge(filled([2, 3, 4])).compute(), filled(range(5)).compute())
    with pytest.raises(ValueError, match="cannot merge"):
        filled([0], tolerance=1.0).merge(filled([1], tolerance=2.0))


def test_a_class_table_says_how_many_classes_there_are():
    table = [Category(i, name, False, (0, 0, 0)) for i, name in enumerate(("background", "liver", "vessel"))]
    assert len(VolumeMetrics(table).compute().dice) == 2


@pytest.mark.parametrize(
    ("pred", "target", "spacing", "message"),
    [
        (digits("01"), digits("010"), 1.0, "the prediction has shape (1, 1, 2) and the target (1, 1, 3); resize"),
        (digits("01"), digits("07"), 1.0, "target label 7 at (image 0, row 0, column 1) is not in 0..1 or 255"),
        (digits("03"), digits("01"), 1.0, "predicted label 3 at"),
        (digits("01") / 2, digits("01"), 1.0, "a predicted label is an integer class id, got torch.float32"),
        (digits("01"), digits("01"), (1.0, 0.0, 1.0), "all above 0, got (1.0, 0.0, 1.0)"),
        (digits("01"), digits("01"), None, "spacing is 3 distances in mm, all above 0, got None"),
        (digits("01")[None], digits("01")[None], 1.0, "pass one class of one case"),
    ],
)
def test_bad_input_is_named(pred, target, spacing, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        VolumeMetrics(2).update(pred, target, spacing)


def test_there_is_a_class_besides_the_background():
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        VolumeMetrics(1)


def test_after_synchronize_only_reset_opens_the_metric_again():
    metric = filled([0]).synchronize()
    assert_same(metric.compute(), filled([0]).compute())
    with pytest.raises(ValueError, match="reset"):
        metric.update(*volume(1), SPACING)
    metric.reset()
    metric.update(*volume(1), SPACING)
    assert_same(metric.compute(), filled([1]).compute())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_label_maps_on_the_gpu_have_the_same_scores():
    metric = VolumeMetrics(4)
    metric.update(*(m.cuda() for m in volume(0)), SPACING)
    assert_same(metric.compute(), filled([0]).compute())


@pytest.mark.slow
def test_two_processes_have_the_scores_of_one(tmp_path):
    code = """
        import sys
        sys.path.insert(0, "tests")
        import torch.distributed as dist
        from test_volume_metrics import assert_same, filled

        rank, folder = int(sys.argv[1]), sys.argv[2]
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
        mine = filled(range(2) if rank == 0 else range(2, 5))  # shares of different size
        assert_same(mine.synchronize().compute(), filled(range(5)).compute())
        dist.destroy_process_group()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    ranks = [subprocess.Popen([*command, str(r), str(tmp_path)], stderr=subprocess.PIPE, text=True) for r in range(2)]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
