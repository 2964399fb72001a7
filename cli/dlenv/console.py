"""What the commands say: results to stdout, talk to stderr; tables on a terminal, plain lines in a pipe."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from dlenv.errors import MissingExtra, UsageError
from dlenv.language import speaks_chinese, translated

_OURS = ("dlenv", "dlenv_models", "dlenv_service")


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around a command (also as a decorator): a package that is not installed becomes ``MissingExtra``."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OURS:
            raise
        raise MissingExtra(
            f"this needs {package}, which is not installed here; activate an environment that `dlenv setup --with "
            f"{extra}` built, or pip install 'dlenv[{extra}]'"
        ) from None


def say(text: str) -> None:
    """One line of talk, to stderr, in the reader's language."""
    pass_on(translated(text))


def say_error(text: str) -> None:
    """Why a command failed, to stderr, in the reader's language."""
    pass_on(f"{translated('Error:')}{'' if speaks_chinese() else ' '}{translated(text)}")


def pass_on(text: str) -> None:
    """What another program says, to stderr, as it is."""
    # Not err=True, by which click writes past what rich puts there while it draws a bar.
    click.echo(shown(text), file=sys.stderr)


def echo(text: str) -> None:
    """A result for people, to stdout, in their language."""
    click.echo(shown(translated(text)))


def confirm(question: str, *, default: bool = False, abort: bool = False) -> bool:
    """Ask on the terminal, in the reader's language; raises ``click.Abort`` after a no where ``abort`` says so."""
    return click.confirm(translated(question), default=default, abort=abort, err=True)


def shown(text: str) -> str:
    """``text`` as it can be shown on a terminal, with its lines as they are: a program's error may have several."""
    return "\n".join(printable(line) for line in text.replace("\r\n", "\n").split("\n"))


def printable(text: str) -> str:
    """One line without control sequences for the terminal, which names and reasons from a stranger's files may hold."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def command_line(*words: object) -> str:
    """A command as it can be typed into this system's shell, whatever is in its words."""
    texts = [str(word) for word in words]
    return subprocess.list2cmdline(texts) if os.name == "nt" else shlex.join(texts)


def print_json(value: Any) -> None:
    """``value`` as the one JSON document of a command, to stdout."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """A table on a terminal; in a pipe a line for each row, values between tabs, the columns' names first.

    Sentences are in the reader's language, names only on a terminal: in a pipe a script may go by them.
    """
    if not sys.stdout.isatty():
        for row in (columns, *(_cells(columns, row, row[0]) for row in rows)):
            click.echo("\t".join(printable(value) for value in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*map(translated, columns), title=title and translated(title), title_justify="left")
    for row in rows:
        table.add_row(*(Text(printable(value)) for value in _cells(columns, row, translated(row[0]))))
    Console().print(table)


def _cells(columns: Sequence[str], row: Sequence[str], name: str) -> list[str]:
    """A row in the reader's language; ``name`` is its first cell where that says what the second one is."""
    return [name if list(columns[1:]) == ["value"] else _sentence(row[0]), *map(_sentence, row[1:])]


def _sentence(value: str) -> str:
    """What a cell says, unless it is one word: that is a name, or the value of a status."""
    return translated(value) if " " in value else value


def parse_reference(value: str) -> tuple[str, int | None]:
    """``NAME`` or ``NAME/VERSION``; raises ``UsageError`` where the version is no positive whole number."""
    name, slash, version = value.partition("/")
    if slash and not re.fullmatch(r"[1-9][0-9]{0,8}", version):
        raise UsageError(f"{value!r} is not NAME or NAME/VERSION with a version such as 1")
    return name, int(version) if slash else None
