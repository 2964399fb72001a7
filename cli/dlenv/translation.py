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
_ENGLISH = re.compile(r"\b[a-z]+ [a-z]+\b")
_ADDED = ("; ", ", ", "(")
_LONGEST = 4000  # characters of a text that is compared with templates: longer ones are other programs' output
_SPLITS = 64  # ways in which one template is laid over a text: a list with hundreds of commas has no better one,
_LOOSE_SPLITS = 12  # nor has what only joins two texts,
_PARTS = 2000  # and parts of one text that are read: about 0.2 s
# A template with fewer letters of its own ("{a} is {b}") may fit other words by chance, above all those in a
# placeholder, which may be another program's.
_TELLING = 5
_TELLING_INNER = 8


class Template:
    """A text with places in it, and its translation."""

    def __init__(self, source: str, target: str) -> None:
        self.literals, self.names = _parts(source)
        self._target = target
        own = "".join(self.literals)
        self.letters = sum(map(str.isalpha, own))
        self.score = _score(own)

    def filled(self, values: Mapping[str, str]) -> str:
        """The translation with these in its places."""
        literals, names = _parts(self._target)
        text = literals[0]
        for name, literal in zip(names, literals[1:], strict=True):
            text = _joined(_joined(text, values[name]), literal)
        return text


class Catalog:
    """The translations of one language."""

    def __init__(self, entries: Mapping[str, str]) -> None:
        self.texts: dict[str, str] = {}
        templates = []
        added = []  # they come first: what is added to a text is no part of what stands at its end
        for source, target in entries.items():
            if "{" in source and (template := Template(source, target)).names:
                templates.append(template)
            else:
                self.texts[source.replace("{{", "{").replace("}}", "}")] = target.replace("{{", "{").replace("}}", "}")
            if source.startswith(_ADDED):  # it goes on where another text ends
                added.append(Template(f"{{_}}{source}", f"{{_}}{target}"))
                added[-1].score -= 1  # where it stands alone, it is read as what it is
        self.templates = added + sorted(templates, key=lambda template: -template.letters)

    @classmethod
    def load(cls, path: Path = FILE) -> Catalog:
        """Read a .po file; what it has no translation for is left out."""
        return cls(entries(path))

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
        """How well ``text`` is explained (0: not at all), and what it says; blanks around it stay."""
        core = text.strip(" ")
        # A name or a value that happens to be a word of the catalog is still a name or a value, and where dlenv says
        # something of several lines, that is what another program said.
        if not core or (is_inner and (" " not in core or "\n" in core)):
            return 0, text
        if core not in self._known:
            if len(self._known) >= _PARTS:
                return 0, text
            self._known[core] = 0, core  # where a template fits into its own place
            self._known[core] = self._best(core, is_inner)
        score, result = self._known[core]
        start = text.index(core)
        return score, text[:start] + result + text[start + len(core) :]

    def _best(self, text: str, is_inner: bool) -> tuple[int, str]:
        if text in self._texts:
            return _score(text), self._texts[text]
        best = 0, text
        places = 0  # of two that explain as much, the one with fewer is what holds the other
        least = _TELLING_INNER if is_inner else _TELLING
        if text.startswith("- ") and not is_inner:
            score, result = self._read(text[2:], is_inner=False)
            best = score, f"- {result}"
        for template in self._templates:
            most = _SPLITS if template.letters >= _TELLING else _LOOSE_SPLITS
            for groups in islice(_laid(template.literals, text), most):
                read = [self._read(group) for group in groups]
                found = sum(score for score, _ in read)
                if not template.letters and not found:
                    continue
                is_loose = 0 < template.letters < least and (is_inner or not template.literals[0])
                if is_loose and _is_foreign(groups, read):
                    continue
                if is_inner and template.letters < _TELLING and not any(map(_is_figure, groups)) and not found:
                    continue
                score = template.score + found
                if (score, -len(groups)) > (best[0], -places):
                    places = len(groups)
                    values = dict(zip(template.names, (result for _, result in read), strict=True))
                    best = score, template.filled(values)
        return best


def entries(path: Path) -> dict[str, str]:
    """Message -> translation, of a .po file as ``make messages`` writes them."""
    found = ((_unquoted(source), _unquoted(target)) for source, target in _ENTRY.findall(path.read_text("utf-8")))
    return {source: target for source, target in found if source and target}


def _score(own: str) -> int:
    """What a template is worth: the letters that it explains, beside them other characters, and that it is only one."""
    letters = sum(map(str.isalpha, own))
    return letters * 1000 + (10 * len(own) if letters else 0) - 1


def _is_foreign(groups: Sequence[str], read: Sequence[tuple[int, str]]) -> bool:
    """Whether one of these is more than a single word, and not understood to its end."""
    return any(
        " " in group.strip() and (not score or _ENGLISH.search(result))
        for group, (score, result) in zip(groups, read, strict=True)
    )


def _is_figure(group: str) -> bool:
    """Whether this is a number, a version or a name, not a plain word ("3.8 to 3.12", not "failed to load")."""
    return not group.isalpha()


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
        for at in _found(parts[0], text, start, end):
            for more in rest(parts[1:], at + len(parts[0])):
                yield (text[start:at], *more)

    yield from rest(middle, len(first))


def _found(part: str, text: str, start: int, end: int) -> Iterator[int]:
    """Where ``part`` stands; where two places have nothing between them, every end of a word, the last one first."""
    if not part:
        inside = range(end - 1, start - 1, -1)
        yield end
        yield from (at for at in inside if at == start or not (text[at - 1].isalnum() and text[at].isalnum()))
        return
    at = text.find(part, start, end)
    while at != -1:
        yield at
        at = text.find(part, at + 1, end)


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
    return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), text) if "\\" in text else text
