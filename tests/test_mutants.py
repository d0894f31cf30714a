"""The table of mutants stays true to the code that it changes, and its runner tells what survives."""

import subprocess
import sys

import pytest
from mutants import MUTANTS, ROOT, Mutant, occurrences, read_table


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.file}: {m.fault}")
def test_each_change_finds_its_text_once_and_has_a_test_file(mutant):
    assert occurrences(mutant) == 1, f"{mutant.old!r}: follow the code in tests/mutants.txt"
    assert (ROOT / mutant.tests[0]).is_file()


def test_no_mutant_is_in_the_table_twice():
    assert len({(m.file, m.old, m.new, m.tests) for m in MUTANTS}) == len(MUTANTS)


def test_the_table_is_read():
    text = "== ops/a.py: test_a.py -k one or two\n\ntwo lines\n- a\n-     b\n+ c\n\nnothing is left\n- d\n"
    tests = ("tests/test_a.py", "-k", "one or two")
    assert read_table(text) == [
        Mutant("two lines", "seglib/ops/a.py", "a\n    b", "c", tests),
        Mutant("nothing is left", "seglib/ops/a.py", "d", "", tests),
    ]


@pytest.mark.parametrize("paragraph", ["a fault without a change", "fault\n- a\nb", "the same\n- a\n+ a"])
def test_a_paragraph_of_another_form_is_refused(paragraph):
    with pytest.raises(ValueError, match="expected a description"):
        read_table(f"== ops/a.py: test_a.py\n\n{paragraph}\n")


def judged(folder, test, *changes, words=()):
    """What the runner says of a package of one function, and its exit status."""
    files = {
        "pyproject.toml": "",
        "seglib/__init__.py": "",
        "seglib/a.py": "def add(x, y):\n    return x + y\n",
        "tests/test_a.py": f"from seglib.a import add\n\ndef test_a():\n    assert {test}\n",
        "tests/mutants.txt": "\n\n".join(["== a.py: test_a.py", *changes]),
        "tests/mutants.py": (ROOT / "tests" / "mutants.py").read_text(),
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    command = [sys.executable, "tests/mutants.py", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (folder / "seglib" / "a.py").read_text() == files["seglib/a.py"]  # changes are made in copies
    return done.stdout, done.returncode


SUM, ORDER, IMPORT = "sum\n- x + y\n+ x - y", "order\n- x + y\n+ y + x", "import\n- def\n+ fed"
new_process = pytest.mark.slow  # that imports torch


@new_process
def test_the_runner_tells_what_is_killed_what_survives_and_what_is_broken(tmp_path):
    said, code = judged(tmp_path, "add(2, 1) == 3", SUM, ORDER, IMPORT)
    assert "killed    seglib/a.py: sum\n" in said
    assert "SURVIVED  seglib/a.py: order\n          add a test to tests/test_a.py\n" in said
    assert "BROKEN    seglib/a.py: import\n" in said and "SyntaxError" in said
    assert "1 of 3 killed" in said and code == 1


@new_process
def test_words_choose_mutants_and_all_killed_is_success(tmp_path):
    said, code = judged(tmp_path, "add(2, 1) == 3", SUM, ORDER, words=["sum"])
    assert said.startswith("killed    seglib/a.py: sum\n1 of 1 killed") and code == 0


@new_process
def test_nothing_is_judged_by_tests_that_fail_anyway(tmp_path):
    said, code = judged(tmp_path, "add(2, 1) == 4", SUM)
    assert said.startswith("tests/test_a.py: failed without any change\n") and code == 1
    assert "killed" not in said


@pytest.mark.parametrize(
    ("change", "message"),
    [("gone\n- x * y\n+ 0", "'x * y' occurs 0 times"), ("many\n- x\n+ y", "'x' occurs 2 times")],
)
def test_a_change_whose_text_is_not_there_once_is_an_error(tmp_path, change, message):
    said, code = judged(tmp_path, "True", SUM, change)
    assert message in said and "killed" not in said and code == 1
