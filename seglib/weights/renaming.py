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


WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What stands before every name of a model that was saved inside another module: of ``DataParallel``, of
``torch.compile``, of a training class."""


def unwrap(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict of a model that was saved inside a wrapper, under the model's own names.

    A prefix of :data:`WRAPPERS` goes when all names have it, and again where wrappers were nested.
    """
    found = dict(state)
    while prefix := next((w for w in WRAPPERS if found and all(key.startswith(w) for key in found)), None):
        found = {key.removeprefix(prefix): value for key, value in found.items()}
    return found


def numbered_classes(count: int, *, first: int = 0, isthing: bool = False) -> list[dict[str, Any]]:
    """The class table as JSON of weights that tell how many classes there are and not what they are called.

    Args:
        count: number of classes.
        first: what the weights themselves call the first class: 0, or 1 where 0 is background.
        isthing: whether the classes are things.
    """
    return [
        {"id": i, "name": f"class {first + i}", "isthing": isthing, "color": list(voc_color(i + 1))}
        for i in range(count)
    ]


def coco_names() -> list[str]:
    """What the ids 1 to 90 of COCO's annotations mean, in order; "N/A" where an id isn't used."""
    return list(MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:])


COCO_STUFF = {
    92: "banner",
    93: "blanket",
    95: "bridge",
    100: "cardboard",
    107: "counter",
    109: "curtain",
    112: "door-stuff",
    118: "floor-wood",
    119: "flower",
    122: "fruit",
    125: "gravel",
    128: "house",
    130: "light",
    133: "mirror-stuff",
    138: "net",
    141: "pillow",
    144: "platform",
    145: "playingfield",
    147: "railroad",
    148: "river",
    149: "road",
    151: "roof",
    154: "sand",
    155: "sea",
    156: "shelf",
    159: "snow",
    161: "stairs",
    166: "tent",
    168: "towel",
    171: "wall-brick",
    175: "wall-stone",
    176: "wall-tile",
    177: "wall-wood",
    178: "water-other",
    180: "window-blind",
    181: "window-other",
    184: "tree-merged",
    185: "fence-merged",
    186: "ceiling-merged",
    187: "sky-other-merged",
    188: "cabinet-merged",
    189: "table-merged",
    190: "floor-other-merged",
    191: "pavement-merged",
    192: "mountain-merged",
    193: "grass-merged",
    194: "dirt-merged",
    195: "paper-merged",
    196: "food-other-merged",
    197: "building-other-merged",
    198: "rock-merged",
    199: "wall-other-merged",
    200: "rug-merged",
}
"""The 53 classes of stuff in COCO's panoptic annotations: their ids there and names, in order."""


def coco_ids() -> list[int]:
    """The ids of COCO's 80 things in its annotations, in order."""
    return [i for i, name in enumerate(coco_names(), 1) if name != "N/A"]


def coco_panoptic_classes() -> list[dict[str, Any]]:
    """The class table of COCO's 80 things and 53 classes of stuff as JSON, things first."""
    rows = coco_things()
    for i, name in enumerate(COCO_STUFF.values(), len(rows)):
        rows.append({"id": i, "name": name, "isthing": False, "color": list(voc_color(i + 1))})
    return rows


def coco_things(*, with_gaps: bool = False) -> list[dict[str, Any]]:
    """The class table of COCO's things as JSON: the 80 in use, or 90 with those that no annotation has."""
    names = coco_names()
    if with_gaps:
        names = [f"unused {i}" if name == "N/A" else name for i, name in enumerate(names, 1)]
    else:
        names = [name for name in names if name != "N/A"]
    return [{"id": i, "name": n, "isthing": True, "color": list(voc_color(i + 1))} for i, n in enumerate(names)]


def things(count: int) -> dict[str, Any]:
    """What metadata say of ``count`` classes of things: COCO's 80 with their ids, others by number."""
    if count == len(coco_ids()):
        return {"categories": coco_things(), "file_ids": coco_ids()}
    return {"categories": numbered_classes(count, isthing=True)}
