"""Volumes on the command line: NIfTI in, NIfTI out."""

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from test_cli import seglib

from seglib.data.msd import MSD
from seglib.data.nifti import VoxelFrame, read_label_volume, read_volume, write_label_volume, write_volume
from seglib.postprocess.volume import label_volume
from seglib.weights import load_model, read_metadata

SHORT = ["--steps", 2, "--batch-size", 2]
SIZES = [(6, 16, 14), (8, 16, 16), (7, 12, 16), (8, 18, 16), (6, 16, 16), (8, 14, 17)]
LABELS = {0: "background", 3: "organ", 7: "lesion"}  # with gaps


def block(size, channels=1, seed=0):
    """A bright block of organ and in it a dark corner of lesion; (C, D, H, W), and labels in file ids."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(size, np.int64)
    labels[1:-1, 3:-3, 3:-3] = 3
    labels[2:4, 4:8, 4:8] = 7
    image = 200.0 * (labels == 3) - 200.0 * (labels == 7) + rng.normal(0, 10, (channels, *size))
    return image.astype(np.float32), labels


def folder(root, *, layout="msd", channels=1, spacing=(2.0, 1.0, 1.0), sizes=SIZES):
    """A data set of blocks in the layout of the Decathlon or of nnU-Net."""
    names = [f"case_{i}" for i in range(len(sizes))]
    for i, (name, size) in enumerate(zip(names, sizes, strict=True)):
        image, labels = block(size, channels, seed=i)
        frame = VoxelFrame.of_spacing(size, spacing)
        if layout == "msd":
            write_volume(root / "imagesTr" / f"{name}.nii.gz", image, frame)
        else:
            for c in range(channels):
                write_volume(root / "imagesTr" / f"{name}_{c:04d}.nii.gz", image[c : c + 1], frame)
        write_label_volume(root / "labelsTr" / f"{name}.nii.gz", labels, frame)
    modality = {str(c): "CT" if channels == 1 else f"T{c + 1}" for c in range(channels)}
    if layout == "msd":
        training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
        content = {"modality": modality, "labels": {str(i): n for i, n in LABELS.items()}, "training": training}
    else:
        content = {"channel_names": modality, "labels": {n: i for i, n in LABELS.items()}}
        content |= {"numTraining": len(names), "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def msd(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("msd"))


def settings(root, out):
    data = ["--data", "msd", "--root", root, "--fold", 1, "--out", out]
    return [*data, "--steps", 25, "--batch-size", 2, "--lr", 0.01]


@pytest.fixture(scope="module")
def trained(msd, tmp_path_factory):
    """A finished run on that folder, and what it printed last."""
    out = tmp_path_factory.mktemp("runs") / "a"
    assert seglib("train", "unet3d_tiny", *settings(msd, out), "--patch", "8x16x16")[0] == 0
    return out


@pytest.fixture(scope="module")
def weights(trained):
    return trained / "weights.safetensors"


def test_training_says_with_the_weights_what_prediction_needs(trained, weights):
    facts = read_metadata(weights)
    assert facts["task"] == "volume" and facts["task_arguments"] == {"window": [8, 16, 16], "overlap": 0.5}
    assert facts["intensity"]["mode"] == "ct" and facts["intensity"]["low"] < -100 < 100 < facts["intensity"]["high"]
    assert (facts["spacing"], facts["modalities"], facts["file_ids"]) == ([2, 1, 1], ["CT"], [0, 3, 7])
    assert facts["arguments"] == {"num_classes": 3, "in_channels": 1}
    result = json.loads((trained / "result.json").read_text())
    assert result["mean_dice"] > 0.8  # blocks of three brightnesses; 0.1 when all is organ
    assert set(result["dice"]) == set(result["hd95"]) == {"organ", "lesion"}
    assert len(list((trained / "cases").glob("*.json"))) == len(SIZES)


def test_evaluation_scores_the_fold_that_training_held_out(msd, trained, weights, capsys):
    code, printed = seglib(
        "eval", "--weights", weights, "--data", "msd", "--root", msd, "--split", "val", "--json", capsys=capsys
    )
    scores, result = json.loads(printed.out), json.loads((trained / "result.json").read_text())
    assert code == 0 and scores["volumes"] == len(MSD(msd, "val", fold=1)) == 1
    assert {k: scores[k] for k in ("mean_dice", "mean_hd95", "dice")} == {
        k: result[k] for k in ("mean_dice", "mean_hd95", "dice")
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--patch", "4x16x16"], "was started with (8x16x16)"),
        (["--patch", "8x16x16", "--loss", "dice"], "loss None → dice"),
    ],
)
def test_a_run_does_not_go_on_with_other_settings(msd, trained, options, message, capsys):
    code, printed = seglib("train", "unet3d_tiny", *settings(msd, trained), *options, "--resume", capsys=capsys)
    assert code == 2 and message in printed.err


@pytest.mark.parametrize("codes", ["LPS", "RAS", "ASR"])
def test_labels_lie_on_the_grid_of_the_image_and_have_the_ids_of_the_data_set(weights, tmp_path, codes, capsys):
    image, truth = block((8, 16, 16), seed=9)  # (1, D, H, W) in LPS
    affine = np.array([[-1, 0.1, 0, 30], [-0.1, -1, 0, -20], [0, 0, 2, 10], [0, 0, 0, 1.0]])
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("LPS"), nibabel.orientations.axcodes2ornt(codes)
    )
    stored = nibabel.Nifti1Image(image[0].transpose(2, 1, 0), affine).as_reoriented(turn)
    nibabel.save(stored, tmp_path / "x.nii.gz")
    code, printed = seglib(
        "predict", tmp_path / "x.nii.gz", "--weights", weights, "--out", tmp_path / "y.nii.gz", "--json", capsys=capsys
    )
    assert code == 0, printed.err
    found = nibabel.load(tmp_path / "y.nii.gz")
    assert found.shape == stored.shape and nibabel.aff2axcodes(found.affine) == tuple(codes)
    np.testing.assert_allclose(found.affine, stored.affine, atol=1e-5)  # float32 in the header
    net = load_model(weights)
    voxels = read_volume(tmp_path / "x.nii.gz")[0]
    labels = label_volume(net, voxels, (8, 16, 16), scaling=net.intensity.of(voxels))
    ids = torch.tensor([0, 3, 7])[labels.long()]
    assert torch.equal(read_label_volume(tmp_path / "y.nii.gz")[0], ids)
    assert (ids.numpy() == truth).mean() > 0.95 and set(np.unique(found.dataobj)) == {0, 3, 7}
    facts = json.loads(printed.out)[0]
    assert facts["size"] == [8, 16, 16] and facts["case"] == "x"
    ml = 2 * (1 + 0.1**2) / 1000  # of a voxel
    assert facts["millilitres"]["organ"] == pytest.approx(float((ids == 3).sum()) * ml, abs=5e-4)  # 3 digits


def test_windows_and_flips_are_asked_for(weights, tmp_path, monkeypatch):
    asked = {}

    def record(model, image, spacing, window, *, overlap, flips, **_):
        asked.update(spacing=spacing, window=window, overlap=overlap, flips=flips)
        return torch.zeros(image.shape[1:], dtype=torch.uint8)

    monkeypatch.setattr("seglib.train.volume_task.label_case", record)
    write_volume(tmp_path / "x.nii", block((8, 16, 16))[0], VoxelFrame.of_spacing((8, 16, 16), (2, 1, 1)))
    command = ["predict", tmp_path / "x.nii", "--weights", weights, "--json"]
    for options, expected in (
        ([], {"window": (8, 16, 16), "overlap": 0.5, "flips": ()}),
        (["--window", "4x8x8", "--overlap", 0.25, "--flip"], {"window": (4, 8, 8), "overlap": 0.25, "flips": (2,)}),
        (["--flip-all"], {"window": (8, 16, 16), "overlap": 0.5, "flips": (0, 1, 2)}),
    ):
        assert seglib(*command, *options)[0] == 0
        assert asked == expected | {"spacing": (2, 1, 1)}


def test_a_bad_case_among_many_is_left_out_and_named(weights, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in "abc":
        write_volume(
            tmp_path / "in" / f"{name}.nii.gz", block((8, 16, 16))[0], VoxelFrame.of_spacing((8, 16, 16), (2, 1, 1))
        )
    whole = (tmp_path / "in" / "b.nii.gz").read_bytes()
    (tmp_path / "in" / "b.nii.gz").write_bytes(whole[: len(whole) // 2])
    code, printed = seglib(
        "predict", tmp_path / "in", "--weights", weights, "--out", tmp_path / "o", "--json", capsys=capsys
    )
    assert code == 2 and "1 of 3 cases left out" in printed.err and "b.nii.gz is cut short" in printed.err
    assert [entry["case"] for entry in json.loads(printed.out)] == ["a", "c"]
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["a.nii.gz", "c.nii.gz"]


def test_a_killed_prediction_leaves_no_half_file(weights, tmp_path, monkeypatch, capsys):
    write_volume(tmp_path / "x.nii", block((8, 16, 16))[0], VoxelFrame.of_spacing((8, 16, 16), (2, 1, 1)))
    written = []

    def killed(self, content, write=gzip.GzipFile.write):
        if len(written) == 3:  # the header and two slices are out
            raise KeyboardInterrupt
        written.append(write(self, content))

    monkeypatch.setattr(gzip.GzipFile, "write", killed)
    code, _ = seglib("predict", tmp_path / "x.nii", "--weights", weights, "--out", tmp_path / "y.nii.gz", capsys=capsys)
    assert code == 130 and len(written) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["x.nii"]


def test_a_case_of_another_spacing_is_warned_of(weights, tmp_path, capsys):
    for name, spacing in (("a", (2.0, 1.0, 1.0)), ("b", (2.0, 1.0, 1.6))):
        write_volume(tmp_path / f"{name}.nii", block((8, 16, 16))[0], VoxelFrame.of_spacing((8, 16, 16), spacing))
    code, printed = seglib("predict", tmp_path, "--weights", weights, "--json", capsys=capsys)
    assert code == 0
    assert "1 of 2 cases has another spacing than training had: b has 2 x 1 x 1.6 mm" in printed.err


def test_cases_of_another_spacing_are_scored_with_a_warning(weights, tmp_path, capsys):
    root = folder(tmp_path, spacing=(4.0, 1.0, 1.0))
    code, printed = seglib(
        "eval", "--weights", weights, "--data", "msd", "--root", root, "--split", "val", capsys=capsys
    )
    assert code == 0
    assert "warning: 1 of 1 case has another spacing than training had" in printed.err


def test_channels_of_nnunet_train_and_predict_as_one_case(tmp_path, capsys):
    root = folder(tmp_path / "data", layout="nnunet", channels=2)
    out = tmp_path / "run"
    data = ["--data", "nnunet", "--root", root, *SHORT, "--cache", tmp_path / "cache", "--out", out]
    code, printed = seglib("train", "unet3d_tiny", *data, "--loss", "dice", capsys=capsys)
    assert code == 0 and " patches/s" in printed.err, printed.err
    assert not (out / "cases").exists() and len(list((tmp_path / "cache").glob("*.json"))) == len(SIZES)
    facts = read_metadata(out / "weights.safetensors")
    assert facts["arguments"]["in_channels"] == 2 and facts["intensity"]["mode"] == "zscore" and facts["loss"] == "dice"
    assert facts["task_arguments"]["window"] == [8, 16, 16]  # the median case, rounded up
    (root / "imagesTr" / "case_4_0001.nii.gz").unlink()
    wanted = ["--weights", out / "weights.safetensors", "--out", tmp_path / "labels"]
    code, printed = seglib("predict", root / "imagesTr", *wanted, capsys=capsys)
    assert code == 2 and "case_4_0000.nii.gz: the model takes 2 channels" in printed.err
    assert "predict ━" in printed.err and " 6/6 " in printed.err and "5 cases → " in printed.out
    assert sorted(p.name for p in (tmp_path / "labels").iterdir()) == [f"case_{i}.nii.gz" for i in (0, 1, 2, 3, 5)]


@pytest.mark.slow
def test_synthetic_volumes_are_the_data_of_a_model_of_volumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("seglib.data.catalog.VOLUMES_LENGTH", {"train": 2, "val": 1, "test": 1})
    out = tmp_path / "run"
    code, printed = seglib("train", "unet3d_tiny", "--steps", 1, "--out", out, "--json", capsys=capsys)
    assert code == 0, printed.err
    assert set(json.loads(printed.out)["dice"]) <= {"organ", "vessel", "lesion"}
    assert read_metadata(out / "weights.safetensors")["data"] == "volumes" and not (out / "cases").exists()
    code, printed = seglib("eval", "--weights", out / "weights.safetensors", "--json", capsys=capsys)
    assert code == 0 and json.loads(printed.out)["volumes"] == 1


def no_foreground(root):
    for name in ("case_0", "case_1"):
        labels, frame = read_label_volume(root / "labelsTr" / f"{name}.nii.gz")
        write_label_volume(root / "labelsTr" / f"{name}.nii.gz", labels * 0, frame)


def test_a_case_without_foreground_and_cases_smaller_than_the_patch_are_fine(tmp_path, capsys):
    root = folder(tmp_path / "data")
    no_foreground(root)
    data = ["--data", "msd", "--root", root, *SHORT, "--patch", "12x24x24", "--out", tmp_path / "run"]
    code, printed = seglib("train", "unet3d_tiny", *data, capsys=capsys)
    assert code == 0, printed.err


def image_of(root, voxels):
    path = root / "imagesTr" / "case_3.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels, nibabel.load(path).affine), path)


def four_axes(root):
    image_of(root, np.zeros((16, 18, 8, 2), np.float32))


def two_axes(root):
    image_of(root, np.zeros((16, 18), np.float32))


def nan_voxels(root):
    voxels = np.asarray(nibabel.load(root / "imagesTr" / "case_3.nii.gz").dataobj).copy()
    voxels[1, 2, 3] = np.nan
    image_of(root, voxels)


def no_spacing(root):
    path = root / "imagesTr" / "case_3.nii.gz"
    stored = bytearray(gzip.decompress(path.read_bytes()))
    stored[280:296] = bytes(16)  # the first row of the affine
    path.write_bytes(gzip.compress(stored))


def cut_short(root):
    path = root / "imagesTr" / "case_3.nii.gz"
    path.write_bytes(path.read_bytes()[:-100])


def other_shape(root):
    write_label_volume(
        root / "labelsTr" / "case_3.nii.gz", np.zeros((8, 18, 15), int), VoxelFrame.of_spacing((8, 18, 15), (2, 1, 1))
    )


def other_affine(root):
    labels, _ = read_label_volume(root / "labelsTr" / "case_3.nii.gz")
    write_label_volume(root / "labelsTr" / "case_3.nii.gz", labels, VoxelFrame.of_spacing(labels.shape, (3, 1, 1)))


def unknown_id(root):
    labels, frame = read_label_volume(root / "labelsTr" / "case_3.nii.gz")
    write_label_volume(root / "labelsTr" / "case_3.nii.gz", labels + 1, frame)


def missing_labels(root):
    (root / "labelsTr" / "case_3.nii.gz").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (four_axes, "imagesTr/case_3.nii.gz has 2 channels"),
        (two_axes, "imagesTr/case_3.nii.gz is a 2D image"),
        (nan_voxels, "imagesTr/case_3.nii.gz has nan at voxel"),
        (no_spacing, "imagesTr/case_3.nii.gz has an affine that gives the spacing (0"),
        (cut_short, "imagesTr/case_3.nii.gz is cut short"),
        (other_shape, "labelsTr/case_3.nii.gz lies on another grid than"),
        (other_affine, "labelsTr/case_3.nii.gz lies on another grid than"),
        (unknown_id, "labelsTr/case_3.nii.gz has the label ids 1, which"),
        (missing_labels, "labelsTr/case_3.nii.gz"),
    ],
    ids=lambda v: v.__name__ if callable(v) else None,
)
def test_a_bad_file_is_named_before_the_first_step(tmp_path, spoil, message, capsys):
    root = folder(tmp_path / "data")
    spoil(root)
    out = tmp_path / "run"
    code, printed = seglib("train", "unet3d_tiny", "--data", "msd", "--root", root, *SHORT, "--out", out, capsys=capsys)
    assert code == 2 and printed.err.splitlines()[-1].startswith("error: ") and message in printed.err
    assert "Traceback" not in printed.err and not (out / "config.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "unet3d_tiny", "--data", "camvid"], "'camvid' has none; choose one of volumes, msd, nnunet"),
        (["train", "unet3d_tiny", "--data", "msd"], "pass --root"),
        (["train", "unet3d_tiny", "--data", "msd", "--root", "{tmp}"], "found no dataset.json"),
        (["train", "unet3d_tiny", "--data", "msd", "--root", "{msd}", "--fold", "5"], "fold is 5; choose one of 0..4"),
        (["train", "unet3d_tiny", "--fold", "1"], "splits of dataset 'volumes' are fixed"),
        (["train", "unet3d_tiny", "--size", "32x32"], "--size has no use: unet3d_tiny is for volumes"),
        (["train", "unet3d_tiny", "--patch", "16x16"], "--patch '16x16' is no DEPTHxHEIGHTxWIDTH"),
        (["train", "fcn_tiny", "--patch", "16"], "--patch has no use: fcn_tiny is for images"),
        (["train", "fcn_tiny", "--cache", "{tmp}"], "--cache has no use: fcn_tiny is for images"),
        (["train", "fcn_tiny", "--fold", "1"], "splits of dataset 'scenes' are fixed"),
        (["train", "fcn_tiny", "--data", "msd"], "fcn_tiny is for images, and 'msd' has volumes"),
        (["eval", "--weights", "{weights}", "--data", "msd", "--root", "{msd}", "--split", "test"], "are not public"),
        (
            ["eval", "--weights", "{weights}", "--out", "{tmp}/scored"],
            "`seglib predict CASE --out` writes the label maps",
        ),
        (
            ["predict", "{x}", "--weights", "nope.safetensors", "--out", "l.nii.gz"],
            "--weights nope.safetensors does not exist",
        ),
        (
            ["predict", "{x}", "--weights", "{weights}", "--json", "--window", "1x1x8"],
            "at least two sides need 8 voxels",
        ),
        (["train", "unet3d_tiny", "--data", "msd", "--root", "{msd}", "--patch", "4"], "at least two sides need 8"),
        (["eval", "--weights", "{weights}", "--data", "scenes"], "'scenes' has none; choose one of volumes"),
        (["eval", "--weights", "{weights}", "--size", "32"], "--size has no use: unet3d_tiny is for volumes"),
        (["predict", "{msd}", "--weights", "{weights}", "--json"], "holds no case; expected files ending in .nii.gz"),
        (["predict", "{x}", "--weights", "{weights}"], "--out labels.nii.gz, or --json"),
        (["predict", "{x}", "--weights", "{weights}", "--out", "o.png"], "o.png is no name of a NIfTI file"),
        (["predict", "{x}", "--weights", "{weights}", "--out", "{x}/y.nii"], "case_1.nii.gz is a file; choose another"),
        (["train", "unet3d_tiny", "--out", "{x}/run"], "case_1.nii.gz is a file; choose another place"),
        (["predict", "{x}", "--weights", "{weights}", "--json", "--window", "8x8"], "--window '8x8' is no DEPTH"),
        (["predict", "{x}", "--weights", "{weights}", "--json", "--overlap", "1"], "--overlap 1 is not in 0..0.9"),
        (["predict", "{x}", "--weights", "{fcn}", "--json", "--overlap", "0.5"], "--overlap has no use"),
        (["predict", "{x}", "--weights", "{fcn}", "--json", "--window", "8"], "--window has no use"),
        *(
            (["predict", "{x}", "--weights", "{weights}", "--json", option, value], f"{option} has no use")
            for option, value in (
                ("--labels", "l.nii.gz"),
                ("--ids", "i.json"),
                ("--score", "0.5"),
                ("--short-side", "0"),
                ("--scales", "1"),
                ("--tile", "64"),
            )  # fmt: skip
        ),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_bad_input_gets_one_line_and_leaves_nothing_behind(
    arguments, message, msd, weights, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    fcn = Path(__file__).resolve().parents[1] / "chapters" / "weights" / "fcn_tiny.safetensors"
    x = msd / "imagesTr" / "case_1.nii.gz"
    arguments = [a.format(tmp=tmp_path, msd=msd, weights=weights, fcn=fcn, x=x) for a in arguments]
    code, printed = seglib(*arguments, capsys=capsys)
    assert code == 2 and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert message in printed.err
    assert list(tmp_path.iterdir()) == []
