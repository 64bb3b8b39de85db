"""Telling systemd how the worker is (``Type=notify``, ``WatchdogSec=``).

Source: sd_notify(3), systemd.service(5). Without ``NOTIFY_SOCKET`` there is nobody to tell.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from cloudq.worker.condition import Condition
from cloudq.worker.worker import Worker

logger = logging.getLogger("cloudq.worker")

#: Seconds that stopping may take beyond the shutdown timeout.
SLACK = 20.0


class Notifier:
    """Sends to the service manager's datagram socket; ``@name`` is an abstract one (Linux)."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0))
        self._failed = False

    def send(self, **fields: str | int) -> None:
        """``send(READY=1, STATUS="...")``. A manager that does not listen is logged once."""
        text = "\n".join(f"{name}={value}" for name, value in fields.items())
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError as error:
            if not self._failed:
                logger.warning("systemd cannot be told of %s: %s", ", ".join(fields), error)
            self._failed = True

    def close(self) -> None:
        """Send no more."""
        self._socket.close()


class Systemd:
    """Tells of one worker: ready, stopping, and that it is well, as often as the watchdog wants."""

    def __init__(self, worker: Worker, condition: Condition, notifier: Notifier, every: float | None) -> None:
        """``every``: seconds between two signs of life; None: there is no watchdog."""
        self._worker = worker
        self._condition = condition
        self._notifier = notifier
        self._every = every
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        worker.app.hooks.on("worker_ready", self._ready)
        worker.app.hooks.on("worker_stopping", self._stopping)

    def close(self) -> None:
        """The worker has stopped."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(2.0)
        self._notifier.close()

    def _ready(self, **_: Any) -> None:
        self._notifier.send(READY=1, STATUS=f"consuming {', '.join(self._worker.queues)}")
        if self._every is not None:
            self._thread = threading.Thread(target=self._run, name="cloudq-watchdog", daemon=True)
            self._thread.start()

    def _stopping(self, **_: Any) -> None:
        allowed = self._worker.conf.worker_shutdown_timeout + self._worker.conf.worker_poll_patience + SLACK
        self._notifier.send(
            STOPPING=1, STATUS="finishing running tasks", EXTEND_TIMEOUT_USEC=int(allowed * 1_000_000)
        )

    def _run(self) -> None:
        assert self._every is not None
        while not self._closed.is_set():
            if self._condition.well():
                self._notifier.send(WATCHDOG=1)
            else:
                self._notifier.send(STATUS=f"no poll has succeeded for long: {self._condition.silent()}")
            self._closed.wait(self._every)


def from_environment(
    worker: Worker,
    condition: Callable[[], Condition],
    environ: Mapping[str, str] = os.environ,
    pid: int | None = None,
) -> Systemd | None:
    """Whom the environment names; None when that is nobody.

    Half of ``WATCHDOG_USEC`` passes between two signs of life, as sd_watchdog_enabled(3) advises.
    """
    address = environ.get("NOTIFY_SOCKET")
    if not address:
        return None
    if address[0] not in "/@":
        logger.warning("NOTIFY_SOCKET=%s is no unix socket: systemd is told nothing", address)
        return None
    meant = environ.get("WATCHDOG_PID") in (None, "", str(os.getpid() if pid is None else pid))
    text = environ.get("WATCHDOG_USEC", "")
    every = int(text) / 2_000_000 if meant and text.isdigit() and int(text) > 0 else None
    return Systemd(worker, condition(), Notifier(address), every)
