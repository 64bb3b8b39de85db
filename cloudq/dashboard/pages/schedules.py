"""The periodic tasks: when they run next, and whether they do."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cloudq.beat.rows import rows
from cloudq.dashboard.pages.queues import seen
from cloudq.dashboard.site import Site


def routes(site: Site) -> list[Route]:
    """``/schedules``."""

    async def everything(request: Request) -> Response:
        found = await site.call(rows, site.app)
        look, view = await seen(site)
        return await site.page(
            request, "schedules.html", active="schedules", look=look, view=view, rows=found
        )

    return [Route("/schedules", everything, methods=["GET"])]
