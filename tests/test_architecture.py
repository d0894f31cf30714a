"""The imports of seglib flow one way, and importing it is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "seglib"

# What each part may import of seglib, besides itself.
ALLOWED = {
    "types": set(),
    "files": set(),
    "ops": {"types"},
    "layers": {"types", "ops"},
    "losses": {"types", "ops"},
    "postprocess": {"types", "ops"},
    "models": {"types", "ops", "layers", "losses", "postprocess"},
    "data": {"types", "files", "ops"},
    "metrics": {"types", "files", "ops"},
    "planning": {"types", "files", "ops"},
    "weights": {"types", "files", "ops", "layers", "models", "data", "planning"},
    "train": {"types", "files", "ops", "data", "metrics", "postprocess", "models", "weights"},
    "viz": {"types", "ops"},
    "photos": {"types", "data", "postprocess", "train", "viz"},
    "case_files": {"types", "data", "ops", "postprocess", "train"},
    "commands": {
        "types",
        "files",
        "ops",
        "data",
        "models",
        "planning",
        "postprocess",
        "case_files",
        "train",
        "viz",
        "weights",
    },
    "cli": {"types", "files", "ops", "data", "losses", "models", "planning", "photos", "commands", "train", "weights"},
    "book": {
        "types",
        "files",
        "ops",
        "layers",
        "losses",
        "postprocess",
        "models",
        "data",
        "metrics",
        "planning",
        "train",
        "viz",
        "weights",
    },
    "__main__": {"cli"},
    "__init__": set(),
}


def imported_parts(path: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        parts |= {name.split(".")[1] for name in names if name.startswith("seglib.")}
    return parts


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_what_its_layer_may(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part == "__init__":
        return  # names the parts for type checkers only; test_importing_seglib_is_cheap holds the rest
    extra = imported_parts(path) - ALLOWED[part] - {part}
    assert not extra, f"{part} may not import {sorted(extra)}"


def test_models_do_not_import_each_other():
    allowed = {("panoptic_fpn", "mask_rcnn")}
    shared = {
        "base",
        "instance",
        "keywords",
        "semantic",
        "two_stage",
    }  # what the models of a task or a family have in common
    names = {p.stem for p in (PACKAGE / "models").glob("*.py")} - {"__init__", "zoo"} - shared
    for name in names:
        tree = ast.parse((PACKAGE / "models" / f"{name}.py").read_text())
        modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
        siblings = {m.split(".")[2] for m in modules if m.startswith("seglib.models.")} - {name} - shared
        assert all((name, s) in allowed for s in siblings), f"{name} imports {siblings}"


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_importing_seglib_is_cheap():
    heavy = {"torch", "torchvision", "matplotlib", "accelerate", "IPython", "ipywidgets", "typer"}
    assert not heavy & loaded_after("import seglib")


def test_the_library_needs_neither_jupyter_nor_matplotlib_nor_accelerate_to_import_a_model():
    assert not {"matplotlib", "accelerate", "IPython"} & loaded_after(
        "import seglib.models.fcn, seglib.metrics.confusion"
    )


def test_the_command_line_shows_its_help_without_torch():
    assert "torch" not in loaded_after("import seglib.cli")


def test_every_part_is_reachable_from_the_package():
    import seglib

    for name in dir(seglib):
        assert getattr(seglib, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        seglib.nothing  # noqa: B018 (the access is the test)
