"""Scaling signals: backlog per worker, the oldest one's age; who asks for them, and how often. On frozen clocks."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner
from worker_processes import eventually

from cloudq import CloudQ
from cloudq.backends.open import open_backend
from cloudq.brokers.base import Delivery, Message, QueueDepth
from cloudq.brokers.open import open_broker
from cloudq.cli.main import cli
from cloudq.control.roster import WorkerInfo
from cloudq.errors import ImproperlyConfigured, ServiceUnavailable
from cloudq.monitoring.lines import EMF_EVERY, EmbeddedMetrics, emf_line
from cloudq.monitoring.prometheus import Metrics
from cloudq.monitoring.scaling import TELLING, Signal, Waits, measure, oldest_of
from cloudq.testing.clock import ManualClock
from cloudq.testing.workers import running_worker
from cloudq.worker.demand import COUNT_EVERY, EVERY, STALE, Demand


def delivery(waited: float, receipts: int = 1, eta: float | None = None) -> Delivery:
    body = json.dumps({"id": "a", "task": "t", "eta": eta})
    return Delivery("q", "m", body, "r", receipts, 1000.0, 1000.0, 1000.0 + waited, 2000.0)


def info(hostname: str, at: float = 1000.0, **changes: Any) -> WorkerInfo:
    about: dict[str, Any] = {"queues": ("q",), "started": 0.0, "at": at, "every": 10.0, "looks_every": 5.0}
    return WorkerInfo(hostname, "app", 1, "host", "threads", 4, **{**about, **changes})


class Queue:
    """A broker as SQS is: it counts, and tells no age."""

    capabilities = SimpleNamespace(reach="cloud")

    def __init__(self) -> None:
        self.ready = 0
        self.asked: list[str] = []
        self.away = False

    def depth(self, queue: str) -> QueueDepth:
        self.asked.append(queue)
        if self.away:
            raise ServiceUnavailable("SQS is away")
        return QueueDepth(self.ready, 3, 2)


class Scene:
    """As much of a worker as its demand sees."""

    def __init__(self, *queues: str) -> None:
        self.now = 0.0
        self.queue = Queue()
        self.listed = 0
        self.others: list[WorkerInfo] = []
        self.sources = [
            SimpleNamespace(queue=name, received=0, waits=Waits(lambda: self.now)) for name in queues
        ]
        roster = SimpleNamespace(alive=self._alive)
        self.clock = ManualClock(1000.0)
        self.store = open_backend("memory://", self.clock)
        self.worker: Any = SimpleNamespace(
            app=SimpleNamespace(
                broker=self.queue,
                clock=self.clock,
                conf=SimpleNamespace(control_namespace="default"),
                control=SimpleNamespace(roster=roster),
                need_store=lambda: SimpleNamespace(backend=self.store),
            ),
            conf=SimpleNamespace(worker_signals_interval=None),
            hostname="w1",
            queues=list(queues),
            sources=self.sources,
            steering=SimpleNamespace(on=True, far=True, started=0.0),
        )
        self.demand = Demand(self.worker, lambda: self.now)

    def _alive(self) -> list[WorkerInfo]:
        self.listed += 1
        return self.others


def test_the_backlog_is_shared_by_the_workers_that_live() -> None:
    found = Signal("q", 90, 0, 0, 3, None)
    assert found.backlog_per_worker == 30.0
    assert Signal("q", 90, 0, 0, 0, None).backlog_per_worker == 90.0  # none lives: all of it
    assert Signal("q", 90, 0, 0, None, None).backlog_per_worker == 90.0


def test_the_embedded_broker_knows_how_long_its_oldest_message_waits() -> None:
    clock = ManualClock()
    broker: Any = open_broker("memory://", clock=clock)
    broker.send("q", [Message("{}"), Message("{}", delay=30.0)])

    def oldest() -> float | None:
        return oldest_of(broker, "q", broker.depth("q"), clock.time())

    clock.advance(20.0)
    assert oldest() == pytest.approx(20.0)
    [taken] = broker.receive("q", 1, 0.0, 60.0)
    assert oldest() == 0.0  # the other one is not due
    clock.advance(15.0)
    assert oldest() == pytest.approx(5.0)
    broker.release([taken], 0.0)
    clock.advance(2.0)
    assert oldest() == pytest.approx(7.0)


def test_where_the_queue_tells_no_age_the_longest_wait_seen_is_the_least_it_can_be() -> None:
    queue: Any = Queue()
    some, none = QueueDepth(5, 0, 0), QueueDepth(0, 9, 9)
    assert oldest_of(queue, "q", some, 1000.0, [3.0, None, 8.0]) == 8.0
    assert oldest_of(queue, "q", some, 1000.0, [None]) is None  # nobody knows
    assert oldest_of(queue, "q", none, 1000.0, [8.0]) == 0.0


def test_waits_are_those_of_first_receipts_without_their_delay_and_are_forgotten() -> None:
    now = 0.0
    waits = Waits(lambda: now)
    assert waits.longest() is None
    waits.note([delivery(500.0, receipts=2)])  # it had been in somebody's hands
    assert waits.longest() is None
    waits.note([delivery(4.0), delivery(9.0), delivery(100.0, eta=1098.0)])
    assert waits.longest() == 9.0
    now = 30.0
    waits.note([delivery(2.0)])
    assert waits.longest() == 9.0
    now = TELLING + 1.0
    assert waits.longest() == 2.0
    waits.note([delivery(7.0)])
    assert waits.longest() == 7.0
    now = 500.0
    assert waits.longest() is None
    waits.note([delivery(-3.0), delivery(0.2)])  # a clock that is behind the queue's
    assert waits.longest() == 0.2


def test_each_queue_is_asked_once_a_period_whoever_wants_to_know() -> None:
    scene = Scene("q", "r")
    scene.queue.ready = 10
    for _ in range(5):
        scene.demand.left()
        scene.demand.look()
        scene.demand.signals()
    assert scene.queue.asked == ["q", "r"]
    scene.now = EVERY[0] - 0.1
    scene.demand.left()
    assert len(scene.queue.asked) == 2
    scene.now = EVERY[0]
    scene.demand.left()
    assert len(scene.queue.asked) == 4


def test_the_workers_are_counted_once_a_minute_and_only_those_that_take_messages() -> None:
    scene = Scene("q")
    scene.queue.ready = 12
    scene.others = [
        info("w2"), info("w1"), info("w3", paused=("q",)), info("w4", stopping=True), info("w5", queues=("r",)),
    ]  # fmt: skip
    assert scene.demand.left() == 6.0
    assert [each.workers for each in scene.demand.signals()] == [2]
    for step in range(1, 4):
        scene.now = step * EVERY[0]
        scene.demand.left()
    assert scene.listed == 1
    scene.now = COUNT_EVERY[0]
    scene.clock.advance(COUNT_EVERY[0])
    scene.demand.left()
    assert scene.listed == 2


def test_what_was_received_since_the_look_no_longer_waits() -> None:
    scene = Scene("q")
    scene.queue.ready = 12
    assert scene.demand.left() == 12.0
    scene.sources[0].received = 5
    assert scene.demand.left() == 7.0
    scene.sources[0].received = 50
    assert scene.demand.left() == 0.0
    assert len(scene.queue.asked) == 1


def test_a_queue_that_is_away_is_not_known_until_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene("q")
    scene.queue.ready = 4
    assert scene.demand.left() == 4.0
    scene.queue.away = True
    for step in range(1, 6):
        scene.now = step * EVERY[0]
        assert scene.demand.left() is None
    assert len(scene.queue.asked) == 6
    assert caplog.text.count("SQS is away") == 1
    assert scene.now > STALE * EVERY[0]
    assert scene.demand.signals() == []  # what is old is not told
    scene.queue.away = False
    scene.now += EVERY[0]
    assert scene.demand.left() == 4.0


def test_others_waits_count_too() -> None:
    scene = Scene("q")
    scene.queue.ready = 1
    scene.others = [info("w2", stats={"queues": {"q": {"waited": 44.0}}})]
    scene.sources[0].waits.note([delivery(3.0)])
    scene.demand.look()
    assert [each.oldest for each in scene.demand.signals()] == [44.0]


def test_from_outside_the_lost_do_not_count() -> None:
    queue: Any = Queue()
    queue.ready = 8
    workers = [info("w1"), info("w2", at=1000.0 - 31.0, stats={"queues": {"q": {"waited": 99.0}}})]
    [found] = measure(queue, ManualClock(1000.0), ["q"], workers)
    assert (found.workers, found.backlog_per_worker, found.oldest) == (1, 8.0, None)


def test_cloudwatch_gets_them_by_queue() -> None:
    out, now = io.StringIO(), 1000.5
    signals = [Signal("q", 90, 3, 2, 3, 12.5, now), Signal("r", 1, 0, 0, None, None, now)]
    sink = EmbeddedMetrics(ManualClock(now), out, signals=lambda: signals)
    sink.tick()
    assert out.getvalue() == ""  # not before a minute has gone
    sink.flush()
    first, second = map(json.loads, out.getvalue().splitlines())
    about = first["_aws"]["CloudWatchMetrics"][0]
    assert (first["_aws"]["Timestamp"], about["Namespace"], about["Dimensions"]) == (
        1000500,
        "cloudq",
        [["Queue"]],
    )
    units = {each["Name"]: each["Unit"] for each in about["Metrics"]}
    assert units["BacklogPerWorker"] == "Count"
    assert units["OldestTaskAge"] == "Seconds"
    assert (first["Queue"], first["BacklogPerWorker"], first["OldestTaskAge"]) == ("q", 30.0, 12.5)
    assert all(name in first for name in units)
    assert "OldestTaskAge" not in second  # not known, so not told
    assert "Workers" not in second
    assert json.loads(emf_line(signals[0], "shop"))["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "shop"
    assert EMF_EVERY == 60.0


def test_prometheus_reads_them_as_gauges() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    exposition = pytest.importorskip("prometheus_client")
    signals = [Signal("q", 90, 3, 2, 3, 12.5), Signal("r", 1, 0, 0, None, None)]
    metrics = Metrics(dict, lambda: signals)
    text = exposition.generate_latest(metrics.registry).decode()
    families = {each.name: each for each in parser.text_string_to_metric_families(text)}
    found = {
        (each.name, each.labels["queue"]): each.value
        for name in ("backlog_per_worker", "oldest_seconds", "messages_ready", "workers")
        for each in families[f"cloudq_queue_{name}"].samples
    }
    assert families["cloudq_queue_backlog_per_worker"].type == "gauge"
    assert found["cloudq_queue_backlog_per_worker", "q"] == 30.0
    assert found["cloudq_queue_oldest_seconds", "q"] == 12.5
    assert ("cloudq_queue_oldest_seconds", "r") not in found
    assert ("cloudq_queue_workers", "r") not in found


def test_a_worker_tells_them_and_one_that_nobody_asks_does_not_look() -> None:
    with (
        CloudQ("seen", broker="memory://", backend="memory://", worker_metrics_port=0) as app,
        running_worker(app, hostname="w1") as worker,
    ):
        eventually("it looked", worker.demand.signals)
        [found] = worker.demand.signals()
        assert (found.queue, found.ready, found.workers, found.oldest) == ("cloudq", 0, 1, 0.0)
    with (
        CloudQ("quiet", broker="memory://", backend="memory://") as app,
        running_worker(app, hostname="w1") as worker,
    ):
        assert worker.demand._thread is None
        assert worker.demand.signals() == []


def test_the_command_prints_them_for_people_for_programs_and_for_cloudwatch(tmp_path: Path) -> None:
    at = f"sqlite:///{tmp_path / 'q.db'}"
    with CloudQ("told", broker=at, backend=at) as app:
        for _ in range(6):
            app.send_task("add", queue="q")
        now = app.clock.time()
        for name in ("w1", "w2"):
            app.control.roster.beat(info(name, at=now))

    def told(*words: str) -> str:
        done = CliRunner().invoke(cli, ["queues", "signals", *words, "-b", at, "--result-backend", at])
        assert done.exit_code == 0, done.output
        return done.stdout

    [found] = json.loads(told("q", "--json"))
    assert (found["queue"], found["ready"], found["workers"], found["backlog_per_worker"]) == ("q", 6, 2, 3.0)
    assert 0.0 <= found["oldest_seconds"] < 600.0
    assert "per worker" in told("q")
    line = json.loads(told("q", "--emf", "--namespace", "shop"))
    assert (line["BacklogPerWorker"], line["_aws"]["CloudWatchMetrics"][0]["Namespace"]) == (3.0, "shop")
    both = CliRunner().invoke(cli, ["queues", "signals", "--emf", "--json"])
    assert (both.exit_code, "give one" in both.stderr) == (2, True)


def test_a_time_that_cannot_be_is_refused() -> None:
    scene = Scene("q")
    scene.worker.conf.worker_signals_interval = -1.0
    with pytest.raises(ImproperlyConfigured, match="above 0 seconds"):
        Demand(scene.worker)
