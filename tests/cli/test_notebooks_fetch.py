"""Fetching notebooks: from made-up archives of the real layouts, by a local server."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from http_server import Page, Server, dead_address

from dlenv import folders
from dlenv.catalog.courses import Recipe, courses
from dlenv.errors import ArchiveRefused, DataError, Unreachable, UsageError
from dlenv.notebooks import fetch as fetching
from dlenv.notebooks.document import read, without_installation
from dlenv.notebooks.fetch import fetch_notebooks
from dlenv.notebooks.folder import MANIFEST, Manifest, chapters, find
from dlenv.plan.model import Edition

Run = Callable[..., Any]
INSTALL = "!pip install git+https://github.com/d2l-ai/d2l-zh@release  # installing d2l\n"
NOTICE = "The following additional libraries are needed to run this\nnotebook. Note that ..."


def notebook(*sources: str, installs: str = "") -> bytes:
    """Markdown where it begins with "#" or a word, code where it begins with ">"."""
    cells: list[dict[str, Any]] = []
    for source in ([NOTICE, f">{installs}"] if installs else []) + list(sources):
        code = source.startswith(">")
        cell = {
            "cell_type": "code" if code else "markdown",
            "source": source.removeprefix(">").splitlines(keepends=True),
        }
        cells.append(cell | ({"outputs": [], "execution_count": None} if code else {}))
    return json.dumps({"cells": cells, "metadata": {"名": 1}, "nbformat": 4, "nbformat_minor": 5}).encode()


NOTEBOOKS = {
    "index.ipynb": notebook("The Book\n====\n[two](chapter_two/index.ipynb)\n[one](chapter_one/index.ipynb)"),
    "chapter_one/index.ipynb": notebook("# First\n[b](b.ipynb) [a](a.ipynb)"),
    "chapter_one/a.ipynb": notebook("text", "# Aa\n:label:`x`\n![p](../img/used.svg)", ">print(1)"),
    "chapter_one/b.ipynb": notebook("## Bb", ">d2l.Image.open('../img/cat.jpg')"),
    "chapter_two/index.ipynb": notebook("# Second"),
}
PICTURES = {"used.svg": b"<svg/>", "cat.jpg": b"cat", "unused.svg": b"no", "Unused.svg": b"no"}
EXPECTED = {*NOTEBOOKS, "img/used.svg", "img/cat.jpg"}


def packed(path: Path, files: dict[str, bytes]) -> bytes:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    else:
        with tarfile.open(path, "w:gz") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path.read_bytes()


def official(notebooks: dict[str, bytes] = NOTEBOOKS, images: str = "pytorch/img/") -> dict[str, bytes]:
    return {
        **{f"tensorflow/{name}": notebook("# other") for name in notebooks},
        **{f"pytorch/{name}": content for name, content in notebooks.items()},
        **{images + name: content for name, content in PICTURES.items()},
        "pytorch/d2l/torch.py": b"would hide the package",
        "__MACOSX/pytorch/chapter_one/._a.ipynb": b"x",
        "pytorch/chapter_one/._b.ipynb": b"x",
    }


def repository(notebooks: dict[str, bytes] = NOTEBOOKS) -> dict[str, bytes]:
    files = {**notebooks, **{f"img/{name}": content for name, content in PICTURES.items()}}
    files |= {"README.md": b"", "setup.py": b"", "d2l/torch.py": b"", "chapter_one/mlp.params": b"left over"}
    return {f"d2l-zh-pytorch-colab-0123/{name}": content for name, content in files.items()}


def recipe(url: str, count: int = len(NOTEBOOKS)) -> Recipe:
    addresses = (f"{url}/d2l-zh-2.0.0.zip", f"{url}/d2l-zh.zip")
    repo = f"{url}/archive/0123.tar.gz"
    return msgspec.structs.replace(courses()["zh"], notebooks=addresses, repository=repo, count=count)


def files(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found.pop(MANIFEST, None)
    return found


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "place" / "d2l-zh"


def serve(server: Server, tmp_path: Path, notebooks: dict[str, bytes] = NOTEBOOKS, **kwargs: Any) -> bytes:
    content = packed(tmp_path / "served.zip", official(notebooks))
    server.pages["/d2l-zh-2.0.0.zip"] = Page(content, **kwargs)
    return content


@pytest.mark.parametrize("images", ["pytorch/img/", "img/"])
@pytest.mark.parametrize("top", ["", "d2l-zh/"])
def test_only_the_pytorch_edition_is_taken(tmp_path: Path, folder: Path, images: str, top: str) -> None:
    archive = tmp_path / "d2l-zh.zip"
    packed(archive, {top + name: content for name, content in official(images=images).items()})
    result = fetch_notebooks("zh", folder, archive=archive, recipe=recipe(""))
    assert files(folder).keys() == EXPECTED
    assert {name: content for name, content in files(folder).items() if name in NOTEBOOKS} == NOTEBOOKS
    assert set(result.added) == EXPECTED
    assert result.source == "d2l-zh.zip"
    assert [path.name for path in folder.parent.iterdir()] == ["d2l-zh"]
    manifest = Manifest.read(folder)
    assert manifest is not None
    assert manifest.archive == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert manifest.files["img/cat.jpg"] == hashlib.sha256(b"cat").hexdigest()


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_a_repository_s_notebooks_do_not_install_anything(tmp_path: Path, folder: Path, suffix: str) -> None:
    content = {
        **NOTEBOOKS,
        "chapter_one/a.ipynb": notebook("# Aa\n![p](../img/used.svg)", ">1+1", installs=INSTALL),
        "chapter_one/empty.ipynb": b"",
        "chapter_one/list.ipynb": b"[]",
    }
    packed(tmp_path / f"x{suffix}", repository(content))
    result = fetch_notebooks("zh", folder, archive=tmp_path / f"x{suffix}", recipe=recipe(""))
    assert files(folder).keys() == EXPECTED
    assert b"pip" not in files(folder)["chapter_one/a.ipynb"]
    cells = read(folder / "chapter_one" / "a.ipynb")
    assert cells is not None
    assert [cell.text for cell in cells.cells] == ["# Aa\n![p](../img/used.svg)", "1+1"]
    assert set(result.left_out) == {"chapter_one/empty.ipynb", "chapter_one/list.ipynb"}


@pytest.mark.parametrize(
    ("cell", "goes"),
    [
        (INSTALL, True),
        ("!pip install d2l==1.0.3\n", True),
        ('!pip install d2l==1.0.3\n!pip install "gym==0.21.0"\n', True),
        ("%pip install d2l", True),
        ("!pip install gym", False),
        ("# !pip install d2l", False),
        ("!pip install d2l\nimport torch", False),
        ("import d2l", False),
    ],
)
def test_which_cell_is_the_installation(cell: str, goes: bool) -> None:
    content = notebook("# Title", installs=cell)
    without = without_installation(content)
    assert (without != content) == goes
    left = json.loads(without)
    assert len(left["cells"]) == (1 if goes else 3)
    assert left["metadata"] == {"名": 1}
    assert without_installation(without) == without


def test_an_archive_is_fetched_once_and_remembered(server: Server, tmp_path: Path, folder: Path) -> None:
    content = serve(server, tmp_path)
    result = fetch_notebooks("zh", folder, recipe=recipe(server.url))
    assert result.source == f"{server.url}/d2l-zh-2.0.0.zip"
    assert files(folder).keys() == EXPECTED
    known = json.loads((folders.data() / "notebooks.json").read_bytes())["zh/d2l-zh-2.0.0.zip"]
    assert known["sha256"] == hashlib.sha256(content).hexdigest()
    assert known["size"] == len(content)
    fetch_notebooks("zh", folder.with_name("other"), recipe=recipe(server.url))
    fetch_notebooks("zh", folder, refresh=True, recipe=recipe(server.url))
    assert server.paths == ["/d2l-zh-2.0.0.zip"]
    assert files(folder.with_name("other")) == files(folder)


def test_a_complete_folder_needs_nothing(server: Server, tmp_path: Path, folder: Path) -> None:
    archive = tmp_path / "d2l-zh.zip"
    packed(archive, official())
    fetch_notebooks("zh", folder, archive=archive, recipe=recipe(server.url))
    (folder / "chapter_one" / "a.ipynb").write_bytes(b"mine")
    for again in (None, archive):
        result = fetch_notebooks("zh", folder, archive=again, recipe=recipe(server.url))
        assert (result.added, result.updated, result.kept) == ((), (), ())
    assert server.requests == []
    serve(server, tmp_path)
    (folder / "chapter_one" / "b.ipynb").unlink()
    result = fetch_notebooks("zh", folder, recipe=recipe(server.url))
    assert result.added == ("chapter_one/b.ipynb",)
    assert files(folder)["chapter_one/a.ipynb"] == b"mine"


def test_a_changed_archive_is_refused_until_it_is_accepted(server: Server, tmp_path: Path, folder: Path) -> None:
    serve(server, tmp_path)
    fetch_notebooks("zh", folder, recipe=recipe(server.url))
    before = files(folder)
    (folders.cache() / "notebooks" / "zh" / "d2l-zh-2.0.0.zip").unlink()
    serve(server, tmp_path, {**NOTEBOOKS, "chapter_two/index.ipynb": notebook("# Changed")})
    with pytest.raises(DataError, match=r"not the archive that was fetched on 20.*--accept-changed") as caught:
        fetch_notebooks("zh", folder, refresh=True, recipe=recipe(server.url))
    assert "wrong checksum" in str(caught.value)
    assert files(folder) == before
    result = fetch_notebooks("zh", folder, refresh=True, accept_changed=True, recipe=recipe(server.url))
    assert result.updated == ("chapter_two/index.ipynb",)
    server.pages.clear()
    assert not fetch_notebooks("zh", folder, refresh=True, recipe=recipe(server.url)).updated  # accepted for good


@pytest.mark.parametrize(
    "page",
    [
        Page(status=403),
        Page(location=dead_address()),
        Page(b"no archive"),
        Page(b"x" * 10_000, claimed=20_000),
    ],
)
def test_the_repository_is_the_fall_back(server: Server, tmp_path: Path, folder: Path, page: Page) -> None:
    server.pages["/d2l-zh-2.0.0.zip"] = page
    server.pages["/archive/0123.tar.gz"] = Page(packed(tmp_path / "x.tar.gz", repository()))
    talk: list[str] = []
    result = fetch_notebooks("zh", folder, recipe=recipe(server.url), log=talk.append)
    assert result.source == f"{server.url}/archive/0123.tar.gz"
    assert set(server.paths) == {"/d2l-zh-2.0.0.zip", "/d2l-zh.zip", "/archive/0123.tar.gz"}
    assert files(folder).keys() == EXPECTED
    assert "HTTP 404" in "\n".join(talk)


def test_no_address_gives_them(folder: Path) -> None:
    nobody = dead_address()
    with pytest.raises(Unreachable) as caught:
        fetch_notebooks("zh", folder, recipe=recipe(nobody))
    text = str(caught.value)
    host = nobody.partition("://")[2]
    assert text.count(host) == text.count("Connection refused") == 1  # of three addresses
    again = f"dlenv notebooks fetch --course zh --notebooks {folder}"
    assert text.endswith(f"{again} --mirror URL (or --from FILE)")
    assert list(folder.parent.iterdir()) == []


@pytest.mark.parametrize("mirror", ["/far", "/far/", "/far/d2l-zh-2.0.0.zip"])
def test_a_mirror_is_the_only_one_asked(server: Server, tmp_path: Path, folder: Path, mirror: str) -> None:
    server.pages["/far/d2l-zh-2.0.0.zip"] = Page(packed(tmp_path / "x.zip", official()))
    result = fetch_notebooks("zh", folder, mirror=server.url + mirror, recipe=recipe(server.url))
    assert result.source == f"{server.url}/far/d2l-zh-2.0.0.zip"
    assert set(server.paths) == {"/far/d2l-zh-2.0.0.zip"}


def test_an_interrupted_fetch_goes_on_where_it_ended(server: Server, tmp_path: Path, folder: Path) -> None:
    content = serve(server, tmp_path, cuts=[400, 0])
    with pytest.raises(Unreachable):
        fetch_notebooks("zh", folder, recipe=recipe(server.url))
    assert not folder.exists()
    server.requests.clear()
    fetch_notebooks("zh", folder, recipe=recipe(server.url))
    assert server.requests[0].headers["Range"] == "bytes=400-"
    assert server.requests[0].sent == len(content) - 400
    assert files(folder).keys() == EXPECTED


def test_interrupted_while_unpacking(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    packed(tmp_path / "x.zip", official())
    monkeypatch.setattr(fetching, "_manifest", stop)
    with pytest.raises(KeyboardInterrupt):
        fetch_notebooks("zh", folder, archive=tmp_path / "x.zip", recipe=recipe(""))
    assert list(folder.parent.iterdir()) == []


def test_edits_stay_and_the_rest_is_updated(tmp_path: Path, folder: Path) -> None:
    archive = tmp_path / "x.zip"
    packed(archive, official())
    fetch_notebooks("zh", folder, archive=archive, recipe=recipe(""))
    original = (folder / "chapter_one" / "b.ipynb").read_bytes()
    (folder / "chapter_one" / "b.ipynb").write_bytes(b"edited")
    (folder / "chapter_one" / "own.ipynb").write_bytes(notebook("# Own"))
    (folder / "img" / "cat.jpg").unlink()
    newer = {
        **NOTEBOOKS,
        "chapter_one/a.ipynb": notebook("# Newer a\n../img/used.svg"),
        "chapter_one/b.ipynb": notebook("# Newer b ../img/cat.jpg"),
        "chapter_one/c.ipynb": notebook("# New"),
    }
    del newer["chapter_two/index.ipynb"]
    packed(archive, official(newer))
    result = fetch_notebooks("zh", folder, archive=archive, recipe=recipe(""))
    assert set(result.added) == {"chapter_one/c.ipynb", "img/cat.jpg"}
    assert result.updated == ("chapter_one/a.ipynb",)
    assert result.kept == ("chapter_one/b.ipynb",)
    assert files(folder)["chapter_one/b.ipynb"] == b"edited"
    assert "chapter_two/index.ipynb" in files(folder)
    assert files(folder)["chapter_one/own.ipynb"] == notebook("# Own")
    assert fetch_notebooks("zh", folder, archive=archive, refresh=True, recipe=recipe("")).kept == result.kept
    # An update that stopped half-way, and an edit that was undone: neither looks like an edit.
    (folder / "chapter_one" / "a.ipynb").write_bytes(NOTEBOOKS["chapter_one/a.ipynb"])
    (folder / "chapter_one" / "b.ipynb").write_bytes(original)
    manifest = Manifest.read(folder)
    assert manifest is not None
    msgspec.structs.replace(
        manifest,
        files=manifest.files | {"chapter_one/a.ipynb": hashlib.sha256(NOTEBOOKS["chapter_one/a.ipynb"]).hexdigest()},
    ).write(folder)
    result = fetch_notebooks("zh", folder, archive=archive, refresh=True, recipe=recipe(""))
    assert set(result.updated) == {"chapter_one/a.ipynb", "chapter_one/b.ipynb"}
    assert result.kept == ()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, folder: Path) -> None:
    packed(tmp_path / "x.zip", official())
    folder.mkdir(parents=True)
    fetch_notebooks("zh", folder, archive=tmp_path / "x.zip", recipe=recipe(""))  # an empty one can be taken
    with pytest.raises(UsageError, match="holds the edition zh"):
        fetch_notebooks("en", folder, archive=tmp_path / "x.zip", recipe=recipe(""))
    other = folder.with_name("other")
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not made by dlenv"):
        fetch_notebooks("zh", other, archive=tmp_path / "x.zip", recipe=recipe(""))
    with pytest.raises(UsageError, match="not made by dlenv"):
        fetch_notebooks("zh", other / "thesis.txt", archive=tmp_path / "x.zip", recipe=recipe(""))
    assert files(other) == {"thesis.txt": b"mine"}
    (folder / MANIFEST).write_text("{")
    with pytest.raises(DataError, match="damaged"):
        fetch_notebooks("zh", folder, archive=tmp_path / "x.zip", recipe=recipe(""))


@pytest.mark.parametrize(
    ("content", "error", "match"),
    [
        ({"pytorch/notes.txt": b""}, DataError, "no chapters"),
        ({"mxnet/chapter_a/b.ipynb": b"", "jax/chapter_a/b.ipynb": b""}, DataError, "more than one edition"),
        ({"pytorch/chapter_a/b.ipynb": notebook("# One")}, DataError, "holds 1 notebooks, not 5"),
        ({**official(), "pytorch/../../evil": b""}, ArchiveRefused, "leads out"),
    ],
)
def test_what_is_not_the_course(
    tmp_path: Path, folder: Path, content: dict[str, bytes], error: type[Exception], match: str
) -> None:
    packed(tmp_path / "x.zip", content)
    with pytest.raises(error, match=match):
        fetch_notebooks("zh", folder, archive=tmp_path / "x.zip", recipe=recipe(""))
    assert list(folder.parent.iterdir()) == []


def test_the_contents_in_the_book_s_order(tmp_path: Path, folder: Path) -> None:
    packed(tmp_path / "x.zip", official())
    fetch_notebooks("zh", folder, archive=tmp_path / "x.zip", recipe=recipe(""))
    (folder / "chapter_one" / "a.ipynb").write_bytes(notebook("no heading"))
    (folder / "chapter_one" / "z.ipynb").write_bytes(b"broken")
    (folder / "chapter_one" / ".ipynb_checkpoints").mkdir()
    (folder / "chapter_one" / ".ipynb_checkpoints" / "a.ipynb").write_bytes(b"")
    place, manifest = find(folder)
    found = {
        chapter.title: [(e.path, e.title, e.state) for e in chapter.notebooks] for chapter in chapters(place, manifest)
    }
    assert list(found) == ["The Book", "Second", "First"]
    assert found["First"] == [
        ("chapter_one/index.ipynb", "First", "as fetched"),
        ("chapter_one/b.ipynb", "Bb", "as fetched"),
        ("chapter_one/a.ipynb", "a", "edited"),
        ("chapter_one/z.ipynb", "z", "yours"),
    ]


def whole_course(path: Path, edition: Edition = "zh") -> Path:
    """An archive with as many notebooks as the catalog says that the course has."""
    many = {
        f"chapter_many/n{number}.ipynb": notebook(f"# Number {number}") for number in range(courses()[edition].count)
    }
    packed(path, official({**NOTEBOOKS, **many}))
    return path


def test_the_commands(run: Run, tmp_path: Path) -> None:
    archive = whole_course(tmp_path / "d2l-zh-2.0.0.zip")
    assert run("notebooks", "path").code == 2
    result = run("notebooks", "fetch", "--course", "zh", "--from", archive)
    assert (result.code, result.stdout) == (0, "d2l-zh\n")
    assert f"{len(NOTEBOOKS) + courses()['zh'].count + 2} files added, 0 updated, 0 kept" in result.stderr
    assert run("notebooks", "path").stdout == f"{Path('d2l-zh').absolute()}\n"
    Path("d2l-zh/chapter_one/a.ipynb").write_bytes(b"edited")
    Path("d2l-zh/img/cat.jpg").unlink()
    listed = run("notebooks", "list")
    assert "First\tchapter_one/b\tBb\t\n" in listed.stdout
    assert "First\tchapter_one/a\ta\tedited\n" in listed.stdout
    assert "1 files are missing; again: dlenv notebooks fetch --course zh --notebooks d2l-zh" in listed.stderr
    document = json.loads(run("notebooks", "list", "--json", "--notebooks", "d2l-zh").stdout)
    assert (document["schema"], document["edition"], document["missing"]) == (1, "zh", ["img/cat.jpg"])
    assert document["chapters"][0]["notebooks"][0] == {
        "path": "index.ipynb",
        "title": "The Book",
        "state": "as fetched",
    }
    again = run("notebooks", "fetch", "--from", archive, "--json")
    assert json.loads(again.stdout)["kept"] == ["chapter_one/a.ipynb"]
    again = run("notebooks", "fetch", "--from", archive)
    assert "Kept, since you have edited it: chapter_one/a.ipynb" in again.stderr
    assert run("notebooks", "list", "--course", "en").code == 2
    assert run("notebooks", "fetch", "--course", "fr").code == 2


def test_the_command_by_a_mirror(run: Run, server: Server, tmp_path: Path) -> None:
    server.pages["/far/d2l-zh-2.0.0.zip"] = Page(whole_course(tmp_path / "x.zip").read_bytes())
    words = ["--course", "zh", "--mirror", f"{server.url}/far"]
    result = run("notebooks", "fetch", *words, "--notebooks", tmp_path / "books")
    assert result.code == 0, result.stderr
    assert f"Downloading {server.url}/far/d2l-zh-2.0.0.zip" in result.stderr
    result = run("notebooks", "fetch", "--course", "en", "--mirror", dead_address(), "--notebooks", tmp_path / "more")
    assert result.code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: the notebooks can't be had: ")
    result = run("notebooks", "fetch", "--mirror", "http://[x/d2l.zip")
    assert (result.code, result.stdout) == (2, "")
    assert "--mirror is 'http://[x/d2l.zip'" in result.stderr


def test_two_editions_need_a_name(run: Run, tmp_path: Path) -> None:
    archive = whole_course(tmp_path / "x.zip")
    for edition in ("zh", "en"):
        fetch_notebooks(edition, Path(f"d2l-{edition}"), archive=archive, recipe=recipe(""))  # type: ignore[arg-type]
    result = run("notebooks", "path")
    assert result.code == 2
    assert "there are d2l-zh and d2l-en; name one by --notebooks" in result.stderr
    result = run("notebooks", "fetch", "--from", archive)
    assert (result.code, result.stdout) == (2, "")
    assert "there are d2l-zh and d2l-en" in result.stderr
    assert run("notebooks", "path", "--course", "en").stdout == f"{Path('d2l-en').absolute()}\n"


@pytest.mark.parametrize(("language", "edition"), [("zh_CN.UTF-8", "zh"), ("en_US.UTF-8", "en")])
def test_the_edition_is_the_one_that_is_here_else_the_systems(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str, edition: Edition
) -> None:
    for name in ("LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", language)
    assert f"dlenv notebooks fetch --course {edition}\n" in run("notebooks", "list").stderr
    archive = whole_course(tmp_path / "x.zip", "en")  # the one with more notebooks
    assert run("notebooks", "fetch", "--from", archive).stdout == f"d2l-{edition}\n"
    other: Edition = "en" if edition == "zh" else "zh"
    place = Path("here", f"d2l-{other}")
    fetch_notebooks(other, place, archive=archive, recipe=recipe(""))
    (place / "img/cat.jpg").unlink()
    result = run("notebooks", "fetch", "--from", archive, "--notebooks", place)
    assert (result.code, result.stdout) == (0, f"{place}\n"), result.stderr
    assert result.stderr.startswith("1 files added")
    monkeypatch.chdir("here")
    assert run("notebooks", "fetch", "--from", archive).stdout == f"d2l-{other}\n"
    monkeypatch.chdir(f"d2l-{other}")
    assert run("notebooks", "fetch", "--from", archive).stdout == ".\n"


def test_an_empty_folder_is_filled_and_stays_the_same_one(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed(tmp_path / "x.zip", official())
    folder.mkdir(parents=True)
    (folder / ".dlenv-notebooks-killed").mkdir()
    before = folder.stat().st_ino
    monkeypatch.chdir(folder)
    result = fetch_notebooks("zh", Path(), archive=tmp_path / "x.zip", recipe=recipe(""))
    assert set(result.added) == EXPECTED
    assert folder.stat().st_ino == before
    assert Path.cwd() == folder
    assert files(Path()).keys() == EXPECTED
    target = tmp_path / "another disk"
    target.mkdir()
    link = tmp_path / "link"
    link.symlink_to(target)
    fetch_notebooks("zh", link, archive=tmp_path / "x.zip", recipe=recipe(""))
    assert link.is_symlink()
    assert files(target).keys() == EXPECTED
    assert {path.name for path in tmp_path.iterdir()} == {"x.zip", "place", "another disk", "link"}
    target.rename(tmp_path / "gone")
    with pytest.raises(UsageError, match="not made by dlenv"):
        fetch_notebooks("zh", link, archive=tmp_path / "x.zip", recipe=recipe(""))


def test_a_folder_that_was_being_filled_is_mended(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed(tmp_path / "x.zip", official())
    folder.mkdir(parents=True)
    replace = Path.replace

    def interrupted(path: Path, target: Path) -> Path:
        if target.parent == folder and target.name == "img":
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_notebooks("zh", folder, archive=tmp_path / "x.zip", recipe=recipe(""))
    monkeypatch.undo()
    fetch_notebooks("zh", folder, archive=tmp_path / "x.zip", recipe=recipe(""))
    assert files(folder).keys() == EXPECTED
