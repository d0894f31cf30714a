"""Chapter 6's experiment: specks whose share can be set, thresholds and reliability, and runs that repeat."""

import pytest
import torch

from seglib.book.experiments import losses_imbalance
from seglib.book.experiments.losses_specks import (
    SPECK,
    SpeckNet,
    best_threshold,
    overconfidence,
    reliability,
    speck_probabilities,
    speck_scores,
    specks,
)

LABELS = torch.tensor([[SPECK, SPECK, 1, 1]])
SAID = torch.tensor([[0.9, 0.3, 0.4, 0.1]])


@pytest.mark.parametrize("share", [0.1, 0.01, 0.001])
def test_the_share_of_speck_pixels_is_the_one_asked_for(share):
    found = (specks(1500, share, seed=0).labels == SPECK).float().mean()
    # A speck covers 15 pixels on average, so 1500 images hold 1500 · 2304 · share / 15 independent ones: at 0.1%
    # 230 of them, a standard deviation of 7%.
    assert found == pytest.approx(share, rel=0.2)


def test_specks_repeat_and_seeds_differ():
    one, same, other = specks(3, 0.05, 1), specks(3, 0.05, 1), specks(3, 0.05, 2)
    assert torch.equal(one.images, same.images) and torch.equal(one.labels, same.labels)
    assert not torch.equal(one.images, other.images)
    assert one.images.shape == (3, 3, 48, 48) and one.labels.dtype == torch.uint8


def test_a_speck_is_as_bright_when_it_is_rare():
    def contrast(share):
        data = specks(1000, share, 0)
        red, speck = data.images[:, 0].float(), data.labels == SPECK
        return float(red[speck].mean() - red[~speck].mean())

    # Where specks are many the brighter ones win the overlaps, which adds a few levels of 255.
    assert contrast(0.01) == pytest.approx(contrast(0.001), abs=6)


def test_a_lower_share_takes_specks_away_and_leaves_the_rest():
    many, few = specks(20, 0.1, 0), specks(20, 0.01, 0)
    was, stays = many.labels == SPECK, few.labels == SPECK
    assert (was | ~stays).all() and was.sum() > 5 * stays.sum()
    ground = ~was[:, None].expand_as(many.images)
    assert torch.equal(many.images[ground], few.images[ground])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((0, 0.1, 0), "count must be positive"), ((1, 0.0, 0), "share must lie between 0 and 1"), ((1, 1.0, 0), "share")],
)
def test_wrong_values_are_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        specks(*arguments)
    with pytest.raises(ValueError, match="multiple of 8, got 20"):
        specks(1, 0.1, 0, size=20)


def test_scores_of_four_pixels():
    assert speck_scores(SAID, LABELS) == {"accuracy": 0.75, "recall": 0.5, "precision": 1.0, "iou": 0.5}
    low = speck_scores(SAID, LABELS, threshold=0.2)
    assert low == {"accuracy": 0.75, "recall": 1.0, "precision": 2 / 3, "iou": 2 / 3}
    nothing = speck_scores(torch.zeros(1, 4), LABELS)
    assert nothing == {"accuracy": 0.5, "recall": 0.0, "precision": 0.0, "iou": 0.0}


def test_the_best_threshold_scores_at_least_as_every_other():
    assert best_threshold(SAID, LABELS) == pytest.approx(0.2)  # between 0.3, to call, and 0.1, to leave
    draw = torch.Generator().manual_seed(0)
    p = torch.rand(200, generator=draw)
    labels = (torch.rand(200, generator=draw) > p).long()  # calibrated: speck with probability p
    best = speck_scores(p, labels, threshold=best_threshold(p, labels))["iou"]
    assert best == max(speck_scores(p, labels, threshold=t)["iou"] for t in torch.linspace(0, 1, 2001).tolist())


def test_reliability_counts_means_and_shares():
    found = reliability(torch.tensor([0.05, 0.15, 0.55, 1.0]), torch.tensor([1, SPECK, 1, SPECK]), bins=2)
    assert found == {"pixels": [2, 2], "said": [0.1, 0.775], "true": [0.5, 0.5]}
    assert sum(reliability(torch.empty(0), torch.empty(0))["pixels"]) == 0


def test_overconfidence_is_of_the_pixels_called_speck_alone():
    bins = {"pixels": [50, 9, 3, 1], "said": [0.1, 0.4, 0.6, 0.9], "true": [0.9, 0.0, 0.4, 1.0]}
    assert overconfidence(bins) == pytest.approx((3 * 0.2 - 1 * 0.1) / 4)
    nothing_called = overconfidence({**bins, "pixels": [50, 9, 0, 0]})
    assert nothing_called != nothing_called  # NaN


def test_the_network_keeps_the_size_and_its_probabilities_are_of_specks():
    data = specks(5, 0.1, 0, size=16)
    torch.manual_seed(0)
    model = SpeckNet(width=4)
    p = speck_probabilities(model, data, batch_size=2)
    predicted = torch.stack([s.probs[SPECK] for s in model.predict(data.batch(torch.arange(5))[0])])
    torch.testing.assert_close(p, predicted)  # batches of another size add in another order


def test_every_variant_runs_at_every_share_and_repeats():
    small = {"seeds": [0], "steps": 2, "shares": [0.1, 0.001], "scenes": 8, "val_scenes": 4, "batch_size": 2}
    lines = []
    found = losses_imbalance.run(**small, report=lines.append)
    names = list(losses_imbalance.VARIANTS)
    assert [(r["share"], r["variant"]) for r in found["runs"]] == [(s, n) for s in small["shares"] for n in names]
    assert all({"recall", "precision", "iou", "accuracy", "tuned", "reliability"} <= set(r) for r in found["runs"])
    assert lines[0].startswith("seed 0, share 0.1, ce: recall ")
    again = losses_imbalance.run(**small)
    for run in (*found["runs"], *again["runs"]):
        del run["seconds"]
    assert found == again


def test_weights_make_both_classes_count_alike():
    weight = losses_imbalance.by_share(0.01)
    assert weight[0] * 0.01 == pytest.approx(0.5) and weight[1] * 0.99 == pytest.approx(0.5)


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match=r"variants \['none'\] are unknown; choose among ce"):
        losses_imbalance.run(seeds=[0], steps=1, variants=["none"])
