"""What importing cloudq costs beyond a bare interpreter: median of 15 processes each, milliseconds."""

import statistics
import subprocess
import sys
import time

DECLARE = "from cloudq import CloudQ\napp = CloudQ('x')\n@app.task\ndef f(): ..."
SEND = DECLARE + "\napp.conf.update(broker_url='memory://', result_backend='memory://')\nf.delay()"


def median(code: str, runs: int = 15) -> float:
    """Milliseconds of a whole process."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


if __name__ == "__main__":
    bare = median("pass")
    print(f"bare interpreter           {bare:6.1f} ms")
    for name, code in (
        ("import cloudq", "import cloudq"),
        ("and declare a task", DECLARE),
        ("and send it", SEND),
    ):
        print(f"{name:<26} {median(code) - bare:6.1f} ms more")
