"""Headers and task names that carry a workflow from one task to the next."""

from __future__ import annotations

from typing import Final

#: ``{"id", "size", "ids", "open", "give"}``: the group whose results are this call's first argument.
#: They are fetched by the run, never carried (decision 8).
JOINED: Final = "cloudq-joined"
#: This may have been sent before: look at the record before running it.
AGAIN: Final = "cloudq-again"
#: ``{"id", "task"}``: this is an errback; of which task.
ERRBACK: Final = "cloudq-errback"
#: How often the task of this id has replaced itself.
REPLACED: Final = "cloudq-replaced"
#: A continuation that is not sent: it arrives at another group's place.
ARRIVE: Final = "cloudq.arrive"
