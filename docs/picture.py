"""Draw what a command prints on a terminal, as SVG: ``python docs/picture.py docs/images/doctor.svg dlenv doctor``.

What is drawn is what it prints where it is run: run it in a folder and a home that may be seen.
"""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

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


def main(path: Path, *command: str) -> None:
    """Run the command and write the picture."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "green"), " ".join(command)))
    console.print(Text.from_ansi(printed(list(command))))
    # Without rich's fonts from elsewhere, so that nothing is loaded where the picture is shown.
    start, end = CONSOLE_SVG_FORMAT.index("@font-face"), CONSOLE_SVG_FORMAT.index(".{unique_id}-matrix")
    plain = CONSOLE_SVG_FORMAT[:start] + CONSOLE_SVG_FORMAT[end:]
    path.write_text(console.export_svg(title=path.stem, code_format=plain, unique_id=path.stem), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
