"""cloudq doctor --aws: what is deployed beside what the app needs."""

import json
from typing import Any

import boto3
import pytest

from cloudq import CloudQ
from cloudq.aws.port import Answer, AwsError, Call
from cloudq.cli.doctor import FAIL, OK, WARN, deployed
from cloudq.deploy import audit, iam
from cloudq.errors import ImproperlyConfigured

DENY_HTTP = json.dumps(
    {"Statement": [{"Effect": "Deny", "Condition": {"Bool": {"aws:SecureTransport": "false"}}}]}
)


def app_on(url: str, name: str, more: str = "") -> CloudQ:
    place = f"region=us-east-1&endpoint_url={url}"
    return CloudQ("x", broker=f"sqs://?{place}{more}", backend=f"dynamodb://{name}?{place}")


def make_queue(url: str, name: str, **attributes: str) -> None:
    boto3.client("sqs", endpoint_url=url).create_queue(QueueName=name, Attributes=attributes)


def make_table(url: str, name: str, *keys: str, ttl: str | None = "ttl") -> None:
    client = boto3.client("dynamodb", endpoint_url=url)
    client.create_table(
        TableName=name,
        KeySchema=[
            {"AttributeName": key, "KeyType": kind}
            for key, kind in zip(keys, ("HASH", "RANGE"), strict=False)
        ],
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
        BillingMode="PAY_PER_REQUEST",
    )
    if ttl:
        client.update_time_to_live(
            TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": ttl}
        )


def said(app: CloudQ, queue: str, level: str) -> str:
    return "\n".join(
        f"{each.what}: {each.detail}" for each in deployed(app, [queue], []) if each.level == level
    )


def test_a_sound_deployment_has_nothing_that_fails(moto_url: str, unique: str) -> None:
    make_queue(moto_url, unique, SqsManagedSseEnabled="true", MaximumMessageSize="262144")
    make_table(moto_url, unique, "pk", "sk")
    app = app_on(moto_url, unique, "&max_body=262144")

    assert said(app, unique, FAIL) == ""
    assert "messages up to 262144 bytes" in said(app, unique, OK)


def test_a_table_without_ttl_or_with_another_key_fails(moto_url: str, unique: str) -> None:
    make_queue(moto_url, unique)
    make_table(moto_url, unique, "id", ttl=None)

    failed = said(app_on(moto_url, unique), unique, FAIL)
    assert "cloudq needs pk (HASH) and sk (RANGE)" in failed
    assert "TTL is off" in failed
    assert "point-in-time recovery is off" in said(app_on(moto_url, unique), unique, WARN)


def test_messages_larger_than_the_queue_takes_fail(moto_url: str, unique: str) -> None:
    make_queue(moto_url, unique, MaximumMessageSize="262144")
    make_table(moto_url, unique, "pk", "sk")
    assert "put max_body=262144" in said(app_on(moto_url, unique), unique, FAIL)


def test_what_is_not_there_is_said_and_the_rest_looked_at(moto_url: str, unique: str) -> None:
    failed = said(app_on(moto_url, unique), unique, FAIL)
    assert f"aws queue {unique}: cannot be looked at" in failed
    assert f"aws table {unique}: cannot be looked at" in failed


class Canned:
    """A port with one answer an operation; an AwsError is raised."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[Call] = []

    def call(self, call: Call) -> Answer:
        self.calls.append(call)
        answer = self.answers[call.operation]
        if isinstance(answer, AwsError):
            raise answer
        return answer  # type: ignore[no-any-return]


def queue_with_a_function(**mapping: Any) -> Canned:
    return Canned(
        GetQueueUrl={"QueueUrl": "u"},
        GetQueueAttributes={
            "Attributes": {
                "VisibilityTimeout": "60",
                "QueueArn": "arn:aws:sqs:us-east-1:1:q",
                "Policy": DENY_HTTP,
                "RedrivePolicy": json.dumps({"maxReceiveCount": 2}),
            }
        },
        ListEventSourceMappings={
            "EventSourceMappings": [{"FunctionArn": "arn:aws:lambda:r:1:function:f", **mapping}]
        },
        GetFunctionConfiguration={"Timeout": 30},
    )


def test_a_function_that_does_not_fit_its_queue_and_tasks_is_told_why() -> None:
    app = CloudQ("x", broker="sqs://?region=us-east-1", backend="disabled://")
    app.task(name="long", queue="q", time_limit=600)(lambda: None)

    found = list(audit.audit(app, ["q"], queue_with_a_function(MaximumBatchingWindowInSeconds=5)))
    failed = [each.detail for each in found if each.level == FAIL]
    warned = [each.detail for each in found if each.level == WARN]
    assert any("ReportBatchItemFailures" in each for each in failed)
    assert any("set 185 or more" in each for each in warned)
    assert any("2 receipts" in each for each in warned)
    assert any("long may run for 600 s" in each for each in warned)
    assert any("not encrypted" in each for each in warned)
    assert not any("HTTP" in each for each in warned)


def test_what_a_role_may_not_do_is_named() -> None:
    results = [
        {"EvalActionName": "sqs:SendMessage", "EvalResourceName": "arn:q", "EvalDecision": "allowed"},
        {"EvalActionName": "sqs:GetQueueUrl", "EvalResourceName": "arn:q", "EvalDecision": "implicitDeny"},
    ]
    port = Canned(SimulatePrincipalPolicy={"EvaluationResults": results})
    [remark] = audit.permissions("publisher", "arn:aws:iam::1:role/web", [iam.QueueRights("arn:q")], port)

    assert (remark.level, remark.what) == (FAIL, "aws role web")
    assert "sqs:GetQueueUrl on arn:q" in remark.detail
    assert port.calls[0].params["ActionNames"] == ["sqs:GetQueueUrl", "sqs:SendMessage"]


def test_a_role_that_may_do_all_is_well_and_one_that_cannot_be_simulated_is_said() -> None:
    well = Canned(SimulatePrincipalPolicy={"EvaluationResults": []})
    assert [each.level for each in audit.permissions("worker", "arn:r/x", [iam.QueueRights("a")], well)] == [
        OK
    ]


def test_what_cannot_be_looked_at_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="--aws looks at SQS"):
        list(deployed(CloudQ("x", broker="memory://", backend="memory://"), ["q"], []))
    app = CloudQ("x", broker="sqs://?region=us-east-1", backend="disabled://")
    with pytest.raises(ImproperlyConfigured, match="KIND=ARN"):
        list(deployed(app, [], ["admin=arn:aws:iam::123456789012:role/x"]))
