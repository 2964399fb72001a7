"""The service's interface as an OpenAPI 3.1 document.

Written by hand beside the table of routes: the handlers take no framework's annotations to make it from, and a test
holds the two together (each route is here, and nothing else is).
"""

from __future__ import annotations

from typing import Any

from dlenv import __version__
from dlenv_service.access import entry

__all__ = ["document"]

_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string", "examples": ["input"]},
        "shape": {"type": "array", "items": {"type": "integer"}, "examples": [[1, 1, 28, 28]]},
        "datatype": {"enum": ["UINT8", "FP32", "INT64"]},
        "parameters": {"type": "object"},
        "data": {"type": "array", "description": "Numbers, flat or nested, row-major."},
    },
}
_SCHEMAS: dict[str, Any] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string", "description": "What is wrong, which value, what to do."}},
    },
    "Tensor": _TENSOR,
    "InferRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string", "description": "Echoed in the answer."},
            "parameters": {
                "type": "object",
                "properties": {
                    "binary_data_output": {"type": "boolean", "description": "All outputs as binary."},
                    "timeout": {"type": "integer", "description": "Deadline in microseconds; lowers the service's."},
                },
            },
            "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}, "minItems": 1},
            "outputs": {
                "type": "array",
                "description": "By default probabilities and label; a model that has a reconstruction gives it to "
                "requests that name it.",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"enum": ["probabilities", "label", "reconstruction"]},
                        "parameters": {"type": "object", "properties": {"binary_data": {"type": "boolean"}}},
                    },
                },
            },
        },
    },
    "InferResponse": {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        },
    },
    "Rows": {
        "type": "object",
        "required": ["inputs"],
        "properties": {"inputs": {"type": "array", "description": "Rows, each of the model's shape or flat."}},
    },
    "Predictions": {
        "type": "object",
        "required": ["model", "version", "predictions"],
        "properties": {
            "model": {"type": "string"},
            "version": {"type": "integer"},
            "predictions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "label": {"type": "string"},
                        "index": {"type": "integer"},
                        "probability": {"type": "number"},
                        "probabilities": {"type": "object", "additionalProperties": {"type": "number"}},
                        "reconstruction": {"type": "array", "description": "With `reconstruct=true`."},
                    },
                },
            },
        },
    },
    "RepositoryIndex": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "version": {"type": "string"},
                "state": {"enum": ["READY", "UNAVAILABLE"]},
                "reason": {"type": "string"},
            },
        },
    },
}

_SCHEME = {"type": "http", "scheme": "bearer", "description": "An API key, made by `dlenv keys add`."}
_USED_UP = "The key has used up its requests per second; `Retry-After` says when to try again."

_REASONS = {
    400: "The request can't be read.",
    401: "No API key, or one that is not known.",
    403: "The key lacks the scope.",
    404: "No such model, version or path.",
    408: "The body came too slowly.",
    413: "Body, image or row count over the limit.",
    415: "Content type or file format that is not understood.",
    422: "Well-formed, but not what the model takes.",
    429: "The queue is full; `Retry-After` says when to try again.",
    503: "Not ready, or stopping.",
    504: "Not answered within the deadline.",
}
_ASKING = (400, 404, 408, 413, 415, 422, 429, 503, 504)

_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _operation(
    tag: str,
    summary: str,
    *,
    answer: dict[str, Any] | None = None,
    body: dict[str, Any] | None = None,
    required: bool = True,
    errors: tuple[int, ...] = (),
    detail: str = "",
) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": "Done."}}
    if answer:
        responses["200"]["content"] = answer
    for status in errors:
        responses[str(status)] = {"description": _REASONS[status], "content": _json(_ref("Error"))}
    operation: dict[str, Any] = {"tags": [tag], "summary": summary, "responses": responses}
    if detail:
        operation["description"] = detail
    if body:
        operation["requestBody"] = {"required": required, "content": body}
    return operation


_OBJECT = _json({"type": "object"})
_INFER = _operation(
    "Inference",
    "Ask a model (Open Inference Protocol v2)",
    body={**_json(_ref("InferRequest")), **_BINARY},
    answer={**_json(_ref("InferResponse")), **_BINARY},
    errors=_ASKING,
    detail="With the header `Inference-Header-Content-Length`, the body is that many bytes of JSON and then the raw "
    "tensors (Triton's `binary_tensor_data`). With `Inference-Header-Content-Length: 0` it is nothing but the input "
    "tensor, any whole number of rows.",
)
_PREDICT = _operation(
    "Inference",
    "Ask a model about an image file or JSON rows",
    body={
        **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/png", "image/jpeg")},
        "image/webp": {"schema": {"type": "string", "format": "binary"}},
        **_json(_ref("Rows")),
    },
    answer=_json(_ref("Predictions")),
    errors=_ASKING,
    detail="The image is brought to the model's size and channels. The shipped models learned light on dark: add "
    "`?invert=true` for dark ink on light paper. With `?reconstruct=true`, a model that learned without labels first "
    "also gives back what it made out, in the shape and units of a row.",
)
_MODEL = _operation("Models", "A model's inputs, outputs and loaded versions", answer=_OBJECT, errors=(404,))
_MODEL_READY = _operation("Health", "Whether a model is loaded and ready", answer=_OBJECT, errors=(404,))
_CONFIG = _operation("Models", "A model's configuration in Triton's form", answer=_OBJECT, errors=(404,))
_CARD = _operation(
    "Models",
    "A model's card",
    answer=_OBJECT,
    errors=(404,),
    detail="Its manifest (architecture, tensors, classes, data, accuracy and confusion matrix on the held-out rows, "
    "the command that trained it), how many parameters it has, and how it is run here.",
)
_STATS = _operation("Models", "What was counted about a model, in Triton's form", answer=_OBJECT, errors=(404,))

_OPERATIONS: dict[str, dict[str, Any]] = {
    "/v2/health/live": {"get": _operation("Health", "Whether the process runs", answer=_OBJECT)},
    "/v2/health/ready": {
        "get": _operation("Health", "Whether every model is warm and requests are answered", answer=_OBJECT)
    },
    "/v2": {"get": _operation("Models", "Name, version and extensions of the service", answer=_OBJECT)},
    "/v2/models/{model}": {"get": _MODEL},
    "/v2/models/{model}/versions/{version}": {"get": _MODEL},
    "/v2/models/{model}/ready": {"get": _MODEL_READY},
    "/v2/models/{model}/versions/{version}/ready": {"get": _MODEL_READY},
    "/v2/models/{model}/infer": {"post": _INFER},
    "/v2/models/{model}/versions/{version}/infer": {"post": _INFER},
    "/predict/{model}": {"post": _PREDICT},
    "/predict/{model}/versions/{version}": {"post": _PREDICT},
    "/v2/models/{model}/config": {"get": _CONFIG},
    "/v2/models/{model}/versions/{version}/config": {"get": _CONFIG},
    "/models": {"get": _operation("Models", "The loaded models and their versions", answer=_OBJECT)},
    "/models/{model}/card": {"get": _CARD},
    "/models/{model}/versions/{version}/card": {"get": _CARD},
    "/v2/models/stats": {"get": _operation("Models", "What was counted about every loaded model", answer=_OBJECT)},
    "/v2/models/{model}/stats": {"get": _STATS},
    "/v2/models/{model}/versions/{version}/stats": {"get": _STATS},
    "/v2/repository/index": {
        "post": _operation(
            "Repository",
            "Every model version in the repository and its state",
            body=_json({"type": "object", "properties": {"ready": {"type": "boolean"}}}),
            required=False,
            answer=_json(_ref("RepositoryIndex")),
            errors=(400, 503),
        )
    },
    "/v2/repository/models/{model}/load": {
        "post": _operation(
            "Repository",
            "Load a model's newest version in place of the loaded one",
            body=_OBJECT,
            required=False,
            answer=_OBJECT,
            errors=(400, 404, 422, 503),
            detail="The new version takes over when it is warm; what the old one has accepted is answered. "
            'The parameter `config` may hold `{"version_policy": ...}` as a string, as in Triton.',
        )
    },
    "/v2/repository/models/{model}/unload": {
        "post": _operation(
            "Repository",
            "Unload a model; what it has accepted is answered",
            body=_OBJECT,
            required=False,
            answer=_OBJECT,
            errors=(400, 404, 503),
        )
    },
    "/metrics": {
        "get": _operation("Operation", "Metrics for Prometheus", answer={"text/plain": {"schema": {"type": "string"}}})
    },
    "/openapi.json": {"get": _operation("Operation", "This document", answer=_OBJECT)},
    "/docs": {
        "get": _operation("Operation", "This document as a page", answer={"text/html": {"schema": {"type": "string"}}})
    },
    "/": {
        "get": _operation(
            "Operation",
            "A page to draw on, and to watch the service with",
            answer={"text/html": {"schema": {"type": "string"}}},
        )
    },
    "/page/{file}": {
        "get": _operation(
            "Operation",
            "A file that the page loads",
            answer={kind: {"schema": {"type": "string"}} for kind in ("text/css", "text/javascript", "image/svg+xml")},
            errors=(404,),
        )
    },
}

_PARAMETERS: dict[str, Any] = {
    "{model}": {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}},
    "{file}": {"name": "file", "in": "path", "required": True, "schema": {"type": "string"}},
    "{version}": {"name": "version", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 1}},
}
_QUERY = [
    {"name": name, "in": "query", "schema": {"type": "boolean", "default": False}} for name in ("invert", "reconstruct")
]


_NEEDS = {
    "read": "Needs an API key; any will do.",
    "infer": "Needs an API key with the scope `infer`.",
    "admin": "Needs an API key with the scope `admin`.",
}


def _guarded(path: str, operation: dict[str, Any]) -> dict[str, Any]:
    """An operation of a service that asks for keys: what it needs, and what it answers without."""
    access = entry(path).access
    if access == "open":
        return {**operation, "security": []}
    refused = {str(status): {"description": _REASONS[status], "content": _json(_ref("Error"))} for status in (401, 403)}
    limited = {"429": {"description": _USED_UP, "content": _json(_ref("Error"))}}
    needs = f"{operation['description']} {_NEEDS[access]}" if "description" in operation else _NEEDS[access]
    return {**operation, "description": needs, "responses": {**limited, **operation["responses"], **refused}}


def document(*, keys: bool = False) -> dict[str, Any]:
    """The whole document; ``keys``: of a service that asks for API keys."""
    paths: dict[str, Any] = {}
    for path, operations in _OPERATIONS.items():
        parameters = [parameter for key, parameter in _PARAMETERS.items() if key in path]
        if path.startswith("/predict"):
            parameters += _QUERY
        described = {verb: _guarded(path, each) if keys else each for verb, each in operations.items()}
        paths[path] = {**({"parameters": parameters} if parameters else {}), **described}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dlenv",
            "version": __version__,
            "summary": "Classifiers over HTTP: Open Inference Protocol v2 with Triton's extensions.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": _SCHEMAS, **({"securitySchemes": {"key": _SCHEME}} if keys else {})},
        **({"security": [{"key": []}]} if keys else {}),
    }
