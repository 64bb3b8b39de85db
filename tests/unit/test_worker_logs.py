"""How a worker logs."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from cloudq import signals
from cloudq.context import Request, running
from cloudq.errors import ImproperlyConfigured
from cloudq.worker import logs


@pytest.fixture(autouse=True)
def root() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = before


def logged(capfd: pytest.CaptureFixture[str]) -> list[Any]:
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_json_is_an_object_a_line_with_the_task_that_runs(capfd: pytest.CaptureFixture[str]) -> None:
    logs.set_up(logging.INFO, "json")
    log = logging.getLogger("shop")
    log.info("before %d\nsecond line", 1)
    with running(Request(id="t-1", task="shop.add", retries=2)):
        try:
            raise ValueError("no good")
        except ValueError:
            log.exception("it failed", extra={"order": 7, "odd": {1, 2}.__class__})
    log.debug("not shown")

    plain, failed = logged(capfd)
    assert (plain["level"], plain["logger"], plain["message"]) == ("INFO", "shop", "before 1\nsecond line")
    assert "task_id" not in plain
    assert plain["time"].endswith("+00:00")
    assert (failed["task"], failed["task_id"], failed["retries"]) == ("shop.add", "t-1", 2)
    assert failed["exception"].endswith("ValueError: no good")
    assert (failed["order"], failed["odd"]) == (7, "<class 'set'>")


def test_text_is_for_people(capfd: pytest.CaptureFixture[str]) -> None:
    logs.set_up(logging.INFO)
    logging.getLogger("shop").warning("careful")
    assert capfd.readouterr().err.endswith("WARNING/MainProcess] careful\n")
    with pytest.raises(ImproperlyConfigured, match="did you mean 'json'"):
        logs.set_up(logging.INFO, "jsn")


def test_who_listens_sets_up_logging_himself(root: logging.Logger) -> None:
    heard: list[tuple[str, int]] = []
    mine = signals.setup_logging.connect(lambda loglevel, **_: heard.append(("setup", loglevel)))
    try:
        root.handlers[:] = []
        logs.set_up(logging.WARNING)
        assert (heard, root.handlers) == ([("setup", logging.WARNING)], [])
    finally:
        signals.setup_logging.disconnect(mine)
    after = signals.after_setup_logger.connect(lambda logger, **_: heard.append((logger.name, logger.level)))
    try:
        logs.set_up(logging.ERROR)
        assert heard[-1] == ("root", logging.ERROR)
        assert len(root.handlers) == 1
    finally:
        signals.after_setup_logger.disconnect(after)
