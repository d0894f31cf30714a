"""Checkpoints of nnU-Net: read without running them, complete, and with what the command line needs to predict."""

import os
import pickle

import numpy as np
import pytest
import torch
from nnunet_results import DATASET, plans, results
from test_cli import seglib

from seglib.data.nifti import VoxelFrame, read_label_volume, write_volume
from seglib.ops.preparation import Preparation
from seglib.planning.plans_json import plan_from_json
from seglib.postprocess.whole_cases import label_case
from seglib.train.volume_task import VolumeTask
from seglib.types import Category
from seglib.weights import convert, load_model, read_metadata, read_origin

NAME = "nnunetv2:Dataset001_Synthetic"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return results(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def saved(folder):
    """The checkpoint as it is on disk."""
    return read_origin(NAME, folder / "fold_0" / "checkpoint_final.pth")


def test_a_checkpoint_says_all_that_predicting_needs(saved):
    name, _, metadata = convert(NAME, saved)
    planned = plan_from_json(plans(), DATASET)
    assert name == metadata["model"] == "nnunet" and metadata["origin"] == NAME and metadata["task"] == "volume"
    assert metadata["arguments"] == {
        **planned.configurations["3d_fullres"].model_arguments(),
        "num_classes": 4,
        "in_channels": 1,
        "aux_outputs": 2,
    }
    assert [c["name"] for c in metadata["categories"]] == ["background", "organ", "vessel", "lesion"]
    assert (metadata["file_ids"], metadata["void_id"], metadata["modalities"]) == ([0, 1, 2, 3], None, ["CT"])
    assert metadata["patch"] == metadata["task_arguments"]["window"] == [16, 40, 40]
    assert Preparation.from_json(metadata["preparation"]) == planned.preparation("3d_fullres")


def test_slices_are_windows_of_one_voxel(tmp_path):
    folder = results(tmp_path, "2d")
    _, _, metadata = convert(NAME, read_origin(NAME, folder / "fold_0" / "checkpoint_final.pth"))
    assert metadata["arguments"]["dims"] == 2 and metadata["arguments"]["batch_dice"]
    assert metadata["patch"] == [1, 40, 40]


def test_convert_and_predict_on_the_command_line(folder, tmp_path, capsys):
    weights, case, out = tmp_path / "w.safetensors", tmp_path / "case.nii.gz", tmp_path / "labels.nii.gz"
    file = folder / "fold_0" / "checkpoint_final.pth"
    assert seglib("convert", NAME, weights, "--file", file, capsys=capsys)[0] == 0
    image = torch.randint(-50, 250, (1, 12, 30, 44), generator=torch.Generator().manual_seed(0)).float()
    write_volume(case, image, VoxelFrame.of_spacing((12, 30, 44), (4.0, 1.0, 0.8)))
    assert seglib("predict", case, "--weights", weights, "--out", out, capsys=capsys)[0] == 0
    labels, frame = read_label_volume(out)
    assert np.allclose(frame.spacing, (4.0, 1.0, 0.8))
    expected = label_case(load_model(weights), image, frame.spacing, (16, 40, 40))
    assert labels.shape == (12, 30, 44) and np.array_equal(labels, expected) and len(expected.unique()) > 1
    assert read_metadata(weights)["origin"] == NAME


def test_what_a_file_says_of_its_training_counts_wherever_it_lies(folder, saved, tmp_path):
    elsewhere = tmp_path / "nnUNetTrainer__nnUNetPlans__2d" / "fold_0" / "checkpoint_final.pth"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes((folder / "fold_0" / "checkpoint_final.pth").read_bytes())
    assert convert(NAME, read_origin(NAME, elsewhere))[2] == convert(NAME, saved)[2]


def test_a_state_dict_takes_its_plan_from_the_folder(folder, saved):
    torch.save(saved["network_weights"], folder / "fold_0" / "state.pth")
    assert convert(NAME, read_origin(NAME, folder / "fold_0" / "state.pth"))[2] == convert(NAME, saved)[2]


def test_a_state_dict_alone_says_what_its_shapes_say(saved):
    _, _, metadata = convert(NAME, saved["network_weights"])
    assert metadata["arguments"] == {k: v for k, v in convert(NAME, saved)[2]["arguments"].items() if k != "batch_dice"}
    assert [c["name"] for c in metadata["categories"]] == ["background", "class 1", "class 2", "class 3"]
    assert "preparation" not in metadata


def plain(state):
    """The tensors under their first names alone."""
    return {k: v for k, v in state.items() if "all_modules" not in k and not k.startswith("decoder.encoder.")}


def test_a_tensor_under_several_names_is_one(saved):
    state = saved["network_weights"]
    copied = {k: v.clone() for k, v in state.items()}  # as in files that share no memory
    first_names = plain(state)
    others = {k: v for k, v in state.items() if k not in first_names or ".conv." not in k and ".norm." not in k}
    assert len(state) > 2 * len(first_names) and len(others) < len(state)
    expected = convert(NAME, state)[1]
    for other in (copied, first_names, others):
        found = convert(NAME, other)[1]
        assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in found)


def test_scores_of_coarser_levels_may_be_missing(saved):
    coarser = ("decoder.seg_layers.0.", "decoder.seg_layers.1.")
    state = {k: v for k, v in saved["network_weights"].items() if not k.startswith(coarser)}
    _, converted, metadata = convert(NAME, state)
    assert metadata["arguments"]["aux_outputs"] == 0
    assert torch.equal(converted["score.weight"], state["decoder.seg_layers.2.weight"])


def test_ids_with_gaps_and_ignored_voxels_are_kept(saved):
    labels = {"background": 0, "organ": 3, "vessel": 2, "lesion": 7, "ignore": 8}
    saved = {**saved, "init_args": saved["init_args"] | {"dataset_json": DATASET | {"labels": labels}}}
    _, _, metadata = convert(NAME, saved)
    assert [c["name"] for c in metadata["categories"]] == ["background", "vessel", "organ", "lesion"]
    assert (metadata["file_ids"], metadata["void_id"]) == ([0, 2, 3, 7], 8)


def test_regions_that_overlap_are_those_of_the_task(saved):
    labels = {"background": 0, "tumour": [1, 2, 4], "core": [2, 4], "enhancing": 4, "ignore": 5}
    dataset = DATASET | {"labels": labels, "regions_class_order": [1, 2, 4]}
    state = dict(saved["network_weights"])
    for key in state:
        if "seg_layers" in key:
            state[key] = state[key][:3]  # a sigmoid for each region, none for the background
    told = saved["init_args"] | {"dataset_json": dataset}
    _, _, metadata = convert(NAME, {"network_weights": state, "init_args": told})
    assert metadata["arguments"]["num_classes"] == 3 and metadata["arguments"]["overlapping"]
    assert (metadata["file_ids"], metadata["void_id"]) == ([0, 1, 2, 4], 5)
    task = VolumeTask([Category(**c) for c in metadata["categories"]], **metadata["task_arguments"])
    assert task.regions == {
        "tumour": ("tumour", "core", "enhancing"),
        "core": ("core", "enhancing"),
        "enhancing": ("enhancing",),
    }


def test_the_second_stage_of_a_cascade_takes_the_labels_of_the_first(saved):
    content = plans()
    full = content["configurations"]["3d_fullres"]
    content["configurations"]["3d_lowres"] = full | {"next_stage": "3d_cascade_fullres"}
    content["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    state = dict(saved["network_weights"])
    for key in state:
        if "encoder.stages.0.0.convs.0" in key and state[key].ndim == 5:
            state[key] = torch.cat([state[key]] * 4, 1)  # one channel of CT, three of foreground classes
    told = {"plans": content, "dataset_json": DATASET, "configuration": "3d_cascade_fullres"}
    _, _, metadata = convert(NAME, {"network_weights": state, "init_args": told})
    assert metadata["arguments"]["in_channels"] == 4 and metadata["preparation"]["previous"] == 3
    with pytest.raises(ValueError, match="its in_channels are 4, those of the weights 1"):
        convert(NAME, {"network_weights": saved["network_weights"], "init_args": told})


TWO_CLASSES = {"background": 0, "organ": 1}


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"configuration": "3d_lowres"}, "no configuration '3d_lowres'; choose one of 2d, 3d_fullres"),
        ({"configuration": "2d"}, "the plan is of another network: its dims are 2, those of the weights 3; take plans"),
        ({"dataset_json": DATASET | {"labels": TWO_CLASSES}}, "its num_classes are 2, those of the weights 4"),
        ({"plans": {"configurations": {}}}, "the plan has no configurations"),
    ],
)
def test_a_plan_of_something_else_is_refused(saved, told, message):
    with pytest.raises(ValueError, match=message):
        convert(NAME, {**saved, "init_args": saved["init_args"] | told})


def test_unknown_and_missing_tensors_are_named(saved):
    state = plain(saved["network_weights"])
    with pytest.raises(ValueError, match=r"'head\.weight' is unknown: these aren't the weights of nnU-Net's PlainConv"):
        convert(NAME, state | {"head.weight": torch.zeros(1)})
    for key, message in {
        "decoder.transpconvs.1.weight": r"nothing for up\.1\.weight",
        "decoder.seg_layers.2.weight": r"nothing for score\.weight",
        "encoder.stages.2.0.convs.1.norm.bias": r"1 missing \(encoder\.2\.4\.bias\)",
    }.items():
        with pytest.raises(ValueError, match=message):
            convert(NAME, {k: v for k, v in state.items() if k != key})


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_program_in_a_checkpoint_is_refused_and_not_run(tmp_path, saved):
    mark = tmp_path / "ran"
    torch.save({**saved, "logging": {"x": Evil(mark)}}, tmp_path / "c.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"network_weights": Evil(mark)}))
    for name in ("c.pth", "plain.pth"):
        with pytest.raises(ValueError, match=f"{name} can't be read safely"):
            read_origin(NAME, tmp_path / name)
    assert not mark.exists()


def test_damaged_files_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        read_origin(NAME, tmp_path / "none.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth holds no checkpoint but a list"):
        read_origin(NAME, tmp_path / "list.pth")
    (tmp_path / "fold_0").mkdir()
    torch.save({}, tmp_path / "fold_0" / "c.pth")
    (tmp_path / "plans.json").write_text("{")
    with pytest.raises(ValueError, match=r"plans\.json is no JSON file"):
        read_origin(NAME, tmp_path / "fold_0" / "c.pth")


def test_an_origin_needs_a_name_and_a_file():
    with pytest.raises(ValueError, match="has no published weights; pass the checkpoint that you have with --file"):
        read_origin(NAME)
    with pytest.raises(ValueError, match="no origin is called 'nnunetv2:'; did you mean nnunetv2:NAME"):
        read_origin("nnunetv2:")
