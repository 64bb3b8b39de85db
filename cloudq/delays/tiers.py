"""Which way a delayed call goes: through the queue, hopping, or from EventBridge Scheduler (``delay_tier``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cloudq.brokers.base import Broker, is_fifo
from cloudq.clock import Clock
from cloudq.conf import Conf
from cloudq.delays import eventbridge, hop
from cloudq.errors import ImproperlyConfigured, Unsupported


class Tiers:
    """The ways there are in this app, as its settings are now."""

    def __init__(self, broker: Callable[[], Broker], conf: Conf, clock: Clock) -> None:
        self._broker = broker
        self._conf = conf
        self._clock = clock
        self._shots: tuple[Broker, eventbridge.OneShots] | None = None

    def scheduled_at(self, due: float | None, now: float, queue: str) -> float | None:
        """When EventBridge Scheduler is to send it, or None: it goes to the queue now."""
        if due is None or due <= now or self._conf.delay_tier == "hop":
            return None
        if self._conf.delay_tier != "scheduler":
            raise ImproperlyConfigured(f"delay_tier is hop or scheduler, got {self._conf.delay_tier!r}")
        broker = self._broker()
        if not is_fifo(queue) and (
            due - now <= broker.capabilities.max_delay or not eventbridge.serves(broker)
        ):
            return None  # the embedded broker of a laptop hops, whatever the settings say
        self.one_shots()  # a tier that cannot work is an error before anything is sent
        eventbridge.at_expression(due, now)
        return due

    def first_delay(self, due: float | None, now: float, queue: str) -> float:
        """Seconds of delay to send the message with. Raises Unsupported where the queue takes none."""
        if due is None:
            return 0.0
        delay = hop.first_delay(due, now, self._broker().capabilities.max_delay)
        if delay > 0 and is_fifo(queue):
            raise Unsupported(
                f"the FIFO queue {queue} takes no delay per message (an SQS rule): set delay_tier to scheduler, "
                "send to a standard queue, or without countdown/eta"
            )
        return delay

    def one_shots(self) -> eventbridge.OneShots:
        """EventBridge's schedules that send one message each. Raises ImproperlyConfigured."""
        broker = self._broker()
        if self._shots is None or self._shots[0] is not broker:
            self._shots = (broker, eventbridge.open_one_shots(broker, self._conf, self._clock))
        return self._shots[1]

    def unschedule(self, task_id: str, tries: Iterable[int]) -> bool:
        """See ``Producer.unschedule``."""
        if self._conf.delay_tier != "scheduler" or not eventbridge.serves(self._broker()):
            return False
        return self.one_shots().remove(task_id, tries)
