"""Draw what a command prints on a terminal, as SVG: ``python docs/picture.py docs/images/doctor.svg dlenv doctor``.

What is drawn is what it prints where it is run: run it in a folder and a home that may be seen.
"""

import html
import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.cells import cell_len
from rich.console import CONSOLE_SVG_FORMAT, Console
from rich.text import Text

COLUMNS = 110


def printed(command: list[str]) -> str:
    """What a command prints to a terminal of so many columns."""
    here, there = pty.openpty()
    environ = {**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    with subprocess.Popen(command, stdin=there, stdout=there, stderr=there, env=environ):
        os.close(there)
        output = b""
        try:
            while part := os.read(here, 65536):
                output += part
        except OSError:  # the other end is closed: the command has ended
            pass
    os.close(here)
    return output.decode().replace("\r\n", "\n").rstrip()


def widened(svg: str) -> str:
    """With room for Chinese: rich gives each character the width of one column, where these take two."""

    def widen(found: re.Match[str]) -> str:
        text = html.unescape(found[3])
        return f"{found[1]}{float(found[2]) * cell_len(text) / len(text):g}{found[0][found.end(2) - found.start() :]}"

    return re.sub(r'(<text [^>]*textLength=")([\d.]+)"[^>]*>([^<]+)</text>', widen, svg)


def main(path: Path, *command: str) -> None:
    """Run the command and write the picture."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "green"), " ".join(command)))
    console.print(Text.from_ansi(printed(list(command))))
    # Without rich's fonts from elsewhere, so that nothing is loaded where the picture is shown.
    start, end = CONSOLE_SVG_FORMAT.index("@font-face"), CONSOLE_SVG_FORMAT.index(".{unique_id}-matrix")
    plain = CONSOLE_SVG_FORMAT[:start] + CONSOLE_SVG_FORMAT[end:]
    picture = console.export_svg(title=command[1], code_format=plain, unique_id=path.stem)
    path.write_text(widened(picture), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
