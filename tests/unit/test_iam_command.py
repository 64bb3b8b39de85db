"""cloudq iam: the policies of an app's roles, from its URLs and queues."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cloudq.cli.main import cli

KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
BROKER = "sqs://?region=eu-west-1&queue_name_prefix=prod-"
APP = f"""
from cloudq import CloudQ

app = CloudQ("shop", broker="{BROKER}", backend="dynamodb://cloudq-results?region=eu-west-1")
app.conf.update(task_default_queue="orders")


@app.task(queue="slow.fifo")
def report() -> None: ...
"""


@pytest.fixture(autouse=True)
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "iamshop.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def run(*arguments: str, code: int = 0) -> Any:
    done = CliRunner().invoke(cli, ["iam", *arguments, "--account", "123456789012"])
    assert done.exit_code == code, done.output + str(done.exception)
    return json.loads(done.stdout) if code == 0 else done.stderr


def resources(document: Any) -> set[str]:
    return {each for statement in document["Statement"] for each in statement["Resource"]}


def test_a_worker_touches_the_apps_queues_their_dead_letters_and_its_table() -> None:
    base = "arn:aws:sqs:eu-west-1:123456789012:prod-"
    assert resources(run("worker", "-A", "iamshop:app")) == {
        f"{base}orders", f"{base}orders-dlq", f"{base}slow.fifo", f"{base}slow-dlq.fifo",
        "arn:aws:dynamodb:eu-west-1:123456789012:table/cloudq-results",
    }  # fmt: skip


def test_it_prints_what_the_queue_module_gives_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDQ_SCHEDULER_ROLE_ARN", "arn:aws:iam::123456789012:role/shop-scheduler")
    expected = Path(__file__).resolve().parents[2] / "terraform/modules/queue/tests/expected"
    for name, more in (("plain", []), ("kms", ["--queues-kms-key", KEY])):
        for role, document in json.loads((expected / f"{name}.json").read_text()).items():
            printed = run(role, "-Q", "orders", "-b", BROKER, "--result-backend", "disabled://", *more)
            if role == "sync":  # which always has its schedule group
                printed["Statement"] = printed["Statement"][:1]
            assert printed == document, (name, role)


def test_a_bucket_for_large_results_and_messages_is_named_once() -> None:
    got = resources(
        run(
            "publisher",
            "-b",
            BROKER,
            "-Q",
            "q",
            "--result-backend",
            "dynamodb://t?region=eu-west-1&large=s3://b/p",
        )
    )
    assert "arn:aws:s3:::b/p/*" in got
    assert "arn:aws:s3:::b" in got


@pytest.mark.parametrize("tier", ["", "&large=s3://b/p"])
def test_results_that_are_written_together_need_a_permission_more(tier: str) -> None:
    def actions(url: str) -> set[str]:
        printed = run("worker", "-b", BROKER, "-Q", "q", "--result-backend", url + tier)
        return {each for statement in printed["Statement"] for each in statement["Action"]}

    plain = actions("dynamodb://t?region=eu-west-1")
    assert actions("dynamodb://t?region=eu-west-1&group_commit=true") - plain == {"dynamodb:PartiQLInsert"}
    assert actions("dynamodb://t?region=eu-west-1&group_commit=false") == plain


def test_long_delays_bring_the_schedule_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDQ_DELAY_TIER", "scheduler")
    monkeypatch.setenv("CLOUDQ_SCHEDULER_GROUP", "shop")
    monkeypatch.setenv("CLOUDQ_SCHEDULER_ROLE_ARN", "arn:aws:iam::123456789012:role/shop-scheduler")
    got = run("publisher", "-b", BROKER, "-Q", "q", "--result-backend", "disabled://")

    assert got["Statement"][-2]["Resource"] == ["arn:aws:scheduler:eu-west-1:123456789012:schedule/shop/*"]
    assert got["Statement"][-1]["Condition"] == {
        "StringEquals": {"iam:PassedToService": "scheduler.amazonaws.com"}
    }


def test_only_a_worker_answers_the_lifecycle_hook_of_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDQ_WORKER_LIFECYCLE_HOOK", "shop:cloudq-drain")
    given = ("-b", BROKER, "-Q", "q", "--result-backend", "disabled://")
    assert run("worker", *given)["Statement"][-1] == {
        "Effect": "Allow",
        "Action": ["autoscaling:CompleteLifecycleAction", "autoscaling:RecordLifecycleActionHeartbeat"],
        "Resource": [
            "arn:aws:autoscaling:eu-west-1:123456789012:autoScalingGroup:*:autoScalingGroupName/shop"
        ],
    }
    for role in ("publisher", "lambda", "dashboard"):
        assert "autoscaling" not in json.dumps(run(role, *given))


def test_syncing_makes_schedules_with_the_role_it_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("sync", "-b", BROKER, "-Q", "q", "--result-backend", "dynamodb://t?region=eu-west-1")
    assert "Set scheduler_role_arn" in run(*given, code=1)

    monkeypatch.setenv("CLOUDQ_SCHEDULER_GROUP", "shop")
    monkeypatch.setenv("CLOUDQ_SCHEDULER_ROLE_ARN", "arn:aws:iam::123456789012:role/shop-scheduler")
    base = "arn:aws:scheduler:eu-west-1:123456789012"
    assert resources(run(*given)) == {
        "arn:aws:sqs:eu-west-1:123456789012:prod-q", "arn:aws:dynamodb:eu-west-1:123456789012:table/t",
        f"{base}:schedule-group/shop", f"{base}:schedule/shop/*", f"{base}:schedule/*/*",
        "arn:aws:iam::123456789012:role/shop-scheduler",
    }  # fmt: skip


def test_only_schedules_of_the_group_may_take_the_schedulers_role() -> None:
    [statement] = run("scheduler", "-b", BROKER, "--trust")["Statement"]
    assert statement["Principal"] == {"Service": "scheduler.amazonaws.com"}
    assert statement["Condition"]["StringEquals"] == {
        "aws:SourceAccount": "123456789012",
        "aws:SourceArn": "arn:aws:scheduler:eu-west-1:123456789012:schedule-group/default",
    }


def test_china_and_govcloud_are_partitions_of_their_own() -> None:
    got = resources(
        run("scheduler", "-b", "sqs://?region=us-gov-west-1", "-Q", "q", "--result-backend", "disabled://")
    )
    assert got == {"arn:aws-us-gov:sqs:us-gov-west-1:123456789012:q"}


def test_a_store_elsewhere_is_said_to_be() -> None:
    done = CliRunner().invoke(
        cli,
        [
            "iam",
            "worker",
            "-b",
            BROKER,
            "-Q",
            "q",
            "--result-backend",
            "file:///tmp/results",
            "--account",
            "123456789012",
        ],
    )
    assert "file:// is not on AWS" in done.stderr
    assert len(json.loads(done.stdout)["Statement"]) == 2


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "IAM policies are for sqs://" in run("worker", "-b", "memory://", "-Q", "q", code=1)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    assert "no region for sqs://" in run("worker", "-b", "sqs://", "-Q", "q", code=1)
    done = CliRunner().invoke(cli, ["iam", "worker", "-b", BROKER, "--account", "12"])
    assert "twelve digits" in done.stderr
    assert CliRunner().invoke(cli, ["iam", "admin"]).exit_code == 2


#: An app of its own for each call, by the environment.
ORDERS = ("-Q", "orders", "-b", BROKER, "--result-backend", "disabled://")


def test_the_apps_own_kms_keys_are_for_whoever_reads_or_writes_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = {"k1": f"kms:{KEY}", "old": {"alg": "kms", "arn": KEY + "0", "use": "read"}, "own": "A" * 43 + "="}
    monkeypatch.setenv("CLOUDQ_SECURITY_ENCRYPTION_KEYS", json.dumps(keys))

    def grants(role: str) -> dict[str, list[str]]:
        found = run(role, *ORDERS)["Statement"]
        kms = [each for each in found if each["Action"][0].startswith("kms:")]
        assert all(
            each["Condition"]["StringEquals"] == {"kms:EncryptionContext:purpose": "cloudq"} for each in kms
        )
        return {each["Resource"][0]: each["Action"] for each in kms}

    assert grants("worker") == {KEY: ["kms:Decrypt", "kms:GenerateDataKey"], KEY + "0": ["kms:Decrypt"]}
    assert grants("dashboard") == {KEY: ["kms:Decrypt"], KEY + "0": ["kms:Decrypt"]}
    assert grants("redrive") == grants("scheduler") == {}


def test_a_kms_key_without_an_arn_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDQ_SECURITY_ENCRYPTION_KEYS", '{"k1": "kms:alias/shop"}')
    done = CliRunner().invoke(cli, ["iam", "worker", *ORDERS, "--account", "123456789012"])
    assert done.exit_code == 0
    assert "alias/shop" in done.stderr
    assert "alias/shop" not in done.stdout


def test_schedules_may_send_what_they_could_not_to_their_dead_letter_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dead = "arn:aws:sqs:eu-west-1:123456789012:lost"
    monkeypatch.setenv("CLOUDQ_SCHEDULER_ROLE_ARN", "arn:aws:iam::123456789012:role/shop-scheduler")
    monkeypatch.setenv("CLOUDQ_SCHEDULER_DEAD_LETTER_ARN", dead)
    assert dead in resources(run("scheduler", *ORDERS))
    assert dead not in resources(run("sync", *ORDERS))
