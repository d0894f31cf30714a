"""A case is predicted window by window: where windows lie, what they weigh, what exists at one time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from seglib.layers.normalize import Normalize
from seglib.models.semantic import SemanticModel
from seglib.ops.intensity import Intensity
from seglib.postprocess.volume import label_volume, over_flips, sliding_window, sliding_window_slabs
from seglib.types import DenseOutput


def noise(*size, channels=1):
    return torch.randn(channels, *size, generator=torch.Generator().manual_seed(0))


class Recorder:
    """A predictor that answers with its input and remembers the windows that it saw."""

    def __init__(self):
        self.seen = []

    def __call__(self, windows):
        self.seen += list(windows.clone())
        return windows


class Numbers:
    """A predictor that answers 1 all over its first window, 2 all over its second …"""

    def __init__(self):
        self.count = 0

    def __call__(self, windows):
        self.count += 1
        return torch.full_like(windows, self.count)


def test_windows_that_overlap_are_averaged():
    found = sliding_window(Numbers(), torch.zeros(1, 1, 1, 6), (1, 1, 4), blend="constant")
    assert found.flatten().tolist() == [1, 1, 1.5, 1.5, 2, 2]


def test_the_middle_of_a_window_weighs_more_than_its_ends():
    found = sliding_window(Numbers(), torch.zeros(1, 1, 1, 6), (1, 1, 4))
    inner, outer = math.exp(-0.5), math.exp(-4.5)  # 1 and 3 half voxels from the middle; σ is 4 / 8
    third = (1 * inner + 2 * outer) / (inner + outer)
    torch.testing.assert_close(found.flatten(), torch.tensor([1, 1, third, 3 - third, 2, 2]))


def test_no_weight_is_below_a_thousandth():
    found = sliding_window(Numbers(), torch.zeros(1, 4, 4, 6), (4, 4, 4))
    outer, inner = 1e-3, math.exp(-9.5)  # at the edge of the case, both are less without the clamp
    assert math.exp(-13.5) < inner < outer
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([1, 1, 1.5, 1.5, 2, 2]))


@pytest.mark.parametrize(
    ("size", "window", "overlap", "starts"),
    [
        (10, 4, 0.5, [0, 2, 4, 6]),
        (9, 4, 0.5, [0, 2, 4, 5]),  # the last window ends where the case ends
        (8, 4, 0.0, [0, 4]),
        (9, 8, 0.625, [0, 1]),
        (4, 1, 0.5, [0, 1, 2, 3]),  # a step of half a voxel is one of a voxel
        (4, 4, 0.5, [0]),
        (3, 4, 0.5, [0]),
    ],
)
def test_windows_begin_every_step_and_the_last_one_ends_with_the_case(size, window, overlap, starts):
    predictor = Recorder()
    sliding_window(predictor, torch.arange(1.0, size + 1).view(1, size, 1, 1), (window, 1, 1), overlap=overlap)
    assert [int(seen[seen > 0][0]) - 1 for seen in predictor.seen] == starts


def test_an_axis_shorter_than_the_window_has_zeros_on_both_sides_after_scaling():
    image = torch.tensor([100, 200]).view(1, 1, 2, 1)
    scaling = Intensity("ct", low=0, high=1000, mean=0, std=100).of(image)
    predictor = Recorder()
    found = sliding_window(predictor, image, (2, 5, 1), scaling=scaling)
    assert predictor.seen[0].flatten().tolist() == [0, 1, 2, 0, 0, 0, 0, 0, 0, 0]  # one before, two after; z: one after
    assert found.flatten().tolist() == [1, 2]


sides = st.integers(1, 9)


@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(sides, sides, sides),
    window=st.tuples(sides, sides, sides),
    overlap=st.sampled_from([0, 0.25, 0.5, 0.625, 0.9]),
    blend=st.sampled_from(["gaussian", "constant"]),
    batch_size=st.integers(1, 5),
)
def test_a_predictor_that_needs_no_context_gives_what_it_gives_for_the_whole(size, window, overlap, blend, batch_size):
    image = noise(*size, channels=2)
    sizes = []

    def predictor(windows):
        sizes.append(len(windows))
        return torch.cat([windows.square(), windows.sum(1, keepdim=True)], 1)

    found = sliding_window(predictor, image, window, overlap=overlap, blend=blend, batch_size=batch_size)
    # a mean of equal numbers, up to float32 rounding of the sums
    torch.testing.assert_close(found, predictor(image[None])[0], rtol=1e-5, atol=1e-5)
    assert max(sizes) <= batch_size


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.7])
def test_slabs_are_the_slices_of_the_whole_in_order(overlap):
    image, convolution = noise(19, 7, 9), nn.Conv3d(1, 2, 3, padding=1)
    whole = sliding_window(convolution, image, (6, 4, 5), overlap=overlap)
    found = [
        (first, slab.clone()) for first, slab in sliding_window_slabs(convolution, image, (6, 4, 5), overlap=overlap)
    ]
    assert [first for first, _ in found] == list(np.cumsum([0] + [slab.shape[1] for _, slab in found[:-1]]))
    torch.testing.assert_close(torch.cat([slab for _, slab in found], 1), whole)


def test_a_slab_comes_as_soon_as_no_later_window_touches_it():
    predictor = Numbers()
    slabs = sliding_window_slabs(predictor, torch.zeros(1, 8, 4, 6), (4, 4, 4))  # 3 by 1 by 2 windows
    assert [(first, slab.shape[1], predictor.count) for first, slab in slabs] == [(0, 2, 2), (2, 2, 4), (4, 4, 6)]


def test_only_the_slices_of_one_window_exist_at_a_time():
    image = torch.zeros(1, 50, 4, 6)
    held = {slab.untyped_storage().nbytes() for _, slab in sliding_window_slabs(Recorder(), image, (4, 4, 4))}
    assert held == {4 * 4 * 4 * 6}  # float32, 4 slices of 4×6


def test_half_precision_is_added_up_in_float32():
    value = torch.tensor(0.3).bfloat16()
    found = sliding_window(
        lambda x: torch.full_like(x, value, dtype=torch.bfloat16), torch.zeros(1, 9, 9, 9), (4, 4, 4)
    )
    assert found.dtype == torch.float32
    # float32 rounding; sums in bfloat16 are off by up to 0.4%
    torch.testing.assert_close(found, value.float().expand(1, 9, 9, 9), rtol=1e-6, atol=0)


def test_a_memory_mapped_case_is_read_window_by_window_and_scaled(tmp_path):
    values = np.random.default_rng(0).integers(-1000, 1000, (2, 9, 8, 7), dtype=np.int16)
    stored = np.memmap(tmp_path / "case", dtype=np.int16, mode="w+", shape=values.shape)
    stored[:] = values
    image = torch.from_numpy(stored)
    found = sliding_window(Recorder(), image, (4, 4, 4), scaling=Intensity("zscore").of(image))
    torch.testing.assert_close(found, Intensity("zscore")(torch.from_numpy(values)), rtol=1e-5, atol=1e-5)
    assert np.array_equal(stored, values)


def test_nan_stays_where_the_predictor_returned_it():
    image = noise(3, 4, 6)
    image[0, 1, 2, 0] = math.nan
    found = sliding_window(lambda x: x, image, (3, 4, 4))
    assert found.isnan().nonzero().tolist() == [[0, 1, 2, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(4, 5, 6)}, r"got shape \(4, 5, 6\); add the channel axis with image\[None\]"),
        ({"image": torch.zeros(1, 1, 4, 5, 6)}, r"expected one case \(C, D, H, W\)"),
        ({"image": torch.zeros(1, 4, 0, 6)}, r"with voxels, got shape \(1, 4, 0, 6\)"),
        ({"window": 4}, "three positive whole numbers"),
        ({"window": (4, 4)}, "three positive whole numbers"),
        ({"window": (4, 0, 4)}, "three positive whole numbers"),
        ({"window": (4, 4.5, 4)}, "three positive whole numbers"),
        ({"overlap": 1.0}, r"in \[0, 1\), got 1.0"),
        ({"overlap": -0.1}, r"in \[0, 1\), got -0.1"),
        ({"overlap": math.nan}, r"in \[0, 1\), got nan"),
        ({"blend": "linear"}, "gaussian, constant; got 'linear'"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"predictor": lambda x: x[..., :-1]}, r"got \(1, 1, 4, 4, 3\) for windows \(1, 1, 4, 4, 4\)"),
        ({"predictor": lambda x: x[0]}, "must return logits"),
        ({"predictor": DenseOutput}, r"got DenseOutput; of a model pass lambda x: model\(x\).logits"),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = {"predictor": Recorder(), "image": torch.zeros(1, 4, 5, 6), "window": (4, 4, 4)} | change
    with pytest.raises(ValueError, match=message):
        sliding_window(**arguments)


class Net(SemanticModel):
    """One convolution, so that the answer depends on neighbours and on their side, and no flip leaves it alone."""

    def __init__(self, *, in_channels=1, overlapping=False, dims=3):
        super().__init__(3, overlapping=overlapping)
        self.normalize = Normalize([0.0] * in_channels, [1.0] * in_channels, dims=dims, value_range=None)
        self.convolution = nn.Conv3d(in_channels, 3, 3, padding=1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images, targets=None, sizes=None):
        return DenseOutput(self.dropout(self.convolution(self.normalize(images))))


def test_the_whole_case_in_one_go_gives_the_models_own_labels():
    model, image = Net(), noise(9, 8, 7)
    model.convolution.eval()
    found = label_volume(model, image, None)
    assert found.dtype == torch.uint8 and found.device.type == "cpu"
    assert torch.equal(found.long(), model.predict(image[None])[0].labels)
    assert model.training and model.dropout.training and not model.convolution.training  # as they were


@pytest.mark.parametrize("blend", ["gaussian", "constant"])
def test_labels_are_the_most_probable_classes_of_the_blended_windows(blend):
    model, image = Net().eval(), noise(9, 8, 7)
    options = {"overlap": 0.625, "blend": blend, "scaling": Intensity("zscore").of(image), "batch_size": 2}
    found = label_volume(model, image, (4, 5, 6), **options)
    logits = sliding_window(lambda x: model(x).logits, image, (4, 5, 6), **options)
    assert torch.equal(found.long(), logits.argmax(0))
    assert len(found.unique()) == 3


def test_flips_average_the_logits_of_every_flipped_view():
    model, image = Net().eval(), noise(5, 6, 7)
    views = [(), (1,), (3,), (1, 3)]  # axes of (C, D, H, W)
    logits = torch.stack([model(image.flip(axes)[None]).logits[0].flip(axes) for axes in views])
    assert torch.equal(label_volume(model, image, None, flips=(0, 2)).long(), logits.mean(0).argmax(0))
    found = sliding_window(over_flips(lambda x: model(x).logits, (0, 2)), image, image.shape[1:])
    torch.testing.assert_close(found, logits.mean(0))


def test_labels_are_written_into_a_given_memory_mapped_array(tmp_path):
    model, image = Net(), noise(9, 8, 7)
    stored = np.memmap(tmp_path / "labels", dtype=np.uint8, mode="w+", shape=(9, 8, 7))
    out = torch.from_numpy(stored)
    assert label_volume(model, image, (4, 4, 4), out=out) is out
    assert np.array_equal(stored, label_volume(model, image, (4, 4, 4)))


def diverged():
    model = Net()
    nn.init.constant_(model.convolution.bias, math.nan)
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": Net(overlapping=True)}, "classes of this model overlap"),
        ({"model": Net(dims=2)}, "expected a model of volumes such as unet3d, got Net"),
        ({"model": nn.Identity()}, "expected a model of volumes such as unet3d, got Identity"),
        ({"model": Net(in_channels=2)}, "takes 2 channels, the case has 1; pick"),
        ({"model": diverged()}, "returns nan in slice 0;"),
        ({"image": torch.zeros(4, 5, 6)}, "add the channel axis"),
        ({"flips": (3,)}, "axes 0, 1 and 2"),
        ({"flips": (1, 1)}, "each once"),
        ({"out": torch.zeros(5, 5, 5, dtype=torch.uint8)}, r"out must be uint8 \(4, 5, 6\)"),
        ({"out": torch.zeros(4, 5, 6)}, "got torch.float32"),
    ],
)
def test_labels_of_bad_input_are_refused(change, message):
    arguments = {"model": Net(), "image": torch.zeros(1, 4, 5, 6), "window": (2, 4, 4)} | change
    with pytest.raises(ValueError, match=message):
        label_volume(**arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("accumulate_on", ["cpu", "cuda"])
def test_a_gpu_gives_what_the_cpu_gives(accumulate_on):
    image = noise(9, 8, 7)
    found = sliding_window(lambda x: x.half(), image, (4, 4, 4), device="cuda", accumulate_on=accumulate_on)
    assert found.device.type == accumulate_on
    torch.testing.assert_close(found.cpu(), image.half().float(), rtol=1e-5, atol=1e-5)  # float32 sums
