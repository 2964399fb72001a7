from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nvml_stub import compile_stub, fake_machine, no_library

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


@pytest.fixture(scope="session")
def stub_nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stub of NVIDIA's library, compiled once; see ``nvml_stub``."""
    return compile_stub(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def with_gpus(stub_nvml: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Make this a machine with made-up NVIDIA GPUs; what it takes is described in ``nvml_stub``."""

    def make(**machine: Any) -> dict[str, str]:
        for name in [name for name in os.environ if name.startswith("STUB_NVML_")]:
            monkeypatch.delenv(name)
        variables = fake_machine(stub_nvml, **machine)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return variables

    return make


@pytest.fixture
def without_driver(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this a machine where NVML's library can't be loaded."""
    for name, value in no_library(tmp_path_factory.mktemp("no-nvml")).items():
        monkeypatch.setenv(name, value)
