"""What is logged, and in which form: text for people, or one JSON object a line (``--log-format json``).

A replica is a process of Ray's, whose output goes to files in Ray's own directory. On a Ray of our own its lines take
a pipe to ``dlenv serve`` instead, which writes them where it writes its own. A line that finds the pipe full is
dropped: a service waits for nobody who reads its log.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from dlenv_service import request_id
from dlenv_service.config import Settings

__all__ = ["JsonFormatter", "TextFormatter", "forwarded", "set_up", "set_up_replica"]

PIPE = "log"
# POSIX's PIPE_BUF is 512 at least and 4,096 on Linux: what is no longer is written whole.
LONGEST = 512 if sys.platform != "linux" else 4096


class TextFormatter(logging.Formatter):
    """Time, level, logger, message, and the request's id where there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:  # noqa: D102 - logging's
        request = request_id.current.get()
        text = super().format(record)
        if request is None:
            return text
        head, newline, rest = text.partition("\n")
        return f"{head} [request {request}]{newline}{rest}"


class JsonFormatter(logging.Formatter):
    """One object a line: ``time`` (UTC, RFC 3339), ``level``, ``logger``, ``message``, ``process``; where there are
    such, ``request_id`` and ``exception`` (the traceback's text).
    """

    def format(self, record: logging.LogRecord) -> str:  # noqa: D102 - logging's
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        if (request := request_id.current.get()) is not None:
            line["request_id"] = request
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def formatter(settings: Settings) -> logging.Formatter:
    """The one that the settings name."""
    return JsonFormatter() if settings.log_format == "json" else TextFormatter()


def set_up(settings: Settings) -> None:
    """Log to standard error, for the process that the user started."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(settings))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    logging.getLogger("httpx").setLevel("WARNING")  # it would log our own question whether the service is up


def set_up_replica(settings: Settings) -> None:
    """Log to the pipe of the ``dlenv serve`` that started this replica; where there is none, to standard error."""
    files = os.environ.get("RAY_TMPDIR")
    pipe = Path(files).parent / PIPE if files else None
    handler: logging.Handler
    if pipe is not None and pipe.is_fifo():
        handler = _PipeHandler(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    else:
        handler = logging.StreamHandler()
    handler.setFormatter(formatter(settings))
    logger = logging.getLogger("dlenv")
    logger.addHandler(handler)
    logger.setLevel(settings.log_level.upper())
    logger.propagate = False


class _PipeHandler(logging.Handler):
    """Writes lines to a pipe; cuts those that would not go through it whole."""

    def __init__(self, pipe: int) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record).encode(errors="replace")
        if len(line) >= LONGEST and isinstance(self.formatter, JsonFormatter):
            # Cut text would be no JSON. The end of a traceback says what happened.
            short = json.loads(line)
            room = LONGEST // 10  # two texts of characters that take four bytes at most
            for key in ("message", "exception"):
                if key in short:
                    short[key] = short[key][-room:]
            line = json.dumps({**short, "cut": True}, ensure_ascii=False).encode(errors="replace")
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._pipe, line[: LONGEST - 1] + b"\n")


@contextlib.contextmanager
def forwarded(directory: Path) -> Iterator[None]:
    """Write what replicas log to standard error, until the end of the block.

    Args:
        directory: of this run, which Ray's own lies in.
    """
    if not hasattr(os, "mkfifo"):  # Windows
        yield
        return
    path = directory / PIPE
    os.mkfifo(path, stat.S_IRUSR | stat.S_IWUSR)
    # Open for both, so that it neither waits for a first writer nor ends with the last one.
    with open(os.open(path, os.O_RDWR), "rb", buffering=0) as pipe:  # noqa: PTH123 - a descriptor
        reader = threading.Thread(target=_copy, args=(pipe.fileno(),), name="dlenv-log", daemon=True)
        reader.start()
        try:
            yield
        finally:
            os.write(pipe.fileno(), b"\0")  # the end
            reader.join(1)


def _copy(pipe: int) -> None:
    while True:
        data = os.read(pipe, 1 << 16)
        end = data.endswith(b"\0")
        sys.stderr.write(data.removesuffix(b"\0").decode(errors="replace"))
        sys.stderr.flush()
        if end:
            return
