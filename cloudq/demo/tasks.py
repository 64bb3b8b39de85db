"""A small shop: what ``cloudq demo`` sends to a real worker."""

from __future__ import annotations

from typing import Any

from cloudq import CloudQ

app = CloudQ("demo")


class CardDeclined(Exception):
    """The bank said no."""


@app.task
def add(x: int, y: int) -> int:
    """The smallest task there is."""
    return x + y


@app.task(bind=True, autoretry_for=(ConnectionError,), retry_backoff=0.05, retry_jitter=False, max_retries=5)
def fetch_rate(self: Any, currency: str) -> str:
    """A shaky service: answers at the third try."""
    if self.request.retries < 2:
        raise ConnectionError(f"the rate service did not answer (try {self.request.attempt})")
    return f"1 EUR = 1.08 {currency}, at try {self.request.attempt}"


@app.task
def charge(order: int, cents: int) -> str:
    """Fails, so that there is a traceback to look at."""
    if cents > 100_000:
        raise CardDeclined(f"order {order}: {cents / 100:.2f} is over the limit")
    return "paid"
