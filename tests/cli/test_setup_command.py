from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from test_layout import make

from conftest import Run
from dlenv.catalog.courses import courses
from dlenv.environment.layout import Home

Gpus = Callable[..., object]


def test_the_plan_as_json_keeps_its_contract(run: Run) -> None:
    result = run("setup", "--dry-run", "--json", "--course", "zh", "--with", "serve")
    assert result.code == 0
    answer = json.loads(result.stdout)
    assert set(answer) == {"schema", "machine", "plan", "reasons", "warnings"}
    assert answer["schema"] == 1
    plan = answer["plan"]
    assert plan["manager"] == "uv"
    assert plan["python"] == courses()["zh"].python
    assert set(plan["torch"]) == {"version", "build", "index"}
    assert set(plan["torchvision"]) == {"version"}
    assert plan["course"]["edition"] == "zh"
    assert plan["course"]["notebooks"].startswith("https://")
    assert plan["course"]["package"] in plan["packages"]
    assert plan["extras"] == ["serve"]
    assert answer["reasons"]
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("driver", "cuda", "gpu", "words", "expected"),
    [
        ("580.82.07", "13.0", ("NVIDIA GeForce GTX 1080 Ti", "6.1", 11264), (), "2.14.1+cu126"),
        ("550.54.14", "12.4", ("NVIDIA GeForce RTX 4060", "8.9", 8188), ("--strict-cuda",), "2.6.0+cu124"),
        ("570.86.10", "12.8", ("NVIDIA GeForce RTX 5090", "12.0", 32607), ("--python", "3.12"), "2.13.0+cu129"),
        ("550.54.14", "12.4", ("NVIDIA GeForce RTX 4060", "8.9", 8188), ("--gpu", "none"), "2.15.0+cpu"),
    ],
)
def test_the_machine_decides(
    run: Run,
    with_gpus: Gpus,
    driver: str,
    cuda: str,
    gpu: tuple[str, str, int],
    words: tuple[str, ...],
    expected: str,
) -> None:
    """Through the real pynvml, over a stub of NVIDIA's library."""
    with_gpus(driver=driver, cuda=cuda, gpus=[gpu])
    result = run("setup", "--dry-run", "--json", "--course", "none", *words)
    assert result.code == 0, result.stderr
    answer = json.loads(result.stdout)
    torch = answer["plan"]["torch"]
    assert f"{torch['version']}+{torch['build']}" == expected
    assert answer["machine"]["gpus"][0]["name"] == gpu[0]
    assert answer["machine"]["driver"] == driver


def test_a_plan_for_people_gives_reasons(run: Run, with_gpus: Gpus) -> None:
    with_gpus(driver="580.82.07", cuda="13.0", gpus=[("NVIDIA GeForce GTX 1080 Ti", "6.1", 11264)])
    result = run("setup", "--dry-run", "--course", "none")
    assert result.code == 0
    assert "NVIDIA GeForce GTX 1080 Ti, compute capability 6.1, 11,264 MiB" in result.stdout
    assert "torch 2.14.1 (cu126)" in result.stdout
    assert "Why:" in result.stdout


@pytest.mark.parametrize("variable", ["COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"])
def test_on_colab_and_kaggle_what_is_there_stays(run: Run, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "release-colab_20260819")
    result = run("setup", "--dry-run", "--json", "--course", "en")
    assert result.code == 0, result.stderr
    plan = json.loads(result.stdout)["plan"]
    assert plan["manager"] == "colab"
    assert plan["torch"]["version"] == version("torch").partition("+")[0]
    assert plan["packages"] == [courses()["en"].package]


@pytest.mark.parametrize(
    ("language", "edition"), [("zh_CN.UTF-8", "zh"), ("en_US.UTF-8", "en"), ("de_DE", "en"), ("C", "en")]
)
def test_the_course_speaks_the_systems_language(
    run: Run, monkeypatch: pytest.MonkeyPatch, language: str, edition: str
) -> None:
    for name in ("LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", language)
    answer = json.loads(run("setup", "--dry-run", "--json").stdout)
    assert answer["plan"]["course"]["edition"] == edition


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--python", "3"], "--python '3'"),
        (["--python", "2.7"], "--python '2.7'"),
        (["--torch", "newest"], "--torch 'newest'"),
        (["--build", "cuda12"], "--build 'cuda12'"),
        (["--gpu", "first"], "--gpu first"),
        (["--gpu", "none,0"], "--gpu none,0"),
        (["--course", "fr"], "'fr'"),
        (["--manager", "poetry"], "'poetry'"),
        (["--with", "everything"], "'everything'"),
        (["--offline", "a", "--download", "b"], "one of them"),
        (["--for", "machine.json"], "--download"),
        (["--from", "nowhere.json"], "nowhere.json"),
        (["--torch", "9.9.9"], "9.9.9"),
        (["--gpu", "7"], "7"),
    ],
)
def test_misuse_names_the_option_and_the_value(run: Run, words: list[str], told: str) -> None:
    result = run("setup", "--dry-run", *words)
    assert result.code == 2
    assert told in result.stderr
    assert result.stdout == ""
    assert not list(Path.cwd().iterdir())


def test_a_mirror_that_nobody_knows_is_named_before_anything_is_made(run: Run) -> None:
    result = run("setup", "--env", "env", "--mirror", "nowhere", "--course", "none", "--yes")
    assert result.code == 2
    assert "'nowhere'" in result.stderr
    assert "tuna" in result.stderr
    assert not Path("env.d").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"machine": {"os": "beos"}}'])
def test_a_file_that_describes_no_machine_is_named(run: Run, content: str) -> None:
    Path("machine.json").write_text(content)
    result = run("setup", "--download", "folder", "--for", "machine.json")
    assert result.code == 2
    assert "machine.json" in result.stderr
    assert not Path("folder").exists()


def test_a_folder_that_is_no_environment_is_left_alone(run: Run) -> None:
    Path("env").mkdir()
    Path("env/thesis.tex").write_text("precious")
    result = run("setup", "--env", "env", "--course", "none", "--yes")
    assert result.code == 2
    assert "not a Python environment" in result.stderr
    assert Path("env/thesis.tex").read_text() == "precious"
    assert not Home(Path("env")).builds.exists()


def test_where_nothing_can_be_written_is_said(run: Run) -> None:
    Path("file").write_text("")
    result = run("setup", "--env", "file/env", "--course", "none", "--yes")
    assert result.code == 1
    assert "--env" in result.stderr


def test_the_record_of_another_system_is_refused(run: Run, tmp_path: Path) -> None:
    env = make(tmp_path / "env")
    data = json.loads((env / "dlenv-environment.json").read_text())
    data["machine"]["os"] = "windows"
    file = tmp_path / "windows.json"
    file.write_text(json.dumps(data))
    result = run("setup", "--from", file, "--dry-run")
    assert result.code == 2
    assert "windows on x86_64" in result.stderr


def test_what_an_environment_was_asked_for_holds(run: Run, tmp_path: Path) -> None:
    env = make(tmp_path / "env")
    file = env / "dlenv-environment.json"
    data = json.loads(file.read_text())
    data["request"] |= {"course": None, "extras": ["serve"], "python": "3.12", "torch": "2.14.1"}
    file.write_text(json.dumps(data))
    again = json.loads(run("setup", "--dry-run", "--json", "--env", env).stdout)["plan"]
    assert (again["course"], again["extras"], again["python"]) == (None, ["serve"], "3.12")
    assert again["torch"]["version"] == "2.14.1"
    other = json.loads(run("setup", "--dry-run", "--json", "--env", env, "--torch", "auto", "--course", "zh").stdout)[
        "plan"
    ]
    assert (other["course"]["edition"], other["extras"], other["python"]) == ("zh", ["serve"], "3.12")
    assert other["torch"]["version"] != "2.14.1"
    for words, parts in (["train"], ["serve", "train"]), (["none"], []), (["none", "otel"], ["otel"]):
        options = [option for word in words for option in ("--with", word)]
        more = json.loads(run("setup", "--dry-run", "--json", "--env", env, *options).stdout)["plan"]
        assert more["extras"] == parts


def test_what_becomes_of_an_environment_that_is_there_is_said_before(run: Run) -> None:
    Path("env").mkdir()
    Path("env/pyvenv.cfg").write_text("home = /usr/bin\n")
    result = run("setup", "--dry-run", "--env", "env", "--course", "none")
    assert result.code == 0
    assert "env was not built by dlenv: it will be kept in" in result.stderr
    assert Path("env/pyvenv.cfg").exists()


def test_an_error_text_does_not_control_the_terminal(run: Run) -> None:
    result = run("setup", "--dry-run", "--from", "\x1b]0;owned\x07.json")
    assert result.code == 2
    assert "\x1b" not in result.stderr


def test_help_names_every_option(run: Run) -> None:
    text = run("setup", "--help").stdout
    for option in ("--env", "--manager", "--python", "--torch", "--build", "--gpu", "--strict-cuda", "--course"):
        assert option in text
    for option in (
        "--notebooks",
        "--with",
        "--mirror",
        "--offline",
        "--dry-run",
        "--json",
        "--yes",
        "--repair",
        "--from",
    ):
        assert option in text


def test_uv_is_there() -> None:
    from dlenv.managers import uv

    assert shutil.which(uv.program())
    assert uv.run(["--version"]).startswith("uv ")
