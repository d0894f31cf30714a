"""Fingerprints that the tests of planning share."""

from seglib.planning.fingerprint import Fingerprint, ForegroundStatistics

STATISTICS = ForegroundStatistics(80.0, 90.0, 40.0, -500.0, 900.0, -60.0, 250.0)


def alike(spacing, size, cases, *, modalities=("MRI",), classes=("background", "organ"), kept=1.0):
    """The fingerprint of cases that are all the same."""
    return Fingerprint(
        "Set", modalities, classes, (spacing,) * cases, (size,) * cases, kept, (STATISTICS,) * len(modalities)
    )


HIPPOCAMPUS = alike((1.0, 1.0, 1.0), (36, 50, 35), 260, classes=("background", "anterior", "posterior"))
LARGE = alike((3.0, 2.0, 2.0), (326, 400, 400), 100, modalities=("CT", "PET"), kept=0.7)
