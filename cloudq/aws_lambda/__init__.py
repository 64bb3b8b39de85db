"""The tasks of an app in AWS Lambda: ``handler = make_handler(app)``."""

from __future__ import annotations

from cloudq.aws_lambda.handler import Handler, make_handler

__all__ = ["Handler", "make_handler"]
