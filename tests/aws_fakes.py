"""A port that answers from a script, and a clock that moves only when told: for unit tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from cloudq.aws.port import AwsError, Call

Reply = Mapping[str, Any] | Exception | Callable[[Call], Mapping[str, Any]]

URL = "https://sqs.us-east-1.amazonaws.com/123456789012/"


class FrozenClock:
    """Time stands still; a sleep moves it and is written down."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def wait(self, condition: threading.Condition, timeout: float | None) -> bool:
        self.sleep(timeout or 0.0)
        return False


class ScriptedPort:
    """Answers each call with the next reply scripted for its operation, and remembers the calls.

    A reply is an answer, an error to raise, or a function of the call. The last one is used for
    all further calls. GetQueueUrl answers itself.
    """

    region = "us-east-1"

    def __init__(self, **replies: Reply | list[Reply]) -> None:
        self.replies: dict[str, list[Reply]] = {
            name: list(reply) if isinstance(reply, list) else [reply] for name, reply in replies.items()
        }
        self.replies.setdefault("GetQueueUrl", [lambda call: {"QueueUrl": URL + call.params["QueueName"]}])
        self.calls: list[Call] = []
        self.closed = False

    def call(self, call: Call) -> Mapping[str, Any]:
        self.calls.append(call)
        replies = self.replies[call.operation]
        reply = replies[0] if len(replies) == 1 else replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply(call) if callable(reply) else reply

    def close(self) -> None:
        self.closed = True

    def made(self, operation: str) -> list[Mapping[str, Any]]:
        """The parameters of every call of an operation."""
        return [call.params for call in self.calls if call.operation == operation]


def aws_error(code: str, message: str = "no", answer: Mapping[str, Any] | None = None) -> AwsError:
    return AwsError(code, message, status=400, service="test", operation="Test", answer=answer)


def takes_all(call: Call) -> dict[str, Any]:
    """A batch call in which every entry succeeds."""
    entries = call.params["Entries"]
    return {"Successful": [{"Id": entry["Id"], "MessageId": f"id-{entry['Id']}"} for entry in entries]}


def refuses(codes: Mapping[str, tuple[str, str, bool]]) -> Callable[[Call], dict[str, Any]]:
    """A batch call in which the entries named fail with (code, message, sender's fault)."""

    def reply(call: Call) -> dict[str, Any]:
        answer: dict[str, Any] = {"Successful": [], "Failed": []}
        for entry in call.params["Entries"]:
            if found := codes.get(entry["Id"]):
                code, message, fault = found
                answer["Failed"].append(
                    {"Id": entry["Id"], "Code": code, "Message": message, "SenderFault": fault}
                )
            else:
                answer["Successful"].append({"Id": entry["Id"], "MessageId": f"id-{entry['Id']}"})
        return answer

    return reply
