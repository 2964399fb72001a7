"""Exits with 0 where the service answers requests, for Docker's HEALTHCHECK; the image has no curl.

Nothing but the standard library, and run without site-packages (``-S``), so that it takes little of the CPU.
"""

import http.client
import os
import sys

TIMEOUT_S = 4


def main() -> int:
    """0 where ``/v2/health/ready`` says so, else 1."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("DLENV_PORT") or 8000), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/v2/health/ready")
        return int(connection.getresponse().status != 200)
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
