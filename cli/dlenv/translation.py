"""Chinese texts for English ones: the templates of a catalog, recognised in what they were filled to.

f-strings are filled before anything can look them up, so a text is compared with the templates that stand in the
source ("{path} can't be read ({strerror})"). The reading that explains most of its letters wins; what stands in a
placeholder is read the same way, since it may be a text, too. Catalogs are gettext's .po files, whose msgids are these
templates (docs/messages.py finds them).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from string import Formatter

FILE = Path(__file__).parent / "locale" / "zh_CN" / "LC_MESSAGES" / "dlenv.po"

_ENTRY = re.compile(r'^msgid ((?:".*"\n)+)msgstr ((?:".*"(?:\n|\Z))+)', re.MULTILINE)
_ESCAPES = {"n": "\n", "t": "\t", "b": "\b", "r": "\r"}
_WIDE = "[\u2e80-\u9fff\uff00-\uffef\u2018-\u201d]"  # Chinese characters and punctuation
_LONGEST = 4000  # characters of a text that is compared with templates: longer ones are other programs' output
_SPLITS = 64  # ways in which one template is laid over a text: a list with hundreds of commas has no better one
# A template with fewer letters of its own ("{a} is {b}") may fit other words by chance, above all those in a
# placeholder, which may be another program's.
_TELLING = 4
_TELLING_INNER = 8


class Template:
    """A text with places in it, and its translation."""

    def __init__(self, source: str, target: str) -> None:
        self.literals, self.names = _parts(source)
        self._target = _parts(target)
        self.weight = sum(char.isalpha() for literal in self.literals for char in literal)

    def filled(self, values: Mapping[str, str]) -> str:
        """The translation with these in its places."""
        literals, names = self._target
        text = literals[0]
        for name, literal in zip(names, literals[1:], strict=True):
            text = _joined(_joined(text, values[name]), literal)
        return text


class Catalog:
    """The translations of one language."""

    def __init__(self, entries: Mapping[str, str]) -> None:
        self.texts: dict[str, str] = {}
        self.templates: list[Template] = []
        for source, target in entries.items():
            template = Template(source, target)
            if template.names:
                self.templates.append(template)
            else:
                self.texts[template.literals[0]] = template.filled({})
        self.templates.sort(key=lambda template: -template.weight)

    @classmethod
    def load(cls, path: Path = FILE) -> Catalog:
        """Read a .po file; what it has no translation for is left out."""
        entries = {}
        for source, target in _ENTRY.findall(path.read_text(encoding="utf-8")):
            if (text := _unquoted(source)) and (translation := _unquoted(target)):
                entries[text] = translation
        return cls(entries)

    def translated(self, text: str) -> str:
        """``text`` in this language, line by line where it is not known as a whole."""
        reading = _Reading(self, text)
        if reading.score or "\n" not in text:
            return reading.result
        return "\n".join(_Reading(self, line).result for line in text.split("\n"))

    def beginning(self, text: str) -> str:
        """The first sentence of the translation of a text that begins with ``text``, which click has cut off."""
        start = text.removesuffix("...").removesuffix(".").strip()
        whole = next((each for each in self.texts if start and each.replace("\n", " ").startswith(start)), None)
        return self.texts[whole].partition("。")[0] + "。" if whole else text


class _Reading:
    """How one text is understood: the best of all ways to lay templates over it."""

    def __init__(self, catalog: Catalog, text: str) -> None:
        self._texts = catalog.texts
        fits = len(text) <= _LONGEST
        self._templates = [
            template for template in catalog.templates if fits and all(part in text for part in template.literals)
        ]
        self._known: dict[str, tuple[int, str]] = {}
        self.score, self.result = self._read(text, is_inner=False)

    def _read(self, text: str, *, is_inner: bool = True) -> tuple[int, str]:
        """How many letters of ``text`` are explained, and what they say; blanks around it stay."""
        core = text.strip(" ")
        # A name or a value that happens to be a word of the catalog is still a name or a value.
        if not core or (is_inner and " " not in core):
            return 0, text
        if core not in self._known:
            self._known[core] = 0, core  # where a template fits into its own place
            self._known[core] = self._best(core, is_inner)
        score, result = self._known[core]
        start = text.index(core)
        return score, text[:start] + result + text[start + len(core) :]

    def _best(self, text: str, is_inner: bool) -> tuple[int, str]:
        if text in self._texts:
            return sum(map(str.isalpha, text)), self._texts[text]
        best = 0, text
        least = _TELLING_INNER if is_inner else _TELLING
        if text.startswith("- ") and not is_inner:
            score, result = self._read(text[2:], is_inner=False)
            best = score, f"- {result}"
        for template in self._templates:
            for groups in islice(_laid(template.literals, text), _SPLITS):
                read = [self._read(group) for group in groups]
                found = sum(score for score, _ in read)
                if not template.weight and not found:
                    continue
                if 0 < template.weight < least and _is_foreign(groups, read):
                    continue
                if template.weight + found > best[0]:
                    values = dict(zip(template.names, (result for _, result in read), strict=True))
                    best = template.weight + found, template.filled(values)
        return best


def _is_foreign(groups: Sequence[str], read: Sequence[tuple[int, str]]) -> bool:
    """Whether one of these is neither understood nor a single word."""
    return any(not score and " " in group.strip() for group, (score, _) in zip(groups, read, strict=True))


def _laid(literals: Sequence[str], text: str) -> Iterator[tuple[str, ...]]:
    """What stands in the places of a template, for each way in which its literal parts are found in ``text``."""
    first, *middle, last = literals
    end = len(text) - len(last)
    if len(first) > end or not text.startswith(first) or not text.endswith(last):
        return

    def rest(parts: Sequence[str], start: int) -> Iterator[tuple[str, ...]]:
        if not parts:
            yield (text[start:end],)
            return
        at = text.find(parts[0], start, end)
        while at != -1:
            for more in rest(parts[1:], at + len(parts[0])):
                yield (text[start:at], *more)
            at = text.find(parts[0], at + 1, end)

    yield from rest(middle, len(first))


def _parts(text: str) -> tuple[list[str], list[str]]:
    """The literal parts of a format string, and the names of the places between them."""
    literals, names = [""], []
    for literal, name, _, _ in Formatter().parse(text):
        literals[-1] += literal
        if name is not None:
            names.append(name)
            literals.append("")
    return literals, names


def _joined(left: str, right: str) -> str:
    """One after the other, without the blank that belongs between words, but not between Chinese characters."""
    if re.search(f"{_WIDE} $", left) and re.match(_WIDE, right):
        return left[:-1] + right
    if re.search(f"{_WIDE}$", left) and re.match(f" {_WIDE}", right):
        return left + right[1:]
    return left + right


def _unquoted(lines: str) -> str:
    """The value of a string in a .po file, which may go over several lines."""
    text = "".join(line[1:-1] for line in lines.splitlines())
    return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), text)
