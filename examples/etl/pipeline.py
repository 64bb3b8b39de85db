"""Fetch and read, then store; each step in its queue, each safe to run twice."""

from cloudq import AsyncResult, CloudQ

app = CloudQ("etl", task_default_queue="etl", task_routes={"*.read_file": "reading"})

#: The pretended file server: texts by name, and what it answers instead for a while.
files: dict[str, str] = {}
outages: list[Exception] = []
#: Where results are stored: by file name, so that storing again changes nothing.
totals: dict[str, int] = {}
failures: list[str] = []


class BadFile(Exception):
    """The file cannot be read; trying again would not help."""


def fetch(name: str) -> str:
    if outages:
        raise outages.pop(0)
    return files[name]


@app.task(
    autoretry_for=(ConnectionError,), retry_backoff=30, retry_jitter=False, max_retries=3, throws=(BadFile,)
)
def read_file(name: str) -> dict[str, object]:
    try:
        return {"name": name, "total": sum(int(line) for line in fetch(name).split())}
    except ValueError as error:
        raise BadFile(f"{name}: {error}") from error


@app.task
def store(found: dict[str, object]) -> None:
    totals[str(found["name"])] = int(str(found["total"]))


@app.task
def note_failure(task_id: str, name: str) -> None:
    failures.append(name)


def ingest(name: str) -> AsyncResult[dict[str, object]]:
    """Send a file on its way. The task's id is made of its name, so anybody who knows the file can
    ask how it went, and a file that is announced twice has one result: the first."""
    return read_file.apply_async(
        (name,), task_id=f"read-{name}", link=store.s(), link_error=note_failure.s(name)
    )
