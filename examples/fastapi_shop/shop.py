"""Orders over HTTP, worked on in the background."""

from typing import Any

from fastapi import FastAPI

from cloudq import CloudQ

app = CloudQ("shop", include=[])
web = FastAPI()


@app.task
async def place_order(item: str, count: int) -> dict[str, Any]:
    return {"item": item, "count": count, "price": 5 * count}


@web.post("/orders", status_code=202)
async def order(item: str, count: int = 1) -> dict[str, str]:
    result = await place_order.adelay(item, count)
    return {"id": result.id}


@web.get("/orders/{order_id}")
def status(order_id: str) -> dict[str, Any]:
    result = app.AsyncResult(order_id)
    return {"state": result.state, "result": result.result if result.successful() else None}
