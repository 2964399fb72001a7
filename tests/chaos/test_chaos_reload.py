"""Versions of a model that come, go, come back and are broken, under load: only the version's number tells."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from chaos_load import GOOD, LOST, REFUSED, TOLD, WRONG, Figure, Load, Question, questions, steady
from safetensors.torch import load as read_tensors
from safetensors.torch import save
from serving import publish, run_service

from dlenv_models.manifest import WEIGHTS
from dlenv_models.repository import Repository
from dlenv_service.config import Settings

MODEL = "points"
INFER = f"/v2/models/{MODEL}/infer"
Figures = list[Figure]


def ask_for(client: httpx.Client, versions: list[int]) -> tuple[int, str]:
    """Load these versions and no other; status and what was said."""
    config = json.dumps({"version_policy": {"specific": {"versions": versions}}})
    answer = client.post(f"/v2/repository/models/{MODEL}/load", json={"parameters": {"config": config}})
    return answer.status_code, answer.text


def replace(root: Path, version: int, change: Callable[[bytes], bytes], *, says_so: bool = True) -> None:
    """Change the weights of a version; ``says_so``: with the size and hash in its manifest, as if trained so."""
    folder = root / MODEL / str(version)
    data = change((folder / WEIGHTS).read_bytes())
    (folder / WEIGHTS).write_bytes(data)
    if says_so:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][WEIGHTS] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        (folder / "manifest.json").write_text(json.dumps(manifest))


def overflowing(data: bytes) -> bytes:
    """Each weight is a number; what comes of them is none."""
    return save({name: tensor.sign() * 3e38 for name, tensor in read_tensors(data).items()})


BROKEN: dict[str, Callable[[Path], None]] = {
    "weights that overflow": lambda root: replace(root, 3, overflowing),
    "weights of another shape": lambda root: replace(
        root, 3, lambda data: save({name: tensor[..., :1].contiguous() for name, tensor in read_tensors(data).items()})
    ),
    "weights that were changed": lambda root: replace(root, 3, lambda data: data[:-1] + b"\x01", says_so=False),
    "weights that are cut off": lambda root: replace(root, 3, lambda data: data[:-9], says_so=False),
    "no weights": lambda root: (root / MODEL / "3" / WEIGHTS).unlink(),
    "half a manifest": lambda root: (root / MODEL / "3" / "manifest.json").write_text('{"schema": 1,'),
}


def two_versions(root: Path) -> list[Question]:
    """Publish them; requests with what each answers."""
    for seed in (1, 2):
        publish(root, MODEL, "mlp", seed=seed, input_shape=[2], classes=3, hidden=[8])
    return questions(Repository(root), MODEL, (1, 2))


def switch(client: httpx.Client, load: Load) -> None:
    """To the other version and back, five times; once a load is answered, nobody gets an older one."""
    for version in (2, 1, 2, 1, 2):
        assert ask_for(client, [version])[0] == 200
        switched = time.monotonic()
        time.sleep(0.3)
        after = [each for each in load.report.outcomes if each.began > switched]
        assert after
        assert {each.version for each in after} == {str(version)}


@pytest.mark.parametrize("fronts", [pytest.param(0, marks=pytest.mark.chaos), 1])
def test_versions_are_switched_and_rolled_back(tmp_path: Path, figures: Figures, fronts: int) -> None:
    root = tmp_path / "models"
    wanted = two_versions(root)
    settings = Settings(repository=root, models=(f"{MODEL}/1",), device="cpu", fronts=fronts)
    with run_service(settings) as running, steady(int(running.url.rpartition(":")[2]), INFER, wanted) as load:
        began = time.monotonic()
        switch(running.client, load)
    report = load.report
    figures.append(report.figure(f"versions switched and rolled back ({fronts} fronts)", began, 0))
    assert report.count(GOOD) == len(report.outcomes), report.details(WRONG, LOST, TOLD, REFUSED)
    assert {each.version for each in report.outcomes} == {"1", "2"}


def test_a_version_that_is_broken_never_takes_traffic(tmp_path: Path, figures: Figures) -> None:
    root = tmp_path / "models"
    wanted = two_versions(root)
    said = {}
    with (
        run_service(Settings(repository=root, models=(f"{MODEL}/2",), device="cpu")) as running,
        steady(int(running.url.rpartition(":")[2]), INFER, wanted) as load,
    ):
        began = time.monotonic()
        for name, damage in BROKEN.items():
            entry = publish_third(root)
            damage(root)
            said[name] = ask_for(running.client, [3])
            assert running.client.get("/v2/health/ready").status_code == 200
            time.sleep(0.2)
            for path in sorted(entry.rglob("*"), reverse=True):
                path.unlink()
            entry.rmdir()
        # A good one of the same number is taken afterwards.
        publish_third(root)
        assert running.client.get(f"/v2/models/{MODEL}/versions/3").status_code == 404
    report = load.report
    figures.append(report.figure(f"{len(BROKEN)} broken versions loaded", began, 0))
    assert {name: status for name, (status, _) in said.items()} == dict.fromkeys(BROKEN, 400), said
    assert "overflow" in said["weights that overflow"][1]
    assert report.count(GOOD) == len(report.outcomes), report.details(WRONG, LOST, TOLD, REFUSED)
    assert {each.version for each in report.outcomes} == {"2"}


def publish_third(root: Path) -> Path:
    """A third version, which is good."""
    publish(root, MODEL, "mlp", seed=3, input_shape=[2], classes=3, hidden=[8])
    folder = root / MODEL / "3"
    assert folder.is_dir()
    return folder
