"""What training starts from: weights that fit in part, and encoders as people have them on disk."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from seglib.layers.pretrained import repeat_input_channels
from seglib.layers.resnet import ResNetEncoder
from seglib.layers.swin import SwinEncoder, rename_torchvision_swin
from seglib.layers.timm_encoder import TimmEncoder
from seglib.layers.vgg import VGG16Encoder
from seglib.weights.load import mismatch, read_checkpoint, read_metadata, weights_file
from seglib.weights.mask2former_swin import SWIN_RULES
from seglib.weights.renaming import rename, unwrap

LEAST_SHARE = 0.5
"""Of the names behind an encoder, or the numbers of a model without one: with fewer, weights are of another model."""


def load_fitting(model: nn.Module, path: str | Path) -> list[str]:
    """Load of a weights file what fits a model, to train it further on other classes or under another head.

    A tensor fits when its name and shape are those of the model's. Batch norms fit frozen ones, and a first convolution
    on RGB that on another number of channels (:func:`~seglib.layers.pretrained.repeat_input_channels`).

    Args:
        model: the model. It is left as it was when an error is raised.
        path: a safetensors file of seglib's, or the folder of a run.

    Returns:
        The name of every tensor of the model that is left as it was, with the shapes that differ.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is a pickle or damaged, when its encoder is another one, when it has less than half of
            the tensors behind the encoder, in whatever shape, or of a model without encoder less than half fits.
    """
    metadata = read_metadata(path)  # which refuses pickles
    own = model.state_dict()
    state = read_checkpoint(path)
    plain = {_plain(key): value for key, value in state.items()}
    found = {key: value for key in own if (value := _fitted(plain.get(_plain(key)), own[key])) is not None}
    left = [key for key in own if key not in found and not _counts(key)]
    saved = f"it is for {metadata['model']!r}" if "model" in metadata else "it does not say which model it is for"
    problem = f"{path} does not fit this {type(model).__name__} ({saved}): "
    encoder = getattr(model, "encoder", None)
    if isinstance(encoder, nn.Module):
        if other := [key for key in left if key.startswith("encoder.")]:
            part = {k.removeprefix("encoder."): v for k, v in plain.items() if k.startswith("encoder.")}
            raise ValueError(
                f"{problem}its encoder is another one, {mismatch(encoder, part) or other[0]}; pass weights of a model "
                "with the same encoder"
            )
        _check_strides(encoder, metadata, path)
        heads = [key for key in own if not key.startswith(("encoder.", "normalize.")) and not _counts(key)]
        if sum(_plain(key) in plain for key in heads) < LEAST_SHARE * len(heads):
            raise ValueError(f"{problem}little fits but its encoder; pass it as --encoder (load_encoder in Python)")
    elif sum(own[key].numel() for key in found) < LEAST_SHARE * sum(value.numel() for value in own.values()):
        raise ValueError(f"{problem}{mismatch(model, state)}; pass weights of the same model")
    model.load_state_dict(own | found)
    return [f"{key} {_shapes(plain.get(_plain(key)), own[key])}" for key in left]


def load_encoder(model: nn.Module, path: str | Path) -> None:
    """Start a model's ``encoder`` from one on disk, whatever is built on top of it.

    The file may be seglib's, of any model with the same encoder, whether its batch norms are frozen or not; the mean
    and standard deviation of its images come along. Or it is one of torchvision or timm: a classifier's, or a
    segmentation model's, of a ResNet, VGG-16 or Swin Transformer, as safetensors or as ``torch.save`` wrote it, which
    is read with ``weights_only=True``. Of RGB weights the first convolution is made to fit other numbers of channels.

    Args:
        model: a module with an ``encoder``. It is left as it was when the file's encoder does not fit.
        path: the file, or the folder of a run.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is damaged or holds more than tensors, or holds no such encoder.
    """
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ValueError(f"{type(model).__name__} has no encoder; leave --encoder out")
    path = weights_file(path)
    state = unwrap(read_checkpoint(path))
    found = encoder_part(encoder, state)
    own = encoder.state_dict()
    fitted = {key: _fitted(found.get(_plain(key)), value) for key, value in own.items()}
    fixed = {key: value for key, value in own.items() if _counts(key) or _is_map_norm(encoder, key)}
    left = {key: value for key, value in found.items() if key not in {_plain(k) for k in own} and not _counts(key)}
    complete = {key: value for key, value in fitted.items() if value is not None}
    if left or len(complete.keys() | fixed.keys()) < len(own):
        seen = {k: found[_plain(k)] for k in own if _plain(k) in found} | fixed | left
        problem = mismatch(encoder, seen | complete)
        raise ValueError(f"the encoder in {path} is another one: {problem}; pass weights with the same encoder")
    if "normalize.mean" in state:
        _check_strides(encoder, read_metadata(path), path)
    encoder.load_state_dict(own | complete)
    for name in ("normalize.mean", "normalize.std"):
        mine = model.state_dict().get(name)
        if name in state and mine is not None and mine.shape == state[name].shape:
            mine.copy_(state[name])


PREFIXES = ("encoder.", "backbone.body.", "backbone.", "")
"""Before an encoder's names: in seglib and smp, torchvision's detectors, its segmentation models, a classifier."""

CLASSIFIER = re.compile(r"(fc|head|norm|classifier|pre_logits)\.")
"""What a classifier has beyond its encoder."""


def encoder_part(encoder: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a state dict what belongs to an encoder like this one, under its names, with batch norms as plain ones.

    Raises:
        ValueError: when it holds nothing of the kind.
    """
    prefix = next(p for p in PREFIXES if not p or any(key.startswith(p) for key in state))
    part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if isinstance(encoder, VGG16Encoder):
        part = _rename_vgg(encoder, part)
    elif isinstance(encoder, SwinEncoder):
        part = _rename_swin(part)
    elif isinstance(encoder, TimmEncoder):
        part = _rename_timm(encoder, part)
    part = {_plain(key): value for key, value in part.items()}
    if not prefix:
        part = {key: value for key, value in part.items() if not CLASSIFIER.match(key)}
    if not part.keys() & {_plain(key) for key in encoder.state_dict()}:
        shown = ", ".join(list(state)[:3])
        raise ValueError(
            f"the weights have no encoder like this {type(encoder).__name__} (they begin with {shown}); pass weights "
            "with the same encoder"
        )
    return part


def _rename_vgg(encoder: VGG16Encoder, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A VGG-16 of torchvision or timm under our names; fully connected layers become convolutions."""
    places = [
        f"{name}.{i}" for name in ("to_pool3", "to_pool4", "to_pool5") for i in range(len(getattr(encoder, name)))
    ]
    dense = {"classifier.0": "fc6", "classifier.3": "fc7", "pre_logits.fc1": "fc6", "pre_logits.fc2": "fc7"}
    renamed = {}
    for key, value in state.items():
        layer, _, name = key.rpartition(".")
        if layer in dense:
            target = f"{dense[layer]}.{name}"
            own = encoder.state_dict()[target]
            renamed[target] = value.view_as(own) if value.numel() == own.numel() else value
        elif (found := re.fullmatch(r"features\.(\d+)", layer)) and int(found[1]) < len(places):
            renamed[f"{places[int(found[1])]}.{name}"] = value
        else:
            renamed[key] = value
    return renamed


def _rename_swin(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A Swin Transformer of torchvision, timm or its authors under our names."""
    if any(key.startswith("features.") for key in state):
        return rename_torchvision_swin(state)
    if not any(key.startswith("patch_embed.") for key in state):
        return dict(state)
    late = any(key.startswith("layers.0.downsample.") for key in state)  # merging ends a stage, in timm it begins one
    wanted = {}
    for key, value in state.items():
        if CLASSIFIER.match(key) or key.endswith(("relative_position_index", "attn_mask")):
            continue
        if not late:
            key = re.sub(r"^layers\.(\d)\.downsample\.", lambda m: f"layers.{int(m[1]) - 1}.downsample.", key)
        wanted[f"backbone.{key}"] = value
    renamed = rename(wanted, SWIN_RULES, "a Swin Transformer")
    return {key.removeprefix("encoder."): value for key, value in renamed.items()}


def _rename_timm(encoder: TimmEncoder, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A whole network of timm under the names that its maps' network has: ``stages.0.`` may be ``stages_0.`` there."""
    own = encoder.state_dict()
    renamed = {}
    for key, value in state.items():
        names = [key, f"network.{key}", "network." + re.sub(r"^(\w+)\.(\d+)\.", r"\1_\2.", key)]
        found = next((name for name in names if name in own), None)
        if found is not None:  # else it belongs to what the maps do without
            renamed[found] = value
    return renamed


def _plain(key: str) -> str:
    """The name of a tensor with a ResNet's frozen norms called as plain ones are."""
    key = re.sub(r"\bconv(\d)\.norm\.", r"bn\1.", key)
    return re.sub(r"\bdownsample\.0\.norm\.", "downsample.1.", key)


def _fitted(value: Tensor | None, own: Tensor) -> Tensor | None:
    """A tensor as a model takes it in the place of ``own``; ``None`` when it doesn't fit."""
    if value is None or value.shape == own.shape:
        return value
    other_images = value.ndim == 4 and value.shape[1] == 3 and own.ndim == 4
    if other_images and (value.shape[0], *value.shape[2:]) == (own.shape[0], *own.shape[2:]):
        return repeat_input_channels(value, own.shape[1])
    return None


def _counts(key: str) -> bool:
    """Whether a tensor counts batches: frozen norms have none, and nothing depends on it."""
    return key.endswith("num_batches_tracked")


def _is_map_norm(encoder: nn.Module, key: str) -> bool:
    """Whether a tensor belongs to the norms that a Swin has on its maps, which a classifier lacks."""
    return isinstance(encoder, SwinEncoder) and key.startswith("norms.")


def _check_strides(encoder: nn.Module, metadata: Mapping[str, Any], path: str | Path) -> None:
    """Refuse a ResNet whose bottlenecks stride elsewhere: its tensors fit, and mean something else."""
    if not isinstance(encoder, ResNetEncoder) or not isinstance(encoder.layer2[0], Bottleneck):
        return
    here = encoder.layer2[0].conv1.stride != (1, 1)
    there = metadata.get("arguments", {}).get("stride_in_1x1", False)
    if here != there:
        first = "1x1" if there else "3x3"
        raise ValueError(
            f"the bottlenecks in {path} stride in their {first} convolution, this model's do not; "
            f"pass --set stride_in_1x1={str(there).lower()} (of detectors), or other weights"
        )


def _shapes(value: Tensor | None, own: Tensor) -> str:
    seen = "missing" if value is None else f"{tuple(value.shape)} in the file"
    return f"({seen}, {tuple(own.shape)} in the model)"


def in_few_words(left: Iterable[str], most: int = 4) -> str:
    """The first of many names, and how many more there are."""
    left = list(left)
    return ", ".join(left[:most]) + (f" and {len(left) - most} more" if len(left) > most else "")
