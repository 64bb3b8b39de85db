"""What importing cloudq costs beyond a bare interpreter: median of 15 processes each, milliseconds.

Once with compiled bytecode, as installed packages have it, and once compiling every time, as under
``PYTHONDONTWRITEBYTECODE=1`` in an image whose packages were installed without it.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

DECLARE = "from cloudq import CloudQ\napp = CloudQ('x')\n@app.task\ndef f(): ..."
SEND = DECLARE + "\napp.conf.update(broker_url='memory://', result_backend='memory://')\nf.delay()"
CASES = {
    "bare interpreter": "pass",
    "import cloudq": "import cloudq",
    "and declare a task": DECLARE,
    "and send it": SEND,
}
RUNS = 15


def medians(environ: dict[str, str], folder: str) -> dict[str, float]:
    """Milliseconds of a whole process; the cases take turns, so that a busy moment hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for turn in range(RUNS + 1):
        for name, code in CASES.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, env=environ, cwd=folder)
            if turn:  # the first turn fills caches
                times[name].append((time.perf_counter() - started) * 1000)
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environ = {**os.environ, "PYTHONPATH": root}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as folder:
        for title, more in (
            ("bytecode present", {"PYTHONPYCACHEPREFIX": os.path.join(folder, "bytecode")}),
            ("compiled every time", {"PYTHONDONTWRITEBYTECODE": "1"}),
        ):
            found = medians({**environ, **more}, folder)
            bare = found.pop("bare interpreter")
            print(f"{title}: a bare interpreter takes {bare:.1f} ms")
            for name, value in found.items():
                print(f"  {name:<20} {value - bare:6.1f} ms more")


if __name__ == "__main__":
    main()
