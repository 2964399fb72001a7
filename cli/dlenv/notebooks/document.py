"""The parts of a notebook that dlenv looks at (nbformat 4: https://nbformat.readthedocs.io/en/latest/format_description.html)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec

_HEADING = re.compile(r"^#+\s+(.+?)\s*#*\s*$|^(\S.*)\n(?:=+|-+)\s*$", re.MULTILINE)
# The repositories' notebooks begin by installing the course's package, with pins that replace what dlenv has proven.
_INSTALL = re.compile(r"^[!%]\s*pip3?\s+install\b", re.MULTILINE)
_COURSE = re.compile(r"\bd2l(\b|-)")
_NOTICE = "The following additional libraries are needed"
_IMAGE = re.compile(r"\bimg/([\w.+-]+)")


class _Cell(msgspec.Struct, frozen=True):
    cell_type: str
    source: str | list[str] = ""

    @property
    def text(self) -> str:
        return self.source if isinstance(self.source, str) else "".join(self.source)


class Notebook(msgspec.Struct, frozen=True):
    """A notebook's cells, without what they printed."""

    cells: list[_Cell]

    @property
    def title(self) -> str | None:
        """The first heading."""
        for cell in self.cells:
            if cell.cell_type == "markdown" and (match := _HEADING.search(cell.text)):
                return match[1] or match[2]
        return None

    @property
    def links(self) -> list[str]:
        """The notebooks that it links to, without ".ipynb", in order: the table of contents of a chapter."""
        return [name for cell in self.cells for name in re.findall(r"\(([\w./-]+)\.ipynb\)", cell.text)]

    @property
    def images(self) -> set[str]:
        """The names in the folder ``img`` that it shows or opens."""
        return {name for cell in self.cells for name in _IMAGE.findall(cell.text)}


def read(path: Path) -> Notebook | None:
    """The notebook, or None where the file is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Notebook)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def without_installation(content: bytes) -> bytes:
    """A notebook without the cell at its beginning that installs the course's package, and the notice above it."""
    notebook: dict[str, Any] = json.loads(content)
    cells = msgspec.convert(notebook["cells"], list[_Cell])
    surplus = {
        index
        for index, cell in enumerate(cells[:3])
        if (cell.cell_type == "code" and _installs(cell.text))
        or (cell.cell_type == "markdown" and cell.text.lstrip().startswith(_NOTICE))
    }
    if not any(cells[index].cell_type == "code" for index in surplus):
        return content
    notebook["cells"] = [cell for index, cell in enumerate(notebook["cells"]) if index not in surplus]
    return (json.dumps(notebook, ensure_ascii=False, indent=1) + "\n").encode()


def _installs(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return bool(lines) and all(_INSTALL.match(line) for line in lines) and any(_COURSE.search(line) for line in lines)
