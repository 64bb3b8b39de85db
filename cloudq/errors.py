"""Every error cloudq raises, in one tree.

::

    CloudQError
    ├── ImproperlyConfigured (ValueError)     the app, a setting or a URL is wrong
    │   ├── SettingError                      unknown or ill-typed setting
    │   ├── UnknownScheme                     no plug-in for that URL or name
    │   ├── MissingExtra                      an optional dependency is not installed
    │   └── ScheduleError                     a schedule that cannot be read, or never comes
    ├── OperationalError                      an outside service did not do its part
    │   ├── ServiceUnavailable                network, throttling, 5xx: the same call may work later
    │   ├── CredentialsError                  none found, expired, or refused
    │   ├── AccessDenied                      the credentials lack a permission
    │   ├── QueueNotFound / StoreNotFound     the queue, table or bucket does not exist
    │   └── SendError                         some messages of a batch were refused
    ├── Conflict                              a conditional write's condition was not met
    ├── Unsupported                           this plug-in cannot do that, and says so
    │   └── NoDeadLetterQueue                 the queue has nowhere to bury a message
    ├── ValueTooLarge / MessageTooLarge       over the store's or the queue's limit
    ├── CorruptRecord                         a stored document cannot be read
    ├── MessageError                          a message that must not run: buried, with a reason
    │   ├── DecodeError                       not JSON, wrong shape, broken content
    │   ├── UnsupportedVersion                newer wire format than this release knows
    │   ├── ContentDisallowed                 a content type outside ``accept_content``
    │   ├── SignatureInvalid                  missing or wrong message signature
    │   ├── DecryptionFailed                  encrypted with a key that is not here, or damaged
    │   ├── PayloadRefused                    points to a place this app does not read
    │   ├── PayloadMissing / PayloadDamaged   what it points to is gone, or not what was sent
    │   ├── NotRegistered (KeyError)          no task of that name in this app
    │   └── InvalidArguments (TypeError)      arguments that do not fit the task's signature
    ├── SerializationError (TypeError)        a value that cannot be encoded; names its path
    ├── TaskError                             how a task can end, seen by who asks for the result
    │   ├── MaxRetriesExceededError
    │   ├── TimeLimitExceeded
    │   ├── WorkerLostError
    │   ├── TaskRevokedError
    │   ├── ChordError
    │   └── RemoteError                       stands in for an exception that cannot be rebuilt here
    ├── TimeoutError (builtins.TimeoutError)  ``get(timeout=...)`` ran out
    └── LeaseLost                             somebody else may hold the message now

    SoftTimeLimitExceeded                     raised inside the task; may be caught
    TaskPredicate                             not failures: a task's word to the runtime
    ├── Retry
    ├── Ignore
    │   └── Replace
    └── Reject

Names and meaning follow Celery where the idea is the same.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from datetime import datetime
from typing import Any


class CloudQError(Exception):
    """Root of everything cloudq raises on its own account."""


# --- configuration -----------------------------------------------------------------------------


class ImproperlyConfigured(CloudQError, ValueError):
    """The app, a setting or a URL is wrong; the message says what to change."""


class SettingError(ImproperlyConfigured):
    """An unknown or ill-typed setting; the message names the nearest right one."""


class UnknownScheme(ImproperlyConfigured):
    """No broker, backend, pool or serializer is registered under that name."""


class MissingExtra(ImproperlyConfigured):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what} needs an optional dependency: pip install "cloudq-tasks[{extra}]"')
        self.what = what
        self.extra = extra

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.extra)


class ScheduleError(ImproperlyConfigured):
    """A crontab, interval, time zone or periodic task that cannot be; the message says why."""


# --- outside services --------------------------------------------------------------------------


class OperationalError(CloudQError):
    """An outside service (queue, store, cloud) did not do its part."""


class ServiceUnavailable(OperationalError):
    """Network trouble, throttling or a server error: the same call may work later."""


class CredentialsError(OperationalError):
    """No credentials were found, or they are expired or refused."""


class AccessDenied(OperationalError):
    """The credentials work but lack a permission."""


class QueueNotFound(OperationalError):
    """The queue does not exist (or its name resolves to nothing in this region)."""


class StoreNotFound(OperationalError):
    """The results table, bucket, container or folder does not exist."""


class SendError(OperationalError):
    """Some messages of a batch were refused.

    ``failures`` maps the position of each refused message to its error; every other message
    of the batch *was* sent. ``sent`` maps positions to broker message ids; ``tasks`` those of the refused
    ones to task ids, where the sender knows them.
    """

    def __init__(
        self,
        failures: Mapping[int, Exception],
        sent: Mapping[int, str] | None = None,
        tasks: Mapping[int, str] | None = None,
    ) -> None:
        self.failures = dict(failures)
        self.sent = dict(sent or {})
        self.tasks = dict(tasks or {})
        first = next(iter(self.failures.items()), None)
        total = len(self.failures) + len(self.sent)
        text = f"{len(self.failures)} of {total} messages were not sent"
        if first is not None:
            task = f" (task {self.tasks[first[0]]})" if first[0] in self.tasks else ""
            text += f"; first at position {first[0]}{task}: {first[1]}"
        super().__init__(text)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.failures, self.sent, self.tasks)


# --- stores ------------------------------------------------------------------------------------


class Conflict(CloudQError):
    """A conditional write or delete found something else than its condition allows.

    ``present`` is the entry that is there (a ``cloudq.backends.base.Entry``), where the store
    hands it over for free; None when the store did not say (or nothing is there).
    """

    def __init__(self, key: str, present: Any = None) -> None:
        super().__init__(f"the condition on {key!r} was not met")
        self.key = key
        self.present = present

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.key, self.present)


class Unsupported(CloudQError):
    """This plug-in cannot do what was asked; its capabilities say so beforehand."""


class NoDeadLetterQueue(Unsupported):
    """The queue has no dead-letter queue, so a message cannot be buried."""


class ValueTooLarge(CloudQError):
    """A value is over the store's limit (400 KB for one DynamoDB item)."""


class MessageTooLarge(CloudQError):
    """A message is over the queue's limit (1 MiB on SQS, attributes included); see ``broker_large_messages``."""


class CorruptRecord(CloudQError):
    """A stored document cannot be read, or was written by a newer release."""


# --- messages ----------------------------------------------------------------------------------


class MessageError(CloudQError):
    """A message that must not run. It is buried in the dead-letter queue with ``reason``."""

    reason = "unreadable"


class DecodeError(MessageError):
    """Not JSON, not the documented shape, or broken content."""

    reason = "undecodable"


class UnsupportedVersion(MessageError):
    """The message was written in a newer wire format than this release knows."""

    reason = "unsupported_version"


class ContentDisallowed(MessageError):
    """The arguments' content type is not in ``accept_content``."""

    reason = "content_disallowed"


class SignatureInvalid(MessageError):
    """The message's signature is missing or wrong."""

    reason = "signature_invalid"


class DecryptionFailed(MessageError):
    """It is encrypted with a key that is not here, for another place, or was changed since."""

    reason = "decryption_failed"


class PayloadRefused(MessageError):
    """The message points to a place that this app does not read, or to more than it takes."""

    reason = "payload_refused"


class PayloadMissing(MessageError):
    """What the message points to is not there (any more). ``head`` is what the message itself says."""

    reason = "payload_missing"

    def __init__(self, message: str, head: Any = None) -> None:
        super().__init__(message)
        self.head = head

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.head)


class PayloadDamaged(MessageError):
    """What lies where the message points to has another length or SHA-256."""

    reason = "payload_damaged"


class NotRegistered(MessageError, KeyError):
    """No task of that name is registered in this app."""

    reason = "unknown_task"

    def __str__(self) -> str:  # KeyError would show the repr
        return str(self.args[0]) if self.args else ""


class InvalidArguments(MessageError, TypeError):
    """The arguments do not fit the task's signature."""

    reason = "invalid_arguments"


class SerializationError(CloudQError, TypeError):
    """A value cannot be encoded. ``path`` says where it sits, e.g. ``$[0]['user']``."""

    def __init__(self, message: str, path: str = "$") -> None:
        super().__init__(f"{message} (at {path})" if path else message)
        self.message = message
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.path)


# --- how a task can end ------------------------------------------------------------------------


class TaskError(CloudQError):
    """A task did not succeed for a reason of the queue's, not of its own code."""


class MaxRetriesExceededError(TaskError):
    """The task asked for one retry more than ``max_retries`` allows."""


class TimeLimitExceeded(TaskError):
    """The task ran past its hard time limit (seconds) and was stopped."""


class WorkerLostError(TaskError):
    """The process that ran the task died."""


class TaskRevokedError(TaskError):
    """The task was revoked, or expired, before it ran (or was terminated while running)."""


class ChordError(TaskError):
    """A member of a chord's header failed, so the body did not run."""


class RemoteError(TaskError):
    """Stands in for an exception whose class cannot be rebuilt in this process.

    ``type_name`` is the original class's import path, ``message`` its text.
    """

    def __init__(self, type_name: str, message: str = "") -> None:
        super().__init__(f"{type_name}: {message}" if message else type_name)
        self.type_name = type_name
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.type_name, self.message)


class TimeoutError(CloudQError, builtins.TimeoutError):
    """The result did not arrive within ``timeout`` seconds. The task itself goes on."""


class LeaseLost(CloudQError):
    """The message's visibility ran out: somebody else may hold it, so nothing may be written."""


class SoftTimeLimitExceeded(Exception):
    """Raised inside a running task at its soft time limit, so that it can clean up."""


# --- a task's word to the runtime --------------------------------------------------------------


class TaskPredicate(CloudQError):
    """Raised by a task to say how it wants to end; not a failure."""


class Retry(TaskPredicate):
    """Run the task again later: what ``Task.retry`` raises.

    ``delay`` is in seconds from now; ``eta`` wins over it. ``args``/``kwargs`` replace the
    task's arguments when given; ``options`` are publish options (queue, priority, ...).
    """

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | None = None,
        *,
        delay: float | None = None,
        eta: datetime | None = None,
        task_args: tuple[Any, ...] | None = None,
        task_kwargs: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.message = message
        self.exc = exc
        self.delay = delay
        self.eta = eta
        self.task_args = task_args
        self.task_kwargs = task_kwargs
        self.options = options or {}
        super().__init__(message or (f"retry: {exc!r}" if exc is not None else "retry"))


class Ignore(TaskPredicate):
    """End the task without recording any result."""


class Replace(Ignore):
    """What ``Task.replace`` raises: ``signature`` takes the task's place."""

    def __init__(self, signature: Mapping[str, Any]) -> None:
        super().__init__("replaced by another task")
        self.signature = signature


class Reject(TaskPredicate):
    """Refuse the message: bury it in the dead-letter queue, or (``requeue=True``) give it back."""

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        self.reason = reason
        self.requeue = requeue
        super().__init__(f"rejected: {reason}" if reason is not None else "rejected")
