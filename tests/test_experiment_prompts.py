"""Chapter 19's experiments: what they train, whom they ask, and what they tell."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image

from seglib.book.experiments import (
    experiment,
    from_run,
    prompts,
    sam_ambiguity,
    sam_clicks,
    sam_decoder,
    sam_photo,
    sam_unseen,
    sam_weights,
)
from seglib.book.experiments.prompts import (
    ask,
    few_prompts,
    intervals,
    objects_of,
    scenes_to_prompt,
    score_rows,
    train_prompts,
)
from seglib.book.experiments.slices import Slices, thickness
from seglib.data.collate import collate
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.data.volumes import Volumes
from seglib.models.fcn import fcn_tiny
from seglib.models.sam import sam_tiny
from seglib.ops.geometry import Geometry
from seglib.ops.masks import masks_to_boxes
from seglib.postprocess.everything import Everything
from seglib.train import PromptTask, SemanticTask, TrainConfig, evaluate, fit
from seglib.train.recipes import recipe
from seglib.types import Instances, Sample
from seglib.weights import read_metadata


def small(**arguments):
    torch.manual_seed(0)
    return sam_tiny(image_size=64, channels=16, clicks=1, **arguments).eval()


def scenes(length, split="val", **arguments):
    return scenes_to_prompt(length, split, size=64, **arguments)


def sample_of(masks, labels):
    """A grey image with these objects."""
    every = torch.stack(masks)
    return Sample(
        torch.full((3, *every.shape[1:]), 0.5),
        "one",
        instances=Instances(every, torch.tensor(labels), masks_to_boxes(every)),
    )


def box_mask(x0, y0, x1, y1, size=(16, 16)):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_a_mean_counts_objects_alike_and_an_interval_draws_images():
    values = [torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0]])]
    (mean, low, high), certain = intervals(values, resamples=500, seed=0)
    assert mean == 0.25 and (low, high) == (0, 1)  # one resample in four has the first image alone, one the second
    assert certain == [1, 1, 1]


def test_intervals_of_one_seed_draw_the_same_images():
    values = [torch.rand(3, 1, generator=torch.Generator().manual_seed(i)) for i in range(6)]
    whole = intervals(values, resamples=50, seed=0)[0]
    shifted = intervals([v + 1 for v in values], resamples=50, seed=0)[0]
    assert shifted == pytest.approx([v + 1 for v in whole], abs=2e-5)


def test_images_without_objects_do_not_count():
    few = torch.tensor([[0.5, 0.25, 1.0]])
    row = score_rows([few, torch.zeros(0, 3), few], resamples=50, seed=0)
    assert row == {"objects": 2, "at_1": [0.5] * 3, "at_5": [0.25] * 3, "box": [1.0] * 3}


def test_every_object_is_asked_for_as_the_task_does():
    model, data = small(), scenes(2)
    found = few_prompts(model, data)
    for i, few in enumerate(found):
        batch = collate([data[i]])
        clicks = PromptTask(CATEGORIES, clicks=5).predict(model, batch)[0].ious
        box = PromptTask(CATEGORIES, clicks=1, first="box").predict(model, batch)[0].ious
        torch.testing.assert_close(few, torch.cat([clicks[:, [0, 4]], box], 1))


def test_a_noisy_box_is_another_box(monkeypatch):
    model, sample, asked = small(), scenes(1)[0], []
    monkeypatch.setattr(prompts, "click_through", lambda *_, boxes, **__: asked.append(boxes))
    for first in ("box", "noisy box", "point"):
        ask(model, sample, clicks=1, first=first)
    exact, noisy, none = asked
    assert torch.equal(exact, objects_of(sample).boxes) and none is None
    assert noisy.shape == exact.shape and not torch.equal(noisy, exact)


def test_the_single_answer_the_chosen_and_the_best_are_told_apart():
    model, sample = small(), scenes(1)[0]
    single, chosen, best = sam_clicks.first_answers(model, sample).unbind(1)
    ious, oracle = ask(model, sample, clicks=1)
    close = partial(torch.testing.assert_close, atol=1e-3, rtol=0)  # rounding moves a pixel across the threshold
    close(chosen, ious[:, 0])
    close(best, oracle)
    model.ambiguous = False
    close(single, ask(model, sample, clicks=1)[0][:, 0])
    assert (single - chosen).abs().max() > 0.01 and (best - chosen).max() > 0.01


@pytest.mark.slow
def test_all_users_ask_for_the_same_objects():
    found = experiment("sam_clicks")(seeds=[0], steps=20, clicks=5, model=small(), data=scenes(3, "test"))
    assert [row["prompt"] for row in found["prompts"]] == list(sam_clicks.USERS)
    by_name = {row["prompt"]: row for row in found["prompts"]}
    for row in found["differences"]:
        a, b = by_name[row["a"]], by_name[row["b"]]
        for name in ("noc85", "reached90"):
            assert row[name][0] == pytest.approx(a[name][0] - b[name][0], abs=2e-5)
        assert row["miou"][4][0] == pytest.approx(a["miou"][4][0] - b["miou"][4][0], abs=2e-5)
    assert by_name["centre click"]["miou"][0] == by_name["centre click, no mask prompt"]["miou"][0]
    assert by_name["centre click"]["miou"][1] != by_name["centre click, no mask prompt"]["miou"][1]
    assert found["first_click"][1]["miou"] == pytest.approx(by_name["centre click"]["miou"][0], abs=1e-3)  # rounding
    for parts in (found["sizes"], found["classes"].values()):
        assert sum(row["objects"] for row in parts) == found["objects"]
    house = found["classes"]["house"]
    assert set(house) == {"objects", "at_1", "at_5", "box"}


def test_an_object_is_ambiguous_when_alone_in_its_group_and_in_its_class_it_is_something_else():
    # a tree touches a house; another tree stands alone
    tree, house, other = box_mask(2, 2, 5, 8), box_mask(5, 2, 10, 8), box_mask(12, 10, 15, 15)
    _, masks = sam_ambiguity.ambiguous_objects(sample_of([tree, house, other], [1, 0, 1]))
    assert masks.shape[:2] == (3, 1)
    assert torch.equal(masks[:, 0], torch.stack([tree, tree | house, tree | other]))


def test_one_mask_is_its_own_oracle_and_of_three_the_best_counts():
    sample, masks = sam_ambiguity.ambiguous_objects(scenes(1)[0])
    assert masks.shape[1] > 0
    one, three = (
        dict(zip(sam_ambiguity.SCORES, answers.unbind(1), strict=True))
        for answers in (sam_ambiguity.score_answers(small(ambiguous=a), sample, masks) for a in (False, True))
    )
    assert all(torch.equal(one[f"oracle_{level}"], one[level]) for level in ("object", "group", "class"))
    assert torch.equal(three["nearest"], torch.stack([three["object"], three["group"], three["class"]]).amax(0))
    assert (three["oracle"] >= three["chosen"]).all() and (three["oracle_class"] > three["class"]).any()
    assert (
        three["oracle"] - (three["oracle_object"] + three["oracle_group"] + three["oracle_class"]) / 3
    ).abs().max() < 1e-6
    assert (one["unsure"] == 1).all()  # an untrained network commits to nothing


@pytest.mark.slow
def test_networks_of_one_and_of_three_masks_are_compared_at_each_seed():
    data = scenes(2, "train", window=64), scenes(1)
    found = sam_ambiguity.run(seeds=[0, 0, 1], steps=1, batch_size=2, model=sam_tiny(image_size=64), data=data)
    one, three, again, _, other, _ = found["runs"]
    assert (one["variant"], three["variant"]) == ("one mask", "three masks")
    assert again["curve"] == one["curve"] != other["curve"] and again["oracle"] == one["oracle"]
    gains = [b["oracle"] - a["oracle"] for a, b in zip(found["runs"][::2], found["runs"][1::2], strict=True)]
    assert found["differences"]["oracle"][0] == pytest.approx(sum(gains) / 3, abs=2e-5)


def test_unseen_classes_are_not_asked_for_in_training_but_scored(monkeypatch):
    asked = []

    def train(build, data, **settings):
        asked.append({CATEGORIES[i].name for s in range(len(data)) for i in data[s].instances.labels.tolist()})
        return small(), {"loss": 0.0}

    def score(model, data):  # 0.25 of everything after the first training, 0.75 and 0.5 of a box after the second
        ious = torch.tensor([0.25] * 3 if len(asked) == 1 else [0.75, 0.75, 0.5])
        return [ious.expand(len(objects_of(data[i])), 3) for i in range(len(data))]

    monkeypatch.setattr(sam_unseen, "train_prompts", train)
    monkeypatch.setattr(sam_unseen, "few_prompts", score)
    found = sam_unseen.run(seeds=[0], steps=1, data=(scenes(6, "train"), scenes(4)))
    without, whole = asked
    assert {"car", "balloon"} <= whole and whole - without == {"car", "balloon"}
    row = found["runs"][0]
    assert found["differences"]["unseen_at_1"] == [-0.5] * 3 and found["differences"]["seen_box"] == [-0.25] * 3
    assert "ious" not in row
    labels = torch.cat([objects_of(s).labels for s in map(scenes(4).__getitem__, range(4))])
    assert found["objects"] == {
        "seen": int(((labels != 2) & (labels != 5)).sum()),
        "unseen": int(((labels == 2) | (labels == 5)).sum()),
    }
    assert {"car", "balloon", "house"} <= set(row["classes"])


def test_a_slice_shows_the_parts_of_each_structure():
    case, data = Volumes(2, split="train")[0], Slices(2, "train")
    sample = data[2]
    z = int(sample.id.rsplit("-", 1)[1])
    assert sample.id == f"{case.id}-{z}" and z % 4 == 1
    expected = ((case.image[0, z].float() + 160) / 400).clamp(0, 1)
    torch.testing.assert_close(sample.image, expected.expand(3, -1, -1))
    objects = objects_of(sample)
    assert (objects.masks.flatten(1).sum(1) >= 4).all()
    for mask, label in zip(objects.masks, objects.labels.tolist(), strict=True):
        assert (case.semantic[z][mask] == label).all()
    assert all(len(objects_of(data[i])) for i in range(len(data)))
    organ = objects.masks[objects.labels == 1]
    assert (organ.any(0) & (case.semantic[z] == 1)).sum() >= (case.semantic[z] == 1).sum() - 3  # but tiny parts


def test_slices_to_train_on_have_the_size_that_the_model_sees():
    sample = Slices(1, "train", geometry=Geometry("letterbox", 256))[0]
    assert sample.image.shape == (3, 256, 256) and objects_of(sample).size == (256, 256)
    with pytest.raises(ValueError, match="the number of volumes must be positive, got 0"):
        Slices(0, "train")


def test_thickness_is_the_diameter_of_the_largest_disc():
    masks = torch.stack([box_mask(1, 3, 15, 4), box_mask(1, 3, 15, 6), box_mask(0, 0, 5, 5)])
    assert thickness(masks).tolist() == [1, 3, 5]


@pytest.mark.slow
def test_limits_are_told_by_thickness_thinness_and_class():
    found = experiment("sam_limits")(seeds=[0], steps=20, model=small(), data=(scenes(3, "test"), Slices(1, "test")))
    things = sum(row["objects"] for row in found["things"].values())
    assert sum(row["objects"] for row in found["thickness"]) == things
    assert 0 < sum(row["objects"] for row in found["thinness"]) < things
    assert set(found["structures"]) <= {"organ", "vessel", "lesion"}
    assert found["structures"]["organ"]["thick"] > found["structures"]["vessel"]["thick"]


def test_a_fixed_encoder_stays_as_it_is_while_the_decoder_trains():
    start, slices = small(), Slices(1, "train", geometry=small().geometry)
    build = partial(sam_decoder.with_fixed_encoder, small())
    net, _ = train_prompts(build, slices, steps=1, seed=0, batch_size=2, lr=1e-3)
    image = slices[0].image[None]
    assert torch.equal(net.encode(image), start.encode(image))
    assert not torch.equal(net.mask_decoder.mask_tokens, start.mask_decoder.mask_tokens)
    assert not torch.equal(net.prompt_encoder.state_dict()["no_mask"], start.prompt_encoder.state_dict()["no_mask"])


@pytest.mark.slow
def test_ways_of_fine_tuning_are_compared_with_the_stored_weights(monkeypatch):
    start = small()
    monkeypatch.setattr(prompts, "sam_tiny", small)
    data = Slices(1, "train", geometry=start.geometry), Slices(1, "val"), scenes(1)
    found = sam_decoder.run(seeds=[0], steps=1, batch_size=2, model=start, data=data)
    decoder, whole = found["runs"]
    assert decoder["trained"] < whole["trained"]
    assert found["before"]["scenes_at_1"] == pytest.approx(float(few_prompts(start, data[2])[0][:, 0].mean()), abs=1e-5)
    by_pair = {(d["a"], d["b"]): d for d in found["differences"]}
    assert by_pair["decoder alone", "as it is"]["at_5"] == [
        pytest.approx(decoder["at_5"] - found["before"]["at_5"], abs=1e-5)
    ]
    assert by_pair["decoder alone", "all weights"]["box"] == [pytest.approx(decoder["box"] - whole["box"], abs=1e-5)]


def test_everything_is_compared_with_every_object(monkeypatch):
    left, right = box_mask(1, 1, 6, 11), box_mask(8, 1, 13, 11)
    sample = sample_of([left, right], [0, 0])
    half = box_mask(8, 1, 13, 6)  # half of the right one
    found = replace_instances(sample.instances, torch.stack([left, half]))
    monkeypatch.setattr(sam_photo, "segment_everything", lambda *_: found)
    best, count = sam_photo.best_of_everything(small(), sample)
    assert best.tolist() == [1, 0.5] and count == 2


def replace_instances(instances, masks):
    n = len(masks)
    objects = instances.replace(masks=masks, scores=torch.ones(n))
    return Everything(objects, torch.zeros(n, 2), torch.ones(n), torch.zeros(n, 4))


def test_things_count_that_are_large_enough_for_the_model():
    photo = sample_of([box_mask(0, 0, 32, 32, (480, 640)), box_mask(0, 0, 31, 31, (480, 640))], [0, 0])
    assert sam_photo._large_enough(sam_tiny(), photo).tolist() == [True, False]  # 164 and 154 pixels of 256 x 192


@pytest.mark.slow
def test_photos_and_scenes_are_scored_alike():
    model = small()
    model.everything = replace(model.everything, points_per_side=2, iou_threshold=0, stability_threshold=0)
    found = experiment("sam_photo")(seeds=[0], steps=20, model=model, data=(scenes(2, "test"), scenes(2, "test")))
    assert found["photos"] == found["scenes"] and found["photos"]["masks"] > 0
    assert found["photos"]["objects"] > 0 and found["photos"]["images"] == 2


@pytest.mark.slow
def test_photos_are_read_from_a_folder_of_coco_without_its_crowds(tmp_path):
    square = {"image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [[8, 8, 40, 8, 40, 40, 8, 40]]}
    crowd = square | {"iscrowd": 1, "segmentation": {"size": [48, 64], "counts": [0, 48 * 64]}}
    image = {"id": 1, "file_name": "a.png", "height": 48, "width": 64}
    rows = [row | {"id": i} for i, row in enumerate((square, crowd))]
    content = {"images": [image], "categories": [{"id": 1, "name": "cup"}], "annotations": rows}
    for folder in ("annotations", "val2017"):
        (tmp_path / folder).mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    Image.new("RGB", (64, 48), (90, 120, 30)).save(tmp_path / "val2017" / "a.png")
    found = experiment("sam_photo")(seeds=[0], steps=5, scenes=1, root=tmp_path, model=sam_tiny().eval())
    assert found["photos"]["images"] == found["photos"]["objects"] == 1


def test_photos_are_asked_for():
    with pytest.raises(ValueError, match="there are no photos; pass --root FOLDER"):
        experiment("sam_photo")(seeds=[0], steps=1)


@pytest.mark.slow
def test_the_stored_weights_are_trained_on_windows_first(tmp_path, monkeypatch):
    stages = (sam_weights.Stage(32, 2, 1.0, 1), sam_weights.Stage(64, 2, 0.5, 2))
    asked = []

    def fit_two(model, train, *given, task, config, **more):
        settings, sample = model.training_settings, train[0]
        asked.append((config.steps, config.lr, tuple(sample.image.shape), settings.windows, settings.clicks))
        boxes.append(sample.instances.boxes.tolist())
        return fit(model, train, *given, task=task, config=config, **more)

    boxes = []
    changed = {"STAGES": stages, "SIZE": 64, "sam_tiny": small, "fit": fit_two, "scenes_to_prompt": scenes}
    for name, value in changed.items():
        monkeypatch.setattr(sam_weights, name, value)
    monkeypatch.setattr(sam_weights, "SCENES_LENGTH", {"train": 2, "val": 2})
    given = ["--steps", "2", "1", "--levels", "class", "--out", str(tmp_path / "run")]
    assert sam_weights.main(given) == 0
    lr = recipe("sam_tiny").lr
    assert asked == [(2, lr, (3, 32, 32), True, 1), (1, lr / 2, (3, 64, 64), False, 2)]
    assert len({tuple(box) for box in boxes[1]}) < len(boxes[1])  # things of one class share a mask
    result, facts = tmp_path / "run" / "result.json", read_metadata(tmp_path / "run" / "weights.safetensors")
    told = json.loads(result.read_text())
    assert told["command"] == " ".join(["python -m seglib.book.experiments.sam_weights", *given])
    assert facts["levels"] == ["class"] and facts["scores"]["miou_at_5"] == pytest.approx(told["miou_at_5"])
    assert told["loss_of_stage1"] > 0 and (tmp_path / "run" / "stage1" / "state.safetensors").exists()
    made = result.read_text()
    assert sam_weights.main(given) == 0  # finished stages aren't repeated
    assert json.loads(result.read_text())["final_loss"] == json.loads(made)["final_loss"]


@pytest.mark.slow
def test_weights_are_scored_on_the_first_images_where_all_take_long(tmp_path):
    torch.manual_seed(0)
    model, folder = fcn_tiny(len(CATEGORIES)), tmp_path / "run"
    config, data, task = TrainConfig(steps=1, batch_size=2), Scenes(2, size=64), SemanticTask(CATEGORIES)
    facts = {"model": "fcn_tiny", "arguments": {"num_classes": 12}, "data": "scenes", "data_size": [64, 64]}
    fit(model, data, data, task=task, config=config, out=folder, metadata=facts)
    (folder / "result.json").write_text(json.dumps({"command": "train", "seconds": 1, "cpu_seconds": 1}))
    found, _ = from_run.collect(folder, None, images=3)
    assert found["test_images"] == 3
    few = evaluate(model, Scenes(3, split="test", size=64), task)
    assert found["scores"]["miou"] == pytest.approx(few["miou"], abs=1e-4)  # rounded


@pytest.mark.parametrize(
    "name", ["sam_clicks", "sam_ambiguity", "sam_unseen", "sam_limits", "sam_decoder", "sam_photo"]
)
def test_an_empty_budget_is_refused(name):
    with pytest.raises(ValueError, match="must be positive, got 0|at least 1 resample and 5 clicks, got 0"):
        experiment(name)(seeds=[0], steps=0)
