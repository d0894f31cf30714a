"""Prompts on images: told apart by shape and colour, where they belong, and nothing else changed."""

import numpy as np
import pytest
import torch

from seglib.viz.prompts import BACKGROUND, BOX, ON_OBJECT, draw_prompts

GREY = np.full((60, 80, 3), 128, np.uint8)


def painted(rgb, color):
    """The pixels of exactly this colour, bool (H, W)."""
    return (rgb == color).all(-1)


def test_a_click_is_a_disc_with_a_plus_around_its_pixel():
    drawn = draw_prompts(GREY, [[40, 30]], [1])
    assert painted(drawn, (255, 255, 255))[30, 40]  # the plus
    rows, columns = np.nonzero((drawn != GREY).any(-1))
    assert (rows.min() + rows.max(), columns.min() + columns.max()) == (60, 80)  # centred on (x 40, y 30)
    assert painted(drawn, ON_OBJECT).any() and not painted(drawn, BACKGROUND).any()
    assert (drawn[1:] == drawn[1:][::-1]).all()  # rows 1 to 59 are the same upside down


def test_a_click_on_the_background_has_another_colour_and_another_shape():
    on, off = (draw_prompts(GREY, [[40, 30]], [label]) for label in (1, 0))
    assert painted(off, BACKGROUND).any() and not painted(off, ON_OBJECT).any()
    reach = np.abs(np.argwhere((on != GREY).any(-1)) - [30, 40]).max()
    corner = 30 - reach + 1, 40 - reach + 1
    assert (on[corner] == GREY[corner]).all() and (off[corner] != GREY[corner]).any()  # a disc has no corners
    bar = slice(28, 33)
    assert painted(on, (255, 255, 255))[bar, 40].all() and not painted(off, (255, 255, 255))[bar, 40].all()


def test_a_box_is_outlined_and_its_inside_left_alone():
    drawn = draw_prompts(GREY, boxes=torch.tensor([[10.0, 20.0, 69.0, 50.0]]))
    line = painted(drawn, BOX)
    assert line[20, 10:70].all() and line[50, 10:70].all() and line[20:51, 10].all() and line[20:51, 69].all()
    assert (drawn[23:48, 13:67] == GREY[23:48, 13:67]).all()
    assert (drawn[:18] == GREY[:18]).all() and (drawn[53:] == GREY[53:]).all()


@pytest.mark.parametrize("point", [(0, 0), (79, 59)])
def test_prompts_at_the_border_are_cut_off(point):
    drawn = draw_prompts(GREY, [point], [0], [[0, 0, 79.5, 59.5]])
    assert drawn.shape == GREY.shape
    assert painted(drawn, (255, 255, 255))[point[1], point[0]]


def test_the_image_is_left_as_it_is():
    before = GREY.copy()
    assert draw_prompts(GREY) is not GREY
    draw_prompts(GREY, [[3, 3]], [1], [[1, 1, 5, 5]])
    assert (before == GREY).all()


def test_markers_grow_with_the_photo():
    sizes = [
        int((draw_prompts(np.zeros((s, s, 3), np.uint8), [[s // 2, s // 2]], [1]) > 0).any(-1).sum())
        for s in (400, 1600)
    ]
    assert 12 * sizes[0] < sizes[1] < 16 * sizes[0]  # four times as wide, but for the smoothed edge of half a pixel


def test_a_point_without_a_label_is_refused():
    with pytest.raises(ValueError, match="every point needs a label, 1 or 0; got 2 points and 1 labels"):
        draw_prompts(GREY, [[1, 2], [3, 4]], [1])
