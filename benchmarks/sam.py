"""How fast SAM is, beside segment_anything and Transformers' SamModel with the same weights, in one run.

    python benchmarks/sam.py [encoder decoder everything] [--rounds 5] [--points-per-side 16] [--device cuda]
    python benchmarks/sam.py everything --checkpoint sam_vit_b_01ec64.pth --photo photo.jpg

- encoder: ViT-B on an image of 1024 × 1024 pixels: time and memory.
- decoder: 64 prompts of one click each about one embedded image, answered together.
- everything: everything mode on one photo, beside segment_anything's generator at the same settings. Without a photo it
  is a synthetic scene of 768 × 1024 pixels.

Without a checkpoint the weights are random and go through seglib's converter. Both sides must agree: the embedding, the
masks' logits and IoU, and the final masks. Random weights give masks of noise, whose boxes are all alike, so that no
mask is dropped for its box then; about the quarter of them with the highest predicted IoU is kept.

Both sides take turns. The ratio is seglib's time over the other's, per round; printed are its median and its quartiles,
below 1 where seglib is faster. Memory is how much one call raises the resident size of a fresh process that has the
model already; on a GPU what torch allocates during one call.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import segment_anything
import torch
import transformers
from _side_by_side import compare, cuda_peak, peak, print_peak
from PIL import Image
from segment_anything.modeling import ImageEncoderViT as OfficialEncoder
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor
from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamVisionConfig, SamVisionModel

from seglib.book.results import hardware
from seglib.data.scenes import make_scene
from seglib.layers.vit import ImageEncoderViT
from seglib.models.sam import Sam
from seglib.models.zoo import build
from seglib.ops.rle import decode_rle
from seglib.postprocess.everything import EverythingSettings, segment_everything
from seglib.types import Prompts
from seglib.weights import convert

REFERENCES = ("segment_anything", "Transformers")
PROMPTS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; all without any")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each side takes")
    parser.add_argument("--points-per-side", type=int, default=16, help="clicks along each side in everything mode")
    parser.add_argument("--checkpoint", help="official checkpoint of ViT-B, for everything mode")
    parser.add_argument("--photo", type=Path, help="photo for everything mode")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where the models run")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if options.peak:
        small, full = (partial(*encoder(options.peak, small=small)) for small in (True, False))
        return print_peak(small, full)
    print(f"{hardware()}; torch {torch.__version__}, transformers {transformers.__version__}; one thread; ViT-B")
    for part in options.parts or PARTS:
        PARTS[part](options)


# Models ---------------------------------------------------------------------------------------------------------------


def pair(name: str, device: str, checkpoint: str | None = None) -> tuple[Sam, Any]:
    """Ours and the reference's ViT-B with the same weights."""
    torch.manual_seed(0)
    if name == "segment_anything":
        reference, origin = segment_anything.sam_model_registry["vit_b"](checkpoint), "sam:vit_b"
    else:  # the norms of the official decoder have this eps
        decoder = SamMaskDecoderConfig(layer_norm_eps=1e-5)
        reference, origin = SamModel(SamConfig(mask_decoder_config=decoder)), "transformers:sam_vit_b"
    if checkpoint is None:
        randomise(reference)
    builder, state, metadata = convert(origin, reference.state_dict())
    ours = build(builder, **metadata["arguments"])
    ours.load_state_dict(state)
    assert isinstance(ours, Sam)
    return ours.eval().to(device), reference.eval().to(device)


TABLE = re.compile(r".*(pos_embed|rel_pos_[hw]|embed\w*(\.\d)?\.weight|tokens?\.weight)")


def randomise(model: nn.Module) -> None:
    """Give every parameter a value that matters; the relative positions and some others would start at about 0."""
    for name, value in model.named_parameters():
        if value.ndim == 1:
            value.copy_(0.1 * torch.randn_like(value) + name.endswith("weight"))  # a norm, or a bias
        else:
            value.copy_(torch.randn_like(value) * (1 if TABLE.fullmatch(name) else value[0].numel() ** -0.5))


def agree(name: str, ours: Tensor, reference: Tensor) -> None:
    """Stop unless both are the same up to rounding, of which TF32 on a GPU has more."""
    worst = float((ours - reference).abs().max() / reference.abs().max())
    if not worst <= (1e-4 if ours.device.type == "cpu" else 2e-2):
        raise SystemExit(f"{name} differs by {worst:.1e} of its largest value")


# Encoder --------------------------------------------------------------------------------------------------------------


def encoders(options: argparse.Namespace) -> None:
    """Time and memory of the image encoder."""
    header("image encoder at 1024 x 1024", options.rounds)
    memory = dict.fromkeys(("seglib", *REFERENCES), 0.0)
    if options.device == "cpu":
        memory = {side: peak(__file__, side) for side in memory}
    for name in REFERENCES:
        ours, reference = pair(name, options.device)
        images = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0)).to(options.device)
        encode = reference.get_image_embeddings if name == "Transformers" else reference.image_encoder
        other = partial(encode, images)
        mine = partial(ours.encoder, images)
        agree("the embedding", mine(), other())
        found = compare(mine, other, rounds=options.rounds, warmup=0, device=options.device)
        if options.device == "cuda":
            memory |= {"seglib": cuda_peak(mine), name: cuda_peak(other)}
        print(f"  {name:24} {found}   {memory['seglib']:6.0f} MB {memory[name]:6.0f} MB", flush=True)


def encoder(side: str, *, small: bool) -> tuple[nn.Module, Tensor]:
    """The encoder of one side and an image for it; a small one has all of its layers, too."""
    depth, size = (3, 256) if small else (12, 1024)
    blocks = [2, 5, 8, 11][: depth // 3]
    images = torch.randn(1, 3, size, size)
    if side == "seglib":
        return ImageEncoderViT(size, depth=depth, global_blocks=blocks).eval(), images
    if side == "Transformers":
        config = SamVisionConfig(num_hidden_layers=depth, global_attn_indexes=blocks, image_size=size)
        return SamVisionModel(config).eval(), images
    model = OfficialEncoder(img_size=size, depth=depth, use_rel_pos=True, window_size=14, global_attn_indexes=blocks)
    return model.eval(), images


# Decoder --------------------------------------------------------------------------------------------------------------


def decoder(options: argparse.Namespace) -> None:
    """Prompts that are answered in a second, prompt encoder and mask decoder together."""
    header(f"{PROMPTS} prompts of one click", options.rounds)
    g = torch.Generator().manual_seed(0)
    points = (1024 * torch.rand(PROMPTS, 1, 2, generator=g)).to(options.device)
    labels = torch.ones(PROMPTS, 1, dtype=torch.int64, device=options.device)
    embedding = torch.randn(1, 256, 64, 64, generator=g).to(options.device)
    for name in REFERENCES:
        ours, reference = pair(name, options.device)
        other = partial(official_answers, reference, embedding, points, labels)
        if name == "Transformers":
            other = partial(transformers_answers, reference, embedding, points, labels)
        mine = partial(ours.decode, embedding, Prompts(points, labels))
        answers, (logits, iou) = mine().several, other()
        agree("the masks", answers.logits, logits)
        agree("the predicted IoU", answers.iou, iou)
        found = compare(mine, other, rounds=options.rounds, warmup=0, device=options.device)
        rates = [1e3 * PROMPTS / t for t in (found.ours, found.reference)]
        print(f"  {name:24} {found}   {rates[0]:6.1f} a second {rates[1]:6.1f} a second", flush=True)


def official_answers(model: Any, embedding: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    tokens, dense = model.prompt_encoder(points=(points, labels), boxes=None, masks=None)
    return model.mask_decoder(
        image_embeddings=embedding,
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=tokens,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )


def transformers_answers(model: Any, embedding: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    found = model(image_embeddings=embedding, input_points=points[None], input_labels=labels[None])
    return found.pred_masks[0], found.iou_scores[0]


# Everything mode ------------------------------------------------------------------------------------------------------


def everything(options: argparse.Namespace) -> None:
    """Everything mode, from the pixels to run-length codes."""
    count = options.points_per_side
    header(f"everything mode, {count} x {count} clicks", options.rounds)
    ours, reference = pair("segment_anything", options.device, options.checkpoint)
    image = scene() if options.photo is None else pil_to_tensor(Image.open(options.photo).convert("RGB"))
    settings = EverythingSettings(points_per_side=count)
    if options.checkpoint is None:
        settings = EverythingSettings(points_per_side=count, iou_threshold=0, stability_threshold=0, box_nms=1)
        scores = segment_everything(ours, image, settings).instances.scores  # falling
        near = scores[len(scores) // 5 : len(scores) // 3]
        gap = int(near.diff().argmin())  # so wide that rounding moves no mask across
        settings = replace(settings, iou_threshold=float(near[gap : gap + 2].mean()))
    generator = segment_anything.SamAutomaticMaskGenerator(
        reference,
        points_per_side=count,
        pred_iou_thresh=settings.iou_threshold,
        stability_score_thresh=settings.stability_threshold,
        box_nms_thresh=settings.box_nms,
        output_mode="uncompressed_rle",
    )
    mine = partial(segment_everything, ours, image, settings)
    other: Callable[[], Any] = partial(generator.generate, image.permute(1, 2, 0).numpy())
    masks, wanted = mine().instances.masks, decode_rle([entry["segmentation"] for entry in other()])
    if masks.shape != wanted.shape or not len(masks):
        raise SystemExit(f"{len(masks)} masks were found, and {len(wanted)} by segment_anything")
    different = float((masks != wanted).float().mean())
    if different > 1e-5:
        raise SystemExit(f"{100 * different:.4f} % of the masks' pixels differ")
    found = compare(mine, other, rounds=options.rounds, warmup=0, device=options.device)
    print(f"  {'segment_anything':24} {found}   {len(masks)} masks, {100 * different:.4f} % of their pixels differ")


def scene() -> Tensor:
    """uint8 ``(3, 768, 1024)``."""
    image = make_scene(0, 0, size=(384, 512)).image  # (3, 384, 512)
    return (255 * F.interpolate(image[None], (768, 1024), mode="bilinear")[0]).round().byte()


def header(what: str, rounds: int) -> None:
    print(f"{what}, median of {rounds} rounds (quartiles of the ratio)")
    print(f"  {'beside':24} {'seglib':>11} {'reference':>11}   ratio")


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "encoder": encoders,
    "decoder": decoder,
    "everything": everything,
}

if __name__ == "__main__":
    main()
