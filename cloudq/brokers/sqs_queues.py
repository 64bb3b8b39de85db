"""SQS queues by name: URL and attributes looked up once, errors in our words.

The runtime asks GetQueueUrl and GetQueueAttributes only; it never lists or creates (decision 15).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from cloudq.aws.port import Answer, AwsError, Call, Operation
from cloudq.brokers.base import QueueInfo
from cloudq.brokers.sqs_names import explain, is_missing, redrive_policy, to_info
from cloudq.clock import Clock

#: Seconds for which a queue's attributes are remembered.
INFO_TTL: Final = 60.0


class Queues:
    """Names of queues as the app says them (logical) and as SQS does (with the prefix)."""

    def __init__(
        self,
        region: Callable[[], str],
        clock: Clock,
        prefix: str = "",
        account: str | None = None,
        urls: Mapping[str, str] | None = None,
    ) -> None:
        self._region = region
        self._clock = clock
        self._prefix = prefix
        self._account = account
        self._configured = dict(urls or {})
        self._urls: dict[str, str] = {}
        self._infos: dict[str, tuple[float, QueueInfo]] = {}
        self._unprefixed: set[str] = set()

    def physical(self, queue: str) -> str:
        """The queue's name in SQS."""
        return queue if queue in self._unprefixed else self._prefix + queue

    def logical(self, physical: str) -> str:
        """The queue's name in the app. A queue without our prefix keeps its full name."""
        if physical.startswith(self._prefix):
            return physical[len(self._prefix) :]
        self._unprefixed.add(physical)
        return physical

    def forget(self, queue: str) -> None:
        """Look the queue up anew next time."""
        self._urls.pop(queue, None)
        self._infos.pop(queue, None)

    def url(self, queue: str) -> Operation[str]:
        """The queue's URL. Raises QueueNotFound."""
        url = self._configured.get(queue) or self._urls.get(queue)
        if url is not None:
            return url
        params = {"QueueName": self.physical(queue)}
        if self._account:
            params["QueueOwnerAWSAccountId"] = self._account
        try:
            answer = yield Call("sqs", "GetQueueUrl", params)
        except AwsError as error:
            self._raise(queue, error)
        found: str = answer["QueueUrl"]
        self._urls[queue] = found
        return found

    def call(
        self, queue: str, operation: str, params: Mapping[str, Any], timeout: float = 0.0
    ) -> Operation[Answer]:
        """A call about one queue."""
        url = yield from self.url(queue)
        try:
            return (yield Call("sqs", operation, {"QueueUrl": url, **params}, timeout))
        except AwsError as error:
            self._raise(queue, error)

    def explain(self, queue: str, error: AwsError) -> Exception:
        """The error of one entry, or of a call, in our words."""
        return explain(error, queue, self.physical(queue), self._region)

    def _raise(self, queue: str, error: AwsError) -> NoReturn:
        if is_missing(error):
            self.forget(queue)
        explained = self.explain(queue, error)
        if explained is error:
            raise error
        raise explained from error

    def attributes(self, queue: str, names: list[str]) -> Operation[Mapping[str, str]]:
        """The queue's attributes, as SQS has them now."""
        answer = yield from self.call(queue, "GetQueueAttributes", {"AttributeNames": names})
        found: Mapping[str, str] = answer.get("Attributes", {})
        return found

    def info(self, queue: str) -> Operation[QueueInfo]:
        """The queue's description, at most ``INFO_TTL`` seconds old."""
        known = self._infos.get(queue)
        now = self._clock.monotonic()
        if known is not None and now - known[0] < INFO_TTL:
            return known[1]
        found = yield from self.attributes(queue, ["VisibilityTimeout", "RedrivePolicy"])
        dead, _ = redrive_policy(found)
        info = to_info(queue, found, self.logical(dead) if dead else None)
        self._infos[queue] = (now, info)
        return info

    def arn(self, queue: str) -> Operation[str]:
        """The queue's ARN."""
        found = yield from self.attributes(queue, ["QueueArn"])
        return found["QueueArn"]

    def likely_arn(self, queue: str) -> Operation[str]:
        """The queue's ARN as its URL tells (``https://sqs.REGION.amazonaws.com/ACCOUNT/NAME``): a producer
        need not be allowed GetQueueAttributes."""
        url = yield from self.url(queue)
        account, name = url.rsplit("/", 2)[1:]
        region = self._region()
        return f"arn:{partition(region)}:sqs:{region}:{account}:{name}"


def partition(region: str) -> str:
    """AWS's partition of a region: ``aws``, ``aws-cn``, ``aws-us-gov``."""
    for start, name in (("cn-", "aws-cn"), ("us-gov-", "aws-us-gov")):
        if region.startswith(start):
            return name
    return "aws"
