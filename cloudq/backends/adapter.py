"""How the clients of Google and Azure, both on ``requests``, reach the network."""

from __future__ import annotations

from typing import Any, Final

_NO_BODY: Final = (204, 304)


def mount(session: Any, connections: int) -> None:
    """Give a requests session a pool of so many connections that takes no answer which broke off for a whole one.

    The clients' own pools keep ten connections, and log a warning about each further one.
    """
    from requests.adapters import HTTPAdapter
    from requests.exceptions import ConnectionError as Broken

    class WholeAnswers(HTTPAdapter):
        """``http.client`` takes the end of a connection for the end of the head: an answer whose head was cut in
        two would pass for one without a body, and an object for one without a byte."""

        def send(self, request: Any, *args: Any, **options: Any) -> Any:
            answer = super().send(request, *args, **options)
            length, coding = answer.headers.get("content-length", ""), answer.headers.get("transfer-encoding")
            if (
                length.isdigit()
                or coding == "chunked"
                or request.method == "HEAD"
                or answer.status_code in _NO_BODY
            ):
                return answer
            answer.close()
            raise Broken("the head of the answer broke off", request=request)

    for scheme in ("https://", "http://"):
        session.mount(scheme, WholeAnswers(pool_connections=4, pool_maxsize=connections))
