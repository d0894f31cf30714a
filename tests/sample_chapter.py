"""A small chapter that keeps every rule of the book, for tests of the tools around the notebooks."""

from __future__ import annotations

import nbformat
from nbformat import NotebookNode

PLOT = """\
import matplotlib.pyplot as plt

plt.figure(figsize=(3, 2))
plt.plot([0, 1, 2], [0, 1, 4])
plt.show()"""

STUB = """\
def double(x):
    raise NotImplementedError

def check(name, attempt, required=False):
    print(name, "ok" if required else "not attempted yet")

check("{name}", double)"""

SOLUTION = """\
def double(x):
    return 2 * x

check("{name}", double, required=True)"""


def markdown(text: str) -> NotebookNode:
    return nbformat.v4.new_markdown_cell(text)


def code(source: str, *, tags: tuple[str, ...] = (), alt: str = "") -> NotebookNode:
    """A code cell with the metadata that the book uses."""
    metadata: dict[str, object] = {"tags": list(tags)} if tags else {}
    if alt:
        metadata["mystnb"] = {"image": {"alt": alt}}
    return nbformat.v4.new_code_cell(source, metadata=metadata)


def sample_chapter() -> NotebookNode:
    """A fresh, unexecuted chapter of nine stations; it runs in a few seconds."""
    cells = [
        markdown("# A sample\n\nThis chapter assumes nothing. It takes 1 minute on a CPU and less on a GPU."),
        markdown("## The problem, seen"),
        code(PLOT, tags=("drawing",), alt="A curve that rises from 0 to 4 over three points."),
        markdown("## By hand: three numbers\n\nThe loss is $L = \\sum_i x_i^2$."),
        code("print(sum(x * x for x in (1, 2, 3)))\nprint('done')"),
        markdown("## From scratch\n\n$$\\mathrm{IoU} = \\frac{|A \\cap B|}{|A \\cup B|}$$ (iou)"),
        markdown("## It is the real thing"),
        markdown("## The whole system"),
        markdown("## The claim, measured"),
        markdown("## Paper versus code"),
        markdown("## Exercises"),
    ]
    for name in ("first", "second", "third"):
        cells += [
            markdown(f"::::{{exercise}} The {name}\n:label: sample-{name}\n★, 2 minutes. Double a number.\n::::"),
            code(STUB.format(name=name)),
            markdown(f"::::{{solution}} sample-{name}\n:class: dropdown\nTwo times the number.\n::::"),
            code(SOLUTION.format(name=name), tags=("hide-cell",)),
        ]
    cells.append(markdown("## What to remember"))
    return nbformat.v4.new_notebook(cells=cells)
