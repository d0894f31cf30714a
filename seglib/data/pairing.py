"""Which label file belongs to which image, in the layouts that people have, and which images are held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar
from unicodedata import normalize
from zlib import crc32

from seglib.data.images import IMAGE_ENDINGS, check_readable

LABEL_ENDINGS = (".png", ".tif", ".tiff", ".bmp", ".gif")
"""Of lossless files that hold label maps."""

SUFFIXES = ("_mask", "_masks", "_label", "_labels", "_seg", "_segmentation", "_gt", "-mask", "-label", ".mask")
"""What label files may add to the names of their images where both lie in one folder."""

NAMES_OF = {"val": ("val", "valid", "validation")}
"""What folders and files of a split may be called."""
_LOSSY = (".jpg", ".jpeg")

Pair = tuple[Path, Path]
T = TypeVar("T")


def find_pairs(root: Path, split: str, val_share: float | None = None) -> list[Pair]:
    """The images of a split with their label files, in the order of their names.

    A split is a folder ``root/train``, ``root/val`` (or ``valid``) or ``root/test``. It holds ``images`` and ``labels``
    (or ``masks``), see :func:`pair_folders`, or images and label files together: ``a.jpg`` with ``a.png``, or ``a.png``
    with ``a_mask.png`` (:data:`SUFFIXES`).

    Args:
        root: the folder of the data set.
        split: "train", "val" or "test".
        val_share: share of the training images that are "val" instead, by :func:`hold_out`; ``root`` has no ``val``
            then, and training images may lie in ``root`` itself.

    Raises:
        FileNotFoundError: when the split has no folder.
        ValueError: when files have no partner, or ``val_share`` is given although there is a folder of val.
    """
    folder = split_folder(root, split)
    if val_share is None or split == "test":
        if folder is not None:
            return _pairs_in(folder)
        if split == "val":
            remedy = "pass --val-share 0.2 to hold out a fifth of the training images, or add the folder"
        elif _has_files(root):
            remedy = f"its images lie in {root} itself; pass --val-share 0.2 to hold out a fifth of them"
        else:
            other = " or pass --split val," if split == "test" else ""
            remedy = f"it has {_seen(root)};{other} lay it out as {split}/images and {split}/labels"
        raise FileNotFoundError(f"{root} has no folder {split}: {remedy}")
    if (val := split_folder(root, "val")) is not None:
        raise ValueError(f"--val-share has no use: {val} holds images for validation; leave it out")
    pairs = _pairs_in(split_folder(root, "train") or root)
    return hold_out(pairs, [image.stem for image, _ in pairs], val_share, split)


def split_folder(root: Path, split: str) -> Path | None:
    """The folder of a split; ``None`` where there is none."""
    return next((root / name for name in NAMES_OF.get(split, (split,)) if (root / name).is_dir()), None)


def hold_out(things: Sequence[T], names: Sequence[str], share: float, split: str) -> list[T]:
    """The part of a data set that is "train" or "val", in its order.

    Held out are the ``share`` of the names whose CRC-32 is lowest, at least one: the same on every machine. Images of
    one film or patient are not kept together; where there are such groups, make the split by hand.

    Args:
        things: what is divided.
        names: the name of each.
        share: the share that is held out, between 0 and 1.
        split: "train" or "val".

    Raises:
        ValueError: for a share outside (0, 1), or when there are fewer than two things.
    """
    if not 0 < share < 1:
        raise ValueError(f"--val-share {share:g} is not between 0 and 1; 0.2 holds out a fifth")
    if len(things) < 2:
        raise ValueError(f"--val-share needs at least two images to divide, got {len(things)}")
    order = sorted(range(len(things)), key=lambda i: (crc32(normalize("NFC", names[i]).encode()), names[i]))
    val = set(order[: min(max(1, round(share * len(things))), len(things) - 1)])
    return [thing for i, thing in enumerate(things) if (i in val) == (split == "val")]


def pair_folders(images: Path, labels: Path) -> list[Pair]:
    """The images of one folder with the label files of another, paired by their stems and in the order of these.

    Label files may all add the same to the names of their images: ``a.jpg`` and ``a_mask.png``. It is what most of
    them add.

    Raises:
        FileNotFoundError: when a folder doesn't exist.
        ValueError: when a folder has no such files, when an image has no labels or the reverse, or when two files share
            a stem.
    """
    image_files, label_files = files_by_stem(images, IMAGE_ENDINGS), files_by_stem(labels, LABEL_ENDINGS)
    return _join(image_files, label_files, _common_suffix(image_files.keys(), label_files.keys()))


def files_by_stem(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """The files of a folder that have one of the endings (either case), by stem. Hidden files are ignored.

    Stems are in Unicode's composed form (NFC), whichever a file system has.

    Raises:
        FileNotFoundError: when the folder doesn't exist.
        ValueError: when it holds no such file, two with one stem, or a photo that can't be read here.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"the folder {folder} does not exist; pass a folder with files ending in {some(endings)}"
        )
    found: dict[str, Path] = {}
    others: dict[str, int] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        stem = normalize("NFC", path.stem)
        if path.suffix.lower() not in endings:
            others[path.suffix.lower()] = others.get(path.suffix.lower(), 0) + 1
        elif stem in found:
            raise ValueError(f"{found[stem]} and {path.name} share the stem {stem!r}; keep one of them")
        else:
            check_readable(path)
            found[stem] = path
    if not found:
        seen = f": {', '.join(sorted(others))}" if others else ""
        lossy = (
            "; JPEG changes values along every edge, so export labels again as PNG" if set(_LOSSY) & set(others) else ""
        )
        raise ValueError(
            f"{folder} holds no file ending in {some(endings)} ({sum(others.values())} other files{seen}); check the"
            f" path, or convert them{lossy}"
        )
    return found


def some(things: Iterable[object], most: int = 5) -> str:
    """The first few of many, for a message."""
    names = [str(t) for t in things]
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _pairs_in(folder: Path) -> list[Pair]:
    """The pairs of one split's folder."""
    there = [folder / name for name in ("labels", "masks") if (folder / name).is_dir()]
    if len(there) > 1:
        raise ValueError(f"{folder} has both labels and masks; keep the folder of the label maps")
    if (folder / "images").is_dir() or there:
        return pair_folders(folder / "images", there[0] if there else folder / "labels")
    if _has_files(folder):
        return _pairs_together(folder)
    raise FileNotFoundError(f"{folder} has neither images and labels nor image files, but {_seen(folder)}")


def _pairs_together(folder: Path) -> list[Pair]:
    """The pairs of a folder in which images and label files lie side by side."""
    photos = [p for p in sorted(folder.iterdir()) if _is_image(p)]
    lossy = {normalize("NFC", p.stem): p for p in photos if p.suffix.lower() in _LOSSY}
    others = {normalize("NFC", p.stem): p for p in photos if p.suffix.lower() not in _LOSSY}
    if _most_pair(lossy, others, "") and len(photos) == len(lossy) + len(others):
        return _join(lossy, others, "")
    for suffix in SUFFIXES:
        masks = {normalize("NFC", p.stem): p for p in photos if p.stem.endswith(suffix)}
        images = {normalize("NFC", p.stem): p for p in photos if not p.stem.endswith(suffix)}
        if _most_pair(images, masks, suffix) and len(photos) == len(images) + len(masks):
            return _join(images, masks, suffix)
    raise ValueError(
        f"it is unclear which of the {len(photos)} image files in {folder} are labels ({some(p.name for p in photos)});"
        " put them into images and labels with one name for both, or call them a.png and a_mask.png"
    )


def _join(images: Mapping[str, Path], labels: Mapping[str, Path], suffix: str) -> list[Pair]:
    """The pairs of images and labels, both by stem, where labels add the suffix; each must have its partner."""
    problems = []
    image, label = next(iter(images.values())), next(iter(labels.values()))
    if alone := sorted(stem for stem in images if stem + suffix not in labels):
        verb = "has" if len(alone) == 1 else "have"
        expected = f"; expected {alone[0]}{suffix}{label.suffix}" if suffix else ""
        problems.append(
            f"{len(alone)} of {len(images)} images in {image.parent} {verb} no labels ({some(alone)}{expected})"
        )
    if alone := sorted(s for s in labels if not s.endswith(suffix) or s.removesuffix(suffix) not in images):
        verb = "has" if len(alone) == 1 else "have"
        problems.append(f"{len(alone)} of {len(labels)} label maps in {label.parent} {verb} no image ({some(alone)})")
    if problems:
        rule = "an image and its labels share a name: a.jpg and a.png"
        if suffix:
            rule = f"labels add {suffix!r} to the names of their images"
        raise ValueError(f"{'; '.join(problems)}; {rule}")
    return [(images[stem], labels[stem + suffix]) for stem in sorted(images)]


def _common_suffix(images: Iterable[str], labels: Iterable[str]) -> str:
    """What label stems add to those of more than half of the images; empty where none does."""
    images, labels = set(images), set(labels)
    found = Counter(s[n:] for s in labels for n in range(1, len(s) + 1) if s[:n] in images)
    suffix = max(found, key=lambda its: (found[its], -len(its)), default="")
    return suffix if _most_pair(images, labels, suffix) else ""


def _most_pair(images: Iterable[str], labels: Iterable[str], suffix: str) -> bool:
    """Whether more than half of the images have a label stem with the suffix, and of the label stems an image."""
    images, labels = set(images), set(labels)
    return 2 * sum(stem + suffix in labels for stem in images) > max(len(images), len(labels))


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and ((folder / "images").is_dir() or any(_is_image(path) for path in folder.iterdir()))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith(".") and path.is_file()


def _seen(folder: Path) -> str:
    return some(sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))) or "nothing"
