"""The largest connected component of some classes."""

import numpy as np
import pytest
import torch

from seglib.postprocess.components import keep_largest


def test_what_lies_apart_from_the_largest_component_becomes_background():
    labels = torch.tensor([[1, 1, 0, 0, 1], [1, 0, 0, 2, 0], [0, 0, 0, 2, 2]])
    assert keep_largest(labels, [1]).tolist() == [[1, 1, 0, 0, 0], [1, 0, 0, 2, 0], [0, 0, 0, 2, 2]]
    assert labels[0, 4] == 1  # the argument is left as it was


def test_classes_are_one_region_when_they_are_named_together():
    labels = torch.tensor([[1, 2, 0, 2, 2, 0, 1]])
    assert keep_largest(labels, [1, 2]).tolist() == [[1, 2, 0, 0, 0, 0, 0]]
    assert keep_largest(keep_largest(labels, [1]), [2]).tolist() == [[1, 0, 0, 2, 2, 0, 0]]


def test_voxels_that_share_a_corner_are_connected():
    labels = torch.zeros(3, 3, 3, dtype=torch.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[2, 2, 2] = 1
    assert torch.equal(keep_largest(labels, [1]), labels)
    labels[1, 1, 1] = 0
    assert keep_largest(labels, [1]).sum() == 1


def test_of_equal_components_the_first_stays():
    assert keep_largest(torch.tensor([[0, 1, 1, 0, 1, 1]]), [1]).tolist() == [[0, 1, 1, 0, 0, 0]]


@pytest.mark.parametrize("labels", [torch.zeros(2, 3, 4, dtype=torch.uint8), torch.zeros(0, 3, 4, dtype=torch.uint8)])
def test_without_the_class_nothing_changes(labels):
    assert torch.equal(keep_largest(labels, [1, 2]), labels)


def test_void_and_other_classes_stay():
    labels = torch.tensor([[255, 1, 0, 1, 1, 3]], dtype=torch.uint8)
    found = keep_largest(labels, [1])
    assert found.tolist() == [[255, 0, 0, 1, 1, 3]] and found.dtype == torch.uint8


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (torch.zeros(2, 2, dtype=torch.uint8), [], "got []"),
        (torch.zeros(2, 2, dtype=torch.uint8), [0, 1], "got [0, 1]"),
        (torch.zeros(2, 2), [1], "whole numbers"),
        (torch.zeros(2, 2, dtype=torch.bool), [1], "whole numbers"),
    ],
)
def test_bad_input_is_refused(labels, classes, message):
    with pytest.raises(ValueError) as refused:
        keep_largest(labels, classes)
    assert message in str(refused.value)


def test_the_result_is_that_of_nnunets_own_tool_where_no_sizes_are_equal():
    tool = pytest.importorskip("acvl_utils.morphology.morphology_helper")
    labels = np.random.default_rng(0).integers(0, 9, (6, 12, 12)) // 7  # a fifth of ones, in clusters
    region = labels == 1
    expected = tool.remove_all_but_largest_component(region)
    sizes = np.bincount(tool.label_with_component_sizes(region)[0].ravel())[1:]
    assert (sizes == sizes.max()).sum() == 1 < len(sizes)
    assert np.array_equal(keep_largest(torch.from_numpy(labels), [1]).numpy() == 1, expected)
