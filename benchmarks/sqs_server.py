"""A fast local SQS for benchmarks: standard queues in memory, every request counted, latency by choice.

Not for tests: it checks neither signatures nor limits. It speaks AWS JSON 1.0, keeps visibility
timeouts and long polls, answers with right MD5s, and costs some 20 microseconds a message, so that
what is measured is the client. ``POST /_control {"latency": 0.01}`` delays each answer (but not
other requests); ``GET /_stats`` gives the requests counted by operation, ``POST /_reset`` zeroes them.

    python benchmarks/sqs_server.py 4577
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
import json
import sys
import time
from collections import Counter, deque
from typing import Any

import msgspec

ACCOUNT = "000000000000"


class Queue:
    """Messages that are there, in flight or delayed; who waits for them."""

    def __init__(self, name: str, visibility: float) -> None:
        self.name = name
        self.visibility = visibility
        self.ready: deque[list[Any]] = deque()
        self.later: list[tuple[float, int, list[Any]]] = []
        self.flying: dict[str, list[Any]] = {}
        self.waiters: deque[asyncio.Future[None]] = deque()

    def put(self, message: list[Any], delay: float) -> None:
        if delay > 0:
            heapq.heappush(self.later, (time.monotonic() + delay, next(COUNTER), message))
        else:
            self.ready.append(message)
            self.wake()

    def wake(self) -> None:
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def due(self) -> None:
        now = time.monotonic()
        while self.later and self.later[0][0] <= now:
            due, _, message = heapq.heappop(self.later)
            if message[3] is None or (self.flying.get(message[3]) is message and message[5] == due):
                self.flying.pop(message[3], None)
                message[3] = None
                self.ready.append(message)


QUEUES: dict[str, Queue] = {}
COUNTS: Counter[str] = Counter()
COUNTER = itertools.count()
SETTINGS = {"latency": 0.0}
BASE = "http://127.0.0.1"


def queue_of(params: dict[str, Any]) -> Queue:
    name = params["QueueUrl"].rsplit("/", 1)[-1]
    return QUEUES.setdefault(name, Queue(name, 30.0))


def new_message(entry: dict[str, Any]) -> list[Any]:
    """[id, body, md5, receipt, count, due, sent, attributes]"""
    number = next(COUNTER)
    body = entry["MessageBody"]
    md5 = hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()
    return [
        f"{number:032x}",
        body,
        md5,
        None,
        0,
        0.0,
        str(int(time.time() * 1000)),
        entry.get("MessageAttributes"),
    ]


def send(params: dict[str, Any]) -> dict[str, Any]:
    message = new_message(params)
    queue_of(params).put(message, params.get("DelaySeconds") or 0)
    return {"MessageId": message[0], "MD5OfMessageBody": message[2]}


def send_batch(params: dict[str, Any]) -> dict[str, Any]:
    queue, done = queue_of(params), []
    for entry in params["Entries"]:
        message = new_message(entry)
        queue.put(message, entry.get("DelaySeconds") or 0)
        done.append({"Id": entry["Id"], "MessageId": message[0], "MD5OfMessageBody": message[2]})
    return {"Successful": done, "Failed": []}


def take(queue: Queue, limit: int, invisible: float) -> list[dict[str, Any]]:
    queue.due()
    found = []
    while queue.ready and len(found) < limit:
        message = queue.ready.popleft()
        receipt = f"r{next(COUNTER)}"
        message[3], message[4], message[5] = receipt, message[4] + 1, time.monotonic() + invisible
        queue.flying[receipt] = message
        heapq.heappush(queue.later, (message[5], next(COUNTER), message))
        attributes = {
            "ApproximateReceiveCount": str(message[4]),
            "SentTimestamp": message[6],
            "ApproximateFirstReceiveTimestamp": message[6],
            "SenderId": "bench",
        }
        each = {
            "MessageId": message[0],
            "ReceiptHandle": receipt,
            "Body": message[1],
            "MD5OfBody": message[2],
            "Attributes": attributes,
        }
        if message[7]:
            each["MessageAttributes"] = message[7]
        found.append(each)
    return found


async def receive(params: dict[str, Any], reader: asyncio.StreamReader) -> dict[str, Any]:
    queue = queue_of(params)
    limit = params.get("MaxNumberOfMessages") or 1
    invisible = params.get("VisibilityTimeout")
    invisible = queue.visibility if invisible is None else invisible
    deadline = time.monotonic() + (params.get("WaitTimeSeconds") or 0)
    while True:
        if reader.at_eof():  # it has hung up: nothing may be handed to it, and its turn is another's
            queue.wake()
            raise ConnectionResetError
        found = take(queue, limit, invisible)
        rest = deadline - time.monotonic()
        if found or rest <= 0:
            if queue.ready:
                queue.wake()
            return {"Messages": found} if found else {}
        waiter = asyncio.get_running_loop().create_future()
        queue.waiters.append(waiter)
        try:
            await asyncio.wait_for(waiter, min(rest, 0.5))
        except TimeoutError:
            pass


def delete_batch(params: dict[str, Any]) -> dict[str, Any]:
    queue = queue_of(params)
    for entry in params["Entries"]:
        queue.flying.pop(entry["ReceiptHandle"], None)
    return {"Successful": [{"Id": entry["Id"]} for entry in params["Entries"]], "Failed": []}


def delete(params: dict[str, Any]) -> dict[str, Any]:
    queue_of(params).flying.pop(params["ReceiptHandle"], None)
    return {}


def change(queue: Queue, receipt: str, seconds: float) -> None:
    message = queue.flying.get(receipt)
    if message is None:
        return
    message[5] = time.monotonic() + seconds
    heapq.heappush(queue.later, (message[5], next(COUNTER), message))
    if seconds == 0:
        queue.due()
        queue.wake()


def change_one(params: dict[str, Any]) -> dict[str, Any]:
    change(queue_of(params), params["ReceiptHandle"], params["VisibilityTimeout"])
    return {}


def change_batch(params: dict[str, Any]) -> dict[str, Any]:
    queue = queue_of(params)
    for entry in params["Entries"]:
        change(queue, entry["ReceiptHandle"], entry["VisibilityTimeout"])
    return {"Successful": [{"Id": entry["Id"]} for entry in params["Entries"]], "Failed": []}


def create(params: dict[str, Any]) -> dict[str, Any]:
    name = params["QueueName"]
    visibility = float((params.get("Attributes") or {}).get("VisibilityTimeout", 30))
    QUEUES.setdefault(name, Queue(name, visibility))
    return {"QueueUrl": f"{BASE}/{ACCOUNT}/{name}"}


def url_of(params: dict[str, Any]) -> dict[str, Any]:
    name = params["QueueName"]
    if name not in QUEUES:
        raise KeyError(name)
    return {"QueueUrl": f"{BASE}/{ACCOUNT}/{name}"}


def attributes(params: dict[str, Any]) -> dict[str, Any]:
    queue = queue_of(params)
    queue.due()
    return {
        "Attributes": {
            "ApproximateNumberOfMessages": str(len(queue.ready)),
            "ApproximateNumberOfMessagesNotVisible": str(len(queue.flying)),
            "ApproximateNumberOfMessagesDelayed": "0",
            "VisibilityTimeout": str(int(queue.visibility)),
            "QueueArn": f"arn:aws:sqs:us-east-1:{ACCOUNT}:{queue.name}",
            "MaximumMessageSize": "1048576",
            "MessageRetentionPeriod": "345600",
        }
    }


def purge(params: dict[str, Any]) -> dict[str, Any]:
    queue = queue_of(params)
    queue.ready.clear()
    queue.later.clear()
    queue.flying.clear()
    return {}


OPERATIONS = {
    "SendMessage": send,
    "SendMessageBatch": send_batch,
    "DeleteMessage": delete,
    "DeleteMessageBatch": delete_batch,
    "ChangeMessageVisibility": change_one,
    "ChangeMessageVisibilityBatch": change_batch,
    "CreateQueue": create,
    "GetQueueUrl": url_of,
    "GetQueueAttributes": attributes,
    "PurgeQueue": purge,
    "ListQueues": lambda _: {"QueueUrls": [f"{BASE}/{ACCOUNT}/{name}" for name in QUEUES]},
    "TagQueue": lambda _: {},
    "SetQueueAttributes": lambda _: {},
}


async def answer(operation: str, body: bytes, reader: asyncio.StreamReader) -> tuple[int, bytes]:
    COUNTS[operation] += 1
    params = msgspec.json.decode(body) if body else {}
    if SETTINGS["latency"]:
        await asyncio.sleep(SETTINGS["latency"])
    if operation == "ReceiveMessage":
        found = await receive(params, reader)
        COUNTS["received"] += len(found.get("Messages", ()))
        return 200, msgspec.json.encode(found)
    try:
        return 200, msgspec.json.encode(OPERATIONS[operation](params))
    except KeyError as error:
        return 400, json.dumps(
            {"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": f"no {error}"}
        ).encode()


def control(path: str, body: bytes) -> bytes:
    if path == "/_control":
        SETTINGS.update(json.loads(body))
    elif path == "/_reset":
        COUNTS.clear()
    return json.dumps(dict(COUNTS)).encode()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = head.split("\r\n")
            path = lines[0].split(" ")[1]
            length, operation, expects = 0, "", False
            for line in lines[1:]:
                name, _, value = line.partition(":")
                name = name.lower()
                if name == "content-length":
                    length = int(value)
                elif name == "x-amz-target":
                    operation = value.strip().partition(".")[2]
                elif name == "expect":
                    expects = True
            if expects:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await reader.readexactly(length) if length else b""
            status, data = (
                (200, control(path, body)) if path.startswith("/_") else await answer(operation, body, reader)
            )
            legacy = (
                b""
                if status == 200
                else b"x-amzn-query-error: AWS.SimpleQueueService.NonExistentQueue;Sender\r\n"
            )
            writer.write(
                b"HTTP/1.1 %d OK\r\nContent-Type: application/x-amz-json-1.0\r\n%sContent-Length: %d\r\n\r\n%s"
                % (status, legacy, len(data), data)
            )
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main(port: int) -> None:
    global BASE
    BASE = f"http://127.0.0.1:{port}"
    server = await asyncio.start_server(serve, "127.0.0.1", port, limit=1 << 24)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.install()
    except ImportError:
        pass
    asyncio.run(main(int(sys.argv[1])))
