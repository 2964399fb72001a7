"""An Open Inference Protocol v2 service, as far as a measurement needs it: its models, and requests with their answers.

Sources: github.com/kserve/open-inference-protocol (``inference_rest.md``), and Triton's extensions for the model
repository and for binary tensors (github.com/triton-inference-server/server, ``docs/protocol``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from dlenv.bench.inputs import bodies, row_bytes
from dlenv.bench.target import Request
from dlenv.credentials import bearer
from dlenv.errors import BenchError, ModelNotFound, UsageError

_HEADER = "Inference-Header-Content-Length"
_RAW = ((_HEADER, "0"), ("Content-Type", "application/octet-stream"))  # nothing but the input's bytes
_DISTINCT = 16  # requests that differ, so that an answer that belongs to another request is noticed
_MEMORY = 64 << 20  # bytes of all of them together
_INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")


class Tensor(msgspec.Struct, frozen=True):
    """An input or output as the metadata describes it."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Model(msgspec.Struct, frozen=True):
    """A model's metadata."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class _Entry(msgspec.Struct, frozen=True):
    name: str
    state: str = "READY"  # optional in the protocol's extension


class _Output(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    parameters: dict[str, Any] = {}


class _Answer(msgspec.Struct, frozen=True):
    outputs: tuple[_Output, ...]


class Service:
    """Questions to the service at ``url``; every method raises ``BenchError`` where it can't be had or understood."""

    def __init__(self, url: str, key_file: Path | None = None, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._credentials = tuple(bearer(_key(key_file) if key_file else key).items())
        try:
            usable = httpx.URL(self.url).scheme in ("http", "https") and httpx.URL(self.url).host
        except httpx.InvalidURL:
            usable = False
        if not usable:
            raise UsageError(f"{url!r} is not an http or https URL; give one such as http://127.0.0.1:8000")

    def ready_models(self) -> list[str]:
        """The names of the models that answer, in the service's order."""
        content = self._ask("POST", "/v2/repository/index", b"{}")
        try:
            entries = msgspec.json.decode(content, type=list[_Entry])
        except msgspec.DecodeError:
            raise self._not_a_service() from None
        return list(dict.fromkeys(entry.name for entry in entries if entry.state == "READY"))

    def model(self, name: str | None) -> Model:
        """The named model, or the first that is ready.

        Raises:
            ModelNotFound: it is not there; the text names those that are.
        """
        if name is None:
            ready = self.ready_models()
            if not ready:
                raise ModelNotFound(f"{self.url} has no model that is ready; load one")
            name = ready[0]
        try:
            content = self._ask("GET", f"/v2/models/{quote(name, safe='')}")
        except _Refused as error:
            if error.status_code not in (400, 404):  # Triton answers 400
                raise
            raise ModelNotFound(
                f"{self.url} has no model {name!r}; it has {', '.join(self.ready_models()) or 'none that is ready'}"
            ) from None
        try:
            return msgspec.json.decode(content, type=Model)
        except msgspec.DecodeError:
            raise self._not_a_service() from None

    def infer_url(self, model: Model) -> str:
        """Where a model is asked."""
        return f"{self.url}/v2/models/{quote(model.name, safe='')}/infer"

    def requests(self, model: Model, rows: int) -> tuple[Request, ...]:
        """Different requests of ``rows`` rows, which have each been asked once: later answers must give these labels.

        Where the model has no output of integers, answers are only expected to be there.
        """
        if len(model.inputs) != 1:
            raise BenchError(
                f"model {model.name!r} takes {len(model.inputs)} inputs; only models with one can be asked"
            )
        shape = model.inputs[0].shape
        if not shape or shape[0] not in (-1, rows):
            raise BenchError(
                f"model {model.name!r} takes {list(shape)}, which is not any number of rows; give it --rows"
            )
        row, datatype = shape[1:], model.inputs[0].datatype
        count = max(1, min(_DISTINCT, _MEMORY // max(1, row_bytes(datatype, row) * rows)))
        headers = (*_RAW, *self._credentials)
        return tuple(
            Request(body=body, headers=headers, expect=self._label(model, body))
            for body in bodies(datatype, row, rows, count)
        )

    def _label(self, model: Model, body: bytes) -> bytes:
        """The bytes of the first output of integers in the answer to ``body``."""
        response = self._send("POST", self.infer_url(model), body, dict(_RAW))
        length = response.headers.get(_HEADER, "")
        try:
            head = msgspec.json.decode(response.content[: int(length)], type=_Answer)
            at = int(length)
            for output in head.outputs:
                size = int(output.parameters["binary_data_size"])
                if output.datatype in _INTEGERS:
                    return response.content[at : at + size]
                at += size
        except (ValueError, KeyError, TypeError, msgspec.DecodeError):
            raise BenchError(
                f"{self.url} does not answer binary requests (the extension binary_tensor_data); it can't be measured"
            ) from None
        return b""

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        return self._send(method, self.url + path, body, {"Content-Type": "application/json"} if body else {}).content

    def _send(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> httpx.Response:
        try:
            # The proxy of the environment is for the outside; what is measured is the way that the load takes.
            with httpx.Client(trust_env=False, timeout=60) as client:
                response = client.request(method, url, content=body, headers={**dict(self._credentials), **headers})
        except httpx.HTTPError as error:
            raise BenchError(
                f"{self.url} can't be reached ({str(error).lower() or type(error).__name__}); is the service running?"
            ) from None
        if response.status_code != 200:
            raise _Refused(self.url, response)
        return response

    def _not_a_service(self) -> BenchError:
        return BenchError(f"{self.url} is not an inference service (Open Inference Protocol v2); check the address")


class _Refused(BenchError):
    """The service answered with another status than 200."""

    def __init__(self, url: str, response: httpx.Response) -> None:
        self.status_code = response.status_code
        try:
            text = str(msgspec.json.decode(response.content)["error"])[:300]
        except (msgspec.DecodeError, KeyError, TypeError):
            text = "is it an inference service (Open Inference Protocol v2)?"
        super().__init__(f"{url} answered {response.request.url.path} with status {response.status_code}: {text}")


def _key(path: Path) -> str:
    try:
        key = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise UsageError(f"--api-key-file {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        key = ""
    if not key or not all("!" <= char <= "~" for char in key):
        raise UsageError(f"--api-key-file {path} holds no key; write it there as one line of letters and digits")
    return key
