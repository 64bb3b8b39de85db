"""What the buttons do with dead letters."""

from __future__ import annotations

import time
from typing import Final

from cloudq.app import CloudQ
from cloudq.control.deadletters import Filter
from cloudq.dashboard.forms import BadInput, Form
from cloudq.dashboard.pages.letters import concealer_of, letters_of

#: Seconds after which sending back stops, to be asked for again: somebody waits for the page.
LONGEST: Final = 30.0


def redrive(app: CloudQ, form: Form) -> str:
    """Send the chosen letters back."""
    chosen = form.all("only") or form.all("id")
    if not chosen:
        raise BadInput("Choose at least one dead letter.")
    count = letters_of(app, form.need("queue")).redrive(
        Filter(message_ids=frozenset(chosen)), limit=len(chosen)
    )
    return f"{count} sent back." if count == len(chosen) else f"{count} of {len(chosen)} sent back: {_GONE}"


def redrive_fitting(app: CloudQ, form: Form) -> str:
    """Send every letter back that fits the filter, as many as come through in half a minute."""
    until = time.monotonic() + LONGEST
    stopped = False

    def stop() -> bool:
        nonlocal stopped
        stopped = time.monotonic() >= until
        return stopped

    chosen = Filter(form.get("task") or None, form.get("reason") or None)
    count = letters_of(app, form.need("queue")).redrive(chosen, stop=stop)
    return f"{count} sent back." + (" There are more: once again sends them." if stopped else "")


def redrive_edited(app: CloudQ, form: Form) -> str:
    """Send one letter back with the text that was edited."""
    queue, message_id, body = form.need("queue"), form.need("id"), form.need("body")
    concealer = concealer_of(app)
    count = letters_of(app, queue).redrive(
        Filter(message_ids=frozenset({message_id})),
        limit=1,
        edit=lambda original: concealer.restore(original, body),
    )
    if not count:
        raise BadInput(f"{message_id} was not sent back: {_GONE}")
    return f"{message_id} was changed and sent back."


def delete(app: CloudQ, form: Form) -> str:
    """Delete the chosen letters for good; never all of a queue's."""
    chosen = form.all("id")
    if not chosen:
        raise BadInput("Choose at least one dead letter.")
    count = letters_of(app, form.need("queue")).purge(Filter(message_ids=frozenset(chosen))) or 0
    return f"{count} deleted." if count == len(chosen) else f"{count} of {len(chosen)} deleted: {_GONE}"


_GONE: Final = "gone already, or looked at by somebody else just now (they come back within a minute)."
