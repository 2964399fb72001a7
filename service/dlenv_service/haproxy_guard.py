"""Started in HAProxy's place: takes off the network what Ray put on it, then becomes HAProxy.

Ray writes HAProxy's configuration from a template (ray/serve/_private/haproxy_templates.py) that binds the statistics
page and the metrics to all interfaces without a password and gives the admin socket to every user of the machine;
no setting changes that. Ray starts whatever ``RAY_SERVE_HAPROXY_BINARY_PATH`` names, so this script stands there:
``haproxy_guard.py REAL_BINARY -db -f haproxy.cfg ...``. It runs without site-packages, so it uses nothing but the
standard library. A template that it does not recognise stops the start: better no service than an open one.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from pathlib import Path

__all__ = ["guard", "main"]

PR_SET_PDEATHSIG = 1  # linux/prctl.h

# Seconds for a request's headers to arrive. Ray leaves it out, so a client could hold a connection open for ever.
HEADER_TIMEOUT = "timeout http-request 10s"

STATISTICS = re.compile(r"(?m)^(listen stats\s*\n\s*bind )\*?:(\d+)$")
METRICS = re.compile(r"(?m)^(frontend prometheus\s*\n\s*bind )\*?:(\d+)$")
SOCKET = re.compile(r"(?m)^(\s*stats socket .* )mode 666( .*)$")
DEFAULTS = re.compile(r"(?m)^(defaults\s*\n)")


def guard(configuration: str) -> str:
    """The configuration with statistics, metrics and admin socket for this machine and this user only.

    Applying it twice changes nothing more.

    Raises:
        ValueError: the configuration is not what this guard knows.
    """
    if HEADER_TIMEOUT in configuration:
        return configuration
    for name, pattern, replacement in (
        ("statistics page", STATISTICS, r"\g<1>127.0.0.1:\2"),
        ("metrics", METRICS, r"\g<1>127.0.0.1:\2"),
        ("admin socket", SOCKET, r"\1mode 600\2"),
        ("defaults", DEFAULTS, rf"\1    {HEADER_TIMEOUT}\n"),
    ):
        configuration, count = pattern.subn(replacement, configuration)
        if count != 1:
            raise ValueError(f"HAProxy's configuration has {count} places for the {name}, not one; Ray has changed it")
    return configuration


def main(arguments: list[str]) -> None:
    """Guard the file after ``-f``, then become the program named first."""
    binary, *rest = arguments
    path = Path(rest[rest.index("-f") + 1])
    try:
        path.write_text(guard(path.read_text(encoding="utf-8")), encoding="utf-8")
    except ValueError as error:
        sys.exit(f"{error}.")
    # HAProxy outlives the process that started it and keeps the port; so it goes when that goes.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execv(binary, [binary, *rest])  # noqa: S606 - this is the point


if __name__ == "__main__":
    main(sys.argv[1:])
