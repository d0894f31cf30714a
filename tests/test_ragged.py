"""Images that hold different numbers of things: packed, padded, and back."""

import pytest
import torch

from seglib.ops.ragged import filled_slots, first_rows, pad_lists, take_rows, to_slots

VALID = torch.tensor([[True, False, True], [False, False, False], [True, True, False]])


def test_packed_rows_go_back_to_their_slots():
    image, slot = filled_slots(VALID, training=False)
    assert image.tolist() == [0, 0, 2, 2] and slot.tolist() == [0, 2, 0, 1]
    values = torch.arange(18.0).view(3, 3, 2)
    padded = to_slots(values[image, slot], VALID, image, slot)
    assert torch.equal(padded, values * VALID[..., None])


def test_in_evaluation_under_a_compiler_no_size_depends_on_data():
    def there_and_back(values, valid):
        image, slot = filled_slots(valid, training=False)
        return to_slots(2 * values[image, slot], valid, image, slot), image

    values = torch.arange(18.0).view(3, 3, 2)
    compiled = torch.compile(there_and_back, backend="eager", fullgraph=True)
    for valid in (VALID, ~VALID):
        padded, image = compiled(values, valid)
        assert len(image) == 9 and torch.equal(padded, there_and_back(values, valid)[0])


def test_in_training_a_compiler_leaves_empty_slots_out():
    compiled = torch.compile(lambda valid: filled_slots(valid, training=True)[0], backend="eager")
    assert compiled(VALID).tolist() == [0, 0, 2, 2]


def test_gradients_reach_packed_rows():
    image, slot = filled_slots(VALID, training=False)
    rows = torch.ones(4, requires_grad=True)
    (to_slots(rows, VALID, image, slot) * torch.arange(9.0).view(3, 3)).sum().backward()
    assert rows.grad.tolist() == [0, 2, 6, 7]


def test_half_precision_becomes_float32():
    image, slot = filled_slots(VALID, training=False)
    assert to_slots(torch.ones(4, dtype=torch.bfloat16), VALID, image, slot).dtype == torch.float32


def test_lists_are_padded():
    lists = [torch.tensor([5, 6]), torch.zeros(0, dtype=torch.int64), torch.tensor([7])]
    assert pad_lists(lists, 3, -2).tolist() == [[5, 6, -2], [-2, -2, -2], [7, -2, -2]]
    with pytest.raises(ValueError, match="2 rows do not fit into 1 slots"):
        pad_lists(lists, 1)


def test_rows_are_taken_where_they_are_meant():
    table = torch.tensor([[1.0, 2], [3, 4]])
    row, valid = torch.tensor([[1, -7], [0, 99]]), torch.tensor([[True, False], [True, False]])
    assert take_rows(table, row, valid).tolist() == [[[3, 4], [0, 0]], [[1, 2], [0, 0]]]
    assert take_rows(table[:0], row, ~valid & valid).tolist() == [[[0, 0]] * 2] * 2
    assert first_rows([2, 0, 3]).tolist() == [0, 2, 2]
