"""What the pools run: a message through the lifecycle, and its burial if that is the verdict."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from cloudq.aws_lambda.clipped import Clipped
from cloudq.aws_lambda.durations import Durations
from cloudq.aws_lambda.job import Job
from cloudq.aws_lambda.steering import Steering
from cloudq.aws_lambda.suspects import Suspects
from cloudq.brokers.base import Broker
from cloudq.brokers.claimcheck import ClaimCheck, ref_of
from cloudq.errors import CloudQError, LeaseLost, NoDeadLetterQueue
from cloudq.pools.base import Cancelled, Died, TimedOut, Watch
from cloudq.runtime import batch
from cloudq.runtime.lifecycle import Lifecycle
from cloudq.runtime.settle import release_after
from cloudq.runtime.verdict import ACK, Ack, Bury, Release, Verdict

logger = logging.getLogger("cloudq.lambda")

#: A message that nowhere takes: left alone this long before it is tried again (seconds).
NOWHERE: Final = 900.0
#: Given back because it cannot be begun any more: at once visible to others.
UNSTARTED: Final = Release(0.0)


class LambdaRunner:
    """One per process. ``run`` and ``arun`` never raise, like the lifecycle."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        broker: Callable[[], Broker],
        durations: Durations,
        limit_of: Callable[[str], float | None],
        suspects: Suspects,
        steering: Steering,
        claims: ClaimCheck | None = None,
    ) -> None:
        """``limit_of`` gives a task's own time limit, seconds."""
        self.steering = steering
        self._claims = claims
        self._suspects = suspects
        self._lifecycle = lifecycle
        self._broker = broker
        self._durations = durations
        self._limit_of = limit_of

    @property
    def knows_who_began(self) -> bool:
        """Is it on record which messages were begun before?"""
        return self._suspects.known

    def run(self, job: Job, watch: Watch) -> Verdict:
        """The whole way, in this thread."""
        self.steering.look(job.budget)
        if not self._may_start(job):
            return self._unstarted(job)
        self._mark(job)
        clipped = _clipped(job, watch)
        if job.crew:
            verdicts = batch.run(self._lifecycle, [each.delivery for each in job.crew], clipped)
            return self._done_all(job, verdicts)
        return self._done(job, self._lifecycle.run(job.delivery, clipped))

    async def arun(self, job: Job, watch: Watch) -> Verdict:
        """The whole way, on this event loop."""
        from cloudq import aio

        if self.steering.pause <= 0:
            await aio.to_thread(self.steering.look, job.budget)
        if not self._may_start(job):
            return self._unstarted(job)
        await aio.to_thread(self._mark, job)
        clipped = _clipped(job, watch)
        if job.crew:
            deliveries = [each.delivery for each in job.crew]
            verdicts = await batch.arun(self._lifecycle, deliveries, clipped, aio.to_thread)
            return await aio.to_thread(self._done_all, job, verdicts)
        verdict = await self._lifecycle.arun(job.delivery, clipped, aio.to_thread)
        return await aio.to_thread(self._done, job, verdict)

    def lost(self, job: Job, end: Died | TimedOut | Cancelled) -> Verdict:
        """The pool had to end it. Asks the store; never raises."""
        if isinstance(end, TimedOut) and job.clipped is not None:
            end = job.clipped.meant(end)
        for each in job.members:
            self._carried_out(each, self._lifecycle.lost(each.delivery, end))
        assert job.verdict is not None
        return job.verdict

    def close(self) -> None:
        """Nothing is held here: the app stays open between invocations."""

    # --- parts --------------------------------------------------------------------------------

    def _may_start(self, job: Job) -> bool:
        """Is there time for it? What the invocation begins with may always start: no later one has more
        time to offer."""
        job.start()
        left = job.budget.left()
        if job.first or left <= 0:
            return left > 0
        name = job.peeked.task
        needed = self._durations.expected(name)
        return left >= ((self._limit_of(name) or 0.0) if needed is None else needed)

    def _unstarted(self, job: Job) -> Verdict:
        for each in job.members:
            each.go_back("no time left")
        return UNSTARTED

    def _mark(self, job: Job) -> None:
        for each in job.members:
            self._suspects.mark(each.delivery, each.begun_before)

    def _done_all(self, job: Job, verdicts: list[Verdict]) -> Verdict:
        for each, verdict in zip(job.crew, verdicts, strict=True):
            self._done(each, verdict)
        return verdicts[0]

    def _done(self, job: Job, verdict: Verdict) -> Verdict:
        if job.seconds is not None:
            self._durations.add(job.peeked.task, job.seconds)
        return self._carried_out(job, verdict)

    def _carried_out(self, job: Job, verdict: Verdict) -> Verdict:
        """What is left to do. Burials happen here and now: what follows in a FIFO group may only
        run when the one before it is out of the way."""
        job.verdict = verdict
        if isinstance(verdict, Bury):
            job.detail = verdict.detail
            verdict = self._buried(job, verdict)
        large = self._claims is not None and ref_of(job.delivery.body) is not None
        if isinstance(verdict, Ack) and not verdict.already and (large or job.ack_now):
            self._ack(job)
        job.todo = verdict
        return verdict

    def _buried(self, job: Job, verdict: Bury) -> Verdict:
        delivery = job.delivery
        try:
            self._broker().bury(delivery, verdict.reason, verdict.detail)
        except NoDeadLetterQueue as error:
            logger.error("message %s cannot be buried (%s): %s", delivery.message_id, verdict.reason, error)
            return Release(NOWHERE)
        except LeaseLost as error:
            logger.warning("message %s was buried, but may come again: %s", delivery.message_id, error)
        except CloudQError as error:
            logger.error(
                "message %s cannot be buried (%s) and is given back: %s",
                delivery.message_id,
                verdict.reason,
                error,
            )
            return release_after(delivery.receive_count)
        except Exception:
            # a text that no store takes: what comes of an event may be anything
            logger.exception("message %s cannot be buried (%s)", delivery.message_id, verdict.reason)
            return Release(NOWHERE)
        return ACK

    def _ack(self, job: Job) -> None:
        """Delete ahead of Lambda, with the stored text of a large message. If that fails, nothing is
        lost: Lambda deletes the message after the answer, a lifecycle rule the text."""
        try:
            refused = self._broker().ack([job.delivery])
        except CloudQError as error:
            logger.warning("message %s could not be deleted early: %s", job.delivery.message_id, error)
            return
        except Exception:
            logger.exception("message %s could not be deleted early", job.delivery.message_id)
            return
        if self._claims is not None and not refused:
            self._claims.forget([job.delivery.body])


def _clipped(job: Job, watch: Watch) -> Clipped:
    found = Clipped(watch, job.budget)
    for each in job.members:
        each.clipped = found
    return found
