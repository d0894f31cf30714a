"""Cross-validation: which runs belong together, and what is chosen on their predictions."""

import json
from pathlib import Path

import pytest
import torch

from seglib.train.folds import (
    Choice,
    FoldRun,
    by_configuration,
    candidates,
    choose_components,
    component_dice,
    mean_over_cases,
    read_choice,
    write_choice,
)


def runs(*names_and_folds, plan="p"):
    return [FoldRun(Path(f"{name}-{fold}"), name, plan, fold) for name, fold in names_and_folds]


def test_runs_are_sorted_by_configuration_and_fold():
    found = by_configuration(runs(("2d", 1), ("3d", 0), ("2d", 0), ("3d", 1), ("3d", 4)), [0, 1])
    assert {name: [str(run.weights) for run in of.values()] for name, of in found.items()} == {
        "2d": ["2d-0", "2d-1"],
        "3d": ["3d-0", "3d-1"],
    }


@pytest.mark.parametrize(
    ("given", "folds", "message"),
    [
        (runs(("2d", 0), ("3d", 0), ("3d", 1)), [0, 1, 2], "2d lacks fold 1, 2; 3d lacks fold 2; train them"),
        (runs(("2d", 0), ("2d", 0)), [0], "2d-0 and 2d-0 are both of 2d and fold 0"),
        (runs(("2d", 0)) + runs(("2d", 1), plan="q"), [0, 1], "2d-0 and 2d-1 are both of 2d, but by different plans"),
    ],
)
def test_runs_that_do_not_make_a_cross_validation_are_named(given, folds, message):
    with pytest.raises(ValueError) as refused:
        by_configuration(given, folds)
    assert message in str(refused.value)


def test_a_run_is_known_by_its_metadata():
    plan = {"configuration": "c", "digest": "d", "previous": "p"}
    assert FoldRun.of(Path("w"), {"model": "nnunet", "fold": 3, "plan": plan}) == FoldRun(Path("w"), "c", "d", 3, "p")
    assert FoldRun.of(Path("w"), {"model": "unet3d", "fold": 0}) == FoldRun(Path("w"), "unet3d", None, 0)
    with pytest.raises(ValueError, match="w are of no fold"):
        FoldRun.of(Path("w"), {"model": "unet3d", "fold": None})


def test_candidates_are_configurations_and_pairs_of_them():
    names = ["2d", "3d_lowres", "3d_fullres"]
    singles, pairs = candidates(names)[:3], candidates(names)[3:]
    assert singles == [("2d",), ("3d_lowres",), ("3d_fullres",)]
    assert pairs == [("2d", "3d_lowres"), ("2d", "3d_fullres"), ("3d_lowres", "3d_fullres")]


def test_dice_with_and_without_smaller_components():
    target = torch.tensor([[1, 1, 1, 2, 0, 0, 0, 0]])
    labels = torch.tensor([[1, 1, 1, 2, 0, 2, 0, 1]])
    (plain, single), (whole, whole_single) = component_dice(labels, target, 3)
    assert plain.tolist() == [2 * 3 / (3 + 4), 2 * 1 / (1 + 2)]
    assert single.tolist() == [1, 1]  # the first of two single voxels of class 2 stays
    assert whole.tolist() == whole_single.tolist() == [1, 1]


def test_void_does_not_count_and_absent_classes_have_no_dice():
    target = torch.tensor([[1, 255, 255, 0]])
    dice = component_dice(torch.tensor([[1, 1, 0, 1]]), target, 3)
    assert dice[0, 0, 0] == 2 * 1 / (1 + 2) and dice[0, 1, 0] == 1 and dice[..., 1].isnan().all()


def test_the_mean_is_over_cases_that_have_a_class():
    assert mean_over_cases(torch.tensor([[0.5, torch.nan], [1.0, 0.25]])).tolist() == [0.75, 0.25]


NAN = float("nan")


@pytest.mark.parametrize(
    ("plain", "single", "whole", "whole_single", "groups", "final"),
    [
        # all foreground: the mean rises and no class falls
        ([0.5, 0.6], [0.5, 0.6], [0.7, 0.6], [0.7, 0.6], ((1, 2),), [0.7, 0.6]),
        # the mean rises, but class 2 falls; class 1 by itself gains
        ([0.5, 0.6], [0.7, 0.5], [0.9, 0.5], [0.9, 0.5], ((1,),), [0.7, 0.6]),
        # equal is no gain
        ([0.5, 0.6], [0.5, 0.6], [0.5, 0.6], [0.5, 0.6], (), [0.5, 0.6]),
        # a class after all foreground: what it gains then counts, not what it gains without
        ([0.5, 0.6], [0.9, 0.9], [0.7, 0.7], [0.7, 0.8], ((1, 2), (2,)), [0.7, 0.8]),
        # a class that no case has
        ([0.5, NAN], [0.7, NAN], [0.6, NAN], [0.6, NAN], ((1, 2),), [0.6, NAN]),
    ],
)
def test_the_largest_component_is_kept_where_the_mean_dice_rises(plain, single, whole, whole_single, groups, final):
    dice = torch.tensor([[[plain, single], [whole, whole_single]]])  # one case
    found, scores = choose_components(dice)
    assert found == groups
    assert torch.equal(scores.nan_to_num(-1), torch.tensor(final).nan_to_num(-1))


def choice(folder):
    for fold in (0, 1):
        (folder / f"run{fold}").mkdir(parents=True)
        (folder / f"run{fold}" / "weights.safetensors").touch()
    weights = tuple(folder / f"run{fold}" / "weights.safetensors" for fold in (0, 1))
    return Choice(("2d",), weights, weights[:1], ((1, 2), (2,)), ("background", "a", "b"), {"2d": 0.5})


def test_a_choice_can_be_moved_with_its_runs(tmp_path):
    chosen = choice(tmp_path / "here")
    write_choice(chosen, tmp_path / "here" / "choice.json")
    assert read_choice(tmp_path / "here" / "choice.json").largest == chosen.largest
    (tmp_path / "here").rename(tmp_path / "there")
    found = read_choice(tmp_path / "there" / "choice.json")
    assert found.weights == tuple(tmp_path / "there" / f"run{i}" / "weights.safetensors" for i in (0, 1))
    assert found.previous == found.weights[:1]
    content = json.loads((tmp_path / "there" / "choice.json").read_text())
    assert content["largest_component"] == [["a", "b"], ["b"]] and content["mean_dice"] == {"2d": 0.5}


def test_a_damaged_choice_is_named(tmp_path):
    path = tmp_path / "choice.json"
    write_choice(choice(tmp_path), path)
    whole = json.loads(path.read_text())
    for spoilt in ("{", "[]", *(json.dumps({k: v for k, v in whole.items() if k != key}) for key in whole)):
        path.write_text(spoilt)
        with pytest.raises(ValueError, match="choice.json is no choice of `seglib select`"):
            read_choice(path)
    path.write_text(json.dumps(whole | {"weights": []}))
    with pytest.raises(ValueError, match="names no weights"):
        read_choice(path)
    path.write_text(json.dumps(whole | {"weights": ["gone.safetensors"]}))
    with pytest.raises(FileNotFoundError, match="gone.safetensors, which does not exist"):
        read_choice(path)
