"""The audit log: a line for each request that changes the service, with who asked for it and what came of it.

Lines go to the log, whatever its level, and to ``--audit-log FILE`` where one is given; replicas on one machine may
share it. Values are quoted and hold printable characters only, so nobody can write a line of their own.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
from pathlib import Path

from dlenv.errors import StartError
from dlenv_service.http import Scope

__all__ = ["keep", "record"]

LONGEST = 80  # characters of a value; names of models and keys have 64 at most

log = logging.getLogger("dlenv.audit")
log.setLevel(logging.INFO)


def keep(path: Path) -> None:
    """Write the lines to a file as well, which is the owner's alone; it may be rotated meanwhile.

    Raises:
        StartError: it can't be written.
    """
    path = path.absolute()
    if any(isinstance(each, _File) and Path(each.baseFilename) == path for each in log.handlers):
        return
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        handler = _File(path, encoding="utf-8")
    except OSError as error:
        raise StartError(f"--audit-log {path} can't be written: {error.strerror}; give another file") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)


def record(caller: str, scope: Scope, status: int) -> None:
    """Note a request: ``caller`` is the key's name, or - where no key is asked for."""
    client = scope.get("client")
    log.info(
        "admin caller=%s client=%s method=%s path=%s status=%d",
        _quoted(caller),
        _quoted(client[0] if client else "-"),
        _quoted(scope["method"]),
        _quoted(scope["path"]),
        status,
    )


def _quoted(text: str) -> str:
    return ascii(text if len(text) <= LONGEST else text[: LONGEST - 3] + "...")


class _File(logging.handlers.WatchedFileHandler):
    """A file that is opened again when it was renamed or removed."""
