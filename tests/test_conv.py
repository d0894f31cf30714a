"""Separable convolutions: what they compute, how many weights they have, and their norm and activation."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

from seglib.layers.conv import separable_conv, separable_conv_norm_activation


def test_a_separable_convolution_has_9c_and_c_squared_weights():
    assert sum(p.numel() for p in separable_conv(64, 64).parameters()) == 9 * 64 + 64**2


@pytest.mark.parametrize("dilation", [1, 2, 5])
def test_a_separable_convolution_is_a_plain_one_of_rank_one_kernels(dilation):
    torch.manual_seed(0)
    pair = separable_conv(4, 6, dilation=dilation).double()
    kernel = pair[1].weight * pair[0].weight[:, 0]  # (6, 4, 1, 1) · (4, 3, 3)
    x = torch.randn(2, 4, 7, 9, dtype=torch.float64)
    torch.testing.assert_close(pair(x), F.conv2d(x, kernel, padding=dilation, dilation=dilation))


def test_norm_and_activation_are_those_of_torchvisions_block():
    group_norm = partial(nn.GroupNorm, 2)
    variants = [{}, {"norm_layer": None}, {"norm_layer": group_norm, "activation_layer": nn.SiLU},
                {"activation_layer": None}, {"activation_layer": nn.GELU, "inplace": None}]  # fmt: skip
    for arguments in variants:
        block = separable_conv_norm_activation(4, 6, **arguments)
        reference = Conv2dNormActivation(4, 6, **arguments)
        assert [type(x) for x in list(block)[1:]] == [type(x) for x in list(reference)[1:]], arguments
        assert (block[0][1].bias is None) == (reference[0].bias is None), arguments
        assert [getattr(x, "inplace", None) for x in block] == [getattr(x, "inplace", None) for x in reference]


def test_the_layers_follow_each_other():
    torch.manual_seed(0)
    block = separable_conv_norm_activation(4, 6, dilation=2).eval()
    nn.init.normal_(block[1].running_mean)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(x), F.relu(block[1](block[0](x))))


def test_the_names_of_the_weights_are_those_of_stored_ones():
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert set(separable_conv_norm_activation(4, 6).state_dict()) == {
        "0.0.weight", "0.1.weight", *(f"1.{name}" for name in norm)
    }  # fmt: skip
