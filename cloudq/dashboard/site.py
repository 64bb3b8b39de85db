"""What every page needs: the app, the sampler, templates, sessions, and threads for what blocks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

import anyio
import anyio.to_thread
import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

import cloudq
from cloudq.app import CloudQ
from cloudq.dashboard import words
from cloudq.dashboard.guard import flash_cookie, visit_of
from cloudq.dashboard.live import Sampler
from cloudq.dashboard.options import Options
from cloudq.dashboard.ratelimit import RateLimit
from cloudq.dashboard.sessions import Flash, Sessions
from cloudq.errors import OperationalError, ServiceUnavailable
from cloudq.monitoring.overview import Overview, declared_queues, look_at, overview

logger = logging.getLogger("cloudq.dashboard")
T = TypeVar("T")

#: Seconds between two looks: at a store in the cloud, and at one of this machine.
_EVERY: Final = (5.0, 2.0)
_HERE: Final = Path(__file__).parent
#: Threads that may wait for the store and the broker at a time.
_THREADS: Final = 16


class Site:
    """One dashboard."""

    def __init__(self, app: CloudQ, options: Options) -> None:
        self.app = app
        self.options = options
        self.sessions = Sessions(options.key, app.clock, options.session_seconds)
        self.logins = RateLimit(options.logins_per_minute, app.clock)
        self.actions = RateLimit(options.actions_per_minute, app.clock)
        store = app.need_store()
        local = store.backend.capabilities.reach != "cloud"
        self.sampler = Sampler(
            self._look,
            app.clock,
            interval=options.interval or _EVERY[local],
            patience=options.patience,
            remembered=options.remembered,
        )
        #: Is somebody watching the list of tasks? It is what costs most to read.
        self.recent_wanted = 0
        #: Does the newest look have it?
        self.recent_seen = False
        self._limiter: anyio.CapacityLimiter | None = None
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(words.FILTERS)

    # --- what blocks --------------------------------------------------------------------------

    async def call(self, function: Callable[..., T], *args: Any, patience: float = 0.0, **options: Any) -> T:
        """Run what waits for a store or a broker in a thread. Raises ServiceUnavailable when it takes too long."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(_THREADS)
        wait = patience or self.options.patience
        try:
            with anyio.fail_after(wait):
                return await anyio.to_thread.run_sync(
                    partial(function, *args, **options), abandon_on_cancel=True, limiter=self._limiter
                )
        except TimeoutError as error:
            raise ServiceUnavailable(
                f"the store or the queue gave no answer within {wait:g} seconds"
            ) from error

    def _look(self) -> Overview:
        app = self.app
        queues = declared_queues(app.tasks, app.conf)
        recent = 50 if self.recent_wanted else 0
        view = overview(
            broker=app.broker,
            control=app.control,
            history=app.history,
            clock=app.clock,
            queues=queues,
            recent=recent,
        )
        self.recent_seen = recent > 0
        return view

    def queues_alone(self) -> Overview:
        """What can be seen while the results store is away: the queues that the app declares."""
        app = self.app
        names = declared_queues(app.tasks, app.conf)
        return Overview(app.clock.time(), [look_at(app.broker, each) for each in names], [], [], [])

    # --- pages --------------------------------------------------------------------------------

    async def page(self, request: Request, template: str, status: int = 200, /, **values: Any) -> Response:
        """A page in its frame."""
        visit = visit_of(request)
        name = flash_cookie(visit.port)
        flash = self.sessions.read_flash(request.cookies.get(name))
        if flash is not None:
            visit.cookies.append((name, "", 0))
        return HTMLResponse(self.render(request, template, flash=flash, **values), status)

    def render(self, request: Request, template: str, **values: Any) -> str:
        """A template's text."""
        visit = visit_of(request)
        return self._templates.get_template(template).render(
            request=request,
            visit=visit,
            version=cloudq.__version__,
            name=self.app.main,
            read_only=self.options.read_only,
            signs_in=self.options.token is not None,
            csrf=self.sessions.csrf(visit.session),
            here=f"{visit.root}{self.path_of(request)}"
            + (f"?{request.url.query}" if request.url.query else ""),
            now=self.app.clock.time(),
            url=partial(self.url, visit.root),
            **{"flash": None, "active": "", **values},
        )

    @staticmethod
    def path_of(request: Request) -> str:
        """The path below the place where the dashboard is mounted."""
        root = request.scope.get("root_path", "").rstrip("/")
        return str(quote(request.scope["path"].removeprefix(root)))

    @staticmethod
    def url(root: str, *parts: str, **query: str | None) -> str:
        """A path of this dashboard: ``url("tasks", task_id, tree="all")``."""
        path = "/".join(quote(each, safe="") for each in parts)
        asked = urlencode({name: value for name, value in query.items() if value is not None})
        return f"{root}/{path}" + (f"?{asked}" if asked else "")

    def back(self, request: Request, path: str, kind: str, text: str) -> Response:
        """Go on to a page, which says what was done (``done``) or why not (``error``)."""
        visit = visit_of(request)
        visit.cookies.append((flash_cookie(visit.port), self.sessions.write_flash(Flash(kind, text)), 60))
        return RedirectResponse(path, 303)


def is_away(error: Exception) -> bool:
    """Is it the store or the broker, not the question?"""
    return isinstance(error, OperationalError)
