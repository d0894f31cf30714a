"""Expected outputs of reference models that pip doesn't carry, stage by stage, where they are at hand."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "golden"


class Golden:
    """One fixture: its settings, its weights under the reference's names, and its arrays."""

    def __init__(self, name):
        if not FOLDER.is_dir():
            pytest.skip("the golden fixtures (../shared/golden) are not here")
        sys.path.insert(0, str(FOLDER))
        try:
            from weights import make_state
        finally:
            sys.path.remove(str(FOLDER))
        self.meta = json.loads((FOLDER / f"{name}.json").read_text())
        self.data = np.load(FOLDER / f"{name}.npz")
        state = make_state(self.meta["keys"], self.meta["seed"], self.meta["scale"])
        self.state = {k: torch.from_numpy(v) for k, v in state.items()}

    def __getitem__(self, key):
        """A stored array in full, as a tensor."""
        spec = self.meta["arrays"][key]
        assert spec["stored"] != "sampled", key
        if spec["stored"] == "bits":
            bits = np.unpackbits(self.data[key], count=int(np.prod(spec["shape"])))
            return torch.from_numpy(bits.astype(bool).reshape(spec["shape"]))
        return torch.from_numpy(self.data[key])

    def check(self, key, actual, tolerance=1e-4):
        """Assert that ``actual`` is the stored array, up to ``tolerance`` of its largest value."""
        spec, want = self.meta["arrays"][key], self.data[key]
        actual = actual.detach().numpy()
        assert list(actual.shape) == spec["shape"], key
        if spec["stored"] == "bits":
            share = (self[key].numpy() != actual).mean()
            assert share <= 2e-4, f"{key}: {share:.2%} of the pixels differ"
            return
        if spec["stored"] == "sampled":
            actual = actual.ravel()[self.data[spec["index"]]]
        worst = np.abs(actual - want).max(initial=0) / spec.get("absmax", 1)
        assert worst <= tolerance, f"{key} differs by {worst:.1e} of its largest value"
