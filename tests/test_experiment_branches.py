"""Chapter 5's second experiment: ASPP with branches taken out is what is left of the whole one."""

import pytest
import torch
from torch import nn

from seglib.book.experiments import deeplab_branches
from seglib.book.experiments.deeplab_branches import BRANCHES, SILENCED, VARIANTS, Part, build, silenced
from seglib.book.experiments.semantic import scene_tensors
from seglib.layers.aspp import ASPP


@pytest.fixture
def aspp():
    torch.manual_seed(0)
    found = ASPP(6, 4, (1, 2, 4)).eval()
    for module in found.modules():
        if isinstance(module, nn.BatchNorm2d):  # no plain start, which would hide mistakes
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
    return found


def test_with_all_branches_it_is_aspp(aspp):
    x = torch.randn(2, 6, 8, 9)
    torch.testing.assert_close(Part(aspp, BRANCHES)(x), aspp(x))


@pytest.mark.parametrize("kept", VARIANTS.values())
def test_a_branch_that_is_gone_is_one_that_says_nothing(aspp, kept):
    x = torch.randn(2, 6, 8, 9)
    part = Part(aspp, kept)
    for name, conv in zip(BRANCHES, aspp.convs, strict=True):
        if name not in kept:
            conv.register_forward_hook(lambda module, inputs, output: 0 * output)
    torch.testing.assert_close(part(x), aspp(x))
    assert len(part.convs) == len(kept)


def test_the_branches_are_named_in_their_order(aspp):
    rates = [(conv[0].kernel_size, conv[0].dilation[0]) for conv in aspp.convs[:-1]]
    assert rates == [((1, 1), 1), ((3, 3), 1), ((3, 3), 2), ((3, 3), 4)]
    model = build(BRANCHES)
    assert [conv[0].dilation[0] for conv in model.head[0].convs[:-1]] == [1, 1, 2, 4]
    assert model.encoder.grids["c5"].stride == 16


def test_what_is_left_starts_from_the_weights_of_the_full_network():
    models = []
    for kept in (BRANCHES, VARIANTS["no dilated branch"]):
        torch.manual_seed(3)
        models.append(build(kept))
    full, part = models
    for a, b in zip(full.encoder.parameters(), part.encoder.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(full.head[0].convs[-1][1].weight, part.head[0].convs[-1][1].weight)
    kept = [full.head[0].project[0].weight.chunk(5, 1)[i] for i in (0, 4)]
    assert torch.equal(torch.cat(kept, 1), part.head[0].project[0].weight)


def test_a_silenced_branch_speaks_again_afterwards():
    torch.manual_seed(0)
    model = build(BRANCHES).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = model(images).logits
        with silenced(model, ["1×1", "image pooling"]):
            during = model(images).logits
        after = model(images).logits
    assert torch.equal(before, after) and not torch.equal(before, during)


def test_it_runs_at_any_budget_and_repeats():
    data = scene_tensors(4, "train", size=64), scene_tensors(3, "val", size=64)
    small = {"seeds": [0], "steps": 2, "batch_size": 2, "data": data, "variants": ["all five", "1×1 alone"]}
    found, again = deeplab_branches.run(**small), deeplab_branches.run(**small)
    full, alone = found["runs"]
    assert (full["variant"], alone["variant"]) == ("all five", "1×1 alone")
    assert set(full["silenced"]) == set(SILENCED) and "silenced" not in alone
    for run in (*found["runs"], *again["runs"]):
        del run["seconds"]
    assert found == again


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match=r"variants \['none'\] are unknown; choose among all five"):
        deeplab_branches.run(seeds=[0], steps=1, variants=["none"])
