from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from dlenv.environment import layout
from dlenv.environment.exchange import exchange
from dlenv.environment.layout import Home, executable
from dlenv.environment.record import Package, Record, fingerprint
from dlenv.errors import NoEnvironment, SetupError, UsageError
from dlenv.machine import Machine, Nvml
from dlenv.plan import Candidate, Plan, Request

TORCH = Candidate(torch="2.15.0", torchvision="0.29.2", build="cpu", index=None)
PLAN = Plan(manager="uv", python="3.11", torch=TORCH, reasons=("there is no GPU",))


def record(*packages: str) -> Record:
    machine = Machine(
        os="linux", os_version="Debian", kernel="6", arch="x86_64", python="3.11.7", nvml=Nvml(status="library-missing")
    )
    return Record(
        dlenv="0.1.0",
        created="2026-11-21T00:00:00+00:00",
        request=Request(),
        machine=machine,
        plan=PLAN,
        torch=TORCH,
        packages=tuple(Package(name=name, version="1.0") for name in packages),
    )


def install(build: Path, name: str, version: str = "1.0") -> None:
    info = build / "lib" / "python3.11" / "site-packages" / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def make(path: Path, *packages: str) -> Path:
    (path / "bin").mkdir(parents=True)
    (path / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (path / "bin" / "python").symlink_to(sys.executable)
    for name in packages:
        install(path, name)
    record(*packages).write(path)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "env")


def build(home: Home, *packages: str) -> Path:
    path = make(home.new(), *packages)
    home.switch(path)
    return path


def test_a_new_environment_is_a_link_to_its_build(home: Home) -> None:
    with home.locked():
        path = build(home)
    assert home.env.is_symlink()
    assert home.current() == path
    assert executable(home.env).exists()
    assert home.record() == record()


def test_a_second_build_takes_the_place_of_the_first(home: Home) -> None:
    with home.locked():
        first, second = build(home), build(home)
        assert home.current() == second
        assert home.clean() == []
    assert not first.exists()


def test_the_link_survives_where_the_parent_is_renamed(home: Home, tmp_path: Path) -> None:
    inner = Home(tmp_path / "a" / "env")
    with inner.locked():
        build(inner)
    (tmp_path / "a").rename(tmp_path / "b")
    assert Home(tmp_path / "b" / "env").record() == record()


def test_a_build_that_a_process_runs_in_stays(home: Home) -> None:
    with home.locked():
        first = build(home)
        with subprocess.Popen([sys.executable, "-c", "input()"], cwd=first, stdin=subprocess.PIPE) as process:
            build(home)
            assert home.clean() == [first]
            process.communicate(b"\n")
        assert home.clean() == []
    assert not first.exists()


def test_a_build_that_somebody_installed_into_stays(home: Home) -> None:
    with home.locked():
        first = build(home, "numpy")
        install(first, "einops")
        build(home)
        assert home.clean() == [first]


def test_unfinished_builds_go(home: Home) -> None:
    with home.locked():
        half = home.new()
        (half / "lib").mkdir(parents=True)
        current = build(home)
        assert home.unfinished() == [half]
        home.clean()
    assert not half.exists()
    assert home.current() == current


def test_an_environment_of_somebody_else_is_kept(home: Home) -> None:
    make(home.env)
    (home.env / "mine.txt").write_text("precious")
    with home.locked():
        path = make(home.new())
        kept = home.switch(path)
    assert kept is not None
    assert (kept / "mine.txt").read_text() == "precious"
    assert home.current() == path
    with home.locked():
        home.clean()
    assert kept.exists()


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("step", range(1, 5))
@pytest.mark.parametrize("there", ["directory", "nothing"])
def test_switching_in_two_steps_survives_an_interruption(
    home: Home, monkeypatch: pytest.MonkeyPatch, step: int, there: str
) -> None:
    """Where there is no exchange: after each step the old environment can be had back, or the new one is there."""
    monkeypatch.setattr(layout, "exchange", lambda first, second: False)
    if there == "directory":
        make(home.env)
        (home.env / "mine.txt").write_text("precious")
    steps = 0

    def counted(original):
        def wrapper(self, *args, **kwargs):
            nonlocal steps
            steps += 1
            if steps == step:
                raise Interrupted
            return original(self, *args, **kwargs)

        return wrapper

    with home.locked():
        path = make(home.new())
        with monkeypatch.context() as patch:
            for name in ("rename", "replace", "write_text", "unlink"):
                patch.setattr(Path, name, counted(getattr(Path, name)))
            try:
                home.switch(path)
            except Interrupted:
                pass
            else:
                assert step > 1
    with home.locked():
        if there == "directory":
            places = [home.env, *home.builds.glob("kept-*")]
            assert [place for place in places if (place / "mine.txt").exists()]
            assert home.current() is not None
        else:
            assert home.current() in (None, path)
        assert not (home.builds / ".journal.json").exists()
        assert not (home.builds / ".old").exists()


def test_an_interruption_after_the_exchange_keeps_what_was_there(home: Home) -> None:
    make(home.env)
    (home.env / "mine.txt").write_text("precious")
    with home.locked():
        path = make(home.new())
        link = home.builds / ".link"
        link.symlink_to(Path(home.builds.name) / path.name)
        assert exchange(link, home.env)
    with home.locked():
        assert home.current() == path
        assert [(place / "mine.txt").read_text() for place in home.builds.glob("kept-*")] == ["precious"]


def test_an_empty_directory_is_taken(home: Home) -> None:
    home.env.mkdir()
    home.check()
    with home.locked():
        path = build(home)
    assert home.current() == path


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_what_is_no_environment_is_refused(home: Home, tmp_path: Path, what: str) -> None:
    if what == "file":
        home.env.write_text("notes")
    elif what == "folder":
        home.env.mkdir()
        (home.env / "notes.txt").write_text("notes")
    else:
        home.env.symlink_to(tmp_path)
    with pytest.raises(UsageError, match=str(home.env)):
        home.check()


def test_the_environment_that_runs_dlenv_is_refused() -> None:
    with pytest.raises(UsageError, match="dlenv itself runs from"):
        Home(Path(sys.prefix)).check()


def test_two_setups_of_one_environment_exclude_each_other(home: Home) -> None:
    with home.locked(), pytest.raises(SetupError, match="another dlenv setup"), Home(home.env).locked():
        pass


def test_who_is_refused_leaves_the_lock_of_who_works(home: Home) -> None:
    with home.locked():
        for _ in range(3):
            with pytest.raises(SetupError, match="another dlenv setup"), Home(home.env).locked():
                pass


@pytest.mark.parametrize("there", ["nothing", "link", "directory"])
def test_switching_where_there_is_neither_exchange_nor_replacing(
    home: Home, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    """As on Windows, where a junction can't be replaced in one step."""
    monkeypatch.setattr(layout, "exchange", lambda first, second: False)
    monkeypatch.setattr(layout, "_REPLACES", False)
    first = None
    with home.locked():
        if there == "link":
            first = build(home)
        elif there == "directory":
            make(home.env)
        path = make(home.new())
        kept = home.switch(path)
        assert (kept is not None) == (there == "directory")
        assert home.current() == path
        assert home.clean() == []
    assert first is None or not first.exists()


def test_a_folder_that_a_link_leads_to_is_one_place(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    home = Home(tmp_path / "link" / "env")
    with home.locked():
        first = build(home)
        second = build(home)
        assert home.clean() == []
        assert not first.exists()
        assert home.current() == second
        with subprocess.Popen(
            [sys.executable, "-c", "input()"], cwd=tmp_path / "link" / "env", stdin=subprocess.PIPE
        ) as process:
            build(home)
            assert home.clean() == [second]
            process.communicate(b"\n")
    with Home(tmp_path / "real" / "env").locked(), pytest.raises(SetupError), home.locked():
        pass


def test_a_build_that_a_program_was_started_from_stays(home: Home, tmp_path: Path) -> None:
    with home.locked():
        first = build(home)
        (tmp_path / "other").symlink_to(tmp_path)
        program = tmp_path / "other" / "env.d" / first.name / "bin" / "python"
        with subprocess.Popen([program, "-c", "input()"], stdin=subprocess.PIPE) as process:
            build(home)
            assert home.clean() == [first]
            process.communicate(b"\n")


def test_condas_own_installation_is_refused(home: Home) -> None:
    for name in ("conda-meta", "condabin", "envs"):
        (home.env / name).mkdir(parents=True)
    with pytest.raises(UsageError, match="conda's own installation"):
        home.check()


def test_an_environment_of_conda_is_taken(home: Home) -> None:
    (home.env / "conda-meta").mkdir(parents=True)
    home.check()


@pytest.mark.parametrize("path", ["/", "/proc"])
def test_places_that_can_be_no_environment(path: str) -> None:
    with pytest.raises(UsageError, match="--env"):
        Home(Path(path)).check()


def test_a_current_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UsageError, match="current folder"):
        Home(Path("env"))


def test_what_can_not_be_replaced_is_said(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(self: Path, target: Path) -> None:
        raise OSError(16, "Device or resource busy")

    with home.locked():
        path = make(home.new())
        monkeypatch.setattr(Path, "replace", busy)
        with pytest.raises(SetupError, match="Device or resource busy"):
            home.switch(path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="--env"), Home(tmp_path / "file" / "env").locked():
        pass


def test_no_environment_has_no_python(tmp_path: Path) -> None:
    with pytest.raises(NoEnvironment, match="dlenv setup"):
        executable(tmp_path)


def test_a_record_tells_what_changed_and_what_was_added(tmp_path: Path) -> None:
    path = make(tmp_path / "env", "numpy", "Pillow")
    install(path, "einops", "0.8")
    install(path, "pip", "25.0")
    kept = record("numpy", "pillow", "scipy")
    assert kept.changed(path) == ["scipy is missing, not 1.0"]
    assert kept.added(path) == ["einops==0.8"]


def test_an_environment_that_was_moved_or_copied_is_not_as_it_was(tmp_path: Path) -> None:
    path = make(tmp_path / "env", "numpy")
    moved = msgspec.structs.replace(record("numpy"), built=str(tmp_path / "elsewhere"))
    assert moved.changed(path) == [f"it was built at {tmp_path / 'elsewhere'} and moved or copied from there"]
    assert msgspec.structs.replace(moved, built=str(path)).changed(path) == []


def test_an_environment_without_its_python_or_a_packages_files_is_not_as_it_was(tmp_path: Path) -> None:
    path = make(tmp_path / "env", "numpy")
    info = path / "lib/python3.11/site-packages/numpy-1.0.dist-info/RECORD"
    info.write_text("numpy/__init__.py,,\nnumpy-1.0.dist-info/METADATA,,\n")
    assert record("numpy").changed(path) == ["numpy is missing, not 1.0"]
    (path / "bin" / "python").unlink()
    assert record("numpy").changed(path) == ["its Python is missing"]


@pytest.mark.parametrize(
    ("name", "version", "hashes"),
    [
        ("six\n--extra-index-url http://evil.example\nfoo", "1.0", []),
        ("six", "1.0 @ https://evil.example/six.whl", []),
        ("six", "1.0", ["sha256:00 --hash=sha256:11"]),
        ("Six", "1.0", []),
    ],
)
def test_a_strangers_record_can_not_tell_the_installer_what_to_do(
    tmp_path: Path, name: str, version: str, hashes: list[str]
) -> None:
    path = make(tmp_path / "env", "numpy")
    data = json.loads(Record.path(path).read_text())
    data["packages"] = [{"name": name, "version": version, "hashes": hashes}]
    Record.path(path).write_text(json.dumps(data))
    with pytest.raises(UsageError, match="names a package that can't be one"):
        Record.load(path)


def test_reasons_do_not_make_another_environment() -> None:
    told = Plan(manager="uv", python="3.11", torch=TORCH, reasons=("other words",), warnings=("careful",))
    assert fingerprint(told) == fingerprint(PLAN)
    assert fingerprint(Plan(manager="uv", python="3.12", torch=TORCH)) != fingerprint(PLAN)


@pytest.mark.parametrize("text", ["", "[]", '{"schema":1}', "\xff"])
def test_a_record_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "dlenv-environment.json"
    file.write_text(text, encoding="latin-1")
    assert Record.read(tmp_path) is None
    with pytest.raises(UsageError, match=r"dlenv-environment\.json"):
        Record.load(file)
