"""An entry: a task, its schedule, and what is to be done about runs that were missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from typing import Any, Final

from cloudq.errors import ScheduleError
from cloudq.schedules.base import Schedule, between, zone_named, zone_text
from cloudq.schedules.reading import as_schedule

#: What becomes of slots that passed while nobody ticked: the latest one, all of them, or none.
CATCHUP: Final = ("latest", "all", "skip")
#: Seconds after which a slot counts as missed: beats may change hands, and Lambda ticks once a minute.
GRACE: Final = 90.0
#: Seconds that the search for recent slots goes back at first; it grows until there are enough.
_FIRST_WINDOW: Final = 60.0


@dataclass(frozen=True)
class Entry:
    """One periodic task. ``name`` is its identity: ids of its runs derive from it."""

    name: str
    task: str
    schedule: Schedule
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    #: Options of ``apply_async``: queue, expires, group_id ...
    options: Mapping[str, Any] = field(default_factory=dict)
    enabled: bool = True
    catchup: str = "latest"
    #: Leave a run out while the one before has not ended; a number: for at most so many seconds.
    skip_if_running: bool | float = False
    #: Seconds: each run is put off by a fixed part of this, different for each slot.
    jitter: float = 0.0
    timezone: tzinfo | None = None

    def delay(self, slot: float) -> float:
        """Seconds that the run of ``slot`` is put off: always the same for the same slot."""
        if not self.jitter:
            return 0.0
        import hashlib  # late: OpenSSL costs 3 ms of every import that declares a periodic task

        digest = hashlib.sha256(f"{self.name}\x1f{slot_text(slot)}".encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 * self.jitter

    def next_due(self, after: float, zone: tzinfo) -> float | None:
        """When the first slot after ``after`` is to be sent, jitter included; None: never again."""
        slot = self.schedule.next_after(after, self.timezone or zone)
        return None if slot is None else slot + self.delay(slot)

    def due(self, last: float, now: float, zone: tzinfo, limit: int) -> Due:
        """The slots after ``last`` that are to be sent now, by the ``catchup`` policy.

        ``limit`` bounds how many "all" may be; the newest are kept.
        """
        zone = self.timezone or zone
        sure = max(last, now - self.jitter)  # whatever is older is not put off any more
        found, more = _recent(self.schedule, last, sure, zone, limit if self.catchup == "all" else 2)
        found = [*found, *between(self.schedule, sure, now, zone)]
        ready: list[float] = []
        for slot in found:
            if slot + self.delay(slot) > now:
                break  # in order: a later slot does not overtake one that is put off longer
            ready.append(slot)
        if self.catchup == "all" or not ready:
            return Due(tuple(ready), more and bool(ready), ready[-1] if ready else None)
        latest = ready[-1]
        missed = self.catchup == "skip" and now - latest - self.delay(latest) > GRACE
        return Due(() if missed else (latest,), missed or more or len(ready) > 1, latest)

    def plain(self) -> dict[str, Any]:
        """As JSON data, for ``entry_from``. Raises ScheduleError for what has no JSON form."""
        found: dict[str, Any] = {"task": self.task, "schedule": dict(self.schedule.plain())}
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if value != default:
                found[name] = (
                    list(value) if name == "args" else dict(value) if isinstance(value, Mapping) else value
                )
        if self.timezone is not None:
            found["timezone"] = zone_text(self.timezone)
        return found


@dataclass(frozen=True)
class Due:
    """What an entry has to send now."""

    slots: tuple[float, ...]
    #: Were slots left out (missed runs, more than the limit)?
    dropped: bool
    #: The last slot that is dealt with once these are sent, or None.
    last: float | None


_DEFAULTS: Final[dict[str, Any]] = {
    "args": (), "kwargs": {}, "options": {}, "enabled": True, "catchup": "latest", "skip_if_running": False, "jitter": 0.0,
}  # fmt: skip
#: What an entry of ``beat_schedule`` may say. ``relative`` is Celery's: ours always are on the clock.
FIELDS: Final = frozenset({"task", "schedule", "timezone", "relative", *_DEFAULTS})


def slot_text(slot: float) -> str:
    """A slot as ids and keys spell it: seconds since the epoch, to the microsecond."""
    return f"{slot:.6f}".rstrip("0").rstrip(".")


def _recent(
    schedule: Schedule, last: float, now: float, zone: tzinfo, limit: int
) -> tuple[Sequence[float], bool]:
    """The newest ``limit`` slots in (last, now], in order, and whether there are more of them."""
    window = _FIRST_WINDOW
    while True:
        start = max(last, now - window)
        found = list(between(schedule, start, now, zone))
        if start <= last or len(found) > limit:
            return found[-limit:], len(found) > limit
        window *= 4


def entry_from(name: str, given: Mapping[str, Any]) -> Entry:
    """An entry as ``beat_schedule`` spells it. Raises ScheduleError naming the entry and the fix."""
    if not isinstance(name, str) or not name:
        raise ScheduleError(f"a periodic task's name is text, got {name!r}")
    where = f"periodic task {name!r}"
    if isinstance(given, Entry):
        return replace(given, name=name)
    if not isinstance(given, Mapping):
        raise ScheduleError(
            f'{where}: a mapping like {{"task": ..., "schedule": ...}} expected, got {given!r}'
        )
    for key in given:
        if key not in FIELDS:
            raise ScheduleError(f"{where} has no {key!r}{_near(key)}")
    for key in ("task", "schedule"):
        if key not in given:
            raise ScheduleError(f"{where} lacks {key!r}")
    task = given["task"]
    task_name = task if isinstance(task, str) else getattr(task, "name", None)
    if not isinstance(task_name, str) or not task_name:
        raise ScheduleError(f"{where}: task is a task or its name, got {task!r}")
    try:
        schedule = as_schedule(given["schedule"])
        zone = zone_named(given.get("timezone"))
    except ScheduleError as error:
        raise ScheduleError(f"{where}: {error}") from None
    return Entry(
        name=name,
        task=task_name,
        schedule=schedule,
        args=_args(where, given.get("args")),
        kwargs=_mapping(where, "kwargs", given.get("kwargs")),
        options=_mapping(where, "options", given.get("options")),
        enabled=_flag(where, "enabled", given.get("enabled", True)),
        catchup=_catchup(where, given.get("catchup", "latest")),
        skip_if_running=_skip(where, given.get("skip_if_running", False)),
        jitter=_seconds(where, "jitter", given.get("jitter", 0.0)),
        timezone=zone,
    )


def _near(key: object) -> str:
    import difflib

    near = difflib.get_close_matches(str(key), FIELDS, 1)
    return f"; did you mean {near[0]!r}?" if near else f" (it takes {', '.join(sorted(FIELDS))})"


def _args(where: str, value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise ScheduleError(
            f"{where}: args is a list or tuple, got {value!r}; one argument is written ({value!r},)"
        )
    return tuple(value)


def _mapping(where: str, key: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(each, str) for each in value):
        raise ScheduleError(f"{where}: {key} is a mapping of names to values, got {value!r}")
    return dict(value)


def _flag(where: str, key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ScheduleError(f"{where}: {key} is True or False, got {value!r}")
    return value


def _catchup(where: str, value: Any) -> str:
    if value not in CATCHUP:
        raise ScheduleError(f"{where}: catchup is one of {', '.join(CATCHUP)}, got {value!r}")
    return str(value)


def _skip(where: str, value: Any) -> bool | float:
    return value if isinstance(value, bool) else _seconds(where, "skip_if_running", value)


def _seconds(where: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise ScheduleError(f"{where}: {key} is a number of seconds from 0, got {value!r}")
    return float(value)
