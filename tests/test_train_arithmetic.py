"""What a training step does to the weights, in numbers worked out by hand.

The model is two weights w and the loss is w · x, so the gradient is x whatever the weights are. SGD with Nesterov
momentum 0.9 moves the weights by lr · d: with a constant gradient g, d is 1.9 g, 2.71 g, 3.439 g, … (the velocity
v ← 0.9 v + g is 1, 1.9, 2.71, … times g, and d = g + 0.9 v).
"""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from seglib.data.collate import collate
from seglib.train import InstanceTask, Task, TrainConfig, evaluate, fit
from seglib.train.log import read_log
from seglib.types import Category, Instances, Sample

NESTEROV = (1.9, 2.71, 3.439, 4.0951)
"""d of the first steps with a gradient of 1."""


class Slope(nn.Module):
    """w · x of images ``(2, 1, 1)`` whose pixel is x."""

    def __init__(self, w=(0.0, 0.0)):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, images, targets=None, sizes=None):
        return images.mean((2, 3)) @ self.w  # (B,)

    def loss(self, out, targets):
        return {"slope": out.mean()}

    def postprocess(self, out, sizes, output_sizes=None):
        return out.tolist()

    def predict(self, images, sizes=None, output_sizes=None):
        return self.postprocess(self(images), sizes, output_sizes)


class Mean:
    """Scores the mean prediction."""

    def __init__(self):
        self.values = []

    def update(self, predictions, batch):
        self.values += predictions

    def synchronize(self):
        pass

    def compute(self):
        return {"mean": sum(self.values) / len(self.values)}


class SlopeTask(Task):
    name, needs, score = "slope", "semantic", "mean"

    def evaluator(self):
        return Mean()


TASK = SlopeTask([Category(0, "thing", True, (0, 0, 0))])


def points(*xs):
    return [Sample(torch.tensor(x, dtype=torch.float32).view(2, 1, 1), str(i)) for i, x in enumerate(xs)]


def train(*xs, model=None, val=None, out=None, **settings):
    """The weights after each step, and the history."""
    model = Slope() if model is None else model
    settings = {"lr": 0.1, "optimizer": "sgd", "schedule": "constant", "clip": 0.0, "batch_size": 1} | settings
    path = []
    history = fit(
        model, points(*xs), val, task=TASK, config=TrainConfig(precision="no", **settings), out=out,
        on_step=lambda *_: path.append(model.w.tolist()),
    )  # fmt: skip
    return path, history


def test_momentum_and_a_decay_of_all_parameters_are_those_of_the_configuration():
    path, _ = train((1, 0), model=Slope((2.0, 0.0)), steps=2, momentum=0.5, weight_decay=0.5, decay_all=True)
    # the gradient is 1 + 0.5 · w: 2, then 1.85; the velocity 2, then 0.5 · 2 + 1.85; d = gradient + 0.5 · velocity
    assert [w[0] for w in path] == pytest.approx([2 - 0.1 * 3, 1.7 - 0.1 * (1.85 + 0.5 * 2.85)])


def test_sgd_has_nesterov_momentum():
    path, history = train((1, 0), steps=3)
    steps = [0.1 * d for d in NESTEROV]
    assert [w for w, _ in path] == pytest.approx([-steps[0], -steps[0] - steps[1], -sum(steps[:3])])
    assert list(history.losses.values()) == pytest.approx([0, -steps[0], -steps[0] - steps[1]])  # w · x before the step


def test_the_learning_rate_follows_the_schedule(tmp_path):
    path, _ = train((1, 0), steps=4, warmup=1, schedule="poly", out=tmp_path)
    factors = [1 / 2, 1, (2 / 3) ** 0.9, (1 / 3) ** 0.9]  # a step of warm-up, then (1 − t)^0.9 with t = 0, 1/3, 2/3
    moves = [0.1 * f * d for f, d in zip(factors, NESTEROV, strict=True)]
    assert [w for w, _ in path] == pytest.approx([-sum(moves[:k]) for k in (1, 2, 3, 4)])
    rates = [value for _, name, value in read_log(tmp_path / "log.csv") if name == "lr"]
    assert rates == pytest.approx([0.1 * f for f in factors], rel=1e-6)  # the file has 8 digits


def test_the_average_of_the_weights_is_scored_and_kept(tmp_path):
    model = Slope()
    path, history = train((-1, 0), model=model, val=points((1, 0)), steps=3, ema=0.75, eval_every=1, out=tmp_path)
    w = [a for a, _ in path]
    assert w == pytest.approx([0.19, 0.461, 0.8049])
    average = [w[0]]  # it begins with the weights after the first step
    average += [0.75 * average[0] + 0.25 * w[1]]
    average += [0.75 * average[1] + 0.25 * w[2]]
    assert [s["mean"] for s in history.scores.values()] == pytest.approx(average)
    assert history.best == pytest.approx(average[2])
    assert load_file(tmp_path / "weights.safetensors")["w"].tolist() == pytest.approx([average[2], 0])
    assert model.w.tolist() == path[2]  # the model in memory has the raw weights


def test_without_held_out_samples_the_last_average_is_kept(tmp_path):
    path, _ = train((-1, 0), steps=2, ema=0.5, out=tmp_path)
    want = (path[0][0] + path[1][0]) / 2
    assert load_file(tmp_path / "weights.safetensors")["w"].tolist() == pytest.approx([want, 0])


def test_without_an_average_the_weights_themselves_are_scored_and_kept(tmp_path):
    path, history = train((-1, 0), val=points((1, 0)), steps=2, eval_every=1, out=tmp_path)
    assert [s["mean"] for s in history.scores.values()] == pytest.approx([a for a, _ in path])
    assert load_file(tmp_path / "weights.safetensors")["w"].tolist() == path[1]


def test_the_best_weights_are_kept_not_the_last(tmp_path):
    path, history = train((1, 0), val=points((1, 0)), steps=3, eval_every=1, out=tmp_path)  # the score falls
    assert history.best == pytest.approx(path[0][0])
    assert load_file(tmp_path / "weights.safetensors")["w"].tolist() == path[0]


@pytest.mark.parametrize(
    ("clip", "gradient"),
    [(1.0, (0.6, 0.8)), (10.0, (3.0, 4.0)), (0.0, (3.0, 4.0))],
    ids=["longer", "shorter", "off"],
)
def test_the_gradient_is_clipped_to_a_length(clip, gradient):
    path, _ = train((3, 4), steps=1, clip=clip)  # a gradient of length 5
    # torch divides by the length + 1e-6
    assert path[0] == pytest.approx([-0.1 * NESTEROV[0] * g for g in gradient], rel=1e-6)


def test_batches_that_are_accumulated_make_one_step_with_their_mean_gradient_and_loss():
    path, history = train((1, 0), (3, 0), model=Slope((1.0, 0.0)), steps=2, accumulate=2)
    assert [w for w, _ in path] == pytest.approx([1 - 0.1 * 1.9 * 2, 1 - 0.1 * (1.9 + 2.71) * 2])
    assert list(history.losses.values()) == pytest.approx([2 * 1, 2 * path[0][0]])
    whole, once = train((1, 0), (3, 0), model=Slope((1.0, 0.0)), steps=2, batch_size=2)
    assert [w for w, _ in whole] == pytest.approx([w for w, _ in path])
    assert list(once.losses.values()) == pytest.approx(list(history.losses.values()))


def test_the_mean_of_accumulated_gradients_is_clipped_not_each_of_them():
    path, _ = train((6, 0), (0, 8), steps=1, accumulate=2, clip=1.0)  # the mean is (3, 4)
    assert path[0] == pytest.approx([-0.1 * 1.9 * 0.6, -0.1 * 1.9 * 0.8], rel=1e-6)


def test_a_part_of_the_model_may_learn_more_slowly():
    class Two(Slope):
        def __init__(self):
            super().__init__()
            self.slow = nn.Parameter(torch.zeros(2))

        def forward(self, images, targets=None, sizes=None):
            return super().forward(images) + images.mean((2, 3)) @ self.slow

    model = Two()
    train((1, 0), model=model, steps=2, schedule="poly", lr_multipliers={"slow": 0.5})
    moved = 0.1 * (1.9 + 0.5**0.9 * 2.71)
    assert model.w[0].item() == pytest.approx(-moved)
    assert model.slow[0].item() == pytest.approx(-0.5 * moved)


class LeftHalf(nn.Module):
    """Finds one object in every image, its left half, whatever is there."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, images, targets=None, sizes=None):
        return images

    def loss(self, out, targets):
        return {"none": self.w * out.mean()}

    def postprocess(self, out, sizes, output_sizes=None):
        return [left_half(size, scores=torch.ones(1)) for size in output_sizes or sizes]

    def predict(self, images, sizes=None, output_sizes=None):
        return self.postprocess(images, sizes, output_sizes)


def left_half(size, **more):
    height, width = size
    masks = torch.zeros(1, height, width, dtype=torch.bool)
    masks[..., : width // 2] = True
    return Instances(masks, torch.tensor([0]), torch.tensor([[0.0, 0, width // 2, height]]), **more)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_objects_are_scored_within_their_own_image_not_in_its_padding(batch_size):
    sizes = [(8, 12), (10, 6), (4, 4)]  # (H, W): padded to 10 x 12 in a batch of two, where half of 6 is not half of 12
    samples = [Sample(torch.zeros(3, *size), str(i), instances=left_half(size)) for i, size in enumerate(sizes)]
    scores = evaluate(LeftHalf(), samples, InstanceTask(TASK.categories), batch_size=batch_size)
    assert (scores["ap"], scores["ar100"]) == pytest.approx((1, 1))


def test_a_loss_hears_of_the_true_sizes_only_where_images_are_padded():
    heard = []

    class Listens(Slope):
        def forward(self, images, targets=None, sizes=None):
            heard.append(sizes)
            return super().forward(images)

    samples = [Sample(torch.ones(2, *size), str(size)) for size in [(2, 3), (2, 3), (4, 1)]]
    for batch in ([samples[0], samples[1]], [samples[0], samples[2]]):
        TASK.losses(Listens(), collate(batch))
    assert heard == [None, [(2, 3), (4, 1)]]
