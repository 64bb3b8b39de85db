"""The pages, one file each."""

from __future__ import annotations

from starlette.routing import Route

from cloudq.dashboard.pages import letters, login, queues, schedules, stream, task, tasks, workers
from cloudq.dashboard.site import Site


def page_routes(site: Site) -> list[Route]:
    """Every page's address."""
    return [
        route
        for page in (login, queues, workers, tasks, task, letters, schedules, stream)
        for route in page.routes(site)
    ]
