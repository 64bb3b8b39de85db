"""The policies that cloudq generates are, word for word, those that the Terraform modules give out.

The modules' own tests compare their outputs with the same files (``terraform/modules/*/tests/expected``).
Update: ``CLOUDQ_TEST_UPDATE_DOCS=1``.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from cloudq.deploy import iam

MODULES = Path(__file__).resolve().parents[2] / "terraform" / "modules"
QUEUE = "arn:aws:sqs:eu-west-1:123456789012:prod-orders"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
TABLE = "arn:aws:dynamodb:eu-west-1:123456789012:table/cloudq-results"
BUCKET = "arn:aws:s3:::shop-results"

CASES: dict[str, Sequence[iam.Rights]] = {
    "queue/plain": [iam.QueueRights(QUEUE, QUEUE + "-dlq")],
    "queue/kms": [iam.QueueRights(QUEUE, QUEUE + "-dlq", KEY)],
    "results/table": [iam.TableRights(TABLE)],
    "results/bucket": [iam.TableRights(TABLE), iam.BucketRights(BUCKET, "cloudq")],
    "schedule/group": [
        iam.ScheduleRights(
            "arn:aws:scheduler:eu-west-1:123456789012:schedule-group/shop",
            "arn:aws:iam::123456789012:role/shop-scheduler",
        )
    ],
    "results/together": [iam.TableRights(TABLE, together=True)],
    "results/kms": [iam.TableRights(TABLE, KEY), iam.BucketRights(BUCKET, "cloudq", KEY)],
}


@pytest.mark.parametrize("case", CASES)
def test_a_modules_policies_are_those_that_are_generated(case: str) -> None:
    module, name = case.split("/")
    roles = [role for role in iam.ROLES if iam.policy(role, CASES[case])["Statement"]]
    generated = {role: iam.policy(role, CASES[case]) for role in roles}

    file = MODULES / module / "tests" / "expected" / f"{name}.json"
    if os.environ.get("CLOUDQ_TEST_UPDATE_DOCS"):
        file.write_text(json.dumps(generated, indent=2) + "\n")
    assert json.loads(file.read_text()) == generated


def test_every_expected_file_has_its_case() -> None:
    found = {f"{each.parents[2].name}/{each.stem}" for each in MODULES.glob("*/tests/expected/*.json")}
    assert found == set(CASES)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("role", iam.ROLES)
def test_no_policy_has_a_wildcard_but_for_the_objects_of_a_folder(case: str, role: str) -> None:
    for statement in iam.policy(role, CASES[case])["Statement"]:
        assert not [action for action in statement["Action"] if "*" in action]
        if statement["Action"] == [
            "scheduler:ListSchedules"
        ]:  # AWS checks schedule/*/* whatever is asked for
            assert role == "sync"
            assert [each.count("*") for each in statement["Resource"]] == [2]
            assert all(each.endswith(":123456789012:schedule/*/*") for each in statement["Resource"])
            continue
        for resource in statement["Resource"]:
            folder = resource.startswith(("arn:aws:s3:::", "arn:aws:scheduler:")) and resource.endswith("/*")
            assert folder or "*" not in resource
            assert "*" not in resource.removesuffix("/*")


def test_two_queues_under_one_key_name_the_key_once() -> None:
    rights = [iam.QueueRights(QUEUE, None, KEY), iam.QueueRights(QUEUE + "2", None, KEY)]
    resources = [each["Resource"] for each in iam.policy("publisher", rights)["Statement"]]
    assert resources == [[QUEUE], [KEY], [QUEUE + "2"]]


def test_only_who_writes_from_several_threads_may_write_together() -> None:
    for role in iam.ROLES:
        plain, together = (iam.policy(role, CASES[f"results/{name}"]) for name in ("table", "together"))
        more = set(str(together).split("'")) - set(str(plain).split("'"))
        writes = role in ("publisher", "worker", "lambda", "operator")
        assert more == ({"dynamodb:PartiQLInsert"} if writes else set())


def test_who_only_looks_may_not_write() -> None:
    for role in iam.ROLES:
        actions = {
            action
            for each in iam.policy(role, CASES["results/bucket"])["Statement"]
            for action in each["Action"]
        }
        writes = {each for each in actions if each.split(":")[1].startswith(("Put", "Delete"))}
        assert bool(writes) == (role in ("publisher", "worker", "lambda", "operator", "api"))


def test_the_api_sends_and_reads_results_and_revokes_nothing() -> None:
    queue, table, group = (
        iam.policy("api", CASES[case])["Statement"]
        for case in ("queue/plain", "results/table", "schedule/group")
    )
    assert queue == [iam.allow(("sqs:GetQueueUrl", "sqs:SendMessage"), QUEUE)]
    assert "dynamodb:Query" not in table[0]["Action"]
    assert group[0]["Action"] == ["scheduler:CreateSchedule", "scheduler:GetSchedule"]


def test_redriving_takes_from_the_dead_letters_and_only_sends_to_the_queue() -> None:
    back, dead = iam.policy("redrive", CASES["queue/plain"])["Statement"]
    assert back["Resource"] == [QUEUE]
    assert dead["Resource"] == [QUEUE + "-dlq"]
    assert not {"sqs:ReceiveMessage", "sqs:DeleteMessage"} & set(back["Action"])
    assert "sqs:SendMessage" not in dead["Action"]
    assert iam.policy("redrive", CASES["results/bucket"])["Statement"] == []


def test_functions_are_lambdas_and_syncing_is_for_who_may_in_the_account() -> None:
    for role in ("lambda", "redrive", "api"):
        [statement] = iam.trust(role, "123456789012", "eu-west-1")["Statement"]
        assert statement["Principal"] == {"Service": "lambda.amazonaws.com"}
    [statement] = iam.trust("sync", "123456789012", "cn-north-1")["Statement"]
    assert statement["Principal"] == {"AWS": "arn:aws-cn:iam::123456789012:root"}
