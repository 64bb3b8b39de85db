"""What the buttons do: each a POST that is checked, carried out in a thread, logged, and told on the next page."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cloudq.app import CloudQ
from cloudq.beat.book import Book
from cloudq.beat.ticker import send_now
from cloudq.dashboard import letter_actions
from cloudq.dashboard.forms import BadInput, Form, local_path, read_form
from cloudq.dashboard.guard import visit_of
from cloudq.dashboard.pages.letters import edit_again
from cloudq.dashboard.pages.task import is_alone, knows_call
from cloudq.dashboard.site import Site
from cloudq.errors import CloudQError

logger = logging.getLogger("cloudq.dashboard")

#: Does it, and says what was done. Raises CloudQError, BadInput.
Action = Callable[[CloudQ, Form], str]
#: Seconds that an action may take: sending hundreds of dead letters back does.
PATIENCE: Final = 60.0


def action_routes(site: Site) -> list[Route]:
    """``POST /do/VERB`` for every verb."""
    return [
        Route(f"/do/{verb}", _handler(site, verb, act), methods=["POST"]) for verb, act in ACTIONS.items()
    ]


def _handler(site: Site, verb: str, act: Action) -> Callable[[Request], object]:
    async def handle(request: Request) -> Response:
        visit = visit_of(request)
        if site.options.read_only:
            raise BadInput("This dashboard only shows: it was started with --read-only.", 403)
        form = await read_form(request)
        if not site.sessions.csrf_fits(visit.session, form.get("csrf")):
            raise BadInput("This form belongs to another session: load the page again.", 403)
        who = f"{visit.user!r} ({visit.client})"
        told = {name: form.get(name)[:200] for name in form.names if name not in ("csrf", "back", "body")}
        following = local_path(form.get("back"), visit.root)
        try:
            said = await site.call(act, site.app, form, patience=max(PATIENCE, site.options.patience))
        except (CloudQError, BadInput, ValueError) as error:  # the last: an id that no task can have
            logger.warning("%s: %s %r failed: %s", who, verb, told, error)
            if (again := AGAIN.get(verb)) is not None:
                return await again(site, request, form, str(error))
            return site.back(request, following, "error", str(error))
        finally:
            site.sampler.expire()
        logger.info("%s: %s %r: %s", who, verb, told, said)
        return site.back(request, following, "done", said)

    return handle


# --- queues -----------------------------------------------------------------------------------


def _pause_queue(app: CloudQ, form: Form) -> str:
    queue = form.need("queue")
    app.control.pause(queue)
    return f"{queue} is paused: workers take no more of it from their next look on."


def _resume_queue(app: CloudQ, form: Form) -> str:
    queue = form.need("queue")
    return f"{queue} goes on." if app.control.resume(queue) else f"{queue} was not paused."


# --- workers ----------------------------------------------------------------------------------


def _alive(app: CloudQ, form: Form) -> list[str]:
    name = form.need("worker")
    if not app.control.roster.alive([name]):
        raise BadInput(f"No live worker is called {name!r}: it has stopped, or was lost.")
    return [name]


def _shutdown(app: CloudQ, form: Form) -> str:
    [name] = _alive(app, form)
    app.control.shutdown(destination=[name])
    return f"{name} was told to stop: it finishes what it runs first."


def _grow(app: CloudQ, form: Form) -> str:
    [name] = _alive(app, form)
    app.control.pool_grow(1, destination=[name])
    return f"{name} was told to run one task more at once."


def _shrink(app: CloudQ, form: Form) -> str:
    [name] = _alive(app, form)
    app.control.pool_shrink(1, destination=[name])
    return f"{name} was told to run one task fewer at once."


# --- tasks ------------------------------------------------------------------------------------


def _retry(app: CloudQ, form: Form) -> str:
    task_id = form.need("id")
    record = app.read(task_id)
    if record is not None and is_alone(record) and record.name and knows_call(record):
        call = {"queue": record.queue} if record.queue else {}
        sent = app.send_task(record.name, record.args or (), record.kwargs or {}, **call)
        return f"Sent anew, as {sent.id}"
    again = app.retry_workflow(task_id)
    return f"Sent again: {', '.join(each.id for each in again[:5])}" + _more(len(again) - 5)


def _revoke(app: CloudQ, form: Form) -> str:
    task_id, terminate = form.need("id"), form.get("terminate") == "yes"
    state = app.control.revoke(task_id, terminate=terminate)[task_id]
    if state == "REVOKED":
        return f"{task_id} is revoked."
    if terminate or state != "STARTED":
        return f"{task_id} is {state}."
    return f"{task_id} runs already, and is left alone: terminate stops it."


def _revoke_workflow(app: CloudQ, form: Form) -> str:
    task_id = form.need("id")
    unfinished = app.unfinished(task_id)
    if not unfinished:
        return "Nothing of that workflow is unfinished."
    for start in range(0, len(unfinished), 1000):
        app.control.revoke(unfinished[start : start + 1000], terminate=form.get("terminate") == "yes")
    return f"{len(unfinished)} unfinished tasks of the workflow are revoked."


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


# --- schedules --------------------------------------------------------------------------------


def _run_now(app: CloudQ, form: Form) -> str:
    name = form.need("name")
    listed = Book(app).get(name)
    if listed.fault:
        raise BadInput(f"{name} cannot be run: {listed.fault}")
    return f"{name}: one run was sent, {send_now(app, listed.entry)}."


def _pause_schedule(app: CloudQ, form: Form) -> str:
    name = form.need("name")
    Book(app).pause(name)
    return f"{name} is paused."


def _resume_schedule(app: CloudQ, form: Form) -> str:
    name = form.need("name")
    Book(app).resume(name)
    return f"{name} goes on: what was due meanwhile is not made up for."


ACTIONS: Final[Mapping[str, Action]] = {
    "pause-queue": _pause_queue,
    "resume-queue": _resume_queue,
    "shutdown": _shutdown,
    "grow": _grow,
    "shrink": _shrink,
    "retry": _retry,
    "revoke": _revoke,
    "revoke-workflow": _revoke_workflow,
    "redrive": letter_actions.redrive,
    "redrive-fitting": letter_actions.redrive_fitting,
    "redrive-edited": letter_actions.redrive_edited,
    "delete": letter_actions.delete,
    "run-now": _run_now,
    "pause-schedule": _pause_schedule,
    "resume-schedule": _resume_schedule,
}
#: Actions whose form is shown again, with what was written, when they fail.
AGAIN: Final[Mapping[str, Callable[[Site, Request, Form, str], Awaitable[Response]]]] = {
    "redrive-edited": edit_again,
}
