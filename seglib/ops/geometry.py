"""At what size a model wants to see an image: stored with the weights, followed by evaluation and prediction."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from seglib.ops.resize import resize_image
from seglib.types import Size

MODES = ("native", "shorter", "square", "letterbox")


@dataclass(frozen=True)
class Geometry:
    """How an image is resized before a model sees it. Results come back at the image's own size.

    =============  ==============================================================================================
    ``native``     the image as it is; also of volumes
    ``shorter``    the shorter side becomes ``size`` pixels, but the longer one at most ``longest``
    ``square``     height and width become ``size`` each, whatever the shape was
    ``letterbox``  the longer side becomes ``size``; a model of fixed size pads the rest itself, normalised
    =============  ==============================================================================================

    Attributes:
        mode: one of the above.
        size: pixels; ``None`` for ``native``.
        longest: for ``shorter``, the most pixels that the longer side may have; ``None`` sets no limit.
        antialias: whether images that shrink are low-pass filtered. Published detectors of torchvision were trained
            without.
        rounding: how a side of a fractional number of pixels becomes whole: "round" (half up) or "floor".

    Raises:
        ValueError: for an unknown mode or rounding, or a size that is missing, out of place or not positive.
    """

    mode: str = "native"
    size: int | None = None
    longest: int | None = None
    antialias: bool = True
    rounding: str = "round"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"geometry mode {self.mode!r} is unknown; choose one of {', '.join(MODES)}")
        if self.rounding not in ("round", "floor"):
            raise ValueError(f'rounding is "round" or "floor", got {self.rounding!r}')
        if (self.size is None) != (self.mode == "native") or (self.longest is not None and self.mode != "shorter"):
            raise ValueError(
                f"geometry {self.mode!r} got size {self.size} and longest {self.longest}; native takes none, the "
                "others take a size, and longest belongs to shorter"
            )
        for name in ("size", "longest"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a positive whole number of pixels, got {value!r}")

    def model_size(self, size: Size) -> Size:
        """The ``(H, W)`` that the model sees of an image of ``size``."""
        if self.size is None:
            return tuple(size)
        if self.mode == "square":
            return self.size, self.size
        if self.mode == "letterbox":
            scale = self.size / max(size)
        else:
            scale = self.size / min(size)
            if self.longest is not None:
                scale = min(scale, self.longest / max(size))
        half = 0.5 if self.rounding == "round" else 0.0
        height, width = (max(1, math.floor(side * scale + half)) for side in size)
        return height, width

    def __call__(self, image: Tensor) -> Tensor:
        """The image ``(C, H, W)`` as the model sees it, ``(C, *model_size)``."""
        if self.mode == "native":
            return image
        return resize_image(image, self.model_size(tuple(image.shape[1:])), antialias=self.antialias)

    def to_json(self) -> dict[str, Any]:
        """The fields as plain numbers and text; ``Geometry(**…)`` reads them."""
        return asdict(self)


NATIVE = Geometry()
"""Images as they are."""
