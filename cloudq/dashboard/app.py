"""The ASGI app: pages, actions, streams, and what happens when something goes wrong."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from cloudq import ids
from cloudq.app import CloudQ
from cloudq.dashboard.actions import action_routes
from cloudq.dashboard.forms import BadInput
from cloudq.dashboard.guard import Guard
from cloudq.dashboard.options import Options
from cloudq.dashboard.pages import page_routes
from cloudq.dashboard.site import Site, is_away
from cloudq.errors import CloudQError, QueueNotFound, ScheduleError

logger = logging.getLogger("cloudq.dashboard")

_STATIC: Final = Path(__file__).parent / "static"


def build(app: CloudQ, options: Options) -> Starlette:
    """The dashboard of an app. Raises ImproperlyConfigured for an app without a results store."""
    site = Site(app, options)
    faults = _Faults(site)
    door: dict[str, Any] = {"options": options, "sessions": site.sessions, "actions": site.actions}

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        site.sampler.stopping = False
        yield
        site.sampler.stop()

    made = Starlette(
        routes=[
            *page_routes(site),
            *action_routes(site),
            Mount("/static", StaticFiles(directory=_STATIC), name="static"),
        ],
        middleware=[Middleware(Guard, fault=faults.unknown, **door)],
        exception_handlers={
            HTTPException: faults.http,
            BadInput: faults.input,
            CloudQError: faults.known,
        },
        lifespan=lifespan,
    )
    made.state.site = site
    return made


class _Faults:
    """Errors as pages: what happened, to what, and what can be done; the trace goes to the log."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def http(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        missing = "There is no such page." if error.detail == "Not Found" else error.detail
        return await self._page(request, error.status_code, missing)

    async def input(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, BadInput)
        return await self._page(request, error.status, str(error))

    async def known(self, request: Request, error: Exception) -> Response:
        status = 404 if isinstance(error, QueueNotFound | ScheduleError) else 503 if is_away(error) else 422
        logger.warning("%s %s: %s", request.method, self._site.path_of(request), error)
        return await self._page(request, status, str(error))

    async def unknown(self, request: Request, error: Exception) -> Response:
        number = ids.new_id()[:8]
        logger.error("%s %s: error %s", request.method, self._site.path_of(request), number, exc_info=error)
        text = f"Something unexpected went wrong. The dashboard's log says more about error {number}."
        return await self._page(request, 500, text)

    async def _page(self, request: Request, status: int, text: str) -> Response:
        try:
            return await self._site.page(request, "fault.html", status, text=text, status_code=status)
        except jinja2.TemplateError:
            logger.exception("the page of an error")
            return PlainTextResponse(f"{text}\n", status)
