"""Events: what they say, how they travel, where they go."""

import io
import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cloudq import CloudQ, Reject
from cloudq.backends.open import open_backend
from cloudq.errors import ImproperlyConfigured, MissingExtra, ServiceUnavailable
from cloudq.monitoring.batches import BATCH, MOST
from cloudq.monitoring.events import TASK_TYPES, TYPES, Recorder
from cloudq.monitoring.feed import Beat, Feed
from cloudq.monitoring.lines import EMF_VALUES, EmbeddedMetrics, JsonLines
from cloudq.monitoring.prometheus import Metrics
from cloudq.monitoring.spool import Spool, SpoolReader
from cloudq.monitoring.stream import StreamReader, StreamSink
from cloudq.testing import sandbox
from cloudq.testing.box import Sandbox
from cloudq.testing.clock import JumpingClock, ManualClock
from cloudq.testing.stores import Counting, Flaky
from cloudq.testing.workers import running_worker


@pytest.fixture
def box() -> Iterator[Sandbox]:
    app = CloudQ("bench")

    @app.task(name="add", throws=(ValueError,))
    def add(x: int, y: int, password: str = "") -> int:
        if y < 0:
            raise ValueError("negative")
        return x + y

    @app.task(name="again", bind=True, max_retries=1)
    def again(self: Any) -> None:
        if self.request.retries == 0:
            self.retry(countdown=5)

    @app.task(name="no")
    def no() -> None:
        raise Reject("bad manners")

    with sandbox(app) as box:
        yield box


@pytest.fixture
def events(box: Sandbox) -> Iterator[list[dict[str, Any]]]:
    found: list[dict[str, Any]] = []
    recorder = Recorder(box.app.hooks, found.append, "w1", box.clock, ["password"])
    recorder.attach()
    yield found
    recorder.detach()


# --- what they say ---------------------------------------------------------------------------------


def test_a_task_that_succeeds(box: Sandbox, events: list[dict[str, Any]]) -> None:
    result = box.app.send_task("add", (1, 2), {"password": "hush"})
    box.drain()

    assert [each["type"] for each in events] == [
        "task-sent",
        "task-received",
        "task-started",
        "task-succeeded",
    ]
    sent, received, _, succeeded = events
    assert {each["uuid"] for each in events} == {result.id}
    assert {each["hostname"] for each in events} == {"w1"}
    assert {each["queue"] for each in events} == {"cloudq"}
    assert [each["clock"] for each in events] == [1, 2, 3, 4]
    assert (sent["name"], sent["args"], sent["kwargs"]) == ("add", "[1, 2]", "{'password': '***'}")
    assert (received["retries"], received["eta"], received["root_id"]) == (0, None, result.id)
    assert received["sent_at"] == box.clock.time()
    assert (succeeded["result"], succeeded["args"]) == ("3", "[1, 2]")
    assert succeeded["runtime"] >= 0
    json.dumps(events)


def test_every_other_end(box: Sandbox, events: list[dict[str, Any]]) -> None:
    box.app.send_task("add", (1, -1))
    box.app.send_task("again")
    box.app.send_task("no", task_id="t-no")
    box.app.send_task("nosuch", task_id="t-9")
    box.app.send_task("add", (1, 2), expires=5)
    box.app.send_task("add", (1, 2), task_id="t-gone").revoke()
    box.advance(10)
    box.drain()

    by_type: dict[str, list[dict[str, Any]]] = {}
    for each in events:
        by_type.setdefault(each["type"], []).append(each)
    assert set(by_type) == set(TASK_TYPES)
    [failed] = by_type["task-failed"]
    assert failed["exception"] == "ValueError('negative')"
    assert "raise ValueError" in failed["traceback"]
    [retried] = by_type["task-retried"]
    assert (retried["name"], retried["delay"]) == ("again", 5)
    assert {(each["uuid"], each["reason"]) for each in by_type["task-rejected"]} == {
        ("t-no", "rejected"),
        ("t-9", "unknown_task"),
    }
    revoked = sorted((each["expired"], each["uuid"] == "t-gone") for each in by_type["task-revoked"])
    assert revoked == [(False, True), (True, False)]


def test_nobody_is_told_once_it_is_detached(box: Sandbox) -> None:
    recorder = Recorder(box.app.hooks, lambda event: pytest.fail(str(event)), "w", box.clock)
    recorder.attach()
    recorder.detach()
    box.app.send_task("add", (1, 2))
    box.drain()


# --- from children to the worker --------------------------------------------------------------------


def test_the_spool_keeps_whole_lines_and_no_read_files(tmp_path: Path) -> None:
    reader, spool = SpoolReader(str(tmp_path)), Spool(str(tmp_path), limit=200)
    assert list(reader.read()) == []
    for n in range(20):
        spool.put({"n": n, "text": "x" * 30})
    assert [each["n"] for each in reader.read()] == list(range(20))
    assert len(list(tmp_path.iterdir())) == 1
    spool.put({"n": 20})
    spool.close()
    [newest] = sorted(tmp_path.iterdir())[-1:]
    with newest.open("ab") as file:  # a child that is killed in the middle of a line
        file.write(b'{"n": 21, "half')
    assert [each["n"] for each in reader.read()] == [20]
    assert list(reader.read()) == []


def test_each_process_has_files_of_its_own(tmp_path: Path) -> None:
    if (pid := os.fork()) == 0:
        spool = Spool(str(tmp_path))
        spool.put({"who": "child"})
        os._exit(0)
    os.waitpid(pid, 0)
    mine = Spool(str(tmp_path))
    mine.put({"who": "parent"})
    assert {each["who"] for each in SpoolReader(str(tmp_path)).read()} == {"child", "parent"}
    mine.close()


class Listing:
    """A sink that remembers."""

    def __init__(self, fails: bool = False) -> None:
        self.got: list[Any] = []
        self.closed = False
        self.fails = fails

    def take(self, events: Any) -> None:
        if self.fails:
            raise RuntimeError("sink is full")
        self.got += events

    def tick(self) -> None: ...

    def close(self) -> None:
        self.closed = True


def test_a_sink_that_fails_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    bad, good = Listing(fails=True), Listing()
    feed = Feed([bad, good])
    for n in range(3):
        feed.put({"n": n})
        feed.pump()
    assert [each["n"] for each in good.got] == [0, 1, 2]
    assert caplog.text.count("taking events: sink is full") == 1  # said once, with its traceback
    feed.start()
    feed.put({"n": 3})
    feed.close()
    assert (good.closed, bad.closed, good.got[-1]) == (True, True, {"n": 3})


def test_what_comes_too_fast_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudq.monitoring.feed.WAITING", 10)
    feed = Feed([sink := Listing()])
    for n in range(15):
        feed.put({"n": n})
    feed.pump()
    assert (feed.dropped, len(sink.got)) == (5, 10)


# --- through the store ------------------------------------------------------------------------------


def event(n: int, at: float, **more: Any) -> dict[str, Any]:
    return {"type": "task-sent", "uuid": f"t-{n}", "timestamp": at, "hostname": "w1", "n": n, **more}


def test_events_go_through_the_store_in_batches() -> None:
    clock = JumpingClock()
    counting = Counting(open_backend("memory://", clock))
    reader = StreamReader(counting, "n", clock)
    sink = StreamSink(counting, "n", "w/1", clock)
    sink.flush()
    assert counting.calls["write"] == 0
    sink.take([event(n, clock.time()) for n in range(100)])
    sink.flush()
    assert counting.calls["write"] == 1

    assert [each["n"] for each in reader.read()] == list(range(100))
    assert reader.read() == []
    clock.advance(61)
    sink.take([event(7, clock.time())])
    sink.close()
    assert [each["n"] for each in reader.read()] == [7]
    clock.advance(2000)
    assert StreamReader(counting, "n", clock, back=900).read() == []


def test_a_watcher_sees_what_happens_from_then_on_or_a_little_before() -> None:
    clock = JumpingClock()
    store = open_backend("memory://", clock)
    sink = StreamSink(store, "n", "w1", clock)
    sink.take([event(1, clock.time())])
    clock.advance(5)
    late = StreamReader(store, "n", clock)
    early = StreamReader(store, "n", clock, back=60)
    sink.take([event(2, clock.time())])
    sink.flush()
    assert [each["n"] for each in late.read()] == [2]
    assert [each["n"] for each in early.read()] == [1, 2]


def test_a_flood_is_cut_and_said_so() -> None:
    clock = JumpingClock()
    counting = Counting(open_backend("memory://", clock))
    sink = StreamSink(counting, "n", "w1", clock)
    sink.take([event(n, clock.time(), text="x" * 9_000) for n in range(300)])
    sink.flush()
    reader = StreamReader(counting, "n", clock, back=10)
    found = reader.read()
    assert MOST // 9_200 <= len(found) <= MOST // 9_000
    assert reader.dropped == 300 - len(found) > 0
    assert counting.calls["write"] >= MOST // BATCH


@pytest.mark.parametrize("seed", range(10))
def test_a_store_that_fails_loses_no_event_and_doubles_none(seed: int) -> None:
    clock = JumpingClock()
    inner = open_backend("memory://", clock)
    sink = StreamSink(Flaky(inner, Random(seed), refused=0.3, lost=0.3), "n", "w1", clock)
    for n in range(30):
        sink.take([event(n, clock.time())])
        try:
            sink.flush()
        except ServiceUnavailable:
            continue
    while True:
        try:
            sink.flush()
            break
        except ServiceUnavailable:
            continue
    assert [each["n"] for each in StreamReader(inner, "n", clock, back=10).read()] == list(range(30))


def test_handlers_get_events_by_type() -> None:
    clock = JumpingClock()
    with CloudQ("c", broker="memory://", backend="memory://", clock=clock) as app:
        sink = StreamSink(app.need_store().backend, "default", "w1", clock)
        heard: list[str] = []
        receiver = app.events.Receiver(
            {"task-sent": lambda e: heard.append("sent"), "*": lambda e: heard.append(e["type"])}
        )
        sink.take([event(1, clock.time()), {**event(2, clock.time()), "type": "task-failed"}])
        sink.flush()
        assert receiver.capture(timeout=1) == 2
        assert heard == ["sent", "task-failed"]
        sink.take([event(n, clock.time()) for n in range(5)])
        sink.flush()
        assert app.events.Receiver(back=60).capture(limit=3) == 3
        with pytest.raises(ValueError, match="no event is of type 'task-begun'"):
            app.events.Receiver({"task-begun": print})


def test_a_beat_is_due_once_a_time() -> None:
    clock = ManualClock()
    beat = Beat(5.0, clock.monotonic)
    assert not beat.due()
    clock.advance(5)
    assert beat.due()
    assert not beat.due()


# --- lines and metrics ------------------------------------------------------------------------------

ENDED: list[dict[str, Any]] = [
    {"type": "task-received", "name": "add", "queue": "q", "timestamp": 10.0, "sent_at": 8.0},
    {"type": "task-succeeded", "name": "add", "queue": "q", "runtime": 0.25, "timestamp": 11.0},
    {"type": "task-failed", "name": "add", "queue": "q", "runtime": 0.5, "timestamp": 11.0},
    {"type": "worker-heartbeat", "hostname": "w", "timestamp": 11.0},
]


def test_json_lines_are_one_event_each() -> None:
    out = io.StringIO()
    JsonLines(out).take(ENDED)
    assert [json.loads(line) for line in out.getvalue().splitlines()] == ENDED


def test_embedded_metrics_follow_the_specification() -> None:
    out, clock = io.StringIO(), ManualClock()
    sink = EmbeddedMetrics(clock, out)
    sink.take(ENDED)
    sink.close()

    [document] = [json.loads(line) for line in out.getvalue().splitlines()]
    about = document["_aws"]
    assert about["Timestamp"] == int(clock.time() * 1000)
    [directive] = about["CloudWatchMetrics"]
    assert directive["Namespace"] == "cloudq"
    for dimensions in directive["Dimensions"]:
        assert all(isinstance(document[name], str) for name in dimensions)
    values = {each["Name"]: (each["Unit"], document[each["Name"]]) for each in directive["Metrics"]}
    assert values == {
        "TasksReceived": ("Count", 1),
        "TasksSucceeded": ("Count", 1),
        "TasksFailed": ("Count", 1),
        "TaskRuntime": ("Seconds", [0.25, 0.5]),
        "TaskAge": ("Seconds", [2.0]),
    }


def test_no_metric_has_more_values_than_it_may() -> None:
    out = io.StringIO()
    sink = EmbeddedMetrics(ManualClock(), out)
    sink.take([ENDED[1]] * (EMF_VALUES * 2 + 5))
    sink.flush()
    documents = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [len(each["TaskRuntime"]) for each in documents] == [EMF_VALUES, EMF_VALUES, 5]
    assert sum(each["TasksSucceeded"] for each in documents) == EMF_VALUES * 2 + 5


def numbers() -> dict[str, Any]:
    return {
        "concurrency": 4,
        "held": 2,
        "active": 1,
        "acked": 9,
        "queues": {"q": {"received": 5, "polls": 3}},
    }


def test_what_prometheus_scrapes_is_read_by_its_own_parser() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    metrics = Metrics(numbers)
    metrics.take(ENDED)
    port = metrics.serve("127.0.0.1", 0)
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        with pytest.raises(ImproperlyConfigured, match="another --metrics-port"):
            Metrics(numbers).serve("127.0.0.1", port)
    finally:
        metrics.close()
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }
    where = (("queue", "q"), ("task", "add"))
    assert samples["cloudq_events_total", *where, ("type", "task-failed")] == 1
    assert samples["cloudq_task_runtime_seconds_sum", *where] == 0.75
    assert samples["cloudq_task_runtime_seconds_bucket", ("le", "0.25"), *where] == 1
    assert samples["cloudq_task_age_seconds_count", *where] == 1
    assert samples["cloudq_worker_concurrency",] == 4
    assert samples["cloudq_worker_messages_acknowledged_total",] == 9
    assert samples["cloudq_worker_tasks_active",] == 1
    assert samples["cloudq_queue_received_total", ("queue", "q")] == 5


def test_without_the_extra_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client", None)
    with pytest.raises(MissingExtra, match=r"cloudq-tasks\[prometheus\]"):
        Metrics(numbers)


# --- a worker ---------------------------------------------------------------------------------------


def live(**settings: Any) -> CloudQ:
    app = CloudQ("live", broker="memory://", backend="memory://", worker_heartbeat_interval=0.1, **settings)

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    return app


def test_a_worker_at_level_tasks_tells_its_whole_life() -> None:
    with live(monitoring="tasks", control_interval=0.1) as app:
        receiver = app.events.Receiver(back=5)
        with running_worker(app, hostname="w1"):
            result = app.send_task("add", (1, 2))
            assert result.get(timeout=20) == 3
        found = list(receiver.itercapture(timeout=0.0))
        types = [each["type"] for each in found]
        assert types[0] == "worker-online"
        assert types[-1] == "worker-offline"
        mine = [each["type"] for each in found if each.get("uuid") == result.id]
        assert [each for each in mine if each != "task-sent"] == [
            "task-received", "task-started", "task-succeeded",
        ]  # fmt: skip
        online = found[0]
        assert (online["sw_ident"], online["hostname"], online["freq"]) == ("cloudq", "w1", 0.1)
        assert set(types) <= set(TYPES)


def test_below_that_level_nobody_listens() -> None:
    with live() as app, running_worker(app) as worker:
        assert worker.feeding.spool is None
        for point in ("task_received", "task_prerun", "task_succeeded", "task_sent"):
            assert not app.hooks.wants(point)


def test_a_sink_of_ones_own() -> None:
    with live() as app:
        app.hooks.sinks.append(sink := Listing())
        with running_worker(app):
            app.send_task("add", (1, 2)).get(timeout=20)
        assert sink.closed
        assert {"worker-online", "task-succeeded", "worker-offline"} <= {each["type"] for each in sink.got}


def test_an_unknown_log_is_refused_at_the_start() -> None:
    wrong = pytest.raises(ImproperlyConfigured, match="did you mean 'json'")
    with live(worker_events_log="jsno") as app, wrong, running_worker(app):
        pass
