"""Every example in README and docs is run, or says why not."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import psutil
import pytest
from docs_examples import COMMANDS, RUN, SHOWN, Ports, blocks, commands, hidden, missing, outputs, sandbox, script

import dlenv.cli

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = [ENGLISH, CHINESE, *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)]
# What README.zh-CN.md shows is what README.md shows; see the test that says so.
RUNNING = [path for path in PAGES if path != CHINESE and any(block.runs for block in blocks(path))]


@pytest.fixture(scope="module")
def fonts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Matplotlib looks for fonts once, not in each empty home."""
    return tmp_path_factory.mktemp("fonts")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_each_block_says_what_it_is_and_why_it_is_not_run(path: Path) -> None:
    for block in blocks(path):
        assert block.language in (*RUN, *SHOWN), f"{block}: ```{block.language}; give one of {(*RUN, *SHOWN)}"
        if block.language in COMMANDS and not block.runs:
            assert len(block.mark) > len("not run: ..."), f"{block}: say why it is not run"
        if block.language == "console":
            assert commands(block), f"{block}: no line begins with $"
        if block.language == "text":
            assert not hidden(block), f"{block}: {hidden(block)} is typed: make it sh or console"


def test_the_chinese_readme_has_the_same_examples() -> None:
    """But for comments, the edition of the course, and what is not run: that is shown in the reader's language."""

    def examples(path: Path) -> list[str]:
        found = [block for block in blocks(path) if block.language in COMMANDS]
        texts = [block.text if block.runs else "\n".join(each.text for each in commands(block)) for block in found]
        same = (text.replace("--course zh", "--course en").removeprefix("DLENV_LANG=zh ") for text in texts)
        return [re.sub(r" *#.*", "", text) for text in same]

    assert examples(CHINESE) == examples(ENGLISH)


def leaves(group: click.Group, *before: str) -> Iterator[str]:
    """Each command of a group, with those that it has itself in its place."""
    for name in group.list_commands(click.Context(group)):
        child = group.get_command(click.Context(group), name)
        assert child is not None
        if isinstance(child, click.Group):
            yield from leaves(child, *before, name)
        else:
            yield " ".join((*before, name))


def test_the_reference_shows_what_each_command_prints() -> None:
    page = blocks(ROOT / "docs" / "reference" / "output.md")
    shown = [
        command.text for block in page if block.language == "console" for command in commands(block) if command.shown
    ]
    names = list(leaves(dlenv.cli.cli, "dlenv"))
    assert {name.split()[1] for name in names} == set(dlenv.cli.COMMANDS)
    without = [name for name in names if not any(re.search(rf"(?:^|\| ){name}\b", text) for text in shown)]
    assert not without, f"docs/reference/output.md has no output of {without}"


def processes_of(session: int) -> list[psutil.Process]:
    """What runs in this session, its leader included."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):  # gone by now
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples ask services by curl, which is not here")
@pytest.mark.skipif(os.name == "nt", reason="the examples are for a POSIX shell")
@pytest.mark.timeout(600)  # seconds on a quiet machine, minutes on a busy one
@pytest.mark.parametrize("path", RUNNING, ids=name)
def test_examples(path: Path, tmp_path: Path, fonts: Path) -> None:
    environ = {**sandbox(tmp_path, ROOT), "MPLCONFIGDIR": str(fonts)}
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
    text, expected = script(blocks(path), Ports())
    shell = subprocess.Popen(
        ["bash", "-c", text],
        cwd=tmp_path / "dlenv",
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = shell.communicate(timeout=570)
    finally:
        left = processes_of(shell.pid)
        for process in left:
            process.kill()
        shell.communicate()
    assert not left, left
    found = list(outputs(printed))
    log = tmp_path / "dlenv" / "service.log"
    said = log.read_text(encoding="utf-8") if log.exists() else ""
    for command, (output, code) in zip(expected, found, strict=False):
        told = f"{command.block}\n$ {command.text}\n{output}\nexit code {code}\n{said}"
        assert code == command.code if command.code is not None else code != 0, told
        line = missing(command.shown, output, tmp_path / "home")
        assert line is None, f"{told}\n\nnot printed, or not in this order: {line}"
    assert len(found) == len(expected), printed


@pytest.mark.parametrize("path", [ENGLISH, CHINESE], ids=name)
def test_links_of_the_readme_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_an_example_that_does_not_do_what_it_shows_is_found(tmp_path: Path) -> None:
    """The test of the tests: a wrong output, a failure and an error that is none."""
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: for a reason -->\n```sh\necho\n```\n\n"
        "```console\n$ echo 3 of 7\n3 of 9\n$ false\n```\n\n<!-- exit code 1 -->\n```sh\nfalse\ntrue\n```\n"
    )
    assert [block.mark for block in blocks(page)] == ["not run: for a reason", "", "exit code 1"]
    (first, second), third = commands(blocks(page)[1]), commands(blocks(page)[2])[0]
    assert missing(first.shown, "3 of 7\n", tmp_path) is None
    assert missing(first.shown, "three of seven\n", tmp_path) == "3 of 9"
    assert missing("a\nb", "b\na\n", tmp_path) == "b"
    assert missing("Serving ... on 1\n...", "Serving x, y on 2\n", tmp_path) is None
    assert (second.code, third.code) == (0, 1)
    text, expected = script(blocks(page), Ports())
    result = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False)
    assert [code for _, code in outputs(result.stdout)] == [0, 1, 1]
    assert len(expected) == 3


@pytest.mark.parametrize("line", ["!dlenv setup", "$ ls", "dlenv doctor", "%pip install x"])
def test_a_command_that_hides_in_a_text_is_found(tmp_path: Path, line: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```text\nUsage: dlenv setup\n  dlenv is light\n```\n\n```text\nwords\n{line}\n```\n")
    assert [hidden(block) for block in blocks(page)] == [None, line]
