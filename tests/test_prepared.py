"""Prepared cases: what a dataset says stays true, and they are stored once."""

import pytest
import torch

from seglib.data.cases import StoredCases
from seglib.data.patches import Patches
from seglib.data.prepared import PreparedCases
from seglib.data.volumes import Volumes
from seglib.ops.intensity import AS_IS, Intensity
from seglib.ops.preparation import Preparation

ZSCORE = Preparation(spacing=(4.0, 2.0, 2.0), intensities=(Intensity("zscore"),))


@pytest.fixture(scope="module")
def volumes():
    return Volumes(2, size=(8, 24, 24))


def test_a_prepared_case_is_that_of_the_preparation_under_its_own_name(volumes):
    dataset = PreparedCases(volumes, ZSCORE)
    assert len(dataset) == 2
    assert (dataset.categories, dataset.file_ids, dataset.void_id, dataset.modalities, dataset.size) == (
        *(volumes.categories, volumes.file_ids, volumes.void_id, volumes.modalities),
        None,
    )
    raw, sample = volumes[1], dataset[1]
    expected = ZSCORE(raw.image, raw.spacing, raw.semantic)
    assert sample.image.equal(expected.image)
    assert sample.semantic.equal(expected.labels)
    assert (sample.id, sample.spacing) == (raw.id, (4.0, 2.0, 2.0))
    assert sample.image.shape[1:] != raw.image.shape[1:]


def test_cases_are_prepared_once_and_another_preparation_makes_other_files(volumes, tmp_path, monkeypatch):
    first = StoredCases(PreparedCases(volumes, ZSCORE), tmp_path)[0]
    assert first.image.dtype == torch.float32
    assert first.image.equal(PreparedCases(volumes, ZSCORE)[0].image)
    monkeypatch.setattr(Preparation, "__call__", lambda *_: pytest.fail("prepared again"))
    assert StoredCases(PreparedCases(volumes, ZSCORE), tmp_path)[0].image.equal(first.image)
    monkeypatch.undo()
    as_is = Preparation(spacing=(None, None, None), intensities=(AS_IS,))
    other = StoredCases(PreparedCases(volumes, as_is), tmp_path)[0]
    assert other.image.dtype == torch.int16  # whole Hounsfield units, as long as nothing changes them
    assert other.image.equal(volumes[0].image.short())


def test_patches_of_prepared_cases_are_cut_from_the_new_grid(volumes):
    patches = Patches(StoredCases(PreparedCases(volumes, ZSCORE)), (4, 8, 8))
    patch = patches[0]
    assert patch.image.shape == (1, 4, 8, 8)
    assert patch.spacing == (4.0, 2.0, 2.0)


def test_another_number_of_channels_is_refused_at_once_and_a_bad_case_by_name(volumes):
    two = Preparation(spacing=(None, None, None), intensities=(AS_IS, AS_IS))
    with pytest.raises(ValueError, match="for 2 channels, the dataset has ct; take the plan of this dataset"):
        PreparedCases(volumes, two)
    colours = Preparation(spacing=(None, None, None), intensities=(Intensity("rgb"),))
    with pytest.raises(ValueError, match=rf"sample '{volumes[0].id}': colours lie in \[0, 255\]"):
        PreparedCases(volumes, colours)[0]
