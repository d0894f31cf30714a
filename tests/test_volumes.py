"""Synthetic volumes: the same on every machine, labels that agree with the tissues, and confusable neighbours."""

import math
import zlib

import numpy as np
import pytest
import torch
from scipy import ndimage

from seglib.data._noise import Draws, hashed, scene_key
from seglib.data._volume_body import FRONT_TO_BACK, tissue_shares
from seglib.data._volume_scan import _grain, _white, scan
from seglib.data._volume_shapes import Grid, ellipsoid, grow_tree, paint_blob, paint_tube, smooth_field, tilted_axes
from seglib.data.checks import count_labels
from seglib.data.volumes import CATEGORIES, Volumes, make_volume

SIZE, SPACING = (32, 64, 64), (2.5, 1.0, 1.0)
STORED = [
    (0, 0, SIZE, SPACING, ("ct",), 2128080611),
    (1, 3, SIZE, SPACING, ("mr", "mr2"), 3504144578),
    (1 << 40, 10**6, (10, 48, 40), (5, 1.3, 1.6), ("mr2", "ct"), 2106916289),
    (7, 11, (24, 24, 24), (1, 1, 1), ("ct",), 3501301840),
    (2, 5, (20, 20, 9), (1, 1, 3), ("mr",), 1953078787),
]


def checksum(seed, index, size, spacing, modalities):
    """One number for image and labels, independent of the machine's byte order."""
    sample = make_volume(seed, index, size=size, spacing=spacing, modalities=modalities)
    return zlib.crc32(sample.image.numpy().astype("<i4").tobytes() + sample.semantic.numpy().astype("u1").tobytes())


@pytest.fixture(scope="module")
def twelve():
    return [make_volume(0, index) for index in range(12)]


@pytest.fixture(scope="module")
def bodies():
    return [tissue_shares(scene_key(0, index), Grid(SIZE, SPACING)) for index in range(5)]


def test_a_volume_is_the_same_on_every_machine_and_whatever_was_drawn_before():
    assert [checksum(*arguments) for *arguments, _ in reversed(STORED)] == [row[-1] for row in reversed(STORED)]


@pytest.mark.parametrize(("seed", "index", "size", "spacing", "modalities", "_"), STORED)
def test_a_sample_follows_the_conventions_of_volumes(seed, index, size, spacing, modalities, _):
    sample = make_volume(seed, index, size=size, spacing=spacing, modalities=modalities)
    assert sample.image.shape == (len(modalities), *size) and sample.image.dtype == torch.float32
    assert torch.equal(sample.image, sample.image.round())  # so that int16 files hold it exactly
    assert sample.semantic.shape == size and sample.semantic.dtype == torch.int64
    assert sample.semantic.min() >= 0 and sample.semantic.max() < len(CATEGORIES)
    assert sample.spacing == spacing and sample.id == f"volume-{seed}-{index}"


def test_channels_are_modalities_of_one_body():
    both, ct = make_volume(3, 1, modalities=("ct", "mr")), make_volume(3, 1)
    assert torch.equal(both.image[:1], ct.image) and torch.equal(both.semantic, ct.semantic)
    twice = make_volume(3, 1, modalities=("mr", "mr")).image
    # Each channel is a scan of its own: other gain, noise and bias field, the same body.
    assert not torch.equal(twice[0], twice[1])
    assert np.corrcoef(twice.flatten(1).numpy())[0, 1] > 0.85


def test_each_class_has_the_share_that_it_is_meant_to_have(twelve):
    shares = torch.stack(
        [(s.semantic.flatten() == torch.arange(4)[:, None]).float().mean(1) for s in twelve]
    )  # (12, 4)
    assert shares[:, 1].min() > 0.10 and shares[:, 1].max() < 0.25
    assert shares[:, 2].min() > 0.005 and shares[:, 2].max() < 0.02
    assert 0.001 < shares[:, 3].mean() < 0.005 and shares[:, 3].max() < 0.01
    assert 0 < (shares[:, 3] == 0).sum() < 8  # some cases have no lesion, most have one


def test_hounsfield_units_are_those_of_the_tissues(twelve):
    image, labels = torch.cat([s.image[0] for s in twelve]), torch.cat([s.semantic for s in twelve])
    organ, vessel, lesion = (image[labels == k].median() for k in (1, 2, 3))
    assert 90 < organ < 120 and 20 < vessel - organ < 80 and -42 < lesion - organ < -15
    assert -1010 < image[:, 0, 0].median() < -990  # a corner: air
    assert image.min() >= -1024


def test_t1_and_t2_weighting_invert_the_contrast_of_vessels_and_lesions():
    sample = make_volume(0, 1, modalities=("mr", "mr2"))
    mr, mr2 = sample.image / sample.image[:, sample.semantic == 1].mean(1)[:, None, None, None]
    vessel, lesion = sample.semantic == 2, sample.semantic == 3
    assert mr[vessel].mean() > 1.05 and mr2[vessel].mean() < 0.95
    assert mr[lesion].mean() < 0.95 and mr2[lesion].mean() > 1.05


def test_the_tissues_of_a_voxel_fill_it_and_its_label_is_the_class_of_the_largest_share(bodies):
    shares, labels = bodies[0]
    assert set(shares) == {*FRONT_TO_BACK, "air"}
    total = sum(share.astype(np.float64) for share in shares.values())
    np.testing.assert_allclose(total, 1, atol=1e-5)  # float32
    assert min(share.min() for share in shares.values()) >= 0
    within = ndimage.binary_erosion(labels > 0, iterations=2)  # here only organ, vessel and lesion are left
    vessel, lesion = shares["vessel"][within], shares["lesion"][within]
    organ = sum(shares[name][within] for name in ("organ", "speck", "patch", "cyst"))
    np.testing.assert_array_equal(labels[within], 1 + np.argmax([organ, vessel, lesion], axis=0))


def runs(share):
    """Through how many slices each connected piece of a tissue goes."""
    pieces, _ = ndimage.label(share > 0.5)
    return np.array([found[0].stop - found[0].start for found in ndimage.find_objects(pieces)])


def test_a_speck_ends_within_a_slice_or_two_and_vessels_go_on(bodies):
    shares = [tissues for tissues, _ in bodies]
    specks = np.concatenate([runs(s["speck"]) for s in shares])
    vessels = [runs(s["vessel"]).max() for s in shares]
    assert len(specks) > 100 and (specks <= 2).mean() > 0.85  # where two touch, they look like a longer one
    assert min(vessels) >= 8
    bright = [(s["speck"] > 0.5).sum() / (s["vessel"] > 0.5).sum() for s in shares]
    assert min(bright) > 0.3  # enough of them to cost a model that sees one slice


def test_patches_are_one_or_two_slices_thick_and_lesions_more(bodies):
    patches, lesions = (np.concatenate([runs(tissues[name]) for tissues, _ in bodies]) for name in ("patch", "lesion"))
    assert np.median(patches) <= 2 < np.median(lesions)


def test_the_same_organ_is_drawn_at_another_resolution():
    fine = make_volume(4, 2).semantic > 0
    coarse = make_volume(4, 2, size=(16, 32, 32), spacing=(5, 2, 2)).semantic > 0
    mean = torch.nn.functional.avg_pool3d(fine[None, None].float(), 2)[0, 0] >= 0.5
    assert (coarse & mean).sum() / (coarse | mean).sum() > 0.9


def test_splits_and_seeds_never_share_a_volume():
    small = {"size": (8, 16, 16)}
    firsts = [Volumes(1, split=split, seed=seed, **small)[0] for split in ("train", "val", "test") for seed in (0, 1)]
    assert len({first.image.numpy().tobytes() for first in firsts}) == len({first.id for first in firsts}) == 6


def test_the_dataset_reads_the_volumes_of_its_series_and_tells_their_grid():
    dataset = Volumes(3, split="val", seed=2, size=(8, 16, 24), spacing=(3, 1, 1), modalities=("mr", "ct"))
    sample = make_volume(3 * 2 + 1, 2, size=(8, 16, 24), spacing=(3, 1, 1), modalities=("mr", "ct"))
    assert torch.equal(dataset[-1].image, sample.image) and torch.equal(dataset[2].semantic, sample.semantic)
    assert (len(dataset), dataset.size, dataset.spacing) == (3, (8, 16, 24), (3, 1, 1))
    assert dataset.modalities == ("mr", "ct") and dataset.categories == CATEGORIES
    assert dataset.frame(0).spacing == (3, 1, 1) and dataset.frame(0).size == (8, 16, 24)
    sources = {dataset.source(i) for i in range(3)} | {Volumes(3, size=(8, 16, 24)).source(0), Volumes(3).source(0)}
    assert len(sources) == 5
    with pytest.raises(IndexError, match="volume 3 is out of range"):
        dataset[3]


def test_a_transform_changes_what_is_read_and_not_what_is_counted():
    def blank(sample):
        sample.semantic.zero_()
        return sample

    dataset = Volumes(2, size=(8, 16, 16), transform=blank)
    assert dataset[0].semantic.max() == 0
    counts = count_labels(dataset, "semantic")
    assert counts.images_seen == 2 and counts.classes[1] > 0 and sum(counts.classes) == counts.pixels == 2 * 8 * 16 * 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (64, 64)}, r"size must be \(D, H, W\).*got \(64, 64\)"),
        ({"size": (4, 64, 64)}, "at least 8 voxels along each axis"),
        ({"spacing": (2.5, 0, 1)}, "three positive lengths"),
        ({"spacing": (2.5, float("nan"), 1)}, "three positive lengths"),
        ({"spacing": (1.0, 1.0)}, "three positive lengths"),
        ({"modalities": "ct"}, r"a tuple of some of ct, mr, mr2, got 'ct'"),
        ({"modalities": ()}, "a tuple of some of"),
        ({"modalities": ("ct", "pet")}, "pet"),
        ({"seed": -1}, "seed -1"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make_volume(**{"seed": 0, "index": 0} | change)
    with pytest.raises(ValueError, match=message):
        Volumes(2, **change)


def test_a_bad_length_or_split_is_refused():
    with pytest.raises(ValueError, match="length must be at least 0, got -1"):
        Volumes(-1)
    with pytest.raises(ValueError, match="'dev'"):
        Volumes(2, split="dev")


def test_cells_divide_the_long_sides_of_a_voxel_and_their_mean_is_the_voxel():
    grid = Grid((2, 1, 2), (3.0, 1.0, 2.5))
    assert grid.factors == (3, 1, 2) and grid.shape == (6, 1, 4) and grid.pitch == (1.0, 1.0, 1.25)
    cells = np.arange(24, dtype=np.float32).reshape(6, 1, 4)
    np.testing.assert_allclose(grid.voxels(cells), [[[4.5, 6.5]], [[16.5, 18.5]]], rtol=1e-6)  # a third is rounded


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 1.0, 1.0)])
def test_shapes_cover_their_volume_in_cubic_millimetres(spacing):
    grid = Grid((round(40 / spacing[0]), 40, 40), spacing)
    cell = math.prod(grid.pitch)
    blob, tube, whole = (np.zeros(grid.shape, np.float32) for _ in range(3))
    paint_blob(blob, grid, (20.3, 19.8, 20.1), (9, 7, 8))
    # The surface is smoothed by one cell, which adds a few hundredths.
    assert blob.sum() * cell == pytest.approx(4 / 3 * math.pi * 9 * 7 * 8, rel=0.02)
    paint_tube(tube, grid, (10, 12, 14), (28, 26, 22), 3, 3)
    length = math.dist((10, 12, 14), (28, 26, 22))
    assert tube.sum() * cell == pytest.approx(math.pi * 9 * length + 4 / 3 * math.pi * 27, rel=0.05)
    paint_tube(whole, grid, (-50, 12, 14), (-40, 26, 22), 3, 3)
    paint_blob(whole, grid, (20, 20, 90), (5, 5, 5))
    assert whole.max() == 0  # outside of the volume nothing is painted


def test_a_tilted_ellipsoid_is_one_on_its_surface():
    axes = tilted_axes(Draws(5, 0), 0.5)
    np.testing.assert_allclose(np.array(axes) @ np.array(axes).T, np.eye(3), atol=1e-12)
    grid = Grid((41, 41, 41), (1.0, 1.0, 1.0))
    field = ellipsoid(grid, (20.5, 20.5, 20.5), axes, (16, 8, 12))  # the centre of cell 20
    for axis, radius in zip(axes, (16, 8, 12), strict=True):
        place = np.array(axis) * radius + 20
        assert ndimage.map_coordinates(field, place[:, None], order=1)[0] == pytest.approx(1, abs=0.02)


def test_every_branch_starts_on_the_tree_and_ends_at_its_tip():
    draws = Draws(9, 0)
    tips = [(draws(0, 40), draws(0, 40), draws(0, 40)) for _ in range(12)]
    branches = grow_tree(draws, (0.0, 20.0, 20.0), tips, 3.0, 1.0, 5.0)
    places = {(0.0, 20.0, 20.0)}
    for branch, tip in zip(branches, tips, strict=True):
        points = [node.point for node in branch]
        assert points[0] in places and points[-1] == pytest.approx(tip)
        assert max(math.dist(a, b) for a, b in zip(points, points[1:], strict=False)) < 10
        radii = [node.radius for node in branch]
        assert radii == sorted(radii, reverse=True) and radii[-1] >= 1
        places |= set(points)


def test_smooth_noise_is_the_mean_of_the_lattice_half_way():
    field = smooth_field(5, 1, (1, 1, 2), (1.0, 1.0, 2.0))  # at (0.5, 0.5, 0.5) and (0.5, 0.5, 1.5)
    lattice = (hashed(5, 1, 36) >> np.uint32(8)).astype(np.float64).reshape(3, 3, 4) * 2.0**-23 - 1
    np.testing.assert_allclose(field[0, 0], [lattice[:2, :2, :2].mean(), lattice[:2, :2, 1:3].mean()], atol=1e-6)


def test_noise_has_unit_variance_and_grain_within_slices_alone():
    white, grain = _white(3, 1, (20, 50, 50)), _grain(3, 1, (20, 50, 50))
    for noise in (white, grain):
        assert abs(noise.mean()) < 0.03 and noise.std() == pytest.approx(1, abs=0.02)

    def correlation(noise, axis):
        a, b = np.moveaxis(noise, axis, 0)[:-1], np.moveaxis(noise, axis, 0)[1:]
        return np.corrcoef(a.ravel(), b.ravel())[0, 1]

    assert max(abs(correlation(white, axis)) for axis in range(3)) < 0.02
    # Weights 1, 1.5, 1: neighbours share 2 · 1.5 of 1 + 1.5² + 1.
    assert correlation(grain, 1) == pytest.approx(3 / 4.25, abs=0.02) == correlation(grain, 2)
    assert abs(correlation(grain, 0)) < 0.03


def test_air_in_mr_has_ricean_noise_and_tissue_a_smooth_bias_field():
    def image(tissue, modality):
        shares = {name: np.zeros(SIZE, np.float32) for name in (*FRONT_TO_BACK, "air")}
        shares[tissue] += 1
        return scan(11, 0, modality, shares)

    air, fat = image("air", "mr"), image("fat", "mr")
    # Rayleigh's distribution has 1.91; the sum of four bytes has shorter tails than a normal number, hence 2.00.
    # Noise that is only made positive has 1.32.
    assert air.mean() / air.std() == pytest.approx(math.sqrt(math.pi / (4 - math.pi)), rel=0.06)
    blocks = fat.reshape(8, 4, 8, 8, 8, 8).mean((1, 3, 5))
    assert blocks.max() / blocks.min() > 1.3
    assert abs(np.diff(blocks, axis=2)).max() < 0.35 * (blocks.max() - blocks.min())
    ct = image("fat", "ct").reshape(8, 4, 8, 8, 8, 8).mean((1, 3, 5))
    assert np.ptp(ct) < 20  # CT has texture and noise, no bias field
