"""Write the catalog of translations again, from the source: ``make messages``.

A text is written once, in English, where it is raised or printed. Its template ("{path} can't be read ({strerror})")
is recovered from the syntax tree, and is the msgid in ``cli/dlenv/locale/zh_CN/LC_MESSAGES/dlenv.po``. Translations
are kept; a new message gets an empty one, and a test fails until it is filled in. `dlenv.language` does the reverse.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).parents[1]
CATALOG = ROOT / "cli" / "dlenv" / "catalog"
FILE = ROOT / "cli" / "dlenv" / "locale" / "zh_CN" / "LC_MESSAGES" / "dlenv.po"

HEADER = b"""\
# Messages of dlenv in Simplified Chinese. `make messages` (docs/messages.py) writes the msgids and keeps the msgstrs.
msgid ""
msgstr ""
"Language: zh_CN\\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=UTF-8\\n"
"Content-Transfer-Encoding: 8bit\\n"

"""
# What a terminal shows: of the service, why it can't start, and the answers that `dlenv predict` passes on.
FOLDERS = ("cli/dlenv", "models/dlenv_models")
SERVICE = (
    *("admission", "app", "arrangement", "asgi", "audit", "batcher", "cluster", "codec", "config", "device", "engine"),
    *("existing", "exposure", "fronts/keeper", "fronts/process", "gate", "host", "http", "inference", "keyfile"),
    *("keys", "limited", "listener", "loading", "local", "lookup", "starting", "tensors", "tls", "tracing"),
)
# Programs that dlenv gives to another Python; files and pictures, which are English.
NOT_SHOWN = (
    *("cli/dlenv/probe/runner.py", "cli/dlenv/setup/readme.py", "cli/dlenv/bench/plot.py"),
    *("models/dlenv_models/plots.py", "models/dlenv_models/card.py"),
)
CLICK = ("core", "exceptions", "types", "formatting", "decorators", "parser", "termui")
# What is put together where it is shown, of texts that are translated themselves; what click puts together of its own;
# what systems say.
EXTRA = (
    *("{first}; {second}", "{first}: {second}", "{first}, {second}", "{first} ({second})", "{first}. {second}."),
    *("{text} ...", "{text}.", "{first} and {second}", "there are {first} and {second}; name one by --notebooks"),
    *("{verdict}: {checks}, {parts}.", "1 check", "[OPTIONS]", "COMMAND [ARGS]...", "[COMMAND] [ARGS]..."),
    *("required", "Error:", "load", "rows/s", "rejected", "Stopping"),
    *("{message} Did you mean {possibility}?", "{message} (Did you mean one of: {possibilities}?)"),
    *("Missing argument {hint}.", "Missing argument {hint}. {more}", "Missing option {hint}."),
    *("{name}: {done} of {total}, {speed}/s, {left} left", "{name}: {done} of {total}, {speed}/s"),
    *("{name}: {done} of {total}", "Missing option {hint}. {more}"),
    *("Invalid value for {hint}: {value} is not one of {choices}.",),
    *("environment {free} GiB free ({path})", "temporary {free} GiB free ({path})", "cache {free} GiB free ({path})"),
    *("{value} is not a valid integer.", "{value} is not a valid float.", "{value} is not a valid integer range."),
    *("{value} is not a valid float range.", "there are no notebooks of dlenv's here; get them by: {fetching}"),
    *("{count} row", "{count} rows", "{count} connection", "{count} connections"),
    *("{name}: failed ({seconds} s)", "{name}: failed ({seconds} s): {error}"),
    # pydantic, of a setting's value
    *("input should be {expected}", "{first} or {second}"),
    *("input should be greater than or equal to {ge}", "input should be less than or equal to {le}"),
    *("input should be a valid integer", "input should be a valid number", "input should be a valid boolean"),
    *("input should be a valid string", "input should be a valid tuple", "input should be a finite number"),
    "input should be a valid integer, unable to parse string as an integer",
    "input should be a valid integer, got a number with a fractional part",
    "input should be a valid number, unable to parse string as a number",
    "input should be a valid boolean, unable to interpret input",
    *("string should have at least 1 character", "input is not a valid path for {type}"),
    "environment variables",
    # systems
    *("No such file or directory", "Permission denied", "Is a directory", "Not a directory", "File exists"),
    *("No space left on device", "Read-only file system", "Connection refused", "Address already in use"),
    *("Connection reset by peer", "Network is unreachable", "Name or service not known", "File name too long"),
    *("Temporary failure in name resolution", "Device or resource busy", "Too many open files"),
)

_MOST = 8  # texts that one f-string with conditions in it may stand for
_WORDS = re.compile(r"[A-Za-z']{2,}[,;:.)]* [`'(]?[A-Za-z-]{2,}|\{\}[,;:]? [a-z]{2,}|\b[A-Za-z]{2,}:? [`'(]?\{\}")
# Media types, programs, patterns, and whom data are from.
_NO_TEXT = re.compile(
    r"^application/|^\nlocal folder|^#!|\bimport \w+[;,]|^\{\}$|\\[Sd]|[a-z0-9]\|[a-z(]|^[A-Z]\. [A-Z]|^CC BY|"
    r"^generated by |^undefined symbol: iJIT|^--[a-z-]+$|^cuda graphs|^arm \{\}|^sudo [^;,(]+$|^batch \{\}|^# |"
    r"^(Host|Name|Version|Requires-Dist|Bearer|HTTP|CUDA|ROCm|Python):? \{\}$|^PCI |"
    r"^\{\} \[default: \{\}\]\.$|^d2l \d[\d.]*,"
)
_SHOWN = {"say", "echo", "secho", "confirm", "prompt", "because", "warn", "ok", "skip", "fail", "print_table"}
_SHOWN |= {"translated", "DownloadProgress", "_list"}
_SHOWN_AS = {"help", "short_help", "epilog", "description", "title", "note"}
_NOT_A_TEXT = {"compile", "match", "search", "fullmatch", "sub", "findall", "finditer", "startswith", "endswith"}
_NOT_A_TEXT |= {"partition", "rpartition", "split", "replace", "cast", "TypeVar", "getattr", "removeprefix", "metavar"}
_LOGGED = {"debug", "info", "warning", "error", "exception", "critical"}


def messages() -> dict[str, list[str]]:
    """Each template, and the files that it is in."""
    found: dict[str, set[str]] = {text: set() for text in EXTRA}
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    files += [ROOT / "service" / "dlenv_service" / f"{name}.py" for name in SERVICE]
    for path in files:
        name = path.relative_to(ROOT).as_posix()
        if name not in NOT_SHOWN:
            for text in _of_module(path):
                found.setdefault(text, set()).add(name)
    for text in _of_courses():
        found.setdefault(text, set()).add("cli/dlenv/catalog/courses.toml")
    for text in _of_click():
        found.setdefault(text, set()).add("click")
    return {text: sorted(names) for text, names in found.items()}


def _of_click() -> Iterator[str]:
    """What click looks up by gettext; its templates have names in braces, too."""
    spec = importlib.util.find_spec("click")
    assert spec is not None
    assert spec.origin is not None
    for name in CLICK:
        for node in ast.walk(ast.parse((Path(spec.origin).parent / f"{name}.py").read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("_", "ngettext"):
                for arg in node.args:
                    if isinstance(arg, ast.Constant) and isinstance(arg.value, str):
                        yield arg.value


def _of_courses() -> Iterator[str]:
    """Why a notebook can't run, and which ones import a package."""
    for name, value in re.findall(r'^(.+) = "(.+)"$', (CATALOG / "courses.toml").read_text("utf-8"), re.MULTILINE):
        if name == "use" or "/" in name:
            yield value


def _of_module(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = set(_skipped(tree))
    shown = set(_shown(tree))
    for node in sorted(ast.walk(tree), key=lambda node: (getattr(node, "lineno", 0), getattr(node, "col_offset", 0))):
        if isinstance(node, ast.FunctionDef) and _is_command(node) and (doc := ast.get_docstring(node)):
            yield _escaped(doc)
        if id(node) in skipped or not isinstance(node, (ast.Constant, ast.JoinedStr)):
            continue
        for text in dict.fromkeys(_templates(node)):
            plain = re.sub(r"\{\w+\}", "{}", text)
            if _NO_TEXT.search(plain):
                continue
            text = inspect.cleandoc(text) if "\n  " in text and not text.startswith("\b") else text.strip(" ")
            if re.search(r"[A-Za-z]{2,}", plain) and (id(node) in shown or _WORDS.search(plain)):
                yield text


def _is_command(function: ast.FunctionDef) -> bool:
    return any(re.search(r"\b(command|group)\(?", ast.unparse(each)) for each in function.decorator_list)


def _skipped(tree: ast.Module) -> Iterator[int]:
    """Strings that are no texts by where they stand, and parts of f-strings, which are taken as a whole."""
    for node in ast.walk(tree):
        away: list[ast.AST] = []
        match node:
            case ast.Expr(value=ast.Constant()) | ast.Compare() | ast.Assert():
                away = [child for child in ast.walk(node) if isinstance(child, (ast.Constant, ast.JoinedStr))]
            case ast.JoinedStr():
                away = list(_inside(node))
            case ast.Dict():
                away = [key for key in node.keys if key is not None]
            case ast.Subscript():
                away = list(ast.walk(node.slice))
            case ast.AnnAssign():
                away = list(ast.walk(node.annotation))
            case ast.Call():
                name = _name(node.func)
                base = ast.unparse(node.func.value).lower() if isinstance(node.func, ast.Attribute) else ""
                if name in _NOT_A_TEXT or (name in _LOGGED and "log" in base):
                    away = [child for arg in node.args for child in ast.walk(arg)]
        yield from map(id, away)


def _inside(string: ast.JoinedStr) -> Iterator[ast.AST]:
    """The literal parts and format specifications of an f-string, and the arms that its templates have taken in."""
    for value in string.values:
        if isinstance(value, ast.Constant):
            yield value
        elif isinstance(value, ast.FormattedValue):
            if value.format_spec is not None:
                yield from ast.walk(value.format_spec)
            if isinstance(value.value, (ast.IfExp, ast.BoolOp, ast.JoinedStr, ast.Constant)):
                yield from _arms(value.value)


def _arms(value: ast.expr) -> Iterator[ast.expr]:
    match value:
        case ast.IfExp():
            yield from _arms(value.body)
            yield from _arms(value.orelse)
        case ast.BoolOp(op=ast.Or()):
            for each in value.values:
                yield from _arms(each)
        case ast.Constant() | ast.JoinedStr():
            yield value


def _shown(tree: ast.Module) -> Iterator[int]:
    """Strings that are shown by where they stand, even a single word."""
    for node in ast.walk(tree):
        args: list[ast.expr] = []
        match node:
            case ast.Raise(exc=ast.Call()):
                args = list(node.exc.args)  # type: ignore[union-attr]
            case ast.Call():
                if _name(node.func) in _SHOWN:
                    args = list(node.args[:1])
                args += [keyword.value for keyword in node.keywords if keyword.arg in _SHOWN_AS]
            case ast.List(elts=[ast.Constant(value=str() as word) as label, other]) if re.fullmatch("[a-z ]+", word):
                args = [] if isinstance(other, ast.Constant) else [label]  # of a row of a table
        for arg in args:
            for child in [arg, *(arg.elts if isinstance(arg, (ast.List, ast.Tuple)) else ())]:
                yield id(child)


def _templates(node: ast.expr) -> list[str]:
    """The texts that a string stands for: more than one where it has conditions in it."""
    if isinstance(node, ast.Constant):
        return [_escaped(node.value)] if isinstance(node.value, str) else []
    assert isinstance(node, ast.JoinedStr)
    parts: list[list[str | ast.expr]] = [list(_alternatives(value)) for value in node.values]
    texts = []
    for combination in itertools.islice(itertools.product(*parts), _MOST):
        names: dict[str, int] = {}
        text = ""
        for part in _flat(combination):
            if isinstance(part, str):
                text += _escaped(part)
            else:
                name = re.sub(r"\W", "", _placeholder(part)).strip("_").lower() or "value"
                names[name] = names.get(name, 0) + 1
                text += f"{{{name}{names[name] if names[name] > 1 else ''}}}"
        texts.append(text)
    return texts


def _flat(parts: object) -> Iterator[str | ast.expr]:
    if isinstance(parts, tuple):
        for part in parts:
            yield from _flat(part)
    else:
        yield parts  # type: ignore[misc]


def _alternatives(value: ast.expr) -> Iterator[object]:
    """What may stand in a place of an f-string: words, or an expression, or several of them in a tuple."""
    match value:
        case ast.FormattedValue():
            yield from _alternatives(value.value)
        case ast.Constant(value=str()):
            yield value.value
        case ast.JoinedStr():
            yield from itertools.product(*(list(_alternatives(each)) for each in value.values))
        case ast.IfExp() if any(isinstance(arm, (ast.Constant, ast.JoinedStr)) for arm in (value.body, value.orelse)):
            yield from _alternatives(value.body)
            yield from _alternatives(value.orelse)
        case ast.BinOp(op=ast.Mult(), left=ast.Constant(value=str())):
            yield value.left.value
            yield ""
        case ast.BoolOp(op=ast.Or()) if isinstance(value.values[-1], ast.Constant):
            yield value.values[0]
            yield from _alternatives(value.values[-1])
        case _:
            yield value


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _placeholder(node: ast.expr) -> str:
    """What a reader of the template should know an expression by."""
    match node:
        case ast.Name() | ast.Attribute():
            return _name(node)
        case ast.Call(func=ast.Attribute(attr="join")) if node.args:
            return _placeholder(node.args[0])
        case ast.Call(func=ast.Name(id="len")):
            return "count"
        case ast.Call(func=ast.Name(id="str" | "repr" | "round" | "sorted" | "map" | "max" | "min" | "next" | "shown")):
            return _placeholder(node.args[-1] if _name(node.func) == "map" else node.args[0])
        case ast.Call():
            return _name(node.func)
        case ast.GeneratorExp() | ast.ListComp():
            return _placeholder(node.generators[0].iter if isinstance(node.elt, ast.JoinedStr) else node.elt)
        case ast.Subscript() | ast.Starred():
            return _placeholder(node.value)
        case ast.IfExp():
            return _placeholder(node.body)
        case ast.BoolOp():
            return _placeholder(node.values[0])
        case ast.BinOp():
            return _placeholder(node.left)
        case ast.UnaryOp():
            return _placeholder(node.operand)
    return "value"


def catalog() -> Catalog:
    """The catalog as it should be: every message, with the translation that it has."""
    there = read_po(io.BytesIO(FILE.read_bytes()) if FILE.exists() else io.BytesIO(), locale="zh_CN", domain="dlenv")
    made = Catalog(locale="zh_CN", domain="dlenv")
    for text, files in messages().items():
        entry = there.get(text)
        flags = ["python-brace-format"] if re.search(r"(?<!\{)\{\w", text) else []
        made.add(text, entry.string if entry else "", locations=[(name, 0) for name in files], flags=flags)
    return made


def written(made: Catalog) -> bytes:
    """The file of a catalog."""
    buffer = io.BytesIO(HEADER)
    buffer.seek(0, io.SEEK_END)
    write_po(buffer, made, width=0, omit_header=True, include_lineno=False)
    return buffer.getvalue()


def main() -> None:
    """Write the file, and say what is still to be translated."""
    made = catalog()
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_bytes(written(made))
    missing = [message.id for message in made if message.id and not message.string]
    print(f"{len(made)} messages, {len(missing)} without a translation")
    for text in missing:
        print(f"  {text!r}")


if __name__ == "__main__":
    main()
