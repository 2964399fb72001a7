"""Many clients at once: every answer is the one for its very own input, and they share batches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import numpy as np
import torch
from serving import Running

from dlenv_models.repository import Repository

Serve = Callable[..., AbstractContextManager[Running]]

CLIENTS = 64
REQUESTS = 6
# Float32 probabilities: kernels for other batch sizes sum in another order, which shows in the last bits only.
TOLERANCE = 1e-5


def eager(root: Path, name: str, rows: np.ndarray) -> np.ndarray:
    """Eager PyTorch in float32, each row by itself."""
    loaded = Repository(root).load(name)
    prepare = loaded.manifest.preprocessing
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (prepare.mean, prepare.std))
    with torch.inference_mode():
        inputs = (torch.from_numpy(rows).float() * prepare.scale - mean) / std
        return torch.cat([torch.softmax(loaded.module(row[None]), 1) for row in inputs]).numpy()


def test_64_clients_each_get_the_answer_to_their_own_input_from_shared_batches(serve: Serve, repository: Path) -> None:
    random = np.random.default_rng(11)
    # Every third request has several rows; some of them are larger than what is left in a batch.
    counts = random.choice([1, 1, 5], (CLIENTS, REQUESTS))
    inputs = {
        # Blocks of 7 x 7 pixels: of plain noise an untrained network says nearly the same each time.
        (client, n): random.integers(0, 256, (counts[client, n], 1, 4, 4), dtype=np.uint8).repeat(7, 2).repeat(7, 3)
        for client in range(CLIENTS)
        for n in range(REQUESTS)
    }
    answers: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    failures: list[BaseException] = []
    barrier = threading.Barrier(CLIENTS)

    def ask(client: int, url: str) -> None:
        try:
            with httpx.Client(base_url=url, timeout=30) as http:
                barrier.wait(30)
                for n in range(REQUESTS):
                    rows = inputs[client, n]
                    response = http.post(
                        "/v2/models/lenet/infer",
                        content=rows.tobytes(),
                        headers={"inference-header-content-length": "0"},
                    )
                    assert response.status_code == 200, response.text
                    binary = response.content[int(response.headers["inference-header-content-length"]) :]
                    probabilities = np.frombuffer(binary, "<f4", len(rows) * 10).reshape(-1, 10)
                    answers[client, n] = probabilities, np.frombuffer(binary[probabilities.nbytes :], "<i8")
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    with serve(max_batch=16) as running:
        threads = [threading.Thread(target=ask, args=(client, running.url)) for client in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        stats = running.client.get("/v2/models/lenet/stats").json()["model_stats"][0]

    assert failures == []
    assert len(answers) == CLIENTS * REQUESTS
    keys = list(inputs)
    wanted = eager(repository, "lenet", np.concatenate([inputs[key] for key in keys]))
    got = np.concatenate([answers[key][0] for key in keys])
    np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(np.concatenate([answers[key][1] for key in keys]), got.argmax(1))
    # Inputs differ enough for an answer to somebody else's to be noticed.
    assert np.abs(got[1:] - got[:-1]).max(1).min() > 10 * TOLERANCE

    rows = int(counts.sum())
    assert stats["inference_count"] == rows
    assert max(each["batch_size"] for each in stats["batch_stats"]) <= 16
    assert rows / stats["execution_count"] > 4  # requests have 2.3 rows on average
    assert CLIENTS * REQUESTS / stats["execution_count"] > 1.5
