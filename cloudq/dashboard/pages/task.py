"""One task: its record, its runs, its workflow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cloudq import states
from cloudq.app import CloudQ
from cloudq.control.shown import shown_call, shown_result
from cloudq.dashboard.forms import BadInput
from cloudq.dashboard.pages.queues import seen
from cloudq.dashboard.site import Site
from cloudq.errors import CloudQError
from cloudq.monitoring.history import Entry
from cloudq.results.record import Record
from cloudq.workflows import shape as shapes
from cloudq.workflows.again import CALL
from cloudq.workflows.members import CAUSE
from cloudq.workflows.tree import Node, Tree, tree_of

#: Tasks of a workflow that are drawn without being asked to: each is read.
DRAWN: Final = 500
UNKNOWN: Final = "hidden: this dashboard does not know the task, so it cannot tell what is sensitive (start it with -A MODULE:APP)"


@dataclass(slots=True)
class Found:
    """What is known of a task; ``faults`` says what could not be read, and why."""

    id: str
    record: Record | None = None
    runs: list[Entry] = field(default_factory=list)
    flow: list[Node] | None = None
    #: Tasks of the workflow, when they are too many to be drawn unasked.
    large: bool = False
    #: Why no task can have this id; "" where one can.
    impossible: str = ""
    faults: list[str] = field(default_factory=list)

    @property
    def last(self) -> Entry | None:
        """Its last run that ended."""
        return self.runs[0] if self.runs else None

    @property
    def can_retry(self) -> bool:
        """Is there something to send again?"""
        record = self.record
        if record is None or not (record.failed or (record.state == states.RETRY and CALL in record.extra)):
            return False
        return not is_alone(record) or knows_call(record)

    @property
    def unfinished(self) -> bool:
        """Is there something of its workflow to revoke, as far as it is drawn?"""
        drawn = Tree(self.flow).ids() if self.flow else ()
        return self.large or any(not states.is_final(state) for _, state in drawn)

    @property
    def was_not_kept(self) -> bool:
        """It failed, and there is nothing to send again."""
        return self.record is not None and self.record.failed and not self.can_retry


def is_alone(record: Record) -> bool:
    """Was it no part of a workflow that can be tried again?"""
    return CALL not in record.extra and CAUSE not in record.extra


def knows_call(record: Record) -> bool:
    """Does the record have the arguments (``result_extended``), to be sent anew?"""
    return record.failed and bool(record.name) and (record.args is not None or record.kwargs is not None)


def routes(site: Site) -> list[Route]:
    """``/tasks/ID``."""

    async def one(request: Request) -> Response:
        task_id = request.path_params["id"]
        whole = request.query_params.get("tree") == "all"
        found = await site.call(look_up, site.app, task_id, whole)
        look, view = await seen(site)
        running = next((each for each in view.running if each.id == task_id), None)
        known = found.record or found.runs or running
        if found.impossible and not known:
            raise BadInput(f"No task can have this id: {found.impossible}", 404)
        return await site.page(
            request,
            "task.html",
            200 if known else 503 if found.faults else 404,
            active="tasks",
            look=look,
            view=view,
            found=found,
            running=running,
            known=known,
            **_shown(site.app, found, running.name if running else ""),
        )

    return [Route("/tasks/{id:path}", one, methods=["GET"])]


def look_up(app: CloudQ, task_id: str, whole: bool) -> Found:
    """Everything there is. Never raises for a store that is away or a damaged document: that is noted."""
    found = Found(task_id)
    store = app.need_store()

    def attempt(what: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except CloudQError as error:
            found.faults.append(f"{what}: {error}")
        except ValueError as error:  # an id that no task can have
            found.impossible = str(error)
        return None

    found.record = attempt("the record", lambda: app.read(task_id))
    found.runs = attempt("the history", lambda: list(islice(app.history.all(id=task_id), 50))) or []
    shape = attempt("the workflow", lambda: shapes.find(store, task_id))
    if shape is None and not (found.record and found.record.children):
        return found
    found.large = not whole and shape is not None and _is_large(shape)
    if not found.large:
        tree = attempt("the workflow", lambda: tree_of(store, task_id))
        found.flow = tree.flow if tree is not None else None
    return found


def _is_large(shape: list[Any]) -> bool:
    return next(islice(shapes.ids_in(shape), DRAWN, None), None) is not None


def _shown(app: CloudQ, found: Found, running_name: str) -> dict[str, Any]:
    """Arguments and result as people may see them."""
    record, last = found.record, found.last
    name = (record and record.name) or (last and last.name) or running_name
    task = app.tasks.get(name) if name else None
    hidden = app.conf.monitoring_redact
    values: dict[str, Any] = {
        "task_name": name,
        "args": last.args if last else "",
        "kwargs": last.kwargs if last else "",
        "result": last.result if last else None,
        "error": last.exception if last else None,
        "traceback": last.traceback if last else None,
    }
    if record is None:
        return values
    if record.args is not None or record.kwargs is not None:
        known = shown_call(task, record.args or (), record.kwargs or {}, hidden)
        if last is None:  # the history's are those that the worker has seen, a chord's results included
            values["args"], values["kwargs"] = known if task else (UNKNOWN, "")
    values["error"] = None
    if isinstance(record.result, BaseException):
        values["error"] = f"{type(record.result).__name__}: {record.result}"
        values["result"] = None
    elif record.result is not None or record.state == "SUCCESS":
        seen_here = shown_result(task, record.result, hidden)
        values["result"] = seen_here if task else (values["result"] or UNKNOWN)
    values["traceback"] = record.traceback or (None if record.state == "SUCCESS" else values["traceback"])
    return values
