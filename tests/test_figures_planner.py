"""The plan explorer: its plan against seglib.planning's, its reasons, and itself in a browser."""

import json
import re

import numpy as np
import pytest

from seglib.book import figures
from seglib.book.figures.element import source
from seglib.book.figures.planner import PLAN_PRESETS, plan_of
from seglib.planning.fingerprint import Fingerprint, ForegroundStatistics
from seglib.planning.memory import PLANNERS
from seglib.planning.plan import plan

HEAD = "<!doctype html><html lang='en'><meta name='viewport' content='width=device-width'><title>t</title>"
FILES = ("planner", "plan_reasons", "plan_explorer")


@pytest.fixture
def show(open_page):
    """``show(preset, …) -> visit`` with the explorer on a bare page."""

    def open_figure(preset="Abdominal CT, thick slices", **options):
        page = figures.plan_explorer(preset=preset)._repr_html_()
        visit = open_page(html=f"{HEAD}<main>{page}</main></html>", **options)
        visit.page.wait_for_selector("ol li")
        return visit

    return open_figure


def rule(page, title):
    """The item of a rule in the list."""
    return page.locator("li").filter(has=page.get_by_text(title, exact=True))


def value(page, title):
    return rule(page, title).locator(".value").inner_text()


def was(page, title):
    return rule(page, title).locator(".was").inner_text()


# The plan


def random_settings(rng, k):
    """Settings of the page: half of them large, every third with a coarse axis, every fourth with a thin one."""
    spacing = np.exp(rng.uniform(np.log(0.4), np.log(6), 3)) if k % 2 else np.full(3, rng.uniform(0.4, 2))
    size = np.exp(rng.uniform(np.log(12 if k % 4 < 2 else 200), np.log(900), 3)).astype(int)
    if k % 3 == 1:
        axis = rng.integers(3)
        spacing[axis], size[axis] = spacing.max() * rng.uniform(1, 8), max(1, size[axis] // 8)
    if k % 4 == 0:
        size[rng.integers(3)] = rng.integers(1, 12)
    planner = list(PLANNERS)[k % len(PLANNERS)]
    return {
        "spacing": [round(float(s), int(rng.integers(0, 4))) or 1.0 for s in spacing],
        "size": size.tolist(),
        "cases": int(np.exp(rng.uniform(0, np.log(80)))),
        "spread": int(rng.integers(0, 19)) / 20,
        "planner": planner,
        "memory": float(PLANNERS[planner].memory if k % 5 else rng.integers(3, 60)),
        "classes": int(rng.integers(2, 40)),
        "channels": int(rng.integers(1, 5)),
    }  # fmt: skip


def random_cases(rng, settings):
    """A fingerprint without any order: every case has spacings and sizes of its own."""
    n = settings["cases"]
    spacings = np.array(settings["spacing"]) * np.exp(rng.normal(0, 0.3, (n, 3)))
    sizes = np.maximum(1, np.array(settings["size"]) * np.exp(rng.normal(0, 0.3, (n, 3)))).astype(int)
    return spacings.tolist(), sizes.tolist()


def of_cases(spacings, sizes, settings):
    facts = Fingerprint(
        "",
        ("MR",) * settings["channels"],
        tuple(map(str, range(settings["classes"]))),
        tuple(map(tuple, spacings)),
        tuple(map(tuple, sizes)),
        1.0,
        (ForegroundStatistics(0, 0, 1, 0, 0, 0, 0),) * settings["channels"],
    )
    return plan(facts, planner=settings["planner"], memory=settings["memory"])


def numbers(c):
    """Everything of a configuration but its spacing."""
    fields = ("median_size", "patch", "batch_size", "widths", "kernels", "strides", "blocks", "decoder_blocks",
              "residual", "batch_dice")  # fmt: skip
    return json.loads(json.dumps([getattr(c, field) for field in fields]))


JS_NUMBERS = """[c.spacing, c.size, c.patch, c.batch, c.widths, c.kernels, c.strides, c.blocks, c.decoderBlocks,
  c.residual, c.batchDice]"""
"""The same of the page's plan."""


def assert_equal(page_plan, make):
    """The page's plan is the one that seglib makes, or both say that there is none."""
    try:
        made = make()
    except ValueError as error:
        assert "message" in page_plan, error
        return "no plan"
    assert page_plan["transpose"] == list(made.transpose)
    assert page_plan["configurations"].keys() == made.configurations.keys()
    for name, c in made.configurations.items():
        spacing, *rest = page_plan["configurations"][name]
        assert spacing == pytest.approx(c.spacing, rel=1e-9)
        assert rest == numbers(c), name
    return ", ".join(sorted(made.configurations))


@pytest.fixture
def run(open_page):
    """``run(file, body, cases)``: what the body of a function of ``c`` gives for each case, after the scripts."""
    page = open_page().page

    def call(file, body, cases):
        scripts = source(*FILES[: FILES.index(file) + 1])
        return page.evaluate(f"cases => {{ {scripts}\nreturn cases.map(c => {{ {body} }}); }}", cases)

    return call


BASE = {"cases": 40, "classes": 3, "channels": 1, "spread": 0.0, "planner": "plain", "memory": 8}
KNOWN = [BASE | settings for settings, _ in PLAN_PRESETS.values()]
ODD = {
    "twice the finest spacing is not within a factor of 2": {"spacing": (2, 1, 1), "size": (40, 128, 128)},
    "a lone axis of 11 voxels is not halved": {"spacing": (1, 1, 1), "size": (7, 7, 11)},
    "of equally long axes the last is cut": {"spacing": (1, 1, 1), "size": (200, 200, 200), "memory": 5},
    "low resolution with half of the voxels or more is dropped": {"spacing": (2, 0.78, 0.78), "size": (55, 512, 512)},
    "the middle axis has one voxel": {"spacing": (1, 1, 1), "size": (64, 1, 64)},
    "the coarsest axis is the last": {"spacing": (0.7, 0.8, 4), "size": (300, 310, 50), "spread": 0.85},
    "half a voxel in the median": {"spacing": (9.5, 1, 0.7), "size": (7, 210, 93), "cases": 2, "spread": 0.1},
    "no low resolution without 3D": {"spacing": (1.32, 0.75, 0.77), "size": (320, 7, 11)},
    "one case": {"spacing": (1, 1, 1), "size": (64, 64, 64), "cases": 1},
    "half of a voxel in the first patch": {"spacing": (1, 1, 1), "size": (300, 300, 65), "planner": "resenc_xl"},
    "2D of residual blocks has room for 12": {"spacing": (1, 1, 1), "size": (1, 2000, 2000), "planner": "resenc_m"},
}
"""Settings in which a rule is close to another answer."""


def outcomes(run, settings, cases):
    """The configurations of each plan, equal in seglib and on the page. ``None`` for cases: those of the page."""
    body = f"""
      const facts = c.cases ? {{spacings: c.cases[0], sizes: c.cases[1]}} : casesOf(c.settings);
      const entry = ([name, c]) => [name, {JS_NUMBERS}];
      try {{
        const {{transpose, configurations}} = plan({{...facts, ...c.settings}});
        return {{transpose, configurations: Object.fromEntries(Object.entries(configurations).map(entry))}};
      }} catch ({{message}}) {{ return {{message}}; }}"""
    found = run("planner", body, [{"settings": s, "cases": c} for s, c in zip(settings, cases, strict=True)])
    return [
        assert_equal(got, lambda s=s, c=c: of_cases(*c, s) if c else plan_of(s))
        for got, s, c in zip(found, settings, cases, strict=True)
    ]


def test_the_plan_is_seglibs_on_presets_and_odd_settings(run):
    settings = [*KNOWN, *(BASE | odd for odd in ODD.values())]
    found = outcomes(run, settings, [None] * len(settings))
    of = dict(zip([*PLAN_PRESETS, *ODD], found, strict=True))
    assert of["Whole-body CT"] == "2d, 3d_cascade_fullres, 3d_fullres, 3d_lowres"
    assert of["low resolution with half of the voxels or more is dropped"] == "2d, 3d_fullres"
    assert of["2D microscopy"] == "2d" and of["a lone axis of 11 voxels is not halved"] == "no plan"


@pytest.mark.slow
def test_the_plan_is_seglibs_on_200_random_settings(run):
    rng = np.random.default_rng(0)
    settings = [random_settings(rng, k) for k in range(200)]
    found = outcomes(run, settings, [random_cases(rng, s) if k % 2 else None for k, s in enumerate(settings)])
    everything = "2d, 3d_cascade_fullres, 3d_fullres, 3d_lowres"
    assert {"2d", "2d, 3d_fullres", everything, "no plan"} <= set(found)  # all of them occur


def test_rounding_and_percentiles_are_pythons(run):
    values = [0.5, 1.5, 2.5, 2.4999999, 3.7, 7.0]
    assert run("planner", "return round(c);", values) == [round(v) for v in values]
    lists = [[3.0], [1.0, 2.0], [5.0, 1.5, 2.25, 0.3, 0.31], list(range(12))]
    cases = [[v, q] for v in lists for q in (0, 10, 50, 90, 100)]
    assert run("planner", "return percentile(...c);", cases) == [float(np.percentile(v, q)) for v, q in cases]


def test_every_change_has_a_cause_among_the_inputs_and_the_rules_before_it(run):
    rng = np.random.default_rng(1)
    names = {"cases": "Cases", "spread": "Spacing ± %", "memory": "Memory", "classes": "Classes", "planner": "Planner"}
    cube = BASE | {"spacing": (1, 1, 1), "size": (64, 64, 64)}
    moves = [[cube, cube | {"spacing": (1, 1, 1.0004)}, "Spacing x"]]  # still printed as 1, but x now comes first
    for k in range(70):
        before = KNOWN[k % len(KNOWN)] if k % 2 else random_settings(rng, k)
        now, other = dict(before), random_settings(rng, k)
        key = ["spacing", "size", *names][k % 7]
        now[key] = other[key]
        if key in ("spacing", "size"):
            axis = int(rng.integers(3))
            now[key] = [other[key][i] if i == axis else n for i, n in enumerate(before[key])]
            moves.append([before, now, f"{key.capitalize()} {'zyx'[axis]}"])
        else:
            moves.append([before, now, names[key]])
    body = """
      const [before, now, moved] = c;
      const planOf = s => { try { return plan({...casesOf(s), ...s}); } catch { return null; } };
      const [old, found] = [before, now].map(planOf);
      if (!old || !found) return [];
      return Object.keys(found.configurations).filter(name => old.configurations[name]).flatMap(name =>
        [...changes(reasons(old, name, before), reasons(found, name, now), [moved])].map(entry => [name, ...entry]));"""
    found = [change for move in run("plan_reasons", body, moves) for change in move]
    assert len(found) > 200
    assert [change for change in found if not change[2]] == []


# The page


def test_the_figure_is_the_same_every_time_asks_nobody_and_speaks_without_javascript():
    page = figures.plan_explorer()._repr_html_()
    assert page == figures.plan_explorer()._repr_html_()
    assert all(len(source(name).encode()) < 25_000 for name in FILES)
    assert not re.search(r"""(src|href)=["'](?!data:)|@import|fetch\(|\bimport\b""", page)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert page.count("</script>") == 1


@pytest.mark.parametrize("preset", PLAN_PRESETS)
def test_without_javascript_it_is_a_table_of_the_plan(preset):
    page = figures.plan_explorer(preset=preset)._repr_html_()
    said = re.search(r'data-params="[^"]*">(.*?)</seg-', page, re.DOTALL)[1]
    assert "(needs JavaScript)" in said and PLAN_PRESETS[preset][1] in said
    for name, c in plan_of(PLAN_PRESETS[preset][0]).configurations.items():
        assert f"<th>{name}</th>" in said
        assert f"<td>{' × '.join(map(str, c.patch))}</td><td>{c.batch_size}</td>" in said


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match="preset must be one of .*'Whole-body CT'.*, got 'knee'"):
        figures.plan_explorer(preset="knee")


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 800])
def test_it_fits_a_phone_follows_the_mode_and_has_no_serious_finding(show, width):
    modes = {"light": ["rgb(255, 255, 255)", "rgb(31, 41, 51)"], "dark": ["rgb(21, 24, 28)", "rgb(230, 232, 234)"]}
    visit = show(width=width)
    visit.page.get_by_label("Spacing z, mm", exact=True).fill("2")
    visit.page.locator("summary").first.click()
    card = visit.page.locator(".card")
    assert visit.overflow() <= 0
    assert card.evaluate(f"e => [...e.querySelectorAll('*')].every(c => c.getBoundingClientRect().right <= {width})")
    texts = """e => [...e.querySelectorAll("svg text")].map(t => parseFloat(getComputedStyle(t).fontSize)
      * t.ownerSVGElement.getScreenCTM().a)"""
    assert min(card.evaluate(texts)) >= 12
    for mode, colors in modes.items():
        visit.page.emulate_media(color_scheme=mode)
        assert card.evaluate("e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]") == colors
        assert visit.axe() == []
    assert visit.problems() == []


@pytest.mark.slow
def test_every_configuration_of_a_preset_shows_the_plans_numbers(show):
    page = show().page
    for preset, (settings, note) in PLAN_PRESETS.items():
        page.get_by_role("button", name=preset, exact=True).click()
        assert page.locator(".status").inner_text() == note
        made = plan_of(settings).configurations
        for name in ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"):
            tab = page.get_by_role("button", name=name, exact=True)
            assert tab.is_enabled() == (name in made)
            if name not in made:
                continue
            tab.click()
            c = made[name]
            unit = "voxels" if c.dims == 3 else "pixels"
            assert value(page, "Patch") == f"{' × '.join(map(str, c.patch))} {unit}"
            assert value(page, "Batch size") == str(c.batch_size)
            assert value(page, "Channels per stage") == ", ".join(map(str, c.widths))
            assert value(page, "Blocks per stage") == ", ".join(map(str, c.blocks))
            assert value(page, "Dice loss") == ("over the batch" if c.batch_dice else "per patch")
            drawn = page.locator("svg").first.get_attribute("aria-label")
            assert drawn.startswith(f"U-Net of {len(c.widths)} stages.")
            deepest = [n // int(np.prod([s[axis] for s in c.strides])) for axis, n in enumerate(c.patch)]
            stride = " × ".join(map(str, c.strides[-1]))
            assert f"map {' × '.join(map(str, deepest))}, {c.widths[-1]} channels" in drawn
            assert drawn.endswith(f"kernel {' × '.join(map(str, c.kernels[-1]))}, stride {stride}.")
            assert page.locator("rect.down").count() == len(c.widths) == page.locator("rect.up").count() + 1


@pytest.mark.slow
def test_a_change_marks_what_it_changes_and_names_the_cause(show):
    visit = show()
    page = visit.page
    assert page.locator("li.changed").count() == 0
    page.get_by_label("Spacing z, mm", exact=True).fill("2")
    status = page.locator(".status").inner_text()
    assert status.startswith("Spacing z: 5 → 2. 3d_lowres is gone. 3d_cascade_fullres is gone. Changed in 3d_fullres: ")
    assert value(page, "Target spacing") == "2 × 0.78 × 0.78 mm"
    assert was(page, "Target spacing") == "Was 2.6 × 0.78 × 0.78 mm, by: spacing z."
    assert was(page, "Dice loss") == "Was over the batch, by: low resolution."
    assert was(page, "Order of axes") == "" and "changed" not in (
        rule(page, "Order of axes").get_attribute("class") or ""
    )
    titles = page.locator("li.changed .head span:first-child").all_inner_texts()
    assert [t.lower() for t in titles] == status.removesuffix(".").split("3d_fullres: ")[1].split(", ")
    assert page.locator("svg text.new").count() > 3
    page.wait_for_function(
        "document.querySelector('main > *').shadowRoot.querySelector('[aria-live]').textContent.includes('→ 2.')"
    )
    spoken = page.locator("[aria-live]").text_content()
    assert spoken.endswith(f"3d_fullres: patch {value(page, 'Patch').removesuffix(' voxels')}, 7 stages, batch size 2.")
    page.get_by_role("button", name="Abdominal CT, thick slices").click()
    assert page.locator("li.changed").count() == 0
    assert visit.problems() == []


@pytest.mark.slow
def test_one_movement_of_a_slider_is_one_change_and_a_key_is_one_step(show):
    page = show("Hippocampus MR").page
    slider, number = (page.get_by_label(f"Memory, GB{end}", exact=True) for end in (", slider", ""))
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert number.input_value() == slider.get_attribute("aria-valuetext") == "10"
    assert page.locator(".status").inner_text() == "Memory: 9 → 10. No number of 3d_fullres changed."  # 5 % decide
    box = slider.bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2, steps=8)
    page.mouse.up()
    assert page.locator(".status").inner_text().startswith("Memory: 10 → 80.")  # not from the value before the last
    page.get_by_label("Cases", exact=True).fill("520")
    assert was(page, "Batch size") == "Was 9, by: cases."
    page.get_by_label("Planner").select_option("resenc_l")
    assert page.locator(".status").inner_text().startswith("Memory: 80 → 24. Planner: Plain → ResEnc L.")
    assert value(page, "Blocks per stage") == "1, 3, 4, 6"


@pytest.mark.slow
def test_the_steps_of_the_patch_end_below_the_limit_and_stay_open(show):
    page = show().page
    page.locator("summary").click()
    rows = [row.split("\t") for row in page.locator("details tr").all_inner_texts()][1:]
    assert len(rows) == 14 and rows[-1][2] == "fits"
    shares = [float(share.removesuffix(" %")) for _, share, _ in rows]
    assert shares == sorted(shares, reverse=True) and shares[-1] <= 100 < shares[-2]
    page.get_by_label("Classes", exact=True).fill("20")
    assert page.locator("details").get_attribute("open") is not None
    page.get_by_role("button", name="Hippocampus MR").click()
    assert page.locator("details").is_hidden()  # nothing was cut


@pytest.mark.slow
def test_a_number_out_of_range_and_a_data_set_without_a_plan_are_said(show):
    visit = show("Hippocampus MR")
    page = visit.page
    patch, cases = value(page, "Patch"), page.get_by_label("Cases", exact=True)
    for wrong in ("0", "", "1.5", "10001"):
        cases.fill(wrong)
        assert cases.get_attribute("aria-invalid") == "true" and value(page, "Patch") == patch
    cases.fill("20")
    assert cases.get_attribute("aria-invalid") == "false"
    for axis in "zyx":
        page.get_by_label(f"Size {axis}, voxels", exact=True).fill("7")
    assert (
        page.locator(".status")
        .inner_text()
        .startswith("No axis can be halved, so there is no U-Net for cases of 7 × 7")
    )
    page.get_by_role("button", name="Cardiac cine MR").click()
    assert value(page, "Patch") == "20 × 256 × 224 voxels"
    assert visit.problems() == []
