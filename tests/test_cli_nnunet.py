"""nnU-Net on the command line: plan, train, predict, select."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from test_cli import seglib
from test_cli_volumes import block, folder

from seglib.commands.cascade import OutOfFold
from seglib.data.msd import MSD
from seglib.data.nifti import VoxelFrame, read_label_volume, read_volume, write_volume
from seglib.planning.plans_json import read_plans, write_plans
from seglib.postprocess.whole_cases import Ensemble, label_case
from seglib.train.folds import FoldRun, read_choice
from seglib.weights import load_model, read_metadata

SIZES = [(8, 16, 16), (8, 18, 16), (8, 16, 20), (10, 16, 16), (8, 16, 16), (8, 18, 18), (8, 16, 16), (9, 16, 16)]
STORED = Path(__file__).resolve().parents[1] / "chapters" / "weights"
SHORT = ["--steps", 2, "--batch-size", 2]


@pytest.fixture(scope="module")
def msd(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("data") / "Task01_Blocks", sizes=SIZES)


@pytest.fixture(scope="module")
def plan(msd, tmp_path_factory):
    """Its plan, of few channels."""
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    assert seglib("plan", "--data", "msd", "--root", msd, "--width", 4, "--out", path)[0] == 0
    return path


def train(msd, plan, out, *more):
    return seglib("train", "nnunet", "--data", "msd", "--root", msd, "--plan", plan, "--out", out, *SHORT, *more)[0]


@pytest.fixture(scope="module")
def runs(msd, plan, tmp_path_factory):
    """Runs of two configurations and two folds, by both."""
    root = tmp_path_factory.mktemp("runs")
    cache = ["--cache", root / "cache"]
    found = {(name, fold): root / f"{name}-{fold}" for name in ("3d_fullres", "2d") for fold in (0, 1)}
    for (name, fold), out in found.items():
        assert train(msd, plan, out, "--configuration", name, "--fold", fold, *cache) == 0
    return found


@pytest.fixture(scope="module")
def weights(runs):
    return {key: run / "weights.safetensors" for key, run in runs.items()}


# Plan


def test_a_plan_gives_a_reason_for_every_number(msd, plan, capsys):
    code, printed = seglib("plan", "--data", "msd", "--root", msd, "--width", 4, capsys=capsys)
    assert code == 0, printed.err
    stored = read_plans(plan)
    assert stored.dataset == "Task01_Blocks" and set(stored.configurations) == {"2d", "3d_fullres"}
    assert stored.reasons
    text = " ".join(printed.out.replace("│", " ").split())
    assert max(map(len, printed.out.splitlines())) <= 100
    for reason in stored.reasons:
        assert f"{reason.number} " in text and reason.rule.split()[0] in text
    code, printed = seglib("plan", "--data", "msd", "--root", msd, "--width", 4, "--json", capsys=capsys)
    content = json.loads(printed.out)
    assert content["configurations"]["2d"]["widths"][0] == 4
    assert [tuple(reason.values()) for reason in content["reasons"]] == [
        (r.configuration, r.number, r.value, r.rule, r.because, r.change) for r in stored.reasons
    ]


def test_a_plan_replaces_its_own_file_and_no_other(msd, plan, tmp_path, capsys):
    other = folder(tmp_path / "Task02_Other", sizes=SIZES)
    path = tmp_path / "plan.json"
    path.write_bytes(plan.read_bytes())
    command = ["plan", "--data", "msd", "--width", 4, "--out", path]
    assert seglib(*command, "--root", msd)[0] == 0
    capsys.readouterr()
    code, printed = seglib(*command, "--root", other, capsys=capsys)
    assert code == 2 and "plan.json is there and would be overwritten" in printed.err
    assert read_plans(path).dataset == "Task01_Blocks"
    path.write_text("something else")
    code, printed = seglib(*command, "--root", msd, capsys=capsys)
    assert code == 2 and "plan.json is there and would be overwritten" in printed.err
    assert path.read_text() == "something else"


# Train


def test_training_follows_the_plan_and_keeps_it_with_the_weights(msd, plan, runs, weights):
    facts, chosen = read_metadata(weights["3d_fullres", 1]), read_plans(plan).configurations["3d_fullres"]
    assert facts["plan"]["dataset"] == "Task01_Blocks" and facts["plan"]["configuration"] == "3d_fullres"
    assert facts["task_arguments"]["window"] == facts["patch"] == list(chosen.patch)
    assert facts["arguments"]["widths"][0] == 4 and facts["file_ids"] == [0, 3, 7] and facts["fold"] == 1
    net = load_model(weights["3d_fullres", 1])
    assert net.preparation == read_plans(plan).preparation("3d_fullres") and net.intensity.mode == "native"
    assert read_plans(runs["3d_fullres", 1] / "plan.json") == read_plans(plan)
    config = json.loads((runs["3d_fullres", 1] / "config.json").read_text())
    assert (config["optimizer"], config["batch_size"], config["steps"]) == ("sgd", 2, 2)


def test_a_2d_configuration_trains_on_slices(plan, weights):
    facts, chosen = read_metadata(weights["2d", 0]), read_plans(plan).configurations["2d"]
    assert facts["patch"] == [1, *chosen.patch] and load_model(weights["2d", 0]).dims == 2


def test_runs_of_a_data_set_share_prepared_cases(runs):
    stored = list((runs["2d", 0].parent / "cache").glob("*.json"))
    assert len(stored) == 4 + 2 * len(SIZES)  # those that are scored, and all prepared for two configurations


def test_a_run_without_a_plan_plans_by_itself_and_goes_on_with_that(msd, tmp_path, capsys):
    command = ["train", "nnunet", "--data", "msd", "--root", msd, "--out", tmp_path / "a", "--batch-size", 1]
    code, printed = seglib(*command, "--steps", 1, "--patch", "8x8x8", "--resume", capsys=capsys)
    assert code == 0, printed.err
    assert f"{tmp_path / 'a'} holds no run to go on with; a new one starts" in printed.err
    assert "no --plan: 8 cases of Task01_Blocks are planned" in printed.err
    assert read_plans(tmp_path / "a" / "plan.json").configurations["3d_fullres"].widths[0] == 32
    code, printed = seglib(*command, "--steps", 1, "--patch", "8x8x8", "--resume", capsys=capsys)
    assert code == 0 and "planned" not in printed.err, printed.err


def test_without_a_batch_size_that_of_the_plan_counts(msd, plan, tmp_path, monkeypatch):
    asked = {}

    def record(model, train, val, **settings):
        asked.update(settings, foreground=train._foreground)
        raise ValueError("enough")

    monkeypatch.setattr("seglib.train.fit", record)
    data = ["--data", "msd", "--root", msd, "--plan", plan, "--out", tmp_path / "a"]
    chosen = read_plans(plan).configurations["3d_fullres"]
    assert seglib("train", "nnunet", *data)[0] == 2
    assert asked["config"].batch_size == chosen.batch_size and asked["foreground"] == chosen.foreground
    assert seglib("train", "nnunet", *data, "--batch-size", 4)[0] == 2
    assert asked["config"].batch_size == 4 and asked["foreground"] == pytest.approx(0.25)


# Predict


def case(path, size=(9, 17, 16), spacing=(2.0, 1.0, 1.0)):
    write_volume(path, block(size, seed=9)[0], VoxelFrame.of_spacing(size, spacing))
    return path


def test_a_prediction_lies_on_the_grid_of_the_case_whatever_its_spacing(weights, tmp_path, capsys):
    x = case(tmp_path / "x.nii.gz", (5, 20, 18), (3.0, 0.8, 0.8))
    for name in ("3d_fullres", "2d"):
        out = tmp_path / f"{name}.nii.gz"
        code, printed = seglib("predict", x, "--weights", weights[name, 0], "--out", out, capsys=capsys)
        assert code == 0 and "spacing" not in printed.err, printed.err
        assert nibabel.load(out).shape == (18, 20, 5)
        np.testing.assert_allclose(nibabel.load(out).affine, nibabel.load(x).affine)


def test_several_weights_answer_together(weights, tmp_path):
    x = case(tmp_path / "x.nii.gz")
    chosen = [weights["3d_fullres", 0], weights["3d_fullres", 1], weights["2d", 0]]
    options = [argument for path in chosen for argument in ("--weights", path)]
    assert seglib("predict", x, *options, "--flip-all", "--out", tmp_path / "y.nii.gz")[0] == 0
    image, frame = read_volume(x)
    ensemble = Ensemble([load_model(path) for path in chosen], [read_metadata(p)["patch"] for p in chosen])
    expected = label_case(ensemble, image, frame.spacing, None, flips=(0, 1, 2))
    assert torch.equal(read_label_volume(tmp_path / "y.nii.gz")[0], torch.tensor([0, 3, 7])[expected.long()])


def test_slices_are_mirrored_in_their_plane(weights, tmp_path, monkeypatch):
    asked = []

    def record(model, image, spacing, window, *, flips, **_):
        asked.append(flips)
        return torch.zeros(image.shape[1:], dtype=torch.uint8)

    monkeypatch.setattr("seglib.train.volume_task.label_case", record)
    x = case(tmp_path / "x.nii.gz")
    assert seglib("predict", x, "--weights", weights["2d", 0], "--flip-all", "--json")[0] == 0
    assert asked == [(1, 2)]


def test_an_ensemble_is_scored_with_a_warning_where_its_models_have_seen_the_cases(msd, weights, capsys):
    options = ["--weights", weights["2d", 0], "--weights", weights["2d", 1], "--data", "msd", "--root", msd]
    code, printed = seglib("eval", *options, "--flip-all", "--json", capsys=capsys)
    assert code == 0 and "the models are of several folds" in printed.err
    assert json.loads(printed.out)["volumes"] == len(MSD(msd, "val", fold=0))


# Select


def test_a_choice_is_made_on_cases_that_no_model_has_seen(msd, runs, weights, tmp_path, monkeypatch, capsys):
    who = {next(load_model(path).parameters()).sum().item(): key for key, path in weights.items()}
    cases = {fold: MSD(msd, "val", fold=fold) for fold in (0, 1)}
    what = {s.image.sum().item(): (fold, s) for fold, samples in cases.items() for s in samples}
    seen = []

    def record(model, image, spacing, window, **_):
        """The truth and, apart from it, a voxel of organ."""
        names, folds = zip(
            *(who[next(m.parameters()).sum().item()] for m in getattr(model, "members", [model])), strict=True
        )
        fold, sample = what[image.sum().item()]
        assert set(folds) == {fold} and spacing == sample.spacing
        seen.append((sample.id, names))
        labels = sample.semantic.clone()
        labels[-1, -1, -1] = 1
        return labels

    monkeypatch.setattr("seglib.train.volume_task.label_case", record)
    out = tmp_path / "choice.json"
    command = ["select", *runs.values(), "--data", "msd", "--root", msd, "--folds", "0,1", "--out", out, "--json"]
    code, printed = seglib(*command, capsys=capsys)
    assert code == 0, printed.err
    candidates = [("3d_fullres",), ("2d",), ("3d_fullres", "2d")]
    assert sorted(seen) == sorted((sample.id, names) for _, sample in what.values() for names in candidates)
    result = json.loads(printed.out)
    assert result["best"] == ["3d_fullres"]  # of equal ones a configuration before a pair
    assert result["largest_component"] == [["organ", "lesion"]]
    mean = result["mean_dice"]
    assert mean["3d_fullres"] == mean["2d"] == mean["3d_fullres + 2d"] < mean["3d_fullres, largest component"] == 1
    chosen = read_choice(out)
    assert [p.resolve() for p in chosen.weights] == [weights["3d_fullres", fold] for fold in (0, 1)]
    assert chosen.largest == ((1, 2),)


def test_prediction_by_a_choice_is_that_of_its_ensemble_without_smaller_components(msd, runs, tmp_path, capsys):
    out = tmp_path / "choice.json"
    command = ["select", runs["2d", 0], runs["2d", 1], "--data", "msd", "--root", msd, "--folds", "0,1", "--out", out]
    code, printed = seglib(*command, capsys=capsys)
    assert code == 0 and "best: 2d" in printed.out and "chosen on 2 of 5 folds" in printed.err, printed.err
    content = json.loads(out.read_text()) | {"largest_component": [["organ"]]}
    out.write_text(json.dumps(content))
    x = case(tmp_path / "x.nii.gz")
    assert seglib("predict", x, "--weights", out, "--out", tmp_path / "y.nii.gz")[0] == 0
    image, frame = read_volume(x)
    models = [load_model(runs["2d", fold] / "weights.safetensors") for fold in (0, 1)]
    windows = [read_metadata(runs["2d", 0] / "weights.safetensors")["patch"]] * 2
    expected = label_case(Ensemble(models, windows, [(1,)]), image, frame.spacing, None)
    assert torch.equal(read_label_volume(tmp_path / "y.nii.gz")[0], torch.tensor([0, 3, 7])[expected.long()])


# Cascade


def test_the_first_stage_of_a_case_is_the_model_that_has_not_seen_it(msd, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "seglib.commands.cascade.first_stage", lambda weights, device: lambda image, mm: weights[0].name
    )
    runs = {fold: FoldRun(tmp_path / f"fold {fold}", "3d_lowres", "p", fold) for fold in range(5)}
    for run in runs.values():
        run.weights.touch()
    earlier = OutOfFold(runs, "msd", msd, "cpu")
    assert {s.id: earlier(s) for fold in runs for s in MSD(msd, "train", fold=fold)} == {
        case.id: f"fold {fold}" for fold in runs for case in MSD(msd, "val", fold=fold).cases
    }
    before = earlier.source
    runs[3].weights.write_text("trained anew")
    assert OutOfFold(runs, "msd", msd, "cpu").source != before


@pytest.mark.slow
def test_a_cascade_goes_on_from_predictions_of_its_first_stage(msd, plan, tmp_path, monkeypatch, capsys):
    stored = read_plans(plan)
    fine = stored.configurations["3d_fullres"]
    stages = [replace(fine, name="3d_lowres", spacing=tuple(2 * mm for mm in fine.spacing))]
    stages.append(replace(fine, name="3d_cascade_fullres", previous="3d_lowres"))
    both = tmp_path / "plan.json"
    write_plans(replace(stored, configurations={s.name: s for s in stages}), both)
    more = ["--cache", tmp_path / "cache", "--steps", 1]
    low = [tmp_path / f"low{fold}" for fold in range(5)]
    for fold, out in enumerate(low):
        assert train(msd, both, out, "--configuration", "3d_lowres", "--fold", fold, *more) == 0
    previous = [argument for run in low for argument in ("--previous", run)]
    command = ["--configuration", "3d_cascade_fullres", "--fold", 1, *more]
    capsys.readouterr()
    for given, message in ((previous[:-2], "3d_lowres lacks fold 4"), ([], "goes on from predictions of 3d_lowres")):
        assert train(msd, both, tmp_path / "fine", *command, *given) == 2
        assert message in capsys.readouterr().err
    assert train(msd, both, tmp_path / "fine", *command, *previous) == 0
    weights = tmp_path / "fine" / "weights.safetensors"
    facts, net = read_metadata(weights), load_model(weights)
    assert facts["plan"]["previous"] == "3d_lowres" and net.preparation.previous == 2
    assert facts["arguments"]["in_channels"] == 1 + 2

    x = case(tmp_path / "x.nii.gz")
    command = ["predict", x, "--weights", weights, "--out", tmp_path / "y.nii.gz"]
    code, printed = seglib(*command, capsys=capsys)
    assert code == 2 and "goes on from predictions of 3d_lowres; pass the runs" in printed.err
    assert seglib(*command, *previous)[0] == 0
    image, frame = read_volume(x)
    models = [load_model(run / "weights.safetensors") for run in low]
    coarse = label_case(Ensemble(models, [fine.patch] * 5), image, frame.spacing, None)
    expected = label_case(net, image, frame.spacing, fine.patch, previous=coarse)
    assert torch.equal(read_label_volume(tmp_path / "y.nii.gz")[0], torch.tensor([0, 3, 7])[expected.long()])

    out = tmp_path / "choice.json"
    command = ["select", "--data", "msd", "--root", msd, "--folds", 1, "--out", out]
    code, printed = seglib(*command, tmp_path / "fine", capsys=capsys)
    assert code == 2 and "3d_cascade_fullres goes on from 3d_lowres; pass the runs of that, too" in printed.err
    monkeypatch.setattr("seglib.train.folds.candidates", lambda names: [(names[0],)])
    assert seglib(*command, tmp_path / "fine", low[1])[0] == 0
    assert [p.resolve() for p in read_choice(out).previous] == [low[1] / "weights.safetensors"]
    assert seglib("predict", x, "--weights", out, "--out", tmp_path / "z.nii.gz")[0] == 0


# Bad input


def damaged(plan, folder):
    path = folder / "damaged.json"
    path.write_text(plan.read_text()[:-200])
    return path


def edited(plan, folder, **changes):
    path = folder / "edited.json"
    write_plans(replace(read_plans(plan), **changes), path)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nnunet", "{data}", "--plan", "{damaged}"], "damaged.json"),
        (["train", "nnunet", "{data}", "--plan", "nope.json"], "nope.json"),
        (["train", "nnunet", "{data}", "--plan", "{other}"], "edited.json is the plan of 'Heart'"),
        (["train", "nnunet", "{data}", "--plan", "{classes}"], "the classes background, heart"),
        (
            ["train", "nnunet", "{data}", "--plan", "{plan}", "--configuration", "3d_lowres"],
            "choose one of 2d, 3d_full",
        ),
        (["train", "unet3d_tiny", "{data}", "--plan", "{plan}"], "--plan has no use: plans are for nnunet"),
        (["train", "unet3d_tiny", "--configuration", "2d"], "--configuration has no use: plans are for nnunet"),
        (["train", "fcn_tiny", "--plan", "{plan}"], "--plan has no use: fcn_tiny is for images"),
        (["plan", "--data", "msd"], "pass --root"),
        (["plan", "--data", "scenes"], "'scenes' has none; choose one of volumes, msd, nnunet"),
        (["plan", "{data}", "--planner", "best"], "best"),
        (["plan", "{data}", "--memory", "0"], "memory"),
        (["plan", "{data}", "--out", "{plan}/x.json"], "plan.json is a file"),
        (["predict", "{x}", "--weights", "{w}", "--weights", "{unet3d}", "--json"], "differ in their"),
        (["predict", "{x}", "--weights", "{w}", "--weights", "{fcn}", "--json"], "is for images, and ensembles"),
        (["predict", "{x}", "--weights", "{plan}", "--json"], "plan.json is no choice of `seglib select`"),
        (["predict", "{x}", "--weights", "{plan}", "--weights", "{w}", "--json"], "plan.json names all weights"),
        (["predict", "{x}", "--weights", "{w}", "--out", "{plan}/y.nii.gz"], "plan.json is a file"),
        (["predict", "{x}", "--weights", "{fcn}", "--flip-all", "--json"], "--flip-all has no use"),
        (["select", "{r0}", "{data}"], "3d_fullres lacks fold 1, 2, 3, 4; train them"),
        (["select", "{r0}", "{data}", "--folds", "0,9"], "--folds '0,9' is no list of folds"),
        (["select", "{r0}", "{r0}", "{data}", "--folds", "0"], "both of 3d_fullres and fold 0"),
        (
            ["select", "{r0}", "--data", "nnunet", "--root", "{msd}", "--folds", "0"],
            "is of data set 'msd', not 'nnunet'",
        ),
        (["select", "nowhere", "{data}"], "nowhere"),
        (["predict", "{x}", "--weights", "{w}", "--previous", "{r0}", "--json"], "--previous has no use"),
        (["train", "nnunet", "{data}", "--plan", "{plan}", "--previous", "{r0}"], "--previous has no use: 3d_fullres"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_bad_input_gets_one_line_and_leaves_nothing_behind(
    arguments, message, msd, plan, runs, weights, tmp_path_factory, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    files = tmp_path_factory.mktemp("files")
    places = {"plan": plan, "msd": msd, "x": msd / "imagesTr" / "case_1.nii.gz"}
    places |= {"w": weights["2d", 0], "r0": runs["3d_fullres", 0]}
    places |= {name: STORED / f"{name}_tiny.safetensors" for name in ("fcn", "unet3d")}
    if "{damaged}" in arguments:
        places["damaged"] = damaged(plan, files)
    if "{other}" in arguments:
        places["other"] = edited(plan, files, dataset="Heart")
    if "{classes}" in arguments:
        places["classes"] = edited(plan, files, classes=("background", "heart"))
    filled = [a.format(**places) for a in arguments if a != "{data}"]
    filled += ["--data", "msd", "--root", msd] * ("{data}" in arguments)
    code, printed = seglib(*filled, capsys=capsys)
    assert code == 2 and printed.err.splitlines()[-1].startswith("error: ") and "Traceback" not in printed.err
    assert message in printed.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--planner", "resenc", "choose one of plain, resenc_m"), ("--memory", "0", "memory is a positive number")],
)
def test_a_plan_is_refused_before_cases_are_read(option, value, message, tmp_path, capsys, monkeypatch):
    def read(*_):
        raise AssertionError("a case was read")

    monkeypatch.setattr("seglib.data.volumes.Volumes.__getitem__", read)
    code, printed = seglib("plan", "--data", "volumes", option, value, capsys=capsys)
    assert code == 2 and message in printed.err
