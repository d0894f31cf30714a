"""NIfTI files: read in one orientation, written back in their own, and refused where they can't be trusted."""

import gzip
import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from seglib.data import nifti
from seglib.data.nifti import (
    VoxelFrame,
    check_grid,
    read_channels,
    read_frame,
    read_label_volume,
    read_volume,
    write_label_volume,
    write_volume,
)

nib = pytest.importorskip("nibabel")

SHARED = Path(__file__).parents[2] / "shared" / "data" / "fixtures-3d"
needs_files = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the small real volumes are not at {SHARED}")

CODES = ["".join(codes) for p in itertools.permutations(["LR", "PA", "IS"]) for codes in itertools.product(*p)]
VOXELS = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)  # (I, J, K)


def affine(codes, spacing=(1.0, 2.0, 3.0), degrees=0.0):
    """An affine whose axes run to these directions, rotated about the vertical axis, with the origin at (5, -6, 7)."""
    turn = np.eye(4)
    turn[:2, :2] = [
        [np.cos(np.radians(degrees)), -np.sin(np.radians(degrees))],
        [np.sin(np.radians(degrees)), np.cos(np.radians(degrees))],
    ]
    a = np.zeros((4, 4))
    for axis, (code, length) in enumerate(zip(codes, spacing, strict=True)):
        a["LRPAIS".index(code) // 2, axis] = length if code in "RAS" else -length
    a = turn @ a
    a[:, 3] = [5, -6, 7, 1]
    return a


def save(path, voxels=VOXELS, codes="LPS", *, sform=2, qform=1, **changes):
    """Write a file with nibabel; ``changes`` are fields of its header."""
    header = (nib.Nifti2Header if changes.pop("version", 1) == 2 else nib.Nifti1Header)()
    image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    a = affine(codes) if isinstance(codes, str) else codes
    image = image_class(voxels, a, header, dtype=voxels.dtype)
    image.set_sform(a, sform)
    image.set_qform(a, qform)
    path.write_bytes(change(image.to_bytes(), header, **changes))
    return path


def change(content, header, **fields):
    """The bytes of a file with other values in its header."""
    block = np.frombuffer(content[: header.sizeof_hdr], header.template_dtype).copy()
    for name, value in fields.items():
        block[name] = value
    return block.tobytes() + content[header.sizeof_hdr :]


def lps(path):
    """nibabel's voxels in LPS orientation ``(S, P, L)``."""
    return nib.as_closest_canonical(nib.load(path)).get_fdata()[::-1, ::-1].transpose(2, 1, 0)


# --- orientation -----------------------------------------------------------------------------------------------------


def test_there_are_48_orientations():
    assert len(set(CODES)) == 48


@pytest.mark.parametrize(("ending", "degrees"), [(".nii", 7), (".nii.gz", 0)])
def test_files_of_all_orientations_come_back_as_they_were(tmp_path, ending, degrees):
    for codes in CODES:
        source, target = save(tmp_path / "a.nii", codes=affine(codes, degrees=degrees)), tmp_path / f"b{ending}"
        image, frame = read_volume(source)
        assert frame.orientation == codes and np.array_equal(image[0], lps(source))
        write_volume(target, image, frame)
        before, after = nib.load(source), nib.load(target)
        assert np.array_equal(after.get_fdata(), VOXELS)
        for form in ("get_sform", "get_qform"):
            (a, code), (b, same) = getattr(before, form)(coded=True), getattr(after, form)(coded=True)
            assert np.array_equal(a, b) and code == same  # bit by bit: the header's own numbers are written


def test_labels_of_all_orientations_come_back_as_they_were(tmp_path):
    for codes in CODES:
        labels, frame = read_label_volume(save(tmp_path / "a.nii", codes=codes))
        write_label_volume(tmp_path / "b.nii.gz", labels, frame)
        after = nib.load(tmp_path / "b.nii.gz")
        assert np.array_equal(after.get_fdata(), VOXELS) and np.array_equal(after.affine, affine(codes))
        assert after.get_data_dtype() == np.uint8


def test_the_first_voxel_is_low_at_the_front_on_the_right(tmp_path):
    voxels = np.zeros((2, 3, 4), np.int16)
    voxels[1, 2, 0] = 1  # of a file whose axes run to right, anterior, superior
    image, frame = read_volume(save(tmp_path / "a.nii", voxels, "RAS"))
    assert image.shape == (1, 4, 3, 2) and image[0, 0, 0, 0] == 1
    assert frame.shape == (2, 3, 4) and frame.size == (4, 3, 2) and frame.spacing == (3, 2, 1)


def test_the_canonical_affine_says_where_a_voxel_is(tmp_path):
    for codes in CODES:
        path = save(tmp_path / "a.nii", codes=affine(codes, degrees=7))
        image, frame = read_volume(path)
        place = np.argwhere(image[0].numpy() == 17)[0]  # (d, h, w)
        in_file = np.argwhere(VOXELS == 17)[0]
        expected = nib.affines.apply_affine(nib.load(path).affine, in_file)
        # the sums of both have a few roundings of numbers below 20
        assert frame.canonical_affine @ [*place, 1] == pytest.approx([*expected, 1], abs=1e-12)


def test_one_grid_in_two_orientations_is_one_grid(tmp_path):
    first = read_frame(save(tmp_path / "a.nii", codes="LPS"))
    turned = nib.as_closest_canonical(nib.load(tmp_path / "a.nii"))
    nib.save(turned, tmp_path / "b.nii")
    second = read_frame(tmp_path / "b.nii")
    assert second.orientation == "RAS" and first.same_grid_as(second) and second.same_grid_as(first)


@pytest.mark.parametrize(("shift", "same"), [(0.09, True), (0.11, False)])
def test_grids_may_differ_by_a_tenth_of_the_finest_spacing(shift, same):
    frame = VoxelFrame.of_spacing((4, 3, 2), (3.0, 2.0, 1.0))
    moved = frame.affine.copy()
    moved[2, 3] += shift
    other = VoxelFrame(frame.shape, moved, frame.spacing, frame.geometry)
    assert frame.same_grid_as(other) is same
    turned = frame.affine.copy()
    turned[2, 0] = -shift  # the far side, one voxel away, is lifted as much
    assert frame.same_grid_as(VoxelFrame(frame.shape, turned, frame.spacing, frame.geometry)) is same


def test_a_grid_of_another_size_is_another_grid():
    assert not VoxelFrame.of_spacing((4, 3, 2), (1, 1, 1)).same_grid_as(VoxelFrame.of_spacing((4, 3, 3), (1, 1, 1)))


def test_an_error_names_both_files_and_how_their_grids_differ():
    one, other = VoxelFrame.of_spacing((4, 3, 2), (3, 2, 1)), VoxelFrame.of_spacing((4, 3, 3), (3, 1, 1))
    with pytest.raises(
        ValueError, match=r"labels\.nii lies on another grid than image\.nii: 4 x 3 x 3 .* 3 x 1 x 1 mm"
    ):
        check_grid("labels.nii", other, "image.nii", one)
    turned = one.affine.copy()
    turned[:2] = -turned[1::-1]  # rotated by 90 degrees about the vertical axis, and flipped
    turned = VoxelFrame((3, 2, 4), turned[:, [1, 0, 2, 3]], one.spacing, one.geometry)
    check_grid("labels.nii", one, "image.nii", one)
    with pytest.raises(ValueError, match="labels.nii lies on another grid"):
        check_grid("labels.nii", turned, "image.nii", one)


# --- spacing and units -----------------------------------------------------------------------------------------------


def test_the_spacing_of_an_oblique_file_is_the_length_of_its_columns(tmp_path):
    frame = read_frame(save(tmp_path / "a.nii", codes=affine("PIR", degrees=7)))
    assert frame.spacing == pytest.approx((2, 1, 3), rel=1e-6)  # of float32 numbers


@pytest.mark.parametrize(("code", "factor"), [(0, 1), (1, 1000), (2, 1), (3, 0.001)])
def test_spacing_is_in_millimetres_whatever_the_unit(tmp_path, code, factor):
    path = save(tmp_path / "a.nii", xyzt_units=code + 8)  # and seconds
    image, frame = read_volume(path)
    assert frame.spacing == pytest.approx((3 * factor, 2 * factor, factor))
    assert frame.canonical_affine[:3, 3] == pytest.approx([5 * factor, -6 * factor, 7 * factor])
    write_volume(tmp_path / "b.nii", image, frame)
    assert nib.load(tmp_path / "b.nii").header["xyzt_units"] == code + 8
    assert read_frame(tmp_path / "b.nii").same_grid_as(frame)


def test_where_pixdim_differs_from_the_affine_the_affine_counts_with_a_warning(tmp_path):
    path = save(tmp_path / "a.nii", pixdim=[1, 1, 1, 5, 0, 0, 0, 0])
    with pytest.warns(UserWarning, match=r"a\.nii has the spacing \(1, 1, 5\) in pixdim and \(1, 2, 3\) in its affine"):
        frame = read_frame(path)
    assert frame.spacing == (3, 2, 1)


def test_a_file_with_a_qform_alone_keeps_it(tmp_path):
    path = save(tmp_path / "a.nii", codes=affine("PIR", degrees=7), sform=0)
    image, frame = read_volume(path)
    write_volume(tmp_path / "b.nii", image, frame)
    after = nib.load(tmp_path / "b.nii")
    assert np.array_equal(after.affine, nib.load(path).affine)
    assert (after.header["sform_code"], after.header["qform_code"]) == (0, 1)


def test_a_file_that_says_nothing_of_its_place_has_nibabels_frame(tmp_path):
    path = save(tmp_path / "a.nii", sform=0, qform=0)
    image, frame = read_volume(path)
    assert frame.orientation == "LAS" and frame.spacing == (3, 2, 1)
    assert np.array_equal(frame.affine, nib.load(path).affine)
    write_volume(tmp_path / "b.nii", image, frame)
    after = nib.load(tmp_path / "b.nii")
    assert np.array_equal(after.affine, frame.affine)
    assert (after.header["sform_code"], after.header["qform_code"]) == (0, 0)


def test_a_qfac_of_zero_means_one(tmp_path):
    path = save(tmp_path / "a.nii", codes="RAS", sform=0, pixdim=[0, 1, 2, 3, 0, 0, 0, 0])
    assert read_frame(path).orientation == "RAS"


def test_a_frame_for_synthetic_volumes_has_its_first_voxel_at_the_origin(tmp_path):
    frame = VoxelFrame.of_spacing((4, 3, 2), (2.5, 1.0, 0.7))  # float32 would make 0.699999988 of 0.7
    assert (frame.orientation, frame.shape, frame.size, frame.spacing) == ("LPS", (2, 3, 4), (4, 3, 2), (2.5, 1.0, 0.7))
    assert frame.canonical_affine @ [1, 1, 1, 1] == pytest.approx([-0.7, -1, 2.5, 1])
    write_volume(tmp_path / "a.nii", torch.zeros(1, 4, 3, 2), frame)
    assert read_frame(tmp_path / "a.nii").same_grid_as(frame)
    assert nib.load(tmp_path / "a.nii").header.get_xyzt_units()[0] == "mm"


def test_a_frame_goes_through_pickle(tmp_path):
    frame = read_frame(save(tmp_path / "a.nii", codes="PIR"))
    copy = pickle.loads(pickle.dumps(frame))
    assert copy.same_grid_as(frame) and copy.orientation == "PIR"


@pytest.mark.parametrize("spacing", [(0, 1, 1), (1, -0.0, 1), (1, 1, -1), (1, 1, float("nan")), (1, 1)])
def test_a_spacing_of_no_length_is_refused(spacing):
    with pytest.raises(ValueError, match="spacing is three positive numbers of millimetres"):
        VoxelFrame.of_spacing((4, 3, 2), spacing)


@pytest.mark.parametrize("size", [(3, 2), (0, 3, 2)])
def test_a_size_of_no_volume_is_refused(size):
    with pytest.raises(ValueError, match=r"a volume has the size \(D, H, W\), each at least 1, got"):
        VoxelFrame.of_spacing(size, (1, 1, 1))


# --- voxels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
@pytest.mark.parametrize("version", [1, 2])
def test_voxels_of_every_number_type_are_read(tmp_path, dtype, version):
    path = save(tmp_path / "a.nii", VOXELS.astype(dtype), version=version)
    image, _ = read_volume(path)
    assert image.dtype == torch.float32 and np.array_equal(image[0], VOXELS.transpose(2, 1, 0))
    labels, _ = read_label_volume(path)
    assert labels.dtype == torch.int64 and np.array_equal(labels, VOXELS.transpose(2, 1, 0))


def test_files_of_the_other_byte_order_are_read_and_written_back(tmp_path):
    image = nib.Nifti1Image(VOXELS, affine("PIR"), nib.Nifti1Header(endianness=">"))
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    voxels, frame = read_volume(tmp_path / "a.nii")
    assert np.array_equal(voxels[0], lps(tmp_path / "a.nii"))
    write_volume(tmp_path / "b.nii", voxels, frame)
    assert np.array_equal(nib.load(tmp_path / "b.nii").affine, affine("PIR"))


def test_slope_and_intercept_are_applied(tmp_path):
    path = save(tmp_path / "a.nii", scl_slope=0.5, scl_inter=-1024)
    assert np.array_equal(read_volume(path)[0][0], VOXELS.transpose(2, 1, 0) * 0.5 - 1024)
    path = save(tmp_path / "b.nii", scl_slope=2, scl_inter=1)
    assert np.array_equal(read_label_volume(path)[0], VOXELS.transpose(2, 1, 0) * 2 + 1)


def test_large_files_are_converted_in_several_slabs(tmp_path, monkeypatch):
    monkeypatch.setattr(nifti, "_SLAB", 12)  # two of four planes of 2 x 3 voxels
    voxels = np.stack([VOXELS, -VOXELS], -1)
    image, _ = read_volume(save(tmp_path / "a.nii", voxels), channels=2)
    assert np.array_equal(image, voxels.transpose(3, 2, 1, 0))
    voxels = VOXELS.astype(np.float32)
    voxels[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match=r"a\.nii has nan at voxel \(1, 2, 3\) of channel 0"):
        read_volume(save(tmp_path / "a.nii", voxels))
    with pytest.raises(ValueError, match=r"a\.nii has the label nan at voxel \(1, 2, 3\)"):
        read_label_volume(tmp_path / "a.nii")


def test_a_fourth_axis_is_that_of_the_channels(tmp_path):
    voxels = np.stack([VOXELS, VOXELS + 100], -1)
    path = save(tmp_path / "a.nii.gz", voxels)
    image, frame = read_volume(path, channels=2)
    assert np.array_equal(image, voxels.transpose(3, 2, 1, 0)) and frame.shape == (2, 3, 4)
    assert torch.equal(read_volume(path, channels=None)[0], image)
    write_volume(tmp_path / "b.nii", image, frame)
    assert np.array_equal(nib.load(tmp_path / "b.nii").get_fdata(), voxels)


def test_a_fourth_axis_of_one_is_a_single_channel(tmp_path):
    path = save(tmp_path / "a.nii", VOXELS[..., None])
    assert read_volume(path)[0].shape == (1, 4, 3, 2) and read_label_volume(path)[0].shape == (4, 3, 2)
    assert read_volume(save(tmp_path / "b.nii", VOXELS[..., None, None]))[0].shape == (1, 4, 3, 2)


def test_channels_of_several_files_are_joined_in_any_orientation(tmp_path):
    first = save(tmp_path / "a.nii", codes="LPS")
    turned = nib.as_closest_canonical(nib.load(first))
    nib.save(nib.Nifti1Image(turned.get_fdata() + 100, turned.affine), tmp_path / "b.nii")
    image, frame = read_channels([first, tmp_path / "b.nii"])
    assert torch.equal(image[1], image[0] + 100) and frame.orientation == "LPS"
    assert torch.equal(read_channels([first])[0], image[:1])


def test_channels_on_different_grids_are_refused(tmp_path):
    first, second = save(tmp_path / "a.nii"), save(tmp_path / "b.nii", codes=affine("LPS", (1, 2, 4)))
    with pytest.raises(ValueError, match=r"b\.nii lies on another grid than .*a\.nii: .* of 4 x 2 x 1 mm"):
        read_channels([first, second])
    with pytest.raises(ValueError, match="3 files are needed, one for each channel, got 2"):
        read_channels([first, second], 3)
    with pytest.raises(ValueError, match="one or more files are needed"):
        read_channels([])


def test_the_content_tells_whether_a_file_is_compressed(tmp_path):
    content = save(tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii").write_bytes(gzip.compress(content))
    (tmp_path / "c.nii.gz").write_bytes(content)
    for name in ("b.nii", "c.nii.gz"):
        assert np.array_equal(read_volume(tmp_path / name)[0][0], VOXELS.transpose(2, 1, 0))


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("largest", "dtype"), [(255, "uint8"), (256, "int16"), (32768, "int32")])
def test_labels_are_written_in_the_narrowest_common_type(tmp_path, largest, dtype):
    labels = torch.tensor([[[0, largest]]])
    write_label_volume(tmp_path / "a.nii.gz", labels, VoxelFrame.of_spacing((1, 1, 2), (1, 1, 1)))
    assert nib.load(tmp_path / "a.nii.gz").get_data_dtype() == dtype
    assert torch.equal(read_label_volume(tmp_path / "a.nii.gz")[0], labels)


def test_the_same_voxels_give_the_same_bytes(tmp_path):
    frame = VoxelFrame.of_spacing((1, 1, 2), (1, 1, 1))
    for name in ("a.nii.gz", "b.nii.gz"):
        write_label_volume(tmp_path / name, torch.tensor([[[0, 1]]]), frame)
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert content == (tmp_path / "b.nii.gz").read_bytes()
    assert content[4:8] == bytes(4)  # no time


def test_a_write_that_is_interrupted_leaves_the_old_file(tmp_path, monkeypatch):
    frame = VoxelFrame.of_spacing((1, 1, 2), (1, 1, 1))
    write_label_volume(tmp_path / "a.nii.gz", torch.tensor([[[0, 1]]]), frame)
    before = (tmp_path / "a.nii.gz").read_bytes()

    def stop(self, data):
        raise KeyboardInterrupt

    monkeypatch.setattr(gzip.GzipFile, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        write_label_volume(tmp_path / "a.nii.gz", torch.tensor([[[1, 1]]]), frame)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"] and (tmp_path / "a.nii.gz").read_bytes() == before


def test_what_does_not_fit_the_frame_or_a_file_is_not_written(tmp_path):
    frame = VoxelFrame.of_spacing((4, 3, 2), (1, 1, 1))
    path = tmp_path / "a.nii"
    with pytest.raises(ValueError, match=r"a\.nii: the frame has \(4, 3, 2\) voxels, .* got \(2, 3, 4\)"):
        write_label_volume(path, torch.zeros(2, 3, 4, dtype=torch.uint8), frame)
    with pytest.raises(ValueError, match=r"a\.nii: .*an image is \(C, D, H, W\), got \(4, 3, 2\)"):
        write_volume(path, torch.zeros(4, 3, 2), frame)
    with pytest.raises(ValueError, match=r"a\.nii: label ids are whole numbers, got float32; take the argmax"):
        write_label_volume(path, torch.zeros(4, 3, 2), frame)
    with pytest.raises(ValueError, match=r"a\.nii: label ids lie in 0\.\.2147483647, got -1\.\.-1"):
        write_label_volume(path, torch.full((4, 3, 2), -1), frame)
    with pytest.raises(ValueError, match=r"a\.nii: the image has voxels that are NaN or infinite"):
        write_volume(path, torch.full((1, 4, 3, 2), torch.inf), frame)
    with pytest.raises(ValueError, match=r"a\.mha must end in \.nii\.gz or \.nii"):
        write_volume(tmp_path / "a.mha", torch.zeros(1, 4, 3, 2), frame)
    assert not list(tmp_path.iterdir())


# --- files that are refused ------------------------------------------------------------------------------------------

EVERY = [read_frame, read_volume, read_label_volume]


@pytest.mark.parametrize("read", EVERY)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": [2, 2, 3, 1, 1, 1, 1, 1]}, r"is a 2D image of the shape \(2, 3\); a volume has three axes"),
        ({"dim": [3, 2, 0, 4, 1, 1, 1, 1]}, r"has no voxels: its shape is \(2, 0, 4\)"),
        ({"srow_y": [0, 0, 0, 0]}, r"has an affine that gives the spacing \(1, 0, 3\)"),
        ({"srow_y": [0, np.nan, 0, 0]}, r"has an affine that gives the spacing \(1, nan, 3\)"),
        ({"srow_x": [-1, 0, 0, np.inf]}, r"has an affine that gives the spacing \(1, 2, 3\); correct its qform"),
        ({"srow_x": [0, 1, 0, 0]}, "has an affine that gives the spacing"),
        ({"sform_code": 0, "pixdim": [1, 1, 0, 1, 0, 0, 0, 0]}, r"has the spacing \(1, 0, 1\); set pixdim"),
        ({"sform_code": 0, "pixdim": [1, 1, -0.0, 1, 0, 0, 0, 0]}, r"has the spacing \(1, 0, 1\); set pixdim"),
        ({"sform_code": 0, "pixdim": [1, np.nan, 1, 1, 0, 0, 0, 0]}, r"has the spacing \(nan, 1, 1\); set pixdim"),
        (
            {"sform_code": 0, "pixdim": [1, 1, 1, -1, 0, 0, 0, 0]},
            r"has a damaged header \(pixdims.* should be positive\)",
        ),
        ({"sform_code": 0, "qform_code": 0, "pixdim": [1, 1, 0, 1, 0, 0, 0, 0]}, r"has the spacing \(1, 0, 1\)"),
        ({"xyzt_units": 5}, "has the unknown unit 5 of length; set xyzt_units to 2 for millimetres"),
        ({"magic": b"ni1"}, r"is half of a pair of \.hdr and \.img; convert the pair to one \.nii\.gz file"),
        ({"magic": b"abc"}, r"is no NIfTI file; convert it to \.nii\.gz"),
    ],
)
def test_headers_that_make_no_volume_are_refused(tmp_path, read, fields, message):
    path = save(tmp_path / "scan.nii", **fields)
    with pytest.raises(ValueError, match=r"scan\.nii " + message):
        read(path)


def test_an_affine_of_a_tilted_gantry_is_read(tmp_path):
    tilted = affine("LPS")
    tilted[1, 2] = 3 * np.tan(np.radians(30))  # each slice lies further to the front than the one below
    frame = read_frame(save(tmp_path / "a.nii", codes=tilted, qform=0))
    assert frame.orientation == "LPS" and frame.spacing == pytest.approx((3 / np.cos(np.radians(30)), 2, 1))


@pytest.mark.parametrize("read", EVERY)
def test_an_affine_with_parallel_axes_is_refused(tmp_path, read):
    path = save(tmp_path / "scan.nii", srow_x=[1, 1, 0, 0], srow_y=[2, 2, 0, 0], srow_z=[0, 0, 3, 0])
    with pytest.raises(ValueError, match=r"scan\.nii has a singular affine"):
        read(path)


@pytest.mark.parametrize("read", EVERY)
def test_files_that_are_none_are_refused(tmp_path, read):
    path = tmp_path / "scan.nii.gz"
    with pytest.raises(FileNotFoundError, match=r"scan\.nii\.gz does not exist"):
        read(path)
    path.touch()
    with pytest.raises(ValueError, match=r"scan\.nii\.gz is empty; copy it again"):
        read(path)
    for content in (b"\x89PNG\r\n\x1a\n" + bytes(600), b"short", gzip.compress(bytes(1000))):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"scan\.nii\.gz is no NIfTI file"):
            read(path)


@pytest.mark.parametrize("read", [read_volume, read_label_volume])
def test_files_that_are_cut_short_are_refused(tmp_path, read):
    content = save(tmp_path / "whole.nii").read_bytes()
    packed = gzip.compress(content)
    (tmp_path / "a.nii").write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"a\.nii is cut short: its header asks for 400 bytes and it has 399"):
        read(tmp_path / "a.nii")
    for part in (packed[:-1], packed[: len(packed) // 2], packed[:20]):  # 8 bytes at the end are a checksum
        (tmp_path / "a.nii.gz").write_bytes(part)
        with pytest.raises(ValueError, match=r"a\.nii\.gz is cut short or damaged"):
            read(tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").write_bytes(packed[:-8] + bytes(4) + packed[-4:])
    with pytest.raises(ValueError, match=r"a\.nii\.gz is cut short or damaged \(CRC"):
        read(tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content[:-1]))
    with pytest.raises(ValueError, match=r"a\.nii\.gz is cut short: its header asks for 400 bytes"):
        read(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("read", [read_volume, read_label_volume])
@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (VOXELS.astype(np.complex64), "has voxels of the type complex64; convert colours and complex numbers"),
        (np.zeros((2, 3, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "has voxels of the type .*; convert colours"),
        (np.zeros((2, 3, 4, 2, 2), np.int16), r"has 5 axes \(2, 3, 4, 2, 2\); a volume has three"),
    ],
)
def test_voxels_that_are_no_single_numbers_are_refused(tmp_path, read, voxels, message):
    with pytest.raises(ValueError, match=r"scan\.nii " + message):
        read(save(tmp_path / "scan.nii", voxels))


@pytest.mark.parametrize("fields", [{"datatype": 7}, {"vox_offset": np.inf}, {"vox_offset": np.nan}, {"quatern_b": 9}])
def test_headers_of_garbage_are_refused(tmp_path, fields):
    with pytest.raises(ValueError, match=r"scan\.nii has (a damaged header|the unknown data type)"):
        read_volume(save(tmp_path / "scan.nii", sform=0, **fields))


def test_another_number_of_channels_is_refused(tmp_path):
    four = save(tmp_path / "scan.nii", np.zeros((2, 3, 4, 3), np.int16))
    with pytest.raises(ValueError, match=r"scan\.nii has 3 channels, and 1 wanted; use a file with 1 channel"):
        read_volume(four)
    with pytest.raises(ValueError, match=r"scan\.nii has 3 channels, and labels have 1"):
        read_label_volume(four)
    with pytest.raises(ValueError, match=r"scan\.nii has 1 channel, and 2 wanted; use a file with 2 channels"):
        read_volume(save(four), channels=2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_voxels_that_are_not_finite_are_refused(tmp_path, value):
    voxels = VOXELS.astype(np.float64)
    voxels[1, 0, 2] = value
    with pytest.raises(ValueError, match=r"scan\.nii has (nan|-?inf) at voxel \(1, 0, 2\) of channel 0; replace"):
        read_volume(save(tmp_path / "scan.nii", voxels))


@pytest.mark.parametrize("value", [-1, 0.5, np.nan, np.inf, 1e30])
def test_labels_that_are_no_ids_are_refused(tmp_path, value):
    voxels = VOXELS.astype(np.float64)
    voxels[1, 0, 2] = value
    with pytest.raises(
        ValueError, match=r"scan\.nii has the label .* at voxel \(1, 0, 2\); label ids are whole numbers"
    ):
        read_label_volume(save(tmp_path / "scan.nii", voxels))


# --- real files ------------------------------------------------------------------------------------------------------


@needs_files
@pytest.mark.parametrize(
    ("name", "labels", "orientation", "size", "spacing"),
    [
        ("t2/t2", "t2/t2_seg-manual", "PSR", (55, 60, 52), (1, 1, 1)),
        ("t2s/t2s", "t2s/t2s_gmseg_manual", "LAS", (9, 54, 49), (7.5, 0.5, 0.5)),
        ("t1/t1w", "t1/t1w_seg-manual", "RAS", (77, 76, 42), (1, 1, 1)),
    ],
)
def test_real_files_of_three_orientations(tmp_path, name, labels, orientation, size, spacing):
    path, labels = (SHARED / "sct_testing_data" / f"{n}.nii.gz" for n in (name, labels))
    image, frame = read_volume(path)
    assert frame.orientation == orientation and image.shape == (1, *size)
    assert frame.spacing == pytest.approx(spacing, rel=1e-5)  # of the scanner's float32 numbers
    assert np.array_equal(image[0], lps(path).astype(np.float32))
    write_volume(tmp_path / "a.nii.gz", image, frame)
    before, after = nib.load(path), nib.load(tmp_path / "a.nii.gz")
    assert np.array_equal(after.get_fdata(), before.get_fdata()) and np.array_equal(after.affine, before.affine)
    check_grid(labels, read_label_volume(labels)[1], path, frame)
