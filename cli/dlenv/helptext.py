"""Help and errors of the command line in Chinese: what click writes, and how it is broken into lines."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Iterable, Iterator

import click
from click.shell_completion import CompletionItem, FishComplete, ZshComplete, add_completion_class

from dlenv.console import say, say_error
from dlenv.language import catalog, translated

__all__ = ["Formatter", "describe_completions", "show"]

_NO_END = "（《“【"  # no line ends with these, and none begins with those
_NO_START = "，。；：！？、）》”】"
_OPENS = re.compile(r"\[\w{0,4}")  # of "[默认：8000]"
# The help of an option, and what click or `dlenv serve` adds: "Where.  [default: .venv; required]"
_OPTION = re.compile(r"(?P<help>.*?)\.? *\[(?P<more>[^\[\]]*)\]\.?", re.DOTALL)


class Formatter(click.HelpFormatter):
    """Writes the help of a command in Chinese."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """The line of usage."""
        words = " ".join(catalog().texts.get(word, word) for word in re.split(r" (?!\[ARGS\])", args))
        super().write_usage(prog, words, translated("Usage:") if prefix is None else prefix)

    def write_heading(self, heading: str) -> None:
        """The heading of a section."""
        self.write(f"{'':>{self.current_indent}}{translated(heading)}：\n")

    def write_text(self, text: str) -> None:
        """Paragraphs."""
        known = catalog().texts.get(text, text)
        super().write_text(_prepared(known, self.width - self.current_indent))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """A list of options or commands, and what they do."""
        rows = list(rows)
        # As click reckons it.
        first = min(max((len(name) for name, _ in rows), default=0), col_max) + col_spacing
        width = max(self.width - first - 2, 10)
        super().write_dl([(name, _prepared(_described(text), width)) for name, text in rows], col_max, col_spacing)


def show(error: click.ClickException) -> None:
    """Print an error of click's, as it does itself."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    buffer = io.StringIO()
    error.show(file=buffer)
    for line in buffer.getvalue().splitlines():
        if line.startswith("Error: "):
            say_error(line.removeprefix("Error: "))
        else:
            say(line)


class _Zsh(ZshComplete):
    def format_completion(self, item: CompletionItem[str]) -> str:
        return super().format_completion(_in_chinese(item))


class _Fish(FishComplete):
    def format_completion(self, item: CompletionItem[str]) -> str:
        return super().format_completion(_in_chinese(item))


def describe_completions() -> None:
    """Have shells that show what a completion means show it in Chinese; bash has no place for it."""
    add_completion_class(_Zsh)
    add_completion_class(_Fish)


def _in_chinese(item: CompletionItem[str]) -> CompletionItem[str]:
    return CompletionItem(item.value, item.type, item.help and _described(item.help))


def _described(text: str) -> str:
    """What an option or a command does."""
    texts = catalog().texts
    if text in texts:
        return texts[text]
    if option := _OPTION.fullmatch(text):
        about = option["help"]
        described = next((texts[each] for each in (f"{about}.", about) if each in texts), about)
        more = "；".join(translated(part) for part in option["more"].split("; "))
        return f"{described}  [{more}]"
    return catalog().beginning(text)


def _prepared(text: str, width: int) -> str:
    """Paragraphs broken into lines that click then leaves as they are."""
    paragraphs = [
        part if part.startswith("\b") else "\n".join(["\b", *_lines(part, width)]) for part in text.split("\n\n")
    ]
    return "\n\n".join(paragraphs)


def _lines(text: str, width: int) -> Iterator[str]:
    """``text`` in lines of at most ``width`` cells; Chinese may be broken between any two characters."""
    line = ""
    for piece in _pieces(" ".join(text.split())):
        if line and _cells(line) + _cells(piece.rstrip()) > width:
            yield line.rstrip()
            line = ""
        line += piece if line else piece.lstrip()
    yield line.rstrip()


def _pieces(text: str) -> Iterator[str]:
    """What must stay in one line: words, and characters with the punctuation that belongs to them."""
    piece = ""
    for char in text:
        is_break = piece and (piece[-1] == " " or _cells(char) > 1 or _cells(piece[-1]) > 1)
        if (
            is_break
            and not _OPENS.fullmatch(piece)
            and char != " "
            and char not in _NO_START
            and piece[-1] not in _NO_END
        ):
            yield piece
            piece = ""
        piece += char
    yield piece


def _cells(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
