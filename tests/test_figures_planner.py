"""The plan explorer: its plan against seglib.planning's, its reasons, and itself in a browser."""

import html
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
    return rule(page, title).locator(".head span").inner_text()


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
        "cases": int(np.exp(rng.uniform(0, np.log(400)))),
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


@pytest.mark.slow
def test_the_plan_is_seglibs_on_presets_and_200_random_settings(open_page):
    rng = np.random.default_rng(0)
    known = [
        dict(channels=1, spread=0.0, planner="plain", memory=8) | settings for settings, _ in PLAN_PRESETS.values()
    ]
    settings = known + [random_settings(rng, k) for k in range(200)]
    cases = [random_cases(rng, s) if k % 2 else None for k, s in enumerate(settings)]  # None: those of the page
    page = open_page().page
    code = f"""all => {{ {source("planner")}
      const entry = ([name, c]) => [name, {JS_NUMBERS}];
      return all.map(([settings, cases]) => {{
        const facts = cases ? {{spacings: cases[0], sizes: cases[1]}} : casesOf(settings);
        try {{
          const {{transpose, configurations}} = plan({{...facts, ...settings}});
          return {{transpose, configurations: Object.fromEntries(Object.entries(configurations).map(entry))}};
        }} catch ({{message}}) {{ return {{message}}; }}
      }});
    }}"""
    found = page.evaluate(code, [[s, c] for s, c in zip(settings, cases, strict=True)])
    outcomes = [
        assert_equal(got, lambda s=s, c=c: of_cases(*c, s) if c else plan_of(s))
        for got, s, c in zip(found, settings, cases, strict=True)
    ]
    print({o: outcomes.count(o) for o in set(outcomes)})
