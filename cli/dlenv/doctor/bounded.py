"""Calling what may hang."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


class Call(Generic[_T]):
    """A function that runs in a thread of its own, which dies with the process where it never returns."""

    def __init__(self, function: Callable[..., _T], *arguments: Any) -> None:
        self._result: _T | None = None
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._function, self._arguments = function, arguments
        threading.Thread(target=self._run, daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Whether the function has ended within so long."""
        return self._done.wait(max(seconds, 0))

    def result(self, seconds: float) -> _T:
        """What the function returns or raises; raises ``TimeoutError`` where it does neither for so long."""
        if not self.wait(seconds):
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # set before the event, unless the function raised

    def _run(self) -> None:
        try:
            self._result = self._function(*self._arguments)
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            self._error = error
        finally:
            self._done.set()
