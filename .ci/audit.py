"""`python .ci/audit.py`: asks a service of advisories for each installed version; exit 1 where one is known to be vulnerable.

Where the service cannot be asked, as behind a mirror that has packages and no advisories, it says so and exits 0: what nobody can know must
not stop a change. `poe check` runs it; so does `poe audit`, with `--required`, by which that is a failure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

PYPI = f"https://pypi.org/pypi/pip-audit/{version('pip-audit')}/json"
"""A page of the kind that the audit reads, which is there whenever the service is."""
_PROBE_S = 5.0
_SOCKET_S = 5
_PROBES = 2


def unreachable(probe: str) -> str:
    """Returns why the service cannot be asked, or an empty string where it answers as one.

    Takes at most some ten seconds. A mirror that has no advisories answers, too, but not with JSON that has `vulnerabilities`.
    """
    why = ""
    for _ in range(_PROBES):  # one lost packet is no outage
        try:
            with urllib.request.urlopen(probe, timeout=_PROBE_S) as reply:  # noqa: S310  # bandit: https, or a test's own
                return "" if "vulnerabilities" in json.load(reply) else f"{probe} answers without advisories"
        except urllib.error.HTTPError as error:
            return f"{probe} answers {error.code}"
        except ValueError:
            return f"{probe} answers with something else than JSON"
        except OSError as error:  # URLError and timeouts are
            why = f"{probe}: {getattr(error, 'reason', error)}"
    return why


def vulnerable(report: dict[str, Any]) -> list[str]:
    """Returns a line for each vulnerability in pip-audit's JSON: package, version, advisory, and what to upgrade to."""
    lines = []
    for one in report["dependencies"]:
        for found in one.get("vulns", ()):
            fixes = ", ".join(found["fix_versions"])
            lines.append(f"{one['name']} {one['version']}: {found['id']}, {f'fixed in {fixes}' if fixes else 'no fix yet'}")
    return lines


def audit(probe: str, arguments: Sequence[str], *, seconds: float) -> tuple[bool | None, str]:
    """Returns whether no installed version is known to be vulnerable, None where nobody could say, and a text that says it.

    Args:
        probe: A page of the service, in PyPI's form.
        arguments: Further ones of pip-audit.
        seconds: The audit is given up after so long.
    """
    if why := unreachable(probe):
        return None, why
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--timeout", str(_SOCKET_S), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return None, f"the service did not answer for every package within {seconds:g} s"
    try:
        report = json.loads(done.stdout)
    except ValueError:
        if why := unreachable(probe):
            return None, f"the service went away: {why}"
        return False, f"pip-audit failed: {done.stderr.strip()[-2000:]}"
    asked = [one for one in report["dependencies"] if "skip_reason" not in one]
    if not asked:
        return None, f"the service knows none of {len(report['dependencies'])} packages"
    found = vulnerable(report)
    return not found, "\n".join(found) or f"{len(asked)} packages, no known vulnerability"


def main() -> None:
    """Audits this environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="give up after so long (default: %(default)g)")
    parser.add_argument("--required", action="store_true", help="fail where the service cannot be asked")
    parser.add_argument("--probe", default=PYPI, help=argparse.SUPPRESS)
    given, arguments = parser.parse_known_args()
    started = time.monotonic()
    fine, text = audit(given.probe, arguments or ["--local", "--skip-editable"], seconds=given.seconds)
    if fine is None:
        print(f"audit of dependencies {'impossible' if given.required else 'skipped'} after {time.monotonic() - started:.1f} s: {text}")
        sys.exit(int(given.required))
    print(f"audit of dependencies: {text}")
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
