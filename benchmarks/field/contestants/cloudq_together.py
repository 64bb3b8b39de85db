"""cloudq, with results that are ready at once written in one request."""

from __future__ import annotations

import os

os.environ["FIELD_HOW"] = "&group_commit=true"

from benchmarks.field.contestants.cloudq_app import Sender, app

__all__ = ["Sender", "app"]
