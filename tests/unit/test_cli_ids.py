"""What cannot be a task's id is said in a line, not in a traceback of the store's."""

import pytest
from typer.testing import CliRunner

from cloudq.cli.main import cli
from cloudq.serializers.fields import MAX_ID_BYTES

COMMANDS = (("result",), ("history",), ("revoke",), ("retry",), ("inspect", "query-task"))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("given", ["", ".", "..", "x" * (MAX_ID_BYTES + 1), "é" * 200, "\udc80" * 300])
def test_an_id_that_no_task_can_have_is_refused(
    command: tuple[str, ...], given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDQ_BROKER_URL", "memory://ids")
    monkeypatch.setenv("CLOUDQ_RESULT_BACKEND", "memory://ids")
    monkeypatch.setenv("COLUMNS", "1000")

    done = CliRunner().invoke(cli, [*command, given])

    assert done.exit_code == 2
    assert "a task's id is " in done.output


def test_the_longest_id_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDQ_BROKER_URL", "memory://ids")
    monkeypatch.setenv("CLOUDQ_RESULT_BACKEND", "memory://ids")

    done = CliRunner().invoke(cli, ["result", "x" * MAX_ID_BYTES])

    assert done.output.strip() == "PENDING"
