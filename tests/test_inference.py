"""Prediction alone: channels last on a CPU, and compiled with frozen weights."""

import os

import pytest
import torch

from seglib.layers.normalize import Normalize
from seglib.models.fcn import fcn_tiny
from seglib.ops import inference
from seglib.ops.inference import compile_frozen


@pytest.mark.parametrize("grad", [True, False])
def test_without_gradients_images_on_a_cpu_go_channels_last(grad):
    images = torch.rand(2, 3, 5, 7)
    with torch.set_grad_enabled(grad):
        out = Normalize()(images)
    assert out.is_contiguous(memory_format=torch.channels_last) != grad
    torch.testing.assert_close(out, (images - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
                               / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))  # fmt: skip


def test_images_keep_their_memory_format_where_convolutions_are_faster_so():
    normalize = Normalize()
    normalize.channels_last = False
    with torch.no_grad():
        assert normalize(torch.rand(2, 3, 5, 7)).is_contiguous()


@pytest.mark.slow
def test_a_compiled_model_predicts_the_same_at_several_sizes_and_its_weights_are_frozen():
    torch.manual_seed(0)
    model = fcn_tiny(5).eval()
    for p in model.score.parameters():
        torch.nn.init.normal_(p)
    images = torch.rand(2, 3, 64, 96), torch.rand(1, 3, 40, 50)
    before = [model.predict(x) for x in images]
    compile_frozen(model)
    for x, want in zip(images, before, strict=True):
        for found, old in zip(model.predict(x), want, strict=True):
            torch.testing.assert_close(found.probs, old.probs, rtol=0, atol=1e-5)  # folded norms round otherwise
    assert not model.training
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    # constants of the compiled code, and parts of packed convolutions: a weight that is an input would be seen
    torch.testing.assert_close(model.predict(images[0])[0].probs, before[0][0].probs, rtol=0, atol=1e-5)
    assert not torch._inductor.config.freezing, "what others compile isn't frozen"


def test_compiling_for_a_cpu_asks_for_a_compiler(monkeypatch):
    monkeypatch.setattr(inference.shutil, "which", lambda name: None)
    monkeypatch.delitem(os.environ, "CXX", raising=False)
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler; install g\\+\\+ or clang\\+\\+"):
        compile_frozen(fcn_tiny(5))
