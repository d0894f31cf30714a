"""A run that goes on, on the command line: what need not be said again, what may differ, and what is refused."""

import inspect
import json
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from test_cli import photos, seglib  # noqa: F401 (a fixture)
from test_train import read_log

from seglib.cli.train import train
from seglib.commands.console import training_progress
from seglib.commands.resume import FLAGS, OF_EACH_CALL, PATHS
from seglib.train.checkpoint import read_progress
from seglib.weights import read_metadata


@pytest.fixture
def begun(photos, tmp_path, capsys):  # noqa: F811
    """The folder of a run of two steps with settings of its own."""
    out = tmp_path / "run"
    options = ["--data", "folder", "--root", photos, "--size", "32x48", "--lr", 0.01, "--loss", "dice"]
    code, _ = seglib("train", "fcn_tiny", *options, "--batch-size", 2, "--steps", 2, "--out", out, capsys=capsys)
    assert code == 0
    return out


def test_more_steps_need_no_other_option(begun, capsys):
    code, printed = seglib("train", "fcn_tiny", "--out", begun, "--resume", "--steps", 4, capsys=capsys)
    assert code == 0, printed.err
    assert "the run goes on to 4 steps, not 2" in printed.err
    progress = read_progress(begun / "state.safetensors")
    assert progress["step"] == 4 and progress["config"]["lr"] == 0.01 and progress["config"]["batch_size"] == 2
    facts = read_metadata(begun / "weights.safetensors")
    assert facts["data"] == "folder" and facts["loss"] == "dice" and facts["data_size"] == [32, 48]
    assert json.loads((begun / "config.json").read_text())["asked"]["steps"] == 4
    assert "root" not in json.dumps(facts)  # where the images lie stays with the run


def test_zero_and_no_come_back_too(photos, tmp_path, capsys):  # noqa: F811
    start = ["train", "fcn_tiny", "--data", "folder", "--root", photos, "--size", "32x48", "--batch-size", 2]
    zeros = ["--clip", 0, "--warmup", 0, "--weight-decay", 0, "--no-compile", "--stored-orientation"]
    code, printed = seglib(*start, *zeros, "--steps", 1, "--out", tmp_path / "run", capsys=capsys)
    assert code == 0, printed.err
    asked = json.loads((tmp_path / "run/config.json").read_text())["asked"]
    assert (asked["clip"], asked["warmup"], asked["weight_decay"]) == (0, 0, 0)
    assert asked["compile"] is asked["upright"] is False and not {"pretrained", "skip_bad", "resume"} & set(asked)
    code, printed = seglib("train", "fcn_tiny", "--out", tmp_path / "run", "--resume", "--steps", 2, capsys=capsys)
    assert code == 0, printed.err
    assert read_metadata(tmp_path / "run/weights.safetensors")["own_files"]["upright"] is False


def test_what_is_off_when_not_given_is_a_flag():
    off = {name for name, p in inspect.signature(train).parameters.items() if p.default is False}
    assert off - set(OF_EACH_CALL) == set(FLAGS)


def test_a_finished_run_that_goes_on_does_nothing_more(begun, capsys):
    before = read_log(begun / "log.csv")
    code, printed = seglib("train", "fcn_tiny", "--out", begun, "--resume", capsys=capsys)
    assert code == 0, printed.err
    assert read_log(begun / "log.csv") == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "32x32"], "--size 32x32 is not what the run in .* was started with .32x48."),
        (["--lr", 0.1], "--lr 0.1 is not what the run in .* was started with .0.01."),
        (["--loss", "ce"], "--loss ce is not what"),
        (["--batch-size", 3], "--batch-size 3 is not what"),
        (["--data", "scenes"], "--data scenes is not what"),
        (["--root", "."], "--root .* is not what"),
        (["--seed", 3], "seed 0 → 3"),  # not said at the start
        (["--steps", 1], "is of step 2 already, and steps is 1"),
    ],
    ids=str,
)
def test_what_would_change_numbers_is_refused_with_both_values(begun, capsys, options, message):
    weights = (begun / "weights.safetensors").read_bytes()
    code, printed = seglib("train", "fcn_tiny", "--out", begun, "--resume", *options, capsys=capsys)
    assert code == 2
    assert re.search(message, printed.err.replace("\n", " ")), printed.err
    assert "--weights" in printed.err or "pass more" in printed.err
    assert (begun / "weights.safetensors").read_bytes() == weights


def test_every_path_among_the_options_comes_back_as_a_path():
    paths = {n for n, kind in typing.get_type_hints(train).items() if kind == Path | None}
    assert paths - {"out"} == set(PATHS)


def test_another_model_is_refused(begun, capsys):
    code, printed = seglib("train", "unet_tiny", "--out", begun, "--resume", capsys=capsys)
    assert code == 2 and "the model unet_tiny is not what the run" in printed.err and "(fcn_tiny)" in printed.err


def test_data_that_was_moved_is_taken_from_its_new_place(begun, photos, capsys):  # noqa: F811
    moved = photos.rename(photos.with_name("moved"))
    try:
        code, printed = seglib("train", "fcn_tiny", "--out", begun, "--resume", "--root", moved, capsys=capsys)
    finally:
        moved.rename(photos)
    assert code == 0, printed.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--momentum", 0.5], "--momentum has no use: adamw has its own; pass --optimizer sgd"),
        (["--warmup", 2], "--warmup 2 does not end within the 2 steps"),
        (["--eval-every", 3], "--eval-every 3 has no use: the run has 2 steps"),
    ],
)
def test_options_without_effect_are_refused(photos, tmp_path, capsys, options, message):  # noqa: F811
    data = ["--data", "folder", "--root", photos, "--size", "32x48", "--steps", 2, "--out", tmp_path / "run"]
    code, printed = seglib("train", "fcn_tiny", *data, *options, capsys=capsys)
    assert code == 2 and message in printed.err
    assert not (tmp_path / "run").exists()


def test_without_a_terminal_lines_tell_how_training_goes(photos, tmp_path, capsys):  # noqa: F811
    data = ["--data", "folder", "--root", photos, "--size", "32x48", "--steps", 4, "--batch-size", 2]
    command = ["train", "fcn_tiny", *data, "--eval-every", 2, "--out", tmp_path / "run"]
    code, printed = seglib(*command, capsys=capsys)
    assert code == 0
    start, first, scored, last = printed.err.splitlines()
    assert start.startswith("6 images to train on and 3 to score on, 2 classes, 4 steps on c")
    assert first.startswith("step 1 of 4, loss ") and first.endswith(" left") and "images/s, 0:0" in first
    assert scored.startswith("step 2: miou 0.") and scored.endswith(", the best so far")
    assert last.startswith("step 4 of 4, loss ") and last.endswith("0:00 left")
    assert "kept_step" in printed.out and "kept_miou" in printed.out


def test_lines_come_every_half_minute(capsys, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("seglib.commands.console.time.monotonic", lambda: clock[0])
    with training_progress("images", "miou", "6 images", quiet=False) as (on_step, on_scores):
        for step in range(1, 101):
            on_step(step, 100, 0.5, 2.0, 100.0 - step)
            clock[0] += 4.0
        on_scores(100, {"miou": 0.5}, True)  # the last scores are the command's result
    start, *lines = capsys.readouterr().err.splitlines()
    assert start == "6 images"
    steps = [int(line.split()[1]) for line in lines]
    assert steps == [1, 9, 17, 25, 33, 41, 49, 57, 65, 73, 81, 89, 97, 100]
    with training_progress("images", "miou", "6 images", quiet=True) as (on_step, on_scores):
        on_step(1, 2, 0.5, 2.0, 1.0)
        on_scores(1, {"miou": 0.5}, True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("train fcn_tiny", "--root"),
        ("train fcn_tiny", "--weights"),
        ("train fcn_tiny", "--encoder"),
        ("eval", "--weights"),
        ("predict .", "--weights"),
    ],
)
def test_a_wrong_path_is_named_before_torch_is_loaded(tmp_path, command, option):
    wrong = tmp_path / "no" / "such"
    words = ["seglib", *command.split(), option, str(wrong)]
    script = f"import sys; sys.argv = {words!r}\nfrom seglib.cli import main\n"
    script += "try: main()\nexcept SystemExit as end: print(end.code, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["2", "False"], done.stderr
    problem = "is no folder" if option == "--root" else "does not exist"
    assert done.stderr.strip() == f"error: {option} {wrong} {problem} (what exists is {tmp_path}); check the path"
