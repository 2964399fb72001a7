"""Takes out of a text what tells who and where the user is, and what opens doors."""

from __future__ import annotations

import contextlib
import getpass
import ipaddress
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote

__all__ = ["redact"]

# Addresses with a name and a password before the host; a password may hold what has to be escaped and is not ("/").
_USER_INFO = re.compile(r"(?<=://)[^\s'\"<>|]*@|(?<![\w/])[^\s:/@'\"|]+:(?!//)[^\s@'\"|]+@(?=[\w\[])")
# What follows "?" in an address: signatures and keys under any name.
_QUERY = re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://[^\s?'\"<>|]*\?)[^\s'\"<>|)]+")
# "token=...", "api_key: ...", "--password ...", "X-Amz-Signature=..."
_NAMED = re.compile(
    r"(?i)\b([\w-]*(?:token|secret|passw(?:or)?d|api[_-]?key|access[_-]?key|private[_-]?key|credential|signature)s?[\w-]*)"
    r"(\s*[=:]\s*|\s+)(?:bearer\s+|basic\s+)?['\"]?[^\s'\",;&|]+"
)
_SHORT_NAMED = re.compile(r"(?i)\b((?:[\w-]+[_-])?(?:key|sig|pwd|pass)\s*=\s*)['\"]?[^\s'\",;&|]+")
_HEADER = re.compile(r"(?i)\b((?:set-)?cookie:\s*)[^\n|]+")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
# Shapes that services give their keys: GitHub, GitLab, Hugging Face, AWS, OpenAI and others, Slack, Google, PyPI, JWT,
# SSH; and those of dlenv's own services.
_SHAPED = re.compile(
    r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_\w{16,}|A(?:KIA|SIA)[A-Z0-9]{16}|sk-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|AIza[\w-]{30,}|pypi-[\w-]{16,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
    r"|AAAA[BCE]3Nza[\w+/]{16,}={0,2}|dlenv_[\w-]{43})"
)
# Variables that hold a secret by their name; PWD alone is the current folder.
_SECRET_NAME = re.compile(r"(?i)token|secret|passw|credential|(?:api|access|private)_?key|_(?:key|pwd|pass)$|^key$")
_SHORTEST_SECRET = 6  # shorter ones are words that may stand anywhere
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?=[\da-f]*:[\da-f]*:)[\da-f:]+(?:\.[\d.]*\d)?(?:%\w+)?(?![\w:])", re.IGNORECASE)
_MAC = re.compile(r"(?i)(?<![\w:])(?:[0-9a-f]{2}:){5}[0-9a-f]{2}(?![\w:])")
# Before four numbers that are a version: a comparison, a file's name, a library's or package's of NVIDIA's.
_VERSION_OF = re.compile(
    r"(?i)(?:[=<>~!]=\s?|[<>]\s?|[_-]|\b(?:version|lib\w+|nvidia[\w-]*|cuda\w*|cudnn\w*|nccl\w*)[ :/]+)$"
)
_MAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")
_GPU = re.compile(r"\b(GPU|MIG)-[0-9a-f]{8}-[0-9a-f-]{20,}")
# A name of Windows' may hold spaces, which only what follows can tell from the end of the path.
_HOME = re.compile(
    r"(?i)([a-z]:[\\/]+Users[\\/]+|/mnt/[a-z]/Users/)(?:[^/\\:*?\"'<>|\n]+(?=[/\\])|[^/\\\s:'\"|]+)"
    r"|(/home/|/Users/)[^/\\\s:'\"|]+"
)
_SHARE = re.compile(r"(?<![\w\\:])(\\\\)[\w.-]+(?=\\\w)")
_LABELS = r"(?:\.[a-z][\w-]*)*"  # of the domain after a host's name


def redact(text: str, environ: Mapping[str, str], versions: frozenset[str] = frozenset()) -> str:
    """``text`` without the user's name, home, host, addresses, keys and passwords.

    ``versions`` are known to be such, where four numbers might be an address.
    """
    for value in sorted(set(_secrets(environ)), key=len, reverse=True):
        text = text.replace(value, "<secret>")
    text = _QUERY.sub(r"\1<secret>", text)
    text = _USER_INFO.sub("<user>@", text)
    text = _HEADER.sub(r"\1<secret>", text)
    text = _BEARER.sub(r"\1 <secret>", text)
    text = _NAMED.sub(r"\1\2<secret>", text)
    text = _SHORT_NAMED.sub(r"\1<secret>", text)
    text = _SHAPED.sub("<secret>", text)
    for home in sorted(set(_homes(environ)), key=len, reverse=True):
        text = re.sub(rf"(?i){re.escape(home)}(?=$|[/\\\s:'\"),;|])", "~", text)
    text = _HOME.sub(lambda match: f"{match[1] or match[2]}<user>", text)
    text = _SHARE.sub(r"\1<host>", text)
    text = _MAIL.sub("<address>", text)
    for name, mark in _names(environ):
        rest = _LABELS if mark == "<host>" else ""
        text = re.sub(rf"(?i)(?<![^\W_]){re.escape(name)}{rest}(?![^\W_])", mark, text)
    text = _GPU.sub(r"\1-<uuid>", text)
    text = _MAC.sub("<address>", text)
    text = _IPV6.sub(lambda match: match[0] if _says_nothing(match[0]) else "<address>", text)
    return _IPV4.sub(lambda match: match[0] if _is_version(match, versions) else "<address>", text)


def _says_nothing(value: str) -> bool:
    """Whether ``value`` is no address, or one that every machine has."""
    try:
        address = ipaddress.ip_address(value.partition("%")[0])
    except ValueError:
        return True
    return address.is_loopback or address.is_unspecified


def _is_version(match: re.Match[str], versions: frozenset[str]) -> bool:
    """Four numbers are an address, unless a version of NVIDIA's or a package's ("9.10.2.21") is meant."""
    before = match.string[max(0, match.start() - 40) : match.start()]
    return match[0] in versions or _says_nothing(match[0]) or _VERSION_OF.search(before) is not None


def _secrets(environ: Mapping[str, str]) -> Iterator[str]:
    """Values of variables whose names say so, and the passwords in addresses."""
    for name, value in environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET:
            yield value
        if match := re.search(r"://[^:\s]*:(.+)@", value):
            yield from (word for word in (match[1], unquote(match[1])) if len(word) >= _SHORTEST_SECRET)


def _homes(environ: Mapping[str, str]) -> Iterator[str]:
    for name in ("HOME", "USERPROFILE"):
        value = environ.get(name, "").rstrip("/\\")
        if len(value) > 1:
            yield value
            yield os.path.realpath(value)
    with contextlib.suppress(RuntimeError):  # no home is known
        yield str(Path.home())


def _names(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    users = {environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER")}
    with contextlib.suppress(OSError, KeyError, ImportError):  # a user without a name, as in containers
        users.add(getpass.getuser())
    # Names that say nothing of anybody, and that stand in many texts.
    for user in sorted(users - {"", "root", "user", "jovyan"}, key=len, reverse=True):
        if len(user) > 1:
            yield user, "<user>"
    hosts = {environ.get("HOSTNAME", ""), environ.get("COMPUTERNAME", ""), socket.gethostname()}
    hosts |= {part for host in hosts for part in (host.partition(".")[0], host.partition(".")[2])}
    for host in sorted(hosts - {"", "localhost"}, key=len, reverse=True):
        if len(host) > 1:
            yield host, "<host>"
