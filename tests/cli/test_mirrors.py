"""Which mirror is chosen, against local servers that stand for the official places and their mirrors."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from http_server import Page, Server, dead_address, silent_address
from uv import find_uv_bin

from dlenv.catalog.index import find
from dlenv.catalog.mirrors import Kind, Mirror, all_names, mirrors
from dlenv.errors import DataError, UsageError
from dlenv.network.configured import package_index, pip_user_file, python_downloads, uv_user_file
from dlenv.network.mirrors import choose
from dlenv.network.persist import persist

KINDS: tuple[Kind, ...] = ("pypi", "pytorch", "conda", "python")
PAGE = b"<a href='torch-2.14.1-cp311-cp311-manylinux_2_28_x86_64.whl'>torch</a>" * 100
WHEEL = "torch-2.14.1+cu126-cp311-cp311-*"


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("UV_", "PIP_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)  # pip reads no file then
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "etc"))


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def lay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Put these mirrors of one kind in the place of the catalog's: name -> address (and layout)."""

    def call(kind: Kind, replace: bool = True, **rows: str) -> None:
        text = f"replace = {str(replace).lower()}\n"
        for name, url in rows.items():
            url, _, layout = url.partition(" ")
            text += f'[[{kind}]]\nname = "{name}"\nurl = "{url}"\nofficial = {str(name == "official").lower()}\n'
            text += f'layout = "{layout or "index"}"\n'
        path = tmp_path / "mirrors.toml"
        path.write_text(text)
        monkeypatch.setenv("DLENV_MIRRORS", str(path))

    return call


def test_every_row_has_a_source_and_one_place_is_official() -> None:
    for kind in KINDS:
        rows = mirrors(kind)
        assert [mirror.official for mirror in rows] == [False] * (len(rows) - 1) + [True]
        assert len({mirror.name for mirror in rows}) == len(rows)
        for mirror in rows:
            assert mirror.source
            assert mirror.date
            assert mirror.note
            assert urlsplit(mirror.url).scheme == "https"
            assert mirror.kind == kind
            assert ("{build}" in mirror.url) <= (kind == "pytorch")
            assert not mirror.implied or mirror.official
    assert {"tuna", "bfsu", "ustc", "aliyun", "sjtu", "nju"} <= set(all_names())
    assert not {"tuna", "ustc", "bfsu"} & {mirror.name for mirror in mirrors("pytorch")}


def test_own_mirrors_are_laid_over_the_catalog(lay, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    before = mirrors("pypi")
    lay("pypi", replace=False, campus="https://mirror.campus/simple", tuna="https://other.tuna/simple")
    rows = {mirror.name: mirror for mirror in mirrors("pypi")}
    assert len(rows) == len(before) + 1
    assert rows["tuna"].url == "https://other.tuna/simple"
    assert mirrors("pypi")[0].name == "campus"
    assert mirrors("pypi")[-1].official
    assert "campus" in all_names()
    lay("pypi", campus="https://mirror.campus/simple")
    assert [mirror.name for mirror in mirrors("pypi")] == ["campus"]
    assert len(mirrors("conda")) > 1  # a kind without rows there stays
    for text in ("[[pypi]\n", '[[pypi]]\nname = "x"\n', '[[pypi]]\nname = "x"\nurl = "y"\nodd = 1\n'):
        (tmp_path / "mirrors.toml").write_text(text)
        with pytest.raises(UsageError, match="DLENV_MIRRORS"):
            mirrors("pypi")
    monkeypatch.setenv("DLENV_MIRRORS", "/nowhere")
    with pytest.raises(UsageError, match="can't be read"):
        mirrors("pypi")


def test_the_official_place_stays_first_where_it_is_quick(server: Server, lay) -> None:  # type: ignore[no-untyped-def]
    server.pages["/official/torch/"] = Page(PAGE)
    server.pages["/other/torch/"] = Page(PAGE * 50)
    with silent_address() as silent:
        lay("pypi", official=f"{server.url}/official", other=f"{server.url}/other", silent=silent)
        begin = time.monotonic()
        choice = choose("pypi")
        assert time.monotonic() - begin < 1.8  # does not wait for the silent one
    assert choice.mirrors[0].official
    assert choice.reachable
    assert choice.notes[0].startswith(f"PyPI: official ({server.url}/official), the official place, ")
    assert len(choice.notes) == 1


def test_a_mirror_wins_where_the_official_place_is_slow(server: Server, lay) -> None:  # type: ignore[no-untyped-def]
    server.pages["/official/torch/"] = Page(PAGE, delay=1.2)
    server.pages["/quick/torch/"] = Page(PAGE)
    server.pages["/slower/torch/"] = Page(PAGE, delay=0.3)
    lay("pypi", official=f"{server.url}/official", slower=f"{server.url}/slower", quick=f"{server.url}/quick")
    choice = choose("pypi")
    assert [mirror.name for mirror in choice.mirrors] == ["quick", "slower", "official"]
    assert choice.mirrors[0].environment() == {
        "UV_DEFAULT_INDEX": f"{server.url}/quick",
        "PIP_INDEX_URL": f"{server.url}/quick",
    }
    speeds = {probe.mirror.name: probe.speed for probe in choice.probes}
    assert speeds["quick"] > speeds["slower"] > speeds["official"] > 0
    server.pages["/quick/torch/"].delay = server.pages["/slower/torch/"].delay = 1.1
    assert choose("pypi").mirrors[0].official  # slow, but nothing is three times as fast


def test_what_does_not_answer_is_left_out_in_time(server: Server, lay) -> None:  # type: ignore[no-untyped-def]
    server.pages["/good/torch/"] = Page(PAGE, delay=0.2)
    server.pages["/gone/torch/"] = Page(location=dead_address())
    server.pages["/refused/torch/"] = Page(status=403)
    with silent_address() as silent:
        lay(
            "pypi",
            official=silent,
            dead=dead_address(),
            gone=f"{server.url}/gone",
            refused=f"{server.url}/refused",
            good=f"{server.url}/good",
        )
        begin = time.monotonic()
        choice = choose("pypi", budget=1.5)
        assert time.monotonic() - begin < 2.5
    assert [mirror.name for mirror in choice.mirrors] == ["good", "official"]
    text = "\n".join(choice.notes)
    assert "is not used: HTTP 403" in text
    assert text.count("refused: Connection refused") == 0
    assert text.count("is not used: ") == 3
    assert "is the last resort: no answer" in text


def test_nothing_answers(lay) -> None:  # type: ignore[no-untyped-def]
    lay("pypi", official=dead_address(), other=dead_address())
    choice = choose("pypi")
    assert [mirror.name for mirror in choice.mirrors] == ["official"]
    assert not choice.reachable
    assert "nothing answers" in choice.notes[0]


def test_a_half_read_page_still_measures(server: Server, lay) -> None:  # type: ignore[no-untyped-def]
    server.pages["/slow/torch/"] = Page(bytes(1_000_000), pause=0.05)
    lay("pypi", official=f"{server.url}/slow")
    probe = choose("pypi", budget=0.6).probes[0]
    assert probe.reachable
    assert 1_000 < probe.speed < 100_000


def test_a_mirror_of_wheels_must_list_the_very_wheel(server: Server, lay) -> None:  # type: ignore[no-untyped-def]
    name = "torch-2.14.1{}cu126-cp311-cp311-manylinux_2_28_x86_64.whl"
    old = "torch-2.13.0%2Bcu126-cp311-cp311-manylinux_2_28_x86_64.whl"
    padding = "x" * 300_000  # the name may come late
    server.pages["/a/cu126/torch/"] = Page(f'{padding}<a href="../{name.format("%2B")}#sha256=0">'.encode())
    server.pages["/b/cu126/"] = Page(f'<a href="{name.format("&#43;")}">{padding}'.encode())
    server.pages["/stale/cu126/torch/"] = Page(f'<a href="{old}">'.encode())
    server.pages["/official/cu126/torch/"] = Page(f'<a href="{old}">'.encode())
    lay(
        "pytorch",
        a=f"{server.url}/a/{{build}}",
        b=f"{server.url}/b/{{build}}/ flat",
        stale=f"{server.url}/stale/{{build}}",
        official=f"{server.url}/official/{{build}}",
    )
    choice = choose("pytorch", build="cu126", file=WHEEL)
    assert {mirror.url for mirror in choice.mirrors[:2]} == {f"{server.url}/a/cu126", f"{server.url}/b/cu126/"}
    assert [mirror.official for mirror in choice.mirrors] == [False, False, True]
    assert f"stale ({server.url}/stale/cu126) is not used: it does not list {WHEEL}" in "\n".join(choice.notes)
    assert choice.mirrors[0].environment() == {}
    assert not choose("pytorch", build="cu126", file="torch-2.15.0+cu126-*").reachable


def test_python_downloads_are_asked_for_a_file_or_for_a_sign_of_life(server: Server, lay) -> None:  # type: ignore[no-untyped-def]
    server.pages["/official/20260101/SHA256SUMS"] = Page(PAGE, delay=1.2)
    server.pages["/other/20260101/SHA256SUMS"] = Page(PAGE)
    lay("python", official=f"{server.url}/official", other=f"{server.url}/other", dead=dead_address())
    assert choose("python").reachable  # 404 from a folder is a sign of life
    choice = choose("python", probe_path="20260101/SHA256SUMS")
    assert choice.mirrors[0].environment() == {"UV_PYTHON_INSTALL_MIRROR": f"{server.url}/other"}


def test_none_and_names(server: Server, lay) -> None:  # type: ignore[no-untyped-def]
    for name in ("official", "one", "two"):
        server.pages[f"/{name}/torch/"] = Page(PAGE)
    server.pages["/two/torch/"].delay = 0.3
    lay("pypi", official=f"{server.url}/official", one=f"{server.url}/one", two=f"{server.url}/two")
    assert [mirror.name for mirror in choose("pypi", "none").mirrors] == ["official"]
    assert set(server.paths) == {"/official/torch/"}
    server.requests.clear()
    choice = choose("pypi", "two")  # slower, but asked for
    assert [mirror.name for mirror in choice.mirrors] == ["two", "official"]
    assert "as asked for" in choice.notes[0]
    assert "/one/torch/" not in server.paths
    del server.pages["/two/torch/"]
    choice = choose("pypi", "two")
    assert [mirror.name for mirror in choice.mirrors] == ["official"]
    assert f"PyPI: two ({server.url}/two) is not used: HTTP 404" in choice.notes
    with pytest.raises(UsageError, match=r"no mirror 'nonsense'; there are auto, none, .*one, .*two"):
        choose("pypi", "nonsense")


def test_a_name_that_has_no_mirror_of_this_kind(server: Server, lay) -> None:  # type: ignore[no-untyped-def]
    server.pages["/official/cu126/torch/"] = Page(PAGE)
    lay("pytorch", official=f"{server.url}/official/{{build}}")
    choice = choose("pytorch", "tuna", build="cu126")
    assert [mirror.name for mirror in choice.mirrors] == ["official"]
    assert choice.notes[0] == "tuna has no mirror of PyTorch's wheels: one is chosen"


URL = "https://index.example.org/simple"


@pytest.mark.parametrize(
    ("place", "content", "environment"),
    [
        ("UV_DEFAULT_INDEX", URL, {"PIP_INDEX_URL": URL}),
        ("UV_DEFAULT_INDEX", f"ours={URL}", {"PIP_INDEX_URL": URL}),
        ("UV_INDEX_URL", URL, {"PIP_INDEX_URL": URL}),
        ("UV_INDEX", f"{URL} https://other.example.org/simple", {}),
        ("PIP_INDEX_URL", URL, {"UV_DEFAULT_INDEX": URL}),
        ("config/uv/uv.toml", f'[[index]]\nurl = "{URL}"\ndefault = true\n', {"PIP_INDEX_URL": URL}),
        ("config/uv/uv.toml", f'index-url = "{URL}"\n', {"PIP_INDEX_URL": URL}),
        ("config/uv/uv.toml", f'[pip]\nindex-url = "{URL}"\n', {"PIP_INDEX_URL": URL}),
        ("config/uv/uv.toml", f'index = [{{ url = "{URL}", name = "x" }}]\n', {}),
        ("etc/uv/uv.toml", f'index-url = "{URL}"\n', {"PIP_INDEX_URL": URL}),
        ("config/pip/pip.conf", f"[global]\ntimeout = 5\nindex-url = {URL}\n", {"UV_DEFAULT_INDEX": URL}),
        (
            "config/pip/pip.conf",
            f"[global]\nindex-url = x%y\n[install]\nindex-url = {URL}\n",
            {"UV_DEFAULT_INDEX": URL},
        ),
        ("home/.pip/pip.conf", f"[global]\nindex_url = {URL}\n", {"UV_DEFAULT_INDEX": URL}),
        ("etc/pip/pip.conf", f"[global]\nindex-url = {URL}\n", {"UV_DEFAULT_INDEX": URL}),
        ("given.conf", f"[global]\nindex-url = {URL}\n", {"UV_DEFAULT_INDEX": URL}),
    ],
)
def test_the_user_s_own_index_wins(
    place: str,
    content: str,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lay,  # type: ignore[no-untyped-def]
    server: Server,
) -> None:
    system = Path("/etc/pip.conf")
    if place == "etc/pip/pip.conf" and system.exists() and "index-url" in system.read_text():
        pytest.skip("this machine's /etc/pip.conf names an index, which wins over the file of this test")
    lay("pypi", official=server.url)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    origin = place
    if "/" in place or "." in place:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        if place == "given.conf":
            monkeypatch.setenv("PIP_CONFIG_FILE", str(path))
        else:
            monkeypatch.delenv("PIP_CONFIG_FILE")
        origin = str(path)
    else:
        monkeypatch.setenv(place, content)
    choice = choose("pypi")
    assert [(mirror.url, mirror.origin) for mirror in choice.mirrors] == [(URL, origin)]
    assert choice.mirrors[0].environment() == environment
    assert choice.notes == (f"PyPI: {URL}, as {origin} says",)
    assert choice.reachable
    assert server.requests == []
    assert persist(choice.mirrors[0]) == []
    assert choose("pypi", "none").mirrors[0].official


def test_an_index_with_a_password_is_shown_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://me:secret@index.example.org/simple")
    choice = choose("pypi")
    assert choice.notes == ("PyPI: https://***@index.example.org/simple, as UV_DEFAULT_INDEX says",)
    assert choice.mirrors[0].url == "https://me:secret@index.example.org/simple"


@pytest.mark.parametrize("url", ["https://[bad/simple", "https://u:secret/x@h/simple", "https:///simple"])
def test_an_address_of_the_user_that_is_none(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", url)
    with pytest.raises(UsageError, match=r"^UV_DEFAULT_INDEX is 'https://.*', which is no address") as caught:
        choose("pypi")
    assert "secret" not in str(caught.value)
    with pytest.raises(UsageError, match="no address"):
        find("http://[x/simple", "torch")
    for path in ("/srv/simple", "./simple", "C:\\simple", "file:///srv/simple"):
        monkeypatch.setenv("UV_DEFAULT_INDEX", path)
        assert choose("pypi").mirrors[0].url == path


def test_a_name_without_such_a_mirror_leaves_the_users_own(
    server: Server,
    lay,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lay("pypi", official=server.url)
    monkeypatch.setenv("UV_DEFAULT_INDEX", URL)
    choice = choose("pypi", "nju")
    assert choice.notes == (
        "nju has no mirror of PyPI: one is chosen",
        f"PyPI: {URL}, as UV_DEFAULT_INDEX says",
    )


def test_what_is_no_index_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uv_user_file().parent.mkdir(parents=True)
    uv_user_file().write_text("[[index]\n")
    assert package_index() is None
    uv_user_file().write_text('[[index]]\nname = "torch"\nurl = "https://x"\nexplicit = true\n')
    assert package_index() is None
    uv_user_file().write_text(f'index-url = "{URL}"\npython-install-mirror = "https://python.example.org"\n')
    assert package_index() is not None
    downloads = python_downloads()
    assert downloads is not None
    assert (downloads.url, downloads.environment()) == ("https://python.example.org", {})
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    assert package_index() is None
    monkeypatch.setenv("UV_CONFIG_FILE", str(uv_user_file()))
    monkeypatch.delenv("UV_NO_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))
    assert package_index() is not None


MIRROR = Mirror(name="tuna", url=URL)


def test_persisting_is_remembered_by_uv_and_pip_and_by_dlenv() -> None:
    said = persist(MIRROR)
    assert said == [f"{path}: {URL} is the package index now" for path in (uv_user_file(), pip_user_file())]
    assert uv_user_file().read_text() == f'[[index]]\nurl = "{URL}"\ndefault = true\n'
    assert pip_user_file().read_text() == f"[global]\nindex-url = {URL}\n"
    found = package_index()
    assert found is not None
    assert found.url == URL
    before = [path.read_bytes() for path in (uv_user_file(), pip_user_file())]
    assert all("left as it is" in line for line in persist(MIRROR))
    assert [path.read_bytes() for path in (uv_user_file(), pip_user_file())] == before
    assert {path.name for path in pip_user_file().parent.iterdir()} == {"pip.conf"}


def test_persisting_does_not_show_a_password() -> None:
    said = persist(Mirror(name="campus", url="https://me:secret@index.example.org/simple?token=abc"))
    assert [line.partition(": ")[2] for line in said] == [
        "https://***@index.example.org/simple is the package index now"
    ] * 2
    assert "me:secret@" in uv_user_file().read_text()


def test_persisting_keeps_what_is_there() -> None:
    uv, pip = uv_user_file(), pip_user_file()
    uv_text = "# mine\noffline = true # really\n\n[pip]\nstrict = true"
    pip_text = "# mine\n[list]\nformat = columns\n[global]  # all\ntimeout = 60\n"
    for path, text in ((uv, uv_text), (pip, pip_text)):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    pip.chmod(0o600)
    persist(MIRROR)
    assert uv.read_text() == f'{uv_text}\n[[index]]\nurl = "{URL}"\ndefault = true\n'
    assert pip.read_text() == f"# mine\n[list]\nformat = columns\n[global]  # all\nindex-url = {URL}\ntimeout = 60\n"
    assert stat.S_IMODE(pip.stat().st_mode) == 0o600
    assert uv.with_name("uv.toml.before-dlenv").read_text() == uv_text
    assert pip.with_name("pip.conf.before-dlenv").read_text() == pip_text


def test_persisting_refuses_what_it_does_not_understand() -> None:
    uv = uv_user_file()
    uv.parent.mkdir(parents=True)
    uv.write_text("[broken\n")
    with pytest.raises(DataError, match=r"uv\.toml is not what it should be"):
        persist(MIRROR)
    assert uv.read_text() == "[broken\n"
    assert not uv.with_name("uv.toml.before-dlenv").exists()
    assert persist(mirrors("pypi")[-1]) == []  # what the tools do anyway
    assert persist(mirrors("conda")[0]) == []


def uv_asks(requirement: str, environment: dict[str, str]) -> str:
    """What uv says when it looks for a package, in a folder without a project."""
    words = [find_uv_bin(), "pip", "compile", "--no-cache", "--python", sys.executable, "-"]
    done = subprocess.run(
        words, input=requirement, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    return done.stderr


def test_uv_and_pip_ask_the_mirror_that_is_chosen(server: Server, lay) -> None:  # type: ignore[no-untyped-def]
    server.pages["/official/torch/"] = Page(status=403)
    server.pages["/other/torch/"] = Page(PAGE)
    lay("pypi", official=f"{server.url}/official", other=f"{server.url}/other")
    mirror = choose("pypi").mirrors[0]
    server.requests.clear()
    uv_asks("nothing-of-this-name", mirror.environment())
    assert set(server.paths) == {"/other/nothing-of-this-name/"}
    server.requests.clear()
    persist(mirror)
    uv_asks("nothing-of-this-name", {})
    assert set(server.paths) == {"/other/nothing-of-this-name/"}


@pytest.mark.skipif(find_spec("pip") is None, reason="this environment has no pip")
def test_pip_reads_what_was_persisted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_CONFIG_FILE")
    persist(MIRROR)
    words = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == URL, done.stderr
