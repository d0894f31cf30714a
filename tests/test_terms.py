"""One term a thing, the field's: in names, docstrings, help texts and chapters."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*(ROOT / "seglib").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")])
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
FIGURES = sorted((ROOT / "seglib").rglob("*.js"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "chapters").glob("*.md")])

NAMES = {
    "after_nms": "post_nms_top_k",
    "as_found": "a name that says what it makes",
    "before_nms": "pre_nms_top_k",
    "divisor": "size_divisibility",
    "enlarge": "upsample",
    "held": "val",
    "KINDS": "ERROR_TYPES, or what they are",
    "kind": "a name that says what is chosen",
    "kinds": "types, or what they are",
    "learn": "train",
    "look": "a name that says what is done",
    "mirror": "reflect_pad or flip",
    "objects_first": "foreground proposals",
    "patience": "log_interval",
    "published": "load_pretrained",
    "rescue": "allow_low_quality_matches",
    "smallest": "min_size",
    "theirs": "reference, or the name of the library",
    "which": "a name that says what is chosen",
    "RandomRightAngle": "RandomD4",
    "Stretch": "PercentileRescale",
}
"""Names that the code doesn't use, and what to write."""

WORDS = {
    r"\bpictures?\b": "image",
    r"what only fills up": "padding",
    r"\bmade (scenes|data|images|detections|detectors|cases|photos|volumes)\b": "synthetic",
    r"\bfirst weights\b": "initialisation",
    r"(?<!common )(?<!common_)\bdivisors?\b": "size_divisibility",
    r"\benlarge": "upsample",
    r"\bfineness\b": "resolution",
    r"\bparted\b": "separated",
    r"\bsight\b": "receptive field",
    r"\b(good|bad|positive) regions\b|\bregions of both kinds\b": "foreground and background proposals, RoIs",
    r"\bRandomRightAngle\b": "RandomD4",
    r"\blow-quality rescue\b|\brescued?\b": "allow_low_quality_matches",
}
"""What no text says, in any case, and what to write."""

LEANING = re.compile(
    r"^\s+\*{0,2}(?!\w*(?:Error|Exception): )\w+: "
    r"(of |see |as in|as :|alike\b|those of |that of |there\b"
    r"|([A-Z]|in pixels|a number|any shape|bool|``\([^`]*\)``( (bool|int64|xyxy))*)\.$).*",
    re.MULTILINE,
)
"""Argument lines that say nothing without their neighbours."""


def names_in(source):
    """Every name that code binds or passes: variables, arguments, keywords, functions, classes, own attributes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            if not (isinstance(node, ast.keyword) and ast.unparse(node) == "kind='stable'"):  # NumPy's own
                yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            yield node.attr


def wrong_words(text):
    return [
        f"{m[0]!r} (write {better})" for word, better in WORDS.items() for m in re.finditer(word, text, re.IGNORECASE)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_code_uses_the_fields_names(path):
    wrong = {name: NAMES[name] for name in names_in(path.read_text()) if name in NAMES}
    assert not wrong, wrong


@pytest.mark.parametrize("path", [*FILES, *FIGURES], ids=lambda p: str(p.relative_to(ROOT)))
def test_code_uses_the_fields_words(path):
    assert not (wrong := wrong_words(path.read_text())), wrong


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_line_of_a_docstrings_arguments_stands_alone(path):
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
            found += [m[0].strip() for m in LEANING.finditer(text)]
    assert not found, found


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_chapters_use_the_fields_names_and_words(path):
    wrong = []
    for cell in nbformat.read(path, as_version=4).cells:
        shown = cell.metadata.get("mystnb", {})
        wrong += wrong_words(
            "\n".join([cell.source, *(str(shown[part]) for part in ("figure", "image") if part in shown)])
        )
        fenced = re.findall(r"^```python\n(.*?)^```", cell.source, re.MULTILINE | re.DOTALL)
        for code in [cell.source] if cell.cell_type == "code" else fenced:
            wrong += [f"{n} (write {NAMES[n]})" for n in names_in(code) if n in NAMES]
    assert not wrong, wrong


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_pages_use_the_fields_words(path):
    assert not (wrong := wrong_words(path.read_text())), wrong
