"""What is written about a run: its outcome, and where it came from."""

from __future__ import annotations

from typing import Any

from cloudq import states
from cloudq.clock import Clock
from cloudq.conf import Conf
from cloudq.execution.outcome import Outcome
from cloudq.results.record import Record
from cloudq.runtime.follow import Follower, named
from cloudq.runtime.ready import Ready


class Records:
    """Makes records of outcomes."""

    def __init__(self, conf: Conf, clock: Clock, hostname: str, follower: Follower) -> None:
        self._conf = conf
        self._clock = clock
        self._hostname = hostname
        self._follower = follower

    def of(self, ready: Ready, outcome: Outcome) -> Record:
        """The record, as it is to be written."""
        envelope, request = ready.envelope, ready.request
        more: dict[str, Any] = {}
        if self._conf.result_extended:
            more = {
                "name": envelope.task,
                "args": list(envelope.args),
                "kwargs": dict(envelope.kwargs),
                "worker": self._hostname,
                "queue": ready.delivery.queue,
                "runtime": round(outcome.runtime, 6),
            }
        children = [named(each) for each in request.children] if request.children else []
        if outcome.state == states.SUCCESS and (envelope.link or envelope.chain):
            children += self._follower.children(envelope)
        extra = self._follower.kept(envelope, ready.delivery.queue, outcome.state)
        if request.added:
            extra = {**self._follower.added(request), **extra}
        return Record(
            envelope.id,
            outcome.state,
            outcome.value if outcome.state == states.SUCCESS else outcome.error,
            traceback=outcome.traceback,
            retries=envelope.retries,
            done_at=self._clock.time(),
            root_id=envelope.root_id if envelope.root_id != envelope.id else None,
            parent_id=envelope.parent_id,
            group_id=envelope.group.id if envelope.group else None,
            children=tuple(children),
            extra=extra,
            **more,
        )
