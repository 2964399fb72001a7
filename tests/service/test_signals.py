"""A signal as an exception: once for each time that somebody asks."""

from __future__ import annotations

import os
import signal
import time

import pytest

from dlenv_service import signals


def asked(number: signal.Signals) -> bool:
    try:
        os.kill(os.getpid(), number)
        time.sleep(0.01)
    except signals.Stopped:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_asks_twice_at_once_means_it_once(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "TOGETHER_S", 0.3)
    time.sleep(0.3)
    before = signal.getsignal(number)
    with signals.raising():
        assert asked(number)
        assert not asked(number)
        time.sleep(0.3)
        assert asked(number)
    assert signal.getsignal(number) is before
