"""How long the chapters take, from what is in them: ``python tests/reading_times.py`` prints a line for each.

Reading is 200 words of open text a minute, 5 seconds for a line of open code, 20 for a figure or table, two minutes
for a figure that moves, and half a minute for a guess. What is folded does not count, nor do the exercises: they carry
minutes of their own, which are added up.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
WORDS_PER_MINUTE = 200
CODE_LINE, FIGURE, MOVING, GUESS = 5 / 60, 20 / 60, 2.0, 30 / 60  # minutes
FOLDED = {"setup", "hide-input", "hide-cell", "remove-input", "remove-cell"}
EXERCISE = re.compile(r"^(?P<fence>:{3,}|`{3,})\{exercise\}.*?^(?P=fence)\s*$", re.MULTILINE | re.DOTALL)
MINUTES = re.compile(r"(\d+)\s+minutes?\b")


def notebooks() -> list[Path]:
    """The chapters, in order."""
    return sorted((ROOT / "chapters").glob("[0-9][0-9]_*.ipynb"))


def minutes(path: Path) -> tuple[float, int]:
    """Minutes of a notebook: to read it, and those that its exercises carry together."""
    cells = nbformat.read(path, as_version=4).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    exercises = [match[0] for match in EXERCISE.finditer(text)]
    reading = len(EXERCISE.sub("", text).split()) / WORDS_PER_MINUTE
    solution = False
    for cell in cells:
        tags = set(cell.metadata.get("tags", []))
        if cell.cell_type == "markdown":
            solution = (solution or "{solution-start}" in cell.source) and "{solution-end}" not in cell.source
        elif "guess" in tags:
            reading += GUESS
        else:
            data = [output.get("data", {}) for output in cell.outputs]
            moves = any("data-params" in d.get("text/html", "") for d in data)
            reading += MOVING if moves else FIGURE * any("image/png" in d or "text/html" in d for d in data)
            stub = "raise NotImplementedError" in cell.source  # it is written, not read
            if not (solution or stub or tags & FOLDED):
                reading += CODE_LINE * sum(bool(line.strip()) for line in cell.source.splitlines())
    return reading, sum(int(found[1]) for text in exercises if (found := MINUTES.search(text)))


if __name__ == "__main__":
    for path in notebooks():
        reading, exercises = minutes(path)
        print(f"{path.stem:24} {reading:4.0f} min to read, {exercises:4} for the exercises")
