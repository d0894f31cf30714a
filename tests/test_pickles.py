"""Pickles of arrays are read; anything that would run is refused and doesn't run."""

import os
import pickle

import numpy as np
import pytest
import torch

from seglib.weights.load import read_checkpoint
from seglib.weights.pickles import read_arrays


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.asfortranarray(np.eye(3)), "n": np.array(7)}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_checkpoint_in_detectron2s_form_becomes_tensors(tmp_path, protocol):
    content = {"model": ARRAYS, "__author__": "somebody", "matching_heuristics": True}
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    state = read_checkpoint(tmp_path / "m.pkl")
    assert state.keys() == ARRAYS.keys()
    for key, value in ARRAYS.items():
        assert torch.equal(state[key], torch.from_numpy(value.copy()))


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("inside", [lambda e: e, lambda e: {"model": {"a": e}}, lambda e: np.array([e], dtype=object)])
def test_a_program_is_refused_and_not_run(tmp_path, protocol, inside):
    mark = tmp_path / "ran"
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(inside(Evil(mark)), protocol=protocol))
    with pytest.raises(ValueError, match=r"m.pkl can't be read safely \(it calls (posix|nt).system\)"):
        read_arrays(tmp_path / "m.pkl")
    assert not mark.exists()


def test_damaged_and_foreign_files_are_refused(tmp_path):
    whole = pickle.dumps({"model": ARRAYS}, protocol=2)
    for content in (whole[: len(whole) // 2], b"", b"\x80\x02garbage", pickle.dumps(torch.zeros(2))):
        (tmp_path / "m.pkl").write_bytes(content)
        with pytest.raises(ValueError, match="can't be read safely"):
            read_checkpoint(tmp_path / "m.pkl")
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"model": {"a": "text"}}))
    with pytest.raises(ValueError, match="holds no state dict"):
        read_checkpoint(tmp_path / "m.pkl")
