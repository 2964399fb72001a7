"""A service from its start to the end of its last process, and what it costs meanwhile.

Every process of a service carries the variable `BENCH_SERVICE` in its environment. Ray's processes and HAProxy leave
the tree of the process that started them, so the variable finds them; where a title was written over it, their parents
do.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sysconfig
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import psutil
from services import PEERS, Failed, Service

MARK = "BENCH_SERVICE"
READY_WITHIN = 180.0  # seconds
STOPPED_WITHIN = 90.0  # seconds; `serve run` takes about 30


class Running:
    """A service that runs, from its start to the end of its last process."""

    def __init__(self, service: Service, scratch: Path) -> None:
        self.service = service
        self.port = free_port()
        self.id = uuid.uuid4().hex
        self.log = scratch / "log"
        self.url = f"http://127.0.0.1:{self.port}{service.path}"
        self._known: dict[int, psutil.Process] = {}
        values = {
            "python": service.python,
            "bin": service.python.parent,
            "libraries": sysconfig.get_config_var("LIBDIR"),
            "port": self.port,
            "scratch": scratch,
        }
        words = [word.format(**values) for word in service.command]
        # What `serve run` takes: the application, and where to listen.
        config = {
            "http_options": {"host": "127.0.0.1", "port": self.port},
            "logging_config": {"enable_access_log": False},
            "applications": [{"name": "lenet", "route_prefix": "/", "import_path": "plain_server:app"}],
        }
        (scratch / "serve.json").write_text(json.dumps(config))
        environment = {**os.environ, MARK: self.id, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(PEERS)}
        environment.update({name: value.format(**values) for name, value in service.variables})
        self.began = time.perf_counter()
        with self.log.open("wb") as log:
            self._process = self._start(words, environment, log)

    def _start(self, words: list[str], environment: dict[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        try:
            # A session of its own: Ctrl-C is for the benchmark, which stops its services itself.
            return subprocess.Popen(
                words,
                cwd=PEERS,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise Failed(f"{words[0]}: {error.strerror}") from None

    def wait_ready(self, answers: Callable[[], bool]) -> float:
        """Seconds from the start to the first right answer; raises ``Failed`` with the end of its log."""
        while time.perf_counter() - self.began < READY_WITHIN:
            if self._process.poll() is not None:
                raise Failed(f"it ended with exit code {self._process.returncode}: {self.said()}")
            if answers():
                return time.perf_counter() - self.began
            time.sleep(0.05)
        raise Failed(f"not ready within {READY_WITHIN:.0f} s: {self.said()}")

    def said(self) -> str:
        return self.log.read_text(errors="replace").strip()[-500:]

    def processes(self) -> list[psutil.Process]:
        """Every live process of the service: those with the mark, those once seen, and all their descendants."""
        found = {pid: process for pid, process in self._known.items() if process.is_running()}
        everyone = list(psutil.process_iter())
        for process in everyone:
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get(MARK) == self.id:
                    found[process.pid] = process
        more = True
        while more:
            more = False
            for process in everyone:
                with contextlib.suppress(psutil.Error):
                    if process.pid not in found and process.ppid() in found:
                        found[process.pid], more = process, True
        alive = {}
        for pid, process in found.items():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE:
                    alive[pid] = process
        self._known = alive
        return list(alive.values())

    def cpu_seconds(self) -> dict[psutil.Process, float]:
        """User and system time of each process so far."""
        used = {}
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                used[process] = times.user + times.system
        return used

    def memory_mib(self) -> float:
        """Proportional set size of all processes; resident size where the system does not tell it."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                memory = process.memory_full_info()
                total += getattr(memory, "pss", 0) or memory.rss
        return total / 2**20

    @contextlib.contextmanager
    def pinned(self) -> Iterator[None]:
        """The service on one half of the cores and this process, with the load that it starts, on the other."""
        cores = sorted(os.sched_getaffinity(0))
        half = max(1, len(cores) // 2)
        self._pin(cores[:half])
        os.sched_setaffinity(0, cores[half:] or cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, cores)
            self._pin(cores)

    def _pin(self, cores: list[int]) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                for thread in process.threads():
                    os.sched_setaffinity(thread.id, cores)

    def stop(self) -> float:
        """End it as its user would, and then what is left of it; seconds until its first process had ended.

        NaN where that had to be killed.
        """
        self.processes()
        began = time.perf_counter()
        seconds = float("nan")
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(self.service.stop)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOPPED_WITHIN)
            seconds = time.perf_counter() - began
        self.end()
        return seconds

    def end(self) -> None:
        """End every process that is left, SIGKILL after 5 seconds."""
        self.processes()
        until = time.monotonic() + 5
        while left := self.processes():
            for process in left:
                with contextlib.suppress(psutil.Error):
                    if time.monotonic() > until:
                        process.kill()
                    else:
                        process.terminate()
            self._process.poll()
            time.sleep(0.1)
        self._process.wait()


@contextlib.contextmanager
def running(service: Service) -> Iterator[Running]:
    """Start a service; whatever happens, none of its processes and files outlives the block."""
    # Short: Ray's sockets lie below it, and a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="dlb", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        started = Running(service, Path(scratch))
        try:
            yield started
        finally:
            started.end()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
