"""Where a Ray cluster should be and is none."""

from __future__ import annotations

import socket

import pytest

from dlenv.errors import DlenvError, UsageError
from dlenv_models.own_ray import ray_for


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
