"""Local times to moments, where clocks are put forward and back."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

_MINUTE: Final = timedelta(minutes=1)
_HOUR: Final = timedelta(hours=1)


def stamps(naive: datetime, zone: tzinfo) -> tuple[float, float]:
    """The moment of a local time, read before and after a change of the clocks; mostly the same."""
    aware = naive.replace(tzinfo=zone)
    return aware.timestamp(), aware.replace(fold=1).timestamp()


def exists(naive: datetime, zone: tzinfo) -> bool:
    """False for a local time that the clocks jump over."""
    aware = naive.replace(tzinfo=zone)
    return aware.astimezone(UTC).astimezone(zone).replace(tzinfo=None, fold=0) == naive


def is_ambiguous(naive: datetime, zone: tzinfo) -> bool:
    """Does this local time come twice?"""
    first, second = stamps(naive, zone)
    return first != second and exists(naive, zone)


def moments(start: datetime, minutes: Iterable[int], zone: tzinfo, fixed: bool) -> list[float]:
    """The moments of these minutes of the local hour that begins at ``start``, sorted.

    The rule is Debian's cron's. ``fixed`` (a task at certain times of the day): a time that does not
    exist counts as the first that does, a time that comes twice counts once, the first time.
    Otherwise (a task every so often) real time counts: what does not exist is left out, what
    comes twice counts twice.
    """
    first, second = stamps(start, zone)
    end, end_second = stamps(start + _HOUR, zone)
    if first == second and end == end_second and end - first == 3600.0:
        return [first + 60.0 * minute for minute in sorted(minutes)]
    found: set[float] = set()
    for minute in minutes:
        naive = start + minute * _MINUTE
        if not exists(naive, zone):
            if fixed:
                found.add(stamps(_first_after_gap(naive, zone), zone)[0])
            continue
        first, second = stamps(naive, zone)
        found.add(first)
        if not fixed:
            found.add(second)
    return sorted(found)


def _first_after_gap(naive: datetime, zone: tzinfo) -> datetime:
    while not exists(naive, zone):
        naive += _MINUTE
    return naive
