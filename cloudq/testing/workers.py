"""A real worker in a thread of the test's own process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cloudq.app import CloudQ
from cloudq.worker.worker import Worker


@contextmanager
def running_worker(app: CloudQ, queues: Sequence[str] = (), **options: Any) -> Iterator[Worker]:
    """Consume ``queues`` (default: the app's) for the block, with the threads pool; stopped warmly after it.

    ``options`` are those of ``cloudq.worker.worker.Worker``.
    """
    options = {"pool": "threads", "concurrency": 4, "loglevel": logging.WARNING, **options}
    worker = Worker(app, queues, **options)
    worker.start()
    thread = threading.Thread(target=worker.run, name="cloudq-test-worker", daemon=True)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop("the test is over")
        thread.join(30.0)
        if thread.is_alive():
            raise AssertionError("the worker did not stop within 30 seconds")
