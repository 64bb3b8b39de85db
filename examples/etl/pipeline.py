"""Read, then store; each step in its queue, each safe to run twice."""

from cloudq import AsyncResult, CloudQ

app = CloudQ("etl", task_default_queue="etl", task_routes={"*.read_file": "reading"})

#: Where results are stored: by file name, so that storing again changes nothing.
totals: dict[str, int] = {}
failures: list[str] = []


class BadFile(Exception):
    """The file cannot be read; trying again would not help."""


@app.task(throws=(BadFile,))
def read_file(name: str, text: str) -> dict[str, object]:
    try:
        return {"name": name, "total": sum(int(line) for line in text.split())}
    except ValueError as error:
        raise BadFile(f"{name}: {error}") from error


@app.task
def store(found: dict[str, object]) -> None:
    totals[str(found["name"])] = int(str(found["total"]))


@app.task
def note_failure(task_id: str, name: str) -> None:
    failures.append(name)


def ingest(name: str, text: str) -> AsyncResult[dict[str, object]]:
    """Send a file on its way. Its name is part of the task's id: the same file is recognised."""
    return read_file.apply_async(
        (name, text), task_id=f"read-{name}", link=store.s(), link_error=note_failure.s(name)
    )
