"""A machine whose clock is wrong: certificates are not valid yet, or no longer, and the clock is named."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import certificates
import httpx
import pytest
from http_server import Page, Server

from dlenv.managers import uv
from dlenv.network import http

DAY = timedelta(days=1)
# The server's certificate is not of today, as it seems to a machine whose clock is years off.
TIMES = {"expired": (-900 * DAY, -800 * DAY), "not yet valid": (800 * DAY, 900 * DAY)}


@pytest.fixture(params=TIMES)
def server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    now = datetime.now(timezone.utc)
    begins, ends = (now + offset for offset in TIMES[request.param])
    authority, certificate = certificates.make_signed(tmp_path, begins, ends)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server({"/simple/": Page(b"")}, certificate) as running:
        yield running


def today() -> str:
    return f"this machine's clock says {datetime.now(timezone.utc):%Y-%m-%d}"


def test_a_download_names_the_clock(server: Server) -> None:
    with http.client(httpx.Timeout(10)) as client, pytest.raises(httpx.ConnectError) as caught:
        client.get(f"{server.url}/simple/")
    assert today() in http.reason(caught.value)


def test_uv_names_it_too(server: Server, tmp_path: Path) -> None:
    words = ("pip", "compile", "--no-cache", "--index-url", f"{server.url}/simple/")
    wanted = tmp_path / "wanted.in"
    wanted.write_text("somepackage\n")
    with pytest.raises(uv.Failed) as caught:
        uv.run([*words, wanted], {"UV_HTTP_RETRIES": "0"})
    assert today() in str(caught.value)


def test_any_other_failure_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(timezone.utc)
    _, certificate = certificates.make_signed(tmp_path, now - DAY, now + DAY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with (
        Server({}, certificate) as server,
        http.client(httpx.Timeout(10)) as client,
        pytest.raises(httpx.ConnectError) as caught,
    ):
        client.get(server.url)
    reason = http.reason(caught.value)
    assert "SSL_CERT_FILE" in reason
    assert "clock" not in reason
