"""A browser that looks at a dashboard, and what makes workers and tasks for it to show."""

import html
import re
import warnings
from typing import Any

from cloudq import CloudQ
from cloudq.brokers.base import Message
from cloudq.control.roster import WorkerInfo
from cloudq.dashboard import make_app
from cloudq.dashboard.pages.letters import letters_of
from cloudq.monitoring.history import HistorySink

NASTY = "<script>alert(1)</script>"


class Browser:
    """A browser on the dashboard's own machine: keeps cookies, sends forms as browsers do."""

    def __init__(
        self,
        app: CloudQ,
        *,
        host: str = "localhost",
        client: str = "127.0.0.1",
        mounted: Any = None,
        scheme: str = "http",
        **options: Any,
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it names another HTTP client
            from starlette.testclient import TestClient
        self.asgi = mounted or make_app(app, **options)
        self.client = TestClient(
            self.asgi, base_url=f"{scheme}://{host}", client=(client, 50_000), follow_redirects=False,
            raise_server_exceptions=False,
        )  # fmt: skip
        self.origin = f"{scheme}://{host}"

    def get(self, path: str, status: int = 200, **headers: str) -> str:
        """A page's text."""
        response = self.client.get(path, headers=headers)
        assert response.status_code == status, response.text
        return response.text

    def csrf(self, path: str = "/") -> str:
        """What forms of this session carry."""
        found = re.search(r'name="csrf" value="([0-9a-f]+)"', self.get(path))
        assert found is not None, f"{path} has no form"
        return found[1]

    def post(self, path: str, fields: dict[str, Any], status: int = 303, **headers: str) -> Any:
        """Send a form."""
        sent = {"origin": self.origin, "sec-fetch-site": "same-origin", **headers}
        response = self.client.post(path, data=fields, headers=sent)
        assert response.status_code == status, response.text
        return response

    def do(self, verb: str, page: str = "/", **fields: Any) -> str:
        """Press a button of a page; the text of what it leads to."""
        response = self.post(f"/do/{verb}", {"csrf": self.csrf(page), "back": page, **fields})
        return self.get(response.headers["location"])

    def said(self, verb: str, page: str = "/", **fields: Any) -> str:
        """Press a button; what the next page says of it."""
        found = re.search(
            r'<p class="flash (?:done|error)" role="status">(.*?)</p>', self.do(verb, page, **fields)
        )
        assert found is not None
        return html.unescape(found[1])


def bury(app: CloudQ, body: str, reason: str = "unknown_task", queue: str = "d") -> str:
    """A dead letter; its message id, which is not the buried message's."""
    before = {each.message_id for each in letters_of(app, queue).peek(1_000)}
    app.broker.send(queue, [Message(body)])
    [delivery] = app.broker.receive(queue, 1, 0.0, 30.0)
    app.broker.bury(delivery, reason, f"because of {reason}")
    [letter] = [each for each in letters_of(app, queue).peek(1_000) if each.message_id not in before]
    return letter.message_id


def beat(app: CloudQ, hostname: str, at: float, **fields: Any) -> None:
    """A sign of life."""
    given: dict[str, Any] = {"queues": ("a",), "started": at - 60.0, "every": 5.0, **fields}
    app.control.roster.beat(
        WorkerInfo(hostname=hostname, app="shop", pid=1, host="h", pool="threads", concurrency=4, looks_every=1.0,
                   at=at, **given)
    )  # fmt: skip


def ended(app: CloudQ, *more: dict[str, Any], **event: Any) -> None:
    """A task that has ended (or more of them), in the history."""
    now = app.clock.time()
    sink = HistorySink(app.need_store().backend, "default", "w1", app.clock, 100_000.0)
    said = {"type": "task-failed", "hostname": "w1", "runtime": 0.25, "timestamp": now}
    sink.take([{**said, **each} for each in more or (event,)])
    sink.flush()
