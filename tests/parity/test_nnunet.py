"""seglib's nnU-Net equals the networks of dynamic-network-architectures, through the converter that users call."""

import numpy as np
import pytest
import torch
from nnunet_reference import nnunet
from nnunet_results import results
from torch import nn

from seglib.data.volumes import make_volume
from seglib.models.zoo import build
from seglib.postprocess.whole_cases import label_case
from seglib.weights import convert, load_model, read_origin, save_weights

WIDTHS = [4, 6, 8, 8]  # the last level strides and keeps its channels, as levels at the limit of 320 do
PLANS = {
    "isotropic": ([[3, 3, 3]] * 4, [[2, 2, 2]] * 3),
    "thick slices": ([[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]], [[1, 2, 2], [2, 2, 2], [2, 2, 2]]),
    "an axis that is never halved": ([[1, 3, 3], [1, 3, 3], [3, 3, 1], [3, 3, 3]], [[1, 2, 2], [1, 2, 2], [1, 2, 1]]),
    "2D": ([[3, 3]] * 4, [[2, 2]] * 3),
    "2D, one axis longer": ([[3, 1], [3, 3], [3, 3], [3, 3]], [[2, 1], [2, 2], [2, 2]]),
}
BLOCKS = {"plain": {"n_conv_per_stage": [2, 2, 1, 3], "n_conv_per_stage_decoder": [2, 1, 2]},
          "residual": {"n_blocks_per_stage": [1, 3, 2, 2], "n_conv_per_stage_decoder": [1, 2, 1]}}  # fmt: skip


def network(encoder="plain", plan="thick slices", *, deep_supervision=True, widths=WIDTHS, fresh=False):
    kernels, strides = PLANS[plan]
    dims = len(kernels[0])
    architectures = nnunet("dynamic_network_architectures.architectures.unet")
    torch.manual_seed(0)
    net = getattr(architectures, {"plain": "PlainConvUNet", "residual": "ResidualEncoderUNet"}[encoder])(
        input_channels=2,
        n_stages=4,
        conv_op={2: nn.Conv2d, 3: nn.Conv3d}[dims],
        kernel_sizes=kernels,
        strides=[[1] * dims, *strides],
        num_classes=3,
        conv_bias=True,
        norm_op={2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims],
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=deep_supervision,
        features_per_stage=widths,
        **BLOCKS[encoder],
    )
    if fresh:
        return net.apply(net.initialize)
    with torch.no_grad():
        for p in net.parameters():  # no norm is the identity, no bias 0
            p += 0.1 * torch.randn_like(p)
    return net


def ours_of(net):
    builder, state, metadata = convert("nnunetv2:any", net.state_dict())
    model = build(builder, **metadata["arguments"])
    model.load_state_dict(state)
    return model


def batch():
    return torch.randn(2, 2, 16, 32, 24, generator=torch.Generator().manual_seed(1))


def outputs_of(net, x):
    """What the reference says of every level, the finest first; in 2D of every slice."""
    if isinstance(next(m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)), nn.Conv3d):
        return net(x)
    slices = [net(x[:, :, z]) for z in range(x.shape[2])]
    return [torch.stack(level, 2) for level in zip(*slices, strict=True)]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("encoder", BLOCKS)
def test_scores_of_every_level_and_their_gradients_are_equal(encoder, plan):
    """In float64: a norm takes the mean away, so in float32 the gradient of a bias in front of it is all rounding."""
    reference = network(encoder, plan).double()
    ours, x = ours_of(reference), batch().double()
    expected, out = outputs_of(reference, x), ours.double()(x)
    found = [out.logits, *out.aux]
    assert len(expected) == len(found) == 3
    g = torch.Generator().manual_seed(2)
    losses = []
    for a, b in zip(found, expected, strict=True):
        assert b.std() > 0.1
        torch.testing.assert_close(a, b.float(), rtol=1e-6, atol=1e-6)  # ours are float32
        weight = torch.randn(a.shape, generator=g)
        losses.append(((a * weight).sum(), (b * weight).sum()))
    for loss in map(sum, zip(*losses, strict=True)):
        loss.backward()
    gradients = convert("nnunetv2:any", {name: p.grad for name, p in reference.named_parameters()})[1]
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("encoder", BLOCKS)
def test_scores_are_equal_in_float32_and_without_deep_supervision(encoder):
    reference = network(encoder, deep_supervision=False).eval()
    ours = ours_of(reference).eval()
    with torch.no_grad():
        # the same kernels in the same order: float32 rounding at most
        torch.testing.assert_close(ours(batch()).logits, reference(batch()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("encoder", BLOCKS)
def test_a_new_network_starts_as_nnunets_does(encoder):
    """He initialisation for leaky ReLU, no biases, and residual blocks that are their skips."""
    reference = network(encoder, "isotropic", widths=[32, 64, 64, 64], fresh=True)
    builder, expected, metadata = convert("nnunetv2:any", reference.state_dict())
    for name, p in build(builder, **metadata["arguments"]).named_parameters():
        if p.ndim == 1:
            assert torch.equal(p, expected[name]), name
        else:  # of 96 draws or more, the spread is known to 7 %, of most to less than 1 %
            torch.testing.assert_close(p.std(), expected[name].std(), rtol=0.2 if p.numel() < 1000 else 0.04, atol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what nnU-Net uses
@pytest.mark.parametrize(
    ("configuration", "planner"), [("3d_fullres", "plain"), ("2d", "plain"), ("3d_fullres", "resenc_m")]
)
def test_a_case_gets_the_labels_that_nnunet_predicts_from_the_same_folder(configuration, planner, tmp_path):
    """From its checkpoint and plan to labels on the grid of the case: crop, scale, resample, predict, and back."""
    folder = results(tmp_path, configuration, planner)
    name, state, metadata = convert("nnunetv2:any", read_origin("nnunetv2:any", folder / "fold_0/checkpoint_final.pth"))
    model = build(name, **metadata["arguments"])
    model.load_state_dict(state)
    save_weights(model, tmp_path / "weights.safetensors", metadata)
    case = make_volume(5, 0, size=(24, 32, 50), spacing=(2.0, 1.25, 0.8))  # one window of 16 × 40 × 40
    window = tuple(metadata["task_arguments"]["window"])
    found = label_case(load_model(tmp_path / "weights.safetensors"), case.image, case.spacing, window).numpy()

    predictor = nnunet("inference.predict_from_raw_data").nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_final.pth")
    properties = {"spacing": list(case.spacing)}
    expected = predictor.predict_single_npy_array(case.image.float().numpy(), properties, None, None, False)
    assert len(np.unique(expected)) >= 3
    # it adds up windows in float16: near their borders its Gaussian weights have only a few bits
    inner = (slice(3, 21), slice(4, 28), slice(6, 44))
    assert (found != expected)[inner].mean() < 2e-4
    assert (found != expected).mean() < 0.02
