"""The two ways to ask a model: the Open Inference Protocol's ``infer``, and ``/predict`` for people."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import numpy as np

from dlenv.errors import DlenvError, InvalidValue, Overloaded, RequestError, TooLarge, Unavailable
from dlenv_models import images
from dlenv_service.batcher import Answer, Array
from dlenv_service.codec import BINARY_HEADER, decode, encode, load_json
from dlenv_service.http import Receive, Response, Scope, content_type, header, json_response, read_body
from dlenv_service.tensors import Signature, check_reconstructions, check_rows, rows_from_list

if TYPE_CHECKING:
    from dlenv_service.admission import Admission, Model, Models
    from dlenv_service.asgi import Service
    from dlenv_service.served import Served

__all__ = ["BINARY_LENGTH", "MEDIA_TYPES", "check_finite", "infer", "predict"]

BINARY_LENGTH = BINARY_HEADER.lower().encode()
JSON = "application/json"
BINARY = "application/octet-stream"
MEDIA_TYPES = (JSON, BINARY)  # of infer's requests
IMAGES = ("image/png", "image/jpeg", "image/webp")
# Images that may wait for a decoder; a hundred of 16 MB are all the memory that they should take.
MAX_DECODES = 100


async def infer(
    service: Admission[Models], scope: Scope, receive: Receive, model: str, version: str | None = None
) -> Response:
    """Answer ``POST /v2/models/{model}[/versions/{version}]/infer``."""
    began = time.perf_counter_ns()
    service.require_started()
    served = service.host.find(model, version)
    try:
        content_type(scope, MEDIA_TYPES)
        served.check_room()
        with service.room(scope) as take:
            body = await _body(service, scope, receive, take)
            served = service.host.find(model, version)  # it may have been replaced while the body came in
            request = decode(body, header(scope, BINARY_LENGTH), served.signature)
            answer = await _ask(service, scope, served, request.rows, request.timeout_us, request.reconstruct)
    except Exception as error:
        status = error.status if isinstance(error, DlenvError) else 500
        served.statistics.answered(status, time.perf_counter_ns() - began)
        raise
    headers, body = encode(request, answer, served.signature, str(served.version))
    served.statistics.answered(200, time.perf_counter_ns() - began)
    return Response(200, headers, body)


async def predict(service: Service, scope: Scope, receive: Receive, model: str, version: str | None = None) -> Response:
    """Answer ``POST /predict/{model}[/versions/{version}]``: an image file or JSON rows in, readable JSON out."""
    began = time.perf_counter_ns()
    service.require_started()
    served = service.host.find(model, version)
    try:
        media = content_type(scope, (*IMAGES, JSON, BINARY))
        invert, reconstruct = _wishes(scope)
        served.check_room()
        with service.room(scope) as take:
            body = await _body(service, scope, receive, take)
            served = service.host.find(model, version)
            if media == JSON:
                rows = _json_rows(body, served.signature)
            else:
                rows = await _image_row(service, body, served.signature)
                signature, served = served.signature, service.host.find(model, version)
                if served.signature != signature:  # replaced while the image was decoded, by one of another size
                    raise Unavailable(f"model {model!r} was just replaced; send the request again")
            rows = _inverted(rows, served.signature) if invert else rows
            if reconstruct:
                check_reconstructions(len(rows), served.signature)
            answer = await _ask(service, scope, served, rows, None, reconstruct)
    except Exception as error:
        status = error.status if isinstance(error, DlenvError) else 500
        served.statistics.answered(status, time.perf_counter_ns() - began)
        raise
    response = json_response(readable(served, answer))
    served.statistics.answered(200, time.perf_counter_ns() - began)
    return response


def readable(served: Served, answer: Answer) -> dict[str, object]:
    """An answer for people: for each row its class, how sure the model is, and every class's probability."""
    classes = served.manifest.classes
    predictions: list[dict[str, object]] = [
        {
            "label": classes[label],
            "index": int(label),
            "probability": row[label],
            "probabilities": dict(zip(classes, row, strict=True)),
        }
        for row, label in zip(answer.probabilities, answer.labels, strict=True)
    ]
    if answer.reconstructions is not None:
        for prediction, made in zip(predictions, answer.reconstructions, strict=True):
            prediction["reconstruction"] = made
    return {"model": served.name, "version": served.version, "predictions": predictions}


async def _body(service: Admission[Models], scope: Scope, receive: Receive, take: Callable[[int, bool], None]) -> bytes:
    settings = service.settings
    return await read_body(scope, receive, settings.max_body_bytes, settings.body_timeout_ms, take)


async def _ask(
    service: Admission[Models], scope: Scope, served: Model, rows: Array, timeout_us: int | None, reconstruct: bool
) -> Answer:
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    item = served.submit(rows, timeout_us, future, reconstruct)
    if service.tracing is not None:
        service.tracing.asked(scope, served, item)
    try:
        answer = await future
    finally:
        if item.started:
            served.statistics.waited(item.started - item.queued)
    check_finite(served, answer)
    return answer


def check_finite(served: Model, answer: Answer) -> None:
    """Refuse to answer with what is no number; JSON has no word for it.

    Raises:
        InvalidValue: names the row that the model overflows on.
    """
    if answer.finite:
        return
    good = np.isfinite(answer.probabilities).all(axis=1, keepdims=False)
    if answer.reconstructions is not None:
        good &= np.isfinite(answer.reconstructions).reshape(len(answer.labels), -1).all(1)
    if good.all():
        return
    row = int(good.argmin())
    raise InvalidValue(
        f"row {row} of input {served.signature.input!r} holds values so large that model {served.name!r} "
        "overflows; send smaller ones"
    )


def _wishes(scope: Scope) -> tuple[bool, bool]:
    """The query: ``invert``, for dark on light where the model learned light on dark, and ``reconstruct``."""
    wishes = {"invert": False, "reconstruct": False}
    for key, value in parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True):
        if key not in wishes or value not in ("true", "false"):
            raise RequestError(
                f"query {f'{key}={value}'[:60]!a} is not understood; send invert=true, reconstruct=true or nothing"
            )
        wishes[key] = value == "true"
    return wishes["invert"], wishes["reconstruct"]


def _inverted(rows: Array, signature: Signature) -> Array:
    if signature.datatype != "UINT8":
        raise InvalidValue(f"query invert is for images, which model {signature.model!r} does not take; leave it out")
    return 255 - rows


def _json_rows(body: bytes, signature: Signature) -> Array:
    document = load_json(body)
    if list(document) != ["inputs"]:
        raise RequestError('the body must be {"inputs": [row, ...]}; got the keys ' + ascii(list(document)[:5])[:100])
    inputs = document["inputs"]
    if isinstance(inputs, list) and len(inputs) > signature.max_rows:
        raise TooLarge(f"inputs has {len(inputs)} rows and one request may have {signature.max_rows}; send fewer")
    needed = f"one request may have {signature.max_rows} rows of {signature.row_size} elements"
    rows = rows_from_list(inputs, signature, signature.max_rows * signature.row_size, needed)
    if not len(rows):
        raise InvalidValue("inputs has zero rows; send at least one")
    if math.prod(rows.shape[1:]) != signature.row_size:
        raise InvalidValue(
            f"a row of inputs has {math.prod(rows.shape[1:])} elements; model {signature.model!r} takes rows of "
            f"{signature.row_size}, {signature.describe()}"
        )
    return check_rows(rows.reshape(len(rows), *signature.shape), signature)


async def _image_row(service: Service, body: bytes, signature: Signature) -> Array:
    if len(signature.shape) != 3 or signature.datatype != "UINT8":
        raise InvalidValue(
            f"model {signature.model!r} takes rows of {signature.row_size} numbers, not images; send "
            f'{{"inputs": [[...]]}} as {JSON}'
        )
    if service.decoding >= MAX_DECODES:
        raise Overloaded(f"{MAX_DECODES} images wait to be decoded; try again in 1 s", 1)
    channels, height, width = signature.shape
    service.decoding += 1
    try:
        image = await asyncio.get_running_loop().run_in_executor(
            service.decoders, images.prepare, body, channels, height, width, service.settings.max_pixels
        )
    finally:
        service.decoding -= 1
    return np.ascontiguousarray(image)[np.newaxis]
