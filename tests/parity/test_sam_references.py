"""SAM computes what the official code computed, stage by stage, and what Transformers' SamModel and SamPredictor do."""

import functools
import re
import sys
import zlib

import numpy as np
import pytest
import torch
from golden import FOLDER, converted
from PIL import Image
from torch import nn

from seglib.layers.mask_decoder import MaskDecoder
from seglib.layers.vit import ImageEncoderViT
from seglib.models.sam import Sam
from seglib.postprocess.everything import EverythingSettings, segment_everything
from seglib.postprocess.prompt import Predictor, restore_logits
from seglib.types import Prompts
from seglib.weights.load import read_checkpoint
from seglib.weights.sam import POSITIONS, POSITIONS_AGAIN, convert_sam, convert_transformers

# The golden fixture: ViT-B at 1024 pixels. Its image is encoded once for all tests.

golden_test = pytest.mark.slow


@functools.cache
def setup():
    return converted("sam_vit_b", "sam:vit_b")


@functools.cache
def image():
    """The fixture's image, uint8 ``(3, 768, 1024)``."""
    golden, _ = setup()
    sys.path.insert(0, str(FOLDER))
    try:
        from weights import make_image
    finally:
        sys.path.remove(str(FOLDER))
    pixels = make_image(*golden.meta["image"]["encoder"]["make_image"])
    assert zlib.crc32(np.ascontiguousarray(pixels).tobytes()) == golden.meta["image"]["encoder"]["crc32"]
    return torch.from_numpy(pixels)


@functools.cache
def encoded():
    """The embedding, and what the parts of the encoder gave on the way."""
    _, model = setup()
    encoder, seen = model.encoder, {}
    parts = {
        "patch_embed": encoder.embed,
        **{f"block{i}": block for i, block in enumerate(encoder.blocks)},
        "neck_first_norm": encoder.neck[1],
    }
    hooks = [p.register_forward_hook(lambda _, __, out, key=k: seen.update({key: out})) for k, p in parts.items()]
    with torch.no_grad():
        embedding = model.encode(image()[None].float() / 255)
    for hook in hooks:
        hook.remove()
    return embedding, seen


def prompts_of(case):
    """A stored case; its mask, which two share, is stored with the first of them."""
    golden, _ = setup()
    stored = {k.split("/")[1] for k in golden.meta["arrays"] if k.startswith(f"{case}/")}
    points = golden[f"{case}/points"] if "points" in stored else None
    labels = golden[f"{case}/labels"].long() if "points" in stored else None
    boxes = golden[f"{case}/boxes"] if "boxes" in stored else None
    masks = golden["prompt_mask/mask_input"][:, 0].float() / 8 if case.endswith("mask") else None
    return Prompts(points, labels, boxes, masks)


@golden_test
def test_every_stage_of_the_encoder():
    golden, model = setup()
    embedding, seen = encoded()
    golden.check("encoder/patch_embed", seen["patch_embed"].permute(0, 2, 3, 1))
    for block in (0, 1, 2, 3, 5, 8, 11):
        golden.check(f"encoder/block{block}", seen[f"block{block}"])
    golden.check("encoder/neck_first_norm", seen["neck_first_norm"])
    golden.check("encoder/image_embedding", embedding)
    golden.check("encoder/dense_pe", model.prompt_encoder.positions()[None])


CASES = ["one_point", "points", "point_batch", "box", "box_batch_and_points", "mask", "point_and_mask", "nothing"]


@golden_test
@pytest.mark.parametrize("case", [f"prompt_{name}" for name in CASES])
def test_every_case_of_prompts(case):
    golden, model = setup()
    prompts = prompts_of(case)
    with torch.no_grad():
        tokens, dense = model.prompt_encoder(prompts)
        out = model.decode(encoded()[0], prompts)
    golden.check(f"{case}/sparse", tokens)
    golden.check(f"{case}/dense", dense.expand(len(prompts), -1, -1, -1))
    golden.check(f"{case}/all_masks", out.logits)
    golden.check(f"{case}/all_iou", out.iou)


@golden_test
def test_masks_at_the_original_size():
    golden, model = setup()
    with torch.no_grad():
        out = model.decode(encoded()[0], prompts_of("prompt_point_batch"))
    size, original = tuple(image().shape[1:]), tuple(golden.meta["original_size"]["forward"])
    for key, answer in (("multi", out.several), ("single", out.single)):
        golden.check(f"forward/{key}.low_res", answer.logits)
        golden.check(f"forward/{key}.iou", answer.iou)
        restored = restore_logits(answer.logits[:2], size, original, 1024)
        golden.check(f"forward/{key}.masks", restored > 0)
    with torch.no_grad():
        logits = model.decode(encoded()[0], prompts_of("prompt_one_point")).logits
    golden.check("forward/postprocessed", restore_logits(logits, size, original, 1024))


@golden_test
def test_everything_mode(monkeypatch):
    golden, model = setup()
    monkeypatch.setattr(model, "encode", lambda images: encoded()[0])
    stored = golden.meta["settings"]["amg"]
    settings = EverythingSettings(
        points_per_side=stored["points_per_side"],
        iou_threshold=stored["pred_iou_thresh"],
        stability_threshold=0,  # the stored results are those of the other threshold alone
        box_nms=stored["box_nms_thresh"],
    )
    found, results = segment_everything(model, image(), settings), golden.meta["results"]["amg"]
    assert found.points.tolist() == [r["point_coords"][0] for r in results]
    for mine, key, tolerance in (
        (found.instances.scores, "predicted_iou", 1e-4),
        (found.stability, "stability_score", 1e-4),
        # logits differ by 1e-6 of the largest, which moves a pixel of 786 432 now and then
        (found.instances.masks.flatten(1).sum(1), "area", 40),
    ):
        want = torch.tensor([r[key] for r in results])
        torch.testing.assert_close(mine, want, rtol=0, atol=tolerance, check_dtype=False)
    samples = found.instances.masks.flatten(1)[:, golden["amg/sample_index"].long()]
    golden.check("amg/mask_samples", samples)


# Small models with random weights, through the converters: every part by every name.

SIDE = 128  # pixels; 8 × 8 tokens, and masks of 32 × 32


def small():
    """Windows of 3 × 3 tokens, which don't fill the map, and one global block."""
    encoder = ImageEncoderViT(SIDE, width=24, depth=3, heads=2, global_blocks=(1,), window=3, channels=32)
    return Sam(encoder, 32, image_size=SIDE, decoder=MaskDecoder(32, heads=2, hidden=24))


TABLE = re.compile(r".*(pos_embed|rel_pos_[hw]|embed\w*(\.\d)?\.weight|tokens?\.weight)")


def random_weights(model):
    """Give every parameter a value that matters; the relative positions and some others would start at about 0."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 1:
                value.copy_(0.1 * torch.randn_like(value) + name.endswith("weight"))  # a norm, or a bias
            else:
                value.copy_(torch.randn_like(value) * (1 if TABLE.fullmatch(name) else value[0].numel() ** -0.5))


def loaded(state, convert):
    model = small()
    state, facts = convert(state)
    assert facts["arguments"] == {"image_size": SIDE} and facts["geometry"]["mode"] == "letterbox"
    model.load_state_dict(state)
    return model.eval()


PROMPTS = {  # in pixels of an image of 100 × 150
    "a click": {"points": [[60, 40]], "labels": [1]},
    "clicks": {"points": [[60, 40], [10.5, 99], [149, 0]], "labels": [1, 0, 1]},
    "clicks of two prompts": {"points": [[[60, 40], [5, 6]], [[0, 0], [99, 50]]], "labels": [[1, 0], [1, 1]]},
    "a box": {"boxes": [20, 10, 90.5, 100]},
    "boxes": {"boxes": [[20, 10, 90, 80], [0, 0, 150, 100], [5, 50, 6, 51]]},
    "boxes and clicks": {
        "boxes": [[20, 10, 90, 80], [0, 0, 150, 100]],
        "points": [[[60, 40]], [[5, 6]]],
        "labels": [[1], [0]],
    },
    "a mask": {"masks": True},
    "a click and a mask": {"points": [[60, 40]], "labels": [1], "masks": True},
    "a box and a mask": {"boxes": [20, 10, 90, 80], "masks": True},
}
each_prompt = pytest.mark.parametrize("prompt", PROMPTS)


@functools.cache
def photo():
    """uint8 ``(3, 100, 150)``."""
    coarse = torch.rand(1, 3, 10, 15, generator=torch.Generator().manual_seed(1))
    return (255 * nn.functional.interpolate(coarse, (100, 150), mode="bilinear")[0]).to(torch.uint8)


def parts_of(prompt):
    """The prompt's points, labels, boxes and mask as tensors with the axis of prompts, ``None`` where it has none."""
    given = PROMPTS[prompt]
    points, labels, boxes = (given.get(k) for k in ("points", "labels", "boxes"))
    points, boxes = (None if x is None else torch.tensor(x, dtype=torch.float32) for x in (points, boxes))
    labels = None if labels is None else torch.tensor(labels)
    points = points[None] if points is not None and points.ndim == 2 else points
    labels = labels[None] if labels is not None and labels.ndim == 1 else labels
    boxes = boxes[None] if boxes is not None and boxes.ndim == 1 else boxes
    mask = 5 * torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(2)) if "masks" in given else None
    return points, labels, boxes, mask


def asked(model, prompt, several):
    """Our predictor, and its answer."""
    predictor = Predictor(model)
    predictor.set_image(photo())
    points, labels, boxes, masks = parts_of(prompt)
    return predictor, predictor.predict(points=points, labels=labels, boxes=boxes, masks=masks, several=several)


@functools.cache
def official():
    """A small model of segment_anything, and ours with its weights."""
    library = pytest.importorskip("segment_anything")
    parts = library.modeling
    torch.manual_seed(6)
    reference = parts.Sam(
        parts.ImageEncoderViT(
            img_size=SIDE, embed_dim=24, depth=3, num_heads=2, out_chans=32, use_rel_pos=True, window_size=3,
            global_attn_indexes=(1,), norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
        ),
        parts.PromptEncoder(32, (SIDE // 16, SIDE // 16), (SIDE, SIDE), 16),
        parts.MaskDecoder(
            transformer_dim=32, transformer=parts.TwoWayTransformer(2, 32, 2, 24), iou_head_hidden_dim=32
        ),
    ).eval()  # fmt: skip
    random_weights(reference)
    return reference, loaded(reference.state_dict(), convert_sam)


@each_prompt
@pytest.mark.parametrize("several", [True, False], ids=["several", "single"])
def test_answers_are_those_of_segment_anything(prompt, several):
    reference, model = official()
    other = sys.modules["segment_anything"].SamPredictor(reference)
    other.set_image(photo().permute(1, 2, 0).numpy())
    points, labels, boxes, masks = parts_of(prompt)
    resized = other.transform
    found = other.predict_torch(
        None if points is None else resized.apply_coords_torch(points, (100, 150)),
        labels,
        None if boxes is None else resized.apply_boxes_torch(boxes, (100, 150)),
        None if masks is None else masks[:, None],
        multimask_output=several,
    )
    predictor, answer = asked(model, prompt, several)
    torch.testing.assert_close(predictor.embedding, other.get_image_embedding(), rtol=0, atol=1e-4)
    for mine, wanted in zip((answer.masks, answer.iou, answer.logits), found, strict=True):
        if mine.dtype == torch.bool:
            assert torch.equal(mine, wanted)
        else:
            torch.testing.assert_close(mine, wanted, rtol=0, atol=2e-5 * float(wanted.abs().max()))  # measured: 1e-6
    assert 0.2 < answer.masks.float().mean() < 0.8  # masks of nothing or everything would be equal easily


@functools.cache
def transformers():
    """A small SamModel of Transformers, and ours with its weights."""
    library = pytest.importorskip("transformers")
    sizes = {"image_size": SIDE, "hidden_size": 32}
    config = library.SamConfig(
        vision_config=library.SamVisionConfig(
            hidden_size=24, output_channels=32, num_hidden_layers=3, num_attention_heads=2, image_size=SIDE,
            window_size=3, global_attn_indexes=[1], num_pos_feats=16, mlp_dim=96,
        ),
        prompt_encoder_config=library.SamPromptEncoderConfig(**sizes),
        mask_decoder_config=library.SamMaskDecoderConfig(
            hidden_size=32, mlp_dim=24, num_attention_heads=2, iou_head_hidden_dim=32, layer_norm_eps=1e-5
        ),  # the norms of the official decoder have 1e-5, too; Transformers' have 1e-6 when nothing is said
    )  # fmt: skip
    torch.manual_seed(5)
    reference = library.SamModel(config).eval()
    random_weights(reference)
    return library, reference, loaded(reference.state_dict(), convert_transformers)


@each_prompt
@pytest.mark.parametrize("several", [True, False], ids=["several", "single"])
@pytest.mark.slow  # the import of Transformers takes seconds
def test_answers_are_those_of_transformers(prompt, several):
    library, reference, model = transformers()
    predictor, answer = asked(model, prompt, several)
    embedding = predictor.embedding
    height, width = seen = predictor.model_size
    pixels = torch.zeros(1, 3, SIDE, SIDE)  # as its processor pads: behind the normalisation
    resized = Image.fromarray(photo().permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.BILINEAR)
    pixels[..., :height, :width] = model.normalize(torch.tensor(np.asarray(resized)).permute(2, 0, 1)[None] / 255)
    scale = torch.tensor([width / 150, height / 100])
    points, labels, boxes, masks = parts_of(prompt)
    with torch.no_grad():
        torch.testing.assert_close(embedding, reference.get_image_embeddings(pixels), rtol=0, atol=1e-4)
        found = reference(
            image_embeddings=embedding,
            input_points=None if points is None else (points * scale)[None],
            input_labels=None if labels is None else labels[None],
            input_boxes=None if boxes is None else (boxes.unflatten(1, (2, 2)) * scale).flatten(1)[None],
            input_masks=None if masks is None else masks[:, None],
            multimask_output=several,
        )
    for mine, wanted in ((answer.logits, found.pred_masks[0]), (answer.iou, found.iou_scores[0])):
        torch.testing.assert_close(mine, wanted, rtol=0, atol=2e-5 * float(wanted.abs().max()))  # measured: 1e-6
    processor = library.SamImageProcessor(pad_size={"height": SIDE, "width": SIDE})
    restored = processor.post_process_masks(found.pred_masks, [(100, 150)], [seen])[0]
    assert torch.equal(answer.masks, restored) and 0.2 < restored.float().mean() < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("kept", [(POSITIONS,), (POSITIONS_AGAIN,), (POSITIONS, POSITIONS_AGAIN)], ids=len)
def test_a_file_of_transformers_converts_like_its_state_dict(kept, tmp_path):
    """It may hold the random directions, which two modules share, under one name or under both."""
    _, reference, model = transformers()
    reference.save_pretrained(tmp_path)
    state = read_checkpoint(tmp_path / "model.safetensors")
    matrix = next(state.pop(key) for key in (POSITIONS, POSITIONS_AGAIN) if key in state)
    state = {k: v for k, v in state.items() if k not in (POSITIONS, POSITIONS_AGAIN)} | dict.fromkeys(kept, matrix)
    converted_state = convert_transformers(state)[0]
    assert all(torch.equal(v, converted_state[k]) for k, v in model.state_dict().items())


def test_weights_of_something_else_are_refused():
    state = {k: v for k, v in setup()[0].state.items() if "point_embeddings.2" not in k}
    with pytest.raises(ValueError, match=r"lack prompt_encoder\.meaning\.2; convert a whole checkpoint"):
        convert_sam(state)
    with pytest.raises(ValueError, match=r"'backbone\.conv1\.weight' is unknown: these aren't the weights of SAM"):
        convert_sam({"backbone.conv1.weight": torch.zeros(1)})
