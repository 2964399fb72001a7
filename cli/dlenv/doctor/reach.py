"""Which addresses answer that installing and the course need: all asked at once, 2 s for each."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from dlenv import catalog
from dlenv.doctor.bounded import Call
from dlenv.doctor.facts import Endpoint, Problem, Purpose
from dlenv.errors import UsageError
from dlenv.network import configured
from dlenv.network.http import public, reason, redacted

__all__ = ["look"]

LIMIT_S = 2.0
_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
# DATA_URL in d2l/torch.py of both lines.
_COURSE = "http://d2l-data.s3-accelerate.amazonaws.com/"
_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks5": 1080, "socks5h": 1080}


def look(environ: Mapping[str, str]) -> tuple[Endpoint, ...]:
    """Every address, with what came of asking it. An answer of any kind means that it can be reached."""
    contents = catalog.load()
    found: list[Endpoint] = []
    addresses: list[tuple[Purpose, str, str]] = []
    try:
        url, origin = _index(contents.package_index)
        if urlsplit(url).scheme in ("http", "https"):
            addresses.append(("packages", url, origin))
    except UsageError as error:
        found.append(_failed("packages", "the package index", "your configuration", "invalid", str(error)))
    addresses.append(("pytorch", contents.wheel_index.format(build="cpu") + "/torch/", "the catalog"))
    addresses.append(("course", _COURSE, "d2l"))
    proxies: list[tuple[Purpose, str, str]] = [("proxy", value, name) for name, value in _proxies(environ)]
    end = time.monotonic() + LIMIT_S + 0.5
    asked = [Call(_proxy, name, value) for _, value, name in proxies]
    asked += [Call(_ask, *address) for address in addresses]
    for (purpose, address, source), call in zip([*proxies, *addresses], asked, strict=True):
        try:
            found.append(call.result(end - time.monotonic()))
        except TimeoutError:
            found.append(_failed(purpose, address, source, "unreachable", f"no answer within {LIMIT_S:g} s"))
        except Exception as error:  # noqa: BLE001 - what one address does says nothing of the others
            found.append(_failed(purpose, address, source, "invalid", f"it can't be asked ({type(error).__name__})"))
    return tuple(found)


def _index(default: str) -> tuple[str, str]:
    """The package index that ``dlenv setup`` would take, and where that is said; raises ``UsageError``."""
    own = configured.package_index()
    return (own.url, own.origin or "your configuration") if own else (f"{default.rstrip('/')}/", "the catalog")


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
    except ValueError:  # its text may repeat a part of the password
        host = port = None
    if not host or not port:
        return _failed("proxy", value, name, "invalid", "it is no address of the form http://HOST:PORT")
    try:
        socket.create_connection((host, port), timeout=LIMIT_S).close()
    except (OSError, UnicodeError) as error:
        return _failed("proxy", value, name, "unreachable", getattr(error, "strerror", None) or "no answer")
    return Endpoint(purpose="proxy", url=public(value), source=name, ok=True, seconds=time.monotonic() - began)


def _ask(purpose: Purpose, url: str, source: str) -> Endpoint:
    import httpx

    began = time.monotonic()
    try:
        with httpx.Client(timeout=LIMIT_S, follow_redirects=False) as client:
            client.head(url)
    except ImportError:
        text = "not asked: a SOCKS proxy is set, which needs socksio (pip install socksio)"
        return _failed(purpose, url, source, "unasked", text)
    except httpx.HTTPError as error:
        text = redacted(reason(error))
        return _failed(purpose, url, source, "certificate" if "CERTIFICATE_VERIFY" in text else "unreachable", text)
    except (ssl.SSLError, OSError) as error:
        text = f"the certificates that are named can't be read ({error.strerror or type(error).__name__})"
        return _failed(purpose, url, source, "certificate", text)
    except (ValueError, httpx.InvalidURL):  # their texts repeat parts of the address, maybe of a password
        return _failed(purpose, url, source, "invalid", "a proxy in the environment is no address")
    return Endpoint(purpose=purpose, url=public(url), source=source, ok=True, seconds=time.monotonic() - began)


def _failed(purpose: Purpose, url: str, source: str, problem: Problem, detail: str) -> Endpoint:
    return Endpoint(purpose=purpose, url=public(url), source=source, ok=False, problem=problem, detail=detail)
