"""The moving figures: their arithmetic against torch, and themselves in a browser, by mouse and by keyboard."""

import html
import json
import random
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from browser import finger, middle
from matplotlib.path import Path

from seglib import losses
from seglib.book import figures
from seglib.book.figures.element import source
from seglib.layers.anchors import Anchors
from seglib.losses import lovasz
from seglib.losses.assign import match_boxes
from seglib.metrics import AveragePrecision
from seglib.ops.boxes import box_iou
from seglib.ops.nms import nms
from seglib.ops.paste import paste_probs
from seglib.ops.roi import roi_align, roi_pool
from seglib.types import VOID, Category, Instances, Panoptic, Sample, Segment

CATEGORIES = (Category(0, "car", True, (230, 159, 0)), Category(1, "sky", False, (86, 180, 233)))


def scene(objects=2):
    """16 × 16: sky, up to two cars that overlap in columns 6 and 7 of rows 4 to 7, and a void corner."""
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, 4:8, 2:8] = True
    masks[1, 4:8, 6:12] = True
    masks = masks[:objects]
    semantic = torch.ones(16, 16, dtype=torch.int64)
    ids = torch.full((16, 16), 9, dtype=torch.int32)
    segments = [Segment(9, 1, False, 0)]
    for i, mask in enumerate(masks):
        semantic[mask], ids[mask] = 0, 20 + i
        segments.append(Segment(20 + i, 0, True, 0))
    semantic[14:, 14:], ids[14:, 14:] = VOID, 0
    boxes = torch.tensor([[2.0, 4, 8, 8], [6, 4, 12, 8]])[:objects]
    instances = Instances(masks, torch.zeros(objects, dtype=torch.int64), boxes)
    photo = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    return Sample(photo, "tiny", semantic, instances, Panoptic(ids, segments))


ALL: dict[str, Callable[[], figures.Figure]] = {
    "mask_metrics": figures.mask_metrics,
    "transposed_conv": figures.transposed_conv,
    "bilinear_stamps": figures.bilinear_stamps,
    "receptive_field": figures.receptive_field,
    "dilation": figures.dilation,
    "nms": figures.nms,
    "matcher": figures.matcher,
    "loss_gradient": figures.loss_gradient,
    "pixel_probe": lambda: figures.pixel_probe(scene(), CATEGORIES),
    "valid_tiles": lambda: figures.valid_tiles(scene().image),
    "precision_recall": figures.precision_recall,
    "roi_bins": figures.roi_bins,
    "paste_back": figures.paste_back,
}


# The HTML


@pytest.mark.parametrize("name", ALL)
def test_a_figure_is_small_the_same_every_time_and_asks_nobody(name):
    page = ALL[name]()._repr_html_()
    assert page == ALL[name]()._repr_html_()
    assert len(source(name).encode()) < 15_000
    assert not re.search(r"""(src|href)=["'](?!data:)|@import|fetch\(|\bimport\b""", page)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert page.count("</script>") == 1


@pytest.mark.parametrize("name", ALL)
def test_a_figure_says_something_without_javascript_and_without_html(name):
    class Text(HTMLParser):
        found, inside = "", True

        def handle_starttag(self, tag, attrs):
            self.inside = self.inside and tag != "script"

        def handle_data(self, data):
            self.found += data if self.inside else ""

    text = Text()
    text.feed(ALL[name]()._repr_html_())
    assert "JavaScript" in text.found and len(text.found) > 60
    bundle = ALL[name]()._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    assert bundle["text/plain"].startswith("<moving figure: ")


def test_another_source_is_another_element():
    tags = [re.findall(r"^<(seg-[a-z-]+-[0-9a-f]{8}) ", make()._repr_html_())[0] for make in ALL.values()]
    assert len(set(tags)) == len(ALL)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: figures.mask_metrics(truth=(5, 5, 5, 9)), "is empty or leaves the grid"),
        (lambda: figures.mask_metrics(prediction=(5, 5, 30, 9)), "leaves the grid of 28 × 20 cells"),
        (lambda: figures.transposed_conv([[1, 2]]), "input must be a square grid"),
        (lambda: figures.transposed_conv(stride=4), "stride must be 1 to 3, got 4"),
        (lambda: figures.transposed_conv([[1]], kernel=2, padding=1), "padding 1 leaves no output"),
        (lambda: figures.transposed_conv(weights="box"), "weights must be 'ones' or 'bilinear'"),
        (lambda: figures.receptive_field([]), "1 to 5 layers, got 0"),
        (lambda: figures.receptive_field([(4, 1)]), r"layer \(4, 1\) must be"),
        (lambda: figures.receptive_field(cells=8), "cells must be 16 to 64"),
        (lambda: figures.loss_gradient((0.5,) * 5), "six pixels, got 5 probabilities and 6 truths"),
        (lambda: figures.loss_gradient((1.0,) * 6), "probabilities must be 0.01 to 0.99"),
        (lambda: figures.loss_gradient(truth=(0,) * 6), "truth holds 0 and 1, with at least one 1"),
        (lambda: figures.dilation([]), r"1 to 4 layers with rates of 1 to 36, got \(\)"),
        (lambda: figures.dilation((1, 0)), r"got \(1, 0\)"),
        (lambda: figures.dilation(cells=50), "cells must be 9 to 41, got 50"),
        (lambda: figures.nms([(0, 0, 1, 1)], [0.5]), "2 to 8 boxes with a score each, got 1 and 1"),
        (lambda: figures.nms([(0, 0, 1, 1), (2, 2, 2, 3)], [0.5, 0.5]), r"box \(2, 2, 2, 3\) is empty or leaves"),
        (lambda: figures.nms([(0, 0, 1, 1), (2, 2, 43, 3)], [0.5, 0.5]), "leaves the ground of 42 × 28"),
        (lambda: figures.nms(threshold=1.1), "scores and threshold must be 0 to 1"),
        (lambda: figures.matcher([]), "1 or 2 objects, got 0"),
        (lambda: figures.paste_back((4, 4, 9, 12)), r"box \(4, 4, 9, 12\) has a side under 6 pixels"),
        (lambda: figures.paste_back((4, 4, 20.1, 12)), "isn't in quarters"),
        (lambda: figures.paste_back(stride=2), "stride must be 4, 8 or 16, got 2"),
        (lambda: figures.paste_back(grid=8), "grid must be 7, 14, 21 or 28, got 8"),
        (lambda: figures.matcher([(4, 4, 9, 5)]), r"box \(4, 4, 9, 5\) has a side under 2 pixels"),
        (lambda: figures.matcher([(4, 4, 9, 41)]), "leaves the ground of 56 × 40"),
        (lambda: figures.matcher(foreground_iou=0.2), "background_iou <= foreground_iou and .* got 0.3 and 0.2"),
        (lambda: figures.matcher(size=15), "size must be an even number from 8 to 32, got 15"),
        (lambda: figures.pixel_probe(Sample(torch.rand(3, 8, 8), "a"), CATEGORIES), "needs semantic, instances and"),
        (lambda: figures.pixel_probe(scene(), CATEGORIES, start=(16, 0)), r"start \(16, 0\) lies outside"),
        (lambda: figures.valid_tiles(torch.rand(3, 8, 9)), r"image must be \(3, H, H\) .* got \(3, 8, 9\)"),
        (lambda: figures.valid_tiles(scene().image, depth=5), "depth must be 1 to 4, got 5"),
        (lambda: figures.valid_tiles(scene().image, bottom=7), "answers for -12 pixels"),
        (lambda: figures.valid_tiles(scene().image, size=300), "does not fit an image of 300; change bottom"),
        (lambda: figures.precision_recall([]), r"right holds 1 to 10 numbers 0 or 1, got \(\)"),
        (lambda: figures.precision_recall((1, 2)), r"got \(1, 2\)"),
        (lambda: figures.precision_recall((1, 0), scores=(0.2, 0.9)), r"falling, got \(0.2, 0.9\)"),
        (lambda: figures.precision_recall((1, 0), scores=(0.2,)), "2 detections need as many scores"),
        (lambda: figures.precision_recall((1, 1, 1), objects=2), "objects must be 3 .* to 8, got 2"),
        (lambda: figures.roi_bins([[1, 2, 3]]), r"rows of equal length, 3 to 12 a side, got \[3\]"),
        (lambda: figures.roi_bins([[0] * 4] * 4), "features must be 0 or more, not all 0"),
        (lambda: figures.roi_bins(size=5), "size must be 1 to 4, got 5"),
        (lambda: figures.roi_bins(ratio=0), "ratio must be 1 to 4, got 0"),
        (lambda: figures.roi_bins(box=(1, 1, 9, 3)), r"box \(1, 1, 9, 3\) is empty or leaves the map of 8 × 6 cells"),
    ],
)
def test_a_wrong_argument_is_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


# The arithmetic: the page's own functions, run in the browser on random cases


@pytest.fixture
def js(open_page):
    """``js(figure, function, cases)``: the function's result for every list of arguments."""
    page = open_page().page

    def call(name, function, cases):
        return page.evaluate(f"cases => {{ {source(name)}\nreturn cases.map(c => {function}(...c)); }}", cases)

    return call


def random_box(rng, width, height):
    x0, y0 = rng.uniform(0, width - 3), rng.uniform(0, height - 3)
    return [x0, y0, rng.uniform(x0 + 1, width), rng.uniform(y0 + 1, height)]


def raster_of_a_house(box, width, height, fine):
    """The house as bool (H · fine, W · fine): a roof on the upper 40% of its box, walls below."""
    x0, y0, x1, y1 = box
    w, eaves = x1 - x0, y0 + 0.4 * (y1 - y0)
    corners = [(x0 + w / 2, y0), (x1, eaves), (x1 - w / 10, eaves), (x1 - w / 10, y1), (x0 + w / 10, y1)]
    house = Path([*corners, (x0 + w / 10, eaves), (x0, eaves)])
    y, x = (np.mgrid[0 : height * fine, 0 : width * fine] + 0.5) / fine
    return house.contains_points(np.stack([x.ravel(), y.ravel()], 1)).reshape(y.shape)


def test_exact_areas_and_scores_agree_with_counting_fine_pixels(js):
    rng, width, height, fine = random.Random(0), 20, 14, 12
    cases = [[random_box(rng, width, height), random_box(rng, width, height), width * height] for _ in range(40)]
    cases += [[box, box, width * height] for box, *_ in cases[:3]]
    for (truth, pred, _), got in zip(cases, js("mask_metrics", "scores", cases), strict=True):
        t, p = (raster_of_a_house(box, width, height, fine) for box in (truth, pred))
        counts = np.array([(t & p).sum(), (~t & p).sum(), (t & ~p).sum(), (~t & ~p).sum()]) / fine**2
        exact = np.array([got[name] for name in ("tp", "fp", "fn", "tn")])
        np.testing.assert_allclose(exact, counts, atol=0.8)  # outlines of some 60 pixels, 1/12 of a pixel fine
        tp, fp, fn, tn = exact
        want = [(tp + tn) / exact.sum(), tp / (tp + fp + fn), 2 * tp / (2 * tp + fp + fn)]
        np.testing.assert_allclose([got["accuracy"], got["iou"], got["dice"]], want, rtol=1e-12)
    (same,) = js("mask_metrics", "scores", [cases[-1]])
    assert same["iou"] == pytest.approx(1, abs=1e-12) and same["accuracy"] == pytest.approx(1, abs=1e-12)


def test_an_empty_prediction_has_the_accuracy_of_the_background(js):
    (got,) = js("mask_metrics", "scores", [[[8, 2.75, 20, 17], None, 560]])
    assert got["fn"] == pytest.approx(0.68 * 12 * 14.25)  # roof 0.4 / 2 and walls 0.6 · 0.8 of the box
    assert got["accuracy"] == pytest.approx(1 - got["fn"] / 560) and got["iou"] == got["dice"] == 0


def test_shrinking_both_masks_keeps_iou_and_dice_exactly_and_raises_accuracy(js):
    score = "((a, b, f) => scores(...[a, b].map(box => scaleBox(box, [14, 9.875], f)), 560))"
    rng = random.Random(1)
    for truth, pred in [([8, 2.75, 20, 17], random_box(rng, 28, 20)) for _ in range(30)]:
        got = js("mask_metrics", score, [[truth, pred, f / 100] for f in range(100, 30, -10)])
        for name in ("iou", "dice"):
            np.testing.assert_allclose([g[name] for g in got], got[0][name], rtol=1e-9)
        assert np.all(np.diff([g["accuracy"] for g in got]) > 0)


def test_stamping_equals_conv_transpose2d(js):
    rng, g = random.Random(1), torch.Generator().manual_seed(1)
    cases: list[Any] = []
    want = []
    for _ in range(300):
        n, s, k = rng.randint(1, 4), rng.randint(1, 3), rng.randint(2, 4)
        p = rng.randint(0, min(2, ((n - 1) * s + k - 1) // 2))
        x = torch.rand(n, n, generator=g, dtype=torch.float64)
        w = torch.rand(k, k, generator=g, dtype=torch.float64)
        cases.append([x.tolist(), w.tolist(), s, p])
        want.append(F.conv_transpose2d(x[None, None], w[None, None], stride=s, padding=p)[0, 0])
    sizes = js("transposed_conv", "outputSize", [[len(x), s, len(w), p] for x, w, s, p in cases])
    for got, out, size in zip(js("transposed_conv", "transposedConv", cases), want, sizes, strict=True):
        assert size == len(out)
        np.testing.assert_allclose(got, out, rtol=1e-12)  # float64 on both sides


def test_stamping_stops_after_the_given_number_of_cells(js):
    x, w = [[1.0, 2.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]
    none, two = js("transposed_conv", "transposedConv", [[x, w, 2, 0, 0], [x, w, 2, 0, 2]])
    assert none == [[0] * 4] * 4
    assert two == [[1, 1, 2, 2], [1, 1, 2, 2], [0] * 4, [0] * 4]


@pytest.mark.parametrize("factor", [1, 2])
def test_the_bilinear_kernel_interpolates(js, factor):
    # With stride f, kernel 2f and padding f / 2 it is bilinear upsampling; a constant stays constant inside.
    [kernel] = js("transposed_conv", "bilinear", [[2 * factor]])
    [out] = js("transposed_conv", "transposedConv", [[[[1.0] * 4] * 4, kernel, factor, factor // 2]])
    inner = np.array(out)[factor:-factor, factor:-factor]
    np.testing.assert_allclose(inner, 1, rtol=1e-12)
    assert np.array(kernel) == pytest.approx(np.array(kernel).T) and np.array(kernel) == pytest.approx(np.flip(kernel))


def test_paths_equal_the_gradient_of_ones_kernels_and_fields_its_extent(js):
    rng = random.Random(2)
    cases: list[Any] = []
    for _ in range(100):
        layers = [{"k": rng.choice([1, 2, 3, 5, 7]), "s": rng.choice([1, 2])} for _ in range(rng.randint(1, 4))]
        cases.append([layers, 64])
    levels = js("receptive_field", "levels", cases)
    middles = [level[-1]["cells"] // 2 for level in levels]
    paths = js("receptive_field", "paths", [[*c, m] for c, m in zip(cases, middles, strict=True)])
    for (layers, n), level, cell, counts in zip(cases, levels, middles, paths, strict=True):
        x = torch.zeros(1, 1, n, dtype=torch.float64, requires_grad=True)
        y = x
        for layer in layers:
            kernel = torch.ones(1, 1, layer["k"], dtype=torch.float64)
            y = F.conv1d(y, kernel, stride=layer["s"], padding=(layer["k"] - 1) // 2)
        assert y.shape[2] == level[-1]["cells"] == len(counts[-1])
        grad = torch.autograd.grad(y[0, 0, cell], x)[0][0, 0]
        assert counts[0] == grad.tolist()
        read = grad.nonzero()[:, 0].double()
        field, jump, centre = (level[-1][key] for key in ("field", "jump", "centre"))
        middle = centre + cell * jump
        low, high = max(middle - field / 2, 0), min(middle + field / 2, n)
        # A stride wider than its kernel skips cells, so the extremes may be unread by no more than that.
        if all(layer["k"] >= layer["s"] for layer in layers):
            assert (read.min(), read.max() + 1) == (low, high)


def loss_reference(p, y, n):
    """The figure's losses with autograd, background repeated n times: {name: (value, gradient per pixel (6,))}."""
    logit = p.logit().requires_grad_()  # (6,)
    repeats = torch.where(y == 1, 1, n)
    z = torch.stack([logit, torch.zeros_like(logit)]).repeat_interleave(repeats, 1)[None, :, :, None]  # (1, 2, N, 1)
    target = (1 - y).repeat_interleave(repeats)[None, :, None]  # class 0 is the object
    probs, truth = z.softmax(1)[:, 0], target == 0  # (1, N, 1) each
    found = {
        "ce": losses.cross_entropy(z, target),
        "focal": losses.focal_loss(z, target),
        "dice": 1 - 2 * (probs * truth).sum() / (probs.sum() + truth.sum()),
        # one class of seglib's mean over classes; its probabilities, its truth, nothing void, its size
        "lovasz": lovasz._reference(probs, truth, torch.ones_like(truth), int(truth.sum())),
    }
    return {k: (v.item(), torch.autograd.grad(v, logit, retain_graph=True)[0]) for k, v in found.items()}


def test_the_figures_losses_and_gradients_equal_autograd_of_seglibs(js):
    draw = torch.Generator().manual_seed(6)
    cases: list[Any] = []
    for _ in range(200):
        y = (torch.rand(6, generator=draw) < 0.4).long()
        y[torch.randint(6, (1,), generator=draw)] = 1
        p = 0.02 + 0.96 * torch.rand(6, generator=draw, dtype=torch.float64)  # no two errors are equal
        cases.append([p, y, [1, 10, 100][len(cases) % 3]])
    sent = [[p.tolist(), y.tolist(), n] for p, y, n in cases]
    for case, got in zip(cases, js("loss_gradient", "losses", sent), strict=True):
        for name, (value, grad) in loss_reference(*case).items():
            # float64 on both sides; the sums of up to 600 pixels round differently
            np.testing.assert_allclose(got[name]["value"], value, rtol=1e-9)
            np.testing.assert_allclose(got[name]["grad"], grad, rtol=1e-7, atol=1e-12)


def test_both_classes_of_seglibs_dice_are_the_figures(js):
    p, y = torch.tensor([0.75, 0.25, 0.5, 0.2, 0.1, 0.2], dtype=torch.float64), torch.tensor([1, 1, 0, 0, 0, 0])
    turned = [(1 - p).tolist(), (1 - y).tolist(), 1]  # the background as the object
    one, other = js("loss_gradient", "losses", [[p.tolist(), y.tolist(), 1], turned])
    z = torch.stack([p.logit(), torch.zeros_like(p)])[None, :, :, None]
    target = (1 - y)[None, :, None]
    for name, loss in (("dice", losses.dice_loss), ("lovasz", losses.lovasz_softmax)):
        smooth = {"smooth": 0.0} if name == "dice" else {}
        assert (one[name]["value"] + other[name]["value"]) / 2 == pytest.approx(loss(z, target, **smooth).item())
    assert one["dice"]["value"] == pytest.approx(0.5) and one["lovasz"]["value"] == pytest.approx(13 / 24)


def test_the_objects_part_of_the_gradient(js):
    grads = [[[-1.0, 0, 3, 0, 0, 0], [1, 1, 0, 0, 0, 0]], [[-2.0, -2, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]]]
    assert js("loss_gradient", "objectShare", grads) == [0.25, 1.0]


def test_suppression_and_iou_equal_seglibs_on_random_boxes_with_ties(js):
    draw = torch.Generator().manual_seed(7)
    cases: list[Any] = []
    for _ in range(300):
        n = int(torch.randint(1, 9, (1,), generator=draw))
        corner, side = torch.rand(2, n, 2, generator=draw, dtype=torch.float64)
        boxes = torch.cat([corner, corner + side], 1) * 10
        boxes = boxes.round() if len(cases) % 2 else boxes  # whole numbers: IoUs that equal the threshold, empty boxes
        scores = torch.randint(0, 5, (n,), generator=draw).double() / 4
        cases.append([boxes, scores, [0.0, 0.25, 0.5, 0.75, 1.0][len(cases) % 5]])
    sent = [[boxes.tolist(), scores.tolist(), threshold] for boxes, scores, threshold in cases]
    for (boxes, scores, threshold), got in zip(cases, js("nms", "nms", sent), strict=True):
        kept = nms(boxes, scores, threshold)
        assert got["kept"] == kept.tolist()
        assert got["order"] == scores.argsort(descending=True, stable=True).tolist()
        overlap = box_iou(boxes, boxes)
        for i, by in enumerate(got["by"]):
            if by < 0:
                assert i in got["kept"]
            else:  # the first of the kept boxes that overlaps it too much, and one before it
                assert by == next(k for k in got["kept"] if overlap[k, i] > threshold)
                assert got["order"].index(by) < got["order"].index(i)
    pairs = [[a.tolist(), b.tolist()] for boxes, *_ in cases for a in boxes for b in boxes]
    want = torch.cat([box_iou(boxes, boxes).flatten() for boxes, *_ in cases])
    np.testing.assert_allclose(js("nms", "iou", pairs), want, rtol=1e-12)  # float64 on both sides


def test_the_matches_are_seglibs(js):
    draw = torch.Generator().manual_seed(5)
    cases = []
    for n in range(400):
        count = 1 + n % 2
        corner = torch.randint(0, 70, (count, 2), generator=draw)  # half pixels
        side = torch.randint(4, 60, (count, 2), generator=draw)
        objects = (torch.cat([corner, corner + side], 1) / 2).double()
        objects[:, 0::2], objects[:, 1::2] = objects[:, 0::2].clamp(max=56), objects[:, 1::2].clamp(max=40)
        background, foreground = (torch.randint(0, 21, (2,), generator=draw).sort().values / 20).tolist()
        cases.append([objects, 8 + 2 * (n % 13), max(foreground, 0.05), background, n % 3 > 0])
    sizes = sorted({size for _, size, *_ in cases})
    grids = dict(zip(sizes, js("matcher", "anchors", [[size] for size in sizes]), strict=True))
    ious = [box_iou(objects, torch.tensor(grids[size]).double()) for objects, size, *_ in cases]
    edge_cases = [[[0.8, 0.1, 0.0], [0.0, 0.0, 0.0]], [[0.75, 0.25, 0.125, 0.5]], [[0.25, 0.25, 0.1], [0.25, 0.1, 0.0]]]
    for rows in edge_cases:  # an object that touches nothing, IoUs that equal the thresholds, ties
        for foreground, background, low in ((0.7, 0.3, True), (0.5, 0.25, False), (0.75, 0.125, True)):
            ious.append(torch.tensor(rows, dtype=torch.float64))
            cases.append([None, None, foreground, background, low])
    sent = [[iou.tolist(), *rest] for iou, (_, _, *rest) in zip(ious, cases, strict=True)]
    seen = set()
    for iou, (_, _, foreground, background, low), got in zip(ious, cases, js("matcher", "match", sent), strict=True):
        want = match_boxes(
            iou, foreground_iou=foreground, background_iou=background, allow_low_quality_matches=low
        ).tolist()
        assert got == want
        seen |= set(want)
    assert seen == {-2, -1, 0, 1}
    pairs = [[o.tolist(), a] for objects, size, *_ in cases[:400:20] for o in objects for a in grids[size]]
    found = torch.tensor(js("matcher", "iou", pairs), dtype=torch.float64)
    assert torch.equal(
        found, torch.cat([iou.flatten() for iou in ious[:400:20]])
    )  # float64 on both sides, to the last bit


def test_the_anchors_to_match_are_seglibs_with_sides_of_whole_quarters(js):
    (got,) = js("matcher", "anchors", [[16]])
    layer = Anchors(((16,),), (0.5, 1.0, 2.0), (8,), offset=0.5)
    (want,) = layer([(5, 7)])
    assert len(got) == len(want) == 105
    np.testing.assert_allclose(got, want, atol=0.0625)  # half of half a quarter on each side
    sides = np.array(got)[:, 2:] - np.array(got)[:, :2]
    assert ((4 * sides) % 1 == 0).all() and sides[1].tolist() == [16, 16]


def test_what_became_of_an_object_is_said(js):
    ious = [[0.9, 0.4, 0.0], [0.5, 0.1, 0.0]]
    found = [0, -2, -1]
    cases = [[0, ious, found, 0.7], [1, ious, found, 0.7], [1, [ious[0], [0, 0, 0]], found, 0.7]]
    assert js("matcher", "tell", [*cases, [0, [[0.4, 0.2]], [-2, -1], 0.7]]) == [
        "A: best IoU 0.90, 1 anchor.",
        "B: best IoU 0.50, no anchor: its best one overlaps A more, by 0.90.",
        "B touches no anchor.",
        "A: best IoU 0.40, no anchor: that is below 0.70, and low-quality matches are off.",
    ]


def test_a_mask_that_is_read_and_pasted_back_is_seglibs(js):
    rng = random.Random(8)
    boxes = [[round(4 * v) / 4 for v in random_box(rng, 48, 32)] for _ in range(40)]
    boxes = [[x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)] for x0, y0, x1, y1 in boxes]
    truths = js("paste_back", "rasterise", [[box] for box in boxes])
    strides = [(4, 8, 16)[n % 3] for n in range(len(boxes))]
    around = js("paste_back", "cells", [list(case) for case in zip(boxes, strides, strict=True)])
    for box, s, found in zip(boxes, strides, around, strict=True):
        first, last = np.floor(np.array(box) / s + 0.5).reshape(2, 2)
        assert found == [*(first * s), *((last + 1) * s)]
    for inside in (boxes, around):
        cases = [[t, b, (7, 14, 28)[n % 3]] for n, (t, b) in enumerate(zip(truths, inside, strict=True))]
        patches = js("paste_back", "read", cases)
        pasted = js("paste_back", "paste", [[p, box] for p, box in zip(patches, boxes, strict=True)])
        judged = js("paste_back", "judge", [[t, p] for t, p in zip(truths, pasted, strict=True)])
        scores = js("paste_back", "score", [[found] for found in judged])
        for (truth, b, M), patch, image, box, score in zip(cases, patches, pasted, boxes, scores, strict=True):
            mask = torch.tensor(truth, dtype=torch.float64)
            where = torch.tensor([b], dtype=torch.float64)
            want = roi_align(mask[None, None], where, torch.tensor([0]), M, strides=1.0, sampling_ratio=2, impl="torch")
            np.testing.assert_allclose(patch, want[0, 0], atol=1e-9)
            whole = paste_probs(want[0], torch.tensor([box], dtype=torch.float64), (32, 48))[0]
            np.testing.assert_allclose(image, whole, atol=1e-9)
            a, p = mask > 0, torch.tensor(image) >= 0.5
            assert score == pytest.approx(float((a & p).sum() / (a | p).sum().clamp(min=1)))


def test_pasted_back_from_whole_cells_a_mask_jumps_and_from_its_box_it_does_not(js):
    start = figures.paste_back().params["box"]
    boxes = [[v + (0 if k % 2 else step / 4) for k, v in enumerate(start)] for step in range(76)]
    truths = js("paste_back", "rasterise", [[box] for box in boxes])

    def steps(inside, M=28):
        patches = js("paste_back", "read", [[t, b, M] for t, b in zip(truths, inside, strict=True)])
        pasted = js("paste_back", "paste", [[p, box] for p, box in zip(patches, boxes, strict=True)])
        found = js("paste_back", "judge", [[t, p] for t, p in zip(truths, pasted, strict=True)])
        return np.array(js("paste_back", "score", [[f] for f in found]))

    exact, rounded = steps(boxes), steps(js("paste_back", "cells", [[box, 8] for box in boxes]))
    assert exact.min() > 0.95 and abs(np.diff(exact)).max() < 0.04
    assert abs(np.diff(rounded)).max() > 0.1 and rounded.max() < exact.min()
    assert steps(boxes, 7).max() < exact.min()


def test_why_a_box_stays_or_goes_is_said(js):
    row = [[x, 0, x + 12, 10] for x in (0, 4, 8)]  # neighbours overlap by 0.5, the ends by 0.2
    scores = [0.9, 0.8, 0.7]
    first, middle, last = js("nms", "why", [[i, row, scores, 0.4] for i in range(3)])
    assert first == "A survives: it has the highest score."
    assert middle == "B is dropped by A, which has a higher score: IoU 0.50, above 0.40."
    assert last == (
        "C survives: of the survivors before it A overlaps it most, IoU 0.20. "
        "B overlaps it by 0.50, but was dropped before and drops nobody."
    )


def ones_through(rates, x):
    for d in rates:
        x = F.conv2d(x, torch.ones(1, 1, 3, 3, dtype=x.dtype), padding=d, dilation=d)
    return x


def test_dilated_paths_equal_the_gradient_of_ones_kernels(js):
    rng = random.Random(3)
    cases: list[Any] = []
    for _ in range(150):
        n = rng.randint(9, 21)
        rates = [rng.choice([1, 2, 3, 5, 8, 30]) for _ in range(rng.randint(1, 4))]
        cases.append([rates, rng.random() < 0.5, n, rng.randrange(n), rng.randrange(n)])
    fields = js("dilation", "field", [c[:2] for c in cases])
    for (rates, parallel, n, row, column), got, side in zip(
        cases, js("dilation", "counts", cases), fields, strict=True
    ):
        x = torch.zeros(1, 1, n, n, dtype=torch.float64, requires_grad=True)
        y = x + sum(ones_through([d], x) for d in rates) if parallel else ones_through(rates, x)
        grad = torch.autograd.grad(y[0, 0, row, column], x)[0][0, 0]
        assert got == grad.flatten().tolist()
        assert side == 1 + 2 * (max(rates) if parallel else sum(rates))
        rows, columns = grad.nonzero().T
        assert max((rows - row).abs().max(), (columns - column).abs().max()) <= (side - 1) // 2


def test_valid_taps_are_those_that_a_dilated_kernel_finds_on_the_map(js):
    cases = [[d, 9, row, column] for d in (1, 3, 5, 8, 9) for row in (0, 4, 7) for column in (0, 2, 8)]
    for (d, n, row, column), got in zip(cases, js("dilation", "valid", cases), strict=True):
        assert got == ones_through([d], torch.ones(1, 1, n, n))[0, 0, row, column]


def test_valid_sizes_equal_those_of_convolutions_pooling_and_up_convolutions(js):
    def sizes(x, depth):
        """What each level takes and gives, by running layers without padding on a line of pixels."""
        weight = torch.ones(1, 1, 3)

        def double(line):
            return F.conv1d(F.conv1d(line, weight), weight)

        down, maps = [], []
        for level in range(depth + 1):
            maps.append(double(x))
            down.append({"into": x.shape[2], "out": maps[-1].shape[2]})
            if level < depth:
                assert maps[-1].shape[2] % 2 == 0
                x = F.max_pool1d(maps[-1], 2)
        up, x = [], maps[-1]
        for _ in range(depth):
            x = F.conv_transpose1d(x, torch.ones(1, 1, 2), stride=2)
            up.insert(0, {"into": x.shape[2], "out": x.shape[2] - 4})
            x = double(x)
        return {"input": down[0]["into"], "output": x.shape[2], "down": down, "up": up}

    cases = [[b, depth] for depth in (1, 2, 3, 4) for b in range({1: 7, 2: 8, 3: 9, 4: 9}[depth], 40)]
    for (b, depth), got in zip(cases, js("valid_tiles", "ledger", cases), strict=True):
        assert got == sizes(torch.ones(1, 1, got["input"]), depth)
        assert got["down"][-1]["into"] == b
    lost = js("valid_tiles", "lost", [[1], [2], [3], [4]])
    for (_, depth), got in zip(cases, js("valid_tiles", "ledger", cases), strict=True):
        assert got["input"] - got["output"] == lost[depth - 1]
    assert [c for c in cases if c[0] == 32][-1] == [32, 4] and lost[3] == 572 - 388


def test_the_sizes_offered_have_an_answer_that_fits_the_image(js):
    for depth in (1, 2, 3, 4):
        [(low, high)] = js("valid_tiles", "range", [[depth, 512]])
        ends = js("valid_tiles", "ledger", [[b, depth] for b in (low - 1, low, high, high + 1)])
        outputs = [e["output"] for e in ends]
        assert outputs[0] < 1 <= outputs[1] and outputs[2] <= 512 < outputs[3]


def test_the_reflection_equals_reflect_padding(js):
    for n, pad in ((5, 4), (8, 3), (2, 1)):
        want = F.pad(torch.arange(float(n))[None], (pad, pad), mode="reflect")[0]
        assert js("valid_tiles", "reflect", [[i, n] for i in range(-pad, n + pad)]) == want.tolist()


def test_the_probe_unpacks_the_maps_and_answers_as_they_do(js):
    s = scene()
    p = figures.pixel_probe(s, CATEGORIES).params
    semantic, stack, segment = js("pixel_probe", "unpack", [[p["semantic"]], [p["stack"]], [p["segment"]]])
    assert semantic == s.semantic.flatten().tolist()
    for i, (y, x) in enumerate(np.ndindex(16, 16)):
        assert p["stacks"][stack[i]] == s.instances.masks[:, y, x].nonzero()[:, 0].tolist()
        assert (p["segments"][segment[i]] or {"id": 0})["id"] == s.panoptic.map[y, x]
    maps = {"semantic": semantic, "stack": stack, "segment": segment}
    asked = [[p, maps, x, y] for x, y in [(3, 5), (7, 5), (0, 0), (15, 15)]]
    car, overlap, sky, void = js("pixel_probe", "answers", asked)
    assert [car[a]["says"] for a in car] == ["0: car", "object 1, car", "segment 20: car", "one mask, 16 pixels"]
    assert overlap["instance"]["says"] == "object 1, car and object 2, car"
    assert [sky[a]["says"] for a in sky][:3] == ["1: sky", "nothing", "segment 9: sky (stuff)"]
    assert sky["prompt"]["says"] == f"one mask, {int((s.panoptic.map == 9).sum())} pixels"
    assert [void[a]["says"] for a in void] == ["255: void", "nothing", "0: void", "nothing"]


def test_a_scene_without_objects_can_be_probed():
    params = figures.pixel_probe(scene(objects=0), CATEGORIES).params
    assert params["stacks"] == [[]] and params["stack"] == [0, 256]
    assert params["start"] == (0, 8)


def ranked_boxes(right, objects):
    """One image of one class: right detections are the boxes of objects, wrong ones lie elsewhere."""

    def boxes(places):
        corner = torch.tensor([[20.0 * x, y] for x, y in places]).reshape(-1, 2)
        box = torch.cat([corner, corner + 10], 1)
        return Instances(torch.zeros(len(box), 1, 1, dtype=torch.bool), torch.zeros(len(box), dtype=torch.int64), box)

    hit, found = 0, []
    for i, r in enumerate(right):
        found.append((hit if r else i, 0 if r else 500))
        hit += r
    scores = torch.linspace(0.9, 0.1, len(right))
    return boxes(found).replace(scores=scores), boxes([(i, 0) for i in range(objects)])


def test_the_lists_ap_and_curve_equal_seglibs(js):
    rng, cases = random.Random(9), [[[1] * 7 + [0] * 93, 100], [[0] * 29 + [1] * 29, 100]]
    for _ in range(150):
        right = [int(rng.random() < 0.5) for _ in range(rng.randint(1, 10))]
        cases.append([right, max(1, sum(right)) + rng.randint(0, 4)])
    curves = js("precision_recall", "curve", cases)
    for (right, objects), got, points in zip(cases, js("precision_recall", "ap", cases), curves, strict=True):
        metric = AveragePrecision(1, "boxes")
        metric.update(*ranked_boxes(right, objects))
        scores = metric.compute()
        assert got == pytest.approx(scores.ap50, abs=1e-12)  # seglib adds 2^-52 to the denominator, as pycocotools
        assert points[-1]["recall"] == pytest.approx(float(scores.recall[0, 0, 0, 2]))
        assert points[-1]["precision"] == pytest.approx(sum(right) / len(right))


def test_the_area_is_the_sum_of_the_levels_at_the_hits(js):
    # two objects and one wrong detection: in front, between, behind
    cases = [[[0, 1, 1], 2], [[1, 0, 1], 2], [[1, 1, 0], 2], [[0], 3], [[1], 4]]
    assert js("precision_recall", "area", cases) == pytest.approx([2 / 3, 5 / 6, 1, 0, 1 / 4])
    assert js("precision_recall", "interpolate", [[[1, 0.5, 2 / 3, 0.5]], [[0]]]) == [[1, 2 / 3, 2 / 3, 0.5], [0]]
    moves = js("precision_recall", "moved", [[[1, 2, 3], 0, 2], [[1, 2, 3], 2, 0], [[1, 2, 3], 1, 1]])
    assert moves == [[2, 3, 1], [3, 1, 2], [1, 2, 3]]


def maps_and_boxes(count):
    """Random maps and boxes; some are smaller than a cell or lie partly or wholly beyond the map."""
    rng, g = random.Random(11), torch.Generator().manual_seed(11)
    for _ in range(count):
        height, width = rng.randint(3, 7), rng.randint(3, 7)
        x, y = rng.uniform(-3, width + 1), rng.uniform(-3, height + 1)
        side = rng.choice([0.8, 3, 9])
        box = [round(v, 2) for v in (x, y, x + rng.uniform(0, side), y + rng.uniform(0, side))]
        yield torch.randn(height, width, generator=g, dtype=torch.float64), box, rng.randint(1, 4)


def test_rounded_bins_give_what_seglibs_roi_pool_gives(js):
    cases = [(m, box, size) for m, box, size in maps_and_boxes(300)]
    cases += [(m, [v + 0.5 for v in (0, 1, 2, 1)], 2) for m, *_ in cases[:5]]  # halves go away from zero
    found = js("roi_bins", "roiPool", [[m.tolist(), box, size] for m, box, size in cases])
    for (m, box, size), got in zip(cases, found, strict=True):
        boxes = torch.tensor([box], dtype=torch.float64)
        want = roi_pool(m[None, None], boxes, torch.tensor([0]), size, strides=1.0, impl="reference")
        assert [g["value"] for g in got] == want.flatten().tolist()
        assert all(g["row"] < 0 or m[g["row"], g["column"]] == g["value"] for g in got)


@pytest.mark.parametrize("aligned", [True, False])
def test_samples_and_their_means_give_what_seglibs_roi_align_gives(js, aligned):
    cases = [(m, box, size, 1 + i % 4) for i, (m, box, size) in enumerate(maps_and_boxes(300))]
    found = js("roi_bins", "roiAlign", [[m.tolist(), box, size, ratio, aligned] for m, box, size, ratio in cases])
    for (m, box, size, ratio), got in zip(cases, found, strict=True):
        boxes = torch.tensor([box], dtype=torch.float64)
        where = {"strides": 1.0, "sampling_ratio": ratio, "aligned": aligned}
        want = roi_align(m[None, None], boxes, torch.tensor([0]), size, **where)
        np.testing.assert_allclose(got, want.flatten(), rtol=1e-12, atol=1e-12)  # float64 on both sides


# In the browser


@pytest.fixture
def show(open_page):
    """``show(name, …) -> visit`` with the figure on a bare page; ``visit.page`` finds things inside it."""

    def open_figure(name, **kwargs):
        head = "<!doctype html><html lang='en'><meta name='viewport' content='width=device-width'><title>t</title>"
        return open_page(html=f"{head}<main>{ALL[name]()._repr_html_()}</main></html>", **kwargs)

    return open_figure


def drag(page, target, dx, dy):
    box = page.locator(target).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx / 2, y + dy / 2)
    page.mouse.move(x + dx, y + dy)
    page.mouse.up()


def bar(page, row):
    return float(page.locator(".bar b").nth(row).inner_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_figure_fits_a_phone_follows_the_mode_and_has_no_serious_finding(name, show):
    modes = {"light": ["rgb(255, 255, 255)", "rgb(31, 41, 51)"], "dark": ["rgb(21, 24, 28)", "rgb(230, 232, 234)"]}
    visit = show(name, width=390)
    card = visit.page.locator(".card")
    assert visit.overflow() <= 0
    assert card.evaluate("e => [...e.querySelectorAll('*')].every(c => c.getBoundingClientRect().right <= 390)")
    for mode, colors in modes.items():
        visit.page.emulate_media(color_scheme=mode)
        assert card.evaluate("e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]") == colors
        assert visit.axe() == []
    assert visit.problems() == []


def test_the_pages_theme_wins_over_the_systems_mode(open_page):
    page = f"<html style='--pst-color-background: rgb(1, 2, 3)'>{figures.mask_metrics()._repr_html_()}</html>"
    card = open_page(html=page, dark=True).page.locator(".card")
    assert card.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(1, 2, 3)"


def test_a_mask_follows_mouse_keys_slider_and_buttons(show):
    visit = show("mask_metrics", width=800)
    page = visit.page
    start = bar(page, 1)
    cell = page.locator(".scene > svg").bounding_box()["width"] / 28.2
    drag(page, ".pred", -3 * cell, -cell)  # the prediction starts three cells right of the truth and one below
    assert bar(page, 1) == 1.0 > start
    drag(page, ".corner", -3 * cell, 0)
    assert bar(page, 1) < 1.0
    page.get_by_role("button", name="Reset").click()
    assert bar(page, 1) == start
    page.locator(".pred").focus()
    for key in ["ArrowLeft"] * 6 + ["ArrowUp"] * 2:  # half a cell each
        page.keyboard.press(key)
    assert bar(page, 1) == 1.0
    assert page.locator(".pred").get_attribute("aria-valuetext") == "left 8.0, top 2.8"
    page.get_by_role("button", name="Reset").click()
    page.get_by_label("Object size").focus()
    accuracies = [bar(page, 0)]
    for _ in range(6):
        page.keyboard.press("ArrowLeft")
        accuracies.append(bar(page, 0))
        assert bar(page, 1) == start  # what the figure says: IoU stays as it is
    assert accuracies == sorted(set(accuracies))
    page.get_by_role("button", name="Reset").click()
    page.get_by_role("button", name="Predict nothing").click()
    assert bar(page, 1) == 0.0 and bar(page, 0) > 0.5
    accuracy = bar(page, 0)
    page.get_by_label("Object size").focus()
    page.keyboard.press("Home")
    assert bar(page, 0) > accuracy
    page.wait_for_function(
        "document.querySelector('[data-params]').shadowRoot.querySelector('[aria-live]').textContent"
    )
    assert page.locator("[aria-live]").inner_text().startswith("Pixel accuracy")
    assert visit.problems() == []


@pytest.mark.parametrize("name", ["mask_metrics", "matcher", "nms", "paste_back", "roi_bins", "valid_tiles"])
def test_the_mark_of_a_focused_handle_is_a_few_pixels_thick(name, show):
    page = show(name, width=800).page
    handles = page.locator(".handle[tabindex]")
    assert handles.count() > 0
    page.keyboard.press("Tab")
    for handle in handles.all():
        handle.focus()
        marks = handle.evaluate(
            """e => [e, ...(e.tagName === "g" ? e.children : [])].map(c => getComputedStyle(c)).map(s =>
            [s.outlineStyle, s.vectorEffect === "non-scaling-stroke" ? parseFloat(s.strokeWidth) : 0])"""
        )
        assert all(style == "none" for style, _ in marks)
        assert 3 <= max(thick for _, thick in marks) <= 6


@pytest.mark.parametrize(
    ("figure", "handle"),
    [
        ("mask_metrics", ".pred"),
        ("nms", ".box >> nth=-1"),
        ("matcher", ".object"),
        ("roi_bins", ".body >> nth=0"),
        ("paste_back", ".body >> nth=0"),
        ("valid_tiles", ".tile"),
    ],
)
@pytest.mark.parametrize("way", [(1, 0), (0, 1)], ids=["sideways", "downwards"])
def test_what_can_be_dragged_follows_a_finger_in_both_directions(figure, handle, way, show):
    page = show(figure, width=390).page
    page.evaluate("document.body.style.padding = '100vh 0'")  # so that there is somewhere to scroll
    target = page.locator(handle)
    target.evaluate("e => e.scrollIntoView({block: 'center'})")
    scrolled, (x, y) = page.evaluate("scrollY"), middle(target)
    finger(page, (x, y), *((x + d * way[0], y + d * way[1]) for d in (5, 10, 20, 40)))
    moved = np.subtract(middle(target), (x, y)) @ way
    assert page.evaluate("scrollY") == scrolled and moved > 5


def outputs(page):
    return page.locator(".output text").all_text_contents()


def test_stamps_follow_step_play_and_sliders(show):
    visit = show("transposed_conv", width=800)
    page = visit.page
    x = torch.tensor([[1.0, 2, 1], [0, 3, 2], [2, 1, 4]])[None, None]

    def want(k, s, p):
        return [f"{v:.0f}" for v in F.conv_transpose2d(x, torch.ones(1, 1, k, k), stride=s, padding=p).flatten()]

    assert outputs(page) == want(3, 2, 0)
    page.get_by_label("Stamped cells").focus()
    page.keyboard.press("Home")
    assert outputs(page) == []
    page.keyboard.press("ArrowRight")
    assert outputs(page) == ["1"] * 9
    page.get_by_role("button", name="One step on").click()
    assert page.get_by_label("Stamped cells").get_attribute("aria-valuetext") == "2 of 9"
    page.locator(".input .cell").nth(8).click()
    assert outputs(page) == want(3, 2, 0)
    page.get_by_label("Kernel k").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_label("Padding p").focus()
    page.keyboard.press("ArrowRight")
    assert outputs(page) == want(4, 2, 1)
    assert "(3 − 1)·2 − 2·1 + 4 = 6" in page.locator(".formula").inner_text()
    assert "every inner cell gets 4 stamps" in page.locator(".status").inner_text()
    page.get_by_role("button", name="Count overlaps").click()
    assert max(outputs(page)) == "4"
    page.get_by_role("button", name="Play").click()
    assert page.get_by_label("Stamped cells").get_attribute("aria-valuetext") == "1 of 9"
    page.get_by_role("button", name="Pause").click()
    assert visit.problems() == []


def test_padding_never_eats_the_whole_output(show):
    page = show("transposed_conv", width=800).page
    for label, key in (("Padding p", "End"), ("Stride s", "Home"), ("Kernel k", "Home")):
        page.get_by_label(label).focus()
        page.keyboard.press(key)
    assert "(3 − 1)·1 − 2·1 + 2 = 2" in page.locator(".formula").inner_text()
    assert len(outputs(page)) == 4


def test_a_receptive_field_follows_keys_mouse_and_layers(show):
    visit = show("receptive_field", width=800)
    page = visit.page
    strip, status = page.locator("svg[role=slider]"), page.locator(".status")
    assert "receptive field is r = 1 + 2·1 + 2·2 + 2·4 = 15" in status.inner_text()
    assert strip.get_attribute("aria-valuetext") == "Output cell 3 reads 15 input cells, 5 to 19"
    strip.focus()
    page.keyboard.press("ArrowRight")
    assert strip.get_attribute("aria-valuetext") == "Output cell 4 reads 15 input cells, 9 to 23"
    box = strip.bounding_box()
    page.mouse.click(box["x"] + 10, box["y"] + 25)
    assert "Output cell 0 reads 8 input cells, 0 to 7 (its field of 15 reaches over the border" in status.inner_text()
    page.get_by_label("Kernel of layer 1").select_option("7")
    assert "= 19;" in status.inner_text()
    page.get_by_role("button", name="Add a layer").click()
    assert "= 27;" in status.inner_text()
    page.get_by_role("button", name="Remove layer 4").click()
    page.get_by_role("button", name="three 3×3").click()
    assert "= 7;" in status.inner_text()
    assert visit.problems() == []


def test_a_dilated_stack_follows_sliders_presets_keys_and_mouse(show):
    visit = show("dilation", width=800)
    page = visit.page
    board, status = page.locator("svg[role=slider]"), page.locator(".status")
    assert "reads 49 of the 169 cells of its field (29%), each on 1 to 49 paths" in status.inner_text()
    assert max(int(text or 0) for text in board.locator("text").all_text_contents()) == 49
    page.get_by_role("button", name="1, 2, 5", exact=True).click()
    assert "reads 289 of the 289 cells of its field (100%)" in status.inner_text()
    page.get_by_label("Rate 3").focus()
    page.keyboard.press("ArrowRight")
    assert "1 + 2·1 + 2·2 + 2·6 = 19 cells wide" in status.inner_text()
    page.keyboard.press("ArrowRight")  # the slider still has the focus
    assert "2·7 = 21 cells wide" in status.inner_text()
    page.get_by_role("button", name="Remove layer 3").click()
    page.get_by_role("button", name="Add a layer").click()
    assert "1 + 2·1 + 2·2 + 2·1 = 9 cells wide" in status.inner_text()
    page.get_by_role("button", name="ASPP 6, 12, 18").click()
    assert "9 of 9 at rate 6, 9 of 9 at rate 12, 1 of 9 at rate 18" in status.inner_text()
    board.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowUp")
    assert board.get_attribute("aria-valuetext").startswith("Output cell in column 15, row 11 reads ")
    box = board.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 5, box["y"] + box["height"] - 5)
    assert "in column 32, row 32 reads" in status.inner_text() and "4 of 9 at rate 18" in status.inner_text()
    page.get_by_role("button", name="One after another").click()
    assert "each on" in status.inner_text() and "Taps" not in status.inner_text()
    assert visit.problems() == []


def test_boxes_follow_mouse_keys_scores_and_threshold(show):
    visit = show("nms", width=800)
    page = visit.page
    status, fates = page.locator(".status"), page.locator(".fate")
    assert status.inner_text().startswith("4 of 6 boxes survive: A, E, C, F.")
    assert fates.nth(1).inner_text() == "dropped by A, IoU 0.56"
    box = page.get_by_role("slider", name="Box B", exact=True)
    box.focus()
    page.keyboard.press("ArrowRight")  # half a unit away from A
    assert box.get_attribute("aria-valuetext") == "left 6.5, top 6.0, dropped by A, IoU 0.51"
    assert "B is dropped by A, which has a higher score: IoU 0.51, above 0.50." in status.inner_text()
    page.keyboard.press("ArrowRight")
    assert fates.nth(1).inner_text() == "survives" and fates.nth(2).inner_text().startswith("dropped by B")
    page.get_by_label("Score of C").focus()
    page.keyboard.press("End")
    assert fates.nth(1).inner_text().startswith("dropped by C")
    assert "C survives: it has the highest score." in status.inner_text()
    page.get_by_label("IoU threshold").focus()
    page.keyboard.press("End")
    assert status.inner_text().startswith("6 of 6 boxes survive")
    page.keyboard.press("Home")
    unit = page.locator(".stage svg").bounding_box()["width"] / 45
    drag(page, ".box[aria-label='Box F']", 0, 4 * unit)
    assert "left 31.0, top 16.0" in page.get_by_role("slider", name="Box F").get_attribute("aria-valuetext")
    page.get_by_role("button", name="A chain").click()
    assert page.locator(".box").count() == 5
    page.get_by_label("IoU threshold").focus()
    for _ in range(45):
        page.keyboard.press("ArrowRight")
    assert status.inner_text().startswith("3 of 5 boxes survive: A, C, E.")
    page.get_by_role("button", name="Reset").click()
    assert page.locator(".box").count() == 6
    assert visit.problems() == []


def test_matches_follow_mouse_keys_finger_thresholds_and_buttons(show):
    visit = show("matcher", width=800)
    page = visit.page

    def agrees(foreground=0.7, background=0.3, low=True, size=16):
        """The counts on the page are those of seglib for the boxes on the page; returns (foreground, ignored)."""
        rects = page.locator(".object rect").all()
        read = "r => ['x', 'y', 'width', 'height'].map(k => parseFloat(r.getAttribute(k)))"
        boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (r.evaluate(read) for r in rects)]).double()
        half = [[round(4 * size / r**0.5) / 8, round(4 * size * r**0.5) / 8] for r in (0.5, 1, 2)]
        centres = [[8 * column + 4, 8 * row + 4] for row in range(5) for column in range(7)]
        grid = torch.tensor([[x - w, y - h, x + w, y + h] for x, y in centres for w, h in half]).double()
        iou = box_iou(boxes, grid)
        found = match_boxes(iou, foreground_iou=foreground, background_iou=background, allow_low_quality_matches=low)
        lifted = (found >= 0) & (iou.amax(0) < foreground)
        want = [int(n) for n in ((found >= 0).sum(), lifted.sum(), (found == -2).sum(), (found == -1).sum())]
        assert [int(v) for v in page.locator(".counts b").all_text_contents()] == want
        assert page.locator(".stage .frame").count() == want[0]
        assert page.locator(".stage .low").count() == want[1]
        assert page.locator(".stage .ignored").count() == want[2]
        return want[0], want[2]

    def the_key_has_the_colours(objects):
        strokes = "all => all.map(e => getComputedStyle(e).stroke)"
        of_objects = page.locator(".object rect").evaluate_all(strokes)
        assert len(set(of_objects)) == objects
        assert page.locator(".counts .fore, .counts .low").evaluate_all(strokes) == of_objects * 2

    body, corner = (
        page.get_by_role("slider", name="Object A", exact=True),
        page.get_by_role("slider", name="lower right"),
    )
    agrees()
    the_key_has_the_colours(1)
    body.focus()
    for key in ["ArrowRight"] * 3 + ["ArrowDown"] * 2:
        page.keyboard.press(key)
        agrees()
    assert body.get_attribute("aria-valuetext").startswith("left 15.5, top 11, ")
    corner.focus()
    page.keyboard.press("ArrowLeft")
    assert corner.get_attribute("aria-valuetext").startswith("17.5 wide, 17 high, ")
    unit = page.locator(".stage svg").bounding_box()["width"] / 58
    drag(page, ".object", 60 * unit, -60 * unit)  # as far as it goes
    agrees()
    assert body.get_attribute("aria-valuetext").startswith("left 38.5, top 0, ")
    drag(page, ".corner", -60 * unit, -60 * unit)
    agrees()
    assert corner.get_attribute("aria-valuetext").startswith("2 wide, 2 high, ")
    page.get_by_role("button", name="Thin").click()
    assert agrees()[0] > 0
    page.get_by_role("button", name="Low-quality matches").click()
    assert agrees(low=False)[0] == 0
    assert "and low-quality matches are off" in page.locator(".status").inner_text()
    page.get_by_role("button", name="Low-quality matches").click()
    page.get_by_role("button", name="Two want one").click()
    agrees()
    the_key_has_the_colours(2)
    assert "B: best IoU 0.56, no anchor: its best one overlaps A more, by 1.00." in page.locator(".status").inner_text()
    page.get_by_role("button", name="Reset").click()
    page.get_by_label("Foreground IoU").focus()
    for _ in range(9):
        page.keyboard.press("ArrowLeft")
    assert page.get_by_label("Background IoU").get_attribute("aria-valuetext") == "0.25"  # pushed down with it
    many, ignored = agrees(foreground=0.25, background=0.25)
    assert ignored == 0
    page.get_by_label("Background IoU").focus()
    page.keyboard.press("End")
    assert page.get_by_label("Foreground IoU").get_attribute("aria-valuetext") == "1.00"
    assert agrees(foreground=1.0, background=1.0)[0] < many
    page.get_by_label("Anchor size").focus()
    page.keyboard.press("ArrowRight")
    agrees(foreground=1.0, background=1.0, size=18)
    assert visit.problems() == []


def test_a_pasted_mask_follows_mouse_keys_and_sliders(show):
    visit = show("paste_back", width=800)
    page = visit.page
    titles, status = page.locator(".panel b"), page.locator(".status")

    def ious():
        return [float(text.split()[-1]) for text in titles.all_text_contents()]

    exact, rounded = ious()
    assert exact > 0.95 and rounded < 0.7
    body, corner = (
        page.get_by_role("slider", name=name, exact=True) for name in ("Object", "Object, lower right corner")
    )
    body.focus()
    for key in ["ArrowRight"] * 2 + ["ArrowDown"]:
        page.keyboard.press(key)
    assert body.get_attribute("aria-valuetext").startswith("left 11, top 2.5, IoU ")
    assert (
        "from x 11.00 to 29.50 and from y 2.50 to 21.75; the cells from 8 to 40 and from 0 to 32" in status.inner_text()
    )
    unit = page.locator(".panel svg").first.bounding_box()["width"] / 50
    drag(page, ".panel:nth-child(2) .body", -60 * unit, 60 * unit)  # as far as it goes, in the second panel
    assert body.get_attribute("aria-valuetext").startswith("left 0, top 12.75, IoU ")
    corner.focus()
    page.keyboard.press("ArrowUp")
    assert corner.get_attribute("aria-valuetext").startswith("18.5 wide, 19 high, IoU ")
    drag(page, ".panel:nth-child(1) .corner", -60 * unit, -60 * unit)
    assert corner.get_attribute("aria-valuetext").startswith("6 wide, 6 high, IoU ")
    page.get_by_role("button", name="Reset").click()
    assert ious() == [exact, rounded]
    page.get_by_label("Stride").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_label("Stride").get_attribute("aria-valuetext") == "16"
    assert ious()[0] == exact and ious()[1] != rounded
    page.get_by_label("Mask grid").focus()
    page.keyboard.press("Home")
    assert ious()[0] < exact
    assert visit.problems() == []


def test_a_tile_follows_mouse_keys_and_sliders(show):
    visit = show("valid_tiles", width=800)
    page = visit.page
    tile, status, table = page.locator(".tile"), page.locator(".status"), page.locator("table")
    assert "For 388 × 388 pixels the network reads 572 × 572: 92 more on every side" in status.inner_text()
    assert "Here 92 columns and 92 rows of the window are reflect padding" in status.inner_text()
    assert "takes 4 such tiles" in status.inner_text()
    assert "572 → 568" in table.inner_text() and "392 → 388" in table.inner_text()
    assert "568 → 392" in table.inner_text()
    drag(page, ".tile", 400, 400)  # as far as it goes
    assert tile.get_attribute("aria-valuetext") == "column 124, row 124, 388 pixels wide"
    tile.focus()
    page.keyboard.press("ArrowLeft")
    assert tile.get_attribute("aria-valuetext") == "column 116, row 124, 388 pixels wide"
    assert "Here 84 columns and 92 rows" in status.inner_text()
    page.get_by_label("Lowest map").focus()
    page.keyboard.press("ArrowLeft")
    assert "For 372 × 372 pixels the network reads 556 × 556" in status.inner_text()
    page.get_by_label("Poolings").focus()
    page.keyboard.press("Home")
    assert "8 more on every side" in status.inner_text()
    assert table.locator("tr").count() == 3  # the head and two levels
    assert visit.problems() == []


def test_a_box_follows_mouse_keys_and_buttons_and_both_results_follow_it(show):
    visit = show("roi_bins", width=800)
    page = visit.page
    body, status = page.locator(".body").first, page.locator(".status")

    def results():
        texts = [page.locator(".result").nth(i).locator("text").all_text_contents() for i in (0, 1)]
        return [[float(t) for t in found] for found in texts]

    def want(box, size=2, ratio=2, aligned=True):
        m, boxes = torch.tensor(figures.ROI_MAP, dtype=torch.float64)[None, None], torch.tensor([box]).double()
        where = {"strides": 1.0, "sampling_ratio": ratio, "aligned": aligned}
        pooled = roi_pool(m, boxes, torch.tensor([0]), size, strides=1.0).flatten()
        return [
            [f"{v:.2f}" for v in r] for r in (pooled, roi_align(m, boxes, torch.tensor([0]), size, **where).flatten())
        ]

    def agree(*args, **kwargs):
        for got, expected in zip(results(), want(*args, **kwargs), strict=True):
            assert got == pytest.approx([float(v) for v in expected], abs=0.0101)  # halves of a cent may round apart

    agree((1.2, 0.9, 4.4, 4.7))
    body.focus()
    page.keyboard.press("ArrowRight")
    agree((1.3, 0.9, 4.5, 4.7))  # 4.5 rounds to 5: the pooled box grows by a column
    assert "reads columns 1 to 5 and rows 1 to 5" in status.inner_text()
    assert "The last change moved a bin of RoI Pooling by up to" in status.inner_text()
    page.keyboard.press("ArrowDown")
    assert body.get_attribute("aria-valuetext") == "left 1.30, top 1.00, right 4.50, bottom 4.80"
    page.get_by_role("button", name="Box 0.1 up").click()
    agree((1.3, 0.9, 4.5, 4.7))
    page.get_by_role("button", name="Box 0.1 down").click()
    agree((1.3, 1.0, 4.5, 4.8))
    corner = page.get_by_role("slider", name="Box, top left corner")
    corner.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    agree((1.0, 1.0, 4.5, 4.8))
    page.get_by_role("button", name="aligned").click()
    agree((1.0, 1.0, 4.5, 4.8), aligned=False)
    assert "half a cell too far right" in status.inner_text()
    page.get_by_label("Bins P").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_label("Samples a bin").focus()
    page.keyboard.press("Home")
    agree((1.0, 1.0, 4.5, 4.8), size=3, ratio=1, aligned=False)
    cell = page.locator(".map").first.bounding_box()["width"] / 9.4
    drag(page, ".panel:nth-child(2) .body", 20 * cell, 0)  # as far as it goes, in the second panel
    assert body.get_attribute("aria-valuetext").startswith("left 4.50, top 1.00, right 8.00")
    agree((4.5, 1.0, 8.0, 4.8), size=3, ratio=1, aligned=False)
    page.get_by_role("button", name="Box 0.1 to the left").click()
    assert body.get_attribute("aria-valuenow") == "4.40"
    page.get_by_role("button", name="Reset").click()
    assert body.get_attribute("aria-valuenow") == "1.20"
    assert visit.problems() == []


def test_a_probe_follows_mouse_and_keys(show):
    visit = show("pixel_probe", width=800)
    page = visit.page
    says = page.locator(".says b")
    page.wait_for_function("document.querySelector('[data-params]').shadowRoot.querySelector('.says b').textContent")
    pane = page.locator(".pane").nth(1)
    box = pane.bounding_box()

    def hover(x, y):
        page.mouse.move(box["x"] + (x + 0.5) / 16 * box["width"], box["y"] + (y + 0.5) / 16 * box["height"])
        return says.all_inner_texts()[1:]

    assert hover(3, 5) == ["0: car", "object 1, car", "segment 20: car", "one mask, 16 pixels"]
    assert hover(15, 15) == ["255: void", "nothing", "0: void", "nothing"]
    page.get_by_role("slider").focus()
    for key in ("ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
    assert says.all_inner_texts()[1:] == ["1: sky", "nothing", "segment 9: sky (stuff)", "one mask, 212 pixels"]
    assert page.get_by_role("slider").get_attribute("aria-valuetext") == "column 15, row 13: segment 9: sky (stuff)"
    page.keyboard.press("Shift+ArrowLeft")
    assert "column 7" in page.get_by_role("slider").get_attribute("aria-valuetext")
    painted = page.locator("canvas").nth(1).evaluate("c => [...c.getContext('2d').getImageData(3, 5, 1, 1).data]")
    assert painted == [230, 159, 0, 255]
    page.keyboard.press("ArrowUp")
    hover(3, 5)
    data = "c => [[3, 5], [12, 5]].map(at => [...c.getContext('2d').getImageData(...at, 1, 1).data])"
    car, elsewhere = page.locator("canvas").nth(4).evaluate(data)
    assert car == [86, 180, 233, 255] != elsewhere  # the prompt's mask follows the pointer
    assert visit.problems() == []


def test_six_pixels_follow_mouse_keys_and_buttons(show):
    visit = show("loss_gradient", width=800)
    page = visit.page
    values, shares, status = page.locator(".name b"), page.locator(".share b"), page.locator(".status")
    assert values.all_inner_texts()[2:] == ["0.500", "0.542"]  # Dice and Lovász of the chapter's six pixels
    assert shares.nth(0).inner_text() == "50%"  # (0.25 + 0.75) of 2.0
    pixel = page.locator(".pixel").nth(1)
    pixel.focus()
    for _ in range(3):
        page.keyboard.press("ArrowUp")
    assert pixel.get_attribute("aria-valuetext") == "0.40, truth: object"
    page.keyboard.press("Shift+ArrowDown")
    assert pixel.get_attribute("aria-valuenow") == "0.39"
    box = pixel.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] * 62 / 124)
    assert pixel.get_attribute("aria-valuenow") == "0.50"
    page.get_by_role("button", name="Reset").click()
    assert values.nth(2).inner_text() == "0.500"
    page.get_by_role("button", name="Before training").click()
    page.get_by_label("Each background pixel stands for").focus()
    page.keyboard.press("End")
    assert "The object holds 0.05% of the pixels" in status.inner_text()
    assert shares.nth(0).inner_text() == "0.05%" and shares.nth(2).inner_text() == "50%"
    kinds = page.locator(".kind")
    kinds.nth(0).click()
    kinds.nth(1).click()  # the last object pixel stays
    assert [k.get_attribute("aria-pressed") for k in kinds.all()] == ["false", "true"] + ["false"] * 4
    assert visit.problems() == []


def test_two_figures_of_one_kind_stand_on_one_page(open_page):
    small = figures.transposed_conv([[1, 2], [3, 4]])._repr_html_()
    visit = open_page(html=small + figures.transposed_conv()._repr_html_())
    assert visit.page.locator(".formula").all_inner_texts()[0].endswith("= 5")
    assert visit.page.locator(".formula").all_inner_texts()[1].endswith("= 7")
    assert visit.problems() == []


def test_parameters_cannot_break_out_of_the_page():
    cats = (Category(0, 'a"><script>alert(1)</script>', True, (1, 2, 3)), CATEGORIES[1])
    page = figures.pixel_probe(scene(), cats)._repr_html_()
    assert page.count("<script>") == 1
    params = re.findall(r'data-params="([^"]*)"', page)
    assert json.loads(html.unescape(params[0]))["categories"][0]["name"] == cats[0].name


def test_a_ranked_list_follows_mouse_keys_and_buttons(show):
    visit = show("precision_recall", width=800)
    page = visit.page
    ap, status, grips = page.locator(".big b"), page.locator(".status"), page.locator("li:not([hidden]) .grip")

    def order():
        return "".join(grips.all_inner_texts())

    assert order() == "ABCDEF" and ap.inner_text() == "0.571"  # (26 + 25 · 2/3 + 25 · 3/5) / 101
    assert "3 of 4 objects found by 6 detections: at the end recall 0.75, precision 0.50." in status.inner_text()
    grips.nth(2).focus()
    page.keyboard.press("ArrowUp")
    assert order() == "ACBDEF" and float(ap.inner_text()) > 0.571
    page.keyboard.press("ArrowUp")  # the focus went along
    assert order() == "CABDEF"
    page.keyboard.press("ArrowUp")  # no further
    assert order() == "CABDEF"
    height = page.locator("li").nth(0).bounding_box()["height"]
    drag(page, "li:nth-child(6) .grip", 0, -5 * height)
    assert order() == "FCABDE"
    assert page.evaluate("document.querySelector('[data-params]').shadowRoot.activeElement.ariaLabel").startswith(
        "Detection F, place 1 of 6"
    )
    page.get_by_role("button", name="Detection F is right").click()
    assert "4 of 4 objects found" in status.inner_text()
    page.get_by_role("button", name="Best order").click()
    assert ap.inner_text() == "1.000"
    page.get_by_role("button", name="Add a wrong one").click()
    assert ap.inner_text() == "1.000" and "costs nothing" in status.inner_text() and len(order()) == 7
    page.get_by_role("button", name="Worst order").click()
    assert ap.inner_text() == "0.571"  # 4/7 everywhere
    page.get_by_role("button", name="Remove the last").click()
    assert "3 of 4 objects found by 6" in status.inner_text()
    page.get_by_label("Objects").focus()
    page.keyboard.press("Home")  # never fewer than the right ones
    assert "3 of 3 objects found" in status.inner_text()
    page.get_by_role("button", name="Reset").click()
    assert order() == "ABCDEF" and ap.inner_text() == "0.571"
    assert visit.problems() == []
