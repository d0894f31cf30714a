"""What only a GPU shows, in at most eight minutes: its tests, training steps of the zoo, and the benchmarks. One JSON.

    python benchmarks/gpu.py [--out runs/gpu.json] [--budget 460]
    python benchmarks/gpu.py --device cpu --quick       # the script itself, exercised on a CPU

Three parts, each with its share of the time; what one leaves over the next ones have:

    tests        those tests that are skipped where there is no GPU
    steps        training steps in bf16 of every entry of the zoo, eager; then compiled, every ``*_tiny`` and one entry
                 of each class of models, because compiling takes most of the time. An entry with two names runs once.
                 All losses must be finite, and those of the first steps the same eager and compiled
    benchmarks   the other programs of this folder at their full size, on the GPU where they have ``--device``

Training steps run in a process of their own, which is replaced when it fails, dies or takes too long. What fails is
recorded, and the rest goes on; what the time doesn't allow is recorded as "skipped: out of time". The file is written
anew after each result. The exit status is 1 when anything failed. Without a GPU the script says so and exits with 0.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import math
import multiprocessing
import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from _side_by_side import read_comparison, seconds
from torch import Tensor, nn

from seglib.book.results import write_results
from seglib.data.collate import collate
from seglib.data.scenes import Scenes
from seglib.data.volumes import Volumes
from seglib.models import zoo
from seglib.models.zoo import Entry
from seglib.ops.intensity import Intensity
from seglib.train import TASKS
from seglib.train.optim import build_optimizer

ROOT = Path(__file__).resolve().parents[1]
BUDGET = 460
"""Seconds for all parts: eight minutes, less what it takes to start and to stop the last process."""
ENDS = {"tests": 0.1, "steps": 0.7, "benchmarks": 1.0}
"""The parts in their order, and the share of the time after which each must have ended."""
LIMITS = {"eager": 40, "compiled": 120, "benchmark": 100}
"""Seconds after which one of them has failed."""
GUARD = "skipif(not torch.cuda.is_available()"
"""What marks a test that needs a GPU; its name holds "gpu" or "cuda"."""
OUT_OF_TIME = "skipped: out of time"
UNITS = {"ms": "ms", "peak_mb": "MB", "seconds": "s"}
"""The numbers of a result that are printed."""
WARMUP = 3
"""Steps before time is taken; their losses are recorded."""
TOLERANCE = 0.05
"""How far the losses of eager and compiled steps may lie apart, relatively. bf16 rounds to 8 bits (0.4%), and compiled
code rounds less often; a two-stage model then also samples other proposals."""
QUICK_PROGRAMS = {"roi": ["--size", "64", "--rounds", "1"]}
"""The programs that ``--quick`` runs, and how."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a training step looks like."""

    device: str = "cuda"
    batch: int = 8
    size: int = 256
    timed: int = 10
    backend: str = "inductor"
    optimizer: str = "adamw"
    lr: float = 1e-4
    clip: float = 5.0


QUICK = Settings(device="cpu", batch=2, size=64, timed=2, backend="eager")


@dataclass
class Clock:
    """How much of the time is left."""

    budget: float
    start: float = field(default_factory=time.monotonic)

    def left(self, part: str) -> float:
        """Seconds until the part must have ended."""
        return self.start + ENDS[part] * self.budget - time.monotonic()


class Report:
    """The JSON: results are added one by one, printed, and the file is written anew each time."""

    def __init__(self, path: Path, command: str, facts: Result) -> None:
        self.path, self.command, self.start = path, command, time.monotonic()
        self.content: Result = {**facts, "seconds": 0.0, "tests": {}, "steps": {}, "benchmarks": {}}
        self.failures: list[str] = []

    def add(self, *where: str, found: Result) -> None:
        """Store a result under its keys."""
        *outer, last = where
        place = self.content
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = {**place.get(last, {}), **found}
        name, status = " ".join(where), found["status"]
        if status == "failed":
            self.failures.append(name)
        numbers = [f"{found[key]:.1f} {unit}" for key, unit in UNITS.items() if found.get(key) is not None]
        print("  ".join([f"  {name:40} {status:6}", *numbers, found.get("error", "")]).rstrip(), flush=True)
        self.content["seconds"] = round(time.monotonic() - self.start, 1)
        write_results(self.path, self.content, command=self.command, seed=0)


def failed(error: str, **facts: Any) -> Result:
    return {"status": "failed", "error": error, **facts}


def stopped(limit: float, left: float, **facts: Any) -> Result:
    """What took longer than its own limit has failed; what the end of its part has cut off was skipped."""
    if limit <= left:
        return failed(f"took longer than its limit of {limit:.0f} s", **facts)
    return {"status": OUT_OF_TIME, **facts}


# Programs ------------------------------------------------------------------------------------------------------------


def run_program(command: Sequence[str], limit: float, left: float) -> Result:
    """Run a program and collect what it prints, also when it has to be stopped."""
    if left <= 0:
        return {"status": OUT_OF_TIME}
    start = time.monotonic()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=min(limit, left))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, _ = process.communicate()
            return stopped(limit, left, seconds=time.monotonic() - start, lines=out.splitlines())
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    facts = {"seconds": time.monotonic() - start, "lines": out.splitlines()}
    if process.returncode:
        printed = [line.strip() for line in (err or out).splitlines() if line.strip()]
        return failed(printed[-1] if printed else f"exit status {process.returncode}", traceback=printed[-20:], **facts)
    return {"status": "ok", **facts}


def run_tests(device: str, left: float) -> Result:
    """The tests that need a GPU. On a GPU none of them may be skipped."""
    files = [str(f.relative_to(ROOT)) for f in sorted(ROOT.glob("tests/**/test_*.py")) if GUARD in f.read_text()]
    options = ["-q", "-p", "no:cacheprovider", "-k", "gpu or cuda"]
    found = run_program([sys.executable, "-m", "pytest", *options, *files], math.inf, left)
    if device == "cuda" and found["status"] == "ok" and "skipped" in found["lines"][-1]:
        return {**found, **failed(f"tests were skipped on a GPU: {found['lines'][-1]}")}
    return found


def programs() -> dict[str, bool]:
    """The other programs of this folder, those first that take a device; whether they do."""
    paths = [p for p in sorted(ROOT.glob("benchmarks/[a-z]*.py")) if p.name != "gpu.py"]
    takes = {p.stem: 'add_argument("--device"' in p.read_text() for p in paths}
    return dict(sorted(takes.items(), key=lambda item: not item[1]))


def run_benchmark(name: str, arguments: Sequence[str], left: float) -> Result:
    file = str(ROOT / "benchmarks" / f"{name}.py")
    found = run_program([sys.executable, "-u", "-W", "ignore", file, *arguments], LIMITS["benchmark"], left)
    read = filter(None, map(read_comparison, found.get("lines", [])))
    return {**found, "arguments": list(arguments), "ratios": [{"name": name} | asdict(c) for name, c in read]}


# Training steps ------------------------------------------------------------------------------------------------------


def samples_of(task: str, settings: Settings) -> Scenes | Volumes:
    """Synthetic samples of the task: scenes, or normalised volumes of 16 slices, a quarter as wide but 32 voxels."""
    if task != "volume":
        return Scenes(settings.batch, size=settings.size)
    zscore = Intensity("zscore")
    side = max(32, settings.size // 4)
    return Volumes(
        settings.batch,
        size=(16, side, side),
        transform=lambda sample: replace(sample, image=zscore(sample.image)),
    )


def train(entry: Entry, settings: Settings, compiled: bool) -> Result:
    """A few training steps of a fresh model: losses of the first, milliseconds and memory of the others."""
    device = torch.device(settings.device)
    samples = samples_of(entry.tasks[0], settings)
    task = TASKS[entry.tasks[0]](samples.categories)
    torch.manual_seed(0)
    arguments = task.universal_arguments() if entry.universal else task.model_arguments()
    model = entry.builder()(**arguments).to(device).train()
    if device.type == "cuda" and entry.tasks[0] != "volume":
        model = model.to(memory_format=torch.channels_last)  # as `fit` does
    optimizer = build_optimizer(model, settings.optimizer, lr=settings.lr, weight_decay=1e-4)
    batch = collate([samples[i] for i in range(len(samples))]).to(device)
    # as `fit` compiles; with dynamic=False every new number of proposals would be compiled again
    trained = torch.compile(model, backend=settings.backend) if compiled else model

    def step() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            loss = torch.stack(list(task.losses(trained, batch).values())).sum()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    torch.manual_seed(1)  # of dropout and of a detector's samples
    start = time.perf_counter()
    losses = [float(step())]
    first = time.perf_counter() - start
    losses += [float(step()) for _ in range(WARMUP - 1)]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = [seconds(step, device.type) for _ in range(settings.timed)]
    losses.append(float(step()))  # a step that broke the weights shows in the next one
    if not all(map(math.isfinite, losses)):
        raise FloatingPointError(f"not all losses are finite: {losses}")
    return {
        "model": type(model).__name__,
        "losses": losses[:WARMUP],
        "ms": 1e3 * statistics.median(times),
        "peak_mb": torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None,
        "first_step_seconds": first,
    }


def attempt(entry: Entry, settings: Settings, compiled: bool) -> Result:
    """:func:`train`, with its error in the result."""
    try:
        gc.collect()  # what the job before left behind
        torch.compiler.reset()
        if settings.device == "cuda":
            torch.cuda.empty_cache()
        return {"status": "ok", **train(entry, settings, compiled)}
    except Exception as error:  # whatever it is, it belongs in the report, and the other entries are still to run
        said = str(error).strip().splitlines() or [""]  # the last lines of a compiler's error are hints
        lines = "".join(traceback.format_exception(error)).splitlines()
        return failed(f"{type(error).__name__}: {said[0]}", traceback=lines[-20:])


def serve(pipe: Any) -> None:
    """What the process does: one job after the other, until nobody sends any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the script, which stops this process
    from torch._inductor import config  # takes a second, which the script itself need not wait

    config.fallback_random = True  # compiled code draws the same random numbers as eager code
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        pipe.send(attempt(*job))


class Worker:
    """A process that takes training steps, started when there is something to do."""

    def __init__(self) -> None:
        self.process: Any = None
        self.pipe: Any = None

    def run(self, job: tuple[Entry, Settings, bool], limit: float, left: float) -> Result:
        """The result of a job. After a failure the process is stopped: an error on a GPU can spoil all that follows."""
        if left <= 0:
            return {"status": OUT_OF_TIME}
        start = time.monotonic()
        if self.process is None:
            context = multiprocessing.get_context("spawn")  # a fork can't use a GPU
            self.pipe, other = context.Pipe()
            self.process = context.Process(target=serve, args=(other,))
            self.process.start()
            other.close()
        try:
            self.pipe.send(job)
            found = self.pipe.recv() if self.pipe.poll(min(limit, left)) else stopped(limit, left)
        except (EOFError, OSError):  # nobody is at the other end
            self.process.join()
            found = failed(f"the process ended with exit status {self.process.exitcode}")
        if found["status"] != "ok":
            self.stop()
        return {**found, "seconds": time.monotonic() - start}

    def stop(self) -> None:
        """End the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process.close()
            self.pipe.close()
            self.process = None


def distinct(names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The entries to run, and the second names among them, each with the first."""
    first: dict[Any, str] = {}
    second = {}
    for name in names:
        try:
            builder: Any = zoo.MODELS[zoo.SHORT_NAMES.get(name, name)].builder()
        except ImportError:  # recorded when it runs
            builder = name
        if builder in first:
            second[name] = first[builder]
        first.setdefault(builder, name)
    return [name for name in names if name not in second], second


def compare_losses(eager: Result, compiled: Result) -> Result:
    """The compiled result, failed when its losses are not those of the eager steps."""
    if compiled["status"] != "ok":
        return compiled
    pairs = zip(eager["losses"], compiled["losses"], strict=True)
    difference = max(abs(a - b) / max(abs(a), 1e-12) for a, b in pairs)
    found = {**compiled, "loss_difference": difference}
    if difference > TOLERANCE:
        found |= failed(f"the losses are {compiled['losses']}, eager {eager['losses']}")
    return found


def run_steps(names: Sequence[str], settings: Settings, clock: Clock, report: Report) -> None:
    """Every entry eager, then those that are compiled."""
    worker, eager = Worker(), {}
    try:
        for name in names:
            eager[name] = worker.run((zoo.MODELS[name], settings, False), LIMITS["eager"], clock.left("steps"))
            report.add("steps", name, "eager", found=eager[name])
        chosen: dict[str, str] = {}  # class → the entry that is compiled for it
        tiny = [name for name in names if name.endswith("_tiny")]
        for name in [*tiny, *(n for n in names if n not in tiny)]:
            if eager[name]["status"] != "ok":
                found = {"status": "skipped: there is no eager step"}
                if eager[name]["status"] == OUT_OF_TIME:
                    found = {"status": OUT_OF_TIME}
            elif name not in tiny and chosen.setdefault(model := eager[name]["model"], name) != name:
                found = {"status": f"skipped: {chosen[model]} is compiled for all {model}"}
            else:
                found = worker.run((zoo.MODELS[name], settings, True), LIMITS["compiled"], clock.left("steps"))
                found = compare_losses(eager[name], found)
            report.add("steps", name, "compiled", found=found)
    finally:
        worker.stop()


# The script ----------------------------------------------------------------------------------------------------------


def versions() -> dict[str, str | None]:
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    found = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    found["cudnn"] = str(cudnn) if cudnn else None
    for name in ("torchvision", "triton", "segmentation-models-pytorch", "monai", "pycocotools"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.json"), help="the JSON file")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all parts")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="small and few: exercises the script, measures nothing")
    parser.add_argument("--parts", nargs="+", choices=list(ENDS), default=list(ENDS), help="what to run")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="entries of the zoo")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("there is no GPU on this machine, so nothing was run; `--device cpu --quick` exercises the script itself")
        return 0
    for name in options.only or []:
        zoo.find(name)

    clock = Clock(options.budget)
    settings = Settings(**{**asdict(QUICK if options.quick else Settings()), "device": options.device})
    everything = [n for n in zoo.MODELS if n.endswith("_tiny") or not options.quick]
    names, second = distinct(options.only or everything)
    arguments = sys.argv[1:] if argv is None else argv
    weights = "channels_last" if options.device == "cuda" else "contiguous"
    facts = {
        "versions": versions(),
        "budget_seconds": options.budget,
        "parts": options.parts,
        "quick": options.quick,
        "settings": {**asdict(settings), "precision": "bf16 autocast", "weights": weights},
        "compiled_entries": "every *_tiny and the first other entry of each class of models",
        "second_names": second,
    }
    report = Report(options.out, shlex.join(["python", "benchmarks/gpu.py", *arguments]), facts)
    print(f"{torch.cuda.get_device_name() if options.device == 'cuda' else 'CPU'}; torch {torch.__version__}")
    if "tests" in options.parts:
        report.add("tests", found=run_tests(options.device, clock.left("tests")))
    if "steps" in options.parts:
        run_steps(names, settings, clock, report)
    if "benchmarks" in options.parts:
        for name, takes_device in programs().items():
            if options.quick and name not in QUICK_PROGRAMS:
                report.add("benchmarks", name, found={"status": "skipped: not in --quick"})
                continue
            wanted = ["--device", options.device] if takes_device else []
            wanted += QUICK_PROGRAMS[name] if options.quick else []
            report.add("benchmarks", name, found=run_benchmark(name, wanted, clock.left("benchmarks")))
    failures = f"; failed: {', '.join(report.failures)}" if report.failures else ""
    print(f"{report.content['seconds']:.0f} s, written to {options.out}{failures}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
