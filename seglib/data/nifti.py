"""NIfTI files: volumes and label volumes, read in one orientation and written back in the file's own.

The voxels of a NIfTI file lie in the order of the scanner; an affine says where each is in the patient, in the axes
right, anterior, superior. Here every volume is read as ``(C, D, H, W)`` in **LPS** orientation: D runs to superior
(towards the head), H to posterior (the back), W to the patient's left. So the first slice is the lowest, and a slice
drawn with row 0 on top is the usual radiological view. Axes that lie obliquely become the nearest of the three; voxels
are reordered, never resampled. A :class:`VoxelFrame` keeps the way back.

What is read when: :func:`read_frame` reads the header. :func:`read_volume` and :func:`read_label_volume` read the whole
file. An uncompressed file is memory-mapped and converted slab by slab, so that no more than the result is in memory; a
compressed one is decompressed whole first.

Source: the standard, "NIfTI-1 data format", https://nifti.nimh.nih.gov/nifti-1. Headers go through nibabel.
"""

from __future__ import annotations

import gzip
import math
import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.files import atomic_path
from seglib.types import Size

ENDINGS = (".nii.gz", ".nii")

_GEOMETRY = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "pixdim", "xyzt_units"),
)
"""The fields of a header that say where voxels lie."""

_MM = {"mm": 1.0, "unknown": 1.0, "meter": 1000.0, "micron": 0.001}
_HEADER_BYTES = 544  # of a NIfTI-2 header with the flag of its extensions; NIfTI-1 has 352
_SLAB = 2**22  # voxels that are converted at a time


@dataclass(frozen=True, eq=False)
class VoxelFrame:
    """Where the voxels of a file lie: the order of its axes, its affine, and the way to ``(D, H, W)`` and back.

    Attributes:
        shape: the number of voxels along the file's own three axes.
        affine: 4×4 float64, from indices along the file's axes to right, anterior, superior, in the file's unit.
        spacing: millimetres from voxel to voxel ``(z, y, x)``, in the order of ``(D, H, W)``. It is the length of the
            affine's columns, also where the header's ``pixdim`` differs.
        geometry: the header's fields that define the affine, as they are written back.
    """

    shape: Size
    affine: np.ndarray
    spacing: tuple[float, ...]
    geometry: dict[str, np.ndarray]

    @classmethod
    def of_spacing(cls, size: Sequence[int], spacing: Sequence[float]) -> VoxelFrame:
        """The frame of a volume that comes from no file: LPS orientation, its first voxel at the origin.

        Args:
            size: voxels along each axis, ``(D, H, W)``.
            spacing: millimetres from voxel to voxel ``(z, y, x)``.

        Raises:
            ValueError: for another number of axes, a size below 1 or a spacing that isn't positive and finite.
        """
        if len(size) != 3 or min(size) < 1:
            raise ValueError(f"a volume has the size (D, H, W), each at least 1, got {tuple(size)}")
        if len(spacing) != 3 or not all(0 < s < np.inf for s in spacing):
            raise ValueError(f"spacing is three positive numbers of millimetres (z, y, x), got {tuple(spacing)}")
        z, y, x = spacing
        affine = np.diag([-x, -y, z, 1.0])
        header = _nibabel().Nifti1Header()
        header.set_data_shape(tuple(size)[::-1])
        header.set_sform(affine, "scanner")
        header.set_qform(affine, "scanner")
        header.set_xyzt_units("mm")
        return _frame(header, None)

    @property
    def size(self) -> Size:
        """Voxels along each axis, ``(D, H, W)``."""
        return tuple(self.shape[axis] for axis, _ in self._axes)

    @property
    def orientation(self) -> str:
        """Three letters for the directions of the file's axes, such as "LAS" for left, anterior, superior."""
        return "".join(_nibabel().aff2axcodes(self.affine))

    @property
    def canonical_affine(self) -> np.ndarray:
        """4×4, from indices ``(d, h, w)`` to right, anterior, superior in millimetres."""
        steps = np.zeros((4, 4))  # from (d, h, w, 1) to indices along the file's axes
        steps[3, 3] = 1
        for column, (axis, backwards) in enumerate(self._axes):
            steps[axis, column] = -1 if backwards else 1
            steps[axis, 3] = self.shape[axis] - 1 if backwards else 0
        return np.diag([self._unit, self._unit, self._unit, 1]) @ self.affine @ steps

    def same_grid_as(self, other: VoxelFrame) -> bool:
        """Whether both have their voxels at the same places, in whatever order their files store them.

        The tolerance is a tenth of a voxel, at every corner: headers round to float32, and tools to a few decimals,
        which is far less; labels that are off by half a voxel belong to the neighbours.
        """
        if self.size != other.size:
            return False
        corners = np.indices((2, 2, 2)).reshape(3, 8).T * (np.array(self.size) - 1)  # (8, 3)
        moved = (self.canonical_affine - other.canonical_affine) @ np.vstack([corners.T, np.ones(8)])  # (4, 8)
        return bool(np.linalg.norm(moved, axis=0).max() <= 0.1 * min(self.spacing))

    def to_file(self, voxels: np.ndarray) -> np.ndarray:
        """A view of voxels ``(D, H, W, …)`` in the file's axes ``(I, J, K, …)``."""
        axes = self._axes
        turned = voxels[tuple(_way(backwards) for _, backwards in axes)]
        return turned.transpose(*np.argsort([axis for axis, _ in axes]), *range(3, voxels.ndim))

    @property
    def _axes(self) -> tuple[tuple[int, bool], ...]:
        """For D, H and W the file's axis, and whether it runs the other way."""
        places = _nibabel().io_orientation(self.affine)  # (3, 2): right, anterior or superior, and the sign
        axis_of = {int(place): (axis, sign) for axis, (place, sign) in enumerate(places)}
        return tuple((axis_of[place][0], axis_of[place][1] != sign) for place, sign in ((2, 1), (1, -1), (0, -1)))

    @property
    def _unit(self) -> float:
        """Millimetres in the unit of the affine."""
        header = _nibabel().Nifti1Header()
        header["xyzt_units"] = self.geometry["xyzt_units"]
        return _MM[header.get_xyzt_units()[0]]


def read_frame(path: str | os.PathLike[str]) -> VoxelFrame:
    """Where the voxels of a file lie; only the header is read.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming the file, when it is no NIfTI file, has fewer than three axes, or its affine has a column
            that isn't finite and longer than 0 or columns in one plane; also for a unit that isn't a length.
    """
    with _named(path) as file, gzip.open(file) if _is_packed(file) else file.open("rb") as stream:
        return _frame(_header(stream.read(_HEADER_BYTES)), file)


def read_volume(path: str | os.PathLike[str], *, channels: int | None = 1) -> tuple[Tensor, VoxelFrame]:
    """The voxels of a file in its own unit (Hounsfield units of CT), and where they lie.

    A file of three axes has one channel; a fourth axis is that of the channels, as in the Medical Segmentation
    Decathlon. The header's slope and intercept are applied. A file without qform and sform says nothing about left and
    right: as nibabel does, its first axis is taken to run to the patient's left, the others to anterior and superior,
    since its spacing is right all the same. Units of microns and metres are converted, an unknown unit is millimetres.

    Args:
        path: a .nii or .nii.gz file, NIfTI-1 or NIfTI-2.
        channels: the number of channels that the file has to have; ``None`` takes any.

    Returns:
        the image ``(C, D, H, W)`` float32, and its frame.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming the file, as :func:`read_frame`; for another number of axes or channels, voxels that are
            colours or complex numbers, a file that is cut short, and for NaN or infinite voxels.
    """
    with _named(path) as file:
        voxels, scale, frame = _read(file)
        if voxels.ndim == 3:
            voxels = voxels[..., None]
        if channels is not None and voxels.shape[3] != channels:
            raise ValueError(
                f"has {_count(voxels.shape[3])}, and {channels} wanted; use a file with"
                f" {_count(channels)}, or correct the modalities of its dataset.json"
            )
        image = np.empty((voxels.shape[3], *frame.size), np.float32)  # (C, D, H, W)
        of_file = frame.to_file(image.transpose(1, 2, 3, 0))  # (I, J, K, C), a view of the image
        for slab in _slabs(voxels.shape):
            with np.errstate(over="ignore"):  # what float32 can't hold becomes infinite
                of_file[slab] = _scaled(voxels[slab], scale)
            if not (finite := np.isfinite(of_file[slab])).all():
                place = np.argwhere(~finite)[0] + [0, 0, slab[2].start, slab[3].start]  # (4,)
                *voxel, channel = place.tolist()
                raise ValueError(
                    f"has {of_file[tuple(place)]} at voxel {tuple(voxel)} of channel {channel}; replace voxels that"
                    " aren't finite, for example with the lowest value"
                )
    return torch.from_numpy(image), frame


def read_channels(paths: Sequence[str | os.PathLike[str]], channels: int | None = None) -> tuple[Tensor, VoxelFrame]:
    """A case whose channels lie in one file, or each in a file of its own (nnU-Net's layout).

    Args:
        paths: one file with all channels, or one for each, on one grid. They may be stored in different orientations.
        channels: how many there must be; ``None`` takes any number.

    Returns:
        the image ``(C, D, H, W)`` float32, and the frame of the first file.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: without a path, for another number of channels, naming the file that lies on another grid than the
            first; further as :func:`read_volume`.
    """
    if len(paths) == 1:
        return read_volume(paths[0], channels=channels)
    if not paths or channels not in (None, len(paths)):
        raise ValueError(f"{channels or 'one or more'} files are needed, one for each channel, got {len(paths)}")
    first, frame = read_volume(paths[0])
    image = first.new_empty(len(paths), *frame.size)
    image[0] = first[0]
    for channel, path in enumerate(paths[1:], start=1):
        other, frame_of_other = read_volume(path)
        check_grid(path, frame_of_other, paths[0], frame)
        image[channel] = other[0]
    return image, frame


def read_label_volume(path: str | os.PathLike[str]) -> tuple[Tensor, VoxelFrame]:
    """The label ids of a file, as they are stored, and where its voxels lie.

    Whole numbers stored as floats are fine.

    Returns:
        the ids ``(D, H, W)`` int64, at least 0, and the frame.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming the file, as :func:`read_volume`, for ids that are negative or no whole numbers, and for
            several channels.
    """
    with _named(path) as file:
        voxels, scale, frame = _read(file)
        if voxels.ndim == 4 and voxels.shape[3] != 1:
            raise ValueError(f"has {_count(voxels.shape[3])}, and labels have 1; store one id for each voxel")
        voxels = voxels.reshape(voxels.shape[:3], order="F")
        labels = np.empty(frame.size, np.int64)  # (D, H, W)
        of_file = frame.to_file(labels)  # (I, J, K), a view of the labels
        for slab in _slabs((*voxels.shape, 1)):
            part = _scaled(voxels[slab[:3]], scale)
            with np.errstate(invalid="ignore"):  # of NaN, which is found below
                of_file[slab[:3]] = part
            bad = (of_file[slab[:3]] != part) | (part < 0)
            if bad.any():
                i, j, k = np.argwhere(bad)[0].tolist()
                raise ValueError(
                    f"has the label {part[i, j, k]} at voxel {(i, j, k + slab[2].start)}; label ids are whole numbers"
                    " from 0: were the labels interpolated, or is this an image?"
                )
    return torch.from_numpy(labels), frame


def check_grid(
    path: str | os.PathLike[str], frame: VoxelFrame, image_path: str | os.PathLike[str], image: VoxelFrame
) -> None:
    """Check that the voxels of a file lie where those of its image do.

    Raises:
        ValueError: naming both files and how they differ, unless :meth:`VoxelFrame.same_grid_as` holds.
    """
    if frame.same_grid_as(image):
        return
    facts = []
    for f in (frame, image):
        origin = f.canonical_affine[:3, 3]
        facts.append(
            f"{' x '.join(map(str, f.size))} voxels (D x H x W) of {' x '.join(f'{s:.4g}' for s in f.spacing)} mm from"
            f" ({', '.join(f'{v:.4g}' for v in origin)})"
        )
    detail = f"{facts[0]}, the other {facts[1]}" if facts[0] != facts[1] else "their axes point in other directions"
    raise ValueError(
        f"{path} lies on another grid than {image_path}: {detail}; resample it to that grid, or copy the affine if the"
        " voxels are the same"
    )


def write_volume(path: str | os.PathLike[str], image: Tensor | np.ndarray, frame: VoxelFrame) -> None:
    """Write an image to a NIfTI-1 file as float32, in the orientation and with the affine of a frame.

    The file appears whole or not at all. Its affine is float32, as NIfTI-1 has it.

    Args:
        path: the file, which ends in .nii or .nii.gz.
        image: the voxels ``(C, D, H, W)``; several channels become a fourth axis.
        frame: where the voxels lie.

    Raises:
        ValueError: for another ending, an image of another size than the frame's, and voxels that aren't finite.
    """
    voxels = torch.as_tensor(image).detach().cpu().float().numpy()
    if voxels.ndim != 4 or voxels.shape[1:] != frame.size:
        raise ValueError(f"{path}: the frame has {frame.size} voxels, so an image is (C, D, H, W), got {voxels.shape}")
    if not np.isfinite(voxels).all():
        raise ValueError(f"{path}: the image has voxels that are NaN or infinite; replace them")
    of_file = frame.to_file(voxels.transpose(1, 2, 3, 0))  # (I, J, K, C)
    _write(path, of_file if len(voxels) > 1 else of_file[..., 0], frame)


def write_label_volume(path: str | os.PathLike[str], labels: Tensor | np.ndarray, frame: VoxelFrame) -> None:
    """Write label ids to a NIfTI-1 file, in the orientation and with the affine of a frame.

    They are stored as uint8, as int16 where an id is above 255, as int32 where one is above 32767. The file appears
    whole or not at all. For the ids of a dataset's files see :func:`seglib.data.class_tables.labels_to_files`.

    Args:
        path: the file, which ends in .nii or .nii.gz.
        labels: the ids to store ``(D, H, W)``, at least 0.
        frame: where the voxels lie; that of the image.

    Raises:
        ValueError: for another ending, labels of another size than the frame's, and ids that are no whole numbers,
            negative or above 2³¹ − 1.
    """
    voxels = torch.as_tensor(labels).detach().cpu().numpy()
    if voxels.shape != frame.size:
        raise ValueError(f"{path}: the frame has {frame.size} voxels, so labels are (D, H, W), got {voxels.shape}")
    if voxels.dtype.kind not in "iub":
        raise ValueError(f"{path}: label ids are whole numbers, got {voxels.dtype}; take the argmax over the classes")
    low, high = int(voxels.min()), int(voxels.max())
    if low < 0 or high > np.iinfo(np.int32).max:
        raise ValueError(f"{path}: label ids lie in 0..{np.iinfo(np.int32).max}, got {low}..{high}")
    dtype = next(t for t in (np.uint8, np.int16, np.int32) if high <= np.iinfo(t).max)
    _write(path, frame.to_file(voxels).astype(dtype, copy=False), frame)


def _nibabel() -> Any:
    import nibabel  # here, because it takes a while

    return nibabel


@contextmanager
def _named(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The file, after checking that it is one; errors in the block get its name."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist or is no file")
    try:
        if file.stat().st_size == 0:
            raise ValueError("is empty; copy it again")
        yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{file} is cut short or damaged ({error}); copy it again") from error
    except ValueError as error:
        raise ValueError(f"{file} {error}") from error


def _is_packed(file: Path) -> bool:
    """Whether a file is compressed, told by its first bytes: names may lie."""
    with file.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _header(start: bytes) -> Any:
    """The header of a file from its first bytes."""
    nibabel = _nibabel()
    if start[344:348] in (b"ni1\0", b"ni2\0") or start[4:8] == b"ni2\0":
        raise ValueError("is half of a pair of .hdr and .img; convert the pair to one .nii.gz file")
    for header_class, magic, at, length in (
        (nibabel.Nifti1Header, b"n+1\0", 344, 348),
        (nibabel.Nifti2Header, b"n+2\0", 4, 540),
    ):
        if start[at : at + 4] == magic and len(start) >= length:
            header = header_class(start[:length], check=False)  # its check would set a spacing of 0 to 1
            header["pixdim"][0] = header["pixdim"][0] or 1  # the standard takes 0 for 1 here
            try:
                header.get_best_affine(), header.get_data_offset(), header.get_slope_inter()
            except (nibabel.spatialimages.HeaderDataError, ValueError, OverflowError) as error:
                raise ValueError(f"has a damaged header ({error}); convert the volume again") from error
            return header
    raise ValueError("is no NIfTI file; convert it to .nii.gz")


def _frame(header: Any, file: Path | None) -> VoxelFrame:
    """The frame of a header, after checking that it makes sense. The file's name is for a warning."""
    shape = header.get_data_shape()
    if len(shape) < 3:
        raise ValueError(f"is a 2D image of the shape {shape}; a volume has three axes, so stack the slices into one")
    if min(shape) < 1:
        raise ValueError(f"has no voxels: its shape is {shape}")
    try:
        unit = _MM[header.get_xyzt_units()[0]]
    except KeyError:
        code = int(header["xyzt_units"]) % 8
        raise ValueError(f"has the unknown unit {code} of length; set xyzt_units to 2 for millimetres") from None
    pixdim = np.abs(header["pixdim"][1:4].astype(np.float64))
    if header["sform_code"] == 0 and not ((pixdim > 0) & np.isfinite(pixdim)).all():  # qform has its lengths
        raise ValueError(f"has the spacing {_numbers(pixdim)}; set pixdim to the positive distances of its voxels")
    affine = header.get_best_affine().astype(np.float64)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)  # (3,)
    if not (np.isfinite(affine).all() and (lengths > 0).all()):
        raise ValueError(f"has an affine that gives the spacing {_numbers(lengths)}; correct its qform and sform")
    # A gantry tilted by 30 degrees leaves a determinant of 0.87; rounding to float32 of parallel columns 1e-7.
    if abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise ValueError(f"has a singular affine: two axes are parallel in {affine[:3, :3].tolist()}; correct it")
    if not np.allclose(lengths, pixdim, rtol=0.01, atol=0):
        warnings.warn(
            f"{file} has the spacing {_numbers(pixdim)} in pixdim and {_numbers(lengths)} in its affine; the affine"
            " counts, as it does in viewers",
            stacklevel=4,
        )
    geometry = {name: header[name].copy() for name in _GEOMETRY}
    frame = VoxelFrame(tuple(shape[:3]), affine, (), geometry)
    # A header has float32, which makes 0.699999988 of 0.7; the shortest decimal that float32 tells apart is 0.7 again.
    return replace(frame, spacing=tuple(float(str(np.float32(lengths[axis] * unit))) for axis, _ in frame._axes))


def _read(file: Path) -> tuple[np.ndarray, tuple[float, float] | None, VoxelFrame]:
    """The stored voxels in the file's axes, the slope and intercept that they need, if any, and the frame."""
    buffer: Any
    if _is_packed(file):
        buffer = gzip.decompress(file.read_bytes())  # to the end, where the checksum is
    else:
        buffer = np.memmap(file, np.uint8, "r")
    header = _header(bytes(buffer[:_HEADER_BYTES]))
    frame = _frame(header, file)
    shape = header.get_data_shape()
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 4:
        raise ValueError(f"has {len(shape)} axes {shape}; a volume has three, and a fourth for its channels")
    try:
        dtype = header.get_data_dtype()
    except KeyError:
        raise ValueError(f"has the unknown data type {header['datatype']}; convert it") from None
    if dtype.kind not in "iuf":
        raise ValueError(f"has voxels of the type {dtype}; convert colours and complex numbers to one number a voxel")
    offset = max(header.get_data_offset(), header.single_vox_offset)
    needed = offset + dtype.itemsize * math.prod(shape)
    if len(buffer) < needed:
        raise ValueError(f"is cut short: its header asks for {needed} bytes and it has {len(buffer)}; copy it again")
    voxels = np.ndarray(shape, dtype, buffer, offset, order="F")
    slope, inter = header.get_slope_inter()
    return voxels, None if slope is None or (slope, inter) == (1, 0) else (slope, inter), frame


def _scaled(part: np.ndarray, scale: tuple[float, float] | None) -> np.ndarray:
    """The values of stored voxels, computed in float64."""
    return part if scale is None else part * np.float64(scale[0]) + np.float64(scale[1])


def _slabs(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Parts of an array (I, J, K, C) in Fortran order, one after another in the file, of about ``_SLAB`` voxels."""
    step = max(1, _SLAB // (shape[0] * shape[1]))
    for channel in range(shape[3]):
        for first in range(0, shape[2], step):
            yield slice(None), slice(None), slice(first, first + step), slice(channel, channel + 1)


def _way(backwards: bool) -> slice:
    return slice(None, None, -1) if backwards else slice(None)


def _count(channels: int) -> str:
    return "1 channel" if channels == 1 else f"{channels} channels"


def _numbers(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in values) + ")"


def _write(path: str | os.PathLike[str], voxels: np.ndarray, frame: VoxelFrame) -> None:
    """Write voxels (I, J, K) or (I, J, K, C) with the geometry of a frame."""
    final = Path(path)
    if not final.name.endswith(ENDINGS):
        raise ValueError(f"{final} must end in {' or '.join(ENDINGS)}")
    header = _nibabel().Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    header["vox_offset"] = 352  # 348 bytes of header and 4 that say that it has no extensions
    for name, value in frame.geometry.items():
        header[name] = value
    start = BytesIO()
    header.write_to(start)
    with (
        atomic_path(final) as temporary,
        temporary.open("wb") as file,
        # without a name and a time, so that the same voxels give the same bytes
        gzip.GzipFile("", "wb", 1, file, 0) if final.suffix == ".gz" else nullcontext(file) as stream,
    ):
        stream.write(start.getvalue().ljust(352, b"\0"))
        for part in voxels.T:  # (J, I) or (K, J, I): the first axis varies fastest in the file
            stream.write(part.tobytes())
