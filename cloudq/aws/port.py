"""The one door to AWS: every hot call goes through a ``Port``.

A port takes an operation name and its parameters as the AWS API spells them, and returns the
answer as a plain mapping, or raises ``AwsError`` (or another ``OperationalError`` when the call
never got an answer). Plug-ins therefore hold no SDK objects, and a leaner transport can stand in
for botocore.

Plug-ins write an operation once, as a generator that yields ``Call``s and is sent the answers
(``run`` drives it on a sync port, ``arun`` on an async one); it yields a ``Pause`` to wait.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from cloudq.clock import SYSTEM_CLOCK, Clock
from cloudq.errors import OperationalError

T = TypeVar("T")
Answer: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One AWS API call: ``Call("sqs", "SendMessage", {...})``. ``timeout`` in seconds is how long
    the service may take to answer on top of the usual (a long poll's wait)."""

    service: str
    operation: str
    params: Mapping[str, Any]
    timeout: float = 0.0


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for so many seconds, then go on (with an empty answer)."""

    seconds: float


Operation: TypeAlias = Generator[Call | Pause, Answer, T]


class AwsError(OperationalError):
    """AWS answered with an error. ``code`` is the service's own (``ConditionalCheckFailedException``,
    ``AWS.SimpleQueueService.NonExistentQueue``), ``answer`` the parsed body where there is more in it
    (``Item`` of a failed condition)."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int = 0,
        service: str = "",
        operation: str = "",
        answer: Answer | None = None,
    ) -> None:
        super().__init__(f"{service} {operation}: {code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.service = service
        self.operation = operation
        self.answer: Answer = answer or {}


class Port(Protocol):
    """A way to call AWS. Thread-safe. Retries transient errors and throttling itself."""

    @property
    def region(self) -> str:
        """The region's name (``eu-west-1``). Raises ImproperlyConfigured when none is set."""
        ...

    def call(self, call: Call) -> Answer:
        """Make the call.

        DynamoDB values are in the typed low-level form (``{"S": ...}``); a streamed body (S3
        ``GetObject``) comes as bytes. Raises AwsError, or its siblings ServiceUnavailable,
        CredentialsError, AccessDenied; ImproperlyConfigured when there is no region.
        """
        ...

    def close(self) -> None:
        """Give back connections. Ports are shared: a later call opens new ones."""
        ...


class AsyncPort(Protocol):
    """The asyncio twin of Port."""

    @property
    def region(self) -> str: ...

    async def call(self, call: Call) -> Answer: ...

    async def close(self) -> None: ...


def run(port: Port, operation: Operation[T], clock: Clock = SYSTEM_CLOCK) -> T:
    """Drive an operation on a sync port; errors are thrown into it at the yield."""
    try:
        step = next(operation)
        while True:
            if isinstance(step, Pause):
                clock.sleep(step.seconds)
                step = operation.send({})
                continue
            try:
                answer = port.call(step)
            except OperationalError as error:
                step = operation.throw(error)
            else:
                step = operation.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def arun(port: AsyncPort, operation: Operation[T]) -> T:
    """Drive an operation on an async port."""
    import asyncio  # 35 ms that a synchronous program, or a cold Lambda, need not pay

    try:
        step = next(operation)
        while True:
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                step = operation.send({})
                continue
            try:
                answer = await port.call(step)
            except OperationalError as error:
                step = operation.throw(error)
            else:
                step = operation.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result
