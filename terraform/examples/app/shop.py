"""The examples' app: the same tasks run in Lambda, on EC2 and on a laptop."""

import os

from cloudq import CloudQ

app = CloudQ("shop")  # where its queues and results are: CLOUDQ_* in the environment


def _runtime() -> str:
    return "lambda" if os.environ.get("AWS_LAMBDA_FUNCTION_NAME") else "worker"


@app.task(name="shop.total")
def total(prices: list[int]) -> dict[str, object]:
    """What an order costs, and where that was worked out."""
    return {"total": sum(prices), "by": _runtime()}


@app.task(name="shop.report")
def report(day: str) -> dict[str, object]:
    """A day's report: long tasks belong on workers."""
    return {"day": day, "by": _runtime()}
