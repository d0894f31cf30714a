"""What is installed with the library, and what with the book."""

import re
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[1]


def settings(folder):
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text())


def test_engineers_install_the_library_without_the_books_weights_and_results():
    build = settings(".")["tool"]["hatch"]["build"]["targets"]
    assert "force-include" not in build["wheel"] and build["wheel"]["packages"] == ["seglib"]
    assert not [place for place in build["sdist"]["include"] if "chapters" in place]


def test_the_books_package_puts_them_where_the_library_looks():
    wheel = settings("chapters")["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {name: f"seglib/book/stored/{name}" for name in ("results", "weights")}
    assert all((ROOT / "chapters" / name).is_dir() for name in wheel["force-include"])


def test_one_version_of_python_is_named():
    least = settings(".")["project"]["requires-python"].removeprefix(">=")
    assert settings("chapters")["project"]["requires-python"] == f">={least}"
    assert re.search(rf"Python {re.escape(least)} or newer", (ROOT / "README.md").read_text())
    assert settings(".")["tool"]["ruff"]["target-version"] == f"py{least.replace('.', '')}"
