"""Patches: where they lie, what pads them, how they are normalised."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from seglib.data.cases import StoredCases
from seglib.data.collate import collate
from seglib.data.patches import Patches
from seglib.data.volume_transforms import volume_transform
from seglib.ops.intensity import Intensity
from seglib.train.sampling import SeededDataset, StreamBatches
from seglib.types import VOID, Category, Sample

CATEGORIES = tuple(Category(i, n, False, (i, i, i)) for i, n in enumerate(("background", "organ", "lesion")))
NO_CHANGE = dict(rotation=0, scale=(1, 1), noise=0, blur=0, brightness=0, gamma=(1, 1))


class Cases:
    """A dataset of volumes with the given labels, whose image says where each voxel is: its index, plus 1."""

    categories, size, void_id, file_ids = CATEGORIES, None, 255, (0, 1, 2)

    def __init__(self, *labels: Tensor, spacing=(1.0, 1.0, 1.0)) -> None:
        self.labels, self.spacing = labels, spacing

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        labels = self.labels[index]
        image = torch.arange(1.0, labels.numel() + 1).view(1, *labels.shape)
        return Sample(image, f"case {index}", semantic=labels, spacing=self.spacing)

    def source(self, index: int) -> str:
        return str(index)


def background(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def with_voxels(shape: tuple[int, ...], places: dict[tuple[int, ...], int]) -> Tensor:
    labels = background(*shape)
    for place, label in places.items():
        labels[place] = label
    return labels


def start_of(patch: Sample, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Where a patch that lies in a volume of ``shape`` begins, read from its first voxel."""
    return tuple(int(i) for i in torch.unravel_index(patch.image[0, 0, 0, 0].long() - 1, shape))


def test_a_patch_is_a_block_of_its_case_with_its_labels():
    labels = torch.arange(5 * 6 * 7).view(5, 6, 7) % 3
    patches = Patches(StoredCases(Cases(labels, spacing=(3.0, 1.0, 0.5))), (2, 3, 4))
    torch.manual_seed(0)
    starts = set()
    for _ in range(20):
        patch = patches[0]
        z, y, x = start_of(patch, (5, 6, 7))
        block = (slice(z, z + 2), slice(y, y + 3), slice(x, x + 4))
        assert patch.semantic.equal(labels[block])
        assert patch.image[0].equal(Cases(labels)[0].image[0][block])
        assert (patch.image.dtype, patch.semantic.dtype) == (torch.float32, torch.int64)
        assert (patch.id, patch.spacing) == ("case 0", (3.0, 1.0, 0.5))
        starts.add((z, y, x))
    assert len(starts) > 10


def test_without_foreground_draws_all_places_inside_are_equally_likely():
    patches = Patches(StoredCases(Cases(with_voxels((1, 1, 6), {(0, 0, 0): 1}))), (1, 1, 4), foreground=0)
    torch.manual_seed(0)
    counts = Counter(start_of(patches[0], (1, 1, 6))[2] for _ in range(600))
    assert set(counts) == {0, 1, 2}
    # the standard deviation of such a count is sqrt(600 · 1/3 · 2/3) = 11.5
    assert all(abs(n - 200) < 4 * 11.5 for n in counts.values())


@pytest.mark.parametrize(
    ("voxel", "start"),
    [((5, 5, 5), (3, 3, 3)), ((0, 9, 5), (0, 6, 3)), ((9, 1, 8), (6, 0, 6))],
    ids=["inside", "at a border", "near a corner"],
)
def test_a_foreground_patch_is_centred_on_the_voxel_as_far_as_the_borders_allow(voxel, start):
    patches = Patches(StoredCases(Cases(with_voxels((10, 10, 10), {voxel: 2}))), (4, 4, 4), foreground=1)
    patch = patches[0]
    assert start_of(patch, (10, 10, 10)) == start
    assert (patch.semantic == 2).sum() == 1


def test_foreground_patches_pick_the_class_first_so_small_lesions_are_met_as_often_as_large_organs():
    labels = background(1, 1, 100)
    labels[..., :50], labels[..., 90] = 1, 2
    patches = Patches(StoredCases(Cases(labels)), (1, 1, 1), foreground=1)
    torch.manual_seed(0)
    counts = Counter(int(patches[0].semantic) for _ in range(400))
    assert set(counts) == {1, 2}
    assert abs(counts[2] - 200) < 4 * 10  # its standard deviation is sqrt(400 · 1/4) = 10


def test_the_share_of_foreground_patches_is_what_was_asked_for():
    patches = Patches(StoredCases(Cases(with_voxels((1, 1, 1000), {(0, 0, 700): 1}))), (1, 1, 1), foreground=0.25)
    torch.manual_seed(0)
    hits = sum(int(patches[0].semantic) for _ in range(400))
    assert abs(hits - 100) < 4 * 8.7  # its standard deviation is sqrt(400 · 1/4 · 3/4) = 8.7


@pytest.mark.parametrize(("batch", "share"), [(2, 1 / 2), (3, 1 / 3), (5, 2 / 5), (12, 1 / 3)])
def test_nnunets_share_of_foreground_patches_is_met_on_average(batch, share):
    # nnU-Net takes the last of each batch from the foreground: all but round(batch · 0.67)
    assert batch - round(batch * 0.67) == round(batch * share)
    patches = Patches(StoredCases(Cases(with_voxels((1, 1, 1000), {(0, 0, 700): 1}))), (1, 1, 1), foreground=share)
    torch.manual_seed(0)
    hits = torch.tensor([[int(patches[0].semantic) for _ in range(batch)] for _ in range(300)]).sum(1)
    # here each patch is drawn on its own, so the number in a batch is binomial with that mean: of two patches 0, 1 or 2
    deviation = (batch * share * (1 - share)) ** 0.5
    assert abs(hits.float().mean() - batch * share) < 4 * deviation / 300**0.5
    assert abs(hits.float().std() - deviation) < 0.2 * deviation


@pytest.mark.parametrize("label", [0, VOID])
def test_in_a_case_of_background_or_void_alone_patches_lie_anywhere(label):
    patches = Patches(StoredCases(Cases(torch.full((1, 1, 9), label))), (1, 1, 3), foreground=1)
    torch.manual_seed(0)
    assert {start_of(patches[0], (1, 1, 9))[2] for _ in range(100)} == set(range(7))


@pytest.mark.parametrize("foreground", [0, 1])
def test_a_smaller_case_is_padded_on_both_sides_with_zeros_and_void(foreground):
    labels = torch.tensor([[[1, 2, 0]]])
    patch = Patches(StoredCases(Cases(labels)), (2, 1, 6), foreground=foreground)[0]
    # as sliding windows pad: the odd voxel comes last
    assert patch.image[0].tolist() == [[[0, 1, 2, 3, 0, 0]], [[0] * 6]]
    assert patch.semantic.tolist() == [[[255, 1, 2, 0, 255, 255]], [[255] * 6]]


def test_padding_is_zero_after_normalisation_and_the_statistics_are_those_of_the_whole_case():
    intensity = Intensity("zscore")
    labels = background(2, 3, 40)
    patch = Patches(StoredCases(Cases(labels)), (2, 5, 4), intensity=intensity)[0]
    whole = intensity(Cases(labels)[0].image)
    assert (patch.image[:, :, [0, 4]] == 0).all()
    position = (whole[0, 0, 0] - patch.image[0, 0, 1, 0]).abs().argmin()
    assert patch.image[:, :, 1:4].equal(whole[..., position : position + 4])


def test_the_statistics_of_a_case_are_computed_once(monkeypatch):
    seen = []
    real = Intensity.of
    monkeypatch.setattr(Intensity, "of", lambda self, image: (seen.append(image.shape), real(self, image))[1])
    patches = Patches(StoredCases(Cases(background(2, 3, 4), background(3, 3, 3))), (2, 2, 2))
    for index in (0, 1, 0, 1, 1):
        patches[index]
    assert seen == [(1, 2, 3, 4), (1, 3, 3, 3)]


def test_an_epoch_has_per_case_patches_of_each_case():
    patches = Patches(StoredCases(Cases(background(2, 2, 2), background(2, 2, 2))), (1, 1, 1), per_case=3)
    assert Counter(patch.id for patch in patches) == {"case 0": 3, "case 1": 3}
    assert (len(patches), patches.categories, patches.file_ids, patches.void_id) == (6, CATEGORIES, (0, 1, 2), 255)
    with pytest.raises(IndexError, match="no patch 6 among 6"):
        patches[6]


def test_labels_are_counted_in_whole_cases():
    patches = Patches(StoredCases(Cases(with_voxels((2, 2, 2), {(0, 0, 0): 2}), background(1, 1, 1))), (1, 1, 1))
    counts = patches.count_labels("semantic", range(2))
    assert counts.classes == (8, 0, 1)


def test_batches_do_not_depend_on_the_number_of_workers(tmp_path):
    labels = torch.arange(12 * 12 * 12).view(12, 12, 12) % 3
    cases = StoredCases(Cases(labels, background(9, 20, 5)), tmp_path)
    patches = Patches(cases, (4, 6, 8), intensity=Intensity("zscore"), transform=volume_transform(flips=(2,)))

    def batches(workers: int) -> list[Tensor]:
        order = StreamBatches(len(patches), 2, 3, seed=1)
        loader = DataLoader(SeededDataset(patches, 1), batch_sampler=order, num_workers=workers, collate_fn=collate)
        return [torch.cat([b.images, b.targets.semantic[:, None]]) for b in loader]

    alone = batches(0)
    assert all(a.equal(b) for a, b in zip(alone, batches(2), strict=True))
    assert not alone[0].equal(alone[1])


def test_a_rotated_patch_has_void_only_from_outside_its_case():
    zoomed_out = volume_transform(**NO_CHANGE | dict(rotation=30, scale=(0.7, 0.7)), probability=1)
    cases = StoredCases(Cases(with_voxels((40, 40, 40), {(20, 20, 20): 1})))
    torch.manual_seed(0)
    for _ in range(10):
        # 12 voxels about the middle: their corners lie at most 12 / 2 · √3 / 0.7 = 15 voxels from it
        patch = Patches(cases, (12, 12, 12), foreground=1, transform=zoomed_out)[0]
        assert patch.image.shape == (1, 12, 12, 12)
        assert not (patch.semantic == VOID).any()
    whole = Patches(cases, (40, 40, 40), transform=zoomed_out)[0]
    assert (whole.semantic == VOID).any()


def test_any_transform_of_samples_is_applied_to_the_patch():
    patches = Patches(
        StoredCases(Cases(background(3, 3, 3))), (2, 2, 2), transform=lambda s: replace(s, image=-s.image)
    )
    assert (patches[0].image < 0).all()


@pytest.mark.parametrize(
    ("size", "arguments", "message"),
    [
        ((4, 4), {}, r"three positive whole numbers \(d, h, w\), got \(4, 4\)"),
        ((4, 0, 4), {}, r"got \(4, 0, 4\)"),
        ((4, 4.0, 4), {}, r"got \(4, 4.0, 4\)"),
        ((4, 4, 4), {"foreground": 1.5}, r"in \[0, 1\], got 1.5"),
        ((4, 4, 4), {"foreground": float("nan")}, "got nan"),
        ((4, 4, 4), {"per_case": 0}, "at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(size, arguments, message):
    with pytest.raises(ValueError, match=message):
        Patches(StoredCases(Cases(background(4, 4, 4))), size, **arguments)
