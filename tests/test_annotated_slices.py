"""Sparse annotation: a few slices keep their labels."""

from dataclasses import replace

import pytest
import torch

from seglib.data.annotated_slices import AnnotatedSlices
from seglib.types import VOID, Sample


class OneVolume:
    """A dataset that gives one volume at every index."""

    categories, file_ids, void_id, size = (), (), 255, None

    def __init__(self, shape=(6, 2, 4)) -> None:
        self.sample = Sample(torch.rand(1, *shape), "v", semantic=torch.ones(shape, dtype=torch.int64))

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        return self.sample

    def source(self, index: int) -> str:
        return f"volume {index}"


def labelled_slices(dataset: AnnotatedSlices, index: int = 0) -> list[int]:
    return (dataset[index].semantic != VOID).flatten(1).all(1).nonzero()[:, 0].tolist()


@pytest.mark.parametrize(("count", "slices"), [(1, [3]), (2, [1, 4]), (3, [1, 3, 5]), (6, list(range(6)))])
def test_evenly_spaced_slices_keep_their_labels_and_the_others_are_void(count, slices):
    dataset = OneVolume()
    sparse = AnnotatedSlices(dataset, count)
    assert labelled_slices(sparse) == slices
    assert int((sparse[0].semantic == VOID).sum()) == (6 - count) * 8
    assert sparse[0].image is dataset.sample.image
    assert not (dataset.sample.semantic == VOID).any()  # the dataset's own labels stay


def test_a_volume_with_fewer_slices_keeps_all_labels():
    assert not (AnnotatedSlices(OneVolume(), 7)[0].semantic == VOID).any()


def test_a_voxel_is_labelled_when_a_slice_of_any_axis_goes_through_it():
    labels = AnnotatedSlices(OneVolume((1, 3, 4)), 1, axes=(1, 2))[0].semantic
    assert labels[0].tolist() == [[VOID, VOID, 1, VOID], [1, 1, 1, 1], [VOID, VOID, 1, VOID]]


def test_random_slices_follow_from_seed_and_index_alone():
    dataset = OneVolume((40, 2, 2))
    chosen = [labelled_slices(AnnotatedSlices(dataset, 5, seed=1), i) for i in range(3)]
    torch.manual_seed(3)
    assert [labelled_slices(AnnotatedSlices(dataset, 5, seed=1), i) for i in range(3)] == chosen
    assert all(len(c) == 5 for c in chosen)
    assert chosen[0] != chosen[1]
    assert labelled_slices(AnnotatedSlices(dataset, 5, seed=2)) != chosen[0]


def test_another_choice_is_another_source():
    choices = [(1, (0,), None), (2, (0,), None), (1, (1,), None), (1, (0,), 0)]
    sources = {AnnotatedSlices(OneVolume(), n, axes=axes, seed=seed).source(0) for n, axes, seed in choices}
    assert len(sources) == len(choices)
    assert AnnotatedSlices(OneVolume(), 1).source(0) != AnnotatedSlices(OneVolume(), 1).source(1)


@pytest.mark.parametrize(
    ("count", "axes", "message"),
    [(0, (0,), "at least 1, got 0"), (1, (), "axes"), (1, (3,), r"got \(3,\)"), (1, (1, 1), "at most once")],
)
def test_wrong_arguments_are_named(count, axes, message):
    with pytest.raises(ValueError, match=message):
        AnnotatedSlices(OneVolume(), count, axes=axes)


def test_a_sample_without_a_label_volume_is_named():
    dataset = OneVolume()
    dataset.sample = replace(dataset.sample, semantic=torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"'v' has labels of shape \(3, 4\)"):
        AnnotatedSlices(dataset, 1)[0]
    dataset.sample = replace(dataset.sample, semantic=None)
    with pytest.raises(ValueError, match="'v' has no semantic map"):
        AnnotatedSlices(dataset, 1)[0]
