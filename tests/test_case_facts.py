"""What training on volumes needs to know of its cases."""

import pytest
import torch

from seglib.data.case_facts import case_facts, default_patch, sampled_unlike
from seglib.data.cases import StoredCases
from seglib.ops.intensity import Intensity
from seglib.types import Category, Sample

CATEGORIES = (Category(0, "background", False, (0, 0, 0)), Category(1, "organ", False, (230, 159, 0)))


class Cases:
    """Cases of given sizes, spacings and foreground values; all else is −1000."""

    categories, size, file_ids, void_id = CATEGORIES, None, (0, 1), None

    def __init__(self, *cases):
        self.cases = cases

    def __len__(self):
        return len(self.cases)

    def __getitem__(self, index):
        size, spacing, values = self.cases[index]
        image, labels = torch.full((1, *size), -1000.0), torch.zeros(size, dtype=torch.int64)
        image.view(-1)[: len(values)] = torch.tensor(values)
        labels.view(-1)[: len(values)] = 1
        return Sample(image, f"case {index}", semantic=labels, spacing=spacing)


THREE = Cases(
    ((4, 8, 8), (5.0, 0.8, 0.7), [0.0, 10.0]),
    ((6, 9, 7), (2.5, 0.8, 0.7), [20.0]),
    ((5, 30, 40), (3.0, 1.0, 0.9), []),
)


def test_size_and_spacing_are_medians_axis_by_axis():
    facts = case_facts(StoredCases(THREE), ("MRI",))
    assert facts.size == (5, 9, 8)
    assert facts.spacing == (3.0, 0.8, 0.7)


def test_ct_is_scaled_by_its_foreground_and_everything_else_case_by_case():
    ct = case_facts(StoredCases(THREE), ("ct",)).intensity
    assert ct.mode == "ct" and ct.mean == 10 and ct.low > -1000  # of 0, 10 and 20; the third case has no foreground
    for modalities in (("MRI",), ("CT", "PET")):
        assert case_facts(StoredCases(THREE), modalities).intensity == Intensity("zscore")


def test_ct_without_any_foreground_is_refused():
    with pytest.raises(ValueError, match="no training case has a foreground voxel"):
        case_facts(StoredCases(Cases(((4, 8, 8), None, []))), ("CT",))


def test_a_patch_is_the_median_case_or_what_of_it_fits():
    assert default_patch((35, 50, 36)) == (40, 56, 40)
    assert default_patch((8, 16, 16)) == (8, 16, 16)
    assert default_patch((40, 512, 512)) == (40, 144, 152)  # 875,520 of at most 884,736 voxels
    assert default_patch((300, 300, 300)) == (96, 96, 96)


@pytest.mark.parametrize(
    ("spacing", "unlike"),
    [
        ((3.0, 0.8, 0.7), False),
        ((4.5, 0.8, 0.7), False),
        ((4.6, 0.8, 0.7), True),
        ((3.0, 0.5, 0.7), True),
        (None, False),
    ],
)
def test_a_spacing_is_unlike_when_an_axis_differs_by_more_than_half(spacing, unlike):
    assert sampled_unlike(spacing, (3.0, 0.8, 0.7)) is unlike
