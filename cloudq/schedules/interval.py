"""``schedule(timedelta(minutes=5))``: the same time again and again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final

from cloudq.errors import ScheduleError

#: Microseconds: shorter intervals are a loop inside a task, not a schedule.
SHORTEST: Final = 1_000_000


class schedule:  # noqa: N801  Celery's name
    """Every ``run_every`` (a timedelta, or seconds; at least one second).

    The slots are on the clock: multiples of the interval since ``anchor``, which is midnight of
    1970-01-01 UTC unless given. So every ten minutes means :00, :10, :20, whenever beat was
    started, and a restart moves nothing (Celery counts from its own start instead).

    Raises ScheduleError.
    """

    __slots__ = ("_anchor", "_every")

    def __init__(self, run_every: timedelta | float, anchor: datetime | None = None) -> None:
        if isinstance(run_every, timedelta):
            every = run_every // timedelta(microseconds=1)
        elif isinstance(run_every, int | float) and not isinstance(run_every, bool) and 0 < run_every < 1e12:
            every = round(run_every * 1_000_000)
        else:
            raise ScheduleError(f"an interval is a timedelta or a number of seconds, got {run_every!r}")
        if every < SHORTEST:
            raise ScheduleError(f"an interval is at least one second, got {run_every!r}")
        if anchor is not None and not isinstance(anchor, datetime):
            raise ScheduleError(f"anchor is a datetime with a time zone, got {anchor!r}")
        if anchor is not None and anchor.tzinfo is None:
            raise ScheduleError(f"anchor {anchor!r} needs a time zone: datetime(..., tzinfo=UTC)")
        self._every = every
        self._anchor = 0 if anchor is None else round(anchor.timestamp() * 1_000_000)

    @property
    def run_every(self) -> timedelta:
        """The interval."""
        return timedelta(microseconds=self._every)

    @property
    def anchor(self) -> datetime:
        """The moment that the slots are counted from."""
        return datetime.fromtimestamp(self._anchor / 1_000_000, UTC)

    def next_after(self, moment: float, zone: tzinfo) -> float | None:
        """See ``Schedule.next_after``; an interval knows no time zone."""
        count = (round(moment * 1_000_000) - self._anchor) // self._every + 1
        return (self._anchor + count * self._every) / 1_000_000

    def plain(self) -> dict[str, Any]:
        """``{"every": 300}``."""
        every = self._every / 1_000_000
        found: dict[str, Any] = {"every": int(every) if every.is_integer() else every}
        if self._anchor:
            found["anchor"] = self.anchor.isoformat()
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, schedule) and self.plain() == other.plain()

    def __hash__(self) -> int:
        return hash((self._every, self._anchor))

    def __repr__(self) -> str:
        return f"<schedule: every {self.run_every}>"

    def __str__(self) -> str:
        return f"every {self.run_every}"
