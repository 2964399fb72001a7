"""One process of the load generator: a loop over non-blocking sockets, with as little as possible for each request."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import select
import selectors
import socket
import ssl
import time
from collections import deque
from pathlib import Path
from typing import Any

from dlenv.bench.answer import Answer, BadAnswer, Parser
from dlenv.bench.job import Job, Outcome

DRAIN = 5.0  # seconds after its end that an open loop waits for the answers to what was due within it
_PAUSE = 0.05  # seconds before a closed loop connects again after a failure, so that it does not just spin
_RECEIVE = 65536  # bytes asked for at once
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

_clock = time.monotonic  # one clock for all processes of the machine


class _Connection:
    """A socket, and the request that is on its way on it."""

    __slots__ = ("connected", "due", "expect", "parser", "rest", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.parser = Parser()
        self.connected = False
        self.due: float | None = None  # None: no request is on its way
        self.expect = b""
        self.rest: memoryview | None = None  # what of the request is not sent yet


class Load:
    """A job, from its first connection to its outcome."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._tls = ssl.create_default_context() if job.address.tls else None
        found = socket.getaddrinfo(job.address.host, job.address.port, type=socket.SOCK_STREAM)[0]
        self._family, self._peer = found[0], found[4]
        self._selector = selectors.DefaultSelector()
        self._turn = 0
        self._connections: set[_Connection] = set()
        self._connecting = 0
        self._idle: deque[_Connection] = deque()
        self._line: deque[float] = deque()  # open loop: when each request was due that no connection took yet
        self._again: deque[float] = deque()  # closed loop: when to connect again
        self._outcome = Outcome()
        self._from = self._until = 0.0

    def run(self, start: float) -> Outcome:
        """Ask from ``start`` (``time.monotonic``) on; measures after the warm-up, for the job's duration."""
        self._from = start + self._job.warm_up
        self._until = self._from + self._job.duration
        time.sleep(max(0.0, start - _clock()))
        try:
            if self._job.rate is None:
                self._closed()
            else:
                self._open_loop(start, self._job.rate)
        finally:
            for connection in self._connections:
                connection.sock.close()
            self._selector.close()
        return self._outcome

    def _closed(self) -> None:
        for _ in range(self._job.connections):
            self._connect(_clock())
        before = None
        while (now := _clock()) < self._until:
            if before is None and now >= self._from:
                before = _processor()
            while self._again and self._again[0] <= now:
                self._again.popleft()
                self._connect(now)
            wake = self._until if before else self._from
            self._handle((min(wake, self._again[0]) if self._again else wake) - now)
        self._account(before)
        for connection in self._connections:
            if connection.due is not None and connection.due < self._from:
                self._failure("no answer")  # to a request sent before the measured time began

    def _open_loop(self, start: float, rate: float) -> None:
        arrivals = random.Random(self._job.seed)  # noqa: S311 - nothing secret
        due = start + arrivals.expovariate(rate)
        before = None
        while (now := _clock()) < self._until:
            if before is None and now >= self._from:
                before = _processor()
            taken_up = 0
            while due <= now and due < self._until:
                self._line.append(due)
                if due >= self._from:
                    self._outcome.lag.add(now - due)
                    taken_up += 1
                due += arrivals.expovariate(rate)
            self._serve_line()
            if len(self._connections) == self._job.connections and not self._connecting:
                self._outcome.queued += min(taken_up, len(self._line))
            self._handle(min(due, self._until) - now)
        self._account(before)
        # What was due in the last moments of it has not been taken up yet.
        while due < self._until:
            self._line.append(due)
            self._outcome.lag.add(self._until - due)
            due += arrivals.expovariate(rate)
        while (self._line or self._in_flight()) and (now := _clock()) < self._until + DRAIN:
            self._serve_line()
            self._handle(self._until + DRAIN - now)
        for unanswered in (*self._line, *(each.due for each in self._connections if each.due is not None)):
            if unanswered >= self._from:
                self._failure("no answer")

    def _account(self, before: tuple[float, float] | None) -> None:
        if before is not None:
            cpu, delayed = _processor()
            self._outcome.cpu, self._outcome.delayed = cpu - before[0], delayed - before[1]

    def _in_flight(self) -> bool:
        return any(connection.due is not None for connection in self._connections)

    def _serve_line(self) -> None:
        """Give the waiting requests to free connections, and open more where these do not suffice."""
        while self._line and self._idle:
            self._send(self._idle.popleft(), self._line.popleft())
        while len(self._line) > self._connecting and len(self._connections) < self._job.connections:
            self._connect(None)

    def _handle(self, timeout: float) -> None:
        """Wait for sockets, at most ``timeout`` seconds, and do what can be done on them."""
        if self._job.rate is not None and timeout > 0 and isinstance(self._selector, _Epoll):
            # epoll counts in milliseconds, which is longer than many answers take; select waits for epoll exactly.
            select.select([self._selector], [], [], timeout)
            timeout = 0
        for key, events in self._selector.select(max(0.0, timeout)):
            connection: _Connection = key.data
            try:
                if not connection.connected:
                    self._go_on_connecting(connection)
                    continue
                if events & selectors.EVENT_WRITE and connection.rest is not None:
                    self._flush(connection)
                if events & selectors.EVENT_READ:
                    self._receive(connection)
            except (OSError, BadAnswer) as error:
                self._fail(connection, error)

    def _connect(self, due: float | None) -> None:
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = sock.connect_ex(self._peer)  # whether it went well is mostly known once the socket is writable
        connection = _Connection(sock)
        connection.due = due
        self._connections.add(connection)
        self._connecting += 1
        self._selector.register(sock, selectors.EVENT_WRITE, connection)
        if number not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
            self._fail(connection, OSError(number, os.strerror(number)))

    def _go_on_connecting(self, connection: _Connection) -> None:
        if number := connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(number, os.strerror(number))
        if self._tls is not None:
            if not isinstance(connection.sock, ssl.SSLSocket):
                self._selector.unregister(connection.sock)  # before the file descriptor changes hands
                connection.sock = self._tls.wrap_socket(
                    connection.sock, do_handshake_on_connect=False, server_hostname=self._job.address.host
                )
                self._selector.register(connection.sock, selectors.EVENT_WRITE, connection)
            try:
                connection.sock.do_handshake()
            except ssl.SSLWantReadError:
                self._selector.modify(connection.sock, selectors.EVENT_READ, connection)
                return
            except ssl.SSLWantWriteError:
                self._selector.modify(connection.sock, selectors.EVENT_WRITE, connection)
                return
        connection.connected = True
        self._connecting -= 1
        self._selector.modify(connection.sock, selectors.EVENT_READ, connection)
        self._free(connection, connection.due)

    def _free(self, connection: _Connection, due: float | None) -> None:
        """The connection can take a request; ``due`` is that of a closed loop's next one."""
        if due is not None:
            self._send(connection, due)
        elif self._line:
            self._send(connection, self._line.popleft())
        else:
            self._idle.append(connection)

    def _send(self, connection: _Connection, due: float) -> None:
        turn = self._turn
        self._turn = (turn + 1) % len(self._job.wires)
        connection.due, connection.expect = due, self._job.expects[turn]
        wire = self._job.wires[turn]
        try:
            sent = connection.sock.send(wire)
        except _NOT_NOW:
            sent = 0
        except OSError as error:
            self._fail(connection, error)
            return
        if sent < len(wire):
            connection.rest = memoryview(wire)[sent:]
            self._selector.modify(connection.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)

    def _flush(self, connection: _Connection) -> None:
        assert connection.rest is not None
        try:
            connection.rest = connection.rest[connection.sock.send(connection.rest) :]
        except _NOT_NOW:
            return
        if not connection.rest:
            connection.rest = None
            self._selector.modify(connection.sock, selectors.EVENT_READ, connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(_RECEIVE)
            while self._tls is not None and (more := connection.sock.pending()):  # type: ignore[attr-defined]
                data += connection.sock.recv(more)
        except _NOT_NOW:
            return
        if data:
            if connection.due is None:
                raise BadAnswer("an answer that nothing asked for")
            answer = connection.parser.feed(data)
            if answer is not None:
                self._answered(connection, answer)
        elif connection.due is None:
            self._idle.remove(connection)  # the server closed an idle connection, as it may
            self._drop(connection)
        else:
            self._answered(connection, connection.parser.end())

    def _answered(self, connection: _Connection, answer: Answer) -> None:
        now, due = _clock(), connection.due
        assert due is not None
        outcome, closed = self._outcome, self._job.rate is None
        in_time = self._from <= now < self._until
        counts = in_time if closed else self._from <= due
        if answer.status == 200:
            if connection.expect in answer.body:
                outcome.in_time += in_time
                if counts:
                    outcome.accepted.add(now - due)
            else:
                outcome.wrong += counts
        elif answer.status in self._job.rejected:
            if counts:
                outcome.turned_away.add(now - due)
        elif counts:
            self._failure(f"status {answer.status}")
        connection.due = None
        if answer.reusable and connection.rest is None:
            self._free(connection, now if closed else None)
        else:
            self._drop(connection)
            if closed:
                self._connect(now)

    def _fail(self, connection: _Connection, error: OSError | BadAnswer) -> None:
        """Count what was on the connection, or would have been the next on it, as failed."""
        due = connection.due
        if due is None and not connection.connected and self._line:
            due = self._line.popleft()
        if due is None and connection in self._idle:
            self._idle.remove(connection)
        reason = str(error) if isinstance(error, BadAnswer) else (error.strerror or str(error)).lower()
        closed = self._job.rate is None
        if self._from <= (_clock() if closed else due or 0.0):
            self._failure(reason)
        self._drop(connection)
        if closed:
            self._again.append(_clock() + _PAUSE)

    def _failure(self, reason: str) -> None:
        self._outcome.failed[reason] = self._outcome.failed.get(reason, 0) + 1

    def _drop(self, connection: _Connection) -> None:
        self._connecting -= not connection.connected
        self._selector.unregister(connection.sock)
        self._connections.discard(connection)
        connection.sock.close()


def _processor() -> tuple[float, float]:
    """Seconds that this process has computed, and (on Linux) has been ready to and waited for a processor."""
    delayed = 0.0
    with contextlib.suppress(OSError):  # nanoseconds (kernel.org, scheduler/sched-stats.rst)
        delayed = int(Path("/proc/self/schedstat").read_bytes().split()[1]) / 1e9
    return time.process_time(), delayed


_Epoll: Any = getattr(selectors, "EpollSelector", ())
