"""Your own data: a folder of images and a folder of label maps with the same names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from seglib.data.bands import read_bands
from seglib.data.checks import LabelCounts, count_samples
from seglib.data.file_checks import depth_warnings, evenly, image_size, orientation_warnings
from seglib.data.images import read_image, read_label_colors, read_labels
from seglib.data.pairing import pair_folders, some
from seglib.ops.intensity import AS_IS, Intensity
from seglib.ops.resize import resize_image, resize_labels
from seglib.types import VOID, Category, Sample, check_categories

_LARGEST_ID = 2**16 - 1  # of a 16-bit index PNG
_UNKNOWN = -1


class SegmentationFiles(Dataset[Sample]):
    """Images and their label maps, given as pairs of files. Read when asked for, in the given order.

    Args:
        pairs: ``(image, labels)`` paths; the stem of the image is the sample's id.
        categories: the class table.
        void: the id that the *files* use for void; it becomes 255. ``None`` means 255, unless ``remap`` names 255.
        remap: file id → category id (or 255 for void); several file ids may go to one category. It must then name every
            id of the files except ``void``: an unnamed one is an error, because an id that slips through would be taken
            for another class. Without it, file ids are category ids. Masks that store a binary answer as 0 and 255 need
            one, ``{0: 1, 255: 0}`` for example: left alone, their 255 is void.
        colors: colour ``(R, G, B)`` of 8 bits → category id (or 255 for void), of label files that hold colours; every
            colour of the files must be named. It takes the place of ``void`` and ``remap``.
        threshold: grey value from which a pixel of a label file counts as 255; lower ones count as 0. For antialiased
            masks, with a ``remap`` of 0 and 255.
        channels: the number of channels of the images, see :func:`seglib.data.bands.read_bands`.
        intensity: how the values of each image are scaled on reading.
        upright: ``False`` ignores the EXIF orientation of photos, where the labels were drawn that way; ``None``
            applies it like ``True``, and :meth:`file_warnings` names photos for which the other way is as likely.
        size: ``(H, W)`` to resize to on reading: the image antialiased bilinear, the labels nearest.
        transform: applied to the sample last.

    Attributes:
        categories: the class table.
        pairs: the paths, in order.
        channels: the number of channels of the images.
        size: the ``(H, W)`` that all samples are resized to, or ``None`` where each has its own.
        file_ids: category id → id in the files, the first where several go to one category; ``None`` where none does.
        void_id: the first id of void in the files; ``None`` when no id is void.

    Raises:
        FileNotFoundError: at once, when any file is missing.
        ValueError: at once, when there are no pairs, or for a class table or remap that makes no sense. When a sample
            is read: for an image and labels of different sizes, and for a label outside the table.
    """

    def __init__(
        self,
        pairs: Iterable[tuple[str | os.PathLike[str], str | os.PathLike[str]]],
        categories: Sequence[Category],
        *,
        void: int | None = None,
        remap: Mapping[int, int] | None = None,
        colors: Mapping[tuple[int, int, int], int] | None = None,
        threshold: int | None = None,
        channels: int = 3,
        intensity: Intensity = AS_IS,
        upright: bool | None = None,
        size: tuple[int, int] | None = None,
        transform: Callable[[Sample], Sample] | None = None,
    ) -> None:
        self.categories = check_categories(categories)
        self.pairs = [(Path(image), Path(labels)) for image, labels in pairs]
        self.channels, self._intensity = channels, intensity
        if colors is not None and (void is not None or remap is not None or threshold is not None):
            raise ValueError("colors say what every pixel of the label files is; leave out void, remap and threshold")
        self._threshold = threshold
        self._colors = None if colors is None else _check_colors(colors, len(self.categories))
        self._void, self._remap = void, remap
        meaning = _meaning(len(self.categories), void, remap)
        self._table = torch.full((max(meaning) + 2,), _UNKNOWN)  # of each file id; the last entry is of all larger ones
        self._table[list(meaning)] = torch.tensor(list(meaning.values()))
        first = {category: stored for stored, category in reversed(meaning.items())}
        self.file_ids = tuple(first.get(c.id) for c in self.categories)
        self.void_id = void if void is not None else first.get(VOID)
        self._upright = upright
        if size is not None and (isinstance(size, int) or len(size) != 2 or min(size) < 1):
            raise ValueError(f"size must be (height, width), both at least 1, got {size!r}")
        self.size = size
        self._transform = transform
        self._pages: list[tuple[int, int]] | None = None  # of both files of each pair, where files have several
        if not self.pairs:
            raise ValueError("no pairs of image and label files were given")
        if missing := [path for pair in self.pairs for path in pair if not path.is_file()]:
            raise FileNotFoundError(
                f"{len(missing)} of {2 * len(self.pairs)} files do not exist ({some(missing)}); check that the data"
                " set is complete"
            )

    @property
    def image_files(self) -> list[Path]:
        """The files of the images, in order."""
        return [image for image, _ in self.pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        image_path, labels_path = self.pairs[index]
        upright = self._upright is not False
        if self._pages is not None:
            image = read_image(image_path, page=self._pages[index][0], upright=upright)  # (3, H, W)
        else:
            image = read_bands(image_path, self.channels, upright=upright)  # (C, H, W)
        image = self._intensity(image)
        stored = self._stored(index)  # (H, W)
        if stored.shape != image.shape[1:]:
            self._raise_sizes(tuple(image.shape[1:]), tuple(stored.shape), image_path, labels_path)
        labels = self._to_categories(index, stored)
        if self.size is not None:
            image, labels = resize_image(image, self.size), resize_labels(labels, self.size)
        sample = Sample(image, self._id(index), semantic=labels)
        return sample if self._transform is None else self._transform(sample)

    def count_labels(self, needs: str, indices: Sequence[int]) -> LabelCounts:
        """What :func:`seglib.data.checks.count_labels` asks for, from the label files alone, as they are stored."""
        if needs != "semantic":
            return count_samples((self[i] for i in indices), needs, len(self.categories), len(self))
        if self._colors is not None:
            maps = (self._to_categories(i, self._stored(i)).flatten() for i in indices)
            found = sum((torch.bincount(m, minlength=VOID + 1) for m in maps), torch.zeros(VOID + 1, dtype=torch.int64))
            classes = tuple(found[: len(self.categories)].tolist())
            return LabelCounts(needs, classes, len(indices), len(self), pixels=int(found.sum()), void=int(found[VOID]))
        of_stored = torch.zeros(len(self._table), dtype=torch.int64)  # pixels of each file id
        for i in indices:
            stored = self._stored(i)
            found = torch.bincount(stored.flatten(), minlength=len(of_stored))
            if (self._table[found.nonzero().flatten().clamp(max=len(self._table) - 1)] == _UNKNOWN).any():
                self._to_categories(i, stored)  # names the label and its place
            of_stored += found
        values = [] if self._remap is not None else of_stored.nonzero().flatten().tolist()
        return LabelCounts(
            needs,
            classes=tuple(int(of_stored[self._table == c.id].sum()) for c in self.categories),
            images_seen=len(indices),
            images=len(self),
            pixels=int(of_stored.sum()),
            void=int(of_stored[self._table == VOID].sum()),
            class_values=tuple(v for v in values if self._table[v] != VOID),
            void_values=tuple(v for v in values if self._table[v] == VOID),
        )

    def _stored(self, index: int) -> Tensor:
        """The label map of a sample in the ids of its file, ``(H, W)``; of colours R + 256 G + 65536 B."""
        path, page = self.pairs[index][1], None if self._pages is None else self._pages[index][1]
        if self._colors is not None:
            return _packed(read_label_colors(path, page=page))
        stored = read_labels(path, page=page, equal_channels=True)
        return stored if self._threshold is None else torch.where(stored >= self._threshold, 255, 0)

    def _to_categories(self, index: int, stored: Tensor) -> Tensor:
        """The label map in category ids, ``(H, W)``."""
        if self._colors is not None:
            known, ids = self._colors  # (n,), (n,)
            place = torch.searchsorted(known, stored).clamp_(max=len(known) - 1)
            labels = torch.where(known[place] == stored, ids[place], _UNKNOWN)
            if (labels == _UNKNOWN).any():
                self._raise_unknown_color(stored, labels, index)
            return labels
        # Ids beyond the table fall on its last entry, which is unknown.
        labels = self._table[stored.clamp(max=len(self._table) - 1)]
        if (labels == _UNKNOWN).any():
            self._raise_unknown(stored, labels, index)
        return labels

    def file_warnings(self) -> list[str]:
        """What image files show before training: an orientation that labels may not share, 12 bits in files of 16.

        Raises:
            ValueError: for an image and labels of different sizes, of at most 1000 pairs that are opened.
        """
        for image, labels in evenly(self.pairs, 1000):
            if image.suffix.lower() != ".npy":
                found = image_size(image, self._upright is not False)
                if found != (stored := image_size(labels, upright=False)):
                    self._raise_sizes(found, stored, image, labels)
        images = self.image_files
        warnings = [] if self._upright is not None else orientation_warnings(images, "upright", "--stored-orientation")
        return warnings if self._intensity != AS_IS else warnings + depth_warnings(images)

    def _id(self, index: int) -> str:
        return self.pairs[index][0].stem

    def _raise_sizes(
        self, image: tuple[int, ...], labels: tuple[int, ...], image_path: Path, labels_path: Path
    ) -> None:
        turned = image == labels[::-1]
        remedy = (
            "the labels seem to be drawn on the photo before its EXIF rotation; pass --stored-orientation"
            " (upright=False in Python)"
            if turned
            else "export the labels at the size of the image"
        )
        raise ValueError(
            f"{image_path} is {_by(image)} (H x W) and its labels {labels_path} are {_by(labels)}; {remedy}"
        )

    def _raise_unknown(self, stored: Tensor, labels: Tensor, index: int) -> None:
        path, page = self.pairs[index][1], 0 if self._pages is None else self._pages[index][1]
        unknown = labels == _UNKNOWN  # (H, W)
        row, column = unknown.nonzero()[0].tolist()
        value = int(stored[row, column])
        values = set(stored.unique().tolist())
        others = sorted(set(stored[unknown].tolist()) - {value})
        also = f" (and so are {some(others)})" if others else ""
        where = f"{path}{f' (page {page})' if page else ''}: label {value} at (row {row}, column {column})"
        void = VOID if self._void is None else self._void
        if self._remap is None:
            known = f"0..{len(self.categories) - 1} or {void}"
            remedy = (
                f"say what every id of the files is: remap={{{value}: …}} in Python ({VOID} = void), "
                '"ids" and "void" in categories.json'
            )
        else:
            known = "the keys of remap" + ("" if void in self._remap else f" or {void}")
            remedy = f'add {value}: … to remap ({VOID} = void), or {value} to the "ids" or "void" of categories.json'
        if {0, 255} <= values and max(values) == 255:
            remedy += '; of an antialiased mask of 0 and 255 write "threshold": 128 there'
        raise ValueError(f"{where} is not in {known}{also}; {remedy}")

    def _raise_unknown_color(self, stored: Tensor, labels: Tensor, index: int) -> None:
        row, column = (labels == _UNKNOWN).nonzero()[0].tolist()
        value = int(stored[row, column])
        count = len(stored[labels == _UNKNOWN].unique())
        also = f" (and {count - 1} other colours)" if count > 1 else ""
        raise ValueError(
            f"{self.pairs[index][1]}: the colour {[value % 256, value // 256 % 256, value // 65536]} at (row {row},"
            f" column {column}) is that of no class{also}; give it to a category as its color, or list it under"
            ' "void" in categories.json'
        )


class SegmentationFolder(SegmentationFiles):
    """A folder of images and a folder of label maps, paired by their stems: ``a.jpg`` with ``a.png``.

    All label files may add the same to the names of their images (``a_mask.png``). The order is that of the sorted
    stems, the same on every machine. Hidden files are ignored.

    Args:
        images: the folder of images.
        labels: the folder of label maps, in a lossless format.
        categories: the class table.
        void: the id that the *files* use for void; it becomes 255. ``None`` means 255, unless ``remap`` names 255.
        remap: file id → category id (or 255 for void), of every id in the files; ``None`` where they are the same.
        how: the further arguments of :class:`SegmentationFiles`.

    Raises:
        FileNotFoundError: when a folder doesn't exist.
        ValueError: when a folder has no images, when an image has no labels or the reverse, or when two files share a
            stem; further as :class:`SegmentationFiles`.
    """

    def __init__(
        self,
        images: str | os.PathLike[str],
        labels: str | os.PathLike[str],
        categories: Sequence[Category],
        *,
        void: int | None = None,
        remap: Mapping[int, int] | None = None,
        **how: Any,
    ) -> None:
        pairs = pair_folders(Path(images), Path(labels))
        super().__init__(pairs, categories, void=void, remap=remap, **how)


def _meaning(num_classes: int, void: int | None, remap: Mapping[int, int] | None) -> dict[int, int]:
    """Every known file id → its category id, or 255 for void."""
    if not 0 < num_classes <= VOID:
        raise ValueError(f"a class table has 1 to {VOID} classes ({VOID} itself is void), got {num_classes}")
    mapping = {i: i for i in range(num_classes)} if remap is None else dict(remap)
    for key, value in mapping.items():
        if not 0 <= key <= _LARGEST_ID:
            raise ValueError(f"remap has the file id {key}; ids of an index PNG are 0..{_LARGEST_ID}")
        if not (0 <= value < num_classes or value == VOID):
            raise ValueError(f"remap sends {key} to {value}, which is not in 0..{num_classes - 1} or {VOID}")
    if void is None:
        mapping.setdefault(VOID, VOID)
    elif not 0 <= void <= _LARGEST_ID:
        raise ValueError(f"void is {void}; ids of an index PNG are 0..{_LARGEST_ID}")
    elif mapping.setdefault(void, VOID) != VOID:
        raise ValueError(
            f"file id {void} is void and also class {mapping[void]}; pass the id that the files use for void, or a"
            " remap that names the file ids of the classes"
        )
    return mapping


def _packed(rgb: Tensor) -> Tensor:
    """Colours ``(…, 3)`` as one number each, R + 256 G + 65536 B."""
    r, g, b = rgb.long().unbind(-1)
    return r + 256 * g + 65536 * b


def _check_colors(colors: Mapping[tuple[int, int, int], int], num_classes: int) -> tuple[Tensor, Tensor]:
    """The packed colours, ascending, and the category id of each."""
    if wrong := [c for c, k in colors.items() if len(c) != 3 or not 0 <= min(c) <= max(c) <= 255]:
        raise ValueError(f"colors has {wrong[0]!r}; a colour is three numbers in 0..255")
    if wrong_ids := [k for k in colors.values() if not (0 <= k < num_classes or k == VOID)]:
        raise ValueError(f"colors sends one to {wrong_ids[0]}, which is not in 0..{num_classes - 1} or {VOID}")
    packed = _packed(torch.tensor(list(colors)))
    order = packed.argsort()
    return packed[order], torch.tensor(list(colors.values()))[order]


def natural_key(name: str) -> tuple[str | int, ...]:
    """Sorts names with numbers as people do: ``sorted(["10", "9"], key=natural_key)`` is ``["9", "10"]``."""
    return tuple(int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", name)))


def _by(size: tuple[int, ...]) -> str:
    return f"{size[0]} x {size[1]}"
