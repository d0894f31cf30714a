"""Schedules, parameter groups and optimisers: values worked out by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from seglib.train import TrainConfig
from seglib.train.optim import SCHEDULES, build_optimizer, lr_factor, parameter_groups
from seglib.train.recipes import RECIPES

# Schedules


def test_poly_schedule_by_hand():
    # warm-up over 2 steps: 1/3, 2/3; then (1 - t)^0.9 with t = 0, 1/2 of the remaining 2 steps
    assert [lr_factor(s, 4, warmup=2) for s in range(4)] == pytest.approx([1 / 3, 2 / 3, 1, 0.5**0.9])


def test_cosine_schedule_by_hand():
    # cos of 0, 45, 90 and 135 degrees
    want = [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]
    assert [lr_factor(s, 4, schedule="cosine") for s in range(4)] == pytest.approx(want)


def test_multistep_schedule_by_hand():
    # of 10 steps, 0.5 is step 5 and 0.75 is step 8 (7.5 rounds to the even number); warm-up doesn't move them
    factors = [lr_factor(s, 10, warmup=2, schedule="multistep", milestones=(0.5, 0.75), gamma=0.2) for s in range(10)]
    assert factors == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 0.2, 0.2, 0.2, 0.04, 0.04])


def test_the_default_milestones_are_detectron2s():
    factors = [lr_factor(s, 90_000, schedule="multistep") for s in (59_999, 60_000, 79_999, 80_000, 89_999)]
    assert factors == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


def test_without_milestones_multistep_is_constant():
    assert [lr_factor(s, 3, schedule="multistep", milestones=()) for s in range(3)] == [1, 1, 1]


@given(st.integers(1, 500), st.integers(0, 50), st.sampled_from(SCHEDULES))
def test_the_factor_stays_in_0_1_and_never_rises_after_the_warm_up(steps, warmup, schedule):
    factors = [lr_factor(s, steps, warmup=warmup, schedule=schedule) for s in range(steps)]
    assert all(0 <= f <= 1 for f in factors)
    tail = factors[warmup:]
    assert tail == sorted(tail, reverse=True)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"schedule": "step"}, "schedule 'step' is unknown; choose one of poly, cosine, multistep, constant"),
        ({"milestones": (0.8, 0.5)}, r"milestones are rising shares of the run between 0 and 1, got \(0.8, 0.5\)"),
        ({"milestones": (0.5, 0.5)}, "milestones are rising"),
        ({"milestones": (0.0, 0.5)}, "milestones are rising"),
        ({"milestones": (6000, 8000)}, "milestones are rising"),
        ({"milestones": (float("nan"),)}, "milestones are rising"),
        ({"gamma": 0.0}, r"gamma must lie in \(0, 1\], got 0.0"),
        ({"gamma": 10.0}, r"gamma must lie in \(0, 1\], got 10.0"),
    ],
)
def test_bad_schedules_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        lr_factor(0, 10, **{"schedule": "multistep", **keywords})


# Parameter groups


class Everything(nn.Module):
    """One of each kind of parameter."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.up = nn.ConvTranspose3d(4, 4, 2)
        self.linear = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm((4, 4))])  # the last is 2-D
        self.queries = nn.Embedding(5, 4)
        self.pos_embed = nn.Parameter(torch.zeros(1, 4, 2, 2))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.scale = nn.Parameter(torch.ones(1))


def test_weights_of_convolutions_linear_layers_and_attention_decay_and_nothing_else():
    model = Everything()
    decayed, others = parameter_groups(model, lr=0.1, weight_decay=0.05)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        "conv.weight", "up.weight", "linear.weight", "attention.in_proj_weight", "attention.out_proj.weight"
    }  # fmt: skip
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    assert len(decayed["params"]) + len(others["params"]) == len(names)


def test_all_parameters_decay_when_that_is_asked_for():
    groups = parameter_groups(Everything(), lr=0.1, weight_decay=0.05, decay_all=True)
    assert [g["weight_decay"] for g in groups] == [0.05]
    assert len(groups[0]["params"]) == len(list(Everything().parameters()))


def test_frozen_parameters_are_in_no_group_and_shared_ones_in_one():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "frozen": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    model["frozen"].requires_grad_(False)
    decayed, others = parameter_groups(model, lr=0.1, weight_decay=0.05)
    assert len(decayed["params"]) == 1 and len(others["params"]) == 2


def encoder_and_head():
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    return nn.ModuleDict({"encoder": encoder, "encoder2": nn.Conv2d(1, 1, 1), "head": nn.Linear(4, 2)})


def test_each_group_has_its_own_learning_rate():
    model = encoder_and_head()
    groups = parameter_groups(model, lr=0.2, weight_decay=0.05, lr_multipliers={"encoder": 0.1, "encoder.2": 0.5})
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert rates == {
        "encoder.0.weight": (pytest.approx(0.02), 0.05),
        "encoder.0.bias": (pytest.approx(0.02), 0),
        "encoder.1.weight": (pytest.approx(0.02), 0),
        "encoder.1.bias": (pytest.approx(0.02), 0),
        "encoder.2.weight": (0.1, 0.05),  # the longest start counts
        "encoder.2.bias": (0.1, 0),
        "encoder2.weight": (0.2, 0.05),  # the name goes on after "encoder": another part
        "encoder2.bias": (0.2, 0),
        "head.weight": (0.2, 0.05),
        "head.bias": (0.2, 0),
    }
    assert [(g["lr"], g["weight_decay"]) for g in groups[:2]] == [(0.2, 0.05), (0.2, 0)]
    assert all(g["initial_lr"] == g["lr"] for g in groups)


def test_a_single_parameter_can_be_named():
    groups = parameter_groups(encoder_and_head(), lr=1.0, weight_decay=0, lr_multipliers={"head.bias": 2.0})
    assert [tuple(p.shape) for p in groups[-1]["params"]] == [(2,)] and groups[-1]["lr"] == 2.0


@pytest.mark.parametrize(
    ("multipliers", "message"),
    [
        ({"backbone": 0.1}, "no trainable parameter's name starts with 'backbone'; the model's parts are encoder, enc"),
        ({"enc": 0.1}, "no trainable parameter's name starts with 'enc'"),
        ({"encoder": 0.0}, r"multiplier of 'encoder' must be positive and finite, got 0.0; .* freeze them"),
        ({"encoder": float("inf")}, "must be positive and finite, got inf"),
    ],
)
def test_multipliers_that_do_nothing_are_refused(multipliers, message):
    with pytest.raises(ValueError, match=message):
        build_optimizer(encoder_and_head(), lr=0.1, weight_decay=0, lr_multipliers=multipliers)


def test_a_multiplier_of_frozen_parameters_is_refused():
    model = encoder_and_head()
    model["encoder"].requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter's name starts with 'encoder'; .* encoder2, head"):
        build_optimizer(model, lr=0.1, weight_decay=0, lr_multipliers={"encoder": 0.1})


def test_a_frozen_model_is_refused():
    with pytest.raises(ValueError, match="no trainable parameter"):
        build_optimizer(encoder_and_head().requires_grad_(False), lr=0.1, weight_decay=0)


# Optimisers


def one_weight(start):
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, start)
    return model


def descend(optimizer, model, steps):
    for _ in range(steps):
        model.weight.grad = torch.ones(1, 1)
        optimizer.step()
    return model.weight.item()


def test_sgd_has_nesterov_momentum():
    model = one_weight(0.0)
    optimizer = build_optimizer(model, "sgd", lr=0.1, weight_decay=0)
    # velocity 1, then 0.9 + 1 = 1.9; steps 1 + 0.9 · 1 = 1.9, then 1 + 0.9 · 1.9 = 2.71 (without Nesterov: 1, 1.9)
    assert descend(optimizer, model, 2) == pytest.approx(-0.1 * (1.9 + 2.71))


def test_sgd_without_momentum_steps_along_the_gradient():
    model = one_weight(0.0)
    assert descend(build_optimizer(model, "sgd", lr=0.1, weight_decay=0, momentum=0.0), model, 2) == pytest.approx(-0.2)


def test_sgd_adds_the_decay_to_the_gradient_and_adamw_takes_it_off_the_weight():
    model = one_weight(2.0)
    optimizer = build_optimizer(model, "sgd", lr=0.1, weight_decay=0.5, momentum=0.0)
    assert descend(optimizer, model, 1) == pytest.approx(2 - 0.1 * (1 + 0.5 * 2))
    model = one_weight(2.0)
    # AdamW's first step is lr, whatever the gradient's size
    assert descend(build_optimizer(model, "adamw", lr=0.1, weight_decay=0.5), model, 1) == pytest.approx(
        2 * (1 - 0.1 * 0.5) - 0.1
    )


def test_the_multiplier_reaches_the_step():
    model = nn.ModuleDict({"slow": one_weight(0.0), "fast": one_weight(0.0)})
    optimizer = build_optimizer(model, "sgd", lr=0.1, weight_decay=0, momentum=0.0, lr_multipliers={"slow": 0.25})
    for p in model.parameters():
        p.grad = torch.ones(1, 1)
    optimizer.step()
    assert [p.item() for p in model.parameters()] == pytest.approx([-0.025, -0.1])


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="optimizer 'adam' is unknown; choose one of adamw, sgd"):
        build_optimizer(one_weight(0.0), "adam", lr=0.1, weight_decay=0)


def test_the_recipe_of_nnunet_steps_as_its_trainer_does():
    recipe, models = RECIPES["nnunet"], [one_batch_norm(), one_batch_norm()]
    mine = build_optimizer(
        models[0], recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=recipe.momentum,
        decay_all=recipe.decay_all,
    )  # fmt: skip
    # what nnU-Net v2 builds: one group of all parameters
    other = torch.optim.SGD(models[1].parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)
    for optimizer, model in zip((mine, other), models, strict=True):
        for step in range(3):
            model.weight.grad, model.bias.grad = torch.full((2,), 1.0 + step), torch.full((2,), -1.0)
            optimizer.step()
    assert models[0].weight.equal(models[1].weight) and models[0].bias.equal(models[1].bias)
    assert (recipe.schedule, recipe.warmup, recipe.clip, recipe.steps) == ("poly", 0, 12.0, 1000 * 250)


def one_batch_norm():
    norm = nn.BatchNorm1d(2)
    nn.init.constant_(norm.bias, 3.0)
    return norm


@pytest.mark.parametrize("momentum", [1.0, -0.1, float("nan")])
def test_a_momentum_out_of_range_is_refused(momentum):
    with pytest.raises(ValueError, match=rf"momentum is a share in \[0, 1\), got {momentum}"):
        TrainConfig(optimizer="sgd", momentum=momentum)
