"""Writing a chosen package index into the user's own configuration of uv and pip, for those who ask for it."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from dlenv.catalog.mirrors import Mirror
from dlenv.errors import DataError
from dlenv.network.configured import pip_user_file, uv_user_file
from dlenv.network.http import public

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def persist(mirror: Mirror) -> list[str]:
    """Make ``mirror`` the default package index of uv and pip for this user; one sentence for each file.

    Everything else in the files stays; a file that names an index already is left as it is; what was there before
    lies beside as ``.before-dlenv``. Done twice, it changes nothing the second time. Raises ``DataError`` where a
    file can't be read or written.
    """
    if mirror.kind != "pypi" or mirror.implied or mirror.origin:
        return []
    return [_change(uv_user_file(), mirror.url, _uv), _change(pip_user_file(), mirror.url, _pip)]


def _change(path: Path, url: str, change: Callable[[str, str], str | None]) -> str:
    try:
        before = path.read_bytes().decode("utf-8") if path.exists() else ""
        if (after := change(before, url)) is None:
            return f"{path} names an index already: left as it is"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            shutil.copy2(path, path.with_name(path.name + ".before-dlenv"))
        target = path.resolve()  # a link to where somebody keeps such files stays one
        with tempfile.TemporaryDirectory(prefix=".dlenv-", dir=target.parent) as folder:
            scratch = Path(folder) / path.name
            scratch.write_bytes(after.encode("utf-8"))
            if target.exists():
                shutil.copymode(target, scratch)
            scratch.replace(target)
    except OSError as error:
        raise DataError(f"{path} can't be changed ({error.strerror}); nothing else depends on it") from None
    except (ValueError, configparser.Error) as error:
        text = " ".join(str(error).split())
        raise DataError(f"{path} is not what it should be ({text}); correct it, or add the index by hand") from None
    return f"{path}: {public(url)} is the package index now"


def _uv(text: str, url: str) -> str | None:
    settings = tomllib.loads(text)
    pip = settings.get("pip", {})
    if any(key in table for table in (settings, pip) for key in ("index", "index-url")):
        return None
    after = f"{_ended(text)}[[index]]\nurl = {json.dumps(url)}\ndefault = true\n"
    tomllib.loads(after)
    return after


def _pip(text: str, url: str) -> str | None:
    parser = configparser.RawConfigParser()
    parser.read_string(text)
    if any(parser.has_option(section, key) for section in parser.sections() for key in ("index-url", "index_url")):
        return None
    line = f"index-url = {url}\n"
    if parser.has_section("global"):
        header = re.compile(r"^\[global\][^\n]*(?:\n|\Z)", re.MULTILINE)
        return header.sub(lambda match: _ended(match[0]) + line, text, count=1)
    return f"{_ended(text)}[global]\n{line}"


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"
