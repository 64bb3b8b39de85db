"""The tasks that workflows of the tests are made of."""

from __future__ import annotations

from typing import Any

from cloudq import CloudQ, Ignore, Reject, chord, group


class Oops(Exception):
    """What failing tasks raise."""


def declare(app: CloudQ) -> dict[str, Any]:
    """Declare them on ``app``; by name."""

    @app.task(name="add")
    def add(x: Any, y: Any) -> Any:
        return x + y

    @app.task(name="mul")
    def mul(x: Any, y: Any) -> Any:
        return x * y

    @app.task(name="ident")
    def ident(x: Any) -> Any:
        return x

    @app.task(name="const")
    def const(value: Any = "const") -> Any:
        return value

    @app.task(name="kw")
    def kw(x: Any = 0, *, y: Any = 0) -> Any:
        return [x, y]

    @app.task(name="total")
    def total(values: Any) -> Any:
        return sum(values)

    @app.task(name="collect")
    def collect(*values: Any) -> Any:
        return list(values)

    @app.task(name="fail")
    def fail(*args: Any) -> Any:
        raise Oops("failed with", *args)

    @app.task(name="flaky", bind=True, max_retries=5, default_retry_delay=0)
    def flaky(self: Any, x: Any, times: int) -> Any:
        if self.request.retries < times:
            raise self.retry(countdown=0)
        return x

    @app.task(name="ignored")
    def ignored(*args: Any) -> Any:
        raise Ignore

    @app.task(name="rejected")
    def rejected(*args: Any) -> Any:
        raise Reject("no")

    @app.task(name="becomes", bind=True)
    def becomes(self: Any, *args: Any) -> Any:
        return self.replace(add.s(*args))

    @app.task(name="becomes_group", bind=True)
    def becomes_group(self: Any, n: int) -> Any:
        return self.replace(group(ident.s(i) for i in range(n)))

    @app.task(name="becomes_chain", bind=True)
    def becomes_chain(self: Any, x: int) -> Any:
        return self.replace(add.s(x, 1) | mul.s(10))

    @app.task(name="becomes_chord", bind=True)
    def becomes_chord(self: Any, x: int) -> Any:
        return self.replace(chord([add.s(x, i) for i in range(3)], total.s()))

    @app.task(name="becomes_failing", bind=True)
    def becomes_failing(self: Any, *args: Any) -> Any:
        return self.replace(fail.s("replaced"))

    @app.task(name="countdown_to", bind=True)
    def countdown_to(self: Any, n: int) -> Any:
        return n if n == 0 else self.replace(countdown_to.s(n - 1))

    @app.task(name="grows", bind=True)
    def grows(self: Any, x: int, more: int) -> Any:
        for n in range(more):
            self.add_to_chord(ident.s(100 * x + n))
        return x

    @app.task(name="stubborn", bind=True, max_retries=2)
    def stubborn(self: Any) -> Any:
        raise self.retry(exc=Oops("failed with", "retries"), countdown=0)

    @app.task(name="told")
    def told(request: Any, exc: Any, traceback: Any, note: str = "") -> Any:
        said = [type(exc).__name__, str(exc), request.task, "Oops" in (traceback or "")]
        return [*said, note] if note else said

    @app.task(name="kind")
    def kind(request: Any, exc: Any, traceback: Any) -> Any:
        return [type(exc).__name__, type(exc.__cause__).__name__]

    @app.task(name="runs")
    def runs(found: Any) -> Any:
        return app.signature(found).apply().get()

    @app.task(name="header", bind=True)
    def header(self: Any, name: str) -> Any:
        return self.request.headers.get(name)

    @app.task(name="place", bind=True)
    def place(self: Any) -> Any:
        return [self.request.group_index, self.request.group is not None]

    @app.task(name="later")
    async def later(x: Any) -> Any:
        return x

    return {name: app.tasks[name] for name in app.tasks}
