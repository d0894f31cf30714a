"""The task of promptable segmentation: simulated clicks on known objects, and how well the answers fit."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from seglib.data.collate import collate
from seglib.models.sam import sam_tiny
from seglib.ops.geometry import Geometry
from seglib.ops.masks import masks_to_boxes
from seglib.train import TASKS, PromptTask, TrainConfig, evaluate, fit
from seglib.train.prompt_task import click_through
from seglib.types import Category, Instances, PromptOutput, Sample
from seglib.weights import read_metadata

CATEGORIES = (
    Category(0, "cell", True, (230, 159, 0)),
    Category(1, "cup", True, (0, 114, 178)),
    Category(2, "dish", False, (0, 158, 115)),
)


class ByBrightness(nn.Module):
    """Answers a click, or the middle of a box, with all pixels as bright as there; it keeps all it was asked.

    The model sees images at twice their size. Of three answers the middle one has the highest predicted IoU; it lacks
    the left half of the image, and the last one is right. From the second prompt on the answer is right.
    """

    def __init__(self):
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(()))
        self.image_size, self.mask_size, self.ambiguous = 16, 16, True
        self.geometry = Geometry("letterbox", 16)
        self.encoded, self.asked = [], []

    def encode(self, images, sizes=None):
        assert not self.training
        self.encoded.append(sizes)
        square = torch.full((len(images), 1, 16, 16), -1.0)
        square[:, :, : images.shape[2], : images.shape[3]] = images[:, :1]
        return square

    def decode(self, embedding, prompts):
        assert embedding.shape == (1, 1, 16, 16)
        self.asked.append(prompts)
        places = (prompts.boxes[:, :2] + prompts.boxes[:, 2:]) / 2 if prompts.points is None else prompts.points[:, 0]
        levels = (2 * embedding[0, 0]).round()  # (16, 16): dark, grey, bright
        values = torch.stack([levels[int(y), int(x)] for x, y in places.tolist()])
        alike = torch.where(levels == values[:, None, None], 5.0, -5.0)  # (N, 16, 16)
        right = torch.where(torch.arange(16) < 8, -5.0, alike)
        logits = torch.stack([alike, -alike, right, alike], 1)
        return PromptOutput(logits, torch.tensor([0.1, 0.2, 0.9, 0.3]).expand(len(logits), -1))


def sample(crowd=None, size=(6, 8)):
    """A bright bar across the image, a dark square on its right and an empty mask."""
    masks = torch.zeros(3, *size, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True
    masks[1, 4:6, 5:7] = True
    image = torch.full((3, *size), 0.5)
    image[:, masks[0]], image[:, masks[1]] = 1.0, 0.0
    iscrowd = None if crowd is None else torch.tensor(crowd)
    found = Instances(masks, torch.tensor([1, 0, 0]), masks_to_boxes(masks), iscrowd=iscrowd)
    return Sample(image, "bar and square", instances=found)


def test_each_object_is_clicked_until_it_is_right():
    model = ByBrightness().train()
    scores = evaluate(model, [sample()], PromptTask(CATEGORIES, clicks=3))
    # the chosen first answer lacks half of the bar, and nothing of the square
    assert [scores[f"miou_at_{k}"] for k in (1, 2, 3)] == [0.75, 1, 1]
    assert scores["oracle_at_1"] == 1
    assert (scores["noc85"], scores["noc90"], scores["reached85"], scores["reached90"]) == (1.5, 1.5, 1, 1)
    assert scores["class_miou_at_1"] == {"cell": 1, "cup": 0.5}
    assert scores["class_miou_at_3"] == {"cell": 1, "cup": 1}
    assert scores["objects"] == {"cell": 1, "cup": 1}  # an empty mask can't be clicked
    assert model.training


def test_clicks_fall_in_pixels_of_what_the_model_sees_and_the_last_mask_goes_with_them():
    model = ByBrightness()
    evaluate(model, [sample()], PromptTask(CATEGORIES, clicks=2))
    assert len(model.encoded) == 1
    first, second = model.asked
    assert first.points.tolist() == [[[4, 2]], [[10, 8]]]  # pixels (2, 1) and (5, 4), twice as far from the corner
    assert first.labels.tolist() == [[1], [1]] and first.masks is None and first.boxes is None
    assert second.points[:, :1].equal(first.points) and second.points.shape == (2, 2, 2)
    assert second.points[0, 1].tolist() == [4, 2] and second.labels.tolist() == [[1, 1], [1, 1]]  # where it is missed
    assert second.masks.shape == (2, 16, 16) and (second.masks[0, :, :8] < 0).all()  # the chosen answer, as logits


def test_columns_and_rows_are_scaled_apart_where_the_model_sees_another_shape():
    model, wanted = ByBrightness().eval(), sample().instances.masks[:2]  # 6 x 8 pixels
    click_through(model, model.encode(torch.zeros(1, 3, 12, 8)), wanted, (12, 8), clicks=1)
    assert model.asked[0].points.tolist() == [[[2, 2]], [[5, 8]]]  # (2, 1) and (5, 4), where rows alone are doubled


def test_a_box_may_come_first_and_stays():
    model = ByBrightness()
    scores = evaluate(model, [sample()], PromptTask(CATEGORIES, clicks=2, first="box"))
    first, second = model.asked
    assert first.points is None and first.boxes.tolist() == [[4, 2, 12, 6], [10, 8, 14, 12]]
    assert second.boxes.equal(first.boxes) and second.points.tolist() == [[[4, 2]], [[10, 8]]]
    assert scores["miou_at_1"] == 0.75


def test_crowds_and_empty_masks_are_not_asked_for():
    task, model = PromptTask(CATEGORIES, clicks=1), ByBrightness()
    batch = collate([sample(crowd=[False, True, False]), sample(crowd=[True, True, True])])
    batch = replace(batch, images=model.geometry(batch.images[0])[None].expand(2, -1, -1, -1), sizes=[(12, 16)] * 2)
    one, none = task.predict(model, batch)
    assert one.index.tolist() == [0] and one.labels.tolist() == [1]
    assert one.ious.tolist() == [[0.5]] and one.oracle.tolist() == [1]
    assert none.ious.shape == (0, 1) and none.oracle.shape == none.labels.shape == (0,)


def test_images_of_different_sizes_have_clicks_of_their_own():
    task, small, large = PromptTask(CATEGORIES, clicks=2), sample(), sample(size=(8, 7))
    alone = [evaluate(ByBrightness(), [s], task) for s in (small, large)]
    both = evaluate(ByBrightness(), [small, large], task, batch_size=2)
    assert both["miou_at_1"] == pytest.approx((alone[0]["miou_at_1"] + alone[1]["miou_at_1"]) / 2)
    assert both["objects"] == {"cell": 2, "cup": 2}


def test_objects_of_large_images_come_in_parts(monkeypatch):
    model, wanted = ByBrightness().eval(), sample().instances.masks[:2]
    embedding = model.encode(model.geometry(sample().image)[None])
    whole = click_through(model, embedding, wanted, (12, 16), clicks=2)
    monkeypatch.setattr("seglib.train.prompt_task.chunk_length", lambda count, size, image_size: 1)
    parts = click_through(model, embedding, wanted, (12, 16), clicks=2)
    assert [len(p) for p in model.asked] == [2, 2, 1, 1, 1, 1]
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_a_model_that_takes_no_prompt_for_ambiguous_gives_its_one_mask():
    model = ByBrightness()
    model.ambiguous = False
    scores = evaluate(model, [sample()], PromptTask(CATEGORIES, clicks=1))
    assert scores["miou_at_1"] == scores["oracle_at_1"] == 1


def test_the_last_mask_can_be_kept_from_the_model():
    model, wanted = ByBrightness().eval(), sample().instances.masks[:2]
    embedding = model.encode(model.geometry(sample().image)[None])
    click_through(model, embedding, wanted, (12, 16), clicks=3, pass_mask=False, where="random")
    assert [p.masks for p in model.asked] == [None, None, None]


def test_no_objects_at_all_give_nan_and_no_class():
    empty = replace(sample(), instances=sample().instances[:0])
    scores = evaluate(ByBrightness(), [empty], PromptTask(CATEGORIES, clicks=2))
    assert scores["miou_at_2"] != scores["miou_at_2"] and scores["class_miou_at_2"] == scores["objects"] == {}


def test_the_task_asks_for_things_and_its_arguments_make_it_again():
    task = PromptTask(CATEGORIES, clicks=7, first="box")
    assert [c.name for c in task.categories] == ["cell", "cup"]
    assert (task.score, PromptTask(CATEGORIES).score, PromptTask.score) == ("miou_at_7", "miou_at_5", "miou_at_5")
    again = TASKS["prompt"](CATEGORIES, **json.loads(json.dumps(task.arguments())))
    assert (again.clicks, again.first) == (7, "box")


@pytest.mark.parametrize(
    ("categories", "arguments", "message"),
    [
        (CATEGORIES, {"clicks": 0}, "at least 1 click, got 0"),
        (CATEGORIES, {"first": "mask"}, "'point' or 'box', got 'mask'"),
        ((replace(CATEGORIES[2], id=0),), {}, "prompts ask for things"),
    ],
)
def test_bad_arguments_are_refused(categories, arguments, message):
    with pytest.raises(ValueError, match=message):
        PromptTask(categories, **arguments)


def test_samples_need_instances():
    with pytest.raises(ValueError, match="no instances"):
        evaluate(ByBrightness(), [replace(sample(), instances=None)], PromptTask(CATEGORIES))


@pytest.mark.slow
def test_sam_trains_and_is_scored_through_the_loop(tmp_path):
    torch.manual_seed(0)
    model, task = sam_tiny(image_size=64), PromptTask(CATEGORIES, clicks=2)
    one = sample(size=(32, 32))
    samples = [replace(one, id=str(i), instances=one.instances[:2]) for i in range(4)]
    config = TrainConfig(steps=2, batch_size=2, lr=1e-3, precision="no")
    history = fit(model, samples, samples[:2], task=task, config=config, out=tmp_path)
    assert 0 <= history.best <= 1 and history.best == history.scores[2]["miou_at_2"]
    facts = read_metadata(tmp_path / "weights.safetensors")
    assert (facts["task"], facts["task_arguments"]) == ("prompt", {"clicks": 2, "first": "point"})
    assert facts["geometry"]["mode"] == "letterbox" and [c["name"] for c in facts["categories"]] == ["cell", "cup"]
