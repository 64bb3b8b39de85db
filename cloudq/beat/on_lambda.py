"""The ticker in AWS Lambda: one tick per invocation, from a one-minute rule (issue 6).

No lease: rules may fire twice and invocations may overlap, and each slot is claimed before it is sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from cloudq.app import CloudQ
from cloudq.beat.ticker import Ticker, check_apps
from cloudq.loader import load_app

logger = logging.getLogger("cloudq.beat")

#: Milliseconds of an invocation that are kept back: what is claimed is sent and recorded in that time.
SPARE: Final = 5_000.0


def make_ticker(app: CloudQ | str | None = None) -> Callable[[Any, Any], dict[str, Any]]:
    """The handler: ``handler = make_ticker()``; ``app`` is an app, ``module:app``, or None for CLOUDQ_APP.

    It answers ``{"sent": [{"name", "slot", "task_id"}, ...]}``. An error of the store is raised: the
    invocation counts as failed, Lambda tries it again, and no slot is lost or sent under another id.
    A slot that is due more often than the rule fires follows the entry's ``catchup``.
    Raises ImproperlyConfigured.
    """
    found = app if isinstance(app, CloudQ) else load_app(app)
    for warning in check_apps(found):
        logger.warning("%s", warning)
    ticker = Ticker(found)

    def handler(event: Any, context: Any) -> dict[str, Any]:
        def time_left() -> bool:
            remaining = getattr(context, "get_remaining_time_in_millis", None)
            return remaining is None or remaining() > SPARE

        ticker.forget()  # others may have ticked since
        ticked = ticker.tick(time_left)
        return {
            "sent": [{"name": each.name, "slot": each.slot, "task_id": each.task_id} for each in ticked.sent]
        }

    return handler
