"""Tasks run in the calling process: ``apply()`` and ``task_always_eager``.

The call is written as a message, queued on a private in-memory broker, received, run and settled
there, retries and links included: the same lifecycle as a worker's, so the same results and errors.
Delays are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from cloudq import states
from cloudq.backends.open import open_backend
from cloudq.brokers.base import Broker, BrokerCapabilities, Message
from cloudq.brokers.sqlite import SqliteBroker
from cloudq.clock import Clock
from cloudq.conf import Conf
from cloudq.errors import CloudQError, MessageError
from cloudq.execution.call import NoWatch
from cloudq.hooks import Hooks
from cloudq.producer import Producer
from cloudq.registry import Registry
from cloudq.results.group import GroupResult, result_from_tuple
from cloudq.results.handle import AsyncResult, EagerResult, Results
from cloudq.results.membership import Membership
from cloudq.results.record import Record
from cloudq.results.store import ResultStore
from cloudq.runtime.admission import Admission
from cloudq.runtime.follow import Follower
from cloudq.runtime.lifecycle import Lifecycle
from cloudq.runtime.patience import Patience
from cloudq.runtime.settle import Settler
from cloudq.runtime.verdict import Bury, Release
from cloudq.serializers.codec import Codec
from cloudq.workflows.launch import launcher_of


class _Undelayed:
    """The private broker, without delays; remembers which queues were written to."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.queues: dict[str, None] = {}
        self.capabilities: BrokerCapabilities = broker.capabilities

    def send(self, queue: str, messages: Sequence[Message]) -> list[str]:
        self.queues[queue] = None
        return self._broker.send(queue, [each.with_(delay=0.0) for each in messages])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)


def _private_broker(conf: Conf, clock: Clock) -> Broker:
    """With SQS's limit, unless this app sends larger messages as well: here they need no second place."""
    if conf.broker_large_messages is None:
        return SqliteBroker(None, clock)
    return SqliteBroker(None, clock, max_body=conf.broker_large_messages_max)


class Ended:
    """The records of an inline run, as results ask for them; ``app`` answers for all other ids."""

    def __init__(self, app: Results) -> None:
        self._app = app
        self._handles: list[EagerResult[Any]] = []
        self.records: dict[str, Record] = {}
        self._groups: dict[str, Membership] = {}

    def handle(self, task_id: str) -> AsyncResult[Any]:
        """The result of that id; it has its record once the run is over."""
        found: EagerResult[Any] = EagerResult(self._record(task_id), self)
        self._handles.append(found)
        return found

    def over(self, records: Mapping[str, Record], groups: Iterable[Membership]) -> None:
        """Nothing runs any more: this is how all of it ended."""
        self.records.update(records)
        self._groups.update((each.id, each) for each in groups)
        for each in self._handles:
            each._record = self._record(each.id)
        self._handles.clear()

    def _record(self, task_id: str) -> Record:
        # a task that raised Ignore leaves no record, as on a worker
        return self.records.get(task_id) or Record(task_id, states.IGNORED)

    def read(self, task_id: str) -> Record | None:
        return self.records.get(task_id) or self._app.read(task_id)

    def read_many(self, task_ids: Iterable[str]) -> dict[str, Record]:
        return {each: self.records[each] for each in task_ids if each in self.records}

    def read_group(self, group_id: str) -> Membership | None:
        return self._groups.get(group_id)

    def tree(self, task_id: str) -> Any:
        from cloudq.workflows.tree import tree_of

        return tree_of(self, task_id)

    def node(self, plain: Any) -> Any:
        return result_from_tuple(plain, self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app, name)


def _ends(result: Any) -> list[str]:
    """The ids of the tasks that a workflow ends in."""
    if isinstance(result, GroupResult):
        return [each for member in result for each in _ends(member)]
    return [] if result is None else [result.id]


class Inline:
    """One private broker and store; runs calls until nothing is queued any more."""

    def __init__(
        self,
        registry: Registry,
        codec: Codec,
        conf: Conf,
        hooks: Hooks,
        defaults: Callable[[str], Mapping[str, Any]],
        clock: Clock,
        results: Results,
    ) -> None:
        broker: Any = _Undelayed(_private_broker(conf, clock))
        self._broker = broker
        self.store = ResultStore(
            open_backend("memory://", clock), codec.pack, codec.unpack, expires=None, clock=clock
        )
        self.producer = Producer(lambda: broker, codec, conf, hooks, defaults, clock)
        patience = Patience(0.0, clock)
        self.ended = Ended(results)
        self._launcher = launcher_of(self.producer, self.store, conf, clock, registry)
        follower = Follower(self._launcher, self.store)
        self._lifecycle = Lifecycle(
            registry=registry,
            codec=codec,
            store=self.store,
            broker=lambda: broker,
            settler=Settler(self.store, self.producer, conf, hooks, clock, "inline", patience, follower),
            conf=conf,
            hooks=hooks,
            clock=clock,
            hostname="inline",
            patience=patience,
            admission=Admission(None, clock, conf),
            eager=True,
        )

    def apply(
        self, name: str, args: Iterable[Any], kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> EagerResult[Any]:
        """Run one call and all that follows from it; return its result.

        Raises what publishing would raise, and MessageError where a worker would bury the message.
        """
        call = self.producer.prepare(name, args, kwargs, options)
        self.producer.send([call])
        self._finish([call.envelope.id])
        return EagerResult(self.ended._record(call.envelope.id), self.ended)

    def launch(self, signature: Mapping[str, Any]) -> Any:
        """Run a workflow; return the result of its end. Raises as ``apply``."""
        result = self._launcher.launch(signature, self.ended)
        self._finish(_ends(result))
        return result

    def _finish(self, wanted: Iterable[str]) -> None:
        buried = self._drain()
        ids = [unquote(key.removeprefix("task/")) for key in self.store.backend.keys("task/")]
        keys = [unquote(key.removeprefix("group/")) for key in self.store.backend.keys("group/")]
        groups = (self.store.read_group(each) for each in keys)
        self.ended.over(self.store.read_many(ids), [each for each in groups if each is not None])
        if buried and any(each not in self.ended.records for each in wanted):
            raise MessageError("; ".join(buried.values()))

    def _drain(self) -> dict[str, str]:
        buried: dict[str, str] = {}
        while True:
            deliveries = [
                d for queue in list(self._broker.queues) for d in self._broker.receive(queue, 10, 0.0, 3600.0)
            ]
            if not deliveries:
                return buried
            for delivery in deliveries:
                verdict = self._lifecycle.run(delivery, NoWatch())
                if isinstance(verdict, Release):
                    self._broker.release([delivery], 0.0)
                    if delivery.receive_count > 1000:
                        raise CloudQError(f"a message of {delivery.queue} is given back again and again")
                    continue
                if isinstance(verdict, Bury):
                    buried[delivery.message_id] = f"{verdict.reason}: {verdict.detail}"
                self._broker.ack([delivery])

    def close(self) -> None:
        """Forget everything."""
        self._broker.close()
        self.store.backend.close()
