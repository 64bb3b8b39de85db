"""The results of a group's members: whose they are, and fetching them for what follows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from cloudq.canvas.freeze import member_id
from cloudq.coordination.join import DEFAULT_TTL
from cloudq.errors import CorruptRecord
from cloudq.results.record import Record
from cloudq.results.store import ResultStore

#: Records that are read at once.
_BATCH: Final = 1000
#: A member's record names the tasks that it added to its chord.
ADDED: Final = "added"
#: How those are sent: their calls, as messages carry them.
MORE: Final = "more"
#: The task that failed, in the record of one that therefore never ran.
CAUSE: Final = "cause"


def quoted(group_id: str) -> str:
    """A group's id as one segment of a key."""
    return quote(group_id, safe="")


def _chosen_key(group_id: str) -> str:
    return f"plan/{quoted(group_id)}/ids"


def save_chosen(store: ResultStore, group_id: str, chosen: Mapping[str, str]) -> None:
    """Remember the ids that users chose for members of a group whose size was not known at first."""
    if chosen:
        store.keep(_chosen_key(group_id), msgspec.json.encode(dict(chosen)), DEFAULT_TTL)


def read_chosen(store: ResultStore, group_id: str) -> dict[str, str]:
    """What ``save_chosen`` has written."""
    entry = store.backend.read(_chosen_key(group_id))
    try:
        return {} if entry is None else msgspec.json.decode(entry.value, type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise CorruptRecord(
            f"{_chosen_key(group_id)} in {store.backend.url} is no list of ids: {error}"
        ) from error


def ids_of(store: ResultStore, joined: Mapping[str, Any]) -> Iterator[str]:
    """The ids of a group's outcomes, in order."""
    group_id = str(joined["id"])
    chosen: Mapping[str, str] = joined.get("ids") or {}
    if joined.get("open"):
        chosen = read_chosen(store, group_id)
    for index in range(int(joined["size"])):
        yield chosen.get(str(index)) or member_id(group_id, index)


def records_of(store: ResultStore, joined: Mapping[str, Any]) -> Iterator[tuple[str, Record | None]]:
    """(id, record) of each outcome in order, then of those that were added while they ran."""
    wanted = ids_of(store, joined)
    added: list[str] = []
    while True:
        while batch := list(itertools.islice(wanted, _BATCH)):
            found = store.read_many(batch)
            for each in batch:
                record = found.get(each)
                yield each, record
                if record is not None:
                    added += record.extra.get(ADDED, ())
        if not added:
            return
        wanted, added = iter(added), []
