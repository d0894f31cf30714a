"""Random logits and labels, and the value and gradient of a loss, for the tests of losses."""

import torch
from hypothesis import strategies as st


@st.composite
def pixels(draw, scales=(0.1, 3.0, 300.0)):
    """Logits (B, K, H, W) float64 and a target (B, H, W) with some void and at least one label."""
    k = draw(st.integers(1, 5))
    b, h, w = draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = draw(st.sampled_from(scales)) * torch.randn(b, k, h, w, generator=g, dtype=torch.float64)
    target = torch.randint(k, (b, h, w), generator=g)
    target[torch.rand(b, h, w, generator=g) < 0.3] = 255
    target[0, 0, 0] = 0
    return logits, target


def value_and_gradient(loss, logits, *args, **keywords):
    z = logits.clone().requires_grad_()
    value = loss(z, *args, **keywords)
    (gradient,) = torch.autograd.grad(value, z)
    return value.detach(), gradient


def logits_of(*rows):
    """Logits (1, K, 1, W), float64, whose softmax is the given probabilities: one row of K numbers a pixel."""
    return torch.tensor(rows, dtype=torch.float64).log().T[None, :, None]
