"""Every model of the zoo keeps the contract of `contract.py`."""

import copy
import functools
import subprocess
import sys

import contract
import pytest
import torch
from contract import CLASSES, INPUTS

from seglib.models.zoo import MODELS, build, find

# Keywords that make a model small enough for a test, for the models that have such keywords.
SMALL = {"fcn32s": {"hidden": 16}, "fcn16s": {"hidden": 16}, "fcn8s": {"hidden": 16}, "unet_paper": {"width": 4}}
# Second names of models, which are the same function.
ALIASES = {
    "fcn": "fcn_resnet18",
    "unet": "unet_resnet34",
    "deeplab": "deeplabv3plus_resnet50",
    "mask_rcnn": "mask_rcnn_resnet50_fpn",
}
# The others share their code with these or are large: they are checked in the full run.
FAST = {"fcn_tiny", "fcn_resnet18", "unet_tiny", "unet_paper", "deeplab_tiny", "mask_rcnn_tiny"}
TINY = ["fcn_tiny", "unet_tiny", "deeplab_tiny", "mask_rcnn_tiny"]

every_model = pytest.mark.parametrize(
    "name",
    [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in MODELS if n not in ALIASES],
)
# Tracing takes seconds per model.
compiled_models = pytest.mark.parametrize(
    "name", ["fcn_tiny", *(pytest.param(n, marks=pytest.mark.slow) for n in MODELS if n not in {"fcn_tiny", *ALIASES})]
)


@functools.cache
def make(name):
    torch.manual_seed(0)
    return contract.without_dropout(contract.stir(build(name, CLASSES, **SMALL.get(name, {}))))


@pytest.fixture
def model(name):
    """A copy of the model, because building one takes longer than most checks."""
    return copy.deepcopy(make(name))


@pytest.fixture
def inputs(name):
    return INPUTS[MODELS[name].task]


@every_model
def test_takes_images_of_any_size(model, inputs):
    contract.any_input_size(model, inputs)


@every_model
def test_takes_a_batch_without_images(model, inputs):
    contract.no_images(model, inputs)


@every_model
def test_learns_nothing_from_empty_targets(model, inputs):
    contract.empty_targets(model, inputs)


@every_model
def test_gradients_reach_every_parameter(model, inputs):
    contract.backward_reaches_every_parameter(model, inputs)


@every_model
def test_the_loss_uses_no_parameters(model, inputs):
    contract.loss_uses_no_parameters(model, inputs)


@every_model
def test_predict_leaves_modes_and_statistics_as_they_were(model, inputs):
    contract.predict_leaves_no_trace(model, inputs)


@every_model
def test_the_output_has_one_form_in_training_and_evaluation(model, inputs):
    contract.same_output_in_train_and_eval(model, inputs)


@every_model
def test_saved_weights_give_identical_outputs(model, inputs, tmp_path):
    contract.round_trip(model, contract.stir(copy.deepcopy(model)), inputs, tmp_path)


@compiled_models
def test_dynamo_captures_it_as_one_graph(model, inputs):
    contract.compiles(model, inputs, "eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_inductor_compiles_it(model, inputs):
    contract.compiles(model, inputs, "inductor")


@compiled_models
def test_exports(model, inputs):
    contract.exports(model, inputs)


@every_model
def test_bf16_autocast_stays_finite(model, inputs):
    contract.bf16_is_finite(model, inputs)


@every_model
def test_a_batch_equals_its_images_one_by_one(model, inputs):
    contract.batch_equals_one_by_one(model, inputs)


@every_model
def test_bad_images_get_an_error_with_a_remedy(model, inputs):
    contract.refuses_bad_images(model, inputs)


@every_model
def test_too_few_classes_are_refused(name):
    fewest, message = {
        "semantic": (2, r"num_classes must be 2..255, got 1; .* makes 2 classes"),
        "instance": (1, "num_classes must be at least 1, got 0; background isn't counted"),
    }[MODELS[name].task]
    with pytest.raises(ValueError, match=message):
        build(name, fewest - 1, **SMALL.get(name, {}))


@pytest.mark.parametrize(("short", "name"), ALIASES.items())
def test_the_short_names_lead_to_the_same_builders(short, name):
    assert find(short).builder() is find(name).builder()


@pytest.mark.parametrize("name", MODELS)
def test_every_entry_leads_to_a_builder_and_a_task_with_inputs(name):
    entry = find(name)
    assert callable(entry.builder())
    assert entry.task in INPUTS
    assert entry.summary


def test_an_unknown_model_gets_close_names():
    with pytest.raises(ValueError, match="no model is called 'fcn_tinny'; did you mean fcn_tiny"):
        build("fcn_tinny", 3)
    with pytest.raises(ValueError, match="the zoo has fcn, fcn_tiny"):
        build("zzz", 3)


def test_the_table_can_be_read_without_torch():
    code = "import sys; from seglib.models.zoo import MODELS; assert MODELS; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
        == "False"
    )
