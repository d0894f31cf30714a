"""nnU-Net's augmentation: what moves, what stays, and how often. That it is nnU-Net's, tests/parity says."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from seglib.data.cases import StoredCases
from seglib.data.nnunet_transforms import Step, nnunet_transform
from seglib.data.patches import Patches
from seglib.types import VOID, Category, Sample

CUBE, FLAT, SLICE = (12, 12, 12), (3, 12, 12), (1, 12, 12)


def volume(shape=CUBE, channels=2) -> Sample:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, shape, generator=generator)
    return Sample(torch.randn(channels, *shape, generator=generator), "v", semantic=labels, spacing=(1.0, 1.0, 1.0))


def always(transform, *, space=True, intensity=False):
    """The transform with a rotation and a zoom always or never, and with every step of intensities or none."""
    transform._probability = float(space)
    transform.steps = tuple(replace(s, probability=float(intensity)) for s in transform.steps)
    return transform


def test_with_nothing_drawn_nothing_changes():
    same = always(nnunet_transform(CUBE, flips=()), space=False)(volume())
    assert same.image.equal(volume().image)
    assert same.semantic.equal(volume().semantic)


@pytest.mark.parametrize("patch", [CUBE, FLAT, SLICE])
def test_image_and_labels_move_together(patch):
    labels = torch.zeros(patch, dtype=torch.int64)
    labels[:, 2:6, 2:10] = 1
    sample = Sample(labels[None].float(), "v", semantic=labels, spacing=(1.0, 1.0, 1.0))
    move = always(nnunet_transform(patch))
    torch.manual_seed(0)
    for _ in range(10):
        moved = move(sample)
        inside = moved.semantic != VOID
        # interpolated linearly, the image is 1/2 where the labels change
        sure = inside & ((moved.image[0] - 0.5).abs() > 0.3)
        assert ((moved.image[0] > 0.5) == (moved.semantic == 1))[sure].all()
        assert (moved.semantic[sure] == 1).any() and (moved.semantic[sure] == 0).any()


@pytest.mark.parametrize("patch", [FLAT, SLICE])
def test_flat_patches_are_rotated_and_scaled_in_their_plane_alone(patch):
    transform = always(nnunet_transform(patch))
    torch.manual_seed(0)
    matrices = torch.stack([transform.draw((5.0, 1.0, 1.0)) for _ in range(100)])
    in_plane = torch.eye(3, dtype=torch.float64)
    assert (matrices[:, 0] == in_plane[0]).all() and (matrices[:, :, 0] == in_plane[0]).all()
    assert matrices[:, 1, 1].min() < -0.9  # turned by more than a right angle


def test_long_slices_are_rotated_by_15_degrees_at_most_and_volumes_by_30():
    torch.manual_seed(0)
    for patch, degrees in (((1, 20, 31), 15), ((20, 31), 15), ((1, 20, 30), 180), ((20, 20, 20), 30)):
        transform = always(nnunet_transform(patch))
        transform._scale = (1, 1)
        sines = torch.stack([transform.draw(None) for _ in range(300)])[:, 1, 2]
        limit = np.sin(np.radians(min(degrees, 90)))
        assert 0.9 * limit < sines.abs().max() <= limit + 1e-9


def test_rotations_are_those_of_the_body_in_millimetres():
    transform = always(nnunet_transform((16, 24, 24)))
    transform._scale = (1, 1)
    mm = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
    rotation = transform.draw(tuple(mm.tolist())) * mm[:, None] / mm  # from voxels to millimetres
    assert (rotation @ rotation.T - torch.eye(3)).abs().max() < 1e-12
    assert (rotation - torch.eye(3)).abs().max() > 0.01


def test_a_patch_shows_0_7_to_1_4_times_its_extent():
    transform = always(nnunet_transform(CUBE))
    torch.manual_seed(0)
    extents = torch.stack([transform.draw((3.0, 1.0, 1.0)) for _ in range(300)]).det() ** (1 / 3)
    assert 0.7 <= extents.min() < 0.72 and 1.38 < extents.max() <= 1.4 + 1e-9
    assert abs(extents.mean() - 1.05) < 4 * 0.012  # uniform: its standard deviation is 0.7 / sqrt(12 · 300)


def test_rotation_and_scaling_happen_in_a_fifth_of_the_patches_each():
    transform = nnunet_transform(CUBE)
    torch.manual_seed(0)
    matrices = [transform.draw(None) for _ in range(600)]
    assert abs(sum(m is None for m in matrices) - 600 * 0.64) < 4 * 11.8  # sqrt(600 · 0.64 · 0.36)
    scaled = sum(m is not None and abs(m.det() - 1) > 1e-9 for m in matrices)
    assert abs(scaled - 600 * 0.2) < 4 * 9.8  # sqrt(600 · 0.2 · 0.8)


def test_a_step_happens_as_often_as_it_says_and_in_each_channel_on_its_own():
    step = Step("one more", lambda channel: channel + 1, probability=0.4, per_channel=0.5)
    torch.manual_seed(0)
    changed = torch.stack([step(torch.zeros(2, 1, 1, 1)).flatten() for _ in range(1000)]).long()
    counts = torch.bincount(changed[:, 0] + 2 * changed[:, 1], minlength=4)
    # neither: 0.6 + 0.4 / 4; each of the others 0.4 / 4, with a standard deviation of sqrt(1000 · 0.1 · 0.9) = 9.5
    assert (counts - torch.tensor([700, 100, 100, 100])).abs().max() < 4 * 14.5


def test_noise_has_one_strength_for_all_channels_and_other_values_in_each():
    sample = replace(volume(), image=torch.zeros(2, *CUBE))
    noise = nnunet_transform(CUBE).steps[0].change
    torch.manual_seed(0)
    images = torch.stack([noise(sample.image) for _ in range(20)])  # (20, 2, 12, 12, 12)
    strength = images.flatten(2).std(2)
    # an estimate from 1728 voxels is off by 1 / sqrt(2 · 1728) = 1.7 %, the ratio of two by 2.4 %
    assert ((strength[:, 0] / strength[:, 1]) - 1).abs().max() < 4 * 0.024
    assert strength.max() < 0.1 * 1.07
    assert not images[:, 0].equal(images[:, 1])


def test_gamma_keeps_mean_and_standard_deviation_and_contrast_keeps_the_range():
    torch.manual_seed(0)
    steps = {step.name: step.change for step in nnunet_transform(CUBE).steps}
    channel = volume(channels=1).image
    for name in ("gamma", "inverse gamma"):
        changed = steps[name](channel)
        assert abs(changed.mean() - channel.mean()) < 1e-5 and abs(changed.std() - channel.std()) < 1e-5  # float32
        assert not torch.allclose(changed, channel, atol=0.01)
    for _ in range(5):
        changed = steps["contrast"](channel)
        assert channel.min() <= changed.min() and changed.max() <= channel.max()


def test_intensity_steps_leave_labels_and_the_input_alone():
    sample = volume()
    before = sample.image.clone()
    changed = always(nnunet_transform(CUBE, flips=()), space=False, intensity=True)(sample)
    assert not torch.allclose(changed.image, before, atol=0.05)
    assert changed.semantic.equal(sample.semantic) and sample.image.equal(before)


def test_all_axes_are_flipped_of_slices_two_and_with_no_flips_none():
    torch.manual_seed(0)
    for patch, flips, sets in (((3, 4, 5), None, 8), ((1, 4, 5), None, 4), ((3, 4, 5), (2,), 2), ((3, 4, 5), (), 1)):
        transform = always(nnunet_transform(patch, flips=flips), space=False)
        sample = volume(patch)
        seen = {tuple(transform(sample).semantic.flatten().tolist()) for _ in range(60)}
        assert len(seen) == sets


def test_outside_the_body_a_masked_channel_stays_0():
    sample = volume()
    sample.image[:, :4] = 0
    changed = always(nnunet_transform(CUBE, flips=(), masked=(True, False)), space=False, intensity=True)(sample)
    assert (changed.image[0, :4] == 0).all() and (changed.image[1, :4] != 0).all()
    assert (changed.image[0, 4:] != 0).all()
    with pytest.raises(ValueError, match="of 3 channels, the image has 2"):
        nnunet_transform(CUBE, masked=(True, False, False))(sample)


def test_void_stays_void_and_comes_in_from_outside_alone():
    labels = torch.zeros(CUBE, dtype=torch.int64)
    labels[4:8, 4:8, 4:8] = VOID
    sample = Sample(torch.ones(1, *CUBE), "v", semantic=labels, spacing=(1.0, 1.0, 1.0))
    transform = always(nnunet_transform(CUBE))
    torch.manual_seed(0)
    for _ in range(5):
        moved = transform(sample)
        assert (moved.semantic[5:7, 5:7, 5:7] == VOID).all()
        assert set(moved.semantic.unique().tolist()) == {0, VOID}


def test_patches_read_as_much_around_as_a_rotation_needs():
    class Cases:
        categories, size, void_id, file_ids = (
            tuple(Category(i, n, False, (i, i, i)) for i, n in enumerate(("background", "organ"))), None, 255, (0, 1)
        )  # fmt: skip

        def __len__(self):
            return 1

        def __getitem__(self, index):
            labels = torch.zeros(40, 40, 40, dtype=torch.int64)
            labels[20, 20, 20] = 1
            return Sample(torch.ones(1, 40, 40, 40), "case", semantic=labels, spacing=(1.0, 1.0, 1.0))

    patches = Patches(StoredCases(Cases()), CUBE, foreground=1, transform=always(nnunet_transform(CUBE)))
    torch.manual_seed(0)
    for _ in range(10):
        # corners lie at most 12 / 2 · √3 · 1.4 = 15 voxels from the middle
        assert not (patches[0].semantic == VOID).any()


def test_the_seed_of_torch_alone_decides():
    transform, sample = always(nnunet_transform(CUBE), intensity=True), volume()

    def drawn(transform, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.stack([transform(sample).image for _ in range(3)])

    first = drawn(transform, 0)
    np.random.seed(5)  # noqa: NPY002 (MONAI would use it)
    assert drawn(transform, 0).equal(first) and not drawn(transform, 1).equal(first)
    assert drawn(pickle.loads(pickle.dumps(transform)), 0).equal(first)  # as a worker process that is spawned gets it


def test_an_image_of_one_value_stays_finite_and_results_are_plain_tensors():
    sample = Sample(torch.full((1, 1, 5, 1), 3).short(), "v", semantic=torch.zeros(1, 5, 1).byte())
    torch.manual_seed(0)
    changed = always(nnunet_transform((5, 1)), intensity=True)(sample)
    assert changed.image.isfinite().all()
    assert type(changed.image) is type(changed.semantic) is Tensor
    assert (changed.image.dtype, changed.semantic.dtype) == (torch.float32, torch.int64)
    assert changed.image.is_contiguous() and changed.image.shape == (1, 1, 5, 1)


@pytest.mark.parametrize(
    ("patch", "arguments", "message"),
    [
        ((4,), {}, r"two or three positive whole numbers, .* got \(4,\)"),
        ((4, 0, 4), {}, r"got \(4, 0, 4\)"),
        ((4, 4.0), {}, r"got \(4, 4.0\)"),
        ((4, 4, 4), {"flips": (3,)}, r"flips are some of the axes \(0, 1, 2\), each once; got \(3,\)"),
        ((4, 4, 4), {"flips": (1, 1)}, "each once"),
        ((4, 4), {"flips": (0,)}, r"of a patch \(4, 4\), flips are some of the axes \(1, 2\)"),
    ],
)
def test_wrong_arguments_are_named(patch, arguments, message):
    with pytest.raises(ValueError, match=message):
        nnunet_transform(patch, **arguments)
