"""Logging of a worker and its children: as people read it, or as JSON, a line a record."""

from __future__ import annotations

import difflib
import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

from cloudq import signals
from cloudq.context import current
from cloudq.errors import ImproperlyConfigured

FORMAT: Final = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
FORMATS: Final = ("text", "json")
#: Attributes of every record; what else one has was given as ``extra=``.
_USUAL: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, level, logger, message, process, the task that runs, ``extra=``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            "thread": record.threadName,
        }
        running = current()
        if running is not None:
            line |= {"task_id": running.id, "task": running.task, "retries": running.retries}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        line |= {name: value for name, value in vars(record).items() if name not in _USUAL}
        return json.dumps(line, default=repr, ensure_ascii=False)


def set_up(level: int, style: str = "text") -> None:
    """One handler on the root logger, to stderr. SDK loggers stay quiet unless level is DEBUG.

    Whoever is connected to ``signals.setup_logging`` does it instead; to ``after_setup_logger``, afterwards.
    Raises ImproperlyConfigured for a style that is not ``text`` or ``json``.
    """
    if style not in FORMATS:
        near = difflib.get_close_matches(style, FORMATS, 1, 0.3)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ImproperlyConfigured(f"worker_log_format is text or json, not {style!r}{hint}")
    about = {"loglevel": level, "logfile": None, "format": FORMAT, "colorize": False}
    if signals.setup_logging.has_listeners():
        signals.setup_logging.send(sender=None, **about)
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else logging.Formatter(FORMAT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    if level > logging.DEBUG:
        for name in ("botocore", "boto3", "urllib3", "asyncio", "watchfiles"):
            logging.getLogger(name).setLevel(logging.WARNING)
    signals.after_setup_logger.send(sender=None, logger=root, **about)
