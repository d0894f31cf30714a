"""One notebook as Colab runs it: torch and the rest are there, seglib is not, and the first cell fetches it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import nbformat
import pytest
from browser import ROOT
from sample_chapter import code, markdown

from seglib.book.normalise import normalise

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FIRST_CHAPTER = ROOT / "chapters" / "01_tasks.ipynb"
LOOK = "import seglib, sys\nprint('seglib is in', seglib.__file__.startswith(sys.prefix))"

EXECUTE = """
import nbclient, nbformat, sys
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=600).execute()
nbformat.write(notebook, sys.argv[1])
"""


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    result = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    return result.stdout


def make_environment(folder: Path) -> Path:
    """A virtual environment that sees every installed package but seglib; its Python.

    Each entry of the running environment's site-packages is linked, so nothing is downloaded or copied.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    target = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "seglib" not in entry.name.lower() and entry.name != "__pycache__":
            (target / entry.name).symlink_to(entry)
    return python


def clone(folder: Path) -> str:
    """A git repository with the files of this working tree (changed ones included); its address."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    run("git", "init", "--quiet", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    run("git", *author, "commit", "--quiet", "--message", "copy", cwd=folder)
    return folder.as_uri()


def require_index(python: Path, tmp_path: Path) -> None:
    """Skip where pip reaches no package index, for it fetches the build backend; fail where CI=true."""
    command = [str(python), "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path), "hatchling>=1.26"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = f"pip reaches no package index: {result.stderr.strip()[-300:]}"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def notebook_text(url: str) -> str:
    if FIRST_CHAPTER.exists():
        notebook = nbformat.read(FIRST_CHAPTER, as_version=4)
    else:
        notebook = nbformat.v4.new_notebook(cells=[markdown("# A sample"), code("here.device")])
    notebook.cells.append(code(LOOK))
    return normalise(notebook, url)


def versions(python: Path) -> str:
    return run(
        python,
        "-c",
        "import numpy, torch, torchvision as v; print(torch.__version__, v.__version__, numpy.__version__)",
    )


def test_the_first_cell_installs_the_package_and_the_notebook_runs(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "colab")
    require_index(python, tmp_path)
    assert (
        "No module named 'seglib'"
        in subprocess.run(
            [str(python), "-c", "import seglib"], cwd=tmp_path, capture_output=True, text=True, check=False
        ).stderr
    )
    before = versions(python)
    (tmp_path / "repository").mkdir()
    url = clone(tmp_path / "repository")
    path = tmp_path / "content" / "notebook.ipynb"
    path.parent.mkdir()
    path.write_text(notebook_text(url), encoding="utf-8")

    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"SEGLIB_BUDGET": "fast", "OMP_NUM_THREADS": "1", "JUPYTER_DATA_DIR": str(tmp_path / "jupyter")}
    run(python, "-m", "ipykernel", "install", "--prefix", tmp_path / "colab", "--name", "python3", env=environment)
    run(python, "-c", EXECUTE, path, cwd=path.parent, env=environment)

    cells = nbformat.read(path, as_version=4).cells
    printed = [output.get("text", "") for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    assert printed[-1] == "seglib is in True\n"
    assert versions(python) == before  # Colab's own torch was left alone


def test_without_a_public_home_the_first_cell_says_what_to_do(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "colab")
    notebook = nbformat.reads(notebook_text(""), as_version=4)
    setup = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    result = subprocess.run([str(python), "-c", setup], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "pip install -e '.[book]'" in result.stderr and "restart this notebook's kernel" in result.stderr
