"""A local AWS for trying things out: a moto or ministack server as a child process."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cloudq.app import CloudQ
from cloudq.brokers.base import QueueSpec
from cloudq.errors import ImproperlyConfigured, MissingExtra, OperationalError

ENGINES: Final = ("moto", "ministack")
REGION: Final = "us-east-1"
TABLE: Final = "cloudq-results"


@contextmanager
def serving(engine: str, port: int = 0) -> Iterator[str]:
    """Start a server on 127.0.0.1, yield its URL, stop it. Raises MissingExtra, OperationalError."""
    port = port or _free_port()
    url = f"http://127.0.0.1:{port}"
    if _answers(url):
        raise ImproperlyConfigured(f"something already listens on {url}; choose another --port")
    command, environment = _command(engine, port)
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for us: the server stops when we have finished with it
    )
    try:
        _wait_for(url, process, engine)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def environment_for(url: str) -> dict[str, str]:
    """The environment that makes an app use the server at ``url``."""
    return {
        "CLOUDQ_BROKER_URL": f"sqs://?region={REGION}&endpoint_url={url}",
        "CLOUDQ_RESULT_BACKEND": f"dynamodb://{TABLE}?region={REGION}&endpoint_url={url}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
    }


def furnish(app: CloudQ, queues: Sequence[str], visibility_timeout: float = 60.0) -> list[str]:
    """Create the app's queues and table on the server that its settings name; return their names."""
    made: list[str] = []
    broker: object = app.broker
    for queue in queues:
        made += broker.create_queue(QueueSpec(queue, visibility_timeout))  # type: ignore[attr-defined]
    backend: object = app.backend
    if hasattr(backend, "create_table"):
        backend.create_table()
        made.append(f"table {TABLE}")
    return made


def _command(engine: str, port: int) -> tuple[list[str], dict[str, str]]:
    beside = Path(sys.executable).parent
    if engine == "moto":
        found = _find("moto_server", beside)
        if found is None:
            raise MissingExtra("cloudq local (moto)", "local")
        return [found, "-H", "127.0.0.1", "-p", str(port)], {}
    if engine == "ministack":
        found = os.environ.get("CLOUDQ_TEST_MINISTACK") or _find("ministack", beside)
        if found is None:
            raise MissingExtra("cloudq local --engine ministack", "local")
        return [found], {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "LOG_LEVEL": "WARNING"}
    raise ImproperlyConfigured(f"no engine is called {engine!r}; there are {' and '.join(ENGINES)}")


def _find(name: str, beside: Path) -> str | None:
    here = beside / name
    return str(here) if here.exists() else shutil.which(name)


def _wait_for(url: str, process: subprocess.Popen[bytes], engine: str) -> None:
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise OperationalError(f"the {engine} server ended at once with exit code {process.returncode}")
        if _answers(url):
            return
        time.sleep(0.05)
    raise OperationalError(f"the {engine} server did not answer at {url} within 30 seconds")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2.0):  # noqa: S310  our own loopback address
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
