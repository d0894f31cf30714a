"""Volumes on disk as ``seglib predict`` finds them, and where their labels go."""

from itertools import permutations, product

import numpy as np
import pytest
import torch

from seglib.case_files import CaseFiles, cases_at, facts_of, label_targets, predict_case
from seglib.data.class_tables import labels_to_files
from seglib.data.nifti import VoxelFrame, write_label_volume, write_volume
from seglib.models.zoo import build
from seglib.ops.intensity import Intensity
from seglib.train import VolumeTask
from seglib.types import Category


def touch(folder, *names):
    for name in names:
        (folder / name).touch()
    return folder


def found(path, channels):
    return {case.id: [p.name for p in case.files] for case in cases_at(path, channels)}


def test_a_folder_of_the_decathlon_is_one_case_a_file(tmp_path):
    touch(tmp_path, "brats_002.nii.gz", "brats_001.nii", ".hidden.nii.gz", "notes.txt")
    expected = {"brats_001": ["brats_001.nii"], "brats_002": ["brats_002.nii.gz"]}
    assert found(tmp_path, 1) == found(tmp_path, 4) == expected


def test_a_folder_of_nnunet_is_one_case_for_all_its_channels(tmp_path):
    touch(tmp_path, "a_0000.nii.gz", "b_0000.nii.gz")
    assert found(tmp_path, 1) == {"a": ["a_0000.nii.gz"], "b": ["b_0000.nii.gz"]}
    touch(tmp_path, "a_0001.nii.gz", "b_0001.nii.gz")
    expected = {"a": ["a_0000.nii.gz", "a_0001.nii.gz"], "b": ["b_0000.nii.gz", "b_0001.nii.gz"]}
    assert found(tmp_path, 2) == expected
    assert found(tmp_path / "b_0001.nii.gz", 2) == {"b": expected["b"]}


def test_numbers_of_cases_are_no_numbers_of_channels(tmp_path):
    touch(tmp_path, "case_0000.nii.gz", "case_0001.nii.gz")
    expected = {"case_0000": ["case_0000.nii.gz"], "case_0001": ["case_0001.nii.gz"]}
    assert found(tmp_path, 1) == expected
    assert found(tmp_path / "case_0001.nii.gz", 1) == {"case_0001": ["case_0001.nii.gz"]}


@pytest.mark.parametrize(
    "names", [("a_0000",), ("a_0000", "a_0002"), ("a_0000", "a_0001", "a_0002"), ("a", "a_0000"), ("b_0000", "a_0001")]
)
def test_a_missing_channel_is_named_with_the_files(tmp_path, names):
    touch(tmp_path, *(f"{name}.nii.gz" for name in names))
    case = cases_at(tmp_path, 2)[0]
    with pytest.raises(ValueError, match=r"a_0\d+.*takes 2 channels, the files a_0000, a_0001; add the missing"):
        case.read(2)


def test_channels_are_read_in_order(tmp_path):
    frame = VoxelFrame.of_spacing((2, 3, 4), (2.0, 1.0, 1.0))
    for channel in (1, 0):
        write_volume(tmp_path / f"a_{channel:04d}.nii.gz", torch.full((1, 2, 3, 4), float(channel)), frame)
    image, seen = cases_at(tmp_path, 2)[0].read(2)
    assert image[:, 0, 0, 0].tolist() == [0, 1] and image.shape == (2, 2, 3, 4)
    assert seen.spacing == (2.0, 1.0, 1.0)


def test_labels_have_the_ids_of_their_cases(tmp_path):
    touch(tmp_path, "a_0000.nii", "b_0000.nii.gz")
    cases = cases_at(tmp_path, 1)
    assert label_targets(tmp_path / "o", cases, tmp_path) == [tmp_path / "o" / f"{i}.nii.gz" for i in "ab"]
    assert label_targets(None, cases, tmp_path) == []


@pytest.mark.parametrize(
    ("path", "out", "message"),
    [
        ("nothing", "o", "nothing does not exist"),
        ("empty", "o", "empty holds no case"),
        ("note.txt", "o.nii", "note.txt is no volume"),
        ("in/a.nii.gz", "o", "o is no name of a NIfTI file"),
        ("in", "o.nii.gz", "name a folder for the results"),
        ("in", "in", "a.nii.gz is one of the images and would be overwritten"),
        ("in/a.nii.gz", "in/a.nii.gz", "would be overwritten"),
        ("twins", "o", "one case in two files"),
    ],
)
def test_what_would_fail_half_way_is_refused_beforehand(tmp_path, path, out, message):
    for folder in ("empty", "in", "twins"):
        (tmp_path / folder).mkdir()
    touch(tmp_path, "note.txt", "in/a.nii.gz", "twins/a.nii", "twins/a.nii.gz")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        label_targets(tmp_path / out, cases_at(tmp_path / path, 1), tmp_path / path)


def test_volumes_of_classes_are_millilitres_without_the_background(tmp_path):
    categories = [Category(i, name, False, (i, 0, 0)) for i, name in enumerate(("background", "organ", "lesion"))]
    labels = torch.zeros(10, 10, 20, dtype=torch.uint8)
    labels[:5] = 1
    frame = VoxelFrame.of_spacing(labels.shape, (5.0, 1.0, 2.0))  # 10 mm³ a voxel
    facts = facts_of(CaseFiles("a", (tmp_path / "a.nii",)), labels, frame, categories)
    assert facts["millilitres"] == {"organ": 10.0, "lesion": 0.0}
    assert (facts["case"], facts["size"], facts["spacing"]) == ("a", [10, 10, 20], [5.0, 1.0, 2.0])


ORIENTATIONS = ["".join(o) for axes in permutations(["LR", "PA", "SI"]) for o in product(*axes)]  # 6 orders, 8 flips


@pytest.fixture(scope="module")
def model_of_halves():
    """A random network and its task, with a scan of which it calls several voxels each of three classes."""
    torch.manual_seed(0)
    model = build("unet3d_tiny", num_classes=3).eval()
    model.intensity = Intensity("zscore")
    scan = torch.randn(6, 10, 8).cumsum(2).round(decimals=3)  # (D, H, W) in LPS
    labels = model.predict(model.intensity(scan[None])[None])[0].labels
    assert (torch.bincount(labels.flatten(), minlength=3) > 5).all()
    return model, VolumeTask([Category(i, str(i), False, (i, i, i)) for i in range(3)]), scan, labels


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_from_file_through_a_model_to_file_an_orientation_is_kept(codes, model_of_halves, tmp_path):
    """Whatever the order of a file's axes, the model sees one and the same scan, and its labels lie where it lay."""
    nibabel = pytest.importorskip("nibabel")
    model, task, scan, labels = model_of_halves
    affine = np.array([[-0.8, 0.1, 0, 30], [-0.1, -0.8, 0, -20], [0, 0, 2.5, 10], [0, 0, 0, 1.0]])  # (x, y, z) in LPS
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("LPS"), nibabel.orientations.axcodes2ornt(codes)
    )
    stored = nibabel.Nifti1Image(scan.numpy().transpose(2, 1, 0), affine).as_reoriented(turn)
    stored.set_sform(stored.affine, 2)
    stored.set_qform(stored.affine, 1)
    nibabel.save(stored, tmp_path / "x.nii.gz")
    found, frame = predict_case(model, task, cases_at(tmp_path, 1)[0])
    assert torch.equal(found.long(), labels)
    write_label_volume(tmp_path / "y.nii.gz", labels_to_files(found, [0, 3, 7], None), frame)
    written = nibabel.load(tmp_path / "y.nii.gz")
    source = nibabel.load(tmp_path / "x.nii.gz")
    assert np.array_equal(written.affine, source.affine) and nibabel.aff2axcodes(written.affine) == tuple(codes)
    assert (written.header["sform_code"], written.header["qform_code"]) == (2, 1)
    ids = np.array([0, 3, 7], np.uint8)[labels.numpy().transpose(2, 1, 0)]
    expected = nibabel.Nifti1Image(ids, affine).as_reoriented(turn)
    assert np.array_equal(np.asarray(written.dataobj), np.asarray(expected.dataobj))
