"""What holds for every test."""

from __future__ import annotations

import os
import signal

import pytest

# A shell without job control starts what runs in the background with SIGINT ignored, and so would be every program
# that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Services that tests start stay on PyTorch, unless the test is about ONNX: exporting takes both cores for seconds.
os.environ["DLENV_ENGINE"] = "eager"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist makes groups of the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What one worker of pytest-xdist runs: a file, whose fixtures are made once; and all that starts Ray.

    Ray's tests look for processes and sockets that are left behind, and would find each other's.
    """
    for item in items:
        group = "ray" if item.get_closest_marker("ray") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
