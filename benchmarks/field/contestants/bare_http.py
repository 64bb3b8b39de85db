"""The bare protocol: http.client, a day's signing key, msgspec; no retries, no checks, no task library."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import time
import uuid
from typing import Any

import msgspec

from benchmarks.field.contestants.surroundings import PORT, QUEUE, REGION, RESULTS, TABLE, URL, note

QUEUE_URL = f"{URL}/000000000000/{QUEUE}"
TARGETS = {"sqs": "AmazonSQS", "dynamodb": "DynamoDB_20120810"}
SIGNED = "content-type;host;x-amz-date;x-amz-target"


class Protocol:
    """One kept-alive connection to one service."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.target = TARGETS[service]
        self.host = f"127.0.0.1:{PORT}"
        self.connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=30)
        day = time.strftime("%Y%m%d", time.gmtime())
        key = f"AWS4{os.environ['AWS_SECRET_ACCESS_KEY']}".encode()
        for part in (day, REGION, service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        self.key = key
        self.scope = f"{day}/{REGION}/{service}/aws4_request"
        self.credential = f"AWS4-HMAC-SHA256 Credential={os.environ['AWS_ACCESS_KEY_ID']}/{self.scope}, "

    def call(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        body = msgspec.json.encode(params)
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        target = f"{self.target}.{operation}"
        request = (
            f"POST\n/\n\ncontent-type:application/x-amz-json-1.0\nhost:{self.host}\nx-amz-date:{now}\n"
            f"x-amz-target:{target}\n\n{SIGNED}\n{hashlib.sha256(body).hexdigest()}"
        )
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{now}\n{self.scope}\n{digest}"
        signature = hmac.digest(self.key, text.encode(), "sha256").hex()
        headers = {
            "Content-Type": "application/x-amz-json-1.0",
            "X-Amz-Date": now,
            "X-Amz-Target": target,
            "Authorization": f"{self.credential}SignedHeaders={SIGNED}, Signature={signature}",
        }
        self.connection.request("POST", "/", body, headers)
        answer = self.connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{operation}: {answer.status} {data!r}")
        found: dict[str, Any] = msgspec.json.decode(data)
        return found


def task() -> str:
    return msgspec.json.encode(
        {"id": str(uuid.uuid4()), "task": "noop", "args": [], "kwargs": {}, "retries": 0}
    ).decode()


class Sender:
    """What ``publisher.py`` asks for."""

    def __init__(self) -> None:
        self.sqs = Protocol("sqs")

    def single(self, count: int) -> None:
        for _ in range(count):
            self.sqs.call("SendMessage", {"QueueUrl": QUEUE_URL, "MessageBody": task()})

    def bulk(self, count: int) -> None:
        for start in range(0, count, 10):
            entries = [{"Id": str(n), "MessageBody": task()} for n in range(min(10, count - start))]
            self.sqs.call("SendMessageBatch", {"QueueUrl": QUEUE_URL, "Entries": entries})

    def stamp(self) -> None:
        self.sqs.call("SendMessage", {"QueueUrl": QUEUE_URL, "MessageBody": f"stamp {time.time()}"})


def result_of(body: str) -> dict[str, Any]:
    found = msgspec.json.decode(body)
    value = msgspec.json.encode({"id": found["id"], "status": "SUCCESS", "result": 1}).decode()
    return {
        "TableName": TABLE,
        "Item": {"pk": {"S": found["id"]}, "sk": {"S": "-"}, "value": {"S": value}},
        "ConditionExpression": "attribute_not_exists(pk)",
    }


def work() -> None:
    """Receive ten, delete ten, until the process is ended."""
    sqs, dynamodb = Protocol("sqs"), Protocol("dynamodb")
    while True:
        asked = {"QueueUrl": QUEUE_URL, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 20}
        messages = sqs.call("ReceiveMessage", asked).get("Messages", [])
        for each in messages:
            if each["Body"].startswith("stamp"):
                note(float(each["Body"][6:]))
            elif RESULTS:
                dynamodb.call("PutItem", result_of(each["Body"]))
        if messages:
            entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)]
            sqs.call("DeleteMessageBatch", {"QueueUrl": QUEUE_URL, "Entries": entries})


if __name__ == "__main__":
    work()
