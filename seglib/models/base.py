"""What every model does alike: a prediction of a padded batch is that of its images one by one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from seglib.layers.normalize import Normalize
from seglib.ops.geometry import NATIVE, Geometry
from seglib.ops.inference import evaluating
from seglib.ops.intensity import AS_IS, Intensity
from seglib.ops.preparation import Preparation
from seglib.ops.resize import crop_to
from seglib.types import Size, Targets


class Model(nn.Module):
    """A :class:`~seglib.types.SegmentationModel`: a subclass adds ``forward``, ``loss`` and ``postprocess``.

    Attributes:
        normalize: checks and normalises images; the first thing in ``forward``.
        geometry: the size at which the model wants to see images. ``forward`` and ``predict`` resize nothing;
            evaluation, the command line and :func:`~seglib.postprocess.tiles.predict_tiled`'s callers follow it.
        intensity: how the voxels of a volume are scaled before the model sees them; the same parts of the package
            follow it.
        preparation: how a case is cropped, scaled and resampled before the model sees it, of a model that a plan is
            behind; ``None`` leaves a case on its own grid.
    """

    normalize: Normalize
    geometry: Geometry = NATIVE
    intensity: Intensity = AS_IS
    preparation: Preparation | None = None

    @abstractmethod
    def forward(self, images: Tensor, targets: Targets | None = None, sizes: Sequence[Size] | None = None) -> Any:
        """What the heads say."""

    @abstractmethod
    def loss(self, out: Any, targets: Targets) -> dict[str, Tensor]:
        """The losses of an output."""

    @abstractmethod
    def postprocess(self, out: Any, sizes: Sequence[Size], output_sizes: Sequence[Size] | None = None) -> list[Any]:
        """The predictions of an output."""

    def predict(
        self, images: Tensor, sizes: Sequence[Size] | None = None, output_sizes: Sequence[Size] | None = None
    ) -> list[Any]:
        """The prediction of each image, in evaluation mode; the model's own mode comes back afterwards.

        Images of one size go through the model together, images of different sizes apart: padding would be seen by
        every convolution near it, and the answer for an image would depend on its neighbours in the batch.

        Args:
            images: ``(B, C, H, W)`` float in the range that the model's normalisation declares, on the model's device.
            sizes: the true ``(H, W)`` of each image; without them every image fills the batch.
            output_sizes: the ``(H, W)`` in which results are wanted; without them that of the images.

        Returns:
            B predictions of the model's task.

        Raises:
            ValueError: when the images have another shape, type or range, or sizes don't fit them.
        """
        full = tuple(images.shape[2:])
        true = [full] * len(images) if sizes is None else [tuple(int(n) for n in size) for size in sizes]
        wanted = true if output_sizes is None else [tuple(int(n) for n in size) for size in output_sizes]
        if len(true) != len(images) or len(wanted) != len(images):
            raise ValueError(f"{len(images)} images need as many sizes, got {len(true)} and {len(wanted)} output sizes")
        for size in true:
            if len(size) != len(full) or not all(0 < n <= most for n, most in zip(size, full, strict=True)):
                raise ValueError(f"a true size lies within that of the batch, {full}; got {size}")
        groups: dict[Size, list[int]] = {}
        for i, size in enumerate(true):
            groups.setdefault(size, []).append(i)
        found: list[Any] = [None] * len(images)
        with evaluating(self):
            for size, members in groups.items():
                part = crop_to(images if len(groups) == 1 else images[members], size)
                self.normalize.check_range(part)  # without its padding, whose values mean nothing
                out = self(part)
                here = self.postprocess(out, [size] * len(members), [wanted[i] for i in members])
                for i, prediction in zip(members, here, strict=True):
                    found[i] = prediction
        return found
