"""Rate limits and ``max_concurrency``: may this message start now, and if not, when should it come back?

Asked in ``prepare``, in the process where the task would run. What may not start is deferred by the
settler (decision 21 in docs/decisions.md): it takes no place in the pool and burns no receipt.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import quote

from cloudq.backends.base import ResultBackend
from cloudq.backends.open import open_backend
from cloudq.callkey import call_key, short
from cloudq.clock import Clock
from cloudq.conf import Conf
from cloudq.coordination.limits import Slot, Slots, TokenBucket
from cloudq.coordination.timetable import Timetable
from cloudq.errors import ImproperlyConfigured, InvalidArguments, LeaseLost, OperationalError
from cloudq.message import Envelope
from cloudq.rates import limit_of
from cloudq.registry import Registry
from cloudq.runtime.keeper import Keeper, Kept
from cloudq.runtime.naming import label
from cloudq.task import Task

logger = logging.getLogger("cloudq.limits")
T = TypeVar("T")

#: Headers of a deferred message: how often it was, and the moment it was told to come back at.
DEFERRED: Final = "cloudq-deferred"
BOOKED: Final = "cloudq-booked"
#: Limits that one process keeps in memory (one per task and key); the least used go first.
MOST_KNOWN: Final = 2000
#: Messages are told to come back a little slower than the rate: at exactly the rate one that is late makes
#: the next one miss its turn, and so on to the end.
SLACK: Final = 1.02
#: Seconds that a run is taken to last before one was seen to end, and longer at each deferral. Low,
#: because coming back in vain costs three calls, and coming back too late leaves places empty.
FIRST_GUESS: Final = 0.1
GROWTH: Final = 2.5
#: Share of the mean run after which the next one is told to come back: rather early than idle.
EAGER: Final = 0.9
#: Deferrals after which a message does not go to the end of the line any more.
PATIENT: Final = 3
#: Longest pause of a message that came back as told and found no place (seconds).
LONGEST_PAUSE: Final = 300.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now: come back at ``due`` (seconds since the epoch)."""

    due: float
    why: str


class Place:
    """One of ``max_concurrency`` places, held while the task runs."""

    __slots__ = ("kept", "name", "since", "slot", "slots")

    def __init__(self, name: str, slots: Slots, slot: Slot, since: float) -> None:
        self.name = name
        self.slots = slots
        self.slot = slot
        self.since = since
        self.kept: Kept | None = None


class Limits:
    """One per process that runs tasks. ``store`` is the results store, or None when there is none."""

    def __init__(
        self,
        store: ResultBackend | None,
        clock: Clock,
        conf: Conf,
        keeper: Keeper,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._clock = clock
        self._conf = conf
        self._keeper = keeper
        self._rand = rand
        self._mutex = threading.Lock()
        self._local: ResultBackend | None = None
        self._local_url = "memory://"
        self._known: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._runtimes: dict[str, float] = {}

    def keep_in(self, url: str) -> None:
        """Keep limits per worker in that store: for workers of several processes (prefork)."""
        self._local_url = url

    def check(self, registry: Registry) -> None:
        """Raise ImproperlyConfigured for tasks whose limits need a results store when there is none."""
        if self._store is not None:
            return
        for name in registry:
            task = registry[name]
            option = "max_concurrency" if task.max_concurrency is not None else 'rate_limit_scope="global"'
            if task.max_concurrency is not None or (self.rate(task) and task.rate_limit_scope == "global"):
                raise ImproperlyConfigured(
                    f"task {name}: {option} holds across all workers through the results store, and this app"
                    " has none (result_backend is disabled://)"
                )

    # --- the verbs ---------------------------------------------------------------------------------

    def ask(self, task: Task[..., Any], envelope: Envelope) -> Place | Wait | None:
        """A place to be given to ``leave``, None when none is needed, or when to come back.

        Raises OperationalError when the store is away, InvalidArguments when a key function fails.
        """
        rate = self.rate(task)
        if rate is None and task.max_concurrency is None:
            return None
        place = None
        if task.max_concurrency is not None:
            found = self._enter(task, envelope, task.max_concurrency)
            if isinstance(found, Wait):
                return found
            place = found
        try:
            wait = self._take(task, envelope, rate) if rate is not None else None
        except BaseException:
            self.leave(place, ran=False)
            raise
        if wait is not None:
            self.leave(place, ran=False)
            return wait
        if place is not None:
            self._care_for(task, envelope, place)
        return place

    def leave(self, place: Place | None, ran: bool = True) -> None:
        """The task has ended: the place is free. Never raises; what cannot be given back runs out."""
        if place is None:
            return
        if ran:
            took = max(0.0, self._clock.monotonic() - place.since)
            seen = self._runtimes.get(place.name)
            self._runtimes[place.name] = took if seen is None else 0.8 * seen + 0.2 * took
        if place.kept is not None and not self._keeper.drop(place.kept):
            return  # somebody else has it
        try:
            place.slots.release(place.slot)
        except OperationalError as error:
            logger.warning("giving back a place of %s: %s; it runs out by itself", place.name, error)

    def vacate(self, task: Task[..., Any], envelope: Envelope) -> None:
        """The process that ran this message has died: free the place it may have had. Never raises."""
        if task.max_concurrency is None or self._store is None:
            return
        try:
            slots = self._slots(self._name(task, envelope, "max_concurrency_key"), task.max_concurrency)
            slot = slots.acquire(envelope.id, 1.0)
            if slot is not None:
                slots.release(slot)
        except (OperationalError, InvalidArguments, LeaseLost) as error:
            logger.warning("freeing the place of %s: %s", label(envelope), error)

    def rate(self, task: Task[..., Any]) -> float | None:
        """Starts per second that the task is allowed, or None."""
        own = self._conf.task_default_rate_limit if task.rate_limit is None else task.rate_limit
        return None if own is None or self._conf.worker_disable_rate_limits else limit_of(own)

    # --- so many a second ----------------------------------------------------------------------------

    def _take(self, task: Task[..., Any], envelope: Envelope, rate: float) -> Wait | None:
        store, name = self._rate_store(task), self._name(task, envelope, "rate_limit_key")
        slow = store.capabilities.writes_per_key is not None
        burst = max(1, math.ceil(rate * (5 if slow else 1)))

        def bucket() -> TokenBucket:
            return TokenBucket(store, name, rate, self._clock, burst=burst, block=burst if slow else None)

        short_by = self._of(("rate", name, rate, task.rate_limit_scope), bucket).take()
        if short_by <= 0:
            return None
        now = self._clock.time()
        if envelope.headers.get(BOOKED) is None:
            due = self._timetable(store, f"rate-{name}").book(SLACK / rate)
        else:  # it came as told, and somebody was quicker: next in line, not at the end of the queue
            due = now + short_by + self._rand() * 0.2 * min(times_deferred(envelope), 20) / rate
        return Wait(max(due, now + short_by), f"rate_limit {task.rate_limit or rate}")

    def _rate_store(self, task: Task[..., Any]) -> ResultBackend:
        if task.rate_limit_scope == "global":
            assert self._store is not None  # check() saw to that
            return self._store
        with self._mutex:
            if self._local is None:
                self._local = open_backend(self._local_url, self._clock)
            return self._local

    # --- so many at a time ---------------------------------------------------------------------------

    def _enter(self, task: Task[..., Any], envelope: Envelope, limit: int) -> Place | Wait:
        assert self._store is not None  # check() saw to that
        name = self._name(task, envelope, "max_concurrency_key")
        slots = self._slots(name, limit)
        slot = slots.acquire(envelope.id, self._conf.task_lease_time)
        if slot is not None:
            return Place(name, slots, slot, self._clock.monotonic())
        return Wait(self._turn(name, limit, times_deferred(envelope)), f"max_concurrency {limit}")

    def _turn(self, name: str, limit: int, times: int) -> float:
        """When a place may be free for a message that was deferred so many times."""
        assert self._store is not None
        known = self._runtimes.get(name)
        lasts = min(LONGEST_PAUSE, FIRST_GUESS * GROWTH ** min(times, 20)) if known is None else known
        spacing = max(0.01, lasts / limit)
        if known is None or times < PATIENT:
            return self._timetable(self._store, f"slots-{name}").book(EAGER * spacing)
        pause = min(LONGEST_PAUSE, max(0.2, spacing) * 2.0 ** min(times - PATIENT, 12))
        return self._clock.time() + pause * (0.5 + self._rand())

    def _care_for(self, task: Task[..., Any], envelope: Envelope, place: Place) -> None:
        ttl = self._conf.task_lease_time

        def renew() -> None:
            place.slot = place.slots.renew(place.slot, ttl)

        what = f"the place of {label(envelope)} among max_concurrency={task.max_concurrency}"
        place.kept = self._keeper.keep(what, ttl, renew)

    def _slots(self, name: str, limit: int) -> Slots:
        store = self._store
        assert store is not None
        return self._of(("slots", name, limit), lambda: Slots(store, name, limit, self._clock))

    # --- parts ---------------------------------------------------------------------------------------

    def _name(self, task: Task[..., Any], envelope: Envelope, option: str) -> str:
        """The limit's name in the store: the task, and the key of this call if it has one."""
        spec = getattr(task, option)
        own = quote(task.name, safe="")
        own = own if len(own) <= 200 else short(own)
        if spec is None:
            return own
        return f"{own}.{short(key_of(task, envelope, option))}"

    def _timetable(self, store: ResultBackend, name: str) -> Timetable:
        return self._of(("timetable", name, id(store)), lambda: Timetable(store, name, self._clock))

    def _of(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        with self._mutex:
            found: T | None = self._known.get(key)
            if found is None:
                found = self._known[key] = make()
                if len(self._known) > MOST_KNOWN:
                    self._known.popitem(last=False)
            else:
                self._known.move_to_end(key)
            return found


def key_of(task: Task[..., Any], envelope: Envelope, option: str) -> str:
    """The key of this call by the task's ``option``. Raises InvalidArguments when it has none."""
    try:
        return call_key(option, getattr(task, option), task.parameters, envelope.args, envelope.kwargs)
    except Exception as error:
        raise InvalidArguments(
            f"{option} of task {task.name} gives no key: {type(error).__name__}: {error}"
        ) from error


def deferred(envelope: Envelope, due: float) -> Envelope:
    """The message to send instead of one that may not start yet."""
    marks = {DEFERRED: times_deferred(envelope) + 1, BOOKED: due}
    return envelope.with_(headers={**envelope.headers, **marks})


def was_deferred(envelope: Envelope) -> bool:
    """Has it been sent once more by a limit? Then it may exist twice."""
    return times_deferred(envelope) > 0


def unmarked(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Headers of the next try, which stands in line anew."""
    return {name: value for name, value in headers.items() if name not in (DEFERRED, BOOKED)}


def times_deferred(envelope: Envelope) -> int:
    """How often a limit sent this message on."""
    count = envelope.headers.get(DEFERRED, 0)
    return count if isinstance(count, int) else 0
