"""The augmentation equals nnU-Net's: the list, the ranges that are drawn, and each step at the same values."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nnunet_reference import nnunet
from scipy.stats import ks_2samp

from seglib.data import nnunet_transforms
from seglib.data.nnunet_transforms import nnunet_transform
from seglib.planning.plan import Configuration

pytestmark = pytest.mark.slow  # the import of nnU-Net's trainer

DRAWS = 400
LARGEST_GAP = 2.2 * math.sqrt(2 / DRAWS)
"""Of the distribution functions of two samples of DRAWS values each: farther apart with a chance of 1e-4."""

STEPS = {
    "noise": "GaussianNoiseTransform",
    "blur": "GaussianBlurTransform",
    "brightness": "MultiplicativeBrightnessTransform",
    "contrast": "ContrastTransform",
    "low resolution": "SimulateLowResolutionTransform",
    "inverse gamma": "GammaTransform",
    "gamma": "GammaTransform",
}
"""Our steps in their order, and nnU-Net's."""


@pytest.fixture(scope="module")
def trainer():
    return nnunet("training.nnUNetTrainer.nnUNetTrainer").nnUNetTrainer


def built_by(trainer, flat=False):
    """All that nnU-Net does to a patch, and of that its steps that change intensities."""
    angles = (-math.radians(30), math.radians(30))
    everything = trainer.get_training_transforms((16, 16, 16), angles, None, (0, 1, 2), flat).transforms
    return everything, [t for t in everything if hasattr(t, "apply_probability")]


def both(trainer, name, flat=False, **settings):
    """Our change of one channel, and nnU-Net's, with other settings than the usual ones where they are given."""
    at = list(STEPS).index(name)
    other = built_by(trainer, flat)[1][at].transform
    for setting, value in ({"p_per_channel": 1, "benchmark": False} | settings).items():
        setattr(other, setting, value)
    mine = nnunet_transform((4, 16, 16) if flat else (16, 16, 16)).steps[at]
    return lambda: mine.change(image()), lambda: other(image=image())["image"]


def image():
    return torch.randn(1, 8, 9, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "patch", [(24, 24, 24), (40, 121, 100), (40, 120, 120), (64, 16, 128), (20, 320, 256), (512, 512), (512, 300)]
)
def test_angles_flat_patches_and_flips_are_the_trainers(trainer, patch):
    plan = SimpleNamespace(patch_size=patch)
    itself = SimpleNamespace(configuration_manager=plan, print_to_log_file=lambda *text: None)
    angles, flat, _, axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(itself)
    transform = nnunet_transform(patch)
    assert transform._rotation == pytest.approx(angles[1])
    assert transform._in_plane == (flat or len(patch) == 2)
    assert transform._flips == tuple(axis + 3 - len(patch) for axis in axes)


def test_steps_and_how_often_they_happen_are_the_trainers(trainer):
    everything, expected = built_by(trainer)
    spatial = next(t for t in everything if hasattr(t, "p_rotation"))
    assert (spatial.p_rotation, spatial.p_scaling, spatial.p_elastic_deform, spatial.random_crop) == (
        0.2,
        0.2,
        0,
        False,
    )
    steps = nnunet_transform((16, 16, 16)).steps
    assert {s.name: type(t.transform).__name__ for s, t in zip(steps, expected, strict=True)} == STEPS
    assert [s.probability for s in steps] == [t.apply_probability for t in expected]
    assert [s.per_channel or 1 for s in steps] == [t.transform.p_per_channel for t in expected]
    assert [s.per_channel is None for s in steps] == [t.transform.synchronize_channels for t in expected]


@pytest.mark.parametrize(
    ("name", "value", "setting"),
    [
        ("brightness", 1.2, "multiplier_range"),
        ("contrast", 0.8, "contrast_range"),
        ("contrast", 1.25, "contrast_range"),
        ("low resolution", 0.5, "scale"),
        ("low resolution", 0.83, "scale"),
        ("inverse gamma", 1.4, "gamma"),
        ("gamma", 0.75, "gamma"),
    ],
)
@pytest.mark.parametrize("flat", [False, True])
def test_at_one_value_each_step_gives_the_same_image(trainer, monkeypatch, name, value, setting, flat):
    for draw in ("_uniform", "_about_1"):
        monkeypatch.setattr(nnunet_transforms, draw, lambda low, high: value)
    mine, other = both(trainer, name, flat, **{setting: value})
    assert (mine() - other()).abs().max() < 1e-5  # float32, sums in another order
    assert (mine() - image()).abs().max() > 0.1


@pytest.mark.parametrize("sigma", [0.5, 0.8, 1.0])
def test_at_one_width_the_blur_is_the_same_up_to_its_tails(trainer, monkeypatch, sigma):
    monkeypatch.setattr(nnunet_transforms, "_uniform", lambda low, high: sigma)
    mine, other = both(trainer, "blur", blur_sigma=sigma)
    # nnU-Net's kernel ends at 2 to 3 standard deviations, SciPy's at 4
    assert (mine() - other()).abs().max() < 0.02
    assert (mine() - image()).abs().max() > 1


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        ("noise", lambda changed: (changed - image()).std()),  # up to 0.1, nnU-Net's "variance"
        ("blur", lambda changed: changed.std()),
        ("brightness", lambda changed: changed[0, 0, 0, 0] / image()[0, 0, 0, 0]),
        ("contrast", lambda changed: changed.std()),
        ("low resolution", lambda changed: changed.std()),
        ("inverse gamma", lambda changed: changed.max()),
        ("gamma", lambda changed: changed.max()),
    ],
    ids=list(STEPS),
)
def test_what_is_drawn_has_the_same_distribution(trainer, name, measure):
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  # what nnU-Net draws from
    mine, other = ([float(measure(change())) for _ in range(DRAWS)] for change in both(trainer, name))
    assert ks_2samp(mine, other).statistic < LARGEST_GAP
    assert np.std(other) > 0


@pytest.mark.parametrize("flat", [False, True])
def test_rotation_and_scaling_have_the_same_distribution(trainer, flat):
    dims = 2 if flat else 3  # nnU-Net moves the slices of flat patches into the channels
    transform = nnunet_transform((4, 16, 16) if flat else (16, 16, 16))
    transform._probability = 1
    other = next(t for t in built_by(trainer, flat)[0] if hasattr(t, "p_rotation"))
    other.p_rotation = other.p_scaling = 1
    other.patch_size = (7,) * dims
    if flat:
        other.rotation = (-math.pi, math.pi)  # what the trainer passes then, tested above
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    mine = torch.stack([transform.draw(None)[3 - dims :, 3 - dims :] for _ in range(DRAWS)]).float()
    # an image whose channels hold the place of each voxel, counted from the middle
    places = torch.stack(torch.meshgrid(*[torch.arange(-3.0, 4)] * dims, indexing="ij"))
    expected = torch.stack([matrix_at_the_middle(other(image=places.clone())["image"]) for _ in range(DRAWS)])
    for measure in (torch.det, lambda matrices: matrices[:, 0, 1]):
        assert ks_2samp(measure(mine), measure(expected)).statistic < LARGEST_GAP


def matrix_at_the_middle(places):
    """The matrix of a resampling, which brought ``places (dims, 7, …)`` there: a column is the slope along an axis."""
    dims = places.ndim - 1
    ahead, behind = (
        [places[(slice(None), *(3 + by * (axis == i) for axis in range(dims)))] for i in range(dims)] for by in (1, -1)
    )
    return (torch.stack(ahead, 1) - torch.stack(behind, 1)) / 2


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 12, 49, 50, 366])
def test_the_plans_share_of_foreground_patches_is_that_of_the_loader(batch):
    loader = nnunet("training.dataloading.data_loader").nnUNetDataLoader
    itself = SimpleNamespace(batch_size=batch, oversample_foreground_percent=0.33)
    chosen = sum(loader._oversample_last_XX_percent(itself, place) for place in range(batch))
    assert Configuration.foreground.fget(SimpleNamespace(batch_size=batch)) == pytest.approx(chosen / batch)
