"""What is deployed on AWS, compared with what an app needs: for ``cloudq doctor --aws``.

Looks only: SQS GetQueueAttributes, DynamoDB DescribeTable, DescribeTimeToLive and DescribeContinuousBackups,
Lambda ListEventSourceMappings and GetFunctionConfiguration, and, for a role, IAM SimulatePrincipalPolicy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloudq.app import CloudQ
from cloudq.aws.port import Call, Port
from cloudq.deploy.iam import Rights, policy
from cloudq.errors import CloudQError
from cloudq.url import Url

OK, WARN, FAIL = "ok", "warn", "FAIL"
#: AWS's advice for queues behind Lambda: visibility of six times the timeout, five receipts at least.
LAMBDA_VISIBILITY: Final = 6
LAMBDA_RECEIVES: Final = 5
_TIERS: Final = re.compile(r"\+(?=[a-z][a-z0-9.-]*://)")


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing compared: how it is, what it is about, what was found and what to do."""

    level: str
    what: str
    detail: str


def audit(app: CloudQ, queues: Sequence[str], port: Port) -> Iterator[Remark]:
    """Queues, the functions behind them, and the table. ``port`` must reach all of AWS's services."""
    url = Url.parse(app.broker.url)
    for queue in queues:
        yield from _guarded(f"aws queue {queue}", _queue(app, queue, url, port))
    backend = app.backend.url if app.backend is not None else ""
    for text in _TIERS.split(backend):
        if text.startswith("dynamodb://"):
            table = Url.parse(text)
            yield from _guarded(
                f"aws table {table.host}", _table(table.host, table.query.get("ttl_attribute", "ttl"), port)
            )


def _guarded(what: str, looking: Iterator[Remark]) -> Iterator[Remark]:
    try:
        yield from looking
    except CloudQError as error:
        yield Remark(FAIL, what, f"cannot be looked at: {error}")


def _queue(app: CloudQ, queue: str, url: Url, port: Port) -> Iterator[Remark]:
    what = f"aws queue {queue}"
    params = {"QueueName": url.query.get("queue_name_prefix", "") + queue}
    if account := url.query.get("account"):
        params["QueueOwnerAWSAccountId"] = account
    address = port.call(Call("sqs", "GetQueueUrl", params))["QueueUrl"]
    found = port.call(Call("sqs", "GetQueueAttributes", {"QueueUrl": address, "AttributeNames": ["All"]}))
    has: Mapping[str, str] = found["Attributes"]
    if not (has.get("KmsMasterKeyId") or has.get("SqsManagedSseEnabled") == "true"):
        yield Remark(WARN, what, "messages are not encrypted at rest: set SqsManagedSseEnabled, or a KMS key")
    if not _refuses_http(has.get("Policy")):
        yield Remark(
            WARN, what, "plain HTTP is not refused: deny aws:SecureTransport=false in the queue's policy"
        )
    limit, most = app.broker.capabilities.max_body, int(has.get("MaximumMessageSize", 1_048_576))
    if limit > most:
        yield Remark(
            FAIL,
            what,
            f"takes messages of {most} bytes, the app sends up to {limit}: put max_body={most} into the broker's URL",
        )
    visibility = int(has["VisibilityTimeout"])
    receives = int(json.loads(has.get("RedrivePolicy") or "{}").get("maxReceiveCount", 0))
    yield Remark(
        OK,
        what,
        f"visibility {visibility} s, {receives or 'no limit of'} receipts, messages up to {most} bytes",
    )
    mappings = port.call(Call("lambda", "ListEventSourceMappings", {"EventSourceArn": has["QueueArn"]}))
    for mapping in mappings.get("EventSourceMappings", []):
        yield from _mapping(app, queue, mapping, visibility, receives, port)


def _mapping(
    app: CloudQ, queue: str, mapping: Mapping[str, Any], visibility: int, receives: int, port: Port
) -> Iterator[Remark]:
    name = mapping["FunctionArn"].rpartition(":function:")[2]
    what = f"aws function {name}"
    timeout = int(
        port.call(Call("lambda", "GetFunctionConfiguration", {"FunctionName": mapping["FunctionArn"]}))[
            "Timeout"
        ]
    )
    needed = LAMBDA_VISIBILITY * timeout + int(mapping.get("MaximumBatchingWindowInSeconds") or 0)
    if visibility < needed:
        yield Remark(
            WARN,
            what,
            f"may take {timeout} s, but {queue} hides messages for {visibility} s: set {needed} or more (AWS's advice)",
        )
    if "ReportBatchItemFailures" not in (mapping.get("FunctionResponseTypes") or []):
        yield Remark(
            FAIL,
            what,
            "its mapping lacks ReportBatchItemFailures: what cloudq reports as failed would be deleted",
        )
    if receives and receives < LAMBDA_RECEIVES:
        yield Remark(
            WARN,
            what,
            f"{queue} allows {receives} receipts; throttled batches use them up: set {LAMBDA_RECEIVES} or more",
        )
    for task in (app.tasks[each] for each in app.tasks):
        longest = task.time_limit or app.conf.task_time_limit
        if (task.queue or app.conf.task_default_queue) == queue and longest and longest > timeout:
            yield Remark(
                WARN,
                what,
                f"{task.name} may run for {longest:g} s, the function ends after {timeout} s: raise its timeout or use a worker",
            )
    yield Remark(OK, what, f"consumes {queue}, timeout {timeout} s")


def _refuses_http(text: str | None) -> bool:
    statements = json.loads(text)["Statement"] if text else []
    return any(
        each.get("Effect") == "Deny"
        and str(each.get("Condition", {}).get("Bool", {}).get("aws:SecureTransport")).lower() == "false"
        for each in statements
    )


def _table(name: str, ttl: str, port: Port) -> Iterator[Remark]:
    what = f"aws table {name}"
    table = port.call(Call("dynamodb", "DescribeTable", {"TableName": name}))["Table"]
    keys = {each["KeyType"]: each["AttributeName"] for each in table["KeySchema"]}
    if keys != {"HASH": "pk", "RANGE": "sk"}:
        yield Remark(
            FAIL,
            what,
            f"its key is {keys}, cloudq needs pk (HASH) and sk (RANGE), both strings: make a new table",
        )
    about = port.call(Call("dynamodb", "DescribeTimeToLive", {"TableName": name}))["TimeToLiveDescription"]
    on = about.get("TimeToLiveStatus") in ("ENABLED", "ENABLING")
    if not on or about.get("AttributeName") != ttl:
        now = f"on for {about.get('AttributeName')!r}" if on else "off"
        yield Remark(
            FAIL, what, f"TTL is {now}, so results stay for ever: switch it on for the attribute {ttl!r}"
        )
    backups = port.call(Call("dynamodb", "DescribeContinuousBackups", {"TableName": name}))
    recovery = backups["ContinuousBackupsDescription"].get("PointInTimeRecoveryDescription", {})
    if recovery.get("PointInTimeRecoveryStatus") != "ENABLED":
        yield Remark(WARN, what, "point-in-time recovery is off")
    yield Remark(OK, what, "is there, and can be described")


def permissions(role: str, role_arn: str, rights: Sequence[Rights], port: Port) -> Iterator[Remark]:
    """May the IAM role do what ``cloudq iam ROLE`` says it needs? IAM's own simulator answers."""
    what = f"aws role {role_arn.rpartition('/')[2]}"
    denied: list[str] = []
    try:
        for statement in policy(role, rights)["Statement"]:
            params: dict[str, Any] = {
                "PolicySourceArn": role_arn,
                "ActionNames": statement["Action"],
                "ResourceArns": statement["Resource"],
            }
            if "Condition" in statement:
                service = statement["Condition"]["StringEquals"]["iam:PassedToService"]
                params["ContextEntries"] = [
                    {
                        "ContextKeyName": "iam:PassedToService",
                        "ContextKeyType": "string",
                        "ContextKeyValues": [service],
                    }
                ]
            denied += [
                f"{each['EvalActionName']} on {each['EvalResourceName']}"
                for each in _simulated(params, port)
                if each["EvalDecision"] != "allowed"
            ]
    except CloudQError as error:
        yield Remark(
            WARN, what, f"its permissions cannot be simulated (iam:SimulatePrincipalPolicy): {error}"
        )
        return
    for refusal in denied:
        yield Remark(FAIL, what, f"may not {refusal}: `cloudq iam {role}` prints the policy it needs")
    if not denied:
        yield Remark(OK, what, f"may do what a {role} does")


def _simulated(params: Mapping[str, Any], port: Port) -> Iterator[Mapping[str, Any]]:
    marker: dict[str, Any] = {}
    while True:
        answer = port.call(Call("iam", "SimulatePrincipalPolicy", {**params, **marker}))
        yield from answer.get("EvaluationResults", [])
        if not answer.get("IsTruncated"):
            return
        marker = {"Marker": answer["Marker"]}
