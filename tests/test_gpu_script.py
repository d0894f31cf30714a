"""`benchmarks/gpu.py`, exercised on the CPU: what it records, what it skips, and that one failure doesn't stop it."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from seglib.models import zoo
from seglib.models.zoo import MODELS, Entry

ROOT = Path(__file__).resolve().parents[1]

BROKEN = """
import os, time
def raises(**arguments): raise RuntimeError("no such layer\\na hint")
def dies(**arguments): os._exit(3)
def hangs(**arguments): time.sleep(600)
"""
PROGRAMS = {
    "fast": 'import sys\nprint(sys.argv[1:])\nprint("a, forward  2.00 ms  4.00 ms  0.50 (0.40 to 0.60)  9 MB")',
    "wrong": 'print("begun")\nraise SystemExit("the logits differ")',
    "slow": "import time\ntime.sleep(600)",
}


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu

    return gpu


@pytest.fixture
def side_by_side(gpu):
    return sys.modules["_side_by_side"]


@pytest.fixture
def programs(gpu, monkeypatch, tmp_path):
    """A checkout with three benchmarks and a test that needs a GPU."""
    for name, text in PROGRAMS.items():
        path = tmp_path / "benchmarks" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (tmp_path / "tests").mkdir()
    text = f'import pytest, torch\n@pytest.mark.{gpu.GUARD}, reason="")\ndef test_on_a_gpu(): pass\n'
    (tmp_path / "tests" / "test_some.py").write_text(text)
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    return gpu


@pytest.fixture
def broken(monkeypatch, tmp_path):
    """Entries of the zoo that go wrong."""
    (tmp_path / "broken_models.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    entries = {name: Entry(f"broken_models:{name}", ("semantic",), "") for name in ("raises", "dies", "hangs")}
    monkeypatch.setattr(zoo, "MODELS", {**MODELS, **entries})


def run(gpu, tmp_path, *arguments):
    """The exit status and the JSON of a run on the CPU."""
    out = tmp_path / "out" / "gpu.json"
    status = gpu.main(["--device", "cpu", "--quick", "--out", str(out), *arguments])
    return status, json.loads(out.read_text())


def test_without_a_gpu_it_says_so_and_writes_nothing(gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path / "gpu.json")]) == 0
    assert capsys.readouterr().out.startswith("there is no GPU on this machine, so nothing was run")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_steps_are_measured_and_a_failing_entry_does_not_stop_the_others(gpu, broken, monkeypatch, tmp_path):
    # here, because starting another process takes longer than the steps; the next test starts some
    monkeypatch.setattr(gpu.Worker, "run", lambda self, job, limit, left: gpu.attempt(*job))
    status, report = run(gpu, tmp_path, "--parts", "steps", "--only", "raises", "fcn_tiny")
    assert status == 1
    assert {"command", "hardware", "commit", "date", "versions", "settings", "seconds"} <= set(report)
    assert report["versions"]["torch"] == torch.__version__ and report["settings"]["backend"] == "eager"

    failure = report["steps"]["raises"]["eager"]
    assert failure["status"] == "failed" and failure["error"] == "RuntimeError: no such layer"
    assert report["steps"]["raises"]["compiled"] == {"status": "skipped: there is no eager step"}

    eager, compiled = (report["steps"]["fcn_tiny"][mode] for mode in ("eager", "compiled"))
    for found in (eager, compiled):
        assert found["status"] == "ok" and found["ms"] > 0 and found["peak_mb"] is None and found["model"] == "FCN"
    # the same operations in the same order, and weights that move
    assert compiled["loss_difference"] == 0 and len(set(eager["losses"])) == gpu.WARMUP


@pytest.mark.slow
def test_an_entry_that_dies_or_hangs_does_not_stop_the_others(gpu, broken):
    worker, settings = gpu.Worker(), gpu.QUICK
    try:
        found = worker.run((zoo.MODELS["dies"], settings, False), 300, 300)
        assert found["status"] == "failed" and found["error"] == "the process ended with exit status 3"
        found = worker.run((zoo.MODELS["hangs"], settings, False), 1, 300)
        assert found["status"] == "failed" and found["error"] == "took longer than its limit of 1 s"
        assert worker.process is None
        found = worker.run((zoo.MODELS["raises"], settings, False), 300, 300)
        assert found["error"] == "RuntimeError: no such layer"
        found = worker.run((MODELS["fcn_tiny"], settings, False), 300, 300)
        assert found["status"] == "ok" and found["seconds"] > 0
    finally:
        worker.stop()


def test_compiled_losses_that_differ_fail(gpu):
    eager = {"status": "ok", "losses": [2.0, 1.0]}
    near, far = (gpu.compare_losses(eager, {"status": "ok", "losses": [2.0, last]}) for last in (1.04, 1.06))
    assert near["status"] == "ok" and near["loss_difference"] == pytest.approx(0.04)
    assert far["status"] == "failed" and far["error"] == "the losses are [2.0, 1.06], eager [2.0, 1.0]"


def test_losses_that_are_not_finite_fail(gpu):
    entry, settings = MODELS["fcn_tiny"], gpu.Settings(**{**asdict(gpu.QUICK), "lr": 1e30})
    found = gpu.attempt(entry, settings, False)
    assert found["status"] == "failed" and found["error"].startswith("FloatingPointError: not all losses are finite")


def test_each_class_of_models_is_compiled_once_and_every_tiny_entry(gpu, monkeypatch, tmp_path):
    asked = []

    def record(self, job, limit, left):
        name = next(n for n, e in MODELS.items() if e is job[0])
        asked.append((name, job[2]))
        return {"status": "ok", "model": job[0].path.split(":")[0], "losses": [1.0]}

    monkeypatch.setattr(gpu.Worker, "run", record)
    status, report = run(gpu, tmp_path, "--parts", "steps", "--only", *MODELS)
    assert status == 0
    names = [n for n, compiled in asked if not compiled]
    assert report["second_names"]["fcn_resnet18"] == "fcn" and sorted(names + list(report["second_names"])) == sorted(
        MODELS
    )
    compiled = [n for n, compiled in asked if compiled]
    tiny = [n for n in MODELS if n.endswith("_tiny")]
    dense, objects = ["fcn", "unet", "deeplab"], ["mask_rcnn", "yolact", "condinst", "solov2"]
    assert compiled == [*tiny, *dense, *objects, "panoptic_fpn", "mask2former", "unet3d", "nnunet", "sam"]
    skipped = report["steps"]["fcn_resnet50"]["compiled"]["status"]
    assert skipped == "skipped: fcn is compiled for all seglib.models.fcn"


def test_programs_are_recorded_with_their_lines_ratios_and_errors(programs, monkeypatch, tmp_path):
    monkeypatch.setattr(programs, "QUICK_PROGRAMS", {"fast": ["--size", "8"], "wrong": []})
    status, report = run(programs, tmp_path, "--parts", "benchmarks")
    assert status == 1
    found = report["benchmarks"]
    fast = found["fast"]
    assert fast["status"] == "ok" and fast["lines"][0] == "['--size', '8']" and fast["arguments"] == ["--size", "8"]
    assert fast["ratios"] == [
        {"name": "a, forward", "ours": 2.0, "reference": 4.0, "low": 0.4, "ratio": 0.5, "high": 0.6}
    ]
    wrong = found["wrong"]
    assert wrong["status"] == "failed" and wrong["error"] == "the logits differ" and wrong["lines"] == ["begun"]
    assert found["slow"] == {"status": "skipped: not in --quick"}


def test_a_program_that_takes_too_long_is_stopped(programs):
    command = [sys.executable, "-u", "benchmarks/slow.py"]
    found = programs.run_program(command, 1, 600)
    assert found["status"] == "failed" and found["error"] == "took longer than its limit of 1 s"
    # at the end of its part's time it has not failed
    found = programs.run_program(command, 600, 1)
    assert found["status"] == "skipped: out of time" and "error" not in found


def test_what_the_time_does_not_allow_is_recorded_as_skipped(programs, tmp_path):
    status, report = run(programs, tmp_path, "--budget", "0", "--only", "fcn_tiny")
    skipped = {"status": "skipped: out of time"}
    assert status == 0
    assert report["tests"] == skipped
    assert report["steps"] == {"fcn_tiny": {"eager": skipped, "compiled": skipped}}
    assert set(report["benchmarks"]) == set(PROGRAMS)


@pytest.mark.slow
def test_the_tests_that_need_a_gpu_are_run(programs):
    found = programs.run_tests("cpu", 300)
    assert found["status"] == "ok" and (torch.cuda.is_available() or "1 skipped" in found["lines"][-1])
    if not torch.cuda.is_available():
        found = programs.run_tests("cuda", 300)
        assert found["status"] == "failed" and found["error"].startswith("tests were skipped on a GPU: 1 skipped")


def test_every_test_that_needs_a_gpu_says_so_in_its_name(gpu):
    guarded = 0
    for path in ROOT.glob("tests/**/test_*.py"):
        for after in path.read_text().split(f"@pytest.mark.{gpu.GUARD}")[1:]:
            name = after.split("def test_")[1].split("(")[0]
            assert "gpu" in name or "cuda" in name, f"{path.name}: test_{name} would not be run by `make gpu`"
            guarded += 1
    assert guarded >= 5


def test_the_benchmarks_of_models_and_losses_take_a_device(gpu):
    found = gpu.programs()
    assert {name for name, takes in found.items() if takes} >= {"dense", "losses", "mask_rcnn", "one_stage", "roi"}
    assert "gpu" not in found and not found["data"] and list(found.values()) == sorted(found.values(), reverse=True)


def test_a_printed_comparison_is_read_back(side_by_side):
    comparison = side_by_side.Comparison(3.25, 140.0, 0.02, 0.03, 0.04)
    line = f"  {'torchvision:fcn_resnet50, train step':44} {comparison}      9 MB     12 MB"
    assert side_by_side.read_comparison(line) == ("torchvision:fcn_resnet50, train step", comparison)
    assert side_by_side.read_comparison("  2 x 3 x 256 x 256, median of 7 rounds (quartiles)") is None
