"""The task of volumes: whole cases through a window, scored case by case in millimetres."""

import json
import os
import signal

import pytest
import torch

from seglib.data.cases import StoredCases
from seglib.data.collate import collate
from seglib.data.patches import Patches
from seglib.data.volume_transforms import volume_transform
from seglib.models.zoo import build
from seglib.ops.intensity import Intensity
from seglib.postprocess.volume import label_volume
from seglib.train import TASKS, Interrupted, TrainConfig, VolumeTask, evaluate, fit, loop
from seglib.types import VOID, Category, LabelVolume, Sample

NAMES = ("background", "organ", "lesion")
CATEGORIES = tuple(Category(i, name, False, (i, 0, 0)) for i, name in enumerate(NAMES))


def slim(seed=0):
    torch.manual_seed(seed)
    return build("unet3d_tiny", num_classes=3, widths=(4, 6, 8, 8))


def sample(size, name="case", spacing=(2.0, 1.0, 1.0), seed=0):
    """A bright block of organ, and in it a dark corner of lesion, in noise."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.zeros(size, dtype=torch.int64)
    labels[1:-1, 2:-3, 2:-2] = 1
    labels[1:3, 2:5, 2:5] = 2
    image = 100.0 * (labels == 1) - 100.0 * (labels == 2) + 10 * torch.randn(size, generator=g)
    return Sample(image[None], name, semantic=labels, spacing=spacing)


class Blocks(torch.utils.data.Dataset):
    """Five such cases of different sizes."""

    categories, size, file_ids, void_id = CATEGORIES, None, (0, 1, 2), None

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return sample((5 + index % 2, 12 + index, 14), f"case {index}", seed=index)

    def source(self, index):
        return f"block {index}"


def score(task, pairs):
    """The scores of (predicted, true, spacing) label maps."""
    evaluator = task.evaluator()
    for predicted, target, spacing in pairs:
        batch = collate([Sample(target[None].float(), "case", semantic=target, spacing=spacing)])
        evaluator.update([LabelVolume(predicted)], batch)
    evaluator.synchronize()
    return evaluator.compute()


def test_a_task_is_made_again_from_its_arguments():
    task = VolumeTask(CATEGORIES, window=(4, 8, 8), overlap=0.25)
    again = TASKS["volume"](CATEGORIES, **json.loads(json.dumps(task.arguments())))
    assert (again.window, again.overlap) == ((4, 8, 8), 0.25)
    assert VolumeTask(CATEGORIES).arguments() == {"window": None, "overlap": 0.5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": (8, 8)}, r"three sides \(d, h, w\).*\(8, 8\)"),
        ({"window": (0, 8, 8)}, "at least 1 voxel"),
        ({"overlap": 1.0}, r"a share in \[0, 1\), got 1.0"),
    ],
)
def test_a_window_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VolumeTask(CATEGORIES, **arguments)


@pytest.mark.parametrize("window", [None, (4, 8, 8)])
def test_a_padded_batch_predicts_what_its_cases_give_one_by_one(window):
    net, task = slim(), VolumeTask(CATEGORIES, window)
    cases = [sample((5, 12, 14)), sample((7, 9, 10))]
    together = task.predict(net, collate(cases))
    for found, case in zip(together, cases, strict=True):
        assert torch.equal(found.labels, label_volume(net, case.image, window))
        assert found.labels.shape == case.semantic.shape


def test_scores_are_those_of_each_case_in_its_own_millimetres():
    target = torch.zeros(5, 6, 7, dtype=torch.int64)
    target[1, 2, 3] = 1
    beside, above = torch.zeros_like(target), torch.zeros_like(target)
    beside[1, 2, 4] = above[2, 2, 3] = 1
    scores = score(VolumeTask(CATEGORIES), [(beside, target, (3.0, 1.0, 0.5)), (above, target, (4.0, 1.0, 0.5))])
    assert scores["hd95"] == {"organ": (0.5 + 4.0) / 2}
    assert scores["dice"] == {"organ": 0}  # and none of the lesion, which is nowhere
    assert scores["nsd"] == {"organ": 0.5}  # within 1 mm: the first case alone
    assert (scores["mean_dice"], scores["mean_hd95"], scores["mean_nsd"]) == (0, 2.25, 0.5)


def test_without_spacing_distances_are_in_voxels():
    target = torch.zeros(5, 6, 7, dtype=torch.int64)
    predicted = target.clone()
    target[1, 2, 3] = predicted[3, 2, 3] = 1
    assert score(VolumeTask(CATEGORIES), [(predicted, target, None)])["hd95"] == {"organ": 2.0}


def test_padding_and_void_do_not_count():
    target = torch.zeros(4, 4, 4, dtype=torch.int64)
    target[:2, :2, :2], target[3] = 1, VOID
    predicted = target.masked_fill(target == VOID, 2)
    other = Sample(torch.zeros(1, 6, 6, 6), "larger", semantic=torch.full((6, 6, 6), VOID), spacing=(1.0, 1.0, 1.0))
    case = Sample(torch.zeros(1, 4, 4, 4), "case", semantic=target, spacing=(1.0, 1.0, 1.0))
    evaluator = VolumeTask(CATEGORIES).evaluator()
    found = [LabelVolume(predicted), LabelVolume(torch.ones(6, 6, 6, dtype=torch.uint8))]
    evaluator.update(found, collate([case, other]))
    assert evaluator.compute()["dice"] == {"organ": 1.0}


def test_a_dataset_without_labels_is_refused():
    with pytest.raises(ValueError, match="no label maps"):
        VolumeTask(CATEGORIES).evaluator().update([], collate([Sample(torch.zeros(1, 4, 4, 4), "case")]))


def test_evaluation_scales_voxels_as_the_model_wants_them():
    net, task = slim(), VolumeTask(CATEGORIES, (4, 8, 8))
    plain = evaluate(net, Blocks(), task)
    net.intensity = Intensity("zscore")
    scaled = evaluate(net, Blocks(), task)
    expected = task.evaluator()
    for case in map(Blocks().__getitem__, range(5)):
        labels = label_volume(net, case.image, (4, 8, 8), scaling=net.intensity.of(case.image))
        expected.update([LabelVolume(labels)], collate([case]))
    assert scaled == expected.compute() != plain


def test_whole_cases_are_scored_one_by_one_however_many_patches_a_step_has(monkeypatch):
    cases, seen = StoredCases(Blocks()), []
    task = VolumeTask(CATEGORIES, (4, 8, 8))
    monkeypatch.setattr(task, "label", lambda net, image, mm: torch.zeros(image.shape[1:], dtype=torch.long))
    monkeypatch.setattr(loop, "collate", lambda samples: seen.append(len(samples)) or collate(samples))
    config = TrainConfig(1, batch_size=4, precision="no")
    fit(slim(), Patches(cases, (4, 8, 8)), cases, task=task, config=config)
    assert seen.count(1) == 1 + len(cases)  # one of the check before, then all


@pytest.mark.slow
def test_a_killed_training_on_patches_resumes_bit_for_bit(tmp_path):
    intensity, config = Intensity("zscore"), TrainConfig(8, batch_size=2, lr=1e-2, precision="no", eval_every=4)
    task = VolumeTask(CATEGORIES, (4, 8, 16))

    def run(folder, **keywords):
        cases, transform = StoredCases(Blocks(), folder / "cases"), volume_transform(flips=(2,))
        patches = Patches(cases, (4, 8, 16), intensity=intensity, transform=transform)
        net = slim()
        net.intensity = intensity
        history = fit(net, patches, cases, task=task, config=config, out=folder, **keywords)
        return history, net.state_dict()

    def kill_in_step_6(step, *_):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    whole, weights = run(tmp_path / "whole")
    with pytest.raises(Interrupted, match="stopped after step 6"):
        run(tmp_path / "cut", on_step=kill_in_step_6)
    resumed, again = run(tmp_path / "cut", resume=True)
    assert resumed.losses == whole.losses and len(whole.losses) == 8
    assert resumed.scores == whole.scores
    assert all(torch.equal(weights[key], again[key]) for key in weights)
