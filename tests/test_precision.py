"""Floats where a device has no float64, as Apple's GPUs: a CPU stands for one, and every tensor made there is seen."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seglib.losses.multibox import mask_loss
from seglib.ops.masks import centres_of_mass, mask_iou
from seglib.ops.nms import batched_nms
from seglib.ops.precision import widest_float
from seglib.postprocess.panoptic import _place_windows
from seglib.postprocess.queries import panoptic_from_queries

MASKS = torch.zeros(3, 8, 8, dtype=torch.bool)
MASKS[0, :4], MASKS[1, 2:6], MASKS[2, :, 3:] = True, True, True
BOXES = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [0, 0, 10, 10]])
SCORES, GROUPS = torch.tensor([0.8, 0.9, 0.3, 0.7]), torch.tensor([0, 0, 1, 1])


def test_only_apples_gpus_have_no_float64():
    assert widest_float(torch.device("mps")) == torch.float32
    assert widest_float(torch.device("cpu")) == widest_float(torch.device("cuda", 0)) == torch.float64


class NoFloat64(TorchDispatchMode):
    """Refuses every operation that makes float64, as MPS does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
                raise TypeError(f"{func} made float64")
        return found


def merged():
    logits = torch.tensor([[4.0, 0, 0], [0, 4, 0], [3, 0, 0]])
    return panoptic_from_queries(logits, torch.where(MASKS, 5.0, -5.0), (8, 8), (8, 8), (8, 8), num_things=1).map


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("ops.nms", lambda: batched_nms(BOXES, SCORES, GROUPS, 0.5)),
        ("ops.masks", lambda: mask_iou(MASKS, MASKS[:2])),
        ("ops.masks", lambda: centres_of_mass(MASKS)[0].float()),
        ("postprocess.panoptic", lambda: _place_windows(MASKS, [0, 1, 2], 0.5)),
        ("postprocess.queries", merged),
        (
            "losses.multibox",
            lambda: mask_loss(MASKS.float(), torch.ones(3, 3), MASKS, torch.tensor([[0.0, 0, 8, 8]] * 3)),
        ),
    ],
    ids=("nms", "iou", "centres", "merge", "queries", "mask loss"),
)
def test_it_works_without_float64_and_gives_the_same(monkeypatch, module, call):
    wanted = call()
    monkeypatch.setattr(f"seglib.{module}.widest_float", lambda device: torch.float32)
    with NoFloat64():
        found = call()
    torch.testing.assert_close(found, wanted)
