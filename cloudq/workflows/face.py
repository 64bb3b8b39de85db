"""What an app does with workflows; loaded with it, so everything behind it is loaded late."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cloudq.context import Request, current
from cloudq.errors import ImproperlyConfigured
from cloudq.task import Task

if TYPE_CHECKING:
    from cloudq.canvas.sender import Sender
    from cloudq.clock import Clock
    from cloudq.conf import Conf
    from cloudq.opened import Opened
    from cloudq.producer import Producer
    from cloudq.registry import Registry
    from cloudq.results.handle import AsyncResult, EagerResult, Results
    from cloudq.results.store import ResultStore
    from cloudq.workflows.launch import Launcher
    from cloudq.workflows.tree import Tree


class Workflows:
    """Part of CloudQ: ``run_inline`` and the parts named here are the app's."""

    conf: Conf
    clock: Clock
    tasks: Registry
    _opened: Opened

    def send_canvas(self, signature: Mapping[str, Any]) -> Any:
        """Publish a chain, group or chord, and return the result of its end."""
        if self.conf.task_always_eager:
            return self.apply_canvas(signature)
        result = self.launcher.launch(signature, self._as_results())
        running = current()
        if running is not None and result is not None:
            running.children.append(result)
        return result

    async def asend_canvas(self, signature: Mapping[str, Any]) -> Any:
        """Asyncio twin of ``send_canvas``."""
        from cloudq import aio

        return await aio.to_thread(self.send_canvas, signature)

    def apply_task(
        self, name: str, args: Any = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> EagerResult[Any]:
        """Run a call here and now, through the lifecycle of a worker, links and retries included."""
        options.pop("add_to_parent", None)
        app: Any = self
        found: EagerResult[Any] = app.run_inline(lambda inline: inline.apply(name, args, kwargs, options))
        return found

    def apply_canvas(self, signature: Mapping[str, Any]) -> Any:
        """Run a chain, group or chord here and now."""
        app: Any = self
        return app.run_inline(lambda inline: inline.launch(signature))

    def frozen_result(self, signature: Any) -> Any:
        """The result that a frozen signature will have."""
        return self.launcher.frozen_result(signature, self._as_results())

    def check_one(self, signature: Mapping[str, Any]) -> None:
        """Refuse what is no single call, where only those can be sent."""
        if signature.get("subtask_type") is not None:
            raise ImproperlyConfigured(
                f"send_many sends single calls, not a {signature['subtask_type']}: send it with group(...), or by itself"
            )
        self.check_links(signature["options"])

    def check_links(self, options: Mapping[str, Any]) -> None:
        """Refuse callbacks that nobody could run (``Check.links``)."""
        if options.get("link") or options.get("link_error"):
            from cloudq.workflows.check import Check

            Check(self.conf, self.tasks.missing).links(options)

    def tree(self, task_id: str) -> Tree:
        """The workflow of that id (of its result, or of a task in it) with its states, to be drawn."""
        from cloudq.workflows.tree import tree_of

        app: Any = self
        return tree_of(app.need_store(), task_id)

    def unfinished(self, task_id: str) -> list[str]:
        """The ids of a workflow's tasks that have not ended."""
        from cloudq.workflows.tree import unfinished

        app: Any = self
        return unfinished(app.need_store(), task_id)

    def retry_workflow(self, workflow_id: str) -> list[AsyncResult[Any]]:
        """Try a workflow again from the tasks that failed; their results.

        ``workflow_id`` is the id of its result, or of a task in it. Raises CloudQError when nothing has
        failed. What had succeeded is not run again.
        """
        from cloudq.workflows.again import Again

        app: Any = self
        again = Again(app.need_store(), app.codec, self.launcher, self.clock)
        return [app.handle(each) for each in again.retry(workflow_id)]

    def run_step(self, request: Request, name: str, make: Callable[[], Any]) -> Any:
        """A durable step: ``make()`` once, and its recorded value ever after."""
        from cloudq.workflows.steps import step

        app: Any = self
        return step(app.store, app.codec, self.clock, request, name, make)

    @property
    def launcher(self) -> Launcher:
        """What sends workflows."""
        return self._opened.get("launcher", self._make_launcher)

    def _make_launcher(self) -> Launcher:
        from cloudq.workflows.launch import launcher_of

        app: Any = self
        producer: Producer = app.producer
        store: ResultStore | None = app.store
        return launcher_of(producer, store, self.conf, self.clock, self.tasks)

    def _as_results(self) -> Results:
        app: Any = self
        results: Results = app
        return results

    def _builtin_task(self, name: str) -> Task[..., Any] | None:
        if not name.startswith("cloudq."):
            return None
        from cloudq.workflows.builtin import builtin

        app: Any = self
        sender: Sender = app
        return builtin(name, sender, self.tasks)
