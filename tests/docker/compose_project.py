"""A Compose project of the tests' own: what they do with Docker goes through here."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

START_S = 600
# Everything that something listens on: the rows of the kernel's tables in state 0A, or for UDP 07 (proc(5)).
LISTENING = """
import ipaddress, pathlib
for name in ("tcp", "tcp6", "udp", "udp6"):
    for line in pathlib.Path("/proc/net", name).read_text().splitlines()[1:]:
        local, state = line.split()[1], line.split()[3]
        if state == ("0A" if name.startswith("tcp") else "07"):
            words, port = local.split(":")
            raw = b"".join(bytes.fromhex(words[i : i + 8])[::-1] for i in range(0, len(words), 8))
            print(name[:3], ipaddress.ip_address(raw), int(port, 16))
"""


def docker(*words: object, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run ``docker`` and return what it said; an error shows both its outputs."""
    done = subprocess.run(["docker", *map(str, words)], capture_output=True, text=True, **more)
    assert not check or done.returncode == 0, f"docker {words}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done


class Project(NamedTuple):
    """One ``docker compose`` project in a checkout."""

    name: str
    checkout: Path
    files: tuple[str, ...]
    variables: dict[str, str]

    def compose(self, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """``docker compose`` as a user would run it in the checkout, with this project's variables."""
        files = [word for file in self.files for word in ("-f", file)]
        # Those of whoever runs the tests would change what is tested.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DLENV_")}
        return docker(
            "compose", *files, "-p", self.name, *words,
            check=check, cwd=self.checkout, env={**environment, **self.variables},
        )  # fmt: skip

    def up(self, *words: object) -> None:
        """Start it and wait until it is healthy."""
        try:
            self.compose("up", "--detach", "--wait", "--wait-timeout", START_S, *words)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.compose('logs', '--tail', 60, check=False).stdout}") from None

    def container(self, service: str = "dlenv") -> Container:
        """The one container of a service."""
        return self.containers(service)[0]

    def containers(self, service: str = "dlenv") -> list[Container]:
        """All containers of a service, also those that do not run."""
        return [Container(line) for line in self.compose("ps", "--all", "--quiet", service).stdout.split()]


class Listener(NamedTuple):
    """A socket that something listens on."""

    protocol: str
    address: str
    port: int


class Container(NamedTuple):
    """A container by its id."""

    id: str

    @property
    def facts(self) -> dict[str, Any]:
        """What ``docker inspect`` tells."""
        found: list[dict[str, Any]] = json.loads(docker("inspect", self.id).stdout)
        return found[0]

    @property
    def address(self) -> str:
        """Where the host reaches it directly, on every port that it listens on."""
        (network,) = self.facts["NetworkSettings"]["Networks"].values()
        return str(network["IPAddress"])

    def listening(self) -> list[Listener]:
        """Every TCP and UDP socket that something listens on inside."""
        lines = [line.split() for line in self.python(LISTENING).stdout.splitlines()]
        return [Listener(protocol, address, int(port)) for protocol, address, port in lines]

    @property
    def health(self) -> str:
        """``starting``, ``healthy`` or ``unhealthy``; empty while it does not run."""
        state = self.facts["State"]
        return str(state["Health"]["Status"]) if state["Running"] else ""

    def python(self, code: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Python code inside."""
        return docker("exec", self.id, "/opt/dlenv/bin/python", "-I", "-c", code, check=check)
