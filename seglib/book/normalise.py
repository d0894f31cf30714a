"""One byte-for-byte form for executed notebooks, so that a second run of a chapter changes nothing in git."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import nbformat
from nbformat import NotebookNode
from PIL import Image

from seglib.book.live import WIDGET_MIME
from seglib.book.palettes import DARK_CHUNK, NARROW_CHUNK

SETUP_TAG = "setup"
GUESS_TAG = "guess"
CHECKED_TAG = "nbval-check-output"
FOLDS = frozenset({"hide-input", "hide-cell", "remove-input"})
"""The tags under which a page folds a cell's code, or leaves it out."""

ROLES = {
    "drawing": "the drawing code",
    "proof": "the check",
    "trial": "the trial run",
    "data": "the preparation",
}
"""The tags of cells that are not the idea: their code is folded, under the words "Show …"."""

_CELL_METADATA = ("tags", "mystnb")
_CHECKED_COMMENT = re.compile(r"^# ?NBVAL_CHECK_OUTPUT\n?")

_NOTEBOOK_METADATA: dict[str, Any] = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}

_INSTALL = """\
try:
    import seglib
except ModuleNotFoundError:  # for example in Colab
    %pip install --quiet "seglib[book] @ git+{url}" "seglib-book @ git+{url}#subdirectory=chapters"
"""

_EXPLAIN = """\
try:
    import seglib
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "This notebook needs the book's package, seglib, which is not installed here. "
        "Do this once: clone or unpack the book, run  pip install -e '.[book]'  in its "
        "top folder, then restart this notebook's kernel."
    ) from error
"""

_BEGIN = """\
# Run this cell first: it finds the package, fixes the random seeds, picks the device.
{find}
from seglib import book

here = book.setup(seed=0)"""


def setup_source(repository: str) -> str:
    """The source of every chapter's first code cell.

    Args:
        repository: URL that ``pip`` can install from with ``git+`` before it (``https://…`` or ``file://…``). Empty
            when the book has no public home: the cell then says how to install by hand.

    Raises:
        ValueError: when the URL starts with neither ``https://`` nor ``file://``, or holds spaces.
    """
    if not repository:
        return _BEGIN.format(find=_EXPLAIN)
    if not re.fullmatch(r"(https|file)://[^\s\"'{}]+", repository):
        raise ValueError(
            f"the repository URL must start with https:// or file:// and hold no spaces, got {repository!r}"
        )
    return _BEGIN.format(find=_INSTALL.format(url=repository.rstrip("/")))


def normalise(notebook: NotebookNode, repository: str = "") -> str:
    """The text of ``notebook`` in the form in which the book stores it.

    Stamps the setup cell, folds what its tags say is not the idea (`ROLES`), turns nbval's comment into its tag,
    numbers cells and executions from the top, keeps known metadata only, merges pieces of printed text, encodes PNGs
    again with 256 colours, and leaves a live widget's image instead of its state. Applied to its own result it changes
    nothing.

    Args:
        notebook: an executed notebook of format 4. It is changed in place.
        repository: URL for the setup cell, empty when the book has no public home (`setup_source`).
    """
    notebook.metadata = nbformat.from_dict(_NOTEBOOK_METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.cells = [cell for cell in notebook.cells if cell.source.strip()]
    _stamp(notebook, setup_source(repository))
    count = 0
    for index, cell in enumerate(notebook.cells):
        cell.id = f"c{index:03d}"
        cell.source = "\n".join(line.rstrip() for line in cell.source.strip("\n").splitlines())
        cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in _CELL_METADATA if key in cell.metadata})
        cell.pop("attachments", None)
        if cell.cell_type == "code":
            count += 1
            _fold(cell)
            if cell.execution_count is not None:
                cell.execution_count = count
            cell.outputs = _outputs(cell.outputs, cell.execution_count)
    nbformat.validate(notebook)
    return str(nbformat.writes(notebook)).rstrip("\n") + "\n"


def is_setup(cell: NotebookNode) -> bool:
    """Whether ``cell`` is the setup cell."""
    return cell.cell_type == "code" and SETUP_TAG in cell.metadata.get("tags", [])


def is_solution(cell: NotebookNode) -> bool:
    """Whether ``cell`` is a folded solution of an exercise."""
    return "required=True" in cell.source and not FOLDS.isdisjoint(cell.metadata.get("tags", []))


def _fold(cell: NotebookNode) -> None:
    """Folds a cell by its tags: a role's code under its own words, a solution's likewise, and no code of a guess."""
    cell.source, checked = _CHECKED_COMMENT.subn("", cell.source)
    tags = list(dict.fromkeys([*cell.metadata.get("tags", []), *([CHECKED_TAG] if checked else [])]))
    words = next((text for tag, text in ROLES.items() if tag in tags), "")
    if GUESS_TAG in tags:
        tags = [tag for tag in tags if tag not in FOLDS] + ["remove-input"]
        cell.metadata["jupyter"], cell.metadata["cellView"] = {"source_hidden": True}, "form"  # JupyterLab, Colab
    elif words:
        tags = [tag for tag in tags if tag not in FOLDS] + ["hide-input"]
    if tags:
        cell.metadata["tags"] = tags
    if is_solution(cell):
        prompts = {"code_prompt_show": "Show a solution", "code_prompt_hide": "Hide the solution"}
    elif words:
        prompts = {"code_prompt_show": f"Show {words}", "code_prompt_hide": f"Hide {words}"}
    else:
        return
    cell.metadata["mystnb"] = {**cell.metadata.get("mystnb", {}), **prompts}


def _stamp(notebook: NotebookNode, source: str) -> None:
    """Give the notebook exactly one current setup cell, before all other code."""
    found = [cell for cell in notebook.cells if is_setup(cell)]
    cell = found[0] if found else nbformat.v4.new_code_cell()
    cell.source = source
    cell.metadata["tags"] = [SETUP_TAG, "hide-input"]
    cell.metadata["mystnb"] = {"code_prompt_show": "Show the set-up cell", "code_prompt_hide": "Hide the set-up cell"}
    others = [other for other in notebook.cells if not is_setup(other)]
    first_code = next((i for i, other in enumerate(others) if other.cell_type == "code"), len(others))
    place = notebook.cells.index(cell) if found else min(first_code, 1)
    notebook.cells = [*others[: min(place, first_code)], cell, *others[min(place, first_code) :]]


def _outputs(outputs: list[NotebookNode], count: int | None) -> list[NotebookNode]:
    result: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            text = re.sub(r"(?m)^[^\n]*\r(?!\n)", "", output.text)  # what a terminal would have overwritten
            if result and result[-1].output_type == "stream" and result[-1].name == output.name:
                result[-1].text += text
            else:
                result.append(nbformat.v4.new_output("stream", name=output.name, text=text))
            continue
        if "execution_count" in output:
            output.execution_count = count
        if "data" in output:
            output.metadata = nbformat.from_dict({})
            if WIDGET_MIME in output.data and set(output.data) - {WIDGET_MIME, "text/plain"}:
                del output.data[WIDGET_MIME]
            if "image/png" in output.data:
                output.data["image/png"] = _png(output.data["image/png"])
        result.append(output)
    return result


def _png(encoded: str) -> str:
    """A base64 PNG with at most 256 colours and no metadata but the book's own (`seglib.book.palettes`).

    One that is already so comes back as it is.
    """
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        if image.mode == "P" and not image.info.keys() - {"transparency", DARK_CHUNK, NARROW_CHUNK}:
            return encoded.strip()
        pixels = image.convert("RGBA")
    if pixels.getchannel("A").getextrema() == (255, 255):  # no transparency
        small = pixels.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    else:  # median cut knows no alpha
        small = pixels.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    small.info.clear()
    small.save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
