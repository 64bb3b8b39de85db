"""A local SQS and DynamoDB inside the test process, by moto."""

from __future__ import annotations

import logging
import os
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

from cloudq.app import CloudQ
from cloudq.brokers.base import QueueSpec
from cloudq.errors import MissingExtra

REGION = "us-east-1"
TABLE = "cloudq-results"


@contextmanager
def moto_server() -> Iterator[str]:
    """A moto server on a free port of 127.0.0.1; its URL. Raises MissingExtra without moto."""
    try:
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        raise MissingExtra("cloudq.testing with moto", "testing") from error
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def on_moto(app: CloudQ, url: str, queues: Sequence[str] = (), **settings: Any) -> Iterator[CloudQ]:
    """For the block, ``app`` on the SQS and DynamoDB at ``url``, with its queues and table made."""
    options = f"?region={REGION}&endpoint_url={url}"
    with (
        _fake_credentials(),
        app.using(
            broker=f"sqs://{options}",
            backend=f"dynamodb://{TABLE}{options}",
            **{"task_always_eager": False, **settings},
        ),
    ):
        broker: Any = app.broker
        for queue in queues or [app.conf.task_default_queue]:
            broker.create_queue(QueueSpec(queue, visibility_timeout=5.0))
        backend: Any = app.backend
        backend.create_table()
        yield app


def forget_everything(url: str) -> None:
    """Delete all that the moto server at ``url`` holds."""
    request = urllib.request.Request(f"{url}/moto-api/reset", method="POST")  # noqa: S310  our own server
    urllib.request.urlopen(request, timeout=10).close()  # noqa: S310  our own loopback server


@contextmanager
def _fake_credentials() -> Iterator[None]:
    fake = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": REGION}
    with mock.patch.dict(os.environ, fake):  # puts everything back, the removed ones too
        for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN"):
            os.environ.pop(name, None)
        yield
