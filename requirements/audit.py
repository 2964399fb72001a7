"""Known vulnerabilities in the locked versions, as PyPI tells them: exits with 1 where there are some.

    make audit
    make audit OSV_URL=https://api.osv.dev/v1/query      another service, or a mirror of it, with the same interface

pip-audit itself looks at what would be installed on this machine; here at all versions that are locked, for every
Python and system. Where PyPI can't be reached it says so and ends with 0: nothing was found out.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
# The others are parts of dev.txt, with the same versions.
FILES = ("dev.txt", "audit.txt")
LOCKED = re.compile(r"^(?P<name>[a-z0-9][a-z0-9.-]*)==(?P<version>[^ ;\\]+)", re.MULTILINE)
# PyPI knows this one: where it says nothing about it, advisories can't be had there (mirrors may lack them).
PROBE = ("pip", "24.0")
# What pip-audit ends with where nobody answers: its own words, or the exception that it leaves to Python.
NO_ANSWER = re.compile(r"^requests\.exceptions\.\w+: .*|Could not connect to .*|PyPI is not .*", re.MULTILINE)
# Advisories that don't concern dlenv, by id, and why.
ACCEPTED: dict[str, str] = {}


class NotLookedForError(Exception):
    """Advisories can't be had; the message says why."""


class Found(NamedTuple):
    """A vulnerability of a locked version."""

    name: str
    version: str
    id: str
    fixed: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}: {self.id}, {f'fixed in {self.fixed}' if self.fixed else 'not fixed yet'}"


def locked(files: list[Path]) -> list[list[tuple[str, str]]]:
    """Name and version of everything that is locked; in several lists, since pip-audit takes one version of a name."""
    versions: dict[str, list[str]] = {}
    for file in files:
        for match in LOCKED.finditer(file.read_text(encoding="utf-8")):
            of_name = versions.setdefault(match["name"], [])
            if match["version"] not in of_name:
                of_name.append(match["version"])
    most = max(map(len, versions.values()), default=0)
    return [[(name, found[i]) for name, found in versions.items() if i < len(found)] for i in range(most)]


def audit(packages: list[tuple[str, str]], service: tuple[str, ...] = ()) -> list[Found]:
    """What pip-audit finds in these; ``service`` is where it asks, as its own options.

    Raises:
        NotLookedForError: the advisories can't be had there.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "locked.txt")
        # A local version (1.0+cu128) is not known there; its public part is.
        file.write_text("".join(f"{name}=={version.partition('+')[0]}\n" for name, version in packages))
        words = ("--requirement", file, "--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json")
        command = (sys.executable, "-m", "pip_audit", *service, *words)
        done = subprocess.run(command, capture_output=True, text=True)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.strip()
        if reason := NO_ANSWER.search(said):
            raise NotLookedForError(reason.group()) from None
        sys.exit(f"pip-audit failed: {said[-2000:]}")
    skipped = [each["skip_reason"] for each in report["dependencies"] if "skip_reason" in each]
    if skipped:
        raise NotLookedForError("\n".join(skipped))
    return [
        Found(each["name"], each["version"], advisory["id"], ", ".join(advisory["fix_versions"]))
        for each in report["dependencies"]
        for advisory in each["vulns"]
    ]


def main(*files: str) -> int:
    """Look at the files, by default all of them; 1 where there is something that is not accepted."""
    osv = os.environ.get("OSV_URL")
    service = ("--vulnerability-service", "osv", "--osv-url", osv) if osv else ()
    if not osv:
        try:
            audit([PROBE])
        except NotLookedForError as error:
            print(f"audit: known vulnerabilities were NOT looked for: {error}", file=sys.stderr)
            return 0
    lists = locked([Path(file) for file in files] or [HERE / name for name in FILES])
    try:
        found = [each for packages in lists for each in audit(packages, service)]
    except NotLookedForError as error:
        sys.exit(f"audit: not everything was looked at: {error}")
    for each in found:
        print(each, f"(accepted: {ACCEPTED[each.id]})" if each.id in ACCEPTED else "", file=sys.stderr)
    open_ = [each for each in found if each.id not in ACCEPTED]
    print(f"audit: {sum(map(len, lists))} locked versions, {len(open_)} known vulnerabilities", file=sys.stderr)
    return 1 if open_ else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
