"""OpenTelemetry: one trace from whoever publishes through every task that follows (extra ``otel``).

Spans and metrics follow the semantic conventions for messaging (opentelemetry.io/docs/specs/semconv/messaging).
The context travels in the message's envelope, as ``traceparent``: SQS allows ten attributes, and others need them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Final, Protocol

from cloudq import states
from cloudq.errors import MissingExtra
from cloudq.hooks import Hooks

#: Publishes in flight, and groups whose first publish is remembered, at most.
_MOST: Final = 10_000
_MARK: Final = "_cloudq_otel"


class App(Protocol):
    """What is needed of an app."""

    @property
    def hooks(self) -> Hooks: ...
    @property
    def conf(self) -> Any: ...


def instrument(app: App, tracer_provider: Any = None, meter_provider: Any = None) -> Tracing:
    """Trace what this app publishes and runs, in this process; once per app, beside its declaration.

    The providers are OpenTelemetry's global ones unless given. Twice is once.
    """
    found: Tracing | None = getattr(app, _MARK, None)
    if found is None:
        found = Tracing(app, tracer_provider, meter_provider)
        found.attach()
        setattr(app, _MARK, found)
    return found


class Tracing:
    """The listeners of one app."""

    def __init__(self, app: App, tracer_provider: Any, meter_provider: Any) -> None:
        try:
            from opentelemetry import context, metrics, propagate, trace
        except ImportError as error:
            raise MissingExtra("tracing with OpenTelemetry", "otel") from error
        self._app = app
        self._context, self._propagate, self._trace = context, propagate, trace
        self._tracer = trace.get_tracer("cloudq", tracer_provider=tracer_provider)
        meter = (
            meter_provider.get_meter("cloudq") if meter_provider is not None else metrics.get_meter("cloudq")
        )
        self._sent = meter.create_counter("messaging.client.sent.messages", "{message}", "Tasks published.")
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages", "{message}", "Tasks received."
        )
        self._duration = meter.create_histogram("messaging.process.duration", "s", "Time in tasks' code.")
        self._lock = threading.Lock()
        self._sending: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self._families: OrderedDict[str, Any] = OrderedDict()
        self._running: dict[str, tuple[Any, Any]] = {}
        self._points: dict[str, Any] = {
            "before_publish": self._before_publish,
            "task_sent": self._task_sent,
            "publish_failed": self._publish_failed,
            "task_received": self._received,
            "task_prerun": self._prerun,
            "task_postrun": self._postrun,
            "task_settled": self._settled,
        }

    def attach(self) -> None:
        """Listen."""
        for point, listener in self._points.items():
            self._app.hooks.on(point, listener)

    def uninstrument(self) -> None:
        """Listen no more."""
        for point, listener in self._points.items():
            self._app.hooks.off(point, listener)
        if getattr(self._app, _MARK, None) is self:
            delattr(self._app, _MARK)

    # --- publishing ---------------------------------------------------------------------------

    def _before_publish(self, envelope: Any, queue: str, **_: Any) -> None:
        if "traceparent" in envelope.headers:
            return  # another try of a task, or one that the caller has placed in a trace
        context = self._parent_of(envelope)
        attributes = {**self._about(queue, "send", envelope.task), **_ids(envelope)}
        span = self._tracer.start_span(
            f"send {queue}", context=context, kind=self._trace.SpanKind.PRODUCER, attributes=attributes
        )
        self._propagate.inject(envelope.headers, context=self._trace.set_span_in_context(span, context))
        with self._lock:
            self._sending[envelope.id, envelope.retries] = span
            self._families.setdefault(envelope.root_id or envelope.id, span.get_span_context())
            for book in (self._sending, self._families):
                while len(book) > _MOST:
                    book.popitem(last=False)

    def _parent_of(self, envelope: Any) -> Any:
        """The context to publish in: what is current; without any, that of the workflow's first message."""
        current = self._context.get_current()
        first = self._families.get(envelope.root_id)
        if first is None or self._trace.get_current_span(current).get_span_context().is_valid:
            return current
        return self._trace.set_span_in_context(self._trace.NonRecordingSpan(first), current)

    def _task_sent(self, envelope: Any, queue: str, **_: Any) -> None:
        with self._lock:
            span = self._sending.pop((envelope.id, envelope.retries), None)
        self._sent.add(1, self._about(queue, "send", envelope.task))
        if span is not None:
            span.end()

    def _publish_failed(self, envelope: Any, error: Exception, **_: Any) -> None:
        with self._lock:
            span = self._sending.pop((envelope.id, envelope.retries), None)
        if span is not None:
            self._failed(span, error)
            span.end()

    # --- running ------------------------------------------------------------------------------

    def _received(self, delivery: Any, envelope: Any, **_: Any) -> None:
        self._consumed.add(1, self._about(delivery.queue, "receive", envelope.task))

    def _prerun(self, request: Any, **_: Any) -> None:
        queue, message_id = _place(request)
        parent = self._propagate.extract(request.headers)
        attributes = {
            **self._about(queue, "process", request.task),
            **_ids(request),
            "messaging.message.id": message_id,
        }
        span = self._tracer.start_span(
            f"process {queue}", context=parent, kind=self._trace.SpanKind.CONSUMER, attributes=attributes
        )
        token = self._context.attach(self._trace.set_span_in_context(span, parent))
        self._running[message_id] = (span, token)

    def _postrun(self, request: Any, outcome: Any, **_: Any) -> None:
        queue, message_id = _place(request)
        attributes = self._about(queue, "process", request.task)
        if outcome.state == states.FAILURE:
            attributes["error.type"] = type(outcome.error).__qualname__
        self._duration.record(outcome.runtime, attributes)
        found = self._running.get(message_id)
        if found is None:
            return
        span = found[0]
        span.set_attribute("cloudq.task.state", outcome.state)
        if outcome.state == states.FAILURE:
            self._failed(span, outcome.error)
        elif outcome.error is not None:
            span.record_exception(outcome.error)
        span.end()

    def _settled(self, delivery: Any, **_: Any) -> None:
        # until now: what follows from the task is published as its child
        found = self._running.pop(delivery.message_id, None)
        if found is not None:
            self._context.detach(found[1])

    # --- parts --------------------------------------------------------------------------------

    def _failed(self, span: Any, error: BaseException) -> None:
        span.set_attribute("error.type", type(error).__qualname__)
        span.record_exception(error)
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, str(error)))

    def _about(self, queue: str, operation: str, task: str) -> dict[str, Any]:
        sqs = (self._app.conf.broker_url or "").startswith("sqs:")
        return {
            "messaging.system": "aws_sqs" if sqs else "cloudq",
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.name": queue,
            "cloudq.task.name": task,
        }


def _ids(source: Any) -> dict[str, Any]:
    return {
        "cloudq.task.id": source.id,
        "cloudq.task.retries": source.retries,
        "messaging.message.conversation_id": source.root_id or source.id,
    }


def _place(request: Any) -> tuple[str, str]:
    info = request.delivery_info
    return str(info.get("queue", "")), str(info.get("message_id", request.id))
