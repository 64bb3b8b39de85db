"""The tasks: those that run, and those that have ended, with filters, in pages."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from cloudq.dashboard.forms import ENDS, Filters, filters_of
from cloudq.dashboard.guard import visit_of
from cloudq.dashboard.pages.queues import seen
from cloudq.dashboard.site import Site
from cloudq.errors import CloudQError

#: Tasks on a page.
PAGE: Final = 50
#: Documents of the history that are read for a page: a search for what is rare goes on with the next one.
READ: Final = 100


def routes(site: Site) -> list[Route]:
    """``/tasks``."""

    async def everything(request: Request) -> Response:
        query = request.query_params
        if task_id := query.get("id", "").strip():
            return RedirectResponse(site.url(visit_of(request).root, "tasks", task_id), 303)
        filters = filters_of(query, site.app.clock.time())
        cursor = query.get("cursor") or None
        found = await ended(site, filters, cursor)
        look, view = await seen(site)
        plain = not filters.given and cursor is None
        return await site.page(
            request,
            "tasks.html",
            400 if filters.wrong else 503 if found["away"] else 200,
            active="tasks",
            look=look,
            view=view,
            states=ENDS,
            filters=filters,
            cursor=cursor,
            live=plain,
            asked=urlencode(filters.given),
            known=sorted(name for name in site.app.tasks if not name.startswith("cloudq.")),
            **found,
        )

    return [Route("/tasks", everything, methods=["GET"])]


async def ended(site: Site, filters: Filters, cursor: str | None) -> dict[str, Any]:
    """One page of what has ended; ``away`` says why there is none."""
    nothing: dict[str, Any] = {"entries": [], "next": None, "away": None}
    if filters.wrong:
        return nothing
    try:
        page = await site.call(site.app.history.query, PAGE, cursor, documents=READ, **filters.criteria)
    except ValueError as error:  # a CloudQError may be one, too
        if isinstance(error, CloudQError):
            return {**nothing, "away": str(error)}
        filters.wrong["cursor"] = str(error)
        return nothing
    except CloudQError as error:
        return {**nothing, "away": str(error)}
    return {"entries": page.entries, "next": page.next, "away": None}
