"""Events as lines on stdout: JSON, one an event; or CloudWatch's embedded metric format, one a minute."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TextIO

import msgspec

from cloudq.clock import Clock
from cloudq.monitoring.events import Event
from cloudq.monitoring.feed import Beat
from cloudq.monitoring.scaling import Signal

#: Values that one metric of one EMF document may hold (AWS: "Embedded metric format specification").
EMF_VALUES: Final = 100
EMF_EVERY: Final = 60.0
NAMESPACE: Final = "cloudq"
#: Event type to the name of its count.
_COUNTS: Final = {
    "task-received": "TasksReceived",
    "task-succeeded": "TasksSucceeded",
    "task-failed": "TasksFailed",
    "task-retried": "TasksRetried",
    "task-rejected": "TasksRejected",
    "task-revoked": "TasksRevoked",
}
#: What a queue's signal is called, and its unit.
_SIGNALS: Final = {
    "ready": ("MessagesReady", "Count"),
    "in_flight": ("MessagesInFlight", "Count"),
    "delayed": ("MessagesDelayed", "Count"),
    "workers": ("Workers", "Count"),
    "backlog_per_worker": ("BacklogPerWorker", "Count"),
    "oldest": ("OldestTaskAge", "Seconds"),
}


def emf_line(signal: Signal, namespace: str = NAMESPACE) -> str:
    """A queue's signal as one line of the embedded metric format, dimension Queue; what is not known is left out."""
    values = {
        name: (unit, value)
        for field, (name, unit) in _SIGNALS.items()
        if (value := getattr(signal, field)) is not None
    }
    metrics = [{"Name": name, "Unit": unit} for name, (unit, _) in values.items()]
    about = {"Namespace": namespace, "Dimensions": [["Queue"]], "Metrics": metrics}
    document = {
        "_aws": {"Timestamp": int(signal.at * 1000), "CloudWatchMetrics": [about]},
        "Queue": signal.queue,
        **{name: value for name, (_, value) in values.items()},
    }
    return msgspec.json.encode(document).decode() + "\n"


class JsonLines:
    """Every event as one line of JSON."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out

    def take(self, events: Sequence[Event]) -> None:
        out = self._out or sys.stdout
        for event in events:
            out.write(msgspec.json.encode(event, enc_hook=repr).decode() + "\n")
        out.flush()

    def tick(self) -> None: ...

    def close(self) -> None: ...


class EmbeddedMetrics:
    """Counts and runtimes by task and queue, which CloudWatch makes metrics of: no call of its API.

    Namespace ``cloudq`` (or what is given), dimensions Queue, and Queue and Task; units Count and Seconds.
    ``signals`` are the queues' own (dimension Queue), written as often.
    """

    def __init__(
        self,
        clock: Clock,
        out: TextIO | None = None,
        namespace: str = NAMESPACE,
        signals: Callable[[], Iterable[Signal]] = tuple,
    ) -> None:
        self._signals = signals
        self._clock = clock
        self._out = out
        self._namespace = namespace
        self._beat = Beat(EMF_EVERY)
        self._counts: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._times: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            counter = _COUNTS.get(event["type"])
            if counter is None:
                continue
            place = (str(event.get("queue") or ""), str(event.get("name") or ""))
            self._counts[place][counter] += 1
            if "runtime" in event:
                self._time(place, "TaskRuntime", float(event["runtime"]))
            if event["type"] == "task-received" and event.get("sent_at"):
                self._time(place, "TaskAge", max(0.0, event["timestamp"] - event["sent_at"]))

    def _time(self, place: tuple[str, str], name: str, value: float) -> None:
        values = self._times[place][name]
        values.append(round(value, 6))
        if len(values) >= EMF_VALUES:
            self._write(place)

    def tick(self) -> None:
        if self._beat.due():
            self.flush()

    def close(self) -> None:
        self.flush()

    def flush(self) -> None:
        """Write what has come together."""
        for place in list(self._counts):
            self._write(place)
        for each in self._signals():
            (self._out or sys.stdout).write(emf_line(each, self._namespace))
            (self._out or sys.stdout).flush()

    def _write(self, place: tuple[str, str]) -> None:
        counts, times = self._counts.pop(place, {}), self._times.pop(place, {})
        queue, task = place
        metrics = [{"Name": name, "Unit": "Count"} for name in counts]
        metrics += [{"Name": name, "Unit": "Seconds"} for name in times]
        document: dict[str, Any] = {
            "_aws": {
                "Timestamp": int(self._clock.time() * 1000),
                "CloudWatchMetrics": [
                    {
                        "Namespace": self._namespace,
                        "Dimensions": [["Queue"], ["Queue", "Task"]],
                        "Metrics": metrics,
                    }
                ],
            },
            "Queue": queue or "unknown",
            "Task": task or "unknown",
            **counts,
            **times,
        }
        out = self._out or sys.stdout
        out.write(msgspec.json.encode(document).decode() + "\n")
        out.flush()
