"""Networks in the page: their steps against the model, and every step of the browser's runtime against PyTorch."""

import base64
import json
import math

import pytest
import torch
from browser import serve
from torch import Tensor, nn
from torch.nn import functional as F

from seglib.book.figures.element import source
from seglib.book.networks import NETWORKS, write_networks
from seglib.book.pretrained import stored_model, stored_weights
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.metrics import SemanticScores
from seglib.metrics.confusion import confusion
from seglib.types import Prompts
from seglib.weights.steps import Steps, steps_of

CLOSE = 1e-3
"""Largest difference of a browser's step from PyTorch's, of a step whose largest value is at most 1; else relative."""

OPERATORS = """async ({cases, script}) => {
  const {OPERATORS, tensor} = await import(URL.createObjectURL(new Blob([script], {type: "text/javascript"})));
  const read = (v) => {
    if (Array.isArray(v)) return v.map(read);
    return v && v.shape ? tensor(v.shape, Float32Array.from(v.data)) : v ?? undefined;
  };
  const write = (v) => Array.isArray(v) ? v.map(write) : {shape: v.shape, data: Array.from(v.data)};
  return cases.map(([name, args]) => write(OPERATORS[name](...args.map(read))));
}"""


def rand(*shape):
    return torch.randn(*shape)


def conv_cases():
    for size, kernel, stride, padding, dilation, groups in [
        ((9, 7), 3, 1, 1, 1, 1),
        ((8, 11), 3, 2, 1, 1, 1),
        ((12, 12), 3, 1, 4, 4, 1),
        ((6, 6), 1, 1, 0, 1, 1),
        ((7, 9), 5, 3, 2, 1, 2),
        ((7, 9), 3, 1, 1, 1, 6),
    ]:
        weight = rand(6, 6 // groups, kernel, kernel)
        for bias in (rand(6), None):
            yield (
                "convolution",
                (rand(2, 6, *size), weight, bias, [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], groups),
            )
    for kernel, stride, padding, groups in [(2, 2, 0, 1), (4, 2, 1, 1), (16, 8, 4, 1), (3, 2, 0, 2)]:
        weight = rand(4, 3, kernel, kernel)
        yield (
            "convolution",
            (rand(1, 4, 5, 3), weight, rand(3 * groups), [stride] * 2, [padding] * 2, [1, 1], True, [0, 0], groups),
        )


def other_cases():
    x, image = rand(2, 3, 4), rand(2, 3, 5, 4)
    for name in ("relu", "sigmoid", "sin", "cos", "gelu"):
        yield name, (3 * x,)
    for name in ("add", "sub", "mul", "div", "lt", "eq"):
        yield name, (x, rand(3, 1))
        yield name, (x, 0.5)
    yield "where", (x > 0, x, torch.tensor(0.0))
    yield "logical_not", ((x > 0).float(),)
    yield "clamp", (x, -0.5, None)
    yield "mm", (rand(3, 5), rand(5, 2))
    yield "addmm", (rand(2), rand(3, 5), rand(5, 2))
    yield "bmm", (rand(2, 3, 5), rand(2, 5, 4))
    yield "view", (x, [4, -1])
    yield "permute", (image, [0, 2, 3, 1])
    yield "unsqueeze", (x, -1)
    yield "unsqueeze", (x, 1)
    yield "expand", (rand(3, 1), [2, -1, 4])
    yield "slice", (x, 2, 1, 9223372036854775807, 2)
    yield "slice", (x, 1, -2, None, 1)
    yield "select", (x, 1, -1)
    yield "cat", ([x, rand(2, 1, 4)], 1)
    yield "cat", ([x, x], -1)
    yield "split_with_sizes", (x, [1, 3], 2)
    yield "mean", (image, [-1, -2], True)
    yield "mean", (image, [1], False)
    yield "any", ((image > 1.5), 3, True)
    yield "_softmax", (image, 1, False)
    yield "constant_pad_nd", (image, [1, 2, 0, 3], 0.5)
    yield "constant_pad_nd", (image, [-1, 2, 1, -2], 0.0)
    yield "native_layer_norm", (x, [4], rand(4), rand(4), 1e-5)
    yield "native_layer_norm", (x, [3, 4], None, None, 1e-5)
    yield "_native_batch_norm_legit_no_training", (image, rand(3), rand(3), rand(3), rand(3).abs(), 0.1, 1e-5)
    yield "upsample_nearest2d", (image, [9, 7], None)
    yield "upsample_nearest2d", (image, None, [2.0, 2.0])
    yield "upsample_bilinear2d", (image, [9, 7], False, None)
    yield "upsample_bilinear2d", (image, [3, 11], False, None)
    yield "upsample_bilinear2d", (image, [9, 7], True, None)
    yield "upsample_bilinear2d", (image, None, False, [2.5, 1.5])
    yield "max_pool2d_with_indices", (image, [3, 3], [2, 2], [1, 1])
    yield "full", ([2, 3], -1)
    yield "full_like", (x, 2)
    yield "arange", (0, 5, 1)
    yield "index", (rand(4, 3), [torch.tensor([[0.0, 3.0], [1.0, 1.0]])])
    yield "index_select", (image, -2, torch.tensor([0, 2, 2]))


def plain(value):
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "data": value.float().flatten().tolist()}
    return value


def by_torch(name, arguments):
    arguments = list(arguments)
    if name == "index":
        arguments[1] = [i.long() for i in arguments[1]]
    found = getattr(torch.ops.aten, name)(*arguments)
    several = name == "split_with_sizes"
    return found if isinstance(found, Tensor) or several else found[0]


def test_every_operator_of_the_runtime_is_pytorchs(open_page):
    torch.manual_seed(0)
    cases = [*conv_cases(), *other_cases()]
    script = source("network", shared=()).replace("const OPERATORS", "export const OPERATORS", 1)
    script = script.replace("const tensor", "export const tensor", 1)
    visit = open_page()
    given = [[name, plain(arguments)] for name, arguments in cases]
    found = visit.page.evaluate(OPERATORS, {"cases": given, "script": script})
    for (name, arguments), got in zip(cases, found, strict=True):
        want = plain(by_torch(name, arguments))
        for g, w in zip(
            got if isinstance(got, list) else [got], want if isinstance(want, list) else [want], strict=True
        ):
            assert g["shape"] == w["shape"], name
            assert g["data"] == pytest.approx(w["data"], rel=1e-5, abs=1e-5), name
    covered = {name for name, _ in cases} | {"getitem", "sym_size", "floordiv", "mod", "neg"}  # the last are of lengths
    assert covered == set(visit.page.evaluate(NAMES, script))


NAMES = """async (script) => Object.keys(
  (await import(URL.createObjectURL(new Blob([script], {type: "text/javascript"})))).OPERATORS)"""


# Steps


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("order", torch.tensor([2, 0, 3, 1]))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.norm(self.norm(self.conv(image))))
        half = F.interpolate(x, scale_factor=2.0, mode="bilinear")[..., 1:]
        return half.index_select(1, self.order), x.flatten(2).softmax(-1)


def small(**options):
    torch.manual_seed(0)
    module = Small().eval()
    image = torch.rand(1, 3, 6, 8)
    return module, steps_of(module, {"image": image}, ("up", "share"), dynamic={"image": (2, 3)}, **options)


def test_steps_give_what_the_module_gives_at_other_sizes():
    module, steps = small()
    image = torch.rand(1, 3, 11, 5)
    with torch.no_grad():
        want = module(image)
    torch.testing.assert_close(list(steps.outputs(image=image).values()), list(want))


def test_the_manifest_names_layers_shapes_and_types():
    _, steps = small()
    told = steps.manifest
    assert told["inputs"] == {"image": [1, 3, None, None]}
    assert [s["layer"] for s in told["steps"] if s["op"] == "convolution"] == ["conv"]
    assert {t["name"]: t["dtype"] for t in told["tensors"]}["conv.weight"] == "f32"
    assert {t["name"]: t["dtype"] for t in told["tensors"]}["order"] == "i32"
    assert all(t["offset"] % 4 == 0 for t in told["tensors"])
    assert len({t["name"] for t in told["tensors"]}) == len(told["tensors"])
    assert json.loads(json.dumps(told)) == told


def test_weights_that_16_bits_hold_are_stored_so_and_half_rounds_the_others():
    module, steps = small(half=True)
    kinds = {t["name"]: t["dtype"] for t in steps.manifest["tensors"]}
    assert set(kinds.values()) == {"f16", "i32"} and len(steps.numbers) < len(small()[1].numbers)
    image = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        want = module.half().float()(image)
    torch.testing.assert_close(list(steps.outputs(image=image).values()), list(want))
    again = steps_of(module, {"image": image}, ("up", "share"))  # rounded already
    assert {t["name"]: t["dtype"] for t in again.manifest["tensors"]} == kinds


def test_files_come_in_pairs(tmp_path):
    _, steps = small()
    steps.write(tmp_path / "a.json", {"model": "small"})
    assert json.loads((tmp_path / "a.json").read_text()) == steps.manifest | {"about": {"model": "small"}}
    assert (tmp_path / "a.bin").read_bytes() == steps.numbers


def test_wrong_inputs_and_outputs_are_refused():
    module, steps = small()
    with pytest.raises(ValueError, match=r"takes \['image'\], got \['photo'\]"):
        steps.run(photo=torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match="gives 2 outputs, but 1 were named"):
        steps_of(module, {"image": torch.rand(1, 3, 8, 8)}, ("up",))


# The book's networks


@pytest.fixture(scope="module")
def networks():
    return {name: make() for name, make in NETWORKS.items()}


def example(name):
    image = Scenes(3, split="test")[2].image[None]
    if name != "sam_decoder":
        return {"image": image[..., :100] if name == "fcn_tiny" else image}
    with torch.no_grad():
        embedding = stored_model("sam_tiny").encode(image)
    return {
        "embedding": embedding,
        "points": torch.tensor([[[60.0, 70.0], [20.5, 30.0]]]),
        "labels": torch.tensor([[1, 0]]),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_networks_steps_give_what_the_model_gives(name, networks):
    given = example(name)
    found = networks[name].outputs(**given)
    model = stored_model("sam_tiny" if name.startswith("sam") else name).half().float()  # as in the page: 16 bits
    with torch.no_grad():
        if name == "sam_decoder":
            answer = model.decode(given["embedding"], Prompts(points=given["points"], labels=given["labels"]))
            want = {"logits": answer.logits, "iou": answer.iou}
        elif name == "sam_encoder":
            want = {"embedding": model.encode(given["image"])}
        else:
            want = {"logits": model(given["image"]).logits}
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fcn_tiny", "unet_tiny"])
def test_16_bits_keep_the_recorded_score(name):
    """Rounding moves the mIoU of thirty scenes by less than a tenth of a point."""
    exact, rounded = stored_model(name), stored_model(name).half().float()
    data, counts = Scenes(30, split="test"), [0, 0]
    with torch.no_grad():
        for sample in data:
            for i, model in enumerate((exact, rounded)):
                counts[i] = counts[i] + confusion(
                    model(sample.image[None]).logits.argmax(1)[0], sample.semantic, len(CATEGORIES)
                )
    a, b = (SemanticScores.from_counts(c).miou for c in counts)
    assert a > 0.7 and abs(a - b) < 1e-3


@pytest.mark.slow
def test_the_scripts_are_small_and_hold_the_stored_weights(tmp_path):
    files = write_networks(tmp_path)
    assert {f.stem for f in files} == {*NETWORKS, "runtime"}
    sizes = {f.stem: f.stat().st_size for f in files}
    assert sizes["fcn_tiny"] + sizes["unet_tiny"] + sizes["runtime"] < 4.5e6  # the playground
    assert sizes["sam_encoder"] + sizes["sam_decoder"] + sizes["runtime"] < 3.5e6  # chapter 19
    text = (tmp_path / "unet_tiny.js").read_text()
    told = json.loads(text.removeprefix("segNetworks.unet_tiny = ").removesuffix(";\n"))
    numbers = base64.b64decode(told["numbers"])
    entry = told["manifest"]["tensors"][2]
    stored = stored_model("unet_tiny").state_dict()[entry["name"].removeprefix("model.")]
    step = Steps(told["manifest"], numbers)
    assert torch.equal(step._tensor(entry), stored) and stored_weights("unet_tiny")[0].exists()


@pytest.fixture(scope="module")
def site(tmp_path_factory, networks):
    """A served page beside the networks' scripts."""
    folder = tmp_path_factory.mktemp("site")
    write_networks(folder / "_static" / "networks")
    (folder / "index.html").write_text(
        "<!doctype html><html lang='en' data-content_root='./'><title>t</title><link rel='icon' href='data:,'><p>t"
    )
    with serve(folder) as url:
        yield folder, url


RUN = """async ({name, inputs, keep}) => {
  const tensors = {};
  for (const [key, {shape, data}] of Object.entries(inputs)) tensors[key] = {shape, data: Float32Array.from(data)};
  const wanted = new Float32Array(await (await fetch("expected.bin")).arrayBuffer());
  const {kept} = await liveNetworks().run(name, tensors, {keep: keep.map((k) => k.step)});
  return keep.map(({step, at}) => {
    const {data} = kept[step];
    let worst = 0, most = 1;
    for (let i = 0; i < data.length; i++) {
      worst = Math.max(worst, Math.abs(data[i] - wanted[at + i]));
      most = Math.max(most, Math.abs(wanted[at + i]));
    }
    return [step, data.length, worst / most];
  });
}"""


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_step_in_the_browser_is_pytorchs(name, networks, site, open_page):
    folder, url = site
    inputs = example(name)
    with torch.no_grad():
        values = networks[name].run(**inputs)
    keep, parts, at = [], [], 0
    for step, value in enumerate(values):
        if isinstance(value, Tensor):
            keep.append({"step": step, "at": at})
            parts.append(value.float().flatten())
            at += value.numel()
    (folder / "expected.bin").write_bytes(torch.cat(parts).numpy().tobytes())
    visit = open_page(f"{url}/index.html")
    visit.page.add_script_tag(content=source("live", shared=()))
    given = {key: plain(value) for key, value in inputs.items()}
    found = visit.page.evaluate(RUN, {"name": name, "inputs": given, "keep": keep})
    assert [(step, count) for step, count, _ in found] == [(k["step"], values[k["step"]].numel()) for k in keep]
    worst = max(found, key=lambda row: -math.inf if row[2] is None else row[2])
    assert all(row[2] is not None for row in found) and worst[2] < CLOSE, worst
    assert not visit.problems()
