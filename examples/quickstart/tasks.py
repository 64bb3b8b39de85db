"""Two tasks: one that always works, one that needs patience."""

from typing import Any

from cloudq import CloudQ

app = CloudQ("quickstart")

#: What the pretended weather service answers; tests put errors in.
answers: list[Any] = []


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task(autoretry_for=(ConnectionError,), retry_backoff=10, retry_jitter=False, max_retries=3)
def forecast(city: str) -> str:
    answer = answers.pop(0) if answers else "sunny"
    if isinstance(answer, Exception):
        raise answer
    return f"{city}: {answer}"
