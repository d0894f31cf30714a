"""The moving figures about queries: their arithmetic against scipy and torch, and themselves in a browser."""

import functools
import html
import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from seglib.book import figures
from seglib.book.figures.element import source
from seglib.book.figures.images import unpack_maps
from seglib.book.figures.queries import LETTERS
from seglib.data.scenes import CATEGORIES
from seglib.models.fcn import fcn_tiny
from seglib.models.mask2former import mask2former_tiny

HEAD = "<!doctype html><html lang='en'><meta name='viewport' content='width=device-width'><title>t</title>"


@functools.cache
def network():
    """A network of six layers and twelve queries, as initialised, whose masks are neither empty nor full."""
    torch.manual_seed(7)
    model = mask2former_tiny(len(CATEGORIES), num_things=7, queries=12)
    nn.init.normal_(model.decoder.mask_head[-1].weight)
    with torch.no_grad():
        model.decoder.class_head.weight *= 3
    return model.eval()


@functools.cache
def image():
    return torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(2))


@functools.cache
def attention_figure():
    return figures.masked_attention(network(), image(), CATEGORIES, most=5)


ALL = {"hungarian": figures.hungarian, "masked_attention": attention_figure}
SCRIPTS = {"hungarian": ("hungarian",), "masked_attention": ("maps", "masked_attention")}


# The HTML


@pytest.mark.parametrize(("name", "most"), [("hungarian", 16_000), ("masked_attention", 250_000)])
def test_a_figure_is_small_the_same_every_time_and_asks_nobody(name, most):
    page = ALL[name]()._repr_html_()
    attention_figure.cache_clear()
    assert page == ALL[name]()._repr_html_() and len(page.encode()) < most
    assert len(source(*SCRIPTS[name]).encode()) < 16_500
    assert not re.search(r"""(src|href)=["'](?!data:)|@import|fetch\(|\bimport\b""", page)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert page.count("</script>") == 1


@pytest.mark.parametrize("name", ALL)
def test_a_figure_says_something_without_javascript_and_without_html(name):
    page = ALL[name]()._repr_html_()
    fallback = re.search(r'data-params="[^"]*">(.*?)</seg-', page, re.DOTALL)[1]
    assert "(needs JavaScript)" in fallback and len(fallback) > 200
    assert ALL[name]()._repr_mimebundle_()["text/plain"].startswith("<moving figure: ")


def test_names_cannot_break_out_of_the_page():
    name = "a\"><script>alert('1')</script>"
    page = figures.hungarian([[1.0]], rows=[name], presets={name: [[1.0]]})._repr_html_()
    assert page.count("<script>") == 1
    params = json.loads(html.unescape(re.findall(r'data-params="([^"]*)"', page)[0]))
    assert params["rows"] == [name] and params["presets"][1][0] == name


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: figures.hungarian([[1, 2], [3]]), r"'Start' must be 1 to 5 rows .* got rows of \[2, 1\]"),
        (lambda: figures.hungarian([]), r"1 to 5 rows of 1 to 5 numbers, got rows of \[\]"),
        (lambda: figures.hungarian([[0.0] * 6]), r"got rows of \[6\]"),
        (lambda: figures.hungarian([[math.nan]]), r"numbers from -99 to 99, got \[\[nan\]\]"),
        (lambda: figures.hungarian([[100]]), r"numbers from -99 to 99, got \[\[100\]\]"),
        (lambda: figures.hungarian([[1, 2]], columns=["a"]), r"costs have 2 columns and there are 1 names .*\['a'\]"),
        (lambda: figures.hungarian([[1, 2]], rows=["a", "b"]), "costs have 1 rows and there are 2 names"),
        (lambda: figures.hungarian(presets={}), "no matrix to show"),
        (lambda: figures.masked_attention(fcn_tiny(12), image(), CATEGORIES), "mask2former.Mask2Former, got FCN"),
        (lambda: figures.masked_attention(network(), image()[:, :50], CATEGORIES), r"multiples of 32, .*\(3, 50, 96\)"),
        (lambda: figures.masked_attention(network(), torch.rand(3, 192, 64), CATEGORIES), "at most 160, got"),
        (lambda: figures.masked_attention(network(), image()[None], CATEGORIES), r"image must be \(3, H, W\)"),
        (lambda: figures.masked_attention(network(), image(), CATEGORIES, most=13), "most must be 1 to 12, got 13"),
        (lambda: figures.masked_attention(network(), image(), CATEGORIES, start=12), "a query from 0 to 11, got 12"),
    ],
)
def test_a_wrong_argument_is_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


# The costs


def lowest(costs):
    return sum(np.array(costs)[linear_sum_assignment(costs)])


def greedy(costs):
    """Pairs (row, column), the cheapest free one first."""
    table, pairs = np.array(costs, dtype=float), []
    while np.isfinite(table).any():
        r, c = np.unravel_index(table.argmin(), table.shape)
        pairs.append([int(r), int(c)])
        table[r], table[:, c] = np.inf, np.inf
    return pairs


def cost_of(costs, pairs):
    return sum(costs[r][c] for r, c in pairs)


def test_the_presets_do_what_their_names_say():
    presets = dict(figures.hungarian().params["presets"])
    loss = {name: cost_of(costs, greedy(costs)) - lowest(costs) for name, costs in presets.items()}
    assert loss["Greedy loses"] == pytest.approx(0.6) and loss["Greedy is optimal"] == pytest.approx(0, abs=1e-12)
    tied = presets["A tie"]
    totals = [sum(tied[q][g] for g, q in enumerate(chosen)) for chosen in itertools.permutations(range(4), 3)]
    assert sum(t == pytest.approx(lowest(tied)) for t in totals) == 2
    assert [len(presets["More objects than queries"]), len(presets["More objects than queries"][0])] == [3, 4]


def test_without_javascript_the_totals_stand_in_a_table():
    fallback = figures.hungarian([[1, 2], [2, 4]], presets={}).fallback
    assert "<td>Start</td><td>1 2<br>2 4</td><td>5</td><td>4</td>" in fallback


def test_own_costs_come_first_rounded_to_hundredths():
    params = figures.hungarian(torch.tensor([[0.126, -1]]).tolist(), columns=("car", "tree")).params
    assert params["presets"][0] == ("Start", [[0.13, -1.0]]) and params["columns"] == ["car", "tree"]
    assert [name for name, _ in params["presets"][1:]] == list(figures.MATCHINGS)


# The forward passes


def hooked(masked):
    """Arguments of every layer's cross-attention, and the output, of a forward pass."""
    model, seen = network(), []
    model.decoder.masked_attention = masked
    hooks = [
        layer.cross_attention.register_forward_pre_hook(lambda module, given: seen.append((module, given)))
        for layer in model.decoder.layers
    ]
    with torch.no_grad():
        out = model(image()[None])
    for hook in hooks:
        hook.remove()
    model.decoder.masked_attention = True
    return seen, out


def weights_by_torch(module, given):
    """The attention weights, means over the heads, ``(Q, h·w)``, as PyTorch's own module computes them."""
    query, key, value, mask = given
    twin = nn.MultiheadAttention(64, module.heads, batch_first=True)
    with torch.no_grad():
        parts = (module.query, module.key, module.value)
        twin.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        twin.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
        return twin(query, key, value, attn_mask=None if mask is None else ~mask[0])[1][0]


@pytest.mark.parametrize("masked", [True, False])
def test_the_numbers_are_those_of_the_forward_pass(masked):
    params = attention_figure().params
    found, queries, (seen, out) = params["passes"][not masked], params["queries"], hooked(masked)
    assert params["cells"] == [(2, 3), (4, 6), (8, 12)] * 2
    best, label = out.class_logits[:, 0, queries].softmax(-1).max(-1)
    assert found["classes"] == label.tolist()
    torch.testing.assert_close(torch.tensor(found["probs"]), best, atol=6e-4, rtol=0)  # three decimals
    want = torch.stack([out.mask_logits(i)[0, queries] for i in range(7)]).flatten(0, 1)
    got = unpack_maps(found["maps"], found["scales"]).float()
    torch.testing.assert_close(got, want.clamp(-5, 5), atol=10 / 63 / 2 + 1e-4, rtol=0)  # half of a step
    for layer, (module, given) in enumerate(seen):
        weights = weights_by_torch(module, given)[queries]
        peak = torch.tensor(found["peaks"][layer])[:, None]
        shown = torch.tensor([[LETTERS.index(v) for v in row] for row in found["weights"][layer]]) / 63 * peak
        # half of a step, and the peak's four digits
        torch.testing.assert_close(shown, weights, atol=float(peak.max()) / 118, rtol=0)


def test_the_cells_inside_a_mask_are_those_that_masked_attention_leaves():
    params, (seen, _) = attention_figure().params, hooked(True)
    counts = set()
    for inside, (_, given) in zip(params["passes"][0]["inside"], seen, strict=True):
        for row, allowed in zip(inside, given[3][0, params["queries"]], strict=True):
            cells = torch.tensor([v == "1" for v in row])
            assert torch.equal(cells if cells.any() else ~cells, allowed)
            counts.add((bool(cells.any()), bool(cells.all())))
    assert {(True, False), (False, False)} <= counts  # masks that hide a part, and empty ones


def test_the_model_comes_back_as_it_was():
    model = network()
    model.train()
    figures.masked_attention(model, image(), CATEGORIES, most=1)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert model.training and model.decoder.masked_attention and not any(hooks)
    model.eval()


def test_the_most_certain_queries_can_be_chosen_and_the_most_certain_no_object():
    _, out = hooked(True)
    final = out.class_logits[-1, 0].softmax(-1)  # (Q, K + 1)
    params = attention_figure().params
    order = final[:, :-1].amax(1).argsort(descending=True).tolist()
    none = int(final[:, -1].argmax())
    assert params["queries"][:5] == order[:5] and params["queries"][5:] == [none] and none not in order[:5]
    things = [q for q in order[:5] if final[q, :-1].argmax() < 7]
    areas = (out.mask_logits()[0, things] >= 0).flatten(1).sum(1)
    assert len(things) > 1 and params["queries"][params["start"]] == things[int(areas.argmax())]
    chosen = figures.masked_attention(network(), image(), CATEGORIES, most=1, start=order[7]).params
    assert chosen["queries"] == [order[0], order[7], none] and chosen["start"] == 1


def test_a_network_without_masked_attention_begins_with_open_attention():
    model = network()
    model.decoder.masked_attention = False
    params = figures.masked_attention(model, image(), CATEGORIES, most=1).params
    assert not model.decoder.masked_attention and params["open"] == 1 and attention_figure().params["open"] == 0
    model.decoder.masked_attention = True
    with torch.no_grad():
        best = hooked(False)[1].class_logits[-1, 0].softmax(-1)[:, :-1].amax(1)
    assert params["queries"][0] == int(best.argmax())
    assert params["passes"][0]["inside"] != params["passes"][1]["inside"]


# The arithmetic: the page's own functions, run in the browser


@pytest.fixture
def js(open_page):
    """``js(figure, function, cases)``: the function's result for every list of arguments."""
    page = open_page().page

    def call(name, function, cases):
        code = f"{source(*SCRIPTS[name])}\nreturn cases.map(c => ({function})(...c));"
        return page.evaluate(f"cases => {{ {code} }}", cases)

    return call


@pytest.mark.slow
def test_the_optimum_is_scipys_and_greedy_takes_the_cheapest_free_pair(js):
    rng = np.random.default_rng(0)
    sizes = [(r, c) for r in range(1, 6) for c in range(1, 6)]
    cases = [[rng.uniform(-2, 2, size).tolist()] for size in sizes]
    cases += [[rng.integers(0, 3, size).tolist()] for size in sizes]  # with ties
    for (costs,), best, first in zip(
        cases, js("hungarian", "optimal", cases), js("hungarian", "greedy", cases), strict=True
    ):
        n, m = sorted(np.shape(costs))
        assert len({r for r, _ in best["pairs"]}) == len({c for _, c in best["pairs"]}) == len(best["pairs"]) == n
        assert cost_of(costs, best["pairs"]) == pytest.approx(lowest(costs))
        assert best["tried"] == math.perm(m, n)
        table = np.array(costs) if np.shape(costs)[0] == n else np.array(costs).T
        totals = [table[range(n), chosen].sum() for chosen in itertools.permutations(range(m), n)]
        assert best["count"] == sum(np.isclose(totals, lowest(costs), atol=1e-9, rtol=0))
        assert first == greedy(costs)


@pytest.mark.slow
def test_what_greedy_loses_is_said(js):
    rows, columns = [f"q{i}" for i in range(1, 5)], ["A", "B", "C", "D"]
    cases = [[costs, rows[: len(costs)], columns[: len(costs[0])]] for costs in map(list, figures.MATCHINGS.values())]
    cases.append([[[0.2, 0.2], [0.3, 0.3]], rows[:2], columns[:2]])
    cases.append([[[0, 1, 2]], rows[:1], columns[:3]])
    assert js("hungarian", "verdict", cases) == [
        "Greedy loses 0.6. It takes q1 with A for 0.2, and its last pair, q4 with B, costs 1. "
        "Optimal is the lowest total of all 24 matchings. In it q4 gets “no object”.",
        "Greedy is optimal here. Optimal is the lowest total of all 24 matchings. In it q4 gets “no object”.",
        "Greedy is optimal here. Optimal is the lowest total of all 24 matchings; 2 of them share it. "
        "In it q4 gets “no object”.",
        "Greedy is optimal here. Optimal is the lowest total of all 24 matchings. "
        "In it D goes without a query: a query serves one object.",
        "Greedy is optimal here. Optimal is the lowest total of all 2 matchings; 2 of them share it.",
        "Greedy is optimal here. Optimal is the lowest total of all 3 matchings. "
        "In it B and C go without a query: a query serves one object.",
    ]


@pytest.mark.slow
def test_an_empty_mask_opens_all_cells_and_what_a_layer_does_is_said(js):
    cases = [["0110", False], ["0000", False], ["0110", True], ["0000", True], ["1111", False]]
    seen = js("masked_attention", "allowed", cases)
    assert [s["may"] for s in seen] == [[False, True, True, False], *[[True] * 4] * 4]
    assert [s["empty"] for s in seen] == [False, True, False, True, False]
    weights = [0.25, 0.5, 0.25, 0]
    calls = [[2, [1, 4], s, weights, c[1]] for s, c in zip(seen, cases, strict=True)]
    start = "Layer 2 reads the map of 1 × 4 cells. "
    assert js("masked_attention", "step", calls) == [
        start + "The query may attend to 2 of 4, those inside its mask: no attention goes elsewhere.",
        start + "The mask holds none of them: instead of nothing the query may attend to everything.",
        start + "Attention is open: the query may attend to all 4, and spends 75% of its attention inside its own mask "
        "(2 cells).",
        start + "The mask holds none of them, and attention is open anyway: it may attend to all.",
        start + "The mask covers all 4, so nothing is hidden.",
    ]
    [got] = js("masked_attention", "weightsOf", [[LETTERS, 6.3]])
    assert got == pytest.approx([i / 10 for i in range(64)])


# In the browser


@pytest.fixture
def show(open_page):
    """``show(name, …) -> visit`` with the figure on a bare page."""

    def open_figure(name, **kwargs):
        visit = open_page(html=f"{HEAD}<main>{ALL[name]()._repr_html_()}</main></html>", **kwargs)
        visit.page.locator(".status").wait_for()
        return visit

    return open_figure


def spoken(page, text):
    """Wait until a screen reader hears the text."""
    live = page.locator("[aria-live]").element_handle()
    page.wait_for_function("([e, text]) => e.textContent.includes(text)", arg=[live, text])


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_figure_fits_a_phone_follows_the_mode_and_has_no_serious_finding(name, show):
    modes = {"light": ["rgb(255, 255, 255)", "rgb(31, 41, 51)"], "dark": ["rgb(21, 24, 28)", "rgb(230, 232, 234)"]}
    visit = show(name, width=360)
    card = visit.page.locator(".card")
    if name == "hungarian":
        visit.page.get_by_role("button", name="More objects than queries").click()  # the widest
    assert visit.overflow() <= 0
    assert card.evaluate("e => [...e.querySelectorAll('*')].every(c => c.getBoundingClientRect().right <= 360)")
    for mode, colors in modes.items():
        visit.page.emulate_media(color_scheme=mode)
        assert card.evaluate("e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]") == colors
        assert visit.axe() == []
    assert visit.problems() == []


def totals(page):
    """The greedy and the optimal total, as they stand under the drawings."""
    return page.locator(".sum b").all_inner_texts()


@pytest.mark.slow
def test_costs_are_edited_by_keyboard_and_both_matchings_follow(show):
    visit = show("hungarian", width=800)
    page = visit.page
    assert totals(page) == ["1.9", "1.3"]
    field = page.get_by_label("Cost of query 1 with object A")
    assert field.get_attribute("aria-description") == "in the greedy matching"
    field.focus()
    for _ in range(4):
        page.keyboard.press("ArrowUp")
    assert field.input_value() == "0.6" and totals(page) == ["1.3", "1.3"]
    assert page.locator(".status").inner_text().startswith("Greedy is optimal here.")
    assert page.get_by_role("button", name="Greedy loses").get_attribute("aria-pressed") == "false"
    spoken(page, "Greedy 1.3, optimal 1.3. Greedy is optimal here.")
    field.fill("")  # not a number: the last one stays
    assert totals(page) == ["1.3", "1.3"]
    page.keyboard.press("Tab")
    assert field.input_value() == "0.6"
    assert page.evaluate("document.querySelector('[data-params]').shadowRoot.activeElement.ariaLabel").endswith("B")
    page.get_by_label("Cost of query 3 with object C").fill("-1.5")
    assert totals(page) == ["−0.9", "−0.9"]
    page.get_by_role("button", name="Greedy loses").click()
    assert totals(page) == ["1.9", "1.3"]
    assert visit.problems() == []


@pytest.mark.slow
def test_the_drawings_say_their_pairs_and_mark_the_cells(show):
    page = show("hungarian", width=800).page
    labels = [svg.get_attribute("aria-label") for svg in page.get_by_role("img").all()]
    assert labels == [
        "Greedy: cheapest free pair first. 1. query 1 with object A, 0.2; 2. query 3 with object C, 0.7; "
        "3. query 4 with object B, 1. Total 1.9.",
        "Optimal: lowest total. query 1 with object B, 0.3; query 2 with object A, 0.3; query 3 with object C, 0.7. "
        "Total 1.3.",
    ]
    marked = page.locator(".card tbody td").evaluate_all("cells => cells.map(c => c.className)")
    assert marked == ["greedy", "best", "", "best", "", "", "", "", "greedy best", "", "greedy", ""]
    page.get_by_role("button", name="Random costs").click()
    assert page.locator("input").count() == 12 and float(totals(page)[0].replace("−", "-")) >= float(totals(page)[1])


def painted(page, pane):
    """A canvas as text."""
    return page.locator("canvas").nth(pane).evaluate("c => c.toDataURL()")


@pytest.mark.slow
def test_a_query_is_followed_layer_by_layer(show):
    visit = show("masked_attention", width=800)
    page, p = visit.page, attention_figure().params
    page.wait_for_timeout(100)  # the image loads
    names = page.locator(".pane .name")
    assert names.all_inner_texts() == ["Mask as learned", "May attend to", "Attention, layer 1", "Mask after layer 1"]
    assert page.get_by_role("button", name="One layer back").is_disabled()
    after = painted(page, 3)
    page.get_by_role("button", name="One layer on").click()
    assert painted(page, 0) == after and painted(page, 3) != after
    assert page.get_by_role("slider", name="Layer").get_attribute("aria-valuetext") == "2 of 6"
    assert "Layer 2 reads the map of 4 × 6 cells." in page.locator(".status").inner_text()
    page.get_by_role("slider", name="Layer").focus()
    page.keyboard.press("End")
    who = p["start"]
    answer = f"{p['names'][p['passes'][0]['classes'][6][who]]} {p['passes'][0]['probs'][6][who]:.2f}"
    assert page.locator(".pane .note").last.inner_text() == answer
    assert page.locator(".status").inner_text().endswith("→ 1.00.")  # the final mask against itself
    masks = [painted(page, i) for i in range(4)]
    other = page.get_by_role("group", name="Query", exact=True).get_by_role("button").last
    other.click()
    assert other.get_attribute("aria-pressed") == "true" and "no object" in other.inner_text()
    assert [painted(page, i) for i in range(4)] != masks
    spoken(page, f"{other.inner_text()}. Layer 6 reads")
    assert visit.problems() == []


@pytest.mark.slow
def test_a_switch_opens_the_mask(show):
    visit = show("masked_attention", width=800)
    page, p = visit.page, attention_figure().params
    page.get_by_role("slider", name="Layer").focus()
    partly = [i for i, layer in enumerate(p["passes"][0]["inside"]) if len(set(layer[p["start"]])) == 2]
    for _ in range(partly[0]):
        page.keyboard.press("ArrowRight")
    note, cells = page.locator(".pane .note").nth(1), math.prod(p["cells"][partly[0]])
    inside = p["passes"][0]["inside"][partly[0]][p["start"]].count("1")
    assert note.inner_text().startswith(f"{inside} of {cells} cells, stride ")
    closed = painted(page, 1)
    switch = page.get_by_role("button", name="Open the mask")
    switch.click()
    assert switch.get_attribute("aria-pressed") == "true" and note.inner_text().startswith(f"{cells} of {cells} cells")
    assert painted(page, 1) != closed and "Attention is open" in page.locator(".status").inner_text()
    assert "The network was trained with the mask closed" in page.locator(".card").inner_text()
    switch.click()
    assert painted(page, 1) == closed and "trained" not in page.locator(".card").inner_text()
    assert visit.problems() == []


@pytest.mark.slow
def test_play_goes_on_by_itself_and_with_reduced_motion_straight_to_the_end(show):
    page = show("masked_attention", width=800).page
    position = page.get_by_role("slider", name="Layer")
    page.get_by_role("button", name="To the last layer").click()
    assert position.input_value() == "6"
    page.emulate_media(reduced_motion="no-preference")
    page.clock.install(time=0)
    page.clock.pause_at(60_000)  # from here on time passes in run_for alone, however slow the machine
    position.focus()
    page.keyboard.press("Home")
    page.get_by_role("button", name="Play").click()
    assert position.input_value() == "2"
    page.clock.run_for(1700)
    assert position.input_value() == "3"
    page.get_by_role("button", name="Pause").click()
    page.clock.run_for(3500)
    assert position.input_value() == "3"
    page.get_by_role("button", name="Play").click()
    page.clock.run_for(20_000)
    assert position.input_value() == "6" and page.get_by_role("button", name="Play").count() == 1
