"""Regions of volumes that may overlap, from dataset.json to the label map that a prediction writes and its scores."""

import json
from functools import partial

import pytest
import torch
from torch import nn

from seglib.data.collate import collate
from seglib.data.nnunet_raw import NNUNetRaw, write_nnunet_raw
from seglib.layers.normalize import Normalize
from seglib.losses import nnunet_loss
from seglib.models.nnunet import NNUNet
from seglib.ops.intensity import AS_IS
from seglib.ops.labels import labels_of, regions_of
from seglib.ops.preparation import Preparation
from seglib.postprocess.whole_cases import Ensemble, label_case
from seglib.train import TASKS, VolumeTask, evaluate
from seglib.types import VOID, Category, DenseOutput, Sample, Targets

pytest.importorskip("nibabel")

CATEGORIES = tuple(
    Category(i, name, False, (i, i, i)) for i, name in enumerate(("background", "whole", "core", "enhancing"))
)
REGIONS = {"whole": ("whole", "core", "enhancing"), "core": ("core", "enhancing"), "enhancing": ("enhancing",)}
LABELS = torch.tensor([0, 1, 2, 3, VOID, 3]).view(1, 2, 3)


def sample(name="a", labels=LABELS) -> Sample:
    return Sample(torch.zeros(1, *labels.shape), name, semantic=labels, spacing=(2.0, 1.0, 1.0))


class Says(nn.Module):
    """A model of three regions whose logits are the three channels of what it sees."""

    overlapping, num_classes, preparation, intensity = True, 3, None, AS_IS

    def __init__(self):
        super().__init__()
        self.normalize = Normalize([0.0] * 3, [1.0] * 3, dims=3, value_range=None)
        self.scale = nn.Parameter(torch.ones(()))  # a model has parameters, which say where it runs

    def forward(self, images, targets=None, sizes=None):
        return DenseOutput(images.float() * self.scale)


# --- dataset.json ----------------------------------------------------------------------------------------------------


def written(root, labels, order):
    """Two cases in nnU-Net's layout, whose dataset.json says these labels and this order."""
    stored = [sample(name, LABELS.masked_fill(LABELS == VOID, 0)) for name in "abcde"]
    write_nnunet_raw(stored, root, CATEGORIES, modalities=["MR"], name="Tumours")
    path = root / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": labels, "regions_class_order": order}))
    return NNUNetRaw(root)


def test_a_class_has_the_name_of_the_region_that_writes_it(tmp_path):
    labels = {"background": 0, "core": [2, 3], "whole": [1, 2, 3], "enhancing": 3}
    dataset = written(tmp_path, labels, [2, 1, 3])
    assert [c.name for c in dataset.categories] == ["background", "whole", "core", "enhancing"]
    assert dataset.file_ids == (0, 1, 2, 3) and dataset.void_id is None
    assert list(dataset.regions.items()) == [
        ("core", ("core", "enhancing")), ("whole", ("whole", "core", "enhancing")), ("enhancing", ("enhancing",))
    ]  # fmt: skip
    assert dataset[0].semantic.equal(LABELS.masked_fill(LABELS == VOID, 0))
    assert list(VolumeTask(dataset.categories, regions=dataset.regions).written) == [2, 1, 3]


def test_ids_that_no_region_writes_are_classes_too_and_ignore_is_void(tmp_path):
    dataset = written(tmp_path, {"background": 0, "whole": [1, 2], "ignore": 3}, [1])
    assert [c.name for c in dataset.categories] == ["background", "whole", "label 2"]
    assert dataset.regions == {"whole": ("whole", "label 2")}
    assert dataset[0].semantic.unique().tolist() == [0, 1, 2, VOID]


def test_labels_of_one_id_each_are_no_regions_in_a_list_or_not(tmp_path):
    dataset = written(tmp_path, {"background": 0, "a": [1], "b": 2, "c": 3}, None)
    assert dataset.regions is None
    assert [c.name for c in dataset.categories] == ["background", "a", "b", "c"]


# --- labels to regions and back --------------------------------------------------------------------------------------


def test_labels_become_regions_and_regions_labels():
    members = [torch.tensor([1, 2, 3]), torch.tensor([2, 3]), torch.tensor([3])]
    regions = regions_of(LABELS[None], members)[0]
    assert regions.flatten(1).tolist() == [[0, 1, 1, 1, 255, 1], [0, 0, 1, 1, 255, 1], [0, 0, 0, 1, 255, 1]]
    assert regions.dtype == torch.uint8
    assert labels_of(regions == 1, (1, 2, 3)).equal(LABELS.masked_fill(LABELS == VOID, 0).byte())


def test_a_region_writes_over_those_before_it():
    inside = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0]]).bool()
    assert labels_of(inside, (5, 2)).tolist() == [5, 2, 2, 0]


# --- the task --------------------------------------------------------------------------------------------------------


def test_the_model_of_regions_has_a_sigmoid_for_each_and_is_trained_on_them():
    task = VolumeTask(CATEGORIES, regions=REGIONS)
    assert task.model_arguments() == {"num_classes": 3, "overlapping": True}
    model = NNUNet(**task.model_arguments(), widths=[2, 2], batch_dice=True)
    model.criterion = partial(nnunet_loss, batch_dice=True)
    batch = collate([sample(), sample("b", LABELS.flip(2))])
    batch.images.normal_(generator=torch.Generator().manual_seed(0))
    found = task.losses(model, batch)
    regions = regions_of(batch.targets.semantic, list(task.members.values()))
    assert found == model.loss(model(batch.images), Targets(regions=regions)) and list(found) == ["regions"]


def test_its_arguments_make_it_again():
    task = VolumeTask(CATEGORIES, (2, 2, 2), regions=REGIONS)
    again = TASKS["volume"](CATEGORIES, **json.loads(json.dumps(task.arguments())))
    assert (again.regions, again.window) == (task.regions, (2, 2, 2))
    assert "regions" not in VolumeTask(CATEGORIES).arguments()


def test_scores_are_those_of_the_regions():
    #                 whole  core  enhancing   a voxel's logits in the channels of the image
    logits = torch.tensor([[1, -1, -1], [1, 1, -1], [1, 1, 1], [-1, -1, 1], [1, 1, 1], [1, -1, 1]]).T
    case = Sample(logits.view(3, 1, 2, 3).float(), "a", semantic=LABELS, spacing=(2.0, 1.0, 1.0))
    task = VolumeTask(CATEGORIES, regions=REGIONS)
    assert task.predict(Says(), collate([case]))[0].labels.flatten().tolist() == [1, 2, 3, 3, 3, 3]
    scores = evaluate(Says(), [case], task)
    # without the void voxel: whole 5 voxels of 4, core 4 of 3, enhancing 3 of 2
    assert scores["dice"] == pytest.approx({"whole": 8 / 9, "core": 6 / 7, "enhancing": 4 / 5})
    assert scores["mean_dice"] == pytest.approx((8 / 9 + 6 / 7 + 4 / 5) / 3)
    assert set(scores["hd95"]) == set(scores["nsd"]) == set(REGIONS)


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({}, "needs at least one"),
        ({"whole": ("whole", "edema")}, r"region 'whole' has the classes \['whole', 'edema'\]; choose some of"),
        ({"all": ("whole", "core")}, r"region 'all' has the classes \['whole', 'core'\]; one of them has its name"),
    ],
)
def test_regions_that_no_label_map_can_hold_are_refused(regions, message):
    with pytest.raises(ValueError, match=message):
        VolumeTask(CATEGORIES, regions=regions)


# --- whole cases -----------------------------------------------------------------------------------------------------


def test_at_a_logit_of_0_a_voxel_is_outside():
    image = torch.tensor([0.0, 1e-6, -1e-6]).view(1, 1, 1, 3).expand(3, -1, -1, -1)
    assert label_case(Says(), image, None, None, regions=(1, 2, 3)).flatten().tolist() == [0, 3, 0]


def box_of(*logits):
    """A case that is 0 but for a box, whose channels are the logits, a model that crops cases, and where the box is."""
    image = torch.zeros(3, 1, 4, 4)
    image[:, :, 1:3, 1:3] = torch.tensor(logits).view(3, 1, 1, 1)
    model = Says()
    model.preparation = Preparation(spacing=(1.0, 1.0, 1.0), intensities=(AS_IS,) * 3)
    return image, model, (image != 0).any(0)


def test_outside_the_box_of_a_prepared_case_is_background_even_where_all_logits_are_high():
    image, model, inside = box_of(1.0, 2.0, 0.5)
    assert label_case(model, image, (1.0, 1.0, 1.0), None, regions=(1, 2, 3)).equal((3 * inside).byte())


def test_models_with_other_preparations_are_averaged_as_probabilities():
    image, model, inside = box_of(1.0, 2.0, -0.5)
    ensemble = Ensemble([model, Says()], [None, None])
    assert label_case(ensemble, image, (1.0, 1.0, 1.0), None, regions=(1, 2, 3)).equal((2 * inside).byte())


def test_without_regions_a_model_of_them_has_no_labels():
    with pytest.raises(ValueError, match="say with `regions` what each writes"):
        label_case(Says(), torch.zeros(3, 1, 2, 2), None, None)
