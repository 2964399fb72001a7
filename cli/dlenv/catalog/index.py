"""What a package index really offers: simple pages (PEP 503 in HTML, PEP 691 in JSON) and flat listings of files."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import httpx
import msgspec
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from dlenv.errors import Unreachable
from dlenv.network.http import FAILURES, check_address, client, public, reason

_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
# PyTorch's bucket answers 403 for what does not exist, other indexes 404.
_MISSING = (403, 404, 410)
# PyPI's page of torch has 0.4 MB; whoever sends more than this is no index.
_LIMIT = 32 << 20


class Wheel(msgspec.Struct, frozen=True, kw_only=True):
    """One wheel on an index."""

    project: str  # normalized: "torch"
    version: str  # without the local part: "2.14.1"
    local: str | None  # "cu126"
    filename: str
    url: str
    sha256: str | None = None
    requires_python: str | None = None
    yanked: bool = False
    tags: frozenset[tuple[str, str, str]]  # interpreter, ABI, platform


class _Link(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    filename: str
    sha256: str | None = None
    requires_python: str | None = None
    yanked: bool = False


def page(index: str, project: str) -> str:
    """Address of a project's page on an index."""
    return f"{index.rstrip('/')}/{canonicalize_name(project)}/"


def find(index: str, project: str, *, timeout: float = 30.0, http: httpx.Client | None = None) -> tuple[Wheel, ...]:
    """The wheels of ``project``, whether ``index`` has a page for each project or is one listing of all files.

    Raises ``Unreachable`` and ``UsageError`` like ``wheels``.
    """
    own = wheels(page(index, project), project, timeout=timeout, http=http)
    return own or wheels(f"{index.rstrip('/')}/", project, timeout=timeout, http=http)


def wheels(
    url: str, project: str | None = None, *, timeout: float = 30.0, http: httpx.Client | None = None
) -> tuple[Wheel, ...]:
    """The wheels that the page ``url`` links to, of ``project`` only if it is named; none where there is no such page.

    ``timeout`` (seconds) is for the whole page; ``http`` is a client to use again. Files that are no wheels are left
    out. Raises ``Unreachable`` where nothing answers in time, or what answers is no index, ``UsageError`` where ``url``
    is no address.
    """
    check_address(url, "the package index")
    found = []
    for link in _links(url, timeout, http):
        try:
            name, version, _, tags = parse_wheel_filename(link.filename)
        except InvalidWheelFilename:
            continue
        if project is not None and name != canonicalize_name(project):
            continue
        found.append(
            Wheel(
                project=name,
                version=version.public,
                local=version.local,
                filename=link.filename,
                url=link.url,
                sha256=link.sha256,
                requires_python=link.requires_python,
                yanked=link.yanked,
                tags=frozenset((tag.interpreter, tag.abi, tag.platform) for tag in tags),
            )
        )
    return tuple(found)


def _links(url: str, timeout: float, http: httpx.Client | None) -> list[_Link]:
    with nullcontext(http) if http else client(httpx.Timeout(timeout)) as opened:
        address, content, kind = _get(url, timeout, opened)
    if kind.endswith("+json") or kind == "application/json":
        return _from_json(content, address)
    parser = _Anchors(address)
    parser.feed(content.decode("utf-8", "replace"))
    parser.close()
    return parser.links


def _get(url: str, timeout: float, http: httpx.Client) -> tuple[str, bytes, str]:
    """Where the answer came from, its body and its content type; an empty body where there is no such page."""
    deadline = time.monotonic() + timeout
    limits = httpx.Timeout(timeout, connect=min(timeout, 10.0))
    try:
        with http.stream("GET", url, headers={"Accept": _ACCEPT}, timeout=limits) as response:
            if response.status_code in _MISSING:
                return url, b"", "text/html"
            if response.status_code != httpx.codes.OK:
                raise Unreachable(f"{public(url)} answers HTTP {response.status_code}")
            body = bytearray()
            for piece in response.iter_bytes():
                body += piece
                if len(body) > _LIMIT:
                    raise Unreachable(f"{public(url)} sends more than {_LIMIT >> 20} MiB, which no index does")
                if time.monotonic() > deadline:
                    raise Unreachable(f"{public(url)} did not send its page within {timeout:g} s")
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            return str(response.url), bytes(body), kind
    except FAILURES as error:
        raise Unreachable(f"{public(url)} can't be reached ({reason(error)})") from None


def _from_json(content: bytes, address: str) -> list[_Link]:
    try:
        files = json.loads(content)["files"]
        return [_from_entry(entry, address) for entry in files]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Unreachable(f"{public(address)} is no page of a package index (PEP 691)") from None


def _from_entry(entry: dict[str, Any], address: str) -> _Link:
    return _Link(
        url=urljoin(address, str(entry["url"])),
        filename=str(entry["filename"]),
        sha256=entry.get("hashes", {}).get("sha256"),
        requires_python=entry.get("requires-python"),
        yanked=bool(entry.get("yanked")),
    )


class _Anchors(HTMLParser):
    """Collects what ``<a href>`` points to; the parser turns ``&#43;`` into ``+`` by itself."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._base = address
        self.links: list[_Link] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        href = values.get("href")
        if href is None:
            return
        try:
            if tag == "base":
                self._base = urljoin(self._base, href)
            elif tag == "a":
                self._add(href, values)
        except ValueError:  # an address that is none
            return

    def _add(self, href: str, values: dict[str, str | None]) -> None:
        url, fragment = urldefrag(urljoin(self._base, href))
        algorithm, _, digest = fragment.partition("=")
        self.links.append(
            _Link(
                url=url,
                filename=unquote(urlsplit(url).path.rpartition("/")[2]),
                sha256=digest if algorithm == "sha256" and digest else None,
                requires_python=values.get("data-requires-python") or None,
                yanked="data-yanked" in values,
            )
        )
