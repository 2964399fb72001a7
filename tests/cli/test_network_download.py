"""Downloads from a server that misbehaves in every way that real ones do."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import certificates
import pytest
from http_server import Page, Server, dead_address, silent_address

from dlenv.errors import DataError, Unreachable, UsageError
from dlenv.network import download, http
from dlenv.network.download import fetch
from dlenv.network.progress import DownloadProgress

CONTENT = bytes(range(256)) * 400
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server({"/file": Page(CONTENT)}) as running:
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "file.bin"


def only(target: Path) -> bool:
    """Nothing but the file lies in its folder."""
    return [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_file_is_fetched_once(server: Server, target: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    fetched = fetch([f"{server.url}/file"], target, progress=lambda done, total: seen.append((done, total)))
    assert (fetched.url, fetched.sha256, fetched.size) == (f"{server.url}/file", SHA256, len(CONTENT))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert fetch([f"{server.url}/file"], target, sha256=SHA256.upper()).url is None
    assert server.paths == ["/file"]
    assert only(target)


def test_without_a_hash_the_file_is_fetched_again(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"old")
    fetch([f"{server.url}/file"], target)
    assert target.read_bytes() == CONTENT


def test_a_dropped_connection_is_taken_up_again(server: Server, target: Path) -> None:
    server.pages["/file"].cuts = [30_000, 20_000]
    fetch([f"{server.url}/file"], target)
    assert target.read_bytes() == CONTENT
    assert [request.headers.get("Range") for request in server.requests] == [None, "bytes=30000-", "bytes=50000-"]
    assert server.requests[1].headers["If-Range"] == '"1"'
    assert sum(request.sent for request in server.requests) == len(CONTENT)
    assert only(target)


def test_a_later_run_takes_up_what_an_interrupted_one_left(server: Server, target: Path) -> None:
    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    server.pages["/file"].pause = 0.001
    with pytest.raises(KeyboardInterrupt):
        fetch([f"{server.url}/file"], target, progress=stop)
    assert not target.exists()
    begun = target.with_name("file.bin.part").stat().st_size
    assert 0 < begun < len(CONTENT)
    server.pages["/file"].pause = 0
    fetch([dead_address() + "/file", f"{server.url}/file"], target)
    assert server.requests[1].headers["Range"] == f"bytes={begun}-"
    assert server.requests[1].sent == len(CONTENT) - begun
    assert target.read_bytes() == CONTENT
    assert only(target)


@pytest.mark.parametrize("obeys", [True, False])
def test_a_file_that_changed_meanwhile_is_fetched_anew(server: Server, target: Path, obeys: bool) -> None:
    server.pages["/file"] = Page(CONTENT[::-1], cuts=[30_000])

    def change(done: int, total: int | None) -> None:
        server.pages["/file"] = Page(CONTENT, etag='"2"', ignores_if_range=not obeys)

    fetch([f"{server.url}/file"], target, progress=change)
    assert server.requests[1].headers["Range"] == "bytes=30000-"
    assert target.read_bytes() == CONTENT


def test_a_server_without_ranges_starts_anew(server: Server, target: Path) -> None:
    server.pages["/file"].cuts = [30_000]

    def forget(done: int, total: int | None) -> None:
        server.pages["/file"].ranges = False

    fetch([f"{server.url}/file"], target, progress=forget)
    assert [request.sent for request in server.requests] == [30_000, len(CONTENT)]
    assert target.read_bytes() == CONTENT


def test_what_can_not_be_resumed_is_left_to_the_next_address(server: Server, target: Path) -> None:
    server.pages["/cut"] = Page(CONTENT, ranges=False, cuts=[30_000])
    fetch([f"{server.url}/cut", f"{server.url}/file"], target)
    assert server.paths == ["/cut", "/file"]
    assert target.read_bytes() == CONTENT


def test_a_connection_that_brings_nothing_more_is_given_up(server: Server, target: Path) -> None:
    server.pages["/file"].cuts = [30_000, *[0] * 50]
    with pytest.raises(Unreachable, match="peer closed connection"):
        fetch([f"{server.url}/file"], target)
    assert len(server.requests) == 2
    server.pages["/file"].cuts = [1000] * 50
    with pytest.raises(Unreachable):
        fetch([f"{server.url}/file"], target)
    assert len(server.requests) < 12
    assert not target.exists()
    server.pages["/file"].cuts.clear()
    fetch([f"{server.url}/file"], target)  # and a later run goes on where this one ended
    assert sum(request.sent for request in server.requests) == len(CONTENT)


def test_wrong_bytes_in_a_resumed_part_do_not_stay(server: Server, target: Path) -> None:
    """Without a mark of the version only the hash tells that the beginning was of another file."""
    server.pages["/file"] = Page(CONTENT[::-1], etag=None, cuts=[30_000])

    def change(done: int, total: int | None) -> None:
        server.pages["/file"] = Page(CONTENT, etag=None)

    fetch([f"{server.url}/file"], target, sha256=SHA256, progress=change)
    assert [request.headers.get("Range") for request in server.requests] == [None, "bytes=30000-", None]
    assert target.read_bytes() == CONTENT


def test_an_address_with_another_file_is_passed_over_and_named(server: Server, target: Path) -> None:
    server.pages["/wrong"] = Page(CONTENT[::-1])
    talk: list[str] = []
    fetch([f"{server.url}/wrong", f"{server.url}/file"], target, sha256=SHA256, log=talk.append)
    assert target.read_bytes() == CONTENT
    assert any(f"{server.url}/wrong: wrong checksum: SHA-256" in line for line in talk)
    with pytest.raises(Unreachable, match=r"wrong checksum: MD5 \w+, not " + "0" * 32) as caught:
        fetch([f"{server.url}/wrong", dead_address()], target.with_name("other"), md5="0" * 32)
    assert caught.value.wrong == (f"{server.url}/wrong",)
    assert only(target)


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (Page(b"", status=403), "HTTP 403"),
        (Page(b"", status=404), "HTTP 404"),
        (Page(b"", status=500), "HTTP 500"),
        (Page(b"", location="http://127.0.0.1:9/gone"), "refused"),
        (Page(b"", location="/page"), "redirect"),
        (Page(CONTENT, claimed=len(CONTENT) + 1, ranges=False), "peer closed connection"),
        (Page(CONTENT, claimed=1 << 40), "more than 5,000,000 bytes"),
        (Page(endless=True), "more than 5,000,000 bytes"),
    ],
)
def test_a_useless_address(server: Server, target: Path, page: Page, reason: str) -> None:
    server.pages["/page"] = page
    with pytest.raises(Unreachable, match=reason):
        fetch([f"{server.url}/page"], target, limit=5_000_000)
    assert list(target.parent.iterdir()) == []
    fetch([f"{server.url}/page", f"{server.url}/file"], target, limit=5_000_000)
    assert only(target)


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_wrong_size(server: Server, target: Path, size: int) -> None:
    server.pages["/file"].length = False
    with pytest.raises(Unreachable, match=f"{size:,}"):
        fetch([f"{server.url}/file"], target, size=size)
    assert list(target.parent.iterdir()) == []


def test_a_silent_or_crawling_address_is_left(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_TIMEOUT", download.httpx.Timeout(0.2))
    monkeypatch.setattr(download, "_WINDOW", 0.1)
    monkeypatch.setattr(download, "_CRAWL", 1 << 20)
    server.pages["/crawl"] = Page(CONTENT, pause=0.02)
    talk: list[str] = []
    begin = time.monotonic()
    with silent_address() as silent:
        fetch([silent, f"{server.url}/crawl", f"{server.url}/file"], target, log=talk.append)
    assert time.monotonic() - begin < 2
    assert "no answer in time" in "\n".join(talk)
    assert "slower than" in "\n".join(talk)
    assert target.read_bytes() == CONTENT


def test_every_address_is_named_with_its_failure(server: Server, target: Path) -> None:
    nobody = dead_address()
    with pytest.raises(Unreachable) as caught:
        fetch([f"{nobody}/file", f"{server.url}/nothing", "no address", "http://user:secret@127.0.0.1:9/x"], target)
    text = str(caught.value)
    for part in (f"{nobody}/file (", f"{server.url}/nothing (HTTP 404)", "no address (", "http://***@127.0.0.1:9/x ("):
        assert part in text
    assert "secret" not in text
    assert "\n" not in text
    assert caught.value.wrong == ()


def test_two_at_once_do_not_disturb_each_other(server: Server, target: Path) -> None:
    server.pages["/file"].pause = 0.001
    done: list[bytes] = []

    def one() -> None:
        fetch([f"{server.url}/file"], target, sha256=SHA256)
        done.append(target.read_bytes())

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [CONTENT] * 3
    assert only(target)


def test_an_unwritable_folder(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="can't be written") as caught:
        fetch([f"{server.url}/file"], tmp_path / "file" / "x")
    assert not isinstance(caught.value, Unreachable)


@pytest.mark.parametrize(
    ("variable", "value", "match"),
    [
        ("HTTP_PROXY", "nonsense://proxy:1", "proxy"),
        ("ALL_PROXY", "socks5://127.0.0.1:9", "socksio|refused|SOCKS"),
        ("SSL_CERT_FILE", "/nowhere/certificates.pem", "SSL_CERT_FILE"),
    ],
)
def test_the_environment_is_obeyed_and_named(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, match: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(Unreachable, match=match):
        fetch([f"{server.url}/file"], target)


def test_a_proxy_is_asked(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.pages["http://nowhere.invalid/file"] = Page(CONTENT)  # a proxy is asked for the whole address
    monkeypatch.setenv("HTTP_PROXY", server.url)
    fetch(["http://nowhere.invalid/file"], target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.org/simple", "https://example.org/simple"),
        ("https://me:secret@example.org:8/a?b", "https://***@example.org:8/a"),
        ("https://u:p@ss/w@example.org/a", "https://***@example.org/a"),
        ("https://u:1/2@example.org/a", "https://***@example.org/a"),
        ("https://u:p?ss@example.org/a", "https://***"),
        ("https://u:p#ss@example.org/a", "https://***"),
        ("https://example.org/a?token=x@y", "https://***"),
        ("https://example.org/a?token=secret#more", "https://example.org/a"),
        ("me:secret@example.org", "***@example.org"),
        ("https://[bad/simple", "https://[bad/simple"),
        ("https://u:p@[bad/simple", "https://***@[bad/simple"),
        ("\0://\n@", "\0://***@"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_what_opens_it(url: str, shown: str) -> None:
    assert http.public(url) == shown


def test_in_a_text_every_address_is_shown_so() -> None:
    text = "`http://u:p@h/a?t=1`: (see https://h/b?t=2) and file:///tmp/x"
    assert http.redacted(text) == "`http://***@h/a`: (see https://h/b and file:///tmp/x"


@pytest.mark.parametrize(
    "url", ["http://[x/d.zip", "http://u:pass/w@h/d", "http://h:0x1/", "http:///d", "http://h\n/d"]
)
def test_an_address_that_is_none_is_a_mistake_of_the_user(url: str, target: Path) -> None:
    with pytest.raises(UsageError, match=r"file\.bin is '.*', which is no address; correct it$") as caught:
        fetch([url], target)
    assert "pass" not in str(caught.value)
    assert not target.parent.exists()


def test_progress_in_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 0.0, 5.0, 20.0])
    monkeypatch.setattr("dlenv.network.progress.time.monotonic", lambda: next(clock, 20.0))
    with DownloadProgress("file.zip") as progress:
        progress(1_000_000, 60_000_000)
        progress(2_000_000, 60_000_000)
        progress(21_000_000, 60_000_000)
    output = capsys.readouterr()
    assert output.err == "file.zip: 21.0 MB of 60.0 MB, 1.0 MB/s, 39 s left\n"
    assert output.out == ""


@pytest.mark.parametrize(
    ("done", "total", "line"),
    [
        (20_000_000, 3_400_000_000, "20.0 MB of 3.4 GB, 1.0 MB/s, about 56 min left"),
        (60_000_000, 60_000_000, "60.0 MB"),  # something is done with it, and nobody knows how long that takes
        (20_000_000, None, "20.0 MB, 1.0 MB/s"),
        (0, None, None),
    ],
)
def test_progress_in_a_pipe_says_what_is_known(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    done: int,
    total: int | None,
    line: str | None,
) -> None:
    clock = iter([0.0, 0.0, 20.0])
    monkeypatch.setattr("dlenv.network.progress.time.monotonic", lambda: next(clock, 20.0))
    with DownloadProgress("x") as progress:
        progress(0, total)
        progress.rename("file.zip")
        progress(done, total)
    assert capsys.readouterr().err == (f"file.zip: {line}\n" if line else "file.zip\n")


@pytest.mark.parametrize("way", ["plain", "plain and back"])
def test_a_redirect_off_encryption_is_refused_unless_the_hash_is_known(
    server: Server, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    now = datetime.now(timezone.utc)
    authority, certificate = certificates.make_signed(tmp_path, now - timedelta(1), now + timedelta(1))
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with Server({"/end": Page(CONTENT)}, certificate) as safe:
        safe.pages["/file"] = Page(b"", location=f"{server.url}/hop")
        server.pages["/hop"] = Page(CONTENT) if way == "plain" else Page(b"", location=f"{safe.url}/end")
        with pytest.raises(Unreachable, match=rf"it leads to {server.url}/hop, which is not encrypted"):
            fetch([f"{safe.url}/file"], target)
        assert not target.exists()
        assert fetch([f"{safe.url}/file"], target, sha256=SHA256).path.read_bytes() == CONTENT


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "//", "http://[", "data:,x"])
def test_a_redirect_to_what_is_no_web_address(server: Server, target: Path, location: str) -> None:
    server.pages["/file"] = Page(b"", location=location)
    with pytest.raises(Unreachable, match="no mirror gave"):
        fetch([f"{server.url}/file"], target)
    assert not target.exists()


@pytest.mark.parametrize("etag", ['"\xe9"', '"' + "e" * 5000 + '"'])
def test_an_odd_mark_of_a_version_does_not_keep_from_resuming(server: Server, target: Path, etag: str) -> None:
    server.pages["/file"] = Page(CONTENT, cuts=[len(CONTENT) // 2], etag=etag)
    assert fetch([f"{server.url}/file"], target, sha256=SHA256).path.read_bytes() == CONTENT


def test_a_number_of_thousands_of_digits_is_no_place_in_a_file(server: Server, target: Path) -> None:
    odd = Page(CONTENT, status=206, ranges=False, headers={"Content-Range": "bytes " + "9" * 5000 + "-9/9"})
    server.pages["/file"] = odd
    with pytest.raises(Unreachable, match="no mirror gave"):
        fetch([f"{server.url}/file"], target, sha256=SHA256)
