"""Spans and metrics of OpenTelemetry leave before the answer: after it the process is frozen."""

from __future__ import annotations

import logging
import sys
import time

logger = logging.getLogger("cloudq.lambda")


def flush(until: float) -> None:
    """Have the providers that the app has set up send what they hold, until then (monotonic). Loads nothing."""
    for module, getter in (
        ("opentelemetry.trace", "get_tracer_provider"),
        ("opentelemetry.metrics", "get_meter_provider"),
        ("opentelemetry._logs", "get_logger_provider"),
    ):
        found = sys.modules.get(module)
        left = int(1000 * (until - time.monotonic()))
        if found is None or left <= 0:
            continue
        try:
            force = getattr(getattr(found, getter)(), "force_flush", None)
            if force is not None:
                force(left)
        except Exception:
            logger.exception("flushing %s failed", module)
