"""How long an outside service is waited for, and what is said meanwhile."""

from __future__ import annotations

import logging

import pytest

from cloudq.errors import (
    AccessDenied,
    CredentialsError,
    OperationalError,
    QueueNotFound,
    SendError,
    ServiceUnavailable,
    StoreNotFound,
)
from cloudq.runtime.patience import STANDING_FOR, Patience
from cloudq.testing.clock import JumpingClock


def wait_for(error: OperationalError, timeout: float = 300.0, mended_after: float | None = None) -> float:
    """Seconds until ``call`` gave up, or got through."""
    clock = JumpingClock()
    start = clock.monotonic()

    def do() -> str:
        if mended_after is not None and clock.monotonic() - start >= mended_after:
            return "done"
        raise error

    try:
        assert Patience(timeout, clock).call("storing a result", do) == "done"
    except OperationalError as raised:
        assert raised is error
        assert mended_after is None
    return clock.monotonic() - start


@pytest.mark.parametrize(
    "error", [ServiceUnavailable("503"), CredentialsError("expired"), OperationalError("?")]
)
def test_an_outage_and_expired_credentials_are_waited_for_as_long_as_set(error: OperationalError) -> None:
    assert 285.0 <= wait_for(error) <= 300.0
    assert 100.0 <= wait_for(error, mended_after=100.0) <= 111.0


@pytest.mark.parametrize(
    "error",
    [
        AccessDenied("the credentials lack dynamodb:PutItem"),
        StoreNotFound("no table"),
        QueueNotFound("no queue"),
        SendError({0: AccessDenied("no"), 1: QueueNotFound("no")}),
    ],
)
def test_what_somebody_must_mend_is_not_waited_for_as_long(
    error: OperationalError, caplog: pytest.LogCaptureFixture
) -> None:
    assert STANDING_FOR - 10.0 <= wait_for(error) <= STANDING_FOR
    assert wait_for(error, mended_after=8.0) <= 18.0  # a new policy takes seconds to be in force
    assert wait_for(error, timeout=5.0) <= 5.0
    assert {each.levelno for each in caplog.records} == {logging.ERROR}
    assert f"storing a result: {error}; trying again in" in caplog.text


def test_a_batch_that_failed_for_an_outage_as_well_is_an_outage() -> None:
    assert wait_for(SendError({0: AccessDenied("no"), 1: ServiceUnavailable("503")})) > 280.0
