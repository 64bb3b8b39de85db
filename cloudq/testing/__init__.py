"""For tests of code that uses cloudq, and of plug-ins for it. See ``docs/testing.md``.

The pytest fixtures are in ``cloudq.testing.plugin`` (found by pytest itself), the suites for
plug-in authors in ``cloudq.testing.contracts``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudq.testing.box import Sandbox, Sent, sandbox
    from cloudq.testing.clock import ManualClock
    from cloudq.testing.inlining import inline
    from cloudq.testing.workers import running_worker

__all__ = ["ManualClock", "Sandbox", "Sent", "inline", "running_worker", "sandbox"]

_HOMES = {
    "ManualClock": "clock",
    "Sandbox": "box",
    "Sent": "box",
    "sandbox": "box",
    "inline": "inlining",
    "running_worker": "workers",
}


def __getattr__(name: str) -> Any:
    # Late: the plugin is imported by every pytest run where cloudq is installed, and needs none of it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
