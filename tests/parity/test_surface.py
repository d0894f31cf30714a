"""Surface scores equal MONAI's (voxels) and DeepMind's (area), and differ where this says so."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from seglib.metrics import VolumeMetrics, assd, hausdorff, surface_dice, surface_distances

monai = pytest.importorskip("monai.metrics")

pytestmark = pytest.mark.filterwarnings("ignore")  # of MONAI about empty masks, of DeepMind about SciPy's names
CASES = range(30)


def blob(g, shape):
    """A smooth region of about half the volume."""
    noise = ndimage.gaussian_filter(torch.rand(shape, generator=g).numpy(), 1.5)
    return torch.from_numpy(noise > np.median(noise))


def noise(g, shape):
    """Voxels on their own and in clumps, some at the border."""
    return torch.rand(shape, generator=g) < torch.rand((), generator=g)


def thin(g, shape):
    """A line or a plane one voxel wide, from border to border."""
    mask = torch.zeros(shape, dtype=torch.bool)
    flat = int(torch.randint(len(shape), (), generator=g))
    mask[tuple(int(torch.randint(n, (), generator=g)) if a == flat else slice(None) for a, n in enumerate(shape))] = (
        True
    )
    return mask


def voxel(g, shape):
    """One voxel."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[tuple(int(torch.randint(n, (), generator=g)) for n in shape)] = True
    return mask


def case(seed):
    """A prediction, a target and a spacing, in 2D or 3D; neither mask is empty."""
    g = torch.Generator().manual_seed(seed)
    dims = 2 + seed % 2
    shape = torch.randint(1, 14, (dims,), generator=g).tolist()
    masks = []
    while len(masks) < 2:
        make = (blob, noise, thin, voxel)[int(torch.randint(4, (), generator=g))]
        mask = make(g, shape)
        masks += [mask] if mask.any() else []
    steps = torch.tensor([0.5, 0.7, 1.0, 2.5, 3.0])
    return *masks, tuple(steps.double()[torch.randint(5, (dims,), generator=g)].tolist())


def reference(name, pred, target, *arguments, **keywords):
    """One of MONAI's functions on two masks."""
    batches = [mask[None, None].float() for mask in (pred, target)]
    return float(getattr(monai, name)(*batches, *arguments, include_background=True, **keywords))


@pytest.mark.parametrize("seed", CASES)
def test_hausdorff_assd_and_surface_dice_are_monais(seed):
    pred, target, spacing = case(seed)
    for q in (50, 95, 100):
        expected = reference("compute_hausdorff_distance", pred, target, percentile=q, spacing=spacing)
        assert hausdorff(pred, target, spacing, percentile=q) == pytest.approx(expected, rel=1e-6)  # MONAI is float32
    expected = reference("compute_average_surface_distance", pred, target, symmetric=True, spacing=spacing)
    assert assd(pred, target, spacing) == pytest.approx(expected, rel=1e-6)
    for tolerance in (0.0, 1.0, 1.4, 2.5):
        expected = reference("compute_surface_dice", pred, target, [tolerance], spacing=spacing)
        assert surface_dice(pred, target, tolerance, spacing) == pytest.approx(expected, rel=1e-6)


@functools.cache
def deepmind():
    return pytest.importorskip("surface_distance")


def assert_deepminds(pred, target, spacing):
    theirs = deepmind().compute_surface_distances(target.numpy(), pred.numpy(), spacing)
    mine = surface_distances(pred, target, spacing, weighting="area")
    sides = {"pred_to_gt": (mine.of_pred, mine.pred_weights), "gt_to_pred": (mine.of_target, mine.target_weights)}
    for direction, (distances, areas) in sides.items():
        order = np.lexsort((areas, distances.round(decimals=9)))
        np.testing.assert_allclose(distances[order], theirs[f"distances_{direction}"], rtol=1e-12, atol=1e-12)
        expected = theirs[f"surfel_areas_{direction.split('_')[0]}"]
        np.testing.assert_allclose(areas.sum(), expected.sum(), rtol=1e-12)
        np.testing.assert_allclose(areas.sort().values, np.sort(expected), rtol=1e-12)
    for q in (50, 80, 95, 100):
        assert mine.hausdorff(q) == pytest.approx(deepmind().compute_robust_hausdorff(theirs, q), rel=1e-12)
    for tolerance in (0.0, 1.1, 1.6):
        expected = deepmind().compute_surface_dice_at_tolerance(theirs, tolerance)
        assert mine.surface_dice(tolerance) == pytest.approx(expected, rel=1e-12)
    to_pred, to_target = deepmind().compute_average_surface_distance(theirs)
    target_area, pred_area = theirs["surfel_areas_gt"].sum(), theirs["surfel_areas_pred"].sum()
    pooled = (to_pred * target_area + to_target * pred_area) / (target_area + pred_area)
    assert mine.assd() == pytest.approx(pooled, rel=1e-12)


@pytest.mark.parametrize("seed", CASES)
def test_scores_by_area_are_deepminds(seed):
    assert_deepminds(*case(seed))


def test_every_way_to_divide_a_neighbourhood_has_deepminds_area():
    corners = torch.arange(256)[:, None] >> torch.arange(8) & 1  # all ways to be inside, (256, 8)
    blocks = torch.nn.functional.pad(corners.view(256, 2, 2, 2), [1] * 6)
    volume = blocks.view(4, 8, 8, 4, 4, 4).permute(0, 3, 1, 4, 2, 5).reshape(16, 32, 32).bool()
    for mask in (volume, ~volume):
        assert_deepminds(mask, mask.roll(1, 2), (3.0, 0.7, 1.1))


@pytest.mark.parametrize("seed", range(1, 20, 2))
def test_surface_dice_by_area_is_monais_of_subvoxels(seed):
    pred, target, spacing = case(seed)
    expected = reference("compute_surface_dice", pred, target, [1.1], spacing=spacing, use_subvoxels=True)
    assert surface_dice(pred, target, 1.1, spacing, weighting="area") == pytest.approx(expected, rel=1e-6)


# Where they differ ---------------------------------------------------------------------------------------------------

EMPTY = torch.zeros(1, 6, 8, dtype=torch.bool)
ONE = torch.zeros(1, 6, 8, dtype=torch.bool).index_fill(2, torch.tensor(2), True)


def test_the_distance_to_an_empty_mask_is_infinite_or_nan_for_monai_and_the_diagonal_here():
    assert reference("compute_hausdorff_distance", EMPTY, ONE) == math.inf
    assert math.isnan(reference("compute_hausdorff_distance", EMPTY, ONE, percentile=95))
    assert hausdorff(EMPTY, ONE) == hausdorff(EMPTY, ONE, percentile=100) == math.hypot(1, 6, 8)
    assert reference("compute_surface_dice", EMPTY, ONE, [1.0]) == surface_dice(EMPTY, ONE, 1.0) == 0
    assert math.isnan(reference("compute_hausdorff_distance", EMPTY, EMPTY))  # as here
    assert math.isnan(hausdorff(EMPTY, EMPTY))


def test_a_missed_object_leaves_monais_mean_and_makes_ours_worse():
    near = ONE.roll(2, 2)
    theirs = monai.HausdorffDistanceMetric(include_background=True, percentile=95, reduction="mean")
    ours = VolumeMetrics(2)
    means = []
    for pred in (near, EMPTY):
        theirs(pred[None, None].float(), ONE[None, None].float())
        ours.update(pred.long(), ONE.long(), 1.0)
        means.append((float(theirs.aggregate()), ours.compute().mean_hd95))
    assert means == [(2, 2), (2, (2 + math.hypot(1, 6, 8)) / 2)]


def test_the_two_surfaces_give_other_numbers():
    pred, target, spacing = case(1)
    by_voxels, by_area = (surface_dice(pred, target, 1.0, spacing, weighting=w) for w in ("voxels", "area"))
    assert abs(by_voxels - by_area) > 0.01
