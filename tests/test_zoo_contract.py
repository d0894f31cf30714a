"""Every architecture, in its slim build, keeps the contract of `contract.py`; and the zoo lists what can be built."""

import copy
import functools
import inspect
import subprocess
import sys

import contract
import pytest
import torch
from contract import CLASSES, INPUTS
from slim import ARCHITECTURES, DENSE, SLIM

from seglib.models.zoo import MODELS, SHORT_NAMES, build, check_task, find
from seglib.train.tasks import RegionTask
from seglib.types import Batch, Category, Targets

TINY = ["fcn_tiny", "unet_tiny", "deeplab_tiny", "mask_rcnn_tiny", "yolact_tiny", "condinst_tiny", "solov2_tiny"]
TINY += ["panoptic_fpn_tiny", "mask2former_tiny", "sam_tiny", "unet3d_tiny", "nnunet_tiny"]

# The others share their code with these: they are checked in the full run.
FAST = {
    "fcn_tiny",
    "fcn_dilated",
    "unet_tiny",
    "unet_paper",
    "deeplab_tiny",
    "mask_rcnn_tiny",
    "yolact_tiny",
    "condinst_tiny",
    "solov2_tiny",
    "mask2former_tiny",
    "sam",
    "unet3d",
    "nnunet",
}

every_architecture = pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in SLIM]
)
# Tracing takes seconds per model.
traced_architectures = pytest.mark.parametrize(
    "name", [n if n == "fcn_tiny" else pytest.param(n, marks=pytest.mark.slow) for n in SLIM]
)


@functools.cache
def make(name):
    torch.manual_seed(0)
    return contract.without_dropout(contract.stir(SLIM[name][1](CLASSES)))


@pytest.fixture
def model(name):
    """A copy of the model, because building one takes longer than most checks."""
    return copy.deepcopy(make(name))


@pytest.fixture
def inputs(name):
    return INPUTS[SLIM[name][0]]


@every_architecture
def test_it_follows_the_protocol(model, inputs):
    contract.follows_the_protocol(model, inputs)


@every_architecture
def test_takes_images_of_any_size(model, inputs):
    contract.any_input_size(model, inputs)


@every_architecture
def test_takes_a_batch_without_images(model, inputs):
    contract.no_images(model, inputs)


@every_architecture
def test_learns_nothing_from_empty_targets(model, inputs):
    contract.empty_targets(model, inputs)


@every_architecture
def test_gradients_reach_every_parameter(model, inputs):
    contract.backward_reaches_every_parameter(model, inputs)


@every_architecture
def test_the_loss_uses_no_parameters(model, inputs):
    contract.loss_uses_no_parameters(model, inputs)


@every_architecture
def test_predict_leaves_modes_and_statistics_as_they_were(model, inputs):
    contract.predict_leaves_no_trace(model, inputs)


@every_architecture
def test_the_output_has_one_form_in_training_and_evaluation(model, inputs):
    contract.same_output_in_train_and_eval(model, inputs)


@every_architecture
def test_saved_weights_give_identical_outputs(model, inputs, tmp_path):
    contract.round_trip(model, contract.stir(copy.deepcopy(model)), inputs, tmp_path)


@traced_architectures
def test_dynamo_captures_it_as_one_graph(model, inputs):
    contract.compiles(model, inputs, "eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_inductor_compiles_it(model, inputs):
    contract.compiles(model, inputs, "inductor")


@traced_architectures
def test_exports(model, inputs):
    contract.exports(model, inputs)


@every_architecture
def test_bf16_autocast_stays_finite(model, inputs):
    contract.bf16_is_finite(model, inputs)


@every_architecture
def test_with_bf16_weights_it_predicts_float32_images(model, inputs):
    contract.predicts_in_bf16(model, inputs)


@every_architecture
def test_a_batch_equals_its_images_one_by_one(model, inputs):
    contract.batch_equals_one_by_one(model, inputs)


@every_architecture
def test_a_batch_of_mixed_sizes_equals_its_images_one_by_one(model, inputs):
    contract.mixed_sizes_equal_one_by_one(model, inputs)


@every_architecture
def test_what_is_written_into_the_padding_changes_nothing(model, inputs):
    contract.padding_changes_nothing(model, inputs)


@every_architecture
def test_postprocess_uses_no_parameters_and_gives_the_sizes_asked_for(model, inputs):
    contract.postprocess_is_pure(model, inputs)


@every_architecture
def test_bad_images_get_an_error_with_a_remedy(model, inputs):
    contract.refuses_bad_images(model, inputs)


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in SLIM if SLIM[n][0] != "prompt"]
)
def test_too_few_classes_are_refused(name):
    task, builder = SLIM[name]
    fewest, message = {
        "semantic": (2, r"num_classes must be 2..255, got 1; .* makes 2 classes"),
        "volume": (2, r"num_classes must be 2..255, got 1; .* makes 2 classes"),
        "regions": (1, r"num_classes must be 1..255, got 0"),
        "instance": (1, "num_classes must be at least 1, got 0; background isn't counted"),
        "panoptic": (3, "num_things must be at least 1, got 0; without things train a semantic model"),
    }[task]
    if name.startswith("mask2former"):
        fewest, message = 1, 'num_classes must be at least 1, got 0; "no object" isn\'t counted'
    with pytest.raises(ValueError, match=message):
        builder(fewest - 1)


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in DENSE])
def test_dense_models_predict_one_region_or_several_that_overlap(name):
    model = DENSE[name](1, overlapping=True).eval()
    images = torch.rand(2, 3, 33, 47)
    losses = model.loss(model(images), Targets(regions=torch.ones(2, 1, 33, 47, dtype=torch.uint8)))
    assert "regions" in losses and all(torch.isfinite(v) for v in losses.values())
    assert [p.masks.shape for p in model.predict(images)] == [(1, 33, 47)] * 2


@pytest.mark.parametrize("name", ["fcn_tiny", "deeplab_tiny"])
def test_a_region_task_builds_and_trains_a_model_of_the_zoo(name):
    categories = [Category(i, c, False, (0, 0, 0)) for i, c in enumerate(("edema", "core", "rest"))]
    task = RegionTask(categories, {"tumour": ("edema", "core"), "core": ("core",)})
    check_task(name, task.name)
    model = build(name, in_channels=4, **task.model_arguments())
    labels = torch.tensor([0, 1, 2, 255]).repeat_interleave(8).expand(2, 32, 32)
    sizes = [(32, 32), (32, 20)]
    batch = Batch(torch.rand(2, 4, 32, 32), Targets(semantic=labels), ["a", "b"], sizes, sizes)
    contract.total(task.losses(model, batch)).backward()
    predictions = task.predict(model, batch)
    assert [p.masks.shape for p in predictions] == [(2, 32, 32), (2, 32, 20)]
    evaluator = task.evaluator()
    evaluator.update(predictions, batch)
    assert set(evaluator.compute()["dice"]) == {"tumour", "core"}


def test_every_entry_of_the_zoo_is_of_slim_architectures():
    assert list(ARCHITECTURES) == list(MODELS)
    used = {a for names in ARCHITECTURES.values() for a in names}
    assert used | {"deeplabv3_regions"} == set(SLIM)
    for name, architectures in ARCHITECTURES.items():
        assert {SLIM[a][0] for a in architectures} <= set(MODELS[name].tasks)
    for short, name in SHORT_NAMES.items():
        assert ARCHITECTURES[short] == ARCHITECTURES[name]


@pytest.mark.parametrize(("short", "name"), SHORT_NAMES.items())
def test_the_short_names_build_the_same_models(short, name):
    parameters = inspect.signature(find(name).builder()).parameters
    arguments = {key: 3 for key in ("num_classes", "num_things", "num_stuff") if key in parameters}
    arguments |= {"num_things": 2} if short == "mask2former" else {}
    with torch.device("meta"):
        one, other = build(short, **arguments), build(name, **arguments)
    assert type(one) is type(other) and repr(one) == repr(other)
    shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in (one, other)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", MODELS)
def test_every_entry_leads_to_a_builder_and_tasks_with_inputs(name):
    entry = find(name)
    assert callable(entry.builder())
    assert entry.tasks and set(entry.tasks) <= set(INPUTS)
    assert entry.summary


def test_an_unknown_model_gets_close_names():
    with pytest.raises(ValueError, match="no model is called 'fcn_tinny'; did you mean fcn_tiny"):
        build("fcn_tinny", num_classes=3)
    with pytest.raises(ValueError, match="the zoo has fcn, fcn_tiny"):
        build("zzz", num_classes=3)


def test_the_table_can_be_read_without_torch():
    code = "import sys; from seglib.models.zoo import MODELS; assert MODELS; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
        == "False"
    )
