"""What a cold start of a function costs: CPU time of init, first and warm task, memory; median of several processes.

Each configuration runs one task of a zip made by ``cloudq package`` (or does the same work with boto3 by hand),
against a local DynamoDB. Prints Markdown. Everything but ``no bytecode`` has its bytecode, as boto3 has in Lambda.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from cloudq import CloudQ
from cloudq.cli.localserver import environment_for, furnish, serving
from cloudq.deploy.package import Order, build
from cloudq.deploy.wheels import Target

RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 9
APP = """
from cloudq import CloudQ
app = CloudQ("cold")
@app.task(name="noop")
def noop(): return 1
"""
BARE = "def handler(event, context): return {'batchItemFailures': []}"
BOTO_IMPORT = "import boto3\n" + BARE
BOTO_PUT = """
import boto3, json, os
table = os.environ["CLOUDQ_RESULT_BACKEND"].split("//")[1].split("?")[0]
sqs, dynamodb = boto3.client("sqs"), boto3.client("dynamodb")
def handler(event, context):
    for record in event["Records"]:
        body = json.loads(record["body"])
        dynamodb.put_item(TableName=table, Item={"pk": {"S": "task/"}, "sk": {"S": body["id"]}, "value": {"B": b"1"}})
    return {"batchItemFailures": []}
"""
CLOUDQ = "from cloudq.aws_lambda import make_handler\nhandler = make_handler('coldapp:app', emf=False)"
CHILD = """
import json, sys, time
start = time.process_time()
import function
init = time.process_time() - start
def event(n):
    arn = "arn:aws:sqs:us-east-1:123456789012:cloudq"
    body = json.dumps({"task": "noop", "id": f"{sys.argv[1]}-{n}"})
    system = {"ApproximateReceiveCount": "1"}
    record = {"messageId": str(n), "receiptHandle": "r", "body": body, "attributes": system, "eventSourceARN": arn}
    return {"Records": [record]}
def call(n):
    start = time.process_time()
    assert function.handler(event(n), None) == {"batchItemFailures": []}
    return time.process_time() - start
first = call(0)
warm = sum(call(n) for n in range(1, 51)) / 50  # the clock of CPU time is coarse
sdk = "botocore" in sys.modules
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
print(json.dumps([1000 * init, 1000 * first, 1000 * warm, peak, len(sys.modules), sdk]))
"""
#: Name: the function's code, settings, with cloudq's bytecode.
CASES: dict[str, tuple[str, dict[str, str], bool]] = {
    "bare handler": (BARE, {}, True),
    "bare handler, `import boto3`": (BOTO_IMPORT, {}, True),
    "boto3 clients for SQS and DynamoDB, PutItem": (BOTO_PUT, {}, True),
    "cloudq, no results": (CLOUDQ, {"CLOUDQ_RESULT_BACKEND": "disabled://"}, True),
    "cloudq, DynamoDB results (lean driver)": (CLOUDQ, {}, True),
    "the same, no bytecode": (CLOUDQ, {}, False),
    "cloudq, DynamoDB results, `aws_driver=boto3`": (CLOUDQ, {"CLOUDQ_AWS_DRIVER": "boto3"}, True),
}


def unpack(folder: Path, compiled: bool) -> Path:
    """The files of a packaged function."""
    target = Target(f"{sys.version_info[0]}.{sys.version_info[1]}", "x86_64")
    (folder / "coldapp.py").write_text(APP)
    built = build(Order(target, folder / "f.zip", folder, app="coldapp:app", compiled=compiled))
    place = folder / ("compiled" if compiled else "plain")
    zipfile.ZipFile(built.path).extractall(place)
    return place


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary, serving("moto") as url:
        folder = Path(temporary)
        places = {compiled: unpack(folder, compiled) for compiled in (True, False)}
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CLOUDQ_", "AWS_", "PYTHON"))
        }
        environ = {
            **clean,
            **environment_for(url),
            "AWS_ENDPOINT_URL": url,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        os.environ.update(environment_for(url))
        furnish(CloudQ("cold"), ["cloudq"])
        found: dict[str, list[list[float]]] = {name: [] for name in CASES}
        site = next(each for each in sys.path if each.endswith("site-packages"))
        for turn in range(RUNS + 1):
            for number, (name, (code, settings, compiled)) in enumerate(CASES.items()):
                home = folder / f"case{number}"
                home.mkdir(exist_ok=True)
                (home / "function.py").write_text(code)
                path = os.pathsep.join((str(home), str(places[compiled]), site))
                # the first turn writes bytecode; "no bytecode" reads and writes none
                bytecode = {"PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
                more = {"PYTHONPATH": path, **(bytecode if compiled else {"PYTHONDONTWRITEBYTECODE": "1"})}
                command = [sys.executable, "-S", "-c", CHILD, f"{number}-{turn}"]
                done = subprocess.run(
                    command,
                    env={**environ, **settings, **more},
                    cwd=home,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode:
                    raise SystemExit(f"{name}: {done.stderr}")
                if turn:  # the first turn fills caches
                    found[name].append(json.loads(done.stdout.splitlines()[-1]))
    print(
        "| | init, CPU ms | first task, CPU ms | warm task, CPU ms | peak memory, MiB | modules | SDK loaded |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, runs in found.items():
        init, first, warm, peak, modules, sdk = (statistics.median(each) for each in zip(*runs, strict=True))
        print(
            f"| {name} | {init:.0f} | {first:.1f} | {warm:.2f} | {peak:.0f} | {modules:.0f} | {'yes' if sdk else 'no'} |"
        )


if __name__ == "__main__":
    main()
