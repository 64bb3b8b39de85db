"""IAM policies of the roles around an app, with exact ARNs: what the Terraform modules' ``policies`` outputs say.

A role's policy is the statements on each resource it touches, one resource after the other. Only a
Deny uses wildcards; an Allow has them nowhere but at the end of a resource that stands for "the
objects in this folder" (S3 objects under a prefix, schedules of a group, streams of a log group), and
where AWS takes nothing narrower (``scheduler:ListSchedules``), or says a part of the ARN only once the
resource is there (Auto Scaling groups).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

Statement = dict[str, Any]
Document = dict[str, Any]

#: Who there is: whoever calls ``delay()``, ``cloudq worker``, the Lambda function, the role that EventBridge
#: Scheduler takes to send, whoever only looks, whoever also steers (a dashboard with its actions, and the commands
#: that neither run tasks nor make, empty or delete queues), the functions ``handlers.redrive`` and ``handlers.api``,
#: and whoever runs ``cloudq schedule sync``.
ROLES: Final = (
    "publisher",
    "worker",
    "lambda",
    "scheduler",
    "dashboard",
    "operator",
    "redrive",
    "api",
    "sync",
)

_SEND: Final = ("sqs:GetQueueUrl", "sqs:SendMessage")
_CONSUME: Final = (
    "sqs:ChangeMessageVisibility",
    "sqs:DeleteMessage",
    "sqs:GetQueueAttributes",
    "sqs:GetQueueUrl",
    "sqs:ReceiveMessage",
    "sqs:SendMessage",
)
_LOOK: Final = ("sqs:GetQueueAttributes", "sqs:GetQueueUrl")
#: Redriving asks a queue where its dead letters are, and takes them from there.
_REFILL: Final = ("sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:SendMessage")
_DRAIN: Final = ("sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueUrl", "sqs:ReceiveMessage")
#: An operator reads dead letters, sends them back or deletes them, and counts them.
_TEND: Final = tuple(sorted((*_DRAIN, "sqs:GetQueueAttributes")))
_TABLE_USE: Final = (
    "dynamodb:BatchGetItem",
    "dynamodb:DeleteItem",
    "dynamodb:GetItem",
    "dynamodb:PutItem",
    "dynamodb:Query",
)
#: Results that threads write at once go in one BatchExecuteStatement, which is checked as what its statements do.
_TABLE_TOGETHER: Final = (*_TABLE_USE[:3], "dynamodb:PartiQLInsert", *_TABLE_USE[3:])
#: The API keeps what is good for once, and claims of unique tasks; it never looks for keys.
_TABLE_CALL: Final = (
    "dynamodb:BatchGetItem",
    "dynamodb:DeleteItem",
    "dynamodb:GetItem",
    "dynamodb:PutItem",
)
_TABLE_READ: Final = ("dynamodb:BatchGetItem", "dynamodb:GetItem", "dynamodb:Query")
_TABLE_GET: Final = ("dynamodb:GetItem",)
_OBJECTS_USE: Final = ("s3:DeleteObject", "s3:GetObject", "s3:PutObject")
_OBJECTS_CALL: Final = ("s3:GetObject", "s3:PutObject")
_SCHEDULES: Final = ("scheduler:CreateSchedule", "scheduler:DeleteSchedule", "scheduler:GetSchedule")
_SCHEDULES_CALL: Final = ("scheduler:CreateSchedule", "scheduler:GetSchedule")
_SCHEDULES_SYNC: Final = (
    "scheduler:CreateSchedule",
    "scheduler:DeleteSchedule",
    "scheduler:GetSchedule",
    "scheduler:UpdateSchedule",
)
_HOOK: Final = ("autoscaling:CompleteLifecycleAction", "autoscaling:RecordLifecycleActionHeartbeat")
_KMS_USE: Final = ("kms:Decrypt", "kms:GenerateDataKey")


#: Roles that have nothing to do with the results store, and those that only read it (periodic tasks are there).
_STORELESS: Final = ("scheduler", "redrive")
_READERS: Final = ("dashboard", "sync")


def allow(actions: Sequence[str], *resources: str) -> Statement:
    """One Allow statement."""
    return {"Effect": "Allow", "Action": list(actions), "Resource": list(resources)}


def document(statements: Sequence[Statement]) -> Document:
    """A policy document."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


@dataclass(frozen=True, slots=True)
class QueueRights:
    """A queue, its dead-letter queue (None: it has none) and its customer-managed KMS key, by ARN."""

    arn: str
    dead_letter_arn: str | None = None
    kms_key_arn: str | None = None

    def statements(self, role: str) -> list[Statement]:
        """What ``role`` does with the queue. A worker sends, too: retries, links, dead letters."""
        dead = [] if self.dead_letter_arn is None else [self.dead_letter_arn]
        kms = [] if self.kms_key_arn is None else [allow(_KMS_USE, self.kms_key_arn)]
        if role == "dashboard":
            return [allow(_LOOK, self.arn, *dead)]
        if role == "scheduler":
            return [allow(("sqs:SendMessage",), self.arn), *kms]
        if role in ("publisher", "api"):
            return [allow(_SEND, self.arn), *kms]
        if role in ("redrive", "operator"):
            drain = _DRAIN if role == "redrive" else _TEND
            return [allow(_REFILL, self.arn), *(allow(drain, each) for each in dead), *kms]
        if role == "sync":  # its URL tells the ARN that schedules send to
            return [allow(("sqs:GetQueueUrl",), self.arn)]
        return [allow(_CONSUME, self.arn), *(allow(_SEND, each) for each in dead), *kms]


@dataclass(frozen=True, slots=True)
class TableRights:
    """A DynamoDB table of results and its customer-managed KMS key, by ARN. ``together``: ``group_commit=true``."""

    arn: str
    kms_key_arn: str | None = None
    together: bool = False

    def statements(self, role: str) -> list[Statement]:
        """What ``role`` does with the table. A publisher writes groups and revocations and forgets results; an
        operator pauses, steers and revokes; the API serves one request at a time, and so writes nothing together."""
        if role in _STORELESS:
            return []
        if role in _READERS:
            kms = [] if self.kms_key_arn is None else [allow(("kms:Decrypt",), self.kms_key_arn)]
            return [allow(_TABLE_GET if role == "sync" else _TABLE_READ, self.arn), *kms]
        kms = [] if self.kms_key_arn is None else [allow(_KMS_USE, self.kms_key_arn)]
        uses = _TABLE_CALL if role == "api" else _TABLE_TOGETHER if self.together else _TABLE_USE
        return [allow(uses, self.arn), *kms]


@dataclass(frozen=True, slots=True)
class BucketRights:
    """The objects under a prefix of an S3 bucket. ``prefix`` has no slash at its ends; "" is the whole bucket."""

    arn: str
    prefix: str = ""
    kms_key_arn: str | None = None

    def statements(self, role: str) -> list[Statement]:
        """What ``role`` does with them. Without ListBucket a missing object is a 403 instead of a 404."""
        if role in _STORELESS:
            return []
        objects = f"{self.arn}/{self.prefix}/*" if self.prefix else f"{self.arn}/*"
        look = role in _READERS
        uses = ("s3:GetObject",) if look else _OBJECTS_CALL if role == "api" else _OBJECTS_USE
        found = [
            allow(uses, objects),
            allow(("s3:ListBucket",), self.arn),
        ]
        if self.kms_key_arn is not None:
            found.append(allow(("kms:Decrypt",) if look else _KMS_USE, self.kms_key_arn))
        return found


@dataclass(frozen=True, slots=True)
class ScheduleRights:
    """A group of EventBridge schedules, the role that schedules made there send with, and the queue for what
    they cannot send (None: it is lost), by ARN."""

    group_arn: str
    role_arn: str
    dead_letter_arn: str | None = None

    def statements(self, role: str) -> list[Statement]:
        """What ``role`` does with it: delays that EventBridge keeps are made, looked at and deleted; the API
        makes them and revokes none; syncing makes the group as well, and looks for what is not wanted any more.

        ListSchedules is granted on all groups of the region: whatever group is asked for, EventBridge
        checks ``schedule/*/*`` (Service Authorization Reference: the action has no resource type).
        """
        if role == "scheduler" and self.dead_letter_arn is not None:
            return [allow(("sqs:SendMessage",), self.dead_letter_arn)]
        if role in ("scheduler", "dashboard", "redrive"):
            return []
        members = self.group_arn.replace(":schedule-group/", ":schedule/") + "/*"
        passing = allow(("iam:PassRole",), self.role_arn)
        passing["Condition"] = {"StringEquals": {"iam:PassedToService": "scheduler.amazonaws.com"}}
        if role == "sync":
            region = self.group_arn.partition(":schedule-group/")[0]
            return [
                allow(("scheduler:CreateScheduleGroup", "scheduler:GetScheduleGroup"), self.group_arn),
                allow(("scheduler:ListSchedules",), f"{region}:schedule/*/*"),
                allow(_SCHEDULES_SYNC, members),
                passing,
            ]
        return [allow(_SCHEDULES_CALL if role == "api" else _SCHEDULES, members), passing]


@dataclass(frozen=True, slots=True)
class KeyRights:
    """A KMS key that the app itself encrypts messages and results with (``security_encryption_keys``), by ARN."""

    arn: str
    reads: bool = True
    writes: bool = True

    def statements(self, role: str) -> list[Statement]:
        """What ``role`` does with it, for cloudq's own data keys alone (they say so in their context)."""
        if role in _STORELESS:
            return []
        decrypts = ["kms:Decrypt"] if self.reads else []
        makes = ["kms:GenerateDataKey"] if self.writes and role != "dashboard" else []
        if not decrypts and not makes:
            return []
        found = allow([*decrypts, *makes], self.arn)
        found["Condition"] = {"StringEquals": {"kms:EncryptionContext:purpose": "cloudq"}}
        return [found]


@dataclass(frozen=True, slots=True)
class GroupRights:
    """The Auto Scaling group whose lifecycle hook a worker answers (``worker_lifecycle_hook``), by ARN."""

    arn: str

    def statements(self, role: str) -> list[Statement]:
        """What ``role`` does with it: a worker keeps its instance's termination waiting, and lets it go on."""
        return [allow(_HOOK, self.arn)] if role == "worker" else []


Rights = QueueRights | TableRights | BucketRights | ScheduleRights | KeyRights | GroupRights


def policy(role: str, rights: Sequence[Rights]) -> Document:
    """The policy of ``role`` on all of ``rights``, equal statements once. ``role`` is one of ROLES."""
    found: list[Statement] = []
    for each in rights:
        found += [statement for statement in each.statements(role) if statement not in found]
    return document(found)


#: Who runs as the role, where it is not an EC2 instance.
_SERVICES: Final = {
    "lambda": "lambda.amazonaws.com",
    "redrive": "lambda.amazonaws.com",
    "api": "lambda.amazonaws.com",
    "scheduler": "scheduler.amazonaws.com",
}


def trust(role: str, account: str, region: str, group: str = "default") -> Document:
    """Who may assume the role. A publisher's, a dashboard's and an operator's are EC2 instances, for want of a better guess;
    for syncing, whoever in the account is allowed to.

    The scheduler's names its own group, as AWS advises against the confused deputy.
    """
    partition = (
        "aws-cn" if region.startswith("cn-") else "aws-us-gov" if region.startswith("us-gov-") else "aws"
    )
    principal = {"Service": _SERVICES.get(role, "ec2.amazonaws.com")}
    if role == "sync":
        principal = {"AWS": f"arn:{partition}:iam::{account}:root"}
    statement: Statement = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
    if role == "scheduler":
        source = f"arn:{partition}:scheduler:{region}:{account}:schedule-group/{group}"
        statement["Condition"] = {"StringEquals": {"aws:SourceAccount": account, "aws:SourceArn": source}}
    return document([statement])
