"""The door: every request passes here before any page sees it, every answer gets its headers here."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import quote, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloudq.dashboard.options import LOOPBACK_NAMES, Options, is_loopback
from cloudq.dashboard.ratelimit import RateLimit
from cloudq.dashboard.sessions import Session, Sessions, Visit

logger = logging.getLogger("cloudq.dashboard")

VISIT: Final = "cloudq.visit"
#: What the browser may do with a page: load this site's own styles and scripts, and nothing else.
HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    # Not no-referrer: browsers then send forms with `Origin: null`, which no check can tell from a stranger's.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
#: Paths that need no session: they hold nothing of the app.
_OPEN: Final = ("/static/",)
_LOGIN: Final = "/login"
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._~%-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{0,5}))?", re.ASCII)
#: Marks of a reverse proxy.
_FORWARDED: Final = ("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "forwarded", "x-real-ip")

#: Makes the answer of a request that failed unexpectedly.
Fault = Callable[[Request, Exception], Awaitable[Response]]


class Guard:
    """ASGI middleware: Host, origin, session, who may enter, how often, and the headers of answers."""

    def __init__(
        self, inner: ASGIApp, options: Options, sessions: Sessions, actions: RateLimit, fault: Fault
    ) -> None:
        self._inner = inner
        self._fault = fault
        self._options = options
        self._sessions = sessions
        self._actions = actions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope)
        visit: Visit | None = None
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self._dress(MutableHeaders(scope=message), visit)
            await send(message)

        if (refused := self._stranger(request)) is not None:
            await refused(scope, receive, answer)
            return
        visit = scope[VISIT] = self._visit(request)
        try:
            response = await self._door(request, visit)
            await (response or self._inner)(scope, receive, answer)
        except Exception as error:
            if begun:
                raise
            await (await self._fault(request, error))(scope, receive, answer)

    # --- who asks -----------------------------------------------------------------------------

    def _stranger(self, request: Request) -> Response | None:
        """A request that did not come by a name of ours, or a form of somebody else's page."""
        host = request.headers.get("host", "")
        if host and not is_host(host):
            return PlainTextResponse(f"{host[:80]!r} is no host name.\n", 400)
        name = host_name(host)
        allowed = self._options.allowed_hosts or (LOOPBACK_NAMES if self._options.local_only else None)
        if allowed is not None and name not in allowed:
            return PlainTextResponse(
                f"The host name {name[:80]!r} is not one of this dashboard's: {', '.join(sorted(allowed))}. "
                "Another one is allowed with --allowed-host (allowed_hosts=).\n",
                400,
            )
        if request.method not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("A dashboard takes GET and POST.\n", 405, {"allow": "GET, HEAD, POST"})
        if request.method == "POST" and not self._own_form(request):
            return PlainTextResponse("This form was not sent from a page of this dashboard.\n", 403)
        return None

    def _own_form(self, request: Request) -> bool:
        headers = request.headers
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        origin = headers.get("origin")
        if origin is None:
            return True  # no browser of these years; the session's token is asked for all the same
        hosts = {headers.get("host", "").lower()}
        if self._by_proxy(request) and (forwarded := headers.get("x-forwarded-host")):
            hosts.add(forwarded.lower())
        try:
            return urlsplit(origin).netloc.lower() in hosts
        except ValueError:  # no address at all
            return False

    def _by_proxy(self, request: HTTPConnection) -> bool:
        return self._options.is_proxy(request.client.host if request.client else None)

    def _visit(self, request: Request) -> Visit:
        port = str(request.url.port or "")
        secure = request.url.scheme == "https" or (
            self._by_proxy(request) and request.headers.get("x-forwarded-proto", "").lower() == "https"
        )
        session = self._sessions.read(request.cookies.get(session_cookie(port)))
        visit = Visit(
            session=session or self._sessions.new(),
            user=None,
            client=request.client.host if request.client else "unknown",
            root=request.scope.get("root_path", "").rstrip("/"),
            secure=secure,
            port=port,
        )
        if session is None or self._sessions.is_old(session):
            keep(visit, self._sessions, self._sessions.renewed(visit.session))
        return visit

    # --- who may enter ------------------------------------------------------------------------

    async def _door(self, request: Request, visit: Visit) -> Response | None:
        """None: come in."""
        path = request.scope["path"].removeprefix(visit.root)
        if path.startswith(_OPEN) and request.method != "POST":
            visit.cookies.clear()
            visit.cache = "public, max-age=3600"  # their addresses name the release
            return None
        visit.user = await self._user(request, visit)
        if path == _LOGIN and self._options.token is not None:
            return None
        if visit.user is None:
            return self._outside(request, visit, path)
        if request.method == "POST" and not self._actions.take(visit.session.id):
            logger.warning("%r (%s): too many actions, refused %s", visit.user, visit.client, path[:100])
            return PlainTextResponse(
                f"That was more than {self._options.actions_per_minute} actions in a minute: try again shortly.\n",
                429,
                {"retry-after": "10"},
            )
        return None

    async def _user(self, request: Request, visit: Visit) -> str | None:
        options = self._options
        if options.token is not None:
            return visit.session.user
        if options.auth_header is not None:
            return request.headers.get(options.auth_header) or None if self._by_proxy(request) else None
        if options.authenticate is not None:
            found = options.authenticate(request)
            if inspect.isawaitable(found):
                found = await found
            return str(found) if found else None
        forwarded = any(name in request.headers for name in _FORWARDED)
        return "local" if is_loopback(visit.client) and not forwarded else None

    def _outside(self, request: Request, visit: Visit, path: str) -> Response:
        options = self._options
        if options.token is not None:
            if request.method == "POST" or path.startswith("/live"):
                return PlainTextResponse("Sign in first.\n", 401)
            query = f"?{request.url.query}" if request.url.query else ""
            following = quote(f"{visit.root}{path}{query}", safe="")
            return RedirectResponse(f"{visit.root}{_LOGIN}?next={following}", 303)
        visit.cookies.clear()
        if options.auth_header is not None:
            text = (
                f"The reverse proxy has not named a user in {options.auth_header}, or its address "
                f"({visit.client}) is not one of trusted_proxies.\n"
            )
        elif options.authenticate is not None:
            text = "You are not signed in, or may not see this dashboard.\n"
        else:
            text = (
                "This dashboard has no sign-in and shows itself to browsers of its own machine only. To reach it from "
                "elsewhere or through a proxy set a token, or auth_header (docs/dashboard.md).\n"
            )
        logger.warning("refused %s %s from %s", request.method, path[:100], visit.client)
        return PlainTextResponse(text, 403)

    # --- what answers carry -------------------------------------------------------------------

    def _dress(self, headers: MutableHeaders, visit: Visit | None) -> None:
        for name, value in HEADERS.items():
            headers[name] = value
        headers.setdefault("cache-control", visit.cache if visit else "no-store")
        if visit is None:
            return
        path = visit.root or "/"
        for name, value, seconds in visit.cookies:
            secure = "; Secure" if visit.secure else ""
            headers.append(
                "set-cookie",
                f"{name}={value}; Path={path}; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}",
            )


def is_host(host: str) -> bool:
    """Is that a Host header as RFC 9112 has it? Anything else moves the parts of the URL that is made of it."""
    found = _HOST.fullmatch(host)
    return found is not None and int(found["port"] or 0) < 65_536


def host_name(host: str) -> str:
    """The name in a Host header, without its port: ``[::1]:5555`` is ``::1``."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def session_cookie(port: str) -> str:
    """Browsers share cookies between ports: two dashboards of one machine need two names."""
    return f"cloudq_session_{port or 'web'}"


def flash_cookie(port: str) -> str:
    """The cookie that brings an action's outcome to the next page."""
    return f"cloudq_flash_{port or 'web'}"


def keep(visit: Visit, sessions: Sessions, session: Session) -> None:
    """Go on with this session, and have the browser remember it."""
    visit.session = session
    seconds = max(0, int(session.until - sessions.now()))
    visit.cookies.append((session_cookie(visit.port), sessions.write(session), seconds))


def visit_of(connection: HTTPConnection) -> Visit:
    """The visit that the guard made of a request."""
    found: Visit = connection.scope[VISIT]
    return found
