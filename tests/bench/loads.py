"""What is asked of each service and how its answers are checked, and the loads: closed loop, open loop, bare loop."""

from __future__ import annotations

import base64
import http.client
import json
import os
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
import numpy as np
from lifecycle import Running
from peers.lenet import IMAGE, MAX_BATCH, Classifier
from services import Failed

from dlenv.bench import Request, Result, Target, closed, open_loop
from dlenv_models.data.bundled import mnist5k

CONNECTIONS = (1, 32, 128)
BATCH_CONNECTIONS = 4  # with 64 images a request
OVERLOADS = (2, 5)  # times the capacity
OVERLOAD_CONNECTIONS = 2048
WARM_UP = 1.0  # seconds; BentoML learns its batch size from the first batches
SETTLED_WITHIN = 30.0  # seconds
BINARY = ("Content-Type", "application/octet-stream")
JSON = ("Content-Type", "application/json")
HEAD = "Inference-Header-Content-Length"


class Images(msgspec.Struct, frozen=True):
    """Pixels of some images, and their labels."""

    pixels: bytes
    labels: tuple[int, ...]


class Wire(msgspec.Struct, frozen=True):
    """How a service is asked: ``make`` gives a request that expects the labels in the answer."""

    what: str
    make: Callable[[Images], Request]
    labels: Callable[[bytes], list[int]]  # all labels of an answer's body


class Figures(msgspec.Struct, frozen=True):
    """One load on one service in one round."""

    rows: int  # images a request
    result: Result
    cpu: float  # seconds of the service's CPU time

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU time for each answer, right, wrong or a rejection."""
        answers = self.result.answered + self.result.rejected + self.result.wrong
        return self.cpu / answers * 1e6 if answers else float("nan")


class Overload(msgspec.Struct, frozen=True):
    """A service on one half of the cores: its peak, and what is left of it at multiples of that."""

    peak: Figures
    loads: dict[int, Figures]

    def goodput(self, times: int) -> float:
        return self.loads[times].result.rate / self.peak.result.rate

    def reached(self, times: int) -> float:
        """What really arrived, over the peak: the generator has its limits, too."""
        result = self.loads[times].result
        return (result.answered + result.rejected + result.wrong) / result.seconds / self.peak.result.rate

    def rejection_cost(self, times: int) -> float:
        """CPU time of a rejection over that of a served request, taking that the served ones cost what they did."""
        load = self.loads[times]
        if not load.result.rejected:
            return float("nan")
        served = load.result.answered * self.peak.cpu_us / 1e6
        return (load.cpu - served) / load.result.rejected * 1e6 / self.peak.cpu_us


def digits(classify: Classifier) -> list[Images]:
    """A real image of each digit, from the model's test split, that the model is sure of and right about."""
    test = mnist5k(0).test
    pixels, truth = test.inputs.numpy(), test.labels.numpy()
    probabilities, labels = classify(pixels.tobytes())
    chosen = []
    for digit in range(10):
        sure = np.flatnonzero((truth == digit) & (labels == digit) & (probabilities[:, digit] > 0.999))
        chosen.append(Images(pixels[sure[0]].tobytes(), (digit,)))
    return chosen


def requests(wire: Wire, images: list[Images], rows: int) -> tuple[Request, ...]:
    """One request for each digit to begin with, of ``rows`` images that go on from there."""
    made = []
    for first in range(len(images)):
        chosen = [images[(first + offset) % len(images)] for offset in range(rows)]
        made.append(
            wire.make(Images(b"".join(each.pixels for each in chosen), sum((each.labels for each in chosen), ())))
        )
    return tuple(made)


def _packed(labels: tuple[int, ...]) -> bytes:
    return np.array(labels, dtype="<i8").tobytes()


def _unpacked(body: bytes) -> list[int]:
    """The labels in a binary answer, which come after ten float32 an image."""
    return [int(label) for label in np.frombuffer(body[len(body) * 40 // 48 :], "<i8")]


def _raw(images: Images) -> Request:
    return Request(body=images.pixels, headers=(BINARY,), expect=_packed(images.labels))


def _oip(images: Images) -> Request:
    return Request(body=images.pixels, headers=(BINARY, (HEAD, "0")), expect=_packed(images.labels))


def _triton(images: Images) -> Request:
    if len(images.labels) == 1:  # its raw binary request holds one image
        return _oip(images)
    tensor = {
        "name": "input",
        "shape": [len(images.labels), 1, 28, 28],
        "datatype": "UINT8",
        "parameters": {"binary_data_size": len(images.pixels)},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}, separators=(",", ":")).encode()
    headers = (BINARY, (HEAD, str(len(head))))
    return Request(body=head + images.pixels, headers=headers, expect=_packed(images.labels))


def _litserve(images: Images) -> Request:
    body = json.dumps({"images": base64.b64encode(images.pixels).decode()}).encode()
    expect = json.dumps({"label": images.labels}, separators=(",", ":"))[1:-1].encode()
    return Request(body=body, headers=(JSON,), expect=expect)


def _bentoml(images: Images) -> Request:
    each = [images.pixels[start : start + IMAGE] for start in range(0, len(images.pixels), IMAGE)]
    body = json.dumps({"images": [base64.b64encode(one).decode() for one in each]}).encode()
    # Label and probabilities of each image stand together, so that only the first label can be looked for.
    return Request(body=body, headers=(JSON,), expect=f"[[{images.labels[0]}, ".encode())


WIRES = {
    "oip": Wire("raw uint8 in, OIP v2 binary out", _oip, _unpacked),
    "raw": Wire("raw uint8 in, raw float32 and int64 out", _raw, _unpacked),
    "triton": Wire("raw uint8 in, OIP v2 binary out", _triton, _unpacked),
    "litserve": Wire("base64 in JSON, JSON out", _litserve, lambda body: json.loads(body)["label"]),
    "bentoml": Wire("base64 in JSON, JSON out", _bentoml, lambda body: [label for label, _ in json.loads(body)]),
}


class Load:
    """The loads for one running service."""

    def __init__(self, service: Running, images: list[Images], duration: float) -> None:
        self.service = service
        self.duration = duration
        self._wire = WIRES[service.service.wire]
        self._images = images
        self._requests = {rows: requests(self._wire, images, rows) for rows in (1, MAX_BATCH)}

    def right(self, rows: int = 1) -> bool:
        """Whether every request of this size gets all the labels that it should; False where it can't be asked yet."""
        address = urlsplit(self.service.url)
        connection = http.client.HTTPConnection(address.netloc, timeout=10)
        try:
            for first, request in enumerate(self._requests[rows]):
                connection.request("POST", address.path, request.body, dict(request.headers))
                answer = connection.getresponse()
                body = answer.read()[int(answer.getheader(HEAD, "0")) :]
                expected = [(first + offset) % len(self._images) for offset in range(rows)]
                if answer.status != 200 or self._wire.labels(body) != expected:
                    return False
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return True

    def settle(self) -> None:
        """Wait until it has worked off what an overload left in its queues; raises ``Failed`` when it does not."""
        until = time.monotonic() + SETTLED_WITHIN
        while not (self.right() and self.right(MAX_BATCH)):
            if time.monotonic() > until:
                raise Failed(f"no right answers for {SETTLED_WITHIN:.0f} s after its load")
            time.sleep(0.5)

    def closed(self, rows: int, connections: int) -> Figures:
        """As many requests as come back on these connections."""
        target = self._target(rows)
        closed(target, connections=connections, duration=WARM_UP, warm_up=0)
        return self._measure(rows, lambda: closed(target, connections=connections, duration=self.duration, warm_up=0))

    def overload(self, rows: int) -> Overload:
        """Peak and overload, with the cores shared out: a generator that is in the service's way measures itself."""
        target = self._target(rows)
        with self.service.pinned():
            peak = self.closed(rows, max(CONNECTIONS) if rows == 1 else BATCH_CONNECTIONS)
            loads = {}
            for times in OVERLOADS:
                loads[times] = self._open(target, rows, times * peak.result.rate)
                self.settle()
        return Overload(peak, loads)

    def _open(self, target: Target, rows: int, rate: float) -> Figures:
        # More than may wait, or nothing would be turned away. No warm-up, since CPU time is taken over the whole run.
        processes = min(4, len(os.sched_getaffinity(0)))
        return self._measure(
            rows,
            lambda: open_loop(
                target,
                rate=rate,
                connections=OVERLOAD_CONNECTIONS,
                duration=self.duration,
                processes=processes,
                warm_up=0,
            ),
        )

    def _target(self, rows: int) -> Target:
        return Target(url=self.service.url, requests=self._requests[rows])

    def _measure(self, rows: int, ask: Callable[[], Result]) -> Figures:
        before = self.service.cpu_seconds()
        result = ask()
        after = self.service.cpu_seconds()
        return Figures(rows, result, sum(after.values()) - sum(before.get(process, 0.0) for process in after))


def bare(classify: Classifier, images: list[Images], batch: int, duration: float) -> float:
    """Images per second of the model in a loop, one thread, preprocessing included, the pixels at hand."""
    pixels = b"".join(images[index % len(images)].pixels for index in range(batch))
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < duration:
        classify(pixels)
        count += batch
    return count / (time.perf_counter() - began)
