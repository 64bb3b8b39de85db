"""The complete example, applied for real to a local AWS: its Lambda function runs tasks that a client published, a
worker started by the rendered user data's own command line consumes the other queue, and destroy leaves nothing.

The emulator (ministack) differs from AWS in ways that this file knows of: it cannot collect an Auto
Scaling group's metrics, does not read back alarms and mixed instances as they were set, and forgets
the tags of an object that was uploaded in parts.
"""

import contextlib
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import servers
import terraform_cli
from terraform_cli import EXAMPLES, Terraform

from cloudq.deploy import iam

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
PROVIDER = """
provider "aws" {
  s3_use_path_style           = true
  skip_credentials_validation = true
  skip_metadata_api_check     = true
}
"""
NO_GROUP_METRICS = """
resource "aws_autoscaling_group" "this" {
  enabled_metrics = null
}
"""
#: What the emulator reads back wrong, so that a second plan would set it again.
READ_BACK_WRONG = re.compile(r"aws_cloudwatch_(metric|composite)_alarm\.|aws_autoscaling_group\.")


@dataclass(frozen=True)
class Deployed:
    """The complete example as it runs."""

    terraform: Terraform
    url: str
    outputs: dict[str, Any]
    folder: Path

    def env(self, **more: str) -> dict[str, str]:
        """What a client needs: the outputs' environment, and where this AWS is."""
        return servers.environment(
            AWS_ENDPOINT_URL=self.url, PYTHONPATH=str(EXAMPLES / "app"), **self.outputs["environment"], **more
        )

    def call(self, code: str) -> Any:
        """Run code of a client of the app; the JSON that it prints."""
        done = subprocess.run(
            [sys.executable, "-c", "import json, shop\n" + code],
            env=self.env(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def client(self, service: str) -> Any:
        return boto3.client(
            service, endpoint_url=self.url, config=boto3.session.Config(s3={"addressing_style": "path"})
        )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples' app as ``cloudq package`` builds it, boto3 included."""
    terraform_cli.command(), terraform_cli.mirror()  # skip before the work
    built = tmp_path_factory.mktemp("package") / "shop.zip"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "cloudq",
            "package",
            "-A",
            "shop:app",
            "--worker",
            "--python",
            PYTHON,
            "-o",
            str(built),
        ],
        cwd=EXAMPLES / "app",
        env=servers.environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return built


@pytest.fixture(scope="module")
def deployed(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with contextlib.ExitStack() as servers_up:
        for attempt in (1, 2):
            folder = tmp_path_factory.mktemp("complete")
            url = servers_up.enter_context(servers.ministack(folder))
            terraform = terraform_cli.prepare(
                folder,
                "examples/complete",
                AWS_ENDPOINT_URL=url,
                TF_VAR_region="us-east-1",
                TF_VAR_python=PYTHON,
                # Cold starts of many functions at once on a busy machine take long.
                TF_VAR_function='{"timeout": 120, "maximum_concurrency": 2}',
                TF_VAR_package_file=str(package),
            )
            (terraform.folder / "emulator_override.tf").write_text(PROVIDER)
            (terraform.folder / "../../modules/ec2-worker/emulator_override.tf").write_text(NO_GROUP_METRICS)
            arguments = ("apply", "-auto-approve", "-no-color", "-parallelism=40")
            done = terraform.run(*arguments, check=attempt == 2, timeout=400)
            # Once in several runs the emulator drops an answer, and the provider's next try finds the thing made.
            if done.returncode == 0:
                break
            assert "ConflictException" in done.stderr, done.stderr
        yield Deployed(terraform, url, terraform.outputs(), folder)


def the_function_runs_tasks_that_a_client_published(deployed: Deployed) -> None:
    got = deployed.call(
        "sent = [shop.total.delay([n, n]) for n in range(20)]\n"
        "print(json.dumps([each.get(timeout=150) for each in sent]))"
    )
    assert got == [{"total": 2 * n, "by": "lambda"} for n in range(20)]


def a_worker_started_by_the_user_datas_command_line_consumes_the_other_queue(deployed: Deployed) -> None:
    script = deployed.outputs["worker_user_data"]
    assert subprocess.run(["bash", "-n"], input=script, text=True, timeout=20).returncode == 0
    app = fetched(deployed, script)
    unit = heredoc(script, "CLOUDQ_UNIT")
    command = shlex.split(one(r"^ExecStart=(.*)$", unit))
    assert command[0] == f"/usr/bin/python{PYTHON}"
    assert " ".join(command) == deployed.outputs["worker_command"]

    # The machine's Python without what this environment has installed: the package brings all it needs.
    command[0] = sys._base_executable  # type: ignore[attr-defined]
    env = {**os.environ, **servers.environment(), "AWS_ENDPOINT_URL": deployed.url, "PYTHONNOUSERSITE": "1"}
    env |= environment_file(heredoc(script, "CLOUDQ_ENVIRONMENT").replace("/opt/cloudq/app", str(app)))
    with (deployed.folder / "worker.log").open("w") as log:
        worker = subprocess.Popen(command, cwd=app, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        got = deployed.call(
            "sent = [shop.report.delay(str(n)) for n in range(10)]\n"
            "print(json.dumps([each.get(timeout=150) for each in sent]))"
        )
        assert got == [{"day": str(n), "by": "worker"} for n in range(10)]
        worker.send_signal(getattr(signal, one(r"^KillSignal=(.*)$", unit)))
        assert worker.wait(60) == 0
    finally:
        worker.kill()
        print((deployed.folder / "worker.log").read_text())


def the_roles_may_do_what_cloudq_iam_says(deployed: Deployed) -> None:
    arn = "arn:aws:sqs:us-east-1:000000000000:shop-"
    bucket = iam.BucketRights("arn:aws:s3:::shop-results-000000000000", "cloudq")
    table = iam.TableRights("arn:aws:dynamodb:us-east-1:000000000000:table/shop-results")
    group = iam.ScheduleRights(
        "arn:aws:scheduler:us-east-1:000000000000:schedule-group/shop",
        "arn:aws:iam::000000000000:role/shop-scheduler",
    )
    rights: dict[str, list[iam.Rights]] = {
        "orders": [iam.QueueRights(f"{arn}orders", f"{arn}orders-dlq")],
        "reports": [iam.QueueRights(f"{arn}reports", f"{arn}reports-dlq")],
        "results": [table, bucket],
        "schedule": [group],
    }
    given = deployed.outputs["policies"]
    for name, each in rights.items():
        for role, text in given[name].items():
            assert json.loads(text) == iam.policy(role, each), (name, role)
    worker = json.loads(given["workers"]["worker"])["Statement"]
    for statement in iam.policy("worker", [*rights["reports"], table, bucket, group])["Statement"]:
        assert statement in worker


def a_second_plan_changes_nothing_but_what_the_emulator_reads_back_wrong(deployed: Deployed) -> None:
    deployed.terraform.run("plan", "-no-color", "-out=second.plan")
    plan = json.loads(deployed.terraform.run("show", "-json", "second.plan").stdout)

    changed = {
        each["address"]: differing(each["change"])
        for each in plan["resource_changes"]
        if each["change"]["actions"] not in (["no-op"], ["read"])
        and not READ_BACK_WRONG.search(each["address"])
    }
    assert changed in ({}, {"aws_s3_object.package": {"tags_all"}})
    replaced = [each["address"] for each in plan["resource_changes"] if "delete" in each["change"]["actions"]]
    assert [each for each in replaced if not READ_BACK_WRONG.search(each)] == []


def differing(change: dict[str, Any]) -> set[str]:
    """The attributes that a plan would change; all of them when it makes or destroys."""
    before, after = change["before"] or {}, change["after"] or {}
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


def destroy_leaves_nothing(deployed: Deployed) -> None:
    deployed.terraform.run("destroy", "-auto-approve", "-no-color", "-parallelism=40", timeout=400)

    assert deployed.client("sqs").list_queues(QueueNamePrefix="shop-").get("QueueUrls", []) == []
    assert "shop-results" not in deployed.client("dynamodb").list_tables()["TableNames"]
    assert deployed.client("lambda").list_functions()["Functions"] == []
    assert deployed.client("s3").list_buckets()["Buckets"] == []
    assert not deployed.terraform.run("state", "list").stdout


def heredoc(script: str, word: str) -> str:
    """What the script writes between ``<<'WORD'`` and ``WORD``."""
    return one(rf"<<'{word}'\n(.*?)^{word}$", script, re.DOTALL)


def one(pattern: str, text: str, flags: int = 0) -> str:
    found = re.findall(pattern, text, re.MULTILINE | flags)
    assert len(found) == 1, (pattern, found)
    return str(found[0])


def environment_file(text: str) -> dict[str, str]:
    """As systemd reads an EnvironmentFile of single-quoted values."""
    return dict(re.findall(r"^(\w+)='(.*)'$", text, re.MULTILINE))


def fetched(deployed: Deployed, script: str) -> Path:
    """The app, got from where the script gets it, checked as the script does, unpacked."""
    bucket, key = one(r"--bucket '(.*?)'", script), one(r"--key '(.*?)'", script)
    zipped = deployed.folder / "app.zip"
    deployed.client("s3").download_file(bucket, key, str(zipped))
    assert hashlib.sha256(zipped.read_bytes()).hexdigest() == one(r"^echo '([0-9a-f]+)  /opt", script)
    app = deployed.folder / "app"
    zipfile.ZipFile(zipped).extractall(app)
    return app


def test_the_complete_example_is_applied_used_and_destroyed(deployed: Deployed) -> None:
    # One test: an apply takes minutes, and test processes would each make their own.
    the_function_runs_tasks_that_a_client_published(deployed)
    a_worker_started_by_the_user_datas_command_line_consumes_the_other_queue(deployed)
    the_roles_may_do_what_cloudq_iam_says(deployed)
    a_second_plan_changes_nothing_but_what_the_emulator_reads_back_wrong(deployed)
    destroy_leaves_nothing(deployed)
