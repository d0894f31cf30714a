"""nnU-Net's files: plans written and read, in both forms, and fingerprints read."""

import copy
import json
from dataclasses import replace

import pytest
from planning_cases import HIPPOCAMPUS, LARGE, as_nnunet_2_0_wrote_it

from seglib.planning.plan import plan
from seglib.planning.plans_json import plan_from_json, plan_to_json, read_fingerprint, read_plans, write_plans

DATASET = {
    "channel_names": {"0": "CT", "1": "PET"},
    "labels": {"background": 0, "organ": 1, "ignore": 2},
    "numTraining": 100,
    "file_ending": ".nii.gz",
}


def write(path, content):
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("planner", ["plain", "resenc_m"])
@pytest.mark.parametrize("found", [HIPPOCAMPUS, LARGE])
def test_a_plan_comes_back_as_it_was_written(tmp_path, found, planner):
    made = plan(found, planner=planner, memory=11.5, width=8)
    write_plans(made, tmp_path / "folder" / "plan.json")
    assert read_plans(tmp_path / "folder" / "plan.json") == made


def nnunets(made):
    """The content of the file as nnU-Net writes it."""
    return {key: value for key, value in plan_to_json(made).items() if key != "seglib"}


def test_channels_and_classes_of_nnunets_file_come_from_dataset_json(tmp_path):
    made = plan(LARGE)
    path = write(tmp_path / "nnUNetPlans.json", nnunets(made))
    with pytest.raises(ValueError, match=r"nnUNetPlans.json does not name channels and classes; pass the dataset.json"):
        read_plans(path)
    (tmp_path / "raw").mkdir()
    elsewhere = write(tmp_path / "raw" / "dataset.json", DATASET)
    wanted = replace(made, memory=None, reasons=())
    assert read_plans(path, elsewhere) == wanted
    write(tmp_path / "dataset.json", DATASET)
    assert read_plans(path) == wanted


def test_classes_of_regions_are_called_as_the_region_that_writes_their_id():
    regions = {"labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, "regions_class_order": [1, 2]}
    assert plan_from_json(nnunets(plan(LARGE)), DATASET | regions).classes == ("background", "whole", "core")


def test_a_configuration_may_inherit_from_others():
    content = nnunets(plan(LARGE))
    entries = content["configurations"]
    entries["small"] = {"inherits_from": "3d_cascade_fullres", "batch_size": 7}
    found = plan_from_json(content, DATASET).configurations
    assert found["small"] == replace(found["3d_fullres"], name="small", batch_size=7, previous="3d_lowres")
    made = plan_from_json(content, DATASET)
    assert plan_from_json(plan_to_json(made)) == made
    entries["2d"] = {"inherits_from": "small"}
    entries["small"] = {"inherits_from": "2d"}
    with pytest.raises(ValueError, match="the plan: the configurations .* inherit from each other in a circle"):
        plan_from_json(content, DATASET)


@pytest.mark.parametrize("planner", ["plain", "resenc_l"])
def test_plans_of_nnunet_2_0_are_read(planner):
    made = plan(LARGE, planner=planner)
    assert plan_from_json(as_nnunet_2_0_wrote_it(nnunets(made)), DATASET) == replace(made, memory=None, reasons=())


def test_a_plan_of_an_unknown_planner_keeps_its_name():
    content = nnunets(plan(LARGE)) | {"experiment_planner_used": "MyPlanner"}
    made = plan_from_json(content, DATASET)
    assert made.planner == "MyPlanner"
    assert plan_to_json(made)["experiment_planner_used"] == "MyPlanner"


def places(content, path=()):
    """The path to every key of nested objects."""
    for key, value in content.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


def changed(content, path, value=None, *, remove=False):
    """A copy in which the value at a path is another, or missing."""
    made = copy.deepcopy(content)
    at = made
    for key in path[:-1]:
        at = at[key]
    if remove:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return made


# What the plan of seglib follows from is needed; the rest is for nnU-Net alone.
NNUNETS_OWN = {
    "plans_name",
    "image_reader_writer",
    "transpose_backward",
    "label_manager",
    "data_identifier",
    "preprocessor_name",
    "next_stage",
    "n_stages",
    "_kw_requires_import",
}
# May be missing, and then has the value that it always has.
FIXED = {
    "conv_op",
    "conv_bias",
    "norm_op",
    "norm_op_kwargs",
    "dropout_op",
    "dropout_op_kwargs",
    "nonlin",
    "nonlin_kwargs",
}
INSIDE = {"eps", "affine", "inplace", "is_seg", "order", "order_z", "force_separate_z"}
OPTIONAL = {
    "3d_fullres",
    "3d_lowres",
    "2d",
    "3d_cascade_fullres",
    "inherits_from",
    "previous_stage",
    "memory",
    "seglib",
}


CONTENT = plan_to_json(plan(LARGE))


def needed_places():
    for path in places(CONTENT):
        last = path[-1]
        if last not in NNUNETS_OWN | FIXED | INSIDE | OPTIONAL and not last.startswith("resampling_fn"):
            yield path


@pytest.mark.parametrize("path", list(needed_places()), ids=".".join)
def test_each_key_is_needed_and_checked(tmp_path, path):
    file = write(tmp_path / "plan.json", changed(CONTENT, path, remove=True))
    with pytest.raises(ValueError, match=rf"plan.json.* lacks the key '{path[-1]}'"):
        read_plans(file)
    below = [] if path[0].startswith("foreground") else [-1]
    for wrong in (None, "", [None], {}, float("nan"), *below):
        write(file, changed(CONTENT, path, wrong))
        with pytest.raises(ValueError, match=r"plan.json.*"):
            read_plans(file)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("transpose_forward",), [0, 1, 1], "'transpose_forward' is .*; it has each of the axes 0, 1 and 2 once"),
        (("configurations", "2d", "batch_size"), 2.5, "'2d': 'batch_size' is 2.5; it is a whole number of at least 1"),
        (("configurations", "2d", "batch_size"), True, "'batch_size' is True; it is a whole number"),
        (("configurations", "2d", "batch_dice"), 1, "'batch_dice' is 1; it is true or false"),
        (("configurations", "2d", "patch_size"), [57, 40], r"the patch \(57, 40\) is no multiple of"),
        (("configurations", "2d", "spacing"), [1.0, 0.0], "'spacing' is .*; it is a positive number"),
        (("configurations", "2d", "spacing"), [1.0], "spacing, sizes, kernels and strides are for 2 or 3 axes"),
        (("configurations", "2d", "normalization_schemes"), ["Mine", "Mine"], "normalisations are CTNormalization,"),
        (
            ("configurations", "2d", "normalization_schemes"),
            ["CTNormalization"],
            "1 channels are normalised, and 2 masked",
        ),
        (("configurations", "2d", "architecture", "network_class_name"), "x.Mine", "networks are PlainConvUNet and"),
        (("configurations", "2d", "architecture", "arch_kwargs", "strides"), [], "the stride of the first level is 1"),
        (
            ("configurations", "2d", "architecture", "arch_kwargs", "strides", 0),
            [2, 2],
            "the stride of the first level is 1",
        ),
        (
            ("configurations", "2d", "architecture", "arch_kwargs", "nonlin"),
            "torch.nn.ReLU",
            "'nonlin' is 'torch.nn.ReLU'",
        ),
        (
            ("configurations", "2d", "resampling_fn_seg_kwargs", "order"),
            0,
            "'resampling_fn_seg_kwargs' is .*'order': 0",
        ),
        (("configurations", "3d_cascade_fullres", "previous_stage"), "3d", "takes the prediction of '3d', which"),
        (("configurations", "3d_cascade_fullres", "inherits_from"), "3d", "configurations lacks the key '3d'"),
        (
            ("seglib", "modalities"),
            ["CT"],
            "the channels are CT, but there are statistics for 1, and .2d. normalises 2",
        ),
        (("seglib", "memory"), "much", "'memory' is 'much'; it is a finite number"),
        (("configurations",), {}, "has no configurations; plan the data set again"),
    ],
)
def test_damaged_plans_are_refused(tmp_path, path, value, message):
    file = write(tmp_path / "plan.json", changed(CONTENT, path, value))
    with pytest.raises(ValueError, match=rf"plan.json.*{message}"):
        read_plans(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "plan.json is no JSON file"), ("[]", "plan.json has a list where an object is expected")],
)
def test_files_of_another_form_are_refused(tmp_path, text, message):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_plans(tmp_path / "plan.json")
    with pytest.raises(FileNotFoundError):
        read_plans(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"background": 0, "whole": [1, 2]}}, "lacks the key 'regions_class_order'"),
        (
            {"labels": {"background": 0, "whole": [1, 2]}, "regions_class_order": [1, 2]},
            "it has an id for each of .*whole",
        ),
        ({"labels": {"background": 0, "organ": "1"}}, "each class has a number, or a region a list"),
        ({"channel_names": {"0": "CT", "2": "PET"}}, "its channels are .*; name them like"),
        ({"channel_names": ["CT"]}, "'channel_names' is .*; it is an object"),
        ({"labels": None}, "'labels' is None; it is an object"),
    ],
)
def test_a_damaged_dataset_json_is_refused(change, message):
    with pytest.raises(ValueError, match=rf"dataset.json.*{message}"):
        plan_from_json(nnunets(plan(LARGE)), DATASET | change)


def fingerprint_file():
    (statistics,) = plan_to_json(plan(HIPPOCAMPUS))["foreground_intensity_properties_per_channel"].values()
    return {
        "spacings": [[3.0, 2.0, 2.0]] * 100,
        "shapes_after_crop": [[326, 400, 400]] * 100,
        "foreground_intensity_properties_per_channel": {"0": statistics, "1": statistics},
        "median_relative_size_after_cropping": 0.7,
    }


def test_nnunets_fingerprint_is_read(tmp_path):
    folder = tmp_path / "Dataset001_Set"
    folder.mkdir()
    path = write(folder / "dataset_fingerprint.json", fingerprint_file())
    found = read_fingerprint(path, write(tmp_path / "dataset.json", DATASET))
    assert found == replace(LARGE, name="Dataset001_Set")


@pytest.mark.parametrize("key", list(fingerprint_file()))
def test_each_key_of_a_fingerprint_is_needed_and_checked(tmp_path, key):
    described = write(tmp_path / "dataset.json", DATASET)
    path = write(tmp_path / "dataset_fingerprint.json", changed(fingerprint_file(), (key,), remove=True))
    with pytest.raises(ValueError, match=rf"dataset_fingerprint.json lacks the key '{key}'"):
        read_fingerprint(path, described)
    for wrong in (None, [], {}, -1, [[0]]):
        write(path, changed(fingerprint_file(), (key,), wrong))
        with pytest.raises(ValueError, match=r"dataset_fingerprint.json.*"):
            read_fingerprint(path, described)
