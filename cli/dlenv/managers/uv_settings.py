"""Which of the user's settings of uv count: how packages are reached, never which ones are taken.

uv takes settings from variables and from ``uv.toml`` files, and many of them change what a resolution comes to
(``resolution``, ``constraint-dependencies``, ``torch-backend``, ``no-sources``, ...). Those that only say how to get
there are named here, so that one which a later uv adds is left out. The lists were made from uv 0.13.9, by
https://docs.astral.sh/uv/reference/environment/ and https://docs.astral.sh/uv/reference/settings/.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlenv.network.configured import ALONE, uv_configuration

# NO_BUILD_ISOLATION concerns nothing but dlenv's own checkout, for nothing else is built.
_VARIABLES = re.compile(
    "UV_(ASTRAL_MIRROR_URL|AZURE_ENDPOINT_URL|CACHE_DIR|CONCURRENT_[A-Z_]+|CREDENTIALS_DIR|DEFAULT_INDEX|"
    "EXTRA_INDEX_URL|FIND_LINKS|GCS_ENDPOINT_URL|GITHUB_TOKEN|HTTP_[A-Z_]+|INDEX|INDEX_URL|"
    "INDEX_[A-Z0-9_]+_(USERNAME|PASSWORD)|INSECURE_HOST|KEYRING_PROVIDER|LINK_MODE|LOCK_TIMEOUT|MANAGED_PYTHON|"
    "NATIVE_TLS|NO_BUILD_ISOLATION|NO_CACHE|NO_MANAGED_PYTHON|NO_PROGRESS|OFFLINE|PYTHON_CACHE_DIR|"
    "PYTHON_DOWNLOADS(_JSON_URL)?|PYTHON_INSTALL_[A-Z]+|PYTHON_PREFERENCE|PYTHON_SEARCH_PATH|REQUEST_TIMEOUT|"
    "S3_ENDPOINT_URL|STACK_SIZE|SYSTEM_CERTS)"
)
# Beside uv's own: they lead its interpreters, or itself, into another environment.
_FOREIGN = ("CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")

_PLACES = ("extra-index-url", "find-links", "index", "index-url", "no-index")
_PIP = (*_PLACES, "keyring-provider", "link-mode")
_TOP = (
    *_PIP,
    "allow-insecure-host",
    "cache-dir",
    "concurrent-builds",
    "concurrent-downloads",
    "concurrent-installs",
    "http-proxy",
    "https-proxy",
    "native-tls",
    "no-cache",
    "no-proxy",
    "offline",
    "python-downloads",
    "python-downloads-json-url",
    "python-install-mirror",
    "python-preference",
    "system-certs",
)


def environ(extra: Mapping[str, str] = {}) -> dict[str, str]:
    """The environment that uv runs in: the user's, without what would lead it astray, and with ``extra``."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _FOREIGN and (not name.startswith("UV_") or _VARIABLES.fullmatch(name))
    }
    return {**kept, **extra}


def configuration(extra: Mapping[str, str] = {}, settings: Mapping[str, object] = {}) -> str:
    """The ``uv.toml`` to run with: ``settings``, and what counts of the user's own files.

    Where both name indexes, those of ``settings`` come first.
    """
    places = () if extra.items() >= ALONE.items() else _PLACES
    dropped = set(_PLACES) - set(places)
    merged: dict[str, Any] = dict(settings)
    pip: dict[str, Any] = {}
    for path, top in uv_configuration():
        table = top.get("pip")
        for into, file, names in ((pip, table if isinstance(table, dict) else {}, _PIP), (merged, top, _TOP)):
            kept = {name: file[name] for name in names if name in file and name not in dropped}
            _merge(into, {name: _placed(value, path) if name in _PLACES else value for name, value in kept.items()})
    lines = [f"{name} = {_toml(value)}" for name, value in merged.items()]
    if pip:
        lines += ["[pip]", *(f"{name} = {_toml(value)}" for name, value in pip.items())]
    return "\n".join(lines) + "\n"


def _merge(into: dict[str, Any], file: Mapping[str, Any]) -> None:
    """Add what ``file`` says; as in uv, lists grow, and of anything else the first one counts."""
    for name, value in file.items():
        if isinstance(into.get(name), list) and isinstance(value, list):
            into[name] = [*into[name], *value]
        else:
            into.setdefault(name, value)


def _placed(value: Any, file: Path) -> Any:
    """Addresses with the paths among them made absolute: in uv they start at the folder of the file."""
    if isinstance(value, list):
        return [_placed(each, file) for each in value]
    if isinstance(value, dict):
        return {name: _placed(each, file) if name == "url" else each for name, each in value.items()}
    return str(file.absolute().parent / value) if isinstance(value, str) and "://" not in value else value


def _toml(value: object) -> str:
    """A value of TOML; its strings are written as in JSON, whose escapes are a part of TOML's."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {_toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
