"""uv's talk on a terminal: its lines, and how far its downloads are by the bars that it draws.

uv draws with indicatif: a row "name ----- 12.30 MiB/846.10 MiB" for each download, below one that says what it is at
("Preparing packages... (3/60)"). Rows are filled with spaces to the terminal's width, not ended (or ended: uv 0.9.0);
then the cursor goes back and they are erased. What a version other than 0.9.0 and 0.13.9 draws otherwise still serves
to say what uv is at, and no line is lost.
"""

from __future__ import annotations

import re

# ECMA-48, section 8.3: a line's end; the cursor goes back or a row is erased; any other sequence (colours, links).
_END = re.compile(r"\r?\n|(?:\r|\x1b\[\d*[ABJK])+")
_OTHER = re.compile(r"\x1b\[[0-?]*[ -/]*[@C-IL-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_UNFINISHED = re.compile(r"(?:\r|\x1b(?:\[[0-?]*|\][^\x07\x1b]*\x1b?)?)\Z")
_SIZE = r"(\d+(?:\.\d+)?) ?([KMGT]?)(i?)B"
_BAR = re.compile(rf"(?P<name>\S+(?: \(\w+\))?)\s.*?{_SIZE}\s*/\s*{_SIZE}")
_AT_WORK = "█░" + "".join(map(chr, range(0x2800, 0x2900)))  # a bar of packages; a spinner is a character of Braille
_PREPARING = re.compile(r"\(\d+/(\d+)\)")  # how many packages are not in the cache


class Talk:
    """What uv says on a terminal of ``columns``.

    ``full`` is the number of packages that it is to install and the bytes of all their files, where those are known:
    that is what is downloaded, if uv finds nothing in its cache.
    """

    def __init__(self, columns: int, full: tuple[int, int] | None = None) -> None:
        self.label = ""  # what uv is at
        self._columns = columns
        self._full = full
        self._is_full = self._is_prepared = False
        self._files: dict[str, tuple[int, int]] = {}  # bytes there and bytes in all of each download
        self._rows: list[str] = []  # that are drawn
        self._held = self._text = ""  # half a control sequence; what came since the last end

    @property
    def total(self) -> int | None:
        """Bytes to be downloaded, as far as they are known; None where nothing is."""
        announced = sum(total for _, total in self._files.values())
        return max(announced, self._full[1] if self._full and self._is_full else 0) or None

    @property
    def done(self) -> int:
        """Bytes that are there."""
        if self._is_prepared:  # small files come and go without ever being drawn
            return self.total or 0
        return sum(done for done, _ in self._files.values())

    def feed(self, text: str) -> list[str]:
        """Take the next piece; the lines that it ends."""
        text = self._held + text
        unfinished = _UNFINISHED.search(text)
        self._held = unfinished[0] if unfinished else ""
        text = _OTHER.sub("", text[: len(text) - len(self._held)])
        lines, start = [], 0
        for end in _END.finditer(text):
            self._text += text[start : end.start()]
            start = end.end()
            if end[0].endswith("\n"):
                lines += self._line()
            else:
                self._rows += self._split(self._text)
                self._erased()
            self._text = ""
        self._text += text[start:]
        return lines

    def end(self) -> list[str]:
        """The last line, where it has no end."""
        lines = self._line() if self._text else []
        self._text = ""
        return lines

    def _line(self) -> list[str]:
        """The line that ends; uv may write it behind the rows that are drawn, without erasing them."""
        line, drawn = self._text, 0
        while self._is_drawn(row := line[drawn : drawn + self._columns]):
            self._rows.append(row)
            drawn += self._columns
        if drawn and not line[drawn:]:
            return []
        self._is_prepared |= line[drawn:].startswith("Prepared ")
        return [line[drawn:]]

    def _is_drawn(self, row: str) -> bool:
        is_filled = len(row) == self._columns and row.endswith("  ")
        return bool(row) and (is_filled or row[0] in _AT_WORK or bool(_BAR.fullmatch(row.strip())))

    def _split(self, text: str) -> list[str]:
        return [text[at : at + self._columns] for at in range(0, len(text), self._columns)]

    def _erased(self) -> None:
        """Take what was on the screen at once."""
        if not self._rows:
            return
        rows = [row.strip(_AT_WORK + " ") for row in self._rows]
        self._rows = []
        bars = [bar for row in rows if (bar := _BAR.fullmatch(row))]
        others = [row for row in rows if row and not _BAR.fullmatch(row)]
        self.label = next(iter([*others, *(bar["name"] for bar in bars), self.label]))
        if (preparing := _PREPARING.search(self.label)) and self._full:
            self._is_full = int(preparing[1]) == self._full[0]
        shown: dict[str, tuple[int, int]] = {}
        for bar in bars:
            name, *sizes = bar.groups()
            state = (_bytes(*sizes[:3]), _bytes(*sizes[3:]))
            # The bar of a download that broke off stays, while another one is drawn for the next attempt.
            shown[name] = max(state, shown.get(name, state), self._files.get(name, state))
        # One that is gone is done: the last step is seldom drawn.
        self._files = {**{name: (total, total) for name, (_, total) in self._files.items()}, **shown}


def _bytes(number: str, prefix: str, binary: str) -> int:
    return round(float(number) * (1024.0 if binary else 1000.0) ** " KMGT".index(prefix or " "))
