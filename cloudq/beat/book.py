"""The book of periodic tasks: what the code declares, and what was changed at run time.

Changes are kept in one document of the results store, read by whoever leads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from cloudq import periodic
from cloudq.app import CloudQ
from cloudq.beat.names import key_of, store_of
from cloudq.coordination import cas
from cloudq.errors import ScheduleError
from cloudq.schedules.entry import Entry, entry_from


class _BookDocument(msgspec.Struct, omit_defaults=True):
    nonce: str = ""
    entries: dict[str, dict[str, Any]] = {}
    #: Says more than the entry's own ``enabled``.
    paused: dict[str, bool] = {}
    #: When an entry was added or resumed: slots before that are not made up for.
    since: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry as it stands. ``stored``: it was added at run time."""

    entry: Entry
    stored: bool
    paused: bool
    #: Seconds since the epoch before which its slots do not count, or None.
    since: float | None
    #: Why it cannot be run, or empty.
    fault: str = ""


class Book:
    """Reads and changes the periodic tasks of an app. Every change is one conditional write."""

    def __init__(self, app: CloudQ) -> None:
        self._app = app
        self._store = store_of(app)
        self._key = key_of(app, "book")

    def declared(self) -> dict[str, Entry]:
        """What code and settings say. Raises ScheduleError."""
        app = self._app
        return periodic.declared(app.periodic_entries, app.conf.beat_schedule, app.tasks, True)

    def read(self) -> dict[str, Listed]:
        """Every entry by name: the code's in its order, then the stored ones."""
        found = self._store.read(self._key)
        document = self._decode(found.value if found else None)
        return {each.entry.name: each for each in self._listed(document)}

    def _listed(self, document: _BookDocument) -> Iterator[Listed]:
        declared = self.declared()
        for entry in declared.values():
            yield self._state(document, entry, stored=False)
        for name, data in document.entries.items():
            if name in declared:  # the code has taken the name since; the code wins
                continue
            try:
                yield self._state(document, self._checked(entry_from(name, data)), stored=True)
            except ScheduleError as error:
                # Declared by a newer release, say: the others must run all the same.
                shown = Entry(name, str(data.get("task", "")), _Unreadable(str(data.get("schedule"))))
                yield Listed(shown, True, True, None, str(error))

    def _state(self, document: _BookDocument, entry: Entry, stored: bool) -> Listed:
        paused = document.paused.get(entry.name, not entry.enabled)
        return Listed(entry, stored, paused, document.since.get(entry.name))

    def _checked(self, entry: Entry) -> Entry:
        return periodic.check(entry, self._app.tasks, True)

    def add(self, entry: Entry, *, replacing: bool = False) -> None:
        """Add an entry. Raises ScheduleError when the name is taken (a stored one: unless ``replacing``)."""
        self._checked(entry)
        if entry.name in self.declared():
            raise ScheduleError(f"periodic task {entry.name!r} is declared in code: choose another name")
        plain = msgspec.json.decode(_json(entry))

        def change(document: _BookDocument, now: float) -> None:
            if entry.name in document.entries and not replacing:
                raise ScheduleError(
                    f"periodic task {entry.name!r} is there already: remove it first, or replace it (--replace)"
                )
            document.entries[entry.name] = plain
            document.paused.pop(entry.name, None)
            document.since[entry.name] = now

        self._change(change)

    def remove(self, name: str) -> None:
        """Remove a stored entry. Raises ScheduleError for the code's and for unknown ones."""

        def change(document: _BookDocument, now: float) -> None:
            if name not in document.entries:
                if name in self.declared():
                    raise ScheduleError(
                        f"periodic task {name!r} is declared in code: pause it, or remove it there"
                    )
                raise self._unknown(name, document)
            del document.entries[name]
            document.paused.pop(name, None)
            document.since.pop(name, None)

        self._change(change)

    def pause(self, name: str) -> None:
        """Send nothing for this entry until ``resume``. Raises ScheduleError for an unknown one."""
        self._set_paused(name, True)

    def resume(self, name: str) -> None:
        """Go on from now: what was due meanwhile is not made up for."""
        self._set_paused(name, False)

    def _set_paused(self, name: str, paused: bool) -> None:
        def change(document: _BookDocument, now: float) -> None:
            if name not in document.entries and name not in self.declared():
                raise self._unknown(name, document)
            if document.paused.get(name) is not paused:
                document.paused[name] = paused
                if not paused:
                    document.since[name] = now

        self._change(change)

    def get(self, name: str) -> Listed:
        """One entry. Raises ScheduleError naming the nearest one."""
        listed = self.read()
        if name not in listed:
            raise _no_such(name, listed)
        return listed[name]

    def _unknown(self, name: str, document: _BookDocument) -> ScheduleError:
        return _no_such(name, [*self.declared(), *document.entries])

    def _change(self, change: Callable[[_BookDocument, float], None]) -> None:
        clock = self._app.clock

        def update(value: bytes | None) -> bytes:
            document = self._decode(value)
            change(document, clock.time())
            document.nonce = cas.nonce()
            return msgspec.json.encode(document)

        cas.update(self._store, self._key, update, clock=clock, unique=True)

    def _decode(self, value: bytes | None) -> _BookDocument:
        return _BookDocument() if value is None else cas.decode(_BookDocument, self._key, value)


def _no_such(name: str, known: Any) -> ScheduleError:
    import difflib

    near = difflib.get_close_matches(name, list(known), 1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known) or 'none'}"
    return ScheduleError(f"no periodic task is called {name!r}{hint}")


def _json(entry: Entry) -> bytes:
    try:
        return msgspec.json.encode(entry.plain())
    except TypeError as error:
        raise ScheduleError(
            f"periodic task {entry.name!r} cannot be stored: its arguments and options are JSON values ({error})"
        ) from None


@dataclass(frozen=True)
class _Unreadable:
    """Stands for a schedule that this release cannot read."""

    text: str

    def next_after(self, moment: float, zone: Any) -> float | None:
        return None

    def plain(self) -> dict[str, Any]:
        raise ScheduleError(f"{self.text} cannot be read")

    def __str__(self) -> str:
        return self.text
