"""The workers, those that vanished included; and one of them with what it runs."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cloudq.dashboard.pages.queues import seen
from cloudq.dashboard.site import Site


def routes(site: Site) -> list[Route]:
    """``/workers`` and ``/workers/NAME``."""

    async def everything(request: Request) -> Response:
        return await site.page(request, "workers.html", active="workers", **await values(site))

    async def one(request: Request) -> Response:
        found = await worker_values(site, request.path_params["name"])
        status = 200 if found["worker"] is not None or found["look"].error else 404
        return await site.page(request, "worker.html", status, active="workers", **found)

    return [
        Route("/workers", everything, methods=["GET"]),
        Route("/workers/{name:path}", one, methods=["GET"]),
    ]


async def values(site: Site) -> dict[str, Any]:
    """What the list of workers shows."""
    look, view = await seen(site)
    return {"look": look, "view": view}


async def worker_values(site: Site, name: str) -> dict[str, Any]:
    """What the page of one worker shows; ``worker`` is None when it is not listed (any more)."""
    look, view = await seen(site)
    return {
        "look": look,
        "view": view,
        "title": name,
        "worker": next((each for each in view.workers if each.hostname == name), None),
        "running": [each for each in view.running if each.worker == name],
    }
