"""Chapter 18's experiments: nnU-Net's ingredients switched off in turn, and the networks of five folds together."""

import pytest
import torch
from torch import nn

from seglib.book.experiments import nnunet_folds, nnunet_ingredients
from seglib.book.experiments.nnunet import by_class, dice_of_cases, plan_of_volumes, prepared_cases, train_planned
from seglib.data.cases import StoredCases
from seglib.data.volumes import Volumes
from seglib.layers.normalize import Normalize
from seglib.losses.pixel import cross_entropy
from seglib.models.nnunet import nnunet_tiny
from seglib.types import DenseOutput

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plan():
    return plan_of_volumes(2)


def test_the_experiments_train_the_tiny_network_of_the_plan(plan):
    planned = plan.configurations["3d_fullres"]
    tiny = nnunet_tiny(4, width=8)
    assert planned.patch == (32, 56, 56) and planned.batch_size == 2 and planned.foreground == 0.5
    assert planned.widths == tuple(level[0].out_channels for level in tiny.encoder)
    assert plan.preparation("3d_fullres").spacing == (2.5, 1.0, 1.0)


def test_an_ingredient_that_is_switched_off_is_off(plan):
    cases = prepared_cases(Volumes(2, split="train"), plan)
    whole, facts = train_planned(plan, cases, steps=1, seed=0)
    alone, _ = train_planned(plan, cases, steps=1, seed=0, deep_supervision=False)
    assert len(whole.aux_weights) == 2 and len(alone.aux_weights) == 0
    losses = {"all": facts["loss"]}
    for name, value in (("foreground", False), ("augmentation", False), ("criterion", cross_entropy)):
        losses[name] = train_planned(plan, cases, steps=1, seed=0, **{name: value})[1]["loss"]
    assert len(set(losses.values())) == 4  # each sees other patches, or measures them in another way


class Bright(nn.Module):
    """Says that what is brighter than 300 HU is a vessel."""

    def __init__(self):
        super().__init__()
        self.normalize, self.overlapping = Normalize([0.0], [1.0], dims=3, value_range=None), False
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return DenseOutput(torch.cat([0 * x + 300, 0 * x, x, 0 * x], 1) * self.weight)


def test_dice_is_that_of_every_case_and_class():
    cases = StoredCases(Volumes(3, split="val"))
    dice = dice_of_cases(Bright(), cases)
    assert dice.shape == (3, 3) and (dice[:, 0] == 0).all()
    pred, true = cases[1].image[0] > 300, cases[1].semantic == 2
    assert dice[1, 1] == pytest.approx(2 * float((pred & true).sum()) / float(pred.sum() + true.sum()))
    assert torch.equal(dice_of_cases(Bright(), cases, indices=[1]), dice[1:2])


def test_the_mean_over_cases_comes_before_the_mean_over_classes():
    nan = torch.nan
    found = by_class(torch.tensor([[1.0, 0.5, nan], [0.5, nan, nan]], dtype=torch.float64))
    assert found["dice_organ"] == 0.75 and found["dice_vessel"] == 0.5 and found["mean_dice"] == 0.625


def test_the_whole_recipe_is_compared_with_each_variant_and_with_eight_views():
    found = nnunet_ingredients.run(seeds=[0], steps=1, scenes=2, val_scenes=1)
    assert [r["variant"] for r in found["runs"]] == found["variants"] == list(nnunet_ingredients.VARIANTS)
    whole = found["runs"][0]
    by_pair = {(d["a"], d["b"]): d["mean_dice"] for d in found["differences"]}
    assert len(by_pair) == len(found["variants"])
    assert by_pair["mirroring at test time", "the whole recipe"] == pytest.approx(
        [whole["mirrored"]["mean_dice"] - whole["mean_dice"]], abs=2e-5
    )


def test_every_case_is_left_out_once_and_the_five_answer_together(monkeypatch):
    monkeypatch.setattr(nnunet_folds, "FLIPS", (2,))  # two views instead of eight
    found = nnunet_folds.run(seeds=[0], steps=1, scenes=5, val_scenes=2)
    assert [row["fold"] for row in found["folds"]] == [0, 1, 2, 3, 4]
    left_out = [row["left_out"]["dice_organ"] for row in found["folds"]]  # one case each
    assert found["out_of_fold"]["dice_organ"] == pytest.approx(sum(left_out) / 5, abs=2e-5)
    mean, low, high = found["gain"]
    assert low < mean < high
    with pytest.raises(ValueError, match="5 folds need as many volumes"):
        nnunet_folds.run(seeds=[0], steps=1, scenes=4)
