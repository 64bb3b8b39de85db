"""A contestant's sending process: reads orders from standard input, says what each cost.

An order is a line ``{"do": "single", "count": 1000}``; the answer a line with CPU and wall seconds.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any


def main() -> None:
    sender: Any = importlib.import_module(f"benchmarks.field.contestants.{sys.argv[1]}").Sender()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        arguments = [order["count"]] if "count" in order else []
        cpu, wall = time.process_time(), time.perf_counter()
        found = getattr(sender, order["do"])(*arguments)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(json.dumps({"cpu": cpu, "wall": wall, "found": found}), flush=True)


if __name__ == "__main__":
    main()
