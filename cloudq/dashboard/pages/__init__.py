"""The pages, one file each."""

from __future__ import annotations

from starlette.routing import Route

from cloudq.dashboard.pages import login, queues, stream, task, tasks, workers
from cloudq.dashboard.site import Site


def page_routes(site: Site) -> list[Route]:
    """Every page's address."""
    return [route for page in (login, queues, workers, tasks, task, stream) for route in page.routes(site)]
