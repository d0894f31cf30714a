"""The datasets that the command line knows by name, each with its splits and the augmentation that suits it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

from torchvision.transforms import v2

from seglib.data import camvid, cityscapes, coco, coco_panoptic, dsb, isbi, pets, scenes, voc
from seglib.data.categories_json import read_class_table
from seglib.data.coco_layouts import CocoPlace, file_of_split, find_coco, place_of
from seglib.data.folders import SegmentationFiles
from seglib.data.microscopy import elastic_transform
from seglib.data.pairing import find_pairs, split_folder
from seglib.data.transforms import RescaleIntensity, ResizeToGeometry, Transform, train_transform
from seglib.ops.geometry import Geometry
from seglib.ops.intensity import AS_IS, Intensity
from seglib.types import Category, Sample, Size


class SegmentationDataset(Protocol):
    """A map-style dataset of samples with its class table."""

    @property
    def categories(self) -> tuple[Category, ...]:
        """The class table."""

    @property
    def size(self) -> Size | None:
        """The ``(H, W)`` of all images before augmentation, or ``(D, H, W)``; ``None`` where each keeps its own."""

    @property
    def file_ids(self) -> tuple[int | None, ...]:
        """Category id → id in the files; ``None`` for a class that the files don't have."""

    @property
    def void_id(self) -> int | None:
        """The id of void in the files; ``None`` where they have none."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


SCENES_LENGTH = {"train": 2000, "val": 200, "test": 200}

VOLUMES_LENGTH = {"train": 100, "val": 20, "test": 40}

RESIZES = frozenset({"scenes", "camvid", "pets", "folder"})
"""The datasets that are resized on reading. The others keep their pixels: what a model sees is its geometry's."""


@dataclass(frozen=True)
class OwnFiles:
    """How your own images are divided and read, of "folder", "coco" and "dsb2018"; options of the command line.

    Attributes:
        annotations: a COCO file that is read instead of those in ``root``.
        images: the folder that its ``file_name`` start from; found around the file when ``None``.
        val_annotations: a COCO file of val, in the same folder of images or with its own around it.
        skip_bad: whether to leave out what is wrong in a COCO file and to name it, instead of refusing the file.
        val_share: share of the training images that are "val" instead, where the data set has no split of its own;
            see :func:`seglib.data.pairing.hold_out`.
        upright: whether to apply the EXIF orientation of photos; ``None`` is what suits the data set.
        intensity: how the values of each image are scaled.
    """

    annotations: Path | None = None
    images: Path | None = None
    val_annotations: Path | None = None
    skip_bad: bool = False
    val_share: float | None = None
    upright: bool | None = None
    intensity: Intensity = AS_IS

    def check_used(self, name: str) -> None:
        """Raise for an option that dataset ``name`` has no use for.

        Raises:
            ValueError: naming the option.
        """
        uses = TAKES_OWN.get(name, ())
        for field in fields(self):
            if getattr(self, field.name) != field.default and field.name not in uses:
                where = [d for d, used in TAKES_OWN.items() if field.name in used]
                raise ValueError(
                    f"{_OPTION_OF_OWN[field.name]} has no use: it is for {' and '.join(where)}, and the data is {name}"
                )


TAKES_OWN = {
    "folder": ("val_share", "upright", "intensity"),
    "coco": ("annotations", "images", "val_annotations", "skip_bad", "val_share", "upright", "intensity"),
    "dsb2018": ("intensity",),
}
"""The datasets that take something of :class:`OwnFiles`, and what."""

_OPTION_OF_OWN = {
    "annotations": "--annotations",
    "images": "--images",
    "val_annotations": "--val-annotations",
    "skip_bad": "--skip-bad",
    "val_share": "--val-share",
    "upright": "--upright or --stored-orientation",
    "intensity": "--rescale",
}


@dataclass(frozen=True)
class _Request:
    """The arguments of :func:`build_dataset` but its name."""

    root: Path | None
    split: str
    size: tuple[int, int] | None
    augment: bool
    keep: tuple[str, ...]
    geometry: Geometry | None
    own: OwnFiles

    def folder(self, name: str) -> Path:
        """The root, which this dataset needs."""
        if self.root is None:
            raise ValueError(f"dataset {name!r} lies in a folder: pass --root FOLDER")
        return self.root

    def check_split(self) -> None:
        """Raise unless the split is one of the usual three."""
        if self.split not in SCENES_LENGTH:
            raise ValueError(f"split {self.split!r} is unknown; choose one of {', '.join(SCENES_LENGTH)}")

    def crop(self, default: tuple[int, int]) -> tuple[int, int]:
        """The crop to train on: ``size``, else the square that the model wants, else the dataset's default."""
        if self.size is None and self.geometry is not None and self.geometry.mode in ("square", "letterbox"):
            side = self.geometry.size
            assert side is not None  # a geometry of these modes has one
            return side, side
        return self.size or default

    def augmented(self, transform: Transform) -> Transform | None:
        """The transform of training, on samples at the size at which the model wants to see them."""
        if not self.augment:
            return None
        return transform if self.geometry is None else v2.Compose([ResizeToGeometry(self.geometry), transform])

    def rescaled(self, transform: Transform | None) -> Transform | None:
        """The transform, on samples whose values are scaled before."""
        if self.own.intensity == AS_IS:
            return transform
        rescale = RescaleIntensity(self.own.intensity)
        return rescale if transform is None else v2.Compose([rescale, transform])


Builder = Callable[[_Request], SegmentationDataset]


def _scenes(ask: _Request) -> SegmentationDataset:
    ask.check_split()
    size = ask.size or (128, 128)
    # scenes vary in scale by themselves, so the crop only jitters it; masks one pixel wide would break in zooming
    scale = (1.0, 1.0) if {"instances", "panoptic"} & set(ask.keep) else (0.8, 1.25)
    transform = train_transform(size, scale=scale, color=0.2, keep=ask.keep) if ask.augment else None
    return scenes.Scenes(SCENES_LENGTH[ask.split], split=ask.split, size=size, transform=transform)


def _camvid(ask: _Request) -> SegmentationDataset:
    size = ask.size or (360, 480)
    transform = train_transform(size, scale=(0.5, 2.0)) if ask.augment else None
    return camvid.CamVid(ask.folder("camvid"), ask.split, size=size, transform=transform)


def _pets(ask: _Request) -> SegmentationDataset:
    size = ask.size or (256, 256)
    # the animal fills the image: a strong zoom would show fur alone
    transform = train_transform(size, scale=(0.75, 1.5)) if ask.augment else None
    return pets.OxfordPets(ask.folder("pets"), ask.split, size=size, transform=transform)


def _voc(ask: _Request) -> SegmentationDataset:
    transform = ask.augmented(train_transform(ask.crop((512, 512)), scale=(0.5, 2.0)))
    return voc.VOC2012(ask.folder("voc"), ask.split, transform=transform)


def _cityscapes(ask: _Request) -> SegmentationDataset:
    transform = ask.augmented(train_transform(ask.crop((512, 1024)), scale=(0.5, 2.0)))
    return cityscapes.Cityscapes(ask.folder("cityscapes"), ask.split, transform=transform)


def _isbi(ask: _Request) -> SegmentationDataset:
    transform = ask.augmented(elastic_transform(ask.crop((256, 256))))
    return isbi.ISBI2012(ask.folder("isbi"), ask.split, transform=transform)


def _folder(ask: _Request) -> SegmentationDataset:
    root = ask.folder("folder")
    ask.check_split()
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root} is no folder; pass --root with one that holds categories.json, train, val, test"
        )
    table = read_class_table(root / "categories.json")
    if ask.augment and ask.size is None:
        raise ValueError("training on your own folder needs --size HEIGHTxWIDTH: batches are crops of one size")
    color = 0.3 if table.channels in (1, 3) else 0.0  # of grey and RGB images
    return SegmentationFiles(
        find_pairs(root, ask.split, ask.own.val_share),
        table.categories,
        remap=table.remap,
        colors=table.colors,
        threshold=table.threshold,
        channels=table.channels,
        intensity=ask.own.intensity,
        upright=ask.own.upright,
        size=ask.size,
        transform=train_transform(ask.size, color=color) if ask.augment and ask.size else None,
    )


def _coco(ask: _Request) -> SegmentationDataset:
    ask.check_split()
    own = "panoptic" not in ask.keep and ask.root is not None and file_of_split(ask.root, "test") is not None
    if ask.split == "test" and not own:
        yours = ask.own.annotations or ask.root
        if yours is None or (yours / "annotations" / "instances_val2017.json").is_file() or "panoptic" in ask.keep:
            raise ValueError("split 'test' of coco has no public labels; choose train or val")
        raise ValueError(f"{yours} has no test; pass --split val")
    crowds = not ask.augment
    transform = ask.augmented(train_transform(ask.crop((512, 512)), scale=(0.5, 2.0), keep=ask.keep))
    if "panoptic" in ask.keep:
        root = ask.folder("coco")
        folder, images = root / "annotations", root / f"{ask.split}2017"
        name = f"panoptic_{ask.split}2017"
        return coco_panoptic.CocoPanoptic(
            folder / f"{name}.json",
            folder / name,
            images,
            crowds=crowds,
            upright=bool(ask.own.upright),
            transform=ask.rescaled(transform),
        )
    place = _coco_place(ask)
    return coco.CocoInstances(
        place.annotations,
        place.images,
        part_of=place.part,
        skip_bad=ask.own.skip_bad,
        upright=ask.own.upright,
        intensity=ask.own.intensity,
        crowds=crowds,
        transform=transform,
    )


def has_val(root: Path, name: str) -> bool:
    """Whether a folder of own files has a split for validation."""
    return (split_folder(root, "val") if name == "folder" else file_of_split(root, "val")) is not None


def _coco_place(ask: _Request) -> CocoPlace:
    """The COCO file of a split: named, or in the root."""
    own = ask.own
    if own.annotations is None:
        if own.images is not None or own.val_annotations is not None:
            raise ValueError("--images and --val-annotations belong to --annotations FILE; pass that too")
        return find_coco(ask.folder("coco"), ask.split, own.val_share)
    if own.val_annotations is not None and own.val_share is not None:
        raise ValueError("--val-annotations and --val-share both say what is val; pass one of them")
    if ask.split == "val" and own.val_annotations is not None:
        return place_of(own.val_annotations, own.images)
    if ask.split == "val" and own.val_share is None:
        raise ValueError(
            f"{own.annotations} is the training data; pass --val-annotations FILE, or --val-share 0.2 to hold out a"
            " fifth of its images"
        )
    return place_of(own.annotations, own.images, val_share=own.val_share, split=ask.split)


def _dsb(ask: _Request) -> SegmentationDataset:
    # displacements in proportion to the paper's 10 pixels in 512
    transform = ask.rescaled(ask.augmented(elastic_transform(ask.crop((256, 256)), std=5.0)))
    root = Path(ask.folder("dsb2018"))
    if (root / "stage1_train").is_dir() or root.name == "stage1_train":
        return dsb.DSB2018Kaggle(root, ask.split, transform=transform)
    return dsb.DSB2018(ask.folder("dsb2018"), ask.split, transform=transform)


DATASETS: dict[str, Builder] = {
    "scenes": _scenes,
    "camvid": _camvid,
    "pets": _pets,
    "voc": _voc,
    "cityscapes": _cityscapes,
    "isbi": _isbi,
    "coco": _coco,
    "dsb2018": _dsb,
    "folder": _folder,
}

VOLUMES = ("volumes", "msd", "nnunet")
"""The datasets of volumes; they carry "semantic"."""

ANNOTATIONS_OF: dict[str, tuple[str, ...]] = dict.fromkeys(DATASETS, ("semantic",)) | {
    "scenes": ("semantic", "instances", "panoptic"),
    "coco": ("instances", "panoptic"),
    "dsb2018": ("instances",),
}
"""What the samples of each dataset carry; of "coco" with its panoptic files, where "panoptic" is asked for."""


def build_dataset(
    name: str,
    root: Path | None,
    split: str,
    *,
    size: tuple[int, int] | None = None,
    augment: bool = False,
    keep: tuple[str, ...] = ("semantic",),
    geometry: Geometry | None = None,
    fold: int | None = None,
    own: OwnFiles | None = None,
) -> SegmentationDataset:
    """One split of a dataset by name.

    Args:
        name: "scenes" (synthetic, no download), "camvid", "pets", "voc", "cityscapes", "isbi", "coco", "dsb2018", or
            "folder": ``root/{split}/{images,labels}`` with ``root/categories.json``, and the layouts of
            :func:`seglib.data.pairing.find_pairs`. Of volumes "volumes" (synthetic,
            no download), "msd" (Medical Segmentation Decathlon) or "nnunet" (nnU-Net's raw layout): whole cases.
        root: the dataset's folder; "scenes" and "volumes" need none. That of "coco" holds
            ``annotations/instances_train2017.json``, ``train2017`` and the same for val, or an export of Roboflow or
            CVAT, see :func:`seglib.data.coco_layouts.find_coco`; for "panoptic"
            ``annotations/panoptic_train2017.json`` and the folder of its PNGs beside it.
        split: "train", "val" or "test". The test labels of "voc", "cityscapes", "coco", "msd" and "nnunet" are not
            public.
        size: ``(H, W)``; the dataset's own default when ``None``. Scenes, CamVid, pets and your own folder
            (:data:`RESIZES`) are resized to it. VOC, Cityscapes, ISBI, COCO and DSB 2018 keep their pixels: it is the
            crop of training there, and images are evaluated whole.
        augment: whether to add the random crops, flips and colours of training. Volumes have none here: they are
            trained on patches, see :class:`seglib.data.patches.Patches`. Crowds of "coco" are then left out.
        keep: the annotations that the caller needs, of "semantic", "instances" and "panoptic". Training carries these
            alone; without augmentation a sample has all that the dataset has.
        geometry: the size at which the model wants to see an image, for the training of datasets that keep their
            pixels: samples are resized to it before augmentation, and without ``size`` the crop is its square, if it is
            one. Datasets that are resized on reading, and evaluation, take no notice of it.
        own: how your own images are divided and read.
        fold: number of the fold, 0 to 4, whose cases are "val", for "msd" and "nnunet"; ``None`` is the first.

    Raises:
        FileNotFoundError: when the root or a file in it is missing.
        ValueError: for an unknown name, split or fold, no root, an argument that the dataset has no use for, an
            annotation that it hasn't, or a folder that isn't laid out as it should be.
    """
    own = own or OwnFiles()
    own.check_used(name)
    ask = _Request(root, split, size, augment, keep, geometry, own)
    if name in VOLUMES:
        return _volumes(name, ask, fold)
    if name not in DATASETS:
        raise ValueError(f"dataset {name!r} is unknown; choose one of {', '.join((*DATASETS, *VOLUMES))}")
    if absent := [k for k in keep if k not in ANNOTATIONS_OF[name]]:
        others = [d for d, has in ANNOTATIONS_OF.items() if set(keep) <= set(has)]
        raise ValueError(
            f"dataset {name!r} has no {absent[0]} annotations, only {', '.join(ANNOTATIONS_OF[name])};"
            f" datasets with {' and '.join(keep)}: {', '.join(others) or 'none'}"
        )
    if fold is not None:
        raise ValueError(_FIXED.format(name))
    return DATASETS[name](ask)


_FIXED = "the splits of dataset {!r} are fixed; --fold is for msd and nnunet"


def _volumes(name: str, ask: _Request, fold: int | None) -> SegmentationDataset:
    from seglib.data import msd, nnunet_raw, volumes

    if ask.size is not None or ask.augment or ask.keep != ("semantic",):
        raise ValueError(f"dataset {name!r} has whole volumes with a class for every voxel; train on Patches of them")
    if name == "msd":
        return msd.MSD(ask.folder(name), ask.split, fold=fold or 0)
    if name == "nnunet":
        return nnunet_raw.NNUNetRaw(ask.folder(name), ask.split, fold=fold or 0)
    if fold is not None:
        raise ValueError(_FIXED.format(name))
    ask.check_split()
    return volumes.Volumes(VOLUMES_LENGTH[ask.split], split=ask.split)
