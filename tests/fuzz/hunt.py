"""Coverage-guided fuzzing (libFuzzer by way of ``atheris``) of all that comes in from outside: ``make fuzz``.

Where there is no ``atheris`` for this Python, texts are changed blindly instead, which is said. Each reader gets a process of its own and starts from its seeds and from what was ever found. Inputs are bred by which
lines and comparisons of cloudq they reach, so this finds what blind changes do not. A text that
a reader does not answer as it must is kept below ``found/`` (to be committed with the repair: the tests feed it
from then on), and the run ends with exit code 1. With the same ``--seed`` and code a longer run begins as a shorter one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

#: Bytes of an input at most: seeds have up to 3 KB.
LONGEST = 8192
#: Seconds and MiB that one input may take: bombs and endless loops fail. Much, for a machine may be busy.
PATIENCE, MEMORY = 120, 1024
READERS = ("message", "cron", "plain", "event", "request", "secrets")


def main() -> int:
    """0: nothing was found; 1: something was, and where it lies was printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(READERS)}; default: all")
    parser.add_argument("--runs", type=int, default=100_000, help="inputs for each reader at most")
    parser.add_argument("--seconds", type=int, default=40, help="for each reader at most")
    parser.add_argument("--seed", type=int, default=10)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        hunt(chosen.readers[0], chosen.runs, chosen.seconds, chosen.seed)
        return 0
    failed = 0
    for reader in chosen.readers or READERS:
        given = ["--runs", chosen.runs, "--seconds", chosen.seconds, "--seed", chosen.seed]
        command = [sys.executable, __file__, "--one", reader, *map(str, given)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        lines = done.stderr.splitlines()
        summary = next((each for each in reversed(lines) if each.startswith("Done ")), "")
        print(f"{reader}: {summary or 'ended with ' + str(done.returncode)}", flush=True)
        if done.returncode or not summary:
            failed = 1
            print("\n".join((done.stdout + done.stderr).splitlines()[-60:]), flush=True)
            print(
                f"kept in {HERE / 'found' / reader}: `make fuzz` again with --seed {chosen.seed} finds it, too"
            )
    return failed


def hunt(reader: str, runs: int, seconds: int, seed: int) -> None:
    """Feed one reader; ends the process."""
    try:
        import atheris
    except ImportError:
        change_blindly(reader, runs, seconds, seed)
        return

    with atheris.instrument_imports(include=["cloudq"]):
        import fuzz_targets

        from cloudq.aws_lambda import api

        api.MAX_WAIT = 0.0  # waiting finds nothing
        feed = fuzz_targets.FEEDS[reader]
        for text in fuzz_targets.seeds_of(reader):  # what is imported on the way is watched as well
            feed(text)
    found = fuzz_targets.KEPT / reader
    found.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        bred, seeds, words = (Path(folder, name) for name in ("bred", "seeds", "words"))
        bred.mkdir()
        seeds.mkdir()
        for number, text in enumerate(fuzz_targets.starts(reader)):
            if len(raw := text.encode("utf-8", "replace")) <= LONGEST:
                (seeds / f"{number:04}").write_bytes(raw)
        words.write_text("".join(f'"{_escaped(each)}"\n' for each in fuzz_targets.TOKENS))
        atheris.Setup(
            [
                sys.argv[0],
                str(bred),
                str(seeds),
                f"-dict={words}",
                f"-artifact_prefix={found}{os.sep}",
                f"-runs={runs}",
                f"-max_total_time={seconds}",
                f"-seed={seed}",
                f"-max_len={LONGEST}",
                f"-timeout={PATIENCE}",
                f"-rss_limit_mb={MEMORY}",
                "-reload=0",
                "-verbosity=1",
            ],
            lambda data: feed(data.decode("utf-8", "replace")),
        )
        atheris.Fuzz()


def change_blindly(reader: str, runs: int, seconds: int, seed: int) -> None:
    """The same without ``atheris``: parts of known texts are cut, doubled, swapped and replaced."""
    import fuzz_targets

    feed, starts, dice = fuzz_targets.FEEDS[reader], fuzz_targets.starts(reader), random.Random(seed)
    end, count = time.monotonic() + seconds, 0
    while count < runs and time.monotonic() < end:
        text = dice.choice(starts)[:LONGEST]
        for _ in range(dice.randint(0, 6)):
            start = dice.randint(0, len(text))
            stop = min(len(text), start + dice.randint(0, 40))
            others = (
                dice.choice(fuzz_targets.TOKENS),
                text[start:stop] * 2,
                "",
                chr(dice.randint(0, 0x2FFF)),
            )
            text = text[:start] + dice.choice(others) + text[stop:]
        try:
            feed(text)
        except Exception:
            name = f"crash-{hashlib.sha1(text.encode('utf-8', 'replace')).hexdigest()}"
            (fuzz_targets.KEPT / reader).mkdir(parents=True, exist_ok=True)
            (fuzz_targets.KEPT / reader / name).write_bytes(text.encode("utf-8", "replace"))
            raise
        count += 1
    print(f"Done {count} runs, changed blindly: there is no atheris here", file=sys.stderr)


def _escaped(word: str) -> str:
    """As libFuzzer's dictionaries have it."""
    return "".join(f"\\x{byte:02x}" for byte in word.encode("utf-8", "replace")[:64])


if __name__ == "__main__":
    sys.exit(main())
