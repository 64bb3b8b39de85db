"""Send tasks and read results over HTTP, from any language, with nothing installed.

``POST /tasks`` with ``{"task": "shop.add", "args": [1, 2]}`` answers 202 and ``{"id": ...}``;
``GET /tasks/ID`` answers with its state and result, with ``?wait=10`` once it has ended or 10 s are over.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Final, Protocol

from cloudq.app import CloudQ
from cloudq.aws_lambda.auth import Hmac, Iam
from cloudq.aws_lambda.budget import Budget
from cloudq.aws_lambda.crowd import Crowd
from cloudq.aws_lambda.http import HttpError, Request, answer, read
from cloudq.errors import CloudQError, ImproperlyConfigured, OperationalError
from cloudq.errors import TimeoutError as NotYet
from cloudq.loader import load_app

logger = logging.getLogger("cloudq.lambda")

#: Longest ``?wait=``, seconds (API Gateway hangs up after 29).
MAX_WAIT: Final = 20.0

_FIELDS: Final = ("task", "args", "kwargs", "options")
_OPTIONS: Final = ("task_id", "countdown", "eta", "expires", "priority", "group_id", "dedup_id")


class Guard(Protocol):
    """Says who may come in."""

    def admit(self, request: Request) -> str:
        """A name for the caller. Raises HttpError for whoever may not come in."""
        ...

    def once(self, request: Request) -> None:
        """Raises HttpError for a request that was answered before and may not be again."""
        ...


def make_api(
    app: CloudQ | str | None = None,
    *,
    tasks: tuple[str, ...] | None = None,
    auth: str | None = None,
    keys: Mapping[str, str] | None = None,
) -> Api:
    """The handler of an HTTP API: ``handler = make_api(app, tasks=("shop.*",), auth="iam")``.

    ``tasks``: names or globs that may be called (setting ``api_tasks``). ``auth``: ``iam`` or ``hmac``
    (``api_auth``). ``keys``: secrets for ``hmac``, by key id (``api_keys``). Raises ImproperlyConfigured:
    nothing is open by default.
    """
    found = app if isinstance(app, CloudQ) else load_app(app)
    conf = found.conf
    allowed = tasks or tuple(conf.api_tasks)
    if not allowed:
        raise ImproperlyConfigured(
            "which tasks may be called? Set api_tasks, or CLOUDQ_API_TASKS=shop.add,mail.*"
        )
    kind = auth or conf.api_auth
    if kind == "iam":
        guard: Guard = Iam()
    elif kind == "hmac":
        guard = Hmac(conf.api_keys if keys is None else keys, found.backend, found.clock)
    else:
        raise ImproperlyConfigured(f"api_auth (CLOUDQ_API_AUTH) is iam or hmac, got {kind!r}")
    if conf.api_max_body < 1:
        raise ImproperlyConfigured(f"api_max_body is a number of bytes, got {conf.api_max_body}")
    crowd = Crowd(found.backend, found.clock, conf.api_rate_limit, conf.api_rate_limit_total)
    return Api(found, allowed, guard, crowd, conf.api_max_body)


class Api:
    """Callable as Lambda calls handlers. Never raises: what goes wrong is an answer."""

    def __init__(
        self, app: CloudQ, tasks: tuple[str, ...], guard: Guard, crowd: Crowd, max_body: int
    ) -> None:
        self.app = app
        self._tasks = tasks
        self._guard = guard
        self._crowd = crowd
        self._max_body = max_body
        _ = app.producer, app.store  # opened now, in the init phase

    def __call__(self, event: Any, context: Any = None) -> dict[str, Any]:
        """Answer one request."""
        try:
            request = read(event, self._max_body)
            self._admit(request)
            return answer(*self._route(request, Budget.of(context)))
        except HttpError as error:
            return answer(error.status, {"error": error.message}, error.headers)
        except OperationalError as error:
            logger.error("a request could not be served: %s", error)
            return answer(503, {"error": "a service this needs is away: try again later"})
        except Exception:
            logger.exception("a request could not be served")
            return answer(500, {"error": "this is our fault; the log has more"})

    def _admit(self, request: Request) -> None:
        try:
            caller = self._guard.admit(request)
        except HttpError:
            self._crowd.turn_away(request.address)
            raise
        self._crowd.let_in(caller)  # before the request is used up: after a 429 it may come again as it is
        self._guard.once(request)

    def _route(self, request: Request, budget: Budget) -> tuple[int, dict[str, Any]]:
        head, _, rest = request.path[1:].partition("/")
        if head != "tasks" or "/" in rest:
            raise HttpError(404, f"nothing is at {request.path}: there are POST /tasks and GET /tasks/ID")
        wanted = "GET" if rest else "POST"
        if request.method != wanted:
            raise HttpError(405, f"{request.path} takes {wanted}, not {request.method}")
        return self._result(rest, request, budget) if rest else self._submit(request)

    # --- submit -------------------------------------------------------------------------------

    def _submit(self, request: Request) -> tuple[int, dict[str, Any]]:
        call = _document(request.body)
        name, args, kwargs = call.get("task"), call.get("args", []), call.get("kwargs", {})
        if not isinstance(name, str) or not name:
            raise HttpError(400, 'say which task: {"task": "shop.add", "args": [1, 2]}')
        if not any(fnmatchcase(name, each) for each in self._tasks):
            raise HttpError(403, f"the task {name!r} may not be called here")
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise HttpError(400, "args is an array, kwargs an object")
        task = self.app.tasks.get(name)
        if task is not None:
            try:
                task.check_arguments(args, kwargs)
            except TypeError as error:
                raise HttpError(400, str(error)) from None
        options = _options(call.get("options", {}))
        try:
            sent = self.app.send_task(name, args, kwargs, **options)
        except OperationalError:
            raise
        except (CloudQError, ValueError, TypeError) as error:
            raise HttpError(400, str(error)) from None
        return 202, {"id": sent.id, "task": name, "state": "PENDING"}

    # --- result -------------------------------------------------------------------------------

    def _result(self, task_id: str, request: Request, budget: Budget) -> tuple[int, dict[str, Any]]:
        if self.app.store is None:
            raise HttpError(404, "this app stores no results")
        if len(task_id) > 255:
            raise HttpError(400, "that is no task's id")
        wait = _seconds(request.query.get("wait", "0"))
        handle = self.app.AsyncResult(task_id)
        try:
            if wait:
                with suppress(NotYet):
                    handle.get(timeout=max(0.0, min(wait, MAX_WAIT, budget.left())), propagate=False)
            record = self.app.read(task_id)
        except ValueError as error:
            raise HttpError(400, str(error)) from None
        if record is None:
            return 200, {"id": task_id, "state": "PENDING"}
        found: dict[str, Any] = {"id": task_id, "state": record.state, "retries": record.retries}
        if isinstance(record.result, BaseException):
            found["error"] = {"type": type(record.result).__name__, "message": str(record.result)}
        else:
            found["result"] = record.result
        if record.done_at is not None:
            found["done_at"] = record.done_at
        return 200, found


def _document(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise HttpError(400, "the body is not JSON") from None
    if not isinstance(found, dict):
        raise HttpError(400, "the body is a JSON object")
    _known(found, _FIELDS, "field")
    return found


def _known(found: Mapping[str, Any], names: tuple[str, ...], what: str) -> None:
    for name in found:
        if name not in names:
            near = get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names)}"
            raise HttpError(400, f"no {what} is called {name!r}{hint}")


def _options(given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise HttpError(400, "options is an object")
    _known(given, _OPTIONS, "option")
    checks: dict[str, Callable[[Any], bool]] = {
        "countdown": _is_number,
        "priority": lambda value: isinstance(value, int) and not isinstance(value, bool),
        "expires": lambda value: _is_number(value) or isinstance(value, str),
    }
    options = dict(given)
    for name, value in given.items():
        if not checks.get(name, lambda value: isinstance(value, str))(value):
            raise HttpError(400, f"the option {name} cannot be {value!r}")
        if name in ("eta", "expires") and isinstance(value, str):
            try:
                options[name] = datetime.fromisoformat(value)
            except ValueError:
                raise HttpError(
                    400, f"{name} is a time like 2030-01-31T12:00:00+00:00, got {value!r}"
                ) from None
    return options


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e6:
        raise HttpError(400, f"wait is a number of seconds, got {text!r}")
    return found
