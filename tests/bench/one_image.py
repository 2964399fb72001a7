"""One image a request: latency with one client, throughput with many, each runtime beside the bare model.

    python tests/bench/one_image.py [--runtimes local,ray] [--rounds 3] [--model mnist-lenet]

Starts `dlenv serve` for each runtime, all at once, and measures them in turn, round by round, so that a change of
the machine's speed meets all of them. The request is a raw-binary one (784 bytes), on kept-alive connections. With
many connections `wrk` is the load (Debian: `apt-get install wrk`); one thread of it, on the same machine. Figures
are medians over the rounds. Anything but 200 answers stops the benchmark.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from dlenv_models.repository import Repository

REQUESTS = 1000
SECONDS = 4
CONNECTIONS = (1, 32, 128)
HEADERS = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
LUA = """
wrk.method = "POST"
wrk.headers["Inference-Header-Content-Length"] = "0"
wrk.headers["Content-Type"] = "application/octet-stream"
local file = io.open(os.getenv("BODY"), "rb")
wrk.body = file:read("*a")
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def start(runtime: str, model: str) -> tuple[subprocess.Popen[bytes], int]:
    port = free_port()
    command = [sys.executable, "-m", "dlenv", "serve", "--runtime", runtime, "--port", str(port), model]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"`{' '.join(command[2:])}` ended with {process.returncode}")
        try:
            if one_request(port, f"/v2/models/{model}/ready", None):
                return process, port
        except OSError:
            time.sleep(0.2)
    sys.exit(f"{runtime} was not ready within 180 s")


def one_request(port: int, path: str, body: bytes | None) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST" if body else "GET", path, body=body, headers=HEADERS if body else {})
    status = connection.getresponse().status
    connection.close()
    return status == 200


def latency(port: int, path: str, body: bytes) -> tuple[float, float]:
    """Median and 99th percentile in milliseconds, one client on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    times = []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        connection.request("POST", path, body=body, headers=HEADERS)
        response = connection.getresponse()
        response.read()
        times.append((time.perf_counter() - began) * 1000)
        if response.status != 200:
            sys.exit(f"{path} answered {response.status}")
    connection.close()
    times.sort()
    return times[REQUESTS // 2], times[REQUESTS * 99 // 100]


def throughput(port: int, path: str, body: Path, connections: int, lua: Path) -> float:
    """Requests per second with `wrk`."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "-s", str(lua), f"http://127.0.0.1:{port}{path}"]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "BODY": str(body)})
    if "Non-2xx" in out.stdout or "Socket errors" in out.stdout:
        sys.exit(out.stdout)
    found = re.search(r"Requests/sec:\s+([\d.]+)", out.stdout)
    assert found
    return float(found[1])


def bare(model: str, batch: int) -> float:
    """Images per second of the model in a loop, eager, float32 input at hand, one thread."""
    torch.set_num_threads(1)
    module = Repository().load(model).module
    images = torch.rand(batch, 1, 28, 28)
    count, began = 0, time.perf_counter()
    with torch.inference_mode():
        while time.perf_counter() - began < 1:
            module(images)
            count += batch
    return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtimes", default="local,ray")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="mnist-lenet")
    options = parser.parse_args()
    path = f"/v2/models/{options.model}/infer"
    body = np.random.default_rng(0).integers(0, 256, (1, 1, 28, 28), dtype=np.uint8).tobytes()
    runtimes = options.runtimes.split(",")
    columns = ("p50 ms", "p99 ms", *(f"req/s at {each}" for each in CONNECTIONS if shutil.which("wrk")))
    figures: dict[str, list[tuple[float, ...]]] = {runtime: [] for runtime in runtimes}
    loops: list[tuple[float, float]] = []
    running = {}
    try:
        for runtime in runtimes:
            running[runtime] = start(runtime, options.model)
        with tempfile.TemporaryDirectory() as scratch:
            lua, payload = Path(scratch) / "post.lua", Path(scratch) / "body"
            lua.write_text(LUA)
            payload.write_bytes(body)
            for _ in range(options.rounds):
                loops.append((bare(options.model, 1), bare(options.model, 64)))
                for runtime, (_, port) in running.items():
                    loads = [throughput(port, path, payload, each, lua) for each in CONNECTIONS if shutil.which("wrk")]
                    figures[runtime].append((*latency(port, path, body), *loads))
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait(120)
    print(f"{options.model}, torch {torch.__version__}, {os.cpu_count()} cores, median of {options.rounds} rounds\n")
    print("| runtime | " + " | ".join(columns) + " |\n| --- |" + " --- |" * len(columns))
    for runtime, rounds in figures.items():
        medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
        cells = [f"{value:.2f}" if index < 2 else f"{value:,.0f}" for index, value in enumerate(medians)]
        print(f"| {runtime} | " + " | ".join(cells) + " |")
    single, batched = (statistics.median(column) for column in zip(*loops, strict=True))
    print(f"\nbare loop, one thread: {single:,.0f} images/s one by one, {batched:,.0f} in batches of 64")


if __name__ == "__main__":
    main()
