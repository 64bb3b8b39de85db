"""Dead letters: how many where, why they are dead, and one of them to be read and edited."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cloudq.app import CloudQ
from cloudq.control.deadletters import DeadLetter, DeadLetters, Filter
from cloudq.dashboard.concealed import Concealer, Shown
from cloudq.dashboard.forms import BadInput, Form
from cloudq.dashboard.pages.queues import seen
from cloudq.dashboard.site import Site
from cloudq.errors import CloudQError

#: Letters on a page: each look receives them, and gives them back.
PAGE: Final = 50


def routes(site: Site) -> list[Route]:
    """``/dead``, ``/dead/QUEUE`` and ``/letter?queue=&id=``."""

    async def everything(request: Request) -> Response:
        look, view = await seen(site)
        return await site.page(request, "dead.html", active="dead", look=look, view=view)

    async def of_queue(request: Request) -> Response:
        queue, query = request.path_params["queue"], request.query_params
        task, reason = query.get("task", "").strip(), query.get("reason", "").strip()
        letters, away = await _peek(site, queue, Filter(task or None, reason or None))
        look, view = await seen(site)
        return await site.page(
            request,
            "letters.html",
            503 if away else 200,
            active="dead",
            look=look,
            view=view,
            queue=queue,
            task=task,
            reason=reason,
            letters=letters,
            away=away,
            full=len(letters) >= PAGE,
            reasons=Counter(each.reason for each in letters).most_common(),
            known=next((each for each in view.queues if each.name == queue), None),
        )

    async def one(request: Request) -> Response:
        queue, message_id = request.query_params.get("queue", ""), request.query_params.get("id", "")
        if not queue or not message_id:
            raise BadInput("A dead letter is found by its queue and its id.")
        return await letter_page(site, request, queue, message_id)

    return [
        Route("/dead", everything, methods=["GET"]),
        Route("/dead/{queue:path}", of_queue, methods=["GET"]),
        Route("/letter", one, methods=["GET"]),
    ]


async def letter_page(
    site: Site, request: Request, queue: str, message_id: str, edited: str | None = None, wrong: str = ""
) -> Response:
    """The page of one letter; with ``edited`` the text that somebody has written and ``wrong``, why it is refused."""
    letter, shown, fault = await site.call(find, site.app, queue, message_id)
    look, view = await seen(site)
    return await site.page(
        request,
        "letter.html",
        400 if wrong else 200 if letter else 404,
        active="dead",
        look=look,
        view=view,
        queue=queue,
        message_id=message_id,
        letter=letter,
        shown=shown,
        fault=fault,
        edited=edited,
        wrong=wrong,
    )


async def edit_again(site: Site, request: Request, form: Form, wrong: str) -> Response:
    """The page that an edit came from, with what was written, and what is wrong with it."""
    return await letter_page(
        site, request, form.get("queue"), form.get("id"), form.get("body").replace("\r\n", "\n"), wrong
    )


def letters_of(app: CloudQ, queue: str) -> DeadLetters:
    """The dead letters of a queue. Raises NoDeadLetterQueue, OperationalError."""
    # Only a queue in the cloud may say that it is empty when it is not.
    wait = 1.0 if app.broker.capabilities.reach == "cloud" else 0.0
    return DeadLetters(app.broker, queue, wait, app.claims)


def concealer_of(app: CloudQ) -> Concealer:
    """What hides what is sensitive."""
    return Concealer(app.tasks, app.conf.monitoring_redact)


def find(app: CloudQ, queue: str, message_id: str) -> tuple[DeadLetter | None, Shown | None, str | None]:
    """One letter, its text for people, and what could not be read of it."""
    letters = letters_of(app, queue)
    found = letters.peek(1, Filter(message_ids=frozenset({message_id})))
    if not found:
        return None, None, None
    fault = None
    try:
        text = letters.text(found[0])
    except CloudQError as error:
        text, fault = found[0].body, str(error)
    return found[0], concealer_of(app).show(text), fault


async def _peek(site: Site, queue: str, chosen: Filter) -> tuple[list[Any], str | None]:
    try:
        return await site.call(lambda: letters_of(site.app, queue).peek(PAGE, chosen)), None
    except CloudQError as error:
        return [], str(error)
