"""JSON files as people have them, read in one way everywhere."""

import gc
import json

import pytest

from seglib.files import collecting_nothing, read_json

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
