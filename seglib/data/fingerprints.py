"""Which images a model was trained on: a code of each one's content that its weights remember, for own files."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

MOST = 20_000
"""Images of a data set whose fingerprints are worth the time; larger ones have a division of their own."""

_BLOCK, _BLOCKS = 2**16, 4  # bytes; a file up to 256 kB is read whole
_DIGITS = 16


def fingerprints(paths: Sequence[Path]) -> str:
    """16 hexadecimal digits for each file, sorted and without a space between.

    Files with the same content have the same digits, whatever they are called. Of large files the size and four blocks
    count.
    """
    return "".join(sorted(map(_fingerprint, paths)))


def count_known(paths: Sequence[Path], known: str) -> int:
    """How many of the files are among those whose :func:`fingerprints` are ``known``."""
    codes = set(_split(known))
    return sum(code in codes for code in _split(fingerprints(paths))) if codes else 0


def _split(codes: str) -> list[str]:
    return [codes[i : i + _DIGITS] for i in range(0, len(codes), _DIGITS)]


def _fingerprint(path: Path) -> str:
    size = path.stat().st_size
    code = blake2b(str(size).encode(), digest_size=_DIGITS // 2)
    with open(path, "rb") as file:
        for n in range(_BLOCKS):
            file.seek(max(0, size - _BLOCK) * n // (_BLOCKS - 1))
            code.update(file.read(_BLOCK))
    return code.hexdigest()
