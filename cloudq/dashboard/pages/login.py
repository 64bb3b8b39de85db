"""Signing in with the token, and out."""

from __future__ import annotations

import hmac
import logging

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from cloudq.dashboard.forms import local_path, read_form
from cloudq.dashboard.guard import keep, visit_of
from cloudq.dashboard.site import Site

logger = logging.getLogger("cloudq.dashboard")


def routes(site: Site) -> list[Route]:
    """``/login`` and ``/logout``; none where nobody signs in here."""
    token = site.options.token
    if token is None:
        return []

    async def show(request: Request) -> Response:
        following = request.query_params.get("next", "")
        return await site.page(request, "login.html", following=following, wrong="")

    async def enter(request: Request) -> Response:
        visit = visit_of(request)
        if not site.logins.take(visit.client):
            logger.warning("too many attempts to sign in from %s", visit.client)
            return await _again(request, 429, "", "Too many attempts: wait a minute and try again.")
        form = await read_form(request)
        following = form.get("next")
        if not site.sessions.csrf_fits(visit.session, form.get("csrf")):
            return await _again(request, 403, following, "That form was too old: please try once more.")
        if not hmac.compare_digest(form.get("token").strip().encode(), token.encode()):
            logger.warning("a wrong token from %s", visit.client)
            return await _again(request, 403, following, "That is not the token.")
        site.sessions.end(visit.session)
        keep(visit, site.sessions, site.sessions.new("token"))
        logger.info("signed in: session from %s", visit.client)
        return RedirectResponse(local_path(following, visit.root), 303)

    async def _again(request: Request, status: int, following: str, wrong: str) -> Response:
        return await site.page(request, "login.html", status, following=following, wrong=wrong)

    async def leave(request: Request) -> Response:
        visit = visit_of(request)
        form = await read_form(request)
        if site.sessions.csrf_fits(visit.session, form.get("csrf")):
            site.sessions.end(visit.session)
            keep(visit, site.sessions, site.sessions.new())
            logger.info("signed out: session from %s", visit.client)
        return RedirectResponse(site.url(visit.root, "login"), 303)

    return [
        Route("/login", show, methods=["GET"]),
        Route("/login", enter, methods=["POST"]),
        Route("/logout", leave, methods=["POST"]),
    ]
