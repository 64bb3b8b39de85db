"""Calls that were made and are still held back by the block that collects them (``with app.batch():``)."""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Iterable
from contextvars import ContextVar
from typing import Any, Protocol


class Holder(Protocol):
    """A block that collects calls."""

    #: Who runs it, see ``here``.
    place: tuple[int, Any]

    def holds(self) -> Collection[str]:
        """The ids of the calls it has not sent."""
        ...


#: The open blocks around this code, innermost last: of this thread or asyncio task, or of the task that started it.
blocks: ContextVar[tuple[Holder, ...]] = ContextVar("cloudq_unsent", default=())


def here() -> tuple[int, Any]:
    """This thread, and the asyncio task that runs in it."""
    asyncio = sys.modules.get("asyncio")  # whoever runs a loop has it loaded
    task = None
    if asyncio is not None and asyncio._get_running_loop() is not None:
        task = asyncio.current_task()
    return threading.get_ident(), task


def refuse_waiting(ids: Iterable[str]) -> None:
    """Raise RuntimeError if one of these goes out only when the code that wants to wait for it goes on.

    Another thread or asyncio task than the block's own may wait: the block can end meanwhile.
    """
    open_blocks = blocks.get()
    if not open_blocks:
        return
    wanted = set(ids)
    place = here()
    for block in open_blocks:
        if block.place == place and (held := wanted.intersection(block.holds())):
            raise RuntimeError(
                f"task {min(held)} has not been sent: `with app.batch():` holds it until the block ends, "
                "so waiting for it inside the block would be in vain. Call get() after the block"
            )
