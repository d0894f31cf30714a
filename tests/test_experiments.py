"""The experiments run at any budget, repeat exactly, and their command stores what the chapters read."""

import pytest
import torch
from torch import nn

from seglib.book.experiments import EXPERIMENTS, experiment, fcn_details, fcn_strides, fcn_upsampling
from seglib.book.experiments.__main__ import main
from seglib.book.experiments.semantic import SceneTensors, scene_tensors, score_scenes, train_on_scenes
from seglib.book.results import read_results
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.models.fcn import fcn_tiny

SMALL = {"seeds": [0], "steps": 2, "batch_size": 2}
SCORES = {"pixel_accuracy", "miou", "boundary_iou", "boundary_f1", "thin_iou", "iou"}


@pytest.fixture(scope="module")
def data():
    return scene_tensors(4, "train", size=64), scene_tensors(3, "val", size=64)


def test_scene_tensors_hold_the_scenes_without_loss():
    tensors = scene_tensors(2, "val", size=64)
    scene = Scenes(2, split="val", size=64)[1]
    images, labels = tensors.batch(torch.tensor([1]))
    assert torch.equal(images[0], scene.image) and torch.equal(labels[0], scene.semantic)


def test_a_flip_mirrors_image_and_labels_of_the_picked_scenes_alone():
    images = torch.arange(2 * 3 * 1 * 4, dtype=torch.uint8).view(2, 3, 1, 4)
    labels = torch.tensor([[[0, 1, 2, 3]], [[4, 5, 6, 255]]], dtype=torch.uint8)
    image, label = SceneTensors(images, labels).batch(torch.tensor([1, 0]), torch.tensor([True, False]))
    assert label.tolist() == [[[255, 6, 5, 4]], [[0, 1, 2, 3]]]
    assert torch.equal(image[0] * 255, images[1].float().flip(-1)) and torch.equal(image[1] * 255, images[0].float())


def test_empty_budgets_are_refused(data):
    with pytest.raises(ValueError, match="length must be positive, got 0"):
        scene_tensors(0, "train")
    with pytest.raises(ValueError, match="steps must be positive, got 0"):
        fcn_strides.run(seeds=[0], steps=0, data=data)


def test_a_perfect_prediction_scores_one_and_void_does_not_count(data):
    truth = data[1].labels.long()
    perfect = torch.where(truth == 255, 0, truth)
    scores = score_scenes(perfect, truth)
    assert set(scores) == SCORES
    assert scores["miou"] == scores["boundary_iou"] == scores["boundary_f1"] == scores["pixel_accuracy"] == 1.0


def test_thin_iou_is_the_mean_over_the_thin_classes_alone():
    name = {c.name: c.id for c in CATEGORIES}
    truth = torch.full((1, 8, 8), name["sky"])
    truth[0, :, 0], truth[0, 0, 4] = name["lamp"], name["bird"]
    predicted = truth.clone()
    predicted[0, :4, 0] = name["sky"]  # half of the lamp is missed: IoU 4/8; the bird is right
    assert score_scenes(predicted, truth)["thin_iou"] == pytest.approx((0.5 + 1.0) / 2)


def test_training_lowers_the_loss_from_ln_k_and_repeats_exactly(data):
    def losses():
        torch.manual_seed(0)
        return train_on_scenes(fcn_tiny(len(CATEGORIES)), data[0], steps=8, seed=0, batch_size=2)

    first = losses()
    assert first[0] == pytest.approx(torch.tensor(float(len(CATEGORIES))).log().item(), rel=1e-5)  # scores start at 0
    assert first[-1] < 0.9 * first[0]
    assert losses() == first


def test_the_strides_experiment_gives_one_run_per_seed_and_stride(data):
    lines = []
    found = fcn_strides.run(**{**SMALL, "seeds": [0, 1]}, strides=(32, 8), data=data, report=lines.append)
    assert [(r["seed"], r["stride"]) for r in found["runs"]] == [(0, 32), (0, 8), (1, 32), (1, 8)]
    assert all(set(r) >= SCORES | {"loss", "first_loss"} for r in found["runs"])
    assert found["scenes"] == 4 and found["val_scenes"] == 3 and found["steps"] == 2
    assert lines[1].startswith("seed 0, stride 8: miou 0.")


def test_the_details_experiment_changes_what_it_says(data):
    found = fcn_details.run(**SMALL, data=data)
    first = {r["variant"]: r["first_loss"] for r in found["runs"]}
    zero = {v: loss for v, loss in first.items() if v != "random scores"}
    assert set(zero.values()) == {first["as in the paper"]}  # all scores are 0
    assert first["random scores"] != first["as in the paper"]
    with pytest.raises(ValueError, match=r"variants \['none'\] are unknown; choose among as in the paper"):
        fcn_details.run(**SMALL, variants=["none"], data=data)


@pytest.mark.parametrize("name", fcn_details.VARIANTS)
def test_a_variant_differs_from_the_paper_in_one_place(name):
    def build():
        torch.manual_seed(0)
        return fcn_tiny(len(CATEGORIES), stride=8)

    paper, changed = build(), build()
    fcn_details.as_in_the_paper(paper)
    fcn_details.VARIANTS[name](changed)
    differing = {
        ".".join(key.split(".")[:2])
        for (key, a), b in zip(paper.named_parameters(), changed.parameters(), strict=True)
        if not torch.equal(a, b) or a.requires_grad != b.requires_grad
    }
    between = {"upsample.c4", "upsample.c3"}  # the intermediate layers
    expected = {"all fixed": between, "random upsampling": between, "all learned": {"upsample.image"}}
    expected["random scores"] = {f"score.{level}" for level in ("c5", "c4", "c3")}
    assert differing == expected.get(name, set())
    assert all(isinstance(layer, nn.ConvTranspose2d) for layer in changed.upsample.values())


def test_the_upsampling_experiment_moves_only_what_may_learn(data):
    found = fcn_upsampling.run(**SMALL, data=data)
    assert [r["variant"] for r in found["runs"]] == list(fcn_upsampling.VARIANTS)
    assert len({r["first_loss"] for r in found["runs"]}) == 1  # all scores are 0
    moved = {r["variant"]: {level for level, far in r["moved"].items() if far} for r in found["runs"]}
    everything = {"c4", "c3", "image"}
    assert moved["all fixed"] == set() and moved["half learned"] == {"c4", "c3"}
    assert moved["all learned"] == moved["all learned, random"] == everything
    far = {r["variant"]: min(r["moved"].values()) for r in found["runs"]}
    assert far["all learned"] < 0.5 < far["all learned, random"]  # after two steps
    with pytest.raises(ValueError, match=r"variants \['none'\] are unknown; choose among all fixed"):
        fcn_upsampling.run(**SMALL, variants=["none"], data=data)


def test_random_upsampling_is_far_from_bilinear_and_may_learn():
    model = fcn_upsampling.changed(fcn_upsampling.all_random)
    found = fcn_upsampling.distance_to_bilinear(model)
    assert all(far > 0.5 for far in found["moved"].values())
    assert all(share > 0.005 for share in found["mixing"].values())  # random weights lead from all classes to all
    assert all(p.requires_grad for p in model.upsample.parameters())


def test_the_distance_to_bilinear_is_relative_and_knows_what_mixes_classes():
    model = fcn_upsampling.changed(fcn_upsampling.all_learned)
    layer = model.upsample["c4"]
    norm = float(layer.weight.detach().norm())
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] += 3.0  # within class 0
        layer.weight[0, 1, 0, 0] += 4.0  # from class 0 to class 1
    found = fcn_upsampling.distance_to_bilinear(model)
    assert found["moved"]["c4"] == pytest.approx(5.0 / norm) and found["mixing"]["c4"] == pytest.approx(16 / 25)
    assert found["moved"]["c3"] == found["mixing"]["c3"] == 0.0


def test_every_experiment_is_a_module_with_run():
    assert all(callable(experiment(name)) for name in EXPERIMENTS)
    with pytest.raises(ValueError, match="experiment 'none' is unknown; choose one of .*fcn_strides"):
        experiment("none")


def test_the_command_stores_the_results_with_the_command_that_made_them(tmp_path, monkeypatch, capsys):
    def run(*, seeds, steps, scenes, report):
        report(f"{len(seeds)} seeds, {steps} steps, {scenes} scenes")
        return {"runs": []}

    monkeypatch.setattr(fcn_strides, "run", run)
    out = tmp_path / "a.json"
    assert main(["fcn_strides", "--seeds", "3", "--steps", "4", "--out", str(out)]) == 0
    found = read_results(out)
    assert found["command"] == f"python -m seglib.book.experiments fcn_strides --seeds 3 --steps 4 --out {out}"
    assert found["seed"] == [0, 1, 2] and found["seconds"] >= 0
    assert capsys.readouterr().out.startswith("3 seeds, 4 steps, 2000 scenes\nwrote ")


def test_the_command_goes_on_after_what_this_commit_made(tmp_path, monkeypatch, capsys):
    runs = []
    monkeypatch.setattr(fcn_strides, "run", lambda **given: runs.append(given) or {"runs": []})
    monkeypatch.setenv("SEGLIB_COMMIT", "abc")
    command = ["fcn_strides", "--seeds", "3", "--out", str(tmp_path / "a.json")]
    assert main([*command, "--go-on"]) == 0 and len(runs) == 1
    assert "--go-on" not in read_results(tmp_path / "a.json")["command"]
    assert main([*command, "--go-on"]) == 0 and len(runs) == 1
    assert capsys.readouterr().out.endswith("a.json is of this commit\n")
    assert main(command) == 0 and len(runs) == 2  # without the option it is made again
    monkeypatch.setenv("SEGLIB_COMMIT", "abd")
    assert main([*command, "--go-on"]) == 0 and len(runs) == 3


def test_the_command_refuses_an_empty_budget_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / "a.json"
    assert main(["fcn_strides", "--scenes", "0", "--out", str(out)]) == 2
    assert "length must be positive" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["fcn_strides", "--seeds", "0", "--out", str(out)])
    assert not out.exists()
