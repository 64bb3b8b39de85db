"""Spans and metrics of OpenTelemetry leave before the answer: after it the process is frozen."""

from __future__ import annotations

import sys
import time
from functools import partial

from cloudq.aws_lambda.aside import aside


def flush(until: float) -> None:
    """Have the providers that the app has set up send what they hold, until then (monotonic). Loads nothing.

    Not every exporter keeps to the time it is given: who takes longer is left behind.
    """
    for module, getter in (
        ("opentelemetry.trace", "get_tracer_provider"),
        ("opentelemetry.metrics", "get_meter_provider"),
        ("opentelemetry._logs", "get_logger_provider"),
    ):
        if module in sys.modules:
            aside(f"flushing {module}", partial(_flush, module, getter, until), until - time.monotonic())


def _flush(module: str, getter: str, until: float) -> None:
    force = getattr(getattr(sys.modules[module], getter)(), "force_flush", None)
    left = int(1000 * (until - time.monotonic()))
    if force is not None and left > 0:
        force(left)
