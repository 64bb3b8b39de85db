"""The screen of ``cloudq top``. Needs textual."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Header, Static

from cloudq.cli.top import queue_rows, task_rows, worker_rows
from cloudq.control.control import Control
from cloudq.errors import CloudQError
from cloudq.monitoring.overview import Overview

_COLOURS = {
    "LOST": "bold red",
    "FAILURE": "red",
    "paused": "yellow",
    "SUCCESS": "green",
    "STARTED": "cyan",
    "REVOKED": "yellow",
    "RETRY": "yellow",
}


class Screen(App[None]):
    """Three tables that follow what ``look`` says."""

    TITLE = "cloudq"
    CSS = """
    DataTable { height: auto; max-height: 33%; }
    #tasks { height: 1fr; max-height: 100%; }
    Static { color: $text-muted; height: 1; }
    #said { color: $error; height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("p", "pause", "pause/resume queue"),
        Binding("r", "refresh_now", "look now"),
    ]

    def __init__(self, look: Callable[[], Overview], control: Control, interval: float = 2.0) -> None:
        super().__init__()
        self._look = look
        self._control = control
        self._interval = interval
        self.view: Overview | None = None

    def compose(self) -> ComposeResult:
        yield Header(show_clock=True)
        yield Static("queues")
        yield DataTable(id="queues", cursor_type="row")
        yield Static("workers")
        yield DataTable(id="workers", cursor_type="row")
        yield Static("tasks: running, then the last ones (level history)")
        yield DataTable(id="tasks", cursor_type="row")
        yield Static("", id="said")
        yield Footer()

    def on_mount(self) -> None:
        self._table("queues").add_columns(
            "queue", "", "ready", "in flight", "delayed", "dead letters", "workers", "oldest"
        )
        self._table("workers").add_columns("worker", "state", "seen", "pool", "running", "done", "queues")
        self._table("tasks").add_columns("id", "task", "state", "seconds", "worker", "result")
        self.set_interval(self._interval, self.action_refresh_now)
        self.action_refresh_now()

    def action_refresh_now(self) -> None:
        """Look, in a thread: the store may take its time."""
        self._refresh_view()

    @work(thread=True, exclusive=True)
    def _refresh_view(self) -> None:
        try:
            view = self._look()
        except CloudQError as error:
            self.call_from_thread(self._say, str(error))
            return
        self.call_from_thread(self._show, view)

    def action_pause(self) -> None:
        """Pause the marked queue, or resume it."""
        if self.view is None or not self.view.queues:
            return
        row = min(self._table("queues").cursor_row, len(self.view.queues) - 1)
        marked = self.view.queues[row]
        self._steer(marked.name, marked.paused)

    @work(thread=True)
    def _steer(self, queue: str, paused: bool) -> None:
        try:
            if paused:
                self._control.resume(queue)
            else:
                self._control.pause(queue)
        except CloudQError as error:
            self.call_from_thread(self._say, str(error))
            return
        self.call_from_thread(self.action_refresh_now)

    # --- on the screen ------------------------------------------------------------------------

    def _show(self, view: Overview) -> None:
        self.view = view
        self.sub_title = f"{len(view.alive)} workers, {sum(not each.lost for each in view.running)} tasks run"
        errors = [f"{each.name}: {each.error}" for each in view.queues if each.error]
        self._say("; ".join(errors))
        self._fill("queues", queue_rows(view))
        self._fill("workers", worker_rows(view))
        self._fill("tasks", task_rows(view))

    def _say(self, text: str) -> None:
        self.query_one("#said", Static).update(Text(text))

    def _fill(self, name: str, rows: Iterable[tuple[Any, ...]]) -> None:
        table = self._table(name)
        row = table.cursor_row
        table.clear()
        for cells in rows:
            table.add_row(*(Text(str(each), style=_COLOURS.get(str(each), "")) for each in cells))
        if table.row_count:
            table.move_cursor(row=min(row, table.row_count - 1))

    def _table(self, name: str) -> DataTable[Text]:
        return self.query_one(f"#{name}", DataTable)
