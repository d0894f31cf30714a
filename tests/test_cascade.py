"""The second stage of a cascade sees the labels of the first, damaged while it trains."""

import pytest
import torch

from seglib.data import cascade
from seglib.data.cascade import CascadeTransform, PreviousLabels, damaged
from seglib.data.cases import StoredCases
from seglib.data.nifti import VoxelFrame, write_label_volume
from seglib.data.patches import Patches
from seglib.data.prepared import PreparedCases
from seglib.data.volume_transforms import VolumeTransform, volume_transform
from seglib.data.volumes import Volumes
from seglib.ops.intensity import AS_IS, Intensity
from seglib.ops.preparation import Preparation
from seglib.types import VOID, Sample

SECOND = Preparation(spacing=(2.5, 0.5, 1.0), intensities=(Intensity("zscore"),), previous=2)


@pytest.fixture(scope="module")
def volumes():
    return Volumes(1, size=(8, 24, 24))


def always(monkeypatch, morph=0.0, remove=0.0):
    monkeypatch.setattr(cascade, "_MORPH", morph)
    monkeypatch.setattr(cascade, "_REMOVE", remove)


def masks(*rows):
    """Masks ``(K − 1, 1, 1, n)`` bool."""
    return torch.tensor(rows, dtype=torch.bool)[:, None, None]


def test_labels_of_the_first_stage_become_masks_on_the_prepared_grid():
    image = torch.zeros(1, 1, 3, 4)
    image[..., 1:, 1:] = torch.arange(1.0, 7).view(2, 3)
    labels = torch.tensor([[[2, 2, 2, 2], [1, 0, 1, 2], [1, 0, 1, 2]]])
    found = Preparation(spacing=(1.0, 1.0, 0.5), intensities=(AS_IS,), previous=2)(image, (1, 1, 1), previous=labels)
    assert found.image.shape == (3, 1, 2, 6)
    assert found.image[1:, 0, 0].tolist() == [[0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]


def test_labels_that_are_missing_too_many_or_of_another_case_are_refused():
    image, first = torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="sees the labels of the first, 2 classes of foreground; it got none"):
        SECOND(image, (1, 1, 1))
    with pytest.raises(ValueError, match="0 classes of foreground; it got some"):
        Preparation(spacing=(None,) * 3, intensities=(AS_IS,))(image, previous=first)
    with pytest.raises(ValueError, match=r"first stage are in 0..2, got 0 to 255"):
        SECOND(image, (1, 1, 1), previous=torch.tensor([[[0, VOID], [0, 0]]]))
    with pytest.raises(ValueError, match=r"labels of the first stage are \(2, 2, 2\)"):
        SECOND(image, (1, 1, 1), previous=first.expand(2, 2, 2))
    with pytest.raises(ValueError, match="at least 0, got -1"):
        Preparation(spacing=(None,) * 3, intensities=(AS_IS,), previous=-1)


def test_files_of_the_first_stage_are_read_in_category_ids(tmp_path):
    frame = VoxelFrame.of_spacing((1, 2, 2), (3, 1, 1))
    write_label_volume(tmp_path / "liver_7.nii.gz", torch.tensor([[[0, 7], [3, 7]]]), frame)
    read = PreviousLabels(tmp_path, (0, 3, 7))
    assert read(Sample(torch.zeros(1, 1, 2, 2), "liver_7")).tolist() == [[[0, 2], [1, 2]]]
    with pytest.raises(FileNotFoundError, match="no liver_8.nii.gz; predict the case with the first stage"):
        read(Sample(torch.zeros(1, 1, 2, 2), "liver_8"))
    with pytest.raises(ValueError, match=r"liver_7.nii.gz has the label ids \[7\], which no class has"):
        PreviousLabels(tmp_path, (0, 3))(Sample(torch.zeros(1, 1, 2, 2), "liver_7"))
    write_label_volume(tmp_path / "liver_8.nii.gz", torch.zeros(1, 2, 2, dtype=torch.int64), frame)
    assert PreviousLabels(tmp_path, (0, 3, 7)).source != read.source


def test_cases_are_stored_with_what_the_first_stage_said(volumes, tmp_path):
    (tmp_path / "first").mkdir()
    raw = volumes[0]
    labels = raw.semantic * (raw.semantic < 3)
    write_label_volume(tmp_path / "first" / f"{raw.id}.nii.gz", labels, volumes.frame(0))
    previous = PreviousLabels(tmp_path / "first", volumes.file_ids)
    cases = StoredCases(PreparedCases(volumes, SECOND, previous), tmp_path / "cases")
    assert cases[0].image.equal(SECOND(raw.image, raw.spacing, previous=labels).image)
    write_label_volume(tmp_path / "first" / f"{raw.id}.nii.gz", 0 * labels, volumes.frame(0))
    previous = PreviousLabels(tmp_path / "first", volumes.file_ids)
    assert not StoredCases(PreparedCases(volumes, SECOND, previous), tmp_path / "cases")[0].image[1:].any()


def test_masks_turn_with_the_labels_and_no_noise_reaches_them(monkeypatch, volumes):
    always(monkeypatch)
    pytest.importorskip("monai")
    labels = volumes[0].semantic
    image = torch.cat((volumes[0].image, torch.stack([labels == k for k in (1, 2)])))
    sample = Sample(image, "a", semantic=labels, spacing=volumes.spacing)
    noisy = volume_transform(rotation=30, flips=(0, 1, 2), probability=1, noise=1)
    torch.manual_seed(3)
    found = CascadeTransform(noisy, 2)(sample)
    assert found.image[1:].equal(torch.stack([found.semantic == k for k in (1, 2)]).float())
    assert (found.semantic == VOID).any()  # what the rotation brings in
    assert found.image[1:].any()
    torch.manual_seed(3)
    alone = noisy(Sample(volumes[0].image, "a", semantic=labels, spacing=volumes.spacing))
    assert found.image[:1].equal(alone.image)
    assert found.semantic.equal(alone.semantic)


def test_patches_of_a_cascade_have_their_masks(monkeypatch, volumes):
    always(monkeypatch)
    second = Preparation(spacing=(None,) * 3, intensities=(AS_IS,), previous=4)
    truth = type("Truth", (), {"source": "", "__call__": lambda _, sample: sample.semantic})()
    nothing = VolumeTransform(lambda data: data, 0, (1, 1), 0)
    cases = StoredCases(PreparedCases(volumes, second, truth))
    patch = Patches(cases, (12, 12, 12), foreground=1, transform=CascadeTransform(nothing, 4))[0]
    assert patch.image.shape == (5, 12, 12, 12)
    assert patch.image[1:].equal(torch.stack([patch.semantic == k for k in (1, 2, 3, 4)]).float())
    assert patch.image[1:].any()


@pytest.mark.parametrize(
    ("operation", "radius", "before", "after"),
    [
        (0, 2, (0, 0, 0, 1, 0, 0, 0, 0), (0, 1, 1, 1, 1, 1, 0, 0)),  # dilation
        (1, 1, (0, 1, 1, 1, 0, 1, 1, 1), (0, 0, 1, 0, 0, 0, 1, 1)),  # erosion, but not from outside the patch
        (2, 1, (0, 1, 0, 0, 1, 1, 1, 0), (0, 0, 0, 0, 1, 1, 1, 0)),  # opening
        (3, 1, (0, 0, 1, 0, 1, 0, 0, 0), (0, 0, 1, 1, 1, 0, 0, 0)),  # closing
        (0, 8, (0,) * 8, (0,) * 8),
        (1, 8, (1,) * 8, (1,) * 8),
    ],
)
def test_a_mask_grows_shrinks_opens_or_closes(operation, radius, before, after):
    found = cascade._morphed(masks(before)[0].numpy(), operation, radius)
    assert found[0, 0].astype(int).tolist() == list(after)


def test_a_ball_is_round():
    point = torch.zeros(9, 9, 9, dtype=torch.bool)
    point[4, 4, 4] = True
    assert cascade._morphed(point.numpy(), 0, 2).sum() == 33  # voxels within 2 of one
    assert cascade._morphed(point.numpy(), 3, 3).sum() == 1


def test_what_grows_takes_its_voxels_from_the_others(monkeypatch):
    always(monkeypatch, morph=1)
    monkeypatch.setattr(cascade, "_morphed", lambda mask, *_: mask | mask.any())  # grows everywhere
    torch.manual_seed(0)
    last = torch.randperm(2).tolist()[-1]
    monkeypatch.setattr(torch, "randperm", lambda _: torch.tensor([1 - last, last]))
    found = damaged(masks((0, 1, 0, 0), (0, 0, 1, 0)))
    # the first takes all, so that the second has none left to grow from
    assert found[1 - last].all()
    assert not found[last].any()


def test_a_mask_loses_one_component_of_those_that_are_not_large(monkeypatch):
    always(monkeypatch, remove=1)
    before = masks((1, 0, 1, 0, 1, 1, 1, 1, 0, 0), (0, 0, 0, 1, 0, 0, 0, 0, 1, 1))  # 0.15 · 10 voxels: those of one
    lost = {tuple(map(tuple, (before.float() - damaged(before))[:, 0, 0].int().tolist())) for _ in range(30)}
    second = (0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
    assert lost == {((1, *(0,) * 9), second), ((0, 0, 1, *(0,) * 7), second)}


def test_how_often_masks_are_damaged():
    before = masks((0,) * 20 + (1,) + (0,) * 20)
    torch.manual_seed(0)
    kept = sum(damaged(before).bool().equal(before) for _ in range(600)) / 600
    # opening and erosion remove a voxel, closing leaves it, dilation grows it; else it is lost with 0.2
    expected = (0.6 + 0.4 / 4) * 0.8
    assert abs(kept - expected) < 4 * (expected * (1 - expected) / 600) ** 0.5
