"""NVIDIA's own client, unchanged, against the service."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from serving import Running, publish

# gevent opens its event loop in the process that the client lives in and never closes it.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning:gevent", "ignore::DeprecationWarning:gevent")

Serve = Callable[..., AbstractContextManager[Running]]


@contextmanager
def connect(running: Running, concurrency: int = 1) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(running.address, concurrency=concurrency)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[triton.InferenceServerClient]:
    with connect(running, concurrency=16) as client:
        yield client


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 28, 28), dtype=np.uint8)


def tensor(rows: np.ndarray, *, binary: bool, name: str = "input", datatype: str = "UINT8") -> triton.InferInput:
    value = triton.InferInput(name, list(rows.shape), datatype)
    value.set_data_from_numpy(rows, binary_data=binary)
    return value


def test_health(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("lenet")
    assert client.is_model_ready("lenet", "2")
    assert not client.is_model_ready("lenet", "9")
    assert not client.is_model_ready("nobody")


def test_metadata(client: triton.InferenceServerClient) -> None:
    server = client.get_server_metadata()
    assert server["name"] == "dlenv"
    assert {"binary_tensor_data", "model_repository", "statistics"} <= set(server["extensions"])
    model = client.get_model_metadata("lenet")
    assert model["versions"] == ["2"]
    assert model["inputs"] == [{"name": "input", "datatype": "UINT8", "shape": [-1, 1, 28, 28]}]
    assert model["outputs"] == [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
        {"name": "label", "datatype": "INT64", "shape": [-1]},
    ]


def test_the_configuration_agrees_with_the_metadata(client: triton.InferenceServerClient) -> None:
    config = client.get_model_config("points")
    assert config["input"] == [{"name": "input", "data_type": "TYPE_FP32", "dims": [2]}]
    assert config["output"][0] == {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [3]}
    assert config["output"][1]["data_type"] == "TYPE_INT64"
    assert config["max_batch_size"] > 1


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_infer_with_json_and_binary_both_ways(
    client: triton.InferenceServerClient, binary_in: bool, binary_out: bool
) -> None:
    rows = images(3)
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("probabilities", "label")]
    result = client.infer("lenet", [tensor(rows, binary=binary_in)], outputs=outputs, request_id="q7")
    probabilities, labels = result.as_numpy("probabilities"), result.as_numpy("label")
    assert (probabilities.shape, probabilities.dtype) == ((3, 10), np.float32)
    assert (labels.shape, labels.dtype) == ((3,), np.int64)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(labels, probabilities.argmax(1))
    assert result.get_response()["id"] == "q7"
    assert result.get_response()["model_version"] == "2"
    reference = client.infer("lenet", [tensor(rows, binary=True)]).as_numpy("probabilities")
    np.testing.assert_allclose(probabilities, reference, rtol=0, atol=1e-6)


def test_only_the_outputs_that_are_asked_for_come_back(client: triton.InferenceServerClient) -> None:
    result = client.infer("lenet", [tensor(images(2), binary=True)], outputs=[triton.InferRequestedOutput("label")])
    assert result.as_numpy("label").shape == (2,)
    assert result.as_numpy("probabilities") is None


def test_float_inputs(client: triton.InferenceServerClient) -> None:
    rows = np.array([[0.5, -2.0]], np.float32)
    answers = [
        client.infer("points", [tensor(rows, binary=binary, datatype="FP32")]).as_numpy("probabilities")
        for binary in (True, False)
    ]
    np.testing.assert_allclose(answers[0], answers[1], rtol=0, atol=1e-7)


def test_64_concurrent_async_infers(running: Running) -> None:
    rows = images(64, seed=5)
    with connect(running, concurrency=64) as client:
        pending = [client.async_infer("lenet", [tensor(rows[n : n + 1], binary=True)]) for n in range(64)]
        answers = np.concatenate([each.get_result().as_numpy("probabilities") for each in pending])
        together = client.infer("lenet", [tensor(rows, binary=True)]).as_numpy("probabilities")
    np.testing.assert_allclose(answers, together, rtol=0, atol=1e-6)


def test_errors_arrive_with_status_and_sentence(client: triton.InferenceServerClient) -> None:
    with pytest.raises(triton.InferenceServerException, match="'nobody' is not loaded") as refused:
        client.infer("nobody", [tensor(images(1), binary=True)])
    assert refused.value.status() == "404"
    with pytest.raises(triton.InferenceServerException, match=r'"x" is not an input') as refused:
        client.infer("lenet", [tensor(images(1), binary=True, name="x")])
    assert refused.value.status() == "422"


def test_statistics(serve: Serve) -> None:
    with serve() as running, connect(running) as client:
        for count in (1, 3, 3):
            client.infer("lenet", [tensor(images(count), binary=True)])
        with pytest.raises(triton.InferenceServerException):
            client.infer("lenet", [tensor(images(1)[:, :, :9], binary=True)])
        (stats,) = client.get_inference_statistics("lenet")["model_stats"]
        assert (stats["name"], stats["version"]) == ("lenet", "2")
        assert (stats["inference_count"], stats["execution_count"]) == (7, 3)
        times = stats["inference_stats"]
        assert (times["success"]["count"], times["fail"]["count"], times["queue"]["count"]) == (3, 1, 3)
        parts = sum(times[part]["ns"] for part in ("queue", "compute_input", "compute_infer", "compute_output"))
        assert 0 < parts < times["success"]["ns"]
        assert {each["batch_size"]: each["compute_infer"]["count"] for each in stats["batch_stats"]} == {1: 1, 3: 2}
        every = client.get_inference_statistics()["model_stats"]
        assert {each["name"] for each in every} == {"digits", "points", "lenet"}


def test_the_repository_index_load_and_unload(tmp_path: Path, serve: Serve) -> None:
    for seed in (1, 2):
        publish(tmp_path, "points", input_shape=[2], classes=3, seed=seed)
    with serve(repository=tmp_path, models=("points/1",)) as running, connect(running) as client:

        def states() -> dict[str, str]:
            rows = client.get_model_repository_index()
            return {row["version"]: row["state"] for row in rows if row["name"] == "points"}

        assert states() == {"1": "READY", "2": "UNAVAILABLE"}
        client.load_model("points")
        assert states() == {"1": "UNAVAILABLE", "2": "READY"}
        client.load_model("points", config=json.dumps({"version_policy": {"all": {}}}))
        assert states() == {"1": "READY", "2": "READY"}
        client.unload_model("points")
        assert states() == {"1": "UNAVAILABLE", "2": "UNAVAILABLE"}
        assert not client.is_model_ready("points")
        with pytest.raises(triton.InferenceServerException, match="there is no model 'nobody'"):
            client.load_model("nobody")
        client.load_model("points")
        assert client.is_model_ready("points", "2")
