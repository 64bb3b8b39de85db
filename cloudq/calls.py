"""How an app calls: by name, one or many at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Unpack, cast

from cloudq.canvas.signature import Signature
from cloudq.context import current
from cloudq.errors import SendError
from cloudq.options import CallOptions
from cloudq.outbox import Collecting
from cloudq.results.handle import AsyncResult
from cloudq.workflows.face import Workflows

if TYPE_CHECKING:  # loaded when they are needed, see cloudq/assembly.py
    from cloudq.outgoing import Outgoing
    from cloudq.results.store import ResultStore

#: The class, whose name the method AsyncResult takes inside CloudQ.
Handle = AsyncResult[Any]

#: Calls that send_many holds in memory at once.
_CHUNK: Final = 1000


class Calls(Workflows, Collecting):
    """Part of CloudQ: what is named here and not made is the app's."""

    if TYPE_CHECKING:

        @property
        def store(self) -> ResultStore | None: ...
        def handle(self, task_id: str) -> Handle: ...

    def send_task(
        self, name: str, args: Any = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Handle:
        """Publish a call by name; the task need not be known here. Options are ``apply_async``'s."""
        self.check_links(options)
        add_to_parent = options.pop("add_to_parent", True)
        if self.conf.task_always_eager:
            return self.apply_task(name, args, kwargs, **options)
        call = self.producer.prepare(name, args, kwargs, options)
        if not self._collected(call):
            [call], failures = self._publish([call])
            if failures:
                raise failures[0]
        return self._result_of(call, add_to_parent)

    async def asend_task(
        self, name: str, args: Any = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Handle:
        """Asyncio twin of ``send_task``."""
        from cloudq import aio

        return await aio.to_thread(self.send_task, name, args, kwargs, **options)

    def send_many(self, signatures: Iterable[Signature], **options: Unpack[CallOptions]) -> list[Handle]:
        """Publish many calls in batches of ten; ``options`` are laid over each one's own.

        Takes any iterable, in constant memory but for the results. Raises SendError with the
        positions of those that were refused; all others were sent.
        """
        if self.conf.task_always_eager:
            return [each.clone(**cast("dict[str, Any]", options)).apply() for each in signatures]
        given = cast("dict[str, Any]", options)
        running, add_to_parent = current(), given.pop("add_to_parent", True)
        results: list[Handle] = []
        failures: dict[int, Exception] = {}
        remaining = iter(signatures)
        while chunk := list(itertools.islice(remaining, _CHUNK)):
            calls = [self._prepared(each, given) for each in chunk]
            calls, failed = self._publish(calls)
            failures.update({len(results) + position: each for position, each in failed.items()})
            found = [self.handle(call.envelope.id) for call in calls]
            results += found
            if running is not None and add_to_parent:
                running.children.extend(found)
        if failures:
            ids = {n: each.id for n, each in enumerate(results)}
            sent = {n: each for n, each in ids.items() if n not in failures}
            raise SendError(failures, sent, {n: ids[n] for n in failures})
        return results

    def _publish(self, calls: list[Outgoing]) -> tuple[list[Outgoing], dict[int, Exception]]:
        """Send; the calls that stand for these (a unique task's duplicate is the first), and failures."""
        from cloudq import uniqueness

        parts = (self.tasks, self.producer, lambda: self.store, self.conf, self.clock)
        return uniqueness.publish(calls, *parts)

    def _prepared(self, signature: Signature, options: Mapping[str, Any]) -> Outgoing:
        self.check_one(signature)
        name, args, kwargs = signature["task"], signature["args"], signature["kwargs"]
        task = self.tasks.get(name)
        if task is not None:
            task.check_arguments(args, kwargs)
        given: Mapping[str, Any] = signature["options"]
        if given or options:
            given = {**given, **options}
            given.pop("add_to_parent", None)
        return self.producer.prepare(name, args, kwargs, given)

    async def asend_many(
        self, signatures: Iterable[Signature], **options: Unpack[CallOptions]
    ) -> list[Handle]:
        """Asyncio twin of ``send_many``."""
        from cloudq import aio

        return await aio.to_thread(lambda: self.send_many(signatures, **options))

    def _result_of(self, call: Outgoing, add_to_parent: bool) -> Handle:
        result = self.handle(call.envelope.id)
        running = current()
        if running is not None and add_to_parent:
            running.children.append(result)
        return result

    def _task_defaults(self, name: str) -> Mapping[str, Any]:
        task = self.tasks.get(name)
        if task is None:
            return {}
        return {
            "queue": task.queue,
            "serializer": task.serializer,
            "compression": task.compression,
            "expires": task.expires,
            "priority": task.priority,
        }
