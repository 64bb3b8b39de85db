"""How logs name a task. Messages spell their ids as they like: none of it makes a line of its own (CWE-117)."""

from __future__ import annotations

from cloudq.message import Envelope


def label(envelope: Envelope) -> str:
    """``shop.add[id]``."""
    return named(envelope.task, envelope.id)


def named(task: str, task_id: str) -> str:
    """``shop.add[id]``."""
    return printable(f"{task}[{task_id}]")


def printable(text: str) -> str:
    """``text`` with line breaks and control characters as Python would write them."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
