"""The moving figure about prompts: its numbers against the model's own answers, and itself in a browser."""

import functools
import html
import json
import re

import pytest
import torch
from torch import nn

from seglib.book import figures
from seglib.book.figures.element import source
from seglib.book.figures.images import pack_masks, unpack_masks
from seglib.data.prompts import LEVELS, at_level
from seglib.layers.normalize import Normalize
from seglib.models.sam import sam_tiny
from seglib.ops.clicks import error_clicks
from seglib.ops.geometry import Geometry
from seglib.ops.masks import mask_iou
from seglib.postprocess.prompt import Predictor
from seglib.types import Category, Instances, PromptOutput, Sample

HEAD = "<!doctype html><html lang='en'><meta name='viewport' content='width=device-width'><title>t</title>"
CATEGORIES = (Category(0, "car", True, (230, 159, 0)), Category(1, "tree", True, (86, 180, 233)))
GRID = 4  # clicks at columns and rows 4, 12, 20 and 28


class Discs(nn.Module):
    """A promptable model of 32 × 32 pixels: discs about the last click, or the box without a column at its right.

    Its three answers to a click have radii of 3, 6 and 9; the second one is chosen in the left half of the image, else
    the third.
    """

    image_size = mask_size = 32
    geometry = Geometry("letterbox", 32)

    def __init__(self):
        super().__init__()
        self.normalize = Normalize()
        self.weight = nn.Parameter(torch.zeros(1))

    def encode(self, images, sizes=None):
        return torch.zeros(1, 1, 2, 2)

    def decode(self, embedding, prompts):
        y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
        n = len(prompts)
        if prompts.boxes is not None:
            x0, y0, x1, y1 = prompts.boxes.T[:, :, None, None]
            logits = ((x >= x0) & (x < x1 - 1) & (y >= y0) & (y < y1)).float()[:, None].expand(-1, 4, -1, -1) - 0.5
            asked = 0 if prompts.points is None else prompts.points.shape[1]
            return PromptOutput(logits, torch.full((n, 4), 0.95 - 0.05 * asked))
        cx, cy = prompts.points[:, -1].T[:, :, None, None, None]
        extra = 0 if prompts.masks is None else 1  # a mask prompt widens the single answer
        radius = torch.tensor([4.5 + extra, 3.5, 6.5, 9.5])[:, None, None]
        logits = radius - ((x - cx) ** 2 + (y - cy) ** 2).sqrt()  # (N, 4, 32, 32)
        left = (prompts.points[:, -1, 0] < 16).float()
        said = torch.stack([torch.full((n,), 0.5), torch.full((n,), 0.6), 0.7 + 0.1 * left, torch.full((n,), 0.75)], 1)
        return PromptOutput(logits, said)


@functools.cache
def scene():
    """32 × 32: a large car, a tree that touches it, and a small car apart."""
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[0, 2:14, 2:16] = True
    masks[1, 14:24, 10:16] = True
    masks[2, 26:31, 26:31] = True
    boxes = torch.tensor([[2.0, 2, 16, 14], [10, 14, 16, 24], [26, 26, 31, 31]])
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Sample(image, "tiny", instances=Instances(masks, torch.tensor([0, 1, 0]), boxes))


@functools.cache
def discs():
    return figures.prompt_explorer({"discs": Discs(), "again": Discs()}, scene(), CATEGORIES, grid=GRID)


def answers(**prompt):
    predictor = Predictor(Discs())
    predictor.set_image(scene().image)
    return predictor.predict(**prompt)


def clicks():
    return torch.tensor([[4.0 + 8 * c, 4.0 + 8 * r] for r in range(GRID) for c in range(GRID)])


def masks_of(key, model=0):
    return unpack_masks(discs().params["models"][model][key], (32, 32))


def click_masks():
    return masks_of("clicks").flatten(0, 1).unflatten(0, (-1, 3))  # (clicks, 3, 32, 32)


# The HTML


def test_a_figure_is_small_the_same_every_time_and_asks_nobody():
    page = discs()._repr_html_()
    assert page == discs.__wrapped__()._repr_html_() and len(page.encode()) < 45_000
    assert len(source("maps", "prompt_explorer").encode()) < 20_000
    assert not re.search(r"""(src|href)=["'](?!data:)|@import|fetch\(|\bimport\b""", page)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert page.count("</script>") == 1


def test_a_figure_says_something_without_javascript_and_without_html():
    page = discs()._repr_html_()
    fallback = re.search(r'data-params="[^"]*">(.*?)</seg-', page, re.DOTALL)[1]
    assert "(needs JavaScript). It holds 3 objects: car, tree, car." in fallback
    said = discs()._repr_mimebundle_()["text/plain"]
    assert said == "<moving figure: what a promptable model answers to 4 × 4 clicks, to boxes and to corrections>"


def test_names_cannot_break_out_of_the_page():
    name = "a\"><script>alert('1')</script>"
    page = figures.prompt_explorer(
        {name: Discs()}, scene(), [Category(0, name, True, (0, 0, 0)), CATEGORIES[1]], grid=2
    )
    page = page._repr_html_()
    assert page.count("<script>") == 1
    params = json.loads(html.unescape(re.findall(r'data-params="([^"]*)"', page)[0]))
    assert params["models"][0]["name"] == name and params["names"] == [name, "tree", name]


def without_objects():
    return Sample(scene().image, "bare", instances=scene().instances[:0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": {}}, r"1 to 3 models by name, got 0: \[\]"),
        ({"models": dict.fromkeys("abcd", Discs())}, r"got 4: \['a', 'b', 'c', 'd'\]"),
        ({"sample": Sample(torch.rand(3, 32, 32), "none")}, "'none' has no instances"),
        ({"sample": without_objects()}, "1 to 32 objects, sample 'bare' has 0"),
        ({"grid": 1}, "grid must be 2 to 20, got 1"),
        ({"grid": 21}, "grid must be 2 to 20, got 21"),
        ({"start": (32, 0)}, r"start \(32, 0\) lies outside the 32 × 32 image"),
    ],
)
def test_a_wrong_argument_is_named(changes, said):
    arguments = {"models": {"discs": Discs()}, "sample": scene(), "grid": 4} | changes
    with pytest.raises(ValueError, match=said):
        figures.prompt_explorer(**arguments, categories=CATEGORIES)


# The numbers


def test_masks_travel_as_a_table():
    masks = torch.rand(3, 2, 5, 7, generator=torch.Generator().manual_seed(1)) > 0.5
    assert torch.equal(unpack_masks(pack_masks(masks), (5, 7)), masks)


def test_each_click_has_the_masks_and_predicted_ious_of_the_predictor():
    found = answers(points=clicks()[:, None])
    assert torch.equal(click_masks(), found.masks)
    said = torch.tensor(discs().params["models"][0]["said"])
    assert torch.equal(said, (100 * found.iou).round().long())
    assert said[0].tolist() == [60, 80, 75] and said[3].tolist() == [60, 70, 75]


def test_true_ious_are_those_with_the_object_under_the_click_its_group_and_its_class():
    params = discs().params
    objects = scene().instances
    # rows and columns 4 and 12 hit the large car; column 12 of row 20 the tree; the last click the small car
    assert params["under"] == [0, 0, -1, -1, 0, 0, -1, -1, -1, 1, -1, -1, -1, -1, -1, 2]
    masks, true = click_masks(), params["models"][0]["true"]
    assert [t is None for t in true] == [i < 0 for i in params["under"]]
    for i, who in enumerate(params["under"]):
        if who >= 0:
            wanted = torch.stack([at_level(objects, level)[who] for level in LEVELS])
            assert torch.equal(torch.tensor(true[i]), (100 * mask_iou(masks[i], wanted)).round().long())
    truth = unpack_masks(params["truth"], (32, 32))
    assert torch.equal(truth[0], objects.masks)
    assert torch.equal(truth[1, 0], objects.masks[:2].any(0)) and torch.equal(truth[2, 0], objects.masks[::2].any(0))


class SmallFirst(Discs):
    """Discs whose first answer has a radius of 1: the mean over first answers is another one."""

    def decode(self, embedding, prompts):
        out = super().decode(embedding, prompts)
        less = torch.tensor([0.0, 2.0, 0.0, 0.0])[:, None, None]
        return PromptOutput(out.logits - less if prompts.boxes is None else out.logits, out.iou)


def test_means_are_over_the_clicks_on_objects():
    drawn = figures.prompt_explorer({"discs": SmallFirst()}, scene(), CATEGORIES, grid=GRID)
    model = drawn.params["models"][0]
    on = [i for i, who in enumerate(discs().params["under"]) if who >= 0]
    objects = [[levels[0] for levels in model["true"][i]] for i in on]
    chosen = [ious[model["said"][i].index(max(model["said"][i]))] for i, ious in zip(on, objects, strict=True)]
    assert model["on"] == len(on) == 6
    assert model["mean"] == [round(sum(chosen) / 6), round(sum(map(max, objects)) / 6)]
    assert round(sum(ious[0] for ious in objects) / 6) not in model["mean"]
    assert model["mean"][0] < model["mean"][1]


def test_more_clicks_fall_into_the_largest_error_and_pass_the_mask_on():
    objects = scene().instances.masks
    stages, steps = masks_of("stages"), discs().params["models"][0]["steps"]
    points, labels = torch.tensor([[[7.0, 7]], [[12, 16]], [[28, 28]]]), torch.ones(3, 1)  # the centres
    first = answers(points=points)
    best = first.iou.argmax(1)
    assert best.tolist() == [1, 1, 2]
    assert torch.equal(stages[:, 0], first.masks[range(3), best])
    logits = first.logits[range(3), best]
    for k in (1, 2):
        point, label = error_clicks(stages[:, k - 1], objects, where="centre")
        points, labels = torch.cat([points, point[:, None]], 1), torch.cat([labels, label[:, None]], 1)
        found = answers(points=points, labels=labels, masks=logits, several=False)
        assert torch.equal(stages[:, k], found.masks[:, 0])
        assert [s["said"][k] for s in steps] == [50] * 3
        logits = found.logits[:, 0]
    asked = torch.cat([points, labels[..., None]], 2)
    assert torch.equal(torch.tensor([s["clicks"] for s in steps]), asked)
    assert {int(v) for v in labels.flatten()} == {0, 1}  # some add, some take away


def test_a_box_is_asked_alone_and_with_the_centre():
    objects = scene().instances
    stages, steps = masks_of("stages"), discs().params["models"][0]["steps"]
    found = answers(boxes=objects.boxes, several=False)
    assert torch.equal(stages[:, 3], found.masks[:, 0]) and torch.equal(stages[:, 4], found.masks[:, 0])
    assert [s["said"][3:] for s in steps] == [[95, 90]] * 3  # of one click in the second
    assert [s["true"][3] for s in steps] == [93, 83, 80]  # 13 of 14 columns, 5 of 6, 4 of 5
    assert discs().params["boxes"] == objects.boxes.tolist()


def test_the_first_click_is_on_the_largest_object_or_where_it_is_asked():
    assert discs().params["start"] == [0, 0]  # its centre (7, 7), where cells are 8 wide
    given = figures.prompt_explorer({"discs": Discs()}, scene(), CATEGORIES, grid=3, start=(31, 11)).params
    assert given["start"] == [2, 1]


def test_a_scene_larger_than_the_page_shrinks_and_objects_without_pixels_are_left_out():
    torch.manual_seed(0)
    masks = torch.zeros(2, 112, 224, dtype=torch.bool)
    masks[0, 30:70, 40:90] = True
    objects = Instances(masks, torch.tensor([0, 1]), torch.tensor([[40.0, 30, 90, 70], [0, 0, 0, 0]]))
    sample = Sample(torch.rand(3, 112, 224), "wide", instances=objects)
    params = figures.prompt_explorer({"sam": sam_tiny()}, sample, CATEGORIES, grid=3).params
    assert params["view"] == (96, 192) and params["cells"] == (48, 96) and params["size"] == (112, 224)
    assert params["names"] == ["car"]
    assert torch.equal(unpack_masks(params["truth"], (48, 96))[0, 0].nonzero()[0], torch.tensor([13, 17]))
    assert len(params["models"][0]["said"]) == 9


# The arithmetic: the page's own functions, run in the browser


@pytest.fixture
def js(open_page):
    """``js(function, cases)``: the function's result for every list of arguments."""
    page = open_page().page

    def call(function, cases):
        code = f"{source('maps', 'prompt_explorer')}\nreturn cases.map(c => ({function})(...c));"
        return page.evaluate(f"cases => {{ {code} }}", cases)

    return call


@pytest.mark.slow
def test_what_is_said_of_a_click(js):
    levels = list(LEVELS)
    cases = [
        ["car", levels, [60, 80, 75], [[50, 40, 30], [70, 40, 30], [20, 90, 30]]],
        ["car", levels, [75, 90, 80], [[70, 40, 30], [10, 20, 60], [20, 90, 30]]],
        ["", levels, [90, 80, 75], None],
    ]
    assert js("tellClick", cases) == [
        "Under the click: car. Answer 2 has the highest predicted IoU and is chosen; its IoU with the object is 0.70. "
        "No other answer fits the object better.",
        "Under the click: car. Answer 2 has the highest predicted IoU and is chosen; its IoU with the object is 0.10, "
        "with its class 0.60. Answer 1 would fit the object better: 0.70.",
        "No object lies under the click, so its answers have no true IoU.",
    ]


@pytest.mark.slow
def test_what_is_said_of_an_object(js):
    assert js("tellBox", [["car", [5, 90, 100]]]) == [
        "IoU with the car: 0.05 from a click on its centre, 0.90 from its box, 1.00 from both."
    ]
    assert js("tellMore", [["car", [5, 90, 100], [0, 1]]]) == [
        "IoU with the car: 0.05 after one click, 0.90 after two, 1.00 after three. "
        "The second click takes away what was too much. The third click adds what was missed."
    ]


@pytest.mark.slow
def test_a_place_picks_the_object_that_holds_it_or_the_nearest_centre(js):
    truth = [[0, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]]  # 2 × 4 cells of 10 pixels
    centres, sizes = [[11, 4], [24, 14]], [[20, 40], [2, 4]]
    cases = [[truth, centres, *at, *sizes] for at in ([19.9, 9], [31, 11], [20.5, 3], [38, 2])]
    assert js("pick", cases) == [0, 1, 0, 1]


@pytest.mark.slow
def test_the_page_reads_the_masks_that_python_wrote(open_page):
    masks = torch.rand(3, 2, 5, 7, generator=torch.Generator().manual_seed(1)) > 0.5
    code = f"{source('maps', 'prompt_explorer')}\nreturn new Promise(done => unpackMasks(address, 3, 2, [5, 7], done));"
    found = open_page().page.evaluate(
        f"address => {{ {code.replace('done);', 'found => done(found.map(r => r.map(m => [...m])))));')} }}",
        pack_masks(masks),
    )
    assert torch.equal(torch.tensor(found, dtype=torch.bool), masks.flatten(2))


# In the browser


@pytest.fixture
def show(open_page):
    """``show(…) -> visit`` with the figure on a bare page, its image read."""

    def open_figure(**kwargs):
        visit = open_page(html=f"{HEAD}<main>{discs()._repr_html_()}</main></html>", **kwargs)
        visit.page.locator(".status").wait_for()
        visit.page.wait_for_function(
            "document.querySelector('[data-params]').shadowRoot.querySelector('canvas')"
            ".getContext('2d').getImageData(0, 31, 1, 1).data[0] != 128"
        )
        return visit

    return open_figure


def stage(page):
    return page.get_by_role("slider")


def notes(page):
    return [v.replace("\n", ", ") for v in page.locator(".answer .note").all_inner_texts()]


def orange(page, pane):
    """The pixels of an answer's outline or outline of the true mask, as (row, column)."""
    read = "c => [...c.getContext('2d').getImageData(0, 0, 32, 32).data]"
    data = torch.tensor(page.locator("canvas").nth(1 + pane).evaluate(read)).view(32, 32, 4)
    return (data[..., :3] == torch.tensor([255, 120, 0])).all(-1)


@pytest.mark.slow
def test_the_figure_fits_a_phone_follows_the_mode_and_has_no_serious_finding(show):
    modes = {"light": ["rgb(255, 255, 255)", "rgb(31, 41, 51)"], "dark": ["rgb(21, 24, 28)", "rgb(230, 232, 234)"]}
    visit = show(width=360)
    card = visit.page.locator(".card")
    assert visit.overflow() <= 0
    assert card.evaluate("e => [...e.querySelectorAll('*')].every(c => c.getBoundingClientRect().right <= 360)")
    for prompt in ("More clicks", "One click"):
        visit.page.get_by_role("button", name=prompt).click()
        for mode, colors in modes.items():
            visit.page.emulate_media(color_scheme=mode)
            assert card.evaluate("e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]") == colors
            assert visit.axe() == []
    assert visit.problems() == []


@pytest.mark.slow
def test_a_click_follows_mouse_and_keys(show):
    visit = show(width=800)
    page, model = visit.page, discs().params["models"][0]
    assert stage(page).get_attribute("aria-valuetext") == "Click: column 1, row 1: car"

    def said(i):
        return [
            f"predicted {v / 100:.2f}, true {max(t) / 100:.2f}"
            for v, t in zip(model["said"][i], model["true"][i], strict=True)
        ]

    assert [n.split(" (")[0] for n in notes(page)] == said(0)
    assert page.locator(".chosen .name").all_inner_texts() == ["Answer 2 ✓"]
    box = stage(page).bounding_box()
    page.mouse.move(box["x"] + 0.97 * box["width"], box["y"] + 0.95 * box["height"])
    assert stage(page).get_attribute("aria-valuenow") == "15"
    assert page.locator(".chosen .name").all_inner_texts() == ["Answer 3 ✓"]
    stage(page).focus()
    page.keyboard.press("ArrowRight")  # no further
    page.keyboard.press("ArrowUp")
    assert stage(page).get_attribute("aria-valuetext") == "Click: column 4, row 3: no object"
    assert notes(page) == ["predicted 0.60, no true IoU", "predicted 0.70, no true IoU", "predicted 0.75, no true IoU"]
    assert page.locator(".status").inner_text().startswith("No object lies under the click")
    for key in ("ArrowLeft", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
    assert model["true"][5] == [[16, 16, 14], [30, 38, 27], [38, 50, 35]]  # with the object, its group and its class
    assert [n.split("true ")[1] for n in notes(page)] == ["0.16", "0.38 (group)", "0.50 (group)"]
    assert visit.problems() == []


@pytest.mark.slow
def test_the_masks_of_the_click_are_painted(show):
    page = show(width=800).page
    stage(page).focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)  # column 4, row 3, where there is no object
    for k, mask in enumerate(click_masks()[11]):
        inner = mask.clone()
        inner[1:-1, 1:-1] &= mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
        inner[:, -1] = False  # the border of the image is one of the mask
        assert torch.equal(orange(page, k), mask & ~inner)


@pytest.mark.slow
def test_an_object_is_asked_by_its_box_and_by_more_clicks(show):
    visit = show(width=800)
    page, steps = visit.page, discs().params["models"][0]["steps"]
    page.get_by_role("button", name="A box").click()
    assert page.locator(".answer .name").all_inner_texts() == ["Its centre", "Its box", "Box and centre"]
    assert stage(page).get_attribute("aria-valuetext") == "Object 1 of 3: car"
    assert notes(page)[1] == "predicted 0.95, true 0.93" and page.locator(".chosen").count() == 0
    box = stage(page).bounding_box()
    page.mouse.move(box["x"] + box["width"] * 12.5 / 32, box["y"] + box["height"] * 20 / 32)
    assert stage(page).get_attribute("aria-valuetext") == "Object 2 of 3: tree"
    page.get_by_role("button", name="More clicks").click()
    stage(page).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")  # round to the first
    assert stage(page).get_attribute("aria-valuetext") == "Object 1 of 3: car"
    assert notes(page) == [
        f"predicted {steps[0]['said'][k] / 100:.2f}, true {steps[0]['true'][k] / 100:.2f}" for k in range(3)
    ]
    assert page.locator(".answer").nth(2).locator("circle, rect").count() == 3
    signs = [int(c[2]) for c in steps[0]["clicks"]]
    assert page.locator(".answer").nth(2).locator("circle").count() == sum(signs)
    live = page.locator("[aria-live]").element_handle()
    page.wait_for_function("e => e.textContent.startsWith('Object 1 of 3: car. IoU with the car: ')", arg=live)
    assert visit.problems() == []


@pytest.mark.slow
def test_a_switch_goes_to_the_other_model(open_page):
    class Wide(Discs):
        def decode(self, embedding, prompts):
            found = super().decode(embedding, prompts)
            return PromptOutput(found.logits + 2, found.iou - 0.5)

    figure = figures.prompt_explorer({"discs": Discs(), "wide": Wide()}, scene(), CATEGORIES, grid=GRID)
    visit = open_page(html=f"{HEAD}<main>{figure._repr_html_()}</main></html>", width=800)
    page = visit.page
    page.get_by_role("button", name="wide").click()
    assert page.get_by_role("button", name="discs").get_attribute("aria-pressed") == "false"
    assert [n.split(",")[0] for n in notes(page)] == ["predicted 0.10", "predicted 0.30", "predicted 0.25"]
    mean = figure.params["models"][1]["mean"]
    assert page.locator(".mean").inner_text() == (
        f"Of all 6 clicks on objects: mean IoU {mean[0] / 100:.2f} of the chosen answer, "
        f"{mean[1] / 100:.2f} of the best of three."
    )
    assert visit.problems() == []
