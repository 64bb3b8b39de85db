"""The queues: what waits, what is being worked on, what is dead; and one of them with larger charts."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cloudq.dashboard import charts
from cloudq.dashboard.live import Look
from cloudq.dashboard.site import Site
from cloudq.monitoring.overview import Overview


def routes(site: Site) -> list[Route]:
    """``/`` and ``/queues/NAME``."""

    async def everything(request: Request) -> Response:
        return await site.page(request, "queues.html", active="queues", **await values(site))

    async def one(request: Request) -> Response:
        name = request.path_params["name"]
        found = await queue_values(site, name)
        if found["queue"] is None and found["look"].view is not None and not found["look"].error:
            raise HTTPException(
                404, f"No queue {name!r} is consumed by a live worker or declared by this app."
            )
        return await site.page(request, "queue.html", active="queues", **found)

    return [
        Route("/", everything, methods=["GET"]),
        Route("/queues/{name:path}", one, methods=["GET"]),
    ]


async def values(site: Site) -> dict[str, Any]:
    """What the list of queues shows."""
    look, view = await seen(site)
    ring = site.sampler.ring
    rows = [
        {
            "queue": each,
            "rate": (ring.last(each.name) or _NOTHING).rate,
            "chart": charts.line(ring.points(each.name, "ready"), "ready messages"),
        }
        for each in view.queues
    ]
    totals = {
        name: _total(getattr(each, name) for each in view.queues) for name in ("ready", "in_flight", "dead")
    }
    totals["rate"] = _total(row["rate"] for row in rows)
    return {"look": look, "view": view, "rows": rows, "totals": totals}


async def queue_values(site: Site, name: str) -> dict[str, Any]:
    """What the page of one queue shows; ``queue`` is None when nobody has heard of it."""
    look, view = await seen(site)
    ring = site.sampler.ring
    drawn = [
        ("Ready", "ready", ""),
        ("In flight", "in_flight", "second"),
        ("Dead letters", "dead", "third"),
        ("Taken per second", "rate", "fourth"),
    ]
    return {
        "look": look,
        "view": view,
        "title": name,
        "queue": next((each for each in view.queues if each.name == name), None),
        "workers": [each for each in view.workers if name in each.queues],
        "charts": [
            (title, (last := ring.last(name)) and getattr(last, field), charts.line(
                ring.points(name, field), title, width=320, height=80, kind=kind
            ))
            for title, field, kind in drawn
        ],
        "span": ring.span(name),
    }  # fmt: skip


async def seen(site: Site) -> tuple[Look, Overview]:
    """The newest look; the queues alone while the results store is away."""
    look = await site.sampler.now()
    view = look.view
    if view is None:
        view = await site.call(site.queues_alone)
    return look, view


class _Nothing:
    rate = None


_NOTHING = _Nothing()


def _total(numbers: Any) -> float | None:
    known = [each for each in numbers if each is not None]
    return sum(known) if known else None
