"""ImageNet weights from torchvision, fetched safely, for images of any number of channels."""

from __future__ import annotations

from torch import Tensor
from torchvision.models import WeightsEnum


def load_pretrained(weights: WeightsEnum) -> dict[str, Tensor]:
    """The state dict of one of torchvision's published weights, from its cache or downloaded, checked by its hash.

    Args:
        weights: the entry of a torchvision enumeration, such as ``ResNet50_Weights.IMAGENET1K_V1``.

    Raises:
        FileNotFoundError: when the file is not in torch's cache and the download fails.
    """
    try:
        # weights_only: the file is read as tensors, never unpickled
        return dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
    except OSError as error:  # URLError, timeouts and refused connections all are
        raise FileNotFoundError(
            f"{weights} is not on this machine and could not be downloaded ({error}); "
            f"fetch {weights.url} elsewhere and put it into torch's cache, ~/.cache/torch/hub/checkpoints"
        ) from error


def repeat_input_channels(weight: Tensor, in_channels: int) -> Tensor:
    """The kernel of a first convolution on RGB, made for images with another number of channels.

    Every channel gets the mean of the three kernels times ``3 / in_channels``. An image whose channels all show the
    same then gives the response that a grey RGB image gives.

    Args:
        weight: kernel on RGB images, ``(D, 3, k, k)``.
        in_channels: number of channels of the images.

    Returns:
        ``(D, in_channels, k, k)``; for three channels the weight as it is.
    """
    if in_channels == weight.shape[1]:
        return weight
    grey = weight.mean(1, keepdim=True) * (weight.shape[1] / in_channels)  # (D, 1, k, k)
    return grey.repeat(1, in_channels, 1, 1)


def check_in_channels(in_channels: int) -> None:
    """Raise a ValueError when there is no channel."""
    if in_channels < 1:
        raise ValueError(f"in_channels must be at least 1, got {in_channels}")
