"""Why a plan has the numbers that it has."""

from __future__ import annotations

from dataclasses import dataclass

from seglib.planning.fingerprint import Fingerprint
from seglib.planning.trace import Trace


@dataclass(frozen=True)
class Reason:
    """The reason for one number of a plan.

    Attributes:
        configuration: of the number; empty for all.
        number: its name, that of a field of the plan or of the configuration.
        value: the number as text.
        rule: how it is decided.
        because: the facts of this data set from which it follows.
        change: what it would be with other facts.
    """

    configuration: str
    number: str
    value: str
    rule: str
    because: str
    change: str


def reasons(trace: Trace, fingerprint: Fingerprint) -> tuple[Reason, ...]:
    """The reason for every number that the trace leads to."""
    return ()
