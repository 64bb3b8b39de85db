"""``python -m benchmarks.field.server PORT``"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys

from benchmarks.field.server.http import Line, Site


async def serve(port: int) -> None:
    """Until the process is ended."""
    site = Site()
    site.queues.base = f"http://127.0.0.1:{port}"
    server = await asyncio.get_running_loop().create_server(lambda: Line(site), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


def main() -> None:
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(int(sys.argv[1])))


main()
