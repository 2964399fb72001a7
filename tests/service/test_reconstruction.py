"""Reconstructions: what models that learned without labels first give back, to those who ask and to nobody else."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from serving import Running, publish, run_service
from test_device import Doubles, a_device, held
from test_fronts import run
from test_improvement import engine_of, use

from dlenv.cli import main
from dlenv.client import Client
from dlenv.errors import InvalidValue, ModelInvalid, TooLarge
from dlenv_models import pretraining
from dlenv_models.manifest import Manifest
from dlenv_models.pretraining import Pretrained
from dlenv_models.repository import Repository
from dlenv_service import loading
from dlenv_service.batcher import Answer, Array, Batcher, Item
from dlenv_service.codec import decode
from dlenv_service.config import Settings
from dlenv_service.device import Lane, Timing
from dlenv_service.engine import CpuEngine
from dlenv_service.fronts.remote import RemoteHost
from dlenv_service.fronts.wire import Done, Memory, Message, Model, Models, Rows, slot_bytes, slot_rows, write_answer
from dlenv_service.inference import check_finite
from dlenv_service.loading import signature_of, warm_engines
from dlenv_service.onnx_export import Exporter
from dlenv_service.statistics import Statistics
from dlenv_service.tensors import Signature

Serve = Callable[..., AbstractContextManager[Running]]

ABLE: dict[str, dict[str, Any]] = {
    "autoencoder": {"hidden": [32], "code": 8},
    "rbm": {"hidden": [24]},
    "dbn": {"hidden": [24, 16]},
    "colour": {"input_shape": [3, 4, 5], "hidden": [16], "code": 8},
}
BATCH = 8
# Pixels: float32 sums in another order for each size of batch, times 255.
TOLERANCE = 1e-3
OUTPUTS = ["probabilities", "label", "reconstruction"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("able")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "DEVIATION", 0.2)  # untrained machines give back nearly the same for every row
        for name, arguments in ABLE.items():
            publish(root, name, "autoencoder" if name == "colour" else name, **arguments)
    publish(root, "points", "linear", input_shape=[2], classes=3)
    publish(root, "plain", "mlp", hidden=[16])
    return root


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "fronts"])
def service(request: pytest.FixtureRequest, models: Path) -> Iterator[Running]:
    names = (*ABLE, "points", "plain")
    settings = Settings(repository=models, models=names, device="cpu", max_batch=BATCH, fronts=request.param)
    with run_service(settings) as running:
        yield running


def inputs(name: str, count: int) -> Array:
    shape = (3, 4, 5) if name == "colour" else (1, 28, 28)
    return np.random.default_rng(5).integers(0, 256, (count, *shape), dtype=np.uint8)


def wanted(models: Path, name: str, rows: Array) -> Array:
    """The module's own, row by row, in pixel values: serving.publish says that they are (x / 255 - 0.1) / 0.5."""
    module = Repository(models, shipped=None).load(name).module
    assert isinstance(module, Pretrained)
    with torch.inference_mode():
        seen = (torch.from_numpy(rows).float() / 255 - 0.1) / 0.5
        return ((torch.cat([module.reconstruct(row[None]) for row in seen]) * 0.5 + 0.1) * 255).numpy()


def question(rows: Array, *names: str, binary: bool = False, **more: Any) -> dict[str, Any]:
    tensor = {"name": "input", "shape": list(rows.shape), "datatype": "UINT8", "data": rows.tolist()}
    outputs = [{"name": name, "parameters": {"binary_data": binary}} for name in names]
    return {"inputs": [tensor], **({"outputs": outputs} if names else {}), **more}


def read(answer: httpx.Response) -> dict[str, Array]:
    assert answer.status_code == 200, answer.text
    length = int(answer.headers.get("inference-header-content-length", len(answer.content)))
    rest, given = answer.content[length:], {}
    for output in json.loads(answer.content[:length])["outputs"]:
        dtype = {"FP32": "<f4", "INT64": "<i8"}[output["datatype"]]
        if size := output.get("parameters", {}).get("binary_data_size"):
            values, rest = np.frombuffer(rest[:size], dtype), rest[size:]
        else:
            values = np.array(output["data"], dtype)
        given[output["name"]] = values.reshape(output["shape"])
    assert not rest
    return given


@pytest.mark.parametrize("name", ABLE)
@pytest.mark.parametrize("binary", [False, True])
def test_they_are_those_of_eager_pytorch(service: Running, models: Path, name: str, binary: bool) -> None:
    rows = inputs(name, 2 * BATCH + 3)
    right = wanted(models, name, rows)
    assert np.ptp(right, axis=0).max() > 100 * TOLERANCE  # somebody else's would be noticed
    for count in (1, 3, BATCH, len(rows)):
        body = question(rows[:count], *OUTPUTS, binary=binary)
        for _ in range(2):  # the second on the quick way
            given = read(service.client.post(f"/v2/models/{name}/infer", json=body))
            assert [*given] == OUTPUTS
            np.testing.assert_allclose(given["reconstruction"], right[:count], rtol=0, atol=TOLERANCE)
        plain = read(service.client.post(f"/v2/models/{name}/infer", json=question(rows[:count])))
        assert [*plain] == OUTPUTS[:2]  # nothing changes for who does not ask
        np.testing.assert_allclose(given["probabilities"], plain["probabilities"], rtol=0, atol=1e-6)
        assert (given["label"] == plain["label"]).all()


@pytest.mark.slow
def test_they_are_the_same_from_onnx_runtime(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(tmp_path, monkeypatch)
    Exporter().make(models, [Repository(models, shipped=None).load(name).manifest for name in ABLE])
    with run_service(Settings(repository=models, models=(*ABLE,), device="cpu", engine="onnx")) as running:
        for name in ABLE:
            assert engine_of(running, name) == "onnxruntime"
            rows = inputs(name, 5)
            given = read(running.client.post(f"/v2/models/{name}/infer", json=question(rows, *OUTPUTS)))
            np.testing.assert_allclose(given["reconstruction"], wanted(models, name, rows), rtol=0, atol=TOLERANCE)


def test_alone_in_another_order_and_as_bytes_beside_json(service: Running, models: Path) -> None:
    rows = inputs("rbm", 2)
    right = wanted(models, "rbm", rows)
    alone = read(service.client.post("/v2/models/rbm/infer", json=question(rows, "reconstruction", id="a")))
    assert [*alone] == ["reconstruction"]
    np.testing.assert_allclose(alone["reconstruction"], right, rtol=0, atol=TOLERANCE)
    body = question(rows, "reconstruction", "label", binary=True)
    body["outputs"][1]["parameters"]["binary_data"] = False
    mixed = read(service.client.post("/v2/models/rbm/infer", json=body))
    assert [*mixed] == ["reconstruction", "label"]
    np.testing.assert_allclose(mixed["reconstruction"], right, rtol=0, atol=TOLERANCE)


def test_metadata_configuration_and_card_name_it(service: Running) -> None:
    for name, shape in (("autoencoder", [1, 28, 28]), ("colour", [3, 4, 5])):
        listed = service.client.get(f"/v2/models/{name}").json()["outputs"]
        assert [each["name"] for each in listed] == OUTPUTS
        assert listed[2] == {"name": "reconstruction", "datatype": "FP32", "shape": [-1, *shape]}
        configured = service.client.get(f"/v2/models/{name}/config").json()["output"]
        assert configured[2] == {"name": "reconstruction", "data_type": "TYPE_FP32", "dims": shape}
        assert len(service.client.get(f"/models/{name}/card").json()["outputs"]) == 3
    assert [each["name"] for each in service.client.get("/v2/models/plain").json()["outputs"]] == OUTPUTS[:2]


def test_people_get_them_for_rows_and_for_an_image(service: Running, models: Path) -> None:
    rows = inputs("autoencoder", 3)
    right = wanted(models, "autoencoder", rows)
    path = "/predict/autoencoder?reconstruct=true"
    answer = service.client.post(path, json={"inputs": rows.tolist()}).json()
    made = np.array([each["reconstruction"] for each in answer["predictions"]])
    np.testing.assert_allclose(made, right, rtol=0, atol=TOLERANCE)
    file = io.BytesIO()
    Image.fromarray(255 - rows[0, 0]).save(file, "PNG")
    headers = {"content-type": "image/png"}
    answer = service.client.post(f"{path}&invert=true", content=file.getvalue(), headers=headers).json()
    np.testing.assert_allclose(answer["predictions"][0]["reconstruction"], right[0], rtol=0, atol=TOLERANCE)
    for plain in ("/predict/autoencoder", "/predict/autoencoder?reconstruct=false"):
        answer = service.client.post(plain, json={"inputs": rows.tolist()}).json()
        assert all("reconstruction" not in each for each in answer["predictions"])


def test_dlenvs_own_client_gets_them(service: Running, models: Path) -> None:
    rows = inputs("dbn", 2)
    right = wanted(models, "dbn", rows)
    with Client(service.url) as client:
        made = client.predict("dbn", rows.tolist(), reconstruct=True)["predictions"]
        np.testing.assert_allclose([each["reconstruction"] for each in made], right, rtol=0, atol=TOLERANCE)
        (output,) = client.infer("dbn", question(rows, "reconstruction"))["outputs"]
        np.testing.assert_allclose(output["data"], right.ravel(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        (
            "/v2/models/plain/infer",
            question(inputs("plain", 1), "reconstruction"),
            422,
            "output \"reconstruction\" is not an output of model 'plain'; it gives 'probabilities' and 'label'",
        ),
        (
            "/v2/models/rbm/infer",
            question(inputs("rbm", 1), "Reconstruction"),
            422,
            "it gives 'probabilities' and 'label' and 'reconstruction'",
        ),
        ("/v2/models/rbm/infer", question(inputs("rbm", 1), ""), 422, 'output "" is not an output'),
        ("/v2/models/plain/infer", question(inputs("plain", 1), ""), 422, 'output "" is not an output'),
        ("/v2/models/rbm/infer", question(inputs("rbm", 1), *["reconstruction"] * 2), 400, "asked for twice"),
        ("/predict/points?reconstruct=true", {"inputs": [[1, 2]]}, 422, "model 'points' gives no reconstruction"),
        ("/predict/rbm?reconstruct=1", {"inputs": []}, 400, "send invert=true, reconstruct=true or nothing"),
    ],
)
def test_what_can_not_be_given_is_said(service: Running, path: str, body: object, status: int, text: str) -> None:
    answer = service.client.post(path, json=body)
    assert answer.status_code == status
    assert text in answer.json()["error"]


def test_statistics_count_them_as_any_request(models: Path) -> None:
    with run_service(Settings(repository=models, models=("rbm",), device="cpu", max_batch=BATCH)) as running:
        for count, names in ((1, ()), (3, OUTPUTS), (1, ("label",))):
            read(running.client.post("/v2/models/rbm/infer", json=question(inputs("rbm", count), *names)))
        (stats,) = running.client.get("/v2/models/rbm/stats").json()["model_stats"]
        assert (stats["inference_count"], stats["execution_count"]) == (5, 3)
        assert stats["inference_stats"]["success"]["count"] == 3


# gevent opens its event loop in the process that the client lives in and never closes it.
@pytest.mark.filterwarnings("ignore::ResourceWarning:gevent", "ignore::DeprecationWarning:gevent")
def test_tritons_client_asks_for_it_by_name(models: Path) -> None:
    triton = pytest.importorskip("tritonclient.http")
    rows = inputs("autoencoder", 3)
    with run_service(Settings(repository=models, models=("autoencoder",), device="cpu")) as running:
        client = triton.InferenceServerClient(running.address)
        try:
            value = triton.InferInput("input", list(rows.shape), "UINT8")
            value.set_data_from_numpy(rows, binary_data=True)
            assert client.infer("autoencoder", [value]).as_numpy("reconstruction") is None
            for binary in (True, False):
                asked = [triton.InferRequestedOutput(name, binary_data=binary) for name in OUTPUTS]
                result = client.infer("autoencoder", [value], outputs=asked)
                made = result.as_numpy("reconstruction")
                assert (made.dtype, made.shape) == (np.float32, rows.shape)
                np.testing.assert_allclose(made, wanted(models, "autoencoder", rows), rtol=0, atol=TOLERANCE)
                assert result.as_numpy("label").shape == (3,)
        finally:
            client.close()


# How large an answer may be


def test_an_answer_is_not_larger_than_a_request_may_be(models: Path) -> None:
    manifest = Repository(models, shipped=None).load("rbm").manifest
    signature = signature_of(manifest, 1024, 5 * 4 * 784)
    assert (signature.max_rows, signature.max_reconstructions) == (1024, 5)
    assert signature_of(manifest, 4, 5 * 4 * 784).max_reconstructions == 4
    assert signature_of(manifest, 4, 1).max_reconstructions == 1
    body = json.dumps(question(inputs("rbm", 6), "reconstruction")).encode()
    with pytest.raises(TooLarge, match="the reconstructions of 6 rows are too large for one answer, which may hold 5"):
        decode(body, None, signature)
    assert len(decode(json.dumps(question(inputs("rbm", 6))).encode(), None, signature).rows) == 6
    with run_service(
        Settings(repository=models, models=("rbm",), device="cpu", max_body_bytes=16 * 784, max_pending_bytes=10**6)
    ) as running:
        answer = running.client.post("/predict/rbm?reconstruct=true", json={"inputs": [[0] * 784] * 5})
        assert (answer.status_code, answer.json()["error"][:34]) == (413, "the reconstructions of 5 rows are ")
        assert running.client.post("/predict/rbm", json={"inputs": [[0] * 784] * 5}).status_code == 200


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 28, 28), (3, 18, 18)])
def test_a_slot_holds_rows_and_all_of_their_answer(shape: tuple[int, ...], classes: int) -> None:
    signature = Signature("m", "input", "UINT8", shape, ("probabilities", "label"), 1024, "reconstruction", 1024)
    memory = Memory.make(slot_bytes(1024))
    count = slot_rows(Model(1, "m", 1, signature, classes), 10**6, memory.size)
    random = np.random.default_rng(0)
    answer = Answer(
        random.random((count, classes), np.float32),
        random.integers(0, classes, count),
        reconstructions=random.random((count, *shape), np.float32),
    )
    for slot in (0, 1):
        write_answer(memory, slot, answer, signature)
    probabilities, labels = memory.answer(0, count, classes)
    np.testing.assert_array_equal(probabilities, answer.probabilities)
    np.testing.assert_array_equal(labels, answer.labels)
    np.testing.assert_array_equal(memory.reconstructions(0, count, classes, signature), answer.reconstructions)


def test_the_largest_row_of_the_smallest_body_fits_a_slot() -> None:
    signature = Signature("m", "input", "UINT8", (1, 32, 32768), ("a", "b"), 1, "reconstruction", 1)
    memory = Memory.make(slot_bytes(signature.row_size))
    memory.reconstructions(0, slot_rows(Model(1, "m", 1, signature, 1000), 64, memory.size), 1000, signature)


# In one batch with others


class Reconstructs(Doubles):
    """Gives each number back, too."""

    def run(self, pieces: list[Array], count: int) -> tuple[Answer, Timing]:
        answer, timing = super().run(pieces, count)
        return answer._replace(reconstructions=np.concatenate(pieces) + 100), timing


def asked(lane: Lane, *numbers: float, reconstruct: bool) -> asyncio.Future[Answer]:
    rows = np.array(numbers, np.float32).reshape(-1, 1)
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    lane.batcher.add(Item(rows, future, 0, 2**62, reconstruct=reconstruct))
    return future


def test_a_batch_in_which_nobody_asks_costs_nothing_more_and_else_only_those_who_ask_get_them() -> None:
    async def main() -> None:
        plain, able = Doubles(), Reconstructs()
        lane = Lane(Batcher(4, 1000), plain, Statistics(), able)
        async with a_device() as device:
            device.add(lane)
            async with held(device):
                answers = [
                    asked(lane, 1, 2, 3, 4, reconstruct=False),
                    asked(lane, 5, reconstruct=False),
                    asked(lane, 6, 7, 8, 9, 10, 11, 12, 13, reconstruct=True),  # in three batches
                    asked(lane, 14, 15, 16, 17, reconstruct=False),
                ]
                device.notify()
            one, two, three, four = await asyncio.gather(*answers)
        assert plain.batches == [[1, 2, 3, 4], [17]]
        assert able.batches == [[5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]
        assert [each.reconstructions for each in (one, two, four)] == [None] * 3
        assert three.reconstructions is not None
        assert three.reconstructions.ravel().tolist() == [106, 107, 108, 109, 110, 111, 112, 113]
        assert [each.probabilities.ravel().tolist() for each in (two, three)] == [
            [10],
            [12, 14, 16, 18, 20, 22, 24, 26],
        ]

    asyncio.run(main())


def test_a_batch_without_memory_is_reconstructed_in_halves() -> None:
    async def main() -> None:
        def small(rows: list[float]) -> None:
            if len(rows) > 2:
                raise MemoryError

        able = Reconstructs(small)
        lane = Lane(Batcher(8, 1000), Doubles(), Statistics(), able)
        async with a_device() as device:
            device.add(lane)
            async with held(device):
                answer = asked(lane, 1, 2, 3, 4, reconstruct=True)
                device.notify()
            made = (await answer).reconstructions
        assert able.batches == [[1, 2, 3, 4], [1, 2], [3, 4]]
        assert made is not None
        assert made.ravel().tolist() == [101, 102, 103, 104]

    asyncio.run(main())


def test_a_front_hands_them_to_those_who_asked() -> None:
    async def body() -> None:
        signature = Signature("m", "input", "UINT8", (1, 2, 2), ("a", "b"), 64, "reconstruction", 64)
        said: list[Message] = []
        memory = Memory.make(slot_bytes(1024))
        host = RemoteHost(Settings(), memory, said.append)
        host.apply(Models(1, (Model(1, "m", 1, signature, 2),)))
        loop = asyncio.get_running_loop()
        rows = np.arange(12, dtype=np.uint8).reshape(3, 1, 2, 2)

        async def ask(*wishes: bool) -> tuple[Rows, list[Answer]]:
            futures: list[asyncio.Future[Answer]] = [loop.create_future() for _ in wishes]
            for number, (future, wish) in enumerate(zip(futures, wishes, strict=True)):
                host.find("m").submit(rows[number : number + 1], None, future, wish)
            await asyncio.sleep(0)
            (message,) = [each for each in said if isinstance(each, Rows)]
            said.clear()
            count = message.rows
            made = rows[:count].astype(np.float32) + 0.5 if message.reconstruct else None
            answer = Answer(np.full((count, 2), 0.5, np.float32), np.zeros(count, np.int64), True, made)
            write_answer(memory, message.slot, answer, signature)
            host.done(Done(message.slot, 2, True, 1, 1.0, message.reconstruct))
            return message, [future.result() for future in futures]

        message, answers = await ask(False, True, False)
        assert message.reconstruct
        assert [each.reconstructions is not None for each in answers] == [False, True, False]
        np.testing.assert_array_equal(answers[1].reconstructions, rows[1:2] + 0.5)  # type: ignore[arg-type]
        message, answers = await ask(False, False)
        assert not message.reconstruct
        assert [each.reconstructions for each in answers] == [None, None]

    run(body)


# What is wrong with a model


@pytest.mark.parametrize("by", [np.float32(1.0), np.float32("nan")])
def test_an_engine_that_reconstructs_something_else_is_refused(
    models: Path, monkeypatch: pytest.MonkeyPatch, by: np.float32
) -> None:
    class Off(CpuEngine):
        def run(self, pieces: list[Array], count: int) -> tuple[Answer, Timing]:
            answer, timing = super().run(pieces, count)
            made = answer.reconstructions
            return answer._replace(reconstructions=None if made is None else made + by), timing

    monkeypatch.setattr(loading, "CpuEngine", Off)
    model = Repository(models, shipped=None).load("rbm")
    with pytest.raises(ModelInvalid, match=r"on cpu its reconstructions are off by (nan|0\.00)"):
        warm_engines(model, signature_of(model.manifest, 8), Settings(max_batch=4), torch.device("cpu"))


def test_what_is_no_number_is_not_sent(models: Path) -> None:
    manifest = Repository(models, shipped=None).load("rbm").manifest

    class Served:
        name = "rbm"
        signature = signature_of(manifest, 8)

    good = Answer(np.full((3, 2), 0.5, np.float32), np.zeros(3, np.int64), False, np.zeros((3, 1, 2, 2), np.float32))
    check_finite(Served(), good)  # type: ignore[arg-type]  # somebody else's row was not finite
    made = np.zeros((3, 1, 2, 2), np.float32)
    made[1, 0, 1, 1] = np.inf
    with pytest.raises(InvalidValue, match="row 1 of input 'input'"):
        check_finite(Served(), good._replace(reconstructions=made))  # type: ignore[arg-type]


def test_a_manifest_from_before_is_read_and_served_with_it(models: Path, tmp_path: Path) -> None:
    publish(tmp_path, "rbm", "rbm", hidden=[8])
    path = tmp_path / "rbm/1/manifest.json"
    document = json.loads(path.read_text())
    assert [each["name"] for each in document["outputs"]] == OUTPUTS
    document["outputs"] = document["outputs"][:2]
    path.write_text(json.dumps(document))
    assert [each.name for each in Manifest.from_json(document).outputs] == OUTPUTS
    with run_service(Settings(repository=tmp_path, models=("rbm",), device="cpu")) as running:
        body = question(inputs("rbm", 1), "reconstruction")
        assert read(running.client.post("/v2/models/rbm/infer", json=body))["reconstruction"].shape == (1, 1, 28, 28)
    for wrong in ([], document["outputs"][:1], [*document["outputs"], document["outputs"][1]]):
        with pytest.raises(ModelInvalid, match="outputs"):
            Manifest.from_json({**document, "outputs": wrong})
    plain = Repository(models, shipped=None).load("plain").manifest.to_json()
    extra = {"name": "reconstruction", "datatype": "FP32", "shape": [-1, 1, 28, 28]}
    with pytest.raises(ModelInvalid, match="a list of 3 items, where 2 belong"):
        Manifest.from_json({**plain, "outputs": [*plain["outputs"], extra]})


@pytest.mark.parametrize("where", ["here", "at a service"])
def test_the_command_line_writes_them_as_pictures(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    rows = inputs("autoencoder", 2)
    right = wanted(models, "autoencoder", rows)
    for folder, row in zip(("a", "b"), rows, strict=True):
        (tmp_path / folder).mkdir()
        Image.fromarray(row[0]).save(tmp_path / folder / "seven.png")
    files = [str(tmp_path / folder / "seven.png") for folder in ("a", "b")]

    def ask(model: str, *words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["predict", model, *words, "--reconstruct", str(tmp_path / "back")])
        said = capsys.readouterr()
        return int(caught.value.code or 0), said.out, said.err

    with run_service(Settings(repository=models, models=("autoencoder", "plain"), device="cpu")) as running:
        at = ["--repository", str(models)] if where == "here" else ["--url", running.url]
        code, out, _ = ask("autoencoder", *files, *at, "--json")
        assert code == 0
        made = [each["reconstruction"] for each in json.loads(out)["predictions"]]
        np.testing.assert_allclose(made, right, rtol=0, atol=TOLERANCE)
        for name, row in zip(("seven.png", "seven-2.png"), right, strict=True):
            with Image.open(tmp_path / "back" / name) as picture:
                np.testing.assert_allclose(np.array(picture), row[0], rtol=0, atol=0.5 + TOLERANCE)
        code, _, err = ask("plain", files[0], *at)
        assert code == 1
        assert "model 'plain' gives no reconstruction; leave reconstruct out" in err
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        main(["predict", "autoencoder", files[0], "--reconstruct", str(tmp_path / "file/back")])
    assert "name another folder" in capsys.readouterr().err
