"""VGG-16 made fully convolutional: torchvision's layers, with the classifier turned into convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models as tv

from seglib.layers.grid import Grid
from seglib.layers.pretrained import check_in_channels, load_pretrained, repeat_input_channels


def convolutionalize(linear: nn.Linear, in_channels: int, kernel: int) -> nn.Conv2d:
    """The convolution that computes at every place what a fully connected layer computes at one.

    A row of the linear layer's weights, reshaped from ``C·k·k`` to ``(C, k, k)``, is the kernel of one output channel.

    Args:
        linear: fully connected layer over flattened ``(C, k, k)`` maps, D outputs.
        in_channels: C, channels of the map that was flattened.
        kernel: k, height and width of that map.

    Returns:
        A convolution ``(B, C, h, w)`` → ``(B, D, h − k + 1, w − k + 1)`` with copies of the weights.

    Raises:
        ValueError: when the linear layer does not take ``C·k·k`` numbers.
    """
    if linear.in_features != in_channels * kernel**2:
        raise ValueError(
            f"a linear layer over ({in_channels}, {kernel}, {kernel}) maps takes {in_channels * kernel**2} numbers, "
            f"this one takes {linear.in_features}"
        )
    conv = nn.utils.skip_init(nn.Conv2d, in_channels, linear.out_features, kernel, bias=linear.bias is not None)
    with torch.no_grad():
        conv.weight.copy_(linear.weight.view_as(conv.weight))  # (D, C·k·k) → (D, C, k, k)
        if conv.bias is not None:
            conv.bias.copy_(linear.bias)
    return conv


class VGG16Encoder(nn.Module):
    """VGG-16 as the paper prepares it: torchvision's convolutions, then fc6 and fc7 as convolutions.

    The first convolution pads by 100 pixels, so that images smaller than fc6's 224-pixel window still give an output.
    The maps are ``c3`` (pool3), ``c4`` (pool4) and ``c5`` (fc7).

    Args:
        in_channels: channels of the images.
        hidden: channels of fc6 and fc7.
        dropout: probability that a channel of fc6 or fc7 is dropped in training.
        pretrained: whether to start from torchvision's ImageNet weights, those of fc6 and fc7 included. For other
            images than RGB the first kernel's mean over the three colours is repeated and rescaled, so that the
            response to grey stays (:func:`~seglib.layers.pretrained.repeat_input_channels`).

    Raises:
        ValueError: without channels, or when ``pretrained`` is asked for with another width than 4096.
    """

    size_divisibility = 1  # the padding makes room for any size

    def __init__(
        self, *, in_channels: int = 3, hidden: int = 4096, dropout: float = 0.5, pretrained: bool = False
    ) -> None:
        super().__init__()
        check_in_channels(in_channels)
        if pretrained and hidden != 4096:
            raise ValueError(f"the published fc6 and fc7 have 4096 channels, hidden is {hidden}; leave it at 4096")
        with torch.device("meta"):  # the structure without memory: the classifier alone would take half a gigabyte
            vgg = tv.vgg16()
            vgg.features[0] = nn.Conv2d(in_channels, 64, 3, padding=1)
        if pretrained:
            state = load_pretrained(tv.VGG16_Weights.IMAGENET1K_V1)
            state["features.0.weight"] = repeat_input_channels(state["features.0.weight"], in_channels)
            vgg.load_state_dict(state, assign=True)
            self.fc6 = convolutionalize(vgg.classifier[0], 512, 7)
            self.fc7 = convolutionalize(vgg.classifier[3], hidden, 1)
        else:
            vgg.features.to_empty(device=torch.get_default_device())
            self.fc6 = nn.Conv2d(512, hidden, 7)
            self.fc7 = nn.Conv2d(hidden, hidden, 1)
            for layer in [*vgg.features, self.fc6, self.fc7]:
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # these convolutions have a bias
        self.dropout = nn.Dropout2d(dropout)

        layers = list(vgg.features)
        layers[0].padding = (100, 100)
        pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        for i in pools:
            layers[i].ceil_mode = True  # as in Caffe: keep the last, partial window
        self.to_pool3 = nn.Sequential(*layers[: pools[2] + 1])
        self.to_pool4 = nn.Sequential(*layers[pools[2] + 1 : pools[3] + 1])
        self.to_pool5 = nn.Sequential(*layers[pools[3] + 1 :])

        self.channels = {"c3": 256, "c4": 512, "c5": hidden}
        pool3 = Grid().through(self.to_pool3)
        pool4 = pool3.through(self.to_pool4)
        self.grids = {"c3": pool3, "c4": pool4, "c5": pool4.through([*self.to_pool5, self.fc6, self.fc7])}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``(B, C, H, W)`` normalised images → the maps ``c3``, ``c4``, ``c5``, which cover the image and a margin."""
        pool3 = self.to_pool3(images)  # (B, 256, ⌈(H + 198) / 8⌉, …)
        pool4 = self.to_pool4(pool3)  # (B, 512, ⌈(H + 198) / 16⌉, …)
        pool5 = self.to_pool5(pool4)  # (B, 512, ⌈(H + 198) / 32⌉, …)
        fc6 = self.dropout(F.relu(self.fc6(pool5)))  # (B, 4096, ⌈(H + 198) / 32⌉ − 6, …)
        fc7 = self.dropout(F.relu(self.fc7(fc6)))
        return {"c3": pool3, "c4": pool4, "c5": fc7}
