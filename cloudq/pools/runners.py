"""From a RunnerSpec to a runner, and what becomes of one that breaks its promises."""

from __future__ import annotations

import logging

from cloudq.errors import ImproperlyConfigured
from cloudq.plugins import load_object
from cloudq.pools.base import Died, Runner, RunnerSpec

logger = logging.getLogger("cloudq.pools")


def make(spec: RunnerSpec) -> Runner:
    """Call the factory. Raises ImproperlyConfigured, with the cause, when that fails."""
    try:
        runner: Runner = load_object(spec.factory)(*spec.args)
    except Exception as error:
        raise ImproperlyConfigured(
            f"the pool's runner {spec.factory} could not be made: {type(error).__name__}: {error}"
        ) from error
    return runner


def broken(error: BaseException) -> Died:
    """The end of a job whose runner raised, which runners promise not to do."""
    logger.error("the runner raised instead of returning a reply", exc_info=error)
    return Died(f"the runner raised {type(error).__name__}: {error}")


def close(runner: Runner | None) -> None:
    """Close the runner; what that raises is logged."""
    if runner is None:
        return
    try:
        runner.close()
    except Exception:
        logger.exception("closing the pool's runner failed")
