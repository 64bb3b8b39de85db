"""Server-sent events: the parts of a page that change, made anew after every look."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from cloudq.dashboard.pages import queues, workers
from cloudq.dashboard.site import Site

#: Seconds after which a quiet stream says that it lives: proxies close silent ones.
_PING: Final = 15.0
_Values = Callable[[Site, str], Awaitable[dict[str, Any]]]


async def _queues(site: Site, _: str) -> dict[str, Any]:
    return await queues.values(site)


async def _workers(site: Site, _: str) -> dict[str, Any]:
    return await workers.values(site)


async def _tasks(site: Site, _: str) -> dict[str, Any]:
    look, view = await queues.seen(site)
    return {"look": look, "view": view, "entries": view.recent, "next": None, "filters": None, "asked": ""}


#: What a page shows -> its template's part, and what goes into it.
_PARTS: Final[dict[str, tuple[str, _Values]]] = {
    "queues": ("parts/queues.html", _queues),
    "queue": ("parts/queue.html", queues.queue_values),
    "workers": ("parts/workers.html", _workers),
    "worker": ("parts/worker.html", workers.worker_values),
    "tasks": ("parts/tasks.html", _tasks),
}


def routes(site: Site) -> list[Route]:
    """``/live/WHAT?name=``."""

    async def stream(request: Request) -> Response:
        what = request.path_params["what"]
        if what not in _PARTS:
            raise HTTPException(404, f"There is no stream {what[:40]!r}.")
        return StreamingResponse(
            _events(site, request, what),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    return [Route("/live/{what}", stream, methods=["GET"])]


async def _events(site: Site, request: Request, what: str) -> AsyncIterator[str]:
    template, values = _PARTS[what]
    name = request.query_params.get("name", "")
    sampler = site.sampler
    site.recent_wanted += what == "tasks"
    try:
        async with sampler.watching():
            yield "retry: 3000\n\n"
            if what == "tasks" and not site.recent_seen:
                sampler.expire()
            number = (await sampler.now()).number - 1
            while not sampler.stopping and not await request.is_disconnected():
                look = await sampler.after(number, _PING)
                if look is None:
                    yield ": still here\n\n"
                    continue
                number = look.number
                if what == "tasks" and not site.recent_seen:
                    continue  # it was begun before anybody asked for the tasks
                yield _event(site, request, template, await values(site, name))
    finally:
        site.recent_wanted -= what == "tasks"


def _event(site: Site, request: Request, template: str, values: dict[str, Any]) -> str:
    parts = {
        "live": site.render(request, template, **values),
        "status": site.render(request, "parts/status.html", **values),
    }
    return f"event: parts\ndata: {json.dumps(parts)}\n\n"
