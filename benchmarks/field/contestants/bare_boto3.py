"""The same loops as ``bare_http`` with boto3's client."""

from __future__ import annotations

import time

import boto3

from benchmarks.field.contestants import bare_http
from benchmarks.field.contestants.bare_http import QUEUE_URL, task
from benchmarks.field.contestants.surroundings import RESULTS, URL, note


class Sender:
    """What ``publisher.py`` asks for."""

    def __init__(self) -> None:
        self.sqs = boto3.client("sqs", endpoint_url=URL)

    def single(self, count: int) -> None:
        for _ in range(count):
            self.sqs.send_message(QueueUrl=QUEUE_URL, MessageBody=task())

    def bulk(self, count: int) -> None:
        for start in range(0, count, 10):
            entries = [{"Id": str(n), "MessageBody": task()} for n in range(min(10, count - start))]
            self.sqs.send_message_batch(QueueUrl=QUEUE_URL, Entries=entries)

    def stamp(self) -> None:
        self.sqs.send_message(QueueUrl=QUEUE_URL, MessageBody=f"stamp {time.time()}")


def work() -> None:
    """Receive ten, delete ten, until the process is ended."""
    sqs, dynamodb = boto3.client("sqs", endpoint_url=URL), boto3.client("dynamodb", endpoint_url=URL)
    while True:
        found = sqs.receive_message(QueueUrl=QUEUE_URL, MaxNumberOfMessages=10, WaitTimeSeconds=20)
        messages = found.get("Messages", [])
        for each in messages:
            if each["Body"].startswith("stamp"):
                note(float(each["Body"][6:]))
            elif RESULTS:
                dynamodb.put_item(**bare_http.result_of(each["Body"]))
        if messages:
            entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)]
            sqs.delete_message_batch(QueueUrl=QUEUE_URL, Entries=entries)


if __name__ == "__main__":
    work()
