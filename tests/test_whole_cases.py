"""Labels of whole cases: one model or an ensemble, as they are or through the preparation that models trained on."""

import pytest
import torch

from seglib.models.unet3d import unet3d_tiny
from seglib.ops.inference import evaluating
from seglib.ops.intensity import Intensity
from seglib.ops.preparation import Preparation
from seglib.postprocess.volume import label_volume, sliding_window
from seglib.postprocess.whole_cases import Ensemble, channels_of, label_case

WINDOW = (4, 8, 8)
SPACING = (2.0, 1.0, 1.0)
FINER = Preparation(spacing=(1.0, 1.0, 1.0), intensities=(Intensity("zscore"),))


def model(seed, preparation=None, **more):
    torch.manual_seed(seed)
    net = unet3d_tiny(3, widths=(2, 3, 4, 4), **more).eval()
    net.preparation = preparation
    return net


def case():
    return 100 * torch.rand(1, 6, 12, 14, generator=torch.Generator().manual_seed(0)) + 1


@torch.no_grad()
def logits_of(net, image, window=WINDOW):
    return sliding_window(lambda x: net(x).logits, image, window)


def test_a_model_without_preparation_sees_the_case_as_its_intensity_says():
    net = model(0)
    net.intensity = Intensity("zscore")
    expected = label_volume(net, net.intensity(case()), WINDOW)
    assert torch.equal(label_case(net, case(), SPACING, WINDOW), expected) and len(expected.unique()) > 1


def test_a_prepared_model_answers_on_the_grid_of_the_case():
    net = model(1, FINER)
    prepared = FINER(case(), SPACING)
    assert prepared.image.shape == (1, 12, 12, 14)  # slices of 2 mm become slices of 1 mm
    expected = FINER.restore(logits_of(net, prepared.image), prepared).argmax(0)
    assert torch.equal(label_case(net, case(), SPACING, WINDOW), expected) and expected.shape == (6, 12, 14)


def test_models_that_see_a_case_alike_are_averaged_as_logits():
    one, two = model(2), model(3)
    mean = (logits_of(one, case()) + logits_of(two, case())) / 2
    labels = label_case(Ensemble([one, two], [WINDOW, WINDOW]), case(), SPACING, None)
    assert torch.equal(labels, mean.argmax(0).to(torch.uint8))
    assert not torch.equal(labels, label_case(one, case(), SPACING, WINDOW))


def test_models_that_see_a_case_differently_are_averaged_as_probabilities():
    one, two = model(4), model(5, FINER)
    prepared = FINER(case(), SPACING)
    finer = FINER.restore(logits_of(two, prepared.image), prepared)
    mean = logits_of(one, case()).softmax(0) + finer.softmax(0)
    labels = label_case(Ensemble([one, two], [WINDOW, WINDOW]), case(), SPACING, None)
    assert torch.equal(labels, mean.argmax(0).to(torch.uint8))
    other_windows = Ensemble([one, model(5)], [WINDOW, (6, 12, 14)])
    mean = logits_of(one, case()).softmax(0) + logits_of(model(5), case(), (6, 12, 14)).softmax(0)
    assert torch.equal(label_case(other_windows, case(), SPACING, None), mean.argmax(0).to(torch.uint8))


def test_flips_are_those_of_what_the_model_sees():
    turned = Preparation(spacing=(None, None, None), intensities=(Intensity(),), transpose=(2, 0, 1))
    net = model(6, turned)
    seen = case().permute(0, 3, 1, 2)
    with evaluating(net), torch.no_grad():
        views = [net(seen[None]).logits[0], net(seen[None].flip(2)).logits[0].flip(1)]
    expected = (views[0] + views[1]).argmax(0).permute(1, 2, 0)
    assert torch.equal(label_case(net, case(), None, None, flips=(0,)), expected)


def test_an_ensemble_removes_all_but_the_largest_component():
    net = model(7)
    with torch.no_grad():  # class 1 wherever the voxel is bright
        for p in net.parameters():
            p.zero_()
    net.forward = lambda x: type("Out", (), {"logits": torch.cat([0 * x + 0.5, x, 0 * x], 1)})()
    image = torch.zeros(1, 1, 1, 6)
    image[0, 0, 0] = torch.tensor([1.0, 0, 1, 1, 0, 1])
    labels = label_case(Ensemble([net], [None], largest=[[1]]), image, SPACING, None)
    assert labels.tolist() == [[[0, 0, 1, 1, 0, 0]]]


def test_an_ensemble_needs_models_that_fit():
    with pytest.raises(ValueError, match="a window for each, got 1 and 0"):
        Ensemble([model(0)], [])
    with pytest.raises(ValueError, match="3 classes of 1 channels; 3 classes of 2 channels"):
        Ensemble([model(0), model(0, in_channels=2)], [None, None])


def test_a_case_without_spacing_is_refused_where_it_is_to_be_resampled():
    with pytest.raises(ValueError, match="no spacing"):
        label_case(model(0, FINER), case(), None, None)


def test_the_labels_of_an_earlier_stage_are_further_channels_of_a_cascade():
    cascade = Preparation(spacing=(1.0, 1.0, 1.0), intensities=(Intensity("zscore"),), previous=2)
    net, before = model(8, cascade, in_channels=3), torch.randint(3, (6, 12, 14), dtype=torch.uint8)
    prepared = cascade(case(), SPACING, previous=before)
    expected = cascade.restore(logits_of(net, prepared.image), prepared).argmax(0)
    assert torch.equal(label_case(net, case(), SPACING, WINDOW, previous=before), expected)
    assert not torch.equal(label_case(net, case(), SPACING, WINDOW, previous=0 * before), expected)
    assert channels_of(net) == channels_of(Ensemble([net, model(9, FINER)], [WINDOW, WINDOW])) == 1
    with pytest.raises(ValueError, match="labels of the first, 2 classes"):
        label_case(net, case(), SPACING, WINDOW)


def test_nan_of_one_member_is_an_error_not_a_label():
    broken = model(10)
    with torch.no_grad():
        broken.score.bias[1] = torch.nan
    for members, windows in (([model(4), broken], [WINDOW, (6, 12, 14)]), ([broken, model(5, FINER)], [WINDOW] * 2)):
        with pytest.raises(ValueError, match="returns nan"):
            label_case(Ensemble(members, windows), case(), SPACING, None)
