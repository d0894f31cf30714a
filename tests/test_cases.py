"""Volumes behind memory maps: what is stored, what a second run reads, and what a kill leaves."""

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from seglib.data import cases as module
from seglib.data.cases import StoredCases
from seglib.data.checks import count_labels, count_samples
from seglib.types import VOID, Category, Sample

CATEGORIES = tuple(Category(i, n, False, (i, i, i)) for i, n in enumerate(("background", "organ", "lesion")))


class Listed:
    """A dataset of the samples that it is given; counts how often one is read."""

    size, void_id, file_ids = None, 255, (0, 1, 2)

    def __init__(self, *samples: Sample, categories=CATEGORIES, version="1") -> None:
        self.samples, self.categories, self.version, self.reads = samples, categories, version, 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        self.reads += 1
        return self.samples[index]

    def source(self, index: int) -> str:
        return f"{self.samples[index].id}, version {self.version}"


def volume(image: Tensor | None = None, semantic: Tensor | None = None, name: str = "liver_7") -> Sample:
    if image is None:
        image = torch.arange(24).view(1, 2, 3, 4) - 1000.0
    if semantic is None:
        semantic = torch.tensor([[[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, VOID]], [[0] * 4, [0, 2, 1, 0], [0] * 4]])
    return Sample(image, name, semantic=semantic, spacing=(2.5, 0.8, 0.7))


@pytest.mark.parametrize("stored", [True, False])
def test_a_stored_case_is_the_sample(tmp_path, stored):
    cases = StoredCases(Listed(volume()), tmp_path if stored else None)
    for _ in range(2):  # stored on the way, then read
        sample = cases[0]
        assert (sample.id, sample.spacing) == ("liver_7", (2.5, 0.8, 0.7))
        assert sample.image.tolist() == volume().image.tolist()
        assert sample.semantic.tolist() == volume().semantic.tolist()
        assert (sample.image.dtype, sample.semantic.dtype) == (torch.int16, torch.uint8)
    assert (len(cases), cases.categories, cases.file_ids, cases.void_id) == (1, CATEGORIES, (0, 1, 2), 255)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ((0, 255), torch.uint8),
        ((0, 256), torch.int16),
        ((-1, 255), torch.int16),
        ((-32768, 32767), torch.int16),
        ((0, 32768), torch.float32),
        ((0, 0.5), torch.float32),
        ((-1024, 1e-20), torch.float32),
    ],
)
def test_an_image_is_stored_in_the_smallest_type_that_loses_nothing(tmp_path, values, dtype):
    image = torch.tensor(values, dtype=torch.float32).view(1, 1, 1, 2)
    sample = StoredCases(Listed(volume(image, torch.zeros(1, 1, 2, dtype=torch.int64))), tmp_path)[0]
    assert sample.image.dtype == dtype
    assert sample.image.float().equal(image)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not list a process's memory maps")
def test_a_case_is_mapped_and_writing_to_it_leaves_the_file_alone(tmp_path):
    cases = StoredCases(Listed(volume()), tmp_path)
    sample = cases[0]
    maps = Path("/proc/self/maps").read_text()
    assert all(str(path) in maps for part in ("image", "labels") for path in tmp_path.glob(f"*.{part}.npy"))
    sample.image.zero_()
    assert cases[0].image.equal(volume().image.short())


def test_a_second_run_and_a_split_with_the_same_cases_read_no_source(tmp_path):
    list(StoredCases(Listed(volume(name="a"), volume(name="b")), tmp_path))
    again = Listed(volume(name="b"), volume(name="c"))
    assert [s.id for s in StoredCases(again, tmp_path)] == ["b", "c"]
    assert again.reads == 1  # of c


def test_cases_in_memory_are_read_once():
    dataset = Listed(volume(), volume(name="b"))
    cases = StoredCases(dataset)
    assert [cases[i].id for i in (1, 0, 1, 0)] == ["b", "liver_7", "b", "liver_7"]
    assert dataset.reads == 2


def test_a_changed_source_or_class_table_is_another_case(tmp_path):
    StoredCases(Listed(volume()), tmp_path)[0]
    moved = volume(volume().image + 1)
    assert StoredCases(Listed(moved, version="2"), tmp_path)[0].image.equal(moved.image.short())
    assert StoredCases(Listed(volume()), tmp_path)[0].image.equal(volume().image.short())  # the old one is still there
    other = Listed(volume(), categories=(*CATEGORIES[:2], replace(CATEGORIES[2], name="vessel")))
    StoredCases(other, tmp_path)[0]
    assert other.reads == 1


def test_a_case_knows_its_foreground_without_background_and_void(tmp_path):
    case = StoredCases(Listed(volume()), tmp_path).case(0)
    assert case.voxels == {0: 19, 1: 3, 2: 1, VOID: 1}
    assert {label: places.tolist() for label, places in case.foreground.items()} == {1: [5, 6, 18], 2: [17]}


def test_a_case_without_foreground_has_none():
    empty = volume(semantic=torch.full((2, 3, 4), VOID))
    cases = StoredCases(Listed(empty))
    assert cases.case(0).foreground == {}
    assert cases.foreground_values(0).shape == (1, 0)


def test_of_a_large_class_evenly_spaced_voxels_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAMPLED_VOXELS", 4)
    semantic = torch.zeros(1, 2, 10, dtype=torch.int64)
    semantic[0, 0], semantic[0, 1, :3] = 1, 2
    image = torch.arange(20.0).view(1, 1, 2, 10) + 0.5
    cases = StoredCases(Listed(volume(image, semantic)), tmp_path)
    assert {k: v.tolist() for k, v in cases.case(0).foreground.items()} == {1: [0, 2, 5, 7], 2: [10, 11, 12]}
    # 4 of the 10 voxels of class 1 are known, so the values hold 4 tenths of class 2, rounded up
    assert cases.foreground_values(0).tolist() == [[0.5, 2.5, 5.5, 7.5, 10.5, 11.5]]


def test_labels_are_counted_from_what_is_stored(tmp_path):
    dataset = Listed(volume(), volume(semantic=torch.full((2, 3, 4), 2), name="b"))
    cases = StoredCases(dataset, tmp_path)
    assert count_labels(cases, "semantic") == count_samples(dataset.samples, "semantic", 3, 2)
    with pytest.raises(ValueError, match="'instances'"):
        count_labels(cases, "instances")


def kill_while_storing(folder: Path) -> None:
    def half(path, values) -> None:
        Path(path).write_bytes(values.tobytes()[:5])
        os.kill(os.getpid(), signal.SIGKILL)

    np.save = half
    StoredCases(Listed(volume()), folder)[0]


def test_a_process_that_is_killed_while_storing_leaves_no_half_case(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=kill_while_storing, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (rest,) = tmp_path.iterdir()
    assert rest.name.startswith(".")  # a temporary file, which no reader takes for a case
    StoredCases(Listed(volume()), tmp_path)[0]
    assert rest.exists()  # it might be that of a living process
    os.utime(rest, (0, 0))
    for path in tmp_path.glob("*.json"):
        path.unlink()
    assert StoredCases(Listed(volume()), tmp_path)[0].image.equal(volume().image.short())
    assert not rest.exists()


def test_a_file_that_another_worker_finishes_meanwhile_is_no_fault(tmp_path, monkeypatch):
    StoredCases(Listed(volume()), tmp_path)[0]
    (stored,) = tmp_path.glob("*.json")
    gone = tmp_path / f".{stored.stem}.image.npy"  # listed, and renamed before its age is asked for
    stored.unlink()
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([gone]))
    assert StoredCases(Listed(volume()), tmp_path)[0].image.equal(volume().image.short())


def test_workers_store_and_read_in_one_folder(tmp_path):
    dataset = Listed(*(volume(torch.full((1, 2, 3, 4), float(i)), name=str(i)) for i in range(3)))
    cases = StoredCases(dataset, tmp_path)
    order = [0, 0, 1, 1, 2, 2]  # each case is asked for by both workers at the same time
    loader = DataLoader(
        cases, sampler=order, batch_size=None, num_workers=2, prefetch_factor=1, multiprocessing_context="fork"
    )
    assert [int(s.image.max()) for s in loader] == order
    assert len(list(tmp_path.iterdir())) == 3 * 4


def with_label(label: int) -> Tensor:
    labels = torch.zeros(2, 3, 4, dtype=torch.int64)
    labels[1, 0, 2] = label
    return labels


def nan(sample: Sample, value: float = float("nan")) -> Sample:
    sample.image[0, 1, 2, 3] = value
    return sample


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (Sample(torch.zeros(1, 3, 4), "slice", semantic=torch.zeros(3, 4).long()), r"'slice' is no volume .*one slice"),
        (replace(volume(), semantic=None), "'liver_7' has no semantic map"),
        (volume(semantic=torch.zeros(2, 3, 5).long()), r"map is \(2, 3, 5\) and the image \(2, 3, 4\)"),
        (volume(torch.zeros(1, 0, 3, 4), torch.zeros(0, 3, 4).long()), "'liver_7' has no voxels"),
        (nan(volume()), "'liver_7' has NaN or infinite voxels"),
        (nan(volume(), float("inf")), "'liver_7' has NaN or infinite voxels"),
        (volume(semantic=with_label(3)), r"'liver_7', slice 1: label 3 at \(row 0, column 2\) is not in 0..2 or 255"),
        (volume(semantic=with_label(256)), "'liver_7', slice 1: label 256 at"),
        (volume(semantic=with_label(-1)), "'liver_7', slice 1: label -1 at"),
        (volume(semantic=torch.zeros(2, 3, 4)), "'liver_7', slice 0: a label is an integer"),
        (replace(volume(), spacing=(0.0, 1.0, 1.0)), r"three positive numbers .* got \(0.0, 1.0, 1.0\)"),
        (replace(volume(), spacing=(1.0, 1.0)), r"got \(1.0, 1.0\)"),
        (replace(volume(), spacing=(1.0, 1.0, float("nan"))), "three positive numbers"),
    ],
)
def test_a_sample_that_nothing_could_be_learned_from_is_named(tmp_path, sample, message):
    with pytest.raises(ValueError, match=message):
        StoredCases(Listed(sample), tmp_path)[0]
    assert not list(tmp_path.iterdir())


def test_a_sample_without_spacing_stays_without(tmp_path):
    assert StoredCases(Listed(replace(volume(), spacing=None)), tmp_path)[0].spacing is None


@pytest.mark.parametrize("ending", ["image.npy", "foreground.npy", "json"])
def test_a_damaged_file_is_named(tmp_path, ending):
    cases = StoredCases(Listed(volume()), tmp_path)
    cases[0]
    (path,) = tmp_path.glob(f"*.{ending}")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=f"{path.name} is damaged .* delete it"):
        cases[0]


def test_no_cases_and_cases_of_unknown_source_are_refused(tmp_path):
    with pytest.raises(ValueError, match="dataset is empty"):
        StoredCases(Listed())

    class WithoutSource:
        categories, file_ids, void_id, size = CATEGORIES, (0, 1, 2), 255, None

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Sample:
            return volume()

    with pytest.raises(ValueError, match=r"WithoutSource .* source\(index\)"):
        StoredCases(WithoutSource(), tmp_path)
    assert len(StoredCases(WithoutSource())[0].image) == 1
    with pytest.raises(IndexError, match="no case 1 among 1"):
        StoredCases(WithoutSource())[1]
