"""No AWS SDK is loaded on a task's way through a function, with results in DynamoDB or without any."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import servers

from cloudq import CloudQ

CODE = """
import json, sys
from cloudq import CloudQ
from cloudq.aws_lambda import make_handler

app = CloudQ("cold")

@app.task(name="add")
def add(x, y):
    return x + y

@app.task(name="again", bind=True, default_retry_delay=0)
def again(self):
    raise self.retry(exc=OSError())

handler = make_handler(app)
after_init = sorted(sys.modules)

def record(n, body):
    arn = "arn:aws:sqs:us-east-1:000000000000:NAME"
    return {"messageId": n, "receiptHandle": "r", "body": body, "eventSourceARN": arn, "attributes": {}}

answer = handler({"Records": [record(f"m{n}", body) for n, body in enumerate(BODIES)]}, None)
heavy = ["boto3", "botocore", "aiohttp", "typer", "rich", "asyncio", "sqlite3", "pydantic"]
print(json.dumps([answer, [n for n in heavy if n in after_init], [n for n in heavy if n in sys.modules]]))
"""


def run(folder: Path, name: str, bodies: list[str], **environment: str) -> list[object]:
    clean = {k: v for k, v in servers.environment().items() if not k.startswith("CLOUDQ_")}
    done = subprocess.run(
        [sys.executable, "-c", CODE.replace("NAME", name).replace("BODIES", repr(bodies))],
        cwd=folder,
        env={**clean, "PYTHONPATH": os.getcwd(), "AWS_LAMBDA_FUNCTION_NAME": "f", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_without_a_results_store(tmp_path: Path) -> None:
    bodies = ['{"task": "add", "args": [1, 2]}']
    nowhere = "sqs://?region=us-east-1&endpoint_url=http://127.0.0.1:1"
    found = run(tmp_path, "q", bodies, CLOUDQ_BROKER_URL=nowhere, CLOUDQ_RESULT_BACKEND="disabled://")
    assert found == [{"batchItemFailures": []}, [], []]


def test_with_results_in_dynamodb_and_a_retry(tmp_path: Path, ministack_url: str, unique: str) -> None:
    urls = {
        "CLOUDQ_BROKER_URL": f"sqs://?region=us-east-1&endpoint_url={ministack_url}",
        "CLOUDQ_RESULT_BACKEND": f"dynamodb://{unique}?region=us-east-1&endpoint_url={ministack_url}",
    }
    from cloudq.brokers.base import QueueSpec

    with CloudQ("c", broker=urls["CLOUDQ_BROKER_URL"], backend=urls["CLOUDQ_RESULT_BACKEND"]) as app:
        app.broker.create_queue(QueueSpec(unique))  # type: ignore[attr-defined]
        app.backend.create_table()  # type: ignore[union-attr]
        bodies = ['{"task": "add", "id": "a", "args": [1, 2]}', '{"task": "again", "id": "b"}']
        assert run(tmp_path, unique, bodies, **urls) == [{"batchItemFailures": []}, [], []]
        assert app.AsyncResult("a").get(timeout=1) == 3
        assert app.AsyncResult("b").state == "RETRY"
        assert app.broker.depth(unique).total == 1


@pytest.mark.parametrize("module", ["cloudq.aws_lambda.api", "cloudq.aws_lambda.redrive"])
def test_the_other_handlers_load_no_sdk_either(tmp_path: Path, module: str) -> None:
    code = f"import sys, {module}; print([n for n in ('boto3', 'typer', 'asyncio', 'sqlite3') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
