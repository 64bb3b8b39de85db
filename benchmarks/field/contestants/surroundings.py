"""What a contestant's process is told by the environment. Nothing of a contestant is imported here."""

from __future__ import annotations

import os
import time

URL = os.environ["FIELD_URL"]
PORT = int(URL.rpartition(":")[2])
QUEUE = os.environ["FIELD_QUEUE"]
TABLE = os.environ["FIELD_TABLE"]
#: Are results written to DynamoDB?
RESULTS = os.environ.get("FIELD_RESULTS") == "1"
CONCURRENCY = int(os.environ["FIELD_CONCURRENCY"])
REGION = os.environ["AWS_REGION"]
_STAMPS = os.environ["FIELD_STAMPS"]


def note(sent: float) -> None:
    """A task that was sent at ``sent`` has begun."""
    began = time.time()
    with open(_STAMPS, "a") as file:
        file.write(f"{began - sent}\n")
