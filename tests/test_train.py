"""The training loop: schedules, sample order, exact resume, interruption, bad losses, several processes."""

import dataclasses
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from seglib.losses.pixel import cross_entropy
from seglib.postprocess.semantic import semantic_from_logits
from seglib.train import Interrupted, SemanticTask, TrainConfig, checkpoint, evaluate, fit
from seglib.train.checkpoint import read_progress
from seglib.train.locking import only_run_in
from seglib.train.log import read_log
from seglib.train.loop import _precision
from seglib.train.optim import lr_factor
from seglib.train.sampling import SeededDataset, StreamBatches, mix_seed
from seglib.types import Category, DenseOutput, Sample
from seglib.weights import load_weights, read_metadata

CATEGORIES = (Category(0, "bright", True, (230, 159, 0)), Category(1, "dark", False, (0, 114, 178)))


class Squares(torch.utils.data.Dataset):
    """Noisy images whose label is whether a pixel's block is bright; the noise is the augmentation."""

    categories = CATEGORIES

    def __init__(self, length=12, poison=None):
        self.length, self.poison = length, poison

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        label = torch.randint(2, (2, 2), generator=torch.Generator().manual_seed(i)).repeat_interleave(4, 0)
        label = label.repeat_interleave(4, 1)  # (8, 8)
        image = (0.7 - 0.4 * label + 0.2 * torch.randn(3, 8, 8)).clamp(0, 1)
        if i == self.poison:
            image = image * torch.nan
        return Sample(image, f"square {i}", semantic=label)


class Net(nn.Module):
    """Two convolutions with dropout, following the contract of the zoo."""

    def __init__(self, norm=True):
        super().__init__()
        layers = [
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8, momentum=0.5),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Conv2d(8, 2, 1),
        ]
        self.layers = nn.Sequential(*(m for m in layers if norm or not isinstance(m, nn.BatchNorm2d | nn.Dropout)))

    def forward(self, images, targets=None, sizes=None):
        return DenseOutput(self.layers(images))

    def loss(self, out, targets):
        return {"pixel": cross_entropy(out.logits, targets.semantic)}

    def postprocess(self, out, sizes, output_sizes=None):
        return semantic_from_logits(out.logits, sizes, output_sizes)

    def predict(self, images, sizes=None, output_sizes=None):
        training = self.training
        self.eval()
        out = self(images)
        self.train(training)
        return self.postprocess(out, sizes, output_sizes)


def net(seed=0, **keywords):
    torch.manual_seed(seed)
    return Net(**keywords)


CONFIG = TrainConfig(steps=12, batch_size=4, lr=0.02, save_every=5, precision="no", workers=0)
TASK = SemanticTask(CATEGORIES)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        ({"lr": float("inf")}, "lr must be positive and finite, got inf"),
        ({"ema": 1.0}, r"ema is a decay in \[0, 1\), got 1.0"),
        ({"schedule": "step"}, "schedule 'step' is unknown; choose one of poly"),
        ({"workers": -1}, "workers must not be negative"),
    ],
)
def test_a_bad_configuration_says_what_is_wrong(keywords, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**keywords)


# Sample order


@given(st.integers(1, 20), st.integers(1, 7), st.integers(0, 3))
def test_every_epoch_shows_every_sample_once(length, batch_size, seed):
    batches = -(-3 * length // batch_size)
    stream = [key for batch in StreamBatches(length, batch_size, batches, seed=seed) for key in batch]
    for epoch in range(3):
        assert sorted(i for e, i in stream if e == epoch) == list(range(length))


@given(st.integers(1, 20), st.integers(1, 7), st.integers(0, 9))
def test_a_stream_that_starts_late_continues_the_whole_one(length, batch_size, start):
    whole = list(StreamBatches(length, batch_size, 12))
    assert list(StreamBatches(length, batch_size, 12 - start, start=start)) == whole[start:]


def test_every_epoch_has_an_order_of_its_own():
    stream = [i for batch in StreamBatches(10, 5, 6) for _, i in batch]
    assert len({tuple(stream[k : k + 10]) for k in (0, 10, 20)}) == 3


def test_seeds_of_neighbouring_keys_are_far_apart():
    seeds = {mix_seed(s, e, i) for s in range(5) for e in range(5) for i in range(200)}
    assert len(seeds) == 5 * 5 * 200
    assert all(0 <= s < 2**63 for s in seeds)


def test_augmentation_depends_on_the_key_alone_and_leaves_the_global_state_as_it_was():
    data = SeededDataset(Squares(), seed=3)
    first = data[(1, 4)].image
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(data[(1, 4)].image, first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(data[(2, 4)].image, first)


def test_an_empty_training_set_is_refused():
    with pytest.raises(ValueError, match="training dataset is empty"):
        fit(net(), Squares(0), task=TASK, config=CONFIG)


# The loop


def test_training_lowers_the_loss_and_scores_on_held_out_images(tmp_path):
    calls = []
    history = fit(
        net(), Squares(), Squares(6), task=TASK, config=CONFIG, out=tmp_path, on_step=lambda *a: calls.append(a)
    )
    losses = list(history.losses.values())
    assert len(losses) == 12
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    assert [c[:2] for c in calls] == [(s, 12) for s in range(1, 13)]
    assert calls[-1][2] == losses[-1]
    assert history.scores[12]["miou"] == history.best > 0.6
    assert {p.name for p in tmp_path.iterdir()} == {
        ".lock",
        "config.json",
        "log.csv",
        "tensorboard",
        "state.safetensors",
        "weights.safetensors",
    }
    rows = read_log(tmp_path / "log.csv")
    assert [v for _, n, v in rows if n == "loss"] == pytest.approx(losses, rel=1e-6)  # the file has 8 digits
    assert [v for _, n, v in rows if n == "val/miou"] == pytest.approx([history.best], rel=1e-6)


def test_the_kept_weights_say_what_they_are_and_give_the_same_predictions(tmp_path):
    model = net()
    fit(model, Squares(), Squares(6), task=TASK, config=CONFIG, out=tmp_path, metadata={"model": "toy"})
    facts = read_metadata(tmp_path / "weights.safetensors")
    assert facts["model"] == "toy"
    assert facts["step"] == 12
    assert [c["name"] for c in facts["categories"]] == ["bright", "dark"]
    other = net(seed=1)
    load_weights(other, tmp_path / "weights.safetensors")
    image = torch.rand(1, 3, 8, 8)
    assert torch.equal(other.eval()(image).logits, model.eval()(image).logits)


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(net(), Squares(), task=TASK, config=CONFIG)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema": 0.9},
        {"accumulate": 2, "warmup": 3, "schedule": "cosine"},
        {"optimizer": "sgd", "eval_every": 4},
        {"optimizer": "sgd", "momentum": 0.0},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_a_resumed_run_repeats_the_uninterrupted_one_exactly(tmp_path, changes):
    config = dataclasses.replace(CONFIG, **changes)
    whole_model = net()
    whole = fit(whole_model, Squares(), Squares(6), task=TASK, config=config, out=tmp_path / "whole")

    def stop_after_7(step, *_):
        if step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped after step 8"):  # the step in hand ends first
        fit(net(), Squares(), Squares(6), task=TASK, config=config, out=tmp_path / "cut", on_step=stop_after_7)
    assert read_progress(tmp_path / "cut" / "state.safetensors")["step"] == 8
    model = net(seed=5)  # whatever it holds is replaced
    torch.manual_seed(123)
    resumed = fit(model, Squares(), Squares(6), task=TASK, config=config, out=tmp_path / "cut", resume=True)
    assert resumed.losses == whole.losses
    assert resumed.scores == whole.scores
    assert resumed.best == whole.best
    assert read_log(tmp_path / "cut" / "log.csv") == read_log(tmp_path / "whole" / "log.csv")
    for a, b in zip(whole_model.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_state_holds_the_random_state_of_every_process_and_each_gets_that_of_its_own_process(tmp_path, monkeypatch):
    model, path = net(), tmp_path / "state.safetensors"
    optimizer = torch.optim.SGD([{"params": model.parameters(), "initial_lr": 0.1}], lr=0.1)
    second = torch.Generator().manual_seed(7).get_state()
    first = torch.get_rng_state()
    monkeypatch.setattr(checkpoint, "gather_from_processes", lambda own: [own, second.to(own.device)])
    checkpoint.save_state(path, model, optimizer, {}, ema=None, main=True)
    for rank, state in enumerate((first, second)):
        monkeypatch.setattr(checkpoint, "rank", lambda rank=rank: rank)
        checkpoint.load_state(path, model, optimizer, ema=None)
        assert torch.equal(torch.get_rng_state(), state)
    monkeypatch.setattr(checkpoint, "rank", lambda: 2)
    with pytest.raises(ValueError, match="older version"):
        checkpoint.load_state(path, model, optimizer, ema=None)


def test_workers_change_no_number():
    alone = fit(net(), Squares(), task=TASK, config=dataclasses.replace(CONFIG, steps=4))
    helped = fit(net(), Squares(), task=TASK, config=dataclasses.replace(CONFIG, steps=4, workers=1))
    assert alone.losses == helped.losses


def test_resuming_with_other_settings_is_refused(tmp_path):
    fit(net(), Squares(), task=TASK, config=CONFIG, out=tmp_path)
    with pytest.raises(ValueError, match="other settings .lr 0.02 → 0.1."):
        fit(net(), Squares(), task=TASK, config=dataclasses.replace(CONFIG, lr=0.1), out=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("model", "samples", "metadata", "message"),
    [
        (net, 11, None, "samples 12 → 11"),
        (net, 12, {"size": [16, 16]}, r"size \[8, 8\] → \[16, 16\]"),
        (lambda: net(norm=False), 12, None, "is the state of another model"),
    ],
)
def test_resuming_another_run_is_refused(tmp_path, model, samples, metadata, message):
    config = dataclasses.replace(CONFIG, steps=2)
    fit(net(), Squares(), task=TASK, config=config, out=tmp_path, metadata={"size": [8, 8]})
    written = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message):
        fit(model(), Squares(samples), task=TASK, config=config, out=tmp_path, metadata=metadata, resume=True)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == written


def test_a_run_goes_on_to_more_steps_on_the_schedule_of_the_new_number(tmp_path):
    six = dataclasses.replace(CONFIG, steps=6)
    first = fit(net(), Squares(), Squares(6), task=TASK, config=six, out=tmp_path)
    model = net(seed=5)
    whole = fit(model, Squares(), Squares(6), task=TASK, config=CONFIG, out=tmp_path, resume=True)
    assert list(whole.losses) == list(range(1, 13)) and list(whole.scores) == [6, 12]
    assert {s: whole.losses[s] for s in range(1, 7)} == first.losses
    rates = {step: v for step, n, v in read_log(tmp_path / "log.csv") if n == "lr"}
    assert rates[6] == pytest.approx(0.02 * lr_factor(5, 6)) and rates[7] == pytest.approx(0.02 * lr_factor(6, 12))
    with pytest.raises(ValueError, match="is of step 12 already, and steps is 6; pass more"):
        fit(net(), Squares(), Squares(6), task=TASK, config=six, out=tmp_path, resume=True)


def test_a_folder_has_one_run_at_a_time(tmp_path):
    with only_run_in(tmp_path), pytest.raises(ValueError, match="another process is training in .*choose another"):
        fit(net(), Squares(), task=TASK, config=CONFIG, out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]
    fit(net(), Squares(), task=TASK, config=dataclasses.replace(CONFIG, steps=1), out=tmp_path)


def test_the_folder_of_a_run_that_was_killed_is_free(tmp_path):
    script = "from pathlib import Path; from seglib.train.locking import only_run_in; import os\n"
    script += f"with only_run_in(Path({str(tmp_path)!r})): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 9
    with only_run_in(tmp_path):
        pass


def test_the_history_says_which_weights_were_kept(tmp_path):
    values = {2: 0.5, 4: 0.75, 6: 0.25}

    class Given(SemanticTask):
        turns = iter((0.0, *values.values()))  # the first is of the batch scored before step 1

        def evaluator(self):
            evaluator = super().evaluator()
            evaluator.compute = lambda: {"miou": next(self.turns)}
            return evaluator

    told = []
    config = dataclasses.replace(CONFIG, steps=6, eval_every=2)
    keywords = {"config": config, "out": tmp_path, "on_scores": lambda *a: told.append((a[0], a[1]["miou"], a[2]))}
    history = fit(net(), Squares(), Squares(2), task=Given(CATEGORIES), **keywords)
    assert (history.kept, history.best) == (4, 0.75)
    assert told == [(2, 0.5, True), (4, 0.75, True), (6, 0.25, False)]
    again = fit(net(), Squares(), Squares(2), task=TASK, config=config, out=tmp_path, resume=True)
    assert (again.kept, again.best) == (4, 0.75)


def test_one_value_per_channel_says_what_to_do():
    class Single(Net):
        def forward(self, images, targets=None, sizes=None):
            return DenseOutput(self.layers(images[..., :1, :1]).expand(-1, -1, *images.shape[2:]))

    config = dataclasses.replace(CONFIG, batch_size=1)
    with pytest.raises(
        ValueError, match=r"a batch of 1 .* \(1, 8, 1, 1\): one value per channel.*--batch-size.*--size"
    ):
        fit(Single(), Squares(), task=TASK, config=config)
    with pytest.raises(ValueError, match="resize the logits"):  # others stay as they are
        fit(Small(), Squares(), task=TASK, config=config)


class Small(Net):
    """Its logits are of another size than the labels."""

    def forward(self, images, targets=None, sizes=None):
        return DenseOutput(self.layers(images)[..., :4, :4])


def test_the_seconds_of_a_resumed_run_add_up(tmp_path, monkeypatch):
    ticks = itertools.count()  # a clock that goes on by a second whenever it is looked at
    monkeypatch.setattr("seglib.train.loop.time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    first = fit(net(), Squares(), task=TASK, config=CONFIG, out=tmp_path)
    again = fit(net(), Squares(), task=TASK, config=CONFIG, out=tmp_path, resume=True)
    assert again.seconds > first.seconds > 2  # the second call itself looks twice or thrice


def test_tensorboard_shows_every_step_once_after_a_run_began_anew_and_one_was_resumed(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Killed(Exception):
        """Stands for SIGKILL: nothing is saved."""

    def kill_at(last):
        def on_step(step, *_):
            if step == last:
                raise Killed

        return on_step

    for last in (3, 8):  # before the first state, which is of step 5, and after it
        with pytest.raises(Killed):
            fit(net(), Squares(), task=TASK, config=CONFIG, out=tmp_path, resume=True, on_step=kill_at(last))
    history = fit(net(), Squares(), task=TASK, config=CONFIG, out=tmp_path, resume=True)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    events = {e.step: e.value for e in board.Scalars("loss")}
    assert [e.step for e in board.Scalars("loss")] == list(range(1, 13))
    assert events == pytest.approx(history.losses, rel=1e-6)  # TensorBoard keeps float32


def test_a_row_of_the_log_that_a_crash_cut_off_is_left_out(tmp_path):
    (tmp_path / "log.csv").write_text("step,name,value\n1,loss,0.5\n1,lr,0.1\n2,loss,0.")
    assert read_log(tmp_path / "log.csv") == [(1, "loss", 0.5), (1, "lr", 0.1)]


def test_the_precision_of_one_run_does_not_stay_with_the_model():
    model = net()
    fit(model, Squares(), task=TASK, config=dataclasses.replace(CONFIG, steps=1, precision="bf16"))
    seen = []
    model.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    model(torch.rand(1, 3, 8, 8))
    fit(model, Squares(), task=TASK, config=dataclasses.replace(CONFIG, steps=1))
    assert seen == [torch.float32, torch.float32]
    fit(model, Squares(), task=TASK, config=dataclasses.replace(CONFIG, steps=1, precision="bf16"))
    assert seen[2:] == [torch.bfloat16]


def test_a_run_in_bf16_stores_the_score_that_its_file_has(tmp_path):
    task = Probabilities(CATEGORIES)
    config = dataclasses.replace(CONFIG, precision="bf16", ema=0.5)
    history = fit(net(), Fixed(), Fixed(), task=task, config=config, out=tmp_path)
    stored = net(seed=4)
    assert load_weights(stored, tmp_path / "weights.safetensors")["scores"] == history.scores[12]
    assert evaluate(stored, Fixed(), task, batch_size=4) == history.scores[12]


class Probabilities(SemanticTask):
    """Scored by the mean probability of the first class, which shows every rounding."""

    def evaluator(self):
        evaluator, seen = super().evaluator(), []
        evaluator.update = lambda predictions, batch: seen.extend(float(p.probs[0].mean()) for p in predictions)
        evaluator.compute = lambda: {"miou": -sum(seen)}
        return evaluator


@pytest.mark.parametrize(("emulated", "precision"), [(True, "no"), (False, "bf16")])
def test_auto_takes_bf16_only_where_the_gpu_computes_in_it(monkeypatch, emulated, precision):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(
        "torch.cuda.is_bf16_supported", lambda including_emulation=True: including_emulation or not emulated
    )
    assert _precision("auto") == precision


def test_a_score_that_is_nan_gives_way_to_any_number(tmp_path):
    class Turns(SemanticTask):
        values = iter((0.9, float("nan"), 0.3, float("nan"), 0.2))  # the first is of the batch scored before step 1

        def evaluator(self):
            evaluator = super().evaluator()
            evaluator.compute = lambda: {"miou": next(self.values)}
            return evaluator

    config = dataclasses.replace(CONFIG, steps=4, eval_every=1)
    history = fit(net(), Squares(), Squares(2), task=Turns(CATEGORIES), config=config, out=tmp_path)
    assert history.best == 0.3
    assert read_metadata(tmp_path / "weights.safetensors")["step"] == 2


def test_a_signal_to_the_whole_process_group_leaves_the_workers_alive_until_the_state_is_saved(tmp_path):
    def stop(step, *_):
        if step == 3:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    config = dataclasses.replace(CONFIG, workers=1)
    with pytest.raises(Interrupted, match="stopped after step 4"):
        fit(net(), Squares(), task=TASK, config=config, out=tmp_path, on_step=stop)
    assert read_progress(tmp_path / "state.safetensors")["step"] == 4


class Failing(SemanticTask):
    """Can't score from the n-th time on."""

    def __init__(self, working):
        super().__init__(CATEGORIES)
        self.working = working

    def evaluator(self):
        self.working -= 1
        if self.working < 0:
            raise ImportError("scoring needs a package that is not there")
        return super().evaluator()


def test_what_scoring_needs_is_checked_before_the_first_step(tmp_path):
    steps = []
    with pytest.raises(ImportError, match="package that is not there"):
        fit(net(), Squares(), Squares(4), task=Failing(0), config=CONFIG, on_step=lambda s, *_: steps.append(s))
    assert steps == []


def test_a_scoring_that_fails_leaves_the_state_from_which_the_run_ends_as_it_would_have(tmp_path):
    config = dataclasses.replace(CONFIG, eval_every=6)
    whole = fit(net(), Squares(), Squares(6), task=TASK, config=config)
    with pytest.raises(ImportError):
        fit(net(), Squares(), Squares(6), task=Failing(1), config=config, out=tmp_path)
    assert read_progress(tmp_path / "state.safetensors")["step"] == 6
    model = net(seed=5)
    resumed = fit(model, Squares(), Squares(6), task=TASK, config=config, out=tmp_path, resume=True)
    assert resumed.losses == whole.losses
    assert list(resumed.scores) == [6, 12]
    assert read_metadata(tmp_path / "weights.safetensors")["geometry"]["mode"] == "native"


def test_scoring_before_the_first_step_changes_no_number():
    alone = fit(net(), Squares(), None, task=TASK, config=CONFIG)
    scored = fit(net(), Squares(), Squares(6), task=TASK, config=CONFIG)
    assert scored.losses == alone.losses


def test_weights_are_no_state_to_resume_from(tmp_path):
    fit(net(), Squares(), task=TASK, config=CONFIG, out=tmp_path)
    (tmp_path / "weights.safetensors").rename(tmp_path / "state.safetensors")
    with pytest.raises(ValueError, match="holds no state of a run"):
        fit(net(), Squares(), task=TASK, config=CONFIG, out=tmp_path, resume=True)


def test_a_damaged_state_is_named(tmp_path):
    state = tmp_path / "state.safetensors"
    state.write_bytes(b"\x80\x04K\x01.")  # a pickle: it must not be loaded
    with pytest.raises(ValueError, match=r"state\.safetensors can't be read as the state of a run"):
        fit(net(), Squares(), task=TASK, config=CONFIG, out=tmp_path, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(tmp_path):
    with pytest.raises(FloatingPointError, match="square 3") as error:
        fit(net(), Squares(poison=3), task=TASK, config=CONFIG, out=tmp_path)
    assert "nan" in str(error.value)
    state = tmp_path / "state.safetensors"
    assert not state.exists() or read_progress(state)["step"] < 5  # nothing of the spoilt step was saved
    assert not list(tmp_path.glob("weights*"))


def test_signal_handlers_are_given_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    fit(net(), Squares(), task=TASK, config=dataclasses.replace(CONFIG, steps=1))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# Evaluation


def test_evaluation_does_not_depend_on_the_batch_size_and_restores_the_mode():
    model = net().train()
    torch.manual_seed(0)
    one = evaluate(model, Fixed(), TASK, batch_size=1)
    assert evaluate(model, Fixed(), TASK, batch_size=5) == one
    assert model.training


def test_an_evaluation_hands_on_the_predictions_that_it_scored():
    matrix, names = TASK.evaluator(), []

    def collect(predictions, batch):
        matrix.update(predictions, batch)
        names.extend(batch.ids)

    scores = evaluate(net(), Squares(5), TASK, batch_size=2, on_predictions=collect)
    assert matrix.compute() == scores and names == [f"square {i}" for i in range(5)]


def test_an_empty_dataset_can_not_be_evaluated():
    with pytest.raises(ValueError, match="dataset to evaluate on is empty"):
        evaluate(net(), Squares(0), TASK)


def test_a_dataset_without_labels_can_not_be_evaluated():
    class Bare(Fixed):
        def __getitem__(self, i):
            return dataclasses.replace(super().__getitem__(i), semantic=None)

    with pytest.raises(ValueError, match="no semantic labels"):
        evaluate(net(), Bare(), TASK)


class Fixed(Squares):
    """Squares without noise."""

    def __getitem__(self, i):
        return SeededDataset(Squares(), 0)[(0, i)]


# Several processes

WORKER = """
import json, sys, torch
sys.path.insert(0, {tests!r})
from test_train import CATEGORIES, CONFIG, Fixed, SemanticTask, fit, net
import dataclasses
config = dataclasses.replace(CONFIG, steps=6, batch_size=2, optimizer="sgd", save_every=6)
history = fit(net(norm=False), Fixed(), Fixed(5), task=SemanticTask(CATEGORIES), config=config, out={out!r})
"""


@pytest.mark.slow
def test_two_processes_give_the_losses_and_scores_of_one_with_twice_the_batch(tmp_path):
    script = tmp_path / "worker.py"
    out = tmp_path / "run"
    script.write_text(textwrap.dedent(WORKER.format(tests=str(Path(__file__).parent), out=str(out))))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(launch, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    config = dataclasses.replace(CONFIG, steps=6, batch_size=4, optimizer="sgd", save_every=6)
    one = fit(net(norm=False), Fixed(), Fixed(5), task=TASK, config=config)
    two = read_progress(out / "state.safetensors")
    # DDP sums gradients in another order than one big batch does
    assert list(two["losses"].values()) == pytest.approx(list(one.losses.values()), rel=1e-5)
    assert two["scores"]["6"]["miou"] == pytest.approx(one.scores[6]["miou"], abs=1e-9)
