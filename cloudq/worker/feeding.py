"""What a worker's settings want of its events: which sinks, and where children leave theirs."""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING, Any, Final

import cloudq
from cloudq.control.roster import level_of
from cloudq.errors import ImproperlyConfigured
from cloudq.monitoring.events import Recorder
from cloudq.monitoring.feed import Feed, Sink
from cloudq.monitoring.history import HistorySink
from cloudq.monitoring.lines import EmbeddedMetrics, JsonLines
from cloudq.monitoring.prometheus import Metrics
from cloudq.monitoring.scaling import Signal
from cloudq.monitoring.spool import Spool
from cloudq.monitoring.stream import StreamSink

if TYPE_CHECKING:
    from cloudq.app import CloudQ
    from cloudq.worker.worker import Worker

LOGS: Final = ("json", "emf")


class Feeding:
    """A worker's events. With nothing to feed it does nothing, and nobody listens to the hooks."""

    def __init__(self, worker: Worker, folder: str) -> None:
        self._worker = worker
        conf, app = worker.conf, worker.app
        sinks: list[Sink] = []
        self._metrics: Metrics | None = None
        #: Does a sink tell how much waits in the queues?
        self._follows = False
        level = level_of(conf.monitoring)
        if level >= 2 and app.backend is not None:
            sinks.append(StreamSink(app.backend, conf.control_namespace, worker.hostname, app.clock))
        if level >= 3 and app.backend is not None:
            about = (conf.control_namespace, worker.hostname, app.clock, conf.history_expires)
            sinks.append(HistorySink(app.backend, *about))
        if conf.worker_events_log is not None:
            sinks.append(self._log(conf.worker_events_log))
        if conf.worker_metrics_port is not None:
            self._follows = True
            self._metrics = Metrics(self._numbers, self._signals)
            sinks.append(self._metrics)
        sinks += app.hooks.sinks
        self.metrics_port: int | None = None
        self._feed: Feed | None = None
        #: Where children leave their events; None when nobody wants any.
        self.spool: str | None = None
        if not sinks:
            return
        self.spool = os.path.join(folder, "events")
        os.mkdir(self.spool)
        self._feed = Feed(sinks, self.spool)
        self._recorder = Recorder(
            app.hooks, self._feed.put, worker.hostname, app.clock, conf.monitoring_redact, app.tasks.get
        )

    def _log(self, name: str) -> Sink:
        if name == "json":
            return JsonLines()
        if name == "emf":
            self._follows = True
            return EmbeddedMetrics(self._worker.app.clock, signals=self._signals)
        near = difflib.get_close_matches(name, LOGS, 1, 0.3)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ImproperlyConfigured(f"worker_events_log is json or emf, not {name!r}{hint}")

    def start(self) -> None:
        """Before the first message."""
        if self._feed is None:
            return
        conf = self._worker.conf
        if self._metrics is not None:
            self.metrics_port = self._metrics.serve(conf.worker_metrics_host, conf.worker_metrics_port)
        self._recorder.attach()
        self._feed.start()
        if self._follows:
            self._worker.demand.follow()
        self._worker.app.hooks.on("worker_heartbeat", self._beat)
        self._recorder.worker("worker-online", **self._about())

    def close(self) -> None:
        """After the last one."""
        if self._feed is None:
            return
        self._recorder.worker("worker-offline", **self._about())
        self._worker.app.hooks.off("worker_heartbeat", self._beat)
        self._recorder.detach()
        self._worker.demand.close()
        self._feed.close()

    def _beat(self, **_: Any) -> None:
        self._recorder.worker("worker-heartbeat", **self._about())

    def _about(self) -> dict[str, Any]:
        numbers = self._numbers()
        steering = self._worker.steering
        return {
            "sw_ver": cloudq.__version__,
            "freq": steering.beat_every if steering.on else None,
            "active": numbers["active"],
            "processed": numbers["acked"],
            "loadavg": [round(each, 2) for each in os.getloadavg()],
        }

    def _signals(self) -> list[Signal]:
        return self._worker.demand.signals()

    def _numbers(self) -> dict[str, Any]:
        active: list[Any] = getattr(self._worker.pool, "active", list)()
        return {**self._worker.stats(), "active": len(active)}


def feed_from_child(app: CloudQ, hostname: str, spool: str) -> None:
    """In a child process: leave events for the worker."""
    writer = Spool(spool)
    Recorder(app.hooks, writer.put, hostname, app.clock, app.conf.monitoring_redact, app.tasks.get).attach()
    app.hooks.on("child_exit", lambda **_: writer.close())
