"""moto inside this process, which stands in for AWS by catching what botocore sends."""

from __future__ import annotations

import sys


def sdk_is_mocked() -> bool:
    """Does moto stand in for AWS inside this process? It catches what goes through botocore only."""
    moto = sys.modules.get("moto.core.models")
    return moto is not None and bool(moto.botocore_stubber.enabled)
