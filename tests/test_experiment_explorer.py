"""The explorer's experiment: every system's answer to the same scenes, with scores that belong to what is stored."""

import math
from pathlib import Path

import pytest
import torch

from seglib.book.experiments import experiment, explorer, scoreboard
from seglib.book.experiments.prompts import ask
from seglib.book.figures.images import pack_ids, unpack_ids
from seglib.book.pretrained import stored_model
from seglib.book.results import read_results
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.metrics import ConfusionMatrix
from seglib.metrics.pq import PanopticQuality
from seglib.types import VOID, Instances, Panoptic, Sample, Segment, Semantic

CAR, TREE, SKY = 2, 1, 7
THINGS = [c.id for c in CATEGORIES if c.isthing]


def scene():
    """8 × 8: a car at the upper left, a tree beside it, sky, and a void corner at the lower right."""
    ids = torch.full((8, 8), 3, dtype=torch.int32)
    ids[:4, :4], ids[:4, 4:6], ids[7, 7] = 9, 6, 0
    semantic = torch.tensor([VOID, 0, 0, SKY, 0, 0, TREE, 0, 0, CAR])[ids.long()]
    segments = [Segment(3, SKY, False, 39), Segment(6, TREE, True, 8), Segment(9, CAR, True, 16)]
    masks = torch.stack([ids == 6, ids == 9])  # the order of the segments
    objects = Instances(masks, torch.tensor([TREE, CAR]), torch.tensor([[4.0, 0, 6, 4], [0, 0, 4, 4]]))
    return Sample(torch.zeros(3, 8, 8), "tiny", semantic, objects, Panoptic(ids, segments))


def detections(*found):
    """Detections (class, score, x0, y0, x1, y1)."""
    boxes = torch.tensor([f[2:] for f in found], dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(found), 8, 8, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.long().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    return Instances(
        masks,
        torch.tensor([f[0] for f in found], dtype=torch.int64),
        boxes,
        torch.tensor([f[1] for f in found], dtype=torch.float32),
    )


# The stored results


def test_the_stored_file_holds_the_first_twenty_test_scenes_and_is_small():
    stored, path = read_results("results/explorer.json"), Path(__file__).parents[1] / "chapters/results/explorer.json"
    assert [s["index"] for s in stored["scenes"]] == list(range(20)) and stored["split"] == "test"
    assert path.stat().st_size < 700_000
    boards = {task: list(board.systems) for task, board in scoreboard.BOARDS.items() if task != "volume"}
    assert {task: list(told["systems"]) for task, told in stored["tasks"].items()} == boards


def test_the_stored_scores_are_those_of_the_stored_maps():
    stored = read_results("results/explorer.json")
    for i, sample in enumerate(Scenes(20, split="test")):
        check_scores(stored, i, sample)


@pytest.mark.slow
def test_the_stored_answers_are_those_of_the_stored_weights():
    stored, sample = read_results("results/explorer.json"), Scenes(1, split="test")[0]
    for name in stored["tasks"]["semantic"]["systems"]:
        labels = scoreboard.system(name, "semantic")[0].predict(sample.image[None])[0].labels
        assert (maps_of(stored, 0)[name, "semantic"].long() - 1 == labels).double().mean() > 0.999


# What is stored of an answer


def test_the_object_of_the_highest_score_lies_on_top():
    masks = torch.zeros(4, 2, 3, dtype=torch.bool)
    masks[0, :, :2] = masks[1, :, 1:] = masks[2, 0, 0] = masks[3, 0, 1:] = True
    numbers, places = explorer.numbered(masks, torch.tensor([0.6, 0.9, 0.5, 0.9]))
    # the third lies under the first, and the fourth, which came later with the same score, under the second
    assert numbers.tolist() == [[2, 1, 1], [2, 1, 1]] and places == [1, 0]


def test_without_objects_no_pixel_has_a_number():
    numbers, places = explorer.numbered(torch.zeros(0, 2, 3, dtype=torch.bool), torch.zeros(0))
    assert numbers.tolist() == [[0] * 3] * 2 and places == []


def test_more_objects_than_a_byte_counts_are_refused():
    masks = torch.eye(256, dtype=torch.bool)[:, None]
    with pytest.raises(ValueError, match="255 objects, got 256"):
        explorer.numbered(masks, torch.rand(256))
    assert int(explorer.numbered(masks[:255], torch.rand(255))[0].max()) == 255


def test_a_semantic_answer_has_the_miou_of_the_scene():
    labels = scene().semantic.clone()
    labels[labels == VOID] = SKY
    labels[:4, 4:6] = CAR  # the tree is a car
    answer = explorer._semantic(Semantic(labels), scene())
    assert torch.equal(answer.map.long(), labels + 1) and answer.segments == []
    assert answer.score == pytest.approx((1 + 0 + 16 / 24) / 3)  # sky, tree, car


def test_detections_below_one_half_are_not_drawn_and_each_knows_its_true_object():
    found = detections((CAR, 0.8, 0, 0, 4, 3), (TREE, 0.49, 4, 0, 6, 4), (CAR, 0.5, 2, 5, 6, 8), (CAR, 0.9, 4, 0, 6, 2))
    answer = explorer._instance(found, scene())
    assert answer.segments == [[CAR, 0.9, 0], [CAR, 0.8, 2], [CAR, 0.5, 0]]
    assert answer.map[0].tolist() == [2, 2, 2, 2, 1, 1, 0, 0]
    # IoU 12/16 of the car with two false ones, and the tree missed: PQ 0.75 / (1 + 1) and 0
    assert answer.score == pytest.approx((0.75 / 2 + 0) / 2)


def test_a_system_that_finds_nothing_scores_0_and_one_without_anything_to_find_nothing():
    answer = explorer._instance(detections(), scene())
    assert answer.score == 0 and answer.segments == [] and not answer.map.any()
    ids = torch.full((8, 8), 3, dtype=torch.int32)
    empty = Sample(
        torch.zeros(3, 8, 8), "sky", ids.long() + 4, detections(), Panoptic(ids, [Segment(3, SKY, False, 64)])
    )
    assert math.isnan(explorer._instance(detections(), empty).score)


def test_segments_are_numbered_anew_in_their_order():
    ids = torch.full((8, 8), 40, dtype=torch.int32)
    ids[:4, :4], ids[4] = 7, 0
    found = Panoptic(ids, [Segment(40, SKY, False, 40), Segment(7, CAR, True, 16, 0.75)])
    answer = explorer._panoptic(found, scene())
    assert answer.segments == [[SKY, None, 0], [CAR, 0.75, 2]]
    assert answer.map[:, 0].tolist() == [2, 2, 2, 2, 0, 1, 1, 1]
    # of the sky 31 of 39 pixels, and 8 of the tree beside them: 31 / 47; the car's IoU is 1, the tree is missed
    assert answer.score == pytest.approx((31 / 47 + 1 + 0) / 3, abs=1e-6)
    assert answer.more == {"pq_things": 0.5}


def test_answers_to_clicks_on_a_larger_scene_are_drawn_at_half_and_scored_as_they_are():
    small = scene()
    masks = small.instances.masks.repeat_interleave(2, 1).repeat_interleave(2, 2)  # (2, 16, 16)
    large = Instances(
        torch.cat([masks, torch.zeros_like(masks[:1])]), torch.tensor([TREE, CAR, CAR]), torch.zeros(3, 4)
    )
    large.masks[2, 12:14, 3:6] = True  # in the small scene it is none
    answered = large.masks.clone()
    answered[0, :4] = False  # half of the tree
    answered[2] = False
    answered[2, 0, :3] = True  # off, and half of two pixels
    points = torch.tensor([[9.0, 4], [3, 3], [4, 12]])
    answer = explorer._prompt(explorer.Clicks(answered, torch.tensor([0.5, 0.9, 0.95]), points, large), small)
    assert answer.score == pytest.approx((0.5 + 1 + 0) / 3)
    assert answer.segments == [[CAR, 0.95, 0], [CAR, 0.9, 2], [TREE, 0.5, 1]]
    assert answer.more == {"ious": [0, 1, 0.5], "clicks": [[2.25, 6.25], [1.75, 1.75], [4.75, 2.25]], "hidden": 0}
    assert answer.map[0].tolist() == [1, 2, 2, 2, 0, 0, 0, 0]
    assert answer.map[3].tolist() == [2, 2, 2, 2, 3, 3, 0, 0]


def test_systems_disagree_where_one_differs_in_the_class():
    same = torch.tensor([[1, 2, 0], [1, 1, 0]], dtype=torch.uint8)
    a = explorer.classes_of(same, [[CAR, 0.9, 1], [CAR, 0.8, 2]])
    b = explorer.classes_of(same.clamp(max=1), [[CAR, 0.7, 0]])
    assert a.tolist() == [[CAR, CAR, -1], [CAR, CAR, -1]]
    assert explorer.disagreement([a, b]) == 0  # objects may differ
    b[0, 2], a[1, 0] = SKY, TREE
    assert explorer.disagreement([a, a, b]) == pytest.approx(2 / 6)
    assert explorer.classes_of(torch.tensor([[8, 0]], dtype=torch.uint8), []).tolist() == [[SKY, -1]]


def test_maps_of_numbers_travel_exactly():
    maps = torch.randint(256, (3, 5, 7), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert torch.equal(unpack_ids(pack_ids(maps), 3), maps)
    with pytest.raises(ValueError, match=r"uint8 \(N, h, w\), got torch.int64 \(3, 5, 7\)"):
        pack_ids(maps.long())


# The whole experiment


@pytest.mark.parametrize(("steps", "scenes"), [(0, 2), (1, 0), (1, 31)])
def test_without_scenes_or_turns_or_with_too_many_scenes_there_is_no_answer(steps, scenes):
    with pytest.raises(ValueError, match=r"1 to 30 scenes, got \d and \d"):
        experiment("explorer")(seeds=[0], steps=steps, scenes=scenes)


@pytest.fixture(scope="module")
def found():
    return experiment("explorer")(seeds=[0], steps=2, scenes=2)


def maps_of(results, i):
    """System and task → the stored map of scene i."""
    places = [(name, task) for task, told in results["tasks"].items() for name in told["systems"]]
    return dict(zip(places, unpack_ids(results["scenes"][i]["maps"], len(places)), strict=True))


def check_scores(results, i, sample):
    """The stored scores of a scene are those of its stored maps."""
    answers = results["scenes"][i]["answers"]
    for (name, task), numbers in maps_of(results, i).items():
        told = answers[task][name]
        if task == "semantic":
            matrix = ConfusionMatrix(CATEGORIES)
            matrix.update(numbers.long() - 1, sample.semantic)
            assert told["score"] == pytest.approx(matrix.compute().miou, abs=1e-4)
        elif task in ("instance", "panoptic"):
            segments = [
                Segment(n, label, label in THINGS, int((numbers == n).sum()), score)
                for n, (label, score, _) in enumerate(told["segments"], 1)
            ]
            metric = PanopticQuality(CATEGORIES)
            metric.update(Panoptic(numbers.int(), segments), sample.panoptic)
            pq = metric.compute()
            assert told["score"] == pytest.approx(pq.things.pq if task == "instance" else pq.pq, abs=1e-4)
            assert task == "instance" or told["pq_things"] == pytest.approx(pq.things.pq, abs=1e-4)


@pytest.mark.slow
def test_every_system_for_scenes_answers_to_every_scene(found):
    boards = {task: list(board.systems) for task, board in scoreboard.BOARDS.items() if task != "volume"}
    assert {task: list(told["systems"]) for task, told in found["tasks"].items()} == boards
    for i, s in enumerate(found["scenes"]):
        assert s["index"] == i and {task: list(told) for task, told in s["answers"].items()} == boards
        assert set(s["differ"]) == {"semantic", "instance", "panoptic"} and all(0 < v < 1 for v in s["differ"].values())
    for task, told in found["tasks"].items():
        for name, row in told["systems"].items():
            scores = [s["answers"][task][name]["score"] for s in found["scenes"]]
            assert row["score"] == pytest.approx(sum(scores) / 2, abs=1e-4) and row["relative"][0] > 0
    assert found["tasks"]["semantic"]["systems"]["fcn_tiny"]["relative"] == [1, 1, 1]


@pytest.mark.slow
def test_stored_maps_are_the_answers_and_have_the_stored_scores(found):
    for i, sample in enumerate(Scenes(2, split="test")):
        check_scores(found, i, sample)
        maps, model = maps_of(found, i), stored_model("unet_tiny")
        assert torch.equal(maps["unet_tiny", "semantic"].long() - 1, model.predict(sample.image[None])[0].labels)
        model = stored_model("mask2former_tiny")
        model.task = "panoptic"
        segments = model.predict(sample.image[None])[0].segments
        told = found["scenes"][i]["answers"]["panoptic"]["mask2former_tiny"]["segments"]
        assert [s[0] for s in told] == [s.category_id for s in segments]


@pytest.mark.slow
def test_prompts_have_the_iou_of_one_click_as_on_the_scoreboard(found):
    model, large = stored_model("sam_tiny"), Scenes(2, split="test", size=256)
    for i in range(2):
        expected = ask(model, large[i], clicks=1)[0][:, 0]
        told = found["scenes"][i]["answers"]["prompt"]["sam_tiny"]
        assert told["score"] == pytest.approx(float(expected.mean()), abs=2e-3)
        assert len(told["ious"]) + told["hidden"] == len(expected)
