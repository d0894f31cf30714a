"""Losses that divide by a count, in two processes: they and their gradients are those of one with twice the batch."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.utils import DistributedType
from test_train import CATEGORIES, Fixed, Squares, net
from test_train import CONFIG as SHORT

from seglib.data.scenes import Scenes
from seglib.models.condinst import condinst_tiny
from seglib.models.mask2former import mask2former_tiny
from seglib.ops.processes import mean_over_processes
from seglib.train import InstanceTask, PanopticTask, SemanticTask, TrainConfig, evaluate, fit
from seglib.types import Panoptic
from seglib.weights import load_weights

CONFIG = TrainConfig(steps=2, batch_size=2, lr=1e-3, optimizer="sgd", warmup=0, precision="no")


class FixedPoints:
    """The same points for every mask and every process; random ones differ between processes."""

    def _points(self, rows, count):
        return torch.rand(1, count, 2, generator=torch.Generator().manual_seed(0)).expand(rows, -1, -1)

    def for_matching(self, image, layers, count, device):
        return self._points(layers, count)

    def for_loss(self, image, layers, objects, count, logits_at, known_at, device):
        return self._points(layers * objects, count)


def losses(name, batch_size):
    """The losses of two steps on scenes whose number of objects differs; two of six are void."""
    scenes = Scenes(6, size=(64, 64))
    train = [_void(scenes[i]) if i in (1, 4) else scenes[i] for i in range(6)]
    torch.manual_seed(0)
    if name == "mask2former":
        task = PanopticTask(scenes.categories)
        net = mask2former_tiny(num_classes=12, num_things=7, queries=20, layers=2)
        net.sampler = FixedPoints()
    else:
        task = InstanceTask(scenes.categories)
        net = condinst_tiny(7)
    for module in net.modules():  # statistics of a batch are those of one process
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval().train = lambda mode=True: None
    history = fit(net, train, task=task, config=dataclasses.replace(CONFIG, batch_size=batch_size))
    return list(history.losses.values())


def _void(sample):
    return dataclasses.replace(sample, panoptic=Panoptic(sample.panoptic.map * 0), instances=sample.instances[:0])


WORKER = """
import json, sys, torch
sys.path.insert(0, {tests!r})
from test_processes import losses
found = {{name: losses(name, 2) for name in ("mask2former", "condinst")}}
if torch.distributed.get_rank() == 0:
    print("found:", json.dumps(found))
"""


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_with_twice_the_batch(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(tests=str(Path(__file__).parent)))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(launch, capture_output=True, text=True, env=env, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.split("found:")[1])
    for name, two in found.items():
        # DDP sums gradients in another order than one big batch does
        assert two == pytest.approx(losses(name, 4), rel=1e-5), name


def test_in_one_process_the_mean_is_the_number_itself_without_a_gradient():
    value = torch.tensor([2.0, 5.0], requires_grad=True)
    mean = mean_over_processes(value)
    assert mean.tolist() == [2, 5] and not mean.requires_grad


RESUMED = """
import dataclasses, json, os, signal, sys, torch
sys.path.insert(0, {tests!r})
from test_train import CATEGORIES, CONFIG, Fixed, SemanticTask, fit, net
from seglib.ops.processes import gather_from_processes
from seglib.train import Interrupted

config = dataclasses.replace(CONFIG, steps=6, batch_size=2, ema=0.5, save_every=6)
task = SemanticTask(CATEGORIES)

def run(seed, name, **more):
    model = net(seed)
    torch.manual_seed(seed)  # what the processes hold is replaced
    history = fit(model, Fixed(), Fixed(5), task=task, config=config, out={out!r} + name, **more)
    return history, [v.tolist() for v in model.parameters()]

def tell_the_first_process(step, *_):
    if step == 2:
        os.kill(os.getpid(), signal.SIGTERM)

whole, weights = run(0, "/whole")
try:
    run(0, "/cut", on_step=tell_the_first_process)
except Interrupted as stopped:
    print(stopped)
resumed, weights_again = run(9, "/cut", resume=True)
model = net()  # without an average, it is the model itself that is scored
fit(model, Fixed(), Fixed(5), task=task, config=dataclasses.replace(config, steps=2, ema=0.0))
first, second = gather_from_processes(torch.cat([b.float().flatten() for b in model.buffers()]))
if torch.distributed.get_rank() == 0:
    facts = dict(losses=list(whole.losses.values()), again=list(resumed.losses.values()), same=weights == weights_again)
    facts |= dict(score=whole.scores[6]["miou"], score_again=resumed.scores[6]["miou"])
    print("found:", json.dumps(facts | dict(buffers_alike=torch.equal(first, second))))
"""


@pytest.mark.slow
def test_a_run_of_two_processes_that_is_resumed_repeats_the_uninterrupted_one_exactly(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(RESUMED.format(tests=str(Path(__file__).parent), out=str(tmp_path)))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(launch, capture_output=True, text=True, env=env, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "stopped after step 3" in done.stdout
    found = json.loads(done.stdout.split("found:")[1])
    assert found["again"] == found["losses"] and found["same"]
    assert found["score_again"] == found["score"]
    # all processes score what is kept, though each has running statistics of its own batches
    assert found["buffers_alike"]
    stored = net(3)
    load_weights(stored, tmp_path / "whole" / "weights.safetensors")
    assert evaluate(stored, Fixed(5), SemanticTask(CATEGORIES))["miou"] == pytest.approx(found["score"], abs=1e-9)
    # the state is of two processes
    config = dataclasses.replace(SHORT, steps=6, batch_size=2, ema=0.5, save_every=6)
    with pytest.raises(ValueError, match="processes 2 → 1"):
        fit(net(), Fixed(), Fixed(5), task=SemanticTask(CATEGORIES), config=config, out=tmp_path / "cut", resume=True)


def test_launchers_that_split_a_model_over_processes_are_refused_before_the_first_step(monkeypatch):
    monkeypatch.setattr("accelerate.Accelerator.distributed_type", DistributedType.FSDP)
    with pytest.raises(ValueError, match="asks for FSDP, which splits a model over processes"):
        fit(net(), Squares(), task=SemanticTask(CATEGORIES), config=SHORT)
