"""What the command line asks for, beside what a record says, where things go, and whose settings are written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from http_server import Page, Server, dead_address
from test_layout import make
from test_layout import record as written
from test_notebooks_fetch import whole_course

from conftest import Run
from dlenv.environment.layout import Home, executable
from dlenv.environment.record import Record
from dlenv.errors import NoEnvironment, SetupError, UsageError
from dlenv.machine import inspect
from dlenv.notebooks.fetch import fetch_notebooks
from dlenv.notebooks.folder import MANIFEST
from dlenv.plan.model import Course, Request
from dlenv.setup import offline, pipeline
from dlenv.setup import run as running
from dlenv.setup.model import Options, Outcome

Gpus = Callable[..., object]
COURSE = Course(edition="zh", package="d2l==0.17.6", notebooks="https://zh-v2.d2l.ai/d2l-zh-2.0.0.zip")


def theirs(tmp_path: Path, **plan: Any) -> Path:
    """A record's file."""
    env = make(tmp_path / "theirs")
    data = json.loads((env / "dlenv-environment.json").read_text())
    data["plan"] |= plan
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps(data))
    return file


# Beside a record


@pytest.mark.parametrize(
    "words",
    [
        ["--torch", "2.11.0"],
        ["--python", "3.12"],
        ["--build", "cu128"],
        ["--course", "zh"],
        ["--with", "serve"],
        ["--manager", "conda"],
        ["--strict-cuda"],
        ["--gpu", "0"],
    ],
)
def test_what_a_record_does_not_say_is_refused(run: Run, tmp_path: Path, words: list[str]) -> None:
    result = run("setup", "--dry-run", "--from", theirs(tmp_path), *words)
    assert (result.code, result.stdout) == (2, "")
    assert " ".join(words) in result.stderr


def test_what_a_record_says_too_is_no_contradiction(run: Run, tmp_path: Path) -> None:
    record = written()
    words = ["--torch", record.torch.torch, "--python", record.plan.python, "--build", record.torch.build]
    words += ["--manager", "uv", "--course", "none", "--gpu", "none"]
    file = theirs(tmp_path)
    result = run("setup", "--dry-run", "--json", "--from", file, *words)
    assert result.code == 0, result.stderr
    assert json.loads(result.stdout)["plan"]["torch"]["version"] == record.torch.torch
    assert run("setup", "--dry-run", "--from", file, "--with", "none").code == 0
    all_of_them = theirs(tmp_path / "more", extras=["serve", "train"])
    assert run("setup", "--dry-run", "--from", all_of_them, "--with", "all").code == 0


def test_the_gpus_of_this_machine_are_named_beside_a_record(run: Run, tmp_path: Path, with_gpus: Gpus) -> None:
    gpu = ("Tesla T4", "7.5", 15360)
    with_gpus(driver="580.82.07", cuda="13.0", gpus=[gpu, gpu])
    file = theirs(tmp_path, gpus=[0])

    def planned(*words: str) -> tuple[list[int], list[str]]:
        result = run("setup", "--dry-run", "--json", "--from", file, *words)
        assert result.code == 0, result.stderr
        plan = json.loads(result.stdout)["plan"]
        return plan["gpus"], plan["devices"]

    assert planned() == ([0, 1], ["cuda:0", "cuda:1"])
    assert planned("--gpu", "1") == ([1], ["cuda:0"])
    assert planned("--gpu", "none") == ([], [])
    result = run("setup", "--dry-run", "--from", file, "--gpu", "7")
    assert (result.code, result.stdout) == (2, "")
    assert "there is no GPU 7 here" in result.stderr


# Before anything is built


def test_a_dry_run_checks_what_a_setup_would(run: Run) -> None:
    Path("env").mkdir()
    Path("env/thesis.tex").write_text("precious")
    result = run("setup", "--dry-run", "--env", "env")
    assert (result.code, result.stdout) == (2, "")
    assert "not a Python environment" in result.stderr
    result = run("setup", "--dry-run", "--mirror", "nowhere")
    assert (result.code, result.stdout) == (2, "")
    assert "'nowhere'" in result.stderr
    result = run("setup", "--dry-run", "--env", "env/thesis.tex/env")
    assert (result.code, result.stdout) == (1, "")
    assert "choose another --env" in result.stderr


def test_notebooks_that_can_not_go_there_are_known_before_the_build(run: Run) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("precious")
    result = run("setup", "--env", "env", "--notebooks", "mine", "--yes")
    assert result.code == 2
    assert "was not made by dlenv; name another folder by --notebooks" in result.stderr
    result = run("setup", "--env", "env", "--notebooks", "mine/thesis.txt/deep/books", "--yes")
    assert result.code == 1
    assert "choose another --notebooks" in result.stderr
    assert {path.name for path in Path.cwd().iterdir()} == {"mine"}


def test_a_place_that_can_not_be_written_is_known_before_the_build(run: Run) -> None:
    Path("locked").mkdir(mode=0o500)
    if os.access("locked", os.W_OK):
        pytest.skip("root can write everywhere")
    for words in (["--env", "locked/env"], ["--notebooks", "locked/books"]):
        result = run("setup", *words, "--dry-run")
        assert result.code == 1
        assert f"choose another {words[0]}" in result.stderr


# The folder of notebooks


def test_the_folder_of_notebooks_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = whole_course(tmp_path / "x.zip")
    env = make(tmp_path / "env")
    plan = msgspec.structs.replace(written().plan, course=COURSE)
    msgspec.structs.replace(written(), plan=plan).write(env)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    options = Options(env=env, request=Request())

    def placed(**changes: Any) -> Options:
        return running.placed(msgspec.structs.replace(options, **changes), plan)

    assert placed().notebooks == tmp_path / "here" / "d2l-zh"
    books = tmp_path / "here" / "books"
    fetch_notebooks("zh", books, archive=archive)
    record = Record.read(env)
    assert record is not None
    outcome = Outcome(environment=env, python=env / "bin" / "python", changed=False, record=record)
    asked = placed(notebooks=Path("books"))
    assert running._with_notebooks(outcome, asked, plan).notebooks == books
    monkeypatch.chdir(tmp_path)
    assert placed().notebooks == books
    assert placed(notebooks=Path("others")).notebooks == tmp_path / "others"
    english = msgspec.structs.replace(COURSE, edition="en")
    other = running.placed(options, msgspec.structs.replace(plan, course=english))
    assert other.notebooks == tmp_path / "d2l-en"


def test_notebooks_that_were_not_fetched_are_a_problem_with_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, dead_address())
        monkeypatch.delenv(name.lower(), raising=False)
    env = make(tmp_path / "env")
    plan = msgspec.structs.replace(written().plan, course=COURSE)
    books = tmp_path / "my books"
    outcome = Outcome(environment=env, python=env / "bin" / "python", changed=True, record=written())
    done = running._with_notebooks(outcome, Options(env=env, request=Request(), notebooks=books), plan)
    [problem] = done.problems
    assert problem.count("zh-v2.d2l.ai") == problem.count("dlenv notebooks fetch") == 1
    assert f"dlenv notebooks fetch --course zh --notebooks '{books}'" in problem
    books.mkdir()
    (books / MANIFEST).write_text("{")
    done = running._with_notebooks(outcome, Options(env=env, request=Request(), notebooks=books), plan)
    [problem] = done.problems
    assert problem.startswith("the notebooks were not fetched: ")
    assert problem.endswith(f"again: dlenv notebooks fetch --course zh --notebooks '{books}'")


# The user's own settings


@pytest.mark.parametrize("words", [["--dry-run"], ["--download", "folder"], ["--offline", "folder"]])
def test_a_mirror_is_only_written_by_a_setup_that_uses_it(run: Run, words: list[str]) -> None:
    result = run("setup", "--persist-mirror", *words)
    assert (result.code, result.stdout) == (2, "")
    assert f"leave it out, or {words[0]}" in result.stderr
    assert not list(Path.cwd().iterdir())


def test_passwords_are_not_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://user:s3cr3t@{dead_address().partition('://')[2]}/simple")
    home = Home(Path("env"))
    with home.locked():  # so that the setup ends before it builds
        result = run("setup", "--env", "env", "--course", "none", "--persist-mirror", "--yes")
    assert result.code == 1
    assert "what uv and pip use already: nothing was written" in result.stderr
    assert "s3cr3t" not in result.stdout + result.stderr


def test_the_mirror_that_is_written_is_the_one_that_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlenv.setup import sources

    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL", "PIP_CONFIG_FILE", "UV_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    catalog = tmp_path / "mirrors.toml"
    monkeypatch.setenv("DLENV_MIRRORS", str(catalog))
    options = Options(env=tmp_path / "env", request=Request())
    rows = 'replace = true\n[[pypi]]\nname = "{}"\nurl = "{}/simple"\n'
    catalog.write_text(rows.format("dead", dead_address()))
    assert running.persist_mirror(options) == ["No package index answers: nothing was written into your configuration"]
    with Server() as one, Server() as two:
        one.pages["/simple/torch/"] = two.pages["/simple/torch/"] = Page(b"page")
        catalog.write_text(rows.format("one", one.url))
        assert f"{one.url}/simple is the package index now" in running.persist_mirror(options)[0]
        catalog.write_text(rows.format("two", two.url))
        found = sources.find(written().plan, options, inspect())
        assert any(f"{one.url}/simple, as " in note for note in found.notes)
        assert two.paths == []


# What is to be done next


def test_commands_in_errors_are_quoted(tmp_path: Path) -> None:
    place = tmp_path / "my env"
    env = make(place, "numpy")
    record = Record.read(env)
    assert record is not None
    options = Options(env=env, request=Request(), record=record)
    again = msgspec.structs.replace(record, packages=(msgspec.structs.replace(record.packages[0], version="9"),))
    again.write(env)
    with pytest.raises(SetupError, match=f"dlenv setup --repair --env '{place}'$"):
        pipeline.unchanged(Home(env), msgspec.structs.replace(options, record=None), record.plan)
    with pytest.raises(NoEnvironment, match=f"dlenv setup --env '{tmp_path / 'no env'}'$"):
        executable(tmp_path / "no env")
    with pytest.raises(UsageError, match=f"dlenv setup --download '{tmp_path / 'my folder'}'$"):
        offline.Contents.read(tmp_path / "my folder")
    (tmp_path / "that pc.json").write_text("{}")
    with pytest.raises(UsageError, match=r"> 'that pc\.json'$"):
        running.planned(msgspec.structs.replace(options, machine_file=tmp_path / "that pc.json"))
