"""A hundred masks of 12 megapixels from each one-stage system, one at a time: a bound on the memory that they take."""

from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "one_stage.py"


@pytest.fixture
def peak(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARK.parent)
    from _side_by_side import peak

    return peak


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the largest resident size")
@pytest.mark.parametrize("name", ["yolact_tiny", "condinst_tiny", "solov2_tiny"])
def test_a_hundred_masks_of_12_megapixels_in_bounded_memory(peak, name):
    # all at once they would be 1,200 MB of bool, and 4,800 MB as probabilities; one takes 12 MB and 48 MB
    assert peak(str(BENCHMARK), name) < 600
