"""Priorities on queues that have none: sibling queues, of which the urgent ones are consumed first.

``task_queue_priorities = {"mail": ["mail-high", "mail", "mail-low"]}``, or shorter
``{"mail": ["-high", "", "-low"]}``: highest first, the queue itself among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from cloudq.errors import ImproperlyConfigured

#: Priorities are 0 (whenever there is time) to 9 (at once), as Celery's on RabbitMQ.
LOWEST: Final = 0
HIGHEST: Final = 9
#: A sibling gets places at this ratio to the next lower one while both have messages: hardly ever last,
#: never nothing.
RATIO: Final = 4.0

Siblings = Mapping[str, Any]


def siblings(setting: Siblings, queue: str) -> tuple[str, ...]:
    """The queue's siblings, highest first; only itself when it has none. Raises ImproperlyConfigured."""
    if queue not in setting:
        return (queue,)
    given = setting[queue]
    if not isinstance(given, list | tuple) or not all(isinstance(each, str) for each in given):
        raise ImproperlyConfigured(
            f"task_queue_priorities[{queue!r}] is a list of queues, highest first, got {given!r}"
        )
    names = tuple(_named(queue, each) for each in given)
    if not 2 <= len(names) <= HIGHEST + 1 or len(set(names)) < len(names):
        raise ImproperlyConfigured(
            f"task_queue_priorities[{queue!r}] lists 2 to {HIGHEST + 1} different queues, got {', '.join(names)}"
        )
    if queue not in names:
        raise ImproperlyConfigured(
            f"task_queue_priorities[{queue!r}]: {queue!r} itself is missing in {', '.join(names)}: it is where"
            " calls without a priority go"
        )
    mixed = [each for each in names if each.endswith(".fifo") != queue.endswith(".fifo")]
    if mixed:
        raise ImproperlyConfigured(
            f"task_queue_priorities[{queue!r}]: {mixed[0]!r} is of the other kind; siblings are all FIFO or none"
        )
    return names


def queue_for(setting: Siblings, queue: str, priority: Any) -> str:
    """The sibling that a call with this priority goes to. Raises ValueError, ImproperlyConfigured."""
    if priority is None:
        return queue
    if isinstance(priority, bool) or not isinstance(priority, int) or not LOWEST <= priority <= HIGHEST:
        raise ValueError(f"priority is a whole number from {LOWEST} to {HIGHEST} (highest), got {priority!r}")
    names = siblings(setting, base_of(setting, queue))
    if len(names) == 1:
        raise ImproperlyConfigured(
            f"priority={priority} would do nothing on queue {queue!r}: queues have no priorities of their own."
            f' Give it siblings: task_queue_priorities = {{{queue!r}: ["-high", "", "-low"]}}'
        )
    return names[len(names) - 1 - priority * len(names) // (HIGHEST + 1)]


def base_of(setting: Siblings, queue: str) -> str:
    """The queue that this one is a sibling of (itself, if it is none)."""
    if queue in setting:
        return queue
    return next((base for base in setting if queue in siblings(setting, base)), queue)


def families(setting: Siblings, queues: Iterable[str]) -> list[str]:
    """These queues and the siblings of each, in order, none twice."""
    return list(dict.fromkeys(name for queue in queues for name in siblings(setting, queue)))


def _named(queue: str, given: str) -> str:
    """A name in full: ``""`` is the queue itself, ``-high`` is put behind its name."""
    if given == "":
        return queue
    if not given.startswith("-"):
        return given
    return f"{queue[:-5]}{given}.fifo" if queue.endswith(".fifo") else queue + given
