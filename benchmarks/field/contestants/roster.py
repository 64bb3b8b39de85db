"""The contestants: what they need, how their workers start, how many tasks a round gives them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Final

_HERE: Final = "benchmarks.field.contestants"


@dataclass(frozen=True)
class Contestant:
    """One way to run tasks. ``pace`` and ``slow_pace``: its tasks in a round, over cloudq's."""

    key: str
    title: str
    module: str
    needs: tuple[str, ...]
    #: What `python -m` runs.
    worker: str
    #: Code that declares one task, for the import time.
    declares: str
    pace: float = 1.0
    slow_pace: float = 1.0
    results: bool = False
    chords: bool = False

    def missing(self) -> list[str]:
        """The distributions that are not installed."""
        return [name for name in self.needs if _version(name) is None]

    def versions(self) -> str:
        return ", ".join(f"{name} {_version(name)}" for name in self.needs)

    def command(self, queue: str, concurrency: int) -> list[str]:
        known = {"queue": queue, "concurrency": str(concurrency), "module": f"{_HERE}.{self.module}"}
        return [sys.executable, "-m", *self.worker.format(**known).split()]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


CLOUDQ: Final = Contestant(
    "cloudq",
    "cloudq",
    "cloudq_app",
    ("cloudq-tasks",),
    "cloudq worker -A {module}:app -Q {queue} -P threads -c {concurrency} -l warning",
    "from cloudq import CloudQ\napp = CloudQ('x')\n@app.task\ndef f(): pass\nf.delay\n",
    results=True,
    chords=True,
)
HTTP: Final = Contestant(
    "http",
    "bare HTTP loop",
    "bare_http",
    ("msgspec",),
    "{module}",
    "import hashlib, hmac, http.client, msgspec\n",
    slow_pace=0.1,
    results=True,
)
BOTO3: Final = Contestant(
    "boto3",
    "bare boto3 loop",
    "bare_boto3",
    ("boto3", "msgspec"),
    "{module}",
    "import boto3\n",
    pace=0.25,
    slow_pace=0.1,
    results=True,
)
CELERY: Final = Contestant(
    "celery",
    "Celery",
    "celery_app",
    ("celery", "kombu", "boto3", "pycurl"),
    "celery -A {module}:app worker -P threads -c {concurrency} -Q {queue} -l warning "
    "--without-gossip --without-mingle --without-heartbeat",
    "from celery import Celery\napp = Celery('x')\n@app.task\ndef f(): pass\nf.delay\n",
    pace=0.04,
    slow_pace=0.01,
    results=True,
    chords=True,
)
DRAMATIQ: Final = Contestant(
    "dramatiq",
    "Dramatiq",
    "dramatiq_app",
    ("dramatiq", "dramatiq-sqs", "boto3"),
    "dramatiq {module} -p 1 -t {concurrency} -Q {queue}",
    "import dramatiq\nfrom dramatiq.brokers.stub import StubBroker\ndramatiq.set_broker(StubBroker())\n"
    "@dramatiq.actor\ndef f(): pass\nf.send\n",
    pace=0.08,
    slow_pace=0.03,
)
TASKIQ: Final = Contestant(
    "taskiq",
    "taskiq",
    "taskiq_app",
    ("taskiq", "taskiq-aio-sqs", "aiobotocore"),
    "taskiq worker {module}:broker -w 1 --log-level WARNING",
    "from taskiq import InMemoryBroker\nbroker = InMemoryBroker()\n@broker.task\nasync def f(): pass\nf.kiq\n",
    pace=0.08,
    slow_pace=0.06,
)
#: Takes part when it is asked for by name.
TOGETHER: Final = replace(
    CLOUDQ, key="together", title="cloudq, group_commit", module="cloudq_together", chords=False
)
ALL: Final = (HTTP, BOTO3, CLOUDQ, CELERY, DRAMATIQ, TASKIQ)


def chosen(names: str | None) -> list[Contestant]:
    """Those named in ``a,b``, in the roster's order; all without names. Raises ValueError for an unknown one."""
    if not names:
        return list(ALL)
    wanted = [name.strip() for name in names.split(",")]
    everybody = (*ALL, TOGETHER)
    known = [each.key for each in everybody]
    strange = [name for name in wanted if name not in known]
    if strange:
        raise ValueError(f"no contestant is called {', '.join(strange)}; there are {', '.join(known)}")
    return [each for each in everybody if each.key in wanted]
