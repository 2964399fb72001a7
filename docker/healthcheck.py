"""Exits with 0 where the service answers requests, for Docker's HEALTHCHECK; the image has no curl.

``healthcheck.py [PORT PATH]`` asks something else than the service itself. Nothing but the standard library, and run
without site-packages (``-S``), so that it takes little of the CPU.
"""

import http.client
import os
import sys

TIMEOUT_S = 4


def main(port: str = os.environ.get("DLENV_PORT") or "8000", path: str = "/v2/health/ready") -> int:
    """0 where the answer is 200, else 1."""
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        return int(connection.getresponse().status != 200)
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
