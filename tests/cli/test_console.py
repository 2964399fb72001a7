"""What is shown to people: nothing in it controls their terminal, and commands in it can be copied."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import msgspec
import pytest
from test_layout import make
from test_layout import record as written

from conftest import Run
from dlenv.console import command_line, echo, say
from dlenv.plan import Candidate
from dlenv.plan.model import Course
from dlenv.setup import show
from dlenv.setup.model import Outcome

TITLE = "\x1b]0;owned\x07"  # sets the title of a terminal (xterm, control sequences)


def test_talk_and_results_do_not_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"first {TITLE}\r\nsecond 课程\rover")
    echo(f"a\nb {TITLE}")
    output = capsys.readouterr()
    assert output.err == "first \\x1b]0;owned\\x07\nsecond 课程\\rover\n"
    assert output.out == "a\nb \\x1b]0;owned\\x07\n"


def test_a_record_of_a_stranger_does_not_control_the_terminal(run: Run, tmp_path: Path) -> None:
    env = make(tmp_path / "env")
    data = json.loads((env / "dlenv-environment.json").read_text())
    data["plan"] |= {"reasons": [f"because {TITLE}"], "warnings": [f"careful {TITLE}"]}
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps(data))
    result = run("setup", "--from", file, "--dry-run")
    assert result.code == 0, result.stderr
    assert "because \\x1b]0;owned\\x07" in result.stdout
    assert "\x1b" not in result.stdout + result.stderr
    assert "\x07" not in result.stdout + result.stderr


def test_a_command_is_quoted_for_the_shell(tmp_path: Path) -> None:
    words = ["dlenv", "setup", "--env", str(tmp_path / "my env; rm")]
    assert shlex.split(command_line(*words)) == words


def test_the_commands_of_an_outcome_work_in_a_folder_with_spaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = tmp_path / "my env"
    other = Candidate(torch="2.13.0", torchvision="0.28.0", build="cpu", index=None)
    course = Course(edition="en", package="d2l==1.0.3", notebooks="https://d2l.ai/d2l-en.zip")
    plan = msgspec.structs.replace(written().plan, extras=("serve",), course=course)
    done = Outcome(
        environment=env,
        python=env / "bin" / "python",
        changed=True,
        record=msgspec.structs.replace(written(), torch=other, plan=plan),
        added=("black==25.1.0",),
        notebooks=tmp_path / "my books",
    )
    show.outcome(done)
    output = capsys.readouterr()
    said = {line.partition(": ")[0].strip(): line.partition(": ")[2] for line in output.out.splitlines()}
    assert shlex.split(said["Use it"]) == [".", f"{env}/bin/activate"]
    assert shlex.split(said["Serve"]) == [f"{env}/bin/dlenv", "serve"]
    again = output.err.partition("again: ")[2].splitlines()[0]
    assert shlex.split(again) == ["dlenv", "setup", "--repair", "--env", str(env)]
    back = output.err.partition("They come back by: ")[2].splitlines()[0]
    assert shlex.split(back)[-3:] == ["--python", str(env / "bin" / "python"), "black==25.1.0"]
    lab = ["dlenv", "lab", "--env", str(env), "--notebooks", str(tmp_path / "my books")]
    assert shlex.split(said["Learn"]) == lab
    # What could not be done keeps nobody from using the rest.
    show.outcome(msgspec.structs.replace(done, notebooks=None, problems=("the notebooks can't be had",)))
    words = [line.partition(": ")[0].strip() for line in capsys.readouterr().out.splitlines()]
    assert words[1:] == ["Use it", "Serve", "Not done:", "- the notebooks can't be had"]
