"""TLS with the service's own server, and the admin address: who gets which answer where."""

from __future__ import annotations

import logging
import select
import signal
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import certificates
import httpx
import pytest
from cryptography import x509
from test_local import BODY, INFER, free_port, posix, process

from dlenv.errors import StartError, UsageError
from dlenv_service.config import load_settings
from dlenv_service.tls import Certificate


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "cert.pem", tmp_path / "key.pem"


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate)


def shown(port: int) -> set[int]:
    """The serial numbers of the certificates that new clients see, with and without naming the server."""
    serials = set()
    for name in ("localhost", None):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=name) as connection,
        ):
            content = connection.getpeercert(binary_form=True)
            assert content is not None
            serials.add(x509.load_der_x509_certificate(content).serial_number)
    return serials


@posix
def test_tls_and_a_new_certificate_without_a_dropped_connection(repository: Path, pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    first = certificates.make(*pair)
    words = ["--repository", str(repository), "--models", "points"]
    with process(*words, "--tls-certificate", str(certificate), "--tls-key", str(key)) as it:
        line = it.wait_for("Serving")
        url = f"https://127.0.0.1:{it.port}"
        assert f"on {url} " in line
        with httpx.Client(base_url=url, verify=trusting(certificate), timeout=20) as old:
            for _ in range(3):  # on the quick way too
                assert old.post(INFER, json=BODY).status_code == 200
            assert shown(it.port) == {first}

            second = certificates.make(*pair)
            until = time.monotonic() + 5
            while shown(it.port) != {second}:
                assert time.monotonic() < until
                time.sleep(0.2)
            assert old.post(INFER, json=BODY).status_code == 200  # on the connection from before
            with httpx.Client(base_url=url, verify=trusting(certificate), timeout=20) as new:
                assert new.post(INFER, json=BODY).status_code == 200

            certificate.write_text("none")
            time.sleep(1.5)
            assert shown(it.port) == {second}
            assert any("the certificate from before goes on" in each for each in it.lines)
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{it.port}/v2/health/live", timeout=5)
        assert it.stop(signal.SIGTERM) == 0
        assert "Traceback" not in "\n".join(it.lines)


@posix
@pytest.mark.parametrize("fronts", [0, 1])
def test_handshakes_that_never_end_count_and_have_their_time(
    repository: Path, pair: tuple[Path, Path], fronts: int
) -> None:
    certificate, key = pair
    certificates.make(*pair)
    words = ["--repository", str(repository), "--models", "points", "--fronts", str(fronts)]
    words += ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    limits = ["--max-connections", "8", "--header-timeout-ms", "2500"]
    with process(*words, *limits) as it, ExitStack() as stack:
        it.wait_for("Serving")
        ask = partial(
            httpx.post, f"https://127.0.0.1:{it.port}{INFER}", json=BODY, verify=trusting(certificate), timeout=20
        )
        assert ask().status_code == 200
        time.sleep(0.3)  # until that connection is over
        began = time.monotonic()
        half = [stack.enter_context(socket.create_connection(("127.0.0.1", it.port), timeout=20)) for _ in range(12)]
        for connection in half[::2]:
            connection.sendall(b"\x16\x03\x01\x02")
        # Four are too many, and told so at once by the only word that there is without TLS.
        time.sleep(1)
        assert len(select.select(half, [], [], 0)[0]) == 4
        with pytest.raises(httpx.HTTPError):
            ask()
        assert all(closed(connection, 10.0) for connection in half)
        assert 2.0 < time.monotonic() - began < 15
        assert ask().status_code == 200
        for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x02no", b"\0" * 100):
            with socket.create_connection(("127.0.0.1", it.port), timeout=20) as connection:
                connection.sendall(nonsense)
                assert closed(connection, 10.0)
        stack.enter_context(socket.create_connection(("127.0.0.1", it.port), timeout=20))  # keeps nobody from stopping
        began = time.monotonic()
        assert it.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < 8
        assert "Traceback" not in "\n".join(it.lines)
        assert "Error" not in "\n".join(it.lines)


def closed(connection: socket.socket, limit_s: float) -> bool:
    """Whether the service has closed it, or does so in time."""
    connection.settimeout(limit_s)
    try:
        while connection.recv(1 << 16):  # an alert, perhaps
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def test_a_client_cannot_ask_for_one_handshake_after_another(pair: tuple[Path, Path]) -> None:
    certificates.make(*pair)
    assert Certificate(*pair).context.options & ssl.OP_NO_RENEGOTIATION


def test_old_protocols_and_ciphers_are_refused(pair: tuple[Path, Path]) -> None:
    certificates.make(*pair)
    context = Certificate(*pair).context
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    weak = [each["name"] for each in context.get_ciphers() if "CBC" in each["description"] and "SHA1" in each["name"]]
    assert weak == []
    assert not [each for each in context.get_ciphers() if "RC4" in each["name"] or "NULL" in each["name"]]


@pytest.mark.parametrize("what", ["missing", "no key", "other key", "password", "not PEM"])
def test_files_that_do_not_fit_stop_the_start(pair: tuple[Path, Path], tmp_path: Path, what: str) -> None:
    certificate, key = pair
    certificates.make(*pair, password=b"secret" if what == "password" else None)
    if what == "missing":
        key.unlink()
    elif what == "no key":
        key = certificate
    elif what == "other key":
        certificates.make(tmp_path / "other.pem", key)
    elif what == "not PEM":
        certificate.write_text("-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
    with pytest.raises(StartError, match=r"can't be used \(.+\); give --tls-certificate and --tls-key") as refused:
        Certificate(certificate, key)
    assert str(refused.value).isprintable()


def test_files_that_are_changed_one_after_the_other(
    pair: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Between the two changes they don't fit; the old pair is shown until both are there."""
    old = certificates.make(*pair)
    now = [0.0]
    it = Certificate(*pair, clock=lambda: now[0])
    new = certificates.make(tmp_path / "new.pem", tmp_path / "new.key")

    def shows() -> int:
        now[0] += 1
        it.look()
        ours, theirs = socket.socketpair()
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with ours, theirs, ThreadPoolExecutor() as pool:
            answering = pool.submit(it.context.wrap_socket, ours, server_side=True)
            with context.wrap_socket(theirs) as connection, answering.result(10):
                content = connection.getpeercert(binary_form=True)
        assert content is not None
        return x509.load_der_x509_certificate(content).serial_number

    (tmp_path / "new.pem").replace(pair[0])
    with caplog.at_level(logging.ERROR):
        assert (shows(), shows()) == (old, old)
    assert len(caplog.records) == 1
    (tmp_path / "new.key").replace(pair[1])
    assert shows() == new


def test_what_tls_does_not_go_with() -> None:
    with pytest.raises(UsageError, match="on Ray a proxy in front"):
        load_settings({"tls_certificate": "a.pem"})
    with pytest.raises(UsageError, match="has no certificate"):
        load_settings({"tls_key": "a.pem", "runtime": "local"})
    assert load_settings({"tls_certificate": "a.pem", "runtime": "local"}).url == "https://127.0.0.1:8000"


# The admin address

MANAGEMENT = (
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/points/load"),
    ("GET", "/v2/models/stats"),
    ("GET", "/v2/models/points/stats"),
    ("GET", "/metrics"),
)


@posix
@pytest.mark.parametrize("fronts", [0, 1])
def test_management_has_an_address_of_its_own(repository: Path, fronts: int) -> None:
    admin = f"127.0.0.1:{free_port()}"
    words = ["--repository", str(repository), "--models", "points", "--fronts", str(fronts)]
    with process(*words, "--admin-address", admin) as it:
        it.wait_for("Serving")
        for method, path in MANAGEMENT:
            elsewhere = httpx.request(method, it.url + path)
            assert elsewhere.status_code == 404, path
            assert elsewhere.json() == {"error": "this path is answered on the service's admin address only"}
            assert httpx.request(method, f"http://{admin}{path}").status_code == 200, path
        # Nobody can claim to have come to the other address.
        forged = httpx.get(f"{it.url}/metrics", headers={"Host": admin, "X-Forwarded-Host": admin})
        assert forged.status_code == 404
        for url in (it.url, f"http://{admin}"):
            assert httpx.get(f"{url}/v2/models/points").status_code == 200
            assert httpx.post(url + INFER, json=BODY).status_code == 200
        assert it.stop(signal.SIGTERM) == 0
        assert "Traceback" not in "\n".join(it.lines)
        assert it.others() == []


@posix
def test_an_admin_address_in_use_stops_the_start(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with process("--repository", str(repository), "--admin-address", f"127.0.0.1:{port}") as it:
            assert it.popen.wait(60) == 1
            it._reader.join(10)
    assert it.lines[-1].startswith(f"Error: can't listen on 127.0.0.1:{port}: the port is in use")


@pytest.mark.parametrize("address", ["8001", ":8001", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", "a b:1", "x:y"])
def test_an_admin_address_is_host_and_port(address: str) -> None:
    with pytest.raises(UsageError, match=r"--admin-address"):
        load_settings({"admin_address": address})


def test_an_admin_address_that_others_reach_needs_keys_too() -> None:
    with pytest.raises(UsageError, match=r"--admin-address 0\.0\.0\.0 is not loopback"):
        load_settings({"admin_address": "0.0.0.0:8001"})
    assert load_settings({"admin_address": "0.0.0.0:8001", "keys": "keys.toml"})
    assert load_settings({"admin_address": "[::1]:8001"})


def test_several_replicas_cannot_share_an_admin_address() -> None:
    with pytest.raises(UsageError, match="one replica"):
        load_settings({"admin_address": "127.0.0.1:8001", "replicas": 2})
