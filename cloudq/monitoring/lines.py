"""Events as lines on stdout: JSON, one an event; or CloudWatch's embedded metric format, one a minute."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, TextIO

import msgspec

from cloudq.clock import Clock
from cloudq.monitoring.events import Event
from cloudq.monitoring.feed import Beat

#: Values that one metric of one EMF document may hold (AWS: "Embedded metric format specification").
EMF_VALUES: Final = 100
EMF_EVERY: Final = 60.0
#: Event type to the name of its count.
_COUNTS: Final = {
    "task-received": "TasksReceived",
    "task-succeeded": "TasksSucceeded",
    "task-failed": "TasksFailed",
    "task-retried": "TasksRetried",
    "task-rejected": "TasksRejected",
    "task-revoked": "TasksRevoked",
}


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
    """

    def __init__(self, clock: Clock, out: TextIO | None = None, namespace: str = "cloudq") -> None:
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
