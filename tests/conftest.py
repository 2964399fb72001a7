"""What holds for every test."""

from __future__ import annotations

import os
import signal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A shell without job control starts what runs in the background with SIGINT ignored, and so would be every program
# that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Services that tests start stay on PyTorch, unless the test is about ONNX: exporting takes both cores for seconds.
os.environ["DLENV_ENGINE"] = "eager"
# Whatever the system of whoever runs the tests speaks.
os.environ["DLENV_LANG"] = "en"
# Properties are tried with the same cases each time: a run is about a change. `make test-fuzz` draws new ones.
settings.register_profile("repeatable", derandomize="TEST_FUZZ_CASES" not in os.environ)
settings.load_profile("repeatable")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share out whole files, whose fixtures are made once, and everything with Ray to one worker.

    Ray's tests look for processes and sockets that are left behind, and would find each other's. pytest-xdist's own
    groups (``--dist loadgroup``) do nothing with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "ray" if _has_ray(config.rootpath / file) else file

    return Files(config, log)


@cache
def _has_ray(file: Path) -> bool:
    return "_ray" in file.stem or "pytest.mark.ray" in file.read_text(encoding="utf-8")
