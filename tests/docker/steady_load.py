"""Clients that never stop asking, and what became of each request."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PATH = "/v2/models/spiral-mlp/infer"
BODY = json.dumps({"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [0.5, -0.5]}]})


class Load:
    """Requests on kept-alive connections, as quick as they are answered.

    ``outcomes`` counts answers by status; ``refused`` are connections that nobody accepted, ``lost`` are requests that
    were sent on a connection that had been accepted, and got no answer.
    """

    def __init__(self, host: str, port: int, headers: dict[str, str]) -> None:
        self.host, self.port, self.headers = host, port, headers
        self.outcomes: Counter[str] = Counter()
        self.last_failure = 0.0  # monotonic time
        self._stop = threading.Event()

    def answered(self) -> int:
        """Requests that got what they asked for."""
        return self.outcomes["200"]

    def failed(self) -> Counter[str]:
        """All others, by what became of them; refused ones left out."""
        return Counter({name: count for name, count in self.outcomes.items() if name not in ("200", "refused")})

    def wait(self, more: int, timeout_s: float = 60) -> None:
        """Wait until so many more requests are answered."""
        until, goal = time.monotonic() + timeout_s, self.answered() + more
        while self.answered() < goal:
            assert time.monotonic() < until, f"{self.answered()} of {goal} answers: {self.outcomes}"
            time.sleep(0.01)

    def run(self) -> None:
        """One client."""
        connection = None
        while not self._stop.is_set():
            if connection is None:
                connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
                try:
                    connection.connect()
                except OSError:
                    self._count("refused")
                    connection = None
                    time.sleep(0.05)
                    continue
            try:
                connection.request("POST", PATH, BODY, self.headers)
                answer = connection.getresponse()
                answer.read()
                self._count(str(answer.status))
                closes = answer.will_close
            except (OSError, http.client.HTTPException):
                self._count("lost")
                closes = True
            if closes:
                connection.close()
                connection = None
        if connection is not None:
            with suppress(OSError):
                connection.close()

    def _count(self, outcome: str) -> None:
        self.outcomes[outcome] += 1
        if outcome != "200":
            self.last_failure = time.monotonic()

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()


@contextmanager
def load(host: str, port: int, clients: int = 8, headers: dict[str, str] | None = None) -> Iterator[Load]:
    """Clients that run until the end of the block."""
    it = Load(host, port, {"Content-Type": "application/json", **(headers or {})})
    threads = [threading.Thread(target=it.run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield it
    finally:
        it.stop()
        for thread in threads:
            thread.join()
