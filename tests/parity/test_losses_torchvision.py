"""With two classes focal loss equals torchvision's sigmoid focal loss, values and gradients."""

import pytest
import torch
from loss_cases import value_and_gradient
from torchvision.ops import sigmoid_focal_loss

from seglib.losses import focal_loss


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("alpha", [0.25, 0.9])
def test_focal_loss_of_logits_0_and_z_is_the_sigmoid_focal_loss_of_z(gamma, alpha):
    z = 3 * torch.randn(2, 9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = (torch.arange(126).view(2, 9, 7) % 3 == 0).long()
    weights = torch.tensor([1 - alpha, alpha], dtype=torch.float64)
    found = value_and_gradient(
        lambda z: focal_loss(torch.stack([torch.zeros_like(z), z], 1), target, gamma=gamma, alpha=weights), z
    )
    expected = value_and_gradient(
        lambda z: sigmoid_focal_loss(z, target.double(), alpha=alpha, gamma=gamma, reduction="mean"), z
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)  # float64, another order of operations
