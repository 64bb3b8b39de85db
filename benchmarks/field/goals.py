"""The goals of issue 8, as ratios within one run, and whether they were reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.field.figures import Figures

Figure = Callable[[Figures], float | None]


@dataclass(frozen=True)
class Goal:
    """``figure`` is to be at most ``limit``; or at least, with ``least``."""

    text: str
    figure: Figure
    limit: float
    unit: str = "x"
    least: bool = False

    def verdict(self, figures: Figures) -> tuple[float, bool] | None:
        """What was measured and whether it is enough; None when it was not measured."""
        found = self.figure(figures)
        if found is None:
            return None
        return found, found >= self.limit if self.least else found <= self.limit


def _ratio(measure: str, over: str, under: str) -> Figure:
    return lambda figures: figures.ratio(measure, over, under)


def _best(measure: str) -> Figure:
    return lambda figures: figures.best("cloudq", measure)


def _above_bare_poll(figures: Figures) -> float | None:
    ours, bare = figures.best("cloudq", "latency"), figures.best("http", "latency")
    return None if ours is None or bare is None else ours - bare


def _growth(figures: Figures) -> float | None:
    """Megabytes from the first tenth of the soak to its last."""
    found = figures.values.get("cloudq", {}).get("soak")
    return found[-1] - found[0] if found else None


def _sum_of_calls(figures: Figures) -> float | None:
    from benchmarks.field.money import sqs_calls

    phases = figures.calls.get("cloudq", {})
    if not {"bulk", "consume"} <= phases.keys():
        return None
    return sqs_calls(phases["bulk"]) + sqs_calls(phases["consume"])


GOALS: Final = (
    Goal("consume: CPU at most 2x the bare HTTP loop", _ratio("consume", "cloudq", "http"), 2.0),
    Goal(
        "consume: at least 15x less CPU than Celery", _ratio("consume", "celery", "cloudq"), 15.0, least=True
    ),
    Goal("bulk send: CPU at most 1.5x the bare loop", _ratio("bulk", "cloudq", "http"), 1.5),
    Goal("single send: CPU at most 1.3x the bare loop", _ratio("publish", "cloudq", "http"), 1.3),
    Goal(
        "results in DynamoDB: at least 5x less CPU than Celery",
        _ratio("results", "celery", "cloudq"),
        5.0,
        least=True,
    ),
    Goal("10 ms on every call: at least 5,000 tasks/s", _best("slow_rate"), 5000.0, " tasks/s", least=True),
    Goal("send to start, p50: within 1 ms of a bare long poll", _above_bare_poll, 1.0, " ms"),
    Goal("worker memory under 60 MB (resident)", _best("rss"), 60.0, " MB"),
    Goal("worker memory flat over the soak (at most 2 MB more at its end)", _growth, 2.0, " MB"),
    Goal("SQS calls per task, sent in bulk: about 0.3", _sum_of_calls, 0.33, " calls"),
)
