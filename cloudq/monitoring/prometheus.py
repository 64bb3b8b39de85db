"""A worker's metrics for Prometheus, on a port of its own (extra ``prometheus``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cloudq.errors import ImproperlyConfigured, MissingExtra
from cloudq.monitoring.events import Event
from cloudq.monitoring.scaling import Signal

#: Upper bounds of the histograms, seconds.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
#: What a worker counts, by its name in ``Worker.stats()``.
_NUMBERS = {
    "concurrency": ("gauge", "cloudq_worker_concurrency", "Tasks that may run at once."),
    "held": ("gauge", "cloudq_worker_messages_held", "Messages in the worker's hands."),
    "waiting": ("gauge", "cloudq_worker_messages_waiting", "Messages that wait for a limit."),
    "acked": ("counter", "cloudq_worker_messages_acknowledged", "Messages deleted after their task."),
    "released": ("counter", "cloudq_worker_messages_released", "Messages given back."),
    "buried": ("counter", "cloudq_worker_messages_buried", "Messages moved to a dead-letter queue."),
    "leases_lost": ("counter", "cloudq_worker_leases_lost", "Messages whose visibility ran out in hand."),
}
#: What scaling goes by, by its name in ``Signal``: absent while it is not known.
_SIGNALS = {
    "ready": ("messages_ready", "Messages that wait (approximate)."),
    "in_flight": ("messages_in_flight", "Messages in workers' hands (approximate)."),
    "delayed": ("messages_delayed", "Messages that are not due yet (approximate)."),
    "workers": ("workers", "Live workers that consume the queue."),
    "backlog_per_worker": ("backlog_per_worker", "Messages that wait, for each live worker."),
    "oldest": ("oldest_seconds", "How long the oldest waiting message has waited; on SQS at least so long."),
}


class Metrics:
    """A sink that counts, and a server that tells. ``stats`` gives the worker's numbers, ``signals`` those
    of its queues, as they were last looked at."""

    def __init__(
        self, stats: Callable[[], dict[str, Any]], signals: Callable[[], Sequence[Signal]] = tuple
    ) -> None:
        client = _client()
        self._stats = stats
        self._signals = signals
        self.registry = client.CollectorRegistry()
        self._server: Any = None
        self._events = client.Counter(
            "cloudq_events", "Events of tasks, by type.", ["type", "task", "queue"], registry=self.registry
        )
        self._runtime = client.Histogram(
            "cloudq_task_runtime_seconds",
            "Time spent in tasks' code.",
            ["task", "queue"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._age = client.Histogram(
            "cloudq_task_age_seconds",
            "Time from a task's sending to its receipt.",
            ["task", "queue"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(self)

    def serve(self, host: str, port: int) -> int:
        """Answer on ``http://host:port/metrics``; the port (0 asks the system for a free one)."""
        try:
            self._server, _ = _client().start_http_server(port, addr=host, registry=self.registry)
        except OSError as error:
            raise ImproperlyConfigured(
                f"metrics cannot be served on {host}:{port}: {error}; give another --metrics-port"
            ) from error
        return int(self._server.server_address[1])

    # --- as a sink ----------------------------------------------------------------------------

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            if not event["type"].startswith("task-"):
                continue
            where = (str(event.get("name") or ""), str(event.get("queue") or ""))
            self._events.labels(event["type"], *where).inc()
            if "runtime" in event:
                self._runtime.labels(*where).observe(event["runtime"])
            if event["type"] == "task-received" and event.get("sent_at"):
                self._age.labels(*where).observe(max(0.0, event["timestamp"] - event["sent_at"]))

    def tick(self) -> None: ...

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    # --- as a collector of prometheus_client ----------------------------------------------------

    def collect(self) -> Iterator[Any]:
        """The worker's own numbers, as they are now."""
        core = _client().core
        stats = self._stats()
        for name, (kind, metric, help_text) in _NUMBERS.items():
            if name in stats:
                family = core.GaugeMetricFamily if kind == "gauge" else core.CounterMetricFamily
                yield family(metric, help_text, value=stats[name])
        running = core.GaugeMetricFamily("cloudq_worker_tasks_active", "Tasks that run.")
        running.add_metric([], stats.get("active", stats.get("running", 0)))
        yield running
        for field, help_text in (("received", "Messages received."), ("polls", "Receive calls.")):
            family = core.CounterMetricFamily(f"cloudq_queue_{field}", help_text, labels=["queue"])
            for queue, numbers in stats.get("queues", {}).items():
                family.add_metric([queue], numbers[field])
            yield family
        signals = self._signals()
        for field, (metric, help_text) in _SIGNALS.items():
            family = core.GaugeMetricFamily(f"cloudq_queue_{metric}", help_text, labels=["queue"])
            for each in signals:
                if (value := getattr(each, field)) is not None:
                    family.add_metric([each.queue], value)
            yield family

    def describe(self) -> Iterator[Any]:
        """Nothing is asked when it is registered: the worker may not be up yet."""
        return iter(())


def _client() -> Any:
    try:
        import prometheus_client
        import prometheus_client.core
    except ImportError as error:
        raise MissingExtra("serving metrics to Prometheus (--metrics-port)", "prometheus") from error
    return prometheus_client
