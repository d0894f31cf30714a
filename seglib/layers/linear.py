"""A linear layer that is fast on CPUs as well."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

FEWEST_TOKENS = 256
"""Below, a convolution costs more than it saves: it copies the weights into blocks first."""
MOST_ROWS = 64


class Linear(nn.Linear):
    """``torch.nn.Linear`` for many tokens, ``(…, C)`` → ``(…, D)``.

    On a CPU the tokens become the rows of a map, and the product a 1 × 1 convolution, which PyTorch computes with
    oneDNN. Behind ``torch.nn.Linear`` is MKL, which took twice as long on an AMD EPYC. The weights are those of
    ``torch.nn.Linear``, and gradients flow as there.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(…, C)`` → ``(…, D)``."""
        tokens = x.shape[:-1].numel()
        if x.device.type != "cpu" or tokens < FEWEST_TOKENS:
            return super().forward(x)
        # as a batch of rows: on one thread PyTorch gives convolutions of fewer than 16 images to MKL again
        rows = next(n for n in range(MOST_ROWS, 0, -1) if tokens % n == 0)
        maps = x.reshape(rows, 1, tokens // rows, -1).permute(0, 3, 1, 2)  # (rows, C, 1, columns), channels last
        maps = F.conv2d(maps, self.weight[:, :, None, None], self.bias)  # (rows, D, 1, columns)
        return maps.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)
