"""The code of docs/results.md does what it says, with a worker in another thread."""

import re
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cloudq.execution.call import NoWatch
from cloudq.runtime.verdict import Ack

PAGE = (Path(__file__).parents[2] / "docs" / "results.md").read_text("utf-8")


def block(mark: str) -> str:
    [found] = re.findall(rf"<!-- run: {mark} -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def work(app: Any, stopped: threading.Event) -> None:
    lifecycle = app.lifecycle("w")
    while not stopped.is_set():
        for each in app.broker.receive("cloudq", 10, 0.05, 30.0):
            if isinstance(lifecycle.run(each, NoWatch()), Ack):
                app.broker.ack([each])


def test_the_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    (tmp_path / "shop.py").write_text(block("results"))
    import shop  # type: ignore[import-not-found]

    stopped = threading.Event()
    thread = threading.Thread(target=work, args=(shop.app, stopped))
    thread.start()
    try:
        exec(compile(block("results-calls"), "results.md", "exec"), {})
    finally:
        stopped.set()
        thread.join(10)
        shop.app.close()
        sys.modules.pop("shop", None)


def test_every_setting_that_the_page_names_exists() -> None:
    from cloudq.settings import NAMES

    named = set(re.findall(r"`((?:result|task|worker)_[a-z_]+)`", PAGE))
    assert named <= {*NAMES, "task_id"}
    assert len(named) > 4
