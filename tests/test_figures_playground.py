"""The playground: what a network answers in the page, to every way of making an image, is what PyTorch answers."""

import base64
import io

import numpy as np
import pytest
import torch
from browser import finger, middle, serve
from PIL import Image

from seglib.book import figures
from seglib.book.figures.element import source
from seglib.book.networks import FIGURES, add_networks
from seglib.book.pretrained import stored_model
from seglib.data.scenes import CATEGORIES

pytestmark = pytest.mark.slow  # each visit runs a network

HEAD = (
    "<!doctype html><html lang='en' data-content_root='./'><meta charset='utf-8'>"
    "<meta name='viewport' content='width=device-width'><title>t</title><link rel='icon' href='data:,'><body>"
)
BLOCKS = {"U-Net": 12, "FCN": 14}


@pytest.fixture(scope="module")
def page():
    return figures.playground()._repr_html_()


@pytest.fixture(scope="module")
def site(tmp_path_factory, page):
    """The figure on a page, and beside it the networks that it runs."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").write_text(HEAD + page, encoding="utf-8")
    (folder / "alone.html").write_text(HEAD.replace(" data-content_root='./'", "") + page, encoding="utf-8")
    files = add_networks(folder)
    assert {f.stem for f in files} == {"runtime", *FIGURES["seg-playground-"]}
    with serve(folder) as url:
        yield url


@pytest.fixture
def visit(site, open_page):
    return opened(open_page(f"{site}/index.html"))


def opened(visit):
    answered(visit)
    return visit


def answered(visit, words="answered in"):
    """Waits until the network has answered for the image and the switches of now."""
    visit.page.wait_for_function(
        """words => {
          const root = document.querySelector('body > *').shadowRoot;
          return root.querySelector('.draw').getAttribute('aria-busy') === 'false'
            && root.querySelector('.status').textContent.includes(words);
        }""",
        arg=words,
        timeout=60_000,
    )


def image_of(address):
    data = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB"))
    return torch.from_numpy(data.copy()).permute(2, 0, 1)


def drawn(visit):
    """The reader's image ``(3, H, W)`` in [0, 1]."""
    address = visit.page.evaluate("document.querySelector('body > *').shadowRoot.querySelector('canvas').toDataURL()")
    return image_of(address).float() / 255


def labels(visit):
    """The class of each pixel that the block "prediction" shows."""
    blocks = visit.page.locator("svg[role=listbox] g[role=option]")
    block = blocks.filter(has=visit.page.locator("text.name", has_text="prediction")).locator("image")
    shown = image_of(block.get_attribute("href")).permute(1, 2, 0)
    colors = torch.tensor([c.color for c in CATEGORIES], dtype=torch.uint8)
    same = (shown[:, :, None] == colors).all(-1)
    assert same.any(-1).all()
    return same.int().argmax(-1)


def agreement(visit, name="unet_tiny", model=None):
    """Share of pixels on which the page and PyTorch agree, for the image on the page."""
    model = model or stored_model(name)
    with torch.no_grad():
        want = model(drawn(visit)[None]).logits.argmax(1)[0]
    return float((labels(visit) == want).float().mean())


def test_the_figure_is_small_and_the_same_every_time(page):
    assert page == figures.playground()._repr_html_() and len(page.encode()) < 180_000
    own = source("network", "live", "playground", shared=())
    assert len(own.splitlines()) < 900


def test_the_first_scene_is_answered_as_pytorch_answers(visit):
    assert agreement(visit) >= 0.99
    assert visit.page.locator("svg[role=listbox] image").count() == BLOCKS["U-Net"]
    assert not visit.problems()


def test_another_network_answers_too(visit):
    visit.page.get_by_label("Network").select_option("FCN")
    answered(visit, "FCN answered")
    assert agreement(visit, "fcn_tiny") >= 0.99
    assert visit.page.locator("svg[role=listbox] image").count() == BLOCKS["FCN"]


def test_a_scene_and_a_drawing_by_mouse(visit):
    before = drawn(visit)
    visit.page.get_by_role("button", name="Scene 10").click()
    answered(visit)
    scene = drawn(visit)
    assert not torch.equal(scene, before)
    visit.page.get_by_role("button", name="water").click()
    x, y = middle(visit.page.get_by_role("application"))
    visit.page.mouse.move(x - 60, y)
    visit.page.mouse.down()
    visit.page.mouse.move(x + 60, y + 20, steps=6)
    visit.page.mouse.up()
    answered(visit)
    changed = (drawn(visit) != scene).any(0)
    assert 300 < int(changed.sum()) < 3000
    assert agreement(visit) >= 0.99
    visit.page.get_by_role("button", name="undo").click()
    answered(visit)
    assert torch.equal(drawn(visit), scene)


def test_a_finger_sets_a_stamp_down_and_does_not_scroll(visit):
    visit.page.get_by_role("button", name="empty").click()
    answered(visit)
    before = drawn(visit)
    visit.page.get_by_role("button", name="tree").click()
    board = visit.page.get_by_role("application")
    board.scroll_into_view_if_needed()
    top = visit.page.evaluate("scrollY")
    finger(visit.page, middle(board))
    answered(visit)
    assert visit.page.evaluate("scrollY") == top
    assert (drawn(visit) != before).any(0).sum() > 200
    assert agreement(visit) >= 0.99
    names = [c.name for c in CATEGORIES]
    assert (labels(visit) == names.index("tree")).sum() > 100


def test_the_keyboard_moves_the_brush_and_paints(visit):
    visit.page.get_by_role("button", name="empty").click()
    answered(visit)
    before = drawn(visit)
    visit.page.get_by_role("button", name="road").click()
    board = visit.page.get_by_role("application")
    board.focus()
    for key in ("ArrowDown", "ArrowDown", "Shift+ArrowRight", "Space"):
        visit.page.keyboard.press(key)
    answered(visit)
    rows, columns = (drawn(visit) != before).any(0).nonzero().T
    assert (rows.float().mean() - 72).abs() < 1.5 and (columns.float().mean() - 65).abs() < 1.5
    assert agreement(visit) >= 0.99


def test_a_photo_is_cut_to_its_middle_square_and_stays_in_the_page(visit, tmp_path):
    rng = np.random.default_rng(0)
    wide = np.kron(rng.integers(0, 255, (10, 20, 3), dtype=np.uint8), np.ones((40, 40, 1), np.uint8))
    Image.fromarray(wide).save(tmp_path / "photo.png")
    visit.page.get_by_label("Open a photo").set_input_files(tmp_path / "photo.png")
    visit.page.get_by_text("photo.png: its middle square").wait_for()
    answered(visit)
    middle_square = torch.from_numpy(wide[:, 200:600]).permute(2, 0, 1).float() / 255
    want = torch.nn.functional.interpolate(middle_square[None], size=(128, 128), mode="area")[0]
    assert (drawn(visit) - want).abs().mean() < 0.03
    assert agreement(visit) >= 0.99
    assert not visit.problems()


@pytest.mark.parametrize("name", ["notes.png", "film.mp4"])
def test_what_is_no_image_is_refused_with_a_sentence(visit, tmp_path, name):
    (tmp_path / name).write_text("no image")
    before = drawn(visit)
    visit.page.get_by_label("Open a photo").set_input_files(tmp_path / name)
    visit.page.get_by_text(f"{name} is no image that this browser can read; open a PNG, JPEG or WebP file.").wait_for()
    assert torch.equal(drawn(visit), before) and not visit.problems()


def test_deep_and_moving_files_are_read_as_one_picture_of_8_bits(visit, tmp_path):
    deep = np.full((90, 90), 40_000, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:])
    for file, color in (("deep.png", [40_000 / 65_535] * 3), ("moves.gif", [1, 0, 0])):
        visit.page.get_by_label("Open a photo").set_input_files(tmp_path / file)
        visit.page.get_by_text(f"{file}: its middle square").wait_for()
        answered(visit)
        torch.testing.assert_close(drawn(visit).mean((1, 2)), torch.tensor(color).float(), atol=0.02, rtol=0)


@pytest.mark.parametrize(("name", "network", "label"), [
    ("unet_tiny", "U-Net", "skip from c1"),
    ("fcn_tiny", "FCN", "scores of c2"),
])  # fmt: skip
def test_a_switch_takes_the_branch_away_as_a_hook_does(visit, name, network, label):
    visit.page.get_by_label("Network").select_option(network)
    answered(visit, f"{network} answered")
    whole = labels(visit)
    visit.page.get_by_role("button", name=label).click()
    answered(visit, f"without {label}")
    model = stored_model(name)
    if name == "unet_tiny":
        model.decoder[3].register_forward_pre_hook(lambda _, args: (args[0], torch.zeros_like(args[1])))
    else:
        model.score["c2"].register_forward_hook(lambda _, args, out: torch.zeros_like(out))
    assert agreement(visit, model=model) >= 0.99
    assert (labels(visit) != whole).float().mean() > 0.005
    visit.page.get_by_role("button", name=label).click()
    answered(visit)
    assert torch.equal(labels(visit), whole)


def test_scores_follow_the_cross(visit):
    board = visit.page.get_by_role("application")
    board.focus()
    for key in ["Shift+ArrowUp"] * 3:
        visit.page.keyboard.press(key)
    with torch.no_grad():
        logits = stored_model("unet_tiny")(drawn(visit)[None]).logits[0, :, 61, 64]
    best = int(logits.argmax())
    first = visit.page.locator(".bar").first.inner_text()
    share = round(100 * float(logits.softmax(0)[best]))
    assert first.split() == [CATEGORIES[best].name, f"{share}%"]


def test_a_stage_shows_its_channels(visit):
    c5 = visit.page.get_by_role("option", name="c5, 96×4×4")
    c5.focus()
    picture = visit.page.locator(".close img")
    mean = picture.get_attribute("src")
    slider = visit.page.get_by_label("channel")
    slider.focus()
    visit.page.keyboard.press("ArrowRight")
    assert picture.get_attribute("src") != mean and image_of(mean).shape == (3, 4, 4)


def test_without_the_books_pages_a_sentence_stands_there(site, open_page):
    visit = open_page(f"{site}/alone.html")
    visit.page.get_by_text("The network cannot run here (no book around).").wait_for()
    assert not visit.problems()


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1000, True)])
def test_the_figure_is_accessible_and_fits(site, open_page, width, dark):
    visit = opened(open_page(f"{site}/index.html", width=width, dark=dark))
    assert visit.axe() == []
    assert visit.overflow() <= 0
    assert not visit.problems()
