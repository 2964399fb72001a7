"""A steady load whose every answer is checked, and what became of each request.

Open loop: requests begin at a fixed rate, below what the service can answer, so that a service which stops for a while
is asked all the same. Each client has one request under way, so that no more than there are clients can be lost with
whoever dies.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from dlenv_models.repository import LoadedModel, Repository

# Float32 probabilities: kernels for other batch sizes sum in another order, which shows in the last bits only.
TOLERANCE = 1e-5
CLIENTS = 8
SHARE = 0.7  # of what the service can answer
TIMEOUT_S = 5.0  # after which a client gives an answer up
INPUTS = 64

# What becomes of a request. Told: refused with a status that says so, and that it may come again.
GOOD, WRONG, LOST, TOLD, REFUSED = "good", "wrong", "lost", "told", "refused"


@dataclass(frozen=True)
class Question:
    """A request's body, and the probabilities that eager PyTorch gives for it, by version of the model."""

    body: bytes
    wanted: Mapping[str, np.ndarray]


@dataclass
class Outcome:
    """One request: when it began and ended (``time.monotonic``), and what became of it."""

    began: float
    ended: float
    what: str
    detail: str
    version: str = ""


@dataclass
class Report:
    """What the clients saw."""

    outcomes: list[Outcome] = field(default_factory=list)

    def count(self, what: str) -> int:
        """Requests that came to that."""
        return sum(each.what == what for each in self.outcomes)

    def details(self, *whats: str) -> Counter[str]:
        """How requests failed."""
        return Counter(each.detail for each in self.outcomes if each.what in whats)

    def back_after(self, fault: float) -> float:
        """Seconds from the fault until the first good answer after which none of the requests failed any more."""
        failed = max((each.began for each in self.outcomes if each.what != GOOD), default=fault)
        after = [each.ended for each in self.outcomes if each.what == GOOD and each.began > max(failed, fault)]
        return min(after) - fault if failed > fault and after else 0.0

    def figure(self, fault: str, fault_at: float, at_most: int) -> Figure:
        """The line of the table about this fault, which may lose ``at_most`` requests."""
        print(fault, self.details(LOST, TOLD, REFUSED, WRONG))
        good, wrong, lost, told, refused = map(self.count, (GOOD, WRONG, LOST, TOLD, REFUSED))
        return Figure(fault, good, wrong, lost, at_most, told, refused, self.back_after(fault_at))

    def longest_gap(self) -> float:
        """The longest time in which no good answer came, seconds."""
        ends = sorted(each.ended for each in self.outcomes if each.what == GOOD)
        return max((after - before for before, after in itertools.pairwise(ends)), default=0.0)


@dataclass(frozen=True)
class Figure:
    """One line of the table that is printed at the end."""

    fault: str
    good: int
    wrong: int
    lost: int
    at_most: int
    told: int
    refused: int
    back_s: float


def eager(model: LoadedModel, rows: np.ndarray) -> np.ndarray:
    """Eager PyTorch in float32, each row by itself."""
    prepare = model.manifest.preprocessing
    channels = (-1, *[1] * (rows.ndim - 2))
    mean, std = (torch.tensor(values).reshape(channels) for values in (prepare.mean, prepare.std))
    with torch.inference_mode():
        inputs = (torch.from_numpy(rows).float() * prepare.scale - mean) / std
        return torch.cat([torch.softmax(model.module(row[None]), 1) for row in inputs]).numpy()


def questions(repository: Repository, name: str, versions: Sequence[int] = (1,), count: int = INPUTS) -> list[Question]:
    """Requests of one row each, for a model of points; their answers differ from each other."""
    rows = np.random.default_rng(7).uniform(-1, 1, (count, 2)).astype(np.float32)
    wanted = {str(version): eager(repository.load(name, version), rows) for version in versions}
    return [
        Question(
            json.dumps(
                {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 2], "data": [float(v) for v in row]}]}
            ).encode(),
            {version: answers[n] for version, answers in wanted.items()},
        )
        for n, row in enumerate(rows)
    ]


class Load:
    """Clients of the service at a port of this machine."""

    def __init__(self, port: int, path: str, questions: Sequence[Question], clients: int = CLIENTS) -> None:
        self.port, self.path, self.questions = port, path, questions
        self.report = Report()
        self.rate = 0.0  # requests a second, all clients together; as fast as they are answered where 0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(clients)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> Report:
        """End, once each client has what it waits for."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        return self.report

    def _run(self, client: int) -> None:
        connection: http.client.HTTPConnection | None = None
        turn = client
        due = time.monotonic()
        while not self._over.is_set():
            if self.rate:
                due = max(
                    due + len(self._threads) / self.rate, time.monotonic() - 1.0
                )  # what was missed is not made up
                if self._over.wait(max(0.0, due - time.monotonic())):
                    break
            question = self.questions[turn % len(self.questions)]
            turn += len(self._threads) + 1
            began = time.monotonic()
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
                try:
                    connection.connect()
                except OSError as error:
                    self._note(began, REFUSED, type(error).__name__)
                    connection = None
                    self._over.wait(0.05)
                    continue
            try:
                connection.request("POST", self.path, question.body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                content = response.read()
                closes = response.will_close
            except (OSError, http.client.HTTPException) as error:
                self._note(began, LOST, type(error).__name__)
                closes = True
            else:
                self._judge(began, response.status, content, question)
            if closes:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    def _judge(self, began: float, status: int, content: bytes, question: Question) -> None:
        if status in (404, 429, 503):
            self._note(began, TOLD, str(status))
        elif status != 200:
            self._note(began, LOST, str(status))
        else:
            version, problem = check(content, question)
            self._note(began, WRONG if problem else GOOD, problem, version)

    def _note(self, began: float, what: str, detail: str, version: str = "") -> None:
        self.report.outcomes.append(Outcome(began, time.monotonic(), what, detail, version))


def check(content: bytes, question: Question) -> tuple[str, str]:
    """The version that an answer says it is of, and what is wrong with it, if anything."""
    try:
        answer = json.loads(content)
        version = str(answer["model_version"])
        data = {output["name"]: np.asarray(output["data"]) for output in answer["outputs"]}
        probabilities, label = data["probabilities"], data["label"]
    except (ValueError, KeyError, TypeError) as error:
        return "", f"no answer: {error}"
    if version not in question.wanted:
        return version, f"of version {version}"
    if probabilities.shape != question.wanted[version].shape:
        return version, f"of shape {probabilities.shape}"
    if not np.allclose(probabilities, question.wanted[version], rtol=0, atol=TOLERANCE):
        return version, f"off by {np.abs(probabilities - question.wanted[version]).max():.2g}"
    return version, "" if label[0] == probabilities.argmax() else "another label"


@contextlib.contextmanager
def steady(
    port: int, path: str, questions: Sequence[Question], clients: int = CLIENTS, rate: float = 0.0
) -> Iterator[Load]:
    """A load of 70 % of what the service answers these clients, which is measured for two seconds first."""
    load = Load(port, path, questions, clients)
    load.start()
    try:
        if not rate:
            time.sleep(0.5)
            before, began = load.report.count(GOOD), time.monotonic()
            time.sleep(1.5)
            rate = SHARE * (load.report.count(GOOD) - before) / (time.monotonic() - began)
            assert rate > 5, load.report.details(LOST, TOLD, REFUSED, WRONG)
        load.rate = rate
        time.sleep(1.0)
        yield load
    finally:
        load.stop()


def leave(port: int, path: str, body: bytes, count: int = 1000) -> None:
    """So many clients send a request, or half of one, and go away all at once without reading."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    clients = []
    for number in range(count):
        client = socket.create_connection(("127.0.0.1", port), timeout=20)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset, not closed
        client.sendall(head.encode() + (body if number % 2 else body[: len(body) // 2]))
        clients.append(client)
    for client in clients:
        client.close()
