"""The package index that the user has chosen already: in the environment, or in uv's or pip's configuration.

uv reads its own configuration and never pip's; what only pip knows is handed over to it. Files and their order:
https://docs.astral.sh/uv/concepts/configuration-files/ and https://pip.pypa.io/en/stable/topics/configuration/
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlenv.catalog.mirrors import Mirror
from dlenv.network.http import check_address

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Variables which say that UV_DEFAULT_INDEX is the only package index, whatever else the user has configured: uv takes
# an empty one for one that is not set, so they have no other meaning. `managers.uv_settings` obeys them for files.
ALONE = {"UV_INDEX": "", "UV_INDEX_URL": "", "UV_EXTRA_INDEX_URL": "", "UV_FIND_LINKS": ""}


def package_index() -> Mirror | None:
    """The index that the user's environment or configuration names, or None. Files that can't be read don't count.

    Raises ``UsageError`` where what is named is no address.
    """
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        if url := os.environ.get(name):
            return _own("pypi", _address(url), name, uv=True)
    if urls := os.environ.get("UV_INDEX", "").split():
        return _own("pypi", _address(urls[0]), "UV_INDEX", uv=True, pip=True)
    for path in _uv_files():
        settings = _toml(path)
        if found := _uv_index(settings):
            url, is_default = found
            return _own("pypi", url, str(path), uv=True, pip=not is_default)
    if url := os.environ.get("PIP_INDEX_URL"):
        return _own("pypi", url, "PIP_INDEX_URL", pip=True)
    for path in _pip_files():
        if url := _pip_index(path):
            return _own("pypi", url, str(path), pip=True)
    return None


def python_downloads() -> Mirror | None:
    """Where the user has told uv to download interpreters from, or None; raises ``UsageError`` as `package_index`."""
    if url := os.environ.get("UV_PYTHON_INSTALL_MIRROR"):
        return _own("python", url, "UV_PYTHON_INSTALL_MIRROR", uv=True)
    for path in _uv_files():
        if isinstance(url := _toml(path).get("python-install-mirror"), str):
            return _own("python", url, str(path), uv=True)
    return None


def uv_configuration() -> list[tuple[Path, dict[str, Any]]]:
    """uv's own files and what they hold, those first that win over the others."""
    return [(path, settings) for path in _uv_files() if (settings := _toml(path))]


def uv_user_file() -> Path:
    """uv's configuration of this user."""
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming") / "uv" / "uv.toml"
    return _config_home() / "uv" / "uv.toml"


def pip_user_file() -> Path:
    """pip's configuration of this user."""
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming") / "pip" / "pip.ini"
    support = Path.home() / "Library" / "Application Support" / "pip"
    if sys.platform == "darwin" and support.is_dir():
        return support / "pip.conf"
    return _config_home() / "pip" / "pip.conf"


def _own(kind: Any, url: str, origin: str, *, uv: bool = False, pip: bool = False) -> Mirror:
    """``uv``, ``pip``: whether that tool knows it already."""
    check_address(url, origin)
    environ = {}
    if kind == "pypi" and not uv:
        environ["UV_DEFAULT_INDEX"] = url
    if kind == "pypi" and not pip:
        environ["PIP_INDEX_URL"] = url
    return Mirror(kind=kind, name="yours", url=url, origin=origin, environ=environ)


def _address(value: str) -> str:
    """uv's form ``name=address`` or an address alone."""
    name, equals, url = value.partition("=")
    return url if equals and ":" not in name else value


def _uv_files() -> Iterator[Path]:
    if os.environ.get("UV_NO_CONFIG", "").lower() in ("1", "true", "yes"):
        return
    if given := os.environ.get("UV_CONFIG_FILE"):
        yield Path(given)
        return
    yield uv_user_file()
    if sys.platform == "win32":
        yield Path(os.environ.get("SYSTEMDRIVE", "C:") + "\\") / "ProgramData" / "uv" / "uv.toml"
        return
    for folder in (os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"):
        yield Path(folder) / "uv" / "uv.toml"
    yield Path("/etc/uv/uv.toml")


def _toml(path: Path) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return settings


def _uv_index(settings: dict[str, Any]) -> tuple[str, bool] | None:
    """The address that uv asks, and whether it is the default one rather than one that is asked before it."""
    pip = settings.get("pip")
    for table in (pip if isinstance(pip, dict) else {}, settings):
        indexes = [entry for entry in table.get("index") or () if isinstance(entry, dict) and "url" in entry]
        for entry in indexes:
            if entry.get("default") is True:
                return str(entry["url"]), True
        if isinstance(url := table.get("index-url"), str):
            return url, True
        for entry in indexes:
            if not entry.get("explicit"):
                return str(entry["url"]), False
    return None


def _pip_files() -> Iterator[Path]:
    """pip's files, those first that win over the others."""
    given = os.environ.get("PIP_CONFIG_FILE")
    if given == os.devnull:
        return
    if given:
        yield Path(given)
    name = "pip.ini" if sys.platform == "win32" else "pip.conf"
    yield Path(sys.prefix) / name
    yield pip_user_file()
    yield Path.home() / ("pip" if sys.platform == "win32" else ".pip") / name
    if sys.platform == "win32":
        yield Path(os.environ.get("PROGRAMDATA", "C:\\ProgramData")) / "pip" / name
        return
    yield Path("/etc/pip.conf")
    if sys.platform == "darwin":
        yield Path("/Library/Application Support/pip/pip.conf")
    for folder in (os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"):
        yield Path(folder) / "pip" / name


def _pip_index(path: Path) -> str | None:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, configparser.Error):
        return None
    for section in ("install", "global"):  # a command's own section wins
        for key in ("index-url", "index_url"):
            if url := parser.get(section, key, fallback="").strip():
                return url
    return None


def _config_home() -> Path:
    given = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return given if given.is_absolute() else Path.home() / ".config"
