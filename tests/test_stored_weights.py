"""The stored weights hold the score that is recorded with them."""

import json
from pathlib import Path

import pytest
from torch.utils.data import Subset

from seglib.book.pretrained import stored_model, stored_weights
from seglib.book.results import PROVENANCE
from seglib.data.catalog import build_dataset
from seglib.train import TASKS, evaluate

WEIGHTS = Path(__file__).resolve().parents[1] / "chapters" / "weights"
ROOTS = {"dsb2018": Path(__file__).resolve().parents[2] / "shared" / "data" / "dsb2018-labelmaps"}
"""Where the data of weights is that were not trained on scenes."""

NAMES = sorted(p.stem for p in WEIGHTS.glob("*.safetensors"))


def test_there_are_stored_weights():
    assert "fcn_tiny" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_stored_weights_are_small_and_say_how_they_were_made(name):
    path, metadata = stored_weights(name)
    assert path.stat().st_size <= (10 if metadata["task"] == "prompt" else 3) * 2**20
    beside = json.loads(path.with_suffix(".json").read_text())
    assert set(PROVENANCE) <= set(beside)
    score = TASKS[metadata["task"]].score
    assert beside[f"val_{score}"] == pytest.approx(metadata["scores"][score], abs=1e-4)  # rounded to four digits


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_stored_weights_hold_their_score_on_pictures_that_chose_nothing(name):
    path, metadata = stored_weights(name)
    root, size = ROOTS.get(metadata["data"]), metadata.get("data_size")
    if root is not None and not root.exists():
        pytest.skip(f"the data in ../shared/data/{root.name} are not here")
    beside = json.loads(path.with_suffix(".json").read_text())
    task = TASKS[metadata["task"]]
    test = build_dataset(metadata["data"], root, "test", size=tuple(size) if size else None, keep=(task.needs,))
    first = Subset(test, range(beside["test_images"]))  # of prompts, which take long, only some images are scored
    scores = evaluate(stored_model(name), first, task(test.categories, **metadata.get("task_arguments", {})))
    assert scores[task.score] == pytest.approx(beside["scores"][task.score], abs=0.01)


def test_weights_that_are_not_stored_are_named():
    with pytest.raises(ValueError, match="weights/nothing.safetensors is in none of"):
        stored_model("nothing")
