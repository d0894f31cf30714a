"""Stored results say how, where, when and from what they came, and are never half-written."""

import re
import subprocess

import pytest
import torch

from seglib.book import results
from seglib.book.results import PROVENANCE, commit, hardware, made_here, read_results, stored_file, today, write_results


def test_what_is_written_is_read_back_with_its_provenance(tmp_path):
    path = tmp_path / "deep" / "run.json"
    write_results(path, {"miou": 0.5, "iou": {"car": 0.25}}, command="python -m run --seeds 2", seed=range(2))
    found = read_results(path)
    assert found["miou"] == 0.5 and found["iou"] == {"car": 0.25}
    assert found["command"] == "python -m run --seeds 2" and found["seed"] == [0, 1]
    assert set(PROVENANCE) <= set(found)
    assert [p.name for p in path.parent.iterdir()] == ["run.json"]


def test_a_single_seed_stays_a_number(tmp_path):
    write_results(tmp_path / "run.json", {}, command="run", seed=7)
    assert read_results(tmp_path / "run.json")["seed"] == 7


@pytest.mark.parametrize("value", [float("nan"), float("inf"), torch.tensor(1.0)])
def test_what_json_cannot_hold_is_refused_and_the_old_file_stays(tmp_path, value):
    path = tmp_path / "run.json"
    write_results(path, {"x": 1}, command="run", seed=0)
    with pytest.raises(ValueError, match="use plain finite numbers"):
        write_results(path, {"x": value}, command="run", seed=0)
    assert read_results(path)["x"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_data_cannot_overwrite_the_provenance(tmp_path):
    with pytest.raises(ValueError, match=r"the keys \['date'\] are filled in"):
        write_results(tmp_path / "run.json", {"date": "yesterday"}, command="run", seed=0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"command": "x", "seed": 0, "hardware": "y"}', "does not say its commit, date"),
        ("[1, 2]", "does not say its command, seed, hardware, commit, date"),
        ('{"command":', "is not valid JSON"),
    ],
)
def test_a_file_without_its_provenance_is_refused(tmp_path, text, said):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_results(tmp_path / "run.json")


def test_a_missing_file_names_the_places_that_were_looked_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape("results/none.json is in none of ., ") + ".*chapters"):
        stored_file("results/none.json")


def test_a_chapters_file_is_found_from_any_folder_and_the_working_folder_comes_first(tmp_path, monkeypatch):
    book, here = tmp_path / "book", tmp_path / "here"
    for folder in (book / "chapters" / "results", here / "results"):
        folder.mkdir(parents=True)
        (folder / "a.json").write_text("{}")
    monkeypatch.setattr(results, "_PACKAGE", book / "seglib")
    monkeypatch.chdir(tmp_path)
    assert stored_file("results/a.json") == book / "chapters" / "results" / "a.json"
    monkeypatch.chdir(here)
    assert stored_file("results/a.json").resolve() == here / "results" / "a.json"


def test_the_facts_are_short_lines():
    assert hardware() and "\n" not in hardware()
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", today())


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_is_that_of_the_package_and_says_when_files_differ_from_it(tmp_path, monkeypatch):
    monkeypatch.delenv("SEGLIB_COMMIT", raising=False)
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr(results, "_PACKAGE", package)
    (package / "a.py").write_text("1")
    assert commit() == "unknown"  # no checkout
    (tmp_path / "results.json").write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "package/a.py", "results.json")
    git(tmp_path, "commit", "-q", "-m", "one")
    head = git(tmp_path, "rev-parse", "--short=12", "HEAD")
    assert commit() == head
    (tmp_path / "results.json").write_text("2")  # a file beside the package is no change of the code
    assert commit() == head
    (package / "b.py").write_text("1")  # a new file of the package is one
    assert commit() == head + "+changes"
    (package / "b.py").unlink()
    (package / "a.py").write_text("2")
    assert commit() == head + "+changes"
    monkeypatch.setenv("SEGLIB_COMMIT", "abc")
    assert commit() == "abc"


def test_a_file_is_made_here_when_command_and_clean_commit_are_those_of_now(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    assert not made_here(path, "run")
    monkeypatch.setenv("SEGLIB_COMMIT", "abc")
    write_results(path, {}, command="run", seed=0)
    assert made_here(path, "run") and made_here(path) and not made_here(path, "run --seeds 5")
    for other in ("abd", "abc+changes", "unknown"):
        monkeypatch.setenv("SEGLIB_COMMIT", other)
        assert not made_here(path, "run")
        write_results(path, {}, command="run", seed=0)
        assert made_here(path, "run") == (other == "abd")
