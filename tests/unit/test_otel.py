"""OpenTelemetry: one connected trace, whatever follows from a call; names and attributes of the conventions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from cloudq import CloudQ, chain, chord, group
from cloudq.errors import MissingExtra, OperationalError, ServiceUnavailable
from cloudq.monitoring.otel import instrument
from cloudq.testing import sandbox
from cloudq.testing.box import Sandbox
from cloudq.testing.workers import running_worker


class Scene:
    def __init__(self, app: CloudQ) -> None:
        self.app = app
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.tracing = instrument(app, self.provider, MeterProvider([self.reader]))

    def spans(self) -> list[Any]:
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time)

    def connected(self) -> None:
        """One trace, one root, and every other span has a parent in it."""
        spans = self.spans()
        ids = {span.context.span_id for span in spans}
        roots = [span for span in spans if span.parent is None]
        assert len({span.context.trace_id for span in spans}) == 1
        assert len(roots) == 1, [(span.name, span.attributes) for span in roots]
        assert all(span.parent.span_id in ids for span in spans if span.parent is not None)

    def metrics(self) -> dict[str, Any]:
        data = self.reader.get_metrics_data()
        found: dict[str, Any] = {}
        for each in data.resource_metrics[0].scope_metrics[0].metrics:  # type: ignore[union-attr]
            points = each.data.data_points
            found[each.name] = sum(getattr(p, "value", None) or getattr(p, "count", 0) for p in points)
        return found


@pytest.fixture
def scene() -> Iterator[Scene]:
    app = CloudQ("traced")

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task(name="boom", throws=(ValueError,))
    def boom() -> None:
        raise ValueError("no good")

    @app.task(name="again", bind=True)
    def again(self: Any) -> int:
        if self.request.retries < 2:
            self.retry(countdown=5)
        return int(self.request.retries)

    @app.task(name="parent")
    def parent() -> None:
        add.delay(1, 1)

    made = Scene(app)
    yield made
    made.tracing.uninstrument()


@pytest.fixture
def box(scene: Scene) -> Iterator[Sandbox]:
    with sandbox(scene.app) as box:
        yield box


def test_publisher_and_worker_are_one_trace(scene: Scene, box: Sandbox) -> None:
    result = scene.app.send_task("add", (1, 2))
    box.drain()

    send, process = scene.spans()
    assert (send.name, send.kind) == ("send cloudq", SpanKind.PRODUCER)
    assert (process.name, process.kind) == ("process cloudq", SpanKind.CONSUMER)
    assert process.parent.span_id == send.context.span_id
    assert process.context.trace_id == send.context.trace_id
    assert dict(send.attributes) == {
        "messaging.system": "cloudq",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "cloudq",
        "messaging.message.conversation_id": result.id,
        "cloudq.task.name": "add",
        "cloudq.task.id": result.id,
        "cloudq.task.retries": 0,
    }
    assert process.attributes["cloudq.task.state"] == "SUCCESS"
    assert process.attributes["messaging.message.id"]
    assert scene.metrics() == {
        "messaging.client.sent.messages": 1,
        "messaging.client.consumed.messages": 1,
        "messaging.process.duration": 1,
    }


def test_the_callers_own_span_is_the_root(scene: Scene, box: Sandbox) -> None:
    with scene.provider.get_tracer("web").start_as_current_span("GET /"):
        scene.app.send_task("add", (1, 2))
    box.drain()
    scene.connected()
    assert [span.name for span in scene.spans()] == ["GET /", "send cloudq", "process cloudq"]


def test_a_chain_is_one_trace(scene: Scene, box: Sandbox) -> None:
    add = scene.app.tasks["add"]
    result = chain(add.s(1, 2), add.s(3), add.s(4)).apply_async()
    box.drain()
    assert result.get(timeout=1) == 10
    scene.connected()
    assert len(scene.spans()) == 6


def test_a_chord_is_one_trace_without_a_span_around_it(scene: Scene, box: Sandbox) -> None:
    add, total = scene.app.tasks["add"], scene.app.tasks["total"]
    result = chord([add.s(n, n) for n in range(4)], total.s()).apply_async()
    box.drain()
    assert result.get(timeout=1) == 12
    scene.connected()
    ran = [span for span in scene.spans() if span.kind == SpanKind.CONSUMER]
    assert [span.attributes["cloudq.task.name"] for span in ran].count("total") == 1


def test_a_group_in_a_span_and_a_task_that_sends_another(scene: Scene, box: Sandbox) -> None:
    with scene.provider.get_tracer("web").start_as_current_span("job"):
        group(scene.app.tasks["parent"].s() for _ in range(3)).apply_async()
    box.drain()
    scene.connected()
    by_id = {span.context.span_id: span for span in scene.spans()}
    for span in scene.spans():
        if span.kind == SpanKind.PRODUCER and span.attributes["cloudq.task.name"] == "add":
            assert by_id[span.parent.span_id].attributes["cloudq.task.name"] == "parent"


def test_links_and_errors(scene: Scene, box: Sandbox) -> None:
    app = scene.app
    app.send_task("boom", link_error=app.signature("total", ([1],), immutable=True))
    box.drain()
    scene.connected()
    [failed] = [
        span
        for span in scene.spans()
        if span.kind == SpanKind.CONSUMER and span.attributes["cloudq.task.name"] == "boom"
    ]
    assert (failed.status.status_code, failed.attributes["error.type"]) == (StatusCode.ERROR, "ValueError")
    assert failed.events[0].name == "exception"


def test_retries_stay_in_their_trace(scene: Scene, box: Sandbox) -> None:
    scene.app.send_task("again")
    box.drain()
    scene.connected()
    tries = [span for span in scene.spans() if span.kind == SpanKind.CONSUMER]
    assert [span.attributes["cloudq.task.retries"] for span in tries] == [0, 1, 2]
    assert [span.attributes["cloudq.task.state"] for span in tries] == ["RETRY", "RETRY", "SUCCESS"]


def test_nothing_leaks_into_the_next_task(scene: Scene, box: Sandbox) -> None:
    scene.app.send_task("add", (1, 2))
    scene.app.send_task("parent")
    box.drain()
    assert len({span.context.trace_id for span in scene.spans()}) == 2
    assert scene.tracing._running == {}
    assert not scene.tracing._sending


def test_a_publish_that_fails_says_so(scene: Scene, box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ServiceUnavailable("not now")

    monkeypatch.setattr(scene.app.broker, "send", refuse)
    with pytest.raises(OperationalError):
        scene.app.send_task("add", (1, 2), retry=False)
    [span] = scene.spans()
    assert span.status.status_code == StatusCode.ERROR
    assert not scene.tracing._sending


def test_a_context_given_by_hand_is_kept(scene: Scene, box: Sandbox) -> None:
    given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    scene.app.send_task("add", (1, 2), headers={"traceparent": given})
    box.drain()
    [process] = scene.spans()
    assert f"{process.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_tasks_side_by_side_keep_their_own_traces(scene: Scene, pool: str) -> None:
    with scene.app.using(broker="memory://", backend="memory://"), running_worker(scene.app, pool=pool):
        results = [
            chain(scene.app.tasks["add"].s(n, n), scene.app.tasks["add"].s(1)).delay() for n in range(8)
        ]
        assert [each.get(timeout=20) for each in results] == [2 * n + 1 for n in range(8)]
    by_trace: dict[int, list[Any]] = {}
    for span in scene.spans():
        by_trace.setdefault(span.context.trace_id, []).append(span)
    assert sorted(len(each) for each in by_trace.values()) == [4] * 8


def test_twice_is_once_and_it_can_be_undone(scene: Scene, box: Sandbox) -> None:
    assert instrument(scene.app) is scene.tracing
    scene.tracing.uninstrument()
    scene.app.send_task("add", (1, 2))
    assert scene.spans() == []


def test_without_the_extra_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(MissingExtra, match=r"cloudq-tasks\[otel\]"):
        instrument(CloudQ("x"))
