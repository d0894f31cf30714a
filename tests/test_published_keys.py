"""Every entry of the zoo at its full size, on the meta device: names and shapes are those of what was published."""

import functools
import json

import pytest
import torch
from golden import FOLDER
from nnunet_reference import nnunet
from safetensors import safe_open
from test_stored_weights import WEIGHTS
from torchvision import models as tv
from torchvision.models import detection, segmentation

from seglib.models.zoo import MODELS, SHORT_NAMES, build, find
from seglib.weights import convert
from seglib.weights.convert import NNUNET, ORIGINS

NONE = {"weights": None, "weights_backbone": None}
NORMALIZE = {"normalize.mean": (3,), "normalize.std": (3,)}


@functools.cache
def on_meta(make, **arguments):
    """A model without memory: names and shapes cost nothing."""
    with torch.device("meta"):
        return make(**arguments)


def shapes(state):
    return {name: tuple(value.shape) for name, value in state.items()}


def zoo(name, **arguments):
    """The shapes of an entry of the zoo."""
    return shapes(on_meta(build, name=name, **arguments).state_dict())


# What each origin publishes, as a state dict under its own names.


def torchvision_segmentation(name):
    return on_meta(getattr(segmentation, name), num_classes=21, aux_loss=True, **NONE).state_dict()


def torchvision_detection(name):
    return on_meta(getattr(detection, name), num_classes=91, **NONE).state_dict()


def smp(model, encoder):
    library = pytest.importorskip("segmentation_models_pytorch")
    return on_meta(getattr(library, model), encoder_name=encoder, encoder_weights=None, classes=5).state_dict()


def detectron2(blocks_of_res4, fixture="mask_rcnn_r50_fpn_3x"):
    """The checkpoint of ResNet-50, whose deeper brothers repeat the last block of res4."""
    if not FOLDER.is_dir():
        pytest.skip("the golden fixtures (../shared/golden) are not here")
    keys = json.loads((FOLDER / f"{fixture}.json").read_text())["keys"]
    last = "backbone.bottom_up.res4.5."
    for block in range(6, blocks_of_res4):
        keys |= {k.replace(last, last.replace("5.", f"{block}.")): v for k, v in keys.items() if k.startswith(last)}
    return {name: torch.empty(shape, device="meta") for name, (shape, _) in keys.items()}


CLASSES = {"panoptic": 133, "instance": 80, "semantic": 150}  # of COCO, COCO, ADE20K


def mask2former(backbone, task, *, blocks=6, channels=96, window=7):
    """The checkpoint of ResNet-50 or Swin-T, whose larger brothers repeat a block and are wider."""
    if not FOLDER.is_dir():
        pytest.skip("the golden fixtures (../shared/golden) are not here")
    keys = json.loads((FOLDER / f"mask2former_{backbone}_coco_panoptic.json").read_text())["keys"]
    last = "backbone.res4.5." if backbone == "r50" else "backbone.layers.2.blocks.5."
    for block in range(6, blocks):
        keys |= {k.replace(last, last.replace("5.", f"{block}.")): v for k, v in keys.items() if k.startswith(last)}
    state = {}
    for name, (shape, _) in keys.items():
        if "class_embed" in name:
            shape = [CLASSES[task] + 1, *shape[1:]]
        elif name.endswith("bias_table"):
            shape = [(2 * window - 1) ** 2, shape[1] * channels // 96]
        elif any(part in name for part in ("backbone.", "input_proj", "adapter_1")):
            shape = [n * channels // 96 if n % 96 == 0 else n for n in shape]  # the heads have 256 channels
        state[name] = torch.empty(shape, device="meta")
    return state


SWINS = {  # channels of the first stage, blocks of the third, side of a window
    "tiny": (96, 6, 7),
    "small": (96, 18, 7),
    "base": (128, 18, 12),
    "large": (192, 18, 12),
}


def transformers(backbone, task):
    """What Transformers builds for ``facebook/mask2former-swin-*``, or on a ResNet-50."""
    library = pytest.importorskip("transformers")
    maps = [f"stage{i}" for i in (1, 2, 3, 4)]
    if backbone == "resnet50":
        config = library.ResNetConfig(out_features=maps)
    else:
        channels, blocks, window = SWINS[backbone]
        heads = [channels // 32 * 2**i for i in range(4)]
        config = library.SwinConfig(
            embed_dim=channels, depths=[2, 2, blocks, 2], num_heads=heads, window_size=window, out_features=maps
        )
    config = library.Mask2FormerConfig(backbone_config=config, num_labels=CLASSES[task])
    with torch.device("meta"):
        return library.Mask2FormerForUniversalSegmentation(config).state_dict()


SAMS = {"b": (768, 12, 12, 3), "l": (1024, 24, 16, 6), "h": (1280, 32, 16, 8)}
"""Of each size of SAM's ViT: channels, blocks, heads, and every how many blocks one attends over the whole map."""


def sam(size):
    """The checkpoint of ViT-B, whose larger brothers have more and wider blocks."""
    if not FOLDER.is_dir():
        pytest.skip("the golden fixtures (../shared/golden) are not here")
    keys = json.loads((FOLDER / "sam_vit_b.json").read_text())["keys"]
    width, depth, heads, every = SAMS[size]
    state = {}
    for name, (shape, _) in keys.items():
        if name.startswith("image_encoder.") and name != "image_encoder.neck.2.weight":
            shape = [n * width // 768 if n % 768 == 0 else n for n in shape]
        if ".blocks." not in name:
            state[name] = torch.empty(shape, device="meta")
        elif ".blocks.0." in name:
            for block in range(depth):
                if ".rel_pos_" in name:
                    shape = [127 if (block + 1) % every == 0 else 27, width // heads]
                state[name.replace(".0.", f".{block}.", 1)] = torch.empty(shape, device="meta")
    return state


def transformers_sam(size):
    """What Transformers builds for ``facebook/sam-vit-base``, -large and -huge."""
    library = pytest.importorskip("transformers")
    width, depth, heads, every = SAMS[size]
    vision = library.SamVisionConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, mlp_dim=4 * width,
        global_attn_indexes=list(range(every - 1, depth, every)),
    )  # fmt: skip
    return on_meta(lambda: library.SamModel(library.SamConfig(vision_config=vision))).state_dict()


def yolact(blocks_of_layer3):
    """The checkpoint of ResNet-50, whose deeper brother repeats the last block of its third stage."""
    if not FOLDER.is_dir():
        pytest.skip("the golden fixtures (../shared/golden) are not here")
    keys = json.loads((FOLDER / "yolact_resnet50.json").read_text())["keys"]
    last = "backbone.layers.2.5."
    for block in range(6, blocks_of_layer3):
        keys |= {k.replace(last, f"backbone.layers.2.{block}."): v for k, v in keys.items() if k.startswith(last)}
    return {name: torch.empty(shape, device="meta") for name, (shape, _) in keys.items()}


def dynunet():
    """MONAI's network with the zoo's defaults."""
    nets = pytest.importorskip("monai.networks.nets")
    strides = [(2, 2, 2)] * 4
    return on_meta(
        lambda: nets.DynUNet(
            3, 1, 5, [(3, 3, 3)] * 5, [(1, 1, 1), *strides], strides, [32, 64, 128, 256, 320], deep_supervision=True,
            deep_supr_num=2,
        )
    ).state_dict()  # fmt: skip


def nnunet_network(name, **blocks):
    """The network of nnU-Net's plan for patches of 128³ voxels of 1 mm: the zoo's defaults."""
    architectures = nnunet("dynamic_network_architectures.architectures.unet")
    return on_meta(
        lambda: getattr(architectures, name)(
            1, 6, [32, 64, 128, 256, 320, 320], torch.nn.Conv3d, 3, [1, 2, 2, 2, 2, 2], num_classes=3, conv_bias=True,
            norm_op=torch.nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=torch.nn.LeakyReLU,
            deep_supervision=True, **blocks,
        )
    ).state_dict()  # fmt: skip


def plain_conv_unet():
    return nnunet_network("PlainConvUNet", n_conv_per_stage=2, n_conv_per_stage_decoder=2)


def residual_encoder_unet():
    return nnunet_network("ResidualEncoderUNet", n_blocks_per_stage=[1, 3, 4, 6, 6, 6], n_conv_per_stage_decoder=1)


PUBLISHED = {
    "torchvision:fcn_resnet50": lambda: torchvision_segmentation("fcn_resnet50"),
    "torchvision:fcn_resnet101": lambda: torchvision_segmentation("fcn_resnet101"),
    "torchvision:deeplabv3_resnet50": lambda: torchvision_segmentation("deeplabv3_resnet50"),
    "torchvision:deeplabv3_resnet101": lambda: torchvision_segmentation("deeplabv3_resnet101"),
    "smp:unet_resnet34": lambda: smp("Unet", "resnet34"),
    "smp:unet_resnet50": lambda: smp("Unet", "resnet50"),
    "smp:deeplabv3plus_resnet34": lambda: smp("DeepLabV3Plus", "resnet34"),
    "smp:deeplabv3plus_resnet50": lambda: smp("DeepLabV3Plus", "resnet50"),
    "smp:deeplabv3plus_resnet101": lambda: smp("DeepLabV3Plus", "resnet101"),
    "torchvision:mask_rcnn_resnet50_fpn": lambda: torchvision_detection("maskrcnn_resnet50_fpn"),
    "torchvision:mask_rcnn_resnet50_fpn_v2": lambda: torchvision_detection("maskrcnn_resnet50_fpn_v2"),
    "detectron2:mask_rcnn_R_50_FPN": lambda: detectron2(6),
    "detectron2:mask_rcnn_R_101_FPN": lambda: detectron2(23),
    "detectron2:panoptic_fpn_R_50": lambda: detectron2(6, "panoptic_fpn_r50_3x"),
    "detectron2:panoptic_fpn_R_101": lambda: detectron2(23, "panoptic_fpn_r50_3x"),
    "yolact:yolact_resnet50": lambda: yolact(6),
    "yolact:yolact_base": lambda: yolact(23),
    "adelaidet:solov2_R_50": lambda: detectron2(6, "solov2_r50"),
    "adelaidet:solov2_R_101": lambda: detectron2(23, "solov2_r50"),
    "adelaidet:condinst_R_50": lambda: detectron2(6, "condinst_r50"),
    "adelaidet:condinst_R_101": lambda: detectron2(23, "condinst_r50"),
    "monai:dynunet": dynunet,
    NNUNET: plain_conv_unet,
    **{f"sam:vit_{size}": functools.partial(sam, size) for size in SAMS},
    **{f"transformers:sam_vit_{size}": functools.partial(transformers_sam, size) for size in SAMS},
}
for task in CLASSES:
    PUBLISHED |= {
        f"mask2former:R50_{task}": functools.partial(mask2former, "r50", task),
        f"mask2former:R101_{task}": functools.partial(mask2former, "r50", task, blocks=23),
        f"transformers:mask2former_resnet50_{task}": functools.partial(transformers, "resnet50", task),
    }
    for size, (channels, blocks, window) in SWINS.items():
        PUBLISHED |= {
            f"mask2former:swin_{size}_{task}": functools.partial(
                mask2former, "swin_tiny", task, blocks=blocks, channels=channels, window=window
            ),
            f"transformers:mask2former_swin_{size}_{task}": functools.partial(transformers, size, task),
        }


SLOW = "transformers:"  # its import takes seconds


@pytest.mark.parametrize(
    "origin", [pytest.param(o, marks=[pytest.mark.slow] if o.startswith(SLOW) else []) for o in ORIGINS]
)
def test_published_names_and_shapes_are_those_of_the_zoo(origin):
    name, state, metadata = convert(origin, PUBLISHED[origin]())
    assert shapes(state) == zoo(name, **metadata["arguments"])


# What nobody published: encoders are torchvision's, heads are written out from the papers.


def encoder_of(name, **arguments):
    prefix = "encoder."
    return {k.removeprefix(prefix): v for k, v in zoo(name, **arguments).items() if k.startswith(prefix)}


def heads_of(name, **arguments):
    return {k: v for k, v in zoo(name, **arguments).items() if not k.startswith("encoder.")}


def upsample(level, kernel):
    return {f"upsample.{level}.weight": (21, 21, kernel, kernel)}


def score(level, channels):
    return {f"score.{level}.weight": (21, channels, 1, 1), f"score.{level}.bias": (21,)}


VGG_SCORES = {"fcn32s": {"c5": 4096}, "fcn16s": {"c5": 4096, "c4": 512}, "fcn8s": {"c5": 4096, "c4": 512, "c3": 256}}
VGG_KERNELS = {  # twice the factor (Long et al. 2015, section 4.2, and their published prototxt files)
    "fcn32s": {"image": 64},
    "fcn16s": {"c4": 4, "image": 32},
    "fcn8s": {"c4": 4, "c3": 4, "image": 16},
}


@pytest.mark.parametrize("name", VGG_SCORES)
def test_the_papers_fcns_are_torchvisions_vgg_16_with_score_layers(name):
    vgg = on_meta(tv.vgg16).state_dict()
    own = encoder_of(name, num_classes=21)
    features = [v for k, v in shapes(vgg).items() if k.startswith("features.")]
    assert [v for k, v in own.items() if k.startswith("to_pool")] == features
    for conv, linear, shape in (("fc6", 0, (4096, 512, 7, 7)), ("fc7", 3, (4096, 4096, 1, 1))):
        assert own[f"{conv}.weight"] == shape
        assert torch.Size(shape).numel() == vgg[f"classifier.{linear}.weight"].numel()
        assert own[f"{conv}.bias"] == tuple(vgg[f"classifier.{linear}.bias"].shape)
    assert len(own) == len(features) + 4
    scores = [score(level, channels) for level, channels in VGG_SCORES[name].items()]
    kernels = [upsample(level, kernel) for level, kernel in VGG_KERNELS[name].items()]
    assert heads_of(name, num_classes=21) == functools.reduce(dict.__or__, scores + kernels, NORMALIZE)


def resnet(name):
    """torchvision's ResNet without its classifier."""
    return {k: v for k, v in shapes(on_meta(getattr(tv, name)).state_dict()).items() if not k.startswith("fc.")}


def test_fcn_resnet18_is_torchvisions_resnet_18_with_score_layers():
    assert encoder_of("fcn_resnet18", num_classes=21) == resnet("resnet18")
    scores = score("c5", 512) | score("c4", 256) | score("c3", 128)
    kernels = upsample("c4", 3) | upsample("c3", 3) | upsample("image", 15)  # odd: its cells lie on pixels
    assert heads_of("fcn_resnet18", num_classes=21) == NORMALIZE | scores | kernels


@pytest.mark.parametrize("depth", [34, 50, 101])
def test_deeplabv3plus_in_the_papers_layout_has_its_decoder(depth):
    own = zoo(f"deeplabv3plus_resnet{depth}", num_classes=21)
    assert encoder_of(f"deeplabv3plus_resnet{depth}", num_classes=21) == resnet(f"resnet{depth}")
    # DeepLab v3+ (2018), section 4.1: 48 channels of low-level features, then two 3×3 convolutions of 256
    assert own["low.0.weight"] == (48, 64 if depth == 34 else 256, 1, 1)
    pointwise = [v for k, v in own.items() if k.startswith("decoder.") and v[2:] == (1, 1)]
    assert pointwise == [(256, 304, 1, 1), (256, 256, 1, 1)]
    assert own["score.weight"] == (21, 256, 1, 1)


def test_mask_rcnn_on_resnet_101_differs_from_resnet_50_by_its_encoder_alone():
    assert heads_of("mask_rcnn_resnet101_fpn", num_classes=80) == heads_of("mask_rcnn_resnet50_fpn", num_classes=80)
    assert encoder_of("mask_rcnn_resnet101_fpn", num_classes=80) == resnet("resnet101")


def test_the_papers_unet_has_its_convolutions():
    """Figure 1 of the paper: 23 convolutional layers, with these channels."""
    own = zoo("unet_paper", num_classes=2, in_channels=1)
    weights = [v for k, v in own.items() if k.endswith("weight")]
    assert len(weights) == 23
    widths = [1, 64, 128, 256, 512, 1024]
    down = [s for a, b in zip(widths[:-1], widths[1:], strict=True) for s in ((b, a, 3, 3), (b, b, 3, 3))]
    up = [(2 * w, w, 2, 2) for w in (512, 256, 128, 64)]
    merge = [s for w in (512, 256, 128, 64) for s in ((w, 2 * w, 3, 3), (w, w, 3, 3))]
    assert weights == [*down, *up, *merge, (2, 64, 1, 1)]


def test_the_papers_3d_unet_has_its_convolutions():
    """Figure 2 of the paper: 18 convolutional layers, with these channels; norms besides them."""
    own = zoo("unet3d_paper", num_classes=3, in_channels=3)
    weights = [v for k, v in own.items() if k.endswith("weight") and len(v) == 5]
    down = [(32, 3), (64, 32), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (512, 256)]
    up = [(512, 512), (256, 256), (128, 128)]
    merge = [(256, 256 + 512), (256, 256), (128, 128 + 256), (128, 128), (64, 64 + 128), (64, 64)]
    expected = [(*s, 3, 3, 3) for s in down] + [(*s, 2, 2, 2) for s in up] + [(*s, 3, 3, 3) for s in merge]
    assert weights == [*expected, (3, 64, 1, 1, 1)]


def test_unet3d_tiny_differs_from_unet3d_by_widths_and_kernels_alone():
    own, full = zoo("unet3d_tiny", num_classes=4), zoo("unet3d", num_classes=4, widths=(12, 24, 48, 64), aux_outputs=1)
    assert list(own) == list(full)
    assert {k for k in own if own[k] != full[k]} == {"encoder.0.0.weight", "encoder.0.3.weight", "decoder.2.0.weight",
        "decoder.2.3.weight", "up.2.weight"}  # fmt: skip


@pytest.mark.parametrize("network", [plain_conv_unet, residual_encoder_unet])
def test_nnunet_without_a_plan_is_that_of_cubes_of_1_mm(network):
    _, state, metadata = convert(NNUNET, network())
    assert shapes(state) == zoo("nnunet", num_classes=3, residual=metadata["arguments"]["residual"])


def test_nnunet_tiny_is_unet3d_tiny_with_biases():
    """Both have four levels, the first with kernels in the plane; scores have biases in both."""
    own = zoo("nnunet_tiny", num_classes=4)
    other = zoo("unet3d_tiny", num_classes=4, widths=(12, 24, 48, 96), aux_outputs=2)
    convs = {k for k, v in own.items() if len(v) == 5 and "score" not in k}
    assert own.keys() - other.keys() == {k.replace("weight", "bias") for k in convs}
    assert {k: v for k, v in own.items() if k in other} == other


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*.safetensors")), ids=lambda p: p.stem)
def test_stored_weights_are_those_of_the_tiny_entries(path):
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["seglib"])
        stored = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (no mapping)
    assert stored == zoo(facts["model"], **facts["arguments"])


def test_all_tiny_systems_have_one_encoder():
    names = ("fcn_tiny", "unet_tiny", "mask_rcnn_tiny", "yolact_tiny", "condinst_tiny")
    encoders = [encoder_of(n, num_classes=5) for n in names]
    assert all(e == encoders[0] for e in encoders)
    # without its last strides it has the same weights, and a kernel that no longer strides needs no other shape
    assert encoder_of("deeplab_tiny", num_classes=5) == encoders[0]


def test_panoptic_fpn_tiny_is_mask_rcnn_tiny_with_a_semantic_branch():
    own = zoo("panoptic_fpn_tiny", num_things=7, num_stuff=5)
    branch = {k: v for k, v in own.items() if k.startswith("semantic_head.")}
    assert {k: v for k, v in own.items() if k not in branch} == zoo("mask_rcnn_tiny", num_classes=7)
    convs = [v for v in branch.values() if len(v) == 4]
    # one convolution for the finest level, one for each doubling of the others, and the scores
    assert convs == [
        (32, 48, 3, 3),
        *[s for n in range(4) for s in ((32, 48, 3, 3), *[(32, 32, 3, 3)] * n)],
        (6, 32, 1, 1),
    ]


def test_sam_tiny_is_sam_with_the_tiny_encoder_and_fewer_channels():
    own, full = zoo("sam_tiny"), zoo("sam_vit_b")
    assert encoder_of("sam_tiny") == encoder_of("fcn_tiny", num_classes=5)
    channels = {256: 64, 128: 32, 64: 16, 32: 16, 2048: 256}  # 32 features of a mask, not 8 but 16
    heads = {
        name: tuple(channels.get(n, n) for n in shape)
        for name, shape in full.items()
        if name.startswith(("prompt_encoder.", "mask_decoder."))
    }
    assert {k: v for k, v in own.items() if not k.startswith(("encoder.", "neck."))} == heads | NORMALIZE


def test_every_entry_is_compared_with_something():
    published = {origin.builder for origin in ORIGINS.values()}
    by_hand = {
        *VGG_SCORES,
        "fcn_resnet18",
        "unet_paper",
        "fcn_tiny",
        "unet_tiny",
        "deeplab_tiny",
        "mask_rcnn_tiny",
        "yolact_tiny",
        "solov2_tiny",
        "condinst_tiny",
        "panoptic_fpn_tiny",
        "mask2former_tiny",
        "unet3d_tiny",
        "unet3d_paper",
        "nnunet_tiny",
        "sam_tiny",
    }
    builders = {find(n).builder() for n in published | by_hand}
    assert {find(n).builder() for n in MODELS if n not in SHORT_NAMES} == builders  # these build the same models


# Full-size dense models compute on the meta device, too, where only shapes flow.


@pytest.mark.parametrize("name", [n for n, entry in MODELS.items() if "regions" in entry.tasks])
def test_dense_entries_take_images_of_any_channels_and_regions_that_overlap(name):
    for channels in (1, 4):
        model = on_meta(build, name=name, num_classes=1, in_channels=channels, overlapping=True)
        assert model.overlapping and model.normalize.mean.shape == (channels,)
        with torch.device("meta"):
            assert model.eval()(torch.empty(2, channels, 65, 87)).logits.shape == (2, 1, 65, 87)
