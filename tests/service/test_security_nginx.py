"""TLS in front: the configuration that docs/security.md gives, with a real nginx."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import certificates
import httpx
import pytest
from test_local import BODY, INFER, Process, free_port, process

from dlenv_service import keyfile

ROOT = Path(__file__).parents[2]
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")

pytestmark = pytest.mark.skipif(NGINX is None, reason="needs nginx (apt install nginx-light)")


@dataclass
class Site:
    """nginx, the service behind it, and how to reach both."""

    service: Process
    port: int
    certificate: Path
    key: str
    audit: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def client(self, *, key: bool = True) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"} if key else {}
        context = ssl.create_default_context(cafile=self.certificate)
        return httpx.Client(base_url=self.url, verify=context, headers=headers, timeout=20)


@contextmanager
def nginx(directory: Path, configuration: str, port: int) -> Iterator[None]:
    (directory / "logs").mkdir()
    (directory / "nginx.conf").write_text(configuration)
    command = [str(NGINX), "-p", str(directory), "-e", "stderr", "-c", str(directory / "nginx.conf")]
    own = f"daemon off; pid {directory}/pid;"
    with subprocess.Popen([*command, "-g", own], stderr=subprocess.PIPE, text=True) as running:
        try:
            until = time.monotonic() + 20
            while True:
                assert running.poll() is None, running.stderr and running.stderr.read()
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert time.monotonic() < until
                    time.sleep(0.05)
            yield
        finally:
            running.terminate()
            running.wait(20)


@pytest.fixture(scope="module")
def site(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("nginx")
    certificate, private = directory / "cert.pem", directory / "key.pem"
    certificates.make(certificate, private)
    key = keyfile.add(directory / "keys.toml", "operator", ("infer", "admin"))
    audit, port = directory / "audit.log", free_port()
    words = ["--repository", str(repository), "--models", "points,digits", "--audit-log", str(audit)]
    with process(*words, "--keys", str(directory / "keys.toml")) as service:
        service.wait_for("Serving")
        text = (ROOT / "docs" / "nginx.conf").read_text()
        for shipped, here in (
            ("127.0.0.1:8000", f"127.0.0.1:{service.port}"),
            ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
            ("/etc/dlenv/cert.pem", str(certificate)),
            ("/etc/dlenv/key.pem", str(private)),
            ("worker_processes auto", "worker_processes 1"),
        ):
            assert text.count(shipped) == 1 or shipped == "127.0.0.1:8000", shipped
            text = text.replace(shipped, here)
        with nginx(directory, text, port):
            yield Site(service, port, certificate, key, audit)


def test_requests_go_through_with_their_key_and_not_without(site: Site) -> None:
    with site.client() as client:
        for _ in range(50):
            assert client.post(INFER, json=BODY).status_code == 200
        page = client.get("/docs")
        assert page.status_code == 200
        assert page.headers["strict-transport-security"] == "max-age=31536000"
        assert "server" not in page.headers or "/" not in page.headers["server"]
        origin = {"Origin": site.url, "Sec-Fetch-Site": "same-origin"}  # as the page's own browser sends it
        assert client.post("/v2/repository/models/points/load", headers=origin).status_code == 200
    with site.client(key=False) as client:
        refused = client.post(INFER, json=BODY)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")


def connections_of(port: int) -> int:
    """Established connections to a port of this machine, from the kernel's table."""
    wanted = f":{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[2].endswith(wanted) and line.split()[3] == "01" for line in lines)


def test_connections_to_the_service_are_kept(site: Site) -> None:
    with site.client() as client:
        for _ in range(20):
            client.post(INFER, json=BODY).raise_for_status()
        assert 1 <= connections_of(site.service.port) <= 4
        time.sleep(6)  # longer than either side keeps an idle connection
        for _ in range(5):
            assert client.post(INFER, json=BODY).status_code == 200


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(site: Site) -> None:
    context = ssl.create_default_context(cafile=site.certificate)
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.key}\r\nContent-Length: 17000000\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", site.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


SMUGGLED = "POST /v2/repository/models/digits/unload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
SHAPES = {
    "length and chunks": ("Content-Length: {length}\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
    "chunks and length": ("Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n"),
    "two lengths": ("Content-Length: 0\r\nContent-Length: {length}", ""),
    "a length with a sign": ("Content-Length: +0", ""),
    "a length in two parts": ("Content-Length: 0, {length}", ""),
    "strange chunks": ("Transfer-Encoding: xchunked", "0\r\n\r\n"),
    "a space before the colon": ("Transfer-Encoding : chunked", "0\r\n\r\n"),
    "a tab in chunks": ("Transfer-Encoding:\tchunked\r\nContent-Length: {length}", "0\r\n\r\n"),
    "chunks twice": ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n"),
    "a folded header": ("X: a\r\n Transfer-Encoding: chunked\r\nContent-Length: {length}", "0\r\n\r\n"),
    "a bare line feed": ("X: a\nTransfer-Encoding: chunked\r\nContent-Length: {length}", "0\r\n\r\n"),
    "a chunk size that overflows": ("Transfer-Encoding: chunked", "10000000000000000\r\n\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("way", ["through nginx", "directly"])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_request_is_smuggled_in_the_body_of_another(site: Site, shape: str, way: str) -> None:
    """The key is nginx's client's; what is smuggled has none, and a proxy that adds it would be the victim."""
    headers, start = SHAPES[shape]
    smuggled = f"{SMUGGLED}Authorization: Bearer {site.key}\r\n\r\n"
    body = start + smuggled
    first = f"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n{headers.format(length=len(body))}\r\n\r\n"
    port = site.port if way == "through nginx" else site.service.port
    with socket.create_connection(("127.0.0.1", port), timeout=3) as plain:
        context = ssl.create_default_context(cafile=site.certificate)
        connection = context.wrap_socket(plain, server_hostname="localhost") if way == "through nginx" else plain
        answers = b""
        try:
            connection.sendall((first + body).encode())
            while more := connection.recv(1 << 16):
                answers += more
        except OSError:  # it was closed, or waits for more
            pass
        finally:
            connection.close()
    # Either the first is refused, or all the rest is its body.
    statuses = [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]]
    assert len(statuses) <= 1, (shape, answers)
    with site.client() as client:
        assert client.get("/v2/models/digits").status_code == 200, shape
        assert client.post(INFER, json=BODY).status_code == 200
    assert "digits/unload" not in (site.audit.read_text() if site.audit.exists() else "")
