"""Simulated clicks and boxes: where they fall, and what they are labelled."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seglib.ops.clicks import answer_iou, centre_points, error_clicks, noisy_boxes, random_points


def masks(*rows_of_each):
    """One mask for each argument, whose lines are rows: # inside, . outside."""
    return torch.stack([torch.tensor([[c == "#" for c in row] for row in rows.split()]) for rows in rows_of_each])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


FEW = masks("""
    .#..
    ####
    ...#
""")
PIXELS = [(1, 0), (0, 1), (1, 1), (2, 1), (3, 1), (3, 2)]
"""Those of FEW as (x, y), in reading order."""


def test_every_pixel_of_a_mask_is_as_likely_as_any_other():
    drawn = random_points(FEW.expand(6000, -1, -1), seeded()).long().tolist()
    counts = [drawn.count([x, y]) for x, y in PIXELS]
    assert sum(counts) == 6000  # none falls elsewhere
    assert min(counts) > 1000 - 145 and max(counts) < 1000 + 145  # 5 standard deviations of a binomial, √(6000·1/6·5/6)


def test_a_random_point_is_the_pixel_whose_number_a_uniform_number_says():
    many = torch.cat([FEW, masks("....  #..#  ...."), torch.ones(1, 3, 4, dtype=torch.bool)])
    u = torch.rand(3, 1, generator=seeded(5))[:, 0].tolist()
    everywhere = [(x, y) for y in range(3) for x in range(4)]
    want = [places[int(r * len(places))] for r, places in zip(u, (PIXELS, [(0, 1), (3, 1)], everywhere), strict=True)]
    assert random_points(many, seeded(5)).tolist() == [list(map(float, w)) for w in want]


def test_the_centre_of_a_mask_lies_as_far_from_its_border_as_any_pixel():
    found = centre_points(
        masks(
            """
            .......
            .#####.
            .#####.
            .#####.
            .......
            .......
            """,
            """
            #######
            #.....#
            #.....#
            #.....#
            #######
            #######
            """,
        )
    )
    # of the three middle pixels the first; of a ring every pixel has the distance 1, the image's border is one
    assert found.tolist() == [[2, 2], [0, 0]]


def test_the_border_of_the_image_is_a_border_of_a_mask():
    corner = masks("""
        ####.
        ####.
        ####.
        .....
    """)
    assert centre_points(corner).tolist() == [[1, 1]]  # not (0, 0), from which no pixel outside is nearer than 3


@settings(max_examples=30)
@given(arrays(bool, (2, 5, 6)))
def test_the_centre_is_the_first_of_the_pixels_that_are_farthest_from_the_outside(drawn):
    for mask, point in zip(drawn, centre_points(torch.from_numpy(drawn)).long().tolist(), strict=True):
        padded = np.pad(mask, 1)
        outside = np.argwhere(~padded)
        distances = [
            (((np.array([y, x]) - outside) ** 2).sum(1).min(), -y, -x) for y, x in np.argwhere(padded).tolist()
        ]
        _, y, x = max(distances, default=(0, -1, -1))
        assert point == [-x - 1, -y - 1]


BOXES = torch.tensor([[20.0, 30.0, 60.0, 40.0], [0.0, 0.0, 100.0, 80.0]])


def test_boxes_without_noise_stay():
    assert torch.equal(noisy_boxes(BOXES, (80, 100), share=0.0), BOXES)


def test_the_noise_of_a_box_grows_with_its_side():
    boxes = torch.tensor([[400.0, 500.0, 440.0, 600.0]]).expand(4000, 4)
    moved = noisy_boxes(boxes, (1000, 1000), generator=seeded()) - boxes
    want = torch.tensor([4.0, 10.0, 4.0, 10.0])
    assert torch.allclose(moved.std(0), want, rtol=0.06)  # 5 standard errors, 1 / √(2 · 4000) each
    assert moved.mean(0).abs().lt(want * 0.08).all()
    assert moved[:, 1].abs().max() <= 20


def test_the_noise_of_a_large_box_has_a_limit_and_boxes_stay_in_the_image_with_corners_in_order():
    boxes = torch.tensor([[100.0, 100.0, 900.0, 900.0]]).expand(200, 4)
    moved = noisy_boxes(boxes, (1000, 1000), generator=seeded()) - boxes
    assert moved.abs().max() == 20  # a standard deviation of 80
    wild = noisy_boxes(BOXES.repeat(100, 1), (80, 100), share=2.0, most=1000.0, generator=seeded())
    assert (wild[:, :2] <= wild[:, 2:]).all()
    assert wild.amin(0).tolist() == [0, 0, 0, 0] and wild.amax(0).tolist() == [100, 80, 100, 80]


PREDICTED, WANTED = masks(
    """
    ...##.
    ...##.
    ......
    """,
    """
    ##.#..
    ##.#..
    ##....
    """,
)


def test_missed_pixels_and_extra_ones_are_two_errors_where_they_touch():
    wanted, predicted = masks("###.......#####", "...####........")
    points, labels = error_clicks(predicted[None], wanted[None], where="centre")
    assert points.tolist() == [[10, 0]] and labels.tolist() == [1]  # 5 missed pixels, against 3 missed and 4 extra ones


def test_a_random_click_falls_on_a_wrong_pixel_and_is_labelled_by_what_is_wrong_there():
    points, labels = error_clicks(
        PREDICTED.expand(500, -1, -1), WANTED.expand(500, -1, -1), where="random", generator=seeded()
    )
    found = {(*p, n) for p, n in zip(points.long().tolist(), labels.tolist(), strict=True)}
    missed = {(x, y, 1) for x in (0, 1) for y in (0, 1, 2)}
    assert found == missed | {(4, 0, 0), (4, 1, 0)}


def click(predicted, wanted, **more):
    points, labels = error_clicks(predicted[None], wanted[None], where="centre", **more)
    return *points[0].tolist(), labels.item()


def test_a_centre_click_falls_into_the_middle_of_the_largest_error():
    assert click(PREDICTED, WANTED) == (0, 0, 1)
    assert click(WANTED, PREDICTED) == (0, 0, 0)


def test_missed_pixels_and_extra_ones_are_errors_apart_also_where_they_touch():
    predicted, wanted = masks(". # # # . .", ". . . . # #")  # one row each
    predicted, wanted = predicted.reshape(1, 6), wanted.reshape(1, 6)
    assert click(predicted, wanted) == (1, 0, 0)  # three extra ones: more than two missed


def test_of_equally_large_errors_the_missed_one_counts():
    predicted, wanted = torch.tensor([[1, 0, 0, 0, 1]]).bool(), torch.tensor([[0, 0, 1, 0, 1]]).bool()
    assert click(predicted, wanted) == (2, 0, 1)


def test_pixels_that_touch_at_a_corner_are_one_error():
    (wanted,) = masks("""
        #....
        .#...
        ..#..
        ....#
        ....#
    """)
    assert click(torch.zeros_like(wanted), wanted) == (0, 0, 1)  # three in a diagonal, against two


@pytest.mark.parametrize("where", ["random", "centre"])
def test_without_an_error_the_click_falls_on_the_object_and_without_an_object_there_is_none(where):
    wanted = masks(".... .... ...#", ".... .... ....", ".... .... ...#")
    predicted = masks(".... .... ...#", ".... .... ....", "#... .... ...#")
    points, labels = error_clicks(predicted, wanted, where=where)
    assert points.tolist() == [[3, 2], [0, 0], [0, 0]]
    assert labels.tolist() == [1, -1, 0]


@pytest.mark.parametrize("where", ["random", "centre"])
def test_void_pixels_are_not_clicked(where):
    valid = torch.ones(3, 6, dtype=torch.bool)
    valid[:, :2] = False  # the whole of what is missed
    points, labels = error_clicks(PREDICTED[None], WANTED[None], valid=valid, where=where)
    assert points[0, 0] == 4 and labels.item() == 0
    nothing = torch.zeros_like(valid)
    assert error_clicks(PREDICTED[None], WANTED[None], valid=nothing, where=where)[1].item() == -1


@pytest.mark.parametrize("where", ["random", "centre"])
@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 4, 5)])
def test_no_objects_and_empty_ones_are_normal(where, shape):
    none = torch.zeros(shape, dtype=torch.bool)
    points, labels = error_clicks(none, none, where=where)
    assert torch.equal(points, torch.zeros(shape[0], 2)) and labels.tolist() == [-1] * shape[0]
    assert torch.equal(random_points(none), points) and torch.equal(centre_points(none), points)
    assert noisy_boxes(torch.zeros(shape[0], 4), (4, 5)).shape == (shape[0], 4)
    assert torch.equal(answer_iou(none[:, None], none), torch.zeros(shape[0], 1))


@settings(max_examples=30)
@given(arrays(bool, (3, 4, 5)), arrays(bool, (3, 4, 5)), st.sampled_from(["random", "centre"]))
def test_a_click_puts_a_wrong_pixel_right_wherever_there_is_one(predicted, wanted, where):
    predicted, wanted = torch.from_numpy(predicted), torch.from_numpy(wanted)
    points, labels = error_clicks(predicted, wanted, where=where)
    for p, w, (x, y), label in zip(predicted, wanted, points.long().tolist(), labels.tolist(), strict=True):
        if (p ^ w).any():
            assert p[y, x] != w[y, x] and label == int(w[y, x])
        elif w.any():
            assert w[y, x] and label == 1
        else:
            assert label == -1


def test_the_iou_of_each_answer_with_the_mask_that_was_asked_for():
    answers = torch.stack([torch.stack([PREDICTED, WANTED, ~WANTED]), torch.stack([WANTED] * 3)])  # (2, 3, H, W)
    wanted = torch.stack([WANTED, PREDICTED])
    assert answer_iou(answers, wanted).tolist() == [[pytest.approx(2 / 10), 1, 0], [pytest.approx(2 / 10)] * 3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random_points(torch.ones(1, 2, 2)), r"must be bool \(N, H, W\), got torch.float32 \(1, 2, 2\)"),
        (lambda: centre_points(WANTED), r"got torch.bool \(3, 6\)"),
        (lambda: error_clicks(PREDICTED[None, :2], WANTED[None]), r"bool \(1, 3, 6\) as the wanted ones.*\(1, 2, 6\)"),
        (lambda: error_clicks(PREDICTED[None].float(), WANTED[None]), "got torch.float32"),
        (lambda: error_clicks(PREDICTED[None], WANTED[None], where="middle"), "'random' or 'centre', got 'middle'"),
        (lambda: noisy_boxes(BOXES, (80, 100), share=-0.1), "at least 0, got -0.1 and 20.0"),
        (lambda: answer_iou(WANTED[None], WANTED[None]), r"got torch.bool \(1, 3, 6\)"),
        (lambda: answer_iou(WANTED[None, None].float(), WANTED[None]), r"got torch.float32 \(1, 1, 3, 6\)"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
