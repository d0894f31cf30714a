"""Weights that torchvision publishes, fetched safely."""

from __future__ import annotations

from torch import Tensor
from torchvision.models import WeightsEnum


def published(weights: WeightsEnum) -> dict[str, Tensor]:
    """The state dict of one of torchvision's published weights, from its cache or downloaded, checked by its hash.

    Args:
        weights: e.g. ``torchvision.models.ResNet50_Weights.IMAGENET1K_V1``.

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
