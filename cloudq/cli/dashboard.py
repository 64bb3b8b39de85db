"""``cloudq dashboard``."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer

from cloudq.cli.common import AppOption, BackendOption, BrokerOption, err, find_app, one_line_errors
from cloudq.dashboard import make_app
from cloudq.dashboard.options import is_loopback
from cloudq.errors import ImproperlyConfigured, MissingExtra

#: Holds the token: a command line is shown to everybody on the machine, an environment is not.
TOKEN_VARIABLE = "CLOUDQ_DASHBOARD_TOKEN"  # noqa: S105  a name


def dashboard(
    app: AppOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0: any free one.")] = 5555,
    token: Annotated[
        str | None,
        typer.Option(
            envvar=TOKEN_VARIABLE,
            show_envvar=True,
            help="Who gives it may enter. Better in the environment than on the command line.",
        ),
    ] = None,
    auth_header: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The reverse proxy names the user in this header, like X-Forwarded-User."
        ),
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="Where the reverse proxy connects from; may be repeated. Default: this machine.",
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name that browsers may use; may be repeated.")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Show everything, change nothing.")] = False,
    interval: Annotated[
        float | None, typer.Option(min=0.5, help="Seconds between two looks while somebody watches.")
    ] = None,
    root_path: Annotated[
        str, typer.Option(metavar="PATH", help="The path that a reverse proxy serves it below, like /cloudq.")
    ] = "",
    broker: BrokerOption = None,
    result_backend: BackendOption = None,
) -> None:
    """Show and steer everything in a web page. Only for this machine, unless there is a token or a proxy that signs in."""
    with one_line_errors():
        if not is_loopback(host) and not token and not auth_header:
            raise ImproperlyConfigured(
                f"the dashboard does not listen on {host} without a sign-in: set {TOKEN_VARIABLE} (make one with: "
                'python -c "import secrets; print(secrets.token_urlsafe(32))"), or --auth-header behind a reverse '
                "proxy that signs users in"
            )
        if root_path and (not root_path.startswith("/") or root_path.endswith("/") or "//" in root_path):
            raise typer.BadParameter(f"--root-path is a path like /cloudq, got {root_path!r}")
        found = find_app(app, broker, result_backend)
        options: dict[str, Any] = {"trusted_proxies": tuple(trusted_proxy)} if trusted_proxy else {}
        made = make_app(
            found,
            token=token or None,
            auth_header=auth_header,
            allowed_hosts=_names(allowed_host, host, local=not token and not auth_header),
            read_only=read_only,
            interval=interval,
            **options,
        )
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        _serve(made, host, port, root_path)
        found.close()


def _names(given: list[str] | None, host: str, *, local: bool) -> tuple[str, ...]:
    if given:
        return tuple(given)
    return (*sorted({"localhost", "127.0.0.1", "::1", host.strip("[]")}),) if local else ()


def _serve(made: Any, host: str, port: int, root_path: str) -> None:
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtra("cloudq dashboard", "dashboard") from error

    class Server(uvicorn.Server):
        """Ends the streams before it waits for connections to end."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """As uvicorn's own, but being told to stop is no failure: the process ends with 0."""
            numbers = (signal.SIGINT, signal.SIGTERM)
            before = {each: signal.signal(each, self.handle_exit) for each in numbers}
            try:
                yield
            finally:
                for each, handler in before.items():
                    signal.signal(each, handler)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            made.state.site.sampler.stop()
            super().handle_exit(sig, frame)

    # What a proxy says of the client is judged by the dashboard itself, by trusted_proxies.
    config = uvicorn.Config(
        made,
        host=host,
        port=port,
        root_path=root_path,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )
    with _listening(host, port) as listener:
        bound = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        err.print(
            f"cloudq dashboard: http://{shown}:{bound}{root_path}/  (process {os.getpid()}, Ctrl+C ends it)",
            markup=False,
            soft_wrap=True,
        )
        Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.create_server((address[0], port), family=family)
    except OSError as error:
        raise ImproperlyConfigured(f"the dashboard cannot listen on {host}, port {port}: {error}") from error
    return made
