"""Chapter 2's experiment: forbidding a class changes that class's pixels and nothing else."""

import torch
from torch import nn

from seglib.book.experiments.measuring import erase_classes, erasure_costs
from seglib.types import VOID, Semantic


class Fixed(nn.Module):
    """Says the same scores for every image."""

    def __init__(self, probs):
        super().__init__()
        self.probs = nn.Parameter(probs, requires_grad=False)  # (K, H, W)

    def predict(self, images):
        return [Semantic(self.probs.argmax(0), self.probs) for _ in images]


# Two pixels, three classes: the first pixel ranks 0, 1, 2; the second ranks 2, 0, 1.
SCORES = torch.tensor([[[0.6, 0.3]], [[0.3, 0.1]], [[0.1, 0.6]]])  # (K, 1, 2)


def erased(target):
    targets = torch.tensor([target])[:, None]  # (1, 1, 2)
    return erase_classes(Fixed(SCORES), torch.zeros(1, 3, 1, 2), targets)[:, 0]  # (1 + K, K, K)


def test_the_untouched_answer_comes_first():
    assert erased([0, 2])[0].tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_a_pixel_of_the_forbidden_class_takes_the_class_with_the_second_highest_score():
    without_0, without_1, without_2 = erased([0, 2])[1:]
    assert without_0.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert without_1.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]  # nobody said 1
    assert without_2.tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_void_pixels_are_not_judged():
    assert erased([0, VOID]).sum((1, 2)).tolist() == [1, 1, 1, 1]


def test_scenes_stay_apart_and_batches_do_not_matter():
    targets = torch.tensor([[[0, 2]], [[1, 1]], [[2, 2]]])  # (3, 1, 2)
    images = torch.zeros(3, 3, 1, 2)
    model = Fixed(SCORES)
    one, all_at_once = (erase_classes(model, images, targets, batch_size=b) for b in (1, 3))
    assert one.shape == (4, 3, 3, 3)
    assert torch.equal(one, all_at_once)
    assert torch.equal(one[:, :1], erased([0, 2])[:, None])


def test_costs_are_points_lost_of_accuracy_and_of_miou():
    accuracy, miou = erasure_costs(erased([0, 2]))
    # Both pixels right at first. Without 0 or 2 one of two is wrong; nobody said 1.
    assert torch.allclose(accuracy, torch.tensor([50.0, 0.0, 50.0]))
    # Without 0: IoU 0 for classes 0 and 1, 1 for class 2. Without 2: 1/2 for class 0, 0 for class 2.
    assert torch.allclose(miou, torch.tensor([100 * 2 / 3, 0.0, 75.0]))
