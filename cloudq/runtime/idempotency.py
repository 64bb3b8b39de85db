"""``idempotent=True``: the work of a key is done once; whoever comes later gets its record.

Claim, run, record (decision 9). The claim is a lease that is renewed while the task runs: who dies
loses it, and the next one runs. Only a success is kept: after a failure the key is free again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from cloudq.brokers.base import Delivery
from cloudq.callkey import short
from cloudq.clock import Clock
from cloudq.conf import Conf
from cloudq.coordination.lock import CLOCK_SKEW
from cloudq.coordination.once import Claimed, Done, Once, Token
from cloudq.errors import ImproperlyConfigured, InvalidArguments, OperationalError
from cloudq.message import Envelope
from cloudq.outgoing import IDEMPOTENCY_KEY
from cloudq.registry import Registry
from cloudq.results.record import Record
from cloudq.results.store import ResultStore
from cloudq.runtime.keeper import Keeper, Kept
from cloudq.runtime.limits import Wait, key_of, times_deferred
from cloudq.runtime.naming import label
from cloudq.task import Task

logger = logging.getLogger("cloudq.task")

#: Longest pause of a message whose key somebody else is at work on (seconds).
LONGEST_PAUSE: Final = 60.0


class Claim:
    """The right to do the work of one key."""

    __slots__ = ("_owner", "kept", "key", "settled", "token")

    def __init__(self, owner: Idempotency, key: str, token: Token) -> None:
        self._owner = owner
        self.key = key
        self.token = token
        self.kept: Kept | None = None
        self.settled = False

    def finish(self, record: Record, serializer: str | None, expires: float | None) -> Record | None:
        """The record that stands for the key; None when somebody else took over and is still at it.

        Raises SerializationError, ValueTooLarge, OperationalError.
        """
        return self._owner.finish(self, record, serializer, expires)

    def renew(self, ttl: float) -> None:
        """Keep it. Raises LeaseLost."""
        self.token = self._owner.once.renew(self.token, ttl)


class Idempotency:
    """One per process that runs tasks."""

    def __init__(self, store: ResultStore | None, clock: Clock, conf: Conf, keeper: Keeper) -> None:
        self._store = store
        self._clock = clock
        self._conf = conf
        self._keeper = keeper
        self._once = None if store is None else Once(store.backend, clock)

    @property
    def once(self) -> Once:
        """Raises ImproperlyConfigured when the app has no results store."""
        if self._once is None:
            raise ImproperlyConfigured(
                "idempotent tasks keep their claims in the results store, and this app has none"
                " (result_backend is disabled://)"
            )
        return self._once

    def check(self, registry: Registry) -> None:
        """Raise ImproperlyConfigured for idempotent tasks when there is no results store."""
        for name in registry:
            if self._store is None and registry[name].is_idempotent:
                raise ImproperlyConfigured(
                    f"task {name}: idempotent=True keeps its claims in the results store, and this app has"
                    " none (result_backend is disabled://)"
                )

    def ask(
        self, task: Task[..., Any], envelope: Envelope, delivery: Delivery
    ) -> Claim | Wait | Record | None:
        """The claim, the record of who was there first, when to come back, or None: not idempotent."""
        key = self._key(task, envelope)
        if key is None:
            return None
        found = self.once.claim(key, _owner(envelope, delivery), self._conf.task_lease_time)
        if isinstance(found, Claimed):
            claim = Claim(self, key, found.token)
            ttl = self._conf.task_lease_time
            what = f"the claim of {label(envelope)} on its key"
            claim.kept = self._keeper.keep(what, ttl, lambda: claim.renew(ttl))
            return claim
        if isinstance(found, Done):
            assert self._store is not None
            return self._store.from_document(found.record, f"the record of the key {key!r}")
        now = self._clock.time()
        rest = max(0.0, found.until + CLOCK_SKEW - now)
        least = 5.0 if delivery.receive_count > 1 else 1.0  # a duplicate is in no hurry
        pause = min(max(least, 2.0 ** min(times_deferred(envelope), 10)), LONGEST_PAUSE, rest + 0.1)
        return Wait(now + pause, f"its key is being worked on by {found.owner.partition('/')[0]}")

    def finish(
        self, claim: Claim, record: Record, serializer: str | None, expires: float | None
    ) -> Record | None:
        """See Claim.finish."""
        assert self._store is not None
        document = self._store.document(record, serializer)
        keep_for = self._conf.result_expires if expires is None else expires
        self._drop(claim)
        until = None if keep_for is None else self._clock.time() + keep_for
        found = self.once.finish(claim.token, document, until)
        if not isinstance(found, Done):
            claim.settled = True  # it is another's now
            return None
        claim.settled = True
        return record if found.mine else self._store.from_document(found.record, claim.key)

    def leave(self, claim: Claim | None) -> None:
        """The run is over: without a record, the key is free again. Never raises; a claim runs out."""
        if claim is None or claim.settled:
            return
        claim.settled = True
        if not self._drop(claim):
            return  # somebody else has it
        self._quietly(claim.key, lambda: self.once.abandon(claim.token))

    def vacate(self, task: Task[..., Any], envelope: Envelope, delivery: Delivery) -> None:
        """The process that ran this delivery has died: free its claim. Never raises."""
        if self._once is None:
            return
        once = self._once

        def free() -> None:
            key = self._key(task, envelope)
            if key is not None:
                found = once.claim(key, _owner(envelope, delivery), 1.0)
                if isinstance(found, Claimed):
                    once.abandon(found.token)

        self._quietly(envelope.id, free)

    def _drop(self, claim: Claim) -> bool:
        return claim.kept is None or self._keeper.drop(claim.kept)

    def _key(self, task: Task[..., Any], envelope: Envelope) -> str | None:
        given = envelope.headers.get(IDEMPOTENCY_KEY)
        if isinstance(given, str):
            return f"{task.name}:{given}"
        if not task.is_idempotent:
            return None
        if task.idempotency_key is None:
            return f"{task.name}:id:{envelope.id}"
        return f"{task.name}:{key_of(task, envelope, 'idempotency_key')}"

    def _quietly(self, what: str, do: Callable[[], object]) -> None:
        try:
            do()
        except (OperationalError, InvalidArguments) as error:
            logger.warning("freeing the idempotency key of %s: %s; its claim runs out", what, error)


def _owner(envelope: Envelope, delivery: Delivery) -> str:
    """One name for one delivery: whoever judges a dead child finds its claim by it."""
    return f"{envelope.id}/{short(delivery.receipt)}"
