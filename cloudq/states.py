"""Task states, with Celery's names, and the order in which a record may move through them."""

from __future__ import annotations

from typing import Final

PENDING: Final = "PENDING"
RECEIVED: Final = "RECEIVED"
STARTED: Final = "STARTED"
RETRY: Final = "RETRY"
SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
REVOKED: Final = "REVOKED"
REJECTED: Final = "REJECTED"
IGNORED: Final = "IGNORED"

#: A record in one of these states never changes again.
READY_STATES: Final = frozenset({SUCCESS, FAILURE, REVOKED, REJECTED, IGNORED})
UNREADY_STATES: Final = frozenset({PENDING, RECEIVED, STARTED, RETRY})
EXCEPTION_STATES: Final = frozenset({RETRY, FAILURE, REVOKED, REJECTED})
PROPAGATE_STATES: Final = frozenset({FAILURE, REVOKED, REJECTED})
ALL_STATES: Final = READY_STATES | UNREADY_STATES


def is_final(state: str) -> bool:
    """True when nothing may overwrite a record in this state."""
    return state in READY_STATES
