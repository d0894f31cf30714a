"""Tables and forest plots: what a chapter shows instead of printed columns."""

import re

import matplotlib
import pytest

from seglib import viz
from seglib.book import table

matplotlib.use("Agg")
ROWS = [
    {"loss": "cross-entropy", "mIoU": "0.512", "gain": "0.0 ± 1.2"},
    {"loss": "Dice", "mIoU": "0.53", "gain": "+1.8 ± 0.6", "note": "best <here>"},
]


def test_the_text_form_is_aligned_and_marks_the_key_row():
    text = repr(table(ROWS, key=1, caption="Test scenes.", note="Five seeds."))
    assert text.splitlines() == [
        "Test scenes.",
        "  loss            mIoU        gain  note",
        "  cross-entropy  0.512   0.0 ± 1.2",
        "→ Dice            0.53  +1.8 ± 0.6  best <here>",
        "Five seeds.",
    ]


def test_the_page_gets_a_table_with_headers_right_aligned_numbers_and_escaped_text():
    html = table(ROWS, key=-1, caption="Test scenes.")._repr_html_()
    assert re.findall(r'<th scope="col"[^>]*>([^<]*)<', html) == ["loss", "mIoU", "gain", "note"]
    assert "best &lt;here&gt;" in html and "<caption" in html
    assert re.search(r'text-align:right">0\.512<', html) and re.search(r'text-align:left">Dice<', html)
    marked = re.findall(r"<tr style=[^>]*>(.*?)</tr>", html)
    assert len(marked) == 1 and "Dice" in marked[0]


@pytest.mark.parametrize(
    ("texts", "numeric"),
    [
        (["1", "−2.5", "30%"], True),
        (["+1.2 ± 0.3", ""], True),
        (["−5.3 (−6.0 to −4.4)", "+0.1 (−0.1 to +0.2)"], True),
        (["3 of 5"], False),
        (["1 (one)"], False),
    ],
)
def test_numbers_with_their_intervals_stand_right_aligned(texts, numeric):
    page = table([[text] for text in texts], ["value"])._repr_html_()
    assert ("text-align:right" in page) == numeric


def test_the_hyphen_of_a_number_is_shown_as_a_minus_sign():
    shown = repr(table([["-1.5 ± 0.2", "-"], ["a-b", "-3"]], ["x", "y"]))
    assert "−1.5 ± 0.2  -" in shown and "a-b" in shown and "−3" in shown


def test_rows_may_be_sequences_and_several_may_be_key_rows():
    made = table([("a", 1), ("b", 2), ("c", 3)], ["name", "n"], key=[0, 2])
    assert repr(made) == "  name  n\n→ a     1\n  b     2\n→ c     3"


@pytest.mark.parametrize(
    ("arguments", "keywords", "said"),
    [
        (([],), {}, "at least one row"),
        (([(1, 2)],), {}, "pass columns"),
        (([(1, 2)], ["a"]), {}, "row 0 has 2 values for 1 columns"),
        (([{"a": 1, "b": 2}], ["a"]), {}, r"row 0 has the columns \['b'\]"),
        (([{"a": 1}],), {"key": 1}, "key 1 is no row of 1"),
    ],
)
def test_a_wrong_argument_is_named(arguments, keywords, said):
    with pytest.raises(ValueError, match=said):
        table(*arguments, **keywords)


def test_a_forest_plot_leaves_intervals_that_hold_zero_hollow():
    ax = viz.forest({"with skips": (4.0, 1.0), "no difference": (0.5, 2.0)}, unit="points of mIoU")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["with skips", "no difference"]
    assert ax.get_xlabel() == "points of mIoU" and ax.yaxis_inverted()
    spans = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 2]
    assert [tuple(map(float, span)) for span in spans] == [(3.0, 5.0), (-1.5, 2.5)]
    faces = [line.get_markerfacecolor() for line in ax.lines if line.get_marker() == "o"]
    assert faces[0] == viz.CYCLE[0] and faces[1] == ax.get_facecolor()


def test_without_a_zero_every_mean_is_filled_and_rows_may_give_both_ends():
    ax = viz.forest([("a", 0.4, -0.1, 0.5)], zero=False)
    assert ax.lines[-1].get_markerfacecolor() == viz.CYCLE[0]


@pytest.mark.parametrize(("rows", "said"), [({}, "at least one row"), ([("a", 3, 0, 1)], "outside its interval")])
def test_a_forest_without_sense_is_refused(rows, said):
    with pytest.raises(ValueError, match=said):
        viz.forest(rows)
