"""Examples in Markdown: finding the fenced blocks, and running those of a file as a reader would, in one shell.

A block is run when it is ``sh`` (commands), ``console`` (commands after ``$``, and what they print) or ``python``. A
comment in the line before it says otherwise::

    <!-- not run: it needs a GPU -->      why not
    <!-- service -->                      it goes on in the background; what follows waits until it is ready
    <!-- exit code 1 -->                  of each of its commands; 0 where nothing is said

What a ``console`` block shows is compared loosely: any number stands for any other, ``...`` for anything, and lines may
be left out. Where it shows ``Error:``, the command has to fail.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RUN = ("sh", "console", "python")
SHOWN = ("text", "yaml", "toml", "json", "promql", "powershell")
COMMANDS = (*RUN, "powershell")
FOLDERS = ("cli", "docker", "docs", "models", "service", "tests")

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- *(not run: (?:(?!-->).)+?|service|exit code \d+) *-->\s*$", re.DOTALL)
_ADDRESS = re.compile(r"(127\.0\.0\.1|localhost|0\.0\.0\.0):(\d{4,5})\b")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*(?:e-?\d+)?")
_END = "\x1e"


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, what it is in, and what the comment before it says."""

    path: Path
    line: int
    language: str
    text: str
    mark: str

    @property
    def runs(self) -> bool:
        return self.language in RUN and not self.mark.startswith("not run:")

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line}"


@dataclass(frozen=True)
class Command:
    """What is typed, and what is shown after it."""

    block: Block
    text: str
    shown: str = ""

    @property
    def code(self) -> int | None:
        """The exit code that it has to have; None: any but 0."""
        if found := re.fullmatch(r"exit code (\d+)", self.block.mark):
            return int(found[1])
        return None if re.search(r"^Error: ", self.shown, re.MULTILINE) else 0


def blocks(path: Path) -> list[Block]:
    """All fenced blocks of a file."""
    text = path.read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(text):
        if fence["language"].startswith("{"):  # a directive of the site, such as its table of contents
            continue
        before = text[: fence.start()]
        mark = _MARK.search(before)
        lines = [line.removeprefix(fence["indent"]) for line in fence["text"].splitlines()]
        found.append(
            Block(
                path=path,
                line=before.count("\n") + 1,
                language=fence["language"].strip(),
                text="\n".join(lines),
                mark=" ".join(mark[1].split()) if mark else "",
            )
        )
    return found


def commands(block: Block) -> list[Command]:
    """The commands of a block, one by one where it shows what each prints."""
    if block.language == "python":
        return [Command(block, f"python - <<'END-OF-PYTHON'\n{block.text}\nEND-OF-PYTHON")]
    if block.language == "sh":
        return [Command(block, block.text)]
    found: list[Command] = []
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        end = next((i for i, line in enumerate(lines) if not line.endswith("\\")), 0) + 1
        found.append(Command(block, "\n".join(lines[:end]), "\n".join(lines[end:])))
    return found


def hidden(block: Block) -> str | None:
    """The first line of a block that somebody would type: into a shell, or into a notebook's cell."""
    return next((line for line in block.text.splitlines() if line.startswith(("!", "%", "$ ", "dlenv "))), None)


class Ports:
    """Free ports of this machine in place of those that the documentation names, the same each time."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def of(self, documented: str) -> int:
        if documented not in self._taken:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self._taken[documented] = probe.getsockname()[1]
        return self._taken[documented]

    def apply(self, text: str) -> str:
        return _ADDRESS.sub(lambda found: f"{found[1]}:{self.of(found[2])}", text)


def script(found: list[Block], ports: Ports) -> tuple[str, list[Command]]:
    """A bash script of all that runs, which prints a line of its own after each command."""
    ready = f"http://127.0.0.1:{ports.of('8000')}/v2/health/ready"
    lines = [
        "exec 2>&1",
        "trap 'failed=$?' ERR",
        "trap 'kill $service 2>/dev/null; wait' EXIT",
        f"export DLENV_PORT={ports.of('8000')}",
    ]
    numbered: list[Command] = []
    for block in found:
        if not block.runs:
            continue
        for command in commands(block):
            text = ports.apply(command.text)
            if block.mark == "service":
                text = (
                    f"(exec {text.partition('#')[0]}) > service.log 2>&1 & service=$!\n"
                    f"for _ in $(seq 300); do curl --silent --fail --output /dev/null {shlex.quote(ready)} && break\n"
                    "kill -0 $service || { cat service.log; false; break; }; sleep 0.1; done\n"
                    f"curl --silent --fail --output /dev/null {shlex.quote(ready)} || {{ cat service.log; false; }}"
                )
            # Any command of a block may fail, not only its last one.
            lines.append(f"failed=0\n{text}\nprintf '\\n{_END}%d\\n' $((failed ? failed : $?))")
            numbered.append(command)
    return "\n".join(lines), numbered


def outputs(printed: str) -> Iterator[tuple[str, int]]:
    """What each command printed, and its exit code, as the script tells them."""
    parts = re.split(rf"\n{_END}(\d+)\n", printed)
    yield from ((text, int(code)) for text, code in zip(parts[0:-1:2], parts[1::2], strict=True))


def missing(shown: str, printed: str, home: Path) -> str | None:
    """The first line that an example shows and its command did not print, in that order; None where all are there."""
    rest = iter([_normal(line.replace(str(home), "~")) for line in printed.splitlines()])
    for line in shown.splitlines():
        pattern = ".*".join(re.escape(part) for part in _normal(line).split("..."))
        if pattern.strip(".* ") and not any(re.fullmatch(pattern, other) for other in rest):
            return line
    return None


def _normal(line: str) -> str:
    """Without what differs between runs and between a terminal and a pipe: numbers, rulers, spaces."""
    return " ".join(_NUMBER.sub("0", re.sub("[│┃┏┓┗┛┡┩└┘├┤━─┳╇┴┬╭╮╰╯┼╋]", " ", line)).split())


def sandbox(folder: Path, root: Path) -> dict[str, str]:
    """Make ``folder`` look like a fresh checkout, which nothing can be written into; the variables for its shell."""
    work = folder / "dlenv"
    work.mkdir(parents=True)
    for name in FOLDERS:  # nothing else: what lies there beside them is the developer's own
        (work / name).symlink_to(root / name)
    home = folder / "home"
    home.mkdir()
    own = ("DLENV_", "XDG_", "VIRTUAL_ENV", "CONDA_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(own)}
    return {**kept, "HOME": str(home), "DLENV_ENGINE": "eager", "COLUMNS": "120"}
