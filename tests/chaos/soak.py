"""One service under mixed load for a long time: what it holds must not grow.

    python tests/chaos/soak.py [--minutes 120] [--fronts 0]

Requests in JSON and binary, of one row and of many, images of many sizes, errors, clients that leave in the middle, and
a model whose version changes every few seconds. Every answer of the model of points is checked. Prints a Markdown table
of slopes; the exit code is 1 where an answer was wrong, a good request failed, or something grows.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import httpx
import numpy as np
import psutil

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("service", "fakes")]

from chaos_load import Question, check, questions
from peak import kib
from PIL import Image
from serving import publish

from dlenv_models.repository import Repository

CLIENTS = 6
SAMPLES = 120
RELOAD_S = 5.0
STOPPED_S = 300  # it may run with the lowest priority beside other work
SETTLED = 0.25  # of the time, after which caches and allocators have what they keep
# What may be more at the end than after that time: an allocator's noise, connections that just come and go.
ROOM = {"memory, MiB": 24.0, "descriptors": 2.0 * CLIENTS, "threads": 2.0}


class Soak:
    """The clients, and what they have seen."""

    def __init__(self, url: str, asked: list[Question]) -> None:
        self.url, self.asked = url, asked
        self.seen: Counter[str] = Counter()
        self.problems: list[str] = []
        self.over = threading.Event()
        self.began = time.monotonic()
        rows = np.random.default_rng(5).integers(0, 256, (64, 1, 28, 28), dtype=np.uint8)
        self.rows = rows
        self.images = [self._image(size) for size in (1, 28, 100, 400, 1500)]

    @staticmethod
    def _image(size: int) -> bytes:
        buffer = io.BytesIO()
        Image.effect_noise((size, size), 80).save(buffer, "PNG")
        return buffer.getvalue()

    def note(self, what: str, status: int, wanted: int) -> None:
        self.seen[what] += 1
        if status not in (wanted, 429):
            self.problem(f"{what}: {status} in place of {wanted}")

    def problem(self, what: str) -> None:
        """Remember it, and when it was."""
        self.problems.append(f"minute {(time.monotonic() - self.began) / 60:.1f}: {what}")

    def one(self, client: httpx.Client, turn: random.Random) -> None:
        """One request of some kind."""
        kind = turn.random()
        if kind < 0.5:
            question = turn.choice(self.asked)
            answer = client.post("/v2/models/points/infer", content=question.body)
            self.note("points, JSON", answer.status_code, 200)
            if answer.status_code == 200 and (problem := check(answer.content, question)[1]):
                self.problem(problem)
        elif kind < 0.75:
            rows = self.rows[: turn.choice((1, 1, 2, 7, 33, 64))]
            raw = {"Inference-Header-Content-Length": "0"}
            answer = client.post("/v2/models/digits/infer", content=rows.tobytes(), headers=raw)
            self.note("digits, binary", answer.status_code, 200)
        elif kind < 0.85:
            answer = client.post("/predict/digits", content=turn.choice(self.images[:4] * 5 + self.images[4:]))
            self.note("digits, images", answer.status_code, 200)
        elif kind < 0.97:
            path, body, status = turn.choice(
                [
                    ("/v2/models/points/infer", b"{", 400),
                    ("/v2/models/points/infer", b'{"inputs": []}', 400),
                    (f"/v2/models/m{turn.randrange(10**9)}/infer", b"{}", 404),
                    (f"/{turn.randrange(10**9)}", b"", 404),
                    ("/predict/digits", b"GIF89a", 415),
                    ("/predict/points", b'{"inputs": [[1]]}', 422),
                ]
            )
            if turn.random() < 0.01:
                path, body, status = "/v2/models/points/infer", bytes(17 * 2**20), 413
            with contextlib.suppress(httpx.WriteError, httpx.ReadError):  # 413 may come before all is sent
                self.note("errors", client.post(path, content=body).status_code, status)
        else:
            host, _, port = self.url.removeprefix("http://").partition(":")
            with socket.create_connection((host, int(port)), timeout=20) as raw_socket:
                head = b"POST /v2/models/points/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
                raw_socket.sendall(head[: turn.randint(1, len(head))])
            self.seen["clients that leave"] += 1

    def run(self, seed: int) -> None:
        """One client."""
        turn = random.Random(seed)
        client = self._client()
        while not self.over.is_set():
            try:
                self.one(client, turn)
            except Exception as error:  # noqa: BLE001 - told at the end
                self.problem(repr(error))
            if turn.random() < 0.01:
                client.close()
                client = self._client()
        client.close()

    def _client(self) -> httpx.Client:
        # The service closes idle connections after 5 s: one that it may be about to close is not used again.
        return httpx.Client(base_url=self.url, timeout=30, limits=httpx.Limits(keepalive_expiry=2.0))

    def reload(self) -> None:
        """Another version every few seconds."""
        version = 1
        while not self.over.wait(RELOAD_S):
            version = 3 - version
            config = json.dumps({"version_policy": {"specific": {"versions": [version]}}})
            url = f"{self.url}/v2/repository/models/points/load"
            answer = httpx.post(url, json={"parameters": {"config": config}}, timeout=60)
            self.note("reloads", answer.status_code, 200)


def held(process: psutil.Process) -> dict[str, float]:
    """What all processes of the service hold."""
    every = [process, *process.children(recursive=True)]
    return {
        # Not what is shared: files of PyTorch, whose part of a process changes with who else runs it.
        "memory, MiB": sum(kib(each.pid, "RssAnon") for each in every) / 1024,
        "descriptors": sum(each.num_fds() for each in every),
        "threads": sum(each.num_threads() for each in every),
    }


def serve(root: Path, fronts: int) -> tuple[subprocess.Popen[str], str, list[str]]:
    """A service in a process of its own, its address, and the warnings that it gives."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    options = ["--runtime", "local", "--port", str(port), "--repository", str(root), "--fronts", str(fronts)]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("DLENV_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "dlenv", "serve", *options, "points/1", "digits"],
        env={**environ, "DLENV_ENGINE": "eager"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said: list[str] = []
    warned: list[str] = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("Serving"):
            threading.Thread(target=_listen, args=(process.stderr, warned), daemon=True).start()
            return process, f"http://127.0.0.1:{port}", warned
    raise SystemExit("".join(said))


def _listen(lines: Iterable[str], warned: list[str]) -> None:
    warned.extend(line.rstrip() for line in lines if " WARNING " in line or " ERROR " in line)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--fronts", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "models")
        for seed in (1, 2):
            publish(root, "points", "mlp", seed=seed, input_shape=[2], classes=3, hidden=[8])
        publish(root, "digits", "lenet")
        process, url, warned = serve(root, options.fronts)
        soak = Soak(url, questions(Repository(root), "points", (1, 2)))
        threads = [threading.Thread(target=soak.run, args=(n,)) for n in range(CLIENTS)]
        threads.append(threading.Thread(target=soak.reload))
        for thread in threads:
            thread.start()
        began, samples = time.monotonic(), []
        try:
            for number in range(1, SAMPLES + 1):
                time.sleep(max(0.0, began + number * options.minutes * 60 / SAMPLES - time.monotonic()))
                samples.append((time.monotonic() - began, held(psutil.Process(process.pid))))
        finally:
            soak.over.set()
            for thread in threads:
                thread.join()
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(STOPPED_S)
            except subprocess.TimeoutExpired:  # told below, with the figures of hours
                process.kill()
                code = process.wait()
    requests = sum(soak.seen.values())
    print(f"{requests:,} requests in {options.minutes:g} minutes, {options.fronts} fronts: {dict(soak.seen)}")
    print(f"problems: {len(soak.problems)}; exit code {code}\n")
    for line in (*soak.problems[:20], *warned[-20:]):
        print(f"    {line}")
    print("| | after a quarter of the time | at the end | rise by least squares | may be | an hour |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    settled = [(at, values) for at, values in samples if at > SETTLED * options.minutes * 60]
    grows = False
    for name, room in ROOM.items():
        times = np.array([at for at, _ in settled])
        values = np.array([each[name] for _, each in settled])
        slope = float(np.polyfit(times, values, 1)[0])
        rise = slope * (times[-1] - times[0])
        grows |= rise > room
        tenth = max(1, len(values) // 10)
        first, last = values[:tenth].mean(), values[-tenth:].mean()
        print(f"| {name} | {first:.1f} | {last:.1f} | {rise:+.1f} | {room:g} | {slope * 3600:+.1f} |")
    return int(bool(grows or soak.problems or code))


if __name__ == "__main__":
    sys.exit(main())
