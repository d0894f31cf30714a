"""The rules that every chapter keeps, as checks on the stored notebook."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nbformat import NotebookNode

from seglib.book.live import WIDGET_MIME
from seglib.book.normalise import FOLDS, GUESS_TAG, is_setup

STATIONS: tuple[tuple[str, str], ...] = (
    ("1. The problem, seen", r"\bproblem\b|\bseen\b"),
    ("2. By hand", r"\bby hand\b"),
    ("3. From scratch", r"\bfrom scratch\b"),
    ("4. It is the real thing", r"\breal thing\b"),
    ("5. The whole system", r"\bwhole\b"),
    ("6. The claim, measured", r"\bclaim\b|\bmeasured\b"),
    ("7. Paper versus code", r"\bpapers? (versus|vs\.?|and) code\b"),
    ("8. Exercises", r"\bexercises?\b"),
    ("9. What to remember", r"\bremember\b"),
)
"""The nine stations of a chapter: name, and the pattern that a level-2 heading of it matches (in any case)."""

MAX_CELL_LINES = 25
MAX_LINE = 88  # characters of code or printed text that fit the page's column
MAX_PARAGRAPH_CHARACTERS = 700  # about six lines of the page
MIN_ALT_CHARACTERS = 15
EXERCISES = range(3, 7)

_ABSOLUTE_PATH = re.compile(
    r"(?<![\w.:/<])/(home|work|Users|tmp|root|content|mnt|usr|var|opt|private)/|\b[A-Z]:\\\\?\w"
)
_NETWORK = re.compile(
    r"https?://|\burlopen\b|\burlretrieve\b|\brequests\.\w+\(|\bwget\b|\bcurl\b|load_state_dict_from_url|"
    r"pretrained=True|download=True|from_pretrained"
)
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")
_DRAWS = re.compile(r"\bplt\.(?!cm\b)|\bfig, ax|\bax(es)?(\[\w+\])?\.\w+\(")
_ASSERTS = re.compile(r"^\s*(assert\b|torch\.testing\.assert_close\()", re.MULTILINE)
_ASKS = "before you run it"
_GUESS = re.compile(r"\bguess\.(?:number|choice|drawing)\(\s*[\"']([^\"']+)[\"']")
_SETTLE = re.compile(r"\bguess\.settle\(\s*[\"']([^\"']+)[\"']")
_VERDICT = re.compile(
    r"\b(won|wins|beats|outperforms|no difference|by far|(?:does|do|works?) (?:the )?best)\b", re.IGNORECASE
)
_INTERVAL = re.compile(
    r"±|\binterval|\bevery seed|\b(?:all|each) .{0,20}\bseeds?\b|\{numref\}|\btable\b", re.IGNORECASE
)
_PAPERS_NUMBER = re.compile(r"\b\d+\.\d+\b|\b\d+(?:\.\d+)? ?(?:%|points?\b|AP\b|mIoU\b)")
_PLACE = re.compile(
    r"\b(Tab(?:le|s?\.)?|Fig(?:ure|s?\.)?|section|sect?\.|abstract|eq(?:uation|s?\.)?|appendix)\b|§|\{numref\}",
    re.IGNORECASE,
)
_FENCED = re.compile(r"^(?P<fence>`{3,}|:{3,}|\$\$)[^\n]*\n.*?^(?P=fence)\s*$", re.MULTILINE | re.DOTALL)
_DIRECTIVE = re.compile(r"^[`:]{3,}\{(?P<name>[\w-]+)\}", re.MULTILINE)
_STATION_8 = re.compile(r"^## .*\bexercises?\b", re.MULTILINE | re.IGNORECASE)
_IMAGES = ("image/png", "image/jpeg", "image/svg+xml")


def lint(notebook: NotebookNode, *, chapter: bool = True) -> list[str]:
    """What ``notebook`` breaks of the book's rules, one sentence each; empty when it keeps them all.

    Args:
        notebook: the stored notebook.
        chapter: whether it is a chapter, which has the nine stations and exercises; a page of results has neither.
    """
    problems = [*_top(notebook), *_guesses(notebook)]
    if chapter:
        problems += [*_stations(notebook), *_exercises(notebook)]
    for index, cell in enumerate(notebook.cells):
        check = _code if cell.cell_type == "code" else _text
        problems += [f"cell {index}: {problem}" for problem in check(cell)]
    return problems


def _markdown(notebook: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def _without_code(text: str) -> str:
    return re.sub(r"^(`{3,})[^\n{]*\n.*?^\1\s*$", "", text, flags=re.MULTILINE | re.DOTALL)


def _top(notebook: NotebookNode) -> Iterator[str]:
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "cell 0: start with a text cell whose first line is the title, `# …`"
        return
    opening = re.split(r"^## ", _markdown(notebook), maxsplit=1, flags=re.MULTILINE)[0]
    for word, rule in (
        ("assum", "what the chapter assumes"),
        ("CPU", "the time on a CPU"),
        ("GPU", "the time on a GPU"),
    ):
        if word.lower() not in opening.lower():
            yield f"cell 0: the opening does not say {rule} (no {word!r} before the first `##`)"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    not_run = sum(cell.execution_count is None for cell in code)
    if not_run:
        yield f"{not_run} code cell(s) not executed; run `python -m seglib.book.notebooks run`"
    if not code or not is_setup(code[0]):
        yield "the first code cell is not the setup cell; `python -m seglib.book.notebooks normalise` puts it there"


def _stations(notebook: NotebookNode) -> Iterator[str]:
    headings = re.findall(r"^## +(.+)$", _without_code(_markdown(notebook)), re.MULTILINE)
    after = 0
    for name, pattern in STATIONS:
        found = [i for i, heading in enumerate(headings) if re.search(pattern, heading, re.IGNORECASE)]
        later = [i for i in found if i >= after]
        if later:
            after = later[0] + 1
        elif found:
            yield f"station {name!r} stands too early: {headings[found[0]]!r} comes before an earlier station"
        else:
            yield f"station {name!r} has no level-2 heading"


def _exercises(notebook: NotebookNode) -> Iterator[str]:
    """Each exercise: directive, a cell with a stub and ``check``, then a folded cell that must pass the same check."""
    pieces = exercises = 0  # stubs of "from scratch", from which the reader's own system is built; station 8
    at_exercises = False
    solved_in_fold: dict[str, bool] = {}
    tried: set[str] = set()
    in_solution = False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            at_exercises = at_exercises or _STATION_8.search(cell.source) is not None
            for match in _DIRECTIVE.finditer(cell.source):
                found = match["name"] in ("exercise", "exercise-start")
                exercises, pieces = exercises + (found and at_exercises), pieces + (found and not at_exercises)
                in_solution = match["name"] == "solution-start" or (in_solution and match["name"] != "solution-end")
            continue
        folded = in_solution or not FOLDS.isdisjoint(cell.metadata.get("tags", []))
        for name, rest in re.findall(r"\bcheck\(\s*[\"']([^\"']+)[\"'](.*)", cell.source):
            if "required=True" in rest:
                solved_in_fold[name] = folded
            else:
                tried.add(name)
    span = f"{EXERCISES.start} to {EXERCISES.stop - 1}"
    if exercises not in EXERCISES:
        yield f"{exercises} exercises; a chapter has {span} (`::::{{exercise}}`)"
    if pieces and pieces not in EXERCISES:
        yield f"{pieces} exercises before station 8; a chapter has {span} pieces that the reader writes, or none"
    if len(tried) != exercises + pieces:
        stubs = f"{len(tried)} different `check(name, attempt)` in stub cells"
        yield f"{exercises + pieces} exercises but {stubs}; each needs one"
    for name in sorted(tried - solved_in_fold.keys()):
        yield f"exercise {name!r} has no solution cell that calls check({name!r}, …, required=True)"
    for name in sorted(solved_in_fold.keys() - tried):
        yield f"the solution of {name!r} has no stub cell that calls check({name!r}, …) before it"
    for name in sorted(name for name, folded in solved_in_fold.items() if not folded):
        yield f"the solution of {name!r} is open; tag its cell `hide-input` or put it between solution-start and -end"


def _guesses(notebook: NotebookNode) -> Iterator[str]:
    """Each question before a result is a guess on the page, and a folded cell proves each guess's answer."""
    asked: list[str] = []
    settled: set[str] = set()
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            following = notebook.cells[index + 1 : index + 2]
            if _ASKS in cell.source.lower() and not any(_GUESS.search(c.source) for c in following):
                yield f"cell {index}: asks for a prediction ({_ASKS!r}), but no guess cell follows"
            continue
        found = _GUESS.findall(cell.source)
        if found and GUESS_TAG not in cell.metadata.get("tags", []):
            yield f"cell {index}: holds a guess without the tag {GUESS_TAG!r}, so the page would show its answer"
        asked += found
        settled.update(_SETTLE.findall(cell.source))
    for name in asked:
        if asked.count(name) > 1:
            yield f"the guess {name!r} is asked {asked.count(name)} times; give each a name of its own"
        if name not in settled:
            yield f"the guess {name!r} is never settled; prove its answer in a folded cell with guess.settle"
    for name in sorted(settled.difference(asked)):
        yield f"guess.settle({name!r}, …) has no guess of this name"


def _code(cell: NotebookNode) -> Iterator[str]:
    if not is_setup(cell):
        lines = cell.source.count("\n") + 1
        if lines > MAX_CELL_LINES:
            yield f"{lines} lines; at most {MAX_CELL_LINES}: split it or move code into seglib"
        tags = set(cell.metadata.get("tags", []))
        if FOLDS.isdisjoint(tags):
            if match := _DRAWS.search(cell.source):
                yield f"shows drawing code ({match[0]!r}); move it to a cell with the tag 'drawing'"
            if _ASSERTS.search(cell.source):
                yield "shows an assertion; move it to a cell with the tag 'proof', which prints its verdict"
        if GUESS_TAG not in tags and (long := [line for line in cell.source.splitlines() if len(line) > MAX_LINE]):
            yield f"{len(long)} line(s) over {MAX_LINE} characters: {long[0].strip()[:50]!r}…"
        if match := _NETWORK.search(cell.source):
            yield f"asks the network ({match[0]!r}); chapters need no download"
    if cell.source.rstrip().endswith(";"):
        yield "ends with ';', which fails under nbval; end with plt.show()"
    if match := _ABSOLUTE_PATH.search(cell.source):
        yield f"names a path of one machine ({match[0]!r})"
    yield from _stored(cell)


def _stored(cell: NotebookNode) -> Iterator[str]:
    images = 0
    for output in cell.outputs:
        if output.output_type == "error":
            yield f"stores an error: {output.ename}: {output.evalue}"
        elif output.output_type == "stream":
            if output.name == "stderr":
                yield f"writes to stderr: {output.text.strip().splitlines()[0][:100]!r}"
        elif WIDGET_MIME in output.data:
            yield "shows a widget without an image of it; use book.live(draw, …)"
        else:
            images += any(mime in output.data for mime in _IMAGES)
        text = output.get("text", "") or output.get("data", {}).get("text/plain", "")
        if output.output_type == "stream" and any(len(line) > MAX_LINE for line in text.splitlines()):
            yield f"prints lines over {MAX_LINE} characters; print less or show a table"
        if match := _ABSOLUTE_PATH.search(text):
            yield f"prints a path of one machine ({match[0]!r})"
        if _ADDRESS.search(text):
            yield "prints a memory address, which differs in every run; end with plt.show() or print a value"
    alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
    if images and len(alt) < MIN_ALT_CHARACTERS:
        yield "shows an image without alt text; set metadata.mystnb.image.alt to what a reader should see in it"
    if images > 1:
        yield f"shows {images} images, but alt text is for one; use one figure a cell"


def _text(cell: NotebookNode) -> Iterator[str]:
    for match in re.finditer(r"!\[(?P<alt>[^\]]*)\]\(", cell.source):
        if len(match["alt"].strip()) < MIN_ALT_CHARACTERS:
            yield f"holds an image with the alt text {match['alt']!r}; say what it shows"
    for match in re.finditer(r"^([`:]{3,})\{(?:image|figure)\}.*?^\1\s*$", cell.source, re.MULTILINE | re.DOTALL):
        if not re.search(rf"^:alt: .{{{MIN_ALT_CHARACTERS},}}", match[0], re.MULTILINE):
            yield "holds an image directive without `:alt:` text"
    for block in re.finditer(r"^```\w+\n(.*?)^```", cell.source, re.MULTILINE | re.DOTALL):
        if long := [line for line in block[1].splitlines() if len(line) > MAX_LINE]:
            yield f"holds code of {len(long[0])} characters a line (at most {MAX_LINE}): {long[0].strip()[:50]!r}…"
    for paragraph in re.split(r"\n\s*\n", _FENCED.sub("", cell.source)):
        plain = paragraph.strip()
        if not re.match(r"[|#>]|[-*+] |\d+\. |[`:]{3}|\(.*\)=$", plain) and len(plain) > MAX_PARAGRAPH_CHARACTERS:
            yield f"a paragraph of {len(plain)} characters (at most {MAX_PARAGRAPH_CHARACTERS}): {plain[:50]!r}…"
        if (said := _VERDICT.search(plain)) and not _INTERVAL.search(plain):
            yield f"judges ({said[0]!r}) without a paired interval, a figure or a table beside it: {plain[:50]!r}…"
        if "{cite}" in plain and (said := _PAPERS_NUMBER.search(plain)) and not _PLACE.search(plain):
            yield f"quotes a paper's number ({said[0]!r}) without its table, figure or section: {plain[:50]!r}…"
