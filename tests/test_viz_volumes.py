"""Three planes of a volume: a small one, its pixels written out."""

import matplotlib
import numpy as np
import pytest
import torch

from seglib import viz
from seglib.types import VOID, Category, Sample
from seglib.viz.volumes import paint_plane

matplotlib.use("Agg")

SIZE, SPACING = (3, 4, 5), (2.5, 1.0, 0.5)
VALUES = torch.arange(60.0).view(SIZE)
CATEGORIES = (Category(0, "background", False, (0, 0, 0)), Category(1, "organ", False, (200, 40, 0)))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def shown(ax):
    return np.asarray(ax.images[0].get_array())


@pytest.mark.parametrize(
    ("plane", "values"),
    [
        ("axial", VALUES[2]),
        ("coronal", VALUES[:, 1].flip(0)),  # the last slice, nearest the head, is on top
        ("sagittal", VALUES[:, :, 3].flip(0)),
    ],
)
def test_a_plane_runs_through_the_voxel_with_the_head_above(plane, values):
    rgb = paint_plane(VALUES, None, (), plane=plane, at=(2, 1, 3), window=(127.5, 255))
    assert rgb.tolist() == values[..., None].expand(-1, -1, 3).long().tolist()


def test_a_window_is_black_at_its_lower_end_and_white_at_its_upper_one():
    hu = torch.tensor([-500.0, -160, 40, 240, 3000]).view(1, 1, 5)
    rgb = paint_plane(hu, None, (), plane="axial", at=(0, 0, 0), window=(40, 400))
    assert rgb[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_labels_lie_over_the_volume_and_background_does_not():
    labels = torch.tensor([0, 1, VOID, VOID]).view(1, 1, 4)
    half = torch.full((1, 1, 4), 100.0)
    rgb = paint_plane(half, labels, CATEGORIES, plane="axial", at=(0, 0, 0), window=(127.5, 255), alpha=0.25)
    assert rgb[0, :2].tolist() == [[100, 100, 100], [125, 85, 75]]
    assert {tuple(p) for p in rgb[0, 2:].tolist()} <= {(113, 113, 113), (126, 126, 126)}  # stripes of 150 and 205


def test_three_planes_have_the_aspect_ratio_of_the_spacing_and_mark_each_other():
    axes = viz.show_planes(VALUES, spacing=SPACING, at=(0, 1, 3))
    assert [ax.get_title(loc="left") for ax in axes] == ["axial, z = 0", "coronal, y = 1", "sagittal, x = 3"]
    assert [shown(ax).shape[:2] for ax in axes] == [(4, 5), (3, 5), (3, 4)]
    assert [ax.get_aspect() for ax in axes] == [2.0, 5.0, 2.5]
    lines = [[line.get_ydata()[0] if k == 0 else line.get_xdata()[0] for k, line in enumerate(ax.lines)] for ax in axes]
    assert lines == [[1, 3], [2, 3], [2, 1]]  # row and column; z = 0 is the lowest row
    assert not viz.show_planes(VALUES, spacing=SPACING, crosshair=False)[0].lines


def test_a_sample_brings_its_labels_and_spacing_and_the_middle_is_shown():
    labels = torch.zeros(SIZE, dtype=torch.int64)
    labels[1, 2, 2] = 1
    sample = Sample(torch.stack([VALUES, torch.zeros(SIZE)]), "s", semantic=labels, spacing=SPACING)
    axes = viz.show_planes(sample, categories=CATEGORIES, channel=1, window=(0.5, 1), alpha=1)
    assert [np.argwhere(shown(ax).any(2)).tolist() for ax in axes] == [[[2, 2]], [[1, 2]], [[1, 2]]]
    assert shown(axes[0])[2, 2].tolist() == [200, 40, 0]


def test_the_window_goes_from_the_first_to_the_last_percentile_and_an_even_volume_can_be_drawn():
    low, high = np.percentile(VALUES.numpy(), (1, 99))
    [ax, *_] = viz.show_planes(VALUES[None], spacing=SPACING)
    want = ((VALUES[1].numpy() - low) / (high - low)).clip(0, 1) * 255
    assert np.abs(shown(ax)[..., 0] - want).max() <= 0.5 + 1e-9
    assert viz.show_planes(torch.zeros(SIZE), spacing=SPACING)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"volume": torch.zeros(4, 5)}, r"\(D, H, W\) or \(C, D, H, W\), got \(4, 5\)"),
        ({"labels": torch.zeros(3, 4, 4)}, r"the label map is \(3, 4, 4\) and the volume \(3, 4, 5\)"),
        ({"spacing": None}, "got None; pass spacing"),
        ({"spacing": (1.0, -1.0, 1.0)}, r"above 0, got \(1.0, -1.0, 1.0\)"),
        ({"at": (0, 4, 0)}, r"at \(0, 4, 0\) lies outside"),
    ],
)
def test_a_wrong_argument_is_named(changes, said):
    with pytest.raises(ValueError, match=said):
        viz.show_planes(**({"volume": VALUES, "spacing": SPACING} | changes))
