"""Takes out of a text what tells who and where the user is, and what opens doors."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["redact"]

# Addresses with a name and a password before the host.
_USER_INFO = re.compile(r"(?<=://)[^/\s'\"]*@")
# "Authorization: Bearer ...", "token=...", "api_key: ...", "--password ..."
_NAMED = re.compile(
    r"(?i)\b([\w-]*(?:token|secret|passw(?:or)?d|api[_-]?key|access[_-]?key|private[_-]?key|credential)s?[\w-]*)"
    r"(\s*[=:]\s*|\s+)(?:bearer\s+|basic\s+)?['\"]?[^\s'\",;&]+"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
# Shapes that services give their keys: GitHub, GitLab, Hugging Face, AWS, OpenAI and others, Slack, Google, PyPI, JWT.
_SHAPED = re.compile(
    r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_\w{16,}|A(?:KIA|SIA)[A-Z0-9]{16}|sk-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|AIza[\w-]{30,}|pypi-[\w-]{16,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)
_SECRET_NAME = re.compile(r"(?i)token|secret|passw|api_?key|access_?key|private_?key|credential")
_ADDRESS = re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b")
_MAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")
_GPU = re.compile(r"\b(GPU|MIG)-[0-9a-f]{8}-[0-9a-f-]{20,}")
_HOME = re.compile(r"(?i)(/home/|/Users/|[a-z]:\\Users\\|[a-z]:/Users/)[^/\\\s:'\"]+")


def redact(text: str, environ: Mapping[str, str]) -> str:
    """``text`` without the user's name, home, host, addresses, keys and passwords."""
    for value in sorted(set(_secrets(environ)), key=len, reverse=True):
        text = text.replace(value, "<secret>")
    text = _USER_INFO.sub("<user>@", text)
    text = _BEARER.sub(r"\1 <secret>", text)
    text = _NAMED.sub(r"\1\2<secret>", text)
    text = _SHAPED.sub("<secret>", text)
    for home in sorted(set(_homes(environ)), key=len, reverse=True):
        text = re.sub(rf"{re.escape(home)}(?=$|[/\\\s:'\"),;])", "~", text)
    text = _HOME.sub(r"\1<user>", text)
    text = _MAIL.sub("<address>", text)
    for name, mark in _names(environ):
        text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", mark, text)
    text = _GPU.sub(r"\1-<uuid>", text)
    return _ADDRESS.sub(lambda match: match[0] if match[0] in ("127.0.0.1", "0.0.0.0") else _address(text, match), text)  # noqa: S104


def _address(text: str, match: re.Match[str]) -> str:
    """Four numbers are an address, unless a version of NVIDIA's or a package's ("13.3.5.0", "9.10.2.21") is meant."""
    before = text[max(0, match.start() - 3) : match.start()]
    after = text[match.end() : match.end() + 1]
    return "<address>" if before.endswith(("//", "@", " ", "(")) and after in (":", "/") else match[0]


def _secrets(environ: Mapping[str, str]) -> Iterator[str]:
    """Values of variables whose names say so; short ones are words that may stand anywhere."""
    for name, value in environ.items():
        if _SECRET_NAME.search(name) and len(value) >= 6:
            yield value


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
    hosts |= {host.partition(".")[0] for host in hosts}
    for host in sorted(hosts - {"", "localhost"}, key=len, reverse=True):
        if len(host) > 1:
            yield host, "<host>"
