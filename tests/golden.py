"""Expected outputs of reference models that pip doesn't carry, stage by stage, where they are at hand."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from seglib.models.zoo import build
from seglib.types import Instances, Targets
from seglib.weights import convert

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


def converted(name, origin):
    """A fixture, and seglib's model with its weights, in evaluation mode. `origin` is what ``convert`` calls them."""
    golden = Golden(name)
    builder, state, metadata = convert(origin, golden.state)
    model = build(builder, **metadata["arguments"])
    model.load_state_dict(state)
    return golden, model.eval()


# The fixtures of Detectron2 and AdelaiDet hold the same two images and objects.

SIZES = [(128, 160), (120, 148)]


def image(golden, i):
    """An image as seglib takes it, ``(3, H, W)``, red first in [0, 1]; it is stored blue first in 0..255."""
    return golden[f"small/image{i}"].flip(0).float() / 255


def batch(golden):
    """Both images, ``(2, 3, 128, 160)``. Raw zeros pad the smaller one."""
    images = torch.zeros(2, 3, 128, 160)
    for i, (height, width) in enumerate(SIZES):
        images[i, :, :height, :width] = image(golden, i)
    return images


def targets(golden):
    """The objects of both, with masks of the batch's size."""
    found = []
    for i in (0, 1):
        masks = torch.nn.functional.pad(golden[f"loss/target{i}.masks"], (0, 12 * i, 0, 8 * i))  # (N, 128, 160)
        found.append(Instances(masks, golden[f"loss/target{i}.classes"].long(), golden[f"loss/target{i}.boxes"]))
    return Targets(instances=found)
