"""The way out, as tasks and signatures see it. The app is one; they never import it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from cloudq.context import Request
from cloudq.results.handle import AsyncResult, EagerResult


class Sender(Protocol):
    """Publishes calls. ``options`` are those of ``apply_async``."""

    def send_task(
        self,
        name: str,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Publish one call; returns once the broker has it."""
        ...

    async def asend_task(
        self,
        name: str,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Asyncio twin of ``send_task``."""
        ...

    def apply_task(
        self,
        name: str,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> EagerResult[Any]:
        """Run the call here and now, through the same lifecycle as a worker."""
        ...

    def handle(self, task_id: str) -> AsyncResult[Any]:
        """The result of the task with this id."""
        ...

    def send_canvas(self, signature: Mapping[str, Any]) -> Any:
        """Publish a chain, group or chord, and return the result of its end."""
        ...

    async def asend_canvas(self, signature: Mapping[str, Any]) -> Any:
        """Asyncio twin of ``send_canvas``."""
        ...

    def apply_canvas(self, signature: Mapping[str, Any]) -> Any:
        """Run a chain, group or chord here and now, through the same lifecycle as a worker."""
        ...

    def run_step(self, request: Request, name: str, make: Callable[[], Any]) -> Any:
        """A durable step of the running task."""
        ...

    def frozen_result(self, signature: Any) -> Any:
        """Give the signature its ids for good, and return the result it will have."""
        ...

    def update_state(self, task_id: str, state: str, meta: Any, retries: int) -> None:
        """Record an unfinished task's custom state."""
        ...
