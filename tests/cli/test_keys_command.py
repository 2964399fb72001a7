"""`dlenv keys`: a key is shown once, and everything else of it can be seen and changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DLENV_KEYS", raising=False)


def test_add_list_remove(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    made = run("keys", "add", "camera", "--file", path, "--rate", "20")
    assert made.code == 0
    key = made.stdout.strip()
    assert key.startswith("dlenv_")
    assert key not in made.stderr
    assert run("keys", "add", "operator", "--file", path, "--scope", "infer", "--scope", "admin").code == 0
    assert run("keys", "add", "prometheus", "--file", path, "--read-only").code == 0

    listed = run("keys", "list", "--file", path)
    names, *lines = [line.split("\t") for line in listed.stdout.splitlines()]
    assert names == ["name", "scopes", "requests/s", "made (UTC)"]
    assert [line[:3] for line in lines] == [
        ["camera", "infer", "20"],
        ["operator", "infer, admin", "any"],
        ["prometheus", "read only", "any"],
    ]
    document = json.loads(run("keys", "list", "--file", path, "--json").stdout)
    assert document["schema"] == 1
    assert document["keys"][0]["requests_per_second"] == 20
    assert document["keys"][2]["scopes"] == []
    assert key not in json.dumps(document) + listed.stdout + path.read_text()

    assert run("keys", "remove", "camera", "--file", path).code == 0
    assert "camera" not in path.read_text()


def test_the_file_may_come_from_the_environment(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("keys", "list").code == 2
    monkeypatch.setenv("DLENV_KEYS", str(tmp_path / "keys.toml"))
    assert run("keys", "add", "one").code == 0
    assert run("keys", "list").stdout.splitlines()[1].startswith("one\tinfer\tany\t")


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["add", "a b"], 2, "name 'a b'"),
        (["add", "one", "--rate", "0"], 2, "requests_per_second 0"),
        (["add", "one", "--scope", "root"], 2, "'root'"),
        (["add", "one", "--scope", "infer", "--read-only"], 2, "exclude each other"),
        (["list"], 1, "can't be read: No such file"),
        (["remove", "one"], 1, "can't be read: No such file"),
    ],
)
def test_what_cannot_be_done_is_said_on_one_line(
    run: Run, tmp_path: Path, words: list[str], code: int, reason: str
) -> None:
    result = run("keys", *words, "--file", tmp_path / "keys.toml")
    assert (result.code, result.stdout) == (code, "")
    assert reason in result.stderr
    assert not (tmp_path / "keys.toml").exists()
