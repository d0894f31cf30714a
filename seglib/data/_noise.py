"""Random numbers and smooth noise that are the same on every machine and with every library version.

A value is a hash of its address, ``(seed, index, stream, counter)``, made with integer multiplications and shifts, so
any part of a scene can be drawn in any order and in any process. The floats made from it are exact multiples of
2^-24, and whatever follows uses only operations that IEEE 754 defines to the last bit (+, -, *, /, sqrt, floor and
comparisons): no library stream, no exp, sin or pow, and no sum whose order is up to the library.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
"""float32 throughout: an operation of a float32 array with a Python number stays float32."""

_MASK = (1 << 64) - 1
_BLOCK = 64  # numbers hashed at a time by ``Draws``


def _mix64(x: int) -> int:
    """The finaliser of splitmix64: a bijection of 64-bit integers that flips about half of the output bits."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)


def scene_key(seed: int, index: int) -> int:
    """The 64-bit key of a scene."""
    return _mix64(_mix64(seed + 0x9E3779B97F4A7C15 & _MASK) + index * 0xD1342543DE82EF95 & _MASK)


def hashed(key: int, stream: int, count: int, start: int = 0) -> NDArray[np.uint32]:
    """``count`` independent 32-bit integers of one stream, from counter ``start`` on.

    The mixer is a two-round multiply-xorshift with constants found by C. Wellons' search for low bias
    ("Prospecting for hash functions", 2018).
    """
    word = _mix64(key + stream * 0x9E3779B97F4A7C15 & _MASK)
    x = np.arange(start, start + count, dtype=np.uint32)
    x *= np.uint32(0x9E3779B1)
    x += np.uint32(word & 0xFFFFFFFF)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= np.uint32(word >> 32)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x


class Draws:
    """A stream of uniform numbers: ``draws()`` is in [0, 1), ``draws(low, high)`` in [low, high)."""

    def __init__(self, key: int, stream: int) -> None:
        self._key, self._stream, self._start = key, stream, 0
        self._block: list[float] = []

    def __call__(self, low: float = 0.0, high: float = 1.0) -> float:
        """The next number of the stream."""
        if not self._block:
            self._refill()
        return low + (high - low) * self._block.pop()

    def _refill(self) -> None:
        values = hashed(self._key, self._stream, _BLOCK, self._start)
        self._start += _BLOCK
        self._block = ((values >> np.uint32(8)).astype(np.float64) * 2.0**-24).tolist()

    def whole(self, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``, both included."""
        return low + math.floor(self() * (high - low + 1))

    def many(self, count: int) -> tuple[float, ...]:
        """``count`` numbers in [0, 1), at most 64."""
        if len(self._block) < count:
            self._refill()
        taken = tuple(self._block[-count:])
        del self._block[-count:]
        return taken


def smooth_noise(key: int, stream: int, rows: Floats, columns: Floats) -> Floats:
    """Value noise in [-1, 1]: hashed values on the integer grid, smooth in between.

    Args:
        key: the key of the scene.
        stream: which noise of this scene.
        rows: ``(H,)`` grid coordinates of the rows, at least 0.
        columns: ``(W,)`` grid coordinates of the columns, at least 0.

    Returns:
        ``(H, W)`` float32.
    """
    i, j = np.floor(rows).astype(np.intp), np.floor(columns).astype(np.intp)
    height, width = int(i.max()) + 2, int(j.max()) + 2
    values = (hashed(key, stream, height * width) >> np.uint32(8)).astype(np.float32)
    grid = (values * np.float32(2.0**-23) - np.float32(1)).reshape(height, width)
    # Columns first, while the grid is small; then whole rows are copied, which is fast.
    f = columns - j.astype(np.float32)
    f = f * f * (3 - 2 * f)  # (W,)
    grid = grid[:, j] * (1 - f) + grid[:, j + 1] * f  # (height, W)
    g = rows - i.astype(np.float32)
    g = (g * g * (3 - 2 * g))[:, None]  # (H, 1)
    steps = grid[1:] - grid[:-1]
    out = steps[i]  # (H, W)
    out *= g
    out += grid[i]
    return out
