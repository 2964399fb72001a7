"""Which addresses answer that installing and the course need: all asked at once, 2 s for each."""

from __future__ import annotations

import configparser
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from dlenv.doctor.bounded import Call
from dlenv.doctor.facts import Endpoint, Problem, Purpose

__all__ = ["look"]

LIMIT_S = 2.0
_INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
# DATA_URL in d2l/torch.py of both lines.
_COURSE = "http://d2l-data.s3-accelerate.amazonaws.com/"
_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks5": 1080, "socks5h": 1080}


def look(env: Path | None, environ: Mapping[str, str]) -> tuple[Endpoint, ...]:
    """Every address, with what came of asking it. An answer of any kind means that it can be reached."""
    from dlenv import catalog

    contents = catalog.load()
    asked = [Call(_proxy, name, value) for name, value in _proxies(environ)]
    addresses: list[tuple[Purpose, str, str]] = [
        ("packages", url, source) for url, source in _indexes(env, environ, contents.package_index)
    ]
    addresses.append(("pytorch", contents.wheel_index.format(build="cpu") + "/torch/", "the catalog"))
    addresses.append(("course", _COURSE, "d2l"))
    end = time.monotonic() + LIMIT_S + 0.5
    asked += [Call(_ask, *address) for address in addresses]
    proxies: list[tuple[Purpose, str, str]] = [("proxy", _shown(value), name) for name, value in _proxies(environ)]
    found = []
    for (purpose, url, source), call in zip([*proxies, *addresses], asked, strict=True):
        try:
            found.append(call.result(end - time.monotonic()))
        except TimeoutError:
            text = f"no answer within {LIMIT_S:g} s"
            url = _shown(url)
            found.append(
                Endpoint(purpose=purpose, url=url, source=source, ok=False, problem="unreachable", detail=text)
            )
    return tuple(found)


def _indexes(env: Path | None, environ: Mapping[str, str], default: str) -> Iterator[tuple[str, str]]:
    """The package indexes that uv and pip are set to, each with where that is said; else the official one."""
    found = {environ[name]: name for name in _INDEX_VARIABLES if environ.get(name)}
    for file in _pip_files(env, environ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
            url = parser.get("global", "index-url", fallback=None) or parser.get("install", "index-url", fallback=None)
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue
        if url:
            found.setdefault(url, str(file))
    if not found:
        found[f"{default.rstrip('/')}/"] = "the catalog"
    for url, source in found.items():
        if urlsplit(url).scheme in ("http", "https"):
            yield url, source


def _pip_files(env: Path | None, environ: Mapping[str, str]) -> Iterator[Path]:
    """Where pip looks for its configuration (https://pip.pypa.io/en/stable/topics/configuration/)."""
    if given := environ.get("PIP_CONFIG_FILE"):
        yield Path(given)
    if env is not None:
        yield env / "pip.conf"
    home = environ.get("HOME")
    if home:
        yield Path(home, ".config", "pip", "pip.conf")
        yield Path(home, ".pip", "pip.conf")
    if appdata := environ.get("APPDATA"):
        yield Path(appdata, "pip", "pip.ini")
    yield Path("/etc/pip.conf")


def _proxies(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for upper in _PROXY_VARIABLES:
        for name in (upper, upper.lower()):
            if value := environ.get(name, "").strip():
                yield name, value


def _proxy(name: str, value: str) -> Endpoint:
    began = time.monotonic()
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
        if not host or not port:
            raise ValueError("it is no address of the form http://HOST:PORT")
        socket.create_connection((host, port), timeout=LIMIT_S).close()
    except ValueError as error:
        return _failed("proxy", _shown(value), name, "invalid", str(error))
    except OSError as error:
        return _failed("proxy", _shown(value), name, "unreachable", error.strerror or str(error) or "no answer")
    return Endpoint(purpose="proxy", url=_shown(value), source=name, ok=True, seconds=time.monotonic() - began)


def _ask(purpose: Purpose, url: str, source: str) -> Endpoint:
    import httpx

    began = time.monotonic()
    try:
        with httpx.Client(timeout=LIMIT_S, follow_redirects=False) as client:
            client.head(url)
    except httpx.HTTPError as error:
        problem: Problem = "certificate" if "CERTIFICATE_VERIFY_FAILED" in str(error) else "unreachable"
        return _failed(purpose, _shown(url), source, problem, str(error) or type(error).__name__)
    except (ssl.SSLError, OSError) as error:  # a file of certificates that can't be read
        return _failed(purpose, _shown(url), source, "certificate", error.strerror or str(error))
    except (ValueError, ImportError, httpx.InvalidURL) as error:  # a proxy of a kind that httpx does not know
        return _failed(purpose, _shown(url), source, "invalid", str(error))
    return Endpoint(purpose=purpose, url=_shown(url), source=source, ok=True, seconds=time.monotonic() - began)


def _failed(purpose: Purpose, url: str, source: str, problem: Problem, detail: str) -> Endpoint:
    return Endpoint(purpose=purpose, url=url, source=source, ok=False, problem=problem, detail=detail)


def _shown(url: str) -> str:
    """An address without user name and password."""
    scheme, mark, rest = url.partition("://")
    place, slash, path = (rest if mark else scheme).partition("/")
    return f"{scheme + mark if mark else ''}{place.rpartition('@')[2]}{slash}{path}"
