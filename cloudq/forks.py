"""How many forks away this process is: told without asking the kernel, which ``os.getpid`` does each time."""

from __future__ import annotations

import os

#: Grows by one in each forked child: what was opened under another number belongs to the parent.
generation = 0


def _in_child() -> None:
    global generation
    generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
