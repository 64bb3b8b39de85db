"""Fire once all members of a group are there: markers that are written once, never a counter.

A counter counts a redelivered member twice, so it fires early, and a member that dies after
counting never fires at all. Here every member writes a marker of its own, and "is everybody
there?" is asked of the markers, so every step may be repeated at any time by anybody::

    join/ID/0-SHARD/INDEX     member INDEX has arrived (SHARD = INDEX // fanout)
    join/ID/1-SHARD/INDEX     shard INDEX of level 0 is full; and so on up, until one shard holds all
    join/ID/size              how many members there are, when that was not known at the start
    join/ID/fired             the follow-up was sent

Every name is written once (GCS allows one write per second and name), no folder holds more than
``fanout`` names (one page of a listing on every store) and no key is written by everyone.
100,000 members make 500 markers above theirs and 3 on top of those.

Who looks, and at what
    The member that writes the last marker of a shard must notice it: only it is sure to see all.
    Nobody knows to be the last, but *not* being the last is cheap to see: if after my own marker was
    written some other one is missing, then that other member writes later than I look, and will
    itself look after that. It is then its duty to go on (again after a crash: its message comes
    back until it has looked). So one read of one marker that is likely to be late, instead of
    listing the folder, excuses a member; whoever finds that marker lists the folder. The last writer of
    all finds every marker, whichever it probes. The probe is the highest index (work starts in
    order), then any index this object saw missing in a listing. It has to be a strongly consistent
    read made *after* the own marker's write, and a repeated delivery does it all again.

A size that becomes known late
    While the size is unknown a shard counts as full only with all ``fanout`` members, whatever the
    size will be; only the last shard of each level depends on it. A member reads the size *after* each
    marker it writes; ``close`` looks at the last shards after writing the size. Of these two,
    one comes second and sees both.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Final

from cloudq.backends.base import ResultBackend, check_key
from cloudq.clock import Clock
from cloudq.coordination import cas
from cloudq.errors import CorruptRecord

#: Names per folder: one page of a listing everywhere, and few enough to read at once.
FANOUT: Final = 200
#: A marker outlives the longest retention of an SQS message (14 days), or the join could starve.
DEFAULT_TTL: Final = 15 * 86_400.0
_MARK: Final = b"1"


class Join:
    """The join called ``join_id`` (a key's segment). Many of these objects may serve one join.

    ``size`` is the number of members, None when ``close`` will tell. ``fanout`` is part of the
    layout: the same for everyone who touches this join. ``ttl`` is in seconds; markers must
    outlive the slowest member's last delivery.
    """

    def __init__(
        self,
        store: ResultBackend,
        join_id: str,
        size: int | None,
        clock: Clock,
        *,
        fanout: int = FANOUT,
        ttl: float = DEFAULT_TTL,
        rand: Callable[[], float] = random.random,
    ) -> None:
        if size is not None and size < 0:
            raise ValueError(f"join {join_id!r}: size is 0 or more, got {size}")
        if fanout < 2:
            raise ValueError(f"join {join_id!r}: fanout is 2 or more, got {fanout}")
        self.id = join_id
        self._store = store
        self._clock = clock
        self._size = size
        self._fanout = fanout
        self._ttl = ttl
        self._rand = rand
        self._root = check_key(f"join/{join_id}")
        self._missing: dict[tuple[int, int], int] = {}

    @property
    def size(self) -> int | None:
        """How many members there are, as far as this object knows."""
        return self._size

    # --- the verbs ---------------------------------------------------------------------------

    def arrive(self, index: int) -> bool:
        """Member ``index`` (from 0) is done. True when everybody is: then call ``fire``.

        To be called after the member's result is stored, and again at each redelivery. True may be
        answered to several callers. Raises ValueError for an index outside the size.
        """
        if index < 0 or (self._size is not None and index >= self._size):
            raise ValueError(f"join {self.id!r} has {self._size} members, there is no number {index}")
        cas.ensure(
            self._store,
            self._marker(0, index),
            _MARK,
            clock=self._clock,
            expires_at=self._expiry(),
            rand=self._rand,
        )
        return self._climb(0, index)

    def close(self, size: int) -> bool:
        """The group has ``size`` members. True when all have arrived already: then call ``fire``.

        To be called once every member was sent, by whoever sent them; repeatable. Raises ValueError
        when a different size was said before.
        """
        if size < 0:
            raise ValueError(f"join {self.id!r}: size is 0 or more, got {size}")
        key = f"{self._root}/size"
        new = cas.ensure(
            self._store,
            key,
            str(size).encode(),
            clock=self._clock,
            expires_at=self._expiry(),
            rand=self._rand,
        )
        said = size if new else self._read_size()
        if said != size or self._size not in (None, size):
            other = said if said != size else self._size
            raise ValueError(f"join {self.id!r} was closed with {other} members, not {size}")
        self._size = size
        return True if size == 0 else self._climb(0, size - 1, written=False)

    def complete(self) -> bool:
        """Has everybody arrived, as far as the top of the tree knows? Reads only."""
        size = self._known_size()
        if size is None:
            return False
        if size == 0:
            return True
        top = _levels(size, self._fanout) - 1
        return self._full(top, 0, _expected(size, self._fanout, top, 0), own=None)

    def fired(self) -> bool:
        """Was the follow-up sent (and the fact noted)?"""
        return self._read(f"{self._root}/fired")

    def fire(self, send: Callable[[], object]) -> bool:
        """Call ``send`` unless it is known to have been called; True when it was called here.

        It is noted after the sending, so a crash in between, or two who finish together, send twice:
        what is sent must carry an id derived from the join's, so that the second is recognised.
        Whoever got True from ``arrive`` or ``close`` calls this, and does not acknowledge before.
        """
        if self.fired():
            return False
        send()
        cas.ensure(
            self._store,
            f"{self._root}/fired",
            _MARK,
            clock=self._clock,
            expires_at=self._expiry(),
            rand=self._rand,
        )
        return True

    def reopen(self, index: int) -> None:
        """Member ``index`` is to arrive again, and the follow-up to be sent again. Repeatable.

        For a person's second try; whoever calls it sees to it that nobody else does meanwhile.
        Raises ValueError while the size is not known.
        """
        size = self._known_size()
        if size is None:
            raise ValueError(f"join {self.id!r}: close() it first, its size is not known")
        place = index
        for level in range(_levels(size, self._fanout)):
            key = self._marker(level, place)
            cas.patiently(lambda key=key: self._store.delete(key), clock=self._clock, rand=self._rand)  # type: ignore[misc]
            place //= self._fanout
        key = f"{self._root}/fired"
        cas.patiently(lambda: self._store.delete(key), clock=self._clock, rand=self._rand)

    def arrived(self, shard: int) -> list[int]:
        """The members of one shard (``index // fanout``) that have arrived, in order: for people."""
        return sorted(self._names(0, shard))

    def cleanup(self) -> int:
        """Delete the markers; returns how many. For after the firing, when nobody will need them.

        ``fired`` and ``size`` stay until they expire, so that a member delivered once more does not fire
        again. Without this call everything expires by itself after ``ttl``.
        """
        size = self._known_size()
        if size is None:
            raise ValueError(f"join {self.id!r}: close() it first, its size is not known")
        gone = 0
        for folder in self._folders(size):
            for key in self._list(folder):
                cas.patiently(lambda key=key: self._store.delete(key), clock=self._clock, rand=self._rand)  # type: ignore[misc]
                gone += 1
        return gone

    # --- climbing ----------------------------------------------------------------------------

    def _climb(self, level: int, index: int, written: bool = True) -> bool:
        """From a marker (``written``: known to be there) up to the first shard that is not full."""
        while True:
            shard = index // self._fanout
            size = self._known_size()  # after the marker's write, at every level: see above
            if size is not None and index >= _count(size, self._fanout, level):
                raise ValueError(f"join {self.id!r} was closed with {size} members, but more arrived")
            expected = self._fanout if size is None else _expected(size, self._fanout, level, shard)
            if not self._full(level, shard, expected, own=index if written else None):
                return False
            # ">=": before the size was known somebody may have climbed past what became the top.
            if size is not None and level + 1 >= _levels(size, self._fanout):
                return True
            level, index, written = level + 1, shard, True
            self._mark_full(level, index)

    def _mark_full(self, level: int, index: int) -> None:
        key = self._marker(level, index)
        # One read for a whole shard: those who find it full together need not all write one name.
        if not self._read(key):
            cas.ensure(self._store, key, _MARK, clock=self._clock, expires_at=self._expiry(), rand=self._rand)

    def _full(self, level: int, shard: int, expected: int, own: int | None) -> bool:
        """Are the first ``expected`` markers of the shard there? ``own`` is known to be."""
        first = shard * self._fanout
        if expected == 1 and own is not None:
            return True
        suspect = self._missing.get((level, shard), first + expected - 1)
        probing = suspect != own and suspect < first + expected
        if probing and not self._read(self._marker(level, suspect)):
            return False
        present = self._names(level, shard)
        absent = [index for index in range(first, first + expected) if index not in present]
        if absent:
            self._missing[level, shard] = absent[-1]
        else:
            self._missing.pop((level, shard), None)
        return not absent

    # --- the store ---------------------------------------------------------------------------

    def _marker(self, level: int, index: int) -> str:
        return f"{self._root}/{level}-{index // self._fanout}/{index}"

    def _expiry(self) -> float:
        return self._clock.time() + self._ttl

    def _read(self, key: str) -> bool:
        found = cas.patiently(lambda: self._store.read(key), clock=self._clock, rand=self._rand)
        return found is not None

    def _list(self, folder: str) -> list[str]:
        return cas.patiently(lambda: list(self._store.keys(folder)), clock=self._clock, rand=self._rand)

    def _names(self, level: int, shard: int) -> set[int]:
        folder = f"{self._root}/{level}-{shard}/"
        return {int(name[len(folder) :]) for name in self._list(folder)}

    def _known_size(self) -> int | None:
        if self._size is None:
            self._size = self._read_size()
        return self._size

    def _read_size(self) -> int | None:
        key = f"{self._root}/size"
        entry = cas.patiently(lambda: self._store.read(key), clock=self._clock, rand=self._rand)
        if entry is None:
            return None
        if not entry.value.isdigit():
            raise CorruptRecord(f"{key!r} holds {entry.value[:40]!r}, not a number of members")
        return int(entry.value)

    def _folders(self, size: int) -> Iterator[str]:
        for level in range(_levels(size, self._fanout) + 1):  # one more: an open join may climb past
            count = _count(size, self._fanout, level)
            for shard in range(-(-count // self._fanout)):
                yield f"{self._root}/{level}-{shard}/"


def _count(size: int, fanout: int, level: int) -> int:
    """How many markers a level has in the end: each level marks the shards of the one below."""
    for _ in range(level):
        size = -(-size // fanout)
    return size


def _levels(size: int, fanout: int) -> int:
    """How many levels there are; the last is one shard."""
    levels = 1
    while size > fanout:
        size = -(-size // fanout)
        levels += 1
    return levels


def _expected(size: int, fanout: int, level: int, shard: int) -> int:
    """How many markers make this shard full."""
    return min(fanout, _count(size, fanout, level) - shard * fanout)
