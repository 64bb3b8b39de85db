"""The public types, checked by mypy --strict and never run.

A line that must be an error carries the ignore that mypy would otherwise call unused.
"""

from typing import Any, assert_type

from cloudq import AsyncResult, CloudQ, Signature, Task
from cloudq.results.handle import EagerResult
from cloudq.task import AsyncTask

app = CloudQ("types")


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(max_retries=5, retry_backoff=True)
def greet(name: str) -> str:
    return name


@app.task(bind=True, ignore_result=True)
def bound(self: Task[..., Any], x: int) -> list[int]:
    return [x]


@app.task
async def fetch(url: str) -> bytes:
    return url.encode()


@app.task(bind=True)
async def fetch_bound(self: Task[..., Any], url: str) -> bytes:
    return url.encode()


assert_type(add(1, 2), int)
assert_type(add.delay(1, 2), AsyncResult[int])
assert_type(add.delay(1).get(timeout=1), int)
assert_type(add.apply_async((1, 2), countdown=3), AsyncResult[int])
assert_type(add.apply((1, 2)), EagerResult[int])
assert_type(add.apply((1, 2)).get(), int)
assert_type(add.s(1), Signature)
assert_type(greet.delay(name="x"), AsyncResult[str])
assert_type(bound.delay(1), AsyncResult[list[int]])
assert_type(fetch.delay("u"), AsyncResult[bytes])
assert_type(fetch_bound.delay("u"), AsyncResult[bytes])
assert isinstance(fetch, AsyncTask)

add.delay("x")  # type: ignore[arg-type]
add.delay()  # type: ignore[call-arg]
add.delay(1, 2, 3)  # type: ignore[call-arg]
add.delay(z=1)  # type: ignore[call-arg]
greet.delay(1)  # type: ignore[arg-type]
bound.delay("x")  # type: ignore[arg-type]
fetch.delay(1)  # type: ignore[arg-type]
add.apply_async((1,), countdwn=3)  # type: ignore[call-arg]
add.apply_async((1,), countdown="soon")  # type: ignore[arg-type]


@app.task(batch=10, batch_wait=2)
def store(requests: list[Any]) -> list[int]:
    return [0 for _ in requests]


assert_type(store, Task[..., Any])
store.delay("any", number="of arguments")
app.task(rate_limit="10/s", rate_limit_scope="global", max_concurrency=3, unique="until_start")(lambda: None)
app.task(batch="ten")(lambda requests: None)  # type: ignore[call-overload]
app.task(rate_limit=[1])(lambda: None)  # type: ignore[call-overload]


@app.task(max_retrys=3)  # type: ignore[call-overload, untyped-decorator]
def wrong() -> None: ...


async def use() -> None:
    assert_type(await add.adelay(1, 2), AsyncResult[int])
    assert_type(await (await add.adelay(1, 2)).aget(timeout=1), int)
    assert_type(await fetch("u"), bytes)
    assert_type(app.send_many([add.s(1)]), list[AsyncResult[Any]])


@app.periodic(60)
@app.task
def ticking(x: int = 0) -> int:
    return x


@app.periodic("0 9 * * *", catchup="all")
def plain_function(x: int = 0) -> str:
    return str(x)


@app.periodic(60)
async def coroutine_function() -> bytes:
    return b""


assert_type(ticking.delay(1), AsyncResult[int])
assert_type(plain_function(1), str)
assert_type(plain_function.delay(1), AsyncResult[str])
assert_type(coroutine_function, AsyncTask[[], bytes])
ticking.delay("x")  # type: ignore[arg-type]
