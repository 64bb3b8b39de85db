"""A local SQS and DynamoDB inside the test process, by moto."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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
    fake = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": REGION}
    before = {name: os.environ.get(name) for name in fake}
    os.environ.update(fake)
    options = f"?region={REGION}&endpoint_url={url}"
    try:
        with app.using(broker=f"sqs://{options}", backend=f"dynamodb://{TABLE}{options}", **settings):
            broker: Any = app.broker
            for queue in queues or [app.conf.task_default_queue]:
                broker.create_queue(QueueSpec(queue, visibility_timeout=5.0))
            backend: Any = app.backend
            backend.create_table()
            yield app
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
