"""What calls AWS gets, and what a policy says to them: for proofs that roles may do what they do, and no more.

``Recorder`` stands before every port of the process. ``asked`` says which actions on which resources
a call is checked for, by the Service Authorization Reference; ``Policy`` evaluates a document as IAM does, as
far as cloudq's policies go (no wildcards but ``*``, StringEquals alone, one role's documents together).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import pytest

from cloudq.aws import factory
from cloudq.aws.port import AwsError, Call

#: moto's account, and the region of the tests.
ACCOUNT, REGION = "123456789012", "us-east-1"

_GROUP = "11111111-2222-3333-4444-555555555555"
#: Operations that are checked as another action.
_ACTIONS = {
    "sqs": {
        "SendMessageBatch": "SendMessage",
        "DeleteMessageBatch": "DeleteMessage",
        "ChangeMessageVisibilityBatch": "ChangeMessageVisibility",
    },
    # "IAM policies with PartiQL for DynamoDB": checked as what the statements do; ours insert
    "dynamodb": {"BatchExecuteStatement": "PartiQLInsert"},
    "s3": {"HeadObject": "GetObject", "ListObjectsV2": "ListBucket"},
}


@dataclass(frozen=True, order=True)
class Asked:
    """One check of IAM's: may this action be done to this resource? ``context`` as sorted pairs."""

    action: str
    resource: str
    context: tuple[tuple[str, str], ...] = ()


def asked(call: Call) -> set[Asked]:
    """What IAM is asked about a call. Fails for a call of which it is not known."""
    action = f"{call.service}:{_ACTIONS.get(call.service, {}).get(call.operation, call.operation)}"
    about = call.params.get("EncryptionContext", {})
    context = tuple(sorted((f"kms:EncryptionContext:{name}", value) for name, value in about.items()))
    return {Asked(action, each, context) for each in _resources(call)} | _besides(call)


def _resources(call: Call) -> list[str]:
    params, where = call.params, f"arn:aws:{call.service}:{REGION}:{ACCOUNT}:"
    if call.service == "sqs":
        return [where + (params.get("QueueName") or params["QueueUrl"].rpartition("/")[2])]
    if call.operation == "BatchExecuteStatement":
        return [
            f"{where}table/{name}" for name in {_inserted(each["Statement"]) for each in params["Statements"]}
        ]
    if call.service == "dynamodb":
        tables = params.get("RequestItems") or [params["TableName"]]
        return [f"{where}table/{each}" for each in tables]
    if call.service == "s3":
        bucket = f"arn:aws:s3:::{params['Bucket']}"
        return [f"{bucket}/{params['Key']}" if "Key" in params else bucket]
    if call.service == "kms":
        return [params["KeyId"]]
    if call.service == "autoscaling":  # the group's number is AWS's
        return [f"{where}autoScalingGroup:{_GROUP}:autoScalingGroupName/{params['AutoScalingGroupName']}"]
    assert call.service == "scheduler", call
    if call.operation == "ListSchedules":  # has no resource type: checked against everything there is
        return [f"{where}schedule/*/*"]
    if call.operation.endswith("Group"):
        return [f"{where}schedule-group/{params['Name']}"]
    return [f"{where}schedule/{params['GroupName']}/{params['Name']}"]


def _inserted(statement: str) -> str:
    verb, into, table, *_ = statement.split()
    assert (verb, into) == ("INSERT", "INTO"), statement
    return table.strip('"')


def _besides(call: Call) -> set[Asked]:
    """What else the caller must be allowed."""
    found: set[Asked] = set()
    target = call.params.get("Target")
    if call.service == "scheduler" and target:  # "Identity-based policy examples for EventBridge Scheduler"
        context = (("iam:PassedToService", "scheduler.amazonaws.com"),)
        found.add(Asked("iam:PassRole", target["RoleArn"], context))
    if call.service == "s3" and call.operation == "GetObject":
        # "GetObject, Permissions": without it a missing object is a 403, which cloudq takes for what it is
        found.add(Asked("s3:ListBucket", f"arn:aws:s3:::{call.params['Bucket']}"))
    if call.service == "s3" and "IfMatch" in call.params:  # "Conditional writes": If-Match needs GetObject
        found.add(Asked("s3:GetObject", f"arn:aws:s3:::{call.params['Bucket']}/{call.params['Key']}"))
    return found


class Recorder:
    """Notes what is asked while a role is at work. Calls outside any role are not noted."""

    def __init__(self) -> None:
        self._role: str | None = None
        self._lock = threading.Lock()
        self.asked: dict[str, set[Asked]] = {}
        #: What schedules that were made will do, and as whom: (role's ARN, queue's ARN).
        self.scheduled: set[tuple[str, str]] = set()
        #: Operations that AWS is to refuse from now on.
        self.refused: set[str] = set()

    @contextmanager
    def role(self, name: str) -> Iterator[None]:
        """All calls of the process are those of this role."""
        self._role = name
        self.asked.setdefault(name, set())
        try:
            yield
        finally:
            self._role = None

    @contextmanager
    def refusing(self, *operations: str) -> Iterator[None]:
        """AWS says no to these, which were right."""
        self.refused |= set(operations)
        try:
            yield
        finally:
            self.refused -= set(operations)

    def note(self, call: Call) -> None:
        """Raises AwsError for what is to be refused."""
        target = call.params.get("Target")
        with self._lock:
            if self._role is not None:
                self.asked[self._role] |= asked(call)
            if target:
                places = [target["Arn"], target.get("DeadLetterConfig", {}).get("Arn")]
                self.scheduled |= {(target["RoleArn"], each) for each in places if each}
        if call.operation in self.refused:
            raise AwsError("InvalidParameterValue", "refused by the test", status=400)


class _Port:
    def __init__(self, port: Any, recorder: Recorder) -> None:
        self._port = port
        self._recorder = recorder

    def call(self, call: Call) -> Any:
        self._recorder.note(call)
        return self._port.call(call)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)


@contextmanager
def recording() -> Iterator[Recorder]:
    """Every port that is made in the block is watched."""
    recorder = Recorder()
    make: Any = factory._make
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "_ports", {})
        patch.setattr(factory, "_make", lambda *arguments: _Port(make(*arguments), recorder))
        yield recorder


@dataclass
class Policy:
    """A policy document, and which of its grants were used."""

    document: Mapping[str, Any]
    used: set[tuple[str, str]] = field(default_factory=set)

    def allows(self, wish: Asked) -> bool:
        """Is it granted, and by nothing denied? The grants that say yes are noted."""
        grants = [
            (action, resource)
            for statement in self.document["Statement"]
            if statement["Effect"] == "Allow" and _meets(statement.get("Condition", {}), dict(wish.context))
            for action in statement["Action"]
            for resource in statement["Resource"]
            if action == wish.action and fnmatchcase(wish.resource, resource)
        ]
        self.used.update(grants)
        return bool(grants)

    @property
    def unused(self) -> set[tuple[str, str]]:
        """Grants that no call has needed."""
        granted = {
            (action, resource)
            for statement in self.document["Statement"]
            for action in statement["Action"]
            for resource in statement["Resource"]
        }
        return granted - self.used


def _meets(condition: Mapping[str, Mapping[str, str]], context: Mapping[str, str]) -> bool:
    assert set(condition) <= {"StringEquals"}, condition
    return all(context.get(key) == value for key, value in condition.get("StringEquals", {}).items())
