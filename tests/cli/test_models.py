from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlenv_models.repository import SHIPPED

Run = Callable[..., Any]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A user's repository: one good model, one damaged."""
    for name in ("spiral-linear", "spiral-mlp"):
        shutil.copytree(SHIPPED / name / "1", tmp_path / "r" / name / "2")
        manifest = tmp_path / "r" / name / "2" / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 2'))
    (tmp_path / "r" / "spiral-linear" / "2" / "model.safetensors").write_bytes(b"damaged")
    (tmp_path / "r" / "spiral-mlp" / "2" / "manifest.json").write_text("{")
    return tmp_path / "r"


def test_list(run: Run, repository: Path) -> None:
    result = run("models", "list", "--repository", repository)
    lines = result.stdout.splitlines()
    assert lines[0].split("\t")[:2] == ["model", "version"]
    assert "mnist-lenet\t1\tdlenv\tlenet\tmnist5k\t98.90%\tok" in lines
    (damaged,) = (line for line in lines if line.startswith("spiral-mlp\t2"))
    assert "yours" in damaged
    assert "refused: manifest.json is not JSON" in damaged
    listed = json.loads(run("models", "list", "--repository", repository, "--json").stdout)
    assert [item["problem"] is None for item in listed if item["name"] == "spiral-mlp"] == [True, False]


def test_show(run: Run) -> None:
    result = run("models", "show", "mnist-lenet")
    assert result.code == 0
    for part in ("98.90% of 1000 rows", "UINT8 [-1, 1, 28, 28]", "dlenv train lenet --data mnist5k --name mnist-lenet"):
        assert part in result.stdout
    assert json.loads(run("models", "show", "mnist-lenet/1", "--json").stdout)["name"] == "mnist-lenet"


def test_verify_all_that_ship(run: Run) -> None:
    result = run("models", "verify", "--json")
    assert result.code == 0
    assert [item["status"] for item in json.loads(result.stdout)] == ["ok"] * 4


def test_verify_fails_where_one_is_bad(run: Run, repository: Path) -> None:
    result = run("models", "verify", "--repository", repository, "spiral-linear/2", "spiral-mlp")
    assert result.code == 1
    states = {line.split("\t")[0]: line.split("\t")[1] for line in result.stdout.splitlines()}
    assert states == {"model": "status", "spiral-linear/2": "failed", "spiral-mlp/1": "ok", "spiral-mlp/2": "failed"}


def test_remove(run: Run, repository: Path) -> None:
    refused = run("models", "remove", "spiral-mlp/1", "--repository", repository, "--yes")
    assert refused.code == 1
    assert "ships with dlenv and can't be removed" in refused.stderr
    removed = run("models", "remove", "spiral-mlp", "--repository", repository, "--yes")
    assert removed.code == 0
    assert removed.stderr == "Removed spiral-mlp/2.\n"
    assert {path.name for path in repository.iterdir()} == {"spiral-linear"}


def test_remove_asks(run: Run, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    result = run("models", "remove", "spiral-mlp", "--repository", repository)
    assert result.code == 130
    assert "Remove spiral-mlp, version 2, from" in result.stderr
    assert (repository / "spiral-mlp" / "2").is_dir()


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (
            ("show", "mnist-lenett"),
            1,
            "no model 'mnist-lenett'; there is mnist-lenet, mnist-mlp, spiral-linear, spiral-mlp",
        ),
        (("show", "mnist-lenett"), 1, "did you mean 'mnist-lenet'?"),
        (("show", "mnist-lenet/9"), 1, "has no version 9; there is 1"),
        (("show", "mnist-lenet/x"), 2, "'mnist-lenet/x' is not NAME or NAME/VERSION"),
        (("show", "../trained"), 2, "'../trained' is not NAME or NAME/VERSION"),
        (("verify", "nothing"), 1, "no model 'nothing'"),
        (("remove", "nothing", "--yes"), 1, "no model 'nothing'"),
        (("list", "--repository", "/nowhere"), 1, "there is no model repository at /nowhere"),
        (("list", "--repository", "/dev/null"), 1, "is a file, not a model repository"),
        (("list", "--repository", "/usr"), 1, "/usr is not a model repository: it holds other things"),
        (("lst",), 2, "No such command 'lst'"),
    ],
)
def test_misuse_is_one_line(run: Run, words: tuple[str, ...], code: int, reason: str) -> None:
    result = run("models", *words)
    assert (result.code, result.stdout) == (code, "")
    assert reason in result.stderr
    assert sum(line.startswith("Error: ") for line in result.stderr.splitlines()) == 1
    assert "Traceback" not in result.stderr


def test_control_sequences_in_names_do_not_reach_the_terminal(run: Run, repository: Path) -> None:
    (repository / "spiral-mlp").rename(repository / "\x1b[2Jevil")
    result = run("models", "list", "--repository", repository)
    assert "\x1b" not in result.stdout
    assert "evil" in result.stdout
