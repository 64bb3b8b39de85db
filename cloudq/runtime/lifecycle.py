"""The lifecycle of a delivery, the same in a worker, in Lambda and inline.

``prepare`` decodes and decides whether it may run, ``execute`` runs it and never raises, ``settle``
records the end and gives the verdict that the driver applies.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from cloudq.brokers.base import Broker, Delivery
from cloudq.brokers.claimcheck import ClaimCheck
from cloudq.clock import Clock
from cloudq.conf import Conf
from cloudq.errors import CloudQError, OperationalError
from cloudq.execution.batch import acall_one, call_one
from cloudq.execution.outcome import Outcome
from cloudq.hooks import RUNS_EVERYWHERE, Hooks
from cloudq.message import Envelope
from cloudq.pools.base import Cancelled, Died, Returned, TimedOut, Watch
from cloudq.registry import Registry
from cloudq.results.store import ResultStore
from cloudq.runtime.admission import NOTHING, Admission
from cloudq.runtime.losses import Losses
from cloudq.runtime.naming import label
from cloudq.runtime.patience import Patience
from cloudq.runtime.preparation import Preparation
from cloudq.runtime.ready import Ready
from cloudq.runtime.settle import Settler, release_after
from cloudq.runtime.verdict import Ack, Bury, Release, Verdict
from cloudq.serializers.codec import Codec

logger = logging.getLogger("cloudq.runtime")


class Lifecycle:
    """One per process that runs tasks; safe to use from many threads."""

    def __init__(
        self,
        *,
        registry: Registry,
        codec: Codec,
        store: ResultStore | None,
        broker: Callable[[], Broker],
        settler: Settler,
        conf: Conf,
        hooks: Hooks,
        clock: Clock,
        hostname: str,
        patience: Patience,
        admission: Admission,
        claims: ClaimCheck | None = None,
        eager: bool = False,
    ) -> None:
        self._claims = claims
        self._broker = broker
        self._hooks = hooks
        self._heard = hooks.of_runs
        self._patience = patience
        self.settler = settler
        self.admission = admission
        self._preparation = Preparation(
            registry,
            codec,
            store,
            broker,
            settler,
            conf,
            hooks,
            clock,
            hostname,
            patience,
            admission,
            eager,
        )
        self._losses = Losses(self._preparation, settler, registry, store, broker, conf, admission)

    @property
    def revoked(self) -> Callable[[Envelope], str | None]:
        """Why a task must not run although its message says so ("revoked"), or None. From memory."""
        return self._preparation.revoked

    @revoked.setter
    def revoked(self, why: Callable[[Envelope], str | None]) -> None:
        self._preparation.revoked = why

    # --- the whole way ------------------------------------------------------------------------

    def run(self, delivery: Delivery, watch: Watch) -> Verdict:
        """From delivery to verdict, in this thread. Never raises (but for a pool's own hard limit)."""
        try:
            ready = self.prepare(delivery)
            if not isinstance(ready, Ready):
                return ready
            try:
                early = not ready.late and self.ack_early(ready)
                outcome = self.execute(ready, watch)
                verdict = self.settled(ready, outcome, watch)
                return self.closed(verdict, early) if early else verdict
            finally:
                if ready.admitted is not NOTHING:
                    self.leave(ready)
                if (self._heard or RUNS_EVERYWHERE) and self._hooks.wants("task_settled"):
                    self.over(delivery)
        except Exception as error:  # noqa: BLE001  whatever went wrong, the message must not be lost
            return self.stumbled(delivery, error)

    async def arun(self, delivery: Delivery, watch: Watch, bridge: Callable[..., Any]) -> Verdict:
        """As ``run``, on an event loop; ``bridge(f, *args)`` awaits blocking work in a thread.

        A task that asks for nothing, stores nothing and is followed by nothing needs no thread.
        """
        try:
            ready = self._preparation.at_once(delivery) or await bridge(self.prepare, delivery)
            if not isinstance(ready, Ready):
                verdict: Verdict = ready
                return verdict
            try:
                early = not ready.late and await bridge(self.ack_early, ready)
                outcome = await self.aexecute(ready, watch)
                if not early and self.settler.at_once(ready, outcome) and not hasattr(watch, "cut_short"):
                    return self.settle(ready, outcome)
                return self.closed(await bridge(self.settled, ready, outcome, watch), early)
            finally:
                if ready.admitted is not NOTHING:
                    await bridge(self.leave, ready)
                self.over(delivery)
        except Exception as error:  # noqa: BLE001
            return self.stumbled(delivery, error)

    def leave(self, ready: Ready) -> None:
        """The run is over, however it ended: others may have what it held. Never raises."""
        self.admission.leave(ready.admitted)

    def over(self, delivery: Delivery) -> None:
        """Tell the hooks that nothing more is done for this delivery."""
        if (self._heard or RUNS_EVERYWHERE) and self._hooks.wants("task_settled"):
            self._hooks.fire("task_settled", delivery=delivery)

    def hurry(self) -> None:
        """Do not wait for absent services any more: the worker is stopping."""
        self._patience.hurry()

    def hurry_by(self, moment: float) -> None:
        """Wait for no absent service past this moment (of the app's clock, monotonic)."""
        self._patience.until = moment

    def settled(self, ready: Ready, outcome: Outcome, watch: Watch) -> Verdict:
        """A watch that cuts tasks short for its driver's sake says so here: they are lost, not at fault."""
        cut_short = getattr(watch, "cut_short", None)
        end = cut_short(outcome, ready.delivery) if cut_short is not None else None
        return self.settler.settle(ready, outcome) if end is None else self.lost(ready.delivery, end)

    def ack_early(self, ready: Ready) -> bool:
        """Delete the message now if its task wants that (``acks_late=False``); was it?"""
        if ready.late:
            return False
        self.settler.eased(ready.delivery)
        self._patience.call(
            f"acknowledging {label(ready.envelope)} early", lambda: self._broker().ack([ready.delivery])
        )
        if self._claims is not None:
            self._claims.forget([ready.delivery.body])
        return True

    def closed(self, verdict: Verdict, early: bool) -> Verdict:
        """The verdict on a message that was perhaps acknowledged early."""
        # what was deleted can still be buried, but neither acknowledged nor given back
        return Ack(already=True) if early and not isinstance(verdict, Bury) else verdict

    def stumbled(self, delivery: Delivery, error: Exception) -> Verdict:
        """The verdict when something else than the task went wrong: it is given back."""
        if isinstance(error, OperationalError):
            logger.error("message %s of %s is given back: %s", delivery.message_id, delivery.queue, error)
            return release_after(delivery.receive_count)
        logger.error(
            "message %s of %s could not be handled and is given back",
            delivery.message_id,
            delivery.queue,
            exc_info=error,
        )
        return release_after(delivery.receive_count)

    # --- its parts ----------------------------------------------------------------------------

    def prepare(self, delivery: Delivery) -> Ready | Verdict:
        """May it run? Otherwise the verdict, with everything done that follows from it."""
        return self._preparation.prepare(delivery)

    def execute(self, ready: Ready, watch: Watch) -> Outcome:
        """Run the task's function. Never raises."""
        self.before(ready)
        outcome = call_one(ready.task, ready.request, ready.args, ready.envelope.kwargs, watch)
        return self.after(ready, outcome)

    async def aexecute(self, ready: Ready, watch: Watch) -> Outcome:
        """As ``execute``, on the event loop."""
        self.before(ready)
        outcome = await acall_one(ready.task, ready.request, ready.args, ready.envelope.kwargs, watch)
        return self.after(ready, outcome)

    def before(self, ready: Ready) -> None:
        """Tell the hooks that it starts."""
        if (self._heard or RUNS_EVERYWHERE) and self._hooks.wants("task_prerun"):
            self._hooks.fire("task_prerun", task=ready.task, request=ready.request)

    def after(self, ready: Ready, outcome: Outcome) -> Outcome:
        """Tell the hooks that it ended."""
        if (self._heard or RUNS_EVERYWHERE) and self._hooks.wants("task_postrun"):
            self._hooks.fire("task_postrun", task=ready.task, request=ready.request, outcome=outcome)
        return outcome

    def settle(self, ready: Ready, outcome: Outcome) -> Verdict:
        """Record the end, send what follows, give the verdict."""
        return self.settler.settle(ready, outcome)

    def lost(self, delivery: Delivery, end: Died | TimedOut | Returned | Cancelled) -> Verdict:
        """What becomes of a delivery whose run ended without a verdict. Never raises."""
        if isinstance(end, Returned):
            return Release(0.0)
        try:
            return self._losses.judge(delivery, end)
        except CloudQError as error:
            return self.stumbled(delivery, error)
