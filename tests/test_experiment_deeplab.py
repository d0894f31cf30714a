"""The experiment of chapter 5: its variants are twins, its costs count what they say, and it runs at any budget."""

import pytest
import torch
from torch import nn

from seglib.book.experiments import deeplab_strides
from seglib.book.experiments.deeplab_strides import RATES, STRIDES, VARIANTS, at_strides, kept_bytes, step_seconds, twin
from seglib.book.experiments.semantic import scene_tensors, train_on_scenes
from seglib.models.deeplab import DeepLabV3, DeepLabV3Plus


@pytest.fixture(scope="module")
def data():
    return scene_tensors(4, "train", size=64), scene_tensors(3, "val", size=64)


def same_weights(stride, decoder, weights=None):
    """A twin in evaluation mode; batch norms without their plain start, which would hide mistakes."""
    torch.manual_seed(0)
    model = twin(stride, decoder).eval()
    if weights is not None:
        model.load_state_dict(weights)
        return model
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean)
    return model


@torch.no_grad()
@pytest.mark.parametrize("stride", [16, 8])
def test_every_cell_of_the_coarse_network_is_one_of_the_dense_network(stride):
    coarse = same_weights(32, decoder=False)
    dense = same_weights(stride, decoder=False, weights=coarse.state_dict())
    images = torch.rand(1, 3, 128, 192)
    one, two = (m.encoder(m.normalize(images))["c5"] for m in (coarse, dense))
    step = 32 // stride
    start = {16: 0, 8: 1}[stride]  # an even kernel that does not stride lies between cells: half a cell behind
    picked = two[..., start::step, start::step]
    # float32 sums in another order, on values up to about 20
    torch.testing.assert_close(picked, one, rtol=1e-5, atol=1e-4)
    for branch, dense_branch in zip(coarse.head[0].convs[:-1], dense.head[0].convs[:-1], strict=True):
        torch.testing.assert_close(dense_branch(two)[..., start::step, start::step], branch(one), rtol=1e-4, atol=1e-3)


def test_a_field_in_pixels_is_the_same_at_every_stride():
    assert len({tuple(stride * rate for rate in RATES[stride]) for stride in STRIDES}) == 1


def test_the_variants_are_all_strides_without_and_with_the_decoder():
    kinds = {name: (type(twin(*shape)), shape[0]) for name, shape in VARIANTS.items()}
    assert kinds["v3 at 32"] == (DeepLabV3, 32) and kinds["v3+ at 8"] == (DeepLabV3Plus, 8) and len(kinds) == 6


def test_kept_bytes_are_those_of_a_network_worked_out_by_hand():
    # Linear keeps its input (2 × 3 float32) and not its weight; ReLU keeps its output (2 × 5); the sum keeps nothing.
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU())
    assert kept_bytes(model, torch.rand(2, 3, requires_grad=True)) == 4 * (2 * 3 + 2 * 5)
    inputs = torch.rand(2, 5)
    assert kept_bytes(nn.Sequential(nn.Sigmoid(), nn.Tanh()), inputs.requires_grad_()) == 4 * 2 * (2 * 5)


def test_denser_maps_keep_more_for_the_backward_pass_and_cost_time():
    images = torch.rand(2, 3, 64, 64)
    kept = [kept_bytes(twin(stride, decoder=False), images) for stride in STRIDES]
    assert kept[0] < kept[1] < kept[2]
    assert step_seconds(twin(8, decoder=False), images, torch.zeros(2, 64, 64, dtype=torch.int64)) > 0


def test_measuring_a_step_leaves_no_gradient():
    model = twin(32, decoder=True)
    step_seconds(model, torch.rand(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.int64), repeats=1)
    assert all(p.grad is None for p in model.parameters())


def test_weights_score_at_their_own_stride_as_the_model_does(data):
    found = deeplab_strides.run(seeds=[0], steps=2, batch_size=2, data=data, variants=["v3 at 16", "v3+ at 32"])
    for run, stride in zip(found["runs"], ("16", "32"), strict=True):
        assert run["at"][stride] == run["miou"] and set(run["at"]) == {"32", "16", "8"}
        assert run["step_seconds"] > 0 and run["kept_bytes"] > 0
    assert found["variants"] == ["v3 at 16", "v3+ at 32"]


def test_other_strides_change_the_answers(data):
    torch.manual_seed(0)
    model = twin(32, decoder=False)
    train_on_scenes(model, data[0], steps=15, seed=0, batch_size=2)  # untrained, it gives one label to all pixels
    assert len(set(at_strides(model, False, data[1]).values())) > 1


def test_an_unknown_variant_is_refused(data):
    with pytest.raises(ValueError, match=r"variants \['v4'\] are unknown; choose among v3 at 32"):
        deeplab_strides.run(seeds=[0], steps=1, data=data, variants=["v4"])
