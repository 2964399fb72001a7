"""Completion in real shells, ``--version --verbose``, and the examples in help texts."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dlenv import __version__
from dlenv.cli import cli

BIN = Path(sys.executable).parent


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **variables}
    return subprocess.run(words, capture_output=True, text=True, env=environ, check=False, timeout=60)


def complete(line: str, **variables: str) -> list[str]:
    """What bash's function gets for the last word of ``line``."""
    words = line.split(" ")
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_DLENV_COMPLETE": "bash_complete", **variables}
    result = run("dlenv", **asked)
    assert not result.stderr
    return [answer.partition(",")[2] for answer in result.stdout.split()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_lines_and_reads_them_without_complaint(shell: str) -> None:
    result = run("dlenv", "completion", shell)
    assert result.returncode == 0, result.stderr
    assert "_DLENV_COMPLETE" in result.stdout
    if shutil.which(shell):
        read = subprocess.run([shell, "-n"], input=result.stdout, capture_output=True, text=True, check=False)
        assert (read.returncode, read.stderr) == (0, "")


def test_bash_completes_by_these_lines() -> None:
    script = """
        eval "$(dlenv completion bash)"
        COMP_WORDS=(dlenv ser) COMP_CWORD=1
        _dlenv_completion dlenv
        echo "${COMPREPLY[@]}"
    """
    assert run("bash", "-c", script).stdout.strip() == "serve"


@pytest.mark.parametrize(
    ("language", "command", "option"),
    [
        (
            "en",
            "serve\tServe models over HTTP.",
            "--python\tVersion of Python.  [default: what the course is proven with]",
        ),
        ("zh", "serve\t通过 HTTP 提供模型服务。", "--python\tPython 的版本。  [默认：课程验证过的版本]"),
    ],
)
def test_what_a_completion_does_is_said_in_the_readers_language(language: str, command: str, option: str) -> None:
    asked = {"_DLENV_COMPLETE": "fish_complete", "DLENV_LANG": language, "PYTHONUTF8": "1"}
    assert f"plain,{command}" in run("dlenv", COMP_WORDS="dlenv s", COMP_CWORD="s", **asked).stdout.splitlines()
    assert f"plain,{option}" in run("dlenv", COMP_WORDS="dlenv setup --", COMP_CWORD="--", **asked).stdout.splitlines()


def test_options_models_architectures_and_checks_are_completed(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "DLENV_REPOSITORY": ""}
    assert complete("dlenv serve --runt", **home) == ["--runtime"]
    assert complete("dlenv predict mnist-l", **home) == ["mnist-lenet"]
    assert complete("dlenv models show mnist-lenet/", **home) == ["mnist-lenet/1"]
    assert complete("dlenv train le", **home) == ["lenet"]
    assert complete("dlenv doctor --only torch.d", **home) == ["torch.driver"]
    assert complete("dlenv evaluate --repository /nowhere/at/all m", **home) == []
    assert complete("dlenv train lenet --data mnist", **home) == ["mnist", "mnist5k", "mnist"]  # first a folder
    assert complete("dlenv experiment run weight", **home) == ["weight-decay"]
    assert complete("dlenv setup --mirror tu", **home) == ["tuna"]
    assert complete("dlenv predict mnist-lenet sev", **home) == ["sev"]  # a file: the shell looks for it


def test_names_that_are_completed_are_those_that_there_are() -> None:
    from dlenv import completion
    from dlenv_models import data, experiments

    assert data.DATASETS == completion.DATASETS
    assert experiments.NAMES == completion.EXPERIMENTS


def test_fish_completes_files_and_shows_descriptions_whole(tmp_path: Path) -> None:
    if not shutil.which("fish"):
        pytest.skip("fish is not here: apt-get install fish")
    (tmp_path / "seven.png").touch()
    lines = (
        'dlenv completion fish | source; complete -C "dlenv k"; cd $FOLDER; complete -C "dlenv predict mnist-lenet se"'
    )
    result = run("fish", "-c", lines, FOLDER=str(tmp_path), HOME=str(tmp_path))
    assert result.stdout.splitlines() == ["keys\tMake, list and remove the API keys of a service.", "seven.png"]


def test_bash_completes_files(tmp_path: Path) -> None:
    (tmp_path / "seven.png").touch()
    script = """
        eval "$(dlenv completion bash)"
        COMP_WORDS=(dlenv predict mnist-lenet se) COMP_CWORD=3
        compopt() { echo "$@"; }
        _dlenv_completion dlenv
    """
    assert run("bash", "-c", script).stdout.split() == ["-o", "default"]


def test_models_are_completed_without_anything_heavy() -> None:
    script = (
        "import sys; from dlenv import completion; import click\n"
        "context = click.Context(click.Command('x'))\n"
        "assert completion.models(context, None, 'mnist')\n"
        "print([name for name in ('torch', 'numpy', 'ray', 'pydantic') if name in sys.modules])"
    )
    assert run(sys.executable, "-c", script).stdout.strip() == "[]"


def test_version_and_what_it_runs_on() -> None:
    assert run("dlenv", "--version").stdout == f"dlenv {__version__}\n"
    lines = dict(line.rsplit(" ", 1) for line in run("dlenv", "--version", "--verbose").stdout.splitlines())
    assert lines["dlenv"] == __version__
    assert lines["Python"] == ".".join(map(str, sys.version_info[:3]))
    assert re.fullmatch(r"\d+\.\d+\..+", lines["ray"])
    assert run("dlenv", "--verbose", "--version").stdout.startswith("dlenv ")


def test_verbose_alone_is_explained() -> None:
    result = run("dlenv", "--verbose", "doctor")
    assert result.returncode == 2
    assert "--verbose belongs to --version" in result.stderr


def test_no_command_is_still_an_error_and_nothing_at_all_shows_the_help() -> None:
    assert "Examples:" in run("dlenv").stderr + run("dlenv").stdout


def commands(command: click.Command, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield names, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, (*names, name))


EXAMPLES = [
    (names, line)
    for names, command in commands(cli)
    for line in re.sub(r"\\\n\s*", "", command.epilog or "").splitlines()  # a backslash continues a line
    if line.startswith("  ")
]


@pytest.mark.parametrize("name", ["setup", "doctor", "train", "serve", "predict", "bench", "models", "keys"])
def test_the_main_commands_have_examples(name: str) -> None:
    assert any(names == (name,) for names, _ in EXAMPLES)


@pytest.mark.parametrize(("names", "line"), EXAMPLES, ids=[line.strip() for _, line in EXAMPLES])
def test_each_example_in_a_help_text_is_understood(names: tuple[str, ...], line: str) -> None:
    """Parsed as far as the command's own function; what they do is tested elsewhere."""
    command = re.split(r"\s{2,}|\s>>?\s", line.strip().rpartition("| ")[2])[0]
    program, *words = shlex.split(command)
    assert program == "dlenv"
    context = click.Context(cli, info_name="dlenv")
    group: click.Command = cli
    while isinstance(group, click.Group) and words:
        child = group.get_command(context, words[0])
        assert child is not None, words[0]
        group = child
        words.pop(0)
    assert not isinstance(group, click.Group)
    group.make_context(str(group.name), words)
