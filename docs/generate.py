"""Write the reference from what it describes: ``make reference``.

The command line, the service's settings, its interface and the errors are read from the objects that do the work, so
that nobody has to keep a second list. A test makes these pages again and compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from dlenv import errors
from dlenv.cli import cli
from dlenv_service.access import entry
from dlenv_service.config import Settings, variable
from dlenv_service.openapi import document

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- Made by `make reference` (docs/generate.py); do not edit. -->\n\n"

# Variables that are no settings of the service.
OTHERS = {
    "DLENV_CONFIG": "the YAML file with settings, as `--config`",
    "DLENV_REPOSITORY": "your model repository, as `--repository` of every command that has it",
    "DLENV_DATA_DIR": "where downloaded data sets are kept, as `--data-dir`",
    "DLENV_KEY": "the API key that `dlenv predict` and `dlenv bench` send, as `--key`",
    "DLENV_KEYS": "the file of keys for `dlenv keys`, as `--file`, and for `dlenv serve`, as `--keys`",
    "DLENV_LANG": "the language of messages: `zh` or `en` [default: Chinese where the system speaks it, else English]",
    "DLENV_MIRRORS": "a TOML file with further mirrors, or with other addresses for those that dlenv knows",
}
_SOURCES = """\
Each setting of the service is a flag of `dlenv serve`, an environment variable, and a key of a YAML file
(`--config file.yaml`, or `DLENV_CONFIG`). A flag goes before a variable, a variable before the file, the file before
the default. Unknown keys and unknown `DLENV_` variables are refused. An empty variable counts as not set. Several
models or origins in a variable are separated by commas or blanks.
"""
_LEVELS = {"open": "nothing", "read": "any key", "infer": "`infer`", "admin": "`admin`"}


def pages() -> dict[str, str]:
    """Name of the file in ``docs/reference`` -> its text."""
    return {
        "commands.md": NOTE + "\n".join(_commands()),
        "settings.md": NOTE + "\n".join(_settings()),
        "http.md": NOTE + "\n".join(_http()),
        "errors.md": NOTE + "\n".join(_errors()),
    }


def main() -> None:
    """Write the pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(_cell(value) for value in row)} |"
    yield ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _plain(text: str) -> str:
    """Help text as Markdown: what stands outside of code is no markup."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([\[\]<>*_$])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


# Commands


def _commands() -> Iterator[str]:
    yield "# Commands\n"
    yield "Every command and all of its options, as `--help` says them. Exit codes: 0 done, 1 found something or"
    yield "failed, 2 called with something that it can't take, 130 interrupted. Real answers: [](output.md).\n"
    root = click.Context(cli, info_name="dlenv", **cli.context_settings)
    yield from _command(cli, root, 2)


def _command(command: click.Command, context: click.Context, level: int) -> Iterator[str]:
    command._help_option = None  # click keeps the one of whoever asked first, who may know no `-h`
    yield f"{'#' * level} {context.command_path}\n"
    paragraphs = (command.help or "").split("\n\n")
    yield "\n\n".join(_plain(" ".join(text.split())) for text in paragraphs) + "\n"
    yield f"```text\n{command.get_usage(context)}\n```\n"
    options = [
        record
        for param in command.get_params(context)
        if isinstance(param, click.Option) and (record := param.get_help_record(context))
    ]
    yield from _table(("option", "what it does"), [(f"`{names}`", _plain(text)) for names, text in options])
    if command.epilog:
        yield "<!-- not run: tests/docs/test_docs_completion.py tests that each is understood -->"
        yield "```sh"
        yield from (_example(line) for line in command.epilog.splitlines()[2:])
        yield "```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _command(child, click.Context(child, info_name=name, parent=context), min(level + 1, 3))


def _example(line: str) -> str:
    """A line of ``--help``'s examples for a shell: what it says behind the command is a comment."""
    return re.sub(r"(?<=\S)( {2,})(?=\S)", r"\1# ", line.removeprefix("  "))


# Settings


def _settings() -> Iterator[str]:
    yield "# Settings and variables\n"
    yield _SOURCES
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, ()) or field.default is False else f"`{field.default}`"
        flag = f"`--{name.replace('_', '-')}`"
        rows.append((flag, f"`{variable(name)}`", f"`{name}`", default, _plain(field.description or "")))
    yield from _table(("flag", "variable", "YAML key", "default", "what it is"), rows)
    yield "## Other variables\n"
    yield from _table(("variable", "what it is"), [(f"`{name}`", text) for name, text in OTHERS.items()])
    yield "Those of the containers are listed in [](../docker.md). `RAY_*` variables are Ray's own."
    yield "`CUDA_VISIBLE_DEVICES` hides GPUs from everything, `dlenv setup` and `dlenv doctor` included.\n"


# Interface


def _http() -> Iterator[str]:
    described = document(keys=True)
    yield "# HTTP interface\n"
    yield "The same, with schemas, is what a running service answers at `/openapi.json`, and as a page at `/docs`. The"
    yield "scope is asked for where the service has [API keys](../security.md). Every answer carries `X-Request-Id`;"
    yield 'every error is `{"error": "<what, which value, what to do>"}` with one of the statuses in [](errors.md).\n'
    operations = [
        (path, verb, operation)
        for path, methods in described["paths"].items()
        for verb, operation in methods.items()
        if verb != "parameters"
    ]
    for tag in dict.fromkeys(operation["tags"][0] for _, _, operation in operations):
        yield f"## {tag}\n"
        mine = [(path, verb, each) for path, verb, each in operations if each["tags"][0] == tag]
        rows = []
        for path, verb, operation in mine:
            takes = ", ".join(operation.get("requestBody", {}).get("content", {}))
            statuses = ", ".join(sorted(operation["responses"]))
            rows.append(
                (f"`{verb.upper()} {path}`", operation["summary"], takes, _LEVELS[entry(path).access], statuses)
            )
        yield from _table(("request", "what it does", "takes", "scope", "statuses"), rows)
        yield from _details(mine, described["paths"])


def _details(operations: list[tuple[str, str, dict[str, Any]]], paths: dict[str, Any]) -> Iterator[str]:
    """What a table has no room for, of each path but its twin with a version."""
    for path, verb, operation in operations:
        queries = [each["name"] for each in paths[path].get("parameters", ()) if each["in"] == "query"]
        detail = re.sub(r"\s*Needs an API key.*", "", operation.get("description", ""))
        if "{version}" in path or not (detail or queries):
            continue
        words = [detail, *(f"Query parameter: `{name}`." for name in queries if name not in detail)]
        yield f"`{verb.upper()} {path}`: {' '.join(filter(None, words))}\n"


# Errors


def _leaves(error: type[errors.DlenvError], depth: int = 0) -> Iterator[tuple[type[errors.DlenvError], int]]:
    yield error, depth
    # Those of errors.py: other modules derive from them for their own use.
    for child in error.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _leaves(child, depth + 1)


def _meaning(error: type[errors.DlenvError]) -> str:
    return re.sub(r"``([^`]+)``", r"`\1`", (error.__doc__ or "").partition("\n\n")[0])


def _errors() -> Iterator[str]:
    yield "# Errors\n"
    yield "What dlenv can explain it says in one sentence: what is wrong, which value, and what to do. In a terminal it"
    yield "follows `Error:`, over HTTP it is the value of `error`. From Python it is one of these exceptions of"
    yield "`dlenv.errors`.\n"
    yield "## Statuses\n"
    found = list(_leaves(errors.DlenvError))
    requests = [error for error, _ in found if issubclass(error, errors.RequestError)]
    also = [errors.ModelNotFound]
    rows = [(str(error.status), f"`{error.__name__}`", _meaning(error)) for error in (*requests, *also)]
    yield from _table(("status", "error", "when"), sorted(rows))
    yield "429 comes with `Retry-After`, 405 with `Allow`, 401 with `WWW-Authenticate`. A process that has as many"
    yield "connections as `--max-connections` lets it answers 503 and closes.\n"
    yield "## All of them\n"
    yield "An error is a kind of the one that it is indented under.\n"
    rows = [
        ("&emsp;" * depth + f"`{error.__name__}`", str(error.exit_code), str(error.status), _meaning(error))
        for error, depth in found
    ]
    yield from _table(("error", "exit code", "status", "what it means"), rows)


if __name__ == "__main__":
    main()
