from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from dlenv.cli import main


@dataclass(frozen=True)
class Result:
    code: int
    stdout: str
    stderr: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``dlenv`` with these words in this process: the real command line, down to its exit code."""

    def call(*words: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        output = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Result(caught.value.code, output.out, output.err)

    return call


@pytest.fixture(autouse=True)
def _empty_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or changes what the user has: own folders for models, data and pictures."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.delenv("DLENV_REPOSITORY", raising=False)
    monkeypatch.delenv("DLENV_DATA_DIR", raising=False)
    monkeypatch.chdir(home)
