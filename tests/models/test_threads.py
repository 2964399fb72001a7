from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dlenv_models import threads


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("architecture", ["linear", "mlp", "lenet"])
def test_small_architectures_take_one_thread(architecture: str) -> None:
    torch.set_num_threads(2)
    assert threads.use(architecture) == torch.get_num_threads() == 1


def test_a_deep_one_takes_every_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_CORES", 3)
    assert threads.use("resnet18") == torch.get_num_threads() == 3


def test_a_number_is_taken_as_it_is() -> None:
    assert threads.use("lenet", 2) == torch.get_num_threads() == 2
