"""The layouts of the Medical Segmentation Decathlon and of nnU-Net: read, written, and refused where they are wrong."""

import gzip
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from seglib.data.checks import count_labels
from seglib.data.class_tables import labels_to_files
from seglib.data.msd import MSD, write_msd
from seglib.data.nifti import VoxelFrame, read_label_volume, write_label_volume, write_volume
from seglib.data.nnunet_raw import NNUNetRaw, write_nnunet_raw
from seglib.types import Category, Sample

nib = pytest.importorskip("nibabel")

REAL = Path(__file__).parents[2] / "shared" / "data" / "msd-hippocampus"
needs_files = pytest.mark.skipif(not REAL.is_dir(), reason=f"the hippocampus volumes are not at {REAL}")

CATEGORIES = (
    Category(0, "background", False, (0, 0, 0)),
    Category(1, "liver", False, (0, 114, 178)),
    Category(2, "tumour", False, (213, 94, 0)),
)
SIZE, SPACING = (2, 3, 4), (2.5, 1.0, 0.5)
LABELS = torch.arange(24).reshape(SIZE) % 3  # (D, H, W)
NAMES = [f"case.{i}" for i in range(7)]  # ids may have dots
BOTH = pytest.mark.parametrize("layout", ["msd", "nnunet"])


def sample(name="case.0", channels=2, **changes):
    image = (
        torch.arange(24.0).reshape(1, *SIZE) - 12 + 100 * torch.arange(channels).reshape(-1, 1, 1, 1)
    )  # (C, D, H, W)
    return replace(Sample(image, name, semantic=LABELS, spacing=SPACING), **changes)


def export(layout, root, samples=None, channels=2):
    """Write samples, seven of two channels by default, and return the class that reads them."""
    samples = [sample(name, channels) for name in NAMES] if samples is None else samples
    write = {"msd": write_msd, "nnunet": write_nnunet_raw}[layout]
    write(samples, root, CATEGORIES, modalities=["CT", "PET"][:channels], name="Livers")
    return {"msd": MSD, "nnunet": NNUNetRaw}[layout]


def edit(root, **changes):
    """Change keys of dataset.json; ``None`` removes one."""
    content = json.loads((root / "dataset.json").read_text()) | changes
    (root / "dataset.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def relabel(root, name, labels, frame=None):
    """Write other labels for a case."""
    write_label_volume(root / "labelsTr" / f"{name}.nii.gz", labels, frame or VoxelFrame.of_spacing(SIZE, SPACING))


# --- reading ---------------------------------------------------------------------------------------------------------


@BOTH
def test_what_is_written_is_read(tmp_path, layout):
    dataset = export(layout, tmp_path)(tmp_path)
    assert [(c.id, c.name, c.isthing) for c in dataset.categories] == [(c.id, c.name, False) for c in CATEGORIES]
    assert len({c.color for c in dataset.categories}) == 3
    assert (dataset.file_ids, dataset.void_id, dataset.size) == ((0, 1, 2), None, None)
    assert dataset.modalities == ("CT", "PET")
    for found in dataset:
        expected = sample(found.id)
        assert torch.equal(found.image, expected.image) and found.image.dtype == torch.float32
        assert torch.equal(found.semantic, LABELS) and found.spacing == SPACING


def test_files_of_the_decathlon_have_four_axes_with_several_modalities(tmp_path):
    export("msd", tmp_path / "two")
    export("msd", tmp_path / "one", channels=1)
    assert nib.load(tmp_path / "two" / "imagesTr" / "case.0.nii.gz").shape == (4, 3, 2, 2)
    assert nib.load(tmp_path / "one" / "imagesTr" / "case.0.nii.gz").shape == (4, 3, 2)


def test_files_of_nnunet_have_one_channel_each(tmp_path):
    export("nnunet", tmp_path, [sample()])
    assert sorted(p.name for p in tmp_path.rglob("*.nii.gz")) == [
        "case.0.nii.gz",
        "case.0_0000.nii.gz",
        "case.0_0001.nii.gz",
    ]
    assert json.loads((tmp_path / "dataset.json").read_text()) == {
        "name": "Livers",
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "liver": 1, "tumour": 2},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }


@BOTH
def test_five_folds_take_turns_as_val(tmp_path, layout):
    read = export(layout, tmp_path)
    val = [[c.id for c in read(tmp_path, "val", fold=fold).cases] for fold in range(5)]
    # what nnU-Net 2.8.1 answers for seven cases
    assert val == [["case.3", "case.6"], ["case.0", "case.4"], ["case.1"], ["case.5"], ["case.2"]]
    for fold in range(5):
        train = [c.id for c in read(tmp_path, fold=fold).cases]
        assert sorted(train + val[fold]) == NAMES and not set(train) & set(val[fold])


@BOTH
def test_the_root_may_be_the_folder_around_it(tmp_path, layout):
    read = export(layout, tmp_path / "Task01_Livers")
    assert len(read(tmp_path)) == 5
    export(layout, tmp_path / "Task02_Livers")
    with pytest.raises(ValueError, match=r"holds several data sets \(Task01_Livers, Task02_Livers\); pass the folder"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"found no dataset\.json in .*nowhere"):
        read(tmp_path / "nowhere")


@BOTH
def test_a_transform_sees_the_sample_last(tmp_path, layout):
    assert export(layout, tmp_path)(tmp_path, transform=lambda s: s.id.upper())[0] == "CASE.0"


@BOTH
def test_a_dataset_goes_to_workers(tmp_path, layout):
    dataset = export(layout, tmp_path)(tmp_path)
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[0].image, dataset[0].image)


@BOTH
def test_ids_with_gaps_become_contiguous_and_come_out_the_same(tmp_path, layout):
    read = export(layout, tmp_path)
    names = {0: "background", 7: "tumour", 300: "liver"}
    edit(
        tmp_path, labels={str(i): n for i, n in names.items()} if layout == "msd" else {n: i for i, n in names.items()}
    )
    stored = torch.tensor([0, 7, 300])[LABELS]
    for name in NAMES:
        relabel(tmp_path, name, stored)
    dataset = read(tmp_path)
    assert [c.name for c in dataset.categories] == ["background", "tumour", "liver"]
    assert dataset.file_ids == (0, 7, 300) and torch.equal(dataset[0].semantic, LABELS)
    write_label_volume(
        tmp_path / "p.nii.gz", labels_to_files(LABELS, dataset.file_ids, dataset.void_id), dataset.frame(0)
    )
    assert torch.equal(read_label_volume(tmp_path / "p.nii.gz")[0], stored)


def test_ignore_is_void(tmp_path):
    labels = LABELS.clone()
    labels[1] = 255
    write_nnunet_raw(
        [sample(n, semantic=labels) for n in NAMES], tmp_path, CATEGORIES, modalities=["CT", "PET"], name="Livers"
    )
    assert json.loads((tmp_path / "dataset.json").read_text())["labels"]["ignore"] == 3
    dataset = NNUNetRaw(tmp_path)
    assert [c.name for c in dataset.categories] == ["background", "liver", "tumour"]
    assert torch.equal(dataset[0].semantic, labels) and dataset.void_id == 3
    assert np.array_equal(
        labels_to_files(labels, dataset.file_ids, dataset.void_id), labels.masked_fill(labels == 255, 3)
    )


@BOTH
def test_labels_are_counted_without_the_images(tmp_path, layout):
    dataset = export(layout, tmp_path)(tmp_path)
    for case in dataset.cases:
        for image in case.images:
            image.write_bytes(b"")
    assert count_labels(dataset, "semantic").classes == (40, 40, 40)  # five cases with eight voxels of each class
    with pytest.raises(ValueError, match="has no regions annotation"):
        count_labels(dataset, "regions")


@BOTH
def test_the_source_of_a_case_changes_with_its_files_and_the_classes(tmp_path, layout):
    read = export(layout, tmp_path)
    dataset = read(tmp_path)
    before = dataset.source(0)
    assert read(tmp_path).source(0) == before != dataset.source(1)
    os.utime(dataset.cases[0].labels, ns=(0, 0))
    assert dataset.source(0) != before
    os.utime(dataset.cases[1].images[0], ns=(0, 0))
    before = dataset.source(2)
    edit(tmp_path, labels={"0": "background", "1": "a", "4": "b"} if layout == "msd" else {"background": 0, "a": 4})
    assert read(tmp_path).source(2) != before


@BOTH
def test_labels_in_another_orientation_are_turned_to_their_image(tmp_path, layout):
    read = export(layout, tmp_path)
    for name in NAMES:
        path = tmp_path / "labelsTr" / f"{name}.nii.gz"
        turned = nib.as_closest_canonical(nib.load(path))
        nib.save(nib.Nifti1Image(np.asarray(turned.dataobj, np.float32), turned.affine), path)  # stored as floats too
    assert torch.equal(read(tmp_path)[0].semantic, LABELS)


@BOTH
def test_hidden_files_are_ignored(tmp_path, layout):
    read = export(layout, tmp_path)
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder / "._case.0.nii.gz").write_bytes(b"of macOS")
    assert len(read(tmp_path)) == 5


@BOTH
def test_a_byte_order_mark_is_skipped(tmp_path, layout):
    read = export(layout, tmp_path)
    path = tmp_path / "dataset.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert len(read(tmp_path)) == 5


def test_many_classes_have_colours_of_their_own(tmp_path):
    export("msd", tmp_path)
    edit(tmp_path, labels={"0": "background", **{str(i): f"organ {i}" for i in range(1, 30)}})
    assert len({c.color for c in MSD(tmp_path).categories}) == 30


# --- what is refused -------------------------------------------------------------------------------------------------


@BOTH
def test_splits_and_folds_that_do_not_exist(tmp_path, layout):
    read = export(layout, tmp_path, [sample("a"), sample("b")])
    with pytest.raises(ValueError, match="the labels of the test images are not public; choose the split train or val"):
        read(tmp_path, "test")
    with pytest.raises(ValueError, match="split 'dev' is unknown; choose one of train, val"):
        read(tmp_path, "dev")
    with pytest.raises(ValueError, match=r"fold is 5; choose one of 0\.\.4"):
        read(tmp_path, fold=5)
    with pytest.raises(ValueError, match=r"dataset\.json: it has 2 cases, none in the split 'val' of fold 4"):
        read(tmp_path, "val", fold=4)


@BOTH
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"dataset\.json is no JSON file"),
        (b"\xff\xfe{", r"dataset\.json is no JSON file"),
        ("[]", r"dataset\.json: '\w+' is \[\], not a dict; it is no file of (nnU-Net|the Medical)"),
        ("{}", r"dataset\.json: '\w+' is None, not a dict; it is no file of (nnU-Net|the Medical)"),
    ],
)
def test_a_broken_dataset_json(tmp_path, layout, content, message):
    read = export(layout, tmp_path)
    path = tmp_path / "dataset.json"
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"found no dataset\.json"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": {"0": "CT", "2": "PET"}}, r"its channels are .*; name them like \{\"0\": \"CT\""),
        ({"modality": {}}, "its channels are"),
        ({"modality": {"0": 1}}, "its channels are"),
        ({"labels": {"1": "liver"}}, "every id needs a name, and 0 is background"),
        ({"labels": {"0": "background", "1": 1}}, "every id needs a name, and 0 is background"),
        ({"labels": {"background": 0}}, "read nnU-Net's layout with NNUNetRaw"),
        ({"labels": {"0": "a", "1": "a"}}, "category names must be unique"),
        ({"labels": {str(i): f"c{i}" for i in range(256)}}, "it has 256 classes, and at most 255 fit"),
        ({"training": ["./imagesTr/case.0.nii.gz"]}, '"training" holds .*; expected {"image"'),
        ({"training": [{"image": "./imagesTr/case.0.nii.gz"}]}, '"training" holds .*; expected {"image"'),
    ],
)
def test_a_dataset_json_of_the_decathlon_that_makes_no_sense(tmp_path, changes, message):
    export("msd", tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(ValueError, match=r"dataset\.json: .*" + message):
        MSD(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": {"1": "CT"}}, "its channels are"),
        ({"channel_names": None, "modality": {"0": "CT"}}, "'channel_names' is None, not a dict; .* version 2"),
        ({"labels": {"background": 0, "whole": []}}, r"the label 'whole' has the id \[\]; give each a whole number"),
        ({"labels": {"background": 0, "whole": [1, "2"]}}, r"the label 'whole' has the id \[1, '2'\]"),
        ({"labels": {"background": 0, "a": [1, 2], "b": [1, 2]}}, r"the label 'b' has the id \[1, 2\]"),
        (
            {"labels": {"background": 0, "whole": [1, 2], "core": 2}},
            '2 regions, and "regions_class_order" is None; list for each region the id that a prediction writes',
        ),
        (
            {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1]},
            r'2 regions, and "regions_class_order" is \[1\]',
        ),
        (
            {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 1]},
            r"writes 1 for the region 'core' of the ids \[2\]; write one of them, and another one for each region",
        ),
        (
            {"labels": {"background": 0, "whole": [1, 2], "core": [1, 3]}, "regions_class_order": [1, 1]},
            r"writes 1 for the region 'core'",
        ),
        (
            {"labels": {"background": 0, "whole": [1, 2], "ignore": 2}, "regions_class_order": [1]},
            r'"ignore" has the ids \[2\]; give it one that no other label has',
        ),
        ({"labels": {"whole": [1, 2]}, "regions_class_order": [1]}, "every id needs a name, and 0 is background"),
        ({"labels": {"background": 0, "liver": "1"}}, "the label 'liver' has the id '1'; give each a whole number"),
        ({"labels": {"background": 0, "liver": -1}}, "the label 'liver' has the id -1"),
        ({"labels": {"background": 0, "liver": 1, "tumour": 1}}, "the label 'tumour' has the id 1"),
        ({"labels": {"liver": 1}}, "every id needs a name, and 0 is background"),
        ({"file_ending": ".png"}, r"its files end in '\.png'; convert them to \.nii\.gz"),
        ({"numTraining": 8}, '"numTraining" is 8, and .* has 7 labelled cases'),
    ],
)
def test_a_dataset_json_of_nnunet_that_makes_no_sense(tmp_path, changes, message):
    export("nnunet", tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(ValueError, match=r"dataset\.json: .*" + message):
        NNUNetRaw(tmp_path)


def test_cases_of_the_decathlon_and_its_list_have_to_agree(tmp_path):
    export("msd", tmp_path)
    listed = json.loads((tmp_path / "dataset.json").read_text())["training"]
    edit(tmp_path, training=[*listed, listed[3]])
    with pytest.raises(ValueError, match=r"dataset\.json: the case 'case\.3' stands twice"):
        MSD(tmp_path)
    edit(tmp_path, training=listed[2:])
    with pytest.raises(
        ValueError, match=r"leaves out 2 files of imagesTr \(case\.0\.nii\.gz, case\.1\.nii\.gz\); list them with their"
    ):
        MSD(tmp_path)
    for name in NAMES[:2]:
        (tmp_path / "imagesTr" / f"{name}.nii.gz").unlink()
    with pytest.raises(ValueError, match="leaves out 2 files of labelsTr"):
        MSD(tmp_path)
    edit(tmp_path, training=listed)
    with pytest.raises(FileNotFoundError, match=r"2 files of its cases do not exist \(.*imagesTr/case\.0\.nii\.gz"):
        MSD(tmp_path)


def test_channels_of_nnunet_that_are_missing_or_too_many(tmp_path):
    export("nnunet", tmp_path)
    images = tmp_path / "imagesTr"
    (images / "case.2_0001.nii.gz").rename(images / "case.2_0002.nii.gz")
    with pytest.raises(
        ValueError, match=r"imagesTr lacks case\.2_0001, the channel 'PET' of the case 'case\.2'; add the file"
    ):
        NNUNetRaw(tmp_path)
    edit(tmp_path, channel_names={"0": "CT"})
    with pytest.raises(ValueError, match=r"case\.0_0001\.nii\.gz is channel 1, and .*dataset\.json names 1 \(CT\)"):
        NNUNetRaw(tmp_path)
    (images / "case.2_0002.nii.gz").rename(images / "case.2.nii.gz")
    with pytest.raises(ValueError, match=r"case\.2\.nii\.gz has no number of its channel; name it like CASE_0000"):
        NNUNetRaw(tmp_path)


def test_images_of_nnunet_without_labels_and_the_reverse(tmp_path):
    export("nnunet", tmp_path, channels=1)
    (tmp_path / "labelsTr" / "case.6.nii.gz").rename(tmp_path / "labelsTr" / "last.nii.gz")
    with pytest.raises(ValueError, match=r"'case\.6' is an image without labels \(2 such cases\); imagesTr/CASE_0000"):
        NNUNetRaw(tmp_path)
    (tmp_path / "imagesTr" / "case.6_0000.nii.gz").unlink()
    with pytest.raises(ValueError, match="'last' is labels without an image"):
        NNUNetRaw(tmp_path)


@BOTH
def test_a_case_in_two_files(tmp_path, layout):
    read = export(layout, tmp_path)
    packed = tmp_path / "labelsTr" / "case.0.nii.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    with pytest.raises(ValueError, match=r"case\.0\.nii and case\.0\.nii\.gz are one case in two files; keep one"):
        read(tmp_path)


@BOTH
def test_labels_outside_the_table(tmp_path, layout):
    read = export(layout, tmp_path, [sample(n) for n in NAMES])
    wrong = LABELS.clone()
    wrong[0, 0, :2] = torch.tensor([9, 255])
    relabel(tmp_path, "case.0", wrong)
    with pytest.raises(
        ValueError,
        match=r"case\.0\.nii\.gz has the label ids 9, 255, which .*dataset\.json does not name \(it names 0, 1, 2\)",
    ):
        read(tmp_path)[0]


@BOTH
@pytest.mark.parametrize(
    ("size", "spacing"), [((2, 3, 3), SPACING), ((2, 4, 3), SPACING), (SIZE, (2.5, 1, 1)), (SIZE, (1, 1, 1))]
)
def test_labels_of_another_shape_or_affine_than_their_image(tmp_path, layout, size, spacing):
    read = export(layout, tmp_path)
    relabel(tmp_path, "case.0", torch.zeros(size, dtype=torch.uint8), VoxelFrame.of_spacing(size, spacing))
    with pytest.raises(ValueError, match=r"labelsTr/case\.0\.nii\.gz lies on another grid than .*imagesTr/case\.0"):
        read(tmp_path)[0]


def test_images_of_another_number_of_channels(tmp_path):
    export("msd", tmp_path)
    edit(tmp_path, modality={"0": "CT"})
    with pytest.raises(
        ValueError, match=r"case\.0\.nii\.gz has 2 channels, and 1 wanted; .* the modalities of its dataset\.json"
    ):
        MSD(tmp_path)[0]
    export("nnunet", tmp_path / "raw")
    write_volume(
        tmp_path / "raw" / "imagesTr" / "case.0_0001.nii.gz", sample().image, VoxelFrame.of_spacing(SIZE, SPACING)
    )
    with pytest.raises(ValueError, match=r"case\.0_0001\.nii\.gz has 2 channels, and 1 wanted"):
        NNUNetRaw(tmp_path / "raw")[0]


@BOTH
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (sample(channels=1), r"sample 'case\.0' has an image \(1, 2, 3, 4\); with the modalities CT, PET it is \(2, D"),
        (sample(image=torch.zeros(2, 3, 4)), r"sample 'case\.0' has an image \(2, 3, 4\)"),
        (sample(semantic=None), r"sample 'case\.0' needs labels and a spacing, got none"),
        (sample(spacing=None), r"sample 'case\.0' needs labels and a spacing, got none"),
        (sample(semantic=LABELS + 1), r"sample 'case\.0': .*3"),
        (sample("a"), "the sample id 'a' stands twice; rename it"),
        (sample("../b"), r"the sample id '\.\./b' is no file name"),
        (sample(".b"), r"the sample id '\.b' is no file name"),
        (sample(""), "the sample id '' is no file name"),
    ],
)
def test_samples_that_cannot_be_written(tmp_path, layout, wrong, message):
    with pytest.raises(ValueError, match=message):
        export(layout, tmp_path, [sample("a"), wrong])
    assert not (tmp_path / "dataset.json").exists()  # so that half an export is not taken for a whole one
    with pytest.raises(ValueError, match="holds a data set; remove it or choose another folder"):
        export(layout, tmp_path)


def test_void_and_names_that_a_layout_has_no_place_for(tmp_path):
    with pytest.raises(ValueError, match=r"sample 'case\.0': .*255"):
        export("msd", tmp_path, [sample(semantic=torch.full(SIZE, 255))])
    for names in (["liver", "background"], ["background", "ignore"]):
        table = [Category(i, name, False, (0, 0, 0)) for i, name in enumerate(names)]
        with pytest.raises(ValueError, match='nnU-Net wants "background" as class 0 and no class "ignore", got'):
            write_nnunet_raw([], tmp_path / "raw", table, modalities=["CT"], name="Livers")


# --- real files ------------------------------------------------------------------------------------------------------


@needs_files
def test_the_hippocampus_task(tmp_path):
    train, val = MSD(REAL), MSD(REAL, "val")
    assert (len(train), len(val)) == (160, 40)
    assert [c.name for c in val.categories] == ["background", "Anterior", "Posterior"] and val.modalities == ("MRI",)
    first = val[0]
    assert first.spacing == (1, 1, 1) and first.semantic.unique().tolist() == [0, 1, 2]
    path = tmp_path / "prediction.nii.gz"
    write_label_volume(path, labels_to_files(first.semantic, val.file_ids, val.void_id), val.frame(0))
    written, stored = nib.load(path), nib.load(val.cases[0].labels)
    assert np.array_equal(written.get_fdata(), stored.get_fdata()) and np.array_equal(written.affine, stored.affine)


@needs_files
def test_labels_stored_as_floats_are_read():
    paths = [case.labels for split in ("train", "val") for case in MSD(REAL, split).cases]
    floats = [path for path in paths if nib.load(path).get_data_dtype() == np.float32]
    assert len(floats) == 2
    for path in floats:
        assert read_label_volume(path)[0].unique().tolist() == [0, 1, 2]


def test_a_list_that_is_shorter_than_its_number_says_is_refused(tmp_path):
    export("msd", tmp_path)
    edit(tmp_path, numTraining=8)
    with pytest.raises(ValueError, match='"numTraining" is 8, and "training" lists 7 cases'):
        MSD(tmp_path)


def test_headers_tell_of_every_case_on_another_grid_before_a_voxel_is_read(tmp_path):
    export("msd", tmp_path)
    data = MSD(tmp_path)
    data.check_headers()
    for i in (0, 2):
        labels, _ = read_label_volume(data.cases[i].labels)
        write_label_volume(data.cases[i].labels, labels, VoxelFrame.of_spacing(labels.shape, (9, 9, 9)))
    with pytest.raises(ValueError, match=rf"{data.cases[0].labels.name} .* \(and 1 more of {len(data)} cases\)"):
        data.check_headers()
