"""SQS: standard queues in memory. A long poll is answered the moment a message comes."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from benchmarks.field.server.refusal import Refusal

ACCOUNT: Final = "000000000000"
_numbers = itertools.count()

Answer = dict[str, Any]


class Message:
    """One message; ``receipt`` is set while it is in flight, until ``due``."""

    __slots__ = ("attributes", "body", "count", "due", "id", "md5", "receipt", "sent")

    def __init__(self, entry: Answer) -> None:
        self.id = f"{next(_numbers):032x}"
        self.body: str = entry["MessageBody"]
        self.md5 = hashlib.md5(self.body.encode(), usedforsecurity=False).hexdigest()
        self.attributes = entry.get("MessageAttributes")
        self.sent = str(int(time.time() * 1000))
        self.count = 0
        self.due = 0.0
        self.receipt: str | None = None

    def shown(self) -> Answer:
        found = {
            "MessageId": self.id,
            "ReceiptHandle": self.receipt,
            "Body": self.body,
            "MD5OfBody": self.md5,
            "Attributes": {
                "ApproximateReceiveCount": str(self.count),
                "SentTimestamp": self.sent,
                "ApproximateFirstReceiveTimestamp": self.sent,
                "SenderId": "bench",
            },
        }
        if self.attributes:
            found["MessageAttributes"] = self.attributes
        return found


class Poll:
    """A ReceiveMessage that waits. ``deliver`` answers it; it is called once."""

    def __init__(
        self, limit: int, invisible: float, deliver: Callable[[Answer], None], gone: Callable[[], bool]
    ) -> None:
        self.limit = limit
        self.invisible = invisible
        self.deliver = deliver
        self.gone = gone
        self.timer: asyncio.TimerHandle | None = None


class Queue:
    """Messages that are there, delayed or in flight, and the polls that wait for them."""

    def __init__(self, name: str, visibility: float) -> None:
        self.name = name
        self.visibility = visibility
        #: How many more messages it gives away; None: all.
        self.allowance: int | None = None
        self.deleted = 0
        self.ready: deque[Message] = deque()
        self.later: list[tuple[float, int, Message]] = []
        self.flying: dict[str, Message] = {}
        self.polls: deque[Poll] = deque()
        self.alarm: asyncio.TimerHandle | None = None

    def put(self, message: Message, delay: float) -> None:
        if delay > 0:
            self._put_later(message, time.monotonic() + delay)
        else:
            self.ready.append(message)

    def _put_later(self, message: Message, due: float) -> None:
        message.due = due
        heapq.heappush(self.later, (due, next(_numbers), message))

    def _collect_due(self) -> None:
        now = time.monotonic()
        while self.later and self.later[0][0] <= now:
            due, _, message = heapq.heappop(self.later)
            if message.due != due:
                continue  # it was changed, deleted or received anew since
            if message.receipt is not None and self.flying.pop(message.receipt, None) is None:
                continue
            message.receipt = None
            self.ready.append(message)

    def take(self, limit: int, invisible: float) -> list[Answer]:
        self._collect_due()
        found: list[Answer] = []
        if self.allowance is not None:
            limit = min(limit, self.allowance)
        while self.ready and len(found) < limit:
            message = self.ready.popleft()
            message.receipt = f"r{next(_numbers)}"
            message.count += 1
            self.flying[message.receipt] = message
            self._put_later(message, time.monotonic() + invisible)
            found.append(message.shown())
        if self.allowance is not None:
            self.allowance -= len(found)
        return found

    def wait(self, poll: Poll, seconds: float) -> None:
        def give_up() -> None:
            self.polls.remove(poll)
            poll.deliver({})

        poll.timer = asyncio.get_running_loop().call_later(seconds, give_up)
        self.polls.append(poll)
        self._set_alarm()

    def feed(self) -> None:
        """Answer waiting polls with what is there."""
        self._collect_due()
        while self.polls and self.ready and self.allowance != 0:
            poll = self.polls.popleft()
            if poll.timer is not None:
                poll.timer.cancel()
            if not poll.gone():
                poll.deliver({"Messages": self.take(poll.limit, poll.invisible)})
        self._set_alarm()

    def _set_alarm(self) -> None:
        """Look again when the next delay or visibility timeout of a polled queue ends."""
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None
        if self.polls and self.later:
            wait = max(0.001, self.later[0][0] - time.monotonic())
            self.alarm = asyncio.get_running_loop().call_later(wait, self.feed)

    def delete(self, receipt: str) -> None:
        if self.flying.pop(receipt, None) is not None:
            self.deleted += 1

    def change(self, receipt: str, seconds: float) -> None:
        message = self.flying.get(receipt)
        if message is not None:
            self._put_later(message, time.monotonic() + seconds)


class Queues:
    """The operations of SQS that the contestants call."""

    def __init__(self) -> None:
        self.base = "http://127.0.0.1"
        self.queues: dict[str, Queue] = {}

    def named(self, name: str) -> Queue:
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue(name, 30.0)
        return queue

    def _of(self, params: Answer) -> Queue:
        return self.named(params["QueueUrl"].rpartition("/")[2])

    def _url(self, name: str) -> str:
        return f"{self.base}/{ACCOUNT}/{name}"

    def receive(
        self, params: Answer, deliver: Callable[[Answer], None], gone: Callable[[], bool]
    ) -> Answer | None:
        """The answer; or None, when ``deliver`` gets it later."""
        queue = self._of(params)
        limit = params.get("MaxNumberOfMessages") or 1
        invisible = params.get("VisibilityTimeout")
        invisible = queue.visibility if invisible is None else float(invisible)
        found = queue.take(limit, invisible)
        if found:
            return {"Messages": found}
        wait = params.get("WaitTimeSeconds") or 0
        if not wait:
            return {}
        queue.wait(Poll(limit, invisible, deliver, gone), wait)
        return None

    def SendMessage(self, params: Answer) -> Answer:  # noqa: N802
        queue, message = self._of(params), Message(params)
        queue.put(message, params.get("DelaySeconds") or 0)
        queue.feed()
        return {"MessageId": message.id, "MD5OfMessageBody": message.md5}

    def SendMessageBatch(self, params: Answer) -> Answer:  # noqa: N802
        queue, done = self._of(params), []
        for entry in params["Entries"]:
            message = Message(entry)
            queue.put(message, entry.get("DelaySeconds") or 0)
            done.append({"Id": entry["Id"], "MessageId": message.id, "MD5OfMessageBody": message.md5})
        queue.feed()
        return {"Successful": done, "Failed": []}

    def DeleteMessage(self, params: Answer) -> Answer:  # noqa: N802
        self._of(params).delete(params["ReceiptHandle"])
        return {}

    def DeleteMessageBatch(self, params: Answer) -> Answer:  # noqa: N802
        queue = self._of(params)
        for entry in params["Entries"]:
            queue.delete(entry["ReceiptHandle"])
        return {"Successful": [{"Id": entry["Id"]} for entry in params["Entries"]], "Failed": []}

    def ChangeMessageVisibility(self, params: Answer) -> Answer:  # noqa: N802
        queue = self._of(params)
        queue.change(params["ReceiptHandle"], params["VisibilityTimeout"])
        queue.feed()
        return {}

    def ChangeMessageVisibilityBatch(self, params: Answer) -> Answer:  # noqa: N802
        queue = self._of(params)
        for entry in params["Entries"]:
            queue.change(entry["ReceiptHandle"], entry["VisibilityTimeout"])
        queue.feed()
        return {"Successful": [{"Id": entry["Id"]} for entry in params["Entries"]], "Failed": []}

    def CreateQueue(self, params: Answer) -> Answer:  # noqa: N802
        name = params["QueueName"]
        visibility = float((params.get("Attributes") or {}).get("VisibilityTimeout", 30))
        self.queues.setdefault(name, Queue(name, visibility))
        return {"QueueUrl": self._url(name)}

    def GetQueueUrl(self, params: Answer) -> Answer:  # noqa: N802
        name = params["QueueName"]
        if name not in self.queues:
            code = "AWS.SimpleQueueService.NonExistentQueue"
            raise Refusal("com.amazonaws.sqs#QueueDoesNotExist", f"no queue {name}", legacy=code)
        return {"QueueUrl": self._url(name)}

    def ListQueues(self, params: Answer) -> Answer:  # noqa: N802
        prefix = params.get("QueueNamePrefix") or ""
        return {"QueueUrls": [self._url(name) for name in self.queues if name.startswith(prefix)]}

    def GetQueueAttributes(self, params: Answer) -> Answer:  # noqa: N802
        queue = self._of(params)
        known = {
            "ApproximateNumberOfMessages": str(len(queue.ready)),
            "ApproximateNumberOfMessagesNotVisible": str(len(queue.flying)),
            "ApproximateNumberOfMessagesDelayed": "0",
            "VisibilityTimeout": str(int(queue.visibility)),
            "QueueArn": f"arn:aws:sqs:us-east-1:{ACCOUNT}:{queue.name}",
            "MaximumMessageSize": "1048576",
            "MessageRetentionPeriod": "345600",
        }
        wanted = params.get("AttributeNames") or []
        return {"Attributes": {k: v for k, v in known.items() if "All" in wanted or k in wanted}}

    def SetQueueAttributes(self, params: Answer) -> Answer:  # noqa: N802
        given = params.get("Attributes") or {}
        if "VisibilityTimeout" in given:
            self._of(params).visibility = float(given["VisibilityTimeout"])
        return {}

    def PurgeQueue(self, params: Answer) -> Answer:  # noqa: N802
        queue = self._of(params)
        queue.ready.clear()
        queue.later.clear()
        queue.flying.clear()
        return {}
