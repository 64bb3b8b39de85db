"""What is to become of a message: the word of the lifecycle, applied by a driver (worker, Lambda)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Ack:
    """Settled: delete it. ``already``: it was deleted before the task ran (early ack)."""

    already: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """Give it back: visible again after ``delay`` seconds."""

    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Hold(Release):
    """As Release; but a driver that can, keeps the message under its lease for ``delay`` seconds and
    asks again then: so it keeps its place, and no receipt is burnt."""


@dataclass(frozen=True, slots=True)
class Bury:
    """Move it to the dead-letter queue with a reason (a word) and a detail (a sentence)."""

    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Abandon:
    """The lease was lost: somebody else may hold the message, so touch nothing."""


Verdict: TypeAlias = Ack | Release | Bury | Abandon
ACK = Ack()
ABANDON = Abandon()
