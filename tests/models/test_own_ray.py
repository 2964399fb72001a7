"""Where a Ray cluster should be and is none."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest

from dlenv.errors import DlenvError, UsageError
from dlenv_models import own_ray
from dlenv_models.own_ray import ray_for, room


def test_where_nothing_answers_that_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    words = f"address: nothing answers at 127.0.0.1:{port} .*; start Ray there, or give another"
    with pytest.raises(DlenvError, match=words), ray_for("train", cpus=1, address=f"127.0.0.1:{port}"):
        pass


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:port", ""])
def test_what_is_no_address_is_refused(address: str) -> None:
    words = "is not HOST:PORT of a Ray cluster's head, nor auto"
    with pytest.raises(UsageError, match=words), ray_for("train", cpus=1, address=address):
        pass


def test_more_processes_than_there_is_memory_for_are_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_ray, "fitting", lambda: 3)
    with (
        pytest.raises(
            DlenvError, match="4 processes at once are too many for this machine, whose cores and free memory bear 3"
        ),
        ray_for("train", cpus=4, processes=4),
    ):
        pass


def test_cores_and_memory_say_how_many_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_ray.psutil, "virtual_memory", lambda: SimpleNamespace(available=6000 * 2**20))
    monkeypatch.setattr(own_ray.system, "memory_mib", lambda _: 64_000)
    monkeypatch.setattr(own_ray.system, "cpus", lambda _: 2)
    assert own_ray.fitting() == 8
    monkeypatch.setattr(own_ray.system, "cpus", lambda _: 64)
    assert own_ray.fitting() == 10
    monkeypatch.setattr(own_ray.system, "memory_mib", lambda _: 800)  # of a container
    assert own_ray.fitting() == 2


@pytest.mark.parametrize(("cpus", "gpus", "reason"), [(4, 0, "4 CPUs, and Ray has 3"), (2, 2, "2 GPUs, and Ray has 0")])
def test_what_ray_would_wait_for_without_an_end(
    monkeypatch: pytest.MonkeyPatch, cpus: int, gpus: int, reason: str
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 3.0, "memory": 1e9})
    with pytest.raises(DlenvError, match=f"this takes {reason}; take fewer workers"):
        room(cpus=cpus, gpus=gpus)
    room(cpus=3, gpus=0)
