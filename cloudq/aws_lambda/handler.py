"""The function that Lambda calls: a batch of messages in, the batch response out.

Never raises: an exception would make Lambda deliver the whole batch again, what is done included.
The mapping must have ``FunctionResponseTypes=["ReportBatchItemFailures"]``: without it Lambda ignores
the response and deletes everything ("Implementing partial batch responses", Lambda Developer Guide).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, Final

from cloudq.app import CloudQ
from cloudq.aws_lambda import tracing
from cloudq.aws_lambda.aside import aside
from cloudq.aws_lambda.batch import Batch
from cloudq.aws_lambda.budget import Budget
from cloudq.aws_lambda.durations import Durations
from cloudq.aws_lambda.events import Parsed, Unreadable, parse, queue_name
from cloudq.aws_lambda.job import Job
from cloudq.aws_lambda.pools import COROUTINES, Pools, vcpus
from cloudq.aws_lambda.returns import Returns
from cloudq.aws_lambda.runner import LambdaRunner
from cloudq.aws_lambda.steering import Steering
from cloudq.aws_lambda.suspects import Suspects
from cloudq.aws_lambda.telemetry import Telemetry
from cloudq.brokers.base import Delivery
from cloudq.errors import ImproperlyConfigured
from cloudq.loader import load_app
from cloudq.runtime.verdict import Ack, Release
from cloudq.serializers.peek import peek
from cloudq.task import Task

logger = logging.getLogger("cloudq.lambda")

Response = dict[str, list[dict[str, str]]]
#: An empty identifier makes Lambda give the whole batch back (same page of the guide).
WHOLE_BATCH: Final = ""
#: Seconds that a batch waits at most to learn which of its messages were begun before.
_LONGEST_LOOK: Final = 5.0


def make_handler(
    app: CloudQ | str | None = None,
    *,
    concurrency: int | None = None,
    async_concurrency: int = COROUTINES,
    emf: bool = True,
) -> Handler:
    """The handler of an app: ``handler = make_handler(app)`` at the top of a module.

    ``app`` is an app, ``module:app``, or None for the environment variable CLOUDQ_APP.
    ``concurrency``: plain tasks at once; default: the setting ``worker_concurrency``, else one per vCPU.
    ``async_concurrency``: ``async def`` tasks at once. ``emf``: metrics in the log lines (CloudWatch
    charges for custom metrics).
    Everything is built here, once: broker, store, codec, pools. Raises ImproperlyConfigured.
    """
    found = app if isinstance(app, CloudQ) else load_app(app)
    size = concurrency or found.conf.worker_concurrency or vcpus()
    if size < 1 or async_concurrency < 1:
        raise ImproperlyConfigured(
            f"concurrency and async_concurrency are at least 1, got {size} and {async_concurrency}"
        )
    return Handler(found, size, async_concurrency, emf)


class Handler:
    """Callable as Lambda calls handlers: ``handler(event, context)``."""

    def __init__(self, app: CloudQ, concurrency: int, async_concurrency: int, emf: bool) -> None:
        self.app = app
        function = os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "local")
        self._lifecycle = app.lifecycle(f"lambda@{function}")
        #: Receipts of the messages we hold; what is no longer among them must not be settled.
        self._live: set[str] = set()
        self._lifecycle.settler.holds = lambda delivery: delivery.receipt in self._live
        self._steering = Steering(app, self._lifecycle)
        self._suspects = Suspects(app.backend, app.clock)
        parts = (Durations(), self._limit_of, self._suspects, self._steering, app.claims)
        self._runner = LambdaRunner(self._lifecycle, lambda: app.broker, *parts)
        self._pools = Pools(self._runner, concurrency, async_concurrency)
        self._returns = Returns(lambda: app.broker)
        self._telemetry = Telemetry(function, emf)
        broker = app.broker  # opened now, in the init phase: none is built per invocation
        name_of: Callable[[str], str] | None = getattr(broker, "queue_of", None)
        self._queue_of = name_of or (lambda arn: queue_name(arn) or arn)

    def __call__(self, event: Any, context: Any = None) -> Response:
        """Run the batch; which of its messages are to come again."""
        try:
            return self._handle(event, context)
        except Exception:
            logger.exception("the batch could not be handled: all of it is given back")
            return _response([WHOLE_BATCH])

    def close(self) -> None:
        """End the threads. For tests and local runs; Lambda never asks."""
        self._pools.close()

    # --- parts --------------------------------------------------------------------------------

    def _handle(self, event: Any, context: Any) -> Response:
        budget = Budget.of(context)
        self._lifecycle.hurry_by(self.app.clock.monotonic() + budget.answer_at - budget.started)
        now = self.app.clock.time()
        parsed = parse(event, self._queue_of, now, now + budget.seconds)
        for each in parsed.unreadable:
            _complain(each)
        jobs = [self._job(each, budget) for each in parsed.deliveries]
        if any(each.item_id is None for each in parsed.unreadable):
            for job in jobs:  # what is done is deleted now: the answer gives all of the batch back
                job.ack_now = True
        if jobs:
            self._steering.look(budget)
            self._look_for_suspects(jobs, budget)
        late = Batch(jobs, self._pools, self._runner, self._steering, budget, self._live).run()
        if late:
            self._pools.renew()
        jobs += [self._behind(each, budget) for each in parsed.behind]
        back = [(job.delivery, job.todo.delay) for job in jobs if isinstance(job.todo, Release)]
        failed = _failed(parsed, jobs)
        self._returns.give_back(back, budget.answer_at)
        try:
            self._telemetry.report(jobs, getattr(context, "aws_request_id", None))
            tracing.flush(budget.ends_at - 0.1 * (budget.ends_at - budget.soft_at))
        except Exception:  # what is done is done, whether or not it can be told
            logger.exception("the log lines of this batch could not be written")
        return _response(failed)

    def _look_for_suspects(self, jobs: list[Job], budget: Budget) -> None:
        again = [job for job in jobs if job.delivery.receive_count > 1]
        if not again:
            return
        found = aside(
            "looking for messages that were begun before",
            lambda: self._suspects.marked(job.delivery for job in again),
            min(_LONGEST_LOOK, 0.25 * budget.left()),
        )
        for job in again:
            job.begun_before = (found or {}).get(job.delivery.message_id, 0)

    def _job(self, delivery: Delivery, budget: Budget) -> Job:
        peeked = peek(delivery.body, delivery.message_id)
        task: Task[..., Any] | None = self.app.tasks.get(peeked.task)
        if task is None:
            return Job(delivery, peeked, budget, on_loop=False)
        return Job(delivery, peeked, budget, on_loop=task.is_async, takes=task.batch or 1)

    def _behind(self, delivery: Delivery, budget: Budget) -> Job:
        """Not run: a record before it in its group could not be read."""
        job = self._job(delivery, budget)
        job.go_back("a record of its group could not be read and comes again before it")
        return job

    def _limit_of(self, name: str) -> float | None:
        """A task's own limit, seconds: how long it may take at worst."""
        task: Task[..., Any] | None = self.app.tasks.get(name)
        if task is None:
            return None
        conf = self.app.conf
        soft = task.soft_time_limit if task.soft_time_limit is not None else conf.task_soft_time_limit
        hard = task.time_limit if task.time_limit is not None else conf.task_time_limit
        return min((each for each in (soft, hard) if each is not None), default=None)


def _complain(found: Unreadable) -> None:
    if found.item_id is None:
        logger.error("%s; the whole batch is given back", found.why)
    else:
        logger.error("message %s cannot be read and is given back: %s", found.item_id, found.why)


def _failed(parsed: Parsed, jobs: list[Job]) -> list[str]:
    """Identifiers of what Lambda must not delete, each once."""
    failed = [WHOLE_BATCH if each.item_id is None else each.item_id for each in parsed.unreadable]
    if WHOLE_BATCH in failed:
        return [WHOLE_BATCH]
    failed += [job.delivery.message_id for job in jobs if job.ended is None or not isinstance(job.todo, Ack)]
    return list(dict.fromkeys(failed))


def _response(failed: list[str]) -> Response:
    return {"batchItemFailures": [{"itemIdentifier": each} for each in failed]}
