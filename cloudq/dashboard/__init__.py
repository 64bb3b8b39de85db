"""A web page that shows and steers queues, workers, tasks, dead letters and schedules (extra ``dashboard``).

``make_app(app)`` is an ASGI app of its own, to be served or mounted; ``cloudq dashboard`` serves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cloudq.errors import MissingExtra

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from cloudq.app import CloudQ

__all__ = ["make_app"]


def make_app(app: CloudQ, **options: Any) -> Starlette:
    """The dashboard of ``app`` as an ASGI app; ``options`` are the fields of ``dashboard.options.Options``.

    Who may enter: with ``token=`` whoever knows it, with ``auth_header=`` whom a reverse proxy names, with
    ``authenticate=`` whom your function names; with none of them only browsers of this very machine.
    Raises MissingExtra without the extra, ImproperlyConfigured for options that contradict each other.
    """
    try:
        from cloudq.dashboard.app import build
    except ImportError as error:
        raise MissingExtra("the dashboard", "dashboard") from error
    from cloudq.dashboard.options import Options

    return build(app, Options(**options))
