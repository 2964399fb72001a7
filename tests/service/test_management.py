"""Loading, unloading and switching versions, alone and under traffic: no request fails, no version is mixed up."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from serving import Running, publish, run_service

from dlenv.errors import DlenvError, ModelInvalid, ModelNotFound, RepositoryError, StartError
from dlenv_models.repository import Repository
from dlenv_service.config import Settings
from dlenv_service.host import Host

Serve = Callable[..., AbstractContextManager[Running]]
ROWS = np.array([[0.5, -1.0], [2.0, 0.25]], np.float32)
BODY = {"inputs": [{"name": "input", "shape": [2, 2], "datatype": "FP32", "data": ROWS.ravel().tolist()}]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """`points` in three versions with other weights each, and `other`."""
    for seed in (1, 2, 3):
        publish(tmp_path / "root", "points", input_shape=[2], classes=3, seed=seed)
    publish(tmp_path / "root", "other", input_shape=[2], classes=3, seed=4)
    return tmp_path / "root"


@contextmanager
def serving(root: Path, *models: str, **settings: Any) -> Iterator[Running]:
    with run_service(Settings(repository=root, models=models, device="cpu", **settings)) as running:
        yield running


def eager(root: Path, name: str, version: int) -> np.ndarray:
    """What this version says of ROWS, by eager PyTorch."""
    loaded = Repository(root).load(name, version)
    prepare = loaded.manifest.preprocessing
    inputs = (torch.from_numpy(ROWS) * prepare.scale - torch.tensor(prepare.mean)) / torch.tensor(prepare.std)
    return torch.softmax(loaded.module(inputs), 1).numpy()


def load(running: Running, name: str, policy: object = None) -> httpx.Response:
    parameters = {} if policy is None else {"parameters": {"config": json.dumps({"version_policy": policy})}}
    return running.client.post(f"/v2/repository/models/{name}/load", json=parameters)


def unload(running: Running, name: str) -> httpx.Response:
    return running.client.post(f"/v2/repository/models/{name}/unload")


def index(running: Running, **body: object) -> dict[tuple[str, str], tuple[str, str]]:
    """(name, version) -> (state, reason), without the models that ship."""
    rows = running.client.post("/v2/repository/index", json=body).json()
    return {(r["name"], r["version"]): (r["state"], r["reason"]) for r in rows if r["name"] in ("points", "other", "x")}


def infer(running: Running, name: str = "points", version: int | None = None) -> httpx.Response:
    middle = "" if version is None else f"/versions/{version}"
    return running.client.post(f"/v2/models/{name}{middle}/infer", json=BODY)


def damage(root: Path, name: str, version: int) -> None:
    """One bit of the weights is flipped."""
    path = root / name / str(version) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


# One at a time


def test_the_newest_version_is_served_and_a_named_one_on_request(root: Path) -> None:
    with serving(root, "points", "other/1") as running:
        assert infer(running).json()["model_version"] == "3"
        assert running.client.get("/v2/models/points").json()["versions"] == ["3"]
        assert infer(running, version=2).status_code == 404
    with serving(root, "points/1", "points/3") as running:
        assert running.client.get("/v2/models/points").json()["versions"] == ["1", "3"]
        for version in (1, 3):
            answer = infer(running, version=version).json()
            assert answer["model_version"] == str(version)
            np.testing.assert_allclose(
                answer["outputs"][0]["data"], eager(root, "points", version).ravel(), rtol=0, atol=1e-6
            )
        assert infer(running).json()["model_version"] == "3"


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        (None, ["3"]),
        ({}, ["3"]),
        ({"latest": {"num_versions": 1}}, ["3"]),
        ({"latest": {"num_versions": 2}}, ["2", "3"]),
        ({"latest": {"num_versions": 99}}, ["1", "2", "3"]),
        ({"specific": {"versions": [1]}}, ["1"]),
        ({"specific": {"versions": [3, 1, 1]}}, ["1", "3"]),
        ({"all": {}}, ["1", "2", "3"]),
    ],
)
def test_the_version_policy_says_which_versions_are_loaded(
    root: Path, policy: dict[str, Any] | None, versions: list[str]
) -> None:
    with serving(root, "points/2") as running:
        response = load(running, "points", policy)
        assert (response.status_code, response.json()) == (200, {})
        assert running.client.get("/v2/models/points").json()["versions"] == versions
        config = running.client.get("/v2/models/points/config").json()
        assert config["version_policy"] == {"specific": {"versions": [int(version) for version in versions]}}


@pytest.mark.parametrize(
    "policy",
    [
        {"latest": {"num_versions": 0}},
        {"latest": {}},
        {"specific": {"versions": []}},
        {"specific": {"versions": [1.5]}},
        {"specific": {"versions": [True]}},
        {"newest": {}},
        {"all": {}, "latest": {"num_versions": 1}},
        [],
        "all",
    ],
)
def test_other_policies_are_refused_and_nothing_changes(root: Path, policy: object) -> None:
    with serving(root, "points/2") as running:
        response = load(running, "points", policy)
        assert response.status_code == 422
        assert "version_policy" in response.json()["error"]
        assert running.service.host.versions("points") == [2]


def test_what_is_sent_along_is_short(root: Path) -> None:
    with serving(root, "points/1") as running:
        for path in ("index", "models/points/load", "models/points/unload"):
            refused = running.client.post(f"/v2/repository/{path}", content=b" " * 70_000)
            assert refused.status_code == 413, path
            assert "may have 65536" in refused.json()["error"]
        assert running.service.body_bytes == 0


def test_the_index_tells_what_there_is_and_its_state(root: Path) -> None:
    damage(root, "other", 1)
    (root / "points" / "2" / "manifest.json").write_text("{}")
    with serving(root, "points/1") as running:
        load(running, "other")
        states = index(running)
        assert states[("points", "1")] == ("READY", "")
        assert states[("points", "3")] == ("UNAVAILABLE", "not loaded")
        assert states[("points", "2")][0] == "UNAVAILABLE"
        assert "the key 'name' is missing" in states[("points", "2")][1]
        assert states[("other", "1")][0] == "UNAVAILABLE"
        assert index(running, ready=True) == {("points", "1"): ("READY", "")}
        assert str(root) not in json.dumps([*states.values()])


def test_unload_takes_every_version_and_leaves_the_others(root: Path) -> None:
    with serving(root, "points/1", "points/3", "other") as running:
        assert unload(running, "points").json() == {}
        assert infer(running).status_code == 404
        assert running.client.get("/v2/models/points/ready").status_code == 404
        assert infer(running, "other").status_code == 200
        assert unload(running, "points").status_code == 404
        assert load(running, "points").json() == {}
        assert infer(running).json()["model_version"] == "3"


def test_the_last_model_can_be_unloaded_and_loaded_again(root: Path) -> None:
    with serving(root, "points") as running:
        assert unload(running, "points").status_code == 200
        assert "loaded: none" in infer(running).json()["error"]
        assert running.client.get("/v2/health/ready").status_code == 200
        assert load(running, "points").status_code == 200
        assert infer(running).status_code == 200


def test_a_version_published_while_the_service_runs_can_be_loaded(root: Path) -> None:
    with serving(root, "points") as running:
        publish(root, "points", input_shape=[2], classes=3, seed=9)
        assert infer(running).json()["model_version"] == "3"
        load(running, "points")
        answer = infer(running).json()
        assert answer["model_version"] == "4"
        np.testing.assert_allclose(answer["outputs"][0]["data"], eager(root, "points", 4).ravel(), rtol=0, atol=1e-6)


def test_a_version_that_is_loaded_stays_as_it_is(root: Path) -> None:
    with serving(root, "points/1") as running:
        before = running.service.host.find("points")
        load(running, "points", {"all": {}})
        assert running.service.host.find("points", "1") is before


# Damaged models


def test_a_damaged_model_is_refused_with_its_reason_while_others_serve(root: Path) -> None:
    with serving(root, "other") as running:
        damage(root, "points", 3)
        response = load(running, "points")
        assert response.status_code == 400
        text = response.json()["error"]
        for word in ("'points'", "SHA-256", "changed"):
            assert word in text
        assert str(root) not in text
        assert infer(running).status_code == 404
        assert infer(running, "other").status_code == 200
        assert running.service.document["models"] == {"other": [1]}


def test_a_failed_load_leaves_the_old_version_serving(root: Path) -> None:
    with serving(root, "points/2") as running:
        damage(root, "points", 3)
        for policy in (None, {"specific": {"versions": [1, 3]}}):
            assert load(running, "points", policy).status_code == 400
            assert running.service.host.versions("points") == [2]
            index = running.client.post("/v2/repository/index").json()
            (damaged,) = (each for each in index if each["name"] == "points" and each["version"] == "3")
            assert damaged["state"] == "UNAVAILABLE"
            assert "SHA-256" in damaged["reason"]
            answer = infer(running).json()
            assert answer["model_version"] == "2"
            np.testing.assert_allclose(
                answer["outputs"][0]["data"], eager(root, "points", 2).ravel(), rtol=0, atol=1e-6
            )
        assert running.service.document["models"] == {"points": [2]}
        assert load(running, "points", {"specific": {"versions": [1]}}).status_code == 200


def test_a_manifest_that_was_cut_off_falls_back_to_the_version_before(root: Path) -> None:
    path = root / "points" / "3" / "manifest.json"
    path.write_bytes(path.read_bytes()[:100])
    with serving(root, "points") as running:
        assert infer(running).json()["model_version"] == "2"
        response = load(running, "points", {"specific": {"versions": [3]}})
        assert response.status_code == 400
        assert "manifest.json is not JSON" in response.json()["error"]


def test_a_model_whose_package_is_missing_is_refused_and_the_others_serve(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(root, "x", "linear", input_shape=[1, 8, 8], classes=3)
    path = root / "x" / "1" / "manifest.json"
    manifest = json.loads(path.read_text())
    arguments = {"input_shape": [1, 8, 8], "classes": 3, "dropout": 0.0, "init": "default"}
    path.write_text(json.dumps({**manifest, "architecture": {"name": "resnet18", "arguments": arguments}}))
    with serving(root, "points") as running:
        for module in ("torchvision", "torchvision.models"):
            monkeypatch.setitem(sys.modules, module, None)  # as where it is not installed
        response = load(running, "x")
        assert response.status_code == 400
        assert "model 'x' can't be loaded: it could not be prepared" in response.json()["error"]
        assert running.service.document["models"] == {"points": [3]}
        assert infer(running).status_code == 200


# What it starts with


def startup_error(root: Path, *models: str, **settings: Any) -> DlenvError:
    with pytest.raises(DlenvError) as refused, serving(root, *models, **settings):
        raise AssertionError("it started")
    return refused.value


def test_it_does_not_start_without_a_model_that_was_named(root: Path) -> None:
    error = startup_error(root, "other", "pionts")
    assert isinstance(error, ModelNotFound)
    assert "did you mean 'points'" in str(error)
    assert isinstance(startup_error(root, "points/9"), ModelNotFound)
    assert "points/1" in str(startup_error(root, "points/x"))
    damage(root, "points", 3)
    error = startup_error(root, "other", "points")
    assert isinstance(error, ModelInvalid)
    assert "'points'" in str(error)
    assert "SHA-256" in str(error)


def test_it_does_not_start_with_nothing_that_can_be_loaded(root: Path) -> None:
    damage(root, "points", 3)
    error = startup_error(root, "points")
    assert isinstance(error, StartError)
    assert "SHA-256" in str(error)


def test_it_does_not_start_on_what_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert isinstance(startup_error(tmp_path / "file"), RepositoryError)
    assert isinstance(startup_error(tmp_path / "missing"), RepositoryError)
    assert isinstance(startup_error(tmp_path), RepositoryError)


def test_without_names_every_good_model_is_served_and_a_damaged_one_is_logged(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(root, "other", 1)
    (root / "x" / "1").mkdir(parents=True)
    with caplog.at_level(logging.WARNING, "dlenv.service"), serving(root) as running:
        names = {served.name for served in running.service.host.loaded()}
        assert "points" in names
        assert not names & {"other", "x"}
        shipped = {entry.name for entry in Repository(root).entries() if entry.shipped and entry.problem is None}
        assert shipped <= names
    assert "other is not loaded" in caplog.text
    assert "x version 1 is refused: manifest.json is missing" in caplog.text


def test_an_older_document_changes_nothing(root: Path) -> None:
    with serving(root, "points") as running:
        host = running.service.host
        running.run(running.service.apply({"generation": host.document["generation"], "models": {}}))
        running.run(running.service.apply({"generation": 0, "models": {"other": [1]}}))
        assert host.versions("points") == [3]
        assert host.versions("other") == []


# Under traffic


class Traffic:
    """Threads that keep asking; every answer's version and numbers are kept."""

    def __init__(self, running: Running, path: str = "/v2/models/points/infer", threads: int = 6) -> None:
        self.url = running.url + path
        self.answers: list[tuple[int, int, list[float]]] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def wait_for(self, more: int) -> None:
        """Go on until so many more answers have come."""
        wanted = len(self.answers) + more
        while len(self.answers) < wanted and not self.failures:
            self._stop.wait(0.005)

    def _ask(self) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._stop.is_set():
                try:
                    response = client.post(self.url, json=BODY)
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    return
                if response.status_code == 200:
                    answer = response.json()
                    self.answers.append((200, int(answer["model_version"]), answer["outputs"][0]["data"]))
                else:
                    self.answers.append((response.status_code, 0, []))


def test_versions_change_under_traffic_without_a_failed_request_or_a_mixed_answer(root: Path) -> None:
    wanted = {version: eager(root, "points", version).ravel() for version in (1, 2, 3)}
    assert min(np.abs(wanted[a] - wanted[b]).max() for a, b in ((1, 2), (2, 3), (1, 3))) > 0.01
    with serving(root, "points/1", max_batch=8) as running:
        with Traffic(running) as traffic:
            for version in (2, 3, 1, 3, 2, 1):
                traffic.wait_for(20)
                assert load(running, "points", {"specific": {"versions": [version]}}).status_code == 200
                # From here on nobody gets an older version for a request that begins now.
                assert infer(running).json()["model_version"] == str(version)
            for policy in ({"all": {}}, {"specific": {"versions": [1]}}):
                traffic.wait_for(20)
                assert load(running, "points", policy).status_code == 200
        assert traffic.failures == []
        assert {status for status, _, _ in traffic.answers} == {200}
        for _, version, numbers in traffic.answers:
            np.testing.assert_allclose(numbers, wanted[version], rtol=0, atol=1e-6)
        assert set(Counter(version for _, version, _ in traffic.answers)) == {1, 2, 3}
        assert len(running.service.host._worker._lanes) == 1  # type: ignore[union-attr]


def test_a_model_comes_and_goes_under_traffic_to_another(root: Path) -> None:
    with serving(root, "points", "other", max_batch=8) as running:
        with Traffic(running) as traffic, Traffic(running, "/v2/models/other/infer", 2) as other:
            for _ in range(4):
                traffic.wait_for(10)
                assert unload(running, "other").status_code == 200
                assert load(running, "other").status_code == 200
                damage(root, "other", 1)
                assert load(running, "other").status_code == 200  # already loaded: it is not read again
                damage(root, "other", 1)  # whole again
        assert traffic.failures == other.failures == []
        assert {status for status, _, _ in traffic.answers} == {200}
        # Answered, or told that it isn't loaded: nothing that was accepted is lost.
        assert {status for status, _, _ in other.answers} <= {200, 404}
        assert 200 in {status for status, _, _ in other.answers}


def test_failed_loads_under_traffic_do_no_harm(root: Path) -> None:
    damage(root, "points", 3)
    with serving(root, "points/1", max_batch=8) as running:
        with Traffic(running) as traffic:
            for _ in range(5):
                traffic.wait_for(10)
                assert load(running, "points").status_code == 400
        assert traffic.failures == []
        assert {(status, version) for status, version, _ in traffic.answers} == {(200, 1)}


def test_loads_at_the_same_time_take_turns(root: Path) -> None:
    with serving(root, "points/1", "other") as running:
        statuses: list[int] = []

        def ask(version: int) -> None:
            with httpx.Client(base_url=running.url, timeout=30) as client:
                parameters = {"config": json.dumps({"version_policy": {"specific": {"versions": [version]}}})}
                response = client.post("/v2/repository/models/points/load", json={"parameters": parameters})
                statuses.append(response.status_code)

        threads = [threading.Thread(target=ask, args=(1 + n % 3,)) for n in range(9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert statuses == [200] * 9
        (version,) = running.service.host.versions("points")
        assert running.service.document["models"] == {"other": [1], "points": [version]}


def test_unload_answers_what_it_has_accepted_first(root: Path) -> None:
    with serving(root, "points", "other") as running:
        release, began = threading.Event(), threading.Event()
        running.service.host._worker.call(lambda: (began.set(), release.wait(10)))  # type: ignore[union-attr]
        began.wait(5)
        box: dict[str, httpx.Response] = {}
        asking = threading.Thread(target=lambda: box.update(asked=infer(running)))
        asking.start()
        while not running.service.queued_rows:
            threading.Event().wait(0.005)
        unloading = threading.Thread(target=lambda: box.update(unloaded=unload(running, "points")))
        unloading.start()
        while running.service.host.versions("points"):
            threading.Event().wait(0.005)
        assert infer(running).status_code == 404  # no new ones
        assert unloading.is_alive()
        release.set()
        asking.join(10)
        unloading.join(10)
        assert box["asked"].status_code == 200
        assert box["unloaded"].status_code == 200


def test_a_new_version_may_take_another_shape(root: Path) -> None:
    shutil.rmtree(root / "points")
    publish(root, "points", input_shape=[2], classes=3)
    publish(root, "points", input_shape=[4], classes=2)
    with serving(root, "points/1") as running:
        assert infer(running).status_code == 200
        load(running, "points")
        response = infer(running)
        assert response.status_code == 422
        assert "[-1,4]" in response.json()["error"]


def test_an_image_decoded_for_a_model_that_was_replaced_meanwhile_spoils_no_batch(tmp_path: Path) -> None:
    publish(tmp_path, "points", "linear", input_shape=[1, 28, 28], classes=3)
    publish(tmp_path, "points", "linear", input_shape=[1, 14, 14], classes=3)
    file = io.BytesIO()
    Image.new("L", (28, 28), 99).save(file, "PNG")
    with serving(tmp_path, "points/1") as running:
        release = threading.Event()
        for _ in range(2):  # both decoders
            running.service.decoders.submit(release.wait, 20)
        answers: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(running.url + "/predict/points", content=file.getvalue()))
        )
        asking.start()
        while not running.service.decoding:
            threading.Event().wait(0.005)
        assert load(running, "points").status_code == 200
        release.set()
        asking.join(10)
        assert answers[0].status_code == 503
        assert "was just replaced; send the request again" in answers[0].json()["error"]
        again = httpx.post(running.url + "/predict/points", content=file.getvalue())
        assert (again.status_code, again.json()["version"]) == (200, 2)
        assert running.service.errors[500] == 0


# What must not stop halfway, or at all


def test_a_load_goes_on_when_its_client_goes_away(root: Path) -> None:
    async def leave(running: Running) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b""}

        async def send(message: dict[str, Any]) -> None:
            raise AssertionError("the client has gone")

        scope = {"type": "http", "method": "POST", "path": "/v2/repository/models/points/load", "headers": []}
        request = asyncio.create_task(running.service(scope, receive, send))
        while not running.service.changing.locked():
            await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        async with running.service.changing:
            assert running.service.host.versions("points") == [3]

    with serving(root, "other") as running:
        running.run(leave(running))
        assert infer(running).status_code == 200


def test_a_stuck_device_does_not_stop_a_model_from_being_unloaded(root: Path) -> None:
    with serving(root, "points", "other", deadline_ms=300) as running:
        release = threading.Event()
        runner = running.service.host.find("points").lane.runner
        original = runner.run
        runner.run = lambda pieces, count: release.wait(30) and original(pieces, count)  # type: ignore[assignment, return-value]
        try:
            assert infer(running).status_code == 504
            assert unload(running, "points").status_code == 200
            assert infer(running).status_code == 404
        finally:
            release.set()


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://example.org"}],
)
@pytest.mark.parametrize("action", ["load", "unload"])
def test_a_page_of_another_site_changes_nothing(root: Path, action: str, headers: dict[str, str]) -> None:
    with serving(root, "points") as running:
        response = running.client.post(f"/v2/repository/models/points/{action}", headers=headers)
        assert response.status_code == 403
        assert "another site's page" in response.json()["error"]
        assert running.service.document == {"generation": 1, "models": {"points": [3]}}
        own = {"Sec-Fetch-Site": "same-origin", "Origin": running.url}
        assert running.client.post(f"/v2/repository/models/points/{action}", headers=own).status_code == 200


def test_a_replica_starts_from_a_document_with_nothing_in_it_or_with_a_model_that_is_gone(root: Path) -> None:
    async def start(models: dict[str, list[int]]) -> list[str]:
        host = Host(Settings(repository=root, models=("points",), device="cpu", engine="eager"))
        try:
            await host.start({"generation": 5, "models": models})
            return [served.name for served in host.loaded()]
        finally:
            await host.close()

    assert asyncio.run(start({})) == []
    damage(root, "points", 3)
    assert asyncio.run(start({"points": [3], "other": [1]})) == ["other"]


def test_a_model_whose_batches_do_not_fit_into_memory_is_refused(root: Path) -> None:
    publish(root, "points", "lenet", input_shape=[1, 256, 256], channels=[256, 1])
    with serving(root, "points/3", "other", max_batch=65536) as running:
        response = load(running, "points")
        assert response.status_code == 400
        assert re.search(r"batches of 65536 rows need about \d{6,} MiB, and \d+ MiB are free", response.json()["error"])
        assert running.service.host.versions("points") == [3]


def test_versions_are_counted_once_and_limited(root: Path) -> None:
    with serving(root, "points") as running:
        assert load(running, "points", {"specific": {"versions": [1, 1, 2] * 30}}).status_code == 200
        assert running.service.host.versions("points") == [1, 2]
        assert load(running, "points", {"specific": {"versions": [1] * 101}}).status_code == 422
