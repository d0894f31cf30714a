"""What the tables of names share: applying patterns, and the classes of COCO."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from seglib.data.voc import voc_color

Rule = tuple[str, str | Callable[[Any], str]]
"""A pattern that a name starts with, and what stands there in ours: text, or a function of the match."""


def rename(state: Mapping[str, Tensor], rules: Sequence[Rule], what: str) -> dict[str, Tensor]:
    """The state dict under our names: every rule that fits the start of a name is applied, in their order.

    Args:
        state: the state dict under foreign names.
        rules: the rules, in the order in which they apply.
        what: the name of the weights that these should be, for the message.

    Raises:
        ValueError: when no rule fits a name, or two names become one.
    """
    renamed = {}
    for key, value in state.items():
        name = key
        for pattern, ours in rules:
            name = re.sub(f"^{pattern}", ours, name)
        if name == key:
            raise ValueError(f"the key {key!r} is unknown: these aren't the weights of {what}; check the file")
        if name in renamed:
            raise ValueError(f"two keys, of which {key!r} is one, mean {name!r}; check the file")
        renamed[name] = value
    return renamed


def coco_names() -> list[str]:
    """What the ids 1 to 90 of COCO's annotations mean, in order; "N/A" where an id isn't used."""
    return list(MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:])


def coco_things(*, with_gaps: bool = False) -> list[dict[str, Any]]:
    """The class table of COCO's things as JSON: the 80 in use, or 90 with those that no annotation has."""
    names = coco_names()
    if with_gaps:
        names = [f"unused {i}" if name == "N/A" else name for i, name in enumerate(names, 1)]
    else:
        names = [name for name in names if name != "N/A"]
    return [{"id": i, "name": n, "isthing": True, "color": list(voc_color(i + 1))} for i, n in enumerate(names)]
