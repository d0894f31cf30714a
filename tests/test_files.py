"""JSON files as people have them, read in one way everywhere."""

import errno
import gc
import json
import os

import pytest
import torch
from safetensors import SafetensorError

from seglib.commands.console import one_line
from seglib.files import atomic_path, collecting_nothing, read_json
from seglib.weights.load import write_tensors

MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize("start", [b"", MARK], ids=["plain", "with a byte order mark"])
def test_a_byte_order_mark_is_skipped(tmp_path, start):
    path = tmp_path / "table.json"
    path.write_bytes(start + json.dumps([{"name": "müll"}], ensure_ascii=False).encode())
    assert read_json(path) == [{"name": "müll"}]


@pytest.mark.parametrize("content", [b"", b'{"images": [', b"\xff\xfe{\x00}\x00", MARK])
def test_a_file_that_is_cut_off_or_no_json_is_named(tmp_path, content):
    path = tmp_path / "table.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"table\.json is no JSON file \(.+\); check that it is complete"):
        read_json(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist"):
        read_json(tmp_path / "none.json")


def test_the_cycle_collector_rests_inside_and_is_as_before_afterwards():
    assert gc.isenabled()
    with pytest.raises(KeyError), collecting_nothing():
        assert not gc.isenabled()
        with collecting_nothing():
            assert not gc.isenabled()
        assert not gc.isenabled(), "the inner block leaves the outer one's state"
        raise KeyError
    assert gc.isenabled()


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("old")
    with pytest.raises(OSError, match="No space") as full, atomic_path(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert one_line(full.value) == f"{path}: No space left on device; free some space, or choose another place"
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"] and path.read_text() == "old"
    assert one_line(OSError(errno.ENOSPC, "No space left on device")).startswith("No space left on device; free some")


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("I/O error: No space left on device (os error 28)", "No space left on device; free some space"),
        ("I/O error: Permission denied (os error 13)", "Permission denied; check the path"),
        ("something else", "can't be written (something else)"),
    ],
)
def test_what_safetensors_says_of_the_disk_becomes_the_systems_error_with_the_file(tmp_path, monkeypatch, said, line):
    def fails(*_):
        raise SafetensorError(said)

    monkeypatch.setattr("seglib.weights.load.save_file", fails)
    path = tmp_path / "weights.safetensors"
    with pytest.raises(OSError) as failed:
        write_tensors({"a": torch.ones(1)}, path, {})
    assert str(path) in one_line(failed.value) and line in one_line(failed.value)
    assert not list(tmp_path.iterdir())
