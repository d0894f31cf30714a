"""Images are checked by their pixels: small maps, colours written out."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from seglib import viz
from seglib.types import VOID, Category, Instances, Panoptic, Sample, Segment, Semantic
from seglib.viz.overlay import boundaries, outline

matplotlib.use("Agg")

RED, BLUE = (200, 40, 40), (40, 40, 200)
CATEGORIES = (
    Category(0, "car", True, RED),
    Category(1, "person", True, (40, 160, 40)),
    Category(2, "sky", False, BLUE),
)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def instances(*masks, labels=None, scores=None, iscrowd=None):
    m = torch.stack(masks) if masks else torch.zeros(0, 8, 8, dtype=torch.bool)
    n = len(m)
    labels = torch.tensor(labels or [0] * n).long()
    return Instances(m, labels, torch.tensor([[1.0, 1, 5, 5]]).repeat(n, 1), scores, iscrowd)


def square(top=1, left=1, side=4, size=8):
    m = torch.zeros(size, size, dtype=torch.bool)
    m[top : top + side, left : left + side] = True
    return m


def sample(**annotations):
    return Sample(torch.full((3, 8, 8), 0.5), "s", **annotations)


# Colours


def test_labels_take_their_class_colour():
    rgb = viz.colorize(torch.tensor([[0, 2]]), CATEGORIES)
    assert rgb.dtype == np.uint8
    assert rgb.tolist() == [[list(RED), list(BLUE)]]


def test_void_is_striped_in_two_greys_and_never_a_class_colour():
    rgb = viz.colorize(torch.full((8, 8), VOID), CATEGORIES)
    assert {tuple(p) for p in rgb.reshape(-1, 3).tolist()} == {(150, 150, 150), (205, 205, 205)}


def test_a_label_outside_the_table_is_named_with_its_place():
    labels = torch.zeros(4, 6, dtype=torch.int64)
    labels[3, 5] = 7
    with pytest.raises(ValueError, match=r"label 7 at \(row 3, column 5\) is not in 0\.\.2 or 255"):
        viz.colorize(labels, CATEGORIES)


@pytest.mark.parametrize("labels", [torch.zeros(4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)])
def test_scores_or_a_batch_are_no_label_map(labels):
    with pytest.raises(ValueError, match="labels must be an integer"):
        viz.colorize(labels, CATEGORIES)


@given(st.integers(0, 21))
def test_up_to_21_instances_have_different_colours(n):
    colors = viz.instance_colors(n)
    assert colors.shape == (n, 3)
    assert len({tuple(c) for c in colors.tolist()}) == n


@given(st.integers(2, 30))
def test_shades_differ_and_one_shade_is_the_class_colour(n):
    assert len({tuple(c) for c in viz.shades(RED, n).tolist()}) == n
    assert viz.shades(RED, 1).tolist() == [list(RED)]


# Overlays


def test_a_boundary_lies_on_the_pixel_before_the_change():
    ids = np.array([[1, 1, 2], [1, 1, 2], [3, 3, 3]])
    assert boundaries(ids).astype(int).tolist() == [[0, 1, 0], [1, 1, 1], [0, 0, 0]]


def test_an_outline_is_the_rim_of_the_mask():
    rim = outline(square(side=3, size=5).numpy())
    assert rim.sum() == 8 and not rim[2, 2]
    assert outline(np.ones((3, 3), dtype=bool)).sum() == 8


def test_overlay_mixes_photo_and_colour_by_alpha():
    photo, labels = torch.full((3, 2, 2), 1.0), torch.zeros(2, 2, dtype=torch.int64)
    assert viz.overlay(photo, labels, CATEGORIES, alpha=0.5)[0, 0].tolist() == [228, 148, 148]  # (255 + 200) / 2, …
    assert viz.overlay(photo, labels, CATEGORIES, alpha=1)[0, 0].tolist() == list(RED)
    assert viz.overlay(photo, labels, CATEGORIES, alpha=0)[0, 0].tolist() == [255, 255, 255]


def test_overlay_darkens_boundaries():
    labels = torch.tensor([[0, 0, 2, 2]])
    row = viz.overlay(None, labels, CATEGORIES)[0]
    assert row[0].tolist() == list(RED) and row[2].tolist() == list(BLUE)
    assert row[1].sum() < 0.6 * row[0].sum()


def test_overlay_takes_8_bit_photos_and_refuses_others():
    labels = torch.zeros(2, 2, dtype=torch.int64)
    assert viz.overlay(np.zeros((2, 2, 3), np.uint8), labels, CATEGORIES).shape == (2, 2, 3)
    with pytest.raises(ValueError, match="divide 8-bit values by 255"):
        viz.overlay(torch.zeros(3, 2, 2, dtype=torch.uint8), labels, CATEGORIES)
    with pytest.raises(ValueError, match=r"image is \(3, 3\) and its annotation \(2, 2\)"):
        viz.overlay(torch.zeros(3, 3, 3), labels, CATEGORIES)
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\], got 2"):
        viz.overlay(None, labels, CATEGORIES, alpha=2)


def test_instances_paint_small_over_large_whatever_their_order():
    large, small = square(0, 0, 8), square(2, 2, 4)
    colors = np.array([[255, 0, 0], [0, 255, 0]], dtype=np.uint8)
    one = viz.overlay_instances(None, instances(large, small), colors=colors, alpha=1)
    two = viz.overlay_instances(None, instances(small, large), colors=colors[::-1], alpha=1)
    assert np.array_equal(one, two)
    assert one[3, 3].tolist() == [0, 255, 0]
    assert one[1, 1].tolist() == [255, 0, 0]


def test_a_crowd_is_striped():
    paint = viz.overlay_instances(None, instances(square(0, 0, 8), iscrowd=torch.tensor([True])), alpha=1)
    plain = viz.overlay_instances(None, instances(square(0, 0, 8)), alpha=1)
    assert len(np.unique(paint[1:-1, 1:-1].reshape(-1, 3), axis=0)) == 2
    assert len(np.unique(plain[1:-1, 1:-1].reshape(-1, 3), axis=0)) == 1


def test_no_instances_leave_the_image_alone():
    image = torch.rand(3, 8, 8)
    assert np.array_equal(
        viz.overlay_instances(image, instances()), (image.permute(1, 2, 0).numpy() * 255 + 0.5).astype("u1")
    )


def two_cars_and_sky():
    ids = torch.ones(8, 8, dtype=torch.int32)
    ids[:, 0:2], ids[:, 4:6], ids[0] = 2, 3, 0
    return Panoptic(ids, [Segment(1, 2, False, 1), Segment(2, 0, True, 1), Segment(3, 0, True, 1)])


def test_panoptic_keeps_stuff_colours_and_shades_things_apart():
    rgb = viz.overlay_panoptic(None, two_cars_and_sky(), CATEGORIES)
    assert rgb[4, 2].tolist() == list(BLUE)
    first, second = rgb[4, 0], rgb[4, 4]
    assert first.tolist() != second.tolist()
    assert first.argmax() == second.argmax() == 0  # both still red
    assert len(np.unique(rgb[0, 2])) == 1  # void is grey


def test_a_segment_without_description_is_an_error():
    with pytest.raises(ValueError, match=r"segment 1, which panoptic\.segments does not describe"):
        viz.overlay_panoptic(None, Panoptic(torch.ones(4, 4, dtype=torch.int32)), CATEGORIES)
    with pytest.raises(ValueError, match="segment 1 has category 9"):
        viz.overlay_panoptic(None, Panoptic(torch.ones(4, 4, dtype=torch.int32), [Segment(1, 9, True, 16)]), CATEGORIES)


# Figures


def drawn(ax):
    return np.asarray(ax.images[0].get_array())


def test_a_sample_brings_its_own_photo():
    s = sample(
        semantic=torch.zeros(8, 8, dtype=torch.int64), instances=instances(square()), panoptic=two_cars_and_sky()
    )
    assert np.array_equal(drawn(viz.show_semantic(s, CATEGORIES)), viz.overlay(s.image, s.semantic, CATEGORIES))
    assert np.array_equal(drawn(viz.show_instances(s, CATEGORIES)), viz.overlay_instances(s.image, s.instances))
    assert np.array_equal(
        drawn(viz.show_panoptic(s, CATEGORIES)), viz.overlay_panoptic(s.image, s.panoptic, CATEGORIES)
    )
    assert drawn(viz.show_image(s)).mean() == 128


@pytest.mark.parametrize("show", [viz.show_semantic, viz.show_instances, viz.show_panoptic])
def test_a_missing_annotation_is_named(show):
    with pytest.raises(ValueError, match="sample 's' has no"):
        show(sample(), CATEGORIES)


def test_everything_draws_when_there_is_nothing_to_draw():
    void = torch.full((8, 8), VOID)
    viz.show_semantic(Semantic(void, torch.zeros(3, 8, 8)), CATEGORIES)
    viz.show_instances(instances(), CATEGORIES, boxes=True)
    viz.show_panoptic(Panoptic(torch.zeros(8, 8, dtype=torch.int32)), CATEGORIES)
    assert viz.show_errors(void, void).get_title(loc="left") == "all void"
    viz.show_confusion(torch.zeros(3, 3, dtype=torch.int64), CATEGORIES)
    viz.legend(CATEGORIES, labels=void)


def test_predictions_carry_their_score_and_boxes_sit_on_pixel_edges():
    found = instances(square(), labels=[1], scores=torch.tensor([0.934]))
    ax = viz.show_instances(found, CATEGORIES, boxes=True)
    assert [t.get_text() for t in ax.texts] == ["person 93"]
    # The box [1, 5] covers pixels 1 to 4; matplotlib puts pixel 1's left edge at 0.5.
    assert np.asarray(ax.lines[0].get_xdata()).tolist() == [0.5, 4.5, 4.5, 0.5, 0.5]


def test_errors_leave_void_out_of_the_count():
    target = torch.tensor([[0, 0, 1, VOID]])
    ax = viz.show_errors(torch.tensor([[0, 1, 1, 1]]), target)
    assert ax.get_title(loc="left") == "33.3% of pixels wrong"
    assert drawn(ax)[0, 1].tolist() == [213, 94, 0]


def test_a_legend_lists_the_classes_that_occur():
    key = viz.legend(CATEGORIES, labels=torch.tensor([[0, 2, VOID]]))
    assert [t.get_text() for t in key.get_texts()] == ["car", "sky", "void"]


def test_grid_takes_functions_and_images_and_blanks_the_rest():
    figure = viz.grid([[("a", torch.rand(3, 4, 4)), ("b", lambda ax: ax.plot([0, 1]))], [("c", torch.rand(4, 4))]])
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["a", "b", "c", ""]
    assert not figure.axes[3].axison
    with pytest.raises(ValueError, match="at least one row"):
        viz.grid([])


# Charts


def test_confusion_rows_are_percentages_and_absent_classes_say_so():
    ax = viz.show_confusion(torch.tensor([[3, 1, 0], [0, 0, 0], [0, 0, 5]]), CATEGORIES)
    assert [t.get_text() for t in ax.texts] == ["75", "25", "100", "absent"]
    assert ax.get_ylabel() == "true"
    with pytest.raises(ValueError, match=r"3 classes need a \(3, 3\) matrix, got \(2, 3\)"):
        viz.show_confusion(torch.zeros(2, 3), CATEGORIES)


def test_the_interval_is_students():
    ys = np.random.default_rng(0).normal(size=(5, 3))
    mean, half = viz.interval95(ys)
    low, high = stats.t.interval(0.95, 4, loc=ys.mean(0), scale=stats.sem(ys, axis=0))
    # Both compute the same closed form in float64.
    np.testing.assert_allclose(mean - half, low, rtol=1e-12)
    np.testing.assert_allclose(mean + half, high, rtol=1e-12)


def test_one_seed_has_no_interval():
    mean, half = viz.interval95([[1.0, 2.0]])
    assert mean.tolist() == [1.0, 2.0] and np.isnan(half).all()
    ax = viz.show_interval([0, 1], [[1.0, 2.0]], label="a")
    assert not ax.collections and ax.get_legend_handles_labels()[1] == ["a (1 seed)"]
    with pytest.raises(ValueError, match="at least one run"):
        viz.interval95(np.zeros((0, 3)))


def test_lines_are_labelled_with_their_seeds_and_must_fit_x():
    ax = viz.show_interval(torch.arange(3), torch.rand(4, 3), label="FCN-8s")
    assert ax.get_legend_handles_labels()[1] == ["FCN-8s (4 seeds)"]
    assert len(ax.collections) == 1
    with pytest.raises(ValueError, match=r"ys is \(seeds, 2\)"):
        viz.show_interval([0, 1], torch.rand(4, 3))


def test_feature_maps_share_one_scale_centred_at_zero():
    figure = viz.show_features(torch.tensor([[[-1.0, 0.5]], [[0.25, 2.0]]]))
    limits = {ax.images[0].get_clim() for ax in figure.axes[:2]}
    assert limits == {(-2.0, 2.0)}
    with pytest.raises(ValueError, match="take one image of the batch"):
        viz.show_features(torch.zeros(1, 2, 4, 4))


def test_style_sets_a_light_card_and_the_safe_cycle():
    with matplotlib.rc_context():
        viz.style(dpi=72)
        assert matplotlib.rcParams["figure.dpi"] == 72
        assert matplotlib.rcParams["figure.facecolor"] == "#FCFCFA"
        assert matplotlib.rcParams["axes.prop_cycle"].by_key()["color"] == list(viz.CYCLE)


def test_overlays_need_no_matplotlib():
    code = (
        "import sys, torch; from seglib import viz; from seglib.types import Category;"
        "viz.overlay(torch.rand(3, 4, 4), torch.zeros(4, 4, dtype=torch.int64), [Category(0, 'a', True, (1, 2, 3))]);"
        "assert not any(m.startswith('matplotlib') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
