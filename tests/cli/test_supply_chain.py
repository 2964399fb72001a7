"""What dlenv is made of: locked with hashes, known licences, no known faults; and that it starts without a network."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
AUDIT = ROOT / ".venv-audit" / "bin" / "python"
LICENCES, AUDITOR = REQUIREMENTS / "licences.py", REQUIREMENTS / "audit.py"
sys.path.insert(0, str(REQUIREMENTS))
licences = importlib.import_module("licences")
sys.path.remove(str(REQUIREMENTS))

# Starts the service where there is no network but loopback, asks it something, and stops it; whatever Python code of it
# looks up a name or connects to anybody else is written down.
GUARD = """
import os, sys
def watch(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if host not in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0"):
        with open(os.environ["SEEN"], "a") as file:
            print(event, host, file=file)
sys.addaudithook(watch)
"""
ALONE = """
import fcntl, http.client, socket, struct, subprocess, sys, time
SIOCSIFFLAGS, IFF_UP = 0x8914, 1  # netdevice(7)
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))
service = subprocess.Popen([sys.executable, "-m", "dlenv", "serve", "--runtime", "local", "--port", "8000"])
try:
    until = time.monotonic() + 60
    while True:
        try:
            client = http.client.HTTPConnection("127.0.0.1", 8000)
            headers = {"content-type": "application/json"}
            client.request("POST", "/predict/spiral-mlp", '{"inputs": [[0.1, 0.2]]}', headers)
            break
        except OSError:
            assert service.poll() is None and time.monotonic() < until
            time.sleep(0.1)
    print(client.getresponse().status)
finally:
    service.terminate()
    service.wait(30)
"""


def run(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, env={**os.environ, **variables}, cwd=ROOT
    )


@pytest.mark.parametrize("name", ["audit", "bootstrap", "dev", "serve"])
def test_everything_is_locked_with_hashes(name: str) -> None:
    text = (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8")
    entries = [entry for entry in re.split(r"\n(?=\S)", text) if not entry.startswith("#")]
    assert len(entries) > 10
    for entry in entries:
        assert re.match(r"[a-z0-9][a-z0-9.-]*==\S+ ", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


def test_every_licence_here_is_on_the_list() -> None:
    done = run(sys.executable, LICENCES)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 50
    assert re.search(r"^numpy +\S+ +BSD-3-Clause.* allowed$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("License-Expression: MIT OR GPL-3.0-only", True),
        ("License-Expression: MIT AND (GPL-3.0-only OR Apache-2.0)", True),
        ("License-Expression: MIT AND GPL-3.0-only", False),
        ("License-Expression: MIT AND", False),
        ("License-Expression: (MIT", False),
        ("Classifier: License :: OSI Approved :: BSD License", True),
        ("Classifier: License :: OSI Approved :: GNU Affero General Public License v3", False),
        ("License: MIT", True),
        ("License: Apache-2.0 WITH LLVM-exception", True),
        ("License: all rights reserved", False),
        ("Summary: says nothing", False),
    ],
)
def test_what_a_package_says_is_judged(said: str, right: bool) -> None:
    message = Message()
    message[said.partition(": ")[0]] = said.partition(": ")[2]
    package = licences.Package("made-up", "1.0", licences.licence(message))
    assert (package.reason is not None) is right


def test_a_package_whose_licence_is_not_on_the_list_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "made_up-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.4\nName: made_up\nVersion: 1.0\nLicense: mine\n")
    done = run(sys.executable, LICENCES, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("made-up 1.0: its licence 'mine' is not on the list")


@pytest.mark.skipif(not AUDIT.exists(), reason="there is no .venv-audit; `make audit` makes it")
def test_without_a_network_the_audit_says_that_nothing_was_found_out() -> None:
    done = run(AUDIT, AUDITOR, HTTPS_PROXY="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert "known vulnerabilities were NOT looked for: requests.exceptions.ProxyError: " in done.stderr


@contextmanager
def advisories(name: str) -> Iterator[str]:
    """A service with OSV's interface that knows one advisory, about every version of ``name``."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["package"]["name"]
            ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "999"}]}]
            affected = [{"package": {"name": name, "ecosystem": "PyPI"}, "ranges": ranges}]
            advisory = {
                "id": "PYSEC-0000-1", "summary": "made up", "details": "", "affected": affected,
                "modified": "2026-01-01T00:00:00Z", "published": "2026-01-01T00:00:00Z",
            }  # fmt: skip
            body = json.dumps({"vulns": [advisory]} if asked == name else {}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.05,)).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


@pytest.mark.skipif(not AUDIT.exists(), reason="there is no .venv-audit; `make audit` makes it")
@pytest.mark.parametrize(("known", "code"), [("idna", 1), ("something-else", 0)])
def test_the_audit_names_what_is_known(tmp_path: Path, known: str, code: int) -> None:
    file = tmp_path / "locked.txt"
    # Two versions of one name, as a lock for several Pythons has them.
    file.write_text("idna==3.1 \\\n    --hash=sha256:0\nidna==3.20 ; python_version > '3.12' \\\nclick==8.1.0 \\\n")
    with advisories(known) as url:
        done = run(AUDIT, AUDITOR, file, OSV_URL=url, NO_PROXY="127.0.0.1")
    assert done.returncode == code, done.stderr
    assert f"audit: 3 locked versions, {2 * code} known vulnerabilities" in done.stderr
    assert ("idna 3.1: PYSEC-0000-1, fixed in 999" in done.stderr) is bool(code)


def test_a_service_starts_without_a_network_and_looks_for_none(tmp_path: Path) -> None:
    alone = ("unshare", "--net") if os.geteuid() == 0 else ("unshare", "--map-root-user", "--net")
    if shutil.which("unshare") is None or run(*alone, "true").returncode:
        pytest.skip("no network namespace can be made here: `unshare --net true` fails")
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    seen = tmp_path / "seen"
    done = run(*alone, sys.executable, "-c", ALONE, PYTHONPATH=str(tmp_path), SEEN=str(seen), DLENV_ENGINE="auto")
    assert done.stdout.strip() == "200", done.stderr
    assert "loaded spiral-mlp" in done.stderr
    assert not seen.exists(), seen.read_text()
    # The guard does see what it should see.
    look = "import socket; socket.getaddrinfo('example.invalid', 80)"
    assert run(*alone, sys.executable, "-c", look, PYTHONPATH=str(tmp_path), SEEN=str(seen)).returncode
    assert "example.invalid" in seen.read_text()
