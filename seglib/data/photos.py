"""Which files ``seglib predict`` reads and writes: a photo, or a folder of them, and a PNG for each."""

from __future__ import annotations

from pathlib import Path

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def photos_at(path: Path) -> list[Path]:
    """The photo at ``path``; of a folder, all photos in it by name, without those in folders below and hidden ones.

    Raises:
        FileNotFoundError: when there is nothing at ``path``.
        ValueError: when a folder holds no photo.
    """
    if path.is_dir():
        photos = sorted(
            p for p in path.iterdir() if p.suffix.lower() in ENDINGS and not p.name.startswith(".") and p.is_file()
        )
        if not photos:
            raise ValueError(f"{path} holds no photo; expected files ending in {', '.join(ENDINGS)}")
        return photos
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    return [path]


def png_targets(out: Path | None, photos: list[Path], asked: Path) -> list[Path]:
    """Where the PNG of each photo goes; refuses beforehand what would only fail, or overwrite, half-way.

    Args:
        out: what the user named: a PNG file for a photo, a folder for a folder. ``None`` gives an empty list.
        photos: of :func:`photos_at`.
        asked: the path that they were found at.

    Raises:
        ValueError: when ``out`` is a file for a folder or no PNG for a photo, or when two photos would share a result
            or a result would replace a photo.
    """
    if out is None:
        return []
    if not asked.is_dir():
        if out.suffix.lower() != ".png":
            raise ValueError(f"{out} is no name of a PNG file; for one photo name a file that ends in .png")
        targets = [out]
    else:
        if out.suffix.lower() == ".png" or out.is_file():
            raise ValueError(f"{asked} is a folder of photos, {out} a file; name a folder for the results")
        targets = [out / f"{p.stem}.png" for p in photos]
        taken: dict[Path, Path] = {}
        for photo, target in zip(photos, targets, strict=True):
            if target in taken:
                raise ValueError(f"{taken[target]} and {photo} would both become {target}; rename one of them")
            taken[target] = photo
    originals = {p.resolve() for p in photos}
    for target in targets:
        if target.resolve() in originals:
            raise ValueError(f"{target} is one of the photos and would be overwritten; choose another place")
    return targets
