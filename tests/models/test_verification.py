from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlenv_models.manifest import WEIGHTS
from dlenv_models.repository import Entry, Repository
from dlenv_models.verification import verify

Publish = Callable[..., Entry]


@pytest.mark.parametrize("name", ["spiral-linear", "spiral-mlp", "mnist-mlp", "mnist-lenet"])
def test_shipped_models_are_as_good_as_they_claim(name: str) -> None:
    repository = Repository()
    verdict = verify(repository, repository.entry(name, 1))
    assert verdict.status == "ok", verdict.reason
    assert verdict.measured == pytest.approx(verdict.claimed, abs=0.005)


def test_shipped_models_meet_their_targets() -> None:
    claims = {e.name: e.manifest.metrics.test_accuracy for e in Repository().entries() if e.shipped and e.manifest}
    assert claims["spiral-linear"] <= 0.60
    assert claims["spiral-mlp"] >= 0.97
    assert claims["mnist-mlp"] >= 0.97
    assert claims["mnist-lenet"] >= 0.985


def copy_of(name: str, root: Path, change: Callable[[dict[str, Any]], None]) -> Repository:
    """A shipped model in a repository of its own, with another manifest."""
    source, target = Repository().entry(name, 1).path, root / name / "1"
    target.mkdir(parents=True)
    manifest = json.loads((source / "manifest.json").read_text())
    change(manifest)
    (target / "manifest.json").write_text(json.dumps(manifest))
    (target / WEIGHTS).write_bytes((source / WEIGHTS).read_bytes())
    return Repository(root, shipped=None)


def test_a_boast_is_found_out(root: Path) -> None:
    def boast(manifest: dict[str, Any]) -> None:
        manifest["metrics"] |= {"test_accuracy": 1.0, "confusion": [[333, 0, 0], [0, 333, 0], [0, 0, 333]]}

    repository = copy_of("spiral-linear", root, boast)
    verdict = verify(repository, repository.entry("spiral-linear"))
    assert verdict.status == "failed"
    assert verdict.reason == "claims 100.00%, but 53.25% was measured"


def test_changed_weights_fail(root: Path) -> None:
    repository = copy_of("spiral-linear", root, lambda manifest: manifest["files"][WEIGHTS].update(sha256="0" * 64))
    verdict = verify(repository, repository.entry("spiral-linear"))
    assert (verdict.status, verdict.measured) == ("failed", None)
    assert "SHA-256" in verdict.reason


def test_a_refused_model_fails(root: Path) -> None:
    repository = copy_of("spiral-linear", root, lambda manifest: manifest.update(schema=9))
    (entry,) = repository.entries()
    assert verify(repository, entry).status == "failed"


def test_data_of_your_own_is_skipped_and_never_read_as_a_path(root: Path, publish: Publish) -> None:
    repository = copy_of("spiral-linear", root, lambda manifest: manifest["data"].update(name="/"))
    verdict = verify(repository, repository.entry("spiral-linear"))
    assert verdict.status == "skipped"
    assert "dlenv evaluate" in verdict.reason


def test_data_that_cannot_be_had_is_skipped_with_the_reason(root: Path, tmp_path: Path) -> None:
    repository = copy_of("mnist-mlp", root, lambda manifest: manifest["data"].update(name="mnist"))
    verdict = verify(repository, repository.entry("mnist-mlp"), tmp_path, "http://127.0.0.1:9")
    assert verdict.status == "skipped"
    assert "no mirror gave train-images-idx3-ubyte.gz: http://127.0.0.1:9/" in verdict.reason


def test_data_of_another_shape_is_skipped(root: Path) -> None:
    repository = copy_of("mnist-mlp", root, lambda manifest: manifest["data"].update(name="digits"))
    verdict = verify(repository, repository.entry("mnist-mlp"))
    assert verdict.status == "skipped"
    assert "shape [1, 8, 8]" in verdict.reason
