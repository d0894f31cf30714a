"""seglib's 3D U-Net equals MONAI's DynUNet, through the converter that users call: scores, gradients and training."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seglib.models.zoo import build
from seglib.weights import convert

nets = pytest.importorskip("monai.networks.nets")

PLANS = {
    "isotropic": ([(3, 3, 3)] * 4, [(2, 2, 2)] * 3),
    "thick slices": ([(1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)], [(1, 2, 2), (2, 2, 2), (2, 2, 2)]),
    "an axis that is never halved": ([(1, 3, 3), (1, 5, 3), (3, 3, 3), (3, 3, 3)], [(1, 2, 2), (1, 2, 2), (1, 2, 1)]),
}


def dynunet(plan, **more):
    kernels, strides = PLANS[plan]
    torch.manual_seed(0)
    net = nets.DynUNet(3, 2, 3, kernels, [(1, 1, 1), *strides], strides, filters=[4, 6, 8, 10], **more)
    with torch.no_grad():
        for p in net.parameters():  # no norm is the identity
            p += 0.1 * torch.randn_like(p)
    return net


def ours_of(net):
    builder, state, metadata = convert("monai:dynunet", net.state_dict())
    model = build(builder, **metadata["arguments"])
    model.load_state_dict(state)
    return model


def batch():
    return torch.randn(2, 2, 16, 32, 24, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("plan", PLANS)
def test_scores_of_every_level_and_their_gradients_are_equal(plan):
    theirs = dynunet(plan, deep_supervision=True, deep_supr_num=2).train()
    ours, x = ours_of(theirs), batch()
    stacked, out = theirs(x), ours(x)  # theirs (B, 3, K, D, H, W), coarse scores repeated to full size
    found = [out.logits, *(F.interpolate(a, x.shape[2:], mode="nearest") for a in out.aux)]
    assert stacked.std() > 0.1
    # the same kernels in the same order: float32 rounding at most
    torch.testing.assert_close(torch.stack(found, 1), stacked, rtol=1e-5, atol=1e-5)
    weight = torch.randn(stacked.shape, generator=torch.Generator().manual_seed(2))
    (stacked * weight).sum().backward()
    (torch.stack(found, 1) * weight).sum().backward()
    renamed = convert("monai:dynunet", {name: p.grad for name, p in theirs.named_parameters()})[1]
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, renamed[name], rtol=1e-4, atol=1e-4 * float(renamed[name].abs().max()))


def test_without_deep_supervision_there_are_no_auxiliary_scores():
    theirs = dynunet("thick slices").eval()
    ours = ours_of(theirs).eval()
    with torch.no_grad():
        out = ours(batch())
        torch.testing.assert_close(out.logits, theirs(batch()), rtol=1e-5, atol=1e-5)
    assert out.aux == ()


def test_residual_blocks_and_images_are_refused():
    with pytest.raises(ValueError, match=r"12 unexpected \(encoder\.0\.conv3"):
        convert("monai:dynunet", dynunet("isotropic", res_block=True).state_dict())
    flat = nets.DynUNet(2, 1, 2, [3] * 3, [1, 2, 2], [2, 2], filters=[4, 6, 8])
    with pytest.raises(ValueError, match="isn't three-dimensional"):
        convert("monai:dynunet", flat.state_dict())


def test_a_cut_state_dict_names_what_is_absent():
    state = {k: v for k, v in dynunet("isotropic").state_dict().items() if not k.startswith("upsamples.1.transp")}
    with pytest.raises(ValueError, match=r"nothing for up\.1\.weight"):
        convert("monai:dynunet", state)
    with pytest.raises(ValueError, match="unknown"):
        convert("monai:dynunet", nn.Conv3d(1, 1, 1).state_dict())
