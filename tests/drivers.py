"""Who carries a message through the lifecycle in a test: a worker's way, or Lambda's event, handler and answer.

The tests of retries, limits, keys and locks take an app whose ``lifecycle()`` is one of these, so that the
same test holds for both (issue 11: every retry test that the worker passes, through the adapter).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from esm import Context, record

from cloudq import CloudQ
from cloudq.aws_lambda import make_handler
from cloudq.aws_lambda.handler import Handler
from cloudq.aws_lambda.job import Job
from cloudq.brokers.base import Delivery
from cloudq.message import Envelope
from cloudq.runtime.lifecycle import Lifecycle
from cloudq.runtime.ready import Ready
from cloudq.runtime.verdict import Ack, Bury, Verdict
from cloudq.testing.box import Sandbox

#: Parameters of a fixture that gives an app.
DRIVERS: Final = ("worker", "lambda")


class LambdaLifecycle:
    """Has a lifecycle's face. ``run`` makes an event of the message, calls the handler, believes the answer.

    What the handler has done about the message itself (a burial, a return) is not to be done once more:
    ``carried_out`` tells.
    """

    def __init__(self, app: CloudQ, lifecycle: Lifecycle) -> None:
        again = app.lifecycle
        app.lifecycle = lambda hostname: lifecycle  # type: ignore[method-assign]
        self._handler: Handler = make_handler(app, concurrency=1)
        app.lifecycle = again  # type: ignore[method-assign]
        self._lifecycle = lifecycle
        self._handler._telemetry = self  # type: ignore[assignment]
        self._jobs: list[Job] = []
        self.carried_out: set[str] = set()

    def report(self, jobs: list[Job], request_id: str | None) -> None:
        """Called by the handler instead of its telemetry: what it says of each message."""
        self._jobs = jobs

    def run(self, delivery: Delivery, watch: Any) -> Verdict:
        return self.run_batch([delivery])[0]

    def run_batch(self, deliveries: list[Delivery]) -> list[Verdict]:
        event = json.loads(json.dumps({"Records": [record(each) for each in deliveries]}))
        answer = self._handler(event, Context())
        reported = {each["itemIdentifier"] for each in answer["batchItemFailures"]}
        verdicts: list[Verdict] = []
        for job in self._jobs:
            assert job.verdict is not None, "it did not end in time"
            kept = job.delivery.message_id in reported
            assert kept != isinstance(job.verdict, Ack | Bury), (job.verdict, answer)
            if not isinstance(job.verdict, Ack):
                self.carried_out.add(job.delivery.receipt)
            verdicts.append(job.verdict)
        return verdicts

    def prepare(self, delivery: Delivery) -> Ready | Verdict:
        """The first step alone, for tests of functions that die in the midst: the message is this one's."""
        self._handler._live.add(delivery.receipt)
        return self._lifecycle.prepare(delivery)

    @property
    def revoked(self) -> Callable[[Envelope], str | None]:
        return self._lifecycle.revoked

    @revoked.setter
    def revoked(self, asked: Callable[[Envelope], str | None]) -> None:
        self._lifecycle.revoked = asked

    def close(self) -> None:
        self._handler.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lifecycle, name)


class Drivers:
    """Makes an app's lifecycles of one kind, and knows what they have carried out themselves."""

    def __init__(self, app: CloudQ, kind: str) -> None:
        self._made: list[LambdaLifecycle] = []
        if kind == "lambda":
            plain = app.lifecycle

            def lifecycle(hostname: str) -> Any:
                made = LambdaLifecycle(app, plain(hostname))
                self._made.append(made)
                return made

            app.lifecycle = lifecycle  # type: ignore[method-assign]

    def has_done(self, delivery: Delivery) -> bool:
        """Was the message buried or given back already?"""
        return any(delivery.receipt in each.carried_out for each in self._made)

    def close(self) -> None:
        for each in self._made:
            each.close()


@contextmanager
def driven(box: Sandbox, kind: str) -> Iterator[Sandbox]:
    """For the block, the sandbox drains by this driver."""
    drivers = Drivers(box.app, kind)
    if kind == "lambda":
        apply = box._apply

        def unless_done(delivery: Delivery, verdict: Verdict) -> None:
            if not drivers.has_done(delivery):
                apply(delivery, verdict)

        box._lifecycle = box.app.lifecycle("sandbox")
        box._apply = unless_done  # type: ignore[method-assign]
    try:
        yield box
    finally:
        drivers.close()
