"""The moving figures of volumes: their arithmetic against seglib's, and themselves in a browser."""

import functools
import html
import json
import re

import numpy as np
import pytest
import torch

from seglib.book import figures
from seglib.book.figures.element import source
from seglib.book.figures.volumes import SURFACE_PRESETS
from seglib.metrics.surface import surface_distances
from seglib.types import VOID, Category, Sample
from seglib.viz.volumes import PLANES, paint_plane

SIZE, SPACING = (6, 10, 8), (3.0, 1.0, 1.5)
CATEGORIES = (
    Category(0, "background", False, (120, 120, 120)),
    Category(1, "organ", False, (0, 158, 115)),
    Category(2, "lesion", False, (213, 94, 0)),
)
HEAD = "<!doctype html><html lang='en'><meta name='viewport' content='width=device-width'><title>t</title>"
STATUS = "document.querySelector('main > *').shadowRoot.querySelector('.status')"


@functools.cache
def case():
    """CT and MR of one case, its target with a slice of void, and a prediction that is wrong at three voxels."""
    g = torch.Generator().manual_seed(0)
    ct, mr = torch.randn(SIZE, generator=g) * 60, torch.rand(SIZE, generator=g)
    ct[0, 0, 0], ct[5, 9, 7] = -3000, 2000
    target = torch.zeros(SIZE, dtype=torch.int64)
    target[1:4, 2:8, 1:5] = 1
    target[2, 4, 3] = 2
    target[5] = VOID
    prediction = target.clone()
    prediction[2, 4, 3], prediction[1, 2, 1], prediction[0, 0, 1] = 1, 0, 1  # another class, missed, false alarm
    prediction[5] = 1  # void is not judged
    return Sample(torch.stack([ct, mr]), "case", semantic=target, spacing=SPACING), prediction


def slices(**changes):
    sample, prediction = case()
    values = {"predictions": {"3D": prediction}, "categories": CATEGORIES, "modalities": ("CT", "MR")}
    return figures.slices(changes.pop("image", sample), **(values | changes))


@pytest.fixture
def js(open_page):
    """``js(name, function, cases)``: the result of a figure's function for every list of arguments."""
    page = open_page().page

    def call(name, function, cases):
        code = f"{source(name)}\nreturn Promise.all(cases.map(c => ({function})(...c)));"
        return page.evaluate(f"cases => {{ {code} }}", cases)

    return call


@pytest.fixture
def show(open_page):
    """``show(figure, …) -> visit`` with a figure on a bare page."""

    def open_figure(figure, **kwargs):
        visit = open_page(html=f"{HEAD}<main>{figure._repr_html_()}</main></html>", **kwargs)
        visit.page.wait_for_function(
            "document.querySelector('main > *').shadowRoot.querySelector('.status').textContent"
        )
        return visit

    return open_figure


FIGURES = {"slices": slices, "surface_distance": figures.surface_distance}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_same_every_time_asks_nobody_and_speaks_without_javascript(name):
    page = FIGURES[name]()._repr_html_()
    assert page == FIGURES[name]()._repr_html_()
    assert len(source(name).encode()) < 20_000
    assert not re.search(r"""(src|href)=["'](?!data:)|@import|fetch\(|\bimport\b""", page)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert page.count("</script>") == 1
    assert "(needs JavaScript)" in re.search(r'data-params="[^"]*">(.*?)</seg-', page, re.DOTALL)[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_fits_a_phone_follows_the_mode_and_has_no_serious_finding(show, name):
    modes = {"light": ["rgb(255, 255, 255)", "rgb(31, 41, 51)"], "dark": ["rgb(21, 24, 28)", "rgb(230, 232, 234)"]}
    visit = show(FIGURES[name](), width=360)
    card = visit.page.locator(".card")
    assert visit.overflow() <= 0
    assert card.evaluate("e => [...e.querySelectorAll('*')].every(c => c.getBoundingClientRect().right <= 360)")
    for mode, colors in modes.items():
        visit.page.emulate_media(color_scheme=mode)
        assert card.evaluate("e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]") == colors
        assert visit.axe() == []
    assert visit.problems() == []


# Slices: what the page knows


def test_a_volume_of_usual_size_makes_a_page_of_less_than_250_kb():
    g = torch.Generator().manual_seed(1)
    noise = torch.randn(1, 32, 64, 64, generator=g) * 30  # HU; a structured volume packs no worse
    labels = torch.randint(3, (4, 8, 8), generator=g).repeat_interleave(8, 0).repeat_interleave(8, 1)
    labels = labels.repeat_interleave(8, 2)
    figure = figures.slices(noise, labels=labels, predictions=labels, categories=CATEGORIES, spacing=SPACING)
    assert len(figure._repr_html_()) < 250_000


def test_values_arrive_in_256_levels_and_labels_as_they_are(js):
    sample, prediction = case()
    p = slices(hu_range=(-200, 310)).params
    stored = [v["data"] for v in (*p["images"], *p["maps"])]
    ct, mr, target, predicted = (torch.tensor(m) for m in js("slices", "unpack", [[s] for s in stored]))
    assert target.tolist() == sample.semantic.flatten().tolist() and predicted.tolist() == prediction.flatten().tolist()
    for channel, (levels, info) in enumerate(zip((ct, mr), p["images"], strict=True)):
        values = sample.image[channel].flatten().clamp(info["low"], info["high"])
        assert (info["low"] + levels * info["step"] - values).abs().max() <= 0.501 * info["step"]
    assert (p["images"][0]["low"], p["images"][0]["high"], p["images"][0]["step"]) == (-200, 310, 2)
    assert [i["clipped"] for i in p["images"]] == [[True, True], [False, False]]
    assert [i["unit"] for i in p["images"]] == ["HU", ""]


def test_rows_run_from_the_head_to_the_feet_or_from_front_to_back(js):
    axial, coronal, sagittal = ({"down": down, "right": right} for down, right in ((1, 2), (0, 2), (0, 1)))
    cases = [[plane, [2, 4, 3], SIZE, 1, 6] for plane in (axial, coronal, sagittal)]
    found = js("slices", "voxel", cases)
    assert found == [[2, 1, 6], [4, 4, 6], [4, 6, 3]]  # row 1 of six slices is slice 4
    assert js("slices", "pixel", [[c[0], v, SIZE] for c, v in zip(cases, found, strict=True)]) == [[1, 6]] * 3


def test_a_mistake_is_missed_false_or_another_class_and_void_is_none(js):
    pairs = [(1, 0), (0, 1), (2, 1), (1, 1), (VOID, 1)]
    said = js("slices", "mistake", [[*pair, VOID] for pair in pairs])
    assert said == ["missed", "false alarm", "another class", None, None]


def test_the_crosshair_starts_in_the_rarest_class_or_in_the_middle():
    assert slices().params["start"] == (2, 4, 3)
    assert slices(labels=torch.zeros(SIZE, dtype=torch.int64)).params["start"] == (3, 5, 4)
    assert slices(start=(0, 1, 2)).params["start"] == (0, 1, 2)


def test_names_cannot_break_out_of_the_page():
    name = "a\"><script>alert('1')</script>"
    page = slices(modalities=(name, "MR"))._repr_html_()
    assert page.count("<script>") == 1
    assert json.loads(html.unescape(re.findall(r'data-params="([^"]*)"', page)[0]))["images"][0]["name"] == name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": torch.zeros(3, 8, 8)}, r"\(C, D, H, W\) with 1 to 1048576 voxels a channel, got \(3, 8, 8\)"),
        ({"image": torch.zeros(1, 128, 128, 65)}, r"got \(1, 128, 128, 65\); crop"),
        ({"spacing": (1.0, 0.0, 1.0)}, r"above 0, got \(1.0, 0.0, 1.0\)"),
        ({"image": case()[0].image}, "got None; pass spacing"),
        ({"modalities": ("CT",)}, "2 channels need as many different names"),
        ({"modalities": ("CT", "CT")}, "2 channels need as many different names"),
        (
            {"predictions": torch.zeros(6, 10, 9)},
            r"Prediction: the label map is \(6, 10, 9\) and the volume \(6, 10, 8\)",
        ),
        ({"predictions": {"Target": case()[1]}}, "named 'Target' or 'None'"),
        ({"categories": CATEGORIES[:2]}, r"Target: labels \[2\] are not in 0..1 or 255"),
        ({"start": (6, 0, 0)}, r"start \(6, 0, 0\) lies outside"),
        ({"image": Sample(torch.full((2, *SIZE), torch.nan), "a", spacing=SPACING)}, "'CT' has values that are not"),
    ],
)
def test_a_wrong_argument_is_named(changes, said):
    with pytest.raises(ValueError, match=said):
        slices(**changes)


# Slices: in the browser


def planes(page):
    """The pixels of the three canvases, ``(rows, columns, 3)`` each."""
    read = """c => [c.height, c.width,
      [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 < 3)]"""
    found = (page.locator("canvas").nth(k).evaluate(read) for k in range(3))
    return [np.array(data).reshape(h, w, 3) for h, w, data in found]


def expected(labels, *, at, window, alpha):
    """What :func:`seglib.viz.volumes.paint_plane` makes of the values that the page has."""
    info = slices().params["images"][0]
    levels = ((case()[0].image[0].double() - info["low"]) / info["step"]).round().clamp(0, 255)
    values = info["low"] + levels * info["step"]
    return [paint_plane(values, labels, CATEGORIES, plane=p, at=at, window=window, alpha=alpha) for p in PLANES]


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


@pytest.mark.slow
def test_the_planes_are_those_of_the_static_figure(show):
    page = show(slices()).page
    page.get_by_label("Opacity").fill("100")
    void = expected(torch.full(SIZE, VOID), at=(2, 4, 3), window=(40, 400), alpha=1)
    for got, want, stripes in zip(
        planes(page), expected(case()[0].semantic, at=(2, 4, 3), window=(40, 400), alpha=1), void, strict=True
    ):
        striped = (want == stripes).all(2)  # void is striped in both, from another pixel on
        assert np.abs(got - want.astype(int))[~striped].max() <= 1
        assert set(got[striped].flatten().tolist()) <= {150, 205}
    press(page, "None")
    press(page, "Lung")
    for got, want in zip(planes(page), expected(None, at=(2, 4, 3), window=(-600, 1500), alpha=1), strict=True):
        assert np.abs(got - want.astype(int)).max() <= 1


@pytest.mark.slow
def test_the_planes_have_the_aspect_ratio_of_the_spacing(show):
    page = show(slices()).page
    for k, (_, rows, columns) in enumerate(PLANES.values()):
        box = page.locator("canvas").nth(k).bounding_box()
        mm = [n * s for n, s in zip(SIZE, SPACING, strict=True)]
        assert box["width"] / box["height"] == pytest.approx(mm[columns] / mm[rows], rel=0.01)  # a pixel of rounding
    widths = [page.locator("canvas").nth(k).bounding_box()["width"] for k in range(3)]
    assert [w / widths[0] for w in widths] == pytest.approx([1, 1, 10 / 12], rel=0.01)  # one scale for all planes


@pytest.mark.slow
def test_a_click_moves_the_crosshair_of_all_planes_with_the_head_above(show):
    visit = show(slices())
    page = visit.page
    status = page.locator(".status")
    assert status.inner_text().startswith("Voxel z 2, y 4, x 3, at 6.0, 4.0, 4.5 mm. CT: ")
    assert status.inner_text().endswith("Target: lesion. 3D: organ.")
    coronal = page.get_by_role("slider", name="Coronal plane")
    box = coronal.bounding_box()  # 6 rows of z, the last one below; 8 columns of x
    coronal.click(position={"x": 0.5 / 8 * box["width"], "y": 0.5 / 6 * box["height"]})
    assert "z 5, y 4, x 0" in status.inner_text() and "Target: void" in status.inner_text()
    assert [page.get_by_label(n).input_value() for n in ("Axial, z", "Coronal, y", "Sagittal, x")] == [
        "5", "4", "0",
    ]  # fmt: skip
    page.mouse.move(box["x"] + 7.5 / 8 * box["width"], box["y"] + 5.5 / 6 * box["height"])
    assert "z 0, y 4, x 7" in status.inner_text()  # of what lies under the pointer
    assert page.get_by_label("Axial, z").input_value() == "5"
    page.mouse.move(0, 0)
    assert "z 5, y 4, x 0" in status.inner_text()
    assert visit.problems() == []


@pytest.mark.slow
def test_the_keyboard_moves_the_crosshair_and_scrolls(show):
    page = show(slices()).page
    status, sagittal = page.locator(".status"), page.get_by_role("slider", name="Sagittal plane")
    sagittal.focus()
    for key in ("ArrowUp", "ArrowRight", "PageUp", "PageUp", "PageDown"):
        page.keyboard.press(key)
    assert "z 3, y 5, x 4" in status.inner_text()
    assert sagittal.get_attribute("aria-valuenow") == "4"
    assert sagittal.get_attribute("aria-valuetext").startswith("Sagittal slice 4 of 7. Voxel z 3, y 5, x 4, at")
    for _ in range(9):
        page.keyboard.press("ArrowDown")
    assert "z 0, y 5, x 4" in status.inner_text()
    page.get_by_label("Coronal, y").focus()
    page.keyboard.press("ArrowRight")
    assert "z 0, y 6, x 4" in status.inner_text()
    spoken = "document.querySelector('main > *').shadowRoot.querySelector('[aria-live]').textContent"
    page.wait_for_function(f"{spoken}.includes('z 0, y 6, x 4')")


@pytest.mark.slow
def test_the_wheel_scrolls_slices_only_over_a_plane_that_was_clicked(show):
    page = show(slices(), height=300).page
    axial = page.get_by_role("slider", name="Axial plane")
    axial.hover()
    page.mouse.wheel(0, 40)
    page.wait_for_function("scrollY > 0")
    assert "z 2," in page.locator(".status").inner_text()
    axial.click()
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, 40)
    page.wait_for_function(f"{STATUS}.textContent.includes('z 1,')")
    assert page.evaluate("scrollY") == before


@pytest.mark.slow
def test_the_overlay_shows_target_prediction_and_where_they_differ(show):
    page = show(slices()).page
    difference = page.get_by_role("button", name="Where it differs")
    assert difference.is_disabled()
    assert page.locator(".key").inner_text().split("\n") == ["organ", "lesion", "void"]
    page.get_by_label("Axial, z").fill("1")
    target = planes(page)[0]
    press(page, "3D")
    predicted = planes(page)[0]
    assert np.argwhere((target != predicted).any(2)).tolist() == [[2, 1]]
    difference.click()
    assert page.locator(".key").inner_text().split("\n") == [
        "missed: 1 voxels", "false alarm: 1 voxels", "another class: 1 voxels",
    ]  # fmt: skip
    differs = planes(page)[0]
    press(page, "None")
    assert np.argwhere((differs != planes(page)[0]).any(2)).tolist() == [[2, 1]]


@pytest.mark.slow
def test_each_image_has_its_own_window_and_the_sliders_change_it(show):
    page = show(slices()).page
    level, width = page.get_by_label("Level"), page.get_by_label("Width")
    press(page, "Bone")
    assert page.locator("label", has_text="Level").inner_text().endswith("400 HU")
    level.fill("110")  # of 200 steps from -1000 to 1000 HU
    width.fill("20")
    press(page, "None")
    for got, want in zip(planes(page), expected(None, at=(2, 4, 3), window=(100, 200), alpha=1), strict=True):
        assert np.abs(got - want.astype(int)).max() <= 1
    press(page, "MR")
    assert page.get_by_role("button", name="1–99 %").get_attribute("aria-pressed") == "true"
    press(page, "CT")
    assert (level.input_value(), width.input_value()) == ("110", "20")


@pytest.mark.slow
def test_a_value_beyond_what_is_stored_is_given_as_a_bound(show):
    assert "CT: ≤ −1000 HU" in show(slices(start=(0, 0, 0))).page.locator(".status").inner_text()
    assert "CT: ≥ 1000 HU" in show(slices(start=(5, 9, 7))).page.locator(".status").inner_text()


# Surface distances


def numbers(pred, target, spacing, tolerance):
    """The scores by seglib, in the order of the page."""
    pred, target = (torch.tensor(m).bool() for m in (pred, target))
    found = surface_distances(pred, target, spacing)
    dice = 2 * float((pred & target).sum()) / float(pred.sum() + target.sum())
    hausdorff = (found.hausdorff(100), found.hausdorff(95), found.hausdorff(95, pooled=True))
    return dice, *hausdorff, found.surface_dice(tolerance)


def test_the_scores_equal_seglibs_on_random_masks(js):
    rng, cases, want = np.random.default_rng(0), [], []
    for spacing in ((1, 1), (4, 1), (2.5, 0.75)):
        for _ in range(40):
            h, w = rng.integers(2, 9, 2).tolist()
            pred, target = (rng.random((h, w)) < rng.choice([0.2, 0.6, 0.95]) for _ in range(2))
            pred[0, -1], target[-1, 0] = True, True  # never empty
            flat = [m.astype(int).ravel().tolist() for m in (pred, target)]
            cases.append([*flat, h, w, spacing, 2.5])
            want.append(numbers(pred, target, spacing, 2.5))
    got = js("surface_distance", "scores", cases)
    keys = ("dice", "hd", "larger", "pooled", "nsd")
    assert [[s[k] for k in keys] for s in got] == [pytest.approx(w, abs=1e-9) for w in want]  # float64 in both


@pytest.mark.slow
def test_every_preset_shows_seglibs_numbers(show, js):
    page = show(figures.surface_distance(tolerance=1.5)).page
    grids = ([1, 1], [2, 2], [4, 1])
    still = {"shift": {"x": 0, "y": 0}, "grow": 0, "rough": 0, "speck": 0, "far": 14}
    shown = {}
    for name, (changes, note) in SURFACE_PRESETS.items():
        press(page, name)
        cells = page.locator("tbody td").all_inner_texts()
        shown[name] = [float(c.removesuffix(" mm")) for c in cells]
        spacing = grids[changes.get("grid", 0)]
        [made] = js("surface_distance", "masks", [[still | changes, spacing]])
        pred, target = (np.reshape(made[k], (made["h"], made["w"])) for k in ("pred", "target"))
        assert pred.shape == (40 / spacing[0], 64 / spacing[1])
        assert shown[name] == pytest.approx(numbers(pred, target, spacing, 1.5), abs=5e-3)  # two or three decimals
        assert page.locator(".status").inner_text().startswith(note)
    dice, hd95, pooled = (lambda n: shown[n][0]), (lambda n: shown[n][2]), (lambda n: shown[n][3])
    assert shown["Equal"] == [1, 0, 0, 0, 1]
    assert dice("Dice hides") > 0.99 and hd95("Dice hides") == pooled("Dice hides") == 14
    assert dice("HD95 hides") < 0.8 and hd95("HD95 hides") == 3
    assert shown["One far voxel"][1:4] == [16, 0, 0]
    assert (hd95("0 or 7 mm"), pooled("0 or 7 mm")) == (7, 0)
    assert dice("Rough") > 0.93 and shown["Rough"][4] < 0.95
    assert hd95("Thick slices") == 4
    press(page, "Ignore the spacing")
    assert page.locator("tbody td").nth(2).inner_text() == "1.00 voxels"
    assert page.locator(".status").inner_text().endswith("in millimetres HD95 is 4.00.")


@pytest.mark.slow
def test_the_prediction_follows_mouse_and_keys(show):
    visit = show(figures.surface_distance(preset="Equal"))
    page = visit.page
    body = page.get_by_role("slider", name="Shift of the prediction")
    scene = page.get_by_label("Boundary voxels").bounding_box()
    mm = scene["width"] / 64.4
    page.mouse.move(scene["x"] + 25 * mm, scene["y"] + 20 * mm)
    page.mouse.down()
    page.mouse.move(scene["x"] + 28 * mm, scene["y"] + 20 * mm, steps=5)
    page.mouse.up()
    assert body.get_attribute("aria-valuetext") == "3 mm to the right, 0 mm down"
    assert page.locator("tbody td").nth(1).inner_text() == "3.00 mm"
    assert page.get_by_role("button", name="Equal").get_attribute("aria-pressed") == "false"
    body.focus()
    for key in ("ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
    assert body.get_attribute("aria-valuetext") == "0 mm to the right, −2 mm down"
    assert page.locator("tbody td").nth(1).inner_text() == "2.00 mm"
    for _ in range(12):
        page.keyboard.press("ArrowUp")
    assert body.get_attribute("aria-valuetext") == "0 mm to the right, −8 mm down"
    assert visit.problems() == []


@pytest.mark.slow
def test_sliders_change_the_prediction_and_the_marks_follow_the_tolerance(show):
    page = show(figures.surface_distance(preset="Equal")).page
    page.get_by_label("Grow").fill("2")
    page.get_by_label(re.compile(r"^Speck\d")).fill("3")
    page.get_by_label("Speck is off by").fill("6")
    status = page.locator(".status").inner_text()
    assert re.fullmatch(
        r"Beyond the tolerance: \d+ of \d+ boundary voxels of the prediction and \d+ of 88 boundary voxels of the .*",
        status,
    )
    marks = page.locator("path.p.far")
    assert marks.get_attribute("d").count("z") == int(re.search(r": (\d+) of", status)[1]) > 3
    page.get_by_label("Tolerance").fill("5")
    assert marks.get_attribute("d").count("z") == 3  # the speck
    assert page.locator("path.t.far").get_attribute("d") == ""
    assert page.locator("tbody th").last.inner_text().startswith("NSD at 5 mm")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"preset": "far"}, "preset must be one of .*'Dice hides'.*, got 'far'"),
        ({"tolerance": 5.5}, "0 to 5 mm in steps of 0.5, got 5.5"),
        ({"tolerance": 0.3}, "0 to 5 mm in steps of 0.5, got 0.3"),
    ],
)
def test_a_wrong_start_is_named(changes, said):
    with pytest.raises(ValueError, match=said):
        figures.surface_distance(**changes)
