"""Delays longer than the queue's own: the message hops (decision 4).

It is sent with the longest delay the queue gives and its real due time in the envelope; whoever
receives it too early sends it on with what remains. Nothing waits in a worker.
"""

from __future__ import annotations

from typing import Final

from cloudq.message import Envelope

#: Header that counts the hops; a message that hopped may exist twice after a crash.
HOPS: Final = "cloudq-hops"

#: Seconds before its due time at which a task may start: clocks differ, brokers round.
TOLERANCE: Final = 0.01

#: The end of the year 9999, in seconds since the epoch.
LAST_MOMENT: Final = 253_402_300_800.0


def first_delay(due: float | None, now: float, max_delay: float) -> float:
    """Seconds of delay to send the message with; 0 when it is due."""
    if due is None or due <= now:
        return 0.0
    return min(due - now, max_delay)


def remaining(envelope: Envelope, now: float) -> float:
    """Seconds until the task may run; 0 when it may run now."""
    if envelope.eta is None:
        return 0.0
    rest = envelope.eta - now
    return rest if rest > TOLERANCE else 0.0


def hops(envelope: Envelope) -> int:
    """How often the message was sent on."""
    count = envelope.headers.get(HOPS, 0)
    return count if isinstance(count, int) else 0


def hopped(envelope: Envelope) -> Envelope:
    """The message to send on."""
    return envelope.with_(headers={**envelope.headers, HOPS: hops(envelope) + 1})


def may_repeat(envelope: Envelope) -> Envelope:
    """The message, marked as one that may come twice: whoever gets it looks at the record before running it."""
    return envelope if hops(envelope) else envelope.with_(headers={**envelope.headers, HOPS: 1})


def checked(name: str, given: float, moment: float) -> float:
    """``moment`` (seconds since the epoch). Raises ValueError for one that no calendar has."""
    if moment < LAST_MOMENT:  # nor is NaN
        return moment
    hint = "; seconds are expected, not milliseconds" if 1e11 < given < 1e14 else ""
    raise ValueError(f"{name}: {given!r} is beyond the year 9999{hint}")
