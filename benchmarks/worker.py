"""What a worker costs: calls and CPU per task, throughput over a slow line, latency, idle calls.

A worker process with no-op tasks on the threads pool, beside a bare boto3 loop and a bare HTTP loop
(the lean driver's own connection, nothing else) that receive and delete the same messages, all
against ``sqs_server.py`` in one run. CPU is the consuming process's own.

    .venv/bin/python benchmarks/worker.py [tasks] [--idle]
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import servers  # noqa: E402

ENV = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_DEFAULT_REGION": "us-east-1",
    "CLOUDQ_RESULT_BACKEND": "disabled://",
}
APP = """
import os, resource, sys, time
from cloudq import CloudQ
app = CloudQ("bench", task_ignore_result=True, task_default_queue="bench")

@app.task
def noop():
    pass

@app.task
def stamp(sent):
    with open(os.environ["STAMPS"], "a") as file:
        print(time.time() - sent, file=file)
"""
BARE = """
import sys, time
url, driver = sys.argv[1:3]
if driver == "boto3":
    from cloudq.aws.boto import BotoPort as Port
else:
    from cloudq.aws.lean import LeanPort as Port
from cloudq.aws.port import Call
port = Port(endpoint_url=url)
queue = port.call(Call("sqs", "GetQueueUrl", {"QueueName": "bench"}))["QueueUrl"]
left = int(sys.argv[3])
print("ready", flush=True)
began = time.monotonic()
while left:
    found = port.call(Call("sqs", "ReceiveMessage", {
        "QueueUrl": queue, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 1,
        "MessageSystemAttributeNames": ["ApproximateReceiveCount", "SentTimestamp"]})).get("Messages", [])
    left -= len(found)
    if found:
        port.call(Call("sqs", "DeleteMessageBatch", {"QueueUrl": queue, "Entries": [
            {"Id": str(n), "ReceiptHandle": each["ReceiptHandle"]} for n, each in enumerate(found)]}))
print(time.monotonic() - began, flush=True)
"""


class Server:
    """The benchmark server's other side."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(self.url + path, data, timeout=10) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found

    def depth(self) -> int:
        body = json.dumps({"QueueUrl": "/bench"}).encode()
        request = urllib.request.Request(self.url, body, {"X-Amz-Target": "AmazonSQS.GetQueueAttributes"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            found = json.loads(answer.read())["Attributes"]
        return int(found["ApproximateNumberOfMessages"]) + int(found["ApproximateNumberOfMessagesNotVisible"])


@contextlib.contextmanager
def server() -> Iterator[Server]:
    port = servers.free_port()
    process = subprocess.Popen([sys.executable, str(ROOT / "benchmarks" / "sqs_server.py"), str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(100):
            with contextlib.suppress(OSError):
                Server(url).ask("/_stats")
                break
            time.sleep(0.05)
        yield Server(url)
    finally:
        process.terminate()
        process.wait()


def cpu_of(pid: int) -> float:
    """Seconds of CPU a living process and its threads have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int) -> float:
    """Resident megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


@contextlib.contextmanager
def worker(folder: Path, url: str, *options: str, more: str = "") -> Iterator[subprocess.Popen[bytes]]:
    env = {**os.environ, **ENV, "CLOUDQ_BROKER_URL": f"sqs://?endpoint_url={url}&region=us-east-1{more}"}
    env |= {"PYTHONPATH": str(folder), "STAMPS": str(folder / "stamps")}
    command = [
        sys.executable,
        "-m",
        "cloudq",
        "worker",
        "-A",
        "benchapp:app",
        "-Q",
        "bench",
        "-l",
        "warning",
        *options,
    ]
    process = subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def publish(folder: Path, url: str, count: int) -> None:
    """Fill the queue through cloudq's own bulk path."""
    code = f"from benchapp import app, noop\napp.send_many(noop.s() for _ in range({count}))\n"
    env = {**os.environ, **ENV, "CLOUDQ_BROKER_URL": f"sqs://?endpoint_url={url}&region=us-east-1"}
    subprocess.run(
        [sys.executable, "-c", code], env={**env, "PYTHONPATH": str(folder)}, cwd=folder, check=True
    )


def drained(here: Server, until: float = 300.0) -> None:
    deadline = time.monotonic() + until
    while here.depth() > 0:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{here.depth()} messages are left")
        time.sleep(0.02)


def consume(folder: Path, here: Server, tasks: int, *options: str, more: str = "") -> dict[str, float]:
    """CPU, calls and time per task of a worker that is running already."""
    with worker(folder, here.url, *options, more=more) as process:
        publish(folder, here.url, 200)
        drained(here)
        before = cpu_of(process.pid)
        os.kill(process.pid, signal.SIGSTOP)  # the backlog is there before it goes on
        publish(folder, here.url, tasks)
        here.ask("/_reset", {})
        began = time.monotonic()
        os.kill(process.pid, signal.SIGCONT)
        drained(here)
        spent, took = cpu_of(process.pid) - before, time.monotonic() - began
        counts = here.ask("/_stats")
        calls = sum(n for name, n in counts.items() if name[0].isupper() and name != "GetQueueAttributes")
        return {
            "cpu_us": spent / tasks * 1e6,
            "calls": calls / tasks,
            "rate": tasks / took,
            "memory": memory_of(process.pid),
        }


def bare(folder: Path, here: Server, tasks: int, driver: str) -> dict[str, float]:
    """The same with a loop that does nothing but receive and delete."""
    publish(folder, here.url, tasks)
    env = {**os.environ, **ENV}
    command = [sys.executable, "-c", BARE, here.url, driver, str(tasks)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    before = cpu_of(process.pid)
    took = float(process.stdout.readline())
    _, _, usage = os.wait4(process.pid, 0)
    spent = usage.ru_utime + usage.ru_stime - before
    return {"cpu_us": spent / tasks * 1e6, "rate": tasks / took, "calls": 0.2}


def latency(folder: Path, here: Server, rounds: int = 60) -> tuple[float, float]:
    """Milliseconds from send to start on an idle worker, and for a bare long poll."""
    stamps = folder / "stamps"
    code = (
        "import time\nfrom benchapp import stamp\nstamp.delay(time.time())\ntime.sleep(0.3)\n"
        f"for _ in range({rounds}):\n    stamp.delay(time.time())\n    time.sleep(0.02)\n"
    )
    env = {**os.environ, **ENV, "CLOUDQ_BROKER_URL": f"sqs://?endpoint_url={here.url}&region=us-east-1"}
    with worker(folder, here.url, "-P", "threads"):
        time.sleep(2.0)
        subprocess.run(
            [sys.executable, "-c", code], env={**env, "PYTHONPATH": str(folder)}, cwd=folder, check=True
        )
        drained(here)
    ours = statistics.median(float(line) for line in stamps.read_text().split()[1:]) * 1e3
    sys.path.insert(0, str(folder))
    os.environ.update(ENV)
    return ours, bare_latency(here.url, rounds)


def bare_latency(url: str, rounds: int) -> float:
    import threading

    from cloudq.aws.lean import LeanPort
    from cloudq.aws.port import Call

    queue = "http://q/bench"
    sender, receiver = LeanPort(endpoint_url=url), LeanPort(endpoint_url=url)
    found: list[float] = []

    def poll() -> None:
        for _ in range(rounds):
            params = {"QueueUrl": queue, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 5}
            for each in receiver.call(Call("sqs", "ReceiveMessage", params, 5.0)).get("Messages", []):
                found.append(time.time() - float(each["Body"]))
                delete = {"QueueUrl": queue, "ReceiptHandle": each["ReceiptHandle"]}
                receiver.call(Call("sqs", "DeleteMessage", delete))

    thread = threading.Thread(target=poll)
    thread.start()
    for _ in range(rounds):
        time.sleep(0.02)
        sender.call(Call("sqs", "SendMessage", {"QueueUrl": queue, "MessageBody": str(time.time())}))
    thread.join()
    return statistics.median(found) * 1e3


def idle_calls(folder: Path, here: Server, seconds: float = 65.0) -> float:
    """Requests a minute of a worker with nothing to do."""
    with worker(folder, here.url, "-P", "threads"):
        time.sleep(3.0)
        here.ask("/_reset", {})
        time.sleep(seconds)
        return sum(here.ask("/_stats").values()) / seconds * 60


def main(tasks: int) -> None:
    with tempfile.TemporaryDirectory() as name, server() as here:
        folder = Path(name)
        (folder / "benchapp.py").write_text(APP)
        request = urllib.request.Request(
            here.url, b'{"QueueName":"bench"}', {"X-Amz-Target": "AmazonSQS.CreateQueue"}
        )
        urllib.request.urlopen(request, timeout=10).close()
        http = bare(folder, here, tasks, "lean")
        sdk = bare(folder, here, tasks, "boto3")
        ours = consume(folder, here, tasks, "-P", "threads")
        boto = consume(folder, here, tasks, "-P", "threads", more="&driver=boto3")
        here.ask("/_control", {"latency": 0.01})
        slow = consume(folder, here, tasks * 2, "-P", "threads")
        here.ask("/_control", {"latency": 0.0})
        p50, bare_p50 = latency(folder, here)
        idle = idle_calls(folder, here) if "--idle" in sys.argv else float("nan")
    print("| | CPU, us/task | against the bare HTTP loop | calls per task | tasks/s |")
    print("|---|---|---|---|---|")
    for label, each in (
        ("bare HTTP loop", http),
        ("bare boto3 loop", sdk),
        ("cloudq worker, threads", ours),
        ("the same with driver=boto3", boto),
    ):
        print(
            f"| {label} | {each['cpu_us']:.0f} | {each['cpu_us'] / http['cpu_us']:.2f} | {each['calls']:.2f} | {each['rate']:,.0f} |"
        )
    print(f"with 10 ms added to every call: {slow['rate']:,.0f} tasks/s, {slow['calls']:.2f} calls per task")
    print(f"send to start, p50: {p50:.2f} ms; bare long poll {bare_p50:.2f} ms")
    print(f"memory {ours['memory']:.0f} MB; idle calls a minute: {idle:.1f}")


if __name__ == "__main__":
    main(int(next((each for each in sys.argv[1:] if each.isdigit()), "20000")))
