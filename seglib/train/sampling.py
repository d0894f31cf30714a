"""The order of the training samples, as a pure function of the seed.

A run sees one endless stream: epoch after epoch, each a new permutation. Its position follows from the step alone, and
each sample draws its augmentation from a generator seeded by (seed, epoch, index). So a resumed run sees what the
uninterrupted run would have seen, whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import torch
from torch.utils.data import Dataset, Sampler

from seglib.ops.geometry import Geometry
from seglib.types import Sample

_MIX = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio: neighbouring keys land far apart


def mix_seed(*keys: int) -> int:
    """One 63-bit seed from several integers (the finaliser of SplitMix64, Steele et al. 2014, after each key)."""
    z = 0
    for key in keys:
        z = (z + key + _MIX) & (2**64 - 1)
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        z ^= z >> 31
    return z >> 1


class StreamBatches(Sampler[list[tuple[int, int]]]):
    """Batches of ``(epoch, index)`` from position ``start`` of the stream.

    Args:
        length: number of samples in the dataset.
        batch_size: samples in one batch.
        batches: number of batches to yield.
        start: number of batches to skip at the beginning of the stream.
        seed: seed of the permutations, one of which is drawn for each epoch.
    """

    def __init__(self, length: int, batch_size: int, batches: int, *, start: int = 0, seed: int = 0) -> None:
        if length < 1:
            raise ValueError("the training dataset is empty; check its folder or length")
        self.length, self.batch_size, self.batches, self.start, self.seed = length, batch_size, batches, start, seed
        self.drop_last = False

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, torch.empty(0, dtype=torch.int64)
        for b in range(self.start, self.start + self.batches):
            batch = []
            for position in range(b * self.batch_size, (b + 1) * self.batch_size):
                if position // self.length != epoch:
                    epoch = position // self.length
                    generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
                    order = torch.randperm(self.length, generator=generator)
                batch.append((epoch, int(order[position % self.length])))
            yield batch


class Samples(Protocol):
    """A map-style dataset of samples."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int) -> Sample:
        """The sample at ``index``."""


class SeededDataset(Dataset[Sample]):
    """``dataset`` by ``(epoch, index)``, with torch's random state a function of (seed, epoch, index) inside."""

    def __init__(self, dataset: Samples, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        with torch.random.fork_rng(devices=[]):
            # the CPU's generator alone: torch.manual_seed would also queue a call for CUDA, 1 ms each
            torch.default_generator.manual_seed(mix_seed(self.seed, epoch, index))
            return self.dataset[index]


class ResizedFor(Dataset[Sample]):
    """``dataset`` with its images as a model wants to see them; annotations keep their size, in which results count.

    Args:
        dataset: samples.
        geometry: how images are resized.
    """

    def __init__(self, dataset: Samples, geometry: Geometry) -> None:
        self.dataset, self.geometry = dataset, geometry

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        image = self.geometry(sample.image)
        if image is sample.image:
            return sample
        return replace(sample, image=image, output_size=sample.output_size or tuple(sample.image.shape[1:]))
