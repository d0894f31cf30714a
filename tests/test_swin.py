"""Swin: windows and their shifts by definition, the whole network against torchvision's and the original's."""

import math

import pytest
import torch
from golden import Golden
from torch import nn
from torchvision import models as tv

from seglib.layers import swin
from seglib.layers.grid import Grid
from seglib.layers.swin import (
    PatchMerging,
    SwinEncoder,
    WindowAttention,
    relative_position_index,
    swin_encoder,
    window_mask,
)
from seglib.weights.mask2former_swin import SWIN_RULES
from seglib.weights.renaming import rename


def small(**arguments):
    torch.manual_seed(0)
    return SwinEncoder(8, (2, 2, 2, 1), (1, 2, 4, 4), 4, **arguments)


def small_reference(monkeypatch):
    """A small network of torchvision's with windows of 7, which stands for the pretrained swin_t."""
    torch.manual_seed(0)
    reference = tv.SwinTransformer([4, 4], 8, [2, 2, 2, 2], [1, 2, 4, 4], [7, 7], num_classes=3)
    for name, parameter in reference.named_parameters():
        if name.endswith("bias_table"):
            nn.init.normal_(parameter)  # its initialisation is too small to matter
    monkeypatch.setitem(swin.SWINS, "swin_t", (8, (2, 2, 2, 2), (1, 2, 4, 4), 5, swin.SWINS["swin_t"][-1]))
    monkeypatch.setattr(swin, "load_pretrained", lambda weights: dict(reference.state_dict()))
    return reference.eval()


# Windows


def test_the_relative_position_index_of_a_window_of_two_by_hand():
    # cells in rows: 00, 01, 10, 11; the table has 3 × 3 rows, (dy + 1) * 3 + (dx + 1), and 4 is "itself"
    assert relative_position_index(2).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_the_mask_of_a_rolled_map_by_hand():
    # 4 × 4 cells, windows of 2, rolled by 1: the last row and the last column came round
    whole, row, column = [[1] * 4] * 4, [0, 0, 1, 1], [0, 1, 0, 1]
    across = [[int(a == b) for b in column] for a in column]  # upper right window: its columns are kept apart
    down = [[int(a == b) for b in row] for a in row]
    alone = torch.eye(4).int().tolist()
    assert window_mask(4, 4, 2, 1).int().tolist() == [whole, across, down, alone]


@pytest.mark.parametrize(
    ("height", "width", "window", "shift"),
    [(8, 4, 4, 0), (5, 6, 4, 0), (8, 8, 4, 2), (5, 6, 4, 2), (4, 6, 3, 1), (2, 3, 4, 2)],
    ids=["whole windows", "padded", "shifted", "padded and shifted", "odd window", "smaller than a window"],
)
def test_a_cell_attends_to_its_shifted_window_padding_included(height, width, window, shift):
    layer = WindowAttention(1, 1, window, shift=shift).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.qkv.weight[2] = layer.out.weight[0] = 1  # every query fits every key alike: the mean of the values
        cells = height * width
        weights = layer(torch.eye(cells).double().view(cells, height, width, 1)).view(cells, cells)

    def windows(length):  # of each cell along an axis, and how many cells each has in the padded map
        padded = [(i - shift) // window for i in range(math.ceil(length / window) * window)]
        return padded[:length], padded

    (rows, all_rows), (columns, all_columns) = windows(height), windows(width)
    for source in range(cells):
        for target in range(cells):
            a, b = divmod(source, width), divmod(target, width)
            same = rows[a[0]] == rows[b[0]] and columns[a[1]] == columns[b[1]]
            want = same / (all_rows.count(rows[b[0]]) * all_columns.count(columns[b[1]]))
            assert abs(weights[source, target] - want) < 1e-12, (a, b)


def test_windows_moved_by_a_window_give_the_same_moved():
    torch.manual_seed(0)
    layer = WindowAttention(6, 2, 3, shift=0)
    x = torch.randn(2, 6, 9, 6)
    torch.testing.assert_close(layer(x.roll((3, 3), (1, 2))), layer(x).roll((3, 3), (1, 2)))


def test_merging_takes_two_by_two_cells_down_the_columns_and_pads_odd_sides():
    merge = PatchMerging(1)
    merge.norm, merge.reduction = nn.Identity(), nn.Identity()
    x = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])[None, :, :, None]
    want = [[[1, 4, 2, 5], [3, 6, 0, 0]], [[7, 0, 8, 0], [9, 0, 0, 0]]]
    assert merge(x)[0].tolist() == want


# Against the references


def test_values_and_gradients_are_torchvisions(monkeypatch):
    reference = small_reference(monkeypatch)
    encoder = swin_encoder("swin_t", pretrained=True).eval()
    # maps of 58 × 66 to 8 × 9 cells: larger than a window, where both have the same rule, none of whole windows
    images = torch.randn(2, 3, 232, 264)
    want, x = {}, images
    for i, layer in enumerate(reference.features):
        x = layer(x)
        if i % 2:
            want[f"c{i // 2 + 2}"] = nn.functional.layer_norm(x, x.shape[-1:]).permute(0, 3, 1, 2)
    out = encoder(images)
    assert list(out) == list(want)
    for level in want:
        torch.testing.assert_close(out[level], want[level], rtol=0, atol=1e-5)  # float32; the largest are about 3

    weights = {level: torch.randn_like(m) for level, m in want.items()}
    for maps in (out, want):
        sum((m * weights[level]).sum() for level, m in maps.items()).backward()
    gradients = swin.rename_torchvision_swin({k: p.grad for k, p in reference.named_parameters()})
    for name, parameter in encoder.named_parameters():
        if not name.startswith("norms."):
            # sums over up to 7,656 cells: a hundred-thousandth of a tensor's largest number
            scale = gradients[name].abs().max().item()
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=0, atol=1e-5 * scale, msg=name)


def test_maps_are_those_of_the_original_with_its_weights():
    golden = Golden("mask2former_swin_tiny_coco_panoptic")
    assert torch.equal(relative_position_index(7), golden["derived/relative_position_index"].long())
    state = {k: v for k, v in golden.state.items() if k.startswith("backbone.")}
    encoder = nn.ModuleDict({"encoder": swin_encoder("swin_t")}).eval()
    encoder.load_state_dict(rename(state, SWIN_RULES, "a Swin"))
    mean, std = (torch.tensor(golden.meta["input"][key])[:, None, None] for key in ("mean", "std"))
    images = torch.zeros(2, 3, 64, 96)
    for i, (height, width) in enumerate([(64, 96), (60, 90)]):
        images[i, :, :height, :width] = (golden[f"small/image{i}"] - mean) / std
    with torch.no_grad():
        maps = encoder["encoder"](images)  # c4 and c5, 4 × 6 and 2 × 3 cells, are smaller than a window
    for level in (2, 3, 4, 5):
        golden.check(f"small/backbone.res{level}", maps[f"c{level}"])


@pytest.mark.parametrize("name", ["swin_t", "swin_s", "swin_b"])
def test_published_weights_fit_and_the_norms_on_the_maps_keep_theirs(monkeypatch, name):
    with torch.device("meta"):  # names and shapes without memory
        monkeypatch.setattr(swin, "load_pretrained", lambda weights: getattr(tv, name)().state_dict())
        encoder = swin_encoder(name, pretrained=True)  # loads strictly
    assert {b.attention.window for stage in encoder.stages for b in stage} == {7}


# Sizes and variants


def test_the_variants_have_the_papers_sizes():
    with torch.device("meta"):
        encoders = {name: swin_encoder(name) for name in swin.SWINS}
    millions = {n: round(sum(p.numel() for p in e.parameters()) / 1e6) for n, e in encoders.items()}
    # table 1 of the paper: 28, 50, 88 and 197 with the classifier of 1,000 classes, which has 0.8 to 1.5
    assert millions == {"swin_t": 28, "swin_s": 49, "swin_b": 87, "swin_l": 195}
    assert list(encoders["swin_l"].channels.values()) == [192, 384, 768, 1536]
    assert [e.stages[0][0].attention.window for e in encoders.values()] == [7, 7, 12, 12]
    assert [b.attention.shift for b in encoders["swin_b"].stages[2][:4]] == [0, 6, 0, 6]


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (32, 32), (33, 47)])
def test_images_may_have_any_size(size):
    encoder = small().eval()
    maps = encoder(torch.randn(2, 3, *size))
    for level, grid in encoder.grids.items():
        want = (2, encoder.channels[level], *(math.ceil(n / grid.stride) for n in size))
        assert maps[level].shape == want and maps[level].isfinite().all()


def test_a_batch_gives_what_its_images_give_one_by_one():
    encoder, images = small().eval(), torch.randn(3, 3, 64, 96)
    alone = [encoder(image[None]) for image in images]
    for level, m in encoder(images).items():
        # float32; a kernel sums in another order for another batch size
        torch.testing.assert_close(m, torch.cat([maps[level] for maps in alone]), rtol=0, atol=1e-5)


def test_gradients_reach_every_parameter():
    encoder = small(drop_path=0.1)
    sum(m.square().sum() for m in encoder(torch.randn(2, 3, 64, 64)).values()).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in encoder.parameters())


def test_cells_lie_in_the_middle_of_what_they_cover():
    assert small().grids == {"c2": Grid(4, 1.5), "c3": Grid(8, 3.5), "c4": Grid(16, 7.5), "c5": Grid(32, 15.5)}


@pytest.mark.parametrize("in_channels", [1, 3, 5])
def test_pretrained_weights_answer_grey_alike_whatever_the_number_of_channels(monkeypatch, in_channels):
    small_reference(monkeypatch)
    grey = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        want = swin_encoder("swin_t", pretrained=True)(grey.expand(-1, 3, -1, -1))
        out = swin_encoder("swin_t", pretrained=True, in_channels=in_channels)(grey.expand(-1, in_channels, -1, -1))
    for level in want:
        torch.testing.assert_close(out[level], want[level], rtol=0, atol=1e-5)  # float32, sums of other numbers


def test_stochastic_depth_grows_to_its_last_block_and_is_off_in_evaluation():
    encoder = small(drop_path=0.6)
    assert [round(b.drop.p, 9) for s in encoder.stages for b in s] == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    images = torch.randn(1, 3, 32, 32)
    assert not torch.equal(encoder(images)["c5"], encoder(images)["c5"])
    encoder.eval()
    assert torch.equal(encoder(images)["c5"], encoder(images)["c5"])


@pytest.mark.parametrize("autocast", [True, False])
def test_maps_and_gradients_are_finite_in_bf16(autocast):
    encoder, images = small(), torch.randn(2, 3, 40, 40)
    if not autocast:
        encoder, images = encoder.bfloat16(), images.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        maps = encoder(images)
    sum(m.float().square().sum() for m in maps.values()).backward()
    assert all(m.isfinite().all() for m in maps.values())
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.slow
def test_it_compiles_and_exports():
    encoder, images = small().eval(), torch.randn(2, 3, 40, 72)
    with torch.no_grad():
        want = encoder(images)
        compiled = torch.compile(encoder, backend="aot_eager", fullgraph=True)(images)
        exported = torch.export.export(encoder, (images,)).module()(images)
    for level in want:
        for maps in (compiled, exported):
            torch.testing.assert_close(maps[level], want[level], rtol=0, atol=1e-5)  # float32


# Bad input


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("swin_x", {}, "no Swin Transformer is called 'swin_x'; choose one of swin_t, swin_s, swin_b, swin_l"),
        ("swin_l", {"pretrained": True}, "no ImageNet weights of swin_l; pass pretrained=False or choose swin_b"),
        ("swin_t", {"pretrained": True, "window": 12}, "windows of 7, got window=12"),
        ("swin_t", {"window": 1}, "window must be at least 2 cells, got 1"),
        ("swin_t", {"in_channels": 0}, "in_channels must be at least 1, got 0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        swin_encoder(name, **arguments)
