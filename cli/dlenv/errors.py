"""Every error that dlenv raises on purpose.

Each leaf is tied to the HTTP status that the service answers with and to the exit code of the command line.
The text is one sentence for the user: what is wrong, which value, and what to do about it. It never holds
internals (paths of the service, stack traces, class names).

::

    DlenvError                    500   1   the root: ``except DlenvError`` catches everything below
    ├── UsageError                400   2   a command was called with something it can't take
    ├── MissingExtra              500   1   a package that this command needs is not installed
    ├── DataError                 500   1   a dataset is damaged, empty or of the wrong kind
    │   ├── ArchiveRefused        500   1   an archive holds what must not be unpacked
    │   └── Unreachable           503   1   no mirror of a download answered
    ├── SetupError                500   1   an environment can't be planned or built
    │   └── ProofFailed           500   1   an environment was built and does not work
    ├── NoEnvironment             500   1   there is no environment of dlenv's where one is needed
    ├── RepositoryError           500   1   the model repository can't be read or written
    │   ├── ModelInvalid          400   1   a model in the repository is damaged or refused
    │   └── ModelNotFound         404   1   no such model, or no such version of it
    ├── StartError                500   1   the service can't start (port taken, Ray not usable, ...)
    │   └── KeysInvalid           500   1   the file of API keys can't be read, written or used
    ├── BenchError                500   1   a service can't be measured (not reached, no inference service, ...)
    └── RequestError              400   1   an HTTP request that can't be answered
        ├── Unauthorized          401   1   no API key, or one that is not known
        ├── Forbidden             403   1   a key without the scope, or another web page that asks for a change
        ├── NotFound              404   1   no such path
        ├── MethodNotAllowed      405   1   the path exists, but not for this method
        ├── BodyTimeout           408   1   the body came too slowly
        ├── TooLarge              413   1   body, image or row count over the limit
        ├── UnsupportedType       415   1   a content type or file format that is not understood
        ├── InvalidValue          422   1   well-formed, but not what the model takes
        ├── Overloaded            429   1   the queue is full; carries ``retry_after`` (seconds)
        ├── HeadTooLarge          431   1   the head of a request goes on and on
        ├── ModelFailed           500   1   the model raised an error on a batch
        ├── Unavailable           503   1   not ready yet, or draining
        └── DeadlineExceeded      504   1   not answered within the deadline
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ArchiveRefused",
    "BenchError",
    "BodyTimeout",
    "DataError",
    "DeadlineExceeded",
    "DlenvError",
    "Forbidden",
    "HeadTooLarge",
    "InvalidValue",
    "KeysInvalid",
    "MethodNotAllowed",
    "MissingExtra",
    "ModelFailed",
    "ModelInvalid",
    "ModelNotFound",
    "NoEnvironment",
    "NotFound",
    "Overloaded",
    "ProofFailed",
    "RepositoryError",
    "RequestError",
    "SetupError",
    "StartError",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
    "UnsupportedType",
    "UsageError",
]


class DlenvError(Exception):
    """Something that dlenv can explain; its text is shown to the user as it is."""

    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1


class UsageError(DlenvError):
    """A command or a configuration holds a value that can't be used."""

    status = 400
    exit_code = 2


class MissingExtra(DlenvError):
    """A package is missing that this command needs; the text names the command that installs it."""


class DataError(DlenvError):
    """A dataset is damaged, empty or of the wrong kind."""


class ArchiveRefused(DataError):
    """An archive holds what must not be unpacked: a path that escapes, a link, far more than it should."""


class Unreachable(DataError):
    """None of the addresses of a download gave it; ``wrong`` names those that gave something else.

    ``failures`` holds each address that was asked, and why it did not give it.
    """

    status = 503

    def __init__(self, message: str, wrong: tuple[str, ...] = (), failures: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.wrong = wrong
        self.failures = failures


class SetupError(DlenvError):
    """An environment can't be planned or built; the old one, if any, is as it was."""


class ProofFailed(SetupError):
    """An environment was built, and what was run in it failed; the old one, if any, is as it was."""


class NoEnvironment(DlenvError):
    """There is no environment of dlenv's where one is needed."""


class RepositoryError(DlenvError):
    """The model repository can't be read or written."""


class ModelInvalid(RepositoryError):
    """A model in the repository is damaged or refused; the text says why."""

    status = 400


class ModelNotFound(RepositoryError):
    """No such model, or no such version of it."""

    status = 404


class StartError(DlenvError):
    """The service can't start."""


class KeysInvalid(StartError):
    """The file of API keys can't be read, written or used."""


class BenchError(DlenvError):
    """A service can't be measured: it can't be reached, or does not speak the protocol."""


class RequestError(DlenvError):
    """An HTTP request that can't be read."""

    status = 400


class Unauthorized(RequestError):
    """No API key, or one that is not known; ``reason`` is a code of RFC 6750, section 3.1, where a key was sent."""

    status = 401

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class Forbidden(RequestError):
    """The key lacks the scope; or another web page, in a browser on this machine, asked for a change."""

    status = 403


class NotFound(RequestError):
    """No such path."""

    status = 404


class MethodNotAllowed(RequestError):
    """The path exists, but not for this method; ``allow`` lists those that it has."""

    status = 405

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class BodyTimeout(RequestError):
    """The body did not arrive within the time limit."""

    status = 408


class TooLarge(RequestError):
    """Body, image or row count over the limit."""

    status = 413


class UnsupportedType(RequestError):
    """A content type or file format that is not understood."""

    status = 415


class HeadTooLarge(RequestError):
    """The request line and headers take too much."""

    status = 431


class InvalidValue(RequestError):
    """Well-formed, but not what the model takes (name, datatype, shape, value)."""

    status = 422


class Overloaded(RequestError):
    """The queue is full; try again after ``retry_after`` seconds."""

    status = 429

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelFailed(RequestError):
    """The model raised an error on the batch that the request was in."""

    status = 500


class Unavailable(RequestError):
    """Not ready yet, or draining."""

    status = 503


class DeadlineExceeded(RequestError):
    """Not answered within the deadline."""

    status = 504
