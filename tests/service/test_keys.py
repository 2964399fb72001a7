"""API keys: the file, who is let in, the limit per key, and keys that change while the service runs."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlenv.errors import Forbidden, KeysInvalid, Overloaded, Unauthorized, UsageError
from dlenv_service import keyfile
from dlenv_service.keys import Keys

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no file modes")


class Clock:
    """Seconds that go up when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def bearer(key: str) -> bytes:
    return b"Bearer " + key.encode()


# The file


def test_a_key_is_256_random_bits_and_only_its_hash_is_kept(path: Path) -> None:
    keys = {keyfile.add(path, f"key-{i}", ("infer",)) for i in range(20)}
    assert len(keys) == 20
    text = path.read_text()
    for key in keys:
        assert len(key.removeprefix("dlenv_")) == 43  # 256 bits, six in a character
        assert key not in text
        assert key.removeprefix("dlenv_") not in text
    assert text.count('hash = "sha256:') == 20


@posix
def test_the_file_is_its_owners_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        keyfile.add(path, "one", ())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        keyfile.add(path, "two", ())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o640)  # as somebody may want it for a container's user
        keyfile.remove(path, "two")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    finally:
        os.umask(before)


@posix
def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.toml"
    keyfile.add(path, "one", ())
    link.symlink_to(path)
    keyfile.add(link, "two", ())
    assert link.is_symlink()
    assert [key.name for key in keyfile.read(path)[0]] == ["one", "two"]


@posix
def test_a_file_that_everybody_may_write_is_refused(path: Path) -> None:
    keyfile.add(path, "one", ())
    path.chmod(0o666)
    with pytest.raises(KeysInvalid, match="everybody may write"):
        Keys(path)


def test_what_was_added_is_read_again(path: Path) -> None:
    keyfile.add(path, "a.b-c_d@e", ("infer", "admin", "infer"), 0.5)
    keyfile.add(path, "b", ())
    first, second = keyfile.read(path)[0]
    assert (first.name, first.scopes, first.requests_per_second) == ("a.b-c_d@e", ("infer", "admin"), 0.5)
    assert (second.scopes, second.requests_per_second) == ((), None)
    assert first.created is not None
    assert first.created.tzinfo is not None


@pytest.mark.parametrize("name", ["", "-a", "a b", 'a"', "a\n", "\x1b[2J", "ä", "a" * 65, "a/b"])
def test_names_are_printable_and_short(path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no such key can be made"):
        keyfile.add(path, name, ())
    assert not path.exists()


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), 1e9])
def test_limits_are_numbers_above_zero(path: Path, rate: float) -> None:
    with pytest.raises(UsageError, match="requests_per_second"):
        keyfile.add(path, "one", (), rate)


def test_a_name_is_taken_once_and_removed_once(path: Path) -> None:
    keyfile.add(path, "one", ())
    with pytest.raises(UsageError, match="has a key 'one' already"):
        keyfile.add(path, "one", ("admin",))
    with pytest.raises(UsageError, match="has no key 'two'; it has one"):
        keyfile.remove(path, "two")
    keyfile.remove(path, "one")
    assert keyfile.read(path)[0] == ()


HASH = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "schema"),
        ("schema = 2", "schema"),
        ("schema = 1\n[[key]]\nname = 'a'", "hash"),
        (f"schema = 1\n[[key]]\nname = 'a'\nhash = '{HASH}'\nscope = ['infer']", "scope"),
        (f"schema = 1\n[[key]]\nname = 'a'\nhash = '{HASH}'\nscopes = ['root']", "root"),
        (f"schema = 1\n[[key]]\nname = 'a\\u001b'\nhash = '{HASH}'".replace("'a\\u001b'", '"a\\u001b"'), "name"),
        ("schema = 1\n[[key]]\nname = 'a'\nhash = 'md5:00'", "hash"),
        (f"schema = 1\n[[key]]\nname = 'a'\nhash = '{HASH.upper()}'", "hash"),
        (f"schema = 1\n[[key]]\nname = 'a'\nhash = '{HASH}'\nrequests_per_second = 0", "requests_per_second"),
        (f"schema = 1\n[[key]]\nname = 'a'\nhash = '{HASH}'\n" * 2, "schema"),
        ("schema = 1\n" + f"[[key]]\nname = 'a'\nhash = '{HASH}'\n" * 2, "name 'a' is there twice"),
        (f"schema = 1\n[[key]]\nname='a'\nhash='{HASH}'\n[[key]]\nname='b'\nhash='{HASH}'", "is there twice"),
        ("schema = [", "not one"),
        ("a = " + "[" * 100_000, "not one"),
        ("\x00\x01", "not one"),
    ],
)
def test_a_file_that_is_none_is_refused_on_one_line(path: Path, content: str, words: str) -> None:
    path.write_text(content)
    with pytest.raises(KeysInvalid) as refused:
        Keys(path)
    assert words in str(refused.value)
    assert str(refused.value).isprintable()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        assert keyfile.parse(content) == ()
    except ValueError:
        assert not content.startswith(b"schema=1\n")


def test_a_file_that_is_not_there_or_huge_is_refused(path: Path) -> None:
    with pytest.raises(KeysInvalid, match="can't be read: No such file"):
        Keys(path)
    path.write_bytes(b"#" * (keyfile.MOST_BYTES + 1))
    with pytest.raises(KeysInvalid, match="larger than"):
        Keys(path)


@pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")
def test_a_file_of_somebody_elses_says_who_may_read_it(path: Path) -> None:
    path.write_text("schema = 1\n")
    path.chmod(0)
    root = os.geteuid() == 0  # who may read everything
    try:
        if root:
            os.seteuid(65534)
        with pytest.raises(KeysInvalid, match=r"may not read the keys file .* run dlenv as its owner"):
            keyfile.read(path)
    finally:
        if root:
            os.seteuid(0)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeysInvalid, match="can't be written: there is no folder"):
        keyfile.add(tmp_path / "no" / "keys.toml", "one", ())


def test_many_at_once_lose_nothing(path: Path) -> None:
    threads = [threading.Thread(target=keyfile.add, args=(path, f"key-{i}", ())) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in keyfile.read(path)[0]} == {f"key-{i}" for i in range(12)}
    assert sorted(each.name for each in path.parent.iterdir() if each.name.endswith(".toml")) == ["keys.toml"]


# Who is let in


def test_scopes(path: Path) -> None:
    ask, change, both, watch = (
        bearer(keyfile.add(path, name, scopes))  # type: ignore[arg-type]
        for name, scopes in (("ask", ("infer",)), ("change", ("admin",)), ("both", ("infer", "admin")), ("watch", ()))
    )
    keys = Keys(path)
    assert keys.check(ask, "infer") == "ask"
    assert keys.check(change, "admin") == "change"
    assert keys.check(both, "infer") == keys.check(both, "admin") == "both"
    for header, name in ((ask, "ask"), (change, "change"), (both, "both"), (watch, "watch")):
        assert keys.check(header, "read") == name
    for header, access in ((ask, "admin"), (change, "infer"), (watch, "infer"), (watch, "admin")):
        with pytest.raises(Forbidden, match=f"lacks the scope '{access}'"):
            keys.check(header, access)  # type: ignore[arg-type]


def test_what_is_no_key_is_refused_and_never_repeated(path: Path) -> None:
    key = keyfile.add(path, "one", ("infer",))
    keys = Keys(path)
    wrong = [
        None, b"", b"Bearer", b"Bearer ", key.encode(), b"Basic " + key.encode(), bearer(key[:-1]), bearer(key + "x"),
        bearer(key.upper()), b"Bearer\t" + key.encode(), b"Bearer \xff\x00\x1b[2J", b"Bearer " + b"x" * 200_000,
        bearer(keyfile.read(path)[0][0].hash), bearer(f"{key} {key}"),
    ]  # fmt: skip
    for header in wrong:
        for access in ("read", "infer", "admin"):
            with pytest.raises(Unauthorized) as refused:
                keys.check(header, access)  # type: ignore[arg-type]
            assert str(refused.value).isprintable()
            assert key[6:20] not in str(refused.value)
            assert len(str(refused.value)) < 200
        assert keys.name(header) is None
    # RFC 9110: the scheme's case does not matter, nor the spaces after it.
    for header in (bearer(key), b"bearer " + key.encode(), b"BEARER   " + key.encode() + b" "):
        assert keys.check(header, "infer") == "one"
        assert keys.name(header) == "one"


# The limit


def test_a_key_gets_its_requests_and_not_one_more(path: Path, clock: Clock) -> None:
    header = bearer(keyfile.add(path, "one", ("infer",), 10))
    other = bearer(keyfile.add(path, "two", ("infer",)))
    keys = Keys(path, clock)
    for _ in range(10):
        keys.check(header, "infer")
    with pytest.raises(Overloaded) as refused:
        keys.check(header, "infer")
    assert refused.value.retry_after == 1
    for _ in range(100):
        keys.check(other, "infer")
    clock.now += 0.1
    keys.check(header, "infer")
    with pytest.raises(Overloaded):
        keys.check(header, "read")
    clock.now += 100  # what was not used is not saved up beyond a second's worth
    for _ in range(10):
        keys.check(header, "infer")
    with pytest.raises(Overloaded):
        keys.check(header, "infer")


@given(rate=st.floats(0.01, 5000), pauses=st.lists(st.floats(0, 5), min_size=1, max_size=60))
def test_what_retry_after_says_is_true(
    tmp_path_factory: pytest.TempPathFactory, rate: float, pauses: list[float]
) -> None:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    header = bearer(keyfile.add(path, "one", ("infer",), rate))
    clock = Clock()
    keys = Keys(path, clock)
    began, let_in = clock.now, 0
    for pause in pauses:
        clock.now += pause
        try:
            keys.check(header, "infer")
            let_in += 1
        except Overloaded as refused:
            clock.now += refused.retry_after
            keys.check(header, "infer")
            let_in += 1
    assert let_in <= rate * (clock.now - began) + max(1, rate) + 0.001


def test_who_may_not_does_not_count(path: Path, clock: Clock) -> None:
    header = bearer(keyfile.add(path, "one", ("infer",), 1))
    keys = Keys(path, clock)
    for _ in range(5):
        with pytest.raises(Forbidden):
            keys.check(header, "admin")
    keys.check(header, "infer")


# Rotation


def test_keys_come_and_go_while_it_runs(path: Path, clock: Clock) -> None:
    old = bearer(keyfile.add(path, "old", ("infer",)))
    keys = Keys(path, clock)
    new = bearer(keyfile.add(path, "new", ("infer",)))
    clock.now += 1
    assert keys.check(new, "infer") == "new"
    assert keys.check(old, "infer") == "old"
    keyfile.remove(path, "old")
    clock.now += 1
    with pytest.raises(Unauthorized):
        keys.check(old, "infer")
    assert keys.check(new, "infer") == "new"


def test_the_file_is_looked_at_once_a_second(path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    header = bearer(keyfile.add(path, "one", ("infer",)))
    keys = Keys(path, clock)
    looked = []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda *words, **options: looked.append(words) or real(*words, **options))
    for _ in range(1000):
        clock.now += 0.005
        keys.check(header, "infer")
    assert 4 <= len([words for words in looked if words == (path,)]) <= 5


@pytest.mark.parametrize("how", ["broken", "empty", "gone", "folder"])
def test_a_broken_file_leaves_the_keys_as_they_are(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    header = bearer(keyfile.add(path, "one", ("infer",)))
    keys = Keys(path, clock)
    content = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how != "gone":
        path.write_text({"broken": "schema = ", "empty": ""}[how])
    with caplog.at_level(logging.INFO, "dlenv.service"):
        for _ in range(5):
            clock.now += 1
            assert keys.check(header, "infer") == "one"
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1  # not one a second
    assert "the keys from before go on to work" in errors[0].getMessage()
    if how == "folder":
        path.rmdir()
    path.write_bytes(content)
    keyfile.remove(path, "one")
    clock.now += 1
    with pytest.raises(Unauthorized):
        keys.check(header, "infer")


def test_a_limit_outlives_a_change_of_the_file(path: Path, clock: Clock) -> None:
    header = bearer(keyfile.add(path, "one", ("infer",), 0.1))
    keys = Keys(path, clock)
    keys.check(header, "infer")
    keyfile.add(path, "two", ())
    clock.now += 1
    with pytest.raises(Overloaded) as refused:
        keys.check(header, "infer")
    assert refused.value.retry_after == 9


def test_keys_need_neither_torch_nor_ray_nor_pydantic() -> None:
    code = (
        "import sys, dlenv_service.keys; print([n for n in ('torch', 'ray', 'numpy', 'pydantic') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
