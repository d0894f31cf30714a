"""The exercise on three clicks, judged with a network whose answers are known."""

import pytest
import torch

from seglib.book.checks import examine
from seglib.book.exercises import ch19_scores
from seglib.postprocess.prompt import PromptedMasks


class Answers:
    """A predictor that gives the same masks whatever is asked: three to an ambiguous prompt, else the first."""

    def __init__(self, *masks, iou=(0.5, 0.9, 0.7)):
        self.masks, self.iou, self.asked = torch.stack(masks), torch.tensor([iou]), []

    def predict(self, *, points, labels, several):
        self.asked.append((points.tolist(), labels.tolist(), several))
        m = 3 if several else 1
        return PromptedMasks(self.masks[None, :m], self.iou[:, :m], self.masks[None, :m].float())


def box(left, top, right, bottom):
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


WANTED = box(5, 5, 15, 15)
ON, BESIDE = (10, 10, 1), (20, 10, 0)


@pytest.fixture
def judge(monkeypatch):
    def judged(clicks, *masks):
        predictor = Answers(*masks)
        monkeypatch.setattr(ch19_scores, "_seen", lambda: (predictor, WANTED))
        return examine("three", clicks, {"three": ch19_scores.THREE}), predictor

    return judged


def test_a_lone_click_gets_the_best_of_three_masks_by_predicted_iou(judge):
    outcome, predictor = judge([ON], box(0, 0, 1, 1), WANTED, box(0, 0, 1, 1))
    assert outcome.passed
    assert predictor.asked == [([[10.0, 10.0]], [1.0], True)]


def test_several_clicks_get_the_single_mask_at_once(judge):
    outcome, predictor = judge([ON, BESIDE], WANTED, box(0, 0, 1, 1), box(0, 0, 1, 1))
    assert outcome.passed
    assert predictor.asked == [([[10.0, 10.0], [20.0, 10.0]], [1.0, 0.0], False)]


def test_the_goal_is_reached_where_the_iou_equals_it(judge):
    share = int(100 * ch19_scores.GOAL)  # of the 100 pixels of the thing
    part = torch.zeros_like(WANTED).masked_scatter(WANTED, torch.arange(100) < share)
    less = torch.zeros_like(WANTED).masked_scatter(WANTED, torch.arange(100) < share - 1)
    assert judge([ON, BESIDE], part)[0].passed
    assert not judge([ON, BESIDE], less)[0].passed


def test_the_hint_says_what_most_wrong_pixels_are(judge):
    assert "missed part, with label 1" in judge([ON, BESIDE], box(5, 5, 10, 15))[0].message
    assert "extra part, with label 0" in judge([ON, BESIDE], box(5, 5, 25, 15))[0].message


@pytest.mark.parametrize(
    ("clicks", "said"),
    [
        ([ON, (20, 10, 1)], "Click 2 has the label 1, but lies beside"),
        ([(14.4, 14.4, 0), ON], "Click 1 has the label 0, but lies on"),
        ([(14.6, 10, 1)], "Click 1 has the label 1, but lies beside"),
        ([(29.9, 19.9, 1)], "Click 1 has the label 1, but lies beside"),
        ([(30, 10, 1)], "outside the image"),
        ([(10, -0.1, 1)], "outside the image"),
        ([(float("nan"), 10, 1)], "outside the image"),
        ([(10, 10, 2)], "A label is 1"),
        ([ON, ON, ON, ON], "more than three"),
        ([], "no click"),
        ([("10", 10, 1)], "three numbers"),
        ("10, 10, 1", "Give a list of clicks"),
        (7, "Give a list of clicks"),
    ],
)
def test_clicks_that_fail_are_told_why(judge, clicks, said):
    nothing = torch.zeros_like(WANTED)
    assert said in judge(clicks, nothing, nothing, nothing)[0].message
