"""Ask for known holes in what is installed beside this interpreter; a hole fails, an unreachable service is said."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig

#: Advisory id -> why it does not concern us. None at present.
ACCEPTED: dict[str, str] = {}


def main() -> int:
    """0: none known (or nobody to ask), 1: holes, each on a line."""
    command = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "-f", "json"]
    command += ["--path", sysconfig.get_path("purelib")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)  # noqa: S603
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip() or "no answer").splitlines()[-1]
        print(f"pip-audit could not ask for advisories, nothing is known: {last}")  # noqa: T201
        return 0
    skipped = [each["name"] for each in found if "skip_reason" in each]
    if found and len(skipped) == len(found):
        why = found[0]["skip_reason"]
        print(f"pip-audit could ask for none of {len(found)} packages, nothing is known: {why}")  # noqa: T201
        return 0
    holes = [(each, hole) for each in found for hole in each.get("vulns", ()) if hole["id"] not in ACCEPTED]
    for each, hole in holes:
        fixed = ", ".join(hole["fix_versions"]) or "no release yet"
        print(f"{each['name']} {each['version']}: {hole['id']} (fixed in {fixed})")  # noqa: T201
    print(f"pip-audit: {len(found) - len(skipped)} asked, {len(skipped)} not known there, {len(holes)} holes")  # noqa: T201
    return 1 if holes else 0


if __name__ == "__main__":
    sys.exit(main())
