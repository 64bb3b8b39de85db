"""How many messages a worker may hold: it asks the queues only for what can start soon (decision 13).

Every queue has a *lane*. When a place is free and several lanes want it, the order decides:

* ``fair`` and ``weighted``: the lane that holds least for its weight goes first;
* ``strict``: a lane goes only while no lane before it has, or may have, messages.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Final

ORDERS: Final = ("fair", "strict", "weighted")
#: A queue that has messages answers within this time; a poll that takes longer found none (seconds).
PROMPT: Final = 0.25
#: Seconds between two looks at how fast tasks are done.
RECKONING: Final = 0.2
#: Messages asked for beyond what can start, at the most: what a few polls in flight bring.
AHEAD: Final = 120
#: So long a poll waits, at the most, for places that, at the present pace, will be free by then (seconds): a poll
#: for ten costs what a poll for one does, and several in a row cost fewer handovers between threads. As much work
#: is held ahead, so that nobody stands idle meanwhile.
GATHER: Final = 0.005
#: A queue that answers within this time (seconds) is asked by one poll after the other: what a second one would
#: bring is processor time spent in this process, and threads that wait for the interpreter's lock.
NEAR: Final = 0.003


class Ask:
    """The right to one poll for ``count`` messages.

    ``more``: after it half of the places would still be free and the queue is not near, so that another poll should
    go beside this one if it finds all it asks for; fewer are filled as fast by one poll after the other.
    """

    __slots__ = ("count", "more", "since", "until")

    def __init__(self, count: int, more: bool, until: float, since: float = 0.0) -> None:
        self.since = since
        self.count = count
        self.more = more
        #: Until when (monotonic) the places are kept free for it.
        self.until = until


class Pace:
    """Messages worth asking for ahead of time: as many as will be done while a poll is on its way.

    A worker that does a thousand short tasks a second over a line of 10 ms would stand idle half of
    the time if it asked only when a place is free. What is asked for so starts as soon as it comes.
    """

    def __init__(self, most: int, now: float) -> None:
        self._most = most
        self._trip = 0.0
        self._since = now
        self._ahead = 0
        self._rate = 0.0
        #: Messages done with since the last reckoning.
        self.done = 0

    def answered(self, seconds: float) -> None:
        """A poll that found its full number took so long."""
        self._trip += (seconds - self._trip) * (0.2 if self._trip else 1.0)

    @property
    def near(self) -> bool:
        """Is the queue known to answer at once?"""
        return 0.0 < self._trip < NEAR

    def ahead(self, now: float) -> int:
        """Places beyond the limit, reckoned anew a few times a second."""
        elapsed = now - self._since
        if elapsed >= RECKONING:
            self._rate = self.done / elapsed
            self._ahead = min(self._most, int(self._rate * (self._trip * 2 + GATHER)))
            self.done, self._since = 0, now
        return self._ahead

    def nap(self, lacking: int, held: int) -> float:
        """Seconds to wait for at least so many places; 0 when that takes too long. Half of what is held stays."""
        if self._rate * GATHER < lacking:
            return 0.0
        return min(GATHER, max(lacking, held / 2) / self._rate)


class Credit:
    """``limit`` places, shared by the lanes; up to ``ahead`` more while tasks are done faster than polls go.

    A poll keeps its places free only as long as a queue with messages needs to answer, and only
    where the last answer brought some: an idle queue's long poll must not block what a busy one
    could use. Long polls that answer at once may therefore overdraw by a few; no place is free then
    until that is worked off.
    """

    def __init__(
        self,
        limit: int,
        order: str = "fair",
        monotonic: Callable[[], float] = time.monotonic,
        ahead: int = 0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sleep = sleep
        self._base = self._limit = limit
        self._pace = Pace(ahead, monotonic())
        self._strict = order == "strict"
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiters = 0
        self._closed = False
        self._turns = 0
        self._lanes: list[Lane] = []

    def lane(self, weight: float = 1.0, most: int | None = None, family: str | None = None) -> Lane:
        """A further lane, after those that are there. It never holds more than ``most``, together
        with the other lanes of its ``family`` if it is of one."""
        with self._changed:
            lane = Lane(self, weight, most, self._monotonic() + PROMPT, family)
            self._lanes.append(lane)
            return lane

    def resize(self, limit: int) -> None:
        """Change the number of places."""
        with self._changed:
            self._base = self._limit = limit
            self._changed.notify_all()

    def close(self) -> None:
        """No places any more; wakes all waiters."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def held(self) -> int:
        return sum(lane.held for lane in tuple(self._lanes))

    @property
    def limit(self) -> int:
        return self._limit

    # --- for lanes, under the lock ----------------------------------------------------------------

    def room(self, lane: Lane, now: float) -> int:
        """Places that the lane could have now."""
        self._limit = self._base + self._pace.ahead(now)
        free = self._limit - sum(each.held + each.kept(now) for each in self._lanes)
        if lane.idle and len(self._lanes) > 1:  # several idle queues may answer at once
            free = min(free, max(1, free // len(self._lanes)))
        return max(0, min(free, lane.own_room()))

    def has_turn(self, lane: Lane, now: float) -> bool:
        """Is there no lane that goes first?"""
        if self._strict:
            before = self._lanes[: self._lanes.index(lane)]
            return not any(each.blocks(now) for each in before)
        rank = lane.rank()
        return all(rank <= each.rank() for each in self._lanes if each.hungry and each.own_room())

    def taken(self, lane: Lane) -> int:
        """What counts against the lane's own limit: what it holds and has asked for, and its family."""
        family = [each for each in self._lanes if each.family == lane.family] if lane.family else [lane]
        return sum(each.held + sum(ask.count for ask in each.asks) for each in family)

    def next_change(self, now: float) -> float:
        """Seconds until time alone may free a place or a turn."""
        ends = [each.loud_until for each in self._lanes] if self._strict else []
        ends += [ask.until for each in self._lanes for ask in each.asks]
        return min((end - now for end in ends if end > now), default=math.inf)

    def wait(self, seconds: float) -> None:
        """Until something has changed, or so long."""
        self._waiters += 1
        try:
            self._changed.wait(seconds)
        finally:
            self._waiters -= 1

    def nap(self, room: int, most: int) -> float:
        """Seconds after which the places that a full poll lacks are free; 0 when none lack, or it takes too long."""
        return self._pace.nap(most - room, self.held) if room < most else 0.0

    def next_turn(self) -> int:
        self._turns += 1
        return self._turns


class Lane:
    """One queue's part of the credit."""

    def __init__(
        self, credit: Credit, weight: float, most: int | None, loud_until: float, family: str | None = None
    ) -> None:
        self._credit = credit
        self._weight = weight
        self._most = most
        self.family = family
        self._served = credit.next_turn()
        self.held = 0
        self.hungry = 0
        self.asks: list[Ask] = []
        #: The last answer brought nothing.
        self.idle = False
        #: Until when (monotonic) the queue counts as having messages.
        self.loud_until = loud_until

    # --- for its source ---------------------------------------------------------------------------

    def ask(self, most: int, timeout: float = 0.0) -> Ask | None:
        """Permission to poll for at most ``most``, as soon as it is this lane's turn and a place is
        free; None after ``timeout`` seconds, or once closed. Every Ask must be answered."""
        credit = self._credit
        deadline = credit._monotonic() + timeout
        gathered = False
        with credit._lock:
            self.hungry += 1
            try:
                while not credit._closed:
                    now = credit._monotonic()
                    room = credit.room(self, now)
                    if room > 0 and credit.has_turn(self, now):
                        if gathered or not (nap := credit.nap(room, most)):
                            return self._grant(min(most, room), self._wants_more(room - most), now)
                        gathered = True
                        self._pause(nap)
                        continue
                    rest = min(deadline - now, credit.next_change(now))
                    if deadline <= now:
                        return None
                    credit.wait(rest)
                return None
            finally:
                self.hungry -= 1
                if credit._waiters:
                    credit._changed.notify_all()  # it may be another's turn now

    def _pause(self, seconds: float) -> None:
        """Let others have the lock for a moment."""
        self._credit._lock.release()
        try:
            self._credit._sleep(seconds)
        finally:
            self._credit._lock.acquire()

    def answer(self, ask: Ask, got: int | None) -> None:
        """The poll brought ``got`` messages, or failed (None)."""
        with self._credit._changed:
            if ask in self.asks:
                self.asks.remove(ask)
            self.held += got or 0
            if got is not None:
                self.idle = got == 0
                if got == ask.count:  # it was answered at once: the line's own time
                    self._credit._pace.answered(self._credit._monotonic() - ask.since)
            self.loud_until = self._credit._monotonic() + PROMPT if got else -math.inf
            self._credit._changed.notify_all()

    def give(self, count: int = 1) -> None:
        """``count`` messages are done with."""
        credit = self._credit
        with credit._lock:
            self.held -= count
            credit._pace.done += count
            if credit._waiters:
                credit._changed.notify_all()

    def take(self, count: int = 1) -> None:
        """``count`` messages that were given are held again."""
        with self._credit._changed:
            self.held += count

    # --- for the credit, under the lock -----------------------------------------------------------

    def _grant(self, count: int, more: bool, now: float) -> Ask:
        self._served = self._credit.next_turn()
        ask = Ask(count, more, -math.inf if self.idle else now + PROMPT, now)
        if not self.idle:
            self.loud_until = ask.until
        self.asks.append(ask)
        return ask

    def _wants_more(self, left: int) -> bool:
        return left >= self._size() // 2 and not self._credit._pace.near

    def kept(self, now: float) -> int:
        """Places that polls in flight keep free."""
        return sum(ask.count for ask in self.asks if ask.until > now)

    def own_room(self) -> int:
        """Places below the lane's own limit, which no two polls together may pass."""
        if self._most is None:
            return self._credit._limit
        return self._most - self._credit.taken(self)

    def blocks(self, now: float) -> bool:
        """In strict order: must those after it wait?"""
        return (self.hungry > 0 or now < self.loud_until) and self.own_room() > 0

    def _size(self) -> int:
        """The most places it may have."""
        limit = self._credit.limit
        return limit if self._most is None else min(self._most, limit)

    def rank(self) -> tuple[float, int]:
        """Lower goes first."""
        return (self.held + sum(ask.count for ask in self.asks)) / self._weight, self._served
