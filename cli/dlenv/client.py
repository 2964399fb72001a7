"""A client of the service that repeats what can be repeated: asking a model changes nothing.

A replica that is replaced, a proxy that starts again or a queue that is full for a moment cost the caller time, not
the answer::

    from dlenv.client import Client

    with Client("http://127.0.0.1:8000") as client:
        client.predict("mnist-lenet", Path("seven.png").read_bytes())["predictions"][0]["label"]

What is repeated: requests that nobody answered (refused, cut off, no answer in time), 429 and 503, and the 500, 502 and
504 that a proxy says for a service behind it. What is not: what the service itself says of the request. Pauses grow
and are drawn at random, so that clients which failed together don't come back together ("full jitter": M. Brooker,
Exponential Backoff And Jitter, aws.amazon.com/blogs/architecture, 2015); ``Retry-After`` makes them longer.
"""

from __future__ import annotations

import json
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import httpx

from dlenv.credentials import bearer
from dlenv.errors import DataError, Overloaded, RequestError, Unauthorized, Unavailable, Unreachable
from dlenv.network.http import public, reason

__all__ = ["Client"]

DEADLINE_S = 30.0
# A service answers within 10 s unless it is told otherwise (--deadline-ms), if only with 504.
ATTEMPT_S = 15.0
FIRST_PAUSE_S = 0.1  # the most before the second try; then twice as much each time
LONGEST_PAUSE_S = 2.0
MOST_BYTES = 256 * 1024**2  # of an answer

IMAGES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
JSON = "application/json"
BYTES = "application/octet-stream"
# Said by proxies too (HAProxy under Ray turns all of its own into 500), where the service behind is being replaced.
OF_PROXIES = frozenset((500, 502, 503, 504))
LATER = frozenset((Overloaded.status, Unavailable.status))
# Errors whose constructors take no more than the text.
BY_STATUS: Mapping[int, type[RequestError]] = {
    each.status: each
    for each in RequestError.__subclasses__()
    if each.__init__ is RequestError.__init__ or each is Unauthorized
}


class Client:
    """A service at ``url``; may be used by several threads at once.

    Args:
        url: such as ``http://127.0.0.1:8000``.
        key: API key, where the service asks for one.
        deadline_s: seconds for a whole call, pauses and repetitions included.
        attempt_s: seconds for one try, after which the request is sent again, on another connection.
        on_retry: told why before each repetition.

    Raises:
        UsageError: the key can't be one.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        deadline_s: float = DEADLINE_S,
        attempt_s: float = ATTEMPT_S,
        on_retry: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.url = url.rstrip("/")
        self.deadline_s = deadline_s
        self.attempt_s = attempt_s
        self._on_retry = on_retry
        try:
            # No proxy from the environment stands between this machine and itself.
            here = httpx.URL(url).host in ("127.0.0.1", "::1", "localhost")
        except httpx.InvalidURL as error:
            raise self._unreachable(self.url, str(error)) from None
        self._http = httpx.Client(trust_env=not here, headers=bearer(key))

    def predict(
        self,
        model: str,
        content: bytes | Sequence[Any] | Mapping[str, Any],
        *,
        version: int | None = None,
        reconstruct: bool = False,
    ) -> dict[str, Any]:
        """Ask for predictions to read: ``{"model", "version", "predictions": [{"label", "probability", ...}]}``.

        Args:
            model: its name.
            content: an image file's bytes (PNG, JPEG, WebP); rows, or the whole JSON object that the service takes.
            version: of the model; its newest one where None.
            reconstruct: each prediction has a "reconstruction", too; only models that learned without labels first
                give any.

        Raises:
            RequestError: the service refuses; the leaf of :mod:`dlenv.errors` that has the answer's status.
            Unreachable: no answer within the deadline.
            DataError: an answer, but not dlenv's.
        """
        path = f"/predict/{model}" + (f"/versions/{version}" if version else "")
        path += "?reconstruct=true" if reconstruct else ""
        if isinstance(content, bytes):
            media = next((kind for start, kind in IMAGES.items() if content.startswith(start)), BYTES)
            return self._ask(path, content, media, "predictions")
        document = content if isinstance(content, Mapping) else {"inputs": content}
        return self._ask(path, _json(document), JSON, "predictions")

    def infer(self, model: str, request: Mapping[str, Any], *, version: int | None = None) -> dict[str, Any]:
        """Ask by the Open Inference Protocol, in JSON; arguments and errors are :meth:`predict`'s."""
        path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"
        return self._ask(path, _json(request), JSON, "outputs")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, path: str, body: bytes, media: str, wanted: str) -> dict[str, Any]:
        """The answer's JSON object, in which ``wanted`` is a list."""
        address = self.url + path
        until = time.monotonic() + self.deadline_s
        told: RequestError | DataError | None = None  # what the service said last
        for pause in _pauses():
            after = 0.0
            try:
                status, headers, content = self._try(address, body, media, until)
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
                failure: Exception = self._unreachable(address, reason(error))
                if not _may_pass(error):
                    raise failure from None
                if told is not None and time.monotonic() >= until:  # it says more than that time was up
                    raise told from None
            else:
                answer = _object(content)
                if 200 <= status < 300 and isinstance(answer.get(wanted), list):
                    return answer
                failure = told = _refusal(address, status, headers, answer)
                of_proxy = status in OF_PROXIES and isinstance(failure, DataError)
                if status not in LATER and not of_proxy:
                    raise failure
                after = _seconds(headers.get("retry-after", ""))
            if time.monotonic() + pause + after >= until:
                raise failure
            self._on_retry(str(failure))
            time.sleep(pause + after)
        raise AssertionError("pauses never end")

    def _try(self, address: str, body: bytes, media: str, until: float) -> tuple[int, httpx.Headers, bytes]:
        end = min(until, time.monotonic() + self.attempt_s)
        timeout = max(0.001, end - time.monotonic())
        headers = {"Content-Type": media}
        with self._http.stream("POST", address, content=body, headers=headers, timeout=timeout) as response:
            content = bytearray()
            for part in response.iter_bytes():
                content += part
                if time.monotonic() > end or len(content) > MOST_BYTES:  # httpx's limit is for each part
                    raise httpx.ReadTimeout("the answer goes on and on")
            return response.status_code, response.headers, bytes(content)

    @staticmethod
    def _unreachable(address: str, why: str) -> Unreachable:
        return Unreachable(f"{public(address)} can't be asked ({why}); start `dlenv serve` there")


def _pauses() -> Iterator[float]:
    longest = FIRST_PAUSE_S
    while True:
        yield random.uniform(0, longest)  # noqa: S311 - spreads clients; nobody gains from guessing it
        longest = min(2 * longest, LONGEST_PAUSE_S)


def _may_pass(error: Exception) -> bool:
    """Whether another try may do better: not where the address, its name or its certificate is wrong."""
    if not isinstance(error, httpx.TransportError) or isinstance(error, httpx.UnsupportedProtocol | httpx.ProxyError):
        return False
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError | socket.gaierror):
            return False
        cause = cause.__cause__ or cause.__context__
    return True


def _json(value: Mapping[str, Any]) -> bytes:
    # Not httpx's json=, which fails at half a surrogate pair.
    return json.dumps(value, allow_nan=False).encode()


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _refusal(address: str, status: int, headers: httpx.Headers, answer: Mapping[str, Any]) -> RequestError | DataError:
    text = answer.get("error")
    if not isinstance(text, str) or status < 400:
        return DataError(f"{public(address)} answered with status {status}, but not as dlenv does; what runs there?")
    if status == Overloaded.status:
        return Overloaded(text, int(_seconds(headers.get("retry-after", ""))))
    return BY_STATUS.get(status, RequestError)(text)


def _seconds(retry_after: str) -> float:
    """What ``Retry-After`` asks for; 0 where it is a date, which dlenv doesn't send, or nonsense."""
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 10 else 0.0
